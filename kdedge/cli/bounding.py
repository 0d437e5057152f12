"""What `kdedge inspect --device` finds out: the least time that an artifact can take on a device of the catalog, and what that stands on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdedge.errors import KdedgeError

if TYPE_CHECKING:
    from kdedge.latency.roofline import Bound


def bound_here(artifact: Path, device: str, sizes: Sequence[str], mode: str | None = None) -> Bound:
    """The bound of an ONNX file, or of the one in a bundle with the session options that it ships with.

    `sizes`: NAME=N for dimensions that vary; where none is given, a bundle's usual size, else 1 for the first axis. An ONNX file that does not say
    its target is counted on the device's GPU, where the catalog has one, else on all cores.

    Raises:
        KdedgeError: the catalog has no such device or power mode, or no unit that the target runs on; there is no ONNX file; a size is missing.
    """
    from kdedge.cli.inspecting import graph_in
    from kdedge.devices.catalog import find_profile
    from kdedge.exporters.given_sizes import fill_sizes, name_dimensions, parse_sizes
    from kdedge.exporters.metadata import read_properties
    from kdedge.exporters.quantize.wiring import load
    from kdedge.exporters.work import work_of_graph
    from kdedge.latency.roofline import bound_of, conditions_of
    from kdedge.targets import TARGETS

    profile = find_profile(device)
    options: dict[str, Any] = {}
    usual: dict[str, int] = {}
    if artifact.is_dir():
        file, manifest = graph_in(artifact, "what it takes is counted on ONNX alone")
        target, runtime, options = manifest["target"], manifest["runtime"], dict(manifest["options"])
        usual = _usual(artifact)
    else:
        if not artifact.is_file():
            raise KdedgeError(f"{artifact}: there is no such file")
        file, target, runtime = artifact, "", ""
    model = name_dimensions(load(file))
    target = target or read_properties(model).get("target", "")
    known = TARGETS.get(target)
    if known is not None and not set(known.machines) & set(profile.machines):
        raise KdedgeError(
            f"{artifact.name} is for {target}, which runs on {' or '.join(known.machines)}; {profile.id} is {', '.join(profile.machines)}: "
            f"give an artifact for {' or '.join(profile.targets)}, or an ONNX file that is for no target"
        )
    conditions = conditions_of(target, runtime or (known.runtime if known is not None else ""), options, profile)
    if mode is not None:
        conditions = replace(conditions, mode=profile.mode(mode))
    chosen = {**{name: size for name, size in usual.items() if name in _varying(model)}, **parse_sizes(sizes)}
    return bound_of(work_of_graph(model, fill_sizes(model, chosen)), profile, conditions)


def lines_of(bound: Bound) -> Iterator[str]:
    """The bound for people."""
    other = "memory" if bound.limited_by == "compute" else "compute"
    parts = {"compute": bound.compute_ms, "memory": bound.memory_ms}
    yield f"{bound.device}, {bound.unit}: at least {bound.milliseconds:.4g} ms a call, limited by {bound.limited_by} ({other}: {parts[other]:.4g} ms)"
    counted = ", ".join(f"{number:,} in {precision}" for precision, number in bound.precisions.items())
    yield f"{bound.macs:,} multiply-accumulates ({counted or 'none'}); {bound.external_bytes:,} bytes that do not fit into the caches"
    yield f"estimate: {bound.estimate_ms:.4g} ms"
    yield "stands on"
    yield from (f"  {one.what}: {one.value} [{one.confidence}] {one.source}" for one in bound.standing)
    yield "assumes"
    yield from (f"  {sentence}" for sentence in bound.assumptions)


def as_data(bound: Bound) -> dict[str, Any]:
    """The bound as JSON has it."""
    return asdict(bound)


def _usual(bundle: Path) -> dict[str, int]:
    """The usual sizes of a bundle's inputs, by dimension."""
    from kdedge.bundle.manifest import read_manifest

    shapes = [tensor["shape"] for tensor in read_manifest(bundle)["input"]["tensors"]]
    return {str(size["name"]): int(size["typical"]) for shape in shapes for size in shape if isinstance(size, dict)}


def _varying(model: Any) -> set[str]:
    return {str(size.value) for value in model.graph.inputs for size in value.shape or () if not isinstance(size, int)}
