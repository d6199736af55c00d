"""Diagnostics against ArviZ, against theory, and on samplers that are right and wrong."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.simulated_accelerator import simulated_accelerator
from tectum.core.errors import InputError
from tectum.stats import diagnostics

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz

HDI = "hdi_prob" if arviz.__version__ < "1" else "prob"  # what 0.x and 1.x call the share of an interval


def autoregressive(chains, n, *, rho, seed, shift=0.0):
    g = np.random.default_rng(seed)
    out = np.zeros((chains, n))
    noise = g.standard_normal((chains, n))
    out[:, 0] = noise[:, 0] / np.sqrt(1 - rho**2)
    for t in range(1, n):
        out[:, t] = rho * out[:, t - 1] + noise[:, t]
    return out + shift * np.arange(chains)[:, None]


def ours_and_arviz(draws):
    ours = torch.from_numpy(draws)
    pairs = {
        "rhat": (diagnostics.split_rhat(ours), arviz.rhat),
        "bulk": (diagnostics.ess_bulk(ours), lambda a: arviz.ess(a, method="bulk")),
        "tail": (diagnostics.ess_tail(ours), lambda a: arviz.ess(a, method="tail", prob=(0.05, 0.95))),
        "mean": (diagnostics.ess_mean(ours), lambda a: arviz.ess(a, method="mean")),
        "mcse_mean": (diagnostics.mcse_mean(ours), lambda a: arviz.mcse(a, method="mean")),
        "mcse_sd": (diagnostics.mcse_sd(ours), lambda a: arviz.mcse(a, method="sd")),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from inside ArviZ
        return {
            name: (got.numpy(), np.array([np.squeeze(f(draws[..., p])) for p in range(draws.shape[-1])]))
            for name, (got, f) in pairs.items()
        }


@pytest.mark.parametrize(("chains", "n"), [(4, 500), (2, 101), (3, 8), (4, 7), (2, 4)])
def test_values_equal_arviz(chains, n):
    rhos = [-0.7, 0.0, 0.5, 0.95, 0.99]
    draws = np.stack([autoregressive(chains, n, rho=r, seed=i, shift=i % 2) for i, r in enumerate(rhos)], axis=-1)
    draws = np.concatenate(
        (draws, np.exp(3 * draws[..., 1:2]), np.round(draws[..., 2:3]), draws[..., 1:2] > 1), axis=-1
    )
    for name, (got, expected) in ours_and_arviz(draws.astype(float)).items():
        np.testing.assert_allclose(got, expected, rtol=1e-8, atol=1e-12, err_msg=name)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(chains=st.integers(2, 5), n=st.integers(4, 200), rho=st.floats(-0.9, 0.999), seed=st.integers(0, 10**6))
def test_values_equal_arviz_on_any_chain(chains, n, rho, seed):
    for name, (got, expected) in ours_and_arviz(autoregressive(chains, n, rho=rho, seed=seed)[..., None]).items():
        np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("probability", [0.5, 0.9, 0.94])
def test_hdi_equals_arviz(probability):
    draws = np.random.default_rng(0).gamma(2.0, size=(3, 301, 4))
    got = diagnostics.hdi(torch.from_numpy(draws), probability=probability)
    expected = np.stack([arviz.hdi(draws[..., p].reshape(-1), **{HDI: probability}) for p in range(4)])
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12)


def test_effective_size_of_an_autoregression_is_the_theoretical_one():
    draws = torch.from_numpy(autoregressive(8, 20_000, rho=0.6, seed=1))
    expected = draws.numel() * (1 - 0.6) / (1 + 0.6)
    assert abs(diagnostics.ess_mean(draws) / expected - 1) < 0.05


def test_unmixed_chains_are_seen_in_location_and_in_scale():
    g = torch.Generator().manual_seed(0)
    draws = torch.randn(4, 400, 3, generator=g)
    draws[0, :, 1] += 2.0
    draws[0, :, 2] *= 4.0
    rhat = diagnostics.split_rhat(draws)
    assert rhat[0] < 1.01
    assert (rhat[1:] > 1.1).all()


def test_undefined_values_are_nan_and_constants_are_full_size():
    draws = torch.randn(2, 50, 2, generator=torch.Generator().manual_seed(0))
    draws[0, 3, 0] = torch.nan
    for f in (diagnostics.split_rhat, diagnostics.ess_bulk, diagnostics.ess_tail, diagnostics.ess_mean):
        assert f(draws).isnan().tolist() == [True, False]
    constant = torch.ones(2, 50)
    assert diagnostics.split_rhat(constant).isnan()
    assert diagnostics.ess_bulk(constant) == 100


def test_geweke_statistic_is_standard_normal_and_sees_a_wrong_sampler():
    g = torch.Generator().manual_seed(3)
    independent = torch.randn(4000, 300, generator=g)
    successive = torch.from_numpy(autoregressive(2, 4000 * 150, rho=0.5, seed=2)).reshape(2, 150, 4000) * 0.75**0.5
    successive = torch.cat((successive[0], successive[1])).T.unsqueeze(0)  # 300 statistics of one chain
    z = diagnostics.geweke_test(independent, successive, n_batches=40).z
    assert abs(z.mean()) < 0.25
    assert 0.85 < z.std() < 1.2
    assert diagnostics.geweke_test(independent, successive + 0.2).z.abs().min() > 3


def test_geweke_of_equal_constants_is_zero():
    assert diagnostics.geweke_test(torch.ones(10), torch.ones(1, 100)).z == 0


def test_calibration_ranks_of_an_exact_posterior_are_uniform_and_of_a_narrow_one_are_not():
    g = torch.Generator().manual_seed(0)
    truth = torch.randn(2000, 2, generator=g)
    data = truth + torch.randn(2000, 2, generator=g)
    mean, sd = data / 2, torch.tensor([0.5**0.5, 0.5])
    posterior = mean[:, None] + sd * torch.randn(2000, 99, 2, generator=g)
    ranks = diagnostics.calibration_ranks(truth, posterior, generator=g)
    found = diagnostics.rank_uniformity(ranks, n_draws=99)
    assert found.p_value[0] > 0.01
    assert found.p_value[1] < 1e-6
    assert found.counts.sum(-1).tolist() == [2000, 2000]


def test_ties_of_discrete_parameters_are_broken_uniformly():
    g = torch.Generator().manual_seed(0)
    ranks = diagnostics.calibration_ranks(torch.zeros(5000), torch.zeros(5000, 9), generator=g)
    assert diagnostics.rank_uniformity(ranks, n_draws=9).p_value > 0.01


def test_p_value_equals_scipy():
    from scipy.stats import chisquare

    ranks = torch.randint(0, 20, (500,), generator=torch.Generator().manual_seed(4))
    found = diagnostics.rank_uniformity(ranks, n_draws=19)
    expected = chisquare(found.counts.numpy())
    np.testing.assert_allclose([found.statistic, found.p_value], [expected.statistic, expected.pvalue], rtol=1e-10)


def test_other_devices_give_the_same_result():
    draws = torch.randn(4, 60, 3, generator=torch.Generator().manual_seed(0))
    names = ["split_rhat", "ess_bulk", "ess_tail", "mcse_mean", "mcse_sd", "hdi"]
    here = [getattr(diagnostics, n)(draws) for n in names]
    with simulated_accelerator() as device:
        there = [getattr(diagnostics, n)(draws.to(device)).cpu() for n in names]
        z = diagnostics.geweke_test(draws[0].to(device), draws.to(device), n_batches=5).z.cpu()
        g = torch.Generator().manual_seed(0)
        ranks = diagnostics.calibration_ranks(draws[0].to(device), draws.to(device).movedim(0, 1), generator=g)
        p = diagnostics.rank_uniformity(ranks, n_draws=4, n_bins=5).p_value.cpu()
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(z, diagnostics.geweke_test(draws[0], draws, n_batches=5).z)
    assert p.shape == (3,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: diagnostics.split_rhat(torch.zeros(1, 10)), r"expected \(chain >= 2, draw >= 4, ...\), got \(1, 10\)"),
        (lambda: diagnostics.ess_bulk(torch.zeros(2, 3)), r"ess_bulk: expected \(chain >= 1, draw >= 4"),
        (
            lambda: diagnostics.ess_tail(torch.zeros(2, 9), probability=0.7),
            r"probability: expected in \(0, 0.5\), got 0.7",
        ),
        (lambda: diagnostics.hdi(torch.zeros(2, 9), probability=1.0), r"hdi: probability: expected in \(0, 1\)"),
        (lambda: diagnostics.hdi(torch.zeros(1, 1)), "at least 2 draws, got 1"),
        (lambda: diagnostics.geweke_test(torch.zeros(9), torch.zeros(2, 9)), "geweke_test: expected"),
        (
            lambda: diagnostics.calibration_ranks(torch.zeros(3), torch.zeros(4, 5), generator=torch.Generator()),
            r"calibration_ranks: expected .*got \(3,\) and \(4, 5\)",
        ),
        (lambda: diagnostics.rank_uniformity(torch.zeros(9), n_draws=10), "n_draws=10, n_bins=10"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
