"""What a bundle holds, and that the same cell always gives the same bytes."""

from __future__ import annotations

import ast
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kdedge.runtimes
from kdedge import pipeline
from kdedge.artifact import Dimension, EncodedInputs, InputBucket, TensorSpec, TextEncoder
from kdedge.bundle import golden, pack, self_check
from kdedge.bundle.manifest import MANIFEST, as_plain, manifest_bytes, read_manifest
from kdedge.errors import BundleError

RUNTIMES = Path(__file__).parents[2] / "runtimes"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def manifest(bundle: pack.Bundle) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((bundle.path / MANIFEST).read_text())
    return loaded


def test_a_bundle_holds_artifact_golden_examples_code_and_manifest(work: Any, tmp_path: Path) -> None:
    bundle = work.bundle(tmp_path / "out")
    assert (bundle.name, bundle.target, bundle.precision) == ("digits-onnxruntime-x86-fp32", "onnxruntime-x86", "fp32")
    assert bundle.path == tmp_path / "out" / bundle.name
    code = {f"kdedge_worker/{path.name}" for path in RUNTIMES.glob("*.py")} | {"self_check.py"}
    data = {"artifact/model.onnx", "golden/0/inputs/image.npy", "golden/0/outputs/logits.npy", MANIFEST}
    assert set(bundle.files) == code | data == set(contents(bundle.path))
    assert bundle.size_bytes == sum(len(content) for content in contents(bundle.path).values())
    assert contents(bundle.path)["artifact/model.onnx"] == work.graph().read_bytes()


def test_the_manifest_says_what_an_integrator_needs(work: Any, tmp_path: Path) -> None:
    said = manifest(work.bundle(tmp_path / "out"))
    assert said["schema"] == 1
    assert said["artifact"]["target"] == "onnxruntime-x86"
    assert said["artifact"]["runtime"] == "onnxruntime"
    assert said["artifact"]["options"] == {"threads": 1, "spinning": False}
    assert said["artifact"]["batch"] == {"size": 1, "fixed": True}
    assert said["artifact"]["graphs"][0]["outputs"] == [{"name": "logits", "dtype": "float32", "shape": [1, 5]}]
    assert said["input"]["tensors"] == [{"name": "image", "dtype": "float32", "shape": [1, 3, 2, 2]}]
    assert said["input"]["encoder"]["kind"] == "image"
    assert said["input"]["encoder"]["size"] == [2, 2]
    assert said["classes"] == ["a", "b", "c", "d", "e"]
    assert said["lineage"]["teacher"] == "teacher@1"
    assert said["evidence"]["fidelity"]["agreement_student"]["low"] == 0.7
    assert said["evidence"]["fidelity"]["sqnr_db"]["value"] == "inf"
    assert said["evidence"]["latency"]["latency_median"]["value"] == 1.5
    assert said["golden"]["source"] == "this artifact on local, onnxruntime 1.32"
    assert said["golden"]["minimum_sqnr_db"] == golden.SAME_ARTIFACT_DB["fp32"] == 60.0


def test_the_same_cell_gives_the_same_bytes(work: Any, tmp_path: Path) -> None:
    first, second = work.bundle(tmp_path / "one"), work.bundle(tmp_path / "two")
    assert contents(first.path) == contents(second.path)
    assert first.digest == second.digest == read_manifest(first.path)["digest"]


def test_nothing_in_a_manifest_tells_where_it_was_made(work: Any, tmp_path: Path) -> None:
    bundle = work.bundle(tmp_path / "out")
    assert str(tmp_path) not in (bundle.path / MANIFEST).read_text()


def test_golden_examples_are_the_first_eight_with_the_artifacts_own_outputs(work: Any, tmp_path: Path) -> None:
    images = work.images(11)
    bundle = work.bundle(tmp_path / "out", images=images)
    np.testing.assert_array_equal(np.load(bundle.path / "golden/0/inputs/image.npy"), images[:8])
    np.testing.assert_array_equal(np.load(bundle.path / "golden/0/outputs/logits.npy"), work.logits(images)[:8])
    assert manifest(bundle)["golden"]["cases"][0]["indices"] == list(range(8))


def test_where_the_cell_did_not_run_the_float_student_stands_in_and_it_is_said(work: Any, tmp_path: Path) -> None:
    artifact = work.artifact(precision="int8")
    said = manifest(work.bundle(tmp_path / "out", artifact=artifact, ran=False))
    assert said["golden"]["source"].startswith("the float student in float32: this artifact did not run (no CUDA device")
    assert said["golden"]["minimum_sqnr_db"] == golden.FLOAT_STUDENT_DB["int8"] < golden.SAME_ARTIFACT_DB["int8"]
    assert said["evidence"]["status"] == "not-run"


def test_every_precision_has_both_tolerances_and_the_stand_in_is_never_tighter() -> None:
    assert set(golden.SAME_ARTIFACT_DB) == set(golden.FLOAT_STUDENT_DB) == {"fp32", "fp16", "int8", "int8-dynamic", "int8-weights", "mixed"}
    assert all(golden.FLOAT_STUDENT_DB[name] < limit for name, limit in golden.SAME_ARTIFACT_DB.items())


def test_a_proxys_latency_does_not_travel(work: Any, tmp_path: Path) -> None:
    said = manifest(work.bundle(tmp_path / "out", proxy=True))
    assert said["evidence"]["latency"] == {}
    assert said["evidence"]["peak_memory_mb"] is None
    assert "a proxy" in said["golden"]["source"]


def test_examples_of_several_lengths_keep_their_lengths_and_their_places(work: Any) -> None:
    """Places 0..9 in two buckets: even places of length 2, odd places of length 3."""
    buckets, ids = [], np.arange(10)
    for number, (places, length) in enumerate(((ids[::2], 2), (ids[1::2], 3))):
        shuffled = places[::-1]
        array = np.stack([np.full(length, place) for place in shuffled])
        files = {"input_ids": work.save(f"ids{number}.npy", array)}
        buckets.append(InputBucket(files, work.save(f"places{number}.npy", shuffled), len(places)))
    inputs = EncodedInputs(tuple(buckets), 10)
    outputs = np.arange(10, dtype=np.float32)[:, None] * np.ones((1, 5), np.float32)
    cell = work.cell(work.images(10))
    cell.fidelity.outputs["logits"] = work.save("text-logits.npy", outputs)
    found = golden.choose(cell, inputs, work.references(work.images(10)))
    assert [case.indices for case in found.cases] == [(0, 2, 4, 6), (1, 3, 5, 7)]
    for case, length in zip(found.cases, (2, 3), strict=True):
        assert case.inputs["input_ids"].shape == (4, length)
        np.testing.assert_array_equal(case.inputs["input_ids"][:, 0], case.indices)
        np.testing.assert_array_equal(case.outputs["logits"][:, 0], case.indices)


def test_a_tokenizer_travels_and_the_encoder_names_its_place(work: Any, text_encoder: Callable[[], TextEncoder], tmp_path: Path) -> None:
    encoder = text_encoder()
    labels = work.folder / "labels.txt"
    labels.write_text("good\nbad\n")
    bundle = work.bundle(tmp_path / "out", artifact=work.artifact(encoder=encoder, assets=(encoder.tokenizer, labels)))
    said = manifest(bundle)
    assert said["assets"] == ["assets/labels.txt", "assets/tokenizer.json"]
    assert said["input"]["encoder"]["tokenizer"] == "assets/tokenizer.json"
    assert (bundle.path / "assets/tokenizer.json").read_text() == '{"version": "1.0"}'


def test_side_files_keep_their_names_and_several_graphs_their_folders(work: Any, tmp_path: Path) -> None:
    weights = work.folder / "model.bin"
    weights.write_bytes(b"weights")
    one = work.artifact(files=(work.graph(), weights))
    assert manifest(work.bundle(tmp_path / "one", artifact=one))["artifact"]["graphs"][0]["files"] == ["artifact/model.onnx", "artifact/model.bin"]
    graph = one.main
    other = type(graph)("decoder", graph.files, graph.inputs, graph.outputs)
    two = work.artifact(graphs=(graph, other))
    assert [entry["files"][0] for entry in manifest(work.bundle(tmp_path / "two", artifact=two))["artifact"]["graphs"]] == [
        "artifact/main/model.onnx",
        "artifact/decoder/model.onnx",
    ]


def test_a_dynamic_batch_is_described_and_not_fixed(work: Any, tmp_path: Path) -> None:
    said = manifest(work.bundle(tmp_path / "out", artifact=work.artifact(batch=Dimension("N", 1, 4, 8))))
    assert said["artifact"]["batch"] == {"size": 4, "fixed": False}
    assert said["input"]["tensors"][0]["shape"][0] == {"name": "N", "minimum": 1, "typical": 4, "maximum": 8}


def test_names_that_are_no_file_names_are_refused(work: Any, tmp_path: Path) -> None:
    images = work.images()
    with pytest.raises(BundleError, match=r"`\.\./escape-onnxruntime-x86-fp32` is no name for a folder"):
        pack.pack(work.cell(images), work.inputs(images), work.references(images), "../escape", folder=tmp_path)
    odd = work.folder / "mo del.onnx"
    work.graph().rename(odd)
    with pytest.raises(BundleError, match=r"`mo del.onnx` cannot travel under this name"):
        work.bundle(tmp_path / "odd", artifact=work.artifact(files=(odd,)))


def test_two_files_of_one_name_are_refused(work: Any, tmp_path: Path) -> None:
    (work.folder / "other").mkdir()
    asset, twin = work.folder / "words.txt", work.folder / "other" / "words.txt"
    asset.write_text("a")
    twin.write_text("b")
    with pytest.raises(BundleError, match=r"two files of this bundle would be `assets/words.txt`"):
        work.bundle(tmp_path / "out", artifact=work.artifact(assets=(asset, twin)))


def test_a_tensor_whose_name_is_no_file_name_gets_one(work: Any, tmp_path: Path) -> None:
    images = work.images()
    inputs = EncodedInputs((InputBucket({"serving/image:0": work.save("i.npy", images)}, work.save("n.npy", np.arange(11)), 11),), 11)
    cell = work.cell(images)
    bundle = pack.pack(cell, inputs, work.references(images), "digits", folder=tmp_path)
    assert manifest(bundle)["golden"]["cases"][0]["inputs"] == {"serving/image:0": "golden/0/inputs/inputs-0.npy"}


def test_without_a_matching_output_or_example_there_is_no_bundle(work: Any, tmp_path: Path) -> None:
    images = work.images()
    cell = work.cell(images, work.artifact())
    cell.fidelity.outputs["boxes"] = cell.fidelity.outputs.pop("logits")
    with pytest.raises(BundleError, match="no golden output: the artifact gives logits, known are boxes"):
        pack.pack(cell, work.inputs(images), work.references(images), "digits", folder=tmp_path)
    short = work.cell(images)
    short.fidelity.outputs["logits"] = work.save("short.npy", np.zeros((3, 5), np.float32))
    with pytest.raises(BundleError, match="golden output `logits` has 3 examples, the split has 11"):
        golden.choose(short, work.inputs(images), work.references(images))
    with pytest.raises(BundleError, match="no golden example: the split is empty"):
        golden.choose(work.cell(images), EncodedInputs((), 11), work.references(images))


def test_the_stage_that_packs_reads_every_file_that_ships(work: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its key then follows them all, also one that nothing imports yet: a new adapter is listed nowhere for this."""

    class Recorder:
        def stage(self, function: str, *inputs: Any, reads: tuple[Path, ...], label: str) -> None:
            self.reads = reads

    shutil.copytree(RUNTIMES, tmp_path / "runtimes")
    (tmp_path / "runtimes" / "new_adapter.py").write_text("def open_session(path, options): ...\n")
    monkeypatch.setattr(kdedge.runtimes, "__file__", str(tmp_path / "runtimes" / "__init__.py"))
    images, seen = work.images(), Recorder()
    pipeline.pack(work.cell(images), work.inputs(images), work.references(images), "digits", seen)  # type: ignore[arg-type]
    files = work.bundle(tmp_path / "out").files
    code = {Path(file).name for file in files if file.startswith("kdedge_worker/")}
    assert "new_adapter.py" in code
    assert {path.name for path in seen.reads} == {*code, "self_check.py"}


def test_the_self_check_parses_as_python_3_8_and_needs_only_numpy() -> None:
    tree = ast.parse(Path(self_check.__file__).read_text(), feature_version=(3, 8))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    standard = {
        "__future__",
        "argparse",
        "hashlib",
        "importlib",
        "json",
        "math",
        "os",
        "shutil",
        "subprocess",
        "sys",
        "tempfile",
        "pathlib",
        "typing",
    }
    assert names == standard | {"numpy"}


def test_what_a_manifest_cannot_say_is_refused() -> None:
    assert as_plain({"a": (1, float("inf"), float("nan"), None, True)}) == {"a": [1, "inf", "nan", None, True]}
    assert as_plain(TensorSpec("x", "float32", (1,))) == {"name": "x", "dtype": "float32", "shape": [1]}
    with pytest.raises(BundleError, match=r"cannot hold a Path|cannot hold a PosixPath"):
        as_plain({"path": Path("/etc")})
    assert manifest_bytes({"b": 1, "a": 2}) == manifest_bytes({"a": 2, "b": 1})
