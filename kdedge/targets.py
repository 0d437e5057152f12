"""The table of targets: what each kind of artifact is, which runtime opens it, how, and where it belongs.

Recipe, artifact, bundle and catalog share these rows. A new target is one row here (and a dialect file, if it needs a new one).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kdedge.artifact import Precision


@dataclass(frozen=True)
class Target:
    """A row of the table.

    `dialect`: how Q/DQ are written (`exporters/dialects/`); `format`: file format; `runtime`: adapter in `runtimes/`.
    `options`: session options by precision ("" holds those of all). `batch`: the static batch unless the recipe says otherwise, None for dynamic.
    `machines`: kinds of device that it is meant for; on any other the measurement is a `proxy`.
    """

    name: str
    dialect: str
    format: str
    runtime: str
    precisions: tuple[Precision, ...]
    machines: tuple[str, ...]
    options: dict[str, dict[str, Any]] = field(default_factory=dict)
    batch: int | None = 1

    def session_options(self, precision: str) -> dict[str, Any]:
        """The session options that an artifact of this target runs and ships with, before the recipe's own."""
        return {**self.options.get("", {}), **self.options.get(precision, {})}


_ONE_THREAD = {"threads": 1, "spinning": False}

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target(
            name="torch",
            dialect="none",
            format="pt2",
            runtime="torch",
            precisions=("fp32",),
            machines=("x86_64", "aarch64"),
            options={"": {"threads": 1}},
            batch=None,
        ),
        Target(
            name="onnxruntime-x86",
            dialect="onnxruntime-x86",
            format="onnx",
            runtime="onnxruntime",
            precisions=("fp32", "fp16", "int8", "int8-dynamic", "int8-weights", "mixed"),
            machines=("x86_64",),
            # Without VNNI a CPU saturates the products of 8-bit weights unless it is told not to; with it the option does nothing.
            options={
                "": _ONE_THREAD,
                **{precision: {"x64_quant_precision": True} for precision in ("int8", "int8-dynamic", "mixed")},
                "int8-weights": {"unpack_weights": True},
            },
        ),
        Target(
            name="onnxruntime-x86-avx2",  # CPUs without VNNI
            dialect="onnxruntime-x86-avx2",
            format="onnx",
            runtime="onnxruntime",
            precisions=("int8", "mixed"),  # the others are those of onnxruntime-x86
            machines=("x86_64",),
            options={"": _ONE_THREAD},
        ),
        Target(
            name="onnxruntime-arm",
            dialect="onnxruntime-arm",
            format="onnx",
            runtime="onnxruntime",
            precisions=("fp32", "fp16", "int8", "int8-dynamic", "int8-weights", "mixed"),
            machines=("aarch64",),
            # What Arm does anyway; a proxy that is no Arm machine runs the same integer kernels then, more slowly than floats.
            options={
                "": _ONE_THREAD,
                **{precision: {"qdq_int8_allowed": True} for precision in ("int8", "mixed")},
                "int8-weights": {"unpack_weights": True},
            },
        ),
        Target(
            name="qnn-htp",  # grammar and results are checked on ONNX Runtime's CPU kernels; the provider of the phone is a session option
            dialect="qnn-htp",
            format="onnx",
            runtime="onnxruntime",
            precisions=("int8",),
            machines=("qualcomm-htp",),
            options={"": _ONE_THREAD},
        ),
        Target(
            name="phone-xnnpack",
            dialect="phone-xnnpack",
            format="ort",
            runtime="onnxruntime",
            precisions=("fp32", "int8", "int8-dynamic"),
            machines=("aarch64",),
            options={"": _ONE_THREAD},
        ),
        Target(
            # onnxruntime-web 1.30 in Chromium 156, WebAssembly with SIMD on x86-64, one thread, four 3 x 3 convolutions of 64 channels at 56 x 56, in
            # shares of float's time: unsigned activations with signed weights (x86's dialect) 0.25 to 0.5, all of it integers; signed activations
            # 0.5 to 0.8, left in float; the same forced into integers by the session option `qdq_int8_allowed` 3 to 6.
            name="phone-web",
            dialect="onnxruntime-x86",
            format="onnx",
            runtime="onnxruntime",
            precisions=("fp32", "fp16", "int8", "int8-dynamic", "int8-weights", "mixed"),
            machines=("browser",),
            options={"": _ONE_THREAD, "int8-weights": {"unpack_weights": True}},
        ),
        Target(
            name="openvino",
            dialect="openvino",
            format="openvino",
            runtime="openvino",
            precisions=("fp32", "fp16", "int8", "int8-weights", "mixed"),
            machines=("x86_64", "aarch64"),
            # fp32 and int8 promise float32 where they are not integers; fp16 asks for reduced precision and lets the plugin choose which.
            options={
                "": {"threads": 1},
                **{precision: {"inference_precision": "f32"} for precision in ("fp32", "int8", "mixed")},
                # Unasked, the plugin quantizes what packed weights multiply as it runs: faster, and no longer what the file says.
                "int8-weights": {"inference_precision": "f32", "dynamic_quantization": False},
            },
        ),
        Target(
            name="openvino-avx2",  # CPUs without VNNI
            dialect="openvino-avx2",
            format="openvino",
            runtime="openvino",
            precisions=("int8", "mixed"),  # the others are those of openvino
            machines=("x86_64",),
            options={"": {"threads": 1, "inference_precision": "f32"}},
        ),
        Target(
            name="tensorrt",
            dialect="tensorrt",
            format="onnx",
            runtime="tensorrt",
            precisions=("fp32", "fp16", "int8", "int8-weights", "mixed"),
            machines=("cuda",),
            options={"": {"tf32": False, "workspace_mb": 256}},
        ),
    )
}
