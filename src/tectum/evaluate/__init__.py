"""Evaluation that cannot leak: splits by group or by contiguous blocks, scores, cross-validation."""

from .compare import Comparison, compare
from .crossval import cross_validate
from .metrics import matched_accuracy
from .splits import Fold, block_folds, check_disjoint, group_folds

__all__ = [
    "Comparison",
    "Fold",
    "block_folds",
    "check_disjoint",
    "compare",
    "cross_validate",
    "group_folds",
    "matched_accuracy",
]
