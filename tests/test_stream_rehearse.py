"""Rehearsals equal what a stream says; rules chosen on some sequences hold on others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from support.decoders import NAMES, Standin, Tone, recording, standin
from tectum import Causal, Evidence, Intervals, Recording, Stream
from tectum.core.contract import Contract
from tectum.core.errors import InputError, TectumWarning
from tectum.preprocess.causal import apply_causal
from tectum.stream import Replayed, calibrate, rehearse
from tectum.stream.rehearse import THRESHOLDS

RATE = 250.0


def bursts(seed: int, *, seconds: float = 120.0, level: float = 10.0) -> Recording:
    """Noise with a 1/f spectrum in four channels, and a burst of 20 Hz of 0.6 s every three to five seconds."""
    draw, n = np.random.default_rng(seed), int(RATE * seconds)
    spectrum = np.fft.rfft(draw.standard_normal((4, n)))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.fft.rfftfreq(n, 1 / RATE), 0.5)), n)
    x, t = noise * 10 / noise.std(), np.arange(n) / RATE
    starts = np.cumsum(draw.uniform(3, 5, int(seconds / 5)))
    for start in starts:
        x = x + level * ((t >= start) & (t < start + 0.6)) * np.sin(2 * np.pi * 20 * (t - start))
    events = Intervals.from_pairs([(s, s + 0.6) for s in starts], label=["burst"] * len(starts))
    coords = {"channel": {"name": NAMES[:4]}}
    return Recording(
        data=torch.from_numpy(x), dims=("channel", "time"), rate=RATE, units="uV", coords=coords,
        intervals={"events": events},
    )  # fmt: skip


def detector(bias: float = 0.55) -> Standin:
    processed = apply_causal(bursts(99, seconds=20.0), Causal(highpass=4.0, lowpass=45.0, order=2))
    contract = Contract.of(processed.windows(0.24), axis="channel", window=True)
    labels = type(standin(recording(500)).result_)(("rest", "burst"))
    return Standin(Tone(60, RATE, 20.0, bias=bias), contract, labels, Causal.of(processed))


def test_a_rehearsal_is_the_stream() -> None:
    rec, decoder = bursts(0, seconds=40.0), detector()
    rule = Evidence(threshold=0.8, refractory=1.0, reject=("rest",))
    found = rehearse(decoder, rec, evidence=rule, hop=0.1)
    stream = Stream.of(decoder, Replayed(rec, 10), evidence=rule, hop=0.1)
    made = list(stream.run())
    assert found.when.tolist() == [d.time for d in made]
    assert found.proba.tolist() == [list(d.proba) for d in made]
    assert (found.code >= 0).tolist() == [d.label is not None for d in made]
    assert found.tolerance == pytest.approx(stream.budget.total + stream.hop)
    assert (found.rest, found.labels) == (("rest",), ("rest", "burst"))
    assert found.deadline == stream.deadline


def test_several_recordings_are_one_run_without_the_pauses() -> None:
    decoder, rule = detector(), Evidence(threshold=0.8, refractory=1.0, reject=("rest",))
    recs = [bursts(k, seconds=30.0) for k in (0, 1)]
    both = rehearse(decoder, recs, evidence=rule)
    single = [rehearse(decoder, rec, evidence=rule) for rec in recs]
    assert both.given.tolist() == [k for one in single for k in one.given.tolist()]
    assert float(both.false[0]) == sum(float(one.false[0]) for one in single)
    assert float(both.false[1]) == pytest.approx(sum(float(one.false[1]) for one in single), abs=2.0)
    assert both.duration == pytest.approx(sum(one.duration for one in single), abs=0.5)


def test_windows_at_the_starts_of_events() -> None:
    rec, decoder = bursts(2, seconds=60.0), detector()
    found = rehearse(decoder, rec, offset=0.1)
    assert len(found.when) == len(found.wanted)
    assert found.true_positive_rate().estimate > 0.9


@pytest.mark.slow
def test_a_rule_chosen_on_sequences_holds_on_others() -> None:
    decoder = detector(bias=0.2)  # fires far too readily as it is
    chosen = calibrate(decoder, [bursts(k) for k in (0, 1)], reject=("rest",), max_false=1.0, hop=0.08)
    others = [bursts(k) for k in (2, 3)]
    raw = rehearse(decoder, others, hop=0.08, rest=("rest",))
    held = rehearse(decoder, others, hop=0.08, evidence=chosen.evidence)
    assert raw.false_per_minute().estimate > 10
    assert held.false_per_minute().low <= 1.0  # the promise lies in the interval of sequences not seen
    assert held.false_per_minute().estimate <= 2.0
    assert held.true_positive_rate().estimate >= 0.9
    assert chosen.score.false_per_minute().estimate <= 1.0
    assert len(chosen.rows) == 3 * 4 * len(THRESHOLDS)


def test_the_table_says_what_a_stream_of_each_rule_gives() -> None:
    decoder, rec = detector(), bursts(5, seconds=30.0)
    bare = rehearse(decoder, rec, hop=0.1, rest=("rest",))
    options: dict[str, Any] = {"thresholds": (0.7, 0.9), "dwells": (1, 3), "memories": (0.6,)}
    found = calibrate(decoder, rec, reject=("rest",), hop=0.1, **options)
    for row in found.rows:
        again = rehearse(decoder, rec, evidence=row.evidence, hop=0.1)
        assert again.true_positive_rate().estimate == pytest.approx(row.right)
        assert again.tolerance == pytest.approx(bare.tolerance + (row.evidence.dwell - 1) * 0.1)
        assert again.time_to_decision == pytest.approx(row.delay, nan_ok=True)
    assert found.evidence in [row.evidence for row in found.rows]


def test_the_temperature_makes_windows_honest() -> None:
    class Sure(torch.nn.Module):
        def __init__(self, body: torch.nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 5 * self.body(x)

    plain, rec = detector(), bursts(6, seconds=30.0)
    sure = Standin(Sure(plain.module), plain.contract_, plain.result_, plain.causal_)
    options: dict[str, Any] = {"thresholds": (0.8,), "dwells": (1,), "memories": (0.0,), "reject": ("rest",)}
    options["max_false"] = 60.0
    one, five = (calibrate(d, rec, **options).evidence.temperature for d in (plain, sure))
    assert five == pytest.approx(5 * one, rel=1e-2)
    assert calibrate(plain, rec, temperature=False, **options).evidence.temperature == 1.0


def test_a_promise_that_cannot_be_kept_is_said() -> None:
    with pytest.warns(TectumWarning, match="no rule keeps below 0 false activations a minute"):
        calibrate(
            detector(-0.5), bursts(7, seconds=40.0), max_false=0.0, thresholds=(0.1,), dwells=(1,), memories=(0.0,),
            refractory=0.2, reject=("rest",),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"events": "cues"}, "expected intervals called 'cues', got none in recording 0, which has ['events']"),
        ({"events": [Intervals.from_pairs([(0.0, 1.0)])] * 2}, "expected 1 sets of events, got 2"),
        ({"max_false": -1.0}, "max_false=-1.0"),
        ({"dwells": ()}, "0 dwells"),
        ({"offset": 0.0}, "expected windows by hops, got windows locked to markers"),
    ],
)
def test_bad_calls(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as error:
        calibrate(detector(), bursts(8, seconds=20.0), **change)
    assert words in str(error.value)


def test_events_shorter_than_the_window_cannot_give_a_temperature() -> None:
    rec = bursts(8, seconds=20.0)
    short = Intervals.from_pairs([(k, k + 0.1) for k in np.arange(1.0, 18.0, 0.3)], label=["burst"] * 57)
    with pytest.raises(InputError, match=r"longer than the window of 0.24 s.*temperature=False"):
        calibrate(detector(), rec, short)
