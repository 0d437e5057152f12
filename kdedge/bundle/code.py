"""The code that ships in a bundle: the worker with every adapter, and the script that checks the bundle."""

from __future__ import annotations

from pathlib import Path

from kdedge import runtimes
from kdedge.bundle import self_check

WORKER_PACKAGE = self_check.PACKAGE


def worker_files() -> tuple[Path, ...]:
    """The files of `kdedge_worker/`: all of the runtimes package."""
    return tuple(sorted(Path(runtimes.__file__).parent.glob("*.py")))


def code_files() -> dict[str, Path]:
    """Path in the bundle -> file, of all code that ships. A bundle is made again when any of them changes, so the stage that packs reads them."""
    shipped = {f"{WORKER_PACKAGE}/{path.name}": path for path in worker_files()}
    return {**shipped, "self_check.py": Path(self_check.__file__)}
