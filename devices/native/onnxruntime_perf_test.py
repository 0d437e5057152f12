"""`onnxruntime_perf_test`: launches of `.onnx` and `.ort` files. It writes no outputs, so that it validates nothing.

Options and formats: microsoft/onnxruntime, `onnxruntime/test/perftest/` (`command_args_parser.cc` and `README.md` at 011738c,
`performance_runner.cc` at 77e6dc9 and, for the older names, at 034db1c). What matters of them:

- `test_data_set_0/input_N.pb` beside the model are the inputs, each one a serialised TensorProto, found by its name.
- Every folder beside the model counts as a set of inputs.
- The result file has a line `MODEL,SECONDS,PEAK BYTES,CPU %,RUN` for each timed run, seconds with six significant digits. It is appended to.
- One run comes before them and is printed as the first inference, in whole milliseconds. There is no other warm-up: the first of the timed runs
  are ours.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge.devices.native.bench import OPTIMIZATION_LEVELS, Bench, link_graph
from kdedge.devices.native.phases import enough, runs, save_samples, warm
from kdedge.devices.native.tensor_proto import tensor_proto
from kdedge.runtimes.arrays import Bucket
from kdedge.runtimes.errors import NotAvailable, RuntimeFailure
from kdedge.runtimes.job import Job, Result
from kdedge.runtimes.launch import check_rule
from kdedge.runtimes.onnxruntime import OPTIONS
from kdedge.runtimes.options import read_options

RUNTIME = "onnxruntime"
_INPUTS = "test_data_set_0"
_RESULT = "times.csv"
# command_args_parser.cc: `-e`. The CPU is always the last resort and needs no name.
_PROVIDERS = {
    "CPUExecutionProvider": "cpu",
    "XnnpackExecutionProvider": "xnnpack",
    "NnapiExecutionProvider": "nnapi",
    "QNNExecutionProvider": "qnn",
    "AclExecutionProvider": "acl",
    "WebGpuExecutionProvider": "webgpu",
}
# onnxruntime_session_options_config_keys.h
_ENTRIES = {
    "qdq_int8_allowed": "session.qdqisint8allowed",
    "unpack_weights": "session.disable_quant_qdq",
    "x64_quant_precision": "session.x64quantprecision",
}
_SECONDS = r"\d+(?:\.\d*)?(?:[eE][+-]?\d+)?"
_PRINTED = {
    "load_s": rf"^Session creation time cost: *({_SECONDS}) s",
    "first_ms": r"^First inference time cost: *(\d+) ms",
    "peak_bytes": r"^Peak working set size: *(\d+)",
    "cpu_percent": r"^Avg CPU usage: *(\d+)",
}


def stage(job: Job, folder: Path, content: Path) -> None:
    """The model, and the first `batch` examples as protobufs beside it.

    Raises:
        RuntimeFailure: a file is missing, or an input has a type that ONNX does not know.
    """
    link_graph(next(iter(job.graphs.values())), folder, content)
    if not job.buckets:
        raise RuntimeFailure("a launch needs a bucket of inputs; this job has none")
    (content / _INPUTS).mkdir()
    with Bucket({name: str(folder / path) for name, path in job.buckets[0].items()}) as bucket:
        for number, (name, array) in enumerate(bucket.first(job.batch).items()):
            (content / _INPUTS / f"input_{number}.pb").write_bytes(tensor_proto(name, array))


def arguments(options: dict[str, Any]) -> list[str]:
    """Its options for those of a session.

    Raises:
        RuntimeFailure: an option that the runtime does not have.
        NotAvailable: a provider that the program cannot be asked for.
    """
    effective = read_options(RUNTIME, options, OPTIONS)
    provider = effective["providers"][0]
    if provider not in _PROVIDERS:
        raise NotAvailable(f"onnxruntime_perf_test is not asked for {provider} (it is for: {', '.join(_PROVIDERS)})")
    argv = ["-e", _PROVIDERS[provider], "-o", OPTIMIZATION_LEVELS[effective["optimization"]]]
    if effective["threads"] is not None:
        argv += ["-x", str(effective["threads"])]
    if effective["inter_threads"] is not None:
        argv += ["-y", str(effective["inter_threads"]), *(["-P"] if effective["inter_threads"] > 1 else [])]
    if effective["spinning"] is False:
        argv += ["-D"]
    entries = " ".join(f"{key}|{int(effective[name])}" for name, key in _ENTRIES.items() if effective[name] is not None)
    return argv + (["-C", entries] if entries else [])


def launch(job: Job, folder: Path, bench: Bench) -> Result:
    """One launch: by time, and where the model is so slow that this gives too few runs, once more by count.

    Raises:
        NotAvailable, RuntimeFailure: it cannot do what is asked, failed, or printed no times.
    """
    rule = job.launch
    check_rule(rule)
    model = f"{bench.content}/{Path(next(iter(job.graphs.values()))[0]).name}"
    argv = arguments(job.options)
    # The program takes whole seconds; one more leaves room for the run that ends each phase.
    seconds = int(rule.warmup_seconds + rule.min_seconds) + 1
    timed = rule.warmup_seconds + rule.min_seconds > 0
    mode = ["-m", "duration", "-t", str(seconds)] if timed else ["-m", "times", "-r", str(runs(rule, 0.0))]
    printed, samples = _measure(bench, [*argv, *mode, model, _RESULT])
    cut = warm(samples, rule)
    if not enough(samples[cut:], rule):
        mode = ["-m", "times", "-r", str(runs(rule, float(samples.mean()) / 1e9))]
        printed, samples = _measure(bench, [*argv, *mode, model, _RESULT])
        cut = warm(samples, rule)
    save_samples(folder, samples[:cut], samples[cut:])
    return Result(
        status="ok",
        load_ms=printed["load_s"] * 1000 if "load_s" in printed else None,
        # Cut to whole milliseconds by the program: 0 says nothing.
        first_inference_ms=printed.get("first_ms") or None,
        iterations=len(samples) - cut,
        examples=job.batch,
        loop_seconds=float(samples[cut:].sum()) / 1e9,
        peak_memory_bytes=int(printed["peak_bytes"]) if "peak_bytes" in printed else None,
        facts={"arguments": [*argv, *mode], **({"cpu_percent": printed["cpu_percent"]} if "cpu_percent" in printed else {})},
    )


def read_printed(text: str) -> dict[str, float]:
    """What it prints, by name; what a version does not print is absent."""
    found = {name: re.search(pattern, text, re.MULTILINE) for name, pattern in _PRINTED.items()}
    return {name: float(match[1]) for name, match in found.items() if match}


def read_times(text: str) -> npt.NDArray[np.int64]:
    """Every timed run of a result file, in ns and in order. Lines that are no run (statistics) are passed over.

    Raises:
        RuntimeFailure: there is none, or one is missing.
    """
    times: list[int] = []
    for line in text.splitlines():
        fields = line.rsplit(",", 4)
        if len(fields) == 5 and re.fullmatch(_SECONDS, fields[1]) and fields[4].strip().isdigit():
            if int(fields[4]) != len(times):
                raise RuntimeFailure(f"onnxruntime_perf_test's result file has run {fields[4].strip()} where run {len(times)} should be")
            times.append(round(float(fields[1]) * 1e9))
    if not times:
        raise RuntimeFailure("onnxruntime_perf_test wrote no times into its result file")
    return np.array(times, dtype=np.int64)


def _measure(bench: Bench, argv: list[str]) -> tuple[dict[str, float], npt.NDArray[np.int64]]:
    completed = bench.checked(f"rm -f {_RESULT}; {bench.line(argv)} && : >>{_RESULT}")
    if "Run failed:" in completed.stdout:
        raise RuntimeFailure(f"{bench.name}: {completed.stdout.partition('Run failed:')[2].splitlines()[0].strip()}")
    return read_printed(completed.stdout), read_times(bench.written(_RESULT))
