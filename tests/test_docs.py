"""Every Python example of docs/ and of public docstrings runs as printed; the blocks of a page run in order."""

import doctest
import importlib
import importlib.util
import itertools
import re
import shlex
from pathlib import Path

import pytest

import jaxfair
from experiments import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))
ALL_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLE = re.compile(r"^```python\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
WITH_EXAMPLES = [page for page in PAGES if "```python" in page.read_text(encoding="utf-8")]
OPTIONAL = ("equinox",)  # a block that imports one of these is left out where it is not installed


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=lambda page: page.name)
def test_the_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "example"}
    text, left_out = page.read_text(encoding="utf-8"), []
    examples = list(EXAMPLE.finditer(text))
    assert len(examples) == text.count("```python"), "an example that is not found would not be run"
    for match in examples:
        missing = [name for name in OPTIONAL if f"import {name}" in match[1] and not importlib.util.find_spec(name)]
        if missing:
            left_out += missing
            continue
        # Blank lines in front, so that a traceback names the page's own line.
        block = "\n" * text[: match.start(1)].count("\n") + match[1]
        exec(compile(block, str(page), "exec"), names)
    if left_out:
        pytest.skip(f"{page.name} ran, but for the {', '.join(left_out)} example: not installed")


def test_links_lead_somewhere() -> None:
    """Links within the repository name files that exist."""
    for page in ALL_PAGES:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings: words in lower case, with hyphens between them."""
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in found}


def test_anchors_lead_to_headings() -> None:
    for page in ALL_PAGES:
        for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
            there = page.parent / target if target else page
            assert anchor in headings(there), f"{page.name} links to {target}#{anchor}"


@pytest.mark.parametrize("name", jaxfair.__all__)
def test_the_examples_of_public_names_run(name: str) -> None:
    """Every public name has an example in its docstring, which prints what stands there."""
    found = doctest.DocTestFinder(recurse=False).find(getattr(jaxfair, name), name, globs={})
    assert found[0].examples, f"{name} has no example"
    assert doctest.DocTestRunner().run(found[0]).failed == 0


WITH_EXAMPLES = [path for path in sorted((ROOT / "jaxfair").rglob("*.py")) if ">>> " in path.read_text("utf-8")]


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_of_other_names_run(path: Path) -> None:
    """Of what is imported from its module."""
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for found in doctest.DocTestFinder().find(module, globs={}):
        if found.name.removeprefix(f"{module.__name__}.").partition(".")[0] not in jaxfair.__all__:
            assert doctest.DocTestRunner().run(found).failed == 0, found.name


class Accepted(Exception):
    """Raised where the work would begin."""


STUDY = re.compile(r"python -m experiments\.(linearization|hardware|compression) (--[^\n`]*)")


def test_the_commands_of_studies_are_accepted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Also those of published pages: their options exist, and each decides something."""

    def accept() -> None:
        raise Accepted

    monkeypatch.setattr(cli, "_import", accept)
    pages = [(page.name, page.read_text(encoding="utf-8").replace("\\\n", " ")) for page in ALL_PAGES]
    found = {(name, *match) for name, text in pages for match in STUDY.findall(text) if "$" not in match[1]}
    assert len(found) > 30
    for name, study, words in found:
        words = words.replace("~/", "/home/")  # as a shell does
        words = words.rstrip('" ') if words.count('"') % 2 else words
        given = [*itertools.takewhile(lambda word: word not in (">", "&"), shlex.split(words, comments=True))]
        with pytest.raises(Accepted):
            print(name, importlib.import_module(f"experiments.{study}.__main__").main(given))
    assert capsys.readouterr().err == ""
