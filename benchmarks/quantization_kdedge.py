"""kdedge's side of `quantization.py`, in a process of its own, so that its memory can be read as the peers' is.

Run: python benchmarks/quantization_kdedge.py MODEL FOLDER OUT [--runtime NAME ...] [--plain] [--distill [--steps N] [--held N]]

FOLDER holds what `quantization_models.py` writes. Writes OUT/onnxruntime.onnx (in the dialect of this CPU), OUT/as-written.onnx (in that for VNNI)
and OUT/openvino.xml, and prints one line of JSON: seconds and peak
memory of the range collection, the seconds of a plain float pass over the same examples in the same batches, and what each recovery step brought.
A step, and the distillation, is in the files only where it was kept, as in a recipe.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from quantization_measure import AS_WRITTEN
from quantization_models import Subject, data_root, load
from result_page import saturates

from kdedge.exporters.dialects.dialect import Dialect
from kdedge.exporters.dialects.onnxruntime_x86 import AVX2
from kdedge.exporters.dialects.onnxruntime_x86 import DIALECT as ONNXRUNTIME
from kdedge.exporters.dialects.openvino import AVX2 as OPENVINO_AVX2
from kdedge.exporters.dialects.openvino import DIALECT as OPENVINO
from kdedge.exporters.dialects.validate import validate
from kdedge.exporters.openvino import write_ir
from kdedge.exporters.quantize.calibrate import observe
from kdedge.exporters.quantize.lower import lower
from kdedge.exporters.quantize.ranges import write_table
from kdedge.exporters.quantize.recover import batches_of, recover_graph
from kdedge.exporters.quantize.tensors import write_tensors
from kdedge.recipe import QuantizeSection
from kdedge.runtimes.memory import peak_memory_bytes

RECOVER = ("normalization", "equalization", "adaptive_rounding", "bias_correction")
#: Steps of the distillation; all else is as a recipe has it that says no more.
STEPS = 1500
#: By runtime: what a user of this very CPU would ask for.
DIALECTS: dict[str, Dialect] = {
    "onnxruntime": AVX2 if saturates() else ONNXRUNTIME,
    AS_WRITTEN: ONNXRUNTIME,
    "openvino": OPENVINO_AVX2 if saturates() else OPENVINO,
}

Arrays = dict[str, npt.NDArray[Any]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--runtime", action="append", choices=DIALECTS, help="default: onnxruntime and openvino")
    parser.add_argument("--plain", action="store_true", help="ranges by the least squared error, no recovery")
    parser.add_argument("--distill", action="store_true", help="quantization-aware distillation from the float model, on the training images")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the distillation")
    parser.add_argument("--held", type=int, help="images that judge the distillation; default: as many as in a recipe")
    arguments = parser.parse_args()
    subject = Subject(arguments.model, arguments.folder)
    arguments.out.mkdir(parents=True, exist_ok=True)
    report = _dynamic(subject, arguments.out) if "input_ids" in load(subject.calibration) else _static(subject, arguments)
    print(json.dumps(report))


def _dynamic(subject: Subject, out: Path) -> dict[str, Any]:
    """A transformer: integer weights, activation ranges measured at each call, after the channels' sizes were made alike."""
    from kdedge.exporters.dynamic import quantize_dynamically
    from kdedge.exporters.model_file import load_model, save_model
    from kdedge.exporters.smoothing import channel_sizes

    begin = time.monotonic()
    model, feeds = load_model(subject.fixed), load(subject.calibration)
    lengths = feeds["attention_mask"].sum(axis=1)
    sizes = channel_sizes(model, ({name: feeds[name][row : row + 1, :length] for name in feeds} for row, length in enumerate(lengths)))
    peak = _peak_memory_mb()
    quantized = quantize_dynamically(model, channels=sizes)
    save_model(quantized.model, out / "onnxruntime.onnx")
    return {"seconds": time.monotonic() - begin, "peak_memory_mb": peak, "notes": list(quantized.notes)}


def _static(subject: Subject, arguments: argparse.Namespace) -> dict[str, Any]:
    begin = time.monotonic()
    settings = QuantizeSection.model_validate({} if arguments.plain else {"observer": "best", "recover": RECOVER})
    feeds = load(subject.calibration)
    table = observe(subject.float, batches_of(feeds), settings)
    collected, peak = time.monotonic() - begin, _peak_memory_mb()
    report: dict[str, Any] = {"collection_seconds": collected, "peak_memory_mb": peak, "steps": {}, "notes": {}}
    for runtime in arguments.runtime or ("onnxruntime", "openvino"):
        dialect = DIALECTS[runtime]
        found = recover_graph(subject.float, table, batches_of(feeds), settings, dialect, arguments.out)
        ranges, weights, steps = found.table, found.weights, found.steps
        if arguments.distill:
            training = arguments.out / f"{runtime}-training"
            ranges, weights, step = _distilled(subject, ranges, weights, dialect, feeds, arguments.steps, training, arguments.held)
            steps = (*steps, step)
        report["steps"][runtime] = [asdict(step) for step in steps]
        report["notes"][runtime] = _write(subject, ranges, weights, dialect, arguments.out / f"{runtime}.onnx")
        if runtime == "openvino":
            write_ir(arguments.out / "openvino.onnx", arguments.out / "openvino.xml", half=False, properties={})
    report["seconds"], report["whole_peak_memory_mb"] = time.monotonic() - begin, _peak_memory_mb()
    report["float_pass_seconds"] = _float_pass(subject.float, feeds)
    return report


def _peak_memory_mb() -> float | None:
    peak = peak_memory_bytes()
    return None if peak is None else peak / (1 << 20)


def _write(subject: Subject, table: Any, weights: Any, dialect: Dialect, out: Path) -> list[str]:
    ranges, tensors = out.with_suffix(".ranges.json"), None
    write_table(table, ranges)
    if weights:
        tensors = out.with_suffix(".safetensors")
        write_tensors(weights, tensors)
    lowered = lower(subject.fixed, ranges, dialect, out, tensors)
    validate(out, dialect, set(lowered.kept))
    return list(lowered.notes)


def _distilled(
    subject: Subject, table: Any, weights: Any, dialect: Dialect, seen: Arrays, steps: int, folder: Path, held: int | None = None
) -> tuple[Any, Any, Any]:
    """Learn from the float model on training images that are no calibration examples; the gain is measured on others of them, as a recipe does.

    On all cores: it is what takes longest by far, no peer does it, and nothing is timed meanwhile.
    """
    import torch

    from kdedge.exporters.quantize.aware import HELD, learn
    from kdedge.recipe import AwareSection

    with np.load(data_root() / "cifar10.npz", allow_pickle=False) as arrays:
        others = arrays["x_train"][len(seen["image"]) :]
    count = HELD if held is None else held
    judges, images = others[:count].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255), others[count:]
    section = AwareSection(steps=steps)

    def batches(first: int) -> Iterator[Arrays]:
        for step in range(first, steps):
            yield {"image": augmented(images, section.batch_size, step)}

    folder.mkdir(exist_ok=True)
    torch.set_num_threads(os.cpu_count() or 1)
    learned = learn(
        subject.float, table, dialect, batches, batches_of({"image": judges}, 128), section, weights=weights, folder=folder, what=subject.name
    )
    return (learned.table, learned.tensors, learned.step) if learned.step.kept else (table, weights, learned.step)


def augmented(images: npt.NDArray[np.uint8], size: int, step: int) -> npt.NDArray[np.float32]:
    """`size` images [., 3, 32, 32] in [0, 1], drawn, mirrored and moved by up to 4 pixels: a pure function of the step."""
    draw = np.random.default_rng([0, step])
    padded = np.pad(images[draw.integers(0, len(images), size)], ((0, 0), (4, 4), (4, 4), (0, 0)))
    tops, lefts, mirrored = draw.integers(0, 9, size), draw.integers(0, 9, size), draw.random(size) < 0.5
    cut = np.stack([image[top : top + 32, left : left + 32] for image, top, left in zip(padded, tops, lefts, strict=True)])
    cut[mirrored] = cut[mirrored, :, ::-1]
    return np.ascontiguousarray(cut.transpose(0, 3, 1, 2), np.float32) / np.float32(255)


def _float_pass(model: Path, feeds: Arrays) -> float:
    """Seconds: opening a session with one thread and running all examples through it."""
    from kdedge.runtimes.onnxruntime import open_session

    begin = time.monotonic()
    session = open_session([str(model)], {"threads": 1, "spinning": False})
    for batch in batches_of(feeds):
        session.run(batch)
    return time.monotonic() - begin


if __name__ == "__main__":
    main()
