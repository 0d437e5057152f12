"""What a page is made of: plain values that the template draws and a test can read.

Every text is escaped by the template. `drawing` and the texts of a `Plot` alone are SVG, drawn by `kdedge.report.drawings` and
`kdedge.report.plots` from numbers and escaped names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar


@dataclass(frozen=True)
class TableCell:
    """One field of a table. `note` is small print under the text; `kind` is how it looks (`mono`, `prose`), `badge` the outcome that it shows
    (pass, fail, inconclusive, not-run, ...); `drawing` stands after the text; `span` is how many columns it takes."""

    text: str
    note: str = ""
    kind: str = ""
    badge: str = ""
    drawing: str = ""
    span: int = 1


@dataclass(frozen=True)
class Table:
    """Headings and rows; the first field of a row names it. `groups` are headings above the headings: (text, number of columns).
    On a narrow screen every row becomes a card, with the headings as labels."""

    head: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    groups: tuple[tuple[str, int], ...] = ()
    draws: ClassVar[str] = "table"


@dataclass(frozen=True)
class Folded:
    """A table behind a line that opens it: for those who look closely."""

    title: str
    table: Table
    draws: ClassVar[str] = "folded"


@dataclass(frozen=True)
class Tile:
    """A figure that stands out: what it is, its value, its interval, and what to know about it."""

    label: str
    value: str
    interval: str = ""
    note: str = ""


@dataclass(frozen=True)
class Card:
    """What was decided about one thing: its title and outcome, a headline, its figures, and sentences."""

    title: str
    outcome: str
    headline: str
    tiles: tuple[Tile, ...] = ()
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cards:
    """Cards side by side."""

    cards: tuple[Card, ...]
    draws: ClassVar[str] = "cards"


@dataclass(frozen=True)
class Plot:
    """A plot drawn twice, for a wide and for a narrow screen, as SVG; `name` is what it shows, for people who do not see it."""

    name: str
    wide: str
    narrow: str
    caption: str
    draws: ClassVar[str] = "plot"


@dataclass(frozen=True)
class Facts:
    """Names and values; a value may have several lines."""

    items: tuple[tuple[str, tuple[str, ...]], ...]
    title: str = ""
    kind: str = ""
    draws: ClassVar[str] = "facts"


@dataclass(frozen=True)
class Prose:
    """Paragraphs."""

    lines: tuple[str, ...]
    draws: ClassVar[str] = "prose"


@dataclass(frozen=True)
class Bullets:
    """Sentences, or short names in a row (`kind` "chips")."""

    lines: tuple[str, ...]
    kind: str = ""
    draws: ClassVar[str] = "bullets"


@dataclass(frozen=True)
class Commands:
    """Lines for a terminal."""

    lines: tuple[str, ...]
    draws: ClassVar[str] = "commands"


Block = Table | Folded | Cards | Plot | Facts | Prose | Bullets | Commands


@dataclass(frozen=True)
class Section:
    """A part of the page: its anchor, its title, one sentence that says how to read it, and what it shows."""

    anchor: str
    title: str
    lead: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    outcome: str
    headline: str
    tiles: tuple[Tile, ...]
    sections: tuple[Section, ...] = field(default_factory=tuple)
