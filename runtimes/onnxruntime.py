"""ONNX Runtime: `.onnx` and `.ort` files on the CPU, and on any execution provider that the installed build has."""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from dataclasses import replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from .errors import NotAvailable, RuntimeFailure
from .executed import INT8, OTHER, dtype_named
from .installed import is_installed, version_of
from .options import Option, read_options
from .session import Availability, ExecutedLayer

_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-qnn", "onnxruntime-directml", "onnxruntime-migraphx")
_CPU = "CPUExecutionProvider"
_LEVELS = {"disabled": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL"}

OPTIONS: Dict[str, Option] = {
    "threads": Option(int, "threads inside an operator", minimum=1),
    "inter_threads": Option(int, "threads across operators; more than 1 runs independent branches at once", minimum=1),
    "spinning": Option(bool, "whether idle threads spin: faster on a machine of one's own, slower on a shared one"),
    "optimization": Option(str, "how far the graph is optimised when it is loaded", "all", tuple(_LEVELS)),
    "providers": Option(list, "execution providers, the preferred first", [_CPU]),
    "qdq_int8_allowed": Option(bool, "let int8 activations fuse into integer kernels (ONNX Runtime's default on arm64, not on x86)"),
    "unpack_weights": Option(bool, "unpack integer weights when the graph is loaded; where activations are integers too, that makes them float"),
    "x64_quant_precision": Option(bool, "avoid the saturation of 8-bit products on x86 without VNNI, at a price in speed"),
}

# Providers that run a graph node by node, so that a node of the trace is one kernel. The others (TensorRT, OpenVINO, NNAPI, Core ML, QNN)
# compile whole subgraphs: what is inside is theirs to tell.
_KERNEL_PROVIDERS = (
    _CPU,
    "CUDAExecutionProvider",
    "ROCMExecutionProvider",
    "DmlExecutionProvider",
    "XnnpackExecutionProvider",
    "WebGpuExecutionProvider",
)

_INTEGER_PREFIXES = ("QLinear", "QGemm", "QAttention", "QEmbed", "QOrdered", "DynamicQuantize")
_INTEGER_SUFFIXES = ("Integer", "IntegerToFloat")
# Operators that compute no activation, whatever the type of the data that they touch.
_MOVE_WORDS = (
    "Cast CastLike QuantizeLinear DequantizeLinear DynamicQuantizeLinear Transpose Reshape Flatten Squeeze Unsqueeze Concat Slice Split "
    "Gather GatherElements GatherND Identity Expand Tile Pad ReorderInput ReorderOutput DepthToSpace SpaceToDepth Shape Size Constant "
    "ConstantOfShape MemcpyToHost MemcpyFromHost"
)
_MOVES = frozenset(_MOVE_WORDS.split())

# What ONNX Runtime puts around the name of a node when it rewrites it (layouts, fusions, copies, casts for what has no float16 kernel).
_AROUND_NAMES = re.compile(r"^(?:fused |InsertedPrecisionFreeCast_)+|(?:_nchwc|_token_\d+|/duplicated|/MatMulAddFusion|_quant)+$")
# The trace is of a few inferences, so that a layer's time is not that of a cold cache.
_TRACED_RUNS = 15
_TRACED_SECONDS = 1.0


def is_available() -> Availability:
    """Whether ONNX Runtime is installed here."""
    if not is_installed("onnxruntime"):
        return Availability(False, "onnxruntime is not installed: pip install onnxruntime")
    return Availability(True, version=version())


def version() -> str:
    """Of the installed ONNX Runtime, "" where there is none."""
    return version_of("onnxruntime", _DISTRIBUTIONS)


def import_runtime() -> Any:
    """Import ONNX Runtime without its telemetry, which from 1.29 on gives the machine an id and reports at the import already.

    Raises:
        NotAvailable: it is not installed, or its libraries cannot be loaded.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, when the library is loaded
    try:
        import onnxruntime
    except ImportError as error:
        raise NotAvailable("onnxruntime cannot be imported: %s; pip install onnxruntime" % error) from error
    onnxruntime.disable_telemetry_events()  # of Windows, which does not read the variable
    return onnxruntime


def open_session(paths: Sequence[str], options: Mapping[str, Any]) -> OnnxRuntimeSession:
    """Open `paths[0]`; files of external data lie beside it.

    Raises:
        NotAvailable: ONNX Runtime, or a provider that was asked for, is not in this installation.
        RuntimeFailure: an unknown option, a file that is no model, or a provider that was asked for and dropped.
    """
    effective = read_options("onnxruntime", options, OPTIONS)
    runtime = import_runtime()
    absent = [name for name in effective["providers"] if name not in runtime.get_available_providers()]
    if absent:
        raise NotAvailable(
            "onnxruntime: this build has no %s (it has: %s)" % (", ".join(map(str, absent)), ", ".join(runtime.get_available_providers()))
        )
    return OnnxRuntimeSession(runtime, paths[0], effective)


class OnnxRuntimeSession:
    """An opened graph. `native` is the `onnxruntime.InferenceSession` itself.

    `run` is plain `InferenceSession.run`: on the CPU it takes contiguous arrays without a copy, and an IO binding that is bound again for
    every call was no faster (ResNet-20, batch 1: 721.9 us against 722.4 us; batch 32: the same).
    """

    def __init__(self, runtime: Any, path: str, options: Dict[str, Any]) -> None:
        self._runtime = runtime
        self._path = path
        self._options = options
        self.native = _open(runtime, path, options, _session_options(runtime, options))
        self.input_names: Sequence[str] = [value.name for value in self.native.get_inputs()]
        self.output_names: Sequence[str] = [value.name for value in self.native.get_outputs()]
        self._last: Optional[Mapping[str, np.ndarray]] = None

    def run(self, inputs: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """One inference.

        Raises:
            onnxruntime's own errors: an input's shape or dtype does not fit.
        """
        self._last = inputs
        return dict(zip(self.output_names, self.native.run(self.output_names, inputs)))

    def executed(self) -> List[ExecutedLayer]:
        """The nodes that really run and what each takes, from ONNX Runtime's own trace of a few more inferences.

        A second session with the same options is opened for it, so that the one that is measured never pays for tracing. The trace names the
        types that entered each kernel after all fusions and casts: the file does not tell, the same file runs otherwise on another CPU.

        Raises:
            RuntimeFailure: nothing was run yet.
        """
        if self._last is None:
            raise RuntimeFailure("onnxruntime: run the session once before reading back what it executed")
        with tempfile.TemporaryDirectory(prefix="kdedge-trace-") as folder:
            options = _session_options(self._runtime, self._options)
            options.enable_profiling = True
            options.profile_file_prefix = os.path.join(folder, "trace")
            probe = _open(self._runtime, self._path, self._options, options)
            probe.run(self.output_names, self._last)
            end = time.perf_counter() + _TRACED_SECONDS
            for _ in range(_TRACED_RUNS - 1):
                if time.perf_counter() > end:
                    break
                probe.run(self.output_names, self._last)
            with open(probe.end_profiling(), encoding="utf-8") as handle:
                events = json.load(handle)
        return layers_of(events)

    def facts(self) -> Dict[str, Any]:
        """Providers that are active (ONNX Runtime adds the CPU as the last resort) and the effective options."""
        return {"providers": self.native.get_providers(), "options": self._options}

    def close(self) -> None:
        """Drop the session."""
        self.native = None
        self._last = None


def layers_of(events: Sequence[Mapping[str, Any]]) -> List[ExecutedLayer]:
    """One layer a node from a trace, with the median of its times; a node that ran several times (in a loop) counts once."""
    found: Dict[Any, ExecutedLayer] = {}
    times: Dict[Any, List[float]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") != "Node" or not name.endswith("_kernel_time"):
            continue
        facts = event["args"]
        operator, provider = facts["op_name"], facts.get("provider", "")
        dtype = _dtype(operator, provider, _types(facts.get("input_type_shape", [])), _types(facts.get("output_type_shape", [])))
        key = (name, operator, facts.get("node_index"))
        label = name[: -len("_kernel_time")]
        found.setdefault(key, ExecutedLayer(label, operator, dtype, provider, sources_of(label)))
        if "dur" in event:
            times.setdefault(key, []).append(event["dur"] / 1000.0)
    return [replace(layer, milliseconds=float(np.median(times[key])) if key in times else None) for key, layer in found.items()]


def sources_of(name: str) -> Tuple[str, ...]:
    """The node of the file that a node of the optimised graph is named after."""
    plain = _AROUND_NAMES.sub("", name)
    return (plain,) if plain else ()


def _dtype(operator: str, provider: str, inputs: Sequence[str], outputs: Sequence[str]) -> str:
    if provider not in _KERNEL_PROVIDERS or operator in _MOVES:
        return OTHER
    if operator.startswith(_INTEGER_PREFIXES) or operator.endswith(_INTEGER_SUFFIXES):
        return INT8
    if outputs and dtype_named(outputs[0]) == OTHER:  # an index, a shape, a comparison
        return OTHER
    # The first input that is an activation; `Where` begins with a condition, `Gather`-like operators with data.
    return next((dtype_named(name) for name in inputs if dtype_named(name) != OTHER), OTHER)


def _types(described: Sequence[Mapping[str, Any]]) -> List[str]:
    return [name for entry in described for name in entry]


def _session_options(runtime: Any, options: Mapping[str, Any]) -> Any:
    native = runtime.SessionOptions()
    native.log_severity_level = 3  # errors only: the last line of stderr explains a crash
    native.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, _LEVELS[options["optimization"]])
    if options["threads"] is not None:
        native.intra_op_num_threads = options["threads"]
    if options["inter_threads"] is not None:
        native.inter_op_num_threads = options["inter_threads"]
        native.execution_mode = runtime.ExecutionMode.ORT_PARALLEL if options["inter_threads"] > 1 else runtime.ExecutionMode.ORT_SEQUENTIAL
    entries = {
        "session.intra_op.allow_spinning": options["spinning"],
        "session.inter_op.allow_spinning": options["spinning"],
        "session.qdqisint8allowed": options["qdq_int8_allowed"],
        "session.disable_quant_qdq": options["unpack_weights"],
        "session.x64quantprecision": options["x64_quant_precision"],
    }
    for key, value in entries.items():
        if value is not None:
            native.add_session_config_entry(key, "1" if value else "0")
    return native


def said_by(error: Exception) -> str:
    """What ONNX Runtime says, without its error code, the path where the file happened to lie, and the place in its own source."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"^Load model from .*? failed: ?", "", text)
    return re.sub(r"(^|(?<=Status Message: ))/onnxruntime_src/\S+:\d+ .*?\) (?=\w)", "", text)


def _open(runtime: Any, path: str, options: Mapping[str, Any], native: Any) -> Any:
    try:
        session = runtime.InferenceSession(path, native, providers=options["providers"])
    except Exception as error:
        raise RuntimeFailure("onnxruntime cannot open %s: %s" % (os.path.basename(path), said_by(error))) from error
    # A provider whose libraries are missing is only warned about and dropped; the rest would be measured under its name.
    dropped = [name for name in options["providers"] if name not in session.get_providers()]
    if dropped:
        raise RuntimeFailure("onnxruntime dropped the provider %s; active: %s" % (", ".join(dropped), ", ".join(session.get_providers())))
    return session
