"""Models that come as an ONNX file: what they take and give, and their adoption under the names that the rest of kdedge uses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from kdedge.artifact import Dimension, Encoder, ImageEncoder, ModelFiles, TensorSpec, TextEncoder
from kdedge.errors import MissingExtra, ModelError, TrainingError
from kdedge.models.spec import BATCH, LOGITS, ModelSpec, inputs_of

TOOLS = ("onnx", "onnx-ir")

_TOKEN_TYPES = "token_type_ids"
_LENGTH = (1, 32, 512)


def onnx_specs(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of an ONNX file. Its dynamic dimensions get usual bounds: the file says none.

    Raises:
        ModelError: the file is missing or is not an ONNX file.
        MissingExtra: onnx is not installed.
    """
    graph = _open(path).graph
    return tuple(_spec(value) for value in graph.inputs if not value.is_initializer()), tuple(_spec(value) for value in graph.outputs)


def adopt(spec: ModelSpec, encoder: Encoder, who: str = "the data has", *, folder: Path) -> ModelFiles:
    """Copy an ONNX file to `folder/model.onnx` with its inputs named as the encoder names them and its output named `logits`.

    `who` says whose the classes of the spec are.

    Mean and std, where the recipe gives them, become nodes before the input. The encoder follows the graph: its image size and channels, and
    whether it takes token types.

    Raises:
        ModelError: it is not an ONNX file, or does not take what the encoder gives (float32 NCHW images; int64 ids and mask of any length).
        TrainingError: its class count is not the data's.
    """
    assert spec.onnx is not None
    label = f"model `{spec.name}`"
    model = _open(spec.onnx)
    given = [value for value in model.graph.inputs if not value.is_initializer()]
    specs = [_spec(value) for value in given]
    encoder = _image_encoder(encoder, specs, label) if isinstance(encoder, ImageEncoder) else _text_encoder(encoder, specs, label)
    order = _order([each.name for each in specs], inputs_of(encoder))
    output = _output(model, len(spec.classes), label, who)
    _embed(model, spec.onnx)
    for name, place in order.items():
        _rename(model, given[place], name)
    _rename(model, output, LOGITS)
    model.graph.outputs[:] = [output]
    if spec.normalize is not None:
        _prepend(model, given[0], *spec.normalize)
    path = folder / "model.onnx"
    try:
        _ir().save(model, path)
    except ValueError as error:
        raise ModelError(f"{label}: cannot be written as one ONNX file: {error}") from error
    inputs = tuple(_with_batch(wanted, specs[order[wanted.name]]) for wanted in inputs_of(encoder))
    return ModelFiles(
        name=spec.name,
        factory=None,
        arguments={},
        weights=None,
        onnx=path,
        inputs=inputs,
        outputs=(LOGITS,),
        encoder=encoder,
        classes=spec.classes,
    )


def _ir() -> Any:
    try:
        import onnx
        import onnx_ir
    except ImportError as error:
        raise MissingExtra(str(error.name), "onnx", "reading an ONNX file") from error
    del onnx
    return onnx_ir


def _open(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(f"{path}: there is no such file")
    ir = _ir()
    try:
        model = ir.load(path)
    except Exception as error:  # protobuf's DecodeError, and whatever a broken graph makes of onnx-ir.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise ModelError(f"{path} is not an ONNX file that can be read: {str(cause).strip().partition(chr(10))[0][:200]}") from error
    if not model.graph.outputs or not model.graph.opset_imports:
        raise ModelError(f"{path} is not an ONNX file: it holds no graph with outputs")
    return model


def _spec(value: Any) -> TensorSpec:
    shape: list[int | Dimension] = []
    for axis, size in enumerate(value.shape or ()):
        if isinstance(size, int):
            shape.append(size)
        else:
            name = size.value if isinstance(size.value, str) and size.value else f"{value.name}_{axis}"
            shape.append(replace(BATCH, name=name) if axis == 0 else Dimension(name, *_LENGTH))
    return TensorSpec(value.name, value.dtype.numpy().name if value.dtype is not None else "", tuple(shape))


def _image_encoder(encoder: ImageEncoder, specs: list[TensorSpec], label: str) -> ImageEncoder:
    if len(specs) != 1 or specs[0].dtype != "float32" or len(specs[0].shape) != 4:
        raise ModelError(f"{label} takes {_described(specs)}; an image classifier takes one float32 input [batch, channels, height, width]")
    _, channels, height, width = specs[0].shape
    if isinstance(channels, int) and channels not in (1, 3):
        layout = "; its channels seem to be last" if width in (1, 3) else ""
        raise ModelError(f"{label} takes {_described(specs)}; images have 1 or 3 channels, which stand before height and width{layout}")
    if isinstance(channels, int):
        encoder = replace(encoder, channels=channels)
    size = (height if isinstance(height, int) else encoder.size[0], width if isinstance(width, int) else encoder.size[1])
    return encoder if size == encoder.size else replace(encoder, size=size, resize=max(size))


def _text_encoder(encoder: TextEncoder, specs: list[TensorSpec], label: str) -> TextEncoder:
    if any(each.dtype != "int64" or len(each.shape) != 2 for each in specs) or len(specs) not in (2, 3):
        raise ModelError(f"{label} takes {_described(specs)}; a text classifier takes int64 ids and attention mask [batch, length]")
    if any(isinstance(each.shape[1], int) for each in specs):
        raise ModelError(f"{label} takes texts of exactly {specs[0].shape[1]} tokens; export it with a dynamic length")
    return replace(encoder, input_names=(*encoder.input_names[:2], _TOKEN_TYPES)) if len(specs) == 3 else encoder


def _order(names: list[str], wanted: tuple[TensorSpec, ...]) -> dict[str, int]:
    """Which place among the graph's inputs each wanted name has: by name where all are known, else in order."""
    by_name = {each.name: names.index(each.name) for each in wanted if each.name in names}
    return by_name if len(by_name) == len(wanted) else {each.name: place for place, each in enumerate(wanted)}


def _output(model: Any, classes: int, label: str, who: str) -> Any:
    outputs = list(model.graph.outputs)
    named = [value for value in outputs if value.name == LOGITS] or (outputs if len(outputs) == 1 else [])
    fitting = named or [value for value in outputs if value.shape is not None and len(value.shape) == 2 and value.shape[1] == classes]
    if len(fitting) != 1:
        found = _described([_spec(value) for value in outputs])
        raise ModelError(f"{label} gives {found}: which of them are the logits? Name that output `{LOGITS}`, or leave it alone in the graph")
    spec = _spec(fitting[0])
    if spec.dtype != "float32" or (spec.shape and len(spec.shape) != 2):
        raise ModelError(f"{label} gives {_described([spec])}; logits are float32 [batch, classes]")
    if spec.shape and isinstance(spec.shape[1], int) and spec.shape[1] != classes:
        raise TrainingError(f"{label} gives {spec.shape[1]} classes, {who} {classes}")
    return fitting[0]


def _with_batch(wanted: TensorSpec, own: TensorSpec) -> TensorSpec:
    """What the encoder gives, with the batch of the graph where that is fixed."""
    fixed = own.shape[0]
    return replace(wanted, shape=(fixed, *wanted.shape[1:])) if isinstance(fixed, int) else wanted


def _embed(model: Any, path: Path) -> None:
    """Read side files into the model: it travels as one file. A side file must lie beside its model."""
    ir = _ir()
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            location = PurePosixPath(str(tensor.location))
            if location.is_absolute() or ".." in location.parts:
                raise ModelError(f"{path}: its weights lie in `{location}`, outside its folder; such a file is not read")
            if not (path.parent / location).is_file():
                raise ModelError(f"{path}: its weights lie in `{location}`, which is not there")
    try:
        ir.external_data.load_to_model(model)
    except (ValueError, OSError) as error:
        raise ModelError(f"{path}: its weights in a file beside it cannot be read, is that cut short? ({error})") from error


def _rename(model: Any, value: Any, name: str) -> None:
    if value.name == name:
        return
    for other in _values(model):
        if other is not value and other.name == name:
            other.name = f"{name}_inside"
    value.name = name


def _values(model: Any) -> list[Any]:
    graph = model.graph
    made = [value for node in graph.all_nodes() for value in node.outputs]
    return [*graph.inputs, *graph.initializers.values(), *made]


def _prepend(model: Any, image: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """(image - mean) / std before everything that reads the input."""
    import numpy as np

    ir = _ir()
    uses = list(image.uses())
    constants = []
    for name, numbers in (("image_mean", mean), ("image_std", std)):
        array = np.asarray(numbers, np.float32).reshape(1, -1, 1, 1)
        constant = ir.Value(name=name, const_value=ir.tensor(array, name=name), shape=ir.Shape(array.shape), type=ir.TensorType(ir.DataType.FLOAT))
        model.graph.register_initializer(constant)
        constants.append(constant)
    centred = ir.node("Sub", [image, constants[0]], name="subtract_mean")
    scaled = ir.node("Div", [centred.outputs[0], constants[1]], name="divide_by_std")
    for node, place in uses:
        node.replace_input_with(place, scaled.outputs[0])
    model.graph.extend([centred, scaled])
    model.graph.sort()


def _described(specs: list[TensorSpec]) -> str:
    def shape(spec: TensorSpec) -> str:
        return ", ".join(str(size.name if isinstance(size, Dimension) else size) for size in spec.shape)

    return " and ".join(f"`{spec.name}` {spec.dtype} [{shape(spec)}]" for spec in specs) or "nothing"
