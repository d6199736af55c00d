"""Recordings of *C. elegans* on the canonical axis of neurons, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from tectum.core.errors import InputError, explain
from tectum.core.recording import Recording
from tectum.core.session import Session

from .names import axis, neuron_table


def to_canonical(rec: Recording, *, include_can: bool = False) -> Session:
    """Put the named neurons of one animal on the canonical axis.

    Parameters
    ----------
    rec : Recording, dims (time, unit)
        With a column "name" of canonical names, "" for unidentified units.
    include_can : bool, default False
        302 neurons instead of 300.

    Returns
    -------
    Session
        "named" (time, 300 or 302): NaN and masked where the neuron was not recorded or not named; "unidentified"
        (time, n): the other units, if any. They never get a place on the axis. The column "position" is where a unit
        stood, -1 for none; :func:`from_canonical` puts all back.

    Raises
    ------
    InputError
        If names are missing, repeated or not canonical.

    Examples
    --------
    >>> units = {"unit": {"name": ["RMED", "", "ADAL"]}}
    >>> rec = Recording(data=torch.ones(4, 3), dims=("time", "unit"), rate=2.0, units="dF/F", coords=units)
    >>> both = to_canonical(rec)
    >>> both["named"].sizes, int(both["named"].mask.sum()), both["unidentified"].sizes
    ({'time': 4, 'unit': 300}, 2, {'time': 4, 'unit': 1})
    """
    names = axis(include_can=include_can)
    found = _names(rec, names)
    place = {name: k for k, name in enumerate(found) if name}
    position = np.asarray([place.get(name, -1) for name in names])
    there = torch.from_numpy(position >= 0)
    values = rec.tensor("time", "unit")
    seen = rec.valid().permute([rec.dims.index(d) for d in ("time", "unit")])
    data = values.new_full((len(values), len(names)), torch.nan)
    data[:, there] = values[:, torch.from_numpy(position[position >= 0])]
    mask = seen.new_zeros(data.shape if rec.mask is not None else (1, len(names)))
    columns = seen if rec.mask is not None else seen[:1] | True
    mask[:, there] = columns[:, torch.from_numpy(position[position >= 0])]
    table = _spread(rec.coords["unit"], position) | neuron_table(names) | {"position": position}
    history = rec.noted("to_canonical", n_units=len(found), include_can=include_can)
    named = rec.with_(
        data=data, dims=("time", "unit"), mask=mask, coords={**rec.coords, "unit": table}, history=history
    )
    rest = np.flatnonzero(np.asarray(found) == "")
    parts: dict[str, Recording] = {"named": named}
    if len(rest):
        left = rec.isel(unit=rest)
        table = {**left.coords["unit"], "position": rest}
        parts["unidentified"] = left.with_(coords={**left.coords, "unit": table}, history=history)
    return Session(items_=parts, subject=rec.subject, session=rec.session, meta=rec.meta)


def _names(rec: Recording, known: Sequence[str]) -> list[str]:
    """Return the canonical names of a recording after checking them."""
    where = "to_canonical"
    if not isinstance(rec, Recording) or sorted(rec.dims) != ["time", "unit"]:
        raise InputError(explain(where, expected="a recording (time, unit)", got=repr(rec)))
    if not rec.values.is_floating_point():
        raise InputError(explain(where, expected="real numbers", got=str(rec.values.dtype)))
    found = [str(name) for name in rec.coords.get("unit", {}).get("name", [])]
    odd = sorted({n for n in found if n and (n not in set(known) or found.count(n) > 1)})
    if len(found) != rec.sizes["unit"] or odd:
        got = f"{', '.join(odd[:6])}" if odd else "none"
        fix = "identify the labels first: tectum.io.worm.names.identify"
        raise InputError(explain(f"{where}: name", expected="each canonical name once, or ''", got=got, fix=fix))
    return found


def _spread(table: Any, position: np.ndarray) -> dict[str, np.ndarray]:
    """Put the columns of units on another axis; "", NaN, False or -1 where there is no unit."""
    made = {}
    for name, column in table.items():
        blank: Any = {"U": "", "f": np.nan, "b": False, "u": 0}.get(column.dtype.kind, -1)
        spread = np.full(len(position), blank, dtype=column.dtype)
        spread[position >= 0] = column[position[position >= 0]]
        made[name] = spread
    return made


def from_canonical(session: Session) -> Recording:
    """Undo :func:`to_canonical`: the units in the order, and with the columns, they had.

    Examples
    --------
    >>> units = {"unit": {"name": ["RMED", "", "ADAL"]}}
    >>> rec = Recording(data=torch.randn(4, 3), dims=("time", "unit"), rate=2.0, units="dF/F", coords=units)
    >>> torch.equal(from_canonical(to_canonical(rec)).data, rec.data)
    True
    """
    named = session["named"]
    if not isinstance(named, Recording):
        raise InputError(explain("from_canonical", expected="a recording named", got=type(named).__name__))
    kept = np.flatnonzero(np.asarray(named.coords["unit"]["position"]) >= 0)
    parts: list[Any] = [named.isel(unit=kept), *(session[k] for k in ("unidentified",) if k in session)]
    order = np.argsort(np.concatenate([p.coords["unit"]["position"] for p in parts]))
    columns = [c for c in parts[-1].coords["unit"] if c != "position"]
    table = {c: np.concatenate([p.coords["unit"][c] for p in parts])[order] for c in columns}
    data = torch.cat([p.tensor("time", "unit") for p in parts], dim=1)[:, torch.from_numpy(order)]
    valid = [p.valid().permute([p.dims.index(d) for d in ("time", "unit")]) for p in parts]
    mask = torch.cat(valid, dim=1)[:, torch.from_numpy(order)]
    history = tuple(s for s in named.history if not (isinstance(s, dict) and s.get("step") == "to_canonical"))
    return named.with_(
        data=data, dims=("time", "unit"), mask=None if bool(mask.all()) else mask, history=history,
        coords={**named.coords, "unit": table},
    )  # fmt: skip
