"""What a stream says: decisions, its errors, and how fast and how sound it has been."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from itertools import accumulate

from tectum.core.errors import TectumError

_LOWEST, _STEP, _BINS = 1e-6, math.log(1.01), 2048  # from 1 us in steps of 1 % to 700 s


class StreamError(TectumError, RuntimeError):
    """A stream is in a state that no decision may come from."""


class StreamTimeout(TectumError, TimeoutError):
    """No samples arrived for longer than a stream waits."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One output of a stream.

    Attributes
    ----------
    label : str, int or None
        The class decided for; None is neutral: below the threshold, rejected, refractory, or a fault.
    proba : tuple of float
        Probability of every class after evidence accumulation, in the order of ``result_.labels``; equal for all
        where a fault left none.
    time : float
        Time in s of the last sample the decision rests on.
    latency_s : float
        From the arrival of that sample to the decision, in s: the wait for the rest of its chunk and the computing.
        What filters and window add before is in :attr:`Stream.budget`.
    compute_s : float
        The computing alone, in s.
    flags : tuple of str
        What was wrong or special since the decision before; empty if nothing.
    cue : str, int or None
        Code of the marker that a cue-locked window belongs to.
    """

    label: str | int | None
    proba: tuple[float, ...]
    time: float
    latency_s: float
    compute_s: float
    flags: tuple[str, ...] = ()
    cue: str | int | None = None

    def to_json(self) -> str:
        """Return one line of JSON.

        Examples
        --------
        >>> import json
        >>> sorted(json.loads(Decision("left", (0.75, 0.25), 2.0, 0.001, 0.001).to_json()))
        ['compute_s', 'cue', 'flags', 'label', 'latency_s', 'proba', 'time']
        """
        return json.dumps(asdict(self), allow_nan=False)


@dataclass(frozen=True)
class Budget:
    """Parts of the latency that are known before anything runs, in s.

    Attributes
    ----------
    filters : float
        Group delay of the causal filters.
    window : float
        Length of the window; evidence is complete when an event fills it.
    hop : float
        Mean wait for the next window, half a hop; 0 of windows locked to markers.
    dwell : float
        Windows in a row that a decision needs, beyond the first.
    """

    filters: float
    window: float
    hop: float
    dwell: float

    @property
    def total(self) -> float:
        """Sum of the parts."""
        return self.filters + self.window + self.hop + self.dwell


class Latencies:
    """Quantiles of any number of durations in constant memory, to 1 %."""

    def __init__(self) -> None:
        self.counts, self.n, self.largest = [0] * _BINS, 0, 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        bin_ = int(math.log(max(seconds, _LOWEST) / _LOWEST) / _STEP)
        self.counts[min(bin_, _BINS - 1)] += 1
        self.n += 1
        self.largest = max(self.largest, seconds)

    def quantile(self, share: float) -> float:
        """Return the upper edge of the bin that holds a quantile; NaN of nothing.

        Examples
        --------
        >>> times = Latencies()
        >>> for k in range(1, 101):
        ...     times.add(k * 1e-3)
        >>> round(times.quantile(0.5), 3)
        0.05
        """
        if self.n == 0:
            return math.nan
        wanted = math.ceil(share * self.n)
        bin_ = next(k for k, seen in enumerate(accumulate(self.counts)) if seen >= wanted)
        return min(_LOWEST * math.exp((bin_ + 1) * _STEP), self.largest)


@dataclass
class Counts:
    """Everything a stream counts; see :class:`Statistics` for the words."""

    samples: int = 0
    decisions: int = 0
    neutral: int = 0
    misses: int = 0
    skipped: int = 0
    interpolated: int = 0
    gaps: int = 0
    duplicates: int = 0
    disordered: int = 0
    jumps: int = 0
    jittered: int = 0
    held: int = 0
    stalls: int = 0
    compute: Latencies = field(default_factory=Latencies)


@dataclass(frozen=True)
class Statistics:
    """How fast and how sound a stream has been since it began.

    Attributes
    ----------
    samples, decisions, neutral : int
        Samples accepted, decisions given, those that were neutral.
    p50, p95, p99, max : float
        Computing time of a decision in s, to 1 %; NaN before the first.
    misses : int
        Decisions that took longer than the deadline.
    skipped : int
        Windows left out because too many were waiting.
    interpolated, gaps : int
        Samples filled in, and gaps too long for that, which started the stream anew.
    duplicates, disordered, jumps, jittered : int
        Samples received twice, samples dropped because their time ran backwards, clock jumps, and samples that came
        too early for the rate but in order.
    held : int
        Samples with NaN or infinity, whose entries were held at the last value.
    stalls : int
        Silences longer than the watchdog allows.
    """

    samples: int
    decisions: int
    neutral: int
    p50: float
    p95: float
    p99: float
    max: float
    misses: int
    skipped: int
    interpolated: int
    gaps: int
    duplicates: int
    disordered: int
    jumps: int
    jittered: int
    held: int
    stalls: int

    @classmethod
    def of(cls, counts: Counts) -> Statistics:
        """Read the statistics off the counts."""
        numbers = {k: v for k, v in vars(counts).items() if k != "compute"}
        p50, p95, p99 = (counts.compute.quantile(share) for share in (0.5, 0.95, 0.99))
        return cls(**numbers, p50=p50, p95=p95, p99=p99, max=counts.compute.largest if counts.compute.n else math.nan)

    def __str__(self) -> str:
        times = " ".join(f"{name} {1e3 * getattr(self, name):.2f}" for name in ("p50", "p95", "p99", "max"))
        faults = ("skipped", "interpolated", "gaps", "duplicates", "disordered", "jumps", "jittered", "held", "stalls")
        seen = ", ".join(f"{getattr(self, name)} {name}" for name in faults if getattr(self, name))
        return f"{self.decisions} decisions, {times} ms, {self.misses} misses" + (f", {seen}" if seen else "")
