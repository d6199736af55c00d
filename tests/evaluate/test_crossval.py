"""Cross-validation: what training and testing see, who is copied, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from tectum import Recording, Spikes
from tectum.core.errors import InputError
from tectum.core.estimator import Estimator
from tectum.core.result import Result, axes
from tectum.evaluate import cross_validate


@dataclass(frozen=True, kw_only=True, eq=False)
class Level(Result):
    level: Tensor = axes("unit")


@dataclass(kw_only=True, eq=False)
class MeanLevel(Estimator[Level]):
    """Predicts the mean; its score is the negative distance to the mean of the test data."""

    seen: ClassVar[list[tuple[Any, Any]]] = []
    careless: bool = False

    def _fit(self, data: tuple[Any, ...], target: Any, run: Any) -> tuple[Level, None]:
        self.trained_on_ = data
        return Level(level=torch.stack([self._mean(rec) for rec in data]).mean(0)), None

    def _mean(self, rec: Recording) -> Tensor:
        return rec.values.mean(0) if self.careless else rec.values[rec.valid()[:, 0]].mean(0)

    def score(self, data: Any) -> float:
        recs = data if isinstance(data, list) else [data]
        self.seen.append((self.trained_on_, recs))
        return -float((torch.stack([self._mean(rec) for rec in recs]).mean(0) - self.result_.level).abs().sum())


@dataclass(kw_only=True, eq=False)
class NoScore(Estimator[Level]):
    def _fit(self, data: tuple[Any, ...], target: Any, run: Any) -> tuple[Level, None]:
        raise NotImplementedError


@pytest.fixture(autouse=True)
def _forget() -> None:
    MeanLevel.seen.clear()


def ramp(n: int = 20, **fields: Any) -> Recording:
    return Recording(data=torch.arange(float(n))[:, None], dims=("time", "unit"), rate=1.0, **fields)


def test_scores_of_blocks_in_order_of_time() -> None:
    scores = cross_validate(MeanLevel(device="cpu"), ramp(), folds=2)
    assert scores.dtype == torch.float64
    assert scores.tolist() == [-10.0, -10.0]


def test_training_sees_neither_test_block_nor_gap() -> None:
    cross_validate(MeanLevel(device="cpu"), ramp(), folds=4, gap=2.0)
    tested = []
    for (train,), (test,) in MeanLevel.seen:
        inside = set(test.values[test.valid()].tolist())
        learnt = set(train.values[train.valid()].tolist())
        assert min(abs(a - b) for a in inside for b in learnt) == 3
        assert set(train.values.flatten().tolist()) <= learnt | {0.0}  # masked numbers are gone, not hidden
        tested += sorted(inside)
    assert tested == list(range(20))


def test_a_method_that_forgets_the_mask_sees_zeros() -> None:
    rec = ramp().with_(data=torch.full((20, 1), 7, dtype=torch.int32))
    cross_validate(MeanLevel(device="cpu", careless=False), rec.with_(data=rec.values.float()), folds=4)
    (train,), _ = MeanLevel.seen[1]
    assert sorted(set(train.values.flatten().tolist())) == [0.0, 7.0]


def test_a_list_is_split_by_subject() -> None:
    recs = [ramp(10 + i, subject=f"s{i // 2}", session=str(i % 2)) for i in range(6)]
    scores = cross_validate(MeanLevel(device="cpu"), recs, folds=3)
    assert scores.shape == (3,)
    sides = [({r.subject for r in train}, {r.subject for r in test}) for train, test in MeanLevel.seen]
    assert all(a.isdisjoint(b) for a, b in sides)
    assert sorted(s for _, b in sides for s in b) == ["s0", "s1", "s2"]
    assert all(len(test) == 2 for _, test in MeanLevel.seen)


def test_the_estimator_is_copied_not_changed() -> None:
    model = MeanLevel(device="cpu", random_state=5)
    cross_validate(model, ramp(), folds=2)
    assert "result_" not in vars(model)
    assert model.get_params()["random_state"] == 5


def test_the_same_call_gives_the_same_scores() -> None:
    recs = [ramp(10 + i, subject=f"s{i}") for i in range(5)]
    first = cross_validate(MeanLevel(device="cpu"), recs, folds=2)
    assert torch.equal(first, cross_validate(MeanLevel(device="cpu"), recs, folds=2))


@pytest.mark.parametrize(
    ("model", "data", "says"),
    [
        (NoScore(), ramp(), "expected an estimator with a score, got NoScore"),
        (MeanLevel(), [ramp(), ramp(subject="a")], r"name their subjects.*rec.with_\(subject"),
        (MeanLevel(), [Spikes.from_trains([[1.0]], subject="a")], "name their subjects"),
        (MeanLevel(), Spikes.from_trains([[1.0]]), "cross_validate: .*another type"),
        (MeanLevel(), [ramp(subject="a")] * 3, "2 to 1 folds for 1 groups"),
        (MeanLevel(), ramp().windows(5.0), "one continuous time axis"),
    ],
)
def test_what_cannot_be_split_is_refused(model: Any, data: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        cross_validate(model, data, folds=2)


def test_cross_validation_on_the_accelerator(accelerator: torch.device) -> None:
    scores = cross_validate(MeanLevel(device=str(accelerator)), ramp().to(accelerator), folds=4)
    assert torch.equal(scores, cross_validate(MeanLevel(device="cpu"), ramp(), folds=4))
