"""States while the spikes come in: the forward recursion, chunk by chunk."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...core.device import highest_precision
from ...core.errors import InputError, explain
from ...stats import hmm
from .basis import filter_history
from .emission import FLOOR, Link, log_emission, rate_of
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
        self._moves, self._initial = result.transition.to(wide), result.initial.to(wide).log()
        # for single bins: (lag, unit) counts in order of time -> (filter, unit) -> (state * unit) drives
        self._kernel = result.filters.flip(0).mT.contiguous()
        self._rows = result.coupling.mT.reshape(result.bias.numel(), -1).contiguous()
        self._bias = result.bias.flatten()
        self._size = None if result.size is None else result.size.to(wide)
        self._n_states, self._n_units = result.bias.shape
        self._largest = torch.finfo(result.bias.dtype).max
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next bin is the first of a sequence."""
        self._past = torch.zeros(self._result.n_lags, self._n_units).to(self._result.bias)
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
        given = torch.as_tensor(counts).to(self._bias)
        # one comparison finds NaN, infinity, negative and fractional counts alike; `_check` tells them apart
        if given.shape == (1, self._n_units) and torch.equal(given, given.clamp(0.0, self._largest).floor()):
            return self._one(given)
        self._check(given)
        return self._chunk(given) if len(given) else given.new_zeros(0, self._n_states)

    def _one(self, counts: Tensor) -> Tensor:
        """Step by one bin of which every count is observed: terms that all states share are left out."""
        drive = torch.addmv(self._bias, self._rows, (self._kernel @ self._past).view(-1))
        link: Link = self._result.link  # type: ignore[assignment]
        rate = rate_of(drive, link).to(self._moves).view(self._n_states, -1)
        spikes = counts[0].to(rate)
        emission = _state_terms(spikes, rate, self._size)
        now = torch.softmax(self._ahead + emission, 0)
        self._ahead = (now @ self._moves).log()
        if len(self._past):
            self._past = torch.cat((self._past[1:], counts))
        return now.unsqueeze(0).to(counts)

    def _chunk(self, given: Tensor) -> Tensor:
        """Step by any number of bins."""
        seen = ~given.isnan()
        spikes = given.where(seen, 0.0)
        series = torch.cat((self._past, spikes))
        design = [torch.ones_like(spikes[:, :1])]
        if self._result.n_lags:
            design.append(filter_history(series, self._result.filters)[self._result.n_lags :].flatten(1))
        link: Link = self._result.link  # type: ignore[assignment]
        emission = log_emission(torch.cat(design, 1), spikes, self._weights, link=link, size=self._result.size,
                                mask=seen)  # fmt: skip
        filtered = hmm.forward(self._ahead, self._moves.log(), emission).log_filtered.exp()
        self._ahead = (filtered[-1] @ self._moves).log()
        self._past = series[len(series) - len(self._past) :]
        return filtered.to(given)

    def _check(self, counts: Tensor) -> None:
        """Refuse what cannot be counts of the units of the fit."""
        if counts.ndim != 2 or counts.shape[1] != self._n_units:
            raise InputError(explain(WHERE, expected=f"(n, {self._n_units} units)", got=str(tuple(counts.shape))))
        wrong = (counts.isinf() | (counts < 0) | (counts != counts.round())) & ~counts.isnan()
        if bool(wrong.any()):
            place = wrong.nonzero()[0].tolist()
            got = f"{float(counts[tuple(place)]):g} at bin {place[0]}, unit {place[1]}"
            raise InputError(explain(WHERE, expected="integer counts of at least 0, or NaN", got=got))


def _state_terms(spikes: Tensor, rate: Tensor, size: Tensor | None) -> Tensor:
    """Log-likelihood of one bin (N,) under every state (S, N) up to a constant of the bin: (S,)."""
    logs = (rate + FLOOR).log()
    if size is None:
        return logs @ spikes - rate.sum(1)
    mixed = (size + rate).log()
    return (logs - mixed) @ spikes - mixed @ size
