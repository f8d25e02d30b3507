"""A report's page: HTML that opens offline, with the figures inside. Every function returns a part of one."""

import json
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from experiments.reporting import tables, verdicts
from experiments.reporting.drawing import Drawn
from experiments.reporting.tables import Column, Row, Table
from experiments.reporting.verdicts import Claim

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap; }
th { vertical-align: bottom; white-space: normal; } th:first-child, td:first-child { text-align: left; }
small, .interval, .text td:last-child { color: #707070; font-size: .85em; }
.text th, .text td { white-space: normal; text-align: left; vertical-align: top; }
figure { margin: 1rem 0; } figure svg { max-width: 100%; height: auto; }
figcaption { color: #444; } pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; font-size: .8rem; }
dt { font-weight: 600; } dd { margin: 0 0 .5rem 1.2rem; } .warning { color: #a33; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """Return a whole page that loads nothing.

    Args:
        title: of the page, and its first heading.
        parts: from the functions below.
    """
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    head = f"{meta}<title>{escape(title)}</title><style>{STYLE}</style>"
    body = "".join([f"<h1>{escape(title)}</h1>", *parts])
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'


def heading(text: str) -> str:
    """Return the heading of a section."""
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    """Return a paragraph."""
    return f"<p>{escape(text)}</p>"


def warning(text: str) -> str:
    """Return a paragraph that a reader must not miss."""
    return f'<p class="warning">{escape(text)}</p>'


def folded(summary: str, *parts: str, opened: bool = False) -> str:
    """Return parts of which a reader first sees a summary."""
    return f"<details{' open' * opened}><summary>{escape(summary)}</summary>{''.join(parts)}</details>"


def table(of: Table, *, prose: bool = False) -> str:
    """Return a table; ``prose`` lets the lines of its cells break."""
    head = "".join(f"<th>{escape(column.title)}</th>" for column in of.columns)
    body = "".join(f"<tr>{''.join(_cell(row, column) for column in of.columns)}</tr>" for row in of.rows)
    opening = '<table class="text">' if prose else "<table>"
    return f'<div class="scroll">{opening}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _cell(row: Row, column: Column) -> str:
    value, interval = map(escape, tables.pieces(row, column))
    value += f' <span class="interval">{interval}</span>' if interval else ""
    return f"<td>{value}{f'<br><small>{escape(row[column.under])}</small>' if column.under else ''}</td>"


def findings(found: Iterable[Claim]) -> str:
    """Return the table of a study's findings, and what their intervals are."""
    return table(verdicts.table([*found]), prose=True) + paragraph(verdicts.FOOT)


def figure(drawn: Drawn) -> str:
    """Return a figure with its caption, or why it cannot be drawn."""
    if drawn.file is None:
        name = drawn.title.partition(":")[0]
        return paragraph(f"{name} ({drawn.name}) cannot be drawn: {drawn.reason}")
    svg = drawn.file.read_text(encoding="utf-8")
    svg = svg[svg.index("<svg") :]  # the XML prologue of a stand-alone file has no place inside a page
    return f"<figure>{svg}<figcaption>{escape(drawn.caption)}</figcaption></figure>"


def folded_figure(drawn: Drawn) -> str:
    """Return a figure of which a reader first sees the title, or why it cannot be drawn."""
    return figure(drawn) if drawn.file is None else folded(drawn.title, figure(drawn))


def meanings(terms: Mapping[str, str]) -> str:
    """Return a section that says what each number means."""
    listed = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in terms.items())
    return f"{heading('What each number means')}<dl>{listed}</dl>"


def provenance(facts: Mapping[str, Any]) -> str:
    """Return a section that says how the runs were made, from values that JSON can hold."""
    said = paragraph("Each run's folder holds its whole configuration.")
    return f"{heading('How this was made')}{said}<pre>{escape(json.dumps(facts, indent=1))}</pre>"
