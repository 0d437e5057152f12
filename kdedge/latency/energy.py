"""What an inference takes, from launches whose supplies were sampled: medians over launches, gross and net of the idle machine."""

from __future__ import annotations

from collections.abc import Sequence

from kdedge.estimate import Estimate
from kdedge.intervals import median_estimate
from kdedge.runtimes.job import Result

UNIT = "mJ"


def energy_figures(results: Sequence[Result]) -> tuple[dict[str, Estimate], str]:
    """`energy_gross` and `energy_net` (mJ an inference), `power_idle` (mW), and how they were taken in a sentence. `results`: at least one."""
    taken = [result.facts["energy"] for result in results]
    figures = {
        "energy_gross": median_estimate("energy_gross", [one["gross_mj"] for one in taken], UNIT),
        "energy_net": median_estimate("energy_net", [one["net_mj"] for one in taken], UNIT),
        "power_idle": median_estimate("power_idle", [one["idle_mw"] for one in taken], "mW"),
    }
    interval, readings = max(one["interval_ms"] for one in taken), min(one["readings"] for one in taken)
    notes = list(dict.fromkeys(one["note"] for one in taken if one["note"]))
    how = f"measured at {taken[0]['tap_point']}, read every {interval:.3g} ms, at least {readings} times a launch; net of the idle machine"
    return figures, "; ".join([how, *notes])
