"""Windows locked to markers: those of offline epochs, wherever chunks end and whenever markers arrive."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.decoders import NAMES, Standin, recording, standin
from tectum import Causal, Evidence, Stream
from tectum.core.errors import InputError
from tectum.core.intervals import Intervals
from tectum.preprocess.causal import apply_causal
from tectum.stream import Decision, Inlet, Markers, Replayed, read_log, replay
from tectum.stream.cues import LATE, WAITING, Cues

RATE, N, LENGTH = 250.0, 3000, 0.4
REC = recording(N)
ROWS, TIMES = REC.values.T.double().numpy(), REC.time.numpy()
STEPS = Causal(highpass=1.0, lowpass=45.0, decimate=2)


@pytest.fixture(scope="module")
def decoder() -> Standin:
    return standin(REC, steps=STEPS, window=LENGTH)


def stream(decoder: Standin, **options: Any) -> Stream:
    return Stream(decoder, **{"rate": RATE, "channels": NAMES, "offset": 0.1, **options})


def epochs(decoder: Standin, starts: np.ndarray, offset: float) -> np.ndarray:
    """Return the probabilities (trial, class) of epochs cut offline."""
    rec = REC if decoder.causal_ is None else apply_causal(REC, STEPS)
    made = rec.epochs(Intervals.from_pairs([(t, t + 0.1) for t in starts]), (offset, offset + LENGTH))
    assert made.sizes["trial"] == len(starts)
    with torch.no_grad():
        logits = decoder.forward_module()(made.tensor("trial", "channel", "time").float())
    found: np.ndarray = logits.double().softmax(1).numpy()
    return found


def bare(decisions: list[Decision]) -> list[Any]:
    return [(d.cue, round(d.time, 6), d.proba, d.label) for d in decisions]


@settings(max_examples=25)
@given(
    seed=st.integers(0, 10**6), filtered=st.booleans(), offset=st.sampled_from([-0.7, -0.2, 0.0, 0.1, 1.3]),
    timed=st.booleans(), ahead=st.booleans(),
)  # fmt: skip
def test_the_windows_are_those_of_offline_epochs(
    seed: int, filtered: bool, offset: float, timed: bool, ahead: bool
) -> None:
    decoder, draw = standin(REC, steps=STEPS if filtered else None, window=LENGTH), np.random.default_rng(seed)
    starts = np.sort(draw.uniform(1.0, 9.5, 6).round(int(draw.integers(2, 9))))
    made, found, first, left = stream(decoder, offset=offset), [], 0, list(starts)
    if ahead:
        for k, t in enumerate(starts):
            found += made.mark(float(t), k)
        left = []
    while first < N:
        n = int(draw.integers(1, 200))
        found += made.push(ROWS[first : first + n], TIMES[first : first + n] if timed else None)
        first += n
        while left and left[0] < first / RATE:
            found += made.mark(float(left.pop(0)), 6 - len(left) - 1)
    assert sorted(d.cue for d in found) == list(range(6))
    found.sort(key=lambda d: d.cue)
    np.testing.assert_allclose([d.proba for d in found], epochs(decoder, starts, offset), atol=1e-5)
    assert not any(d.flags for d in found)


def test_no_window_without_a_marker_and_one_for_each(decoder: Standin) -> None:
    made = stream(decoder)
    assert made.push(ROWS[:1000], TIMES[:1000]) == []
    assert made.mark(4.5, "go") == []
    assert made.push(ROWS[1000:1240], TIMES[1000:1240]) == []
    (found,) = made.push(ROWS[1240:1260], TIMES[1240:1260])
    assert (found.cue, found.time) == ("go", pytest.approx((562 + 12 + 49) / 125))  # whole samples of each
    assert made.budget.hop == 0
    assert made.budget.total == pytest.approx(made.budget.filters + LENGTH)
    assert made.push(ROWS[1260:2000], TIMES[1260:2000]) == []


def test_a_marker_may_come_late_but_not_too_late(decoder: Standin) -> None:
    on_time = stream(decoder)
    on_time.mark(4.0)
    (wanted,) = on_time.push(ROWS, TIMES)
    made = stream(decoder)
    last = 4.0 + 0.1 + LENGTH
    for late, flags in ((0.5 * LATE, ()), (LATE - 0.02, ()), (LATE + 0.02, ("lost",))):
        made.reset()
        n = round((last + late) * RATE)
        assert made.push(ROWS[:n], TIMES[:n]) == []
        (found,) = made.mark(4.0)
        assert found.flags == flags
        if flags:
            assert (found.label, found.proba, found.time) == (None, (1 / 3,) * 3, 4.0)
        else:
            np.testing.assert_allclose(found.proba, wanted.proba, atol=1e-6)
            assert found.latency_s >= late - 2 / RATE  # it counts from the last sample of the window


def test_a_window_across_a_gap_is_lost_and_says_so(decoder: Standin) -> None:
    kept = np.r_[0:1000, 1300:N]
    made = stream(decoder)
    for k, t in enumerate((2.0, 3.8, 4.5, 5.19, 6.0)):  # whole, cut off, inside the gap, at its end, behind it
        made.mark(t, k)
    found = made.push(ROWS[kept], TIMES[kept])
    flags = {d.cue: d.flags for d in found if d.cue is not None}
    assert {k for k, f in flags.items() if "lost" in f} == {1, 2, 3}
    assert [d.label for d in found if d.cue in (1, 2, 3)] == [None] * 3
    assert any("gap" in d.flags for d in found if d.cue is None)
    assert flags[0] == flags[4] == ()
    fresh = stream(decoder)
    fresh.mark(6.0, 4)
    assert bare(fresh.push(ROWS[1300:], TIMES[1300:])) == bare([d for d in found if d.cue == 4])


def test_markers_of_another_clock_are_lost_when_it_jumps(decoder: Standin) -> None:
    made = stream(decoder)
    made.push(ROWS[:2000], TIMES[:2000])
    made.mark(9.0, "never")
    found = made.push(ROWS[2000:], TIMES[2000:] - 5.0)
    assert [("clock" in d.flags, d.cue, d.flags) for d in found] == [
        (True, None, ("clock",)),
        (False, "never", ("lost",)),
    ]
    assert [d.flags for d in made.mark(1.0)] == [("lost",)]


def test_every_marker_begins_without_evidence(decoder: Standin) -> None:
    rule = Evidence(memory=0.9, threshold=0.0)
    alone, both = (stream(decoder, evidence=rule) for _ in range(2))
    alone.mark(6.0, "b")
    for t in (3.0, 6.0):
        both.mark(t, "b")
    assert bare(both.push(ROWS, TIMES))[1:] == bare(alone.push(ROWS, TIMES))


def test_a_log_holds_markers_and_replays_them(decoder: Standin, tmp_path: Path) -> None:
    made, found = stream(decoder, log=tmp_path / "log"), []
    found += made.mark(1.0, "ahead")
    for first in range(0, N, 100):
        found += made.push(ROWS[first : first + 100], TIMES[first : first + 100])
        if first == 1500:
            found += made.mark(5.2, 7)
            assert found[-1].cue == 7
    made.close()
    logged = read_log(tmp_path / "log")
    assert logged.marks == [(0, 1.0, "ahead"), (16, 5.2, 7)]
    assert bare(replay(decoder, tmp_path / "log")) == bare(found) == bare(logged.decisions)


def test_run_takes_markers_from_a_source(decoder: Standin) -> None:
    class Task:
        left = [(2.0, "left"), (7.5, "right")]

        def pull(self) -> list[tuple[float, str]]:
            return [self.left.pop(0)] if self.left else []

    made = Stream.of(decoder, Replayed(REC, 25), offset=0.0)
    assert [d.cue for d in made.run(markers=Task())] == ["left", "right"]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda d: Stream(d, rate=RATE, channels=NAMES).mark(1.0), "a stream locked to markers, got one by hops"),
        (lambda d: stream(d).mark(np.nan), "Stream.mark(time): expected a finite time in s, got nan"),
        (lambda d: stream(d, offset=np.inf), "Stream.offset: expected a finite time in s, got inf"),
        (lambda d: stream(d, evidence=Evidence(dwell=2)), "expected dwell=1 where every marker has one window"),
    ],
)
def test_bad_markers(decoder: Standin, call: Any, words: str) -> None:
    with pytest.raises(InputError) as error:
        call(decoder)
    assert words in str(error.value)


def test_the_future_holds_only_so_many_markers() -> None:
    cues = Cues(0.0, 10, 100.0)
    for k in range(WAITING):
        cues.add(float(k), k)
    with pytest.raises(InputError, match="at most 10000 markers in the future"):
        cues.add(0.0, None)


def test_memory_does_not_grow_with_markers(decoder: Standin) -> None:
    made = stream(decoder)
    for second in range(200):
        at = second + np.arange(250) / RATE
        made.mark(second + 0.1, "x")
        made.push(ROWS[:250], at)
    cues = made._cues
    assert cues is not None
    assert made.statistics.decisions == 200
    assert len(cues._stamps) <= cues.size + cues.shift
    assert len(cues._found) + len(cues._waiting) <= 2


def test_markers_over_lsl(decoder: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os
    import time

    config = tmp_path / "lsl_api.cfg"
    config.write_text("[multicast]\nResolveScope = machine\n[lab]\nKnownPeers = {127.0.0.1}\n[log]\nlevel = -3\n")
    monkeypatch.setenv("LSLAPICFG", str(config))
    from mne_lsl.lsl import StreamInfo, StreamOutlet, local_clock

    from tectum.stream import lsl, markers

    name = f"cued-{os.getpid()}"
    info = StreamInfo(name, "eeg", 8, RATE, "float32", name)
    info.set_channel_names([*NAMES])
    info.set_channel_units("microvolts")
    samples = StreamOutlet(info, chunk_size=25)
    events = StreamOutlet(StreamInfo(f"{name}-m", "Markers", 1, 0, "string", f"{name}-m"))
    source, task = lsl(name, wait=10), markers(f"{name}-m", only=("go",), wait=10)
    assert isinstance(source, Inlet)
    assert isinstance(task, Markers)
    start = local_clock()
    for code, t in (("go", 2.0), ("stop", 3.0), ("go", 6.0)):
        events.push_sample([code], timestamp=start + t)
    for first in range(0, N, 25):
        part = np.ascontiguousarray(ROWS[first : first + 25], dtype=np.float32)
        samples.push_chunk(part, timestamp=start + (first + 24) / RATE)
    made, found, until = Stream.of(decoder, source, offset=0.0, stall=30.0), [], time.monotonic() + 20
    while made.statistics.samples < N and time.monotonic() < until:
        for when, code in task.pull():
            found += made.mark(when, code)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found += made.push(*source.pull())
        time.sleep(0.002)
    assert [d.cue for d in found] == ["go", "go"]
    wanted = np.stack([epochs(decoder, np.asarray([t + k / RATE]), 0.0)[0] for t in (2.0, 6.0) for k in (-2, 0, 2)])
    for d, near in zip(found, wanted.reshape(2, 3, 3), strict=True):  # dejittering may move a clock by a sample
        assert min(np.abs(np.asarray(d.proba) - p).max() for p in near) < 1e-5
