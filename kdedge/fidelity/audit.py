"""What was asked of an artifact against what a runtime executed: node by node, in multiply-accumulates, with the reason where the graph shows it.

An executed layer is told to be an asked node by names alone: those that the runtime keeps of the file (`ExecutedLayer.sources`), else the layer's
own. Runtimes fuse a node with what follows it and may keep the name of the last; so a layer that multiplies and is named after a follower is the
node, where no other layer is. What cannot be told by names is said to be unknown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kdedge.artifact import AskedNode
from kdedge.fidelity.audit_reasons import explained
from kdedge.measured import Audit, AuditRow

UNKNOWN = "unknown"

_MULTIPLIES = re.compile(
    r"conv|gemm|matmul|fullyconnected|matrixmult|innerproduct|^linear|attention|addmm|(^|_)b?mm($|_)|lstm|gru|myelin", re.IGNORECASE
)
_CONVERTS = re.compile(r"quantizelinear$|^(cast|convert|reorder\w*|reformat|fakequantize|quantize|dequantize|_to_copy|to)$", re.IGNORECASE)
# How ONNX Runtime calls a change of layout that it adds itself.
_ADDED_TRANSPOSE = re.compile(r"Transpose(_token_\d+)?$")

Layer = Mapping[str, Any]


def audit(asked: Sequence[AskedNode], layers: Sequence[Layer], runtime: str, options: Mapping[str, Any], machines: Iterable[str] = ()) -> Audit:
    """Compare what a file asks for with executed layers (dicts with the fields of `ExecutedLayer`, as in a worker's `executed.json`).

    `runtime`, `options` and `machines` are those that the layers ran with: the reasons depend on them.
    """
    found = _assigned(asked, layers)
    facts = _Facts(runtime, options, tuple(machines))
    rows = tuple(_row(node, found.get(node.name), facts) for node in asked)
    taken = {id(layer) for layer in found.values()}
    spare = tuple(str(layer["name"]) for layer in layers if _multiplies(layer) and id(layer) not in taken)
    converting = [layer for layer in layers if _converts(layer)]
    times = [layer.get("milliseconds") for layer in converting]
    conversion_ms = sum(time for time in times if time is not None) if any(layer.get("milliseconds") is not None for layer in layers) else None
    return Audit(
        rows=rows,
        macs=_by_dtype(rows),
        conversions=dict(sorted(Counter(str(layer["operator"]) for layer in converting).items())),
        conversion_ms=conversion_ms,
        layers=spare,
        findings=_findings(rows, spare),
    )


class _Facts:
    """What the reasons depend on."""

    def __init__(self, runtime: str, options: Mapping[str, Any], machines: tuple[str, ...]) -> None:
        self.runtime, self.options, self.machines = runtime, options, machines


def _row(node: AskedNode, layer: Layer | None, facts: _Facts) -> AuditRow:
    ran = "" if layer is None or layer["dtype"] == "other" else str(layer["dtype"])
    why = explained(node, ran, facts.runtime, facts.options, facts.machines)
    if layer is None:
        return AuditRow(node.name, node.operator, node.precision, "", node.macs, why=why)
    return AuditRow(node.name, node.operator, node.precision, ran, node.macs, str(layer["name"]), layer.get("milliseconds"), why)


# ---- which layer is which node ---------------------------------------------------------------------------------------------


def _assigned(asked: Sequence[AskedNode], layers: Sequence[Layer]) -> dict[str, Layer]:
    """The layer of each node, by the node's name: by the node's own names first, then by those of what follows it, nearest first."""
    named: dict[str, list[Layer]] = {}
    for layer in layers:
        for name in dict.fromkeys((*layer.get("sources", ()), str(layer["name"]))):
            named.setdefault(str(name), []).append(layer)
    found: dict[str, Layer] = {}
    for node in asked:
        own = [layer for name in node.names for layer in named.get(name, ()) if not _converts(layer)]
        best = sorted(own, key=lambda layer: (not _multiplies(layer), layer["dtype"] == "other"))
        if best and (_multiplies(best[0]) or best[0]["dtype"] != "other"):
            found[node.name] = best[0]
    taken = {id(layer) for layer in found.values()}
    for node in asked:
        if node.name in found:
            continue
        behind = (layer for name in node.followers for layer in named.get(name, ()))
        match = next((layer for layer in behind if _multiplies(layer) and id(layer) not in taken), None)
        if match is not None:
            found[node.name] = match
            taken.add(id(match))
    return found


def _multiplies(layer: Layer) -> bool:
    operator = str(layer["operator"])
    return bool(_MULTIPLIES.search(operator)) and not _converts(layer)


def _converts(layer: Layer) -> bool:
    operator = str(layer["operator"])
    return bool(_CONVERTS.search(operator)) or (operator == "Transpose" and bool(_ADDED_TRANSPOSE.match(str(layer["name"]))))


# ---- sums and sentences ----------------------------------------------------------------------------------------------------


def _by_dtype(rows: Iterable[AuditRow]) -> dict[str, int]:
    sums: Counter[str] = Counter()
    for row in rows:
        if row.macs:
            sums[row.ran or UNKNOWN] += row.macs
    return dict(sorted(sums.items()))


def _findings(rows: Sequence[AuditRow], spare: Sequence[str]) -> tuple[str, ...]:
    """What ran otherwise than asked, the same reasons together; then what is not known."""
    total = Counter(row.operator for row in rows)
    groups = Counter((row.operator, row.asked, row.ran, row.why) for row in rows if row.as_asked is False)
    found = [
        f"{count} of {_many(total[operator], operator)} asked in {asked} ran in {ran}: {why}" for (operator, asked, ran, why), count in groups.items()
    ]
    lost = [row.node for row in rows if not row.ran]
    if lost:
        which = ", ".join(f"`{name}`" for name in lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")
        unnamed = f"; {len(spare)} executed layers that multiply carry none of the file's names" if spare else ""
        found.append(f"{len(lost)} of {len(rows)} nodes that multiply could not be found among the executed layers ({which}){unnamed}")
    uncounted = Counter(row.operator for row in rows if row.macs is None)
    if uncounted:
        found.append(f"not counted, for their sizes are not known or not simple: {', '.join(_many(n, name) for name, n in uncounted.items())}")
    return tuple(found)


_WORDS = {"Conv": ("convolution", "convolutions"), "ConvTranspose": ("transposed convolution", "transposed convolutions")}


def _many(count: int, operator: str) -> str:
    one, many = _WORDS.get(operator, (operator, operator))
    return f"{count} {one if count == 1 else many}"
