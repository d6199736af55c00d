"""Accuracy against the number of channels, chosen anew inside the training part of every fold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ...core.errors import InputError, explain
from ...evaluate import cross_predict

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .estimator import DuIN


class ChannelCurve(NamedTuple):
    """Balanced accuracy on trials that neither chose the channels nor trained the networks."""

    counts: tuple[int, ...]  #: channels kept
    score: Tensor  #: (count, fold) float64
    chance: float

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draw each fold and the mean of all against the number of channels."""
        from ...plot import decoding

        drawn = decoding.learning(self.counts, self.score, chance=self.chance, ax=ax)
        drawn.set_xlabel("channels kept")
        return drawn


def channel_curve(
    model: DuIN, data: Any, target: Any = None, *, counts: Sequence[int], folds: int = 3, by: str = "block",
    gap: float = 0.0,
) -> ChannelCurve:  # fmt: skip
    """Score a decoder with ever more channels, those that weigh most in a classifier of the training trials.

    Parameters
    ----------
    model : DuIN
        Settings; it is copied, not changed, and need not be fitted.
    data, target
        As for :meth:`DuIN.fit`.
    counts : sequence of int
        Numbers of channels to keep.
    folds, by, gap
        See :func:`~tectum.evaluate.cross_predict`.

    Returns
    -------
    ChannelCurve

    Raises
    ------
    InputError
        If a number is not above 0.

    Examples
    --------
    >>> from tectum import DuIN
    >>> from tectum.datasets import simulate
    >>> sim = simulate.seeg_words(n_words=2, n_windows=1, n_trials=12, n_tokens=2, n_channels=2, n_silent=1)
    >>> small = DuIN(depth=1, filters=8, heads=2, hidden=16, epochs=1, select_epochs=1, pretrain="none", device="cpu")
    >>> channel_curve(small, sim.data.words, "word", counts=(1, 2), folds=2).score.shape
    torch.Size([2, 2])
    """
    if not counts or any(not isinstance(n, int) or n < 1 for n in counts):
        raise InputError(explain("channel_curve(counts)", expected="numbers of channels above 0", got=repr(counts)))
    scores, chance = [], 0.0
    for n in counts:
        trial = type(model)(**{**model.get_params(), "select": n})
        found = cross_predict(trial, data, target, folds=folds, by=by, gap=gap)
        scores.append(found.fold_score.cpu())
        chance = 1 / len(found.labels)
    return ChannelCurve(tuple(counts), torch.stack(scores), chance)
