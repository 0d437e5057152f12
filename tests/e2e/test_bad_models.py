"""Weights and ONNX files that cannot be used: exit code 2 and a sentence that names the culprit; no code of a file is ever run."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from command_line import started
from onnx import TensorProto, helper, numpy_helper
from small_recipes import SMALL, refused, run, write

from kdedge.models.small_cnn import small_cnn

Make = Callable[[Path], Any]

# ---- weights ---------------------------------------------------------------------------------------------------------------


def state(**settings: int) -> dict[str, torch.Tensor]:
    """The weights of the teacher that `with_weights` names, or of another one."""
    torch.manual_seed(0)
    found: dict[str, torch.Tensor] = small_cnn(**{"classes": 3, "width": 4, "depth": 0, "stages": 2, **settings}).state_dict()
    return found


def saved(content: dict[str, torch.Tensor]) -> Make:
    return lambda path: safetensors.torch.save_file(content, path)


def cut(make: Make, size: int) -> Make:
    """The same file, without its end."""

    def made(path: Path) -> None:
        make(path)
        path.write_bytes(path.read_bytes()[:size])

    return made


class Evil:
    """What a pickle can do: here it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.folder,)


def with_weights(folder: Path, file: str, normalize: Any = "none") -> Path:
    return write(folder, teacher={**SMALL, "weights": file, "normalize": normalize})


SAFE: dict[str, tuple[Make, tuple[str, ...]]] = {
    "missing": (lambda path: None, ("there is no file",)),
    "a folder": (lambda path: path.mkdir(), ("there is no file",)),
    "empty": (lambda path: path.write_bytes(b""), ("not a safetensors file",)),
    "a text": (lambda path: path.write_text("hello"), ("not a safetensors file",)),
    "a header without end": (lambda path: path.write_bytes(b"\xff" * 8 + b"{}"), ("not a safetensors file",)),
    "cut in its header": (cut(saved(state()), 20), ("not a safetensors file",)),
    "cut in its weights": (cut(saved(state()), 3000), ("not a safetensors file",)),
    "of a wider model": (saved(state(width=8)), ("do not fit", "stem.conv.weight: [8, 3, 3, 3] in the file, [4, 3, 3, 3] in the model")),
    "of another model": (saved({"first": torch.zeros(3)}), ("do not fit", "missing in the file: stem.conv.weight", "unknown to the model: first")),
    "of five classes": (saved(state(classes=5)), ("linear.bias: [5] in the file, [3] in the model",)),
    "no numbers": (saved({name: tensor * float("nan") for name, tensor in state().items()}), ("no finite numbers", "stem.conv.weight")),
    "quantized": (saved({name: tensor.to(torch.int8) for name, tensor in state().items()}), ("not floating point", "stem.conv.weight (int8)")),
}


@pytest.mark.parametrize("what", SAFE)
def test_weights_in_safetensors_that_cannot_be_used(what: str, tmp_path: Path) -> None:
    make, words = SAFE[what]
    make(tmp_path / "given.safetensors")
    refused(run(with_weights(tmp_path, "given.safetensors")), "given.safetensors", *words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a checkpoint that torch can read"),
        (b"hello, I am no checkpoint", "not a checkpoint that torch can read"),
        (b"PK\x03\x04 but no archive", "not a checkpoint that torch can read"),
    ],
)
def test_a_checkpoint_that_is_none(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "given.pt").write_bytes(content)
    refused(run(with_weights(tmp_path, "given.pt")), "given.pt", words)


def test_a_checkpoint_without_weights(tmp_path: Path) -> None:
    torch.save({"state_dict": [1, 2], "epoch": 3}, tmp_path / "given.pt")
    refused(run(with_weights(tmp_path, "given.pt")), "given.pt", "holds no weights")


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors"])
@pytest.mark.parametrize("form", ["pickle", "zip", "legacy"])
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_checkpoint_is_refused_and_never_run(form: str, suffix: str, tmp_path: Path) -> None:
    path, ran = tmp_path / f"given{suffix}", tmp_path / "ran"
    content = {"state_dict": state(), "hook": Evil(ran)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(Evil(ran)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    words = ("not a safetensors file",) if suffix == ".safetensors" else ("no checkpoint of tensors alone", "runs no code from a file")
    ended = run(with_weights(tmp_path, path.name))
    refused(ended, path.name, *words)
    assert not ran.exists()
    assert "weights_only" not in ended.err  # torch's advice is how to run the code after all


def test_a_started_program_refuses_code_without_another_word(tmp_path: Path) -> None:
    (tmp_path / "given.pt").write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    ended = started("run", with_weights(tmp_path, "given.pt"), "--workspace", "workspace", folder=tmp_path)
    refused(ended, "given.pt", "runs no code from a file")
    assert [line.split()[0] for line in ended.err.splitlines()] == ["prepare.prepare", "model"]
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("normalize", "words"),
    [
        (None, ("normalize", "with which mean and std")),
        ({"mean": [0.5], "std": [0.5]}, ("normalize", "1 numbers", "3 channels")),
        ({"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0]}, ("teacher.normalize.std[2]", "greater than 0")),
        ("imagnet", ("teacher.normalize", "did you mean `imagenet`?")),
    ],
)
def test_weights_without_their_normalisation(normalize: Any, words: tuple[str, ...], tmp_path: Path) -> None:
    safetensors.torch.save_file(state(), tmp_path / "given.safetensors")
    refused(run(with_weights(tmp_path, "given.safetensors", normalize)), *words)


# ---- ONNX files ------------------------------------------------------------------------------------------------------------


def graph(
    *, classes: int = 3, shape: tuple[Any, ...] = ("n", 3, 8, 8), dtype: int = TensorProto.FLOAT, pool: str = "GlobalAveragePool", domain: str = ""
) -> onnx.ModelProto:
    """Mean colour times a matrix: the smallest image classifier."""
    inside = shape[1]
    matrix = numpy_helper.from_array(np.random.default_rng(0).normal(size=(inside, classes)).astype(np.float32), "matrix")
    nodes = [
        helper.make_node(pool, ["image"], ["pooled"], name="pool", domain=domain),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info("image", dtype, shape)]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (shape[0], classes))]
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, [matrix]), opset_imports=opsets, ir_version=9)


def kept(model: onnx.ModelProto, change: Callable[[onnx.ModelProto], Any] = lambda model: None) -> Make:
    change(model)
    return lambda path: onnx.save(model, path)


def _external(location: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    return change


def _with_side_file(path: Path) -> None:
    onnx.save(kept_model := graph(), path)
    _external("weights.bin")(kept_model)
    onnx.save(kept_model, path)
    (path.parent / "weights.bin").write_bytes(bytes(10))


def _second_output(model: onnx.ModelProto) -> None:
    model.graph.node[2].output[0] = model.graph.output[0].name = "a"
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ("n", 3)))


def _not_a_number(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((3, 3), np.nan, np.float32), "matrix"))


def _only_in_its_own_size(model: onnx.ModelProto) -> None:
    # It says that it takes any size, and does not.
    model.graph.node[0].op_type = "AveragePool"
    model.graph.node[0].attribute.append(helper.make_attribute("kernel_shape", [5, 5]))


ONNX: dict[str, tuple[Make, tuple[str, ...]]] = {
    "missing": (lambda path: None, ("there is no file",)),
    "a folder": (lambda path: path.mkdir(), ("there is no file",)),
    "empty": (lambda path: path.write_bytes(b""), ("not an ONNX file",)),
    "a text": (lambda path: path.write_text("I am not ONNX"), ("not an ONNX file",)),
    "an image": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), ("not an ONNX file",)),
    "cut": (lambda path: path.write_bytes(graph().SerializeToString()[:-40]), ("not an ONNX file",)),
    "without outputs": (kept(graph(), lambda model: model.graph.ClearField("output")), ("not an ONNX file",)),
    "of other classes": (kept(graph(classes=5)), ("5 classes", "the data has 3")),
    "of eight channels": (kept(graph(shape=("n", 8, 8, 8))), ("`image` float32 [n, 8, 8, 8]", "1 or 3 channels")),
    "channels last": (kept(graph(shape=("n", 8, 8, 3))), ("channels seem to be last",)),
    "in double precision": (kept(graph(dtype=TensorProto.DOUBLE)), ("float64", "one float32 input")),
    "for bytes": (kept(graph(dtype=TensorProto.UINT8)), ("uint8", "one float32 input")),
    "with a custom operator": (kept(graph(pool="Magic", domain="my.ops")), ("my.ops", "Magic")),
    "with an operator that is none": (kept(graph(pool="Magic")), ("No Op registered for Magic",)),
    "with two outputs": (kept(graph(), _second_output), ("`a`", "`flat`", "which of them are the logits?")),
    "that uses what nothing makes": (kept(graph(), lambda model: model.graph.node[2].input.__setitem__(0, "lost")), ("lost",)),
    "with weights that are no numbers": (kept(graph(), _not_a_number), ("logits", "finite|NaN")),
    "with weights that are missing": (kept(graph(), _external("weights.bin")), ("weights.bin", "not there")),
    "with weights outside its folder": (kept(graph(), _external("../../secret")), ("../../secret", "outside its folder")),
    "with weights of an absolute path": (kept(graph(), _external("/etc/hostname")), ("/etc/hostname", "outside its folder")),
    "with weights cut short": (_with_side_file, ("beside it", "cut short")),
    "that runs at no size of the data": (
        kept(graph(shape=("n", 3, "h", "w")), _only_in_its_own_size),
        ("cannot run it on image float32|cannot be run",),
    ),
}


@pytest.mark.parametrize("what", ONNX)
@pytest.mark.parametrize("who", ["teacher", "student"])
def test_an_onnx_file_that_cannot_be_used(who: str, what: str, tmp_path: Path) -> None:
    make, words = ONNX[what]
    make(tmp_path / "given.onnx")
    given = {"model": "onnx:given.onnx"}
    recipe = write(tmp_path, teacher=given) if who == "teacher" else write(tmp_path, teacher=None, student=given, distill=None)
    ended = run(recipe)
    refused(ended, "given.onnx")
    for word in words:
        assert any(choice in " ".join(ended.err.split()) for choice in word.split("|")), ended.err
    assert "partial" not in ended.err  # where a stage happened to copy it is nobody's business


def test_an_onnx_teacher_of_another_image_size_sees_the_images_in_its_own(tmp_path: Path) -> None:
    onnx.save(graph(shape=("n", 3, 32, 32)), tmp_path / "given.onnx")
    assert run(write(tmp_path, teacher={"model": "onnx:given.onnx"}), command="distill").code == 0
