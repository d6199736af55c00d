"""Intervals against exact sums, theory, and their coverage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tectum import evaluate
from tectum.core.errors import InputError


@given(st.integers(1, 60), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
@settings(max_examples=40)
def test_clopper_pearson_equals_that_of_scipy(n: int, data: Any, level: float) -> None:
    right = data.draw(st.integers(0, n))
    wanted = stats.binomtest(right, n).proportion_ci(level, method="exact")
    found = evaluate.clopper_pearson(right, n, level=level)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert found.estimate in found


def test_clopper_pearson_covers_at_least_what_it_says() -> None:
    for share in (0.1, 0.5, 0.8):
        chance = stats.binom.pmf(np.arange(31), 30, share)
        inside = [share in evaluate.clopper_pearson(k, 30) for k in range(31)]
        assert chance[inside].sum() >= 0.95


@pytest.mark.parametrize(("n", "k"), [(10, 2), (61, 61), (488, 61), (92, 2)])
def test_chance_bound_by_summing_the_binomial(n: int, k: int) -> None:
    chance = np.cumsum(stats.binom.pmf(np.arange(n + 1), n, 1 / k))
    wanted = int(np.argmax(chance >= 0.95)) / n
    assert evaluate.chance_bound(n, k) == pytest.approx(wanted)


def test_bootstrap_of_a_mean_agrees_with_theory() -> None:
    x = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = evaluate.bootstrap(lambda w: (w * x).sum(1) / w.sum(1), 400)
    half = 1.96 * float(x.std()) / 20
    assert found.estimate == pytest.approx(float(x.mean()))
    assert (found.low, found.high) == pytest.approx((found.estimate - half, found.estimate + half), abs=0.15 * half)


def test_bootstrap_of_clusters_is_as_wide_as_that_of_their_means() -> None:
    g = torch.Generator().manual_seed(1)
    means = torch.randn(30, generator=g, dtype=torch.float64)
    x, groups = means.repeat_interleave(20), [f"{k:02d}" for k in range(30) for _ in range(20)]
    statistic = lambda w: (w * x).sum(1) / w.sum(1)  # noqa: E731
    clusters = evaluate.bootstrap(statistic, 600, groups=groups)
    singles = evaluate.bootstrap(statistic, 600)
    means_only = evaluate.bootstrap(lambda w: (w * means).sum(1) / w.sum(1), 30)
    assert (clusters.low, clusters.high) == pytest.approx((means_only.low, means_only.high))
    assert clusters.high - clusters.low > 3 * (singles.high - singles.low)


@pytest.mark.slow
def test_intervals_of_dependent_trials_cover_only_if_groups_are_named() -> None:
    rng = np.random.default_rng(0)
    groups, covered = np.repeat(np.arange(24), 10), {"groups": 0, "trials": 0, "student": 0}
    for k in range(200):
        skill = rng.beta(4, 2, 24)  # mean 2/3
        right = torch.from_numpy((rng.random(240) < skill[groups]).astype(np.int64))
        y = torch.ones_like(right)
        covered["groups"] += 2 / 3 in evaluate.bootstrap_accuracy(y, right, groups=groups, draws=400, random_state=k)
        covered["trials"] += 2 / 3 in evaluate.bootstrap_accuracy(y, right, draws=400, random_state=k)
        covered["student"] += 2 / 3 in evaluate.group_mean(right, groups)
    assert covered["groups"] >= 178  # 0.95 less three standard errors and what 24 groups cost
    assert covered["student"] >= 180
    assert covered["trials"] <= 165


def test_balanced_accuracy_of_a_draw_is_that_of_its_trials() -> None:
    g = torch.Generator().manual_seed(2)
    y, d = torch.randint(3, (40,), generator=g), torch.randint(3, (40,), generator=g)
    found = evaluate.bootstrap_accuracy(y, d, draws=300, random_state=5)
    assert found.estimate == pytest.approx(evaluate.balanced_accuracy(y, d))
    rows = [torch.randint(40, (40,), generator=g) for _ in range(3000)]
    brute = torch.tensor([evaluate.balanced_accuracy(y[r], d[r]) for r in rows], dtype=torch.float64)
    low, high = torch.quantile(brute, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.04)
    plain = evaluate.bootstrap_accuracy(y, d, balanced=False)
    assert plain.estimate == pytest.approx(evaluate.accuracy(y, d))


def test_group_mean_equals_the_t_interval_of_scipy() -> None:
    rng = np.random.default_rng(3)
    groups = np.concatenate([np.arange(6), rng.integers(6, size=30)])
    x = rng.random(36)
    means = [x[groups == k].mean() for k in range(6)]
    low, high = stats.t.interval(0.9, 5, np.mean(means), stats.sem(means))
    found = evaluate.group_mean(x, groups, level=0.9)
    assert (found.estimate, found.low, found.high) == pytest.approx((np.mean(means), low, high))


def test_same_seed_same_interval_and_callers_draws_stay() -> None:
    state = torch.get_rng_state()
    y = torch.arange(30) % 2
    d = (torch.arange(30) % 3 > 0).long()
    one, other = (evaluate.bootstrap_accuracy(y, d, random_state=4) for _ in range(2))
    assert one == other != evaluate.bootstrap_accuracy(y, d, random_state=5)
    assert torch.equal(torch.get_rng_state(), state)


REFUSED: dict[str, tuple[Any, str]] = {
    "more right than there are": (lambda: evaluate.clopper_pearson(3, 2), "0 <= right <= n, got 3 of 2"),
    "level": (lambda: evaluate.clopper_pearson(1, 2, level=95), r"level.*\(0, 1\), got 95"),
    "one class": (lambda: evaluate.chance_bound(10, 1), "two classes or more"),
    "groups": (lambda: evaluate.bootstrap(lambda w: w.sum(1), 3, groups=["a"]), "3 groups, got 1"),
    "no draw": (lambda: evaluate.bootstrap(lambda w: w.sum(1), 3, draws=0), "a draw or more"),
    "NaN": (lambda: evaluate.bootstrap(lambda w: 0 * w.sum(1) / 0, 3), "finite statistic"),
    "one group": (lambda: evaluate.group_mean([1.0, 0.0], ["a", "a"]), "two groups or more"),
    "lengths": (lambda: evaluate.bootstrap_accuracy(torch.zeros(2), torch.zeros(3)), "as many decisions"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_inputs_are_refused(name: str) -> None:
    call, says = REFUSED[name]
    with pytest.raises(InputError, match=says):
        call()
