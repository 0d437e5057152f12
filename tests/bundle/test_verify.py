"""A bundle is believed only when every byte of it is accounted for, and then only as far as it answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdedge.artifact import Dimension
from kdedge.bundle import self_check
from kdedge.bundle import verify as module
from kdedge.bundle.manifest import MANIFEST, manifest_bytes
from kdedge.bundle.pack import pack
from kdedge.bundle.verify import verify
from kdedge.errors import BundleError, DeviceError


@pytest.fixture
def bundle(whole_bundle: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole_bundle, tmp_path / whole_bundle.name)


def rewrite(bundle: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest and give it the digest that fits: what somebody does who wants a bundle to look whole."""
    content = json.loads((bundle / MANIFEST).read_text())
    change(content)
    (bundle / MANIFEST).write_bytes(manifest_bytes(content))


def relist(bundle: Path, path: str) -> None:
    """List a file as it now is."""
    import hashlib

    content = (bundle / path).read_bytes()
    entry = {"path": path, "sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    rewrite(bundle, lambda said: said.update(files=[old for old in said["files"] if old["path"] != path] + [entry]))


# ---- whole bundles


def test_a_whole_bundle_answers_as_it_must_and_stays_as_it_was(bundle: Path) -> None:
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    report = verify(bundle)
    assert (report.status, report.exit_code, report.own_code) == ("ok", 0, False), report.text
    ratio = report.sqnr_db["logits"]
    assert ratio == "identical" or ratio > 100
    assert report.runtime_version.startswith("onnxruntime 1.")
    assert report.digest in report.text
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before
    assert verify(bundle, run=False).status == "files-only"


def test_a_bundle_can_be_moved_and_checks_itself_without_kdedge(bundle: Path, tmp_path: Path) -> None:
    """Run as on a foreign machine: another folder, kdedge not importable."""
    moved = tmp_path / "else where"
    bundle.rename(moved)
    block = tmp_path / "block"
    (block / "kdedge").mkdir(parents=True)
    (block / "kdedge" / "__init__.py").write_text("raise ImportError('kdedge is not here')")
    environment = {**os.environ, "PYTHONPATH": str(block)}
    done = subprocess.run([sys.executable, "self_check.py", "--json"], cwd=moved, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["status"] == "ok"
    assert verify(moved, run=False).status == "files-only", "the check leaves no file behind"


def test_a_dynamic_batch_is_checked_at_its_usual_size(work: Any, tmp_path: Path) -> None:
    made = work.bundle(tmp_path / "out", artifact=work.artifact(batch=Dimension("N", 1, 3, 8)))
    assert verify(made.path).status == "ok"


def test_an_openvino_bundle_finds_its_weights_beside_its_graph(work: Any, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    xml = work.folder / "model.xml"
    openvino.save_model(openvino.convert_model(work.graph()), xml, compress_to_fp16=False)
    options = {"threads": 1, "inference_precision": "f32"}
    artifact = work.artifact(target="openvino", runtime="openvino", format="openvino", options=options, files=(xml, xml.with_suffix(".bin")))
    report = verify(work.bundle(tmp_path / "out", artifact=artifact).path)
    assert report.status == "ok", report.text
    assert report.runtime_version.startswith("openvino 20")


def test_without_the_runtimes_device_it_is_whole_but_not_run(work: Any, tmp_path: Path) -> None:
    """TensorRT without a GPU; on a machine with one the engine would be built and the answer would be `ok`."""
    artifact = work.artifact(target="tensorrt", runtime="tensorrt", precision="fp16", options={"tf32": False, "workspace_mb": 64})
    made = work.bundle(tmp_path / "out", artifact=artifact, ran=False)
    report = verify(made.path)
    if report.status == "not-run":
        assert "no CUDA device" in report.reason
        assert report.exit_code == 3
        assert "not run: no CUDA device" in report.text
    else:
        assert report.status == "ok", report.text


def test_an_artifact_that_answers_otherwise_fails_and_says_by_how_much(work: Any, tmp_path: Path) -> None:
    images = work.images()
    cell = work.cell(images)
    cell.fidelity.outputs["logits"] = work.save("wrong.npy", work.logits(images)[:, ::-1].copy())
    made = pack(cell, work.inputs(images), work.references(images), "digits", folder=tmp_path)
    report = verify(made.path)
    assert (report.status, report.exit_code) == ("failed", 1)
    assert "`logits` differs" in report.reason
    assert report.sqnr_db["logits"] < 60
    assert "FAILED" in report.text


def test_a_runtime_that_refuses_the_file_is_a_failure_not_a_traceback(bundle: Path) -> None:
    (bundle / "artifact/model.onnx").write_bytes(b"no model")
    relist(bundle, "artifact/model.onnx")
    report = verify(bundle)
    assert report.status == "failed"
    assert "model.onnx" in report.reason


def test_a_worker_that_hangs_or_dies_is_a_failure(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "stopped after 0.001 s" in verify(bundle, timeout=0.001).reason
    (bundle / "self_check.py").write_text("import os; os.abort()")
    relist(bundle, "self_check.py")
    monkeypatch.setattr(module, "_carries_this_code", lambda entries: True)
    report = verify(bundle)
    assert report.status == "failed"
    assert "said nothing that can be read" in report.reason


# ---- damaged bundles


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_anywhere_is_noticed(whole_bundle: Path, data: Any) -> None:
    files = sorted(path for path in whole_bundle.rglob("*") if path.is_file())
    path = data.draw(st.sampled_from(files))
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, max(len(content) - 1, 0)))
    if not content:
        return
    original = bytes(content)
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    try:
        with pytest.raises(BundleError, match=r"changed|not JSON|schema|manifest"):
            verify(whole_bundle, run=False)
    finally:
        path.write_bytes(original)


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_missing_file_is_noticed(whole_bundle: Path, data: Any) -> None:
    path = data.draw(st.sampled_from(sorted(path for path in whole_bundle.rglob("*") if path.is_file())))
    content = path.read_bytes()
    path.unlink()
    try:
        with pytest.raises(BundleError, match=r"is missing|there is no manifest"):
            verify(whole_bundle, run=False)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("extra", ["notes.txt", "artifact/more.bin", "kdedge_worker/evil.py", "deep/er/file", "self_check.pyc"])
def test_a_file_that_is_not_listed_is_refused(bundle: Path, extra: str) -> None:
    (bundle / extra).parent.mkdir(parents=True, exist_ok=True)
    (bundle / extra).write_text("x")
    with pytest.raises(BundleError, match=r"is not listed in manifest.json"):
        verify(bundle)


def test_an_empty_folder_that_is_not_listed_is_refused(bundle: Path) -> None:
    (bundle / "empty").mkdir()
    with pytest.raises(BundleError, match="`empty` is not listed"):
        verify(bundle)


def test_a_truncated_file_names_both_sizes(bundle: Path) -> None:
    path = bundle / "artifact/model.onnx"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=rf"`artifact/model.onnx` has {size - 1} bytes, manifest.json says {size}"):
        verify(bundle)


# ---- bundles made to deceive


@pytest.mark.parametrize(
    "path",
    [
        "../outside",
        "/etc/passwd",
        "artifact/../../outside",
        "artifact//model.onnx",
        "./self_check.py",
        "",
        "..",
        "C:\\x",
        "artifact\\x",
        "a\nb",
        "x/",
    ],
)
def test_a_path_that_leaves_the_folder_is_refused(bundle: Path, path: str) -> None:
    (bundle.parent / "outside").write_text("secret")
    rewrite(bundle, lambda said: said["files"].append({"path": path, "sha256": "0" * 64, "size": 6}))
    with pytest.raises(BundleError, match="no plain path inside the bundle"):
        verify(bundle)


@pytest.mark.parametrize("part", ["graphs", "golden"])
def test_what_is_opened_must_be_among_the_listed_files(bundle: Path, part: str) -> None:
    def point_outside(said: dict[str, Any]) -> None:
        if part == "graphs":
            said["artifact"]["graphs"][0]["files"] = ["../outside.onnx"]
        else:
            said["golden"]["cases"][0]["inputs"]["image"] = "golden/0/inputs/other.npy"

    rewrite(bundle, point_outside)
    with pytest.raises(BundleError, match=r"no plain path inside the bundle|not among its files"):
        verify(bundle)


@pytest.mark.parametrize("path", ["../outside.json", "/etc/passwd", "assets/other.json"])
@pytest.mark.parametrize(
    "point",
    [lambda said, path: said.update(assets=[path]), lambda said, path: said["input"]["encoder"].update(tokenizer=path)],
    ids=["assets", "tokenizer"],
)
def test_what_encodes_an_example_must_be_among_the_listed_files(bundle: Path, point: Callable[[dict[str, Any], str], Any], path: str) -> None:
    rewrite(bundle, lambda said: point(said, path))
    with pytest.raises(BundleError, match=r"no plain path inside the bundle|not among its files"):
        verify(bundle)


@pytest.mark.parametrize("what", ["file", "folder", "unlisted"])
def test_a_link_is_refused_even_where_it_points_to_the_right_bytes(bundle: Path, what: str) -> None:
    away = bundle.parent / "away"
    if what == "file":
        shutil.move(bundle / "artifact/model.onnx", away)
        (bundle / "artifact/model.onnx").symlink_to(away)
    elif what == "folder":
        shutil.move(bundle / "artifact", away)
        (bundle / "artifact").symlink_to(away)
    else:
        (bundle / "link").symlink_to(bundle / "self_check.py")
    with pytest.raises(BundleError, match="is a link; a bundle holds real files only"):
        verify(bundle)


def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(bundle: Path) -> None:
    (bundle / "artifact/model.onnx").unlink()
    os.mkfifo(bundle / "artifact/model.onnx")
    with pytest.raises(BundleError, match="is no regular file"):
        verify(bundle)


def test_foreign_code_is_not_run(bundle: Path, tmp_path: Path) -> None:
    """A bundle with code of its own, listed and hashed as it should be: the installation's code does the check."""
    proof = tmp_path / "ran"
    for path in ("self_check.py", "kdedge_worker/onnxruntime.py"):
        (bundle / path).write_text(f"open({str(proof)!r}, 'w').close()")
        relist(bundle, path)
    report = verify(bundle)
    assert (report.status, report.own_code) == ("ok", True), report.text
    assert "the bundle carries that of another kdedge" in report.text
    assert not proof.exists()


@pytest.mark.parametrize("path", ["numpy.py", "numpy/__init__.py", "kdedge/__init__.py", "kdedge/runtimes/worker.py", "sitecustomize.py", "json.so"])
def test_a_file_that_would_shadow_a_module_is_not_imported(bundle: Path, tmp_path: Path, path: str) -> None:
    proof = tmp_path / "ran"
    (bundle / path).parent.mkdir(parents=True, exist_ok=True)
    (bundle / path).write_text(f"open({str(proof)!r}, 'w').close()")
    relist(bundle, path)
    report = verify(bundle)
    assert (report.status, report.own_code) == ("ok", True), report.text
    assert not proof.exists()


def test_a_pickle_among_the_golden_arrays_is_not_opened(bundle: Path, tmp_path: Path) -> None:
    np.save(bundle / "golden/0/outputs/logits.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    relist(bundle, "golden/0/outputs/logits.npy")
    report = verify(bundle)
    assert report.status == "failed"
    assert "allow_pickle" in report.reason


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda said: said.update(schema=2), "has schema 2; this kdedge reads schema 1"),
        (lambda said: said.update(kind="other"), "does not describe a kdedge bundle"),
        (lambda said: said.pop("lineage"), "says nothing of `lineage`"),
        (lambda said: said.update(files="all"), "holds no list of files"),
        (lambda said: said["files"].append({"path": "x"}), "lists a file without path, sha256 and size"),
        (lambda said: said["files"].append(said["files"][0]), "lists `artifact/model.onnx` twice"),
        (lambda said: said["files"].append({"path": MANIFEST, "sha256": "", "size": 0}), r"lists `manifest.json` itself"),
        (lambda said: said["golden"].update(cases=[]), "does not say what is needed to run"),
        (lambda said: said["artifact"].pop("graphs"), "does not say what is needed to run"),
        (lambda said: said["input"].pop("encoder"), "does not say what is needed to run"),
        (lambda said: said.update(assets=3), "does not say what is needed to run"),
        (lambda said: said["artifact"].update(runtime=3), "does not say what is needed to run"),
    ],
)
def test_a_manifest_of_another_form_is_refused(bundle: Path, change: Callable[[dict[str, Any]], Any], complaint: str) -> None:
    rewrite(bundle, change)
    with pytest.raises(BundleError, match=complaint):
        verify(bundle)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b'{"kind": "kdedge-bundle", "schema": 1, "schema": 1}', b"[" * 100_000])
def test_what_is_no_manifest_is_refused_without_a_traceback(bundle: Path, content: bytes) -> None:
    (bundle / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest.json"):
        verify(bundle)


def test_another_spelling_of_the_same_manifest_is_refused(bundle: Path) -> None:
    """One content, one form: otherwise two bundles with one digest could differ."""
    content = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps(content, sort_keys=True))
    with pytest.raises(BundleError, match="its bytes do not fit its digest"):
        verify(bundle)
    (bundle / MANIFEST).write_text(json.dumps({**content, "classes": [float("nan")]}))
    with pytest.raises(BundleError, match="its bytes do not fit its digest"):
        verify(bundle)


def test_what_is_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no such folder"):
        verify(tmp_path / "absent")
    with pytest.raises(BundleError, match=r"there is no manifest.json: this is no bundle"):
        verify(tmp_path)
    with (tmp_path / MANIFEST).open("wb") as handle:
        handle.truncate((64 << 20) + 1)
    with pytest.raises(BundleError, match="at most 67108864 are read"):
        verify(tmp_path)


# ---- the self-check itself


def test_signal_to_noise_by_hand() -> None:
    """golden 3, 4 (energy 25) against 3, 4.5 (error 0.25): 10 log10(100) = 20 dB."""
    golden, found = np.array([3.0, 4.0]), np.array([3.0, 4.5])
    assert self_check.signal_to_noise([(golden, found)]) == pytest.approx(20.0)
    assert self_check.signal_to_noise([(golden[:1], found[:1]), (golden[1:], found[1:])]) == pytest.approx(20.0)
    assert self_check.in_words(self_check.signal_to_noise([(golden, golden)])) == "identical"
    assert self_check.in_words(self_check.signal_to_noise([(golden, np.array([3.0, np.nan]))])) == "holds NaN"
    assert self_check.in_words(self_check.signal_to_noise([(np.zeros(2), found)])) == "nothing but noise"


@pytest.mark.parametrize(
    ("found", "complaint"),
    [
        ([3.0, 4.0], None),
        ([3.0, 4.4], None),
        ([3.0, 4.6], r"`logits` differs: 18.4 dB signal to noise, 20 dB needed; golden outputs are those of somebody"),
        ([3.0, float("nan")], "holds NaN"),
        ([3.0, 4.0, 5.0], "is missing or has another shape"),
        (None, "is missing or has another shape"),
    ],
)
def test_outputs_are_compared_with_the_limit(tmp_path: Path, found: list[float] | None, complaint: str | None) -> None:
    np.save(tmp_path / "golden.npy", np.array([3.0, 4.0]))
    written = {}
    if found is not None:
        np.save(tmp_path / "found.npy", np.array(found))
        written = {"logits": "found.npy"}
    golden = {"minimum_sqnr_db": 20.0, "source": "somebody", "cases": [{"outputs": {"logits": "golden.npy"}}]}
    report: dict[str, Any] = {"status": "ok", "reason": "", "sqnr_db": {}}
    self_check.compare(tmp_path, golden, tmp_path, [written], report)
    assert (report["status"] == "ok") == (complaint is None)
    if complaint:
        assert complaint in report["reason"]


def test_integers_must_be_equal(tmp_path: Path) -> None:
    np.save(tmp_path / "golden.npy", np.arange(1000))
    np.save(tmp_path / "same.npy", np.arange(1000))
    np.save(tmp_path / "off.npy", np.arange(1000) + (np.arange(1000) == 999))
    golden = {"minimum_sqnr_db": 20.0, "source": "somebody", "cases": [{"outputs": {"ids": "golden.npy"}}]}
    for name, status in (("same", "ok"), ("off", "failed")):
        report: dict[str, Any] = {"status": "ok", "reason": "", "sqnr_db": {}}
        self_check.compare(tmp_path, golden, tmp_path, [{"ids": f"{name}.npy"}], report)
        assert report["status"] == status
        assert ("equality needed" in report["reason"]) == (status == "failed")


def test_a_damaged_bundle_is_noticed_by_the_self_check_alone(bundle: Path) -> None:
    (bundle / "artifact/model.onnx").write_bytes(b"changed")
    done = subprocess.run([sys.executable, str(bundle / "self_check.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "damaged or missing: artifact/model.onnx" in done.stdout
    (bundle / MANIFEST).write_text("{")
    done = subprocess.run([sys.executable, str(bundle / "self_check.py"), "--json"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert json.loads(done.stdout.splitlines()[-1])["status"] == "damaged"


# ---- on a device


def test_on_a_device_it_answers_as_it_must_and_no_code_of_the_bundle_runs(bundle: Path) -> None:
    (bundle / "self_check.py").write_text("raise SystemExit('foreign code')")
    relist(bundle, "self_check.py")
    report = verify(bundle, device="simulated:quiet")
    assert (report.status, report.exit_code, report.device) == ("ok", 0, "simulated:quiet"), report.text
    assert "it answers as it must, on simulated:quiet, onnxruntime 1." in report.text
    assert report.sqnr_db["logits"] == "identical" or report.sqnr_db["logits"] > 100


def test_on_a_device_other_answers_and_an_unknown_runtime_fail(work: Any, tmp_path: Path) -> None:
    images = work.images()
    cell = work.cell(images)
    cell.fidelity.outputs["logits"] = work.save("wrong.npy", work.logits(images)[:, ::-1].copy())
    made = pack(cell, work.inputs(images), work.references(images), "digits", folder=tmp_path)
    report = verify(made.path, device="local")
    assert (report.status, report.exit_code) == ("failed", 1)
    assert "`logits` differs" in report.reason
    rewrite(made.path, lambda said: said["artifact"].update(runtime="executorch"))
    unknown = verify(made.path, device="local")
    assert unknown.status == "failed"
    assert "executorch" in unknown.reason


def test_a_device_that_does_not_exist_is_named_and_a_job_that_cannot_be_made_too(bundle: Path) -> None:
    with pytest.raises(DeviceError, match="there is no device `nowhere`"):
        verify(bundle, device="nowhere")
    rewrite(bundle, lambda said: said["artifact"].pop("batch"))
    with pytest.raises(BundleError, match="does not say what is needed to run the artifact"):
        verify(bundle, device="local")
