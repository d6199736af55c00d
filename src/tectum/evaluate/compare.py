"""Is one method better than another over subjects? A hierarchical Bayesian comparison of paired scores."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tectum.core.errors import InputError, TectumWarning, explain
from tectum.core.random import resolve_seed, spawn
from tectum.core.result import Result, Section, axes
from tectum.stats.diagnostics import ess_bulk, hdi, split_rhat

if TYPE_CHECKING:
    from matplotlib.axes import Axes

RHAT = 1.01  # above this the chains have not met
REFERENCES = (
    "Corani, Benavoli, Demsar, Mangili & Zaffalon (2017), Statistical comparison of classifiers through Bayesian "
    "hierarchical modelling, Machine Learning 106.",
    "Nadeau & Bengio (2003), Inference for the generalization error, Machine Learning 52.",
    "Kruschke (2018), Rejecting or accepting parameter values in Bayesian estimation, AMPPS 1(2).",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison(Result):
    """Posterior of how much the first method scores above the second.

    ``mean`` is the mean difference over the population of subjects, ``subjects`` the difference of each subject seen.
    """

    mean: Tensor = axes("chain", "draw")
    subjects: Tensor = axes("chain", "draw", "subject")
    spread: Tensor = axes("chain", "draw")  #: scale of the differences between subjects
    tails: Tensor = axes("chain", "draw")  #: degrees of freedom between subjects; small = outliers
    observed: Tensor = axes("subject")  #: mean difference over the folds of each subject
    rhat: Tensor = axes("mode")  #: of mean, spread and tails
    ess: Tensor = axes("mode")
    names: tuple[str, str] = ("first", "second")
    rope: float = 0.0  #: differences up to this count as none
    unit: str = "score"

    @property
    def probabilities(self) -> dict[str, float]:
        """Posterior probability that the mean difference favours the second, is negligible, or favours the first."""
        first = float((self.mean > self.rope).double().mean())
        second = float((self.mean < -self.rope).double().mean())
        return {self.names[1]: second, "equivalent": 1.0 - first - second, self.names[0]: first}

    def interval(self, probability: float = 0.95) -> tuple[float, float]:
        """Highest-density interval of the mean difference."""
        low, high = hdi(self.mean, probability=probability).tolist()
        return low, high

    def to_arviz(self) -> Any:
        """Return the draws in ArviZ's container."""
        from tectum.stats._arviz_compat import to_container

        draws = {"mean": self.mean, "subjects": self.subjects, "spread": self.spread, "tails": self.tails}
        return to_container(posterior=draws, dims={"subjects": ["subject"]})

    def plots(self) -> dict[str, Callable[..., Axes]]:
        """Kinds of figure: "difference" and "subjects"."""
        from tectum.plot.posterior import density, forest

        title = f"{self.names[0]} − {self.names[1]} ({self.unit})"
        ends = hdi(self.subjects, probability=0.95)
        each = partial(forest, self.subjects.mean((0, 1)), ends, labels=_labels(self), observed=self.observed)
        return {
            "difference": partial(density, self.mean.flatten(), self.interval(), rope=self.rope, x=f"mean {title}"),
            "subjects": partial(each, rope=self.rope, x=title),
        }

    def sections(self) -> list[Section]:
        """Return one section: probabilities, the interval and both figures."""
        low, high = self.interval()
        kinds = self.plots()
        rows = [("", "posterior probability"), *((name, f"{p:.3f}") for name, p in self.probabilities.items())]
        text = (
            f"Mean difference {float(self.mean.mean()):.4g} {self.unit}, 95 % highest-density interval {low:.4g} to "
            f"{high:.4g}; differences up to {self.rope:g} count as none. Largest R-hat {float(self.rhat.max()):.3f}."
        )
        figures = (("Mean difference over the population", kinds["difference"]),
                   ("Difference of each subject", kinds["subjects"]))  # fmt: skip
        title = f"{self.names[0]} against {self.names[1]}"
        return [Section(title, text, figures, tuple(rows), REFERENCES)]


def compare(
    first: Tensor | np.ndarray | Sequence[Any], second: Tensor | np.ndarray | Sequence[Any], *, rope: float,
    names: tuple[str, str] = ("first", "second"), subjects: Sequence[str] | None = None, unit: str = "score",
    test_fraction: float | None = None, draws: int = 1000, tune: int = 1000, chains: int = 4,
    random_state: int | None = 0,
) -> Comparison:  # fmt: skip
    """Compare the scores of two methods over subjects by a hierarchical model, sampled with PyMC.

    With ``x[i, j]`` the difference of the scores of subject i on fold j: folds share training data, so they are
    correlated by the fraction of data in a test fold (Nadeau & Bengio); a subject's true difference is
    ``delta[i] ~ StudentT(tails, mean, spread)``. Without folds the differences of the subjects are the ``delta``.
    Priors: mean ~ Normal(0, 2 s), spread ~ HalfNormal(2 s), noise of a subject ~ LogNormal around its typical size,
    tails ~ 1 + Gamma(2, rate 0.1), s = root mean square of the differences of the subjects.

    Parameters
    ----------
    first, second : array, shape (n_subjects,) or (n_subjects, n_folds)
        Scores of both methods on the same subjects and folds; higher is better. At least three subjects.
    rope : float
        Largest difference that means nothing in practice (region of practical equivalence), in units of the score.
    names : (str, str), default ("first", "second")
        What to call the methods.
    subjects : sequence of str, optional
        Names of the subjects.
    unit : str, default "score"
        What a score is, for figures.
    test_fraction : float, optional
        Fraction of a subject's data in a test fold; 1 / n_folds by default.
    draws, tune, chains : int
        Posterior draws a chain (1000), draws before them that tune the sampler (1000), chains (4).
    random_state : int or None, default 0
        Seed of the sampler.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        Shapes that differ, fewer than three subjects, values that are not finite, or no difference anywhere.

    Warns
    -----
    TectumWarning
        If the chains have not met (split R-hat above 1.01).

    References
    ----------
    Corani et al. (2017), Machine Learning 106, section 3; Nadeau & Bengio (2003), Machine Learning 52.

    Examples
    --------
    >>> found = compare([0.8, 0.7, 0.9], [0.6, 0.6, 0.7], rope=0.01, draws=200)  # doctest: +SKIP
    >>> found.probabilities["first"] > 0.8  # doctest: +SKIP
    True
    """
    x = _differences(first, second)
    _check(x, rope, names, subjects, draws, tune, chains)
    rho = _correlation(x, test_fraction)
    seed = spawn(resolve_seed(random_state), "compare")
    found = _sample(_statistics(x, rho), draws, tune, chains, seed)
    scalars = torch.stack([found["mean"], found["spread"], found["tails"]], -1)  # (chain, draw, 3)
    rhat, ess = split_rhat(scalars), ess_bulk(scalars)
    if float(rhat.max()) > RHAT:
        message = explain("compare", expected=f"split R-hat up to {RHAT}", got=f"{float(rhat.max()):.3f}",
                          fix="raise draws and tune")  # fmt: skip
        warnings.warn(message, TectumWarning, stacklevel=2)
    coords = {} if subjects is None else {"subject": {"name": np.asarray(subjects)}}
    return Comparison(
        mean=found["mean"], subjects=found["subjects"], spread=found["spread"], tails=found["tails"],
        observed=x.mean(1), rhat=rhat, ess=ess, names=names, rope=float(rope), unit=unit, coords=coords,
    )  # fmt: skip


class _Statistics(NamedTuple):
    """What the likelihood needs: sufficient statistics of the folds of each subject."""

    mean: np.ndarray  #: (subject,)
    variance: np.ndarray | None  #: (subject,) unbiased over folds; None without folds
    n_folds: int
    rho: float
    scale: float  #: root mean square of the means


def _differences(first: Any, second: Any) -> Tensor:
    """Paired differences (subject, fold), float64."""
    a, b = (torch.as_tensor(np.asarray(v), dtype=torch.float64) for v in (first, second))
    if a.shape != b.shape or a.ndim not in (1, 2):
        expected, got = "two arrays (n_subjects,) or (n_subjects, n_folds)", f"{tuple(a.shape)} and {tuple(b.shape)}"
        raise InputError(explain("compare", expected=expected, got=got))
    return (a - b).reshape(len(a), -1)


def _check(
    x: Tensor, rope: float, names: tuple[str, str], subjects: Sequence[str] | None, draws: int, tune: int, chains: int
) -> None:
    """Refuse what cannot be compared."""
    problems = [
        (len(x) < 3, "at least 3 subjects", f"{len(x)}"),
        (not bool(torch.isfinite(x).all()), "finite scores", "NaN or infinity"),
        (bool((x == 0).all()), "scores that differ somewhere", "equal scores"),
        (not (math.isfinite(rope) and rope >= 0), "rope >= 0", repr(rope)),
        (len(names) != 2 or names[0] == names[1], "two different names", repr(names)),
        (subjects is not None and len(subjects) != len(x), f"{len(x)} names of subjects", f"{len(subjects or ())}"),
        (min(draws, chains) < 1 or tune < 0, "draws, chains >= 1 and tune >= 0", f"{draws}, {chains}, {tune}"),
    ]
    for wrong, expected, got in problems:
        if wrong:
            raise InputError(explain("compare", expected=expected, got=got))


def _correlation(x: Tensor, fraction: float | None) -> float:
    """Correlation between folds of a subject."""
    rho = 1.0 / x.shape[1] if fraction is None else float(fraction)
    if x.shape[1] > 1 and not 0 <= rho < 1:
        raise InputError(explain("compare: test_fraction", expected="0 <= test_fraction < 1", got=repr(fraction)))
    return rho


def _statistics(x: Tensor, rho: float) -> _Statistics:
    """Mean and variance over folds carry all the information of equally correlated Gaussian folds."""
    mean = x.mean(1)
    scale = float(mean.square().mean().sqrt()) or float(x.square().mean().sqrt())
    if x.shape[1] == 1:
        return _Statistics(mean.numpy(), None, 1, 0.0, scale)
    least = (1e-6 * scale) ** 2  # equal differences on every fold
    return _Statistics(mean.numpy(), x.var(1).clamp(min=least).numpy(), x.shape[1], rho, scale)


def _sample(data: _Statistics, draws: int, tune: int, chains: int, seed: int) -> dict[str, Tensor]:
    """Draw from the posterior with NUTS; names of the result's fields, (chain, draw[, subject])."""
    import pymc as pm

    with pm.Model(), _quiet():
        mean = pm.Normal("mean", 0.0, 2 * data.scale)
        spread = pm.HalfNormal("spread", 2 * data.scale)
        tails = pm.Deterministic("tails", 1 + pm.Gamma("extra", 2.0, 0.1))
        if data.variance is None:
            pm.StudentT("seen", nu=tails, mu=mean, sigma=spread, observed=data.mean)
        else:
            _folds(pm, data, mean, spread, tails)
        trace = pm.sample(
            draws=draws, tune=tune, chains=chains, cores=1, random_seed=seed, progressbar=False, target_accept=0.95,
            compute_convergence_checks=False, return_inferencedata=False,
        )  # fmt: skip
    names = ["mean", "spread", "tails"] + (["subjects"] if data.variance is not None else [])
    found = {n: torch.from_numpy(np.stack(trace.get_values(n, combine=False)).astype(float)) for n in names}
    if data.variance is None:
        found["subjects"] = torch.from_numpy(data.mean).expand(*found["mean"].shape, -1).clone()
    return found


def _folds(pm: Any, data: _Statistics, mean: Any, spread: Any, tails: Any) -> None:
    """Likelihood of the folds: their mean is Gaussian, their variance a scaled chi-square, independent of it."""
    n, rho = data.n_folds, data.rho
    standard = pm.StudentT("standard", nu=tails, mu=0.0, sigma=1.0, shape=len(data.mean))
    delta = pm.Deterministic("subjects", mean + spread * standard)
    assert data.variance is not None
    typical = float(np.log(data.variance / (1 - rho)).mean() / 2)
    noise = pm.LogNormal("noise", mu=pm.Normal("typical", typical, 1.0), sigma=pm.HalfNormal("varied", 1.0),
                         shape=len(data.mean))  # fmt: skip
    pm.Normal("seen", mu=delta, sigma=noise * np.sqrt((1 + (n - 1) * rho) / n), observed=data.mean)
    half = (n - 1) / 2
    pm.Gamma("varies", alpha=half, beta=half / (noise**2 * (1 - rho)), observed=data.variance)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep PyMC from logging and from warning about its own compiler."""
    logger = logging.getLogger("pymc")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)


def _labels(found: Comparison) -> list[str]:
    """Names of the subjects, or their numbers."""
    table = found.coords.get("subject", {})
    return [str(v) for v in table["name"]] if "name" in table else [str(k + 1) for k in range(len(found.observed))]
