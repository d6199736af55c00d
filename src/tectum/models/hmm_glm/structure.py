"""How well a fit with the one-hot prior knows who is connected to whom."""

from __future__ import annotations

import torch
from torch import Tensor

from ...core.errors import InputError, explain
from ...evaluate.classification import balanced_accuracy, macro_f1, roc_auc
from .result import HMMGLMResult

WHERE = "structure_scores"


def structure_scores(result: HMMGLMResult, truth: Tensor) -> dict[str, float]:
    """Score the connection prior and the types of connection of every state against a known graph.

    Couplings of a unit with itself are left out, and those from and to units without a spike, of which nothing is
    known.

    Parameters
    ----------
    result : HMMGLMResult
        Of a fit with ``prior="one_hot"``; its states in the order of ``truth`` (`HMMGLMResult.match_states`).
    truth : Tensor, shape (state, unit, unit), integer
        Type of the connection to a unit (second axis) from a unit (third axis): -1, 0 = none, or 1.

    Returns
    -------
    dict of str to float
        ``"prior_auc"``: area under the curve of the probability in ``shared_types`` that a pair is connected, against
        pairs that are connected in any state. ``"prior_balanced_accuracy"``: of the same probability above a half.
        ``"type_balanced_accuracy"`` and ``"type_macro_f1"``: of ``adjacency`` over the three types, all states
        together.

    Raises
    ------
    InputError
        No one-hot prior; a graph of another shape or with other values.

    Examples
    --------
    >>> from tectum import HMMGLM
    >>> from tectum.datasets import simulate
    >>> sim = simulate.switching_glm(n_units=6, n_states=2, n_sequences=6, n_time=400)
    >>> result = HMMGLM(n_states=2, starts=2, link="sigmoid").fit(sim.data).result_.match_states(sim.truth.states)
    >>> sorted(structure_scores(result, sim.truth.adjacency))
    ['prior_auc', 'prior_balanced_accuracy', 'type_balanced_accuracy', 'type_macro_f1']
    """
    if result.adjacency is None or result.shared_types is None:
        raise InputError(explain(WHERE, expected="a fit with prior='one_hot'", got=f"prior={result.prior!r}"))
    known = truth.to(result.adjacency.device)
    if known.shape != result.adjacency.shape or not bool(((known == -1) | (known == 0) | (known == 1)).all()):
        expected = f"types -1, 0 or 1 of shape {tuple(result.adjacency.shape)}"
        got = f"shape {tuple(known.shape)}, values {known.unique()[:5].tolist()}"
        raise InputError(explain(WHERE, expected=expected, got=got))
    heard = result.rate > 0
    pairs = heard.unsqueeze(1) & heard & ~torch.eye(len(heard), dtype=torch.bool, device=heard.device)
    connected = (known != 0).any(0)[pairs]
    probability = 1 - result.shared_types[..., 1][pairs]
    types, found = known[:, pairs].flatten(), result.adjacency[:, pairs].flatten()
    return {
        "prior_auc": roc_auc(connected, probability),
        "prior_balanced_accuracy": balanced_accuracy(connected, probability > 0.5),
        "type_balanced_accuracy": balanced_accuracy(types, found),
        "type_macro_f1": macro_f1(types, found),
    }
