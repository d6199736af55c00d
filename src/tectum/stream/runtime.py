"""Stream: a trained decoder on live samples, with the numbers it would give offline."""

from __future__ import annotations

import math
import time as _time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from tectum.core.device import resolve_device
from tectum.core.errors import ContractError, InputError, explain
from tectum.preprocess.causal import Causal, matched

from .cues import Code, Cues, Due
from .decision import Budget, Counts, Decision, Statistics, StreamError, StreamTimeout
from .evidence import Accumulator, Evidence, as_evidence
from .intake import HELD_CHUNKS, Guard, as_rows, bridged, negotiate
from .log import Log
from .network import running
from .prepare import as_times, check_times, check_window, module_of, plain_options, trained_scale, warm_up
from .sources import open_source
from .timeline import Piece, Timeline
from .transform import Transform

#: What a flag of the timeline is counted as.
COUNTED = {
    "interpolated": "interpolated", "duplicate": "duplicates", "order": "disordered", "clock": "jumps",
    "jitter": "jittered", "gap": "gaps",
}  # fmt: skip


class Stream:
    """Run a decoder on chunks of samples as they arrive.

    Channels are chosen by name and put into the trained order, filtered and normalised as in training with the state
    carried from chunk to chunk, and every ``hop`` a window goes to the decoder. Chunks of any size give the decisions
    of the whole recording. ``push`` evaluates all windows that a chunk completes, oldest first, before it returns;
    there is no queue and no thread. If the caller is late, its next chunk is larger: ``backlog`` then limits how many
    of the newest windows are evaluated, and the others are counted as skipped.

    Parameters
    ----------
    decoder : estimator or Exported
        Fitted; has ``contract_``, ``result_.labels``, ``forward_module`` and, if it was trained behind causal steps,
        ``causal_``.
    rate : float
        Nominal samples per second of the stream; may differ by 0.1 % from the trained rate.
    hop : float, default 0.1
        Time in s between windows, rounded to samples behind decimation.
    offset : float, optional
        From a marker to the start of its window, in s, as in ``rec.epochs(events, (offset, ...))``. Windows are then
        cut at the markers given to :meth:`mark`, and nowhere else.
    channels : sequence of str, optional
        Names of the stream's channels in order; more than the decoder needs may be there.
    units : str or sequence of str, optional
        Unit of the stream, or of each of its channels; by default taken to be the trained one.
    convert : bool, default False
        Convert from ``units`` to the trained unit instead of refusing.
    evidence : Evidence, optional
        From probabilities to decisions; by default ``decoder.evidence_`` if it has one, else the best class of every
        window.
    deadline : float, optional
        Computing time in s above which a decision counts as a miss; ``hop`` by default.
    backlog : int, optional
        Most windows evaluated in one push; by default all.
    jitter : float, optional
        Deviation of timestamps in s from the nominal clock that means nothing; by default half a sample.
    max_gap : float, default 0.05
        Gaps up to this many s are interpolated; longer ones start filters and buffer anew.
    stall, timeout : float, default 0.2 and 5
        Silence in s after which ``poll`` gives a neutral decision, and after which it raises StreamTimeout.
    positions : mapping of str to (x, y, z), optional
        Places of all trained channels; missing ones are then interpolated, with a warning every minute.
    device : str, default "cpu"
        Where the decoder runs; small decoders are fastest on the CPU.
    log : path, optional
        Keep all chunks and decisions in this file, which :func:`tectum.stream.replay` reads.
    clock : callable, default time.perf_counter
        Returns the present in s.

    Raises
    ------
    ContractError
        If channels, rate or unit differ from the training data; lists all differences and the calls that repair them.

    Examples
    --------
    >>> import tectum
    >>> windows = tectum.Recording(
    ...     data=torch.randn(20, 2, 50), dims=("trial", "channel", "time"), rate=100.0, units="uV",
    ...     coords={"channel": {"name": ["C3", "C4"]}, "trial": {"label": ["left", "right"] * 10}})
    >>> decoder = tectum.LightCNN(epochs=1, device="cpu").fit(windows)
    >>> stream = tectum.Stream(decoder, rate=100.0, hop=0.25, channels=["C4", "C3", "EOG"])
    >>> [p.time for p in stream.push(torch.randn(120, 3))]
    [0.49, 0.74, 0.99]
    """

    def __init__(
        self,
        decoder: Any,
        *,
        rate: float,
        hop: float = 0.1,
        offset: float | None = None,
        channels: Sequence[str] | None = None,
        units: str | Sequence[str] | None = None,
        convert: bool = False,
        evidence: Evidence | None = None,
        deadline: float | None = None,
        backlog: int | None = None,
        jitter: float | None = None,
        max_gap: float = 0.05,
        stall: float = 0.2,
        timeout: float = 5.0,
        positions: Mapping[str | int, Sequence[float]] | None = None,
        device: str = "cpu",
        log: str | Path | None = None,
        clock: Callable[[], float] = _time.perf_counter,
    ) -> None:
        self.contract = decoder.contract_
        self.source: Any = None
        check_times(hop=hop, deadline=deadline, stall=stall, timeout=timeout, max_gap=max_gap, jitter=jitter)
        if backlog is not None and backlog < 1:
            raise InputError(explain("Stream.backlog", expected="a number of windows >= 1", got=repr(backlog)))
        check_window(self.contract)
        self.steps = matched(Causal.of(decoder) or Causal(), self.contract)
        self.plan = negotiate(
            self.contract, self.steps, rate=rate, channels=channels, units=units, convert=convert, positions=positions
        )
        self.labels = tuple(decoder.result_.labels)
        self.rule = as_evidence(evidence or getattr(decoder, "evidence_", None))
        self.n_times, self.rate = int(self.contract.n_times), float(rate)
        self.hop_samples = max(1, round(hop * self.steps.rate_out))
        self.hop = self.hop_samples / self.steps.rate_out
        self.deadline, self.backlog = self.hop if deadline is None else deadline, backlog
        self.stall, self.timeout, self.clock = stall, timeout, clock
        self._width = len(channels) if channels is not None else 0
        self._device = resolve_device(device)
        module = module_of(decoder, self.contract).to(self._device)
        scale = trained_scale(decoder, self.steps, module)
        self._transform = Transform(self.contract, self.steps, self.plan, scale=scale, device=self._device)
        self._cues = None if offset is None else Cues(offset, self.n_times, self.steps.rate_out)
        self._check_cued()
        self._running = running(
            module, self.contract.size, self.n_times, hop=self.hop_samples,
            room=self._cues.size if self._cues else None, device=self._device,
        )  # fmt: skip
        self._accumulator = Accumulator(self.rule, self.labels)
        self._timeline = Timeline(rate, jitter=0.5 / rate if jitter is None else jitter, max_gap=max_gap)
        self._guard = Guard(self.plan.names, rate, missing=self.plan.missing)
        self._counts, self._polled = Counts(), -math.inf
        self.options = plain_options(
            rate=rate, hop=hop, offset=offset, channels=channels, units=units, convert=convert, evidence=self.rule,
            backlog=backlog, jitter=jitter, max_gap=max_gap, positions=positions,
        )  # fmt: skip
        self._log = None if log is None else Log(log, self)
        self.reset()
        warm_up(module, self.contract, self.labels, self._device)

    # The caller's side

    @classmethod
    def of(cls, decoder: Any, source: Any, **options: Any) -> Self:
        """Make a stream for a source, whose names, rate, unit and jitter are used; see :mod:`tectum.stream.sources`."""
        source = open_source(source)
        given = {"rate": source.rate, "channels": source.names, "units": source.units, "jitter": source.jitter}
        made = cls(decoder, **{**given, **options})
        made.source = source
        return made

    def push(self, chunk: Any, times: Any = None) -> list[Decision]:
        """Take samples and return the decisions that they complete.

        Parameters
        ----------
        chunk : array or Tensor, shape (n, n_channels)
            In the order of ``channels``; of no rows counts as :meth:`poll`.
        times : array, shape (n,), optional
            Timestamps in s, dejittered if the source can. Without them every sample is taken to follow the last.

        Returns
        -------
        list of Decision
            Oldest first; neutral ones where a fault left no evidence.

        Raises
        ------
        InputError
            If the shape is not that of the stream, or the numbers are in another unit than in training.
        StreamError
            If more than one timestamp in a hundred runs backwards, or samples come faster than their rate by 1 %.
        """
        began = self.clock()
        rows = as_rows(chunk, self._width, len(self.plan.names))
        if len(rows) == 0:
            return self.poll()
        stamps = None if times is None else as_times(times, len(rows))
        if self._log is not None:
            self._log.chunk(rows, stamps)
        self._note_silence(began)
        if stamps is None:
            stamps, pieces = self._timeline.stamp(len(rows)), [Piece(0, len(rows))]
        else:
            pieces = self._timeline.split(stamps, rows)
            if self._timeline.unsound:
                got = f"{self._timeline.disordered} of {self._timeline.total} out of order"
                raise StreamError(explain("Stream.push", expected="timestamps that increase", got=got))
            if self._timeline.fast is not None:
                got, fix = f"{self._timeline.fast:.4g} by their timestamps", "tell the true rate: Stream(..., rate=...)"
                expected = f"{self.rate:g} samples a second"
                raise StreamError(explain("Stream.push", expected=expected, got=got, fix=fix))
        made = self._run(rows[:, self.plan.columns], stamps, pieces, began)
        self._heard = self.clock()
        return self._given(made)

    def mark(self, time: float, code: Code = None) -> list[Decision]:
        """Take a marker, whose window will be decided on as soon as its samples are there.

        Parameters
        ----------
        time : float
            Of the event in s, on the clock of the samples: of the timestamps given to :meth:`push`, else from the first
            sample on. It may lie ahead, or behind: samples are kept for 1 s beyond a window.
        code : str or int, optional
            What to call it; the decision has it as ``cue``.

        Returns
        -------
        list of Decision
            Of windows that were complete already. A marker whose samples are gone, or lie across a gap, gives a neutral
            decision flagged "lost".

        Raises
        ------
        InputError
            If the stream was made without ``offset``.
        """
        if self._cues is None:
            fix = "tectum.Stream(..., offset=0.0)"
            raise InputError(explain("Stream.mark", expected="a stream locked to markers", got="one by hops", fix=fix))
        began = self.clock()
        self._cues.add(time, code)
        if self._log is not None:
            self._log.mark(float(time), code)
        with torch.inference_mode():
            return self._given(self._answer(self._cues.due(), began, self._last_time))

    def poll(self) -> list[Decision]:
        """Return a neutral decision if the stream has been silent for too long, else none.

        Raises
        ------
        StreamTimeout
            After a silence of ``timeout`` s.
        """
        now = self.clock()
        silent = now - self._heard
        if silent > self.timeout:
            expected = f"samples within {self.timeout:g} s"
            raise StreamTimeout(explain("Stream", expected=expected, got=f"none for {silent:.1f} s"))
        if silent <= self.stall or now - self._polled < self.hop:
            return []
        self._polled = now
        self._note_silence(now)
        return self._given([self._neutral(self._last_time, now)], silent=True)

    def run(
        self, source: Any = None, *, markers: Any = None, seconds: float | None = None, wait: float | None = None
    ) -> Iterator[Decision]:
        """Yield decisions from a source until it ends, or for some seconds.

        Parameters
        ----------
        source : LSL inlet, StreamLSL, BrainFlow board, or an object with ``pull() -> (chunk, times) or None``
            See :mod:`tectum.stream.sources`; None ends the stream. By default the one of :meth:`of`.
        markers : object with ``pull() -> list of (time, code)``, optional
            Of windows locked to markers, such as :func:`tectum.stream.markers`.
        seconds : float, optional
            How long to go on, by the stream's clock.
        wait : float, optional
            Pause in s when nothing has arrived; a quarter of the hop by default, 20 ms at most.
        """
        source = open_source(self.source if source is None else source)
        pause = min(0.02, self.hop / 4) if wait is None else wait
        began = self._heard = self.clock()
        while seconds is None or self.clock() - began < seconds:
            for time, code in [] if markers is None else markers.pull():
                yield from self.mark(time, code)
            got = source.pull()
            if got is None:
                return
            if len(got[0]) == 0:
                _time.sleep(pause)
            yield from self.push(*got)

    def use(self, decoder: Any) -> None:
        """Decide with another decoder from the next window on; filters, samples and evidence stay.

        So a decoder that was adapted on the way takes over in a pause, and the one before comes back if it was better:
        its decisions are then those it would have given all along.

        Parameters
        ----------
        decoder : estimator or Exported
            With the input, classes and causal steps of the one before, as ``decoder.adapt(trials)`` has.

        Raises
        ------
        ContractError
            If it has others.
        """
        steps = matched(Causal.of(decoder) or Causal(), decoder.contract_)
        before = (self.contract, self.labels, replace(self.steps, scale=None))
        if (decoder.contract_, tuple(decoder.result_.labels), replace(steps, scale=None)) != before:
            expected = "a decoder with input, classes and causal steps of the one before"
            raise ContractError(explain("Stream.use", expected=expected, got="one with others"))
        module = module_of(decoder, self.contract).to(self._device)
        warm_up(module, self.contract, self.labels, self._device)
        self._transform.scale = trained_scale(decoder, steps, module)
        self._running.use(module)
        if self._log is not None:
            self._log.use()

    def reset(self) -> None:
        """Forget samples, filter state and evidence; statistics stay."""
        self._until_next, self._held_chunks = self.n_times, 0
        self._flags: dict[str, None] = {}
        self._last_time, self._polled = math.nan, -math.inf
        self._heard, self._silent = self.clock(), False
        self._timeline.reset()
        self._restart(keep_clock=False)

    @property
    def statistics(self) -> Statistics:
        """Latency and faults since the stream was made."""
        return Statistics.of(self._counts)

    @property
    def budget(self) -> Budget:
        """The latency known beforehand, besides transport and computing."""
        window = self.n_times / self.steps.rate_out
        wait = 0.0 if self._cues else self.hop / 2
        return Budget(self.steps.delay, window, wait, (self.rule.dwell - 1) * self.hop)

    def close(self) -> None:
        """Finish the log, if one is kept."""
        if self._log is not None:
            self._log.close()

    # Samples to windows

    def _run(self, rows: np.ndarray, times: np.ndarray, pieces: list[Piece], began: float) -> list[Decision]:
        """Take the pieces of a chunk in turn."""
        made: list[Decision] = []
        end = len(rows)
        for piece in pieces:
            self._note(piece)
            if piece.restart:
                lost = self._restart(keep_clock=piece.flag != "clock")
                made.append(self._neutral(float(times[piece.first]), began))
                made += self._answer(lost, began, math.nan)
            part, when = rows[piece.first : piece.stop], times[piece.first : piece.stop]
            if len(part) == 0:
                continue
            if piece.missing and self._guard.last is not None:
                part, when = bridged(part, when, last=self._guard.last, missing=piece.missing, rate=self.rate)
            made += self._consume(part, when, began, behind=end - piece.stop)
        return made

    def _note(self, piece: Piece) -> None:
        """Count what a piece says, and flag the next decision."""
        if piece.flag:
            self._flags[piece.flag] = None
            name = COUNTED[piece.flag]
            setattr(self._counts, name, getattr(self._counts, name) + (piece.missing or piece.dropped or 1))

    def _restart(self, *, keep_clock: bool) -> list[Due]:
        """Start filters, buffer and evidence anew behind a gap or a jump; return the markers that are lost by it."""
        self._until_next = self.n_times
        self._transform.restart()
        self._running.restart()
        self._guard.restart()
        lost = [] if self._cues is None else self._cues.restart()
        if keep_clock:
            self._accumulator.reset()
        else:
            self._accumulator.restart()
            lost += [] if self._cues is None else self._cues.forget()
        return lost

    def _consume(self, rows: np.ndarray, times: np.ndarray, began: float, *, behind: int) -> list[Decision]:
        """Filter rows that follow the last ones, and decide for every window that they complete."""
        held, bad = self._guard.hold(rows)
        times = times[len(rows) - len(held) :]
        self._held_chunks = self._held_chunks + 1 if bad else 0
        self._counts.held += bad
        self._counts.samples += len(rows)
        if bad:
            self._flags["nonfinite"] = None
        if len(held) == 0:
            return []
        with torch.inference_mode():
            y, stamps = self._transform(held, times)
            return self._decide(y, stamps, began, float(times[-1]) + behind / self.rate)

    def _decide(self, y: Tensor, times: np.ndarray, began: float, end: float) -> list[Decision]:
        """Write samples (channel, time) to the buffer and evaluate the window at every hop."""
        if self._cues is not None:
            return self._decide_cued(self._cues, y, times, began, end)
        made: list[Decision] = []
        n, first, mark = y.shape[1], 0, began
        due = 0 if n < self._until_next else 1 + (n - self._until_next) // self.hop_samples
        skip = 0 if self.backlog is None else max(0, due - self.backlog)
        while first < n:
            stop = min(n, first + self._until_next)
            self._running.push(y[:, first:stop])
            self._until_next -= stop - first
            first = stop
            if self._until_next:
                continue
            self._until_next = self.hop_samples
            if skip:
                skip -= 1
                self._counts.skipped += 1
                self._flags["overrun"] = None
                continue
            at = float(times[stop - 1])
            made.append(self._evaluate(at, began, mark, wait=max(0.0, end - at)))
            mark = self.clock()
        if n:
            self._last_time = float(times[n - 1])
        return made

    def _check_cued(self) -> None:
        """Refuse rules over several windows where every marker has one."""
        if self._cues is not None and self.rule.dwell > 1:
            got, expected = f"dwell={self.rule.dwell}", "dwell=1 where every marker has one window"
            raise InputError(explain("Stream.evidence", expected=expected, got=got))

    def _decide_cued(self, cues: Cues, y: Tensor, times: np.ndarray, began: float, end: float) -> list[Decision]:
        """Write samples to the buffer, so many at a time as it can spare, and evaluate the windows of markers."""
        made: list[Decision] = []
        for first in range(0, y.shape[1], cues.late):
            part = slice(first, first + cues.late)
            self._running.push(y[:, part])
            cues.extend(times[part])
            made += self._answer(cues.due(), began, end)
            self._last_time = float(times[part][-1])
        return made

    def _answer(self, due: list[Due], began: float, end: float) -> list[Decision]:
        """Decide on the windows of markers; each begins with no evidence."""
        made: list[Decision] = []
        for code, at, back, lost in due:
            mark = self.clock()
            if lost:
                self._flags["lost"] = None
                made.append(self._neutral(at, mark, cue=code))
                continue
            self._accumulator.reset()
            made.append(self._evaluate(at, began, mark, wait=max(0.0, end - at), back=back, cue=code))
        return made

    def _evaluate(
        self, at: float, began: float, mark: float, *, wait: float, back: int = 0, cue: Code = None
    ) -> Decision:
        """Decide on a window in the buffer."""
        logits = self._running.logits(back=back)
        if not all(map(math.isfinite, logits)):
            self._flags["nonfinite output"] = None
            return self._neutral(at, mark, cue=cue)
        if self._held_chunks > HELD_CHUNKS:
            self._flags["held"] = None
        if self._held_chunks > HELD_CHUNKS or self._guard.dead or self._transform.strange.all():
            self._flags |= dict.fromkeys((*self._guard.flags(at), *self._transform.flags()))
            self._accumulator.reset()
            return self._neutral(at, mark, cue=cue)
        label, posterior, flag = self._accumulator.update(logits, time=at)
        flags = (*self._flags, *([flag] if flag else ()), *self._guard.flags(at), *self._transform.flags())
        self._flags.clear()
        now = self.clock()
        self._count(now - mark, label)
        return Decision(label, posterior, at, now - began + wait, now - mark, flags, cue)

    def _count(self, compute: float, label: str | int | None) -> None:
        self._counts.compute.add(compute)
        self._counts.decisions += 1
        self._counts.neutral += label is None
        self._counts.misses += compute > self.deadline

    def _neutral(self, at: float, began: float, *, cue: Code = None) -> Decision:
        """Return an output without evidence."""
        flags = tuple(self._flags)
        self._flags.clear()
        self._counts.decisions += 1
        self._counts.neutral += 1
        spent, n = self.clock() - began, len(self.labels)
        return Decision(None, (1 / n,) * n, at, spent, spent, flags, cue)

    # Watching

    def _given(self, made: list[Decision], *, silent: bool = False) -> list[Decision]:
        """Log the decisions before they are handed out."""
        if self._log is not None:
            for decision in made:
                self._log.decision(decision, silent=silent)
        return made

    def _note_silence(self, now: float) -> None:
        """Count a silence once, and flag the next decision."""
        silent = now - self._heard > self.stall
        if silent:
            self._flags["stall"] = None
            self._counts.stalls += not self._silent
        self._silent = silent
