"""What a check launches: files, bundles and runs become arms with inputs of their own, and two arms are timed on the same inputs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from regression_world import model, sha256

from kdedge.bundle.manifest import manifest_bytes
from kdedge.errors import BundleError, DataError, KdedgeError
from kdedge.regression.arms import WHOLE, Given, arms_of, digest, with_inputs_of

SIZED = Given(sizes=("batch=4",))


def test_a_model_file_is_launched_as_it_repeats_best_on_drawn_inputs(tmp_path: Path) -> None:
    file = model(tmp_path / "net.onnx", 1.0)
    arms = arms_of(file, SIZED, tmp_path / "in")
    assert list(arms) == [WHOLE]
    arm = arms[WHOLE]
    assert (arm.name, arm.line, arm.sha256) == ("net", "net", sha256(file))
    assert (arm.job.kind, arm.job.runtime, arm.job.batch, arm.job.fixed_batch) == ("launch", "onnxruntime", 4, True)
    assert arm.job.options == {"threads": 1, "spinning": False}
    drawn = np.load(arm.job.buckets[0]["x"])
    assert (drawn.shape, drawn.dtype) == ((4, 3), np.float32)
    again = arms_of(file, SIZED, tmp_path / "again")[WHOLE]
    np.testing.assert_array_equal(np.load(again.job.buckets[0]["x"]), drawn)


def test_given_inputs_and_options_are_taken(tmp_path: Path) -> None:
    file = model(tmp_path / "net.onnx", 1.0)
    np.savez(tmp_path / "x.npz", x=np.full((2, 3), 7, np.float32))
    arm = arms_of(file, Given(tmp_path / "x.npz", options={"threads": 2}), tmp_path / "in")[WHOLE]
    assert np.load(arm.job.buckets[0]["x"]).tolist() == [[7, 7, 7]] * 2
    assert arm.job.options == {"threads": 2, "spinning": False}
    assert arm.job.batch == 2


def test_an_openvino_file_is_two_files_and_needs_inputs(tmp_path: Path) -> None:
    (tmp_path / "net.xml").write_text("<net/>")
    with pytest.raises(KdedgeError, match=r"net\.bin is not beside it"):
        arms_of(tmp_path / "net.xml", Given(), tmp_path / "in")
    (tmp_path / "net.bin").write_bytes(b"weights")
    with pytest.raises(KdedgeError, match=r"--inputs FILE\.npz"):
        arms_of(tmp_path / "net.xml", Given(), tmp_path / "in")
    np.savez(tmp_path / "x.npz", x=np.zeros((1, 3), np.float32))
    arm = arms_of(tmp_path / "net.xml", Given(tmp_path / "x.npz"), tmp_path / "in")[WHOLE]
    assert (arm.job.runtime, arm.job.options) == ("openvino", {"threads": 1})
    assert [Path(file).name for file in arm.job.graphs["model"]] == ["net.xml", "net.bin"]
    parts = [sha256(tmp_path / name) for name in ("net.xml", "net.bin")]
    assert arm.sha256 == hashlib.sha256(" ".join(parts).encode()).hexdigest() == digest([tmp_path / "net.xml", tmp_path / "net.bin"])


@pytest.mark.parametrize(("content", "says"), [(b"", "cannot be read"), (b"PK\x05\x06" + b"\0" * 18, "holds no array")])
def test_inputs_that_are_none_are_a_sentence(content: bytes, says: str, tmp_path: Path) -> None:
    file = model(tmp_path / "net.onnx", 1.0)
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(DataError, match=says):
        arms_of(file, Given(tmp_path / "x.npz"), tmp_path / "in")


def test_what_cannot_be_launched_is_named(tmp_path: Path) -> None:
    with pytest.raises(KdedgeError, match=r"absent\.onnx: there is no such file, bundle or folder of a run"):
        arms_of(tmp_path / "absent.onnx", Given(), tmp_path / "in")
    (tmp_path / "net.pt").write_text("")
    with pytest.raises(KdedgeError, match=r"net\.pt: a check launches \.onnx, \.ort, \.xml and bundles"):
        arms_of(tmp_path / "net.pt", Given(), tmp_path / "in")


def test_a_bundle_is_launched_as_it_ships_on_its_first_golden_inputs(whole_bundle: Path, tmp_path: Path) -> None:
    arm = arms_of(whole_bundle, Given(), tmp_path / "in")[WHOLE]
    manifest = json.loads((whole_bundle / "manifest.json").read_text())
    artifact = manifest["artifact"]
    assert (arm.name, arm.sha256) == (manifest["name"], artifact["sha256"])
    assert arm.line.endswith("/onnxruntime-x86/fp32")
    assert (arm.job.options, arm.job.batch) == (artifact["options"], 1)
    golden = np.load(whole_bundle / manifest["golden"]["cases"][0]["inputs"]["image"])
    np.testing.assert_array_equal(np.load(arm.job.buckets[0]["image"]), golden[:1])


def test_a_run_holds_an_arm_a_bundle_and_a_damaged_one_is_refused(whole_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(whole_bundle, tmp_path / "run" / "bundles" / "one")
    assert list(arms_of(tmp_path / "run", Given(), tmp_path / "in")) == ["onnxruntime-x86/fp32"]
    next((tmp_path / "run" / "bundles" / "one").rglob("*.onnx")).write_bytes(b"else")
    with pytest.raises(BundleError):
        arms_of(tmp_path / "run", Given(), tmp_path / "in")


def test_both_are_timed_on_the_same_inputs_or_not_at_all(tmp_path: Path) -> None:
    one, other = (arms_of(model(tmp_path / f"{name}.onnx", 1.0), SIZED, tmp_path / name)[WHOLE] for name in ("one", "other"))
    both = with_inputs_of(other, one)
    assert both.job.buckets == one.job.buckets
    assert (both.sha256, both.job.graphs) == (other.sha256, other.job.graphs)
    wide = arms_of(model(tmp_path / "wide.onnx", 1.0, width=5), SIZED, tmp_path / "wide")[WHOLE]
    with pytest.raises(DataError, match=r"input `x`: one takes float32 \[4, 3\], wide takes float32 \[4, 5\]"):
        with_inputs_of(wide, one)
    renamed = replace(one, job=replace(one.job, buckets=[{"y": one.job.buckets[0]["x"]}]))
    with pytest.raises(DataError, match="takes the inputs"):
        with_inputs_of(renamed, one)


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        (lambda manifest: manifest["artifact"]["batch"].update(size=0), "its batch is 0"),
        (lambda manifest: manifest["artifact"]["batch"].update(size="x"), "its batch is 'x'"),
        (lambda manifest: manifest["artifact"]["batch"].update(size=10**6), "fewer than its batch"),
        (lambda manifest: manifest["artifact"].pop("batch"), "KeyError: 'batch'"),
        (lambda manifest: manifest["artifact"].update(options=[1]), "TypeError"),
        (lambda manifest: manifest["artifact"].update(batch=None), "TypeError"),
    ],
)
def test_a_bundle_whose_manifest_lies_is_a_sentence(lie: Callable[[Any], Any], says: str, whole_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(whole_bundle, tmp_path / "liar")
    manifest = json.loads((tmp_path / "liar" / "manifest.json").read_text())
    lie(manifest)
    (tmp_path / "liar" / "manifest.json").write_bytes(manifest_bytes(manifest))
    with pytest.raises(BundleError, match=says):
        arms_of(tmp_path / "liar", Given(), tmp_path / "in")


def test_two_bundles_of_one_name_in_a_run_are_not_taken_for_one(whole_bundle: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(whole_bundle, tmp_path / "run" / "bundles" / name)
    with pytest.raises(KdedgeError, match="holds two bundles of onnxruntime-x86/fp32"):
        arms_of(tmp_path / "run", Given(), tmp_path / "in")


def test_data_beside_a_model_goes_with_it_and_data_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name, location in (("beside", "weights.bin"), ("elsewhere", "sub/weights.bin")):
        loaded = onnx.load(model(tmp_path / f"{name}.onnx", 1.0))
        onnx.save_model(loaded, tmp_path / f"{name}.onnx", save_as_external_data=True, location=location, size_threshold=0)
    arm = arms_of(tmp_path / "beside.onnx", SIZED, tmp_path / "in")[WHOLE]
    assert [Path(file).name for file in arm.job.graphs["model"]] == ["beside.onnx", "weights.bin"]
    with pytest.raises(KdedgeError, match=r"elsewhere\.onnx: its data sub/weights\.bin lies in another folder"):
        arms_of(tmp_path / "elsewhere.onnx", SIZED, tmp_path / "in")


def test_a_name_can_be_written_everywhere(tmp_path: Path) -> None:
    file = model(tmp_path / "net.onnx", 1.0).rename(tmp_path / os.fsdecode(b"\xff \x1b[31m n\xc3\xa4t.onnx"))
    arm = arms_of(file, SIZED, tmp_path / "in")[WHOLE]
    assert arm.name == arm.line == "\\udcff \\x1b[31m nät"
