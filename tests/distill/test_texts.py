from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from distill_world import StopAfter, StoppedError, made, training

from kdedge import progress
from kdedge.artifact import ImportPath, PreparedData
from kdedge.data import open_examples
from kdedge.distill.batches import Batches, Plan
from kdedge.distill.spec import TeacherSpec
from kdedge.distill.teacher import obtain
from kdedge.distill.trainer import distill
from kdedge.models.catalog import resolve
from kdedge.models.spec import ModelSpec
from kdedge.recipe import DataSection, ModelSection, TokenizerSection

KD = ({"ce": 0.5}, {"kd": 2.0, "temperature": 2.0})
HOW: dict[str, Any] = {"epochs": 2, "optimizer": {"name": "adamw", "lr": 1e-3}, "clip_norm": 1.0, "augment": (), "checkpoint_seconds": 0.0}


@pytest.fixture
def texts(tmp_path: Path) -> PreparedData:
    """Sentences of one to nine words, one of which tells the class."""
    generator = random.Random(0)
    lines = ["sentence\tlabel"]
    for number in range(60):
        words = [generator.choice(("the", "film", "was", "seen", "here")) for _ in range(generator.randint(0, 8))]
        words.insert(generator.randint(0, len(words)), ("awful", "lovely")[number % 2])
        lines.append(f"{' '.join(words)}\t{number % 2}")
    (tmp_path / "made.tsv").write_text("\n".join(lines) + "\n")
    source = f"tsv:{tmp_path / 'made.tsv'}"
    section = DataSection(train=source, test=source, max_length=16, tokenizer=TokenizerSection(vocabulary=64))
    (tmp_path / "data").mkdir()
    task = ImportPath("kdedge.tasks.text_classification:TASK")
    data: PreparedData = task.load().prepare(section, 0, tmp_path / "data")
    return data


def transformer(data: PreparedData, width: int) -> ModelSpec:
    return resolve(ModelSection(model="kdedge:transformer-text", arguments={"width": width, "layers": 1, "heads": 2}), data)


def test_texts_are_padded_to_the_longest_of_their_batch(texts: PreparedData) -> None:
    batches = Batches(open_examples(texts.splits["train"]), texts.task.load(), (texts.encoder,), Plan(4, seed=1))
    for batch in batches.from_step(0, 15):
        mask = batch.inputs[0]["attention_mask"]
        assert np.asarray(mask).sum(1).max() == mask.shape[1]
    assert len({batch.inputs[0]["input_ids"].shape[1] for batch in batches.from_step(0, 15)}) > 1


def test_a_stopped_text_student_resumes_to_the_same_bytes(texts: PreparedData, tmp_path: Path) -> None:
    teacher = obtain((TeacherSpec(transformer(texts, 16), training(**HOW)),), texts, 3, folder=made(tmp_path / "teacher"))
    straight, broken = made(tmp_path / "straight"), made(tmp_path / "broken")
    how = training(*KD, teacher=True, **HOW)
    distill(transformer(texts, 8), how, teacher, texts, 3, folder=straight)
    for step in (3, 5):
        with progress.listening(StopAfter(step)), pytest.raises(StoppedError):
            distill(transformer(texts, 8), how, teacher, texts, 3, folder=broken)
    distill(transformer(texts, 8), how, teacher, texts, 3, folder=broken)
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (straight, broken)]
    assert set(files[0]) == {"model.safetensors", "metrics.jsonl"}
    assert files[0] == files[1]
