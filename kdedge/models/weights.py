"""Weights between files and modules: safetensors, or checkpoints that hold tensors alone. Nothing is unpickled."""

from __future__ import annotations

import pickle
import re
import warnings
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
        ModelError: lists missing and unexpected names and differing shapes, or a weight that is no number, or an integer where the model has none.
    """
    state = read_weights(path)
    _check_kinds(module, state, path, label)
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ModelError(f"{label}: the weights in {path} do not fit:\n{_differences(module, state) or f'  {error}'}") from error
    broken = [name for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor) and not bool(torch.isfinite(tensor).all())]
    if broken:
        raise ModelError(f"{label}: the weights in {path} hold values that are no finite numbers, in {_first(broken)}")


def _check_kinds(module: nn.Module, state: Mapping[str, Tensor], path: Path, label: str) -> None:
    """torch would cast integers (weights of a quantized model) to floats without their scale, in silence."""
    own = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor) and value.is_floating_point()}
    odd = [f"{name} ({str(state[name].dtype).removeprefix('torch.')})" for name in own if name in state and not state[name].is_floating_point()]
    if odd:
        raise ModelError(f"{label}: the weights in {path} are not floating point, as those of a quantized model: {_first(odd)}")


def save_weights(module: nn.Module, path: Path) -> None:
    """Write a module's state as safetensors: the same state gives the same bytes.

    Raises:
        MissingExtra: safetensors is not installed.
        OSError: the disk is full or cannot be written.
    """
    # Not the library's own `save_file`: on a full disk that raises an error of a class of its own, and leaves half a file behind.
    path.write_bytes(as_safetensors(module.state_dict()))


def as_safetensors(state: Mapping[str, Tensor]) -> bytes:
    """What a file of weights holds: the same for the same values, whatever their device and memory layout. Tied tensors are there twice."""
    tensors = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
    return bytes(_safetensors().save(tensors))


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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on pickle protocols is for whoever wrote the file
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: is no checkpoint of tensors alone, and kdedge runs no code from a file{_would_run(error)}: "
            "save `model.state_dict()` with safetensors.torch.save_file"
        ) from error
    except Exception as error:  # A damaged file makes torch's readers raise nearly anything, often without a word.
        raise ModelError(f"{path}: is not a checkpoint that torch can read ({type(error).__name__}: {_sentence(error)})") from error


def _would_run(error: Exception) -> str:
    """What a checkpoint would have run, as torch's refusal names it (its advice is how to run it after all, which is left out)."""
    found = re.search(r"GLOBAL ([\w.]+)", str(error))
    return f" (this one would run `{found[1]}`)" if found else ""


def _sentence(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or "nothing said"


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
