"""From recordings to what Du-IN trains on: subjects and their channels, windows, and windows held out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...core.contract import Contract
from ...core.device import highest_precision
from ...core.errors import AxisError, ContractError, InputError, TectumWarning, explain
from ...core.random import spawn
from ...core.recording import Recording
from ...nn import trials
from ...nn.conv import valid_lengths
from ...nn.standardise import learn_standard
from ...nn.trials import Holdout

EDGE = 1e-9
LEAST = 3  #: trials of a class


class Cohort(NamedTuple):
    """Recordings by subject; every subject has its own channels."""

    names: tuple[str, ...]  #: subjects
    contracts: tuple[Contract, ...]  #: of each subject; without a window
    usable: tuple[np.ndarray, ...]  #: of each subject, bool (channel,): channels that may be used
    trials: tuple[Recording, ...]  #: labelled, (trial, channel, time)
    trials_of: tuple[int, ...]  #: subject of each
    extra: tuple[Recording, ...]  #: unlabelled windows, (trial, channel, time)
    extra_of: tuple[int, ...]  #: subject of each


class Fitting(NamedTuple):
    """What turns the raw channels of a subject into the input of the networks."""

    keep: Tensor  #: (channel,) int64, positions of the channels used
    centre: Tensor  #: (channel,)
    scale: Tensor  #: (channel,)


class Bank(NamedTuple):
    """Windows on the device, standardised and padded to the subject with most channels."""

    x: Tensor  #: (window, channel, time)
    subject: Tensor | None  #: (window,) int64; None with one subject
    mask: Tensor | None  #: (subject, channel) bool, False where padded; None with one subject

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return windows and subjects of some rows."""
        return self.x[rows], None if self.subject is None else self.subject[rows]

    def masks(self, subject: Tensor | None) -> Tensor | None:
        """Return which channels of a batch exist, (batch, channel)."""
        return None if self.mask is None or subject is None else self.mask[subject]


# Recordings


def check_recordings(data: Sequence[Any], where: str) -> tuple[Recording, ...]:
    """Refuse what is no recording with channels and a regular clock."""
    for item in data:
        if not isinstance(item, Recording):
            got = type(item).__name__
            raise InputError(explain(where, expected="a Recording (trial, channel, time)", got=got))
        if set(item.dims) - {"trial"} != {"channel", "time"}:
            raise AxisError(explain(where, expected="axes ('trial', 'channel', 'time')", got=str(item.dims)))
        if item.rate is None:
            raise InputError(explain(where, expected="a regular sampling rate", got="irregular times", fix="resample"))
    return tuple(data)


def gather(
    labelled: Sequence[Recording], unlabelled: Sequence[Recording], where: str, *, on_bad: str, length: float
) -> Cohort:
    """Sort recordings by subject and check that those of one subject agree.

    Parameters
    ----------
    labelled : sequence of Recording, (trial, channel, time)
        Trials.
    unlabelled : sequence of Recording, (channel, time) or with trials
        Anything of the same subjects, or of others.
    where : str
        Owner that errors name.
    on_bad : {"raise", "mask"}
        What becomes of channels that are constant, or not finite.
    length : float
        Longest window to cut from what has no trials, s.
    """
    pieces = [_windows(rec, length) for rec in unlabelled]
    everything = [*labelled, *pieces]
    names, member = _subjects(everything, len(labelled), where)
    contracts, usable, made = [], [], list(everything)
    for k, name in enumerate(names):
        rows = [i for i, m in enumerate(member) if m == k]
        cleaned, good = _cleaned([everything[i] for i in rows], len(labelled), rows, where, on_bad)
        contract = replace(Contract.of(arranged(cleaned[0]), axis="channel"), n_times=None)
        for i, rec in zip(rows, cleaned, strict=True):
            (made[i],) = trials.as_trials([rec], where, contract=contract)
        contracts.append(contract)
        usable.append(good)
        if not good.any():
            raise InputError(explain(where, expected=f"usable channels of subject {name!r}", got="none"))
    rates = sorted({float(c.rate or 0.0) for c in contracts})
    if len(rates) > 1:
        raise InputError(explain(where, expected="one sampling rate", got=f"{rates} Hz", fix="resample"))
    n = len(labelled)
    return Cohort(names, tuple(contracts), tuple(usable), tuple(made[:n]), member[:n], tuple(made[n:]), member[n:])


def arranged(rec: Recording, where: str = "DuIN") -> Recording:
    """Bring the axes of trials in order; refuse what has none."""
    if "trial" not in rec.dims:
        fix = "cut trials with rec.epochs(events, window) or rec.windows(length)"
        raise AxisError(explain(where, expected=f"axes {trials.DIMS}", got=str(rec.dims), fix=fix))
    order = [rec.dims.index(d) for d in trials.DIMS]
    mask = None if rec.mask is None else rec.mask.permute(order)
    return rec.with_(data=rec.values.permute(order), dims=trials.DIMS, mask=mask)


def _windows(rec: Recording, length: float) -> Recording:
    """Cut a recording without trials into windows that overlap by half; windows with missing samples are left out."""
    if "trial" not in rec.dims:
        rate = float(rec.rate or 0.0)
        size = min(length, rec.duration)
        cut = rec.windows(size, hop=max(size / 2, 1 / rate) if size < rec.duration else None)
    else:
        cut = rec
    if cut.mask is not None:
        whole = cut.valid().movedim(cut.dims.index("trial"), 0).flatten(1).all(1).cpu()
        if not bool(whole.all()):
            warnings.warn(f"{int((~whole).sum())} windows with masked samples left out", TectumWarning, stacklevel=2)
        cut = cut.isel(trial=whole.numpy()).with_(mask=None)
    if cut.sizes["trial"] == 0:
        raise InputError(explain("DuIN.fit(unlabelled)", expected="a window without missing samples", got="none"))
    return cut


def _subjects(data: Sequence[Recording], n_labelled: int, where: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the subjects in order of appearance, and that of every recording."""
    given = [rec.subject for rec in data]
    known = list(dict.fromkeys(name for name in given if name))
    if len(known) > 1 and not all(given):
        fix = "rec.with_(subject=...)"
        raise InputError(explain(where, expected="recordings that name their subjects", got="one without", fix=fix))
    names = tuple(known) if known else ("",)
    return names, tuple(names.index(name) if name else 0 for name in given)


def _cleaned(
    data: list[Recording], n_labelled: int, rows: list[int], where: str, on_bad: str
) -> tuple[list[Recording], np.ndarray]:
    """Find the constant and the broken channels of a subject; refuse them, or blank them."""
    size = data[0].sizes["channel"]
    fit = all(rec.sizes["channel"] == size for rec in data)
    if not fit:
        got = sorted({rec.sizes["channel"] for rec in data})
        name = data[0].subject
        raise ContractError(explain(where, expected=f"equal channels of subject {name!r}", got=f"{got} channels"))
    finite = torch.stack([torch.isfinite(_plain(rec)).all(2).all(0).cpu() for rec in data]).all(0)
    low = torch.stack([_plain(rec).amin((0, 2)).cpu() for rec in data])
    high = torch.stack([_plain(rec).amax((0, 2)).cpu() for rec in data])
    varies = (low.amin(0) != high.amax(0)) | ~finite
    good = (finite & varies).numpy()
    if on_bad == "raise" or good.all():
        if finite.all() and not varies.all():
            trials.check_varies([arranged(rec) for rec in data], where)
        return data, np.ones(size, dtype=bool) if on_bad == "raise" else good
    names = data[0].labels("channel")
    bad = np.flatnonzero(~good)
    shown = bad[:8] if names is None else np.asarray(names)[bad[:8]]
    warnings.warn(f"{where}: {len(bad)} constant or broken channels left out: {shown.tolist()}", TectumWarning,
                  stacklevel=2)  # fmt: skip
    keep = torch.from_numpy(good)
    blank = [arranged(rec).with_(data=torch.where(keep.to(rec.device)[:, None], _plain(rec), 0.0)) for rec in data]
    return blank, good


def _plain(rec: Recording) -> Tensor:
    return rec.tensor("trial", "channel", "time")


def check_regions(cohort: Cohort, regions: Sequence[str], where: str) -> Cohort:
    """Restrict the usable channels to some regions, a column of the channels."""
    if not regions:
        return cohort
    usable = []
    for k, good in enumerate(cohort.usable):
        rec = next(r for r, m in zip((*cohort.trials, *cohort.extra), (*cohort.trials_of, *cohort.extra_of),
                                     strict=True) if m == k)  # fmt: skip
        inside = np.isin(np.asarray(rec.labels("channel", "region")).astype(str), list(regions))
        if not (inside & good).any():
            known = sorted(set(np.asarray(rec.labels("channel", "region")).astype(str).tolist()))
            raise InputError(explain(f"{where}(regions)", expected=f"some of {known}", got=str(list(regions))))
        usable.append(good & inside)
    return cohort._replace(usable=tuple(usable))


# Lengths


def patch_samples(patch: float, rate: float, steps: int, where: str) -> int:
    """Return the samples of a patch, a multiple of the steps inside it."""
    size = round(patch * rate)
    if size < steps or abs(size - patch * rate) > 1e-6 * size or size % steps:
        expected = f"a whole multiple of {steps} samples"
        got = f"{patch:g} s at {rate:g} Hz, {patch * rate:g} samples"
        raise InputError(
            explain(f"{where}.patch", expected=expected, got=got, fix="resample, or change patch or steps")
        )
    return size


def check_length(n_times: int, patch: int, where: str, *, crop: bool) -> int:
    """Return the samples of a window that are used: all of them, or with ``crop`` as many whole patches as fit.

    Examples
    --------
    >>> check_length(250, 100, "demo", crop=True)
    200
    """
    below, above = valid_lengths(n_times, patch)
    if n_times % patch and not (crop and n_times >= patch):
        got = f"T={n_times} samples with patches of W={patch}"
        fix = f"nearest valid lengths: {below} and {above}; cut the windows, or set crop=True"
        raise InputError(explain(where, expected="windows of whole patches", got=got, fix=fix))
    return below if n_times % patch else n_times


# Trials set aside


def check_classes(codes: np.ndarray, names: Sequence[Any], where: str) -> None:
    """Refuse classes of fewer than three trials."""
    counts = np.bincount(codes, minlength=len(names))
    few = [f"{names[k]!r}: {counts[k]}" for k in np.flatnonzero(counts < LEAST)]
    if few:
        fix = "merge or drop these classes, or use fewer folds"
        expected = f"at least {LEAST} trials of every class"
        raise InputError(explain(f"{where}(target)", expected=expected, got=", ".join(few[:8]), fix=fix))


def hold_out(groups: np.ndarray, codes: np.ndarray, *, share: float, seed: int, where: str) -> Holdout:
    """Set whole groups of trials aside; where groups hold several classes, so that both sides have all of them.

    Parameters
    ----------
    groups, codes : array, shape (n_trials,), int64
        Group and class of every trial.
    share : float
        Share of the groups to set aside.
    seed : int
        The choice depends on it.
    where : str
        Owner that errors name.

    Raises
    ------
    InputError
        If there is one group, or no choice leaves every class on both sides.

    Examples
    --------
    >>> hold_out(np.arange(12) // 4, np.arange(12) % 2, share=0.3, seed=0, where="demo").validation.tolist()
    [0, 1, 2, 3]
    """
    names, member = np.unique(groups, return_inverse=True)
    pure = all(len(np.unique(codes[member == g])) == 1 for g in range(len(names)))
    if share == 0 or len(names) < 2 or pure:
        return trials.hold_out(groups, codes, share=share, seed=seed, where=where)
    order = np.random.default_rng(spawn(seed, "validation")).permutation(len(names))
    size = min(max(1, round(share * len(names))), len(names) - 1)
    rows = np.arange(len(codes))
    for turn in range(len(names)):
        held = np.isin(member, np.roll(order, -turn)[:size])
        if all(len(np.unique(codes[part])) == codes.max() + 1 for part in (held, ~held)):
            return Holdout(rows[~held], rows[held])
    got = f"{size} of {len(names)} groups"
    fix = "set more or fewer groups aside (validation), name other groups (group), or set validation=0"
    raise InputError(explain(f"{where}(validation)", expected="every class on both sides", got=got, fix=fix))


def runs_of_trials(data: Sequence[Recording], size: int = 10) -> np.ndarray:
    """Number runs of neighbouring trials, at most ten in each recording: int64 (n_trials,)."""
    found, first = [], 0
    for rec in data:
        n = rec.sizes["trial"]
        parts = min(size, n)
        found.append(first + np.arange(n) * parts // n)
        first += parts
    return np.concatenate(found)


def spans(rec: Recording) -> np.ndarray | None:
    """Return start and stop of every trial on the session clock, (trial, 2) in s, if they are known."""
    table = rec.coords.get("trial", {})
    if "start" not in table or rec.rate is None:
        return None
    begin = np.asarray(table["start"], dtype=np.float64) + rec.t0
    return np.stack((begin, begin + rec.sizes["time"] / rec.rate), 1)


def touches(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Tell which spans (n, 2) overlap any of the others (m, 2): bool (n,).

    Examples
    --------
    >>> touches(np.array([[0.0, 1.0], [1.0, 2.0]]), np.array([[1.5, 3.0]])).tolist()
    [False, True]
    """
    both = (one[:, None, 0] < other[None, :, 1] - EDGE) & (other[None, :, 0] < one[:, None, 1] - EDGE)
    return np.asarray(both.any(1))


def split_extra(rec: Recording, share: float, hidden: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Part unlabelled windows: the last ``share`` of them to validate on, the earlier ones to train on.

    Training windows that overlap the validation windows, or the spans ``hidden`` (n, 2) of labelled trials that are
    held out, are dropped.
    """
    n = rec.sizes["trial"]
    last = max(1, round(share * n)) if share > 0 and n > 2 else 0
    train, held = np.arange(n - last), np.arange(n - last, n)
    place = spans(rec)
    if place is not None:
        forbidden = [place[held]] + ([] if hidden is None else [hidden])
        train = train[~touches(place[train], np.concatenate(forbidden))]
    if not len(train):
        raise InputError(explain("DuIN.fit(unlabelled)", expected="windows to train on", got="none outside validation"))
    return train, held


# Tensors


def learn_fitting(rec: Sequence[Tensor], keep: np.ndarray, kind: str) -> Fitting:
    """Learn the normaliser of the channels used from training windows (window, channel, time), all of one length."""
    x = torch.cat(list(rec))
    rows = torch.arange(len(x), device=x.device)
    index = torch.from_numpy(np.flatnonzero(keep)).to(x.device)
    centre, scale = learn_standard(x.index_select(1, index), rows, kind)
    return Fitting(index, centre, scale)


def standardised(x: Tensor, fitting: Fitting, dtype: torch.dtype, clamp: float | None) -> Tensor:
    """Choose channels and normalise: (window, channel, time)."""
    wide = highest_precision(x.device)
    scale, centre = fitting.scale.to(wide), fitting.centre.to(wide)
    made = ((x.index_select(1, fitting.keep).to(wide) - centre[:, None]) / scale[:, None]).to(dtype)
    return made if clamp is None else made.clamp(-clamp, clamp)


def bank_of(parts: Sequence[Tensor], subjects: Sequence[int], n_channels: Sequence[int]) -> Bank:
    """Join windows (window, channel, time) of recordings; pad subjects with fewer channels by zeros."""
    widest = max(n_channels)
    x = torch.cat([torch.nn.functional.pad(p, (0, 0, 0, widest - p.shape[1])) for p in parts])
    if len(n_channels) == 1:
        return Bank(x, None, None)
    sizes = torch.as_tensor([len(p) for p in parts])
    subject = torch.repeat_interleave(torch.as_tensor(list(subjects)), sizes).to(x.device)
    there = torch.arange(widest)[None] < torch.as_tensor(list(n_channels))[:, None]
    return Bank(x, subject, there.to(x.device))
