"""`kdedge inspect --device`: the least time that an artifact can take on a device of the catalog."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from command_line import Program
from small_graphs import calibrated, lowered, residual

from kdedge.exporters.dialects.openvino import DIALECT


@pytest.fixture
def quantized(tmp_path: Path) -> Path:
    model = residual(tmp_path / "float.onnx")
    return lowered(model, DIALECT, calibrated(model))[0]


def test_the_bound_is_shown_with_what_it_stands_on(kdedge: Program, quantized: Path) -> None:
    ended = kdedge("inspect", quantized, "--device", "jetson-orin-nano")
    assert (ended.code, ended.err) == (0, "")
    shown = ended.out[ended.out.index("roofline\n") :]
    assert "jetson-orin-nano-8gb, gpu: at least " in shown
    assert " ms a call, limited by compute" in shown
    assert "2,208,064 multiply-accumulates" in shown
    assert "  estimate: " in shown
    assert "int8 peak: 20.48 TOPS at 625 MHz [derived] tensor cores x" in shown
    assert "memory bandwidth: 68.256 GB/s [derived] " in shown
    assert "caches: 13.5 MB [unverified] " in shown
    assert "a layer: unverified" in shown


def test_the_same_as_json(kdedge: Program, quantized: Path) -> None:
    found = json.loads(kdedge("inspect", quantized, "--device", "jetson-orin-nano-8gb", "--json").out)["roofline"]
    assert found["macs"] == 2_208_064
    assert found["milliseconds"] == max(found["compute_ms"], found["memory_ms"]) > 0
    assert found["estimate_ms"] >= found["milliseconds"]
    assert found["limited_by"] == "compute"
    assert all(one["source"] and one["confidence"] for one in found["standing"])
    larger = json.loads(kdedge("inspect", quantized, "--device", "jetson-orin-nano-8gb", "--json", "--size", "N=4").out)["roofline"]
    assert larger["compute_ms"] == pytest.approx(4 * found["compute_ms"])
    slower = json.loads(kdedge("inspect", quantized, "--device", "jetson-orin-nano-8gb", "--json", "--power-mode", "7W").out)["roofline"]
    assert slower["compute_ms"] == pytest.approx(found["compute_ms"] * 625 / 408)


def test_without_a_device_nothing_is_said_of_a_roofline(kdedge: Program, quantized: Path) -> None:
    assert "roofline" not in json.loads(kdedge("inspect", quantized, "--json").out)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--device", "jetson"), "`jetson` is the start of several devices of the catalog: jetson-"),
        (("--device", "raspbery-pi-5"), "did you mean `raspberry-pi-5`? (there is: galaxy-s24-exynos-2400, "),
        (("--device", "jetson-orin-nano-8gb", "--power-mode", "9W"), "has no power mode `9W` in the catalog (there is: 15W, 7W)"),
        (("--power-mode", "7W"), "a power mode is of a device: add --device D"),
        (("--size", "N=2"), "add --executed, or --device D for a bound"),
        (("--device", "raspberry-pi-5", "--size", "M=2"), "no input has a dimension of this name"),
    ],
)
def test_what_cannot_be_meant_is_named(kdedge: Program, quantized: Path, arguments: tuple[str, ...], said: str) -> None:
    ended = kdedge("inspect", quantized, *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert "defect" not in ended.err


def test_a_file_that_is_meant_for_other_machines_is_refused(kdedge: Program, quantized: Path) -> None:
    model = onnx.load(str(quantized))
    model.metadata_props.add(key="kdedge.target", value="onnxruntime-x86")
    onnx.save(model, str(quantized))
    ended = kdedge("inspect", quantized, "--device", "raspberry-pi-5")
    assert ended.code == 2
    assert "is for onnxruntime-x86, which runs on x86_64; raspberry-pi-5 is aarch64: give an artifact for " in ended.err
    assert kdedge("inspect", quantized, "--device", "intel-n100").code == 0
