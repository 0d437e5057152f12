from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_graphs import Graph, calibrated, images, residual

from kdedge.errors import ExportError
from kdedge.exporters.quantize.ranges import OBSERVERS, read_table, with_observer, write_table


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
        ('{"schema": 1}', "schema 2 .found 1."),
        ('{"schema": 2}', "damaged"),
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


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda table: table["activations"][0].update(symmetric=float("nan")), "the chosen range of `image` is not finite"),
        (lambda table: table["activations"][0].update(affine=[0.25, 1.0]), "the chosen range of `image` .* does not hold 0"),
        (lambda table: table["activations"][0].update(low=float("inf")), "the extremes of `image`"),
        (lambda table: table["activations"][0].update(low="0"), "damaged"),
        (lambda table: table["activations"][0]["choices"][1].__setitem__(1, -1.0), "the moving-average range of `image`"),
        (lambda table: table["activations"][0].update(choices=[["minmax", 1.0]]), "damaged"),
        (lambda table: table["activations"].append([1]), "damaged"),
        (lambda table: table.update(activations=None), "damaged"),
        (lambda table: table.update(structure=[]), "damaged"),
        (lambda table: table["weights"][0]["symmetric"].pop(), r"the chosen amplitudes of `stem\.weight`"),
        (lambda table: table["weights"][0]["choices"][1][1].append(1.0), r"the mse amplitudes of `stem\.weight`"),
        (lambda table: table["weights"][0].update(symmetric=0.5), "damaged"),
    ],
)
def test_a_damaged_table_is_refused_with_the_place(tmp_path: Path, damage: Callable[[dict[str, Any]], None], message: str) -> None:
    path = tmp_path / "ranges.json"
    write_table(calibrated(residual(tmp_path / "float.onnx")), path)
    values = json.loads(path.read_text())
    damage(values)
    path.write_text(json.dumps(values))
    with pytest.raises(ExportError, match=f"damaged.*{message}" if message != "damaged" else message):
        read_table(path)


def test_one_observer_is_chosen_for_all_tensors_and_may_be_changed_without_a_new_calibration(tmp_path: Path) -> None:
    model = residual(tmp_path / "float.onnx")
    table = calibrated(model, observer="percentile")
    for name in OBSERVERS:
        assert with_observer(table, name) == calibrated(model, observer=name)
        chosen = with_observer(table, name).activation_ranges()["stem_relu"]
        assert (name, chosen.symmetric, chosen.affine) in chosen.choices
    assert with_observer(with_observer(table, "minmax"), "percentile") == table


def test_weights_are_clipped_where_activations_are(tmp_path: Path) -> None:
    graph = Graph(channels=16)
    graph.constant("weight", np.append(np.linspace(-1, 1, 4095), 2.0).reshape(1, 4096))  # one weight far out
    graph.op("Gemm", "gemm", graph.op("Flatten", "flat", "image"), "weight", transB=1)
    table = calibrated(graph.write(tmp_path / "float.onnx", "gemm"), images(2, channels=16))
    weight = table.weights[0]
    widest, searched = (choice[1] for choice in weight.choices)
    assert widest == tuple(max(-low, high) for low, high in zip(weight.low, weight.high, strict=True))
    assert all(one <= other for one, other in zip(searched, widest, strict=True))
    assert searched != widest
    amplitudes = {name: with_observer(table, name).weights[0].symmetric for name in OBSERVERS}
    assert {name for name, found in amplitudes.items() if found == widest} == {"minmax", "moving-average"}
    assert {name for name, found in amplitudes.items() if found == searched} == {"percentile", "entropy", "mse"}


def test_best_is_mse_until_a_dialect_has_decided(tmp_path: Path) -> None:
    model = residual(tmp_path / "float.onnx")
    assert calibrated(model, observer="best") == calibrated(model, observer="mse")


def test_an_observer_that_does_not_exist_or_saw_nothing_is_an_error(tmp_path: Path) -> None:
    table = calibrated(residual(tmp_path / "float.onnx"))
    with pytest.raises(ExportError, match="no observer `median`; choose one of minmax, moving-average, percentile, entropy, mse"):
        with_observer(table, "median")
    with pytest.raises(ExportError, match="no observer `best`"):
        with_observer(table, "best")
    learned = replace(table, activations=(replace(table.activations[0], choices=()), *table.activations[1:]))
    with pytest.raises(ExportError, match=r"`image` was not observed by `mse` .only by: none."):
        with_observer(learned, "mse")
