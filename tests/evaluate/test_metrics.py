"""Scores of labels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from tectum.core.errors import InputError
from tectum.evaluate import matched_accuracy


@pytest.mark.parametrize("seed", range(4))
def test_matched_accuracy_is_the_best_over_all_renamings(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    labels, truth = torch.randint(-1, 4, (2, 3, 20), generator=g)
    both = (labels >= 0) & (truth >= 0)
    names = torch.tensor(list(itertools.permutations(range(4))))
    wanted = max(float((p[labels[both]] == truth[both]).double().mean()) for p in names)
    assert matched_accuracy(labels, truth) == pytest.approx(wanted)
    assert matched_accuracy(labels.numpy(), truth.numpy()) == pytest.approx(wanted)


def test_matched_accuracy_allows_different_numbers_of_labels() -> None:
    assert matched_accuracy(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 0, 1, 1])) == 0.5
    assert matched_accuracy(torch.tensor([0, 0, 0, 0]), torch.tensor([5, 5, 5, 1])) == 0.75


def test_matched_accuracy_refuses_what_are_no_labels() -> None:
    with pytest.raises(InputError, match=r"one shape, got \(3,\) and \(2,\)"):
        matched_accuracy(torch.zeros(3, dtype=torch.long), torch.zeros(2, dtype=torch.long))
    with pytest.raises(InputError, match="integer labels, got torch.float64"):
        matched_accuracy(np.zeros(3), np.zeros(3, dtype=int))
    with pytest.raises(InputError, match="labelled in both"):
        matched_accuracy(torch.tensor([-1, 0]), torch.tensor([0, -1]))
