"""An ONNX file in and out: read with errors that say what is wrong, written as the same bytes every time.

All graph work happens on `onnx_ir.Model`; protobuf appears only here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError  # type: ignore[import-untyped]
from onnx_ir.passes import common

from kdedge.artifact import Dimension, TensorSpec
from kdedge.errors import ExportError

#: A file stays one file below this size (protobuf itself ends at 2 GB).
LARGEST_BYTES = 1 << 30


def load_model(path: Path) -> ir.Model:
    """Read an ONNX file, with external data beside it read into memory.

    Raises:
        ExportError: the file cannot be read, is not an ONNX model, or holds no node; or a file that it keeps weights in is not beside it.
    """
    try:
        proto = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise ExportError(f"`{path}` cannot be read: {error.strerror or error}") from error
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise ExportError(f"`{path}` is not an ONNX file: {error}") from error
    if not proto.opset_import:
        raise ExportError(f"`{path}` is not an ONNX file: it holds no graph")
    if not proto.graph.node:
        raise ExportError(f"`{path}` holds a graph without a node: nothing in it computes; was the export cut short?")
    try:
        onnx.external_data_helper.load_external_data_for_model(proto, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise ExportError(f"`{path}` keeps weights in other files, and they cannot be read; move them together with it: {error}") from error
    return ir.from_proto(proto)


def save_model(model: ir.Model, path: Path) -> None:
    """Sort, check (with ONNX's full check) and write `model`: equal models give equal bytes.

    Raises:
        ExportError: the graph breaks the ONNX specification, or the file would be larger than 1 GB.
    """
    model.graph.sort()
    model.ir_version = needed_ir_version(model)
    proto = ir.to_proto(model)
    try:
        if proto.ByteSize() > LARGEST_BYTES:
            raise ExportError(
                f"`{path.name}` would have {proto.ByteSize() / 2**30:.1f} GB; a student is kept in one file of at most 1 GB: choose a smaller one"
            )
        onnx.checker.check_model(proto, full_check=True)
        data = proto.SerializeToString(deterministic=True)
    except EncodeError as error:
        raise ExportError(f"`{path.name}` cannot be written as one file: {error}; a student is kept in one file of at most 1 GB") from error
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"`{path.name}` is not a valid ONNX graph: {error}") from error
    path.write_bytes(data)


def to_bytes(model: ir.Model) -> bytes:
    """The model as the bytes that a runtime opens, unchecked."""
    return bytes(ir.to_proto(model).SerializeToString(deterministic=True))


def needed_ir_version(model: ir.Model) -> int:
    """The oldest IR version that readers of this opset understand; float16 scales, int4 and the like are questions of the opset alone."""
    opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in model.graph.opset_imports.items()]
    return int(onnx.helper.find_min_ir_version_for(opsets, ignore_unknown=True))


def opset_of(model: ir.Model) -> int:
    """Opset of the default domain (0 where the model names none)."""
    return int(model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx", 0)))


def infer_shapes(model: ir.Model) -> ir.Model:
    """The model with all intermediate shapes and dtypes inferred afresh from its inputs; nothing that was recorded before is trusted, but for
    results of operators of one runtime, of which ONNX knows nothing."""
    for node in model.graph.all_nodes():
        if node.domain not in ("", "ai.onnx"):
            continue
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
                value.type = None
    proto = onnx.shape_inference.infer_shapes(ir.to_proto(model), data_prop=True)
    return ir.from_proto(proto)


def constant(value: ir.Value | None) -> Any:
    """The numpy array of an initializer (or of a `Constant` node's output), None where the value depends on the inputs."""
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else tensor.numpy()


def drop_weights_from_inputs(model: ir.Model) -> None:
    """Up to IR version 3 a file lists its initializers as inputs too, where they read as values that each call may replace."""
    model.graph.inputs[:] = [value for value in model.graph.inputs if not value.is_initializer()]
    model.ir_version = max(model.ir_version, 4)


def tidy(model: ir.Model) -> ir.Model:
    """Constants as initializers, nothing unused, nodes in order. Changes the model and returns it."""
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedFunctionsPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    model.graph.sort()
    return model


def specs_of(values: Iterable[ir.Value], dimensions: Mapping[str, Dimension]) -> tuple[TensorSpec, ...]:
    """Graph inputs or outputs as specs; a symbolic size takes its bounds from `dimensions` by name.

    Raises:
        ExportError: a value has no known shape or dtype, or a size is neither fixed nor one of `dimensions`.
    """
    return tuple(_spec(value, dimensions) for value in values)


def _spec(value: ir.Value, dimensions: Mapping[str, Dimension]) -> TensorSpec:
    if value.shape is None or value.dtype is None:
        raise ExportError(f"`{value.name}` has no known shape: it cannot be an input or output")
    shape: list[int | Dimension] = []
    for axis, size in enumerate(value.shape):
        if isinstance(size, int):
            shape.append(size)
        elif size.value in dimensions:
            shape.append(dimensions[size.value])
        else:
            known = ", ".join(sorted(dimensions)) or "none"
            raise ExportError(
                f"`{value.name}`: axis {axis} has the size `{size.value}`, which is neither a number nor a dimension of the inputs ({known})"
            )
    return TensorSpec(str(value.name), str(value.dtype.numpy()), tuple(shape))


def dimensions_of(specs: Iterable[TensorSpec]) -> dict[str, Dimension]:
    """All varying dimensions of some specs by name.

    Raises:
        ExportError: one name stands for two different ranges.
    """
    found: dict[str, Dimension] = {}
    for spec in specs:
        for size in spec.shape:
            if isinstance(size, Dimension) and found.setdefault(size.name, size) != size:
                raise ExportError(f"`{spec.name}`: dimension `{size.name}` has two different ranges: {found[size.name]} and {size}")
    return found


def content_hash(files: Iterable[Path]) -> str:
    """SHA-256 over the bytes of some files, in order."""
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
