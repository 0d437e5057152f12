"""A job on a board is done once, survives lost connections and lost hosts, and fails with the same sentences as on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from board_world import DOUBLED, IDENTITY, QUICK, Watched, begun, fake_job, fake_worker, runner

from kdedge import progress
from kdedge.devices.board import BoardRunner, open_board
from kdedge.devices.board_job import quiet_seconds, run_id
from kdedge.devices.device import Device, DeviceSettings
from kdedge.devices.jobs import run_job
from kdedge.devices.lease import holder
from kdedge.devices.local import LocalTransport
from kdedge.errors import DeviceError, DeviceGone, DeviceUnresponsive, Disconnected
from kdedge.runtimes.job import LaunchRule
from kdedge.runtimes.supervise import live_supervisor


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_worker(tmp_path_factory.mktemp("worker"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "board"


@pytest.fixture
def board(root: Path, archive: Path) -> Iterator[Device]:
    made = runner(root, archive)
    yield Device(IDENTITY, LocalTransport(), sys.executable, made)
    made.close()


def doubled(folder: Path, outputs: list[dict[str, str]]) -> list[list[float]]:
    found: list[list[float]] = np.load(folder / outputs[0]["doubled"]).tolist()
    return found


def test_a_job_leaves_what_it_leaves_on_this_machine_and_nothing_on_the_board(board: Device, root: Path, tmp_path: Path) -> None:
    result = run_job(board, fake_job(tmp_path), tmp_path / "job", 60)
    assert (result.status, result.reason, result.runtime_version) == ("ok", "", "1.0")
    assert doubled(tmp_path / "job", result.outputs) == DOUBLED
    assert sorted(path.name for path in (tmp_path / "job").iterdir()) == ["executed.json", "job.json", "outputs", "result.json", "worker.log"]
    assert list((root / "jobs").iterdir()) == []
    assert len(list((root / "store").iterdir())) == 3  # model, input, worker


def test_the_worker_finds_thread_counts_silence_and_no_secrets(board: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "secret")
    seen = run_job(board, fake_job(tmp_path), tmp_path / "job", 60).facts["environment"]
    assert (seen["OMP_NUM_THREADS"], seen["OMP_WAIT_POLICY"], seen["CI"]) == ("1", "PASSIVE", "true")
    assert "API_TOKEN" not in seen


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("segfault", r"signal 11 (SIGSEGV) in string_at (__init__.py, line"),
        ("be killed", "killed (signal 9), probably out of memory"),
        ("raise", "ValueError: the kernel does not like this input"),
        ("exit", "the worker ended with exit code 7 and no result: licence expired"),
    ],
)
def test_a_death_is_a_failure_that_says_what_happened(what: str, said: str, board: Device, root: Path, tmp_path: Path) -> None:
    result = run_job(board, fake_job(tmp_path, do=what), tmp_path / "job", 60)
    assert (result.status, result.runtime) == ("failed", "fake")
    assert result.reason.startswith(said)
    assert list((root / "jobs").iterdir()) == []


def test_a_job_at_its_limit_is_stopped_and_says_the_limit_and_the_last_words(board: Device, tmp_path: Path) -> None:
    result = run_job(board, fake_job(tmp_path, do="hang"), tmp_path / "job", 3)
    assert (result.status, result.reason) == ("failed", "stopped after 3 s, the limit of this job: about to hang")


def test_what_the_job_said_is_in_the_log(board: Device, tmp_path: Path) -> None:
    run_job(board, fake_job(tmp_path, do="exit"), tmp_path / "job", 60)
    assert (tmp_path / "job/worker.log").read_text() == "licence expired\n"


def test_a_result_that_names_a_file_outside_its_folder_is_refused(board: Device, root: Path, tmp_path: Path) -> None:
    class Foreign(LocalTransport):
        def pull(self, remote: str, local: Path) -> None:
            super().pull(remote, local)
            result = json.loads((local / "result.json").read_text())
            (local / "result.json").write_text(json.dumps({**result, "outputs": [{"doubled": "../../elsewhere.npy"}]}))

    assert isinstance(board.runner, BoardRunner)
    foreign = runner(root.with_name("foreign"), board.runner._archive, Foreign())
    result = run_job(replace(board, runner=foreign), fake_job(tmp_path), tmp_path / "job", 60)
    foreign.close()
    assert (result.status, result.reason) == ("failed", "output `doubled` lies outside the job's folder: ../../elsewhere.npy")


def test_a_missing_file_of_the_job_is_an_error_before_anything_is_sent(board: Device, root: Path, tmp_path: Path) -> None:
    job = replace(fake_job(tmp_path), graphs={"main": [str(tmp_path / "absent.onnx")]})
    with pytest.raises(DeviceError, match=r"absent\.onnx cannot be placed on it: No such file"):
        run_job(board, job, tmp_path / "job", 60)
    assert not root.exists()


@pytest.mark.parametrize("step", [0, 2, 4, 5, 7, 8, 9, 10, "pull", "remove"])
def test_a_connection_that_breaks_after_any_step_loses_nothing_and_repeats_nothing(
    step: int | str, root: Path, archive: Path, tmp_path: Path
) -> None:
    """Worst of all: the step was done, and its answer is lost."""
    cut: list[int] = []

    def watch(kind: str, at: int, when: str) -> None:
        removing = transport.calls[-2:] == ["pull", "run"] and step == "remove"
        if when == "after" and not cut and (at == step or kind == step or removing):
            cut.append(at)
            raise Disconnected("cable pulled")

    transport = Watched(watch)
    made = runner(root, archive, transport)
    (tmp_path / "job").mkdir()
    result = made.run(fake_job(tmp_path, count=str(tmp_path / "count")), tmp_path / "job", 60, "")
    made.close()
    assert len(cut) == 1
    assert result.status == "ok"
    assert doubled(tmp_path / "job", result.outputs) == DOUBLED
    assert begun(tmp_path / "count") == 1
    assert list((root / "jobs").iterdir()) == []
    assert holder(LocalTransport(), str(root), "board") is None


def test_an_outage_that_is_too_long_is_an_error_that_says_how_long_was_tried(root: Path, archive: Path, tmp_path: Path) -> None:
    def watch(kind: str, at: int, when: str) -> None:
        raise Disconnected("no route to it")

    made = runner(root, archive, Watched(watch), replace(QUICK, outage=0.2))
    with pytest.raises(Disconnected, match=r"no route to it \(tried for \d s\)"):
        made.run(fake_job(tmp_path), tmp_path, 60, "")


@pytest.mark.parametrize("error", [DeviceGone, DeviceUnresponsive])
def test_a_device_that_is_gone_or_silent_is_not_asked_again(error: type[DeviceError], root: Path, archive: Path, tmp_path: Path) -> None:
    def watch(kind: str, at: int, when: str) -> None:
        raise error("it is")

    transport = Watched(watch)
    with pytest.raises(error, match="it is"):
        runner(root, archive, transport).run(fake_job(tmp_path), tmp_path, 60, "")
    assert len(transport.calls) == 1


def lose_host(root: Path, archive: Path, tmp_path: Path, kind: str, **options: object) -> None:
    """A host that begins the job, and is lost when it first does `kind`."""

    def watch(called: str, at: int, when: str) -> None:
        if called == kind:
            raise DeviceGone("the host is lost")

    made = runner(root, archive, Watched(watch))
    with pytest.raises(DeviceGone):
        made.run(fake_job(tmp_path, count=str(tmp_path / "count"), **options), tmp_path, 60, "launch-01")
    made.close()


def again(root: Path, archive: Path, tmp_path: Path, name: str = "launch-01", **options: object) -> str:
    made = runner(root, archive)
    (tmp_path / "job").mkdir(exist_ok=True)
    result = made.run(fake_job(tmp_path, count=str(tmp_path / "count"), **options), tmp_path / "job", 60, name)
    made.close()
    if result.status == "ok":
        assert doubled(tmp_path / "job", result.outputs) == DOUBLED
    return result.status


def test_a_job_that_was_finished_for_a_host_that_was_lost_is_fetched(root: Path, archive: Path, tmp_path: Path) -> None:
    lose_host(root, archive, tmp_path, "pull")
    assert again(root, archive, tmp_path) == "ok"
    assert begun(tmp_path / "count") == 1
    assert list((root / "jobs").iterdir()) == []


def test_a_piece_of_another_name_is_done_for_itself(root: Path, archive: Path, tmp_path: Path) -> None:
    lose_host(root, archive, tmp_path, "pull")
    assert again(root, archive, tmp_path, name="launch-02") == "ok"
    assert begun(tmp_path / "count") == 2


def test_what_failed_for_a_host_that_was_lost_is_tried_again(root: Path, archive: Path, tmp_path: Path) -> None:
    lose_host(root, archive, tmp_path, "pull", do="raise")
    assert again(root, archive, tmp_path, do="raise") == "failed"
    assert begun(tmp_path / "count") == 2


def eventually(condition: object) -> None:
    assert callable(condition)
    for _ in range(600):
        if condition():
            return
        time.sleep(0.03)
    raise AssertionError("it did not happen within 18 s")


def test_a_job_that_runs_for_a_host_that_was_lost_is_waited_for(root: Path, archive: Path, tmp_path: Path) -> None:
    def watch(kind: str, at: int, when: str) -> None:
        if spawned(transport) and kind == "run" and begun(tmp_path / "count"):
            raise DeviceGone("the host is lost")

    transport = Watched(watch)
    first = runner(root, archive, transport)
    job = fake_job(tmp_path, count=str(tmp_path / "count"), seconds=2)
    with pytest.raises(DeviceGone):
        first.run(job, tmp_path, 60, "launch-01")
    second = runner(root, archive)
    with pytest.raises(DeviceError, match=r"device `board` is taken by a kdedge process .* until"):
        second.run(replace(job, batch=1), tmp_path, 60, "launch-01")
    first._lease._transport = LocalTransport()
    first._lease.give_back()  # as if it had run out
    assert again(root, archive, tmp_path, seconds=2) == "ok"
    assert begun(tmp_path / "count") == 1
    second.close()


def test_a_job_that_nobody_waits_for_any_more_ends_when_the_board_is_let_go(root: Path, archive: Path, tmp_path: Path) -> None:
    def watch(kind: str, at: int, when: str) -> None:
        if not interrupted and begun(tmp_path / "count"):
            interrupted.append(at)
            raise KeyboardInterrupt

    interrupted: list[int] = []
    made = runner(root, archive, Watched(watch))
    with pytest.raises(KeyboardInterrupt):
        made.run(fake_job(tmp_path, count=str(tmp_path / "count"), seconds=60), tmp_path, 90, "")
    (folder,) = (root / "jobs").iterdir()
    assert live_supervisor(str(folder))
    made.close()
    eventually(lambda: not live_supervisor(str(folder)))
    assert holder(LocalTransport(), str(root), "board") is None


def spawned(transport: Watched) -> bool:
    return "spawn" in transport.calls


def kill_supervisor(root: Path) -> bool:
    for claim in (root / "jobs").glob("*/claim-*"):
        words = claim.read_text().split()
        if words:
            try:
                os.kill(int(words[0]), signal.SIGKILL)
            except ProcessLookupError:  # the one killed before; its successor has not claimed the job yet
                continue
            return True
    return False


def test_a_job_whose_supervisor_was_killed_is_begun_anew_and_counted_once(root: Path, archive: Path, tmp_path: Path) -> None:
    killed: list[int] = []

    def watch(kind: str, at: int, when: str) -> None:
        if not killed and begun(tmp_path / "count") and kill_supervisor(root):
            killed.append(at)

    made = runner(root, archive, Watched(watch))
    result = made.run(fake_job(tmp_path, count=str(tmp_path / "count"), seconds=1), tmp_path / "job", 60, "")
    made.close()
    assert result.status == "ok"
    assert len(killed) == 1
    assert begun(tmp_path / "count") == 2
    assert doubled(tmp_path / "job", result.outputs) == DOUBLED


def test_a_supervisor_that_is_killed_again_and_again_is_a_named_failure(root: Path, archive: Path, tmp_path: Path) -> None:
    def watch(kind: str, at: int, when: str) -> None:
        kill_supervisor(root) if when == "before" else None

    made = runner(root, archive, Watched(watch), replace(QUICK, restarts=1))
    result = made.run(fake_job(tmp_path, count=str(tmp_path / "count"), seconds=30), tmp_path / "job", 60, "")
    made.close()
    assert (result.status, result.reason) == ("failed", "the device restarted, or its supervisor was killed, 2 times during the job")


class _LosesSupervisors(LocalTransport):
    """A board that restarts right after a supervisor was started there: nothing of it is left, not even its claim. The first `restarts` times."""

    def __init__(self, restarts: int) -> None:
        self.restarts = restarts

    def spawn(self, argv: Sequence[str], log: str, env: Mapping[str, str] | None = None) -> None:
        self.restarts -= 1
        if self.restarts < 0:
            super().spawn(argv, log, env)
        else:
            Path(log).touch()


def test_a_supervisor_that_died_before_its_claim_is_started_anew(root: Path, archive: Path, tmp_path: Path) -> None:
    made = runner(root, archive, _LosesSupervisors(1))
    result = made.run(fake_job(tmp_path, count=str(tmp_path / "count")), tmp_path / "job", 60, "")
    made.close()
    assert result.status == "ok"
    assert begun(tmp_path / "count") == 1


def test_supervisors_that_die_before_their_claim_again_and_again_are_a_named_failure(root: Path, archive: Path, tmp_path: Path) -> None:
    made = runner(root, archive, _LosesSupervisors(99), replace(QUICK, restarts=1))
    result = made.run(fake_job(tmp_path), tmp_path / "job", 60, "")
    made.close()
    assert (result.status, result.reason) == ("failed", "the device restarted, or its supervisor was killed, 2 times during the job")


def test_a_worker_that_starts_slowly_and_says_something_is_waited_for(root: Path, archive: Path, tmp_path: Path) -> None:
    slow = tmp_path / "python"
    slow.write_text(f'#!/bin/sh\ncase "$*" in *supervise*) echo "a warning of the system" >&2; sleep 5 ;; esac\nexec {sys.executable} "$@"\n')
    slow.chmod(0o755)
    made = BoardRunner(IDENTITY, LocalTransport(), str(slow), str(root), archive=archive, patience=replace(QUICK, start=60.0))
    result = made.run(fake_job(tmp_path), tmp_path / "job", 60, "")
    made.close()
    assert result.status == "ok"


def test_a_worker_that_cannot_start_is_an_error_with_its_last_words(root: Path, archive: Path, tmp_path: Path) -> None:
    made = BoardRunner(IDENTITY, LocalTransport(), "/bin/false-python", str(root), archive=archive, patience=QUICK)
    made._prepared = made._lease.take("earlier")  # old files were removed already
    with pytest.raises(DeviceError, match="false-python"):
        made.run(fake_job(tmp_path), tmp_path / "job", 60, "")
    made.close()


def test_a_board_says_what_it_is_when_it_is_opened(root: Path, archive: Path) -> None:
    device = open_board("orin", "ssh", LocalTransport(), sys.executable, str(root), DeviceSettings(), archive)
    assert (device.identity.name, device.identity.kind) == ("orin", "ssh")
    assert device.identity.fingerprint["fake"] == "1.0"
    assert {"machine", "cores", "python"} <= set(device.identity.fingerprint)
    assert isinstance(device.runner, BoardRunner)
    device.runner.close()
    assert not (root / "lease").exists()  # to ask takes nothing


@pytest.mark.parametrize(("version", "said"), [("3.7", "needs Python 3.8 or newer; this is 3.7"), ("3.8", "has no numpy, which the worker needs")])
def test_a_python_that_cannot_work_is_refused_with_a_sentence(version: str, said: str, root: Path, archive: Path) -> None:
    python = next((str(path) for path in Path.home().glob(f".pyenv/versions/{version}.*/bin/python")), None)
    if python is None or (version == "3.8" and subprocess.run([python, "-c", "import numpy"], capture_output=True, check=False).returncode == 0):
        pytest.skip(f"no Python {version} without numpy")
    with pytest.raises(DeviceError, match=said):
        open_board("orin", "ssh", LocalTransport(), python, str(root), DeviceSettings(), archive)


def test_a_run_is_known_by_all_that_decides_its_result_and_not_by_where_its_files_lie(tmp_path: Path) -> None:
    job = fake_job(tmp_path)
    model, given = Path(job.graphs["main"][0]), Path(job.buckets[0]["image"])
    digests = {model: "m", given: "x"}

    def known(job: object = job, digests: dict[Path, str] = digests, name: str = "a", timeout: float = 1.0, variable: str = "1") -> str:
        return run_id(job, tmp_path, digests, name, timeout, {"OMP_NUM_THREADS": variable}, "python", "worker")  # type: ignore[arg-type]

    elsewhere = tmp_path / "other" / "model"
    moved = known(replace(job, graphs={"main": [str(elsewhere)]}), {elsewhere: "m", given: "x"})
    assert moved == known()
    others = [
        known(digests={model: "changed", given: "x"}),
        known(replace(job, options={"threads": 1})),
        known(replace(job, batch=3)),
        known(name="b"),
        known(timeout=2.0),
        known(variable="2"),
    ]
    assert len({known(), *others}) == 7


def test_a_launch_is_left_alone_until_its_rule_can_be_met(tmp_path: Path) -> None:
    rule = LaunchRule(warmup_seconds=1.0, min_seconds=2.0)
    assert quiet_seconds(replace(fake_job(tmp_path), kind="launch", launch=rule)) == 3.0
    assert quiet_seconds(replace(fake_job(tmp_path), kind="launch", launch=replace(rule, min_seconds=600.0))) == 10.0
    assert quiet_seconds(replace(fake_job(tmp_path), kind="validate", launch=rule)) == 0.0


def test_a_full_disk_is_named_before_anything_is_begun(archive: Path, tmp_path: Path) -> None:
    small = Path(tempfile.mkdtemp(prefix="kdedge-test-"))
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)], capture_output=True, check=False).returncode:
        small.rmdir()
        pytest.skip("needs the right to mount a small file system")
    try:
        with pytest.raises(DeviceError, match=r"its disk is full: \S+ MiB are free in \S+/store, .* remove something there"):
            runner(small / "root", archive).run(fake_job(tmp_path), tmp_path / "job", 60, "")
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)
        small.rmdir()


def test_a_board_that_stayed_away_is_waited_for_once_and_not_once_a_job(root: Path, archive: Path, tmp_path: Path) -> None:
    def watch(kind: str, at: int, when: str) -> None:
        if away:
            raise Disconnected("no route to it")

    away = [True]
    transport = Watched(watch)
    made = runner(root, archive, transport, replace(QUICK, outage=0.5))
    for times in ("many", "once", "once"):
        before = len(transport.calls)
        with pytest.raises(Disconnected):
            made.run(fake_job(tmp_path), tmp_path, 60, "")
        assert (len(transport.calls) - before == 1) == (times == "once")
    away.clear()
    (tmp_path / "job").mkdir()
    assert made.run(fake_job(tmp_path), tmp_path / "job", 60, "").status == "ok"
    away.append(True)
    before = len(transport.calls)
    with pytest.raises(Disconnected):
        made.run(fake_job(tmp_path), tmp_path, 60, "")
    assert len(transport.calls) - before > 1  # it had come back
    made.close()


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"outputs": None}, "outputs"),
        ({"outputs": [1]}, "outputs"),
        ({"outputs": [{"doubled": 1}]}, "outputs"),
        ({"facts": [], "iterations": "many"}, "iterations, facts"),
        ({"status": "fine"}, "status"),
        ({"peak_memory_bytes": "all"}, "peak_memory_bytes"),
    ],
)
def test_a_result_that_has_not_the_form_of_one_is_a_failure(change: dict[str, object], wrong: str, root: Path, archive: Path, tmp_path: Path) -> None:
    class Foreign(LocalTransport):
        def pull(self, remote: str, local: Path) -> None:
            super().pull(remote, local)
            result = json.loads((local / "result.json").read_text())
            (local / "result.json").write_text(json.dumps({**result, **change}))

    foreign = runner(root, archive, Foreign())
    result = run_job(Device(IDENTITY, LocalTransport(), sys.executable, foreign), fake_job(tmp_path), tmp_path / "job", 60)
    foreign.close()
    assert (result.status, result.reason) == ("failed", f"the worker's result has no usable {wrong}")


@pytest.mark.parametrize(
    ("error", "state"), [(Disconnected, progress.LOST), (DeviceGone, progress.GONE), (DeviceUnresponsive, progress.SILENT), (None, progress.WORKING)]
)
def test_a_table_of_devices_shows_that_a_connection_is_tried_again_and_how_a_device_was_lost(
    error: type[DeviceError] | None, state: str, root: Path, archive: Path, tmp_path: Path
) -> None:
    class Seen(progress.Silent):
        def devices(self, rows: Sequence[progress.DeviceRow]) -> None:
            states.extend(row.state for row in rows)

    states: list[str] = []

    def watch(kind: str, at: int, when: str) -> None:
        if at == 1 and when == "before":
            raise Disconnected("the cable is out")
        if at > 8 and when == "before" and error is not None:
            raise error("no more")

    made = runner(root, archive, Watched(watch), replace(QUICK, outage=0.5))
    with progress.listening(Seen()), progress.on_device(progress.DeviceTable(["board"], 1), "board"):
        device = Device(IDENTITY, LocalTransport(), sys.executable, made)
        if error is None:
            run_job(device, fake_job(tmp_path), tmp_path / "job", 60)
        else:
            with pytest.raises(error):
                run_job(device, fake_job(tmp_path), tmp_path / "job", 60)
    made.close()
    assert states[:3] == ["waiting", "retrying", "working"]
    assert states[-1] == state


def test_a_refusal_between_two_outages_does_not_make_the_second_waited_for(root: Path, archive: Path, tmp_path: Path) -> None:
    """A board that comes and goes is waited for once, too."""

    def watch(kind: str, at: int, when: str) -> None:
        raise error("away")

    transport = Watched(watch)
    made = runner(root, archive, transport, replace(QUICK, outage=0.5))
    for error, asked in ((Disconnected, 2), (DeviceGone, 1), (Disconnected, 1), (DeviceUnresponsive, 1), (Disconnected, 1)):
        before = len(transport.calls)
        with pytest.raises(error):
            made.run(fake_job(tmp_path), tmp_path, 60, "")
        assert min(2, len(transport.calls) - before) == asked, error
    made.close()
