from __future__ import annotations

import json

from kdedge.estimate import Estimate
from kdedge.latency.telling import as_json, lines
from kdedge.measured import Latency

PLAIN = Latency("ok", "", notes=("no intervals: they need 6 launches, there are 2",), launches=2)


def estimate(name: str, value: float, unit: str = "mJ") -> Estimate:
    return Estimate(name, value, value - 1, value + 1, 6, unit)


def test_launches_that_all_counted_and_were_asked_for_nothing_more_say_nothing() -> None:
    assert (lines(PLAIN), as_json(PLAIN)) == ([], {})


def test_dropped_launches_are_said_and_told_one_by_one() -> None:
    latency = Latency("ok", "", notes=("dropped 1 of 2 launches: hot", *PLAIN.notes), launches=2, invalid=("", "hot"))
    assert lines(latency) == ["dropped 1 of 2 launches: hot"]
    assert as_json(latency) == {"invalid_launches": [None, "hot"]}


def test_energy_is_said_net_first_with_how_it_was_taken() -> None:
    energy = {
        "energy_gross": estimate("energy_gross", 12.5),
        "energy_net": estimate("energy_net", 10.5),
        "power_idle": estimate("power_idle", 1500, "mW"),
    }
    latency = Latency("ok", "", energy=energy, energy_reason="measured at VDD_IN")
    assert lines(latency) == ["energy of one inference: 10.5 mJ [9.5, 11.5] net, 12.5 mJ [11.5, 13.5] gross (measured at VDD_IN)"]
    told = json.loads(json.dumps(as_json(latency)))["energy"]
    assert (told["energy_net"]["value"], told["power_idle"]["unit"], told["reason"]) == (10.5, "mW", "measured at VDD_IN")


def test_energy_that_could_not_be_had_says_why() -> None:
    latency = Latency("ok", "", energy_reason="energy not-run: no supply of this machine can be read")
    assert lines(latency) == ["energy not-run: no supply of this machine can be read"]
    assert as_json(latency) == {"energy": {"reason": "energy not-run: no supply of this machine can be read"}}


def test_a_sustained_launch_is_said_in_one_sentence() -> None:
    figures = {"first_minute_ms": 10.0, "steady_ms": 15.0, "steady_ratio": 1.5, "seconds": 600.0, "throttled_after_seconds": 130.0}
    said = "sustained: 15 ms, 1.5 times its first minute (10 ms), throttled after 130 s; one launch of 600 s"
    assert lines(Latency("ok", "", sustained=figures)) == [said]
    assert "times its first third (10 ms)" in lines(Latency("ok", "", sustained={**figures, "seconds": 90.0}))[0]
    del figures["throttled_after_seconds"]
    assert "nothing throttled" in lines(Latency("ok", "", sustained=figures))[0]
    assert as_json(Latency("ok", "", sustained=figures)) == {"sustained": figures}
