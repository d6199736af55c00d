r"""Pólya-Gamma variables PG(b, z): draws, moments and Laplace transform, elementwise on tensors of any shape.

PG(b, z) is the law of :math:`\sum_{k\ge 1} w_k G_k` with :math:`G_k \sim \mathrm{Gamma}(b, 1)` and
:math:`w_k = 1 / (2\pi^2 (k - 1/2)^2 + z^2 / 2)`. The default sampler draws the first terms of the sum and replaces the
rest by one Gamma variable of the same mean and variance, so that mean and variance are exact for every real ``b > 0``.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from tectum.core.errors import InputError, NonFiniteError, explain

from .distributions import sample_exponential, sample_gamma, sample_normal, sample_uniform

__all__ = ["Method", "log_laplace_transform", "mean", "sample_polya_gamma", "variance"]

Method = Literal["gamma", "devroye", "normal"]

_METHODS = ("gamma", "devroye", "normal")
_EDGE = 16  # Euler-Maclaurin sums of the tail start here or later: relative error of the tail below 1e-7


def _odd_sum(order: int) -> float:
    """Sum of (2k - 1)^-order over k >= 1, to double precision."""
    return math.fsum((2 * k - 1.0) ** -order for k in range(1, 1000)) + 1998.0 ** (1 - order) / (2 * order - 2)


# coefficient of z^(2m): (m + 1) (-1/2)^m sum_k c_k^-(m+2), c_k = (pi (2k - 1))^2 / 2
_VARIANCE_COEFFICIENTS = tuple(
    (m + 1)
    * (-0.5) ** m
    * (2 / math.pi**2) ** (m + 2)
    * math.fsum((2 * k - 1.0) ** -(2 * m + 4) for k in range(1, 2000))
    for m in range(12)
)
_CUT = 0.64  # where the two envelopes of the exact sampler meet
_SERIES = 8  # terms of the alternating series: the ninth is below 1e-60 relative to the first on both sides of the cut
_ROUNDS = 400  # the hardest proposal is accepted with probability > 0.4, so that this is never reached


def mean(shape: Tensor, tilt: Tensor) -> Tensor:
    r"""Mean of PG(b, z), :math:`b \tanh(z/2) / (2z)`.

    Parameters
    ----------
    shape : Tensor
        b >= 0, of any shape.
    tilt : Tensor
        z, broadcast against ``shape``.

    Returns
    -------
    Tensor
        Means, of the broadcast shape.

    Examples
    --------
    >>> mean(torch.tensor([2.0]), torch.tensor([0.0]))
    tensor([0.5000])
    """
    z = tilt.abs()
    near = z < 1e-2
    safe = torch.where(near, 1.0, z)
    series = 0.25 * (1 - z.square() / 12 + z.square().square() / 120)
    return shape * torch.where(near, series, torch.tanh(safe / 2) / (2 * safe))


def variance(shape: Tensor, tilt: Tensor) -> Tensor:
    r"""Variance of PG(b, z), :math:`b\,[2\tanh(z/2) - z\,\mathrm{sech}^2(z/2)] / (4 z^3)`.

    Parameters
    ----------
    shape : Tensor
        b >= 0, of any shape.
    tilt : Tensor
        z, broadcast against ``shape``.

    Returns
    -------
    Tensor
        Variances, of the broadcast shape.

    Examples
    --------
    >>> variance(torch.tensor([24.0]), torch.tensor([0.0]))
    tensor([1.])
    """
    z = tilt.abs()
    near = z < 0.5  # below, the closed form loses digits and eight terms of the series are exact in float64
    safe = torch.where(near, 1.0, z)
    half = torch.tanh(safe / 2)
    closed = (2 * half - safe * (1 - half.square())) / (4 * safe**3)
    return shape * torch.where(near, _variance_series(torch.where(near, z, 0.0).square()), closed)


def _variance_series(square: Tensor) -> Tensor:
    """Evaluate the variance of PG(1, z), the sum of w_k^2, as a power series in z^2 (radius of convergence pi^2)."""
    total = torch.zeros_like(square)
    for coefficient in reversed(_VARIANCE_COEFFICIENTS):
        total = total * square + coefficient
    return total


def log_laplace_transform(argument: Tensor, shape: Tensor, tilt: Tensor) -> Tensor:
    r"""Log of :math:`E\,e^{-s\omega} = \cosh^b(z/2) / \cosh^b(\sqrt{z^2/4 + s/2})` for ``s >= 0``.

    Parameters
    ----------
    argument : Tensor
        s >= 0.
    shape, tilt : Tensor
        b and z, broadcast against ``argument``.

    Returns
    -------
    Tensor
        Log of the transform, of the broadcast shape.

    References
    ----------
    .. [1] Polson, Scott, Windle, "Bayesian inference for logistic models using Pólya-Gamma latent variables",
       JASA 2013, equation 3.

    Examples
    --------
    >>> log_laplace_transform(torch.tensor(0.0), torch.tensor(3.0), torch.tensor(1.0))
    tensor(0.)
    """
    return shape * (_log_cosh(tilt / 2) - _log_cosh((tilt.square() / 4 + argument / 2).sqrt()))


def _log_cosh(value: Tensor) -> Tensor:
    """Log of the hyperbolic cosine without overflow."""
    return value.abs() + torch.nn.functional.softplus(-2 * value.abs()) - math.log(2.0)


def sample_polya_gamma(
    shape: Tensor, tilt: Tensor, *, generator: torch.Generator, method: Method = "gamma", terms: int = 16
) -> Tensor:
    """Draw PG(b, z), elementwise.

    Parameters
    ----------
    shape : Tensor
        b >= 0, real, of any shape and floating dtype; ``b = 0`` (a missing entry) gives 0.
    tilt : Tensor
        z, broadcast against ``shape``.
    generator : torch.Generator
        Source of random numbers. On the CPU with tensors elsewhere, numbers are drawn on the CPU and moved.
    method : {"gamma", "devroye", "normal"}
        ``"gamma"``: truncated Gamma sum with a tail of matched mean and variance, any real b. ``"devroye"``: exact by
        alternating series, integer b only, cost proportional to b. ``"normal"``: exact moments, wrong skewness
        (Kolmogorov distance about 0.13 / sqrt(b)); meant for b >= 170.
    terms : int
        Terms of the Gamma sum. With 16, the distribution function is wrong by less than 3e-4 for b >= 0.3 and
        ``|z| <= 40`` and by less than 4e-7 for b >= 1 and ``|z| <= 8``; with 6, by less than 5e-5 in the latter range,
        at about half the cost.

    Returns
    -------
    Tensor
        Draws, of the broadcast shape.

    Raises
    ------
    InputError
        Unknown method, fewer than one term, or ``"devroye"`` with a b that is not an integer.

    References
    ----------
    .. [1] Polson, Scott, Windle, JASA 2013, equation 2 and section 4.
    .. [2] Devroye, "On exact simulation algorithms for some distributions related to Jacobi theta functions", 2009.

    Examples
    --------
    >>> rng = torch.Generator().manual_seed(0)
    >>> draws = sample_polya_gamma(torch.full((20000,), 2.0), torch.tensor(1.0), generator=rng)
    >>> bool((draws.mean() - mean(torch.tensor(2.0), torch.tensor(1.0))).abs() < 0.01)
    True
    """
    if method not in _METHODS:
        raise InputError(explain("sample_polya_gamma", expected=" or ".join(_METHODS), got=f"method={method!r}"))
    if terms < 1:
        raise InputError(explain("sample_polya_gamma", expected="terms >= 1", got=f"terms={terms}"))
    dtype = torch.promote_types(shape.dtype, tilt.dtype)
    shape, tilt = torch.broadcast_tensors(shape.to(dtype), tilt.to(dtype))
    if method == "devroye":
        return _sample_exact(shape, tilt, generator)
    present = shape != 0
    positive = torch.where(present, shape, 1.0)
    draws = _sample_sum(positive, tilt, generator, terms) if method == "gamma" else _normal(positive, tilt, generator)
    return torch.where(present, draws, 0.0)


def _sample_sum(shape: Tensor, tilt: Tensor, generator: torch.Generator, terms: int) -> Tensor:
    """Truncated Gamma sum and a Gamma tail; only a few tensors of the input's size are alive at a time."""
    half_square = 0.5 * tilt.square()
    tail_mean, tail_variance = _tail_moments(shape, tilt, terms)
    total = sample_gamma(tail_mean.square() / tail_variance, generator).mul_(tail_variance / tail_mean)
    for k in range(1, terms + 1):
        total.addcdiv_(sample_gamma(shape, generator), half_square + 2 * (math.pi * (k - 0.5)) ** 2)
    return total


def _tail_moments(shape: Tensor, tilt: Tensor, terms: int) -> tuple[Tensor, Tensor]:
    """Mean and variance of the terms beyond ``terms``: b times the sums of w_k and of w_k^2 over k > terms."""
    a_square = (tilt / (2 * math.pi)).square()
    sum_one, sum_two = _midpoint_sums(a_square, float(max(terms, _EDGE)))
    for k in range(terms + 1, _EDGE + 1):
        weight = 1 / (a_square + (k - 0.5) ** 2)
        sum_one, sum_two = sum_one + weight, sum_two + weight.square()
    scale = 1 / (2 * math.pi**2)
    return shape * sum_one * scale, shape * sum_two * scale**2


def _midpoint_sums(a_square: Tensor, edge: float) -> tuple[Tensor, Tensor]:
    """Sum 1/(x^2+a^2) and its square over x = edge + 1/2, edge + 3/2, ...

    Integrals from the edge with two Euler-Maclaurin corrections; total less partial sums would cancel in float32.
    """
    pole = edge * edge + a_square  # x^2 + a^2 at the edge
    first, second = _arc_integrals(a_square.sqrt() / edge)
    # 1/(x^2+a^2) has the derivatives -2x/pole^2 and (third) 24 x (a^2 - x^2) / pole^4
    sum_one = first / edge - 2 * edge / pole.square() / 24 - 7 / 240 * edge * (a_square - edge**2) / pole**4
    # its square has -4x/pole^3 and (third) 24 x (3 a^2 - 5 x^2) / pole^5
    sum_two = second / edge**3 - 4 * edge / pole**3 / 24 - 7 / 240 * edge * (3 * a_square - 5 * edge**2) / pole**5
    return sum_one, sum_two


def _arc_integrals(u: Tensor) -> tuple[Tensor, Tensor]:
    """Integrals of 1/(x^2+u^2) and of its square over x > 1, without cancellation at small u."""
    near = u < 0.35
    safe = torch.where(near, 1.0, u)
    arc = torch.atan(safe)
    square = torch.where(near, u, 0.0).square()
    first, second = torch.zeros_like(u), torch.zeros_like(u)
    for n in reversed(range(18 if u.dtype == torch.float64 else 9)):  # 0.35^(2 n) is below the rounding
        first = first * -square + 1 / (2 * n + 1)
        second = second * -square + (n + 1) / (2 * n + 3)
    closed = (arc - safe / (1 + safe.square())) / (2 * safe**3)
    return torch.where(near, first, arc / safe), torch.where(near, second, closed)


def _normal(shape: Tensor, tilt: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a normal of the exact mean and variance, reflected at zero."""
    return (mean(shape, tilt) + variance(shape, tilt).sqrt() * sample_normal(shape, generator)).abs()


def _sample_exact(shape: Tensor, tilt: Tensor, generator: torch.Generator) -> Tensor:
    """Sum b independent exact draws of PG(1, z)."""
    count = shape.round()
    if not bool(((count == shape) & (count >= 0)).all()):
        raise InputError(
            explain("sample_polya_gamma", expected="integer b >= 0 with method='devroye'", got="a real b",
                    fix="use method='gamma'")
        )  # fmt: skip
    repeats = count.reshape(-1).long()
    owner = torch.repeat_interleave(repeats)
    draws = _sample_unit(tilt.reshape(-1)[owner], generator)
    total = torch.zeros_like(tilt).reshape(-1).index_add_(0, owner, draws)
    return total.reshape(shape.shape)


def _sample_unit(tilt: Tensor, generator: torch.Generator) -> Tensor:
    """Draw PG(1, z) exactly: propose from the two envelopes, accept by the alternating series."""
    z = 0.5 * tilt.abs()
    draws = torch.empty_like(z)
    pending = torch.arange(z.numel(), device=z.device)
    for _ in range(_ROUNDS):
        proposal = _propose(z[pending], generator)
        accepted = _accept(proposal, sample_uniform(proposal, generator))
        draws[pending[accepted]] = 0.25 * proposal[accepted]
        pending = pending[~accepted]
        if pending.numel() == 0:
            return draws
    raise _exhausted()


def _propose(z: Tensor, generator: torch.Generator) -> Tensor:
    """Draw from the envelope of J*(1, z): exponential right of the cut, truncated inverse Gaussian left of it."""
    rate = math.pi**2 / 8 + 0.5 * z.square()
    log_right = math.log(math.pi / 2) - rate.log() - rate * _CUT
    root = _CUT**-0.5
    log_left = math.log(2.0) + torch.logaddexp(
        torch.special.log_ndtr(root * (_CUT * z - 1)) - z, torch.special.log_ndtr(-root * (_CUT * z + 1)) + z
    )
    go_right = sample_uniform(z, generator) < torch.sigmoid(log_right - log_left)
    right = _CUT + sample_exponential(z, generator) / rate
    return torch.where(go_right, right, _left_inverse_gaussian(z, ~go_right, generator))


def _left_inverse_gaussian(z: Tensor, wanted: Tensor, generator: torch.Generator) -> Tensor:
    """Draw inverse Gaussian(1/z, 1) restricted to [0, cut] where ``wanted``; elsewhere the value is arbitrary."""
    draws = torch.ones_like(z)
    pending = wanted.nonzero().squeeze(-1)
    for _ in range(_ROUNDS):
        if pending.numel() == 0:
            return draws
        here = z[pending]
        # small z: a Lévy variable below the cut, tilted by exp(-z^2 x / 2); large z: the full law until below the cut
        tail = sample_uniform(here, generator) * math.erfc((2 * _CUT) ** -0.5) / 2
        levy = torch.special.ndtri(tail).square().reciprocal()
        levy_kept = sample_uniform(here, generator) < torch.exp(-0.5 * here.square() * levy)
        full = _inverse_gaussian(here, generator)
        small = here * _CUT < 1
        accepted = torch.where(small, levy_kept, full <= _CUT)
        draws[pending[accepted]] = torch.where(small, levy, full)[accepted]
        pending = pending[~accepted]
    raise _exhausted()


def _inverse_gaussian(z: Tensor, generator: torch.Generator) -> Tensor:
    """Draw inverse Gaussian(mean 1/z, shape 1) by the transformation with two roots."""
    mu = z.clamp(min=0.5).reciprocal()
    y = mu * sample_normal(z, generator).square()
    # smaller root, written without cancellation
    x = mu * 2 / (2 + y + (y * (4 + y)).sqrt())
    return torch.where(sample_uniform(z, generator) <= mu / (mu + x), x, mu.square() / x)


def _accept(x: Tensor, uniform: Tensor) -> Tensor:
    """Compare ``uniform`` with the density ratio f(x)/a_0(x), a sum of alternating terms that fall super-fast."""
    left = x <= _CUT
    ratio = torch.ones_like(x)
    for n in range(1, _SERIES):
        exponent = torch.where(left, -2 * ((n + 0.5) ** 2 - 0.25) / x, -((n + 0.5) ** 2 - 0.25) * math.pi**2 * x / 2)
        ratio = ratio + (-1) ** n * (2 * n + 1) * exponent.exp()
    return uniform <= ratio


def _exhausted() -> NonFiniteError:
    """Describe a rejection loop that does not end, which only non-finite arguments can cause."""
    return NonFiniteError(
        explain("sample_polya_gamma", expected="finite b and z", got=f"a proposal rejected {_ROUNDS} times")
    )
