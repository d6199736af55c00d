"""What a dynamic connectome says: motifs in time, in animals and in pairs of units, and the groups of each motif."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...core.errors import InputError, explain
from ...core.intervals import Intervals
from ...core.result import Result, Section, axes
from ...stats.tensors import CP
from .pairs import to_matrix
from .scores import TraceBack, trace_back

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True, eq=False)
class DynamicConnectomeResult(Result):
    """Motifs of a dynamic connectome, sorted by weight, and their communities.

    The affinity of pair p in animal w at time t is close to the sum over components of
    ``weight * time_factor[t] * subject_factor[w] * pair_factor[p]``; every column has unit norm. The loading of a pair
    is zero where it was recorded only in animals that barely express the motif: nothing is known of it.
    Communities are NaN or -1 where a motif has too few edges; the ``block``, ``merge`` and ``rank`` axes are padded
    with NaN where motifs differ in their number of blocks.
    """

    weight: Tensor = axes("component")
    observed_norm: Tensor = axes("component")  #: norm of the motif over observed fibres; the weight if none is missing
    time_factor: Tensor = axes("time", "component")
    subject_factor: Tensor = axes("subject", "component")
    pair_factor: Tensor = axes("pair", "component")
    pair_units: Tensor = axes("side", "pair")  #: the two units of each pair, int64
    pair_sign: Tensor | None = axes("pair", default=None)  #: sign of the mean co-fluctuation
    observed: Tensor = axes("subject", "pair")  #: fibres that were seen, bool
    is_global: Tensor = axes("component")  #: nearly uniform over pairs: motion or bleaching rather than a motif, bool
    # communities of each motif
    partition: Tensor = axes("component", "unit")  #: block of each unit, -1 without partition, int64
    marginal: Tensor = axes("component", "unit", "block")  #: posterior probability of each block
    coassignment: Tensor = axes("component", "unit", "unit")  #: posterior probability of sharing a block
    merges: Tensor = axes("component", "merge", "side")  #: blocks joined at each step, -1 padded, int64
    merge_height: Tensor = axes("component", "merge", unit="nat")  #: change of the description length
    contrast: Tensor = axes("component")  #: mean affinity inside blocks minus between
    contrast_p: Tensor = axes("component")
    # stability, rank, null
    start_error: Tensor = axes("start")  #: relative error of each restart
    start_similarity: Tensor = axes("start")  #: factor match of each restart with the best
    rank_grid: Tensor | None = axes("rank", default=None)
    rank_error: Tensor | None = axes("rank", default=None)
    rank_similarity: Tensor | None = axes("rank", default=None)
    rank_held_out: Tensor | None = axes("rank", default=None)
    rank_held_out_se: Tensor | None = axes("rank", default=None)
    rank_spectrum: Tensor | None = axes("rank", default=None)  #: summed singular values of the pair factor
    surrogate_norm: Tensor | None = axes("draw", "component", default=None)  #: largest first, of units rolled in time
    surrogate_p: Tensor | None = axes("component", default=None)
    surrogate_p_holm: Tensor | None = axes("component", default=None)
    subject_similarity: Tensor | None = axes("subject", default=None)  #: factor match of the fit without each animal
    # stimuli
    stimulus_window: Tensor = axes("stimulus", "time")  #: bool
    association: Tensor = axes("component", "stimulus")  #: AUROC of the time course for each stimulus
    association_p: Tensor = axes("component", "stimulus")
    # the traces on the aligned axis, for going back
    traces: Tensor | None = axes("time", "subject", "unit", default=None)
    # plain facts
    dt: float = 1.0  #: width of a bin, s
    blocks: tuple[tuple[int, int], ...] = ()  #: bins that are contiguous in the recordings
    weight_models: tuple[str, ...] = ()  #: weight family of each motif, "" without partition
    affinity: str = ""  #: kind, or "given" where the user computed it
    solver: str = ""
    align: str = "absolute"  #: how animals share time
    unnamed: int = 0  #: units of a recording without names for them, else 0

    # Names the user thinks in

    @property
    def units(self) -> list[str]:
        """Names of the units."""
        return [str(x) for x in self.coords["unit"]["name"]]

    @property
    def time(self) -> Tensor:
        """Start of each bin on the aligned axis in s: Tensor (n_time,), float64."""
        return torch.as_tensor(self.coords["time"]["time"], dtype=torch.float64)

    @property
    def n_components(self) -> int:
        """Number of motifs."""
        return len(self.weight)

    @property
    def error(self) -> float:
        """Relative error of the best start."""
        return float(self.start_error.min())

    @property
    def cp(self) -> CP:
        """The factors as a CP model; ``tectum.stats.tensors.to_tensorly`` hands it to tensorly."""
        return CP(self.weight, (self.time_factor, self.subject_factor, self.pair_factor))

    def affinity_matrix(self, component: int) -> Tensor:
        """Return the affinity of one motif as a matrix, its largest entry one: Tensor (n_units, n_units)."""
        column = self.pair_factor[:, self._component(component)]
        top = column.max()
        return to_matrix(column / torch.where(top > 0, top, 1), n_units=self.sizes["unit"], pairs=self.pair_units)

    def groups(self, component: int) -> list[list[str]]:
        """Return the names of the units in each block of a motif, largest block first."""
        labels = self.partition[self._component(component)].tolist()
        return [
            [u for u, b in zip(self.units, labels, strict=True) if b == k] for k in range(max(labels, default=-1) + 1)
        ]

    def trace_back(self, component: int, *, block: int = 0) -> TraceBack:
        """Go back from one block of a motif to the traces of its units; see :func:`.scores.trace_back`."""
        r = self._component(component)
        if self.traces is None:
            raise InputError(explain("trace_back", expected="a fit to traces", got="a fit to ready affinities"))
        members = (self.partition[r] == block).nonzero().flatten()
        if not 0 <= block < self.n_blocks(r):
            raise InputError(
                explain("trace_back", expected=f"a block of motif {r}", got=f"block {block} of {self.n_blocks(r)}")
            )
        return trace_back(self.traces, time=self.time_factor[:, r], animal=self.subject_factor[:, r], members=members)

    def n_blocks(self, component: int) -> int:
        """Number of blocks of a motif (0 without partition)."""
        return int(self.partition[self._component(component)].max()) + 1

    def strongest_block(self, component: int) -> int:
        """Block with the largest mean affinity inside, -1 without partition."""
        r = self._component(component)
        matrix, labels = self.affinity_matrix(r), self.partition[r]
        inside = [_mean_inside(matrix[labels == k][:, labels == k]) for k in range(self.n_blocks(r))]
        return int(np.argmax(inside)) if inside else -1

    def stimuli(self) -> Intervals:
        """Return the stimulus windows as named spans on the aligned axis."""
        names = self.coords.get("stimulus", {}).get("name", np.zeros(0, dtype=str))
        rows, time = self.stimulus_window.cpu(), self.time
        pairs, labels = [], []
        for name, row in zip(names, rows, strict=True):
            edge = torch.cat([row.new_zeros(1), row, row.new_zeros(1)]).int().diff()
            for a, b in zip(
                (edge == 1).nonzero().flatten().tolist(), (edge == -1).nonzero().flatten().tolist(), strict=True
            ):
                pairs.append((float(time[a]), float(time[b - 1]) + self.dt))
                labels.append(str(name))
        return Intervals.from_pairs(pairs, name=np.asarray(labels, dtype=str))

    def _component(self, component: int) -> int:
        if not 0 <= component < self.n_components:
            raise InputError(explain("component", expected=f"0 to {self.n_components - 1}", got=repr(component)))
        return component

    # Figures and report

    def plots(self) -> Mapping[str, Callable[..., Axes]]:
        """Return the kinds of figure that the result has data for; see :mod:`.figures`."""
        from . import figures

        return {name: self._bind(draw) for name, draw in figures.KINDS.items() if figures.available(self, name)}

    def _bind(self, draw: Callable[..., Axes]) -> Callable[..., Axes]:
        def styled(ax: Axes | None = None, **options: Any) -> Axes:
            from ...plot.style import style

            self._component(options.get("component", 0))
            with style():
                return draw(self, ax=ax, **options)

        return styled

    def sections(self) -> list[Section]:
        """Return the parts of a report on this result."""
        from .sections import sections

        return sections(self)


def _mean_inside(block: Tensor) -> float:
    """Mean off-diagonal entry of a square block; -1 for a single unit."""
    n = len(block)
    return float((block.sum() - block.diagonal().sum()) / (n * (n - 1))) if n > 1 else -1.0
