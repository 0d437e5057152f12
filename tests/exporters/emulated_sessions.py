"""Runs inside the emulated arm64: many graphs in one process, since Python and a runtime take seconds to start there. Knows nothing of kdedge.

`python emulated_sessions.py TASKS.json`: a list of {runtime, model, inputs, outputs, executed, refused}. Writes the first output to `outputs` (.npy)
and what was executed to `executed`: ONNX Runtime's optimized graph, or OpenVINO's layers with the precision of each (JSON). What a runtime says when
it refuses a graph goes to `refused`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def on_onnxruntime(task: dict[str, Any], inputs: dict[str, Any]) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = task["executed"]
    return onnxruntime.InferenceSession(task["model"], options, providers=["CPUExecutionProvider"]).run(None, inputs)[0]


def on_openvino(task: dict[str, Any], inputs: dict[str, Any]) -> Any:
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(openvino.Core().read_model(task["model"]), "CPU", settings)
    facts = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    layers = [[each["layerType"].astype(str), each["runtimePrecision"].astype(str)] for each in facts]
    Path(task["executed"]).write_text(json.dumps(layers))
    return np.asarray(compiled(inputs)[0])


RUNTIMES = {"onnxruntime": on_onnxruntime, "openvino": on_openvino}

if __name__ == "__main__":
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    for task in json.loads(Path(sys.argv[1]).read_text()):
        try:
            np.save(task["outputs"], RUNTIMES[task["runtime"]](task, {"image": np.load(task["inputs"])}))
        except RuntimeError as error:
            said = [line.strip() for line in str(error).splitlines() if line.strip()]
            Path(task["refused"]).write_text(said[-1])
