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
    """The name that the processor gives itself, and on x86 its family and model: virtual ones of very different speed share a name."""
    name = _said_of_cpu("model name") or platform.processor() or platform.machine()
    family, model = _said_of_cpu("cpu family"), _said_of_cpu("model")
    return f"{name} (family {family}, model {model})" if family and model else name


def saturates(flags: str | None = None) -> bool:
    """Whether integer kernels here add two products of 8 bits in 16, which is too few: an x86 CPU that tells its `flags`, among them no VNNI."""
    known = (_said_of_cpu("flags") if flags is None else flags).split()
    return bool(known) and not {"avx512_vnni", "avx_vnni"}.intersection(known)


def integer_kernels() -> str:
    """What multiplies integers here, in words."""
    if saturates():
        return "without VNNI (two 8-bit products are added in 16 bits, which saturates where weights have 8 bits)"
    vnni = {"avx512_vnni", "avx_vnni"}.intersection(_said_of_cpu("flags").split())
    return f"with {', '.join(sorted(vnni))}" if vnni else f"of {platform.machine()}"


def _said_of_cpu(field: str) -> str:
    """A line of /proc/cpuinfo about the first core, "" where there is none."""
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == field), "")
