"""What is shown while a recipe runs: one line a device where several work side by side, and no name is taken for markup."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable

import pytest
from rich.progress import Progress

from kdedge import progress
from kdedge.cli.running import _Shown, listener_of
from kdedge.workspace import StageEvent


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal_of(monkeypatch: pytest.MonkeyPatch, columns: int = 120) -> Terminal:
    """Standard error from now on. (Not a fixture: pytest sets its own when the test begins.)"""
    made = Terminal()
    monkeypatch.setattr("sys.stderr", made)
    for name, value in {"TERM": "xterm", "COLUMNS": str(columns)}.items():
        monkeypatch.setenv(name, value)
    return made


def bars_of(listener: progress.Listener) -> Progress:
    assert isinstance(listener, _Shown)
    return listener.bars


def side_by_side(*works: Callable[[], None]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_each_device_has_a_line_of_its_own_until_its_stage_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    begun, looked = threading.Barrier(3, timeout=20), threading.Barrier(3, timeout=20)
    lines: list[tuple[str, float, float | None]] = []
    with listener_of(quiet=False) as (listener, on_stage):
        assert on_stage is not None

        def device(name: str, ends: bool) -> Callable[[], None]:
            def work() -> None:
                listener.advance(f"profiling {name}", 1, 3, "")
                begun.wait()
                if ends:
                    on_stage(StageEvent(f"profile {name}", "key", False, 1.0))
                listener.advance(f"profiling {name}", 2, 3, "")
                looked.wait()

            return work

        def look() -> None:
            begun.wait()
            looked.wait()
            lines.extend(sorted((task.description, task.completed, task.total) for task in bars_of(listener).tasks))

        side_by_side(device("board", ends=True), device("phone", ends=False), look)
    assert lines == [("profiling board", 2, 3), ("profiling phone", 2, 3)]
    assert "profile board" in terminal.getvalue()


def test_many_devices_that_tell_at_once_lose_no_line_and_leave_none(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with listener_of(quiet=False) as (listener, on_stage):
        assert on_stage is not None

        def device(name: str) -> Callable[[], None]:
            def work() -> None:
                for stage in range(5):
                    for done in range(3):
                        listener.advance(f"{name} {stage}", done, 3, "")
                    on_stage(StageEvent(f"{name} {stage}", "key", False, 0.0))

            return work

        side_by_side(*(device(f"device{number}") for number in range(8)))
        assert list(bars_of(listener).tasks) == []
    lines = [line for line in terminal.getvalue().splitlines() if line.rstrip().endswith("0.0 s")]
    assert len(lines) == 8 * 5


def test_a_name_out_of_a_file_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with listener_of(quiet=False) as (listener, on_stage), progress.listening(listener):
        assert on_stage is not None
        progress.advance("calibrate \x1b]0;one\x07", 0, 1, "\x1b]0;two\x07")
        bars_of(listener).refresh()
        progress.message("\x1b]0;three\x07")
        on_stage(StageEvent("\x1b]0;four\x07", "key", False, 0.0))
    shown = terminal.getvalue()
    assert "\x1b]0;" not in shown
    for number in ("one", "two", "three", "four"):
        assert f"\\x1b]0;{number}\\x07" in shown


def test_a_name_in_the_table_of_devices_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with listener_of(quiet=False) as (listener, _), progress.listening(listener):
        name = "\x1b]0;one\x07"
        with progress.on_device(progress.DeviceTable([name, "orin"], 6), name):
            progress.device_is(progress.WORKING)
            progress.advance("profiling \x1b]0;two\x07", 3, 8, "\x1b]0;three\x07")
            bars_of(listener).refresh()
    shown = terminal.getvalue()
    assert "\x1b]0;" not in shown
    for number in ("one", "two", "three"):
        assert f"\\x1b]0;{number}\\x07" in shown


def test_a_name_in_brackets_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with listener_of(quiet=False) as (listener, _), progress.listening(listener):
        progress.advance("validating fp32 on ssh:[/v6]", 0, 1, "[/note]")
        bars_of(listener).refresh()
    assert "ssh:[/v6]" in terminal.getvalue()
    assert "[/note]" in terminal.getvalue()


ROWS = (progress.DeviceRow("orin", 6, 2, progress.RETRYING), progress.DeviceRow("ssh:[/pi]", 6, 0, progress.LOST))


def test_several_devices_are_a_live_table_with_what_each_does(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch)
    with listener_of(quiet=False) as (listener, on_stage), progress.listening(listener):
        assert isinstance(listener, _Shown)
        assert on_stage is not None
        listener.devices(ROWS)
        with progress.on_device(progress.DeviceTable(["orin", "ssh:[/pi]"], 6), "orin"):
            progress.advance("profiling int8 on orin", 3, 8)
            assert list(bars_of(listener).tasks) == []  # its row says it
        listener.devices(ROWS)
        bars_of(listener).refresh()
        shown = terminal.getvalue()
        listener.devices(())
        assert not listener.rows
    # Cells, state and doing of each row, and no name is taken for markup.
    assert re.search(r"orin +2/6 +retrying +profiling int8 3/8", shown)
    assert re.search(r"ssh:\[/pi\] +0/6 +lost", shown)


def test_in_80_columns_device_cells_and_state_are_whole_and_what_it_does_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_of(monkeypatch, columns=80)
    name = "emulated:cortex-a76"
    with listener_of(quiet=False) as (listener, _), progress.listening(listener):
        assert isinstance(listener, _Shown)
        with progress.on_device(progress.DeviceTable([name], 12), name):
            progress.advance(f"validating onnxruntime-x86 int8-dynamic on {name}", 1, 6, "a note that is longer than what is left of the line")
        listener.devices((progress.DeviceRow(name, 12, 10, progress.WORKING), progress.DeviceRow("ssh:loopback", 12, 0, progress.SILENT)))
        bars_of(listener).refresh()
    shown = terminal.getvalue()
    assert re.search(r"emulated:cortex-a76 +10/12 +working +validating onnxruntime-x86", shown)
    assert re.search(r"ssh:loopback +0/12 +does not answer", shown)


def test_without_a_terminal_a_device_has_a_line_when_its_state_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = io.StringIO()
    monkeypatch.setattr("sys.stderr", plain)
    with listener_of(quiet=False) as (listener, _):
        assert isinstance(listener, _Shown)
        listener.devices(ROWS)
        listener.devices(ROWS)
        listener.devices((progress.DeviceRow("orin", 6, 3, progress.RETRYING), ROWS[1]))
        listener.devices((progress.DeviceRow("orin", 6, 6, progress.DONE), ROWS[1]))
        listener.devices(())
    assert plain.getvalue().splitlines() == [
        "  orin: retrying, 2 of 6 cells done",
        "  ssh:[/pi]: lost, 0 of 6 cells done",
        "  orin: done, 6 of 6 cells done",
    ]
