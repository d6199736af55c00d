"""From fitted parameters to everything that is said about them: states in time, occupancy, scores, one-hot types."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from ...core.errors import DegenerateStateWarning
from ...stats import hmm
from .basis import split_weights
from .emission import FLOOR, log_emission, rate_of, unit_log_likelihood
from .fitting import Family, Problem, Starts, posterior_of
from .inputs import Sequences
from .result import visits_of
from .stages import OneHotFit

FEW_VISITS = 5


def order_of(problem: Problem, starts: Starts, family: Family) -> Tensor:
    """States of the first start, the most occupied first: (S,) int64."""
    return posterior_of(problem, starts, family).probabilities[0].sum((0, 1)).argsort(descending=True, stable=True)


def reorder(starts: Starts, order: Tensor) -> Starts:
    """Rename the states of all restarts."""
    transition = starts.log_transition[:, order][:, :, order]
    return starts._replace(
        weights=starts.weights[:, order], log_transition=transition, log_initial=starts.log_initial[:, order]
    )


def floor_bias(starts: Starts, found: Sequences) -> Starts:
    """Keep the bias of units without a spike where the likelihood still feels it; the optimum is at minus infinity."""
    bias = floored(starts.weights[..., 0], found)
    return starts._replace(weights=torch.cat((bias.unsqueeze(-1), starts.weights[..., 1:]), -1))


def floored(bias: Tensor, found: Sequences) -> Tensor:
    """Biases (..., N), those of silent units at least the logarithm of the smallest rate that counts."""
    silent = (found.spikes.sum((0, 1)) == 0).to(bias.device)
    return torch.where(silent, bias.clamp(min=math.log(FLOOR)), bias)


def describe_parameters(starts: Starts, family: Family, *, filters: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """Fields of the result that hold parameters of the first start."""
    weights = starts.weights[0]
    n_units, n_filters = weights.shape[1], filters.shape[1]
    parts = split_weights(weights, n_units=n_units, n_filters=n_filters)
    shared = split_weights(starts.shared[0], n_units=n_units, n_filters=n_filters).coupling
    made = {
        "coupling": parts.coupling, "bias": parts.bias, "covariate_weight": parts.covariates, "filters": filters,
        "shared_coupling": shared if bool(shared.any()) else parts.coupling.mean(0),
        "transition": starts.log_transition[0].exp(), "initial": starts.log_initial[0].exp(),
    }  # fmt: skip
    if starts.size is not None:
        made["size"] = starts.size[0]
    return {name: value.to(dtype) for name, value in made.items()}


def describe_one_hot(fit: OneHotFit, order: Tensor, *, n_filters: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Fields of the result of the one-hot prior."""
    n_units = fit.soft.shape[1]
    hard = split_weights(fit.hard.weights[order], n_units=n_units, n_filters=n_filters)
    types, strength = fit.parameters.logits.softmax(-1), torch.nn.functional.softplus(fit.parameters.strength)
    mean = fit.strength[0]  # (V,)
    shared = (fit.types[..., 2] * mean[-1] - fit.types[..., 0] * mean[0]).unsqueeze(-1)  # (target, source, 1)
    kernel = fit.parameters.kernel
    spread = kernel.softmax(-1) if kernel.numel() else shared.new_ones(n_filters)
    made = {
        "type_probability": types[order], "shared_types": fit.types, "strength": strength[order][..., -1],
        "hard_coupling": hard.coupling, "hard_bias": hard.bias, "shared_coupling": shared * spread,
    }  # fmt: skip
    if strength.shape[-1] == 2:
        made["inhibitory_strength"] = strength[order][..., 0]
    if kernel.numel():  # the strength at every lag
        made |= {name: made[name] * spread for name in ("strength", "inhibitory_strength") if name in made}
    return {"adjacency": fit.hard.adjacency[order], **{name: value.to(dtype) for name, value in made.items()}}


def describe_states(
    problem: Problem, starts: Starts, family: Family, found: Sequences, *, dtype: torch.dtype
) -> dict[str, Any]:
    """Fields of the result that hold the posterior of the states of the training data."""
    posterior = posterior_of(problem, starts, family)
    probability, path = posterior.probabilities[0], most_probable_path(problem, starts, family)
    n_states, n_bins = starts.weights.shape[1], probability.sum()
    occupancy = probability.sum((0, 1)) / n_bins
    mean, number = visits_of(path, n_states=n_states)
    _warn_of_rare(occupancy, number)
    rate = constant_rate(found)
    likelihood = posterior.log_likelihood[0]
    return {
        "states": path, "probability": probability.to(dtype), "log_likelihood": likelihood.to(dtype),
        "occupancy": occupancy.to(dtype), "dwell": (mean * found.dt).to(dtype), "visits": number,
        "rate": rate.to(dtype), "counts": found.spikes.to(torch.int32),
        "bits_per_spike": bits_per_spike(likelihood.sum(), found, rate),
    }  # fmt: skip


def unit_likelihood(forward: hmm.Filtered, problem: Problem, starts: Starts, family: Family, seen: Tensor) -> Tensor:
    """Causal log-likelihood of each unit, its states mixed as predicted from the bins before: (B, N) nats."""
    size = None if starts.size is None else starts.size[0]
    share = forward.log_predicted.exp().to(problem.design)
    return unit_log_likelihood(problem.design, problem.spikes, starts.weights[0], share, link=family.link, size=size,
                               mask=seen).sum(1)  # fmt: skip


def most_probable_path(problem: Problem, starts: Starts, family: Family) -> Tensor:
    """Viterbi path of the first start, (B, T) int64, -1 beyond the end."""
    size = None if starts.size is None else starts.size[0]
    emission = log_emission(problem.design, problem.spikes, starts.weights[0], link=family.link, size=size,
                            mask=problem.mask)  # fmt: skip
    found = hmm.viterbi(starts.log_initial[0], starts.log_transition[0], emission, lengths=problem.lengths)
    return found.path


def constant_rate(found: Sequences) -> Tensor:
    """Mean count of each unit over its observed bins, (N,) in the highest precision."""
    wide = torch.float32 if found.spikes.device.type == "mps" else torch.float64
    seen = found.observed()
    return found.spikes.sum((0, 1), dtype=wide) / seen.sum((0, 1)).clamp(min=1)


def bits_per_spike(log_likelihood: Tensor, found: Sequences, rate: Tensor) -> float:
    """Log-likelihood above that of constant Poisson rates, in bits per spike."""
    seen, counts = found.observed(), found.spikes.to(rate)
    constant = counts * (rate + 1e-8).log() - rate - torch.lgamma(counts + 1)
    base = constant.where(seen, 0.0).sum()
    return float((log_likelihood - base) / (counts.sum().clamp(min=1) * math.log(2)))


def _warn_of_rare(occupancy: Tensor, number: Tensor) -> None:
    """Tell of states that hardly occur."""
    n_states = len(occupancy)
    if n_states == 1:
        return
    facts = zip(occupancy.tolist(), number.tolist(), strict=True)
    rare = [f"state {k}: {share:.1%} of the bins in {n} visits" for k, (share, n) in enumerate(facts)
            if share < 1 / (10 * n_states) or n < FEW_VISITS]  # fmt: skip
    if rare:
        said = f"HMMGLM: states that hardly occur ({'; '.join(rare)}); use fewer states or more data"
        warnings.warn(said, DegenerateStateWarning, stacklevel=5)


def draw_counts(
    starts: Starts, family: Family, filters: Tensor, *, n_sequences: int, n_time: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw sequences from the model, on the CPU (each bin waits for the one before).

    Returns
    -------
    counts : Tensor
        (sequence, time, unit) int32.
    states : Tensor
        (sequence, time) int64.
    """
    weights, filters = starts.weights[0].double().cpu(), filters.double().cpu()
    n_units, (n_lags, n_filters) = weights.shape[1], filters.shape
    parts = split_weights(weights, n_units=n_units, n_filters=n_filters)
    kernel = torch.einsum("snjm,lm->slnj", parts.coupling, filters)  # (state, lag, target, source)
    states = _draw_states(starts, n_sequences, n_time, generator)
    counts = torch.zeros(n_sequences, n_time + n_lags, n_units, dtype=torch.float64, device="cpu")
    size = None if starts.size is None else starts.size[0].double().cpu()
    for t in range(n_time):
        past = counts[:, t : t + n_lags].flip(1)  # (sequence, lag, unit), latest first
        drive = parts.bias[states[:, t]] + torch.einsum("blnj,blj->bn", kernel[states[:, t]], past)
        rate = rate_of(drive, family.link)
        if size is not None:
            rate = rate / size * torch._standard_gamma(size.expand_as(rate), generator=generator)
        counts[:, t + n_lags] = torch.poisson(rate, generator=generator)
    return counts[:, n_lags:].to(torch.int32), states


def _draw_states(starts: Starts, n_sequences: int, n_time: int, generator: torch.Generator) -> Tensor:
    """Draw chains of states, (sequence, time) int64 on the CPU."""
    first, moves = (p[0].double().cpu().exp().cumsum(-1) for p in (starts.log_initial, starts.log_transition))
    uniform = torch.rand(n_sequences, n_time, generator=generator, dtype=torch.float64, device="cpu")
    top = len(moves) - 1
    path = [(uniform[:, 0, None] >= first).sum(-1).clamp(max=top)]
    for t in range(1, n_time):
        path.append((uniform[:, t, None] >= moves[path[-1]]).sum(-1).clamp(max=top))
    return torch.stack(path, 1)
