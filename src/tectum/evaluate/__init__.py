"""Evaluation that cannot leak: splits by group or time, scores with chance and confidence, tests of evaluations."""

from .classification import (
    accuracy,
    average_precision,
    balanced_accuracy,
    calibration_error,
    cohen_kappa,
    confusion_matrix,
    information_transfer_rate,
    log_loss,
    macro_f1,
    mean_reciprocal_rank,
    pool,
    reliability,
    roc_auc,
    roc_curve,
    top_k_accuracy,
)
from .compare import Comparison, compare
from .confidence import Interval, bootstrap, bootstrap_accuracy, chance_bound, clopper_pearson, group_mean
from .crossval import cross_validate
from .curves import LearningCurve, learning_curve
from .decoding import CrossValidation, cross_predict, take_trials
from .fmri_quality import FMRIQuality, fmri_quality
from .leaks import audit, check_no_leaks, find_leaks
from .metrics import matched_accuracy
from .nested import NestedCrossValidation, nested_cross_validate
from .online import OnlineScore, activations, match_events, online_score
from .permutation import PermutationTest, permutation_test, permuted, recall_of
from .splits import Fold, block_folds, check_disjoint, group_folds
from .temperature import fit_temperature
from .trials import trial_folds

__all__ = [
    "Comparison",
    "CrossValidation",
    "FMRIQuality",
    "Fold",
    "Interval",
    "LearningCurve",
    "NestedCrossValidation",
    "OnlineScore",
    "PermutationTest",
    "accuracy",
    "activations",
    "audit",
    "average_precision",
    "balanced_accuracy",
    "block_folds",
    "bootstrap",
    "bootstrap_accuracy",
    "calibration_error",
    "chance_bound",
    "check_disjoint",
    "check_no_leaks",
    "clopper_pearson",
    "cohen_kappa",
    "compare",
    "confusion_matrix",
    "cross_predict",
    "cross_validate",
    "find_leaks",
    "fit_temperature",
    "fmri_quality",
    "group_folds",
    "group_mean",
    "information_transfer_rate",
    "learning_curve",
    "log_loss",
    "macro_f1",
    "match_events",
    "matched_accuracy",
    "mean_reciprocal_rank",
    "nested_cross_validate",
    "online_score",
    "permutation_test",
    "permuted",
    "pool",
    "recall_of",
    "reliability",
    "roc_auc",
    "roc_curve",
    "take_trials",
    "top_k_accuracy",
    "trial_folds",
]
