"""Du-IN recovers units, tells hidden tokens and words, and decodes a real recording, at the spec's thresholds.

Networks, windows and epochs are those of the spec's small configuration: 2 and 1 attention blocks, all widths as
published, 64 codes, 25 epochs a stage, learning rate 1e-3, batches of 32, 640 windows of 1 s to train on and 160 that
are unseen. One seed of each runs here; ``benchmarks/du_in.py --evidence SEED [--compat reference] [--snr 0.3]`` runs
the others.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import tectum
from tectum import DuIN, Recording
from tectum.datasets import simulate
from tectum.evaluate import bootstrap_accuracy, cross_predict
from tectum.nn.masking import random_mask
from tectum.nn.vq import perplexity
from tectum.preprocess import filter as bandpass

pytestmark = pytest.mark.slow

SEEDS = range(3)
SPEC = {"device": "cpu", "depth": 2, "decoder_depth": 1, "n_codes": 64, "window": 1.0, "pretrain_batch": 32,
        "batch_size": 32, "pretrain_lr": 1e-3, "lr": 1e-3, "codes_epochs": 25, "masked_epochs": 25, "epochs": 25,
        "validation": 0.0}  # fmt: skip
N_TRAIN, N_TEST = 640, 160  # windows


@cache
def world(seed: int, snr: float) -> Any:
    return simulate.seeg_words(n_windows=N_TRAIN + N_TEST, n_trials=2, snr=snr, random_state=seed)


def pretrained(seed: int, snr: float, **settings: Any) -> DuIN:
    """Train the first stages on the earlier windows; the later ones are unseen."""
    windows = world(seed, snr).data.unlabelled.isel(trial=slice(0, N_TRAIN))
    return DuIN(**{**SPEC, **settings}, random_state=seed).fit(windows)


def normalised_mutual_information(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mutual information over the geometric mean of the entropies."""
    table = np.zeros((int(a.max()) + 1, int(b.max()) + 1))
    np.add.at(table, (a.flatten().numpy(), b.flatten().numpy()), 1.0 / a.numel())
    row, column = table.sum(1), table.sum(0)

    def entropy(p: np.ndarray) -> float:
        return float(-(p[p > 0] * np.log(p[p > 0])).sum())

    both = entropy(table.ravel())
    return (entropy(row) + entropy(column) - both) / math.sqrt(entropy(row) * entropy(column))


def judge(model: DuIN, seed: int, snr: float) -> tuple[float, float, float]:
    """Error of the reconstruction, agreement of codes with true units, and perplexity, on unseen windows."""
    sim = world(seed, snr)
    unseen = sim.data.unlabelled.isel(trial=slice(N_TRAIN, None))
    found: Any = model.reconstruct(unseen)
    codes: Any = model.encode(unseen).codes
    error = float((found.values - unseen.values).square().mean() / unseen.values.square().mean())
    usage = torch.bincount(codes.flatten(), minlength=64).double()
    return error, normalised_mutual_information(codes, sim.truth.units[N_TRAIN:]), float(perplexity(usage))


def told(model: DuIN, seed: int, snr: float) -> float:
    """Share of hidden tokens of unseen windows whose code is told, less the share of the commonest code."""
    unseen = world(seed, snr).data.unlabelled.isel(trial=slice(N_TRAIN, None))
    codes: Any = model.encode(unseen).codes
    network = model._ready("masked", 0)
    hidden = random_mask(*codes.shape, 0.5, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        found = network.body(network.standard(unseen.values, whole=True), hidden).argmax(-1)
    commonest = torch.bincount(codes.flatten()).max() / codes.numel()
    return float((found == codes).float().mean() - commonest)


@pytest.mark.parametrize("seed", [1])  # of the lowest agreement
def test_codes_are_the_units_and_hidden_tokens_are_told(seed: int) -> None:
    model = pretrained(seed, 1.0, until="masked")
    error, agreement, in_use = judge(model, seed, 1.0)
    assert error <= 0.62  # floor 0.50
    assert agreement >= 0.75
    assert in_use >= 5
    assert told(model, seed, 1.0) >= 0.12


@pytest.mark.parametrize("seed", [0])
def test_the_codebook_does_not_collapse_in_noise(seed: int) -> None:
    error, agreement, _ = judge(pretrained(seed, 0.3, until="codes"), seed, 0.3)
    assert error <= 0.82  # floor 0.77
    assert agreement >= 0.5


def halves(rec: Recording) -> tuple[Recording, Recording]:
    """Part trials by block: the first half to train on."""
    block = np.asarray(rec.labels("trial", "block"))
    early = block < (block.max() + 1) // 2
    return rec.isel(trial=early), rec.isel(trial=~early)


def score(model: DuIN, rec: Recording) -> float:
    return model.score(rec, np.asarray(rec.labels("trial", "word")))


def scratch(train: Recording, seed: int, target: Any = "word", **settings: Any) -> DuIN:
    return DuIN(**{**SPEC, "shift": 0.0, **settings}, pretrain="none", random_state=seed).fit(train, target)


@pytest.mark.parametrize("seed", SEEDS)
def test_words_are_decoded_in_strong_noise(seed: int) -> None:
    train, test = halves(simulate.seeg_words(n_windows=1, n_trials=40, snr=0.1, random_state=seed).data.words)
    assert score(scratch(train, seed), test) >= 0.95  # chance 0.125


@pytest.mark.parametrize("activation", ["gelu", None])
def test_words_with_uncertain_onset_are_decoded_by_shifted_training(activation: str | None) -> None:
    """Each of three subjects with a GELU in the tokeniser; over the three with the published one (0.81, 0.90, 0.95)."""
    found = []
    for seed in SEEDS:
        sim = simulate.seeg_words(n_windows=1, n_trials=80, snr=1.0, jitter=0.05, random_state=seed)
        train, test = halves(sim.data.words)
        found.append(score(scratch(train, seed, shift=0.1, activation=activation), test))
    assert (min(found) if activation else sum(found) / len(found)) >= 0.85, found


@pytest.mark.parametrize("seed", [0])
def test_bursts_without_phase_are_decoded(seed: int) -> None:
    train, test = halves(simulate.seeg_bursts(n_trials=80, random_state=seed).data)
    assert score(scratch(train, seed), test) >= 0.9  # chance 0.25


def test_shuffled_labels_give_chance() -> None:
    right = n = 0
    for seed in SEEDS:
        train, test = halves(simulate.seeg_words(n_windows=1, n_trials=20, random_state=seed).data.words)
        y = np.random.default_rng(seed).permutation(np.asarray(train.labels("trial", "word")))
        model = scratch(train, seed, y)
        right += int((model.predict(test) == np.asarray(test.labels("trial", "word"))).sum())
        n += test.sizes["trial"]
    low, high = 1 / 8 - 2.576 * math.sqrt(7 / 64 / n), 1 / 8 + 2.576 * math.sqrt(7 / 64 / n)
    assert low <= right / n <= high


def grip_windows() -> Recording:
    """Windows of 0.4 s of ECoG and LFP, in three parts that hold one movement each, with the state of the hand."""
    rec = tectum.datasets.load("ecog_grip")
    length, third = 0.4, rec.duration / 3
    brain = bandpass(rec.isel(channel=slice(0, 9)), 8.0, 200.0, method="iir").windows(length, hop=0.1)
    hand = rec.isel(channel=9).windows(length, hop=0.1).tensor("trial", "time")
    moves = (hand[:, 100:300] > 0).float().mean(1).numpy() > 0.5
    start = np.asarray(brain.labels("trial", "start"))
    whole = np.floor(start / third) == np.floor((start + length - 1e-6) / third)
    table = {"start": start, "state": np.where(moves, "move", "rest"), "part": np.floor(start / third).astype(int)}
    return brain.with_(coords={**brain.coords, "trial": table}).isel(trial=whole)


def test_movement_is_decoded_from_a_real_recording() -> None:
    windows = grip_windows()
    model = DuIN(device="cpu", depth=2, decoder_depth=1, n_codes=32, filters=32, features=8, heads=2, head_width=32,
                 hidden=64, window=0.4, pretrain_lr=2e-3, lr=1e-3, pretrain_batch=16, batch_size=16, codes_epochs=12,
                 masked_epochs=10, epochs=15, validation=0.0, class_weight="balanced", activation="gelu")  # fmt: skip
    found = cross_predict(model, windows, "state", folds=3, by="part", gap=0.8)
    second = np.asarray(windows.labels("trial", "start")).astype(int)
    interval = bootstrap_accuracy(found.truth, found.proba.argmax(1), groups=second.tolist())
    assert interval.low > 0.5  # chance; seconds are drawn as a whole
    assert interval.estimate > 0.7
