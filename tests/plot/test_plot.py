"""Figures: Axes with labels and units, from any device and any odd data, and nothing left behind in matplotlib."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from torch import Tensor

from tectum import Graph, Intervals, Recording, Session, Spikes, plot
from tectum.core.errors import InputError
from tectum.core.lazy import LazyArray
from tectum.plot import heat
from tectum.plot.style import array

EVENTS = Intervals.from_pairs([(1, 2), (3, 4), (5, 5.5)], name=["odour", "light", "odour"])


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def recording(data: Tensor, **fields: Any) -> Recording:
    given: dict[str, Any] = {"dims": ("time", "unit"), "rate": 10.0, "units": "dF/F", "modality": "calcium"}
    return Recording(data=data, **{**given, **fields})


def drawn(ax: Axes) -> np.ndarray:
    """Pixels of the figure; matplotlib's warnings are errors here."""
    figure: Any = ax.figure
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


def spikes(n_units: int = 3) -> Spikes:
    return Spikes.from_trains([noise(50).abs() * 4 for _ in range(n_units)], support=(0.0, 20.0))


GRAPH = Graph(weights=noise(2, 6, 6).abs(), layers=("chemical", "gap"), units={"name": list("abcdef")})

#: What -> (drawing of tensors moved by a function, label of x, label of y).
FIGURES: dict[str, tuple[Callable[..., Axes], str, str]] = {
    "curve": (lambda to, ax: plot.curve(to(torch.arange(60.0) / 10), to(noise(60).abs()), events=EVENTS,
                                        y="weight (a.u.)", ax=ax), "time (s)", "weight (a.u.)"),
    "lines": (lambda to, ax: plot.lines(to(torch.arange(1, 6)), {"error": to(noise(5)), "b": to(noise(5))},
                                        spread={"b": to(noise(5).abs())}, xlabel="rank", ylabel="error", mark=3,
                                        ax=ax), "rank", "error"),
    "ranks": (lambda to, ax: plot.ranks(to(noise(4)), list("abcd"), null=to(noise(20, 4)), ylabel="weight (a.u.)",
                                        ax=ax), "", "weight (a.u.)"),
    "image": (lambda to, ax: plot.image(to(noise(5, 40)), extent=(0, 4), bar="dF/F", ax=ax), "time (s)", "unit"),
    "matrix": (lambda to, ax: plot.matrix(to(noise(6, 6)), groups=to(torch.tensor([0, 1, 0, -1, 1, 2])),
                                          names=list("abcdef"), bar="affinity", ax=ax), "unit (sorted)", "unit"),
    "traces": (lambda to, ax: plot.traces(recording(to(noise(60, 3)), intervals={"stimuli": EVENTS}), ax=ax),
               "time (s)", r"unit \(step [\d.]+ dF/F\)"),
    "one trace": (lambda to, ax: plot.traces(recording(to(noise(60)), dims=("time",)), ax=ax), "time (s)",
                  r"calcium \(dF/F\)"),
    "raster": (lambda to, ax: plot.raster(spikes(), ax=ax), "time (s)", "unit"),
    "few": (lambda to, ax: plot.quicklook(recording(to(noise(60, 3))), ax=ax), "time (s)", r"unit \(step.*"),
    "many": (lambda to, ax: plot.quicklook(recording(to(noise(60, 30))), ax=ax), "time (s)", "unit, sorted by peak"),
    "counts": (lambda to, ax: plot.quicklook(recording(to(torch.ones(60, 30, dtype=torch.int32)), units="spikes/bin"),
                                             ax=ax), "time (s)", "unit, sorted by peak"),
    "voxels": (lambda to, ax: plot.quicklook(recording(to(noise(60, 3000)), dims=("time", "voxel")), ax=ax),
               "time (s)", r"voxel \(1 in 3\)"),
    "trials": (lambda to, ax: plot.quicklook(recording(to(noise(4, 60, 3)), dims=("trial", "time", "unit")), ax=ax),
               "time (s)", r"unit \(step.*"),
    "no time": (lambda to, ax: plot.quicklook(recording(to(noise(6, 4)), dims=("trial", "feature"), rate=None), ax=ax),
                "feature", "trial"),
    "picture": (lambda to, ax: plot.quicklook(recording(to(noise(6, 4, 3)), dims=("y", "x", "state"), rate=None),
                                              ax=ax), "x x state", "y"),
    "graph": (lambda to, ax: plot.quicklook(Graph(weights=to(GRAPH.weights), layers=GRAPH.layers), ax=ax), "unit",
              "unit"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """The caller's settings stay, whatever was drawn."""
    before = dict(mpl.rcParams)
    yield
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_one_labelled_axes_in_our_look(name: str) -> None:
    draw, x, y = FIGURES[name]
    ax = draw(lambda t: t, None)
    assert isinstance(ax, Axes)
    assert ax.get_xlabel() == x
    assert ax.get_ylabel() == y or re.fullmatch(y, ax.get_ylabel())
    assert plt.get_fignums() == [ax.figure.number]  # type: ignore[union-attr]
    assert not ax.spines["top"].get_visible()
    assert ax.xaxis.label.get_size() == 9
    assert len(np.unique(drawn(ax))) > 2


@pytest.mark.parametrize("name", FIGURES)
def test_given_axes_are_used_and_no_other_figure_is_made(name: str) -> None:
    figure = mpl.figure.Figure()
    ax = figure.add_subplot()
    assert FIGURES[name][0](lambda t: t, ax) is ax
    assert plt.get_fignums() == []
    assert ax.has_data()


@pytest.mark.parametrize("name", FIGURES)
def test_tensors_of_the_accelerator_give_the_same_picture(name: str, accelerator: torch.device) -> None:
    draw = FIGURES[name][0]
    np.testing.assert_array_equal(drawn(draw(lambda t: t.to(accelerator), None)), drawn(draw(lambda t: t, None)))


# Odd data: nothing warns, and the picture exists

ODD: dict[str, Tensor] = {
    "constant": torch.full((50, 30), 3.0),
    "zero": torch.zeros(50, 30),
    "all NaN": torch.full((50, 30), torch.nan),
    "one row of NaN": noise(50, 30).index_fill(1, torch.tensor([2]), torch.nan),
    "infinite": noise(50, 30).index_fill(0, torch.tensor([2]), torch.inf),
    "one sample": noise(1, 30),
    "bool": noise(50, 30) > 0,
    "bfloat16": noise(50, 30).bfloat16(),
    "tiny": noise(50, 30) * 1e-30,
}


@pytest.mark.parametrize("n_rows", [1, 3, 30])
@pytest.mark.parametrize("name", ODD)
def test_odd_recordings_are_drawn_without_a_warning(name: str, n_rows: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn(plot.quicklook(recording(ODD[name][:, :n_rows])))


@pytest.mark.parametrize("name", ODD)
def test_odd_matrices_are_drawn_without_a_warning(name: str) -> None:
    square = ODD[name][:30, :30] if len(ODD[name]) > 1 else ODD[name][:, :1]
    drawn(plot.matrix(square, groups=torch.full((len(square),), -1)))
    drawn(plot.curve(torch.arange(len(ODD[name])), ODD[name][:, 0].float()))


@pytest.mark.parametrize("n_units", [1, 5, 400])
def test_rasters_of_few_and_many_units(n_units: int) -> None:
    ax = plot.raster(spikes(n_units))
    drawn(ax)
    assert ax.get_ylim() == pytest.approx((-0.7, n_units - 0.3))
    assert ax.get_xlim() == (0.0, 20.0)


@pytest.mark.parametrize("support", [None, (0.0, 5.0)])
def test_silent_units(support: Any) -> None:
    ax = plot.quicklook(Spikes.from_trains([[], []], support=support))
    drawn(ax)
    assert ax.get_xlim() == (0.0, 5.0) or support is None


def test_very_many_spikes_are_thinned_and_that_is_said() -> None:
    times = torch.arange(450_000, dtype=torch.float64) / 1e4
    ax = plot.raster(Spikes.from_events(times, torch.zeros(450_000, dtype=torch.int32), n_units=1))
    assert ax.get_title(loc="left") == "1 in 3 spikes"
    assert len(ax.lines[0].get_xdata()) == 150_000  # type: ignore[arg-type]


def test_events_share_a_colour_by_name_and_leave_the_ordinate_alone() -> None:
    ax = plot.curve(torch.arange(60.0) / 10, torch.full((60,), 50.0), fill=False)
    before = ax.get_ylim()
    plot.bands(EVENTS, ax=ax)
    assert ax.get_ylim() == before
    assert [c.get_label() for c in ax.collections] == ["odour", "light"]
    assert len(ax.collections[0].get_paths()) == 2
    plot.bands(Intervals.from_pairs([(0, 1)]), ax=ax)
    plot.bands(Intervals.from_pairs([]), ax=ax)
    drawn(ax)


def test_more_lines_than_colours() -> None:
    drawn(plot.lines(torch.arange(3), {str(k): noise(3) for k in range(11)}, xlabel="x", ylabel="y"))


# What is shown is what is there


def test_samples_lie_where_the_clock_says() -> None:
    ax = plot.quicklook(recording(noise(60, 30), t0=5.0))
    assert ax.images[0].get_extent()[:2] == [5.0, 11.0]


def test_irregular_samples_are_drawn_at_their_times() -> None:
    times = torch.tensor([0.0, 1.0, 2.0, 10.0], dtype=torch.float64)
    x = torch.arange(4.0)[:, None].repeat(1, 30)
    ax = plot.quicklook(recording(x, rate=None, times=times, dims=("time", "voxel")))
    row = np.asarray(ax.images[0].get_array())[0]
    assert ax.images[0].get_extent()[:2] == [0.0, 10.0]
    assert (row == 2).mean() == pytest.approx(0.7, abs=0.15)


def test_masked_samples_are_not_drawn() -> None:
    mask = torch.ones(60, 1, dtype=torch.bool)
    mask[:30] = False
    few = plot.quicklook(recording(noise(60, 2), mask=mask))
    assert all(np.isnan(line.get_ydata()[:30]).all() for line in few.lines)  # type: ignore[index]
    many = plot.quicklook(recording(noise(60, 30), mask=mask))
    assert np.isnan(np.asarray(many.images[0].get_array(), dtype=float)[:, :30]).all()


def test_traces_keep_their_names_and_shape() -> None:
    x = noise(60, 3) + torch.tensor([0.0, 100.0, -50.0])
    ax = plot.traces(recording(x, coords={"unit": {"name": ["a", "b", "c"]}}))
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c"]
    middle = [float(np.median(line.get_ydata())) for line in ax.lines]  # type: ignore[arg-type]
    np.testing.assert_allclose(middle, ax.get_yticks(), atol=0.1)
    shape = np.asarray(ax.lines[1].get_ydata()) - middle[1]
    np.testing.assert_allclose(shape, x[:, 1] - x[:, 1].median(), atol=0.2)


def test_traces_of_several_quantities_have_a_scale_each() -> None:
    x = noise(60, 3) * torch.tensor([1.0, 1000.0, 0.01])
    x[:, 2] = torch.nan  # a row without a sample
    ax = plot.traces(recording(x, units="a.u."))
    assert "each on its own scale" in ax.get_ylabel()
    heights = [float(np.std(line.get_ydata())) for line in ax.lines[:2]]  # type: ignore[arg-type]
    np.testing.assert_allclose(heights, 1.0, rtol=0.05)
    assert "step" in plot.traces(recording(x, units="V")).get_ylabel()


def test_the_colour_scale_says_when_it_cuts() -> None:
    low, high, cmap = heat._scale(np.array([-1.0, 3.0, np.nan]), None)
    assert (low, cmap) == (-high, plot.SIGNED)
    assert heat._scale(np.array([0.0, 2.0]), None) == (0.0, 2.0, plot.SEQUENTIAL)
    assert heat._scale(np.array([-0.01, 1.0, 1.0]), None) == (0.0, 1.0, plot.SEQUENTIAL)
    x = np.ones((10, 100))
    x[0, 0] = 1e3
    ax = plot.image(x, limit=2.0)
    bar = next(a for a in ax.figure.axes if a is not ax)  # type: ignore[union-attr]
    assert bar._colorbar.extend == "max"  # type: ignore[attr-defined]


def test_groups_are_sorted_and_framed() -> None:
    groups = torch.tensor([1, 0, -1, 1])
    ax = plot.matrix(torch.arange(16.0).reshape(4, 4), groups=groups, names=list("abcd"))
    assert [t.get_text() for t in ax.get_yticklabels()] == ["b", "a", "d", "c"]
    assert np.asarray(ax.images[0].get_array())[0].tolist() == [5, 4, 7, 6]
    frames = [(p.get_x(), p.get_width()) for p in ax.patches]  # type: ignore[attr-defined]
    assert frames == [(-0.5, 1), (0.5, 2)]


@pytest.mark.parametrize(("level", "unit"), [(0.0, "dF/F"), (100.0, "z by row")])
def test_rows_of_different_levels_are_standardised(level: float, unit: str) -> None:
    ax = plot.quicklook(recording(noise(60, 30) + level * torch.arange(30)))
    bar = next(a for a in ax.figure.axes if a is not ax)  # type: ignore[union-attr]
    assert bar.get_ylabel() == unit
    assert np.abs(np.asarray(ax.images[0].get_array())).max() < 6


def test_a_picture_has_square_pixels_and_its_first_row_on_top() -> None:
    ax = plot.quicklook(recording(noise(4, 6), dims=("x", "y"), rate=None))
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_aspect()) == ("x", "y", 1.0)
    assert np.asarray(ax.images[0].get_array()).shape == (6, 4)
    assert ax.get_ylim()[0] > ax.get_ylim()[1]


class Watched:
    """A source that tells how much was read."""

    dtype = np.dtype("float32")

    def __init__(self, *shape: int) -> None:
        self.shape, self.read = shape, 0

    def __getitem__(self, index: Any) -> np.ndarray:
        made = np.zeros([len(range(*s.indices(n))) for s, n in zip(index, self.shape, strict=True)], dtype="float32")
        self.read += made.size
        return made


@pytest.mark.parametrize("n_rows", [3, 40])
def test_of_a_lazy_recording_only_the_first_part_is_read(n_rows: int) -> None:
    source = Watched(10_000_000, n_rows)
    ax = plot.quicklook(recording(LazyArray(source), rate=1000.0))  # type: ignore[arg-type]
    assert source.read <= 20_000 * n_rows
    assert ax.get_title(loc="left") == "first 20 s of 1e+04 s"


@pytest.mark.parametrize("item", [Session(items_={}), EVENTS, torch.zeros(3)])
def test_what_has_no_first_look(item: Any) -> None:
    with pytest.raises(InputError, match="plot.quicklook: expected a Recording, Spikes or Graph, got"):
        plot.quicklook(item)


def test_traces_need_time() -> None:
    with pytest.raises(InputError, match=r"plot.traces: .*\(time, x\).*isel"):
        plot.traces(recording(noise(2, 5, 3), dims=("trial", "time", "unit")))


def test_arrays_of_any_kind() -> None:
    assert array([1, 2]).tolist() == [1, 2]
    assert array(torch.ones(2, requires_grad=True)).tolist() == [1, 1]
    assert array(torch.tensor([1 + 2j]).conj()).tolist() == [1 - 2j]
    assert array(torch.ones(2).bfloat16()).dtype == np.float32
