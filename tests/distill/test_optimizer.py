from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from kdedge.distill.average import Average
from kdedge.distill.optimizer import build_optimizer, learning_rate, set_learning_rate
from kdedge.recipe import OptimizerSection, TrainSection


def _rates(epochs: int, steps_per_epoch: int, **section: Any) -> list[float]:
    train = TrainSection(epochs=epochs, optimizer=OptimizerSection(lr=1.0), **section)
    return [learning_rate(train, step, steps_per_epoch) for step in range(epochs * steps_per_epoch)]


def test_cosine_falls_from_the_learning_rate_towards_zero_step_by_step() -> None:
    assert _rates(2, 2, schedule="cosine") == pytest.approx([1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2])


def test_warmup_rises_in_equal_steps_and_the_schedule_starts_after_it() -> None:
    assert _rates(4, 2, schedule="cosine", warmup_epochs=2) == pytest.approx(
        [0.25, 0.5, 0.75, 1.0, 1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2]
    )


def test_milestones_are_fractions_of_the_run() -> None:
    assert _rates(4, 2, schedule="multistep", milestones=(0.5, 0.75), gamma=0.1) == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_constant_stays() -> None:
    assert _rates(2, 3, schedule="constant") == [1.0] * 6


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_norms_and_biases_are_not_decayed_and_frozen_parameters_not_trained(name: Any) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(2, 2))
    model[2].weight.requires_grad_(False)
    optimizer = build_optimizer(model, OptimizerSection(name=name, weight_decay=0.3))
    decayed, free = optimizer.param_groups
    assert [id(parameter) for parameter in decayed["params"]] == [id(model[0].weight)]
    assert {id(parameter) for parameter in free["params"]} == {id(model[0].bias), id(model[1].weight), id(model[1].bias), id(model[2].bias)}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)


def test_the_learning_rate_of_a_step_reaches_all_groups() -> None:
    optimizer = build_optimizer(nn.Linear(2, 2), OptimizerSection())
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]


def test_nesterov_without_momentum_is_plain_descent() -> None:
    layer = nn.Linear(1, 1, bias=False)
    optimizer = build_optimizer(layer, OptimizerSection(lr=0.5, momentum=0.0, weight_decay=0.0))
    before = layer.weight.item()
    layer(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    assert layer.weight.item() == pytest.approx(before - 0.5)


def test_the_average_holds_parameters_and_batch_statistics_and_starts_fast() -> None:
    model = nn.BatchNorm1d(1)
    average = Average(model, decay=0.5)
    with torch.no_grad():
        model.weight.fill_(11.0)
        model.running_mean.fill_(20.0)  # type: ignore[union-attr]
        model.num_batches_tracked.fill_(7)  # type: ignore[union-attr]
    average.update(step=0)  # decay 1/10: weight 1 -> 0.1 * 1 + 0.9 * 11
    assert average.state["weight"].item() == pytest.approx(10.0)
    assert average.state["running_mean"].item() == pytest.approx(18.0)
    assert average.state["num_batches_tracked"].item() == 7
    average.update(step=1000)  # decay 0.5: 10 -> (10 + 11) / 2
    assert average.state["weight"].item() == pytest.approx(10.5)
