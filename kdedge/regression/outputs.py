"""A check for people and for CI: lines for a terminal, and the files that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from kdedge.errors import WorkspaceError
from kdedge.installed import need
from kdedge.regression.checking import CheckedCell, CheckReport
from kdedge.regression.junit import junit_xml
from kdedge.regression.markdown import markdown
from kdedge.regression.wording import CERTAIN, notes_of, reason_of, spoken_counts


def _page(report: CheckReport) -> str:
    from kdedge.regression.page import html  # the template and the plots are read where a page is asked for

    return html(report)


# Option of the command line -> who makes the text of the file, and whether it is put behind what stands there.
WRITERS: dict[str, tuple[Callable[[CheckReport], str], bool]] = {"junit": (junit_xml, False), "markdown": (markdown, True), "html": (_page, False)}
_NEEDED = {"html": ("report", "jinja2", "matplotlib")}
"""Option -> the extra that makes its file, and what of it."""


def lines_of(report: CheckReport) -> Iterator[str]:
    """The verdict of each cell with its reason, then of all."""
    for cell in report.cells:
        yield from _lines_of_cell(cell, alone=len(report.cells) == 1)
    yield from (f"not compared: {sentence}" for sentence in report.missing)
    if len(report.cells) > 1 or report.lost:
        yield f"{report.state}: {spoken_counts(report)}"


def _lines_of_cell(cell: CheckedCell, alone: bool) -> Iterator[str]:
    verdict = cell.decisive.verdict
    where = f"{cell.key + ' ' if cell.key else ''}on {cell.device}"
    yield f"{cell.state} ({where}): {reason_of(cell)}" if not alone or cell.key else f"{cell.state} on {cell.device}: {reason_of(cell)}"
    counted = [verdict.pairs[number] for number in verdict.counted]
    if counted:
        yield f"  {len(counted)} of {len(verdict.pairs)} pairs count, at look {verdict.look} of {len(verdict.rule.looks.pairs)}"
    for test in verdict.tests:
        yield f"  {test.metric}: {test.effect} beside a margin of {100 * verdict.rule.margin:g} %: {test.state}"
    if verdict.detectable_after is not None and verdict.detectable_after < CERTAIN:
        noise = f"{100 * (verdict.noise or 0.0):.2f} %"
        yield f"  a slow-down of {100 * verdict.detectable_after:.1f} % would have been found with 80 % at this noise ({noise})"
    yield from (f"  {note}" for note in notes_of(cell))


def check_outputs(outputs: Mapping[str, Path | None]) -> None:
    """See that the files can be written before minutes are spent on what they hold.

    Raises:
        MissingExtra: what makes one is not installed.
        WorkspaceError: one is a folder, or cannot be written.
    """
    for name, path in outputs.items():
        if path is None:
            continue
        if name in _NEEDED:
            need(f"--{name}", *_NEEDED[name])
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise WorkspaceError(f"{path} cannot be written: it is a folder")
            stood = path.exists()
            if stood and not path.is_file():
                continue  # a pipe: who reads it takes our closing for the end
            path.open("a").close()  # rights alone do not tell of a file system that is mounted for reading
            if not stood:
                path.resolve().unlink()  # not the link, where it is one to a file that is to come
        except OSError as error:
            raise _unwritten(path, error) from error


def write_outputs(report: CheckReport, outputs: Mapping[str, Path | None]) -> None:
    """Write the files that were asked for; one that cannot be written costs none of the others.

    Raises:
        MissingExtra: what makes one is not installed.
        WorkspaceError: some cannot be written; all of them are named.
    """
    failed = []
    for name, path in outputs.items():
        if path is None:
            continue
        make, behind = WRITERS[name]
        text = make(report)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A file name may hold bytes that are no text; they must not cost the report.
            with path.open("a" if behind else "w", encoding="utf-8", errors="backslashreplace") as handle:
                handle.write(text)
        except OSError as error:
            failed.append(_unwritten(path, error))
    if failed:
        raise WorkspaceError("; ".join(map(str, failed))) from failed[0]


def _unwritten(path: Path, error: OSError) -> WorkspaceError:
    return WorkspaceError(f"{path} cannot be written: {error.strerror or error}")
