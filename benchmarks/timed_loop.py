"""How much the launch job's timed loop costs over a bare loop around the same ONNX Runtime session. To reach: 1 %.

Run: python benchmarks/timed_loop.py [MODEL.onnx] [--batch N]

Two bare loops: one without any clock inside, `for _ in range(n): session.run(names, inputs)`, whose whole time is compared with the timed
loop's whole time; and one that reads the clock before and after each call, whose median is compared with the median of kdedge's samples.
All three take turns in one process, in rotating order; a ratio is the median over the turns.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from resnet20_onnx import write_resnet20

from kdedge.runtimes import adapter
from kdedge.runtimes.launch import timed

_TURN_SECONDS = 0.1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", type=Path, help="an ONNX file with one float32 image input; default: a ResNet-20 with random weights")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--turns", type=int, default=60)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model
        if model is None:
            model = Path(folder) / "resnet20.onnx"
            write_resnet20(model)
        session = adapter("onnxruntime").open_session([str(model)], {"threads": 1, "spinning": False})
        result = compare(session, arguments.batch, arguments.turns)
    print(f"whole time: bare loop {result['bare_us']:9.2f} us a call, timed loop {result['loop_us']:9.2f} us, ratio {result['loop_ratio']:.4f}")
    print(f"median:     bare loop {result['median_us']:9.2f} us a call, timed loop {result['sample_us']:9.2f} us, ratio {result['sample_ratio']:.4f}")
    print(json.dumps({"benchmark": "timed_loop", "model": model.name, **result}))


def compare(session: Any, batch: int, turns: int) -> dict[str, float]:
    """Medians in microseconds an inference and their ratios to the bare loop's."""
    (described,) = session.native.get_inputs()
    shape = [batch, *(size if isinstance(size, int) else 32 for size in described.shape[1:])]
    inputs = {described.name: np.random.default_rng(0).random(shape, dtype=np.float32)}
    names = session.output_names

    run = session.native.run
    clock = time.perf_counter_ns

    def bare(count: int) -> tuple[float, float]:
        begin = clock()
        for _ in range(count):
            run(names, inputs)
        return (clock() - begin) / count, 0.0

    def clocked(count: int) -> tuple[float, float]:
        samples = []
        for _ in range(count):
            begin = clock()
            run(names, inputs)
            samples.append(clock() - begin)
        return 0.0, float(np.median(samples))

    def ours(count: int) -> tuple[float, float]:
        begin = clock()
        samples = timed(lambda: session.run(inputs), count, 0.0, 600.0)
        return (clock() - begin) / count, float(np.median(samples))

    gc.freeze()  # the collection before the loop, over all that this script has imported, is not the loop
    per_call, _ = bare(20)
    count = max(5, int(_TURN_SECONDS * 1e9 / per_call))
    loops = [bare, clocked, ours]
    rows = []
    for turn in range(turns):
        order = loops[turn % 3 :] + loops[: turn % 3]
        taken = {loop.__name__: loop(count) for loop in (order if turn % 2 else reversed(order))}
        rows.append((taken["bare"][0], taken["ours"][0], taken["clocked"][1], taken["ours"][1]))
    names_of = ("bare_us", "loop_us", "median_us", "sample_us")
    figures = {name: round(statistics.median(column) / 1e3, 3) for name, column in zip(names_of, zip(*rows, strict=True), strict=True)}
    return {
        "batch": batch,
        "turns": turns,
        "iterations_a_turn": count,
        **figures,
        "loop_ratio": round(statistics.median(row[1] / row[0] for row in rows), 5),
        "sample_ratio": round(statistics.median(row[3] / row[2] for row in rows), 5),
    }


if __name__ == "__main__":
    main()
