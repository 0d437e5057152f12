"""A throwaway sshd on loopback that stands in for a board: its own keys, its own port, and connections that a test can cut."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Sshd:
    """A running server. `config`: the client's config, in which `board` is this server and `stranger` is it under a name without a known key."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], port: int, config: Path) -> None:
        self.folder = folder
        self.port = port
        self.config = config
        self._process = process

    def connections(self) -> list[int]:
        """The server's processes that serve a connection each."""
        return _children(self._process.pid)

    def cut(self) -> int:
        """Kill all connections at the server's side; what they started lives on where it was detached. Returns how many there were."""
        return _kill(self.connections())

    def unplug(self) -> None:
        """Kill all connections, and let none be made any more."""
        connections = self.connections()
        self.stop()
        _kill(connections)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def _kill(connections: list[int]) -> int:
    for process in connections:
        # A privilege-separated server: the parent of a connection and its child.
        for each in [*_children(process), process]:
            if _is_sshd(each):
                os.kill(each, signal.SIGKILL)
    return len(connections)


def _children(process: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except OSError:
        return []


def _is_sshd(process: int) -> bool:
    try:
        return "sshd" in Path(f"/proc/{process}/comm").read_text()
    except OSError:
        return False


@contextmanager
def running_sshd(folder: Path, options: str = "") -> Iterator[Sshd]:
    """Start a server with keys in `folder`. `options`: more lines for its config.

    Skips the test where OpenSSH's server is not installed.
    """
    program = shutil.which("sshd") or shutil.which("/usr/sbin/sshd")
    if program is None or shutil.which("ssh-keygen") is None:
        pytest.skip("needs OpenSSH's server (openssh-server)")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)], check=True)
    shutil.copy(folder / "user.pub", folder / "authorized")
    if os.geteuid() == 0:  # where it drops its privileges to; packages make it when the service starts
        Path("/run/sshd").mkdir(mode=0o755, parents=True, exist_ok=True)
    (folder / "home").mkdir()  # the user's own login files are not the board's
    port = _free_port()
    (folder / "sshd_config").write_text(
        f"""Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
PidFile {folder}/sshd.pid
AuthorizedKeysFile {folder}/authorized
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
MaxStartups 100
SetEnv HOME={folder}/home
{options}
"""
    )
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    config = folder / "ssh_config"
    config.write_text(
        f"""Host board stranger shut
    HostName 127.0.0.1
    Port {port}
    User {getpass.getuser()}
    IdentityFile {folder}/user
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile /dev/null
Host stranger
    HostKeyAlias nobody-knows-this-name
"""
    )
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "sshd_config")], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    server = Sshd(folder, process, port, config)
    try:
        _await_port(server)
        yield server
    finally:
        server.cut()
        server.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_port(server: Sshd) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", server.port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"sshd does not answer: {(server.folder / 'sshd.log').read_text()}")
