"""OpenVINO: an IR (`.xml` with its `.bin` beside it) or an `.onnx` file on a device of OpenVINO's own (CPU, GPU, NPU)."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from .errors import NotAvailable, RuntimeFailure
from .executed import FP32, OTHER, dtype_named
from .installed import is_installed, version_of
from .options import Option, read_options
from .session import Availability, ExecutedLayer

OPTIONS: Dict[str, Option] = {
    "threads": Option(int, "threads of an inference (CPU)", minimum=1),
    "performance_hint": Option(str, "what the device optimises for", "LATENCY", ("LATENCY", "THROUGHPUT")),
    "inference_precision": Option(
        str, "precision of what is not integer; absent: the device's choice, often bf16 or f16", None, ("f32", "f16", "bf16")
    ),
    "dynamic_quantization": Option(bool, "let layers with packed integer weights quantize their input as they run (the CPU's default)"),
    "device": Option(str, "OpenVINO's name of the device", "CPU"),
}

_OUTSIDE = frozenset(("Const", "Constant", "Input", "Output", "Parameter", "Result"))
# Layers that compute no activation, whatever the type of the data that they touch.
_MOVE_WORDS = (
    "Reorder Reshape Convert FakeQuantize Transpose Concatenation Concat Split VariadicSplit StridedSlice Slice Gather GatherElements "
    "GatherND Squeeze Unsqueeze Broadcast Tile Pad ShapeOf DepthToSpace SpaceToDepth MemoryInput MemoryOutput"
)
_MOVES = frozenset(_MOVE_WORDS.split())
# The first inference warms up and is not counted.
_TIMED_RUNS = 16
_TIMED_SECONDS = 1.0


def is_available() -> Availability:
    """Whether OpenVINO is installed here."""
    if not is_installed("openvino"):
        return Availability(False, "openvino is not installed: pip install openvino")
    return Availability(True, version=version())


def version() -> str:
    """Of the installed OpenVINO, "" where there is none."""
    return version_of("openvino", ("openvino",))


def import_runtime() -> Any:
    """Import OpenVINO without its telemetry, which would send an event at the import already.

    OpenVINO tells nobody anything where its telemetry package is absent, so the package is made absent for this process.

    Raises:
        NotAvailable: it is not installed, or its libraries cannot be loaded.
    """
    if "openvino_telemetry" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError as error:
        raise NotAvailable("openvino cannot be imported: %s; pip install openvino" % error) from error
    return openvino


def open_session(paths: Sequence[str], options: Mapping[str, Any]) -> OpenVinoSession:
    """Read and compile `paths[0]` (an IR finds its weights beside it, under the same name).

    Raises:
        NotAvailable: OpenVINO or the device is not here.
        RuntimeFailure: an unknown option, or a file that OpenVINO cannot read or compile.
    """
    effective = read_options("openvino", options, OPTIONS)
    runtime = import_runtime()
    core = runtime.Core()
    device = effective["device"]
    if device.split(".")[0] not in {name.split(".")[0] for name in core.available_devices}:
        raise NotAvailable("openvino: there is no device %s here (there is: %s)" % (device, ", ".join(core.available_devices)))
    properties = {"PERFORMANCE_HINT": effective["performance_hint"]}
    if effective["threads"] is not None:
        properties["INFERENCE_NUM_THREADS"] = effective["threads"]
    if effective["inference_precision"] is not None:
        properties["INFERENCE_PRECISION_HINT"] = effective["inference_precision"]
    if effective["dynamic_quantization"] is False:
        properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = "0"

    def compiled(**more: Any) -> Any:
        try:
            return core.compile_model(core.read_model(paths[0]), device, dict(properties, **more))
        except Exception as error:
            raise RuntimeFailure("openvino cannot open %s: %s" % (os.path.basename(paths[0]), " ".join(str(error).split()))) from error

    return OpenVinoSession(compiled(), device, effective, lambda: compiled(PERF_COUNT=True))


class OpenVinoSession:
    """A compiled model with one infer request. `native` is the `openvino.CompiledModel` itself; `timed` compiles it once more, with a clock in
    every layer."""

    def __init__(self, compiled: Any, device: str, options: Dict[str, Any], timed: Callable[[], Any]) -> None:
        self.native = compiled
        self._timed = timed
        self._device = device
        self._options = options
        self._request = compiled.create_infer_request()
        self.input_names: Sequence[str] = [port.get_any_name() for port in compiled.inputs]
        self.output_names: Sequence[str] = [port.get_any_name() for port in compiled.outputs]
        self._dtypes = {port.get_any_name(): port.get_element_type().to_dtype() for port in compiled.inputs}
        self._last: Optional[Mapping[str, np.ndarray]] = None

    def run(self, inputs: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """One inference. Writable inputs are read where they lie, the outputs are copies.

        Raises:
            RuntimeFailure: an input has another dtype than the graph's; OpenVINO would convert it in silence.
        """
        for name, dtype in self._dtypes.items():
            if inputs[name].dtype != dtype:
                raise RuntimeFailure("openvino: input `%s` is %s, the graph takes %s" % (name, inputs[name].dtype, dtype))
        results = self._request.infer(inputs, share_inputs=True, share_outputs=False)
        self._last = inputs
        return {name: results[index] for index, name in enumerate(self.output_names)}

    def executed(self) -> List[ExecutedLayer]:
        """The layers of the compiled model with the precision that each runs in; constants and what is computed from them alone are left out.

        Raises:
            RuntimeFailure: nothing was run yet (shapes that vary are compiled with the first inference).
        """
        if self._last is None:
            raise RuntimeFailure("openvino: run the session once before reading back what it executed")
        times = self._layer_times(self._last)
        layers = []
        folded = set()
        for node in self.native.get_runtime_model().get_ordered_ops():
            facts = node.get_rt_info()
            kind = _text(facts, "layerType")
            sources = [port.get_source_output().get_node().get_friendly_name() for port in node.inputs()]
            name = node.get_friendly_name()
            # Weights are reordered and converted once, when the model is compiled.
            if kind in ("Const", "Constant") or (sources and all(source in folded for source in sources)):
                folded.add(name)
            elif kind not in _OUTSIDE:
                dtype = OTHER if kind in _MOVES else _computed(facts, self._options["dynamic_quantization"])
                layers.append(ExecutedLayer(name, kind, dtype, self._device, _inside(facts), times.get(name)))
        return layers

    def _layer_times(self, inputs: Mapping[str, np.ndarray]) -> Dict[str, float]:
        """Milliseconds by layer, in the middle of a few inferences of a second compilation: clocks in the layers cost time, and the session that
        is measured never pays for them."""
        times: Dict[str, List[float]] = {}
        try:
            request = self._timed().create_infer_request()
            end = time.perf_counter() + _TIMED_SECONDS
            for number in range(_TIMED_RUNS):
                request.infer(inputs, share_inputs=True, share_outputs=False)
                for layer in request.get_profiling_info():
                    if number and str(layer.status).endswith("EXECUTED"):
                        times.setdefault(layer.node_name, []).append(layer.real_time.total_seconds() * 1000.0)
                if time.perf_counter() > end and number:
                    break
        except (RuntimeFailure, RuntimeError):  # OpenVINO's own are the latter. A device that counts nothing still ran the layers
            return {}
        return {name: float(np.median(values)) for name, values in times.items()}

    def facts(self) -> Dict[str, Any]:
        """The effective options, and what the device made of them."""
        supported = self.native.get_property("SUPPORTED_PROPERTIES")
        wanted = ("INFERENCE_PRECISION_HINT", "INFERENCE_NUM_THREADS", "NUM_STREAMS", "EXECUTION_DEVICES", "PERFORMANCE_HINT")
        effective = {name.lower(): _plain(self.native.get_property(name)) for name in wanted if name in supported}
        return {"options": self._options, "effective": effective}

    def close(self) -> None:
        """Drop the request and the compiled model."""
        self._request = None
        self._last = None
        self.native = None


def _inside(facts: Any) -> Tuple[str, ...]:
    """The nodes of the file that a layer was fused from, among names that OpenVINO made up on the way."""
    named = _text(facts, "originalLayersNames") if "originalLayersNames" in facts else ""
    return tuple(part for part in named.split(",") if part)


def _computed(facts: Any, dynamic_quantization: Optional[bool]) -> str:
    """The type that a layer computes in. Of one with packed integer weights OpenVINO tells their type whether it multiplies integers or not:
    where it was told to leave its input float, the kernel's own name counts."""
    kernel = _text(facts, "primitiveType") if "primitiveType" in facts else ""
    if dynamic_quantization is False and kernel.endswith("_f32"):
        return FP32
    return dtype_named(_text(facts, "runtimePrecision"))


def _text(facts: Any, name: str) -> str:
    # Versions differ in whether run-time information is wrapped.
    value = facts[name]
    return value if isinstance(value, str) else str(value.astype(str))


def _plain(value: Any) -> Any:
    """A property as JSON can hold it. Types and hints print as `<Type: 'float32'>` and `PerformanceMode.LATENCY`."""
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "get_type_name"):
        return value.get_type_name()
    return str(value).rpartition(".")[2]
