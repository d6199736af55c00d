"""Foreign objects at the door: one table from an object's package to its converter."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from torch import Tensor

from .device import from_numpy
from .errors import AxisError, InputError, explain
from .graph import Graph
from .intervals import Intervals
from .recording import Recording
from .session import Session
from .spikes import Spikes

#: Top-level package of a foreign type -> "module:function" of ours, imported when such an object arrives.
CONVERTERS: dict[str, str] = {
    "mne": "tectum.io.convert.eeg:from_mne",
    "neo": "tectum.io.convert.neo_blocks:from_neo",
    "nibabel": "tectum.io.convert.images:from_nibabel",
    "pynapple": "tectum.io.convert.pynapple_objects:from_pynapple",
    "pynwb": "tectum.io.convert.nwb_files:from_nwb",
    "xarray": "tectum.io.convert.arrays:from_xarray",
}


def as_container(obj: Any, where: str = "input") -> Any:
    """Return one of our containers for any supported object.

    Parameters
    ----------
    obj : Recording, Spikes, Intervals, Graph, Session, (array, dims) pair or foreign object
        A bare array is refused because its axes have no names.
    where : str, default "input"
        Owner and argument that an error names.

    Raises
    ------
    AxisError
        For a bare array.
    InputError
        For an object of an unknown package.

    Examples
    --------
    >>> as_container((np.zeros((4, 2)), ("trial", "feature"))).sizes
    {'trial': 4, 'feature': 2}
    """
    if isinstance(obj, (Recording, Spikes, Intervals, Graph, Session)):
        return obj
    if isinstance(obj, (Tensor, np.ndarray)):
        raise AxisError(
            explain(
                where,
                expected="named axes",
                got=f"a bare array of shape {tuple(obj.shape)}",
                fix="pass (array, ('time', 'unit')) or a Recording",
            )
        )
    if isinstance(obj, tuple) and len(obj) == 2:
        return _labelled(*obj)
    convert = _converter(obj)
    if convert is None:
        known = ", ".join(sorted(CONVERTERS))
        raise InputError(
            explain(
                where,
                expected=f"a tectum container or an object of {known}",
                got=f"{type(obj).__module__}.{type(obj).__qualname__}",
            )
        )
    return convert(obj)


def _labelled(array: Any, dims: Any) -> Recording:
    """Wrap a labelled array; without a clock a time axis counts samples at 1 Hz."""
    data = array if isinstance(array, Tensor) else from_numpy(np.asarray(array))
    return Recording(data=data, dims=dims, rate=1.0 if "time" in dims else None)


def _converter(obj: Any) -> Callable[[Any], Any] | None:
    for base in type(obj).__mro__:
        path = CONVERTERS.get(base.__module__.split(".")[0])
        if path is not None:
            module, _, name = path.partition(":")
            found: Callable[[Any], Any] = getattr(import_module(module), name)
            return found
    return None
