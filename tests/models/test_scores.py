"""Scores: parity with scikit-learn, brute force, and behaviour on planted cases."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from support.simulated_accelerator import simulated_accelerator
from tectum.core.errors import InputError
from tectum.models.dynamic_connectome.scores import (
    auroc,
    average_precision,
    holm,
    leave_one_animal_out,
    midranks,
    roll_units,
    surrogate_p,
    time_association,
    trace_back,
)
from tectum.stats.tensors import CP, factor_match_score

NAN = float("nan")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=30))
def test_auroc_and_ap_equal_sklearn_with_ties(rows):
    scores, labels = (torch.tensor(column) for column in zip(*rows, strict=True))
    found, precision = auroc(scores.float(), labels), average_precision(scores.float(), labels)
    if labels.any():
        assert precision.item() == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    else:
        assert torch.isnan(precision)
    if labels.any() and not labels.all():
        assert found.item() == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    else:
        assert torch.isnan(found)


def test_auroc_is_batched_and_counts_pairs():
    scores, labels = torch.randint(0, 5, (3, 4, 20), generator=rng()).float(), torch.rand(4, 20, generator=rng()) > 0.5
    found = auroc(scores, labels)
    for a, b in itertools.product(range(3), range(4)):
        high, low = scores[a, b][labels[b]], scores[a, b][~labels[b]]
        wins = (high[:, None] > low).double() + 0.5 * (high[:, None] == low).double()
        assert found[a, b].item() == pytest.approx(wins.mean().item(), abs=1e-12)
    torch.testing.assert_close(average_precision(scores, labels)[1, 2], average_precision(scores[1, 2], labels[2]))
    assert midranks(torch.tensor([[2.0, 2.0, 2.0], [3.0, 1.0, 2.0]])).tolist() == [[2, 2, 2], [3, 1, 2]]


def test_time_association_equals_brute_force():
    courses = torch.rand(40, 2, generator=rng(1))
    windows = torch.zeros(3, 40, dtype=torch.bool)
    windows[0, 5:15], windows[1, 20:22] = True, True
    courses[5:15, 0] += 0.4
    found = time_association(courses, windows, generator=rng(), chunk=7)
    for r, k in itertools.product(range(2), range(2)):
        areas = [auroc(courses[:, r], windows[k].roll(shift)).item() for shift in range(40)]
        assert found.auroc[r, k].item() == pytest.approx(areas[0])
        assert found.p[r, k].item() == pytest.approx(sum(a >= areas[0] - 1e-12 for a in areas) / 40)
    assert torch.isnan(found.p[:, 2]).all()
    assert found.p[0, 0] < 0.06


def test_time_association_draws_shifts_without_touching_the_global_generator():
    courses = torch.rand(400, 3, generator=rng(2))
    windows = torch.zeros(1, 400, dtype=torch.bool)
    windows[0, 100:140] = True
    before = torch.get_rng_state()
    one, same = (time_association(courses, windows, generator=rng(5), n_shifts=100) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one.p, same.p)
    every = time_association(courses, windows, generator=rng(5), n_shifts=1000)
    torch.testing.assert_close((one.p * 101).round(), one.p * 101)
    torch.testing.assert_close(one.p, every.p, atol=0.15, rtol=0)


def test_p_is_uniform_without_association():
    smooth = torch.nn.functional.avg_pool1d(torch.randn(200, 1, 229, generator=rng(3)), 30, 1)[:, 0]  # (200, 200)
    windows = torch.zeros(1, 200, dtype=torch.bool)
    windows[0, 50:80] = True
    p = time_association(smooth.T, windows, generator=rng()).p.flatten()
    assert 0.02 <= (p <= 0.1).double().mean() <= 0.18
    assert 0.4 <= p.mean() <= 0.6


def holm_naive(p):
    order, worst, out = np.argsort(p), 0.0, np.empty(len(p))
    for k, i in enumerate(order):
        worst = max(worst, (len(p) - k) * p[i])
        out[i] = min(1.0, worst)
    return out


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_equals_loop(p):
    np.testing.assert_allclose(holm(torch.tensor(p, dtype=torch.float64)), holm_naive(np.array(p)), atol=1e-12)


def test_surrogate_p_ranks():
    null = torch.rand(20, 3, generator=rng()).sort(1, descending=True).values
    p = surrogate_p(torch.tensor([2.0, null[:, 1].median().item(), -1.0]), null)
    assert p[0].item() == pytest.approx(1 / 21)
    assert p[1].item() == pytest.approx((1 + int((null[:, 1] >= null[:, 1].median()).sum())) / 21)
    assert p[2].item() == 1
    with pytest.raises(InputError, match=r"null \(surrogate, 3\), got \(20, 2\)"):
        surrogate_p(torch.ones(3), null[:, :2])


def random_model(seed):
    return CP(torch.ones(3), tuple(torch.rand(n, 3, generator=rng(seed)) ** 3 for n in (30, 5, 45)))


def test_leave_one_animal_out_finds_the_motif_of_a_single_animal():
    model = random_model(0)
    time, animal, pair = model.factors
    animal[:, 2] = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
    other = random_model(9)
    refits = []
    for w in range(5):
        rest = torch.cat([animal[:w], animal[w + 1 :]])
        order = torch.tensor([1, 2, 0])
        factors = [factor.clone() for factor in (time, rest, pair)]
        if w == 2:  # the motif is gone: something else takes its place
            factors = [
                f.index_copy(1, torch.tensor([2]), g[: len(f), :1]) for f, g in zip(factors, other.factors, strict=True)
            ]
        refits.append(CP(torch.ones(3), tuple(3 * f[:, order] for f in factors)))
    found = leave_one_animal_out(model, refits)
    torch.testing.assert_close(found[[0, 1, 3, 4]], torch.ones(4, dtype=found.dtype))
    assert found[2] == pytest.approx(2 / 3, abs=1e-6)
    assert factor_match_score(model, other) < 0.8
    with pytest.raises(InputError, match="expected 5 refits, got 4"):
        leave_one_animal_out(model, refits[:4])


def test_trace_back_finds_signs_animals_and_bins():
    t = torch.arange(200.0)
    wave = torch.sin(t / 7)
    gains = torch.tensor([3.0, -1.0, 0.5, 2.0])
    traces = (wave[:, None, None] * gains).expand(200, 3, 4).clone()
    traces += 0.05 * torch.randn(200, 3, 4, generator=rng())
    traces[:, 2] = torch.randn(200, 4, generator=rng(1)) * 100  # an animal without the motif
    traces[:, 0, 2] = NAN
    time = torch.where((t > 50) & (t < 120), 1.0, 0.4)
    found = trace_back(traces, time=time, animal=torch.tensor([1.0, 0.5, 0.3]), members=torch.tensor([0, 1, 2]))
    assert found.animals.tolist() == [True, True, False]
    assert found.active.nonzero().flatten().tolist() == list(range(51, 120))
    assert found.signs.tolist() == [1.0, -1.0, 1.0]
    z = (wave - wave.mean()) / wave.std(correction=0)
    torch.testing.assert_close(found.traces, z[:, None].expand(200, 3), atol=0.5, rtol=0)
    mean = torch.stack([(x - x.mean()) / x.std(correction=0) for x in (traces[:, 0, 0], traces[:, 1, 0])]).mean(0)
    torch.testing.assert_close(found.traces[:, 0], mean, atol=1e-5, rtol=0)


def test_rolled_units_keep_their_dynamics_and_lose_their_relations():
    common = torch.randn(400, 1, generator=rng())
    x = common.repeat(1, 30)
    rolled = roll_units(x, min_shift=80, generator=rng(1))
    shifts = [next(s for s in range(400) if torch.equal(common[:, 0].roll(s), rolled[:, i])) for i in range(30)]
    assert min(shifts) >= 80
    assert max(shifts) <= 320
    assert len(set(shifts)) > 20
    assert torch.equal(rolled, roll_units(x, min_shift=80, generator=rng(1)))
    absent = x.clone()
    absent[:, 3] = NAN
    assert torch.isnan(roll_units(absent, min_shift=80, generator=rng())).any(0).nonzero().flatten().tolist() == [3]
    with pytest.raises(InputError, match=r"1 <= min_shift <= T / 2, got min_shift=80, T=100"):
        roll_units(x[:100], min_shift=80, generator=rng())


def test_scores_agree_on_an_accelerator():
    courses, windows = torch.rand(60, 2, generator=rng()), torch.zeros(1, 60, dtype=torch.bool)
    windows[0, 10:20] = True
    traces = torch.randn(60, 2, 3, generator=rng())
    arguments = {"time": torch.rand(60, generator=rng()), "animal": torch.ones(2), "members": torch.tensor([0, 2])}
    here = time_association(courses, windows, generator=rng(), n_shifts=20)
    back = trace_back(traces, **arguments)
    rolled = roll_units(courses, min_shift=10, generator=rng())
    with simulated_accelerator() as device:
        there = time_association(courses.to(device), windows.to(device), generator=rng(), n_shifts=20)
        torch.testing.assert_close(there.p.cpu(), here.p)
        torch.testing.assert_close(there.auroc.cpu(), here.auroc)
        found = trace_back(traces.to(device), **{name: value.to(device) for name, value in arguments.items()})
        torch.testing.assert_close(found.traces.cpu(), back.traces)
        assert torch.equal(roll_units(courses.to(device), min_shift=10, generator=rng()).cpu(), rolled)
        precision = average_precision(courses.T.contiguous().to(device), windows.expand(2, -1).to(device))
        torch.testing.assert_close(precision.cpu(), average_precision(courses.T, windows.expand(2, -1)))
        torch.testing.assert_close(holm(here.p.T.to(device)).cpu(), holm(here.p.T))
