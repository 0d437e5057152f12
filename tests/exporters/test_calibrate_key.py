"""What makes calibration run again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from small_graphs import residual

from kdedge.artifact import FloatGraph, ImageEncoder, ImportPath, PreparedData, SplitSource
from kdedge.recipe import QuantizeSection
from kdedge.workspace import Workspace

STAGE = "kdedge.exporters.quantize.calibrate:calibrate"
ENCODER = ImageEncoder(size=(16, 16))


def section(**values: Any) -> QuantizeSection:
    return QuantizeSection.model_validate(values).observing()


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Workspace, FloatGraph, PreparedData]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    split = SplitSource(ImportPath("test_calibrate:open_raw_images"), {}, 20, "fingerprint")
    data = PreparedData(ImportPath("test_calibrate:open_raw_images"), {"train": split}, ("a", "b"), calibration=(3, 17, 5), encoder=ENCODER)
    path = residual(tmp_path / "r.onnx")
    return Workspace(tmp_path / "workspace"), FloatGraph(path, "hash", (), (), ENCODER, ("a", "b"), 18, 0, 0.0), data


def test_what_comes_after_the_ranges_does_not_make_them_again(given: tuple[Workspace, FloatGraph, PreparedData]) -> None:
    workspace, model, data = given
    made = workspace.stage(STAGE, model, data, section(observer="percentile", percentile=99.0))
    later = section(
        observer="percentile",
        percentile=99.0,
        recover=["equalization", "adaptive_rounding"],
        aware={"epochs": 1.0},
        mixed={"agreement_student": ">= 0.99"},
    )
    assert workspace.stage(STAGE, model, data, later) == made
    assert [event.cached for event in workspace.events] == [False, True]


def test_the_model_the_examples_and_what_the_ranges_depend_on_do(given: tuple[Workspace, FloatGraph, PreparedData], tmp_path: Path) -> None:
    workspace, model, data = given
    workspace.stage(STAGE, model, data, section())
    assert workspace.kept(STAGE, model, data, section()) is not None
    other_model = replace(model, path=residual(tmp_path / "wider.onnx", channels=24))
    others = [
        (other_model, data, section()),
        (model, replace(data, calibration=(3, 17, 6)), section()),
        (model, replace(data, splits={"train": replace(data.splits["train"], fingerprint="changed")}), section()),
        (model, data, section(observer="minmax")),
        (model, data, section(percentile=99.0)),
        (model, data, section(keep_float=["stem"])),
    ]
    assert [workspace.kept(STAGE, *inputs) for inputs in others] == [None] * len(others)


def test_the_same_graph_elsewhere_does_not(given: tuple[Workspace, FloatGraph, PreparedData], tmp_path: Path) -> None:
    workspace, model, data = given
    made = workspace.stage(STAGE, model, data, section())
    elsewhere = tmp_path / "elsewhere.onnx"
    elsewhere.write_bytes(model.path.read_bytes())
    assert workspace.kept(STAGE, replace(model, path=elsewhere), data, section()) == made
