"""A report's page: HTML that opens offline, with the figures inside. Every function returns a part of one."""

import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from experiments.reporting import tables, verdicts
from experiments.reporting.drawing import Drawn
from experiments.reporting.tables import Column, Row, Table
from experiments.reporting.verdicts import Claim
from jaxfair.words import in_order

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
body { overflow-wrap: break-word; } h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.2rem; margin-top: 2.2rem; } .answer { font-size: 1.15rem; font-weight: 600; max-width: 60rem; }
p, dl, figcaption { max-width: 60rem; } summary { cursor: pointer; margin: .4rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92em; }
th, td { padding: .2rem .55rem; text-align: right; vertical-align: top; border-bottom: 1px solid #e4e4e4; }
th { vertical-align: bottom; min-width: 4.2em; max-width: 9em; hyphens: auto; } td { white-space: nowrap; }
th:first-child, td:first-child, .word { text-align: left; white-space: normal; min-width: 6em; }
/* Whose numbers they are is seen wherever a wide table is scrolled to. */
table:not(.text) :is(th, td):first-child { position: sticky; left: 0; background: #fff; max-width: min(16em, 40vw); }
small, .interval, .text td:last-child { color: #707070; font-size: .85em; } .interval { display: block; }
.text th, .text td { white-space: normal; text-align: left; max-width: none; }
.text td:first-child { min-width: 16em; } .text td:last-child { min-width: 12em; }
/* What is wider than the screen scrolls; a shadow at the side says that there is more, and goes at the end. */
.scroll { overflow-x: auto; background: linear-gradient(to right, #fff 40%, #fff0) 0 0, linear-gradient(to left, #fff
  40%, #fff0) 100% 0, linear-gradient(to right, #0005, #0000) 0 0, linear-gradient(to left, #0005, #0000) 100% 0;
  background-repeat: no-repeat; background-size: 2.5rem 100%, 2.5rem 100%, .9rem 100%, .9rem 100%;
  background-attachment: local, local, scroll, scroll; }
figure { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; mix-blend-mode: multiply; }
@media (max-width: 50rem) { body { margin: 1rem auto; } figure svg { max-width: none; } }
figcaption { color: #444; } pre { background: #f6f6f6; padding: .8rem; font-size: .8rem; white-space: pre-wrap; }
pre { overflow-wrap: anywhere; } dt { font-weight: 600; } dd { margin: 0 0 .5rem 1.2rem; } .warning { color: #a33; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """Return a whole page that loads nothing.

    Args:
        title: of the page, and its first heading.
        parts: from the functions below.
    """
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f"{meta}<title>{escaped(title)}</title><style>{STYLE}</style>"
    body = "".join([f"<h1>{escaped(title)}</h1>", *parts])
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def escaped(text: str) -> str:
    """Return a text in which HTML finds no tag, and which is read in order (``words.in_order``)."""
    return escape(in_order(text))


def heading(text: str) -> str:
    """Return the heading of a section."""
    return f"<h2>{escaped(text)}</h2>"


def paragraph(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{escaped(text)}</p>"


def answer(text: str) -> str:
    """Return the paragraph that says what a reader came for, and those after it, if a blank line parts them."""
    first, *more = text.split("\n\n")
    return "".join([f'<p class="answer">{escaped(first)}</p>', *map(paragraph, more)])


def warning(text: str) -> str:
    """Return a paragraph that a reader must not miss."""
    return f'<p class="warning">{escaped(text)}</p>'


def folded(summary: str, *parts: str, opened: bool = False) -> str:
    """Return parts of which a reader first sees a summary."""
    return f"<details{' open' * opened}><summary>{escaped(summary)}</summary>{''.join(parts)}</details>"


def table(of: Table, *, prose: bool = False) -> str:
    """Return a table without its empty columns; ``prose`` lets the lines of its cells break."""
    columns = [column for column in of.columns if any(tables.pieces(row, column)[0] for row in of.rows)]
    classes = [' class="word"' * (i > 0 and _is_of_words(of.rows, column)) for i, column in enumerate(columns)]
    head = "".join(f"<th{of}>{escaped(column.title)}</th>" for column, of in zip(columns, classes, strict=True))
    cells = [[_cell(row, column, of) for column, of in zip(columns, classes, strict=True)] for row in of.rows]
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in cells)
    opening = '<table class="text">' if prose else "<table>"
    return f'<div class="scroll">{opening}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _is_of_words(rows: Iterable[Row], column: Column) -> bool:
    """Return whether a column holds names or words, which are read from the left; numbers are compared by their ends.

    A name may begin with a digit, as that of a group "65 and older".
    """
    if column.name in tables.NAMES:
        return True
    found = [value for row in rows if (value := row[column.name]) not in ("", None)]
    return bool(found) and all(isinstance(value, str) and value[:1].isalpha() for value in found)


def _cell(row: Row, column: Column, of: str = "") -> str:
    value, interval = map(escaped, tables.pieces(row, column))
    value += f' <span class="interval">{interval}</span>' if interval else ""
    return f"<td{of}>{value}{f'<br><small>{escaped(row[column.under])}</small>' if column.under else ''}</td>"


def findings(found: Iterable[Claim]) -> str:
    """Return what intervals and p-values are, the table of a study's findings, and folded those without data."""
    decided, lacking = verdicts.parted(found)
    parts = [paragraph(verdicts.FOOT)]
    if decided:
        parts.append(table(verdicts.table(decided), prose=True))
    if lacking:
        parts.append(folded(verdicts.without_data("finding", lacking), table(verdicts.table(lacking), prose=True)))
    return "".join(parts)


def figures(drawn: Iterable[Drawn]) -> str:
    """Return figures with their captions, and folded why others cannot be drawn."""
    every = [*drawn]
    parts = [figure(of) for of in every if of.file is not None]
    if missing := [of for of in every if of.file is None]:
        parts.append(folded(verdicts.without_data("figure", missing), *map(figure, missing)))
    return "".join(parts)


def figure(drawn: Drawn) -> str:
    """Return a figure with its caption, or why it cannot be drawn."""
    if drawn.file is None:
        return paragraph(f"{drawn.title} ({drawn.name}) cannot be drawn: {drawn.reason}")
    svg = drawn.file.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]  # the XML prologue of a stand-alone file has no place inside a page
    return f'<figure><div class="scroll">{svg}</div><figcaption>{escaped(drawn.caption)}</figcaption></figure>'


def meanings(terms: Mapping[str, str], shown: Iterable[str]) -> str:
    """Return a section that says what each number means, of those that stand on a page.

    Args:
        terms: by what a number is called on the page; several names have a comma or a semicolon between them.
        shown: the parts of the page.
    """
    text = "".join(shown).lower()
    stand = {term: said for term, said in terms.items() if any(_stands(name, text) for name in re.split("[,;] ", term))}
    listed = "".join(f"<dt>{escaped(term)}</dt><dd>{escaped(said)}</dd>" for term, said in stand.items())
    return f"{heading('What each number means')}<dl>{listed}</dl>"


def _stands(name: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(escaped(name).lower())}s?(?!\w)", text) is not None


def provenance(facts: Mapping[str, Any]) -> str:
    """Return a section that says how the runs were made, from values that JSON can hold."""
    said = paragraph("Each run's folder holds its whole configuration.")
    told = folded("Command, versions, devices and settings", f"<pre>{escaped(json.dumps(facts, indent=1))}</pre>")
    return f"{heading('How this was made')}{said}{told}"
