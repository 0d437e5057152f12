"""TensorBoard's files, and the lines of metrics that they show."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from distill_world import StopAfter, StoppedError, made, spec, training

from kdedge import progress
from kdedge.artifact import PreparedData
from kdedge.distill.trainer import distill
from kdedge.errors import MissingExtra

TERMS: tuple[dict[str, Any], ...] = ({"ce": {0: 1.0, 1: 0.5}}, {"distill_world:small": 2.0, "start": 0.3, "stop": 0.6})


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """All scalars of a run's event files, by their name and step: what a run that went on began with, ends what was there from that step on."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found: dict[str, dict[int, float]] = {}
    for path in sorted(folder.iterdir(), key=lambda each: each.stat().st_mtime_ns):
        content, place = path.read_bytes(), 0
        while place < len(content):
            # A record: length, its checksum, the event, its checksum.
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            place += 16 + length
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                found = {name: {step: value for step, value in values.items() if step < event.step} for name, values in found.items()}
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_event_files_hold_what_the_metrics_hold_outside_of_the_stages_folder(data: PreparedData, tmp_path: Path) -> None:
    board, run = tmp_path / "board", made(tmp_path / "run")
    with progress.labelled("generation 2"):
        distill(spec(), training(*TERMS, tensorboard=board), None, data, 5, folder=run)
    distill(spec(), training(*TERMS, tensorboard=board), None, data, 5, folder=made(tmp_path / "other"))
    assert sorted(path.name for path in run.iterdir()) == ["metrics.jsonl", "model.safetensors"]
    names = sorted(path.name for path in board.iterdir())
    assert len(names) == 2
    assert names[1].startswith("distill-generation-2-")
    shown, lines = scalars(board / names[1]), lines_of(run)
    assert set(shown) == {"loss", "learning_rate", "raw/ce", "weighted/ce", "raw/distill_world_small", "weighted/distill_world_small"}
    for line in lines:
        assert shown["loss"][line["step"]] == pytest.approx(line["loss"])
        assert shown["weighted/ce"][line["step"]] == pytest.approx(line["terms"]["ce"]["weighted"])
    # The late term counts in steps 5 to 8, which is the second epoch.
    assert list(shown["raw/distill_world_small"]) == [8]


def test_a_run_that_went_on_shows_each_step_once(data: PreparedData, tmp_path: Path) -> None:
    how = training(*TERMS, tensorboard=tmp_path / "board", checkpoint_seconds=0.0)
    run = made(tmp_path / "run")
    with progress.listening(StopAfter(9)), pytest.raises(StoppedError):
        distill(spec(), how, None, data, 5, folder=run)
    distill(spec(), how, None, data, 5, folder=run)
    (folder,) = (tmp_path / "board").iterdir()
    assert list(scalars(folder)["loss"]) == [4, 8, 12]


def test_a_term_that_does_not_count_is_absent_and_a_schedule_is_seen(data: PreparedData, tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    distill(spec(), training(*TERMS), None, data, 5, folder=run)
    lines = lines_of(run)
    assert [sorted(line["terms"]) for line in lines] == [["ce"], ["ce", "distill_world:small"], ["ce"]]
    # The loss `small` is 0.25 always: in its four steps it adds twice that.
    assert lines[1]["terms"]["distill_world:small"] == {"raw": 0.25, "weighted": 0.5}
    ratios = [line["terms"]["ce"]["weighted"] / line["terms"]["ce"]["raw"] for line in lines]
    # The weight falls from 1 to 0.5: its mean over the steps of an epoch.
    assert ratios == pytest.approx([1 - 0.5 * 1.5 / 12, 1 - 0.5 * 5.5 / 12, 1 - 0.5 * 9.5 / 12], abs=0.01)


def test_a_term_is_told_as_the_mean_of_the_steps_in_which_it_counted(data: PreparedData, tmp_path: Path) -> None:
    run = made(tmp_path / "run")
    # Steps 7 to 12: two of the second epoch's four.
    distill(spec(), training({"ce": 1.0}, {"distill_world:small": 2.0, "start": 0.5}), None, data, 5, folder=run)
    lines = lines_of(run)
    assert lines[1]["terms"]["distill_world:small"] == {"raw": 0.25, "weighted": 0.25}
    for line in lines:
        assert line["loss"] == pytest.approx(sum(term["weighted"] for term in line["terms"].values()))


def test_without_the_package_its_extra_is_named(data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(MissingExtra, match=r"writing TensorBoard files needs `tensorboardX`.*kdedge\[tensorboard\]"):
        distill(spec(), training(tensorboard=tmp_path / "board"), None, data, 5, folder=made(tmp_path / "run"))
