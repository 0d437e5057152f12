"""What runtimes really execute of each dialect's graphs on arm64: the columns of the same table as on x86, measured on emulated CPUs.

A Cortex-A72 stands for cores without integer dot products, a Cortex-A76 for those with them. The kernels are chosen and run as on the real core;
only how fast is not known. `python tests/exporters/test_dialect_matrix_arm64.py` in the project's folder records these columns.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from emulated_board import run_python
from executed_operators import column_of, of_layers, of_operators
from graph_families import FAMILIES, with_one_image
from small_graphs import calibrated, dialect, images, lowered, run, sqnr

RECORDED = Path(__file__).with_name("dialect_matrix.json")
SESSIONS = Path(__file__).with_name("emulated_sessions.py")
CPUS = ("cortex-a72", "cortex-a76")
# No session is told anything: what a dialect needs of this machine it must get unasked.
DIALECTS = ("onnxruntime-arm", "onnxruntime-x86", "onnxruntime-x86-avx2", "phone-xnnpack", "qnn-htp", "tensorrt")
# OpenVINO takes seconds a graph here, so that the files of others are shown to it for two families only.
OTHERS_FOR_OPENVINO = ("onnxruntime-x86", "tensorrt")
EVERYTHING = tuple((runtime, family) for runtime in ("onnxruntime", "openvino") for family in FAMILIES)
# The other graphs take a minute a CPU.
QUICK = (("onnxruntime", "residual"), ("onnxruntime", "depthwise"), ("onnxruntime", "attention"))
# What 8 bits may cost a small random network; one with 7-bit weights loses about 6 dB more.
LEAST_DB, LEAST_DB_7_BITS = 28.0, 24.0

Case = tuple[str, str]
Cell = tuple[str, float | None]


def dialects_of(runtime: str, family: str) -> tuple[str, ...]:
    """Which files a runtime gets of a family."""
    if runtime == "onnxruntime":
        return DIALECTS
    return ("openvino", *(OTHERS_FOR_OPENVINO if family in ("residual", "depthwise") else ()))


@cache
def lowered_graphs(cases: Sequence[Case]) -> tuple[tempfile.TemporaryDirectory[str], list[dict[str, Any]], dict[str, Any]]:
    """The folder, one task a graph, and what the float graphs answer here. Made once for all CPUs."""
    folder = tempfile.TemporaryDirectory(prefix="kdedge-arm64-")
    inputs, root = images(1, seed=9), Path(folder.name)
    np.save(root / "image.npy", inputs)
    tasks, references = [], {}
    for family in dict.fromkeys(family for _, family in cases):
        rows = {runtime: dialects_of(runtime, family) for runtime, its_family in cases if its_family == family}
        (root / family).mkdir()
        path = with_one_image(FAMILIES[family](root / family / "float.onnx"))
        table, references[family] = calibrated(path), run(path, inputs)
        for name in sorted({name for names in rows.values() for name in names}):
            graph = lowered(path, dialect(name), table)[0].rename(root / family / f"{name}.onnx")
            facts = {"family": family, "dialect": name, "model": str(graph), "inputs": str(root / "image.npy")}
            tasks += [{"runtime": runtime, **facts} for runtime, names in rows.items() if name in names]
    return folder, tasks, references


@cache
def measured(cpu: str, cases: Sequence[Case]) -> dict[tuple[str, str], dict[str, Cell]]:
    """By runtime and family, by dialect: what is executed on the CPU, and how close its output is to the float graph's here, in dB."""
    folder, tasks, references = lowered_graphs(cases)
    found: dict[tuple[str, str], dict[str, Cell]] = {}
    asked = []
    for task in tasks:
        stem = f"{task['model']}.{task['runtime']}.{cpu}"
        asked.append({**task, "outputs": f"{stem}.npy", "executed": f"{stem}.executed", "refused": f"{stem}.refused"})
    script = Path(folder.name) / f"{cpu}.json"
    script.write_text(json.dumps(asked), encoding="utf-8")
    run_python(cpu, str(SESSIONS), str(script))
    for task in asked:
        found.setdefault((task["runtime"], task["family"]), {})[task["dialect"]] = _cell(task, references[task["family"]])
    return found


def _cell(task: dict[str, Any], reference: Any) -> Cell:
    if Path(task["refused"]).exists():
        return f"refused: {Path(task['refused']).read_text(encoding='utf-8')}", None
    decibels = sqnr(reference, np.load(task["outputs"]))
    if task["runtime"] == "openvino":
        return of_layers(json.loads(Path(task["executed"]).read_text(encoding="utf-8"))), decibels
    return of_operators(Counter(node.op_type for node in onnx.load(task["executed"]).graph.node)), decibels


def check(cpu: str, cases: Sequence[Case]) -> None:
    for runtime in {runtime for runtime, _ in cases}:
        pytest.importorskip(runtime)
    table = json.loads(RECORDED.read_text(encoding="utf-8"))
    for (runtime, family), row in measured(cpu, cases).items():
        column = column_of(runtime, f"aarch64 {cpu}")
        if column not in table:
            pytest.skip(f"the table holds for {', '.join(table)}, this is {column}: record it with python tests/exporters/{Path(__file__).name}")
        assert {name: text for name, (text, _) in row.items()} == table[column][family], (column, family)
        for name, (_, decibels) in row.items():
            if decibels is not None:
                assert decibels > (LEAST_DB_7_BITS if dialect(name).weight.bits < 8 else LEAST_DB), (column, family, name)


@pytest.mark.parametrize("cpu", CPUS)
def test_what_an_arm64_core_executes_of_common_networks_is_what_was_recorded(cpu: str) -> None:
    check(cpu, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cpu", CPUS)
def test_what_an_arm64_core_executes_of_every_family_is_what_was_recorded(cpu: str) -> None:
    check(cpu, tuple(case for case in EVERYTHING if case not in QUICK))


def test_on_arm64_signed_activations_run_in_integers_unasked() -> None:
    """On x86 the same needs the session option `qdq_int8_allowed`."""
    table = json.loads(RECORDED.read_text(encoding="utf-8"))
    here = {column.partition(" aarch64 ")[2]: rows for column, rows in table.items() if column.startswith("onnxruntime") and "aarch64" in column}
    assert set(here) == set(CPUS)
    for rows in here.values():
        for family, row in rows.items():
            assert row["onnxruntime-arm"] == row["phone-xnnpack"] == row["onnxruntime-x86"], family
    signed = next(rows for column, rows in table.items() if column.startswith("onnxruntime") and column.endswith("x86_64"))
    assert {family: row["onnxruntime-arm"] for family, row in here["cortex-a76"].items()} == {
        family: row["onnxruntime-arm"] for family, row in signed.items()
    }


def test_dot_products_change_no_operator_of_onnxruntime() -> None:
    table = json.loads(RECORDED.read_text(encoding="utf-8"))
    with_them, without = (next(rows for column, rows in table.items() if column.startswith("onnxruntime") and column.endswith(cpu)) for cpu in CPUS)
    assert with_them == without


def record() -> None:
    """Write the columns of the emulated CPUs into the table, and print how close each result is."""
    table: dict[str, dict[str, dict[str, str]]] = json.loads(RECORDED.read_text(encoding="utf-8"))
    for cpu in CPUS:
        for (runtime, family), row in measured(cpu, EVERYTHING).items():
            table.setdefault(column_of(runtime, f"aarch64 {cpu}"), {})[family] = {name: text for name, (text, _) in row.items()}
            for name, (text, decibels) in row.items():
                print(f"{cpu} {runtime:12} {family:18} {name:22} {'' if decibels is None else f'{decibels:5.1f} dB'}  {text}")
    RECORDED.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
