"""Channels made alike: the same function in float, a smaller error in integers, and only where a multiplication is worth it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_text import graph

from kdedge.artifact import Dimension, TensorSpec
from kdedge.errors import ExportError
from kdedge.exporters.dynamic import quantize_dynamically
from kdedge.exporters.equivalence import run
from kdedge.exporters.model_file import constant
from kdedge.exporters.smoothing import Channels, channel_sizes, factors_of, predicted_error, smooth

RANDOM = np.random.default_rng(3)
#: Two of 32 channels are 50 times as large as the others, as behind a transformer's LayerNorm.
GAMMA = np.where(np.arange(32) < 2, 50, 1).astype(np.float32)
NET = """(float[b, l, 32] x) => (float[b, l, 8] y, float[b, l, 8] z) {
    n = LayerNormalization<axis = -1>(x, gamma) y = MatMul(n, w) z = MatMul(n, v)
}"""
CONSTANTS = {"gamma": GAMMA, "w": RANDOM.standard_normal((32, 8)).astype(np.float32), "v": RANDOM.standard_normal((32, 8)).astype(np.float32)}


def examples(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield {"x": random.standard_normal((2, 5, 32)).astype(np.float32)}


def test_sizes_are_those_of_paper_and_their_mean_over_calls() -> None:
    model = graph("(float[b, 2] x) => (float[b, 3] y) { y = MatMul(x, w) }", w=np.ones((2, 3), np.float32))
    first, second = np.array([[1, -2], [3, 4]], np.float32), np.array([[5, 0]], np.float32)
    (found,) = channel_sizes(model, [{"x": first}, {"x": second}]).values()
    np.testing.assert_array_equal(found.low, [(1 + 5) / 2, (-2 + 0) / 2])
    np.testing.assert_array_equal(found.high, [(3 + 5) / 2, (4 + 0) / 2])
    np.testing.assert_array_equal(found.square, [((1 + 9) / 2 + 25) / 2, ((4 + 16) / 2 + 0) / 2])


def test_the_predicted_error_is_that_of_paper() -> None:
    channels = Channels(np.array([-1.0, 0.0]), np.array([2.0, 0.5]), np.array([1.0, 0.25]))
    weights = np.array([[1.0, 2.0], [4.0, 0.0]])
    activation = 3**2 / (12 * 255**2) * (1 + 4 + 16)
    weight = (1 + 0.25) * ((4 / 127) ** 2 + (2 / 127) ** 2) / 12
    assert predicted_error(channels, weights, np.ones(2)) == pytest.approx(activation + weight)


def test_the_float_function_stays_and_the_integers_come_closer() -> None:
    model = graph(NET, **CONSTANTS)
    sizes = channel_sizes(model, examples(4))
    smoothed, alike = smooth(model, sizes)
    assert alike == ("n",)
    assert [node.op_type for node in smoothed.graph] == ["LayerNormalization", "Mul", "MatMul", "MatMul"]
    feeds = list(examples(4, seed=1))
    errors = {}
    for name, made in (("smooth", quantize_dynamically(model, channels=sizes).model), ("plain", quantize_dynamically(model).model)):
        pairs = zip(run(made, feeds), run(model, feeds), strict=True)
        errors[name] = np.mean([np.square(found[key] - wanted[key]).mean() for found, wanted in pairs for key in ("y", "z")])
    for found, wanted in zip(run(smoothed, feeds), run(model, feeds), strict=True):
        np.testing.assert_allclose(found["y"], wanted["y"], rtol=1e-4, atol=1e-4)
    assert errors["smooth"] < 0.2 * errors["plain"]


def test_a_note_says_what_was_done() -> None:
    model = graph(NET, **CONSTANTS)
    assert (
        "the channels of 1 activations were made alike before they are quantized"
        in quantize_dynamically(model, channels=channel_sizes(model, examples(2))).notes
    )


def test_channels_of_one_size_are_left_alone() -> None:
    model = graph(NET, **(CONSTANTS | {"gamma": np.ones(32, np.float32)}))
    assert smooth(model, channel_sizes(model, examples(4)))[1] == ()


def test_a_layer_that_stays_float_keeps_its_input_and_its_weights() -> None:
    model = graph(NET, **CONSTANTS)
    smoothed, _ = smooth(model, channel_sizes(model, examples(2)), ("z",))
    readers = {str(node.name): str(node.inputs[0].name) for node in smoothed.graph if node.op_type == "MatMul" and node.inputs[0] is not None}
    assert readers == {"y": "n/smoothed", "z": "n"}
    kept = next(node for node in smoothed.graph if node.name == "z")
    np.testing.assert_array_equal(constant(kept.inputs[1]), CONSTANTS["v"])


def test_a_gemm_whose_weights_are_turned_is_scaled_along_its_inputs() -> None:
    text = "(float[b, 32] x) => (float[b, 8] y) { n = Mul(x, gamma) y = Gemm<transB = 1>(n, w, c) }"
    model = graph(text, gamma=GAMMA, w=CONSTANTS["w"].T.copy(), c=np.ones(8, np.float32))
    feeds = [{"x": RANDOM.standard_normal((6, 32)).astype(np.float32)}]
    smoothed, alike = smooth(model, channel_sizes(model, feeds))
    assert alike == ("n",)
    np.testing.assert_allclose(run(smoothed, feeds)[0]["y"], run(model, feeds)[0]["y"], rtol=1e-4, atol=1e-4)


def test_the_original_is_left_alone() -> None:
    model = graph(NET, **CONSTANTS)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    smooth(model, channel_sizes(model, examples(2)))
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_no_example_and_an_infinite_one_are_refused() -> None:
    model = graph(NET, **CONSTANTS)
    with pytest.raises(ExportError, match="there are no calibration examples"):
        channel_sizes(model, [])
    with pytest.raises(ExportError, match="`n` is not finite on a calibration example"):
        channel_sizes(model, [{"x": np.full((1, 1, 32), np.inf, np.float32)}])


def test_an_example_that_the_graph_cannot_take_is_told_in_a_sentence() -> None:
    with pytest.raises(ExportError, match="the float graph fails on a calibration example"):
        channel_sizes(graph(NET, **CONSTANTS), [{"x": np.ones((1, 1, 31), np.float32)}])


@pytest.mark.parametrize(("batch", "rows"), [(Dimension("b", 1, 4, 64), [8, 3]), (4, [4, 4, 4])])
def test_a_graph_of_one_batch_size_gets_whole_batches(batch: int | Dimension, rows: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from kdedge.exporters import smoothing

    held = np.arange(11)
    monkeypatch.setattr(smoothing, "open_examples", lambda source: SimpleNamespace(raw=lambda chosen: held[chosen]))
    monkeypatch.setattr("kdedge.exporters.examples.encode", lambda encoder, raw: {"x": raw})
    model: Any = SimpleNamespace(encoder=None, inputs=(TensorSpec("x", "float32", (batch, 3)),))
    data: Any = SimpleNamespace(splits={"train": None}, calibration=tuple(range(11)))
    found = [batch["x"] for batch in smoothing._batches(model, data)]
    assert [len(one) for one in found] == rows
    assert np.concatenate(found)[:11].tolist() == list(range(11))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=3, max_size=3), st.lists(st.floats(-1e6, 1e6), min_size=6, max_size=6))
def test_factors_are_finite_and_positive_and_predict_a_gain(highs: list[float], weights: list[float]) -> None:
    high = np.array(highs)
    channels = Channels(np.zeros(3), high, np.square(high) / 3)
    matrix = np.array(weights).reshape(3, 2)
    factors = factors_of(channels, [matrix])
    if factors is not None:
        assert np.isfinite(factors).all()
        assert (factors > 0).all()
        assert predicted_error(channels, matrix, factors) < 0.75 * predicted_error(channels, matrix, np.ones(3))


def test_the_stage_writes_the_same_bytes_and_reads_them_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from kdedge.exporters import smoothing
    from kdedge.exporters.model_file import save_model

    save_model(graph(NET, **CONSTANTS), tmp_path / "model.onnx")
    monkeypatch.setattr(smoothing, "_batches", lambda model, data: examples(3))
    made: Any = SimpleNamespace(path=tmp_path / "model.onnx", sha256="hash")
    data: Any = SimpleNamespace(calibration=(1, 2, 3))
    written = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        result = smoothing.observe_channels(made, data, folder=tmp_path / name)
        written.append(result.path.read_bytes())
    assert written[0] == written[1]
    assert (result.model_sha256, result.samples) == ("hash", 3)
    found, wanted = smoothing.read_sizes(result.path), channel_sizes(graph(NET, **CONSTANTS), examples(3))
    assert list(found) == ["n"]
    np.testing.assert_array_equal(found["n"].high, wanted["n"].high)
