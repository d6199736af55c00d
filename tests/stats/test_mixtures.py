"""Partition priors against direct series and enumeration; sticky HDP updates against numerical integration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import Tensor

from support.simulated_accelerator import simulated_accelerator
from tectum.core.errors import InputError
from tectum.stats import hdp, mixtures
from tectum.stats.mixtures import PartitionPrior

LIKE = torch.zeros(1, dtype=torch.float64)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def partitions(n: int) -> Iterator[tuple[int, ...]]:
    """All partitions of n units as labels in order of appearance."""
    for labels in itertools.product(range(n), repeat=n):
        if all(label <= max(labels[:i], default=-1) + 1 for i, label in enumerate(labels)):
            yield labels


def sizes_of(labels: tuple[int, ...], slots: int) -> Tensor:
    return torch.bincount(torch.tensor(labels, dtype=torch.int64), minlength=slots)


PRIORS = {
    "mfm": lambda n: mixtures.mfm_prior(n, zeta=0.2, gamma=1.0, like=LIKE),
    "mfm small gamma": lambda n: mixtures.mfm_prior(n, zeta=0.415, gamma=0.4, like=LIKE),
    "dp": lambda n: mixtures.dirichlet_process_prior(n, concentration=1.7, like=LIKE),
}


# --------------------------------------------------------------------------------------------------- coefficients


def series_term(k: Any, t: int, n: int, zeta: float, gamma: float) -> Any:
    """Summand of V_n(t) in many digits."""
    units = mpmath.gamma(gamma * k) / mpmath.gamma(gamma * k + n)
    return mpmath.ff(k, t) * units * zeta * mpmath.mpf(1 - zeta) ** (k - 1)


@pytest.mark.parametrize(
    ("n", "zeta", "gamma"), [(1, 0.2, 1.0), (6, 0.2, 1.0), (30, 0.415, 0.5), (63, 0.415, 3.0), (200, 0.05, 1.0)]
)
def test_coefficients_match_the_series_in_many_digits(n: int, zeta: float, gamma: float) -> None:
    prior = mixtures.mfm_prior(n, zeta=zeta, gamma=gamma, like=LIKE)
    assert prior.log_blocks.shape == (n + 1,)
    assert prior.log_blocks[0] == -torch.inf
    length = 500 if zeta > 0.1 else 2500
    with mpmath.workdps(30):
        for t in sorted({1, (n + 1) // 2, n}):
            total = mpmath.fsum(series_term(mpmath.mpf(k), t, n, zeta, gamma) for k in range(t, t + length))
            assert float(prior.log_blocks[t]) == pytest.approx(float(mpmath.log(total)), rel=1e-11, abs=1e-10)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_coefficients_obey_the_recurrence(gamma: float) -> None:
    here = mixtures.mfm_prior(40, gamma=gamma, like=LIKE).log_blocks[1:]
    after = mixtures.mfm_prior(41, gamma=gamma, like=LIKE).log_blocks[1:]
    t = torch.arange(1, 41, dtype=torch.float64)
    expected = torch.logaddexp((40 + gamma * t).log() + after[:-1], math.log(gamma) + after[1:])
    torch.testing.assert_close(here, expected, rtol=1e-11, atol=1e-10)


def test_geometric_prior_of_the_three_regions() -> None:
    p = mixtures.geometric_log_prior(0.415, 3, like=LIKE).exp()
    assert float(p.sum()) == pytest.approx(0.8, abs=5e-4)


@pytest.mark.parametrize("name", PRIORS)
def test_partitions_sum_to_one(name: str) -> None:
    prior = PRIORS[name](6)
    sizes = torch.stack([sizes_of(labels, 6) for labels in partitions(6)])
    assert sizes.shape[0] == 203
    assert float(mixtures.partition_log_prob(sizes, prior).exp().sum()) == pytest.approx(1.0, abs=1e-11)


@pytest.mark.parametrize("name", PRIORS)
def test_assignment_weights_are_conditionals_of_the_partition(name: str) -> None:
    prior: PartitionPrior = PRIORS[name](5)
    for labels in partitions(4):  # the fifth unit is seated anew
        sizes = sizes_of(labels, 7)
        found = torch.log_softmax(mixtures.assignment_log_weights(sizes, prior), -1)
        joint = torch.stack([mixtures.partition_log_prob(sizes + torch.eye(7)[j].long(), prior) for j in range(7)])
        joint = joint - torch.where(sizes == 0, math.log(float((sizes == 0).sum())), 0.0)  # empty slots are alike
        torch.testing.assert_close(found, torch.log_softmax(joint, -1))
    alone = mixtures.assignment_log_weights(torch.zeros(3, dtype=torch.int64), PRIORS[name](1))
    torch.testing.assert_close(torch.softmax(alone, -1), torch.full((3,), 1 / 3).double())


def test_full_table_leaves_no_room_for_a_new_block() -> None:
    weights = mixtures.assignment_log_weights(torch.tensor([1, 2, 1]), PRIORS["mfm"](5))
    torch.testing.assert_close(weights.exp(), torch.tensor([2.0, 3.0, 2.0]).double())


def test_labels_drawn_from_the_prior_follow_it() -> None:
    n, draws = 4, 20_000
    how: dict[str, Any] = {"zeta": 0.3, "gamma": 0.8, "max_components": 50}
    z = mixtures.sample_labels_from_prior(n, generator=rng(1), n_draws=draws, like=LIKE, **how)
    prior = mixtures.mfm_prior(n, zeta=0.3, gamma=0.8, like=LIKE)
    every = list(partitions(n))
    codes = {labels: i for i, labels in enumerate(every)}
    observed = np.bincount([codes[tuple(row)] for row in z.tolist()], minlength=len(every))
    expected = mixtures.partition_log_prob(torch.stack([sizes_of(p, n) for p in every]), prior).exp().numpy() * draws
    assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-3


def test_labels_are_numbered_by_appearance() -> None:
    z = torch.tensor([[7, 2, 7, 0], [1, 1, 1, 1], [3, 2, 1, 0]])
    assert mixtures.label_by_appearance(z).tolist() == [[0, 1, 0, 2], [0, 0, 0, 0], [0, 1, 2, 3]]


def test_component_count_posterior_is_bayes_rule() -> None:
    n, zeta, gamma = 7, 0.3, 0.8
    log_p = mixtures.component_count_log_posterior(torch.tensor([1, 3]), n_units=n, zeta=zeta, gamma=gamma, like=LIKE)
    for row, t in zip(log_p, (1, 3), strict=True):
        k = np.arange(1, 60)
        weight = special.factorial(k) / special.factorial(np.maximum(k - t, 0)) * (k >= t)
        weight = weight * special.gamma(gamma * k) / special.gamma(gamma * k + n) * (1 - zeta) ** (k - 1)
        np.testing.assert_allclose(row[:20].exp(), (weight / weight.sum())[:20], rtol=1e-6, atol=1e-12)
    draws = mixtures.sample_component_count(
        torch.full((20_000,), 3), n_units=n, generator=rng(2), zeta=zeta, gamma=gamma, like=LIKE
    )
    observed = np.bincount(draws.numpy() - 1, minlength=12)
    expected = log_p[1].exp().numpy()
    kept = [2, 3, 4, 5]
    both = np.append(observed[kept], observed.sum() - observed[kept].sum())
    assert observed[:2].sum() == 0
    assert stats.chisquare(both, 20_000 * np.append(expected[kept], 1 - expected[kept].sum())).pvalue > 1e-3


# --------------------------------------------------------------------------------------------------- split and merge


@pytest.mark.parametrize("name", PRIORS)
def test_split_ratio_is_a_difference_of_partitions(name: str) -> None:
    prior = PRIORS[name](9)
    whole, split = torch.tensor([5, 3, 1, 0]), torch.tensor([2, 3, 1, 3])
    found = mixtures.split_log_ratio(torch.tensor(2), torch.tensor(3), n_blocks=torch.tensor(3), prior=prior)
    expected = mixtures.partition_log_prob(split, prior) - mixtures.partition_log_prob(whole, prior)
    torch.testing.assert_close(found, expected)


def test_split_proposal_reports_its_probability() -> None:
    log_weights = torch.randn(5, 2, generator=rng(3), dtype=torch.float64)
    free = torch.tensor([False, True, True, False, False])
    anchor = torch.tensor([False, False, False, True, False])
    n = 40_000
    second, log_p = mixtures.propose_split(
        log_weights.expand(n, 5, 2), free=free.expand(n, 5), anchor=anchor.expand(n, 5), generator=rng(4)
    )
    assert (second[:, 3]).all()
    assert not second[:, [0, 4]].any()
    code = (second[:, 1].long() * 2 + second[:, 2].long()).numpy()
    probabilities = [float(log_p[code == c][0].exp()) for c in range(4)]
    assert sum(probabilities) == pytest.approx(1.0)
    assert stats.chisquare(np.bincount(code, minlength=4), n * np.array(probabilities)).pvalue > 1e-3
    torch.testing.assert_close(mixtures.split_log_prob(log_weights, second, free=free), log_p)


# ----------------------------------------------------------------------------------------- Dirichlet process weights


def test_stick_breaking_by_hand_and_in_the_mean() -> None:
    v = torch.tensor([0.5, 0.2, 1.0], dtype=torch.float64)
    w = hdp.stick_breaking(v.log(), (1 - v).log()).exp()
    torch.testing.assert_close(w, torch.tensor([0.5, 0.1, 0.4], dtype=torch.float64))
    alpha = torch.full((20_000,), 2.0, dtype=torch.float64)
    log_w = hdp.sample_stick_breaking(alpha, n_sticks=6, generator=rng(5))
    torch.testing.assert_close(log_w.exp().sum(-1), torch.ones(20_000, dtype=torch.float64))
    assert stats.kstest(log_w[:, 0].exp().numpy(), stats.beta(1, 2).cdf).pvalue > 1e-3
    expected = (1 / 3) * (2 / 3) ** 3  # fourth stick
    moment = 2 / (3 * 4) * (2 / 4) ** 3
    assert abs(float(log_w[:, 3].exp().mean()) - expected) < 4.5 * math.sqrt((moment - expected**2) / 20_000)


def exact_updates(log_p: np.ndarray, axis: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Distribution function on a grid and n exact draws by inversion."""
    cdf = integrate.cumulative_trapezoid(np.exp(log_p - log_p.max()), axis, initial=0)
    cdf = np.asarray(cdf / cdf[-1])
    return cdf, np.interp((np.arange(n) + 0.5) / n, cdf, axis)


@pytest.mark.parametrize(("blocks", "sizes"), [(3, [25]), (9, [12, 0, 7, 30])])
def test_concentration_update_leaves_its_conditional_invariant(blocks: int, sizes: list[int]) -> None:
    axis = np.linspace(1e-3, 30, 60_001)
    log_p = (blocks + 1.0) * np.log(axis) - 0.7 * axis  # Gamma(2, 0.7) prior
    for size in sizes:
        log_p = log_p + special.gammaln(axis) - special.gammaln(axis + size)
    cdf, start = exact_updates(log_p, axis, 20_000)
    after = hdp.sample_concentration(
        torch.as_tensor(start),
        torch.full((20_000,), blocks),
        sizes=torch.tensor(sizes),
        generator=rng(6),
        shape=2.0,
        rate=0.7,
    ).numpy()
    assert stats.kstest(np.interp(after, axis, cdf), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(start, after)[0, 1]) < 0.95


# ---------------------------------------------------------------------------------------------------------- tables


def stirling(n: int) -> np.ndarray:
    """Unsigned Stirling numbers of the first kind s(n, 0..n)."""
    row = np.array([1.0])
    for k in range(n):
        row = np.append(0, row) + k * np.append(row, 0)
    return row


@pytest.mark.parametrize("concentration", [0.2, 1.0, 12.0])
def test_table_counts_follow_antoniak(concentration: float) -> None:
    n, draws = 7, 30_000
    tables = hdp.sample_table_counts(
        torch.full((draws,), n), torch.tensor(concentration, dtype=torch.float64), generator=rng(7), total=n * draws
    )
    m = np.arange(n + 1)
    p = stirling(n) * concentration**m * special.gamma(concentration) / special.gamma(concentration + n)
    assert p.sum() == pytest.approx(1.0)
    kept = p * draws > 5
    observed = np.bincount(tables.numpy(), minlength=n + 1)
    assert observed[~kept].sum() < 40
    assert stats.chisquare(observed[kept], p[kept] / p[kept].sum() * observed[kept].sum()).pvalue > 1e-3


def test_table_counts_at_the_edges() -> None:
    customers = torch.tensor([[0, 1, 5], [3, 0, 2]])
    tiny = hdp.sample_table_counts(customers, torch.tensor(1e-10).double(), generator=rng())
    assert tiny.tolist() == [[0, 1, 1], [1, 0, 1]]
    many = hdp.sample_table_counts(customers, torch.tensor(1e12).double(), generator=rng())
    assert torch.equal(many, customers)
    none = hdp.sample_table_counts(torch.zeros(2, 2, dtype=torch.int64), torch.ones(2, 2), generator=rng())
    assert none.tolist() == [[0, 0], [0, 0]]


def test_transition_counts_skip_restarts() -> None:
    states = torch.randint(0, 3, (2, 40), generator=rng(8))
    valid = torch.ones(40, dtype=torch.bool)
    valid[[0, 11, 30]] = False
    found = hdp.transition_counts(states, n_states=3, valid=valid)
    expected = torch.zeros(2, 3, 3, dtype=torch.int64)
    for chain in range(2):
        for t in range(1, 40):
            expected[chain, states[chain, t - 1], states[chain, t]] += int(valid[t])
    assert torch.equal(found, expected)
    assert int(hdp.transition_counts(states, n_states=3).sum()) == 78


def test_overrides_are_binomial_on_the_diagonal() -> None:
    tables = torch.tensor([[9, 4], [5, 0]]).expand(20_000, 2, 2)
    base, share = torch.tensor([0.25, 0.75], dtype=torch.float64), 0.6
    drawn = hdp.sample_overrides(tables, base, sticky_share=share, generator=rng(9)).numpy()
    p = share / (share + 0.25 * (1 - share))
    assert (drawn[:, 1] == 0).all()
    assert abs(drawn[:, 0].mean() - 9 * p) < 4.5 * math.sqrt(9 * p * (1 - p) / 20_000)
    none = hdp.sample_overrides(tables, torch.tensor([0.0, 1.0]).double(), sticky_share=0.0, generator=rng())
    assert (none == 0).all()


# ------------------------------------------------------------------------------------------------------ sticky update

ALPHA, GAMMA, KAPPA = 2.0, 3.0, 4.0
COUNTS = torch.tensor([[6, 3], [2, 9]])


def base_log_density(share: np.ndarray) -> np.ndarray:
    """Log p(beta | counts) of two states, the transition matrix integrated out."""
    log_p = (GAMMA / 2 - 1) * (np.log(share) + np.log1p(-share))
    for row in range(2):
        parameters = [ALPHA * share + KAPPA * (row == 0), ALPHA * (1 - share) + KAPPA * (row == 1)]
        for column, a in enumerate(parameters):
            log_p = log_p + special.gammaln(a + int(COUNTS[row, column])) - special.gammaln(a)
    return np.asarray(log_p)


def test_sticky_update_leaves_the_base_weights_invariant() -> None:
    """Trap 3 of the spec: table counts without kappa on the diagonal fail this."""
    axis = np.linspace(1e-6, 1 - 1e-6, 40_001)
    n = 20_000
    cdf, start = exact_updates(base_log_density(axis), axis, n)
    share = torch.as_tensor(start)
    law = hdp.sample_sticky_transitions(
        COUNTS.expand(n, 2, 2),
        torch.stack([share, 1 - share], -1).log(),
        alpha=ALPHA,
        gamma=GAMMA,
        kappa=KAPPA,
        generator=rng(10),
        total=20 * n,
    )
    after = law.log_base[:, 0].exp().numpy()
    assert stats.kstest(np.interp(after, axis, cdf), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(start, after)[0, 1]) < 0.95
    first = (ALPHA * after + KAPPA + 6, ALPHA * (1 - after) + 3)  # the matrix is Beta given the new base
    uniform = stats.beta(*first).cdf(law.log_matrix[:, 0, 0].exp().numpy())
    assert stats.kstest(uniform, "uniform").pvalue > 1e-3


def test_self_transition_of_the_prior() -> None:
    n_states, alpha, kappa = 10, 5.0, 10.0
    base = torch.full((5000, n_states), 1 / n_states, dtype=torch.float64).log()
    zero = torch.zeros(5000, n_states, n_states)
    pi = hdp.sample_transition_matrix(zero, base, alpha=alpha, kappa=kappa, generator=rng(11)).exp()
    expected = (alpha / n_states + kappa) / (alpha + kappa)
    assert expected == pytest.approx(0.7)
    deviation = math.sqrt(expected * (1 - expected) / (alpha + kappa + 1) / 5000)
    assert abs(float(pi[:, 3, 3].mean()) - expected) < 4.5 * deviation


def test_sticky_log_density_matches_scipy() -> None:
    g = rng(12)
    log_base = torch.randn(3, generator=g, dtype=torch.float64).log_softmax(-1)
    log_matrix = torch.randn(3, 3, generator=g, dtype=torch.float64).log_softmax(-1)
    found = hdp.sticky_log_prob(hdp.StickyTransitions(log_matrix, log_base), alpha=ALPHA, gamma=GAMMA, kappa=KAPPA)
    base = log_base.exp().numpy()
    expected = stats.dirichlet.logpdf(base, np.full(3, GAMMA / 3))
    for row in range(3):
        expected += stats.dirichlet.logpdf(log_matrix[row].exp().numpy(), ALPHA * base + KAPPA * np.eye(3)[row])
    assert float(found) == pytest.approx(float(expected), rel=1e-9)


def test_unused_states_stay_finite() -> None:
    counts = torch.zeros(20, 20, dtype=torch.int64)
    counts[0, 0] = 500
    log_base = torch.full((20,), 1 / 20, dtype=torch.float64).log()
    generator = rng(13)
    for _ in range(200):
        law = hdp.sample_sticky_transitions(counts, log_base, alpha=0.1, gamma=0.1, kappa=100.0, generator=generator)
        log_base = law.log_base
        assert law.log_matrix.isfinite().all()
        assert log_base.isfinite().all()
    torch.testing.assert_close(law.log_matrix.exp().sum(-1), torch.ones(20, dtype=torch.float64))


# ------------------------------------------------------------------------------------------------ devices and errors


def test_accelerator_agrees_with_the_cpu() -> None:
    base = torch.tensor([0.4, 0.6], dtype=torch.float64).log()
    how: dict[str, Any] = {"alpha": ALPHA, "gamma": GAMMA, "kappa": KAPPA}
    here = hdp.sample_sticky_transitions(COUNTS, base, generator=rng(), **how)
    labels = mixtures.sample_labels_from_prior(5, generator=rng(1), n_draws=4, like=LIKE)
    weights = mixtures.assignment_log_weights(torch.tensor([3, 1, 0, 0]), mixtures.mfm_prior(5, like=LIKE))
    with simulated_accelerator() as device:
        like = LIKE.to(device)
        there = hdp.sample_sticky_transitions(COUNTS.to(device), base.to(device), generator=rng(), **how)
        for ours, theirs in zip(here, there, strict=True):
            torch.testing.assert_close(theirs.cpu(), ours)
        moved = mixtures.sample_labels_from_prior(5, generator=rng(1), n_draws=4, like=like)
        assert torch.equal(moved.cpu(), labels)
        sizes = torch.tensor([3, 1, 0, 0], device=device)
        found = mixtures.assignment_log_weights(sizes, mixtures.mfm_prior(5, like=like))
        torch.testing.assert_close(found.cpu(), weights)


def test_bad_hyper_parameters_are_named() -> None:
    for zeta in (0.0, 1.0, -0.2):
        with pytest.raises(InputError, match=r"zeta: expected a value in \(0, 1\)"):
            mixtures.mfm_prior(5, zeta=zeta, like=LIKE)
    with pytest.raises(InputError, match="gamma > 0 and n_units >= 1, got gamma=0.0, n_units=5"):
        mixtures.mfm_prior(5, gamma=0.0, like=LIKE)
    with pytest.raises(InputError, match="concentration > 0"):
        mixtures.dirichlet_process_prior(5, concentration=-1.0, like=LIKE)
    base = torch.zeros(2, dtype=torch.float64)
    for wrong in ({"alpha": 0.0}, {"gamma": -1.0}, {"kappa": -0.5}):
        how: dict[str, Any] = {"alpha": 1.0, "gamma": 1.0, "kappa": 1.0} | wrong
        with pytest.raises(InputError, match="alpha, gamma > 0 and kappa >= 0"):
            hdp.sample_sticky_transitions(COUNTS, base, generator=rng(), **how)
    with pytest.raises(InputError, match="shape > 0 and rate > 0"):
        hdp.sample_concentration(torch.ones(1), torch.ones(1), sizes=torch.ones(1, 1), generator=rng(), rate=0.0)
