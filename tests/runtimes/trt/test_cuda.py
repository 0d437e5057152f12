"""CUDA calls against a simulated runtime library, and its symbols against the real one where it is installed."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from kdedge.runtimes import cuda
from kdedge.runtimes.errors import NotAvailable, RuntimeFailure


def test_what_the_device_is(simulated_cuda: Any) -> None:
    device = cuda.open_cuda(0, simulated_cuda)
    assert device.device_name() == "Simulated Orin"
    assert device.compute_capability() == (8, 7)
    assert device.runtime_version() == "12.6"
    assert device.device_count() == (1, "")


def test_a_machine_without_a_device_says_no_cuda_device(simulated_cuda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "has_driver", lambda: True)
    simulated_cuda.devices = 0
    with pytest.raises(NotAvailable, match=r"^no CUDA device: no CUDA-capable device is detected, cudaErrorNoDevice \(100\)"):
        cuda.open_cuda(0, simulated_cuda)
    simulated_cuda.fail["cudaGetDeviceCount"] = 35
    with pytest.raises(NotAvailable, match=r"^no CUDA device: CUDA driver version is insufficient.*update it"):
        cuda.open_cuda(0, simulated_cuda)
    monkeypatch.setattr(cuda, "has_driver", lambda: False)
    with pytest.raises(NotAvailable, match=r"^no CUDA device: this machine has no NVIDIA driver"):
        cuda.open_cuda(0, simulated_cuda)


def test_a_missing_library_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "has_driver", lambda: False)
    with pytest.raises(NotAvailable, match=r"no NVIDIA driver \(libcuda.so.1\)"):
        cuda.load_library(["libcudart-that-is-not-there.so"])
    monkeypatch.setattr(cuda, "has_driver", lambda: True)
    with pytest.raises(NotAvailable, match=r"libcudart.so\) was not found.*cuda-cudart"):
        cuda.load_library(["libcudart-that-is-not-there.so"])


def test_a_device_number_that_is_not_there_is_refused(simulated_cuda: Any) -> None:
    with pytest.raises(NotAvailable, match=r"no CUDA device 3: this machine has 1 \(0 to 0\); set the session option `device`"):
        cuda.open_cuda(3, simulated_cuda)


def test_a_library_without_a_symbol_is_refused_by_the_symbols_name(simulated_cuda: Any) -> None:
    del simulated_cuda.cudaMallocHost
    with pytest.raises(NotAvailable, match="cudaMallocHost"):
        cuda.Cuda(simulated_cuda)


def test_an_error_names_the_call_cudas_text_and_what_helps(simulated_cuda: Any) -> None:
    device = cuda.open_cuda(0, simulated_cuda)
    simulated_cuda.fail["cudaMalloc"] = 2
    with pytest.raises(RuntimeFailure) as caught:
        device.malloc(1 << 40)
    assert str(caught.value) == (
        "CUDA: cudaMalloc(1099511627776 bytes) failed: out of memory, cudaErrorMemoryAllocation (2);"
        " free GPU memory, or use a smaller batch or a smaller `workspace_mb`"
    )
    simulated_cuda.fail["cudaEventCreate"] = 12345
    with pytest.raises(RuntimeFailure, match=r"cudaEventCreate failed: unknown error, cudaErrorUnknown \(12345\)$"):
        device.create_event()
    simulated_cuda.fail["cudaGetDeviceCount"] = 1
    with pytest.raises(RuntimeFailure, match="cudaGetDeviceCount failed: invalid argument"):
        device.device_count()


def test_a_buffer_brings_bytes_to_the_device_and_back_once_the_stream_is_done(simulated_cuda: Any) -> None:
    device = cuda.open_cuda(0, simulated_cuda)
    stream = device.create_stream()
    there, back = cuda.DeviceBuffer(device), cuda.DeviceBuffer(device)
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert there.reserve(array.nbytes)
    assert back.reserve(array.nbytes)
    there.fill(array, stream)
    device.copy_to_host(back._host, there.address, array.nbytes, stream)
    assert not np.array_equal(back.read((3, 4), np.dtype(np.float32)), array), "nothing happens before the stream is synchronised"
    device.synchronize(stream)
    np.testing.assert_array_equal(back.read((3, 4), np.dtype(np.float32)), array)


def test_a_buffer_only_grows_and_gives_everything_back(simulated_cuda: Any) -> None:
    device = cuda.open_cuda(0, simulated_cuda)
    buffer = cuda.DeviceBuffer(device)
    assert buffer.reserve(64)
    first = buffer.address
    assert not buffer.reserve(32)
    assert buffer.address == first
    assert buffer.reserve(128)
    assert simulated_cuda.live == 2  # one block a side: the smaller ones are gone
    buffer.release()
    buffer.release()
    assert simulated_cuda.live == 0


def test_an_empty_tensor_has_an_address_too(simulated_cuda: Any) -> None:
    device = cuda.open_cuda(0, simulated_cuda)
    buffer = cuda.DeviceBuffer(device)
    buffer.reserve(0)
    assert buffer.address != 0
    assert buffer.read((0, 4), np.dtype(np.int64)).shape == (0, 4)


def test_events_measure_what_lies_between_them(simulated_cuda: Any) -> None:
    device = cuda.open_cuda(0, simulated_cuda)
    stream, start, end = device.create_stream(), device.create_event(), device.create_event()
    device.record(start, stream)
    simulated_cuda.enqueue(stream, lambda: None, 7.5)
    device.record(end, stream)
    device.synchronize(stream)
    assert device.elapsed_ms(start, end) == 7.5
    device.destroy_event(start)
    device.destroy_event(end)
    device.destroy_stream(stream)
    assert simulated_cuda.live == 0


def real_library() -> Any:
    try:
        return cuda.load_library()
    except NotAvailable as error:
        pytest.skip(str(error))


def test_the_real_cuda_runtime_has_every_function_that_is_called() -> None:
    device = cuda.Cuda(real_library())
    major, minor = device.runtime_version().split(".")
    assert int(major) >= 11
    assert minor.isdigit()
    count, problem = device.device_count()
    assert (count > 0) == (problem == "")


def test_the_real_cuda_runtime_explains_an_error_in_words() -> None:
    library = real_library()
    device = cuda.Cuda(library)
    assert device._text(2) == "out of memory, cudaErrorMemoryAllocation (2)"
    if device.device_count()[0] == 0:
        with pytest.raises(RuntimeFailure, match=r"cudaMalloc\(16 bytes\) failed: \w"):
            device.malloc(16)
    assert isinstance(library, ctypes.CDLL)
