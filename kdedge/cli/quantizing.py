"""What `kdedge quantize` prints."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdedge import progress
from kdedge.cli.inspecting import printable
from kdedge.cli.running import listener_of
from kdedge.errors import KdedgeError
from kdedge.recipe import QuantizeSection
from kdedge.report.figures import size

if TYPE_CHECKING:
    from rich.console import Console

    from kdedge.exporters.foreign.left_float import FloatNode
    from kdedge.exporters.foreign.quantizing import Quantized

_NAMED = 3  # nodes of one reason that the table names; `--json` has all


def quantize_and_tell(
    model: Path,
    dialect: str,
    data: Path,
    out: Path,
    values: Mapping[str, Any],
    at_least: float | None,
    workspace: Path,
    as_json: bool,
    quiet: bool,
) -> None:
    """Quantize with `values` for the recipe's section `quantize`: progress on standard error, then the tables, then what a machine reads.

    Raises:
        KdedgeError: as `quantize_file`; an option has no such value.
    """
    settings = _settings(values)
    with listener_of(quiet) as (listener, on_stage), progress.listening(listener):
        from kdedge.installed import ONNX, need

        need("quantizing an ONNX file", "onnx", *ONNX)
        from kdedge.exporters.foreign.quantizing import quantize_file
        from kdedge.workspace import Workspace

        store = Workspace(workspace, on_stage)
        try:
            result = quantize_file(model, dialect, data, out, settings, store, at_least)
        finally:
            store.save()
    if not quiet:
        _print(result, model, out)
    if as_json:
        print(json.dumps({"model": str(model), "out": str(out) if result.written else None, **result.as_json()}))


def _settings(values: Mapping[str, Any]) -> QuantizeSection:
    from pydantic import ValidationError

    try:
        return QuantizeSection(**values)
    except ValidationError as error:
        first = error.errors()[0]
        raise KdedgeError(f"--{str(first['loc'][0]).replace('_', '-')} {first['input']}: {first['msg'].lower()}") from error


def _print(result: Quantized, model: Path, out: Path) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120  # a log has no edge
    if not result.written:
        console.print(f"{model.name} was not quantized for {result.dialect}: {printable(result.reason)}", markup=False, soft_wrap=True)
    else:
        before, after = result.sizes
        console.print(f"{model.name} -> {out}: {size(before)} -> {size(after)} ({after / before:.0%})", markup=False, soft_wrap=True)
    for line in _facts(result):
        console.print(line, markup=False, soft_wrap=True)
    _print_float(result.left, console)
    _print_distances(result, console)
    for note in result.notes:
        console.print(f"note: {printable(note)}", markup=False, soft_wrap=True)


def _facts(result: Quantized) -> Iterator[str]:
    if result.examples:
        layers = len(result.integer) + sum(one.is_layer for one in result.left)
        nodes = f"{len(result.integer)} of {layers} nodes with weights"
        shares = result.shares
        counted = ""
        if shares is not None:
            weights = shares.integer_weights / max(1, shares.weights)
            where = " outside of control flow" if shares.inside else ""
            counted = (
                f": {shares.operations_share:.1%} of the multiplications of convolutions and matrix products{where}, {weights:.1%} of their weights"
            )
        yield f"on integers: {nodes}{counted}"
        yield f"calibrated on {result.examples} examples" + (f"; graph passes: {', '.join(result.passes)}" if result.passes else "")


def _print_float(left: Sequence[FloatNode], console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    if not left:
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("stays float", "why", "nodes"):
        table.add_column(heading, overflow="fold")
    for (operator, reason), count in Counter((one.operator, one.reason) for one in left).most_common():
        names = [one.node for one in left if (one.operator, one.reason) == (operator, reason)]
        more = f" and {count - _NAMED} more" if count > _NAMED else ""
        table.add_row(*(Text(printable(text)) for text in (f"{count} {operator}", reason, ", ".join(names[:_NAMED]) + more)))
    console.print(table)


def _print_distances(result: Quantized, console: Console) -> None:
    from rich.table import Table
    from rich.text import Text

    if not result.distances:
        return
    seen = "held back from calibration" if result.held_back else "that calibration saw too"
    console.print(f"distance to the original on {result.compared} examples {seen}:", markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("output", overflow="fold")
    names = [name for name in _HEADINGS if any(name in one.figures for one in result.distances)]
    for name in names:
        table.add_column(_HEADINGS[name])
    for one in result.distances:
        table.add_row(Text(printable(one.name)), *(Text(str(one.figures[name]) if name in one.figures else "-") for name in names))
    console.print(table)


_HEADINGS = {"sqnr": "SQNR", "agreement": "same largest entry", "kl": "KL", "equal": "equal elements"}
