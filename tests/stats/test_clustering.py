import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from tectum.core.errors import InputError
from tectum.stats.clustering import (
    adjusted_mutual_information,
    adjusted_rand,
    align_labels,
    coassignment,
    contingency,
    kmeans,
)

label_pairs = st.integers(1, 60).flatmap(
    lambda n: st.tuples(*(st.lists(st.integers(0, top), min_size=n, max_size=n) for top in (3, 9)))
)
label_pairs_many = st.integers(2, 40).flatmap(
    lambda n: st.tuples(*(st.lists(st.integers(-5, n), min_size=n, max_size=n) for _ in range(2)))
)


@pytest.mark.parametrize("strategy", [label_pairs, label_pairs_many], ids=["few", "many"])
def test_scores_match_sklearn(strategy):
    @settings(max_examples=60, deadline=None, derandomize=True)
    @given(strategy)
    def check(pair):
        first, second = (torch.tensor(labels) for labels in pair)
        assert float(adjusted_mutual_information(first, second)) == pytest.approx(
            adjusted_mutual_info_score(*pair), abs=1e-9
        )
        assert float(adjusted_rand(first, second)) == pytest.approx(adjusted_rand_score(*pair), abs=1e-12)

    check()


@pytest.mark.parametrize("score", [adjusted_mutual_information, adjusted_rand])
def test_scores_are_zero_by_chance_and_one_when_renamed(score):
    g = torch.Generator().manual_seed(0)
    draws = torch.randint(0, 6, (200, 2, 90), generator=g)
    assert abs(float(torch.stack([score(a, b) for a, b in draws]).mean())) < 0.01
    assert float(score(draws[0, 0], 17 - 3 * draws[0, 0])) == pytest.approx(1.0)
    assert float(score(torch.arange(50), draws[0, 0, :50])) == pytest.approx(0.0, abs=1e-9)  # all singletons


def test_large_labels_match_sklearn():
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 20, 5000), rng.integers(0, 30, 5000)
    assert float(adjusted_mutual_information(torch.tensor(a), torch.tensor(b))) == pytest.approx(
        adjusted_mutual_info_score(a, b), abs=1e-9
    )


def test_contingency_counts():
    table = contingency(torch.tensor([4, 4, -1, 9]), torch.tensor([0, 1, 1, 1]))
    assert table.tolist() == [[0, 1], [1, 1], [0, 1]]


def test_align_labels_undoes_a_renaming_of_each_row():
    g = torch.Generator().manual_seed(1)
    reference = torch.randint(0, 5, (40,), generator=g)
    names = torch.stack([torch.randperm(5, generator=g) for _ in range(7)])
    assert (align_labels(names[:, reference].reshape(7, 40), reference) == reference).all()


def test_align_labels_is_the_best_of_all_renamings():
    from itertools import permutations

    g = torch.Generator().manual_seed(2)
    reference, labels = torch.randint(0, 4, (2, 25), generator=g)
    best = max(int((torch.tensor(p)[labels] == reference).sum()) for p in permutations(range(4)))
    assert int((align_labels(labels, reference) == reference).sum()) == best


def test_align_labels_gives_extra_blocks_new_names():
    aligned = align_labels(torch.tensor([2, 2, 0, 0, 1]), torch.tensor([0, 0, 1, 1, 1]))
    assert aligned.tolist() == [0, 0, 1, 1, 2]


def test_coassignment_by_brute_force():
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (11, 8), generator=g)
    expected = torch.zeros(8, 8, dtype=torch.float64)
    for row in labels:
        for i in range(8):
            for j in range(8):
                expected[i, j] += float(row[i] == row[j]) / 11
    torch.testing.assert_close(coassignment(labels), expected)


def test_kmeans_finds_separated_clusters_in_every_start():
    g = torch.Generator().manual_seed(0)
    truth = torch.arange(4).repeat_interleave(15)
    points = 20 * torch.eye(4, dtype=torch.float64)[truth] + torch.randn(60, 4, generator=g, dtype=torch.float64)
    labels = kmeans(points.expand(6, -1, -1), torch.full((6,), 4), uniforms=torch.rand(6, 4, generator=g).double())
    assert all(float(adjusted_rand(row, truth)) == 1.0 for row in labels)


def test_kmeans_uses_at_most_the_asked_number_and_is_a_fixed_point():
    g = torch.Generator().manual_seed(0)
    points = torch.randn(3, 50, 2, generator=g, dtype=torch.float64)
    counts = torch.tensor([2, 5, 1])
    labels = kmeans(points, counts, uniforms=torch.rand(3, 5, generator=g).double(), n_iterations=200)
    for cloud, row, k in zip(points, labels, counts, strict=True):
        assert row.max() < k
        centres = torch.stack([cloud[row == c].mean(0) for c in row.unique()])
        assert (torch.cdist(cloud, centres).argmin(1) == torch.unique(row, return_inverse=True)[1]).all()


@pytest.mark.parametrize("call", [contingency, adjusted_rand, adjusted_mutual_information])
def test_bad_labels_are_refused(call):
    with pytest.raises(InputError, match="two label vectors of one length"):
        call(torch.zeros(3, dtype=torch.long), torch.zeros(4, dtype=torch.long))
    with pytest.raises(InputError, match="two label vectors of one length"):
        call(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    with pytest.raises(InputError, match="integer labels"):
        call(torch.zeros(3), torch.zeros(3, dtype=torch.long))


def test_align_labels_refuses_bad_input():
    with pytest.raises(InputError, match=r"labels \(..., n_units\)"):
        align_labels(torch.zeros(2, 3, dtype=torch.long), torch.zeros(4, dtype=torch.long))
    with pytest.raises(InputError, match="labels >= 0"):
        align_labels(torch.tensor([-1, 0]), torch.tensor([0, 0]))


def test_results_on_an_accelerator_equal_the_cpu(accelerator):
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 4, (5, 30), generator=g)
    points, uniforms = torch.randn(2, 30, 3, generator=g), torch.rand(2, 4, generator=g)
    for call in (
        lambda to: adjusted_mutual_information(labels[0].to(to), labels[1].to(to)),
        lambda to: adjusted_rand(labels[0].to(to), labels[1].to(to)),
        lambda to: align_labels(labels.to(to), labels[0].to(to)),
        lambda to: coassignment(labels.to(to)),
        lambda to: kmeans(points.to(to), torch.tensor([4, 2]).to(to), uniforms=uniforms.to(to)),
    ):
        there = call(accelerator)
        assert there.device.type == accelerator.type
        torch.testing.assert_close(there.cpu(), call("cpu"))
