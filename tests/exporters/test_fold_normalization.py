"""Mean and standard deviation go into the first convolution: the same function, whose input's 256 codes are all exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import foreign_graphs as graphs
import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from kdedge.exporters.equivalence import difference, run
from kdedge.exporters.model_file import constant, load_model
from kdedge.exporters.passes.apply import apply_passes
from kdedge.exporters.passes.fold_normalization import Normalization, find_normalization

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


def channels(values: Any) -> Any:
    return np.asarray(values, np.float32).reshape(1, -1, 1, 1)


def graph(
    path: Path,
    steps: tuple[tuple[str, Any], ...] = (("Sub", channels(MEAN)), ("Div", channels(STD))),
    size: Any = ("n", 3, 9, 11),
    bias: bool = True,
    first: bool = False,
    more: tuple[Any, ...] = (),
    **attributes: Any,
) -> ir.Model:
    """image -> steps with constants (the image second where `first`) -> Conv -> Relu."""
    group = attributes.get("group", 1)
    named: dict[str, Any] = {"w": graphs.random(6, 3 // group, 3, 3), "b": graphs.random(6, seed=1)}
    nodes, value = [], "image"
    for place, (operator, held) in enumerate(steps):
        named[f"c{place}"] = held
        inputs = [f"c{place}", value] if first else [value, f"c{place}"]
        nodes.append(helper.make_node(operator, inputs, [f"v{place}"], f"step{place}"))
        value = f"v{place}"
    nodes.append(
        helper.make_node(
            "Conv",
            [value, "w", *(["b"] if bias else [])],
            ["l"],
            "stem",
            **(attributes if {"pads", "auto_pad"} & set(attributes) else {"pads": [1, 1, 1, 1], **attributes}),
        )
    )
    nodes.append(helper.make_node("Relu", ["l"], ["y"], "relu"))
    outputs = [graphs.described("y", None), *(graphs.described(node.output[0], None) for node in more)]
    return load_model(graphs.save(path, [*nodes, *more], [graphs.described("image", list(size))], outputs, graphs.constants(**named)))


def pictures(count: int = 2, height: int = 9, width: int = 11, white: float = 1.0) -> Any:
    codes = np.random.default_rng(3).integers(0, 256, (count, 3, height, width))
    return (codes * (white / 255)).astype(np.float32)


def folded(model: ir.Model, white: float = 1.0) -> ir.Model:
    """The graph after the pass, which is the same function in the middle and at the border of all sizes."""
    feeds = [{"image": pictures(count, white=white)} for count in (1, 3)]
    applied = apply_passes(model, ["fold_normalization"], feeds)
    assert applied.reverted == {}
    assert applied.kept == ("fold_normalization",)
    for got, want in zip(run(applied.model, feeds), run(model, feeds), strict=True):
        assert difference(got, want)[1] < 3e-6
    return applied.model


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


@pytest.mark.parametrize(
    "attributes",
    [
        {"pads": [1, 1, 1, 1]},
        {"pads": [0, 2, 1, 0]},
        {"pads": [3, 3, 3, 3]},
        {"pads": [1, 1, 1, 1], "strides": [2, 2]},
        {"pads": [2, 2, 2, 2], "dilations": [2, 2]},
        {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    ],
    ids=str,
)
def test_the_border_of_a_padded_convolution_is_right(tmp_path: Path, attributes: dict[str, Any]) -> None:
    assert operators(folded(graph(tmp_path / "m.onnx", **attributes))) == ["Sub", "Pad", "Conv", "Relu"]


@pytest.mark.parametrize(
    ("steps", "first"),
    [
        ((("Sub", channels(MEAN)), ("Mul", channels(4.0))), False),
        ((("Mul", channels([4.0, 5.0, 3.0])), ("Add", channels([-2.0, -2.4, -1.4]))), False),
        ((("Add", -channels(MEAN).reshape(3, 1, 1)), ("Div", np.float32(0.25))), False),
        ((("Sub", channels(MEAN)),), True),  # mean - image
        ((("Mul", channels([4.0, 5.0, 3.0])), ("Add", channels([-2.0, -2.4, -1.4]))), True),
    ],
)
def test_every_way_to_write_a_normalisation_is_read(tmp_path: Path, steps: Any, first: bool) -> None:
    assert operators(folded(graph(tmp_path / "m.onnx", steps, first=first))) == ["Sub", "Pad", "Conv", "Relu"]


def test_without_padding_the_mean_goes_into_the_bias_and_no_channel_is_added(tmp_path: Path) -> None:
    for bias in (True, False):
        assert operators(folded(graph(tmp_path / "m.onnx", bias=bias, pads=[0, 0, 0, 0]))) == ["Sub", "Conv", "Relu"]


def test_a_grey_mean_of_code_128_leaves_nothing_for_another_channel(tmp_path: Path) -> None:
    model = graph(tmp_path / "m.onnx", (("Sub", np.float32(128)), ("Div", np.float32(64))))
    assert operators(folded(model, white=255.0)) == ["Sub", "Conv", "Relu"]


def test_the_new_weights_are_those_on_paper_and_the_added_channel_fills_their_range(tmp_path: Path) -> None:
    new = folded(graph(tmp_path / "m.onnx"))
    nodes = {node.op_type: node for node in new.graph}
    weight, value = constant(nodes["Conv"].inputs[1]), float(constant(nodes["Pad"].inputs[2]))
    old, shift = graphs.random(6, 3, 3, 3).astype(np.float64), 128 / 255
    assert weight.shape == (6, 4, 3, 3)
    np.testing.assert_allclose(weight[:, :3], old / np.reshape(STD, (1, 3, 1, 1)), rtol=1e-6)
    rest = (old * np.reshape((shift - np.array(MEAN)) / np.array(STD), (1, 3, 1, 1))).sum(axis=1)
    np.testing.assert_allclose(weight[:, 3] * value, rest, rtol=1e-5, atol=1e-7)
    code = value * 255
    assert code == pytest.approx(round(code), abs=1e-4)  # on the grid of the image: exact in 8 bits
    largest = np.abs(weight[:, :3]).max(axis=(1, 2, 3))
    assert (np.abs(weight[:, 3]).max(axis=(1, 2)) <= largest * (1 + 1e-6)).all()  # no step becomes coarser
    one_less = np.abs(rest).max(axis=(1, 2)) / ((round(code) - 1) / 255)
    assert (one_less > largest).any()  # and no smaller code would do


def test_white_is_read_from_the_mean(tmp_path: Path) -> None:
    pixels = graph(tmp_path / "m.onnx", (("Sub", channels([123.675, 116.28, 103.53])), ("Div", channels([58.4, 57.1, 57.4]))))
    found = find_normalization(pixels)
    assert isinstance(found, Normalization)
    assert list(found.ends) == [-128.0, 127.0]
    folded(pixels, white=255.0)
    only_scaled = find_normalization(graph(tmp_path / "m.onnx", (("Div", np.float32(255.0)),)))
    assert isinstance(only_scaled, Normalization)
    assert only_scaled.full_scale == 255
    unit = find_normalization(graph(tmp_path / "m.onnx"))
    assert isinstance(unit, Normalization)
    assert unit.full_scale == 1
    assert unit.reach == pytest.approx((-0.4914 / 0.247, (1 - 0.4822) / 0.2435))  # the darkest red, the brightest green


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"group": 3}, "`stem` has groups, of which each would need a channel of its own"),
        ({"steps": ()}, "`image` is not normalised: Conv `stem` reads it"),
        ({"steps": (("Sub", channels([-0.4, 0.5, 0.5])),)}, "lies neither in [0, 1] nor in [0, 255]"),
        ({"steps": (("Sub", graphs.random(1, 3, 9, 11)),)}, "`step0` has a constant of shape [1, 3, 9, 11], which is not one number a channel"),
        ({"steps": (("Sub", channels(MEAN)), ("Div", channels([0.2, 0.0, 0.2])))}, "`step1` divides by zero"),
        ({"steps": (("Div", channels(MEAN)),), "first": True}, "`step0` divides by the image"),
        ({"size": ("n", "c", 9, 11)}, "`image` has a free number of channels"),
        ({"more": (helper.make_node("Relu", ["v1"], ["z"], "other"),)}, "what `step1` makes is read by more than one node"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_where_it_is_not_safe_the_graph_stays_and_the_reason_is_said(tmp_path: Path, options: dict[str, Any], reason: str) -> None:
    model = graph(tmp_path / "m.onnx", **options)
    found = find_normalization(model)
    assert isinstance(found, str)
    assert reason in found
    before = operators(model)
    applied = apply_passes(model, ["fold_normalization"], [{"image": pictures()}])
    assert (applied.kept, applied.reverted, operators(applied.model)) == ((), {}, before)


def test_what_is_no_picture_or_no_convolution_is_left_alone(tmp_path: Path) -> None:
    rows = [helper.make_node("Sub", ["x", "c"], ["v"], "sub"), helper.make_node("MatMul", ["v", "w"], ["y"], "product")]
    weights = graphs.constants(c=np.float32(0.5), w=graphs.random(4, 5))
    model = load_model(graphs.save(tmp_path / "m.onnx", rows, [graphs.described("x", ["n", 4])], [graphs.described("y", None)], weights))
    assert find_normalization(model) == "no input of the graph is a float32 image [N, C, H, W]"
    pooled = [helper.make_node("Sub", ["x", "c"], ["v"], "sub"), helper.make_node("GlobalAveragePool", ["v"], ["y"], "pool")]
    model = load_model(graphs.save(tmp_path / "m.onnx", pooled, [graphs.described("x", ["n", 3, 4, 4])], [graphs.described("y", None)], weights[:1]))
    assert find_normalization(model) == "behind the normalisation comes GlobalAveragePool `pool` and no convolution"
