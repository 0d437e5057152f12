"""kdedge's int8 for ONNX Runtime on x86 against `onnxruntime.quantization.quantize_static` (QDQ, u8 activations, s8 weights per channel).

Run: python benchmarks/quantizer_vs_onnxruntime.py [FLOAT.onnx DATA.npz] [--observer mse] [--pairs N]

Both quantize the same float graph with the same calibration images. To reach: all convolutions integer, not slower by more than 2 %, and more
faithful to the float graph. DATA.npz holds uint8 images [N, H, W, 3] as `x_train` (the first 512 calibrate) and `x_test`. Without arguments the
pretrained ResNet-20 and CIFAR-10 are taken from KDEDGE_DATA, data/ or ../shared/data; where they are not, a ResNet-20 with random weights
and random images stand in, and the output says so.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from resnet20_onnx import write_resnet20

from kdedge.artifact import ImageEncoder
from kdedge.data.encode import encode_images
from kdedge.devices import open_device
from kdedge.devices.jobs import run_job
from kdedge.estimate import Estimate
from kdedge.exporters.dialects.onnxruntime_x86 import DIALECT
from kdedge.exporters.dialects.validate import validate
from kdedge.exporters.quantize.calibrate import observe
from kdedge.exporters.quantize.lower import lower
from kdedge.exporters.quantize.ranges import write_table
from kdedge.fidelity.agreement import top1_agreement
from kdedge.fidelity.divergence import kl_divergence, largest_error, sqnr_estimate
from kdedge.intervals import mean_estimate, median_estimate, paired_difference
from kdedge.recipe import QuantizeSection
from kdedge.runtimes.job import Job, LaunchRule
from kdedge.runtimes.onnxruntime import import_runtime

ort = import_runtime()  # without its telemetry

CALIBRATION = 512
BATCH = 32
OPTIONS = {"threads": 1, "spinning": False}
RULE = LaunchRule(warmup_seconds=0.3, warmup_iterations=30, min_seconds=1.0, min_iterations=200, max_seconds=10.0)

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", type=Path, help="float ONNX with one image input, float32 NCHW in [0, 1]")
    parser.add_argument("data", nargs="?", type=Path, help="npz with x_train and x_test, uint8 [N, H, W, 3]")
    parser.add_argument("--observer", choices=["minmax", "mse"], default="mse")
    parser.add_argument("--pairs", type=int, default=16, help="pairs of launches")
    parser.add_argument("--images", type=int, default=8000, help="test images at most")
    arguments = parser.parse_args()
    if (arguments.model is None) != (arguments.data is None):
        parser.error("give both FLOAT.onnx and DATA.npz, or neither")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = Given(arguments.model.name, arguments.model, *_images(arguments.data)) if arguments.model else _found(folder)
        model, calibration, images = found.model, _encoded(found.train[:CALIBRATION]), _encoded(found.test[: arguments.images])
        files = {"kdedge": folder / "kdedge.onnx", "onnxruntime": folder / "onnxruntime.onnx"}
        quantize_with_kdedge(model, calibration, arguments.observer, files["kdedge"])
        quantize_with_onnxruntime(model, calibration, files["onnxruntime"])
        result = {
            "benchmark": "quantizer_vs_onnxruntime",
            "model": found.label,
            "observer": arguments.observer,
            **compare(model, files, images),
            **latency_ratio(files, images[:1], arguments.pairs, folder),
        }
    print(json.dumps(result))


# ---- the two quantizers ----------------------------------------------------------------------------------------------------


def quantize_with_kdedge(model: Path, calibration: Float32, observer: str, out: Path) -> None:
    """Calibrate, lower, validate."""
    name = _input(model)
    ranges = out.with_suffix(".json")
    batches = ({name: calibration[start : start + BATCH]} for start in range(0, len(calibration), BATCH))
    write_table(observe(model, batches, QuantizeSection.model_validate({"observer": observer})), ranges)
    lower(model, ranges, DIALECT, out)
    validate(out, DIALECT)


def quantize_with_onnxruntime(model: Path, calibration: Float32, out: Path) -> None:
    """The peer, as its documentation recommends for x86: shapes inferred and graph simplified first, then static QDQ by extremes."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self.batches: Iterator[dict[str, Float32]] = iter(
                {name: calibration[start : start + BATCH]} for start in range(0, len(calibration), BATCH)
            )

        def get_next(self) -> dict[str, Float32] | None:
            return next(self.batches, None)

    logging.disable(logging.WARNING)
    prepared = out.with_name("prepared.onnx")
    quant_pre_process(str(model), str(prepared))
    quantize_static(
        str(prepared),
        str(out),
        Reader(_input(model)),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    logging.disable(logging.NOTSET)


# ---- fidelity --------------------------------------------------------------------------------------------------------------


def compare(model: Path, files: dict[str, Path], images: Float32) -> dict[str, Any]:
    """Integer convolutions and fidelity to the float graph of both, and the paired difference of their KL."""
    convolutions = sum(node.op_type == "Conv" for node in onnx.load(model).graph.node)
    reference = _logits(model, images)
    result: dict[str, Any] = {"convolutions": convolutions, "test_images": len(images)}
    divergences = {}
    print(f"{'':12} {'integer convs':>13}  {'agreement':26} {'KL (nats)':34} {'SQNR (dB)':28} largest error")
    for who, path in files.items():
        logits = _logits(path, images)
        divergences[who] = kl_divergence(reference, logits)
        integer = _integer_convolutions(path)
        figures = [
            mean_estimate("agreement", top1_agreement(reference, logits)),
            mean_estimate("kl", divergences[who], "nats"),
            sqnr_estimate("sqnr_db", reference, logits),
        ]
        error = largest_error(reference, logits)
        agreement, kl, ratio = (str(figure) for figure in figures)
        print(f"{who:12} {integer:>6} of {convolutions:<3}  {agreement:26} {kl:34} {ratio:28} {error:.2f}")
        result[who] = {"integer_convolutions": integer, "largest_error": error, **{figure.name: figure.as_json() for figure in figures}}
    difference = paired_difference("kl_difference", divergences["kdedge"], divergences["onnxruntime"], "nats").estimate
    print(f"KL of kdedge minus KL of onnxruntime, image by image: {difference}")
    result["kl_difference"] = difference.as_json()
    return result


def _logits(path: Path, images: Float32) -> Float32:
    session = ort.InferenceSession(str(path), _session_options(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: images[start : start + BATCH]})[0] for start in range(0, len(images), BATCH)])


def _integer_convolutions(path: Path) -> int:
    """Integer convolutions of the graph that the runtime really runs."""
    options = _session_options()
    options.optimized_model_filepath = str(path.with_suffix(".optimized.onnx"))
    ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return sum(node.op_type == "QLinearConv" for node in onnx.load(options.optimized_model_filepath).graph.node)


def _session_options() -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return options


# ---- latency ---------------------------------------------------------------------------------------------------------------


def latency_ratio(files: dict[str, Path], image: Float32, pairs: int, folder: Path) -> dict[str, Any]:
    """Batch 1, one thread; each launch is a fresh process, pairs alternate in ABBA order. A ratio is kdedge's median by onnxruntime's of one pair."""
    np.save(folder / "image.npy", image)
    device = open_device("local")
    medians: dict[str, list[float]] = {who: [] for who in files}
    for pair in range(pairs):
        order = list(files) if pair % 2 == 0 else list(files)[::-1]
        for who in order:
            medians[who].append(_launch(device, files[who], folder))
    ratio = median_estimate("latency_ratio", [ours / theirs for ours, theirs in zip(*medians.values(), strict=True)], "")
    for who, values in medians.items():
        print(f"{who:12} median latency {median_estimate(who, values, 'ms')}")
    print(f"latency ratio {_three(ratio)}  (below 1: kdedge is faster; to reach: at most 1.02)")
    return {"latency_ratio": ratio.as_json(), **{f"{who}_ms": median_estimate(who, values, "ms").as_json() for who, values in medians.items()}}


def _launch(device: Any, model: Path, folder: Path) -> float:
    job = Job(
        kind="launch",
        runtime="onnxruntime",
        graphs={"model": [str(model)]},
        options=OPTIONS,
        buckets=[{_input(model): str(folder / "image.npy")}],
        launch=RULE,
    )
    with tempfile.TemporaryDirectory() as name:
        result = run_job(device, job, Path(name), timeout=120.0)
        if result.status != "ok":
            raise SystemExit(f"a launch of {model.name} {result.status}: {result.reason}")
        return float(np.median(np.load(Path(name) / "samples_ns.npy", allow_pickle=False))) / 1e6


def _three(estimate: Estimate) -> str:
    interval = (
        f"[{estimate.low:.4f}, {estimate.high:.4f}]" if estimate.low is not None and estimate.high is not None else "(no interval: too few pairs)"
    )
    return f"{estimate.value:.4f} {interval}"


# ---- what is quantized -----------------------------------------------------------------------------------------------------


class Given(NamedTuple):
    """A float graph and images to calibrate and to compare with."""

    label: str
    model: Path
    train: UInt8
    test: UInt8


def _images(data: Path) -> tuple[UInt8, UInt8]:
    with np.load(data, allow_pickle=False) as arrays:
        return arrays["x_train"][:CALIBRATION], arrays["x_test"]


def _found(folder: Path) -> Given:
    root = Path(__file__).resolve().parents[1]
    named = os.environ.get("KDEDGE_DATA")
    for place in [Path(named)] if named else [root / "data", root.parent / "shared" / "data"]:
        weights = place / "teachers" / "cifar10_resnet20" / "model.safetensors"
        if weights.exists() and (place / "cifar10.npz").exists():
            return Given("pretrained resnet20", _pretrained(weights, folder), *_images(place / "cifar10.npz"))
        sheets = place / "cifar10"
        if weights.exists() and sheets.is_dir():
            return Given("pretrained resnet20", _pretrained(weights, folder), _sheet(sheets / "train-00.webp"), _sheet(sheets / "test-00.webp"))
    print("pretrained weights and images were not found: random ones stand in, and fidelity says little")
    path = folder / "resnet20.onnx"
    write_resnet20(path)
    images = np.random.default_rng(0).integers(0, 256, (CALIBRATION + 1000, 32, 32, 3)).astype(np.uint8)
    return Given("random resnet20", path, images[:CALIBRATION], images[CALIBRATION:])


def _pretrained(weights: Path, folder: Path) -> Path:
    """The ResNet-20 as the float graph that kdedge exports, with mean and std in it."""
    from kdedge.artifact import Dimension, ImportPath, ModelFiles, TensorSpec
    from kdedge.exporters.onnx import export

    card = json.loads((weights.parent / "card.json").read_text())
    student = ModelFiles(
        name="resnet20",
        factory=ImportPath("kdedge.models.resnet_cifar:resnet20"),
        arguments={"classes": card["num_classes"]},
        weights=weights,
        onnx=None,
        inputs=(TensorSpec("image", "float32", (Dimension("batch", 1, 1, 64), 3, 32, 32)),),
        outputs=("logits",),
        encoder=ImageEncoder(size=(32, 32)),
        classes=tuple(str(number) for number in range(card["num_classes"])),
        normalize=(tuple(card["input"]["mean"]), tuple(card["input"]["std"])),
    )
    return export(student, None, folder=folder).path


def _sheet(path: Path) -> UInt8:
    """The 5,000 images of a full sheet: 32x32 tiles, 50 to a row."""
    from PIL import Image

    pixels = np.asarray(Image.open(path).convert("RGB"))
    return pixels.reshape(100, 32, 50, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)


def _encoded(images: UInt8) -> Float32:
    return encode_images(ImageEncoder(size=(images.shape[1], images.shape[2])), images)


def _input(model: Path) -> str:
    session = ort.InferenceSession(str(model), _session_options(), providers=["CPUExecutionProvider"])
    return str(session.get_inputs()[0].name)


if __name__ == "__main__":
    main()
