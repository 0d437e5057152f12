"""Parsing and building with the real TensorRT-RTX, on a machine without a GPU."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdedge.runtimes import tensorrt_build, tensorrt_library
from kdedge.runtimes.errors import NotAvailable, RuntimeFailure
from kdedge.runtimes.tensorrt_build import BuildRefused, BuildSettings, build, check
from kdedge.runtimes.tensorrt_library import load_module, make_logger

rtx = pytest.importorskip("tensorrt_rtx")

DYNAMIC = {"profiles": {"image": [[1, 3, 4, 4], [2, 3, 4, 4], [4, 3, 4, 4]]}}


def settings(**options: Any) -> BuildSettings:
    return BuildSettings.from_options(options)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_float_graphs_build(graphs: Any, dtype: str) -> None:
    built = build(rtx, str(graphs.float(dtype)), settings(compute=["SM86"]))
    assert len(built.plan) > 10_000
    assert built.warnings == ()
    assert built.timing_cache is None  # TensorRT-RTX has none


def test_symmetric_qdq_with_float_bias_builds(graphs: Any) -> None:
    assert len(build(rtx, str(graphs.quantized()), settings(compute=["SM86", "SM89"])).plan) > 10_000


def test_a_bias_in_int32_is_refused_and_the_node_is_named(graphs: Any) -> None:
    with pytest.raises(BuildRefused, match=r"node `dequantize_bias` \(DequantizeLinear\): .*input has type Int32 but must have type") as caught:
        build(rtx, str(graphs.quantized(bias="int32")), settings())
    assert [problem.node for problem in caught.value.problems] == ["dequantize_bias"]


def test_an_asymmetric_zero_point_is_refused_and_the_node_is_named(graphs: Any) -> None:
    with pytest.raises(BuildRefused, match=r"node `quantize_image` \(QuantizeLinear\): Non-zero zero point is not supported"):
        build(rtx, str(graphs.quantized(zero=3)), settings())


def test_a_uint8_zero_point_builds_as_int8_and_therefore_fails(graphs: Any) -> None:
    with pytest.raises(BuildRefused, match=r"changed the precision that the graph asks for: .*Defaulting to INT8 instead") as caught:
        build(rtx, str(graphs.quantized(unsigned=True)), settings())
    assert len(caught.value.changed) == 1
    assert caught.value.problems == ()


def test_dynamic_shapes_need_a_profile_that_fits(graphs: Any) -> None:
    path = str(graphs.float(batch="N"))
    assert build(rtx, path, settings(compute=["SM86"], **DYNAMIC)).plan
    with pytest.raises(BuildRefused, match=r"float32-N.onnx: input `image` has dynamic dimensions \[\?, 3, 4, 4\] and no optimization profile"):
        build(rtx, path, settings())
    with pytest.raises(BuildRefused, match=r"names `picture`, which is no input of the graph \(inputs: image\)"):
        build(rtx, path, settings(profiles={"picture": [[1], [1], [1]]}))
    with pytest.raises(BuildRefused, match="does not fit the graph's"):
        build(rtx, path, settings(profiles={"image": [[1, 3, 4, 5]] * 3}))
    with pytest.raises(BuildRefused, match="does not fit the graph's"):
        build(rtx, path, settings(profiles={"image": [[1, 3, 4]] * 3}))


def test_a_profile_for_a_static_input_is_allowed_where_it_says_the_same(graphs: Any) -> None:
    assert build(rtx, str(graphs.float()), settings(compute=["SM86"], profiles={"image": [[1, 3, 4, 4]] * 3})).plan


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"workspace_mb": 0}, "at least 1"),
        ({"workspace_mb": "256"}, "must be int"),
        ({"optimization_level": 9}, "allowed: 0, 1, 2, 3, 4, 5"),
        ({"profiles": {"image": [[1], [1]]}}, "three shapes"),
        ({"profiles": {"image": 3}}, "three shapes"),
        ({"profiles": {"image": [[4], [2], [1]]}}, "must grow"),
        ({"tf23": True}, "did you mean `tf32`"),
        ({"module": "tensorflow"}, "allowed: tensorrt, tensorrt_rtx"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RuntimeFailure, match=complaint):
        BuildSettings.from_options(options)


def test_tf32_is_off_unless_it_is_asked_for(graphs: Any) -> None:
    logger = make_logger(rtx)
    builder = rtx.Builder(logger)
    network = builder.create_network(0)
    tensorrt_build.parse(rtx, str(graphs.float()), network, logger)
    for tf32, wanted in ((False, False), (True, True)):
        config = tensorrt_build.configure(rtx, builder, network, settings(tf32=tf32, workspace_mb=64, optimization_level=1), logger)
        assert config.get_flag(rtx.BuilderFlag.TF32) is wanted
        assert config.get_memory_pool_limit(rtx.MemoryPoolType.WORKSPACE) == 64 << 20
        assert config.profiling_verbosity == rtx.ProfilingVerbosity.DETAILED
        assert config.builder_optimization_level == 1


def test_compute_capabilities_that_it_does_not_know_are_refused(graphs: Any) -> None:
    with pytest.raises(BuildRefused, match=r"does not build for SM87 \(allowed: .*SM86"):
        build(rtx, str(graphs.float()), settings(compute=["SM87"]))


def test_a_real_tensorrt_does_not_build_ahead_of_time(graphs: Any) -> None:
    module = SimpleNamespace(__name__="tensorrt", __version__="10.3.0")
    with pytest.raises(BuildRefused, match="only tensorrt_rtx builds ahead of time"):
        tensorrt_build._choose_compute(module, SimpleNamespace(), ["SM86"])


def test_where_strong_typing_is_no_flag_any_more_none_is_set() -> None:
    assert tensorrt_build._network_flags(SimpleNamespace(NetworkDefinitionCreationFlag=SimpleNamespace())) == 0
    assert tensorrt_build._network_flags(rtx) == 1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def test_the_lean_runtime_is_told_apart(graphs: Any) -> None:
    lean = ModuleType("tensorrt")
    lean.__version__ = "10.3.0"  # type: ignore[attr-defined]
    lean.ILogger = object  # type: ignore[attr-defined]
    with pytest.raises(NotAvailable, match="lean or dispatch runtime"):
        build(lean, str(graphs.float()), settings(), logger=SimpleNamespace(lines=[]))


def test_a_builder_that_gives_up_says_why(tmp_path: Path) -> None:
    """A strongly typed graph that adds float16 to float32 parses as ONNX only where the file says so; this one lies about its types."""
    nodes = [helper.make_node("Add", ["image", "half"], ["logits"], name="add0")]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(np.ones((1, 4), np.float16), "half")],
    )
    path = tmp_path / "mixed.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    with pytest.raises(BuildRefused, match=r"mixed.onnx: TensorRT.*(Half|Float|type)"):
        build(rtx, str(path), settings(compute=["SM86"]))


@pytest.mark.parametrize("content", [b"", b"this is no ONNX file", None])
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BuildRefused, match=r"model.onnx: (there is no such file|TensorRT)"):
        build(rtx, str(path), settings())


def test_tensorrt_8_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("tensorrt")
    old.__version__ = "8.6.2"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(NotAvailable, match=r"^tensorrt 8.6.2 is too old: kdedge needs 10.0 or newer; JetPack 5 .* not supported"):
        load_module()
    old.__version__ = "10.3.0"  # type: ignore[attr-defined]
    assert load_module() is old
    old.__version__ = "11.4.1"
    assert load_module("tensorrt") is old


def test_a_module_that_does_not_load_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(NotAvailable, match=r"tensorrt is installed but does not load: libnvinfer.so.10"):
        load_module("tensorrt")
    assert load_module() is rtx  # the next one is tried


def test_what_is_not_installed_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(NotAvailable, match="pip install tensorrt-rtx"):
        load_module()
    result = check("model.onnx", {})
    assert result.status == "missing"


@pytest.mark.parametrize(
    "warning",
    [
        "TensorRT supports QuantizeLinear/DequantizeLinear with UINT8 zero_point only on DLA (version >= 3.16). Defaulting to INT8 instead.",
        "For zero_point with type int32 TensorRT will use INT8 instead.",
        "TopK (x) doesn't support INT64 for inputs, will cast to INT32.",
        "Your ONNX model has been generated with INT64 weights. Attempting to cast down to INT32.",
        "Weight w is being converted to INT32.",
        "Casting BatchNormalization parameters to the same type as input for StronglyTyped networks.",
        "One or more weights outside the range of FLOAT was clamped",
        "Detected finite FP32 values which would overflow in FP16 and converted them to the closest finite FP16 value.",
        "group count (3) is not a power of two, which is unsupported in INT8. Building in activation precision.",
    ],
)
def test_warnings_that_numbers_were_changed_are_known(warning: str) -> None:
    assert tensorrt_build._CHANGED.search(warning)


@pytest.mark.parametrize(
    "warning",
    [
        "Local timing cache in use. Profiling results in this builder pass will not be stored.",
        "Running layernorm after self-attention with FP16 Reduce or Pow may cause overflow.",
        "In input (x), minShape is not the same as maxShape.",
    ],
)
def test_other_warnings_do_not_fail_a_build(warning: str) -> None:
    assert not tensorrt_build._CHANGED.search(warning)


def test_the_logger_keeps_each_text_once_and_no_source_addresses() -> None:
    logger = make_logger(rtx)
    for _ in range(2):
        logger.log("Severity.WARNING", "onnxOpImporters.cpp:1980: UINT8 is not here")
    logger.log("Severity.VERBOSE", "not kept")
    logger.log("Severity.ERROR", "[checkMacros.cpp::catchCudaError::250] Cuda Runtime (cudaError 35: driver)")
    assert tensorrt_library.said(logger, "WARNING") == ["UINT8 is not here"]
    assert tensorrt_library.said(logger, "ERROR", "VERBOSE") == []


def test_a_refused_graph_leaves_no_builder_to_the_garbage_collector(graphs: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collection inside TensorRT's logger that destroys an old builder waits for TensorRT's own lock for ever."""
    made: list[Any] = []
    dropped: list[int] = []

    real: Any = rtx.Builder

    class Builder(real):  # type: ignore[misc]
        def __init__(self, logger: Any) -> None:
            super().__init__(logger)
            made.append(weakref.ref(self, lambda _: dropped.append(gc.isenabled())))

    module = SimpleNamespace(**{name: getattr(rtx, name) for name in dir(rtx) if not name.startswith("_")} | {"Builder": Builder})
    module.__name__, module.__version__ = "tensorrt_rtx", rtx.__version__
    gc.disable()
    try:
        with pytest.raises(BuildRefused) as caught:
            build(module, str(graphs.quantized(bias="int32")), settings())
        assert [reference() for reference in made] == [None], "it is gone although the exception is still held"
        assert caught.value.problems
    finally:
        gc.enable()
    with pytest.raises(BuildRefused):
        build(module, str(graphs.quantized(bias="int32")), settings())
    assert dropped == [False, False]
    assert gc.isenabled()


def run_check(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run([sys.executable, "-m", "kdedge.runtimes.tensorrt_build", "check", *arguments], capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout.strip().splitlines()[-1]) if done.stdout else {"stderr": done.stderr}


def test_the_check_is_a_program_of_its_own(graphs: Any) -> None:
    code, result = run_check(str(graphs.quantized()), "--compute", "SM86")
    assert (code, result["status"], result["module"], result["compute"]) == (0, "ok", "tensorrt_rtx", ["SM86"])
    assert result["engine_bytes"] > 10_000
    code, result = run_check(str(graphs.quantized(bias="int32")))
    assert (code, result["status"], result["problems"][0]["node"]) == (1, "refused", "dequantize_bias")


def test_the_check_reads_options_and_refuses_what_is_none(graphs: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert tensorrt_build.main(["check", str(graphs.float(batch="N")), "--options", json.dumps(DYNAMIC), "--compute", "SM86"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "ok"
    with pytest.raises(SystemExit) as caught:
        tensorrt_build.main(["check", "model.onnx", "--options", "[1]"])
    assert caught.value.code == 2
    assert "not a JSON object" in capsys.readouterr().err
