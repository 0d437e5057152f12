"""How another kdedge on this machine uses a server that runs already (`kdedge devices serve`): a Unix socket in a folder of the user's own.

It is no part of the network: whoever may open the socket is the same user, and both see the same files: a job goes as the folder that
holds its `job.json`. One line of JSON each way.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import socketserver
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kdedge import errors
from kdedge.devices.browser.desk import Desk
from kdedge.errors import DeviceError
from kdedge.runtimes.errors import RuntimeFailure
from kdedge.runtimes.job import Job, Result, read_job, write_job

_LONGEST_PATH = 100  # sun_path has 104 to 108 bytes
_ERRORS = ("Disconnected", "DeviceGone", "DeviceUnresponsive", "DeviceError")


def socket_path() -> Path:
    """`kdedge/browser.sock` in the user's runtime folder, else in the cache folder."""
    base = os.environ.get("XDG_RUNTIME_DIR") or os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "kdedge" / "browser.sock"


class Control:
    """The serving side, until `close`.

    Raises:
        DeviceError: another server has the socket, or it cannot be made.
    """

    def __init__(self, desk: Desk, version: str, path: Path | None = None) -> None:
        self.path = path or socket_path()
        if ask_running(self.path) is not None:
            raise DeviceError(f"`kdedge devices serve` runs already (its socket is {self.path}): stop it first")
        _make_room(self.path)
        self._server = _Server(desk, version, self.path)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="kdedge-browser-control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and remove the socket."""
        self._server.shutdown()
        self._server.server_close()
        self.path.unlink(missing_ok=True)


class RunningDesk:
    """The asking side: the desk of a server in another process.

    Raises, all of it:
        DeviceError: the server has ended, or says so.
    """

    def __init__(self, path: Path, version: str) -> None:
        self._path = path
        self.version = version

    def pages(self) -> list[dict[str, Any]]:
        """Name and facts of the pages that are open now."""
        answer = _ask(self._path, {"ask": "pages"}, 10.0)
        return list(answer["pages"])

    def run(self, job: Job, folder: Path, timeout: float, wanted: str) -> Result:
        """As `Desk.run`."""
        write_job(str(folder), job)
        question = {"ask": "run", "folder": str(folder), "timeout": timeout, "wanted": wanted}
        return Result(**_ask(self._path, question, None)["result"])


def running_desk(path: Path | None = None) -> RunningDesk | None:
    """The desk of a server that runs on this machine, None where none does."""
    where = path or socket_path()
    said = ask_running(where)
    return None if said is None else RunningDesk(where, str(said.get("version", "")))


def ask_running(path: Path) -> dict[str, Any] | None:
    """What the server behind a socket says of itself; None where there is none."""
    try:
        if not hasattr(socket, "AF_UNIX") or path.stat().st_uid != os.getuid():  # another user's is not asked
            return None
    except OSError:
        return None
    try:
        return _ask(path, {"ask": "pages"}, 10.0)
    except DeviceError:
        return None


def _make_room(path: Path) -> None:
    if not hasattr(socket, "AF_UNIX"):
        raise DeviceError("this system has no Unix sockets, by which another kdedge would reach this server")
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise DeviceError(f"the path of the server's socket is too long ({path}): set XDG_RUNTIME_DIR to a shorter folder")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if path.parent.stat().st_uid != os.getuid():
            raise DeviceError(f"{path.parent} belongs to another user: set XDG_RUNTIME_DIR to a folder of your own")
        path.unlink(missing_ok=True)  # left behind by a server that was killed: nobody answers there
    except OSError as error:
        raise DeviceError(f"the server's socket cannot be made at {path}: {error.strerror or error}") from error


if hasattr(socketserver, "ThreadingUnixStreamServer"):

    class _Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

        def __init__(self, desk: Desk, version: str, path: Path) -> None:
            self.desk, self.version = desk, version
            # No moment in which another user could connect: the socket is made with the rights that it keeps.
            before = os.umask(0o177)
            try:
                super().__init__(str(path), _Handler)
            except OSError as error:
                raise DeviceError(f"the server's socket cannot be made at {path}: {error.strerror or error}") from error
            finally:
                os.umask(before)

    class _Handler(socketserver.StreamRequestHandler):
        server: _Server

        def handle(self) -> None:
            try:
                asked = json.loads(self.rfile.readline(16 << 20))
                answer = self._answer(asked)
            except DeviceError as error:
                answer = {"error": type(error).__name__, "message": str(error)}
            except (ValueError, KeyError, TypeError, RuntimeFailure) as error:
                answer = {"error": "DeviceError", "message": f"the question cannot be read: {error}"}
            with contextlib.suppress(OSError):
                self.wfile.write(json.dumps(answer).encode() + b"\n")

        def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
            desk = self.server.desk
            if asked["ask"] == "pages":
                return {"version": self.server.version, "pages": [{"name": page.name, "facts": page.facts} for page in desk.pages()]}
            result = desk.run(
                read_job(asked["folder"]), Path(asked["folder"]), float(asked["timeout"]), str(asked["wanted"]), cancelled=self._hung_up
            )
            return {"result": asdict(result)}

        def _hung_up(self) -> bool:
            readable, _, _ = select.select([self.connection], [], [], 0)
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)


def _ask(path: Path, question: dict[str, Any], timeout: float | None) -> dict[str, Any]:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout)
            connection.connect(str(path))
            connection.sendall(json.dumps(question).encode() + b"\n")
            with connection.makefile("rb") as answers:
                answer = json.loads(answers.readline())
    except (OSError, ValueError) as error:
        raise errors.DeviceGone(f"`kdedge devices serve` does not answer at {path}: {error or 'it has ended'}") from error
    if "error" in answer:
        raise (getattr(errors, answer["error"]) if answer["error"] in _ERRORS else DeviceError)(answer["message"])
    found: dict[str, Any] = answer
    return found
