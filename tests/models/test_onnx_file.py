"""An ONNX file is taken under the names that the rest of kdedge uses, and gives what it gave before."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from model_world import image_data, text_data
from onnx import TensorProto, helper, numpy_helper

from kdedge.artifact import Dimension, ImageEncoder, PreparedData, TensorSpec
from kdedge.errors import ModelError, TrainingError
from kdedge.models.catalog import resolve
from kdedge.models.given import take
from kdedge.models.onnx_file import onnx_specs
from kdedge.models.spec import ModelSpec
from kdedge.recipe import ModelSection, NormalizeSection

WEIGHT = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0], [1.0, 1.0, 1.0]], np.float32)


def image_graph(
    path: Path,
    shape: tuple[Any, ...] = ("n", 3, 4, 4),
    name: str = "x",
    output: str = "y",
    classes: Any = 3,
    dtype: int = TensorProto.FLOAT,
    more: tuple[str, ...] = (),
) -> Path:
    """The mean colour times WEIGHT; `more` names outputs beside it."""
    # Inside, the graph uses a name that it is about to be given outside.
    inside = next(each for each in ("logits", "image", "hidden") if each not in (name, output))
    nodes = [
        helper.make_node("ReduceMean", [name, "axes"], [inside], keepdims=0),
        helper.make_node("MatMul", [inside, "w"], [output]),
        *(helper.make_node("Identity", [output], [other]) for other in more),
    ]
    outputs = [helper.make_tensor_value_info(each, dtype, [shape[0], classes]) for each in (output, *more)]
    weight = WEIGHT.astype(np.float16) if dtype == TensorProto.FLOAT16 else WEIGHT
    constants = [numpy_helper.from_array(np.array([2, 3], np.int64), "axes"), numpy_helper.from_array(weight, "w")]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info(name, dtype, list(shape))], outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def text_graph(path: Path, names: tuple[str, ...] = ("input_ids", "attention_mask"), length: Any = "t", dtype: int = TensorProto.INT64) -> Path:
    """Logits [N, 2]: the sums of the first and of the second input."""
    nodes = [
        *(helper.make_node("ReduceSum", [name, "axes"], [f"{name}_sum"], keepdims=1) for name in names[:2]),
        helper.make_node("Concat", [f"{name}_sum" for name in names[:2]], ["both"], axis=1),
        helper.make_node("Cast", ["both"], ["out"], to=TensorProto.FLOAT),
    ]
    inputs = [helper.make_tensor_value_info(name, dtype, ["n", length]) for name in names]
    constants = [numpy_helper.from_array(np.array([1], np.int64), "axes")]
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 2])], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def spec(path: Path, data: PreparedData, **changes: Any) -> ModelSpec:
    return resolve(ModelSection(model=f"onnx:{path}", **changes), data)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_resolving_reads_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"whatever")
    found = spec(path, image_data(4))
    assert (found.name, found.onnx, found.factory, found.inputs, found.outputs, found.normalize) == ("onnx:m.onnx", path, None, (), (), None)


def test_specs_of_a_file(tmp_path: Path) -> None:
    inputs, outputs = onnx_specs(image_graph(tmp_path / "m.onnx", ("n", 3, "h", None)))
    assert inputs == (TensorSpec("x", "float32", (Dimension("n", 1, 8, 64), 3, Dimension("h", 1, 32, 512), Dimension("x_3", 1, 32, 512))),)
    assert outputs == (TensorSpec("y", "float32", (Dimension("n", 1, 8, 64), 3)),)


@pytest.mark.parametrize(("name", "output"), [("x", "y"), ("image", "logits"), ("x", "logits")])
def test_an_image_model_is_taken_under_the_names_of_kdedge(tmp_path: Path, out: Path, name: str, output: str) -> None:
    data = image_data(4)
    files = take(spec(image_graph(tmp_path / "m.onnx", name=name, output=output), data), data, folder=out)
    assert files.onnx == out / "model.onnx"
    assert files.inputs == (TensorSpec("image", "float32", (Dimension("batch", 1, 8, 64), 3, 4, 4)),)
    assert (files.outputs, files.weights, files.factory, files.normalize) == (("logits",), None, None, None)
    onnx.checker.check_model(onnx.load(out / "model.onnx"), full_check=True)
    image = np.random.default_rng(0).random((2, 3, 4, 4), np.float32)
    (found,) = onnxruntime.InferenceSession(out / "model.onnx").run(["logits"], {"image": image})
    np.testing.assert_allclose(found, image.mean((2, 3)) @ WEIGHT, atol=1e-6)


def test_mean_and_std_become_nodes_of_the_graph(tmp_path: Path, out: Path) -> None:
    data = image_data(4)
    mean, std = (0.5, 0.25, 0.0), (0.5, 0.25, 2.0)
    section = NormalizeSection(mean=mean, std=std)
    files = take(spec(image_graph(tmp_path / "m.onnx"), data, normalize=section), data, folder=out)
    assert files.normalize is None
    onnx.checker.check_model(onnx.load(out / "model.onnx"), full_check=True)
    image = np.random.default_rng(0).random((2, 3, 4, 4), np.float32)
    (found,) = onnxruntime.InferenceSession(out / "model.onnx").run(["logits"], {"image": image})
    np.testing.assert_allclose(found, ((image.mean((2, 3)) - mean) / std) @ WEIGHT, atol=1e-5)


def test_the_same_file_gives_the_same_bytes(tmp_path: Path, out: Path) -> None:
    data = image_data(4)
    made = spec(image_graph(tmp_path / "m.onnx"), data)
    first = take(made, data, folder=out).onnx
    assert first is not None
    kept = first.read_bytes()
    take(made, data, folder=out)
    assert first.read_bytes() == kept


def test_the_encoder_follows_the_graph(tmp_path: Path, out: Path) -> None:
    data = image_data(32)
    files = take(spec(image_graph(tmp_path / "m.onnx", (1, 3, 48, 64)), data), data, folder=out)
    assert files.encoder == ImageEncoder((48, 64), resize=64)
    assert files.inputs[0].shape == (1, 3, 48, 64)


def test_weights_beside_the_file_are_taken_into_it(tmp_path: Path, out: Path) -> None:
    data = image_data(4)
    model = onnx.load(image_graph(tmp_path / "m.onnx"))
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    files = take(spec(tmp_path / "m.onnx", data), data, folder=out)
    assert [path.name for path in out.iterdir()] == ["model.onnx"]
    image = np.ones((1, 3, 4, 4), np.float32)
    np.testing.assert_allclose(onnxruntime.InferenceSession(files.onnx).run(None, {"image": image})[0], np.ones((1, 3)) @ WEIGHT)


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret"])
def test_weights_outside_the_files_folder_are_not_read(tmp_path: Path, out: Path, location: str) -> None:
    data = image_data(4)
    (tmp_path / "secret").write_bytes(b"\0" * 64)
    folder = tmp_path / "folder"
    folder.mkdir()
    model = onnx.load(image_graph(folder / "m.onnx"))
    weight = model.graph.initializer[1]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="outside its folder; such a file is not read"):
        take(spec(folder / "m.onnx", data), data, folder=out)


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("input_ids", "attention_mask"), (0, 1)),
        (("attention_mask", "input_ids"), (1, 0)),
        (("a", "b"), (0, 1)),
        (("input_ids", "attention_mask", "token_type_ids"), (0, 1)),
    ],
)
def test_a_text_model_is_taken_by_name_or_in_order(tmp_path: Path, out: Path, names: tuple[str, ...], order: tuple[int, int]) -> None:
    data = text_data(tmp_path)
    files = take(spec(text_graph(tmp_path / "t.onnx", names), data), data, folder=out)
    assert [each.name for each in files.inputs] == ["input_ids", "attention_mask", "token_type_ids"][: len(names)]
    assert files.inputs[0].shape == (Dimension("batch", 1, 8, 64), Dimension("length", 1, 16, 16))
    assert files.encoder.input_names == tuple(each.name for each in files.inputs)  # type: ignore[union-attr]
    feed = {"input_ids": [[4, 5]], "attention_mask": [[1, 1]], "token_type_ids": [[0, 0]]}
    session = onnxruntime.InferenceSession(files.onnx)
    (found,) = session.run(["logits"], {each.name: np.array(feed[each.name], np.int64) for each in files.inputs})
    assert found[0][list(order)].tolist() == [9, 2]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"shape": ("n", 4, 4, 3)},
            "takes `x` float32 [n, 4, 4, 3]; images have 1 or 3 channels, which stand before height and width; its channels seem to be last",
        ),
        ({"shape": ("n", 4, 4, 4)}, "images have 1 or 3 channels"),
        ({"dtype": TensorProto.FLOAT16}, "takes `x` float16 [n, 3, 4, 4]; an image classifier takes one float32 input"),
        ({"more": ("a", "b"), "classes": 2}, "gives `y` float32 [n, 2] and `a` float32 [n, 2] and `b` float32 [n, 2]: which of them are the logits?"),
    ],
)
def test_a_graph_that_does_not_fit_images_is_refused(tmp_path: Path, out: Path, changes: dict[str, Any], expected: str) -> None:
    data = image_data(4)
    with pytest.raises(ModelError) as caught:
        take(spec(image_graph(tmp_path / "m.onnx", **changes), data), data, folder=out)
    assert expected in str(caught.value)


def test_the_logits_are_found_among_several_outputs(tmp_path: Path, out: Path) -> None:
    data = image_data(4)
    files = take(spec(image_graph(tmp_path / "m.onnx", output="logits", more=("features",)), data), data, folder=out)
    assert [each.name for each in onnxruntime.InferenceSession(files.onnx).get_outputs()] == ["logits"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"names": ("ids",)}, "takes `ids` int64 [n, t]; a text classifier takes int64 ids and attention mask"),
        ({"length": 128}, "takes texts of exactly 128 tokens; export it with a dynamic length"),
        ({"dtype": TensorProto.INT32}, "takes `input_ids` int32 [n, t] and `attention_mask` int32"),
    ],
)
def test_a_graph_that_does_not_fit_texts_is_refused(tmp_path: Path, out: Path, changes: dict[str, Any], expected: str) -> None:
    data = text_data(tmp_path)
    with pytest.raises(ModelError) as caught:
        take(spec(text_graph(tmp_path / "t.onnx", **changes), data), data, folder=out)
    assert expected in str(caught.value)


def test_a_class_count_that_differs_is_named(tmp_path: Path, out: Path) -> None:
    data = image_data(4, classes=("a", "b"))
    with pytest.raises(TrainingError, match=r"`onnx:m.onnx` gives 3 classes, the data has 2"):
        take(spec(image_graph(tmp_path / "m.onnx"), data), data, folder=out)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x07", b"\x00" * 100, b'{"a": 1}'])
def test_what_is_no_onnx_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"m.onnx is not an ONNX file"):
        onnx_specs(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none.onnx: there is no such file"):
        onnx_specs(tmp_path / "none.onnx")


def test_a_spec_without_a_file_never_comes_here(tmp_path: Path) -> None:
    made = dataclasses.replace(spec(image_graph(tmp_path / "m.onnx"), image_data(4)), onnx=tmp_path / "gone.onnx")
    with pytest.raises(ModelError, match="there is no such file"):
        take(made, image_data(4), folder=tmp_path)
