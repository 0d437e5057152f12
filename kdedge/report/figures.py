"""How figures are written for people where `str(estimate)` is not enough."""

from __future__ import annotations

from kdedge.artifact import Artifact
from kdedge.estimate import Estimate


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


def size(size_bytes: int) -> str:
    """A file size in decimal units."""
    return f"{size_bytes / 1e6:.2f} MB" if size_bytes >= 1_000_000 else f"{size_bytes / 1e3:.1f} KB"


def executed(counts: dict[str, int]) -> str:
    """How many layers ran in which dtype, most first: `19 int8, 4 fp32`."""
    return ", ".join(f"{count} {dtype}" for dtype, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))) or "-"


def proven_without_device(artifact: Artifact) -> str:
    """What is known of an artifact that did not run: `rtx-checked: parsed and built ...`."""
    return "; ".join(f"{name}: {text}" for name, text in artifact.checks.items())
