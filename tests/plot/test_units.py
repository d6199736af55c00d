"""Figures of spikes and fluorescence: the numbers in them, labels with units, odd data, and given axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from torch import Tensor

from tectum import Intervals, Recording, Spikes, plot
from tectum.core.errors import InputError
from tectum.core.sync import align_clocks


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def traces(data: Tensor, **fields: Any) -> Recording:
    given: dict[str, Any] = {"dims": ("time", "unit"), "rate": 10.0, "units": "F", "modality": "calcium"}
    return Recording(data=data, **{**given, **fields})


SPIKES = Spikes.from_trains(
    [noise(60).abs() * 4, noise(9).abs() * 4, []],
    support=(0.0, 20.0),
    units={"depth": [20.0, 40.0, 60.0], "area": ["CA1", "CA3", "CA1"]},
)
SHAPES = traces(
    torch.nn.functional.one_hot(torch.arange(20) % 4, 4).T.reshape(4, 4, 5).float(),
    dims=("unit", "y", "x"),
    rate=None,
    coords={"unit": {"snr": [1.0, 2.0, 3.0, 4.0], "kind": ["a", "b", "a", "a"]}},
)
POINTS = traces(noise(30, 3), coords={"unit": {"x": [1.0, 2, 3], "y": [3.0, 4, 1], "iscell": [True, False, True]}})
RUN = traces(noise(200, 2).abs(), dims=("time", "feature"), units="cm/s", modality="speed",
             coords={"feature": {"name": ["left", "right"]}})  # fmt: skip
AROUND = SPIKES.epochs(
    Intervals.from_pairs([(1, 2), (5, 6), (9, 10), (19.8, 20)], side=["l", "r", "l", "r"], angle=[0, 90, 0, 90]),
    (-0.5, 0.5),
    0.1,
)


def clock() -> Any:
    rng = np.random.default_rng(0)
    pulses = np.cumsum(rng.uniform(0.5, 1.5, 80))
    return align_clocks(pulses, pulses + 3.0 + rng.normal(0, 1e-3, 80))


F = traces(noise(100, 2) + 5)
REST = traces(torch.full((100, 2), 4.5))
FIGURES: dict[str, tuple[Callable[[Axes | None], Axes], str, str]] = {
    "behaviour": (lambda ax: plot.with_behaviour(SPIKES, RUN, ax=ax), "time (s)", "unit"),
    "one behaviour": (lambda ax: plot.with_behaviour(SPIKES, RUN.isel(feature=0), ax=ax), "time (s)", "unit"),
    "rates": (lambda ax: plot.rates(SPIKES, ax=ax), "rate (spikes/s)", "units"),
    "gaps": (lambda ax: plot.gaps(SPIKES, ax=ax), "interval (ms)", "intervals"),
    "footprints": (lambda ax: plot.rois(SHAPES, "snr", ax=ax), "x (px)", "y (px)"),
    "kinds": (lambda ax: plot.rois(SHAPES, "kind", ax=ax), "x (px)", "y (px)"),
    "points": (lambda ax: plot.rois(POINTS, "iscell", ax=ax), "x (px)", "y (px)"),
    "trace": (lambda ax: plot.fluorescence(F, REST, ax=ax), "time (s)", "fluorescence (F)"),
    "all traces": (
        lambda ax: plot.fluorescence(F, REST, relative=F.with_(units="dF/F"), events=SPIKES, unit=1, ax=ax),
        "time (s)",
        "fluorescence (F)",
    ),
    "psth": (lambda ax: plot.psth(AROUND, by="side", ax=ax), "time from event (s)", "rate (spikes/s)"),
    "tuning": (lambda ax: plot.tuning(AROUND, "angle", ax=ax), "angle", "rate (spikes/s)"),
    "tuning of texts": (lambda ax: plot.tuning(AROUND, "side", unit=2, ax=ax), "side", "rate (spikes/s)"),
    "clocks": (lambda ax: plot.clocks(clock(), ax=ax), "time on the first clock (s)", "residual (ms)"),
    "depths": (lambda ax: plot.depths(SPIKES, by="area", ax=ax), "time (s)", "depth"),
    "plain depths": (lambda ax: plot.depths(SPIKES, ax=ax), "time (s)", "depth"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_labelled_and_takes_given_axes(name: str) -> None:
    draw, x, y = FIGURES[name]
    for ax in (None, mpl.figure.Figure().add_subplot()):
        made = draw(ax)
        assert (made.get_xlabel(), made.get_ylabel()) == (x, y)
        assert ax is None or made is ax
        figure: Any = made.figure
        figure.canvas.draw()
    assert len(plt.get_fignums()) <= 1


def test_a_psth_is_the_mean_rate_over_the_trials_that_were_observed() -> None:
    ax = plot.psth(AROUND, by="side")
    left = AROUND.values[[0, 2], :, 0].double().mean(0) * 10
    np.testing.assert_allclose(ax.lines[0].get_ydata(), left, rtol=1e-6)
    right = ax.lines[1].get_ydata()
    np.testing.assert_allclose(right[-1], float(AROUND.values[1, -1, 0]) * 10)  # the other trial ends at 20 s
    np.testing.assert_allclose(ax.lines[0].get_xdata(), np.arange(-0.45, 0.5, 0.1), atol=1e-6)


def test_tuning_is_the_mean_rate_of_each_value() -> None:
    ax = plot.tuning(AROUND, "angle")
    x, y = ax.lines[0].get_data()
    assert list(np.asarray(x)) == [0.0, 90.0]
    rates = AROUND.values[..., 0].double() * 10
    late = rates[3, :7].mean()  # bins up to 20 s
    np.testing.assert_allclose(np.asarray(y), [rates[[0, 2]].mean(), (rates[1].mean() + late) / 2], rtol=1e-6)


def test_rates_and_intervals_count_every_unit() -> None:
    ax = plot.rates(SPIKES)
    assert sum(bar.get_height() for bar in ax.patches) == 2
    assert ax.get_title(loc="left") == "1 silent"
    short = Spikes.from_trains([[0.0, 0.001, 0.5, 1.0], [0.25]], support=(0.0, 2.0))
    ax = plot.gaps(short)
    assert sum(bar.get_height() for bar in ax.patches) == 3
    assert ax.get_title(loc="left") == "33.33% below 1.5 ms; over 1 % in 1 of 2 units"


def test_nothing_to_show() -> None:
    silent = Spikes.from_trains([[], []], support=(0.0, 1.0), units={"depth": [1.0, 2.0]})
    for ax in (plot.rates(silent), plot.gaps(silent), plot.depths(silent), plot.with_behaviour(silent, RUN)):
        figure: Any = ax.figure
        figure.canvas.draw()
        plt.close(figure)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: plot.with_behaviour(SPIKES, AROUND), r"plot.with_behaviour: expected axes \(time,\) or"),
        (lambda: plot.rois(POINTS, "snr"), "an existing column, got 'snr'"),
        (lambda: plot.psth(F), r"plot.psth: expected counts \(trial, time, unit\).*Spikes.epochs"),
        (lambda: plot.psth(AROUND, by="x"), r"plot.psth\(by\): expected a column among"),
        (lambda: plot.tuning(AROUND, "x"), r"plot.tuning\(column\): expected a column among"),
        (lambda: plot.depths(SPIKES, column="z"), r"plot.depths\(column\): expected a column among"),
    ],
)
def test_bad_input(call: Callable[[], Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        call()
