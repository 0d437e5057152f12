"""Do gradients reach what is to learn, and nothing else?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdedge.distill.doctor import Finding


@dataclass(frozen=True)
class Flow:
    """The parameters of one part after a backward pass: all, those that are frozen, and those that should have got a gradient but did not."""

    whose: str
    parameters: tuple[str, ...]
    frozen: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


def gradient_flow(flows: Sequence[Flow], *, goes_on: bool = False) -> Finding:
    """The student, its peers and the trained parts of the losses. `goes_on`: another stage trains the same student further, so that this one
    need not reach all of it (hints reach the layers below the hint alone)."""
    figures = {flow.whose: {"parameters": len(flow.parameters), "frozen": list(flow.frozen), "without": list(flow.without)} for flow in flows}
    dead = [flow for flow in flows if len(flow.without) + len(flow.frozen) == len(flow.parameters)]
    if dead:
        names = " and ".join(flow.whose for flow in dead)
        return Finding(
            "error", "gradients", f"no gradient reaches any parameter of {names}", "every parameter is frozen or unused by the losses", figures
        )
    missed = [f"{len(flow.without)} of {len(flow.parameters)} tensors of {flow.whose} ({_some(flow.without)})" for flow in flows if flow.without]
    if missed and goes_on:
        said = f"in this stage no gradient reaches {'; '.join(missed)}"
        return Finding("note", "gradients", said, "fine where a later stage trains them", figures)
    if missed:
        return Finding(
            "warning",
            "gradients",
            f"no gradient reaches {'; '.join(missed)}: they keep the values that they begin with",
            "they are no part of what the losses see: is a branch of the model unused, or its output detached?",
            figures,
        )
    frozen = [f"{len(flow.frozen)} of {len(flow.parameters)} tensors of {flow.whose} ({_some(flow.frozen)})" for flow in flows if flow.frozen]
    if frozen:
        return Finding(
            "note", "gradients", f"frozen, and never trained: {'; '.join(frozen)}", "fine where it is meant (`requires_grad_(False)`)", figures
        )
    return Finding("ok", "gradients", f"gradients reach every parameter of {' and '.join(flow.whose for flow in flows)}", figures=figures)


@dataclass(frozen=True)
class Steadiness:
    """How a teacher answers: `repeats`: the same batch twice, the same bits; `alone`: the largest difference of its logits where an example is
    asked about in another batch, as a share of their spread; `unchanged`: the same bits after a training step of the student; `gradient`: its
    answers lead a gradient back to it; `shares`: parameters of the student are its own."""

    repeats: bool
    alone: float
    unchanged: bool
    gradient: bool
    shares: bool


# Kernels may sum in another order for another batch size; batch statistics move logits by far more.
_ROUNDING = 1e-2


def teacher_steadiness(found: Steadiness) -> Finding:
    """Whether a teacher is in eval, frozen, and apart from the student."""
    figures = {"repeats": found.repeats, "alone": found.alone, "unchanged": found.unchanged, "gradient": found.gradient, "shares": found.shares}
    if found.shares:
        return Finding(
            "error",
            "teacher mode",
            "the student shares parameters with its teacher",
            "a factory must build a new model each time that it is called",
            figures,
        )
    if found.gradient:
        return Finding("error", "teacher mode", "a gradient leads from the loss into the teacher", "detach what the teacher's code gives", figures)
    if not found.repeats:
        return Finding(
            "error",
            "teacher mode",
            "the teacher gives two answers to one batch: something in it is random even in eval",
            "its code draws without asking `self.training` (such as F.dropout(x), which is on by default): pass training=self.training",
            figures,
        )
    if not found.unchanged:
        return Finding(
            "error",
            "teacher mode",
            "the teacher's answers changed with a training step of the student",
            "they share buffers or modules: build both anew",
            figures,
        )
    if found.alone > _ROUNDING:
        return Finding(
            "warning",
            "teacher mode",
            f"the teacher's answer about an example depends on the others in its batch (by {found.alone:.2g} of the spread of its logits)",
            "it normalises by the batch even in eval: use running statistics, else what is cached of it is not what it says in training",
            figures,
        )
    return Finding("ok", "teacher mode", "the teacher is in eval, gets no gradient, and answers the same bits after a training step", figures=figures)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
