"""The order of the search, on layers whose worth is known: nothing is run, every number can be added up on paper."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdedge.artifact import MixedTrial
from kdedge.errors import RecipeError
from kdedge.exporters.quantize.budget import Budget, read_budget
from kdedge.exporters.quantize.mixed_search import Layer, Outcome, _Search, search
from kdedge.recipe import MixedSection


class World:
    """Layers that lose `loss` nats each while they are integer and cost `cost` ms each while they are float; both add up."""

    def __init__(self, losses: dict[str, float], costs: dict[str, float], base_ms: float = 1.0) -> None:
        self.losses, self.costs, self.base_ms = losses, costs, base_ms
        self.tried: list[tuple[str, ...]] = []
        self.sensed: list[tuple[str, ...]] = []

    def distance(self, kept: tuple[str, ...]) -> float:
        self.sensed.append(kept)
        return self.kl(kept)

    def kl(self, kept: tuple[str, ...]) -> float:
        return sum(loss for name, loss in self.losses.items() if name not in kept)

    def measure(self, kept: tuple[str, ...]) -> MixedTrial:
        self.tried.append(kept)
        return MixedTrial(kept, self.kl(kept), 1 - self.kl(kept), self.base_ms + sum(self.costs[name] for name in kept))

    def search(self, limit: int = 24, **budget: str) -> Outcome:
        layers = [Layer(name, self.costs[name]) for name in self.losses]
        return search(layers, self.distance, self.measure, read_budget(MixedSection(**budget)), limit)  # type: ignore[arg-type]


def small() -> World:
    # Worth for a millisecond: a 0.1, b 0.4, c 0.05, d 0.3.
    return World({"a": 0.010, "b": 0.008, "c": 0.005, "d": 0.003}, {"a": 0.10, "b": 0.02, "c": 0.10, "d": 0.01})


def test_layers_are_taken_by_what_they_are_worth_for_a_millisecond() -> None:
    world = small()
    found = world.search(kl_student="<= 0.0051")
    assert world.tried[:4] == [(), ("b",), ("b", "d"), ("a", "b", "d")]
    assert found.chosen.kept == ("a", "b", "d")
    assert found.chosen.chosen
    assert found.chosen.kl == pytest.approx(0.005)
    assert [trial.chosen for trial in found.trials].count(True) == 1


def test_what_later_layers_made_unnecessary_becomes_integer_again() -> None:
    # b and d are worth more for a millisecond and come first, and a alone would have been enough.
    world = World({"a": 0.020, "b": 0.004, "d": 0.003}, {"a": 0.10, "b": 0.01, "d": 0.01})
    found = world.search(kl_student="<= 0.0071")
    assert world.tried == [(), ("b",), ("b", "d"), ("a", "b", "d"), ("a", "b"), ("a",)]
    assert found.chosen.kept == ("a",)


def test_integers_that_are_close_enough_cost_one_trial() -> None:
    world = small()
    found = world.search(kl_student="<= 0.03")
    assert found.chosen.kept == ()
    assert len(found.trials) == 1
    assert world.sensed == []


def test_a_layer_that_breaks_the_hard_limit_of_latency_is_left_out_and_the_next_is_tried() -> None:
    world = small()
    found = world.search(kl_student="<= 0.012", latency_median="<= 1.05 ms")
    assert all(trial.latency_ms is not None and trial.latency_ms <= 1.05 for trial in found.trials if trial.chosen)
    assert found.chosen.kept == ("b", "d")
    assert ("a", "b", "d") in world.tried
    assert ("b", "c", "d") in world.tried
    assert "is not met" in found.note


def test_a_budget_that_cannot_be_met_gives_the_best_and_says_by_how_much_it_fails() -> None:
    found = World({"a": 0.004, "b": 0.004}, {"a": 0.1, "b": 0.1}).search(limit=2, kl_student="<= 0.002")
    assert found.chosen.kept == ("a", "b")  # two at once, since two trials are all there are
    assert found.chosen.kl == 0.0
    stuck = World({"a": 0.004, "b": 0.003}, {"a": 0.1, "b": 0.1}).search(kl_student="<= 0.002", latency_median="<= 1.15 ms")
    assert stuck.chosen.kept == ("a",)
    assert "`kl_student <= 0.002, latency_median <= 1.15 ms` is not met: the best loses 50 % more than allowed" in stuck.note
    assert "1 of 2 layers stay float32" in stuck.note


def test_integers_that_are_too_slow_already_are_given_as_the_fastest_there_is() -> None:
    found = small().search(kl_student="<= 0.5", latency_median="<= 0.5 ms")
    assert found.chosen.kept == ()
    assert "100 % longer than allowed" in found.note


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 24])
def test_no_more_trials_are_made_than_the_cap_allows(limit: int) -> None:
    losses = {f"layer{number}": 0.001 * (number + 1) for number in range(40)}
    world = World(losses, dict.fromkeys(losses, 0.01))
    found = world.search(limit=limit, kl_student="<= 0")
    assert len(world.tried) == len(found.trials) <= limit
    if limit > 1:  # few trials still reach all layers, many at once
        assert found.chosen.kl == pytest.approx(0.0)


def test_a_gain_that_another_layer_has_taken_away_is_measured_again() -> None:
    # a and b mend the same error: once one is float, the other is worth nothing, and c comes before it.
    def kl(kept: tuple[str, ...]) -> float:
        return (0.0 if set(kept) & {"a", "b"} else 0.01) + (0.0 if "c" in kept else 0.004)

    tried: list[tuple[str, ...]] = []

    def measure(kept: tuple[str, ...]) -> MixedTrial:
        tried.append(kept)
        return MixedTrial(kept, kl(kept), 1.0, None)

    layers = [Layer("a", 1.0), Layer("b", 1.0), Layer("c", 1.0)]
    found = search(layers, kl, measure, read_budget(MixedSection(kl_student="<= 0.001")), 24)
    assert tried[:3] == [(), ("a",), ("a", "c")]
    assert found.chosen.kept == ("a", "c")


def test_a_layer_that_makes_things_worse_when_it_is_float_is_not_taken_by_itself() -> None:
    world = World({"a": -0.01, "b": 0.02}, {"a": 0.1, "b": 0.1})
    found = world.search(kl_student="<= -1")
    assert world.tried == [(), ("b",), ("a", "b")]
    assert found.chosen.kept == ("b",)
    assert "no other layer brings it closer" in found.note


def test_a_trial_whose_launch_failed_is_not_chosen_for_what_its_layers_are_thought_to_cost() -> None:
    # Layers cost hundredths of a millisecond more, a whole call a millisecond: the two do not compare.
    losses = {"a": 0.004, "b": 0.003}

    def measure(kept: tuple[str, ...]) -> MixedTrial:
        kl = sum(loss for name, loss in losses.items() if name not in kept)
        return MixedTrial(kept, kl, 1 - kl, None if kept == ("a", "b") else 1.0 + 0.1 * len(kept))

    def distance(kept: tuple[str, ...]) -> float:
        return sum(loss for name, loss in losses.items() if name not in kept)

    layers = [Layer("a", 0.01), Layer("b", 0.01), Layer("c", 0.01)]
    outcome = _Search(layers, distance, measure, read_budget(MixedSection(kl_student="<= 0.0035")), 9, "float32")
    outcome.trials = [measure(("a", "b")), measure(("a",))]
    assert outcome._outcome().chosen.kept == ("a",)


def test_a_limit_of_latency_that_was_never_measured_is_not_said_to_be_met() -> None:
    budget = read_budget(MixedSection(kl_student="<= 1", latency_median="<= 2 ms"))
    found = search([Layer("a", 1.0)], lambda kept: 0.0, lambda kept: MixedTrial(kept, 0.0, 1.0, None), budget, 4)
    assert "is met, as far as it was measured (no latency)" in found.note


def test_layers_that_help_only_together_are_found() -> None:
    # The errors of a and b cancel each other as long as both are integer or both are float.
    def kl(kept: tuple[str, ...]) -> float:
        return (0.05 if len({"a", "b"} & set(kept)) == 1 else 0.0) + (0.01 if not {"a", "b"} <= set(kept) else 0.0)

    layers = [Layer(name, 1.0) for name in ("a", "b", "c")]
    found = search(layers, kl, lambda kept: MixedTrial(kept, kl(kept), 1.0, None), read_budget(MixedSection(kl_student="<= 0.001")), 24)
    assert found.chosen.kept == ("a", "b")


@settings(max_examples=60, deadline=None)
@given(
    losses=st.lists(st.floats(0.0001, 1.0), min_size=1, max_size=12),
    costs=st.lists(st.floats(0.0, 1.0), min_size=12, max_size=12),
    share=st.floats(0.0, 1.0),
    limit=st.integers(1, 30),
)
def test_the_choice_is_always_the_best_of_what_was_tried(losses: list[float], costs: list[float], share: float, limit: int) -> None:
    names = [f"n{number}" for number in range(len(losses))]
    world = World(dict(zip(names, losses, strict=True)), dict(zip(names, costs, strict=False)))
    ceiling = sum(losses) * share
    found = world.search(limit=limit, kl_student=f"<= {ceiling:.12f}")
    assert len(found.trials) <= limit
    met = [trial for trial in found.trials if trial.kl <= round(ceiling, 12)]
    if met:
        assert found.chosen.kl <= round(ceiling, 12)
        assert found.chosen.latency_ms == min(trial.latency_ms or 0.0 for trial in met)
        assert "is met" in found.note
    else:
        assert found.chosen.kl == min(trial.kl for trial in found.trials)
        assert "is not met" in found.note


# ---- the budget ------------------------------------------------------------------------------------------------------------


def test_a_budget_is_read_in_its_units() -> None:
    budget = read_budget(MixedSection(agreement_student=">= 99 %", kl_student="< 2e-3 nats", latency_median="<= 340 us"))
    assert budget.agreement is not None
    assert budget.kl is not None
    assert budget.latency is not None
    assert (budget.agreement.limit, budget.kl.limit, budget.latency.limit) == pytest.approx((0.99, 0.002, 0.34))
    assert budget.met(0.0019, 0.99)
    assert not budget.met(0.002, 0.99)
    assert not budget.met(0.0019, 0.9899)
    assert str(budget) == "agreement_student >= 99 %, kl_student < 2e-3 nats, latency_median <= 340 us"


def test_a_shortfall_is_a_share_of_what_is_allowed() -> None:
    budget = read_budget(MixedSection(agreement_student=">= 0.99", kl_student="<= 0.002"))
    assert budget.shortfall(0.001, 0.995) == 0.0
    assert budget.shortfall(0.003, 0.995) == pytest.approx(0.5)
    assert budget.shortfall(0.003, 0.97) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ({"agreement_student": "<= 0.99"}, "at least"),
        ({"kl_student": ">= 0.1"}, "at most"),
        ({"kl_student": "<= 0.1 ms"}, "`ms` is not a unit of it"),
        ({"kl_student": "<= 1", "latency_median": "<= 2"}, "allowed: `s`, `ms`"),
        ({"agreement_student": ">= 99"}, "write it as 0.98 or as 98 %"),
        ({"kl_student": "<= 1e999"}, "too large"),
        ({"kl_student": "<= 1", "latency_median": "<= 0 ms"}, "nothing takes no time"),
    ],
)
def test_a_condition_that_makes_no_sense_is_named(section: dict[str, str], named: str) -> None:
    with pytest.raises(RecipeError, match=r"quantize\.mixed\.") as error:
        read_budget(MixedSection(**section))  # type: ignore[arg-type]
    assert named in str(error.value)


def test_a_share_in_percent_is_the_number_that_was_written() -> None:
    budget = read_budget(MixedSection(agreement_student=">= 57 %"))  # 57 * 0.01 is 0.5700000000000001 in binary
    assert budget.met(0.0, 57 / 100)
    assert not budget.met(0.0, 0.5699)


def test_a_missing_side_of_a_budget_asks_for_nothing() -> None:
    budget: Budget = read_budget(MixedSection(agreement_student="> 0.5"))
    check: Callable[[float, float], bool] = budget.met
    assert check(100.0, 0.51)
    assert not check(0.0, 0.5)
    assert budget.fast_enough(1e9)
