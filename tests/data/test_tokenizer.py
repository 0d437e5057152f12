from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kdedge.data import tokenizer
from kdedge.errors import DataError, MissingExtra

TEXTS = ["The cat sat on the mat.", "A dog can't sit!", "cats and dogs", "the end of the cat", "Größe zählt", "rare ☃ 漢字"] * 2


def test_a_text_becomes_start_pieces_end_and_words_are_marked(tmp_path: Path) -> None:
    pad = tokenizer.train(TEXTS, 120, True, tmp_path / "t.json")
    opened = tokenizer.load(tmp_path / "t.json", 32)
    tokens = opened.encode("The cat").tokens
    assert pad == 0
    assert tokens[0] == "[CLS]"
    assert tokens[-1] == "[SEP]"
    assert "".join(tokens[1:-1]) == "▁the▁cat"
    assert opened.encode("THE CAT").ids == opened.encode("the cat").ids
    assert tokenizer.vocabulary_size(tmp_path / "t.json") <= 120
    assert "[UNK]" in opened.encode("☂").tokens


def test_case_is_kept_where_asked(tmp_path: Path) -> None:
    tokenizer.train(TEXTS, 120, False, tmp_path / "t.json")
    opened = tokenizer.load(tmp_path / "t.json", 32)
    assert opened.encode("The").ids != opened.encode("the").ids


def test_texts_are_cut_to_the_length_with_their_ends_kept(tmp_path: Path) -> None:
    tokenizer.train(TEXTS, 120, True, tmp_path / "t.json")
    tokens = tokenizer.load(tmp_path / "t.json", 5).encode("the cat sat on the mat").tokens
    assert len(tokens) == 5
    assert (tokens[0], tokens[-1]) == ("[CLS]", "[SEP]")


def test_training_again_in_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    # Many characters and words of equal frequency: where an order of a hash table could show.
    code = (
        "import sys; from pathlib import Path; from kdedge.data.tokenizer import train\n"
        "texts = [chr(0x4E00 + i) + chr(0x61 + i % 26) * 2 + ' ' + chr(0x61 + i % 7) + chr(0x3b1 + i % 20) for i in range(400)]\n"
        "train(texts, 200, True, Path(sys.argv[1]))\n"
    )
    files = [tmp_path / f"{number}.json" for number in range(4)]
    for file in files:
        subprocess.run([sys.executable, "-c", code, str(file)], check=True, timeout=60)
    assert len({file.read_bytes() for file in files}) == 1


def test_a_hugging_face_folder_gives_its_tokenizer_and_padding(tmp_path: Path) -> None:
    tokenizer.train(TEXTS, 120, True, tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "[SEP]"}}))
    assert tokenizer.take(tmp_path, tmp_path / "copy.json") == 3
    assert (tmp_path / "copy.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[CLS]"}))
    assert tokenizer.take(tmp_path, tmp_path / "copy.json") == 2
    (tmp_path / "tokenizer_config.json").unlink()
    assert tokenizer.take(tmp_path, tmp_path / "copy.json") == 0


def test_a_file_changed_in_place_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "t.json"
    tokenizer.train(TEXTS, 120, True, file)
    before = tokenizer.load(file, 8).get_vocab_size()
    assert tokenizer.load(file, 8) is tokenizer.load(file, 8)
    tokenizer.train(TEXTS, 64, True, file)
    assert tokenizer.load(file, 8).get_vocab_size() < before


def test_a_folder_without_a_usable_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no tokenizer\.json; load it with transformers\.AutoTokenizer"):
        tokenizer.take(tmp_path, tmp_path / "copy.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=rf"{tmp_path}/tokenizer\.json is no tokenizer that can be read"):
        tokenizer.take(tmp_path, tmp_path / "copy.json")
    tokenizer.train(TEXTS, 120, True, tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text("{broken")
    with pytest.raises(DataError, match=r"tokenizer_config\.json is not JSON"):
        tokenizer.take(tmp_path, tmp_path / "copy.json")
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "tokenizer.json").write_text((tmp_path / "tokenizer.json").read_text().replace("[PAD]", "[NIL]"))
    with pytest.raises(DataError, match="names no padding token; set `pad_token`"):
        tokenizer.take(tmp_path, tmp_path / "copy.json")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        tokenizer.load(tmp_path / "none.json", 8)


def test_a_missing_library_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtra, match=r"training a tokenizer needs `tokenizers`.*kdedge\[text\]"):
        tokenizer.train(TEXTS, 120, True, tmp_path / "t.json")
