"""What an artifact carries inside about its origin: content hashes and names, in a fixed order, nothing that tells where or when it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping

import onnx_ir as ir

from kdedge.artifact import Lineage

PREFIX = "kdedge."


def lineage_properties(lineage: Lineage, target: str, precision: str) -> dict[str, str]:
    """Lineage as short strings by key, sorted; empty fields are left out."""
    found = {
        "target": target,
        "precision": precision,
        "recipe": lineage.recipe,
        "teacher": lineage.teacher,
        "student": lineage.student,
        "float_graph_sha256": lineage.float_graph_sha256,
        "data_fingerprint": lineage.data_fingerprint,
        "ranges_sha256": lineage.ranges_sha256,
        "tools": json.dumps(lineage.tools, sort_keys=True) if lineage.tools else "",
    }
    return {key: found[key] for key in sorted(found) if found[key]}


def write_properties(model: ir.Model, properties: Mapping[str, str]) -> None:
    """Replace a graph's metadata by these properties, each under `kdedge.KEY`."""
    model.metadata_props.clear()
    for key in sorted(properties):
        model.metadata_props[f"{PREFIX}{key}"] = properties[key]


def read_properties(model: ir.Model) -> dict[str, str]:
    """The properties that `write_properties` wrote."""
    return {key.removeprefix(PREFIX): value for key, value in sorted(model.metadata_props.items()) if key.startswith(PREFIX)}
