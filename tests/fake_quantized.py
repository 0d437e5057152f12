"""A fake-quantized graph beside its export in ONNX Runtime: how many codes differ, each node fed equal ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from onnx.utils import Extractor

from kdedge.exporters.quantize.fake_quantize import FakeQuantized
from kdedge.exporters.quantize.lower import lower_table

Array = npt.NDArray[Any]


def exported(student: FakeQuantized, path: Path) -> Path:
    """What `student` hands over, lowered from the float graph at `path` to a file beside it."""
    tensors, table = student.hand_over()
    out = path.with_name("out.onnx")
    lower_table(path, table, student.dialect, out, tensors)
    return out


def session(model: bytes | Path, integer: bool) -> Any:
    """Kernels on integers (QLinearConv and its like), or the float arithmetic that Q and DQ stand for."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    options.add_session_config_entry("session.x64quantprecision", "1")  # no saturation, whichever CPU this is
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if integer else level.ORT_DISABLE_ALL
    return ort.InferenceSession(str(model) if isinstance(model, Path) else model, options, providers=["CPUExecutionProvider"])


@dataclass(frozen=True)
class Compared:
    """Codes of all quantized activations, those that differ, the largest difference; and the largest difference of an output that is not quantized,
    in steps of 8 bits over its values."""

    codes: int
    differing: int
    largest: int
    output_gap: float

    def __str__(self) -> str:
        share = f"{self.differing} of {self.codes} codes differ ({self.differing / self.codes:.2e}), by at most {self.largest}"
        return f"{share}; outputs by {self.output_gap:.1e} of a step"


def compare_nodes(path: Path, student: FakeQuantized, inputs: Array, integer: bool) -> Compared:
    """The export at `path` beside the torch module, each node fed the codes that the module has."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    names, outputs = _points(model), [value.name for value in model.graph.output]
    with torch.no_grad():
        made = student({"image": torch.from_numpy(inputs)}, names)
        wanted = student({"image": torch.from_numpy(inputs)}, outputs)
    kind = np.int8 if student.dialect.activation.signed else np.uint8
    feeds = {"image": inputs, **{name: value.numpy().astype(kind) for name, value in made.items()}}

    def alone(name: str) -> Array:
        sources = _read_by(model, name, set(names))
        part = Extractor(model).extract_model(sources, [name])
        (found,) = session(part.SerializeToString(), integer).run(None, {source: feeds[source] for source in sources})
        return np.asarray(found)

    gaps = [np.abs(alone(name).astype(int) - feeds[name].astype(int)) for name in names]
    floats = [(alone(name), wanted[name].numpy()) for name in outputs if name not in names]
    return Compared(
        codes=sum(gap.size for gap in gaps),
        differing=sum(int((gap > 0).sum()) for gap in gaps),
        largest=max(int(gap.max()) for gap in gaps),
        output_gap=max((float(np.abs(found - want).max() / (np.ptp(want) / 255)) for found, want in floats), default=0.0),
    )


def where_sure(logits: Array) -> Array:
    """Whether the two largest logits [n, classes] are further apart than one step of 8 bits over all of them: bool [n]."""
    ordered = np.sort(logits, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2] > (logits.max() - logits.min()) / 255)


def _points(model: onnx.ModelProto) -> list[str]:
    constants = {held.name for held in model.graph.initializer}
    return [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] not in constants]


def _read_by(model: onnx.ModelProto, wanted: str, codes: set[str]) -> list[str]:
    """The nearest codes (and graph inputs) that a value is made of."""
    makers = {output: node for node in model.graph.node for output in node.output}
    found, waiting, seen = [], [wanted], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name != wanted and (name in codes or name == "image"):
            found.append(name)
        elif name in makers:
            waiting += list(makers[name].input)
    return found
