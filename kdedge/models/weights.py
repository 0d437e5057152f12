"""Weights between files and modules: safetensors, or checkpoints that hold tensors alone. Nothing is unpickled."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdedge.errors import MissingExtra, ModelError

# Where checkpoints keep their weights, and what wrappers put before every name.
_KEYS = ("state_dict", "model_state_dict", "model", "net", "weights", "params", "state_dict_ema", "model_ema")
_PREFIXES = ("module.", "_orig_mod.")
_SHOWN = 10


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU, without the prefixes of DataParallel and torch.compile.

    Raises:
        ModelError: the file is neither safetensors nor a checkpoint of tensors alone, or it holds no weights.
        MissingExtra: safetensors is not installed.
    """
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file of weights")
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _state(_read_checkpoint(path))
    if not state:
        raise ModelError(f"{path}: holds no weights (looked for tensors by name, alone or under {', '.join(_KEYS)})")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def fill(module: nn.Module, path: Path, label: str) -> None:
    """Load weights into a module: every name and shape must fit.

    Raises:
        ModelError: lists missing and unexpected names and differing shapes, or a weight that is no number.
    """
    state = read_weights(path)
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ModelError(f"{label}: the weights in {path} do not fit:\n{_differences(module, state) or f'  {error}'}") from error
    broken = [name for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor) and not bool(torch.isfinite(tensor).all())]
    if broken:
        raise ModelError(f"{label}: the weights in {path} hold values that are no finite numbers, in {_first(broken)}")


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's state as safetensors: the same state gives the same bytes.

    Raises:
        MissingExtra: safetensors is not installed.
    """
    # Tensors that share memory (tied weights) are written each for itself: safetensors refuses views.
    state = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in module.state_dict().items()}
    _safetensors().save_file(state, path)


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise MissingExtra("safetensors", "train", "reading and writing weights") from error
    return safetensors.torch


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    library = _safetensors()
    try:
        return dict(library.load_file(path))
    except Exception as error:  # The library's own error class is not an OSError and moved between versions.
        raise ModelError(f"{path}: is not a safetensors file that can be read: {error}") from error


def _read_checkpoint(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: is no checkpoint of tensors alone, and kdedge runs no code from a file: "
            f"save `model.state_dict()` with safetensors.torch.save_file (torch says: {_sentence(error)})"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: is not a checkpoint that torch can read: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _state(checkpoint: Any) -> dict[str, Tensor]:
    if not isinstance(checkpoint, Mapping):
        return {}
    for name in _KEYS:
        inside = checkpoint.get(name)
        if isinstance(inside, Mapping) and any(isinstance(value, Tensor) for value in inside.values()):
            return _tensors(inside)
    return _tensors(checkpoint)


def _tensors(mapping: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {str(name): value for name, value in mapping.items() if isinstance(value, Tensor)}


def _differences(module: nn.Module, state: Mapping[str, Tensor]) -> str:
    own = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
    shapes = [
        f"{name}: {list(state[name].shape)} in the file, {list(own[name].shape)} in the model"
        for name in own
        if name in state and own[name].shape != state[name].shape
    ]
    lines = [
        f"  {what}: {_first(names)}"
        for what, names in (
            ("missing in the file", [name for name in own if name not in state]),
            ("unknown to the model", [name for name in state if name not in own]),
            ("of another shape", shapes),
        )
        if names
    ]
    return "\n".join(lines)


def _first(names: Iterable[str]) -> str:
    found = list(names)
    rest = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + rest
