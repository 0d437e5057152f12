"""A file from anywhere in, the same model in a dialect's Q/DQ out, compared with what came in. `kdedge quantize` is this."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from kdedge.artifact import CalibratedRanges, ImportPath, RecoveryStep
from kdedge.errors import DialectError, ExportError, KdedgeError
from kdedge.exporters.dialects import DIALECTS
from kdedge.exporters.dialects.dialect import Dialect
from kdedge.exporters.dialects.validate import violations
from kdedge.exporters.foreign.distance import OutputDistance, measure
from kdedge.exporters.foreign.inputs import MOST_HELD_BACK, Calls, Examples, Feed, Input, batches, held_back, inputs_of
from kdedge.exporters.foreign.left_float import FloatNode, Shares, count_shares, left_float
from kdedge.exporters.foreign.opening import data_files, open_graph
from kdedge.exporters.foreign.prepare import TOGETHER, Prepared
from kdedge.exporters.foreign.sensitivity import EXAMPLES, Lowering, keep_enough
from kdedge.exporters.half import SCALES_OPSET, to_half
from kdedge.exporters.model_file import content_hash, load_model, opset_of, save_model
from kdedge.exporters.opset import raise_opset
from kdedge.exporters.quantize.keep_float import kept_float
from kdedge.exporters.quantize.lower import LoweredReport
from kdedge.exporters.quantize.ranges import read_table
from kdedge.exporters.quantize.roles import WEIGHTED
from kdedge.exporters.quantize.tensors import read_tensors
from kdedge.exporters.quantize.wiring import load
from kdedge.exporters.tensorrt import MODULE, check_with_rtx
from kdedge.fidelity.divergence import SQNR_LIMIT_DB
from kdedge.recipe import QuantizeSection
from kdedge.workspace import Workspace

_HERE = "kdedge.exporters.foreign.prepare"

#: The error of zeros is the output itself: 0 dB, here with room for rounding.
_AS_FAR_AS_ZEROS_DB = 0.1


@dataclass(frozen=True)
class Quantized:
    """What became of a file. `written` is False, and `reason` says why, where integers would gain nothing: there is no output file then.

    `sizes`: bytes before and after, with external data. `integer`: nodes with weights that compute on integers; `left`: those that do not.
    `compared`: examples that the distances were measured on, and whether calibration saw them too (`held_back` is False then).
    """

    written: bool
    reason: str
    dialect: str
    opset: tuple[int, int]
    sizes: tuple[int, int]
    examples: int = 0
    integer: tuple[str, ...] = ()
    left: tuple[FloatNode, ...] = ()
    shares: Shares | None = None
    distances: tuple[OutputDistance, ...] = ()
    compared: int = 0
    held_back: bool = True
    passes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain values, for `--json`."""
        return {
            "written": self.written,
            "reason": self.reason,
            "dialect": self.dialect,
            "opset": {"before": self.opset[0], "after": self.opset[1]},
            "size_bytes": {"before": self.sizes[0], "after": self.sizes[1]},
            "examples": {"calibrated": self.examples, "compared": self.compared, "held_back": self.held_back},
            "integer": list(self.integer),
            "float": [asdict(one) for one in self.left],
            "share_on_integers": None
            if self.shares is None
            else {
                "operations": self.shares.operations_share,
                "weights": self.shares.integer_weights / max(1, self.shares.weights),
                "nodes_inside_control_flow": self.shares.inside,
            },
            "distance": {one.name: {name: figure.as_json() for name, figure in one.figures.items()} for one in self.distances},
            "passes": list(self.passes),
            "notes": list(self.notes),
        }


def quantize_file(
    model: Path, dialect: str, data: Path, out: Path, settings: QuantizeSection, workspace: Workspace, at_least: float | None = None
) -> Quantized:
    """Quantize the file `model` for `dialect`, with ranges of the examples `data`, to `out`. `at_least`: SQNR in dB that each output should keep on
    examples of calibration; the nodes that cost most of it stay float for that.

    Raises:
        ExportError: the file cannot be read, run or brought into the dialect; a pattern of `keep_float` names nothing.
        DataError: the examples do not fit the graph.
        DialectError: what was written breaks the dialect's grammar (a defect of kdedge).
    """
    chosen = _dialect(dialect)
    _check_places(model, data, out)
    if at_least is not None and not abs(at_least) <= SQNR_LIMIT_DB:
        raise KdedgeError(f"--at-least {at_least:g}: an SQNR of at most {SQNR_LIMIT_DB:g} dB can be asked for; 20 is a usual wish")
    sources = (model, *data_files(model))
    prepared: Prepared = workspace.stage(f"{_HERE}:prepare", model, data, chosen, reads=sources[1:])
    before = sum(file.stat().st_size for file in sources)
    if prepared.path is None:
        return Quantized(False, prepared.reason, dialect, (prepared.opset,) * 2, (before, before), notes=prepared.notes)
    ranges: CalibratedRanges = workspace.stage(f"{_HERE}:observe_examples", prepared, data, settings.observing())
    if settings.recover or settings.observer == "best":
        ranges = workspace.stage(f"{_HERE}:recover_examples", prepared, ranges, data, settings, chosen)
    with _beside(out) as temporary:
        work = _Work(model, prepared, ranges, chosen.load(), temporary / out.name, settings, at_least)
        result = work.run(data, before)
        if result.written:
            work.result.replace(out)
    return result


def _dialect(name: str) -> ImportPath:
    if name not in DIALECTS:
        raise KdedgeError(f"there is no dialect `{name}` (allowed: {', '.join(sorted(DIALECTS))})")
    return ImportPath(DIALECTS[name])


def _check_places(model: Path, data: Path, out: Path) -> None:
    if not model.is_file():
        raise ExportError(f"{model}: there is no such file")
    if not data.exists():
        raise ExportError(f"{data}: there is no such file or folder of calibration examples")
    if not out.absolute().parent.is_dir():
        raise ExportError(f"{out}: the folder {out.absolute().parent} does not exist")
    if out.is_dir() or out.suffix != ".onnx":
        raise ExportError(f"{out}: give the name of a file that ends in .onnx")
    if out.exists() and out.samefile(model):
        raise ExportError(f"{out} is the model itself; give the result another name")
    with _beside(out):
        pass  # before the work, not after it


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A folder for trials on the disk of the result, so that the result only has to be renamed."""
    parent = out.absolute().parent
    try:
        temporary = tempfile.TemporaryDirectory(prefix=".kdedge-", dir=parent)
    except OSError as error:
        raise ExportError(f"{out}: nothing can be written in the folder {parent}: {error.strerror}; name another place with -o") from error
    with temporary as name:
        yield Path(name)


@dataclass(frozen=True)
class _Work:
    model: Path
    prepared: Prepared
    ranges: CalibratedRanges
    dialect: Dialect
    result: Path
    settings: QuantizeSection
    at_least: float | None

    @property
    def graph(self) -> Path:
        assert self.prepared.path is not None  # there is no work without
        return self.prepared.path

    def run(self, data: Path, before: int) -> Quantized:
        notes = [*self.prepared.notes, *(_told(step) for step in self.ranges.steps)]
        original = open_graph(self.model)
        inputs = inputs_of(original, self.model.name)
        with Examples(data, inputs) as calls:
            report, sensitive, told = self._lowered(calls)
            notes += told
            left = left_float(self.graph, dict(report.reasons), self._reasons(sensitive))
            shares = count_shares(self.graph, report.weighted, calls.feed(0)) if report.weighted else None
            notes += self._finish(report, original, self._some(calls))
            after, opset = self.result.stat().st_size, opset_of(load_model(self.result))
            facts: dict[str, Any] = {
                "dialect": self.dialect.name,
                "opset": (self.prepared.opset, opset),
                "examples": self.ranges.samples,
                "integer": report.weighted,
                "left": left,
                "shares": shares,
                "passes": self.prepared.passes,
            }
            if reason := self._gains_nothing(report, sensitive, shares, before, after):
                return Quantized(False, reason, sizes=(before, after), notes=tuple(notes), **facts)
            self._check_grammar(report)
            if self.dialect.name == "tensorrt":
                notes.append(
                    f"{MODULE}: {check_with_rtx(self.result, {'profiles': profiles} if (profiles := self._profiles(inputs, calls)) else {})}"
                )
            _, places = held_back(len(calls))
            here = _runs_here(self.dialect)
            distances = measure(self.model, self.result, batches(calls, places, 1), as_written=not here)
            if not here:
                notes.append(
                    f"distances are of what the Q/DQ mean, run by ONNX Runtime here; kernels of {self.dialect.name} round otherwise in places"
                )
            notes += [
                f"output `{one.name}` had another shape than the original's on {one.reshaped} of {len(places)} examples: nothing is measured of it"
                for one in distances
                if one.reshaped
            ]
            if len(calls) == 1:
                notes.append("the only example was calibrated on and compared on: the distance flatters")
            reason = _is_no_closer_than_zeros(distances)
            return Quantized(
                not reason,
                reason,
                sizes=(before, after),
                distances=distances,
                compared=len(places),
                held_back=len(calls) > 1,
                notes=tuple(notes),
                **facts,
            )

    def _lowered(self, calls: Calls) -> tuple[LoweredReport, tuple[str, ...], list[str]]:
        """The lowered file, the nodes that were left float for the sake of `at_least`, and what is to be said of that."""
        table = read_table(self.ranges.table)
        tensors = {} if self.ranges.weights is None else read_tensors(self.ranges.weights)
        lowering = Lowering(self.graph, table, tensors, self.dialect, not _runs_here(self.dialect), self.result.parent)
        report = lowering.write((), self.result)
        if self.at_least is None or not report.weighted:
            return report, (), []
        kept, met = keep_enough(lowering, report, self._some(calls), self.at_least)
        outcome = "" if met else ", which was not enough"
        notes = (
            [f"{len(kept)} of {len(report.weighted)} nodes stay float so that outputs keep {self.at_least:g} dB on examples of calibration{outcome}"]
            if kept or not met
            else []
        )
        return lowering.write(kept, self.result), kept, notes

    def _some(self, calls: Calls) -> list[Feed]:
        """A few of the examples that are calibrated on, evenly spread."""
        places, _ = held_back(len(calls))
        return [calls.feed(place) for place in places[:: max(1, len(places) // EXAMPLES)][:EXAMPLES]]

    def _reasons(self, sensitive: Sequence[str]) -> dict[str, str]:
        """Why nodes stay float that the table keeps so although nobody asked for them."""
        asked = kept_float(load(self.graph), self.settings.keep_float)
        infinite = set(read_table(self.ranges.table).keep_float) - set(asked)
        return {
            **dict.fromkeys(infinite, "it reads or makes a tensor that is not finite on an example"),
            **dict.fromkeys(sensitive, "quantized, it costs too much of the outputs"),
        }

    def _finish(self, report: LoweredReport, original: ir.Model, feeds: Sequence[Feed]) -> list[str]:
        """The rest in the dialect's type, and what the original said of itself."""
        model, notes = load_model(self.result), []
        if self.dialect.rest == "float16" and report.weighted:
            try:
                raised = raise_opset(model, SCALES_OPSET, feeds, self.model.name)
                halved = to_half(raised, feeds=feeds)
                model, notes = halved.model, list(halved.notes)
            except ExportError as error:
                notes = [f"the rest stays float32: {error}"]
        model.metadata_props.update(original.metadata_props)
        model.metadata_props.update(
            {"kdedge.dialect": self.dialect.name, "kdedge.source_sha256": content_hash([self.model]), "kdedge.observer": self.ranges.observer}
        )
        save_model(model, self.result)
        return notes

    def _gains_nothing(self, report: LoweredReport, sensitive: Sequence[str], shares: Shares | None, before: int, after: int) -> str:
        if not report.weighted and sensitive:
            return f"no layer can compute on integers while outputs keep {self.at_least:g} dB"
        if not report.weighted:
            return f"no node with weights can compute on integers in the dialect {self.dialect.name}"
        if self.dialect.weight_storage == "integer" and after >= before and (shares is None or shares.operations_share < 0.5):
            share = 0.0 if shares is None else shares.operations_share
            return f"the file would not be smaller ({before:,} -> {after:,} bytes), and only {share:.0%} of its multiplications would be on integers"
        return ""

    def _check_grammar(self, report: LoweredReport) -> None:
        written = load(self.result)
        kept = {str(node.name) for node in written.graph if node.op_type in WEIGHTED and node.name not in report.weighted} | set(report.kept)
        found = violations(_without_domains(written), self.dialect, kept)
        if found:
            raise DialectError(f"`{self.result.name}` is not written in the dialect {self.dialect.name}:\n  " + "\n  ".join(found))

    def _profiles(self, inputs: Sequence[Input], calls: Calls) -> dict[str, list[list[int]]]:
        """Smallest, first and largest shape of each input that varies, over the examples; several at once where they may be given together."""
        feeds = [calls.feed(place) for place in range(min(len(calls), MOST_HELD_BACK))]
        found = {}
        for each in inputs:
            if each.shape is not None and all(isinstance(size, int) for size in each.shape):
                continue
            shapes = [feed[each.name].shape for feed in feeds]
            largest = [max(sizes) for sizes in zip(*shapes, strict=True)]
            if calls.joined and self.prepared.joined and largest:
                largest[0] = max(largest[0], TOGETHER)
            found[each.name] = [[min(sizes) for sizes in zip(*shapes, strict=True)], list(shapes[0]), largest]
        return found


def _is_no_closer_than_zeros(distances: Sequence[OutputDistance]) -> str:
    """Why a file is not fit for anything, "" where it may be: an error as large as the output itself. (Of an output that is always 0 the SQNR is at
    its limit, and says nothing.)"""
    for one in distances:
        if one.sqnr is not None and -SQNR_LIMIT_DB < one.sqnr.value <= _AS_FAR_AS_ZEROS_DB:
            said = f"output `{one.name}` would be no closer to the original's than zeros are (SQNR {one.sqnr.value:.1f} dB)"
            return f"{said}; --at-least 20 leaves float what costs most, --observer minmax clips nothing"
    return ""


def _without_domains(model: ir.Model) -> ir.Model:
    """Operators of one runtime that the file came with are float, and are named elsewhere: here they count as any other."""
    for node in model.graph:
        node.domain = ""
    return model


def _told(step: RecoveryStep) -> str:
    outcome = "kept" if step.kept else "not kept"
    return f"{step.name}: {step.measure} {step.before:.4g} -> {step.after:.4g}, {outcome}" + (f" ({step.note})" if step.note else "")


def _runs_here(dialect: Dialect) -> bool:
    """Whether ONNX Runtime's kernels on this machine are those that the dialect is written for."""
    return dialect.name.startswith("onnxruntime-x86") and platform.machine() in ("x86_64", "AMD64")
