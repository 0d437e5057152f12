"""torch module -> onnx_ir graph, by torch's own exporter, quietly."""

from __future__ import annotations

import inspect
import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from kdedge.artifact import Dimension, TensorSpec
from kdedge.errors import ExportError
from kdedge.exporters.model_file import opset_of

#: The newest opset that the oldest supported TensorRT parser reads, and new enough for float16 scales of Q/DQ (19).
OPSET = 20

Feed = Mapping[str, npt.NDArray[Any]]


def trace(module: torch.nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[str], example: Feed, name: str) -> ir.Model:
    """Export `module` (in eval mode) with the varying dimensions of `inputs` by name.

    `example`: one array an input, of sizes within the dimensions; no varying one should be 0 or 1, which torch takes for constants.

    Raises:
        ExportError: torch cannot trace or translate the module, or it gives another opset, other inputs or other outputs than asked for.
    """
    arguments = tuple(torch.from_numpy(np.ascontiguousarray(example[spec.name])) for spec in inputs)
    with quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                module,
                arguments,
                dynamo=True,
                opset_version=OPSET,
                input_names=[spec.name for spec in inputs],
                output_names=list(outputs),
                dynamic_shapes=dynamic_shapes(module, inputs),
                external_data=False,
                verbose=False,
            )
        except (torch.onnx.OnnxExporterError, RuntimeError, TypeError, ValueError) as error:
            raise ExportError(f"student `{name}`: torch cannot export it to ONNX: {root_sentence(error)}") from error
    if program is None:
        raise ExportError(f"student `{name}`: torch's exporter returned nothing")
    model: ir.Model = program.model
    if opset_of(model) != OPSET:
        raise ExportError(
            f"student `{name}`: asked torch for opset {OPSET} and got {opset_of(model)}; kdedge was made for a torch that honours it (2.9 to 2.13)"
        )
    _check_names("input", [value.name for value in model.graph.inputs], [spec.name for spec in inputs], name)
    _check_names("output", [value.name for value in model.graph.outputs], list(outputs), name)
    _check_dimensions(model, inputs, name)
    return model


def dynamic_shapes(module: torch.nn.Module, inputs: Sequence[TensorSpec]) -> tuple[Any, ...]:
    """What `torch.export` wants to know: for each input, axis -> `Dim` (equal names share one), nested as the arguments of `forward` are."""
    dims: dict[str, Any] = {}

    def dim(size: Dimension) -> Any:
        return dims.setdefault(size.name, torch.export.Dim(size.name, min=size.minimum, max=size.maximum))

    shapes = tuple(
        {axis: dim(size) for axis, size in enumerate(spec.shape) if isinstance(size, Dimension) and size.minimum < size.maximum} for spec in inputs
    )
    for place, parameter in enumerate(inspect.signature(module.forward).parameters.values()):
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            return (*shapes[:place], shapes[place:])
    return shapes


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what torch's exporter says to its developers (missing torchvision, deprecations inside torch) for the length of the block."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "torch._dynamo", "torch.fx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    # Where the module cannot be traced, the exporter prints the graph so far to standard error.
    with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _check_names(kind: str, found: Sequence[str | None], wanted: Sequence[str], name: str) -> None:
    if list(found) != list(wanted):
        raise ExportError(f"student `{name}`: the exported graph has the {kind}s {list(found)}, the model declares {list(wanted)}")


def _check_dimensions(model: ir.Model, inputs: Sequence[TensorSpec], name: str) -> None:
    """torch freezes a dimension, without a word, when the model's code turns its size into a Python number."""
    for value, spec in zip(model.graph.inputs, inputs, strict=True):
        for have, want in zip(value.shape or (), spec.shape, strict=False):
            if isinstance(have, int) and isinstance(want, Dimension) and want.minimum < want.maximum:
                raise ExportError(
                    f"student `{name}`: its {want.name} is frozen at {have} in the exported graph, because the model's code uses that size of "
                    f"`{spec.name}` as a number: use it as it comes from `.shape`, without int()"
                )


def root_sentence(error: BaseException) -> str:
    """The first line of the innermost cause that says something, without terminal colours and file names."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__
