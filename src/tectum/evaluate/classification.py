"""Scores of decisions and probabilities; each docstring states range and chance."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tectum.core.device import highest_precision
from tectum.core.errors import InputError, explain
from tectum.nn.trials import confusion_counts, mean_recall


def confusion_matrix(truth: Any, decided: Any) -> tuple[Tensor, tuple[Any, ...]]:
    """Count decisions.

    Parameters
    ----------
    truth, decided : array or sequence, shape (n_trials,), of text or integers
        Labels and decisions.

    Returns
    -------
    counts : Tensor, shape (class, class), int64
        Rows are the truth.
    labels : tuple
        Classes in order.

    Examples
    --------
    >>> confusion_matrix(["a", "a", "b"], ["a", "b", "b"])
    (tensor([[1, 1], [0, 1]]), ('a', 'b'))
    """
    found, made, names = _codes(truth, decided, "confusion_matrix")
    return confusion_counts(found, made, len(names)), names


def accuracy(truth: Any, decided: Any) -> float:
    """Return the share of right decisions, in [0, 1]; chance is the share of the commonest class.

    Examples
    --------
    >>> accuracy([0, 0, 1], [0, 1, 1])
    0.6666666666666666
    """
    found, made, _ = _codes(truth, decided, "accuracy")
    return float((found == made).to(highest_precision(found.device)).mean())


def balanced_accuracy(truth: Any, decided: Any) -> float:
    """Return the mean over the true classes of the share decided rightly, in [0, 1]; chance is 1 / classes.

    Examples
    --------
    >>> balanced_accuracy([0, 0, 0, 1], [0, 0, 0, 0])
    0.5
    """
    return float(mean_recall(confusion_matrix(truth, decided)[0]))


def cohen_kappa(truth: Any, decided: Any) -> float:
    """Return agreement above chance, in [-1, 1]; chance is 0. NaN where both know one class only.

    Examples
    --------
    >>> cohen_kappa([0, 0, 1, 1], [0, 1, 1, 1])
    0.5
    """
    counts, _ = confusion_matrix(truth, decided)
    share = counts.to(highest_precision(counts.device)) / counts.sum()
    expected = share.sum(1) @ share.sum(0)
    return float((share.diagonal().sum() - expected) / (1 - expected))


def macro_f1(truth: Any, decided: Any) -> float:
    """Return the mean over classes of the F1 score, in [0, 1]; chance for balanced classes is 1 / classes.

    Examples
    --------
    >>> macro_f1([0, 0, 1, 1], [0, 0, 1, 1])
    1.0
    """
    counts, _ = confusion_matrix(truth, decided)
    n = counts.to(highest_precision(counts.device))
    return float((2 * n.diagonal() / (n.sum(0) + n.sum(1)).clamp(min=1)).mean())


def top_k_accuracy(truth: Any, scores: Any, k: int = 5) -> float:
    """Return how often the true class is among the k with the highest scores, in [0, 1]; chance is k / classes.

    Ties count by their chance when broken at random, so that constant scores give exactly chance.

    Parameters
    ----------
    truth : array, shape (n_trials,), int64
        Position of the true class.
    scores : array, shape (n_trials, n_classes)
        Probabilities, logits or similarities.
    k : int, default 5
        With as many classes or more the result is 1.

    Examples
    --------
    >>> top_k_accuracy([0, 1], [[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]], k=2)
    0.25
    """
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise InputError(explain("top_k_accuracy(k)", expected="an integer >= 1", got=repr(k)))
    greater, ties = _standing(truth, scores, "top_k_accuracy")
    return float(((k - greater) / ties).clamp(0, 1).mean())


def mean_reciprocal_rank(truth: Any, scores: Any) -> float:
    """Return the mean of 1 / rank of the true class, in (0, 1]; chance is the mean of 1 / (1 .. classes).

    Tied classes share the middle of their ranks.

    Examples
    --------
    >>> mean_reciprocal_rank([2, 1], [[0.1, 0.2, 0.7], [0.6, 0.3, 0.1]])
    0.75
    """
    greater, ties = _standing(truth, scores, "mean_reciprocal_rank")
    return float((1 / (greater + (ties + 1) / 2)).mean())


def roc_auc(truth: Any, scores: Any) -> float:
    """Return the area under the receiver operating characteristic, in [0, 1]; chance is 0.5.

    The chance that a trial of the class scores above one of another class, ties counting half; of several classes the
    mean over each against the rest.

    Parameters
    ----------
    truth : array, shape (n_trials,), int64
        Class of each trial; with scores of one number a trial, 1 marks the class scored.
    scores : array, shape (n_trials,) or (n_trials, n_classes)
        The higher, the more likely the class.

    Examples
    --------
    >>> roc_auc([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8])
    0.75
    """
    return _over_classes(truth, scores, _auc, "roc_auc")


def average_precision(truth: Any, scores: Any) -> float:
    """Return the area under the curve of precision over recall, in (0, 1]; chance is the share of the class.

    Precision is taken at every threshold and weighted by the gain in recall; of several classes the mean.

    Examples
    --------
    >>> round(average_precision([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8]), 4)
    0.8333
    """
    return _over_classes(truth, scores, _precision, "average_precision")


class Curve(NamedTuple):
    """A curve of points."""

    x: Tensor  #: shape (point,)
    y: Tensor  #: shape (point,)


def roc_curve(truth: Any, scores: Any) -> Curve:
    """Return false against true positive rate at every threshold, from (0, 0) to (1, 1), of a class marked 1.

    Examples
    --------
    >>> curve = roc_curve([0, 1], [0.2, 0.9])
    >>> curve.x.tolist(), curve.y.tolist()
    ([0.0, 0.0, 1.0], [0.0, 1.0, 1.0])
    """
    hit, s = _binary(truth, scores, "roc_curve")
    true, false = _falling(hit, s)
    zero = true.new_zeros(1)
    return Curve(torch.cat([zero, false / false[-1]]), torch.cat([zero, true / true[-1]]))


class Reliability(NamedTuple):
    """Confidence and accuracy in bins of confidence."""

    confidence: Tensor  #: shape (bin,), mean of the highest probability; NaN in empty bins
    accuracy: Tensor  #: shape (bin,), share of right decisions; NaN in empty bins
    trials: Tensor  #: shape (bin,), int64


def reliability(truth: Any, proba: Any, *, bins: int = 10) -> Reliability:
    """Compare the probability of the decision with how often it is right.

    Parameters
    ----------
    truth : array, shape (n_trials,), int64
        Position of the true class.
    proba : array, shape (n_trials, n_classes)
        Probabilities.
    bins : int, default 10
        Equal bins of [0, 1].

    Examples
    --------
    >>> reliability([0, 1], [[0.9, 0.1], [0.95, 0.05]], bins=2).accuracy.tolist()
    [nan, 0.5]
    """
    y, p = _pair(truth, proba, "reliability")
    sure, decided = p.max(1)
    place = (sure * bins).long().clamp(0, bins - 1)
    zero = p.new_zeros(bins)
    count = zero.scatter_add(0, place, torch.ones_like(sure))
    right = zero.scatter_add(0, place, (decided == y).to(p.dtype))
    return Reliability(zero.scatter_add(0, place, sure) / count, right / count, count.long())


def calibration_error(truth: Any, proba: Any, *, bins: int = 10) -> float:
    """Return the mean distance of confidence and accuracy over bins of confidence, in [0, 1]; 0 is calibrated.

    It has no chance level: a decoder that always answers with the class frequencies has 0.

    Examples
    --------
    >>> round(calibration_error([0, 1], [[0.8, 0.2], [0.8, 0.2]]), 6)
    0.3
    """
    found = reliability(truth, proba, bins=bins)
    share = found.trials / found.trials.sum()
    return float(((found.confidence - found.accuracy).abs().nan_to_num(0.0) * share).sum())


def log_loss(truth: Any, proba: Any) -> float:
    """Return the mean negative log probability of the true class in nats, in [0, inf); chance is log(classes).

    Examples
    --------
    >>> round(log_loss([0, 1], [[0.5, 0.5], [0.5, 0.5]]), 4)
    0.6931
    """
    y, p = _pair(truth, proba, "log_loss")
    return float(-p.gather(1, y[:, None]).clamp(min=1e-30).log().mean())


def information_transfer_rate(accuracy: float, n_classes: int, *, seconds: float = 60.0) -> float:
    """Return the bits a minute of decisions that are right with a given probability (Wolpaw), in [0, inf).

    Parameters
    ----------
    accuracy : float
        Share of right decisions; at or below 1 / classes the rate is 0.
    n_classes : int
        Equally likely classes, equally likely errors.
    seconds : float, default 60
        Time of a decision with all pauses; the default gives bits a decision.

    References
    ----------
    Wolpaw et al. (2002), Brain-computer interfaces for communication and control, Clin Neurophysiol 113, 767-791.

    Examples
    --------
    >>> information_transfer_rate(1.0, 4), round(information_transfer_rate(0.9, 2, seconds=2.0), 2)
    (2.0, 15.93)
    """
    where = "information_transfer_rate"
    if not 0 <= accuracy <= 1 or n_classes < 2 or not 0 < seconds < math.inf:
        got = f"accuracy={accuracy!r}, n_classes={n_classes!r}, seconds={seconds!r}"
        expected = "an accuracy in [0, 1], 2 classes or more and a time above 0 s"
        raise InputError(explain(where, expected=expected, got=got))
    if accuracy <= 1 / n_classes:
        return 0.0
    bits = math.log2(n_classes) + accuracy * math.log2(accuracy)
    if accuracy < 1:
        bits += (1 - accuracy) * math.log2((1 - accuracy) / (n_classes - 1))
    return bits * 60 / seconds


class Pooled(NamedTuple):
    """Trials drawn together by group."""

    groups: tuple[str, ...]  #: names in order
    truth: Tensor  #: shape (group,), int64
    proba: Tensor  #: shape (group, class)


def pool(truth: Any, proba: Any, groups: Any, *, vote: bool = False) -> Pooled:
    """Draw the trials of each subject (or session) together: one truth and one probability each.

    Parameters
    ----------
    truth : array, shape (n_trials,), int64
        Position of the true class, the same in all trials of a group.
    proba : array, shape (n_trials, n_classes)
        Probabilities.
    groups : sequence, length n_trials
        Group of each trial.
    vote : bool, default False
        Share of the decisions instead of the mean probability.

    Examples
    --------
    >>> pool([0, 0, 1], [[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]], ["a", "a", "b"]).proba[:, 0].tolist()
    [0.65, 0.2]
    """
    y, p = _pair(truth, proba, "pool")
    names, member = np.unique(np.asarray([str(g) for g in groups]), return_inverse=True)
    if len(member) != len(y):
        raise InputError(explain("pool(groups)", expected=f"{len(y)} groups", got=str(len(member))))
    index = torch.from_numpy(member).to(y.device)
    weight = torch.nn.functional.one_hot(p.argmax(1), p.shape[1]).to(p.dtype) if vote else p
    total = p.new_zeros(len(names), p.shape[1]).index_add(0, index, weight)
    count = p.new_zeros(len(names)).index_add(0, index, torch.ones_like(p[:, 0]))
    first = y.new_zeros(len(names)).index_copy(0, index.flip(0), y.flip(0))
    if not bool((first[index] == y).all()):
        mixed = names[int(index[first[index] != y][0])]
        raise InputError(explain("pool", expected="one true class in each group", got=f"several in {mixed!r}"))
    return Pooled(tuple(names.tolist()), first, total / count[:, None])


# Helpers


def _codes(truth: Any, decided: Any, where: str) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
    """Number the classes of two lists of labels in common."""
    one, other = (np.asarray(v.detach().cpu() if isinstance(v, Tensor) else v) for v in (truth, decided))
    if one.shape != other.shape or one.ndim != 1 or not len(one):
        got = f"shapes {one.shape} and {other.shape}"
        raise InputError(explain(where, expected="as many decisions as labels, one or more", got=got))
    if one.dtype.kind not in "biuSU" or (one.dtype.kind in "SU") != (other.dtype.kind in "SU"):
        got = f"{one.dtype} and {other.dtype}"
        raise InputError(explain(where, expected="labels and decisions that are text or integers", got=got))
    names, inverse = np.unique(np.concatenate([one, other]), return_inverse=True)
    device = next((v.device for v in (truth, decided) if isinstance(v, Tensor)), torch.device("cpu"))
    code = torch.from_numpy(inverse).to(device)
    return code[: len(one)], code[len(one) :], tuple(names.tolist())


def _tensor(values: Any) -> Tensor:
    return values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))


def _pair(truth: Any, scores: Any, where: str) -> tuple[Tensor, Tensor]:
    """Return classes (trial,) and scores (trial, class) as tensors of one device, checked."""
    y, s = _tensor(truth), _tensor(scores)
    if s.ndim != 2 or y.shape != s.shape[:1] or not len(y) or y.is_floating_point():
        got = f"{y.dtype} {tuple(y.shape)} and {tuple(s.shape)}"
        raise InputError(explain(where, expected="classes (trial,) and scores (trial, class)", got=got))
    s, y = s.to(highest_precision(s.device)), y.long().to(s.device)
    if bool((y < 0).any() | (y >= s.shape[1]).any()):
        raise InputError(explain(where, expected=f"classes in [0, {s.shape[1]})", got=str(y.unique().tolist()[:8])))
    if not bool(torch.isfinite(s).all()):
        raise InputError(explain(where, expected="finite scores", got="NaN or infinity"))
    return y, s


def _standing(truth: Any, scores: Any, where: str) -> tuple[Tensor, Tensor]:
    """Return how many classes score above the true one, and how many as high (itself included): (trial,)."""
    y, s = _pair(truth, scores, where)
    own = s.gather(1, y[:, None])
    return (s > own).sum(1).to(s.dtype), (s == own).sum(1).to(s.dtype)


def _binary(truth: Any, scores: Any, where: str) -> tuple[Tensor, Tensor]:
    """Return (trial,) whether a trial is of the class, and its score."""
    s = _tensor(scores)
    if s.ndim != 1:
        raise InputError(explain(where, expected="one score a trial", got=str(tuple(s.shape))))
    y, both = _pair(truth, torch.stack([-s, s], 1), where)
    if not bool((y == 1).any() & (y == 0).any()):
        raise InputError(explain(where, expected="trials of both classes", got="of one only"))
    return y == 1, both[:, 1]


def _over_classes(truth: Any, scores: Any, score: Any, where: str) -> float:
    """Score one class, the second of two, or the mean over each of several against the rest."""
    s = _tensor(scores)
    if s.ndim == 1:
        return float(score(*_binary(truth, s, where)))
    y, s = _pair(truth, s, where)
    if s.shape[1] == 2:
        return float(score(*_binary(y, s[:, 1], where)))
    parts = [_binary((y == k).long(), s[:, k], where) for k in range(s.shape[1])]
    return float(torch.stack([score(hit, column) for hit, column in parts]).mean())


def _auc(hit: Tensor, scores: Tensor) -> Tensor:
    """Area from the ranks of the class, ties sharing the middle of theirs."""
    _, place, count = scores.unique(return_inverse=True, return_counts=True)
    rank = (count.cumsum(0) - (count - 1) / 2)[place].to(scores.dtype)  # (trial,) from 1
    n, m = hit.sum(), (~hit).sum()
    area: Tensor = (rank[hit].sum() - n * (n + 1) / 2) / (n * m)
    return area


def _falling(hit: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """Count true and false positives at every distinct threshold, the highest first: (threshold,)."""
    values, place = scores.unique(return_inverse=True)
    zero = scores.new_zeros(len(values))
    true = zero.scatter_add(0, place, hit.to(scores.dtype)).flip(0).cumsum(0)
    false = zero.scatter_add(0, place, (~hit).to(scores.dtype)).flip(0).cumsum(0)
    return true, false


def _precision(hit: Tensor, scores: Tensor) -> Tensor:
    """Precision at every threshold, weighted by the gain in recall."""
    true, false = _falling(hit, scores)
    gain = torch.cat([true[:1], true.diff()]) / true[-1]
    area: Tensor = (true / (true + false) * gain).sum()
    return area
