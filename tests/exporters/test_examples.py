"""What a graph is exported and checked with: real examples where there is data, of the sizes asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from kdedge.artifact import Dimension, ImageEncoder, ImportPath, PreparedData, SplitSource, TensorSpec, TextEncoder
from kdedge.errors import ExportError
from kdedge.exporters import examples
from kdedge.exporters.examples import encoded, example_feeds, random_feed
from kdedge.exporters.model_file import dimensions_of

BATCH, LENGTH = Dimension("batch", 1, 8, 64), Dimension("length", 1, 8, 16)
TEXT = tuple(TensorSpec(name, "int64", (BATCH, LENGTH)) for name in ("input_ids", "attention_mask"))


class Opened:
    """A split of given raw examples."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def raw(self, indices: Any) -> Any:
        return self._raw[indices] if isinstance(self._raw, np.ndarray) else [self._raw[index] for index in indices]


def prepared(raw: Any, encoder: Any, monkeypatch: pytest.MonkeyPatch) -> PreparedData:
    monkeypatch.setattr(examples, "open_examples", lambda split: Opened(raw))
    split = SplitSource(ImportPath("reader:read"), {}, len(raw), "hash")
    return PreparedData(ImportPath("task:TASK"), {"train": split, "test": split}, ("a", "b"), (2, 0), encoder)


def test_examples_are_encoded_in_their_order_some_at_a_time() -> None:
    raw = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 3), dtype=np.uint8)
    encoder, opened = ImageEncoder(size=(4, 4)), cast("Any", Opened(raw))
    batches = list(encoded(encoder, opened, [6, 0, 5, 2, 3], 2))
    assert [len(batch["image"]) for batch in batches] == [2, 2, 1]
    np.testing.assert_allclose(np.concatenate([batch["image"] for batch in batches]), raw[[6, 0, 5, 2, 3]].transpose(0, 3, 1, 2) / 255, atol=1e-6)
    assert list(encoded(encoder, opened, [], 2)) == []


def test_images_are_the_calibration_examples_repeated_to_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    encoder = ImageEncoder(size=(4, 4))
    inputs = (TensorSpec("image", "float32", (BATCH, 3, 4, 4)),)
    (feed,) = example_feeds(inputs, [{"batch": 3}], encoder, prepared(raw, encoder, monkeypatch))
    np.testing.assert_allclose(feed["image"], raw[[2, 0, 2]].transpose(0, 3, 1, 2).astype(np.float32) / 255)
    assert feed["image"].flags.c_contiguous


def test_texts_are_cut_or_padded_to_the_length_asked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[PAD]": 7, "[UNK]": 0, "a": 1, "b": 2, "c": 3}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    encoder = TextEncoder(tmp_path / "tokenizer.json", 16, pad_id=7)
    data = prepared(["a b", "never", "c b a"], encoder, monkeypatch)
    short, long = example_feeds(TEXT, [{"batch": 2, "length": 1}, {"batch": 2, "length": 5}], encoder, data)
    np.testing.assert_array_equal(short["input_ids"], [[3], [1]])
    np.testing.assert_array_equal(long["input_ids"], [[3, 2, 1, 7, 7], [1, 2, 7, 7, 7]])
    np.testing.assert_array_equal(long["attention_mask"], [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])


def test_random_inputs_fit_every_vocabulary_and_mask_no_row_away() -> None:
    feed = random_feed(TEXT, {"batch": 40, "length": 9})
    assert set(np.unique(feed["input_ids"])) == {0, 1}
    assert feed["attention_mask"].dtype == np.int64
    assert feed["attention_mask"].sum(1).min() >= 1
    np.testing.assert_array_equal(feed["input_ids"], random_feed(TEXT, {"batch": 40, "length": 9})["input_ids"])


def test_one_name_with_two_ranges_is_refused() -> None:
    other = TensorSpec("more", "int64", (Dimension("batch", 1, 2, 3),))
    with pytest.raises(ExportError, match="`more`: dimension `batch` has two different ranges"):
        dimensions_of((*TEXT, other))
