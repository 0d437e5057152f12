"""Run a recipe for a command: progress on standard error, the table and the verdict on standard output, the exit code back."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdedge import progress
from kdedge.cli.inspecting import printable
from kdedge.workspace import StageEvent

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.progress import TaskID
    from rich.table import Table

    from kdedge.pipeline import Until
    from kdedge.report.result import RunResult


def run_recipe(
    recipe: Path,
    until: Until,
    workspace: Path,
    on: Sequence[str] | None,
    overrides: Sequence[str] | None,
    remeasure: bool,
    as_json: bool,
    quiet: bool,
) -> int:
    """Run, print, and return the exit code: 0 fine, 1 failed, 3 inconclusive."""
    result = outcome_of(recipe, until, workspace, on, overrides, remeasure, quiet)
    keep_launches(result, workspace, quiet)
    return present(result, as_json, quiet)


def keep_launches(result: RunResult, workspace: Path, quiet: bool) -> None:
    """Write what was timed into the history. A run does not fail for a history that cannot be written: it is told, and what was measured stands."""
    if all(cell.latency.status != "ok" for cell in result.cells):
        return
    from kdedge.cli.checking import history_of
    from kdedge.cli.errors import missing
    from kdedge.errors import KdedgeError
    from kdedge.regression.recording import record_profiles

    try:
        history = history_of("", workspace)
        if history is not None:
            record_profiles(result.recipe, result.cells, result.devices, history)
            history.close()
    except ModuleNotFoundError as error:
        _tell(f"launches are not kept in a history: {missing(error)}", quiet)
    except KdedgeError as error:
        _tell(f"launches are not kept in a history: {error}", quiet)


def _tell(sentence: str, quiet: bool) -> None:
    if not quiet and sys.stderr is not None:
        print(sentence, file=sys.stderr)


def outcome_of(
    recipe: Path, until: Until, workspace: Path, on: Sequence[str] | None, overrides: Sequence[str] | None, remeasure: bool, quiet: bool
) -> RunResult:
    """Run, with progress on standard error."""
    from kdedge.api import run

    with listener_of(quiet) as (listener, on_stage):
        return run(
            recipe,
            workspace=workspace,
            devices=on or None,
            overrides=overrides or (),
            until=until,
            remeasure=remeasure,
            listener=listener,
            on_stage=on_stage,
        )


def present(result: RunResult, as_json: bool, quiet: bool) -> int:
    """Print what a person reads, then what a machine reads, and return the exit code."""
    from kdedge.cli.table import print_result

    if not quiet:
        print_result(result)
    if as_json:
        print(json.dumps(result.as_json()))
    return result.exit_code


class _Quiet:
    """Stages and progress unseen."""

    def __enter__(self) -> tuple[progress.Listener, None]:
        return progress.Silent(), None

    def __exit__(self, *exception: object) -> None: ...


class _Shown:
    """Stages as lines on standard error. What runs now is a bar where that is a terminal, one a thread; several devices are a live table there, one
    row a device: what it does, cells done of all, and how it fares. Without a terminal a device has a line when that changes."""

    def __enter__(self) -> tuple[progress.Listener, Callable[[StageEvent], None]]:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        shown = self

        class Bars(Progress):
            """The bars, below the table of devices where there is one."""

            def get_renderables(self) -> Iterable[RenderableType]:
                if shown.rows:
                    yield shown.table()
                yield from super().get_renderables()

        console = Console(stderr=True, highlight=False)
        self.rows: tuple[progress.DeviceRow, ...] = ()
        self.doing: dict[str, str] = {}  # by device
        self.bars = Bars(
            TextColumn("  {task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        self.bars.start()
        self.lock = threading.Lock()
        self.tasks: dict[int, dict[str, TaskID]] = {}  # by thread
        return self, self.event

    def __exit__(self, *exception: object) -> None:
        self.bars.stop()

    def advance(self, what: str, done: int, total: int, note: str) -> None:
        device = progress.device_name()
        if device:  # its row in the table says it, and has the device's name
            self.doing[device] = printable(f"{what.removesuffix(f' on {device}')} {done}/{total} {note}".rstrip())
            return
        with self.lock:
            own = self.tasks.setdefault(threading.get_ident(), {})
            what, note = printable(what), printable(note)
            if what not in own:
                own[what] = self.bars.add_task(what, total=total, note=note)
            self.bars.update(own[what], completed=done, total=total, note=note)

    def devices(self, rows: Sequence[progress.DeviceRow]) -> None:
        states = {row.name: row.state for row in self.rows}
        self.rows = tuple(rows)
        if not self.bars.disable:
            self.bars.refresh()
            return
        for row in rows:
            if row.state not in (states.get(row.name), progress.WAITING):
                self.message(f"{row.name}: {row.state}, {row.done} of {row.total} cells done")

    def table(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 1), expand=True)
        table.add_column("device", overflow="fold")
        for heading in ("cells", "state"):
            table.add_column(heading, no_wrap=True)
        table.add_column("doing", overflow="ellipsis", no_wrap=True, ratio=1)  # what the others leave of the line
        for row in self.rows:
            doing = self.doing.get(row.name, "") if row.state in (progress.WORKING, progress.RETRYING) else ""
            table.add_row(*map(Text, (printable(row.name), f"{row.done}/{row.total}", row.state, doing)))
        return table

    def message(self, text: str) -> None:
        self.bars.console.print(f"  {printable(text)}", markup=False)

    def event(self, event: StageEvent) -> None:
        took = "cached" if event.cached else f"{event.seconds:.1f} s"
        self.doing.pop(progress.device_name(), None)
        with self.lock:
            for task in self.tasks.pop(threading.get_ident(), {}).values():
                self.bars.remove_task(task)
            self.bars.console.print(f"{printable(event.name):<56}{took:>10}", markup=False)


def listener_of(quiet: bool) -> _Quiet | _Shown:
    """A context that gives who is told of progress, and what is called for each finished stage: shown on standard error, or unseen."""
    # Without a standard error (`2>&-`) there is nobody to show anything to.
    return _Quiet() if quiet or sys.stderr is None else _Shown()
