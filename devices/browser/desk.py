"""Where jobs wait for pages: one job a page at a time, given again when the page was reloaded or lost in the middle of it.

A page is known by its secret; each time it loads it makes up a load id. The latest load of a page is the one that counts: a job that an earlier
load had is lost with it and starts anew.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Condition
from typing import Any

from kdedge.devices.browser.attempt import Attempt
from kdedge.devices.browser.described import describe
from kdedge.devices.browser.facts import checked_facts, device_name, page_name
from kdedge.errors import Disconnected
from kdedge.runtimes.errors import NotAvailable, RuntimeFailure
from kdedge.runtimes.job import Job, Result

# Seconds without a word after which a page counts as lost; a page says something every 2 s, a hidden one may be slowed down to once in a while.
SILENCE = 30.0
# Seconds that a job waits for a page to come back.
PATIENCE = 60.0
ATTEMPTS = 4


@dataclass
class Page:
    """A browser page that used a token. `load`: its latest load; `seen`: when it last said something, by the monotonic clock."""

    name: str
    load: str
    facts: dict[str, str]
    seen: float


@dataclass
class Ticket:
    """A job on the desk."""

    identifier: str
    job: Job
    folder: Path
    files: list[Path]
    described: dict[str, Any]
    wanted: str
    rows: list[int]
    attempts: int = 0
    holder: tuple[str, str] | None = None  # secret and load of the page that has it
    attempt: Attempt | None = None
    result: Result | None = None
    lost: list[str] = field(default_factory=list)


class Replaced(Exception):
    """The page was loaded again since, here or in another tab."""


class Stale(Exception):
    """The job, or this attempt at it, is not the page's any more."""


class Desk:
    """All methods may be called from any thread. `silence`, `patience`: seconds, as the constants above."""

    def __init__(self, version: str, silence: float = SILENCE, patience: float = PATIENCE) -> None:
        self._version = version
        self.silence, self.patience = silence, patience
        self._changed = Condition()
        self._pages: dict[str, Page] = {}
        self._tickets: list[Ticket] = []

    # What the host asks.

    def pages(self) -> list[Page]:
        """The pages that are open now, the oldest first."""
        with self._changed:
            return [page for page in self._pages.values() if self._alive(page)]

    def run(self, job: Job, folder: Path, timeout: float, wanted: str, cancelled: Any = None) -> Result:
        """Have a page do a job, and leave its outputs or samples in `folder`. `timeout` in seconds for one attempt of a page.

        `wanted`: the page's name, "" for any. `cancelled()`: whether nobody waits for the result any more.

        Raises:
            Disconnected: no page has been there for a while.
            DeviceError: a file of the job cannot be read.
        """
        try:
            described = describe(job, folder)
        except NotAvailable as error:
            return Result(status="not-run", reason=str(error), runtime=job.runtime, runtime_version=self._version)
        except RuntimeFailure as error:
            return Result(status="failed", reason=str(error), runtime=job.runtime, runtime_version=self._version)
        ticket = Ticket(secrets.token_hex(8), job, folder, described.pop("paths"), described, wanted, described.pop("rows"))
        with self._changed:
            self._tickets.append(ticket)
            self._changed.notify_all()
            try:
                return self._await(ticket, timeout, cancelled)
            finally:
                self._tickets.remove(ticket)
                if ticket.attempt is not None:
                    ticket.attempt.discard()
                self._changed.notify_all()

    def _await(self, ticket: Ticket, timeout: float, cancelled: Any) -> Result:
        last_page = time.monotonic()
        while ticket.result is None:
            now = time.monotonic()
            self._take_from_lost_pages(ticket)
            if any(self._alive(page) and ticket.wanted in ("", page.name) for page in self._pages.values()):
                last_page = now
            if ticket.attempts > ATTEMPTS or (ticket.attempt is None and ticket.attempts == ATTEMPTS):
                return self._failed(ticket, f"given up after {ticket.attempts} attempts: {'; '.join(dict.fromkeys(ticket.lost))}")
            if ticket.attempt is not None and now - ticket.attempt.started > timeout:
                return self._failed(ticket, f"stopped after {timeout:g} s, the limit of this job: {ticket.attempt.note or 'nothing was said'}")
            if now - last_page > self.patience:
                wanted = f"page `{ticket.wanted}`" if ticket.wanted else "page"
                before = f" ({ticket.lost[-1]})" if ticket.lost else ""
                raise Disconnected(f"device `{device_name(ticket.wanted)}`: no {wanted} has been open for {self.patience:g} s{before}: open it again")
            if cancelled is not None and cancelled():
                return self._failed(ticket, "nobody waits for it any more")
            self._changed.wait(0.2)
        return ticket.result

    def _failed(self, ticket: Ticket, reason: str) -> Result:
        return Result(status="failed", reason=reason, runtime=ticket.job.runtime, runtime_version=self._version)

    # What pages ask. Each raises Replaced where the page was loaded again since.

    def greet(self, secret: str, load: str, facts: Mapping[str, Any]) -> str:
        """A page has loaded; returns its name. A job that its earlier load had is lost."""
        with self._changed:
            known = checked_facts(facts)
            # A page keeps its name, and one that is gone leaves it: a phone whose browser was closed is opened again under the same.
            taken = [page.name for other, page in self._pages.items() if other != secret and self._alive(page)]
            before = self._pages.get(secret)
            name = before.name if before is not None and before.name not in taken else page_name(known, taken)
            self._pages[secret] = Page(name, load, known, time.monotonic())
            for ticket in self._tickets:
                if ticket.holder is not None and ticket.holder[0] == secret:
                    self._lose(ticket, "the page was reloaded in the middle")
            self._changed.notify_all()
            return name

    def next(self, secret: str, load: str, seconds: float) -> dict[str, Any] | None:
        """The next job for a page, None where there is none within `seconds`."""
        end = time.monotonic() + seconds
        with self._changed:
            while True:
                page = self._page(secret, load)
                for ticket in self._tickets:
                    if ticket.holder == (secret, load):  # it asks again, so the job never reached it
                        self._lose(ticket, "the job did not reach the page")
                    if ticket.attempt is None and ticket.result is None and ticket.attempts < ATTEMPTS and ticket.wanted in ("", page.name):
                        return self._give(ticket, secret, load)
                if time.monotonic() >= end:
                    return None
                self._changed.wait(min(1.0, max(0.0, end - time.monotonic())))

    def file(self, secret: str, load: str, identifier: str, attempt: int, number: int) -> Path:
        """A file of a job that the page has.

        Raises:
            Stale: it has it no more, or there is no such file.
        """
        with self._changed:
            ticket = self._mine(secret, load, identifier, attempt)
            if not 0 <= number < len(ticket.files):
                raise Stale
            return ticket.files[number]

    def beat(self, secret: str, load: str, identifier: str, attempt: int, note: str) -> None:
        """A sign of life in the middle of a job.

        Raises:
            Stale: the job is not the page's any more.
        """
        with self._changed:
            _attempt(self._mine(secret, load, identifier, attempt)).note = " ".join(note.split())[:120]

    def deliver(self, secret: str, load: str, identifier: str, attempt: int, what: Sequence[str], query: Mapping[str, str], body: bytes) -> None:
        """A piece of a result: `outputs BUCKET`, `samples warmup|samples`, `trace`.

        Raises:
            Stale: the job is not the page's any more.
            RuntimeFailure: it is not what it should be.
        """
        with self._changed:
            mine = _attempt(self._mine(secret, load, identifier, attempt))
            match list(what):
                case ["outputs", bucket] if bucket.isascii() and bucket.isdigit():
                    shape = [int(size[:12]) for size in query.get("shape", "").split(",") if size.isascii() and size.isdigit()][:16]
                    mine.add_rows(int(bucket[:6]), query.get("name", "")[:200], query.get("dtype", ""), shape, body)
                case ["samples", which]:
                    mine.add_samples(which, body)
                case ["trace"]:
                    mine.trace = body
                case _:
                    raise Stale

    def finish(self, secret: str, load: str, identifier: str, attempt: int, said: Mapping[str, Any]) -> str:
        """The page is done; returns the status that counts. A launch that was disturbed by hiding the page is given again.

        Raises:
            Stale: the job is not the page's any more.
        """
        with self._changed:
            ticket = self._mine(secret, load, identifier, attempt)
            mine = _attempt(ticket)
            hidden = (said.get("evidence") or {}).get("hidden_ms") if isinstance(said.get("evidence"), dict) else None
            if ticket.job.kind == "launch" and said.get("status") == "ok" and hidden != 0:
                self._lose(ticket, "invalid: the page was hidden in the middle of the launch, where browsers slow it down")
                return "invalid"
            result = mine.result(ticket.job, said, self._version)
            mine.move_to(ticket.folder)
            ticket.attempt, ticket.holder, ticket.result = None, None, result
            self._changed.notify_all()
            return result.status

    # Under the lock.

    def _page(self, secret: str, load: str) -> Page:
        page = self._pages.get(secret)
        if page is None or page.load != load:
            raise Replaced
        page.seen = time.monotonic()
        return page

    def _alive(self, page: Page) -> bool:
        return time.monotonic() - page.seen < self.silence

    def _mine(self, secret: str, load: str, identifier: str, attempt: int) -> Ticket:
        self._page(secret, load)
        for ticket in self._tickets:
            if ticket.identifier == identifier and ticket.holder == (secret, load) and ticket.attempts == attempt:
                return ticket
        raise Stale

    def _give(self, ticket: Ticket, secret: str, load: str) -> dict[str, Any]:
        ticket.attempts += 1
        ticket.holder = (secret, load)
        folder = ticket.folder / f"attempt-{ticket.attempts}"
        folder.mkdir(parents=True, exist_ok=True)
        ticket.attempt = Attempt(ticket.attempts, folder, ticket.rows, time.monotonic())
        return {"id": ticket.identifier, "attempt": ticket.attempts, **ticket.described}

    def _lose(self, ticket: Ticket, why: str) -> None:
        if ticket.attempt is not None:
            ticket.attempt.discard()
        ticket.attempt, ticket.holder = None, None
        ticket.lost.append(why)
        self._changed.notify_all()

    def _take_from_lost_pages(self, ticket: Ticket) -> None:
        holder = ticket.holder and self._pages.get(ticket.holder[0])
        if holder and not self._alive(holder):
            note = f", last heard: {ticket.attempt.note}" if ticket.attempt and ticket.attempt.note else ""
            self._lose(ticket, f"the page went silent for {self.silence:g} s (closed, out of memory, or without network{note})")


def _attempt(ticket: Ticket) -> Attempt:
    if ticket.attempt is None:
        raise Stale
    return ticket.attempt
