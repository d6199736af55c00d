"""Containers drawn at random for round trips, and what it means that they are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from tectum import Intervals, Recording, Spikes

quick = settings(deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
few = settings(quick, max_examples=8, phases=[Phase.explicit, Phase.generate])

NAMES = st.text("abc éß7", min_size=1, max_size=4).map(str.strip).filter(bool)
MILLISECONDS = st.integers(0, 100_000)


def columns(n: int) -> st.SearchStrategy[dict[str, np.ndarray]]:
    """Draw columns of numbers, truth and text for ``n`` rows."""
    return st.fixed_dictionaries(
        {"id": st.just(np.arange(n) * 3 + 5)},
        optional={
            "area": st.lists(NAMES, min_size=n, max_size=n).map(lambda x: np.asarray(x, dtype=str)),
            "depth": st.lists(st.floats(-9, 9, width=32), min_size=n, max_size=n).map(lambda x: np.asarray(x, float)),
            "layer": st.lists(st.integers(-9, 9), min_size=n, max_size=n).map(lambda x: np.asarray(x, dtype=np.int64)),
        },
    )


@st.composite
def spikes(draw: Any, gaps: bool = True) -> Spikes:
    """Draw units with and without spikes at whole milliseconds, some on the edge of the support."""
    n_units = draw(st.integers(1, 4))
    first = draw(st.integers(0, 10**6))
    trains = [sorted(draw(st.sets(MILLISECONDS, max_size=8))) for _ in range(n_units)]
    times = [[(first + t) / 1000 for t in train] for train in trains]
    bounds = [(first / 1000, (first + 60_000) / 1000), ((first + 60_001) / 1000, (first + 100_001) / 1000)]
    inside = [[t for t in train if not bounds[0][1] <= t < bounds[1][0]] for train in times]
    pairs = bounds if gaps else [(bounds[0][0], bounds[1][1])]
    return Spikes.from_trains(
        inside, support=Intervals.from_pairs(pairs), units=draw(columns(n_units)), subject="m é", session="s1"
    )


@st.composite
def recordings(draw: Any, dims: tuple[str, ...] | None = None, units: str | None = None) -> Recording:
    """Draw regular and irregular recordings with NaN, of one or two axes."""
    named = dims or draw(st.sampled_from([("time",), ("time", "unit"), ("time", "channel"), ("unit", "time")]))
    sizes = {"time": draw(st.integers(3, 12)), "unit": draw(st.integers(1, 4)), "channel": 2}
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    data = rng.normal(size=[sizes[d] for d in named]).astype(np.float32)
    data[rng.random(data.shape) < 0.1] = np.nan if draw(st.booleans()) else 0.0
    if draw(st.booleans()):
        rate = draw(st.sampled_from([10.0, 30.0, 1250.0]))
        clock: dict[str, Any] = {"rate": rate, "t0": draw(st.integers(0, 1000)) / 8}
    else:
        steps = draw(st.lists(st.integers(1, 5000), min_size=sizes["time"], max_size=sizes["time"]))
        times = np.cumsum([10_000, *steps[1:]]) / 1000
        clock = {"times": torch.from_numpy(times)} if np.ptp(np.diff(times)) > 1e-3 else {"rate": 2.0, "t0": 10.0}
    axis = next((d for d in named if d != "time"), None)
    coords = {axis: draw(columns(sizes[axis]))} if axis else {}
    return Recording(
        data=torch.from_numpy(np.nan_to_num(data, nan=-1.5)),
        dims=named,
        coords=coords,
        units=units or draw(st.sampled_from(["V", "uV", "dF/F", "a.u.", "m"])),
        modality=draw(st.sampled_from(["calcium", "ephys", "behaviour"])),
        subject="m é",
        session="s1",
        **clock,
    )


@st.composite
def intervals(draw: Any, overlap: bool = False) -> Intervals:
    """Draw spans in whole milliseconds; disjoint and not touching unless ``overlap``."""
    if overlap:
        pairs = [tuple(sorted(pair)) for pair in draw(st.lists(st.tuples(MILLISECONDS, MILLISECONDS), max_size=5))]
    else:
        edges = sorted(draw(st.sets(MILLISECONDS, min_size=2, max_size=10)))
        pairs = list(zip(edges[::2], edges[1::2], strict=False))
    table = draw(columns(len(pairs)))
    return Intervals.from_pairs(
        [(a / 1000, b / 1000) for a, b in pairs], **{k: v for k, v in table.items() if k != "id"}
    )


def same_columns(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Check that every column expected is there, equal and of the same kind."""
    for name, column in expected.items():
        np.testing.assert_array_equal(np.asarray(found[name]), column, err_msg=name)
        assert (np.asarray(found[name]).dtype.kind == "U") == (column.dtype.kind == "U")


def same_spikes(found: Spikes, expected: Spikes, *, atol: float = 0.0) -> None:
    """Check trains, units and support."""
    assert found.n_units == expected.n_units
    for a, b in zip(found.trains(), expected.trains(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=0, atol=atol)
    np.testing.assert_allclose(found.span.start, expected.span.start, rtol=0, atol=max(atol, 0.0))
    np.testing.assert_allclose(found.span.stop, expected.span.stop, rtol=0, atol=max(atol, 0.0))
    same_columns(found.units, expected.units)
    assert (found.subject, found.session) == (expected.subject, expected.session)
