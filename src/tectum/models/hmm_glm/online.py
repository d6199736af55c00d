"""States while the spikes come in: the forward recursion, chunk by chunk."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.device import highest_precision
from ...core.errors import InputError, explain
from ...stats import hmm
from .basis import filter_history
from .emission import Link, log_emission
from .estimator import HMMGLM

WHERE = "StateFilter.push"


class StateFilter:
    """Filter the states of a fitted switching GLM on live counts; equal to ``predict_proba(kind="filtered")``.

    A bin costs O(S^2 + S N^2) and remembers the last ``n_lags`` counts and one probability a state: nothing grows.

    Parameters
    ----------
    model : HMMGLM
        Fitted, without covariates.

    Raises
    ------
    InputError
        The model has covariates.

    Examples
    --------
    >>> from tectum.datasets import simulate
    >>> sim = simulate.switching_glm(n_units=6, n_states=2, n_sequences=6, n_time=400)
    >>> model = HMMGLM(n_states=2, prior="none", starts=2).fit(sim.data)
    >>> live = StateFilter(model)
    >>> live.push(sim.data[0].values[:3]).shape
    torch.Size([3, 2])
    """

    def __init__(self, model: HMMGLM) -> None:
        result = model.result_
        if result.covariates:
            got = f"covariates {list(result.covariates)}"
            raise InputError(explain("StateFilter", expected="a model without covariates", got=got))
        wide = highest_precision(result.bias.device)
        self._result, self._weights = result, result.weights
        self._moves, self._initial = result.transition.to(wide).log(), result.initial.to(wide).log()
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next bin is the first of a sequence."""
        self._past = torch.zeros(self._result.n_lags, len(self._result.units)).to(self._result.bias)
        self._ahead = self._initial

    def push(self, counts: Any) -> Tensor:
        """Take the next bins and return the probability of every state in each, given all bins so far.

        Parameters
        ----------
        counts : array, shape (n, unit)
            Counts of the next n >= 0 bins, of the width of the fit. NaN = not observed: it says nothing of the state
            and drives nobody.

        Returns
        -------
        Tensor, shape (n, state)

        Raises
        ------
        InputError
            Another number of units; negative, infinite or fractional counts.
        """
        given = torch.as_tensor(counts).to(self._result.bias)
        self._check(given)
        if not len(given):
            return given.new_zeros(0, self._result.n_states)
        seen = ~given.isnan()
        spikes = given.where(seen, 0.0)
        series = torch.cat((self._past, spikes))
        design = [torch.ones_like(spikes[:, :1])]
        if self._result.n_lags:
            design.append(filter_history(series, self._result.filters)[self._result.n_lags :].flatten(1))
        link: Link = self._result.link  # type: ignore[assignment]
        emission = log_emission(torch.cat(design, 1), spikes, self._weights, link=link, size=self._result.size,
                                mask=seen)  # fmt: skip
        found = hmm.forward(self._ahead, self._moves, emission)
        last = found.log_filtered[-1]
        self._ahead = torch.logsumexp(last.unsqueeze(1) + self._moves, 0)
        self._past = series[len(series) - len(self._past) :]
        return found.log_filtered.exp().to(given)

    def _check(self, counts: Tensor) -> None:
        """Refuse what cannot be counts of the units of the fit."""
        n_units = len(self._result.units)
        if counts.ndim != 2 or counts.shape[1] != n_units:
            raise InputError(explain(WHERE, expected=f"(n, {n_units} units)", got=str(tuple(counts.shape))))
        wrong = (counts.isinf() | (counts < 0) | (counts != counts.round())) & ~counts.isnan()
        if bool(wrong.any()):
            place = wrong.nonzero()[0].tolist()
            got = f"{float(counts[tuple(place)]):g} at bin {place[0]}, unit {place[1]}"
            raise InputError(explain(WHERE, expected="integer counts of at least 0, or NaN", got=got))
