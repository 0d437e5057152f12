"""A Hugging Face folder of a classifier becomes a model that no longer needs the folder, or the folder's fault is named."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from model_world import dynamic_shapes, image_data, text_data
from safetensors.torch import load_file, save_file

from kdedge.artifact import TextEncoder
from kdedge.errors import ModelError
from kdedge.models.catalog import resolve
from kdedge.models.given import take
from kdedge.models.load import build, load
from kdedge.models.transformers_config import read_folder
from kdedge.recipe import ModelSection

SMALL: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
    "distilbert": {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 16},
    "roberta": {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
}


def make(folder: Path, kind: str = "bert", **changes: Any) -> Path:
    """A classifier with random weights and the tokenizer of the test data, as `save_pretrained` writes it."""
    torch.manual_seed(0)
    settings = {"vocab_size": 7, "max_position_embeddings": 20, "pad_token_id": 0, **SMALL[kind], **changes}
    config = transformers.AutoConfig.for_model(kind, **settings)
    path = folder / kind
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(path)
    text_data(path)
    return path


@pytest.mark.parametrize("kind", SMALL)
def test_a_folder_gives_what_transformers_gives(tmp_path: Path, kind: str) -> None:
    path = make(tmp_path, kind)
    spec = resolve(ModelSection(model=f"transformers:{path}"), text_data(tmp_path, max_length=64))
    reference = transformers.AutoModelForSequenceClassification.from_pretrained(path, local_files_only=True, use_safetensors=True).eval()
    ids, mask = torch.tensor([[2, 4, 5, 3], [2, 5, 3, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])
    found = build(spec).eval()(ids, mask)["logits"]
    assert torch.allclose(found, reference(input_ids=ids, attention_mask=mask).logits, atol=1e-6)
    assert spec.name == f"transformers:{kind}"
    assert str(tmp_path) not in json.dumps(spec.arguments)


def test_its_own_tokenizer_and_length_are_used(tmp_path: Path) -> None:
    data = text_data(tmp_path, max_length=64)
    for kind, reach in (("bert", 20), ("roberta", 19)):
        path = make(tmp_path, kind)
        assert resolve(ModelSection(model=f"transformers:{path}"), data).encoder == TextEncoder(path / "tokenizer.json", reach, 0)
    assert read_folder(tmp_path / "bert").encoder(5).max_length == 5


def test_the_folder_is_not_needed_once_the_model_is_taken(tmp_path: Path) -> None:
    path = make(tmp_path)
    data = text_data(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    files = take(resolve(ModelSection(model=f"transformers:{path}"), data), data, folder=out)
    ids, mask = torch.tensor([[2, 4, 3]]), torch.ones(1, 3, dtype=torch.int64)
    expected = load(files).eval()(ids, mask)["logits"]
    shutil.rmtree(path)
    assert torch.equal(load(files).eval()(ids, mask)["logits"], expected)


def test_names_of_older_versions_are_understood(tmp_path: Path) -> None:
    path = make(tmp_path)
    data = text_data(tmp_path)
    expected = build(resolve(ModelSection(model=f"transformers:{path}"), data)).state_dict()
    old = {name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value for name, value in expected.items()}
    old["bert.embeddings.position_ids"] = torch.arange(20)[None]
    save_file(old, path / "model.safetensors")
    found = build(resolve(ModelSection(model=f"transformers:{path}"), data)).state_dict()
    assert any(name.endswith(".gamma") for name in old)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_its_graph_runs_at_any_batch_and_length(tmp_path: Path, kind: str) -> None:
    spec = resolve(ModelSection(model=f"transformers:{make(tmp_path, kind)}"), text_data(tmp_path))
    model = build(spec).eval()
    path = tmp_path / "text.onnx"
    example = (torch.randint(0, 7, (3, 5)), torch.ones(3, 5, dtype=torch.int64))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            example,
            path,
            dynamo=True,
            dynamic_shapes=dynamic_shapes(spec),
            input_names=["input_ids", "attention_mask"],
            output_names=["logits"],
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(path)
    for batch, length in ((1, 1), (1, 16), (5, 3)):
        ids = torch.randint(0, 7, (batch, length))
        mask = (torch.arange(length)[None] < torch.randint(1, length + 1, (batch, 1))).long()
        (found,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        np.testing.assert_allclose(found, model(ids, mask)["logits"].detach().numpy(), atol=1e-5)


def test_a_class_count_that_differs_is_named(tmp_path: Path) -> None:
    path = make(tmp_path, num_labels=3)
    with pytest.raises(ModelError, match=r"`transformers:bert`: the model tells 3 classes apart, the data has 2 \(negative, positive\)"):
        resolve(ModelSection(model=f"transformers:{path}"), text_data(tmp_path))


def test_classes_in_another_order_are_named(tmp_path: Path) -> None:
    path = make(tmp_path, id2label={0: "POSITIVE", 1: "NEGATIVE"}, label2id={"POSITIVE": 0, "NEGATIVE": 1})
    with pytest.raises(ModelError, match="the model's classes are POSITIVE, NEGATIVE, the data's are negative, positive: the same in another order"):
        resolve(ModelSection(model=f"transformers:{path}"), text_data(tmp_path))


def test_texts_only(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="takes texts, the data holds images"):
        resolve(ModelSection(model=f"transformers:{make(tmp_path)}"), image_data())


def edit(path: Path, **changes: Any) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({name: value for name, value in {**config, **changes}.items() if value is not ...}))


def test_what_is_missing_in_a_folder_is_named(tmp_path: Path) -> None:
    path = make(tmp_path)
    cases = [
        ("tokenizer.json", "has no tokenizer.json; load it with transformers.AutoTokenizer and save it with save_pretrained, which writes one"),
        ("model.safetensors", "has no model.safetensors; pickled weights are not read"),
        ("config.json", "has no config.json; is it a folder that save_pretrained wrote?"),
    ]
    for name, expected in cases:
        kept = (path / name).read_bytes()
        (path / name).unlink()
        with pytest.raises(ModelError, match=expected):
            read_folder(path)
        (path / name).write_bytes(kept)
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")
    (path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match="its weights are in several files"):
        read_folder(path)


def test_a_folder_with_code_or_without_sense_is_refused(tmp_path: Path) -> None:
    path = make(tmp_path)
    edit(path, auto_map={"AutoModel": "modeling.Evil"})
    with pytest.raises(ModelError, match="needs code of its own"):
        read_folder(path)
    edit(path, auto_map=..., model_type=...)
    with pytest.raises(ModelError, match=r"config.json names no model_type"):
        read_folder(path)
    (path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config.json: is not JSON"):
        read_folder(path)


def test_a_kind_that_transformers_does_not_know_is_named(tmp_path: Path) -> None:
    path = make(tmp_path)
    edit(path, model_type="berd")
    with pytest.raises(ModelError, match="has no text classifier of the kind `berd`"):
        build(resolve(ModelSection(model=f"transformers:{path}"), text_data(tmp_path)))


def test_weights_without_a_head_are_listed(tmp_path: Path) -> None:
    path = make(tmp_path)
    save_file({name: value for name, value in load_file(path / "model.safetensors").items() if "classifier" not in name}, path / "model.safetensors")
    with pytest.raises(ModelError, match=r"missing in the file: classifier.weight, classifier.bias"):
        build(resolve(ModelSection(model=f"transformers:{path}"), text_data(tmp_path)))


def test_the_padding_token_is_found_or_asked_for(tmp_path: Path) -> None:
    path = make(tmp_path)
    edit(path, pad_token_id=None)
    with pytest.raises(ModelError, match=r"set pad_token_id in config.json"):
        read_folder(path)
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    (path / "tokenizer.json").write_text(json.dumps({**tokenizer, "padding": {"pad_id": 3}}))
    assert read_folder(path).pad_id == 3
