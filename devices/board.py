"""A board that has a Python: the worker is sent there, runs detached from the connection, and the host looks in now and then.

    ROOT/store/SHA256        files by their content: models, inputs, the worker itself (`store.py`)
    ROOT/jobs/RUN/files      the job's files under their own names (links into the store)
    ROOT/jobs/RUN/work       the worker's folder: job.json, result.json, arrays
    ROOT/lease               who may use the board (`lease.py`)

The run id is the hash of everything that decides the result, so a host that was lost finds its job again.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from kdedge import progress
from kdedge.devices import jobs
from kdedge.devices.board_job import concluded, files_of, quiet_seconds, read_ended, run_id, staged_job
from kdedge.devices.device import Device, DeviceSettings
from kdedge.devices.fingerprint import as_set, identity_from_probe
from kdedge.devices.lease import Lease
from kdedge.devices.patience import Patience, patiently
from kdedge.devices.setters import make_settings, undo_left_over
from kdedge.devices.store import Store, run_script
from kdedge.devices.transport import Transport
from kdedge.devices.worker_archive import worker_archive
from kdedge.errors import DeviceError, DeviceTaken, DeviceUnresponsive, Disconnected
from kdedge.measured import DeviceIdentity
from kdedge.runtimes.job import Job, Result
from kdedge.runtimes.supervise import Ended

T = TypeVar("T")

# Once per process: what was not used for two weeks is removed there, and the oldest files beyond 8 GiB.
SWEEP_SECONDS = 14 * 24 * 3600
SWEEP_BYTES = 8 << 30
_SWEEP_LIMIT = 120.0
_PROBE_LIMIT = 120.0
# How long a broken connection is waited for when a board is let go: somebody waits for this process to end.
_FAREWELL_SECONDS = 10.0
# A supervisor that does not work by then is looked for among the processes there, and again after each such time.
_SEARCH_SECONDS = 3.0

# Some shells and daemons take no more than 128 KiB in one argument.
_LONGEST_ARGUMENT = 16_000

# $1: the job's folder, $2: run id. Prints a state, and what belongs to it.
_LOOK = """
cd "$1" 2>/dev/null || { echo absent; exit; }
[ -f ended.json ] && { echo ended; cat ended.json; exit; }
pid=; boot=
for each in claim-*; do [ -f "$each" ] && { pid=; read -r pid boot <"$each"; }; done
[ -n "$pid" ] || { echo waiting; cat supervisor.log 2>/dev/null; exit 0; }
now=-; read -r now </proc/sys/kernel/random/boot_id || now=-
if [ "$boot" = "$now" ]; then
    case "$(tr '\\0' ' ' </proc/"$pid"/cmdline 2>/dev/null)" in *"$2"*) echo running; exit ;; esac
fi
[ -f ended.json ] && { echo ended; cat ended.json; exit; }
echo dead
cat supervisor.log 2>/dev/null
exit 0
"""
# $1: the job's folder, $2: run id.
_STOP = """
pid=
for each in "$1"/claim-*; do [ -f "$each" ] && read -r pid _ <"$each"; done
[ -n "$pid" ] || exit 0
case "$(tr '\\0' ' ' </proc/"$pid"/cmdline 2>/dev/null)" in *"$2"*) kill -9 "$pid" ;; esac
exit 0
"""
# $1: run id. Says `there` where a supervisor of that run is, also one that has not claimed its job yet. (The word is in two parts, so that this
# search does not find itself.)
_SEARCH = """
for each in /proc/[0-9]*/cmdline; do
    case "$(tr '\\0' ' ' 2>/dev/null <"$each")" in *" super""vise "*"$1"*) echo there; exit ;; esac
done
exit 0
"""
# $1: the job's folder, $2: its job.json.
_CLEAN_START = 'rm -rf "$1" "$1.gone" && mkdir -p "$1/work" && printf %s "$2" >"$1/work/job.json"'
# First out of sight: a removal that is cut off must not leave half a job that looks whole.
_REMOVE = """
[ -e "$1" ] || exit 0
rm -rf "$1.gone" && mv "$1" "$1.gone" && rm -rf "$1.gone"
"""


@dataclass(frozen=True)
class _Look:
    """What a look at a job's folder found: absent, waiting (nobody works there yet), running, dead, ended."""

    state: str
    text: str = ""


@dataclass(frozen=True)
class _Run:
    """A job under way. `folder` is on this machine, `there` on the device."""

    id: str
    there: str
    job: Job
    folder: Path
    digests: Mapping[Path, str]
    environment: Mapping[str, str]
    timeout: float


class BoardRunner:
    """Does jobs on a board, one at a time."""

    def __init__(
        self,
        identity: DeviceIdentity,
        transport: Transport,
        python: str,
        root: str,
        *,
        variables: Mapping[str, str] | None = None,
        wanted: Mapping[str, Any] | None = None,
        archive: Path | None = None,
        patience: Patience | None = None,
    ) -> None:
        """`python`: its interpreter there, by full path. `root`: kdedge's folder there, absolute. `variables`: more for the worker's environment.
        `wanted`: what is set from the first job to `close` (`setters.py`). `archive`: another worker than this kdedge's own (a test's)."""
        self._device = Device(identity, transport, python)
        self._transport = transport
        self._root = root.rstrip("/")
        self._variables = dict(variables or {})
        self._archive = archive or worker_archive()
        self._patience = patience or Patience()
        self._store = Store(transport, self._root, identity.name)
        self._lease = Lease(transport, self._root, identity.name)
        self._one_at_a_time = threading.Lock()
        self._wanted = dict(wanted or {})
        self._prepared = self._is_set = self._is_lost = False
        self._unfinished = ""
        atexit.register(self.close)

    def run(self, job: Job, folder: Path, timeout: float, name: str) -> Result:
        """Do one job there and fetch what it left into `folder` (see `Runner`).

        A connection that breaks is made again, as long as an outage is shorter than `Patience.outage`; the job does not notice. A device that
        stayed away longer is asked once by each later job: it is waited for once, not once a job.
        """
        with self._one_at_a_time:
            digests = self._patiently(lambda: self._store.keep([*files_of(job, folder), self._archive]))
            environment = {**jobs.environment(job, self._device), **self._variables}
            known = run_id(job, folder, digests, name, timeout, environment, self._device.python, self._archive.stem)
            run = _Run(known, f"{self._root}/jobs/{known}", job, folder, digests, environment, timeout)
            if self._patiently(lambda: self._lease.take(run.id)):
                self._prepared = False  # it ran out: another host may have undone what was set, and set its own
            self._unfinished = run.id
            self._prepare()
            ended = self._brought_to_an_end(run)
            self._unfinished = ""
            if isinstance(ended, str):
                return Result(status="failed", reason=ended, runtime=job.runtime)
            self._patiently(lambda: self._transport.pull(f"{run.there}/work", folder))
            result = concluded(job, folder, ended, timeout)
            self._patiently(lambda: self._script(_REMOVE, [run.there], "a finished job cannot be removed"))
            return result

    def close(self) -> None:
        """End a job that nobody waits for any more, give the lease back, and let go of the connection."""
        atexit.unregister(self.close)
        # Each of them, even where another cannot. The lease runs out by itself, and keeps others off while its job runs.
        if self._unfinished:
            with contextlib.suppress(DeviceError):
                self._patiently(self._stop, _FAREWELL_SECONDS)
        if self._is_set:
            try:
                self._patiently(self._put_back, _FAREWELL_SECONDS)
            except DeviceError as error:  # it is noted there, and the next session undoes it
                progress.message(f"{self._name}: what was set for the measurement is still set: {error}")
        with contextlib.suppress(DeviceError):
            self._patiently(self._lease.give_back, _FAREWELL_SECONDS)
        self._transport.close()

    def _stop(self) -> None:
        self._script(_STOP, [f"{self._root}/jobs/{self._unfinished}", self._unfinished], "a job cannot be stopped")

    def _put_back(self) -> None:
        """A host that has had the board since our lease ran out has undone what we set, and what is set there now may be its own."""
        try:
            self._lease.take("")
        except DeviceTaken:
            return
        undo_left_over(self._transport, self._root)
        self._is_set = False

    def _brought_to_an_end(self, run: _Run) -> Ended | str:
        """Start the job, unless it runs there or is done, and wait for its end. A sentence instead where it comes to none."""
        found = self._look(run)
        if found.state == "ended" and read_ended(found.text, self._name).status != "ok":
            found = _Look("absent")  # what failed for a host that was lost may succeed now
        starts = 0
        while found.state != "ended":
            if found.state == "running":
                found = self._wait(run)
            elif starts > self._patience.restarts:
                return f"the device restarted, or its supervisor was killed, {starts} times during the job{jobs.last_words(found.text)}"
            else:
                starts += 1
                self._stage(run)
                self._start(run)
                found = self._wait_for_start(run)
        return read_ended(found.text, self._name)

    def _stage(self, run: _Run) -> None:
        staged, names = staged_job(run.job, run.folder, run.digests)
        text = json.dumps(asdict(staged), sort_keys=True)

        def stage() -> None:
            self._script(_CLEAN_START, [run.there, text if len(text) < _LONGEST_ARGUMENT else ""], "the job's folder cannot be made")
            self._store.link(run.there, names)
            if len(text) >= _LONGEST_ARGUMENT:
                self._push_text(text, f"{run.there}/work/job.json")

        self._patiently(stage)

    def _push_text(self, text: str, remote: str) -> None:
        with tempfile.TemporaryDirectory() as made:
            path = Path(made) / "text"
            path.write_text(text, encoding="utf-8")
            self._transport.push(path, remote)

    def _start(self, run: _Run) -> None:
        argv = [*self._worker(), "supervise", run.there, f"{run.timeout:g}"]
        # Where the connection broke in between it is started twice: the second finds the claim of the first.
        self._patiently(lambda: self._transport.spawn(argv, f"{run.there}/supervisor.log", run.environment))

    def _wait_for_start(self, run: _Run) -> _Look:
        """Until a supervisor works there. `dead` where it died before it could claim the job: killed, or the device restarted."""
        left = self._patience.start
        found = self._wait_while("waiting", run, _SEARCH_SECONDS)
        while found.state == "waiting":
            is_there = self._patiently(lambda: self._script(_SEARCH, [run.id], "a supervisor cannot be looked for")).strip() == "there"
            if not is_there or left <= 0:
                found = self._look(run)  # it may have claimed the job, or have done it, meanwhile
                if found.state == "waiting" and (is_there or found.text.strip()):
                    raise DeviceError(f"device `{self._name}`: the worker does not start there{jobs.last_words(found.text)}")
                return _Look("dead") if found.state == "waiting" else found
            left -= _SEARCH_SECONDS
            found = self._wait_while("waiting", run, _SEARCH_SECONDS)
        return found

    def _wait(self, run: _Run) -> _Look:
        limit = run.timeout + self._patience.slack
        found = self._wait_while("running", run, limit, quiet_seconds(run.job))
        if found.state == "running":
            raise DeviceUnresponsive(
                f"device `{self._name}`: a job still runs there after {limit:.0f} s, {self._patience.slack:.0f} s over its limit"
            )
        return found

    def _wait_while(self, state: str, run: _Run, limit: float, quiet: float = 0.0) -> _Look:
        """Look until the job is in another state, at most `limit` seconds of waiting, the first `quiet` of them without; outages do not count."""
        wait, left = max(self._patience.poll, quiet), limit
        while True:
            time.sleep(wait)
            left -= wait
            found = self._look(run)
            if found.state != state or left <= 0:
                return found
            self._patiently(lambda: self._lease.renew(run.id))
            # Each look takes a little of what the job measures with; one that is late by a seventh of the time costs the host little.
            wait = min(max(self._patience.poll, (limit - left) / 7), self._patience.longest_poll)

    def _look(self, run: _Run) -> _Look:
        said = self._patiently(lambda: self._script(_LOOK, [run.there, run.id], "a job cannot be looked at"))
        state, _, text = said.partition("\n")
        return _Look(state, text)

    def _prepare(self) -> None:
        """Before the first job, under the lease: what a host that died left set is undone, what the user wants is set, old files go. Again where the
        lease ran out."""
        if self._prepared:
            return
        for undone in self._patiently(lambda: undo_left_over(self._transport, self._root)):
            if not self._is_set:
                progress.message(f"{self._name}: an earlier session had left something set; {undone}")
        if self._wanted:
            self._is_set = True
            self._patiently(lambda: make_settings(self._transport, self._root, self._wanted))
        argv = [*self._worker(), "sweep", self._root, str(SWEEP_SECONDS), str(SWEEP_BYTES)]
        self._patiently(lambda: self._transport.run(argv, _SWEEP_LIMIT))
        self._prepared = True

    def _worker(self) -> list[str]:
        return [self._device.python, self._store.path(self._archive.stem)]

    def _script(self, script: str, words: list[str], what: str) -> str:
        return run_script(self._transport, self._name, script, words, what).stdout

    def _patiently(self, operation: Callable[[], T], longest: float = math.inf) -> T:
        patience = replace(self._patience, outage=0.0 if self._is_lost else min(longest, self._patience.outage))
        try:
            done = patiently(operation, patience)
        except Disconnected:
            self._is_lost = True
            raise
        self._is_lost = False
        return done

    @property
    def _name(self) -> str:
        return self._device.identity.name


def open_board(name: str, kind: str, transport: Transport, python: str, root: str, settings: DeviceSettings, archive: Path | None = None) -> Device:
    """Send the worker, ask it what the board is, and return the device with its runner. `python` and `root`: as in `BoardRunner`.

    Raises:
        DeviceError: it cannot be reached, or its Python cannot run the worker.
    """
    worker = archive or worker_archive()
    store = Store(transport, root.rstrip("/"), name)
    store.keep([worker])
    # With the job's variables: without them it may find other libraries, or none.
    variables = {"PYTHONDONTWRITEBYTECODE": "1", **settings.environment}
    asked = transport.run([python, store.path(worker.stem), "probe"], _PROBE_LIMIT, variables)
    if asked.timed_out:
        raise DeviceUnresponsive(f"device `{name}`: its worker does not say within {_PROBE_LIMIT:.0f} s what the device is")
    if asked.returncode:
        raise DeviceError(f"device `{name}`: its Python {python} cannot run the worker{jobs.last_words(asked.stderr)}")
    identity = as_set(identity_from_probe(name, kind, asked.stdout), settings)
    runner = BoardRunner(identity, transport, python, root, variables=settings.environment, wanted=settings.set, archive=worker)
    return Device(identity, transport, python, runner)
