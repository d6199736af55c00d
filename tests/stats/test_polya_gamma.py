"""Pólya-Gamma draws against moments, Laplace transform, additivity and the exact alternating-series sampler."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from support.simulated_accelerator import count_syncs, simulated_accelerator
from tectum.core.errors import InputError, NonFiniteError
from tectum.stats import polya_gamma
from tectum.stats.polya_gamma import Method, log_laplace_transform, sample_polya_gamma

SHAPES = (0.3, 1.0, 1.5, 2.7, 5.3, 10.3, 50.0)
TILTS = (0.0, 0.5, 1.0, 3.0, 8.0, 40.0)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def f64(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def draw(shape: float, tilt: float, n: int, seed: int = 0, **how: Any) -> np.ndarray:
    tilts = torch.full((n,), tilt, dtype=torch.float64)
    return np.asarray(sample_polya_gamma(f64(shape), tilts, generator=rng(seed), **how))


def cumulant(order: int, shape: float, tilt: float) -> float:
    """Cumulant b (order - 1)! sum_k w_k^order, summed directly with the tail as an integral."""
    k = np.arange(1, 200_001)
    weights = 1 / (2 * np.pi**2 * (k - 0.5) ** 2 + tilt**2 / 2)
    tail = (2 * np.pi**2) ** -order * 200_000.0 ** (1 - 2 * order) / (2 * order - 1)
    return shape * math.factorial(order - 1) * (float((weights**order).sum()) + tail)


def moment_scores(x: np.ndarray, shape: float, tilt: float) -> tuple[float, float]:
    """Standardised errors of mean and variance, with exact sampling variances."""
    mean, variance, fourth = (cumulant(order, shape, tilt) for order in (1, 2, 4))
    z_mean = (x.mean() - mean) / math.sqrt(variance / x.size)
    z_variance = (((x - mean) ** 2).mean() - variance) / math.sqrt((fourth + 2 * variance**2) / x.size)
    return float(z_mean), float(z_variance)


def laplace_score(x: np.ndarray, s: float, shape: float, tilt: float) -> float:
    """Standardised error of the empirical Laplace transform."""
    one, two = (float(log_laplace_transform(f64(a), f64(shape), f64(tilt)).exp()) for a in (s, 2 * s))
    return float((np.exp(-s * x).mean() - one) / math.sqrt((two - one**2) / x.size))


@pytest.mark.parametrize("tilt", [0.0, 1e-4, 0.009, 0.011, 0.3, 0.499, 0.501, 1.0, 3.0, 8.0, 40.0, 700.0])
def test_moments_match_the_series(tilt: float) -> None:
    assert float(polya_gamma.mean(f64(2.5), f64(-tilt))) == pytest.approx(cumulant(1, 2.5, tilt), rel=1e-10)
    assert float(polya_gamma.variance(f64(2.5), f64(-tilt))) == pytest.approx(cumulant(2, 2.5, tilt), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("terms", [1, 6, 16, 25])
def test_tail_moments_do_not_cancel(dtype: torch.dtype, terms: int) -> None:
    tilts = torch.tensor([0.0, 0.01, 1.0, 5.0, 40.0, 300.0], dtype=dtype)
    mean, variance = polya_gamma._tail_moments(torch.ones_like(tilts), tilts, terms)
    k = np.arange(terms + 1, 200_001)[:, None]
    weights = 1 / (2 * np.pi**2 * (k - 0.5) ** 2 + tilts.double().numpy() ** 2 / 2)
    expected = weights.sum(0) + 1 / (2 * np.pi**2 * 200_000)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-7
    np.testing.assert_allclose(mean.double().numpy(), expected, rtol=tolerance)
    np.testing.assert_allclose(variance.double().numpy(), (weights**2).sum(0), rtol=tolerance)


def test_laplace_transform_is_that_of_the_sum_and_finite_at_extremes() -> None:
    shape, tilt, s = 1.7, 2.0, 3.0
    k = np.arange(1, 400_001)
    weights = 1 / (2 * np.pi**2 * (k - 0.5) ** 2 + tilt**2 / 2)
    expected = -shape * (np.log1p(s * weights).sum() + s / (2 * np.pi**2 * 400_000))
    assert float(log_laplace_transform(f64(s), f64(shape), f64(tilt))) == pytest.approx(expected, rel=1e-9)
    assert float(log_laplace_transform(f64(1.0), f64(1.0), f64(1e6))) == pytest.approx(-0.5e-6, rel=1e-3)


@pytest.mark.parametrize("tilt", TILTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_moments_and_laplace_transform(shape: float, tilt: float) -> None:
    x = draw(shape, tilt, 40_000, seed=int(100 * shape + tilt))
    scale = 1 / cumulant(1, shape, tilt)
    scores = [*moment_scores(x, shape, tilt), *(laplace_score(x, s * scale, shape, tilt) for s in (0.3, 1.0, 4.0))]
    assert max(map(abs, scores)) < 4.5, scores


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_moments_and_laplace_transform_at_a_million_draws(shape: float) -> None:
    for tilt in TILTS:
        x = draw(shape, tilt, 1_000_000, seed=int(100 * shape + tilt) + 7)
        scale = 1 / cumulant(1, shape, tilt)
        scores = [*moment_scores(x, shape, tilt), *(laplace_score(x, s * scale, shape, tilt) for s in (0.3, 1.0, 4.0))]
        assert max(map(abs, scores)) < 4.0, (tilt, scores)


@pytest.mark.parametrize("tilt", [0.0, 1.0, 8.0, 40.0])
@pytest.mark.parametrize("shape", [1, 2, 5])
def test_sum_agrees_with_the_exact_sampler(shape: int, tilt: float) -> None:
    x, exact = draw(shape, tilt, 60_000, seed=1), draw(shape, tilt, 60_000, seed=2, method="devroye")
    assert stats.ks_2samp(x, exact).pvalue > 1e-3
    assert max(map(abs, moment_scores(exact, shape, tilt))) < 4.5


def exact_density(x: float, tilt: float) -> float:
    """PG(1, z) by the two series of the theta function, whichever converges faster."""
    n = np.arange(60)
    if x < 0.25:
        terms = (-1.0) ** n * (2 * n + 1) / np.sqrt(2 * np.pi * x**3) * np.exp(-((2 * n + 1) ** 2) / (8 * x))
    else:
        terms = (-1.0) ** n * np.pi * (2 * n + 1) * np.exp(-(((n + 0.5) * np.pi) ** 2) * 2 * x) * 2
    return float(np.cosh(tilt / 2) * np.exp(-(tilt**2) * x / 2) * terms.sum())


@pytest.mark.parametrize("method", ["gamma", "devroye"])
@pytest.mark.parametrize("tilt", [0.0, 2.0, 6.0])
def test_unit_shape_follows_the_exact_distribution_function(method: Method, tilt: float) -> None:
    edges = np.linspace(1e-9, 0.6, 25)
    mass = [integrate.quad(exact_density, a, b, args=(tilt,), epsabs=1e-12)[0] for a, b in itertools.pairwise(edges)]
    n = 100_000
    counts = np.histogram(draw(1.0, tilt, n, seed=5, method=method), edges)[0]
    expected = n * np.array([*mass, 1 - sum(mass)])
    counts = np.append(counts, n - counts.sum())
    kept = expected > 20
    pooled_counts = np.append(counts[kept], counts[~kept].sum())
    pooled = np.append(expected[kept], expected[~kept].sum())
    statistic = float(((pooled_counts - pooled) ** 2 / np.maximum(pooled, 1e-9))[pooled > 5].sum())
    assert stats.chi2.sf(statistic, int((pooled > 5).sum()) - 1) > 1e-4


@pytest.mark.parametrize(("first", "second"), [(0.3, 0.7), (1.5, 2.7), (4.0, 6.3)])
def test_shapes_add(first: float, second: float) -> None:
    for tilt in (0.0, 3.0):
        parts = draw(first, tilt, 50_000, seed=1) + draw(second, tilt, 50_000, seed=2)
        whole = draw(first + second, tilt, 50_000, seed=3)
        assert stats.ks_2samp(parts, whole).pvalue > 1e-3
        assert max(map(abs, moment_scores(parts, first + second, tilt))) < 4.5


def test_six_terms_serve_usual_counts() -> None:
    for shape, tilt in ((1.0, 0.0), (1.0, 8.0), (13.7, 4.0)):
        x = draw(shape, tilt, 200_000, seed=11, terms=6)
        scale = 1 / cumulant(1, shape, tilt)
        scores = [*moment_scores(x, shape, tilt), *(laplace_score(x, s * scale, shape, tilt) for s in (0.3, 1.0, 4.0))]
        assert max(map(abs, scores)) < 4.5


@pytest.mark.parametrize("terms", [1, 3])
def test_tail_keeps_mean_and_variance_exact_for_any_number_of_terms(terms: int) -> None:
    for shape, tilt in ((0.5, 0.0), (3.0, 8.0)):
        assert max(map(abs, moment_scores(draw(shape, tilt, 100_000, seed=12, terms=terms), shape, tilt))) < 4.5


def test_normal_method_has_exact_moments() -> None:
    assert max(map(abs, moment_scores(draw(400.0, 2.0, 100_000, method="normal"), 400.0, 2.0))) < 4.5


def test_float32_keeps_the_moments() -> None:
    tilts = torch.full((200_000,), 1.5)
    x = sample_polya_gamma(torch.tensor(2.7), tilts, generator=rng(4))
    assert x.dtype == torch.float32
    assert max(map(abs, moment_scores(x.double().numpy(), 2.7, 1.5))) < 4.5


def test_broadcasts_promotes_and_gives_zero_where_missing() -> None:
    shape = torch.tensor([[0.0], [2.0]])
    x = sample_polya_gamma(shape, torch.zeros(3, dtype=torch.float64), generator=rng())
    assert x.shape == (2, 3)
    assert x.dtype == torch.float64
    assert (x[0] == 0).all()
    assert (x[1] > 0).all()
    exact = sample_polya_gamma(shape, torch.zeros(3), generator=rng(), method="devroye")
    assert (exact[0] == 0).all()
    assert (exact[1] > 0).all()


@pytest.mark.parametrize("method", ["gamma", "devroye"])
def test_extreme_arguments_stay_finite(method: Method) -> None:
    tilts = torch.tensor([-1e4, -300.0, 1e-12, 300.0, 1e4], dtype=torch.float64).repeat(2000, 1)
    x = sample_polya_gamma(f64(3.0), tilts, generator=rng(), method=method)
    assert bool((x > 0).all())
    assert x.isfinite().all()
    z = (x.mean(0) - polya_gamma.mean(f64(3.0), tilts[0])) / (polya_gamma.variance(f64(3.0), tilts[0]) / 2000).sqrt()
    assert float(z.abs().max()) < 4.5
    tiny = sample_polya_gamma(f64(1e-3), tilts, generator=rng())
    assert tiny.isfinite().all()
    assert float(sample_polya_gamma(f64(1e5), f64(0.0), generator=rng())) == pytest.approx(25_000, rel=0.02)


def test_sign_of_the_tilt_does_not_matter() -> None:
    one, other = (sample_polya_gamma(f64(2.0), f64(z).expand(50), generator=rng(3)) for z in (1.3, -1.3))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("method", ["gamma", "devroye", "normal"])
def test_same_seed_same_draw_and_other_seed_other_draw(method: Method) -> None:
    again = [draw(2.0, 1.0, 100, seed=seed, method=method) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(again[0], again[1])
    assert (again[0] != again[2]).all()


@pytest.mark.parametrize("method", ["gamma", "devroye", "normal"])
def test_cpu_generator_gives_the_same_draws_on_an_accelerator(method: Method) -> None:
    shape, tilt = torch.tensor([1.0, 2.0, 5.0]), torch.tensor([[0.0], [3.0]])
    here = sample_polya_gamma(shape, tilt, generator=rng(), method=method)
    with simulated_accelerator() as device:
        there = sample_polya_gamma(shape.to(device), tilt.to(device), generator=rng(), method=method)
        assert there.device == device
        torch.testing.assert_close(there.cpu(), here)


def test_accelerator_generator_never_waits_for_the_device() -> None:
    with simulated_accelerator() as device:
        own = torch.Generator(device=device).manual_seed(0)
        shape, tilt = torch.full((500,), 2.0, device=device), torch.ones(500, device=device)
        with count_syncs() as syncs:
            x = sample_polya_gamma(shape, tilt, generator=own)
        assert sum(syncs.values()) == 0
        assert abs(moment_scores(x.cpu().double().numpy(), 2.0, 1.0)[0]) < 4.5


def test_inputs_and_global_generator_are_left_alone() -> None:
    shape, tilt = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    copies, state = (shape.clone(), tilt.clone()), torch.random.get_rng_state()
    sample_polya_gamma(shape, tilt, generator=rng())
    assert torch.equal(shape, copies[0])
    assert torch.equal(tilt, copies[1])
    assert torch.equal(state, torch.random.get_rng_state())


def test_bad_arguments_are_named() -> None:
    one = torch.ones(2)
    with pytest.raises(InputError, match="expected gamma or devroye or normal, got method='saddle'"):
        sample_polya_gamma(one, one, generator=rng(), method="saddle")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected terms >= 1, got terms=0"):
        sample_polya_gamma(one, one, generator=rng(), terms=0)
    with pytest.raises(InputError, match="expected integer b >= 0 with method='devroye', got a real b; use"):
        sample_polya_gamma(1.5 * one, one, generator=rng(), method="devroye")
    with pytest.raises(NonFiniteError, match="expected finite b and z"):
        sample_polya_gamma(one, one * torch.nan, generator=rng(), method="devroye")
