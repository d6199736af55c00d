"""Cross-validation of decoders: every trial decided by a network that saw nothing of its group."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tectum.core.errors import InputError, explain
from tectum.core.estimator import Estimator, as_tuple
from tectum.core.recording import Recording
from tectum.core.result import Result, Section, axes
from tectum.nn.trials import as_trials, confusion_counts, encode, mean_recall, named_groups, read_labels, trial_groups

from . import classification
from .confidence import Interval, bootstrap_accuracy, group_mean
from .permutation import PermutationTest, permutation_test, recall_of
from .splits import Fold
from .trials import trial_folds

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True, eq=False)
class CrossValidation(Result):
    """What decoders said of trials they had not been trained on.

    Attributes
    ----------
    labels : tuple of str or int
        Classes.
    by : str
        What was never parted between training and test.
    truth : Tensor, shape (trial,), int64
        True class of each tested trial.
    proba : Tensor, shape (trial, label)
        Probabilities.
    fold_of : Tensor, shape (trial,), int64
        Fold in which a trial was tested.
    fold_score : Tensor, shape (fold,), float64
        Balanced accuracy in each fold.

    The coordinates of the trial axis are "row" (place among the trials given), "subject", "session" and "group".
    """

    labels: tuple[str | int, ...]
    by: str
    truth: Tensor = axes("trial")
    proba: Tensor = axes("trial", "label")
    fold_of: Tensor = axes("trial")
    fold_score: Tensor = axes("fold")

    @property
    def decided(self) -> Tensor:
        """Most probable class of each trial: Tensor (trial,), int64."""
        return self.proba.argmax(1)

    @property
    def chance(self) -> float:
        """Balanced accuracy of guessing: 1 / classes."""
        return 1 / len(self.labels)

    @property
    def groups(self) -> list[str]:
        """Group of each trial."""
        return [str(g) for g in self.coords["trial"]["group"]]

    def accuracy(self, *, balanced: bool = True, level: float = 0.95, random_state: int | None = 0) -> Interval:
        """Return (balanced) accuracy over all trials; the interval resamples whole groups.

        Of folds by "time" and "trial" windows that overlap are one group and others count as independent: noise that
        drifts makes that interval too narrow.
        """
        return bootstrap_accuracy(self.truth, self.decided, groups=self.groups, balanced=balanced, level=level,
                                  random_state=random_state)  # fmt: skip

    def subject_accuracy(self, *, level: float = 0.95) -> Interval:
        """Return the mean over groups of the share of right trials, with the Student interval over groups."""
        return group_mean((self.truth == self.decided).double(), self.groups, level=level)

    def test(self, *, draws: int = 1000, random_state: int | None = 0) -> PermutationTest:
        """Shuffle the labels against the decisions, from group to group or inside groups as the design allows."""
        statistic = recall_of(self.decided.cpu(), len(self.labels))
        return permutation_test(statistic, self.truth.cpu(), groups=self.groups, draws=draws, random_state=random_state)

    def pooled(self, *, vote: bool = False) -> classification.Pooled:
        """Return one decision a group, where every group is of one class: subjects who are ill or not."""
        return classification.pool(self.truth, self.proba, self.groups, vote=vote)

    def plots(self) -> Mapping[str, Callable[..., Axes]]:
        """Return the kinds of figure."""
        from tectum.plot import decoding

        def confusion(ax: Axes | None = None, **options: Any) -> Axes:
            counts = confusion_counts(self.truth, self.decided, len(self.labels))
            return decoding.confusion(counts, self.labels, ax=ax, **options)

        def groups(ax: Axes | None = None, **options: Any) -> Axes:
            right = (self.truth == self.decided).double()
            return decoding.strip(right, self.groups, chance=self.chance, name=self.by, ax=ax, **options)

        def calibration(ax: Axes | None = None, **options: Any) -> Axes:
            found = classification.reliability(self.truth, self.proba)
            return decoding.calibration(found.confidence, found.accuracy, found.trials, ax=ax, **options)

        def roc(ax: Axes | None = None, **options: Any) -> Axes:
            found = {str(name): classification.roc_curve((self.truth == k).long(), self.proba[:, k])
                     for k, name in enumerate(self.labels)}  # fmt: skip
            shown = dict(list(found.items())[1:]) if len(found) == 2 else found
            return decoding.roc({name: (curve.x, curve.y) for name, curve in shown.items()}, ax=ax, **options)

        return {"confusion": confusion, "groups": groups, "roc": roc, "calibration": calibration}

    def sections(self) -> list[Section]:
        """Return the parts of a report."""
        found, test = self.accuracy(), self.test()
        n_groups, p = len(set(self.groups)), f"p = {test.p:.3g} by {len(test.null)} permutations"
        text = f"{len(self.truth)} trials in {n_groups} groups by {self.by}, {len(self.fold_score)} folds: "
        text += "no group was in training and in test. "
        text += f"Balanced accuracy {found.estimate:.3f}, 95% interval over groups "
        text += f"{found.low:.3f} to {found.high:.3f}; chance {self.chance:.3f}; {p}."
        rows = [(k, f"{float(v):.3f}") for k, v in enumerate(self.fold_score)]
        figures = tuple((f"{kind.capitalize()}.", lambda kind=kind: self.plot(kind)) for kind in self.plots())
        return [
            Section(title="Cross-validation", text=text, table=(("fold", "balanced accuracy"), *rows), figures=figures)
        ]


class Trials(NamedTuple):
    """Checked recordings with labels, and their folds."""

    data: tuple[Recording, ...]
    values: list[Any]  #: label of each trial
    codes: np.ndarray  #: shape (n_trials,), int64
    labels: tuple[str | int, ...]
    folds: list[Fold]
    by: str

    def part(self, rows: np.ndarray) -> tuple[list[Recording], list[Any]]:
        """Return some of the trials as recordings, and their labels."""
        return take_trials(self.data, rows), [self.values[i] for i in rows]


def take_trials(data: Sequence[Recording], rows: np.ndarray) -> list[Recording]:
    """Return trials by their place among all trials, in that order, as recordings that keep subject and session.

    Examples
    --------
    >>> rec = Recording(data=torch.zeros(3, 1, 4), dims=("trial", "channel", "time"), rate=1.0)
    >>> [part.sizes["trial"] for part in take_trials([rec, rec], np.array([1, 2, 3]))]
    [2, 1]
    """
    first = np.cumsum([0, *(rec.sizes["trial"] for rec in data)])
    own = [rows[(rows >= a) & (rows < b)] - a for a, b in zip(first[:-1], first[1:], strict=True)]
    return [rec.isel(trial=chosen) for rec, chosen in zip(data, own, strict=True) if len(chosen)]


def prepare(
    data: Any, target: Any, *, folds: int, by: str | None, gap: float, random_state: int | None, where: str
) -> Trials:
    """Check recordings and labels and split them; see :func:`cross_predict`."""
    found = as_trials(as_tuple(data, where), where)
    values, _ = read_labels(found, target, where)
    known = encode(values, where)
    by = _chosen(found, by, folds, where)
    split = trial_folds(found, folds, by=by, labels=values, gap=gap, random_state=random_state)
    return Trials(found, values, known.codes, known.names, split, by)


def _chosen(data: Sequence[Recording], by: str | None, folds: int, where: str) -> str:
    """Return what is never parted: subjects, if there are enough of them; nothing else is assumed."""
    if by is not None:
        return by
    subjects = {rec.subject for rec in data if rec.subject}
    if all(rec.subject for rec in data) and isinstance(folds, int) and len(subjects) >= max(folds, 2):
        return "subject"
    got = f"{len(subjects)} subjects for {folds} folds, and no by="
    fix = "say by='session', by='time', by='trial', or by= a trial column such as 'block'"
    raise InputError(explain(where, expected="groups that are never parted", got=got, fix=fix))


def fresh(estimator: Any) -> Any:
    """Return an unfitted copy of an estimator, ours or of scikit-learn's kind."""
    if isinstance(estimator, Estimator):
        return type(estimator)(**estimator.get_params())
    return copy.deepcopy(estimator)


def cross_predict(
    decoder: Any,
    data: Any,
    target: Any = None,
    *,
    folds: int = 5,
    by: str | None = None,
    gap: float = 0.0,
    random_state: int | None = 0,
) -> CrossValidation:
    """Let decoders decide trials of groups they have not seen.

    Parameters
    ----------
    decoder : Decoder or other object
        With ``fit(data, target)`` and ``predict_proba(data)``; it is copied, not changed.
    data : Recording or list of Recording, dims (trial, channel, time)
        Trials.
    target : array, sequence of arrays or str, optional
        Labels or the trial column that holds them, as for :meth:`Decoder.fit`.
    folds : int, default 5
        Number of folds.
    by : str, optional
        What is never parted between training and test: "subject", "session", "time", "trial" or a trial column. Without
        it subjects, if there are as many as folds; there is no silent split of trials.
    gap : float, default 0.0
        Time in s left out around test trials; see :func:`trial_folds`.
    random_state : int or None, default 0
        Seed of the assignment of groups to folds.

    Returns
    -------
    CrossValidation

    Raises
    ------
    InputError
        If the data cannot be split without a leak, or a fold would lack a class.
    """
    if not hasattr(decoder, "predict_proba"):
        raise InputError(explain("cross_predict", expected="a decoder with predict_proba", got=type(decoder).__name__))
    trials = prepare(data, target, folds=folds, by=by, gap=gap, random_state=random_state, where="cross_predict")

    def run(train: np.ndarray, test: np.ndarray) -> Tensor:
        return probabilities(fresh(decoder), trials, train, test)

    return collect(trials, run)


def collect(trials: Trials, run: Callable[[np.ndarray, np.ndarray], Tensor]) -> CrossValidation:
    """Run every fold; ``run(train, test)`` returns the probabilities of the test trials."""
    found = torch.cat([run(fold.train, fold.test) for fold in trials.folds])
    rows = np.concatenate([fold.test for fold in trials.folds])
    numbers = np.repeat(np.arange(len(trials.folds)), [len(fold.test) for fold in trials.folds])
    order = np.argsort(rows, kind="stable")
    proba = found[torch.from_numpy(order).to(found.device)]
    fold_of, truth = (torch.from_numpy(v).to(proba.device) for v in (numbers[order], trials.codes[rows[order]]))
    decided, n = proba.argmax(1), len(trials.labels)
    parts = [confusion_counts(truth[fold_of == k], decided[fold_of == k], n) for k in range(len(trials.folds))]
    scores = [mean_recall(counts) for counts in parts]
    return CrossValidation(
        coords={"trial": _table(trials, rows[order]), "label": {"name": list(trials.labels)}},
        labels=trials.labels, by=trials.by, truth=truth, proba=proba, fold_of=fold_of, fold_score=torch.stack(scores),
    )  # fmt: skip


def _table(trials: Trials, rows: np.ndarray) -> dict[str, Any]:
    """Return what is known of each tested trial."""
    data = trials.data
    of = np.concatenate([np.full(rec.sizes["trial"], k) for k, rec in enumerate(data)])[rows]
    single = trials.by in ("time", "trial")  # windows that overlap count as one
    group = np.asarray(trial_groups(data, "trial").astype(str) if single else named_groups(data, trials.by))[rows]
    known = {name: [getattr(data[k], name) for k in of] for name in ("subject", "session")}
    return {"row": rows, **known, "group": group}


def probabilities(decoder: Any, trials: Trials, train: np.ndarray, test: np.ndarray) -> Tensor:
    """Fit to the training trials and return the probabilities of the test trials, (trial, class)."""
    fitted = decoder.fit(*trials.part(train))
    found = fitted.predict_proba(trials.part(test)[0])
    proba = found if isinstance(found, Tensor) else torch.from_numpy(np.asarray(found))
    known = [x.item() if isinstance(x, np.generic) else x for x in fitted.classes_]
    if known == list(trials.labels):
        return proba
    wide = proba.new_zeros(len(proba), len(trials.labels))
    place = [trials.labels.index(name) for name in known]
    wide[:, place] = proba
    return wide
