"""What the hyper-parameters of a switching GLM mean, and what they may be beyond a type and a range."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.device import from_numpy
from ...core.errors import InputError, explain
from .basis import coupling_columns, exponential_filter, raised_cosine_filters, tied_columns
from .emission import Link
from .fitting import Family
from .stages import Plan

#: Settings under which the two versions of the public code are modelled, by name.
PRESETS: dict[str, dict[str, Any]] = {
    "iclr2024": {"prior": "one_hot", "link": "sigmoid", "shared_bias": True, "n_lags": 5, "basis": "exponential",
                 "temperatures": (0.2, 0.2), "sigma_w": 1 / 3},
    "v010": {"prior": "one_hot", "link": "softplus", "shared_bias": False, "n_lags": 5, "basis": "exponential",
             "self_history": "own", "temperatures": (0.5, 0.5)},
}  # fmt: skip


def learns_kernels(model: Any) -> bool:
    """Whether kernels over the lags are fitted."""
    return bool(model.n_lags > 0 and (model.basis == "learned" or model.self_history == "own"))


def plan_of(model: Any) -> Plan:
    """What the last stage of the fit is to do."""
    first, last = (float(t) for t in model.temperatures)
    return Plan(model.prior, model.ridge, model.sigma_w, (first, last), model.one_hot_rounds, model.two_strengths,
                model.basis != "learned", model.max_iter, model.tol)  # fmt: skip


def filters_of(model: Any) -> Tensor:
    """Filters (lag, filter) on the CPU, which learned kernels start at; none without lags."""
    if model.n_lags == 0:
        return torch.zeros(0, 0, dtype=torch.float64, device="cpu")
    if model.kernel is not None:
        return torch.as_tensor(list(model.kernel), dtype=torch.float64, device="cpu").unsqueeze(1)
    if model.basis == "raised_cosine":
        return raised_cosine_filters(model.n_lags, model.n_filters)
    return exponential_filter(model.n_lags)


def check_settings(model: Any) -> None:
    """Check what `param` cannot, before any computation."""
    where = type(model).__name__
    grid = list(model.candidates) if isinstance(model.candidates, Sequence) else []
    if not grid or isinstance(model.candidates, str) or not all(_is_count(n) for n in grid):
        got = repr(model.candidates)
        raise InputError(explain(f"{where}.candidates", expected="numbers of states, each >= 1", got=got))
    if model.basis != "raised_cosine" and model.n_filters > 1:
        fix = "set basis='raised_cosine'"
        raise InputError(explain(f"{where}.n_filters", expected=f"1 with the {model.basis} basis",
                                 got=str(model.n_filters), fix=fix))  # fmt: skip
    if learns_kernels(model):
        _check_learning(model, where)
    if model.basis == "raised_cosine" and model.n_filters > model.n_lags > 0:
        got = f"{model.n_filters} with {model.n_lags} lags"
        raise InputError(explain(f"{where}.n_filters", expected="at most n_lags", got=got))
    _check_numbers(model.kernel, model.n_lags, f"{where}.kernel", "finite weights, one for each lag", optional=True)
    _check_numbers(model.temperatures, 2, f"{where}.temperatures", "two positive numbers", positive=True)
    names = model.covariates
    if isinstance(names, str) or not isinstance(names, Sequence) or not all(isinstance(n, str) for n in names):
        raise InputError(explain(f"{where}.covariates", expected="a sequence of names", got=repr(names)))


def _check_learning(model: Any, where: str) -> None:
    """Refuse what does not go with learned kernels."""
    if model.basis == "raised_cosine":
        got = f"basis={model.basis!r}, self_history={model.self_history!r}"
        fix = "use basis='exponential' or 'learned'"
        raise InputError(explain(f"{where}.self_history", expected="one filter beside own kernels", got=got, fix=fix))
    if model.prior == "gaussian" and model.sigma_w is None:
        expected = "a number where kernels are learned"
        raise InputError(explain(f"{where}.sigma_w", expected=expected, got="None", fix="set sigma_w=1/3"))
    if model.kernel is not None:
        expected = "positive weights to start the learned kernels from"
        _check_numbers(model.kernel, model.n_lags, f"{where}.kernel", expected, positive=True)


def check_length(n_states: int, n_bins: int) -> None:
    """Refuse more states than a tenth of the bins."""
    if n_states * 10 > n_bins:
        got = f"{n_states} states for {n_bins} bins"
        raise InputError(explain("HMMGLM.n_states", expected="at most a tenth of the number of bins", got=got))


def free_weights(model: Any, n_units: int, n_filters: int, n_covariates: int) -> Tensor | None:
    """Which weights may differ from zero, (N, P) bool."""
    if model.n_lags == 0:
        return None
    allowed = torch.ones(n_units, n_units, dtype=torch.bool, device="cpu")
    if model.neuron_mask is not None:
        given = _as_mask(model.neuron_mask)
        if given is None or given.shape != (n_units, n_units) or given.dtype != torch.bool:
            got = "something else" if given is None else f"{given.dtype} {tuple(given.shape)}"
            raise InputError(explain("HMMGLM.neuron_mask", expected=f"bool of shape {(n_units, n_units)}", got=got))
        allowed = given
    if model.self_history == "zero":
        allowed = allowed & ~torch.eye(n_units, dtype=torch.bool, device="cpu")
    if bool(allowed.all()):
        return None
    return coupling_columns(allowed, n_filters=n_filters, n_covariates=n_covariates)


def family_of(model: Any, free: Tensor | None, n_units: int, n_filters: int) -> Family:
    """Return the model that is fitted."""
    link: Link = model.link
    n_coupling = n_units * n_filters if model.n_lags else 0
    one_self = model.self_history == "shared" and model.n_lags > 0
    tied = tied_columns(n_units, n_filters, bias=model.shared_bias, own=one_self)
    return Family(link, n_coupling, free, model.shared_bias, model.likelihood == "nb", model.stickiness,
                  model.learn_initial, one_self, tied, model.start_from == "kmeans")  # fmt: skip


def _as_mask(values: Any) -> Tensor | None:
    """A tensor of nested sequences, or None if it is none."""
    try:
        return values.cpu() if isinstance(values, Tensor) else from_numpy(np.asarray(values), "HMMGLM.neuron_mask")
    except (InputError, ValueError, TypeError):
        return None


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= 1


def _check_numbers(
    values: Any, n: int, where: str, expected: str, *, optional: bool = False, positive: bool = False
) -> None:
    """Refuse anything but ``n`` finite numbers."""
    if values is None and optional:
        return
    try:
        found = [float(v) for v in values]
    except (TypeError, ValueError):
        found = []
    if isinstance(values, str) or len(found) != n or not all(map(math.isfinite, found)):
        raise InputError(explain(where, expected=f"{expected} ({n})", got=repr(values)))
    if positive and min(found) <= 0:
        raise InputError(explain(where, expected=f"{expected} ({n})", got=repr(values)))
