"""Hugging Face Accelerate: which device, how many processes, which precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kdedge import ranks
from kdedge.distill.schedule import Moment
from kdedge.errors import MissingExtra, TrainingError

try:
    import torch
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs
except ModuleNotFoundError as missing:
    raise MissingExtra(missing.name or "accelerate", "train", "training") from missing

if TYPE_CHECKING:
    from kdedge.distill.step import Scene, Step


@contextmanager
def accelerated(precision: str) -> Iterator[Accelerator]:
    """An `Accelerator` for one training run in `fp32` or `bf16`; the process group is that of `torchrun` or `accelerate launch`, if any.

    Accelerate keeps one precision a process. A teacher and a student may be trained in different ones, and the caller may use Accelerate for
    something else, so what stood there before is put back at the end.

    Raises:
        TrainingError: several processes were launched, and this one alone came here.
    """
    if ranks.alone():
        raise TrainingError(
            f"{ranks.processes()} processes were launched, and this training is one that they cannot share: start it without torchrun or accelerate"
        )
    before = dict(AcceleratorState._shared_state)
    AcceleratorState._shared_state.clear()
    try:
        # Without `cpu` Accelerate lets each process train for itself on a machine without an accelerator.
        spread_on_cpu = ranks.processes() > 1 and not torch.accelerator.is_available()
        yield Accelerator(
            cpu=spread_on_cpu, mixed_precision="bf16" if precision == "bf16" else "no", kwargs_handlers=[DistributedDataParallelKwargs()]
        )
    finally:
        AcceleratorState._shared_state.clear()
        AcceleratorState._shared_state.update(before)


def expect_idle_parameters(accelerator: Accelerator, step: Step, scene: Scene) -> None:
    """Find out, for several processes that must agree on gradients, whether some parameters get none in some steps: of terms that begin late,
    end early or have no weight for a time, and of layers that the model does not use. `scene` are a few examples."""
    if accelerator.num_processes == 1:
        return
    sometimes = any((term.start, term.stop) != (0.0, 1.0) or min(value for _, value in term.weight.points) <= 0 for term in step.terms)
    accelerator.ddp_handler.find_unused_parameters = sometimes or _some_unused(step, scene)


def _some_unused(step: Step, scene: Scene) -> bool:
    # Batch norm's statistics and the memories of losses move in a forward pass.
    before = {name: buffer.clone() for name, buffer in step.named_buffers()}
    loss, _ = step(scene, Moment(0.0, 0.0))
    trained = [parameter for parameter in step.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(loss, trained, allow_unused=True)
    with torch.no_grad():
        for name, buffer in step.named_buffers():
            buffer.copy_(before[name])
    return any(gradient is None for gradient in found)
