"""A `.pt2` program runs as exported, under the names that it carries, and is loaded without running anybody's code."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdedge.runtimes.errors import RuntimeFailure
from kdedge.runtimes.torch import NAMES_FILE, open_session

torch = pytest.importorskip("torch")


class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.linear = torch.nn.Linear(4, 2)

    def forward(self, *tensors: Any) -> dict[str, Any]:
        pooled = torch.relu(self.conv(tensors[0])).mean((2, 3))
        return {"logits": self.linear(pooled), "features": pooled}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Net]:
    torch.manual_seed(0)
    net = Net().eval()
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(net, (torch.randn(2, 3, 8, 8),), dynamic_shapes=(({0: batch},),))
    torch.export.save(exported, path, extra_files={NAMES_FILE: json.dumps({"inputs": ["image"], "outputs": ["logits", "features"]})})
    return path, net


def test_a_program_runs_under_the_names_that_it_carries(program: tuple[Path, Net]) -> None:
    path, net = program
    session = open_session([str(path)], {"threads": 1})
    assert (session.input_names, session.output_names) == (["image"], ["logits", "features"])
    images = np.random.default_rng(0).random((5, 3, 8, 8), dtype=np.float32)
    images.flags.writeable = False
    with torch.inference_mode():
        expected = net(torch.from_numpy(images.copy()))
    given = session.run({"image": images})
    assert np.allclose(given["logits"], expected["logits"].numpy(), atol=1e-6)
    assert np.allclose(given["features"], expected["features"].numpy(), atol=1e-6)
    assert session.facts()["threads"] == 1


def test_its_layers_are_the_operators_with_the_dtype_that_they_compute_in(program: tuple[Path, Net]) -> None:
    layers = open_session([str(program[0])], {}).executed()
    assert [(layer.operator, layer.dtype) for layer in layers] == [("conv2d", "fp32"), ("relu", "fp32"), ("mean", "fp32"), ("linear", "fp32")]


def test_names_come_from_the_function_where_the_program_carries_none(tmp_path: Path) -> None:
    class Plain(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, image: Any) -> dict[str, Any]:
            return {"doubled": image * 2}

    torch.export.save(torch.export.export(Plain(), (torch.ones(1, 2),)), tmp_path / "plain.pt2")
    session = open_session([str(tmp_path / "plain.pt2")], {})
    assert (session.input_names, session.output_names) == (["image"], ["doubled"])
    assert session.run({"image": np.ones((1, 2), np.float32)})["doubled"].tolist() == [[2.0, 2.0]]


def test_a_file_that_is_no_program_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.pt2").write_text("no archive")
    with pytest.raises(RuntimeFailure, match=r"torch cannot open text\.pt2: it is no \.pt2 archive"):
        open_session([str(tmp_path / "text.pt2")], {})


class Runs:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def tampered(source: Path, target: Path, member: str, content: bytes) -> None:
    """A copy of an archive with one member replaced or added."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for info in old.infolist():
            if not info.filename.endswith(member):
                new.writestr(info.filename, old.read(info.filename))
        new.writestr(f"{old.namelist()[0].split('/')[0]}/{member}", content)


def test_an_archive_with_pickled_objects_is_refused_unread(program: tuple[Path, Net], tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.pt2"
    tampered(program[0], hostile, "data/constants/opaque_obj_0", pickle.dumps(Runs(tmp_path / "ran")))
    with pytest.raises(RuntimeFailure, match=r"holds pickled objects \(opaque_obj_0\), which could run code: refused"):
        open_session([str(hostile)], {})
    assert not (tmp_path / "ran").exists()


def test_code_hidden_in_sample_inputs_does_not_run(program: tuple[Path, Net], tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(Runs(tmp_path / "ran"), buffer)
    hostile = tmp_path / "hostile.pt2"
    tampered(program[0], hostile, "data/sample_inputs/model.pt", buffer.getvalue())
    with pytest.raises(RuntimeFailure, match=r"torch cannot open hostile\.pt2"):
        open_session([str(hostile)], {})
    assert not (tmp_path / "ran").exists()


def test_a_lack_of_memory_while_opening_is_told_as_one(program: tuple[Path, Net], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **named: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("torch.export.load", fail)
    with pytest.raises(MemoryError):
        open_session([str(program[0])], {})
