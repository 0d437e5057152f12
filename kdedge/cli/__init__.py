"""The command line: one file a command, listed in `COMMANDS`; nothing heavy is imported until a command runs."""

from __future__ import annotations

import importlib
import io
import sys
from typing import Any

import typer
import typer.core

from kdedge.cli import errors

# Order of `kdedge --help`: the main job first.
COMMANDS = ("demo", "init", "run", "steps", "inspect", "verify", "gate", "recipe", "devices")


class _Commands(typer.core.TyperGroup):
    """Commands whose interruption is ours to explain: typer ends the program without a word."""

    def invoke(self, *arguments: Any) -> Any:
        try:
            return super().invoke(*arguments)
        except KeyboardInterrupt as error:
            raise errors.Interrupted(errors.INTERRUPTED) from error


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
        app(args=[argument for argument in sys.argv[1:] if argument != "--debug"])
