"""Stage functions that the workspace's tests run: each leaves a trace of having run."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOOLS = ("numpy",)


def write(text: str, trace: str, *, folder: Path) -> tuple[Path, ...]:
    """Write one file, and a line into the trace."""
    _trace(trace, f"write {text}")
    path = folder / "text.txt"
    path.write_text(text)
    return (path,)


def join(parts: tuple[Path, ...], trace: str, *, folder: Path) -> dict[str, Any]:
    """Join files."""
    _trace(trace, "join")
    path = folder / "joined.txt"
    path.write_text("+".join(part.read_text() for part in parts))
    return {"path": path, "count": len(parts)}


def fails(trace: str, *, folder: Path) -> None:
    """Write something, then fail."""
    _trace(trace, "fails")
    (folder / "half.txt").write_text("half")
    raise ValueError("on purpose")


def full(*, folder: Path) -> None:
    """Meet a full disk."""
    raise OSError(28, os.strerror(28), str(folder / "big.bin"))


def slow(trace: str, *, folder: Path) -> str:
    """Take a while, so that two runs meet."""
    _trace(trace, "slow")
    time.sleep(0.5)
    return "done"


def _trace(trace: str, line: str) -> None:
    with Path(trace).open("a") as handle:
        handle.write(line + "\n")


@dataclass(frozen=True)
class Foreign:
    """A type that a record must not name."""

    value: int
