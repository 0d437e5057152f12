"""A dialect's own lowered graph in torch, with everything that lowering rounds made from float tensors and ranges that can be trained.

What is trained is what is handed over: float weights and a range table. In each forward pass they go through the functions that lowering itself
uses (`encoding`), so that lowering them again gives the integers, scales and zero points that were trained with. Only where a dialect writes the
offset of a normalisation as int32 does lowering round it anew, in steps that go with the range of what the node reads.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from kdedge.errors import ExportError
from kdedge.exporters import model_file
from kdedge.exporters.dialects.dialect import Dialect
from kdedge.exporters.quantize import encoding
from kdedge.exporters.quantize.encoding import Encoding
from kdedge.exporters.quantize.lower import lower_table
from kdedge.exporters.quantize.plan import plan
from kdedge.exporters.quantize.ranges import EXACT, ActivationRange, RangeTable, Weight, WeightRange
from kdedge.exporters.quantize.rewriting import load_for
from kdedge.exporters.quantize.roles import WEIGHTED
from kdedge.exporters.quantize.tensors import replace_tensors
from kdedge.exporters.quantize.torch_graph import TorchGraph
from kdedge.exporters.quantize.torch_rounding import Quantize
from kdedge.exporters.quantize.wiring import bias_place, folded_into, load

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]


# Below the step of anything that counts: a tensor of zeros has none.
_TINY = 1e-8


class StraightThrough(torch.autograd.Function):
    """The value `exact`, with the gradient of `smooth`: for what lowering rounds."""

    @staticmethod
    def forward(ctx: Any, smooth: Tensor, exact: Tensor) -> Tensor:
        """What lowering makes of it."""
        return exact

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """As if nothing had been rounded."""
        return gradient, None


@dataclass(frozen=True)
class _Scale:
    """Activations that share a scale: their rows of the table, and the constants of the lowered graph that hold it."""

    rows: tuple[str, ...]
    constants: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Weighted:
    """A node with quantized weights: its row, the scale of what it reads, and the values of the lowered graph that hold weight and int32 bias."""

    row: Weight
    source: int | Encoding
    weight: str
    bias: str | None


class FakeQuantized(nn.Module):
    """The float graph at `model`, as `dialect` lowers it with `table` and `weights`, as a torch module that can be trained.

    Parameters, all 0 at the start: by how many rounding steps weights and biases of nodes that multiply have moved (`moves`, in the order of
    `names`; of a bias, steps of what its node makes), and by how much each range has grown, as natural logarithms: `activations` [scales, 2] for
    the lower and upper end, and `channels` [output channels of all quantized weights]. So one learning rate suits all of them. A range that starts
    at 0 keeps doing so, and a symmetric one has one end. Without `learned` ranges these two have no gradient.

    Raises:
        ExportError: as `lower`; or the graph holds operators that torch is not told, all of which are named.
    """

    def __init__(self, model: Path, table: RangeTable, dialect: Dialect, weights: Mapping[str, Float32] | None = None, learned: bool = True) -> None:
        super().__init__()
        self.table, self.dialect = table, dialect
        # With the activations that the integers' range makes superfluous: a range that is learned may grow beyond them.
        lowered = _lowered(model, table, replace(dialect, drops_activations=False), weights or {})
        self.graph = TorchGraph(lowered)
        source = load_for(model, table)
        replace_tensors(source.graph, dict(weights or {}))
        self.scales, self.weighted = _wiring(source.graph, lowered.graph, table, dialect)
        self.names = _trained(lowered.graph, self.weighted, source.graph)
        held = [_held(source.graph, name) for name in self.names]
        units = _units(source.graph, table, dialect, dict(zip(self.names, held, strict=True)))
        self.moves = nn.ParameterList(torch.zeros(array.shape) for array in held)
        for place, (array, name) in enumerate(zip(held, self.names, strict=True)):
            self.register_buffer(f"_start{place}", torch.from_numpy(array.copy()), persistent=False)
            self.register_buffer(f"_unit{place}", torch.from_numpy(units[name]), persistent=False)
        self._ranges = table.activation_ranges()
        self._starts = [self._start(scale) for scale in self.scales]
        self._channels = _channel_places(self.weighted, table)
        ranges = table.weight_ranges()
        self._amplitudes = {key: np.asarray(ranges[key].symmetric, np.float64) for key in self._channels}
        self.activations = nn.Parameter(torch.zeros(len(self.scales), 2), requires_grad=learned)
        self.channels = nn.Parameter(torch.zeros(sum(row.size for row in self._channels.values())), requires_grad=learned)
        self._check()

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the graph's inputs."""
        return self.graph.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""
        return self.graph.outputs

    def learnable(self) -> list[nn.Parameter]:
        """The parameters that training moves; none where the graph multiplies by nothing and the dialect rounds nothing."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad and parameter.numel()]

    def forward(self, feeds: Mapping[str, Tensor], wanted: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Outputs by name (or any `wanted` values of the lowered graph), from inputs by name."""
        return self.graph({**self.quantized(), **feeds}, wanted)  # type: ignore[no-any-return]

    def tensors(self) -> dict[str, Tensor]:
        """Weights and biases by name, as they are now."""
        buffers = dict(self.named_buffers())
        return {name: buffers[f"_start{place}"] + buffers[f"_unit{place}"] * self.moves[place] for place, name in enumerate(self.names)}

    def quantized(self) -> dict[str, Tensor]:
        """What training changes in the lowered graph, by its names there: scales, zero points, dequantized weights and biases, float constants."""
        made: dict[str, Tensor] = {}
        encodings = [encoding.encode_activation(self._rows(place), self.dialect) for place in range(len(self.scales))]
        for place, (scale, held) in enumerate(zip(self.scales, encodings, strict=True)):
            step, zero = self._activation(place, held)
            for step_name, zero_name in scale.constants:
                made[step_name], made[zero_name] = step, zero
        tensors = self.tensors()
        for node in self.weighted:
            made.update(self._weight(node, tensors, encodings[node.source] if isinstance(node.source, int) else node.source))
        own = {node.row.name for node in self.weighted} | {str(node.row.bias) for node in self.weighted if node.bias is not None}
        made.update({name: tensor for name, tensor in tensors.items() if name not in own or name in self.graph.constants})
        return made

    def hand_over(self) -> tuple[dict[str, Float32], RangeTable]:
        """Float tensors and ranges that `lower` turns into the graph that this module computes."""
        tensors = {name: tensor.detach().cpu().numpy().copy() for name, tensor in self.tensors().items()}
        if not self.activations.requires_grad:
            return tensors, self.table
        # What was learned was observed by nobody: such rows have no choices.
        activations = {row.name: replace(row, choices=()) for place in range(len(self.scales)) for row in self._rows(place)}
        weights = {
            key: replace(row, symmetric=tuple(self._grown(key).tolist()), choices=())
            for key, row in self.table.weight_ranges().items()
            if key in self._channels
        }
        return tensors, replace(
            self.table,
            activations=tuple(activations.get(row.name, row) for row in self.table.activations),
            weights=tuple(weights.get((row.name, row.axis), row) for row in self.table.weights),
        )

    # ---- ranges ----------------------------------------------------------------------------------------------------------

    def _start(self, scale: _Scale) -> ActivationRange:
        """The range that a scale began with: it covers those of all rows, as `encode_activation` does."""
        rows = [self._ranges[name] for name in scale.rows]
        ends = min(row.affine[0] for row in rows), max(row.affine[1] for row in rows)
        return replace(rows[0], symmetric=max(row.symmetric for row in rows), affine=ends)

    def _rows(self, place: int) -> list[ActivationRange]:
        """The rows of the table as they are now: all that share a scale have its range."""
        start = self._starts[place]
        low, high = (float(grown) for grown in np.exp(self.activations[place].detach().cpu().numpy().astype(np.float64)))
        symmetric, affine = start.symmetric * high, (start.affine[0] * low, start.affine[1] * high)
        return [replace(self._ranges[name], symmetric=symmetric, affine=affine) for name in self.scales[place].rows]

    def _activation(self, place: int, held: Encoding) -> tuple[Tensor, Tensor]:
        """Scale and zero point, exactly as lowered and with the gradient of the range."""
        grown = self.activations[place].exp()
        exact = grown.new_tensor(float(held.scale)), grown.new_tensor(float(held.zero_point))
        if not self.activations.requires_grad:
            return exact
        start, (lowest, highest) = self._starts[place], self.dialect.activation.limits
        if self.dialect.activation.symmetric:
            return _straight(start.symmetric * grown[1] / highest, exact[0]), exact[1]
        low = start.affine[0] * grown[0]
        scale = _straight((start.affine[1] * grown[1] - low) / (highest - lowest), exact[0])
        return scale, (exact[1] if start.affine[0] == 0.0 else _straight(lowest - low / scale, exact[1]))

    def _grown(self, key: tuple[str, int]) -> npt.NDArray[np.float64]:
        """The amplitudes of a weight as they are now."""
        grown: npt.NDArray[np.float64] = np.exp(self.channels[self._channels[key]].detach().cpu().numpy().astype(np.float64))
        return self._amplitudes[key] * grown

    # ---- weights ---------------------------------------------------------------------------------------------------------

    def _weight(self, node: _Weighted, tensors: Mapping[str, Tensor], source: Encoding) -> dict[str, Tensor]:
        row, dialect = node.row, self.dialect
        key, weight = (row.name, row.axis), tensors[row.name]
        bias = None if node.bias is None else tensors[str(row.bias)]
        held = None if bias is None else bias.detach().cpu().numpy()
        separate = dialect.per_channel(row.operator)
        exact = encoding.weight_scales(self._grown(key), held, source, dialect, separate)
        scales = torch.from_numpy(exact).to(weight.device)
        if self.channels.requires_grad:
            smooth = weight.new_tensor(self._amplitudes[key]) * self.channels[self._channels[key]].exp() / dialect.weight.limits[1]
            scales = _straight(smooth if separate else smooth.amax(0, keepdim=True), scales)
        along = scales.reshape([-1 if place == row.axis else 1 for place in range(weight.ndim)])
        integers: Tensor = Quantize.apply(weight, along, weight.new_zeros(()), *dialect.weight.limits)  # type: ignore[no-untyped-call]
        made = {node.weight: integers * along}
        if bias is not None and node.bias is not None:
            whole, product = encoding.quantize_bias(np.asarray(held), source, exact)
            rounded = torch.from_numpy(whole.astype(np.float32) * product).to(weight.device).reshape(bias.shape)
            made[node.bias] = _straight(bias, rounded)
        return made

    def _check(self) -> None:
        """That what is trained is what lowering made: else the export would not be the graph that learned.

        Raises:
            ExportError: it is not, which is a mistake in kdedge.
        """
        with torch.no_grad():
            made = self.quantized()
            wanted = self.graph({}, list(made))
        for name, value in made.items():
            if not torch.equal(value.to(wanted[name].dtype).reshape(-1), wanted[name].reshape(-1)):
                raise ExportError(
                    f"`{name}` is another one in the graph that {self.dialect.name} lowers than in training: kdedge cannot train this graph"
                )


def _straight(smooth: Tensor, exact: Tensor) -> Tensor:
    value: Tensor = StraightThrough.apply(smooth, exact)  # type: ignore[no-untyped-call]
    return value


# ---- from the lowered graph back to what it was made of ----------------------------------------------------------------------


def write_lowered(model: Path, table: RangeTable, dialect: Dialect, weights: Mapping[str, Float32], folder: Path) -> Path:
    """Lower what training hands over to a file in `folder`; its path.

    Raises:
        ExportError: as `lower`.
    """
    out = folder / "lowered.onnx"
    lower_table(model, table, dialect, out, weights)
    return out


def _lowered(model: Path, table: RangeTable, dialect: Dialect, weights: Mapping[str, Float32]) -> Any:
    with tempfile.TemporaryDirectory(prefix="lowered-") as temporary:
        return load(write_lowered(model, table, dialect, weights, Path(temporary)))


def _wiring(source: Any, lowered: Any, table: RangeTable, dialect: Dialect) -> tuple[list[_Scale], list[_Weighted]]:
    """Scales of activations that come from the table, and nodes with quantized weights."""
    decided = plan(source, table, dialect)
    groups = {value.name: tuple(member.name for member in group) for group in decided.groups for value in group}
    known = table.activation_ranges()
    exact = {row.name for row in table.structure.activations if EXACT in row.roles}
    readers: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    owners: dict[Any, tuple[str, ...]] = {}  # Q and DQ nodes of activations -> the rows that made their scale
    for node in lowered:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear") or len(node.inputs) < 3:
            continue
        name = _point(node, known)
        if name is None:
            continue
        rows = tuple(sorted(groups.get(name, (name,))))
        held = encoding.encode_activation([known[row] for row in rows], dialect)
        scale, zero = (model_file.constant(node.inputs[place]) for place in (1, 2))
        if scale is None or zero is None or float(scale) != float(held.scale) or int(zero) != held.zero_point or exact.intersection(rows):
            continue  # the dialect, or the table, knows this scale by itself: it stays
        owners[node] = rows
        readers.setdefault(rows, []).append((str(node.inputs[1].name), str(node.inputs[2].name)))
    scales = [_Scale(rows, tuple(dict.fromkeys(constants))) for rows, constants in readers.items()]
    places = {scale.rows: place for place, scale in enumerate(scales)}
    by_name = {node.name: node for node in lowered}
    rows_of = {row.node: row for row in table.structure.weights}
    found = [_weighted(by_name[node.name], rows_of[node.name], owners, places) for node in decided.weighted]
    return scales, [node for node in found if node is not None]


def _point(node: Any, known: Mapping[str, ActivationRange]) -> str | None:
    """The tensor of the float graph whose range made the scale of a Q or DQ node: through operators that move integers, back to the Q.

    What a Q reads may have had another name, that of a graph output, which its DQ has now."""
    while node is not None and node.op_type != "QuantizeLinear":
        value = node.inputs[0]
        node = None if value is None else value.producer()
    if node is None or model_file.constant(node.inputs[0]) is not None:
        return None
    names = [node.inputs[0].name, *(use.node.outputs[0].name for use in node.outputs[0].uses())]
    return next((str(name) for name in names if name in known), None)


def _weighted(node: Any, row: Weight, owners: Mapping[Any, tuple[str, ...]], places: Mapping[tuple[str, ...], int]) -> _Weighted | None:
    weight, reads = node.inputs[1].producer(), node.inputs[0].producer()
    if weight is None or weight.op_type != "DequantizeLinear" or reads is None or reads.op_type != "DequantizeLinear":
        return None
    source: int | Encoding
    if reads in owners:
        source = places[owners[reads]]
    else:
        source = Encoding(np.float32(model_file.constant(reads.inputs[1])), int(model_file.constant(reads.inputs[2])))
    return _Weighted(row, source, str(node.inputs[1].name), _integer_bias(node))


def _integer_bias(node: Any) -> str | None:
    place = bias_place(node)
    value = None if place is None else place[0].inputs[place[1]]
    if value is None or value.producer() is None or value.producer().op_type != "DequantizeLinear":
        return None
    held = model_file.constant(value.producer().inputs[0])
    return str(value.name) if held is not None and held.dtype == np.int32 else None


def _trained(lowered: Any, weighted: Sequence[_Weighted], source: Any) -> tuple[str, ...]:
    """Float tensors of the source that training changes: weights and biases of nodes that multiply, quantized or left in float."""
    names = [name for node in weighted for name in (node.row.name, node.row.bias if node.bias is not None else None) if name is not None]
    for node in lowered:
        if node.op_type in WEIGHTED:
            place = bias_place(node)
            values = [node.inputs[1], None if place is None else place[0].inputs[place[1]]]
            names += [str(value.name) for value in values if value is not None and _is_float_constant(value)]
    held = _constants(source)
    return tuple(name for name in dict.fromkeys(names) if name in held)


def _is_float_constant(value: Any) -> bool:
    held = model_file.constant(value)
    return held is not None and held.dtype == np.float32


def _constants(graph: Any) -> dict[str, Any]:
    return {str(value.name): value for node in graph for value in node.inputs if value is not None and model_file.constant(value) is not None}


def _held(graph: Any, name: str) -> Float32:
    return np.asarray(model_file.constant(_constants(graph)[name]), np.float32)


def _units(graph: Any, table: RangeTable, dialect: Dialect, held: Mapping[str, Float32]) -> dict[str, Float32]:
    """The rounding step of each tensor: of weights that of their channel, of biases that of what their node makes, so that they broadcast."""
    steps = {name: np.full((1,) * array.ndim, max(float(np.abs(array).max()) / 127, _TINY), np.float32) for name, array in held.items()}
    weights, ranges = table.weight_ranges(), table.activation_ranges()
    made = {str(value.name): str(folded_into(value).name) for node in graph for value in node.outputs}
    for row in table.structure.weights:
        if row.name in held:
            amplitudes = np.asarray(weights[row.name, row.axis].symmetric, np.float32) / dialect.weight.limits[1]
            steps[row.name] = encoding.along(np.maximum(amplitudes, _TINY), row.axis, len(row.shape))
        output = ranges.get(made.get(row.output, ""))
        if row.bias is not None and row.bias in held and output is not None:
            step = float(encoding.encode_activation([output], dialect).scale)
            steps[row.bias] = np.full((1,) * held[row.bias].ndim, step, np.float32)
    return steps


def _channel_places(weighted: Sequence[_Weighted], table: RangeTable) -> dict[tuple[str, int], npt.NDArray[np.int64]]:
    """Where the output channels of each quantized weight lie in `FakeQuantized.channels`."""
    ranges: Mapping[tuple[str, int], WeightRange] = table.weight_ranges()
    places: dict[tuple[str, int], npt.NDArray[np.int64]] = {}
    begin = 0
    for key in dict.fromkeys((node.row.name, node.row.axis) for node in weighted):
        places[key] = np.arange(begin, begin := begin + len(ranges[key].symmetric), dtype=np.int64)
    return places
