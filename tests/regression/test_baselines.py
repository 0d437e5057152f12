"""A baseline is the artifact itself, with its inputs: whole or refused, never half."""

from __future__ import annotations

import errno
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from regression_world import make_world, model

from kdedge.cli.keeping import set_here
from kdedge.errors import KdedgeError, WorkspaceError
from kdedge.latency.check import Arm
from kdedge.regression.arms import WHOLE, Given, arms_of
from kdedge.regression.baselines import names, read_baseline, set_baseline

ENVIRONMENT = {"cpu": "made up", "onnxruntime": "1.32.0"}


@pytest.fixture
def arm(tmp_path: Path) -> Arm:
    return arms_of(model(tmp_path / "net.onnx", 1.0), Given(sizes=("batch=2",)), tmp_path / "inputs")[WHOLE]


def test_what_was_set_is_read_back_without_its_source(arm: Arm, tmp_path: Path) -> None:
    inputs = np.load(arm.job.buckets[0]["x"])
    set_baseline("released", arm, "local", ENVIRONMENT, tmp_path / "store")
    (tmp_path / "net.onnx").unlink()
    Path(arm.job.buckets[0]["x"]).unlink()
    found = read_baseline("released", tmp_path / "store")
    assert (found.name, found.device, found.arm.environment) == ("released", "local", ENVIRONMENT)
    assert (found.arm.name, found.arm.line, found.arm.sha256) == (arm.name, arm.line, arm.sha256)
    assert replace(found.arm.job, graphs={}, buckets=[]) == replace(arm.job, graphs={}, buckets=[])
    assert Path(found.arm.job.graphs["model"][0]).name == "net.onnx"
    np.testing.assert_array_equal(np.load(found.arm.job.buckets[0]["x"]), inputs)
    assert found.size_bytes == sum(path.stat().st_size for path in (tmp_path / "store").rglob("*") if path.suffix in (".onnx", ".npy"))


def test_setting_again_replaces_and_leaves_nothing_behind(arm: Arm, tmp_path: Path) -> None:
    store = tmp_path / "store"
    set_baseline("released", arm, "local", {}, store)
    other = arms_of(model(tmp_path / "other.onnx", 2.0), Given(sizes=("batch=1",)), tmp_path / "more")[WHOLE]
    set_baseline("released", other, "local", {}, store)
    assert read_baseline("released", store).arm.sha256 == other.sha256
    assert [path.name for path in store.iterdir()] == ["released"]
    assert not list(store.rglob("net.onnx"))
    set_baseline("b", arm, "local", {}, store)
    assert names(store) == ("b", "released")
    assert names(tmp_path / "absent") == ()


@pytest.mark.parametrize("name", ["", "../up", ".hidden", "a/b", "-x", "a" * 101])
def test_a_name_that_is_no_name_is_refused(name: str, arm: Arm, tmp_path: Path) -> None:
    with pytest.raises(KdedgeError, match="is no name for a baseline"):
        set_baseline(name, arm, "local", {}, tmp_path / "store")
    with pytest.raises(KdedgeError, match="is no name for a baseline"):
        read_baseline(name, tmp_path / "store")


def test_a_missing_one_lists_what_there_is(arm: Arm, tmp_path: Path) -> None:
    set_baseline("released", arm, "local", {}, tmp_path / "store")
    with pytest.raises(KdedgeError, match=r"no baseline `absent` in .*\(there is: released\)"):
        read_baseline("absent", tmp_path / "store")


def damaged(store: Path, how: str) -> None:
    root = store / "released"
    record = json.loads((root / "baseline.json").read_text())
    graph, array = record["graphs"]["model"][0], record["inputs"]["x"]
    if how == "changed":
        (root / graph).write_bytes(b"else")
    elif how == "lost":
        (root / array).unlink()
    elif how == "linked away":
        (root / graph).rename(store.parent / "elsewhere.onnx")
        (root / graph).symlink_to(store.parent / "elsewhere.onnx")
    elif how == "named outside":
        (store / "outside").write_text("")
        record["files"]["../outside"] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    elif how == "not its own":
        record["graphs"]["model"] = ["/etc/hostname"]
    elif how == "another schema":
        record["schema"] = 2
    elif how == "no dictionary":
        record["graphs"] = 5
    texts = {"no json": "{", "too deep": "[" * 100_000}
    (root / "baseline.json").write_text(texts.get(how) or json.dumps(record))


@pytest.mark.parametrize(
    "how", ["changed", "lost", "linked away", "named outside", "not its own", "another schema", "no dictionary", "no json", "too deep"]
)
def test_a_damaged_one_is_refused_in_a_sentence(how: str, arm: Arm, tmp_path: Path) -> None:
    set_baseline("released", arm, "local", {}, tmp_path / "store")
    damaged(tmp_path / "store", how)
    with pytest.raises(WorkspaceError, match="the baseline `released`"):
        read_baseline("released", tmp_path / "store")


def test_a_store_that_cannot_be_written_is_a_sentence(arm: Arm, tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(WorkspaceError, match="cannot be kept"):
        set_baseline("released", arm, "local", {}, tmp_path / "store")


def test_writers_of_one_baseline_do_not_mix(arm: Arm, tmp_path: Path) -> None:
    other = arms_of(model(tmp_path / "other.onnx", 2.0), Given(sizes=("batch=3",)), tmp_path / "other")[WHOLE]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: set_baseline("released", (arm, other)[number % 2], "local", {}, tmp_path / "store"), range(40)))
    assert len(found) == 40
    assert read_baseline("released", tmp_path / "store").arm.sha256 in (arm.sha256, other.sha256)
    assert names(tmp_path / "store") == ("released",)


def test_a_disk_that_is_full_leaves_the_baseline_that_was_set_and_nothing_else(arm: Arm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    before = set_baseline("released", arm, "local", ENVIRONMENT, store)

    def full(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(WorkspaceError, match=r"the baseline `released` cannot be kept in .*: No space left on device"):
        set_baseline("released", arm, "board", {}, store)
    assert read_baseline("released", store) == before
    assert [path.name for path in store.iterdir()] == ["released"]


def test_a_run_of_the_workspace_is_set_by_its_name(whole_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(tmp_path / "world", monkeypatch)
    shutil.copytree(whole_bundle, tmp_path / "runs" / "kept" / "bundles" / "one")
    set_here("released", "kept", "same", None, (), tmp_path, False)
    assert read_baseline("released", tmp_path / "baselines").arm.sha256 == arms_of(whole_bundle, Given(), tmp_path / "in")[WHOLE].sha256
    with pytest.raises(KdedgeError, match="absent: there is no such file, bundle or folder of a run, no baseline of this name"):
        set_here("released", "absent", "same", None, (), tmp_path, False)
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 3), np.float32))
    with pytest.raises(KdedgeError, match=r"--inputs .*x\.npz: kept brings its own inputs"):
        set_here("released", "kept", "same", tmp_path / "x.npz", (), tmp_path, False)
    set_here("released", str(world.before), "same", tmp_path / "x.npz", (), tmp_path, False)
