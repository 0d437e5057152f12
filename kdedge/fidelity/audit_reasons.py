"""Why a node ran otherwise than its file asks, as far as the file itself shows it. Each rule is one that was seen in the runtime it is about."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from kdedge.artifact import AskedNode
from kdedge.measured import DeviceIdentity

_FLOATS = ("fp32", "fp16", "bf16")


def explained(node: AskedNode, ran: str, runtime: str, options: Mapping[str, Any], machines: Collection[str]) -> str:
    """The reason in words; "" for a node that was asked in integers and ran in them, or asked in float for no reason on record and ran so."""
    if not ran:
        return ""
    if ran == node.precision:
        return node.kept
    if node.precision == "int8":
        return _RULES.get(runtime, _no_rule)(node, options, machines) or f"{runtime} chose a float kernel and does not say why"
    if node.precision in _FLOATS and ran in _FLOATS:
        return _other_float(node.precision, ran, runtime)
    return f"{runtime} does not say why"


def _onnxruntime(node: AskedNode, options: Mapping[str, Any], machines: Collection[str]) -> str:
    """ONNX Runtime fuses DequantizeLinear, operator and QuantizeLinear into an integer kernel, and a convolution only with all of them."""
    if node.operator == "ConvTranspose":
        return "it has no integer kernel for a transposed convolution"
    if options.get("optimization", "all") in ("disabled", "basic"):
        return f"its option `optimization` is {options['optimization']}, which fuses no integer kernels"
    if node.operator == "Conv" and node.between:
        return f"a {node.between} stands between it and its quantization, and no zero point absorbs it"
    if node.operator == "Conv" and node.result not in ("int8", "uint8"):
        return "its output is not quantized"
    if node.activation == "int8" and not options.get("qdq_int8_allowed") and not {"aarch64", "emulated-aarch64"} & set(machines):
        return "its activations are signed, which this CPU's kernels take only where they can be turned to unsigned"
    return ""


def _tensorrt(node: AskedNode, options: Mapping[str, Any], machines: Collection[str]) -> str:
    if node.activation == "uint8":
        return "its activations are unsigned, and TensorRT computes on signed integers alone"
    return ""


def _no_rule(node: AskedNode, options: Mapping[str, Any], machines: Collection[str]) -> str:
    return ""


_RULES = {"onnxruntime": _onnxruntime, "tensorrt": _tensorrt}


def _other_float(asked: str, ran: str, runtime: str) -> str:
    if runtime == "onnxruntime":
        return f"its CPU kernels have no {asked}: the values are converted before and after"
    if runtime == "openvino":
        return f"the device's choice (option `inference_precision`): it computes in {ran} what is not integer"
    return f"{runtime} chose a kernel in {ran}"


def saturation(dialect: str, precision: str, device: DeviceIdentity) -> str:
    """What an x86 CPU without VNNI does to weights of 8 bits: it adds two products in 16 bits. "" where that does not matter."""
    features = device.fingerprint.get("cpu_features", "")
    if "x86_64" not in device.machines or "vnni" in features or "avx2" not in features or precision not in ("int8", "mixed"):
        return ""
    if dialect == "openvino":
        return "this CPU has no VNNI, and OpenVINO's sums of 8-bit products saturate on it: the target openvino-avx2 is made for such CPUs"
    if dialect == "onnxruntime-x86":
        return "this CPU has no VNNI, and ran slower kernels that do not saturate: the target onnxruntime-x86-avx2 is made for such CPUs"
    return ""
