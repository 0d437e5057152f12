from __future__ import annotations

from typing import Any

import pytest

from kdedge.latency.validity import CONCERNS, concerns, describe, drops_pair, invalid_because, invalid_together
from kdedge.runtimes.job import Result

QUIET: dict[str, Any] = {
    "throttle_events": 7,
    "cgroup_throttled_us": 1000,
    "steal_ticks": 50,
    "cpu_khz": {"cpu0": 3_000_000, "cpu1": 800_000},
    "load_average": [0.9, 0.5, 0.1],
    "affinity": [0, 1],
}


def result(seconds: float = 2.0, after: dict[str, Any] | None = None, **before: Any) -> Result:
    return Result("ok", loop_seconds=seconds, evidence={"before": {**QUIET, **before}, "after": {**QUIET, **before, **(after or {})}})


def test_a_quiet_machine_raises_no_concern_and_neither_does_one_that_tells_nothing() -> None:
    assert concerns(result()) == {}
    assert concerns(Result("ok")) == {}
    assert describe([result(), Result("ok")]) == []


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({"throttle_events": 9}, {"throttled": 2.0}),
        ({"cgroup_throttled_us": 41_000}, {"quota": 40.0}),  # 2 % of the loop
        ({"cgroup_throttled_us": 401_000}, {"quota_stop": 20.0}),
        ({"steal_ticks": 52}, {}),  # 20 ms of 2 s: 1 %, as much as a quiet host has
        ({"steal_ticks": 60}, {"stolen": 100.0}),
        ({"cpu_khz": {"cpu0": 1_500_000, "cpu1": 800_000}}, {"clock": 50.0}),
        ({"cpu_khz": {"cpu0": 3_000_000, "cpu1": 400_000}}, {}),  # an idle core may slow down
    ],
)
def test_what_changed_during_a_launch_is_a_concern(after: dict[str, Any], expected: dict[str, float]) -> None:
    assert concerns(result(after=after)) == pytest.approx(expected)


def test_a_board_whose_gpu_memory_or_engines_others_used_before_is_a_concern_and_counts() -> None:
    busy = result(activity={"gpu_percent": 42, "emc_percent": 3, "engines": {"NVENC": 79}})
    assert concerns(busy) == {"board_busy": 79.0}
    assert invalid_because(busy) == ""
    assert concerns(result(activity={"gpu_percent": 2, "emc_percent": 4, "emc_mhz": 3199})) == {}
    # Behind a launch it is the launch's own.
    assert concerns(result(after={"activity": {"gpu_percent": 90}})) == {}


def test_a_machine_that_was_busy_before_is_a_concern() -> None:
    assert concerns(result(load_average=[5.0, 1.0, 1.0])) == {"busy": 2.5}


def test_people_read_how_many_launches_were_touched_and_the_worst() -> None:
    launches = [result(), result(after={"throttle_events": 8}), result(after={"throttle_events": 19})]
    assert describe(launches) == ["2 of 3 launches: the CPU throttled because of heat (up to 12 events)"]


def jetson(events: int, throttles: bool = True) -> dict[str, Any]:
    return {"over_current": {"oc1": {"events": 3, "throttles": True}, "oc3": {"events": events, "throttles": throttles}}}


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (jetson(41), jetson(41), ""),
        (jetson(41), jetson(48), "over_current"),
        (jetson(41, throttles=False), jetson(48, throttles=False), "over_current_only"),
        ({"pi_throttled": 0x0}, {"pi_throttled": 0x0}, ""),
        ({"pi_throttled": 0x0}, {"pi_throttled": 0x10000}, "under_voltage"),
        ({"pi_throttled": 0x0}, {"pi_throttled": 0x40004}, "board_throttled"),
        ({"pi_throttled": 0x50000}, {"pi_throttled": 0x50000}, "masked"),
        ({"thermal_status": 0}, {"thermal_status": 0}, ""),
        ({"thermal_status": 0}, {"thermal_status": 1}, "thermal_light"),
        ({"thermal_status": 2}, {"thermal_status": 0}, "thermal_status"),
        ({"gpu_hz": {"gpu": 1_020_000_000}}, {"gpu_hz": {"gpu": 612_000_000}}, "gpu_clock"),
        ({}, {"memory_available_bytes": 10, "memory_total_bytes": 1000}, "memory"),
    ],
)
def test_what_boards_and_phones_tell(before: dict[str, Any], after: dict[str, Any], kind: str) -> None:
    found = concerns(Result("ok", loop_seconds=2.0, evidence={"before": before, "after": after}))
    assert list(found) == ([kind] if kind else [])
    assert bool(invalid_because(Result("ok", loop_seconds=2.0, evidence={"before": before, "after": after}))) == (
        kind in ("over_current", "under_voltage", "board_throttled", "thermal_status")
    )


def test_a_counter_that_appears_meanwhile_is_no_event() -> None:
    assert concerns(Result("ok", evidence={"before": {}, "after": jetson(7)})) == {}


def test_throttling_invalidates_and_a_disturbance_only_warns() -> None:
    assert invalid_because(result(after={"throttle_events": 9})) == "the CPU throttled because of heat (up to 2 events)"
    assert invalid_because(result(after={"cgroup_throttled_us": 401_000})) == "the container's CPU quota stopped processes (up to 20 % of the time)"
    for after in ({"steal_ticks": 60}, {"cgroup_throttled_us": 41_000}, {"cpu_khz": {"cpu0": 1_000_000}}):
        assert concerns(result(after=after))
        assert invalid_because(result(after=after)) == ""
    assert invalid_because(Result("ok")) == ""


def test_every_concern_says_why_it_does_or_does_not_invalidate() -> None:
    for concern in CONCERNS.values():
        assert concern.why
        assert concern.sentence.format(1.0)


def test_of_invalid_launches_only_what_made_them_so_is_said_and_the_worst_once() -> None:
    launches = [result(after={"throttle_events": 8, "steal_ticks": 60}), result(after={"throttle_events": 12})]
    assert invalid_together(launches) == "the CPU throttled because of heat (up to 5 events)"
    assert len(describe(launches)) == 2


# ---- who else had the processors -------------------------------------------------------------------------------------------


def looped(
    waited: tuple[float, ...] = (0.0,), *, ran: float = 1.0, others: float = 0.0, cores: int = 2, ends: tuple[int, int] = (0, 0), **facts: Any
) -> Result:
    """A loop of 2 s. `waited`: of each thread, a share of it, while it ran for `ran` of it; `others`: cores that other processes used; `ends`: the
    cores that all threads began and ended on."""
    seconds = 2.0
    before = {
        "busy_ms": 7000.0,
        "own_ms": 500.0,
        "switches": {"voluntary": 5, "involuntary": 9},
        "threads": {str(10 + number): {"ran_ns": 3_000, "waited_ns": 8_000, "core": ends[0]} for number in range(len(waited))},
    }
    own = 1000 * seconds * ran * len(waited)
    after = {
        "busy_ms": 7000.0 + own + 1000 * seconds * others,
        "own_ms": 500.0 + own,
        "switches": {"voluntary": 5, "involuntary": 9 + facts.pop("taken_away", 0)},
        "threads": {
            str(10 + number): {"ran_ns": 3_000 + int(ran * seconds * 1e9), "waited_ns": 8_000 + int(share * seconds * 1e9), "core": ends[1]}
            for number, share in enumerate(waited)
        },
    }
    for name in ("migrations", "pressure_us"):
        if name in facts:
            before[name], after[name] = 100, 100 + facts.pop(name)
    return Result("ok", facts={"loop": {"seconds": seconds, "cores": cores, "before": before, "after": after, **facts}})


TWO_KINDS = {"0": "capacity 1024", "1": "capacity 1024", "2": "capacity 400", "3": "capacity 400"}


@pytest.mark.parametrize(
    ("launch", "expected", "counts"),
    [
        (looped(), {}, True),
        (looped(others=0.15), {}, True),  # 7.5 % of two cores: what a system does by itself
        (looped(others=1.0), {"loaded": 1.0}, True),  # the other core is busy; none waited
        (looped((0.04,)), {}, True),
        (looped((0.5,), ran=0.5, others=1.5), {"shared": 50.0, "loaded": 1.5}, False),
        (looped((0.01, 0.06), others=0.2), {"shared": 6.0}, False),  # the thread that waited most holds the others up
        (looped((0.5, 0.4, 0.5), ran=0.5), {"crowded": 50.0}, True),  # three busy threads on two cores: nobody else
        (looped((0.3,), ran=0.7, cores=1), {"shared": 30.0}, False),
        (looped(taken_away=100), {}, True),
        (looped(taken_away=500), {"interrupted": 250.0}, True),
        (looped(pressure_us=1_000_000), {"pressure": 50.0}, True),
        (looped(pressure_us=100_000), {}, True),
        (looped(ends=(0, 1)), {}, True),  # alike, or nobody says otherwise
        (looped(ends=(0, 1), core_kinds=TWO_KINDS), {}, True),
        (looped(ends=(0, 2), core_kinds=TWO_KINDS), {"migrated": 1.0}, False),
        (looped((0.0, 0.0), ends=(3, 1), core_kinds=TWO_KINDS), {"migrated": 2.0}, False),
        (looped(ends=(0, 7), core_kinds=TWO_KINDS), {}, True),  # of core 7 nothing is known
        (looped(ends=(0, 0), migrations=3, core_kinds=TWO_KINDS), {"moved": 3.0}, True),
        (looped(migrations=3), {}, True),
    ],
)
def test_a_loop_that_shared_its_core_drops_its_pair_and_a_busy_neighbour_does_not(launch: Result, expected: dict[str, float], counts: bool) -> None:
    assert concerns(launch) == pytest.approx(expected)
    assert (drops_pair(launch) == ()) == counts
    assert invalid_because(launch) == ""  # a profile keeps such a launch, with a note


def test_a_thread_that_hardly_ran_says_nothing_and_neither_does_one_that_came_or_went() -> None:
    launch = looped((0.02,), ran=0.01, ends=(0, 2), core_kinds=TWO_KINDS)
    assert concerns(launch) == {}
    loop = looped((0.5,), ran=0.5).facts["loop"]
    for side in ("before", "after"):
        assert concerns(Result("ok", facts={"loop": {**loop, side: {**loop[side], "threads": {}}}})) == {}


def test_what_a_sandbox_hides_is_no_concern() -> None:
    whole = looped((0.5,), ran=0.5, others=1.5, taken_away=500, pressure_us=1_000_000, migrations=1, core_kinds=TWO_KINDS).facts["loop"]
    assert set(concerns(Result("ok", facts={"loop": whole}))) == {"shared", "loaded", "interrupted", "pressure", "moved"}
    for hidden in (
        {"seconds": 2.0},
        {"seconds": 2.0, "before": {}, "after": {}},
        {**whole, "before": {}},
        {**whole, "after": {}},
        {**whole, "seconds": 0},
        {},
    ):
        assert concerns(Result("ok", facts={"loop": hidden})) == {}


def test_what_invalidates_a_launch_drops_its_pair_too() -> None:
    assert drops_pair(result(after={"throttle_events": 9})) == ("throttled",)
    assert drops_pair(Result("ok", facts=looped((0.5,)).facts, evidence=result(after={"throttle_events": 9}).evidence)) == ("throttled", "shared")
