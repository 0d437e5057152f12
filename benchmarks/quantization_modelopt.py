"""kdedge's `tensorrt` dialect beside NVIDIA's ModelOpt: how close explicit Q/DQ graphs for TensorRT stay to the float model. To reach: no farther.

Run: python benchmarks/quantization_modelopt.py [--only MODEL ...] [--peers-python PYTHON] [--state DIR] [--smoke]

`make bench-modelopt` makes ModelOpt's environment first. Both quantizers get the same 512 training images, both leave what is not quantized in
float32. No GPU is needed and none is used: a Q/DQ graph says exactly which values are rounded, and ONNX Runtime with all optimizations off computes
just that, in float32, on any CPU. TensorRT rounds the same values, and sums in another order; that, its speed, and whether an engine comes of it are
not measured here. Each file is parsed and built by tensorrt-rtx where that is installed. The best peer is the closer of ModelOpt's two calibrations,
with hindsight.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from quantization_kdedge import RECOVER
from quantization_measure import Scores, classifier_scores, ratio
from quantization_models import Array, Subject, data_root, load, prepare
from result_page import write_between

from kdedge.errors import ExportError
from kdedge.exporters.dialects.tensorrt import DIALECT
from kdedge.exporters.dialects.validate import validate
from kdedge.exporters.quantize.calibrate import observe
from kdedge.exporters.quantize.lower import lower
from kdedge.exporters.quantize.ranges import write_table
from kdedge.exporters.quantize.recover import batches_of, recover_graph
from kdedge.exporters.quantize.tensors import write_tensors
from kdedge.exporters.tensorrt import check_with_rtx
from kdedge.recipe import QuantizeSection
from kdedge.source import version_of

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "quantization_benchmark.md"
MODELS = ("resnet20", "resnet56")
METHODS = ("max", "entropy")
LITERAL = {"threads": 1, "spinning": False, "optimization": "disabled"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", action="append", choices=MODELS)
    parser.add_argument("--peers-python", type=Path, default=ROOT / ".venv-modelopt" / "bin" / "python")
    parser.add_argument("--state", type=Path, help="where graphs lie; default: benchmarks/modelopt in the data folder")
    parser.add_argument("--smoke", action="store_true", help="few examples: shows that it works, and writes no page")
    arguments = parser.parse_args()
    if not arguments.peers_python.is_file():
        raise SystemExit(f"{arguments.peers_python} is not there: `make bench-modelopt` makes ModelOpt's environment")
    state = (arguments.state or data_root() / "benchmarks" / "modelopt").resolve()
    cut = (32, 128) if arguments.smoke else (None, None)
    found = {}
    for name in arguments.only or MODELS:
        print(f"== {name}", flush=True)
        found[name] = contest(prepare(name, state / ("smoke" if arguments.smoke else "") / name, state, *cut), arguments.peers_python.absolute())
    lines = table(found)
    print("\n".join(lines))
    if not arguments.smoke and len(found) == len(MODELS):
        write_between(PAGE, "modelopt", lines)
    print(json.dumps({"benchmark": "quantization_modelopt", "models": {name: as_json(result) for name, result in found.items()}}))


def contest(subject: Subject, python: Path) -> dict[str, dict[str, Any]]:
    """What each quantizer said of itself, its distance from the float graph, and what tensorrt-rtx says to its file."""
    inputs = load(subject.test)
    reference = literally(subject.fixed, inputs)
    made = {
        "kdedge (mse)": _ours(subject, "plain", {}),
        "kdedge (best, recovery)": _ours(subject, "recovered", {"observer": "best", "recover": RECOVER}),
        **{f"ModelOpt ({method})": _theirs(subject, python, method) for method in METHODS},
    }
    for told in made.values():
        told["scores"] = classifier_scores(reference, literally(told["path"], inputs))
        try:
            told["rtx"] = check_with_rtx(told["path"])
        except ExportError as error:
            told["rtx"] = str(error)
    return made


def literally(path: Path, inputs: Mapping[str, Array]) -> Array:
    """The first output of a graph with batch 1, each node computed as it is written."""
    from kdedge.runtimes.onnxruntime import open_session

    session = open_session([str(path)], LITERAL)
    count = len(next(iter(inputs.values())))
    try:
        return np.concatenate([next(iter(session.run({name: array[i : i + 1] for name, array in inputs.items()}).values())) for i in range(count)])
    finally:
        session.close()


def _ours(subject: Subject, name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    folder = subject.folder / name
    folder.mkdir(exist_ok=True)
    asked, feeds = QuantizeSection.model_validate(settings), load(subject.calibration)
    table = observe(subject.float, batches_of(feeds), asked)
    recovered = recover_graph(subject.float, table, batches_of(feeds), asked, DIALECT, folder)
    ranges, tensors, path = folder / "ranges.json", None, folder / "kdedge.onnx"
    write_table(recovered.table, ranges)
    if recovered.weights:
        tensors = folder / "weights.safetensors"
        write_tensors(recovered.weights, tensors)
    lowered = lower(subject.fixed, ranges, DIALECT, path, tensors)
    validate(path, DIALECT, set(lowered.kept))
    return {"path": path}


def _theirs(subject: Subject, python: Path, method: str) -> dict[str, Any]:
    path = subject.folder / f"modelopt-{method}.onnx"
    program = Path(__file__).with_name("modelopt_peer.py")
    command = [str(python), str(program), method, str(subject.fixed), str(subject.calibration), str(path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    ended = subprocess.run(command, env=environment, cwd=subject.folder, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise SystemExit(f"ModelOpt ({method}) failed on {subject.name}: {ended.stderr.strip().splitlines()[-1:]}")
    return {"path": path, **json.loads(ended.stdout.strip().splitlines()[-1])}


def best_peer(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The closer of ModelOpt's files."""
    return min((who for who in found if who.startswith("ModelOpt")), key=lambda who: float(found[who]["scores"].distance.mean()))


def table(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Markdown: one row a model and quantizer."""
    lines = ["| model | quantizer | KL to float | agreement | x the best of ModelOpt | tensorrt-rtx |", "| --- | --- | --- | --- | --- | --- |"]
    for name, result in found.items():
        best = best_peer(result)
        for who, told in result.items():
            scores: Scores = told["scores"]
            figures = scores.figures("kl")
            versus = "" if who == best else "{:.2f} [{:.2f}, {:.2f}]".format(*_three(ratio(scores, result[best]["scores"])))
            built = "built" if told["rtx"].startswith("parsed and built") else told["rtx"].replace("|", "/")[:90]
            value, low, high = figures["kl"]
            lines.append(f"| {name} | {who} | {value:.5f} [{low:.5f}, {high:.5f}] | {100 * figures['agreement'][0]:.2f} % | {versus} | {built} |")
    examples = ", ".join(f"{len(next(iter(result.values()))['scores'].distance):,} for {name}" for name, result in found.items())
    return [*lines, "", f"Test examples: {examples}. Brackets: 95 % bootstrap over examples. onnxruntime {version_of('onnxruntime')}."]


def _three(estimate: Any) -> tuple[float, float, float]:
    return estimate.value, estimate.low, estimate.high


def as_json(result: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of one model; the ratio is ours by the best of ModelOpt's."""
    best = best_peer(result)
    ours = [who for who in result if not who.startswith("ModelOpt")]
    return {
        "best_peer": best,
        "kl_ratio_to_best_peer": {who: ratio(result[who]["scores"], result[best]["scores"]).as_json() for who in ours},
        "figures": {who: told["scores"].figures("kl") for who, told in result.items()},
        "rtx": {who: told["rtx"] for who, told in result.items()},
    }


if __name__ == "__main__":
    main()
