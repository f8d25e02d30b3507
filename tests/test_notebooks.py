"""Every notebook runs from a clean kernel, and is stored as such a run left it."""

import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
# A path from a root or a drive; neither part of a URL nor of a relative path.
ABSOLUTE = re.compile(r"(?<![\w.:/<)\]-])/[\w.-]+/|~/\w|\b[A-Za-z]:\\")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@each_notebook
def test_runs_from_a_clean_kernel(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="executing notebooks needs nbclient (the notebooks extra)")
    pytest.importorskip("ipykernel", reason="executing notebooks needs ipykernel (the notebooks extra)")
    import nbformat  # comes with nbclient

    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # raises at the first error


@each_notebook
def test_is_stored_as_one_run_left_it(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for output in outputs:
        assert output["output_type"] != "error"
        assert output.get("name") != "stderr"


@each_notebook
def test_holds_no_absolute_path(path: Path) -> None:
    for number, cell in enumerate(json.loads(path.read_text(encoding="utf-8"))["cells"]):
        texts = ["".join(cell["source"]), json.dumps(cell["metadata"])]
        for output in cell.get("outputs", []):
            texts.append("".join(output.get("text", [])))
            data = output.get("data", {}).items()
            texts += ["".join(value) for kind, value in data if kind.startswith("text/")]
        for text in texts:
            assert (found := ABSOLUTE.search(text)) is None, f"cell {number}: {found}"


@pytest.mark.parametrize("text", ["/home/me/data", "see '/tmp/x/y'", "C:\\data", "~/data", "in (/usr/lib/x)"])
def test_absolute_paths_are_recognised(text: str) -> None:
    assert ABSOLUTE.search(text)


@pytest.mark.parametrize("text", ["https://example.org/a/b", "docs/page.md", "1/2/3", "a / b", "<b>x</b>"])
def test_other_slashes_are_not(text: str) -> None:
    assert not ABSOLUTE.search(text)
