"""The real adb client against a phone on loopback: files whole or not at all, exit codes, lost connections with a name."""

from __future__ import annotations

import _thread
import hashlib
import importlib.util
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from adb_daemon import PROPERTIES, Faults, Phone
from adb_world import private_server, running
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runtime_models import write_images, write_net

from kdedge.devices import adb_client
from kdedge.devices.adb import AdbTransport, open_device
from kdedge.devices.adb_client import AdbClient, find_adb, reason_in
from kdedge.devices.android_identity import PROBE, build_of, identity_of
from kdedge.devices.device import DeviceSettings
from kdedge.devices.jobs import run_job
from kdedge.errors import DeviceError, DeviceGone, DeviceUnresponsive, Disconnected, MissingExtra
from kdedge.runtimes.job import Job


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with private_server(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, server: None) -> Iterator[tuple[Phone, AdbTransport]]:
    """A phone with which nothing goes wrong."""
    with running(Phone(tmp_path_factory.mktemp("phone"))) as phone:
        yield phone, transport_to(phone)


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[Phone]:
    with running(Phone(tmp_path / "phone")) as own:
        yield own


def transport_to(phone: Phone) -> AdbTransport:
    client = AdbClient(find_adb(), f"127.0.0.1:{phone.port}", return_seconds=4.0)
    client.connect()
    return AdbTransport(client)


def serial(phone: Phone) -> str:
    return f"127.0.0.1:{phone.port}"


# Files


def test_fifty_megabytes_are_sent_once(phone: Phone, tmp_path: Path) -> None:
    transport, source = transport_to(phone), tmp_path / "model"
    source.write_bytes(os.urandom(1 << 20) * 50)
    target = str(phone.root / "data/tmp/model")
    assert transport.push(source, target) == phone.received == 50 << 20
    assert hashlib.sha256(Path(target).read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()
    assert transport.push(source, target) == 0
    assert phone.received == 50 << 20
    assert transport.check == "sha256"


def test_a_folder_is_sent_with_all_of_its_files_and_only_the_changed_one_again(phone: Phone, tmp_path: Path) -> None:
    transport, source = transport_to(phone), tmp_path / "folder"
    (source / "inner folder").mkdir(parents=True)
    (source / "a").write_bytes(b"first")
    (source / "inner folder" / "it's").write_bytes(b"second")
    target = phone.root / "data" / "folder"
    assert transport.push(source, str(target)) == 11
    (source / "a").write_bytes(b"other")
    assert transport.push(source, str(target)) == 5
    transport.pull(str(target), tmp_path / "back")
    assert {path.relative_to(tmp_path / "back").as_posix(): path.read_bytes() for path in (tmp_path / "back").rglob("*") if path.is_file()} == {
        "a": b"other",
        "inner folder/it's": b"second",
    }
    assert not list(tmp_path.rglob("*.partial"))


def test_without_sha256sum_files_are_compared_by_their_size_and_the_transport_says_so(phone: Phone, tmp_path: Path) -> None:
    for name in ("wc", "tr", "mkdir", "mv", "cat", "rm"):
        phone.program(name, f'exec {shutil.which(name)} "$@"')
    phone.path = str(phone.root / "bin")
    transport, source = transport_to(phone), tmp_path / "a"
    source.write_bytes(b"four")
    assert transport.push(source, str(phone.root / "a")) == 4
    assert transport.push(source, str(phone.root / "a")) == 0
    source.write_bytes(b"longer")
    assert transport.push(source, str(phone.root / "a")) == 6
    assert transport.check == "size"


def test_an_empty_folder_is_a_folder_there_and_back(phone: Phone, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    transport = transport_to(phone)
    assert transport.push(tmp_path / "empty", str(phone.root / "there")) == 0
    transport.pull(str(phone.root / "there"), tmp_path / "back")
    assert list((tmp_path / "back").iterdir()) == []


def test_a_damaged_transfer_is_an_error_and_the_old_file_stays(phone: Phone, tmp_path: Path) -> None:
    transport, source, target = transport_to(phone), tmp_path / "a", phone.root / "a"
    target.write_bytes(b"old")
    source.write_bytes(b"new content")
    phone.faults.damage = True
    with pytest.raises(DeviceError, match="arrived damaged"):
        transport.push(source, str(target))
    assert target.read_bytes() == b"old"
    assert not list(phone.root.glob("*.partial"))


def test_a_full_disk_is_named_and_leaves_nothing_behind(phone: Phone, tmp_path: Path) -> None:
    transport, source = transport_to(phone), tmp_path / "offline transport: read failed"  # the words of a broken connection
    source.write_bytes(bytes(100_000))
    phone.faults.free_bytes = 1000
    with pytest.raises(DeviceError, match="No space left on device") as raised:
        transport.push(source, str(phone.root / "big"))
    assert type(raised.value) is DeviceError
    assert [path.name for path in phone.root.iterdir()] == ["bin"]


def test_what_went_wrong_is_told_and_not_what_adb_counts_last() -> None:
    said = "adb: error: failed to copy 'a' to 'b': remote No space left on device\na: 1 file pushed, 0 skipped. 69.8 MB/s (100000 bytes in 0.001s)\n"
    assert reason_in(said) == "failed to copy 'a' to 'b': remote No space left on device"
    assert reason_in("Permission denied\n") == "Permission denied"


def test_a_file_outside_of_where_one_may_write_is_an_error(shared: tuple[Phone, AdbTransport], tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(DeviceError, match="cannot be written"):
        shared[1].push(tmp_path / "a", str(tmp_path / "elsewhere" / "b"))


def test_what_is_not_there_cannot_be_pulled_or_read_or_pushed(shared: tuple[Phone, AdbTransport], tmp_path: Path) -> None:
    phone, transport = shared
    with pytest.raises(DeviceError, match="there is no such file"):
        transport.pull(str(phone.root / "nothing"), tmp_path / "a")
    with pytest.raises(DeviceError, match="cannot be read"):
        transport.read_text(str(phone.root / "nothing"))
    with pytest.raises(DeviceError, match="cannot be sent: No such file"):
        transport.push(tmp_path / "nothing", str(phone.root / "a"))


# Commands


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -11 $$", -11), ("kill -9 $$", -9)])
def test_exit_codes_and_signals_come_back(shared: tuple[Phone, AdbTransport], script: str, code: int) -> None:
    done = shared[1].run(["sh", "-c", f"echo out; echo err >&2; {script}"], 20)
    assert (done.returncode, done.stdout, done.stderr.splitlines()[0], done.timed_out) == (code, "out\n", "err", False)


def test_a_phone_without_the_shell_protocol_gives_exit_codes_too(tmp_path: Path) -> None:
    with running(Phone(tmp_path / "phone", features="cmd")) as phone:
        done = transport_to(phone).run(["sh", "-c", "echo out; echo err >&2; exit 3"], 20)
        assert (done.returncode, done.stdout) == (3, "out\nerr\n")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12), min_size=1, max_size=5))
def test_arguments_arrive_as_they_were_given(shared: tuple[Phone, AdbTransport], words: list[str]) -> None:
    done = shared[1].run(["sh", "-c", r"""for word in "$@"; do printf '%s\0' "$word"; done""", "sh", *words], 20)
    assert done.stdout.split("\0") == [*words, ""]


def test_variables_reach_the_command_and_a_strange_name_is_refused(shared: tuple[Phone, AdbTransport]) -> None:
    assert shared[1].run(["sh", "-c", 'echo "$KD"'], 20, {"KD": "a 'b' $(c)"}).stdout == "a 'b' $(c)\n"
    with pytest.raises(DeviceError, match="cannot be the name of a variable"):
        shared[1].run(["true"], 20, {"A;reboot": "x"})


def test_the_end_of_a_long_output_is_kept(shared: tuple[Phone, AdbTransport]) -> None:
    done = shared[1].run([sys.executable, "-c", "print('x' * 3_000_000); print('last')"], 20)
    assert done.returncode == 0
    assert done.stdout.endswith("x\nlast\n")
    assert len(done.stdout) < 1_100_000


def test_a_command_at_its_limit_is_killed_there_with_its_children(shared: tuple[Phone, AdbTransport]) -> None:
    phone, transport = shared
    done = transport.run(["sh", "-c", f"sleep 300 & echo $! >{phone.root}/child; echo begun; wait"], 1.0)
    assert (done.timed_out, done.stdout) == (True, "begun\n")
    child = int((phone.root / "child").read_text())
    assert ended(child)


def test_a_command_that_the_user_interrupts_is_killed_there(shared: tuple[Phone, AdbTransport]) -> None:
    phone, transport = shared
    pid = phone.root / "interrupted"

    def interrupt() -> None:
        assert within(20, lambda: pid.exists() and pid.read_text().strip() != "")
        _thread.interrupt_main()

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        transport.run(["sh", "-c", f"echo $$ >{pid}; exec sleep 300"], 60)
    assert ended(int(pid.read_text()))


def test_what_is_spawned_returns_at_once_writes_its_log_and_outlives_the_connection(phone: Phone) -> None:
    transport = transport_to(phone)
    log = phone.root / "log"
    begin = time.monotonic()
    transport.spawn(["sh", "-c", f"echo $$ >{phone.root}/pid; sleep 2; echo done; sleep 300"], str(log))
    assert time.monotonic() - begin < 2  # it really returned: the command takes longer
    phone.cut()
    assert within(10, lambda: log.read_text() == "done\n")
    pid = int((phone.root / "pid").read_text())
    assert not ended(pid, tries=1)
    os.killpg(pid, 9)  # a session of its own


def test_a_program_that_is_not_there_cannot_be_spawned(shared: tuple[Phone, AdbTransport]) -> None:
    with pytest.raises(DeviceError, match="there is no such program"):
        shared[1].spawn(["/no/such/program"], str(shared[0].root / "log"))


# Lost phones


@pytest.mark.parametrize("after", [10, 60])  # before the phone could tell the process group, and after it
def test_a_connection_that_breaks_in_a_command_is_disconnected_and_the_command_is_not_done_twice(phone: Phone, after: int) -> None:
    transport = transport_to(phone)
    assert transport.alive()
    phone.faults = Faults(drops=1, drop_after=after, drop_service="shell")
    with pytest.raises(Disconnected, match="is there again"):
        transport.run(["sh", "-c", f"echo $$ >>{phone.root}/runs; sleep 0.5; echo {'x' * 200}; sleep 300"], 20)
    assert within(10, (phone.root / "runs").exists)
    pids = [int(line) for line in (phone.root / "runs").read_text().split()]
    assert len(pids) == 1
    assert ended(pids[0])  # what was left running was killed
    assert transport.run(["echo", "on"], 20).stdout == "on\n"


def test_a_push_that_breaks_is_done_once_more(phone: Phone, tmp_path: Path) -> None:
    transport = transport_to(phone)
    (tmp_path / "a").write_bytes(os.urandom(100_000))
    phone.faults = Faults(drops=1, drop_service="sync")
    assert transport.push(tmp_path / "a", str(phone.root / "a")) == 100_000
    assert (phone.root / "a").read_bytes() == (tmp_path / "a").read_bytes()
    assert phone.faults.drops == 0


def test_a_phone_that_goes_away_for_good_is_gone(phone: Phone) -> None:
    transport = transport_to(phone)
    assert transport.alive()
    transport.client.return_seconds = 1.0
    phone.unplug()
    with pytest.raises(DeviceGone, match="did not come back within 1 s"):
        transport.run(["true"], 20)
    assert not transport.alive()
    phone.plug()


# What adb prints, after adb/client/commandline.cpp and adb/transport.cpp of Android's platform-tools.
@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        ("adb: device offline", Disconnected, "the connection broke (device offline) and is not back yet"),
        ("error: device offline", Disconnected, "is not back yet"),
        ("error: closed", Disconnected, "the connection broke (closed)"),
        ("adb: device 'ABC' not found", DeviceGone, "is not there: plug it in"),
        ("adb: no devices/emulators found", DeviceGone, "is not there: plug it in"),
        ("adb: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set\nOtherwise check for a dialog.", DeviceGone, "does not trust"),
        ("adb: insufficient permissions for device: missing udev rules?", DeviceGone, "a udev rule"),
        ("adb: cannot connect to daemon at tcp:5037: Connection refused", DeviceUnresponsive, "the adb server cannot be reached"),
    ],
)
def test_what_adb_prints_says_what_became_of_the_phone(said: str, error: type[DeviceError], words: str, tmp_path: Path) -> None:
    program = tmp_path / "adb"
    program.write_text(
        f"#!/bin/sh\ncase \"$*\" in *reconnect*|*wait-for*) ;; *get-state*) echo error: device offline >&2; exit 1;; *) cat >&2 <<'END'\n{said}\n"
        "END\nexit 1;; esac\n"
    )
    program.chmod(0o755)
    client = AdbClient(str(program), "ABC", return_seconds=0.1)
    with pytest.raises(error) as raised:
        client.shell("true", 5.0)
    assert type(raised.value) is error
    assert words in str(raised.value)


def test_what_a_command_says_is_not_taken_for_what_adb_says(phone: Phone) -> None:
    transport = transport_to(phone)
    phone.break_when = phone.root / "said"
    with pytest.raises(Disconnected):
        transport.run(["sh", "-c", f"echo 'error: unauthorized' >&2; : >{phone.root}/said; sleep 0.2; echo more; sleep 300"], 20)


def test_a_phone_that_takes_commands_and_says_nothing_is_unresponsive(phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
    transport = transport_to(phone)
    phone.faults.silent = True
    with pytest.raises(DeviceUnresponsive, match="did not answer within 1 s"):
        transport.run(["true"], 1.0)
    monkeypatch.setattr(adb_client, "ANSWER_SECONDS", 1.0)
    assert not transport.alive()


def test_a_phone_that_does_not_trust_us_is_gone_and_says_what_to_do(tmp_path: Path) -> None:
    with running(Phone(tmp_path / "phone", faults=Faults(unauthorized=True))) as phone, pytest.raises(DeviceGone, match="accept the dialogue"):
        open_device(f"adb:{serial(phone)}", DeviceSettings(address=serial(phone)))


def test_a_phone_that_is_not_there_is_gone(server: None) -> None:
    with pytest.raises(DeviceGone, match="plug it in"):
        open_device("adb:ABC123", DeviceSettings(address="ABC123"))


# What it is


def test_the_only_phone_needs_no_name_and_several_do(tmp_path: Path) -> None:
    with private_server(tmp_path):
        with pytest.raises(DeviceGone, match="there is no phone"):
            open_device("adb:", DeviceSettings())
        with running(Phone(tmp_path / "one")) as one:
            transport_to(one)
            assert open_device("adb:", DeviceSettings()).identity.fingerprint["soc"] == "Silicon SC8"
            with running(Phone(tmp_path / "two")) as two:
                transport_to(two)
                with pytest.raises(DeviceGone, match="there are 2 phones; name the one that is meant"):
                    open_device("adb:", DeviceSettings())


def test_the_identity_holds_what_must_be_equal_and_no_serial_number(shared: tuple[Phone, AdbTransport]) -> None:
    phone, _ = shared
    device = open_device(f"adb:{serial(phone)}", DeviceSettings(address=serial(phone)))
    facts = device.identity.fingerprint
    assert (device.identity.kind, device.identity.machines) == ("adb", ("aarch64",))
    assert {name: facts[name] for name in ("machine", "model", "soc", "os", "build")} == {
        "machine": "aarch64",
        "model": "Maker Test Phone",
        "soc": "Silicon SC8",
        "os": "Android 15",
        "build": "AP4A.1/12345:user",
    }
    assert PROPERTIES["ro.serialno"] not in str(facts)
    assert facts["kernel"].startswith("Linux ")


def test_all_kinds_of_core_and_their_instructions_are_part_of_it() -> None:
    cpuinfo = "".join(
        f"processor\t: {number}\nFeatures\t: fp asimd asimdhp asimddp i8mm\nCPU implementer\t: 0x41\nCPU part\t: {part}\n\n"
        for number, part in enumerate(("0xd80", "0xd80", "0xd81", "0xd82"))
    )
    said = f"\n-- kdedge properties\n[ro.product.cpu.abi]: [arm64-v8a]\n\n-- kdedge cores\n4\n\n-- kdedge cpuinfo\n{cpuinfo}"
    assert identity_of("adb:x", said).fingerprint == {
        "machine": "aarch64",
        "cpu": "arm implementer 0x41 part 0xd80 0xd81 0xd82",
        "cpu_features": "asimddp asimdhp i8mm",
        "cores": "4",
    }
    assert PROBE.count("-- kdedge") == 5


@pytest.mark.parametrize(
    ("fingerprint", "build"),
    [("google/shiba/shiba:14/UD1A.230803.041/10808477:user/release-keys", "UD1A.230803.041/10808477:user"), ("odd", "odd"), ("", "")],
)
def test_the_build_is_cut_to_what_runs(fingerprint: str, build: str) -> None:
    assert build_of(fingerprint) == build


def test_a_phone_that_hides_its_processor_is_an_error(tmp_path: Path) -> None:
    with running(Phone(tmp_path / "phone", properties={})) as phone, pytest.raises(DeviceError, match="what kind of processor"):
        open_device(f"adb:{serial(phone)}", DeviceSettings(address=serial(phone)))


def test_a_phone_with_a_python_does_jobs_by_the_worker(phone: Phone, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    images = write_images(tmp_path / "x.npy", 5)
    job = Job("validate", "onnxruntime", {"main": [str(write_net(tmp_path / "net.onnx"))]}, {"threads": 1}, [{"image": str(tmp_path / "x.npy")}])
    chosen = DeviceSettings(address=serial(phone), root=str(phone.root / "data/kdedge"), python=sys.executable)
    device = open_device(f"adb:{serial(phone)}", chosen)
    assert device.identity.fingerprint["soc"] == "Silicon SC8"
    assert device.identity.fingerprint["python"]
    result = run_job(device, job, tmp_path / "job", 60)
    assert (result.status, result.reason) == ("ok", "")
    assert np.load(tmp_path / "job" / result.outputs[0]["logits"]).shape == (len(images), 4)


# The program


def test_without_an_adb_program_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"pip install 'kdedge\[devices\]'"):
        find_adb()


def test_the_adb_of_the_package_serves_where_the_path_has_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    carried = tmp_path / "adbutils/binaries/adb"
    carried.parent.mkdir(parents=True)
    carried.write_text("")
    carried.chmod(0o755)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(tmp_path / "adbutils/__init__.py")))
    assert find_adb() == str(carried)


def test_an_adb_that_cannot_be_started_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="adb cannot be started"):
        AdbClient(str(tmp_path / "none"), "x").devices()


def within(seconds: float, check) -> bool:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if check():
            return True
        time.sleep(0.05)
    return False


def ended(pid: int, tries: int = 100) -> bool:
    """Whether a process has ended (a zombie that waits for its reaper has)."""
    for _ in range(tries):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False
