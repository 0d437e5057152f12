"""Small drawings inside tables, as SVG: an interval on a scale, and the shares of a whole. Coloured by the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape

from kdedge.estimate import Estimate

_WIDTH, _HEIGHT = 160, 16
_BAR_WIDTH, _BAR_HEIGHT = 120, 8
# How the page colours a dtype: integers stand out, floats of any width are told apart, what has no dtype is pale.
_TINTS = {"int8": "int8", "uint8": "int8", "int4": "int8", "fp16": "half", "bf16": "half", "fp32": "full"}


def whisker(estimate: Estimate, reach: float) -> str:
    """A difference with its interval on a scale from -`reach` to `reach`, with a line at zero."""
    if not (math.isfinite(estimate.value) and math.isfinite(reach)) or reach <= 0:
        return ""

    def place(value: float) -> str:
        share = min(max(value / reach, -1.0), 1.0)
        return f"{_WIDTH / 2 + share * (_WIDTH / 2 - 4):.1f}"

    middle = _HEIGHT // 2
    parts = [f'<line class="zero" x1="{_WIDTH / 2:.0f}" x2="{_WIDTH / 2:.0f}" y1="0" y2="{_HEIGHT}"/>']
    if estimate.interval is not None:
        low, high = estimate.interval
        parts.append(f'<line class="interval" x1="{place(low)}" x2="{place(high)}" y1="{middle}" y2="{middle}"/>')
    parts.append(f'<circle cx="{place(estimate.value)}" cy="{middle}" r="3"/>')
    return _svg("whisker", _WIDTH, _HEIGHT, f"{estimate}", "".join(parts))


def shares(counts: Mapping[str, int]) -> str:
    """How a whole is made up: one stretch for each name, as wide as its share, largest first."""
    whole = sum(counts.values())
    if whole <= 0:
        return ""
    parts, left = [], 0.0
    for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        width = _BAR_WIDTH * count / whole
        tint = _TINTS.get(name, "rest")
        parts.append(f'<rect class="{tint}" x="{left:.1f}" width="{width:.1f}" height="{_BAR_HEIGHT}"><title>{escape(name)}: {count}</title></rect>')
        left += width
    named = ", ".join(f"{count} {name}" for name, count in counts.items())
    return _svg("shares", _BAR_WIDTH, _BAR_HEIGHT, named, "".join(parts))


def _svg(kind: str, width: int, height: int, label: str, inside: str) -> str:
    name = escape(label, quote=True)
    return f'<svg class="{kind}" role="img" aria-label="{name}" width="{width}" height="{height}" viewBox="0 0 {width} {height}">{inside}</svg>'
