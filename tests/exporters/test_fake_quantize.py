"""What is trained is what is exported: fake quantization against formulas worked out by hand, and against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from fake_quantized import compare_nodes, exported, session, where_sure
from onnx_text import graph
from small_graphs import calibrated, concat, depthwise, images, option_a, residual
from torch import Tensor

from kdedge.artifact import ImportPath
from kdedge.exporters.dialects import DIALECTS
from kdedge.exporters.dialects.dialect import Dialect
from kdedge.exporters.dialects.onnxruntime_x86 import DIALECT as ONNXRUNTIME
from kdedge.exporters.dialects.tensorrt import DIALECT as TENSORRT
from kdedge.exporters.model_file import save_model
from kdedge.exporters.quantize.calibrate import observe
from kdedge.exporters.quantize.fake_quantize import FakeQuantized
from kdedge.exporters.quantize.torch_call import Call
from kdedge.exporters.quantize.torch_graph import TorchGraph
from kdedge.exporters.quantize.torch_rounding import dequantize_linear, quantize_linear, rounded
from kdedge.exporters.quantize.wiring import load
from kdedge.recipe import QuantizeSection

GRAPHS = [residual, option_a, depthwise, concat]
UNSIGNED = Call("q", "QuantizeLinear", {}, 20, (ir.DataType.UINT8,))
SIGNED = Call("q", "QuantizeLinear", {}, 20, (ir.DataType.INT8,))


def pair(call: Call, x: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    return dequantize_linear(call, quantize_linear(call, x, scale, zero), scale, zero)


@pytest.mark.parametrize("form", [pair, rounded])
def test_the_gradient_of_a_quantizer_is_that_of_lsq(form: Any) -> None:
    # Steps of 0.5, codes 0 to 255 with the zero at 10: from -5 to 122.5.
    x = torch.tensor([0.6, 1.2, -7.0, 200.0], requires_grad=True)
    scale, zero = torch.tensor(0.5, requires_grad=True), torch.tensor(10.0, requires_grad=True)
    made = form(UNSIGNED, x, scale, zero)
    torch.testing.assert_close(made.detach(), torch.tensor([0.5, 1.0, -5.0, 122.5]))
    made.backward(torch.tensor([1.0, 10.0, 100.0, 1000.0]))
    # What was saturated gives nothing back.
    torch.testing.assert_close(x.grad, torch.tensor([1.0, 10.0, 0.0, 0.0]))
    # Inside round(v) - v with v = 1.2 and 2.4, outside the limits less the zero: -10 and 245.
    torch.testing.assert_close(scale.grad, torch.tensor(1.0 * (1 - 1.2) + 10.0 * (2 - 2.4) + 100.0 * -10 + 1000.0 * 245))
    # Inside 0, outside -scale.
    torch.testing.assert_close(zero.grad, torch.tensor(-0.5 * 1100.0))


@pytest.mark.parametrize("form", [pair, rounded])
def test_halves_go_to_the_even_integer_and_the_type_saturates(form: Any) -> None:
    x = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 127.4, 130.0, -128.5, -140.0])
    made = form(SIGNED, x, torch.tensor(1.0), torch.tensor(0, dtype=torch.int8))
    assert made.tolist() == [0.0, 2.0, 2.0, 0.0, -2.0, 127.0, 127.0, -128.0, -128.0]


def test_both_forms_of_a_pair_are_one_function_with_one_gradient() -> None:
    found = []
    for form in (pair, rounded):
        x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0)).mul(3).requires_grad_()
        scale, zero = torch.tensor(0.02, requires_grad=True), torch.tensor(100.0, requires_grad=True)
        made = form(UNSIGNED, x, scale, zero)
        made.square().sum().backward()  # type: ignore[no-untyped-call]
        found.append((made.detach(), x.grad, scale.grad, zero.grad))
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


# ---- whole graphs ----------------------------------------------------------------------------------------------------------


def dialect(name: str) -> Dialect:
    found = ImportPath(DIALECTS[name]).load()
    assert isinstance(found, Dialect)
    return found


def moved(path: Path, target: Dialect, amount: float = 0.5, learned: bool = True) -> FakeQuantized:
    """A fake-quantized graph away from where it began, as after training."""
    student = FakeQuantized(path, calibrated(path), target, learned=learned)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.requires_grad:
                is_range = parameter is student.activations or parameter is student.channels
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=amount * (0.1 if is_range else 1.0))
    return student


@pytest.mark.parametrize("make", GRAPHS)
@pytest.mark.parametrize("name", [name for name in DIALECTS if dialect(name).minimum_opset <= 18])
def test_what_is_handed_over_is_lowered_to_the_very_graph_that_was_trained(tmp_path: Path, make: Any, name: str) -> None:
    path = make(tmp_path / "float.onnx")
    student = moved(path, dialect(name))
    again = TorchGraph(load(exported(student, path)))
    with torch.no_grad():
        held = student.quantized()
        for key, value in again({}, list(held)).items():
            torch.testing.assert_close(value.float().reshape(-1), held[key].float().reshape(-1), rtol=0, atol=0, msg=key)
        x = {"image": torch.from_numpy(images(4))}
        torch.testing.assert_close(again(x)["logits"], student(x)["logits"], rtol=0, atol=0)


def test_frozen_ranges_have_no_gradient_and_come_back_as_they_were(tmp_path: Path) -> None:
    path = residual(tmp_path / "float.onnx")
    student = moved(path, ONNXRUNTIME, learned=False)
    student({"image": torch.from_numpy(images(2))})["logits"].sum().backward()
    assert student.activations.grad is None
    assert student.channels.grad is None
    assert all(move.grad is not None for move in student.moves)
    assert student.hand_over()[1] == student.table


def test_learned_ranges_are_handed_over_and_were_observed_by_nobody(tmp_path: Path) -> None:
    path = residual(tmp_path / "float.onnx")
    student = FakeQuantized(path, calibrated(path), ONNXRUNTIME)
    with torch.no_grad():
        student.activations.add_(float(np.log(2.0)))
    _, table = student.hand_over()
    before, after = student.table.activation_ranges(), table.activation_ranges()
    for name in (name for scale in student.scales for name in scale.rows):
        assert after[name].affine == pytest.approx([2 * end for end in before[name].affine])
        assert after[name].choices == ()
    assert after["stem_relu"].affine[0] == 0.0
    untouched = set(before) - {name for scale in student.scales for name in scale.rows}
    assert all(after[name] == before[name] for name in untouched)


def test_scales_that_a_concat_shares_stay_one_and_zero_points_stay_where_the_dialect_wants_them(tmp_path: Path) -> None:
    path = concat(tmp_path / "float.onnx")
    held = {str(node.name): node for node in load(exported(moved(path, ONNXRUNTIME), path)).graph}
    sources = [value.producer() for value in held["concat"].inputs]
    scales = {float(node.inputs[1].const_value.numpy()) for node in sources if node.op_type == "QuantizeLinear"}
    assert len(scales) == 1
    relu = held["stem_relu_QuantizeLinear"]
    assert int(relu.inputs[2].const_value.numpy()) == 0
    path = concat(tmp_path / "other.onnx")
    for node in load(exported(moved(path, TENSORRT), path)).graph:
        if node.op_type == "QuantizeLinear":
            assert not node.inputs[2].const_value.numpy().any()


def test_gradients_reach_weights_biases_and_ranges(tmp_path: Path) -> None:
    path = residual(tmp_path / "float.onnx")
    student = FakeQuantized(path, calibrated(path, observer="mse"), ONNXRUNTIME)
    student({"image": torch.from_numpy(images(8))})["logits"].square().sum().backward()
    assert {"stem.weight", "stem.bias", "logits.weight", "logits.bias"} <= set(student.names)
    for name, move in zip(student.names, student.moves, strict=True):
        assert move.grad is not None, name
        assert move.grad.abs().sum() > 0, name
    assert student.activations.grad is not None
    assert student.channels.grad is not None
    assert (student.activations.grad[:, 1] != 0).all()
    assert student.channels.grad.abs().sum() > 0


# ---- against ONNX Runtime --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", GRAPHS)
@pytest.mark.parametrize("integer", [False, True], ids=["float arithmetic", "integer kernels"])
def test_each_node_of_the_export_fed_equal_codes_differs_by_at_most_one(tmp_path: Path, make: Any, integer: bool) -> None:
    path = make(tmp_path / "float.onnx")
    student = moved(path, ONNXRUNTIME)
    out, inputs = exported(student, path), images(16)
    found = compare_nodes(out, student, inputs, integer)
    print(f"{make.__name__}: {found}")
    assert found.largest <= 1
    assert found.differing <= 1e-3 * found.codes
    assert found.output_gap <= 1e-3
    logits = session(out, integer).run(["logits"], {"image": inputs})[0]
    with torch.no_grad():
        wanted = student({"image": torch.from_numpy(inputs)})["logits"].numpy()
    sure = where_sure(wanted)
    assert sure.sum() > 8
    assert (logits.argmax(1) == wanted.argmax(1))[sure].all()


def test_other_dialects_equal_their_export_too(tmp_path: Path) -> None:
    for name in ("openvino", "tensorrt", "onnxruntime-arm"):
        path = residual(tmp_path / f"{name}.onnx")
        student = moved(path, dialect(name))
        found = compare_nodes(exported(student, path), student, images(8), integer=False)
        assert found.largest <= 1, name
        assert found.output_gap <= 1e-3, name


def test_a_transformer_like_graph_is_trained_too(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    model = graph(
        "(float[b, 4, 8] image) => (float[b, 4, 8] logits) { n = LayerNormalization<axis=-1>(image, scale, offset) p = MatMul(n, w) q = Add(p, v) "
        "t = Transpose<perm=[0, 2, 1]>(q) s = MatMul(q, t) a = Softmax<axis=-1>(s) o = MatMul(a, q) "
        "g = Gelu(o) y = MatMul(g, w2) logits = Add(y, image) }",
        20,
        **{name: np.ones(8, np.float32) for name in ("scale", "offset")},
        w=random.normal(0, 0.5, (8, 8)).astype(np.float32),
        w2=random.normal(0, 0.5, (8, 8)).astype(np.float32),
        v=random.normal(0, 0.5, 8).astype(np.float32),
    )
    path = tmp_path / "float.onnx"
    save_model(model, path)
    inputs = random.normal(size=(16, 4, 8)).astype(np.float32)
    student = FakeQuantized(path, observe(path, [{"image": inputs}], QuantizeSection()), ONNXRUNTIME)
    assert {"w", "w2", "v"} <= set(student.names)
    student({"image": torch.from_numpy(inputs)})["logits"].square().sum().backward()
    assert all(move.grad is not None and move.grad.abs().sum() > 0 for move in student.moves)


def clipped(path: Path, opset: int) -> tuple[Path, Any]:
    """A network with a ReLU6 whose values reach its end, and what it is calibrated on."""
    random = np.random.default_rng(0)
    model = graph(
        "(float[b, 3, 8, 8] image) => (float[b, 4, 8, 8] logits) "
        "{ c = Conv<pads=[1, 1, 1, 1]>(image, w, v) a = Clip(c, low, high) logits = Conv(a, u) }",
        opset,
        w=random.normal(0, 2, (4, 3, 3, 3)).astype(np.float32),
        u=random.normal(0, 1, (4, 4, 1, 1)).astype(np.float32),
        v=np.zeros(4, np.float32),
        low=np.float32(0),
        high=np.float32(6),
    )
    save_model(model, path)
    return path, random.normal(size=(8, 3, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("name", list(DIALECTS))
def test_a_range_that_grows_beyond_a_clip_is_trained_as_it_is_exported(tmp_path: Path, name: str) -> None:
    path, inputs = clipped(tmp_path / "float.onnx", max(18, dialect(name).minimum_opset))
    student = FakeQuantized(path, observe(path, [{"image": inputs}], QuantizeSection()), dialect(name))
    with torch.no_grad():
        student.activations.add_(0.2)
    again, x = TorchGraph(load(exported(student, path))), {"image": torch.from_numpy(inputs)}
    with torch.no_grad():
        torch.testing.assert_close(again(x)["logits"], student(x)["logits"], rtol=0, atol=0)
