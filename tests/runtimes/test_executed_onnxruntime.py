"""What ONNX Runtime really ran is read back from the runtime. Facts of ONNX Runtime 1.32 on x86 with VNNI are marked as such."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from runtime_models import write_half, write_images, write_net, write_quantized

from kdedge.runtimes.errors import NotAvailable, RuntimeFailure
from kdedge.runtimes.executed import count_by_dtype, dtype_named
from kdedge.runtimes.onnxruntime import OnnxRuntimeSession, layers_of, open_session, sources_of
from kdedge.runtimes.session import ExecutedLayer

ONE = {"threads": 1, "spinning": False}
x86_only = pytest.mark.skipif(platform.machine() != "x86_64", reason="which kernels fuse depends on the machine")


def ran(path: Path, tmp_path: Path, **options: object) -> list[ExecutedLayer]:
    session = open_session([str(path)], {**ONE, **options})
    session.run({"image": write_images(tmp_path / "x.npy", 2)})
    return session.executed()


def convolutions(layers: list[ExecutedLayer]) -> list[tuple[str, str]]:
    return sorted((layer.operator, layer.dtype) for layer in layers if "Conv" in layer.operator)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_net(tmp_path_factory.mktemp("net") / "net.onnx")


def test_a_float_net_runs_in_float(net: Path, tmp_path: Path) -> None:
    layers = ran(net, tmp_path)
    assert convolutions(layers) == [("Conv", "fp32"), ("Conv", "fp32")]
    assert set(count_by_dtype(layers)) == {"fp32", "other"}
    assert {layer.provider for layer in layers} == {"CPUExecutionProvider"}


def test_a_net_in_the_runtimes_own_dialect_runs_all_convolutions_as_integers(net: Path, tmp_path: Path) -> None:
    layers = ran(write_quantized(tmp_path / "q.onnx", net), tmp_path)
    found = convolutions(layers)
    assert found == [("QLinearConv", "int8"), ("QLinearConv", "int8")]
    assert sum(dtype == "int8" for _, dtype in found) / len(found) == 1.0
    assert {layer.dtype for layer in layers if layer.operator in ("QuantizeLinear", "DequantizeLinear")} == {"other"}


@x86_only
def test_a_net_with_symmetric_signed_activations_runs_half_in_float_and_is_reported_so(net: Path, tmp_path: Path) -> None:
    # The file holds int8 weights and Q/DQ around every convolution; only the runtime can tell that the one before a ReLU computes in float.
    layers = ran(write_quantized(tmp_path / "s.onnx", net, signed=True), tmp_path)
    assert convolutions(layers) == [("Conv", "fp32"), ("QLinearConv", "int8")]


@x86_only
def test_half_precision_is_run_as_float_on_x86_and_is_reported_so(net: Path, tmp_path: Path) -> None:
    assert convolutions(ran(write_half(tmp_path / "h.onnx", net), tmp_path)) == [("Conv", "fp32"), ("Conv", "fp32")]


def test_dynamic_quantization_is_counted_as_integer_where_it_multiplies(net: Path, tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(str(net), str(tmp_path / "d.onnx"), weight_type=QuantType.QInt8)
    layers = ran(tmp_path / "d.onnx", tmp_path)
    assert convolutions(layers) == [("ConvInteger", "int8"), ("ConvInteger", "int8")]
    assert {layer.dtype for layer in layers if layer.operator == "DynamicQuantizeLinear"} == {"other"}


def test_reading_back_leaves_the_session_and_the_folder_as_they_were(net: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    session = open_session([str(net)], ONE)
    images = write_images(tmp_path / "x.npy", 2)
    before = session.run({"image": images})["logits"]
    first, again = ([replace(layer, milliseconds=None) for layer in session.executed()] for _ in range(2))
    assert again == first
    assert np.array_equal(session.run({"image": images})["logits"], before)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def test_reading_back_before_the_first_run_is_refused(net: Path) -> None:
    with pytest.raises(RuntimeFailure, match="run the session once"):
        open_session([str(net)], ONE).executed()


def test_a_loop_counts_each_of_its_nodes_once() -> None:
    event = {"cat": "Node", "name": "body/add_kernel_time", "args": {"op_name": "Add", "provider": "CPUExecutionProvider", "node_index": "3"}}
    types = {"input_type_shape": [{"float": [1]}, {"float": [1]}], "output_type_shape": [{"float": [1]}]}
    event["args"].update(types)  # type: ignore[attr-defined]
    fence = {"cat": "Node", "name": "body/add_fence_before", "args": {"op_name": "Add"}}
    session_event = {"cat": "Session", "name": "model_run", "args": {}}
    assert layers_of([session_event, fence, event, event]) == [ExecutedLayer("body/add", "Add", "fp32", "CPUExecutionProvider", ("body/add",))]


@pytest.mark.parametrize(
    ("operator", "provider", "inputs", "outputs", "expected"),
    [
        ("Where", "CPUExecutionProvider", ["bool", "float16", "float16"], ["float16"], "fp16"),
        ("Gather", "CPUExecutionProvider", ["float", "int64"], ["float"], "other"),
        ("ArgMax", "CPUExecutionProvider", ["float"], ["int64"], "other"),
        ("Add", "CPUExecutionProvider", ["int64", "int64"], ["int64"], "other"),
        ("MatMul", "CUDAExecutionProvider", ["bfloat16", "bfloat16"], ["bfloat16"], "bf16"),
        ("MatMulIntegerToFloat", "CPUExecutionProvider", ["uint8", "int8", "float"], ["float"], "int8"),
        ("MaxPool", "CPUExecutionProvider", ["uint8"], ["uint8"], "int8"),
        # What a compiling provider does inside its node is not in this trace, so it is not claimed.
        ("TRTKernel_graph_0", "TensorrtExecutionProvider", ["float"], ["float"], "other"),
    ],
)
def test_the_dtype_is_that_of_the_arithmetic(operator: str, provider: str, inputs: list[str], outputs: list[str], expected: str) -> None:
    arguments = {
        "op_name": operator,
        "provider": provider,
        "node_index": "0",
        "input_type_shape": [{name: [1]} for name in inputs],
        "output_type_shape": [{name: [1]} for name in outputs],
    }
    (layer,) = layers_of([{"cat": "Node", "name": "n_kernel_time", "args": arguments}])
    assert layer.dtype == expected


def test_dtype_names_are_the_same_for_all_runtimes() -> None:
    assert [dtype_named(name) for name in ("float", "f32", "FLOAT16", "bf16", "u8", "int8", "i64")] == [
        "fp32",
        "fp32",
        "fp16",
        "bf16",
        "int8",
        "int8",
        "other",
    ]


def test_a_provider_that_the_runtime_drops_fails_the_session(net: Path) -> None:
    class Dropping:
        """A runtime that opens everything on the CPU, as ONNX Runtime does when a provider's libraries are missing."""

        def __init__(self) -> None:
            import onnxruntime

            self._real = onnxruntime

        def __getattr__(self, name: str) -> object:
            return getattr(self._real, name)

        def InferenceSession(self, path: str, options: object, providers: list[str]) -> object:
            return self._real.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    options = {"providers": ["CUDAExecutionProvider", "CPUExecutionProvider"], "optimization": "all"}
    unset = dict.fromkeys(("threads", "inter_threads", "spinning", "qdq_int8_allowed", "unpack_weights", "x64_quant_precision"))
    with pytest.raises(RuntimeFailure, match="dropped the provider CUDAExecutionProvider; active: CPUExecutionProvider"):
        OnnxRuntimeSession(Dropping(), str(net), {**unset, **options})


def test_a_provider_that_this_build_lacks_is_not_available(net: Path) -> None:
    with pytest.raises(NotAvailable, match=r"this build has no XnnpackExecutionProvider \(it has: .*CPUExecutionProvider"):
        open_session([str(net)], {"providers": ["XnnpackExecutionProvider", "CPUExecutionProvider"]})


def test_options_reach_the_runtime(net: Path) -> None:
    session = open_session([str(net)], {"threads": 2, "inter_threads": 2, "spinning": False, "optimization": "basic", "qdq_int8_allowed": True})
    native = session.native.get_session_options()
    assert native.intra_op_num_threads == 2
    assert native.inter_op_num_threads == 2
    assert native.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert native.get_session_config_entry("session.qdqisint8allowed") == "1"
    assert native.graph_optimization_level.name == "ORT_ENABLE_BASIC"
    assert session.facts()["providers"] == ["CPUExecutionProvider"]


def test_outputs_belong_to_the_caller(net: Path, tmp_path: Path) -> None:
    session = open_session([str(net)], ONE)
    images = write_images(tmp_path / "x.npy", 2)
    first = session.run({"image": images})["logits"]
    kept = first.copy()
    session.run({"image": images * 2})
    assert np.array_equal(first, kept)


def test_a_file_that_is_no_model_is_named_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not protobuf")
    with pytest.raises(RuntimeFailure, match=r"onnxruntime cannot open broken\.onnx") as caught:
        open_session([str(tmp_path / "broken.onnx")], {})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("conv_nchwc", "conv"),
        ("conv_token_12", "conv"),
        ("InsertedPrecisionFreeCast_conv_nchwc", "conv"),
        ("x_DequantizeLinear/duplicated", "x_DequantizeLinear"),
        ("fused conv", "conv"),
        ("/layer.0/MatMul/MatMulAddFusion", "/layer.0/MatMul"),
        ("plain/Conv_3", "plain/Conv_3"),
    ],
)
def test_the_name_of_the_files_node_is_read_out_of_the_optimised_one(name: str, source: str) -> None:
    assert sources_of(name) == (source,)


def test_a_layers_time_is_the_median_of_the_traced_inferences() -> None:
    facts = {"op_name": "Conv", "provider": "CPUExecutionProvider", "node_index": "0", "input_type_shape": [{"float": [1]}]}
    events = [{"cat": "Node", "name": "conv_kernel_time", "dur": duration, "args": facts} for duration in (9000, 10, 30, 20, 40)]
    (layer,) = layers_of(events)
    assert layer.milliseconds == 0.03


def test_every_layer_of_a_real_trace_is_timed_and_named_after_the_file(net: Path, tmp_path: Path) -> None:
    layers = ran(net, tmp_path)
    assert all(layer.milliseconds is not None and layer.milliseconds >= 0 for layer in layers)
    assert all(layer.sources for layer in layers)
