"""A batch in pieces is the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from distill_world import image_data, spec, training
from safetensors.torch import load_file
from torch import Tensor

from kdedge.artifact import PreparedData
from kdedge.distill.batches import Batch
from kdedge.distill.trainer import distill


def trained(data: PreparedData, folder: Path, **section: Any) -> tuple[dict[str, Tensor], str]:
    folder.mkdir()
    distill(spec("mlp"), training(**section), None, data, 5, folder=folder)
    return load_file(str(folder / "model.safetensors")), (folder / "metrics.jsonl").read_text()


# Batches of 12 and 13: in two pieces of 6 and 7, in five of 2 and 3, and in as many pieces as there are examples.
@pytest.mark.parametrize("pieces", [2, 5, 40])
@pytest.mark.parametrize("clip", [None, 0.05])
def test_a_batch_in_pieces_trains_what_the_whole_batch_trains(data: PreparedData, tmp_path: Path, pieces: int, clip: float | None) -> None:
    whole, _ = trained(data, tmp_path / "whole", clip_norm=clip)
    cut, _ = trained(data, tmp_path / "cut", clip_norm=clip, accumulate=pieces)
    assert all(torch.allclose(whole[name], cut[name], atol=1e-5) for name in whole)


def test_the_norm_of_the_whole_gradient_is_clipped_and_not_that_of_each_piece(data: PreparedData, tmp_path: Path) -> None:
    # One step of plain descent by the learning rate: its length is the norm of the gradient, once that is clipped.
    step: dict[str, Any] = {"epochs": 1, "batch_size": 50, "schedule": "constant", "accumulate": 4, "clip_norm": 0.01, "augment": ()}
    step["optimizer"] = {"lr": 1.0, "momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    after, _ = trained(data, tmp_path / "one", **step)
    before, _ = trained(data, tmp_path / "none", **{**step, "optimizer": {**step["optimizer"], "lr": 1e-30}})
    moved = torch.cat([(after[name] - before[name]).double().flatten() for name in after])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-3)


def test_pieces_share_the_batch_by_their_sizes() -> None:
    places = np.arange(13)
    batch = Batch(({"image": np.zeros((13, 1), np.float32)},), places, places, share=26 / 25)
    pieces = batch.cut(5)
    assert [len(piece.samples) for piece in pieces] == [3, 3, 3, 2, 2]
    assert [piece.share for piece in pieces] == pytest.approx([26 / 25 * size / 13 for size in (3, 3, 3, 2, 2)])
    assert np.concatenate([piece.samples for piece in pieces]).tolist() == places.tolist()


def test_the_loss_of_a_batch_in_pieces_is_told_as_that_of_the_batch(tmp_path: Path) -> None:
    import json

    data = image_data(tmp_path / "data")
    whole, cut = (
        [json.loads(line)["loss"] for line in trained(data, tmp_path / str(pieces), accumulate=pieces)[1].splitlines()] for pieces in (1, 5)
    )
    assert cut == pytest.approx(whole, rel=1e-5)
