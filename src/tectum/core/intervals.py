"""Intervals: a table of half-open spans ``[start, stop)`` in seconds on the session clock."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import InputError, explain
from .serialize import storable
from .table import Column, check_table, positions, take

_SHOWN = 20  # pairs listed in an error


@storable
@dataclass(frozen=True, kw_only=True, eq=False)
class Intervals:
    """Half-open spans of time with aligned columns, kept in order of their starts.

    Parameters
    ----------
    start, stop : Tensor, shape (n_intervals,), float64
        Seconds on the session clock; ``start <= stop``. Rows (with their columns) are sorted by start.
    columns : mapping of str to array, shape (n_intervals,)
        Whatever belongs to each span: name, condition, response.

    Raises
    ------
    InputError
        If lengths differ, a bound is not finite, or a span ends before it starts.

    Examples
    --------
    >>> night = Intervals.from_pairs([(0, 10), (20, 30)])
    >>> night.subtract(Intervals.from_pairs([(5, 22)])).pairs()
    [(0.0, 5.0), (22.0, 30.0)]
    """

    start: Tensor
    stop: Tensor
    columns: Mapping[str, Column] = field(default_factory=dict)

    def __post_init__(self) -> None:
        start, stop = (
            torch.as_tensor(x, dtype=torch.float64, device="cpu").reshape(-1) for x in (self.start, self.stop)
        )
        if start.shape != stop.shape:
            raise InputError(
                explain("Intervals", expected="as many stops as starts", got=f"{len(start)} starts, {len(stop)} stops")
            )
        if not bool(torch.isfinite(start).all() and torch.isfinite(stop).all()):
            raise InputError(explain("Intervals", expected="finite bounds in s", got="NaN or infinity"))
        if bool((stop < start).any()):
            row = int((stop < start).nonzero()[0])
            raise InputError(
                explain("Intervals", expected="start <= stop", got=f"[{start[row]:g}, {stop[row]:g}) in row {row}")
            )
        order = torch.argsort(start, stable=True)
        object.__setattr__(self, "columns", take(check_table(self.columns, len(start), "Intervals"), order.numpy()))
        object.__setattr__(self, "start", start[order])
        object.__setattr__(self, "stop", stop[order])

    @classmethod
    def from_pairs(cls, pairs: Iterable[tuple[float, float]], **columns: Any) -> Intervals:
        """Build from ``(start, stop)`` pairs in s and one sequence for each column."""
        bounds = np.array([(float(a), float(b)) for a, b in pairs], dtype=np.float64).reshape(-1, 2)
        return cls(start=torch.from_numpy(bounds[:, 0]), stop=torch.from_numpy(bounds[:, 1]), columns=columns)

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, rows: int | slice | Tensor | np.ndarray | list[int]) -> Intervals:
        index = positions(rows, len(self), "Intervals")
        return Intervals(start=self.start[index], stop=self.stop[index], columns=take(self.columns, index))

    def where(self, column: str, value: Any) -> Intervals:
        """Keep the rows whose ``column`` equals ``value`` (or is one of several values)."""
        if column not in self.columns:
            raise InputError(
                explain("Intervals.where", expected=f"a column among {sorted(self.columns)}", got=repr(column))
            )
        values = [value] if np.ndim(value) == 0 else value
        return self[np.isin(np.asarray(self.columns[column]), np.asarray(values))]

    def pairs(self) -> list[tuple[float, float]]:
        """Return the spans as a list of ``(start, stop)`` in s."""
        return list(zip(self.start.tolist(), self.stop.tolist(), strict=True))

    @property
    def duration(self) -> float:
        """Covered time in s, overlaps counted once."""
        merged = self.merged()
        return float((merged.stop - merged.start).sum())

    def contains(self, times: Tensor) -> Tensor:
        """Tell which times lie in at least one span: bool Tensor of the shape of ``times``, on the CPU."""
        times = torch.as_tensor(times, dtype=torch.float64, device="cpu").contiguous()
        opened = torch.searchsorted(self.start, times, right=True)
        closed = torch.searchsorted(self.stop.sort().values, times, right=True)
        return opened > closed

    def merged(self) -> Intervals:
        """Return the covered time as disjoint spans; touching spans join, columns are dropped."""
        return _combine(self, self, torch.logical_or)

    def union(self, other: Intervals) -> Intervals:
        """Return the time covered by either; columns are dropped."""
        return _combine(self, other, torch.logical_or)

    def intersect(self, other: Intervals) -> Intervals:
        """Return the time covered by both; columns are dropped."""
        return _combine(self, other, torch.logical_and)

    def subtract(self, other: Intervals) -> Intervals:
        """Return the time covered by self and not by ``other``; columns are dropped."""
        return _combine(self, other, lambda a, b: a & ~b)

    def disjoint(self) -> Intervals:
        """Return self after checking that no two spans overlap; half-open spans may touch.

        Raises
        ------
        InputError
            If some overlap; lists the first twenty pairs.

        Examples
        --------
        >>> Intervals.from_pairs([(0, 2), (2, 3)]).disjoint().duration
        3.0
        """
        number, pairs = _overlapping(self, _SHOWN)
        if number:
            spans = self.pairs()
            shown = ", ".join(f"rows {a} and {b}, {spans[a]} and {spans[b]} s" for a, b in pairs)
            got = f"{number} pairs that overlap: {shown}" + (", ..." if number > _SHOWN else "")
            fix = "choose rows, or take merged()"
            raise InputError(explain("Intervals.disjoint", expected="spans apart from each other", got=got, fix=fix))
        return self

    def within(self, support: Intervals) -> Intervals:
        """Keep, with their columns, the spans that lie wholly inside the merged ``support``."""
        outer = support.merged()
        if len(outer) == 0:
            return self[np.zeros(len(self), dtype=bool)]
        row = (torch.searchsorted(outer.start, self.start, right=True) - 1).clamp(min=0)
        return self[(self.start >= outer.start[row]) & (self.stop <= outer.stop[row])]

    def shift(self, seconds: float) -> Intervals:
        """Move every span by ``seconds``."""
        return replace(self, start=self.start + seconds, stop=self.stop + seconds)

    def split(self, max_length: float) -> Intervals:
        """Cut spans into equal parts no longer than ``max_length`` s; columns are repeated."""
        if not (math.isfinite(max_length) and max_length > 0):
            raise InputError(explain("Intervals.split", expected="max_length > 0 s", got=repr(max_length)))
        parts = torch.ceil((self.stop - self.start) / max_length - 1e-9).clamp(min=1).to(torch.int64)
        row = torch.repeat_interleave(torch.arange(len(self), device="cpu"), parts)
        place = torch.arange(len(row), device="cpu") - (parts.cumsum(0) - parts)[row]
        length = ((self.stop - self.start) / parts)[row]
        start = self.start[row] + place * length
        stop = torch.where(place + 1 == parts[row], self.stop[row], self.start[row] + (place + 1) * length)
        return Intervals(start=start, stop=stop, columns=take(self.columns, row.numpy()))


def _overlapping(spans: Intervals, limit: int) -> tuple[int, list[tuple[int, int]]]:
    """Return how many pairs of rows share time, and the first of them; spans of no length share none."""
    rows = (spans.stop > spans.start).nonzero().flatten()
    start, stop = spans.start[rows], spans.stop[rows]
    after = torch.searchsorted(start, stop) - torch.arange(1, len(rows) + 1, device="cpu")  # rows that begin inside
    before = after.cumsum(0)
    number = int(before[-1]) if len(before) else 0
    pair = torch.arange(min(limit, number), device="cpu")
    first = torch.searchsorted(before, pair, right=True)
    second = first + 1 + pair - (before - after)[first]
    return number, list(zip(rows[first].tolist(), rows[second].tolist(), strict=True))


def _combine(a: Intervals, b: Intervals, rule: Callable[[Tensor, Tensor], Tensor]) -> Intervals:
    """Apply a set operation on the elementary spans between all edges and join what touches."""
    edges = torch.cat([a.start, a.stop, b.start, b.stop]).unique()
    if len(edges) == 0:
        return Intervals(start=edges, stop=edges)
    inside = rule(a.contains(edges), b.contains(edges))
    before = torch.cat([inside.new_zeros(1), inside[:-1]])
    return Intervals(start=edges[inside & ~before], stop=edges[~inside & before])
