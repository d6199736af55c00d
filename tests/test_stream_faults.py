"""Every fault of a stream has its flag; none crashes, none passes in silence."""

from __future__ import annotations

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
from tectum.nn.ring import Ring
from tectum.stream import Decision, StreamError, StreamTimeout, read_log, replay
from tectum.stream.decision import Latencies
from tectum.stream.evidence import Accumulator
from tectum.stream.intake import Guard
from tectum.stream.timeline import Timeline

RATE, N = 250.0, 2000
REC = recording(N)
ROWS, TIMES = REC.values.T.double().numpy(), REC.time.numpy()
STEPS = Causal(highpass=1.0, lowpass=45.0)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def decoder() -> Standin:
    return standin(REC, steps=STEPS)


def stream(decoder: Standin, **options: Any) -> Stream:
    return Stream(decoder, **{"rate": RATE, "channels": NAMES, "hop": 0.1, **options})


def play(made: Stream, rows: np.ndarray = ROWS, times: np.ndarray | None = TIMES, chunk: int = 25) -> list[Decision]:
    found = []
    for first in range(0, len(rows), chunk):
        part = slice(first, first + chunk)
        found += made.push(rows[part], None if times is None else times[part])
    return found


def bare(decisions: list[Decision]) -> list[tuple[float, tuple[float, ...]]]:
    return [(round(d.time, 6), d.proba) for d in decisions]


def flags(decisions: list[Decision]) -> set[str]:
    return {flag for d in decisions for flag in d.flags}


def without(first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    kept = np.r_[0:first, stop:N]
    return ROWS[kept], TIMES[kept]


# Gaps


def test_a_short_gap_is_interpolated_and_flagged(decoder: Standin) -> None:
    lost = slice(1000, 1012)
    made, whole = stream(decoder), stream(decoder)
    found, wanted = play(made, *without(1000, 1012)), play(whole)
    line = ROWS.copy()
    share = np.arange(1, 13)[:, None] / 13
    line[lost] = (1 - share) * ROWS[999] + share * ROWS[1012]
    assert bare(found) == bare(play(stream(decoder), line))
    assert bare(found) != bare(wanted)
    assert flags(found) == {"interpolated"}
    assert (made.statistics.interpolated, made.statistics.gaps) == (12, 0)


def test_a_long_gap_starts_anew_and_says_so_at_once(decoder: Standin) -> None:
    made = stream(decoder)
    found = play(made, *without(1000, 1500))  # 2 s
    neutral = [d for d in found if "gap" in d.flags]
    assert len(neutral) == 1
    assert (neutral[0].label, neutral[0].proba) == (None, (1 / 3,) * 3)
    after = [d for d in found if d.time > TIMES[1500]]
    assert after[0].time == pytest.approx(TIMES[1500] + 99 / RATE)  # a full window of new samples
    assert bare(after) == bare(play(stream(decoder), ROWS[1500:], TIMES[1500:]))
    assert made.statistics.gaps == 1


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_gaps_do_not_depend_on_chunking(seed: int) -> None:
    decoder, draw = standin(REC, steps=STEPS), np.random.default_rng(seed)
    rows, times = without(700, 708)
    kept = np.r_[0:1200, 1300 : len(rows)]
    rows, times, found, first = rows[kept], times[kept], [], 0
    made = stream(decoder)
    while first < len(rows):
        n = int(draw.integers(1, 400))
        found += made.push(rows[first : first + n], times[first : first + n])
        first += n
    wanted = play(stream(decoder), rows, times, chunk=len(rows))
    assert [d.time for d in found] == [d.time for d in wanted]
    np.testing.assert_allclose([d.proba for d in found], [d.proba for d in wanted], atol=1e-6)
    assert [d.flags for d in found] == [d.flags for d in wanted]


def test_one_chunk_in_a_hundred_may_be_lost(decoder: Standin) -> None:
    draw = np.random.default_rng(0)
    lost = draw.random(N // 5) < 0.01
    made = stream(decoder)
    found = []
    for k in np.flatnonzero(~lost):
        part = slice(5 * k, 5 * k + 5)
        found += made.push(ROWS[part], TIMES[part])
    inner = int(lost[:-1].sum())
    assert inner > 0
    assert made.statistics.interpolated == 5 * inner
    assert "interpolated" in flags(found)
    assert [d.time for d in found] == pytest.approx([d.time for d in play(stream(decoder))])


# Time stamps


@pytest.mark.parametrize("again", [slice(975, 1000), slice(950, 1000), slice(990, 1000)])
def test_a_chunk_received_twice_changes_nothing_but_a_flag(decoder: Standin, again: slice) -> None:
    rows, times = (np.concatenate([x[:1000], x[again], x[1000:]]) for x in (ROWS, TIMES))
    made = stream(decoder)
    found = play(made, rows, times)
    assert bare(found) == bare(play(stream(decoder)))
    assert flags(found) == {"duplicate"}
    assert made.statistics.duplicates == again.stop - again.start


@pytest.mark.parametrize(("jump", "flag"), [(-3.0, "clock"), (7.0, "gap")])
def test_a_jump_of_the_clock_starts_anew(decoder: Standin, jump: float, flag: str) -> None:
    times = np.where(np.arange(N) < 1000, TIMES, TIMES + jump)
    made = stream(decoder, evidence=Evidence(refractory=0.3))
    found = play(made, ROWS, times)
    at = next(k for k, d in enumerate(found) if flag in d.flags)
    assert found[at].label is None
    fresh = play(stream(decoder, evidence=Evidence(refractory=0.3)), ROWS[1000:], times[1000:])
    assert bare(found[at + 1 :]) == bare(fresh)
    assert found[at + 1].label is not None
    assert made.statistics.jumps + made.statistics.gaps == 1


def test_a_sample_out_of_order_is_dropped_and_flagged(decoder: Standin) -> None:
    times = TIMES.copy()
    times[1010] = times[1008] - 0.001
    made = stream(decoder)
    found = play(made, ROWS, times)
    assert "order" in flags(found)
    assert made.statistics.disordered == 1
    assert len(found) == len(play(stream(decoder)))


def test_disorder_above_one_in_a_hundred_is_an_error(decoder: Standin) -> None:
    times = TIMES.copy()
    times[50::50] -= 0.005
    with pytest.raises(StreamError, match="expected timestamps that increase, got 19 of 1000 out of order"):
        play(stream(decoder), ROWS, times)
    assert issubclass(StreamError, RuntimeError)
    times = TIMES.copy()
    times[200::200] -= 0.005
    made = stream(decoder)
    play(made, ROWS, times)
    assert made.statistics.disordered == 9


def test_jitter_below_half_a_sample_means_nothing(decoder: Standin) -> None:
    draw = np.random.default_rng(1)
    found = play(stream(decoder), ROWS, TIMES + draw.uniform(-0.4, 0.4, N) / RATE)
    assert [d.proba for d in found] == [d.proba for d in play(stream(decoder))]
    assert flags(found) == set()


def test_bursts_need_a_stated_jitter(decoder: Standin) -> None:
    late = TIMES + np.repeat(np.random.default_rng(2).uniform(0, 0.03, N // 25), 25)
    found = play(stream(decoder, jitter=0.05), ROWS, late)
    assert [d.proba for d in found] == [d.proba for d in play(stream(decoder))]
    with pytest.raises(StreamError):
        play(stream(decoder), ROWS, late)


@pytest.mark.parametrize(("true", "chunk"), [(257.0, 25), (500.0, 1), (500.0, 5000)])
def test_a_stream_faster_than_its_rate_is_an_error(decoder: Standin, true: float, chunk: int) -> None:
    rows = np.concatenate([ROWS] * 10)
    with pytest.raises(StreamError, match=rf"expected 250 samples a second, got {true:.3g}.* by their timestamps"):
        play(stream(decoder), rows, np.arange(len(rows)) / true, chunk)


def test_a_stream_within_a_hundredth_of_its_rate_is_none(decoder: Standin) -> None:
    rows = np.concatenate([ROWS] * 3)
    for true in (248.0, 251.5):
        play(stream(decoder), rows, np.arange(len(rows)) / true)
    times = np.arange(len(rows)) / RATE
    bursts = times + 0.09 * (np.arange(len(rows)) // 250 % 2)  # a second late, a second not
    play(stream(decoder, jitter=0.1), rows, bursts)


def test_a_clock_a_little_fast_is_followed(decoder: Standin) -> None:
    made = stream(decoder)
    found = play(made, np.tile(ROWS, (20, 1)), np.arange(20 * N) / (RATE * 1.0008))
    assert flags(found) == set()
    made = stream(decoder)
    play(made, np.tile(ROWS, (20, 1)), np.arange(20 * N) / (RATE * 0.99))
    assert made.statistics.interpolated == pytest.approx(0.01 * 20 * N, rel=0.01)  # as many as the clock says


# Numbers


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_held(decoder: Standin, value: float) -> None:
    rows, held = ROWS.copy(), ROWS.copy()
    rows[1003:1009, 2] = value
    held[1003:1009, 2] = ROWS[1002, 2]
    made = stream(decoder)
    found = play(made, rows)
    assert bare(found) == bare(play(stream(decoder), held))
    assert flags(found) == {"nonfinite"}
    assert made.statistics.held == 6


def test_more_than_ten_bad_chunks_in_a_row_are_neutral(decoder: Standin) -> None:
    rows = ROWS.copy()
    rows[500:1000, 1] = np.nan
    found = play(stream(decoder), rows)
    neutral = [d.time for d in found if d.label is None]
    assert neutral == [d.time for d in found if "held" in d.flags]
    assert {d.proba for d in found if d.label is None} == {(1 / 3,) * 3}
    assert min(neutral) == pytest.approx(TIMES[500 + 11 * 25 - 1])
    assert max(neutral) == pytest.approx(TIMES[999])


def test_a_stream_may_begin_with_nothing_to_hold(decoder: Standin) -> None:
    rows = ROWS.copy()
    rows[:40, 0] = np.nan
    found = play(stream(decoder), rows)
    assert [d.proba for d in found] == [d.proba for d in play(stream(decoder), ROWS[40:], TIMES[40:])]
    assert "nonfinite" in flags(found)
    assert play(stream(decoder), np.full_like(ROWS, np.nan)) == []


def test_only_channels_that_are_used_must_be_finite(decoder: Standin) -> None:
    rows = np.concatenate([ROWS, np.full((N, 1), np.nan)], 1)
    assert flags(play(stream(decoder, channels=[*NAMES, "AUX"]), rows)) == set()


def test_a_flat_channel_is_named(decoder: Standin) -> None:
    rows = ROWS.copy()
    rows[800:1600, 3] = rows[800, 3]
    found = play(stream(decoder), rows)
    named = [d.time for d in found if f"flat:{NAMES[3]}" in d.flags]
    assert min(named) == pytest.approx(TIMES[800] + 1.0, abs=0.2)
    assert max(named) == pytest.approx(TIMES[1600], abs=0.2)
    assert flags(found) == {f"flat:{NAMES[3]}"}


def test_without_any_signal_nothing_is_decided(decoder: Standin) -> None:
    rows = ROWS.copy()
    rows[800:1600] = rows[800]
    found = play(stream(decoder), rows)
    neutral = [d for d in found if d.label is None]
    assert min(d.time for d in neutral) == pytest.approx(TIMES[800] + 1.0, abs=0.2)
    assert max(d.time for d in neutral) == pytest.approx(TIMES[1600], abs=0.2)
    assert {d.flags for d in neutral} == {tuple(f"flat:{name}" for name in NAMES)}
    assert all(d.proba == (1 / 3, 1 / 3, 1 / 3) for d in neutral)


@pytest.mark.parametrize("factor", [2e3, 1 / 2e3])
def test_a_channel_on_another_scale_is_named(decoder: Standin, factor: float) -> None:
    rows = ROWS.copy()
    rows[:, 3] *= factor
    found = play(stream(decoder), rows)
    assert {d.flags for d in found if d.time < 0.9} == {()}
    assert {d.flags for d in found if d.time > 1.1} == {(f"scale:{NAMES[3]}",)}


def test_a_unit_that_changes_on_the_way_is_neutral(decoder: Standin) -> None:
    rows = ROWS.copy()
    rows[1000:] *= 1e6
    found = play(stream(decoder), rows)
    late = [d for d in found if d.time > TIMES[1000] + 2.0]
    assert len(late) > 10
    assert {(d.label, d.flags) for d in late} == {(None, tuple(f"scale:{name}" for name in NAMES))}
    again = play(stream(decoder), np.concatenate([rows, ROWS]), np.arange(2 * N) / RATE)
    assert again[-1].flags == ()


def test_a_decoder_that_gives_nan_decides_nothing(decoder: Standin) -> None:
    class Broken(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sum((1, 2))[:, None] * x.new_tensor([[1.0, torch.nan, 0.0]])

    broken = Standin(Broken(), decoder.contract_, decoder.result_, decoder.causal_)
    found = play(stream(broken))
    assert {(d.label, d.flags) for d in found} == {(None, ("nonfinite output",))}


# Silence


def test_silence_gives_neutral_decisions_and_then_an_error(decoder: Standin) -> None:
    clock = Clock()
    made = stream(decoder, clock=clock)
    play(made)
    clock.now = 0.19
    assert made.poll() == []
    clock.now = 0.25
    (found,) = made.poll()
    assert (found.label, found.flags, found.time) == (None, ("stall",), TIMES[-1])
    clock.now = 0.30
    assert made.push(np.zeros((0, 8))) == []  # one in each hop
    clock.now = 0.36
    assert len(made.poll()) == 1
    clock.now = 5.1
    with pytest.raises(StreamTimeout, match="expected samples within 5 s, got none for 5.1 s"):
        made.poll()
    assert issubclass(StreamTimeout, TimeoutError)
    assert made.statistics.stalls == 1


def test_a_log_tells_silence_from_samples(decoder: Standin, tmp_path: Path) -> None:
    clock = Clock()
    made = stream(decoder, clock=clock, log=tmp_path / "log")
    found = play(made)
    clock.now = 0.3
    (silent,) = made.poll()
    made.close()
    logged = read_log(tmp_path / "log")
    assert bare(logged.decisions) == bare(found) == bare(replay(decoder, tmp_path / "log"))
    assert [d.flags for d in logged.silences] == [silent.flags]


def test_the_first_decision_after_a_silence_is_flagged(decoder: Standin) -> None:
    clock = Clock()
    made = stream(decoder, clock=clock)
    made.push(ROWS[:1000])
    clock.now = 0.5
    assert flags(made.push(ROWS[1000:1025])) == {"stall"}
    assert flags(made.push(ROWS[1025:1050])) == set()
    assert made.statistics.stalls == 1


def test_run_polls_a_source_that_has_nothing(decoder: Standin) -> None:
    clock = Clock()

    class Quiet:
        def pull(self) -> tuple[np.ndarray, None]:
            clock.now += 0.3
            return np.zeros((0, 8)), None

    made = stream(decoder, clock=clock)
    found = made.run(Quiet(), wait=0.0)
    assert next(found).flags == ("stall",)
    with pytest.raises(StreamTimeout):
        list(found)
    assert len(list(stream(decoder, clock=clock).run(Quiet(), seconds=0.7, wait=0.0))) == 3


def test_reset_forgets_all_but_the_statistics(decoder: Standin) -> None:
    made = stream(decoder)
    before = play(made)
    made.reset()
    assert bare(play(made)) == bare(before)
    assert made.statistics.decisions == 2 * len(before)


# Parts


def test_evidence_accumulates_and_forgets() -> None:
    rule = Evidence(memory=0.5, temperature=2.0)
    made, total = Accumulator(rule, "ab"), np.zeros(2)
    for logits in ([0.0, 2.0], [1.0, 0.0], [3.0, 0.0]):
        scaled = np.asarray(logits) / 2
        total = 0.5 * total + scaled - np.log(np.exp(scaled).sum())
        _, posterior, _ = made.update(logits, time=0.0)
        np.testing.assert_allclose(posterior, np.exp(total) / np.exp(total).sum(), rtol=1e-12)
    made.reset()
    assert made.update([0.0, 0.0], time=0.0)[1] == (0.5, 0.5)


def test_a_decision_needs_threshold_and_dwell_and_then_rests() -> None:
    made = Accumulator(Evidence(threshold=0.8, dwell=2, refractory=0.25), ("a", "b"))
    high, low = [2.0, 0.0], [0.5, 0.0]
    given_ = [made.update(x, time=0.1 * k)[0::2] for k, x in enumerate([high, low, high, high, high, high, high, high])]
    rest = (None, "refractory")
    assert given_ == [(None, ""), (None, ""), (None, ""), ("a", ""), rest, rest, (None, ""), ("a", "")]


def test_a_change_of_class_begins_a_new_run() -> None:
    made = Accumulator(Evidence(threshold=0.5, dwell=2), ("a", "b"))
    assert [made.update(x, time=0.0)[0] for x in ([1, 0], [0, 1], [1, 0], [1, 0])] == [None, None, None, "a"]


def test_rejected_classes_are_neutral() -> None:
    made = Accumulator(Evidence(reject=("rest",)), ("rest", "go"))
    assert [made.update(x, time=0.0)[0] for x in ([3.0, 0.0], [0.0, 3.0])] == [None, "go"]


@pytest.mark.parametrize("bad", [{"temperature": 0.0}, {"memory": 1.0}, {"threshold": 1.5}, {"dwell": 0}])
def test_evidence_refuses_nonsense(bad: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"Evidence.{next(iter(bad))}"):
        Evidence(**bad)


@settings(max_examples=40)
@given(sizes=st.lists(st.integers(0, 25), min_size=1, max_size=30), size=st.integers(1, 12))
def test_the_ring_holds_the_newest_samples_in_one_stretch(sizes: list[int], size: int) -> None:
    x = torch.arange(2.0 * sum(sizes)).reshape(2, -1)
    ring, first = Ring(2, size, torch.device("cpu")), 0
    for n in sizes:
        ring.push(x[:, first : first + n])
        first += n
        if ring.filled:
            window = ring.window(ring.filled)
            assert torch.equal(window, x[:, max(0, first - size) : first])
            assert window.stride(1) == 1
    with pytest.raises(InputError, match=f"of {size} that the buffer holds, got {size + 1}"):
        ring.window(size + 1)


def test_quantiles_are_those_of_the_durations_to_one_per_cent() -> None:
    draw = np.random.default_rng(0).lognormal(-6, 1, 5000)
    times = Latencies()
    for value in draw:
        times.add(float(value))
    for share in (0.5, 0.95, 0.99, 1.0):
        assert times.quantile(share) == pytest.approx(np.quantile(draw, share, method="inverted_cdf"), rel=0.0101)
    times.add(0.0)
    times.add(1e9)
    assert times.largest == 1e9


def test_a_guard_fills_forward_from_the_last_row() -> None:
    guard = Guard(("a", "b"), 4.0)
    rows, bad = guard.hold(np.array([[np.nan, 1.0], [2.0, 3.0], [np.nan, np.inf], [5.0, np.nan]]))
    assert rows.tolist() == [[2.0, 3.0], [2.0, 3.0], [5.0, 3.0]]
    assert bad == 3
    rows, bad = guard.hold(np.array([[np.nan, 7.0]]))
    assert (rows.tolist(), bad) == ([[5.0, 7.0]], 1)
    for _ in range(4):
        guard.hold(np.array([[5.0, np.random.default_rng().random()]]))
    assert guard.flat == ["a"]


def test_a_timeline_without_stamps_counts() -> None:
    timeline = Timeline(10.0, jitter=0.05, max_gap=0.0)
    assert timeline.stamp(3).tolist() == [0.0, 0.1, 0.2]
    assert timeline.stamp(1).tolist() == pytest.approx([0.3])
