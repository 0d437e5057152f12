"""The proof by TensorRT-RTX that an artifact carries, and what it says where there is none."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from kdedge.artifact import Dimension, TensorSpec
from kdedge.errors import ExportError
from kdedge.exporters.tensorrt import check_with_rtx, optimization_profiles

rtx = pytest.importorskip("tensorrt_rtx")


def quantized(path: Path, *, batch: int | str = 1, unsigned: bool = False, int32_bias: bool = False) -> Path:
    """image -> Q -> DQ -> Gemm with int8 weights -> logits."""
    zero = np.asarray(0, np.uint8 if unsigned else np.int8)
    constants: dict[str, npt.NDArray[Any]] = {
        "scale": np.asarray(0.05, np.float32),
        "zero": zero,
        "w_q": np.arange(-32, 32, dtype=np.int8).reshape(8, 8),
        "w_scale": np.linspace(0.01, 0.02, 8, dtype=np.float32),
        "w_zero": np.zeros(8, np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"], name="dequantize"),
        helper.make_node("DequantizeLinear", ["w_q", "w_scale", "w_zero"], ["w"], name="weight", axis=0),
    ]
    if int32_bias:
        constants |= {"b_q": np.arange(8, dtype=np.int32), "b_scale": np.full(8, 0.001, np.float32), "b_zero": np.zeros(8, np.int32)}
        nodes.append(helper.make_node("DequantizeLinear", ["b_q", "b_scale", "b_zero"], ["b"], name="bias", axis=0))
    else:
        constants["b"] = np.linspace(-1, 1, 8, dtype=np.float32)
    nodes.append(helper.make_node("Gemm", ["x", "w", "b"], ["logits"], name="gemm", transB=1))
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 8])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def test_what_the_parser_takes_is_called_checked_with_version_and_device(tmp_path: Path) -> None:
    text = check_with_rtx(quantized(tmp_path / "good.onnx"), {"tf32": False, "workspace_mb": 256})
    assert text == f"parsed and built by tensorrt-rtx {rtx.__version__} for SM86, no precision changed"


def test_a_refused_node_is_an_export_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"bad.onnx: TensorRT's parser refuses it: node `bias` \(DequantizeLinear\): .*Int32"):
        check_with_rtx(quantized(tmp_path / "bad.onnx", int32_bias=True))


def test_a_changed_precision_is_an_export_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"changed the precision that the graph asks for: .*Defaulting to INT8"):
        check_with_rtx(quantized(tmp_path / "u8.onnx", unsigned=True))


def test_dynamic_inputs_are_built_with_the_profiles_of_their_specs(tmp_path: Path) -> None:
    path = quantized(tmp_path / "dynamic.onnx", batch="N")
    inputs = (TensorSpec("image", "float32", (Dimension("N", 1, 4, 8), 8)),)
    profiles = optimization_profiles(inputs)
    assert profiles == {"image": [[1, 8], [4, 8], [8, 8]]}
    assert check_with_rtx(path, {"profiles": profiles}, compute=("SM86", "SM89")).endswith("for SM86, SM89, no precision changed")
    with pytest.raises(ExportError, match=r"dynamic.onnx: input `image` has dynamic dimensions"):
        check_with_rtx(path)


def test_static_inputs_need_no_profile() -> None:
    assert optimization_profiles((TensorSpec("image", "float32", (1, 3, 32, 32)),)) == {}


def test_without_tensorrt_rtx_it_says_not_checked_and_what_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdedge.exporters.tensorrt.importlib.util.find_spec", lambda name: None)
    text = check_with_rtx(tmp_path / "any.onnx")
    assert text.startswith("not checked: ")
    assert "pip install 'kdedge[tensorrt-rtx]'" in text


def answer(monkeypatch: pytest.MonkeyPatch, code: int, stdout: str, stderr: str = "") -> None:
    monkeypatch.setattr("kdedge.exporters.tensorrt.subprocess.run", lambda command, **_: subprocess.CompletedProcess(command, code, stdout, stderr))


def test_a_crash_of_nvidias_library_is_an_export_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, -11, "", "one\ntwo\nthree\nfour")
    with pytest.raises(ExportError, match=r"any.onnx: tensorrt-rtx died with SIGSEGV while parsing or building: two \| three \| four"):
        check_with_rtx(tmp_path / "any.onnx")
    answer(monkeypatch, 1, "")
    with pytest.raises(ExportError, match="ended with code 1 and no result: it printed nothing"):
        check_with_rtx(tmp_path / "any.onnx")


def test_a_hang_is_an_export_error(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="did not finish parsing and building within 0 s"):
        check_with_rtx(quantized(tmp_path / "slow.onnx"), timeout=0.001)


def test_libraries_that_do_not_load_are_not_checked_and_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, 3, 'noise\n{"status": "missing", "reason": "tensorrt_rtx is installed but does not load: libcudart"}')
    assert check_with_rtx(tmp_path / "any.onnx") == "not checked: tensorrt_rtx is installed but does not load: libcudart"


def test_other_warnings_stand_in_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, 0, '{"status": "ok", "reason": "", "version": "1.7.1", "warnings": ["layernorm may overflow"]}')
    assert check_with_rtx(tmp_path / "any.onnx") == (
        "parsed and built by tensorrt-rtx 1.7.1 for SM86, no precision changed; it warned: layernorm may overflow"
    )
