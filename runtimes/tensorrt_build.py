"""ONNX in, serialized TensorRT engine out. One code path for TensorRT 10, 11 and TensorRT-RTX: what differs is probed, never guessed from a version.

Engines are built strongly typed from explicit Q/DQ: every precision stands in the graph, the builder may not change one. Parsing and building
with TensorRT-RTX work on a machine without a GPU, which makes the check that every exported artifact has to pass:

    python -m kdedge.runtimes.tensorrt_build check MODEL.onnx [--compute SM86,SM89] [--options '{"profiles": ...}']

It prints one JSON object last on standard output and exits with 0 (parsed and built), 1 (refused) or 3 (no TensorRT of that name here).
Python 3.8, standard library only; TensorRT is imported when it is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from .errors import NotAvailable, RuntimeFailure
from .options import Option, read_options
from .parent import die_with_parent
from .tensorrt_library import MODULES, collection_paused, load_module, make_logger, said

_MEBIBYTE = 1 << 20

OPTIONS = {
    "profiles": Option(dict, "{input: [minimum, usual, largest shape]} for inputs with dynamic dimensions", {}),
    "workspace_mb": Option(int, "most device memory that a kernel may use as scratch space, in MiB", 256, minimum=1),
    "tf32": Option(bool, "let float32 kernels round to TF32, which keeps 10 bits of mantissa", False),
    "optimization_level": Option(int, "how long the builder searches", None, allowed=tuple(range(6))),
    "compute": Option(list, "compute capabilities to build for ahead of time, such as SM86; tensorrt_rtx only", []),
    "device": Option(int, "number of the CUDA device", 0, minimum=0),
    "module": Option(str, "which of NVIDIA's modules; the first that is installed when absent", None, allowed=MODULES),
    "engine_cache": Option(str, "folder of built engines; KDEDGE_ENGINE_CACHE or the user's cache folder when absent", None),
}

# Warnings of the parser and the builder which say that numbers are no longer those of the graph. Collected from the message texts of
# TensorRT 10 and TensorRT-RTX 1.7; each of them has one line here.
_CHANGED = re.compile(
    r"defaulting to (u?int|fp|bf|float)"  # "... UINT8 zero_point only on DLA. Defaulting to INT8 instead"
    r"|will use int8 instead"  # "For zero_point with type int32 TensorRT will use INT8 instead"
    r"|(will|attempting to) cast( down)? to"  # "doesn't support INT64 for inputs, will cast to INT32"
    r"|converted? (them )?to (int32|the closest|the fp16|the bf16|corresponding)|being converted to"
    r"|casting \w+ parameters"  # "Casting BatchNormalization parameters to the same type as input"
    r"|clamp(ed|ing)"  # "One or more weights outside the range of ... was clamped"
    r"|building in activation precision",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class BuildSettings:
    """What an engine is built with, besides the graph; all of it is part of the engine's key.

    `profiles`: input name -> (minimum, usual, largest shape), needed for each input that has a dynamic dimension. `compute`: names of compute
    capabilities such as SM86 to build for ahead of time (TensorRT-RTX only; others build for the device that is there).
    """

    workspace_mb: int = 256
    tf32: bool = False
    optimization_level: Optional[int] = None
    profiles: Dict[str, Tuple[Tuple[int, ...], Tuple[int, ...], Tuple[int, ...]]] = field(default_factory=dict)
    compute: Tuple[str, ...] = ()

    @staticmethod
    def from_options(options: Mapping[str, Any]) -> "BuildSettings":
        """The build's part of a session's options.

        Raises:
            RuntimeFailure: an unknown option, or a value that makes no sense.
        """
        values = read_options("tensorrt", options, OPTIONS)
        return BuildSettings(
            workspace_mb=values["workspace_mb"],
            tf32=values["tf32"],
            optimization_level=values["optimization_level"],
            profiles={name: _profile(name, shapes) for name, shapes in sorted(values["profiles"].items())},
            compute=tuple(values["compute"]),
        )


@dataclass(frozen=True)
class NodeProblem:
    """Why the parser refuses one node."""

    node: str
    operator: str
    reason: str

    def __str__(self) -> str:
        if not self.node and not self.operator:
            return self.reason
        return "node `%s` (%s): %s" % (self.node or "unnamed", self.operator or "operator unknown", self.reason)


@dataclass(frozen=True)
class Built:
    """A serialized engine (`plan`), the warnings that came on the way, the timing cache to keep (or None), and how long it took."""

    plan: bytes
    warnings: Tuple[str, ...]
    timing_cache: Optional[bytes]
    seconds: float


class BuildRefused(RuntimeFailure):
    """The graph cannot become an engine: `problems` name the nodes that the parser refused, `changed` the warnings about altered numbers."""

    def __init__(self, message: str, problems: Sequence[NodeProblem] = (), changed: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)
        self.changed = tuple(changed)


# ---- parsing and building --------------------------------------------------------------------------------------------------


def build(trt: Any, onnx_path: str, settings: BuildSettings, timing_cache: Optional[bytes] = None, logger: Any = None) -> Built:
    """Parse an ONNX file and build its engine.

    Raises:
        BuildRefused: a node that the parser does not take, an input without a profile, a builder that gives up, or numbers that were changed.
        NotAvailable: this TensorRT has no builder.
    """
    if not hasattr(trt, "Builder") or not hasattr(trt, "OnnxParser"):
        raise NotAvailable(
            "%s %s has no builder or no ONNX parser: it is the lean or dispatch runtime; install the full one" % (trt.__name__, trt.__version__)
        )
    with collection_paused():
        try:
            return _build(trt, onnx_path, settings, timing_cache, logger or make_logger(trt))
        except BuildRefused as error:
            # A new exception: the traceback of this one would keep the builder alive until some later garbage collection.
            refused = BuildRefused("%s: %s" % (os.path.basename(onnx_path), error), error.problems, error.changed)
    raise refused


def _build(trt: Any, onnx_path: str, settings: BuildSettings, timing_cache: Optional[bytes], logger: Any) -> Built:
    start = time.perf_counter()
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parse(trt, onnx_path, network, logger)
    config = configure(trt, builder, network, settings, logger)
    cache = _use_timing_cache(trt, config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildRefused("TensorRT built no engine: %s" % "; ".join(said(logger, "INTERNAL_ERROR", "ERROR")))
    warnings = said(logger, "WARNING")
    changed = [text for text in warnings if _CHANGED.search(text)]
    if changed:
        raise BuildRefused("TensorRT changed the precision that the graph asks for: %s" % "; ".join(changed), changed=changed)
    kept = bytes(config.get_timing_cache().serialize()) if cache else None
    return Built(bytes(plan), tuple(warnings), kept, time.perf_counter() - start)


def parse(trt: Any, onnx_path: str, network: Any, logger: Any) -> None:
    """Fill a network from an ONNX file (weights in side files are found next to it).

    Raises:
        BuildRefused: the file cannot be read or a node is refused; every refused node is named.
    """
    if not os.path.isfile(onnx_path):
        raise BuildRefused("there is no such file")
    parser = trt.OnnxParser(network, logger)
    if parser.parse_from_file(os.fspath(onnx_path)):
        return
    problems = [_problem(parser.get_error(index)) for index in range(parser.num_errors)]
    changed = [text for text in said(logger, "WARNING") if _CHANGED.search(text)]
    heard = [str(problem) for problem in problems] or said(logger, "INTERNAL_ERROR", "ERROR") or ["the parser gave no reason; is it an ONNX file?"]
    raise BuildRefused("TensorRT's parser refuses it: %s" % "; ".join(heard + changed), problems, changed)


def configure(trt: Any, builder: Any, network: Any, settings: BuildSettings, logger: Any) -> Any:
    """The builder's configuration: workspace limit, TF32 as asked, layer details for the inspector, shapes, compute capabilities.

    Raises:
        BuildRefused: profiles that do not fit the network's inputs, or a compute capability that this TensorRT does not know.
    """
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mb * _MEBIBYTE)
    if settings.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:  # on by default in every TensorRT, and then "fp32" keeps 10 bits of mantissa
        config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if settings.optimization_level is not None:
        config.builder_optimization_level = settings.optimization_level
    _add_profile(builder, network, config, settings, logger)
    _choose_compute(trt, config, settings.compute)
    return config


def _network_flags(trt: Any) -> int:
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if strongly_typed is None else 1 << int(strongly_typed)  # where it is gone, every network is strongly typed


def _add_profile(builder: Any, network: Any, config: Any, settings: BuildSettings, logger: Any) -> None:
    inputs = {tensor.name: tuple(tensor.shape) for tensor in (network.get_input(index) for index in range(network.num_inputs))}
    unknown = sorted(set(settings.profiles) - set(inputs))
    if unknown:
        raise BuildRefused(
            "the optimization profile names `%s`, which is no input of the graph (inputs: %s)" % (unknown[0], ", ".join(sorted(inputs)))
        )
    dynamic = {name: shape for name, shape in inputs.items() if -1 in shape}
    missing = sorted(set(dynamic) - set(settings.profiles))
    if missing:
        shape = ", ".join("?" if size == -1 else str(size) for size in dynamic[missing[0]])
        raise BuildRefused(
            "input `%s` has dynamic dimensions [%s] and no optimization profile; set the option profiles: {%s: [minimum, usual, largest shape]}"
            % (missing[0], shape, missing[0])
        )
    for name, shapes in settings.profiles.items():
        if any(len(shape) != len(inputs[name]) for shape in shapes) or any(
            wanted not in (-1, size) for shape in shapes for wanted, size in zip(inputs[name], shape)
        ):
            raise BuildRefused("the optimization profile of `%s` is %s, which does not fit the graph's %s" % (name, list(shapes), list(inputs[name])))
    if not dynamic:
        return
    profile = builder.create_optimization_profile()
    for name in dynamic:
        profile.set_shape(name, *settings.profiles[name])
    if config.add_optimization_profile(profile) < 0:
        raise BuildRefused("TensorRT refuses the optimization profile %s: %s" % (settings.profiles, "; ".join(said(logger, "ERROR"))))


def _choose_compute(trt: Any, config: Any, names: Sequence[str]) -> None:
    if not names:
        return
    if not hasattr(config, "num_compute_capabilities"):
        raise BuildRefused(
            "%s builds for the device that it runs on; only tensorrt_rtx builds ahead of time (asked: %s)" % (trt.__name__, ", ".join(names))
        )
    known = [name for name in trt.ComputeCapability.__members__ if name.startswith("SM")]
    for name in names:
        if name not in known:
            raise BuildRefused("tensorrt_rtx %s does not build for %s (allowed: %s)" % (trt.__version__, name, ", ".join(known)))
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(trt.ComputeCapability.__members__[name], index)


def _use_timing_cache(trt: Any, config: Any, content: Optional[bytes]) -> bool:
    if trt.__name__ == "tensorrt_rtx":  # its timing cache is a deprecated no-op since 1.2
        return False
    cache = config.create_timing_cache(content or b"")
    return bool(cache is not None and config.set_timing_cache(cache, False))


def _problem(error: Any) -> NodeProblem:
    lines = [line.strip() for line in str(error.desc()).splitlines()]
    reason = " ".join(line for line in lines if line and "cudaError 35" not in line and not line.startswith("Invalid Node"))
    reason = re.sub(r"^Assertion failed: \S+: ", "", reason)
    reason = re.sub(r"\. In \w+ at \S+:\d+\)$", ")", reason)
    return NodeProblem(str(error.node_name()), str(error.node_operator()), reason or str(error.desc()))


def _profile(name: str, shapes: Any) -> Tuple[Tuple[int, ...], Tuple[int, ...], Tuple[int, ...]]:
    try:
        minimum, usual, largest = (tuple(int(size) for size in shape) for shape in shapes)
    except (TypeError, ValueError) as error:
        raise RuntimeFailure("tensorrt: option profiles: `%s` is %r; it must be three shapes: minimum, usual, largest" % (name, shapes)) from error
    if not len(minimum) == len(usual) == len(largest) or not all(0 < a <= b <= c for a, b, c in zip(minimum, usual, largest)):
        raise RuntimeFailure("tensorrt: option profiles: `%s` is %r; sizes must grow from minimum to usual to largest" % (name, shapes))
    return minimum, usual, largest


# ---- the check -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CheckResult:
    """What the check found. `status`: ok | refused | missing; `reason` is one sentence where it is not ok."""

    status: str
    reason: str = ""
    module: str = ""
    version: str = ""
    compute: Tuple[str, ...] = ()
    problems: Tuple[NodeProblem, ...] = ()
    changed: Tuple[str, ...] = ()
    warnings: Tuple[str, ...] = ()
    engine_bytes: int = 0
    seconds: float = 0.0


def check(onnx_path: str, options: Mapping[str, Any], module: str = "tensorrt_rtx") -> CheckResult:
    """Parse and build, and say what came of it; never raises for a bad graph or a missing TensorRT."""
    try:
        trt = load_module(module)
    except NotAvailable as error:
        return CheckResult("missing", str(error), module)
    compute = tuple(options.get("compute", ()))
    try:
        built = build(trt, onnx_path, BuildSettings.from_options(options))
    except RuntimeFailure as error:
        problems, changed = (error.problems, error.changed) if isinstance(error, BuildRefused) else ((), ())
        return CheckResult("refused", str(error), module, trt.__version__, compute, problems, changed)
    return CheckResult("ok", "", module, trt.__version__, compute, (), (), built.warnings, len(built.plan), built.seconds)


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """The command line of the check."""
    die_with_parent()
    parser = argparse.ArgumentParser(prog="python -m kdedge.runtimes.tensorrt_build", description="Parse and build an ONNX file with TensorRT.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("check", help="parse and build; fail on a refused node and on a changed precision")
    command.add_argument("model", help="the ONNX file")
    command.add_argument("--module", default="tensorrt_rtx", choices=MODULES)
    command.add_argument("--compute", default="", help="compute capabilities to build for, such as SM86,SM89 (tensorrt_rtx only)")
    command.add_argument("--options", default="{}", help="session options as JSON, such as profiles")
    given = parser.parse_args(arguments)
    try:
        options = dict(json.loads(given.options))
    except (ValueError, TypeError) as error:
        parser.error("--options is not a JSON object: %s" % error)
    if given.compute:
        options["compute"] = given.compute.split(",")
    result = check(given.model, options, given.module)
    print(json.dumps(asdict(result), sort_keys=True), flush=True)
    return {"ok": 0, "refused": 1, "missing": 3}[result.status]


if __name__ == "__main__":
    _code = main()
    # Without the interpreter's own end: what is said counts, not how NVIDIA's library takes itself apart.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_code)
