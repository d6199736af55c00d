"""Networks that carry a state: only new samples are computed, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tectum
from support.decoders import NAMES, Mixed, Outcome, Standin, offline, recording
from tectum import Causal, Stream
from tectum.core.contract import Contract
from tectum.core.errors import ContractError, InputError, MismatchError
from tectum.models.light_cnn import OneConvolution
from tectum.preprocess.causal import apply_causal
from tectum.stream import replay
from tectum.stream.network import Steps, Windows

RATE = 250.0
STEPS = Causal(highpass=1.0, lowpass=45.0, decimate=2)
REC = recording(2000)


def decoder(module: nn.Module | None = None, *, n_times: int = 60) -> Standin:
    torch.manual_seed(3)
    processed = apply_causal(REC, STEPS)
    contract = replace(Contract.of(processed.windows(0.2), axis="channel", window=True), n_times=n_times)
    body = OneConvolution(8, 5, 3, kernel=9, dropout=0.0) if module is None else module
    return Standin(body, contract, Outcome(("rest", "left", "right")), Causal.of(processed))


class Leaky(nn.Module):
    """A mean of the window, whose state never forgets: right for the first window only."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.mean(2))
        return logits

    def init_state(self, batch: int, n_times: int) -> Tensor:
        return torch.zeros(batch, 8, 0)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.cat([state, x], 2)
        return self(state), state


class Kept(Leaky):
    """The same, and its state forgets."""

    def init_state(self, batch: int, n_times: int) -> Tensor:
        self.n_times = n_times
        return super().init_state(batch, n_times)

    def step(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = torch.cat([state, x], 2)[:, :, -self.n_times :]
        return self(state), state


def made(sizes: list[int], **options: Any) -> list[tuple[float, tuple[float, ...]]]:
    stream = Stream(decoder(), rate=RATE, channels=NAMES, **options)
    assert isinstance(stream._running, Steps)
    rows, first, found = REC.values.T, 0, []
    for size in sizes:
        found += stream.push(rows[first : first + size])
        first += size
    return [(d.time, d.proba) for d in found]


@settings(max_examples=15)
@given(sizes=st.lists(st.integers(1, 700), min_size=1, max_size=30), hop=st.sampled_from([0.008, 0.04, 0.2]))
def test_every_chunking_gives_the_same_bits_and_the_offline_numbers(sizes: list[int], hop: float) -> None:
    n = min(2000, sum(sizes))
    found, whole = made(sizes, hop=hop), made([n], hop=hop)
    assert found == whole
    times, proba = offline(decoder(), REC, hop=max(1, round(hop * RATE / 2)))
    assert len(whole) == int((times <= (n - 1) / RATE + 1e-9).sum())
    np.testing.assert_allclose([t for t, _ in whole], times[: len(whole)], atol=1e-9)
    np.testing.assert_allclose(np.reshape([p for _, p in whole], (-1, 3)), proba[: len(whole)], atol=1e-5)


def test_a_gap_starts_the_state_anew() -> None:
    stream = Stream(decoder(), rate=RATE, hop=0.2, channels=NAMES)
    rows, times = REC.values.T[:700], np.arange(700) / RATE
    stream.push(rows[:300], times[:300])
    behind = stream.push(rows[400:], times[400:])
    assert behind[0].label is None
    fresh = Stream(decoder(), rate=RATE, hop=0.2, channels=NAMES).push(rows[400:], times[400:])
    assert [d.proba for d in behind[1:]] == [d.proba for d in fresh]


def test_windows_that_do_not_overlap_or_follow_markers_are_computed_whole() -> None:
    for options in ({"hop": 10.0}, {"offset": 0.0}):
        assert isinstance(Stream(decoder(), rate=RATE, channels=NAMES, **options)._running, Windows)
    assert isinstance(Stream(decoder(n_times=8), rate=RATE, hop=0.01, channels=NAMES)._running, Windows)


def test_a_state_that_is_not_the_window_is_refused_before_the_first_sample() -> None:
    assert issubclass(MismatchError, RuntimeError)
    with pytest.raises(MismatchError, match=r"Stream: expected by step\(\) the output of the window"):
        Stream(decoder(Leaky()), rate=RATE, channels=NAMES)
    assert isinstance(Stream(decoder(Kept()), rate=RATE, channels=NAMES)._running, Steps)


def test_a_state_that_is_not_the_window_is_not_saved_nor_exported(tmp_path: Path) -> None:
    rec = REC.windows(0.4, hop=0.1)
    rec = rec.with_(coords={**rec.coords, "trial": {"label": np.arange(rec.shape[0]) % 2}})
    two = {"options": {}, "epochs": 1, "validation": 0.0, "device": "cpu"}
    fitted = {c: tectum.TorchDecoder(module=lambda c=c: _two(c()), **two).fit(rec) for c in (Leaky, Kept)}
    with pytest.raises(MismatchError, match="TorchDecoder.save: expected by step"):
        fitted[Leaky].save(tmp_path / "x")
    with pytest.raises(MismatchError, match="export: expected by step"):
        tectum.export(fitted[Leaky], tmp_path / "x.pt2")
    assert list(tmp_path.iterdir()) == []
    stream = Stream(fitted[Kept], rate=RATE, hop=0.1, channels=NAMES)
    found = stream.push(REC.values.T)
    np.testing.assert_allclose([d.proba for d in found], fitted[Kept].predict_proba(rec).numpy(), atol=1e-5)
    fitted[Kept].save(tmp_path / "y")


def test_the_accelerator_carries_the_state_alike(accelerator: torch.device) -> None:
    kept = [Stream(decoder(), rate=RATE, hop=0.1, channels=NAMES, device=d) for d in ("cpu", str(accelerator))]
    assert all(isinstance(s._running, Steps) for s in kept)
    cpu, there = ([d for part in REC.values.T[:800].split(90) for d in s.push(part)] for s in kept)
    kept[1].use(decoder())
    np.testing.assert_allclose([d.proba for d in there], [d.proba for d in cpu], atol=1e-5)
    after = [s.push(REC.values.T[800:1000]) for s in kept]
    np.testing.assert_allclose([d.proba for d in after[1]], [d.proba for d in after[0]], atol=1e-5)


# Another decoder takes over


def pair(kind: str) -> tuple[Standin, Standin]:
    """Return two decoders that differ in the bias of their heads."""
    one, two = (decoder(None if kind == "steps" else Mixed(8, 3, 20.0)) for _ in range(2))
    with torch.no_grad():
        two.module.head.bias += torch.tensor([0.5, -0.5, 0.0])  # type: ignore[union-attr, operator]
    return one, two


@pytest.mark.parametrize("kind", ["steps", "windows"])
@pytest.mark.parametrize("chunk", [25, 33])
def test_an_adapted_decoder_takes_over_and_goes_again(kind: str, chunk: int, tmp_path: Path) -> None:
    one, two = pair(kind)
    alone = [Stream(d, rate=RATE, hop=0.1, channels=NAMES) for d in (one, two)]
    wanted = [{d.time: d.proba for d in s.push(REC.values.T)} for s in alone]
    stream = Stream(one, rate=RATE, hop=0.1, channels=NAMES, log=tmp_path / "log")
    found, turns = [], []
    for k, part in enumerate(REC.values.T.split(chunk)):
        if k in (20, 40):
            stream.use(two if k == 20 else one)
            turns.append(found[-1].time)
        found += stream.push(part)
    stream.close()
    for d in found:
        now = wanted[1] if turns[0] < d.time <= turns[1] else wanted[0]
        assert d.proba == pytest.approx(now[d.time], abs=1e-6)
    again = replay(one, tmp_path / "log", then=[two, one])
    assert [d.proba for d in again] == [d.proba for d in found]
    with pytest.raises(InputError, match="expected the 2 decoders that took over, in order, got 0 of them"):
        replay(one, tmp_path / "log")


def test_a_log_keeps_the_order_of_markers_and_decoders(tmp_path: Path) -> None:
    one, two = pair("windows")
    stream = Stream(one, rate=RATE, channels=NAMES, offset=0.0, log=tmp_path / "log")
    found = stream.push(REC.values.T[:400])
    for k, other in enumerate((two, one, two)):
        found += stream.mark(1.0, f"before {k}")
        stream.use(other)
    found += stream.mark(1.0, "last")
    stream.close()
    assert len({d.proba for d in found}) == 2
    again = replay(one, tmp_path / "log", then=[two, one, two])
    assert [(d.cue, d.proba) for d in again] == [(d.cue, d.proba) for d in found]


def test_a_decoder_of_another_input_does_not_take_over() -> None:
    stream = Stream(decoder(), rate=RATE, channels=NAMES)
    other = [decoder(n_times=59), decoder(), decoder()]
    other[1].result_ = Outcome(("left", "rest", "right"))
    other[2].causal_ = None
    for wrong in other:
        with pytest.raises(ContractError, match=r"Stream\.use: expected a decoder with input, classes"):
            stream.use(wrong)


def _two(module: Leaky) -> Leaky:
    module.head = nn.Linear(8, 2)
    return module
