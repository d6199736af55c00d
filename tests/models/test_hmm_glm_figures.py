"""HMMGLM: figures and report."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from support.switching import QUICK, simulated, two_rates
from tectum import HMMGLM
from tectum.core.errors import InputError


@pytest.fixture(scope="module")
def sim() -> Any:
    return simulated()


@pytest.fixture(scope="module")
def fitted(sim: Any) -> HMMGLM:
    return HMMGLM(**QUICK).fit(sim.data)


LABELS = {
    "states": ("time (s)", "unit"),
    "probability": ("time (s)", "probability"),
    "trials": ("time from the start of the sequence (s)", "sequence"),
    "occupancy": ("time from the start (s)", "probability of state"),
    "rates": ("time (s)", "unit"),
    "types": ("source unit", "target unit"),
    "networks": ("source unit", "target unit"),
    "network": ("source unit", "target unit"),
    "prior": ("source unit", "target unit"),
    "filters": ("lag (ms)", "effect on the drive"),
    "transition": ("to state", "from"),
    "dwell": ("length of visit (s)", "share of visits at least as long"),
    "dwell_histogram": ("length of visit (s)", "visits"),
    "objective": ("EM round", "log-likelihood + log prior (nat)"),
    "starts": ("refined start", "nats below the best"),
}


@pytest.mark.parametrize("kind", LABELS)
def test_each_kind_of_figure(fitted: HMMGLM, kind: str) -> None:
    ax = fitted.result_.plot(kind)
    assert (ax.get_xlabel(), ax.get_ylabel()) == LABELS[kind]
    assert ax.has_data()
    ax.get_figure(root=True).canvas.draw()
    _, own = plt.subplots()
    assert fitted.result_.plot(kind, ax=own) is own


def test_histogram_counts_every_visit_once(fitted: HMMGLM) -> None:
    result = fitted.result_
    ax = result.plot("dwell_histogram", n_bins=7)
    visits = [[len(list(run)) for row in result.states.tolist() for key, run in groupby(row) if key == s]
              for s in range(2)]  # fmt: skip
    for patch, lengths in zip(ax.patches, visits, strict=True):
        outline = patch.get_xy()  # a step up and down at every edge
        edges, counts = np.unique(outline[:, 0]), outline[1:-1:2, 1]
        wanted, _ = np.histogram(np.array(lengths) * result.dt, edges)
        np.testing.assert_array_equal(counts, wanted)
        assert counts.sum() == len(lengths)


def test_ribbon_shows_the_truth_in_the_colours_of_the_fit(sim: Any, fitted: HMMGLM) -> None:
    result = fitted.result_
    perfect = result.plot("states", truth=1 - result.states, session=2)
    ribbons = [np.asarray(image.get_array()) for image in perfect.images]
    assert len(ribbons) == 2
    np.testing.assert_array_equal(*ribbons)
    one = result.plot("states", truth=sim.truth.states[1], session=1, window=(2.0, 4.0))
    assert one.get_xlim() == pytest.approx((2.0, 4.0))
    assert one.images[0].get_array().shape == (1, 100)
    with pytest.raises(InputError, match=r"plot\('states', truth\).*shape \(3, 10\)"):
        result.plot("states", truth=torch.zeros(3, 10, dtype=torch.long))
    with pytest.raises(InputError, match=r"plot\(window\).*inside \[0, 8\) s"):
        result.plot("states", window=(50.0, 60.0))
    with pytest.raises(InputError, match="session: expected 0 to 3, got 4"):
        result.plot("states", session=4)
    with pytest.raises(InputError, match="state: expected 0 to 1, got 2"):
        result.plot("network", state=2)
    with pytest.raises(InputError, match=r"filters', source\): expected 0 to 5"):
        result.plot("filters", target=0, source=6)


def test_a_model_without_lags_has_no_networks() -> None:
    data, _ = two_rates()
    result = HMMGLM(n_states=2, n_lags=0, prior="none", starts=2, device="cpu").fit(data).result_
    assert not {"networks", "network", "prior", "filters", "number", "types"} & set(result.plots())
    assert [s.title for s in result.sections()] == ["States", "Certainty", "Methods"]


def test_report_says_what_was_done(fitted: HMMGLM) -> None:
    parts = {s.title: s for s in fitted.result_.sections()}
    assert list(parts) == ["States", "Couplings", "Certainty", "Methods"]
    assert "bins of 20 ms" in parts["Methods"].text
    assert "Gumbel-Softmax" in parts["Methods"].text
    assert len(parts["States"].table) == 3
    assert parts["Couplings"].table[0][-2:] == ("inhibitory", "excitatory")
