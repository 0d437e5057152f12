"""The command line: one file a command, listed in `COMMANDS`; nothing heavy is imported until a command runs."""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import typer
import typer.core

from kdedge import ranks
from kdedge.cli import errors

# Order of `kdedge --help`: the main job first.
COMMANDS = (
    "demo",
    "init",
    "run",
    "steps",
    "tune",
    "doctor",
    "quantize",
    "inspect",
    "verify",
    "gate",
    "check",
    "compare",
    "baseline",
    "history",
    "recipe",
    "devices",
)


class _Commands(typer.core.TyperGroup):
    """Commands whose interruption and lost reader are ours to explain: typer ends with the codes of other things."""

    def make_context(self, *arguments: Any, **settings: Any) -> Any:
        with _ended_by_us():  # `--help` is written here
            return super().make_context(*arguments, **settings)

    def invoke(self, *arguments: Any) -> Any:
        with _ended_by_us():
            return super().invoke(*arguments)


@contextmanager
def _ended_by_us() -> Iterator[None]:
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except KeyboardInterrupt as error:
        raise errors.Interrupted(errors.INTERRUPTED) from error
    except BrokenPipeError:
        errors.unread()
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # rich ends with 1, which is a gate's
            errors.unread()
        raise


app = typer.Typer(
    name="kdedge",
    cls=_Commands,
    help="Take a trained teacher, ship a small student that is proven to behave like it on the device.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _command in COMMANDS:
    importlib.import_module(f"kdedge.cli.{_command}").register(app)


def main() -> None:
    """The `kdedge` program: run a command, print an error as a sentence, exit with the code of its class."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows no µ gets \xb5, not a failed run
    with errors.explained("--debug" in sys.argv):
        if ranks.waits():
            ranks.serve()
            return
        # A launcher ends its processes by SIGTERM where one of them has died, and may find the others waiting for that inside a C function, where
        # nothing of Python's is heard.
        with nullcontext() if ranks.processes() > 1 else errors.ended_as_by_ctrl_c(), ranks.leading():
            app(args=[argument for argument in sys.argv[1:] if argument != "--debug"], prog_name="kdedge")
