"""Programs that time a model without a Python beside it: supplied by the user, pushed to a phone's temporary folder, run and read here.

One file a program: which runtime it is, how it is called, and what it prints. Each is a module with

    RUNTIME     the runtime of the jobs that it takes
    stage       writes what it reads (model, inputs in its format) into a folder, which is sent to the phone as it is
    launch      one launch, where it measures
    validate    the outputs of every example, where it can write them
"""

from __future__ import annotations

from kdedge.devices.native import executorch, litert, onnx_test_runner, onnxruntime_perf_test

# Name under which the user supplies a program -> its module. A job goes to the first that takes it. Modules and not their names: what a
# measurement is keyed by follows imports.
PROGRAMS = {
    "onnxruntime_perf_test": onnxruntime_perf_test,
    "onnx_test_runner": onnx_test_runner,
    "benchmark_model": litert,
    "executor_runner": executorch,
}
