"""Operands out of the ordinary: weights that analysis makes no row of, infinities, computed factors and limits, masks that several Softmax share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from executed_operators import SIGNED
from graph_families import with_one_image
from small_graphs import Graph, calibrated, constants, dialect, images, lowered, readers, run, sqnr

from kdedge.errors import DialectError
from kdedge.exporters.dialects.validate import validate
from kdedge.exporters.quantize.encoding import Encoding, covers, encode_activation
from kdedge.exporters.quantize.lower import LoweredReport
from kdedge.exporters.quantize.masks import cut_masks
from kdedge.exporters.quantize.ranges import ActivationRange
from kdedge.exporters.quantize.wiring import load

QNN, SIXTEEN_BITS, TENSORRT = dialect("qnn-htp"), dialect("qnn-htp-16"), dialect("tensorrt")
EXAMPLES = images(16, size=8)


def written(graph: Graph, folder: Path, output: str, name: str = "qnn-htp") -> tuple[Path, Path, LoweredReport]:
    """The graph for one image, and its form in a dialect."""
    path = with_one_image(graph.write(folder / "float.onnx", output), dialect(name).minimum_opset)
    return path, *lowered(path, dialect(name), calibrated(path, EXAMPLES))


# ---- weights that have no row ----------------------------------------------------------------------------------------------


def grouped_transposed(graph: Graph) -> str:
    weight = graph.constant("w", graph.random.normal(0, 0.2, (16, 4, 2, 2)))
    return graph.op("ConvTranspose", "odd", graph.conv("stem", "image", 16), weight, graph.constant("b", np.ones(16)), strides=[2, 2], group=4)


def scaled_product(graph: Graph) -> str:
    weight = graph.constant("w", graph.random.normal(0, 0.2, (192, 10)))
    return graph.op("Gemm", "odd", graph.op("Flatten", "flat", "image"), weight, graph.constant("b", np.ones((1, 10))), alpha=0.5)


def stacked_product(graph: Graph) -> str:
    return graph.op("MatMul", "odd", "image", graph.constant("w", graph.random.normal(0, 0.2, (3, 8, 5))))


@pytest.mark.parametrize("odd", [grouped_transposed, scaled_product, stacked_product])
def test_a_weight_of_a_form_that_has_no_row_is_a_weight_where_nothing_stays_float(tmp_path: Path, odd: Any) -> None:
    graph = Graph(channels=3, size=8)
    path, out, report = written(graph, tmp_path, odd(graph))
    validate(out, QNN)
    assert report.notes == ()
    held = constants(out)
    assert (held["odd_input1_quantized"].dtype.name, held["odd_input1_scale"].shape) == ("int8", ())
    if "odd_input2_quantized" in held:
        assert (held["odd_input2_quantized"].dtype.name, held["odd_input2_quantized"].shape) == ("int32", constants(path)["b"].shape)
    assert sqnr(run(path, EXAMPLES[:1]), run(out, EXAMPLES[:1])) > 30.0


def test_a_normalisation_whose_factor_is_computed_has_an_offset_like_any_constant(tmp_path: Path) -> None:
    graph = Graph(channels=3, size=8)
    factor = graph.op("ReduceMean", "factor", "image", graph.constant("axes", [0, 1, 2], "int64"), keepdims=0)
    path, out, _ = written(graph, tmp_path, graph.op("LayerNormalization", "norm", "image", factor, graph.constant("offset", np.ones(8))))
    validate(out, QNN)
    assert readers(out)["norm"] == ["dq(image)", "dq(factor)", "dq(norm_input2_quantized)"]
    assert constants(out)["norm_input2_quantized"].dtype.name == "uint8"
    assert sqnr(run(path, EXAMPLES[:1]), run(out, EXAMPLES[:1])) > 35.0


# ---- what integers cannot hold ---------------------------------------------------------------------------------------------


def test_a_node_that_reads_an_infinite_constant_stays_float_and_is_named(tmp_path: Path) -> None:
    graph = Graph(channels=3, size=8)
    stem = graph.conv("stem", "image", 16)
    below = graph.op("Less", "below", stem, graph.constant("zero", 0.0))
    cut = graph.op("Relu", "cut", graph.op("Where", "where", below, graph.constant("nothing", -np.inf), stem))
    path, out, report = written(graph, tmp_path, graph.conv("last", cut, 4))
    assert report.notes == ("`where` (Where) stays float: Where reads a constant that is not finite, for which no integer stands",)
    validate(out, QNN, report.kept)
    with pytest.raises(DialectError, match=r"`where` \(Where\): it reads `nothing` in float"):
        validate(out, QNN)
    assert sqnr(run(path, EXAMPLES[:1]), run(out, EXAMPLES[:1])) > 30.0


@pytest.mark.parametrize("computed", [True, False])
def test_a_clip_is_dropped_only_where_its_ends_are_known(tmp_path: Path, computed: bool) -> None:
    graph = Graph(channels=3, size=8)
    top = graph.op("ReduceMax", "top", "image", keepdims=0) if computed else graph.constant("top", 1.0)
    clip = graph.op("Clip", "clip", graph.conv("stem", "image", 8), graph.constant("zero", 0.0), top)
    path, out, _ = written(graph, tmp_path, graph.conv("last", clip, 4), "phone-xnnpack")
    assert ("Clip" in {node.op_type for node in onnx.load(out).graph.node}) is computed
    assert sqnr(run(path, EXAMPLES[:1]), run(out, EXAMPLES[:1], SIGNED)) > 30.0


# ---- scales that hardware fixes --------------------------------------------------------------------------------------------


def test_what_is_moved_keeps_the_scale_that_the_hardware_fixes(tmp_path: Path) -> None:
    graph = Graph(channels=3, size=8)
    flat = graph.op("Flatten", "flat", graph.op("Sigmoid", "gate", graph.conv("stem", "image", 4)), channels=256)
    _, out, _ = written(graph, tmp_path, graph.gemm("logits", flat, 4), "qnn-htp-16")
    held = constants(out)
    assert held["gate_scale"] == held["flat_scale"] == np.float32(2.0**-16)
    assert int(held["gate_zero_point"]) == int(held["flat_zero_point"]) == 0
    validate(out, SIXTEEN_BITS)


def test_a_concat_of_a_fixed_scale_and_of_something_wider_covers_both(tmp_path: Path) -> None:
    graph = Graph(channels=3, size=8)
    stem = graph.conv("stem", "image", 4)
    both = graph.op("Concat", "both", graph.op("Sigmoid", "gate", stem), stem, axis=1, channels=8)
    path, out, _ = written(graph, tmp_path, graph.conv("last", both, 4), "qnn-htp-16")
    held = constants(out)
    assert held["gate_scale"] == np.float32(2.0**-16)
    assert held["both_scale"] == held["stem_scale"] > np.float32(2.0**-16)
    assert sqnr(run(path, EXAMPLES[:1]), run(out, EXAMPLES[:1])) > 40.0


def test_an_encoding_covers_what_lies_within_a_step_of_its_ends() -> None:
    held = Encoding(np.float32(2.0**-16), 0)  # [0, 1 - 2^-16]
    row = ActivationRange("x", 0.0, 1.0, 1.0, (0.0, 1.0))
    assert covers(held, [row], SIXTEEN_BITS)
    assert not covers(held, [row, replace(row, affine=(0.0, 1.01))], SIXTEEN_BITS)
    assert not covers(held, [replace(row, affine=(-0.01, 1.0))], SIXTEEN_BITS)


def test_the_narrowest_range_of_a_symmetric_type_spans_as_much_as_that_of_another() -> None:
    narrow = replace(TENSORRT, rest="float32", smallest_scale=0.0, smallest_range=1e-4)
    nothing = ActivationRange("x", 0.0, 0.0, 0.0, (0.0, 0.0))
    assert float(encode_activation([nothing], narrow).scale) * 254 == pytest.approx(1e-4, rel=1e-6)


# ---- masks -----------------------------------------------------------------------------------------------------------------


def masked_twice(folder: Path) -> tuple[Any, dict[str, ActivationRange]]:
    """A mask that two Softmax share, whose scores lie in [-1, 1] and in [-50, 50]."""
    graph = Graph(channels=3, size=8)
    for name in ("near", "wide"):
        graph.op("Softmax", f"{name}_shares", graph.op("Add", f"{name}_masked", graph.conv(name, "image", 3), "mask"), axis=-1)
    graph.nodes.insert(0, onnx.helper.make_node("Neg", ["image"], ["mask"], name="mask"))
    path = graph.write(folder / "float.onnx", "near_shares", "wide_shares")
    ends = {"mask": (-1e4, 0.0), "near": (-1.0, 1.0), "wide": (-50.0, 50.0), "near_masked": (-10001.0, 1.0), "wide_masked": (-10050.0, 50.0)}
    return load(path).graph, {name: ActivationRange(name, low, high, max(-low, high), (low, high)) for name, (low, high) in ends.items()}


def test_a_mask_that_several_softmax_share_reaches_below_the_widest_scores(tmp_path: Path) -> None:
    graph, rows = masked_twice(tmp_path)
    cut = cut_masks(graph, frozenset(), rows)
    assert cut["mask"].affine == (-108.0, 0.0)  # -50 - 50 - 8: with -10 a masked score of 50 would be 40, and win
    assert cut["near_masked"].affine == (-9.0, 1.0)
    assert cut["wide_masked"].affine == (-58.0, 50.0)


def test_scores_that_reach_far_below_zero_are_no_mask(tmp_path: Path) -> None:
    graph, rows = masked_twice(tmp_path)
    scores = replace(rows["mask"], low=-100.0, high=100.0, affine=(-100.0, 100.0), symmetric=100.0)
    assert cut_masks(graph, frozenset(), {**rows, "mask": scores}) == {**rows, "mask": scores}
