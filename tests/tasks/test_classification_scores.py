from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kdedge.artifact import ImportPath
from kdedge.errors import ModelError
from kdedge.tasks import TASKS
from kdedge.tasks.contract import Task
from kdedge.tasks.image_classification import TASK


@pytest.mark.parametrize("name", list(TASKS))
def test_every_task_goes_by_the_name_that_it_is_listed_under(name: str) -> None:
    task: Task = ImportPath(TASKS[name]).load()
    assert task.name == name
    assert task.metric
    assert task.logits


def test_both_classifications_are_tasks_for_the_type_checker() -> None:
    from kdedge.tasks.text_classification import TASK as TEXTS

    tasks: list[Task] = [TASK, TEXTS]
    assert {(task.metric, task.logits) for task in tasks} == {("accuracy", "logits")}


def test_an_example_scores_one_where_its_largest_logit_is_the_labels() -> None:
    logits = np.array([[1, 2, 0], [3, 2, 0], [0, 0, 1]], np.float32)
    scores = TASK.score({"logits": logits}, np.array([1, 1, 2]))["accuracy"]
    assert (scores.dtype.name, scores.tolist()) == ("float64", [1.0, 0.0, 1.0])


def test_a_nan_never_scores() -> None:
    logits = np.array([[np.nan, 0.0], [0.0, np.nan], [np.nan, np.nan]], np.float32)
    for label in (0, 1):
        assert TASK.score({"logits": logits}, np.array([label] * 3))["accuracy"].tolist() == [0.0] * 3


def test_outputs_of_another_form_are_an_error_that_says_what_they_must_be() -> None:
    with pytest.raises(ModelError, match=r"no output `logits` \(outputs: boxes\)"):
        TASK.score({"boxes": np.zeros((2, 3))}, np.zeros(2, np.int64))
    with pytest.raises(ModelError, match=r"has shape \(3, 2\); for 2 labels it must be \[2, number of classes\]"):
        TASK.score({"logits": np.zeros((3, 2))}, np.zeros(2, np.int64))


def test_the_label_loss_is_minus_the_logarithm_of_the_labels_probability() -> None:
    # softmax([0, ln 3]) = [1/4, 3/4]
    outputs = {"logits": torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])}
    loss = TASK.label_loss(outputs, torch.tensor([0, 1]))
    assert loss.tolist() == pytest.approx([math.log(4), math.log(4 / 3)])


def test_the_label_loss_is_float32_even_from_bfloat16() -> None:
    loss = TASK.label_loss({"logits": torch.tensor([[300.0, -300.0]], dtype=torch.bfloat16)}, torch.tensor([1]))
    assert loss.dtype == torch.float32
    assert loss.tolist() == [600.0]
