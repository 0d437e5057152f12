"""What an exported student promises: the same function at every size, people's names, no trace of where it was made, the same bytes again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from kdedge.artifact import Dimension, FloatGraph, ImageEncoder, TensorSpec, TextEncoder
from kdedge.errors import ExportError
from kdedge.exporters.equivalence import run
from kdedge.exporters.examples import random_feed, sizes_to_check
from kdedge.exporters.model_file import load_model
from kdedge.exporters.torch_module import export_module, verify_against_module

BATCH = Dimension("batch", 1, 8, 64)
LENGTH = Dimension("length", 1, 8, 16)
IMAGE = (TensorSpec("image", "float32", (BATCH, 3, 8, 8)),)
TEXT = tuple(TensorSpec(name, "int64", (BATCH, LENGTH)) for name in ("input_ids", "attention_mask"))
IMAGES = ImageEncoder(size=(8, 8))
TEXTS = TextEncoder(tokenizer=Path("tokenizer.json"), max_length=16, pad_id=0)


class Residual(nn.Module):
    """Normalisation, a batch-normalised convolution, an option-A shortcut, a mean over space, a linear layer."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1), persistent=False)
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.fc = nn.Linear(8, 5)
        nn.init.uniform_(self.bn1.running_mean, -1, 1)  # type: ignore[arg-type]
        nn.init.uniform_(self.bn1.running_var, 0.5, 2)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.bn1(self.conv1((image - self.mean) / 0.25)))
        shortcut = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        x = torch.relu(self.conv2(x) + shortcut)
        return {"logits": self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))}


class Reader(nn.Module):
    """Embeddings and one transformer layer with a padding mask; takes `*tensors`, as a wrapped model may."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 8), nn.Embedding(16, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, activation="gelu")
        self.fc = nn.Linear(8, 3)

    def forward(self, *tensors: Tensor) -> dict[str, Tensor]:
        ids, mask = tensors
        x = self.layer(self.words(ids) + self.places.weight[: ids.shape[1]], src_key_padding_mask=mask == 0)
        weight = mask.unsqueeze(-1).to(x.dtype)
        return {"logits": self.fc((x * weight).sum(1) / weight.sum(1))}


def exported(module: nn.Module, path: Path, inputs: tuple[TensorSpec, ...] = IMAGE, encoder: Any = IMAGES) -> FloatGraph:
    return export_module(module, inputs, ("logits",), path, name="tiny", encoder=encoder, classes=("a", "b"))


@pytest.fixture(scope="module")
def residual() -> Residual:
    torch.manual_seed(0)
    return Residual().eval()


@pytest.fixture(scope="module")
def graph(residual: Residual, tmp_path_factory: pytest.TempPathFactory) -> FloatGraph:
    return exported(residual, tmp_path_factory.mktemp("export") / "model.onnx")


def test_the_graph_is_described_as_it_is(graph: FloatGraph, residual: Residual) -> None:
    proto = onnx.load(graph.path)
    onnx.checker.check_model(proto, full_check=True)
    assert (graph.opset, proto.opset_import[0].version, proto.ir_version) == (20, 20, 9)
    assert graph.inputs == IMAGE
    assert graph.outputs == (TensorSpec("logits", "float32", (BATCH, 5)),)
    # The batch normalisation is folded into conv1 (which gains a bias); mean is three constants.
    assert graph.parameters == (4 * 3 * 9 + 4) + (8 * 4 * 9 + 8) + (8 * 5 + 5) + 3
    assert [file.name for file in graph.path.parent.iterdir()] == ["model.onnx"]
    assert 0 <= graph.largest_difference < 1e-4


def test_the_graph_equals_the_module_at_sizes_nobody_exported(graph: FloatGraph, residual: Residual) -> None:
    for batch in (1, 2, 11):
        images = np.random.default_rng(batch).random((batch, 3, 8, 8), dtype=np.float32)
        (found,) = run(graph.path.read_bytes(), [{"image": images}])
        with torch.inference_mode():
            np.testing.assert_allclose(found["logits"], residual(torch.from_numpy(images))["logits"].numpy(), atol=1e-5)


def test_nodes_are_named_after_their_modules_and_normalisation_stays_in_front(graph: FloatGraph) -> None:
    nodes = {node.name: list(node.input) for node in onnx.load(graph.path).graph.node}
    assert list(nodes)[:3] == ["Sub", "Div", "conv1/Conv"]
    assert nodes["Sub"] == ["image", "mean"]
    assert nodes["conv1/Conv"][1:] == ["conv1.weight", "conv1.bias"]
    assert nodes["fc/Gemm"][1:] == ["fc.weight", "fc.bias"]


def test_the_passes_that_helped_are_named(graph: FloatGraph) -> None:
    assert {"option_a_shortcut", "mean_to_global_average_pool"} <= set(graph.passes)
    operators = [node.op_type for node in onnx.load(graph.path).graph.node]
    assert operators.count("Slice") == 1
    assert operators.count("GlobalAveragePool") == 1
    assert "ReduceMean" not in operators


def test_nothing_tells_where_it_was_made_and_bytes_repeat(graph: FloatGraph, residual: Residual, tmp_path: Path) -> None:
    data = graph.path.read_bytes()
    for trace in (str(Path.cwd()), str(Path(__file__).parent), Path(__file__).name, "stack_trace", "pkg.torch", "Residual", str(graph.path.parent)):
        assert trace.encode() not in data, trace
    proto = onnx.load_from_string(data)
    assert (proto.producer_name, proto.producer_version, proto.domain, proto.doc_string) == ("kdedge", "", "", "")
    again = exported(residual, tmp_path / "other.onnx")
    assert again.path.read_bytes() == data
    assert again.sha256 == graph.sha256


def test_the_exporter_is_quiet(residual: Residual, tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    exported(residual, tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")
    assert [str(warning.message) for warning in recwarn] == []


def test_a_text_model_has_a_dynamic_batch_and_length(tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = Reader().eval()
    graph = exported(module, tmp_path / "model.onnx", TEXT, TEXTS)
    assert graph.inputs == TEXT
    assert graph.outputs == (TensorSpec("logits", "float32", (BATCH, 3)),)
    for batch, length in ((1, 1), (3, 16), (5, 7)):
        feed = random_feed(TEXT, {"batch": batch, "length": length}, seed=batch)
        (found,) = run(graph.path.read_bytes(), [feed])
        with torch.inference_mode():
            wanted = module(*(torch.from_numpy(feed[spec.name]) for spec in TEXT))["logits"].numpy()
        np.testing.assert_allclose(found["logits"], wanted, atol=1e-5)


def test_two_other_sizes_are_checked_for_each_dimension() -> None:
    first, *others = sizes_to_check(TEXT)
    assert first == {"batch": 8, "length": 8}
    assert others == [{"batch": 1, "length": 1}, {"batch": 17, "length": 16}]
    assert sizes_to_check((TensorSpec("x", "float32", (Dimension("batch", 1, 1, 64), 3)),)) == [{"batch": 3}, {"batch": 1}, {"batch": 7}]
    assert sizes_to_check((TensorSpec("x", "float32", (2, 3)),)) == [{}]


class BakedBatch(nn.Module):
    """Reads the batch size into a Python number, which freezes it at export."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": image.flatten(1).sum(1, keepdim=True) * int(image.shape[0])}


def test_a_frozen_batch_size_is_found(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"student `tiny`: its batch is frozen at 8 .*`image`"):
        exported(BakedBatch(), tmp_path / "model.onnx")


def test_the_error_names_the_batch_and_the_node(tmp_path: Path) -> None:
    shape = onnx.numpy_helper.from_array(np.array([2, 12], np.int64), "shape")
    nodes = [
        onnx.helper.make_node("Relu", ["x"], ["r"], name="first"),
        onnx.helper.make_node("Reshape", ["r", "shape"], ["logits"], name="node_Reshape_4"),
    ]
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *rest]) for name, rest in (("x", [3, 4]), ("logits", [12]))]
    graph = onnx.helper.make_graph(nodes, "g", info[:1], info[1:], [shape])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9), tmp_path / "baked.onnx")

    class Wanted(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": torch.relu(x).flatten(1)}

    inputs = (TensorSpec("x", "float32", (BATCH, 3, 4)),)
    feeds = [random_feed(inputs, {"batch": batch}) for batch in (2, 3)]
    with pytest.raises(ExportError, match=r"student `r20`: .* at batch 3 but not at batch 2: a size is baked into `node_Reshape_4`"):
        verify_against_module(load_model(tmp_path / "baked.onnx"), Wanted(), inputs, feeds, "r20")


def test_a_value_that_depends_on_the_batch_is_named(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("Relu", ["x"], ["r"], name="harmless"),
        onnx.helper.make_node("Softmax", ["r"], ["s"], name="culprit", axis=0),
        onnx.helper.make_node("Identity", ["s"], ["logits"], name="last"),
    ]
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", 4]) for name in ("x", "logits")]
    graph = onnx.helper.make_graph(nodes, "g", info[:1], info[1:])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=9), tmp_path / "mixed.onnx")

    class Wanted(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": torch.softmax(torch.relu(x), 0) if len(x) == 2 else torch.relu(x)}

    inputs = (TensorSpec("x", "float32", (BATCH, 4)),)
    feeds = [random_feed(inputs, {"batch": batch}) for batch in (2, 3)]
    with pytest.raises(
        ExportError, match=r"differs from the torch model by 0\.\d+ \(allowed 0.001 of its scale\) at batch 3 but not at batch 2: .* `culprit`"
    ):
        verify_against_module(load_model(tmp_path / "mixed.onnx"), Wanted(), inputs, feeds, "tiny")


class NoOnnx(nn.Module):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": torch.linalg.eigvals(image).real.sum((1, 2))}


def test_an_operator_without_onnx_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"student `tiny`: torch cannot export it to ONNX: .*linalg_eig") as caught:
        exported(NoOnnx(), tmp_path / "model.onnx")
    assert "\n" not in str(caught.value)
    assert "/" not in str(caught.value)


class Infinite(nn.Module):
    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": image.flatten(1)[:, :2] / 0.0 + 1}


def test_a_student_with_outputs_that_are_not_finite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="output `logits` of the torch model is not finite"):
        exported(Infinite(), tmp_path / "model.onnx")
