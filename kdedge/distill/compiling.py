"""A model through torch.compile, with what a training run promises: the same numbers after a resume, and a sentence where it cannot be compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kdedge.errors import ModelError
from kdedge.models.spec import ModelSpec


def compiled(model: nn.Module, spec: ModelSpec) -> Callable[..., Any]:
    """`model`, compiled when it is first called.

    Batches differ in their size by one, and texts in their length: these sizes are variables from the start, so that a resumed run, which
    begins with another batch, computes with the same code. Dropout draws what it draws without compilation.

    Raises (when called):
        ModelError: there is no C++ compiler, or torch.compile cannot translate the model.
    """
    made = torch.compile(model, options={"fallback_random": True})
    variable = {each.name: [place for place, size in enumerate(each.shape) if not isinstance(size, int)] for each in spec.inputs}

    def run(*tensors: Tensor) -> Any:
        for tensor, places in zip(tensors, variable.values(), strict=True):
            for place in places:
                torch._dynamo.maybe_mark_dynamic(tensor, place)
        try:
            return made(*tensors)
        except torch._dynamo.exc.TorchDynamoException as error:
            why = str(error).strip().splitlines()[0]
            raise ModelError(
                f"model `{spec.name}` cannot be compiled ({why}): install a C++ compiler such as g++, or set `compile: false`"
            ) from error

    return run
