"""The CUDA runtime library through ctypes: memory, copies, streams, events, and what the device is.

A Jetson board has neither pycuda nor cuda-python, but every board that runs TensorRT has `libcudart.so`. Only calls whose C signature has
not changed from CUDA 11 to 13 are used, so that one file serves JetPack 6 (12.6), JetPack 7 (13.x) and desktop cards.
Python 3.8, standard library and numpy only.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import glob
import os
import sys
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np

from .errors import NotAvailable, RuntimeFailure

_HOST_TO_DEVICE = 1
_DEVICE_TO_HOST = 2
_ATTRIBUTE_MAJOR = 75
_ATTRIBUTE_MINOR = 76
_NON_BLOCKING_STREAM = 1
# cudaDeviceProp has grown with every release (about 1 KiB in CUDA 13) but has always begun with `char name[256]`.
_PROPERTIES_BYTES = 16384
_NAME_BYTES = 256

_OUT_OF_MEMORY = 2
_DRIVER_TOO_OLD = 35
_NO_DEVICE = 100

_NO_DRIVER = "no CUDA device: this machine has no NVIDIA driver (libcuda.so.1)"

_ADVICE = {
    _OUT_OF_MEMORY: "free GPU memory, or use a smaller batch or a smaller `workspace_mb`",
    _DRIVER_TOO_OLD: "the NVIDIA driver is missing, or older than the CUDA runtime library: update it, or install the CUDA runtime that fits it",
    _NO_DEVICE: "check that the NVIDIA driver is loaded and that CUDA_VISIBLE_DEVICES does not hide the device",
    209: "the engine or library holds no code for this device's compute capability: build it on this device",
    700: "a kernel touched memory that is not its own; this process cannot use CUDA any more",
}

# Name -> argument types. All of them return a cudaError_t.
_SIGNATURES = {
    "cudaGetDeviceCount": [ctypes.POINTER(ctypes.c_int)],
    "cudaSetDevice": [ctypes.c_int],
    "cudaDeviceGetAttribute": [ctypes.POINTER(ctypes.c_int), ctypes.c_int, ctypes.c_int],
    "cudaGetDeviceProperties": [ctypes.c_void_p, ctypes.c_int],
    "cudaRuntimeGetVersion": [ctypes.POINTER(ctypes.c_int)],
    "cudaMalloc": [ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t],
    "cudaFree": [ctypes.c_void_p],
    "cudaMallocHost": [ctypes.POINTER(ctypes.c_void_p), ctypes.c_size_t],
    "cudaFreeHost": [ctypes.c_void_p],
    "cudaMemcpyAsync": [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p],
    "cudaStreamCreateWithFlags": [ctypes.POINTER(ctypes.c_void_p), ctypes.c_uint],
    "cudaStreamSynchronize": [ctypes.c_void_p],
    "cudaStreamDestroy": [ctypes.c_void_p],
    "cudaEventCreate": [ctypes.POINTER(ctypes.c_void_p)],
    "cudaEventRecord": [ctypes.c_void_p, ctypes.c_void_p],
    "cudaEventElapsedTime": [ctypes.POINTER(ctypes.c_float), ctypes.c_void_p, ctypes.c_void_p],
    "cudaEventDestroy": [ctypes.c_void_p],
}


def library_candidates() -> List[str]:
    """Where `libcudart` may be, best guess first: the loader's own answer, the toolkit's folders, then NVIDIA's wheels on `sys.path`."""
    found = ctypes.util.find_library("cudart")
    names = [found] if found else []
    names += ["libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0"]
    patterns = ["/usr/local/cuda*/lib64/libcudart.so*", "/usr/local/cuda*/targets/*/lib/libcudart.so*"]
    for folder in sys.path:
        patterns += [os.path.join(folder or ".", "nvidia", part, "lib", "libcudart.so*") for part in ("cu13", "cuda_runtime")]
    for pattern in patterns:
        names += sorted(glob.glob(pattern), reverse=True)
    return names


def load_library(names: Optional[Sequence[str]] = None) -> Any:
    """The CUDA runtime library as a ctypes object.

    Raises:
        NotAvailable: there is no NVIDIA driver (then nothing can help), or there is one and the runtime library is not found.
    """
    for name in library_candidates() if names is None else names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    if not has_driver():
        raise NotAvailable(_NO_DRIVER)
    raise NotAvailable(
        "no CUDA device can be used: an NVIDIA driver is here, but the CUDA runtime library (libcudart.so) was not found;"
        " on a Jetson it comes with the package cuda-cudart, elsewhere with: pip install nvidia-cuda-runtime"
    )


def has_driver() -> bool:
    """Whether an NVIDIA driver is installed (its user-space library can be loaded)."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def open_cuda(device: int = 0, library: Any = None) -> "Cuda":
    """CUDA on one device, made current for this thread.

    Raises:
        NotAvailable: no library, no driver, no device, or no device of that number; the sentence begins with "no CUDA device".
    """
    cuda = Cuda(load_library() if library is None else library)
    count, problem = cuda.device_count()
    if count == 0:
        raise NotAvailable("no CUDA device: " + problem if has_driver() else _NO_DRIVER)
    if not 0 <= device < count:
        raise NotAvailable("no CUDA device %d: this machine has %d (0 to %d); set the session option `device`" % (device, count, count - 1))
    cuda.use_device(device)
    return cuda


class Cuda:
    """Calls of the CUDA runtime as methods. Pointers, streams and events are plain integers; sizes are bytes; times are ms.

    Raises, from every method:
        RuntimeFailure: the call failed; the message names the call, CUDA's own text and what may help.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self.device = 0
        for name, arguments in _SIGNATURES.items():
            try:
                function = getattr(library, name)
            except AttributeError as error:
                raise NotAvailable("no CUDA device can be used: this CUDA runtime library has no `%s`; CUDA 11 or newer is needed" % name) from error
            function.argtypes = arguments
            function.restype = ctypes.c_int
        for name in ("cudaGetErrorName", "cudaGetErrorString"):
            getattr(library, name).argtypes = [ctypes.c_int]
            getattr(library, name).restype = ctypes.c_char_p

    # ---- the device

    def device_count(self) -> Tuple[int, str]:
        """How many devices there are, and why there is none where there is none."""
        count = ctypes.c_int(0)
        code = self._library.cudaGetDeviceCount(ctypes.byref(count))
        if code == 0:
            return count.value, "" if count.value else _ADVICE[_NO_DEVICE]
        if code in (_NO_DEVICE, _DRIVER_TOO_OLD):
            return 0, "%s (%s)" % (self._text(code), _ADVICE[code])
        self._check(code, "cudaGetDeviceCount")
        return 0, ""  # pragma: no cover - `_check` raises

    def use_device(self, device: int) -> None:
        """Make a device current for the calling thread."""
        self._check(self._library.cudaSetDevice(device), "cudaSetDevice(%d)" % device)
        self.device = device

    def device_name(self) -> str:
        """The device's product name, e.g. "Orin"."""
        properties = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        self._check(self._library.cudaGetDeviceProperties(ctypes.addressof(properties), self.device), "cudaGetDeviceProperties")
        return properties.raw[:_NAME_BYTES].split(b"\0", 1)[0].decode("utf-8", "replace")

    def compute_capability(self) -> Tuple[int, int]:
        """(major, minor), e.g. (8, 7) for a Jetson Orin."""
        return self._attribute(_ATTRIBUTE_MAJOR), self._attribute(_ATTRIBUTE_MINOR)

    def runtime_version(self) -> str:
        """The version of the CUDA runtime library, e.g. "12.6"."""
        number = ctypes.c_int(0)
        self._check(self._library.cudaRuntimeGetVersion(ctypes.byref(number)), "cudaRuntimeGetVersion")
        return "%d.%d" % (number.value // 1000, number.value % 1000 // 10)

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int(0)
        self._check(self._library.cudaDeviceGetAttribute(ctypes.byref(value), number, self.device), "cudaDeviceGetAttribute(%d)" % number)
        return value.value

    # ---- memory

    def malloc(self, size: int) -> int:
        """`size` bytes of device memory (at least one, so that an empty tensor has an address too)."""
        pointer = ctypes.c_void_p()
        self._check(self._library.cudaMalloc(ctypes.byref(pointer), max(size, 1)), "cudaMalloc(%d bytes)" % size)
        return int(pointer.value or 0)

    def free(self, pointer: int) -> None:
        """Give device memory back."""
        self._check(self._library.cudaFree(pointer), "cudaFree")

    def malloc_host(self, size: int) -> int:
        """`size` bytes of page-locked host memory: the only kind from which a copy is really asynchronous."""
        pointer = ctypes.c_void_p()
        self._check(self._library.cudaMallocHost(ctypes.byref(pointer), max(size, 1)), "cudaMallocHost(%d bytes)" % size)
        return int(pointer.value or 0)

    def free_host(self, pointer: int) -> None:
        """Give page-locked memory back; arrays that look into it must be gone."""
        self._check(self._library.cudaFreeHost(pointer), "cudaFreeHost")

    def copy_to_device(self, device_pointer: int, host_pointer: int, size: int, stream: int) -> None:
        """Queue a copy of `size` bytes from host to device."""
        code = self._library.cudaMemcpyAsync(device_pointer, host_pointer, size, _HOST_TO_DEVICE, stream)
        self._check(code, "cudaMemcpyAsync(host to device, %d bytes)" % size)

    def copy_to_host(self, host_pointer: int, device_pointer: int, size: int, stream: int) -> None:
        """Queue a copy of `size` bytes from device to host."""
        code = self._library.cudaMemcpyAsync(host_pointer, device_pointer, size, _DEVICE_TO_HOST, stream)
        self._check(code, "cudaMemcpyAsync(device to host, %d bytes)" % size)

    # ---- streams and events

    def create_stream(self) -> int:
        """A stream that does not wait for the legacy default stream."""
        stream = ctypes.c_void_p()
        self._check(self._library.cudaStreamCreateWithFlags(ctypes.byref(stream), _NON_BLOCKING_STREAM), "cudaStreamCreateWithFlags")
        return int(stream.value or 0)

    def synchronize(self, stream: int) -> None:
        """Wait until everything queued on the stream is done; an error of a kernel shows up here."""
        self._check(self._library.cudaStreamSynchronize(stream), "cudaStreamSynchronize")

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        self._check(self._library.cudaStreamDestroy(stream), "cudaStreamDestroy")

    def create_event(self) -> int:
        """An event with a time stamp (resolution about 0.5 us)."""
        event = ctypes.c_void_p()
        self._check(self._library.cudaEventCreate(ctypes.byref(event)), "cudaEventCreate")
        return int(event.value or 0)

    def record(self, event: int, stream: int) -> None:
        """Queue an event: its time is when everything queued before it is done."""
        self._check(self._library.cudaEventRecord(event, stream), "cudaEventRecord")

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds between two events that have happened, by the device's clock."""
        milliseconds = ctypes.c_float(0.0)
        self._check(self._library.cudaEventElapsedTime(ctypes.byref(milliseconds), start, end), "cudaEventElapsedTime")
        return float(milliseconds.value)

    def destroy_event(self, event: int) -> None:
        """Give an event back."""
        self._check(self._library.cudaEventDestroy(event), "cudaEventDestroy")

    # ---- errors

    def _text(self, code: int) -> str:
        parts = [getattr(self._library, name)(code) for name in ("cudaGetErrorString", "cudaGetErrorName")]
        text, name = [part.decode("utf-8", "replace") if part else "unknown" for part in parts]
        return "%s, %s (%d)" % (text, name, code)

    def _check(self, code: int, call: str) -> None:
        if code:
            advice = _ADVICE.get(code)
            raise RuntimeFailure("CUDA: %s failed: %s%s" % (call, self._text(code), "; " + advice if advice else ""))


class DeviceBuffer:
    """Room for one tensor on both sides: page-locked host memory and device memory of the same size, which only grow.

    `address` is the device pointer. Copies are queued on the stream; their bytes are there after `Cuda.synchronize`.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._capacity = -1
        self._host = 0
        self.address = 0

    def reserve(self, size: int) -> bool:
        """Make room for `size` bytes; True where `address` has changed."""
        if size <= self._capacity:
            return False
        self.release()
        self._host = self._cuda.malloc_host(size)
        self.address = self._cuda.malloc(size)
        self._capacity = size
        return True

    def fill(self, array: np.ndarray, stream: int) -> None:
        """Stage a contiguous array and queue its copy to the device."""
        self._view(array.shape, array.dtype)[...] = array
        self._cuda.copy_to_device(self.address, self._host, array.nbytes, stream)

    def fetch(self, size: int, stream: int) -> None:
        """Queue the copy of `size` bytes back to the host."""
        self._cuda.copy_to_host(self._host, self.address, size, stream)

    def read(self, shape: Tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """What was fetched, as an array of the caller's own."""
        return self._view(shape, dtype).copy()

    def release(self) -> None:
        """Give both sides back."""
        host, address, self._host, self.address, self._capacity = self._host, self.address, 0, 0, -1
        if host:
            self._cuda.free_host(host)
        if address:
            self._cuda.free(address)

    def _view(self, shape: Tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        memory: Any = (ctypes.c_char * max(size, 1)).from_address(self._host)
        view: np.ndarray = np.frombuffer(memory, dtype=dtype, count=size // np.dtype(dtype).itemsize).reshape(shape)
        return view
