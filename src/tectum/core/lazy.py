"""Arrays that stay on disk until a part of them is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from .device import from_numpy
from .errors import InputError, explain
from .table import positions


class ArrayLike(Protocol):
    """What a lazy source must offer: an h5py dataset, a NumPy memory map, a nibabel proxy."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each axis."""

    @property
    def dtype(self) -> Any:
        """Type of the stored numbers."""

    def __getitem__(self, index: Any) -> Any: ...


@dataclass(frozen=True, eq=False)
class LazyArray:
    """A reader of parts of an array on disk, as float32 (or any given dtype) tensors.

    Each axis is indexed on its own (outer indexing), by an integer, a slice, a mask or a list of positions.

    Parameters
    ----------
    source : array-like
        Object with ``shape``, ``dtype`` and slicing; it is read with forward slices of step 1 only.
    order : tuple of int, optional
        Axes of ``source`` in the order wanted (a transposition), default as they are.
    scale, offset : float, default 1 and 0
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
        stored: list[slice] = [slice(None)] * self.ndim
        late: list[Any] = []
        for axis, part in zip(self._axes, _full(index, self.ndim), strict=True):
            stored[axis], rest = _readable(part, self.source.shape[axis])
            late.append(rest)
        block = np.asarray(self.source[tuple(stored)]).transpose(self._axes)
        tensor = from_numpy(block).to(self.dtype, copy=True, memory_format=torch.contiguous_format)
        if self.scale != 1.0 or self.offset != 0.0:
            tensor = (tensor * self.scale + self.offset).to(self.dtype)
        for axis in reversed(range(self.ndim)):
            if isinstance(late[axis], int):
                tensor = tensor.select(axis, late[axis])
            elif late[axis] is not None:
                tensor = tensor.index_select(axis, torch.from_numpy(late[axis]))
        return tensor

    def load(self) -> Tensor:
        """Read everything."""
        return self[()]


def _full(index: Any, ndim: int) -> tuple[Any, ...]:
    """Return one index for each axis."""
    parts = index if isinstance(index, tuple) else (index,)
    place = next((i for i, part in enumerate(parts) if part is Ellipsis), len(parts))
    named = len(parts) - (place < len(parts))
    if named > ndim:
        raise InputError(explain("LazyArray", expected=f"at most {ndim} indices", got=str(named)))
    return (*parts[:place], *[slice(None)] * (ndim - named), *parts[place + 1 :])


def _readable(part: Any, length: int) -> tuple[slice, Any]:
    """Split an index into a forward slice that any file format reads and what remains to do in memory, if anything."""
    if isinstance(part, (int, np.integer)) and not isinstance(part, bool):
        if not -length <= part < length:
            raise IndexError(f"index {part} is out of range for an axis of {length}")
        return slice(int(part) % length, int(part) % length + 1), 0
    if isinstance(part, slice) and part.step in (None, 1):
        start, stop, _ = part.indices(length)
        return slice(start, max(start, stop)), None
    rows = positions(part, length, "LazyArray")
    if len(rows) == 0:
        return slice(0, 0), None
    return slice(int(rows.min()), int(rows.max()) + 1), rows - rows.min()
