"""`worker.pyz supervise FOLDER SECONDS`: do the job in FOLDER/work in a process of its own, watched by this one, with nobody connected.

    FOLDER/work         the worker's folder (job.py), and `stdout.log`, `stderr.log`: the last of what the job said
    FOLDER/tmp          temporary files of the job
    FOLDER/claim-N      who works here: process id and boot id. Made exclusively: two supervisors never hold the same number
    FOLDER/heartbeat    JSON: `uptime` and `state`, written about each second
    FOLDER/ended.json   how it ended (`Ended`); written last and atomically

The job's process is forked and not executed anew: under an emulator the kernel may not know how to start a program of the board's kind. It
dies with its supervisor. A supervisor that died without `ended.json` (killed, or the board restarted) is found out by its claim: another boot
id, or no process with this folder in its command line; the next supervisor takes the next number and starts the job anew.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import signal
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from typing import Any

from .job import write_json
from .parent import PARENT_VARIABLE

WORK, TEMPORARY, HEARTBEAT, ENDED, CLAIM = "work", "tmp", "heartbeat", "ended.json", "claim-"
STDOUT, STDERR = "stdout.log", "stderr.log"
# Exit codes of the supervisor itself: it has nothing to do with the job's.
DONE, UNUSABLE, TAKEN, DISK_FULL = 0, 2, 3, 4

# Kept free from the start, and given up to write the end where the disk has become full meanwhile.
_RESERVE, _RESERVE_BYTES = "reserve", 1 << 16
_LEAST_FREE_BYTES = 1 << 16
_KEPT_LOG_BYTES = 1 << 20
_BEAT_SECONDS = 1.0
_MOST_CLAIMS = 9


@dataclass(frozen=True)
class Ended:
    """How a job ended. `returncode` is negative for a signal; `status` is the result's, "" without one; `disk_full`: the device's disk was."""

    returncode: int
    timed_out: bool
    status: str
    seconds: float
    disk_full: bool


def supervise(folder: str, limit: str) -> int:
    """Do the job in `folder` once, at most `limit` seconds. Returns the exit code: 0 also where it is done already.

    Raises nothing: what is wrong is a sentence on stderr.
    """
    folder = os.path.abspath(folder)
    try:
        seconds = float(limit)
        if not os.path.isfile(os.path.join(folder, WORK, "job.json")):
            raise ValueError("there is no %s/job.json in %s" % (WORK, folder))
        if os.path.exists(os.path.join(folder, ENDED)):
            return DONE
        if not claim(folder):
            sys.stderr.write("another supervisor works in %s\n" % folder)
            return TAKEN
        _prepare(folder)
        _end(folder, _watch(folder, seconds))
    except ValueError as error:
        sys.stderr.write("%s\n" % error)
        return UNUSABLE
    except OSError as error:
        sys.stderr.write("the job in %s cannot be supervised: %s\n" % (folder, error))
        return DISK_FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else UNUSABLE
    return DONE


def claim(folder: str) -> bool:
    """Become the one supervisor of `folder`; False where another one is alive.

    Raises:
        OSError: the folder cannot be written, or its supervisor died too often.
    """
    latest = _latest(folder)
    if latest and _alive(folder, latest):
        return False
    if latest == _MOST_CLAIMS:
        raise OSError("its supervisor died %d times" % latest)
    try:
        descriptor = os.open(os.path.join(folder, CLAIM + str(latest + 1)), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:  # another one was quicker
        return False
    with os.fdopen(descriptor, "w") as handle:
        handle.write("%d %s\n" % (os.getpid(), boot_id()))
    return True


def live_supervisor(folder: str) -> bool:
    """Whether a process works in `folder` now."""
    latest = _latest(folder)
    return latest > 0 and _alive(folder, latest)


def _latest(folder: str) -> int:
    return max((number for number in range(1, _MOST_CLAIMS + 1) if os.path.exists(os.path.join(folder, CLAIM + str(number)))), default=0)


def _alive(folder: str, number: int) -> bool:
    path = os.path.join(folder, CLAIM + str(number))
    with open(path, encoding="ascii", errors="replace") as handle:
        words = handle.read().split()
    if len(words) != 2:  # it has just been made, or its writer died between two calls
        return time.time() - os.stat(path).st_mtime < 10
    return words[1] == boot_id() and os.path.basename(folder) in _command_line(words[0])


def _command_line(process: str) -> str:
    try:
        with open("/proc/%s/cmdline" % process, "rb") as handle:
            return handle.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def boot_id() -> str:
    """What changes when the machine starts anew; "-" where it does not say."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as handle:
            return handle.read().strip() or "-"
    except OSError:
        return "-"


def uptime() -> float:
    """Seconds since the machine started, by a clock that nobody sets."""
    try:
        with open("/proc/uptime", encoding="ascii") as handle:
            return float(handle.read().split()[0])
    except (OSError, ValueError, IndexError):
        return time.monotonic()


def _prepare(folder: str) -> None:
    """A clean start: what an earlier, dead attempt left must not be taken for this one's."""
    work = os.path.join(folder, WORK)
    for name in os.listdir(work):
        path = os.path.join(work, name)
        if name == "job.json":
            continue
        shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.remove(path)
    shutil.rmtree(os.path.join(folder, TEMPORARY), ignore_errors=True)
    os.mkdir(os.path.join(folder, TEMPORARY))
    with open(os.path.join(folder, _RESERVE), "wb") as handle:
        handle.write(b"\0" * _RESERVE_BYTES)
        handle.flush()
        os.fsync(handle.fileno())
    _beat(folder)


def _watch(folder: str, limit: float) -> Ended:
    """Fork the job's process, wait for it, and kill its group at the limit."""
    waited_for = {signal.SIGCHLD}
    unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, waited_for)  # before the fork: no end is missed
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        _become_the_job(folder, unblocked)
    timed_out = False
    while True:
        finished, status = os.waitpid(child, os.WNOHANG)
        if finished:
            break
        left = begin + limit - time.monotonic()
        if left <= 0 and not timed_out:
            timed_out = True
            _kill_group(child)
        # Sleeps until the child ends: a watcher that wakes often would disturb what it watches.
        signal.sigtimedwait(waited_for, _BEAT_SECONDS if timed_out else max(0.0, min(_BEAT_SECONDS, left)))
        _beat(folder)
    _kill_group(child)  # what it left behind
    seconds = time.monotonic() - begin
    code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    result = _status(os.path.join(folder, WORK, "result.json"))
    return Ended(code, timed_out and not result, result, seconds, not result and _disk_is_full(folder))


def _become_the_job(folder: str, mask: Any) -> None:
    """In the child: a group of its own, its own streams, and then the job. Never returns."""
    code = 2
    try:
        os.setsid()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        work = os.path.join(folder, WORK)
        _point(0, os.devnull, os.O_RDONLY)
        _point(1, os.path.join(work, STDOUT), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        _point(2, os.path.join(work, STDERR), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.environ[PARENT_VARIABLE] = str(os.getppid())
        os.environ["TMPDIR"] = os.path.join(folder, TEMPORARY)
        os.chdir(os.environ["TMPDIR"])
        from .perform import perform

        code = perform(work)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _point(descriptor: int, path: str, flags: int) -> None:
    opened = os.open(path, flags, 0o644)
    os.dup2(opened, descriptor)
    if opened != descriptor:
        os.close(opened)


def _kill_group(process: int) -> None:
    for attempt in (os.killpg, os.kill):  # it may not have its group yet
        with contextlib.suppress(OSError):
            attempt(process, signal.SIGKILL)
            return


def _beat(folder: str) -> None:
    # Without a flush to the disk, which could disturb the measurement; a heartbeat that cannot be written ends nothing.
    path = os.path.join(folder, HEARTBEAT)
    with contextlib.suppress(OSError):
        with open(path + ".partial", "w", encoding="ascii") as handle:
            json.dump({"uptime": uptime(), "state": "running"}, handle)
        os.replace(path + ".partial", path)


def _status(path: str) -> str:
    """The status in a result; "" where there is none that can be read."""
    try:
        with open(path, encoding="utf-8") as handle:
            return str(json.load(handle)["status"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _disk_is_full(folder: str) -> bool:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize < _LEAST_FREE_BYTES


def _end(folder: str, ended: Ended) -> None:
    """Shorten what the job said to its end, and say how it ended; on a full disk in the space that was reserved."""
    for name in (STDOUT, STDERR):
        _shorten(os.path.join(folder, WORK, name))
    with contextlib.suppress(OSError):
        os.remove(os.path.join(folder, _RESERVE))
    shutil.rmtree(os.path.join(folder, TEMPORARY), ignore_errors=True)
    write_json(os.path.join(folder, ENDED), asdict(ended))


def _shorten(path: str) -> None:
    """Keep the last part of a file, in place: what explains an end stands last."""
    with contextlib.suppress(OSError), open(path, "r+b") as handle:
        size = handle.seek(0, os.SEEK_END)
        if size <= _KEPT_LOG_BYTES:
            return
        handle.seek(size - _KEPT_LOG_BYTES)
        kept = handle.read()
        handle.seek(0)
        handle.write(kept)
        handle.truncate()
