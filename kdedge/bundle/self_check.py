"""Does this bundle still work, and does it work here?

    python self_check.py            in the bundle's folder; `--json` prints one object last

It compares every file with the manifest, runs the golden inputs through the artifact in a process of its own, and compares the outputs with the
golden ones. It needs Python 3.8, numpy and the runtime that `manifest.json` names, and nothing of kdedge: the code that opens the runtime lies
beside it in `kdedge_worker/`.

Exit code: 0 it works; 1 it gives other outputs or fails; 2 a file is damaged or missing; 3 it cannot run here (no such runtime or device).
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

PACKAGE = "kdedge_worker"
CODES = {"ok": 0, "failed": 1, "damaged": 2, "not-run": 3}


def main() -> int:
    """Run the check and print what came of it."""
    sys.dont_write_bytecode = True  # compiled copies would be files that the manifest does not list
    parser = argparse.ArgumentParser(description="Check this bundle: its files, and what its artifact answers.")
    parser.add_argument("bundle", nargs="?", type=Path, default=Path(__file__).resolve().parent, help="the bundle's folder (this one)")
    parser.add_argument("--worker", default=PACKAGE, help="the Python package that opens runtimes")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds that the artifact may take; building a TensorRT engine is part of it")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    given = parser.parse_args()
    report = check(given.bundle.resolve(), given.worker, given.timeout)
    print(f"{report['name']}: {report['status']}: {report['reason'] or 'every output is as close to the golden one as it must be'}")
    for name, ratio in report["sqnr_db"].items():
        print(f"  {name}: {ratio if isinstance(ratio, str) else f'{ratio:.1f} dB signal to noise'} (needed: {report['minimum_sqnr_db']:g} dB)")
    if given.json:
        print(json.dumps(report, sort_keys=True))
    return CODES[report["status"]]


def check(bundle: Path, worker: str, timeout: float) -> dict[str, Any]:
    """What there is to say about a bundle. `sqnr_db`: by output name, a number or, where there is none, what it means in words."""
    report: dict[str, Any] = {"name": bundle.name, "status": "failed", "reason": "", "sqnr_db": {}, "minimum_sqnr_db": None, "runtime_version": ""}
    try:
        manifest = json.loads((bundle / "manifest.json").read_text(encoding="ascii"))
        golden = manifest["golden"]
        report.update(name=manifest["name"], minimum_sqnr_db=golden["minimum_sqnr_db"])
        damaged = [entry["path"] for entry in manifest["files"] if not intact(bundle, entry)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {**report, "status": "damaged", "reason": f"manifest.json cannot be used: {type(error).__name__}: {error}"}
    if damaged:
        return {**report, "status": "damaged", "reason": "damaged or missing: " + ", ".join(damaged)}
    folder = Path(tempfile.mkdtemp(prefix="kdedge-check-"))
    try:
        result = run_artifact(bundle, manifest, folder, worker, timeout)
        report.update(status=result["status"], reason=result["reason"], runtime_version=result["runtime_version"])
        if result["status"] == "ok":
            compare(bundle, golden, folder, result["outputs"], report)
    finally:
        shutil.rmtree(str(folder), ignore_errors=True)
    return report


def intact(bundle: Path, entry: dict[str, Any]) -> bool:
    """Whether a listed file has the bytes that the manifest says."""
    try:
        content = (bundle / entry["path"]).read_bytes()
    except OSError:
        return False
    return bool(len(content) == entry["size"] and hashlib.sha256(content).hexdigest() == entry["sha256"])


def run_artifact(bundle: Path, manifest: dict[str, Any], folder: Path, worker: str, timeout: float) -> dict[str, Any]:
    """The golden inputs through the artifact, by the worker, in its own process: a crash of the runtime is an answer too."""
    carried = worker == PACKAGE
    if carried:
        sys.path.insert(0, str(bundle))
    job = importlib.import_module(worker + ".job")
    job.write_job(str(folder), job.Job(**described(bundle, manifest)))
    # Another package than the one carried must not find its modules in a bundle that it is to judge.
    roots = ([str(bundle)] if carried else []) + ([os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else [])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(roots), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", worker + ".worker", str(folder)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"status": "failed", "reason": f"stopped after {timeout:g} s", "runtime_version": "", "outputs": []}
    result = job.read_result(str(folder))
    if result is None:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        death = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        return {
            "status": "failed",
            "reason": f"the worker died: {death}{': ' + words[-1] if words else ''}",
            "runtime_version": "",
            "outputs": [],
        }
    return {"status": result.status, "reason": result.reason, "runtime_version": result.runtime_version, "outputs": result.outputs}


def described(bundle: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """The job that runs the golden inputs, by its fields."""
    artifact, cases = manifest["artifact"], manifest["golden"]["cases"]
    return {
        "kind": "validate",
        "runtime": artifact["runtime"],
        "graphs": {graph["name"]: [str(bundle / path) for path in graph["files"]] for graph in artifact["graphs"]},
        "options": artifact["options"],
        "buckets": [{name: str(bundle / path) for name, path in case["inputs"].items()} for case in cases],
        "batch": artifact["batch"]["size"],
        "fixed_batch": artifact["batch"]["fixed"],
    }


def compare(bundle: Path, golden: dict[str, Any], folder: Path, written: list[dict[str, str]], report: dict[str, Any]) -> None:
    """Signal-to-noise ratio of each output over all golden examples; integers must be equal."""
    limit = golden["minimum_sqnr_db"]
    wrong = []
    for name in golden["cases"][0]["outputs"]:
        pairs = [
            (np.load(str(bundle / case["outputs"][name]), allow_pickle=False), np.load(str(folder / files[name]), allow_pickle=False))
            for case, files in zip(golden["cases"], written)  # noqa: B905 - Python 3.8 has no zip(strict=)
            if name in files
        ]
        if len(pairs) != len(golden["cases"]) or any(expected.shape != found.shape for expected, found in pairs):
            wrong.append(f"`{name}` is missing or has another shape")
            continue
        ratio = signal_to_noise(pairs)
        said = report["sqnr_db"][name] = in_words(ratio)
        exact = pairs[0][0].dtype.kind not in "fc"
        if not (ratio >= limit) or (exact and ratio != math.inf):  # a NaN is no match either
            words = said if isinstance(said, str) else f"{said:.1f} dB signal to noise"
            wrong.append(f"`{name}` differs: {words}, {'equality' if exact else f'{limit:g} dB'} needed")
    if wrong:
        report.update(status="failed", reason="; ".join(wrong) + "; golden outputs are those of " + golden["source"])


def signal_to_noise(pairs: list[tuple[Any, Any]]) -> float:
    """10 log10(sum(golden^2) / sum((found - golden)^2)) in dB: inf where all is equal, -inf where only noise is left, nan with a NaN."""
    signal = noise = 0.0
    for expected, found in pairs:
        expected, found = expected.astype(np.float64), found.astype(np.float64)
        signal += float(np.sum(expected**2))
        noise += float(np.sum((found - expected) ** 2))
    if math.isnan(noise):
        return math.nan
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal > 0.0 else -math.inf


def in_words(ratio: float) -> Any:
    """A ratio as JSON can hold it."""
    if math.isfinite(ratio):
        return ratio
    return "holds NaN" if math.isnan(ratio) else "identical" if ratio > 0 else "nothing but noise"


if __name__ == "__main__":
    sys.exit(main())
