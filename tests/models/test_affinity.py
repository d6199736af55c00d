"""Affinity: naive loops as oracles, exactness of the specification, streaming, gaps and refusals."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.simulated_accelerator import count_syncs, simulated_accelerator
from tectum.core.errors import InputError, TooLargeError
from tectum.models.dynamic_connectome.affinity import (
    PairSource,
    affinity,
    affinity_options,
    block_mean,
    fibre_mask,
    observed_pairs,
    pair_animal,
)
from tectum.models.dynamic_connectome.derivative import signed_derivative
from tectum.models.dynamic_connectome.kernels import gaussian_taps
from tectum.models.dynamic_connectome.pairs import from_matrix, n_units_of, pair_index, pair_position, to_matrix

NAN = float("nan")
KINDS = ["corrected", "differential", "differential_instant", "sliding_abs_corr"]
SIGNS = ["abs", "same", "opposite"]


def speeds(n_time=150, n_units=5, seed=0):
    """Values of [-1, 1] in runs, with silent stretches."""
    rng = np.random.default_rng(seed)
    v = np.clip(np.cumsum(rng.normal(0, 0.3, (n_time, n_units)), 0) % 2 - 1, -1, 1)
    v[np.abs(v) < 0.3] = 0
    return torch.from_numpy(v.astype(np.float32))


def traces(n_time=300, n_units=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n_time, n_units, generator=generator, dtype=torch.float64).cumsum(0)


def c_naive(a, b, sign):
    out = np.sign(a * b) * np.minimum(abs(a), abs(b))
    return {"abs": out, "same": np.maximum(out, 0), "opposite": np.maximum(-out, 0)}[sign]


def smooth_naive(x, taps):
    """Weighted mean over the samples that exist and are not NaN."""
    half, out = len(taps) // 2, np.full(len(x), np.nan)
    for t in range(len(x)):
        total = weight = 0.0
        for k, tap in enumerate(taps):
            at = t + k - half
            if 0 <= at < len(x) and np.isfinite(x[at]):
                total, weight = total + tap * x[at], weight + tap
        out[t] = total / weight if weight > 0 else np.nan
    return out


def corrected_naive(a, b, options):
    taps = gaussian_taps(options.smoothing)
    terms = [
        term
        for lag in options.lags
        for shift in (lag, -lag)
        for term in (c_naive(a, np.roll(b, -shift), options.sign), c_naive(np.roll(a, -shift), b, options.sign))
    ]
    now = smooth_naive(c_naive(a, b, options.sign), taps)
    return np.clip(abs(now) - abs(smooth_naive(np.mean(terms, 0), taps)), 0, 1)


def differential_naive(a, b, sign):
    out, t = np.zeros(len(a)), 0
    wanted = {"abs": lambda s: s != 0, "same": lambda s: s > 0, "opposite": lambda s: s < 0}[sign]
    while t < len(a):
        stop = t
        while stop < len(a) and np.sign(a[stop]) == np.sign(a[t]) and np.sign(b[stop]) == np.sign(b[t]):
            stop += 1
        if wanted(a[t] * b[t]):
            small, large = np.minimum(abs(a[t:stop]), abs(b[t:stop])), np.maximum(abs(a[t:stop]), abs(b[t:stop]))
            out[t:stop] = small.sum() / large.sum() * small.max()
        t = stop
    return out


def sliding_naive(a, b, half, sign):
    out = np.zeros(len(a))
    for t in range(len(a)):
        window = slice(max(0, t - half), t + half + 1)
        seen = np.isfinite(a[window]) & np.isfinite(b[window])
        out[t] = np.corrcoef(a[window][seen], b[window][seen])[0, 1]
    return np.clip({"abs": abs(out), "same": out, "opposite": -out}[sign], 0, 1)


def naive(kind, a, b, options):
    if kind == "corrected":
        return corrected_naive(a, b, options)
    if kind == "differential":
        return differential_naive(a, b, options.sign)
    if kind == "differential_instant":
        return abs(c_naive(a, b, options.sign))
    return sliding_naive(a, b, options.half_window, options.sign)


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_equal_loops(kind, sign):
    signal = traces(150).float() if kind == "sliding_abs_corr" else speeds()
    found = affinity(signal, dt=0.25, kind=kind, sign=sign)
    options = affinity_options(dt=0.25, kind=kind, sign=sign)
    values = signal.double().numpy()
    assert found.shape == (150, 10)
    assert found.max() > 0.05
    for p, (i, j) in enumerate(itertools.combinations(range(5), 2)):
        np.testing.assert_allclose(found[:, p], naive(kind, values[:, i], values[:, j], options), atol=3e-6)


def test_sliding_correlation_survives_offsets():
    x = traces(200)
    exact = affinity(x, dt=0.25, kind="sliding_abs_corr")
    torch.testing.assert_close(affinity(x + 1e6, dt=0.25, kind="sliding_abs_corr"), exact, atol=1e-6, rtol=0)
    torch.testing.assert_close(affinity(x * 1e-9, dt=0.25, kind="sliding_abs_corr"), exact, atol=1e-6, rtol=0)


@settings(deadline=None, derandomize=True, max_examples=10)
@given(seed=st.integers(0, 1000), scale=st.floats(1e-2, 1e2), offset=st.floats(-100, 100))
@pytest.mark.parametrize("kind", KINDS)
def test_affinity_of_traces_ignores_scale_and_offset(kind, seed, scale, offset):
    x = traces(160, 4, seed=seed)
    y = x * torch.tensor([1.0, scale, 2.0, 1.0], dtype=x.dtype) + torch.tensor([0.0, 1.0, offset, 0.0], dtype=x.dtype)
    if kind != "sliding_abs_corr":
        x, y = signed_derivative(x, dt=0.25).v, signed_derivative(y, dt=0.25).v
    one, other = affinity(x, dt=0.25, kind=kind), affinity(y, dt=0.25, kind=kind)
    torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    assert one.min() >= 0
    assert one.max() <= 1


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("kind", KINDS)
def test_affinity_is_symmetric_under_permutation_of_units(kind, sign):
    v = speeds(200, 6, seed=4) if kind != "sliding_abs_corr" else traces(200, 6)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    one = to_matrix(affinity(v, dt=0.25, kind=kind, sign=sign))
    other = to_matrix(affinity(v[:, order], dt=0.25, kind=kind, sign=sign))
    torch.testing.assert_close(one[:, order][:, :, order], other, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_constant_traces_have_no_affinity(kind):
    x = traces(160, 4).float()
    x[:, 2] = 0.1
    signal = x if kind == "sliding_abs_corr" else signed_derivative(x, dt=0.25).v
    out = to_matrix(affinity(signal, dt=0.25, kind=kind))
    assert (out[:, 2] == 0).all()
    assert out.max() > 0


def test_signs_split_the_instant_affinity():
    v = speeds()
    both, same, opposite = (affinity(v, dt=0.25, kind="differential_instant", sign=sign) for sign in SIGNS)
    torch.testing.assert_close(both, same + opposite)
    assert (same * opposite == 0).all()
    flipped = affinity(v * torch.tensor([1, -1, 1, 1, 1]), dt=0.25, kind="corrected", sign="opposite")
    same = affinity(v, dt=0.25, kind="corrected", sign="same")
    with_second = [p for p, pair in enumerate(itertools.combinations(range(5), 2)) if 1 in pair]
    torch.testing.assert_close(flipped[:, with_second], same[:, with_second])


def test_lag_null_removes_the_chance_floor():
    rng = np.random.default_rng(0)
    busy = torch.from_numpy(rng.choice([-1.0, 1.0], (1000, 6)).repeat(2, 0)).float()
    v = torch.cat([busy[:, :1].expand(-1, 3), busy[:, 3:]], 1)  # three units together, three alone, none ever silent
    within, unrelated = to_matrix(affinity(v, dt=0.25).mean(0))[[0, 3], [1, 4]]
    floor = to_matrix(affinity(v, dt=0.25, kind="differential").mean(0))[3, 4]
    assert within > 0.8
    assert unrelated < within / 4
    assert floor > 0.99


def test_absent_units_give_missing_fibres():
    v = speeds()
    v[:, 2] = NAN
    out = affinity(v, dt=0.25)
    missing = from_matrix(torch.isnan(to_matrix(out)).any(0))
    assert torch.equal(missing, from_matrix((torch.arange(5) == 2)[:, None] | (torch.arange(5) == 2)))
    source = PairSource(animals=[pair_animal(v)], options=affinity_options(dt=0.25), fill=0.0)
    assert torch.equal(source.mask[0], ~missing)
    assert (source.dense()[:, 0, missing] == 0).all()
    assert source.complete


def test_corrected_with_gaps_equals_loop():
    v, options = speeds(140, 3, seed=2), affinity_options(dt=0.25)
    valid = torch.ones(140, 3, dtype=torch.bool)
    valid[40:70, 1] = False
    source = PairSource(animals=[pair_animal(torch.where(valid, v, 0.0), valid=valid)], options=options)
    found = source.dense()[:, 0]
    assert not source.complete
    holed = np.where(valid.numpy(), v.double().numpy(), np.nan)
    taps = gaussian_taps(options.smoothing)
    for p, (i, j) in enumerate(itertools.combinations(range(3), 2)):
        a, b = holed[:, i], holed[:, j]
        shifts = [sign * lag for lag in options.lags for sign in (1, -1)]
        terms = [c_naive(a, np.roll(b, -s), "abs") for s in shifts] + [
            c_naive(np.roll(a, -s), b, "abs") for s in shifts
        ]
        weights = np.isfinite(terms).sum(0) / len(terms)
        mean = np.nansum(terms, 0) / len(terms)
        half = len(taps) // 2
        null, weight = (np.convolve(y, taps)[half : half + 140] for y in (mean, weights))
        expected = np.clip(abs(smooth_naive(c_naive(a, b, "abs"), taps)) - abs(null / weight), 0, 1)
        expected[~np.isfinite(a * b)] = np.nan
        np.testing.assert_allclose(found[:, p], expected, atol=3e-6)


@pytest.mark.parametrize("kind", ["differential", "differential_instant"])
def test_derivative_kinds_with_gaps_equal_loops(kind):
    v, valid = speeds(140, 3, seed=2), torch.ones(140, 3, dtype=torch.bool)
    valid[40:70, 1] = False
    options = affinity_options(dt=0.25, kind=kind)
    found = affinity(v, dt=0.25, kind=kind, valid=valid)
    silent = torch.where(valid, v, 0.0).double().numpy()
    for p, (i, j) in enumerate(itertools.combinations(range(3), 2)):
        expected = naive(kind, silent[:, i], silent[:, j], options)
        expected[~(valid[:, i] & valid[:, j])] = np.nan
        np.testing.assert_allclose(found[:, p], expected, atol=1e-6)


def test_sliding_correlation_with_gaps_uses_the_common_samples():
    x, valid = traces(140, 3), torch.ones(140, 3, dtype=torch.bool)
    valid[40:70, 1] = False
    found = affinity(x + 1e5, dt=0.25, kind="sliding_abs_corr", valid=valid)
    holed = np.where(valid.numpy(), x.numpy(), np.nan)
    for p, (i, j) in enumerate(itertools.combinations(range(3), 2)):
        both = (valid[:, i] & valid[:, j]).numpy()
        for t in np.flatnonzero(both):
            seen = both[max(0, t - 20) : t + 21]
            a, b = holed[max(0, t - 20) : t + 21][seen][:, [i, j]].T
            np.testing.assert_allclose(found[t, p], abs(np.corrcoef(a, b)[0, 1]), atol=1e-6)
        assert torch.isnan(found[~torch.from_numpy(both), p]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_crosses_a_seam(kind):
    v = speeds(200, 4, seed=1) if kind != "sliding_abs_corr" else traces(200, 4)
    found = affinity(v, dt=0.25, kind=kind, blocks=[(0, 90), (90, 200)])
    expected = torch.cat([affinity(part, dt=0.25, kind=kind) for part in (v[:90], v[90:])])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def three_animals(**options):
    v = [speeds(120, 6, seed=seed) for seed in range(3)]
    v[1][:, 4] = NAN
    return PairSource(animals=[pair_animal(x) for x in v], options=affinity_options(dt=0.25), **options)


@pytest.mark.parametrize("chunk", [1, 4, 15, 4096])
def test_streaming_equals_dense(chunk):
    whole = three_animals().dense()
    source = three_animals(chunk=chunk)
    assert source.shape == (120, 3, 15)
    pieces = list(source.chunks())
    assert [(where.start, where.stop) for where, _ in pieces] == [(k, min(k + chunk, 15)) for k in range(0, 15, chunk)]
    torch.testing.assert_close(torch.cat([values for _, values in pieces], 2), whole, equal_nan=True, atol=1e-7, rtol=0)


def test_tiles_do_not_change_the_result(monkeypatch):
    whole = three_animals().dense()
    monkeypatch.setattr("tectum.models.dynamic_connectome.affinity._TILE", 300)
    torch.testing.assert_close(three_animals().dense(), whole, equal_nan=True, atol=1e-7, rtol=0)


def test_bins_average_the_affinity():
    whole = three_animals().dense()
    binned = three_animals(bin_size=7).dense()
    assert binned.shape[0] == 17
    torch.testing.assert_close(binned, block_mean(whole, size=7), equal_nan=True)
    expected = torch.stack([whole[7 * k : 7 * k + 7].mean(0) for k in range(17)])
    torch.testing.assert_close(binned, expected, equal_nan=True)


def test_bins_of_an_alignment_average_repeats():
    v = speeds(120, 4)
    bins = torch.tensor([[[10, 11], [12, 13]], [[50, 51], [52, 53]]])  # two repeats of two bins of two samples
    source = PairSource(animals=[pair_animal(v, bins=bins)], options=affinity_options(dt=0.25))
    whole = affinity(v, dt=0.25)
    expected = torch.stack([(whole[[10, 11, 50, 51]]).mean(0), (whole[[12, 13, 52, 53]]).mean(0)])
    torch.testing.assert_close(source.dense()[:, 0], expected)


def test_bins_that_meet_a_gap_use_the_rest():
    v = speeds(120, 3)
    valid = torch.ones(120, 3, dtype=torch.bool)
    valid[42:50, 0] = False
    source = PairSource(animals=[pair_animal(v, valid=valid)], options=affinity_options(dt=0.25), bin_size=4)
    whole, binned = affinity(v, dt=0.25, valid=valid), source.dense()[:, 0]
    torch.testing.assert_close(binned[10, 0], whole[40:42, 0].mean())
    assert torch.isnan(binned[11, :2]).all()
    assert torch.isfinite(binned[:, 2]).all()


def test_only_the_wanted_pairs_are_computed():
    present = torch.tensor([[True, True, False, True], [True, True, True, False]])
    kept, removed = observed_pairs(present)
    assert removed.T.tolist() == [[2, 3]]
    assert observed_pairs(present, min_animals=2)[0].T.tolist() == [[0, 1]]
    v = speeds(120, 4)
    torch.testing.assert_close(affinity(v, dt=0.25, pairs=kept), affinity(v, dt=0.25)[:, :5])
    assert fibre_mask(present, pairs=kept).tolist() == [
        [True, False, True, False, True],
        [True, True, False, True, False],
    ]


def test_mean_cofluctuation_is_signed():
    v = speeds(120, 3)
    v[:, 1] = -v[:, 0]
    source = PairSource(animals=[pair_animal(v)], options=affinity_options(dt=0.25), bin_size=2)
    mean = source.mean_cofluctuation()
    assert mean.shape == (1, 3)
    torch.testing.assert_close(mean[0, 0], -v[:, 0].abs().mean())
    a, b = v[:, 0].numpy(), v[:, 2].numpy()
    np.testing.assert_allclose(mean[0, 1], c_naive(a, b, "abs").mean(), atol=1e-6)
    weights = (torch.arange(60) < 10).float()
    np.testing.assert_allclose(
        source.mean_cofluctuation(weights=weights)[0, 1], c_naive(a, b, "abs")[:20].mean(), atol=1e-6
    )
    sliding = PairSource(animals=[pair_animal(v)], options=affinity_options(dt=0.25, kind="sliding_abs_corr"))
    with pytest.raises(InputError, match="mean_cofluctuation: expected a source of derivatives"):
        sliding.mean_cofluctuation()


@pytest.mark.parametrize("n_units", [2, 3, 7, 40])
def test_pair_order_round_trip(n_units):
    index = pair_index(n_units)
    assert list(zip(*index.tolist(), strict=True)) == list(itertools.combinations(range(n_units), 2))
    n_pairs = index.shape[1]
    assert pair_position(index[0], index[1], n_units=n_units).tolist() == list(range(n_pairs))
    assert n_units_of(n_pairs) == n_units
    values = torch.rand(3, n_pairs)
    matrix = to_matrix(values)
    assert torch.equal(matrix, matrix.mT)
    assert torch.equal(from_matrix(matrix), values)


def test_pair_subset_round_trip_and_refusals():
    kept = torch.tensor([[0, 1], [3, 2]])
    matrix = to_matrix(torch.tensor([5.0, 6.0]), n_units=4, pairs=kept, fill=NAN)
    assert from_matrix(matrix, pairs=kept).tolist() == [5.0, 6.0]
    assert int(torch.isfinite(matrix).sum()) == 4
    with pytest.raises(InputError, match="expected a triangular number of pairs, got 5"):
        to_matrix(torch.zeros(5))
    with pytest.raises(InputError, match="expected 6 pairs, got 5"):
        to_matrix(torch.zeros(5), n_units=4)
    with pytest.raises(InputError, match="at least 2 units, got 1"):
        pair_index(1)


def test_lags_scale_with_smoothing_and_stay_above_three_samples():
    assert affinity_options(dt=0.25).lags == (8, 12, 16, 20)
    assert affinity_options(dt=0.25, smoothing=4.0).lags == (16, 24, 32, 40)
    assert affinity_options(dt=2.0).lags == (3, 5, 6, 8)
    assert affinity_options(dt=0.25, lags=[-2, 2, 5]).lags == (8, 20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "corected"}, r"affinity kind: .*got 'corected'; did you mean 'corrected'"),
        ({"sign": "both"}, r"expected 'abs' \| 'same' \| 'opposite', got 'both'"),
        ({"lags": [0.25]}, "lags of 3 samples or more"),
        ({"smoothing": 0.0}, "smoothing and window > 0 s"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        affinity_options(dt=0.25, **options)


def test_e11_lags_must_fit_into_blocks():
    message = r"animal 0: expected blocks longer than the longest lag \(20 samples\), got a block of 20 samples"
    with pytest.raises(InputError, match=message):
        affinity(speeds(120), dt=0.25, blocks=[(0, 20), (20, 120)])
    assert affinity(speeds(120), dt=0.25, kind="differential", blocks=[(0, 20), (20, 120)]).shape == (120, 10)
    assert affinity(speeds(121), dt=0.25, blocks=[(0, 21), (21, 121)]).shape == (121, 10)


def test_e12_too_large_is_refused_before_allocation():
    source = three_animals()
    message = r"at most .* GiB, got shape \(120, 3, 15\) = .* GiB; use a longer bin, .*streaming"
    with pytest.raises(TooLargeError, match=message):
        source.dense(max_bytes=120 * 3 * 15 * 4 - 1)
    with pytest.raises(MemoryError):
        source.dense(max_bytes=1)
    assert source.dense(max_bytes=120 * 3 * 15 * 4).shape == (120, 3, 15)


def test_animals_must_share_units_and_time():
    options = affinity_options(dt=0.25)
    with pytest.raises(InputError, match=r"one list of units, got numbers of units \[5, 4\]"):
        PairSource(animals=[pair_animal(speeds(100, 5)), pair_animal(speeds(100, 4))], options=options)
    with pytest.raises(InputError, match=r"one time axis .*got \[100, 99\] bins; align the animals first"):
        PairSource(animals=[pair_animal(speeds(100)), pair_animal(speeds(99))], options=options)
    with pytest.raises(InputError, match="bin_size and chunk >= 1, got 0"):
        PairSource(animals=[pair_animal(speeds(100))], options=options, bin_size=0)


@pytest.mark.parametrize("kind", KINDS)
def test_runs_on_an_accelerator(kind):
    v = speeds(90, 4)
    v[:, 3] = NAN
    valid = torch.isfinite(v)
    valid[30:40, 1] = False
    options = affinity_options(dt=0.25, kind=kind)
    expected = PairSource(animals=[pair_animal(v, valid=valid)], options=options, bin_size=3).dense()
    with simulated_accelerator() as device:
        animal = pair_animal(v.to(device), valid=valid.to(device))
        source = PairSource(animals=[animal], options=options, bin_size=3)
        with count_syncs() as waits:
            found = source.dense()
        assert sum(waits.values()) == 0
        assert found.device.type == device.type
        torch.testing.assert_close(found.cpu(), expected, equal_nan=True)
