"""Golden placements of the operator families beyond plain convolutions: what each dialect quantizes of them, and what it leaves alone on purpose."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from executed_operators import SIGNED
from graph_families import FAMILIES, with_one_image
from small_graphs import Graph, calibrated, dialect, images, lowered, readers, relu6, run, sqnr

from kdedge.exporters.dialects.validate import validate

LAST = "last_relu pooled flat logits"
ATTENTION = (
    "query_product query query_split query_heads key_product key key_split key_heads value_product value value_split value_heads scores scaled "
    "shares context context_rows merged out_product out attended"
)

# family -> dialect -> (activations with a Q/DQ pair; nodes that move integers)
PLACEMENTS: dict[str, dict[str, tuple[str, str]]] = {
    "grouped": {
        "onnxruntime-x86": ("image stem_relu grouped_relu mix_relu last_relu pooled", "flat"),
        "openvino": ("image stem_relu grouped_relu mix_relu flat", ""),
        "tensorrt": ("image stem_relu grouped_relu mix_relu", ""),
        "qnn-htp": (f"image stem_relu grouped_relu mix_relu {LAST}", ""),
    },
    "transposed": {
        # The Concat moves integers, so what the float ConvTranspose makes is quantized for it.
        "onnxruntime-x86": ("image stem_relu low_relu up_relu last_relu pooled", "joined flat"),
        "phone-xnnpack": ("image stem_relu low_relu up_relu last_relu pooled", "joined flat"),
        "openvino": ("image stem_relu low_relu joined flat", ""),
        "tensorrt": ("image stem_relu low_relu joined", ""),
        "qnn-htp": (f"image stem_relu low_relu up_relu joined {LAST}", ""),
    },
    "resized": {
        "onnxruntime-x86": ("image stem_relu low_relu joined last_relu pooled", "up flat"),
        "openvino": ("image stem_relu joined flat", ""),
        "tensorrt": ("image stem_relu joined", ""),
        "qnn-htp": (f"image stem_relu low_relu up joined {LAST}", ""),
    },
    "resized_linear": {
        "onnxruntime-x86": ("image stem_relu low_relu up joined last_relu pooled", "flat"),
        "openvino": ("image stem_relu joined flat", ""),
        "tensorrt": ("image stem_relu joined", ""),
        "qnn-htp": (f"image stem_relu low_relu up joined {LAST}", ""),
    },
    "silu": {
        "onnxruntime-x86": ("image stem_relu conv1 sigmoid1 silu1 conv2 sigmoid2 silu2 last_relu pooled", "flat"),
        "openvino": ("image stem_relu silu1 silu2 flat", ""),
        "tensorrt": ("image stem_relu silu1 silu2", ""),
        "qnn-htp": (f"image stem_relu conv1 sigmoid1 silu1 conv2 sigmoid2 silu2 {LAST}", ""),
    },
    "hard_swish": {
        "onnxruntime-x86": ("image stem_relu conv1 swish1 conv2 swish2 last_relu pooled", "flat"),
        "openvino": ("image stem_relu swish1 swish2 flat", ""),
        "tensorrt": ("image stem_relu swish1 swish2", ""),
        "qnn-htp": (f"image stem_relu conv1 swish1 conv2 swish2 {LAST}", ""),
    },
    "hard_swish_parts": {
        "onnxruntime-x86": ("image stem_relu conv1 gate1 gated1 swish1 conv2 gate2 gated2 swish2 last_relu pooled", "flat"),
        "openvino": ("image stem_relu swish1 swish2 flat", ""),
        "tensorrt": ("image stem_relu swish1 swish2", ""),
        "qnn-htp": (f"image stem_relu conv1 gate1 gated1 swish1 conv2 gate2 gated2 swish2 {LAST}", ""),
    },
    "gelu": {
        "onnxruntime-x86": ("image stem_relu conv1 gelu1 conv2 gelu2 last_relu pooled", "flat"),
        "openvino": ("image stem_relu gelu1 gelu2 flat", ""),
        "tensorrt": ("image stem_relu gelu1 gelu2", ""),
        "qnn-htp": (f"image stem_relu conv1 gelu1 conv2 gelu2 {LAST}", ""),
    },
    "gelu_erf": {
        "onnxruntime-x86": ("image stem_relu conv1 gelu1_one gelu1_product gelu1 conv2 gelu2_one gelu2_product gelu2 last_relu pooled", "flat"),
        "openvino": ("image stem_relu gelu1 gelu2 flat", ""),
        "tensorrt": ("image stem_relu gelu1 gelu2", ""),
        "qnn-htp": (
            "image stem_relu conv1 gelu1_scaled gelu1_erf gelu1_one gelu1_product gelu1 "
            f"conv2 gelu2_scaled gelu2_erf gelu2_one gelu2_product gelu2 {LAST}",
            "",
        ),
    },
    "squeeze_excite": {
        "onnxruntime-x86": ("image stem_relu deep_relu squeeze_mean squeeze_relu excite gate gated last_relu pooled", "flat"),
        "openvino": ("image stem_relu squeeze_mean squeeze_relu gated flat", ""),
        "tensorrt": ("image stem_relu squeeze_mean squeeze_relu gated", ""),
        "qnn-htp": (f"image stem_relu deep_relu squeeze_mean squeeze_relu excite gate gated {LAST}", ""),
    },
    "attention": {
        "onnxruntime-x86": ("image patches norm1 merged norm2 gelu mean", "flat_patches rows"),
        "openvino": ("image norm1 merged norm2 gelu mean", ""),
        "tensorrt": ("image norm1 merged norm2 gelu", ""),
        "qnn-htp": (f"image patches flat_patches rows norm1 {ATTENTION} norm2 up_product up gelu down_product down block norm3 mean logits", ""),
    },
    "attention_parts": {
        "onnxruntime-x86": ("image patches norm1 merged norm2 gelu mean", "flat_patches rows"),
        "openvino": ("image norm1 merged norm2 gelu mean", ""),
        "tensorrt": ("image norm1 merged norm2 gelu", ""),
    },
    "perceptron": {
        "onnxruntime-x86": ("flat relu1 relu2", ""),
        "openvino": ("flat relu1 relu2", ""),
        "tensorrt": ("flat relu1", ""),
        "qnn-htp": ("image flat relu1 relu2 logits", ""),
    },
}
# Weighted nodes that stay float, beside TensorRT's last product of 10 columns.
FLOAT = {
    ("transposed", "onnxruntime-x86"): ["up"],
    **{(family, name): ["scores", "context"] for family in ("attention", "attention_parts") for name in ("onnxruntime-x86", "openvino", "tensorrt")},
}


def graph_of(family: str, folder: Path) -> Path:
    return with_one_image(FAMILIES[family](folder / "float.onnx"))


@pytest.mark.parametrize("family", PLACEMENTS)
def test_exactly_these_tensors_of_a_family_are_quantized(tmp_path: Path, family: str) -> None:
    path = graph_of(family, tmp_path)
    table = calibrated(path)
    for name, (activations, moving) in PLACEMENTS[family].items():
        out, report = lowered(path, dialect(name), table)
        assert (" ".join(report.activations), " ".join(report.moving)) == (activations, moving), name
        expected = FLOAT.get((family, name), []) + (["logits"] if name == "tensorrt" else [])
        assert [note.split("`")[1] for note in report.notes] == expected, name
        validate(out, dialect(name), report.kept)


def test_shares_and_scores_of_an_attention_stay_float_because_small_shares_vanish_below_half_a_step(tmp_path: Path) -> None:
    report = lowered(graph_of("attention", tmp_path), dialect("onnxruntime-x86"))[1]
    assert report.notes == tuple(f"`{name}` (MatMul) stays float: it multiplies two activations" for name in ("scores", "context"))
    # 784 equal shares of 1 are 0.00128 each; a step of [0, 1] in 8 bits is 0.0039: all of them round to 0.
    assert round((1 / 784) * 255) == 0


def test_a_constant_factor_behind_an_integer_kernel_is_quantized_with_it(tmp_path: Path) -> None:
    path = graph_of("hard_swish_parts", tmp_path)
    wired = readers(lowered(path, dialect("onnxruntime-x86"))[0])
    assert wired["swish1"] == ["dq(gated1)", "dq(swish1_input1_quantized)"]
    assert wired["shifted1"] == ["dq(conv1)", "dq(shifted1_input1_quantized)"]
    assert readers(lowered(path, dialect("openvino"))[0])["swish1"] == ["gated1", "sixth"]


def test_arithmetic_on_the_input_stays_float_where_no_integer_kernel_feeds_it(tmp_path: Path) -> None:
    graph = Graph(channels=3)
    shifted = graph.op("Add", "shifted", "image", graph.constant("mean", [[[[-0.5]], [[-0.4]], [[-0.3]]]][0]))
    scaled = graph.op("Mul", "scaled", shifted, graph.constant("deviation", [[[4.0]], [[4.5]], [[5.0]]]))
    path = graph.write(tmp_path / "float.onnx", graph.conv("stem", scaled, 16))
    out, report = lowered(path, dialect("onnxruntime-x86"))
    assert report.activations == ("scaled", "stem")
    assert readers(out)["scaled"] == ["shifted", "deviation"]


def test_a_concat_at_the_end_pulls_no_float_branch_into_integers(tmp_path: Path) -> None:
    graph = Graph(channels=3)
    stem = graph.op("Relu", "stem_relu", graph.conv("stem", "image", 16))
    graph.op("Concat", "both", stem, graph.op("Gelu", "curved", stem), axis=1, channels=32)
    path = graph.write(tmp_path / "float.onnx", "both", opset=20)
    out, report = lowered(path, dialect("onnxruntime-x86"))
    assert (report.activations, report.moving) == (("image", "stem_relu"), ())
    assert readers(out)["both"] == ["dq(stem_relu)", "curved"]


@pytest.mark.parametrize("name", ["onnxruntime-x86", "phone-xnnpack"])
def test_a_relu6_that_the_range_cuts_is_dropped_where_the_hardware_takes_no_activation(tmp_path: Path, name: str) -> None:
    graph = Graph(channels=3)
    first = relu6(graph, "first_clip", graph.conv("first", "image", 16))
    path = graph.write(tmp_path / "float.onnx", graph.op("Relu", "second_relu", graph.conv("second", first, 16)))
    path = with_one_image(path)
    out, _ = lowered(path, dialect(name))
    kinds = {node.op_type for node in onnx.load(out).graph.node}
    assert ({"Relu", "Clip"} & kinds == set()) is (name == "phone-xnnpack")
    inputs = images(1, seed=9)
    assert sqnr(run(path, inputs), run(out, inputs, SIGNED)) > 33.0
