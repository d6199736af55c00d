"""The vocabulary of axis names that every container and result speaks."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import AxisError, explain, nearest

#: Axis name -> what one step along it is.
VOCABULARY: dict[str, str] = {
    "subject": "one animal or person",
    "session": "one recording session",
    "trial": "one epoch around an event",
    "time": "one sample or bin in time",
    "unit": "one neuron, region of interest or parcel",
    "channel": "one electrode or sensor",
    "voxel": "one volume element inside a mask",
    "vertex": "one point of a surface",
    "feature": "one column of a design or embedding",
    "freq": "one frequency",
    "lag": "one delay",
    "state": "one hidden state",
    "component": "one factor of a decomposition",
    "cluster": "one group of units",
    "block": "one community of a graph",
    "pair": "one unordered pair of units",
    "mode": "one way of a tensor",
    "stimulus": "one stimulus or condition",
    "label": "one class of a decoder",
    "layer": "one kind of connection",
    "start": "one random restart",
    "rank": "one candidate number of components",
    "chain": "one Markov chain",
    "draw": "one posterior draw",
    "fold": "one split of cross-validation",
    "step": "one iteration",
    "side": "one of two",
    "merge": "one agglomeration step",
    "z": "image depth",
    "y": "image row",
    "x": "image column",
}


def check_dims(dims: Sequence[str], ndim: int, where: str) -> tuple[str, ...]:
    """Return ``dims`` as a tuple after checking names, uniqueness and number.

    Raises
    ------
    AxisError
        If a name is not in the vocabulary, occurs twice, or the count differs from ``ndim``.

    Examples
    --------
    >>> check_dims(["time", "unit"], 2, "demo")
    ('time', 'unit')
    """
    found = (dims,) if isinstance(dims, str) else tuple(dims)
    for name in found:
        if name not in VOCABULARY:
            raise AxisError(
                explain(where, expected="axis names of the vocabulary", got=repr(name), fix=nearest(name, VOCABULARY))
            )
    if len(set(found)) != len(found):
        raise AxisError(explain(where, expected="each axis once", got=str(found)))
    if len(found) != ndim:
        raise AxisError(explain(where, expected=f"{ndim} axis names for {ndim}-dimensional data", got=str(found)))
    return found
