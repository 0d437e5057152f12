"""What would end a training run at its first step is found before a teacher is trained for it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import small_recipes
import torch

from kdedge import progress
from kdedge.api import run
from kdedge.artifact import PreparedData
from kdedge.errors import KdedgeError, ModelError, TrainingError
from kdedge.workspace import Workspace

pytest.importorskip("torch")

CE, KD = {"ce": 0.5}, {"kd": 1.0, "temperature": 2}
PLAIN = {"epochs": 1, "batch_size": 16}
AT = {"at": 1000.0, "layers": ["stages.0"]}
USERS = """
import torch

def clumsy(student_logits, teacher_logits):
    return (student_logits[:, :1] @ teacher_logits).mean()

class Broken(torch.autograd.Function):
    @staticmethod
    def forward(context, value):
        return value.sum()

    @staticmethod
    def backward(context, gradient):
        raise RuntimeError("there is no way back")

def one_way(student_logits):
    return Broken.apply(student_logits)

def fine(student_logits, teacher_logits):
    return (student_logits - teacher_logits).square().mean()

def of_many(student_logits, teacher_logits):
    return (student_logits - teacher_logits).square().mean(1).topk(40).values.mean()

def of_few(student_logits, teacher_logits):
    assert len(student_logits) <= 4, "too many at once"
    return (student_logits - teacher_logits).square().mean()
"""


@pytest.fixture(autouse=True)
def users_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "losses_that_fail.py").write_text(USERS)
    monkeypatch.syspath_prepend(tmp_path)


def another_kind(content: dict[str, Any]) -> None:
    content["teacher"] |= {"model": "kdedge:resnet8-cifar", "arguments": {"width": 4}}


def refused(folder: Path, kind: type[KdedgeError], message: str, change: small_recipes.Change | None = None, **distill: Any) -> None:
    recipe = small_recipes.write(folder, change, distill={**PLAIN, "losses": [CE, KD], **distill})
    with pytest.raises(kind, match=message):
        run(recipe, workspace=folder / "workspace", until="distill")
    assert not list((folder / "workspace" / "stages").glob("teacher.obtain-*"))


@pytest.mark.parametrize(
    ("message", "losses"),
    [
        (r"has no layer `stages\.9`", [CE, {"at": 1000.0, "layers": {"stages.9": "stages.0"}}]),
        (r"teacher `.*` has no layer `stages\.9`", [CE, {"at": 1000.0, "layers": {"stages.0": "stages.9"}}]),
        (r"the loss `crd`: `negatives` is 16384, and the training split has \d+ examples", [CE, {"crd": 0.8, "layers": ["stages.0"]}]),
        (r"the loss term `losses_that_fail:clumsy` failed on student_logits", [CE, {"losses_that_fail:clumsy": 1.0}]),
        (r"the gradient of the loss cannot be computed.*there is no way back", [CE, KD, {"losses_that_fail:one_way": 1.0}]),
        (r"at least two layers", [{"ce": 1.0}, KD, {"byot": 1.0, "layers": ["stages.0"]}]),
    ],
)
def test_losses_that_cannot_be_computed_are_refused_before_a_teacher_is_trained(tmp_path: Path, message: str, losses: list[dict[str, Any]]) -> None:
    refused(tmp_path, TrainingError, message, losses=losses)


@pytest.mark.parametrize("sizes", [{"losses": "of_many", "batch_size": 48}, {"losses": "of_few", "batch_size": 16, "accumulate": 4}])
def test_a_loss_of_the_users_is_tried_with_as_many_examples_as_it_gets(tmp_path: Path, sizes: dict[str, Any]) -> None:
    losses = [CE, {f"losses_that_fail:{sizes['losses']}": 1.0}]
    run(small_recipes.write(tmp_path, distill={**PLAIN, **sizes, "losses": losses}), workspace=tmp_path / "workspace", until="distill")


def test_a_learning_rate_that_never_falls_is_told_once(tmp_path: Path) -> None:
    class Heard(progress.Silent):
        def message(self, text: str) -> None:
            told.append(text)

    told: list[str] = []
    with progress.listening(Heard()):
        distill = {**PLAIN, "warmup_epochs": 5, "losses": [CE, KD], "generations": {"count": 2}}
        run(small_recipes.write(tmp_path, distill=distill), workspace=tmp_path / "workspace", until="distill")
    assert [text for text in told if "warmup" in text] == [
        "in the training of the student (generation 1) `warmup_epochs` is 5 and `epochs` 1: the learning rate rises in every step, "
        "reaches optimizer.lr (0.1) in the last one and never falls"
    ]


def test_a_later_stage_is_looked_at_too(tmp_path: Path) -> None:
    refused(tmp_path, TrainingError, r"has no layer `stages\.9`", stages=[{}, {"losses": [CE, {"at": 1.0, "layers": ["stages.9"]}]}])


def test_layers_that_the_second_generation_does_not_find_in_the_first_are_refused_before_it_is_trained(tmp_path: Path) -> None:
    # The first generation learns from a network of another kind, the second from one of the student's.
    at = {"at": 1000.0, "layers": {"stages.0": "layer1"}}
    refused(tmp_path, TrainingError, r"generation 2: .*has no layer `layer1`", another_kind, losses=[CE, at], generations={"count": 2})


def test_a_network_that_fails_is_refused_before_a_teacher_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets_that_fail.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.layer = torch.nn.Linear(4, 10)\n"
        "    def forward(self, image):\n        return self.layer(image.flatten(1)) if not self.training else self.layer(image)\n"
        "def net(classes=10):\n    return Net()\n"
    )

    def users(content: dict[str, Any]) -> None:
        content["student"] = {"model": "nets_that_fail:net"}

    refused(tmp_path, ModelError, "nets_that_fail:net", users, losses=[CE, KD, {"losses_that_fail:fine": 1.0}])


def sized(width: int, depth: int = 0) -> small_recipes.Change:
    def change(content: dict[str, Any]) -> None:
        content["student"] = {"model": "kdedge:cnn", "arguments": {"width": width, "depth": depth}}

    return change


@pytest.mark.parametrize(
    ("width", "message"),
    [
        (10**8, r"student\.model: model `kdedge:cnn` has \S+ parameters with .*'width': 100000000.*they take \S+ TB.* this machine has \S+ .B"),
        (10**10, r"student\.model: model `kdedge:cnn` cannot be made with .*larger than any memory"),
        (10**30, r"student\.model: model `kdedge:cnn` cannot be made with .*larger than any memory"),
    ],
)
def test_a_network_larger_than_the_memory_is_refused_before_a_teacher_is_trained(tmp_path: Path, width: int, message: str) -> None:
    refused(tmp_path, ModelError, message, sized(width))


def test_a_network_that_fits_alone_and_not_with_its_gradients_is_refused_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Convolutions of 9 x (3 x 4 + 4 x 4 + 4 x 8 + 8 x 16) weights, with the rest about 1,850 numbers of four bytes.
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": 1, "SC_PAGE_SIZE": 8192}.__getitem__)
    refused(tmp_path, ModelError, r"student\.model: .*its gradients as much again.*choose smaller numbers", sized(4))


def test_what_can_be_computed_is_looked_at_once_and_never_where_losses_see_outputs_alone(tmp_path: Path) -> None:
    def looks(**distill: Any) -> int:
        run(small_recipes.write(tmp_path, distill={**PLAIN, **distill}), workspace=tmp_path / "workspace", until="distill")
        return len(list((tmp_path / "workspace" / "stages").glob("rehearsal.rehearse-*")))

    assert [looks(losses=[CE, KD]), looks(losses=[CE, AT]), looks(losses=[CE, AT])] == [0, 1, 1]
    assert looks(losses=[CE, {"losses_that_fail:fine": 1.0}]) == 2


def test_the_step_before_all_training_is_given_no_test_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[PreparedData] = []
    real = Workspace.stage

    def stage(self: Workspace, function: str, *inputs: Any, **more: Any) -> Any:
        if function.endswith(":rehearse"):
            given.extend(each for each in inputs if isinstance(each, PreparedData))
        return real(self, function, *inputs, **more)

    monkeypatch.setattr(Workspace, "stage", stage)
    run(small_recipes.write(tmp_path, distill={**PLAIN, "losses": [CE, AT]}), workspace=tmp_path / "workspace", until="distill")
    assert [(sorted(data.splits), data.calibration) for data in given] == [(["train"], ())]
