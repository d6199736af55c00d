"""Quality of fMRI runs: measures against loops, what is planted is found, the page shows it, bad input."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

import tectum
from tectum import Recording, Session
from tectum.core.errors import InputError
from tectum.evaluate import FMRIQuality, fmri_quality
from tectum.plot.brain import slices, upright
from tectum.preprocess import _fmri_quality as measures

N, V, TR = 90, 40, 2.0


def series(seed: int = 100, n: int = N, v: int = V) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    walk = 0.5 * rng.standard_normal((n, 1)).cumsum(0)
    return torch.from_numpy(1000 + walk * rng.standard_normal(v) + 10 * rng.standard_normal((n, v)))


def recording(values: torch.Tensor, **fields: Any) -> Recording:
    return Recording(data=values, **{"dims": ("time", "voxel"), "rate": 1 / TR, "units": "BOLD", **fields})


def confounds(n: int = N, kept: Any = None, names: Any = None, seed: int = 101) -> Recording:
    names = ["trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z", "csf"] if names is None else names
    values = np.random.default_rng(seed).standard_normal((n, len(names))).cumsum(0) * 5e-4
    coords = {"feature": {"name": names}, "time": {"kept": np.ones(n, bool) if kept is None else kept}}
    return Recording(data=torch.from_numpy(values), dims=("time", "feature"), rate=1 / TR, coords=coords)


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "io"))
    from writers import fmri

    return fmri


def test_standardised_change_equals_a_loop() -> None:
    x = series()
    x[:, 3] = 7.0
    expected = []
    for column in x.numpy().T:
        ordered = np.sort(column)
        spread = (ordered[int(0.75 * (N - 1))] - ordered[int(0.25 * (N - 1))]) / 1.349
        centred = column - column.mean()
        if spread > 0:
            lag = (centred[1:] @ centred[:-1]) / (centred @ centred)
            expected.append(np.sqrt(2 * (1 - lag)) * spread)
    alive = np.delete(x.numpy(), 3, axis=1)
    by_hand = np.sqrt((np.diff(alive, axis=0) ** 2).mean(1)) / np.mean(expected)
    np.testing.assert_allclose(measures.standardised_change(x).numpy(), np.r_[0, by_hand])
    assert 0.9 < float(measures.standardised_change(series())[1:].median()) < 1.1  # noise gives one


def test_carpet() -> None:
    x = series(v=50)
    x[:, 7] = 3.0
    rows, places = measures.carpet(x, 20)
    assert rows.shape == (17, N)  # one in three of 49
    assert 7 not in places.tolist()
    time = np.arange(N)
    for row, place in zip(rows.numpy(), places.tolist(), strict=True):
        column = x[:, place].numpy()
        left = column - np.polyval(np.polyfit(time, column, 1), time)
        np.testing.assert_allclose(row, left / left.std(ddof=1), atol=1e-8)
    every, _ = measures.carpet(x)
    follows = [np.corrcoef(row, every.mean(0).numpy())[0, 1] for row in every.numpy()]
    assert (np.diff(follows) <= 1e-12).all()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = series()
    x[:, 3] = 7.0
    whole = measures.standardised_change(x), *measures.carpet(x, 10)
    monkeypatch.setattr(measures, "_BLOCK", 1)
    for found, expected in zip((measures.standardised_change(x), *measures.carpet(x, 10)), whole, strict=True):
        torch.testing.assert_close(found, expected)


def test_correlations() -> None:
    columns = torch.randn(60, 5, generator=torch.Generator().manual_seed(100)).double()
    np.testing.assert_allclose(measures.correlations(columns).numpy(), np.corrcoef(columns.numpy().T), atol=1e-12)
    columns[:, 2] = 0.1
    found = measures.correlations(columns)
    assert bool(found[2].isnan().all())
    assert int(found.isnan().sum()) == 9


def test_what_is_planted_is_found() -> None:
    x, moving = series(), confounds()
    x[[30, 60]] += 80.0
    moving.values[[30, 60], 0] += 2.0
    kept = np.ones(N, bool)
    kept[:2] = False
    x[:2] *= 1.4
    found = fmri_quality(recording(x), confounds(kept=kept).with_(data=moving.values))
    assert found.fd is not None
    assert (found.fd > 0.5).nonzero().flatten().tolist() == [30, 31, 60, 61]
    assert (found.std_dvars > 3).nonzero().flatten().tolist() == [2, 30, 31, 60, 61]
    np.testing.assert_allclose(found.tsnr.numpy(), x[2:].numpy().mean(0) / x[2:].numpy().std(0))
    np.testing.assert_allclose(found.global_signal.numpy(), x.numpy().mean(1))
    assert found.confounds is not None
    both = np.c_[moving.values.numpy(), x.numpy().mean(1)][2:]
    np.testing.assert_allclose(found.confounds.numpy(), np.corrcoef(both.T), atol=1e-12)
    facts = dict(found.facts())
    assert facts["volumes kept"] == "88 of 90 (98%)"
    assert facts["volumes above 0.5 mm"] == 4


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_run_of_fmriprep(shuffled: bool, tmp_path: Path, writers: Any) -> None:
    run = writers.write_derivative(tmp_path, seed=100)
    found = fmri_quality(run.bold)
    assert found.inside is not None and found.mean is not None and found.tsnr_map is not None  # noqa: PT018
    np.testing.assert_array_equal(found.inside.numpy(), run.mask)
    np.testing.assert_allclose(found.mean.numpy(), run.raw.mean(0), rtol=1e-4)
    expected = run.raw[1:].astype(np.float64)
    expected = expected.mean(0)[run.mask] / expected.std(0)[run.mask]
    np.testing.assert_allclose(found.tsnr_map.numpy()[run.mask], expected, rtol=1e-3)
    assert bool(found.tsnr_map.isnan().any())
    whole = tectum.read(run.bold)
    whole = whole.with_(data=whole.tensor("z", "time", "x", "y"), dims=("z", "time", "x", "y")) if shuffled else whole
    again = fmri_quality(whole, tectum.read(run.bold.parent)["confounds"])
    assert again.inside is not None
    np.testing.assert_array_equal(again.inside.numpy(), run.mask)
    torch.testing.assert_close(again.tsnr, found.tsnr)
    torch.testing.assert_close(again.std_dvars, found.std_dvars)


def test_the_page_and_the_file(tmp_path: Path, writers: Any) -> None:
    run = writers.write_derivative(tmp_path / "d", n=40, seed=100)
    found = fmri_quality(run.bold, strategy="simple")
    assert len(found.coords["feature"]["name"]) == 30
    assert set(found.plots()) == {"overview", "carpet", "mask", "tsnr", "confounds"}
    for kind in found.plots():
        assert isinstance(found.plot(kind), Axes)
    page = tectum.Report("run").add(found).save(tmp_path / "run.html").read_text()
    assert page.count("<img") == 4
    assert "volumes kept" in page
    found.save(str(tmp_path / "q"))
    again = tectum.load(tmp_path / "q.safetensors")
    assert isinstance(again, FMRIQuality)
    torch.testing.assert_close(again.carpet, found.carpet)
    assert again.affine == found.affine
    told = str(tectum.summary(tmp_path / "d"))
    assert "Quality of the run" in told
    assert "volumes kept" in told


def test_surfaces_and_parcels() -> None:
    x = series()
    x[:, 5] = 0.0
    mask = torch.ones(1, V, dtype=torch.bool)
    mask[0, 5] = False
    found = fmri_quality(recording(x, dims=("time", "vertex"), mask=mask))
    assert found.tsnr.shape == (V - 1,)
    assert found.inside is None
    assert found.fd is None
    assert set(found.plots()) == {"overview", "carpet"}
    session = Session(items_={"bold": recording(x, dims=("time", "unit")), "confounds": confounds(names=["a", "b"])})
    assert fmri_quality(session).fd is None
    assert fmri_quality(session).confounds is not None


def test_the_accelerator_agrees(accelerator: torch.device) -> None:
    rec = recording(series().float())
    expected = fmri_quality(rec, confounds())
    found = fmri_quality(recording(rec.values.to(accelerator)), confounds())
    assert found.carpet.device.type == accelerator.type
    for name, _, tensor in found.tensors():
        torch.testing.assert_close(tensor.cpu(), getattr(expected, name), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda r: fmri_quality(r, confounds(n=89)), "90 rows, one a volume, got 89 rows"),
        (lambda r: fmri_quality(r, r), "axes time and feature"),
        (lambda r: fmri_quality(r, confounds(kept=np.arange(N) < 2)), "three volumes that stay or more, got 2"),
        (lambda r: fmri_quality(r.isel(time=slice(0, 2))), "three volumes or more"),
        (lambda r: fmri_quality(r.isel(time=0)), "three volumes or more"),
        (lambda r: fmri_quality(Session(items_={"x": r})), "a session with bold"),
        (lambda r: fmri_quality(recording(torch.full((N, V), torch.nan))), "finite values, got NaN .* in 40 series"),
        (lambda r: fmri_quality(r.with_(data=r.values.reshape(N, 8, 5), dims=("time", "trial", "voxel"))), "one axis"),
    ],
)  # fmt: skip
def test_bad_input(call: Callable[[Recording], Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        call(recording(series()))


# Slices


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (-1, -1, 1), (1, -1, -1)])
def test_left_is_left(order: tuple[int, ...], signs: tuple[int, ...]) -> None:
    """Whatever the storage, the voxel at the right, front and top ends at the end of all three axes."""
    turn = np.array([[0.985, -0.174, 0], [0.174, 0.985, 0], [0, 0, 1]])  # 10 degrees
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([2.0, 3.0, 4.0])[:, order] * np.array(signs)
    volume = np.random.default_rng(0).standard_normal((4, 5, 6))
    found, heights = upright(volume, affine)
    index = np.indices(volume.shape).reshape(3, -1)
    place = (turn.T @ (affine[:3, :3] @ index)).T  # along right, front and top, turned back
    far = index[:, np.lexsort(place.round(6).T[::-1])[-1]]
    assert found[-1, -1, -1] == volume[tuple(far)]
    assert np.shares_memory(found, volume)
    assert (np.diff(heights) > 0).all()


def test_slices_draw() -> None:
    volume = np.zeros((6, 7, 9))
    volume[1:5, 1:6, 2:8] = 5
    ax = slices(volume, affine=np.diag([-2.0, 2, 2, 1]), inside=volume > 0, bar="x", grey=True)
    assert {"L", "R", "z 4 mm", "z 14 mm"} <= {t.get_text() for t in ax.texts}
    assert len(ax.collections) > 0
    assert {"z 2", "z 7"} <= {t.get_text() for t in slices(volume, n=3).texts}
    slices(np.zeros((3, 3, 3)))


def test_first_looks() -> None:
    from tectum.plot import quicklook

    meta = {"image": {"affine": np.diag([-2.0, 2, 2, 1]).tolist(), "shape": [4, 5, 6], "kind": "nifti1", "space": ""}}
    values = torch.rand(30, 4, 5, 6, generator=torch.Generator().manual_seed(0)) + 1
    run = recording(values, dims=("time", "x", "y", "z"), meta=meta)
    ax = quicklook(run)
    assert ax.get_title("left") == "mean of 20 of 30 volumes"
    shown = np.ma.filled(ax.images[0].get_array().astype(float), np.nan)  # two rows of three slices, x turned round
    np.testing.assert_allclose(shown[5:, :4], values[:20].mean(0)[:, :, 0].flip(0).T.numpy(), rtol=1e-5)
    index = {c: np.arange(3) for c in "ijk"}
    points = Recording(data=torch.ones(3), dims=("voxel",), coords={"voxel": index}, meta=meta)
    assert {"L", "R"} <= {t.get_text() for t in quicklook(points).texts}
    maps = Recording(data=torch.rand(2, 50), dims=("feature", "voxel"), coords={"feature": {"name": ["depth", "b"]}})
    assert quicklook(maps).get_title("left") == "depth (1 of 2)"
    assert quicklook(Recording(data=torch.rand(50), dims=("vertex",), units="mm")).get_xlabel() == "mm"
