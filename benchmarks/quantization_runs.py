"""Finished models of `quantization.py`, one a line of a small file, so that they may be measured on different days and machines.

A line holds what the page and the JSON say of one model, with the day, the machine and the versions. All quantizers of a model are measured in one
run on one machine, and a line is replaced as a whole: nothing in it is compared with what another machine measured.
"""

from __future__ import annotations

import datetime
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quantization_contest import CONTESTS, DISTILLED, Found
from quantization_table import HEAD, MEANING, as_json, of_dialects, rows
from result_page import integer_kernels, processor

from kdedge.source import version_of

RUNS = Path(__file__).resolve().parent / "quantization_runs.jsonl"


@dataclass(frozen=True)
class Measured:
    """One model: its rows of the table, its figures, and where and when they were taken. `distilled`: with the arm that is trained."""

    model: str
    day: str
    machine: str
    rows: tuple[str, ...]
    figures: dict[str, Any]
    distilled: bool


def measured(name: str, found: Found) -> Measured:
    """What was found here, today."""
    versions = ", ".join(f"{tool} {version_of(tool)}" for tool in ("onnxruntime", "openvino"))
    machine = f"one thread on {processor()}, {os.cpu_count()} cores, {integer_kernels()}; {versions}{of_dialects(found)}"
    listed = tuple(rows({name: found})[len(HEAD) :])
    distilled = any(DISTILLED in arms for arms in found.scores.values())
    return Measured(name, datetime.datetime.now(datetime.UTC).date().isoformat(), machine, listed, as_json(found), distilled)


def read(log: Path) -> dict[str, Measured]:
    """The finished models, in the order of the table. A line that was cut off is none."""
    found: dict[str, Measured] = {}
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else ():
        try:
            entry = json.loads(line)
            found[entry["model"]] = Measured(**{**entry, "rows": tuple(entry["rows"])})
        except (ValueError, TypeError, LookupError):
            print(f"{log}: a line is no finished model and is left out: {line[:60]}", file=sys.stderr)
    return {name: found[name] for name in CONTESTS if name in found}


def keep(log: Path, run: Measured) -> bool:
    """Put it in the place of the model's earlier line; not where that has the trained arm, which takes longest, and this has not."""
    there = read(log)
    if run.model in there and there[run.model].distilled and not run.distilled:
        return False
    lines = [json.dumps(asdict(one), allow_nan=False) for one in ({**there, run.model: run}).values()]
    partial = log.with_suffix(".partial")
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    partial.replace(log)
    return True


def page(runs: Mapping[str, Measured]) -> list[str]:
    """The table, what its columns mean, where each model was measured, and which are missing."""
    together: dict[tuple[str, str], list[str]] = {}
    for run in runs.values():
        together.setdefault((run.machine, run.day), []).append(f"{run.model} ({run.figures['test_examples']:,} test examples)")
    lines = [MEANING, *(f"{', '.join(models)}: {day}, {machine}." for (machine, day), models in together.items()), *_missing(runs)]
    return [*HEAD, *(row for run in runs.values() for row in run.rows), *(part for line in lines for part in ("", line))]


def _missing(runs: Mapping[str, Measured]) -> Sequence[str]:
    names = [name for name in CONTESTS if name not in runs]
    return (f"Not measured yet: {', '.join(names)}.",) if names else ()
