"""Losses, datasets and models of the user's that fail: a sentence with their import path and their own words, and what was finished is kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_recipes import Change, Plain, cells, module, refused, run, stages, write

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
    "that exits": ("raise SystemExit(0)", ("rehearsal.rehearse", "asked Python to exit (0)")),
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
    # The first call is the rehearsal's, before the teacher is trained.
    name = loss_module(tmp_path, f"{calls}\n    return F.cross_entropy(student_logits, labels) * (float('nan') if calls == 6 else 1.0)")

    def longer(content: Plain) -> None:
        loss(name)(content)
        content["distill"]["epochs"] = 4

    recipe = write(tmp_path, longer)
    ended = run(recipe)
    refused(ended, f"`{name}:mine` became nan in step 5 (epoch 2 of 4)")
    assert list(stages(ended)) == ["prepare.prepare", "rehearsal.rehearse", "teacher.obtain"]
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


SEEN_IN_TRAINING = ("that fails later", "without parameters")


@pytest.mark.parametrize("what", MODELS)
def test_a_model_of_the_users(what: str, tmp_path: Path) -> None:
    code, words = MODELS[what]
    name = module(tmp_path, f"{TORCH}{MODEL}{code}\n")
    ended = run(write(tmp_path, student={"model": f"{name}:make"}))
    refused(ended, name, *named(name, words))
    # A teacher may take hours: before it, whatever a first look at the student shows.
    assert ("teacher.obtain" in stages(ended)) == (what in SEEN_IN_TRAINING)
    if what not in SEEN_IN_TRAINING:
        assert any(key in ended.err for key in ("student.model: ", "student.arguments", "error in your own code: "))


def test_a_model_whose_factory_exits(tmp_path: Path) -> None:
    name = module(tmp_path, "def make(classes): raise SystemExit(0)\n")
    ended = run(write(tmp_path, student={"model": f"{name}:make"}))
    refused(ended, f"student.model: model `{name}:make`", "asked Python to exit (0)")
    assert list(stages(ended)) == ["prepare.prepare"]


def test_an_assistant_that_cannot_be_run_is_told_before_the_teacher_is_trained(tmp_path: Path) -> None:
    name = module(tmp_path, f"{TORCH}{MODEL}def make(classes): return Base(classes + 2)\n")
    recipe = write(tmp_path, lambda content: content["distill"].update(assistants=[{"model": f"{name}:make"}]))
    ended = run(recipe)
    refused(ended, "distill.assistants[0].model: ", "5 classes", "the data has 3")
    assert list(stages(ended)) == ["prepare.prepare"]


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
    made = ("prepare.prepare", "trial.try_out student", "teacher.obtain", "trainer.distill", "references.reference_outputs")
    assert stages(again) == dict.fromkeys(made, True)


def test_a_model_whose_forward_gives_a_list_of_tensors_is_no_mistake(tmp_path: Path) -> None:
    name = module(tmp_path, f"{TORCH}{MODEL}class make(Base):\n    def forward(self, x): return [super().forward(x)]\n")
    recipe = write(tmp_path, student={"model": f"{name}:make"})
    assert cells(run(recipe, "--json", command="validate")) == {"onnxruntime-x86 fp32": ("ok", "")}
