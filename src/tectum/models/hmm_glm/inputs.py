"""From spikes and count recordings to one padded tensor of sequences: every check of the input happens here."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...core.errors import AxisError, ContractError, InputError, TectumWarning, explain
from ...core.recording import Recording
from ...core.session import Session
from ...core.spikes import Spikes
from ...core.table import Table

WHERE = "HMMGLM"
ROUNDING = 1e-4  # counts read from float files may be off by this much


class Source(NamedTuple):
    """Where a run of sequences came from, for handing results back in the same form."""

    n_sequences: int
    trials: bool  #: whether the recording had a trial axis
    n_time: int
    t0: float  #: s
    subject: str
    session: str


class Sequences(NamedTuple):
    """Spike counts of B sequences, padded at their ends to T bins; N units, C covariates."""

    spikes: Tensor
    """(B, T, N) floating counts, 0 where not observed."""
    mask: Tensor | None
    """(B, T, N) bool, ``False`` = not observed; ``None`` where everything was."""
    lengths: Tensor | None
    """(B,) int64 bins of each sequence; ``None`` where all have T."""
    covariates: Tensor | None
    """(B, T, C)."""
    dt: float
    """Width of a bin, s."""
    units: Table
    """What is known of each unit; has the column "name"."""
    named: bool
    """Whether the units had names of their own."""
    covariate_names: tuple[str, ...]
    sources: tuple[Source, ...]

    @property
    def n_bins(self) -> int:
        """Number of bins of all sequences, without padding."""
        return sum(s.n_sequences * s.n_time for s in self.sources)

    def observed(self) -> Tensor:
        """Return which counts were observed, padding excluded: (B, T, N) bool."""
        seen = torch.ones_like(self.spikes, dtype=torch.bool) if self.mask is None else self.mask
        return seen if self.lengths is None else seen & self.inside().unsqueeze(-1)

    def inside(self) -> Tensor:
        """Return which bins lie within their sequences: (B, T) bool."""
        time = torch.arange(self.spikes.shape[1], device=self.spikes.device)
        if self.lengths is None:
            return torch.ones(self.spikes.shape[:2], dtype=torch.bool, device=self.spikes.device)
        return time < self.lengths.unsqueeze(1)

    def take(self, index: Sequence[int], *, window: slice = slice(None)) -> Sequences:
        """Return some sequences, and of these a window of bins (without their sources)."""
        rows = torch.as_tensor(list(index), device=self.spikes.device)
        start, stop, _ = window.indices(self.spikes.shape[1])
        lengths = None if self.lengths is None else (self.lengths[rows] - start).clamp(0, stop - start)
        tensors = (None if t is None else t[rows][:, start:stop] for t in (self.spikes, self.mask, self.covariates))
        spikes, mask, covariates = tensors
        assert spikes is not None
        return self._replace(spikes=spikes, mask=mask, covariates=covariates, lengths=lengths, sources=())


def gather(
    data: Sequence[Any],
    *,
    bin: float,
    n_lags: int,
    covariates: Sequence[str],
    device: torch.device,
    dtype: torch.dtype,
) -> Sequences:
    """Check recordings, bin spikes, and pad all sequences to one length.

    Parameters
    ----------
    data : sequence of Spikes, Recording or Session
        A recording has axes (time, unit) or (trial, time, unit), in any order, and counts; a session holds one of
        these and the recordings (time, feature) named in ``covariates``, on the same bins.
    bin : float
        Width of the bins of spikes, s.
    n_lags : int
        Bins of history the model needs.
    covariates : sequence of str
        Names of the covariates in every session.
    device, dtype
        Where and how precise.

    Returns
    -------
    Sequences

    Raises
    ------
    InputError, AxisError
        Naming the recording, what is wrong with it and what to do.
    """
    parts = [_split(item, k, bin, covariates) for k, item in enumerate(data)]
    recs = [_time_first(rec, name) for rec, _, name in parts]
    names = [name for _, _, name in parts]
    dt = _one_rate(recs, names)
    units, named = _units(recs, names)
    values = [_counts(rec, name, n_lags) for rec, name in zip(recs, names, strict=True)]
    extra = [_covariates(rec, found, name) for rec, (_, found, name) in zip(recs, parts, strict=True)]
    longest = max(rec.sizes["time"] for rec in recs)
    spikes = torch.cat([_padded(x, longest) for x, _ in values]).to(device=device, dtype=dtype)
    lengths = [rec.sizes["time"] for rec in recs for _ in range(rec.sizes["trial"])]
    masked, ragged = any(not bool(m.all()) for _, m in values), min(lengths) < longest
    mask = torch.cat([_padded(m, longest) for _, m in values]).to(device) if masked else None
    given: Tensor | None = None
    columns: tuple[str, ...] = ()
    if covariates:
        given = torch.cat([_padded(x, longest) for x, _ in extra]).to(device=device, dtype=dtype)
        columns = extra[0][1]
    return Sequences(
        spikes, mask, torch.tensor(lengths).to(device) if ragged else None, given, dt, units, named, columns,
        tuple(_source(rec, item) for rec, (item, _, _) in zip(recs, parts, strict=True)),
    )  # fmt: skip


# One recording at a time


def _split(item: Any, k: int, width: float, covariates: Sequence[str]) -> tuple[Recording, list[Recording], str]:
    """Return the counts, the covariates and a name for messages of one item."""
    label = "/".join(x for x in (getattr(item, "subject", ""), getattr(item, "session", "")) if x)
    name = f"{WHERE}, recording {k}" + (f" ({label})" if label else "")
    if isinstance(item, Session):
        missing = [c for c in covariates if c not in item]
        if missing:
            got = f"a session with {sorted(item)}"
            raise InputError(explain(name, expected=f"covariates {missing}", got=got))
        found = [item[c] for c in covariates]
        wrong = [c for c, x in zip(covariates, found, strict=True) if not isinstance(x, Recording)]
        if wrong:
            raise InputError(explain(name, expected="covariates that are recordings", got=f"other types: {wrong}"))
        return _counted(_main(item, covariates, name), width, name), found, name  # type: ignore[return-value]
    if covariates:
        fix = "pass a Session that holds the spikes and the covariates"
        got = type(item).__name__
        raise InputError(explain(name, expected=f"a session with covariates {list(covariates)}", got=got, fix=fix))
    return _counted(item, width, name), [], name


def _main(session: Session, covariates: Sequence[str], name: str) -> Any:
    """The spikes, or the only recording of counts, of a session."""
    trains = [x for x in session.values() if isinstance(x, Spikes)]
    dense = [x for c, x in session.items() if isinstance(x, Recording) and c not in covariates]
    found = trains or dense
    if len(found) != 1:
        got = f"{len(found)} in {sorted(session)}"
        raise InputError(explain(name, expected="one Spikes or one Recording of counts", got=got, fix="pass it alone"))
    return found[0]


def _counted(item: Any, width: float, name: str) -> Recording:
    """Bin spikes; refuse what is neither spikes nor a recording."""
    if isinstance(item, Spikes):
        return item.bin(width)
    if not isinstance(item, Recording):
        raise InputError(explain(name, expected="Spikes or a Recording of counts", got=type(item).__name__))
    return item


def _time_first(rec: Recording, name: str) -> Recording:
    """Return a recording with axes (trial, time, unit)."""
    if set(rec.dims) not in ({"time", "unit"}, {"trial", "time", "unit"}):
        extra = [d for d in rec.dims if d not in ("trial", "time", "unit")]
        fix = f"select or reduce {extra[0]}, e.g. rec.isel({extra[0]}=0)" if extra else "name the axes"
        expected = "axes ('time', 'unit') or ('trial', 'time', 'unit')"
        raise AxisError(explain(name, expected=expected, got=f"{rec.dims} of shape {tuple(rec.shape)}", fix=fix))
    if "trial" in rec.dims:
        data, mask = (_ordered(rec, x) for x in (rec.values, None if rec.mask is None else rec.valid()))
    else:
        data, mask = (
            None if x is None else x.permute([rec.dims.index(d) for d in ("time", "unit")]).unsqueeze(0)
            for x in (rec.values, None if rec.mask is None else rec.valid())
        )
    return rec.with_(data=data, mask=mask, dims=("trial", "time", "unit"))


def _ordered(rec: Recording, x: Tensor | None) -> Tensor | None:
    return None if x is None else x.permute([rec.dims.index(d) for d in ("trial", "time", "unit")])


def _counts(rec: Recording, name: str, n_lags: int) -> tuple[Tensor, Tensor]:
    """Counts (trial, time, unit), 0 where not observed, and which were observed."""
    if rec.units not in ("spikes/bin", "a.u."):
        fix = "bin the spikes: spikes.bin(0.02)"
        raise InputError(explain(name, expected="counts in spikes/bin", got=f"values in {rec.units!r}", fix=fix))
    n_trials, n_time, n_units = rec.shape
    if n_trials < 1 or n_units < 1 or n_time <= n_lags:
        expected = f"(trial >= 1, time > {n_lags} lags, unit >= 1)"
        raise InputError(explain(name, expected=expected, got=f"shape {tuple(rec.shape)}",
                                 fix="record longer, or use fewer lags or shorter bins"))  # fmt: skip
    values, seen = rec.values, rec.valid()
    if not values.is_floating_point():
        values = values.to(torch.float32)
    checks = {
        "finite counts (NaN only where the mask is False)": ~values.isfinite(),
        "counts of at least 0": values < 0,
        "integer counts": (values - values.round()).abs() > ROUNDING,
    }
    for expected, wrong in checks.items():
        bad = (wrong & seen).nonzero()
        if len(bad):
            place = bad[0].tolist()
            value = float(values[tuple(place)])
            fix = "mark missing bins in the mask of the recording" if value != value else ""
            where = "trial {}, bin {}, unit {}".format(*place)
            raise InputError(explain(name, expected=expected, got=f"{value:g} at {where}", fix=fix))
    return values.round().where(seen, 0.0), seen


def _covariates(rec: Recording, found: Sequence[Recording], name: str) -> tuple[Tensor, tuple[str, ...]]:
    """Covariates (trial, time, C) and their names."""
    columns: list[str] = []
    parts: list[Tensor] = []
    for given in found:
        x = given.values if "trial" in given.dims else given.values.unsqueeze(0)
        dims = given.dims if "trial" in given.dims else ("trial", *given.dims)
        rest = [d for d in dims if d not in ("trial", "time")]
        same = given.rate is not None and bool(np.isclose(given.rate, rec.rate or 0.0, rtol=1e-6))
        if len(rest) > 1 or "time" not in dims or not same or abs(given.t0 - rec.t0) > 1e-3 / (rec.rate or 1.0):
            got = f"{given.dims}, {given.rate} Hz from {given.t0:g} s"
            expected = f"covariates (time, feature) on the bins of the counts: {rec.rate:g} Hz from {rec.t0:g} s"
            raise InputError(explain(name, expected=expected, got=got, fix="resample the covariate to the bins"))
        x = x.permute([dims.index(d) for d in ("trial", "time", *rest)]).reshape(*_first_two(x, dims), -1)
        if x.shape[:2] != rec.shape[:2] or not bool(x.isfinite().all()):
            got = f"shape {tuple(x.shape)}" + ("" if bool(x.isfinite().all()) else " with NaN or infinity")
            raise InputError(explain(name, expected=f"finite covariates of {tuple(rec.shape[:2])} bins", got=got))
        labels = given.labels(rest[0]) if rest else None
        columns += [str(v) for v in labels] if labels is not None else [f"covariate {len(columns) + i}" for i in
                                                                       range(x.shape[2])]  # fmt: skip
        parts.append(x)
    if not parts:
        return rec.values.new_zeros(*rec.shape[:2], 0), ()
    return torch.cat([x.to(parts[0]) for x in parts], -1), tuple(columns)


def _first_two(x: Tensor, dims: Sequence[str]) -> tuple[int, int]:
    return x.shape[dims.index("trial")], x.shape[dims.index("time")]


def _source(rec: Recording, item: Any) -> Source:
    return Source(rec.sizes["trial"], "trial" in item.dims, rec.sizes["time"], rec.t0, rec.subject, rec.session)


def _padded(x: Tensor, n_time: int) -> Tensor:
    """Lengthen (trial, time, ...) with zeros at the end."""
    missing = n_time - x.shape[1]
    return x if missing == 0 else torch.cat((x, x.new_zeros(x.shape[0], missing, x.shape[2])), dim=1)


# All recordings together


def _one_rate(recs: Sequence[Recording], names: Sequence[str]) -> float:
    """Width of the bins, s, the same everywhere."""
    for rec, name in zip(recs, names, strict=True):
        if rec.rate is None:
            raise InputError(explain(name, expected="bins of one width", got="irregular times", fix="bin the spikes"))
        if not np.isclose(rec.rate, recs[0].rate or 0.0, rtol=1e-6):
            got = f"{1 / rec.rate:g} s and {1 / (recs[0].rate or 1):g} s"
            raise InputError(explain(name, expected="one width of bins in all recordings", got=got))
    return 1.0 / float(recs[0].rate or 1.0)


def _units(recs: Sequence[Recording], names: Sequence[str]) -> tuple[Table, bool]:
    """Unit table, the same units in all recordings."""
    first = recs[0].labels("unit")
    for rec, name in zip(recs, names, strict=True):
        if rec.sizes["unit"] != recs[0].sizes["unit"]:
            got = f"shapes {tuple(recs[0].shape)} and {tuple(rec.shape)}"
            fix = "fit sessions of different units one by one"
            raise InputError(explain(name, expected="the same units in all recordings", got=got, fix=fix))
        labels = rec.labels("unit")
        if first is not None and labels is not None and list(first) != list(labels):
            got, fix = f"{list(labels)[:5]} after {list(first)[:5]}", "rec.sel(unit=[...])"
            raise InputError(explain(name, expected="the same units in one order", got=got, fix=fix))
    table: dict[str, Any] = dict(recs[0].coords.get("unit", {}))
    table["name"] = [f"unit {i}" for i in range(recs[0].sizes["unit"])] if first is None else [str(x) for x in first]
    return table, first is not None


def check_known(found: Sequences, *, names: Sequence[str], named: bool, dt: float, columns: Sequence[str]) -> None:
    """Refuse new data whose units, bins or covariates are not those of the fit.

    Raises
    ------
    ContractError
        Lists every difference and its repair.
    """
    wrong: list[tuple[str, str]] = []
    units = [str(x) for x in found.units["name"]]
    if len(units) != len(names):
        wrong.append((f"{len(units)} units instead of {len(names)}", "rec.isel(unit=...)"))
    elif named and found.named and units != list(names):
        fix = f"rec.sel(unit={list(names)[:4]}...)" if set(units) == set(names) else "pass the units of the fit"
        wrong.append((f"other units or order: {units[:4]}...", fix))
    if not np.isclose(found.dt, dt, rtol=1e-6):
        wrong.append((f"bins of {found.dt:g} s instead of {dt:g} s", f"spikes.bin({dt:g})"))
    if list(found.covariate_names) != list(columns):
        got = f"covariates {list(found.covariate_names)} instead of {list(columns)}"
        wrong.append((got, "pass the covariates of the fit"))
    if wrong:
        got, fix = "; ".join(d for d, _ in wrong), "; ".join(r for _, r in wrong)
        raise ContractError(explain(WHERE, expected="data like those of the fit", got=got, fix=fix))


def check_activity(found: Sequences, *, link: str) -> None:
    """Refuse data without spikes or too many for the link; warn of silent units and empty sequences.

    Raises
    ------
    InputError
        No spikes at all, or a mean rate of 0.9 per bin or more with the sigmoid link.
    """
    seen = found.observed()
    counts = found.spikes
    total, bins = counts.sum((0, 1)), seen.sum((0, 1)).clamp(min=1)
    rate, many = (total / bins).max(), ((counts > 3) & seen).sum() / seen.sum().clamp(min=1)
    facts = torch.stack([total.sum(), rate, many.to(rate)]).tolist()
    if facts[0] == 0:
        raise InputError(explain(WHERE, expected="spikes", got="counts that are all zero"))
    fix = "use link='softplus' or 'exp', or shorter bins"
    if link == "sigmoid" and facts[1] >= 0.9:
        got = f"{facts[1]:.3g} spikes per bin of the busiest unit"
        raise InputError(explain(f"{WHERE}.link", expected="mean counts below 0.9 with 'sigmoid'", got=got, fix=fix))
    if link == "sigmoid" and facts[2] > 0.01:
        said = f"{WHERE}: {facts[2]:.1%} of the counts are above 3, and a sigmoid is at most 1; {fix}"
        warnings.warn(said, TectumWarning, stacklevel=4)
    silent = (total == 0).tolist()
    if any(silent):
        names = [str(n) for n, quiet in zip(found.units["name"], silent, strict=True) if quiet]
        said = f"{WHERE}: no spike of {', '.join(names[:10])}; couplings from and to silent units mean nothing"
        warnings.warn(said, TectumWarning, stacklevel=4)
    empty = [k for k, n in enumerate(counts.sum((1, 2)).tolist()) if n == 0]
    if empty:
        warnings.warn(f"{WHERE}: no spike at all in sequences {empty[:10]}", TectumWarning, stacklevel=4)
