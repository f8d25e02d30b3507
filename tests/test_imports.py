"""The house's order: a room imports only rooms below it, and importing jaxfair loads nothing heavy."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Bottom first. A room imports only rooms of the rows above its own in this table; experiments/ stands on top of all.
ROOMS = (
    ("errors", "krylov", "folding"),
    # know nothing of each other
    (
        *("arithmetic", "masks", "losses", "groups", "lanczos", "runs", "checkpoints", "chunks", "loops"),
        *("columns", "archives", "rows", "images", "store"),
    ),
    ("models", "hardware", "programs", "density", "margins", "data", "files", "layouts"),
    ("operators", "collection", "layouts.find", "prediction", "mitigate"),
    (
        *("curvature", "layouts.arrays", "layouts.celeba", "layouts.cifar10", "layouts.folder", "layouts.prepared"),
        *("layouts.svhn", "layouts.table", "layouts.utkface"),
    ),
    (
        "train",
        "bounds",
        "audit",
        "minibatch",
        "collect",
        "builders.utkface",
        "builders.utkface.utkface_dataset_builder",
    ),
    ("linearize.snl", "linearize.deepreduce", "linearize.senet", "builders", "sensitivity", "trajectory"),
    ("linearize", "sources"),  # linearize: the package's own __init__.py
)
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}

ABOVE = ("experiments", "benchmarks", "tests")
# Slow to import, or needed by few: a function that needs one imports it itself.
HEAVY = ("matplotlib", "torch", "pandas", "sklearn", "tensorflow", "tensorflow_datasets", "orbax", "tyro", "rich")
BUILDER = "_dataset_builder.py"  # a subclass of a class of tfds; only a function that prepares imports it
# flax.linen imports rich itself, so sys.modules cannot tell whether jaxfair does; the sources can.
LOADED_BY_FLAX = {"rich"}

ENVIRON_WRITERS = {f"os.environ.{name}" for name in ("update", "setdefault", "pop", "popitem", "clear", "__setitem__")}
ENVIRON_WRITERS |= {"os.putenv", "os.unsetenv"}


def violations(sources: dict[str, str]) -> list[str]:
    """Return a sentence for each broken rule in ``sources``, a map from a file's path in the repository to its text."""
    found = set()
    for path, text in sources.items():
        tree = ast.parse(text, path)
        imports = list(_imports(ast.walk(tree), path))
        names = {local: bound for _, local, bound, _ in imports}
        used = {(line, dotted) for line, _, _, dotted in imports} | set(_references(tree, names))
        problems = [(line, problem) for line, dotted in used for problem in _forbidden_use(path, dotted)]
        if path.startswith("jaxfair/"):
            if _room_of_file(path) not in {"", *LEVEL}:
                problems.append((1, "is not in ROOMS; add it to the table in tests/test_imports.py, at its level"))
            problems += [(line, "changes or renames os.environ; entry points do") for line in _environ(tree, names)]
            problems += [
                (line, f"imports {dotted} at module level; import it in the function that needs it")
                for line, _, _, dotted in _imports(_run_on_import(tree), path)
                if _within(dotted, *HEAVY) and not path.endswith(BUILDER)
            ]
        found |= {(path, line, problem) for line, problem in problems}
    return [f"{path}:{line}: {problem}" for path, line, problem in sorted(found)]


def _forbidden_use(path: str, dotted: str) -> Iterator[str]:
    """Yield what is wrong with the file at ``path`` using the object ``dotted``."""
    if _within(dotted, "flax.linen") and path != "jaxfair/models.py":
        yield "uses flax.linen; only jaxfair/models.py does"
    if not path.startswith("jaxfair/"):
        return
    if _within(dotted, *ABOVE):
        yield f"uses {dotted}; jaxfair never imports {', '.join(ABOVE)}"
    reads = "jax.config.jax_default_device"  # where the user wants to compute
    if _within(dotted, "jax.config") and path != "jaxfair/hardware.py" and dotted != reads:  # hardware records settings
        yield "touches jax.config; only entry points do"
    room, other = _room_of_file(path), _room_of_name(dotted)
    if _within(dotted, "jaxfair") and room in LEVEL:
        if other not in LEVEL:
            yield f"uses {dotted}, which is in no room of ROOMS"
        elif LEVEL[other] >= LEVEL[room]:
            yield f"uses {other} (level {LEVEL[other]}); {room} (level {LEVEL[room]}) may use only lower levels"


def _within(dotted: str, *packages: str) -> bool:
    return any(dotted == package or dotted.startswith(f"{package}.") for package in packages)


def _room_of_file(path: str) -> str:
    parts = PurePosixPath(path).with_suffix("").parts[1:]
    return ".".join(part for part in parts if part != "__init__")


def _room_of_name(dotted: str) -> str:
    """Return the longest room that ``jaxfair.<room>.<anything>`` names, or the empty string."""
    parts = dotted.split(".")[1:]
    return next((room for end in range(len(parts), 0, -1) if (room := ".".join(parts[:end])) in LEVEL), "")


def _imports(nodes: Iterable[ast.AST], path: str) -> Iterator[tuple[int, str, str, str]]:
    """Yield (line, local name, what that name is bound to, what is imported) of each import among ``nodes``."""
    package = PurePosixPath(path).parent.parts
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                yield node.lineno, alias.asname or top, alias.name if alias.asname else top, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            for alias in node.names:
                dotted = ".".join((*base, *filter(None, (node.module, alias.name))))
                yield node.lineno, alias.asname or alias.name, dotted, dotted
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            for value in (arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)):
                yield node.lineno, "", "", str(value)


def _dotted(node: ast.AST | None, names: dict[str, str]) -> str:
    """Return the full dotted name of a name or attribute that an import bound, or the empty string."""
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Attribute) and (base := _dotted(node.value, names)):
        return f"{base}.{node.attr}"
    return ""


def _references(node: ast.AST, names: dict[str, str]) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every longest attribute chain that starts at an imported name."""
    if isinstance(node, ast.Name | ast.Attribute) and (dotted := _dotted(node, names)):
        yield node.lineno, dotted
    else:
        for child in ast.iter_child_nodes(node):
            yield from _references(child, names)


def _environ(tree: ast.AST, names: dict[str, str]) -> Iterator[int]:
    """Yield the lines that change ``os.environ`` or give it a second name, under which it could be changed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            changed = _dotted(node.func, names) in ENVIRON_WRITERS
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr):
            changed = _dotted(node.value, names) == "os.environ"
        elif isinstance(node, ast.Subscript | ast.Attribute | ast.Name) and not isinstance(node.ctx, ast.Load):
            target = node.value if isinstance(node, ast.Subscript) else node
            changed = _dotted(target, names) == "os.environ"
        else:
            continue
        if changed:
            yield node.lineno


def _run_on_import(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes that run when the module is imported: no function bodies, nothing for type checkers only."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            child = ast.Module(child.orelse, [])
        yield child
        yield from _run_on_import(child)


def _sources() -> dict[str, str]:
    files = [file for top in ("jaxfair", "experiments") for file in (ROOT / top).rglob("*.py")]
    return {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in files}


def test_rooms_import_only_what_is_below_them():
    """The sources of jaxfair and experiments break no rule."""
    sources = _sources()
    assert "jaxfair/models.py" in sources
    assert not violations(sources), "\n".join(violations(sources))


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("masks.py", "from jaxfair.losses import cross_entropy", "losses (level 1); masks (level 1)"),
        ("masks.py", "import jaxfair.losses as losses", "losses (level 1); masks (level 1)"),
        ("masks.py", "from . import losses", "losses (level 1); masks (level 1)"),
        ("masks.py", "def f():\n    from jaxfair import train", "masks.py:2: uses train (level 5)"),
        ("masks.py", "import importlib\nimportlib.import_module('jaxfair.train')", "masks.py:2: uses train (level 5)"),
        ("errors.py", "from jaxfair import masks", "masks (level 1); errors (level 0)"),
        ("models.py", "import jaxfair.masks\njaxfair.curvature.hvp()", "models.py:2: uses curvature (level 4)"),
        ("train.py", "from jaxfair.bounds import taylor", "bounds (level 5); train (level 5)"),
        ("train.py", "from jaxfair.linearize import snl", "linearize.snl (level 6); train (level 5)"),
        ("train.py", "import jaxfair", "uses jaxfair, which is in no room"),
        ("linearize/snl.py", "from . import senet", "linearize.senet (level 6); linearize.snl (level 6)"),
        ("linearize/snl.py", "from ..linearize.senet import fit", "linearize.senet (level 6)"),
        ("linearize/snl.py", "from jaxfair.linearize import helper", "linearize (level 7)"),
        ("attic.py", "", "add it to the table"),
        ("train.py", "from jaxfair.attic import old", "jaxfair.attic.old, which is in no room"),
        ("__init__.py", "from experiments.stages import train", "jaxfair never imports experiments"),
        ("runs.py", "import benchmarks.measure", "jaxfair never imports experiments, benchmarks"),
        ("runs.py", "from tests import cases", "jaxfair never imports experiments, benchmarks, tests"),
        ("train.py", "from flax import linen as nn", "uses flax.linen"),
        ("train.py", "import flax\nflax.linen.relu(0)", "train.py:2: uses flax.linen"),
        ("train.py", "import jax\njax.config.update('jax_enable_x64', True)", "touches jax.config"),
        ("train.py", "from jax import config", "touches jax.config"),
        ("hardware.py", "import os\nos.environ['NPROC'] = '1'", "hardware.py:2: changes or renames os.environ"),
        ("hardware.py", "import os\ndel os.environ['NPROC']", "changes or renames os.environ"),
        ("hardware.py", "import os\nos.environ |= {'NPROC': '1'}", "changes or renames os.environ"),
        ("hardware.py", "from os import environ as e\ne.setdefault('NPROC', '1')", "changes or renames os.environ"),
        ("hardware.py", "import os\nenv = os.environ\nenv['NPROC'] = '1'", "hardware.py:2: changes or renames"),
        ("hardware.py", "import os\nos.putenv('NPROC', '1')", "changes or renames os.environ"),
        ("train.py", "import orbax.checkpoint as ocp", "imports orbax.checkpoint at module level"),
        ("train.py", "try:\n    from rich import print\nexcept ImportError:\n    pass", "imports rich.print at module"),
    ],
)
def test_checker_finds_a_broken_rule(path: str, text: str, expected: str):
    """Each made-up file breaks exactly one rule, and the sentence names it."""
    (found,) = violations({f"jaxfair/{path}": text})
    assert found.startswith(f"jaxfair/{path}:")
    assert expected in found


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("jaxfair/__init__.py", "from jaxfair.linearize import snl\nfrom jaxfair import errors, train"),
        ("jaxfair/linearize/__init__.py", "from . import senet, snl"),
        ("jaxfair/linearize/snl.py", "from .. import masks\nfrom jaxfair.train import fit"),
        ("jaxfair/masks.py", "import jaxfair.errors\nraise jaxfair.errors.JaxfairError"),
        ("jaxfair/chunks.py", "import jax\njax.config.jax_default_device"),
        ("jaxfair/models.py", "import flax.linen as nn\nfrom jaxfair import arithmetic, masks\nnn.Conv, masks.full"),
        ("jaxfair/train.py", "def save():\n    import orbax.checkpoint as ocp\n    return ocp"),
        ("jaxfair/train.py", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import orbax.checkpoint"),
        ("jaxfair/hardware.py", "import os\nchild = {**os.environ, 'NPROC': '1'}\nchild['A'] = os.environ['A']"),
        ("experiments/sweep.py", "import jax, os, tyro\njax.config.update('a', 1)\nos.environ['NPROC'] = '1'"),
    ],
)
def test_checker_accepts_what_the_rules_allow(path: str, text: str):
    """Made-up files that keep the rules are not reported."""
    assert violations({path: text}) == []


_IMPORT_ALL = """
import importlib, json, pkgutil, sys
package = importlib.import_module(sys.argv[1])
modules = [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
modules = [name for name in modules if "._" not in name and not name.endswith("_dataset_builder")]
for name in modules:
    importlib.import_module(name)
print(json.dumps([modules, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def _import_all(package: str, folder: Path) -> tuple[set[str], set[str]]:
    """Import ``package`` and its public modules in a new process; return them and all top-level names loaded."""
    command = [sys.executable, "-c", _IMPORT_ALL, package]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    modules, loaded = json.loads(result.stdout.splitlines()[-1])
    return set(modules), set(loaded)


def test_importing_jaxfair_loads_nothing_heavy():
    """All public modules together leave the heavy packages unloaded."""
    modules, loaded = _import_all("jaxfair", ROOT)
    rooms = {_room_of_file(path) for path in _sources() if path.startswith("jaxfair/")} - {""}
    public = {f"jaxfair.{room}" for room in rooms if not any(part.startswith("_") for part in room.split("."))}
    public = {name for name in public if not f"{name}.py".endswith(BUILDER)}
    assert modules == public, "a module that pkgutil does not find: is an __init__.py missing?"
    assert loaded & set(HEAVY) <= LOADED_BY_FLAX


def test_heavy_import_is_noticed(tmp_path: Path):
    """A made-up package whose room imports a heavy one is caught."""
    for file, text in {"torch.py": "", "mini/__init__.py": "", "mini/room.py": "import torch"}.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text, encoding="utf-8")
    modules, loaded = _import_all("mini", tmp_path)
    assert modules == {"mini.room"}
    assert loaded & set(HEAVY) == {"torch"}
