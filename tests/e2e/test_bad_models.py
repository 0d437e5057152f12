"""Weights, ONNX files and code of the user's that cannot be used: a sentence that names the culprit, and what was finished is kept."""

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
from small_recipes import SMALL, Change, Plain, cells, module, refused, run, stages, write

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


# ---- the user's own code ---------------------------------------------------------------------------------------------------

TORCH = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"


def loss(name: str) -> Change:
    """The student's loss is `mine` of this module."""
    return lambda content: content["distill"].update(losses=[{f"{name}:mine": 1.0}])


def loss_module(folder: Path, body: str) -> str:
    """A module whose `mine(student_logits, labels)` has this body."""
    return module(folder, f"{TORCH}def mine(student_logits, labels):\n    {body}\n")


def named(name: str, words: tuple[str, ...]) -> tuple[str, ...]:
    """Expected words, with the name of the user's module for MINE."""
    return tuple(word.replace("MINE", name) for word in words)


LOSSES: dict[str, tuple[str, tuple[str, ...]]] = {
    "that divides by zero": (
        "return 1 / 0",
        ("the loss term `MINE:mine` failed on student_logits [16, 3], labels [16]: ZeroDivisionError: division by zero",),
    ),
    "that fails with an error of its own": ("class Mine(Exception): ...\n    raise Mine('in my words')", ("`MINE:mine`", "Mine: in my words")),
    "that asserts": ("assert labels.sum() < 0, 'so it is'", ("`MINE:mine`", "AssertionError: so it is")),
    "of the wrong shape": ("return student_logits", ("`MINE:mine` returned [16, 3]", "one number")),
    "that is a float": ("return 3.0", ("`MINE:mine` returned float", "one number")),
    "that is nothing": ("pass", ("`MINE:mine` returned NoneType", "one number")),
    "that the model has no part in": ("return torch.tensor(1.0)", ("no gradient leads from the loss (`MINE:mine`) to `kdedge:cnn`",)),
    "that lets go of the model": ("return student_logits.detach().mean()", ("no gradient leads from the loss (`MINE:mine`) to `kdedge:cnn`",)),
    "that breaks its own gradient": (
        "kept = student_logits.exp()\n    value = kept.mean()\n    kept.zero_()\n    return value",
        ("the gradient of the loss cannot be computed in step 1", "inplace"),
    ),
    "that is no number": ("return student_logits.mean() * float('nan')", ("`MINE:mine` became nan in step 1",)),
    "that exits": ("raise SystemExit(0)", ("trainer.distill", "asked Python to exit (0)")),
}


@pytest.mark.parametrize("what", LOSSES)
def test_a_loss_of_the_users(what: str, tmp_path: Path) -> None:
    body, words = LOSSES[what]
    name = loss_module(tmp_path, body)
    refused(run(write(tmp_path, loss(name))), *named(name, words))


MODULES: dict[str, tuple[str, tuple[str, ...]]] = {
    "that is not Python": ("def mine(student_logits:\n", ("cannot be read as Python",)),
    "that lacks the function": ("def other(): ...\n", ("defines no function `mine`", "other")),
    "that fails when imported": (
        "raise RuntimeError('at import')\ndef mine(student_logits): ...\n",
        ("cannot be imported: RuntimeError: at import",),
    ),
    "that exits when imported": ("raise SystemExit(0)\ndef mine(student_logits): ...\n", ("cannot be imported: SystemExit: 0",)),
    "that imports what is not there": ("import nowhere_at_all\ndef mine(student_logits): ...\n", ("`nowhere_at_all`, which is not installed",)),
    "that asks for what no model has": (f"{TORCH}def mine(student_hidden):\n    return student_hidden.mean()\n", ("student_hidden", "not there")),
}


@pytest.mark.parametrize("what", MODULES)
def test_a_module_of_the_users(what: str, tmp_path: Path) -> None:
    code, words = MODULES[what]
    name = module(tmp_path, code)
    refused(run(write(tmp_path, loss(name))), f"{name}:mine", *words)


def test_a_loss_that_fails_in_step_5_keeps_what_was_finished_and_is_mended(tmp_path: Path) -> None:
    calls = "calls = getattr(mine, 'calls', 0) + 1; mine.calls = calls"
    name = loss_module(tmp_path, f"{calls}\n    return F.cross_entropy(student_logits, labels) * (float('nan') if calls == 5 else 1.0)")

    def longer(content: Plain) -> None:
        loss(name)(content)
        content["distill"]["epochs"] = 4

    recipe = write(tmp_path, longer)
    ended = run(recipe)
    refused(ended, f"`{name}:mine` became nan in step 5 (epoch 2 of 4)")
    assert list(stages(ended)) == ["prepare.prepare", "teacher.obtain"]
    again = stages(run(recipe, "--set", "distill.losses=[{ce: 1.0}]", command="distill"))
    assert (again["prepare.prepare"], again["teacher.obtain"], again["trainer.distill"]) == (True, True, False)


DATASET = """
import numpy as np
calls = [0]
class Base:
    def __init__(self, split): self.split = split
    def __len__(self): return 12
    def __getitem__(self, i):
        calls[0] += 1
        if i >= 12: raise IndexError(i)
        return np.random.default_rng(i).integers(0, 255, (8, 8, 3)).astype(np.uint8), i % 3
class make(Base):
"""
DATASETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "that cannot be made": (
        "def __init__(self, split): raise FileNotFoundError('no such disk')",
        ("failed to make the train dataset", "no such disk"),
    ),
    "that fails at an example": (
        "def __getitem__(self, i):\n        if i == 5: raise KeyError('five')\n        return super().__getitem__(i)",
        ("(train)[5] cannot be read: KeyError: 'five'",),
    ),
    "that fails later": (
        "def __getitem__(self, i):\n        if calls[0] > 60: raise OSError('gone')\n        return super().__getitem__(i)",
        ("cannot be read: OSError: gone",),
    ),
    "that changes its sizes later": (
        "def __getitem__(self, i):\n        image, label = super().__getitem__(i)\n        return image[: 8 if calls[0] < 60 else 1 + i % 8], label",
        ("several sizes", "all had one"),
    ),
    "that does not know its length": ("def __len__(self): raise RuntimeError('who knows')", ("how many examples", "who knows")),
    "of negative length": ("def __len__(self): return -1", ("how many examples",)),
    "that is empty": ("def __len__(self): return 0", ("is empty", "train split")),
    "that is shorter than it says": ("def __len__(self): return 30", ("cannot be read: IndexError",)),
    "of bare numbers": ("def __getitem__(self, i): return i", ("(train)[0]", "tuple (example, label)")),
    "with names for labels": ("def __getitem__(self, i): return super().__getitem__(i)[0], 'cat'", ("(train)[0]", "the label is a str")),
    "with labels beyond all numbers": ("def __getitem__(self, i): return super().__getitem__(i)[0], 10 ** 400", ("(train)[0]", "bits")),
    "with a label beyond its classes": ("classes = ['a', 'b']", ("(train)[2]", "label 2", "0 to 1")),
    "of floats": ("def __getitem__(self, i): return super().__getitem__(i)[0] / 255.0, 0", ("(train)[0]", "float64", "uint8")),
    "that is another each time": (
        "def __getitem__(self, i): return np.random.default_rng().integers(0, 255, (8, 8, 3)).astype(np.uint8), 0",
        ("another example each time",),
    ),
    "that exits": ("def __getitem__(self, i): raise SystemExit(7)", ("cannot be read: SystemExit: 7",)),
}


@pytest.mark.parametrize("what", DATASETS)
def test_a_dataset_of_the_users(what: str, tmp_path: Path) -> None:
    body, words = DATASETS[what]
    name = module(tmp_path, f"{DATASET}    {body}\n")
    recipe = write(tmp_path, lambda content: content["data"].update(train=f"python:{name}:make", test=f"python:{name}:make"))
    refused(run(recipe), f"{name}:make", *words)


def test_a_dataset_of_texts_for_a_task_of_images(tmp_path: Path) -> None:
    name = module(tmp_path, f"{DATASET}    def __getitem__(self, i): return 'a text', i % 3\n")
    recipe = write(tmp_path, lambda content: content["data"].update(train=f"python:{name}:make", test=f"python:{name}:make"))
    refused(run(recipe), "data.train gives text data", "image-classification")


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ("python:nowhere.at_all:make", ("data.train", "no module `nowhere.at_all`")),
        ("python:justaname", ("data.train", "python:package.module:factory")),
    ],
)
def test_a_dataset_that_is_not_there(train: str, words: tuple[str, ...], tmp_path: Path) -> None:
    refused(run(write(tmp_path, lambda content: content["data"].update(train=train))), *words)


MODEL = """
class Base(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.linear = nn.Linear(3, classes)
    def forward(self, x): return self.linear(x.mean((2, 3)))
"""
MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "that gives a list": ("class make(Base):\n    def forward(self, x): return [1, 2]", ("gives a list", "logits")),
    "that gives nothing": ("class make(Base):\n    def forward(self, x): return None", ("gives a NoneType", "logits")),
    "that gives three dimensions": (
        "class make(Base):\n    def forward(self, x): return super().forward(x)[None]",
        ("[1, 2, 3]", "[examples, classes]"),
    ),
    "of other classes": ("def make(classes): return Base(classes + 2)", ("5 classes", "the data has 3")),
    "that refuses the image size": (
        "class make(Base):\n    def forward(self, x): raise AssertionError('only 224x224')",
        ("cannot be run on image [2, 3, 8, 8]", "only 224x224"),
    ),
    "that fails later": (
        "class make(Base):\n    calls = 0\n    def forward(self, x):\n        self.calls += 1\n"
        "        if self.calls > 2: raise KeyError('third')\n        return super().forward(x)",
        ("failed in training on image [16, 3, 8, 8]", "KeyError: 'third'"),
    ),
    "whose factory fails": ("def make(classes): raise KeyError('weights')", ("failed with {'classes': 3}", "KeyError: 'weights'")),
    "whose factory makes nothing": ("def make(classes): pass", ("made a NoneType",)),
    "whose factory needs more": ("def make(classes, depth): return Base(classes)", ("needs depth",)),
    "without parameters": ("class make(nn.Module):\n    def forward(self, x): return x.mean((2, 3))", ("no parameter that can be trained",)),
    "with a state that is no tensor": (
        "class make(Base):\n    def get_extra_state(self): return {'a': 1}\n    def set_extra_state(self, state): ...",
        ("_extra_state", "no tensor"),
    ),
    "whose state fails": (
        "class make(Base):\n    def state_dict(self, *a, **k): raise RuntimeError('no state')",
        ("error in your own code: RuntimeError: no state (", "MINE.py"),
    ),
}


@pytest.mark.parametrize("what", MODELS)
def test_a_model_of_the_users(what: str, tmp_path: Path) -> None:
    code, words = MODELS[what]
    name = module(tmp_path, f"{TORCH}{MODEL}{code}\n")
    refused(run(write(tmp_path, student={"model": f"{name}:make"})), name, *named(name, words))


def test_a_model_whose_factory_exits(tmp_path: Path) -> None:
    name = module(tmp_path, "def make(classes): raise SystemExit(0)\n")
    ended = run(write(tmp_path, student={"model": f"{name}:make"}))
    refused(ended, "trainer.distill", "asked Python to exit (0)")
    assert list(stages(ended)) == ["prepare.prepare", "teacher.obtain"]


def test_teacher_and_student_of_different_classes(tmp_path: Path) -> None:
    name = module(tmp_path, f"{TORCH}{MODEL}def make(classes): return Base(classes + 2)\n")
    teacher = {"model": f"{name}:make", "normalize": "none"}
    refused(run(write(tmp_path, teacher=teacher)), f"{name}:make", "5 classes", "the data has 3")


def test_a_teacher_that_fails_on_some_examples(tmp_path: Path) -> None:
    body = "def forward(self, x):\n        if len(x) > 2: raise KeyError('too many')\n        return super().forward(x)"
    name = module(tmp_path, f"{TORCH}{MODEL}class make(Base):\n    {body}\n")
    teacher = {"model": f"{name}:make", "normalize": "none"}
    refused(run(write(tmp_path, teacher=teacher)), f"teacher `{name}:make` cannot be run on image [16, 3, 8, 8]", "too many")


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        ("return super().forward(x) * (2 if super().forward(x).sum() > 0 else 1)", ("torch cannot export it", "data-dependent")),
        ("return super().forward(x) + torch.randn(1)", ("differs from the torch model",)),
        ("return super().forward(x).reshape(int(x.shape[0]), -1)", ("its batch is frozen",)),
    ],
)
def test_a_student_that_cannot_be_exported_is_kept(forward: str, words: tuple[str, ...], tmp_path: Path) -> None:
    name = module(tmp_path, f"{TORCH}{MODEL}class make(Base):\n    def forward(self, x):\n        {forward}\n")
    recipe = write(tmp_path, student={"model": f"{name}:make"})
    ended = run(recipe)
    refused(ended, name, *words)
    assert "def forward" not in ended.err  # torch prints the graph so far
    again = run(recipe)
    refused(again, *words)
    assert stages(again) == dict.fromkeys(("prepare.prepare", "teacher.obtain", "trainer.distill", "references.reference_outputs"), True)


def test_a_model_whose_forward_gives_a_list_of_tensors_is_no_mistake(tmp_path: Path) -> None:
    name = module(tmp_path, f"{TORCH}{MODEL}class make(Base):\n    def forward(self, x): return [super().forward(x)]\n")
    recipe = write(tmp_path, student={"model": f"{name}:make"})
    assert cells(run(recipe, "--json", command="validate")) == {"onnxruntime-x86 fp32": ("ok", "")}
