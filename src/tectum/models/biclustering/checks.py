"""From containers to counts of matched units: every check of what comes in, and the message of each."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core import clock
from ...core.errors import AxisError, InputError, TectumWarning, explain
from ...core.recording import Recording
from ...core.session import Session
from ...core.spikes import Spikes

FEW_SPIKES, MANY_COUNTS, FEW_BINS = 5, 10_000, 10
ROUNDING = 1e-4  # counts that went through float32 arithmetic are still counts


@dataclass(frozen=True, eq=False)
class Gathered:
    """Counts of all sessions, one after the other along time (on the CPU)."""

    counts: Tensor
    """(unit, time) float64, 0 where missing."""
    observed: Tensor
    """(unit, time) bool."""
    starts: Tensor
    """(time,) bool."""
    offset: Tensor
    """(unit or 1, time) float64 log exposure."""
    covariates: Tensor
    """(time, feature) float64, standardised."""
    time: Tensor
    """(time,) float64 start of every bin on its session's clock, s."""
    session: Tensor
    """(time,) int64."""
    trial: Tensor
    """(time,) int64 running number of the trial or epoch."""
    dt: float
    units: Mapping[str, Any]
    features: tuple[str, ...]
    scale: Tensor
    """(2, feature) mean and standard deviation of the covariates."""


def gather(data: tuple[Any, ...], *, width: float | None, epochs: str | None, where: str = "BiCluster") -> Gathered:
    """Read the counts of all sessions and match their units.

    Parameters
    ----------
    data : tuple of Spikes, Recording or Session
        One a session.
    width : float or None
        Width of a bin in s, for spikes.
    epochs : str or None
        Name of intervals at which paths and states start anew; bins outside are left out.
    where : str
        Owner named in messages.

    Returns
    -------
    Gathered

    Raises
    ------
    AxisError, InputError
        For anything that is not a table of counts of the same units.
    """
    parts = [_session(item, k, width, epochs, where) for k, item in enumerate(data)]
    first = parts[0]
    for k, part in enumerate(parts[1:], 1):
        _same_units(first, part, k, where)
    order = [_order(first, part) for part in parts]
    covariates = torch.cat([p.covariates for p in parts])
    scale = covariates[:2]
    if covariates.shape[1]:
        scale = torch.stack([covariates.mean(0), covariates.var(0, correction=0).sqrt().clamp(min=1e-12)])
    trial = torch.cat([p.starts for p in parts]).cumsum(0) - 1
    return Gathered(
        torch.cat([p.counts[o] for p, o in zip(parts, order, strict=True)], 1),
        torch.cat([p.observed[o] for p, o in zip(parts, order, strict=True)], 1),
        torch.cat([p.starts for p in parts]),
        torch.cat([p.offset.expand(len(o), -1)[o] for p, o in zip(parts, order, strict=True)], 1),
        (covariates - scale[0]) / scale[1], torch.cat([p.time for p in parts]),
        torch.cat([p.session for p in parts]), trial, first.dt, first.units, first.features, scale,
    )  # fmt: skip


def _session(item: Any, number: int, width: float | None, epochs: str | None, where: str) -> Gathered:
    """Read one session."""
    rec, covariates, exposure = _parts(item, width, where)
    name = f"{where} (session {number})" if number else where
    counts, observed, starts = _counts(rec, name)
    n_time = counts.shape[1]
    table, features = _covariates(covariates, rec, n_time, name)
    offset = _exposure(exposure, rec, counts.shape, name)
    dt = 1 / rec.rate if rec.rate else float(rec.time.diff().median())
    n_trials = n_time // rec.sizes["time"]
    time = rec.time.repeat(n_trials)
    keep = torch.arange(n_time)
    if epochs is not None:
        keep, starts = _epochs(rec, epochs, n_trials, name)
    if len(keep) < FEW_BINS:
        got = f"shape {tuple(counts.shape)} (unit, bin)"
        raise InputError(explain(name, expected=f"at least {FEW_BINS} bins", got=got))
    return Gathered(counts[:, keep], observed[:, keep], starts[keep], offset[..., keep], table[keep], time[keep],
                    torch.full((len(keep),), number), torch.zeros(0), dt, dict(rec.coords.get("unit", {})), features,
                    torch.zeros(0))  # fmt: skip


def _parts(item: Any, width: float | None, where: str) -> tuple[Recording, dict[str, Recording], Recording | None]:
    """Split a session into counts, covariates and log exposure."""
    if isinstance(item, Session):
        tables = {k: v for k, v in item.items() if isinstance(v, Recording) and "feature" in v.dims}
        exposure = item.get("log_exposure")
        rest = {k: v for k, v in item.items() if k not in {*tables, "log_exposure"}}
        found = [v for v in rest.values() if isinstance(v, Spikes) or (isinstance(v, Recording) and "unit" in v.dims)]
        if len(found) != 1:
            expected = "a Session with one Spikes or count Recording, and covariates with a feature axis"
            raise InputError(explain(where, expected=expected, got=f"{len(found)} such parts in {list(item)}"))
        return _binned(found[0], width, where), tables, exposure if isinstance(exposure, Recording) else None
    return _binned(item, width, where), {}, None


def _binned(item: Any, width: float | None, where: str) -> Recording:
    """Return counts; spikes are binned."""
    if isinstance(item, Spikes):
        if width is None:
            raise InputError(explain(f"{where}.bin", expected="the width of a bin in s for Spikes", got="None",
                                     fix=f"{where}(bin=0.5)"))  # fmt: skip
        return item.bin(width)
    if not isinstance(item, Recording):
        raise InputError(explain(where, expected="Spikes, a count Recording or a Session", got=type(item).__name__))
    if set(item.dims) not in ({"time", "unit"}, {"trial", "time", "unit"}):
        raise AxisError(explain(where, expected="axes ('time', 'unit') or ('trial', 'time', 'unit')",
                                got=str(item.dims), fix="select, reduce or rename axes"))  # fmt: skip
    return item


def _flat(values: Tensor) -> Tensor:
    """Bring (trial, time, unit) to (unit, trial * time)."""
    return values.flatten(0, 1).T.contiguous()


def _counts(rec: Recording, where: str) -> tuple[Tensor, Tensor, Tensor]:
    """Counts (unit, bin), which of them were observed, and first bins."""
    dims = ("trial", "time", "unit") if "trial" in rec.dims else ("time", "unit")
    raw = rec.tensor(*dims).detach().cpu()
    valid = rec.valid().cpu().expand(rec.shape) if rec.mask is not None else None
    observed = torch.ones(raw.shape, dtype=torch.bool)
    if valid is not None:
        observed = valid.permute([rec.dims.index(d) for d in dims])
    if raw.ndim == 2:
        raw, observed = raw.unsqueeze(0), observed.unsqueeze(0)
    n_trials, n_time, n_units = raw.shape
    if n_units < 2 or n_trials * n_time < FEW_BINS:
        got = f"shape {tuple(rec.shape)} of {rec.dims}"
        raise InputError(explain(where, expected=f"at least 2 units and {FEW_BINS} bins", got=got))
    values, observed = _flat(raw.double()), _flat(observed)
    observed = observed & ~values.isnan()
    _refuse_no_counts(torch.where(observed, values, 0.0), where)
    starts = (torch.arange(n_trials * n_time) % n_time) == 0
    return torch.where(observed, values, 0.0).round(), observed, starts


def _refuse_no_counts(values: Tensor, where: str) -> None:
    """Refuse what is no count; warn of what looks like rates or traces."""
    wrong = ~values.isfinite() | (values < 0) | ((values - values.round()).abs() > ROUNDING)
    if bool(wrong.any()):
        unit, bin_ = wrong.nonzero()[0].tolist()
        raise InputError(explain(where, expected="counts (integers >= 0; NaN or mask=False where missing)",
                                 got=f"{float(values[unit, bin_]):g} at unit {unit}, bin {bin_}"))  # fmt: skip
    if float(values.max()) > MANY_COUNTS:
        message = f"{where}: a count of {float(values.max()):g} in one bin; are these traces or rates, not counts?"
        warnings.warn(message, TectumWarning, stacklevel=2)


def _covariates(tables: dict[str, Recording], rec: Recording, n_time: int, where: str
                ) -> tuple[Tensor, tuple[str, ...]]:  # fmt: skip
    """Covariates on the bins of the counts: (bin, feature)."""
    columns, names = [torch.zeros(n_time, 0, dtype=torch.float64)], []
    for name, table in tables.items():
        _same_clock(table, rec, f"{where} (covariates {name!r})")
        dims = ("trial", "time", "feature") if "trial" in table.dims else ("time", "feature")
        values = table.tensor(*dims).detach().cpu().double()
        values = values.flatten(0, -2)
        if len(values) != n_time or not bool(values.isfinite().all()):
            got = f"{len(values)} bins" if len(values) != n_time else "NaN or infinity"
            raise InputError(explain(f"{where} (covariates {name!r})", expected=f"{n_time} finite rows", got=got))
        columns.append(values)
        labels = table.labels("feature")
        names += [f"{name}:{x}" for x in (labels if labels is not None else range(values.shape[1]))]
    return torch.cat(columns, 1), tuple(names)


def _exposure(exposure: Recording | None, rec: Recording, shape: Any, where: str) -> Tensor:
    """Log exposure: (unit or 1, bin)."""
    if exposure is None:
        return torch.zeros(1, shape[1], dtype=torch.float64)
    _same_clock(exposure, rec, f"{where} (log_exposure)")
    dims = ("time", "unit") if "unit" in exposure.dims else ("time",)
    values = exposure.tensor(*dims).detach().cpu().double()
    values = values.T if values.ndim == 2 else values.unsqueeze(0)
    if values.shape[-1] != shape[1] or values.shape[0] not in (1, shape[0]) or not bool(values.isfinite().all()):
        raise InputError(explain(f"{where} (log_exposure)", expected=f"finite, shape {tuple(shape)} (unit, bin)",
                                 got=f"shape {tuple(values.shape)}"))  # fmt: skip
    return values


def _same_clock(other: Recording, rec: Recording, where: str) -> None:
    """Refuse a table whose bins are not those of the counts."""
    if (
        "time" not in other.dims
        or other.sizes["time"] != rec.sizes["time"]
        or not np.allclose(other.time.numpy(), rec.time.numpy(), atol=1e-6)
    ):
        raise InputError(explain(where, expected="the bins of the counts", got="another clock or number of bins",
                                 fix="resample to the bins first"))  # fmt: skip


def _epochs(rec: Recording, name: str, n_trials: int, where: str) -> tuple[Tensor, Tensor]:
    """Bins of the named intervals, and the first of each."""
    if name not in rec.intervals:
        raise InputError(
            explain(f"{where}.epochs", expected=f"intervals among {sorted(rec.intervals)}", got=repr(name))
        )
    if n_trials > 1 or rec.rate is None:
        raise InputError(explain(f"{where}.epochs", expected="one regularly sampled recording", got="trials or times"))
    spans = rec.intervals[name]
    edges = [(clock.to_sample(float(a), rate=rec.rate, t0=rec.t0), clock.to_sample(float(b), rate=rec.rate, t0=rec.t0))
             for a, b in zip(spans.start.tolist(), spans.stop.tolist(), strict=True)]  # fmt: skip
    n_time, last = rec.sizes["time"], 0
    for k, (a, b) in enumerate(edges):
        if not 0 <= a < b <= n_time or a < last:
            got = f"bins {a} to {b} of {n_time}" + (", which overlap the epoch before" if a < last else "")
            raise InputError(explain(f"{where}.epochs", expected="epochs in order, inside the recording, not empty, "
                                     "without overlap", got=f"epoch {k}: {got}"))  # fmt: skip
        last = b
    keep = torch.cat([torch.arange(a, b) for a, b in edges])
    starts = torch.zeros(n_time, dtype=torch.bool)
    starts[[a for a, _ in edges]] = True
    return keep, starts


def unit_names(units: Mapping[str, Any]) -> list[str] | None:
    """Names of units: column "name" or "id"."""
    for column in ("name", "id"):
        if column in units:
            return [str(x) for x in units[column]]
    return None


def _same_units(first: Gathered, other: Gathered, number: int, where: str) -> None:
    """Refuse sessions of different units, covariates or bins."""
    mine, theirs = unit_names(first.units), unit_names(other.units)
    named = mine is not None and theirs is not None
    if len(other.counts) != len(first.counts) or (named and set(mine or []) != set(theirs or [])):
        got = f"{len(other.counts)} units" + (" of other names" if len(other.counts) == len(first.counts) else "")
        raise InputError(explain(f"{where} (session {number})", expected=f"the {len(first.counts)} units of session 0",
                                 got=got, fix="select the shared units, or fit sessions apart"))  # fmt: skip
    if other.features != first.features:
        raise InputError(explain(f"{where} (session {number})", expected=f"covariates {first.features}",
                                 got=str(other.features)))  # fmt: skip
    if not np.isclose(other.dt, first.dt, rtol=1e-6):
        raise InputError(explain(f"{where} (session {number})", expected=f"bins of {first.dt:g} s",
                                 got=f"{other.dt:g} s"))  # fmt: skip


def _order(first: Gathered, other: Gathered) -> Tensor:
    """Order of another session's units that is that of the first."""
    mine, theirs = unit_names(first.units), unit_names(other.units)
    if mine is None or theirs is None:
        return torch.arange(len(first.counts))
    place = {name: k for k, name in enumerate(theirs)}
    return torch.tensor([place[name] for name in mine])


def silent_units(found: Gathered, *, drop: bool, where: str) -> Tensor:
    """Return the units that have spikes; refuse or drop those without, and warn of those with few.

    Parameters
    ----------
    found : Gathered
        Counts.
    drop : bool
        Whether units without a count are dropped.
    where : str
        Owner named in messages.

    Returns
    -------
    Tensor
        int64 indices of the units kept.
    """
    total = (found.counts * found.observed).sum(-1)
    names = unit_names(found.units) or [str(k) for k in range(len(total))]
    silent = [names[k] for k in (total == 0).nonzero().flatten().tolist()]
    if silent and not drop:
        named = ", ".join(silent)
        raise InputError(explain(where, expected="units with at least one count", got=f"none in unit {named}",
                                 fix="drop_silent=True"))  # fmt: skip
    if silent:
        message = f"{where}: dropped {len(silent)} units without counts: {', '.join(silent)}"
        warnings.warn(message, TectumWarning, stacklevel=2)
    few = [names[k] for k in ((total > 0) & (total < FEW_SPIKES)).nonzero().flatten().tolist()]
    if few:
        message = f"{where}: fewer than {FEW_SPIKES} counts in unit {', '.join(few)}; its cluster will be uncertain"
        warnings.warn(message, TectumWarning, stacklevel=2)
    return (total > 0).nonzero().flatten()
