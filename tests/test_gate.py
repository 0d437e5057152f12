from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdedge.artifact import Artifact, GraphFile, ImageEncoder, Lineage
from kdedge.errors import RecipeError
from kdedge.estimate import Estimate
from kdedge.gate import decide, parse_policy
from kdedge.latency.summary import Launch, summarize
from kdedge.measured import Audit, Cell, Fidelity, Latency, Status
from kdedge.runtimes.job import Result

Limits = tuple[float, float] | None


def figure(name: str, limits: Limits, value: float | None = None, unit: str = "fraction", n: int = 360) -> Estimate:
    low, high = limits or (None, None)
    middle = value if value is not None else (low + high) / 2 if low is not None and high is not None else 0.0
    return Estimate(name, middle, low, high, n, unit)


def cell(
    target: str = "onnxruntime-x86",
    precision: Any = "int8",
    device: str = "local",
    status: Status = "ok",
    reason: str = "",
    agreement: Limits = (0.97, 0.99),
    latency: Limits = (1.0, 1.2),
    size: int = 80_000,
    proxy: bool = False,
    **extra: Any,
) -> Cell:
    """A cell of round numbers; `extra` replaces fields of its fidelity (figures are added) and latency."""
    graph = GraphFile("main", (Path("model.onnx"),), (), ())
    lineage = Lineage("r", "t", "s", "0", "0")
    sha = f"{target}-{precision}-{extra.pop('sha', '')}"
    artifact = Artifact(target, precision, "onnx", "onnxruntime", target, (graph,), sha, size, {}, ImageEncoder((8, 8)), ("a", "b"), lineage)
    if status != "ok":
        return Cell(artifact, device, status, reason, Fidelity(status, reason), Latency(status, reason), proxy)
    figures = {"metric": figure("accuracy", (0.9, 0.94)), "agreement_student": figure("agreement_student", agreement), **extra.pop("figures", {})}
    fidelity = Fidelity("ok", "", figures=figures, largest_error=0.25)
    timed = {"latency_median": figure("latency_median", latency, unit="ms", n=10)} if latency else {}
    return Cell(artifact, device, status, reason, fidelity, Latency("ok", "", figures=timed, peak_memory_mb=64.0, **extra), proxy)


# ---- reading ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "text", "operator", "limit"),
    [
        ("accuracy", ">= 90 %", ">=", 0.9),
        ("metric", ">0.9", ">", 0.9),
        ("agreement_student", ">= 99.1%", ">=", 0.991),
        ("latency_median", "<= 2 ms", "<=", 2.0),
        ("latency_median", "<= 0.002 s", "<=", 2.0),
        ("latency_p90", "< 750us", "<", 0.75),
        ("size", "<= 1.5 MB", "<=", 1_500_000.0),
        ("size", "<= 2 KiB", "<=", 2048.0),
        ("peak_memory", "< 1GiB", "<", 2.0**30),
        ("kl_student", "<= 1e-3 nats", "<=", 0.001),
        ("sqnr_db", ">= 30 dB", ">=", 30.0),
        ("largest_error", "<= .5", "<=", 0.5),
        ("integer_share", ">= 90 %", ">=", 0.9),
    ],
)
def test_a_rule_is_read_into_the_unit_of_its_figure(key: str, text: str, operator: str, limit: float) -> None:
    (rule,) = parse_policy({key: text}, "accuracy").rules
    assert (rule.key, rule.operator, rule.limit) == (key, operator, limit)


@pytest.mark.parametrize(
    ("gate", "says"),
    [
        ({"latency_medain": "<= 2 ms"}, ["gate.latency_medain", "did you mean `latency_median`?", "agreement_student", "require"]),
        ({"agreement_student": "0.98"}, ["gate.agreement_student", "`0.98` is no rule", ">=, >, <=, <"]),
        ({"latency_median": "<= 2"}, ["gate.latency_median", "the unit is missing", "`s`, `ms`, `us`"]),
        ({"latency_median": "<= 2 MB"}, ["`MB` is not a unit of it", "`ms`"]),
        ({"size": "<= 2 mb"}, ["gate.size", "`mb` is not a unit", "`MB`"]),
        ({"agreement_teacher": ">= 90"}, ["gate.agreement_teacher", "between 0 and 1", "98 %"]),
        ({"size": "<= 1e999 B"}, ["gate.size", "too large"]),
        ({"size": 5}, ["gate.size", "`5` is no rule"]),
        ({"latency_p90": "<= -3 ms"}, ["gate.latency_p90", "`<= -3 ms`", "never below 0"]),
        ({"size": ">= -1 KB"}, ["gate.size", "never below 0"]),
        ({"accuracy": "=> 0.9"}, ["gate.accuracy", "`=> 0.9` is no rule"]),
        ({"require": "tensorrrt"}, ["gate.require", "did you mean `tensorrt`?", "onnxruntime-x86"]),
    ],
)
def test_a_bad_rule_names_the_key_and_what_is_allowed(gate: dict[str, Any], says: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_policy(gate, "accuracy")
    for part in says:
        assert part in str(caught.value)


def test_the_metric_goes_by_the_tasks_own_name() -> None:
    assert parse_policy({"bleu": ">= 30"}, "bleu").rules[0].limit == 30
    with pytest.raises(RecipeError, match="no such figure"):
        parse_policy({"accuracy": ">= 0.9"}, "bleu")
    verdict = decide(parse_policy({"bleu": ">= 0.8"}, "bleu"), [cell()])
    assert verdict.cells[0].rules[0].verdict == "pass"


def test_a_share_that_is_compared_with_a_percentage_is_told_apart() -> None:
    policy = parse_policy({"accuracy": ">= 90"}, "accuracy")
    (rule,) = decide(policy, [cell()]).cells[0].rules
    assert rule.verdict == "fail"
    assert rule.evidence.endswith("breaks `>= 90` (a share: write 0.9 or 90 %)")


@pytest.mark.parametrize(
    ("text", "parsed"),
    [("all", "all"), ("tensorrt", ("tensorrt",)), ("[openvino, tensorrt]", ("openvino", "tensorrt")), (["openvino"], ("openvino",))],
)
def test_required_targets_are_all_or_a_list(text: Any, parsed: Any) -> None:
    assert parse_policy({"require": text}).require == parsed


# ---- one rule --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "rule", "verdict"),
    [
        ((0.98, 0.99), ">= 0.98", "pass"),
        ((0.98, 0.99), "> 0.98", "inconclusive"),
        ((0.97, 0.99), ">= 0.98", "inconclusive"),
        ((0.96, 0.98), ">= 0.98", "inconclusive"),
        ((0.96, 0.97), ">= 0.98", "fail"),
        ((0.96, 0.98), "> 0.98", "fail"),
        ((0.96, 0.98), "<= 0.98", "pass"),
        ((0.96, 0.98), "< 0.98", "inconclusive"),
        ((0.98, 0.99), "< 0.98", "fail"),
        ((0.981, 0.99), "<= 0.98", "fail"),
        (None, ">= 0.1", "inconclusive"),
    ],
)
def test_a_rule_is_decided_by_the_whole_interval(limits: Limits, rule: str, verdict: str) -> None:
    decided = decide(parse_policy({"agreement_student": rule}), [cell(agreement=limits)])
    (found,) = decided.cells[0].rules
    assert found.verdict == verdict
    assert "agreement_student" in found.evidence
    assert decided.verdict == verdict
    assert decided.exit_code == {"pass": 0, "fail": 1, "inconclusive": 3}[verdict]


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.sampled_from([(">=", "<"), (">", "<=")]))
def test_a_rule_and_its_contrary_never_both_pass_and_never_both_fail(a: float, b: float, limit: float, pair: tuple[str, str]) -> None:
    here = cell(agreement=(min(a, b), max(a, b)))
    outcomes = [decide(parse_policy({"agreement_student": f"{operator} {limit:.17f}"}), [here]).verdict for operator in pair]
    assert sorted(outcomes) in (["fail", "pass"], ["inconclusive", "inconclusive"])


@pytest.mark.parametrize(
    ("key", "good", "bad"),
    [("size", "<= 80 KB", "< 80 KB"), ("largest_error", "<= 0.25", "< 0.25"), ("peak_memory", "<= 64 MB", "< 64 MB")],
)
def test_what_is_measured_once_is_decided_as_it_is(key: str, good: str, bad: str) -> None:
    assert decide(parse_policy({key: good}), [cell()]).verdict == "pass"
    assert decide(parse_policy({key: bad}), [cell()]).verdict == "fail"


def test_integers_that_ran_as_floats_can_fail_the_gate_and_what_was_not_audited_is_open() -> None:
    def ran(macs: dict[str, int]) -> Cell:
        here = cell()
        return dataclasses.replace(here, fidelity=dataclasses.replace(here.fidelity, audit=Audit((), macs)))

    rule = parse_policy({"integer_share": ">= 90 %"})
    assert decide(rule, [ran({"int8": 95, "fp32": 5})]).verdict == "pass"
    assert decide(rule, [ran({"int8": 60, "fp32": 40})]).verdict == "fail"
    assert decide(rule, [ran({"int8": 85, "unknown": 15})]).verdict == "fail"
    assert decide(rule, [cell()]).verdict == "inconclusive"


def test_a_figure_that_was_not_measured_is_inconclusive_and_says_why() -> None:
    no_teacher = decide(parse_policy({"agreement_teacher": ">= 0.9"}), [cell()])
    assert no_teacher.exit_code == 3
    assert "agreement_teacher was not measured" in no_teacher.reasons[0]
    refused = decide(parse_policy({"latency_p90": "<= 2 ms"}), [cell(notes=("latency_p90 needs 64 samples, launch 1 has 20",))])
    assert refused.exit_code == 3
    assert "needs 64 samples" in refused.reasons[0]


def test_five_launches_leave_a_latency_rule_open() -> None:
    figures = {"latency_median": figure("latency_median", None, 0.5, "ms", 5)}
    five = dataclasses.replace(cell(), latency=Latency("ok", "", figures=figures))
    verdict = decide(parse_policy({"latency_median": "<= 2 ms"}), [five])
    assert verdict.verdict == "inconclusive"
    assert "no interval: n = 5" in verdict.reasons[0]


# ---- targets ---------------------------------------------------------------------------------------------------------------


def test_an_empty_gate_passes_whatever_ran() -> None:
    verdict = decide(parse_policy({}), [cell(), cell(precision="fp32"), cell("tensorrt", status="not-run", reason="no CUDA device")])
    assert (verdict.verdict, verdict.exit_code) == ("pass", 0)
    assert [one.verdict for one in verdict.cells] == ["pass", "pass", "not-run"]


def test_a_target_ships_its_fastest_passing_artifact() -> None:
    slow, fast = cell(precision="fp32", latency=(3.0, 3.2), size=10), cell(precision="int8", latency=(1.0, 1.1), size=99)
    wrong = cell(precision="fp16", latency=(0.1, 0.2), agreement=(0.5, 0.6))
    verdict = decide(parse_policy({"agreement_student": ">= 0.9"}), [slow, wrong, fast])
    assert verdict.verdict == "pass"
    assert verdict.shipped == (fast,)
    assert "ships int8" in verdict.reasons[0]
    assert "fp16 fails: agreement_student" in verdict.reasons[0]


def test_equal_speed_is_decided_by_size_and_without_latency_the_smallest_ships() -> None:
    big, small = cell(precision="fp32", size=200), cell(precision="int8", size=100)
    assert decide(parse_policy({}), [big, small]).shipped == (small,)
    untimed = [cell(precision="fp32", size=200, latency=None), cell(precision="int8", size=100, latency=None)]
    assert decide(parse_policy({}), untimed).shipped == (untimed[1],)


def test_each_target_ships_for_itself() -> None:
    here, there = cell("onnxruntime-x86"), cell("openvino", precision="fp16")
    assert decide(parse_policy({}), [here, there]).shipped == (here, there)


def test_a_target_that_ran_without_a_passing_artifact_fails_the_run() -> None:
    verdict = decide(parse_policy({"agreement_student": ">= 0.9"}), [cell("openvino"), cell("onnxruntime-x86", agreement=(0.5, 0.6))])
    assert verdict.exit_code == 1
    assert [(target.target, target.verdict) for target in verdict.targets] == [("openvino", "pass"), ("onnxruntime-x86", "fail")]
    assert len(verdict.shipped) == 1


def test_an_undecided_artifact_leaves_its_target_open_unless_another_passes() -> None:
    policy = parse_policy({"agreement_student": ">= 0.98"})
    undecided, passing, failing = cell(), cell(precision="fp32", agreement=(0.99, 1.0)), cell(precision="fp16", agreement=(0.1, 0.2))
    assert decide(policy, [undecided, failing]).verdict == "inconclusive"
    assert decide(policy, [undecided, failing]).shipped == ()
    assert decide(policy, [undecided, passing, failing]).verdict == "pass"
    assert decide(policy, [undecided, cell("openvino", agreement=(0.1, 0.2))]).verdict == "fail"  # a proven failure outweighs doubt


def test_a_failed_cell_fails_and_its_reason_is_told() -> None:
    crashed = cell(status="failed", reason="signal 11")
    assert decide(parse_policy({}), [crashed]).exit_code == 1
    verdict = decide(parse_policy({}), [crashed, cell(precision="fp32")])
    assert verdict.cells[0].verdict == "fail"
    assert verdict.shipped[0].artifact.precision == "fp32"
    assert "int8 fails: failed: signal 11 (local)" in verdict.reasons[0]


def test_not_run_is_named_and_neutral_unless_required() -> None:
    cells = [cell(), cell("tensorrt", status="not-run", reason="no CUDA device")]
    neutral = decide(parse_policy({"size": "<= 1 MB"}), cells)
    assert neutral.verdict == "pass"
    assert "tensorrt: not run: no CUDA device (local)" in neutral.reasons
    for require in ("all", "tensorrt"):
        required = decide(parse_policy({"size": "<= 1 MB", "require": require}), cells)
        assert required.exit_code == 1
        assert "tensorrt: required, but not run: no CUDA device (local)" in required.reasons
    assert decide(parse_policy({"size": "<= 1 MB", "require": "onnxruntime-x86"}), cells).verdict == "pass"
    elsewhere = [*cells, cell("tensorrt", device="jetson")]
    assert decide(parse_policy({"require": "tensorrt"}), elsewhere).verdict == "pass"


def test_a_required_target_that_was_never_exported_fails() -> None:
    verdict = decide(parse_policy({"require": "openvino"}), [cell()])
    assert verdict.exit_code == 1
    assert "openvino: required, but not run: the recipe exports nothing for it" in verdict.reasons


def test_rules_that_nothing_ran_for_are_never_a_silent_pass() -> None:
    absent = cell("tensorrt", status="not-run", reason="no CUDA device")
    assert decide(parse_policy({"size": "<= 1 MB"}), [absent]).verdict == "inconclusive"
    assert decide(parse_policy({"size": "<= 1 MB"}), []).verdict == "inconclusive"
    assert decide(parse_policy({}), [absent]).verdict == "pass"


def test_a_proxys_fidelity_counts_and_its_latency_never() -> None:
    policy = parse_policy({"agreement_student": ">= 0.9", "latency_median": "<= 2 ms", "peak_memory": "<= 1 MB"})
    proxy = cell(proxy=True, device="emulated", latency=(500.0, 600.0))
    alone = decide(policy, [proxy])
    assert [rule.verdict for rule in alone.cells[0].rules] == ["pass", "not-counted", "not-counted"]
    assert alone.verdict == "inconclusive"
    assert "measured on proxies only" in alone.reasons[0]
    real = cell(device="board")
    fast_enough = decide(parse_policy({"latency_median": "<= 2 ms"}), [proxy, real])
    assert fast_enough.verdict == "pass"
    assert fast_enough.shipped == (real,)
    wrong_there = cell(proxy=True, device="emulated", agreement=(0.1, 0.2))
    assert decide(parse_policy({"agreement_student": ">= 0.9"}), [wrong_there, real]).verdict == "fail"


def test_a_proxys_latency_does_not_choose_what_ships() -> None:
    fast_on_proxy = cell(precision="fp16", proxy=True, latency=(0.1, 0.2), size=300)
    timed = cell(precision="int8", latency=(1.0, 1.2), size=900)
    assert decide(parse_policy({}), [fast_on_proxy, timed]).shipped == (timed,)


def test_an_artifact_must_pass_on_every_device_that_ran_it() -> None:
    policy = parse_policy({"latency_median": "<= 2 ms"})
    slow_there = [cell(device="desk"), cell(device="board", latency=(5.0, 6.0))]
    verdict = decide(policy, slow_there)
    assert verdict.exit_code == 1
    assert "(board)" in verdict.reasons[0]


# ---- a device that throttled -----------------------------------------------------------------------------------------------


def throttled(**changes: Any) -> Cell:
    """A cell whose fidelity was measured and during each of whose launches the device throttled."""
    reason = "invalid: in all 2 launches the CPU throttled because of heat (up to 9 events)"
    whole = cell(**changes)
    return dataclasses.replace(whole, status="failed", reason=reason, latency=Latency("failed", reason, launches=2, invalid=("hot", "hot")))


def test_a_device_that_throttled_fails_no_artifact_and_gives_no_latency() -> None:
    found = decide(parse_policy({"agreement_student": ">= 95 %", "latency_median": "<= 2 ms"}), [throttled()])
    assert (found.verdict, found.exit_code) == ("inconclusive", 4)
    by_rule = {rule.rule.key: rule.verdict for rule in found.cells[0].rules}
    assert by_rule == {"agreement_student": "pass", "latency_median": "inconclusive"}
    assert "in all 2 launches the CPU throttled" in found.targets[0].reason


def test_what_is_proven_wrong_fails_all_the_same() -> None:
    found = decide(parse_policy({"agreement_student": ">= 99.9 %"}), [throttled()])
    assert (found.verdict, found.exit_code) == ("fail", 1)


def test_an_invalid_latency_is_told_by_the_exit_code_where_nothing_asks_for_it() -> None:
    policy = parse_policy({"agreement_student": ">= 95 %"})
    assert decide(policy, [throttled()]).exit_code == 4
    assert decide(policy, [throttled(proxy=True)]).exit_code == 0  # a proxy's latency never counts
    assert decide(policy, [cell()]).exit_code == 0


# ---- absolute budgets of latency -------------------------------------------------------------------------------------------


def timed(tmp_path: Path, factors: tuple[float, ...], invalid: tuple[str, ...] = ()) -> Cell:
    """A cell with raw samples of launches: 500 iterations of 1 ms, 5 % apart, times a factor a launch; its figures are those of the profiler."""
    generator = np.random.default_rng(5)
    launches, files = [], []
    for number, factor in enumerate(factors):
        milliseconds = factor * np.exp(0.05 * generator.standard_normal(500))
        files.append(tmp_path / f"launch-{number:02d}.npy")
        np.save(files[-1], np.rint(milliseconds * 1e6).astype(np.int64))
        launches.append(Launch(milliseconds, Result("ok")))
    valid = [launch for launch, reason in zip(launches, invalid or ("",) * len(launches), strict=True) if not reason]
    latency = Latency("ok", "", figures=summarize(valid).figures, samples=tuple(files), launches=len(files), invalid=invalid)
    return dataclasses.replace(cell(), latency=latency)


def verdict_on(found: Cell, key: str, text: str) -> tuple[str, str]:
    rule = decide(parse_policy({key: text}), [found]).cells[0].rules[0]
    return rule.verdict, rule.evidence


@pytest.mark.parametrize("key", ["latency_median", "latency_p90"])
def test_a_budget_passes_under_the_upper_bound_fails_over_the_lower_one_and_is_open_between(key: str, tmp_path: Path) -> None:
    found = timed(tmp_path, (0.99, 1.0, 1.01) * 4)
    low, high = found.latency.figures[key].interval or (0.0, 0.0)
    assert 0.9 < low < high < 1.2
    assert verdict_on(found, key, f"<= {high * 1.02:.6f} ms")[0] == "pass"
    assert verdict_on(found, key, f"<= {(low + high) / 2:.6f} ms")[0] == "inconclusive"
    assert verdict_on(found, key, f"<= {low * 0.999:.6f} ms")[0] == "fail"


def test_a_p90_that_the_median_launch_meets_is_no_p90_of_all_where_some_launches_are_slow(tmp_path: Path) -> None:
    slow = timed(tmp_path, (1.0,) * 10 + (1.5,) * 2)
    limit = "<= 1.2 ms"
    figure_high = slow.latency.figures["latency_p90"].high
    assert figure_high is not None
    assert figure_high < 1.2  # by its figure alone the cell would pass, though a sixth of all iterations takes 1.5 ms
    verdict, evidence = verdict_on(slow, "latency_p90", limit)
    assert verdict == "inconclusive"  # two launches of twelve are no proof either
    assert "over all 12 launches together 1.4" in evidence
    many = timed(tmp_path, (1.0,) * 66 + (1.5,) * 34)
    assert verdict_on(many, "latency_p90", limit)[0] == "fail"
    assert "some launches are slower" in verdict_on(many, "latency_p90", limit)[1]


def test_launches_during_which_the_machine_throttled_count_for_no_budget(tmp_path: Path) -> None:
    found = timed(tmp_path, (1.0,) * 10 + (1.5,) * 2, invalid=("",) * 10 + ("hot",) * 2)
    assert verdict_on(found, "latency_p90", "<= 1.2 ms")[0] == "pass"


def test_a_budget_whose_samples_are_gone_is_open(tmp_path: Path) -> None:
    found = timed(tmp_path, (1.0,) * 12)
    found.latency.samples[3].unlink()
    verdict, evidence = verdict_on(found, "latency_p90", "<= 1.2 ms")
    assert verdict == "inconclusive"
    assert "raw samples" in evidence
    assert verdict_on(found, "latency_median", "<= 1.2 ms")[0] == "pass"


# ---- a device that was lost ------------------------------------------------------------------------------------------------


def lost(**changes: Any) -> Cell:
    """A cell whose device was gone before its artifact had answered."""
    reason = "device `orin`: the connection broke (tried for 180 s)"
    return dataclasses.replace(cell(status="failed", reason=reason, **changes), fidelity=Fidelity("failed", reason, lost=True))


def test_a_lost_device_fails_no_artifact_and_is_an_invalid_measurement() -> None:
    policy = parse_policy({"agreement_student": ">= 95 %"})
    alone = decide(policy, [lost()])
    assert (alone.verdict, alone.exit_code) == ("inconclusive", 4)
    assert alone.shipped == ()
    beside = decide(policy, [lost(device="orin"), cell()])
    assert (beside.verdict, beside.exit_code) == ("pass", 4)
    assert [each.device for each in beside.shipped] == ["local"]
    assert "the device could not be measured on: device `orin`" in beside.cells[0].reason


def test_a_failure_that_is_proven_counts_more_than_a_device_that_was_lost() -> None:
    found = decide(parse_policy({"agreement_student": ">= 99.9 %"}), [lost(device="orin"), cell()])
    assert (found.verdict, found.exit_code) == ("fail", 1)


def test_a_device_that_was_lost_between_fidelity_and_latency_is_no_fault_of_the_artifact() -> None:
    latency = Latency("failed", "launch 2 of 6: the connection broke", lost=True)
    found = decide(parse_policy({"agreement_student": ">= 95 %"}), [dataclasses.replace(cell(), status="failed", latency=latency)])
    assert (found.verdict, found.exit_code) == ("pass", 4)
