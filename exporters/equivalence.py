"""Is a graph the same function as what it came from? Asked by running both, never by looking at the graph.

The tolerance is relative to the scale of the output, max|a - b| <= tolerance * max|b|, so that logits of 0.01 and of 100 are judged alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from kdedge.artifact import TensorSpec
from kdedge.errors import ExportError
from kdedge.exporters.model_file import to_bytes
from kdedge.runtimes.onnxruntime import import_runtime, said_by

ort = import_runtime()  # a plain `import onnxruntime` reports to its maker

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]

#: What an exported graph may differ by from what it came from, relative to the output's scale.
TOLERANCE = 1e-3

#: Outputs that are all smaller than this count as this large: a constant zero has no scale.
SMALLEST_SCALE = 1e-6

# ONNX Runtime's errors have no common base but Exception; its binding adds the two built-in ones for wrong feeds.
_ORT_ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(ort.capi.onnxruntime_pybind11_state).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
    ValueError,
)


class GraphRunError(ExportError):
    """A graph cannot be opened or run at all; the message is the runtime's own sentence."""


def open_graph(model: ir.Model | bytes, as_written: bool = False) -> Any:
    """A session of ONNX Runtime on the CPU, on one thread: the same bytes on every machine of a kind.

    `as_written`: each node by itself, Q/DQ and what stands between them in float, so that what integers mean does not hang on this machine's integer
    kernels: those of an x86 CPU without VNNI saturate where the weights have 8 bits.

    Raises:
        GraphRunError: it cannot be opened.
    """
    try:
        return session_of(model if isinstance(model, bytes) else to_bytes(model), lambda: quiet_options(as_written))
    except _ORT_ERRORS as error:
        raise GraphRunError(said_by(error)) from error


def quiet_options(as_written: bool = False) -> Any:
    """Session options: one thread, nothing on standard error; `as_written` as `open_graph`."""
    made = ort.SessionOptions()
    made.log_severity_level = 4
    made.intra_op_num_threads = 1
    if as_written:
        made.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return made


def session_of(model: bytes | Path, options: Callable[[], Any]) -> Any:
    """A session on the CPU that computes as one with VNNI does: others saturate the products of 8-bit weights unless they are told not to, and it is
    the file that is asked about, not this machine. `options` makes session options.

    Raises whatever ONNX Runtime raises.
    """
    providers = ["CPUExecutionProvider"]
    given, content = (str(model), model.read_bytes()) if isinstance(model, Path) else (model, model)
    if b"QuantizeLinear" not in content:  # which `DequantizeLinear` does not hold: weights alone, which the option breaks
        return ort.InferenceSession(given, options(), providers=providers)
    precise = options()
    precise.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return ort.InferenceSession(given, precise, providers=providers)
    except _ORT_ERRORS:
        # ONNX Runtime 1.32 cannot do that where two nodes share a weight, or activations are signed in front of a Gemm. A file that is wrong for
        # another reason fails again.
        return ort.InferenceSession(given, options(), providers=providers)


def run(model: ir.Model | bytes, feeds: Sequence[Feed], outputs: Sequence[str] | None = None, as_written: bool = False) -> list[dict[str, Array]]:
    """Run a graph in ONNX Runtime on the CPU in float32, one result a feed; `as_written` as `open_graph`.

    Raises:
        GraphRunError: it cannot be opened or run.
    """
    return list(run_each(model, feeds, outputs, as_written))


def run_each(
    model: ir.Model | bytes, feeds: Iterable[Feed], outputs: Sequence[str] | None = None, as_written: bool = False
) -> Iterator[dict[str, Array]]:
    """The same feed by feed, for outputs that need not be in memory together.

    Raises:
        GraphRunError: as `run`, when the first result or a later one is asked for.
    """
    session = open_graph(model, as_written)
    names = list(outputs) if outputs is not None else [output.name for output in session.get_outputs()]
    for feed in feeds:
        try:
            found = session.run(names, dict(feed))
        except _ORT_ERRORS as error:
            raise GraphRunError(said_by(error)) from error
        yield dict(zip(names, found, strict=True))


def difference(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> tuple[float, float]:
    """Largest absolute difference of any output, and the largest relative to its output's scale (inf where shapes or finiteness differ).

    Of a sequence each tensor counts; strings are equal or not.
    """
    absolute = relative = 0.0
    for name, want in wanted.items():
        got = found[name]
        if not isinstance(want, np.ndarray) or want.dtype.kind in "OSU":
            gaps = _difference_inside(got, want)
            absolute, relative = max(absolute, gaps[0]), max(relative, gaps[1])
            continue
        if got.shape != want.shape or not np.array_equal(np.isfinite(got), np.isfinite(want)):
            return float("inf"), float("inf")
        finite = np.isfinite(want)
        if not finite.any():
            continue
        gap = float(np.max(np.abs(got[finite].astype(np.float64) - want[finite].astype(np.float64))))
        absolute = max(absolute, gap)
        relative = max(relative, gap / max(SMALLEST_SCALE, float(np.max(np.abs(want[finite].astype(np.float64))))))
    return absolute, relative


def _difference_inside(got: Any, want: Any) -> tuple[float, float]:
    """Of an output that is no array of numbers."""
    if isinstance(want, list) and len(got) == len(want):
        return difference({str(place): one for place, one in enumerate(got)}, {str(place): one for place, one in enumerate(want)})
    same = not isinstance(want, list) and np.array_equal(got, want)
    return (0.0, 0.0) if same else (float("inf"), float("inf"))


def first_dependent_node(model: ir.Model, inputs: Sequence[TensorSpec], small: Feed, large: Feed) -> str:
    """The first node whose result for the same examples depends on how many others stand beside them, "" where none does.

    The first rows of both feeds are made equal; a graph without a baked batch size gives equal rows in every intermediate value whose first
    axis is the batch. Values whose trailing sizes differ (another length) cannot be compared and are passed over.
    """
    first, second = inputs[0].name, {key: np.array(value) for key, value in large.items()}
    rows = min(len(small[first]), len(large[first]))
    if any(small[spec.name].shape[1:] != large[spec.name].shape[1:] for spec in inputs):
        return ""
    for key, value in small.items():
        second[key][:rows] = value[:rows]
    probe = model.clone()
    values = [value for node in probe.graph for value in node.outputs if value.name]
    probe.graph.outputs.extend(value for value in values if not value.is_graph_output())
    names = [str(value.name) for value in values]
    try:
        (one,), (two,) = run(probe, [small], names), run(probe, [second], names)
    except GraphRunError as error:
        return named_node(str(error))
    for value in values:
        a, b = one[str(value.name)], two[str(value.name)]
        if a.ndim == 0 or a.dtype.kind != "f" or len(a) != len(small[first]):
            continue
        if len(b) != len(large[first]) or a.shape[1:] != b.shape[1:] or difference({"": a[:rows]}, {"": b[:rows]})[1] > TOLERANCE:
            producer = value.producer()
            return str(producer.name) if producer is not None else ""
    return ""


def sizes_text(inputs: Sequence[TensorSpec], feed: Feed) -> str:
    """`batch 3` or `batch 3, length 17`: the varying sizes of a feed."""
    found: dict[str, int] = {}
    for spec in inputs:
        for size, actual in zip(spec.shape, feed[spec.name].shape, strict=True):
            if not isinstance(size, int):
                found[size.name] = actual
    return ", ".join(f"{name} {size}" for name, size in found.items()) or "its fixed size"


def named_node(text: str) -> str:
    """The node that ONNX Runtime blames in an error, "" where it names none."""
    match = re.search(r"Name:\s*'([^']+)'", text)
    return match.group(1) if match else ""
