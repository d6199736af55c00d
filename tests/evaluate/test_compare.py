"""The hierarchical comparison of two methods: against brute-force integration, its symmetries, its refusals."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

import tectum
from tectum.core.errors import InputError, TectumWarning
from tectum.evaluate import compare
from tectum.evaluate.compare import _folds, _statistics

FEW = {"draws": 800, "tune": 700, "chains": 2}


def scores(mean: float, spread: float, noise: float, n: int = 8, folds: int = 5, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    own = mean + spread * rng.standard_normal(n)
    return own[:, None] + noise * rng.standard_normal((n, folds))


@pytest.fixture(scope="module")
def better():
    x = scores(0.05, 0.02, 0.03)
    subjects = [f"s{k}" for k in range(8)]
    return compare(0.7 + x, np.full_like(x, 0.7), rope=0.01, names=("new", "old"), subjects=subjects, **FEW)


@pytest.mark.slow
def test_a_clear_gain_is_found(better):
    p = better.probabilities
    assert sum(p.values()) == pytest.approx(1)
    assert p["new"] > 0.98
    low, high = better.interval()
    assert 0.02 < low < 0.05 < high < 0.09
    assert float(better.rhat.max()) < 1.02
    # partial pooling: the differences of the subjects are drawn towards the mean
    own, observed = better.subjects.mean((0, 1)), better.observed
    assert own.std() < observed.std()
    assert torch.corrcoef(torch.stack([own, observed]))[0, 1] > 0.95


@pytest.mark.slow
def test_without_folds_the_posterior_is_the_integral_on_a_grid():
    x = np.array([0.30, 0.10, 0.25, -0.05, 0.9, 0.2])
    found = compare(x, np.zeros(6), rope=0.1, draws=3000, tune=1000, chains=2)
    s = np.sqrt((x**2).mean())
    mean = np.linspace(-1.2, 1.6, 281)[:, None, None]
    spread = np.linspace(0.004, 2.4, 240)[None, :, None]
    extra = np.concatenate([np.linspace(0.02, 6, 60), np.linspace(6.5, 150, 60)])
    weight = np.gradient(extra)[None, None]
    log = stats.norm(0, 2 * s).logpdf(mean) + stats.halfnorm(0, 2 * s).logpdf(spread)
    log = log + stats.gamma(2, scale=10).logpdf(extra)[None, None]
    for each in x:
        log = log + stats.t(1 + extra[None, None], mean, spread).logpdf(each)
    p = np.exp(log - log.max()) * weight
    p /= p.sum()
    marginal = p.sum((1, 2))
    wanted = float((marginal * mean.ravel()).sum())
    sd = float(np.sqrt((marginal * (mean.ravel() - wanted) ** 2).sum()))
    error = 4 * sd / float(found.ess[0]) ** 0.5
    assert float(found.mean.mean()) == pytest.approx(wanted, abs=error)
    above = float(marginal[mean.ravel() > 0.1].sum())
    assert found.probabilities["first"] == pytest.approx(above, abs=4 * 0.5 / float(found.ess[0]) ** 0.5)
    assert float(found.spread.mean()) == pytest.approx(float((p.sum((0, 2)) * spread.ravel()).sum()), rel=0.08)
    assert torch.equal(found.subjects[0, 0], torch.from_numpy(x))


@pytest.mark.parametrize("rho", [0.0, 0.2, 0.5])
def test_mean_and_variance_carry_the_likelihood_of_correlated_folds(rho):
    import pymc as pm

    x = scores(0.1, 0.05, 0.04, n=3, folds=4)
    data = _statistics(torch.from_numpy(x), rho)
    with pm.Model() as model:
        mean, spread = pm.Normal("mean"), pm.HalfNormal("spread", default_transform=None)
        _folds(pm, data, mean, spread, 5.0)
    density = model.compile_logp(vars=model.observed_RVs)
    start = model.initial_point()

    def pair(delta: np.ndarray, noise: np.ndarray) -> tuple[float, float]:
        point = {
            **start,
            "mean": np.array(0.0),
            "spread": np.array(1.0),
            "standard": delta,
            "noise_log__": np.log(noise),
        }
        same = rho + (1 - rho) * np.eye(4)
        wanted = sum(
            stats.multivariate_normal(np.full(4, d), v**2 * same).logpdf(row)
            for row, d, v in zip(x, delta, noise, strict=True)
        )
        return float(density(point)), float(wanted)

    first = pair(np.array([0.1, 0.0, 0.2]), np.array([0.04, 0.05, 0.03]))
    for delta, noise in [([0.3, -0.1, 0.1], [0.02, 0.1, 0.06]), ([0.0, 0.0, 0.0], [0.2, 0.05, 0.05])]:
        found = pair(np.array(delta), np.array(noise))
        assert found[0] - first[0] == pytest.approx(found[1] - first[1], rel=1e-6)


@pytest.mark.slow
def test_no_difference_is_called_equivalent_or_left_open():
    x = scores(0.0, 0.002, 0.004, n=12)
    found = compare(x, np.zeros_like(x), rope=0.01, **FEW)
    assert found.probabilities["equivalent"] > 0.95
    assert 0.02 < replace(found, rope=0.0).probabilities["first"] < 0.98


@pytest.mark.slow
def test_same_seed_same_draws_and_the_callers_state_is_kept():
    x = scores(0.05, 0.02, 0.03, n=4)[:, 0]
    level = logging.getLogger("pymc").level
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    few = {"rope": 0.01, "draws": 60, "tune": 60, "chains": 2}
    with pytest.warns(TectumWarning, match="raise draws and tune"):
        one, two, three = (compare(x, 0 * x, random_state=seed, **few) for seed in (1, 1, 2))
    assert torch.equal(one.mean, two.mean)
    assert not torch.equal(one.mean, three.mean)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    assert logging.getLogger("pymc").level == level


@pytest.mark.slow
def test_figures_report_file_and_arviz(better, tmp_path):
    for kind in ("difference", "subjects"):
        assert better.plot(kind).get_xlabel().endswith("new − old (score)")
    assert [t.get_text() for t in better.plot("subjects").get_yticklabels()][:2] == ["s0", "s1"]
    page = tmp_path / "page.html"
    tectum.Report("comparison").add(better).save(page)
    assert "new against old" in page.read_text(encoding="utf-8")
    better.save(str(tmp_path / "c.safetensors"))
    loaded = tectum.load(tmp_path / "c.safetensors")
    assert torch.equal(loaded.mean, better.mean)
    assert loaded.probabilities == better.probabilities
    assert loaded.names == ("new", "old")
    assert better.to_arviz().posterior["subjects"].shape == (2, 800, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first": np.zeros((3, 2))}, r"two arrays .* got \(3, 2\) and \(4, 2\)"),
        ({"first": np.zeros((2, 2)), "second": np.ones((2, 2))}, "at least 3 subjects, got 2"),
        ({"first": np.full((4, 2), np.nan)}, "finite scores, got NaN"),
        ({"first": np.ones((4, 2))}, "scores that differ somewhere"),
        ({"rope": -0.1}, "rope >= 0, got -0.1"),
        ({"names": ("a", "a")}, "two different names"),
        ({"subjects": ["a"]}, "4 names of subjects, got 1"),
        ({"draws": 0}, "draws, chains >= 1"),
        ({"test_fraction": 1.0}, "test_fraction < 1, got 1.0"),
    ],
)
def test_bad_input_is_named(change, message):
    given = {"first": np.zeros((4, 2)), "second": np.ones((4, 2)), "rope": 0.01} | change
    with pytest.raises(InputError, match=message):
        compare(**given)
