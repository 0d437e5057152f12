"""What a Hugging Face folder of a classifier says about itself, read from its JSON. Light: transformers is not imported."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdedge.artifact import TextEncoder
from kdedge.errors import ModelError

# What says where and by which version a folder was written, or names code in it; none of this is part of the network.
_DROPPED = ("_name_or_path", "transformers_version", "auto_map", "dtype", "torch_dtype", "architectures")
# Families that number positions from the padding id on, so that two of their positions are never used.
_POSITIONS_AFTER_PADDING = (
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "xmod",
    "longformer",
    "data2vec-text",
    "roberta-prelayernorm",
    "mpnet",
)


@dataclass(frozen=True)
class Folder:
    """A classifier on disk: its configuration (plain values), weights, tokenizer, and its classes by number ("" where it names none)."""

    config: dict[str, Any]
    weights: Path
    tokenizer: Path
    pad_id: int
    classes: tuple[str, ...]
    max_length: int | None

    def encoder(self, max_length: int) -> TextEncoder:
        """Its own tokenizer, cut to the length that its positions reach."""
        return TextEncoder(self.tokenizer, max_length if self.max_length is None else min(max_length, self.max_length), self.pad_id)


def read_folder(folder: Path) -> Folder:
    """Read `config.json` and see that `model.safetensors` and `tokenizer.json` are there.

    Raises:
        ModelError: a file is missing or is not what its name says, or the model needs code of its own.
    """
    if not folder.is_dir():
        raise ModelError(f"transformers:{folder}: there is no such folder")
    config = _json(folder / "config.json", folder)
    if "auto_map" in config:
        raise ModelError(f"{folder}: needs code of its own (auto_map in config.json), and kdedge runs no code from a model folder")
    if not isinstance(config.get("model_type"), str):
        raise ModelError(f"{folder}: config.json names no model_type")
    return Folder(
        config={name: value for name, value in config.items() if name not in _DROPPED},
        weights=_weights(folder),
        tokenizer=_required(folder / "tokenizer.json", "load it with transformers.AutoTokenizer and save it with save_pretrained, which writes one"),
        pad_id=_pad_id(config, folder),
        classes=_classes(config),
        max_length=_max_length(config),
    )


def check_classes(label: str, own: Sequence[str], expected: Sequence[str], who: str = "the data") -> None:
    """A trained classifier and `who` names its classes must agree on their number, and on their order where both name them alike.

    Raises:
        ModelError: they do not; names both.
    """
    if len(own) != len(expected):
        raise ModelError(f"{label}: the model tells {len(own)} classes apart, {who} has {len(expected)} ({', '.join(expected[:10])})")
    mine, yours = [name.casefold() for name in own], [name.casefold() for name in expected]
    if mine != yours and sorted(mine) == sorted(yours):
        theirs = dict(zip(yours, expected, strict=True))
        raise ModelError(
            f"{label}: the model's classes are {', '.join(own)}, {who}'s are {', '.join(expected)}: the same in another order "
            f"(of a teacher, `classes: [{', '.join(theirs[name] for name in mine)}]` says so)"
        )


def _json(path: Path, folder: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(f"{folder}: has no {path.name}; is it a folder that save_pretrained wrote?")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: is not JSON that can be read: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path}: is not a JSON object")
    return found


def _weights(folder: Path) -> Path:
    if (folder / "model.safetensors.index.json").is_file() and not (folder / "model.safetensors").is_file():
        raise ModelError(f"{folder}: its weights are in several files; save it again with save_pretrained(max_shard_size='100GB')")
    return _required(folder / "model.safetensors", "pickled weights are not read: load the model with transformers and save it with save_pretrained")


def _required(path: Path, advice: str) -> Path:
    if not path.is_file():
        raise ModelError(f"{path.parent}: has no {path.name}; {advice}")
    return path


def _pad_id(config: dict[str, Any], folder: Path) -> int:
    if isinstance(config.get("pad_token_id"), int):
        return int(config["pad_token_id"])
    padding = _json(folder / "tokenizer.json", folder).get("padding") if (folder / "tokenizer.json").is_file() else None
    if isinstance(padding, dict) and isinstance(padding.get("pad_id"), int):
        return int(padding["pad_id"])
    raise ModelError(
        f"{folder}: neither config.json (pad_token_id) nor tokenizer.json (padding) says which token pads; set pad_token_id in config.json"
    )


def _classes(config: dict[str, Any]) -> tuple[str, ...]:
    names = config.get("id2label")
    if isinstance(names, dict) and names:
        return tuple(str(names.get(str(number), "")) for number in range(len(names)))
    count = config.get("num_labels", 2)
    return ("",) * (count if isinstance(count, int) else 2)


def _max_length(config: dict[str, Any]) -> int | None:
    positions = config.get("max_position_embeddings")
    if not isinstance(positions, int) or positions <= 0:
        return None
    return positions - int(config.get("pad_token_id") or 0) - 1 if config["model_type"] in _POSITIONS_AFTER_PADDING else positions
