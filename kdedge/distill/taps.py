"""Looking inside a model: what its layers give, by dotted module name, without a change to the model."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from kdedge.distill.layers import TapPath, read_path
from kdedge.errors import TrainingError


class Taps:
    """Keeps what layers of `module` gave in the last forward pass, by the texts that name them (`read_path`). Close it to remove its hooks.

    A layer that runs several times in a pass gives what it gave last. `whose` is what errors call the model.

    Raises:
        TrainingError: there is no layer of that name (with the nearest ones).
    """

    def __init__(self, module: nn.Module, layers: Iterable[str], whose: str) -> None:
        self._whose = whose
        self._found: dict[str, Tensor] = {}
        self._handles: list[Any] = []
        self._as_they_are: set[str] = set()
        known = dict(module.named_modules())
        for layer in dict.fromkeys(layers):
            path = read_path(layer)
            if path.module not in known:
                near = difflib.get_close_matches(path.module, known, n=3)
                raise TrainingError(
                    f"{whose} has no layer `{path.module}`"
                    + (f"; nearest: {', '.join(near)}" if near else "")
                    + " (`kdedge doctor RECIPE --taps` lists what can be tapped)"
                )
            if path.element is not None or isinstance(known[path.module], nn.Softmax):
                self._as_they_are.add(layer)
            self._handles.append(known[path.module].register_forward_hook(self._hook(layer, path)))

    def take(self, layer: str, form: str) -> Tensor:
        """What `layer` gave in the last pass, in one of the forms of `kdedge.distill.layers`.

        Raises:
            TrainingError: the layer did not run, or its tensor cannot take that form.
        """
        if layer not in self._found:
            raise TrainingError(f"layer `{layer}` of {self._whose} did not run in the forward pass: tap a layer that does")
        return in_form(self._found[layer], form, f"layer `{layer}` of {self._whose}", as_it_is=layer in self._as_they_are)

    def clear(self) -> None:
        """Forget the last pass, so that nothing of it is kept alive."""
        self._found.clear()

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self.clear()

    def __enter__(self) -> Taps:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _hook(self, layer: str, path: TapPath) -> Any:
        def keep(module: nn.Module, given: Any, made: Any) -> None:
            if path.element is not None:
                if not isinstance(made, tuple | list) or len(made) <= path.element:
                    raise TrainingError(f"layer `{layer}` of {self._whose} gives a {type(made).__name__}, which has no element {path.element}")
                made = made[path.element]
            if not isinstance(made, Tensor):
                shown = (
                    f"a {type(made).__name__}" if made is not None else "nothing (a fused attention keeps no maps; load the model with the eager one)"
                )
                raise TrainingError(
                    f"layer `{layer}` of {self._whose} gives {shown}: a tap needs a tensor; name an element of a tuple as `{layer}[0]`"
                )
            self._found[layer] = made

        return keep


def in_form(tensor: Tensor, form: str, what: str, *, as_it_is: bool = False) -> Tensor:
    """`feature`: as it is. `pooled`: [N, C], the mean over space ([N, C, H, W]) or tokens ([N, L, C]). `attention`: [N, H, W], the mean over
    channels of the square (Zagoruyko and Komodakis 2017, section 3.1); with `as_it_is` the tensor holds attention maps already.

    Raises:
        TrainingError: the tensor has too few dimensions; `what` names it.
    """
    if form == "feature" or (form == "attention" and as_it_is):
        return tensor
    if form == "pooled":
        if tensor.ndim == 4:
            return tensor.mean((2, 3))
        if tensor.ndim == 3:
            return tensor.mean(1)
        if tensor.ndim == 2:
            return tensor
    elif tensor.ndim == 4:
        return tensor.float().square().mean(1)
    needed = "[N, C, H, W]" if form == "attention" else "[N, C, H, W], [N, L, C] or [N, C]"
    raise TrainingError(f"{what} gives {list(tensor.shape)}, and `{form}` needs {needed}")


@torch.no_grad()
def shapes_of(module: nn.Module, inputs: Iterable[Tensor], whose: str) -> dict[str, tuple[int, ...]]:
    """What can be tapped: the shape that each layer gives for `inputs`, by its name, in the order in which the layers run."""
    found: dict[str, tuple[int, ...]] = {}

    def keep(name: str) -> Any:
        def note(layer: nn.Module, given: Any, made: Any) -> None:
            if isinstance(made, Tensor):
                found[name] = tuple(made.shape)
            elif isinstance(made, tuple | list):
                found.update({f"{name}[{place}]": tuple(each.shape) for place, each in enumerate(made) if isinstance(each, Tensor)})

        return note

    handles = [layer.register_forward_hook(keep(name)) for name, layer in module.named_modules() if name]
    training = module.training
    try:
        module.eval()(*inputs)
    finally:
        module.train(training)
        for handle in handles:
            handle.remove()
    return found
