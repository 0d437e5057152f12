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
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from quantization_measure import latency_ratio, paired_launches
from quantization_models import data_places, export_resnet, save
from quantization_peers import PEERS
from resnet20_onnx import write_resnet20

from kdedge.artifact import ImageEncoder
from kdedge.data.encode import encode_images
from kdedge.estimate import Estimate
from kdedge.exporters.dialects.onnxruntime_x86 import DIALECT
from kdedge.exporters.dialects.validate import validate
from kdedge.exporters.quantize.calibrate import observe
from kdedge.exporters.quantize.lower import lower
from kdedge.exporters.quantize.ranges import write_table
from kdedge.exporters.quantize.recover import batches_of
from kdedge.fidelity.agreement import top1_agreement
from kdedge.fidelity.divergence import kl_divergence, largest_error, sqnr_estimate
from kdedge.intervals import mean_estimate, median_estimate, paired_difference
from kdedge.recipe import QuantizeSection
from kdedge.runtimes.onnxruntime import import_runtime

ort = import_runtime()  # without its telemetry

CALIBRATION = 512
BATCH = 32

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
    if arguments.pairs < 1:
        parser.error("--pairs: at least 1")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = Given(arguments.model.name, arguments.model, *_images(arguments.data)) if arguments.model else _found(folder)
        model, calibration, images = found.model, _encoded(found.train[:CALIBRATION]), _encoded(found.test[: arguments.images])
        files = {"kdedge": folder / "kdedge.onnx", "onnxruntime": folder / "onnxruntime.onnx"}
        quantize_with_kdedge(model, calibration, arguments.observer, files["kdedge"])
        logging.disable(logging.WARNING)
        PEERS["onnxruntime-minmax"](model, {_input(model): calibration}, files["onnxruntime"])
        logging.disable(logging.NOTSET)
        result = {
            "benchmark": "quantizer_vs_onnxruntime",
            "model": found.label,
            "observer": arguments.observer,
            **compare(model, files, images),
            **compare_latency(model, files, images[:1], arguments.pairs),
        }
    print(json.dumps(result))


def quantize_with_kdedge(model: Path, calibration: Float32, observer: str, out: Path) -> None:
    """Calibrate, lower, validate."""
    ranges = out.with_suffix(".json")
    write_table(observe(model, batches_of({_input(model): calibration}, BATCH), QuantizeSection.model_validate({"observer": observer})), ranges)
    lower(model, ranges, DIALECT, out)
    validate(out, DIALECT)


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


def compare_latency(model: Path, files: dict[str, Path], image: Float32, pairs: int) -> dict[str, Any]:
    """Batch 1, one thread; each launch is a fresh process, pairs alternate in ABBA order. A ratio is kdedge's median by onnxruntime's of one pair."""
    inputs = files["kdedge"].with_name("image.npz")
    save(inputs, {_input(model): image})
    taken = paired_launches(files["kdedge"], files["onnxruntime"], "onnxruntime", inputs, pairs)
    medians = {who: median_estimate(who, values, "ms") for who, values in zip(files, zip(*taken, strict=True), strict=True)}
    for who, median in medians.items():
        print(f"{who:12} median latency {median}")
    ratio = latency_ratio(taken)
    print(f"latency ratio {_three(ratio)}  (below 1: kdedge is faster; to reach: at most 1.02)")
    return {"latency_ratio": ratio.as_json(), **{f"{who}_ms": median.as_json() for who, median in medians.items()}}


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
    for place in data_places():
        weights = place / "teachers" / "cifar10_resnet20" / "model.safetensors"
        if weights.exists() and (place / "cifar10.npz").exists():
            return Given("pretrained resnet20", export_resnet(20, weights, folder).path, *_images(place / "cifar10.npz"))
        sheets = place / "cifar10"
        if weights.exists() and sheets.is_dir():
            return Given(
                "pretrained resnet20", export_resnet(20, weights, folder).path, _sheet(sheets / "train-00.webp"), _sheet(sheets / "test-00.webp")
            )
    print("pretrained weights and images were not found: random ones stand in, and fidelity says little")
    path = folder / "resnet20.onnx"
    write_resnet20(path)
    images = np.random.default_rng(0).integers(0, 256, (CALIBRATION + 1000, 32, 32, 3)).astype(np.uint8)
    return Given("random resnet20", path, images[:CALIBRATION], images[CALIBRATION:])


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
