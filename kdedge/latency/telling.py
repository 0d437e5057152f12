"""What a latency holds besides its medians, for people and for machines: dropped launches, energy, a sustained launch."""

from __future__ import annotations

from typing import Any

from kdedge.latency.sustained import beginning
from kdedge.measured import Latency


def lines(latency: Latency) -> list[str]:
    """Sentences for the console; empty for launches that all counted and were asked for nothing more."""
    found = [note for note in latency.notes if note.startswith("dropped ")]
    if latency.sustained:
        found.append(_sustained(latency.sustained))
    if latency.energy:
        gross, net = latency.energy["energy_gross"], latency.energy["energy_net"]
        found.append(f"energy of one inference: {net} net, {gross} gross ({latency.energy_reason})")
    elif latency.energy_reason:
        found.append(latency.energy_reason)
    return found


def as_json(latency: Latency) -> dict[str, Any]:
    """The keys that a cell's JSON has besides, where there is something to tell: `invalid_launches`, `sustained`, `energy`, `observed`."""
    found: dict[str, Any] = {"observed": dict(latency.observed)} if latency.observed else {}
    if latency.invalid:
        found["invalid_launches"] = [reason or None for reason in latency.invalid]
    if latency.sustained:
        found["sustained"] = dict(latency.sustained)
    if latency.energy_reason:
        found["energy"] = {**{name: estimate.as_json() for name, estimate in latency.energy.items()}, "reason": latency.energy_reason}
    return found


def _sustained(figures: dict[str, float]) -> str:
    first, steady, ratio, seconds = (figures[name] for name in ("first_minute_ms", "steady_ms", "steady_ratio", "seconds"))
    after = figures.get("throttled_after_seconds")
    when = "nothing throttled" if after is None else f"throttled after {after:.0f} s"
    return f"sustained: {steady:.4g} ms, {ratio:.3g} times its {beginning(seconds)} ({first:.4g} ms), {when}; one launch of {seconds:.0f} s"
