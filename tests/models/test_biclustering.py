"""BiCluster: blocks against brute force, inputs, files, resume, containers; Geweke tests have a file of their own."""

from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tectum
from tectum.core.errors import AxisError, ContractError, InputError, TectumWarning, TooLargeError
from tectum.core.random import generator
from tectum.datasets.simulate.biclusters import biclusters
from tectum.models.biclustering.labels import laplace
from tectum.models.biclustering.model import cluster_sizes, entry_log_prob, make_data, make_hyper
from tectum.models.biclustering.paths import Steps, look_up, make_tables, sample_path, sample_prior_path, step_log_prob
from tectum.models.biclustering.prior import sample_prior_labels
from tectum.models.biclustering.segments import sample_state_path
from tectum.models.biclustering.sweep import dispersion_log_density
from tectum.stats._arviz_compat import dataset, is_new, to_container
from tectum.stats.distributions import negative_binomial_log_prob
from tectum.stats.gaussian import Evidence

DOUBLE = torch.float64
TINY: dict[str, Any] = {"chains": 2, "burn": 4, "draws": 6, "max_states": 3, "snapshots": 3, "device": "cpu"}


def _counts(n_time: int = 40, n_units: int = 6, seed: int = 0) -> tectum.Recording:
    y = torch.poisson(torch.full((n_time, n_units), 2.0), generator=torch.Generator().manual_seed(seed)).int()
    return tectum.Recording(data=y, dims=("time", "unit"), rate=2.0, units="spikes/bin")


def _quiet_fit(data: Any, **params: Any) -> tectum.BiCluster:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not converged.*", category=TectumWarning)
        return tectum.BiCluster(**{**TINY, **params}).fit(data)


# Blocks against brute force


def test_state_sequences_have_the_enumerated_law() -> None:
    draw = generator(0)
    log_pi = torch.log_softmax(torch.randn(1, 2, 2, generator=draw, dtype=DOUBLE), -1)
    emission = torch.randn(1, 6, 2, generator=draw, dtype=DOUBLE)
    starts = torch.tensor([True, False, False, True, False, False])
    paths = list(itertools.product(range(2), repeat=6))

    def log_weight(path: tuple[int, ...]) -> float:
        total = sum(float(emission[0, t, s]) for t, s in enumerate(path))
        return total + sum(float(log_pi[0, path[t - 1], path[t]]) for t in range(1, 6) if not starts[t])

    exact = torch.softmax(torch.tensor([log_weight(path) for path in paths], dtype=DOUBLE), 0)
    n = 40_000
    drawn = sample_state_path(emission.expand(n, -1, -1), log_pi.expand(n, -1, -1), starts, draw)
    code = (drawn * 2 ** torch.arange(5, -1, -1)).sum(-1)
    share = torch.bincount(code, minlength=64) / n
    z = (share - exact) / (exact * (1 - exact) / n).sqrt()
    assert float(z.abs().max()) < 4.2  # 64 tests


def test_state_sequences_survive_extreme_densities() -> None:
    emission = torch.full((1, 300, 3), -1e5, dtype=DOUBLE)
    wanted = (torch.arange(300) // 100).unsqueeze(0)
    emission.scatter_(-1, wanted.unsqueeze(-1), 0.0)
    log_pi = torch.log_softmax(100 * torch.eye(3, dtype=DOUBLE), -1).unsqueeze(0)
    starts = torch.arange(300) == 0
    assert torch.equal(sample_state_path(emission, log_pi, starts, generator(0)), wanted)


def _random_steps() -> tuple[Tensor, Tensor, Tensor, Tensor, Steps]:
    draw = generator(3)
    matrix = 0.5 * torch.randn(1, 1, 2, 2, 3, generator=draw, dtype=DOUBLE)
    root = torch.randn(1, 1, 2, 2, 2, generator=draw, dtype=DOUBLE)
    noise = root @ root.mT + 0.2 * torch.eye(2, dtype=DOUBLE)
    starts = torch.tensor([True, False, False, True, False, False])
    states = torch.tensor([[0, 1, 1, 0, 0, 1]])
    steps = look_up(make_tables(matrix, noise), torch.where(starts, 2, states))
    return matrix, noise, starts, states, steps


def _dense_law(matrix: Tensor, noise: Tensor, starts: Tensor, states: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the stacked path, by running the recursion."""
    n_time, q = len(starts), noise.shape[-1]
    mean, cov = torch.zeros(n_time, q, dtype=DOUBLE), torch.zeros(n_time, n_time, q, q, dtype=DOUBLE)
    for t in range(n_time):
        if starts[t]:
            cov[t, t] = torch.eye(q, dtype=DOUBLE)
            continue
        a, b = matrix[0, 0, states[0, t], :, :q], matrix[0, 0, states[0, t], :, q]
        mean[t] = a @ mean[t - 1] + b
        for s in range(t):
            cov[t, s] = a @ cov[t - 1, s]
            cov[s, t] = cov[t, s].T
        cov[t, t] = a @ cov[t - 1, t - 1] @ a.T + noise[0, 0, states[0, t]]
    return mean.flatten(), cov.permute(0, 2, 1, 3).reshape(n_time * q, n_time * q)


def test_paths_have_the_dense_gaussian_law() -> None:
    matrix, noise, starts, states, steps = _random_steps()
    mean, cov = _dense_law(matrix, noise, starts, states)
    draw = generator(4)
    j_root = torch.randn(1, 1, 6, 2, 2, generator=draw, dtype=DOUBLE)
    evidence = Evidence(j_root @ j_root.mT, torch.randn(1, 1, 6, 2, generator=draw, dtype=DOUBLE))
    precision = torch.linalg.inv(cov) + torch.block_diag(*evidence.precision[0, 0])
    exact_cov = torch.linalg.inv(precision)
    exact_mean = exact_cov @ (torch.linalg.solve(cov, mean) + evidence.information.flatten())
    n = 20_000
    many = Steps(*(x.expand(n, *x.shape[1:]) for x in steps))
    wide = Evidence(*(x.expand(n, *x.shape[1:]) for x in evidence))
    path = sample_path(many, wide, draw)[0].flatten(1)
    z = (path.mean(0) - exact_mean) / (exact_cov.diagonal() / n).sqrt()
    assert float(z.abs().max()) < 4
    torch.testing.assert_close(path.T.cov(), exact_cov, atol=0.05, rtol=0)


def test_prior_paths_have_the_dense_gaussian_law() -> None:
    matrix, noise, starts, states, _ = _random_steps()
    mean, cov = _dense_law(matrix, noise, starts, states)
    n = 20_000
    path = sample_prior_path(matrix.expand(n, -1, -1, -1, -1), noise.expand(n, -1, -1, -1, -1), states.expand(n, -1),
                             starts, generator(5)).flatten(1)  # fmt: skip
    z = (path.mean(0) - mean) / (cov.diagonal() / n).sqrt()
    assert float(z.abs().max()) < 4
    torch.testing.assert_close(path.T.cov() / cov.diagonal().max(), cov / cov.diagonal().max(), atol=0.05, rtol=0)


def test_step_densities_equal_those_of_torch() -> None:
    matrix, noise, starts, _, _ = _random_steps()
    path = torch.randn(1, 1, 6, 2, generator=generator(6), dtype=DOUBLE)
    found = step_log_prob(path, make_tables(matrix, noise), starts)
    for state in range(2):
        a, b = matrix[0, 0, state, :, :2], matrix[0, 0, state, :, 2]
        law = torch.distributions.MultivariateNormal(path[0, 0, 1] @ a.T + b, noise[0, 0, state])
        torch.testing.assert_close(found[0, 0, 2, state], law.log_prob(path[0, 0, 2]))


def test_laplace_finds_mode_and_precision() -> None:
    draw = generator(7)
    path = 0.5 * torch.randn(1, 1, 60, 3, generator=draw, dtype=DOUBLE)
    y = torch.poisson(torch.full((2, 60), 2.0, dtype=DOUBLE), generator=draw)
    data = make_data(y, torch.rand(2, 60, generator=draw) < 0.9, starts=torch.arange(60) == 0)
    log_r = torch.full((1, 2), math.log(3.0), dtype=DOUBLE)
    for poisson in (False, True):
        found = laplace(path, log_r, data, poisson=poisson, steps=8)
        beta = found.mode[0, 0].clone().requires_grad_()

        def log_posterior(b: Tensor, unit: int, law: bool = poisson) -> Tensor:
            eta = b[0] + path[0, 0, :, 0] + path[0, 0, :, 1:] @ b[1:]
            one = data._replace(counts=data.counts[unit : unit + 1], observed=data.observed[unit : unit + 1])
            fit = entry_log_prob(eta[None, None], log_r[:, unit : unit + 1], one, poisson=law).sum()
            return fit - 0.5 * b.square().sum()

        for unit in range(2):
            (slope,) = torch.autograd.grad(log_posterior(beta[unit], unit), beta)
            assert float(slope.abs().max()) < 1e-6
            curve = torch.autograd.functional.hessian(lambda b, u=unit: log_posterior(b, u), beta[unit].detach())
            root = found.root[0, 0, unit].tril()
            torch.testing.assert_close(root @ root.mT, -curve)


def test_dispersion_density_is_that_of_the_counts() -> None:
    draw = generator(8)
    y = torch.poisson(torch.full((2, 50), 3.0, dtype=DOUBLE), generator=draw)
    observed = torch.rand(2, 50, generator=draw) < 0.8
    eta = torch.randn(1, 2, 50, generator=draw, dtype=DOUBLE)
    data = make_data(y, observed, starts=torch.arange(50) == 0)
    hyper = _hyper(4)._replace(r_shape=2.0, r_rate=0.5)

    def exact(log_r: Tensor) -> Tensor:
        fit = (negative_binomial_log_prob(data.counts, eta, log_r.exp().unsqueeze(-1)) * observed).sum(-1)
        return fit + 2.0 * log_r - 0.5 * log_r.exp()

    low, high = torch.zeros(1, 2, dtype=DOUBLE), torch.ones(1, 2, dtype=DOUBLE)
    wanted = exact(high) - exact(low)
    for one in (data, data._replace(histogram=None)):
        found = dispersion_log_density(high, eta, one, hyper) - dispersion_log_density(low, eta, one, hyper)
        torch.testing.assert_close(found, wanted)


def _hyper(n_units: int, n_slots: int = 6) -> Any:
    return make_hyper(n_units, n_factors=1, n_states=2, n_slots=n_slots, zeta=0.4, alpha=5.0, gamma=5.0, kappa=10.0,
                      r_shape=1.0, r_rate=1.0, poisson=False, like=torch.zeros((), dtype=DOUBLE))  # fmt: skip


def test_prior_partitions_have_their_law() -> None:
    hyper, n = _hyper(4), 40_000
    labels = sample_prior_labels(torch.zeros(n, 4, dtype=DOUBLE), hyper, generator(9))
    sizes = cluster_sizes(labels, 6).sort(-1, descending=True).values
    one = (sizes[:, 0] == 4).double().mean()
    exact = float(torch.exp(hyper.log_blocks[1] + math.lgamma(5)))
    assert abs(float(one) - exact) < 4 * math.sqrt(exact * (1 - exact) / n)


def test_fresh_dynamics_law_interpolates_densities() -> None:
    """Half way between two laws the log density is the mean of theirs, up to a constant."""
    from tectum.models.biclustering.annealed import between, tame_law
    from tectum.stats.conjugate import inverse_wishart_log_prob, matrix_normal_log_prob

    prior = _hyper(4).regression
    start = tame_law(prior, 20.0)
    middle = between(start, prior, 0.5)
    draw = generator(10)

    def density(law: Any, b: Tensor, q: Tensor) -> Tensor:
        rows = matrix_normal_log_prob(b, mean=law.mean, row_covariance=q, precision=law.precision)
        return rows + inverse_wishart_log_prob(q, dof=law.dof, scale=law.scale)

    gaps = []
    for _ in range(4):
        root = torch.randn(2, 2, generator=draw, dtype=DOUBLE)
        b, q = torch.randn(2, 3, generator=draw, dtype=DOUBLE), root @ root.mT + 0.1 * torch.eye(2, dtype=DOUBLE)
        gaps.append(density(middle, b, q) - 0.5 * (density(start, b, q) + density(prior, b, q)))
    torch.testing.assert_close(torch.stack(gaps), gaps[0].expand(4))


def test_divergence_of_laws_is_that_of_simulation() -> None:
    from tectum.models.biclustering.annealed import tame_law
    from tectum.models.biclustering.evidence import divergence
    from tectum.stats.conjugate import inverse_wishart_log_prob, matrix_normal_log_prob, sample_regression

    prior = _hyper(4).regression
    law = tame_law(prior, 20.0)
    n = 20_000
    wide = type(law)(*(x.expand(n, *x.shape) for x in law))
    b, q = sample_regression(wide, generator(11))

    def density(one: Any) -> Tensor:
        rows = matrix_normal_log_prob(b, mean=one.mean, row_covariance=q, precision=one.precision)
        return rows + inverse_wishart_log_prob(q, dof=one.dof, scale=one.scale)

    gap = density(law) - density(prior)
    assert abs(float((gap.mean() - divergence(law, prior)) / (gap.std() / n**0.5))) < 4


def test_expected_path_prior_is_the_prior_where_dynamics_are_known() -> None:
    """A law with very many degrees of freedom is a point: the quadratic form is the log density of the path."""
    from tectum.models.biclustering.evidence import path_prior, quadratic, state_weights

    matrix, noise, starts, states, _ = _random_steps()
    sure = 1e9
    law = _hyper(4).regression._replace(
        mean=matrix[0], precision=sure * torch.eye(3, dtype=DOUBLE).expand(1, 2, 3, 3),
        dof=torch.full((1, 2), sure, dtype=DOUBLE), scale=sure * noise[0],
    )  # fmt: skip
    path = torch.randn(1, 6, 2, generator=generator(12), dtype=DOUBLE)
    tables = make_tables(matrix, noise)
    each = step_log_prob(path.unsqueeze(0), tables, starts)[0, 0]
    exact = each.gather(-1, torch.where(starts, 2, states[0]).unsqueeze(-1)).sum() + 6 * math.log(2 * math.pi)
    prior = path_prior(law, state_weights(states, 2, like=path), starts)
    torch.testing.assert_close(quadratic(path, prior)[0], exact, atol=1e-4, rtol=1e-5)


def test_dirichlet_process_partitions_have_their_law() -> None:
    """The weak limit with many slots: two units share a cluster with probability 1 / (1 + concentration), nearly."""
    given = {"alpha": 5.0, "gamma": 5.0, "kappa": 10.0, "r_shape": 1.0, "r_rate": 1.0, "zeta": 0.4}
    hyper = make_hyper(2, n_factors=1, n_states=1, n_slots=400, poisson=False, like=torch.zeros((), dtype=DOUBLE),
                       dirichlet_process=2.0, **given)  # fmt: skip
    one = float(torch.exp(hyper.log_blocks[1] + math.lgamma(2 + 2 / 400) - math.lgamma(2 / 400)))
    assert abs(one - 1 / 3) < 0.005
    labels = sample_prior_labels(torch.zeros(20_000, 2, dtype=DOUBLE), hyper, generator(13))
    assert abs(float((labels[:, 0] == labels[:, 1]).double().mean()) - one) < 0.015


def test_blocks_of_bins_can_be_hidden() -> None:
    from tectum.models.biclustering.fitting import hidden_places

    seen = torch.ones(50, 400, dtype=torch.bool)
    seen[3] = False
    hidden = hidden_places(seen, 0.2, 20, generator(14))
    assert 0.15 < float(hidden.double().mean()) < 0.25
    assert not bool(hidden[3].any())
    runs = (hidden[:, 1:] != hidden[:, :-1]).sum() / 2
    assert float(hidden.sum() / runs) > 18  # neighbouring blocks may join, edges cut


# Inputs


def _spoilt(change: Any) -> tectum.Recording:
    rec = _counts()
    x = rec.values.double().clone()
    change(x)
    return rec.with_(data=x)


def _set(at: tuple[int, int], value: float) -> Any:
    def change(x: Tensor) -> None:
        x[at] = value

    return change


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (lambda: _counts(n_time=9), r"2 units and 10 bins, got shape \(9, 6\)"),
        (lambda: _counts(n_units=1), r"2 units and 10 bins, got shape \(40, 1\)"),
        (lambda: _spoilt(_set((3, 2), -1.0)), "counts.*got -1 at unit 2, bin 3"),
        (lambda: _spoilt(_set((3, 2), 0.5)), "counts.*got 0.5 at unit 2, bin 3"),
        (lambda: _spoilt(_set((3, 2), math.inf)), "counts.*got inf at unit 2, bin 3"),
        (lambda: _spoilt(lambda x: x[:, 1].zero_()), "at least one count, got none in unit 1; drop_silent=True"),
        (lambda: _spoilt(lambda x: x[:, 1].fill_(math.nan)), "at least one count, got none in unit 1"),
        (lambda: [_counts(), _counts(n_units=5)], r"session 1\): expected the 6 units of session 0, got 5 units"),
        (lambda: [_counts(), _counts().with_(rate=4.0)], "session 1.*bins of 0.5 s, got 0.25 s"),
        (lambda: tectum.Spikes.from_trains([[0.1 * k for k in range(99)]] * 3), r"width of a bin.*bin=0.5"),
    ],
)  # fmt: skip
def test_bad_counts_are_refused(data: Any, says: str) -> None:
    with pytest.raises(InputError, match=f"BiCluster.*{says}"):
        tectum.BiCluster(**TINY).fit(data())


@pytest.mark.parametrize(
    ("exposure", "dims"),
    [(torch.zeros(39), ("time",)), (torch.zeros(40, 5), ("time", "unit")), (torch.full((40,), math.inf), ("time",))],
)
def test_bad_exposures_are_refused(exposure: Tensor, dims: tuple[str, ...]) -> None:
    known = tectum.Recording(data=exposure, dims=dims, rate=2.0)
    with pytest.raises(InputError, match="BiCluster.*log_exposure"):
        tectum.BiCluster(**TINY).fit(tectum.Session(items_={"counts": _counts(), "log_exposure": known}))


def test_axes_are_refused() -> None:
    rec = _counts().rename(unit="channel")
    with pytest.raises(AxisError, match="BiCluster.*'time', 'unit'"):
        tectum.BiCluster(**TINY).fit(rec)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"n_factors": 6}, "n_factors.*fewer factors than units.*n_factors=6 and 6 units"),
        ({"n_factors": 0}, "n_factors"), ({"n_factors": 20}, "n_factors"), ({"max_states": 0}, "max_states"),
        ({"zeta": 0.0}, "zeta"), ({"zeta": 1.0}, "zeta"), ({"kappa": -1.0}, "kappa"), ({"alpha": 0.0}, "alpha"),
        ({"gamma": 0.0}, "gamma"), ({"r_shape": 0.0}, "r_shape"), ({"r_rate": -1.0}, "r_rate"),
    ],
)  # fmt: skip
def test_bad_parameters_are_refused(params: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=f"BiCluster.*{says}"):
        tectum.BiCluster(**{**TINY, **params}).fit(_counts())


@pytest.mark.parametrize(
    ("spans", "says"),
    [
        ([(0.0, 8.0), (7.0, 15.0)], "epoch 1.*overlap"),
        ([(0.0, 8.0), (12.0, 30.0)], "epoch 1.*bins 24 to 60 of 40"),
    ],
)  # fmt: skip
def test_bad_epochs_are_refused(spans: list[tuple[float, float]], says: str) -> None:
    rec = _counts().with_(intervals={"awake": tectum.Intervals.from_pairs(spans)})
    with pytest.raises(InputError, match=f"BiCluster.epochs.*{says}"):
        tectum.BiCluster(**TINY, epochs="awake").fit(rec)
    with pytest.raises(InputError, match="epochs.*'awake'.*got 'asleep'"):
        tectum.BiCluster(**TINY, epochs="asleep").fit(rec)


def test_silent_units_are_dropped_and_named_on_request() -> None:
    rec = _spoilt(lambda x: x[:, 1].zero_())
    with pytest.warns(TectumWarning, match="dropped 1 units without counts: 1"):
        model = _quiet_fit(rec, drop_silent=True)
    assert model.result_.sizes["unit"] == 5


def test_few_spikes_and_large_counts_are_warned_of() -> None:
    def few(x: Tensor) -> None:
        x[:, 1] = 0
        x[5, 1] = 2

    with pytest.warns(TectumWarning, match="fewer than 5 counts in unit 1"):
        _quiet_fit(_spoilt(few))
    with pytest.warns(TectumWarning, match="a count of 20000 in one bin"):
        _quiet_fit(_spoilt(_set((3, 2), 20_000.0)))


def test_disagreement_of_chains_is_warned_of_and_all_chains_are_kept() -> None:
    with pytest.warns(TectumWarning, match="not converged.*chain"):
        model = tectum.BiCluster(**TINY).fit(_counts())
    assert model.result_.agree is False
    assert model.result_.label_draws.shape[0] == 2
    assert model.result_.provenance.converged is False


def test_too_large_a_fit_is_refused_with_its_size() -> None:
    with pytest.raises(TooLargeError, match=r"memory.*at most 0.001 GiB, got about .* GiB for 6 units, 40 bins"):
        tectum.BiCluster(**{**TINY, "memory": 0.001}).fit(_counts())


def test_masked_bins_are_missing_and_not_zero() -> None:
    """A bin hidden in all units is interpolated; NaN and mask say the same."""
    rec = _counts()
    mask = torch.ones(40, 6, dtype=torch.bool)
    mask[10:13], mask[20, 2] = False, False
    holes = rec.values.double().masked_fill(~mask, torch.nan)
    first, second = _quiet_fit(rec.with_(mask=mask)).result_, _quiet_fit(rec.with_(data=holes)).result_
    assert torch.equal(first.rate, second.rate)
    assert not bool(first.observed[10:13].any())
    other = rec.values.clone()
    other[~mask] = 90
    assert torch.equal(_quiet_fit(rec.with_(data=other, mask=mask)).result_.rate, first.rate)


def test_spikes_trials_sessions_and_epochs_are_read() -> None:
    rec = _counts()
    trials = rec.with_(data=rec.values.reshape(4, 10, 6), dims=("trial", "time", "unit"))
    assert _quiet_fit(trials).result_.first_bin.nonzero().flatten().tolist() == [0, 10, 20, 30]
    assert _quiet_fit([rec, _counts(30, seed=1)]).result_.first_bin.nonzero().flatten().tolist() == [0, 40]
    spans = tectum.Intervals.from_pairs([(2.0, 8.0), (10.0, 20.0)])
    cut = _quiet_fit(rec.with_(intervals={"awake": spans}), epochs="awake").result_
    assert cut.first_bin.nonzero().flatten().tolist() == [0, 12]
    assert cut.time[0] == 2.0
    trains = [torch.rand(80, generator=generator(k)) * 20 for k in range(5)]
    spikes = tectum.Spikes.from_trains(trains, support=(0.0, 20.0))
    assert _quiet_fit(spikes, bin=0.5).result_.sizes["time"] == 40


def test_units_of_sessions_are_matched_by_name() -> None:
    names = [f"u{k}" for k in range(6)]
    a, b = (_counts(seed=k).with_(coords={"unit": {"name": names}}) for k in range(2))
    turned = b.isel(unit=[5, 4, 3, 2, 1, 0])
    assert torch.equal(_quiet_fit([a, b]).result_.rate, _quiet_fit([a, turned]).result_.rate)
    with pytest.raises(InputError, match="units of other names"):
        _quiet_fit([a, b.with_(coords={"unit": {"name": list("abcdef")}})])


def test_covariates_and_exposure_are_used() -> None:
    """A covariate that doubles the rate gets its weight; an exposure that explains it leaves none."""
    drive = torch.zeros(200, dtype=DOUBLE)
    drive[::2] = 1.0
    rate = (0.7 + 1.2 * drive).exp().unsqueeze(-1).expand(200, 6)
    y = torch.poisson(rate, generator=generator(1)).int()
    rec = tectum.Recording(data=y, dims=("time", "unit"), rate=2.0, units="spikes/bin")
    table = tectum.Recording(data=drive[:, None], dims=("time", "feature"), rate=2.0)
    with_table = tectum.Session(items_={"counts": rec, "light": table})
    found = _quiet_fit(with_table, draws=20, burn=20, n_factors=1).result_
    weight = found.weight_draws.mean((0, 1, 2))
    assert abs(float(weight) - 0.6) < 0.15  # 1.2 per unit of a covariate of standard deviation 0.5
    known = tectum.Recording(data=1.2 * drive, dims=("time",), rate=2.0)
    both = tectum.Session(items_={"counts": rec, "light": table, "log_exposure": known})
    left = _quiet_fit(both, draws=20, burn=20, n_factors=1).result_.weight_draws.mean()
    assert abs(float(left)) < 0.15
    late = table.with_(t0=3.0)
    with pytest.raises(InputError, match="covariates 'light'.*bins of the counts"):
        _quiet_fit(tectum.Session(items_={"counts": rec, "light": late}))


# Runs, verbs and containers


def test_a_killed_run_resumes_to_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tectum.models.biclustering import run

    whole = _quiet_fit(_counts()).result_
    sweep, calls = run.sweep, []

    def dies(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return sweep(*args)

    monkeypatch.setattr(run, "sweep", dies)
    with pytest.raises(KeyboardInterrupt):
        tectum.BiCluster(**TINY, save_every=3).fit(_counts(), checkpoint=tmp_path / "run")
    monkeypatch.setattr(run, "sweep", sweep)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TectumWarning)
        again = tectum.BiCluster(**TINY, save_every=3).fit(_counts(), checkpoint=tmp_path / "run").result_
        assert torch.equal(whole.label_draws, again.label_draws)
        assert torch.equal(whole.path, again.path)
        with pytest.raises(InputError, match="same configuration and data"):
            tectum.BiCluster(**{**TINY, "kappa": 5.0}, save_every=3).fit(_counts(), checkpoint=tmp_path / "run")


def test_new_recordings_must_fit_the_model() -> None:
    names = [f"u{k}" for k in range(6)]
    rec = _counts().with_(coords={"unit": {"name": names}})
    model = _quiet_fit(rec)
    turned = rec.isel(unit=[5, 4, 3, 2, 1, 0])
    assert torch.equal(model.transform(turned).values, model.transform(rec).values)
    with pytest.raises(ContractError, match="units of the fit, got none named u0"):
        model.transform(rec.with_(coords={"unit": {"name": list("abcdef")}}))
    with pytest.raises(ContractError, match="bins of 0.5 s, got 0.1 s"):
        model.score(rec.with_(rate=10.0))


def test_held_out_entries_are_not_seen() -> None:
    rec = _counts()
    first = _quiet_fit(rec, held_out=0.2).result_
    hidden = ~first.observed
    spoilt = rec.values.clone()
    spoilt[hidden] += 3
    second = _quiet_fit(rec.with_(data=spoilt), held_out=0.2).result_
    assert torch.equal(first.rate, second.rate)
    assert torch.equal(first.held_out_log_prob.isnan(), first.observed)
    assert first.score_held_out != second.score_held_out


def test_options_of_priors_and_point_estimates_run() -> None:
    rec = _counts()
    found = _quiet_fit(rec, dirichlet_process=1.0, max_clusters=5, point="vi", held_out=0.2, held_out_bins=5).result_
    assert int(found.n_clusters.max()) <= 5
    assert found.held_out_log_prob is not None
    with pytest.raises(InputError, match="BiCluster.*point"):
        tectum.BiCluster(**TINY, point="mode").fit(rec)


def test_replicates_look_like_the_data() -> None:
    sim = biclusters(2, 5, n_time=120, random_state=2)
    model = _quiet_fit(sim.data, burn=30, draws=20, snapshots=10)
    replicated = model.sample(20).values.double()
    ratio = replicated.mean() / sim.data.values.double().mean()
    assert 0.85 < float(ratio) < 1.15
    assert model.sample_prior(2).sizes == {"draw": 2, "time": 120, "unit": 10}


def test_draws_go_to_arviz() -> None:
    arviz = pytest.importorskip("arviz")
    result = _quiet_fit(_counts()).result_
    made = result.to_arviz()
    posterior = dataset(made, "posterior")
    assert dict(posterior["loading_draws"].sizes) == {"chain": 2, "draw": 6, "unit": 6, "component": 3}
    assert "lp" in dataset(made, "sample_stats")
    assert is_new("1.3.0")
    assert is_new(arviz.__version__) == (type(made).__name__ == "DataTree")
    bare = to_container(posterior={"x": torch.zeros(2, 5)})
    assert dict(dataset(bare, "posterior")["x"].sizes) == {"chain": 2, "draw": 5}


def test_simulated_accelerator_gives_the_same_chains(accelerator: torch.device) -> None:
    rec, params = _counts(20, 4), {"burn": 2, "draws": 3, "snapshots": 2, "max_states": 2}
    here, there = _quiet_fit(rec, **params).result_, _quiet_fit(rec, **params, device=str(accelerator)).result_
    assert torch.equal(there.label_draws.cpu(), here.label_draws)
    torch.testing.assert_close(there.rate.cpu(), here.rate)
