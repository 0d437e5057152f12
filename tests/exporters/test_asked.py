"""What a graph asks for, counted by hand; and what runtimes make of it, read back from them."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx_text import graph as graph_of
from small_graphs import Graph, calibrated, images, lowered, residual

from kdedge.artifact import AskedNode
from kdedge.exporters.asked import asked_nodes, reasons_in
from kdedge.exporters.dialects.dialect import Integer
from kdedge.exporters.dialects.onnxruntime_x86 import DIALECT as ONNXRUNTIME
from kdedge.exporters.dialects.openvino import DIALECT as OPENVINO
from kdedge.exporters.dialects.tensorrt import DIALECT as TENSORRT
from kdedge.exporters.dynamic import quantize_dynamically
from kdedge.exporters.half import to_half
from kdedge.exporters.model_file import load_model, save_model
from kdedge.exporters.weight_only import quantize_weights
from kdedge.fidelity.audit import audit
from kdedge.measured import Audit
from kdedge.runtimes import onnxruntime, openvino


def asked_by(path: Path, **sizes: int) -> dict[str, AskedNode]:
    return {node.name: node for node in asked_nodes(load_model(path), sizes)}


def audited(path: Path, runtime: str = "onnxruntime", **options: Any) -> Audit:
    """What a runtime of this machine makes of a graph that takes `image`."""
    module = {"onnxruntime": onnxruntime, "openvino": openvino}[runtime]
    session = module.open_session([str(path)], {"threads": 1, **options})
    session.run({"image": images(1)})
    layers = [asdict(layer) for layer in session.executed()]
    session.close()
    return audit(list(asked_by(path, N=1).values()), layers, runtime, options, ["x86_64"])


# ---- multiply-accumulates --------------------------------------------------------------------------------------------------


def test_multiply_accumulates_of_a_residual_network_by_hand(tmp_path: Path) -> None:
    found = asked_by(residual(tmp_path / "r.onnx"), N=2)
    assert {name: node.macs for name, node in found.items()} == {
        "stem": 2 * 16 * 16 * 16 * (3 * 9),
        "a1": 2 * 16 * 16 * 16 * (16 * 9),
        "a2": 2 * 16 * 16 * 16 * (16 * 9),
        "b1": 2 * 32 * 8 * 8 * (16 * 9),
        "b2": 2 * 32 * 8 * 8 * (32 * 9),
        "b_down": 2 * 32 * 8 * 8 * 16,
        "logits": 2 * 10 * 32,
    }


def test_groups_transposed_convolutions_and_products_by_hand(tmp_path: Path) -> None:
    graph = Graph(channels=4, size=8)
    deep = graph.conv("deep", "image", 4, group=4)
    wide = graph.op("ConvTranspose", "wide", deep, graph.constant("wide.weight", graph.random.normal(size=(4, 6, 2, 2))), strides=[2, 2], channels=6)
    rows = graph.op("Reshape", "rows", wide, graph.constant("shape", [0, 6, 256], "int64"))
    graph.op("MatMul", "product", rows, graph.constant("matrix", graph.random.normal(size=(256, 3))))
    found = asked_by(graph.write(tmp_path / "g.onnx", "product"), N=1)
    assert found["deep"].macs == 4 * 8 * 8 * 9
    assert found["wide"].macs == 4 * 8 * 8 * (6 * 4)  # each input is multiplied with every weight of its channel
    assert found["product"].macs == 6 * 3 * 256


def test_a_gemm_sums_over_the_axis_that_it_transposes(tmp_path: Path) -> None:
    weight = numpy_helper.from_array(images(1, 1, 5)[0, 0][:, :4].copy(), "w")  # [5, 4]
    node = helper.make_node("Gemm", ["x", "w"], ["y"], name="gemm", transA=1)
    value = helper.make_tensor_value_info
    made = helper.make_graph([node], "g", [value("x", TensorProto.FLOAT, [5, "M"])], [value("y", TensorProto.FLOAT, ["M", 4])], [weight])
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "g.onnx")
    assert asked_by(tmp_path / "g.onnx", M=3)["gemm"].macs == 3 * 4 * 5


def test_sizes_that_are_not_known_give_no_number(tmp_path: Path) -> None:
    assert {node.macs for node in asked_by(residual(tmp_path / "r.onnx")).values()} == {None}


# ---- what is asked ---------------------------------------------------------------------------------------------------------


def test_the_precision_is_read_from_the_graph_and_not_from_its_name(tmp_path: Path) -> None:
    path = residual(tmp_path / "r.onnx")
    int8, report = lowered(path, ONNXRUNTIME, calibrated(path, keep_float=("b2",)))
    found = asked_by(int8, N=1)
    assert {name for name, node in found.items() if node.precision == "int8"} == set(report.weighted) == set(found) - {"b2"}
    assert (found["a1"].activation, found["a1"].result, found["a1"].bias) == ("uint8", "uint8", "int32")
    half = to_half(load_model(path)).model
    assert {node.precision for node in asked_nodes(half)} == {"fp16"}
    assert {node.precision for node in asked_nodes(load_model(path), floats="fp16")} == {"fp16"}
    dynamic = asked_nodes(quantize_dynamically(load_model(path)).model, {"N": 1})
    assert [(node.name, node.precision, node.macs) for node in dynamic][-1] == ("logits/integer", "int8", 320)


def test_integers_in_a_table_are_no_integer_operand_of_the_layer_that_reads_it() -> None:
    rng = np.random.default_rng(0)
    text = "(int64[b, 4] ids) => (float[b, 4, 16] y) { e = Gather<axis = 0>(table, ids) y = MatMul(e, w) }"
    held = {"table": rng.normal(size=(64, 32)).astype(np.float32), "w": rng.normal(size=(32, 16)).astype(np.float32)}
    packed = quantize_weights(graph_of(text, **held)).model
    (product,) = asked_nodes(packed, {"b": 2})
    assert [node.op_type for node in packed.graph].count("DequantizeLinear") == 2
    assert (product.precision, product.macs) == ("fp32", 2 * 4 * 16 * 32)


def test_an_einsum_of_one_operand_is_asked_and_not_counted() -> None:
    (found,) = asked_nodes(graph_of('(float[2, 3] x) => (float[3, 2] y) { y = Einsum<equation = "ij->ji">(x) }'))
    assert (found.operator, found.precision, found.macs) == ("Einsum", "fp32", None)


def test_a_quantization_without_a_zero_point_has_it_at_the_end_of_its_type() -> None:
    text = """(float[1, 2, 4, 4] x) => (uint8[1, 2, 2, 2] y) { c = Conv(x, w) r = Relu(c) y = QuantizeLinear(r, s) }"""
    (found,) = asked_nodes(graph_of(text, w=np.ones((2, 2, 3, 3), np.float32), s=np.array(0.1, np.float32)))
    assert (found.between, found.result) == ("", "uint8")


def test_why_a_node_stays_float_is_taken_from_the_notes() -> None:
    notes = ("`a/b` (Conv) stays float: kept float by `keep_float`", "something else", "`c` (MatMul) stays float: it multiplies two activations")
    assert reasons_in(notes) == {"a/b": "kept float by `keep_float`", "c": "it multiplies two activations"}


# ---- what runs -------------------------------------------------------------------------------------------------------------


def test_a_graph_in_its_own_dialect_runs_in_integers_whole(tmp_path: Path) -> None:
    path = residual(tmp_path / "r.onnx")
    for dialect, runtime in ((ONNXRUNTIME, "onnxruntime"), (OPENVINO, "openvino")):
        found = audited(lowered(path, dialect)[0], runtime)
        assert found.integer_share == 1.0, runtime
        assert found.findings == ()
        assert all(row.milliseconds is not None for row in found.rows), runtime


def test_a_graph_in_the_wrong_dialect_shows_its_float_convolutions_and_why(tmp_path: Path) -> None:
    found = audited(lowered(residual(tmp_path / "r.onnx"), TENSORRT)[0])
    assert found.macs.get("int8", 0) == 0
    why = {row.node: row.why for row in found.rows if row.as_asked is False}
    assert set(why) == {"stem", "a1", "a2", "b1", "b2", "b_down"}
    assert why["a2"] == why["b2"] == "its output is not quantized"
    assert why["stem"].startswith("a Relu stands between it and its quantization")
    assert found.conversions["DequantizeLinear"] > 6  # weights among them, at every inference
    assert "2 of 6 convolutions asked in int8 ran in fp32: its output is not quantized" in found.findings


def test_a_zero_point_at_the_end_of_the_type_absorbs_a_relu_and_one_in_the_middle_does_not(tmp_path: Path) -> None:
    """The rule that `between` stands for, as ONNX Runtime itself follows it."""
    path = residual(tmp_path / "r.onnx")
    ends = replace(ONNXRUNTIME, name="signed-affine", activation=Integer(bits=8, signed=True, symmetric=False))
    middle = replace(ONNXRUNTIME, name="signed-symmetric", activation=Integer(bits=8, signed=True, symmetric=True))
    absorbed, between = (audited(lowered(path, dialect)[0], qdq_int8_allowed=True) for dialect in (ends, middle))
    assert {row.ran for row in absorbed.rows if row.node in ("stem", "a1", "b1")} == {"int8"}
    assert {row.ran for row in between.rows if row.node in ("stem", "a1", "b1")} == {"fp32"}
    assert all("Relu stands between" in row.why for row in between.rows if row.node in ("stem", "a1", "b1"))


def test_float16_on_a_cpu_runs_in_float32_and_every_node_is_found_again(tmp_path: Path) -> None:
    save_model(to_half(load_model(residual(tmp_path / "r.onnx"))).model, tmp_path / "half.onnx")
    found = audited(tmp_path / "half.onnx")
    assert set(found.macs) == {"fp32"}
    assert "6 of 6 convolutions asked in fp16 ran in fp32" in found.findings[0]


def test_a_float_graph_is_found_again_under_the_names_of_its_fused_activations(tmp_path: Path) -> None:
    for runtime in ("onnxruntime", "openvino"):
        found = audited(residual(tmp_path / "r.onnx"), runtime, **({"inference_precision": "f32"} if runtime == "openvino" else {}))
        assert set(found.macs) == {"fp32"}, runtime
        assert len({row.layer for row in found.rows}) == len(found.rows) == 7


def test_a_torch_program_is_asked_operator_by_operator(tmp_path: Path) -> None:
    import torch

    from kdedge.artifact import Dimension, TensorSpec
    from kdedge.exporters.asked_program import asked_of_program
    from kdedge.exporters.torch_program import write_program
    from kdedge.runtimes import torch as torch_runtime

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fc = torch.nn.Conv2d(3, 8, 3, padding=1, groups=1), torch.nn.Linear(8, 5)

        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.fc(torch.relu(self.conv(image)).mean((2, 3)))}

    inputs = (TensorSpec("image", "float32", (Dimension("batch", 1, 4, 16), 3, 8, 8)),)
    path = tmp_path / "model.pt2"
    write_program(Net(), inputs, ("logits",), path, name="net", properties={})
    nodes = asked_of_program(path, inputs)
    assert [(node.operator, node.macs) for node in nodes] == [("conv2d", 4 * 8 * 8 * 8 * 27), ("linear", 4 * 5 * 8)]
    session = torch_runtime.open_session([str(path)], {})
    session.run({"image": images(4, size=8)})
    found = audit(nodes, [asdict(layer) for layer in session.executed()], "torch", {})
    assert found.macs == {"fp32": 4 * 8 * 8 * 8 * 27 + 4 * 5 * 8}
    assert found.findings == ()


def test_operators_of_a_program_that_are_not_counted_are_named(tmp_path: Path) -> None:
    import torch

    from kdedge.artifact import Dimension, TensorSpec
    from kdedge.exporters.asked_program import asked_of_program
    from kdedge.exporters.torch_program import write_program

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.lstm = torch.nn.Parameter(torch.ones(4, 6)), torch.nn.LSTM(6, 5, batch_first=True)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": self.lstm(torch.einsum("btc,cd->btd", x, self.weight))[0].mean(1)}

    inputs = (TensorSpec("x", "float32", (Dimension("batch", 1, 4, 16), 3, 4)),)
    write_program(Net(), inputs, ("logits",), tmp_path / "model.pt2", name="net", properties={})
    found = asked_of_program(tmp_path / "model.pt2", inputs)
    assert [(node.operator, node.precision, node.macs) for node in found] == [("einsum", "fp32", None), ("lstm", "fp32", None)]
