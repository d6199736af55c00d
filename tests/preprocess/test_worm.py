"""The chain for recordings of C. elegans: in seconds, causal, without bias in time; and the published chain."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from support.simulated_accelerator import simulated_accelerator
from tectum import Recording
from tectum.core.errors import InputError, TectumWarning
from tectum.evaluate import block_folds
from tectum.preprocess import preprocess_worm
from tectum.preprocess._worm import (
    causal_scale,
    fill,
    impute,
    interpolate,
    interval_means,
    longest_gap,
    longest_run,
    release,
    smoothed,
    straight_windows,
)
from tectum.preprocess.worm import drop_untracked


def recording(x: Tensor, rate: float | None = None, **fields: Any) -> Recording:
    return Recording(data=x, dims=("time", "unit"), rate=rate, units="dF/F", **fields)


def walk(n_time: int, n_units: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((n_time, n_units))).cumsum(0) / 3 + 5


# Resampling


@pytest.mark.parametrize("native", [0.1, 0.25, 0.3])
def test_a_sinusoid_keeps_amplitude_and_phase(native: float) -> None:
    """Period 20 s at 0.333 s: amplitude within 1 %, phase within dt/20; a stamp at the left edge would miss by dt/2."""
    n = int(200 / native)
    t = native * torch.arange(n, dtype=torch.float64)
    rec = recording(torch.sin(2 * math.pi * t / 20)[:, None], rate=1 / native)
    made = preprocess_worm(rec, resample_dt=0.333)
    design = torch.stack([torch.sin(2 * math.pi * made.time / 20), torch.cos(2 * math.pi * made.time / 20)], 1)
    a, b = torch.linalg.lstsq(design, made.values.double()).solution[:, 0].tolist()
    assert abs(math.hypot(a, b) - 1) < 0.01
    delay = math.atan2(b, a) / (2 * math.pi) * 20
    assert abs(delay) < 0.333 / 20
    assert made.rate == pytest.approx(1 / 0.333)
    assert made.t0 == pytest.approx(0.333 / 2)
    left = torch.stack([torch.sin(2 * math.pi * (made.time - 0.333 / 2) / 20),
                        torch.cos(2 * math.pi * (made.time - 0.333 / 2) / 20)], 1)  # fmt: skip
    a, b = torch.linalg.lstsq(left, made.values.double()).solution[:, 0].tolist()
    assert abs(math.atan2(b, a) / (2 * math.pi) * 20) > 0.333 / 20  # the test sees the fault it looks for


def test_interval_means_are_integrals() -> None:
    """Against SciPy's integral of the line that joins the samples."""
    from scipy.integrate import quad

    rng = np.random.default_rng(1)
    times = np.cumsum(rng.uniform(0.2, 0.5, 30))
    x = rng.standard_normal((30, 2))
    edges = times[0] + 0.77 * np.arange(8)
    found = interval_means(*(torch.from_numpy(v) for v in (x, times, edges)))
    for k in range(7):
        for unit in range(2):
            inside = [t for t in times if edges[k] < t < edges[k + 1]]
            line = partial(np.interp, xp=times, fp=x[:, unit])
            area, _ = quad(line, edges[k], edges[k + 1], points=inside, epsabs=1e-12)
            assert found[k, unit].item() == pytest.approx(area / 0.77, abs=1e-9)


def test_interpolation_equals_numpy() -> None:
    rng = np.random.default_rng(2)
    times, x = np.cumsum(rng.uniform(0.2, 0.5, 30)), rng.standard_normal((30, 3))
    at = np.linspace(times[0], times[-1], 77)
    found = interpolate(*(torch.from_numpy(v) for v in (x, times, at)))
    np.testing.assert_allclose(found, np.stack([np.interp(at, times, c) for c in x.T], 1), rtol=0, atol=1e-12)
    rec = recording(torch.from_numpy(x), times=torch.from_numpy(times))
    made = preprocess_worm(rec, resample_dt=0.2)
    assert made.t0 == times[0]
    np.testing.assert_allclose(
        made.values, np.stack([np.interp(made.time, times, c) for c in x.T], 1), rtol=0, atol=1e-12
    )


def test_gaps_are_not_bridged_by_resampling() -> None:
    x = torch.arange(20.0, dtype=torch.float64)[:, None].repeat(1, 2)
    x[8:14, 0] = torch.nan
    made = preprocess_worm(recording(x, rate=1.0), resample_dt=2.5).values
    assert torch.isnan(made[:, 0]).tolist() == [
        False,
        False,
        False,
        True,
        True,
        True,
        False,
    ]  # two fifths of the sixth are covered
    torch.testing.assert_close(made[:, 1], 1.25 + 2.5 * torch.arange(7, dtype=torch.float64))
    fine = preprocess_worm(recording(x, rate=1.0), resample_dt=0.5).values
    assert torch.isnan(fine[15:27, 0]).all()
    assert torch.isfinite(fine[:15, 0]).all()


def test_far_below_the_native_step_warns() -> None:
    with pytest.warns(TectumWarning, match=r"resample_dt=0\.1 s is far below the 1 s of the recording"):
        preprocess_worm(recording(walk(10, 2), rate=1.0), resample_dt=0.1)


# Smoothing


@pytest.mark.parametrize("kind", ["moving", "gaussian", "exponential"])
def test_no_response_before_an_impulse(kind: Any) -> None:
    x = torch.zeros(60, 1, dtype=torch.float64)
    x[20] = 1.0
    made = preprocess_worm(recording(x, rate=2.0), smooth_s=3.0, smooth=kind).values[:, 0]
    assert (made[:20] == 0).all()
    assert made[20] > 0
    assert made[21] > 0


def test_smoothing_is_in_seconds() -> None:
    """The same window at two rates; frames before the first do not exist."""
    for rate, n in ((2.0, 6), (4.0, 12)):
        x = walk(80, 2)
        made = preprocess_worm(recording(x, rate=rate), smooth_s=3.0).values
        expected = torch.stack([x[max(0, t - n + 1) : t + 1].mean(0) for t in range(80)])
        torch.testing.assert_close(made, expected)


@pytest.mark.parametrize(("kind", "weight"), [
    ("gaussian", lambda lag: np.exp(-0.5 * (lag / 1.5) ** 2)), ("exponential", lambda lag: np.exp(-lag / 1.5)),
])  # fmt: skip
def test_kernels_by_brute_force(kind: Any, weight: Any) -> None:
    x = walk(50, 2).numpy()
    found = preprocess_worm(recording(torch.from_numpy(x), rate=4.0), smooth_s=1.5, smooth=kind).values
    for t in range(50):
        w = weight((t - np.arange(t + 1)) / 4.0)
        np.testing.assert_allclose(found[t], w @ x[: t + 1] / w.sum(), rtol=1e-9)


def test_missing_samples_do_not_count() -> None:
    x = torch.ones(20, 1, dtype=torch.float64)
    x[5] = torch.nan
    for kind in ("moving", "gaussian", "exponential"):
        made = smoothed(x, torch.arange(20, dtype=torch.float64), 4.0, kind=kind)  # type: ignore[arg-type]
        assert torch.isnan(made[5])
        torch.testing.assert_close(made[torch.arange(20) != 5], torch.ones(19, 1, dtype=torch.float64))


# Gaps


def test_linear_gaps_equal_numpy() -> None:
    rng = np.random.default_rng(3)
    times, x = np.cumsum(rng.uniform(0.2, 0.5, 40)), rng.standard_normal((40, 4))
    x[rng.random(x.shape) < 0.3] = np.nan
    x[:, 3] = np.nan
    found = fill(torch.from_numpy(x), torch.from_numpy(times))
    for k in range(3):
        good = np.isfinite(x[:, k])
        expected = np.interp(times, times[good], x[good, k], left=np.nan, right=np.nan)
        np.testing.assert_allclose(found[:, k], expected, rtol=0, atol=1e-12)
    assert torch.isnan(found[:, 3]).all()
    y = torch.tensor([[0.0], [torch.nan], [torch.nan], [3.0], [torch.nan]])
    assert longest_gap(y, torch.tensor([0.0, 1.0, 2.0, 4.0, 5.0])) == 4.0


@pytest.mark.parametrize(("noise", "most"), [(0.0, 0.06), (0.3, 0.3)])
def test_imputation_finds_a_matrix_of_low_rank(noise: float, most: float) -> None:
    """The error, relative to the spread of the data; the mean of each unit would leave 1."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 3, generator=g, dtype=torch.float64) @ torch.randn(3, 20, generator=g, dtype=torch.float64)
    x += noise * torch.randn(x.shape, generator=g, dtype=torch.float64)
    holes = torch.rand(x.shape, generator=g) < 0.1
    made = impute(torch.where(holes, torch.nan, x))
    assert (made - x)[holes].square().mean().sqrt() / x.std() < most
    torch.testing.assert_close(made[~holes], x[~holes])
    x[:, 5] = torch.nan
    assert torch.isnan(impute(x)[:, 5]).all()


# Scale


def test_scales_equal_numpy() -> None:
    x = walk(300, 4).numpy()
    rec = recording(torch.from_numpy(x), rate=2.0)
    found = {k: preprocess_worm(rec, normalize=k) for k in ("zscore", "robust", "causal")}  # type: ignore[arg-type]
    np.testing.assert_allclose(found["zscore"].values, (x - x.mean(0)) / x.std(0), atol=1e-10)
    mad = 1.4826022185056018 * np.median(np.abs(x - np.median(x, 0)), 0)
    np.testing.assert_allclose(found["robust"].values, (x - np.median(x, 0)) / mad, atol=1e-10)
    shifted = recording(torch.from_numpy(x + 50), rate=2.0)
    made = preprocess_worm(shifted, normalize="f_f20")
    np.testing.assert_allclose(made.values, (x + 50) / np.percentile(x + 50, 20, axis=0), atol=1e-10)
    expected = np.stack([(x[t] - x[: t + 1].mean(0)) / np.maximum(x[: t + 1].std(0), 1e-4) for t in range(300)])
    np.testing.assert_allclose(found["causal"].values[5:], expected[5:], rtol=1e-6)
    assert [*(found[k].units for k in found), made.units] == ["z", "z", "z", "1"]


def test_scale_from_a_part() -> None:
    x = walk(200, 3).numpy()
    made = preprocess_worm(recording(torch.from_numpy(x), rate=2.0), normalize="zscore", fit_slice=(0.0, 50.0))
    train = x[:100]
    np.testing.assert_allclose(made.values, (x - train.mean(0)) / train.std(0), atol=1e-10)
    assert made.history[-1]["reach"] == 0
    assert made.history[-1]["fit_slice"] == [0.0, 50.0]
    assert len(list(block_folds(made, 3, gap=1.0))) == 3
    whole = preprocess_worm(recording(torch.from_numpy(x), rate=2.0), normalize="zscore")
    with pytest.raises(InputError, match="preprocess_worm"):
        list(block_folds(whole, 3, gap=1.0))


def test_a_constant_neuron_becomes_zero() -> None:
    x = walk(50, 2)
    x[:, 1] = 7.0
    with pytest.warns(TectumWarning, match="1 units are constant and become 0"):
        made = preprocess_worm(recording(x, rate=1.0), normalize="zscore").values
    assert (made[:, 1] == 0).all()


def test_absent_neurons_stay_absent() -> None:
    x = walk(50, 3)
    x[:, 1] = torch.nan
    mask = torch.tensor([[True, False, True]])
    rec = recording(x, rate=1.0, mask=mask, coords={"unit": {"name": ["A", "B", "C"]}})
    for options in ({"normalize": "zscore"}, {"normalize": "robust"}, {"normalize": "causal"}, {"smooth_s": 3.0},
                    {"resample_dt": 2.0}, {"gaps": "linear"}, {"gaps": "impute"}, {"release_mode": True}):  # fmt: skip
        made = preprocess_worm(rec, **options)  # type: ignore[arg-type]
        assert torch.isnan(made.values[:, 1]).all()
        assert torch.isfinite(made.values[:, [0, 2]]).all()
        assert torch.equal(made.mask, mask)
        assert made.coords["unit"]["name"].tolist() == ["A", "B", "C"]


def test_nothing_asked_nothing_done() -> None:
    x = walk(50, 3).float()
    rec = recording(x, times=torch.arange(50, dtype=torch.float64) * 0.7, subject="a", meta={"k": 1})
    made = preprocess_worm(rec)
    assert torch.equal(made.values, x)
    assert torch.equal(made.time, rec.time)
    assert (made.subject, dict(made.meta), made.units) == ("a", {"k": 1}, "dF/F")
    assert made.values.dtype == torch.float32
    assert made.history[-1]["reach"] == 0


def test_reach_adds_up() -> None:
    x = walk(50, 3)
    x[10:14, 0] = torch.nan
    made = preprocess_worm(recording(x, rate=1.0), gaps="linear", smooth_s=4.0, resample_dt=2.0)
    assert made.history[-1]["reach"] == pytest.approx(5.0 + 4.0 + 2.0)
    assert preprocess_worm(recording(x, rate=1.0), gaps="impute").history[-1]["reach"] == math.inf


# The published chain


def release_by_numpy(x: np.ndarray, t: np.ndarray, smooth: str, causal: bool) -> dict[str, np.ndarray]:
    """Follow the steps as they are described, frame by frame."""
    t = t.astype(np.float32)
    t = (t - t[0]).astype(np.float64)

    def smoothed_(v: np.ndarray) -> np.ndarray:
        made = np.zeros_like(v)
        for k in range(len(v)):
            if smooth == "moving":
                made[k] = v[max(k - 7, 0) : k + 1].mean(0)
            elif smooth == "gaussian":
                w = np.exp(-(np.arange(k, -1, -1) ** 2) / (2 * 5.0**2))
                made[k] = w @ v[: k + 1] / w.sum()
            else:
                made[k] = v[k] if k == 0 else 0.5 * v[k] + 0.5 * made[k - 1]
        return made

    def resampled(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        coarse = np.median(np.diff(t)) > 0.333
        at = np.arange(t.min(), t.max(), 0.333 if coarse else 0.333 / 6)
        fine = np.stack([np.interp(at, t, c) for c in v.T], 1)
        if coarse:
            return fine, at
        n = len(fine) // 6
        return fine[: 6 * n].reshape(n, 6, -1).mean(1), 0.333 * np.arange(n)

    residual = np.gradient(x, t, axis=0)
    values, stamp = resampled(smoothed_(x))
    if causal:
        n = np.arange(1, len(values) + 1)[:, None]
        mean = np.cumsum(values, 0) / n
        scaled = (values - mean) / np.sqrt(np.maximum(np.cumsum(values**2, 0) / n - mean**2, 1e-8))
    else:
        scaled = (values - values.mean(0)) / values.std(0)
    found = {"calcium": scaled, "smooth": values, "times": stamp, "residual": resampled(residual)[0]}
    return {**found, "smooth_residual": resampled(smoothed_(residual))[0]}


@pytest.mark.parametrize("smooth", ["moving", "gaussian", "exponential"])
@pytest.mark.parametrize("native", [0.25, 0.6])
def test_the_published_chain(smooth: Any, native: float) -> None:
    rng = np.random.default_rng(5)
    x = walk(300, 5).numpy()
    t = 12.3 + native * np.arange(300) + rng.uniform(0, 0.05, 300)
    for causal in (False, True):
        expected = release_by_numpy(x, t, smooth, causal)
        found = release(torch.from_numpy(x), torch.from_numpy(t), smooth=smooth, causal=causal)
        for name, values in expected.items():
            ours = getattr(found, name).numpy()
            assert ours.shape == values.shape, name
            np.testing.assert_allclose(ours, values, rtol=0, atol=1e-3 if causal else 1e-5, err_msg=name)
        rec = recording(torch.from_numpy(x), times=torch.from_numpy(t))
        made = preprocess_worm(rec, release_mode=True, smooth=smooth, normalize="causal" if causal else "none")
        stored = expected["calcium"].astype(np.float16)
        np.testing.assert_allclose(made.values, stored.astype(float), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(made.time, expected["times"], rtol=0, atol=1e-9)
        assert made.units == "z"


def test_the_first_frame_of_lin_is_f0() -> None:
    x = walk(700, 2)
    x[0] = torch.nan
    rec = recording(x, rate=2.5, coords={"unit": {"f0": np.array([4.0, 6.0])}})
    filled = x.clone()
    filled[0] = torch.tensor([4.0, 6.0], dtype=x.dtype)
    made = preprocess_worm(rec, release_mode=True)
    torch.testing.assert_close(made.values, preprocess_worm(recording(filled, rate=2.5), release_mode=True).values)


def test_float64_time_does_not_repeat() -> None:
    """Stored in half precision 1600 frames of 0.333 s have 1580 times; ours are all different."""
    made = preprocess_worm(recording(walk(2400, 1), rate=4.0), release_mode=True)
    times = made.time[:1600]
    assert len(torch.unique(times)) == 1600
    assert len(np.unique(times.numpy().astype(np.float16))) == 1580


# What is wrong


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"smooth_s": 0.0}, r"preprocess_worm\(smooth_s\): expected a number above 0 s, got 0\.0"),
        ({"smooth_s": True}, r"preprocess_worm\(smooth_s\): expected a number above 0 s, got True"),
        ({"resample_dt": math.inf}, r"preprocess_worm\(resample_dt\): expected a number above 0 s, got inf"),
        ({"resample_dt": 1000.0}, r"at most 24\.5 s, the length of the recording, got 1000 s"),
        ({"normalize": "max"}, r"preprocess_worm\(normalize\): expected one of \('none', 'zscore'"),
        ({"smooth": "box"}, r"preprocess_worm\(smooth\): expected one of"),
        ({"gaps": "drop"}, r"preprocess_worm\(gaps\): expected one of"),
        ({"normalize": "f_f20"}, "20th percentiles above 0, got 2 units at or below 0"),
        ({"normalize": "zscore", "fit_slice": (90.0, 99.0)}, r"fit_slice\): expected a span with samples"),
        ({"normalize": "causal", "fit_slice": (0.0, 9.0)}, "fit_slice with normalize='causal'"),
        (
            {"release_mode": True, "smooth_s": 2.0},
            r"expected no smooth_s.*got smooth_s, normalize='none'",
        ),
        ({"release_mode": True, "normalize": "robust"}, r"release_mode\): .*got normalize='robust'"),
    ],
)
def test_bad_options(options: Any, says: str) -> None:
    rec = recording(walk(50, 2) - 20, rate=2.0)
    with pytest.raises(InputError, match=says):
        preprocess_worm(rec, **options)


def test_bad_recordings() -> None:
    with pytest.raises(InputError, match=r"a recording \(time, unit\) of two samples or more.*session\['activity'\]"):
        preprocess_worm(recording(walk(1, 2), rate=1.0))
    x = walk(60, 2)
    times = torch.cumsum(torch.rand(60, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.5, 0)
    with pytest.raises(InputError, match="a regular clock, got one that varies; use smooth='moving'"):
        preprocess_worm(recording(x, times=times), smooth_s=2.0, smooth="gaussian")
    x[3, 0] = torch.nan
    with pytest.raises(InputError, match="traces without gaps, got NaN; pass gaps='linear' or 'impute'"):
        preprocess_worm(recording(x, rate=1.0), release_mode=True)
    assert torch.isfinite(preprocess_worm(recording(x, rate=1.0), release_mode=True, gaps="linear").values).all()


def test_on_an_accelerator() -> None:
    x = walk(120, 4).float()
    x[20:24, 1] = torch.nan
    options: list[dict[str, Any]] = [
        {"gaps": "linear", "smooth_s": 2.0, "resample_dt": 1.1, "normalize": "zscore"},
        {"normalize": "robust", "smooth_s": 2.0, "smooth": "gaussian", "resample_dt": 0.3},
        {"release_mode": True, "gaps": "linear"},
        {"normalize": "causal", "smooth_s": 2.0, "smooth": "exponential"},
    ]
    expected = [preprocess_worm(recording(x, rate=2.0), **o).values for o in options]
    with simulated_accelerator() as device:
        for o, values in zip(options, expected, strict=True):
            made = preprocess_worm(recording(x, rate=2.0).to(device), **o)
            torch.testing.assert_close(made.to("cpu").values, values, rtol=1e-4, atol=1e-4, equal_nan=True)


def test_causal_scale_skips_missing_samples() -> None:
    x = torch.tensor([[1.0], [torch.nan], [3.0]], dtype=torch.float64)
    made = causal_scale(x)
    assert made[0] == 0
    assert torch.isnan(made[1])
    assert made[2] == 1


# Tracking


def test_units_that_were_lost_or_filled_with_lines() -> None:
    x = walk(400, 5)
    x[100:120, 1] = torch.nan  # 20 frames are 5 %
    x[100:121, 2] = torch.nan
    x[200:260, 3] = torch.linspace(0, 1, 60, dtype=x.dtype)
    x[:, 4] = torch.nan
    rec = recording(x, rate=2.0, coords={"unit": {"name": list("abcde")}})
    made = drop_untracked(rec)
    assert made.coords["unit"]["name"].tolist() == ["a", "b"]
    assert {k: made.history[-1][k] for k in ("lost", "lines")} == {"lost": 2, "lines": 1}
    with pytest.raises(InputError, match="expected a unit that was tracked, got 2 lost for long, 1 straight"):
        drop_untracked(rec.isel(unit=[2, 3, 4]))


def test_rules_of_tracking_by_brute_force() -> None:
    rng = np.random.default_rng(6)
    missing = rng.random((60, 8)) < 0.6
    runs = [max((len(r) for r in "".join("x" if m else " " for m in c).split()), default=0) for c in missing.T]
    assert longest_run(torch.from_numpy(missing)).tolist() == runs
    assert longest_run(torch.zeros(5, 2, dtype=torch.bool)).tolist() == [0, 0]
    for n in (40, 50, 51, 75, 100, 133):
        x = rng.standard_normal((n, 3))
        x[: min(n, 80), 1] = 0.25 * np.arange(min(n, 80))
        starts = range(0, n - 50, 25)
        lines = [[len(np.unique(np.round(np.diff(x[k : k + 50, u]), 3))) == 1 for k in starts] for u in range(3)]
        expected = [float(np.mean(v)) if v else 0.0 for v in lines]
        assert straight_windows(torch.from_numpy(x)).tolist() == pytest.approx(expected)
