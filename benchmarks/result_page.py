"""What benchmarks share that write a table into a page of docs/: the place between two markers, and the processor that it was measured on."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path


def write_between(page: Path, name: str, lines: Sequence[str]) -> None:
    """Put `lines` between `<!-- NAME: begin -->` and `<!-- NAME: end -->` of a page, in place of what stands there.

    Raises:
        SystemExit: the page has lost its markers.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, opened, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise SystemExit(f"{page} has lost its markers {begin} and {end}; the table is printed above")
    page.write_text(f"{before}{begin}\n" + "\n".join(lines) + f"\n{end}{after}", encoding="utf-8")
    print(f"written into {page.parent.name}/{page.name}")


def processor() -> str:
    """The name that the processor gives itself."""
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor() or platform.machine())
