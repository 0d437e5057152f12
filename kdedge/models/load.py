"""From a spec or from files to a model that can be called."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdedge.artifact import Dimension, ModelFiles, TensorSpec
from kdedge.errors import KdedgeError, ModelError, TrainingError
from kdedge.models.normalize import Normalize
from kdedge.models.size import check_size
from kdedge.models.spec import LOGITS, ModelSpec, spec_of
from kdedge.models.weights import fill, save_weights

TOOLS = ("torch", "safetensors")


class Model(nn.Module):
    """Any module as kdedge calls it: tensors in the order of `ModelSpec.inputs` in, a dict of outputs by name out.

    `inner` is what the factory made; mean and std come before it, on the first input. Its state is the inner module's under the inner
    names, so that weights fit the same network elsewhere.
    """

    def __init__(self, inner: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.inner = inner
        self.normalize = Normalize(*spec.normalize) if spec.normalize is not None else None
        self._label = spec.name
        names = [each.name for each in spec.inputs]
        # A forward that knows the inputs by name gets them so: not every text model takes ids and mask in this order.
        self._names = names if set(names) <= set(inspect.signature(inner.forward).parameters) else None

    def forward(self, *tensors: Tensor) -> dict[str, Tensor]:
        """Outputs by name; `logits` are [N, classes].

        Raises:
            ModelError: the inner module gives something that holds no logits.
        """
        if self.normalize is not None:
            tensors = (self.normalize(tensors[0]), *tensors[1:])
        given = self.inner(*tensors) if self._names is None else self.inner(**dict(zip(self._names, tensors, strict=True)))
        return {LOGITS: _logits(given, self._label)}

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The inner module's state: mean and std are part of the recipe, not of the weights."""
        return self.inner.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the inner module's state."""
        return self.inner.load_state_dict(state_dict, strict=strict, assign=assign)


def build(spec: ModelSpec) -> Model:
    """Make the model that a spec names: with its weights, or freshly initialised from torch's global random state.

    Raises:
        ModelError: it is an ONNX file, the factory fails, it does not fit into the memory, or the weights do not fit.
    """
    model = Model(_construct(spec), spec)
    if spec.weights is not None:
        fill(model, spec.weights, f"model `{spec.name}`")
    return model


def load(files: ModelFiles) -> Model:
    """Make a model again from its files.

    Raises:
        ModelError: as `build`.
    """
    return build(spec_of(files))


def to_files(spec: ModelSpec, module: nn.Module, folder: Path) -> ModelFiles:
    """Write a model's weights to `folder/model.safetensors` and say how to build it again."""
    weights = folder / "model.safetensors"
    save_weights(module, weights)
    return files_of(spec, weights, module)


def files_of(spec: ModelSpec, weights: Path, module: nn.Module) -> ModelFiles:
    """How to build `module`, which `spec` made, again: with the weights that were written."""
    return ModelFiles(
        name=spec.name,
        factory=spec.factory,
        arguments=spec.arguments,
        weights=weights,
        onnx=None,
        inputs=spec.inputs,
        outputs=spec.outputs,
        encoder=spec.encoder,
        classes=spec.classes,
        normalize=spec.normalize,
        parameters=count_parameters(module),
    )


def check_classes(model: Model, spec: ModelSpec, who: str = "the data has") -> None:
    """Run a model on two plain inputs: it must give logits for as many classes as the spec names. `who` says whose classes those are.

    Raises:
        ModelError: it cannot be run on its inputs, or its output has another form.
        TrainingError: it gives another number of classes; names both.
    """
    training = model.training
    inputs = [_example(each) for each in spec.inputs]
    try:
        with torch.no_grad():
            logits = model.eval()(*inputs)[LOGITS]
    except KdedgeError:
        raise
    except (Exception, SystemExit) as error:  # The model may be anybody's code, and each has its own way to refuse a size.
        shapes = ", ".join(f"{each.name} {list(tensor.shape)}" for each, tensor in zip(spec.inputs, inputs, strict=True))
        raise ModelError(f"model `{spec.name}` cannot be run on {shapes}: {_said(error)}") from error
    model.train(training)
    if logits.ndim != 2:
        raise ModelError(f"model `{spec.name}` gives logits of shape {list(logits.shape)}; a distribution over classes is [examples, classes]")
    if logits.shape[1] != len(spec.classes):
        raise TrainingError(f"model `{spec.name}` gives {logits.shape[1]} classes, {who} {len(spec.classes)} ({', '.join(spec.classes[:10])})")


def count_parameters(module: nn.Module) -> int:
    """Trainable and frozen scalars; buffers (running statistics) do not count, shared weights count once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _said(error: BaseException) -> str:
    return f"it asked Python to exit ({error.code})" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"


def _construct(spec: ModelSpec) -> nn.Module:
    if spec.factory is None:
        raise ModelError(f"model `{spec.name}` is an ONNX file: a runtime opens it, it cannot be built as a torch module")
    check_size(spec)
    try:
        inner = spec.factory.load()(**spec.arguments)
    except (KdedgeError, ModuleNotFoundError):
        raise
    except (Exception, SystemExit) as error:  # The factory may be anybody's code.
        raise ModelError(f"model `{spec.name}`: `{spec.factory.value}` failed with {spec.arguments}: {_said(error)}") from error
    if not isinstance(inner, nn.Module):
        raise ModelError(f"model `{spec.name}`: `{spec.factory.value}` made a {type(inner).__name__}, not a torch.nn.Module")
    odd = [name for name, value in inner.state_dict().items() if not isinstance(value, Tensor)]
    if odd:
        raise ModelError(f"model `{spec.name}`: its state holds `{odd[0]}`, which is no tensor: weights are kept as tensors alone")
    return inner


def _logits(given: Any, label: str) -> Tensor:
    found = given
    if isinstance(given, Mapping) and LOGITS in given:
        found = given[LOGITS]
    elif isinstance(given, Mapping) and len(given) == 1:
        found = next(iter(given.values()))
    elif hasattr(given, LOGITS):
        found = given.logits
    elif isinstance(given, tuple | list) and given:
        found = given[0]
    if not isinstance(found, Tensor):
        has = f" with {', '.join(map(str, given))}" if isinstance(given, Mapping) else ""
        raise ModelError(
            f"model `{label}` gives a {type(given).__name__}{has}: it must give logits as a tensor, first in a tuple, or under `{LOGITS}`"
        )
    return found


def _example(spec: TensorSpec) -> Tensor:
    """Two examples of the usual size: black images, or texts of the token 0."""
    shape = [2, *(size.typical if isinstance(size, Dimension) else size for size in spec.shape[1:])]
    return torch.zeros(shape) if spec.dtype == "float32" else torch.ones(shape, dtype=torch.int64) * ("mask" in spec.name)
