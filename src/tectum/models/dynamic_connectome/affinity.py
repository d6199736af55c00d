"""Pairwise affinity of derivatives over time, streamed over pairs.

The tensor (time, animal, pair) is never required whole: `PairSource` computes it chunk by chunk, and the chunk
in tiles that stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ...core.errors import InputError, explain, nearest
from .checks import check_bytes, check_lags
from .kernels import KERNELS, AffinityOptions, KernelBuilder, PairKernel, cofluctuation
from .pairs import pair_index

_TILE = 1 << 18  # elements of one temporary on a CPU: 1 MiB of float32


def affinity_options(
    *,
    dt: float,
    kind: str = "corrected",
    sign: str = "abs",
    smoothing: float = 2.0,
    lags: Sequence[float] | None = None,
    window: float = 10.0,
) -> AffinityOptions:
    """Turn seconds into samples and check the choices.

    Parameters
    ----------
    dt : float
        Sampling interval, s.
    kind : {"corrected", "differential", "differential_instant", "sliding_abs_corr"}
        Affinity.
    sign : {"abs", "same", "opposite"}
        Whether both signs count, only common changes or only opposite ones.
    smoothing : float, default 2
        Standard deviation of the Gaussian of "corrected", s.
    lags : sequence of float, optional
        Lags of the null of "corrected", s. By default 1, 1.5, 2 and 2.5 times ``smoothing``, and all of them
        stretched in proportion where the shortest would be below 3 samples.
    window : float, default 10
        Window of "sliding_abs_corr", s.

    Returns
    -------
    AffinityOptions

    Examples
    --------
    >>> affinity_options(dt=0.25).lags
    (8, 12, 16, 20)
    >>> affinity_options(dt=2.0).lags
    (3, 5, 6, 8)
    """
    if kind not in KERNELS:
        raise InputError(
            explain("affinity kind", expected=" | ".join(KERNELS), got=repr(kind), fix=nearest(kind, KERNELS))
        )
    if sign not in ("abs", "same", "opposite"):
        raise InputError(explain("affinity sign", expected="'abs' | 'same' | 'opposite'", got=repr(sign)))
    if not (dt > 0 and smoothing > 0 and window > 0):
        raise InputError(
            explain("affinity", expected="dt, smoothing and window > 0 s", got=f"{dt}, {smoothing}, {window}")
        )
    unit = max(smoothing, 3 * dt)
    seconds = [factor * unit for factor in (1.0, 1.5, 2.0, 2.5)] if lags is None else [abs(float(lag)) for lag in lags]
    samples = tuple(sorted({int(lag / dt + 0.5) for lag in seconds}))
    if not samples or samples[0] < 3:
        raise InputError(
            explain("affinity lags", expected="lags of 3 samples or more", got=f"{samples} samples at dt={dt} s")
        )
    return AffinityOptions(kind, sign, smoothing / dt, samples, max(1, round(window / dt / 2)))


class PairAnimal(NamedTuple):
    """What the affinity of one animal is computed from; T samples, N units.

    Attributes
    ----------
    signal : Tensor, shape (N, T)
        ``v`` of `signed_derivative`, transposed; for "sliding_abs_corr" the filled traces.
    present : Tensor, shape (N,), bool
        Units that were recorded.
    valid : Tensor, shape (N, T), bool, or None
        False in and near long gaps; None where there is no gap.
    blocks : tuple of (start, stop)
        Contiguous stretches of samples: lags roll, windows and runs end inside them.
    bins : Tensor, shape (K, B, b), int64, or None
        Samples averaged into each of the B bins: b samples of K repeats (see ``alignment``).
        None: consecutive bins of ``bin_size`` samples.
    """

    signal: Tensor
    present: Tensor
    valid: Tensor | None
    blocks: tuple[tuple[int, int], ...]
    bins: Tensor | None


def pair_animal(
    signal: Tensor,
    *,
    valid: Tensor | None = None,
    blocks: Sequence[tuple[int, int]] | None = None,
    bins: Tensor | None = None,
) -> PairAnimal:
    """Prepare one animal for `PairSource`.

    Parameters
    ----------
    signal : Tensor, shape (T, N)
        ``v`` of `signed_derivative`, or filled traces for "sliding_abs_corr".
    valid : Tensor, shape (T, N), bool, optional
        Where the signal counts; columns without any True are absent units.
    blocks : sequence of (start, stop), optional
        Contiguous stretches that cover the T samples; one by default.
    bins : Tensor, shape (K, B, b), int64, optional
        Samples of every bin, from ``alignment``.

    Returns
    -------
    PairAnimal

    Examples
    --------
    >>> pair_animal(torch.zeros(50, 3)).blocks
    ((0, 50),)
    """
    spans = tuple(blocks) if blocks is not None else ((0, signal.shape[0]),)
    seen = torch.isfinite(signal) if valid is None else valid & torch.isfinite(signal)
    present = seen.any(0)
    clean = torch.where(seen, signal, 0).T.contiguous()
    whole = bool((seen | ~present).all())
    return PairAnimal(clean, present, None if whole else seen.T.contiguous(), spans, bins)


@dataclass(frozen=True, kw_only=True, eq=False)
class PairSource:
    """The affinity tensor (T, W, P) of several animals, computed on demand in chunks of pairs.

    Parameters
    ----------
    animals : sequence of PairAnimal
        W animals on the same N units.
    options : AffinityOptions
        From `affinity_options`.
    bin_size : int, default 1
        Samples averaged into one bin, after the affinity; a remainder at the end is dropped.
    chunk : int, default 4096
        Pairs computed at once: T x W x chunk values are held.
    pairs : Tensor, shape (2, P), int64, optional
        Pairs wanted; the whole upper triangle by default.
    fill : float, default NaN
        Value of the fibres (animal, pair) that were not observed.

    Examples
    --------
    >>> v = torch.sin(torch.arange(400.0) / 9).unsqueeze(1).repeat(1, 3)
    >>> source = PairSource(animals=[pair_animal(v)], options=affinity_options(dt=0.25), bin_size=4)
    >>> source.shape, source.dense().shape
    ((100, 1, 3), torch.Size([100, 1, 3]))
    """

    animals: Sequence[PairAnimal]
    options: AffinityOptions
    bin_size: int = 1
    chunk: int = 4096
    pairs: Tensor | None = None
    fill: float = float("nan")
    index: Tensor = field(init=False, repr=False)
    n_time: int = field(init=False)

    def __post_init__(self) -> None:
        sizes = [animal.signal.shape[0] for animal in self.animals]
        if not sizes or len(set(sizes)) > 1:
            raise InputError(
                explain("PairSource", expected="animals on one list of units", got=f"numbers of units {sizes}")
            )
        if self.bin_size < 1 or self.chunk < 1:
            raise InputError(
                explain("PairSource", expected="bin_size and chunk >= 1", got=f"{self.bin_size}, {self.chunk}")
            )
        lengths = [self._length(animal) for animal in self.animals]
        if len(set(lengths)) > 1 or lengths[0] < 1:
            raise InputError(
                explain(
                    "PairSource",
                    expected="one time axis of at least one bin for all animals",
                    got=f"{lengths} bins",
                    fix="align the animals first",
                )
            )
        if self.options.kind == "corrected":
            check_lags(self.options.lags, [animal.blocks for animal in self.animals])
        device = self.animals[0].signal.device
        index = pair_index(sizes[0], device=device) if self.pairs is None else self.pairs.to(device)
        object.__setattr__(self, "index", index)
        object.__setattr__(self, "n_time", lengths[0])

    def _length(self, animal: PairAnimal) -> int:
        return animal.signal.shape[1] // self.bin_size if animal.bins is None else animal.bins.shape[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Bins, animals and pairs: (T, W, P)."""
        return self.n_time, len(self.animals), self.index.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Of the values."""
        return self.animals[0].signal.dtype

    @property
    def device(self) -> torch.device:
        """Where the values are made."""
        return self.animals[0].signal.device

    @property
    def mask(self) -> Tensor:
        """Fibres that were observed, shape (W, P), bool."""
        present = torch.stack([animal.present for animal in self.animals])
        return fibre_mask(present, pairs=self.index)

    @property
    def complete(self) -> bool:
        """Whether every observed fibre is observed at all times (no long gaps)."""
        return all(animal.valid is None for animal in self.animals)

    def chunks(self) -> Iterator[tuple[slice, Tensor]]:
        """Yield the tensor piece by piece.

        Yields
        ------
        where : slice
            Positions of the pairs of this piece.
        values : Tensor, shape (T, W, p)
            Affinities in [0, 1]; ``fill`` for unobserved fibres, NaN in long gaps.
        """
        yield from self._pieces([_kernels(animal, self.options, KERNELS[self.options.kind]) for animal in self.animals])

    def dense(self, *, max_bytes: float = 8 * 2**30) -> Tensor:
        """The whole tensor, shape (T, W, P).

        Parameters
        ----------
        max_bytes : float, default 8 GiB
            Refuse to allocate more than this.

        Raises
        ------
        TooLargeError
            Before anything is allocated.
        """
        check_bytes(self.shape, itemsize=self.dtype.itemsize, max_bytes=max_bytes)
        out = torch.empty(self.shape, dtype=self.dtype, device=self.device)
        for where, values in self.chunks():
            out[:, :, where] = values
        return out

    def mean_cofluctuation(self, *, weights: Tensor | None = None) -> Tensor:
        """Signed co-fluctuation of every pair, averaged over time: its sign is the sign of the pair.

        Parameters
        ----------
        weights : Tensor, shape (T,), optional
            Weight of each bin, for instance the time course of a motif; equal by default.

        Returns
        -------
        Tensor, shape (W, P)
            In [-1, 1]; NaN for unobserved fibres.
        """
        if self.options.kind == "sliding_abs_corr":
            raise InputError(
                explain("mean_cofluctuation", expected="a source of derivatives", got="kind='sliding_abs_corr'")
            )
        means = []
        for _, values in self._pieces([_kernels(animal, self.options, cofluctuation) for animal in self.animals]):
            weight = values.new_ones(self.n_time) if weights is None else weights.to(values)
            seen = torch.isfinite(values)
            total = torch.einsum("t,twp->wp", weight, torch.where(seen, values, 0))
            means.append(total / torch.einsum("t,twp->wp", weight, seen.to(values.dtype)))
        return torch.cat(means, 1)

    def _pieces(self, kernels: list[list[PairKernel]]) -> Iterator[tuple[slice, Tensor]]:
        """Fill (T, W, p) pieces from the kernels of every animal and block."""
        n_time, n_animals, n_pairs = self.shape
        mask = self.mask
        for start in range(0, n_pairs, self.chunk):
            where = slice(start, min(start + self.chunk, n_pairs))
            first, second = self.index[:, where].unbind(0)
            values = torch.empty(n_time, n_animals, first.shape[0], dtype=self.dtype, device=self.device)
            for w, animal in enumerate(self.animals):
                self._fill(values[:, w], animal, kernels[w], first, second)
            yield where, values.masked_fill_(~mask[:, where], self.fill)

    def _fill(self, out: Tensor, animal: PairAnimal, kernels: list[PairKernel], first: Tensor, second: Tensor) -> None:
        """Compute one animal's (T, p) values tile by tile."""
        tile = max(1, _TILE // animal.signal.shape[1]) if self.device.type == "cpu" else first.shape[0]
        for i, j, target in zip(
            torch.split(first, tile), torch.split(second, tile), torch.split(out, tile, 1), strict=True
        ):
            blocks = [kernel(i, j) for kernel in kernels]
            rows = blocks[0] if len(blocks) == 1 else torch.cat(blocks, 1)  # (p, T samples)
            target.copy_(_binned(rows, animal, self.bin_size).T)


def _kernels(animal: PairAnimal, options: AffinityOptions, build: KernelBuilder) -> list[PairKernel]:
    """One kernel a block of one animal."""
    cut = [(animal.signal[:, a:b], None if animal.valid is None else animal.valid[:, a:b]) for a, b in animal.blocks]
    return [build(signal, valid, options) for signal, valid in cut]


def _binned(rows: Tensor, animal: PairAnimal, size: int) -> Tensor:
    """Average (p, samples) into (p, bins); bins without a value stay NaN."""
    if animal.bins is None:
        if size == 1:
            return rows
        n_bins = rows.shape[1] // size
        return _mean(rows[:, : n_bins * size].reshape(rows.shape[0], n_bins, size), (2,), animal.valid is not None)
    picked = rows[:, animal.bins.flatten()].view(rows.shape[0], *animal.bins.shape)  # (p, K, B, b)
    return _mean(picked, (1, 3), animal.valid is not None)


def _mean(values: Tensor, axes: tuple[int, ...], gaps: bool) -> Tensor:
    """Mean over axes, without NaN where there are gaps."""
    return values.nanmean(axes) if gaps else values.mean(axes)


def affinity(
    signal: Tensor,
    *,
    dt: float,
    kind: str = "corrected",
    sign: str = "abs",
    valid: Tensor | None = None,
    pairs: Tensor | None = None,
    blocks: Sequence[tuple[int, int]] | None = None,
) -> Tensor:
    """Affinity of all pairs of one animal at every sample: `PairSource` for small data.

    Parameters
    ----------
    signal : Tensor, shape (T, N)
        ``v`` of `signed_derivative`, or filled traces for "sliding_abs_corr".
    dt : float
        Sampling interval, s.
    kind, sign : str
        See `affinity_options`.
    valid : Tensor, shape (T, N), bool, optional
        Where the signal counts.
    pairs : Tensor, shape (2, P), int64, optional
        Pairs wanted; all by default.
    blocks : sequence of (start, stop), optional
        Contiguous stretches of samples.

    Returns
    -------
    Tensor, shape (T, P)
        In [0, 1]; NaN for absent units and in long gaps.

    Examples
    --------
    >>> v = torch.tensor([[0.5, 0.25], [0.5, -0.75]])
    >>> affinity(v, dt=1.0, kind="differential_instant").squeeze().tolist()
    [0.25, 0.5]
    """
    animal = pair_animal(signal, valid=valid, blocks=blocks)
    source = PairSource(animals=[animal], options=affinity_options(dt=dt, kind=kind, sign=sign), pairs=pairs)
    return source.dense()[:, 0]


def fibre_mask(present: Tensor, *, pairs: Tensor | None = None) -> Tensor:
    """Which (animal, pair) fibres were observed.

    Parameters
    ----------
    present : Tensor, shape (W, N), bool
        Units recorded in each animal.
    pairs : Tensor, shape (2, P), int64, optional
        All pairs by default.

    Returns
    -------
    Tensor, shape (W, P), bool

    Examples
    --------
    >>> fibre_mask(torch.tensor([[True, True, False]])).tolist()
    [[True, False, False]]
    """
    index = pair_index(present.shape[1], device=present.device) if pairs is None else pairs
    return present[:, index[0]] & present[:, index[1]]


def observed_pairs(present: Tensor, *, min_animals: int = 1) -> tuple[Tensor, Tensor]:
    """Split the pairs into those seen together in enough animals and the others.

    Parameters
    ----------
    present : Tensor, shape (W, N), bool
        Units recorded in each animal.
    min_animals : int, default 1
        Animals in which both units must be there.

    Returns
    -------
    kept, removed : Tensor, shapes (2, P) and (2, Q), int64

    Examples
    --------
    >>> kept, removed = observed_pairs(torch.tensor([[True, True, False], [False, True, True]]))
    >>> removed.squeeze().tolist()
    [0, 2]
    """
    index = pair_index(present.shape[1], device=present.device)
    enough = fibre_mask(present, pairs=index).sum(0) >= min_animals
    return index[:, enough], index[:, ~enough]


def block_mean(values: Tensor, *, size: int) -> Tensor:
    """Average ``size`` samples into one bin along the first axis; a remainder is dropped.

    Parameters
    ----------
    values : Tensor, shape (T, ...)
        Samples.
    size : int
        Samples a bin.

    Returns
    -------
    Tensor, shape (T // size, ...)

    Examples
    --------
    >>> block_mean(torch.tensor([1.0, 3.0, 5.0]), size=2).tolist()
    [2.0]
    """
    n_bins = values.shape[0] // size
    return values[: n_bins * size].reshape(n_bins, size, *values.shape[1:]).mean(1)
