"""Doubles of the native programs: they take the options of the real ones, write the files that those write and print what those print.

Made after the sources that the modules in devices/native/ name, at the commits named there. What a double "measures" is a row of times that a test
can work out: run number i (from 0) takes (1 + i % 4) * UNIT.
"""

from __future__ import annotations

import sys
from pathlib import Path

UNIT = 0.001

PERF_TEST = """
import pathlib, sys

arguments, flags, words, index = sys.argv[1:], {}, [], 0
while index < len(arguments):
    word = arguments[index]
    if word in ("-D", "-P", "-s", "-I"):
        flags[word] = True
        index += 1
    elif word.startswith("-"):
        flags[word] = arguments[index + 1]
        index += 2
    else:
        words.append(word)
        index += 1
model, result = words
folder = pathlib.Path(model).parent
sets = [path for path in folder.iterdir() if path.is_dir()]
if len(sets) != 1:
    sys.exit("every folder beside the model counts as inputs: " + repr(sets))
open(model, "rb").read()
inputs = [path.read_bytes() for path in sorted(sets[0].glob("input_*.pb"))]
if not all(b"image" in tensor for tensor in inputs) or not inputs:
    print("there is no test data for model x")
    print("Run failed:failed to initialize.")
    sys.exit(255)
times = []
if "-r" in flags:
    times = [(1 + run % 4) * {unit} for run in range(int(flags["-r"]))]
else:
    total = 0  # in whole nanoseconds, so that a test can say which run is the last
    while total < int(flags["-t"]) * 10**9:
        total += round((1 + len(times) % 4) * {unit} * 1e9)
        times.append((1 + len(times) % 4) * {unit})
if "-x" in flags:
    print("Setting intra_op_num_threads to " + flags["-x"])
print("Session creation time cost: 0.0273071 s")
print("First inference time cost: 20 ms")
print("Total inference time cost: %g s" % sum(times))
print("Total inference requests: %d" % len(times))
print("Average inference time cost total: %f ms" % (1000 * sum(times) / len(times)))
print("Total inference run time: %g s" % sum(times))
print("Number of inferences per second: %g " % (len(times) / sum(times)))
print("Avg CPU usage: 98 %")
print("Peak working set size: 35299328 bytes")
with open(result, "a") as handle:
    for run, seconds in enumerate(times):
        handle.write("%s,%g,%d,%d,%d\\n" % (folder.name, seconds, 35299328, 98, run))
"""

BENCHMARK_MODEL = """
import sys
import numpy as np

flags = dict(word[2:].split("=", 1) for word in sys.argv[1:])
names = flags["input_layer"].split(",")
shapes = [tuple(map(int, shape.split(","))) for shape in flags["input_layer_shape"].split(":")]
files = dict(entry.replace("::", "\\0").split(":") for entry in flags["input_layer_value_files"].split(","))
inputs = [np.fromfile(files[name.replace(":", "\\0")], dtype=np.float32).reshape(shape) for name, shape in zip(names, shapes)]
print("INFO: STARTING!")
print("INFO: Loaded model " + flags["graph"])
print("INFO: The input model file size (MB): 3.06409")
print("INFO: Initialized session in 92.318ms.")
print("INFO: Running benchmark for at least %s iterations and at least %s seconds but terminate if exceeding %s seconds."
      % (flags["warmup_runs"], flags["warmup_min_secs"], flags.get("max_secs", "150")))
print("INFO: count=3 first=235158 curr=200386 min=199462 max=235158 avg=211669 std=16613 p5=199462 median=200386 p95=235158\\n")
print("INFO: count=%s first=187533 curr=140990 min=140071 max=195121 avg=145528 std=13583 p5=140545 median=141253 p95=187533\\n" % flags["num_runs"])
print("INFO: Inference timings in us: Init: 92318, First inference: 235158, Warmup (avg): 211669, Inference (avg): 145528")
if "output_filepath" in flags:
    total = inputs[0].reshape(len(inputs[0]), -1).sum(1, keepdims=True)
    with open(flags["output_filepath"], "wb") as handle:
        handle.write(np.concatenate([total, 2 * total], 1).astype(np.float32).tobytes())
        handle.write((total > 0).astype(np.int8).tobytes())
"""

EXECUTOR_RUNNER = """
import sys
import numpy as np

flags = dict(word[2:].split("=", 1) for word in sys.argv[1:])
count = int(flags["num_executions"])
inputs = [np.fromfile(path, dtype=np.float32) for path in flags["inputs"].split(",")]
def log(line):
    print("I 00:00:00.051509 executorch:executor_runner.cpp:218] " + line, file=sys.stderr)
log("Model file %s is loaded." % flags["model_path"])
log("Model loaded in 7.850000 ms.")
times = [(1 + run % 4) * 1000 * {unit} for run in range(count)]
for run, milliseconds in enumerate(times):
    if {iterations}:
        log("Iteration %d of %d: %f ms" % (run + 1, count, milliseconds))
log("Model executed successfully %d time(s) in %f ms." % (count, sum(times)))
log("1 outputs: ")
if "output_file" in flags:
    log("Writing output to file: %s-0.bin" % flags["output_file"])
    np.array([inputs[0].sum(), inputs[0].max()], dtype=np.float32).tofile(flags["output_file"] + "-0.bin")
print("OutputX 0: tensor(sizes=[1, 2], [\\n  0.0106399, 0.0951964,\\n])")
"""

TEST_RUNNER = """
import pathlib, sys
import onnx
import numpy as np
from onnx import numpy_helper

folder = pathlib.Path(sys.argv[-1])
cases, equal = 0, 0
for case in sorted(path for path in folder.iterdir() if path.is_dir()):
    outputs = [numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes())) for path in case.glob("output_*.pb")]
    inputs = list(case.glob("input_*.pb"))
    cases += 1
    equal += bool(inputs) and all(np.isfinite(output).all() for output in outputs) and not (case.name == "test_data_set_1" and {differs})
failed = cases - equal
print("result: \\n\\tModels: 1\\n\\tTotal test cases: %d\\n\\t\\tSucceeded: %d" % (cases, equal))
print("\\t\\tNot implemented: 0\\n\\t\\tFailed: %d" % failed)
if failed:
    print("\\t\\t\\tResult differs: %d" % failed)
print("\\tStats by Operator type:\\n\\t\\tNot implemented(0): \\n\\t\\tFailed:\\nFailed Test Cases:")
if failed:
    print("test content failed, please fix it", file=sys.stderr)
sys.exit(255 if failed else 0)
"""


def write_program(path: Path, text: str, **values: object) -> Path:
    """A double as an executable file of this Python; `values` fill its braces, `unit` is there already."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{sys.executable}\n" + text.replace("{unit}", str(values.pop("unit", UNIT))))
    for name, value in values.items():
        path.write_text(path.read_text().replace(f"{{{name}}}", repr(value)))
    path.chmod(0o755)
    return path
