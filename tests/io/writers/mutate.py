"""Damage to files, in all the ways that disks, networks and people cause it."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tectum import Graph, Intervals, Recording, Session, Spikes
from tectum.core.errors import LoadError, TectumWarning

SECONDS = 5.0


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Return the bytes cut off, with flipped bits, emptied, zeroed in part, or with foreign bytes in front."""
    kind = rng.integers(6)
    if kind == 0:
        return data[: rng.integers(len(data))] if data else b"x"
    if kind in (1, 2):
        made = np.frombuffer(data, np.uint8).copy()
        top = min(len(made), 400) if kind == 1 else len(made)  # headers are where it hurts
        for place in rng.integers(0, top, size=rng.integers(1, 4)):
            made[place] ^= np.uint8(1 << rng.integers(8))
        return made.tobytes()
    if kind == 3:
        first = int(rng.integers(len(data)))
        return data[:first] + bytes(min(64, len(data) - first)) + data[first + 64 :]
    return b"" if kind == 4 else rng.bytes(int(rng.integers(1, 9))) + data


def mutations(source: Path, work: Path, n: int, seed: int) -> Iterator[tuple[str, Path]]:
    """Yield ``n`` damaged copies of a file or folder; each is made anew and gone at the next step."""
    rng = np.random.default_rng(seed)
    files = [source] if source.is_file() else sorted(p for p in source.rglob("*") if p.is_file())
    for k in range(n):
        if work.exists():
            shutil.rmtree(work)
        work.mkdir(parents=True)
        target = work / source.name
        (shutil.copy if source.is_file() else shutil.copytree)(source, target)
        victim = files[k % len(files)]
        place = target if source.is_file() else target / victim.relative_to(source)
        action = rng.integers(8)
        if action == 0 and source.is_dir():
            place.unlink()
            yield f"{k}: {victim.name} removed", target
        elif action == 1:
            other = files[int(rng.integers(len(files)))]
            content = other.read_bytes() if other != victim else b"a text, not a recording\n"
            place.write_bytes(content)
            yield f"{k}: {victim.name} has the content of {other.name}", target
        else:
            place.write_bytes(damaged(victim.read_bytes(), rng))
            yield f"{k}: {victim.name} damaged", target


def touch(item: Any) -> dict[str, tuple[int, ...]]:
    """Read everything lazy and return the shapes."""
    if isinstance(item, Session):
        return {f"{name}.{k}": v for name, part in item.items() for k, v in touch(part).items()}
    if isinstance(item, Recording):
        values = item.values
        assert tuple(values.shape) == tuple(item.shape)
        return {"data": tuple(values.shape)}
    if isinstance(item, Spikes):
        return {"n_units": (item.n_units,)}
    assert isinstance(item, (Intervals, Graph))
    return {"rows": (len(item),)} if isinstance(item, Intervals) else {"weights": tuple(item.weights.shape)}


def survive(
    read: Callable[[Path], Any],
    source: Path,
    work: Path,
    *,
    n: int = 300,
    seed: int = 0,
    fixed: tuple[str, ...] | None = None,
) -> dict[str, int]:
    """Check that every damaged copy gives a :class:`LoadError` that names a path, or a load whose shapes are right.

    ``fixed`` are the parts whose shape may not change; default all parts of the undamaged file that are recordings.
    """
    good = touch(read(source))
    kept = [k for k in good if k.endswith("data")] if fixed is None else list(fixed)
    count = {"refused": 0, "loaded": 0}
    for name, path in mutations(source, work, n, seed):
        began = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", TectumWarning)
                found = touch(read(path))
        except LoadError as error:
            count["refused"] += 1
            message = str(error)
            named = str(work) in message
        else:
            wrong = {k: (found[k], good[k]) for k in kept if k in found and found[k] != good[k]}
            assert not wrong, f"{name}: a wrong shape was loaded: {wrong}"
            count["loaded"] += 1
            message, named = "", True
        assert named, f"{name}: the message names no file: {message}"
        assert time.perf_counter() - began < SECONDS, name
    return count
