"""Both schemas of the engine inspector, on files constructed after NVIDIA's documentation (no engine of either version was at hand)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kdedge.runtimes.errors import RuntimeFailure
from kdedge.runtimes.tensorrt_inspector import executed_layers, layer_dtype, layer_sources, read_inspection, tensor_dtype

HERE = Path(__file__).parent


def text(version: int) -> str:
    return (HERE / f"constructed_inspector_{version}.json").read_text()


def test_schema_10_gives_each_layer_the_type_of_its_arithmetic() -> None:
    inspection = read_inspection(text(10))
    assert (inspection.schema, inspection.detailed, inspection.tensors) == (10, True, ("image", "logits"))
    assert [(layer.name, layer.operator, layer.dtype) for layer in inspection.layers] == [
        ("Reformatting CopyNode for Input Tensor 0 to conv0", "Reformat", "other"),
        ("conv0 + relu0", "Convolution", "int8"),
        ("conv1 + add1 + relu1", "Convolution", "int8"),  # a float16 shortcut is added to it, its products are int8
        ("pool", "Pooling", "fp16"),
        ("norm", "kgen", "bf16"),
        ("fc", "MatrixMultiply", "fp32"),
        ("unresolved", "PointWise", "other"),
    ]


def test_schema_11_is_read_to_the_same_form() -> None:
    inspection = read_inspection(text(11), "tensorrt_rtx")
    assert (inspection.schema, inspection.detailed, inspection.tensors) == (11, True, ("image", "logits"))
    assert [(layer.name, layer.operator, layer.dtype) for layer in inspection.layers] == [
        ("conv0 + relu0", "Convolution", "int8"),
        ("embedding", "Gather", "other"),
        ("attention", "kgen", "fp16"),
        ("fc", "MatrixMultiply", "fp32"),
    ]
    assert {layer.provider for layer in inspection.layers} == {"tensorrt_rtx"}
    assert executed_layers(text(11), "tensorrt_rtx") == list(inspection.layers)


def test_an_engine_built_with_names_only_claims_no_type() -> None:
    inspection = read_inspection(json.dumps({"Layers": ["conv0 + relu0", "fc"], "Bindings": ["image", "logits"]}))
    assert not inspection.detailed
    assert [(layer.name, layer.dtype) for layer in inspection.layers] == [("conv0 + relu0", "other"), ("fc", "other")]


@pytest.mark.parametrize(
    ("words", "dtype"),
    [
        ("Row major linear FP32 format", "fp32"),
        ("Row major linear FP32", "fp32"),
        ("Channel major FP16 format where channel % 4 == 0", "fp16"),
        ("Half", "fp16"),
        ("Float", "fp32"),
        ("Row major linear BFloat16 format", "bf16"),
        ("BF16", "bf16"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"),
        ("UInt8", "int8"),
        ("Int32", "other"),
        ("Int64", "other"),
        ("FP8", "other"),
        ("Int4", "other"),
        ("Bool", "other"),
        ("N/A due to dynamic shapes", None),
        ("", None),
    ],
)
def test_every_way_to_write_a_type(words: str, dtype: str | None) -> None:
    assert tensor_dtype({"Format/Datatype": words}) == dtype
    assert tensor_dtype({"Datatype": words, "Format": "Row major linear format (kLINEAR)"}) == dtype


def test_weights_alone_tell_the_type_when_tensors_do_not() -> None:
    layer: dict[str, Any] = {
        "LayerType": "CaskConvolution",
        "Inputs": [{"Format/Datatype": "N/A due to dynamic shapes"}],
        "Weights": {"Type": "Half"},
    }
    assert layer_dtype(layer) == "fp16"
    assert tensor_dtype("a name only") is None


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("no JSON", "not JSON"),
        ("[]", "no list `Layers`"),
        ('{"Layers": 3}', "no list `Layers`"),
        ('{"Layers": []}', "neither `Bindings` .TensorRT 10. nor `I/O Tensors` .TensorRT 11."),
    ],
)
def test_an_answer_of_no_known_schema_is_refused(answer: str, complaint: str) -> None:
    with pytest.raises(RuntimeFailure, match=complaint):
        read_inspection(answer)


def test_the_nodes_inside_of_a_layer_are_read_from_its_metadata_or_else_its_name() -> None:
    fused = {"Name": "conv1 + add1 + relu1", "LayerType": "CaskConvolution"}
    assert layer_sources(fused) == ("conv1", "add1", "relu1")
    # The separators that TensorRT's parser leaves between nodes; the name is one that the compiler made up.
    marked = {"Name": "__myl_ConvAddRelu_0x1", "Metadata": "[ONNX Layer: conv1]\x1f[ONNX Layer: a/b: c]\x1e[ONNX Layer: conv1]"}
    assert layer_sources(marked) == ("conv1", "a/b: c")
    assert [layer.sources for layer in read_inspection(text(10)).layers][1:3] == [("conv0", "relu0"), ("conv1", "add1", "relu1")]
