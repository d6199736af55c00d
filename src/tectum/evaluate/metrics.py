"""Scores; each docstring states range and chance."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tectum.core.errors import InputError, explain
from tectum.stats.alignment import assign, overlap


def matched_accuracy(labels: Any, truth: Any) -> float:
    """Share of items whose label is right after the best one-to-one renaming of labels.

    Parameters
    ----------
    labels, truth : Tensor or array, shape (...), int
        Labels of the same items (states in time, groups of units); -1 in either leaves an item out.

    Returns
    -------
    float
        In (0, 1]; 1 is perfect. Chance is about the share of the commonest true label.

    Raises
    ------
    InputError
        If the shapes differ or no item is labelled in both.

    Examples
    --------
    >>> matched_accuracy(torch.tensor([2, 2, 0, 1]), torch.tensor([0, 0, 1, 1]))
    0.75
    """
    found, known = _labels(labels, "labels"), _labels(truth, "truth")
    if found.shape != known.shape:
        got = f"{tuple(found.shape)} and {tuple(known.shape)}"
        raise InputError(explain("matched_accuracy", expected="labels and truth of one shape", got=got))
    found, known = found.flatten(), known.to(found.device).flatten()
    both = (found >= 0) & (known >= 0)
    if not bool(both.any()):
        raise InputError(explain("matched_accuracy", expected="items labelled in both", got="none"))
    found, known = found[both], known[both]
    counts = overlap(found, known, n_labels=int(torch.maximum(found.max(), known.max())) + 1)
    rows = torch.arange(len(counts), device=counts.device)
    return float(counts[rows, assign(-counts)].sum() / len(found))


def _labels(values: Any, name: str) -> Tensor:
    """Integer labels as a tensor."""
    found = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    if found.is_floating_point() or found.is_complex():
        raise InputError(explain(f"matched_accuracy({name})", expected="integer labels", got=str(found.dtype)))
    return found.long()
