"""Energy: the `energy` job samples the machine's supplies while it repeats an inference, and subtracts what the machine takes when idle.

It is a launch of its own, since sampling disturbs timing. A power is integrated by trapezoids over the timed window: E = sum (P_i + P_i+1) dt / 2;
an energy counter is read as a difference. Idle power is measured before the warm-up, with the session loaded.
Net: (E - P_idle T) / n. Board rails are not the wall: a power supply and the carrier board take more (several watts on an AGX Orin).
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from . import jetson, launch, raspberry_pi, x86
from .errors import NotAvailable, RuntimeFailure
from .job import Job, Result
from .reach import Reach, here
from .session import Session

# A rail that feeds the whole module stands first; where there is none, rails that together do.
_TOTALS = (("VDD_IN",), ("VIN",), ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"), ("VDD_GPU", "VDD_CPU_SOC_MSS", "VIN_SYS_5V0"))
_NO_SUPPLY = (
    "no supply of this machine can be read: no INA3221 or INA238 rail (Jetson), no PMIC (Raspberry Pi 5) and no energy counter of a processor "
    "package (RAPL: /sys/class/powercap/intel-rapl:0/energy_uj, often for root alone)"
)


@dataclass(frozen=True)
class Supply:
    """What can be read: `read` gives mW, or where `range_uj` is given a counter in µJ that starts over there. `note`: what the reader must know."""

    name: str
    read: Callable[[], float]
    range_uj: int = 0
    note: str = ""


@dataclass(frozen=True)
class Readings:
    """Times in s of a monotonic clock, and for each supply what was read then: float64 [supplies, n]."""

    seconds: np.ndarray
    values: np.ndarray


def supplies(reach: Reach) -> List[Supply]:
    """What together makes the machine's power at the best tap point that it has; empty where nothing can be read."""
    rails = {rail.label: rail for rail in jetson.rails(reach)}
    for labels in _TOTALS:
        if all(label in rails for label in labels):
            return [_rail(reach, rails[label]) for label in labels]
    if rails:
        return [replace(_rail(reach, rail), note="these rails may overlap, and may not be all that the board has") for rail in rails.values()]
    counters = x86.packages(reach)
    if counters:
        return [Supply(one.name, _counter(reach, one.path), one.range_uj, "processor packages alone, without memory and board") for one in counters]
    return _pmic(reach)


def run(job: Job, folder: str, session: Session, reach: Optional[Reach] = None) -> Result:
    """Measure what one inference of the first `batch` examples takes. `facts["energy"]` holds the figures, in mJ an inference.

    Raises:
        NotAvailable: no supply can be read.
        RuntimeFailure: the rule means nothing, the inputs do not fit, or the supplies could be read too seldom.
    """
    launch.check_rule(job.launch)
    rule = job.energy
    if rule.interval_seconds <= 0 or rule.idle_seconds < 2 * rule.interval_seconds:
        raise RuntimeFailure("the energy rule needs a positive interval and an idle time of two of them; it is %s" % (rule,))
    found = supplies(reach or here())
    if not found:
        raise NotAvailable(_NO_SUPPLY)
    inputs = launch.inputs_of(job, folder, session)
    with Recorder(found, rule.interval_seconds) as recorder:
        idle = _window(lambda: time.sleep(rule.idle_seconds), recorder)
        started = time.perf_counter_ns()
        session.run(inputs)
        first = time.perf_counter_ns() - started
        warmup = launch.timed(lambda: session.run(inputs), job.launch.warmup_iterations, job.launch.warmup_seconds, job.launch.max_seconds)
        begin = time.perf_counter()
        samples = launch.timed(lambda: session.run(inputs), job.launch.min_iterations, job.launch.min_seconds, job.launch.max_seconds)
        end = time.perf_counter()
        recorder.wait_for_one_more()
    result = launch.finished(job, folder, session, first, warmup, samples)
    energy = summary(found, recorder.readings(), idle, (begin, end), len(samples))
    return replace(result, facts=dict(result.facts, energy=energy))


def summary(found: Sequence[Supply], readings: Readings, idle: Tuple[float, float], window: Tuple[float, float], inferences: int) -> Dict[str, Any]:
    """The figures of one launch: `gross_mj` and `net_mj` an inference, `idle_mw`, `mean_mw`, and how they were taken.

    Raises:
        RuntimeFailure: fewer than three readings fall into one of the windows.
    """
    idle_mj = sum(energy_mj(readings.seconds, row, supply.range_uj, idle) for supply, row in zip(found, readings.values))
    gross_mj = sum(energy_mj(readings.seconds, row, supply.range_uj, window) for supply, row in zip(found, readings.values))
    seconds = window[1] - window[0]
    idle_mw = idle_mj / (idle[1] - idle[0])
    inside = readings.seconds[(readings.seconds >= window[0]) & (readings.seconds <= window[1])]
    return {
        "tap_point": " + ".join(supply.name for supply in found),
        "note": found[0].note,
        "interval_ms": float(np.median(np.diff(inside))) * 1e3,
        "readings": len(inside),
        "window_seconds": seconds,
        "idle_mw": idle_mw,
        "mean_mw": gross_mj / seconds,
        "inferences": inferences,
        "gross_mj": gross_mj / inferences,
        "net_mj": (gross_mj - idle_mw * seconds) / inferences,
    }


def energy_mj(seconds: np.ndarray, values: np.ndarray, range_uj: int, window: Tuple[float, float]) -> float:
    """mJ between two moments, from powers (mW, trapezoids) or from a counter (µJ); between two readings both are taken as straight lines.

    Raises:
        RuntimeFailure: fewer than three readings fall into the window, or none lies on one side of it.
    """
    begin, end = window
    inside = int(np.count_nonzero((seconds >= begin) & (seconds <= end)))
    if inside < 3 or seconds[0] > begin or seconds[-1] < end:
        raise RuntimeFailure(
            "the supplies were read %d times within the %.3g s that count, and must be read at least 3 times and on both sides of them: "
            "make the window longer or the interval shorter" % (inside, end - begin)
        )
    if not range_uj:
        return _trapezoids(seconds, values, begin, end)
    used_mj = np.concatenate([[0.0], np.cumsum(steps_of(values, range_uj))]) / 1e3
    return float(np.interp(end, seconds, used_mj) - np.interp(begin, seconds, used_mj))


def steps_of(values: np.ndarray, range_uj: int) -> np.ndarray:
    """What a counter grew by from reading to reading; where it fell, it started over at `range_uj`."""
    steps = np.diff(values)
    return np.where(steps < 0, steps + range_uj, steps)


def _trapezoids(seconds: np.ndarray, milliwatts: np.ndarray, begin: float, end: float) -> float:
    inside = (seconds > begin) & (seconds < end)
    times = np.concatenate([[begin], seconds[inside], [end]])
    powers = np.concatenate([[np.interp(begin, seconds, milliwatts)], milliwatts[inside], [np.interp(end, seconds, milliwatts)]])
    return float(np.sum((powers[1:] + powers[:-1]) / 2 * np.diff(times)))


class Recorder:
    """Reads supplies at an interval, in a thread, from its start to its end."""

    def __init__(self, found: Sequence[Supply], interval_seconds: float) -> None:
        self._supplies = found
        self._interval = interval_seconds
        self._rows: List[Tuple[float, List[float]]] = []
        self._over = threading.Event()
        self._more = threading.Condition()
        self._failure = ""
        self._thread = threading.Thread(target=self._record, daemon=True)

    def __enter__(self) -> Recorder:
        """Start, and return once there is a first reading."""
        self._thread.start()
        self.wait_for_one_more()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stop."""
        self._over.set()
        self._thread.join()

    def wait_for_one_more(self) -> None:
        """Return once a reading was made that began after this call.

        Raises:
            RuntimeFailure: a supply cannot be read any more.
        """
        now = time.perf_counter()
        with self._more:
            while not self._failure and not (self._rows and self._rows[-1][0] >= now):
                self._more.wait(1.0)
        if self._failure:
            raise RuntimeFailure(self._failure)

    def readings(self) -> Readings:
        """What was read so far."""
        rows = list(self._rows)
        return Readings(np.array([moment for moment, _ in rows]), np.array([values for _, values in rows]).T)

    def _record(self) -> None:
        due = time.perf_counter()
        while not self._over.is_set():
            before = time.perf_counter()
            try:
                values = [supply.read() for supply in self._supplies]
            except (OSError, ValueError) as error:
                self._failure = "the supply %s cannot be read any more: %s" % (" + ".join(one.name for one in self._supplies), error)
                values = []
            with self._more:
                if values:
                    # The middle of the reading: a slow bus spreads it over milliseconds.
                    self._rows.append(((before + time.perf_counter()) / 2, values))
                self._more.notify_all()
            if self._failure:
                return
            due = max(due + self._interval, time.perf_counter())
            self._over.wait(due - time.perf_counter())


def _window(work: Callable[[], Any], recorder: Recorder) -> Tuple[float, float]:
    begin = time.perf_counter()
    work()
    end = time.perf_counter()
    recorder.wait_for_one_more()
    return begin, end


def _rail(reach: Reach, rail: jetson.Rail) -> Supply:
    averaging = ", ".join("%s %d" % pair for pair in sorted((rail.averaging or {}).items()))
    note = "the board's own rail, not the wall" + ("; %s averages: %s" % (rail.chip, averaging) if averaging else "")
    return Supply(rail.label, lambda: jetson.milliwatts(reach, rail), note=note)


def _counter(reach: Reach, path: str) -> Callable[[], float]:
    return lambda: float(int(reach.read(path)))


def _pmic(reach: Reach) -> List[Supply]:
    """A Pi 5's rails. Each reading starts a program, some milliseconds long."""
    if not raspberry_pi.is_raspberry_pi(reach):
        return []

    def read() -> float:
        found = raspberry_pi.parse_pmic(reach.run(raspberry_pi.PMIC))
        if "sum_mw" not in found:
            raise ValueError("the PMIC names no rail with both volts and amperes")
        return float(raspberry_pi.fitted_milliwatts(found["sum_mw"]))

    try:
        read()
    except (OSError, ValueError):  # a Pi 4 measures no currents
        return []
    return [Supply("PMIC, fitted", read, note="the sum of the PMIC's rails through a line that users fitted: unverified")]
