"""Session: a frozen mapping of parts that are cut as one."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch

import tectum
from tectum.core.errors import InputError
from tectum.core.graph import Graph
from tectum.core.intervals import Intervals
from tectum.core.lazy import LazyArray
from tectum.core.recording import Recording
from tectum.core.session import Session
from tectum.core.spikes import Spikes


def made() -> Session:
    return Session(
        items_={
            "traces": Recording(data=LazyArray(np.arange(20).reshape(10, 2)), dims=("time", "unit"), rate=1.0),
            "image": Recording(data=torch.zeros(4, 4), dims=("y", "x")),
            "spikes": Spikes.from_trains([[0.5, 7.0], [3.0]], support=(0, 10)),
            "trials": Intervals.from_pairs([(1, 2), (4, 6), (7, 9)], word=["a", "b", "c"]),
            "wiring": Graph(weights=torch.eye(2)[None], layers=("gap",)),
        },
        subject="s1",
        session="day 1",
    )


def test_it_is_a_mapping():
    session = made()
    assert list(session) == ["traces", "image", "spikes", "trials", "wiring"]
    assert len(session) == 5
    assert session.only(Spikes) is session["spikes"]
    assert session.get("none") is None
    assert "traces (Recording)" in repr(session)


def test_all_parts_are_restricted_together():
    cut = made().restrict(Intervals.from_pairs([(3, 8)]))
    assert cut["traces"].data[:, 0].tolist() == [6, 8, 10, 12, 14]
    assert cut["traces"].t0 == 3.0
    assert cut["spikes"].times.tolist() == [3.0, 7.0]
    assert cut["trials"].columns["word"].tolist() == ["b"]
    assert cut["image"].shape == (4, 4)
    assert cut["wiring"].n_units == 2


def test_a_range_that_misses_a_part_is_refused_unless_that_is_meant():
    away = Intervals.from_pairs([(90, 91)])
    with pytest.raises(InputError, match="intervals that miss it; pass allow_empty=True"):
        made().restrict(away)
    none = made().restrict(away, allow_empty=True)
    assert (none["traces"].shape[0], len(none["spikes"]), len(none["trials"])) == (0, 0, 0)
    assert none["image"].shape == (4, 4)


def test_it_does_not_follow_the_callers_dictionary():
    parts = dict(made().items())
    session = Session(items_=parts)
    parts["other"] = parts["trials"]
    assert "other" not in session


def test_save_load_pickle_and_copy(tmp_path):
    made().save(tmp_path / "s")
    others = [tectum.load(tmp_path / "s"), pickle.loads(pickle.dumps(made())), copy.deepcopy(made())]  # noqa: S301
    for other in others:
        assert type(other) is Session
        assert (other.subject, other.session) == ("s1", "day 1")
        assert other["traces"].values.tolist() == made()["traces"].values.tolist()
        assert other["trials"].columns["word"].tolist() == ["a", "b", "c"]


def test_bad_input():
    with pytest.raises(InputError, match=r"Session: expected Recording, .* got \{'x': 'Tensor'\}"):
        Session(items_={"x": torch.zeros(2)})
    with pytest.raises(KeyError, match="did you mean 'spikes'"):
        made()["spike"]
    with pytest.raises(InputError, match=r"one Recording, got 2 .* name it"):
        made().only(Recording)
