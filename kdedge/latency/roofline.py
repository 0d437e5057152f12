"""The least time that an artifact can take on a device of the catalog, and an estimate of what it will.

    strict bound    max( sum of M' / peak, bytes beyond the caches / bandwidth )
    estimate        sum over layers of max( M / (peak u), bytes / (bandwidth v) ) + layers x launch

The roofline of Williams, Waterman and Patterson (2009), with a maximum of sums in place of a sum of maxima, for layers may overlap. The bound is
never beaten by a correct measurement, so that whatever is uncertain is taken in its favour:

* M' are multiply-accumulates, of which a float convolution with stride 1 is spared as many as Winograd's F(m x m, r x r) spares (m r / (m + r - 1)
  along each axis; Lavin and Gray 2016): 4 for 3x3 with tiles of 4, which every runtime here uses at most, but for `_TILES`. Layers with 2:4 sparse
  weights are halved on a GPU. Products with padding are left out.
* A peak is the highest plausible one of the catalog, at the unit's highest clock unless a lower limit is known. A layer of which it is not known
  in what it ran has the fastest dtype of the unit.
* Inputs, outputs and weights count as far as they do not fit into all caches together: a timed loop finds them there.

The estimate's utilisations are guesses that nothing has confirmed; it is for planning and decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from kdedge.devices.catalog import UNITS, PowerMode, Profile
from kdedge.errors import DeviceError
from kdedge.latency.work import BYTES, Layer, Work
from kdedge.measured import Audit, Latency
from kdedge.targets import TARGETS

_TILE = 4
# NNPACK in torch has tiles of 6; so has Arm's Compute Library, along one axis, in OpenVINO.
_TILES = {"torch": 6, "openvino": 6}
# cuDNN, behind every runtime on a GPU but TensorRT, may transform tiles of 32 or whole images (FFT), which spares less than Winograd with tiles of
# that size would.
_TILE_OF_CUDNN = 256
# Of a float convolution whose kernel and strides are not known: what Winograd spares at 7x7.
_LARGEST_KERNEL = (7, 7)
# Of an integer convolution whose kernel is not known, what padding may spare: 3x3 on a map of 2x2.
_PADDING = 9 / 4
# Machines of targets that are no CPU.
_UNITS = {"cuda": "gpu", "qualcomm-htp": "npu"}

# Utilisations and launch times of the estimate. Unverified: starting values, until a device has been measured.
COMPUTE_SHARE, DEPTHWISE_SHARE, MEMORY_SHARE = 0.3, 0.05, 0.6
LAUNCH_US = {"gpu": 5.0, "npu": 5.0, "cpu": 0.5}


@dataclass(frozen=True)
class Standing:
    """A figure of the catalog that a bound stands on."""

    what: str
    value: str
    source: str
    confidence: str


@dataclass(frozen=True)
class Bound:
    """The strict lower bound of the latency of one call, in ms, and its two parts: `limited_by` is the larger.

    `estimate_ms` is the nominal estimate. `external_bytes`: what cannot stay in the caches. `precisions`: multiply-accumulates by the dtype that
    they are counted in, "fastest" where it is not known which. `standing`: what of the catalog it stands on; `assumptions`: sentences.
    """

    milliseconds: float
    limited_by: Literal["compute", "memory"]
    compute_ms: float
    memory_ms: float
    estimate_ms: float
    macs: int
    external_bytes: int
    precisions: dict[str, int]
    device: str
    unit: str
    standing: tuple[Standing, ...]
    assumptions: tuple[str, ...]


@dataclass(frozen=True)
class Conditions:
    """How an artifact runs. `unit`: cpu, gpu or npu; `threads`: cores that work, None for all; `tf32`: whether float32 may be computed in it.

    `clock_mhz`: the highest clock that the unit can have had, where one is known (a locked clock, a limit in force; never a single reading, which
    may have been of an idle moment). `mode`: the power mode in force. `runtime`: an adapter's name.
    """

    unit: str
    threads: int | None = None
    tf32: bool = True
    clock_mhz: float | None = None
    mode: PowerMode | None = None
    runtime: str = ""


def conditions_of(target: str, runtime: str, options: Mapping[str, Any], profile: Profile, facts: Mapping[str, str] | None = None) -> Conditions:
    """The conditions that session options set. `target` may be "" (an ONNX file of unknown purpose): then the GPU, where the catalog has one.

    `facts`: the fingerprint of the device itself, if it is at hand: cores may go no faster than it says (`cpu_max_khz`).
    """
    known = TARGETS.get(target)
    has_gpu = any(peak.unit == "gpu" for peak in profile.peaks)
    unit = ("gpu" if has_gpu else "cpu") if known is None else _UNITS.get(known.machines[0], "cpu")
    providers = " ".join(map(str, options.get("providers") or ()))
    if "CUDA" in providers or "Tensorrt" in providers:
        unit = "gpu"
    if runtime == "openvino":
        # AUTO and its like may take any of them: then the fastest that the catalog has counts.
        named = str(options.get("device") or "CPU").split(".")[0].lower()
        unit = named if named in UNITS else max(UNITS, key=lambda one: _fastest(profile, one))
    threads = options.get("threads")
    workers = threads * int(options.get("inter_threads") or 1) if isinstance(threads, int) and not isinstance(threads, bool) else None
    limit = (facts or {}).get("cpu_max_khz", "") if unit == "cpu" else ""
    clock = int(limit) / 1000 if limit.isdecimal() and int(limit) else None
    if "x86_64" in profile.machines and clock is not None and clock < max(cores.max_mhz.value for cores in profile.cores):
        clock = None  # the driver acpi-cpufreq leaves turbo out of it
    return Conditions(unit, workers, options.get("tf32") is not False, clock, runtime=runtime)


def bound_of(work: Work, profile: Profile, conditions: Conditions, ran: Mapping[str, str] | None = None) -> Bound:
    """The bound of one call. `ran`: the dtype that each layer really ran in, by its name ("" where that is not known); None: as the file asks.

    Raises:
        DeviceError: the catalog has no figures for the unit.
    """
    rates = _rates(profile, conditions)
    compute, estimate, weights = 0.0, 0.0, 0
    precisions: dict[str, int] = {}
    used: dict[str, None] = {}
    bandwidth = _figure(profile, "memory_bandwidth_gb_per_s") * 1e9
    for layer in work.layers:
        dtype = layer.precision if ran is None else ran.get(layer.name, "")
        name, rate = _rate_for(dtype, rates)
        used[name] = None
        macs, held = layer.macs or 0, _weight_bytes(layer, dtype)
        counted_as = dtype if dtype in BYTES else "fastest"
        precisions[counted_as] = precisions.get(counted_as, 0) + macs
        compute += macs * layer.unpadded / _spared(layer, dtype, conditions) / rate.macs_per_second
        weights += held
        share = DEPTHWISE_SHARE if layer.depthwise else COMPUTE_SHARE
        moved = held + layer.values * BYTES.get(dtype, 1)
        estimate += max(macs / (rate.macs_per_second * share), moved / (bandwidth * MEMORY_SHARE)) + LAUNCH_US[conditions.unit] / 1e6
    cached = _figure(profile, "cache_mb") * 1e6
    external = max(0, work.input_bytes + work.output_bytes + weights - int(cached))
    memory = external / bandwidth
    stands = _cores_standing(profile, used) if conditions.unit == "cpu" else [rates[name].standing for name in used]
    return Bound(
        milliseconds=1000 * max(compute, memory),
        limited_by="memory" if memory > compute else "compute",
        compute_ms=1000 * compute,
        memory_ms=1000 * memory,
        estimate_ms=1000 * max(estimate, compute, memory),
        macs=work.macs,
        external_bytes=external,
        precisions=dict(sorted(precisions.items())),
        device=profile.id,
        unit=conditions.unit,
        standing=(*stands, *_facts_standing(profile)),
        assumptions=_assumptions(work, conditions, ran is not None),
    )


def ran_as(audit: Audit | None) -> dict[str, str]:
    """The dtype of each node by its name, as an audit found it; none where there is no audit, so that nothing is known."""
    return {} if audit is None else {row.node: row.ran for row in audit.rows}


def check_against(latency: Latency, bound: Bound) -> str | None:
    """The sentence that ends a measurement faster than possible; None where it is not, or there is no figure to check.

    The medians are checked, by the host's clock and by the device's own.
    """
    figures = [figures["latency_median"] for figures in (latency.figures, latency.device_figures) if "latency_median" in figures]
    fastest = min((figure.value for figure in figures), default=math.inf)
    if fastest >= bound.milliseconds:
        return None
    doubt = "; ".join(f"{one.what} {one.value} ({one.confidence})" for one in bound.standing)
    return (
        f"measured {fastest:.4g} ms, which is below the least that is possible on {bound.device}: {bound.milliseconds:.4g} ms for {bound.macs:,} "
        f"multiply-accumulates on its {bound.unit}, limited by {bound.limited_by}. The wrong artifact was timed, the clock was stopped before the "
        f"device was done (no synchronising), or the catalog is wrong about it ({doubt})"
    )


# ---- peaks -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Rate:
    """How fast a dtype is, and where that is from."""

    macs_per_second: float
    standing: Standing


def _rates(profile: Profile, conditions: Conditions) -> dict[str, _Rate]:
    """Multiply-accumulates a second by dtype, and where they are from."""
    found = _core_rates(profile, conditions) if conditions.unit == "cpu" else _peak_rates(profile, conditions)
    if not found:
        units = sorted({"cpu", *(peak.unit for peak in profile.peaks)})
        raise DeviceError(f"{profile.id}: the catalog has no peak of a {conditions.unit} (it has: {', '.join(units)})")
    if "tf32" in found and conditions.tf32 and ("fp32" not in found or found["tf32"].macs_per_second > found["fp32"].macs_per_second):
        found["fp32"] = found["tf32"]
    found.pop("tf32", None)
    return found


def _peak_rates(profile: Profile, conditions: Conditions) -> dict[str, _Rate]:
    found: dict[str, _Rate] = {}
    for peak in profile.peaks:
        if peak.unit != conditions.unit:
            continue
        limit = conditions.clock_mhz or (conditions.mode.gpu_mhz if conditions.mode is not None and peak.unit == "gpu" else None)
        clock = f" at {limit or peak.clock_mhz:g} MHz" if peak.clock_mhz else ""
        tops = peak.tops.value * (limit / peak.clock_mhz if limit and peak.clock_mhz else 1.0)
        rate = _Rate(tops / 2 * 1e12, Standing(f"{peak.dtype} peak", f"{tops:.4g} TOPS{clock}", peak.tops.source, peak.tops.confidence))
        if peak.dtype not in found or rate.macs_per_second > found[peak.dtype].macs_per_second:
            found[peak.dtype] = rate
    return found


def _fastest(profile: Profile, unit: str) -> float:
    """Multiply-accumulates a second in the fastest dtype; 0 where the catalog has no figures for the unit."""
    found = _core_rates(profile, Conditions(unit)) if unit == "cpu" else _peak_rates(profile, Conditions(unit))
    return max((rate.macs_per_second for rate in found.values()), default=0.0)


def has_figures(profile: Profile, conditions: Conditions) -> bool:
    """Whether the catalog has figures for the unit that an artifact runs on, so that there is a bound."""
    return _fastest(profile, conditions.unit) > 0


def _core_rates(profile: Profile, conditions: Conditions) -> dict[str, _Rate]:
    """Of the fastest cores, one a thread."""
    highest = max(cores.max_mhz.value for cores in profile.cores)
    mode = conditions.mode
    limit = conditions.clock_mhz or (mode.cpu_mhz if mode is not None else None)
    most = mode.cores if mode is not None else None
    faster = max(1.0, (limit or 0) / highest)  # a clock above the catalog's, which is wrong then or overclocked
    found = {}
    for dtype in dict.fromkeys(dtype for cores in profile.cores for dtype in cores.macs_per_clock):
        each = []
        for cores in profile.cores:
            clock = min(cores.max_mhz.value * faster, limit or math.inf)
            most_macs = cores.macs_per_clock[dtype] if dtype in cores.macs_per_clock else cores.macs_per_clock["fp32"]
            each += [most_macs.value * clock * 1e6] * int(cores.count.value)
        working = sorted(each, reverse=True)[: min(conditions.threads or len(each), most or len(each))]
        found[dtype] = _Rate(sum(working), Standing("", "", "", ""))
    return found


def _rate_for(dtype: str, rates: Mapping[str, _Rate]) -> tuple[str, _Rate]:
    """The dtype that a layer is counted at, and its rate: that of the fastest where the layer's is not known or has no peak."""
    name = dtype if dtype in rates else max(rates, key=lambda one: rates[one].macs_per_second)
    return name, rates[name]


def _spared(layer: Layer, dtype: str, conditions: Conditions) -> float:
    """How many times fewer multiplications a layer may take than it has multiply-accumulates."""
    factor = 2.0 if layer.sparse and conditions.unit == "gpu" else 1.0
    convolution = layer.kernel is None and layer.operator.lower().startswith("conv")
    kernel = _LARGEST_KERNEL if convolution else layer.kernel or ()
    if dtype == "int8":
        return factor * (_PADDING if convolution else 1.0)
    cudnn = conditions.unit == "gpu" and conditions.runtime != "tensorrt"
    tile = _TILE_OF_CUDNN if cudnn else _TILES.get(conditions.runtime, _TILE)
    return factor * math.prod(tile * size / (tile + size - 1) for size in kernel)


def _weight_bytes(layer: Layer, dtype: str) -> int:
    """As stored or as computed, whichever is less."""
    return min(layer.stored_bytes, layer.weights * BYTES.get(dtype, 1))


# ---- what it stands on -----------------------------------------------------------------------------------------------------


def _figure(profile: Profile, name: str) -> float:
    if name not in profile.facts:
        raise DeviceError(f"{profile.id}: the catalog says no {name}")
    return float(profile.facts[name].value)


def _cores_standing(profile: Profile, used: Iterable[str]) -> list[Standing]:
    found = []
    for cores in profile.cores:
        name = f"{cores.count.value:g} x {cores.core}"
        found.append(Standing(f"{name}, clock", f"{cores.max_mhz.value:g} MHz", cores.max_mhz.source, cores.max_mhz.confidence))
        for dtype, fact in cores.macs_per_clock.items():
            if dtype in used:
                found.append(Standing(f"{name}, {dtype}", f"{fact.value:g} multiply-accumulates a clock", fact.source, fact.confidence))
    return found


def _facts_standing(profile: Profile) -> list[Standing]:
    figures = {"memory bandwidth": ("memory_bandwidth_gb_per_s", "GB/s"), "caches": ("cache_mb", "MB")}
    facts = {what: (profile.facts[name], unit) for what, (name, unit) in figures.items()}
    return [Standing(what, f"{fact.value:g} {unit}", fact.source, fact.confidence) for what, (fact, unit) in facts.items()]


def _assumptions(work: Work, conditions: Conditions, executed: bool) -> tuple[str, ...]:
    threads = "all cores" if conditions.threads is None else f"{conditions.threads} thread{'' if conditions.threads == 1 else 's'}"
    clock = f"at most {conditions.clock_mhz:g} MHz" if conditions.clock_mhz else f"power mode {conditions.mode.name}" if conditions.mode else ""
    found = [
        f"{conditions.unit}{f', {threads}' if conditions.unit == 'cpu' else ''}, {clock or 'the highest clock of the catalog'}",
        "each layer in the precision that it ran in" if executed else "each layer in the precision that the file asks for",
        "float convolutions of stride 1 by Winograd; no products with padding; inputs, outputs and weights from the caches as far as they fit",
        f"the estimate takes {COMPUTE_SHARE:.0%} of the peak ({DEPTHWISE_SHARE:.0%} for depthwise layers), {MEMORY_SHARE:.0%} of the bandwidth and "
        f"{LAUNCH_US[conditions.unit]:g} us a layer: unverified",
    ]
    if work.uncounted:
        found.append(f"{len(work.uncounted)} layers that multiply are not counted ({', '.join(work.uncounted[:3])}): the bound is lower for it")
    return tuple(found)
