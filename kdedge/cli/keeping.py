"""The work of `kdedge baseline`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdedge.errors import KdedgeError

if TYPE_CHECKING:
    from kdedge.regression.baselines import Baseline

FOLDER = "baselines"


def set_here(name: str, artifact: str, on: str, inputs: Path | None, sizes: Sequence[str], workspace: Path, as_json: bool) -> None:
    """Keep an artifact and say so.

    Raises:
        KdedgeError: there is no artifact, several, or it cannot be kept.
    """
    from kdedge.devices import close_devices, open_device
    from kdedge.regression.arms import Given
    from kdedge.regression.baselines import set_baseline
    from kdedge.regression.sides import refuse_inputs, refuse_sizes, single_arm

    given = Given(inputs, tuple(sizes))
    refuse_inputs(artifact, given)
    with tempfile.TemporaryDirectory(prefix="kdedge-baseline-") as folder:
        arm = single_arm(artifact, workspace / FOLDER, given, Path(folder))
        refuse_sizes(given, artifact)
        try:
            identity = open_device(on).identity
        finally:
            close_devices()
        kept = set_baseline(name, arm, identity.name, identity.fingerprint, workspace / FOLDER)
    if as_json:
        print(json.dumps(as_data(kept)))
    else:
        print(f"baseline {name}: {kept.arm.name}, {kept.size_bytes / 1e6:.2f} MB, sha256 {kept.arm.sha256[:16]}")


def list_here(workspace: Path, as_json: bool) -> None:
    """A line each; one that is damaged is named as such."""
    from kdedge.regression.baselines import names, read_baseline

    found: list[dict[str, Any]] = []
    for name in names(workspace / FOLDER):
        try:
            found.append(as_data(read_baseline(name, workspace / FOLDER)))
        except KdedgeError as error:
            found.append({"name": name, "error": str(error)})
    if as_json:
        print(json.dumps(found))
        return
    for entry in found:
        print(f"{entry['name']}: " + (entry["error"] if "error" in entry else f"{entry['artifact']} set {entry['set_at']} on {entry['device']}"))
    if not found:
        print(f"no baselines in {workspace / FOLDER}; set one by `kdedge baseline set NAME ARTIFACT`")


def show_here(name: str, workspace: Path, as_json: bool) -> None:
    """All that is known of one.

    Raises:
        KdedgeError: there is none, or it is damaged.
    """
    from kdedge.regression.baselines import read_baseline

    data = as_data(read_baseline(name, workspace / FOLDER))
    if as_json:
        print(json.dumps(data))
        return
    for key, value in data.items():
        if isinstance(value, dict):
            print(f"{key}:")
            for inner, each in sorted(value.items()):
                print(f"  {inner}: {each}")
        else:
            print(f"{key}: {value}")


def as_data(baseline: Baseline) -> dict[str, Any]:
    """Plain data."""
    arm = baseline.arm
    return {
        "name": baseline.name,
        "artifact": arm.name,
        "line": arm.line,
        "sha256": arm.sha256,
        "set_at": baseline.set_at,
        "device": baseline.device,
        "size_bytes": baseline.size_bytes,
        "runtime": arm.job.runtime,
        "batch": arm.job.batch,
        "options": dict(arm.job.options),
        "environment": dict(arm.environment),
    }
