"""Programs that time a model without a Python beside it: supplied by the user, pushed to a phone's temporary folder, run and read here.

One file a program: which runtime it is, how it is called, and what it prints. Each is a module with

    RUNTIME     the runtime of the jobs that it takes
    stage       writes what it reads (model, inputs in its format) into a folder, which is sent to the phone as it is
    launch      one launch, where it measures
    validate    the outputs of every example, where it can write them
"""

from __future__ import annotations

import importlib
from types import ModuleType

# Name under which the user supplies a program -> its module. A job goes to the first that takes it.
PROGRAMS = {
    "onnxruntime_perf_test": "kdedge.devices.native.onnxruntime_perf_test",
    "onnx_test_runner": "kdedge.devices.native.onnx_test_runner",
    "benchmark_model": "kdedge.devices.native.litert",
    "executor_runner": "kdedge.devices.native.executorch",
}


def program(name: str) -> ModuleType:
    """The module of a program."""
    return importlib.import_module(PROGRAMS[name])
