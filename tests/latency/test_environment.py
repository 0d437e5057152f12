"""Two launches of a pair ran under the same conditions, or it is said in which they differ."""

from __future__ import annotations

from typing import Any

from kdedge.latency.environment import ran_differently
from kdedge.runtimes.job import Result


def result(version: str = "1.20", providers: list[str] | None = None, governors: list[str] | None = None, **evidence: Any) -> Result:
    before = {} if governors is None else {"governors": governors}
    facts = {} if providers is None else {"providers": providers}
    return Result("ok", runtime_version=version, facts=facts, evidence={"before": before, **evidence})


def test_what_changes_speed_is_compared() -> None:
    usual = result("1.20", ["CPU"], ["performance"], machine={"power_mode": "MAXN", "module": "Orin"}, environment={"OMP_NUM_THREADS": "1"})
    assert ran_differently(usual, usual) == ()
    other = result("1.21", ["CUDA", "CPU"], ["powersave"], machine={"power_mode": "15W", "module": "Orin"}, environment={})
    assert ran_differently(usual, other) == (
        "runtime version: 1.20 and 1.21",
        "execution providers: ['CPU'] and ['CUDA', 'CPU']",
        "power mode: MAXN and 15W",
        "governors: ['performance'] and ['powersave']",
        "environment variables: {'OMP_NUM_THREADS': '1'} and {}",
    )


def test_what_one_of_them_does_not_tell_is_no_difference() -> None:
    told = result("1.20", ["CPU"], ["performance"], machine={"turbo": True}, environment={})
    assert ran_differently(told, Result("ok")) == ran_differently(Result("failed", "signal 9"), told) == ()
