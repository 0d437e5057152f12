"""How much the launch job's timed loop costs over a bare loop around the same ONNX Runtime session. To reach: 1 %.

Run: python benchmarks/timed_loop.py [MODEL.onnx] [--batch N]

The bare loop has no clock inside: `for _ in range(n): session.run(names, inputs)`. Both are run in turns, in ABBA order, in one process;
each ratio is the median over the turns of kdedge's time by the bare loop's beside it.
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
    print(f"bare loop        {result['bare_us']:9.2f} us an inference")
    print(f"timed loop       {result['loop_us']:9.2f} us an inference, ratio {result['loop_ratio']:.4f}")
    print(f"median sample    {result['sample_us']:9.2f} us, ratio to the bare loop {result['sample_ratio']:.4f}")
    print(json.dumps({"benchmark": "timed_loop", "model": model.name, **result}))


def compare(session: Any, batch: int, turns: int) -> dict[str, float]:
    """Medians in microseconds an inference and their ratios to the bare loop's."""
    (described,) = session.native.get_inputs()
    shape = [batch, *(size if isinstance(size, int) else 32 for size in described.shape[1:])]
    inputs = {described.name: np.random.default_rng(0).random(shape, dtype=np.float32)}
    names = session.output_names

    def bare(count: int) -> tuple[float, float]:
        run = session.native.run
        begin = time.perf_counter_ns()
        for _ in range(count):
            run(names, inputs)
        return (time.perf_counter_ns() - begin) / count, 0.0

    def ours(count: int) -> tuple[float, float]:
        begin = time.perf_counter_ns()
        samples = timed(lambda: session.run(inputs), count, 0.0, 600.0)
        return (time.perf_counter_ns() - begin) / count, float(np.median(samples))

    per_call, _ = bare(20)
    count = max(5, int(_TURN_SECONDS * 1e9 / per_call))
    rows = []
    for turn in range(turns):
        first, second = (bare, ours) if turn % 2 == 0 else (ours, bare)
        one, other = first(count), second(count)
        (bare_ns, _), (loop_ns, sample_ns) = (one, other) if turn % 2 == 0 else (other, one)
        rows.append((bare_ns, loop_ns, sample_ns))
    bare_ns, loop_ns, sample_ns = (statistics.median(column) for column in zip(*rows, strict=True))
    return {
        "batch": batch,
        "turns": turns,
        "iterations_a_turn": count,
        "bare_us": round(bare_ns / 1e3, 3),
        "loop_us": round(loop_ns / 1e3, 3),
        "sample_us": round(sample_ns / 1e3, 3),
        "loop_ratio": round(statistics.median(loop / base for base, loop, _ in rows), 5),
        "sample_ratio": round(statistics.median(sample / base for base, _, sample in rows), 5),
    }


if __name__ == "__main__":
    main()
