"""How tests start the program: within their own process, or as a person does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Every command of the program.
COMMANDS = (
    *("demo", "init", "run", "distill", "export", "validate", "profile", "bundle", "report"),
    *("inspect", "verify", "gate", "doctor", "tune", "quantize", "recipe", "devices"),
    *("check", "compare", "baseline", "history"),
)


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, what it wrote on standard output and on standard error."""

    code: int
    out: str
    err: str


Program = Callable[..., Ended]


def started(*arguments: object, folder: Path, environment: dict[str, str] | None = None) -> Ended:
    """`python -m kdedge ARGUMENTS` in `folder`, as a process of its own."""
    surroundings = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", **(environment or {})}
    command = [sys.executable, "-m", "kdedge", *map(str, arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=surroundings, stdin=subprocess.DEVNULL)
    return Ended(ended.returncode, ended.stdout, ended.stderr)
