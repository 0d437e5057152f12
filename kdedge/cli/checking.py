"""The work of `kdedge check`: words into settings, the check, and what is printed and written."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdedge import progress
from kdedge.errors import KdedgeError
from kdedge.installed import need

if TYPE_CHECKING:
    from kdedge.latency.check import CheckSettings
    from kdedge.latency.history.store import History

HISTORY_VARIABLE = "KDEDGE_HISTORY"
_UNITS = {"s": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Asked:
    """The words of the command line."""

    baseline: str
    candidate: str
    devices: tuple[str, ...]
    margin: str
    alpha: float
    pairs: int
    looks: int
    time_budget: str
    seed: int
    allow_env_mismatch: bool


def check_here(
    asked: Asked,
    inputs: Path | None,
    sizes: tuple[str, ...],
    history: str,
    outputs: Mapping[str, Path | None],
    workspace: Path,
    as_json: bool,
    quiet: bool,
) -> int:
    """Run the check, print its verdict, write what was asked for. Returns the exit code.

    Raises:
        KdedgeError: words that mean nothing, or a check that cannot be run.
    """
    from kdedge.cli.errors import Interrupted
    from kdedge.cli.running import listener_of
    from kdedge.devices import close_devices
    from kdedge.regression.arms import Given
    from kdedge.regression.checking import run_check
    from kdedge.regression.outputs import check_outputs, lines_of, write_outputs

    settings = settings_of(asked)
    check_outputs(outputs)
    with (
        opened_history(history, workspace) as kept,
        tempfile.TemporaryDirectory(prefix="kdedge-check-") as folder,
        listener_of(quiet) as (listener, _),
        progress.listening(listener),
    ):
        try:
            report = run_check(
                asked.baseline,
                asked.candidate,
                asked.devices,
                settings,
                Path(folder),
                given=Given(inputs, sizes),
                store=workspace / "baselines",
                history=kept,
                told=listener.message,
            )
        except KeyboardInterrupt as stop:
            kept_of = "nothing of it is kept" if kept is None else "its finished pairs of launches are kept in the history"
            raise Interrupted(f"there is no verdict; {kept_of}; the same command checks anew") from stop
        finally:  # while somebody listens: what could not be put back on a board is told
            close_devices()
    try:
        if not quiet:
            for line in lines_of(report):
                print(line)
        if as_json:
            print(json.dumps(report.as_json()))
    finally:  # last, since a file that cannot be written costs no verdict that was measured; also where the reader of the verdict has gone
        write_outputs(report, outputs)
    return report.exit_code


def settings_of(asked: Asked) -> CheckSettings:
    """The check that the words ask for.

    Raises:
        KdedgeError: a word means nothing.
    """
    from kdedge.latency.check import CheckSettings
    from kdedge.latency.looks import fewest_even

    if not 0 < asked.alpha < 0.5:
        raise KdedgeError(f"--alpha {asked.alpha:g}: it lies between 0 and 0.5")
    if asked.pairs < 2 or asked.pairs % 2:
        raise KdedgeError(f"--pairs {asked.pairs}: an even number, half of the pairs begin with the candidate")
    if asked.looks < 1:
        raise KdedgeError(f"--looks {asked.looks}: at least 1")
    if asked.seed < 0:
        raise KdedgeError(f"--seed {asked.seed}: a whole number from 0")
    settings = CheckSettings(
        margin=share_of(asked.margin, "--margin"),
        alpha=asked.alpha,
        pairs=asked.pairs,
        budget_seconds=seconds_of(asked.time_budget, "--time-budget") if asked.time_budget else None,
        looks=asked.looks,
        seed=asked.seed,
        allow_mismatch=asked.allow_env_mismatch,
    )
    fewest = fewest_even(asked.alpha / len(settings.metrics))
    if not asked.time_budget and asked.pairs < fewest:
        raise KdedgeError(f"--pairs {asked.pairs}: the fewest that can decide at alpha {asked.alpha:g} are {fewest}")
    return settings


def share_of(text: str, option: str) -> float:
    """`3%` or `0.03` as a fraction.

    Raises:
        KdedgeError: it is neither, or not between 0 and 1.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*(%?)\s*", text)
    value = float(found.group(1)) / (100 if found.group(2) else 1) if found else 0.0
    if not 0 < value < 1:
        raise KdedgeError(f"{option} {text}: a share such as 3% or 0.03, above 0 and below 100 %")
    return value


def seconds_of(text: str, option: str) -> float:
    """`60s`, `5min` or `1h` in seconds.

    Raises:
        KdedgeError: it is no duration.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|m|h)?\s*", text)
    if found is None or float(found.group(1)) <= 0:
        raise KdedgeError(f"{option} {text}: a time such as 60s, 5min or 1h")
    return float(found.group(1)) * _UNITS[found.group(2) or "s"]


def history_of(named: str, workspace: Path) -> History | None:
    """The history that was named, by an option or by KDEDGE_HISTORY; else the workspace's. None where `none` was said.

    Raises:
        KdedgeError: it cannot be opened, or what opens it is not installed.
    """
    chosen = named or os.environ.get(HISTORY_VARIABLE, "") or str(workspace / "history.sqlite")
    if chosen == "none":
        return None
    need("a history of launches (`--history none` does without)", "history", "sqlalchemy", "alembic")
    from kdedge.latency.history.store import open_history

    return open_history(chosen)


@contextlib.contextmanager
def opened_history(named: str, workspace: Path) -> Iterator[History | None]:
    """`history_of`, closed at the end."""
    history = history_of(named, workspace)
    with contextlib.nullcontext() if history is None else contextlib.closing(history):
        yield history
