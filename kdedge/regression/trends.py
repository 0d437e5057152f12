"""What the history of an artifact line looks like: its points, where they stepped, and a plot in text. Warnings, never a gate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from kdedge.latency.change_points import ChangePoint, change_points
from kdedge.latency.history.records import Point, SeriesKey

if TYPE_CHECKING:
    from kdedge.latency.history.store import History

_BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 60
LOOKED_AT = 300
"""Steps are looked for among so many of the newest points: the permutation test takes the square of their number, a second for these."""


@dataclass(frozen=True)
class Trend:
    """One series, oldest point first, and its change points."""

    key: SeriesKey
    points: tuple[Point, ...]
    changes: tuple[ChangePoint, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence a step: how large, and between which runs it may lie."""
        said = []
        for change in self.changes:
            old, new = self.points[change.first], self.points[min(change.last + 1, len(self.points) - 1)]
            word = "slower" if change.change > 0 else "faster"
            said.append(
                f"{abs(change.change):.1f} % {word} from {_day(old)} ({old.session[:8]}, artifact {old.sha256[:8]}) to {_day(new)} "
                f"({new.session[:8]}, artifact {new.sha256[:8]}), p {change.p_value:.3g}"
            )
        return tuple(said)

    def as_json(self) -> dict[str, Any]:
        """Plain data."""
        points = [{**asdict(point), "started": point.started.isoformat()} for point in self.points]
        return {"key": asdict(self.key), "points": points, "changes": [asdict(change) for change in self.changes], "warnings": list(self.warnings)}


def trends(history: History, line: str = "", device: str = "", margin: float = 0.03) -> tuple[Trend, ...]:
    """All series whose line contains `line` and that are of `device`, where these are given. Of checks, the candidate's launches alone: a
    baseline that is run again and again is no news."""
    found = []
    for key in history.series_keys():
        if line.lower() not in key.line.lower() or (device and key.device != device):
            continue
        points = _without_baselines(history, key)
        if points:
            found.append(Trend(key, points, _changes(points, margin)))
    return tuple(found)


def _changes(points: Sequence[Point], margin: float) -> tuple[ChangePoint, ...]:
    older = max(0, len(points) - LOOKED_AT)
    return tuple(
        replace(change, after=older + change.after, before=older + change.before, first=older + change.first, last=older + change.last)
        for change in change_points([point.value for point in points[older:]], margin)
    )


def _without_baselines(history: History, key: SeriesKey) -> tuple[Point, ...]:
    points = {(point.started, point.session, point.sha256): point for arm in ("", "B") for point in history.series(key, arm=arm)}
    return tuple(points[place] for place in sorted(points))


def lines_of(trend: Trend) -> Iterator[str]:
    """For a terminal."""
    key, values = trend.key, [point.value for point in trend.points]
    yield f"{key.line} on {key.device} (environment {key.environment}): {len(values)} runs, last {values[-1]:.4g} ms"
    yield f"  {plot(values)}  {min(values):.4g} to {max(values):.4g} ms"
    yield from (f"  warning: {sentence}" for sentence in trend.warnings)


def plot(values: Sequence[float], width: int = WIDTH) -> str:
    """Blocks from the lowest value to the highest; the last `width` values, one character each. A lone spike must not press the others together: what
    lies far outside the middle nine tenths is drawn at the end of the scale, as `^` or `v`."""
    shown = np.asarray(values[-width:], dtype=np.float64)
    inner = np.quantile(shown, [0.05, 0.95])
    reach = float(inner[1] - inner[0])
    near = shown[(shown >= inner[0] - reach) & (shown <= inner[1] + reach)] if reach > 0 else shown
    low, high = float(near.min()), float(near.max())
    last, scale = len(_BLOCKS) - 1, (high - low) or 1.0
    return "".join(
        "^" if value > high else "v" if value < low else _BLOCKS[min(last, int((value - low) / scale * len(_BLOCKS)))] for value in shown.tolist()
    )


def _day(point: Point) -> str:
    return point.started.strftime("%Y-%m-%d %H:%M")
