"""How weights are updated: optimizers with their parameter groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn

from kdedge.recipe import OptimizerSection, TrainSection


def build_optimizer(model: nn.Module, section: OptimizerSection) -> torch.optim.Optimizer:
    """SGD or AdamW over the trainable parameters of `model`; norms and biases (at most one dimension) are not decayed."""
    groups = [group for group in _groups(model.named_parameters(), section.weight_decay) if group["params"]]
    if section.name == "adamw":
        return torch.optim.AdamW(groups, lr=section.lr, fused=True)
    nesterov = section.nesterov and section.momentum > 0
    optimizer = torch.optim.SGD(groups, lr=section.lr, momentum=section.momentum, nesterov=nesterov, fused=True)
    if section.momentum > 0:
        # Momentum begins at 0, as it does anyway; the fused kernel cannot begin with it for some parameters later than for others.
        for parameter in (each for group in optimizer.param_groups for each in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """The learning rate of the next step, for all groups."""
    for group in optimizer.param_groups:
        group["lr"] = value


def learning_rate(section: TrainSection, step: int, steps_per_epoch: int) -> float:
    """The learning rate of step `step` (from 0): linear warm-up to `optimizer.lr`, then the schedule.

    `cosine` falls to 0 at the end of the run (Loshchilov and Hutter 2017, eq. 5, without restarts); `multistep` multiplies by `gamma` at each
    milestone, a fraction of the run.
    """
    total = section.epochs * steps_per_epoch
    warmup = min(round(section.warmup_epochs * steps_per_epoch), total)
    base = section.optimizer.lr
    if step < warmup:
        return base * (step + 1) / warmup
    if section.schedule == "cosine":
        return base * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
    if section.schedule == "multistep":
        return float(base * section.gamma ** sum(step >= round(total * place) for place in section.milestones))
    return base


def _groups(parameters: Iterable[tuple[str, nn.Parameter]], decay: float) -> list[dict[str, object]]:
    trained = [parameter for _, parameter in parameters if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": decay},
        {"params": [parameter for parameter in trained if parameter.ndim <= 1], "weight_decay": 0.0},
    ]
