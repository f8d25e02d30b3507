"""A report's page, parsed. Not a test itself."""

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "hr", "link", "input"}
LOADING = {"src", "href", "xlink:href", "srcset", "data", "poster", "action", "background"}


class Page(HTMLParser):
    """Collects what a page shows and loads; its tags are balanced, and what it explains stands elsewhere on it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.loads: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.shown, self.terms = "", list[str]()
        self.feed(text)
        self.close()
        assert self.open == []
        for term in self.terms:
            assert any(name.lower() in self.shown.lower() for name in re.split("[,;] ", term)), term

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.loads += [value or "" for name, value in attrs if name in LOADING]
        self.loads += [url for _, value in attrs for url in re.findall(r"url\(([^)]*)\)", value or "")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.loads += re.findall(r"@import|url\([^)]*\)", data)
        elif self.open and self.open[-1] == "dt":
            self.terms.append(data)
        elif "dl" not in self.open:
            self.shown += data
        if "svg" not in self.open and "style" not in self.open:
            self.text += data
            if "td" in self.open or "th" in self.open:
                self.rows[-1][-1] += data
