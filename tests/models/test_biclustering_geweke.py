"""Joint-distribution tests of the sampler of BiCluster: every block and the whole sweep leave the prior alone.

Many short chains start from prior draws with counts of their own; a block (or a sweep) and fresh counts alternate. The
chains are independent, so that the mean over a chain's draws is compared with prior draws without batch means. A wrong
block pulls the chains away from the prior.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor

from tectum.core.random import generator, spawn
from tectum.models.biclustering import annealed
from tectum.models.biclustering import sweep as blocks
from tectum.models.biclustering.model import (
    Data,
    Hyper,
    State,
    cluster_sizes,
    make_data,
    make_hyper,
    n_used,
    own_path,
)
from tectum.models.biclustering.prior import sample_counts, sample_prior_state
from tectum.models.biclustering.stacking import couple

N_UNITS, N_TIME = 3, 8
Move = Callable[[State, Data, Hyper, torch.Generator], State]


def _world(*, poisson: bool = False, covariates: bool = False, coupled: bool = False) -> tuple[Data, Hyper]:
    """Three units, eight bins in two sessions, one missing entry; coupled: two clusters whatever the labels.

    Stacked paths have no bound of the spectral radius: a narrower prior of A keeps the counts finite.
    """
    like = torch.zeros((), dtype=torch.float64)
    hyper = make_hyper(
        N_UNITS, n_factors=1, n_states=2, n_slots=6, zeta=0.4, alpha=5.0, gamma=5.0, kappa=10.0, r_shape=1.0,
        r_rate=1.0, poisson=poisson, like=like,
    )  # fmt: skip
    if coupled:
        hyper = couple(hyper, N_UNITS, 2)
        law = hyper.regression
        hyper = hyper._replace(regression=law._replace(mean=0.9 * law.mean, precision=25 * law.precision))
    observed = torch.ones(N_UNITS, N_TIME, dtype=torch.bool)
    observed[1, 3] = False
    starts = torch.zeros(N_TIME, dtype=torch.bool)
    starts[[0, 5]] = True
    g = torch.linspace(-1, 1, N_TIME, dtype=torch.float64)[:, None] if covariates else None
    data = make_data(torch.zeros(N_UNITS, N_TIME, dtype=torch.float64), observed, starts=starts, covariates=g)
    return data._replace(histogram=None), hyper


def _statistics(s: State, y: Tensor, data: Data, hyper: Hyper) -> dict[str, Tensor]:
    """Statistics of finite variance of parameters and counts, one a chain."""
    chains, path = torch.arange(len(s.labels)), own_path(s.path, s.labels)
    first = s.labels[:, 0]
    if hyper.coupled:
        first = torch.zeros_like(first)
    a, q = s.matrix[chains, first, s.states[:, 2]], s.noise[chains, first, s.states[:, 2]]
    change = (s.states[:, 1:] != s.states[:, :-1]) & ~data.starts[1:]
    seen = y * data.observed
    product = s.beta[:, 0, 1] * path[:, 0, 3, 1]
    found = {
        "clusters": (cluster_sizes(s.labels, hyper.n_slots) > 0).sum(-1), "pair": s.labels[:, 0] == s.labels[:, 1],
        "switches": change.sum(-1), "same state": s.states[:, 0] == s.states[:, 4],
        "d": s.beta[..., 0].mean(-1), "d^2": s.beta[..., 0].square().mean(-1),
        "c^2": s.beta[..., 1].square().mean(-1), "log r": s.log_r.mean(-1), "log^2 r": s.log_r.square().mean(-1),
        "trace A": a[:, 0, 0] + a[:, 1, 1] > 2, "log det Q": torch.linalg.slogdet(q)[1], "b": a[:, 0, -1] > 0.05,
        "m first": path[:, 0, 0, 0] > 0.3, "m later": path[:, 0, 4, 0].abs() > 0.7,
        "m second session": path[:, 1, 6, 0].abs() > 0.7, "x first": path[:, 0, 0, 1].abs() > 0.7,
        "x last": path[:, 2, 7, 1].abs() > 1.0,
        "step": (path[:, 0, 3] - path[:, 0, 2]).square().sum(-1).clamp(min=1e-12).log(),
        "sign cx": product > 0, "log cx": product.abs().clamp(min=1e-9).log(),
        "self transition": s.log_pi.exp().diagonal(dim1=-2, dim2=-1).mean(-1),
        "own transition": s.log_pi.exp()[chains, s.states[:, 2], s.states[:, 2]],
        "A across": a[:, 0, -2] > 0.03, "Q across": q[:, 0, -1].sign() * path[:, 0, 3, 0].sign(),
        "first label": s.labels[:, 0], "other paths": s.path[:, -1, 4].square().sum(-1).clamp(min=1e-12).log(),
        "beta^2": s.log_base.exp().square().sum(-1), "weight^2": s.beta[..., 2:].square().mean((-1, -2)).nan_to_num(),
        "mean count": seen.clamp(max=3).mean((-1, -2)), "zeros": ((y == 0) * data.observed).mean((-1, -2)),
        "largest count": seen.amax((-1, -2)).log1p(),
    }  # fmt: skip
    return {name: value.double() for name, value in found.items()}


def _z_scores(moves: Iterable[Move], *, n_chains: int, n_sweeps: int, **world: bool) -> dict[str, float]:
    """Compare prior draws with the chains' means."""
    data, hyper = _world(**world)
    draw = generator(spawn(1, "geweke"))

    def fresh(n: int) -> tuple[State, Tensor]:
        state = sample_prior_state(n, data, hyper, draw)
        return state, sample_counts(state, data, hyper, draw) * data.observed

    exact = _statistics(*fresh(20_000), data, hyper)
    state, y = fresh(n_chains)
    total: dict[str, Tensor] = {}
    for n in range(n_sweeps):
        g = generator(spawn(2, "sweep", n))
        for move in moves:
            state = move(state, data._replace(counts=y), hyper, g)
        y = sample_counts(state, data, hyper, g) * data.observed
        for name, value in _statistics(state, y, data, hyper).items():
            total[name] = total.get(name, torch.zeros_like(value)) + value / n_sweeps
    scores = {}
    for name, mean in total.items():
        error = (mean.var() / n_chains + exact[name].var() / len(exact[name])).sqrt()
        if float(mean.var()) > 1e-20:  # statistics that a block leaves alone, or that do not exist, say nothing
            scores[name] = float((mean.mean() - exact[name].mean()) / error)
    return scores


def _bound(n_tests: int, level: float = 1e-3) -> float:
    """Largest |z| expected of independent tests, with probability 1 - level."""
    return float(torch.special.ndtri(torch.tensor(1 - level / (2 * n_tests), dtype=torch.float64)))


def _active(move: Callable[..., State]) -> Move:
    return lambda s, d, h, g: move(s, d, h, g, n_clusters=n_used(s, h))


def _augmented(move: Callable[..., State]) -> Move:
    def run(s: State, d: Data, h: Hyper, g: torch.Generator) -> State:
        k = n_used(s, h)
        return move(s, blocks.augment(s, d, h, g, n_clusters=k), d, h, g, n_clusters=k)

    return run


BLOCKS: dict[str, Move] = {
    "paths": _active(blocks.update_paths),
    "loadings": _augmented(blocks.update_loadings),
    "windows": _augmented(blocks.update_windows),
    "states": _active(blocks.update_states),
    "transitions": blocks.update_transitions,
    "dynamics": _active(blocks.update_dynamics),
    "labels": _active(blocks.update_labels),
    "dispersion": blocks.update_dispersion,
}


@pytest.mark.parametrize("name", BLOCKS)
def test_block_leaves_the_joint_law_alone(name: str) -> None:
    scores = _z_scores([BLOCKS[name]], n_chains=400, n_sweeps=20)
    print({k: round(z, 2) for k, z in scores.items()})
    assert max(abs(z) for z in scores.values()) < _bound(len(scores) * len(BLOCKS)), scores


@pytest.mark.parametrize("name", ["paths", "windows", "states", "dynamics", "labels"])
def test_coupled_block_leaves_the_joint_law_alone(name: str) -> None:
    scores = _z_scores([BLOCKS[name]], n_chains=400, n_sweeps=15, coupled=True)
    print({k: round(z, 2) for k, z in scores.items()})
    assert max(abs(z) for z in scores.values()) < _bound(5 * len(scores)), scores


@pytest.mark.parametrize("poisson", [False, True], ids=["nb", "poisson"])
def test_whole_coupled_sweep_leaves_the_joint_law_alone(poisson: bool) -> None:
    scores = _z_scores([blocks.sweep], n_chains=800, n_sweeps=15, coupled=True, poisson=poisson)
    print({k: round(z, 2) for k, z in scores.items()})
    assert max(abs(z) for z in scores.values()) < _bound(2 * len(scores)), scores


@pytest.mark.slow
@pytest.mark.parametrize("world", [{}, {"covariates": True}, {"poisson": True}], ids=["nb", "covariates", "poisson"])
def test_whole_sweep_leaves_the_joint_law_alone(world: dict[str, bool]) -> None:
    scores = _z_scores([blocks.sweep], n_chains=800, n_sweeps=25, **world)
    print({k: round(z, 2) for k, z in scores.items()})
    assert max(abs(z) for z in scores.values()) < _bound(3 * len(scores)), scores


def _exchange(s: State, d: Data, h: Hyper, g: torch.Generator) -> State:
    """Splits and merges; proposals depend on the counts (pairs) and on which units a cluster has (halves)."""
    rows = d.counts.clamp(max=5) - d.counts.clamp(max=5).mean(-1, keepdim=True)
    rows = rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-9)
    weight = torch.tensor([1.0, 2.5, 4.3], dtype=rows.dtype)
    guide = annealed.Guide(
        (rows @ rows.mT).square(),
        lambda whole: 2 * torch.sin(weight * (1 + whole.to(rows.dtype) @ weight.exp().unsqueeze(-1))),
    )
    state, moved = annealed.split_or_merge(s, d, h, g, guide=guide, steps=12)
    MOVED.append(float(moved.double().mean()))
    return state


MOVED: list[float] = []


@pytest.mark.slow
@pytest.mark.parametrize("world", [{}, {"covariates": True}, {"poisson": True}], ids=["nb", "covariates", "poisson"])
def test_splits_and_merges_leave_the_joint_law_alone(world: dict[str, bool]) -> None:
    MOVED.clear()
    scores = _z_scores([_exchange], n_chains=600, n_sweeps=8, **world)
    print({k: round(z, 2) for k, z in scores.items()}, MOVED)
    assert max(abs(z) for z in scores.values()) < _bound(3 * len(scores)), scores
    assert sum(MOVED) / len(MOVED) > 0.03  # moves that are never accepted pass every test


@pytest.mark.slow
def test_a_wrong_ratio_of_splits_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    right = annealed._log_ratio
    monkeypatch.setattr(annealed, "_log_ratio", lambda *args: right(*args) + 0.9)
    scores = _z_scores([_exchange], n_chains=800, n_sweeps=8)
    assert abs(scores["clusters"]) > _bound(len(scores)), scores


def _biased_dispersion(s: State, d: Data, h: Hyper, g: torch.Generator) -> State:
    """The published update: a Gamma law that holds the success probability fixed where the mean is fixed."""
    from tectum.models.biclustering.model import log_mean
    from tectum.stats.distributions import sample_gamma
    from tectum.stats.hdp import sample_table_counts

    r = s.log_r.exp().unsqueeze(-1)
    eta = log_mean(s.beta, s.path, s.labels, d)
    tables = sample_table_counts(d.counts.long(), r.expand_as(d.counts), generator=g).sum(-1)
    rate = h.r_rate + (torch.log1p(eta.exp() / r) * d.observed).sum(-1)
    return s._replace(log_r=(sample_gamma(h.r_shape + tables.double(), g) / rate).clamp(min=1e-8).log())


def test_the_published_dispersion_update_is_found_out() -> None:
    scores = _z_scores([_biased_dispersion], n_chains=400, n_sweeps=20)
    assert abs(scores["log r"]) > 2 * _bound(len(scores)), scores


def test_bound_grows_with_the_number_of_tests() -> None:
    assert math.isclose(_bound(1, 0.05), 1.959964, rel_tol=1e-6)
    assert _bound(200) > _bound(20)
