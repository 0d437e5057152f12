"""What was asked against what ran, on layers written down by hand: who is who, sums, reasons."""

from __future__ import annotations

from typing import Any

import pytest

from kdedge.artifact import AskedNode
from kdedge.fidelity.audit import audit


def asked(name: str, precision: str = "int8", macs: int | None = 100, operator: str = "Conv", **more: Any) -> AskedNode:
    facts: dict[str, Any] = {"activation": "uint8", "result": "uint8", "bias": "int32"} if precision == "int8" else {"result": "float"}
    return AskedNode(name, operator, precision, macs, (name,), **{**facts, **more})


def layer(name: str, operator: str, dtype: str, *sources: str, ms: float | None = None) -> dict[str, Any]:
    return {"name": name, "operator": operator, "dtype": dtype, "provider": "CPU", "sources": list(sources), "milliseconds": ms}


def test_shares_are_counted_in_multiply_accumulates_and_not_in_layers() -> None:
    nodes = [asked("a", macs=600), asked("b", macs=300), asked("c", "fp32", macs=100)]
    ran = [layer("a", "QLinearConv", "int8", "a"), layer("b", "Conv", "fp32", "b"), layer("c", "Conv", "fp32", "c"), layer("r", "Relu", "fp32", "r")]
    found = audit(nodes, ran, "onnxruntime", {})
    assert found.macs == {"int8": 600, "fp32": 400}
    assert found.integer_share == pytest.approx(0.6)
    assert [row.as_asked for row in found.rows] == [True, False, True]


def test_a_layer_that_was_fused_from_several_nodes_is_found_by_the_names_that_the_runtime_kept() -> None:
    nodes = [asked("conv"), asked("fc", operator="Gemm")]
    openvino = [
        layer("conv/WithoutBiases", "Convolution", "int8", "conv/WithoutBiases", "Multiply_7", "conv", "relu"),
        layer("fc/made/up", "FullyConnected", "int8", "fc/made/up", "fc"),
    ]
    found = audit(nodes, openvino, "openvino", {})
    assert [row.layer for row in found.rows] == ["conv/WithoutBiases", "fc/made/up"]
    tensorrt = [layer("conv + add1 + relu1", "CaskConvolution", "int8", "conv", "add1", "relu1"), layer("fc", "gemm", "fp16", "fc")]
    assert [row.ran for row in audit(nodes, tensorrt, "tensorrt", {}).rows] == ["int8", "fp16"]


def test_a_node_that_took_the_name_of_what_follows_it_is_found_and_two_never_share_one_layer() -> None:
    main, bypass = asked("main", followers=("add", "relu")), asked("bypass", followers=("add", "relu"))
    found = audit([main, bypass], [layer("relu_nchwc", "Conv", "fp32", "relu"), layer("bypass", "Conv", "fp32", "bypass")], "onnxruntime", {})
    assert {row.node: row.layer for row in found.rows} == {"main": "relu_nchwc", "bypass": "bypass"}
    alone = audit([main, bypass], [layer("relu_nchwc", "Conv", "fp32", "relu")], "onnxruntime", {})
    assert [row.ran for row in alone.rows] == ["fp32", ""]


def test_an_activation_that_kept_its_name_is_not_taken_for_the_convolution_before_it() -> None:
    found = audit([asked("conv", followers=("relu",))], [layer("relu", "Relu", "fp32", "relu")], "onnxruntime", {})
    assert found.rows[0].ran == ""


def test_what_cannot_be_told_is_unknown_and_counts_as_no_integer() -> None:
    nodes = [asked("a", macs=300), asked("lost", macs=100)]
    ran = [layer("a", "QLinearConv", "int8", "a"), layer("__myl_Conv_1", "Convolution", "int8"), layer("blob", "TRTKernel_graph", "other", "lost")]
    found = audit(nodes, ran, "tensorrt", {})
    assert found.macs == {"int8": 300, "unknown": 100}
    assert found.integer_share == pytest.approx(0.75)
    assert found.layers == ("__myl_Conv_1",)
    (finding,) = found.findings
    assert finding.startswith("1 of 2 nodes that multiply could not be found among the executed layers (`lost`)")
    assert "1 executed layers that multiply carry none of the file's names" in finding


def test_conversions_that_are_layers_of_their_own_are_counted_with_their_time() -> None:
    ran = [
        layer("x_QuantizeLinear", "QuantizeLinear", "other", ms=0.25),
        layer("y_DequantizeLinear", "DequantizeLinear", "other", ms=0.5),
        layer("Transpose_token_3", "Transpose", "other", ms=0.125),
        layer("transpose_of_the_model", "Transpose", "other", ms=8.0),
        layer("a", "QLinearConv", "int8", "a", ms=4.0),
        layer("add", "QLinearAdd", "int8", ms=16.0),
    ]
    found = audit([asked("a")], ran, "onnxruntime", {})
    assert found.conversions == {"DequantizeLinear": 1, "QuantizeLinear": 1, "Transpose": 1}
    assert found.conversion_ms == 0.875
    assert found.layers == ()
    assert found.rows[0].milliseconds == 4.0
    untimed = audit([asked("a")], [layer("r", "Reformat", "other"), layer("a", "CaskConvolution", "int8", "a")], "tensorrt", {})
    assert (untimed.conversions, untimed.conversion_ms) == ({"Reformat": 1}, None)


@pytest.mark.parametrize(
    ("node", "options", "machine", "why"),
    [
        ({"result": "float"}, {}, "x86_64", "its output is not quantized"),
        ({"between": "Relu", "result": "int8"}, {}, "x86_64", "a Relu stands between it and its quantization"),
        ({"activation": "int8", "result": "int8"}, {}, "x86_64", "its activations are signed"),
        ({"activation": "int8", "result": "int8"}, {}, "aarch64", "onnxruntime chose a float kernel and does not say why"),
        ({"activation": "int8", "result": "int8"}, {"qdq_int8_allowed": True}, "x86_64", "onnxruntime chose a float kernel"),
        ({}, {"optimization": "basic"}, "x86_64", "its option `optimization` is basic"),
    ],
)
def test_the_reason_is_what_the_graph_and_the_options_show(node: dict[str, Any], options: dict[str, Any], machine: str, why: str) -> None:
    found = audit([asked("conv", **node)], [layer("conv", "FusedConv", "fp32", "conv")], "onnxruntime", options, [machine])
    assert found.rows[0].why.startswith(why)
    assert found.findings == (f"1 of 1 convolution asked in int8 ran in fp32: {found.rows[0].why}",)


def test_equal_reasons_are_one_sentence() -> None:
    nodes = [asked(f"conv{number}", result="float" if number < 12 else "uint8") for number in range(21)]
    ran = [
        layer(f"conv{number}", "Conv" if number < 12 else "QLinearConv", "fp32" if number < 12 else "int8", f"conv{number}") for number in range(21)
    ]
    found = audit(nodes, ran, "onnxruntime", {}, ["x86_64"])
    assert found.findings == ("12 of 21 convolutions asked in int8 ran in fp32: its output is not quantized",)


def test_a_float_layer_that_was_meant_to_be_float_keeps_its_reason_and_is_no_finding() -> None:
    found = audit([asked("conv", "fp32", kept="kept float by `keep_float`")], [layer("conv", "Conv", "fp32", "conv")], "onnxruntime", {})
    assert found.rows[0].why == "kept float by `keep_float`"
    assert found.findings == ()


@pytest.mark.parametrize(
    ("runtime", "precision", "ran", "why"),
    [
        ("onnxruntime", "fp16", "fp32", "its CPU kernels have no fp16"),
        ("openvino", "fp32", "bf16", "the device's choice (option `inference_precision`)"),
        ("tensorrt", "fp32", "fp16", "tensorrt chose a kernel in fp16"),
    ],
)
def test_another_float_than_asked_is_explained_too(runtime: str, precision: str, ran: str, why: str) -> None:
    found = audit([asked("conv", precision)], [layer("conv", "Convolution", ran, "conv")], runtime, {})
    assert why in found.findings[0]


def test_nodes_whose_multiplications_are_not_counted_are_named() -> None:
    found = audit([asked("lstm", "fp32", None, "LSTM")], [layer("lstm", "LSTM", "fp32", "lstm")], "onnxruntime", {})
    assert found.integer_share is None
    assert found.findings == ("not counted, for their sizes are not known or not simple: 1 LSTM",)


def test_a_worker_of_an_older_version_names_no_sources_and_is_read_all_the_same() -> None:
    old = {"name": "conv", "operator": "QLinearConv", "dtype": "int8", "provider": "CPU"}
    assert audit([asked("conv")], [old], "onnxruntime", {}).integer_share == 1.0
