"""What was kept of a teacher is what it would say now, whatever the batch; and what is about something else is refused by name."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cache_world as world
import numpy as np
import pytest
import torch
from cache_world import SHOWN, both, kept, made
from distill_world import StopAfter, StoppedError, image_data, spec, training

from kdedge import progress
from kdedge.artifact import PreparedData, TeacherFiles
from kdedge.data.held_out import hold_out
from kdedge.distill.batches import Batch
from kdedge.distill.cache import Remembered, fill
from kdedge.distill.fingerprint import sha256
from kdedge.distill.spec import TrainingSpec
from kdedge.distill.trainer import distill
from kdedge.errors import TrainingError
from kdedge.trained import CachedView
from kdedge.workspace import Workspace

LOGITS = ("logits",)
KD = ({"ce": 0.5}, {"kd": 2.0, "temperature": 2.0})


def close(kept: Any, live: Any, largest: float) -> None:
    """Within float16 (2^-11 of the value, 2^-24 near zero) and what sums differ between batches of other sizes."""
    assert kept.shape == live.shape
    assert kept.dtype == live.dtype == np.float32
    assert np.all(np.abs(kept - live) <= 2**-11 * np.abs(live) + 2**-24 + 1e-6 * largest)


# ---- the same answers ------------------------------------------------------------------------------------------------------

TEACHERS: dict[str, Callable[[Path, PreparedData], TeacherFiles]] = {"one": world.one, "ensemble": world.ensemble}


@pytest.mark.parametrize("mixup", [False, True])
@pytest.mark.parametrize("kind", TEACHERS)
def test_kept_and_live_answers_agree_under_augmentation_and_shuffling(data: PreparedData, tmp_path: Path, kind: str, mixup: bool) -> None:
    teacher, shown = TEACHERS[kind](tmp_path, data), dataclasses.replace(SHOWN, mixup=mixup)
    views = kept(tmp_path / "cache", teacher, data, shown=shown)
    for seed, batch_size in ((1, 16), (2, 7), (3, 50)):
        pairs = both(teacher, views, data, LOGITS, shown, seed=seed, batch_size=batch_size)
        largest = max(np.abs(live["logits"]).max() for live, _ in pairs)
        for live, known in pairs:
            close(known["logits"], live["logits"], largest)


def test_who_learns_from_a_part_of_the_data_reads_what_was_said_about_the_whole(data: PreparedData, tmp_path: Path) -> None:
    teacher = world.one(tmp_path, data)
    views = kept(tmp_path / "cache", teacher, data)
    part, _ = hold_out(data.splits["train"], 0.2, 5)
    pairs = both(teacher, views, data, LOGITS, SHOWN, seed=1, batch_size=16, part=part)
    assert len(pairs) == 3 * -(-part.size // 16)
    for live, known in pairs:
        close(known["logits"], live["logits"], np.abs(live["logits"]).max())


def test_an_onnx_teacher_is_kept_as_any_other(data: PreparedData, tmp_path: Path) -> None:
    files = world.ensemble(tmp_path, data)
    alone = TeacherFiles((files.members[1],), (1.0,))
    views = kept(tmp_path / "cache", alone, data)
    for live, known in both(alone, views, data, LOGITS, SHOWN, seed=4, batch_size=16):
        close(known["logits"], live["logits"], np.abs(live["logits"]).max())


def test_what_layers_give_is_kept_beside_the_logits(data: PreparedData, tmp_path: Path) -> None:
    teacher, wanted = world.one(tmp_path, data), ("logits", "pooled:norm", "attention:conv")
    views = kept(tmp_path / "cache", teacher, data, wanted)
    for live, known in both(teacher, views, data, wanted, SHOWN, seed=5, batch_size=16):
        assert known["attention:conv"].shape[1:] == (6, 6)
        for what in wanted:
            close(known[what], live[what], np.abs(live[what]).max())


def test_the_views_differ_so_that_agreement_says_something(data: PreparedData, tmp_path: Path) -> None:
    teacher = world.one(tmp_path, data)
    first, second = (np.load(view.shards[0]) for view in kept(tmp_path / "cache", teacher, data))
    assert np.abs(first - second).max() > 0.05


def test_an_answer_has_the_same_bytes_whatever_the_batch(data: PreparedData, tmp_path: Path) -> None:
    teacher = world.one(tmp_path, data)
    views = kept(tmp_path / "cache", teacher, data)
    said: dict[tuple[int, int], bytes] = {}
    known = Remembered(views, teacher, LOGITS, data, SHOWN)
    for size in (1, 7, 50):
        for view in (0, 1):
            for part in np.array_split(np.random.default_rng(size).permutation(50).astype(np.int64), -(-50 // size)):
                rows = known.answers({}, Batch((), part, part, view), LOGITS)["logits"].numpy()
                for sample, row in zip(part, rows, strict=True):
                    assert said.setdefault((view, int(sample)), row.tobytes()) == row.tobytes()
    assert len(said) == 100


def test_a_view_is_the_same_bytes_each_time_that_it_is_asked_about(data: PreparedData, tmp_path: Path) -> None:
    teacher = world.one(tmp_path, data)
    files = [{p.name: p.read_bytes() for p in (*v.shards, v.manifest)} for f in "ab" for v in kept(tmp_path / f, teacher, data, views=1)]
    assert files[0] == files[1]


def test_the_largest_logits_alone_keep_the_mass_of_the_rest(data: PreparedData, tmp_path: Path) -> None:
    teacher = world.one(tmp_path, data)
    views = kept(tmp_path / "cache", teacher, data, top_k=1)
    for live, known in both(teacher, views, data, LOGITS, SHOWN, seed=6, batch_size=16):
        expected, found = (torch.softmax(torch.tensor(each["logits"].astype(np.float64)), 1).numpy() for each in (live, known))
        place = expected.argmax(1)
        rows = np.arange(len(place))
        np.testing.assert_allclose(found[rows, place], expected[rows, place], rtol=2e-3)
        rest = (1 - expected[rows, place]) / 2
        for other in (1, 2):
            np.testing.assert_allclose(found[rows, (place + other) % 3], rest, rtol=4e-3)


def test_answers_too_large_for_halves_are_kept_whole(data: PreparedData, tmp_path: Path) -> None:
    files = world.ensemble(tmp_path, data)
    hot = TeacherFiles((files.members[0],), (1.0,), temperatures=(1e-6,))
    (view,) = kept(tmp_path / "cache", hot, data, views=1)
    assert np.load(view.shards[0]).dtype == np.float32
    for live, known in both(hot, (view,), data, LOGITS, SHOWN, seed=1, batch_size=50):
        np.testing.assert_allclose(known["logits"], live["logits"], rtol=1e-4)


# ---- a student learns the same from them ------------------------------------------------------------------------------------


def lesson(**changes: Any) -> TrainingSpec:
    how: dict[str, Any] = {"epochs": 4, "views": 2, "checkpoint_seconds": 0.0, "augment": SHOWN.augment, **changes}
    return dataclasses.replace(training(*KD, teacher=True, **how), view_seed=SHOWN.seed)


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_killed_run_on_kept_answers_resumes_to_the_same_bytes(data: PreparedData, tmp_path: Path) -> None:
    teacher = world.one(tmp_path, data)
    views = kept(tmp_path / "cache", teacher, data)
    straight, broken = made(tmp_path / "straight"), made(tmp_path / "broken")
    distill(spec(), lesson(), teacher, data, 3, cache=views, folder=straight)
    for step in (2, 7, 13):
        with progress.listening(StopAfter(step)), pytest.raises(StoppedError):
            distill(spec(), lesson(), teacher, data, 3, cache=views, folder=broken)
    distill(spec(), lesson(), teacher, data, 3, cache=views, folder=broken)
    assert set(files_in(straight)) == {"model.safetensors", "metrics.jsonl"}
    assert files_in(straight) == files_in(broken)


def test_a_student_of_kept_answers_is_nearly_that_of_a_living_teacher(data: PreparedData, tmp_path: Path) -> None:
    teacher = world.one(tmp_path, data)
    views = kept(tmp_path / "cache", teacher, data)
    losses = []
    for name, cache in (("live", ()), ("kept", views)):
        distill(spec(dropout=0.0), lesson(), teacher, data, 3, cache=cache, folder=made(tmp_path / name))
        losses.append(json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1])["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=2e-3)
    assert losses[0] != losses[1]


def test_a_killed_fill_is_made_whole_by_the_next_run(data: PreparedData, tmp_path: Path) -> None:
    teacher = world.one(tmp_path, data)
    call = ("kdedge.distill.cache:fill", teacher, LOGITS, data, SHOWN, 0, None)
    with progress.listening(StopAfter(1)), pytest.raises(StoppedError):
        Workspace(tmp_path / "broken").stage(*call)
    found = [Workspace(tmp_path / name).stage(*call) for name in ("broken", "straight")]
    assert [path.read_bytes() for path in found[0].shards] == [path.read_bytes() for path in found[1].shards]


def test_a_fill_tells_how_far_it_is(tmp_path: Path) -> None:
    class Heard(progress.Silent):
        lines: list[tuple[str, int, int, str]] = []  # noqa: RUF012

        def advance(self, what: str, done: int, total: int, note: str) -> None:
            self.lines.append((what, done, total, note))

    data = image_data(tmp_path / "data", size=300)
    teacher = world.one(tmp_path, data)
    with progress.listening(Heard()):
        fill(teacher, LOGITS, data, SHOWN, 1, None, folder=made(tmp_path / "cache"))
    assert Heard.lines == [("ask the teacher", 256, 300, "about view 2"), ("ask the teacher", 300, 300, "about view 2")]


# ---- what is refused --------------------------------------------------------------------------------------------------------


@pytest.fixture
def view(data: PreparedData, tmp_path: Path) -> tuple[TeacherFiles, CachedView]:
    teacher = world.one(tmp_path / "models", data)
    return teacher, kept(tmp_path / "cache", teacher, data, views=1)[0]


def test_a_cache_about_something_else_is_refused_by_what_differs(view: tuple[TeacherFiles, CachedView], data: PreparedData, tmp_path: Path) -> None:
    teacher, known = view
    Remembered((known,), teacher, LOGITS, data, SHOWN)
    retrained = world.one(tmp_path / "other", data, seed=9)
    code = dataclasses.replace(teacher.members[0], factory=dataclasses.replace(teacher.members[0].factory, value="distill_world:flat"))  # type: ignore[type-var]
    others: list[tuple[str, tuple[Any, ...]]] = [
        ("teacher", (retrained, LOGITS, data, SHOWN)),
        ("teacher", (dataclasses.replace(teacher, members=(code,)), LOGITS, data, SHOWN)),
        ("teacher", (dataclasses.replace(teacher, temperatures=(2.0,)), LOGITS, data, SHOWN)),
        ("data", (teacher, LOGITS, image_data(tmp_path / "more", size=51), SHOWN)),
        ("augmentation", (teacher, LOGITS, data, dataclasses.replace(SHOWN, augment=("crop1",)))),
        ("augmentation", (teacher, LOGITS, data, dataclasses.replace(SHOWN, seed=12))),
        ("augmentation", (teacher, LOGITS, data, dataclasses.replace(SHOWN, mixup=True))),
        ("questions", (teacher, ("logits", "pooled:norm"), data, SHOWN)),
        ("teacher, data", (retrained, LOGITS, image_data(tmp_path / "more again", size=51), SHOWN)),
    ]
    for part, asked in others:
        with pytest.raises(TrainingError, match=rf"view0.manifest.json is not about this run: it differs in {part}; delete its folder"):
            Remembered((known,), *asked)
    with pytest.raises(TrainingError, match="it differs in view;"):
        Remembered((dataclasses.replace(known, view=1),), teacher, LOGITS, data, SHOWN)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [_cut, _flip, Path.unlink])
def test_a_cut_changed_or_missing_shard_is_refused_by_its_name(
    view: tuple[TeacherFiles, CachedView], data: PreparedData, spoil: Callable[[Path], None]
) -> None:
    teacher, known = view
    spoil(known.shards[0])
    with pytest.raises(TrainingError, match=r"view0.answer0\.npy (was cut off or changed|cannot be read).*delete its folder, and it is made again"):
        Remembered((known,), teacher, LOGITS, data, SHOWN)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b'{"seal": 1}', None])
def test_a_damaged_or_edited_manifest_is_refused(view: tuple[TeacherFiles, CachedView], data: PreparedData, content: bytes | None) -> None:
    teacher, known = view
    if content is None:
        text = known.manifest.read_text()
        assert text.count('"classes": 3') == 1
        content = text.replace('"classes": 3', '"classes": 4').encode()
    known.manifest.write_bytes(content)
    with pytest.raises(TrainingError, match=r"manifest\.json cannot be read"):
        Remembered((known,), teacher, LOGITS, data, SHOWN)


def test_a_view_that_was_not_asked_about_is_refused(view: tuple[TeacherFiles, CachedView], data: PreparedData) -> None:
    teacher, known = view
    with pytest.raises(TrainingError, match="covers the views 1, not view 2"):
        both(teacher, (known, dataclasses.replace(known, view=0)), data, LOGITS, SHOWN, seed=1, batch_size=16)


def test_whole_feature_maps_are_not_kept(data: PreparedData, tmp_path: Path) -> None:
    teacher = world.one(tmp_path, data)
    with pytest.raises(TrainingError, match=r"whole feature maps \(conv\), which are too large"):
        fill(teacher, ("logits", "feature:conv"), data, SHOWN, 0, None, folder=made(tmp_path / "cache"))


def test_a_teacher_that_answers_no_number_is_refused_with_the_example(data: PreparedData, tmp_path: Path) -> None:
    teacher = world.one(tmp_path, data, code="cache_world:nan_late")
    with pytest.raises(TrainingError, match=r"answers what is no finite number \(`logits`\) about training example 17 in view 1"):
        fill(teacher, LOGITS, data, dataclasses.replace(SHOWN, augment=()), 0, None, folder=made(tmp_path / "cache"))


# ---- what it takes -----------------------------------------------------------------------------------------------------------


def test_a_large_file_is_hashed_piece_by_piece(tmp_path: Path) -> None:
    big = tmp_path / "big.safetensors"
    with big.open("wb") as handle:
        handle.truncate(400_000_000)
    program = f"""
import resource
from pathlib import Path
from kdedge.distill.fingerprint import sha256
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(sha256(Path({str(big)!r})), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    digest, grown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert len(digest) == 64
    assert int(grown) < 50_000  # kB
    folder = made(tmp_path / "folder")
    (folder / "a").write_bytes(b"1")
    first = sha256(folder)
    (folder / "a").rename(folder / "b")
    assert sha256(folder) != first
