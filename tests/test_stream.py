"""Streams: the offline decisions for every chunking, nothing from the future, contracts, latency, memory."""

from __future__ import annotations

import gc
import math
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tectum
from support.decoders import NAMES, Standin, Tone, offline, recording, standin
from tectum import Causal, Evidence, Recording, Stream
from tectum.core.contract import Contract
from tectum.core.errors import ContractError, InputError, LoadError, UnitsError
from tectum.preprocess.causal import NotCausalError
from tectum.stream import Decision, Replayed, read_log, realtime, replay

STEPS = Causal(highpass=0.5, lowpass=45.0, notch=(50.0,), reference="average", decimate=2, tau=3.0)
RATE = 250.0


@pytest.fixture(scope="module")
def rec() -> Recording:
    return recording(1500)


@pytest.fixture(scope="module")
def plain(rec: Recording) -> Standin:
    return standin(rec)


def pushed(stream: Stream, rec: Recording, sizes: list[int], *, timed: bool = False) -> list[Decision]:
    rows, times, first, made = rec.tensor("time", "channel"), rec.time.numpy(), 0, []
    for size in sizes:
        stop = first + size
        made += stream.push(rows[first:stop], times[first:stop] if timed else None)
        first = stop
    return made


def chunks(n: int, seed: int, most: int = 500) -> list[int]:
    draw, sizes = np.random.default_rng(seed), []
    while sum(sizes) < n:
        sizes.append(int(draw.integers(1, most + 1)))
    return sizes


# Equal to offline


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), filtered=st.booleans(), timed=st.booleans(), hop=st.sampled_from([0.04, 0.1, 0.6]))
def test_every_chunking_gives_the_offline_decisions(seed: int, filtered: bool, timed: bool, hop: float) -> None:
    rec = recording(1500, seed=seed % 5)
    decoder = standin(rec, steps=STEPS if filtered else None)
    stream = Stream(decoder, rate=RATE, hop=hop, channels=NAMES)
    made = pushed(stream, rec, chunks(1500, seed), timed=timed)
    times, proba = offline(decoder, rec, hop=stream.hop_samples)
    assert len(made) == len(times) > 0
    np.testing.assert_allclose([d.time for d in made], times, atol=1e-9)
    np.testing.assert_allclose([d.proba for d in made], proba, atol=1e-5)
    assert [d.label for d in made] == [stream.labels[k] for k in proba.argmax(1)]
    assert all(d.flags == () for d in made)


def test_sixty_seconds_in_random_chunks_are_one_recording() -> None:
    rec = recording(15000, seed=3)
    decoder = standin(rec, steps=STEPS)
    made = pushed(Stream(decoder, rate=RATE, hop=0.1, channels=NAMES), rec, chunks(15000, 1))
    times, proba = offline(decoder, rec, hop=12)
    np.testing.assert_allclose([d.time for d in made], times, atol=1e-9)
    np.testing.assert_allclose([d.proba for d in made], proba, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_light_cnn_decides_alike_offline_and_live(chunk: int, tmp_path: Path) -> None:
    rec = tectum.preprocess.apply_causal(recording(3000), Causal(highpass=1.0, lowpass=40.0))
    windows = rec.windows(0.5, hop=0.2)
    windows = windows.with_(coords={**windows.coords, "trial": {"label": np.arange(windows.shape[0]) % 2}})
    decoder = tectum.LightCNN(epochs=2, device="cpu", validation=0.0).fit(windows)
    decoder.save(str(tmp_path / "d"))
    decoder = tectum.load(tmp_path / "d")  # the causal steps come along by themselves
    assert Causal.of(decoder) == Causal.of(windows)
    raw = recording(1500, seed=9)
    stream = Stream.of(decoder, Replayed(raw, chunk), hop=0.2)
    made = list(stream.run(Replayed(raw, chunk)))
    wanted = decoder.predict_proba(
        tectum.preprocess.apply_causal(raw, Causal(highpass=1.0, lowpass=40.0)).windows(0.5, hop=0.2)
    )
    np.testing.assert_allclose([d.proba for d in made], np.asarray(wanted), atol=1e-5)


def trained(*data: Recording) -> Any:
    labelled = [w.with_(coords={**w.coords, "trial": {"label": np.arange(w.shape[0]) % 2}}) for w in data]
    return tectum.LightCNN(epochs=1, device="cpu", validation=0.0).fit(labelled)


@pytest.mark.parametrize(
    ("process", "words"),
    [
        (lambda rec: tectum.preprocess.filter(rec, 1.0, 40.0), "training data behind filter; train behind"),
        (lambda rec: tectum.preprocess.standardise(rec), "training data behind standardise"),
        (lambda rec: tectum.preprocess.reference(rec, "average"), "training data behind reference"),
        (lambda rec: tectum.preprocess.apply_causal(tectum.preprocess.filter(rec, 1.0, 40.0), STEPS), "behind filter"),
    ],
)
def test_what_a_stream_cannot_repeat_is_refused_until_somebody_vouches_for_it(
    rec: Recording, process: Any, words: str, tmp_path: Path
) -> None:
    windows = process(rec).windows(0.4)
    decoder = trained(windows)
    options = {"rate": windows.rate, "channels": NAMES}
    with pytest.raises(NotCausalError, match=words) as error:
        Stream(decoder, **options)
    assert isinstance(error.value, RuntimeError)
    with pytest.raises(NotCausalError, match=words):
        tectum.export(decoder, tmp_path / "d.pt2")
    decoder.causal_ = Causal()
    assert Stream(decoder, **options).push(np.random.default_rng(0).standard_normal((200, 8)))


def test_several_recordings_share_their_steps_or_are_refused(rec: Recording) -> None:
    loud = rec.with_(data=3 * rec.values)
    one, two, three = (tectum.preprocess.apply_causal(r, STEPS).windows(0.4) for r in (rec, loud, loud))
    found = Causal.of(trained(one, two, three))
    assert found is not None
    assert found.scale == pytest.approx(np.median([s.scale for w in (one, two) if (s := Causal.of(w))]))
    other = tectum.preprocess.apply_causal(rec, Causal(decimate=2, highpass=1.0, tau=3.0)).windows(0.4)
    with pytest.raises(InputError, match="expected the same causal steps in all training data, got different ones"):
        Causal.of(trained(one, other))


def test_nothing_depends_on_later_samples(rec: Recording) -> None:
    decoder = standin(rec, steps=STEPS)
    changed = rec.with_(data=torch.cat([rec.values[:, :800], -5 * rec.values[:, 800:]], 1))
    before, after = (
        pushed(Stream(decoder, rate=RATE, hop=0.04, channels=NAMES), each, chunks(1500, 2)) for each in (rec, changed)
    )
    seen = [(a.proba, b.proba) for a, b in zip(before, after, strict=True) if a.time <= 799 / RATE]
    assert len(seen) > 50
    assert all(a == b for a, b in seen)
    assert before[-1].proba != after[-1].proba


def test_the_same_chunks_give_the_same_bits(rec: Recording, plain: Standin, tmp_path: Path) -> None:
    sizes = chunks(1500, 4)
    rule = Evidence(memory=0.7, threshold=0.4, dwell=2, refractory=0.3, reject=("rest",))
    stream = Stream(plain, rate=RATE, channels=NAMES, evidence=rule, log=tmp_path / "s.jsonl")
    made = pushed(stream, rec.with_(data=rec.values.double() / 3), sizes, timed=True)
    stream.close()
    again = replay(plain, tmp_path / "s.jsonl")
    bare = [(d.label, d.proba, d.time, d.flags) for d in made]
    assert [(d.label, d.proba, d.time, d.flags) for d in again] == bare
    assert [(d.label, d.proba, d.time, d.flags) for d in read_log(tmp_path / "s.jsonl").decisions] == bare
    assert {d.label for d in made} > {None}


def test_a_log_that_was_cut_off_can_be_read(rec: Recording, plain: Standin, tmp_path: Path) -> None:
    stream = Stream(plain, rate=RATE, channels=NAMES, log=tmp_path / "s")
    pushed(stream, rec, [400, 400])
    stream.close()
    text = (tmp_path / "s").read_text()
    (tmp_path / "s").write_text(text[:-30])
    assert len(read_log(tmp_path / "s").chunks) == 2
    for content in ("", "{}\n", "no\n"):
        (tmp_path / "s").write_text(content)
        with pytest.raises(LoadError, match="expected a log of a stream"):
            read_log(tmp_path / "s")


def test_the_accelerator_decides_alike(rec: Recording, accelerator: torch.device) -> None:
    decoder = standin(rec, steps=STEPS)
    there, here = (
        pushed(Stream(decoder, rate=RATE, channels=NAMES, device=str(device)), rec, [500] * 3)
        for device in (accelerator, "cpu")
    )
    decoder.module.cpu()
    np.testing.assert_allclose([d.proba for d in there], [d.proba for d in here], atol=1e-6)


# Channels, rate, unit


def test_channels_are_taken_by_name_in_any_order(rec: Recording, plain: Standin) -> None:
    order = [5, 2, 7, 0, 1, 3, 6, 4]
    rows = torch.cat([rec.values[order], torch.full((1, 1500), torch.nan)])
    stream = Stream(plain, rate=RATE, channels=[*(NAMES[k] for k in order), "AUX"])
    straight = Stream(plain, rate=RATE, channels=NAMES)
    assert [d.proba for d in stream.push(rows.T)] == [d.proba for d in straight.push(rec.values.T)]


def test_channels_dropped_behind_the_reference_still_enter_it(rec: Recording) -> None:
    processed = tectum.preprocess.apply_causal(rec, Causal(reference=("T7", "T8"), highpass=1.0))
    kept = ["C4", "C3"]
    decoder = standin(processed.sel(channel=kept))
    decoder.causal_ = Causal.of(processed)
    stream = Stream(decoder, rate=RATE, channels=NAMES)
    made = stream.push(rec.values.T)
    _, proba = offline(decoder, rec, hop=25)
    np.testing.assert_allclose([d.proba for d in made], proba, atol=1e-6)
    with pytest.raises(ContractError, match=r"missing channels \['T7', 'T8'\]"):
        Stream(decoder, rate=RATE, channels=kept)


@pytest.mark.parametrize(
    ("steps", "kept", "needed"),
    [
        (Causal(highpass=1.0), ["C4", "C3"], ["C3", "C4"]),
        (Causal(reference=("T7", "T8")), ["C4"], ["T8", "C4", "T7"]),
        (Causal(bipolar=(("C3", "C4"), ("O1", "O2"))), ["O1-O2"], ["O2", "O1"]),
        (Causal(reference="average"), ["C4"], list(NAMES[::-1])),
    ],
)
def test_a_stream_needs_the_channels_that_the_decoder_rests_on(
    rec: Recording, steps: Causal, kept: list[str], needed: list[str]
) -> None:
    processed = tectum.preprocess.apply_causal(rec, steps)
    decoder = standin(processed.sel(channel=kept))
    decoder.causal_ = Causal.of(processed)
    rows = rec.sel(channel=needed).values.T
    made = Stream(decoder, rate=RATE, channels=needed).push(rows)
    _, proba = offline(decoder, rec, hop=25)
    np.testing.assert_allclose([d.proba for d in made], proba, atol=1e-6)
    with pytest.raises(ContractError, match="missing channels"):
        Stream(decoder, rate=RATE, channels=needed[1:])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": NAMES[:6]}, ["missing channels ['T7', 'T8']", "rec.sel(channel=['Fz', 'C3'", "positions="]),
        ({"channels": None}, ["no channel names", "channels=[...]"]),
        ({"channels": [*NAMES, "C3"]}, ["channels named twice: ['C3']", "rename them"]),
        ({"rate": 256.0}, ["rate 256 Hz instead of 250 Hz", "set the amplifier to 250 Hz", "resample(rec, 256)"]),
        ({"rate": 1000.0}, ["rate 1000 Hz instead of 250 Hz", "tectum.Causal(decimate=4)"]),
        ({"units": "V"}, ["unit 'V' instead of 'uV'", "units='V', convert=True", "by 1e+06"]),
        ({"units": "fT", "convert": True}, ["unit 'fT' instead of 'uV'", "no factor converts it"]),
        ({"channels": NAMES[:7], "positions": {}}, ["missing channels ['T8'] (no position of ['Fz'"]),
    ],
)  # fmt: skip
def test_a_stream_unlike_the_training_data_is_refused(
    plain: Standin, changes: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ContractError) as error:
        Stream(plain, **{"rate": RATE, "channels": NAMES, **changes})
    assert all(word in str(error.value) for word in words), str(error.value)


def test_all_differences_are_listed_at_once(plain: Standin) -> None:
    with pytest.raises(ContractError) as error:
        Stream(plain, rate=500.0, channels=NAMES[1:], units="mV")
    assert all(word in str(error.value) for word in ("rate 500 Hz", "missing channels ['Fz']", "unit 'mV'"))


def test_a_rate_within_a_thousandth_is_the_rate(plain: Standin) -> None:
    assert Stream(plain, rate=250.2, channels=NAMES).hop == 0.1
    with pytest.raises(ContractError, match=r"rate 250\.3 Hz"):
        Stream(plain, rate=250.3, channels=NAMES)


def test_units_are_converted_when_told(rec: Recording, plain: Standin) -> None:
    wanted = [d.proba for d in Stream(plain, rate=RATE, channels=NAMES).push(rec.values.T)]
    units = ["uV"] * 4 + ["mV"] * 4
    factor = torch.tensor([1.0] * 4 + [1e-3] * 4, dtype=torch.float64)
    stream = Stream(plain, rate=RATE, channels=NAMES, units=units, convert=True)
    made = [d.proba for d in stream.push(rec.values.T.double() * factor)]
    np.testing.assert_allclose(made, wanted, atol=1e-9)
    with pytest.raises(InputError, match="one for each of 8 channels"):
        Stream(plain, rate=RATE, channels=NAMES, units=["uV"] * 3)


def test_numbers_in_another_unit_are_found_by_their_scale(rec: Recording) -> None:
    decoder = standin(rec, steps=Causal(highpass=1.0))
    stream = Stream(decoder, rate=RATE, channels=NAMES)
    with pytest.raises(ContractError, match=r"1e-06 times that of training; tell the stream's unit.*trained in 'uV'"):
        stream.push(rec.values.T.double() * 1e-6)
    for factor in (1e-2, 1e2):
        assert Stream(decoder, rate=RATE, channels=NAMES).push(rec.values.T * factor)


def test_the_normaliser_of_a_decoder_tells_the_scale_too(rec: Recording) -> None:
    windows = rec.windows(0.5, hop=0.5)
    windows = windows.with_(coords={**windows.coords, "trial": {"label": np.arange(windows.shape[0]) % 2}})
    decoder = tectum.LightCNN(epochs=1, device="cpu", validation=0.0).fit(windows)
    with pytest.raises(ContractError, match="times that of training"):
        Stream(decoder, rate=RATE, channels=NAMES).push(rec.values.T.double() * 1e-6)
    decoder = tectum.LightCNN(epochs=1, device="cpu", validation=0.0, normalise="none").fit(windows)
    assert Stream(decoder, rate=RATE, channels=NAMES).push(rec.values.T.double() * 1e-6)


def test_missing_channels_with_places_are_interpolated_with_a_warning_each_minute(rec: Recording) -> None:
    decoder = standin(rec)
    places = {name: (math.cos(k), math.sin(k), 0.0) for k, name in enumerate(NAMES)}
    clean = rec.with_(data=rec.values[:1].expand(8, -1))  # any weights that sum to one restore a channel
    wanted = [d.proba for d in Stream(decoder, rate=RATE, channels=NAMES).push(clean.values.T)]
    stream = Stream(decoder, rate=RATE, channels=NAMES[:7], positions=places)
    with pytest.warns(tectum.core.errors.TectumWarning, match=r"channels \['T8'\] are interpolated") as caught:
        made = stream.push(clean.values[:7].T)
    np.testing.assert_allclose([d.proba for d in made], wanted, atol=1e-6)
    assert len(caught) == 1
    assert all("missing:T8" in d.flags for d in made)
    times = np.arange(1500) / RATE + 70
    with pytest.warns(tectum.core.errors.TectumWarning, match="interpolated"):
        stream.push(clean.values[:7].T, times)


def test_a_decoder_without_names_takes_channels_in_order(rec: Recording) -> None:
    decoder = standin(rec.with_(coords={}))
    wanted = [d.proba for d in Stream(standin(rec), rate=RATE, channels=NAMES).push(rec.values.T)]
    assert [d.proba for d in Stream(decoder, rate=RATE).push(rec.values.T)] == wanted
    with pytest.raises(ContractError, match="3 channels instead of 8"):
        Stream(decoder, rate=RATE, channels=["a", "b", "c"])


def test_causal_steps_of_another_training_are_refused(rec: Recording, plain: Standin) -> None:
    other = tectum.preprocess.apply_causal(rec.isel(channel=slice(3)), STEPS)
    wrong = Standin(plain.module, plain.contract_, plain.result_, Causal.of(other))
    with pytest.raises(ContractError, match="set decoder.causal_ to Causal.of"):
        Stream(wrong, rate=RATE, channels=NAMES)


# Arguments


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hop": 0.0}, "Stream.hop: expected a time above 0 s, got 0.0"),
        ({"hop": math.nan}, "Stream.hop: expected a time above 0 s, got nan"),
        ({"stall": -1.0}, "Stream.stall"),
        ({"deadline": 0.0}, "Stream.deadline"),
        ({"backlog": 0}, "Stream.backlog: expected a number of windows >= 1, got 0"),
        ({"rate": 0.0}, "Stream(rate): expected a finite rate above 0 Hz"),
        ({"evidence": Evidence(reject=("lefft",))}, "did you mean 'left'?"),
    ],
)
def test_bad_arguments(plain: Standin, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as error:
        Stream(plain, **{"rate": RATE, "channels": NAMES, **changes})
    assert words in str(error.value)


def test_an_unknown_unit_is_refused(plain: Standin) -> None:
    with pytest.raises(UnitsError, match="did you mean 'uV'"):
        Stream(plain, rate=RATE, channels=NAMES, units="uVv")


def test_decoders_that_cannot_be_streamed_are_refused(plain: Standin) -> None:
    no_window = Contract(**{**vars(plain.contract_), "n_times": None})
    with pytest.raises(InputError, match="windows of fixed length"):
        Stream(Standin(plain.module, no_window, plain.result_), rate=RATE, channels=NAMES)
    drifting = Standin(torch.nn.BatchNorm1d(8).train(), plain.contract_, plain.result_)
    drifting.forward_module = lambda: drifting.module  # type: ignore[method-assign]
    with pytest.raises(InputError, match="training mode, whose statistics drift; call eval"):
        Stream(drifting, rate=RATE, channels=NAMES)
    three = Standin(plain.module, plain.contract_, type(plain.result_)(("a", "b")))
    with pytest.raises(InputError, match=r"logits of shape \(1, 2\), got shape \(1, 3\)"):
        Stream(three, rate=RATE, channels=NAMES)


@pytest.mark.parametrize(
    ("chunk", "times", "words"),
    [
        (torch.zeros(8, 30), None, "expected a chunk of shape (n, 8), got (8, 30); transpose it"),
        (torch.zeros(30, 7), None, "expected a chunk of shape (n, 8), got (30, 7)"),
        ([["a"] * 8], None, "expected numbers (n, n_channels)"),
        (torch.zeros(3, 8), [0.0, 0.1], "expected 3 times, got shape (2,)"),
        (torch.zeros(2, 8), [0.0, math.nan], "expected finite times in s, got NaN or infinity"),
    ],
)
def test_bad_chunks(plain: Standin, chunk: Any, times: Any, words: str) -> None:
    with pytest.raises(InputError) as error:
        Stream(plain, rate=RATE, channels=NAMES).push(chunk, times)
    assert words in str(error.value)


def test_the_caller_keeps_its_arrays(rec: Recording, plain: Standin) -> None:
    stream, buffer = Stream(plain, rate=RATE, channels=NAMES), np.zeros((10, 8))
    rows, made = rec.values.T.numpy(), []
    for k in range(0, 1500, 10):
        buffer[:] = rows[k : k + 10]
        made += stream.push(buffer, np.arange(k, k + 10) / RATE)
        buffer[:] = np.nan
    assert [d.proba for d in made] == [d.proba for d in Stream(plain, rate=RATE, channels=NAMES).push(rows)]


# Latency, back-pressure, memory


class Ticks:
    """A clock that advances by itself at every look, and when told."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def test_latency_counts_the_wait_in_the_chunk_and_the_computing(rec: Recording, plain: Standin) -> None:
    clock = Ticks(1e-3)
    stream = Stream(plain, rate=RATE, hop=0.1, channels=NAMES, clock=clock, deadline=1.5e-3)
    (made,) = stream.push(rec.values.T[:120])
    assert made.time == pytest.approx(99 / RATE)
    assert made.compute_s == pytest.approx(1e-3)
    assert made.latency_s == pytest.approx(20 / RATE + 1e-3)
    clock.step = 2e-3
    stream.push(rec.values.T[120:130])
    counted = stream.statistics
    assert (counted.decisions, counted.misses) == (2, 1)
    assert counted.p50 == pytest.approx(1e-3, rel=0.011)
    assert counted.max == counted.p99 == pytest.approx(2e-3)
    assert str(counted).startswith("2 decisions, p50 1.0")


def test_a_late_caller_gets_the_newest_windows_and_the_rest_is_counted(rec: Recording, plain: Standin) -> None:
    every = Stream(plain, rate=RATE, hop=0.1, channels=NAMES).push(rec.values.T[:500])
    stream = Stream(plain, rate=RATE, hop=0.1, channels=NAMES, backlog=2)
    made = stream.push(rec.values.T[:500])
    assert [d.proba for d in made] == [d.proba for d in every[-2:]]
    assert stream.statistics.skipped == len(every) - 2
    assert [d.flags for d in made] == [("overrun",), ()]
    assert [d.flags for d in stream.push(rec.values.T[500:525])] == [()]


def test_the_budget_adds_up(rec: Recording) -> None:
    steps = Causal(highpass=1.0, lowpass=30.0, decimate=2)
    stream = Stream(standin(rec, steps=steps), rate=RATE, hop=0.08, channels=NAMES, evidence=Evidence(dwell=3))
    budget = stream.budget
    assert (budget.window, budget.hop, budget.dwell) == pytest.approx((0.4, 0.04, 0.16))
    assert budget.filters == stream.steps.delay > 0.01
    assert budget.total == pytest.approx(budget.filters + 0.4 + 0.04 + 0.16)


@pytest.mark.slow
def test_an_hour_takes_no_more_memory_than_a_minute(plain: Standin) -> None:
    clock = Ticks()
    stream = Stream(plain, rate=RATE, hop=2.0, channels=NAMES, clock=clock)
    rows = np.random.default_rng(0).standard_normal((125, 8))

    def minute(k: int) -> None:
        for c in range(120):
            start = 60 * k + c / 2
            clock.now = start
            stream.push(rows + c, start + np.arange(125) / RATE)

    minute(0)
    gc.collect()
    tracemalloc.start()
    minute(1)
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    for k in range(2, 60):
        minute(k)
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert stream.statistics.samples == 3600 * RATE
    assert grown < 50_000


@pytest.mark.slow
def test_ten_minutes_of_64_channels_leave_no_trace() -> None:
    import resource

    rec = recording(1000, rate=1000.0)
    coords = {"channel": {"name": [f"E{k}" for k in range(64)]}}
    wide = rec.with_(data=rec.values.repeat(8, 1), coords=coords)
    decoder = standin(wide, steps=Causal(highpass=1.0, decimate=4), window=0.5)
    names, own = coords["channel"]["name"], time.process_time  # other processes may hold the machine up
    stream = Stream(decoder, rate=1000.0, hop=0.1, channels=names, clock=own)
    rows, began = wide.values.T.numpy(), own()
    grown = 0
    for second in range(600):
        stream.push(rows)
        if second == 30:
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown
    assert grown < 5 * 1024  # kB
    assert own() - began < 600 / 20  # s: twenty times as fast as life
    assert (stream.statistics.decisions, stream.statistics.misses) == (5996, 0)


def test_the_network_is_warm_before_the_first_window(plain: Standin) -> None:
    seen: list[torch.Size] = []
    hook = plain.module.register_forward_hook(lambda _m, x, _y: seen.append(x[0].shape))
    try:
        stream = Stream(plain, rate=RATE, channels=NAMES)
    finally:
        hook.remove()
    assert seen == [torch.Size([1, 8, 100])] * 10
    assert stream.statistics.decisions == 0


def test_realtime_gives_everything_back() -> None:
    threads = torch.get_num_threads()
    with realtime():
        assert torch.get_num_threads() == 1
        assert not gc.isenabled()
    assert (torch.get_num_threads(), gc.isenabled()) == (threads, True)


# The pulse


@pytest.mark.slow
def test_a_burst_is_found_within_the_declared_latency() -> None:
    rate, n = 250.0, 250 * 240
    draw = np.random.default_rng(5)
    spectrum = np.fft.rfft(draw.standard_normal((4, n)))
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(np.fft.rfftfreq(n, 1 / rate), 0.5)), n)
    noise *= 10 / noise.std()
    starts = np.cumsum(draw.uniform(3, 5, 50))
    t, x = np.arange(n) / rate, noise
    for start in starts:
        inside = (t >= start) & (t < start + 0.2)
        x = x + 10 * np.sqrt(2) * inside * np.sin(2 * np.pi * 20 * (t - start))
    coords = {"channel": {"name": NAMES[:4]}}
    rec = Recording(data=torch.from_numpy(x), dims=("channel", "time"), rate=rate, units="uV", coords=coords)
    steps = Causal(highpass=4.0, lowpass=45.0, order=2)
    processed = tectum.preprocess.apply_causal(rec, steps)
    windows = processed.windows(0.24)
    contract = Contract.of(windows, axis="channel", window=True)
    decoder = Standin(
        Tone(60, rate, 20.0, bias=0.55), contract, type(standin(rec).result_)(("rest", "burst")), Causal.of(processed)
    )
    rule = Evidence(threshold=0.8, refractory=1.0, reject=("rest",))
    stream = Stream(decoder, rate=rate, hop=0.04, channels=NAMES[:4], evidence=rule)
    fired = np.asarray([d.time for d in stream.run(Replayed(rec, 33)) if d.label == "burst"])
    allowed = stream.budget.total + stream.hop
    found = [bool(((fired >= s) & (fired <= s + allowed)).any()) for s in starts]
    false = [f for f in fired if not ((f >= starts) & (f <= starts + 0.2 + allowed)).any()]
    assert np.mean(found) >= 0.95
    assert len(false) / (n / rate / 60) <= 1.0
