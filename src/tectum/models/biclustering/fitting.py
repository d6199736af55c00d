"""A fit from containers to the result: prepare, run the chains, describe."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...core.device import highest_precision
from ...core.errors import InputError, TooLargeError, explain
from ...core.estimator import Run, numbers
from ...core.loops import Checkpoint, gibbs
from ...core.random import generator, spawn
from ...core.result import hash_tensors
from .checks import Gathered, gather, silent_units
from .initial import initial_state
from .model import Data, Hyper, make_data, make_hyper, n_active
from .predict import snapshot_state
from .result import BiClusterResult
from .run import LAST_MOVE, Chains, Plan, Tally, make_record, make_step, snapshot_draws, start_tally
from .splits import evidence_of_chains
from .stacking import couple
from .summary import (
    aligned_latents,
    constant_score,
    describe,
    diagnose,
    point_partitions,
    rates_and_checks,
    smoothing_score,
    warn_if_apart,
)

if TYPE_CHECKING:
    from .estimator import BiCluster


class Prepared(NamedTuple):
    """Counts on the device and what they came from."""

    data: Data
    hyper: Hyper
    counts: Tensor
    """(unit, time) all counts."""
    held: Tensor
    """(entry,) int64 hidden places."""
    gathered: Gathered
    units: Tensor
    """(unit,) int64 units that were kept."""


def prepare(model: BiCluster, data: tuple[Any, ...], run: Run) -> Prepared:
    """Read, check, hide, and move to the device."""
    found = gather(data, width=model.bin, epochs=model.epochs)
    kept = silent_units(found, drop=model.drop_silent, where="BiCluster")
    n_units, n_time = len(kept), found.counts.shape[1]
    if n_units < 2 or model.n_factors >= n_units:
        raise InputError(explain("BiCluster.n_factors", expected="fewer factors than units, and 2 units or more",
                                 got=f"n_factors={model.n_factors} and {n_units} units"))  # fmt: skip
    _refuse_too_large(model, n_units, n_time)
    dtype = highest_precision(run.device)
    observed, counts = found.observed[kept], found.counts[kept]
    places = hidden_places(observed, model.held_out, model.held_out_bins, generator(spawn(run.seed, "hide")))
    offset = found.offset if len(found.offset) == 1 else found.offset[kept]
    tensors = make_data(
        counts.to(run.device, dtype), (observed & ~places).to(run.device), starts=found.starts.to(run.device),
        offset=offset.to(run.device, dtype) if bool(offset.any()) else None,
        covariates=found.covariates.to(run.device, dtype),
    )  # fmt: skip
    held = places.flatten().nonzero().flatten().to(run.device)
    return Prepared(tensors, hyper_of(model, n_units, tensors.counts), counts.to(run.device, dtype), held, found, kept)


def hidden_places(observed: Tensor, share: float, length: int, draw: torch.Generator) -> Tensor:
    """Choose observed entries to hide: (unit, time) bool; each unit's time is cut into blocks at a place of its own."""
    n_units, n_time = observed.shape
    offset = torch.randint(length, (n_units, 1), generator=draw) if length > 1 else torch.zeros(n_units, 1).long()
    block = (torch.arange(n_time) + offset) // length
    coin = torch.rand(n_units, -(-n_time // length) + (length > 1), generator=draw, dtype=torch.float64)
    return (coin.gather(1, block) < share) & observed


def _refuse_too_large(model: BiCluster, n_units: int, n_time: int) -> None:
    """Refuse fits whose chunks cannot fit into memory."""
    each, slots = model.chains * n_time * 8, min(model.max_clusters, 10)
    label_step = 8 * min(slots * n_units * each, 20_000_000 * 8)
    stored = model.chains * model.draws * (n_time + 10 * n_units) * 2
    snapshots = model.chains * model.snapshots * model.max_clusters * n_time * (model.n_factors + 1) * 4
    paths = 8 * model.max_clusters * each * (model.n_factors + 1) ** 2
    if model.coupled:
        paths = each * (2 * min(slots, n_units) * (model.n_factors + 1) + 1) ** 2
    need = label_step + 14 * n_units * each + paths + stored + snapshots
    if need > model.memory * 2**30:
        raise TooLargeError(explain("BiCluster.memory", expected=f"at most {model.memory:g} GiB",
                                    got=f"about {need / 2**30:.3g} GiB for {n_units} units, {n_time} bins and "
                                    f"{model.chains} chains", fix="use wider bins, fewer chains or draws"))  # fmt: skip


def hyper_of(model: BiCluster, n_units: int | None = None, like: Tensor | None = None) -> Hyper:
    """Build the constants; without arguments those of the fitted model."""
    if like is None or n_units is None:
        rate = model.result_.rate
        made = hyper_of(model, rate.shape[1], rate.to(highest_precision(rate.device)))
        return couple(made, rate.shape[1], model.result_.path.shape[2]) if model.result_.coupled else made
    return make_hyper(
        n_units, n_factors=model.n_factors, n_states=model.max_states, n_slots=model.max_clusters, zeta=model.zeta,
        alpha=float(model.alpha), gamma=float(model.gamma), kappa=float(model.kappa), r_shape=float(model.r_shape),
        r_rate=float(model.r_rate), poisson=model.likelihood == "poisson", like=like,
        dirichlet_process=model.dirichlet_process,
    )  # fmt: skip


def sample_chains(model: BiCluster, made: Prepared, data: tuple[Any, ...], run: Run) -> tuple[BiClusterResult, bool]:
    """Start, run and describe the chains."""
    tensors, hyper = made.data, made.hyper
    state = initial_state(model.chains, tensors, hyper, generator(spawn(run.seed, "start")))
    plan = Plan(model.burn, model.draws, model.thin, min(model.snapshots, model.draws), run.seed, made.held,
                made.counts, run.dtype, model.exchange_every,
                int(LAST_MOVE * model.burn) if model.coupled else None)  # fmt: skip
    keeper = None
    if run.checkpoint is not None:
        config = {**{k: v for k, v in model.get_params().items() if k != "device"},
                  "data": hash_tensors(numbers(data))}  # fmt: skip
        keeper = Checkpoint(path=run.checkpoint, every=model.save_every, config=config)
    out = gibbs(
        make_step(tensors, hyper, plan), Chains(state, start_tally(state, plan), 0), draws=model.draws,
        burn=model.burn, thin=model.thin, record=make_record(tensors, hyper, plan), seed=run.seed, device=run.device,
        checkpoint=keeper, description="BiCluster",
    )  # fmt: skip
    evidence = evidence_of_chains(out.state.state, tensors, hyper)
    return _describe(model, made, out.draws, out.state, evidence, plan, run)


def _describe(
    model: BiCluster, made: Prepared, draws: dict[str, Tensor], last: Chains, evidence: Tensor, plan: Plan, run: Run
) -> tuple[BiClusterResult, bool]:
    """Point estimates, latents, rates, checks."""
    rhat, ess, passed = diagnose(draws)
    best = int(evidence.argmax())
    warn_if_apart(rhat, ess, passed or not model.warn_unconverged, best, model.chains)
    used = list(range(model.chains)) if passed else [best]
    tally, p = last.tally, model.n_factors
    width = tally.path.shape[2] if model.coupled else max(int(draws["labels"].max()) + 1, n_active(last.state))
    facts: dict[str, Any] = describe(draws, p)
    facts |= {"path": tally.path[:, :, :width].clone(), "log_pi": tally.log_pi}
    facts |= _stacked(tally, p + 1) if model.coupled else _separate(tally, width)
    facts["step_draw"] = torch.tensor(snapshot_draws(plan), device=run.device)
    points: dict[str, Any] = point_partitions(draws["labels"][used].flatten(0, 1).long(),
                              draws["states"][used].flatten(0, 1).long(), n_slots=model.max_clusters,
                              n_states=model.max_states, loss=model.point)  # fmt: skip
    bare = BiClusterResult(
        coords=_coords(model, made), dt=made.gathered.dt, likelihood=model.likelihood, best_chain=best, agree=passed,
        evidence=evidence, rhat=rhat, ess=ess, **_empty(model, made), **points, **facts,
        **_held_out(model, made, tally.log_score[used], run),
    )  # fmt: skip
    state = snapshot_state(bare, dtype=made.counts.dtype)
    found = aligned_latents(state, points["clusters"])
    found |= rates_and_checks(state, made.data, made.hyper, generator(spawn(run.seed, "checks")))
    cast = {name: x.to(run.dtype) for name, x in (found | {"evidence": evidence}).items()}
    names = ("co_clustering", "state_similarity")
    cast |= {name: points[name].to(run.dtype) for name in names}
    return _filled(bare, cast), passed


def _separate(tally: Tally, width: int) -> dict[str, Tensor]:
    """Dynamics of every cluster."""
    matrix = tally.matrix[:, :, :width]
    return {"transition": matrix[..., :-1].clone(), "drift": matrix[..., -1].clone(),
            "noise": tally.noise[:, :, :width].clone()}  # fmt: skip


def _stacked(tally: Tally, q: int) -> dict[str, Tensor]:
    """Dynamics of the stack, and the parts of them that stay inside a cluster."""
    matrix, noise = tally.matrix[:, :, 0], tally.noise[:, :, 0]  # (chain, snapshot, state, K q, K q + 1)
    across, spread = (x.unflatten(-1, (-1, q)).unflatten(-3, (-1, q)).clone() for x in (matrix[..., :-1], noise))
    own, own_noise = (x.diagonal(dim1=3, dim2=5).movedim(-1, 2).clone() for x in (across, spread))
    drift = matrix[..., -1].unflatten(-1, (-1, q)).movedim(-2, 2).clone()
    return {"transition": own, "drift": drift, "noise": own_noise, "coupling": across, "coupling_noise": spread}


def _empty(model: BiCluster, made: Prepared) -> dict[str, Any]:
    """What is known of the data, and places for what is computed last."""
    n_units, n_time = made.counts.shape
    nothing = made.counts.new_zeros(n_time, n_units)
    flat = nothing[:1]
    latent = nothing.new_zeros(1, n_time, model.n_factors + 1)
    return {
        "counts": made.counts.T.to(torch.int32).clone(), "observed": (made.data.observed.T > 0).clone(),
        "first_bin": made.data.starts.clone(), "rate": nothing, "rate_low": nothing, "rate_high": nothing,
        "latent": latent, "latent_low": latent, "latent_high": latent,
        "mean_loading": nothing.new_zeros(n_units, model.n_factors + 1), "fano": flat[0], "zero_fraction": flat[0],
        "fano_replicated": flat, "zero_fraction_replicated": flat,
    }  # fmt: skip


def _held_out(model: BiCluster, made: Prepared, log_score: Tensor, run: Run) -> dict[str, Any]:
    """Scores of the hidden entries and of two baselines."""
    if not len(made.held):
        return {}
    total = torch.logsumexp(log_score, 0) - np.log(model.draws * len(log_score))
    table = torch.full_like(made.counts, torch.nan).flatten()
    table[made.held] = total
    poisson = model.likelihood == "poisson"
    given = (made.counts, made.data.observed, made.held)
    return {
        "held_out_log_prob": table.reshape(made.counts.shape).T.to(run.dtype).clone(),
        "score_held_out": float(total.mean()), "score_constant": float(constant_score(*given, poisson=poisson)),
        "score_smoothing": float(smoothing_score(*given, poisson=poisson)),
    }  # fmt: skip


def _coords(model: BiCluster, made: Prepared) -> dict[str, dict[str, Any]]:
    """Names along the axes."""
    found, kept = made.gathered, made.units.numpy()
    coords: dict[str, dict[str, Any]] = {
        "time": {"time": found.time.numpy(), "session": found.session.numpy(), "trial": found.trial.numpy()},
        "unit": {column: np.asarray(values)[kept] for column, values in found.units.items()},
    }
    if found.features:
        coords["feature"] = {"name": list(found.features), "mean": found.scale[0].numpy(),
                             "scale": found.scale[1].numpy()}  # fmt: skip
    return coords


def _filled(result: BiClusterResult, values: dict[str, Tensor]) -> BiClusterResult:
    """Put in what is computed last."""
    changes: dict[str, Any] = dict(values)
    return dataclasses.replace(result, **changes)
