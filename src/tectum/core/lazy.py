"""Arrays that stay on disk until a part of them is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor


class ArrayLike(Protocol):
    """What a lazy source must offer: an h5py dataset, a NumPy memory map, a nibabel proxy."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each axis."""

    @property
    def dtype(self) -> Any:
        """Type of the stored numbers."""

    def __getitem__(self, index: Any) -> Any: ...


@dataclass(frozen=True)
class LazyArray:
    """A reader of parts of an array on disk, as float32 (or any given dtype) tensors.

    Parameters
    ----------
    source : array-like
        Object with ``shape``, ``dtype`` and slicing; it is indexed with slices and integers only.
    order : tuple of int, optional
        Axes of ``source`` in the order wanted (a transposition), default as they are.
    scale, offset : float or array broadcastable to a part, default 1 and 0
        ``value = stored * scale + offset``.
    dtype : torch.dtype, default float32
        Type of the tensors returned.

    Examples
    --------
    >>> lazy = LazyArray(np.arange(12).reshape(3, 4), order=(1, 0), scale=0.5)
    >>> tuple(lazy.shape), lazy[1:3, 0].tolist()
    ((4, 3), [0.5, 1.0])
    """

    source: ArrayLike
    order: tuple[int, ...] | None = None
    scale: float = 1.0
    offset: float = 0.0
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> torch.Size:
        """Shape after reordering the axes."""
        return torch.Size([self.source.shape[axis] for axis in self._axes])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.source.shape)

    @property
    def device(self) -> torch.device:
        """Where parts arrive: the CPU."""
        return torch.device("cpu")

    @property
    def _axes(self) -> tuple[int, ...]:
        return tuple(range(self.ndim)) if self.order is None else self.order

    def __getitem__(self, index: Any) -> Tensor:
        wanted = index if isinstance(index, tuple) else (index,)
        full = (*wanted, *[slice(None)] * (self.ndim - len(wanted)))
        stored: list[Any] = [slice(None)] * self.ndim
        late: list[Any] = []
        for axis, part in zip(self._axes, full, strict=True):
            stored[axis], rest = _readable(part, self.source.shape[axis])
            late.append(rest)
        block = np.asarray(self.source[tuple(stored)]).transpose(self._axes)
        tensor = torch.from_numpy(np.ascontiguousarray(block)).to(self.dtype)
        if self.scale != 1.0 or self.offset != 0.0:
            tensor = tensor * self.scale + self.offset
        for axis in reversed(range(len(late))):
            tensor = _apply(tensor, axis, late[axis])
        return tensor

    def load(self) -> Tensor:
        """Read everything."""
        return self[()]


def _readable(part: Any, length: int) -> tuple[slice, Any]:
    """Split an index into a forward slice that any file format reads and what remains to do in memory."""
    if isinstance(part, slice):
        start, stop, step = part.indices(length)
        if step == 1:
            return slice(start, max(start, stop)), slice(None)
        return slice(None), np.arange(length)[part]  # torch has no negative steps, files few others
    if isinstance(part, (int, np.integer)):
        position = int(part) + (length if part < 0 else 0)
        if not 0 <= position < length:
            raise IndexError(f"index {part} is out of range for an axis of {length}")
        return slice(position, position + 1), 0
    return slice(None), part


def _apply(tensor: Tensor, axis: int, rest: Any) -> Tensor:
    if isinstance(rest, slice):
        return tensor if rest == slice(None) else tensor[(slice(None),) * axis + (rest,)]
    if isinstance(rest, int):
        return tensor.select(axis, rest)
    index = torch.as_tensor(np.asarray(rest))
    index = index.nonzero().flatten() if index.dtype == torch.bool else index.long()
    return tensor.index_select(axis, index)
