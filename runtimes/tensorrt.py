"""TensorRT 10, TensorRT 11 and TensorRT-RTX as a runtime: builds the engine on the device that runs it, or takes it from the cache.

Session options are those of `tensorrt_build.OPTIONS`; all are optional.

`run` gives host time: it returns when the outputs are on the host. The device's own clock is in `facts()["device_times_ms"]`: the copy in, the
kernels and the copy out of each of the last runs, apart, by CUDA events. Memory is page-locked on the host side, so that copies run at full speed.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Deque, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from . import tensorrt_engines
from .cuda import Cuda, DeviceBuffer, open_cuda
from .errors import RuntimeFailure
from .installed import version_of
from .options import read_options
from .session import Availability, ExecutedLayer
from .tensorrt_build import OPTIONS, BuildSettings
from .tensorrt_engines import Engine, Platform
from .tensorrt_inspector import executed_layers
from .tensorrt_library import MODULES, collection_paused, load_module, make_logger, require_supported, said

_DISTRIBUTIONS = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12", "tensorrt-bindings"),
    "tensorrt_rtx": ("tensorrt-rtx", "tensorrt-rtx-cu13", "tensorrt-rtx-cu12"),
}
# The name of a TensorRT type -> numpy's. BF16, FP8, FP4 and INT4 have no numpy type and cannot cross a graph's border here.
_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}
_KEPT_RUNS = 4096
_PHASES = ("copy_in", "compute", "copy_out")


def is_available() -> Availability:
    """Whether a CUDA device and a supported TensorRT are here; the reason begins with "no CUDA device" where that is what is missing."""
    module, found = _installed()
    try:
        open_cuda()
        if not module:
            load_module()  # raises, with what would help
        if found != "unknown":
            require_supported(module, found)
    except RuntimeFailure as error:
        return Availability(False, str(error), found)
    return Availability(True, "", found)


def version() -> str:
    """TensorRT's own version, "" where none is installed. TensorRT is not imported for this."""
    return _installed()[1]


def _installed() -> Tuple[str, str]:
    for module in MODULES:
        found = version_of(module, _DISTRIBUTIONS[module])
        if found:
            return module, found
    return "", ""


def import_runtime() -> Any:
    """Import TensorRT, or TensorRT-RTX where that is what is installed.

    Raises:
        NotAvailable: neither is installed, its libraries do not load, or it is too old.
    """
    return load_module()


def open_session(paths: Sequence[str], options: Mapping[str, Any]) -> "TensorRTSession":
    """Open an ONNX file (side files after it) or an engine that was built here.

    Raises:
        NotAvailable: no CUDA device, or no TensorRT from 10.0 up.
        RuntimeFailure: an unknown option, a graph that TensorRT refuses, an engine of another TensorRT or device.
    """
    values = read_options("tensorrt", options, OPTIONS)
    settings = BuildSettings.from_options(options)
    cuda = open_cuda(values["device"])
    trt = load_module(values["module"])
    platform = Platform(trt.__name__, str(trt.__version__), "%d.%d" % cuda.compute_capability())
    folder = values["engine_cache"]
    with collection_paused():
        logger = make_logger(trt)
        runtime = trt.Runtime(logger)
        made = tensorrt_engines.obtain(trt, platform, paths, settings, folder)
        engine = runtime.deserialize_cuda_engine(made.plan)
        if engine is None and not made.built and not paths[0].endswith(tensorrt_engines.ENGINE_SUFFIXES):
            # The record is right and the bytes are the recorded ones, yet TensorRT cannot read them (a driver update can do that): build again, once.
            tensorrt_engines.forget(paths, platform, settings, folder)
            made = tensorrt_engines.obtain(trt, platform, paths, settings, folder)
            engine = runtime.deserialize_cuda_engine(made.plan)
        if engine is None:
            raise RuntimeFailure("tensorrt: %s could not be opened as an engine: %s" % (paths[0], _errors(logger)))
        return TensorRTSession(trt, cuda, (logger, runtime, engine), _story(platform, cuda, made, settings))


def _errors(logger: Any) -> str:
    return "; ".join(said(logger, "INTERNAL_ERROR", "ERROR")) or "TensorRT gave no reason"


def _story(platform: Platform, cuda: Cuda, made: Engine, settings: BuildSettings) -> Dict[str, Any]:
    return {
        "module": platform.module,
        "version": platform.version,
        "device": cuda.device_name(),
        "compute_capability": platform.compute_capability,
        "cuda_runtime": cuda.runtime_version(),
        "engine": {
            "built_here": made.built,
            "build_seconds": made.seconds,
            "reason": made.reason,
            "bytes": len(made.plan),
            "warnings": list(made.warnings),
        },
        "workspace_mb": settings.workspace_mb,
        "tf32": settings.tf32,
    }


class TensorRTSession:
    """An engine with its context, one stream, and memory for each input and output.

    Raises, from `run`:
        RuntimeFailure: a missing, unknown or wrong input, or a CUDA call that failed.
    """

    def __init__(self, trt: Any, cuda: Cuda, opened: Tuple[Any, Any, Any], story: Mapping[str, Any]) -> None:
        self._trt, self._cuda = trt, cuda
        self._logger, self._runtime, self._engine = opened
        self._story = dict(story)
        self._times: Deque[Tuple[float, ...]] = deque(maxlen=_KEPT_RUNS)
        self._shapes: Dict[str, Tuple[int, ...]] = {}
        self._buffers: Dict[str, DeviceBuffer] = {}
        self._stream = 0
        self._events: List[int] = []
        self._context: Optional[Any] = None
        self.input_names, self.output_names, self._dtypes = _ports(trt, self._engine)
        try:
            self._context = self._engine.create_execution_context()
            if self._context is None:
                raise RuntimeFailure("tensorrt: no execution context: %s" % _errors(self._logger))
            self._stream = cuda.create_stream()
            for _ in range(len(_PHASES) + 1):
                self._events.append(cuda.create_event())
            self._buffers = {name: DeviceBuffer(cuda) for name in (*self.input_names, *self.output_names)}
        except RuntimeFailure:
            self.close()
            raise

    def run(self, inputs: Mapping[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """One inference: copy in, compute, copy out, and wait for all of it."""
        if self._context is None:
            raise RuntimeFailure("tensorrt: this session is closed")
        arrays = {name: self._checked(name, inputs) for name in self.input_names}
        unknown = sorted(set(inputs) - set(arrays))
        if unknown:
            raise RuntimeFailure("tensorrt: `%s` is no input of this engine (inputs: %s)" % (unknown[0], ", ".join(self.input_names)))
        shapes = {name: tuple(array.shape) for name, array in arrays.items()}
        if any(self._shapes.get(name) != shape for name, shape in shapes.items()):
            self._bind(shapes)
        self._record(0)
        for name, array in arrays.items():
            self._buffers[name].fill(array, self._stream)
        self._record(1)
        if not self._context.execute_async_v3(self._stream):
            raise RuntimeFailure("tensorrt: the engine did not start: %s" % _errors(self._logger))
        self._record(2)
        for name in self.output_names:
            self._buffers[name].fetch(self._bytes(name), self._stream)
        self._record(3)
        self._cuda.synchronize(self._stream)
        self._times.append(tuple(self._cuda.elapsed_ms(start, end) for start, end in zip(self._events, self._events[1:])))
        return {name: self._buffers[name].read(self._shapes[name], self._dtypes[name]) for name in self.output_names}

    def executed(self) -> List[ExecutedLayer]:
        """Every layer of the engine by the inspector, with the type that it computes in."""
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        return executed_layers(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON), self._story["module"])

    def facts(self) -> Dict[str, Any]:
        """The device, how the engine came to be, and the device's own times in ms of the last runs (at most 4,096), oldest first."""
        columns = list(zip(*self._times)) or [()] * len(_PHASES)
        times = {phase: [round(value, 6) for value in column] for phase, column in zip(_PHASES, columns)}
        return {**self._story, "device_times_ms": times, "runs": len(self._times)}

    def close(self) -> None:
        """Give context, engine and memory back, in this order."""
        self._context = None
        self._engine = None
        self._runtime = None
        for buffer in self._buffers.values():
            buffer.release()
        self._buffers = {}
        events, self._events = self._events, []
        for event in events:
            self._cuda.destroy_event(event)
        stream, self._stream = self._stream, 0
        if stream:
            self._cuda.destroy_stream(stream)

    def _checked(self, name: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        if name not in inputs:
            raise RuntimeFailure("tensorrt: input `%s` is missing (given: %s)" % (name, ", ".join(sorted(inputs)) or "none"))
        array = np.ascontiguousarray(inputs[name]).reshape(np.shape(inputs[name]))
        if array.dtype != self._dtypes[name]:
            raise RuntimeFailure("tensorrt: input `%s` is %s; the engine takes %s" % (name, array.dtype, self._dtypes[name]))
        return array

    def _bind(self, shapes: Mapping[str, Tuple[int, ...]]) -> None:
        """Tell the context the input shapes, ask it for the output shapes, and make sure that every address holds enough memory."""
        context: Any = self._context
        self._shapes = {}
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                allowed = self._engine.get_tensor_profile_shape(name, 0)
                raise RuntimeFailure(
                    "tensorrt: input `%s` has shape %s; the engine takes %s to %s" % (name, list(shape), list(allowed[0]), list(allowed[2]))
                )
        found = dict(shapes)
        for name in self.output_names:
            found[name] = tuple(int(size) for size in context.get_tensor_shape(name))
            if -1 in found[name]:
                raise RuntimeFailure(
                    "tensorrt: the shape of output `%s` depends on the data (%s); such outputs are not supported" % (name, list(found[name]))
                )
        for name, shape in found.items():
            if self._buffers[name].reserve(_size(shape, self._dtypes[name])):
                context.set_tensor_address(name, self._buffers[name].address)
        self._shapes = found

    def _bytes(self, name: str) -> int:
        return _size(self._shapes[name], self._dtypes[name])

    def _record(self, number: int) -> None:
        self._cuda.record(self._events[number], self._stream)


def _ports(trt: Any, engine: Any) -> Tuple[List[str], List[str], Dict[str, np.dtype]]:
    """Names of inputs and outputs in the engine's order, and their types."""
    inputs: List[str] = []
    outputs: List[str] = []
    dtypes: Dict[str, np.dtype] = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        kind = str(engine.get_tensor_dtype(name)).rsplit(".", 1)[-1]
        if kind not in _DTYPES:
            raise RuntimeFailure("tensorrt: `%s` is %s at the graph's border; allowed: %s" % (name, kind, ", ".join(sorted(_DTYPES))))
        if hasattr(engine, "is_shape_inference_io") and engine.is_shape_inference_io(name):
            raise RuntimeFailure(
                "tensorrt: `%s` is a shape tensor that lives on the host; graphs with such inputs or outputs are not supported" % name
            )
        dtypes[name] = np.dtype(_DTYPES[kind])
        (inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs).append(name)
    return inputs, outputs, dtypes


def _size(shape: Sequence[int], dtype: np.dtype) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
