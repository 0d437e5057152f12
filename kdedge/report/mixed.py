"""The part of the report that shows a search for mixed precision: what each choice of float layers kept and took, and which was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdedge.artifact import Artifact, MixedTrial
from kdedge.report import figures
from kdedge.report.layout import Block, Plot, Section, Table, TableCell
from kdedge.report.plots import COLOURS, INK, NARROW, WIDE, inline, plain_axes
from kdedge.report.result import RunResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# More layers than this are counted, not named.
_NAMED = 4


def mixed(result: RunResult) -> Section | None:
    """A curve and a table for each artifact whose float layers were searched."""
    searched = [artifact for artifact in result.artifacts if artifact.trials]
    if not searched:
        return None
    blocks: list[Block] = []
    for place, artifact in enumerate(searched):
        name = figures.name_of(artifact)
        wide, narrow = (curve(artifact.trials, f"mixed-{place}-{label}", size) for label, size in (("wide", WIDE), ("narrow", NARROW)))
        blocks += [
            Plot(f"KL to the float student of each choice of float layers, {name}", wide, narrow, f"{name}. {_caption(artifact)}"),
            table(artifact),
        ]
    lead = "Layers stay float where that brings the answers closest to the float student's for the time that it costs. "
    lead += "Every choice was built and measured, on calibration examples that it was not made by."
    return Section("mixed-precision", "Which layers stay float", lead, tuple(blocks))


def table(artifact: Artifact) -> Table:
    """One row a trial, in order."""
    rows = tuple(
        (
            TableCell(f"{number}", "chosen" if trial.chosen else ""),
            TableCell(_kept(trial), kind="prose"),
            TableCell(f"{trial.kl:.3g}"),
            TableCell(f"{100 * trial.agreement:.2f} %"),
            TableCell("-" if trial.latency_ms is None else f"{trial.latency_ms:.3g} ms"),
        )
        for number, trial in enumerate(artifact.trials, start=1)
    )
    return Table(("trial", "float layers", "KL to student", "same answer as student", "latency"), rows)


def curve(trials: Sequence[MixedTrial], name: str, size: tuple[float, float]) -> str:
    """KL against latency, or against the number of float layers where nothing was timed; the trials joined in their order, the chosen one ringed.

    Raises:
        MissingExtra: matplotlib is not installed.
    """

    def draw(figure: Figure) -> None:
        axes, timed = plain_axes(figure), all(trial.latency_ms is not None for trial in trials)
        along = [trial.latency_ms if timed and trial.latency_ms is not None else float(len(trial.kept)) for trial in trials]
        losses = [trial.kl for trial in trials]
        axes.plot(along, losses, color=INK, alpha=0.25, linewidth=1, zorder=1)
        axes.plot(along, losses, "o", color=COLOURS[0], markersize=6, zorder=2)
        place = next((place for place, trial in enumerate(trials) if trial.chosen), None)
        if place is not None:
            axes.plot([along[place]], [losses[place]], "o", markersize=14, markerfacecolor="none", color=COLOURS[1], label="chosen", zorder=3)
            axes.legend(frameon=False, loc="best")
        for number, (x, y) in enumerate(zip(along, losses, strict=True), start=1):
            axes.annotate(str(number), (x, y), textcoords="offset points", xytext=(5, 5), fontsize=8, color=INK)
        if not timed:
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0)
        axes.set_xlabel("median latency of a call, ms" if timed else "layers that stay float")
        axes.set_ylabel("KL to the float student, nats")

    return inline(draw, name, size)


def _kept(trial: MixedTrial) -> str:
    if not trial.kept:
        return "none"
    more = len(trial.kept) - _NAMED
    return ", ".join(f"`{name}`" for name in trial.kept[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _caption(artifact: Artifact) -> str:
    note = next((note for note in artifact.notes if note.startswith("mixed precision: ")), "")
    return "A point a trial, numbered in order; down and to the left is better." + (f" {note.replace('`', '')}." if note else "")
