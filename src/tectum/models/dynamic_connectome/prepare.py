"""From checked traces, or ready affinities, to the affinity on the device and the meaning of its axes."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.errors import InputError, TectumWarning, explain
from ...core.estimator import Run
from ...datasets.simulate.connectome import roll_units
from .affinity import PairSource, affinity_options, observed_pairs, pair_animal
from .alignment import Alignment, align, gather_bins
from .checks import warn_constant
from .derivative import fill_gaps, signed_derivative
from .inputs import Affinities, Settings, Traces


@dataclass(frozen=True, eq=False)
class GivenAffinity:
    """An affinity tensor that needs no traces; T bins, W animals, P pairs. It answers like a PairSource."""

    values: Tensor  #: (T, W, P); NaN where not observed
    index: Tensor  #: (2, P) int64, the units of each pair

    @property
    def shape(self) -> tuple[int, int, int]:
        """Bins, animals and pairs: (T, W, P)."""
        n_time, n_animals, n_pairs = self.values.shape
        return n_time, n_animals, n_pairs

    @property
    def dtype(self) -> torch.dtype:
        """Of the values."""
        return self.values.dtype

    @property
    def device(self) -> torch.device:
        """Where the values are."""
        return self.values.device

    @property
    def mask(self) -> Tensor:
        """Fibres that were observed, shape (W, P), bool."""
        return ~torch.isnan(self.values).all(0)

    def dense(self, *, max_bytes: float = 0) -> Tensor:
        """Return the whole tensor, shape (T, W, P); it is in memory already."""
        return self.values

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the tensor whole."""
        yield slice(0, self.values.shape[2]), self.values


Source = PairSource | GivenAffinity


class Prepared(NamedTuple):
    """The affinity on the device with what its axes mean."""

    source: Source
    alignment: Alignment  # on the CPU
    dt: float  # width of a bin, s
    units: list[str]
    animals: list[str]
    traces: Traces | None


def prepare(traces: Traces, how: Settings, run: Run) -> Prepared:
    """Align and differentiate training traces and set up the affinity of every pair that some animal shows."""
    if traces.left_out:
        warn(f"units without any sample are left out: {', '.join(traces.left_out)}")
    aligned = time_axis(traces, how, how.align, how.assume_aligned)
    changes = signals(traces, how, run, constant=True)
    aligned = recorded_bins(aligned, [valid for _, valid in changes])
    source = affinities(traces, changes, aligned, how)
    pairs, lost = observed_pairs(torch.stack([a.present for a in source.animals]))
    if lost.shape[1]:
        warn(f"{lost.shape[1]} pairs were never recorded together and are left out")
        source = dataclasses.replace(source, pairs=pairs)
    return Prepared(source, aligned, _width(aligned, traces.dt), traces.units, traces.animals, traces)


def prepare_known(traces: Traces, pairs: Tensor, how: Settings, run: Run) -> Prepared:
    """Set up the affinity of new traces, in their own time, on the pairs (2, P) of a fit."""
    aligned = time_axis(traces, how, "absolute", True)
    source = affinities(traces, signals(traces, how, run), aligned, how)
    source = dataclasses.replace(source, pairs=pairs)
    return Prepared(source, aligned, _width(aligned, traces.dt), traces.units, traces.animals, traces)


def prepare_rolled(made: Prepared, how: Settings, run: Run, *, shift: float, draw: torch.Generator) -> Source:
    """Set up the affinity after rolling every unit of every animal by ``shift`` s or more."""
    if made.traces is None:
        raise InputError(explain("DynamicConnectome", expected="traces to roll in time", got="ready affinities"))
    steps = max(1, round(shift / made.traces.dt))
    rolled = made.traces._replace(values=[_rolled(x, steps, draw) for x in made.traces.values])
    source = affinities(rolled, signals(rolled, how, run), made.alignment, how)
    return dataclasses.replace(source, pairs=made.source.index)


def prepare_given(found: Affinities, how: Settings, run: Run) -> Prepared:
    """Bin ready affinities and leave out bins without any."""
    aligned = align(
        "absolute", lengths=[len(found.values)], rate=1 / found.dt, events=[found.events], t0=[found.t0],
        bin_size=_bin_samples(how, found.dt), assume_aligned=True,
    )  # fmt: skip
    aligned = aligned._replace(time=aligned.time + found.t0)
    values = gather_bins(found.values.to(run.device, run.dtype), bins=aligned.bins[0].to(run.device))
    seen = ~torch.isnan(values).flatten(1).all(1)
    source = GivenAffinity(values[seen], found.index.to(run.device))
    aligned = keep_bins(aligned, seen.cpu())
    return Prepared(source, aligned, _width(aligned, found.dt), found.units, found.animals, None)


def signals(traces: Traces, how: Settings, run: Run, *, constant: bool = False) -> list[tuple[Tensor, Tensor]]:
    """Signal of the affinity and its validity, both (T, N), of every animal; warn of ``constant`` units."""
    moved = [x.to(run.device) for x in traces.values]
    found = [
        signed_derivative(x, dt=traces.dt, sigma=how.derivative, dead_zone=how.dead_zone, min_run=how.min_run,
                          remove_global=how.remove_global, dtype=run.dtype)
        for x in moved
    ]  # fmt: skip
    if constant:
        warn_constant([d.scale for d in found], labels=traces.units, names=traces.animals)
    if how.affinity != "sliding_abs_corr":
        return [(d.v, d.valid) for d in found]
    filled = [fill_gaps(x, max_gap=math.floor(1 / traces.dt + 1e-6)).x.to(run.dtype) for x in moved]
    return [(x, d.valid) for x, d in zip(filled, found, strict=True)]


def affinities(
    traces: Traces, signal: Sequence[tuple[Tensor, Tensor]], aligned: Alignment, how: Settings
) -> PairSource:
    """Affinity of all pairs from the signals of every animal."""
    options = affinity_options(dt=traces.dt, kind=how.affinity, sign=how.sign, smoothing=how.smoothing, lags=how.lags,
                               window=how.window)  # fmt: skip
    animals = [
        pair_animal(x, valid=valid, bins=bins.to(x.device))
        for (x, valid), bins in zip(signal, aligned.bins, strict=True)
    ]
    return PairSource(animals=animals, options=options)


def complete(source: Source) -> bool:
    """Tell whether every observed fibre has a value in every bin."""
    if isinstance(source, GivenAffinity):
        return not bool((torch.isnan(source.values) & source.mask).any())
    seen = [(a.valid[a.present].all(0), a.bins) for a in source.animals if a.valid is not None]  # (T,), (K, B, b)
    return all(bool(valid[bins].any(2).any(0).all()) for valid, bins in seen)


def each_animal(source: Source) -> list[GivenAffinity]:
    """Split ready affinities by animal."""
    if not isinstance(source, GivenAffinity):
        raise InputError(explain("DynamicConnectome", expected="ready affinities", got="traces"))
    return [GivenAffinity(source.values[:, w : w + 1], source.index) for w in range(source.shape[1])]


def without_animal(source: Source, animal: int) -> Source:
    """Leave one animal out."""
    if isinstance(source, GivenAffinity):
        kept = [w for w in range(source.shape[1]) if w != animal]
        return GivenAffinity(source.values[:, kept], source.index)
    return dataclasses.replace(source, animals=[a for w, a in enumerate(source.animals) if w != animal])


def time_axis(traces: Traces, how: Settings, mode: str, assume_aligned: bool) -> Alignment:
    """Common time axis; that of recordings which start together tells their own time."""
    aligned = align(
        mode, lengths=[len(x) for x in traces.values], rate=1 / traces.dt, events=traces.events, t0=traces.t0,
        bin_size=_bin_samples(how, traces.dt), before=how.before, after=how.after, around=how.around,
        assume_aligned=assume_aligned, names=traces.animals,
    )  # fmt: skip
    together = max(traces.t0) - min(traces.t0) < traces.dt
    return aligned._replace(time=aligned.time + traces.t0[0]) if mode == "absolute" and together else aligned


def recorded_bins(aligned: Alignment, valid: Sequence[Tensor]) -> Alignment:
    """Leave out the bins in which no animal shows two units at once.

    Parameters
    ----------
    aligned : Alignment
        B bins.
    valid : sequence of Tensor, each shape (T_w, N), bool
        Samples at which the derivative of each unit is known.

    Returns
    -------
    Alignment
        Blocks end where bins were left out.
    """
    pairs = [(v.sum(1) >= 2).cpu()[bins] for v, bins in zip(valid, aligned.bins, strict=True)]  # (K, B, b)
    seen = torch.stack([p.any(2).any(0) for p in pairs]).any(0)
    if not bool(seen.any()):
        raise InputError(explain("DynamicConnectome", expected="two units recorded at one time", got="none"))
    return aligned if bool(seen.all()) else keep_bins(aligned, seen)


def keep_bins(aligned: Alignment, seen: Tensor) -> Alignment:
    """Select bins (B,); blocks end where bins are left out."""
    kept = seen.nonzero().flatten()
    block = torch.repeat_interleave(torch.tensor([b - a for a, b in aligned.blocks]))[kept]
    cuts = ((kept.diff() != 1) | (block.diff() != 0)).nonzero().flatten() + 1
    edges = [0, *cuts.tolist(), len(kept)]
    return aligned._replace(
        bins=[bins[:, kept] for bins in aligned.bins], blocks=list(zip(edges[:-1], edges[1:], strict=True)),
        time=aligned.time[kept], offset=aligned.offset[kept], windows=aligned.windows[:, kept],
    )  # fmt: skip


def _bin_samples(how: Settings, dt: float) -> int:
    return 1 if how.bin is None else max(1, round(how.bin / dt))


def _width(aligned: Alignment, dt: float) -> float:
    """Width of a bin, s."""
    return dt * aligned.bins[0].shape[2]


def _rolled(x: Tensor, shift: int, draw: torch.Generator) -> Tensor:
    """Roll units independently over the samples at which anything was recorded."""
    recorded = ~torch.isnan(x).all(1)
    out = x.clone()
    out[recorded] = roll_units(x[recorded], min_shift=shift, generator=draw)
    return out


def warn(message: str) -> None:
    """Warn in the name of the estimator."""
    warnings.warn(f"DynamicConnectome: {message}", TectumWarning, stacklevel=2)
