"""How a reader gets at a machine: three functions. The same reader then works on the machine itself, over a connection and on a test's folder."""

from __future__ import annotations

import glob
import os
import subprocess
from dataclasses import dataclass
from typing import Callable, List, Optional, Sequence

# A tool that hangs must not hang a launch.
_SECONDS_A_COMMAND = 10.0
# What stands in a file of sysfs or procfs; a reader never needs more.
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Reach:
    """`read(path)`: a small text file, stripped. `glob(pattern)`: the paths that match, sorted. `run(argv)`: what a command prints.

    `read` and `run` raise OSError where the file or the program is not there, hidden, or ends with an error.
    """

    read: Callable[[str], str]
    glob: Callable[[str], List[str]]
    run: Callable[[Sequence[str]], str]


def here() -> Reach:
    """The machine that this process runs on."""
    return Reach(_read, lambda pattern: sorted(glob.glob(pattern)), _run)


def in_folder(root: str) -> Reach:
    """A folder that holds what a machine shows: files under their own paths, the output of a command in `commands/NAME ARGUMENT ...`."""

    def inside(path: str) -> str:
        return os.path.join(root, path.lstrip("/"))

    def run(argv: Sequence[str]) -> str:
        return _read(os.path.join(root, "commands", " ".join(argv).replace("/", "_")))

    def matching(pattern: str) -> List[str]:
        return sorted("/" + os.path.relpath(path, root).replace(os.sep, "/") for path in glob.glob(inside(pattern)))

    return Reach(lambda path: _read(inside(path)), matching, run)


def text_of(reach: Reach, path: str) -> Optional[str]:
    """A file's text, or None where it cannot be read."""
    try:
        return reach.read(path)
    except OSError:
        return None


def number_of(reach: Reach, path: str) -> Optional[int]:
    """The number in a file, or None where there is none."""
    return number_in(text_of(reach, path) or "")


def number_in(text: str) -> Optional[int]:
    """The whole number that a text is; None where it is none, or one of more than 64 bits, which no kernel writes."""
    try:
        number = int(text)
    except ValueError:
        return None
    return number if abs(number) < 1 << 64 else None


def output_of(reach: Reach, argv: Sequence[str]) -> Optional[str]:
    """What a command prints, or None where it cannot be run."""
    try:
        return reach.run(argv)
    except OSError:
        return None


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as handle:
        return handle.read(_MOST_BYTES).strip("\0\n ")


def _run(argv: Sequence[str]) -> str:
    # The usual folders too: a detached worker's PATH often lacks the ones where board tools lie.
    variables = dict(os.environ, PATH=os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin")
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_SECONDS_A_COMMAND,
            env=variables,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OSError("%s did not end within %g s" % (argv[0], _SECONDS_A_COMMAND)) from error
    if done.returncode != 0:
        raise OSError("%s ended with exit code %d" % (argv[0], done.returncode))
    return done.stdout.decode("utf-8", errors="replace").strip()
