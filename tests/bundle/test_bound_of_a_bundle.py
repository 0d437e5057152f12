"""The roofline of a bundle: with the target, the session options and the usual sizes that it ships with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdedge.artifact import Dimension
from kdedge.cli.bounding import bound_here
from kdedge.errors import DeviceError, KdedgeError

ARM = {"target": "onnxruntime-arm", "dialect": "onnxruntime-arm"}
ONE_CORE = 8 * 2.4e9  # of a Raspberry Pi 5 in fp32: two pipes of four


def test_a_bundle_is_bound_by_the_threads_that_it_ships_with(work: Any, tmp_path: Path) -> None:
    one, two = (work.bundle(tmp_path / f"out{n}", artifact=work.artifact(**ARM, options={"threads": n})).path for n in (1, 2))
    bounds = [bound_here(bundle, "raspberry-pi-5", ()) for bundle in (one, two)]
    assert [bound.macs for bound in bounds] == [12 * 5, 12 * 5]
    assert [bound.compute_ms for bound in bounds] == [pytest.approx(1000 * 60 / n / ONE_CORE) for n in (1, 2)]
    assert any("1 thread," in sentence for sentence in bounds[0].assumptions)


def test_a_dimension_that_varies_has_its_usual_size(work: Any, tmp_path: Path) -> None:
    artifact = work.artifact(batch=Dimension("N", 1, 4, 8), **ARM)
    bundle = work.bundle(tmp_path / "out", artifact=artifact).path
    assert bound_here(bundle, "raspberry-pi-5", ()).macs == 4 * 60
    assert bound_here(bundle, "raspberry-pi-5", ("N=8",)).macs == 8 * 60
    with pytest.raises(KdedgeError, match="no input has a dimension of this name"):
        bound_here(bundle, "raspberry-pi-5", ("M=8",))


def test_a_bundle_for_another_machine_is_refused(whole_bundle: Path) -> None:
    with pytest.raises(KdedgeError, match="is for onnxruntime-x86, which runs on x86_64; raspberry-pi-5 is aarch64"):
        bound_here(whole_bundle, "raspberry-pi-5", ())
    with pytest.raises(DeviceError, match="the catalog has no device"):
        bound_here(whole_bundle, "toaster", ())
