"""Running a float model over a split, in this process: torch modules, and ONNX files through the runtime's adapter. For references only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kdedge import progress
from kdedge.artifact import ModelFiles
from kdedge.data.encode import encode
from kdedge.data.examples import Examples
from kdedge.errors import KdedgeError, MissingExtra, ModelError
from kdedge.runtimes.errors import NotAvailable, RuntimeFailure
from kdedge.tasks.prepare import grouped

Array = npt.NDArray[Any]
Run = Callable[[dict[str, Array]], Mapping[str, Array]]

_BATCH = 128


def model_outputs(files: ModelFiles, examples: Examples, what: str) -> dict[str, Array]:
    """Every output of a model over all examples in their order, float32 where it is floating point; `what` names it in progress.

    Texts are padded as the artifacts' inputs are (same groups, same lengths), so that both see the same arrays. An output whose shape
    depends on that length is left out: it is no array over the split.

    Raises:
        ModelError: the model cannot be loaded or run.
        MissingExtra: torch or ONNX Runtime is not installed.
    """
    run, batch = _torch_run(files) if files.onnx is None else _onnx_run(files)
    found: dict[str, Array] = {}
    uneven: set[str] = set()
    done = 0
    for indices, length in grouped(files.encoder, examples):
        for start in range(0, len(indices), batch):
            chosen = indices[start : start + batch]
            outputs = _run_whole(run, encode(files.encoder, examples.raw(chosen), length), batch, len(chosen), fixed=_fixed_batch(files) is not None)
            for name, values in outputs.items():
                _place(found, uneven, name, values, chosen, len(examples), files.name)
            done += len(chosen)
            progress.advance(what, done, len(examples))
    return {name: values for name, values in found.items() if name not in uneven}


def _place(found: dict[str, Array], uneven: set[str], name: str, values: Array, chosen: npt.NDArray[np.int64], size: int, model: str) -> None:
    if len(values) != len(chosen):
        raise ModelError(f"model `{model}`: output `{name}` has {len(values)} rows for a batch of {len(chosen)} examples")
    kind = np.float32 if values.dtype.kind == "f" else values.dtype
    whole = found.setdefault(name, np.empty((size, *values.shape[1:]), kind))
    if whole.shape[1:] != values.shape[1:]:
        uneven.add(name)
    else:
        whole[chosen] = values


def _run_whole(run: Run, inputs: dict[str, Array], batch: int, rows: int, *, fixed: bool) -> dict[str, Array]:
    """One batch; where the graph's batch is fixed, a short one is filled up with its last example and cut afterwards."""
    if not fixed or rows == batch:
        return dict(run(inputs))
    filled = {name: np.concatenate([values, np.repeat(values[-1:], batch - rows, axis=0)]) for name, values in inputs.items()}
    return {name: values[:rows] for name, values in run(filled).items()}


def _fixed_batch(files: ModelFiles) -> int | None:
    first = files.inputs[0].shape[0] if files.onnx is not None and files.inputs and files.inputs[0].shape else None
    return first if isinstance(first, int) else None


def _torch_run(files: ModelFiles) -> tuple[Run, int]:
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtra("torch", "train", f"running model `{files.name}`") from error
    from kdedge.models.load import load

    model = load(files).float().eval()
    names = [spec.name for spec in files.inputs]

    def run(inputs: dict[str, Array]) -> Mapping[str, Array]:
        try:
            given = [torch.from_numpy(inputs[name]) for name in names]
        except KeyError as error:
            raise _missing_input(files, error, inputs) from error
        try:
            with torch.inference_mode():
                outputs = model(*given)
        except KdedgeError:
            raise
        except Exception as error:  # the model may be anybody's code
            raise ModelError(f"model `{files.name}` cannot be run: {type(error).__name__}: {_first_line(error)}") from error
        return {name: value.float().numpy() if value.is_floating_point() else value.numpy() for name, value in outputs.items()}

    return run, _BATCH


def _onnx_run(files: ModelFiles) -> tuple[Run, int]:
    from kdedge.runtimes import onnxruntime

    try:
        session = onnxruntime.open_session([str(files.onnx)], {})
    except NotAvailable as error:
        raise MissingExtra("onnxruntime", "onnx", f"running model `{files.name}`") from error
    except RuntimeFailure as error:
        raise ModelError(f"model `{files.name}` ({files.onnx}) cannot be opened: {error}") from error
    kinds = {spec.name: spec.dtype for spec in files.inputs}

    def run(inputs: dict[str, Array]) -> Mapping[str, Array]:
        try:
            given = {name: np.ascontiguousarray(inputs[name], dtype=kind) for name, kind in kinds.items()}
        except KeyError as error:
            raise _missing_input(files, error, inputs) from error
        try:
            return session.run(given)
        except Exception as error:  # the runtime's own classes are known only where it is imported
            raise ModelError(f"model `{files.name}` cannot be run: {_first_line(error)}") from error

    return run, _fixed_batch(files) or _BATCH


def _missing_input(files: ModelFiles, error: KeyError, inputs: Mapping[str, Array]) -> ModelError:
    return ModelError(f"model `{files.name}` takes an input {error}, which its encoder does not give (it gives {', '.join(inputs)})")


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
