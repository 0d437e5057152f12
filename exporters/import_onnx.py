"""A student that was given as an ONNX file: checked, cleaned, made dynamic, and from then on treated like one that was exported here.

What it must be: float32, standard operators, the inputs and outputs that the recipe's model declares. What is repaired, with proof that outputs stay
the same: an opset below 17, and a batch size that was baked in when it was exported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from kdedge.artifact import Dimension, FloatGraph, ModelFiles, PreparedData, TensorSpec
from kdedge.errors import ExportError
from kdedge.exporters.equivalence import TOLERANCE, difference, run
from kdedge.exporters.examples import Feed, example_feeds, sizes_to_check
from kdedge.exporters.float_graph import count_parameters, simplify, write_float_graph
from kdedge.exporters.model_file import constant, drop_weights_from_inputs, infer_shapes, load_model, opset_of, tidy
from kdedge.exporters.naming import ensure_names, strip
from kdedge.exporters.opset import raise_opset

#: Older graphs are raised to `RAISED_OPSET`, the one that this package's own exports have.
MINIMUM_OPSET, RAISED_OPSET = 17, 20

#: The batch sizes of a graph whose own batch was fixed.
BATCH = Dimension("batch", 1, 8, 64)

_FLOAT_ONLY = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul")


def import_onnx(student: ModelFiles, data: PreparedData | None, path: Path) -> FloatGraph:
    """Read `student.onnx`, and write it to `path` as a float graph with a dynamic batch.

    Raises:
        ExportError: it is not an ONNX file, breaks the specification, is not float32, has other inputs or outputs, or cannot be made dynamic.
    """
    if student.onnx is None:
        raise ExportError(f"student `{student.name}` is no ONNX file")
    if student.normalize is not None:
        raise ExportError(
            f"student `{student.name}`: mean and std must be nodes of its ONNX file; `kdedge.models.onnx_file.adopt` writes them into it"
        )
    name = student.onnx.name
    original = load_model(student.onnx)
    _check_valid(original, name)
    drop_weights_from_inputs(original)
    _check_float(original, name)
    _check_interface(original, student, name)
    inputs = tuple(_with_batch(spec) for spec in student.inputs)
    feeds = example_feeds(inputs, sizes_to_check(inputs), student.encoder, data)
    wanted = [_original_outputs(original, student, feed) for feed in feeds]

    model = infer_shapes(tidy(original.clone()))
    ensure_names(model)
    strip(model)
    _keep_outputs(model, student.outputs)
    if opset_of(model) < MINIMUM_OPSET:
        model = raise_opset(model, RAISED_OPSET, _at_own_batch(original, student, feeds), name)
    model = _with_dimensions(model, inputs)
    largest = _verify(model, feeds, wanted, inputs, name)
    model, kept = simplify(model, feeds)
    largest = max(largest, _verify(model, feeds, wanted, inputs, name))
    return write_float_graph(
        model,
        path,
        inputs=inputs,
        encoder=student.encoder,
        classes=student.classes,
        parameters=student.parameters or count_parameters(model),
        largest_difference=largest,
        passes=kept,
    )


def _check_valid(model: ir.Model, name: str) -> None:
    try:
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"`{name}` is not a valid ONNX graph: {str(error).strip().splitlines()[0]}") from error


def _check_float(model: ir.Model, name: str) -> None:
    for node in model.graph.all_nodes():
        if node.domain not in ("", "ai.onnx"):
            raise ExportError(
                f"`{name}`: node `{node.name}` is `{node.domain}.{node.op_type}`, an operator of one runtime; a student uses standard operators"
            )
        if node.op_type in _FLOAT_ONLY:
            raise ExportError(
                f"`{name}` is quantized already (node `{node.name}` is {node.op_type}); give the float32 model, kdedge quantizes it per target"
            )
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        if value.dtype in (ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE):
            raise ExportError(f"`{name}`: `{value.name}` is {value.dtype}; a student is float32, reduced precision is made per target")


def _check_interface(model: ir.Model, student: ModelFiles, name: str) -> None:
    graph_inputs = {str(value.name): value for value in model.graph.inputs}
    graph_outputs = [str(value.name) for value in model.graph.outputs]
    if set(graph_inputs) != {spec.name for spec in student.inputs}:
        wanted = ", ".join(spec.name for spec in student.inputs)
        raise ExportError(f"`{name}` has the inputs {', '.join(graph_inputs)}, the model of the recipe takes {wanted}")
    if missing := [output for output in student.outputs if output not in graph_outputs]:
        raise ExportError(f"`{name}` has no output `{missing[0]}` (it has: {', '.join(graph_outputs)})")
    for spec in student.inputs:
        value = graph_inputs[spec.name]
        if value.shape is None or value.shape.rank() != len(spec.shape) or value.dtype is None or str(value.dtype.numpy()) != spec.dtype:
            raise ExportError(
                f"`{name}`: input `{spec.name}` is {value.dtype} {value.shape}, the model of the recipe gives {spec.dtype} {spec.shape}"
            )
        for axis, (have, want) in enumerate(zip(value.shape, spec.shape, strict=True)):
            if axis > 0 and isinstance(have, int) and have != want:
                raise ExportError(f"`{name}`: input `{spec.name}` has the size {have} on axis {axis}, the model of the recipe gives {want}")


def _with_batch(spec: TensorSpec) -> TensorSpec:
    return TensorSpec(spec.name, spec.dtype, (BATCH, *spec.shape[1:])) if isinstance(spec.shape[0], int) else spec


def _fixed_batch(model: ir.Model) -> int | None:
    """The batch size that the graph was exported with, None where it is dynamic."""
    sizes = {value.shape[0] for value in model.graph.inputs if value.shape is not None and isinstance(value.shape[0], int)}
    return int(min(sizes)) if sizes else None


def _original_outputs(model: ir.Model, student: ModelFiles, feed: Feed) -> dict[str, npt.NDArray[Any]]:
    """What the file as it was given says, run in pieces of its own batch size where that is fixed."""
    total = len(next(iter(feed.values())))
    size = _fixed_batch(model) or total
    # A ragged last piece is filled up with the last example, and cut from the result.
    pieces = [np.minimum(np.arange(start, start + size), total - 1) for start in range(0, total, size)]
    results = run(model, [{key: array[rows] for key, array in feed.items()} for rows in pieces], student.outputs)
    return {name: np.concatenate([result[name] for result in results])[:total] for name in student.outputs}


def _at_own_batch(model: ir.Model, student: ModelFiles, feeds: Sequence[Feed]) -> list[Feed]:
    size = _fixed_batch(model)
    return list(feeds) if size is None else [{key: np.resize(array, (size, *array.shape[1:])) for key, array in feed.items()} for feed in feeds]


def _keep_outputs(model: ir.Model, outputs: Sequence[str]) -> None:
    kept = {str(value.name): value for value in model.graph.outputs if value.name in outputs}
    model.graph.outputs.clear()
    model.graph.outputs.extend(kept[name] for name in outputs)
    tidy(model)


def _with_dimensions(model: ir.Model, inputs: Sequence[TensorSpec]) -> ir.Model:
    """The graph with the names of `inputs`' dimensions on its inputs, and a batch that may vary."""
    fixed = _fixed_batch(model)
    if fixed is not None:
        for node in model.graph:
            if node.op_type == "Reshape" and (shape := constant(node.inputs[1])) is not None and shape.ndim == 1:
                _free_batch(model, node, shape, fixed)
    specs = {spec.name: spec for spec in inputs}
    symbols: dict[str, str] = {}
    for value in model.graph.inputs:
        sizes: list[int | str] = []
        for have, want in zip(value.shape, specs[str(value.name)].shape, strict=True):
            sizes.append(want if isinstance(want, int) else want.name)
            if not isinstance(have, int) and have.value and not isinstance(want, int):
                symbols[have.value] = want.name
        value.shape = ir.Shape(sizes)
    batch = str(model.graph.inputs[0].shape[0].value)
    for value in model.graph.outputs:
        sizes = [size if isinstance(size, int) else symbols.get(str(size.value), str(size.value)) for size in value.shape or ()]
        value.shape = ir.Shape([batch, *sizes[1:]])
    return infer_shapes(model)


def _free_batch(model: ir.Model, node: ir.Node, shape: npt.NDArray[np.int64], fixed: int) -> None:
    """Let a Reshape whose constant shape starts with the batch size infer that size (-1), or copy it from its input (0) where -1 is taken."""
    source = node.inputs[0]
    starts_with_batch = source is not None and source.shape is not None and source.shape.rank() > 0 and source.shape[0] == fixed
    if not len(shape) or shape[0] != fixed or (-1 in shape[1:] and not starts_with_batch):
        return
    freed = [0 if -1 in shape[1:] else -1, *shape[1:].tolist()]
    value = ir.val(f"{node.name}.shape", const_value=ir.tensor(np.array(freed, np.int64), name=f"{node.name}.shape"))
    value.dtype, value.shape = ir.DataType.INT64, ir.Shape([len(freed)])
    model.graph.register_initializer(value)
    node.replace_input_with(1, value)
    if freed[0] == 0:
        node.attributes.pop("allowzero", None)  # only without it does 0 mean "copy"


def _verify(
    model: ir.Model, feeds: Sequence[Feed], wanted: Sequence[Mapping[str, npt.NDArray[Any]]], inputs: Sequence[TensorSpec], name: str
) -> float:
    """Largest absolute difference from the file as it was given.

    Raises:
        ExportError: the dynamic graph cannot run at some batch size, or gives something else.
    """
    largest = 0.0
    for feed, want in zip(feeds, wanted, strict=True):
        size = len(feed[inputs[0].name])
        advice = "export it again with a dynamic batch"
        try:
            (found,) = run(model, [feed])
        except ExportError as error:
            raise ExportError(f"`{name}` cannot run at batch {size}: a batch size is baked in ({error}); {advice}") from error
        absolute, relative = difference(found, want)
        if relative > TOLERANCE:
            raise ExportError(
                f"`{name}` gives other outputs at batch {size} than one example at a time (by {absolute:.2g}): a batch size is baked in; {advice}"
            )
        largest = max(largest, absolute)
    return largest
