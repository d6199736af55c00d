"""Draws and densities against SciPy; conjugate and dispersion updates against closed forms and quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special, stats
from torch import Tensor

from support.simulated_accelerator import simulated_accelerator
from tectum.core.errors import InputError, NonFiniteError
from tectum.stats import conjugate
from tectum.stats import distributions as d
from tectum.stats.conjugate import MatrixNormalInverseWishart
from tectum.stats.dispersion import dispersion_log_density, sample_dispersion, sample_dispersion_slice
from tectum.stats.gaussian import sample_gaussian

N = 40_000


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def full(value: float, *shape: int) -> Tensor:
    return torch.full(shape or (N,), value, dtype=torch.float64)


def score(x: np.ndarray, mean: float, variance: float) -> float:
    """Standardised error of a Monte-Carlo mean."""
    return float((np.mean(x) - mean) / math.sqrt(variance / len(x)))


# ---------------------------------------------------------------------------------------------------------- draws


@pytest.mark.parametrize(
    ("draw", "law"),
    [
        (lambda g: d.sample_normal(full(0.0), g), stats.norm()),
        (lambda g: d.sample_uniform(full(0.0), g), stats.uniform()),
        (lambda g: d.sample_exponential(full(0.0), g), stats.expon()),
        (lambda g: d.sample_gamma(full(0.4), g), stats.gamma(0.4)),
        (lambda g: d.sample_gamma(full(7.0), g), stats.gamma(7.0)),
        (lambda g: d.sample_log_gamma(full(0.05), g), stats.loggamma(0.05)),
        (lambda g: d.sample_log_gamma(full(3.0), g), stats.loggamma(3.0)),
        (lambda g: d.sample_beta(full(0.5), full(2.0), g), stats.beta(0.5, 2.0)),
        (lambda g: d.sample_dirichlet(full(0.7, N, 3), g)[:, 1], stats.beta(0.7, 1.4)),
        (
            lambda g: d.sample_truncated_normal(full(1.0), full(2.0), low=full(0.0), high=full(2.5), generator=g),
            stats.truncnorm(-0.5, 0.75, 1.0, 2.0),
        ),
        (
            lambda g: d.sample_truncated_normal(full(0.0), full(1.0), low=full(8.0), high=full(math.inf), generator=g),
            stats.truncnorm(8.0, math.inf),
        ),
        (
            lambda g: d.sample_truncated_normal(
                full(0.0), full(1.0), low=full(-math.inf), high=full(-6.0), generator=g
            ),
            stats.truncnorm(-math.inf, -6.0),
        ),
    ],
)
def test_continuous_draws_follow_scipy(draw: Callable[[torch.Generator], Tensor], law: stats.rv_continuous) -> None:
    assert stats.kstest(draw(rng(1)).numpy(), law.cdf).pvalue > 1e-3


@pytest.mark.parametrize(
    ("draw", "law"),
    [
        (lambda g: d.sample_binomial(full(9.0), full(0.3), g), stats.binom(9, 0.3)),
        (lambda g: d.sample_poisson(full(2.5), g), stats.poisson(2.5)),
        (lambda g: d.sample_negative_binomial(full(math.log(4.0)), full(2.5), g), stats.nbinom(2.5, 2.5 / 6.5)),
        (lambda g: d.sample_negative_binomial(full(math.log(0.5)), full(0.2), g), stats.nbinom(0.2, 0.2 / 0.7)),
        (
            lambda g: d.sample_categorical(torch.tensor([0.1, 0.6, 0.3]).double().log().expand(N, 3) + 5, g),
            stats.rv_discrete(values=([0, 1, 2], [0.1, 0.6, 0.3])),
        ),
    ],
)
def test_discrete_draws_follow_scipy(draw: Callable[[torch.Generator], Tensor], law: stats.rv_discrete) -> None:
    x = draw(rng(2)).numpy().astype(int)
    top = int(law.ppf(1 - 200 / N))
    expected = N * np.append(law.pmf(np.arange(top + 1)), law.sf(top))
    observed = np.append(np.bincount(np.minimum(x, top + 1), minlength=top + 2)[: top + 1], (x > top).sum())
    kept = expected > 5
    assert stats.chisquare(observed[kept], expected[kept] * observed[kept].sum() / expected[kept].sum()).pvalue > 1e-3


def test_impossible_categories_are_never_drawn() -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, -700.0])
    drawn = d.sample_categorical(logits.expand(5000, 4), rng())
    assert (drawn == 1).all()


def test_tiny_concentrations_give_finite_logs_and_exact_shares() -> None:
    log_weights = d.sample_log_dirichlet(full(1e-10, 20_000, 4), rng(3))
    assert log_weights.isfinite().all()
    assert torch.allclose(log_weights.exp().sum(-1), torch.ones(20_000).double())
    winners = torch.bincount(log_weights.argmax(-1), minlength=4).double().numpy()
    assert stats.chisquare(winners).pvalue > 1e-3
    assert d.sample_log_dirichlet(torch.zeros(3, 2), rng()).isfinite().all()  # zero is raised to the floor


def test_dirichlet_moments() -> None:
    a = torch.tensor([0.5, 2.0, 4.0], dtype=torch.float64)
    x = d.sample_dirichlet(a.expand(N, 3), rng(4)).numpy()
    mean = (a / a.sum()).numpy()
    for i in range(3):
        assert abs(score(x[:, i], mean[i], mean[i] * (1 - mean[i]) / (float(a.sum()) + 1))) < 4.5


@pytest.mark.parametrize(
    "name", ["sample_gamma", "sample_poisson", "sample_normal", "sample_log_gamma", "sample_categorical"]
)
def test_cpu_generator_gives_the_same_draws_on_an_accelerator(name: str) -> None:
    parameter = torch.rand(50, 4, generator=rng()) + 0.1
    draw = getattr(d, name)
    here = draw(parameter, rng(5))
    with simulated_accelerator() as device:
        there = draw(parameter.to(device), rng(5))
        assert there.device == device
        torch.testing.assert_close(there.cpu(), here)
        own = draw(parameter.to(device), torch.Generator(device=device).manual_seed(5))
        assert own.device == device
        assert not torch.equal(own.cpu(), here)


def test_transposed_and_expanded_inputs_give_the_same_stream() -> None:
    base = torch.zeros(6, 4)
    assert torch.equal(d.sample_normal(base.T, rng()), d.sample_normal(torch.zeros(4, 6), rng()))
    assert torch.equal(d.sample_normal(torch.zeros(1).expand(4, 6), rng()), d.sample_normal(torch.zeros(4, 6), rng()))


# ------------------------------------------------------------------------------------------------------ densities


@settings(deadline=None, derandomize=True, max_examples=60)
@given(y=st.integers(0, 400), log_mean=st.floats(-12, 7), r=st.floats(0.02, 500))
def test_negative_binomial_density_matches_scipy(y: int, log_mean: float, r: float) -> None:
    found = d.negative_binomial_log_prob(*(torch.tensor(v, dtype=torch.float64) for v in (y, log_mean, r)))
    expected = stats.nbinom.logpmf(y, r, r / (r + math.exp(log_mean)))
    if math.isfinite(expected):
        assert float(found) == pytest.approx(expected, rel=1e-7, abs=1e-7)
    found = d.poisson_log_prob(*(torch.tensor(v, dtype=torch.float64) for v in (y, log_mean)))
    assert float(found) == pytest.approx(stats.poisson.logpmf(y, math.exp(log_mean)), rel=1e-9, abs=1e-9)


def test_negative_binomial_tends_to_poisson_and_survives_extremes() -> None:
    y, log_mean = torch.arange(20.0, dtype=torch.float64), torch.tensor(1.2, dtype=torch.float64)
    near = d.negative_binomial_log_prob(y, log_mean, torch.tensor(1e7, dtype=torch.float64))
    torch.testing.assert_close(near, d.poisson_log_prob(y, log_mean), atol=1e-4, rtol=0)
    extreme = d.negative_binomial_log_prob(
        y[:, None], torch.tensor([-800.0, 800.0]).double(), torch.tensor(2.0).double()
    )
    assert extreme.isfinite().all()


def test_inverse_wishart_density_matches_scipy() -> None:
    root = torch.randn(4, 3, 3, generator=rng(1), dtype=torch.float64)
    value, scale = root @ root.mT + torch.eye(3), (root.flip(0) @ root.flip(0).mT) + torch.eye(3)
    dof = torch.tensor([3.0, 4.5, 7.0, 20.0], dtype=torch.float64)
    found = conjugate.inverse_wishart_log_prob(value, dof=dof, scale=scale)
    expected = [
        stats.invwishart.logpdf(v.numpy(), float(n), s.numpy()) for v, n, s in zip(value, dof, scale, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_matrix_normal_density_matches_scipy() -> None:
    g = rng(2)
    root, other = (
        torch.randn(3, 3, generator=g, dtype=torch.float64),
        torch.randn(4, 4, generator=g, dtype=torch.float64),
    )
    rows, precision = root @ root.T + torch.eye(3), other @ other.T + torch.eye(4)
    value, mean = torch.randn(2, 3, 4, generator=g, dtype=torch.float64)
    found = conjugate.matrix_normal_log_prob(value, mean=mean, row_covariance=rows, precision=precision)
    expected = stats.matrix_normal.logpdf(value.numpy(), mean.numpy(), rows.numpy(), np.linalg.inv(precision.numpy()))
    assert float(found) == pytest.approx(expected, rel=1e-10)


# ------------------------------------------------------------------------------------------------ conjugate updates


def test_inverse_wishart_draws() -> None:
    m, dof = 3, 9.0
    root = torch.randn(m, m, generator=rng(3), dtype=torch.float64)
    scale = root @ root.T + torch.eye(m)
    x = conjugate.sample_inverse_wishart(full(dof), scale, rng(4))
    mean = scale / (dof - m - 1)
    # variances of the entries in closed form (Press 1982)
    s = scale.numpy()
    c = (dof - m) * (dof - m - 1) ** 2 * (dof - m - 3)
    variance = ((dof - m + 1) * s**2 + (dof - m - 1) * np.outer(np.diag(s), np.diag(s))) / c
    for i in range(m):
        for j in range(m):
            assert abs(score(x[:, i, j].numpy(), float(mean[i, j]), variance[i, j])) < 4.5
    # inverse of a diagonal block: 1/Q_00 of a 1x1 marginal is Gamma((dof - m + 1)/2, scale 2/S_00)
    law = stats.gamma((dof - m + 1) / 2, scale=2 / float(scale[0, 0]))
    assert stats.kstest(1 / x[:, 0, 0].numpy(), law.cdf).pvalue > 1e-3
    # the determinant is a product of chi squares: log |S| - log |Q|
    expected = sum(special.digamma((dof - i) / 2) + math.log(2) for i in range(m))
    spread = sum(special.polygamma(1, (dof - i) / 2) for i in range(m))
    assert abs(score((torch.logdet(scale) - torch.logdet(x)).numpy(), expected, float(spread))) < 4.5


def prior_law(m: int, k: int) -> MatrixNormalInverseWishart:
    eye = torch.eye(m, dtype=torch.float64)
    mean = torch.eye(m, k, dtype=torch.float64)
    return MatrixNormalInverseWishart(mean, torch.eye(k).double(), torch.tensor(m + 2.0).double(), 0.01 * eye)


def test_regression_statistics_split_by_state() -> None:
    g = rng(5)
    x, y = torch.randn(2, 3, 12, 4, generator=g).double(), torch.randn(2, 3, 12, 3, generator=g).double()
    states = torch.randint(0, 3, (2, 1, 12), generator=g)
    sums = conjugate.regression_statistics(x, y, weights=torch.nn.functional.one_hot(states, 3).mT.double())
    for chain in range(2):
        for cluster in range(3):
            for state in range(3):
                at = states[chain, 0] == state
                xs, ys = x[chain, cluster, at], y[chain, cluster, at]
                here = (chain, cluster, state)
                torch.testing.assert_close(sums.inputs[here], xs.T @ xs)
                torch.testing.assert_close(sums.crossed[here], ys.T @ xs)
                torch.testing.assert_close(sums.outputs[here], ys.T @ ys)
                assert int(sums.n_observations[here]) == int(at.sum())


def test_update_is_bayes_rule() -> None:
    """Prior times likelihood over posterior is the same constant, the evidence, at any parameter value."""
    g = rng(6)
    x, y = torch.randn(9, 4, generator=g).double(), torch.randn(9, 3, generator=g).double()
    prior = prior_law(3, 4)
    sums = conjugate.RegressionStatistics(torch.tensor(9.0).double(), x.T @ x, y.T @ x, y.T @ y)
    posterior = conjugate.update_regression(prior, sums)
    evidence = float(conjugate.log_evidence(prior, posterior, sums))
    for seed in range(4):
        matrix, noise = conjugate.sample_regression(prior._replace(scale=torch.eye(3).double()), rng(seed))
        likelihood = sum(
            stats.multivariate_normal((matrix @ x[t]).numpy(), noise.numpy()).logpdf(y[t].numpy()) for t in range(9)
        )
        total = likelihood
        for law, sign in ((prior, 1), (posterior, -1)):
            total += sign * float(conjugate.inverse_wishart_log_prob(noise, dof=law.dof, scale=law.scale))
            total += sign * float(
                conjugate.matrix_normal_log_prob(matrix, mean=law.mean, row_covariance=noise, precision=law.precision)
            )
        assert total == pytest.approx(evidence, rel=1e-9)


def test_no_observations_leave_the_prior() -> None:
    prior = prior_law(2, 3)
    sums = conjugate.regression_statistics(
        torch.zeros(4, 3).double(), torch.zeros(4, 2).double(), weights=full(0.0, 5, 4)
    )
    posterior = conjugate.update_regression(prior, sums)
    torch.testing.assert_close(posterior.scale, prior.scale.expand(5, 2, 2))
    torch.testing.assert_close(posterior.mean, prior.mean.expand(5, 2, 3))
    torch.testing.assert_close(conjugate.log_evidence(prior, posterior, sums), full(0.0, 5))


def test_regression_draws_have_the_posterior_moments() -> None:
    g = rng(7)
    x = torch.randn(30, 3, generator=g).double()
    y = x @ torch.randn(3, 2, generator=g).double() + torch.randn(30, 2, generator=g).double()
    law = conjugate.update_regression(
        prior_law(2, 3), conjugate.RegressionStatistics(torch.tensor(30.0).double(), x.T @ x, y.T @ x, y.T @ y)
    )
    many = MatrixNormalInverseWishart(law.mean.expand(N, 2, 3), law.precision, law.dof, law.scale)
    matrix, noise = conjugate.sample_regression(many, rng(8))
    expected_noise = law.scale / (law.dof - 3)
    columns = torch.linalg.inv(law.precision)
    white = torch.linalg.solve(torch.linalg.cholesky(noise), matrix - law.mean) @ torch.linalg.cholesky(law.precision)
    assert stats.kstest(white.reshape(-1)[:N].numpy(), "norm").pvalue > 1e-3
    for i in range(2):
        for j in range(3):
            variance = float(expected_noise[i, i] * columns[j, j])
            assert abs(score(matrix[:, i, j].numpy(), float(law.mean[i, j]), variance)) < 4.5


@settings(deadline=None, derandomize=True, max_examples=40)
@given(q=st.integers(1, 8), scale=st.floats(0.2, 1.5), seed=st.integers(0, 10_000))
def test_stability_agrees_with_eigenvalues(q: int, scale: float, seed: int) -> None:
    matrix = scale * torch.randn(200, q, q, generator=rng(seed), dtype=torch.float64) / math.sqrt(q)
    radius = torch.linalg.eigvals(matrix).abs().amax(-1)
    clear = (radius - 1.05).abs() > 1e-6
    assert torch.equal(conjugate.is_stable(matrix, max_radius=1.05)[clear], (radius < 1.05)[clear])


def test_stable_draws_are_the_truncated_law_and_fall_back_on_the_current_value() -> None:
    prior = prior_law(2, 3)
    wide = prior._replace(mean=prior.mean.expand(N, 2, 3))
    matrix, noise = conjugate.sample_stable_regression(wide, rng(9))
    assert (torch.linalg.eigvals(matrix[..., :2]).abs() <= 1.05 + 1e-9).all()
    free, free_noise = conjugate.sample_regression(wide, rng(10))
    inside = conjugate.is_stable(free[..., :2], max_radius=1.05)
    assert 0.05 < float(inside.double().mean()) < 0.95
    for ours, theirs in ((matrix[:, 0, 0], free[inside, 0, 0]), (noise[:, 1, 1], free_noise[inside, 1, 1])):
        assert stats.ks_2samp(ours.numpy(), theirs.numpy()).pvalue > 1e-3
    explosive = MatrixNormalInverseWishart(
        9 * torch.eye(2, 3).double().expand(4, 2, 3), 1e9 * torch.eye(3).double(), prior.dof, prior.scale
    )
    current = matrix[:4], noise[:4]
    kept = conjugate.sample_stable_regression(explosive, rng(), current=current, tries=3)
    assert torch.equal(kept[0], current[0])
    assert torch.equal(kept[1], current[1])
    with pytest.raises(NonFiniteError, match=r"spectral radius <= 1.05, got none in 3 tries for 4 laws"):
        conjugate.sample_stable_regression(explosive, rng(), tries=3)
    with pytest.raises(InputError, match="max_radius > 0"):
        conjugate.is_stable(torch.eye(2), max_radius=0.0)


def test_weighted_regression_is_the_loadings_conditional() -> None:
    """Against numerical integration of prior times Pólya-Gamma likelihood over a grid of (d, c)."""
    g = rng(11)
    design = torch.cat([torch.ones(8, 1), torch.randn(8, 1, generator=g)], -1).double()
    omega, kappa, offset = (torch.rand(8, generator=g).double() for _ in range(3))
    omega[3], kappa[3] = 0, 0
    precision, linear = conjugate.weighted_regression(
        design, omega, working=kappa - omega * offset, prior_precision=torch.eye(2).double()
    )
    axis = torch.linspace(-7, 7, 400, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    psi = grid @ design.T + offset
    log_p = (kappa * psi - 0.5 * omega * psi.square()).sum(-1) - 0.5 * grid.square().sum(-1)
    p = (log_p - log_p.max()).exp()
    mean = (p[:, None] * grid).sum(0) / p.sum()
    covariance = ((grid - mean).T * p) @ (grid - mean) / p.sum()
    torch.testing.assert_close(torch.linalg.inv(precision), covariance, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(torch.linalg.solve(precision, linear), mean, atol=1e-6, rtol=1e-6)
    draws = sample_gaussian(precision.expand(N, 2, 2), linear.expand(N, 2), rng(12)).numpy()
    for i in range(2):
        assert abs(score(draws[:, i], float(mean[i]), float(covariance[i, i]))) < 4.5


# ------------------------------------------------------------------------------------------------------- dispersion


def counts_and_means(true_r: float, n_time: int, seed: int) -> tuple[Tensor, Tensor]:
    log_mean = 0.8 + 0.5 * torch.randn(n_time, generator=rng(seed), dtype=torch.float64)
    return d.sample_negative_binomial(log_mean, torch.tensor(true_r).double(), rng(seed + 1)), log_mean


def test_dispersion_density_is_likelihood_times_prior() -> None:
    y, log_mean = counts_and_means(3.0, 12, 0)
    mask = torch.arange(12) % 4 != 1
    values = torch.tensor([0.1, 1.0, 7.0, 90.0]).double()
    for use in (None, mask):
        found = dispersion_log_density(values.log(), y.expand(4, 12), log_mean=log_mean, mask=use, shape=2.0, rate=0.5)
        kept = torch.ones(12, dtype=torch.bool) if use is None else use
        p = values.numpy()[:, None] / (values.numpy()[:, None] + log_mean[kept].exp().numpy())
        expected = stats.nbinom.logpmf(y[kept].numpy(), values.numpy()[:, None], p).sum(1)
        expected += stats.gamma(2.0, scale=2.0).logpdf(values.numpy()) + values.log().numpy()
        np.testing.assert_allclose(np.diff(found.numpy()), np.diff(expected), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "update", [sample_dispersion, sample_dispersion_slice, partial(sample_dispersion_slice, width=0.4, steps_out=2)]
)
@pytest.mark.parametrize("true_r", [0.7, 2.0, 30.0])
def test_dispersion_updates_leave_the_conditional_invariant(update: Callable[..., object], true_r: float) -> None:
    """Exact draws from the conditional (by numerical inversion) must stay exact draws after the update."""
    y, log_mean = counts_and_means(true_r, 60, 3)
    axis = torch.linspace(-4, 7, 4001, dtype=torch.float64)
    log_p = dispersion_log_density(axis, y.expand(4001, 60), log_mean=log_mean)
    cdf = integrate.cumulative_trapezoid((log_p - log_p.max()).exp().numpy(), axis.numpy(), initial=0)
    cdf /= cdf[-1]
    n = 4000
    start = np.interp((np.arange(n) + 0.5) / n, cdf, axis.numpy())
    moved = update(torch.as_tensor(start).exp(), y.expand(n, 60), log_mean=log_mean.expand(n, 60), generator=rng(5))
    after = (moved if isinstance(moved, Tensor) else moved[0]).log().numpy()  # type: ignore[index]
    assert (np.abs(after - start) > 1e-6).mean() > 0.5
    assert stats.kstest(np.interp(after, axis.numpy(), cdf), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("update", [sample_dispersion, sample_dispersion_slice])
def test_dispersion_chain_finds_the_conditional_from_afar(update: Callable[..., object]) -> None:
    """Spec, trap 2: with mu fixed the published table-count update settles at 4.3 where the posterior mean is 2.2."""
    y, log_mean = counts_and_means(2.0, 200, 9)
    axis = torch.linspace(-1, 3, 2001, dtype=torch.float64)
    log_p = dispersion_log_density(axis, y.expand(2001, 200), log_mean=log_mean)
    p = (log_p - log_p.max()).exp()
    mean = float((p * axis).sum() / p.sum())
    variance = float((p * (axis - mean).square()).sum() / p.sum())
    r = torch.full((300,), 40.0, dtype=torch.float64)
    generator = rng(6)
    for _ in range(40):
        moved = update(r, y.expand(300, 200), log_mean=log_mean.expand(300, 200), generator=generator)
        r = moved if isinstance(moved, Tensor) else moved[0]  # type: ignore[index]
    assert abs(score(r.log().numpy(), mean, variance)) < 4.5


def test_masked_entries_do_not_move_the_dispersion() -> None:
    y, log_mean = counts_and_means(2.0, 30, 1)
    mask = torch.arange(30) < 20
    spoiled = torch.where(mask, y, torch.nan)
    one = sample_dispersion(torch.ones(1).double(), spoiled[None], log_mean=log_mean, mask=mask, generator=rng())
    other = sample_dispersion(torch.ones(1).double(), y[None, :20], log_mean=log_mean[:20], generator=rng())
    torch.testing.assert_close(one.dispersion, other.dispersion)
    assert 0 <= float(one.accepted) <= 1


def test_dispersion_on_an_accelerator_and_bad_arguments() -> None:
    y, log_mean = counts_and_means(2.0, 30, 1)
    here = sample_dispersion(torch.ones(1).double(), y[None], log_mean=log_mean[None], generator=rng())
    with simulated_accelerator() as device:
        moved = (x.to(device) for x in (torch.ones(1).double(), y[None]))
        there = sample_dispersion(*moved, log_mean=log_mean[None].to(device), generator=rng())
        torch.testing.assert_close(there.dispersion.cpu(), here.dispersion)
        law = conjugate.sample_stable_regression(
            MatrixNormalInverseWishart(*(x.to(device) for x in prior_law(3, 4))), rng(1)
        )
        torch.testing.assert_close(law[0].cpu(), conjugate.sample_stable_regression(prior_law(3, 4), rng(1))[0])
    with pytest.raises(InputError, match="step > 0 and tries >= 1, got step=0.0, tries=3"):
        sample_dispersion(torch.ones(1), y[None], log_mean=log_mean[None], generator=rng(), step=0.0)
