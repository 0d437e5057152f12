"""What onnxruntime_perf_test is asked, and what is read of its files. Texts are constructed after its sources, which the module names."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from kdedge.devices.native.onnxruntime_perf_test import arguments, read_printed, read_times
from kdedge.devices.native.tensor_proto import tensor_proto
from kdedge.runtimes.errors import NotAvailable, RuntimeFailure

CONSTRUCTED_NOW = """Setting intra_op_num_threads to 1
Session creation time cost: 0.217932 s
First inference time cost: 196 ms
Total inference time cost: 0.49481 s
Total inference requests: 5
Average inference time cost total: 98.961997 ms
Avg CPU usage: 11 %
Peak working set size: 271122432 bytes
"""
CONSTRUCTED_2020 = "Total time cost:58.8053\nTotal iterations:1000\nAverage time cost:58.8053 ms\n"


def test_what_is_printed_is_read_by_name_and_an_old_version_tells_less() -> None:
    assert read_printed(CONSTRUCTED_NOW) == {"load_s": 0.217932, "first_ms": 196.0, "peak_bytes": 271122432.0, "cpu_percent": 11.0}
    assert read_printed("Avg CPU usage:98\nPeak working set size:35299328\nRuns:8\n") == {"peak_bytes": 35299328.0, "cpu_percent": 98.0}
    assert read_printed(CONSTRUCTED_2020) == {}


def test_every_run_is_read_in_ns_and_statistics_are_no_runs() -> None:
    text = "a,b,0.0559777,1024,98,0\na,b,6.1e-05,1024,98,1\na,b,0.06,1024,98,2\n\nMin Latency: 0.0559777 s\nP999 Latency: 0.06 s\n"
    assert read_times(text).tolist() == [55_977_700, 61_000, 60_000_000]
    assert read_times(text).dtype == np.int64


@pytest.mark.parametrize("text", ["", "Min Latency: 1 s\n", "m,-1,0,0,0\n", "m,nan,0,0,0\n", "only,commas,in,a,line\n"])
def test_a_file_without_runs_is_a_failure(text: str) -> None:
    with pytest.raises(RuntimeFailure, match="wrote no times"):
        read_times(text)


def test_a_file_whose_beginning_is_lost_is_a_failure() -> None:
    with pytest.raises(RuntimeFailure, match="has run 7 where run 0 should be"):
        read_times("m,0.001,0,0,7\nm,0.001,0,0,8\n")


def test_session_options_become_its_options() -> None:
    assert arguments({}) == ["-e", "cpu", "-o", "99"]
    assert arguments({"threads": 4, "inter_threads": 2, "spinning": False, "optimization": "basic"}) == [
        *("-e", "cpu", "-o", "1", "-x", "4", "-y", "2", "-P", "-D")
    ]
    assert arguments({"providers": ["XnnpackExecutionProvider", "CPUExecutionProvider"], "qdq_int8_allowed": True, "unpack_weights": False}) == [
        *("-e", "xnnpack", "-o", "99", "-C", "session.qdqisint8allowed|1 session.disable_quant_qdq|0")
    ]


def test_what_it_cannot_be_asked_is_not_run_and_a_misspelt_option_an_error() -> None:
    with pytest.raises(NotAvailable, match="is not asked for CUDAExecutionProvider"):
        arguments({"providers": ["CUDAExecutionProvider"]})
    with pytest.raises(RuntimeFailure, match="unknown session option `thread`"):
        arguments({"thread": 1})


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int8", "uint16", "int16", "int32", "int64", "bool", "uint32", "uint64"])
def test_an_input_written_here_is_read_by_onnx(dtype: str) -> None:
    values = np.random.default_rng(0).integers(0, 2, (2, 3, 300)).astype(dtype)
    read = onnx.TensorProto.FromString(tensor_proto("a name: é", values))
    assert read.name == "a name: é"
    back = numpy_helper.to_array(read)
    assert back.dtype == values.dtype
    np.testing.assert_array_equal(back, values)


def test_a_type_that_onnx_does_not_have_is_a_failure() -> None:
    with pytest.raises(RuntimeFailure, match="input `x` holds complex64"):
        tensor_proto("x", np.zeros(2, np.complex64))
