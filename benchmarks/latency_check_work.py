"""What `latency_check.py` launches: a trained ResNet-20 as kdedge exports it, and the same with about 5 % more work, which is calibrated here.

The work is real: one more convolution of the input image, whose channels are averaged and, weighted by little, added to the logits. How much time a
channel takes depends on the processor, so their number is found by launches in pairs, and what it came to is measured once more by longer ones.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdedge.devices.device import Device
from kdedge.estimate import Estimate
from kdedge.latency.check import Arm
from kdedge.latency.effect import slow_down
from kdedge.latency.launches import run_launch
from kdedge.latency.pairs import MEDIAN, Pair, orders, timed_launch
from kdedge.latency.summary import Launch
from kdedge.regression.arms import Given, of_file, with_inputs_of
from kdedge.runtimes.job import LaunchRule

WANTED = 5.0
CLOSE = 0.5
UNIT = 16  # channels that ONNX Runtime computes together
FIRST_UNITS, MOST_UNITS = 8, 256
ROUNDS = 6
TRIAL_PAIRS, FINAL_PAIRS = 6, 12
TRIAL = LaunchRule(warmup_seconds=0.3, min_seconds=0.6, min_iterations=64, max_seconds=10.0)
FINAL = LaunchRule(warmup_seconds=0.5, min_seconds=2.0, min_iterations=64, max_seconds=10.0)


@dataclass(frozen=True)
class Work:
    """Channels added; MACs added, as a share of the network's; and the slow-down that longer launches showed, in percent."""

    channels: int
    macs_share: float
    effect: Estimate
    sha256: str


def base_model(folder: Path) -> tuple[Path, Path]:
    """The float ResNet-20 for batch 1, and an `.npz` with one test image.

    Raises:
        SystemExit: the shared teacher and CIFAR-10 are not there.
    """
    from quantization_models import load, prepare

    subject = prepare("resnet20", folder / "resnet20", folder / "cache", calibration=1, test=1)
    image = folder / "image.npz"
    np.savez(image, **{name: array[:1] for name, array in load(subject.test).items()})  # type: ignore[arg-type]
    return subject.fixed, image


def arm(model: Path, image: Path, folder: Path) -> Arm:
    """A model with ONNX Runtime's usual options, one thread, on the image."""
    return of_file(model, Given(inputs=image), folder)


def write_heavier(base: Path, out: Path, channels: int) -> float:
    """The base with a convolution of `channels` more. Returns its multiplications as a share of the base's convolutions and matrix products."""
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(str(base))
    graph = model.graph
    image, logits = graph.input[0].name, graph.output[0].name
    _, depth, height, width = (size.dim_value for size in graph.input[0].type.tensor_type.shape.dim)
    classes = graph.output[0].type.tensor_type.shape.dim[1].dim_value
    for node in graph.node:
        node.output[:] = ["logits_before" if name == logits else name for name in node.output]
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> str:
        graph.initializer.append(numpy_helper.from_array((random.standard_normal(shape) / 100).astype(np.float32), name))
        return name

    graph.node.extend(
        [
            helper.make_node("Conv", [image, weight("more_w", channels, depth, 3, 3)], ["more_1"], name="more/conv", pads=[1] * 4, strides=[2, 2]),
            helper.make_node("Relu", ["more_1"], ["more_2"], name="more/relu"),
            helper.make_node("GlobalAveragePool", ["more_2"], ["more_3"], name="more/pool"),
            helper.make_node("Flatten", ["more_3"], ["more_4"], name="more/flatten"),
            helper.make_node("MatMul", ["more_4", weight("more_head", channels, classes)], ["more_5"], name="more/head"),
            helper.make_node("Add", ["logits_before", "more_5"], [logits], name="more/add"),
        ]
    )
    onnx.checker.check_model(model)
    out.write_bytes(model.SerializeToString())
    added: int = channels * (9 * depth * (height // 2) * (width // 2) + classes)
    return added / _macs(base)


def calibrated(device: Device, base: Path, image: Path, folder: Path, told: Callable[[str], None]) -> tuple[Path, Work]:
    """The heavier model whose slow-down is closest to 5 %, as launches here find it.

    Raises:
        SystemExit: no number of channels comes to 5 +- 0.5 %, or too many launches were disturbed.
    """
    out, units, tried = folder / "heavier.onnx", FIRST_UNITS, {}
    for _ in range(ROUNDS):
        write_heavier(base, out, units * UNIT)
        tried[units] = measured(device, base, out, image, folder, TRIAL_PAIRS, TRIAL).value
        told(f"{units * UNIT} channels: {tried[units]:+.2f} %")
        if abs(tried[units] - WANTED) > CLOSE / 2:
            units = _next_units(tried)
        if units in tried:
            break
    units = min(tried, key=lambda count: abs(tried[count] - WANTED))
    share = write_heavier(base, out, units * UNIT)
    effect = measured(device, base, out, image, folder, FINAL_PAIRS, FINAL)
    told(f"{units * UNIT} channels, {FINAL_PAIRS} pairs of longer launches: {effect}")
    if abs(effect.value - WANTED) > CLOSE:
        raise SystemExit(f"the work that was found to take {WANTED:g} % takes {effect}: the machine is not quiet enough to calibrate it; try again")
    return out, Work(units * UNIT, share, effect, hashlib.sha256(out.read_bytes()).hexdigest())


def measured(device: Device, base: Path, heavier: Path, image: Path, folder: Path, pairs: int, rule: LaunchRule) -> Estimate:
    """How much slower the heavier is, from launches in ABBA order; pairs that the check would drop are left out."""
    first = arm(base, image, folder / "arm-a")
    arms = {"A": first, "B": with_inputs_of(arm(heavier, image, folder / "arm-b"), first)}
    raw = folder / "calibration"
    found: list[float] = []
    for number, order in enumerate(orders(2 * pairs, int(time.time()))):
        launches = {side: timed_launch(launched(device, arms[side], rule, raw)) for side in order}
        pair = Pair(number, order, launches["A"], launches["B"])
        ratio = pair.log_ratio()
        if pair.valid and ratio is not None:
            found.append(ratio)
        else:
            print(f"  a pair is dropped: {'; '.join(pair.problems)}", file=sys.stderr)
        if len(found) == pairs:
            return slow_down(MEDIAN, found)
    raise SystemExit(f"only {len(found)} of {2 * pairs} pairs of launches were undisturbed: the machine is not quiet enough to calibrate the work")


def launched(device: Device, arm: Arm, rule: LaunchRule, folder: Path) -> Launch:
    """One launch, of which no file is kept; `folder` is made for it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        return run_launch(device, replace(arm.job, launch=rule), folder, 0, 120.0)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _next_units(tried: dict[int, float]) -> int:
    """By the straight line through the two trials around 5 %, or through nothing and the last."""
    below = [(count, effect) for count, effect in tried.items() if effect < WANTED]
    above = [(count, effect) for count, effect in tried.items() if effect >= WANTED]
    if below and above:
        (low, less), (high, more) = max(below), min(above)
        guess = low + (WANTED - less) / (more - less) * (high - low) if more > less else (low + high) / 2
    else:
        count, effect = max(below) if below else min(above)
        guess = count * min(4.0, max(0.25, WANTED / effect)) if effect > 0 else 2.0 * count
    return min(MOST_UNITS, max(1, round(guess)))


def _macs(model: Path) -> float:
    """Multiplications of the convolutions and matrix products, from the shapes of their weights and outputs."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load(str(model))).graph
    weights = {one.name: list(one.dims) for one in graph.initializer}
    sizes: dict[str, list[int]] = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in [*graph.value_info, *graph.output]
    }
    total = 0.0
    for node in graph.node:
        weight: Any = next((weights[name] for name in node.input[1:2] if name in weights), None)
        if node.op_type == "Conv" and weight:
            total += float(np.prod(weight)) * float(np.prod(sizes[node.output[0]][2:]))
        elif node.op_type in ("Gemm", "MatMul") and weight:
            total += float(np.prod(weight))
    return total
