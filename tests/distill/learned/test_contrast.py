from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from loss_world import backward, feature
from torch import Tensor, distributed
from torch.multiprocessing.spawn import spawn

from kdedge.distill.learned import TapShapes
from kdedge.distill.learned.contrast import Contrast
from kdedge.distill.losses.crd import crd_loss
from kdedge.errors import TrainingError

SAMPLES = 40


def _learned(seed: int = 0, student: tuple[int, ...] = (6,), teacher: tuple[int, ...] = (8,), **parameters: Any) -> Contrast:
    torch.manual_seed(seed)
    return Contrast(TapShapes((student,), (teacher,), SAMPLES, 4), **{"dimension": 5, "negatives": 7, **parameters})


def _step(samples: list[int], seed: int = 0, labels: bool = False) -> dict[str, Tensor]:
    places = torch.tensor(samples)
    tensors = {
        "student_pooled": feature(len(samples), 6, seed=seed, dtype=torch.float32),
        "teacher_pooled": feature(len(samples), 8, seed=seed + 1, dtype=torch.float32),
        "samples": places,
    }
    # A target that is no class leaves no negative out.
    return {**tensors, "labels": places % 4 if labels else torch.zeros(len(samples))}


def test_scores_are_the_log_odds_of_the_formula() -> None:
    learned, tensors = _learned().double(), _step([3, 0, 39])
    tensors = {name: value.double() if value.is_floating_point() else value for name, value in tensors.items()}
    banks = learned.student_bank.clone(), learned.teacher_bank.clone()
    torch.manual_seed(5)
    given = learned(**tensors)
    torch.manual_seed(5)
    others = torch.randint(SAMPLES - 1, (3, 7))
    for side, bank, embedding in (("student", banks[1], learned.student_embedding), ("teacher", banks[0], learned.teacher_embedding)):
        embedded = embedding(tensors[f"{side}_pooled"])
        embedded = embedded / embedded.square().sum(1, keepdim=True).sqrt()
        p = torch.empty(3, 8, dtype=torch.float64)
        for row, own in enumerate([3, 0, 39]):
            chosen = [own] + [int(place) + (int(place) >= own) for place in others[row]]
            assert own not in chosen[1:]
            assert max(chosen) < SAMPLES
            p[row] = torch.stack([(embedded[row] @ bank[place] / 0.07).exp() for place in chosen])
        p = p / (p.mean() * SAMPLES)
        odds = p / (7 / SAMPLES)
        torch.testing.assert_close(given[f"learned_{side}_scores"], odds.log())


def test_at_the_start_the_loss_is_that_of_knowing_nothing() -> None:
    # p is 1 / M for every pair, so the odds of each are 1 to K.
    learned = _learned(negatives=30)
    with torch.no_grad():
        for bank in (learned.student_bank, learned.teacher_bank):
            bank.copy_(torch.eye(SAMPLES, 5)[:1].expand(SAMPLES, 5))
    expected = 2 * (math.log(1 + 30) + 30 * math.log(1 + 1 / 30))
    assert crd_loss(**learned(**_step([7]))).item() == pytest.approx(expected, rel=1e-5)


def test_both_ways_to_the_products_give_the_same_scores() -> None:
    # 8 * 4 < 40 takes the chosen rows; 8 * 4 < 20 does not hold, so all products.
    torch.manual_seed(0)
    bank, embeddings, chosen = feature(40, 4), feature(3, 4, seed=1), torch.randint(20, (3, 8))
    rows, products = _learned(dimension=4), _learned(dimension=4)
    torch.testing.assert_close(rows._products(embeddings, bank, chosen), products._products(embeddings, bank[:20], chosen))


@pytest.mark.parametrize("negatives", [3, 30])
def test_the_gradient_reaches_both_embeddings_and_the_student_but_not_the_teacher(negatives: int) -> None:
    # Both ways to the products; the banks move before the gradient is computed, and it must not notice.
    learned, tensors = _learned(negatives=negatives).double(), _step([1, 2])
    tensors = {name: value.double() if value.is_floating_point() else value for name, value in tensors.items()}
    student, teacher = tensors["student_pooled"].requires_grad_(), tensors["teacher_pooled"].requires_grad_()
    backward(crd_loss(**learned(**tensors)))
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in learned.parameters())
    learned.eval()

    def loss(given: Tensor, *_: Tensor) -> Tensor:
        torch.manual_seed(1)
        return crd_loss(**learned(**{**tensors, "student_pooled": given}))

    assert torch.autograd.gradcheck(loss, (student.detach().clone().requires_grad_(), *learned.parameters()))


def test_the_memory_moves_towards_the_new_embedding_and_stays_of_unit_length() -> None:
    learned, tensors = _learned(momentum=0.5), _step([3, 9])
    fresh = {
        "student": torch.nn.functional.normalize(learned.student_embedding(tensors["student_pooled"]), dim=1),
        "teacher": torch.nn.functional.normalize(learned.teacher_embedding(tensors["teacher_pooled"]), dim=1),
    }
    before = {name: learned.get_buffer(f"{name}_bank").clone() for name in fresh}
    learned(**tensors)
    for name, embedding in fresh.items():
        after = learned.get_buffer(f"{name}_bank")
        places = torch.tensor([3, 9])
        middle = before[name][places] / 2 + embedding / 2
        torch.testing.assert_close(after[places], middle / middle.norm(dim=1, keepdim=True))
        assert (after[places] * embedding).sum(1).gt((before[name][places] * embedding).sum(1)).all()
        torch.testing.assert_close(after.norm(dim=1), torch.ones(SAMPLES))
        untouched = [place for place in range(SAMPLES) if place not in (3, 9)]
        assert torch.equal(after[untouched], before[name][untouched])


def test_in_evaluation_nothing_is_remembered() -> None:
    learned = _learned()
    learned(**_step([1], seed=4))
    before = {name: value.clone() for name, value in learned.state_dict().items()}
    learned.eval()(**_step([3, 9]))
    assert all(torch.equal(value, before[name]) for name, value in learned.state_dict().items())


def test_the_normalisation_is_estimated_once() -> None:
    learned = _learned()
    assert learned.log_z.tolist() == [-math.inf, -math.inf]
    learned(**_step([1, 2]))
    first = learned.log_z.clone()
    assert torch.isfinite(first).all()
    learned(**_step([3, 4], seed=8))
    assert torch.equal(learned.log_z, first)


def test_the_same_seed_draws_the_same_negatives() -> None:
    def scores(seed: int) -> Tensor:
        learned = _learned()
        torch.manual_seed(seed)
        found: Tensor = learned(**_step([1, 2]))["learned_student_scores"]
        return found

    assert torch.equal(scores(1), scores(1))
    assert not torch.equal(scores(1), scores(2))


def test_a_state_dict_round_trip_continues_bit_for_bit() -> None:
    one, other = _learned(seed=0), _learned(seed=1)
    torch.manual_seed(2)
    one(**_step([1, 2, 3], labels=True))
    file = io.BytesIO()
    torch.save({"learned": one.state_dict(), "random": torch.get_rng_state()}, file)
    straight = [one(**_step([4, 5, 1], seed=seed, labels=True)) for seed in (3, 4)]
    file.seek(0)
    kept = torch.load(file, weights_only=True)
    other.load_state_dict(kept["learned"])
    torch.set_rng_state(kept["random"])
    resumed = [other(**_step([4, 5, 1], seed=seed, labels=True)) for seed in (3, 4)]
    for a, b in zip(straight, resumed, strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_examples_of_the_same_class_are_no_negatives_once_their_label_is_known() -> None:
    learned = _learned(negatives=39)
    first = learned(**_step(list(range(SAMPLES)), labels=True))["learned_student_scores"]
    assert torch.isfinite(first).all()
    torch.manual_seed(3)
    scores = learned(**_step([8, 9], labels=True))["learned_student_scores"]
    torch.manual_seed(3)
    others = torch.randint(SAMPLES - 1, (2, 39))
    others = others + (others >= torch.tensor([[8], [9]]))
    assert torch.equal(scores[:, 1:] == -math.inf, others % 4 == torch.tensor([[0], [1]]))
    assert torch.isfinite(scores[:, 0]).all()
    assert torch.isfinite(crd_loss(scores, scores))
    # What is no class, such as a target of regression, leaves nothing out.
    plain = {**_step([8, 9]), "labels": torch.tensor([0.0, 1.0])}
    assert torch.isfinite(learned(**plain)["learned_student_scores"]).all()


def test_training_tells_examples_apart() -> None:
    learned = _learned(negatives=20)
    optimizer = torch.optim.Adam(learned.parameters(), lr=0.02)
    student = feature(SAMPLES, 6, dtype=torch.float32)
    teacher = torch.cat([student, student[:, :2]], dim=1) + 0.01 * feature(SAMPLES, 8, seed=1, dtype=torch.float32)
    losses = []
    for _ in range(120):
        loss = crd_loss(**learned(student_pooled=student, teacher_pooled=teacher, samples=torch.arange(SAMPLES), labels=torch.zeros(SAMPLES)))
        optimizer.zero_grad()
        backward(loss)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_half_precision_features_give_finite_float32_under_autocast_too() -> None:
    tensors = {name: value.bfloat16() * 100 if value.is_floating_point() else value for name, value in _step([1, 2]).items()}
    torch.manual_seed(1)
    plain = crd_loss(**_learned()(**tensors))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        automatic = crd_loss(**_learned()(**tensors))
    assert plain.dtype == torch.float32
    assert torch.isfinite(plain)
    assert torch.equal(plain, automatic)


def test_maps_and_tokens_are_embedded_by_their_channels() -> None:
    learned = _learned(student=(6, 8, 8), teacher=(5, 8))
    assert (learned.student_embedding.in_features, learned.teacher_embedding.in_features) == (6, 8)


def test_more_negatives_than_data_are_refused_by_name() -> None:
    with pytest.raises(TrainingError, match=r"`negatives` is 16384.*40 examples.*1 to 39"):
        _learned(negatives=16384)
    with pytest.raises(TrainingError, match="`negatives` is 40"):
        _learned(negatives=40)
    _learned(negatives=39)
    for parameters in ({"tau": 0.0}, {"momentum": 1.0}, {"dimension": 0}):
        with pytest.raises(TrainingError, match=next(iter(parameters))):
            _learned(**parameters)


def test_two_processes_keep_one_memory(tmp_path: Path) -> None:
    spawn(_process, (tmp_path,), nprocs=2)  # type: ignore[no-untyped-call]
    states = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    alone = _learned()
    for seed in (0, 10):
        halves = [_step([rank, rank + 2], seed=seed + rank) for rank in range(2)]
        alone(**{name: torch.cat([half[name] for half in halves]) for name in halves[0]})
    for name in ("student_bank", "teacher_bank"):
        torch.testing.assert_close(states[0][name], alone.get_buffer(name))


def _process(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    learned = _learned()
    torch.manual_seed(rank)
    for seed in (0, 10):
        learned(**_step([rank, rank + 2], seed=seed + rank))
    torch.save(learned.state_dict(), folder / f"{rank}.pt")
    distributed.destroy_process_group()
