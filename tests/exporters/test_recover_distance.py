from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_graphs import Graph, at_opset, images, lowered, residual, run

from kdedge.errors import ExportError
from kdedge.exporters import equivalence
from kdedge.exporters.dialects.openvino import DIALECT as OPENVINO
from kdedge.exporters.equivalence import run as run_graph
from kdedge.exporters.quantize.distance import Distance, Gaps, is_closer, split
from kdedge.exporters.quantize.wiring import load
from kdedge.fidelity.divergence import kl_divergence


def scaled(path: Path, factor: float, offset: float = 0.0, width: int = 4) -> Path:
    """logits = factor x the pooled image + offset."""
    graph = Graph(channels=width)
    flat = graph.op("Flatten", "flat", graph.op("GlobalAveragePool", "pool", "image"))
    product = graph.op("Mul", "product", flat, graph.constant("factor", factor))
    return at_opset(graph.write(path, graph.op("Add", "logits", product, graph.constant("offset", offset))), 18)


def batches(count: int, channels: int = 4) -> list[dict[str, Any]]:
    return [{"image": images(count, channels=channels)}]


# ---- figures ---------------------------------------------------------------------------------------------------------------


def test_the_graph_itself_is_at_distance_zero(tmp_path: Path) -> None:
    path = residual(tmp_path / "g.onnx")
    gaps = Distance(load(path), batches(6, 3)).of(path)
    assert gaps.error.tolist() == [0.0] * 6
    assert gaps.kl is not None
    assert gaps.kl.tolist() == [0.0] * 6


def test_half_the_logits_are_a_quarter_off_in_squares_and_a_common_offset_is_nothing(tmp_path: Path) -> None:
    path = scaled(tmp_path / "g.onnx", 2.0)
    aim = Distance(load(path), batches(6))
    assert aim.of(scaled(tmp_path / "half.onnx", 1.0)).error.mean() == pytest.approx(0.25, rel=1e-5)
    assert aim.of(scaled(tmp_path / "moved.onnx", 2.0, offset=0.5)).error.mean() == pytest.approx(0.0, abs=1e-9)


def test_kl_is_the_one_of_the_softmaxes_example_by_example(tmp_path: Path) -> None:
    path = residual(tmp_path / "g.onnx")
    out = lowered(path, OPENVINO)[0]
    inputs = images(5)
    gaps = Distance(load(path), [{"image": inputs[:2]}, {"image": inputs[2:]}]).of(out)
    assert gaps.kl is not None
    wanted, found = (run_graph(file.read_bytes(), [{"image": inputs}], as_written=True)[0]["logits"] for file in (path, out))
    np.testing.assert_allclose(gaps.kl, kl_divergence(wanted, found), rtol=1e-3, atol=1e-9)


def test_an_output_that_is_no_row_of_logits_has_no_kl(tmp_path: Path) -> None:
    graph = Graph(channels=3)
    path = graph.write(tmp_path / "g.onnx", graph.conv("conv", "image", 4))
    gaps = Distance(load(path), batches(3, 3)).of(path)
    assert gaps.kl is None
    assert gaps.error.tolist() == [0.0, 0.0, 0.0]


def probabilities(path: Path, factor: float) -> Path:
    """softmax(factor x the pooled image)."""
    graph = Graph(channels=4)
    flat = graph.op("Flatten", "flat", graph.op("GlobalAveragePool", "pool", "image"))
    return graph.write(path, graph.op("Softmax", "shares", graph.op("Mul", "product", flat, graph.constant("factor", factor)), axis=-1))


def test_kl_of_an_output_of_probabilities_is_that_of_the_probabilities(tmp_path: Path) -> None:
    path, other = probabilities(tmp_path / "g.onnx", 40.0), probabilities(tmp_path / "other.onnx", 30.0)
    found = Distance(load(path), batches(6)).of(other)
    wanted, got = (run(graph, images(6, channels=4)).astype(np.float64) for graph in (path, other))
    assert found.kl is not None
    np.testing.assert_allclose(found.kl, (wanted * np.log(wanted / got)).sum(axis=1), rtol=1e-4)


def test_an_output_of_another_shape_is_as_far_off_as_one_that_is_not_finite(tmp_path: Path) -> None:
    def places(path: Path, limit: float) -> Path:
        graph = Graph(channels=4)
        above = graph.op("Greater", "above", "image", graph.constant("limit", limit))
        return graph.write(path, graph.op("Cast", "places", graph.op("NonZero", "nonzero", above), to=1))

    path = places(tmp_path / "g.onnx", 0.5)
    aim = Distance(load(path), [{"image": array[None]} for array in images(3, channels=4)])
    assert aim.of(path).error.tolist() == [0.0] * 3
    assert aim.of(places(tmp_path / "fewer.onnx", 0.6)).error.tolist() == [1e6] * 3


def test_an_output_of_text_has_no_say_and_is_refused_where_there_is_no_other(tmp_path: Path) -> None:
    path = scaled(tmp_path / "g.onnx", 2.0)
    model = onnx.load(path)
    model.graph.node.append(helper.make_node("Cast", ["logits"], ["text"], name="text", to=TensorProto.STRING))
    model.graph.output.append(helper.make_tensor_value_info("text", TensorProto.STRING, None))
    both, only = tmp_path / "both.onnx", tmp_path / "only.onnx"
    onnx.save(model, both)
    assert Distance(load(both), batches(6)).of(both).error.tolist() == [0.0] * 6
    del model.graph.output[0]
    onnx.save(model, only)
    with pytest.raises(ExportError, match="none of its outputs is a tensor of numbers"):
        Distance(load(only), batches(6))


def test_a_lowered_graph_that_does_not_run_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = residual(tmp_path / "g.onnx")
    aim = Distance(load(path), batches(2, 3))
    with pytest.raises(ExportError, match=r"^the quantized graph cannot be measured on the calibration examples: "):
        aim.of(scaled(tmp_path / "other.onnx", 1.0))
    with pytest.raises(ExportError, match=r"^the float graph fails on the calibration examples: "):
        Distance(load(path), batches(2, 4))


def test_no_example_to_measure_on_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="none is left"):
        Distance(load(residual(tmp_path / "g.onnx")), [])


# ---- memory ----------------------------------------------------------------------------------------------------------------


class Watched:
    """A session that counts how many of the outputs that it gave are still in memory."""

    held = most = 0

    def __init__(self, session: Any) -> None:
        self.session = session

    def get_outputs(self) -> Any:
        return self.session.get_outputs()

    def run(self, names: list[str], feed: Mapping[str, Any]) -> list[Any]:
        found: list[Any] = self.session.run(names, feed)
        for array in found:
            Watched.held += 1
            weakref.finalize(array, self._gone)
        Watched.most = max(Watched.most, Watched.held)
        return found

    @staticmethod
    def _gone() -> None:
        Watched.held -= 1


def test_outputs_are_not_held_in_memory_however_many_examples_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph(channels=4)
    path = graph.write(tmp_path / "g.onnx", graph.conv("conv", "image", 4))
    opened = equivalence.open_graph
    monkeypatch.setattr(equivalence, "open_graph", lambda *given, **settings: Watched(opened(*given, **settings)))
    Watched.held = Watched.most = 0
    aim = Distance(load(path), [{"image": images(2, channels=4, seed=seed)} for seed in range(20)])
    assert aim.of(path).error.tolist() == [0.0] * 40
    assert aim.of(path).error.tolist() == [0.0] * 40  # what was kept of the float graph is read again
    assert Watched.most <= 3


# ---- is it better ----------------------------------------------------------------------------------------------------------


def gaps(error: Any, kl: Any = None) -> Gaps:
    return Gaps(np.asarray(error, np.float64), None if kl is None else np.asarray(kl, np.float64))


NOISE = np.random.default_rng(0).normal(0, 0.1, 64)


def test_a_step_counts_only_where_it_helps_beyond_its_noise() -> None:
    before = gaps(np.ones(64))
    assert is_closer(gaps(0.8 + NOISE), before)
    assert not is_closer(gaps(0.995 + NOISE), before)
    assert not is_closer(before, before)
    assert not is_closer(gaps(1.2 + NOISE), before)


def test_kl_has_no_say_because_calibration_examples_hardly_show_it() -> None:
    before = gaps(np.ones(64), np.ones(64))
    assert is_closer(gaps(0.8 + NOISE, 1.2 + NOISE), before)
    assert not is_closer(gaps(1.2 + NOISE, 0.8 + NOISE), before)


def test_a_few_examples_prove_nothing() -> None:
    assert not is_closer(gaps(np.zeros(10)), gaps(np.ones(10)))


# ---- who judges ------------------------------------------------------------------------------------------------------------


def numbers(count: int, cuts: list[int]) -> list[dict[str, Any]]:
    return [{"image": part} for part in np.split(np.arange(count), cuts)]


def flat(parts: list[dict[str, Any]]) -> list[int]:
    return [int(number) for part in parts for number in part["image"]]


def test_a_half_judges_nobody_does_both_and_the_draw_is_the_same_each_time() -> None:
    learning, judging = split(numbers(41, [32]))
    assert len(flat(judging)) == 20
    assert sorted(flat(learning) + flat(judging)) == list(range(41))
    assert flat(split(numbers(41, [32]))[1]) == flat(judging)
    assert flat(split(numbers(41, [7, 20]))[1]) == flat(judging)
    assert flat(split(numbers(41, [32]), seed=1)[1]) != flat(judging)


def test_a_fixed_batch_size_is_kept_and_the_remainder_left_out() -> None:
    learning, judging = split(numbers(35, []), fixed=4)
    assert {len(part["image"]) for part in learning + judging} == {4}
    assert (len(learning), len(judging)) == (4, 4)


@pytest.mark.parametrize(("fixed", "count"), [(64, 1), (24, 4), (32, 3)])
def test_examples_are_gathered_for_a_fixed_batch_size_whatever_the_batches_are(fixed: int, count: int) -> None:
    learning, judging = split(numbers(96, [32, 64]), fixed)
    assert sorted(flat(learning) + flat(judging)) == list(range(fixed * count))
    assert len(learning) + len(judging) == count


def test_a_batch_whose_arrays_do_not_count_the_same_is_one_example() -> None:
    learning, judging = split([{"a": np.zeros(3), "b": np.zeros(2)}] * 8)
    assert (len(learning), len(judging)) == (4, 4)
    assert {len(part["a"]) for part in learning + judging} == {3}
