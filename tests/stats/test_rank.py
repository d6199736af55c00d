"""Choice of the number of components: the true rank is found, held-out fibres obey their rule, bad options fail."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from tectum.core.errors import InputError, TectumWarning
from tectum.stats import rank
from tectum.stats.rank import hold_out_fibres, rank_report, stability
from tectum.stats.tensors import CP, NNCP, cp_reconstruct, factor_match_score, nncp


def world(seed, shape=(60, 8, 100), n_components=3, noise=0.1, missing=0.1):
    """Sparse gamma factors with multiplicative noise, whole fibres set to NaN."""
    rng = np.random.default_rng(seed)
    factors = tuple(
        torch.tensor(rng.gamma(1.0, size=(n, n_components)) * (rng.random((n, n_components)) < 0.6)) for n in shape
    )
    truth = CP(torch.ones(n_components, dtype=torch.float64), factors)
    grain = rng.gamma(1 / noise**2, noise**2, size=shape)  # of mean one: clipping adds a component
    tensor = (cp_reconstruct(truth) * torch.tensor(grain)).float()
    return truth, torch.where(torch.tensor(rng.random(shape[1:]) >= missing), tensor, torch.nan)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_true_rank_is_picked_by_both_rules(seed):
    truth, tensor = world(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TectumWarning)  # a rank too many may collapse a component
        report = rank_report(tensor, range(1, 6), restarts=4, held_out_restarts=2)
    assert report.rank == 3
    assert report.ranks[rank._plateau(report.spectrum, report.ranks)] == 3
    assert bool((report.error.diff() < 0).all())
    assert float(report.similarity[2]) > 0.99
    assert float(report.held_out[2]) < 0.5 * float(report.held_out[1])
    assert factor_match_score(truth, report.fits[2].best) > 0.95


def test_one_component_is_found():
    _, tensor = world(5, n_components=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TectumWarning)
        report = rank_report(tensor, (1, 2), restarts=2, folds=2, rank_rule="spectrum")
    assert report.rank == 1
    assert report.rule == "spectrum"


def test_the_report_is_reproducible_and_follows_its_seed():
    _, tensor = world(0, shape=(20, 5, 30))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TectumWarning)
        one, same, other = (rank_report(tensor, (2, 3), restarts=3, random_state=s, max_iter=30) for s in (1, 1, 2))
    assert torch.equal(one.held_out, same.held_out)
    assert not torch.equal(one.held_out, other.held_out)


def test_held_out_error_is_that_of_the_hidden_fibres():
    _, tensor = world(0, shape=(20, 5, 30))
    seen = ~torch.isnan(tensor[0])
    hidden = hold_out_fibres(seen, 0.1)
    options = {"restarts": 2, "random_state": 0}
    found = rank._held_out_error(tensor, 2, seen, hidden, options)
    guess = cp_reconstruct(nncp(tensor, 2, mask=seen & ~hidden, **options).best)
    expected = (tensor - guess)[:, hidden].double().norm() / tensor[:, hidden].double().norm()
    assert found == pytest.approx(float(expected), rel=1e-5)


def test_hidden_fibres_leave_two_observed_animals():
    mask = torch.rand(6, 400, generator=torch.Generator().manual_seed(0)) < 0.6
    hidden = hold_out_fibres(mask, 0.05, random_state=3)
    assert int(hidden.sum()) == round(0.05 * int(mask.sum()))
    assert not bool((hidden & ~mask).any())
    touched = hidden.any(0)
    assert int((mask & ~hidden).sum(0)[touched].min()) >= 2
    all_of_them = hold_out_fibres(mask, 0.99)
    assert torch.equal((mask & ~all_of_them).sum(0), mask.sum(0).clamp(max=2))


def test_stability_compares_the_good_starts_with_the_best():
    eye = torch.eye(4)[:, :2]
    turned = torch.stack([eye, eye, eye.roll(2, 0), eye.roll(2, 0)])  # starts 2 and 3 share nothing with 0 and 1
    small = torch.eye(2).expand(4, 2, 2)
    errors, count = torch.tensor([0.1, 0.1005, 0.1008, 0.2]), torch.ones(4, dtype=torch.int64)
    seen = torch.ones(2, 2, dtype=torch.bool)
    fit = NNCP(torch.ones(4, 2), turned, small, small, errors, torch.zeros(4, 1), count, count.bool(), seen)
    assert stability(fit) == pytest.approx(0.5)
    alone = fit._replace(error=torch.tensor([0.1, 0.2, 0.2, 0.2]))
    assert np.isnan(stability(alone))


def test_one_animal_falls_back_on_similarity():
    _, tensor = world(1, shape=(60, 1, 100), n_components=1, missing=0.0)
    assert bool((tensor > 0).any())
    with pytest.warns(TectumWarning, match="no fibre can be held out"):
        report = rank_report(tensor, (1,), restarts=2)
    assert report.rank == 1
    assert bool(report.held_out.isnan().all())


def test_no_good_rank_warns(monkeypatch):
    _, tensor = world(0, shape=(20, 5, 30))
    monkeypatch.setattr(rank, "stability", lambda fit, *, tol: 0.1)
    with pytest.warns(TectumWarning, match="no rank is both stable"):
        report = rank_report(tensor, (1, 2), restarts=2)
    assert report.rank == report.ranks[int(report.held_out.argmin())]


BAD = {
    "rule": ({"rank_rule": "elbow"}, "'stability' or 'spectrum'"),
    "order": ({"ranks": (2, 1)}, "increasing ranks"),
    "none": ({"ranks": ()}, "increasing ranks"),
    "restarts": ({"restarts": 1}, "restarts >= 2"),
    "share": ({"held_out": 1.0}, "0 < held_out < 1"),
    "rank 0": ({"ranks": (0, 1)}, "1 <= rank"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options(name):
    options, message = BAD[name]
    with pytest.raises(InputError, match=message):
        rank_report(torch.ones(6, 3, 5), **{"ranks": (1,), **options})
