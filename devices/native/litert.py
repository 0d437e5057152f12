"""LiteRT's (TensorFlow Lite's) `benchmark_model`: outputs of every example, and a summary of a launch's times.

Options and formats: google-ai-edge/LiteRT, `tflite/tools/benchmark/benchmark_tflite_model.cc` at 01d971c and `benchmark_model.cc` at 7d88950;
`Stat::OutputToStream` of tensorflow/tensorflow, `tensorflow/core/util/stats_calculator.h`. What matters of them:

- Times are printed as a count, extremes, average and deviation in microseconds, never one by one, so that a launch has no percentiles and is
  reported as not run, with the summary among its facts.
- `--input_layer*` give inputs by their order; files are raw arrays of exactly the tensor's bytes; `:` in a name is written `::`.
- `--output_filepath` writes the outputs of the last run one behind another, raw.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.devices.native import batches
from kdedge.devices.native.bench import Bench
from kdedge.devices.native.tflite_file import TensorInfo, inputs_and_outputs
from kdedge.runtimes.arrays import Bucket
from kdedge.runtimes.errors import RuntimeFailure
from kdedge.runtimes.job import Job, Result
from kdedge.runtimes.launch import check_rule
from kdedge.runtimes.options import Option, read_options

RUNTIME = "litert"
OPTIONS = {
    "threads": Option(int, "threads inside an operator", minimum=1),
    "xnnpack": Option(bool, "whether XNNPACK's kernels are used; LiteRT decides where this is not said"),
}
_NUMBER = r"([\d.]+(?:[eE][+-]?\d+)?)"
_TIMINGS = re.compile(rf"Init: {_NUMBER}, First inference: {_NUMBER}, Warmup \(avg\): {_NUMBER}, Inference \(avg\): {_NUMBER}")
_COUNTS = re.compile(r"\bcount=(\d+)\b(.*)")
_STATISTIC = re.compile(rf"(\w+)={_NUMBER}")


stage = batches.stage


def launch(job: Job, folder: Path, bench: Bench) -> Result:
    """One launch. Its status is `not-run`: the program tells no single times; what it tells is among the facts.

    Raises:
        RuntimeFailure: the inputs do not fit the model, the program failed, or printed no times.
    """
    rule = job.launch
    check_rule(rule)
    inputs, _ = inputs_and_outputs(_model(job, folder))
    with Bucket({name: str(folder / path) for name, path in job.buckets[0].items()}) as bucket:
        arrays = bucket.first(job.batch)
    argv = [
        *_common(job, bench),
        *(f"--num_runs={rule.min_iterations}", f"--min_secs={rule.min_seconds:g}", f"--max_secs={rule.max_seconds:g}"),
        *(f"--warmup_runs={rule.warmup_iterations}", f"--warmup_min_secs={rule.warmup_seconds:g}"),
        *input_arguments(inputs, arrays, bench.content),
    ]
    completed = bench.checked(bench.line(argv))
    found = summary(completed.stdout + completed.stderr)
    return Result(
        status="not-run",
        reason=(
            f"benchmark_model tells no single times, so that there are no percentiles and no intervals; it tells {found['count']:.0f} runs "
            f"with an average of {found['average_us'] / 1000:.4g} ms"
        ),
        load_ms=found["init_us"] / 1000,
        first_inference_ms=found["first_us"] / 1000,
        iterations=int(found["count"]),
        examples=job.batch,
        facts={"summary": found, "arguments": argv},
    )


def validate(job: Job, folder: Path, bench: Bench) -> Result:
    """The outputs of every example.

    Raises:
        RuntimeFailure: the inputs do not fit the model, the program failed, or wrote other outputs than the model has.
    """
    inputs, outputs = inputs_and_outputs(_model(job, folder))
    common = [*_common(job, bench), "--num_runs=1", "--min_secs=0", "--warmup_runs=1", "--warmup_min_secs=0"]

    def arguments(arrays: batches.Arrays, there: str, back: str) -> list[str]:
        return [*common, *input_arguments(inputs, arrays, there), f"--output_filepath={back}/outputs.bin"]

    return batches.validate(job, folder, bench, arguments, lambda here, printed, rows: read_outputs(here / "outputs.bin", outputs, rows))


def input_arguments(wanted: list[TensorInfo], given: batches.Arrays, there: str) -> list[str]:
    """The options that give inputs: names and shapes in the model's order, and the files `there`/input-N.bin in the job's order.

    Raises:
        RuntimeFailure: the inputs are other ones than the model's, or a name cannot be written.
    """
    names, tensors = list(given), {tensor.name: tensor for tensor in wanted}
    if len(names) == len(wanted) == 1:  # exporters rename a single input as they like
        tensors = {names[0]: wanted[0]}
    if set(names) != set(tensors):
        raise RuntimeFailure(f"the job gives the inputs {', '.join(sorted(names))}, the model takes {', '.join(sorted(tensors))}")
    files, shapes, labels = [], [], []
    for name, tensor in tensors.items():
        if tensor.dtype != given[name].dtype.name or len(tensor.shape) != given[name].ndim:
            taken = f"{tensor.dtype or 'another type'}{list(tensor.shape)}"
            raise RuntimeFailure(f"input `{name}` is {given[name].dtype}{list(given[name].shape)}, the model takes {taken}")
        if "," in tensor.name:
            raise RuntimeFailure(f"benchmark_model cannot be given the input `{tensor.name}`: a comma ends a name there")
        labels.append(tensor.name)
        shapes.append(",".join(map(str, given[name].shape)))
        files.append(f"{tensor.name.replace(':', '::')}:{there}/input-{names.index(name)}.bin")
    return [f"--input_layer={','.join(labels)}", f"--input_layer_shape={':'.join(shapes)}", f"--input_layer_value_files={','.join(files)}"]


def read_outputs(path: Path, outputs: list[TensorInfo], rows: int) -> dict[str, npt.NDArray[Any]]:
    """The outputs of one run, cut out of the one file.

    Raises:
        RuntimeFailure: the file is missing, or holds another number of bytes than the model's outputs for `rows` examples.
    """
    if not path.is_file():
        raise RuntimeFailure("benchmark_model wrote no outputs: its version may not know --output_filepath")
    data, found, start = path.read_bytes(), {}, 0
    for output in outputs:
        if not output.dtype:
            raise RuntimeFailure(f"output `{output.name}` is of a type that numpy does not have")
        shape = (rows, *output.shape[1:])
        size = int(np.prod(shape)) * np.dtype(output.dtype).itemsize
        found[output.name] = data[start : start + size], output.dtype, shape
        start += size
    if start != len(data):
        raise RuntimeFailure(f"benchmark_model wrote {len(data)} bytes of outputs; the model's outputs for {rows} examples have {start}")
    return {name: np.frombuffer(raw, dtype=dtype).reshape(shape) for name, (raw, dtype, shape) in found.items()}


def summary(printed: str) -> dict[str, float]:
    """What it tells of the timed runs: `count`, `average_us`, `init_us`, `first_us`, `warmup_us`, and what else stands beside the count (us).

    Raises:
        RuntimeFailure: it printed none of it.
    """
    timings = _TIMINGS.search(printed)
    counts = _COUNTS.findall(printed)
    if timings is None or not counts:
        raise RuntimeFailure("benchmark_model printed no times")
    init, first, warmup, average = (float(value) for value in timings.groups())
    # The last row of statistics is of the timed runs, the one before it of the warm-up.
    others = {f"{name}_us": float(value) for name, value in _STATISTIC.findall(counts[-1][1]) if name in ("min", "max", "std", "median", "p5", "p95")}
    return {"count": float(counts[-1][0]), "average_us": average, "init_us": init, "first_us": first, "warmup_us": warmup, **others}


def _common(job: Job, bench: Bench) -> list[str]:
    options = read_options(RUNTIME, job.options, OPTIONS)
    argv = [f"--graph={bench.content}/{Path(next(iter(job.graphs.values()))[0]).name}"]
    if options["threads"] is not None:
        argv.append(f"--num_threads={options['threads']}")
    if options["xnnpack"] is not None:
        argv.append(f"--use_xnnpack={str(options['xnnpack']).lower()}")
    return argv


def _model(job: Job, folder: Path) -> Path:
    return folder / next(iter(job.graphs.values()))[0]
