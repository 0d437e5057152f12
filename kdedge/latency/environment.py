"""Whether two launches ran under the same conditions: what only a launch shows, and what somebody may change between two of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kdedge.runtimes.job import Result

# Facts of a machine that change its speed and are no sensor (`kdedge.runtimes.evidence.machine_facts`).
_OF_THE_MACHINE = ("power_mode", "turbo")


def ran_differently(first: Result, second: Result) -> tuple[str, ...]:
    """In what two launches differ besides what they launched, one sentence each. What one of them does not tell is no difference."""
    ours, theirs = dict(_conditions(first)), dict(_conditions(second))
    return tuple(f"{name}: {value} and {theirs[name]}" for name, value in ours.items() if name in theirs and theirs[name] != value)


def _conditions(result: Result) -> Iterator[tuple[str, Any]]:
    if result.runtime_version:
        yield "runtime version", result.runtime_version
    if result.facts.get("providers"):
        yield "execution providers", result.facts["providers"]
    machine = result.evidence.get("machine") or {}
    yield from ((name.replace("_", " "), machine[name]) for name in _OF_THE_MACHINE if name in machine)
    if governors := (result.evidence.get("before") or {}).get("governors"):
        yield "governors", governors
    if "environment" in result.evidence:
        yield "environment variables", result.evidence["environment"]
