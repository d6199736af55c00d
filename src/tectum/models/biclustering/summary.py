"""From draws to what is reported: point partitions, aligned latents, rates, agreement of chains, predictive checks."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from ...core.errors import TectumWarning
from ...stats.alignment import assign, canonical_labels, co_clustering, overlap, partition_loss, point_estimate
from ...stats.diagnostics import ess_bulk, split_rhat
from ...stats.distributions import negative_binomial_log_prob, poisson_log_prob
from .model import Data, Hyper, State, log_mean
from .prior import sample_counts

SCALARS = ("log_joint", "n_clusters", "n_states", "mean_log_dispersion", "latent_norm", "n_switches")
LARGEST_RHAT, SMALLEST_ESS = 1.05, 200.0
STATE_BINS = 2000  # bins for which pairs are compared


def diagnose(draws: dict[str, Tensor]) -> tuple[Tensor, Tensor, bool]:
    """Split R-hat and bulk ESS of label-invariant scalars, and whether the chains may be trusted together.

    Parameters
    ----------
    draws : dict
        Scalars of shape (chain, draw).

    Returns
    -------
    tuple of Tensor, Tensor and bool
        (scalar,) R-hat and ESS in the order of ``SCALARS``; whether all pass.
    """
    table = torch.stack([draws[name] for name in SCALARS], -1)
    if len(table) < 2 or table.shape[1] < 4:  # one chain cannot show that it has found all there is
        nan = table.new_full((len(SCALARS),), torch.nan)
        return nan, nan, False
    table = table.to("cpu", torch.float64)
    rhat, ess = split_rhat(table), ess_bulk(table)
    constant = table.amax((0, 1)) == table.amin((0, 1))
    rhat = torch.where(constant, 1.0, rhat)
    passed = bool(((rhat <= LARGEST_RHAT) & (constant | (ess >= SMALLEST_ESS))).all())
    device, dtype = draws["log_joint"].device, draws["log_joint"].dtype
    return rhat.to(device, dtype), ess.to(device, dtype), passed


def warn_if_apart(rhat: Tensor, ess: Tensor, passed: bool, best: int, n_chains: int) -> None:
    """Say that chains disagree or are short, and what the point estimates then rest on."""
    if passed:
        return
    worst = {n: f"{r:.2f}, {e:.0f}" for n, r, e in zip(SCALARS, rhat.tolist(), ess.tolist(), strict=True)}
    message = f"BiCluster: chains have not converged (R-hat, ESS: {worst})"
    if n_chains > 1:
        message += f"; point estimates are those of chain {best}, whose partition has the most evidence"
    warnings.warn(message, TectumWarning, stacklevel=2)


def point_partitions(
    labels: Tensor, states: Tensor, *, n_slots: int, n_states: int, loss: Any = "pear"
) -> dict[str, Tensor]:
    """Point estimates and co-clustering matrices of units and of bins.

    Parameters
    ----------
    labels : Tensor
        (draw, unit) int64.
    states : Tensor
        (draw, time) int64.
    n_slots, n_states : int
        Labels that may occur.
    loss : {"pear", "binder", "vi"}
        Whose posterior expectation the point partitions minimise.

    Returns
    -------
    dict
        ``clusters``, ``co_clustering``, ``states``, ``state_bins``, ``state_similarity``.
    """
    units = point_estimate(labels, n_labels=n_slots, loss=loss)
    n_time = states.shape[1]
    bins = torch.linspace(0, n_time - 1, min(n_time, STATE_BINS), device=states.device).round().long()
    found = {"clusters": units.labels, "co_clustering": units.co_clustering, "state_bins": bins}
    if n_states == 1:
        ones = torch.ones(len(bins), len(bins), device=states.device)
        return {**found, "states": torch.zeros_like(states[0]), "state_similarity": ones}
    similarity = co_clustering(states[:, bins], n_labels=n_states)
    visited = states[torch.linspace(0, len(states) - 1, min(len(states), 200), device=states.device).round().long()]
    score = partition_loss(visited[:, bins], similarity, n_labels=n_states, loss=loss)
    best = visited[score.argmin()]
    aligned = _align(states, best, n_states)
    votes = torch.stack([(aligned == k).sum(0) for k in range(n_states)], -1).argmax(-1)
    both = torch.stack([best, votes])
    chosen = both[partition_loss(both[:, bins], similarity, n_labels=n_states, loss=loss).argmin()]
    return {**found, "states": canonical_labels(chosen, n_labels=n_states), "state_similarity": similarity}


def _align(labels: Tensor, reference: Tensor, n_labels: int) -> Tensor:
    """Rename labels (draw, item) by their overlap with a reference."""
    table = assign(-overlap(labels, reference, n_labels=n_labels))
    return table.gather(-1, labels)


def aligned_latents(state: State, clusters: Tensor) -> dict[str, Tensor]:
    """Mean, band and mean loadings of every cluster's path over snapshots, in one basis.

    Paths are centred; factors are rotated by Procrustes to the first snapshot, then so that they are uncorrelated over
    time with falling variance. Rotations go to the loadings too; no factor is rescaled.

    Parameters
    ----------
    state : State
        Snapshots along the leading axis.
    clusters : Tensor
        (unit,) point partition.

    Returns
    -------
    dict
        ``latent``, ``latent_low``, ``latent_high`` (cluster, time, q), ``mean_loading`` (unit, q).
    """
    n_clusters = int(clusters.max()) + 1
    width = max(int(state.labels.max()) + 1, n_clusters)
    joint = overlap(state.labels, clusters, n_labels=width)  # (snapshot, slot, cluster)
    place = assign(-joint.mT)[:, :n_clusters]  # (snapshot, cluster): slot of every cluster
    rows = torch.arange(len(place), device=place.device).unsqueeze(-1)
    padded = torch.nn.functional.pad(state.path, (0, 0, 0, 0, 0, max(0, width - state.path.shape[1])))
    path = padded[rows, place]  # (snapshot, cluster, time, q)
    offset = path.mean(-2, keepdim=True)
    path = path - offset
    factors = path[..., 1:]
    u, _, v = torch.linalg.svd(factors.mT @ factors[:1])
    turn = u @ v  # (snapshot, cluster, p, p)
    mean = (factors @ turn).mean(0)
    _, _, final = torch.linalg.svd(mean, full_matrices=False)
    turn = turn @ final.mT
    path = torch.cat([path[..., :1], factors @ turn], -1)
    own = place.gather(1, clusters.expand(len(place), -1))
    member = (state.labels == own).to(path.dtype)  # unit sits in the slot of its point cluster
    p = factors.shape[-1]
    c = state.beta[..., 1 : 1 + p]
    shift = offset[:, :, 0]  # (snapshot, cluster, q)
    ones = torch.cat([torch.ones_like(c[..., :1]), c], -1)
    level = state.beta[..., 0] + (ones * shift[:, clusters]).sum(-1)
    loading = torch.cat([level.unsqueeze(-1), (c.unsqueeze(-2) @ turn[:, clusters]).squeeze(-2)], -1)
    weight = member.sum(0).clamp(min=1).unsqueeze(-1)
    low, high = torch.quantile(path, torch.tensor([0.025, 0.975], dtype=path.dtype, device=path.device), dim=0)
    return {
        "latent": path.mean(0), "latent_low": low, "latent_high": high,
        "mean_loading": (loading * member.unsqueeze(-1)).sum(0) / weight,
    }  # fmt: skip


def rates_and_checks(state: State, data: Data, hyper: Hyper, generator: torch.Generator) -> dict[str, Tensor]:
    """Expected counts with their bands, and replicated Fano factors and shares of zeros.

    Parameters
    ----------
    state : State
        Snapshots along the leading axis.
    data, hyper
        Counts and constants.
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    dict
        ``rate``, ``rate_low``, ``rate_high`` (time, unit); ``fano``, ``zero_fraction`` (unit,); ``fano_replicated``,
        ``zero_fraction_replicated`` (snapshot, unit).
    """
    levels = torch.tensor([0.025, 0.975], dtype=state.beta.dtype, device=state.beta.device)
    mean, low, high, fano, zero = [], [], [], [], []
    n_snapshots = len(state.labels)
    for s in range(n_snapshots):  # one at a time: replicates of long recordings are large
        y = sample_counts(_one(state, s), data, hyper, generator)[0]
        f, z = fano_and_zeros(y, data.observed)
        fano.append(f)
        zero.append(z)
    size = max(1, 50_000_000 // (n_snapshots * data.counts.shape[1]))
    for part in torch.arange(data.counts.shape[0], device=data.counts.device).split(size):
        piece = state._replace(labels=state.labels[:, part], beta=state.beta[:, part], log_r=state.log_r[:, part])
        offset = data.offset if data.offset.shape[0] == 1 else data.offset[part]
        eta = log_mean(piece.beta, piece.path, piece.labels, data._replace(offset=offset))
        mean.append(eta.exp().mean(0))
        band = torch.quantile(eta, levels, dim=0).exp()
        low.append(band[0])
        high.append(band[1])
    seen_fano, seen_zero = fano_and_zeros(data.counts, data.observed)
    return {
        "rate": torch.cat(mean).T, "rate_low": torch.cat(low).T, "rate_high": torch.cat(high).T,
        "fano": seen_fano, "zero_fraction": seen_zero, "fano_replicated": torch.stack(fano),
        "zero_fraction_replicated": torch.stack(zero),
    }  # fmt: skip


def _one(state: State, k: int) -> State:
    """One snapshot, leading axis kept."""
    return State(*(x[k : k + 1] for x in state))


def fano_and_zeros(counts: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Variance over mean, and share of zeros, of the observed counts of each unit."""
    n = observed.sum(-1).clamp(min=1)
    mean = (counts * observed).sum(-1) / n
    variance = ((counts - mean.unsqueeze(-1)).square() * observed).sum(-1) / (n - 1).clamp(min=1)
    return variance / mean.clamp(min=1e-12), ((counts == 0) * observed).sum(-1) / n


def constant_score(counts: Tensor, observed: Tensor, held: Tensor, *, poisson: bool) -> Tensor:
    """Mean log score of held-out entries under a constant rate a unit, with its own fitted dispersion.

    Parameters
    ----------
    counts : Tensor
        (unit, time) all counts.
    observed : Tensor
        (unit, time) 1 where the model was fitted.
    held : Tensor
        (entry,) places in the flattened counts.
    poisson : bool
        Score by Poisson instead of negative binomial.

    Returns
    -------
    Tensor
        (), nats an entry.
    """
    n = observed.sum(-1, keepdim=True).clamp(min=1)
    mean = ((counts * observed).sum(-1, keepdim=True) / n).clamp(min=1e-6)
    return _score(counts, observed, mean.expand_as(counts), held, poisson)


def smoothing_score(counts: Tensor, observed: Tensor, held: Tensor, *, poisson: bool) -> Tensor:
    """Mean log score of held-out entries under Gaussian smoothing of each unit's other counts, best of five widths.

    The width (sd of 1 to 16 bins) is the one that scores best on held-out entries themselves, which favours the
    baseline slightly.
    """
    from .modes import smooth_in_time

    found = []
    for width in (1.0, 2.0, 4.0, 8.0, 16.0):
        rate = smooth_in_time(counts, observed, width).clamp(min=0.05)
        found.append(_score(counts, observed, rate, held, poisson))
    return torch.stack(found).amax()


def _score(counts: Tensor, observed: Tensor, rate: Tensor, held: Tensor, poisson: bool) -> Tensor:
    """Mean log probability of the held-out entries, dispersion by maximum likelihood on a grid."""
    if poisson:
        return poisson_log_prob(counts, rate.log()).flatten()[held].mean()
    grid = torch.logspace(-1, 3, 25, dtype=counts.dtype, device=counts.device)
    fits = torch.stack([(negative_binomial_log_prob(counts, rate.log(), r) * observed).sum(-1) for r in grid])
    r = grid[fits.argmax(0)].unsqueeze(-1)
    return negative_binomial_log_prob(counts, rate.log(), r).flatten()[held].mean()


def describe(draws: dict[str, Tensor], n_factors: int) -> dict[str, Any]:
    """Draws under the names of the result."""
    beta, rates = draws["beta"], draws["rates"]
    weight = beta[..., 1 + n_factors :]
    return {
        "label_draws": draws["labels"], "state_draws": draws["states"], "loading_draws": beta[..., : 1 + n_factors],
        "weight_draws": weight, "dispersion_draws": draws["dispersion"],
        **{name: draws[name] for name in SCALARS},
        **{name: rates[..., k] for k, name in enumerate(("accepted_path", "accepted_window", "accepted_label",
                                                         "accepted_dispersion", "jitter"))},
    }  # fmt: skip
