"""The strict lower bound of latency: by hand for one layer, by its properties, and below what a real run takes."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_graphs import residual

from kdedge.devices.catalog import Fact, Profile, profiles
from kdedge.errors import DeviceError
from kdedge.estimate import Estimate
from kdedge.exporters.quantize.wiring import load
from kdedge.exporters.work import work_of_graph
from kdedge.intervals import median_estimate
from kdedge.latency.roofline import Bound, Conditions, bound_of, check_against, conditions_of, has_figures, ran_as
from kdedge.latency.work import Layer, Work
from kdedge.measured import Audit, AuditRow, Latency

GPU = Conditions("gpu", tf32=False, runtime="tensorrt")
NANO = "jetson-orin-nano-8gb"


def layer(macs: int | None = 589_824, precision: str = "int8", **others: object) -> Layer:
    return replace(Layer("c", "Conv", precision, macs), **others)  # type: ignore[arg-type]


def work(*layers: Layer, inputs: int = 16_384, outputs: int = 16_384) -> Work:
    return Work(layers, inputs, outputs)


def on(device: str, *layers: Layer, conditions: Conditions = GPU, ran: dict[str, str] | None = None) -> Bound:
    return bound_of(work(*layers), profiles()[device], conditions, ran)


# ---- by hand ---------------------------------------------------------------------------------------------------------------

# A convolution of 16 to 16 channels, 3x3, on 16x16: 16 * 16 * 16 * 16 * 9 = 589824 multiply-accumulates. On Orin Nano at 625 MHz, 32 tensor cores do
# 512 a clock in int8: 32 * 512 * 625e6 = 10.24e12 a second. In fp32, 1024 CUDA cores do one: 0.64e12 a second.


def test_one_convolution_in_int8_on_orin_nano() -> None:
    bound = on(NANO, layer(kernel=(3, 3)))
    assert bound.milliseconds == pytest.approx(589_824 / 10.24e12 * 1000)
    assert (bound.limited_by, bound.memory_ms, bound.macs, bound.external_bytes) == ("compute", 0, 589_824, 0)
    assert bound.precisions == {"int8": 589_824}
    assert (bound.standing[0].what, bound.standing[0].confidence) == ("int8 peak", "derived")
    assert all(one.source for one in bound.standing)


def test_the_same_convolution_in_float_is_spared_a_factor_of_four_by_winograd() -> None:
    assert on(NANO, layer(precision="fp32", kernel=(3, 3))).milliseconds == pytest.approx(589_824 / 4 / 0.64e12 * 1000)
    assert on(NANO, layer(precision="fp32")).milliseconds == pytest.approx(589_824 / 0.64e12 * 1000)


@pytest.mark.parametrize(
    ("kernel", "runtime", "factor"),
    [
        ((1, 1), "tensorrt", 1.0),
        ((1, 3), "tensorrt", 2.0),  # 4 * 3 products for 4 results from 6
        ((5, 5), "tensorrt", 6.25),  # (4 * 5 / 8)^2
        (None, "tensorrt", (28 / 10) ** 2),  # not known: as 7x7
        ((), "tensorrt", 1.0),  # with a stride
    ],
)
def test_winograd_spares_m_r_over_m_plus_r_less_one_along_each_axis(kernel: tuple[int, ...] | None, runtime: str, factor: float) -> None:
    spared = on(NANO, layer(precision="fp16", kernel=kernel), conditions=replace(GPU, runtime=runtime))
    assert spared.milliseconds == pytest.approx(589_824 / factor / 5.12e12 * 1000)


def test_other_runtimes_have_larger_tiles() -> None:
    def spared(runtime: str, conditions: Conditions) -> float:
        plain, saved = (on(NANO, layer(precision="fp32", kernel=kernel), conditions=replace(conditions, runtime=runtime)) for kernel in ((), (3, 3)))
        return plain.compute_ms / saved.compute_ms

    cpu = Conditions("cpu")
    assert spared("onnxruntime", cpu) == pytest.approx(4)
    assert spared("torch", cpu) == spared("openvino", cpu) == pytest.approx(81 / 16)  # tiles of 6: (6 * 3 / 8)^2
    # cuDNN's FFT of tiles of 32: 30 * 30 * 9 products become 32 * 32 / 2 complex ones, of 3 each.
    assert spared("onnxruntime", GPU) > 8100 / 1536


def test_products_with_padding_may_be_left_out() -> None:
    assert on(NANO, layer(unpadded=0.25)).compute_ms == pytest.approx(on(NANO, layer()).compute_ms / 4)
    unknown = on(NANO, layer(kernel=None)).compute_ms  # in int8 no Winograd, but 4 of 9 products with padding on a map of 2x2
    assert unknown == pytest.approx(on(NANO, layer()).compute_ms * 4 / 9)


def test_weights_that_do_not_fit_into_the_caches_are_read_from_memory() -> None:
    # 100 MB of fp32 weights and 32768 bytes of input and output, less 13.5 MB of caches, at 68.256 GB/s.
    bound = on(NANO, layer(precision="fp32", macs=25_000_000, weights=25_000_000, stored_bytes=100_000_000))
    assert bound.external_bytes == 100_000_000 + 32_768 - 13_500_000
    assert bound.memory_ms == pytest.approx(86_532_768 / 68.256e9 * 1000)
    assert (bound.limited_by, bound.milliseconds) == ("memory", bound.memory_ms)
    # Computed in int8, they may be held in a quarter of that.
    assert on(NANO, layer(precision="int8", weights=25_000_000, stored_bytes=100_000_000)).external_bytes == 25_000_000 + 32_768 - 13_500_000


def test_sparse_weights_halve_the_work_of_a_gpu_and_of_nothing_else() -> None:
    assert on(NANO, layer(sparse=True)).compute_ms == pytest.approx(on(NANO, layer()).compute_ms / 2)
    cpu = Conditions("cpu")
    assert on(NANO, layer(sparse=True), conditions=cpu).compute_ms == on(NANO, layer(), conditions=cpu).compute_ms


# ---- peaks -----------------------------------------------------------------------------------------------------------------


def test_a_thread_has_the_fastest_core_and_all_threads_have_all() -> None:
    # Pixel 8: X3 128 * 2.914 GHz, four A715 64 * 2.367, four A510 64 * 1.704, in 1e9 multiply-accumulates a second.
    one, all_ = 128 * 2.914, 128 * 2.914 + 4 * 64 * 2.367 + 4 * 64 * 1.704
    for threads, rate in ((1, one), (2, one + 64 * 2.367), (None, all_), (99, all_)):
        bound = on("pixel-8", layer(), conditions=Conditions("cpu", threads))
        assert bound.milliseconds == pytest.approx(589_824 / (rate * 1e9) * 1000)


def test_a_lower_clock_raises_the_bound_and_a_higher_one_than_the_catalog_knows_lowers_it() -> None:
    usual = on(NANO, layer()).milliseconds
    assert on(NANO, layer(), conditions=replace(GPU, clock_mhz=312.5)).milliseconds == pytest.approx(2 * usual)
    assert on(NANO, layer(), conditions=replace(GPU, clock_mhz=1250)).milliseconds == pytest.approx(usual / 2)
    cpu = on("raspberry-pi-5", layer(), conditions=Conditions("cpu", 1)).milliseconds
    assert on("raspberry-pi-5", layer(), conditions=Conditions("cpu", 1, clock_mhz=1200)).milliseconds == pytest.approx(2 * cpu)
    assert on("raspberry-pi-5", layer(), conditions=Conditions("cpu", 1, clock_mhz=3000)).milliseconds == pytest.approx(cpu * 2400 / 3000)


def test_a_power_mode_limits_clock_and_cores() -> None:
    mode = profiles()[NANO].mode("7W")  # 4 cores at 960 MHz, the GPU at 408 MHz
    assert on(NANO, layer(), conditions=replace(GPU, mode=mode)).milliseconds == pytest.approx(on(NANO, layer()).milliseconds * 625 / 408)
    cpu = on(NANO, layer(), conditions=Conditions("cpu", mode=mode))
    assert cpu.milliseconds == pytest.approx(589_824 / (4 * 32 * 960e6) * 1000)


def test_what_is_not_known_counts_as_the_fastest() -> None:
    fastest = on(NANO, layer(precision="int8")).milliseconds
    assert on(NANO, layer(precision="fp32"), ran={"c": ""}).milliseconds == fastest
    assert on(NANO, layer(precision="fp32"), ran={}).milliseconds == fastest
    assert on(NANO, layer(precision="other")).milliseconds == fastest
    assert on(NANO, layer(precision="fp32"), ran={"c": "int8"}).milliseconds == fastest
    assert on(NANO, layer(precision="fp32"), ran={}).precisions == {"fastest": 589_824}


def test_float32_may_run_on_tensor_cores_unless_the_options_say_no() -> None:
    slow, fast = (on(NANO, layer(precision="fp32"), conditions=replace(GPU, tf32=tf32)) for tf32 in (False, True))
    assert fast.milliseconds == pytest.approx(slow.milliseconds / 4)  # 5.12 TFLOPS in tf32, 1.28 in fp32
    assert [bound.standing[0].what for bound in (slow, fast)] == ["fp32 peak", "tf32 peak"]


def test_layers_that_cannot_be_counted_are_named_and_cost_nothing() -> None:
    bound = on(NANO, layer(), replace(layer(macs=None), name="lstm"))
    assert bound.milliseconds == on(NANO, layer()).milliseconds
    assert any("1 layers that multiply are not counted (lstm)" in sentence for sentence in bound.assumptions)


def test_a_unit_that_the_catalog_does_not_know_is_an_error() -> None:
    with pytest.raises(DeviceError, match="raspberry-pi-5: the catalog has no peak of a gpu"):
        on("raspberry-pi-5", layer())


@pytest.mark.parametrize(
    ("target", "options", "device", "unit", "threads", "tf32"),
    [
        ("tensorrt", {"tf32": False}, NANO, "gpu", None, False),
        ("onnxruntime-arm", {"threads": 2}, NANO, "cpu", 2, True),
        ("onnxruntime-arm", {"threads": 2, "inter_threads": 2}, NANO, "cpu", 4, True),
        ("onnxruntime-arm", {"threads": 1, "providers": ["CUDAExecutionProvider"]}, NANO, "gpu", 1, True),
        ("qnn-htp", {"threads": 1}, "galaxy-s24-snapdragon-8-gen-3", "npu", 1, True),
        ("tensorrt", {}, "raspberry-pi-5", "gpu", None, True),  # which it has not: an error, and no bound of its cores
        ("", {}, NANO, "gpu", None, True),
        ("", {}, "raspberry-pi-5", "cpu", None, True),
    ],
)
def test_target_and_options_say_what_runs(target: str, options: dict[str, object], device: str, unit: str, threads: int | None, tf32: bool) -> None:
    found = conditions_of(target, "onnxruntime", options, profiles()[device])
    assert (found.unit, found.threads, found.tf32) == (unit, threads, tf32)


def test_the_device_says_how_fast_its_cores_may_go() -> None:
    facts = {"cpu_max_khz": "1500000"}
    assert conditions_of("onnxruntime-arm", "onnxruntime", {}, profiles()["raspberry-pi-4"], facts).clock_mhz == 1500
    assert conditions_of("tensorrt", "tensorrt", {}, profiles()[NANO], facts).clock_mhz is None


def test_what_a_driver_of_x86_calls_the_highest_clock_is_believed_only_above_the_catalogs() -> None:
    n100 = profiles()["intel-n100"]  # acpi-cpufreq: the base clock, without turbo
    assert conditions_of("onnxruntime-x86", "onnxruntime", {}, n100, {"cpu_max_khz": "801000"}).clock_mhz is None
    assert conditions_of("onnxruntime-x86", "onnxruntime", {}, n100, {"cpu_max_khz": "3600000"}).clock_mhz == 3600


@pytest.mark.parametrize(
    ("named", "unit", "figures"), [(None, "cpu", True), ("CPU", "cpu", True), ("GPU.0", "gpu", False), ("NPU", "npu", True), ("AUTO", "npu", True)]
)
def test_openvinos_device_says_which_unit_works(named: str | None, unit: str, figures: bool) -> None:
    lunar = profiles()["intel-core-ultra-lunar-lake"]
    found = conditions_of("openvino", "openvino", {"device": named} if named else {}, lunar)
    assert (found.unit, has_figures(lunar, found)) == (unit, figures)


# ---- properties ------------------------------------------------------------------------------------------------------------

macs = st.integers(1, 10**12)


@given(macs, macs, st.sampled_from(["int8", "fp16", "fp32"]), st.sampled_from(sorted(profiles())))
def test_the_bound_grows_with_the_work_and_falls_with_the_peak(one: int, more: int, precision: str, device: str) -> None:
    cpu = Conditions("cpu", 1)
    small, large = sorted((one, one + more))
    low = on(device, layer(small, precision), conditions=cpu)
    assert low.milliseconds < on(device, layer(large, precision), conditions=cpu).milliseconds
    assert low.milliseconds >= on(device, layer(small, precision), conditions=Conditions("cpu")).milliseconds
    assert low.estimate_ms >= low.milliseconds > 0


@given(macs, st.integers(2, 64), st.sampled_from(sorted(profiles())))
def test_a_batch_takes_as_often_as_long_as_it_has_examples(count: int, batch: int, device: str) -> None:
    one, many = (on(device, layer(count * n, "fp32", kernel=(3, 3)), conditions=Conditions("cpu", 1)) for n in (1, batch))
    assert many.compute_ms == pytest.approx(batch * one.compute_ms)


# ---- against measurements --------------------------------------------------------------------------------------------------


def latency(host: float, device: float | None = None) -> Latency:
    def figure(value: float) -> dict[str, Estimate]:
        return {"latency_median": median_estimate("latency_median", [value], "ms")}

    return Latency("ok", "", figure(host), {} if device is None else figure(device))


def test_a_measurement_below_the_bound_is_an_error_that_says_what_may_be_wrong() -> None:
    bound = on(NANO, layer(10**9))
    assert check_against(latency(bound.milliseconds), bound) is None
    assert check_against(latency(bound.milliseconds * 2, bound.milliseconds), bound) is None
    assert check_against(Latency("failed", "no figures"), bound) is None
    sentence = check_against(latency(bound.milliseconds * 0.99), bound)
    assert sentence is not None
    assert "below the least that is possible on jetson-orin-nano-8gb: 0.09766 ms for 1,000,000,000 multiply-accumulates" in sentence
    assert all(word in sentence for word in ("wrong artifact", "no synchronising", "int8 peak 20.48 TOPS at 625 MHz (derived)"))
    # The device's own clock may be the one that stopped too early.
    assert check_against(latency(bound.milliseconds * 2, bound.milliseconds / 2), bound) is not None


def test_an_audit_says_in_what_layers_ran() -> None:
    rows = (AuditRow("a", "Conv", "int8", "fp32", 1), AuditRow("b", "Conv", "int8", "", 1))
    assert ran_as(Audit(rows, {})) == {"a": "fp32", "b": ""}
    assert ran_as(None) == {}  # so that every layer counts as the fastest


def generous() -> Profile:
    """A machine that nobody has: one core of 100 GHz that does 1024 multiply-accumulates a clock, in any dtype."""

    def fact(value: float) -> Fact:
        return Fact(value, "made up for this test", "unverified")

    pi = profiles()["raspberry-pi-5"]
    cores = replace(pi.cores[0], count=fact(1), max_mhz=fact(100_000), macs_per_clock=dict.fromkeys(("int8", "fp16", "fp32"), fact(1024)))
    return replace(pi, cores=(cores,), facts={"memory_bandwidth_gb_per_s": fact(10_000), "cache_mb": fact(0.001)})


def test_the_bound_of_a_generous_machine_is_below_a_real_measurement_here(tmp_path: Path) -> None:
    file = residual(tmp_path / "r.onnx")
    bound = bound_of(work_of_graph(load(file), {"N": 8}), generous(), Conditions("cpu", 1))
    assert bound.macs == 8 * 2_208_064
    assert bound.memory_ms > 0
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: np.zeros((8, 3, 16, 16), np.float32)}
    fastest = math.inf
    for _ in range(20):
        begun = time.perf_counter()
        session.run(None, feed)
        fastest = min(fastest, 1000 * (time.perf_counter() - begun))
    assert 0 < bound.milliseconds < fastest
    assert check_against(latency(fastest), bound) is None
