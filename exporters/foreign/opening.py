"""Reading an ONNX file that anybody may have written, and what it takes before a quantizer can look at it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from kdedge.errors import ExportError
from kdedge.exporters.model_file import LARGEST_BYTES, drop_weights_from_inputs, load_model
from kdedge.exporters.naming import ensure_names
from kdedge.exporters.quantize.wiring import QDQ

_INTEGER_PREFIXES = ("QLinear", "QGemm", "QAttention", "QEmbed", "QMoE", "DynamicQuantize")
_INTEGER_SUFFIXES = ("Integer", "NBits", "Bnb4", "IntegerToFloat")
_NAME_OF_A_SIZE = re.compile(r"[A-Za-z_][\w.+*/() -]*")


def open_graph(path: Path) -> ir.Model:
    """The graph of a file: external data read, local functions inlined, weights no longer listed as inputs, nodes and varying sizes named.

    Raises:
        ExportError: the file is missing, is no ONNX model, is larger than 1 GB with its data, or its data is not beside it.
    """
    _check_size(path)
    try:
        model = load_model(path)
    except ExportError:
        raise
    except Exception as error:  # onnx-ir and protobuf say in many ways that a file is broken inside
        raise ExportError(f"`{path}` is not an ONNX file that can be read: {_first_cause(error)}") from error
    if model.functions:
        InlinePass()(model)
    drop_weights_from_inputs(model)
    ensure_names(model)
    _name_sizes(model)
    return model


def _first_cause(error: BaseException) -> str:
    """What went wrong below the layers of a library that each say only where they were."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error) or type(error).__name__).strip().partition("\n")[0][:200]


def data_files(path: Path) -> tuple[Path, ...]:
    """The files of external data that a model names, also in graphs inside of its nodes, by name.

    Raises:
        ExportError: it is no ONNX file, or is itself larger than 1 GB.
    """
    if path.is_file() and path.stat().st_size > LARGEST_BYTES:
        _too_large(path, path.stat().st_size)
    try:
        proto = onnx.load(str(path), load_external_data=False)
    except OSError as error:
        raise ExportError(f"`{path}` cannot be read: {error.strerror or error}") from error
    except Exception as error:  # protobuf raises many kinds; all mean the same here
        raise ExportError(f"`{path}` is not an ONNX file: {error}") from error
    held = [*_tensors(proto.graph), *(tensor for function in proto.functions for node in function.node for tensor in _tensors_of(node))]
    names = {entry.value for tensor in held for entry in tensor.external_data if entry.key == "location"}
    return tuple(path.parent / name for name in sorted(names) if (path.parent / name).is_file())


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        yield from _tensors_of(node)


def _tensors_of(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        yield from (attribute.t, *attribute.tensors)  # an attribute that holds none has an empty one
        for graph in (attribute.g, *attribute.graphs):
            yield from _tensors(graph)


def _check_size(path: Path) -> None:
    if not path.is_file():
        raise ExportError(f"{path}: there is no such file")
    total = path.stat().st_size + sum(file.stat().st_size for file in data_files(path))
    if total > LARGEST_BYTES:
        _too_large(path, total)


def _too_large(path: Path, size: int) -> None:
    raise ExportError(
        f"`{path.name}` has {size / 2**30:.1f} GB with its data; kdedge quantizes models of at most {LARGEST_BYTES / 2**30:.0f} GB. "
        "For larger ones, quantize weights alone with the tools of their runtime"
    )


def _name_sizes(model: ir.Model) -> None:
    """Give varying sizes of inputs a name each, where a file has none or writes `?` for all: equal names mean equal sizes. Of outputs
    such names are dropped."""
    for value in model.graph.inputs:
        if value.shape is not None:
            value.shape = ir.Shape([_size(size, f"{value.name}_{axis}") for axis, size in enumerate(value.shape)])
    for value in model.graph.outputs:
        if value.shape is not None:
            value.shape = ir.Shape([_size(size, None) for size in value.shape])


def _size(size: int | ir.SymbolicDim, otherwise: str | None) -> int | str | None:
    if isinstance(size, int):
        return size if size >= 0 else otherwise
    return size.value if isinstance(size.value, str) and _NAME_OF_A_SIZE.fullmatch(size.value) else otherwise


def integer_operators(model: ir.Model) -> dict[str, int]:
    """Operators of a quantized graph that a model holds already, subgraphs included, and how many of each."""
    return dict(Counter(str(node.op_type) for node in model.graph.all_nodes() if _is_integer(str(node.op_type))))


def _is_integer(operator: str) -> bool:
    return operator in QDQ or operator.startswith(_INTEGER_PREFIXES) or operator.endswith(_INTEGER_SUFFIXES)


def graphs_of(model: ir.Model) -> Iterator[ir.Graph]:
    """The main graph and all graphs inside its nodes."""
    yield model.graph
    for node in model.graph.all_nodes():
        yield from graphs_inside(node)


def graphs_inside(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs that a node runs: branches, the body of a loop."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()
