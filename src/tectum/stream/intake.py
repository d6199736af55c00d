"""What enters a stream: channels by name, in the trained order and unit, without holes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tectum.core.clock import check_rate
from tectum.core.contract import Contract
from tectum.core.errors import ContractError, InputError, TectumWarning, explain
from tectum.core.units import UNITS, check_units, conversion
from tectum.preprocess.causal import Causal

RATE_TOLERANCE = 1e-3  # relative difference of nominal rates
HELD_CHUNKS = 10  # chunks in a row with NaN before the output becomes neutral
REMIND = 60.0  # s between warnings of interpolated channels
FLAT = 1.0  # s without any change before a channel counts as flat

Name = str | int


class Plan(NamedTuple):
    """How a row of the stream becomes a row of the decoder's input."""

    names: tuple[Name, ...]  #: channels that the causal steps take, in order
    columns: np.ndarray  #: their columns in the stream; of missing ones 0
    fill: np.ndarray | None  #: (channel, channel): interpolates missing channels; None if there are none
    missing: tuple[Name, ...]
    factor: np.ndarray | None  #: (channel,): multiplies the stream's units into the trained one; None if all are one


def negotiate(
    contract: Contract,
    steps: Causal,
    *,
    rate: float,
    channels: Sequence[Name] | None,
    units: str | Sequence[str] | None,
    convert: bool,
    positions: Mapping[Name, Sequence[float]] | None,
) -> Plan:
    """Compare a stream with what a decoder was trained on; raise ContractError that lists all differences."""
    needed: tuple[Name, ...] = steps.names if contract.names else ()
    given = [str(n) for n in channels] if channels is not None else []
    missing = [n for n in needed if n not in given]
    index = [given.index(str(n)) if n in given else 0 for n in needed] if needed else list(range(len(steps.names)))
    own = _units_of(units, index, len(given) or len(index))
    found = [
        *_rate_differs(check_rate(rate, "Stream(rate)"), float(steps.rate or 0)),
        *_channels_differ(needed, given, missing, len(steps.names), channels is None, positions),
        *_units_differ(own, steps.units, convert),
    ]
    if found:
        got, fix = "; ".join(d for d, _ in found), "; ".join(r for _, r in found)
        raise ContractError(explain("Stream", expected="a stream like the training data", got=got, fix=fix))
    fill = _interpolation(needed, missing, positions or {}) if missing else None
    factor = np.asarray([conversion(u, steps.units, "Stream(units)") for u in own])
    one = bool((factor == 1.0).all())
    return Plan(steps.names, np.asarray(index, dtype=np.int64), fill, tuple(missing), None if one else factor)


def _units_of(units: str | Sequence[str] | None, index: Sequence[int], size: int) -> list[str]:
    """Return the unit of every channel that is taken; nothing if the stream does not tell."""
    if units is None:
        return []
    if isinstance(units, str):
        return [check_units(units, "Stream(units)")] * len(index)
    if len(units) != size:
        expected = f"one unit, or one for each of {size} channels"
        raise InputError(explain("Stream(units)", expected=expected, got=f"{len(units)} of them"))
    return [check_units(units[k], "Stream(units)") for k in index]


def _rate_differs(rate: float, needed: float) -> list[tuple[str, str]]:
    """Compare nominal rates."""
    if abs(rate / needed - 1) <= RATE_TOLERANCE:
        return []
    times = round(rate / needed)
    if times > 1 and abs(rate / (times * needed) - 1) <= RATE_TOLERANCE:
        fix = f"train behind tectum.preprocess.apply_causal(rec, tectum.Causal(decimate={times}))"
    else:
        fix = f"set the amplifier to {needed:g} Hz, or train on tectum.preprocess.resample(rec, {rate:g})"
    return [(f"rate {rate:g} Hz instead of {needed:g} Hz", fix)]


def _channels_differ(
    needed: Sequence[Name],
    given: Sequence[str],
    missing: Sequence[Name],
    size: int,
    unnamed: bool,
    positions: Mapping[Name, Sequence[float]] | None,
) -> list[tuple[str, str]]:
    """Compare channel names."""
    if not needed:
        wrong = not unnamed and len(given) != size
        fix = "the decoder was trained without channel names: give its channels in its order"
        return [(f"{len(given)} channels instead of {size}", fix)] if wrong else []
    if unnamed:
        return [("no channel names", f"tectum.Stream(..., channels=[...]) with {list(needed)[:12]} among them")]
    twice = sorted({n for n in given if n in needed and given.count(n) > 1})
    if twice:
        return [(f"channels named twice: {twice[:8]}", "rename them")]
    unplaced = [n for n in (needed if missing else ()) if n not in (positions or {})]
    if not missing or (positions is not None and not unplaced and len(missing) < len(needed)):
        return []
    kept = [n for n in needed if n not in missing]
    fix = f"record them, train without them: rec.sel(channel={kept[:12]}), or interpolate them: positions={{...}}"
    lacking = f" (no position of {unplaced[:8]})" if positions is not None and unplaced else ""
    return [(f"missing channels {list(missing)[:12]}{lacking}", fix)]


def _units_differ(units: Sequence[str], needed: str, convert: bool) -> list[tuple[str, str]]:
    """Compare units."""
    others = sorted(set(units) - {needed})
    strange = [u for u in others if UNITS[u][0] != UNITS[needed][0]]
    if strange:
        return [(f"unit {strange[0]!r} instead of {needed!r}", "another quantity: no factor converts it")]
    if not others or convert:
        return []
    factor = conversion(others[0], needed)
    fix = f"tectum.Stream(..., units={others[0]!r}, convert=True), or multiply chunks by {factor:g}"
    return [(f"unit {', '.join(map(repr, others))} instead of {needed!r}", fix)]


def _interpolation(
    names: Sequence[Name], missing: Sequence[Name], positions: Mapping[Name, Sequence[float]]
) -> np.ndarray:
    """Return a matrix that replaces missing channels by the others, weighed by inverse squared distance."""
    place = np.asarray([positions[n] for n in names], dtype=float)
    lost = np.asarray([n in missing for n in names])
    weight = 1 / (((place[:, None] - place[None]) ** 2).sum(2) + 1e-12)
    weight[:, lost] = 0.0
    made = np.eye(len(names))
    made[lost] = weight[lost] / weight[lost].sum(1, keepdims=True)
    return made


class Guard:
    """Hold entries that are not finite at the last value, and watch for channels that stand still.

    Parameters
    ----------
    names : sequence
        Channels, for the flags.
    rate : float
        Samples per second.
    missing : sequence
        Channels that are interpolated, of which a warning is given every minute.
    """

    def __init__(self, names: Sequence[Name], rate: float, *, missing: Sequence[Name] = ()) -> None:
        self.names, self.limit, self.missing = list(names), FLAT * rate, list(missing)
        self._reminded = -np.inf
        self._still = np.zeros(len(names))
        self.restart()

    def restart(self) -> None:
        """Forget the last row."""
        self._last: np.ndarray | None = None
        self._still[:] = 0

    @property
    def last(self) -> np.ndarray | None:
        """The last row, if any."""
        return self._last

    def hold(self, rows: np.ndarray) -> tuple[np.ndarray, int]:
        """Return rows (time, channel) without NaN or infinity, and how many rows had some.

        Rows before the first complete one are cut off: there is nothing to hold.
        """
        good = np.isfinite(rows)
        if good.all():
            bad = 0
        else:
            complete = good.all(1)
            bad = int((~complete).sum())
            start = 0 if self._last is not None else (int(complete.argmax()) if complete.any() else len(rows))
            rows, good = rows[start:], good[start:]
            source = np.maximum.accumulate(np.where(good, np.arange(1, len(rows) + 1)[:, None], 0), 0)
            before = rows[:1] if self._last is None else self._last[None]
            rows = np.take_along_axis(np.concatenate([before, rows]), source, 0)
        if len(rows):
            self._watch(rows)
        return rows, bad

    def _watch(self, rows: np.ndarray) -> None:
        """Count for how long each channel has not changed."""
        before = rows[0] if self._last is None else self._last
        moved = (rows != before).any(0)
        self._still = np.where(moved, 0.0, self._still + len(rows))
        self._last = rows[-1]

    @property
    def flat(self) -> list[Name]:
        """Channels that have not changed for a second."""
        if not (self._still >= self.limit).any():
            return []
        return [n for n, still in zip(self.names, self._still, strict=True) if still >= self.limit]

    @property
    def dead(self) -> bool:
        """Whether no channel has changed for a second."""
        return bool((self._still >= self.limit).all())

    def flags(self, at: float) -> tuple[str, ...]:
        """Return what a decision at a time in s must say of the channels."""
        if self.missing and not 0 <= at - self._reminded < REMIND:
            self._reminded = at
            warnings.warn(f"Stream: channels {self.missing} are interpolated", TectumWarning, stacklevel=2)
        return (*(f"flat:{n}" for n in self.flat), *(f"missing:{n}" for n in self.missing))


def bridged(
    rows: np.ndarray, times: np.ndarray, *, last: np.ndarray, missing: int, rate: float
) -> tuple[np.ndarray, np.ndarray]:
    """Put missing samples on the line between the last row and the first new one, before the new rows and times."""
    share = np.arange(1, missing + 1)[:, None] / (missing + 1)
    first = np.where(np.isfinite(rows[0]), rows[0], last)
    filled = (1 - share) * last + share * first
    when = times[0] - np.arange(missing, 0, -1) / rate
    return np.concatenate([filled, rows]), np.concatenate([when, times])


def as_rows(chunk: object, width: int, needed: int) -> np.ndarray:
    """Return a chunk as an own float64 array (time, channel); ``width`` is the number of channels, 0 if unknown."""
    made = chunk.detach().cpu().numpy() if hasattr(chunk, "detach") else chunk
    try:
        rows = np.array(made, dtype=np.float64)
    except (TypeError, ValueError) as cause:
        raise InputError(explain("Stream.push", expected="numbers (n, n_channels)", got=str(cause))) from cause
    columns = width or needed
    if rows.size == 0 and (rows.ndim == 1 or rows.shape[-1] in (0, columns)):
        return np.zeros((0, columns))
    if rows.ndim != 2 or rows.shape[1] != columns:
        fix = "transpose it" if rows.ndim == 2 and rows.shape[0] == columns else ""
        expected = f"a chunk of shape (n, {columns})"
        raise InputError(explain("Stream.push", expected=expected, got=str(rows.shape), fix=fix))
    return rows
