"""Simulation-based calibration of BiCluster: the truth has a uniform rank among posterior draws."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tectum.core.random import generator, spawn
from tectum.models.biclustering.annealed import Guide, split_or_merge
from tectum.models.biclustering.model import State, cluster_sizes, make_data, make_hyper
from tectum.models.biclustering.prior import sample_counts, sample_prior_state
from tectum.models.biclustering.sweep import sweep

N_UNITS, N_TIME, REPLICATES = 6, 60, 100
DRAWS, THIN = 19, 12
LAWS = 60  # of an exact split or merge, one after every kept draw
CELLS = 5


def _scalars(state: State) -> Tensor:
    """Level and dispersion of the first unit, number of clusters: (replicate, 3)."""
    k = (cluster_sizes(state.labels, 8) > 0).sum(-1)
    return torch.stack([state.beta[:, 0, 0], state.log_r[:, 0], k.double()], -1)


def _guide(counts: Tensor) -> Guide:
    """Proposals from counts (pairs) and from which units a cluster has (halves)."""
    rows = counts.clamp(max=5) - counts.clamp(max=5).mean(-1, keepdim=True)
    rows = rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-9)
    weight = torch.arange(1, N_UNITS + 1, dtype=rows.dtype).sqrt()
    return Guide(
        (rows @ rows.mT).square(),
        lambda whole: 2 * torch.sin(weight * (1 + whole.to(rows.dtype) @ weight.exp().unsqueeze(-1))),
    )


@pytest.mark.slow
def test_ranks_of_the_truth_are_uniform() -> None:
    """A hundred data sets with chains of their own, each started at its truth; splits and merges included."""
    like = torch.zeros((), dtype=torch.float64)
    hyper = make_hyper(N_UNITS, n_factors=1, n_states=2, n_slots=8, zeta=0.4, alpha=5.0, gamma=5.0, kappa=10.0,
                       r_shape=2.0, r_rate=1.0, poisson=False, like=like)  # fmt: skip
    blank = make_data(like.expand(N_UNITS, N_TIME), torch.ones(N_UNITS, N_TIME, dtype=torch.bool),
                      starts=torch.arange(N_TIME) == 0)._replace(histogram=None)  # fmt: skip
    draw = generator(spawn(0, "sbc"))
    many = sample_prior_state(4 * REPLICATES, blank, hyper, draw)
    counts = sample_counts(many, blank, hyper, draw)
    usual = (counts.amax((1, 2)) < 200).nonzero().flatten()[:REPLICATES]  # a choice by the counts leaves ranks uniform
    assert len(usual) == REPLICATES
    truth, data = State(*(x[usual] for x in many)), blank._replace(counts=counts[usual])
    exact, state = _scalars(truth), truth
    below, ties, moved = torch.zeros_like(exact), torch.zeros_like(exact), 0.0
    guide = _guide(data.counts)
    for n in range(DRAWS * THIN):
        state = sweep(state, data, hyper, generator(spawn(1, n)))
        if (n + 1) % THIN == 0:
            state, went = split_or_merge(state, data, hyper, generator(spawn(2, n)), guide=guide, steps=LAWS)
            moved += float(went.double().mean()) / DRAWS
            drawn = _scalars(state)
            below, ties = below + (drawn < exact), ties + (drawn == exact)
    jitter = torch.rand(below.shape, generator=draw, dtype=torch.float64)
    ranks = below + (jitter * (ties + 1)).floor()  # 0..DRAWS
    cells = (ranks * CELLS / (DRAWS + 1)).long()
    expected = REPLICATES / CELLS
    print("moved", moved)
    assert moved > 0.005  # moves that are never accepted pass every test
    for k, name in enumerate(("d", "r", "K")):
        table = torch.bincount(cells[:, k], minlength=CELLS).double()
        chi_square = float(((table - expected).square() / expected).sum())
        print(name, table.tolist(), chi_square)
        assert chi_square < 18.5, (name, table)  # 0.1 % of chi-square with four degrees of freedom
