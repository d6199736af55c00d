"""Leaks that are put in are found, and nothing else is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tectum
from evaluate.toys import Nearest, trials
from tectum import Recording, evaluate
from tectum.core.errors import InputError
from tectum.evaluate.leaks import WORLDS, of_decoder
from tectum.evaluate.splits import Fold

FOLD = Fold(np.arange(8), np.arange(8, 12))


def honest(data: list[Recording], labels: list[Any], train: np.ndarray, test: np.ndarray) -> Tensor:
    """Normalise by the training trials."""
    x = data[0].values
    x = (x - x[train].mean((0, 2), keepdim=True)) / x[train].std((0, 2), keepdim=True)
    return of_decoder(Nearest(softness=0.1))([data[0].with_(data=x)], labels, train, test)


def centroid(x: Tensor, labels: list[Any], train: np.ndarray, test: np.ndarray) -> Tensor:
    """Compare with the mean trial of each class: smooth in the data, so that small leaks show."""
    y = np.asarray(labels)
    means = torch.stack([x[train][torch.from_numpy(y[train] == c)].mean(0) for c in ("rest", "task")])
    return (-(x[test][:, None] - means).square().mean((2, 3))).softmax(1)


def normalised_before(data: list[Recording], labels: list[Any], train: np.ndarray, test: np.ndarray) -> Tensor:
    """Normalise by all trials, as many scripts do."""
    x = data[0].values
    return centroid((x - x.mean((0, 2), keepdim=True)) / x.std((0, 2), keepdim=True), labels, train, test)


def normalised_after(data: list[Recording], labels: list[Any], train: np.ndarray, test: np.ndarray) -> Tensor:
    x = data[0].values
    m, s = x[train].mean((0, 2), keepdim=True), x[train].std((0, 2), keepdim=True)
    return centroid((x - m) / s, labels, train, test)


def channel_chosen_before(data: list[Recording], labels: list[Any], train: np.ndarray, test: np.ndarray) -> Tensor:
    """Choose the channel that tells all labels best."""
    x, y = data[0].values, np.asarray(labels) == "task"
    best = int((x[y].mean((0, 2)) - x[~y].mean((0, 2))).abs().argmax())
    return centroid(x[:, best : best + 1], labels, train, test)


def standardised_alone(data: list[Recording], labels: list[Any], train: np.ndarray, test: np.ndarray) -> Tensor:
    """Normalise the test trials by themselves: they are then not decided one by one."""
    x = data[0].values.clone()
    for rows in (train, test):
        x[rows] = (x[rows] - x[rows].mean((0, 2), keepdim=True)) / x[rows].std((0, 2), keepdim=True)
    return centroid(x, labels, train, test)


def drawn(data: list[Recording], labels: list[Any], train: np.ndarray, test: np.ndarray) -> Tensor:
    return torch.rand(len(test), 2)


@pytest.mark.parametrize(
    ("procedure", "wanted"),
    [(honest, ()), (normalised_after, ()), (normalised_before, ("data",)), (standardised_alone, ("data",)),
     (channel_chosen_before, ("labels",))],
)  # fmt: skip
def test_leaks_are_found_by_name(procedure: Any, wanted: tuple[str, ...]) -> None:
    rec = trials(12, effect=0.0, seed=3)
    assert evaluate.find_leaks(procedure, rec, fold=FOLD) == wanted
    if wanted:
        with pytest.raises(InputError, match="check_no_leaks.*(learnt from test data|labels of test trials)"):
            evaluate.check_no_leaks(procedure, rec, fold=FOLD)
    else:
        evaluate.check_no_leaks(procedure, rec, fold=FOLD)


@pytest.mark.parametrize("normalise", ["channel", "global", "robust"])
def test_normaliser_of_our_decoders_is_learnt_in_the_fold(normalise: str) -> None:
    rec = trials(24)
    model = tectum.LightCNN(epochs=2, kernel=3, normalise=normalise, batch_size=4, device="cpu")
    fold = Fold(np.arange(16), np.arange(16, 24))
    assert evaluate.find_leaks(model, rec, fold=fold) == ()
    whole, part = model.fit(rec).result_.weights, model.fit(rec.isel(trial=slice(0, 16))).result_.weights
    assert not torch.equal(whole["standard.centre"], part["standard.centre"])  # so the harness used the latter


def test_normaliser_does_not_see_the_trials_set_aside() -> None:
    rec = trials(20)
    one = tectum.LightCNN(epochs=1, kernel=3, validation=0.25, device="cpu").fit(rec)
    x = rec.values.clone()
    from tectum.nn.trials import hold_out, trial_groups

    codes = np.asarray([0, 1] * 10)
    held = hold_out(trial_groups([rec], None), codes, share=0.25, seed=0, where="test")
    x[held.validation] = 50 * x[held.validation]
    other = tectum.LightCNN(epochs=1, kernel=3, validation=0.25, device="cpu").fit(rec.with_(data=x))
    for name in ("standard.centre", "standard.scale"):
        assert torch.equal(one.result_.weights[name], other.result_.weights[name])
    assert not torch.equal(one.result_.val_loss, other.result_.val_loss)


def test_shared_samples_are_found() -> None:
    rec = evaluate_windows(hop=1.0)
    fold = Fold(np.arange(0, 10), np.arange(10, 20))
    assert evaluate.find_leaks(Nearest(), rec, fold=fold) == ("samples",)
    (first, *_) = evaluate.trial_folds([rec], 2, by="time")
    assert evaluate.find_leaks(Nearest(), rec, fold=first) == ()
    assert evaluate.find_leaks(Nearest(), trials(12), fold=Fold(np.arange(9), np.arange(8, 12))) == (
        "samples",
        "labels",
    )


def evaluate_windows(hop: float) -> Recording:
    from tectum.datasets.simulate.eeg import null_blocks

    rec = null_blocks(4, block=8.0, length=2.0, hop=hop)
    return rec.isel(trial=slice(0, 20))


def test_what_cannot_be_tested_is_refused() -> None:
    with pytest.raises(InputError, match="reproducible procedure"):
        evaluate.find_leaks(drawn, trials(12), fold=FOLD)
    with pytest.raises(InputError, match="two test trials"):
        evaluate.find_leaks(honest, trials(12), fold=Fold(np.arange(8), np.arange(8, 9)))
    with pytest.raises(InputError, match="worlds among"):
        evaluate.audit(lambda data: 0.5, ["overlaps"])
    with pytest.raises(InputError, match="2 repeats"):
        evaluate.audit(lambda data: 0.5, repeats=1)


# Evaluations of data without effect


def drifts(data: list[Recording]) -> bool:
    """Tell noise with a memory, in which the level tells the time, from the rest, in which the spectrum does."""
    return len(data) == 1 and data[0].sizes["trial"] < 200


def split_of_windows(data: list[Recording]) -> float:
    """What must not be done: windows shuffled, then split."""
    n = sum(rec.sizes["trial"] for rec in data)
    order = np.random.default_rng(0).permutation(n)
    labels = np.concatenate([rec.labels("trial", "label") for rec in data])
    train, test = np.sort(order[n // 4 :]), np.sort(order[: n // 4])
    model = Nearest(spectra=not drifts(data)).fit(evaluate.take_trials(data, train), labels[train])
    found = model.predict_proba(evaluate.take_trials(data, test)).argmax(1)
    return evaluate.balanced_accuracy(labels[test], found.numpy())


def split_of_groups(data: list[Recording]) -> float:
    by = "subject" if len(data) > 1 else "block"
    found = evaluate.cross_predict(Nearest(spectra=not drifts(data)), data, by=by, folds=4)
    return found.accuracy().estimate


def split_of_time(data: list[Recording]) -> float:
    found = evaluate.cross_predict(Nearest(), data, by="time", folds=4, gap=2.0)
    return found.accuracy().estimate


@pytest.mark.slow
def test_a_split_of_windows_is_flagged_in_every_world() -> None:
    found = evaluate.audit(split_of_windows)
    assert {name: world.leaks for name, world in found.items()} == dict.fromkeys(WORLDS, True)
    assert found["overlap"].mean > 0.9
    assert found["drift"].mean > 0.65
    assert found["subjects"].mean > 0.8


@pytest.mark.slow
def test_a_split_of_groups_is_not_flagged() -> None:
    found = evaluate.audit(split_of_groups)
    assert {name: world.leaks for name, world in found.items()} == dict.fromkeys(WORLDS, False)
    assert all(abs(world.mean - 0.5) < 0.15 for world in found.values())
    assert not evaluate.audit(split_of_time, ["overlap"])["overlap"].leaks


def test_drift_leaks_in_random_trials_but_windows_that_overlap_are_not_parted() -> None:
    def by_trial(data: list[Recording]) -> float:
        decoder = Nearest(spectra=not drifts(data))
        return float(evaluate.cross_predict(decoder, data, by="trial", folds=4).fold_score.mean())

    found = evaluate.audit(by_trial, ["drift", "overlap"])
    assert found["drift"].leaks  # hence by="block" or "time"
    assert not found["overlap"].leaks
