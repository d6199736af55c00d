"""Hidden Markov models against the enumeration of every path."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.simulated_accelerator import simulated_accelerator
from tectum.core.errors import InputError
from tectum.stats import hmm
from tectum.stats.semiring import exclusive_scan, log_sum, map_algebra, matrix_algebra

FORMS = ["sequential", "parallel"]
ZERO = -torch.inf


def problem(n_time, n_states, *, batch=(), varying=False, zeros=False, seed=0, scale=1.0):
    """Random log parameters; with ``zeros`` some transitions are forbidden."""
    g = torch.Generator().manual_seed(seed)
    initial = torch.rand((*batch, n_states), generator=g, dtype=torch.float64) + 0.05
    steps = (n_time - 1,) if varying else ()
    transition = torch.rand((*batch, *steps, n_states, n_states), generator=g, dtype=torch.float64) + 0.05
    if zeros:
        transition = transition * (torch.ones(n_states, n_states).triu() > 0)
    emission = scale * torch.randn((*batch, n_time, n_states), generator=g, dtype=torch.float64)
    normal = [(v / v.sum(-1, keepdim=True)).log() for v in (initial, transition)]
    return normal[0], normal[1], emission


def enumerate_paths(initial, transition, emission, *, mask=None, length=None):
    """All quantities of one unbatched sequence by summing over K^T paths."""
    n_time, n_states = emission.shape
    length = n_time if length is None else length
    seen = torch.where(mask[:, None], emission, 0.0) if mask is not None else emission
    paths = torch.tensor(list(itertools.product(range(n_states), repeat=length)))
    joint = initial[paths[:, 0]] + seen[0, paths[:, 0]]
    filtered = [torch.stack([joint[paths[:, 0] == k].logsumexp(0) for k in range(n_states)])]
    counted = n_states ** torch.arange(length - 1, -1, -1)  # each prefix occurs that often
    filtered[0] = filtered[0] - counted[0].log()
    for t in range(1, length):
        step = transition[t - 1] if transition.ndim == 3 else transition
        joint = joint + step[paths[:, t - 1], paths[:, t]] + seen[t, paths[:, t]]
        here = torch.stack([joint[paths[:, t] == k].logsumexp(0) for k in range(n_states)])
        filtered.append(here - counted[t].log())
    log_z = joint.logsumexp(0)
    weight = (joint - log_z).exp()
    hot = torch.nn.functional.one_hot(paths, n_states).double()
    marginal = torch.einsum("p,ptk->tk", weight, hot)
    pairs = torch.einsum("p,pti,ptj->tij", weight, hot[:, :-1], hot[:, 1:])
    filtered = torch.stack(filtered)
    best = joint.argmax()
    return {
        "log_z": log_z,
        "marginal": marginal,
        "pairs": pairs,
        "filtered": filtered.log_softmax(-1),
        "prefix": filtered.logsumexp(-1),
        "path": paths[best],
        "best": joint[best],
        "paths": paths,
        "weight": weight,
    }


CASES = [(1, 3), (2, 2), (5, 3), (6, 3), (7, 2), (4, 1)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("varying", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(("n_time", "n_states"), CASES)
def test_everything_equals_enumeration(form, varying, zeros, n_time, n_states):
    args = problem(n_time, n_states, varying=varying, zeros=zeros, seed=n_time)
    truth = enumerate_paths(*args)
    options = {"time_varying": varying, "form": form}
    filtered = hmm.forward(*args, **options)
    smoothed = hmm.smooth(*args, pairwise=True, **options)
    best = hmm.viterbi(*args, **options)
    torch.testing.assert_close(filtered.log_filtered, truth["filtered"])
    torch.testing.assert_close(filtered.log_increments.cumsum(0), truth["prefix"])
    torch.testing.assert_close(filtered.log_likelihood, truth["log_z"])
    torch.testing.assert_close(smoothed.log_likelihood, truth["log_z"])
    torch.testing.assert_close(smoothed.probabilities, truth["marginal"])
    torch.testing.assert_close(smoothed.pairwise, truth["pairs"])
    torch.testing.assert_close(smoothed.transitions, truth["pairs"].sum(0))
    assert torch.equal(best.path, truth["path"])
    torch.testing.assert_close(best.log_joint, truth["best"])


@pytest.mark.parametrize("form", FORMS)
def test_predicted_states_are_the_filter_moved_one_step(form):
    initial, transition, emission = problem(6, 3, seed=4)
    found = hmm.forward(initial, transition, emission, form=form)
    moved = found.log_filtered[:-1].exp() @ transition.exp()
    torch.testing.assert_close(found.log_predicted.exp(), torch.cat((initial.exp()[None], moved)))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("varying", [False, True])
def test_masked_bins_and_lengths_equal_enumeration(form, varying):
    initial, transition, emission = problem(6, 3, batch=(2, 2), varying=varying, seed=9)
    mask = torch.rand(2, 2, 6, generator=torch.Generator().manual_seed(1)) > 0.3
    lengths = torch.tensor([[6, 1], [4, 3]])
    emission = emission.masked_fill(~mask[..., None], torch.nan)
    options = {"mask": mask, "lengths": lengths, "time_varying": varying, "form": form}
    smoothed = hmm.smooth(initial, transition, emission, pairwise=True, **options)
    filtered = hmm.forward(initial, transition, emission, **options)
    best = hmm.viterbi(initial, transition, emission, **options)
    drawn = hmm.sample_states(3, initial, transition, emission, generator=torch.Generator().manual_seed(0), **options)
    for b in itertools.product(range(2), range(2)):
        n = int(lengths[b])
        truth = enumerate_paths(initial[b], transition[b], emission[b], mask=mask[b], length=n)
        torch.testing.assert_close(smoothed.log_likelihood[b], truth["log_z"])
        torch.testing.assert_close(smoothed.probabilities[b][:n], truth["marginal"])
        torch.testing.assert_close(smoothed.pairwise[b][: n - 1], truth["pairs"])
        torch.testing.assert_close(smoothed.transitions[b], truth["pairs"].sum(0))
        torch.testing.assert_close(filtered.log_filtered[b][:n], truth["filtered"])
        torch.testing.assert_close(best.log_joint[b], truth["best"])
        assert torch.equal(best.path[b][:n], truth["path"])
        assert (best.path[b][n:] == -1).all()
        assert (drawn[:, b[0], b[1], n:] == -1).all()
        assert (drawn[:, b[0], b[1], :n] >= 0).all()
        assert not smoothed.probabilities[b][n:].any()
        assert not smoothed.pairwise[b][n - 1 :].any()
        assert (filtered.log_filtered[b][n:] == ZERO).all()
        assert not filtered.log_increments[b][n:].any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("zeros", [False, True])
def test_sampled_paths_have_the_posterior_frequencies(form, zeros):
    args = problem(4, 3, zeros=zeros, seed=2)
    truth = enumerate_paths(*args)
    n = 60_000
    drawn = hmm.sample_states(n, *args, generator=torch.Generator().manual_seed(5), form=form)
    code = (drawn * 3 ** torch.arange(3, -1, -1)).sum(-1)
    count = torch.bincount(code, minlength=81).double()
    expected = truth["weight"] * n
    assert not count[expected == 0].any()
    common = expected > 5
    statistic = ((count - expected)[common] ** 2 / expected[common]).sum()
    degrees = int(common.sum()) - 1
    assert statistic < degrees + 4 * (2 * degrees) ** 0.5


@settings(deadline=None, derandomize=True, max_examples=15)
@given(
    n_time=st.sampled_from([1, 2, 3, 31, 32, 33, 65, 100, 257, 600]),
    n_states=st.integers(1, 5),
    lanes=st.integers(1, 3),
    varying=st.booleans(),
    ragged=st.booleans(),
    seed=st.integers(0, 99),
)
def test_parallel_equals_sequential(n_time, n_states, lanes, varying, ragged, seed):
    args = problem(n_time, n_states, batch=(lanes,), varying=varying, seed=seed, scale=5.0)
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, n_time + 1, (lanes,), generator=g) if ragged else None
    options = {"time_varying": varying, "lengths": lengths}
    a, b = (hmm.smooth(*args, pairwise=True, form=form, **options) for form in FORMS)
    for left, right in zip(a, b, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-9)
    a, b = (hmm.viterbi(*args, form=form, **options) for form in FORMS)
    assert torch.equal(a.path, b.path)
    torch.testing.assert_close(a.log_joint, b.log_joint)
    a, b = (
        hmm.sample_states(2, *args, generator=torch.Generator().manual_seed(1), form=form, **options) for form in FORMS
    )
    assert torch.equal(a, b)


def test_marginal_likelihood_agrees_in_log_space_scaled_space_and_product_tree():
    initial, transition, emission = problem(2000, 5, seed=3, scale=3.0)
    weight, scale = initial.exp(), torch.zeros((), dtype=torch.float64)
    for t in range(2000):
        weight = (weight if t == 0 else weight @ transition.exp()) * emission[t].exp()
        scale, weight = scale + weight.sum().log(), weight / weight.sum()
    for form in FORMS:
        found = hmm.forward(initial, transition, emission, form=form).log_likelihood
        assert abs(found - scale) / abs(scale) < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_huge_contradicting_evidence_and_forbidden_moves_stay_exact(form):
    """A scaled probability-space filter underflows here: the state ruled out first is the only one left in the end."""
    transition = torch.eye(2, dtype=torch.float64).log()
    emission = torch.zeros(300, 2, dtype=torch.float64)
    emission[:150, 0], emission[150:, 1] = 20.0, 19.0
    initial = torch.full((2,), 0.5, dtype=torch.float64).log()
    found = hmm.smooth(initial, transition, emission, form=form)
    expected = torch.tensor([3000.0, 2850.0], dtype=torch.float64).softmax(0)
    torch.testing.assert_close(found.probabilities, expected.expand(300, 2))
    emission[150:, 0] = ZERO
    found = hmm.smooth(initial, transition, emission, form=form, pairwise=True)
    torch.testing.assert_close(found.probabilities[:, 1], torch.ones(300, dtype=torch.float64))
    torch.testing.assert_close(found.log_likelihood, 150 * 19.0 + initial[1])
    assert torch.equal(hmm.viterbi(initial, transition, emission, form=form).path, torch.ones(300, dtype=torch.int64))
    assert not found.pairwise.isnan().any()


@pytest.mark.parametrize("form", FORMS)
def test_many_units_do_not_underflow(form):
    """Log emissions of 120 units differ by thousands of nats: no state may lose its information."""
    initial, transition, emission = problem(50, 3, seed=1, scale=3000.0)
    found = hmm.smooth(initial, transition, emission - 1e5, form=form)
    assert found.log_likelihood.isfinite()
    assert (found.probabilities.max(-1).values > 0.99).all()
    torch.testing.assert_close(found.probabilities.sum(-1), torch.ones(50, dtype=torch.float64))


@pytest.mark.parametrize("form", FORMS)
def test_impossible_data_have_likelihood_zero_and_no_nan(form):
    initial, transition, emission = problem(40, 2)
    emission[20] = ZERO
    found = hmm.smooth(initial, transition, emission, form=form)
    assert found.log_likelihood == ZERO
    assert not found.probabilities.isnan().any()


def test_smoothed_probabilities_are_the_gradient_of_the_likelihood():
    initial, transition, emission = problem(12, 3, seed=6)
    found = hmm.smooth(initial, transition, emission)
    step = 1e-5
    for t, k in [(0, 0), (5, 1), (11, 2)]:
        moved = torch.zeros_like(emission)
        moved[t, k] = step
        up, down = (hmm.forward(initial, transition, emission + sign * moved).log_likelihood for sign in (1, -1))
        torch.testing.assert_close((up - down) / (2 * step), found.probabilities[t, k], rtol=1e-6, atol=1e-8)


def test_permuting_the_states_permutes_the_posterior():
    initial, transition, emission = problem(30, 4, seed=8)
    order = torch.tensor([2, 0, 3, 1])
    a = hmm.smooth(initial, transition, emission)
    b = hmm.smooth(initial[order], transition[order][:, order], emission[:, order])
    torch.testing.assert_close(a.probabilities[:, order], b.probabilities)
    torch.testing.assert_close(a.log_likelihood, b.log_likelihood)


def test_parameters_broadcast_over_the_batch():
    initial, transition, emission = problem(20, 3, batch=(2, 4), seed=8)
    shared = hmm.smooth(initial[0, 0], transition[0, 0], emission)
    for b in itertools.product(range(2), range(4)):
        alone = hmm.smooth(initial[0, 0], transition[0, 0], emission[b])
        torch.testing.assert_close(shared.probabilities[b], alone.probabilities)
        torch.testing.assert_close(shared.transitions[b], alone.transitions)
    own = hmm.smooth(initial, transition, emission)
    torch.testing.assert_close(
        own.transitions[1, 2], hmm.smooth(initial[1, 2], transition[1, 2], emission[1, 2]).transitions
    )


def test_float32_input_is_computed_in_float64():
    initial, transition, emission = problem(20, 3)
    found = hmm.smooth(initial.float(), transition.float(), emission.float())
    assert found.probabilities.dtype == torch.float64


@pytest.mark.parametrize("form", [*FORMS, "auto"])
def test_other_devices_give_the_same_result(form):
    args = problem(70, 3, batch=(2,), seed=3)
    lengths = torch.tensor([70, 40])

    def run(parts, lengths):
        draws = hmm.sample_states(2, *parts, lengths=lengths, generator=torch.Generator().manual_seed(0), form=form)
        smoothed = hmm.smooth(*parts, lengths=lengths, form=form)
        return [draws, smoothed.probabilities, smoothed.transitions, *hmm.viterbi(*parts, lengths=lengths, form=form)]

    here = run(args, lengths)
    with simulated_accelerator() as device:
        there = [v.cpu() for v in run([a.to(device) for a in args], lengths.to(device))]
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(a, b)


def test_scan_of_products_equals_the_plain_product():
    g = torch.Generator().manual_seed(0)
    matrices = torch.rand(3, 3, 100, 2, generator=g, dtype=torch.float64)
    algebra = matrix_algebra(3, reduce=log_sum, like=matrices)
    start = torch.rand(3, 2, generator=g, dtype=torch.float64)
    before, after = exclusive_scan(matrices.log(), algebra=algebra, start=start.log(), end=start.log())
    left, right = start, start
    for t in range(100):
        got = before[:, t].softmax(0)
        torch.testing.assert_close(got, left / left.sum(0))
        left = torch.einsum("iw,ijw->jw", left / left.sum(0), matrices[:, :, t])
        s = 99 - t
        torch.testing.assert_close(after[:, s].softmax(0), right / right.sum(0))
        right = torch.einsum("ijw,jw->iw", matrices[:, :, s], right / right.sum(0))


def test_maps_refuse_to_run_forward():
    algebra = map_algebra(2, device=torch.device("cpu"))
    with pytest.raises(NotImplementedError, match="backwards"):
        algebra.forward(torch.zeros(1), torch.zeros(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"log_emission": torch.zeros(3)}, r"log_emission: expected floats of shape \(\.\.\., T >= 1, K\)"),
        ({"log_emission": torch.zeros(5, 2, dtype=torch.int64)}, "log_emission: expected floats"),
        ({"log_transition": torch.zeros(3, 3)}, r"log_transition: expected shape \(\.\.\., 2, 2\), got \(3, 3\)"),
        ({"log_initial": torch.zeros(3)}, r"log_initial: expected shape \(\.\.\., 2\), got \(3,\)"),
        (
            {"log_transition": torch.zeros(4, 2, 2), "time_varying": False, "log_emission": torch.zeros(3, 5, 2)},
            "broadcasts to",
        ),
        ({"log_transition": torch.zeros(5, 2, 2), "time_varying": True}, r"expected shape \(\.\.\., 4, 2, 2\)"),
        ({"mask": torch.ones(3)}, r"mask: expected a shape that broadcasts to \(5,\)"),
        ({"lengths": torch.ones(3)}, "lengths: expected a shape"),
        ({"form": "fast"}, "form: expected 'auto', 'sequential' or 'parallel', got 'fast'"),
    ],
)
def test_bad_input_is_named(change, message):
    good = {"log_initial": torch.zeros(2), "log_transition": torch.zeros(2, 2), "log_emission": torch.zeros(5, 2)}
    with pytest.raises(InputError, match=message):
        hmm.smooth(**{**good, **change})


def test_at_least_one_draw():
    with pytest.raises(InputError, match="n_draws: expected at least 1, got 0"):
        hmm.sample_states(0, *problem(4, 2), generator=torch.Generator())
