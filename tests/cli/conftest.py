"""The program as a person starts it, within this process: arguments in, exit code and both outputs back."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from command_line import Ended, Program

from kdedge.cli import main


@pytest.fixture
def kdedge(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Program:
    """`kdedge(*arguments)`, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["kdedge", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        written = capsys.readouterr()
        return Ended(code if isinstance(code, int) else 0, written.out, written.err)

    return call
