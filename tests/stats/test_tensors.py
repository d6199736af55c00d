"""Non-negative CP: oracle by loops, the recovery test of the method, parity with tensorly, streaming, bad inputs."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.simulated_accelerator import count_syncs, simulated_accelerator
from tectum.core.errors import InputError, TectumWarning, TooLargeError
from tectum.stats import _nncp, _nncp_solvers
from tectum.stats.tensors import CP, cp_normalize, cp_reconstruct, factor_match_score, from_tensorly, nncp, to_tensorly


def world(seed, shape=(150, 10, 435), rank=4, noise=0.0, missing=0.2, dtype=torch.float64):
    """Sparse gamma factors, relative Gaussian noise clipped at zero, whole fibres set to NaN."""
    rng = np.random.default_rng(seed)
    factors = tuple(torch.tensor(rng.gamma(1.0, size=(n, rank)) * (rng.random((n, rank)) < 0.5)) for n in shape)
    truth = CP(torch.ones(rank, dtype=torch.float64), factors)
    tensor = cp_reconstruct(truth)
    gap = torch.tensor(rng.standard_normal(shape))
    tensor = (tensor + noise * tensor.norm() / gap.norm() * gap).clamp(min=0)
    seen = torch.tensor(rng.random(shape[1:]) >= missing)
    return truth, torch.where(seen, tensor, torch.nan).to(dtype), seen


def explicit_error(tensor, model):
    """Relative error over the entries that are not NaN, multiplied out in float64."""
    tensor = tensor.double()
    seen = ~torch.isnan(tensor)
    guess = cp_reconstruct(CP(model.weights.double(), tuple(f.double() for f in model.factors)))
    return float((tensor - guess)[seen].norm() / tensor[seen].norm())


class Chunked:
    """A pair source that hands out copies of slices and counts its passes."""

    def __init__(self, tensor, width):
        self.tensor, self.width, self.passes = tensor, width, 0
        self.shape = tuple(tensor.shape)

    def chunks(self):
        self.passes += 1
        for start in range(0, self.shape[2], self.width):
            where = slice(start, min(start + self.width, self.shape[2]))
            yield where, self.tensor[..., where].clone()


# ------------------------------------------------------------ the spec's unit test


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_recovery_without_noise(seed, dtype):
    truth, tensor, _ = world(seed, dtype=dtype)
    fit = nncp(tensor, 4, restarts=10)
    assert float(fit.error.amax()) <= 1e-3
    assert np.mean([factor_match_score(truth, fit.start(i)) for i in range(10)]) >= 0.99


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_recovery_with_ten_per_cent_noise(seed):
    truth, tensor, _ = world(seed, noise=0.1)
    fit = nncp(tensor, 4, restarts=10)
    assert np.mean([factor_match_score(truth, fit.start(i)) for i in range(10)]) >= 0.985


def test_em_reaches_the_objective_of_the_fibre_solver():
    _, tensor, _ = world(0, noise=0.1)
    exact, imputed = nncp(tensor, 4, restarts=2), nncp(tensor, 4, restarts=2, solver="em")
    assert abs(float(imputed.error.amin() / exact.error.amin()) - 1) < 0.01
    assert float(imputed.error.amin()) == pytest.approx(explicit_error(tensor, imputed.best), rel=1e-9)


def test_cp_opt_reaches_the_objective_of_the_fibre_solver():
    _, tensor, _ = world(0, shape=(40, 6, 60), rank=3, noise=0.1)
    exact, joint = nncp(tensor, 3, restarts=3), nncp(tensor, 3, restarts=3, solver="cp_opt")
    assert float(joint.error.amin() / exact.error.amin()) < 1.01
    assert float(joint.error.amin()) == pytest.approx(explicit_error(tensor, joint.best), rel=1e-9)


def test_partial_fibres_are_the_em_solvers():
    truth, tensor, _ = world(1, shape=(40, 6, 60), rank=3, missing=0.0)
    seen = torch.tensor(np.random.default_rng(0).random(tensor.shape) < 0.7)
    fit = nncp(tensor, 3, mask=seen, solver="em", restarts=3)
    assert factor_match_score(truth, fit.best) > 0.99
    holes = nncp(torch.where(seen, tensor, torch.nan), 3, solver="em", restarts=3)
    torch.testing.assert_close(holes.pair, fit.pair)
    assert torch.equal(holes.mask, seen)


# ------------------------------------------------------------ oracles


def loop_sweep(tensor, seen, factors):
    """One sweep of weighted HALS written from its definition with plain loops."""
    (n_time, n_animals, n_pairs), rank = tensor.shape, factors[0].shape[1]
    time, animal, pair = (f.copy() for f in factors)
    cells = [(t, w, p) for t, w, p in itertools.product(range(n_time), range(n_animals), range(n_pairs)) if seen[w, p]]
    for mode, factor in enumerate((time, animal, pair)):
        numerator = np.zeros_like(factor)
        gram = np.zeros((len(factor), rank, rank))
        for cell in cells:
            t, w, p = cell
            others = (animal[w] * pair[p], time[t] * pair[p], time[t] * animal[w])[mode]
            numerator[cell[mode]] += tensor[cell] * others
            gram[cell[mode]] += np.outer(others, others)
        for _ in range(3):
            for r in range(rank):
                for i in range(len(factor)):
                    step = (numerator[i, r] - factor[i] @ gram[i, :, r]) / max(gram[i, r, r], 1e-9)
                    factor[i, r] = max(0.0, factor[i, r] + step)
    sizes = np.stack([np.linalg.norm(f, axis=0) for f in (time, animal, pair)])
    common = sizes.prod(0) ** (1 / 3)
    return [f * common / size for f, size in zip((time, animal, pair), sizes, strict=True)]


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("block_bytes", [1, 2**20])
def test_a_sweep_equals_the_loops(missing, block_bytes):
    _, tensor, seen = world(3, shape=(6, 3, 7), rank=2, noise=0.3, missing=missing)
    values = tensor.nan_to_num(0.0)
    mask = None if missing == 0 else seen.double()
    source, cpu = _nncp.Dense(values), torch.device("cpu")
    data = _nncp.Data(source, (6, 3, 7), mask, torch.float64, cpu, 1.0, float(values.square().sum()), block_bytes)
    start = [np.random.default_rng(4).random((n, 2)) for n in (6, 3, 7)]
    state = _nncp.begin(data, _nncp.Factors(*(torch.tensor(f.T)[None] for f in start)))
    for _ in range(2):
        state, square = _nncp.hals_sweep(data, state, torch.tensor([True]))
        start = loop_sweep(values.numpy(), seen.numpy(), start)
        for ours, loops in zip(state.factors, start, strict=True):
            np.testing.assert_allclose(ours[0].T.numpy(), loops, atol=1e-10)
        guess = np.einsum("tr,wr,pr->twp", *start)
        loss = ((values.numpy() - guess) ** 2 * seen.numpy()).sum() / float(values.square().sum())
        assert float(square) == pytest.approx(loss, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("noise", [0.0, 0.001, 0.01, 0.1, 0.5])
def test_the_reported_error_is_the_explicit_residual(dtype, noise):
    _, tensor, _ = world(5, shape=(60, 8, 90), noise=noise, dtype=dtype)
    fit = nncp(tensor, 4, restarts=3)
    for i in range(3):
        assert float(fit.error[i]) == pytest.approx(explicit_error(tensor, fit.start(i)), rel=1e-3, abs=3e-7)


def test_float32_error_is_true_where_tensorlys_is_not():
    """Noiseless data, unmasked: the error of the dtype's own inner products cannot go below about 5e-3."""
    _, tensor, _ = world(6, shape=(60, 20, 80), rank=3, missing=0.0, dtype=torch.float32)
    fit = nncp(tensor, 3, restarts=2, max_iter=200)
    assert float(fit.error.amin()) < 1e-5
    assert float(fit.error.amin()) == pytest.approx(explicit_error(tensor, fit.best), rel=0.05, abs=1e-7)


def test_loadings_that_nothing_informs_are_zero():
    _, tensor, _ = world(0, shape=(30, 5, 20), rank=2, missing=0.0)
    tensor[:, :, 7] = torch.nan
    tensor[:, 3] = torch.nan
    fit = nncp(tensor, 2, restarts=2)
    assert not fit.pair[:, 7].any()
    assert not fit.animal[:, 3].any()
    assert not fit.mask[:, 7].any()
    assert bool(fit.pair[:, 6].any())


# ------------------------------------------------------------ properties


@settings(deadline=None, derandomize=True, max_examples=12)
@given(
    seed=st.integers(0, 10**6),
    rank=st.integers(1, 4),
    missing=st.sampled_from([0.0, 0.2]),
    solver=st.sampled_from(["fibre", "em"]),
)
def test_the_objective_never_rises(seed, rank, missing, solver):
    _, tensor, _ = world(seed, shape=(14, 4, 12), rank=3, noise=0.2, missing=missing)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TectumWarning)
        fit = nncp(tensor, rank, restarts=3, max_iter=40, solver=solver)
    steps = fit.history.diff(dim=1)
    assert bool((steps[~torch.isnan(steps)] <= 1e-9).all())
    assert torch.equal((~torch.isnan(fit.history)).sum(1), fit.sweeps)
    assert bool((torch.cat([fit.time, fit.animal, fit.pair], 1) >= 0).all())


@settings(deadline=None, derandomize=True, max_examples=5)
@given(seed=st.integers(0, 10**6))
def test_permuting_the_axes_permutes_the_factors(seed):
    _, tensor, _ = world(seed, shape=(12, 4, 9), rank=2, noise=0.1)
    rng = torch.Generator().manual_seed(seed)
    order = [torch.randperm(n, generator=rng) for n in tensor.shape]
    start = CP(
        torch.ones(2, dtype=torch.float64), tuple(torch.rand(n, 2, generator=rng).double() for n in tensor.shape)
    )
    moved = CP(start.weights, tuple(f[o] for f, o in zip(start.factors, order, strict=True)))
    one = nncp(tensor, 2, init=start, max_iter=20).best
    other = nncp(tensor[order[0]][:, order[1]][:, :, order[2]], 2, init=moved, max_iter=20).best
    for factor, permuted, o in zip(one.factors, other.factors, order, strict=True):
        torch.testing.assert_close(factor[o], permuted, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("unit", [1e-12, 1e9])
def test_the_unit_of_the_data_changes_the_weights_alone(unit):
    _, tensor, _ = world(0, shape=(20, 5, 30), rank=2, noise=0.1)
    one, other = nncp(tensor, 2, restarts=2), nncp(tensor * unit, 2, restarts=2)
    torch.testing.assert_close(other.weights / unit, one.weights)
    torch.testing.assert_close(other.pair, one.pair)


def test_canonical_form():
    _, tensor, _ = world(0, shape=(20, 5, 30), rank=3, noise=0.1)
    fit = nncp(tensor, 3, restarts=2)
    for factor in (fit.time, fit.animal, fit.pair):
        torch.testing.assert_close(factor.norm(dim=1), torch.ones(2, 3, dtype=torch.float64))
    assert bool((fit.weights.diff(dim=1) <= 0).all())
    doubled = tuple(2 * f.flip(1) for f in fit.best.factors)
    again = cp_normalize(CP(fit.best.weights.flip(0), doubled))
    torch.testing.assert_close(again.weights, 8 * fit.best.weights)
    torch.testing.assert_close(again.factors[2], fit.best.factors[2])


# ------------------------------------------------------------ streams and restarts


@pytest.mark.parametrize("solver", ["fibre", "cp_opt"])
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_streamed_equals_dense(missing, solver):
    _, tensor, _ = world(1, shape=(20, 4, 33), rank=3, noise=0.1, missing=missing)
    whole = nncp(tensor, 3, restarts=2, solver=solver, max_iter=15)
    streamed = nncp(Chunked(tensor, 7), 3, restarts=2, solver=solver, max_iter=15)
    torch.testing.assert_close(streamed.error, whole.error, rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(streamed.pair, whole.pair, rtol=1e-5, atol=1e-7)
    assert torch.equal(streamed.mask, whole.mask)


def test_a_sweep_reads_a_stream_once():
    _, tensor, seen = world(1, shape=(20, 4, 33), rank=3, noise=0.1)
    source = Chunked(tensor.nan_to_num(0.0), 10)
    fit = nncp(source, 3, mask=seen, restarts=3, max_iter=12)
    assert source.passes == int(fit.sweeps.amax()) + (-int(fit.sweeps.amax())) % 5 * (int(fit.sweeps.amax()) < 12) + 3


def test_one_animal_and_many_pairs_stream_in_float32():
    rng = torch.Generator().manual_seed(0)
    truth = CP(torch.ones(3), tuple(torch.rand(n, 3, generator=rng) ** 4 for n in (50, 1, 2000)))

    class Products:
        shape = (50, 1, 2000)

        def chunks(self):
            for start in range(0, 2000, 256):
                where = slice(start, min(start + 256, 2000))
                yield where, cp_reconstruct(CP(truth.weights, (*truth.factors[:2], truth.factors[2][where])))

    fit = nncp(Products(), 3, restarts=2)
    assert float(fit.error.amin()) < 1e-2
    assert fit.best.factors[1].shape == (1, 3)


def test_restarts_are_the_same_alone_together_and_in_groups():
    _, tensor, _ = world(2, shape=(20, 5, 30), rank=3, noise=0.1)
    together = nncp(tensor, 3, restarts=4)
    few = nncp(tensor, 3, restarts=2)
    torch.testing.assert_close(few.error, together.error[:2])
    torch.testing.assert_close(few.pair, together.pair[:2])
    lowest = next(size for size in range(20_000, 10**6, 10_000) if _fits(tensor, size))
    grouped = nncp(tensor, 3, restarts=4, max_bytes=lowest)
    torch.testing.assert_close(grouped.pair, together.pair)
    torch.testing.assert_close(grouped.history, together.history, equal_nan=True)


def _fits(tensor, size):
    try:
        nncp(tensor, 3, restarts=1, max_iter=10, max_bytes=size)
    except TooLargeError:
        return False
    return True


def test_seeds():
    _, tensor, _ = world(2, shape=(20, 5, 30), rank=3, noise=0.1)
    state = torch.random.get_rng_state()
    before = tensor.clone()
    one, same, other = (nncp(tensor, 3, restarts=2, random_state=s) for s in (5, 5, 6))
    assert torch.equal(one.pair, same.pair)
    assert not torch.equal(one.pair, other.pair)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.testing.assert_close(tensor, before, equal_nan=True)
    assert torch.get_float32_matmul_precision() == "highest"


def test_tensors_that_track_gradients_and_integers_are_accepted():
    _, tensor, _ = world(2, shape=(20, 5, 30), rank=2, missing=0.0)
    tracked = nncp(tensor.clone().requires_grad_(), 2, restarts=2)
    assert not tracked.pair.requires_grad
    counts = nncp((10 * tensor).round().to(torch.int32), 2, restarts=2)
    assert counts.pair.dtype == torch.float32


def test_a_start_from_the_solution_stays_there():
    truth, tensor, _ = world(1, shape=(30, 6, 40), rank=3)
    fit = nncp(tensor, 3, init=truth)
    assert fit.weights.shape == (1, 3)
    assert float(fit.error[0]) < 1e-7
    assert bool(fit.converged[0])


# ------------------------------------------------------------ collapsed components


def test_a_collapsed_component_is_revived_once():
    truth, tensor, _ = world(0, shape=(30, 6, 40), rank=3)
    dead = [f.clone() for f in truth.factors]
    dead[0][:, 1] = 0
    dead[2][:, 1] = 0
    fit = nncp(tensor, 3, init=CP(truth.weights, tuple(dead)))
    assert factor_match_score(truth, fit.best) > 0.98
    assert float(fit.error[0]) < 1e-3


def test_a_component_that_collapses_again_is_dropped_with_a_warning():
    rows = torch.zeros(6, dtype=torch.float64)
    rows[0] = 1.0
    tensor = torch.einsum("t,w,p->twp", rows, torch.ones(3, dtype=torch.float64), torch.ones(4, dtype=torch.float64))
    columns = (rows, torch.ones(3).double(), torch.ones(4).double())
    exact = CP(torch.ones(2).double(), tuple(torch.stack([c, torch.zeros_like(c)], 1) for c in columns))
    with pytest.warns(TectumWarning, match="1 of 2 components collapsed to zero and were dropped; choose"):
        fit = nncp(tensor, 2, init=exact)
    assert fit.best.weights.shape == (1,)
    assert fit.best.factors[2].shape == (4, 1)
    assert float(fit.weights[0, 1]) == 0


# ------------------------------------------------------------ tensorly


def test_same_factors_as_tensorly():
    from tensorly.cp_tensor import CPTensor
    from tensorly.decomposition import non_negative_parafac_hals

    _, tensor, _ = world(0, shape=(30, 8, 40), rank=3, noise=0.05, missing=0.0)
    rng = np.random.default_rng(0)
    start = [rng.random((n, 3)) for n in tensor.shape]
    init = CPTensor((np.ones(3), [f.copy() for f in start]))
    theirs, errors = non_negative_parafac_hals(
        tensor.numpy(), 3, n_iter_max=400, init=init, tol=1e-12, return_errors=True
    )
    ours = nncp(tensor, 3, init=CP(torch.ones(3).double(), tuple(torch.tensor(f) for f in start)), tol=1e-12)
    peer = cp_normalize(from_tensorly(theirs))
    assert factor_match_score(ours.best, peer) > 1 - 1e-8
    torch.testing.assert_close(ours.best.weights, peer.weights, rtol=1e-4, atol=0)
    assert float(ours.error[0]) == pytest.approx(float(errors[-1]), rel=1e-6)


@pytest.mark.parametrize("backend", ["numpy", "pytorch"])
def test_exchange_leaves_tensorlys_backend_alone(backend):
    import tensorly as tl

    model = CP(torch.tensor([2.0, 1.0]), (torch.rand(3, 2), torch.rand(4, 2), torch.rand(5, 2)))
    with tl.backend_context(backend):
        given = to_tensorly(model)
        assert tl.get_backend() == backend
        back = from_tensorly(given)
        assert tl.get_backend() == backend
    assert given.rank == 2
    assert given.shape == (3, 4, 5)
    np.testing.assert_allclose(tl.cp_to_tensor(given), cp_reconstruct(model).numpy(), rtol=1e-5)
    for one, other in zip(back.factors, model.factors, strict=True):
        assert torch.equal(one, other)


def test_from_tensorly_rejects_factors_of_different_rank():
    with pytest.raises(InputError, match="factors \\(size, component\\) of one rank"):
        from_tensorly((None, [np.ones((3, 2)), np.ones((4, 3))]))


# ------------------------------------------------------------ factor match score


def test_factor_match_score_matches_by_brute_force():
    rng = torch.Generator().manual_seed(0)
    one, other = (CP(torch.ones(3), tuple(torch.rand(n, 3, generator=rng) for n in (5, 4, 6))) for _ in range(2))
    unit = [[f / f.norm(dim=0) for f in model.factors] for model in (one, other)]
    scores = [
        np.mean([np.prod([float(a[:, r] @ b[:, q]) for a, b in zip(*unit, strict=True)]) for r, q in enumerate(order)])
        for order in itertools.permutations(range(3))
    ]
    assert factor_match_score(one, other) == pytest.approx(max(scores), rel=1e-5)


def test_factor_match_score_of_unequal_ranks_and_sizes():
    model = CP(torch.ones(2), (torch.eye(3)[:, :2], torch.eye(2)))
    part = CP(torch.ones(1), (torch.eye(3)[:, :1], torch.eye(2)[:, :1]))
    assert factor_match_score(model, part) == 0.5
    with pytest.raises(InputError, match="modes of sizes"):
        factor_match_score(model, CP(torch.ones(2), (torch.ones(4, 2), torch.eye(2))))


def test_reconstruct_is_einsum():
    model = CP(torch.rand(3), (torch.rand(4, 3), torch.rand(2, 3), torch.rand(5, 3)))
    torch.testing.assert_close(cp_reconstruct(model), torch.einsum("r,tr,wr,pr->twp", model.weights, *model.factors))


# ------------------------------------------------------------ bad inputs

GOOD = torch.ones(6, 2, 5)
RANK_1 = CP(torch.ones(1), (torch.ones(6, 1), torch.ones(2, 1), torch.ones(5, 1)))
PART = torch.ones(6, 2, 5)
PART[3, 1, 2] = torch.nan
BAD = {
    "rank 0": (GOOD, 0, {}, "1 <= rank <= min"),
    "rank above the limit": (GOOD, 7, {}, "1 <= rank <= min\\(time, animal \\* pair\\) = 6, got rank=7"),
    "two axes": (torch.ones(6, 5), 1, {}, "time, animal, pair"),
    "not a tensor": (np.ones((6, 2, 5)), 1, {}, "tensor or pair source"),
    "negative": (-GOOD, 1, {}, "entries >= 0, got minimum -1"),
    "infinite": (GOOD / 0, 1, {}, "finite entries"),
    "all zero": (0 * GOOD, 1, {}, "at least one positive"),
    "all missing": (GOOD * torch.nan, 1, {}, "at least one positive"),
    "NaN in part of a fibre": (PART, 1, {}, "use solver='em'"),
    "negative with em": (-PART, 1, {"solver": "em"}, "entries >= 0"),
    "solver": (GOOD, 1, {"solver": "als"}, "'fibre' or 'em' or 'cp_opt'"),
    "restarts": (GOOD, 1, {"restarts": 0}, "restarts >= 1"),
    "iterations": (GOOD, 1, {"min_iter": 9, "max_iter": 5}, "min_iter <= max_iter"),
    "mask shape": (GOOD, 1, {"mask": torch.ones(5, 2, dtype=torch.bool)}, "bool of shape \\(2, 5\\)"),
    "mask dtype": (GOOD, 1, {"mask": torch.ones(2, 5)}, "bool of shape"),
    "entry mask": (GOOD, 1, {"mask": torch.ones(6, 2, 5, dtype=torch.bool)}, "use solver='em'"),
    "init shape": (GOOD, 2, {"init": RANK_1}, "non-negative factors"),
    "no init": (GOOD, 2, {"init": []}, "at least one CP model"),
    "em on a stream": (Chunked(GOOD, 2), 1, {"solver": "em"}, "'fibre' or 'cp_opt' with a pair source"),
    "NaN in a stream": (Chunked(PART, 2), 1, {}, "whole fibres over time"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_inputs(name):
    tensor, rank, options, message = BAD[name]
    with pytest.raises(InputError, match=message):
        nncp(tensor, rank, **options)


def test_a_stream_with_a_gap_is_refused():
    class Gap(Chunked):
        def chunks(self):
            return (part for part in super().chunks() if part[0].start != 2)

    with pytest.raises(InputError, match="the pairs from 2 on"):
        nncp(Gap(GOOD, 2), 1)


def test_too_large_is_refused_before_anything_is_read():
    class Huge:
        shape = (10**6, 10, 10**6)

        def chunks(self):
            raise AssertionError("read")

    with pytest.raises(TooLargeError, match="bin the time axis, reduce the rank, or pass a pair source") as caught:
        nncp(Huge(), 100)
    assert isinstance(caught.value, MemoryError)
    with pytest.raises(TooLargeError, match="max_bytes=1000"):
        nncp(GOOD, 1, max_bytes=1000)


def test_random_factors_do_not_depend_on_the_other_restarts():
    two, one = (_nncp_solvers.random_factors((4, 3, 5), 2, seeds) for seeds in ([7, 8], [8]))
    assert torch.equal(two.pair[1], one.pair[0])
    assert torch.equal(two.time[1], one.time[0])


# ------------------------------------------------------------ devices


@pytest.mark.parametrize("solver", ["fibre", "em", "cp_opt"])
def test_another_device_gives_the_same_factors(solver):
    _, tensor, _ = world(2, shape=(14, 4, 15), rank=2, noise=0.1)
    here = nncp(tensor, 2, restarts=2, solver=solver, max_iter=12)
    with simulated_accelerator() as device:
        there = nncp(tensor.to(device), 2, restarts=2, solver=solver, max_iter=12)
        assert {part.device for part in there} == {device}
        assert factor_match_score(there.best, CP(*_moved(here.best, device))) > 1 - 1e-9
        pair, error = there.pair.cpu(), there.error.cpu()
    torch.testing.assert_close(pair, here.pair)
    torch.testing.assert_close(error, here.error)


def _moved(model, device):
    return model.weights.to(device), tuple(factor.to(device) for factor in model.factors)


def test_the_host_waits_at_checks_alone():
    _, tensor, _ = world(2, shape=(14, 4, 15), rank=2, noise=0.1)
    waits = []
    with simulated_accelerator() as device:
        moved = tensor.to(device)
        for sweeps in (10, 20, 30):
            with count_syncs() as counted:
                nncp(moved, 2, restarts=2, tol=0.0, min_iter=sweeps, max_iter=sweeps)
            waits.append(sum(counted.values()))
    assert waits[2] - waits[1] == waits[1] - waits[0]
    assert (waits[1] - waits[0]) / 10 <= 1  # two checks in ten sweeps
