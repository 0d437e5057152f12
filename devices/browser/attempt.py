"""One attempt of a page at a job: what it delivers, written into a folder of its own and counted only when it is whole.

A page that is reloaded in the middle of a job gets it again as the next attempt; what the first one left is thrown away, so nothing counts twice.
What a page says is not trusted: names never steer a path, numbers of rows are counted here, and text is cut.
"""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdedge.runtimes.arrays import OutputFile
from kdedge.runtimes.errors import RuntimeFailure
from kdedge.runtimes.executed import count_by_dtype
from kdedge.runtimes.job import Job, Result, write_json
from kdedge.runtimes.launch import SAMPLES_FILE, WARMUP_FILE
from kdedge.runtimes.onnxruntime import layers_of
from kdedge.runtimes.validate import EXECUTED_FILE

# onnxruntime-web's names of types; it has no others that are numbers.
_DTYPES = {
    **{name: name for name in ("float32", "float64", "float16", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")},
    "bool": "bool",
}
_OUTPUTS = 256
_BYTES = 4 << 30
_LARGEST = 1 << 31  # of one dimension
_REASON_LENGTH = 600
# A sample of whose length this share or more is a tick of the page's clock says nothing about the inference.
_TICK_SHARE = 0.05


@dataclass
class Attempt:
    """What one page has delivered so far. `rows`: examples of each bucket; `started`: seconds of the monotonic clock."""

    number: int
    folder: Path
    rows: Sequence[int]
    started: float
    note: str = ""
    received: int = 0
    outputs: list[dict[str, tuple[str, OutputFile]]] = field(default_factory=list)
    samples: dict[str, Path] = field(default_factory=dict)
    trace: bytes = b""

    def add_rows(self, bucket: int, name: str, dtype: str, shape: Sequence[int], body: bytes) -> None:
        """Append rows to an output.

        Raises:
            RuntimeFailure: they are no rows of that type and shape, or more than a job may have.
        """
        if dtype not in _DTYPES or not shape or not 0 <= bucket < len(self.rows) or not 0 <= min(shape) <= max(shape) <= _LARGEST:
            raise RuntimeFailure(f"output `{name[:80]}` is no array of numbers: {dtype[:20]}{list(shape)[:8]}")
        if math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize != len(body):
            raise RuntimeFailure(f"output `{name[:80]}` has {len(body)} bytes, which is not {dtype}{list(shape)}")
        self.received += len(body)
        if self.received > _BYTES:
            raise RuntimeFailure(f"the page sent more than {_BYTES >> 30} GiB of outputs")
        self._output(bucket, name).append(np.frombuffer(body, dtype=_DTYPES[dtype]).reshape(shape), shape[0], shape[0])

    def add_samples(self, which: str, body: bytes) -> None:
        """Keep warm-up or timed samples, int64 ns in little endian.

        Raises:
            RuntimeFailure: they are not that.
        """
        names = {"warmup": WARMUP_FILE, "samples": SAMPLES_FILE}
        if which not in names or len(body) % 8:
            raise RuntimeFailure("the page sent samples that are no int64")
        values = np.frombuffer(body, dtype="<i8").astype(np.int64)
        if (values < 0).any():
            raise RuntimeFailure("the page's clock went backwards during the launch")
        self.samples[which] = self.folder / names[which]
        np.save(self.samples[which], values)

    def result(self, job: Job, said: Mapping[str, Any], version: str) -> Result:
        """The result from what the page says and what it delivered; what does not fit together is a failure with its reason."""
        try:
            return self._result(job, said, version)
        except RuntimeFailure as error:
            return Result(status="failed", reason=str(error)[:_REASON_LENGTH], runtime=job.runtime, runtime_version=version)

    def move_to(self, folder: Path) -> None:
        """Put what was delivered where the job's results belong."""
        for path in list(self.folder.iterdir()):
            target = folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)
        self.discard()

    def discard(self) -> None:
        """Throw away what was delivered."""
        for _, writer in [pair for bucket in self.outputs for pair in bucket.values()]:
            writer.abandon()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _output(self, bucket: int, name: str) -> OutputFile:
        while len(self.outputs) <= bucket:
            self.outputs.append({})
        found = self.outputs[bucket]
        if name not in found:
            if len(found) >= _OUTPUTS:
                raise RuntimeFailure(f"the page sent more than {_OUTPUTS} outputs")
            path = f"outputs/{bucket}/output-{len(found)}.npy"
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            found[name] = (path, OutputFile(name, str(self.folder / path), self.rows[bucket]))
        return found[name][1]

    def _result(self, job: Job, said: Mapping[str, Any], version: str) -> Result:
        status = said.get("status")
        if status not in ("ok", "failed", "not-run"):
            raise RuntimeFailure("the page says neither ok, failed nor not-run")
        evidence = _plain(said.get("evidence"))
        result = Result(
            status=status,
            reason=" ".join(str(said.get("reason", "")).split())[:_REASON_LENGTH],
            runtime=job.runtime,
            runtime_version=version,
            load_ms=_number(said, "load_ms"),
            first_inference_ms=_number(said, "first_inference_ms"),
            facts=_plain(said.get("facts")),
            evidence=evidence,
        )
        if status != "ok":
            return result
        return self._validated(job, result, said) if job.kind == "validate" else self._launched(job, result)

    def _validated(self, job: Job, result: Result, said: Mapping[str, Any]) -> Result:
        for _, writer in [pair for bucket in self.outputs for pair in bucket.values()]:
            writer.close()
        if len(self.outputs) != len(self.rows) or not all(self.outputs):
            raise RuntimeFailure(f"the page delivered the outputs of {sum(map(bool, self.outputs))} of {len(self.rows)} buckets")
        layers = []
        if self.trace:
            try:
                layers = layers_of(json.loads(self.trace))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise RuntimeFailure(f"the page's trace of what it executed cannot be read: {type(error).__name__}: {error}") from error
        write_json(str(self.folder / EXECUTED_FILE), [asdict(layer) for layer in layers])
        return replace(
            result,
            outputs=[{name: path for name, (path, _) in bucket.items()} for bucket in self.outputs],
            iterations=sum(-(-rows // job.batch) for rows in self.rows),
            examples=sum(self.rows),
            loop_seconds=_number(said, "loop_seconds"),
            facts={**result.facts, "executed": count_by_dtype(layers)},
        )

    def _launched(self, job: Job, result: Result) -> Result:
        if set(self.samples) != {"warmup", "samples"} or result.load_ms is None or result.first_inference_ms is None:
            raise RuntimeFailure("the page delivered no samples, or no load time")
        samples = np.load(self.samples["samples"], allow_pickle=False)
        if len(samples) < 1:
            raise RuntimeFailure("the page timed no iteration")
        _check_clock(result.facts.get("clock_tick_ns"), float(np.median(samples)))
        return replace(result, iterations=len(samples), examples=job.batch, loop_seconds=float(samples.sum()) / 1e9)


def _check_clock(tick: Any, median: float) -> None:
    """Refuse samples that the page's clock is too coarse for; both in ns."""
    if isinstance(tick, int | float) and 0 < tick <= _TICK_SHARE * median:
        return
    ticks = f"ticks every {tick / 1000:g} us" if isinstance(tick, int | float) else "has an unknown tick"
    raise RuntimeFailure(
        f"invalid: the page's clock {ticks}, too coarse for an inference of {median / 1000:.0f} us (at most {_TICK_SHARE:.0%} of it): open the page "
        "as localhost (adb reverse) or over https, where browsers give a finer clock"
    )


def _number(said: Mapping[str, Any], name: str) -> float | None:
    value = said.get(name)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0 else None


def _plain(value: Any) -> dict[str, Any]:
    """A dict as it came from JSON, without numbers that JSON does not know."""
    if not isinstance(value, dict):
        return {}
    with contextlib.suppress(ValueError):
        json.dumps(value, allow_nan=False)
        return value
    return {}
