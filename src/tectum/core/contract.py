"""Contract: what a trained model remembers of its input and demands at predict time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import AxisError, ContractError, explain, nearest
from .recording import Recording
from .serialize import storable


@storable
@dataclass(frozen=True, kw_only=True)
class Contract:
    """Axes, channel names and order, rate, unit and window of the training data.

    Parameters
    ----------
    dims : tuple of str
        Axis names in order.
    axis : str
        The axis of sensors or units whose entries must agree.
    names : tuple of str or int
        Entries of that axis in order; empty if they had no names.
    size : int
        Number of entries of that axis.
    rate : float or None
        Samples per second.
    units : str
        Physical unit.
    n_times : int or None
        Samples in a window, for models that take windows.
    """

    dims: tuple[str, ...]
    axis: str
    names: tuple[str | int, ...]
    size: int
    rate: float | None
    units: str
    n_times: int | None = None

    @classmethod
    def of(cls, rec: Recording, *, axis: str, window: bool = False) -> Contract:
        """Read the contract off a training recording."""
        if axis not in rec.dims:
            raise AxisError(
                explain("Contract", expected=f"an axis among {rec.dims}", got=repr(axis), fix=nearest(axis, rec.dims))
            )
        return cls(
            dims=rec.dims,
            axis=axis,
            names=_names(rec, axis),
            size=rec.sizes[axis],
            rate=rec.rate,
            units=rec.units,
            n_times=rec.sizes["time"] if window else None,
        )

    def differences(self, rec: Recording) -> list[tuple[str, str]]:
        """List (difference, call that repairs it) between this contract and a recording."""
        found: list[tuple[str, str]] = []
        if rec.dims != self.dims:
            return [(f"axes {rec.dims} instead of {self.dims}", "select or reduce axes with isel")]
        names = _names(rec, self.axis)
        if self.names and set(self.names) <= set(names) and names != self.names:
            found.append((f"{self.axis} order or extra entries", f"rec.sel({self.axis}=list(model.contract_.names))"))
        elif self.names and names and names != self.names:
            missing = [n for n in self.names if n not in names]
            found.append((f"missing {self.axis} {missing[:8]}", "adapt the model or record the missing ones"))
        elif rec.sizes[self.axis] != self.size:
            found.append(
                (f"{rec.sizes[self.axis]} entries of {self.axis} instead of {self.size}", f"rec.isel({self.axis}=...)")
            )
        if (rec.rate is None) != (self.rate is None) or (
            rec.rate and self.rate and not np.isclose(rec.rate, self.rate, rtol=1e-6)
        ):
            found.append(
                (f"rate {rec.rate} Hz instead of {self.rate} Hz", f"tectum.preprocess.resample(rec, {self.rate})")
            )
        if rec.units != self.units:
            found.append((f"unit {rec.units!r} instead of {self.units!r}", f"rec.to_units({self.units!r})"))
        if self.n_times is not None and rec.sizes.get("time") != self.n_times:
            found.append(
                (f"{rec.sizes.get('time')} samples instead of {self.n_times}", "cut windows of the training length")
            )
        return found

    def check(self, rec: Recording, where: str) -> None:
        """Raise ContractError that lists every difference and its repair."""
        found = self.differences(rec)
        if found:
            raise ContractError(
                explain(
                    where,
                    expected="input like the training data",
                    got="; ".join(d for d, _ in found),
                    fix="; ".join(r for _, r in found),
                )
            )


def _names(rec: Recording, axis: str) -> tuple[str | int, ...]:
    labels = rec.labels(axis)
    return () if labels is None else tuple(labels.tolist())
