"""The part of the report that says on what was measured, and how the devices fared meanwhile."""

from __future__ import annotations

from kdedge.estimate import Estimate
from kdedge.latency.sustained import beginning
from kdedge.measured import Cell, DeviceIdentity, Latency
from kdedge.report import figures
from kdedge.report.layout import Block, Bullets, Section, Table, TableCell
from kdedge.report.result import RunResult

# Of a fingerprint, what a person knows a machine by; the whole of it stands under "Environment".
_KNOWN_BY = ("model", "module", "soc", "cpu", "gpu", "browser", "os")
_ENERGY = {"energy, net": "energy_net", "energy, gross": "energy_gross"}


def devices(result: RunResult) -> Section | None:
    """The devices, and a row for each cell whose launches ran there."""
    if not result.devices:
        return None
    rows = tuple(_device(device, result.catalog.get(device.name, "")) for device in result.devices)
    blocks: list[Block] = [Table(("device", "kind", "machine", "in the catalog", "known by"), rows)]
    launched = [cell for cell in result.cells if cell.latency.launches and not cell.proxy]
    if launched:
        blocks.append(_launches(launched))
    if said := tuple(dict.fromkeys(cell.latency.energy_reason for cell in launched if cell.latency.energy_reason)):
        blocks.append(Bullets(said))
    lead = (
        "What the devices told of themselves before and after each launch; a dash: nothing, or it was not asked for. "
        "A launch during which the device throttled counts for no figure."
    )
    return Section("devices", "Devices and their state", lead, tuple(blocks))


def _device(device: DeviceIdentity, entry: str) -> tuple[TableCell, ...]:
    if device.away:
        return (TableCell(device.name), TableCell(device.kind), TableCell("-"), TableCell(entry or "-"), TableCell(device.reason, kind="prose"))
    known = ", ".join(dict.fromkeys(device.fingerprint[fact] for fact in _KNOWN_BY if device.fingerprint.get(fact)))
    machines = ", ".join(device.machines)
    return (TableCell(device.name), TableCell(device.kind), TableCell(machines), TableCell(entry or "-"), TableCell(known or "-", kind="prose"))


def _launches(cells: list[Cell]) -> Table:
    told = list(dict.fromkeys(name for cell in cells for name in cell.latency.observed))
    energy = _ENERGY if any(cell.latency.energy for cell in cells) else {}
    sustained = any(cell.latency.sustained for cell in cells)
    head = ("artifact", "launches that count", *told, *energy, *(("steady state",) if sustained else ()))
    rows = tuple(
        (
            TableCell(figures.name_of(cell.artifact), cell.device),
            TableCell(_counted(cell.latency)),
            *(TableCell(cell.latency.observed.get(name, "-")) for name in told),
            *(_estimate(cell.latency.energy.get(key)) for key in energy.values()),
            *((_steady(cell.latency),) if sustained else ()),
        )
        for cell in cells
    )
    return Table(head, rows)


def _counted(latency: Latency) -> str:
    dropped = sum(bool(reason) for reason in latency.invalid)
    return f"{latency.launches - dropped} of {latency.launches}"


def _estimate(estimate: Estimate | None) -> TableCell:
    return TableCell(*figures.split(estimate))


def _steady(latency: Latency) -> TableCell:
    said = latency.sustained
    return TableCell(f"{said['steady_ms']:.4g} ms", f"{said['steady_ratio']:.3g} x {beginning(said['seconds'])}") if said else TableCell("-")
