"""What `kdedge inspect --executed` finds out: the graph is run here once, and the runtime says what it made of each node."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdedge.errors import KdedgeError, MeasurementError

if TYPE_CHECKING:
    import onnx_ir as ir

    from kdedge.measured import Audit

_SECONDS = 600.0


@dataclass(frozen=True)
class Runnable:
    """An ONNX file with what opens it."""

    path: Path
    runtime: str
    options: dict[str, Any]


def audit_here(artifact: Path, sizes: Sequence[str]) -> Audit:
    """Run an ONNX file by ONNX Runtime, or a bundle's by its own runtime and options, on random inputs, and compare with what the file asks for.

    `sizes`: NAME=N for dimensions that vary; where none is given, the first axis has 1 example.

    Raises:
        KdedgeError: there is no ONNX file, a size is missing, or the graph does not run here.
    """
    from kdedge.devices import open_device
    from kdedge.exporters.asked import asked_nodes
    from kdedge.exporters.given_sizes import fill_sizes, name_dimensions, parse_sizes
    from kdedge.exporters.quantize.wiring import load
    from kdedge.fidelity.audit import audit

    found = _runnable(artifact)
    model = name_dimensions(load(found.path))
    fixed = fill_sizes(model, parse_sizes(sizes))
    device = open_device("local")
    layers = _executed(found, model, fixed, device)
    return audit(asked_nodes(model, fixed), layers, found.runtime, found.options, device.identity.machines)


def lines_of(found: Audit) -> Iterator[str]:
    """The audit for people: a line a node, then the sums and the sentences."""
    from kdedge.report.audit import nodes, shares

    table = nodes(found)
    rows = [table.head, *(tuple(cell.text for cell in row) for row in table.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.head))]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
    yield f"multiplications: {shares(found)}"
    took = "" if found.conversion_ms is None or not found.conversions else f" ({found.conversion_ms:.3g} ms)"
    yield f"conversions: {', '.join(f'{number} {operator}' for operator, number in found.conversions.items()) or 'none'}{took}"
    yield from found.findings


def _runnable(path: Path) -> Runnable:
    from kdedge.cli.inspecting import graph_in

    if not path.is_dir():
        if not path.is_file():
            raise KdedgeError(f"{path}: there is no such file")
        return Runnable(path, "onnxruntime", {"threads": 1})
    file, manifest = graph_in(path, "what ran is read back from an ONNX file alone; `evidence` says what ran where it was measured")
    return Runnable(file, manifest["runtime"], dict(manifest["options"]))


def _executed(found: Runnable, model: ir.Model, sizes: Mapping[str, int], device: Any) -> list[dict[str, Any]]:
    from kdedge.data.npy import save_npy
    from kdedge.devices.jobs import run_job
    from kdedge.exporters.examples import random_feed
    from kdedge.exporters.given_sizes import specs_at
    from kdedge.fidelity.validate import executed_in
    from kdedge.runtimes.job import Job

    feed = random_feed(specs_at(model, sizes), {})
    rows = next((len(array) for array in feed.values() if array.ndim), 1)
    with tempfile.TemporaryDirectory(prefix="kdedge-inspect-") as temporary:
        folder = Path(temporary)
        files = {}
        for place, (name, array) in enumerate(feed.items()):
            files[name] = str(folder / f"input{place}.npy")
            save_npy(Path(files[name]), array)
        graphs = {"model": [str(found.path.resolve())]}
        job = Job("validate", found.runtime, graphs, found.options, [files], batch=rows, fixed_batch=True)
        result = run_job(device, job, folder / "job", _SECONDS)
        if result.status != "ok":
            raise MeasurementError(f"{found.path.name} does not run here on {found.runtime}: {result.reason}")
        return executed_in(folder / "job")
