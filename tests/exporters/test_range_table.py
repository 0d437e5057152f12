from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_graphs import calibrated, residual

from kdedge.errors import ExportError
from kdedge.exporters.quantize.ranges import read_table, write_table


def test_a_table_reads_back_as_it_was_and_the_same_table_gives_the_same_bytes(tmp_path: Path) -> None:
    model = residual(tmp_path / "float.onnx")
    table = calibrated(model, observer="mse", keep_float=("a1",))
    write_table(table, tmp_path / "one.json")
    write_table(calibrated(model, observer="mse", keep_float=("a1",)), tmp_path / "two.json")
    assert read_table(tmp_path / "one.json") == table
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert str(tmp_path) not in (tmp_path / "one.json").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not json", "cannot be read"),
        ("[]", "not a range table"),
        ('{"schema": 99}', "schema 1 .found 99."),
        ('{"schema": 1}', "damaged"),
    ],
)
def test_a_file_that_is_no_range_table_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "ranges.json"
    path.write_text(text)
    with pytest.raises(ExportError, match=message):
        read_table(path)
    with pytest.raises(ExportError, match="cannot be read"):
        read_table(tmp_path / "absent.json")


def test_a_row_that_lacks_a_field_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    write_table(calibrated(residual(tmp_path / "float.onnx")), path)
    values = json.loads(path.read_text())
    del values["activations"][0]["affine"]
    path.write_text(json.dumps(values))
    with pytest.raises(ExportError, match=r"damaged.*affine"):
        read_table(path)
