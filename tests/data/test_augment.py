from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdedge.data.augment import Augmentation, augment, parse
from kdedge.errors import RecipeError

UInt8 = npt.NDArray[np.uint8]


def places(height: int, width: int) -> UInt8:
    """An image whose pixels say where they are: (row + 1, column + 1, 7); black padding is (0, 0, 0)."""
    image = np.full((height, width, 3), 7, np.uint8)
    image[..., 0] = np.arange(1, height + 1)[:, None]
    image[..., 1] = np.arange(1, width + 1)[None, :]
    return image


def move_of(image: UInt8) -> tuple[int, int, bool]:
    """Where an augmented `places` was cut, as (rows down, columns right, mirrored), read off its pixels; at least two columns must be left."""
    row, column = np.argwhere(image[..., 2] == 7)[0]
    mirrored = bool(image[row, column, 1] > image[row, column + 1, 1] > 0)
    upright = image[:, ::-1] if mirrored else image
    row, column = np.argwhere(upright[..., 2] == 7)[0]
    return int(upright[row, column, 0]) - 1 - int(row), int(upright[row, column, 1]) - 1 - int(column), mirrored


@st.composite
def batches(draw: st.DrawFn) -> tuple[UInt8, npt.NDArray[np.int64]]:
    count = draw(st.integers(1, 6))
    shape = (count, draw(st.integers(1, 7)), draw(st.integers(1, 7)), 3)
    samples = draw(st.lists(st.integers(0, 10**9), min_size=count, max_size=count))
    images = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, shape, dtype=np.uint8)
    return images, np.array(samples, np.int64)


@settings(max_examples=60)
@given(batches(), st.integers(0, 5), st.integers(0, 2**40), st.integers(0, 4), st.booleans(), st.randoms())
def test_a_batch_is_augmented_as_each_of_its_images_alone_in_any_order(
    batch: tuple[UInt8, npt.NDArray[np.int64]], view: int, seed: int, pad: int, flip: bool, random: object
) -> None:
    images, samples = batch
    how = Augmentation(pad, flip)
    together = augment(images, samples, view, seed, how)
    order = np.random.default_rng(seed).permutation(len(images))
    shuffled = augment(images[order], samples[order], view, seed, how)
    assert np.array_equal(shuffled, together[order])
    for place, image in enumerate(images):
        assert np.array_equal(augment(image[None], samples[place : place + 1], view, seed, how)[0], together[place])
    for alone, expected in zip(augment(list(images), samples, view, seed, how), together, strict=True):
        assert np.array_equal(alone, expected)


@given(st.integers(0, 4), st.booleans(), st.integers(0, 10**9))
def test_an_augmented_image_is_the_padded_image_cut_at_one_place(pad: int, flip: bool, number: int) -> None:
    image = places(12, 11)
    out = augment(image[None], np.array([number]), 0, 0, Augmentation(pad, flip))[0]
    down, right, mirrored = move_of(out)
    assert abs(down) <= pad
    assert abs(right) <= pad
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    cut = padded[pad + down : pad + down + 12, pad + right : pad + right + 11]
    assert np.array_equal(out, cut[:, ::-1] if mirrored else cut)


def test_all_moves_occur_alike_and_half_of_the_images_are_mirrored() -> None:
    count = 16_200  # 81 places, 200 images each on average
    out = augment(np.repeat(places(12, 12)[None], count, axis=0), np.arange(count), 0, 0, Augmentation(4, True))
    moves = [move_of(image) for image in out]
    cells = np.zeros((9, 9))
    for down, right, _ in moves:
        cells[down + 4, right + 4] += 1
    # Chi-square with 80 degrees of freedom: 140 is exceeded less than once in 10,000 seeds, and this seed is fixed.
    assert float(((cells - 200) ** 2 / 200).sum()) < 140
    assert np.mean([mirrored for _, _, mirrored in moves]) == pytest.approx(0.5, abs=0.02)


def test_a_view_and_a_seed_change_what_happens_and_the_input_stays_as_it_was() -> None:
    images = np.random.default_rng(0).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)
    before = images.copy()
    base = augment(images, np.arange(64), 0, 0, Augmentation(4, True))
    assert np.array_equal(augment(images, np.arange(64), 0, 0, Augmentation(4, True)), base)
    for view, seed in ((1, 0), (0, 1)):
        changed = augment(images, np.arange(64), view, seed, Augmentation(4, True))
        assert sum(not np.array_equal(a, b) for a, b in zip(changed, base, strict=True)) > 50
    assert np.array_equal(images, before)


def test_images_of_several_sizes_keep_their_sizes() -> None:
    images = [places(4, 9), places(10, 3), places(1, 1)]
    out = augment(images, np.array([5, 6, 7]), 2, 0, Augmentation(4, True))
    assert [image.shape for image in out] == [image.shape for image in images]


def test_names_are_read_in_any_order() -> None:
    assert parse(["flip", "crop4"]) == parse(["crop4", "flip"]) == Augmentation(4, True)
    assert parse([]) == Augmentation()


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["crop4", "flop"], r"data\.augment\[1\]: unknown augmentation `flop`; did you mean `flip`\? \(allowed: crop4, flip\)"),
        (["crop"], r"data\.augment\[0\]: unknown augmentation `crop`"),
        (["crop0"], r"unknown augmentation `crop0`"),
        (["crop4", "crop2"], r"data\.augment\[1\]: `crop2` stands here for the second time"),
        (["flip", "flip"], r"second time"),
    ],
)
def test_a_wrong_name_is_an_error_that_says_what_is_allowed(names: list[str], sentence: str) -> None:
    with pytest.raises(RecipeError, match=sentence):
        parse(names)
