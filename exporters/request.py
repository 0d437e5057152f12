"""What a maker of artifacts is asked for, and what it hands back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdedge.artifact import AskedNode, CalibratedRanges, ChannelSizes, FloatGraph, ModelFiles, TensorSpec
from kdedge.targets import Target

if TYPE_CHECKING:
    from kdedge.exporters.dialects.dialect import Dialect


@dataclass(frozen=True)
class Request:
    """All that a maker of artifacts needs to know. `sizes`: dimensions that the target fixes; `keep_float`: nodes that int8-dynamic and
    int8-weights leave."""

    target: Target
    precision: str
    dialect: Dialect | None
    model: FloatGraph
    student: ModelFiles
    ranges: CalibratedRanges | None
    sizes: dict[str, int]
    properties: dict[str, str]
    options: dict[str, Any]
    folder: Path
    keep_float: tuple[str, ...] = ()
    channels: ChannelSizes | None = None


@dataclass(frozen=True)
class Made:
    """The files of one graph, the main one first, with its specs; what was proven without the device; what a person should know; the nodes that
    multiply, as the file asks for them."""

    files: tuple[Path, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    checks: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    asked: tuple[AskedNode, ...] = ()
