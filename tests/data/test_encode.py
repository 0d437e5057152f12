from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdedge.artifact import ImageEncoder, TextEncoder
from kdedge.data import tokenizer
from kdedge.data.encode import encode, fit, lengths
from kdedge.errors import DataError, MissingExtra

UInt8 = npt.NDArray[np.uint8]
TEXTS = ["a cat", "the cat sat on the mat", "dogs"]


def pixels(height: int, width: int, seed: int = 0) -> UInt8:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_bytes_survive_the_way_to_floats_and_back(count: int, height: int, width: int, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    array = encode(ImageEncoder(size=(height, width), input_name="x"), images)["x"]
    assert (array.dtype.name, array.shape, array.flags.c_contiguous) == ("float32", (count, 3, height, width), True)
    assert np.array_equal(np.rint(array * 255).astype(np.uint8).transpose(0, 2, 3, 1), images)
    assert array.min() >= 0
    assert array.max() <= 1


def test_values_are_divided_by_255_in_float32() -> None:
    array = encode(ImageEncoder(size=(1, 1)), np.array([[[[0, 51, 255]]]], np.uint8))["image"]
    assert array.ravel().tolist() == [0.0, float(np.float32(51) / np.float32(255)), 1.0]


def test_a_list_and_an_array_of_the_same_images_are_encoded_alike() -> None:
    images = np.stack([pixels(9, 7, seed) for seed in range(12)])
    for encoder in (ImageEncoder(size=(9, 7)), ImageEncoder(size=(4, 4), resize=5), ImageEncoder(size=(7, 7), resize=7)):
        assert np.array_equal(encode(encoder, images)["image"], encode(encoder, list(images))["image"])


def test_the_cut_is_at_the_centre() -> None:
    image = pixels(6, 9)
    assert np.array_equal(fit(ImageEncoder(size=(4, 4), resize=6), image), image[1:5, 2:6])  # (9 - 4) / 2 = 2.5 goes to the even 2
    assert np.array_equal(fit(ImageEncoder(size=(6, 6), resize=6), image), image[:, 2:8])  # 1.5 goes to the even 2


def test_the_shorter_side_is_resized_and_the_shape_kept() -> None:
    flat = np.full((10, 25, 3), 77, np.uint8)
    assert fit(ImageEncoder(size=(20, 20), resize=20), flat).shape == (20, 20, 3)
    assert (fit(ImageEncoder(size=(20, 50), resize=20), flat) == 77).all()
    assert fit(ImageEncoder(size=(50, 20), resize=20), flat.transpose(1, 0, 2)).shape == (50, 20, 3)
    blocks = np.repeat(np.repeat(pixels(4, 4), 2, axis=0), 2, axis=1)
    assert np.array_equal(fit(ImageEncoder(size=(4, 4), resize=4, interpolation="nearest"), blocks), blocks[::2, ::2])


def test_the_longer_side_is_rounded_down_as_torchvision_does() -> None:
    # torchvision's Resize(r) makes the longer side int(r * longer / shorter).
    for height, width in ((33, 47), (47, 33), (100, 37)):
        longer = int(16 * max(height, width) / min(height, width))
        cut = fit(ImageEncoder(size=(16, longer) if width > height else (longer, 16), resize=16), pixels(height, width))
        assert cut.shape == ((16, longer, 3) if width > height else (longer, 16, 3))


@given(st.integers(0, 255))
def test_grey_stays_exactly_what_it_is_in_one_channel(value: int) -> None:
    array = encode(ImageEncoder(size=(2, 2), channels=1), np.full((1, 2, 2, 3), value, np.uint8))["image"]
    assert array.shape == (1, 1, 2, 2)
    assert np.array_equal(array, np.full((1, 1, 2, 2), np.float32(value) / np.float32(255)))


def test_one_channel_is_the_luma_that_pillow_makes() -> None:
    from PIL import Image

    image = pixels(16, 16)
    array = encode(ImageEncoder(size=(16, 16), channels=1), image[None])["image"]
    assert np.array_equal(np.rint(array[0, 0] * 255), np.asarray(Image.fromarray(image).convert("L")))


@pytest.mark.parametrize(
    ("encoder", "raw", "sentence"),
    [
        (ImageEncoder(size=(4, 4)), [pixels(4, 5)], r"an image of 4x5 pixels does not fit the model's 4x4, which does not resize; set data\.size"),
        (ImageEncoder(size=(4, 4), resize=3), [pixels(4, 4)], r"a shorter side of 3 pixels leaves 3x3, less than the model's 4x4"),
        (ImageEncoder(size=(4, 4)), ["text"], "the model takes images, but the examples are texts"),
        (ImageEncoder(size=(4, 4), channels=4), pixels(4, 4)[None], "the model takes 4 channels"),
        (TextEncoder(Path("none"), 8, 0), pixels(4, 4)[None], "the model takes texts, but the examples are images"),
    ],
)
def test_examples_that_do_not_fit_are_an_error(encoder: ImageEncoder | TextEncoder, raw: object, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        encode(encoder, raw)


def test_pillow_is_needed_for_resizing_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    encode(ImageEncoder(size=(4, 4)), pixels(4, 4)[None])
    with pytest.raises(MissingExtra, match="resizing images needs `PIL`"):
        encode(ImageEncoder(size=(4, 4), resize=4), pixels(8, 8)[None])


@pytest.fixture(scope="module")
def text_encoder(tmp_path_factory: pytest.TempPathFactory) -> TextEncoder:
    file = tmp_path_factory.mktemp("tokenizer") / "t.json"
    return TextEncoder(file, 6, tokenizer.train(TEXTS * 3, 80, True, file))


def test_texts_are_padded_on_the_right_to_the_longest_or_to_the_length(text_encoder: TextEncoder) -> None:
    counts = lengths(text_encoder, TEXTS)
    assert counts.tolist() == [min(6, n) for n in [len(tokenizer.load(text_encoder.tokenizer, 99).encode(text).ids) for text in TEXTS]]
    assert counts.max() == 6
    for length, width in ((None, 6), (9, 9)):
        arrays = encode(text_encoder, TEXTS, length)
        assert list(arrays) == ["input_ids", "attention_mask"]
        assert all((array.dtype.name, array.shape) == ("int64", (3, width)) for array in arrays.values())
        assert arrays["attention_mask"].sum(axis=1).tolist() == counts.tolist()
        for ids, mask, text in zip(arrays["input_ids"], arrays["attention_mask"], TEXTS, strict=True):
            assert mask.tolist() == sorted(mask.tolist(), reverse=True)
            assert ids[mask == 1].tolist() == tokenizer.load(text_encoder.tokenizer, 6).encode(text).ids
            assert (ids[mask == 0] == text_encoder.pad_id).all()


@settings(max_examples=30)
@given(texts=st.lists(st.text(st.sampled_from("abcdemost ☂!"), min_size=1, max_size=20), min_size=1, max_size=5))
def test_a_text_is_encoded_alike_in_any_batch(text_encoder: TextEncoder, texts: list[str]) -> None:
    together = encode(text_encoder, texts, 6)
    for place, text in enumerate(texts):
        alone = encode(text_encoder, [text], 6)
        assert all(np.array_equal(alone[name][0], together[name][place]) for name in alone)


def test_input_names_are_the_models_and_token_types_come_third(text_encoder: TextEncoder) -> None:
    named = TextEncoder(text_encoder.tokenizer, 6, 0, ("ids", "mask", "types"))
    arrays = encode(named, TEXTS)
    assert list(arrays) == ["ids", "mask", "types"]
    assert not arrays["types"].any()
    with pytest.raises(DataError, match="the model takes 4 inputs"):
        encode(TextEncoder(text_encoder.tokenizer, 6, 0, ("a", "b", "c", "d")), TEXTS)


def test_a_length_below_the_longest_text_is_an_error(text_encoder: TextEncoder) -> None:
    with pytest.raises(DataError, match="a text has 6 tokens, more than the length of 4"):
        encode(text_encoder, TEXTS, 4)


def test_a_text_without_tokens_is_an_error(text_encoder: TextEncoder, tmp_path: Path) -> None:
    opened = tokenizer.load(text_encoder.tokenizer, 6)
    from tokenizers import Tokenizer

    bare = Tokenizer.from_str(opened.to_str())
    bare.post_processor = None
    bare.save(str(tmp_path / "bare.json"))
    with pytest.raises(DataError, match="makes no token of the text ' '"):
        lengths(TextEncoder(tmp_path / "bare.json", 6, 0), ["a", " "])
