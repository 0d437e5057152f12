"""ONNX -> ORT format, what ONNX Runtime's builds for phones open: a graph that is optimised already, and the list of operators that it needs.

The optimisations of the machine that converts are written into the file, so what ships is another graph than the ONNX file and is measured itself.
Two settings make it one for Arm: signed activations may become integer kernels, and the layout of x86's wide registers is left out. Both files have
the same bytes every time and say nothing of where they were made.

A file in float16 is not made: the conversion gives every node that this machine has no float16 kernel for a cast and float32 arithmetic, and the
phone, which has the kernels, would be bound to them (a ResNet-20: 1.14 MB instead of 0.61, or casts of all weights at each inference).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from kdedge.errors import ExportError
from kdedge.exporters.ort_bytes import in_order, reader
from kdedge.runtimes.onnxruntime import import_runtime, said_by

TOOLS = ("onnxruntime", "flatbuffers")

OPERATORS_FILE = "required_operators.config"
# Blocks of channels as wide as an x86 register: not for Arm.
_NOT_FOR_ARM = ["NchwcTransformer"]


def write_ort(onnx_path: Path, ort_path: Path) -> tuple[Path, Path]:
    """Convert the ONNX file at `onnx_path`, and return the paths of the ORT-format file and, beside it, of the required operators.

    The second is what ONNX Runtime's own build takes (`build.py --include_ops_by_config FILE --enable_reduced_operator_type_support`): a runtime
    that holds these kernels for these types and no others.

    Raises:
        ExportError: ONNX Runtime cannot open the graph or write it.
    """
    ort_path.write_bytes(_converted(onnx_path))
    operators = ort_path.with_name(OPERATORS_FILE)
    operators.write_text(required_operators(ort_path), encoding="ascii")
    return ort_path, operators


def _converted(onnx_path: Path) -> bytes:
    runtime = import_runtime()
    with tempfile.TemporaryDirectory(prefix="kdedge-ort-") as folder:
        written = Path(folder) / "model.ort"
        options = runtime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        options.optimized_model_filepath = str(written)
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.save_model_format", "ORT")
        options.add_session_config_entry("session.qdqisint8allowed", "1")
        try:
            runtime.InferenceSession(str(onnx_path), options, providers=["CPUExecutionProvider"], disabled_optimizers=_NOT_FOR_ARM)
        except Exception as error:  # its classes have no base of their own
            raise ExportError(f"ONNX Runtime cannot write `{onnx_path.name}` in ORT format: {said_by(error)}") from error
        return in_order(written.read_bytes())


def required_operators(ort_path: Path) -> str:
    """The operators of an ORT-format file as ONNX Runtime's build reads them: a line a domain and opset, `DOMAIN;OPSET;OPERATOR{types},...`."""
    needed: dict[str, dict[int, set[str]]] = {}
    with reader() as tools:
        types: Any = tools.OperatorTypeUsageManager()
        tools.OrtFormatModelProcessor(str(ort_path), needed, types).process()
        lines = [
            f"{domain};{opset};" + ",".join(operator + (types.get_config_entry(domain, operator) or "") for operator in sorted(operators))
            for domain, by_opset in sorted(needed.items())
            for opset, operators in sorted(by_opset.items())
        ]
    return "\n".join(lines) + "\n"
