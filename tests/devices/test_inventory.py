"""The user's own devices are opened by name, and a mistake in their file is named with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdedge import devices
from kdedge.devices import DEVICES, close_devices, open_device, own_devices, owners, profile_of, scheme_of
from kdedge.devices.catalog import find_profile
from kdedge.devices.device import Device, DeviceSettings
from kdedge.devices.inventory import read_inventory
from kdedge.devices.local import LocalTransport
from kdedge.errors import DeviceError
from kdedge.measured import DeviceIdentity

WHOLE = """
orin:
  transport: ssh:me@orin.local
  python: /opt/venv/bin/python
  root: /data/kdedge
  profile: jetson-orin-nano
  set: {power_mode: MAXN, clocks: max}
  runners: {benchmark_model: ./bin/benchmark_model, other: /abs/other}
  environment: {LD_LIBRARY_PATH: /opt/lib, OMP_NUM_THREADS: 4}
pi:
  transport: ssh:pi
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "devices.yaml"
    monkeypatch.setenv("KDEDGE_DEVICES", str(path))
    return path


def test_everything_that_the_file_says_is_read(file: Path, tmp_path: Path) -> None:
    file.write_text(WHOLE)
    found = read_inventory(DEVICES)
    assert found["orin"].transport == "ssh:me@orin.local"
    assert found["orin"].settings == DeviceSettings(
        address="me@orin.local",
        python="/opt/venv/bin/python",
        root="/data/kdedge",
        profile="jetson-orin-nano",
        set={"power_mode": "MAXN", "clocks": "max"},
        runners={"benchmark_model": tmp_path / "bin/benchmark_model", "other": Path("/abs/other")},
        environment={"LD_LIBRARY_PATH": "/opt/lib", "OMP_NUM_THREADS": "4"},
    )
    assert found["pi"].settings == DeviceSettings(address="pi")
    assert own_devices() == ["local", "orin", "pi"]
    assert scheme_of("orin") == "ssh"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("orin:\n  transport: ssh:a\n  pyton: /x\n", r":3: orin.pyton: unknown key; did you mean `python`\? \(allowed: transport, python, root"),
        ("orin:\n  python: /x\n", r":1: orin.transport: field required"),
        ("orin:\n  transport: shh:a\n", r":2: orin.transport: there is no `shh`; did you mean `ssh`\?"),
        ("orin:\n  transport: ssh:a\n  python: python3\n", r":3: orin.python: this must be a full path on the device \(found 'python3'\)"),
        ("orin:\n  transport: ssh:a\n  set: MAXN\n", r":3: orin.set: input should be a valid dictionary \(found 'MAXN'\)"),
        ("orin:\n  transport: ssh:a\n  environment:\n    A: [1]\n", r":4: orin.environment.A: input should be a valid string \(found \[1\]\)"),
        ("a: {transport: ssh:a}\nb: {transport: ssh:b}\na: {transport: ssh:c}\n", r":3: a: the key is there already, in line 1"),
        ("ssh: {transport: ssh:a}\n", r":1: ssh: a name is made of letters"),
        ("a b: {transport: ssh:a}\n", r":1: a b: a name is made of letters"),
        ("orin: ssh:orin.local\n", r":1: orin: here stand its keys: transport, python"),
        ("- orin\n", r":1: here stand devices by name"),
        ("orin: [\n", r":2: this is not YAML"),
        ("orin:\n  transport: ssh:a\n  environment:\n    A=B: c\n", r":4: orin.environment.A=B: a variable's name is made of letters"),
        (
            "orin:\n  transport: adb:a\n  runners:\n    x: ~nobody-of-this-name/x\n",
            r":4: orin.runners.x: ~nobody-of-this-name/x: this user has no",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line_and_what_is_allowed(text: str, said: str, file: Path) -> None:
    file.write_text(text)
    with pytest.raises(DeviceError, match=rf"devices\.yaml{said}"):
        read_inventory(DEVICES)


def test_a_file_that_the_environment_names_must_be_there(file: Path) -> None:
    with pytest.raises(DeviceError, match=r"KDEDGE_DEVICES names \S+devices\.yaml, which is no file"):
        open_device("orin")
    assert open_device("local").identity.name == "local"  # it needs no file


def test_the_file_of_the_folder_goes_before_that_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KDEDGE_DEVICES", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    assert read_inventory(DEVICES) == {}
    (tmp_path / "config/kdedge").mkdir(parents=True)
    (tmp_path / "config/kdedge/devices.yaml").write_text("users: {transport: ssh:a}")
    assert list(read_inventory(DEVICES)) == ["users"]
    (tmp_path / "devices.yaml").write_text("folders: {transport: ssh:a}")
    assert list(read_inventory(DEVICES)) == ["folders"]
    (tmp_path / "devices.yaml").write_text("")
    assert read_inventory(DEVICES) == {}


@pytest.mark.parametrize(("name", "hint"), [("orni", "did you mean `orin`"), ("shh:pi", "did you mean `ssh`"), ("locl", "did you mean `local`")])
def test_an_unknown_device_is_answered_with_the_nearest(name: str, hint: str, file: Path) -> None:
    file.write_text(WHOLE)
    with pytest.raises(DeviceError, match=rf"there is no device `{name}`; {hint}\? \(there is: .*local, orin, pi.*ssh\)"):
        open_device(name)


class Runner:
    closed = 0

    def close(self) -> None:
        Runner.closed += 1


def test_a_device_with_a_runner_is_opened_once_with_what_the_file_says_and_closed_at_the_end(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, DeviceSettings]] = []

    def opens(name: str, settings: DeviceSettings) -> Device:
        asked.append((name, settings))
        return Device(DeviceIdentity(name, "ssh", ("x86_64",), {}), LocalTransport(), "python", Runner())  # type: ignore[arg-type]

    monkeypatch.setattr("kdedge.devices.ssh.open_device", opens)
    file.write_text(WHOLE)
    first = open_device("orin")
    assert open_device("orin") is first
    assert [(name, settings.address, settings.root) for name, settings in asked] == [("orin", "me@orin.local", "/data/kdedge")]
    assert open_device("ssh:pi") is not first
    close_devices()
    assert Runner.closed == 2
    assert devices._opened == {}


def test_an_alias_that_leads_round_in_a_circle_ends(file: Path) -> None:
    file.write_text("orin:\n  transport: ssh:a\n  set: {a: &again {b: *again}}\n")
    assert list(read_inventory(DEVICES)) == ["orin"]


def test_windows_line_ends_and_its_mark_at_the_beginning_change_nothing(file: Path) -> None:
    file.write_text(WHOLE)
    plain = read_inventory(DEVICES)
    file.write_bytes(b"\xef\xbb\xbf" + WHOLE.replace("\n", "\r\n").encode())
    assert read_inventory(DEVICES) == plain


def test_a_user_without_a_home_has_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")  # Path.home, of a user whom the system does not know

    for name in ("KDEDGE_DEVICES", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "home", homeless)
    assert own_devices() == ["local"]
    assert not owners.is_dead("0123456789abcdef-1")
    owners._process_id.cache_clear()
    assert owners.own_id()
    owners._process_id.cache_clear()


def test_the_entry_in_the_catalog_that_the_user_names_is_the_one(file: Path) -> None:
    file.write_text("orin: {transport: 'ssh:a', profile: jetson-orin-nano}\npi: {transport: 'ssh:b'}\nbad: {transport: local, profile: jetsn-orin}\n")
    named, unnamed = (profile_of(DeviceIdentity(name, "ssh", ("aarch64",), {"machine": "aarch64"})) for name in ("orin", "pi"))
    assert (named, unnamed) == (find_profile("jetson-orin-nano"), None)
    with pytest.raises(DeviceError, match="jetsn-orin"):
        open_device("bad")
