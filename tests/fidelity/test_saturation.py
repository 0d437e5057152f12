"""On an x86 CPU without VNNI the report says what becomes of 8-bit weights, and which target is made for it; elsewhere it says nothing."""

from __future__ import annotations

import pytest

from kdedge.fidelity.audit_reasons import saturation
from kdedge.measured import DeviceIdentity
from kdedge.targets import TARGETS


def device(features: str, machine: str = "x86_64") -> DeviceIdentity:
    return DeviceIdentity("local", "local", (machine,), {"cpu_features": features})


@pytest.mark.parametrize("dialect", ["onnxruntime-x86", "openvino"])
def test_without_vnni_the_target_for_such_cpus_is_named(dialect: str) -> None:
    said = saturation(dialect, "int8", device("avx2"))
    assert f"the target {dialect}-avx2" in said
    assert TARGETS[f"{dialect}-avx2"].dialect == f"{dialect}-avx2"


@pytest.mark.parametrize(
    ("dialect", "precision", "where"),
    [
        ("openvino", "int8", device("avx2 avx512_vnni")),
        ("openvino", "int8", device("avx2 avx_vnni")),
        ("openvino", "fp16", device("avx2")),
        ("openvino-avx2", "int8", device("avx2")),
        ("onnxruntime-arm", "int8", device("asimddp", "aarch64")),
        ("openvino", "int8", device("")),
    ],
)
def test_where_nothing_saturates_or_nothing_is_known_nothing_is_said(dialect: str, precision: str, where: DeviceIdentity) -> None:
    assert saturation(dialect, precision, where) == ""
