"""The tokenizer of a text task: taken from a Hugging Face folder, or trained on the training texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from kdedge.errors import DataError, MissingExtra

TOOLS = ("tokenizers",)

PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
_WORD = "\u2581"  # marks the start of a word


def train(texts: Sequence[str], vocabulary: int, lowercase: bool, path: Path) -> int:
    """Train a byte-pair tokenizer (Sennrich, Haddow, Birch 2016) of at most `vocabulary` entries, write it to `path`, return the id of `[PAD]`.

    Texts become `[CLS] pieces [SEP]`; the first piece of a word is marked. The same texts give the same bytes: WordPiece training does not
    (its piece numbers follow the order of a hash table), and neither does a cut of the alphabet among equally rare characters, so both are avoided.

    Raises:
        MissingExtra: tokenizers is not installed.
    """
    tokenizers = _library("training a tokenizer")
    from tokenizers import models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = tokenizers.Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    words = pre_tokenizers.Metaspace(replacement=_WORD, prepend_scheme="always", split=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.BertPreTokenizer(), words])
    specials = [PAD, UNKNOWN, START, END]
    alphabet = _alphabet((tokenizer.normalizer.normalize_str(text) for text in texts), most=vocabulary // 2)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=specials, initial_alphabet=alphabet, limit_alphabet=len(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(name, tokenizer.token_to_id(name)) for name in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", pair=f"{START} $A {END} $B {END}", special_tokens=ends)
    path.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    return int(tokenizer.token_to_id(PAD))


def take(folder: Path, path: Path) -> int:
    """Copy the `tokenizer.json` of a Hugging Face folder to `path` and return the id of its padding token.

    Raises:
        DataError: no such file, it cannot be read, or it has no padding token.
        MissingExtra: tokenizers is not installed.
    """
    source = folder / "tokenizer.json"
    if not source.is_file():
        raise DataError(f"{folder} has no tokenizer.json; load it with transformers.AutoTokenizer and save it with save_pretrained, which writes one")
    try:
        content = source.read_bytes()
    except OSError as error:
        raise DataError(f"{source} cannot be read: {error.strerror}") from error
    path.write_bytes(content)
    tokenizer = _open(path, str(source))
    number = _padding(tokenizer, folder)
    if number is None:
        raise DataError(f"{folder} names no padding token; set `pad_token` in its tokenizer_config.json (with an attention mask any token will do)")
    return number


def vocabulary_size(path: Path) -> int:
    """How many ids the tokenizer can give: one more than the largest."""
    return 1 + max(_open(path, path.name).get_vocab(with_added_tokens=True).values(), default=-1)


def load(path: Path, max_length: int) -> Any:
    """The tokenizer, cut to `max_length` tokens (special ones included), without padding. Kept open; a changed file is read again.

    Raises:
        DataError: the file is missing or is no tokenizer.
        MissingExtra: tokenizers is not installed.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return _load(path, max_length, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=8)
def _load(path: Path, max_length: int, changed: int, size: int) -> Any:
    tokenizer = _open(path, str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return tokenizer


def _open(path: Path, name: str) -> Any:
    tokenizers = _library("reading a tokenizer")
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # The library raises a bare Exception.
        raise DataError(f"{name} is no tokenizer that can be read: {error}") from error


def _library(purpose: str) -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise MissingExtra("tokenizers", "text", purpose) from error
    return tokenizers


def _padding(tokenizer: Any, folder: Path) -> int | None:
    names = []
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _json(folder / file).get("pad_token")
        names.append(token.get("content") if isinstance(token, dict) else token)
    if tokenizer.padding is not None:
        names.append(tokenizer.padding["pad_token"])
    for name in (*names, PAD, "<pad>", "<|pad|>"):
        number = tokenizer.token_to_id(name) if isinstance(name, str) else None
        if number is not None:
            return int(number)
    return None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not JSON that can be read: {error}") from error
    return found if isinstance(found, dict) else {}


def _alphabet(texts: Any, most: int) -> list[str]:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    kept = sorted((character for character in counts if not character.isspace()), key=lambda character: (-counts[character], character))
    return [_WORD, *(character for character in kept if character != _WORD)][:most]
