"""The calcium chain: oracles, suite2p's own output, recovery of simulated spikes, devices and bad input."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tectum
from tectum import Recording
from tectum.core.errors import InputError
from tectum.datasets.simulate.calcium import calcium as simulate
from tectum.preprocess import _oasis, _traces, calcium
from tectum.preprocess.calcium import baseline, deconvolve, dff, duplicates, events, neuropil, noise, subtract


def pools(y: np.ndarray, gamma: float) -> np.ndarray:
    """Deconvolve one trace, one pool after the other, as the recipe is written."""
    stack: list[list[float]] = []
    for t, value in enumerate(y.astype(np.float64)):
        stack.append([value, 1.0, t, 1])
        while len(stack) > 1 and stack[-2][0] * gamma ** stack[-2][3] > stack[-1][0]:
            v, w, _, n = stack.pop()
            u, x, _, m = stack[-1]
            total = x + w * gamma ** (2 * m)
            stack[-1][0] = (u * x + v * w * gamma**m) / total
            stack[-1][1] = total
            stack[-1][3] = m + n
    spikes = np.zeros(len(y))
    for (u, _, _, m), (v, _, t, _) in zip(stack, stack[1:], strict=False):
        spikes[int(t)] = v - u * gamma**m
    return spikes


def recording(data: Any, **fields: Any) -> Recording:
    return Recording(data=torch.as_tensor(data), dims=("time", "unit"), **{"rate": 10.0, "units": "F", **fields})


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 90), st.integers(1, 4), st.floats(0.05, 0.999))
def test_deconvolution_equals_the_recipe(seed: int, n: int, units: int, gamma: float) -> None:
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((units, n)) * rng.choice([0.1, 1.0, 1e4]) + rng.choice([0.0, 5.0])
    found = _oasis.deconvolve(torch.from_numpy(y), gamma=gamma).numpy()
    np.testing.assert_allclose(found, [pools(row, gamma) for row in y], atol=1e-9 * np.abs(y).max())


@pytest.mark.parametrize(
    "y", [np.arange(50.0), np.arange(50.0)[::-1], np.zeros(50), np.ones(50), -np.ones(50), np.r_[np.arange(49.0), -9.0]]
)
def test_ramps_steps_and_ties(y: np.ndarray) -> None:
    found = _oasis.deconvolve(torch.from_numpy(y.copy())[None], gamma=0.9)[0].numpy()
    np.testing.assert_allclose(found, pools(y, 0.9), atol=1e-12)


def test_blocks_do_not_touch(monkeypatch: pytest.MonkeyPatch) -> None:
    y = torch.randn(7, 100, generator=torch.Generator().manual_seed(0))
    whole = _oasis.deconvolve(y, gamma=0.9)
    monkeypatch.setitem(_oasis._BLOCK, "cpu", 250)
    assert torch.equal(_oasis.deconvolve(y, gamma=0.9), whole)
    assert _oasis.deconvolve(y[:0], gamma=0.9).shape == (0, 100)


@pytest.mark.realdata
def test_suite2ps_own_output_is_reproduced() -> None:
    cache = Path(os.environ.get("TECTUM_REALDATA") or Path.home() / ".cache" / "tectum-realdata").expanduser()
    folder = cache / "pynapple-0.11.4/pynapple-0.11.4/tests/nwbfilestest/suite2p/suite2p"
    if not folder.exists():
        pytest.skip("pynapple-0.11.4 is not in the cache: run tools/fetch_realdata.py")
    found = tectum.read(folder, cells_only=False)
    options = found.meta["suite2p"]
    corrected = neuropil(found["F"], found["Fneu"], coefficient=options["neucoeff"])
    rest = baseline(corrected, method="maximin", window=options["win_baseline"], sigma=options["sig_baseline"])
    spikes = deconvolve(subtract(corrected, rest), tau=options["tau"])
    worst = float((spikes.values - found["spks"].values).abs().max())
    assert spikes.shape == (2000, 219)
    assert worst < 1e-4


@pytest.mark.parametrize("window", [1, 2, 7, 8, 40, 63, 300])
def test_baselines_equal_scipys(window: int) -> None:
    x = torch.randn(3, 120, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    np.testing.assert_array_equal(
        _traces.running_minimum(x, min(window, 120)).numpy(),
        scipy.ndimage.minimum_filter1d(x.numpy(), min(window, 120)),
    )
    smooth = scipy.ndimage.gaussian_filter1d(x.numpy(), 3.0)
    np.testing.assert_allclose(_traces.gaussian(x, 3.0).numpy(), smooth, atol=1e-12)
    if window <= 60:
        low = scipy.ndimage.maximum_filter1d(scipy.ndimage.minimum_filter1d(smooth, window), window)
        np.testing.assert_allclose(_traces.maximin(x, window=window, sigma=3.0).numpy(), low, atol=1e-12)


def test_a_gaussian_wider_than_the_recording() -> None:
    x = torch.randn(2, 15, dtype=torch.float64)
    np.testing.assert_allclose(
        _traces.gaussian(x, 10.0).numpy(), scipy.ndimage.gaussian_filter1d(x.numpy(), 10.0), atol=1e-12
    )


@pytest.mark.parametrize("window", [1, 4, 9, 50])
@pytest.mark.parametrize("step", [1, 6])
def test_running_percentiles_equal_numpys(window: int, step: int) -> None:
    x = torch.randn(3, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    centre = np.arange(0, 80, step)
    before = window // 2
    slow = [[np.percentile(r[max(0, c - before) : c - before + window], 8) for c in centre] for r in x.numpy()]
    slow = np.stack([np.interp(np.arange(80), centre, row) for row in np.array(slow)])
    found = _traces.running_percentile(x, window=window, percentile=8, step=step)
    np.testing.assert_allclose(found.numpy(), slow, atol=1e-12)
    np.testing.assert_allclose(_traces.constant(x, percentile=8)[:, 0].numpy(), np.percentile(x.numpy(), 8, axis=1))


def test_noise_of_white_noise() -> None:
    x = 0.3 * torch.randn(50_000, 4, generator=torch.Generator().manual_seed(3))
    sd, level = noise(recording(x, rate=25.0, units="dF/F"))
    np.testing.assert_allclose(sd.numpy(), 0.3, rtol=0.02)
    np.testing.assert_allclose(level.numpy(), 100 * 0.3 * math.sqrt(2) * 0.6745 / 5.0, rtol=0.02)


def test_regions_without_baseline_are_flagged() -> None:
    x = torch.rand(200, 3, generator=torch.Generator().manual_seed(4)) + 1.0
    x[:, 1] -= 3.0
    rest = baseline(recording(x), window=5.0)
    found = dff(recording(x), rest)
    assert found.units == "dF/F"
    assert found.coords["unit"]["flagged"].tolist() == [False, True, False]
    torch.testing.assert_close(found.values[:, 1], x[:, 1] - rest.values[:, 1])
    torch.testing.assert_close(found.values[:, 0], (x / rest.values - 1)[:, 0])
    assert dff(recording(x[:, [1]]), window=5.0).units == "F"
    assert [step["step"] for step in dff(recording(x), window=5.0).history] == ["baseline", "dff"]


def test_a_small_baseline_does_not_explode() -> None:
    x = torch.full((100, 1), 100.0)
    rest = recording(torch.full((100, 1), 1e-6))
    assert float(dff(recording(x), rest).values.max()) == pytest.approx(100.0)
    assert float(dff(recording(x), rest, floor=10.0).values.max()) == pytest.approx(10.0)


def test_neuropil_is_subtracted() -> None:
    x, around = torch.rand(50, 2) + 2, torch.rand(50, 2)
    made = neuropil(recording(x), recording(around), coefficient=0.5, keep_level=True)
    level = 0.5 * around.median(dim=0).values
    torch.testing.assert_close(made.values, x - 0.5 * around + level)
    assert made.history[-1] == {"step": "neuropil", "coefficient": 0.5, "keep_level": True}


def test_the_share_of_neuropil_is_exact_without_noise_and_bursts_do_not_pull() -> None:
    generator = torch.Generator().manual_seed(5)
    around = torch.randn(3, 4000, generator=generator, dtype=torch.float64).cumsum(-1)
    clean = 3.0 + torch.tensor([[0.0], [0.4], [1.1]], dtype=torch.float64) * around
    torch.testing.assert_close(
        _traces.neuropil_coefficient(clean, around), torch.tensor([0.0, 0.4, 1.1], dtype=torch.float64)
    )
    burst = torch.zeros_like(clean)
    burst[:, 500::1000] = 1e4
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    with_bursts, without = (_traces.neuropil_coefficient(x, around) for x in (noisy + burst, noisy))
    torch.testing.assert_close(with_bursts, without, atol=2e-3, rtol=0)
    assert bool(_traces.neuropil_coefficient(clean, torch.ones_like(around)).isnan().all())


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4])
def test_the_chain_recovers_simulated_spikes(seed: int) -> None:
    sim = simulate(random_state=seed)
    robust = neuropil(sim.fluorescence, sim.neuropil, coefficient="robust")
    share = robust.coords["unit"]["neuropil"]
    assert abs(share - 0.7).max() < 0.1
    assert share.std() < 0.03  # what the generator's specification gives
    corrected = neuropil(sim.fluorescence, sim.neuropil, coefficient=0.7)
    rest = baseline(corrected, method="maximin")
    error = ((rest.values - sim.truth.baseline).abs() / sim.truth.baseline).mean()
    assert float(error) <= 0.10
    spikes = deconvolve(subtract(corrected, rest), tau=0.7).values
    binned, truth = (v.double().reshape(-1, 3, 20).sum(1) for v in (spikes, sim.truth.counts))
    r = [np.corrcoef(binned[:, k], truth[:, k])[0, 1] for k in range(20)]
    assert np.mean(r) >= 0.93
    toy = sim.fluorescence.values
    toy = ((toy - toy.mean(0)) / toy.std(0) > 2).double().reshape(-1, 3, 20).sum(1)
    assert np.mean([np.corrcoef(toy[:, k], truth[:, k])[0, 1] for k in range(20)]) < 0.7  # the task is not trivial


def test_events_carry_their_resolution() -> None:
    sim = simulate(3, duration=60.0)
    spikes = deconvolve(sim.fluorescence, tau=0.7)
    found = events(spikes, k=5.0)
    assert found.meta["kind"] == "inferred"
    assert found.meta["time_resolution"] == pytest.approx(1 / 30)
    assert 0 < len(found) < len(events(spikes, k=1.0))
    frames = np.round(found.train(0).numpy() * 30).astype(int)
    assert bool((spikes.values[frames, 0] > 0).all())
    assert found.span.pairs() == [(0.0, 60.0)]


def test_the_accelerator_gives_the_same(accelerator: torch.device) -> None:
    sim = simulate(4, duration=40.0)
    here, there = sim.fluorescence, sim.fluorescence.to(accelerator)
    around, far = sim.neuropil, sim.neuropil.to(accelerator)
    for method in ("maximin", "percentile", "constant"):
        a = dff(neuropil(here, around, coefficient="robust"), method=method, window=10.0)
        b = dff(neuropil(there, far, coefficient="robust"), method=method, window=10.0)
        assert b.device == accelerator
        torch.testing.assert_close(b.values.cpu(), a.values, atol=1e-5, rtol=1e-4)
    a, b = deconvolve(here, tau=0.7), deconvolve(there, tau=0.7)
    torch.testing.assert_close(b.values.cpu(), a.values, atol=1e-6, rtol=1e-5)
    assert len(events(a)) == len(events(b))


def test_the_chain_leaves_its_input_alone() -> None:
    sim = simulate(2, duration=20.0)
    before = sim.fluorescence.values.clone()
    dff(sim.fluorescence)
    deconvolve(sim.fluorescence, tau=1.0)
    assert torch.equal(sim.fluorescence.values, before)


@pytest.mark.parametrize("rows", [7, 512])
def test_duplicates_against_a_loop(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calcium, "_ROWS", rows)
    rng = np.random.default_rng(3)
    common = rng.standard_normal((200, 5))
    x = common[:, rng.integers(0, 5, 30)] * rng.choice([-1, 1], 30) + 0.5 * rng.standard_normal((200, 30))
    x[:, 4] = 2.0
    place = rng.uniform(0, 40, (30, 2))
    rec = recording(torch.from_numpy(x), coords={"unit": {"y": place[:, 0], "x": place[:, 1]}})
    pairs, found = duplicates(rec, distance=15.0, correlation=0.75)
    with np.errstate(invalid="ignore"):
        r = np.nan_to_num(np.corrcoef(x.T))
    expected = [
        (a, b)
        for a in range(30)
        for b in range(a + 1, 30)
        if abs(r[a, b]) >= 0.75 and np.hypot(*(place[a] - place[b])) <= 15.0
    ]
    assert pairs.tolist() == [list(pair) for pair in expected]
    assert 5 < len(expected) < 60
    np.testing.assert_allclose(found, [r[pair] for pair in expected], atol=1e-12)
    assert len(duplicates(rec, distance=1e-9)[0]) == 0


GOOD = torch.rand(50, 2)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: deconvolve(recording(GOOD), tau=0.0), r"deconvolve\(tau\): expected the decay"),
        (lambda: deconvolve(recording(GOOD), tau=math.nan), "got nan"),
        (lambda: deconvolve(recording(torch.full((50, 2), torch.nan)), tau=1.0), "100 NaN or infinite; interpolate"),
        (
            lambda: deconvolve(recording(GOOD, rate=None, times=torch.arange(50.0) ** 1.1), tau=1.0),
            "deconvolve: expected a regular sampling rate",
        ),
        (lambda: deconvolve(Recording(data=GOOD, dims=("time", "channel"), rate=1.0), tau=1.0), "axes time and unit"),
        (lambda: baseline(recording(GOOD), window=0.0), r"baseline\(window\): expected at least one frame"),
        (lambda: baseline(recording(GOOD), method="guess"), r"'maximin', 'percentile' or 'constant', got 'guess'"),
        (lambda: baseline(recording(GOOD), percentile=101), r"baseline\(percentile\)"),
        (lambda: baseline(recording(GOOD), sigma=-1.0), "not negative"),
        (lambda: dff(recording(GOOD, units="dF/F")), "dff: expected fluorescence in 'F' or 'a.u.', got 'dF/F'"),
        (lambda: dff(recording(GOOD), recording(GOOD[:9])), r"a baseline of shape \(50, 2\)"),
        (lambda: subtract(recording(GOOD), recording(GOOD[:9])), r"shape \(50, 2\)"),
        (lambda: neuropil(recording(GOOD), recording(GOOD[:9])), "neuropil: expected a surround like"),
        (lambda: neuropil(recording(GOOD), recording(GOOD, rate=9.0)), "neuropil: expected a surround like"),
        (lambda: neuropil(recording(GOOD), recording(GOOD), coefficient=-1.0), r"in \[0, 2\] or 'robust', got -1.0"),
        (
            lambda: neuropil(recording(GOOD), recording(torch.ones(50, 2)), coefficient="robust"),
            "a neuropil that varies, got a constant one in region 0",
        ),
        (
            lambda: duplicates(recording(GOOD), distance=1.0),
            r"duplicates: expected columns y and x of the units, got \[\]",
        ),
        (
            lambda: duplicates(recording(GOOD, coords={"unit": {"y": [0.0, 1.0], "x": [0.0, 1.0]}}), distance=0.0),
            "distance > 0 and a correlation in",
        ),
        (lambda: events(recording(GOOD)), "expected deconvolved activity, got 'F'; deconvolve first"),
        (lambda: events(recording(GOOD, units="deconvolved"), k=-1), r"events\(k\)"),
    ],
)
def test_bad_input_is_named(call: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        call()
