"""Device and precision policy: one place decides where tensors live."""

from __future__ import annotations

import torch

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
    except RuntimeError as cause:
        raise InputError(explain("device", expected="'auto', 'cpu', 'cuda', 'mps', ...", got=repr(device))) from cause
    if found.type == "cuda" and not torch.cuda.is_available():
        raise InputError(
            explain(
                "device",
                expected="a device of this machine",
                got=f"{device!r} with torch {torch.__version__}",
                fix="use device='cpu' or install a CUDA build of torch",
            )
        )
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
