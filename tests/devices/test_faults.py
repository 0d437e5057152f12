from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from kdedge.devices.faults import Fault, FaultyTransport
from kdedge.devices.transport import Completed, Transport
from kdedge.errors import DeviceError, DeviceGone, DeviceUnresponsive, Disconnected


class Recording:
    """A transport that only remembers what was done."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def push(self, local: Path, remote: str) -> int:
        self.done.append("push")
        return 7

    def pull(self, remote: str, local: Path) -> None:
        self.done.append("pull")

    def run(self, argv: Sequence[str], timeout: float, env: Mapping[str, str] | None = None) -> Completed:
        self.done.append("run")
        return Completed(0, "out", "")

    def spawn(self, argv: Sequence[str], log: str, env: Mapping[str, str] | None = None) -> None:
        self.done.append("spawn")

    def read_text(self, remote: str) -> str:
        self.done.append("read_text")
        return "text"

    def alive(self) -> bool:
        return True

    def close(self) -> None:
        self.done.append("close")


def faulty(*script: Fault) -> tuple[FaultyTransport, Recording]:
    inner = Recording()
    return FaultyTransport(inner, script), inner


def test_without_a_script_everything_passes() -> None:
    transport, inner = faulty()
    as_transport: Transport = transport
    assert as_transport.push(Path("a"), "/a") == 7
    assert as_transport.run(["true"], 1).stdout == "out"
    assert as_transport.read_text("/a") == "text"
    assert as_transport.alive()
    as_transport.spawn(["true"], "/log")
    as_transport.pull("/a", Path("a"))
    as_transport.close()
    assert inner.done == ["push", "run", "read_text", "spawn", "pull", "close"]
    assert transport.log == ["push", "run", "read_text", "alive", "spawn", "pull"]
    assert transport.struck == []


def test_a_cut_comes_before_or_after_the_deed() -> None:
    transport, inner = faulty(Fault(2, "cut"), Fault(3, "cut-after"))
    transport.read_text("/a")
    with pytest.raises(Disconnected):
        transport.run(["first"], 1)
    assert inner.done == ["read_text"]
    with pytest.raises(Disconnected):
        transport.run(["second"], 1)
    assert inner.done == ["read_text", "run"]  # it was done, and the answer was lost
    transport.run(["third"], 1)


def test_a_fault_counts_its_own_operation_and_lasts_as_long_as_told() -> None:
    transport, _ = faulty(Fault(2, "unresponsive", "read_text", lasting=2))
    transport.run(["any"], 1)
    transport.read_text("/a")
    for _ in range(2):
        with pytest.raises(DeviceUnresponsive):
            transport.read_text("/a")
    assert transport.read_text("/a") == "text"
    assert len(transport.struck) == 2


def test_a_full_disk_stops_writing_only() -> None:
    transport, _ = faulty(Fault(1, "disk-full", lasting=10))
    with pytest.raises(DeviceError, match="no space left"):
        transport.push(Path("a"), "/a")
    assert transport.read_text("/a") == "text"


def test_a_device_that_is_gone_is_not_alive() -> None:
    transport, _ = faulty(Fault(1, "gone", lasting=2))
    assert not transport.alive()
    with pytest.raises(DeviceGone):
        transport.run(["any"], 1)
    assert transport.alive()


def test_an_action_strikes_the_inner_device_and_the_operation_goes_on() -> None:
    killed: list[Transport] = []
    transport, inner = faulty(Fault(1, "act", "read_text", action=killed.append))
    assert transport.read_text("/a") == "text"
    assert killed == [inner]


@pytest.mark.parametrize("fault", [Fault(0, "cut"), Fault(1, "cut", lasting=0), Fault(1, "act"), Fault(1, "cut", action=lambda transport: None)])
def test_a_script_that_means_nothing_is_refused(fault: Fault) -> None:
    with pytest.raises(DeviceError, match="a fault needs"):
        faulty(fault)
