"""Seeds and generators: reproducible unless asked otherwise, and never the caller's own state."""

from __future__ import annotations

import hashlib
import random as _python_random
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import numpy as np
import torch

from .errors import InputError, explain

_LIMIT = 2**63


def resolve_seed(random_state: int | None) -> int:
    """Turn ``random_state`` into a definite seed; ``None`` draws entropy, to be recorded by the caller.

    Examples
    --------
    >>> resolve_seed(7)
    7
    """
    if random_state is None:
        return secrets.randbelow(2**31)
    if (
        isinstance(random_state, bool)
        or not isinstance(random_state, (int, np.integer))
        or not 0 <= random_state < _LIMIT
    ):
        raise InputError(explain("random_state", expected="an integer in [0, 2**63) or None", got=repr(random_state)))
    return int(random_state)


def spawn(seed: int, *path: int | str) -> int:
    """Derive an independent seed for a named part of a computation.

    Examples
    --------
    >>> spawn(0, "restart", 3) == spawn(0, "restart", 3)
    True
    >>> spawn(0, "restart", 3) == spawn(0, "restart", 4)
    False
    """
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % _LIMIT


def generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Make a torch generator on ``device`` seeded with ``seed``."""
    made = torch.Generator(device=device)
    made.manual_seed(seed)
    return made


def seed_layers(seed: int, device: torch.device | str = "cpu") -> None:
    """Seed torch's global generators of the CPU and of ``device``, from which layers such as dropout draw.

    Unlike :func:`torch.manual_seed` it leaves other devices alone and takes a hundredth of the time.
    """
    torch.default_generator.manual_seed(seed)
    device = torch.device(device)
    if device.type not in ("cpu", "meta"):
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            torch.get_device_module(device.type).manual_seed(seed)


@contextmanager
def isolated(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Seed the global generators inside the block and give the caller's back afterwards, whatever happens.

    Layers such as dropout draw from torch's global generators; inside this block they are reproducible.
    """
    numpy_state, python_state = np.random.get_state(), _python_random.getstate()  # noqa: NPY002
    with _forked(torch.device(device)):
        try:
            seed_layers(seed, device)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            _python_random.seed(seed)
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            _python_random.setstate(python_state)


@contextmanager
def _forked(device: torch.device) -> Iterator[None]:
    """Give torch's generators of the CPU and of one device back as they were."""
    module = None if device.type in ("cpu", "meta") else torch.get_device_module(device.type)
    place = () if device.type == "mps" else (device,)  # the only module whose functions take no device
    before = torch.get_rng_state(), None if module is None else module.get_rng_state(*place)
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        if module is not None:
            module.set_rng_state(before[1], *place)
