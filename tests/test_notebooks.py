"""Every notebook runs from a clean kernel, and is stored as such a run left it."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from experiments.analyses import results as arrays
from experiments.hardware import bundles
from experiments.hardware import results as hardware_results
from experiments.hardware import tables as hardware_tables
from experiments.reporting import series
from tests.study import command_line, hardware_made_once, made_once

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
LINEARIZATION, HARDWARE = "linearization.ipynb", "hardware.ipynb"
# A path from a root or a drive; neither part of a URL nor of a relative path.
ABSOLUTE = re.compile(r"(?<![\w.:/<)\]-])/[\w.-]+/|~/\w|\b[A-Za-z]:\\")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


@pytest.fixture
def study_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return what makes a study for a notebook that is not the one whose figures are stored."""

    def make(notebook: str) -> Path:
        with command_line(tmp_path_factory.getbasetemp() / "cache"):
            return (hardware_made_once if notebook == HARDWARE else made_once)(tmp_path_factory.getbasetemp())

    return make


def execute(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, study: Path, last: int | None = None) -> Any:
    """Return a notebook as a clean kernel in an empty folder leaves it, its cells up to ``last`` run on ``study``."""
    nbclient = pytest.importorskip("nbclient", reason="executing notebooks needs nbclient (the notebooks extra)")
    pytest.importorskip("ipykernel", reason="executing notebooks needs ipykernel (the notebooks extra)")
    import nbformat  # comes with nbclient

    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.setenv("JAXFAIR_STUDY", str(study))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    notebook.cells = notebook.cells[:last]
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
    client.execute()  # raises at the first error
    return notebook


def outputs(cells: Iterable[Any]) -> list[Any]:
    """Return all that cells put out."""
    return [output for cell in cells for output in cell.get("outputs", [])]


def texts(cells: Iterable[Any]) -> list[str]:
    """Return all text that cells put out."""
    found = []
    for output in outputs(cells):
        data = output.get("data", {}).items()
        found += ["".join(output.get("text", []))]
        found += ["".join(value) for kind, value in data if kind.startswith("text/")]
    return found


def kinds(cells: Iterable[Any]) -> list[list[str]]:
    """Return the media types and streams that each cell put out."""
    return [
        sorted({k for output in outputs([cell]) for k in output.get("data", [output.get("name")])}) for cell in cells
    ]


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS
    assert {LINEARIZATION, HARDWARE} <= {path.name for path in NOTEBOOKS}


@each_notebook
def test_runs_from_a_clean_kernel(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, study_of: Callable[[str], Path]
) -> None:
    study = study_of(path.name)
    stored = json.loads(path.read_text(encoding="utf-8"))["cells"]
    made = execute(path, tmp_path, monkeypatch, study).cells
    assert kinds(made) == kinds(stored)
    if path.name == LINEARIZATION:
        results = arrays.collect(arrays.read(study))
        (tightest,) = {v.label for v in results.variants if v.method == "snl"}
        assert not any(tightest in text for text in texts(stored))
        for name in (*(variant.label for variant in results.variants), f"drop, {tightest}"):
            assert any(name in text for text in texts(made)), name
    if path.name == HARDWARE:
        rows = hardware_tables.group_rows(hardware_results.collect(bundles.read(study)))
        own = [f"| {series.text(row['delta_emulated'])} |" for row in rows if row["training"] == "plain"]
        assert not any(cell in text for text in texts(stored) for cell in own)
        for cell in own:
            assert any(cell in text for text in texts(made)), cell


@pytest.mark.parametrize(
    ("notebook", "said"),
    [
        (LINEARIZATION, "'none' holds no finished study; run `make quickstart`"),
        (HARDWARE, "'none' holds no finished hardware study; run `python -m experiments.hardware"),
    ],
)
def test_a_missing_study_is_one_sentence(
    notebook: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = (path for path in NOTEBOOKS if path.name == notebook)
    with pytest.raises(Exception, match=said):
        execute(path, tmp_path, monkeypatch, Path("none"), last=2)


@each_notebook
def test_is_stored_as_one_run_left_it(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert any("image/png" in output.get("data", {}) for output in outputs(cells))
    for output in outputs(cells):
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr"


@each_notebook
def test_holds_no_absolute_path(path: Path) -> None:
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        for text in ("".join(cell["source"]), json.dumps(cell["metadata"]), *texts([cell])):
            assert (found := ABSOLUTE.search(text)) is None, f"cell {number}: {found}"


@pytest.mark.parametrize("text", ["/home/me/data", "see '/tmp/x/y'", "C:\\data", "~/data", "in (/usr/lib/x)"])
def test_absolute_paths_are_recognised(text: str) -> None:
    assert ABSOLUTE.search(text)


@pytest.mark.parametrize("text", ["https://example.org/a/b", "docs/page.md", "1/2/3", "a / b", "<b>x</b>"])
def test_other_slashes_are_not(text: str) -> None:
    assert not ABSOLUTE.search(text)
