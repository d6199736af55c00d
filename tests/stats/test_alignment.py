"""Label matching and point estimates against brute force, SciPy and scikit-learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from support.simulated_accelerator import simulated_accelerator
from tectum.core.errors import InputError
from tectum.stats import alignment


def draws_around(truth, n_draws, *, n_labels, flip, seed):
    """Noisy copies of a partition, labels shuffled in every draw."""
    g = torch.Generator().manual_seed(seed)
    noisy = torch.where(
        torch.rand(n_draws, len(truth), generator=g) < flip,
        torch.randint(0, n_labels, (n_draws, len(truth)), generator=g),
        truth,
    )
    shuffle = torch.rand(n_draws, n_labels, generator=g).argsort(-1)
    return shuffle.gather(1, noisy), shuffle


@settings(deadline=None, derandomize=True, max_examples=40)
@given(n=st.integers(1, 9), batch=st.integers(1, 5), integer=st.booleans(), seed=st.integers(0, 10**6))
def test_assignment_is_optimal(n, batch, integer, seed):
    g = np.random.default_rng(seed)
    cost = g.integers(-3, 4, (batch, n, n)).astype(float) if integer else g.normal(size=(batch, n, n)) * 100
    got = alignment.assign(torch.from_numpy(cost)).numpy()
    for c, columns in zip(cost, got, strict=True):
        assert sorted(columns) == list(range(n))
        rows, best = linear_sum_assignment(c)
        assert np.isclose(c[np.arange(n), columns].sum(), c[rows, best].sum())
        if not integer:
            assert (columns == best).all()


def test_aligned_draws_recover_the_shuffled_names():
    truth = torch.arange(60) % 5
    draws, shuffle = draws_around(truth, 200, n_labels=5, flip=0.2, seed=0)
    found = alignment.align_labels(draws, truth, n_labels=5)
    assert torch.equal(found.permutation.gather(1, shuffle), torch.arange(5).expand(200, 5))
    assert ((found.labels == truth).float().mean() - 0.84).abs() < 0.02


def test_without_reference_all_draws_get_the_same_names():
    truth = torch.arange(60) % 4
    draws, shuffle = draws_around(truth, 100, n_labels=4, flip=0.3, seed=1)
    found = alignment.align_labels(draws.reshape(2, 50, 60), n_labels=4)
    for chain in range(2):
        combined = found.permutation[chain].gather(1, shuffle[50 * chain : 50 * chain + 50])
        assert (combined == combined[0]).all()
        reference = found.reference[chain]
        assert (alignment.canonical_labels(reference, n_labels=4) == truth).float().mean() > 0.95


def test_items_without_label_stay_so_and_do_not_vote():
    draws = torch.tensor([[1, 1, -1, 0], [0, 0, 1, -1]])
    found = alignment.align_labels(draws, torch.tensor([0, 0, 1, 1]), n_labels=2)
    assert found.labels.tolist() == [[0, 0, -1, 1], [0, 0, 1, -1]]
    assert alignment.overlap(draws, torch.tensor([0, 0, 1, 1]), n_labels=2)[0].tolist() == [[0, 1], [2, 0]]


def test_renaming_parameters_follows_the_labels():
    g = torch.Generator().manual_seed(0)
    reference = torch.randn(4, 3, generator=g)
    order = torch.rand(10, 4, generator=g).argsort(-1)
    values = reference[order] + 0.01 * torch.randn(10, 4, 3, generator=g)  # state k of draw d is order[d, k]
    permutation = alignment.match_states(values, reference)
    assert torch.equal(permutation, order)
    assert (alignment.rename(values, permutation, dim=1) - reference).abs().max() < 0.1
    square = torch.randn(10, 4, 4, generator=g)
    both = alignment.rename(alignment.rename(square, permutation, dim=-1), permutation, dim=-2)
    for d, i, j in itertools.product(range(10), range(4), range(4)):
        assert both[d, order[d, i], order[d, j]] == square[d, i, j]


def test_co_clustering_counts_pairs():
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (2, 30, 7), generator=g)
    expected = (labels.unsqueeze(-1) == labels.unsqueeze(-2)).float().mean(1)
    torch.testing.assert_close(alignment.co_clustering(labels, n_labels=4), expected)


@settings(deadline=None, derandomize=True, max_examples=20)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 12))
def test_variation_of_information_is_the_entropy_definition(seed, n):
    from sklearn.metrics import mutual_info_score

    a, b = np.random.default_rng(seed).integers(0, 4, (2, n))
    expected = mutual_info_score(a, a) + mutual_info_score(b, b) - 2 * mutual_info_score(a, b)
    got = alignment.variation_of_information(torch.from_numpy(a), torch.from_numpy(b), n_labels=4)
    assert abs(got - expected) < 1e-10


def partitions(n):
    """All partitions of n items in canonical form."""

    def grow(labels):
        if len(labels) == n:
            yield labels
            return
        for k in range(max(labels, default=-1) + 2):
            yield from grow([*labels, k])

    return torch.tensor(list(grow([])))


@pytest.mark.parametrize("loss", ["pear", "binder", "vi"])
def test_losses_are_their_definitions_pair_by_pair(loss):
    draws = torch.randint(0, 3, (20, 5), generator=torch.Generator().manual_seed(0))
    pi = alignment.co_clustering(draws, n_labels=3).double()
    candidates = partitions(5)
    got = alignment.partition_loss(candidates, pi, n_labels=5, loss=loss)
    upper = torch.ones(5, 5).triu(1).bool()
    for c, value in zip(candidates, got, strict=True):
        same = (c[:, None] == c).double()
        if loss == "binder":
            expected = (same - pi).abs()[upper].mean()
            average = torch.stack([((d[:, None] == d).double() - same).abs()[upper].mean() for d in draws]).mean()
            torch.testing.assert_close(expected, average)
        elif loss == "pear":
            chance = same[upper].sum() * pi[upper].sum() / 10
            top = (same[upper].sum() + pi[upper].sum()) / 2
            expected = -((same * pi)[upper].sum() - chance) / (top - chance)
        else:
            expected = (same.sum(1).log() + pi.sum(1).log() - 2 * (same * pi).sum(1).log()).mean()
            sizes = (draws[:, :, None] == draws[:, None]).double().sum(-1)
            constant = (sizes.log().mean(0) - pi.sum(1).log()).mean()
            average = alignment.variation_of_information(draws, c, n_labels=5).mean()
            assert expected + constant <= average + 1e-7
        torch.testing.assert_close(value, expected)


def test_pear_of_one_draw_is_the_adjusted_rand_index():
    from sklearn.metrics import adjusted_rand_score

    a, b = torch.randint(0, 3, (2, 40), generator=torch.Generator().manual_seed(2))
    pear = -alignment.partition_loss(a[None], (b[:, None] == b).float(), n_labels=3)
    assert abs(pear.item() - adjusted_rand_score(a, b)) < 1e-6


@pytest.mark.parametrize("loss", ["pear", "binder", "vi"])
def test_point_estimate_beats_or_equals_every_visited_partition_and_finds_the_truth(loss):
    truth = alignment.canonical_labels(torch.arange(24) % 3, n_labels=3)
    draws, _ = draws_around(truth, 150, n_labels=3, flip=0.3, seed=3)
    found = alignment.point_estimate(draws, n_labels=3, loss=loss)
    assert torch.equal(found.labels, truth)
    assert (alignment.partition_loss(draws, found.co_clustering, n_labels=3, loss=loss) >= found.loss - 1e-9).all()


@pytest.mark.parametrize("loss", ["pear", "binder", "vi"])
def test_point_estimate_of_few_items_is_the_best_of_all_partitions(loss):
    draws, _ = draws_around(torch.tensor([0, 0, 0, 1, 1, 2]), 60, n_labels=3, flip=0.15, seed=5)
    found = alignment.point_estimate(draws, n_labels=3, loss=loss)
    every = alignment.partition_loss(partitions(6), found.co_clustering, n_labels=6, loss=loss)
    torch.testing.assert_close(found.loss, every.min())


def test_single_cluster_and_single_item_are_found_as_such():
    assert alignment.point_estimate(torch.zeros(5, 8, dtype=torch.long), n_labels=2).labels.tolist() == [0] * 8
    assert alignment.point_estimate(torch.ones(5, 1, dtype=torch.long), n_labels=2).labels.tolist() == [0]


def test_other_devices_give_the_same_result():
    draws, _ = draws_around(torch.arange(20) % 3, 40, n_labels=3, flip=0.2, seed=0)
    here = alignment.align_labels(draws, n_labels=3), alignment.point_estimate(draws, n_labels=3)
    with simulated_accelerator() as device:
        there = (
            alignment.align_labels(draws.to(device), n_labels=3),
            alignment.point_estimate(draws.to(device), n_labels=3),
        )
        there = [v.cpu() for found in there for v in found]
    for a, b in zip((v for found in here for v in found), there, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: alignment.assign(torch.zeros(2, 3)), r"assign: cost: expected shape \(..., K, K\), got \(2, 3\)"),
        (lambda: alignment.co_clustering(torch.zeros(2, 3), n_labels=2), "labels: expected integers"),
        (
            lambda: alignment.align_labels(torch.zeros(3, dtype=torch.long), n_labels=2),
            "align_labels: labels: expected",
        ),
        (
            lambda: alignment.point_estimate(torch.zeros(1, 2, 3, dtype=torch.long), n_labels=2),
            r"expected \(draw, item\)",
        ),
        (
            lambda: alignment.partition_loss(torch.zeros(1, 2).long(), torch.eye(2), n_labels=2, loss="ari"),
            "loss: expected 'pear', 'binder' or 'vi', got 'ari'",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
