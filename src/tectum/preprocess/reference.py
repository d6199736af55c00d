"""Re-referencing: common average, bipolar and Laplacian along electrode shafts, named channels; each is one matrix."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tectum.core.errors import InputError, explain, nearest
from tectum.core.recording import Recording

Ends = Literal["drop", "bipolar"]
WAYS = ("average", "bipolar", "laplacian")
_BEFORE = re.compile(r"^(?:POL|S?EEG)\s+", re.IGNORECASE)
_AFTER = re.compile(r"[-_ ]+(?:REF|AVG|AV|GND|G2|LE)\d*$", re.IGNORECASE)
_CONTACT = re.compile(r"^(?P<shaft>.*?[^\W\d_].*?)[ _-]?0*(?P<contact>\d+)$")
_PAIR = re.compile(r"\d'?\s*-\s*[^\W\d]")  # "A1-A2" is a difference already
_PRIMES = str.maketrans({"\u2019": "'", "\u2018": "'", "`": "'", "\u00b4": "'", "\u2032": "'"})


def parse_contact(name: str) -> tuple[str, int] | None:
    """Split the name of a depth or grid contact into shaft and number.

    Parameters
    ----------
    name : str
        Such as "A1", "A'12", "LA03", "POL B4", "EEG A1-Ref", "LFP_RIGHT_0".

    Returns
    -------
    (str, int) or None
        None if no number follows a name.

    Examples
    --------
    >>> [parse_contact(n) for n in ("A1", "A'12", "LA03", "POL B4", "EEG C1-Ref", "Cz")]
    [('A', 1), ("A'", 12), ('LA', 3), ('B', 4), ('C', 1), None]
    """
    plain = _AFTER.sub("", _BEFORE.sub("", name.strip().translate(_PRIMES))).strip()
    found = None if _PAIR.search(plain) else _CONTACT.match(plain)
    return (found["shaft"].rstrip(" _-"), int(found["contact"])) if found else None


@dataclass(frozen=True)
class Montage:
    """A re-reference: a matrix from the channels kept to the new ones.

    Parameters
    ----------
    matrix : array, shape (n_out, n_in), float64
        Weights; each row sums to 0.
    names : tuple of str
        Names of the new channels.
    parents : array, shape (n_out, 2), int
        The channels that each new one lies between; twice the same for one that stays where it was.
    """

    matrix: np.ndarray
    names: tuple[str, ...]
    parents: np.ndarray


def reference(
    rec: Recording,
    how: str | Sequence[str] = "average",
    *,
    shaft: str | None = None,
    contact: str | None = None,
    ends: Ends = "drop",
) -> Recording:
    """Re-reference channels; channels marked as bad take no part and are left out.

    Parameters
    ----------
    rec : Recording
        With a ``channel`` axis, on any device.
    how : {"average", "bipolar", "laplacian"} or sequence of str
        "average" subtracts the mean of all channels; "bipolar" takes the difference of neighbouring contacts of a shaft
        (numbers that follow each other: a gap is not bridged); "laplacian" subtracts from a contact the mean of its two
        neighbours. Names of channels subtract their mean; a single one, which would be 0, is left out.
    shaft, contact : str, optional
        Columns of the channels with shaft and number; default both are read off the names, as in "A'12", "LA03",
        "POL B4" or "A1-Ref".
    ends : {"drop", "bipolar"}
        Contacts with one neighbour only: left out of the Laplacian, or referenced to it.

    Returns
    -------
    Recording
        Channels are called "A1-A2" if bipolar, else as before, and lie at the middle of their two contacts if bipolar.
        Where a sample that enters a new channel is missing, the new one is missing.

    Raises
    ------
    InputError
        If names do not tell the shaft, a number occurs twice on a shaft, a channel is unknown or bad, or nothing is
        left. Scalp channels have no shafts: there ``shaft=`` must be given.

    References
    ----------
    Li G. et al. (2018), NeuroImage 183, 327: re-referencing of stereo-EEG.

    Examples
    --------
    >>> data = torch.tensor([[1.0], [3.0], [6.0]])
    >>> coords = {"channel": {"name": ["A1", "A2", "A3"]}}
    >>> rec = Recording(data=data, dims=("channel", "time"), rate=1.0, coords=coords)
    >>> made = reference(rec, "bipolar")
    >>> made.labels("channel").tolist(), made.values[:, 0].tolist()
    (['A1-A2', 'A2-A3'], [-2.0, -3.0])
    """
    _check(rec)
    good = _good(rec)
    names = [str(x) for x in np.asarray(_names(rec))[good]]
    montage = _montage(rec, how, names, good, shaft, contact, ends)
    if not montage.names:
        fix = "check the names or numbers of contacts, or pass shaft="
        raise InputError(explain("reference", expected="neighbouring contacts", got=f"none in {names[:8]}", fix=fix))
    axis = rec.dims.index("channel")
    kept = torch.as_tensor(good, device=rec.device)
    values, seen = (x.index_select(axis, kept).movedim(axis, -1) for x in (_real(rec), rec.valid()))
    matrix = torch.from_numpy(montage.matrix).to(values.dtype).to(rec.device)
    data, valid = apply_matrix(values, seen, matrix)
    note = {"how": how if isinstance(how, str) else list(how), "channels": len(montage.names)}
    left = [str(x) for x in np.delete(np.asarray(_names(rec)), good)]
    return rec.with_(
        data=data.movedim(-1, axis),
        mask=None if rec.mask is None else valid.movedim(-1, axis),
        coords={**rec.coords, "channel": _table(rec, good, montage)},
        history=rec.noted("reference", **note, bad=left),
    )


def apply_matrix(values: Tensor, seen: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply the last axis with a matrix; what depends on a missing value is missing.

    Parameters
    ----------
    values : Tensor, shape (..., n_in)
        Numbers; those that are not finite count as missing.
    seen : Tensor, shape (..., n_in), bool
        False where missing.
    matrix : Tensor, shape (n_out, n_in)
        Weights.

    Returns
    -------
    values : Tensor, shape (..., n_out)
        NaN where a value that enters is not finite.
    seen : Tensor, shape (..., n_out), bool
    """
    uses = (matrix != 0).to(values.dtype).T  # (n_in, n_out)
    finite = torch.isfinite(values)
    made = torch.where(finite, values, 0) @ matrix.T
    lost = ((~finite).to(values.dtype) @ uses) > 0
    valid = ((~seen).to(values.dtype) @ uses) == 0
    return torch.where(lost, torch.nan, made), valid


# Matrices


def _montage(
    rec: Recording,
    how: str | Sequence[str],
    names: list[str],
    good: np.ndarray,
    shaft: str | None,
    contact: str | None,
    ends: Ends,
) -> Montage:
    """Return the matrix for a way of referencing."""
    if isinstance(how, str) and how == "average":
        n = len(names)
        return Montage(np.eye(n) - 1.0 / n, tuple(names), _alone(range(n)))
    if isinstance(how, str) and how in WAYS:
        if ends not in ("drop", "bipolar"):
            raise InputError(explain("reference(ends)", expected="'drop' or 'bipolar'", got=repr(ends)))
        places = _places(rec, names, good, shaft, contact)
        return bipolar(names, places) if how == "bipolar" else laplacian(names, places, ends=ends)
    return _named(names, [how] if isinstance(how, str) else list(how), rec)


def bipolar(names: Sequence[str], places: Sequence[tuple[str, int]]) -> Montage:
    """Return differences of neighbouring contacts, in the order of the first of them.

    Parameters
    ----------
    names : sequence of str
        Channels.
    places : sequence of (str, int)
        Shaft and number of each.

    Examples
    --------
    >>> bipolar(["A1", "A2", "A4"], [("A", 1), ("A", 2), ("A", 4)]).matrix.tolist()
    [[1.0, -1.0, 0.0]]
    """
    where = {place: k for k, place in enumerate(places)}
    pairs = [(k, where[shaft, n + 1]) for k, (shaft, n) in enumerate(places) if (shaft, n + 1) in where]
    matrix = np.zeros((len(pairs), len(names)))
    for row, (k, other) in enumerate(pairs):
        matrix[row, [k, other]] = 1.0, -1.0
    made = tuple(f"{names[k]}-{names[other]}" for k, other in pairs)
    return Montage(matrix, made, np.array(pairs, dtype=np.int64).reshape(-1, 2))


def laplacian(names: Sequence[str], places: Sequence[tuple[str, int]], *, ends: Ends = "drop") -> Montage:
    """Return contacts minus the mean of their neighbours.

    Parameters
    ----------
    names, places
        As in :func:`bipolar`.
    ends : {"drop", "bipolar"}
        What to do with contacts that have one neighbour.

    Examples
    --------
    >>> laplacian(["A1", "A2", "A3"], [("A", 1), ("A", 2), ("A", 3)]).matrix.tolist()
    [[-0.5, 1.0, -0.5]]
    """
    where = {place: k for k, place in enumerate(places)}
    rows, kept = [], []
    for k, (shaft, n) in enumerate(places):
        near = [where[shaft, m] for m in (n - 1, n + 1) if (shaft, m) in where]
        if len(near) == 2 or (near and ends == "bipolar"):
            row = np.zeros(len(names))
            row[k], row[near] = 1.0, -1.0 / len(near)
            rows.append(row)
            kept.append(k)
    matrix = np.array(rows).reshape(len(rows), len(names))
    return Montage(matrix, tuple(names[k] for k in kept), _alone(kept))


def _named(names: list[str], wanted: list[str], rec: Recording) -> Montage:
    """Subtract the mean of named channels."""
    for name in wanted:
        if name not in names:
            known = [str(x) for x in _names(rec)]
            got = f"{name!r}, which is bad" if name in known else repr(name)
            expected = f"one of {', '.join(map(repr, WAYS))}, or names of good channels"
            raise InputError(explain("reference(how)", expected=expected, got=got, fix=nearest(str(name), known)))
    if not wanted:
        raise InputError(explain("reference(how)", expected="a way or names of channels", got="none"))
    matrix = np.eye(len(names))
    matrix[:, [names.index(name) for name in wanted]] -= 1.0 / len(wanted)
    keep = [k for k, name in enumerate(names) if [name] != wanted]
    return Montage(matrix[keep], tuple(names[k] for k in keep), _alone(keep))


def _alone(rows: Sequence[int]) -> np.ndarray:
    """Return channels that stay where they were as pairs with themselves: array (n, 2)."""
    return np.repeat(np.array(rows, dtype=np.int64)[:, None], 2, axis=1)


# What is known of channels


def _check(rec: Recording) -> None:
    if not isinstance(rec, Recording) or "channel" not in rec.dims:
        fix = "take a part of the session, or rename the axis"
        raise InputError(explain("reference", expected="a recording with a channel axis", got=repr(rec), fix=fix))


def _names(rec: Recording) -> Any:
    names = rec.labels("channel")
    if names is None:
        raise InputError(explain("reference", expected="channels with a 'name' or 'id' column", got=repr(rec)))
    return names


def _good(rec: Recording) -> np.ndarray:
    """Return the positions of the channels that are not bad."""
    bad = np.asarray(rec.coords.get("channel", {}).get("bad", np.zeros(rec.sizes["channel"], bool)), dtype=bool)
    good = np.flatnonzero(~bad)
    if len(good) < 2:
        raise InputError(explain("reference", expected="at least two good channels", got=f"{len(good)} of {len(bad)}"))
    return good


def _real(rec: Recording) -> Tensor:
    """Return the values as real numbers."""
    return rec.values if rec.values.is_floating_point() else rec.values.float()


def _places(
    rec: Recording, names: list[str], good: np.ndarray, shaft: str | None, contact: str | None
) -> list[tuple[str, int]]:
    """Return shaft and number of each good channel, from columns or from the names."""
    table = rec.coords.get("channel", {})
    kinds = np.asarray(table.get("type", np.full(rec.sizes["channel"], "")))[good]
    if shaft is None and (kinds == "eeg").any():
        fix = "say what they are (read with types='seeg'), or pass shaft= with a column"
        raise InputError(explain("reference", expected="contacts on shafts", got="scalp channels ('eeg')", fix=fix))
    found = [parse_contact(name) for name in names]
    if shaft is None or contact is None:
        lost = [name for name, place in zip(names, found, strict=True) if place is None]
        if lost:
            got = ", ".join(map(repr, lost[:6]))
            fix = "mark them as bad, select the contacts, or pass shaft= and contact= with columns"
            raise InputError(explain("reference", expected='names with a number, as in "A\'12"', got=got, fix=fix))
    column = None if shaft is None else np.asarray(rec.labels("channel", shaft))[good]
    shafts = [p[0] for p in found if p] if column is None else [str(x) for x in column]
    numbers = [p[1] for p in found if p] if contact is None else _numbers(rec, contact, good)
    places = list(zip(shafts, numbers, strict=True))
    twice = sorted({f"{s}{n}" for s, n in places if places.count((s, n)) > 1})
    if twice:
        raise InputError(explain("reference", expected="each contact once", got=", ".join(twice[:6])))
    return places


def _numbers(rec: Recording, contact: str, good: np.ndarray) -> list[int]:
    """Return a column of whole numbers."""
    column = np.asarray(rec.labels("channel", contact))[good]
    if column.dtype.kind not in "iuf" or not np.array_equal(column, np.rint(column)):
        raise InputError(explain("reference(contact)", expected="a column of whole numbers", got=str(column[:4])))
    return [int(x) for x in column]


def _table(rec: Recording, good: np.ndarray, montage: Montage) -> dict[str, Any]:
    """Return the coordinates of the new channels: one parent keeps its row, two share what they agree on."""
    table: Mapping[str, Any] = {k: np.asarray(v)[good] for k, v in rec.coords["channel"].items()}
    first, second = montage.parents.T
    made: dict[str, Any] = {"name": np.array(montage.names)}
    for column, values in table.items():
        a, b = values[first], values[second]
        if column in ("name", "id"):
            continue
        if column in ("x", "y", "z"):
            made[column] = (a + b) / 2
        elif values.dtype.kind == "U":
            made[column] = np.where(a == b, a, np.char.add(np.char.add(a, "/"), b))
        elif np.array_equal(a, b, equal_nan=values.dtype.kind == "f"):
            made[column] = a
    return made
