"""What TensorRT's engine inspector says, in one form: which kernel ran each layer, and on numbers of which type.

The inspector's JSON has two schemas. TensorRT 10 lists `Bindings` as names and gives each tensor of a layer one text `Format/Datatype`
("Thirty-two wide channel vectorized row major Int8 format"); TensorRT 11 lists `I/O Tensors` as objects and gives a layer's tensors
`Format` and `Datatype` apart (NVIDIA, "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x", documentation of 11.0 and 11.3).
Neither says in which type a kernel computes, so that is read from its inputs: see `layer_dtype`.
Python 3.8, standard library only.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, List, Mapping, Optional, Tuple

from .errors import RuntimeFailure
from .executed import BF16, FP16, FP32, INT8, OTHER
from .session import ExecutedLayer

# Text of TensorRT -> the name that every adapter uses. The order matters: "BF16" holds "F16". 8- and 4-bit floats and wide integers are
# known so that they are not taken for something else; they have no name of their own there.
_TYPES = (
    (r"bf16|bfloat16", BF16),
    (r"fp8|e4m3|e5m2|fp4|e2m1|int4\b|int64|int32|\bbool\b", OTHER),
    (r"fp16|half|float16", FP16),
    (r"fp32|float32|\bfloat\b", FP32),
    (r"int8", INT8),
)
# Among the inputs of one kernel the narrowest type is the one that its multiplications see: an int8 convolution also reads a float bias
# and the float shortcut of a residual.
_NARROWEST_FIRST = (INT8, FP16, BF16, FP32, OTHER)
# Kernels that move, convert or index data, or work on shapes: they compute no activation, whatever the type of what they carry.
_NO_COMPUTATION = re.compile(
    r"^(reformat|noop|constant|shuffle|identity|cast|quantize|dequantize|slice|gather|concat\w*|shape\w*|devicetoshapehost|signal|wait)$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Inspection:
    """An engine as the inspector describes it. `schema`: 10 or 11; `detailed` is False where the engine was built with layer names only."""

    schema: int
    detailed: bool
    layers: Tuple[ExecutedLayer, ...]
    tensors: Tuple[str, ...]


def read_inspection(text: str, provider: str = "tensorrt") -> Inspection:
    """Read the JSON of `get_engine_information`.

    Raises:
        RuntimeFailure: it is not JSON, or has neither of the two schemas.
    """
    try:
        information = json.loads(text)
    except ValueError as error:
        raise RuntimeFailure("tensorrt: the engine inspector's answer is not JSON: %s" % error) from error
    layers = information.get("Layers") if isinstance(information, dict) else None
    if not isinstance(layers, list):
        raise RuntimeFailure("tensorrt: the engine inspector's answer has no list `Layers`; known are the schemas of TensorRT 10 and 11")
    if "I/O Tensors" in information:
        schema, tensors = 11, tuple(str(tensor.get("Name", "")) for tensor in information["I/O Tensors"])
    elif "Bindings" in information:
        schema, tensors = 10, tuple(str(name) for name in information["Bindings"])
    else:
        raise RuntimeFailure("tensorrt: the engine inspector's answer has neither `Bindings` (TensorRT 10) nor `I/O Tensors` (TensorRT 11)")
    detailed = all(isinstance(layer, dict) for layer in layers)
    read = [_layer(layer, provider) if isinstance(layer, dict) else ExecutedLayer(str(layer), "unknown", OTHER, provider) for layer in layers]
    return Inspection(schema, detailed, tuple(read), tensors)


def executed_layers(text: str, provider: str = "tensorrt") -> List[ExecutedLayer]:
    """The layers alone, as a session reports them."""
    return list(read_inspection(text, provider).layers)


def layer_dtype(layer: Mapping[str, Any]) -> str:
    """The type that a layer computes in: the narrowest of its inputs and weights. `other` for a layer that only moves or converts data, and
    where TensorRT does not say (it withholds the types of dynamic shapes until a context has been given real ones)."""
    if _NO_COMPUTATION.match(str(layer.get("LayerType", ""))):
        return OTHER
    types = [tensor_dtype(tensor) for tensor in layer.get("Inputs", ())]
    weights = layer.get("Weights")
    if isinstance(weights, dict):
        types.append(_type_in(str(weights.get("Type", ""))))
    return min((name for name in types if name is not None), key=_NARROWEST_FIRST.index, default=OTHER)


def tensor_dtype(tensor: Any) -> Optional[str]:
    """The type of one tensor of a layer, in either schema; None where it is not said."""
    if not isinstance(tensor, dict):
        return None
    for key in ("Datatype", "DataType", "Format/Datatype", "Format"):
        found = _type_in(str(tensor.get(key, "")))
        if found is not None:
            return found
    return None


def _layer(layer: Mapping[str, Any], provider: str) -> ExecutedLayer:
    # LayerType names the engine's kind of kernel (CaskConvolution, kgen), ParameterType what it computes (Convolution), where both are given.
    operator = str(layer.get("ParameterType") or layer.get("LayerType") or "unknown")
    return ExecutedLayer(str(layer.get("Name", "unnamed")), operator, layer_dtype(layer), provider, layer_sources(layer))


def layer_sources(layer: Mapping[str, Any]) -> Tuple[str, ...]:
    """The nodes of the ONNX file in a layer: by its metadata ("[ONNX Layer: NAME]", parted by a record separator) where the parser left some, else
    by its name, in which TensorRT joins what it fused with " + "."""
    marked = re.findall(r"\[ONNX Layer: ([^\]]*)\]", str(layer.get("Metadata", "")))
    return tuple(dict.fromkeys(marked or (part.strip() for part in str(layer.get("Name", "")).split(" + "))))


def _type_in(text: str) -> Optional[str]:
    for pattern, name in _TYPES:
        if re.search(pattern, text, re.IGNORECASE):
            return name
    return None
