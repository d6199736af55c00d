"""Before the experiment: a decoder on recordings as if they were live, scored, and its rule chosen on such runs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch

from tectum.core.errors import InputError, TectumWarning, explain
from tectum.core.intervals import Intervals
from tectum.core.recording import Recording
from tectum.evaluate.online import OnlineScore, activations, match_events, online_score
from tectum.evaluate.temperature import fit_temperature

from .decision import Decision
from .evidence import Accumulator, Evidence
from .runtime import Stream
from .sources import Replayed

PAUSE = 60.0  # s put between recordings that are scored as one run
LEAST = 1e-12  # probability below which the logarithm of a class says nothing more
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)


class Row(NamedTuple):
    """What one rule gave on the sequences."""

    evidence: Evidence
    right: float  #: share of events whose first activation was right
    false_per_minute: float
    delay: float  #: median time to a right activation in s


class Calibration(NamedTuple):
    """A rule chosen on sequences."""

    evidence: Evidence
    score: OnlineScore  #: of the rule on the sequences it was chosen on, so it flatters
    rows: list[Row]  #: every rule that was tried


def rehearse(
    decoder: Any,
    data: Recording | Sequence[Recording],
    events: Intervals | Sequence[Intervals] | str = "events",
    *,
    column: str = "label",
    chunk: int | None = None,
    tolerance: float | None = None,
    rest: Sequence[str | int] | None = None,
    **options: Any,
) -> OnlineScore:
    """Run recordings through a stream as if they were live, and score the decisions event by event.

    Parameters
    ----------
    decoder : estimator or Exported
        As for :class:`tectum.Stream`.
    data : Recording or list of Recording, axes channel and time
        Raw, as an amplifier gives them, that the decoder was not trained on.
    events : Intervals or list of Intervals, or str, default "events"
        When something was to be decided; or the name that it has among the intervals of each recording.
    column : str, default "label"
        Column of the events with their classes.
    chunk : int, optional
        Samples that arrive together; by default 40 ms of them.
    tolerance : float, optional
        How long behind its end an event still counts, in s; by default the known latency of the stream and a hop.
    rest : sequence of str or int, optional
        Classes that mean no command; by default those that the rule rejects.
    options
        Of :class:`tectum.Stream`, such as ``hop`` and ``evidence``. With ``offset`` the windows are locked to the
        starts of the events.

    Returns
    -------
    OnlineScore
        Several recordings are one run, a minute apart.

    Examples
    --------
    >>> import tectum
    >>> rec = Recording(data=torch.randn(2, 3000), dims=("channel", "time"), rate=100.0, units="uV",
    ...                 coords={"channel": {"name": ["C3", "C4"]}})
    >>> spans = Intervals.from_pairs([(5.0, 9.0), (15.0, 19.0)], label=["left", "right"])
    >>> windows = rec.epochs(spans, (0.0, 1.0))
    >>> decoder = tectum.LightCNN(epochs=1, validation=0.0, device="cpu").fit(windows, "label")
    >>> len(tectum.stream.rehearse(decoder, rec, spans, hop=0.5).wanted)
    2
    """
    runs = _paired(data, events)
    decisions, spans, stream, begin = list[Decision](), list[Intervals](), None, 0.0
    for rec, known in runs:
        stream, made = _run(decoder, rec, known, column, chunk, options)
        shift = begin - float(rec.time[0]) if len(runs) > 1 else 0.0
        decisions += [replace(d, time=d.time + shift) for d in made]
        spans.append(known.shift(shift))
        begin += rec.duration + PAUSE
    if stream is None:
        raise InputError(explain("rehearse", expected="a recording or more", got="none"))
    late = stream.budget.total + stream.hop if tolerance is None else tolerance
    away = stream.rule.reject if rest is None else rest
    return online_score(
        decisions, _joined(spans, column), labels=stream.labels, column=column, rest=away, tolerance=late,
        deadline=stream.deadline, pauses=PAUSE * (len(runs) - 1),
    )  # fmt: skip


def calibrate(
    decoder: Any,
    data: Recording | Sequence[Recording],
    events: Intervals | Sequence[Intervals] | str = "events",
    *,
    column: str = "label",
    max_false: float = 1.0,
    thresholds: Sequence[float] = THRESHOLDS,
    dwells: Sequence[int] = (1, 2, 3, 5),
    memories: Sequence[float] = (0.0, 0.5, 0.8),
    refractory: float = 1.0,
    reject: Sequence[str | int] = (),
    temperature: bool = True,
    **options: Any,
) -> Calibration:
    """Choose temperature, memory, threshold and dwell on whole sequences, as they will be used.

    The decoder runs once over the sequences; the rules are then tried on its outputs, by the code that decides live.
    The rule taken finds most events among those with at most ``max_false`` activations a minute outside events; of
    equals the quickest.

    Parameters
    ----------
    decoder, data, events, column
        See :func:`rehearse`. The recordings must be neither training nor test data.
    max_false : float, default 1
        False activations a minute that may be.
    thresholds, dwells, memories : sequence
        Values to try; see :class:`Evidence`.
    refractory : float, default 1
        Time in s after a decision in which every output is neutral.
    reject : sequence of str or int, default ()
        Classes that mean no command, such as rest.
    temperature : bool, default True
        Fit the temperature, on windows that lie wholly inside an event (or, where one class is rest, outside).
    options
        Of :func:`rehearse`.

    Returns
    -------
    Calibration
        Set ``decoder.evidence_ = found.evidence`` to have it saved with the decoder and used by its streams.

    Warns
    -----
    TectumWarning
        If no rule keeps below ``max_false``; the one with the fewest false activations is taken.
    """
    if not max_false >= 0 or not (len(thresholds) and len(dwells) and len(memories)):
        got = f"max_false={max_false!r}, {len(thresholds)} thresholds, {len(dwells)} dwells, {len(memories)} memories"
        raise InputError(explain("calibrate", expected="a rate >= 0 and values to try", got=got))
    if options.get("offset") is not None:
        got = "windows locked to markers, each of which has one"
        raise InputError(explain("calibrate", expected="windows by hops", got=got, fix="leave offset out"))
    base = Evidence(refractory=refractory, reject=tuple(reject))
    bare = rehearse(decoder, data, events, column=column, **{**options, "evidence": Evidence(), "rest": tuple(reject)})
    window = float(decoder.contract_.n_times) / float(decoder.contract_.rate)
    heat = _temperature(bare, window) if temperature else 1.0
    rows = [row for memory in memories for row in _tried(bare, replace(base, memory=memory, temperature=heat),
                                                         thresholds, dwells)]  # fmt: skip
    fine = [row for row in rows if row.false_per_minute <= max_false]
    if not fine:
        least = min(row.false_per_minute for row in rows)
        fine = [row for row in rows if row.false_per_minute == least]
        text = f"calibrate: no rule keeps below {max_false:g} false activations a minute; the best has {least:.2g}"
        warnings.warn(text, TectumWarning, stacklevel=2)
    best = min(fine, key=lambda row: (-row.right, row.delay if math.isfinite(row.delay) else math.inf))
    score = rehearse(decoder, data, events, column=column, **{**options, "evidence": best.evidence})
    return Calibration(best.evidence, score, rows)


def _paired(data: Any, events: Any) -> list[tuple[Recording, Intervals]]:
    """Return every recording with its events."""
    recs = [data] if isinstance(data, Recording) else list(data)
    if isinstance(events, str):
        missing = [k for k, rec in enumerate(recs) if events not in rec.intervals]
        if missing:
            got = f"none in recording {missing[0]}, which has {sorted(recs[missing[0]].intervals)}"
            raise InputError(explain("rehearse", expected=f"intervals called {events!r}", got=got))
        return [(rec, rec.intervals[events]) for rec in recs]
    known = [events] if isinstance(events, Intervals) else list(events)
    if len(known) != len(recs):
        raise InputError(explain("rehearse(events)", expected=f"{len(recs)} sets of events", got=str(len(known))))
    return list(zip(recs, known, strict=True))


def _run(
    decoder: Any, rec: Recording, events: Intervals, column: str, chunk: int | None, options: Mapping[str, Any]
) -> tuple[Stream, list[Decision]]:
    """Run one recording through a stream of its own."""
    rate = float(rec.rate or 0.0)
    source = Replayed(rec, max(1, round(0.04 * rate)) if chunk is None else chunk)
    stream = Stream.of(decoder, source, **options)
    made = list[Decision]()
    if options.get("offset") is not None:
        codes = np.asarray(events.columns.get(column, np.arange(len(events)))).tolist()
        for start, code in zip(events.start.tolist(), codes, strict=True):
            made += stream.mark(start, code)
    return stream, made + list(stream.run())


def _joined(spans: Sequence[Intervals], column: str) -> Intervals:
    """Return the events of all runs as one table."""
    if len(spans) == 1:
        return spans[0]
    start, stop = (torch.cat([getattr(s, name) for s in spans]) for name in ("start", "stop"))
    values = [np.asarray(s.columns[column]) for s in spans if column in s.columns]
    columns = {column: np.concatenate(values)} if len(values) == len(spans) else {}
    return Intervals(start=start, stop=stop, columns=columns)


def _temperature(score: OnlineScore, window: float) -> float:
    """Fit the temperature on the windows whose truth is one class from end to end."""
    begin = score.when - window
    event = match_events(score.when, score.start, score.stop).event
    inside = (event >= 0) & (begin >= score.start[event.clamp(min=0)] - 1e-9)
    touched = match_events(begin, score.start, score.stop).event >= 0
    between = torch.searchsorted(score.start, begin) != torch.searchsorted(score.start, score.when)
    known = inside | ((event < 0) & ~touched & ~between)
    known &= score.truth >= 0
    if not bool(known.any()):
        expected = f"events longer than the window of {window:g} s, to fit a temperature"
        raise InputError(explain("calibrate", expected=expected, got="none", fix="temperature=False"))
    return fit_temperature(score.proba[known].clamp(min=LEAST).log(), score.truth[known])


def _tried(score: OnlineScore, base: Evidence, thresholds: Sequence[float], dwells: Sequence[int]) -> list[Row]:
    """Try thresholds and dwells on the outputs of one run, accumulated once."""
    times, logits = score.when.tolist(), score.proba.clamp(min=LEAST).log().tolist()
    fresh = _breaks(score)
    made, posteriors = Accumulator(base, score.labels), []
    for new, z in zip(fresh, logits, strict=True):
        if new:
            made.restart()
        posteriors.append(made.add(z))
    place: dict[Any, int] = {name: k for k, name in enumerate(score.labels)}
    rows = []
    for threshold, dwell in product(thresholds, dwells):
        rule = replace(base, threshold=threshold, dwell=dwell)
        decider, codes = Accumulator(rule, score.labels), []
        for new, posterior, time in zip(fresh, posteriors, times, strict=True):
            if new:
                decider.restart()
            label, _ = decider.decide(posterior, time=time)
            codes.append(place.get(label, -1))
        rows.append(_judged(score, rule, torch.tensor(codes)))
    return rows


def _breaks(score: OnlineScore) -> list[bool]:
    """Tell before which outputs the stream had started anew."""
    step = score.when.diff()
    far = step > 1.5 * float(step.median()) if len(step) else step > 0
    return [True, *far.tolist()]


def _judged(score: OnlineScore, rule: Evidence, codes: torch.Tensor) -> Row:
    """Score the commands of one rule."""
    begins = activations(codes)
    fired, given = score.when[begins], codes[begins]
    found = match_events(fired, score.start, score.stop, tolerance=score.tolerance + _more(score, rule))
    hit = found.first >= 0
    right = torch.zeros_like(hit)
    right[hit] = given[found.first[hit]] == score.wanted[hit]
    delay = (fired[found.first[right]] - score.start[right]).median() if bool(right.any()) else torch.tensor(math.nan)
    idle = float(score.false[1])
    false = float((found.event < 0).sum()) / (idle / 60) if idle > 0 else 0.0
    return Row(rule, float(right.double().mean()), false, float(delay))


def _more(score: OnlineScore, rule: Evidence) -> float:
    """Return how much later than the bare decoder a rule may answer: its dwell."""
    step = score.when.diff()
    return (rule.dwell - 1) * float(step.median()) if len(step) else 0.0
