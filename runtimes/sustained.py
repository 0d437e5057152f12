"""A sustained launch: what a user gets after minutes, when the machine is warm and may throttle. Throttling is what it measures.

It starts cold, without a warm-up, and ends after a fixed time or once the temperature is flat. Between iterations it notes, every few seconds,
how hot the machine is, how fast it is clocked and what has throttled it so far.
"""

from __future__ import annotations

import gc
import time
from array import array
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from . import evidence
from .errors import RuntimeFailure
from .job import SustainedRule
from .reach import Reach, here
from .session import Session

# Observed facts that say how the machine fares; the rest of a snapshot would make a long file of a long launch.
_WATCHED = ("cpu_khz", "gpu_hz", "temperatures_c", "throttle_events", "over_current", "pi_throttled", "thermal_status", "cgroup_throttled_us")
_FEWEST_POINTS = 5


def time_session(session: Session, inputs: Dict[str, np.ndarray], rule: SustainedRule) -> Tuple[int, np.ndarray, Dict[str, Any]]:
    """First inference in ns, every iteration after it (int64 [n], ns), and what was watched: `ended` ("flat" or "time"), `seconds`,
    `observations` (each with `seconds` since the first iteration and `iteration`, how many there had been)."""
    run_session = session.run

    def call() -> Any:
        return run_session(inputs)

    check_rule(rule)
    start = time.perf_counter_ns()
    call()
    first = time.perf_counter_ns() - start
    reach = here()
    samples, watched = sustained(call, lambda: watch(reach), rule)
    return first, samples, watched


def watch(reach: Reach) -> Dict[str, Any]:
    """How the machine fares now."""
    found = evidence.machine(reach)
    return {name: found[name] for name in _WATCHED if name in found}


def sustained(call: Callable[[], Any], observe: Callable[[], Dict[str, Any]], rule: SustainedRule) -> Tuple[np.ndarray, Dict[str, Any]]:
    """Call until the rule ends it; at least once."""
    clock = time.perf_counter_ns
    samples: array[int] = array("q")
    observations: List[Dict[str, Any]] = []
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        begin = clock()
        due = begin
        while True:
            now = clock()
            if now >= due:
                seconds = (now - begin) / 1e9
                observations.append(dict(observe(), seconds=seconds, iteration=len(samples)))
                due = clock() + int(rule.observe_seconds * 1e9)
                ended = ending(observations, rule)
                if ended and len(samples) > 0:
                    return np.frombuffer(samples, dtype=np.int64), {"ended": ended, "seconds": seconds, "observations": observations}
            before = clock()
            call()
            samples.append(clock() - before)
    finally:
        if collecting:
            gc.enable()


def ending(observations: Sequence[Dict[str, Any]], rule: SustainedRule) -> str:
    """ "time", "flat", or "" while it must go on."""
    seconds = observations[-1]["seconds"]
    if seconds >= rule.seconds:
        return "time"
    if seconds < max(rule.least_seconds, rule.flat_seconds):
        return ""
    slope = slope_of(observations, seconds - rule.flat_seconds)
    return "flat" if slope is not None and abs(slope) < rule.flat_c_per_minute else ""


def slope_of(observations: Sequence[Dict[str, Any]], since: float) -> Optional[float]:
    """Degrees Celsius a minute of the hottest zone, by least squares over the observations since then; None from fewer than five."""
    points = [
        (one["seconds"] / 60.0, max(one["temperatures_c"].values())) for one in observations if one["seconds"] >= since and one.get("temperatures_c")
    ]
    if len(points) < _FEWEST_POINTS:
        return None
    minutes, degrees = np.array(points, dtype=np.float64).T
    minutes = minutes - minutes.mean()
    spread = float(minutes @ minutes)
    return float(minutes @ (degrees - degrees.mean())) / spread if spread > 0 else None


def check_rule(rule: SustainedRule) -> None:
    """Refuse a rule that means nothing.

    Raises:
        RuntimeFailure: a time or a slope that is not positive.
    """
    if min(rule.seconds, rule.flat_seconds, rule.flat_c_per_minute, rule.observe_seconds) <= 0 or rule.least_seconds < 0:
        raise RuntimeFailure("the sustained rule needs positive times and a positive slope; it is %s" % (rule,))
