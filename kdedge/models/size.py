"""How much memory a model of kdedge's own takes, known without making it: an absurd width is a sentence, not the end of the process."""

from __future__ import annotations

import os

import torch
from torch import nn

from kdedge.errors import ModelError
from kdedge.models.ranges import RANGES
from kdedge.models.spec import ModelSpec


def check_size(spec: ModelSpec, *, learns: bool = False) -> None:
    """See that a model of kdedge's own fits into this machine's memory; of any other nothing is known. `learns`: it is going to be trained, for which
    its gradients take as much again, unless an accelerator holds them.

    Raises:
        ModelError: it does not fit; says how large it would be.
    """
    if spec.factory is None or spec.factory.value not in RANGES:
        return
    factory = spec.factory.load()  # outside of the block: what a module makes when it is imported must be real
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            model = factory(**spec.arguments)
    except Exception as error:
        if not isinstance(error, RuntimeError | TypeError) or "overflow" not in str(error).lower():
            return  # it is told when the model is built
        raise ModelError(f"model `{spec.name}` cannot be made with {spec.arguments}: it is larger than any memory; choose smaller numbers") from error
    taken, memory = bytes_of(model), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    copies = 2 if learns and not torch.accelerator.is_available() else 1
    if copies * taken > memory:
        twice = f" and its gradients as much again (together {_gigabytes(copies * taken)})" if copies > 1 else ""
        count = sum(parameter.numel() for parameter in model.parameters())
        raise ModelError(
            f"model `{spec.name}` has {count:.3g} parameters with {spec.arguments}: they take {_gigabytes(taken)}{twice}, and this machine has "
            f"{_gigabytes(memory)} of memory; choose smaller numbers"
        )


def bytes_of(model: nn.Module) -> int:
    """What the state of a model takes; shared tensors count once."""
    return sum(tensor.numel() * tensor.element_size() for tensor in (*model.parameters(), *model.buffers()))


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.3g} GB" if size < 1e12 else f"{size / 1e12:,.3g} TB"
