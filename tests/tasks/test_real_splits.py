from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from real_data import shared

from kdedge.artifact import ImageEncoder, ImportPath, TextEncoder
from kdedge.data import open_examples
from kdedge.data.images import decode
from kdedge.recipe import DataSection, TokenizerSection
from kdedge.tasks import TASKS
from kdedge.tasks.prepare import encode_split, prepare


def test_sst2_is_read_tokenized_and_bucketed(tmp_path: Path) -> None:
    folder = shared("text_sst2")
    section = DataSection(
        train=f"tsv:{folder}/train.tsv.gz",
        test=f"tsv:{folder}/test.tsv.gz",
        max_length=64,
        limit_train=20_000,
        tokenizer=TokenizerSection(vocabulary=4000),
    )
    data = prepare(ImportPath(TASKS["text-classification"]), section, 0, folder=tmp_path)
    assert {name: split.size for name, split in data.splits.items()} == {"train": 20_000, "test": 372}
    test = open_examples(data.splits["test"])
    assert int(test.labels.sum()) == 185
    assert isinstance(data.encoder, TextEncoder)
    assert data.statistics["vocabulary"] == (4000.0,)
    inputs = encode_split(data, data.encoder, "test", folder=tmp_path)
    assert sum(bucket.size for bucket in inputs.buckets) == 372
    unknown = sum(int((np.load(bucket.files["input_ids"]) == 1).sum()) for bucket in inputs.buckets)
    assert unknown == 1  # the one `%` of the test texts; no training text has one


@pytest.mark.slow
def test_cifar_statistics_are_those_that_its_card_states(tmp_path: Path) -> None:
    folder = shared("cifar10")
    card = json.loads((folder / "meta.json").read_text())
    arrays = {"classes": np.array(card["classes"])}
    for split, facts in card["splits"].items():
        sheets = [decode((folder / sheet["file"]).read_bytes(), sheet["file"]) for sheet in facts["sheets"]]
        tiles = [sheet.reshape(-1, 32, 50, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3) for sheet in sheets]
        images = np.concatenate([tile[: sheet["images"]] for tile, sheet in zip(tiles, facts["sheets"], strict=True)])
        assert hashlib.sha256(images.tobytes()).hexdigest() == facts["sha256_uint8_nhwc"]
        arrays[f"x_{split}"], arrays[f"y_{split}"] = images, np.load(folder / "labels.npz")[split]
    np.savez(tmp_path / "cifar10.npz", **arrays)  # type: ignore[arg-type]
    section = DataSection(train=f"npz:{tmp_path}/cifar10.npz", test=f"npz:{tmp_path}/cifar10.npz", augment=("crop4", "flip"))
    data = prepare(ImportPath(TASKS["image-classification"]), section, 0, folder=tmp_path)
    assert data.statistics["mean"] == pytest.approx(card["train_mean_rgb_0_1"], abs=1e-4)
    assert data.statistics["std"] == pytest.approx(card["train_std_rgb_0_1"], abs=1e-4)
    assert (data.classes[3], data.encoder, len(data.calibration)) == ("cat", ImageEncoder(size=(32, 32)), 512)
    assert np.array_equal(open_examples(data.splits["test"]).raw(np.array([0, 7978])), arrays["x_test"][[0, -1]])
