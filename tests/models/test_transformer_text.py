"""The text classifier ignores padding, and keeps batch and length dynamic in a graph."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_world import dynamic_shapes, text_data

from kdedge.errors import ModelError
from kdedge.models.catalog import resolve
from kdedge.models.load import Model, build, count_parameters
from kdedge.models.spec import ModelSpec
from kdedge.models.transformer_text import TextTransformer, transformer
from kdedge.recipe import ModelSection


def small(**arguments: float) -> TextTransformer:
    torch.manual_seed(0)
    settings = {"classes": 2, "vocabulary": 7, "max_length": 12, "layers": 2, "width": 8, "heads": 2, **arguments}
    return transformer(**settings).eval()  # type: ignore[arg-type]


def test_without_layers_it_is_the_mean_of_normalised_embeddings() -> None:
    model = small(layers=0, width=2, heads=1)
    with torch.no_grad():
        model.tokens.weight.copy_(torch.tensor([[0.0, 0.0]] + [[3.0, 1.0], [1.0, 3.0]] + [[5.0, 5.0]] * 4))
        model.positions.weight.zero_()
        model.linear.weight.copy_(torch.eye(2))
        model.linear.bias.copy_(torch.tensor([0.5, 0.0]))
    ids, mask = torch.tensor([[1, 2, 1, 3]]), torch.tensor([[1, 1, 1, 0]])
    # [3, 1] has mean 2 and deviation 1: normalised it is [1, -1]; [1, 3] is [-1, 1]; the mean of both once and the first again is 1/3.
    assert model(ids, mask)[0].tolist() == pytest.approx([1 / 3 + 0.5, -1 / 3], abs=1e-4)


def test_parameters_are_those_of_the_settings() -> None:
    width, layers, vocabulary, length, classes = 8, 3, 7, 12, 2
    layer = 4 * (width * width + width) + 2 * 2 * width + 2 * 4 * width * width + 4 * width + width
    assert count_parameters(small(layers=layers)) == (vocabulary + length) * width + layers * layer + 2 * width + width * classes + classes


@given(st.lists(st.integers(1, 6), min_size=1, max_size=8), st.integers(1, 4), st.integers(0, 6))
def test_padding_makes_no_difference(tokens: list[int], padding: int, pad_id: int) -> None:
    model = small()
    alone = model(torch.tensor([tokens]), torch.ones(1, len(tokens), dtype=torch.int64))
    padded = model(torch.tensor([tokens + [pad_id] * padding]), torch.tensor([[1] * len(tokens) + [0] * padding]))
    assert torch.allclose(alone, padded, atol=1e-6)


def test_the_order_of_tokens_makes_a_difference() -> None:
    model, mask = small(), torch.ones(1, 3, dtype=torch.int64)
    assert not torch.allclose(model(torch.tensor([[4, 5, 6]]), mask), model(torch.tensor([[6, 5, 4]]), mask), atol=1e-4)


def test_it_is_finite_in_half_precision_behind_a_mask() -> None:
    ids, mask = torch.tensor([[4, 5, 0]]), torch.tensor([[1, 1, 0]])
    for dtype in (torch.float16, torch.bfloat16):
        assert bool(torch.isfinite(small().to(dtype)(ids, mask)).all())


def test_a_width_that_heads_do_not_divide_is_refused(tmp_path: Path) -> None:
    spec = resolve(ModelSection(model="kdedge:transformer-text"), text_data(tmp_path))
    with pytest.raises(ModelError, match="width 10 cannot be split over 3 heads"):
        build(replace(spec, arguments={**spec.arguments, "width": 10, "heads": 3}))


@pytest.fixture
def built(tmp_path: Path) -> tuple[ModelSpec, Model]:
    torch.manual_seed(0)
    spec = resolve(ModelSection(model="kdedge:transformer-text", arguments={"layers": 1, "width": 8, "heads": 2}), text_data(tmp_path))
    return spec, build(spec).eval()


def test_vocabulary_and_length_come_from_the_data(built: tuple[ModelSpec, Model]) -> None:
    spec, model = built
    assert spec.arguments == {"classes": 2, "vocabulary": 7, "max_length": 16, "layers": 1, "width": 8, "heads": 2}
    assert model.inner.tokens.weight.shape == (7, 8)  # type: ignore[union-attr]


def test_its_graph_runs_at_any_batch_and_length(built: tuple[ModelSpec, Model], tmp_path: Path) -> None:
    spec, model = built
    path = tmp_path / "text.onnx"
    example = (torch.randint(0, 7, (3, 5)), torch.ones(3, 5, dtype=torch.int64))
    torch.onnx.export(
        model,
        example,
        path,
        dynamo=True,
        dynamic_shapes=dynamic_shapes(spec),
        input_names=[each.name for each in spec.inputs],
        output_names=list(spec.outputs),
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path)
    assert [each.shape for each in session.get_inputs()] == [["batch", "length"]] * 2
    for batch, length in ((1, 1), (1, 16), (7, 3), (64, 2)):
        ids = torch.randint(0, 7, (batch, length))
        mask = (torch.arange(length)[None] < torch.randint(1, length + 1, (batch, 1))).long()
        (found,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        np.testing.assert_allclose(found, model(ids, mask)["logits"].detach().numpy(), atol=1e-5)
