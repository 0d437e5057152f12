from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from onnx import numpy_helper
from small_graphs import Graph, concat, depthwise, images, option_a, residual, run

from kdedge.exporters.model_file import save_model
from kdedge.exporters.quantize.equalization import Equalized, equalize
from kdedge.exporters.quantize.layers import stream
from kdedge.exporters.quantize.tensors import replace_tensors
from kdedge.exporters.quantize.wiring import load


def uneven(path: Path, channels: int = 8) -> Path:
    """Convolution, ReLU, depthwise convolution, ReLU, convolution, with output channels of very different sizes."""
    graph = Graph(channels=3)
    stem = graph.op("Relu", "stem_relu", graph.conv("stem", "image", channels))
    deep = graph.op("Relu", "deep_relu", graph.conv("deep", stem, channels, group=channels))
    for constant in graph.constants:
        if constant.name in ("stem.weight", "stem.bias", "deep.weight"):
            held = numpy_helper.to_array(constant)
            sizes = 2.0 ** np.arange(-4, 4).reshape([-1] + [1] * (held.ndim - 1))
            constant.CopyFrom(numpy_helper.from_array((held * sizes).astype(np.float32), constant.name))
    return graph.write(path, graph.conv("last", deep, 4))


def changed(path: Path, found: Equalized) -> Path:
    model = load(path)
    replace_tensors(model.graph, found.tensors)
    out = path.with_name("equalized.onnx")
    save_model(model, out)
    return out


def originals(path: Path) -> dict[str, Any]:
    return {str(name): value.const_value.numpy() for name, value in load(path).graph.initializers.items()}


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("build", [residual, option_a, depthwise, concat, uneven])
def test_the_float_function_stays_the_same(tmp_path: Path, build: Any, per_channel: bool) -> None:
    path = build(tmp_path / "g.onnx")
    learned = images(8, seed=5)
    # A Clip may bite elsewhere on examples that were not seen; everything else is the same function everywhere.
    others = learned if build is depthwise else images(8, seed=6)
    found = equalize(load(path), [{"image": learned}], per_channel)
    wanted = run(path, others)
    assert np.abs(run(changed(path, found), others) - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max())


def test_factors_worked_out_by_hand(tmp_path: Path) -> None:
    graph = Graph(channels=1, size=2)
    graph.op("Conv", "a", "image", graph.constant("wa", [[[[8.0]]], [[[-2.0]]]]), graph.constant("ba", [4.0, 1.0]), channels=2)
    graph.op("Conv", "b", graph.op("Relu", "relu", "a"), graph.constant("wb", [[[[2.0]], [[8.0]]]]), channels=1)
    found = equalize(load(graph.write(tmp_path / "g.onnx", "b")), [], per_channel=False).tensors
    # r1 = (8, 2), r2 = (2, 8): s = (2, 1/2), and all are 4 afterwards
    assert found["wa"].reshape(-1).tolist() == [4.0, -4.0]
    assert found["ba"].tolist() == [2.0, 2.0]
    assert found["wb"].reshape(-1).tolist() == [4.0, 4.0]


def test_what_a_leaky_relu_reads_counts_for_it_is_quantized_too(tmp_path: Path) -> None:
    graph = Graph(channels=1, size=2)
    # On images of 0 to 1: the first channel from 0 to 1, the second from -1 to 0, of which the leaky ReLU leaves -0.01.
    graph.op("Conv", "a", "image", graph.constant("wa", [[[[1.0]]], [[[-1.0]]]]), channels=2)
    graph.op("LeakyRelu", "leaky", "a", alpha=0.01)
    path = graph.write(tmp_path / "g.onnx", graph.conv("deep", "leaky", 2, kernel=1, group=2))
    batch = [{"image": np.linspace(0, 1, 4, dtype=np.float32).reshape(1, 1, 2, 2)}]
    found = equalize(load(path), batch, per_channel=True)
    ((array,),) = list(stream(load(changed(path, found)), ["a"], batch))
    assert np.abs(array).max(axis=(0, 2, 3)).tolist() == pytest.approx([1.0, 1.0])


def test_channels_come_to_like_sizes_also_around_a_depthwise_convolution(tmp_path: Path) -> None:
    path = uneven(tmp_path / "g.onnx")
    batch = [{"image": images(8)}]

    def spread(graph: Path, name: str) -> float:
        ((array,),) = list(stream(load(graph), [name], batch))
        sizes = np.abs(array).max(axis=(0, 2, 3))
        return float(sizes.max() / sizes[sizes > 0].min())

    after = changed(path, equalize(load(path), batch))
    assert spread(path, "stem_relu") > 50
    assert spread(after, "stem_relu") < 2  # only the depthwise convolution reads it, each of whose channels has a scale of its own
    assert spread(after, "deep_relu") < spread(path, "deep_relu") ** 0.6  # sqrt(r1 / r2): half of it goes into the weights behind


def test_both_sides_of_a_residual_addition_get_the_same_factors(tmp_path: Path) -> None:
    path = residual(tmp_path / "g.onnx")
    before = originals(path)
    found = equalize(load(path), [{"image": images(8)}]).tensors

    def factors(layer: str) -> npt.NDArray[Any]:
        return np.asarray(before[f"{layer}.bias"] / found[f"{layer}.bias"])

    np.testing.assert_allclose(factors("stem"), factors("a2"), rtol=1e-5)
    np.testing.assert_allclose(factors("b2"), factors("b_down"), rtol=1e-5)
    assert np.ptp(factors("stem")) > 0.1


def test_behind_an_upper_limit_channels_grow_until_the_largest_value_seen_reaches_it(tmp_path: Path) -> None:
    path = depthwise(tmp_path / "g.onnx")
    batch = [{"image": images(8)}]
    found = equalize(load(path), batch)
    assert "behind 4 activations with an upper limit, channels grow" in found.note
    after = changed(path, found)
    for name in ("stem_clip", "expand_clip", "depthwise_clip"):
        sizes = [next(iter(stream(load(graph), [name], batch)))[0].max(axis=(0, 2, 3)) for graph in (path, after)]
        assert (sizes[1] >= sizes[0] * (1 - 1e-5)).all(), name
        assert sizes[1].max() <= 6.0, name
    # What only a depthwise convolution reads has no weights to trade with: all channels become as large as the largest.
    np.testing.assert_allclose(sizes_of(after, "expand_clip", batch), sizes_of(path, "expand_clip", batch).max(), rtol=1e-4)


def sizes_of(graph: Path, name: str, batch: Any) -> Any:
    sizes = next(iter(stream(load(graph), [name], batch)))[0].max(axis=(0, 2, 3))
    return sizes[sizes > 0]


def test_a_limit_that_bites_everywhere_leaves_its_channels_alone(tmp_path: Path) -> None:
    graph = Graph(channels=3)
    graph.constant("zero", 0.0)
    graph.constant("little", 0.01)
    first = graph.op("Clip", "clip", graph.conv("first", "image", 4), "zero", "little")
    path = graph.write(tmp_path / "g.onnx", graph.conv("last", first, 4))
    before, found = originals(path), equalize(load(path), [{"image": images(8)}]).tensors
    for name in found:
        np.testing.assert_allclose(found[name], before[name], rtol=1e-5)


def test_a_graph_output_and_what_other_operators_read_are_left_alone(tmp_path: Path) -> None:
    graph = Graph(channels=3)
    first = graph.op("Sigmoid", "sigmoid", graph.conv("first", "image", 4))
    path = graph.write(tmp_path / "g.onnx", graph.conv("last", first, 4))
    assert equalize(load(path), [{"image": images(8)}]).tensors == {}


def test_a_dead_channel_keeps_its_weights(tmp_path: Path) -> None:
    graph = Graph(channels=1, size=2)
    graph.op("Conv", "a", "image", graph.constant("wa", [[[[8.0]]], [[[0.0]]]]), channels=2)
    graph.op("Conv", "b", graph.op("Relu", "relu", "a"), graph.constant("wb", [[[[2.0]], [[3.0]]]]), channels=1)
    found = equalize(load(graph.write(tmp_path / "g.onnx", "b")), [], per_channel=False).tensors
    assert found["wa"].reshape(-1).tolist() == [4.0, 0.0]
    assert found["wb"].reshape(-1).tolist() == [4.0, 3.0]


def test_layers_whose_channels_lie_on_different_axes_are_left_alone(tmp_path: Path) -> None:
    graph = Graph(channels=3)
    first = graph.op("Relu", "relu", graph.conv("first", "image", 4))
    path = graph.write(tmp_path / "g.onnx", graph.op("MatMul", "last", first, graph.constant("m", graph.random.normal(size=(16, 5)))))
    assert equalize(load(path), [{"image": images(4)}]).tensors == {}


def test_what_takes_means_over_the_channels_of_a_matrix_product_is_left_alone(tmp_path: Path) -> None:
    graph = Graph(channels=4, size=4)
    rows = graph.op("Reshape", "rows", "image", graph.constant("shape", [0, 16, 4], "int64"))
    product = graph.op("MatMul", "first", rows, graph.constant("m", graph.random.normal(size=(4, 16)) * 2.0 ** np.arange(16)))
    means = graph.op("ReduceMean", "means", graph.op("Relu", "relu", product), graph.constant("axes", [2], "int64"), keepdims=0)
    path = graph.write(tmp_path / "g.onnx", graph.op("MatMul", "last", means, graph.constant("n", graph.random.normal(size=(16, 3)))))
    inputs = images(4, channels=4, size=4)
    found = equalize(load(path), [{"image": inputs}])
    np.testing.assert_allclose(run(changed(path, found), inputs), run(path, inputs), rtol=1e-4)


def test_a_mean_over_all_axes_is_left_alone(tmp_path: Path) -> None:
    graph = Graph(channels=3, size=4)
    first = graph.op("Relu", "relu", graph.conv("first", "image", 4))
    means = graph.op("ReduceMean", "means", first, graph.constant("axes", np.zeros(0), "int64"))
    path = graph.write(tmp_path / "g.onnx", graph.op("Conv", "last", means, graph.constant("w", np.ones((4, 1, 1, 1))), channels=4))
    assert equalize(load(path), [{"image": images(4, size=4)}]).tensors == {}
