"""Shuffled labels: what stays, what p-values mean."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tectum import evaluate
from tectum.core.errors import InputError
from tectum.evaluate.permutation import p_value


def test_free_shuffles_keep_the_labels_and_reach_every_order() -> None:
    y = torch.tensor([0, 1, 2])
    found = evaluate.permuted(y, 2000)
    assert torch.equal(found.sort(1).values, y.expand(2000, 3))
    orders, counts = found.unique(dim=0, return_counts=True)
    assert orders.tolist() == [list(p) for p in itertools.permutations(range(3))]
    assert counts.min() > 250  # 333 expected


def test_labels_of_whole_groups_go_from_group_to_group() -> None:
    groups = ["b", "a", "b", "c", "a", "c", "d"]
    y = torch.tensor([1, 0, 1, 0, 0, 0, 1])
    found = evaluate.permuted(y, 200, groups=groups)
    for name in "abcd":
        rows = [i for i, g in enumerate(groups) if g == name]
        assert (found[:, rows] == found[:, rows[:1]]).all()
    one_each = found[:, [groups.index(name) for name in "abcd"]]
    assert (one_each.sum(1) == 2).all()
    assert len(one_each.unique(dim=0)) == 6


def test_labels_inside_groups_stay_inside() -> None:
    groups = np.asarray([0, 1, 0, 1, 0, 1, 1])
    y = torch.tensor([0, 2, 1, 3, 0, 2, 2])
    found = evaluate.permuted(y, 200, groups=groups)
    for g in (0, 1):
        assert torch.equal(found[:, groups == g].sort(1).values, y[groups == g].sort().values.expand(200, -1))
    assert len(found.unique(dim=0)) == 12  # 3 orders of (0, 1, 0), 4 of (2, 3, 2, 2)


def test_p_value_counts_the_observed_score() -> None:
    null = torch.linspace(0, 1, 99, dtype=torch.float64)
    assert p_value(2.0, null) == 0.01
    assert p_value(-1.0, null) == 1.0
    assert p_value(0.5, null) == pytest.approx((1 + 50) / 100)


def test_recall_of_shuffles_equals_balanced_accuracy_one_by_one() -> None:
    g = torch.Generator().manual_seed(0)
    decided, labels = torch.randint(4, (30,), generator=g), torch.randint(4, (9, 30), generator=g)
    wanted = [evaluate.balanced_accuracy(row, decided) for row in labels]
    assert evaluate.recall_of(decided, 4)(labels).tolist() == pytest.approx(wanted)


def test_p_values_without_an_effect_are_uniform() -> None:
    g = torch.Generator().manual_seed(1)
    p = []
    for k in range(200):
        y, score = torch.arange(40) % 2, torch.randn(40, generator=g, dtype=torch.float64)
        p.append(evaluate.permutation_test(lambda labels, s=score: labels.double() @ s, y, draws=99, random_state=k).p)
    for level in (0.05, 0.25, 0.5, 0.75):
        assert np.mean(np.asarray(p) <= level) == pytest.approx(level, abs=3 * (level * (1 - level) / 200) ** 0.5)


def test_an_effect_of_groups_needs_shuffles_of_groups() -> None:
    groups = np.repeat(np.arange(4), 25)
    y = torch.from_numpy(groups % 2)
    decided = y.clone()  # four subjects, all right: by subject that is one case in six
    free = evaluate.permutation_test(evaluate.recall_of(decided, 2), y)
    whole = evaluate.permutation_test(evaluate.recall_of(decided, 2), y, groups=groups)
    assert free.p < 0.002
    assert whole.p == pytest.approx(1 / 6, abs=0.04)


def test_shuffles_are_the_same_on_the_accelerator(accelerator: torch.device) -> None:
    y = torch.arange(12) % 3
    assert torch.equal(evaluate.permuted(y.to(accelerator), 5).cpu(), evaluate.permuted(y, 5))


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(InputError, match="two labels and a draw"):
        evaluate.permuted(torch.zeros(1, dtype=torch.long), 5)
    with pytest.raises(InputError, match="3 groups, got 2"):
        evaluate.permuted(torch.arange(3), 5, groups=["a", "b"])
