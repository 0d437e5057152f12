"""Throughput of the validate job against a bare loop over the same arrays, with the same ONNX Runtime session. To reach: 95 %.

Run: python benchmarks/validation_throughput.py [MODEL.onnx] [--images 7979] [--batches 1 32]

The job reads memory-mapped `.npy` files and writes every output to disk. The bare loop slices an array in memory and keeps the outputs in a
list. The worker's start is in neither. The images are cut into parts, one bucket each, and both loops take turns part by part, so that a
machine that is busy at times slows both alike. `ratio` is the median over the parts of the job's throughput by the bare loop's beside it
(wall time), `cpu_ratio` that of the processor time of all parts, which other processes touch least.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from resnet20_onnx import write_resnet20

from kdedge.runtimes import adapter
from kdedge.runtimes.arrays import Bucket
from kdedge.runtimes.validate import run_bucket

_PARTS = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", type=Path, help="an ONNX file with one float32 image input; default: a ResNet-20 with random weights")
    parser.add_argument("--images", type=int, default=7979)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--turns", type=int, default=2)
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
        for batch in arguments.batches:
            result = compare(session, images, folder, batch, arguments.turns)
            results.append(result)
            print(
                f"batch {batch:3d}: bare loop {result['bare_per_second']:9.1f} images/s, validate {result['validate_per_second']:9.1f} images/s, "
                f"ratio {result['ratio']:.4f} (processor time {result['cpu_ratio']:.4f})"
            )
    print(json.dumps({"benchmark": "validation_throughput", "model": model.name, "images": arguments.images, "results": results}))


def compare(session: Any, images: npt.NDArray[np.float32], folder: Path, batch: int, turns: int) -> dict[str, float]:
    """Images a second of both and the ratios of the job's to the bare loop's; their outputs must be equal."""
    (name,) = session.input_names
    names = session.output_names
    run = session.native.run
    parts = np.array_split(images, _PARTS)
    for number, part in enumerate(parts):
        np.save(folder / f"part-{number}.npy", part)
    written = {output: str(folder / f"output-{number}.npy") for number, output in enumerate(names)}

    def bare(number: int) -> list[Any]:
        part = parts[number]
        return [run(names, {name: part[start : start + batch]}) for start in range(0, len(part), batch)]

    def validate(number: int) -> None:
        with Bucket({name: str(folder / f"part-{number}.npy")}) as bucket:
            run_bucket(bucket, session, batch, fixed=False, paths=written)

    rows = []
    for turn in range(turns * _PARTS):
        number = turn % _PARTS
        order: list[Callable[[int], Any]] = [bare, validate] if turn % 2 == 0 else [validate, bare]
        taken = {loop: _seconds(loop, number) for loop in order}
        rows.append((*taken[bare], *taken[validate]))
        if turn == 0:
            expected = np.concatenate([outputs[0] for outputs in bare(number)])
            if not np.array_equal(np.load(written[names[0]]), expected):
                raise SystemExit("the job's outputs differ from the bare loop's")
    bare_wall, bare_cpu, job_wall, job_cpu = (sum(column) for column in zip(*rows, strict=True))
    return {
        "batch": batch,
        "turns": turns,
        "bare_per_second": round(turns * len(images) / bare_wall, 1),
        "validate_per_second": round(turns * len(images) / job_wall, 1),
        "ratio": round(statistics.median(base / ours for base, _, ours, _ in rows), 5),
        "cpu_ratio": round(bare_cpu / job_cpu, 5),
    }


def _seconds(loop: Callable[[int], Any], number: int) -> tuple[float, float]:
    """Wall and processor time of one part."""
    wall, cpu = time.perf_counter(), time.process_time()
    loop(number)
    return time.perf_counter() - wall, time.process_time() - cpu


if __name__ == "__main__":
    main()
