"""A board over the system's ssh: one shared connection, host keys checked, and a cut connection loses nothing."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from board_world import DOUBLED, begun, fake_job, fake_worker
from loopback_sshd import Sshd, running_sshd

from kdedge.devices import ssh as ssh_module
from kdedge.devices.board import BoardRunner, open_board
from kdedge.devices.device import Device, DeviceSettings
from kdedge.devices.jobs import run_job
from kdedge.devices.ssh import SshTransport, open_device
from kdedge.devices.ssh_command import complaint, read_said
from kdedge.errors import DeviceError, DeviceGone, DeviceUnresponsive, Disconnected


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def config(server: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDEDGE_SSH_CONFIG", str(server.config))


@pytest.fixture
def transport(config: None) -> Iterator[SshTransport]:
    made = SshTransport("board", "board")
    yield made
    made.close()


def test_a_command_gives_its_code_its_words_and_its_signal(transport: SshTransport) -> None:
    done = transport.run(["sh", "-c", "echo out; echo err >&2; exit 3"], 20)
    assert (done.returncode, done.stdout, done.stderr, done.timed_out) == (3, "out\n", "err\n", False)
    assert transport.run(["sh", "-c", "exit 255"], 20).returncode == 255  # which is ssh's own code for a lost connection
    assert transport.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"], 20).returncode == -signal.SIGSEGV
    assert transport.alive()


@pytest.mark.parametrize("word", ["two words", "it's", 'a "quoted" word', "$HOME `id` $(id)", "back\\slash", "*", "", "ä", "a;b|c&d>e"])
def test_words_arrive_as_they_were_given(word: str, transport: SshTransport) -> None:
    done = transport.run([sys.executable, "-c", "import os, sys; print(ascii([sys.argv[1:], os.environ['GIVEN']]))", word], 20, {"GIVEN": word})
    assert done.stdout.strip() == ascii([[word], word])


def test_a_command_sees_a_clean_environment(transport: SshTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "secret")
    monkeypatch.setenv("LC_ALL", "C")
    names = transport.run([sys.executable, "-c", "import os; print(' '.join(os.environ))"], 20, {"GIVEN": "1"}).stdout.split()
    assert {"PATH", "HOME", "LANG", "GIVEN"} <= set(names)
    assert set(names) <= {"PATH", "HOME", "LANG", "GIVEN", "LD_LIBRARY_PATH", "XDG_CACHE_HOME", "TMPDIR", "PWD", "SHLVL", "_", "LC_CTYPE"}


def test_a_command_at_its_limit_dies_with_all_its_children(transport: SshTransport, tmp_path: Path) -> None:
    transport.run(["true"], 20)
    pid = tmp_path / "pid"
    done = transport.run(["sh", "-c", f"sleep 100 & echo $! > {pid}; echo started; wait"], 2)
    assert (done.returncode, done.stdout, done.timed_out) == (-9, "started\n", True)
    assert gone(int(pid.read_text()))


def test_what_a_finished_command_left_behind_is_killed_too(transport: SshTransport, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    begin = time.monotonic()
    assert transport.run(["sh", "-c", f"sleep 100 & echo $! > {pid}"], 60).returncode == 0
    assert time.monotonic() - begin < 50  # nobody waited for it
    assert gone(int(pid.read_text()))


def gone(pid: int) -> bool:
    for _ in range(100):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_files_and_folders_travel_both_ways_and_are_not_sent_twice(transport: SshTransport, tmp_path: Path) -> None:
    source = tmp_path / "it's a folder"
    (source / "inner").mkdir(parents=True)
    content = np.random.default_rng(0).bytes(300_000)
    (source / "inner" / "big").write_bytes(content)
    (source / "small").write_text("1")
    there = str(tmp_path / "there")
    assert transport.push(source, there) == 300_001
    assert transport.push(source, there) == 0
    (source / "small").write_text("2")
    assert transport.push(source, there) == 1
    transport.pull(there, tmp_path / "back")
    assert (tmp_path / "back/inner/big").read_bytes() == content
    transport.pull(f"{there}/small", tmp_path / "one")
    assert (tmp_path / "one").read_text() == "2" == transport.read_text(f"{there}/small")
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["inner", "small"]


def test_what_does_not_exist_is_named(transport: SshTransport, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"absent cannot be read: No such file"):
        transport.push(tmp_path / "absent", "/tmp/x")
    with pytest.raises(DeviceError, match=r"device `board`: \S*absent cannot be copied from it: .*No such file"):
        transport.pull(str(tmp_path / "absent"), tmp_path / "x")
    with pytest.raises(DeviceError, match=r"absent cannot be read: .*No such file"):
        transport.read_text(str(tmp_path / "absent"))


def test_a_file_that_was_cut_off_never_has_its_name(transport: SshTransport, server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The size that was promised does not come: to `cat` a cut connection looks like the end of the file."""
    (tmp_path / "file").write_bytes(b"x" * 1000)
    monkeypatch.setattr(ssh_module, "_RECEIVE", ssh_module._RECEIVE.replace('cat >"$partial"', 'head -c 500 >"$partial"'))
    with pytest.raises(DeviceError, match="cannot be placed"):
        transport.push(tmp_path / "file", str(tmp_path / "there"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_connection_that_is_cut_is_said_and_made_again(transport: SshTransport, server: Sshd, tmp_path: Path) -> None:
    assert transport.alive()
    transport.spawn(["sh", "-c", "sleep 0.5; echo went on"], str(tmp_path / "log"))
    assert server.cut() >= 1
    assert transport.run(["echo", "back"], 20).stdout == "back\n"
    for _ in range(100):
        if (tmp_path / "log").read_text() == "went on\n":
            return
        time.sleep(0.05)
    raise AssertionError("what was spawned did not outlive the connection")


def test_a_command_whose_connection_is_cut_is_disconnected(transport: SshTransport, server: Sshd, tmp_path: Path) -> None:
    assert transport.alive()
    timer = threading.Timer(0.7, server.cut)
    timer.start()
    with pytest.raises(Disconnected, match="device `board`: the connection is lost"):
        transport.run(["sleep", "30"], 60)
    timer.join()


def test_the_shared_connection_ends_when_it_is_closed(config: None, server: Sshd) -> None:
    before = len(server.connections())
    transport = SshTransport("board", "board")
    transport.run(["true"], 20)
    folder = transport._folder
    assert len(server.connections()) == before + 1
    assert folder.stat().st_mode & 0o077 == 0
    transport.close()
    for _ in range(100):
        if len(server.connections()) == before:
            break
        time.sleep(0.05)
    assert len(server.connections()) == before
    assert not folder.exists()


def test_a_host_whose_key_is_not_known_is_refused_with_what_to_do(config: None) -> None:
    with pytest.raises(DeviceGone, match=r"device `mine`: its host key is not known: log in once by hand with `ssh` and check the key"):
        SshTransport("mine", "stranger").run(["true"], 20)


def test_a_host_that_changed_its_key_is_refused(server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = (server.folder / "user.pub").read_text()
    (tmp_path / "known").write_text(f"[127.0.0.1]:{server.port} {other}")
    (tmp_path / "config").write_text(server.config.read_text().replace(f"{server.folder}/known_hosts", str(tmp_path / "known")))
    monkeypatch.setenv("KDEDGE_SSH_CONFIG", str(tmp_path / "config"))
    with pytest.raises(DeviceGone, match="its host key is another than the one known"):
        SshTransport("mine", "board").run(["true"], 20)


def test_a_host_that_does_not_let_us_in_is_gone_with_what_to_do(server: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text(server.config.read_text().replace(f"IdentityFile {server.folder}/user", f"IdentityFile {server.folder}/host"))
    monkeypatch.setenv("KDEDGE_SSH_CONFIG", str(tmp_path / "config"))
    with pytest.raises(DeviceGone, match=r"does not let us in: put your public key there \(`ssh-copy-id`\)"):
        SshTransport("mine", "board").run(["true"], 20)


def test_a_host_that_does_not_answer_may_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Sshd) -> None:
    closed = server.config.read_text().replace(f"Port {server.port}", "Port 1")
    (tmp_path / "config").write_text(closed)
    monkeypatch.setenv("KDEDGE_SSH_CONFIG", str(tmp_path / "config"))
    with pytest.raises(Disconnected, match="Connection refused"):
        SshTransport("mine", "board").run(["true"], 20)


@pytest.mark.parametrize(
    ("said", "connected", "kind"),
    [
        ("ssh: Could not resolve hostname orin.local: Name or service not known", False, DeviceGone),
        ("ssh: Could not resolve hostname orin.local: Name or service not known", True, Disconnected),  # it restarts
        ("ssh: Could not resolve hostname orin: Temporary failure in name resolution", False, Disconnected),
        ("ssh: connect to host 192.0.2.1 port 22: No route to host", False, Disconnected),
        ("ssh: connect to host 192.0.2.1 port 22: Connection timed out", False, Disconnected),
        ("Connection timed out during banner exchange", False, DeviceUnresponsive),
        ("Connection timed out during banner exchange", True, Disconnected),
        ("client_loop: send disconnect: Broken pipe", True, Disconnected),
        ("me@orin: Permission denied (publickey,password).", True, DeviceGone),
        ("/home/me/.ssh/config: line 3: Bad configuration option: prot", False, DeviceGone),
        ("", True, Disconnected),
    ],
)
def test_the_words_of_ssh_are_understood(said: str, connected: bool, kind: type[DeviceError]) -> None:
    error = complaint("orin", said + "\r\n", connected)
    assert type(error) is kind
    assert str(error).startswith("device `orin`: ")
    assert said.rstrip(".") in str(error)


def test_the_lines_of_the_wrapper_are_taken_out() -> None:
    said = read_said("kdedge-group 12\nno newline at the endkdedge-exit 139\nKilled\n")
    assert (said.group, said.code, said.stderr) == (12, -11, "no newline at the end")
    assert read_said("kdedge-group 12\nthen it was cut").code is None
    assert read_said("kdedge-exit 255\n").code == 255


@pytest.mark.parametrize("address", ["", "-oProxyCommand=touch /tmp/x", "a b", "host;id", "host$(id)"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(DeviceError, match="is no address"):
        SshTransport("mine", address)


# ---- the whole board ------------------------------------------------------------------------------------------------------


@pytest.fixture
def board(config: None, tmp_path: Path) -> Iterator[Device]:
    worker = fake_worker(tmp_path)
    made = open_board("ssh:board", "ssh", SshTransport("ssh:board", "board"), sys.executable, str(tmp_path / "board"), DeviceSettings(), worker)
    yield made
    assert isinstance(made.runner, BoardRunner)
    made.runner.close()


def test_a_job_is_done_over_ssh(board: Device, tmp_path: Path) -> None:
    result = run_job(board, fake_job(tmp_path), tmp_path / "job", 60)
    assert (result.status, result.reason) == ("ok", "")
    assert np.load(tmp_path / "job" / result.outputs[0]["doubled"]).tolist() == DOUBLED
    failed = run_job(board, fake_job(tmp_path, do="segfault"), tmp_path / "job", 60)
    assert failed.reason.startswith("signal 11 (SIGSEGV) in string_at (__init__.py, line")


def test_a_connection_that_is_cut_three_times_during_a_job_loses_nothing_and_repeats_nothing(board: Device, server: Sshd, tmp_path: Path) -> None:
    cuts: list[int] = []

    def saw() -> None:
        eventually(lambda: begun(tmp_path / "count"))
        for _ in range(3):
            eventually(server.connections)  # it was made again
            cuts.append(server.cut())
            time.sleep(0.3)

    sawing = threading.Thread(target=saw)
    sawing.start()
    result = run_job(board, fake_job(tmp_path, count=str(tmp_path / "count"), seconds=3), tmp_path / "job", 60)
    sawing.join()
    assert len(cuts) == 3
    assert all(cuts)
    assert (result.status, result.reason) == ("ok", "")
    assert np.load(tmp_path / "job" / result.outputs[0]["doubled"]).tolist() == DOUBLED
    assert begun(tmp_path / "count") == 1


def eventually(condition: Callable[[], object]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen within 20 s")


def test_a_board_is_found_with_its_python_and_its_folder(config: None, server: Sshd) -> None:
    found = open_device("ssh:board", DeviceSettings("board", python=sys.executable))
    assert isinstance(found.runner, BoardRunner)
    found.runner.close()
    assert found.identity.kind == "ssh"
    assert found.runner._root == f"{server.folder}/home/.cache/kdedge"
    words = [word for value in found.identity.fingerprint.values() for word in value.split()]
    assert os.uname().nodename not in words


def test_a_board_whose_python_is_not_there_says_so(config: None) -> None:
    with pytest.raises(DeviceError, match=r"its Python /nowhere/python cannot run the worker: .*nowhere/python"):
        open_device("ssh:board", DeviceSettings("board", python="/nowhere/python"))


def test_a_command_that_is_killed_there_is_a_lost_connection_whatever_it_said(transport: SshTransport) -> None:
    """As when the board restarts; `Permission denied` are the command's words, not those of the login."""
    with pytest.raises(Disconnected, match="the connection is lost, or the device restarts"):
        transport.run(["sh", "-c", "echo sh: cannot create x: Permission denied >&2; kill -9 -$(ps -o sid= -p $$ | tr -d ' ')"], 20)
    assert transport.alive()


def test_a_login_that_prints_something_is_refused_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_sshd(tmp_path, 'ForceCommand echo Welcome home; eval "$SSH_ORIGINAL_COMMAND"') as talking:
        monkeypatch.setenv("KDEDGE_SSH_CONFIG", str(talking.config))
        with pytest.raises(DeviceError, match="its login prints 'Welcome home' before every command: let it print that at a terminal only"):
            open_device("ssh:board", DeviceSettings("board"))
