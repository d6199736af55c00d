"""Folds of trials: what is never parted, gaps, balance and refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluate.toys import trials
from tectum import Recording
from tectum.core.errors import InputError
from tectum.evaluate import check_disjoint, take_trials, trial_folds


def whole(folds: list[Any], n: int) -> None:
    """Every trial is tested once and never trained on in that fold."""
    assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == list(range(n))
    for fold in folds:
        assert not set(fold.train) & set(fold.test)


@given(st.integers(2, 5), st.integers(5, 9), st.integers(0, 20))
@settings(max_examples=20)
def test_subjects_are_never_parted(folds: int, n_subjects: int, seed: int) -> None:
    data = [trials(4, subject=f"s{k % n_subjects}", session=f"{k}") for k in range(2 * n_subjects)]
    subject = np.repeat([rec.subject for rec in data], 4)
    made = trial_folds(data, folds, by="subject", random_state=seed)
    whole(made, len(subject))
    assert len(made) == folds
    for fold in made:
        assert not set(subject[fold.train]) & set(subject[fold.test])
        assert len(fold.train) + len(fold.test) == len(subject)


def test_subjects_of_each_class_are_spread_evenly() -> None:
    data = [trials(2, subject=f"s{k}", label=[int(k < 4)] * 2) for k in range(20)]  # 4 of 20 are ill
    labels = [int(k < 4) for k in range(20) for _ in range(2)]
    for seed in range(5):
        made = trial_folds(data, 4, by="subject", labels=labels, random_state=seed)
        assert [sum(labels[i] for i in fold.test) for fold in made] == [2, 2, 2, 2]


def test_blocks_and_sessions_are_never_parted() -> None:
    block = [1, 1, 2, 2, 3, 3, 4, 4]
    data = [trials(8, subject="s", session=name, block=block) for name in ("am", "pm")]
    for fold in trial_folds(data, 4, by="block"):  # block 1 of the morning is not that of the afternoon
        key = np.asarray([f"{r}{b}" for r in range(2) for b in block])
        assert not set(key[fold.train]) & set(key[fold.test])
        assert len(fold.test) == 4
    made = trial_folds(data, 2, by="session")
    assert [sorted(set(fold.test // 8)) for fold in made] in ([[0], [1]], [[1], [0]])


def windows(hop: float, n: int = 400) -> Recording:
    rec = Recording(
        data=torch.arange(n, dtype=torch.float32)[:, None], dims=("time", "channel"), rate=10.0, subject="s"
    )
    return rec.windows(4.0, hop=hop)


@pytest.mark.parametrize("gap", [0.0, 1.0, 5.0])
def test_stretches_of_time_share_no_sample_and_keep_the_gap(gap: float) -> None:
    rec = windows(1.0)
    made = trial_folds([rec], 4, by="time", gap=gap)
    whole(made, rec.sizes["trial"])
    for fold in made:
        train, test = (rec.values[torch.from_numpy(rows)].flatten().unique() for rows in (fold.train, fold.test))
        assert int((train[:, None] - test).abs().min()) >= 1 + 10 * gap
        assert np.ptp(fold.test) == len(fold.test) - 1  # consecutive
        check_disjoint(take_trials([rec], fold.train)[0], take_trials([rec], fold.test)[0])
        away = (rec.labels("trial", "start")[fold.test].min() - gap, rec.labels("trial", "stop")[fold.test].max() + gap)
        starts, stops = rec.labels("trial", "start"), rec.labels("trial", "stop")
        usable = (stops <= away[0] + 1e-9) | (starts >= away[1] - 1e-9)
        assert fold.train.tolist() == np.flatnonzero(usable).tolist()  # and nothing more is lost


def test_gaps_hold_between_recordings_of_one_session_only() -> None:
    one, other = windows(4.0), windows(4.0)
    late = other.with_(coords={**other.coords, "trial": {k: v + 40.0 for k, v in other.coords["trial"].items()}})
    same = trial_folds([one, late], 2, by="time", gap=6.0)
    assert [len(fold.train) for fold in same] == [8, 8]  # two of ten windows lie within 6 s
    apart = trial_folds([one.with_(session="a"), late.with_(session="b")], 2, by="time", gap=6.0)
    assert [len(fold.train) for fold in apart] == [10, 10]


def test_windows_that_overlap_are_one_trial() -> None:
    rec = Recording(data=torch.zeros(60, 1), dims=("time", "channel"), rate=1.0)
    start = np.asarray([0.0, 2.0, 20.0, 23.0, 40.0])
    from tectum import Intervals

    cut = rec.epochs(Intervals.from_pairs([(s, s + 1) for s in start]), (0.0, 4.0))
    made = trial_folds([cut], 3, by="trial")
    assert sorted(sorted(fold.test.tolist()) for fold in made) == [[0, 1], [2, 3], [4]]


def test_windows_that_all_overlap_cannot_be_split_by_trial() -> None:
    with pytest.raises(InputError, match="2 to 1 folds for 1 groups by trial"):
        trial_folds([windows(1.0)], 2, by="trial")


def test_filters_demand_a_gap() -> None:
    from tectum.preprocess import smooth, standardise

    rec = Recording(data=torch.randn(400, 1), dims=("time", "channel"), rate=10.0, subject="s")
    cut = smooth(rec, sigma=0.25).windows(4.0)
    with pytest.raises(InputError, match=r"trial_folds: expected gap >= 2 s, twice the reach of smooth"):
        trial_folds([cut], 2, by="time")
    trial_folds([cut], 2, by="time", gap=2.0)
    with pytest.raises(InputError, match="standardise of the whole recording.*split first"):
        trial_folds([standardise(rec).windows(4.0)], 2, by="time", gap=2.0)
    several = [standardise(rec).windows(4.0).with_(subject=f"s{k}") for k in range(2)]
    trial_folds(several, 2, by="subject")  # what was learnt of a subject stays with it


def test_other_seed_other_folds_and_same_seed_the_same() -> None:
    data = [trials(4, subject=f"s{k}") for k in range(10)]
    folds = [[fold.test.tolist() for fold in trial_folds(data, 5, by="subject", random_state=s)] for s in (0, 0, 1)]
    assert folds[0] == folds[1] != folds[2]


REFUSED: dict[str, tuple[Any, str]] = {
    "more folds than subjects": (lambda: trial_folds([trials(subject="a"), trials(subject="b")], 3, by="subject"),
                                 "2 to 2 folds for 2 groups by subject, got 3"),
    "one fold": (lambda: trial_folds([trials()], 1, by="trial"), "2 to 12 folds"),
    "no subject": (lambda: trial_folds([trials(), trials()], 2, by="subject"), r"name their subjects.*with_\(subject="),
    "no such column": (lambda: trial_folds([trials()], 2, by="blok"), "'blok'"),
    "one block": (lambda: trial_folds([trials(block=[1] * 12)], 2, by="block"), "two values of 'block'"),
    "by nothing": (lambda: trial_folds([trials()], 2, by=None), "'subject', 'session', 'trial', 'time'"),  # type: ignore[arg-type]
    "gap": (lambda: trial_folds([trials()], 2, by="trial", gap=-1.0), "gap.*>= 0 s, got -1"),
    "long gap": (lambda: trial_folds([windows(4.0)], 2, by="time", gap=50.0), "training trials.*none left"),
    "a class in one block": (lambda: trial_folds([trials(4, block=[1, 1, 2, 2])], 2, by="block", labels=[0, 0, 1, 1]),
                             "a class with no training trial"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_splits_are_refused(name: str) -> None:
    call, says = REFUSED[name]
    with pytest.raises(InputError, match=says):
        call()
