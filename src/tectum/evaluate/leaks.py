"""Tests of an evaluation itself: nothing of the test trials may reach the training.

:func:`find_leaks` disturbs the test trials of one split and looks whether the decoder notices: it proves, for instance,
that a normaliser was learnt from training trials only. :func:`audit` runs a whole evaluation on data in which there is
nothing to find.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tectum.core.errors import InputError, explain
from tectum.core.estimator import as_tuple
from tectum.core.random import resolve_seed, spawn
from tectum.core.recording import Recording
from tectum.datasets.simulate.eeg import null_blocks, rhythm_windows
from tectum.nn.trials import as_trials, encode, read_labels

from .decoding import fresh, take_trials
from .splits import Fold, check_disjoint

#: ``procedure(data, labels, train, test)`` returns the probabilities of the test trials, (trial, class).
Procedure = Callable[[list[Recording], list[Any], np.ndarray, np.ndarray], Tensor]
#: ``protocol(data)`` evaluates on recordings whose trial column "label" holds the classes; returns balanced accuracy.
Protocol = Callable[[list[Recording]], float]

LEAKS = {
    "samples": "training and test share samples",
    "labels": "labels of test trials change their predictions",
    "data": "other test trials change the prediction of a trial: something was learnt from test data",
}


def of_decoder(decoder: Any) -> Procedure:
    """Return the procedure of a decoder: fit to the training trials, predict the test trials."""

    def procedure(data: list[Recording], labels: list[Any], train: np.ndarray, test: np.ndarray) -> Tensor:
        fitted = fresh(decoder).fit(take_trials(data, train), [labels[i] for i in train])
        found = fitted.predict_proba(take_trials(data, test))
        return found if isinstance(found, Tensor) else torch.from_numpy(np.asarray(found))

    return procedure


def find_leaks(
    procedure: Procedure | Any, data: Any, target: Any = None, *, fold: Fold, tol: float = 1e-5
) -> tuple[str, ...]:
    """Disturb the test trials of a split and tell what the procedure notices of it.

    Parameters
    ----------
    procedure : callable or decoder
        ``procedure(data, labels, train, test)`` is given *all* trials, their labels and the rows of the split; it
        returns the probabilities of the test trials. It must be reproducible. A decoder stands for fit and predict.
    data, target
        See :func:`cross_predict`.
    fold : Fold
        The split.
    tol : float, default 1e-5
        Largest change of a probability that counts as none.

    Returns
    -------
    tuple of str
        Among "samples" (training and test overlap in time), "labels" (labels of test trials are used), "data" (what one
        test trial is decided depends on the others, as when a normaliser, a filter of channels or a projection was
        learnt before the split); empty if none is found.

    Raises
    ------
    InputError
        If the procedure gives other numbers when it is repeated.
    """
    where = "find_leaks"
    run = of_decoder(procedure) if hasattr(procedure, "predict_proba") else procedure
    found = list(as_trials(as_tuple(data, where), where))
    values, _ = read_labels(found, target, where)
    known = encode(values, where)
    train, test = np.asarray(fold.train), np.asarray(fold.test)
    if len(test) < 2:
        raise InputError(explain(where, expected="two test trials or more", got=str(len(test))))
    base = run(found, values, train, test)
    if not _same(run(found, values, train, test), base, tol):
        raise InputError(explain(where, expected="a reproducible procedure", got="other numbers", fix="fix its seed"))
    other = list(values)
    for row in test:
        other[row] = known.names[(int(known.codes[row]) + 1) % len(known.names)]
    kept = len(test) // 2
    leaks = {
        "samples": not _are_disjoint(found, train, test),
        "labels": not _same(run(found, other, train, test), base, tol),
        "data": not _same(run(_disturbed(found, test[kept:]), values, train, test)[:kept], base[:kept], tol),
    }
    return tuple(name for name, is_there in leaks.items() if is_there)


def check_no_leaks(procedure: Procedure | Any, data: Any, target: Any = None, *, fold: Fold, tol: float = 1e-5) -> None:
    """Raise InputError that says what :func:`find_leaks` found, if anything."""
    found = find_leaks(procedure, data, target, fold=fold, tol=tol)
    if found:
        got = "; ".join(LEAKS[name] for name in found)
        raise InputError(explain("check_no_leaks", expected="an evaluation that does not leak", got=got))


def _same(found: Tensor, wanted: Tensor, tol: float) -> bool:
    return found.shape == wanted.shape and bool(((found - wanted).abs() <= tol).all())


def _are_disjoint(data: Sequence[Recording], train: np.ndarray, test: np.ndarray) -> bool:
    """Tell whether no training trial shares a trial, or time, with a test trial."""
    if len(np.intersect1d(train, test)):
        return False
    with_clock = [rec for rec in data if "start" in rec.coords.get("trial", {})]
    if len(with_clock) < len(data):
        return True
    for one in take_trials(data, np.sort(train)):
        for other in take_trials(data, np.sort(test)):
            try:
                check_disjoint(one, other)
            except InputError:
                return False
    return True


def _disturbed(data: Sequence[Recording], rows: np.ndarray) -> list[Recording]:
    """Make some trials a hundred times as large, with an offset of their channels, and turn them round in time."""
    first = np.cumsum([0, *(rec.sizes["trial"] for rec in data)])
    made = []
    for a, b, rec in zip(first[:-1], first[1:], data, strict=True):
        own = torch.from_numpy(rows[(rows >= a) & (rows < b)] - a).to(rec.device)
        x = rec.values.clone()
        ramp = torch.arange(x.shape[1], device=x.device, dtype=x.dtype)[:, None]
        x[own] = 100 * x[own].flip(2) + ramp * x.abs().mean()
        made.append(rec.with_(data=x))
    return made


# Data without effect


class World(NamedTuple):
    """Scores of an evaluation on data in which there is nothing to find."""

    scores: Tensor  #: shape (repeat,)
    mean: float
    limit: float  #: what the mean of an honest evaluation seldom exceeds
    leaks: bool


def _overlap(seed: int) -> list[Recording]:
    return [null_blocks(24, hop=0.25, random_state=seed)]


def _drift(seed: int) -> list[Recording]:
    return [null_blocks(24, memory=30.0, random_state=seed)]


def _subjects(seed: int) -> list[Recording]:
    return rhythm_windows(16, n_channels=6, n_windows=8, length=2.0, rate=64.0, random_state=seed).recordings


#: Kinds of data without effect: windows that overlap, noise that drifts, subjects who differ.
WORLDS: Mapping[str, Callable[[int], list[Recording]]] = {"overlap": _overlap, "drift": _drift, "subjects": _subjects}


def audit(
    protocol: Protocol,
    worlds: Sequence[str] = ("overlap", "drift", "subjects"),
    *,
    repeats: int = 5,
    random_state: int | None = 0,
) -> dict[str, World]:
    """Run a whole evaluation on data in which there is nothing to find, and flag it if it finds something.

    Parameters
    ----------
    protocol : callable
        ``protocol(data)`` evaluates on a list of recordings of two classes and returns a balanced accuracy. The trial
        column "label" holds the classes; of "overlap" and "drift", which are one recording of one subject, "block"
        tells stretches of one label; "subjects" has a recording for each of 16 subjects, each of one class.
    worlds : sequence of {"overlap", "drift", "subjects"}
        Windows that share samples; noise with a memory of 30 s; subjects who differ from each other.
    repeats : int, default 5
        Draws of each kind of data.
    random_state : int or None, default 0
        Seed.

    Returns
    -------
    dict of str to World
        By kind of data. ``leaks`` tells whether the mean exceeds chance (0.5) by 0.1 and by three standard errors.
    """
    unknown = [name for name in worlds if name not in WORLDS]
    if unknown or repeats < 2:
        got = f"{unknown or list(worlds)}, repeats={repeats}"
        raise InputError(explain("audit", expected=f"worlds among {list(WORLDS)} and 2 repeats or more", got=got))
    seed = resolve_seed(random_state)
    return {name: _judged([float(protocol(WORLDS[name](spawn(seed, name, k)))) for k in range(repeats)])
            for name in worlds}  # fmt: skip


def _judged(values: list[float]) -> World:
    scores = torch.tensor(values, dtype=torch.float64)
    mean, error = float(scores.mean()), float(scores.std()) / len(values) ** 0.5
    limit = 0.5 + max(0.1, 3 * error)
    return World(scores, mean, limit, mean > limit)
