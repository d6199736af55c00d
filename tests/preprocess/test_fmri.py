"""Cleaning equals nilearn's for every combination of options, and does what it must on simulated runs."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tectum
from tectum import Recording, Session
from tectum.core.errors import InputError, TectumWarning
from tectum.io.convert import from_nibabel
from tectum.preprocess import STEPS
from tectum.preprocess.fmri import clean, dvars, framewise_displacement, tsnr

N, V, TR = 120, 12, 2.0
FILTERS = [
    ("butterworth", None, None), ("butterworth", 0.1, None), ("butterworth", None, 0.01), ("butterworth", 0.1, 0.01),
    ("cosine", None, 0.01), (None, None, None),
]  # fmt: skip


def series(seed: int = 0, n: int = N) -> np.ndarray:
    rng = np.random.default_rng(seed)
    walk = rng.standard_normal((n, V)).cumsum(0)
    return (1000 + 5 * walk + 10 * rng.standard_normal((n, V))).astype(np.float32)


def noise(seed: int = 1, n: int = N, k: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, k)).cumsum(0)


def recording(values: Any, **fields: Any) -> Recording:
    options = {"dims": ("time", "voxel"), "rate": 1 / TR, "units": "BOLD", **fields}
    return Recording(data=torch.as_tensor(values), **options)


def nilearns(values: np.ndarray, **options: Any) -> np.ndarray:
    from nilearn.signal import clean as theirs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: np.ndarray = theirs(values.astype(np.float64), t_r=TR, **options)
    return found


MASKS = {"none": [], "scattered": [0, 1, 40, 41, 77, 100], "tail": [30, 117, 118, 119]}


@pytest.mark.parametrize(("kind", "low", "high"), FILTERS)
@pytest.mark.parametrize("removed", MASKS)
def test_equals_nilearn(kind: Any, low: float | None, high: float | None, removed: str) -> None:
    values = series()
    # beside a confound that looks like a cosine nilearn leaves its own cosines out, all of them
    confounds = np.diff(noise(n=N + 1), axis=0) if kind == "cosine" else noise()
    kept = np.setdiff1d(np.arange(N), MASKS[removed])
    sample = None if removed == "none" else kept
    grid = itertools.product(
        (True, False),
        ("zscore", "psc", None),
        (True, False),
        (confounds, None),
        (False, True) if sample is not None else (False,),
    )
    for detrend, scale, standard, given_, extrapolate in grid:
        expected = nilearns(
            values, detrend=detrend, standardize={"zscore": "zscore_sample"}.get(str(scale), scale), confounds=given_,
            standardize_confounds=standard, filter=kind or False, low_pass=low, high_pass=high,
            sample_mask=None if sample is None else sample.copy(), extrapolate=extrapolate,
        )  # fmt: skip
        for dtype in (torch.float64, torch.float32):
            found = clean(
                recording(torch.from_numpy(values).to(dtype)), given_, detrend=detrend, filter=kind, low_pass=low,
                high_pass=high, standardise=scale, standardise_confounds=standard, sample_mask=sample,
                extrapolate=extrapolate,
            )  # fmt: skip
            size = 1.0 if scale == "zscore" else max(1.0, float(np.abs(expected).max()))
            exact = 1e-8 if dtype == torch.float64 else 1e-4
            np.testing.assert_allclose(found.values.numpy() / size, expected / size, rtol=0, atol=exact)


def test_volumes_removed_at_mirrored_places() -> None:
    """A volume and its mirror image in time, both removed: here nilearn 0.14 leaves them in what it filters."""
    values = series().astype(np.float64)
    places = [10, N - 11]
    spiked = values.copy()
    spiked[places] += 500
    kept = np.setdiff1d(np.arange(N), places)
    options: dict[str, Any] = {"low_pass": 0.1, "high_pass": 0.01, "sample_mask": kept}
    ours = clean(recording(spiked), **options).values.numpy()
    np.testing.assert_allclose(ours, clean(recording(values), **options).values.numpy(), atol=1e-9)
    from scipy.interpolate import CubicSpline

    filled = CubicSpline(kept * TR, spiked[kept])(np.arange(N) * TR)
    expected = nilearns(filled, low_pass=0.1, high_pass=0.01, standardize=None)[kept]
    np.testing.assert_allclose(
        clean(recording(spiked), standardise=None, **options).values.numpy(), expected, rtol=0, atol=1e-8
    )


def test_runs_equal_nilearn() -> None:
    runs = np.repeat([1, 2], [70, 50])
    expected = nilearns(series(), runs=runs, confounds=noise(), high_pass=0.01)
    found = clean(recording(series()), noise(), runs=runs, high_pass=0.01)
    np.testing.assert_allclose(found.values.numpy(), expected, atol=1e-4)


# What cleaning must do


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.booleans(), st.booleans())
def test_nothing_of_the_confounds_is_left(seed: int, detrend: bool, scrubbed: bool) -> None:
    confounds = noise(seed)
    kept = np.delete(np.arange(N), [5, 50, 51]) if scrubbed else np.arange(N)
    rec = recording(torch.from_numpy(series(seed)).double())
    made = clean(rec, confounds, detrend=detrend, sample_mask=kept)
    left = np.corrcoef(np.r_["1", made.values.numpy(), confounds[kept]].T)[:V, V:]
    assert np.abs(left).max() < 1e-6
    again = clean(made, confounds[kept], detrend=detrend)
    torch.testing.assert_close(again.values, made.values, rtol=0, atol=1e-8)


def test_cleaning_twice_is_cleaning_once() -> None:
    confounds = noise()
    once = clean(recording(torch.from_numpy(series()).double()), confounds, filter="cosine", high_pass=0.01)
    twice = clean(once, confounds, filter="cosine", high_pass=0.01)
    torch.testing.assert_close(once.values, twice.values, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("frequency", "least", "most"), [(0.2, 0.0, 0.05), (0.05, 0.9, 1.05)])
def test_gain_of_the_band(frequency: float, least: float, most: float) -> None:
    t = torch.arange(600, dtype=torch.float64) * TR
    wave = torch.sin(2 * torch.pi * frequency * t)[:, None]
    made = clean(recording(wave), low_pass=0.1, high_pass=0.01, standardise=None).values
    turn = torch.exp(2j * torch.pi * frequency * t)
    gain = (made[:, 0] * turn).mean().abs() / (wave[:, 0] * turn).mean().abs()
    assert least <= float(gain) <= most


def test_percent_and_units() -> None:
    rec = recording(torch.from_numpy(series()).double(), t0=4.0)
    assert clean(rec).units == "z"
    assert clean(rec, standardise=None).units == "BOLD"
    made = clean(rec, standardise="psc")
    assert made.units == "BOLD %"
    line = np.polynomial.polynomial.polyfit(np.arange(N), rec.values.numpy(), 1)
    expected = 100 * (rec.values.numpy() - line[0] - np.arange(N)[:, None] * line[1]) / rec.values.numpy().mean(0)
    np.testing.assert_allclose(made.values.numpy(), expected, atol=1e-9)


def test_constant_and_masked_series() -> None:
    values = series()
    values[:, 3] = 1000.1
    values[:, 4] = 0.0
    values[:, 5] = np.nan
    mask = torch.ones(1, V, dtype=torch.bool)
    mask[0, 5] = False
    for scale in ("zscore", "psc"):
        made = clean(recording(values, mask=mask), noise(), standardise=scale, high_pass=0.01).values
        assert float(made[:, [4, 5]].abs().max()) == 0.0
        assert float(made[:, 3].abs().max()) < 1e-4
        assert bool(torch.isfinite(made).all())


def test_the_clock_of_what_stays() -> None:
    rec = recording(series(), t0=0.96, coords={"time": {"run": np.arange(N)}})
    head = clean(rec, sample_mask=np.arange(3, N))
    assert (head.t0, head.rate) == (pytest.approx(0.96 + 6.0), 0.5)
    gaps = clean(rec, sample_mask=np.delete(np.arange(N), [7, 8]))
    assert gaps.rate is None
    assert gaps.times is not None
    assert gaps.times[7] == pytest.approx(0.96 + 9 * TR)
    assert gaps.coords["time"]["run"].tolist()[6:8] == [6, 9]
    assert gaps.history[-1]["removed"] == 2
    assert gaps.history[-1]["reach"] == float("inf")


def test_axes_in_any_order_and_number() -> None:
    values = series().reshape(N, 3, 4)
    flat = clean(recording(series()), noise())
    turned = Recording(data=torch.from_numpy(values).permute(1, 0, 2), dims=("x", "time", "y"), rate=0.5, units="BOLD")
    made = clean(turned, noise())
    assert made.dims == ("x", "time", "y")
    torch.testing.assert_close(made.tensor("time", "x", "y").reshape(N, V), flat.values)


def test_blocks_do_not_touch(monkeypatch: pytest.MonkeyPatch) -> None:
    from tectum.preprocess import _fmri_clean

    values = torch.randn(N, 700, generator=torch.Generator().manual_seed(0)).double() + 50
    whole = clean(recording(values), noise(), standardise="psc", low_pass=0.1).values
    monkeypatch.setattr(_fmri_clean, "_BLOCK", 1)  # then 256 series at a time
    torch.testing.assert_close(clean(recording(values), noise(), standardise="psc", low_pass=0.1).values, whole)


@pytest.mark.parametrize("options", [{}, {"standardise": "psc"}, {"low_pass": 0.1, "sample_mask": np.arange(4, N)}])
def test_series_stored_one_after_the_other(options: dict[str, Any]) -> None:
    """As a masked image in memory has them: nothing is turned, and the result is stored likewise."""
    values = torch.from_numpy(series())
    made = clean(recording(values.T.contiguous().T), noise(), **options).values
    torch.testing.assert_close(made, clean(recording(values), noise(), **options).values, rtol=1e-5, atol=2e-5)
    assert made.stride(0) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_type_stays(dtype: torch.dtype) -> None:
    assert clean(recording(torch.from_numpy(series()).to(dtype)), noise(k=2)).values.dtype == dtype


@pytest.mark.parametrize("options", [{}, {"low_pass": 0.1, "high_pass": 0.01, "sample_mask": np.arange(4, N)},
                                     {"filter": "cosine", "high_pass": 0.01, "standardise": "psc"}])  # fmt: skip
def test_the_accelerator_agrees(options: dict[str, Any], accelerator: torch.device) -> None:
    values = torch.from_numpy(series()).double()
    expected = clean(recording(values), noise(), **options).values
    found = clean(recording(values.to(accelerator)), noise(), **options)
    assert found.values.device.type == accelerator.type
    torch.testing.assert_close(found.values.cpu(), expected, rtol=0, atol=1e-6)


def test_sessions_and_steps() -> None:
    coords = {"feature": {"name": list("abcdef")}, "time": {"kept": np.arange(N) != 9}}
    confounds = Recording(data=torch.from_numpy(noise()), dims=("time", "feature"), rate=0.5, coords=coords)
    session = Session(items_={"bold": recording(series()), "confounds": confounds}, subject="01")
    made = STEPS["clean"](session)
    assert made["bold"].sizes["time"] == N - 1
    assert made["bold"].history[-1]["confounds"] == list("abcdef")
    assert made["confounds"] is session["confounds"]
    assert "parcellate" in STEPS


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda r: clean(r, noise(n=119)), "confounds.: expected 120 rows, one a volume, got 119 rows"),
        (lambda r: clean(r, noise(k=130)), "fewer confounds than volumes that stay, got 130 confounds for 120"),
        (lambda r: clean(r, np.full((N, 1), np.nan)), "finite confounds"),
        (lambda r: clean(r, np.zeros((N, 2, 2))), "rows, one a volume, got shape"),
        (lambda r: clean(r, sample_mask=[]), r"sample_mask.*(at least 20|booleans)"),
        (lambda r: clean(r, sample_mask=np.zeros(N, bool)), "at least 20 volumes that stay, got 0 of 120"),
        (lambda r: clean(r, sample_mask=np.arange(19)), "at least 20 volumes that stay, got 19 of 120"),
        (lambda r: clean(r, sample_mask=[0, N]), "120 booleans, or positions below 120"),
        (lambda r: clean(r, low_pass=0.3), "0 < high_pass < low_pass < 0.25 Hz"),
        (lambda r: clean(r, low_pass=0.01, high_pass=0.1), "0 < high_pass < low_pass"),
        (lambda r: clean(r, high_pass=-1.0), "0 < high_pass"),
        (lambda r: clean(r, filter="fir"), "'butterworth', 'cosine' or None, got 'fir'"),
        (lambda r: clean(r, standardise="sd"), "'zscore', 'psc' or None, got 'sd'"),
        (lambda r: clean(r, filter="cosine"), "high_pass alone with cosines"),
        (lambda r: clean(r, filter=None, low_pass=0.1), "no cut-off without a filter"),
        (lambda r: clean(r.with_(rate=None, times=r.time**1.1), high_pass=0.01), "regular repetition time to filter"),
        (lambda r: clean(r.isel(time=slice(0, 30)), low_pass=0.1, high_pass=0.02), "more than 33 volumes, got 30"),
        (lambda r: clean(r, runs=[1, 2]), "120 runs, one a volume"),
        (lambda r: clean(r.with_(data=torch.where(r.values > 1020, torch.nan, r.values))), r"\d+ NaN or infinite val"),
        (lambda r: clean(r.isel(time=0)), "a Recording with an axis time"),
        (lambda r: clean(r.with_(mask=torch.rand(N, V) > 0.5)), "a mask of series, got one that changes in time"),
        (lambda r: clean(Session(items_={"x": r})), "a session with bold"),
        (lambda r: clean(r, recording(noise())), "axes time and feature"),
    ],
)  # fmt: skip
def test_bad_input(call: Callable[[Recording], Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        call(recording(series()))


def test_cosines_twice_and_dependent_confounds() -> None:
    names = ["cosine00", *"abcde"]
    confounds = Recording(data=torch.from_numpy(noise()), dims=("time", "feature"), rate=0.5,
                          coords={"feature": {"name": names}})  # fmt: skip
    with pytest.raises(InputError, match="cosines or high_pass, not both, got both"):
        clean(recording(series()), confounds, high_pass=0.01)
    double = np.c_[noise(), noise()[:, :2]]
    with pytest.warns(TectumWarning, match="clean: 8 confounds of rank 6"):
        made = clean(recording(torch.from_numpy(series()).double()), double)
    expected = clean(recording(torch.from_numpy(series()).double()), noise())
    torch.testing.assert_close(made.values, expected.values, rtol=0, atol=1e-8)


@pytest.mark.parametrize("standardise", [True, False])
def test_constant_and_straight_confounds_leave_no_rounding_to_regress(standardise: bool) -> None:
    x = recording(torch.from_numpy(series()).double())
    straight = np.c_[noise(), np.full(N, 1.0), np.full(N, 1e6 / 3), np.arange(N) * 0.7]
    with pytest.warns(TectumWarning, match="clean: 9 confounds of rank 6"):
        made = clean(x, straight, standardise_confounds=standardise)
    expected = clean(x, noise(), standardise_confounds=standardise)
    torch.testing.assert_close(made.values, expected.values, rtol=0, atol=1e-8)


# Quality


def test_quality() -> None:
    rec = recording(torch.from_numpy(series()).double())
    found = tsnr(rec)
    np.testing.assert_allclose(found.values.numpy(), rec.values.numpy().mean(0) / rec.values.numpy().std(0))
    assert (found.dims, found.units) == (("voxel",), "1")
    step = np.diff(rec.values.numpy(), axis=0)
    np.testing.assert_allclose(dvars(rec).numpy(), np.r_[0, np.sqrt((step**2).mean(1))])
    motion = torch.randn(N, 6, generator=torch.Generator().manual_seed(0)).double()
    by_hand = np.abs(np.diff(motion.numpy(), axis=0)) @ [1, 1, 1, 50, 50, 50]
    np.testing.assert_allclose(framewise_displacement(motion).numpy(), np.r_[0, by_hand])
    with pytest.raises(InputError, match=r"\(time, 6\), got shape"):
        framewise_displacement(motion[:, :5])


# A whole derivative, as the specification asks


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "io"))
    from writers import fmri

    return fmri


def test_networks_come_back(tmp_path: Path, writers: Any) -> None:
    from tectum.io.fmri.volumes import read_fmriprep

    raw_errors, errors = [], []
    for subject, run in itertools.product(("01", "02", "03"), (1, 2)):
        made = writers.write_derivative(tmp_path, subject=subject, run=run, n=120 if run == 1 else 97,
                                        seed=int(subject) * 10 + run)  # fmt: skip
        atlas = from_nibabel(writers.nib.Nifti1Image(made.labels, writers.LAS), kind="map")
        session = read_fmriprep(made.bold, atlas=atlas, strategy="simple")
        found = clean(session)["bold"].values.numpy()
        truth = np.corrcoef(made.networks[:, [k % 4 for k in range(8)]].T)
        raw_errors.append(np.abs(np.corrcoef(session["bold"].values.numpy().T) - truth).mean())
        errors.append(np.abs(np.corrcoef(found.T) - truth).mean())
    assert np.mean(raw_errors) > 0.2
    assert np.mean(errors) < 0.08


# Real runs


@pytest.mark.realdata
def test_a_real_image_equals_niftimasker(writers: Any) -> None:
    from nilearn.maskers import NiftiMasker
    from writers.realdata import cached

    path = cached() / "nitime-0.12.1" / "nitime" / "data" / "fmri1.nii.gz"
    if not path.exists():
        pytest.skip("nitime-0.12.1 is not in the cache: run tools/fetch_realdata.py")
    mask = writers.nib.load(path).get_fdata().mean(-1) > 700
    image = writers.nib.Nifti1Image(mask.astype(np.uint8), writers.nib.load(path).affine)
    options: dict[str, Any] = {"low_pass": 0.15, "high_pass": 0.01}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        masker = NiftiMasker(mask_img=image, t_r=1.35, detrend=True, standardize="zscore_sample", **options)
        expected = masker.fit().transform(path, confounds=noise(n=40, k=3))
        rec = tectum.read(path, tr=1.35, mask=mask)
    found = clean(rec, noise(n=40, k=3), **options)
    np.testing.assert_allclose(found.values.numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.realdata
def test_a_real_surface_with_its_confounds(writers: Any) -> None:
    from writers.realdata import cached

    from tectum.io.fmri.surfaces import read_surface

    folder = cached() / "brainspace-0.3.0" / "brainspace" / "datasets" / "preprocessing"
    base = "sub-010188_ses-02_task-rest_acq-AP_run-01"
    if not (folder / f"{base}.fsa5.lh.mgz").exists():
        pytest.skip("brainspace-0.3.0 is not in the cache: run tools/fetch_realdata.py")
    with pytest.warns(TectumWarning, match="argument 1.4 s, header 1 s"):
        rec = read_surface(folder / f"{base}.fsa5.lh.mgz", tr=1.4)
    confounds = np.loadtxt(folder / f"{base}_confounds.txt")
    assert confounds.shape[0] == rec.sizes["time"] == 652
    rec = rec.isel(vertex=slice(0, None, 40))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = clean(rec, confounds).values.numpy()
        expected = nilearns(rec.values.numpy(), confounds=confounds)
    assert rec.mask is not None
    alive = rec.mask[0].numpy()
    np.testing.assert_allclose(found[:, alive], expected[:, alive], rtol=0, atol=1e-4)
    assert not found[:, ~alive].any()
