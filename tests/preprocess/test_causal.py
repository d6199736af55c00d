"""Causal preprocessing: SciPy agrees, chunks agree with the whole, nothing looks ahead."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal
from torch import Tensor

import tectum
from tectum import Recording
from tectum.core.errors import ContractError, InputError
from tectum.preprocess._recursive import cascade, decaying_sum, run_cascade
from tectum.preprocess.causal import Causal, Chain, apply_causal

CPU = torch.device("cpu")
NAMES = ("Fz", "C3", "C4", "Pz")
FULL = Causal(
    highpass=0.5, lowpass=40.0, notch=(50.0,), reference="average", decimate=3, tau=2.0, artefact=60.0, clip=5.0
)


def recording(n_time: int = 3000, *, rate: float = 250.0, seed: int = 0) -> Recording:
    draw = torch.Generator().manual_seed(seed)
    walk = torch.randn(4, n_time, generator=draw).cumsum(1)
    tone = 10 * torch.sin(2 * torch.pi * 10 * torch.arange(n_time) / rate)
    return Recording(
        data=walk + tone + 300, dims=("channel", "time"), rate=rate, units="uV", coords={"channel": {"name": NAMES}}
    )


def bound(steps: Causal = FULL, rate: float = 250.0) -> Causal:
    return steps.bind(names=NAMES, rate=rate, units="uV")


def in_chunks(steps: Causal, x: Tensor, sizes: list[int]) -> Tensor:
    chain, state, made = Chain(steps, CPU), None, []
    for part in x.split(sizes, 1):
        y, state = chain.step(part, state)
        made.append(y)
    return torch.cat(made, 1)


# Recursive filters


@pytest.mark.parametrize(
    "steps",
    [
        Causal(highpass=0.1),
        Causal(lowpass=40.0, order=7),
        Causal(notch=(50.0, 100.0)),
        Causal(decimate=10),
        Causal(highpass=0.5, lowpass=90.0, notch=(50.0,), order=8),
    ],
)
def test_a_cascade_gives_what_scipy_gives(steps: Causal) -> None:
    sos = bound(steps, 1000.0).sos
    x = recording(5000).data.double()
    wanted = signal.sosfilt(sos, x.numpy(), axis=1)
    filters = cascade(torch.from_numpy(sos))
    got, _ = run_cascade(x, filters, torch.zeros(4, 2 * len(sos), dtype=torch.float64))
    np.testing.assert_allclose(got.numpy(), wanted, atol=1e-8 * float(x.std()))
    gain = float(np.prod(sos[:, :3].sum(1) / sos[:, 3:].sum(1)))
    rest, _ = run_cascade(torch.ones(1, 900, dtype=torch.float64), filters, filters.steady[None])
    np.testing.assert_allclose(rest.numpy(), gain, atol=1e-11)


def test_a_section_need_not_be_normalised() -> None:
    sos = signal.butter(2, 0.2, output="sos")
    scaled = torch.from_numpy(np.concatenate([2 * sos, -0.5 * sos]))
    x = torch.randn(2, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = signal.sosfilt(np.concatenate([sos, sos]), x.numpy(), axis=1)
    filters = cascade(scaled)
    got, _ = run_cascade(x, filters, torch.zeros(2, 4, dtype=torch.float64))
    np.testing.assert_allclose(got.numpy(), plain, atol=1e-12)


@settings(max_examples=25)
@given(n=st.integers(1, 700), block=st.integers(2, 40), seed=st.integers(0, 99))
def test_a_scan_is_the_recurrence(n: int, block: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    keep, add = torch.rand(2, n, generator=draw).double(), torch.randn(2, n, generator=draw).double()
    y = start = torch.randn(2, generator=draw).double()
    wanted = []
    for t in range(n):
        y = keep[:, t] * y + add[:, t]
        wanted.append(y)
    torch.testing.assert_close(decaying_sum(keep, add, start, block=block), torch.stack(wanted, 1))


# The chain


@settings(max_examples=25)
@given(sizes=st.lists(st.integers(1, 500), min_size=1, max_size=30), tau=st.sampled_from([None, 2.0]))
def test_chunks_give_what_the_whole_gives(sizes: list[int], tau: float | None) -> None:
    steps = bound(Causal(highpass=0.5, lowpass=40.0, notch=(50.0,), reference="average", decimate=3, tau=tau))
    x = recording(sum(sizes)).data
    whole, _ = Chain(steps, CPU).step(x)
    assert whole.shape[1] == -(-x.shape[1] // 3)
    spread = max(1.0, float(whole.std())) if whole.numel() > 1 else 1.0
    torch.testing.assert_close(in_chunks(steps, x, sizes), whole, rtol=0, atol=1e-5 * spread)


def test_sample_by_sample_is_the_same_too() -> None:
    x = recording(400).data
    whole, _ = Chain(bound(), CPU).step(x)
    torch.testing.assert_close(in_chunks(bound(), x, [1] * 400), whole, rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [FULL, Causal(bipolar=(("C3", "C4"), ("Fz", "Pz")), highpass=1.0)])
def test_no_output_depends_on_later_input(steps: Causal) -> None:
    x = recording(1500).data
    before, _ = Chain(bound(steps), CPU).step(x)
    changed = torch.cat([x[:, :900], -7 * x[:, 900:]], 1)
    after, _ = Chain(bound(steps), CPU).step(changed)
    first = -(-900 // steps.decimate)
    torch.testing.assert_close(after[:, :first], before[:, :first], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(after[:, first:], before[:, first:])


def test_the_running_normaliser_is_its_formula() -> None:
    steps = bound(Causal(tau=0.2, artefact=9.0, clip=3.0))
    x = torch.randn(1, 300, generator=torch.Generator().manual_seed(1)).double() * 4 + 1
    mean = variance = count = 0.0
    wanted = []
    for value in x[0].tolist():
        if abs(value) <= 9.0:
            count += 1
            a = max(1 / 50, 1 / count)
            mean = (1 - a) * mean + a * value
            variance = (1 - a) * variance + a * (value - mean) ** 2
        z = (value - mean) / variance**0.5 if variance > 0 else 0.0
        wanted.append(min(max(z, -3.0), 3.0))
    assert bool((x.abs() > 9).any())
    assert max(wanted) == 3.0
    made, _ = Chain(replace_names(steps), CPU).step(x)
    torch.testing.assert_close(made, torch.tensor([wanted], dtype=torch.float64))


def replace_names(steps: Causal) -> Causal:
    return steps.bind(names=("a",), rate=250.0, units="uV")


def test_a_constant_input_leaves_no_transient() -> None:
    made, _ = Chain(bound(Causal(highpass=0.5, lowpass=30.0)), CPU).step(torch.full((4, 500), 123.0))
    assert float(made.abs().max()) < 1e-9
    made, _ = Chain(bound(Causal(tau=1.0)), CPU).step(torch.full((4, 50), 123.0))
    assert float(made.abs().max()) == 0.0


def test_references_are_what_their_names_say() -> None:
    x = recording(50).data.double()
    made, _ = Chain(bound(Causal(reference=("Fz", "Pz"))), CPU).step(x)
    torch.testing.assert_close(made, x - (x[0] + x[3]) / 2)
    made, _ = Chain(bound(Causal(reference="average")), CPU).step(x)
    torch.testing.assert_close(made, x - x.mean(0))
    pairs = bound(Causal(bipolar=(("C3", "C4"), ("Fz", "Pz"))))
    made, _ = Chain(pairs, CPU).step(x)
    torch.testing.assert_close(made, torch.stack([x[1] - x[2], x[0] - x[3]]))
    assert pairs.names_out == ("C3-C4", "Fz-Pz")


def test_decimation_removes_what_would_fold() -> None:
    t = torch.arange(5000) / 1000
    rec = torch.stack([torch.sin(2 * torch.pi * f * t) for f in (10.0, 70.0)])
    steps = Causal(decimate=10).bind(names=("a", "b"), rate=1000.0, units="uV")
    made, _ = Chain(steps, CPU).step(rec)
    kept = made[:, 100:].std(1)
    assert float(kept[0]) == pytest.approx(0.5**0.5, rel=0.02)
    assert float(kept[1]) < 0.01


def test_delay_and_settling_are_those_of_the_filters() -> None:
    steps = Causal(highpass=1.0, lowpass=40.0).bind(names=("a",), rate=1000.0, units="uV")
    tone, envelope = 40.0**0.5, torch.exp(-(((torch.arange(6000) / 1000 - 3) / 0.5) ** 2)).double()
    burst = (torch.sin(2 * torch.pi * tone * torch.arange(6000) / 1000) * envelope)[None]
    made, _ = Chain(steps, CPU).step(burst)
    t = np.arange(6000) / 1000
    middle = [float((np.abs(signal.hilbert(x)) ** 2 @ t) / (np.abs(signal.hilbert(x)) ** 2).sum())
              for x in (burst[0].numpy(), made[0].numpy())]  # fmt: skip
    assert middle[1] - middle[0] == pytest.approx(steps.delay, abs=3e-3)
    step, _ = Chain(steps, CPU).step(torch.cat([torch.zeros(1, 1), torch.ones(1, 5999)], 1))
    assert float(step[0, int(1000 * steps.settling) + 1 :].abs().max()) < 1e-2
    assert Causal().bind(names=("a",), rate=100.0, units="uV").delay == 0.0


def test_the_accelerator_gives_the_same(accelerator: torch.device) -> None:
    x = recording(1000).data
    wanted, _ = Chain(bound(), CPU).step(x)
    chain, state, made = Chain(bound(), accelerator), None, []
    for part in x.split(150, 1):
        y, state = chain.step(part.to(accelerator), state)
        made.append(y.cpu())
    torch.testing.assert_close(torch.cat(made, 1), wanted, rtol=1e-9, atol=1e-9)


# Recordings


def test_a_recording_remembers_its_steps_through_epochs_and_files(tmp_path: Any) -> None:
    rec = apply_causal(recording(), FULL)
    assert rec.rate == pytest.approx(250 / 3)
    assert (rec.units, rec.data.dtype, rec.sizes["time"]) == ("z", torch.float32, 1000)
    rec.windows(1.0, hop=0.5).save(str(tmp_path / "w"))
    found = Causal.of(tectum.load(tmp_path / "w"))
    assert found is not None
    assert (found.names, found.rate, found.units) == (NAMES, 250.0, "uV")
    assert found.scale == pytest.approx(float(rec.data.std(1).median()), rel=1e-5)
    y, _ = Chain(found, CPU).step(recording().data)
    assert torch.equal(y.float(), rec.data)
    assert Causal.of(recording()) is None


def test_time_may_come_first() -> None:
    rec = recording()
    turned = rec.with_(data=rec.data.T.contiguous(), dims=("time", "channel"))
    assert torch.equal(apply_causal(turned, FULL).data.T, apply_causal(rec, FULL).data)


def test_splits_demand_a_gap_for_the_memory_of_the_filters() -> None:
    from tectum.evaluate.splits import block_folds

    rec = apply_causal(recording(), Causal(highpass=5.0))
    with pytest.raises(InputError, match="twice the reach of causal"):
        list(block_folds(rec, 3, gap=0.0))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Causal(highpass=-1.0), "Causal.highpass: expected a number in (0"),
        (lambda: Causal(reference="Cz"), "for one channel write reference=('Cz',)"),
        (lambda: Causal(reference="average", bipolar=(("a", "b"),)), "expected either reference or bipolar, got both"),
        (lambda: bound(Causal(lowpass=200.0)), "expected frequencies between 0 and 125 Hz, got 200 Hz at 250 Hz"),
        (lambda: bound(Causal(highpass=30.0, lowpass=3.0)), "expected highpass < lowpass, got 30 and 3 Hz"),
        (lambda: Causal(highpass=1.0).sos, "expected steps bound to an input, got none; call bind"),
        (lambda: apply_causal(recording().windows(1.0), FULL), "filter before cutting epochs"),
        (lambda: apply_causal(apply_causal(recording(), FULL), FULL), "expected a recording without causal steps"),
        (lambda: apply_causal(recording().with_(data=torch.full((4, 9), torch.nan)), FULL), "expected finite samples"),
        (lambda: apply_causal(recording().with_(coords={}), Causal(reference=("Cz",))), "channel names, got none"),
        (lambda: Causal.of(type("D", (), {"causal_": 3})()), "expected a Causal as causal_ of the decoder, got int"),
    ],
)  # fmt: skip
def test_bad_input(call: Any, words: str) -> None:
    with pytest.raises(InputError) as error:
        call()
    assert words in str(error.value)


def test_a_missing_reference_is_named() -> None:
    with pytest.raises(ContractError, match=r"expected channels \['A1'\]"):
        bound(Causal(reference=("A1",)))
