"""How figures and names are written for people where `str(estimate)` is not enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdedge.artifact import Artifact
from kdedge.estimate import Estimate
from kdedge.measured import Cell


def interval(estimate: Estimate | None) -> str:
    """A figure with its interval on one line, or a dash where it was not measured."""
    return str(estimate) if estimate else "-"


def split(estimate: Estimate | None) -> tuple[str, str]:
    """The value, and the interval apart: ("97.2 %", "[94.9, 98.5]")."""
    if estimate is None:
        return "-", ""
    text = str(estimate)
    for opening in ("[", "("):
        value, found, rest = text.partition(f" {opening}")
        if found:
            return value, f"{opening}{rest}"
    return text, ""


def size(size_bytes: float) -> str:
    """A file size in decimal units."""
    return f"{size_bytes / 1e6:.2f} MB" if size_bytes >= 1_000_000 else f"{size_bytes / 1e3:.1f} KB"


def count(number: float) -> str:
    """A large number in three digits: `2.21 M`."""
    scale, name = next(((scale, name) for scale, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")) if number >= 0.9995 * scale), (1.0, ""))
    return f"{number / scale:.3g}{name}"


def executed(counts: Mapping[str, int]) -> str:
    """How many layers ran in which dtype, most first: `19 int8, 4 fp32`."""
    return ", ".join(f"{count} {dtype}" for dtype, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))) or "-"


def options(values: Mapping[str, Any]) -> str:
    """Session options on one line: `threads 1, spinning off`."""
    words = {True: "on", False: "off"}
    return ", ".join(f"{name} {words[value] if isinstance(value, bool) else value}" for name, value in values.items()) or "-"


def proven_without_device(artifact: Artifact) -> str:
    """What is known of an artifact that did not run: `rtx-checked: parsed and built ...`."""
    return "; ".join(f"{name}: {text}" for name, text in artifact.checks.items())


def why(cell: Cell) -> str:
    """Why a cell has no figures, or why they do not all count, and what is known of its artifact all the same; "" where all is measured."""
    if cell.status == "ok":
        return f"proxy: {cell.device} is no device of {cell.artifact.target}, so its latency does not count" if cell.proxy else ""
    return "; ".join(part for part in (cell.reason, proven_without_device(cell.artifact)) if part)


def name_of(artifact: Artifact) -> str:
    """An artifact as people call it: `openvino int8`."""
    return f"{artifact.target} {artifact.precision}"
