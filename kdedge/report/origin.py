"""The parts of the report that say what the artifacts descend from, what to know about them, and where they were measured."""

from __future__ import annotations

from kdedge.artifact import Artifact
from kdedge.report import figures
from kdedge.report.layout import Block, Bullets, Facts, Section, Table, TableCell
from kdedge.report.result import RunResult


def worst(result: RunResult) -> Section | None:
    """The examples to look at first."""
    if not result.references.worst:
        return None
    lead = "Test examples with the largest KL from teacher to student, worst first: label errors and hard cases gather here."
    return Section("worst-cases", "Where student and teacher differ most", lead, (Bullets(result.references.worst, "chips"),))


def notes(result: RunResult) -> Section | None:
    """What a person should know of an artifact: layers that stayed float and why, what was proven without the device."""
    found = tuple((figures.name_of(artifact), lines) for artifact in result.artifacts if (lines := _notes(artifact)))
    lead = "What the exporters left as it was, and why; what was proven without a device."
    return Section("notes", "Notes on the artifacts", lead, (Facts(found, kind="notes"),)) if found else None


def _notes(artifact: Artifact) -> tuple[str, ...]:
    return (*artifact.notes, *(f"{name}: {text}" for name, text in artifact.checks.items()))


def lineage(result: RunResult) -> Section | None:
    """From data and teacher to every file that was made, by content."""
    if not result.artifacts:
        return None
    first = result.artifacts[0].lineage
    ranges = next((artifact.lineage.ranges_sha256 for artifact in result.artifacts if artifact.lineage.ranges_sha256), "")
    chain = (
        ("training data", (first.data_fingerprint,)),
        *((("teacher", (first.teacher,)),) if first.teacher else ()),
        ("student", (first.student,)),
        ("float graph", (f"sha256 {first.float_graph_sha256}",)),
        *((("range table", (f"sha256 {ranges}",)),) if ranges else ()),
    )
    rows = tuple(
        (TableCell(figures.name_of(one)), TableCell(one.format), TableCell(one.dialect), TableCell(figures.size(one.size_bytes)), _sha(one))
        for one in result.artifacts
    )
    tools = tuple((tool, (version,)) for tool, version in sorted(first.tools.items()))
    lead = "Everything by the hash of its content; names and times decide nothing. Each step is made from the ones before it."
    blocks: list[Block] = [Facts(chain, kind="chain"), Table(("artifact", "format", "dialect", "size", "sha256"), rows)]
    blocks += [Facts(tools, "made with")] if tools else []
    return Section("lineage", "Lineage", lead, tuple(blocks))


def _sha(artifact: Artifact) -> TableCell:
    return TableCell(artifact.sha256, kind="mono")


def environment(result: RunResult) -> Section | None:
    """The facts of each device that must be equal for two measurements to be comparable."""
    there = [device for device in result.devices if not device.away]  # of the others there are no facts
    if not there:
        return None
    blocks = tuple(
        Facts(tuple((fact, (value,)) for fact, value in sorted(device.fingerprint.items())), f"{device.name} ({', '.join(device.machines)})")
        for device in there
    )
    lead = "Measurements are comparable where all of these are equal."
    return Section("environment", "Environment", lead, blocks)
