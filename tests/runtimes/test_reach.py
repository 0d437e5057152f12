"""One reader, three ways to a machine: what is not there is an OSError, never a guess."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kdedge.runtimes import reach as module
from kdedge.runtimes.reach import here, in_folder, number_of, output_of, text_of


def test_this_machine_is_reached_by_files_patterns_and_commands(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("7\0\n")
    (tmp_path / "a").write_text("seven\n")
    machine = here()
    assert machine.read(f"{tmp_path}/b") == "7"
    assert machine.glob(f"{tmp_path}/*") == [f"{tmp_path}/a", f"{tmp_path}/b"]
    assert machine.run([sys.executable, "-c", "print('said')"]) == "said"
    assert (number_of(machine, f"{tmp_path}/b"), number_of(machine, f"{tmp_path}/a")) == (7, None)


@pytest.mark.parametrize("program", ["import sys; sys.exit(3)", "import time; time.sleep(60)"])
def test_a_command_that_fails_or_hangs_is_not_there(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SECONDS_A_COMMAND", 0.5)
    with pytest.raises(OSError, match=r"ended with exit code 3|did not end within"):
        here().run([sys.executable, "-c", program])
    assert output_of(here(), [sys.executable, "-c", program]) is None
    assert output_of(here(), ["/no/such/program"]) is None


def test_a_folder_stands_for_a_machine(tmp_path: Path) -> None:
    (tmp_path / "sys" / "zone0").mkdir(parents=True)
    (tmp_path / "sys" / "zone0" / "temp").write_text("41\n")
    (tmp_path / "commands").mkdir()
    (tmp_path / "commands" / "tool -q").write_text("mode\n")
    folder = in_folder(str(tmp_path))
    assert folder.glob("/sys/zone*/temp") == ["/sys/zone0/temp"]
    assert folder.read("/sys/zone0/temp") == "41"
    assert folder.run(["tool", "-q"]) == "mode"
    assert text_of(folder, "/sys/zone1/temp") is None
    with pytest.raises(OSError, match="tool -x"):
        folder.run(["tool", "-x"])
