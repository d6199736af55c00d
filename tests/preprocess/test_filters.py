"""Filters against MNE and SciPy, on sinusoids, on trials, on the simulated accelerator, and on wrong input."""

from __future__ import annotations

from typing import Any

import mne
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import butter, iirnotch, sosfiltfilt, tf2sos

from tectum import Recording, Session
from tectum.core.errors import InputError
from tectum.preprocess import STEPS, filter, resample

RATE = 500.0


def noise(n: int = 4000, channels: int = 3, seed: int = 0, dtype: torch.dtype = torch.float64) -> Recording:
    data = torch.randn(channels, n, generator=torch.Generator().manual_seed(seed), dtype=dtype)
    return Recording(data=data, dims=("channel", "time"), rate=RATE, units="uV")


def wave(freq: float, rate: float = RATE, seconds: float = 20.0, phase: float = 0.3) -> Recording:
    t = torch.arange(int(rate * seconds), dtype=torch.float64) / rate
    data = torch.sin(2 * torch.pi * freq * t + phase)[None]
    return Recording(data=data, dims=("channel", "time"), rate=rate, units="uV")


def fitted(rec: Recording, freq: float) -> tuple[float, float]:
    """Return amplitude and phase of a sinusoid in the middle half."""
    t, x = rec.time.numpy(), rec.values[0].double().numpy()
    middle = slice(len(t) // 4, -len(t) // 4)
    basis = np.stack([np.sin(2 * np.pi * freq * t), np.cos(2 * np.pi * freq * t)], axis=1)[middle]
    a, b = np.linalg.lstsq(basis, x[middle], rcond=None)[0]
    return float(np.hypot(a, b)), float(np.arctan2(b, a))


# FIR


@pytest.mark.parametrize(("low", "high"), [(1.0, 40.0), (0.5, None), (None, 100.0), (70.0, 150.0)])
def test_fir_equals_mne(low: float | None, high: float | None) -> None:
    rec = noise()
    expected = mne.filter.filter_data(rec.values.numpy().copy(), RATE, low, high, verbose="ERROR")
    made = filter(rec, low, high)
    np.testing.assert_allclose(made.values, expected, rtol=0, atol=1e-10)


def test_notch_equals_mne() -> None:
    rec = noise()
    expected = mne.filter.notch_filter(rec.values.numpy().copy(), RATE, [50.0, 100.0], verbose="ERROR")
    np.testing.assert_allclose(filter(rec, notch=[50, 100]).values, expected, rtol=0, atol=1e-10)


def test_band_pass_comes_before_the_notch() -> None:
    rec = noise()
    both = filter(rec, 1.0, 120.0, notch=50.0)
    np.testing.assert_allclose(both.values, filter(filter(rec, 1.0, 120.0), notch=50.0).values, atol=1e-10)
    assert both.history[-1]["reach"] == pytest.approx(
        filter(rec, 1.0, 120.0).history[-1]["reach"] + filter(rec, notch=50.0).history[-1]["reach"]
    )


# IIR


@pytest.mark.parametrize(
    ("low", "high", "kind"), [(1.0, 40.0, "bandpass"), (2.0, None, "highpass"), (None, 90.0, "lowpass")]
)
def test_iir_equals_scipy_away_from_the_ends(low: float | None, high: float | None, kind: str) -> None:
    rec = noise(20_000)
    edges = [e for e in (low, high) if e is not None]
    sos = butter(4, edges if len(edges) == 2 else edges[0], kind, fs=RATE, output="sos")
    expected = sosfiltfilt(sos, rec.values.numpy(), axis=-1)
    filtered = filter(rec, low, high, method="iir")
    made = filtered.values.numpy()
    np.testing.assert_allclose(made[:, 8000:-8000], expected[:, 8000:-8000], rtol=0, atol=1e-7)
    padded = sosfiltfilt(sos, rec.values.numpy(), axis=-1, padlen=round(filtered.history[-1]["reach"] * RATE))
    np.testing.assert_allclose(made, padded, rtol=0, atol=1e-12)


def test_iir_notch_equals_scipy_away_from_the_ends() -> None:
    rec = noise(6000)
    expected = sosfiltfilt(tf2sos(*iirnotch(50.0, 25.0, fs=RATE)), rec.values.numpy(), axis=-1)
    made = filter(rec, notch=50.0, width=2.0, method="iir").values.numpy()
    np.testing.assert_allclose(made[:, 2000:-2000], expected[:, 2000:-2000], rtol=0, atol=1e-6)


# Both


@pytest.mark.parametrize("method", ["fir", "iir"])
@pytest.mark.parametrize(("freq", "gain"), [(10.0, 1.0), (30.0, 1.0), (0.05, 0.0), (150.0, 0.0), (50.0, 0.0)])
def test_what_passes_keeps_amplitude_and_phase(method: Any, freq: float, gain: float) -> None:
    made = filter(wave(freq, seconds=60.0), 1.0, 80.0, notch=50.0, method=method)
    amplitude, phase = fitted(made, freq)
    assert amplitude == pytest.approx(gain, abs=0.01)
    if gain:
        assert phase == pytest.approx(0.3, abs=2 * np.pi * freq / RATE / 20)


@pytest.mark.parametrize("method", ["fir", "iir"])
def test_reach_holds_nearly_all_of_the_response(method: Any) -> None:
    impulse = torch.zeros(1, 20_001, dtype=torch.float64)
    impulse[0, 10_000] = 1.0
    rec = Recording(data=impulse, dims=("channel", "time"), rate=RATE)
    made = filter(rec, 1.0, 80.0, notch=50.0, method=method)
    reach = round(made.history[-1]["reach"] * RATE)
    response = made.values[0].abs()
    outside = torch.cat([response[: 10_000 - reach], response[10_001 + reach :]])
    assert float(outside.max()) < 2e-3 * float(response.max())


@pytest.mark.parametrize("method", ["fir", "iir"])
def test_trials_are_filtered_one_by_one(method: Any) -> None:
    rec = noise(8000)
    cut = rec.windows(8.0)
    made = filter(cut, 2.0, 40.0, method=method)
    assert made.dims == ("trial", "channel", "time")
    for k in range(2):
        torch.testing.assert_close(made.values[k], filter(cut.isel(trial=k), 2.0, 40.0, method=method).values)


def test_type_axes_and_record() -> None:
    rec = noise(dtype=torch.float32)
    made = filter(rec, 1.0, 40.0)
    assert (made.values.dtype, made.units, made.dims, made.rate) == (torch.float32, "uV", rec.dims, rec.rate)
    step = made.history[-1]
    assert {k: step[k] for k in ("step", "low", "high", "notch", "method")} == {
        "step": "filter",
        "low": 1.0,
        "high": 40.0,
        "notch": [],
        "method": "fir",
    }
    assert (made.meta["highpass"], made.meta["lowpass"]) == (1.0, 40.0)
    again = filter(made, None, 60.0)
    assert (again.meta["highpass"], again.meta["lowpass"]) == (1.0, 40.0)
    turned = Recording(data=rec.values.T, dims=("time", "channel"), rate=RATE)
    torch.testing.assert_close(filter(turned, 1.0, 40.0).values.T, made.values)
    assert STEPS["filter"] is filter


def test_the_accelerator_agrees(accelerator: torch.device) -> None:
    rec = noise(dtype=torch.float32)
    made = filter(rec.to(accelerator), 1.0, 40.0, notch=50.0)
    assert made.device == accelerator
    torch.testing.assert_close(made.to("cpu").values, filter(rec, 1.0, 40.0, notch=50.0).values)


def test_the_input_is_not_changed() -> None:
    rec = noise()
    before = rec.values.clone()
    filter(rec, 1.0, 40.0, notch=50.0)
    torch.testing.assert_close(rec.values, before, rtol=0, atol=0)


# Resampling


@settings(max_examples=25)
@given(
    st.sampled_from([(2000.0, 1000.0), (1000.0, 120.0), (512.0, 250.0), (250.0, 1000.0), (1000.0, 200.0)]),
    st.floats(0.02, 0.35),
    st.floats(0.0, 6.2),
)
def test_resampling_a_sinusoid_keeps_amplitude_and_phase(rates: tuple[float, float], part: float, phase: float) -> None:
    rate, target = rates
    freq = part * min(rates)
    made = resample(wave(freq, rate, 10.0, phase), target)
    amplitude, found = fitted(made, freq)
    assert made.rate == pytest.approx(target)
    assert amplitude == pytest.approx(1.0, abs=0.01)
    turned = (found - phase + np.pi) % (2 * np.pi) - np.pi
    assert abs(turned) / (2 * np.pi * freq) < 1 / target / 20


# Wrong input


@pytest.mark.parametrize(
    ("rec", "options", "says"),
    [
        (noise(), {"low": 40.0, "high": 1.0}, "filter: expected low < high, got low=40.0, high=1.0 Hz"),
        (noise(), {"high": 250.0}, r"filter\(high\): expected Hz between 0 and 250, half the rate, got 250.0"),
        (noise(), {"low": 0.0}, r"filter\(low\): expected Hz between 0 and 250"),
        (noise(), {"low": True}, r"filter\(low\): expected Hz"),
        (noise(), {"notch": [50.0, -1.0]}, r"filter\(notch\[1\]\): expected Hz"),
        (noise(), {"notch": 0.3}, r"filter\(notch\): expected Hz between 0 and 250, got stop bands of"),
        (noise(), {}, "filter: expected low=, high= or notch=, got none"),
        (noise(), {"low": 1.0, "method": "fft"}, r"filter\(method\): expected 'fir' or 'iir', got 'fft'"),
        (noise(), {"low": 1.0, "order": 0}, r"filter\(order\): expected a whole number from 1 to 12, got 0"),
        (
            noise(300),
            {"low": 0.5},
            "expected a signal longer than the filter, got 0.6 s for a filter of .* s; filter bef",
        ),
        (
            noise(300),
            {"low": 0.5, "method": "iir"},
            "expected a signal longer than the filter, got 0.6 s for a filter t",
        ),
        (
            noise().with_(mask=torch.zeros(1, 4000, dtype=torch.bool)),
            {"low": 1.0},
            "filter: expected no missing samples",
        ),
        (noise().with_(data=torch.full((2, 4000), torch.nan)), {"low": 1.0}, "filter: expected no missing samples"),
        (
            noise().with_(data=torch.zeros(2, 4000, dtype=torch.int32)),
            {"low": 1.0},
            "expected a signal of real numbers",
        ),
        (noise().isel(time=0), {"low": 1.0}, "filter: expected a recording with a regular rate"),
        (Session(items_={"a": noise()}), {"low": 1.0}, "filter: expected a Recording, got Session; take a part"),
    ],
)
def test_bad_input_is_named(rec: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        filter(rec, **options)
