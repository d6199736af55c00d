"""The one place that knows how ArviZ 0.x and 1.x differ: our draws in its container."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..core.errors import MissingExtraError, explain

Group = Mapping[str, Tensor]


def to_container(
    *, posterior: Group, sample_stats: Group | None = None, log_likelihood: Group | None = None,
    posterior_predictive: Group | None = None, prior_predictive: Group | None = None,
    observed_data: Group | None = None, dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
) -> Any:  # fmt: skip
    """Hand draws to ArviZ: ``InferenceData`` with 0.x, an xarray ``DataTree`` with 1.x.

    Parameters
    ----------
    posterior : mapping of str to Tensor
        Draws (chain, draw, ...).
    sample_stats, log_likelihood, posterior_predictive, prior_predictive : mapping of str to Tensor, optional
        Likewise.
    observed_data : mapping of str to Tensor, optional
        Data, without chain and draw.
    dims : mapping of str to sequence of str, optional
        Names of the axes after chain and draw.
    coords : mapping of str to sequence, optional
        Names along axes.

    Returns
    -------
    arviz.InferenceData or xarray.DataTree

    Raises
    ------
    MissingExtraError
        ArviZ is not installed.
    """
    try:
        import arviz
    except ImportError as cause:
        raise MissingExtraError(explain("to_arviz", expected="the package arviz", got="none installed",
                                        fix="pip install 'tectum[bayes]'")) from cause  # fmt: skip
    given = {
        "posterior": posterior, "sample_stats": sample_stats, "log_likelihood": log_likelihood,
        "posterior_predictive": posterior_predictive, "prior_predictive": prior_predictive,
        "observed_data": observed_data,
    }  # fmt: skip
    groups: dict[str, Any] = {name: _arrays(group) for name, group in given.items() if group}
    names = {k: _distinct(list(v)) for k, v in (dims or {}).items()}
    options: dict[str, Any] = {"dims": names, "coords": {k: list(v) for k, v in (coords or {}).items()}}
    if is_new(arviz.__version__):
        return arviz.from_dict(groups, **options)
    return arviz.from_dict(**groups, **options)


def is_new(version: str) -> bool:
    """Tell ArviZ 1.x, whose ``from_dict`` takes one dictionary of groups, from 0.x.

    Examples
    --------
    >>> is_new("0.23.4"), is_new("1.3.0")
    (False, True)
    """
    return int(version.split(".")[0]) >= 1


def dataset(container: Any, group: str) -> Any:
    """Return one group of a container as an :class:`xarray.Dataset`, whichever ArviZ made it."""
    import xarray

    found = container[group]
    return found if isinstance(found, xarray.Dataset) else found.to_dataset()


def _arrays(group: Group) -> dict[str, np.ndarray]:
    """Tensors as arrays."""
    return {name: value.detach().cpu().numpy() for name, value in group.items()}


def _distinct(dims: list[str]) -> list[str]:
    """Give repeated axes a number."""
    return [d if d not in dims[:k] else f"{d}_{dims[:k].count(d) + 1}" for k, d in enumerate(dims)]
