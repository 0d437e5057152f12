"""How faithful, fast and frugal kdedge's integers are beside those of ONNX Runtime's and NNCF's quantizers.

To reach: KL to the float model at most 0.9 x the best peer's on the CIFAR-10 ResNets (0.7 x with quantization-aware distillation), half on
EfficientNet-Lite0; no slower; ranges collected in at most twice a float pass and 1 GB.

Run: python benchmarks/quantization.py [--only MODEL ...] [--distill] [--pairs 16] [--smoke] [--state DIR] [--peers-python PYTHON]

`make bench-quantization` makes the peers' environment first. All quantizers get the same examples, of which none is judged on; each runs in a process
of its own. The best peer of a runtime is the one whose files it runs with the smallest distance to the float model on the test examples, which is
more than any user could know; kdedge's settings are chosen on the calibration examples. Every file runs in kdedge's own worker, one thread, batch 1;
latency is compared in pairs of fresh processes, in ABBA order. It can be stopped at any time: finished parts are kept in DIR by the content of
what they were made from, and by the processor where it matters. A finished model is a line of benchmarks/quantization_runs.jsonl, which later starts
read back, on whatever machine: so models may be measured on different days, each with all its quantizers on one machine. `--only` measures a model
again. The table of all lines is written into docs/quantization_benchmark.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from quantization_contest import CONTESTS, Settings, contest
from quantization_models import data_root
from quantization_runs import RUNS, Measured, keep, measured, page, read
from quantization_table import HEAD
from result_page import write_between

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "quantization_benchmark.md"
# With fewer than 40 calibration images no step of recovery is kept.
SMOKE = Settings(calibration=48, test=128, pairs=2, steps=5, held=64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", action="append", choices=CONTESTS, help="these models alone")
    parser.add_argument(
        "--distill", action="store_true", help="with the arm that is trained by quantization-aware distillation (minutes to an hour a model)"
    )
    parser.add_argument("--pairs", type=int, default=16, help="pairs of launches; 0: no latency")
    parser.add_argument("--smoke", action="store_true", help="few examples, launches and steps: shows that it works, and writes no page")
    parser.add_argument("--state", type=Path, help="where finished parts are kept; default: benchmarks/quantization in the data folder")
    parser.add_argument("--peers-python", type=Path, default=ROOT / ".venv-peers" / "bin" / "python")
    arguments = parser.parse_args()
    if not arguments.peers_python.is_file():
        raise SystemExit(f"{arguments.peers_python} is not there: `make bench-quantization` makes the peers' environment")
    state = (arguments.state or data_root() / "benchmarks" / "quantization").resolve()
    settings = SMOKE if arguments.smoke else Settings(pairs=arguments.pairs)
    kept = not arguments.smoke and arguments.pairs > 0  # the smoke run's figures say nothing, and a line has latencies
    found: dict[str, Measured] = read(RUNS) if kept else {}
    for name in arguments.only or CONTESTS:
        print(f"== {name}", flush=True)
        if not arguments.only and name in found and (found[name].distilled or not arguments.distill or not CONTESTS[name].distilled):
            print(f"  read back: {found[name].day}, {found[name].machine}; `--only {name}` measures it again", flush=True)
            continue
        folder = state / ("smoke" if arguments.smoke else "") / name
        run = measured(name, contest(name, folder, state, arguments.peers_python.absolute(), settings, arguments.distill))
        print("\n".join([*HEAD, *run.rows]), flush=True)
        if kept and not keep(RUNS, run):
            print(f"  the line of {name} stays as it was: it has the trained arm, which this run has not (--distill)", flush=True)
        found = read(RUNS) if kept else {**found, name: run}
        if kept:
            write_between(PAGE, "quantization", page(found))
    print(json.dumps({"benchmark": "quantization", "models": {name: {**run.figures, "day": run.day} for name, run in found.items()}}))


if __name__ == "__main__":
    main()
