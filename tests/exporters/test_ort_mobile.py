"""What a phone opens: a file in ORT format that repeats, the operators that it needs, and the proof that this file is what is validated."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_text import graph
from small_graphs import residual

from kdedge.errors import ExportError
from kdedge.exporters.dialects import DIALECTS
from kdedge.exporters.dynamic import quantize_dynamically
from kdedge.exporters.equivalence import run
from kdedge.exporters.model_file import load_model, save_model
from kdedge.exporters.ort_bytes import in_order
from kdedge.exporters.ort_mobile import OPERATORS_FILE, write_ort
from kdedge.exporters.quantize.calibrate import observe
from kdedge.exporters.quantize.lower import lower
from kdedge.exporters.quantize.ranges import write_table
from kdedge.recipe import QuantizeSection
from kdedge.runtimes.onnxruntime import open_session

IMAGES = np.random.default_rng(0).random((8, 3, 16, 16), dtype=np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """float.onnx, int8.onnx (signed activations, as phones take them) and dynamic.onnx."""
    made = tmp_path_factory.mktemp("graphs")
    residual(made / "float.onnx")
    write_table(observe(made / "float.onnx", [{"image": IMAGES}], QuantizeSection()), made / "ranges.json")
    from kdedge.artifact import ImportPath

    lower(made / "float.onnx", made / "ranges.json", ImportPath(DIALECTS["phone-xnnpack"]).load(), made / "int8.onnx")
    weights = {name: np.random.default_rng(len(name)).standard_normal((16, 16)).astype(np.float32) for name in ("w", "w2")}
    save_model(
        quantize_dynamically(graph("(float[b, 16] x) => (float[b, 16] y) { h = MatMul(x, w) r = Relu(h) y = MatMul(r, w2) }", **weights)).model,
        made / "dynamic.onnx",
    )
    return made


def converted(folder: Path, name: str, tmp_path: Path) -> Path:
    return write_ort(folder / f"{name}.onnx", tmp_path / "model.ort")[0]


@pytest.mark.parametrize("name", ["float", "int8", "dynamic"])
def test_a_converted_file_has_the_same_bytes_in_another_folder_and_another_process(folder: Path, tmp_path: Path, name: str) -> None:
    first = [path.read_bytes() for path in write_ort(folder / f"{name}.onnx", tmp_path / "model.ort")]
    elsewhere = tmp_path / "a folder elsewhere"
    elsewhere.mkdir()
    shutil.copy(folder / f"{name}.onnx", elsewhere / "other.onnx")
    program = "import sys; from pathlib import Path; from kdedge.exporters.ort_mobile import write_ort; write_ort(*map(Path, sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", program, str(elsewhere / "other.onnx"), str(elsewhere / "model.ort")], check=True, timeout=120)
    assert [(elsewhere / file).read_bytes() for file in ("model.ort", OPERATORS_FILE)] == first
    for content in first:
        for trace in (str(folder), str(tmp_path), str(Path.cwd()), "other.onnx"):
            assert trace.encode() not in content


def test_order_is_all_that_is_changed(folder: Path, tmp_path: Path) -> None:
    path = converted(folder, "int8", tmp_path)
    again = in_order(path.read_bytes())
    assert again == path.read_bytes()
    with pytest.raises(ValueError, match="not a file in ORT format"):
        in_order((folder / "int8.onnx").read_bytes())


def test_converting_leaves_the_log_and_the_search_path_alone(folder: Path, tmp_path: Path) -> None:
    before = list(logging.getLogger().handlers), list(sys.path)
    converted(folder, "float", tmp_path)
    assert (logging.getLogger().handlers, sys.path) == before


def test_the_file_answers_as_the_graph_and_its_own_kernels_are_read_back(folder: Path, tmp_path: Path) -> None:
    feed = {"image": IMAGES[:2]}
    (wanted,) = run((folder / "float.onnx").read_bytes(), [feed])
    for name, operator, dtype, tolerance in (("float", "FusedConv", "fp32", 1e-5), ("int8", "QLinearConv", "int8", 0.1)):
        session = open_session([str(converted(folder, name, tmp_path))], {"threads": 1})
        found = session.run(feed)
        for key, value in wanted.items():
            np.testing.assert_allclose(found[key], value, atol=tolerance * np.abs(value).max())
        layers = session.executed()
        assert {layer.dtype for layer in layers if layer.operator == operator} == {dtype}
        assert not any(layer.operator == "Conv" and name == "int8" for layer in layers)


def test_no_layout_of_x86_is_written_into_a_file_for_arm(folder: Path, tmp_path: Path) -> None:
    operators = write_ort(folder / "float.onnx", tmp_path / "model.ort")[1].read_text()
    assert "nchwc" not in operators
    assert "com.microsoft;1;FusedConv" in operators


def test_the_operators_are_listed_with_their_types_as_the_build_reads_them(folder: Path, tmp_path: Path) -> None:
    from onnxruntime.tools.reduced_build_config_parser import parse_config

    path = write_ort(folder / "dynamic.onnx", tmp_path / "model.ort")[1]
    assert path.name == "required_operators.config"
    assert not any(line.startswith("#") for line in path.read_text().splitlines())
    needed, types = parse_config(str(path), True)
    assert needed["com.microsoft"] == {1: {"DynamicQuantizeMatMul"}}
    assert needed["ai.onnx"] == {14: {"Relu"}}
    assert types is not None
    assert types.is_typed_registration_needed("ai.onnx", "Relu", "float")


def test_a_graph_that_onnx_runtime_cannot_open_is_an_export_error_without_a_path(tmp_path: Path) -> None:
    model: Any = graph("(float[b, 4] x) => (float[b, 4] y) { y = Relu(x) }")
    model.graph.node("y").domain = "nobody.knows"
    model.graph.opset_imports["nobody.knows"] = 1
    from onnx_ir import save

    save(model, tmp_path / "odd.onnx")
    with pytest.raises(ExportError, match=r"ONNX Runtime cannot write `odd.onnx` in ORT format: ") as caught:
        write_ort(tmp_path / "odd.onnx", tmp_path / "model.ort")
    assert str(tmp_path) not in str(caught.value)


def test_lineage_is_copied_into_the_file(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder / "float.onnx")
    model.metadata_props["kdedge.teacher"] = "teacher-hash"
    save_model(model, tmp_path / "told.onnx")
    path, _ = write_ort(tmp_path / "told.onnx", tmp_path / "model.ort")
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map == {"kdedge.teacher": "teacher-hash"}
