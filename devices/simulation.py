"""What launches on an imagined device would look like: a pure, seeded model of what makes timing hard on real ones.

A sample is base x launch x iteration x time: each launch has a level of its own (memory layout, core), iterations are an AR(1) process around it,
now and then one is far off, and with time the device drifts, steps or throttles. All factors are on a virtual clock, so nothing waits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from kdedge.errors import DeviceError
from kdedge.runtimes.job import LaunchRule

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
Fate = Literal["ok", "failed", "disconnected"]

_KHZ = 2_000_000
_EVENT_SECONDS = 0.5  # while it throttles, an event is counted this often
_MOST_ITERATIONS = 1_000_000


@dataclass(frozen=True)
class Scenario:
    """How an imagined device behaves. Spreads are standard deviations of logarithms, times are seconds of the virtual clock from its opening.

    `launch_sd`: between launches; `iteration_sd` and `autocorrelation`: of the AR(1) process within a launch. `drift_per_minute`: slower by this
    share each minute; `step` slower from `step_at` on. `outlier_share` of the iterations take `outlier_factor` times as long. `slow_core_share` of
    the launches run on a core that takes `slow_core_factor` as long; `migration_share` change cores in the middle. From `throttle_at` on all takes
    `throttle_factor` times as long and the device counts events. `failure_share` of the launches fail, `disconnect_share` lose the connection.
    `start_seconds`: start and load of a process.
    """

    name: str
    launch_sd: float = 0.005
    iteration_sd: float = 0.02
    autocorrelation: float = 0.3
    drift_per_minute: float = 0.0
    step_at: float = math.inf
    step: float = 0.0
    outlier_share: float = 0.0
    outlier_factor: float = 8.0
    slow_core_share: float = 0.0
    slow_core_factor: float = 1.0
    migration_share: float = 0.0
    throttle_at: float = math.inf
    throttle_factor: float = 1.0
    failure_share: float = 0.0
    disconnect_share: float = 0.0
    start_seconds: float = 0.3


# The spreads of `noisy` are those of a phone whose clocks are free (research notes, devices 2.2); `drift` is 8 % over two minutes, a usual check.
SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("quiet", launch_sd=0.0024, iteration_sd=0.01),
        Scenario("noisy", launch_sd=0.015, iteration_sd=0.03),
        Scenario("drift", launch_sd=0.01, iteration_sd=0.03, drift_per_minute=0.04),
        Scenario("step", launch_sd=0.01, iteration_sd=0.03, step_at=60.0, step=0.05),
        Scenario("throttle", throttle_at=5.0, throttle_factor=1.4),  # within even the shortest check
        Scenario("bimodal", launch_sd=0.01, iteration_sd=0.03, slow_core_share=0.3, slow_core_factor=1.15, migration_share=0.1),
        Scenario("outliers", launch_sd=0.01, iteration_sd=0.03, outlier_share=0.01),
        Scenario("disconnects", disconnect_share=0.1, failure_share=0.05),
    )
}


def scenario_of(name: str, **changes: Any) -> Scenario:
    """A named scenario, with fields replaced.

    Raises:
        DeviceError: there is no such scenario or field, or a field's value means nothing.
    """
    if name not in SCENARIOS:
        raise DeviceError(f"there is no simulated device `{name}` (there is: {', '.join(SCENARIOS)})")
    numbers = set(Scenario.__dataclass_fields__) - {"name"}
    for key, value in changes.items():
        if key not in numbers:
            raise DeviceError(f"simulated device `{name}`: there is no `{key}` (allowed: {', '.join(sorted(numbers))})")
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            raise DeviceError(f"simulated device `{name}`: `{key}` is a number, not {value!r}")
    found = replace(SCENARIOS[name], **changes)
    shares = [found.outlier_share, found.slow_core_share, found.migration_share, found.failure_share, found.disconnect_share]
    factors = [found.outlier_factor, found.slow_core_factor, found.throttle_factor]
    if not all(0 <= share <= 1 for share in shares) or not all(factor > 0 for factor in factors):
        raise DeviceError(f"simulated device `{name}`: shares lie between 0 and 1 and factors are positive")
    if min(found.launch_sd, found.iteration_sd, found.start_seconds) < 0 or not -1 < found.autocorrelation < 1:
        raise DeviceError(f"simulated device `{name}`: spreads and times are not negative, and the autocorrelation lies within -1 and 1")
    return found


def draw_samples(
    scenario: Scenario, generator: np.random.Generator, base_ms: npt.ArrayLike, start_seconds: npt.ArrayLike, iterations: int
) -> Float64:
    """Iterations of many launches at once, in ms: [..., iterations].

    `base_ms`: what an iteration takes on an undisturbed device; `start_seconds`: when the first iteration begins. Both are broadcast to [...].
    """
    base, start = np.broadcast_arrays(np.asarray(base_ms, dtype=np.float64), np.asarray(start_seconds, dtype=np.float64))
    launch = np.exp(scenario.launch_sd * generator.standard_normal(base.shape))
    samples = np.exp(_ar1(scenario, generator, base.shape, iterations))
    samples *= (base * launch)[..., None]
    if scenario.slow_core_share or scenario.migration_share:
        samples *= _cores(scenario, generator, base.shape, iterations)
    if scenario.outlier_share:
        samples[generator.random(samples.shape) < scenario.outlier_share] *= scenario.outlier_factor
    if scenario.drift_per_minute or math.isfinite(scenario.step_at) or math.isfinite(scenario.throttle_at):
        moments = start[..., None] + base[..., None] / 1000 * np.arange(iterations)
        samples *= time_factor(scenario, moments)
    return samples


def time_factor(scenario: Scenario, seconds: Float64) -> Float64:
    """How much longer everything takes at a moment of the virtual clock."""
    drift = 1 + scenario.drift_per_minute * seconds / 60
    step = np.where(seconds >= scenario.step_at, 1 + scenario.step, 1.0)
    factor: Float64 = drift * step * np.where(seconds >= scenario.throttle_at, scenario.throttle_factor, 1.0)
    return factor


def draw_session(
    scenario: Scenario, seed: int, base_ms: Sequence[float], repeats: int, iterations: int, launch_seconds: float
) -> tuple[Float64, npt.NDArray[np.bool_]]:
    """`repeats` independent sessions of the launches whose bases are given in the order in which they run, `launch_seconds` apart.

    Returns samples in ms [repeats, launches, iterations] and whether a launch would be found throttled [launches].
    """
    base = np.asarray(base_ms, dtype=np.float64)
    starts = launch_seconds * np.arange(base.size)
    samples = draw_samples(scenario, np.random.default_rng(seed), np.broadcast_to(base, (repeats, base.size)), starts, iterations)
    ends = starts + launch_seconds
    return samples, np.array([_events(scenario, end) > _events(scenario, start) for start, end in zip(starts, ends, strict=True)])


@dataclass(frozen=True)
class DrawnLaunch:
    """A launch as a worker would report it, in ns and ms. `evidence` has the keys of `runtimes/evidence.py`; `seconds`: of the virtual clock."""

    fate: Fate
    samples_ns: Int64
    warmup_ns: Int64
    first_ms: float
    load_ms: float
    evidence: dict[str, Any]
    seconds: float


def draw_launch(scenario: Scenario, seed: Sequence[int], clock_seconds: float, base_ms: float, rule: LaunchRule) -> DrawnLaunch:
    """One launch that begins at `clock_seconds` and follows `rule` as a worker does, as nearly as the base time tells.

    The same arguments give the same launch. A launch that fails or is disconnected has no samples and ends in its middle.

    Raises:
        DeviceError: the base time is not positive.
    """
    if not (base_ms > 0 and math.isfinite(base_ms)):
        raise DeviceError(f"a simulated device needs a positive time for an iteration; it has {base_ms} ms")
    generator = np.random.default_rng(list(seed))
    fate = _fate(scenario, float(generator.random()))
    begin = clock_seconds + scenario.start_seconds
    first_ms = 3 * base_ms * float(np.exp(0.1 * generator.standard_normal()))
    warm = _iterations(rule.warmup_iterations, rule.warmup_seconds, rule.max_seconds, base_ms)
    timed = max(1, _iterations(rule.min_iterations, rule.min_seconds, rule.max_seconds, base_ms))
    drawn = draw_samples(scenario, generator, base_ms, begin + first_ms / 1000, warm + timed)
    seconds = scenario.start_seconds + (first_ms + float(drawn.sum())) / 1000
    if fate != "ok":
        seconds, drawn, warm = seconds / 2, drawn[:0], 0
    nanoseconds = np.maximum(1, np.round(drawn * 1e6)).astype(np.int64)
    return DrawnLaunch(
        fate=fate,
        samples_ns=nanoseconds[warm:],
        warmup_ns=nanoseconds[:warm],
        first_ms=first_ms,
        load_ms=1000 * scenario.start_seconds / 2,
        evidence={"before": state(scenario, clock_seconds), "after": state(scenario, clock_seconds + seconds)},
        seconds=seconds,
    )


def state(scenario: Scenario, clock_seconds: float) -> dict[str, Any]:
    """What the device tells of itself at a moment, by the keys of `runtimes/evidence.py`."""
    throttled = clock_seconds >= scenario.throttle_at
    warmth = 15 * (1 - math.exp(-clock_seconds / 60))
    return {
        "affinity": [0],
        "load_average": [0.5, 0.5, 0.5],
        "throttle_events": _events(scenario, clock_seconds),
        "cpu_khz": {"cpu0": round(_KHZ / scenario.throttle_factor) if throttled else _KHZ},
        "temperatures_c": {"thermal_zone0:simulated": round(95.0 if throttled else 45 + warmth, 3)},
    }


def _events(scenario: Scenario, seconds: float) -> int:
    return 0 if seconds < scenario.throttle_at else 1 + int((seconds - scenario.throttle_at) / _EVENT_SECONDS)


def _fate(scenario: Scenario, chance: float) -> Fate:
    if chance < scenario.disconnect_share:
        return "disconnected"
    return "failed" if chance < scenario.disconnect_share + scenario.failure_share else "ok"


def _iterations(fewest: int, seconds: float, most_seconds: float, base_ms: float) -> int:
    """Both minima are met, or the limit of time is reached; never more than memory holds."""
    wanted = max(fewest, math.ceil(1000 * seconds / base_ms))
    return max(min(wanted, math.ceil(1000 * most_seconds / base_ms), _MOST_ITERATIONS), 0 if fewest == 0 else 1)


def _ar1(scenario: Scenario, generator: np.random.Generator, shape: tuple[int, ...], iterations: int) -> Float64:
    """A stationary AR(1) process a launch, with spread `iteration_sd`: x_t = rho x_(t-1) + sqrt(1 - rho^2) sd z_t."""
    rho, sd = scenario.autocorrelation, scenario.iteration_sd
    noise = sd * generator.standard_normal((iterations, *shape))  # time first: one step touches memory that lies together
    noise[1:] *= math.sqrt(1 - rho * rho)
    if not shape:  # one launch may be very long, and numpy is slow number by number
        steps, level = noise.tolist(), 0.0
        for index, step in enumerate(steps):
            level = steps[index] = rho * level + step
        return np.asarray(steps)
    for index in range(1, iterations):
        noise[index] += rho * noise[index - 1]
    return np.ascontiguousarray(np.moveaxis(noise, 0, -1))


def _cores(scenario: Scenario, generator: np.random.Generator, shape: tuple[int, ...], iterations: int) -> Float64:
    """1 or `slow_core_factor`, an iteration: a launch begins on one kind of core, and some change to the other on the way."""
    slow = generator.random(shape) < scenario.slow_core_share
    moves = generator.random(shape) < scenario.migration_share
    place = np.where(moves, generator.integers(0, iterations, shape), iterations)
    moved = np.arange(iterations) >= place[..., None]
    factor: Float64 = np.where(slow[..., None] ^ moved, scenario.slow_core_factor, 1.0)
    return factor
