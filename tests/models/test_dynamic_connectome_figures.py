"""Every figure and the report of a dynamic connectome: what is drawn, its labels and units."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

import tectum
from tectum import DynamicConnectome, DynamicConnectomeResult, Intervals, Recording
from tectum.core.errors import InputError
from tectum.datasets import simulate

LABELS = {  # kind -> x label, y label, of the stimulus-aligned fit
    "overview": ("time, stimuli in one order (s)", ""),
    "motif": ("time, stimuli in one order (s)", "weight (a.u.)"),
    "time": ("time, stimuli in one order (s)", "weight (a.u.)"),
    "matrix": ("unit, sorted by block", "unit"),
    "animals": ("loading (unit norm)", ""),
    "rank": ("number of motifs", "relative error, similarity"),
    "starts": ("error above that of the best start (%)", "similarity with best start"),
    "surrogates": ("motif", "norm (a.u.)"),
    "dendrogram": ("", "description length lost (nat)"),
    "traces": ("time, stimuli in one order (s)", "z-score (rows 3 apart)"),
    "coassignment": ("unit, sorted by block", "unit"),
    "map": ("x (um)", "y (um)"),
}


@pytest.fixture(scope="module")
def recordings() -> list[Recording]:
    rng = np.random.default_rng(0)
    table = {"x": rng.uniform(0, 300, 27), "y": rng.uniform(0, 40, 27), "position_unit": ["um"] * 27,
             "type": ["sensory", "inter", "motor"] * 9}  # fmt: skip
    data = simulate.stimulus_locked(n_animals=4, n_units=27, n_time=840, absent=0.0, random_state=2).data
    return [dataclasses.replace(rec, coords={"unit": {**rec.coords["unit"], **table}}) for rec in data]


@pytest.fixture(scope="module")
def result(recordings: list[Recording]) -> DynamicConnectomeResult:
    """A fit with all there is to draw."""
    model = DynamicConnectome(rank=None, ranks=(2, 3), restarts=3, max_iter=60, align="stimulus", surrogates=2,
                              leave_one_out=True, floor=0.02, device="cpu")  # fmt: skip
    return model.fit(recordings).result_


@pytest.fixture(scope="module")
def bare(recordings: list[Recording]) -> DynamicConnectomeResult:
    """One animal, no stimuli, no partition, a gap in time."""
    rec = dataclasses.replace(recordings[0], coords={}, intervals={})
    cut = rec.restrict(Intervals.from_pairs([(0.0, 60.0), (100.0, 160.0)]))
    return DynamicConnectome(rank=2, restarts=2, max_iter=20, partition_limit=0, device="cpu").fit(cut).result_


def test_every_kind_is_listed(result: DynamicConnectomeResult, bare: DynamicConnectomeResult) -> None:
    assert list(result.plots()) == list(LABELS)
    assert list(bare.plots()) == ["overview", "motif", "time", "matrix", "starts"]


@pytest.mark.parametrize("kind", LABELS)
def test_each_kind_draws_labelled_axes_of_its_own(result: DynamicConnectomeResult, kind: str) -> None:
    ax = result.plot(kind)
    assert isinstance(ax, Axes)
    assert (ax.get_xlabel(), ax.get_ylabel()) == LABELS[kind]
    assert ax.has_data()
    ax.get_figure(root=True).canvas.draw()  # layout and text work


@pytest.mark.parametrize("kind", LABELS)
def test_each_kind_draws_on_given_axes(result: DynamicConnectomeResult, kind: str) -> None:
    figure, ax = plt.subplots()
    assert result.plot(kind, ax=ax) is ax
    assert ax.get_figure() is figure
    assert (ax.get_xlabel(), ax.get_ylabel()) == LABELS[kind]


@pytest.mark.parametrize("kind", ["motif", "time", "matrix", "animals", "dendrogram", "traces", "coassignment", "map"])
def test_each_motif_can_be_drawn(result: DynamicConnectomeResult, kind: str) -> None:
    shown = [r for r in range(result.n_components) if result.n_blocks(r)]
    assert shown
    for r in shown:
        assert str(r) in (result.plot(kind, component=r).get_title(loc="left") or str(r))


def test_the_time_course_is_the_motif_in_the_middle_of_its_bins(result: DynamicConnectomeResult) -> None:
    line = result.plot("time", component=1).get_lines()[-1]
    x, y = (np.asarray(v, float) for v in line.get_data())
    kept = np.isfinite(x)
    np.testing.assert_allclose(x[kept], result.time + 0.5)
    np.testing.assert_allclose(y[kept], result.time_factor[:, 1] * result.weight[1], rtol=1e-5)
    assert (~kept).sum() == len(result.blocks) - 1  # broken where stimuli meet


def test_lines_break_where_nothing_was_recorded(bare: DynamicConnectomeResult) -> None:
    x = np.asarray(bare.plot("time").get_lines()[-1].get_xdata(), float)
    assert np.isnan(x).sum() == 1
    assert np.nanmax(np.diff(x[np.isfinite(x)])) > 40


def test_stimuli_are_named_above_the_panel(result: DynamicConnectomeResult) -> None:
    legend = result.plot("overview").get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["s1", "s2", "s3"]


def test_the_matrix_is_sorted_by_block(result: DynamicConnectomeResult) -> None:
    r = next(r for r in range(result.n_components) if result.n_blocks(r) > 1)
    ax = result.plot("matrix", component=r)
    expected = [unit for group in result.groups(r) for unit in group]
    assert [text.get_text() for text in ax.get_yticklabels()] == expected
    order = [result.units.index(unit) for unit in expected]
    np.testing.assert_allclose(ax.get_images()[0].get_array(), result.affinity_matrix(r)[order][:, order])
    assert len(ax.patches) == result.n_blocks(r)


def test_the_dendrogram_names_units_and_types(result: DynamicConnectomeResult) -> None:
    r = next(r for r in range(result.n_components) if result.n_blocks(r) > 1)
    ax = result.plot("dendrogram", component=r)
    assert sorted(text.get_text() for text in ax.get_xticklabels()) == result.units
    legend = ax.get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} == {"sensory", "inter", "motor"}
    top = max(float(np.max(np.asarray(line.get_ydata(), float), initial=0.0)) for line in ax.get_lines())
    assert top == pytest.approx(float(result.merge_height[r].nan_to_num().clamp(min=0).sum()), rel=1e-5)


def test_blocks_have_one_colour_in_matrix_and_dendrogram(result: DynamicConnectomeResult) -> None:
    r = next(r for r in range(result.n_components) if result.n_blocks(r) > 1)
    table = {name: column for name, column in result.coords["unit"].items() if name != "type"}
    untyped = dataclasses.replace(result, coords={**result.coords, "unit": table})
    frames = [to_hex(patch.get_edgecolor()) for patch in untyped.plot("matrix", component=r).patches]
    ticks = untyped.plot("dendrogram", component=r).get_xticklabels()
    colour = {tick.get_text(): to_hex(tick.get_color()) for tick in ticks}
    assert [{colour[u] for u in group} for group in result.groups(r)] == [{frame} for frame in frames]


def test_the_rank_report_marks_the_choice(result: DynamicConnectomeResult) -> None:
    ax = result.plot("rank")
    dashed = [line for line in ax.get_lines() if line.get_linestyle() == "--"]
    assert [float(np.asarray(line.get_xdata())[0]) for line in dashed] == [result.n_components]


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("rank", {}, "expected a kind among"),
        ("dendrogram", {}, "expected a kind among"),
        ("portrait", {}, "expected a kind among"),
        ("motif", {"component": 7}, "expected 0 to 1, got 7"),
        ("time", {"component": -1}, "expected 0 to 1, got -1"),
    ],
)
def test_what_cannot_be_drawn_is_said(
    bare: DynamicConnectomeResult, kind: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        bare.plot(kind, **options)


def test_a_motif_without_partition_is_said(result: DynamicConnectomeResult) -> None:
    partition = result.partition.clone()
    partition[0] = -1
    half = dataclasses.replace(result, partition=partition)
    for kind in ("dendrogram", "coassignment", "traces"):
        assert half.plot(kind, component=1) is not None
        with pytest.raises(InputError, match="motif 0"):
            half.plot(kind, component=0)


def test_figures_leave_the_callers_style_alone(result: DynamicConnectomeResult) -> None:
    before = dict(plt.rcParams)
    result.plot("motif")
    assert dict(plt.rcParams) == before


@pytest.mark.parametrize("which", ["result", "bare"])
def test_the_report_holds_every_motif_and_the_methods(
    which: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    found = request.getfixturevalue(which)
    titles = [section.title for section in found.sections()]
    motifs = [f"Motif {r}" for r in range(found.n_components)]
    assert titles == ["Motifs in time", "Stability and null", *motifs, "Methods"]
    page = tectum.Report("A look").add(found).save(tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Dyballa" in page
    assert f"{found.sizes['unit']} units" in page
    n_figures = sum(len(section.figures) for section in found.sections())
    assert page.count("<figcaption") == n_figures >= 2 + found.n_components


def test_the_report_of_ready_affinities_says_so() -> None:
    first, second = torch.triu_indices(5, 5, 1).tolist()
    rec = Recording(
        data=torch.rand(60, 2, 10, generator=torch.Generator().manual_seed(0)), dims=("time", "subject", "pair"),
        rate=1.0, coords={"pair": {"first": [f"a{i}" for i in first], "second": [f"a{i}" for i in second]}},
    )  # fmt: skip
    found = DynamicConnectome(rank=2, restarts=2, partition_limit=0, device="cpu").fit(rec).result_
    assert "traces" not in found.plots()
    methods = found.sections()[-1].text
    assert methods.startswith("The affinities of pairs were given.")
