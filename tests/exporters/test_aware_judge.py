"""Quantization-aware distillation is judged on images that nobody has learned, and says on what and how surely."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_text import graph
from small_graphs import Graph, at_opset, images, residual

from kdedge.exporters.model_file import save_model
from kdedge.exporters.quantize.aware_judge import SHARES, VIEWS, Judge, Patched, swapped
from kdedge.exporters.quantize.distance import Distance, Gaps
from kdedge.exporters.quantize.wiring import load
from kdedge.intervals import paired_difference


def numbered(rows: int, size: int = 16) -> Any:
    """float32 [rows, 3, size, size] in which every number stands once."""
    return np.arange(rows * 3 * size * size, dtype=np.float32).reshape(rows, 3, size, size)


# ---- what is made of held images -------------------------------------------------------------------------------------------


def test_a_patch_is_swapped_between_neighbours_and_no_new_number_arises() -> None:
    given = numbered(8)
    made = swapped({"image": given}, np.random.RandomState(0))["image"]
    for first in range(0, 8, 2):
        one, other = given[first], given[first + 1]
        moved = made[first] != one
        np.testing.assert_array_equal(made[first], np.where(moved, other, one))
        np.testing.assert_array_equal(made[first + 1], np.where(moved, one, other))
        assert (moved == moved[:1]).all()  # the same places in every channel
        rows, columns = moved[0].any(axis=1).sum(), moved[0].any(axis=0).sum()
        assert moved[0].sum() == rows * columns  # one rectangle
        assert rows == columns
        # A side is rounded to a pixel of 16.
        assert SHARES[0] - 0.05 < moved[0].mean() < SHARES[1] + 0.05


def test_images_come_as_they_are_then_with_other_patches_each_time_and_the_same_whenever_asked() -> None:
    held = [{"image": numbered(4)}, {"image": numbered(4)}]
    made = Patched(held)
    assert len(made) == 2 * VIEWS
    everything = [batch["image"] for batch in made]
    for place, array in enumerate(everything):
        np.testing.assert_array_equal(made[place]["image"], array)
    np.testing.assert_array_equal(made[-1]["image"], everything[-1])
    np.testing.assert_array_equal(everything[0], numbered(4))
    np.testing.assert_array_equal(everything[1], numbered(4))
    patched = everything[2:]
    assert not any(np.array_equal(one, other) for place, one in enumerate(patched) for other in (numbered(4), *patched[:place]))
    np.testing.assert_array_equal(held[0]["image"], numbered(4))
    with pytest.raises(IndexError):
        made[2 * VIEWS]


def test_an_image_without_a_neighbour_is_left_out() -> None:
    made = Patched([{"image": numbered(5)}, {"image": numbered(1)}])
    assert [len(batch["image"]) for batch in made] == [4] * VIEWS
    assert made.images == 4 * VIEWS


def test_all_inputs_of_an_example_get_the_patch_at_the_same_place() -> None:
    made = swapped({"image": numbered(2), "depth": numbered(2, size=32)}, np.random.RandomState(3))
    moved = {name: made[name][0, 0] != numbered(2, size=array.shape[2])[0, 0] for name, array in made.items()}
    for axis in (0, 1):
        small, large = (np.flatnonzero(moved[name].any(axis=axis)) for name in ("image", "depth"))
        # Half a pixel of rounding on each side, in the pixels of the larger one.
        assert abs(2 * small[0] - large[0]) <= 2
        assert abs(2 * small[-1] + 1 - large[-1]) <= 2


# ---- the verdict -----------------------------------------------------------------------------------------------------------


def colours(path: Path, offset: float) -> Path:
    """Logits: 100 x the mean of each of 4 channels; an offset on the first of them is the error."""
    net = Graph(channels=4)
    means = net.op("Flatten", "flat", net.op("GlobalAveragePool", "pool", "image"))
    product = net.op("Mul", "product", means, net.constant("factor", 100.0))
    return at_opset(net.write(path, net.op("Add", "logits", product, net.constant("offset", [offset, 0, 0, 0]))), 18)


def one_colour_each(count: int) -> list[dict[str, Any]]:
    """Images of one channel alone, with neighbours of different ones: the logits of `colours` lead by 100."""
    held = np.zeros((count, 4, 16, 16), np.float32)
    held[np.arange(count), np.arange(count) % 4] = 1
    return [{"image": held[start : start + 8]} for start in range(0, count, 8)]


def test_a_gain_is_seen_that_images_known_by_heart_do_not_show(tmp_path: Path) -> None:
    exact, off = colours(tmp_path / "exact.onnx", 0.0), colours(tmp_path / "off.onnx", 0.5)
    held = one_colour_each(64)
    by_heart = Distance(load(exact), held).of(off).kl
    assert by_heart is not None
    assert by_heart.max() < 1e-12
    judge = Judge(load(exact), held, ("logits",))
    before, after = judge.gaps(off), judge.gaps(exact)
    found = judge.verdict(before, after)
    assert (found.kept, found.measure, found.after) == (True, "kl", 0.0)
    assert found.before > 1e-6
    assert not judge.verdict(after, before).kept
    assert not judge.verdict(before, before).kept


def judge_of(tmp_path: Path, count: int = 64, distributions: tuple[str, ...] = ("logits",)) -> Judge:
    return Judge(load(residual(tmp_path / "float.onnx")), [{"image": images(count)}], distributions)


def test_kl_decides_where_it_was_learned_whatever_the_squared_error_does(tmp_path: Path) -> None:
    judge, ones = judge_of(tmp_path), np.ones(64 * VIEWS)
    better = judge.verdict(Gaps(ones, ones), Gaps(2 * ones, 0.9 * ones))
    assert (better.kept, better.measure) == (True, "kl")
    assert (better.before, better.after) == pytest.approx((1.0, 0.9))
    assert "squared error 1 -> 2" in better.note
    assert not judge.verdict(Gaps(ones, ones), Gaps(0.5 * ones, 1.1 * ones)).kept


def test_the_squared_error_decides_where_the_output_was_not_learned_as_a_distribution(tmp_path: Path) -> None:
    judge, ones = judge_of(tmp_path, distributions=()), np.ones(64)
    found = judge.verdict(Gaps(ones, ones), Gaps(0.9 * ones, 2 * ones))
    assert (found.kept, found.measure) == (True, "relative-error")
    assert found.after == pytest.approx(0.9)
    assert "judged on 64 examples that were not learned from, as they are: difference -0.1" in found.note
    assert "n = 64; KL 1 -> 2 nats" in found.note


def test_a_pair_is_one_observation_however_many_patches_it_was_given(tmp_path: Path) -> None:
    judge, drawn = judge_of(tmp_path), np.random.default_rng(0).normal(size=32)
    pairs = (drawn - drawn.mean()) / drawn.std() - 0.2  # 0.2 below 0, with a standard error of 0.18 for 32 of them, 0.04 for 512
    changes = np.tile(np.repeat(pairs, 2), VIEWS)  # both images and all views of a pair say the same
    base = np.full(len(changes), 10.0)
    found = judge.verdict(Gaps(base, base), Gaps(base, base + changes))
    wanted = paired_difference("kl", 10 + pairs, np.full(32, 10.0), "nats").estimate
    assert wanted.low is not None
    assert wanted.high is not None
    assert f"[{wanted.low:.3g}, {wanted.high:.3g}] nats, n = 32" in found.note
    # As 512 observations it would pass for a gain.
    assert not found.kept
    assert (paired_difference("kl", base + changes, base, "nats").estimate.high or 0) < 0


def test_images_that_cannot_be_told_apart_in_the_output_are_one_observation_a_batch(tmp_path: Path) -> None:
    path = tmp_path / "rows.onnx"
    save_model(graph("(float[b, 3, 16, 16] image) => (float[r, 16] logits) { logits = Reshape(image, shape) }", shape=np.array([-1, 16])), path)
    judge = Judge(load(path), [{"image": images(4, seed=seed)} for seed in range(24)], ("logits",))
    found = judge.verdict(judge.gaps(path), judge.gaps(path))
    assert found.measure == "relative-error"
    assert "judged on 96 images" in found.note
    assert "n = 24" in found.note


def test_a_few_pairs_decide_nothing_and_the_note_says_so(tmp_path: Path) -> None:
    judge, ones = judge_of(tmp_path, count=20), np.ones(20 * VIEWS)
    found = judge.verdict(Gaps(ones, ones), Gaps(0 * ones, 0 * ones))
    assert not found.kept
    assert "too few to decide: 10, and 20 are needed" in found.note


def test_what_are_no_images_is_judged_as_it_is_and_said_so(tmp_path: Path) -> None:
    path = tmp_path / "texts.onnx"
    save_model(graph("(int64[b, t] ids) => (float[b, 5] logits) { e = Gather(table, ids) logits = ReduceMean(e, axes) }".replace(
        "ReduceMean(e, axes)", "ReduceMean <keepdims = 0> (e, axes)"), table=np.eye(5, dtype=np.float32), axes=np.array([1])), path)  # fmt: skip
    ids = np.random.default_rng(0).integers(0, 5, (24, 7))
    judge = Judge(load(path), [{"ids": ids}], ("logits",))
    found = judge.verdict(judge.gaps(path), judge.gaps(path))
    assert "judged on 24 examples that were not learned from, as they are (KL sees more where images can be patched" in found.note
    assert "n = 24" in found.note
    np.testing.assert_array_equal(judge.distance.batches[0]["ids"], ids)
