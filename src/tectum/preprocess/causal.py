"""Causal preprocessing with a state: what a recording goes through before training, a stream goes through live.

The order is: channels by name, reference, recursive filters, decimation, running normaliser. No step looks ahead, so
chunks of any size give the numbers of the whole recording.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor

from tectum.core.clock import check_rate
from tectum.core.contract import Contract
from tectum.core.device import highest_precision
from tectum.core.errors import ContractError, InputError, explain
from tectum.core.params import check_params, param
from tectum.core.recording import Recording
from tectum.core.serialize import storable

from ._recursive import Cascade, cascade, decaying_sum, run_cascade

STEP = "causal"  #: name of the step in a recording's history
LIVE = (STEP, "resample")  #: steps with a reach that a stream repeats, or that its own rate stands for
UNKNOWN = ("reference",)  #: steps without a reach that a stream would leave out
SETTLED = 1e-3  #: share of a transient that is left when a filter counts as settled


class NotCausalError(ContractError, RuntimeError):
    """A decoder rests on samples that a stream does not have yet, or on steps that it does not repeat."""


@storable
@dataclass(frozen=True, kw_only=True)
class Causal:
    """Causal preprocessing as data: apply it with :func:`apply_causal`, store it with a decoder, stream with it.

    Parameters
    ----------
    highpass, lowpass : float or None, default None
        Edges of Butterworth filters in Hz.
    notch : tuple of float, default ()
        Frequencies in Hz to notch out, with quality 30.
    order : int, default 4
        Order of the Butterworth filters.
    reference : "average", tuple of str or None, default None
        Subtract the mean of all channels, or of the named ones.
    bipolar : tuple of (str, str), default ()
        Differences of named channels; they replace the channels, named ``"A-B"``.
    decimate : int, default 1
        Keep every so-manieth sample behind an anti-alias filter (Chebyshev, order 8, 0.05 dB, 0.8 of the new Nyquist
        rate).
    tau : float or None, default None
        Time constant in s of a running mean and variance that every channel is normalised by; None leaves the unit.
        Until ``tau`` has passed, mean and variance are those of all samples so far.
    artefact : float or None, default None
        Amplitude after filtering, in the unit of the input, beyond which a sample does not enter the running moments.
    clip : float, default 20
        Largest absolute value behind the running normaliser.
    names : tuple of str, default ()
        Channels that enter, in order; :meth:`bind` fills them in.
    rate : float or None, default None
        Samples per second that enter, likewise.
    units : str, default ""
        Unit of what enters, likewise.
    scale : float or None, default None
        Median standard deviation of the channels that came out in training; a stream compares its own.

    Examples
    --------
    >>> steps = Causal(highpass=1.0, lowpass=40.0, decimate=2)
    >>> steps.bind(names=("C3", "C4"), rate=250.0, units="uV").rate_out
    125.0
    """

    highpass: float | None = param(None, float, low=0, open_low=True)
    lowpass: float | None = param(None, float, low=0, open_low=True)
    notch: tuple[float, ...] = ()
    order: int = param(4, int, low=1, high=10)
    reference: str | tuple[str, ...] | None = None
    bipolar: tuple[tuple[str, str], ...] = ()
    decimate: int = param(1, int, low=1, high=64)
    tau: float | None = param(None, float, low=0, open_low=True)
    artefact: float | None = param(None, float, low=0, open_low=True)
    clip: float = param(20.0, float, low=0, open_low=True)
    names: tuple[str, ...] = ()
    rate: float | None = None
    units: str = ""
    scale: float | None = None

    def __post_init__(self) -> None:
        check_params(self)
        if isinstance(self.reference, str) and self.reference != "average":
            fix = f"for one channel write reference=({self.reference!r},)"
            raise InputError(explain("Causal.reference", expected="'average' or names", got=self.reference, fix=fix))
        if self.reference is not None and self.bipolar:
            raise InputError(explain("Causal", expected="either reference or bipolar", got="both"))
        object.__setattr__(self, "notch", tuple(float(f) for f in self.notch))
        object.__setattr__(self, "bipolar", tuple((a, b) for a, b in self.bipolar))
        if self.rate is not None:
            self._check_edges(check_rate(self.rate, "Causal.rate"))

    def _check_edges(self, rate: float) -> None:
        """Refuse frequencies that the rate does not hold."""
        for edge in (self.highpass, self.lowpass, *self.notch):
            if edge is not None and not 0 < edge < rate / 2:
                got = f"{edge:g} Hz at {rate:g} Hz"
                raise InputError(explain("Causal", expected=f"frequencies between 0 and {rate / 2:g} Hz", got=got))
        if self.highpass is not None and self.lowpass is not None and self.highpass >= self.lowpass:
            got = f"{self.highpass:g} and {self.lowpass:g} Hz"
            raise InputError(explain("Causal", expected="highpass < lowpass", got=got))

    @classmethod
    def of(cls, source: Any) -> Causal | None:
        """Return the causal steps that a recording or the training data of a decoder went through; None without any.

        Of a decoder they stand in the history of its training data, so that nobody has to hand them over. A
        ``causal_`` that was set by hand comes first: with it you vouch for what the stream does.

        Parameters
        ----------
        source : Recording or fitted decoder
            Of a list of recordings give the first.

        Raises
        ------
        NotCausalError
            If the training data went through steps that look ahead or that a stream does not repeat.
        InputError
            If the recordings of the training data went through different steps.
        """
        if isinstance(source, Recording):
            return _noted(source.history)
        found = getattr(source, "causal_", None)
        if isinstance(found, cls):
            return found
        if found is not None:
            expected, got = "a Causal as causal_ of the decoder", type(found).__name__
            raise InputError(explain("Causal.of", expected=expected, got=got))
        made_by = getattr(getattr(source, "result_", None), "provenance", None)
        return _shared(made_by.histories) if made_by is not None else None

    def bind(self, *, names: Sequence[str], rate: float, units: str) -> Self:
        """Return these steps for an input of given channels, rate and unit."""
        missing = [n for n in self._named() if n not in names]
        if missing:
            raise ContractError(explain("Causal", expected=f"channels {missing}", got=str(list(names)[:12])))
        return replace(self, names=tuple(names), rate=rate, units=units)

    def _named(self) -> list[str]:
        """Return the channels that the reference or the derivations name."""
        referenced = [] if self.reference in (None, "average") else list(self.reference or ())
        return referenced + [name for pair in self.bipolar for name in pair]

    @property
    def names_out(self) -> tuple[str, ...]:
        """Channels that leave, in order."""
        return tuple(f"{a}-{b}" for a, b in self.bipolar) or self.names

    @property
    def rate_out(self) -> float:
        """Samples per second that leave."""
        return self._bound() / self.decimate

    @property
    def units_out(self) -> str:
        """Unit of what leaves."""
        return self.units if self.tau is None else "z"

    def _bound(self) -> float:
        if self.rate is None:
            raise InputError(explain("Causal", expected="steps bound to an input", got="none", fix="call bind"))
        return self.rate

    @property
    def mix(self) -> np.ndarray | None:
        """Matrix (channel out, channel in) of the reference; None where nothing is mixed."""
        n = len(self.names)
        if self.bipolar:
            made = np.zeros((len(self.bipolar), n))
            for row, (plus, minus) in enumerate(self.bipolar):
                made[row, self.names.index(plus)], made[row, self.names.index(minus)] = 1.0, -1.0
            return made
        if self.reference is None:
            return None
        used = self.names if self.reference == "average" else self.reference
        weight = np.asarray([name in used for name in self.names], dtype=float)
        mixed: np.ndarray = np.eye(n) - weight / weight.sum()
        return mixed

    @property
    def sos(self) -> np.ndarray:
        """Second-order sections of all filters in order: float64 array (section, 6), empty where there is none."""
        from scipy.signal import butter, cheby1, iirnotch, tf2sos

        rate, made = self._bound(), [np.zeros((0, 6))]
        if self.highpass is not None:
            made.append(butter(self.order, self.highpass, "highpass", fs=rate, output="sos"))
        if self.lowpass is not None:
            made.append(butter(self.order, self.lowpass, "lowpass", fs=rate, output="sos"))
        made += [tf2sos(*iirnotch(f, 30.0, fs=rate)) for f in self.notch]
        if self.decimate > 1:
            made.append(cheby1(8, 0.05, 0.8 / self.decimate, output="sos"))
        return np.concatenate(made)

    @property
    def settling(self) -> float:
        """Time in s after which a thousandth of a transient is left, of filters and running normaliser."""
        roots = np.abs([r for section in self.sos for r in np.roots(section[3:])])
        slowest = float(roots.max(initial=0.0))
        filters = math.log(SETTLED) / math.log(slowest) / self._bound() if slowest > 0 else 0.0
        return filters - math.log(SETTLED) * (self.tau or 0.0)

    @property
    def delay(self) -> float:
        """Group delay of the filters in s, at the middle of the pass-band (geometric)."""
        rate, sos = self._bound(), self.sos
        if not len(sos):
            return 0.0
        top = min(self.lowpass or math.inf, 0.4 * rate / self.decimate)
        centre = math.sqrt(top * (self.highpass or top / 16))
        step = 1e-4 * centre
        phase = [np.angle(_response(sos, f, rate)) for f in (centre - step, centre + step)]
        turn = (phase[0] - phase[1] + math.pi) % (2 * math.pi) - math.pi
        return max(0.0, float(turn / (4 * math.pi * step)))


def _noted(history: Sequence[Any]) -> Causal | None:
    """Return the causal step of a history, if there is one."""
    known = {f.name for f in fields(Causal)}
    notes = [s for s in history if isinstance(s, Mapping) and s.get("step") == STEP]
    if len(notes) > 1:
        raise InputError(explain("Causal.of", expected="one causal step in the history", got=f"{len(notes)} of them"))
    return Causal(**{k: v for k, v in notes[0].items() if k in known}) if notes else None


def _shared(histories: Sequence[Sequence[Any]]) -> Causal | None:
    """Return the causal steps of all training recordings: names of the first, the middle one of the scales."""
    _check_repeatable(histories)
    found = [_noted(history) for history in histories]
    bare = [None if each is None else replace(each, names=(), units="", scale=None) for each in found]
    if any(each != bare[0] for each in bare):
        expected = "the same causal steps in all training data"
        fix = "process all recordings alike, or set decoder.causal_"
        raise InputError(explain("Causal.of", expected=expected, got="different ones", fix=fix))
    first = found[0] if found else None
    if first is None:
        return None
    scales = [each.scale for each in found if each is not None and each.scale and each.units == first.units]
    return replace(first, scale=float(np.median(scales))) if scales else first


def _check_repeatable(histories: Sequence[Sequence[Any]]) -> None:
    """Refuse steps that look ahead, or that a stream would not know to repeat."""
    steps = [step for history in histories for step in history if isinstance(step, Mapping)]
    strange = [str(s["step"]) for s in steps if s.get("step") not in LIVE and ("reach" in s or s["step"] in UNKNOWN)]
    if strange:
        got = f"training data behind {', '.join(dict.fromkeys(strange))}"
        fix = "train behind tectum.preprocess.apply_causal(rec, tectum.Causal(...)); where the amplifier itself does "
        fix += "the same, say so by decoder.causal_ = tectum.Causal()"
        raise NotCausalError(explain("Causal.of", expected="steps that a stream can repeat", got=got, fix=fix))


def _response(sos: np.ndarray, frequency: float, rate: float) -> complex:
    """Return the complex gain of a cascade at one frequency."""
    powers = np.exp(-2j * math.pi * frequency / rate) ** np.arange(3)
    return complex(np.prod((sos[:, :3] @ powers) / (sos[:, 3:] @ powers)))


def matched(steps: Causal, contract: Contract) -> Causal:
    """Return the steps in front of a decoder, for no more channels than its input needs.

    Parameters
    ----------
    steps : Causal
        As the decoder remembers them; if they are bound to no input, to one of the contract's channels and unit.
    contract : Contract
        What the decoder takes behind the steps.

    Raises
    ------
    ContractError
        If the steps do not lead to the contract.
    """
    names = [str(n) for n in (contract.names or range(contract.size))]
    rate = float(contract.rate or 0.0)
    if not steps.names:
        return steps.bind(names=names, rate=rate * steps.decimate, units=contract.units)
    missing = [n for n in names if n not in steps.names_out] if contract.names else []
    if missing or not math.isclose(steps.rate_out, rate, rel_tol=1e-6):
        expected = f"{names[:8]} at {rate:g} Hz, as the decoder was trained"
        got = f"{list(steps.names_out)[:8]} at {steps.rate_out:g} Hz behind the causal steps"
        raise ContractError(explain("Causal", expected=expected, got=got, fix="set decoder.causal_ to Causal.of(rec)"))
    if steps.reference == "average" or not contract.names:
        return steps
    pairs = tuple(pair for name in names for pair in steps.bipolar if f"{pair[0]}-{pair[1]}" == name)
    needed = [n for pair in pairs for n in pair] if pairs else [*names, *(steps.reference or ())]
    return replace(steps, bipolar=pairs, names=tuple(dict.fromkeys(needed)))


class CausalState(NamedTuple):
    """What the steps remember between chunks."""

    filters: Tensor  #: (channel, state): of the recursive filters
    phase: int  #: samples until the next one that decimation keeps
    mean: Tensor  #: (channel,): running mean
    variance: Tensor  #: (channel,): running variance
    entered: Tensor  #: (channel,): samples that entered the running moments


class Chain:
    """The steps ready to run on a device: matrices made once, the state handed over by the caller.

    Parameters
    ----------
    steps : Causal
        Bound to an input.
    device : torch.device
        Where chunks will lie; computed in float64 where the device has it.
    """

    def __init__(self, steps: Causal, device: torch.device) -> None:
        self.steps, self.device, self.dtype = steps, device, highest_precision(device)
        mix, sos = steps.mix, torch.from_numpy(steps.sos)
        self.mix = None if mix is None else self._moved(torch.from_numpy(mix))
        self.filters = Cascade(*map(self._moved, cascade(sos))) if len(sos) else None

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(device=self.device, dtype=self.dtype)

    def start(self, first: Tensor) -> CausalState:
        """Return the state of an input that has always been ``first`` (channel,): steady filters, moments empty."""
        x = first.to(self.dtype) if self.mix is None else self.mix @ first.to(self.dtype)
        filters = x[:, None] * self.filters.steady if self.filters else x[:, None][:, :0]
        return CausalState(filters, 0, *(torch.zeros_like(x) for _ in range(3)))

    def step(self, chunk: Tensor, state: CausalState | None = None) -> tuple[Tensor, CausalState]:
        """Process a chunk.

        Parameters
        ----------
        chunk : Tensor, shape (channel in, time)
            At least one sample.
        state : CausalState, optional
            What the last call returned; by default the stream starts here.

        Returns
        -------
        y : Tensor, shape (channel out, time / decimate)
        state : CausalState
        """
        state = self.start(chunk[:, 0]) if state is None else state
        x = chunk.to(self.dtype)
        x = x if self.mix is None else self.mix @ x
        filters, phase, every = state.filters, state.phase, self.steps.decimate
        if self.filters is not None:
            x, filters = run_cascade(x, self.filters, filters)
        y, phase = (x[:, phase::every], (phase - x.shape[1]) % every) if every > 1 else (x, 0)
        state = state._replace(filters=filters, phase=phase)
        return (y, state) if self.steps.tau is None else self._normalise(y, state)

    def _normalise(self, x: Tensor, state: CausalState) -> tuple[Tensor, CausalState]:
        """Subtract the running mean and divide by the running standard deviation, both up to each sample."""
        if x.shape[1] == 0:
            return x, state
        forget = 1 / max(1.0, float(self.steps.tau or 0.0) * self.steps.rate_out)
        enters = torch.ones_like(x) if self.steps.artefact is None else (x.abs() <= self.steps.artefact).to(x)
        count = state.entered[:, None] + enters.cumsum(1)
        weight = enters * (1 / count.clamp(min=1)).clamp(min=forget)
        mean = decaying_sum(1 - weight, weight * x, state.mean)
        away = x - mean
        variance = decaying_sum(1 - weight, weight * away.square(), state.variance)
        limits = torch.finfo(x.dtype)
        varies = variance > (32 * limits.eps * mean).square()
        y = torch.where(varies, away * variance.clamp(min=limits.tiny).rsqrt(), 0)
        state = state._replace(mean=mean[:, -1], variance=variance[:, -1], entered=count[:, -1])
        return y.clamp(-self.steps.clip, self.steps.clip), state


def apply_causal(rec: Recording, steps: Causal) -> Recording:
    """Apply causal steps to a continuous recording, exactly as a stream will.

    Parameters
    ----------
    rec : Recording, axes channel and time
        Regular, finite, with channel names if the steps name channels. Cut epochs afterwards.
    steps : Causal
        What to do.

    Returns
    -------
    Recording
        float32; sample 0 stays where it was. The history holds the steps with names, rate, unit and scale;
        ``Causal.of(rec)`` reads them.

    Raises
    ------
    InputError
        If the recording is not continuous, has missing samples or was processed causally before.

    Examples
    --------
    >>> coords = {"channel": {"name": ["C3", "C4"]}}
    >>> rec = Recording(data=torch.randn(2, 500), dims=("channel", "time"), rate=250.0, units="uV", coords=coords)
    >>> apply_causal(rec, Causal(highpass=1.0, decimate=5)).sizes
    {'channel': 2, 'time': 100}
    """
    bound = _bound_to(rec, steps)
    x = rec.tensor("channel", "time")
    made, _ = Chain(bound, x.device).step(x)
    bound = replace(bound, scale=float(made.std(1).median()) or None)
    coords = {axis: table for axis, table in rec.coords.items() if axis not in ("time", "channel")}
    if bound.bipolar:
        coords["channel"] = {"name": np.asarray(bound.names_out)}
    elif "channel" in rec.coords:
        coords["channel"] = rec.coords["channel"]
    data = made.to(torch.float32)
    note = {f.name: getattr(bound, f.name) for f in fields(bound)}
    return rec.with_(
        data=data if rec.dims == ("channel", "time") else data.T, rate=bound.rate_out, units=bound.units_out,
        mask=None, coords=coords, history=rec.noted(STEP, **note, reach=bound.settling),
    )  # fmt: skip


def _bound_to(rec: Recording, steps: Causal) -> Causal:
    """Check a recording and bind the steps to it."""
    if sorted(rec.dims) != ["channel", "time"] or rec.rate is None:
        expected, fix = "a continuous recording of channels", "filter before cutting epochs"
        raise InputError(explain("apply_causal", expected=expected, got=repr(rec), fix=fix))
    if Causal.of(rec) is not None:
        raise InputError(explain("apply_causal", expected="a recording without causal steps", got="one with some"))
    if not bool(torch.isfinite(rec.values).all() & rec.valid().all()):
        raise InputError(explain("apply_causal", expected="finite samples", got="NaN, infinity or masked samples"))
    labels = rec.labels("channel")
    if labels is None and (steps.bipolar or steps.reference not in (None, "average")):
        raise InputError(explain("apply_causal", expected="channel names", got="none"))
    names = [str(k) for k in (range(rec.sizes["channel"]) if labels is None else labels)]
    return steps.bind(names=names, rate=rec.rate, units=rec.units)
