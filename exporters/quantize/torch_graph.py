"""An ONNX graph in torch: operator by operator, with gradients, so that what is exported can be trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn

from kdedge.errors import ExportError
from kdedge.exporters import model_file
from kdedge.exporters.quantize.torch_call import Call, Operator, torch_type
from kdedge.exporters.quantize.torch_operators import OPERATORS, unknown
from kdedge.exporters.quantize.torch_rounding import rounded


def unsupported_operators(model: Any) -> tuple[str, ...]:
    """What of an `onnx_ir.Model` cannot be run by `TorchGraph`: names of operators, or of the forms of them that are not known; sorted."""
    return tuple(sorted({name for node in model.graph if not _is_constant(node) and (name := unknown(node))}))


class TorchGraph(nn.Module):
    """Runs an `onnx_ir.Model`, float or with Q/DQ. DQ(Q(x)) has the straight-through gradient, also for scales that want one.

    `constants`: all initializers and outputs of `Constant` nodes by their ONNX names; an entry may be replaced, and what `forward` is fed under
    such a name counts instead. Tensors between Q and DQ hold their integers as float32. It has no parameters of its own and no training mode.

    Raises:
        ExportError: there are operators that it does not know; all of them are named.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        unsupported = unsupported_operators(model)
        if unsupported:
            raise ExportError(f"the graph holds operators that cannot be run in torch: {', '.join(unsupported)}")
        graph, opset = model.graph, model_file.opset_of(model)
        self.constants: dict[str, Tensor] = _constants(graph)
        self.inputs: tuple[str, ...] = tuple(str(value.name) for value in graph.inputs if value.name not in self.constants)
        self.outputs: tuple[str, ...] = tuple(str(value.name) for value in graph.outputs)
        self._steps = [_Step.of(node, opset) for node in graph if not _is_constant(node)]
        self._makers = {name: place for place, step in enumerate(self._steps) for name in step.outputs}
        self._pairs = _pairs(graph, self._makers, self._steps)
        self._types = {str(value.name): torch_type(value.dtype) for value in graph.outputs if value.dtype is not None}
        self._routes: dict[tuple[frozenset[str], tuple[str, ...]], list[_Stop]] = {}

    def forward(self, feeds: Mapping[str, Tensor], wanted: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The values `wanted` (the graph's outputs) from `feeds` by name: inputs, any values between, constants. Only the nodes between them run.

        Raises:
            ExportError: a wanted value does not exist or needs one that is not fed, or a node cannot be run on these shapes.
        """
        names = tuple(self.outputs if wanted is None else wanted)
        key = frozenset(feeds), names
        if key not in self._routes:
            self._routes[key] = self._route(key[0], names)
        values: dict[str, Tensor] = {**self.constants, **feeds}
        for stop in self._routes[key]:
            made = stop.step.run(values)
            values.update(made)
            for name in stop.last_read:
                values.pop(name, None)
        return {name: self._declared(name, values[name]) for name in names}

    def _declared(self, name: str, value: Tensor) -> Tensor:
        """Integers that stand for themselves, where the graph gives them to the outside."""
        wanted = self._types.get(name, value.dtype)
        return value if wanted.is_floating_point or value.dtype == wanted else value.to(wanted)

    def _route(self, fed: frozenset[str], wanted: tuple[str, ...]) -> list[_Stop]:
        """The steps that lead from `fed` to `wanted` in order, each with the values that nobody reads after it."""
        needed: dict[int, _Step] = {}
        waiting = [name for name in wanted if name not in fed]
        while waiting:
            name = waiting.pop()
            if name in fed or name in self.constants:
                continue
            place = self._makers.get(name)
            if place is None:
                known = name in self.inputs
                raise ExportError(f"`{name}` is not fed" if known else f"the graph has no value `{name}`")
            if place not in needed:
                needed[place] = self._step(place, fed)
                waiting += [each for each in needed[place].inputs if each is not None]
        last: dict[str, int] = {}
        for place in sorted(needed):
            read = [name for name in needed[place].inputs if name is not None]
            last.update(dict.fromkeys((*needed[place].outputs, *read), place))
        kept = {*wanted, *self.constants}
        ended: dict[int, list[str]] = {}
        for name, place in last.items():
            if name not in kept:
                ended.setdefault(place, []).append(name)
        return [_Stop(needed[place], tuple(ended.get(place, ()))) for place in sorted(needed)]

    def _step(self, place: int, fed: frozenset[str]) -> _Step:
        """The step at a place; a DQ on a Q goes with it, unless the integers between them are fed."""
        pair = self._pairs.get(place)
        return self._steps[place] if pair is None or self._steps[place].inputs[0] in fed else pair

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TorchGraph:
        """Move the constants too, where the module is moved. Shapes, axes and indices stay where they are read: on the CPU."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.constants = {name: value if value.dtype == torch.int64 else fn(value) for name, value in self.constants.items()}
        return self


class _Step:
    """A node that is ready to run."""

    def __init__(self, call: Call, function: Operator, inputs: list[str | None], outputs: list[str]) -> None:
        self.call = call
        self.function = function
        self.inputs = inputs
        self.outputs = outputs

    @classmethod
    def of(cls, node: Any, opset: int) -> _Step:
        """A node of the graph."""
        inputs = [None if value is None else str(value.name) for value in node.inputs]
        return cls(Call.of(node, opset), OPERATORS[node.op_type], inputs, [str(value.name) for value in node.outputs])

    def run(self, values: Mapping[str, Tensor]) -> Iterable[tuple[str, Tensor]]:
        given = [None if name is None else values[name] for name in self.inputs]
        try:
            made = self.function(self.call, *given)
        except (RuntimeError, IndexError, TypeError, ValueError, AttributeError) as error:
            shapes = ", ".join("none" if value is None else f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}" for value in given)
            raise self.call.error(f"on {shapes}: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}") from error
        return zip(self.outputs, [made] if isinstance(made, Tensor) else made, strict=False)


class _Stop:
    """A step on a route, and the values that are not read after it."""

    def __init__(self, step: _Step, last_read: tuple[str, ...]) -> None:
        self.step = step
        self.last_read = last_read


def _pairs(graph: Any, makers: Mapping[str, int], steps: Sequence[_Step]) -> dict[int, _Step]:
    """For each DQ that reads a Q with the very same scale and zero point, one of each: what runs in their place."""
    found: dict[int, _Step] = {}
    for node in graph:
        before = node.inputs[0].producer() if node.op_type == "DequantizeLinear" and node.inputs[0] is not None else None
        if before is None or before.op_type != "QuantizeLinear" or len(node.inputs) != 3 or list(node.inputs[1:]) != list(before.inputs[1:]):
            continue
        scale = model_file.constant(node.inputs[1])
        if scale is not None and scale.ndim == 0:
            first, place = steps[makers[str(before.outputs[0].name)]], makers[str(node.outputs[0].name)]
            found[place] = _Step(first.call, rounded, first.inputs, steps[place].outputs)
    return found


def _is_constant(node: Any) -> bool:
    return node.op_type == "Constant" and node.domain in ("", "ai.onnx")


def _constants(graph: Any) -> dict[str, Tensor]:
    held = [(name, value.const_value) for name, value in graph.initializers.items()]
    held += [(value.name, ir.convenience.get_const_tensor(value)) for node in graph if _is_constant(node) for value in node.outputs]
    return {str(name): _tensor(str(name), tensor.numpy()) for name, tensor in held if tensor is not None}


def _tensor(name: str, array: Any) -> Tensor:
    try:
        return torch.from_numpy(array.copy())
    except TypeError as error:
        raise ExportError(f"`{name}` holds numbers of the type {array.dtype}, which torch does not have") from error
