"""Device and precision policy: one place decides where tensors live."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from .errors import InputError, explain

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Turn ``"auto"`` or a device name into a device that exists on this machine.

    Examples
    --------
    >>> resolve_device("cpu")
    device(type='cpu')
    """
    if str(device) == "auto":
        return _best_device()
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError) as cause:
        raise InputError(explain("device", expected="'auto', 'cpu', 'cuda', 'mps', ...", got=repr(device))) from cause
    try:
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as cause:
        raise InputError(
            explain(
                "device",
                expected="a device of this machine",
                got=f"{str(device)!r} with torch {torch.__version__}",
                fix="use device='cpu' or install a build of torch for it",
            )
        ) from cause
    return found


def _best_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def resolve_dtype(dtype: str) -> torch.dtype:
    """Turn ``"float32"`` or ``"float64"`` into the torch dtype.

    Examples
    --------
    >>> resolve_dtype("float32")
    torch.float32
    """
    if dtype not in DTYPES:
        raise InputError(explain("dtype", expected=" or ".join(DTYPES), got=repr(dtype)))
    return DTYPES[dtype]


def highest_precision(device: torch.device) -> torch.dtype:
    """Return float64 where the device has it, else float32 (Apple's MPS has none)."""
    return torch.float32 if device.type == "mps" else torch.float64


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Set the dtype of new tensors and layers inside the block and give the caller's back afterwards."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def from_numpy(array: np.ndarray, where: str = "input") -> Tensor:
    """Return a CPU tensor over the memory of an array, copied only if torch could not write to it or stride over it.

    Examples
    --------
    >>> from_numpy(np.arange(3)[::-1]).tolist()
    [2, 1, 0]
    """
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    shareable = native.flags.writeable and all(s >= 0 and s % native.itemsize == 0 for s in native.strides)
    try:
        return torch.from_numpy(native if shareable else native.copy())
    except TypeError as cause:
        raise InputError(explain(where, expected="an array of numbers or booleans", got=str(array.dtype))) from cause
