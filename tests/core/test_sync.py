"""Clocks brought together by their pulses: drift, offset, missing pulses, jitter, and what cannot be told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tectum.core.errors import InputError, TectumWarning
from tectum.core.graph import Graph
from tectum.core.intervals import Intervals
from tectum.core.recording import Recording
from tectum.core.serialize import read, write
from tectum.core.session import Session
from tectum.core.spikes import Spikes
from tectum.core.sync import ClockMap, align_clocks


def two_clocks(
    seed: int = 0,
    *,
    n: int = 1000,
    drift: float = 50e-6,
    offset: float = 12.3,
    missing: float = 0.02,
    jitter: float = 1e-3,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pulses on both clocks, and the true time on the second clock of those of the first."""
    rng = np.random.default_rng(seed)
    true = np.cumsum(rng.uniform(0.5, 1.5, n))
    kept = rng.random((2, n)) >= missing
    other = (1 + drift) * true + offset
    return true[kept[0]], np.sort(other + rng.normal(0, jitter, n))[kept[1]], other[kept[0]]


@pytest.mark.parametrize("seed", range(5))
def test_the_design_of_the_specification(seed: int) -> None:
    a, b, truth = two_clocks(seed)
    found = align_clocks(a, b)
    assert found.rms_ms <= 1.2
    assert found.rms_ms > 0.8  # the jitter, which no map can remove
    assert found.drift_ppm == pytest.approx(50, abs=0.5)
    inside = ~found.extrapolated(a).numpy()
    assert np.abs(found(a).numpy() - truth)[inside].max() < 5e-3
    assert np.sqrt(np.mean((align_clocks(a, b, linear=True)(a).numpy() - truth) ** 2)) < 1e-4
    assert len(found.source) == pytest.approx(0.96 * 1000, abs=15)
    assert found.unmatched == (len(a) - len(found.source), len(b) - len(found.source))


def test_no_partner_is_wrong() -> None:
    rng = np.random.default_rng(3)
    true = np.cumsum(rng.uniform(0.5, 1.5, 600))
    kept = rng.random((2, 600)) >= 0.2
    a, b = true[kept[0]], (1 - 200e-6) * true[kept[1]] - 700.0
    found = align_clocks(a, b)
    expected = true[kept[0] & kept[1]]
    np.testing.assert_array_equal(found.source.numpy(), expected)
    np.testing.assert_allclose(found.target.numpy(), (1 - 200e-6) * expected - 700.0, rtol=0, atol=1e-9)
    assert found.rms_ms < 1e-6


@settings(deadline=None, derandomize=True, max_examples=15)
@given(
    st.integers(0, 99), st.floats(-400e-6, 400e-6), st.floats(-5e3, 5e3), st.floats(0, 0.1), st.sampled_from([0.0, 1e9])
)
def test_any_drift_and_offset_within_the_limits(
    seed: int, drift: float, offset: float, missing: float, epoch: float
) -> None:
    a, b, truth = two_clocks(seed, n=300, drift=drift, offset=offset, missing=missing, jitter=3e-4)
    found = align_clocks(a + epoch, b, linear=True)
    assert np.abs(found(a + epoch).numpy() - truth).max() < 1e-3


def test_a_clock_whose_speed_wanders_is_followed_from_pulse_to_pulse() -> None:
    rng = np.random.default_rng(0)
    a = np.cumsum(rng.uniform(0.5, 1.5, 2000))
    b = a + 5.0 + 0.05 * np.sin(a / 300)
    found = align_clocks(a, b, max_drift=2e-3)
    assert len(found.source) == 2000
    between = (a[1:] + a[:-1]) / 2
    np.testing.assert_allclose(found(between), between + 5.0 + 0.05 * np.sin(between / 300), rtol=0, atol=1e-6)


def test_part_of_the_recording_only() -> None:
    a, b, _ = two_clocks(1)
    found = align_clocks(a, b[300:600])
    assert found.rms_ms < 1.3
    assert found.unmatched[0] > 600


def test_regular_pulses_need_an_offset() -> None:
    a = np.arange(0.0, 200.0)
    b = (1 + 20e-6) * a[10:] + 4.0
    with pytest.raises(InputError, match=r"one offset of the clocks, got .*too regular: pass offset="):
        align_clocks(a, b)
    found = align_clocks(a, b, offset=4.2)
    assert found.unmatched == (10, 0)
    assert found.drift_ppm == pytest.approx(20, abs=1e-3)


def test_times_beyond_the_pulses_are_flagged() -> None:
    a, b, _ = two_clocks(0, jitter=0.0, missing=0.0)
    found = align_clocks(a, b)
    times = torch.tensor([a[0] - 10, a[0], a[5], a[-1], a[-1] + 10], dtype=torch.float64)
    assert found.extrapolated(times).tolist() == [True, False, False, False, True]
    np.testing.assert_allclose(found(times), (1 + 50e-6) * times.numpy() + 12.3, rtol=0, atol=1e-9)
    assert found(3.0).shape == ()


def test_containers_move() -> None:
    a, b, _ = two_clocks(0, jitter=0.0, missing=0.0)
    spikes = Spikes.from_trains([[5.0, 100.0], [50.0]], support=(2.0, 200.0))
    rec = Recording(
        data=torch.zeros(50, 2),
        dims=("time", "unit"),
        rate=10.0,
        t0=4.0,
        intervals={"bad": Intervals.from_pairs([(5, 6)])},
    )
    session = Session(items_={"s": spikes, "r": rec, "g": Graph(weights=torch.eye(2)[None], layers=("x",))})
    found = align_clocks(a, b).move(session)
    line = (1 + 50e-6) * torch.tensor([5.0, 50.0, 100.0], dtype=torch.float64) + 12.3
    torch.testing.assert_close(found["s"].times, line, rtol=0, atol=1e-9)
    assert found["s"].unit.tolist() == [0, 1, 0]
    assert found["s"].span.start[0] == pytest.approx(2.0001 + 12.3)
    assert found["s"].history[-1]["step"] == "align_clocks"
    assert found["r"].rate is None
    np.testing.assert_allclose(found["r"].time, (1 + 50e-6) * rec.time + 12.3, rtol=0, atol=1e-9)
    assert found["r"].intervals["bad"].pairs()[0] == pytest.approx((17.30025, 18.3003))
    steady = align_clocks(a, b, linear=True).move(rec)
    assert steady.rate == pytest.approx(10 / (1 + 50e-6))
    np.testing.assert_allclose(steady.time, found["r"].time, rtol=0, atol=1e-9)
    with pytest.warns(TectumWarning, match="1 of 2 times of Spikes lie beyond the pulses"):
        align_clocks(a, b).move(Spikes.from_trains([[5.0, 1e5]]))


def test_the_map_is_saved(tmp_path: Any) -> None:
    a, b, _ = two_clocks(0)
    found = align_clocks(a, b)
    write(tmp_path / "map", found)
    again = read(tmp_path / "map")
    assert isinstance(again, ClockMap)
    assert torch.equal(again(a), found(a))
    assert again.report() == found.report()


def test_the_same_seed_gives_the_same_map() -> None:
    a, b, _ = two_clocks(0)
    state = torch.get_rng_state()
    assert torch.equal(align_clocks(a, b).source, align_clocks(a, b).source)
    assert torch.equal(torch.get_rng_state(), state)


GOOD = np.cumsum(np.random.default_rng(0).uniform(0.5, 1.5, 50))


@pytest.mark.parametrize(
    ("a", "b", "options", "says"),
    [
        (GOOD[:3], GOOD, {}, r"align_clocks\(a\): expected the times of four or more pulses, got shape \(3,\)"),
        (GOOD, GOOD.reshape(2, -1), {}, r"align_clocks\(b\): expected the times of four or more"),
        (GOOD, GOOD[::-1], {}, r"align_clocks\(b\): expected finite, increasing times in s, got .* at 1"),
        (np.r_[GOOD, np.nan], GOOD, {}, "got nan at 50"),
        (
            GOOD,
            np.cumsum(np.random.default_rng(9).uniform(0.5, 1.5, 50)),
            {"tolerance": 1e-4},
            "pattern of pulses|partners",
        ),
        (GOOD, GOOD, {"tolerance": 0}, r"align_clocks\(tolerance\): expected a number in \(0, inf\), got 0"),
        (GOOD, GOOD, {"max_drift": True}, r"align_clocks\(max_drift\)"),
        (GOOD, GOOD, {"offset": np.inf}, r"align_clocks\(offset\): expected a finite number of s"),
        (GOOD, GOOD + 1000, {"offset": 0.0}, "expected at least 4 partners, got 0 of 50 and 50 pulses"),
    ],
)
def test_bad_input(a: Any, b: Any, options: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        align_clocks(a, b, **options)
