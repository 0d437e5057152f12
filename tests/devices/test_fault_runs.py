"""Whatever goes wrong on the way, a measurement ends with the right result or a named failure, and leaves nothing behind.

`make bench-faults` runs two hundred of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_runs import KINDS, faulty_run, local, slow_worker
from loopback_sshd import Sshd, running_sshd

from kdedge.devices.ssh import SshTransport


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return slow_worker(tmp_path_factory.mktemp("worker"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "connection"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_fault_on_a_board_ends_well(kind: str, seed: int, archive: Path, tmp_path: Path) -> None:
    outcome = faulty_run(seed, tmp_path, archive, local, kinds=(kind,))
    assert outcome.wrong == ()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "seed"), [("connection", 3), ("connection", 4), ("cut-after", 3), ("worker killed", 3), ("restart", 3), ("disk full", 3)]
)
def test_a_fault_over_ssh_ends_well(kind: str, seed: int, archive: Path, server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDEDGE_SSH_CONFIG", str(server.config))
    outcome = faulty_run(seed, tmp_path, archive, lambda: SshTransport("board", "board"), server.cut, kinds=(kind,))
    assert outcome.wrong == ()
