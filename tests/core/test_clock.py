"""Seconds to samples: exact on the edges that a float64 clock can tell apart."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tectum.core import clock
from tectum.core.errors import InputError

STEPS = [Fraction(1, 10), Fraction(1, 100), Fraction(1, 3), Fraction(1, 30)]


@pytest.mark.parametrize("dt", STEPS)
@pytest.mark.parametrize("t0", [0.0, -7.3, 1e6, 1e9])
def test_edges_belong_to_the_bin_they_open(dt, t0):
    k = np.arange(4_000)
    edges = np.array([float(Fraction(t0) + int(i) * dt) for i in k])  # correctly rounded edges
    rate = 1.0 / float(dt)
    np.testing.assert_array_equal(clock.to_sample(torch.from_numpy(edges), rate=rate, t0=t0), k)
    assert [clock.to_sample(float(e), rate=rate, t0=t0) for e in edges[:200]] == k[:200].tolist()


@pytest.mark.parametrize("dt", STEPS)
def test_times_before_an_edge_stay_before_it_as_far_as_float64_tells(dt):
    for t0 in (0.0, 1e9):
        rate = 1.0 / float(dt)
        gap = 2e-6 / rate + 4 * math.ulp(t0)  # the resolution: 1e-6 of a sample and two roundings of the clock
        early = torch.tensor([float(Fraction(t0) + k * dt) - gap for k in range(1, 500)], dtype=torch.float64)
        assert clock.to_sample(early, rate=rate, t0=t0).tolist() == list(range(499))


@settings(deadline=None, derandomize=True, max_examples=200)
@given(st.integers(0, 10**9), st.sampled_from([1.0, 30.0, 250.0, 1000.0, 30_000.0, 1 / 3]))
def test_sample_to_seconds_and_back(sample, rate):
    assert clock.to_sample(clock.to_seconds(sample, rate=rate), rate=rate) == sample


def test_scalar_and_tensor_agree_and_the_input_is_kept():
    times = torch.linspace(-3, 3, 1001, dtype=torch.float64)
    before = times.clone()
    found = clock.to_sample(times, rate=7.0, t0=0.0)
    assert found.tolist() == [clock.to_sample(float(t), rate=7.0) for t in times]
    torch.testing.assert_close(times, before, rtol=0, atol=0)
    assert found.dtype == torch.int64
    seconds = clock.to_seconds(torch.tensor([0, 3]), rate=10.0, t0=1.0)
    torch.testing.assert_close(seconds, torch.tensor([1.0, 1.3], dtype=torch.float64))


def test_count_samples():
    assert clock.count_samples(0.3, rate=10.0) == 3
    assert clock.count_samples(0.29, rate=10.0) == 2
    assert clock.count_samples(-1.0, rate=10.0) == 0


@pytest.mark.parametrize("rate", [30, 30.0, np.float32(30), np.int64(30)])
def test_numbers_of_every_kind_are_rates(rate):
    assert clock.check_rate(rate, "demo") == 30.0
    assert type(clock.check_rate(rate, "demo")) is float


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), True, "30", None])
def test_bad_rates(rate):
    with pytest.raises(InputError, match="demo: expected a finite rate above 0 Hz"):
        clock.check_rate(rate, "demo")


@pytest.mark.parametrize("t0", [0.0, 1e9])
def test_regular_rate_sees_through_rounding(t0):
    times = t0 + torch.arange(1000, dtype=torch.float64) / 30.0
    assert clock.regular_rate(times, tolerance=1e-6) == pytest.approx(30.0, rel=1e-6)
    times[500:] += 0.02
    assert clock.regular_rate(times) is None


@pytest.mark.parametrize("times", [[], [1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0, float("nan")]])
def test_regular_rate_of_what_has_none(times):
    assert clock.regular_rate(torch.tensor(times, dtype=torch.float64)) is None
