"""What a page is made of: plain values that the template draws and a test can read."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class TableCell:
    """One field of a table; `note` is small print under it, `kind` its class (pass, fail, inconclusive, text)."""

    text: str
    note: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """Headings and rows."""

    head: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]


@dataclass(frozen=True)
class Section:
    """A part of the page. `plot` is SVG that kdedge drew itself; everything else is escaped by the template."""

    title: str
    text: tuple[str, ...] = ()
    table: Table | None = None
    plot: str = ""
    caption: str = ""
    facts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    verdict: str
    summary: tuple[str, ...]
    reasons: tuple[str, ...] = ()
    sections: tuple[Section, ...] = field(default_factory=tuple)
