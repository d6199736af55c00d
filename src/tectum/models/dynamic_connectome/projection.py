"""Motifs in new data: time courses that best rebuild an affinity from known pair factors."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ...core.device import highest_precision
from ...core.errors import ContractError, explain
from .inputs import Affinities, Traces
from .prepare import Source

if TYPE_CHECKING:
    from .result import DynamicConnectomeResult


class Projection(NamedTuple):
    """Non-negative time courses of R motifs in one animal."""

    courses: Tensor  #: (T, R); NaN in bins without data
    residual: Tensor  #: scalar, squared norm of what is left
    power: Tensor  #: scalar, squared norm of the affinity


def on_known_units(traces: Traces, result: DynamicConnectomeResult) -> Traces:
    """Put the units of a new recording in the order of training; units that it lacks become NaN columns.

    Raises
    ------
    ContractError
        If fewer than two units are known, or nameless units differ in number.
    """
    place = {name: i for i, name in enumerate(traces.units)}
    shared = [name for name in result.units if name in place]
    if traces.unnamed != result.unnamed and traces.unnamed:
        got, fix = f"{traces.unnamed} units without names", "name the units as in training"
        expected = f"{result.unnamed} of them" if result.unnamed else "units with names"
        raise ContractError(explain("DynamicConnectome", expected=expected, got=got, fix=fix))
    if len(shared) < 2:
        expected, got = "at least two units seen in training", f"units {', '.join(traces.units[:5])} ..."
        raise ContractError(explain("DynamicConnectome", expected=expected, got=got))
    x = traces.values[0]
    padded = torch.cat([x, x.new_full((len(x), 1), torch.nan)], 1)
    index = torch.tensor([place.get(name, x.shape[1]) for name in result.units], device=x.device)
    return traces._replace(values=[padded[:, index]], units=result.units)


def on_known_pairs(found: Affinities, result: DynamicConnectomeResult) -> Affinities:
    """Put the pairs of new affinities in the order of training; pairs that they lack become NaN.

    Raises
    ------
    ContractError
        If no pair is known.
    """
    place = {frozenset(pair): i for i, pair in enumerate(found.pairs)}
    names = [(result.units[a], result.units[b]) for a, b in result.pair_units.T.tolist()]
    where = [place.get(frozenset(pair), len(place)) for pair in names]
    if min(where) == len(place):
        got = f"pairs such as {found.pairs[0]}"
        raise ContractError(explain("DynamicConnectome", expected="pairs seen in training", got=got))
    x = found.values
    padded = torch.cat([x, x.new_full((*x.shape[:2], 1), torch.nan)], 2)
    values = padded[:, :, torch.tensor(where, device=x.device)]
    return dataclasses.replace(found, values=values, pairs=names, units=result.units)


def project(source: Source, pair_factor: Tensor, *, n_iter: int = 200) -> Projection:
    """Fit ``Y_tp ~ sum_r H_tr C_pr`` with known C over the observed pairs of one animal, H >= 0.

    Parameters
    ----------
    source : PairSource or GivenAffinity
        Affinity (T, 1, P) of one animal.
    pair_factor : Tensor, shape (P, R)
        C, on the pairs of the source.
    n_iter : int, default 200
        Sweeps of coordinate descent (the problem is convex).

    Returns
    -------
    Projection
        In the highest precision of the device.

    Examples
    --------
    >>> from tectum.models.dynamic_connectome.prepare import GivenAffinity
    >>> motif = torch.tensor([[1.0], [0.5], [0.0]])
    >>> course = torch.tensor([0.0, 0.6, 0.2])
    >>> given = GivenAffinity((course[:, None] * motif[:, 0]).unsqueeze(1), torch.tensor([[0, 0, 1], [1, 2, 2]]))
    >>> project(given, motif).courses.squeeze(1)
    tensor([0.0000, 0.6000, 0.2000], dtype=torch.float64)
    """
    precise = highest_precision(source.device)
    n_time, rank = source.shape[0], pair_factor.shape[1]
    factor = pair_factor.to(source.device, precise)
    number = torch.zeros(n_time, rank, dtype=precise, device=source.device)
    gram = torch.zeros(n_time, rank, rank, dtype=precise, device=source.device)
    power = torch.zeros((), dtype=precise, device=source.device)
    for where, values in source.chunks():
        y = values[:, 0].to(precise)  # (T, p)
        seen = torch.isfinite(y)
        y, c = torch.where(seen, y, 0), factor[where]
        number += y @ c
        squares = (c.unsqueeze(2) * c.unsqueeze(1)).flatten(1)  # (p, R * R)
        gram += (seen.to(precise) @ squares).view_as(gram)
        power += y.square().sum()
    courses = _solve(number, gram, n_iter)
    left = power - 2 * (courses * number).sum() + torch.einsum("tr,trs,ts->", courses, gram, courses)
    empty = torch.diagonal(gram, dim1=1, dim2=2).sum(1) == 0
    return Projection(torch.where(empty[:, None], torch.nan, courses), left.clamp(min=0), power)


def _solve(number: Tensor, gram: Tensor, n_iter: int) -> Tensor:
    """Coordinate descent on min_H>=0 of h G h / 2 - n h for every row at once: (T, R)."""
    scale = torch.diagonal(gram, dim1=1, dim2=2).clamp(min=1e-12)  # (T, R)
    courses = (number / scale).clamp(min=0) / number.shape[1]
    for _ in range(n_iter):
        for r in range(number.shape[1]):
            step = number[:, r] - torch.einsum("ts,ts->t", courses, gram[:, r])
            courses[:, r] = (courses[:, r] + step / scale[:, r]).clamp(min=0)
    return courses
