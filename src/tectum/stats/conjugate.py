"""Conjugate updates of linear Gaussian regressions, batched: inverse-Wishart and matrix-normal inverse-Wishart laws.

Convention: Q ~ IW(dof, scale) has density proportional to |Q|^-(dof + m + 1)/2 exp(-tr(scale Q^-1)/2), and
B | Q ~ MN(mean, Q, precision^-1): rows covary as Q, columns as the inverse of ``precision``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tectum.core.errors import InputError, NonFiniteError, explain

from .distributions import sample_gamma, sample_normal

__all__ = [
    "MatrixNormalInverseWishart",
    "RegressionStatistics",
    "inverse_wishart_log_prob",
    "is_stable",
    "log_evidence",
    "matrix_normal_log_prob",
    "regression_statistics",
    "sample_inverse_wishart",
    "sample_matrix_normal",
    "sample_regression",
    "sample_stable_regression",
    "update_regression",
    "weighted_regression",
]


class MatrixNormalInverseWishart(NamedTuple):
    """Law of a regression matrix B (m outputs, k inputs) and its noise covariance Q."""

    mean: Tensor
    """(..., m, k)."""
    precision: Tensor
    """(..., k, k) inverse column covariance."""
    dof: Tensor
    """(...) degrees of freedom of Q, above m - 1."""
    scale: Tensor
    """(..., m, m) scale of Q."""


class RegressionStatistics(NamedTuple):
    """Sums over the observations of a regression."""

    n_observations: Tensor
    """(...) number n."""
    inputs: Tensor
    """(..., k, k) X'X."""
    crossed: Tensor
    """(..., m, k) Y'X."""
    outputs: Tensor
    """(..., m, m) Y'Y."""


def regression_statistics(inputs: Tensor, outputs: Tensor, *, weights: Tensor) -> RegressionStatistics:
    """Sum the statistics of several regressions that share observations by weight.

    Parameters
    ----------
    inputs : Tensor
        (..., time, k) X.
    outputs : Tensor
        (..., time, m) Y.
    weights : Tensor
        (..., state, time) 1 where the observation belongs to the state, else 0; broadcasts over the leading axes.

    Returns
    -------
    RegressionStatistics
        With leading axes (..., state).

    Examples
    --------
    >>> x = torch.ones(5, 1)
    >>> regression_statistics(x, x, weights=torch.tensor([[1.0, 1, 0, 0, 0], [0, 0, 1, 1, 1]])).n_observations
    tensor([2., 3.])
    """
    k, m = inputs.shape[-1], outputs.shape[-1]
    joint = torch.cat([inputs, outputs], dim=-1)
    products = (joint.unsqueeze(-1) * joint.unsqueeze(-2)).flatten(-2)  # (..., time, (k + m)^2)
    total = (weights @ products).unflatten(-1, (k + m, k + m))
    n_observations = weights.sum(dim=-1).expand(total.shape[:-2])
    return RegressionStatistics(n_observations, total[..., :k, :k], total[..., k:, :k], total[..., k:, k:])


def update_regression(
    prior: MatrixNormalInverseWishart, statistics: RegressionStatistics
) -> MatrixNormalInverseWishart:
    """Posterior of a regression.

    Parameters
    ----------
    prior : MatrixNormalInverseWishart
        Prior law, broadcast over the statistics' leading axes.
    statistics : RegressionStatistics
        Sums over the observations.

    Returns
    -------
    MatrixNormalInverseWishart
        Posterior law.

    Examples
    --------
    >>> prior = MatrixNormalInverseWishart(torch.zeros(1, 1), torch.eye(1), torch.tensor(3.0), torch.eye(1))
    >>> x = torch.ones(4, 1)
    >>> update_regression(prior, regression_statistics(x, x, weights=torch.ones(1, 4))).mean
    tensor([[[0.8000]]])
    """
    precision = prior.precision + statistics.inputs
    lower = torch.linalg.cholesky(precision)
    prior_crossed = prior.mean @ prior.precision
    crossed = prior_crossed + statistics.crossed
    white = torch.linalg.solve_triangular(lower, crossed.mT, upper=False)  # (..., k, m)
    mean = torch.linalg.solve_triangular(lower.mT, white, upper=True).mT
    scale = prior.scale + statistics.outputs + prior_crossed @ prior.mean.mT - white.mT @ white
    return MatrixNormalInverseWishart(mean, precision, prior.dof + statistics.n_observations, 0.5 * (scale + scale.mT))


def log_evidence(
    prior: MatrixNormalInverseWishart, posterior: MatrixNormalInverseWishart, statistics: RegressionStatistics
) -> Tensor:
    """Log marginal density of the outputs of a regression, B and Q integrated out.

    Parameters
    ----------
    prior, posterior : MatrixNormalInverseWishart
        Before and after :func:`update_regression`.
    statistics : RegressionStatistics
        What the update used.

    Returns
    -------
    Tensor
        (...).

    Examples
    --------
    >>> prior = MatrixNormalInverseWishart(torch.zeros(1, 1), torch.eye(1), torch.tensor(3.0), torch.eye(1))
    >>> x = torch.ones(4, 1)
    >>> sums = regression_statistics(x, x, weights=torch.ones(1, 4))
    >>> log_evidence(prior, update_regression(prior, sums), sums).shape
    torch.Size([1])
    """
    m = prior.scale.shape[-1]
    gammas = torch.special.multigammaln(posterior.dof / 2, m) - torch.special.multigammaln(prior.dof / 2, m)
    scales = prior.dof / 2 * _log_det(prior.scale) - posterior.dof / 2 * _log_det(posterior.scale)
    columns = m / 2 * (_log_det(prior.precision) - _log_det(posterior.precision))
    result: Tensor = gammas + scales + columns - m / 2 * math.log(math.pi) * statistics.n_observations
    return result


def _log_det(matrix: Tensor) -> Tensor:
    """Log-determinant of positive definite matrices."""
    result: Tensor = 2 * torch.linalg.cholesky(matrix).diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    return result


def sample_inverse_wishart(dof: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
    """Draw inverse-Wishart matrices by Bartlett's decomposition; no draw is inverted.

    Parameters
    ----------
    dof : Tensor
        (...) degrees of freedom, above m - 1.
    scale : Tensor
        (..., m, m).
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    Tensor
        (..., m, m); the mean is scale / (dof - m - 1) where dof > m + 1.

    Examples
    --------
    >>> sample_inverse_wishart(torch.full((4,), 6.0), torch.eye(3), torch.Generator().manual_seed(0)).shape
    torch.Size([4, 3, 3])
    """
    root = _inverse_wishart_root(dof, scale, generator)
    return root @ root.mT


def _inverse_wishart_root(dof: Tensor, scale: Tensor, generator: torch.Generator) -> Tensor:
    """Draw R with R R' inverse-Wishart: R = (A^-1 L')' for the Cholesky factor L of the scale and Bartlett's A."""
    m = scale.shape[-1]
    lower = torch.linalg.cholesky(scale)
    batch = torch.broadcast_shapes(dof.shape, scale.shape[:-2])
    lower = lower.expand(*batch, m, m)
    steps = torch.arange(m, dtype=scale.dtype, device=scale.device)
    chi = (2 * sample_gamma(0.5 * (dof.expand(batch).to(scale.dtype).unsqueeze(-1) - steps), generator)).sqrt()
    bartlett = sample_normal(lower, generator).tril(-1) + torch.diag_embed(chi)
    result: Tensor = torch.linalg.solve_triangular(bartlett, lower.mT, upper=False).mT
    return result


def inverse_wishart_log_prob(value: Tensor, *, dof: Tensor, scale: Tensor) -> Tensor:
    """Log density of inverse-Wishart matrices.

    Parameters
    ----------
    value, scale : Tensor
        (..., m, m), positive definite.
    dof : Tensor
        (...).

    Returns
    -------
    Tensor
        (...).

    Examples
    --------
    >>> eye = torch.eye(1)
    >>> inverse_wishart_log_prob(eye, dof=torch.tensor(2.0), scale=eye)
    tensor(-1.1931)
    """
    m = value.shape[-1]
    trace = torch.cholesky_solve(scale, torch.linalg.cholesky(value)).diagonal(dim1=-2, dim2=-1).sum(dim=-1)
    constant = 0.5 * dof * (_log_det(scale) - m * math.log(2.0)) - torch.special.multigammaln(dof / 2, m)
    result: Tensor = constant - 0.5 * ((dof + m + 1) * _log_det(value) + trace)
    return result


def sample_matrix_normal(mean: Tensor, row_root: Tensor, precision: Tensor, generator: torch.Generator) -> Tensor:
    """Draw matrices whose rows covary as R R' and whose columns covary as the inverse of ``precision``.

    Parameters
    ----------
    mean : Tensor
        (..., m, k).
    row_root : Tensor
        (..., m, m) R, any square root.
    precision : Tensor
        (..., k, k).
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    Tensor
        (..., m, k).

    Examples
    --------
    >>> eye = torch.eye(2)
    >>> sample_matrix_normal(torch.zeros(4, 2, 2), eye, eye, torch.Generator().manual_seed(0)).shape
    torch.Size([4, 2, 2])
    """
    batch = torch.broadcast_shapes(mean.shape[:-2], row_root.shape[:-2], precision.shape[:-2])
    mean = mean.expand(*batch, *mean.shape[-2:])
    lower = torch.linalg.cholesky(precision).expand(*batch, *precision.shape[-2:])
    noise = torch.linalg.solve_triangular(lower.mT, sample_normal(mean.mT, generator), upper=True).mT
    result: Tensor = mean + row_root @ noise
    return result


def matrix_normal_log_prob(value: Tensor, *, mean: Tensor, row_covariance: Tensor, precision: Tensor) -> Tensor:
    """Log density of matrices with row covariance Q and column precision K.

    Parameters
    ----------
    value, mean : Tensor
        (..., m, k).
    row_covariance : Tensor
        (..., m, m) Q.
    precision : Tensor
        (..., k, k) K.

    Returns
    -------
    Tensor
        (...).

    Examples
    --------
    >>> one = torch.ones(1, 1)
    >>> matrix_normal_log_prob(one, mean=one, row_covariance=one, precision=one)
    tensor(-0.9189)
    """
    m, k = value.shape[-2:]
    rows = torch.linalg.solve_triangular(torch.linalg.cholesky(row_covariance), value - mean, upper=False)
    white = rows @ torch.linalg.cholesky(precision)
    log_dets = m * _log_det(precision) - k * _log_det(row_covariance)
    result: Tensor = 0.5 * (log_dets - m * k * math.log(2 * math.pi) - white.square().sum(dim=(-2, -1)))
    return result


def sample_regression(law: MatrixNormalInverseWishart, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw noise covariances and regression matrices.

    Parameters
    ----------
    law : MatrixNormalInverseWishart
        Prior or posterior.
    generator : torch.Generator
        Source of random numbers.

    Returns
    -------
    tuple of Tensor
        (..., m, k) B and (..., m, m) Q.

    Examples
    --------
    >>> eye = torch.eye(2)
    >>> law = MatrixNormalInverseWishart(torch.zeros(3, 2, 2), eye, torch.tensor(4.0), eye)
    >>> [x.shape for x in sample_regression(law, torch.Generator().manual_seed(0))]
    [torch.Size([3, 2, 2]), torch.Size([3, 2, 2])]
    """
    batch = torch.broadcast_shapes(law.mean.shape[:-2], law.precision.shape[:-2], law.dof.shape, law.scale.shape[:-2])
    root = _inverse_wishart_root(law.dof.expand(batch), law.scale, generator)
    return sample_matrix_normal(law.mean, root, law.precision, generator), root @ root.mT


def sample_stable_regression(
    law: MatrixNormalInverseWishart,
    generator: torch.Generator,
    *,
    current: tuple[Tensor, Tensor] | None = None,
    max_radius: float = 1.05,
    tries: int = 64,
) -> tuple[Tensor, Tensor]:
    """Draw dynamics [A b] and Q restricted to transition matrices A of bounded spectral radius, by rejection.

    Parameters
    ----------
    law : MatrixNormalInverseWishart
        (..., m, k) with k >= m; the first m columns of B are A.
    generator : torch.Generator
        Source of random numbers.
    current : tuple of Tensor or None
        B and Q, kept where ``tries`` draws are all rejected. That is exact: the update is then a mixture, with weights
        that do not depend on ``current``, of a draw from the restricted law and of no move.
    max_radius : float
        Bound of the spectral radius of A.
    tries : int
        Rounds of rejection.

    Returns
    -------
    tuple of Tensor
        (..., m, k) B and (..., m, m) Q.

    Raises
    ------
    NonFiniteError
        All draws were rejected and there is no ``current``.

    Examples
    --------
    >>> law = MatrixNormalInverseWishart(torch.eye(2, 3).expand(9, 2, 3), torch.eye(3), torch.tensor(4.0), torch.eye(2))
    >>> b, q = sample_stable_regression(law, torch.Generator().manual_seed(0))
    >>> bool((torch.linalg.eigvals(b[..., :2]).abs() <= 1.05 + 1e-5).all())
    True
    """
    batch = torch.broadcast_shapes(law.mean.shape[:-2], law.precision.shape[:-2], law.dof.shape, law.scale.shape[:-2])
    m, k = law.mean.shape[-2:]
    flat = MatrixNormalInverseWishart(
        law.mean.expand(*batch, m, k).reshape(-1, m, k),
        law.precision.expand(*batch, k, k).reshape(-1, k, k),
        law.dof.expand(batch).reshape(-1),
        law.scale.expand(*batch, m, m).reshape(-1, m, m),
    )
    if current is None:
        matrix, noise = flat.mean.clone(), flat.scale.clone()
    else:
        matrix, noise = (x.reshape(-1, *x.shape[-2:]).clone() for x in current)
    pending = torch.arange(matrix.shape[0], device=matrix.device)
    for _ in range(tries):
        drawn, covariance = sample_regression(MatrixNormalInverseWishart(*(x[pending] for x in flat)), generator)
        accepted = is_stable(drawn[..., :m], max_radius=max_radius)
        matrix[pending[accepted]], noise[pending[accepted]] = drawn[accepted], covariance[accepted]
        pending = pending[~accepted]
        if pending.numel() == 0:
            break
    if pending.numel() and current is None:
        raise NonFiniteError(
            explain("sample_stable_regression", expected=f"a draw of spectral radius <= {max_radius}",
                    got=f"none in {tries} tries for {pending.numel()} laws", fix="give `current`, or raise `tries`")
        )  # fmt: skip
    return matrix.reshape(*batch, m, k), noise.reshape(*batch, m, m)


def is_stable(matrix: Tensor, *, max_radius: float = 1.0) -> Tensor:
    """Tell whether the spectral radius of matrices is below a bound, without eigenvalues for small matrices.

    Up to six rows, the characteristic polynomial is built by Faddeev and LeVerrier's recursion and tested by Schur and
    Cohn's, a few elementwise operations for the whole batch; larger matrices go through their eigenvalues.

    Parameters
    ----------
    matrix : Tensor
        (..., q, q).
    max_radius : float
        Bound, > 0.

    Returns
    -------
    Tensor
        (...) bool.

    Raises
    ------
    InputError
        ``max_radius`` not positive.

    Examples
    --------
    >>> is_stable(torch.tensor([[[0.5, 3.0], [0.0, 0.9]], [[0.0, 1.1], [-1.1, 0.0]]]))
    tensor([ True, False])
    """
    if max_radius <= 0:
        raise InputError(explain("is_stable", expected="max_radius > 0", got=f"{max_radius=}"))
    if matrix.shape[-1] > 6:
        result: Tensor = (torch.linalg.eigvals(matrix).abs() < max_radius).all(dim=-1)
        return result
    coefficients = _characteristic_polynomial(matrix / max_radius)
    stable = torch.ones(matrix.shape[:-2], dtype=torch.bool, device=matrix.device)
    while coefficients.shape[-1] > 1:
        reflection = coefficients[..., -1:]
        inside = reflection.abs() < 1
        stable = stable & inside.squeeze(-1)
        reflection = torch.where(inside, reflection, 0.0)  # the answer is known; keep the recursion finite
        coefficients = (coefficients - reflection * coefficients.flip(-1))[..., :-1] / (1 - reflection.square())
    return stable


def _characteristic_polynomial(matrix: Tensor) -> Tensor:
    """Coefficients of det(x I - M), highest power first: (..., q + 1)."""
    q = matrix.shape[-1]
    eye = torch.eye(q, dtype=matrix.dtype, device=matrix.device)
    running = torch.zeros_like(matrix)
    coefficients = [torch.ones_like(matrix[..., 0, 0])]
    for order in range(1, q + 1):
        running = matrix @ running + coefficients[-1][..., None, None] * eye
        trace = (matrix * running.mT).sum(dim=(-2, -1))
        coefficients.append(-trace / order)
    return torch.stack(coefficients, dim=-1)


def weighted_regression(
    design: Tensor, weights: Tensor, *, working: Tensor, prior_precision: Tensor
) -> tuple[Tensor, Tensor]:
    """Precision and linear term of coefficients with Gaussian pseudo-observations, for ``sample_gaussian``.

    The log-likelihood of a bin is ``working * (F'x) - weights * (F'x)^2 / 2``; the prior mean is zero.

    Parameters
    ----------
    design : Tensor
        (..., time, k) F.
    weights, working : Tensor
        (..., time); both zero where a bin is missing.
    prior_precision : Tensor
        (..., k, k).

    Returns
    -------
    tuple of Tensor
        (..., k, k) precision and (..., k) linear term.

    Examples
    --------
    >>> p, u = weighted_regression(torch.ones(3, 1), torch.ones(3), working=torch.ones(3), prior_precision=torch.eye(1))
    >>> p.item(), u.item()
    (4.0, 3.0)
    """
    precision = prior_precision + (design * weights.unsqueeze(-1)).mT @ design
    return precision, (design.mT @ working.unsqueeze(-1)).squeeze(-1)
