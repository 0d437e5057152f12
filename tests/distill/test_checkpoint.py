from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdedge.distill.checkpoint import load_checkpoint, remove_checkpoints, save_checkpoint, write_weights


def _state(step: int) -> dict[str, object]:
    return {"run": "a", "step": step, "model": {"w": torch.full((1000,), float(step))}}


def _step(folder: Path, run: str = "a") -> int | None:
    state = load_checkpoint(folder, run)
    return None if state is None else state["step"]


def test_the_newest_checkpoint_is_read_and_one_before_is_kept(tmp_path: Path) -> None:
    assert _step(tmp_path) is None
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, _state(step))
    assert _step(tmp_path) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.bin", "checkpoint.previous.bin"]


@pytest.mark.parametrize("damage", ["torn", "flipped", "empty", "missing"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, damage: str) -> None:
    save_checkpoint(tmp_path, _state(1))
    save_checkpoint(tmp_path, _state(2))
    newest = tmp_path / "checkpoint.bin"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "missing":
        newest.unlink()  # killed between the two renames
    else:
        newest.write_bytes({"torn": bytes(content[:500]), "flipped": bytes(content), "empty": b""}[damage])
    assert _step(tmp_path) == 1


def test_a_checkpoint_of_another_run_is_not_used(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, _state(1))
    assert _step(tmp_path, run="b") is None


def test_a_checkpoint_that_holds_code_is_not_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    payload = pickle.dumps({"run": "a", "step": 1, "trap": Trap()}, protocol=2)
    (tmp_path / "checkpoint.bin").write_bytes(hashlib.sha256(payload).digest() + payload)
    assert _step(tmp_path) is None
    assert not (tmp_path / "sprung").exists()


def test_nothing_is_left_once_checkpoints_are_removed(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, _state(1))
    save_checkpoint(tmp_path, _state(2))
    (tmp_path / "checkpoint.partial").write_bytes(b"cut short")
    remove_checkpoints(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_an_oserror_and_leaves_what_was_saved(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, _state(1))
    (tmp_path / "checkpoint.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, _state(2))
    assert _step(tmp_path) == 1


def test_weights_are_the_same_bytes_whatever_the_layout_and_sharing_of_their_memory(tmp_path: Path) -> None:
    table = torch.arange(24.0).reshape(1, 2, 3, 4)
    write_weights({"a": table, "b": table.clone()}, tmp_path / "plain.safetensors")
    write_weights({"b": (shared := table.contiguous(memory_format=torch.channels_last)), "a": shared}, tmp_path / "other.safetensors")
    assert (tmp_path / "plain.safetensors").read_bytes() == (tmp_path / "other.safetensors").read_bytes()
    assert torch.equal(load_file(tmp_path / "plain.safetensors")["b"], table)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.safetensors", "plain.safetensors"]
