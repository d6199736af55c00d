"""New sessions of known units: matched to the fit, then sampled with units and dynamics fixed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...core.device import highest_precision
from ...core.errors import ContractError, explain
from ...core.random import generator, spawn
from ...core.recording import Recording
from .checks import Gathered, gather, unit_names
from .fitting import hyper_of
from .model import Data, make_data
from .predict import infer_session, snapshot_state
from .result import BiClusterResult

if TYPE_CHECKING:
    from .estimator import BiCluster


def seed_of(result: BiClusterResult) -> int:
    """Seed of the fit."""
    return result.provenance.seed if result.provenance is not None else 0


def blank_data(result: BiClusterResult) -> Data:
    """Data of the sizes of the fit, without counts."""
    like = result.rate.T.to(highest_precision(result.rate.device))
    features = result.coords.get("feature", {}).get("name", [])
    covariates = like.new_zeros(like.shape[1], len(features))
    seen = torch.ones_like(like, dtype=torch.bool)
    return make_data(torch.zeros_like(like), seen, starts=result.first_bin, covariates=covariates)


def replicates(counts: Tensor, result: BiClusterResult) -> Recording:
    """Wrap (draw, unit, time) counts."""
    return Recording(data=counts.mT.to(torch.int32), dims=("draw", "time", "unit"), rate=1 / result.dt,
                     units="spikes/bin", modality="spikes", coords=_unit_table(result))  # fmt: skip


def _unit_table(result: BiClusterResult) -> dict[str, Any]:
    return {"unit": dict(result.coords["unit"])} if "unit" in result.coords else {}


def _recording(rate: Tensor, found: Gathered, result: BiClusterResult) -> Recording:
    """Expected counts (time, unit) on the clock of the counts; trials get their axis back."""
    facts: dict[str, Any] = {"units": "spikes/bin", "modality": "expected counts", "coords": _unit_table(result)}
    n_starts = int(found.starts.sum())
    if n_starts == 1:
        return Recording(data=rate, dims=("time", "unit"), rate=1 / found.dt, t0=float(found.time[0]), **facts)
    if bool((found.time.diff() > 0).all()):
        return Recording(data=rate, dims=("time", "unit"), times=found.time, **facts)
    each = rate.unflatten(0, (n_starts, -1))
    return Recording(data=each, dims=("trial", "time", "unit"), rate=1 / found.dt, t0=float(found.time[0]), **facts)


def known_units(model: BiCluster, found: Gathered) -> Tensor:
    """Order of new units that is that of the fit."""
    result = model.result_
    if not np.isclose(found.dt, result.dt, rtol=1e-6):
        raise ContractError(explain("BiCluster", expected=f"bins of {result.dt:g} s", got=f"{found.dt:g} s"))
    mine, theirs = unit_names(result.coords.get("unit", {})), unit_names(found.units)
    if mine is None or theirs is None:
        if len(found.counts) != len(result.clusters):
            raise ContractError(explain("BiCluster", expected=f"the {len(result.clusters)} units of the fit",
                                        got=f"{len(found.counts)} units"))  # fmt: skip
        return torch.arange(len(found.counts))
    place = {name: k for k, name in enumerate(theirs)}
    missing = [name for name in mine if name not in place]
    if missing:
        raise ContractError(explain("BiCluster", expected="the units of the fit",
                                    got=f"none named {', '.join(missing[:8])}"))  # fmt: skip
    return torch.tensor([place[name] for name in mine])


def scaled_covariates(model: BiCluster, found: Gathered) -> Tensor:
    """Covariates of new data on the scale of the fit."""
    known = model.result_.coords.get("feature", {})
    names = tuple(str(x) for x in known.get("name", ()))
    if found.features != names:
        raise ContractError(explain("BiCluster", expected=f"covariates {names}", got=str(found.features)))
    if not names:
        return found.covariates
    raw = found.covariates * found.scale[1] + found.scale[0]
    return (raw - torch.as_tensor(known["mean"])) / torch.as_tensor(known["scale"])


def infer(model: BiCluster, item: Any, hidden: float, number: int) -> tuple[Recording, Tensor | None]:
    """Rates of one new recording, and the log probability of hidden entries."""
    result = model.result_
    device, dtype = result.rate.device, highest_precision(result.rate.device)
    found = gather((item,), width=model.bin, epochs=model.epochs)
    order = known_units(model, found)
    counts, observed = found.counts[order].to(device, dtype), found.observed[order]
    seed = spawn(seed_of(model.result_), "infer", number)
    places = (
        torch.rand(observed.shape, generator=generator(spawn(seed, "hide")), dtype=torch.float64) < hidden
    ) & observed
    offset = found.offset if len(found.offset) == 1 else found.offset[order]
    covariates = scaled_covariates(model, found).to(device, dtype)
    data = make_data(counts, (observed & ~places).to(device), starts=found.starts.to(device),
                     offset=offset.to(device, dtype), covariates=covariates)  # fmt: skip
    state = snapshot_state(result, dtype=dtype)
    entries = places.flatten().nonzero().flatten().to(device) if hidden else None
    with torch.no_grad():
        rate, score = infer_session(state, data, hyper_of(model), seed=seed, entries=entries, counts=counts)
    return _recording(rate.to(result.rate.dtype), found, result), score
