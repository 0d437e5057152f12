"""A student that is a torch module, as a float graph that was compared with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch

from kdedge.artifact import Encoder, FloatGraph, PreparedData, TensorSpec
from kdedge.errors import ExportError
from kdedge.exporters.equivalence import TOLERANCE, Array, Feed, GraphRunError, difference, first_dependent_node, named_node, run, sizes_text
from kdedge.exporters.examples import example_feeds, sizes_to_check
from kdedge.exporters.float_graph import count_parameters, simplify, write_float_graph
from kdedge.exporters.naming import name_after_modules, strip
from kdedge.exporters.tracing import trace


def export_module(
    module: torch.nn.Module,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[str, ...],
    path: Path,
    *,
    name: str,
    encoder: Encoder,
    classes: tuple[str, ...] = (),
    data: PreparedData | None = None,
) -> FloatGraph:
    """Write `path`: float32, dynamic, verified. `module.forward(*tensors)` takes tensors in the order of `inputs` and returns a dict by output name.

    It is verified on inputs from `data`, or on random ones without.

    Raises:
        ExportError: the module cannot be exported, or the graph differs from it.
    """
    module.eval()
    feeds = example_feeds(inputs, sizes_to_check(inputs), encoder, data)
    model = trace(module, inputs, outputs, feeds[0], name)
    name_after_modules(model)
    strip(model)
    verify_against_module(model, module, inputs, feeds, name)
    model, kept = simplify(model, feeds)
    difference = verify_against_module(model, module, inputs, feeds, name)
    return write_float_graph(
        model, path, inputs=inputs, encoder=encoder, classes=classes, parameters=count_parameters(model), largest_difference=difference, passes=kept
    )


def verify_against_module(
    model: ir.Model, module: torch.nn.Module, inputs: Sequence[TensorSpec], feeds: Sequence[Feed], name: str, tolerance: float = TOLERANCE
) -> float:
    """Compare `model` with the torch `module` on each of `feeds`: the sizes that it was exported with first, then others.

    Returns the largest absolute difference of any output.

    Raises:
        ExportError: they differ by more than `tolerance` of the output's scale; the message names the sizes and the node that has a size baked in.
    """
    largest = 0.0
    agreed: Feed | None = None
    for feed in feeds:
        wanted = _run_module(module, inputs, feed, name)
        sizes, good = sizes_text(inputs, feed), f" but not at {sizes_text(inputs, agreed)}" if agreed is not None else ""
        try:
            (found,) = run(model, [feed])
        except GraphRunError as error:
            node = named_node(str(error))
            where = f": a size is baked into `{node}`" if node else ""
            raise ExportError(f"student `{name}`: the exported graph cannot run at {sizes}{good}{where} ({error})") from error
        absolute, relative = difference(found, wanted)
        if relative > tolerance:
            where = ""
            if agreed is not None and (node := first_dependent_node(model, inputs, agreed, feed)):
                where = f": a size is baked into `{node}`"
            gap = "in shape or in NaN and infinity" if np.isinf(absolute) else f"by {absolute:.2g}"
            raise ExportError(
                f"student `{name}`: output differs from the torch model {gap} (allowed {tolerance:g} of its scale) at {sizes}{good}{where}"
            )
        largest = max(largest, absolute)
        agreed = agreed or feed
    return largest


def _run_module(module: torch.nn.Module, inputs: Sequence[TensorSpec], feed: Feed, name: str) -> dict[str, Array]:
    with torch.inference_mode():
        outputs = module(*(torch.from_numpy(np.ascontiguousarray(feed[spec.name])) for spec in inputs))
    arrays = {key: value.detach().float().numpy() for key, value in outputs.items()}
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise ExportError(f"student `{name}`: output `{key}` of the torch model is not finite on real input; look at the training's last losses")
    return arrays
