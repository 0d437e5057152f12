"""A graph in torch gives what ONNX Runtime gives, operator by operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx_text import graph
from small_graphs import concat, depthwise, images, lowered, option_a, residual, run

from kdedge.errors import ExportError
from kdedge.exporters import model_file
from kdedge.exporters.dialects.onnxruntime_x86 import DIALECT as ONNXRUNTIME
from kdedge.exporters.dialects.tensorrt import DIALECT as TENSORRT
from kdedge.exporters.quantize.torch_graph import TorchGraph, unsupported_operators
from kdedge.exporters.quantize.wiring import load


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def in_onnxruntime(model: ir.Model, feeds: dict[str, Any]) -> list[Any]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return list(ort.InferenceSession(model_file.to_bytes(model), options, providers=["CPUExecutionProvider"]).run(None, feeds))


def in_torch(model: ir.Model, feeds: dict[str, Any]) -> list[Any]:
    made = TorchGraph(model)({name: torch.from_numpy(array) for name, array in feeds.items()})
    return [value.numpy() for value in made.values()]


def assert_same(model: ir.Model, feeds: dict[str, Any]) -> None:
    for wanted, found in zip(in_onnxruntime(model, feeds), in_torch(model, feeds), strict=True):
        assert found.shape == wanted.shape
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


IMAGE = "(float[2, 4, 9, 8] x) => (float y)"
ON_IMAGES = {
    "a convolution with groups": "y = Conv<group=2, pads=[1,1,1,1]>(x, w)",
    "a dilated, strided one": "y = Conv<group=2, dilations=[2,1], strides=[2,1], pads=[2,1,2,1]>(x, w)",
    "pads that differ": "y = Conv<group=2, pads=[0,1,2,0]>(x, w, b)",
    "same upper": 'y = Conv<group=2, auto_pad="SAME_UPPER", strides=[2,2]>(x, w, b)',
    "same lower": 'y = Conv<group=2, auto_pad="SAME_LOWER", strides=[2,2]>(x, w, b)',
    "valid": 'y = Conv<group=2, auto_pad="VALID">(x, w, b)',
    "a transposed convolution": "y = ConvTranspose<group=2, strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]>(x, t, b4)",
    "a transposed one with pads that differ": "y = ConvTranspose<group=2, strides=[2,1], pads=[0,1,2,0], dilations=[1,2]>(x, t)",
    "a transposed one of a given shape": 'y = ConvTranspose<group=2, strides=[2,2], output_shape=[18,16], auto_pad="SAME_UPPER">(x, t)',
    "a transposed one whose strides are wider than its kernel": 'y = ConvTranspose<group=2, strides=[4,5], auto_pad="SAME_UPPER">(x, t)',
    "a max pool": "y = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x)",
    "a max pool to the ceiling": "y = MaxPool<kernel_shape=[2,3], strides=[2,2], ceil_mode=1>(x)",
    "a max pool with dilations": "y = MaxPool<kernel_shape=[2,2], dilations=[2,2], pads=[1,0,1,1]>(x)",
    "an average pool": "y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,0,1,1]>(x)",
    "an average pool that counts its padding": "y = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], count_include_pad=1>(x)",
    "an average pool to the ceiling": "y = AveragePool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(x)",
    "a global average pool": "y = GlobalAveragePool(x)",
    "a global max pool": "y = GlobalMaxPool(x)",
    "nearest": 'y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , scales)',
    "nearest by halves": 'y = Resize<mode="nearest">(x, , , sizes)',
    "nearest by scales that are no binary fractions": 'y = Resize<mode="nearest">(x, , tenths)',
    "linear": 'y = Resize<mode="linear">(x, , scales)',
    "linear with aligned corners": 'y = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , , sizes)',
    "linear as torch does it": 'y = Resize<mode="linear", coordinate_transformation_mode="pytorch_half_pixel">(x, , , sizes)',
    "depth to space": "y = DepthToSpace<blocksize=2>(x)",
    "depth to space, the other order": 'y = DepthToSpace<blocksize=2, mode="CRD">(x)',
    "batch norm": "y = BatchNormalization<epsilon=0.01>(x, b4, b4, b4, v)",
    "instance norm": "y = InstanceNormalization(x, b4, b4)",
    "layer norm": "y = LayerNormalization<axis=-1>(x, last, last)",
    "prelu": "y = PRelu(x, slope)",
    "hard sigmoid": "y = HardSigmoid<alpha=0.3, beta=0.4>(x)",
    "hard swish": "y = HardSwish(x)",
    "leaky": "y = LeakyRelu<alpha=0.2>(x)",
    "elu": "y = Elu<alpha=0.7>(x)",
    "gelu": "y = Gelu(x)",
    "gelu by tanh": 'y = Gelu<approximate="tanh">(x)',
    "softmax": "y = Softmax<axis=1>(x)",
    "erf, sigmoid, tanh": "a = Erf(x) b0 = Sigmoid(a) y = Tanh(b0)",
    "clip": "y = Clip(x, low, high)",
    "half a clip": "y = Clip(x, , high)",
    "arithmetic": "a = Mul(x, slope) b0 = Sub(a, high) c = Add(b0, x) d = Abs(c) e = Sqrt(d) f = Pow(e, two) g = Div(f, high) y = Neg(g)",
    "extremes": "a = Max(x, slope, low) y = Min(a, high)",
    "mean and sum of tensors": "a = Mean(x, slope) y = Sum(a, x, high)",
    "reductions": "a = ReduceMean(x, axes) b0 = ReduceSum<keepdims=1>(a) c = ReduceMax<keepdims=0>(x, axes) y = Add(b0, c)",
    "arg max": "y0 = ArgMax<axis=1, keepdims=0>(x) y = Cast<to=1>(y0)",
    "slices": "y = Slice(x, starts, ends, axes, steps)",
    "a slice from the end": "y = Slice(x, from_end, to_begin, axis, back)",
    "padding": "y = Pad(x, padding)",
    "padding of some axes": "y = Pad(x, some, low, axes)",
    "cropping": "y = Pad(x, cropping)",
    "reflection": 'y = Pad<mode="reflect">(x, padding)',
    "edges": 'y = Pad<mode="edge">(x, padding)',
    "concat": "y = Concat<axis=-1>(x, x)",
    "split": "a, b0 = Split<axis=1>(x, halves) y = Concat<axis=1>(b0, a)",
    "split in equal parts": "a, b0 = Split<axis=2, num_outputs=2>(x) y = Identity(b0)",
    "gather": "y = Gather<axis=2>(x, places)",
    "reshape with what it says": "y = Reshape(x, target)",
    "shapes": "s = Shape<start=1>(x) n = Gather(s, last_place) r = Range(zero, n, one) f = Cast<to=1>(r) y = Add(x, f)",
    "flatten, squeeze, unsqueeze": "a = Flatten<axis=2>(x) b0 = Unsqueeze(a, axes) y = Squeeze(b0, axes)",
    "transpose": "y = Transpose<perm=[0,2,3,1]>(x)",
    "where": "c = Greater(x, low) y = Where(c, x, slope)",
    "expand": "s = Shape(x) y = Expand(slope, s)",
    "constant of shape": "s = Shape(x) a = ConstantOfShape(s) y = Add(a, x)",
    "tile": "y = Tile(x, repeats)",
    "einsum": 'y = Einsum<equation="bchw,bdhw->bcd">(x, x)',
    "matmul": "t0 = Transpose<perm=[0,1,3,2]>(x) y = MatMul(x, t0)",
    "a pair for a tensor": "q = QuantizeLinear(x, scale, point) y = DequantizeLinear(q, scale, point)",
    "a pair for each channel": "q = QuantizeLinear<axis=1>(x, v, points) y = DequantizeLinear<axis=1>(q, v, points)",
}
CONSTANTS = {
    "w": normal(6, 2, 3, 3, seed=1),
    "b": normal(6, seed=2),
    "t": normal(4, 2, 3, 3, seed=3),
    "b4": normal(4, seed=4),
    "v": np.array([0.5, 0.1, 0.02, 0.3], np.float32),
    "last": normal(8, seed=5),
    "slope": normal(4, 1, 1, seed=6),
    "scales": np.array([1, 1, 2, 1.5], np.float32),
    "tenths": np.array([1, 1, 1.1, 0.7], np.float32),
    "sizes": np.array([2, 4, 5, 13]),
    "low": np.float32(-0.5),
    "high": np.float32(0.7),
    "two": np.float32(2),
    "axes": np.array([1, 3]),
    "axis": np.array([-2]),
    "starts": np.array([1, -7]),
    "ends": np.array([2**40, -1]),
    "steps": np.array([1, 2]),
    "from_end": np.array([2**40]),
    "to_begin": np.array([-(2**40)]),
    "back": np.array([-2]),
    "padding": np.array([0, 0, 2, 1, 0, 0, 1, 3]),
    "some": np.array([1, 0, 0, 2]),
    "cropping": np.array([0, -1, 1, -2, 0, 0, -1, 0]),
    "halves": np.array([1, 3]),
    "places": np.array([[1, -1], [0, 3]]),
    "target": np.array([0, -1, 8]),
    "zero": np.array(0),
    "one": np.array(1),
    "last_place": np.array(2),
    "repeats": np.array([1, 2, 1, 3]),
    "scale": np.float32(0.02),
    "point": np.uint8(100),
    "points": np.zeros(4, np.int8),
}


@pytest.mark.parametrize("what", ON_IMAGES)
def test_an_operator_gives_what_onnx_runtime_gives(what: str) -> None:
    body = ON_IMAGES[what]
    used = {name: np.asarray(array) for name, array in CONSTANTS.items() if f" {name}," in f" {body}".replace("(", " ").replace(")", ",")}
    assert_same(graph(f"{IMAGE} {{ {body} }}", 20, **used), {"x": normal(2, 4, 9, 8)})


@pytest.mark.parametrize(
    ("opset", "body"),
    [
        (9, "y = Clip<min=-0.5, max=0.5>(x)"),
        (9, "y = Pad<pads=[0,1,2,0], value=3.0>(x)"),
        (9, "y = Slice<axes=[1], starts=[-3], ends=[100]>(x)"),
        (11, "a = Unsqueeze<axes=[0,3]>(x) y = Squeeze<axes=[3]>(a)"),
        (11, "a = ReduceSum<axes=[1], keepdims=0>(x) y = Softmax(x)"),
        (11, "a, b = Split<axis=1, split=[2,3]>(x) y = Concat<axis=0>(a, a)"),
        (13, "y = ReduceMean<axes=[-1]>(x)"),
    ],
)
def test_older_opsets_mean_what_they_meant(opset: int, body: str) -> None:
    assert_same(graph(f"(float[4, 5] x) => (float y) {{ {body} }}", opset), {"x": normal(4, 5)})


@pytest.mark.parametrize(
    ("opset", "body"),
    [
        (10, 'y = Resize<mode="nearest">(x, scales)'),
        (11, 'y = Resize<mode="nearest", coordinate_transformation_mode="tf_half_pixel_for_nn">(x, none, scales)'),
    ],
)
@pytest.mark.parametrize("scales", [(1, 1, 0.3, 2.5), (1, 1, 1.5, 0.7)])
def test_older_ways_to_find_the_nearest_mean_what_they_meant(opset: int, body: str, scales: tuple[float, ...]) -> None:
    used = {"scales": np.array(scales, np.float32), **({"none": np.zeros(0, np.float32)} if "none" in body else {})}
    assert_same(graph(f"(float[2, 3, 9, 8] x) => (float y) {{ {body} }}", opset, **used), {"x": normal(2, 3, 9, 8)})


def test_a_batch_of_no_examples_keeps_its_shape() -> None:
    model = graph("(float[n, 3, 4] x) => (float y) { f = Flatten(x) y = MatMul(f, w) }", w=normal(12, 5))
    assert_same(model, {"x": normal(0, 3, 4)})


@pytest.mark.parametrize("attributes", ["", "<transA=1>", "<transB=1, alpha=0.5, beta=2.0>"])
def test_a_gemm_transposes_and_scales(attributes: str) -> None:
    x = normal(5, 3) if "transA" in attributes else normal(3, 5)
    rows, columns = x.shape
    weight = normal(7, 5, seed=1) if "transB" in attributes else normal(5, 7, seed=1)
    model = graph(f"(float[{rows}, {columns}] x) => (float y) {{ y = Gemm{attributes}(x, w, b) }}", 20, w=weight, b=normal(7, seed=2))
    assert_same(model, {"x": x})


def test_softmax_before_opset_13_covers_all_axes_that_follow() -> None:
    assert_same(graph("(float[2, 3, 4] x) => (float y) { y = Softmax<axis=1>(x) }", 11), {"x": normal(2, 3, 4)})


@pytest.mark.parametrize("make", [residual, option_a, depthwise, concat])
@pytest.mark.parametrize("dialect", [None, ONNXRUNTIME, TENSORRT])
def test_whole_graphs_and_their_quantized_forms_give_the_same(tmp_path: Path, make: Any, dialect: Any) -> None:
    path = make(tmp_path / "float.onnx")
    if dialect is not None:
        path, _ = lowered(path, dialect)
    inputs = images(4)
    model = load(path)
    (found,) = in_torch(model, {"image": inputs})
    if dialect is None:
        np.testing.assert_allclose(found, run(path, inputs), rtol=1e-5, atol=1e-5)
        return
    (wanted,) = in_onnxruntime(model, {"image": inputs})
    # Sums in another order may tip a value over to the next code; almost none do.
    assert np.abs(found - wanted).max() < 0.05 * np.abs(wanted).max()
    assert np.mean(np.abs(found - wanted)) < 2e-3 * np.abs(wanted).max()


def test_a_part_of_a_graph_runs_alone(tmp_path: Path) -> None:
    model = TorchGraph(load(residual(tmp_path / "float.onnx")))
    x = torch.from_numpy(images(2))
    whole = model({"image": x}, ["stem_relu", "a_relu", "logits"])
    part = model({"stem_relu": whole["stem_relu"]}, ["a_relu"])
    torch.testing.assert_close(part["a_relu"], whole["a_relu"], rtol=0, atol=0)
    with pytest.raises(ExportError, match="`image` is not fed"):
        model({"a_relu": whole["a_relu"]}, ["stem"])
    with pytest.raises(ExportError, match="no value `nothing`"):
        model({"image": x}, ["nothing"])


def test_a_constant_can_be_fed_and_gets_its_gradient(tmp_path: Path) -> None:
    model = TorchGraph(load(residual(tmp_path / "float.onnx")))
    weight = model.constants["stem.weight"].clone().requires_grad_()
    x = torch.from_numpy(images(2))
    model({"image": x, "stem.weight": weight})["logits"].sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0
    zero = model({"image": x, "logits.weight": torch.zeros_like(model.constants["logits.weight"])})["logits"]
    torch.testing.assert_close(zero, model.constants["logits.bias"].expand_as(zero))


def test_unknown_operators_and_forms_are_named_all_at_once() -> None:
    model = graph(
        '(float[1, 2, 4, 4] x) => (float y) { a = Det(x) b = Resize<mode="cubic">(x, , s) c, i = MaxPool<kernel_shape=[2, 2]>(b) k = Cast<to=1>(i) '
        "y = Add(c, k) }",
        s=np.ones(4, np.float32),
    )
    assert unsupported_operators(model) == ("Det", "MaxPool with indices", "Resize mode cubic")
    dilated = graph('(float[1, 2, 4, 4] x) => (float y) { y = MaxPool<kernel_shape=[2, 2], dilations=[2, 2], auto_pad="SAME_UPPER">(x) }')
    assert unsupported_operators(dilated) == ("MaxPool padded to the same size with dilations",)
    with pytest.raises(ExportError, match="Det, MaxPool with indices, Resize mode cubic"):
        TorchGraph(model)


def test_a_node_that_fails_says_where_and_on_what() -> None:
    model = graph("(float[n, 3] x) => (float y) { y = MatMul(x, w) }", w=np.ones((3, 2), np.float32))
    with pytest.raises(ExportError, match=r"`y` \(MatMul\) cannot be run in torch: on float32\[4, 5\]"):
        TorchGraph(model)({"x": torch.zeros(4, 5)})


def test_a_module_that_is_moved_takes_its_constants_along(tmp_path: Path) -> None:
    model = load(residual(tmp_path / "float.onnx"))
    x = torch.from_numpy(images(2))
    moved = TorchGraph(model).to(torch.float64)
    assert moved.constants["stem.weight"].dtype == torch.float64
    found = moved({"image": x.double()}, ["a_relu"])["a_relu"]
    assert found.dtype == torch.float64
    torch.testing.assert_close(found.float(), TorchGraph(model)({"image": x}, ["a_relu"])["a_relu"], rtol=1e-5, atol=1e-5)
