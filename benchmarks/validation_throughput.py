"""Throughput of the validate job against a bare loop over the same arrays, with the same ONNX Runtime session. To reach: 95 %.

Run: python benchmarks/validation_throughput.py [MODEL.onnx] [--images 7979] [--batches 1 32]

The job reads memory-mapped `.npy` files and writes every output to disk. The bare loop slices an array in memory and keeps the outputs in a
list. The worker's start is in neither. Both are run in turns in one process; a ratio is the median over the turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from resnet20_onnx import write_resnet20

from kdedge.runtimes import adapter
from kdedge.runtimes.arrays import Bucket
from kdedge.runtimes.validate import run_bucket


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", type=Path, help="an ONNX file with one float32 image input; default: a ResNet-20 with random weights")
    parser.add_argument("--images", type=int, default=7979)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--turns", type=int, default=4)
    arguments = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model
        if model is None:
            model = folder / "resnet20.onnx"
            write_resnet20(model)
        session = adapter("onnxruntime").open_session([str(model)], {"threads": 1, "spinning": False})
        (described,) = session.native.get_inputs()
        shape = [arguments.images, *(size if isinstance(size, int) else 32 for size in described.shape[1:])]
        images = np.random.default_rng(0).random(shape, dtype=np.float32)
        np.save(folder / "images.npy", images)
        for batch in arguments.batches:
            result = compare(session, images, folder, batch, arguments.turns)
            results.append(result)
            print(
                f"batch {batch:3d}: bare loop {result['bare_per_second']:9.1f} images/s, validate {result['validate_per_second']:9.1f} images/s, "
                f"ratio {result['ratio']:.4f}"
            )
    print(json.dumps({"benchmark": "validation_throughput", "model": model.name, "images": arguments.images, "results": results}))


def compare(session: Any, images: npt.NDArray[np.float32], folder: Path, batch: int, turns: int) -> dict[str, float]:
    """Images a second of both, and the ratio of the job's to the bare loop's; their outputs must be equal."""
    (name,) = session.input_names
    whole = len(images) - len(images) % batch  # the bare loop's ragged last batch is one call in both
    paths = {output: str(folder / f"output-{number}.npy") for number, output in enumerate(session.output_names)}

    def bare() -> float:
        run, names = session.native.run, session.output_names
        begin = time.perf_counter()
        kept = [run(names, {name: images[start : start + batch]}) for start in range(0, len(images), batch)]
        seconds = time.perf_counter() - begin
        bare.last = kept[0][0]  # type: ignore[attr-defined]
        return seconds

    def validate() -> float:
        with Bucket({name: str(folder / "images.npy")}) as bucket:
            return run_bucket(bucket, session, batch, fixed=False, paths=paths)

    rows = []
    for turn in range(turns):
        if turn % 2 == 0:
            base, ours = bare(), validate()
        else:
            ours, base = validate(), bare()
        rows.append((base, ours))
    written = np.load(next(iter(paths.values())), mmap_mode="r")
    if not np.array_equal(written[: min(batch, whole)], bare.last[: min(batch, whole)]):  # type: ignore[attr-defined]
        raise SystemExit("the job's outputs differ from the bare loop's")
    base, ours = (statistics.median(column) for column in zip(*rows, strict=True))
    return {
        "batch": batch,
        "turns": turns,
        "bare_per_second": round(len(images) / base, 1),
        "validate_per_second": round(len(images) / ours, 1),
        "ratio": round(statistics.median(base / ours for base, ours in rows), 5),
    }


if __name__ == "__main__":
    main()
