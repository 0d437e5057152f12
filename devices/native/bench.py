"""The place on a device where one program does one job: its files, its cores, its time."""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from kdedge.devices.transport import Completed, Transport
from kdedge.runtimes.errors import RuntimeFailure

_LINE_LENGTH = 300
# `-o` of ONNX Runtime's own programs (onnxruntime/test/perftest/command_args_parser.cc, onnxruntime/test/onnx/main.cc).
OPTIMIZATION_LEVELS = {"disabled": "0", "basic": "1", "extended": "2", "all": "99"}


@dataclass(frozen=True)
class Bench:
    """`program`: the program's full path there. `content`: the folder with what it reads. `work`: an empty folder, where it stands when it runs.

    `mask`: the cores that it is pinned to, as `taskset` takes them, "" for all. `deadline`: when the job's time is over, by `time.monotonic`.
    `log`: everything that programs printed.
    """

    transport: Transport
    program: str
    content: str
    work: str
    mask: str
    variables: Mapping[str, str]
    deadline: float
    timeout: float
    log: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The program's name."""
        return PurePosixPath(self.program).name

    def line(self, argv: Sequence[str]) -> str:
        """The program with its arguments, pinned, as a line for the device's shell."""
        pinned = ["taskset", self.mask] if self.mask else []
        return shlex.join([*pinned, self.program, *argv])

    def run(self, script: str) -> Completed:
        """Run lines of the device's shell in the work folder. The exit code is the caller's to judge.

        Raises:
            RuntimeFailure: the job's time is over.
            DeviceError: the device is lost.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise RuntimeFailure(f"stopped after {self.timeout:g} s, the limit of this job")
        completed = self.transport.run(["sh", "-c", f"cd {shlex.quote(self.work)} || exit 1\n{script}"], left, self.variables)
        self.log.append(completed.stdout + completed.stderr)
        if completed.timed_out:
            raise RuntimeFailure(f"stopped after {self.timeout:g} s, the limit of this job{self.last_words(completed)}")
        return completed

    def checked(self, script: str) -> Completed:
        """Run lines that must end well.

        Raises:
            RuntimeFailure: the program failed, or the job's time is over.
            DeviceError: the device is lost.
        """
        completed = self.run(script)
        if completed.returncode < 0:
            raise RuntimeFailure(f"{self.name} was ended by signal {-completed.returncode}{self.last_words(completed)}")
        if completed.returncode != 0:
            raise RuntimeFailure(f"{self.name} ended with exit code {completed.returncode}{self.last_words(completed)}")
        return completed

    def written(self, name: str) -> str:
        """A text file of the work folder, whole: what comes through a shell's output is cut where it is long.

        Raises:
            DeviceError: it is not there, or the device is lost.
        """
        with tempfile.TemporaryDirectory(prefix="kdedge-native-") as folder:
            self.transport.pull(f"{self.work}/{name}", Path(folder) / "file")
            return (Path(folder) / "file").read_text(encoding="utf-8", errors="replace")

    def last_words(self, completed: Completed) -> str:
        """The last line that the program printed, without the folders where its files happen to lie."""
        lines = [line.strip() for line in (completed.stdout + "\n" + completed.stderr).splitlines() if line.strip()]
        last = lines[-1][:_LINE_LENGTH].replace(f"{self.content}/", "").replace(f"{self.work}/", "") if lines else ""
        return f": {last}" if last else ""


def link_graph(files: Sequence[str], folder: Path, content: Path) -> list[str]:
    """Place the files of a graph in `content` under their own names. Returns the names, the one that a runtime opens first at the head.

    Raises:
        RuntimeFailure: one is missing, or two have the same name.
    """
    names = []
    for path in files:
        source = (folder / path).resolve()
        if not source.is_file():
            raise RuntimeFailure(f"the job's file {source.name} does not exist")
        if (content / source.name).is_symlink():
            raise RuntimeFailure(f"two files of the graph are called {source.name}")
        (content / source.name).symlink_to(source)
        names.append(source.name)
    return names
