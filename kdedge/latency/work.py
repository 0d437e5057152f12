"""What one call of a graph has to do: multiply-accumulates layer by layer, and bytes that come and go. Counted in `kdedge.exporters.work`."""

from __future__ import annotations

from dataclasses import dataclass

#: Bytes of a value by the precision that it is computed in.
BYTES = {"int8": 1, "fp16": 2, "bf16": 2, "fp32": 4}


@dataclass(frozen=True)
class Layer:
    """A node that multiplies.

    `precision`: what the file asks for (int8, fp16, bf16, fp32; "" where it is not known); `macs`: None where they are not counted. `kernel`: its
    sizes if it is a convolution with stride and dilation 1, () if it is anything else, None where that is not known. `depthwise`: every channel
    has a kernel of its own. `sparse`: of any four weights that are summed, two at most are not zero. `weights` and `stored_bytes`: how many the
    file holds of them and in how many bytes; 0 for a layer whose weights another one has counted. `values`: elements of its input and its output.
    `unpadded`: the share of a convolution's multiply-accumulates that fall on no padding, which a runtime may leave out.
    """

    name: str
    operator: str
    precision: str
    macs: int | None
    kernel: tuple[int, ...] | None = ()
    depthwise: bool = False
    sparse: bool = False
    weights: int = 0
    stored_bytes: int = 0
    values: int = 0
    unpadded: float = 1.0


@dataclass(frozen=True)
class Work:
    """One call with the batch that it is meant for. `input_bytes`, `output_bytes`: of the graph's own inputs and outputs."""

    layers: tuple[Layer, ...]
    input_bytes: int
    output_bytes: int

    @property
    def macs(self) -> int:
        """Of all layers that are counted."""
        return sum(layer.macs or 0 for layer in self.layers)

    @property
    def uncounted(self) -> tuple[str, ...]:
        """Names of layers that multiply and are not counted."""
        return tuple(layer.name for layer in self.layers if layer.macs is None)
