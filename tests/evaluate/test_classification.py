"""Scores of decisions against scikit-learn, brute force, and their stated chance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as peer

from tectum import evaluate
from tectum.core.errors import InputError

LABELS = st.lists(st.integers(0, 3), min_size=2, max_size=40)


def draw(seed: int, n: int = 60, k: int = 4, *, ties: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw classes, probabilities (rounded, so that some are equal) and decisions."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(k), rng.integers(k, size=n - k)])
    p = rng.dirichlet(np.ones(k), n) + 0.3 * np.eye(k)[y]
    p = np.round(p / p.sum(1, keepdims=True), 1 if ties else 12) + 0.01
    return y, p / p.sum(1, keepdims=True), p.argmax(1)


PEERS = {
    "accuracy": peer.accuracy_score,
    "balanced_accuracy": peer.balanced_accuracy_score,
    "cohen_kappa": peer.cohen_kappa_score,
    "macro_f1": lambda y, d: peer.f1_score(y, d, average="macro", zero_division=0),
}


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("seed", range(3))
def test_scores_of_decisions_equal_those_of_scikit_learn(name: str, seed: int) -> None:
    y, _, decided = draw(seed)
    wanted = PEERS[name](y, decided)
    assert getattr(evaluate, name)(y, decided) == pytest.approx(wanted)
    words = np.asarray(["a", "b", "c", "d"])
    assert getattr(evaluate, name)(words[y], words[decided].tolist()) == pytest.approx(wanted)
    assert getattr(evaluate, name)(torch.from_numpy(y), torch.from_numpy(decided)) == pytest.approx(wanted)


@pytest.mark.parametrize("seed", range(3))
def test_areas_equal_those_of_scikit_learn(seed: int) -> None:
    y, p, _ = draw(seed)
    assert evaluate.roc_auc(y, p) == pytest.approx(peer.roc_auc_score(np.eye(4)[y], p, average="macro"))
    assert evaluate.average_precision(y, p) == pytest.approx(peer.average_precision_score(np.eye(4)[y], p))
    hit = (y == 1).astype(int)
    assert evaluate.roc_auc(hit, p[:, 1]) == pytest.approx(peer.roc_auc_score(hit, p[:, 1]))
    assert evaluate.average_precision(hit, p[:, 1]) == pytest.approx(peer.average_precision_score(hit, p[:, 1]))
    two = np.stack([1 - p[:, 1], p[:, 1]], 1)
    assert evaluate.roc_auc(hit, two) == pytest.approx(peer.roc_auc_score(hit, p[:, 1]))


@pytest.mark.parametrize("seed", range(2))
def test_roc_curve_equals_that_of_scikit_learn(seed: int) -> None:
    y, p, _ = draw(seed)
    hit = (y == 2).astype(int)
    curve = evaluate.roc_curve(hit, p[:, 2])
    x, t, _ = peer.roc_curve(hit, p[:, 2], drop_intermediate=False)
    np.testing.assert_allclose(curve.x.numpy(), x)
    np.testing.assert_allclose(curve.y.numpy(), t)
    assert float(torch.trapezoid(curve.y, curve.x)) == pytest.approx(evaluate.roc_auc(hit, p[:, 2]))


def test_area_is_the_chance_that_a_hit_scores_higher() -> None:
    y, s = np.asarray([0, 1, 1, 0, 1]), np.asarray([0.2, 0.2, 0.9, 0.7, 0.1])
    pairs = [(a > b) + 0.5 * (a == b) for a in s[y == 1] for b in s[y == 0]]
    assert evaluate.roc_auc(y, s) == pytest.approx(np.mean(pairs))


@pytest.mark.parametrize("k", [1, 2, 3])
def test_top_k_without_ties_equals_that_of_scikit_learn(k: int) -> None:
    y, p, _ = draw(1, ties=False)
    assert evaluate.top_k_accuracy(y, p, k) == pytest.approx(peer.top_k_accuracy_score(y, p, k=k))


@pytest.mark.parametrize("k", [1, 3, 5, 9])
def test_top_k_of_constant_scores_is_chance(k: int) -> None:
    assert evaluate.top_k_accuracy(np.arange(5), np.zeros((5, 5)), k) == pytest.approx(min(1.0, k / 5))


def test_top_k_of_as_many_as_there_are_is_one() -> None:
    y, p, _ = draw(2)
    assert evaluate.top_k_accuracy(y, p, 4) == evaluate.top_k_accuracy(y, p, 10) == 1.0


def test_mean_reciprocal_rank_by_hand() -> None:
    assert evaluate.mean_reciprocal_rank([0], [[1.0, 2.0, 2.0]]) == pytest.approx(1 / 3)
    assert evaluate.mean_reciprocal_rank([1], [[1.0, 2.0, 2.0]]) == pytest.approx(1 / 1.5)


@given(LABELS, st.integers(0, 10))
@settings(max_examples=30)
def test_ranges(labels: list[int], seed: int) -> None:
    y = np.asarray(labels)
    decided = np.random.default_rng(seed).integers(4, size=len(y))
    assert 0 <= evaluate.accuracy(y, decided) <= 1
    assert 0 <= evaluate.balanced_accuracy(y, decided) <= 1
    assert 0 <= evaluate.macro_f1(y, decided) <= 1
    kappa = evaluate.cohen_kappa(y, decided)
    assert math.isnan(kappa) or -1 <= kappa <= 1
    assert evaluate.balanced_accuracy(y, y) == evaluate.accuracy(y, y) == 1.0
    constant = np.full_like(y, y[0])
    assert evaluate.balanced_accuracy(y, constant) == pytest.approx(1 / len(set(labels)))


def test_chance_levels_by_simulation() -> None:
    rng = np.random.default_rng(0)
    y, p = rng.integers(4, size=20_000), rng.dirichlet(np.ones(4), 20_000)
    assert evaluate.balanced_accuracy(y, p.argmax(1)) == pytest.approx(1 / 4, abs=0.02)
    assert evaluate.cohen_kappa(y, p.argmax(1)) == pytest.approx(0, abs=0.02)
    assert evaluate.macro_f1(y, p.argmax(1)) == pytest.approx(1 / 4, abs=0.02)
    assert evaluate.roc_auc(y, p) == pytest.approx(1 / 2, abs=0.02)
    assert evaluate.average_precision(y, p) == pytest.approx(1 / 4, abs=0.02)
    assert evaluate.top_k_accuracy(y, p, 3) == pytest.approx(3 / 4, abs=0.02)
    assert evaluate.mean_reciprocal_rank(y, p) == pytest.approx(np.mean([1, 1 / 2, 1 / 3, 1 / 4]), abs=0.02)
    assert evaluate.log_loss(y, np.full((len(y), 4), 0.25)) == pytest.approx(math.log(4))


def test_log_loss_and_calibration_equal_those_of_scikit_learn() -> None:
    y, p, _ = draw(3, ties=False)
    assert evaluate.log_loss(y, p) == pytest.approx(peer.log_loss(y, p))
    sure, right = p.max(1), (p.argmax(1) == y).astype(float)
    bins = np.minimum((sure * 5).astype(int), 4)
    wanted = sum(abs(sure[bins == b].mean() - right[bins == b].mean()) * (bins == b).mean() for b in set(bins))
    assert evaluate.calibration_error(y, p, bins=5) == pytest.approx(wanted)
    found = evaluate.reliability(y, p, bins=5)
    assert found.trials.tolist() == np.bincount(bins, minlength=5).tolist()


def test_calibrated_probabilities_have_a_small_error() -> None:
    rng = np.random.default_rng(1)
    p = rng.dirichlet(np.ones(3), 20_000)
    y = (p.cumsum(1) < rng.random((20_000, 1))).sum(1)
    assert evaluate.calibration_error(y, p) < 0.02
    assert evaluate.calibration_error(y, np.eye(3)[p.argmax(1)]) > 0.2


BITS = [
    (1.0, 2, 1.0),
    (1.0, 8, 3.0),
    (0.5, 2, 0.0),
    (0.1, 4, 0.0),
    (0.8, 4, 2 + 0.8 * math.log2(0.8) + 0.2 * math.log2(0.2 / 3)),
]


@pytest.mark.parametrize(("right", "n", "bits"), BITS)
def test_information_transfer_rate_by_hand(right: float, n: int, bits: float) -> None:
    assert evaluate.information_transfer_rate(right, n) == pytest.approx(bits)
    assert evaluate.information_transfer_rate(right, n, seconds=3.0) == pytest.approx(20 * bits)


def test_information_transfer_rate_grows_from_chance_on() -> None:
    rates = [evaluate.information_transfer_rate(a, 4) for a in np.linspace(0, 1, 41)]
    assert all(b >= a for a, b in zip(rates[:-1], rates[1:], strict=True))
    assert rates[10] == 0 < rates[11]


def test_pooled_trials_by_hand() -> None:
    y, p = [1, 0, 1], [[0.4, 0.6], [0.9, 0.1], [0.8, 0.2]]
    found = evaluate.pool(y, p, ["s2", "s1", "s2"])
    assert found.groups == ("s1", "s2")
    assert found.truth.tolist() == [0, 1]
    np.testing.assert_allclose(found.proba.numpy(), [[0.9, 0.1], [0.6, 0.4]])
    np.testing.assert_allclose(evaluate.pool(y, p, ["s2", "s1", "s2"], vote=True).proba.numpy(), [[1, 0], [0.5, 0.5]])
    with pytest.raises(InputError, match=r"pool.*one true class in each group.*'s1'"):
        evaluate.pool(y, p, ["s1", "s1", "s2"])


REFUSED: dict[str, tuple[Any, str]] = {
    "other lengths": (lambda: evaluate.accuracy([0, 1], [0]), r"accuracy.*as many decisions.*\(2,\) and \(1,\)"),
    "nothing": (lambda: evaluate.accuracy([], []), "one or more"),
    "fractions": (lambda: evaluate.macro_f1([0.5], [0.5]), "text or integers"),
    "text and numbers": (lambda: evaluate.balanced_accuracy([0], ["0"]), "text or integers"),
    "one class": (lambda: evaluate.roc_auc([1, 1], [0.1, 0.2]), "trials of both classes"),
    "class of none": (lambda: evaluate.top_k_accuracy([3], [[0.5, 0.5]]), r"classes in \[0, 2\)"),
    "k of zero": (lambda: evaluate.top_k_accuracy([0], [[0.5, 0.5]], 0), "k.*integer >= 1"),
    "no probabilities": (lambda: evaluate.log_loss([0, 1], [0.1, 0.2]), r"scores \(trial, class\)"),
    "NaN": (lambda: evaluate.log_loss([0], [[math.nan, 1.0]]), "finite"),
    "groups": (lambda: evaluate.pool([0], [[1.0, 0.0]], ["a", "b"]), "1 groups, got 2"),
    "rate": (lambda: evaluate.information_transfer_rate(1.2, 2), r"accuracy in \[0, 1\]"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_inputs_are_refused(name: str) -> None:
    call, says = REFUSED[name]
    with pytest.raises(InputError, match=says):
        call()


def test_scores_run_on_the_accelerator(accelerator: torch.device) -> None:
    y, p, decided = (torch.from_numpy(v) for v in draw(0))
    there = y.to(accelerator), p.to(accelerator), decided.to(accelerator)
    assert evaluate.balanced_accuracy(there[0], there[2]) == evaluate.balanced_accuracy(y, decided)
    for name in ("roc_auc", "average_precision", "log_loss", "calibration_error", "top_k_accuracy"):
        assert getattr(evaluate, name)(there[0], there[1]) == pytest.approx(getattr(evaluate, name)(y, p))
