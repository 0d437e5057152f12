"""The student as a `.pt2` file of `torch.export`: the reference that runs without the code that made it.

Stack traces, source names and sample inputs are left out: the bytes repeat, nothing tells where they were made, and nothing is pickled.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from kdedge.artifact import TensorSpec
from kdedge.errors import ExportError
from kdedge.exporters.equivalence import TOLERANCE, difference, sizes_text
from kdedge.exporters.examples import Feed, random_feed, sizes_to_check
from kdedge.exporters.tracing import dynamic_shapes, quiet, root_sentence

TOOLS = ("torch",)

#: Extra files of the archive: the names of inputs and outputs that `runtimes/torch.py` reads, and the lineage.
NAMES_FILE, PROPERTIES_FILE = "kdedge.json", "lineage.json"

_TRACES = ("stack_trace", "nn_module_stack", "source_fn_stack", "fwd_source_fn_stack", "torch_fn", "from_node", "custom", "seq_nr")


def write_program(
    module: torch.nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[str], path: Path, *, name: str, properties: Mapping[str, str]
) -> None:
    """Export `module` with the varying dimensions of `inputs`, write it to `path`, and compare it with the module at two other sizes.

    Raises:
        ExportError: torch cannot export it, a size is frozen in it, or it gives other outputs.
    """
    module.eval()
    feeds = [random_feed(inputs, sizes) for sizes in sizes_to_check(inputs)]
    with quiet(), torch.no_grad():
        try:
            program = torch.export.export(module, _tensors(inputs, feeds[0]), dynamic_shapes=dynamic_shapes(module, inputs))
        except (RuntimeError, TypeError, ValueError) as error:
            raise ExportError(f"student `{name}`: torch cannot export it as a program: {root_sentence(error)}") from error
    for graph_module in program.graph_module.modules():
        for node in graph_module.graph.nodes if isinstance(graph_module, torch.fx.GraphModule) else ():
            for key in _TRACES:
                node.meta.pop(key, None)
    program.example_inputs = None
    extra = {
        NAMES_FILE: json.dumps({"inputs": [spec.name for spec in inputs], "outputs": list(outputs)}, sort_keys=True),
        PROPERTIES_FILE: json.dumps(dict(properties), sort_keys=True),
    }
    # Through memory: on a full disk, torch's own writer ends the whole process.
    written = io.BytesIO()
    with quiet():
        torch.export.save(program, written, extra_files=extra)
    path.write_bytes(written.getbuffer())
    _verify(module, inputs, feeds, path, name)


def _verify(module: torch.nn.Module, inputs: Sequence[TensorSpec], feeds: Sequence[Feed], path: Path, name: str) -> None:
    with quiet():
        loaded = torch.export.load(path).module()
    for feed in feeds:
        with torch.inference_mode():
            wanted = {key: value.numpy() for key, value in module(*_tensors(inputs, feed)).items()}
            try:
                found = {key: value.numpy() for key, value in loaded(*_tensors(inputs, feed)).items()}
            except (RuntimeError, AssertionError) as error:
                raise ExportError(
                    f"student `{name}`: the exported program cannot run at {sizes_text(inputs, feed)}: {root_sentence(error)}"
                ) from error
        if (relative := difference(found, wanted)[1]) > TOLERANCE:
            raise ExportError(
                f"student `{name}`: the exported program differs from the model by {relative:.2g} of its scale at {sizes_text(inputs, feed)}"
            )


def _tensors(inputs: Sequence[TensorSpec], feed: Feed) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(np.ascontiguousarray(feed[spec.name])) for spec in inputs)
