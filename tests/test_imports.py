"""The house's order: a room imports only rooms below it, and importing jaxfair loads nothing heavy."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Bottom first: a file imports from its own wing and from the rows above it in this table.
HOUSE = (
    ("jaxfair.errors", "jaxfair.words"),
    ("jaxfair.options", "jaxfair.inputs", "jaxfair.intervals", "jaxfair.kernels", "jaxfair.threads"),
    ("jaxfair.labels",),
    ("jaxfair.grouping", "jaxfair.models", "jaxfair.judging"),
    ("jaxfair.losses", "jaxfair.groups", "jaxfair.checkpoints", "jaxfair.runs"),
    (
        "jaxfair.loops",
        "jaxfair.curvature.captured",
        "jaxfair.curvature.chunks",
        "jaxfair.curvature.rules",
        "jaxfair.processes",
    ),
    ("jaxfair.curvature.programs",),
    ("jaxfair.margins",),
    ("jaxfair.curvature", "jaxfair.data"),
    ("jaxfair.networks", "jaxfair.bounds"),
    ("jaxfair.sensitivity", "jaxfair.hardware", "jaxfair.training"),
    ("jaxfair.taylor", "jaxfair.answers"),
    ("jaxfair.paired",),
    ("jaxfair.compress", "jaxfair.change"),
    ("jaxfair.linearize",),
    ("jaxfair",),
    ("experiments.running", "experiments.cli"),
    ("experiments.reporting",),
    ("experiments.analyses",),
    (
        "experiments.linearization",
        "experiments.compression",
        "experiments.hardware",
        "experiments.toy",
        "experiments.change",
        "experiments.data",
        "experiments.status",
        "experiments.private",
    ),  # no study another
)
LEVEL = {room: level for level, rooms in enumerate(HOUSE) for room in rooms}
# Slow to import, or needed by few: a function that needs one imports it itself.
HEAVY = ("matplotlib", "torch", "pandas", "sklearn", "tensorflow", "tensorflow_datasets", "orbax", "tyro", "pyarrow")

PROGRAMS = [
    ("benchmarks.accelerator", [[]]),
    ("experiments.change.__main__", [[]]),
    ("experiments.compression.__main__", [[]]),
    ("experiments.data.__main__", [["describe"], ["prepare"]]),
    ("experiments.hardware.__main__", [[], ["pack"], ["merge"]]),
    ("experiments.hardware.child", [["cpu"]]),
    ("experiments.linearization.__main__", [[]]),
    ("experiments.linearization.across", [[]]),
    ("experiments.linearization.foretold", [[]]),
    ("experiments.private.__main__", [[], ["setup"]]),
    ("experiments.reporting.publish", [[]]),
    ("experiments.status", [[], ["retry"], ["clean"]]),
    ("experiments.toy.__main__", [[], ["boundary"], ["pieces"]]),
]
"""Programs and the words that choose their commands."""
SLOW_TO_START = {"jax", "flax", "optax", "orbax", "matplotlib", "scipy", "tensorflow"}


def room_of(dotted: str) -> str:
    """Return the room of HOUSE that a module or a name in it belongs to."""
    return next((r for r in sorted(LEVEL, key=len, reverse=True) if f"{dotted}.".startswith(f"{r}.")), "")


def imports(path: Path) -> list[str]:
    """Return the dotted names that a file imports anywhere in it."""
    tree = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    found = [n for n in tree if isinstance(n, ast.Import | ast.ImportFrom)]
    return [f"{getattr(n, 'module', None) or ''}.{a.name}".strip(".") for n in found for a in n.names]


def broken(name: str, imported: list[str]) -> list[str]:
    """Return which imports of the module ``name`` the house does not allow."""
    room = room_of(name)
    return [
        f"{name} imports {other}"
        for other in imported
        if other.startswith(("jaxfair", "experiments", "benchmarks", "tests")) and room_of(other) != room
        and not (room_of(other) and LEVEL[room_of(other)] < LEVEL[room])
    ]  # fmt: skip


FILES = sorted(path for top in ("jaxfair", "experiments") for path in (ROOT / top).rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_room_imports_only_what_is_below_it(path: Path) -> None:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    found = imports(path)
    assert not broken(name, found)
    text = path.read_text(encoding="utf-8")
    assert "flax.linen" not in found or name == "jaxfair.networks.architectures"
    assert name.startswith("experiments") or not ("config.update" in text or "os.environ[" in text), "entry points do"


def test_a_broken_rule_is_found() -> None:
    assert broken("jaxfair.curvature.lanczos", ["jaxfair.networks.network.init"])
    assert broken("experiments.linearization.page", ["experiments.hardware.page"])
    assert broken("experiments.hardware.claims", ["experiments.linearization.claims"])
    assert not broken("jaxfair.training.fit", ["jaxfair.curvature.lanczos", "jaxfair.training.mitigate", "numpy"])


def test_no_test_file_imports_another() -> None:
    """What several share is a plain module: a test file is imported twice otherwise, and its fixtures made twice."""
    for path in (ROOT / "tests").rglob("*.py"):
        shared = [name for name in imports(path) if name.startswith("tests") and ".test_" in name]
        assert not shared, f"{path.name} imports {shared[0]}; move what they share to a module without tests"


def test_every_program_is_asked_for_its_help() -> None:
    """Whatever in experiments has a command line is in PROGRAMS, and begins with what a signal ends in one sentence."""
    written = [path for path in FILES if " cli.main(" in path.read_text(encoding="utf-8")]
    programs = {name for name, _ in PROGRAMS if name.startswith("experiments.")}
    assert {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in written} == programs
    begun = 'from experiments import cli\n\nif __name__ == "__main__":\n    cli.begin('
    kernels = "from jaxfair.kernels import prefer_onednn\n"  # which needs nothing either
    assert [p.name for p in written if begun not in p.read_text(encoding="utf-8").replace(kernels, "")] == []


def test_help_needs_no_jax() -> None:
    """Of each program and its commands, in one process: options are read before what computes is imported."""
    code = f"import importlib, sys\nfor p, w in {PROGRAMS}:\n  main = importlib.import_module(p).main\n"
    code += "  for word in w:\n    try: main([*word, '--help'])\n    except SystemExit: pass\n"
    run = subprocess.run([sys.executable, "-c", f"{code}print(*sys.modules)"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    helped, _, loaded = run.stdout.strip().rpartition("\n")
    assert helped.count("usage: ") == sum(len(words) for _, words in PROGRAMS)
    assert not {name.partition(".")[0] for name in loaded.split()} & SLOW_TO_START


def test_importing_jaxfair_loads_nothing_heavy() -> None:
    """Each public module, in one process; flax itself loads rich."""
    modules = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES if path.parts[-1] != "__init__.py"
    ]
    modules = [m for m in modules if m.startswith("jaxfair") and not m.endswith("_dataset_builder")]
    code = f"import importlib, sys\nfor m in {modules}: importlib.import_module(m)\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {name.partition(".")[0] for name in run.stdout.split()} & set(HEAVY)
