"""Nodes that cost too much of the outputs stay float, no more than needed, and the wish is met on the file itself."""

from __future__ import annotations

from pathlib import Path

import foreign_graphs as graphs
import numpy as np
import pytest
from onnx import helper

from kdedge.errors import ExportError, KdedgeError
from kdedge.exporters.foreign.quantizing import Quantized, quantize_file
from kdedge.exporters.foreign.sensitivity import _noisiest, _power
from kdedge.recipe import QuantizeSection
from kdedge.workspace import Workspace


def fragile(path: Path) -> Path:
    """Two layers of which the first feeds a difference of large, nearly equal numbers: rounding there is all that comes out."""
    weights = graphs.constants(
        w1=np.repeat(graphs.random(32, 1, scale=1.0), 32, axis=1) + graphs.random(32, 32, seed=1, scale=0.003),
        w2=graphs.random(32, 32, seed=2),
        w3=graphs.random(32, 8, seed=3),
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["large"], "large"),
        helper.make_node("ReduceMean", ["large"], ["middle"], "middle", axes=[1]),
        helper.make_node("Sub", ["large", "middle"], ["small"], "difference"),
        helper.make_node("MatMul", ["small", "w2"], ["m"], "robust"),
        helper.make_node("Relu", ["m"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w3"], ["y"], "last"),
    ]
    return graphs.save(path, nodes, [graphs.described("x", ["n", 32])], [graphs.described("y", ["n", 8])], weights)


def quantized(tmp_path: Path, at_least: float | None, **settings: object) -> Quantized:
    model, data = fragile(tmp_path / "m.onnx"), graphs.rows(tmp_path / "c.npz", count=60)
    section = QuantizeSection.model_validate(settings)
    return quantize_file(model, "onnxruntime-x86", data, tmp_path / "out.onnx", section, Workspace(tmp_path / "work"), at_least)


def decibels(result: Quantized) -> float:
    (one,) = result.distances
    assert one.sqnr is not None
    return one.sqnr.value


def test_only_the_node_that_spoils_the_outputs_stays_float(tmp_path: Path) -> None:
    plain, kept = quantized(tmp_path, None), quantized(tmp_path, 20.0)
    assert plain.integer == ("large", "robust", "last")
    assert decibels(plain) < 15
    assert kept.integer == ("robust", "last")
    assert [(one.node, one.reason) for one in kept.left] == [("large", "quantized, it costs too much of the outputs")]
    assert decibels(kept) > 20
    assert "1 of 3 nodes stay float so that outputs keep 20 dB on examples of calibration" in kept.notes


def test_a_wish_that_is_met_already_changes_nothing(tmp_path: Path) -> None:
    assert quantized(tmp_path, -20.0).integer == ("large", "robust", "last")


def test_a_wish_that_no_integers_meet_leaves_the_model_alone(tmp_path: Path) -> None:
    result = quantized(tmp_path, 120.0)
    assert (result.written, result.integer) == (False, ())
    assert result.reason == "no layer can compute on integers while outputs keep 120 dB"
    assert {one.reason for one in result.left} == {"quantized, it costs too much of the outputs"}


@pytest.mark.parametrize("wish", [4000.0, -200.0, float("nan"), float("inf")])
def test_a_wish_that_is_no_sqnr_is_refused(tmp_path: Path, wish: float) -> None:
    with pytest.raises(KdedgeError, match="an SQNR of at most 150 dB can be asked for"):
        quantized(tmp_path, wish)


@pytest.mark.parametrize(
    ("kind", "said"),
    [(graphs.INT64, "is one of floats, and this model gives none"), (graphs.FLOAT, "`y` has another shape once the model is quantized")],
)
def test_outputs_that_have_no_sqnr_are_no_wish_that_is_met(tmp_path: Path, kind: int, said: str) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], "first"),
        helper.make_node("Relu", ["m"], ["r"], "relu"),
        helper.make_node("NonZero", ["r"], ["found"], "find"),
        helper.make_node("Cast", ["found"], ["y"], "cast", to=kind),
    ]
    weights = graphs.constants(w=graphs.random(32, 512))
    model = graphs.save(tmp_path / "m.onnx", nodes, [graphs.described("x", ["n", 32])], [graphs.described("y", [2, "k"], kind)], weights)
    data, out = graphs.rows(tmp_path / "c.npz"), tmp_path / "out.onnx"
    with pytest.raises(ExportError, match=said):
        quantize_file(model, "onnxruntime-x86", data, out, QuantizeSection(), Workspace(tmp_path / "work"), 20.0)
    assert not out.exists()


def test_an_output_that_is_no_longer_finite_is_all_noise() -> None:
    want = np.asarray([1.0, 2.0, -np.inf], np.float32)
    assert _power(want, np.asarray([1.0, 0.0, 7.0], np.float32)) == 4.0
    assert _power(want, np.asarray([1.0, np.nan, 0.0], np.float32)) == np.inf
    assert _noisiest(np.asarray([[0.1], [np.inf], [0.2]]), np.asarray([1.0])) == [1]


def test_the_noisiest_of_an_outputs_allowance_goes_first_and_no_more_than_needed() -> None:
    noises = np.asarray([[1.0, 0.0], [0.1, 0.1], [0.0, 5.0], [0.2, 0.3]])
    assert _noisiest(noises, np.asarray([2.0, 6.0])) == []
    assert _noisiest(noises, np.asarray([2.0, 1.0])) == [2]
    assert _noisiest(noises, np.asarray([0.5, 1.0])) == [2, 0]
    assert sorted(_noisiest(noises, np.asarray([0.0, 0.0]))) == [0, 1, 2, 3]


def test_recovery_is_measured_and_told(tmp_path: Path) -> None:
    model, data = graphs.classifier(tmp_path / "m.onnx"), graphs.images(tmp_path / "c.npz", count=120)
    section = QuantizeSection(recover=("bias_correction",))
    result = quantize_file(model, "onnxruntime-x86", data, tmp_path / "out.onnx", section, Workspace(tmp_path / "work"))
    assert result.written
    assert any(note.startswith("bias_correction: ") and ("kept" in note) for note in result.notes)


def test_recovery_without_an_axis_of_examples_is_refused(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    frame, state = (generator.normal(size=shape).astype(np.float32) for shape in ((20, 1, 64), (20, 2, 1, 32)))
    np.savez(tmp_path / "c.npz", frame=frame, state=state, rate=np.full(20, 8000))
    model = graphs.with_state(tmp_path / "m.onnx")
    with pytest.raises(ExportError, match="need inputs whose axis 0 counts examples"):
        quantize_file(
            model, "onnxruntime-x86", tmp_path / "c.npz", tmp_path / "out.onnx", QuantizeSection(observer="best"), Workspace(tmp_path / "work")
        )
