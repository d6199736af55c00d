"""Derivative, gate and gaps: oracles by loops, parity with scipy and numpy, invariances."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d

from support.simulated_accelerator import simulated_accelerator
from tectum.models.dynamic_connectome.derivative import (
    column_quantiles,
    constant_sign,
    dilate,
    fill_gaps,
    gaussian_derivative,
    run_bounds,
    signed_derivative,
    without_global,
)

NAN = float("nan")


def walk(n_time=200, n_units=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_time, n_units, generator=generator, dtype=torch.float64).cumsum(0)


@pytest.mark.parametrize("sigma", [1.0, 2.0, 5.3])
def test_filter_equals_scipy(sigma):
    x = walk()
    expected = gaussian_filter1d(x.numpy(), sigma, axis=0, order=1, mode="nearest")
    np.testing.assert_allclose(gaussian_derivative(x, sigma=sigma).numpy(), expected, atol=1e-12)


def test_filter_does_not_cross_blocks():
    x = walk()
    found = gaussian_derivative(x, sigma=2.0, blocks=[(0, 80), (80, 200)])
    expected = torch.cat([gaussian_derivative(x[:80], sigma=2.0), gaussian_derivative(x[80:], sigma=2.0)])
    assert torch.equal(found, expected)


def test_constant_stretch_gives_exact_zero():
    x = torch.full((100, 1), 0.1, dtype=torch.float64)
    x[50:] += 0.7
    d = gaussian_derivative(x, sigma=2.0)
    assert (d[:40] == 0).all()
    assert (d[60:] == 0).all()
    assert d[50] > 0


def naive_sign(d, tau, min_run):
    """Walk along one column."""
    s = [0 if abs(v) <= tau else (1 if v > 0 else -1) for v in d]
    out, t = list(s), 0
    while t < len(s):
        stop = t
        while stop < len(s) and s[stop] == s[t]:
            stop += 1
        if stop - t < min_run:
            out[t:stop] = [0] * (stop - t)
        t = stop
    return out


@pytest.mark.parametrize("min_run", [1, 2, 4])
def test_constant_sign_equals_loop(min_run):
    d = walk(150, 5, seed=3).diff(dim=0)
    tau = torch.linspace(0, 1, 5, dtype=torch.float64)
    found = constant_sign(d, threshold=tau, min_run=min_run)
    expected = [naive_sign(d[:, i].tolist(), tau[i].item(), min_run) for i in range(5)]
    assert found.T.tolist() == expected


def test_run_bounds_equals_loop():
    code = torch.randint(0, 2, (3, 50), generator=torch.Generator().manual_seed(1))
    first, last = run_bounds(code)
    for row in range(3):
        values = code[row].tolist()
        for t in range(50):
            a = b = t
            while a > 0 and values[a - 1] == values[t]:
                a -= 1
            while b < 49 and values[b + 1] == values[t]:
                b += 1
            assert (first[row, t].item(), last[row, t].item()) == (a, b)


@pytest.mark.parametrize("seed", range(3))
def test_gaps_are_interpolated_like_numpy(seed):
    x = walk(60, 6, seed=seed)
    missing = torch.rand(60, 6, generator=torch.Generator().manual_seed(seed)) < 0.4
    x[missing] = NAN
    found = fill_gaps(x, max_gap=2)
    t = np.arange(60)
    for i in range(6):
        seen = ~missing[:, i].numpy()
        np.testing.assert_allclose(found.x[:, i], np.interp(t, t[seen], x[:, i].numpy()[seen]), atol=1e-12)
        lengths = [len(run) for run in "".join("x" if m else " " for m in missing[:, i]).split() if len(run) > 2]
        assert int(found.missing[:, i].sum()) == sum(lengths)
    assert torch.equal(found.interpolated | found.missing, missing)
    assert not (found.interpolated & found.missing).any()


@pytest.mark.parametrize("radius", [0, 1, 7, 80])
def test_dilate_equals_max_pool(radius):
    mask = torch.rand(60, 3, generator=torch.Generator().manual_seed(0)) > 0.95
    wide = torch.nn.functional.pad(mask.T.float()[None], (radius, radius))
    expected = torch.nn.functional.max_pool1d(wide, 2 * radius + 1, 1)[0].T > 0
    assert torch.equal(dilate(mask, radius=radius), expected)


def test_quantiles_equal_numpy():
    x = walk(101, 5)
    x[torch.rand(101, 5, generator=torch.Generator().manual_seed(0)) < 0.3] = NAN
    x[:, 4] = NAN
    found = column_quantiles(x, levels=[0.0, 0.5, 0.95, 1.0])
    np.testing.assert_allclose(found[:, :4], np.nanquantile(x[:, :4].numpy(), [0, 0.5, 0.95, 1], axis=0))
    assert torch.isnan(found[:, 4]).all()


def test_scale_and_dead_zone_follow_their_definition():
    x = walk(400, 3)
    out = signed_derivative(x, dt=0.25, dead_zone=0.7, quantile=0.9)
    d = gaussian_filter1d(x.numpy(), 2.0, axis=0, order=1, mode="nearest")
    np.testing.assert_allclose(out.scale, np.quantile(abs(d), 0.9, axis=0))
    np.testing.assert_allclose(out.threshold, 0.7 * np.median(abs(d), axis=0) / 0.6745)
    for i in range(3):
        sign = np.array(naive_sign(d[:, i], out.threshold[i].item(), 2))
        u = np.minimum(1, abs(d[:, i]) / out.scale[i].item())
        np.testing.assert_allclose(out.v[:, i], (sign * u).astype(np.float32), atol=1e-6)


def test_sigma_is_at_least_one_sample_and_runs_two():
    x = walk(100, 3)
    out = signed_derivative(x, dt=2.0)
    d = gaussian_filter1d(x.numpy(), 1.0, axis=0, order=1, mode="nearest")
    np.testing.assert_allclose(out.scale, np.quantile(abs(d), 0.95, axis=0))
    assert all(
        naive_sign(out.v[:, i].tolist(), 0.0, 2) == [float(np.sign(v)) for v in out.v[:, i].tolist()] for i in range(3)
    )


@settings(deadline=None, derandomize=True, max_examples=20)
@given(scale=st.floats(1e-3, 1e3), offset=st.floats(-1e3, 1e3), seed=st.integers(0, 50))
def test_invariant_to_scale_and_offset(scale, offset, seed):
    x = walk(120, 3, seed=seed)
    one, other = signed_derivative(x, dt=0.25), signed_derivative(scale * x + offset, dt=0.25)
    torch.testing.assert_close(one.v, other.v, atol=1e-6, rtol=0)


def test_constant_and_absent_units_are_silent():
    x = walk(120, 4).float()
    x[:, 1], x[:, 2] = 0.3, NAN
    out = signed_derivative(x, dt=0.25)
    assert (out.v[:, 1:3] == 0).all()
    assert out.scale[1] == 0
    assert torch.isnan(out.scale[2])
    assert out.present.tolist() == [True, True, False, True]
    assert not out.valid[:, 2].any()
    assert torch.isfinite(out.v).all()


def test_short_gaps_are_marked_and_long_ones_invalid_with_a_margin():
    x = walk(200, 3)
    whole = signed_derivative(x, dt=0.25)
    x[20:24, 0] = NAN  # 1 s
    x[100:105, 1] = NAN  # 1.25 s
    out = signed_derivative(x, dt=0.25)
    assert out.interpolated[:, 0].nonzero().flatten().tolist() == [20, 21, 22, 23]
    assert out.valid[:, 0].all()
    assert (~out.valid[:, 1]).nonzero().flatten().tolist() == list(range(100 - 6, 105 + 6))
    assert (out.v[94:111, 1] == 0).all()
    assert torch.equal(out.v[:, 2], whole.v[:, 2])


def test_scale_is_learnt_on_training_samples_only():
    x = walk(400, 3)
    training = torch.arange(400) < 200
    one = signed_derivative(x, dt=0.25, training=training)
    y = x.clone()
    y[220:] = 100 * y[220:]
    other = signed_derivative(y, dt=0.25, training=training)
    torch.testing.assert_close(one.scale, other.scale)
    torch.testing.assert_close(one.threshold, other.threshold)
    assert (signed_derivative(y, dt=0.25).scale > 2 * one.scale).all()


def test_global_mean_is_regressed_out():
    x = walk(300, 5) + 20 * walk(300, 1, seed=9)
    d = gaussian_derivative(x, sigma=2.0)
    out = without_global(d, valid=torch.ones_like(d, dtype=torch.bool))
    torch.testing.assert_close((out * d.mean(1, keepdim=True)).sum(0), torch.zeros(5, dtype=d.dtype), atol=1e-8, rtol=0)
    before, after = signed_derivative(x, dt=0.25), signed_derivative(x, dt=0.25, remove_global=True)
    assert (before.v.prod(1).abs() > 0).float().mean() > (after.v.prod(1).abs() > 0).float().mean()


def test_runs_on_an_accelerator():
    x = walk(100, 4).float()
    x[30:50, 1] = NAN
    expected = signed_derivative(x, dt=0.25)
    with simulated_accelerator() as device:
        found = signed_derivative(x.to(device), dt=0.25)
        assert found.v.device.type == device.type
        torch.testing.assert_close(found.v.cpu(), expected.v)
        assert torch.equal(found.valid.cpu(), expected.valid)
