"""The targets of the dialects that this machine is not made for: their artifacts are built, validated and run here all the same, as proxies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from graph_families import transposed
from small_graphs import calibrated, images, run, sqnr

from kdedge.artifact import Artifact, CalibratedRanges, Dimension, FloatGraph, ImageEncoder, ImportPath, Lineage, ModelFiles, TensorSpec
from kdedge.errors import ExportError
from kdedge.exporters import model_file
from kdedge.exporters.build import build
from kdedge.exporters.dialects import DIALECTS
from kdedge.exporters.dialects.validate import violations
from kdedge.exporters.quantize.ranges import write_table
from kdedge.exporters.quantize.wiring import load
from kdedge.recipe import ExportSection
from kdedge.runtimes import onnxruntime as runtime
from kdedge.targets import TARGETS

ENCODER = ImageEncoder(size=(16, 16))
INPUTS = (TensorSpec("image", "float32", (Dimension("N", 1, 1, 8), 3, 16, 16)),)
LINEAGE = Lineage("recipe", "teacher", "student", "graph", "data", "ranges", {})
HERE = ("onnxruntime-x86", "onnxruntime-x86-avx2", "onnxruntime-arm", "qnn-htp")


def artifact(folder: Path, target: str) -> tuple[Path, Artifact]:
    """An upsampling network that was given as ONNX, built for a target in int8."""
    path = transposed(folder / "float.onnx")
    digest = model_file.content_hash([path])
    table = folder / "ranges.json"
    write_table(calibrated(path), table)
    outputs = (TensorSpec("logits", "float32", (Dimension("N", 1, 1, 8), 10)),)
    graph = FloatGraph(path, digest, INPUTS, outputs, ENCODER, (), 18, 0, 0.0)
    student = ModelFiles("given", None, {}, None, path, INPUTS, ("logits",), ENCODER, ())
    out = folder / "out"
    out.mkdir()
    ranges = CalibratedRanges(table, "minmax", 64, digest)
    dialect = ImportPath(DIALECTS[TARGETS[target].dialect])
    return path, build(
        TARGETS[target], "int8", dialect, graph, student, ranges, ExportSection(target=target, precision=("int8",)), LINEAGE, folder=out
    )


@pytest.mark.parametrize("target", HERE)
def test_an_artifact_of_the_target_keeps_its_grammar_and_runs_here_with_its_own_session_options(tmp_path: Path, target: str) -> None:
    path, made = artifact(tmp_path, target)
    (graph,) = made.graphs
    dialect = ImportPath(DIALECTS[made.dialect]).load()
    assert violations(load(graph.files[0]), dialect) == []
    session = runtime.open_session([str(graph.files[0])], made.options)
    inputs = images(1, seed=9)
    found = session.run({"image": inputs})["logits"]
    assert sqnr(run(path, inputs), np.asarray(found)) > 28.0
    executed = [layer.operator for layer in session.executed()]
    assert executed.count("QLinearConv") == 3
    session.close()


def test_a_target_for_cpus_without_vnni_makes_integers_alone(tmp_path: Path) -> None:
    assert TARGETS["onnxruntime-x86-avx2"].machines == TARGETS["onnxruntime-x86"].machines
    _, plain = artifact(tmp_path, "onnxruntime-x86-avx2")
    assert plain.notes == ("`up` (ConvTranspose) stays float: onnxruntime-x86-avx2 has no integer kernel for ConvTranspose",)


def test_every_dialect_but_the_16_bit_one_has_a_target_and_every_target_a_dialect() -> None:
    named = {target.dialect for target in TARGETS.values()} - {"none"}
    assert set(DIALECTS) - named == {"qnn-htp-16"}  # it needs opset 21: made by `kdedge quantize`
    assert named <= set(DIALECTS)


def test_qnn_takes_no_free_batch(tmp_path: Path) -> None:
    path = transposed(tmp_path / "float.onnx")
    dialect = ImportPath(DIALECTS["qnn-htp"]).load()
    found = violations(load(path), dialect)
    assert "`stem` (Conv): the shape of `image` is not fixed" in found
    with pytest.raises(ExportError, match="no precision `fp32`"):
        build(
            TARGETS["qnn-htp"],
            "fp32",
            None,
            FloatGraph(path, "", INPUTS, (), ENCODER, (), 18, 0, 0.0),
            ModelFiles("given", None, {}, None, path, INPUTS, ("logits",), ENCODER, ()),
            None,
            ExportSection(target="qnn-htp", precision=("fp32",)),
            LINEAGE,
            folder=tmp_path,
        )
