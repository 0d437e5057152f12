"""The work of `kdedge compare`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kdedge import progress

if TYPE_CHECKING:
    from kdedge.regression.comparing import Comparison, OutputComparison

_FIGURES = {"sqnr": "signal to error", "agreement": "same largest entry", "kl": "divergence", "equal": "equal elements"}


def compare_here(
    first: str,
    second: str,
    on: str,
    pairs: int,
    time_budget: str,
    inputs: Path | None,
    sizes: tuple[str, ...],
    workspace: Path,
    as_json: bool,
    quiet: bool,
) -> int:
    """Compare, print, and return the exit code: 0, or 4 where the latency is invalid.

    Raises:
        KdedgeError: words that mean nothing, or artifacts that cannot be compared.
    """
    from kdedge.cli.checking import Asked, settings_of
    from kdedge.cli.errors import Interrupted
    from kdedge.cli.running import listener_of
    from kdedge.devices import close_devices
    from kdedge.regression.arms import Given
    from kdedge.regression.comparing import compare

    settings = settings_of(Asked(first, second, (on,), "3%", 0.01, pairs, 1, time_budget, 0, True))
    with (
        tempfile.TemporaryDirectory(prefix="kdedge-compare-") as folder,
        listener_of(quiet) as (listener, _),
        progress.listening(listener),
    ):
        try:
            given, store = Given(inputs, sizes), workspace / "baselines"
            found = compare(first, second, on, settings, Path(folder), given=given, store=store, told=listener.message)
        except KeyboardInterrupt as stop:
            raise Interrupted("nothing of it is kept; the same command compares anew") from stop
        finally:  # while somebody listens: what could not be put back on a board is told
            close_devices()
    if not quiet:
        print("\n".join(lines_of(found)))
    if as_json:
        print(json.dumps(found.as_json()))
    return found.exit_code


def lines_of(found: Comparison) -> Iterator[str]:
    """For a terminal: B beside A."""
    from kdedge.cli.inspecting import printable
    from kdedge.regression.comparing import medians_of
    from kdedge.regression.wording import METRICS
    from kdedge.report.figures import size

    yield printable(f"{found.second.arm.name} (B) beside {found.first.arm.name} (A) on {found.device}")
    before, after = found.first.size_bytes, found.second.size_bytes
    yield f"  size: {size(before)} and {size(after)} ({100 * (after / before - 1):+.1f} %)" if before else f"  size: {size(before)} and {size(after)}"
    verdict = found.latency.verdict
    if verdict.tests:
        a, b = medians_of(found.latency).values()
        yield f"  latency: {a:.4g} ms and {b:.4g} ms, medians of {len(verdict.counted)} launches each"
        yield from (f"  {METRICS[test.metric]}: slower by {test.effect}" for test in verdict.tests)
    else:
        yield printable(f"  latency: {verdict.state}: {verdict.reason}")
    yield f"  outputs on {found.examples} example(s):"
    yield from (printable(f"    {line}") for output in found.outputs for line in _output_lines(output))
    yield from (printable(f"  differs: {note}") for note in found.notes)
    yield from (printable(f"  {note}") for note in verdict.notes if not note.startswith("environments differ"))


def _output_lines(output: OutputComparison) -> Iterator[str]:
    distance = output.distance
    if distance.reshaped:
        yield f"{distance.name}: another shape on {distance.reshaped} example(s)"
        return
    yield f"{distance.name} {list(distance.shape[1:])}: largest difference " + (
        "not known" if output.largest_difference is None else f"{output.largest_difference:.4g}"
    )
    yield from (f"  {_FIGURES[name]}: {figure}" for name, figure in distance.figures.items())
