"""A recipe on several devices at once, as a person asks for it: this machine, a board over a real ssh, and an emulated arm64 where it is set up."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from board_world import QUICK
from loopback_sshd import Sshd, running_sshd
from regression_world import model
from small_recipes import kdedge, write
from whole_runs import alive_in, descendants, until

from kdedge.api import run
from kdedge.devices import board as board_module
from kdedge.devices.lease import holder
from kdedge.devices.local import LocalTransport
from kdedge.devices.sysroot import cache_folder, find_sysroot
from kdedge.latency.verdicts import EXIT_CODES
from kdedge.runtimes.supervise import live_supervisor
from kdedge.workspace import StageEvent

pytestmark = pytest.mark.slow

BOTH = [{"target": "onnxruntime-x86", "precision": ["fp32", "int8"]}]
EMULATED = "emulated:cortex-a76"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """A server that is the user's device `board`, with the interpreter that runs the tests."""
    (tmp_path / "sshd").mkdir()
    (tmp_path / "devices.yaml").write_text(f"board: {{transport: 'ssh:board', python: '{sys.executable}'}}\n")
    with running_sshd(tmp_path / "sshd") as running:
        monkeypatch.setenv("KDEDGE_SSH_CONFIG", str(running.config))
        monkeypatch.setenv("KDEDGE_DEVICES", str(tmp_path / "devices.yaml"))
        yield running


def root_of(server: Sshd) -> Path:
    return server.folder / "home/.cache/kdedge"


def emulated() -> bool:
    return shutil.which("qemu-aarch64-static") is not None and find_sysroot(cache_folder()) is not None


def test_one_recipe_is_measured_on_every_device_and_its_bundle_verified_there(server: Sshd, tmp_path: Path) -> None:
    recipe = write(tmp_path / "recipe", export=BOTH, profile={"launches": 2, "warmup_seconds": 0, "min_seconds": 0.01, "min_iterations": 4})
    devices = ["local", "board", *([EMULATED] if emulated() else [])]
    workspace = tmp_path / "workspace"
    on = [word for name in devices for word in ("--on", name)]
    ended = kdedge("run", recipe, "--workspace", workspace, "--json", *on)
    assert "Traceback" not in ended.err + ended.out
    assert ended.code == 0, ended.err + ended.out
    found = json.loads(ended.out.splitlines()[-1])
    cells = {(cell["device"], cell["precision"]): cell for cell in found["artifacts"]}
    assert list(cells) == [(name, precision) for name in devices for precision in ("fp32", "int8")]
    for (name, _), cell in cells.items():
        assert cell["status"] == "ok"
        assert (cell["latency_median"] is None) == (name == EMULATED), cell["reason"]
        assert ("proxy" in cell["reason"]) == (name == EMULATED), cell["reason"]
    # The board is this machine: it answers as this machine does.
    for precision in ("fp32", "int8"):
        assert cells["board", precision]["agreement_student"] == cells["local", precision]["agreement_student"]
    nothing_is_left(server)

    again = kdedge("run", recipe, "--workspace", workspace, "--json", *on)
    assert {line.split()[-1] for line in again.err.splitlines() if line.startswith(("validate.", "launches."))} == {"cached"}
    verified = kdedge("verify", found["bundles"][0], "--on", "board")
    assert verified.code == 0, verified.err + verified.out
    assert "it answers as it must, on board, onnxruntime 1." in verified.out
    nothing_is_left(server)


def nothing_is_left(server: Sshd) -> None:
    assert holder(LocalTransport(), str(root_of(server)), "board") is None
    assert list((root_of(server) / "jobs").iterdir()) == []


def test_a_board_that_is_lost_in_the_middle_fails_its_own_cells_and_the_others_stand(
    server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost: list[str] = []

    def pull_the_plug(event: StageEvent) -> None:
        if event.name.startswith("validate.validate") and event.name.endswith("on board"):
            lost.append(event.name)
            server.unplug()

    monkeypatch.setattr(board_module, "Patience", lambda: replace(QUICK, outage=1.0))
    recipe = write(tmp_path / "recipe", export=BOTH)
    result = run(recipe, workspace=tmp_path / "workspace", devices=["local", "board"], on_stage=pull_the_plug)
    assert lost[0] == "validate.validate onnxruntime-x86 fp32 on board"
    cells = {(cell.device, cell.artifact.precision): cell for cell in result.cells}
    assert [cells["local", precision].status for precision in ("fp32", "int8")] == ["ok", "ok"]
    first, second = cells["board", "fp32"], cells["board", "int8"]
    assert (first.fidelity.status, first.status, second.status) == ("ok", "failed", "failed")
    for cell in (first, second):
        assert "device `board`: " in cell.reason
        assert "tried for" in cell.reason
    assert result.exit_code != 0
    assert result.report is not None
    assert result.report.is_file()


def test_a_probe_says_what_a_board_is_and_goes_on_after_one_that_is_not_there(server: Sshd) -> None:
    ended = kdedge("devices", "probe", "ssh:stranger", "board", "--json")
    assert ended.code == 2
    stranger, found = json.loads(ended.out)
    assert "its host key is not known" in stranger["error"]
    assert (found["name"], found["kind"]) == ("board", "ssh")
    assert found["fingerprint"]["interpreter"]
    assert sys.executable not in ended.out
    plain = kdedge("devices", "probe", "board")
    assert plain.code == 0
    assert plain.out.startswith("board (ssh): ")
    assert server.connections() == []


def test_two_artifacts_are_launched_in_turns_on_a_board(server: Sshd, tmp_path: Path) -> None:
    for name, scale in (("before", 1.0), ("after", 2.0)):
        model(tmp_path / f"{name}.onnx", scale)
    how = ("--size", "batch=1", "--looks", "1", "--time-budget", "60s", "--history", "none", "--json", "--quiet")
    ended = kdedge("check", tmp_path / "before.onnx", tmp_path / "after.onnx", "--on", "board", "--workspace", tmp_path / "workspace", *how)
    report: dict[str, Any] = json.loads(ended.out)
    # Who is faster is not asked here, nor how many pairs fit (eight at least), nor whether this machine had a core to spare for them.
    assert EXIT_CODES[report["state"]] == ended.code, ended.err + ended.out
    assert [cell["device"] for cell in report["cells"]] == ["board"]
    first = report["cells"][0]["first"]
    (wanted,) = first["looks"]
    assert wanted >= 8
    orders = [pair["order"] for pair in first["pairs"][:wanted]]  # more where some had to be run again; fewer where too many were lost
    assert orders in ((["AB", "BA"] * wanted)[: len(orders)], (["BA", "AB"] * wanted)[: len(orders)])
    assert len(orders) >= 2
    launches = [pair[arm] for pair in first["pairs"] for arm in ("baseline", "candidate")]
    assert len({launch["iterations"] for launch in launches}) == 1
    assert all(launch["median_ms"] > 0 for launch in launches)
    whole = [pair["number"] for pair in first["pairs"] if not pair["problems"]]
    assert set(first["counted"]) <= set(whole)
    assert (len(first["counted"]) == wanted) == (report["state"] != "invalid")


def test_ctrl_c_while_two_devices_work_leaves_neither_a_job_nor_a_lease(server: Sshd, tmp_path: Path) -> None:
    long = {"launches": 1, "warmup_seconds": 0, "min_seconds": 100, "max_seconds": 120}
    recipe = write(tmp_path / "recipe", profile=long)
    workspace = tmp_path / "workspace"
    command = [sys.executable, "-m", "kdedge", "run", str(recipe), "--workspace", str(workspace), "--on", "local", "--on", "board"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        # Validated on both: what works now are launches.
        assert until(lambda: len(list((workspace / "stages").glob("validate.validate-*"))) == 2 and supervised(server), 120)
        assert until(lambda: any("kdedge.runtimes.worker" in each for each in descendants(process.pid).values()), 60)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 2, said
    assert said.splitlines()[-1].startswith("interrupted: ")
    assert until(lambda: not supervised(server), 20)
    assert holder(LocalTransport(), str(root_of(server)), "board") is None
    assert until(lambda: not alive_in(workspace), 20)


def supervised(server: Sshd) -> bool:
    """Whether a job is at work on the board."""
    return any(live_supervisor(str(folder)) for folder in (root_of(server) / "jobs").glob("*"))
