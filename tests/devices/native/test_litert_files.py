"""What benchmark_model is given and prints. Texts are constructed after its sources, which the module names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tflite_for_tests import write_tflite

from kdedge.devices.native.litert import input_arguments, read_outputs, summary
from kdedge.devices.native.tflite_file import TensorInfo, inputs_and_outputs
from kdedge.runtimes.errors import RuntimeFailure

CONSTRUCTED = """INFO: Initialized session in 3.501ms.
INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
INFO: count=12 first=156677 curr=33205 min=32578 max=156677 avg=43268.1 std=34197

INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
INFO: count=50 first=33228 curr=33130 min=32687 max=33239 avg=33071.8 std=129 p5=32700 median=33100 p95=33230

INFO: Inference timings in us: Init: 3501, First inference: 156677, Warmup (avg): 43268.1, Inference (avg): 33071.8
"""


def test_the_summary_is_of_the_timed_runs_and_not_of_the_warm_up() -> None:
    assert summary(CONSTRUCTED) == {
        "count": 50.0,
        "average_us": 33071.8,
        "init_us": 3501.0,
        "first_us": 156677.0,
        "warmup_us": 43268.1,
        "min_us": 32687.0,
        "max_us": 33239.0,
        "std_us": 129.0,
        "p5_us": 32700.0,
        "median_us": 33100.0,
        "p95_us": 33230.0,
    }


def test_large_times_and_equal_ones_are_read() -> None:
    text = (
        "count=1 curr=9992420\ncount=2 curr=8459(all same)\nInit: 25558, First inference: 9992420, Warmup (avg): 9.99242e+06, Inference (avg): 8459"
    )
    assert summary(text) == {"count": 2.0, "average_us": 8459.0, "init_us": 25558.0, "first_us": 9992420.0, "warmup_us": 9992420.0}


@pytest.mark.parametrize("text", ["", "ERROR: Failed to load model\n", "count=3 avg=1\n"])
def test_no_times_are_a_failure(text: str) -> None:
    with pytest.raises(RuntimeFailure, match="printed no times"):
        summary(text)


def test_a_file_tells_its_inputs_and_outputs(tmp_path: Path) -> None:
    path = write_tflite(tmp_path / "m.tflite", [("a:0", (1, 2, 3), "float32"), ("b", (1,), "int32")], [("c", (1, 4), "int8"), ("d", (), "string")])
    assert inputs_and_outputs(path) == (
        [TensorInfo("a:0", (1, 2, 3), "float32"), TensorInfo("b", (1,), "int32")],
        [TensorInfo("c", (1, 4), "int8"), TensorInfo("d", (), "")],
    )


def test_a_file_that_is_cut_or_is_something_else_is_a_failure_wherever_it_is_cut(tmp_path: Path) -> None:
    whole = write_tflite(tmp_path / "m.tflite", [("a", (1, 2), "float32")], [("c", (1, 4), "float32")]).read_bytes()
    expected = inputs_and_outputs(tmp_path / "m.tflite")
    outcomes = set()
    for size in range(len(whole)):
        (tmp_path / "cut.tflite").write_bytes(whole[:size])
        try:
            outcomes.add("read" if inputs_and_outputs(tmp_path / "cut.tflite") == expected else "other")
        except RuntimeFailure as error:
            outcomes.add(str(error).partition(":")[0])
    assert "cut.tflite is a damaged .tflite file" in outcomes
    assert outcomes <= {"cut.tflite is no .tflite file", "cut.tflite is a damaged .tflite file", "read", "other"}
    (tmp_path / "m.onnx").write_bytes(b"\x08\x07 not a flatbuffer")
    with pytest.raises(RuntimeFailure, match=r"is no \.tflite file"):
        inputs_and_outputs(tmp_path / "m.onnx")


def test_inputs_are_named_in_the_order_of_the_model_and_files_in_that_of_the_job() -> None:
    wanted = [TensorInfo("b:0", (1, 2), "float32"), TensorInfo("a", (1,), "int32")]
    given = {"a": np.zeros(4, np.int32), "b:0": np.zeros((4, 2), np.float32)}
    assert input_arguments(wanted, given, "/in") == [
        "--input_layer=b:0,a",
        "--input_layer_shape=4,2:4",
        "--input_layer_value_files=b::0:/in/input-1.bin,a:/in/input-0.bin",
    ]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ([TensorInfo("x", (1, 2), "float32"), TensorInfo("y", (1,), "float32")], "the job gives the inputs image, the model takes x, y"),
        ([TensorInfo("x", (1, 2), "uint8")], r"input `image` is float32\[1, 2\], the model takes uint8\[1, 2\]"),
        ([TensorInfo("x", (1, 2, 1), "float32")], r"the model takes float32\[1, 2, 1\]"),
        ([TensorInfo("x,y", (1, 2), "float32")], "a comma ends a name there"),
    ],
)
def test_inputs_that_do_not_fit_are_a_failure(wanted: list[TensorInfo], said: str) -> None:
    with pytest.raises(RuntimeFailure, match=said):
        input_arguments(wanted, {"image": np.zeros((1, 2), np.float32)}, "/in")


def test_outputs_are_cut_out_of_one_file_and_another_length_is_a_failure(tmp_path: Path) -> None:
    specs = [TensorInfo("a", (1, 2), "float32"), TensorInfo("b", (1,), "int8")]
    (tmp_path / "o").write_bytes(np.array([1, 2, 3, 4], np.float32).tobytes() + np.array([5, 6], np.int8).tobytes())
    found = read_outputs(tmp_path / "o", specs, 2)
    assert found["a"].tolist() == [[1, 2], [3, 4]]
    assert found["b"].tolist() == [5, 6]
    with pytest.raises(RuntimeFailure, match="wrote 18 bytes of outputs; the model's outputs for 1 examples have 9"):
        read_outputs(tmp_path / "o", specs, 1)
    with pytest.raises(RuntimeFailure, match="may not know --output_filepath"):
        read_outputs(tmp_path / "none", specs, 1)
