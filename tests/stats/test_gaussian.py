"""State-space paths against dense Gaussian conditioning; sequential against parallel; filter and smoother too."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from support.simulated_accelerator import simulated_accelerator
from tectum.core.errors import InputError, NonFiniteError
from tectum.stats.block_tridiagonal import Blocks, Method, choose_method, smooth_blocks, solve_blocks
from tectum.stats.gaussian import (
    Dynamics,
    Evidence,
    add_evidence,
    append_initial,
    augmented_evidence,
    dynamics_path,
    path_log_prob,
    prior_blocks,
    sample_gaussian,
    sample_paths,
    semidefinite_factor,
    smooth,
)
from tectum.stats.kalman import kalman_filter, rts_smoother

METHODS: tuple[Method, ...] = ("sequential", "parallel")


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def model(batch: tuple[int, ...], n_time: int, q: int, seed: int = 0) -> tuple[Dynamics, Evidence]:
    """Random dynamics, evidence of rank two with a missing second bin."""
    g = rng(seed)
    transition = 0.9 * torch.eye(q, dtype=torch.float64) + 0.2 * normal(g, *batch, n_time, q, q)
    root = normal(g, *batch, n_time, q, q + 1)
    loading = normal(g, *batch, n_time, q, 2)
    precision, information = loading @ loading.mT, normal(g, *batch, n_time, q)
    if n_time > 1:
        precision[..., 1, :, :], information[..., 1, :] = 0, 0
    dynamics = Dynamics(transition, normal(g, *batch, n_time, q), root @ root.mT + 0.05 * torch.eye(q))
    return dynamics, Evidence(precision, information)


class Dense:
    """The same posterior with one big covariance matrix, built forwards in time and conditioned in moment form."""

    def __init__(self, dynamics: Dynamics, evidence: Evidence) -> None:
        n_time, q = dynamics.offset.shape
        a, b, noise = (x.numpy() for x in dynamics)
        mean, prior = np.zeros((n_time, q)), np.zeros((n_time, q, n_time, q))
        mean[0], prior[0, :, 0] = b[0], noise[0]
        for t in range(1, n_time):
            mean[t] = a[t] @ mean[t - 1] + b[t]
            for s in range(t):
                prior[t, :, s] = a[t] @ prior[t - 1, :, s]
                prior[s, :, t] = prior[t, :, s].T
            prior[t, :, t] = a[t] @ prior[t - 1, :, t - 1] @ a[t].T + noise[t]
        size = n_time * q
        self.prior_mean, self.prior_covariance = mean.reshape(size), prior.reshape(size, size)
        precision = np.zeros((n_time, q, n_time, q))
        precision[np.arange(n_time), :, np.arange(n_time)] = evidence.precision.numpy()
        j, v = precision.reshape(size, size), evidence.information.numpy().reshape(size)
        shrink = np.linalg.inv(np.eye(size) + self.prior_covariance @ j)
        covariance = shrink @ self.prior_covariance
        self.mean = self.prior_mean + covariance @ (v - j @ self.prior_mean)
        self.flat_covariance = covariance
        self.covariance = covariance.reshape(n_time, q, n_time, q)
        residual = v - j @ self.prior_mean
        self.log_evidence = (
            0.5 * np.linalg.slogdet(shrink)[1]
            + self.prior_mean @ v
            - 0.5 * self.prior_mean @ j @ self.prior_mean
            + 0.5 * residual @ covariance @ residual
        )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_time", [1, 2, 3, 4, 5, 6, 7, 8, 13])
def test_smoother_is_dense_conditioning(method: Method, n_time: int) -> None:
    dynamics, evidence = model((), n_time, 3, seed=n_time)
    dense = Dense(dynamics, evidence)
    found, log_evidence = smooth(dynamics, evidence, method=method)
    t = np.arange(n_time)
    np.testing.assert_allclose(found.mean.flatten(), dense.mean, atol=1e-9)
    np.testing.assert_allclose(found.covariance, dense.covariance[t, :, t], atol=1e-9)
    np.testing.assert_allclose(found.cross_covariance, dense.covariance[t[:-1], :, t[1:]], atol=1e-9)
    assert float(log_evidence) == pytest.approx(dense.log_evidence, abs=1e-9)
    assert float(found.log_determinant) == pytest.approx(-np.linalg.slogdet(dense.flat_covariance)[1], abs=1e-8)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_time", [1, 2, 5, 9])
def test_kalman_and_rts_are_dense_conditioning(method: Method, n_time: int) -> None:
    dynamics, evidence = model((), n_time, 3, seed=n_time)
    filtered = kalman_filter(dynamics, evidence, method=method)
    for t in range(n_time):  # the filter at t is the smoother of the first t + 1 bins
        head = Dense(Dynamics(*(x[: t + 1] for x in dynamics)), Evidence(*(x[: t + 1] for x in evidence)))
        np.testing.assert_allclose(filtered.mean[t], head.mean[-3:], atol=1e-9)
        np.testing.assert_allclose(filtered.covariance[t], head.covariance[-1, :, -1], atol=1e-9)
        assert float(filtered.log_evidence[: t + 1].sum()) == pytest.approx(head.log_evidence, abs=1e-9)
    found, _ = smooth(dynamics, evidence)
    smoothed = rts_smoother(dynamics, filtered)
    for ours, other in zip(smoothed, found[:3], strict=True):
        torch.testing.assert_close(ours, other, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_log_evidence_is_the_multivariate_normal_density(method: Method) -> None:
    dynamics, _ = model((), 4, 2, seed=3)
    g = rng(8)
    loading, noise, y = normal(g, 4, 2, 2), 0.3 + torch.rand(4, 2, generator=g).double(), normal(g, 4, 2)
    weighted = loading.mT / noise.unsqueeze(-2)
    evidence = Evidence(weighted @ loading, (weighted @ y.unsqueeze(-1)).squeeze(-1))
    dense = Dense(dynamics, evidence)
    design = torch.block_diag(*loading).numpy()
    covariance = design @ dense.prior_covariance @ design.T + np.diag(noise.flatten())
    expected = stats.multivariate_normal(design @ dense.prior_mean, covariance).logpdf(y.flatten().numpy())
    constant = -0.5 * float((y.square() / noise + (2 * math.pi * noise).log()).sum())
    for value in (
        smooth(dynamics, evidence, method=method)[1],
        sample_paths(dynamics, evidence, generator=rng(), method=method).log_evidence,
        kalman_filter(dynamics, evidence, method=method).log_evidence.sum(),
    ):
        assert float(value) + constant == pytest.approx(expected, abs=1e-9)


@settings(deadline=None, derandomize=True, max_examples=25)
@given(n_time=st.integers(1, 70), q=st.integers(1, 7), seed=st.integers(0, 10_000))
def test_sequential_and_parallel_agree(n_time: int, q: int, seed: int) -> None:
    dynamics, evidence = model((2, 1), n_time, q, seed)
    posterior = add_evidence(prior_blocks(dynamics).blocks, evidence)
    one, other = (smooth_blocks(posterior, method=method) for method in METHODS)
    for ours, theirs in zip(one, other, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=1e-8)
    draws = [sample_paths(dynamics, evidence, generator=rng(seed), method=method) for method in METHODS]
    torch.testing.assert_close(draws[0].path, draws[1].path, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(draws[0].log_evidence, draws[1].log_evidence, atol=1e-7, rtol=1e-8)
    filters = [kalman_filter(dynamics, evidence, method=method) for method in METHODS]
    for ours, theirs in zip(*filters, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=1e-7)


def test_long_series_agree() -> None:
    dynamics, evidence = model((2,), 5000, 3, seed=1)
    dynamics = dynamics._replace(transition=0.98 * torch.eye(3).double().expand(2, 5000, 3, 3))
    one, other = (smooth(dynamics, evidence, method=method) for method in METHODS)
    for ours, theirs in zip(one[0], other[0], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(one[1], other[1], atol=1e-6, rtol=1e-9)


def test_batches_are_independent() -> None:
    dynamics, evidence = model((3, 2), 11, 2, seed=5)
    whole, log_evidence = smooth(dynamics, evidence)
    for chain in range(3):
        for cluster in range(2):
            at = (chain, cluster)
            part, log_part = smooth(Dynamics(*(x[at] for x in dynamics)), Evidence(*(x[at] for x in evidence)))
            for ours, theirs in zip(whole, part, strict=True):
                torch.testing.assert_close(ours[at], theirs, atol=1e-10, rtol=1e-10)
            torch.testing.assert_close(log_evidence[at], log_part)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("q", [3, 6])
def test_draws_have_the_dense_moments(method: Method, q: int) -> None:
    n_time, n = 6, 20_000  # q = 3 as one block, q = 6 as two clusters stacked (the full form)
    dynamics, evidence = model((), n_time, q, seed=2)
    dense = Dense(dynamics, evidence)
    size = n_time * q
    many = Evidence(evidence.precision.expand(n, -1, -1, -1), evidence.information.expand(n, -1, -1))
    x = sample_paths(dynamics, many, generator=rng(4), method=method).path.reshape(n, size).numpy()
    scale = np.sqrt(np.diag(dense.flat_covariance))
    white = np.linalg.solve(np.linalg.cholesky(dense.flat_covariance), (x - dense.mean).T).T
    assert np.abs((x.mean(0) - dense.mean) / scale).max() * math.sqrt(n) < 4.5
    products = white.T @ white / n - np.eye(size)
    assert np.abs(products / np.sqrt(1 + np.eye(size))).max() * math.sqrt(n) < 4.8  # 666 statistics at q = 6
    assert stats.kstest((white**2).sum(1), "chi2", args=(size,)).pvalue > 1e-4


def test_path_log_prob_is_the_product_of_steps() -> None:
    dynamics, _ = model((2,), 5, 3, seed=9)
    path = normal(rng(1), 2, 5, 3)
    found = path_log_prob(path, prior_blocks(dynamics))
    for i in range(2):
        total = 0.0
        for t in range(5):
            before = dynamics.transition[i, t] @ path[i, t - 1] if t else torch.zeros(3).double()
            law = stats.multivariate_normal((before + dynamics.offset[i, t]).numpy(), dynamics.covariance[i, t].numpy())
            total += float(law.logpdf(path[i, t].numpy()))
        assert float(found[i]) == pytest.approx(total, abs=1e-9)


def test_states_look_up_transitions_and_restarts_break_the_path() -> None:
    g = rng(2)
    root = normal(g, 2, 3, 4, 2, 2)
    tables = Dynamics(0.5 * normal(g, 2, 3, 4, 2, 2), normal(g, 2, 3, 4, 2), root @ root.mT + torch.eye(2))
    tables = append_initial(tables, torch.ones(2).double(), 2 * torch.eye(2).double())
    states = torch.tensor([4, 0, 3, 4, 1, 2, 2]).expand(2, 1, 7)  # chains x shared by clusters x bins
    path = dynamics_path(tables, states)
    assert path.transition.shape == (2, 3, 7, 2, 2)
    torch.testing.assert_close(path.offset[1, 2, 2], tables.offset[1, 2, 3])
    torch.testing.assert_close(path.covariance[1, 2, 5], tables.covariance[1, 2, 2])
    one, other = prior_blocks(path), prior_blocks(tables, states=states)
    for ours, theirs in zip([*one.blocks, one.constant], [*other.blocks, other.constant], strict=True):
        torch.testing.assert_close(ours, theirs)
    assert (one.blocks.upper[:, :, 2] == 0).all()  # bin 3 starts anew
    evidence = model((2, 3), 7, 2)[1]
    whole, log_evidence = smooth(tables, evidence, states=states)
    halves = [slice(0, 3), slice(3, 7)]
    parts = [
        smooth(tables, Evidence(evidence[0][:, :, s], evidence[1][:, :, s]), states=states[..., s]) for s in halves
    ]
    torch.testing.assert_close(whole.mean, torch.cat([p[0].mean for p in parts], dim=-2))
    torch.testing.assert_close(log_evidence, parts[0][1] + parts[1][1])
    draws = [
        sample_paths(*args, generator=rng(3), states=s).path
        for args, s in (((tables, evidence), states), ((path, evidence), None))
    ]
    torch.testing.assert_close(draws[0], draws[1])


def test_missing_bins_are_interpolated() -> None:
    one = torch.ones(1, dtype=torch.float64).reshape(1, 1)
    dynamics = Dynamics(one.expand(3, 1, 1), torch.zeros(3, 1).double(), one.expand(3, 1, 1))
    precision = torch.tensor([1e8, 0.0, 1e8]).double().reshape(3, 1, 1)
    found, _ = smooth(dynamics, Evidence(precision, torch.tensor([0.0, 0.0, 4e8]).double().reshape(3, 1)))
    assert float(found.mean[1]) == pytest.approx(2.0, abs=1e-6)
    assert float(found.covariance[1]) == pytest.approx(0.5, abs=1e-6)


def test_augmented_evidence_sums_over_members() -> None:
    g = rng(6)
    loadings, omega = normal(g, 2, 5, 3), torch.rand(2, 5, 4, generator=g, dtype=torch.float64)
    kappa, offset = normal(g, 2, 5, 4), normal(g, 2, 5, 1)
    omega[0, 1, 2], kappa[0, 1, 2] = 0, 0  # a missing entry
    labels = torch.tensor([[0, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    membership = torch.nn.functional.one_hot(labels, 2).mT.double()
    found = augmented_evidence(loadings, omega, kappa=kappa, offset=offset, membership=membership)
    precision, information = torch.zeros(2, 2, 4, 3, 3).double(), torch.zeros(2, 2, 4, 3).double()
    for chain in range(2):
        for unit in range(5):
            c, k = loadings[chain, unit], labels[chain, unit]
            for t in range(4):
                w = omega[chain, unit, t]
                precision[chain, k, t] += w * torch.outer(c, c)
                information[chain, k, t] += (kappa[chain, unit, t] - w * offset[chain, unit, 0]) * c
    torch.testing.assert_close(found.precision, precision)
    torch.testing.assert_close(found.information, information)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(q=st.integers(1, 5), rank=st.integers(0, 5), seed=st.integers(0, 1000))
def test_semidefinite_factor_of_any_rank(q: int, rank: int, seed: int) -> None:
    root = normal(rng(seed), 30, q, rank)
    matrix = root @ root.mT
    factor = semidefinite_factor(matrix)
    torch.testing.assert_close(factor @ factor.mT, matrix, atol=1e-7, rtol=1e-7)
    assert (factor.triu(1) == 0).all()


def test_sample_gaussian_has_the_moments_of_its_information_form() -> None:
    root = normal(rng(1), 3, 3)
    precision, linear = root @ root.T + torch.eye(3), normal(rng(2), 3)
    n = 40_000
    x = sample_gaussian(precision.expand(n, 3, 3), linear.expand(n, 3), rng(3)).numpy()
    covariance = np.linalg.inv(precision.numpy())
    white = np.linalg.solve(np.linalg.cholesky(covariance), (x - covariance @ linear.numpy()).T)
    assert np.abs(white.mean(1)).max() * math.sqrt(n) < 4.5
    assert np.abs((white @ white.T / n - np.eye(3)) / np.sqrt(1 + np.eye(3))).max() * math.sqrt(n) < 4.5


@pytest.mark.parametrize("method", METHODS)
def test_jitter_repairs_rounding_and_names_what_it_cannot(method: Method) -> None:
    diagonal = torch.eye(2, dtype=torch.float64).expand(2, 4, 2, 2).clone()
    # a negative pivot of the size of rounding: the second level of jitter repairs it
    diagonal[1, 2] = torch.tensor([[1.0, 1.0], [1.0, 1.0 - 1e-9]], dtype=torch.float64)
    blocks = Blocks(diagonal, torch.zeros(2, 3, 2, 2).double(), torch.ones(2, 4, 2).double())
    found = solve_blocks(blocks, method=method)
    assert found.retries.tolist() == [0, 2]
    torch.testing.assert_close(found.mean[0], torch.ones(4, 2).double())
    diagonal[1, 2, 1, 1] = 0.5
    with pytest.raises(NonFiniteError, match=r"positive definite.*batch index \[\[1\]\]"):
        solve_blocks(blocks, method=method)
    diagonal[1, 2, 1, 1] = torch.nan
    with pytest.raises(NonFiniteError, match="non-finite"):
        smooth_blocks(blocks, method=method)


@pytest.mark.parametrize("method", METHODS)
def test_explosive_gap_is_smoothed_and_refused_by_the_covariance_form(method: Method) -> None:
    n_time, eye = 700, torch.eye(3, dtype=torch.float64)
    _, evidence = model((), n_time, 3, seed=7)
    evidence.precision[100:600], evidence.information[100:600] = 0, 0
    explosive = Dynamics(
        (1.05 * eye).expand(n_time, 3, 3), torch.zeros(n_time, 3).double(), 1e-4 * eye.expand(n_time, 3, 3)
    )
    found, _ = smooth(explosive, evidence, method=method)
    other, _ = smooth(explosive, evidence, method="sequential")
    torch.testing.assert_close(found.mean, other.mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.covariance, other.covariance, rtol=1e-9, atol=1e-12)
    with pytest.raises(NonFiniteError, match=r"variance times evidence <= 1e\+12, got .*; use gaussian.smooth"):
        kalman_filter(explosive, evidence, method=method)


def test_unknown_method_is_refused() -> None:
    dynamics, evidence = model((), 3, 2)
    with pytest.raises(InputError, match="method: expected auto or sequential or parallel, got 'fast'"):
        smooth(dynamics, evidence, method="fast")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="kalman_filter: expected auto, sequential or parallel, got method='fast'"):
        kalman_filter(dynamics, evidence, method="fast")  # type: ignore[arg-type]


def test_method_is_chosen_by_size_and_device() -> None:
    cpu, other = torch.device("cpu"), torch.device("cuda")
    assert choose_method(3, 10, n_batch=1, device=cpu) == "sequential"
    assert choose_method(3, 500, n_batch=20, device=cpu) == "parallel"
    assert choose_method(27, 500, n_batch=4, device=cpu) == "sequential"
    assert choose_method(27, 500, n_batch=4, device=other) == "parallel"


@pytest.mark.parametrize("method", METHODS)
def test_accelerator_agrees_with_the_cpu(method: Method) -> None:
    dynamics, evidence = model((2, 2), 9, 3, seed=4)
    here = sample_paths(dynamics, evidence, generator=rng(1), method=method)
    moments, _ = smooth(dynamics, evidence, method=method)
    filtered = rts_smoother(dynamics, kalman_filter(dynamics, evidence, method=method))
    with simulated_accelerator() as device:
        there_dynamics = Dynamics(*(x.to(device) for x in dynamics))
        there_evidence = Evidence(*(x.to(device) for x in evidence))
        there = sample_paths(there_dynamics, there_evidence, generator=rng(1), method=method)
        there_moments, _ = smooth(there_dynamics, there_evidence, method=method)
        there_filtered = rts_smoother(there_dynamics, kalman_filter(there_dynamics, there_evidence, method=method))
        for ours, theirs in zip([*here, *moments, *filtered], [*there, *there_moments, *there_filtered], strict=True):
            torch.testing.assert_close(theirs.cpu(), ours)


def test_inputs_are_left_alone() -> None:
    dynamics, evidence = model((2,), 8, 3)
    copies = [x.clone() for x in (*dynamics, *evidence)]
    sample_paths(dynamics, evidence, generator=rng())
    kalman_filter(dynamics, evidence)
    for now, before in zip((*dynamics, *evidence), copies, strict=True):
        assert torch.equal(now, before)
