"""From recordings to what a decoder trains on: trials, their labels, and trials held out by group."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.clock import EDGE
from ..core.contract import Contract
from ..core.device import highest_precision
from ..core.errors import AxisError, ContractError, InputError, TectumWarning, explain
from ..core.random import spawn
from ..core.recording import Recording

DIMS = ("trial", "channel", "time")
STRANGE = 1e3  #: ratio of standard deviations that only another unit explains
TINY = 1e-3  #: standard deviation of EEG in volts and below
ABSENT = ("", "n/a")  #: how tables say that there is no label
AUTOMATIC = 5  #: subjects or sessions from which on they are the groups, if none are named


class Labels(NamedTuple):
    """What is to be decoded."""

    names: tuple[str | int, ...]  #: classes in order
    codes: np.ndarray  #: shape (n_trials,), int64, class of each trial
    column: str  #: trial column they came from, or ""


class Holdout(NamedTuple):
    """Trials to train on and trials to stop by."""

    train: np.ndarray  #: shape (n_train,), int64
    validation: np.ndarray  #: shape (n_validation,), int64; empty without validation


def as_trials(data: Sequence[Any], where: str, *, contract: Contract | None = None) -> tuple[Recording, ...]:
    """Check recordings of trials and return them with axes (trial, channel, time).

    Parameters
    ----------
    data : sequence of containers
        Each with the axes trial, channel and time in any order.
    where : str
        Owner that an error names.
    contract : Contract, optional
        What they must agree with; by default the first of them.

    Raises
    ------
    AxisError, ContractError, InputError
        For other containers or axes, disagreement, NaN, infinity and masked samples.
    """
    found = tuple(_arranged(item, where) for item in data)
    demanded = Contract.of(found[0], axis="channel", window=True) if contract is None else contract
    for rec in found:
        demanded.check(rec, where)
        _check_finite(rec, where)
    return found


def _arranged(item: Any, where: str) -> Recording:
    """Bring the axes of one recording in order."""
    if not isinstance(item, Recording):
        got = type(item).__name__
        raise InputError(explain(where, expected="a Recording (trial, channel, time)", got=got))
    if sorted(item.dims) != sorted(DIMS):
        fix = "cut trials with rec.epochs(events, window) or rec.windows(length)" if "trial" not in item.dims else ""
        raise AxisError(explain(where, expected=f"axes {DIMS}", got=str(item.dims), fix=fix))
    if item.rate is None:
        raise InputError(explain(where, expected="a regular sampling rate", got="irregular times", fix="resample"))
    if 0 in item.shape:
        raise InputError(explain(where, expected="at least one trial, channel and sample", got=str(item.sizes)))
    order = [item.dims.index(d) for d in DIMS]
    mask = None if item.mask is None else item.mask.permute(order)
    return item.with_(data=item.values.permute(order), dims=DIMS, mask=mask)


def _check_finite(rec: Recording, where: str) -> None:
    """Refuse NaN, infinity and masked samples, and name their channels."""
    good = torch.isfinite(rec.values).all(dim=2).all(dim=0).cpu()  # (channel,)
    if not bool(good.all()):
        got = f"NaN or infinity in {_channels(rec, ~good)}"
        fix = "drop these trials or channels, or interpolate"
        raise InputError(explain(where, expected="finite data", got=got, fix=fix))
    if rec.mask is not None and not bool(rec.mask.all()):
        fix = "drop these trials, e.g. rec.isel(trial=...)"
        raise InputError(explain(where, expected="trials without masked samples", got="masked samples", fix=fix))


def _channels(rec: Recording, bad: Tensor) -> str:
    """Name the channels of a mask, the first eight of them."""
    rows, names = np.flatnonzero(bad.numpy()), rec.labels("channel")
    shown = rows[:8] if names is None else names[rows[:8]]
    return f"channel {', '.join(str(x) for x in shown)}" + (" ..." if len(rows) > 8 else "")


def check_varies(data: Sequence[Recording], where: str) -> None:
    """Refuse channels that are constant in all trials, by name.

    Examples
    --------
    >>> check_varies([Recording(data=torch.zeros(2, 1, 8), dims=DIMS, rate=1.0)], "demo")
    Traceback (most recent call last):
    ...
    tectum.core.errors.InputError: demo: expected channels that vary, got constant channel 0; drop it
    """
    low = torch.stack([rec.values.amin((0, 2)) for rec in data]).amin(0)
    high = torch.stack([rec.values.amax((0, 2)) for rec in data]).amax(0)
    still = (low == high).cpu()
    if bool(still.any()):
        got = f"constant {_channels(data[0], still)}"
        raise InputError(explain(where, expected="channels that vary", got=got, fix="drop it"))


def check_alike(data: Sequence[Recording], scale: Tensor | None, where: str) -> None:
    """Refuse new trials whose numbers only another unit explains; warn of channels that stand still.

    Parameters
    ----------
    data : sequence of Recording (trial, channel, time)
        New trials.
    scale : Tensor, shape (channel,), or None
        Spread of each channel in training, if known.
    where : str
        Owner that an error names.

    Raises
    ------
    ContractError
        If the median over channels of the standard deviation is a thousand times that of training, or a thousandth.
    """
    squares = [rec.values.movedim(1, 0).flatten(1).var(1, correction=0) for rec in data]
    spread = torch.stack(squares).mean(0).sqrt()  # (channel,)
    usual = torch.ones_like(spread) if scale is None else scale.to(spread)
    spread, usual = torch.stack([spread, usual]).cpu().double()
    still = spread == 0
    if bool(still.any()) and data[0].sizes["time"] > 1:
        text = f"{where}: constant {_channels(data[0], still)}, on which nothing can be decided; is it connected?"
        warnings.warn(text, TectumWarning, stacklevel=5)
    if scale is None or bool(still.all()):
        return
    ratio = float((spread / usual)[~still].median())
    if not 1 / STRANGE <= ratio <= STRANGE:
        got = f"a standard deviation {ratio:.2g} times that of training, in {data[0].units!r} as it says"
        fix = "correct the unit or the numbers: rec.with_(units=...).to_units(...)"
        raise ContractError(explain(where, expected="the unit of the training data", got=got, fix=fix))


def warn_if_tiny(data: Sequence[Recording], where: str) -> None:
    """Warn of numbers so small (EEG in volts) that a network without normalisation learns nothing."""
    spread = max(float(rec.values.std()) for rec in data)
    if spread < TINY:
        text = (
            f"{where}: the standard deviation is {spread:.2g} {data[0].units}, too small for a network that does not "
        )
        text += "normalise; change the unit, e.g. rec.to_units('uV'), or set normalise='channel'"
        warnings.warn(text, TectumWarning, stacklevel=5)


def stacked(data: Sequence[Recording], device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the trials of all recordings as one tensor (trial, channel, time)."""
    return torch.cat([rec.values.to(device=device, dtype=dtype) for rec in data])


# Labels


def read_labels(data: Sequence[Recording], target: Any, where: str, *, column: str = "") -> tuple[list[Any], str]:
    """Return the label of every trial and the trial column they came from, if any.

    Parameters
    ----------
    data : sequence of Recording
        Trials.
    target : str, array, sequence of arrays or None
        The name of a trial column; the labels of all trials in order; an array for each recording; or None for
        ``column``, or for a column called "label".
    where : str
        Owner that an error names.
    column : str, optional
        Column to use if ``target`` is None.
    """
    if target is None:
        columns = [
            name for name in (column, "label") if name and all(name in rec.coords.get("trial", {}) for rec in data)
        ]
        if not columns:
            expected = "labels: one for each trial, or the name of a trial column"
            raise InputError(explain(f"{where}(target)", expected=expected, got="none"))
        target = columns[0]
    if isinstance(target, str):
        return [x for rec in data for x in np.asarray(rec.labels("trial", target)).tolist()], target
    parts = _as_list(target)
    if len(parts) == len(data) and all(np.ndim(_as_plain(part)) == 1 for part in parts):
        sizes, wanted = [len(part) for part in parts], [rec.sizes["trial"] for rec in data]
        if sizes != wanted:
            raise InputError(explain(f"{where}(target)", expected=f"{wanted} labels", got=str(sizes)))
        parts = [x for part in parts for x in _as_list(part)]
    total = sum(rec.sizes["trial"] for rec in data)
    if len(parts) != total:
        raise InputError(explain(f"{where}(target)", expected=f"{total} labels", got=str(len(parts))))
    return parts, ""


def _as_plain(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


def _as_list(values: Any) -> list[Any]:
    """Return the entries of an array, tensor or sequence."""
    plain = _as_plain(values)
    if hasattr(plain, "tolist") and np.ndim(plain) > 0:
        return list(np.asarray(plain).tolist())
    if isinstance(plain, Sequence) and not isinstance(plain, (str, bytes)):
        return list(plain)
    raise InputError(explain("target", expected="labels: one for each trial", got=type(values).__name__))


def encode(values: Sequence[Any], where: str, *, names: tuple[str | int, ...] | None = None) -> Labels:
    """Number the classes: text in alphabetical order, integers in numerical order.

    Parameters
    ----------
    values : sequence of str or int
        Label of each trial.
    where : str
        Owner that an error names.
    names : tuple, optional
        The classes known; by default those that occur.

    Examples
    --------
    >>> encode(["yes", "no", "yes"], "demo")
    Labels(names=('no', 'yes'), codes=array([1, 0, 1]), column='')
    """
    plain: list[Any] = [value.item() if isinstance(value, (np.generic, Tensor)) else value for value in values]
    kinds = {type(value) for value in plain}
    if kinds == {bool}:
        plain, kinds = [int(value) for value in plain], {int}
    if kinds not in ({str}, {int}):
        got = " and ".join(sorted(kind.__name__ for kind in kinds)) or "none"
        raise InputError(explain(f"{where}(target)", expected="labels that are all text or all integers", got=got))
    absent = sum(value in ABSENT for value in plain)
    if absent:
        fix = "leave them out: rec.isel(trial=...)"
        raise InputError(
            explain(f"{where}(target)", expected="a label for every trial", got=f"{absent} without", fix=fix)
        )
    known: tuple[str | int, ...] = tuple(sorted(set(plain))) if names is None else names
    if names is None and len(known) < 2:
        raise InputError(explain(f"{where}(target)", expected="at least two classes", got=f"only {known[0]!r}"))
    strange = sorted(set(plain) - set(known))
    if strange:
        expected = f"classes seen in training, {list(known)[:8]}"
        raise InputError(explain(f"{where}(target)", expected=expected, got=str(strange[:8])))
    code = {name: k for k, name in enumerate(known)}
    return Labels(known, np.asarray([code[value] for value in plain], dtype=np.int64), "")


# Groups


def trial_groups(data: Sequence[Recording], group: str | None) -> np.ndarray:
    """Return the group of every trial: what must not be parted between training and validation.

    Parameters
    ----------
    data : sequence of Recording
        Trials, with axes (trial, channel, time).
    group : str or None
        "subject", "session", "trial" or the name of a trial column. None takes subjects if there are five or more,
        else sessions if there are five or more, else the column "block", else single trials.

    Returns
    -------
    array, shape (n_trials,), int64
        Trials whose windows overlap in time are always of one group.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    names = named_groups(data, group)
    _, member = np.unique(np.asarray(names, dtype=str), return_inverse=True)
    bundle, first = [], 0
    for rec in data:
        runs = _overlapping(rec)
        bundle.append(first + runs)
        first += int(runs.max()) + 1
    rows, columns = member, len(names) + np.concatenate(bundle)
    size = len(names) + first
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(size, size))
    found: np.ndarray = connected_components(graph, directed=False)[1][rows]
    return found.astype(np.int64)


def named_groups(data: Sequence[Recording], group: str | None) -> list[str]:
    """Return a text for each trial that its group shares; see :func:`trial_groups`."""
    subject = [rec.subject for rec in data for _ in range(rec.sizes["trial"])]
    session = [f"{rec.subject}\n{rec.session}" for rec in data for _ in range(rec.sizes["trial"])]
    single = [str(k) for k in range(len(subject))]
    kinds = {"subject": subject, "session": session, "trial": single}
    if group is None:
        if all(subject) and len(set(subject)) >= AUTOMATIC:
            return subject
        if len(set(session)) >= AUTOMATIC:
            return session
        group = "block" if all("block" in rec.coords.get("trial", {}) for rec in data) else "trial"
    if group in kinds and not any(group in rec.coords.get("trial", {}) for rec in data):
        return kinds[group]
    values = [np.asarray(rec.labels("trial", group)).tolist() for rec in data]
    return [f"{rec.subject}\n{rec.session}\n{v}" for rec, column in zip(data, values, strict=True) for v in column]


def _overlapping(rec: Recording) -> np.ndarray:
    """Number the runs of trials whose windows overlap in time: int64 (n_trials,)."""
    table, n = rec.coords.get("trial", {}), rec.sizes["trial"]
    if "start" not in table or rec.rate is None:
        return np.arange(n)
    begin = np.asarray(table["start"], dtype=np.float64) + rec.t0
    end = begin + rec.sizes["time"] / rec.rate
    order = np.argsort(begin, kind="stable")
    reached = np.maximum.accumulate(end[order])
    fresh = np.concatenate([[False], begin[order][1:] >= reached[:-1] - EDGE / rec.rate])
    runs = np.empty(n, dtype=np.int64)
    runs[order] = fresh.cumsum()
    return runs


def hold_out(groups: np.ndarray, codes: np.ndarray, *, share: float, seed: int, where: str) -> Holdout:
    """Set whole groups aside for validation, about ``share`` of the groups of each class, at least one of each.

    Parameters
    ----------
    groups, codes : array, shape (n_trials,), int64
        Group and class of each trial.
    share : float
        Share to set aside; 0 sets none aside.
    seed : int
        The choice depends on it and on the groups.
    where : str
        Owner that an error names.

    Raises
    ------
    InputError
        If there is one group only, or training would lack a class.

    Examples
    --------
    >>> hold_out(np.arange(8) // 2, np.arange(8) % 2, share=0.25, seed=0, where="demo").validation
    array([0, 1])
    """
    rows = np.arange(len(groups))
    if share == 0:
        return Holdout(rows, rows[:0])
    names, member = np.unique(groups, return_inverse=True)
    fix = "name a trial column with group=, or set validation=0"
    if len(names) < 2:
        raise InputError(explain(f"{where}(validation)", expected="two groups of trials or more", got="one", fix=fix))
    counts = np.zeros((len(names), int(codes.max()) + 1), dtype=np.int64)  # (group, class)
    np.add.at(counts, (member, codes), 1)
    order = np.random.default_rng(spawn(seed, "validation")).permutation(len(names))
    major = counts.argmax(1)[order]
    aside = [g for c in np.unique(major) for g in order[major == c][: _how_many(int((major == c).sum()), share)]]
    held = np.isin(member, aside or order[:1])
    if len(np.unique(codes[~held])) < len(np.unique(codes)):
        got = "a class of which all trials would be held out"
        raise InputError(explain(f"{where}(validation)", expected="every class in training", got=got, fix=fix))
    return Holdout(rows[~held], rows[held])


def _how_many(n: int, share: float) -> int:
    """Return how many of ``n`` groups to set aside: at least one, and not all."""
    return min(max(1, round(share * n)), n - 1)


# Scores


def confusion_counts(truth: Tensor, decided: Tensor, n_classes: int) -> Tensor:
    """Count decisions: int64 Tensor (n_classes, n_classes), rows are the truth.

    Examples
    --------
    >>> confusion_counts(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    counts = torch.zeros(n_classes * n_classes, dtype=torch.int64, device=truth.device)
    cell = truth * n_classes + decided
    return counts.scatter_add(0, cell, torch.ones_like(cell)).reshape(n_classes, n_classes)


def mean_recall(counts: Tensor) -> Tensor:
    """Return balanced accuracy, the mean over the classes that occur of the share decided rightly: Tensor ()."""
    found = counts.to(highest_precision(counts.device))
    trials = found.sum(1)
    recall = found.diagonal() / trials.clamp(min=1)
    return recall.sum() / (trials > 0).sum()
