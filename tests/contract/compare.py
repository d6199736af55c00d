"""Equality of whatever estimators take and give, with the place of the first difference in the message."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tectum.core.lazy import LazyArray
from tectum.core.result import Provenance

#: Facts of a run that differ between equal runs.
INCIDENTAL = ("seconds", "device", "config")


def assert_same(found: Any, wanted: Any, *, rtol: float = 0.0, atol: float = 0.0, where: str = "output") -> None:
    """Compare trees of tensors, arrays, containers, results, mappings and plain values; NaN equals NaN.

    Tensors may lie on different devices. Of a provenance, what differs between equal runs is left out.
    """
    found, wanted = _plain(found), _plain(wanted)
    assert type(found) is type(wanted), f"{where}: {type(found).__name__} instead of {type(wanted).__name__}"
    if isinstance(wanted, Tensor):
        torch.testing.assert_close(
            found, wanted, rtol=rtol, atol=atol, equal_nan=True, msg=lambda text: f"{where}: {text}"
        )
    elif isinstance(wanted, (Mapping, list, tuple)):
        assert_children(found, wanted, rtol=rtol, atol=atol, where=where)
    else:
        assert found == wanted, f"{where}: {found!r} instead of {wanted!r}"


def assert_children(found: Any, wanted: Any, *, rtol: float, atol: float, where: str) -> None:
    """Compare mappings by key and sequences by position."""
    one, other = (dict(x.items() if isinstance(x, Mapping) else enumerate(x)) for x in (found, wanted))
    assert list(one) == list(other), f"{where}: {list(one)} instead of {list(other)}"
    for key, value in other.items():
        assert_same(one[key], value, rtol=rtol, atol=atol, where=f"{where}.{key}")


def _plain(value: Any) -> Any:
    """Take dataclasses and arrays apart; numbers become tensors, so that tolerance applies to them."""
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, LazyArray):
        return value.load()
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        return array.tolist() if array.dtype.kind in "USO" else torch.from_numpy(np.ascontiguousarray(array))
    if isinstance(value, float):
        return torch.tensor(value, dtype=torch.float64)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        left_out = INCIDENTAL if isinstance(value, Provenance) else ()
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.name not in left_out}
    return value


def tensors(value: Any, where: str = "output") -> Iterator[tuple[str, Tensor]]:
    """Iterate over (place, tensor) of a tree, tensors as they are."""
    if isinstance(value, Tensor):
        yield where, value
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for f in dataclasses.fields(value):
            yield from tensors(getattr(value, f.name), f"{where}.{f.name}")
    elif isinstance(value, (Mapping, list, tuple)):
        for key, child in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from tensors(child, f"{where}.{key}")


def differs(found: Any, wanted: Any) -> bool:
    """Tell whether two trees differ anywhere."""
    try:
        assert_same(found, wanted)
    except AssertionError:
        return True
    return False


def not_refused(calls: Mapping[str, Callable[[], Any]], error: type[Exception], says: str) -> list[str]:
    """List the calls that do not raise ``error`` with a message that contains ``says``, and what they did instead."""
    wrong = []
    for name, call in calls.items():
        try:
            call()
        except Exception as raised:  # noqa: BLE001  every other error is listed
            if not isinstance(raised, error) or says not in str(raised):
                wrong.append(f"{name}: {type(raised).__name__}: {raised}")
        else:
            wrong.append(f"{name}: accepted")
    return wrong
