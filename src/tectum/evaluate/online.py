"""What a run of decisions was worth, event by event: found, missed, wrong, false, how late, how many bits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tectum.core.errors import InputError, explain, nearest
from tectum.core.intervals import Intervals
from tectum.core.result import Result, Section, axes
from tectum.nn.trials import confusion_counts, mean_recall

from .classification import information_transfer_rate
from .confidence import Interval, clopper_pearson

if TYPE_CHECKING:
    from matplotlib.axes import Axes


QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}


class Matched(NamedTuple):
    """Which activation answers which event."""

    first: Tensor  #: shape (event,), int64, the first activation inside; -1 without any
    event: Tensor  #: shape (activation,), int64, the event it lies in; -1 outside all


def activations(codes: Tensor) -> Tensor:
    """Return where a command begins: bool (decision,), true where a class follows neutral or another class.

    A command that is held over several decisions is one activation.

    Parameters
    ----------
    codes : Tensor, shape (decision,), int64
        Class of each decision; -1 is neutral.

    Examples
    --------
    >>> activations(torch.tensor([-1, 0, 0, 1, -1, 1])).tolist()
    [False, True, False, True, False, True]
    """
    before = torch.cat([codes.new_full((1,), -1), codes[:-1]])
    return (codes >= 0) & (codes != before)


def match_events(fired: Tensor, start: Tensor, stop: Tensor, *, tolerance: float = 0.0) -> Matched:
    """Give every activation to the event that it lies in: from its start to ``tolerance`` behind its end.

    Where the tolerance of one event reaches into the next, the next one has it.

    Parameters
    ----------
    fired : Tensor, shape (activation,), float64
        Times in s, in order.
    start, stop : Tensor, shape (event,), float64
        Of the events in s, in order of their starts.
    tolerance : float, default 0
        In s.

    Examples
    --------
    >>> t = lambda *x: torch.tensor(x, dtype=torch.float64)
    >>> match_events(t(0.5, 1.2, 1.4, 3.1), t(1.0, 2.0), t(1.5, 3.0), tolerance=0.2)
    Matched(first=tensor([1, 3]), event=tensor([-1,  0,  0,  1]))
    """
    n, m = len(start), len(fired)
    place = torch.searchsorted(start, fired, right=True) - 1
    end = (stop + tolerance)[place.clamp(min=0)] if n else fired
    event = torch.where((place >= 0) & (fired < end), place, -1)
    inside = event >= 0
    order = torch.arange(m, device=fired.device)
    first = torch.full((n,), m, dtype=torch.int64, device=fired.device)
    first = first.scatter_reduce(0, event[inside], order[inside], "amin")
    return Matched(torch.where(first < m, first, -1), event)


@dataclass(frozen=True, kw_only=True, eq=False)
class OnlineScore(Result):
    """What the decisions of a stream were worth.

    Attributes
    ----------
    labels : tuple of str or int
        Classes, in the order of every class axis; those in ``rest`` are no commands.
    rest : tuple of str or int
        Classes that mean no command.
    when : Tensor, shape (time,), float64
        Time of each decision in s.
    proba : Tensor, shape (time, label), float64
        Probabilities.
    code : Tensor, shape (time,), int64
        Command of each decision; -1 is neutral.
    fired : Tensor, shape (time,), bool
        Where a command begins; every window that is locked to a marker is one of its own.
    truth : Tensor, shape (time,), int64
        Class of the event around each decision, the class of rest outside; -1 if there is none.
    start, stop : Tensor, shape (trial,), float64
        Of the events in s; they are the trials.
    wanted : Tensor, shape (trial,), int64
        Class of each event.
    given : Tensor, shape (trial,), int64
        Class of the first activation in each event; -1 if it was missed.
    delay : Tensor, shape (trial,), float64
        From the start of the event to that activation in s; NaN if it was missed.
    false : Tensor, shape (side,), float64
        Activations outside the events, and the time outside them in s.
    latency, compute : Tensor, shape (time,), float64
        Of each decision in s.
    tolerance : float
        How long behind its end an event still counts, in s.
    duration : float
        From the first to the last decision in s.
    deadline : float or None
        Computing time that is late, in s.
    faults : mapping of str to int
        Decisions with each flag but "refractory".
    """

    labels: tuple[str | int, ...]
    rest: tuple[str | int, ...] = ()
    when: Tensor = axes("time", unit="s")
    proba: Tensor = axes("time", "label")
    code: Tensor = axes("time")
    fired: Tensor = axes("time")
    truth: Tensor = axes("time")
    start: Tensor = axes("trial", unit="s")
    stop: Tensor = axes("trial", unit="s")
    wanted: Tensor = axes("trial")
    given: Tensor = axes("trial")
    delay: Tensor = axes("trial", unit="s")
    false: Tensor = axes("side")
    latency: Tensor = axes("time", unit="s")
    compute: Tensor = axes("time", unit="s")
    tolerance: float = 0.0
    duration: float = 0.0
    deadline: float | None = None
    faults: Mapping[str, int] = field(default_factory=dict)

    @property
    def right(self) -> Tensor:
        """Whether the first activation in an event was of its class: bool Tensor (trial,)."""
        return self.given == self.wanted

    def true_positive_rate(self, *, level: float = 0.95) -> Interval:
        """Return the share of events whose first activation is right, with its exact binomial interval."""
        return clopper_pearson(int(self.right.sum()), len(self.right), level=level)

    @property
    def wrong(self) -> int:
        """Events whose first activation is of another class."""
        return int(((self.given >= 0) & ~self.right).sum())

    @property
    def missed(self) -> int:
        """Events without any activation."""
        return int((self.given < 0).sum())

    def false_per_minute(self, *, level: float = 0.95) -> Interval:
        """Return activations outside the events for each minute outside them, with the exact Poisson interval."""
        from scipy.stats import chi2

        count, minutes = float(self.false[0]), float(self.false[1]) / 60
        if not minutes > 0:
            return Interval(math.nan, math.nan, math.nan)
        low = chi2.ppf((1 - level) / 2, 2 * count) / 2 if count else 0.0
        high = chi2.ppf((1 + level) / 2, 2 * count + 2) / 2
        return Interval(count / minutes, float(low) / minutes, float(high) / minutes)

    @property
    def time_to_decision(self) -> float:
        """Median time in s from the start of an event to its activation, where that is right; NaN if none is."""
        found = self.delay[self.right]
        return float(found.median()) if len(found) else math.nan

    def window_accuracy(self) -> float:
        """Return the balanced accuracy of the most probable class of every window; overlapping ones are alike.

        In [0, 1]; chance is 1 / classes. Windows outside the events count where there is one class of rest.
        """
        known = self.truth >= 0
        if not bool(known.any()):
            return math.nan
        counts = confusion_counts(self.truth[known], self.proba[known].argmax(1), len(self.labels))
        return float(mean_recall(counts))

    @property
    def bits_per_minute(self) -> float:
        """Information transfer rate (Wolpaw): events are choices among the commands, missed ones are errors.

        The time of a choice is the whole run by the number of events, pauses included. NaN below two commands.
        """
        n = len([name for name in self.labels if name not in self.rest])
        if n < 2 or not len(self.right) or not self.duration > 0:
            return math.nan
        share = float(self.right.double().mean())
        return information_transfer_rate(share, n, seconds=self.duration / len(self.right))

    def latencies(self) -> dict[str, float]:
        """Return quantiles and the largest of the times from the last sample to the decision, in s."""
        found = np.sort(self.latency.cpu().numpy())
        at = {name: found[math.ceil(share * len(found)) - 1] for name, share in QUANTILES.items()} if len(found) else {}
        return {name: float(at.get(name, math.nan)) for name in QUANTILES}

    @property
    def misses(self) -> int:
        """Decisions whose computing took longer than the deadline."""
        return 0 if self.deadline is None else int((self.compute > self.deadline).sum())

    def __str__(self) -> str:
        return "\n".join(f"{name:24}{value}" for name, value in self._rows())

    def _rows(self) -> list[tuple[str, str]]:
        """Return what there is to say, by name."""
        hit, false, times = self.true_positive_rate(), self.false_per_minute(), self.latencies()
        shown = " ".join(f"{name} {1e3 * seconds:.1f}" for name, seconds in times.items())
        rows = [
            ("events", f"{len(self.right)} in {self.duration:.0f} s"),
            ("right", f"{hit.estimate:.2f} ({hit.low:.2f} to {hit.high:.2f})"),
            ("wrong, missed", f"{self.wrong}, {self.missed}"),
            ("false a minute", f"{false.estimate:.2f} ({false.low:.2f} to {false.high:.2f})"),
            ("time to decision", f"{self.time_to_decision:.2f} s"),
            ("bits a minute", f"{self.bits_per_minute:.1f}"),
            ("windows", f"{self.window_accuracy():.2f} balanced, chance {1 / len(self.labels):.2f}"),
            ("latency", f"{shown} ms, {self.misses} misses"),
        ]
        faults = ", ".join(f"{count} {name}" for name, count in self.faults.items())
        return [*rows, ("flags", faults)] if faults else rows

    def plots(self) -> Mapping[str, Callable[..., Axes]]:
        """Return the kinds of figure: the run in time, confusion of events, time to decision, latency."""
        from tectum.plot import histogram, online

        def run(ax: Axes | None = None, **options: Any) -> Axes:
            names = [str(self.labels[k]) for k in self.wanted.tolist()]
            events = Intervals(start=self.start.cpu(), stop=self.stop.cpu(), columns={"name": np.asarray(names)})
            fired = (self.when[self.fired], self.code[self.fired])
            return online.run(self.when, self.proba, self.labels, events=events, fired=fired, ax=ax, **options)

        def confusion(ax: Axes | None = None, **options: Any) -> Axes:
            n = len(self.labels)
            given = torch.where(self.given < 0, n, self.given)
            counts = confusion_counts(self.wanted, given, n + 1)[:n]
            shown = torch.unique(self.wanted)
            rows = [str(self.labels[k]) for k in shown.tolist()]
            return online.answers(counts[shown], rows, [*map(str, self.labels), "none"], ax=ax, **options)

        def delay(ax: Axes | None = None, **options: Any) -> Axes:
            return histogram(self.delay[self.right], x="time to decision (s)", ax=ax, **options)

        def latency(ax: Axes | None = None, **options: Any) -> Axes:
            return histogram(1e3 * self.latency, x="latency (ms)", ax=ax, **options)

        return {"run": run, "confusion": confusion, "delay": delay, "latency": latency}

    def sections(self) -> list[Section]:
        """Return the parts of a report."""
        text = f"An event is right if its first activation, from its start to {self.tolerance:.2f} s behind its end, "
        text += "is of its class. Activations outside are false. Intervals are exact, 95%."
        figures = tuple((f"{kind.capitalize()}.", lambda kind=kind: self.plot(kind)) for kind in self.plots())
        return [Section(title="Online", text=text, table=(("", ""), *self._rows()), figures=figures)]


def online_score(
    decisions: Sequence[Any],
    events: Intervals,
    *,
    labels: Sequence[str | int],
    column: str = "label",
    rest: Sequence[str | int] = (),
    tolerance: float = 0.0,
    deadline: float | None = None,
    pauses: float = 0.0,
) -> OnlineScore:
    """Score the decisions of a stream against what really happened.

    A command that is held counts once, when it begins. The first one in an event says whether it is right.

    Parameters
    ----------
    decisions : sequence of Decision
        Of one run, in order, as :meth:`tectum.Stream.push` returns them: with ``time``, ``label``, ``proba``,
        ``latency_s``, ``compute_s`` and ``flags``.
    events : Intervals
        When something was to be decided, and what: a column of classes. Those before the first or after the last
        decision are left out.
    labels : sequence of str or int
        Classes in the order of ``proba``.
    column : str, default "label"
        Column of ``events`` with their classes.
    rest : sequence of str or int, default ()
        Classes that mean no command; events of these classes are rest.
    tolerance : float, default 0
        How long behind its end an event still counts, in s: the latency of the stream and a hop.
    deadline : float, optional
        Computing time in s above which a decision is late.
    pauses : float, default 0
        Time in s between the first and the last decision in which nothing ran, such as between recordings.

    Returns
    -------
    OnlineScore

    Raises
    ------
    InputError
        If there are no decisions, no events among them, or a class is unknown.
    """
    where, known = "online_score", tuple(labels)
    if not len(decisions) or not 0 <= tolerance < math.inf:
        got = f"{len(decisions)} decisions, tolerance={tolerance!r}"
        raise InputError(explain(where, expected="decisions, and a tolerance >= 0 s", got=got))
    if column not in events.columns:
        expected, got = "a column of classes", repr(column)
        raise InputError(explain(f"{where}(column)", expected=expected, got=got, fix=nearest(column, events.columns)))
    when = torch.tensor([d.time for d in decisions], dtype=torch.float64)
    names = [x.item() if isinstance(x, np.generic) else x for x in np.asarray(events.columns[column])]
    kept = (events.stop + tolerance > when[0]) & (events.start <= when[-1])
    kept &= torch.tensor([name not in rest for name in names], dtype=torch.bool)
    wanted = torch.tensor([_place(name, known, where) for name in names], dtype=torch.int64)[kept]
    start, stop = events.start[kept], events.stop[kept]
    if not len(start):
        raise InputError(explain(where, expected="events while there were decisions", got="none"))
    code = torch.tensor([_command(d.label, known, rest, where) for d in decisions], dtype=torch.int64)
    cued = torch.tensor([getattr(d, "cue", None) is not None for d in decisions], dtype=torch.bool)
    begins = activations(code) | (cued & (code >= 0))
    found = match_events(when[begins], start, stop, tolerance=tolerance)
    hit = found.first >= 0
    given, delay = torch.full_like(wanted, -1), torch.full_like(start, math.nan)
    given[hit] = code[begins][found.first[hit]]
    delay[hit] = when[begins][found.first[hit]] - start[hit]
    duration = float(when[-1] - when[0]) - pauses
    idle = Intervals.from_pairs([(float(when[0]), float(when[-1]))]).subtract(
        Intervals(start=start, stop=stop + tolerance)
    )
    counted = Counter(flag for d in decisions for flag in d.flags if flag != "refractory")
    return OnlineScore(
        coords={"label": {"name": [str(name) for name in known]}}, labels=known, rest=tuple(rest), when=when,
        proba=torch.tensor([d.proba for d in decisions], dtype=torch.float64), code=code, fired=begins,
        truth=_truth(when, start, stop, wanted, known, rest), start=start, stop=stop, wanted=wanted, given=given,
        delay=delay, false=torch.tensor([float((found.event < 0).sum()), idle.duration - pauses], dtype=torch.float64),
        latency=torch.tensor([d.latency_s for d in decisions], dtype=torch.float64),
        compute=torch.tensor([d.compute_s for d in decisions], dtype=torch.float64), tolerance=float(tolerance),
        duration=duration, deadline=deadline, faults=dict(counted),
    )  # fmt: skip


def _place(name: Any, labels: tuple[str | int, ...], where: str) -> int:
    if name not in labels:
        fix = nearest(str(name), map(str, labels))
        raise InputError(explain(where, expected=f"classes among {list(labels)[:8]}", got=repr(name), fix=fix))
    return labels.index(name)


def _command(label: Any, labels: tuple[str | int, ...], rest: Sequence[str | int], where: str) -> int:
    """Return the position of a command; -1 for neutral and rest."""
    return -1 if label is None or label in rest else _place(label, labels, where)


def _truth(
    when: Tensor,
    start: Tensor,
    stop: Tensor,
    wanted: Tensor,
    labels: tuple[str | int, ...],
    rest: Sequence[str | int],
) -> Tensor:
    """Return the class of the event around each time; outside the only class of rest, if there is one: -1 otherwise."""
    event = match_events(when, start, stop).event
    outside = labels.index(rest[0]) if len(rest) == 1 and rest[0] in labels else -1
    return torch.where(event >= 0, wanted[event.clamp(min=0)], outside)
