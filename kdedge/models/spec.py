"""What a model is before it is built, and what its inputs look like. Light: no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdedge.artifact import Dimension, Encoder, ImageEncoder, ImportPath, ModelFiles, TensorSpec

# The output that holds a distribution over classes [n, classes], float32, before softmax.
LOGITS = "logits"
BATCH = Dimension("batch", 1, 8, 64)


@dataclass(frozen=True)
class ModelSpec:
    """A model as a recipe names it, ready to be built: the fields are those of `ModelFiles`, made before there are files.

    `factory` is called with `arguments` and returns an `nn.Module`; `weights` are loaded into it, or it starts fresh when there are none.
    For an ONNX file `onnx` is set, `factory` is None, and `inputs` and `outputs` stay empty until `kdedge.models.given.take` has read it.
    """

    name: str
    factory: ImportPath | None
    arguments: dict[str, Any]
    weights: Path | None
    onnx: Path | None
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | None
    encoder: Encoder
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    classes: tuple[str, ...]


def spec_of(files: ModelFiles) -> ModelSpec:
    """The spec that builds a model from its files again."""
    return ModelSpec(
        name=files.name,
        factory=files.factory,
        arguments=files.arguments,
        weights=files.weights,
        onnx=files.onnx,
        normalize=files.normalize,
        encoder=files.encoder,
        inputs=files.inputs,
        outputs=files.outputs,
        classes=files.classes,
    )


def inputs_of(encoder: Encoder) -> tuple[TensorSpec, ...]:
    """What an encoder gives: images float32 [batch, channels, height, width]; ids and mask int64 [batch, length]."""
    if isinstance(encoder, ImageEncoder):
        return (TensorSpec(encoder.input_name, "float32", (BATCH, encoder.channels, *encoder.size)),)
    length = Dimension("length", 1, min(32, encoder.max_length), encoder.max_length)
    return tuple(TensorSpec(name, "int64", (BATCH, length)) for name in encoder.input_names)
