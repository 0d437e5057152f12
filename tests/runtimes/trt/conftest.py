"""What stands in for a GPU: a CUDA runtime that lives in host memory, and a TensorRT whose engines are run by ONNX Runtime on it.

Nothing here was recorded from hardware. It follows the CUDA and TensorRT references, and it is strict where they are: work queued on a stream
happens at `cudaStreamSynchronize` and not before, an address outside of an allocation is an error, the device's clock moves by known amounts.
What it cannot show is that a real GPU agrees; `docs/hardware.md` lists every function for which that is so.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

COPY_IN_MS, COMPUTE_MS, COPY_OUT_MS = 0.25, 1.5, 0.5
_ERRORS = {
    1: ("cudaErrorInvalidValue", "invalid argument"),
    2: ("cudaErrorMemoryAllocation", "out of memory"),
    35: ("cudaErrorInsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version"),
    100: ("cudaErrorNoDevice", "no CUDA-capable device is detected"),
    700: ("cudaErrorIllegalAddress", "an illegal memory access was encountered"),
}


class _Function:
    """A library function: takes what ctypes would hand over, and lets `argtypes` and `restype` be set."""

    def __init__(self, name: str, call: Callable[..., int], fail: dict[str, int]) -> None:
        self.name, self.call, self.fail = name, call, fail

    def __call__(self, *arguments: Any) -> Any:
        return self.fail[self.name] if self.name in self.fail else self.call(*arguments)


class SimulatedCuda:
    """The functions of `libcudart` on one device of compute capability 8.7. `fail` makes a function return an error code."""

    def __init__(self, devices: int = 1) -> None:
        self.devices = devices
        self.fail: dict[str, int] = {}
        self.memory: dict[int, Any] = {}
        self.queues: dict[int, list[Callable[[], None]]] = {}
        self.events: dict[int, float] = {}
        self.clock = 0.0
        self._handles = 1000
        for name in [entry for entry in dir(type(self)) if entry.startswith("_cuda")]:
            setattr(self, name[1:], _Function(name[1:], getattr(self, name), self.fail))

    @property
    def live(self) -> int:
        """Allocations, streams and events that were not given back."""
        return len(self.memory) + len(self.queues) + len(self.events)

    def enqueue(self, stream: int, work: Callable[[], None], milliseconds: float = 0.0) -> None:
        def step() -> None:
            work()
            self.clock += milliseconds

        self.queues[stream].append(step)

    def bytes_at(self, address: int, size: int) -> Any:
        for start, buffer in self.memory.items():
            if start <= address and address + size <= start + len(buffer):
                return (ctypes.c_char * size).from_address(address)
        raise MemoryError(f"{size} bytes at {address:#x} are not allocated")

    # ---- the library

    def _cudaGetDeviceCount(self, count: Any) -> int:
        count._obj.value = self.devices
        return 0 if self.devices else 100

    def _cudaSetDevice(self, device: int) -> int:
        return 0 if 0 <= device < self.devices else 1

    def _cudaDeviceGetAttribute(self, value: Any, number: int, device: int) -> int:
        value._obj.value = {75: 8, 76: 7}[number]
        return 0

    def _cudaGetDeviceProperties(self, address: int, device: int) -> int:
        ctypes.memmove(address, b"Simulated Orin\0rest of the structure", 37)
        return 0

    def _cudaRuntimeGetVersion(self, number: Any) -> int:
        number._obj.value = 12060
        return 0

    def _cudaMalloc(self, pointer: Any, size: int) -> int:
        buffer = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(buffer)] = buffer
        pointer._obj.value = ctypes.addressof(buffer)
        return 0

    def _cudaFree(self, address: int) -> int:
        return 0 if self.memory.pop(address, None) is not None else 1

    def _cudaMallocHost(self, pointer: Any, size: int) -> int:
        return self._cudaMalloc(pointer, size)

    def _cudaFreeHost(self, address: int) -> int:
        return self._cudaFree(address)

    def _cudaMemcpyAsync(self, target: int, source: int, size: int, direction: int, stream: int) -> int:
        if stream not in self.queues:
            return 1

        def copy() -> None:
            ctypes.memmove(self.bytes_at(target, size), self.bytes_at(source, size), size)

        self.enqueue(stream, copy, COPY_IN_MS if direction == 1 else COPY_OUT_MS)
        return 0

    def _cudaStreamCreateWithFlags(self, stream: Any, flags: int) -> int:
        stream._obj.value = self._handle()
        self.queues[stream._obj.value] = []
        return 0

    def _cudaStreamSynchronize(self, stream: int) -> int:
        work, self.queues[stream] = self.queues[stream], []
        try:
            for step in work:
                step()
        except MemoryError:
            return 700
        return 0

    def _cudaStreamDestroy(self, stream: int) -> int:
        return 0 if self.queues.pop(stream, None) is not None else 1

    def _cudaEventCreate(self, event: Any) -> int:
        event._obj.value = self._handle()
        self.events[event._obj.value] = float("nan")
        return 0

    def _cudaEventRecord(self, event: int, stream: int) -> int:
        self.enqueue(stream, lambda: self.events.__setitem__(event, self.clock))
        return 0

    def _cudaEventElapsedTime(self, milliseconds: Any, start: int, end: int) -> int:
        milliseconds._obj.value = self.events[end] - self.events[start]
        return 0

    def _cudaEventDestroy(self, event: int) -> int:
        return 0 if self.events.pop(event, None) is not None else 1

    def _cudaGetErrorName(self, code: int) -> Any:
        return _ERRORS.get(code, ("cudaErrorUnknown", ""))[0].encode()

    def _cudaGetErrorString(self, code: int) -> Any:
        return _ERRORS.get(code, ("", "unknown error"))[1].encode()

    def _handle(self) -> int:
        self._handles += 8
        return self._handles


class SimulatedTensorRT(ModuleType):
    """`tensorrt` with TensorRT-RTX's real parser and builder, and a runtime whose engines are computed by ONNX Runtime.

    `graph` is the ONNX file that the next engine computes; `refuse` counts the plans that the runtime cannot read; `inspection` is the JSON
    that inspectors give.
    """

    def __init__(self, version: str, cuda: SimulatedCuda) -> None:
        super().__init__("tensorrt")
        import tensorrt_rtx

        self.real = tensorrt_rtx
        self.__version__ = version
        self.cuda = cuda
        self.graph: Path | None = None
        self.profiles: dict[str, Any] = {}
        self.refuse = 0
        self.deserialized: list[bytes] = []
        self.inspection: Any = {"Layers": [], "Bindings": []}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["real"], name)

    def Runtime(self, logger: Any) -> Any:
        return _Runtime(self, logger)


class _Runtime:
    def __init__(self, module: SimulatedTensorRT, logger: Any) -> None:
        self.module, self.logger = module, logger

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        self.module.deserialized.append(plan)
        if self.module.refuse:
            self.module.refuse -= 1
            self.logger.log("Severity.ERROR", "Serialization assertion failed: the version tag does not match")
            return None
        return _Engine(self.module)


class _Engine:
    def __init__(self, module: SimulatedTensorRT) -> None:
        import onnxruntime

        self.module = module
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(module.graph), options, providers=["CPUExecutionProvider"])
        self.ports = {port.name: port for port in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.input_names = [port.name for port in self.session.get_inputs()]
        self.num_io_tensors = len(self.ports)

    def get_tensor_name(self, index: int) -> str:
        return str(list(self.ports)[index])

    def get_tensor_dtype(self, name: str) -> Any:
        types = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF", "tensor(int64)": "INT64", "tensor(double)": "DOUBLE"}
        return f"DataType.{types[self.ports[name].type]}"

    def get_tensor_mode(self, name: str) -> Any:
        return self.module.TensorIOMode.INPUT if name in self.input_names else self.module.TensorIOMode.OUTPUT

    def is_shape_inference_io(self, name: str) -> bool:
        return False

    def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
        shape = tuple(self.ports[name].shape)
        return self.module.profiles.get(name, (shape, shape, shape))

    def create_execution_context(self) -> Any:
        return _Context(self)

    def create_engine_inspector(self) -> Any:
        return _Inspector(self.module)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self.engine = engine
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.get_tensor_profile_shape(name, 0)
        if len(shape) != len(low) or not all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
            return False
        self.shapes[name] = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self.shapes:
            return self.shapes[name]
        zeros = {key: np.zeros(shape, self._dtype(key)) for key, shape in self.shapes.items()}
        return tuple(self.engine.session.run([name], zeros)[0].shape)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if set(self.addresses) != set(self.engine.ports):
            return False
        cuda, addresses, shapes = self.engine.module.cuda, dict(self.addresses), dict(self.shapes)

        def compute() -> None:
            inputs = {}
            for name, shape in shapes.items():
                dtype = np.dtype(self._dtype(name))
                inputs[name] = np.frombuffer(bytes(cuda.bytes_at(addresses[name], int(np.prod(shape)) * dtype.itemsize)), dtype).reshape(shape)
            names = [name for name in self.engine.ports if name not in shapes]
            for name, array in zip(names, self.engine.session.run(names, inputs), strict=True):
                content = np.ascontiguousarray(array).tobytes()
                ctypes.memmove(cuda.bytes_at(addresses[name], len(content)), content, len(content))

        cuda.enqueue(stream, compute, COMPUTE_MS)
        return True

    def _dtype(self, name: str) -> str:
        return {"FLOAT": "float32", "HALF": "float16", "INT64": "int64"}[self.engine.get_tensor_dtype(name).rsplit(".", 1)[-1]]


class _Inspector:
    def __init__(self, module: SimulatedTensorRT) -> None:
        self.module = module
        self.execution_context: Any = None

    def get_engine_information(self, layout: Any) -> str:
        assert self.execution_context is not None, "formats of dynamic shapes are known only with a context"
        return json.dumps(self.module.inspection)


# ---- graphs ----------------------------------------------------------------------------------------------------------------

Array = npt.NDArray[Any]


def _save(path: Path, nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: dict[str, Array], opset: int = 17) -> Path:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, [numpy_helper.from_array(value, name) for name, value in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


class Graphs:
    """Small convolutions as ONNX files: float, and quantized in ways that TensorRT takes or refuses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.weight = np.random.default_rng(0).normal(size=(8, 3, 3, 3)).astype(np.float32)

    def float(self, dtype: str = "float32", batch: int | str = 1) -> Path:
        kind = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}[dtype]
        nodes = [
            helper.make_node("Conv", ["image", "w", "b"], ["c"], name="conv0", pads=[1] * 4),
            helper.make_node("Relu", ["c"], ["logits"], name="relu0"),
        ]
        return _save(
            self.folder / f"{dtype}-{batch}.onnx",
            nodes,
            [helper.make_tensor_value_info("image", kind, [batch, 3, 4, 4])],
            [helper.make_tensor_value_info("logits", kind, [batch, 8, 4, 4])],
            {"w": self.weight.astype(dtype), "b": np.linspace(-1, 1, 8).astype(dtype)},
        )

    def quantized(self, *, bias: str = "float", zero: int = 0, unsigned: bool = False) -> Path:
        scale = (np.abs(self.weight).max((1, 2, 3)) / 127).astype(np.float32)
        constants: dict[str, Array] = {
            "w_q": np.clip(np.round(self.weight / scale[:, None, None, None]), -127, 127).astype(np.int8),
            "w_scale": scale,
            "w_zero": np.zeros(8, np.int8),
            "x_scale": np.asarray(0.02, np.float32),
            "x_zero": np.asarray(zero, np.uint8 if unsigned else np.int8),
        }
        nodes = [
            helper.make_node("QuantizeLinear", ["image", "x_scale", "x_zero"], ["x_q"], name="quantize_image"),
            helper.make_node("DequantizeLinear", ["x_q", "x_scale", "x_zero"], ["x"], name="dequantize_image"),
            helper.make_node("DequantizeLinear", ["w_q", "w_scale", "w_zero"], ["w"], name="dequantize_weight", axis=0),
        ]
        if bias == "float":
            constants["b"] = np.ones(8, np.float32)
        else:
            constants |= {"b_q": np.full(8, 100, np.int32), "b_scale": (scale * 0.02).astype(np.float32), "b_zero": np.zeros(8, np.int32)}
            nodes.append(helper.make_node("DequantizeLinear", ["b_q", "b_scale", "b_zero"], ["b"], name="dequantize_bias", axis=0))
        nodes.append(helper.make_node("Conv", ["x", "w", "b"], ["logits"], name="conv0", pads=[1] * 4))
        return _save(
            self.folder / f"quantized-{bias}-{zero}-{unsigned}.onnx",
            nodes,
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 4, 4])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 8, 4, 4])],
            constants,
        )


@pytest.fixture
def graphs(tmp_path: Path) -> Graphs:
    folder = tmp_path / "graphs"
    folder.mkdir()
    return Graphs(folder)


@pytest.fixture
def simulated_cuda() -> Any:
    return SimulatedCuda()


@pytest.fixture
def simulated_tensorrt(simulated_cuda: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """TensorRT 10.3 on a simulated Orin, installed where the adapter looks for it, with an engine cache of its own."""
    pytest.importorskip("tensorrt_rtx")
    module = SimulatedTensorRT("10.3.0", simulated_cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr("kdedge.runtimes.cuda.load_library", lambda names=None: simulated_cuda)
    monkeypatch.setenv("KDEDGE_ENGINE_CACHE", str(tmp_path / "engines"))
    return module
