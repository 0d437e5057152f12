from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kdedge.data.arrays import ArrayExamples
from kdedge.data.draws import Stream
from kdedge.data.folder import FolderExamples
from kdedge.data.mix import check_mixable, check_pixels, mixed, partners, shares
from kdedge.errors import DataError

SAMPLES = np.arange(5000, dtype=np.int64)


def test_in_a_view_every_example_is_a_partner_once() -> None:
    assert sorted(partners(101, 3, 0).tolist()) == list(range(101))


def test_partners_and_shares_depend_on_seed_and_view_alone_and_are_new_in_each() -> None:
    partners.cache_clear()
    first = partners(50, 1, 0).copy()
    for seed, view in ((2, 0), (1, 1), (2, 1)):
        assert not np.array_equal(partners(50, seed, view), first)
        assert not np.array_equal(shares(seed, view, SAMPLES), shares(1, 0, SAMPLES))
    assert np.array_equal(partners(50, 1, 0), first)
    assert np.array_equal(shares(1, 0, SAMPLES[7:9]), shares(1, 0, SAMPLES)[7:9])


def test_partners_cannot_be_changed_for_others() -> None:
    with pytest.raises(ValueError, match="read-only"):
        partners(10, 0, 0)[0] = 1


def test_shares_are_uniform() -> None:
    found = shares(5, 2, SAMPLES)
    assert found.min() >= 0
    assert found.max() < 65536
    counts = np.histogram(found, bins=10, range=(0, 65536))[0]
    # 500 of each expected; 5 standard deviations are 106.
    assert abs(counts - 500).max() < 107


def test_a_mixture_is_its_shares_rounded_to_whole_numbers() -> None:
    images, others = np.full((4, 1, 2, 3), 200, np.uint8), np.full((4, 1, 2, 3), 101, np.uint8)
    kept = np.array([0, 65536, 32768, 16384], np.int64)
    # The other alone, the image alone, 150.5 rounded up, 125.75.
    assert mixed(images, others, kept)[:, 0, 0, 0].tolist() == [101, 200, 151, 126]


def test_a_mixture_is_the_rounded_formula_for_all_pixels() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 256, (2, 40, 3, 3, 3), dtype=np.uint8)
    kept = shares(0, 0, np.arange(40, dtype=np.int64))
    share = kept.reshape(-1, 1, 1, 1) / 65536
    assert np.array_equal(mixed(a, b, kept), np.floor(share * a + (1 - share) * b + 0.5).astype(np.uint8))


def test_an_image_mixed_with_itself_stays() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 2, 2, 3), dtype=np.uint8)
    assert np.array_equal(mixed(images, images, shares(0, 0, np.arange(9, dtype=np.int64))), images)


def test_what_cannot_be_mixed_is_refused_by_name(tmp_path: Path) -> None:
    from PIL import Image

    for name, side in (("a.png", 2), ("b.png", 3)):
        Image.new("RGB", (side, side)).save(tmp_path / name)
    several = FolderExamples(tmp_path, ["a.png", "b.png"], np.zeros(2, np.int64), uniform=False)
    with pytest.raises(DataError, match=r"distill\.mixup: .* and data\.unlabelled holds images of several sizes: remove `mixup`"):
        check_mixable(several, "data.unlabelled")
    with pytest.raises(DataError, match=r"data\.train holds texts"):
        check_pixels(["a text"], "data.train")
    check_mixable(ArrayExamples(np.zeros((1, 2, 2, 3), np.uint8), np.zeros(1, np.int64), ["0"]), "data.train")


def test_mixing_has_streams_of_its_own() -> None:
    assert len({int(stream) for stream in Stream}) == len(Stream)
    assert {Stream.MIXUP_PARTNER, Stream.MIXUP_SHARE} == {4, 5}
