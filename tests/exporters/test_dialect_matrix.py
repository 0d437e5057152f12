"""What runtimes really execute of each dialect's graphs: operator family x dialect x runtime, against a recorded table.

The table holds for the versions and the machine that it names. `python tests/exporters/test_dialect_matrix.py` in the project's folder records the
columns of the machine that it runs on: those of another processor (an emulated arm64, say) stand beside each other in the same file.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from executed_operators import SIGNED, column_of, has_tiles, on_onnxruntime, on_openvino, saturates
from graph_families import FAMILIES, with_one_image
from small_graphs import calibrated, dialect, images, lowered, run, sqnr

from kdedge.exporters.dialects.validate import validate

RECORDED = Path(__file__).with_name("dialect_matrix.json")
# Which dialects are meant for a runtime, with what it needs to be told on a machine that it is not meant for.
RUNTIMES: dict[str, dict[str, dict[str, str]]] = {
    "onnxruntime": {
        "onnxruntime-x86": {},
        "onnxruntime-x86-avx2": {},
        "onnxruntime-arm": SIGNED,
        "phone-xnnpack": SIGNED,
        "qnn-htp": {},
        "tensorrt": {},
    },
    "openvino": {"openvino": {}, "openvino-avx2": {}, "onnxruntime-x86": {}, "tensorrt": {}},
}
# What 8 bits may cost a small random network; one with 7-bit weights loses about 6 dB more.
LEAST_DB, LEAST_DB_7_BITS = 28.0, 24.0

# Combinations that nobody should ship: the runtime takes the file and returns other numbers, without a word, on all CPUs but those with AMX.
MISREAD = {("openvino", "concat", "tensorrt"), ("openvino", "transposed", "tensorrt")}

Column = dict[str, dict[str, str]]


def measured(runtime: str, family: str, folder: Path) -> dict[str, tuple[str, float]]:
    """What the runtime executes of a family's graph in each dialect, and how close its output is to the float graph's, in dB."""
    path = with_one_image(FAMILIES[family](folder / f"{family}.onnx"))
    table, inputs = calibrated(path), images(1, seed=9)
    reference = run(path, inputs)
    found = {}
    for name, entries in RUNTIMES[runtime].items():
        out, report = lowered(path, dialect(name), table)
        validate(out, dialect(name), report.kept)
        text, outputs = on_openvino(out, {"image": inputs}) if runtime == "openvino" else on_onnxruntime(out, {"image": inputs}, entries)
        found[name] = text, sqnr(reference, outputs)
    return found


CASES = [(runtime, family) for runtime in RUNTIMES for family in FAMILIES]


@pytest.mark.parametrize(("runtime", "family"), CASES, ids=lambda value: str(value))
def test_what_is_executed_is_what_was_recorded(tmp_path: Path, runtime: str, family: str) -> None:
    pytest.importorskip(runtime)
    table = json.loads(RECORDED.read_text(encoding="utf-8"))
    if column_of(runtime) not in table:
        pytest.skip(
            f"the table holds for {', '.join(table)}, this is {column_of(runtime)}: record it with python tests/exporters/{Path(__file__).name}"
        )
    found = measured(runtime, family, tmp_path)
    assert {name: text for name, (text, _) in found.items()} == table[column_of(runtime)][family]
    for name, (_, decibels) in found.items():
        if runtime == "openvino" and saturates() and dialect(name).weight.bits == 8:
            continue  # what openvino-avx2 is for
        if (runtime, family, name) in MISREAD and not has_tiles():
            assert decibels < 25.0, f"{runtime} reads {family} in {name} now: take it out of MISREAD"
        else:
            assert decibels > (LEAST_DB_7_BITS if dialect(name).weight.bits < 8 else LEAST_DB), name


def test_each_dialect_of_onnxruntime_executes_the_same_integer_operators_whatever_its_types_are() -> None:
    for column, families in json.loads(RECORDED.read_text(encoding="utf-8")).items():
        if column.startswith("onnxruntime"):
            for family, row in families.items():
                assert row["onnxruntime-x86"] == row["onnxruntime-x86-avx2"] == row["onnxruntime-arm"], (column, family)


def record() -> None:
    """Write this machine's columns into the table, and print how close each result is."""
    table: dict[str, Column] = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    for runtime, family in CASES:
        with tempfile.TemporaryDirectory() as folder:
            found = measured(runtime, family, Path(folder))
        table.setdefault(column_of(runtime), {})[family] = {name: text for name, (text, _) in found.items()}
        for name, (text, decibels) in found.items():
            print(f"{runtime:12} {family:18} {name:22} {decibels:5.1f} dB  {text}")
    RECORDED.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    record()
