"""Splits that cannot leak, as properties, and what a leak would look like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tectum import Intervals, Recording, preprocess
from tectum.core.errors import InputError
from tectum.evaluate import block_folds, check_disjoint, group_folds

EXAMPLES = settings(max_examples=60)


def recording(n: int = 100, rate: float = 10.0, **fields: Any) -> Recording:
    data = torch.arange(float(n))[:, None]
    return Recording(data=data, dims=("time", "unit"), rate=rate, **fields)


def irregular(times: list[float], **fields: Any) -> Recording:
    data = torch.arange(float(len(times)))[:, None]
    return Recording(data=data, dims=("time", "unit"), times=torch.tensor(times, dtype=torch.float64), **fields)


def samples(rec: Recording, span: Intervals) -> list[int]:
    """Which samples (numbered by their value) a restriction keeps as valid."""
    kept = rec.restrict(span)
    return kept.values[kept.valid()].int().tolist()


# Groups

GROUPS = st.lists(st.sampled_from(["s1", "s2", "s3", "s4", "s5", "s6"]), min_size=2, max_size=40)


@EXAMPLES
@given(GROUPS, st.integers(2, 6), st.integers(0, 5))
def test_group_folds_test_each_sample_once_and_keep_groups_whole(groups: list[str], folds: int, seed: int) -> None:
    if folds > len(set(groups)):
        with pytest.raises(InputError, match=f"2 to {len(set(groups))} folds"):
            list(group_folds(groups, folds, random_state=seed))
        return
    made = list(group_folds(groups, folds, random_state=seed))
    assert len(made) == folds
    assert sorted(i for fold in made for i in fold.test) == list(range(len(groups)))
    sizes = [len({groups[i] for i in fold.test}) for fold in made]
    assert max(sizes) - min(sizes) <= 1
    for fold in made:
        assert {groups[i] for i in fold.train}.isdisjoint(groups[i] for i in fold.test)
        assert sorted([*fold.train, *fold.test]) == list(range(len(groups)))


@EXAMPLES
@given(GROUPS.filter(lambda g: len(set(g)) >= 3), st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_fold_of_a_group_depends_on_the_seed_and_the_set_of_groups_only(
    groups: list[str], seed: int, chance: Any
) -> None:
    def partners(given_groups: list[str]) -> set[frozenset[str]]:
        return {
            frozenset(given_groups[i] for i in fold.test) for fold in group_folds(given_groups, 3, random_state=seed)
        }

    first = partners(groups)
    list(group_folds(groups, 2, random_state=seed + 1))  # another call in between
    shuffled = groups * 2
    chance.shuffle(shuffled)
    assert partners(shuffled) == first
    again = [fold.test.tolist() for fold in group_folds(groups, 3, random_state=seed)]
    assert again == [fold.test.tolist() for fold in group_folds(groups, 3, random_state=seed)]


def test_another_seed_gives_other_folds() -> None:
    names = [f"s{i}" for i in range(12)]
    made = {tuple(map(tuple, (f.test for f in group_folds(names, 3, random_state=seed)))) for seed in range(6)}
    assert len(made) == 6


def test_group_folds_leave_global_generators_alone() -> None:
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index, union-attr]  # noqa: NPY002
    list(group_folds(["a", "b", "c"], 3))
    np.testing.assert_array_equal(before[0], np.random.get_state()[1])  # type: ignore[index, arg-type]  # noqa: NPY002
    assert torch.equal(before[1], torch.get_rng_state())


@pytest.mark.parametrize(
    "groups",
    [
        [("s1", "a"), ("s1", "a"), ("s2", "b")],
        torch.tensor([1, 1, 2]),
        np.array([1, 1, 2]),
        np.array(["x", "x", "y"]),
        [1, "1", 2],
        [float("nan"), float("nan"), 0.0],
        [np.str_("x"), "x", "y"],
    ],
)
def test_groups_may_be_of_any_kind(groups: Any) -> None:
    assert sorted(fold.test.tolist() for fold in group_folds(groups, 2)) == [[0, 1], [2]]


@pytest.mark.parametrize("folds", [0, 1, 4, -2, 2.5, True, "2"])
def test_wrong_numbers_of_group_folds(folds: Any) -> None:
    with pytest.raises(InputError, match=r"group_folds: expected 2 to 3 folds for 3 groups, got"):
        next(group_folds(["a", "b", "c"], folds))


def test_no_samples_no_folds() -> None:
    with pytest.raises(InputError, match="for 0 groups"):
        next(group_folds([], 2))


# Blocks


@EXAMPLES
@given(st.integers(4, 80), st.integers(2, 6), st.floats(0, 1.5), st.floats(-50, 50), st.sampled_from([1.0, 7.3, 30.0]))
def test_block_folds_test_each_sample_once_and_keep_their_distance(
    n: int, folds: int, gap_in_samples: float, t0: float, rate: float
) -> None:
    rec = recording(n, rate, t0=t0)
    gap = gap_in_samples / rate
    if folds > n or n - -(-n // folds) - 2 * 2 < 1:
        return
    tested: list[int] = []
    for fold in block_folds(rec, folds, gap=gap):
        train, test = samples(rec, fold.train), samples(rec, fold.test)
        tested += test
        assert test == list(range(test[0], test[-1] + 1))
        assert abs(len(test) - n / folds) < 1
        time = rec.time
        for i in set(range(n)) - set(test):
            away = float(time[i] - time[test[-1]]) - 1 / rate if i > test[-1] else float(time[test[0]] - time[i])
            if abs(away - gap) > 1e-6:  # a distance of exactly the gap may round either way
                assert (i in train) == (away > gap), (i, away, gap)
        check_disjoint(rec.restrict(fold.train), rec.restrict(fold.test))
    assert sorted(tested) == list(range(n))


@EXAMPLES
@given(st.lists(st.floats(0.01, 5), min_size=6, max_size=30), st.integers(2, 4), st.sampled_from([0.0, 0.5]))
def test_block_folds_of_irregular_recordings(steps: list[float], folds: int, gap: float) -> None:
    rec = irregular(np.cumsum(steps).tolist())
    tested: list[int] = []
    try:
        for fold in block_folds(rec, folds, gap=gap):
            train, test = samples(rec, fold.train), samples(rec, fold.test)
            assert set(train).isdisjoint(test)
            check_disjoint(rec.restrict(fold.train), rec.restrict(fold.test))
            tested += test
    except InputError as error:
        assert "outside the gap" in str(error)  # noqa: PT017
        return
    assert tested == list(range(len(steps)))


def test_block_folds_leave_out_the_gap() -> None:
    rec = recording(100)
    fold = list(block_folds(rec, 5, gap=1.0))[2]
    assert samples(rec, fold.test) == list(range(40, 60))
    assert samples(rec, fold.train) == [*range(30), *range(70, 100)]


@pytest.mark.parametrize(
    ("rec", "folds", "gap", "says"),
    [
        (recording(10), 1, 0.0, "block_folds: expected 2 to 10 folds and gap >= 0 s, got folds=1"),
        (recording(10), 11, 0.0, "2 to 10 folds"),
        (recording(10), 2.0, 0.0, "2 to 10 folds"),
        (recording(10), 2, -1.0, "gap=-1.0"),
        (recording(10), 2, float("nan"), "gap=nan"),
        (recording(10), 2, "1", "gap='1'"),
        (recording(10), 2, 0.6, "expected training time outside the gap, got gap=0.6 s of 1 s"),
        (recording(10).windows(0.5), 2, 0.0, "one continuous time axis.*group_folds"),
        (Recording(data=torch.zeros(4, 2), dims=("trial", "feature")), 2, 0.0, "one continuous time axis"),
    ],
)
def test_block_folds_refuse(rec: Recording, folds: Any, gap: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        list(block_folds(rec, folds, gap=gap))


# Filters reach across the border


@pytest.mark.parametrize(
    ("step", "need"),
    [
        (lambda rec: preprocess.smooth(rec, sigma=0.1), 0.8),
        (lambda rec: preprocess.resample(rec, 20.0), 2.0),
        (lambda rec: preprocess.smooth(preprocess.resample(rec, 5.0), sigma=0.5), 8.0),
    ],
)
def test_a_filtered_recording_needs_a_gap_of_twice_the_reach(
    step: Callable[[Recording], Recording], need: float
) -> None:
    rec = step(recording(400))
    assert len(list(block_folds(rec, 2, gap=need))) == 2
    with pytest.raises(InputError, match=f"gap >= {need:g} s, twice the reach of (smooth|resample)"):
        next(block_folds(rec, 2, gap=0.9 * need))


@pytest.mark.parametrize("sigma", [0.1, 0.3])
def test_with_that_gap_no_raw_sample_reaches_both_sides(sigma: float) -> None:
    raw = recording(400)
    fold = list(block_folds(preprocess.smooth(raw, sigma=sigma), 4, gap=8 * sigma))[1]
    changed = raw.values.clone()
    for i in range(400):  # a change of one raw sample shows in training or in testing, never in both
        changed[i] += 1e3
        difference = (
            preprocess.smooth(raw.with_(data=changed), sigma=sigma).values - preprocess.smooth(raw, sigma=sigma).values
        )
        moved = raw.with_(data=(difference.abs() > 1e-3).float())
        seen = [bool((moved.restrict(span).values[moved.restrict(span).valid()] > 0).any()) for span in fold]
        assert not all(seen), i
        changed[i] -= 1e3


def test_a_standardised_recording_is_not_split() -> None:
    with pytest.raises(InputError, match="standardise of the whole recording; split first"):
        next(block_folds(preprocess.standardise(recording()), 2, gap=1.0))


# Proof that nothing is shared


def test_disjoint_pieces_pass() -> None:
    rec = recording(100, subject="m", t0=0.7)
    check_disjoint(rec.isel(time=slice(0, 50)), rec.isel(time=slice(50, 100)))
    windows = rec.windows(1.0)
    check_disjoint(windows.isel(trial=slice(0, 5)), windows.isel(trial=slice(5, 10)))
    check_disjoint(windows.isel(trial=slice(0, 5)), rec.isel(time=slice(50, 100)))


def test_masked_samples_do_not_count() -> None:
    rec = recording(100)
    check_disjoint(rec.restrict(Intervals.from_pairs([(0, 3), (7, 10)])), rec.restrict(Intervals.from_pairs([(3, 7)])))


def test_other_subjects_and_sessions_share_nothing() -> None:
    check_disjoint(recording(subject="a"), recording(subject="b"))
    check_disjoint(recording(subject="a", session="1"), recording(subject="a", session="2"))


TIMES = [0.0, 1.0, 2.5, 4.0, 7.0]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (recording(50), recording(50)),
        (recording(50), recording(50, t0=4.9)),
        (recording(50).windows(1.0, hop=0.5).isel(trial=slice(0, 3)),
         recording(50).windows(1.0, hop=0.5).isel(trial=slice(3, 6))),
        (recording(50).isel(unit=0), recording(50).isel(unit=0, time=slice(49, 50))),
        (irregular(TIMES), irregular(TIMES).isel(time=slice(4, 5))),
        (irregular(TIMES).isel(time=slice(0, 3)), recording(10, 1.0, t0=2.0)),
        (recording(10, 1.0, t0=2.0), irregular(TIMES)),
    ],
)  # fmt: skip
def test_shared_samples_are_found(train: Recording, test: Recording) -> None:
    with pytest.raises(InputError, match=r"check_disjoint: expected no shared samples, got in both, s: \["):
        check_disjoint(train, test)


def test_irregular_pieces_pass() -> None:
    rec = irregular(TIMES)
    check_disjoint(rec.isel(time=slice(0, 3)), rec.isel(time=slice(3, 5)))
    check_disjoint(rec.isel(time=slice(0, 3)), recording(10, 1.0, t0=2.6))


def test_the_proof_works_on_the_accelerator(accelerator: torch.device) -> None:
    rec = recording(50).to(accelerator)
    halves = [rec.restrict(fold.train) for fold in block_folds(rec, 2)]
    check_disjoint(*halves)
    with pytest.raises(InputError, match="shared"):
        check_disjoint(rec, halves[0])


# What a leak looks like: the wrong way exists only here


def nearest(train: np.ndarray, target: np.ndarray, test: np.ndarray, k: int) -> np.ndarray:
    """Mean target of the k nearest training samples."""
    distance = ((test[:, None] - train[None]) ** 2).sum(-1)
    return target[np.argsort(distance, axis=1)[:, :k]].mean(1)


def shuffled_folds(n: int, folds: int, chance: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    """The wrong way: single samples dealt to folds at random."""
    fold = chance.permutation(n) % folds
    return [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(folds)]


def noise_labels(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Seven half-overlapping windows of 40 trials with offsets of their own and labels of pure chance."""
    chance = np.random.default_rng(seed)
    label = chance.permutation(np.arange(40) % 2)
    trial = chance.normal(size=(40, 1, 8)) + 0.5 * chance.normal(size=(40, 80, 8))  # (trial, time, channel)
    windows = np.stack([trial[:, a : a + 20].mean(1) for a in range(0, 61, 10)], 1)  # (trial, window, channel)
    return windows.reshape(-1, 8), np.repeat(label, 7), np.repeat(np.arange(40), 7)


def test_noise_labels_are_decoded_at_chance_with_our_folds_and_not_with_shuffled_ones() -> None:
    honest, leaky = [], []
    for seed in range(10):
        x, y, trial = noise_labels(seed)
        for found, splits in (
            (honest, group_folds(trial.tolist(), 5, random_state=seed)),
            (leaky, shuffled_folds(len(y), 5, np.random.default_rng(seed))),
        ):
            right = [(nearest(x[a], y[a], x[b], 5).round() == y[b]).mean() for a, b in splits]
            found.append(np.mean(right))
    assert np.mean(leaky) > 0.8
    assert 0.4 < np.mean(honest) < 0.55


def slow(seed: int, n: int = 3000, size: int = 11) -> np.ndarray:
    """Independent autoregressive processes of coefficient 0.995."""
    chance = np.random.default_rng(seed)
    x = np.zeros((n, size))
    for t in range(1, n):
        x[t] = 0.995 * x[t - 1] + chance.normal(size=size)
    return x


def explained(y: np.ndarray, predicted: np.ndarray) -> float:
    return float(1 - ((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def test_slow_processes_are_not_predictable_with_our_folds_and_seem_so_with_shuffled_ones() -> None:
    honest, leaky = [], []
    for seed in range(3):
        z = slow(seed)
        x, y = z[:, :-1], z[:, -1]
        rec = recording(len(y), 1.0)
        blocks = [
            (np.array(samples(rec, f.train)), np.array(samples(rec, f.test))) for f in block_folds(rec, 5, gap=50.0)
        ]
        for found, splits in ((honest, blocks), (leaky, shuffled_folds(len(y), 5, np.random.default_rng(seed)))):
            found.append(np.mean([explained(y[b], nearest(x[a], y[a], x[b], 1)) for a, b in splits]))
    assert np.mean(leaky) > 0.9
    assert np.mean(honest) < 0
