"""Preprocessing against SciPy, on missing data, on the simulated accelerator, and on wrong input."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter1d
from scipy.signal import resample_poly

from tectum import Graph, Intervals, Recording, Session, Spikes
from tectum.core.errors import AxisError, InputError
from tectum.preprocess import STEPS, bin_spikes, crop, part, resample, select, smooth, standardise

TIME_UNIT = ("time", "unit")


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def recording(data: torch.Tensor, rate: float = 10.0, **fields: Any) -> Recording:
    return Recording(data=data, dims=fields.pop("dims", TIME_UNIT), rate=rate, **fields)


def session() -> Session:
    parts = {
        "trace": recording(noise(40, 2), intervals={"trials": Intervals.from_pairs([(0, 1)])}),
        "spikes": Spikes.from_trains([[0.5, 2.5], [3.5]], support=(0.0, 4.0)),
        "wake": Intervals.from_pairs([(0, 1), (2.5, 3)]),
        "wiring": Graph(weights=torch.eye(2)[None], layers=("gap",)),
    }
    return Session(items_=parts, subject="m1")


# Table of steps


def test_every_step_of_a_study_is_a_public_function() -> None:
    from tectum import preprocess

    assert {f.__name__ for f in STEPS.values()} <= set(preprocess.__all__)
    assert all(len(inspect.signature(f).parameters) >= 1 for f in STEPS.values())


# part, crop, bin, select


def test_part_takes_one_part() -> None:
    made = session()
    assert part(made, "spikes") is made["spikes"]


def test_crop_keeps_a_half_open_range() -> None:
    rec = recording(torch.arange(40.0)[:, None], t0=1.0)
    cut = crop(rec, start=2.0, stop=3.0)
    assert cut.values[:, 0].tolist() == list(range(10, 20))
    assert (cut.t0, cut.mask) == (2.0, None)


def test_crop_of_spikes_moves_the_support() -> None:
    cut = crop(session()["spikes"], start=2.0, stop=3.0)
    assert (cut.times.tolist(), cut.span.pairs()) == ([2.5], [(2.0, 3.0)])


def test_crop_of_a_session_crops_every_part_but_graphs() -> None:
    cut = crop(session(), start=2.0, stop=4.0)
    assert cut["trace"].sizes["time"] == 20
    assert len(cut["spikes"]) == 2
    assert cut["wake"].pairs() == [(2.5, 3.0)]
    assert cut["wiring"].n_units == 2


def test_crop_may_pass_the_ends() -> None:
    assert crop(recording(noise(10, 1)), start=-5.0, stop=100.0).sizes["time"] == 10


def test_nothing_may_be_left_where_that_is_meant() -> None:
    none = crop(session(), start=80.0, stop=90.0, allow_empty=True)
    assert (len(none["spikes"]), none["trace"].sizes["time"]) == (0, 0)
    rec = recording(noise(4, 1)).with_(coords={"unit": {"id": ["a"]}})
    assert select(rec, axis="unit", values=[], allow_empty=True).sizes["unit"] == 0


def test_bin_counts_spikes() -> None:
    counts = bin_spikes(Spikes.from_trains([[0.1, 0.4], [0.2]], support=(0.0, 0.5)), dt=0.25)
    assert counts.values.tolist() == [[1, 1], [1, 0]]


@pytest.mark.parametrize(("values", "column"), [(["b", "a"], None), (["V1"], "area")])
def test_select_by_name_and_by_column(values: list[str], column: str | None) -> None:
    rec = recording(torch.tensor([[0.0, 1.0, 2.0]]), coords={"unit": {"name": list("abc"), "area": ["V1", "V1", "V2"]}})
    wanted = [1.0, 0.0] if column is None else [0.0, 1.0]
    assert select(rec, axis="unit", values=values, column=column).values.tolist() == [wanted]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: part(session(), "spike"), "part: .*got 'spike'; did you mean 'spikes'"),
        (lambda: part(recording(noise(4, 1)), "x"), "part: expected a Session, got Recording"),
        (lambda: crop(recording(noise(4, 1)), start=3.0, stop=1.0), "crop: .*start < stop"),
        (lambda: crop(recording(noise(4, 1)), start="0", stop=1.0), "crop: .*numbers"),  # type: ignore[arg-type]
        (lambda: crop(recording(noise(4, 1)), start=0.0, stop=float("inf")), "crop: .*numbers"),
        (lambda: crop(recording(noise(4, 1)), start=5.0, stop=6.0), "intervals that meet the recording"),
        (lambda: crop(session()["spikes"], start=8.0, stop=9.0), "intervals that meet the support.*allow_empty=True"),
        (lambda: crop(torch.zeros(3), start=0.0, stop=1.0), "crop: .*Recording or Spikes or Session, got Tensor"),
        (lambda: bin_spikes(recording(noise(4, 1)), dt=1.0), "bin: expected a Spikes, got Recording"),
        (lambda: bin_spikes(session(), dt=1.0), "bin: .*got Session; take a part"),
        (lambda: bin_spikes(session()["spikes"], dt=0.0), r"bin\(dt\)"),
        (lambda: select(recording(noise(4, 1)), axis="unit", values="a"), r"select\(values\): expected a list"),
        (lambda: select(recording(noise(4, 1)), axis="unit", values=["a"]), "'name' or 'id'"),
    ],
)
def test_wrong_cuts_are_refused(call: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        call()


def test_select_refuses_an_unknown_axis() -> None:
    with pytest.raises(AxisError, match="did you mean 'unit'"):
        select(recording(noise(4, 1)), axis="units", values=["a"])


# resample


@pytest.mark.parametrize("rate", [20.0, 25.0, 40.0, 80.0, 130.0])
def test_resampling_keeps_amplitude_and_phase(rate: float) -> None:
    old, f, t0 = 50.0, 3.0, 1.5
    time = t0 + torch.arange(1500, dtype=torch.float64) / old
    made = resample(recording(torch.sin(2 * torch.pi * f * time)[:, None], rate=old, t0=t0), rate)
    assert made.rate == pytest.approx(rate)
    assert made.t0 == t0
    assert made.duration == pytest.approx(30.0, abs=1 / rate)
    now, x = made.time.numpy(), made.values[:, 0].numpy()
    inner = (now > t0 + 2) & (now < t0 + 28)
    angle = 2 * np.pi * f * now[inner]
    design = np.stack([np.sin(angle), np.cos(angle)], 1)
    sine, cosine = np.linalg.lstsq(design, x[inner], rcond=None)[0]
    assert np.hypot(sine, cosine) == pytest.approx(1.0, abs=0.01)
    assert abs(np.arctan2(cosine, sine) / (2 * np.pi * f)) < (1 / rate) / 20


def test_resampling_equals_scipy_on_any_axis() -> None:
    x = noise(3, 60, 2)
    made = resample(recording(x, rate=30.0, dims=("trial", "time", "channel")), 20.0)
    want = resample_poly(x.numpy(), 2, 3, axis=1, padtype="line")
    np.testing.assert_array_equal(made.values, want)
    assert made.values.dtype == torch.float32


def test_resampling_forgets_what_belonged_to_samples_and_notes_its_reach() -> None:
    rec = recording(noise(20, 2), coords={"time": {"lap": np.arange(20)}, "unit": {"name": ["a", "b"]}})
    made = resample(rec, 5.0)
    assert set(made.coords) == {"unit"}
    assert made.history == ({"step": "resample", "rate": 5.0, "reach": 2.0},)
    assert resample(rec, 20.0).history[-1]["reach"] == 1.0


@pytest.mark.parametrize("step", [lambda rec: resample(rec, 5.0), lambda rec: smooth(rec, sigma=0.3)])
@pytest.mark.parametrize(("units", "turn"), [("rad", 2 * np.pi), ("deg", 360.0)])
def test_angles_that_wrap_around_are_refused(step: Any, units: str, turn: float) -> None:
    heading = torch.linspace(0, 3.1 * turn, 80)[:, None]
    says = r"(resample|smooth): expected an angle that does not wrap around, got 3 jumps over half a turn; .* cosine"
    with pytest.raises(InputError, match=says):
        step(recording(heading % turn, units=units))
    assert step(recording(heading, units=units)).units == units  # a wheel that counts its turns
    assert step(recording(heading % turn, units="m")).units == "m"


def _one_nan() -> Recording:
    x = noise(20, 2)
    x[3, 0] = torch.nan
    return recording(x)


@pytest.mark.parametrize(
    ("make", "rate", "says"),
    [
        (_one_nan, 5.0, "resample: .*without missing.*interpolate"),
        (lambda: recording(noise(20, 2), mask=torch.arange(20)[:, None] > 3), 5.0, "resample: .*without missing"),
        (lambda: recording(torch.ones(20, 2, dtype=torch.int32)), 5.0, "resample: .*int32.*bin counts anew"),
        (lambda: Recording(data=noise(3, 1), dims=TIME_UNIT, times=torch.tensor([0.0, 1, 3])), 5.0, "regular"),
        (lambda: Recording(data=noise(3, 1), dims=("trial", "unit")), 5.0, "regular"),
        (lambda: recording(noise(20, 2)), 0.0, r"resample\(rate\): .*above 0 Hz"),
        (lambda: recording(noise(20, 2)), 1e-6, r"resample\(rate\): .*at least"),
        (lambda: Spikes.from_trains([[1.0]]), 5.0, "resample: expected a Recording, got Spikes"),
    ],
)
def test_resampling_refuses(make: Any, rate: float, says: str) -> None:
    with pytest.raises(InputError, match=says):
        resample(make(), rate)


# smooth


@pytest.mark.parametrize("sigma", [0.01, 0.1, 0.17, 1.0, 8.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_smoothing_equals_scipy(sigma: float, dtype: torch.dtype) -> None:
    x = noise(90, 3).to(dtype)
    made = smooth(recording(x), sigma=sigma).values
    want = gaussian_filter1d(x.double().numpy(), sigma * 10.0, axis=0, mode="nearest")
    assert made.dtype == dtype
    np.testing.assert_allclose(made, want, atol=1e-12 if dtype == torch.float64 else 2e-6)


def test_smoothing_along_an_inner_axis_and_of_counts() -> None:
    x = torch.randint(0, 5, (2, 50, 3), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    made = smooth(recording(x, dims=("trial", "time", "unit")), sigma=0.2)
    np.testing.assert_allclose(
        made.values, gaussian_filter1d(x.double().numpy(), 2.0, axis=1, mode="nearest"), atol=1e-5
    )


def test_missing_samples_neither_spread_nor_vanish() -> None:
    x, mask = torch.full((60, 2), 2.0), torch.ones(60, 1, dtype=torch.bool)
    x[20, 0], x[40], mask[40] = torch.nan, 1e6, False
    made = smooth(recording(x, mask=mask), sigma=0.3)
    assert bool(torch.isnan(made.values[20, 0]))
    valid = made.valid() & ~torch.isnan(made.values)
    torch.testing.assert_close(made.values[valid], torch.full_like(made.values[valid], 2.0))
    assert int((~made.valid()).sum()) == 2


def test_smoothing_by_brute_force_with_a_mask() -> None:
    x, mask = noise(30, 1).double(), torch.arange(30)[:, None] % 7 != 3
    made = smooth(recording(x, mask=mask), sigma=0.2).values[:, 0]
    for i in torch.arange(30)[mask[:, 0]].tolist():
        places = [(min(max(i + lag, 0), 29), np.exp(-0.5 * (lag / 2.0) ** 2)) for lag in range(-8, 9)]
        kept = [(float(x[j, 0]), w) for j, w in places if bool(mask[j, 0])]
        assert float(made[i]) == pytest.approx(sum(v * w for v, w in kept) / sum(w for _, w in kept), abs=1e-12)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf"), "1", True])
def test_smoothing_refuses_a_wrong_width(sigma: Any) -> None:
    with pytest.raises(InputError, match="smooth: .*finite sigma > 0 s"):
        smooth(recording(noise(20, 1)), sigma=sigma)


@pytest.mark.parametrize("clock", [{"times": torch.tensor([0.0, 1, 3])}, {"dims": ("trial", "unit")}])
def test_smoothing_refuses_an_irregular_recording(clock: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="smooth: expected a regular recording"):
        smooth(Recording(data=noise(3, 1), **{"dims": TIME_UNIT, **clock}), sigma=1.0)


# standardise


def test_standardising_uses_valid_samples_only() -> None:
    x, mask = noise(50, 3) * 4 + 7, torch.ones(50, 3, dtype=torch.bool)
    x[5, 0], mask[:10, 1] = torch.nan, False
    made = standardise(recording(x, mask=mask, units="uV"))
    kept = np.ma.masked_invalid(np.ma.masked_array(x.double().numpy(), ~mask.numpy()))
    want = (x.double().numpy() - kept.mean(0).data) / kept.std(0).data
    np.testing.assert_allclose(made.values, want, rtol=1e-5, atol=1e-6)
    assert made.units == "z"
    assert bool(torch.isnan(made.values[5, 0]))


@pytest.mark.parametrize("level", [0.0, 0.1, 1e6, -3.3])
def test_a_constant_becomes_zero(level: float) -> None:
    assert standardise(recording(torch.full((1000, 1), level))).values.abs().max() < 1e-6


def test_a_small_change_on_a_large_level_survives() -> None:
    x = torch.full((1000, 1), 1e6, dtype=torch.float64)
    x[::2] += 1e-3
    assert float(standardise(recording(x)).values.std()) == pytest.approx(1.0, rel=0.01)


def test_standardising_needs_time() -> None:
    with pytest.raises(InputError, match="standardise: .*time axis"):
        standardise(Recording(data=noise(3, 1), dims=("trial", "unit")))


# Any device, and no change to what came in

CHANGES: dict[str, Any] = {
    "crop": lambda rec: crop(rec, start=1.0, stop=3.0),
    "select": lambda rec: select(rec, axis="unit", values=["b"]),
    "resample": lambda rec: resample(rec, 7.0),
    "smooth": lambda rec: smooth(rec, sigma=0.2),
    "standardise": standardise,
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_accelerator_gives_the_numbers_of_the_cpu(name: str, accelerator: torch.device) -> None:
    rec = recording(noise(40, 2), coords={"unit": {"name": ["a", "b"]}})
    made, want = CHANGES[name](rec.to(accelerator)), CHANGES[name](rec)
    assert made.device == accelerator
    torch.testing.assert_close(made.values.cpu(), want.values, rtol=1e-6, atol=1e-6)
    assert made.history == want.history


@pytest.mark.parametrize("name", ["smooth", "standardise"])
def test_masks_on_the_accelerator(name: str, accelerator: torch.device) -> None:
    rec = recording(noise(40, 2), mask=torch.arange(40)[:, None] % 9 != 0)
    torch.testing.assert_close(CHANGES[name](rec.to(accelerator)).values.cpu(), CHANGES[name](rec).values)


@pytest.mark.parametrize("name", CHANGES)
def test_the_input_stays_as_it_was_and_the_step_is_noted(name: str) -> None:
    rec = recording(noise(40, 2), coords={"unit": {"name": ["a", "b"]}})
    before = rec.values.clone()
    made = CHANGES[name](rec)
    assert torch.equal(rec.values, before)
    assert rec.history == ()
    assert len(made.history) == 1 or name in ("select", "crop")
