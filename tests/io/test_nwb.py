"""NWB: equality with pynwb on real and written files, laziness, the traps of the format, and damage."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from writers import nwb as writer
from writers import realdata
from writers.mutate import survive

import tectum
from tectum import Intervals, Recording, Session, Spikes
from tectum.core.errors import InputError, LoadError, TectumWarning
from tectum.io.files import AmbiguousAxisError
from tectum.io.nwb import read_nwb

REAL = [
    "neurosuite/pynapplenwb/A2929-200711.nwb",
    "basic/pynapplenwb/A2929-200711.nwb",
    "suite2p/pynapplenwb/2022_08_08.nwb",
    "phy/pynapplenwb/A8604-211122.nwb",
    "inscopix-cnmfe/pynapplenwb/A0634-210127.nwb",
    "matlab-cnmfe/pynapplenwb/A6512-210915.nwb",
    "minian/pynapplenwb/demo_movies.nwb",
]


def same_as_pynwb(path: Path) -> Session:
    """Compare every part that we read with what pynwb reads."""
    import warnings

    from pynwb import NWBHDF5IO, TimeSeries
    from pynwb.epoch import TimeIntervals

    found = read_nwb(path, dtype="float64")
    with warnings.catch_warnings(), NWBHDF5IO(path, "r", load_namespaces=True) as io:
        warnings.simplefilter("ignore")
        nwb = io.read()
        for node in nwb.objects.values():
            name = node.name
            if isinstance(node, TimeSeries) and name in {k.split("/")[-1] for k in found}:
                same_series(found, node)
            if isinstance(node, TimeIntervals):
                same_table(found, node)
        if nwb.units is not None:
            same_units(found["spikes"], nwb.units)
    return found


def same_series(found: Session, node: Any) -> None:
    parts = [
        p for k, p in found.items() if k.split("/")[-1] == node.name and isinstance(p, Recording) and "time" in p.dims
    ]
    parts = [p for p in parts if p.history[0]["series"].split("/")[-2:-1] in ([], [node.parent.name])]
    if not parts:
        assert isinstance(found.get(node.name), Intervals)
        return
    (part,) = parts
    data = np.asarray(node.data[()]) * node.conversion
    if getattr(node, "channel_conversion", None) is not None:
        data = data * np.asarray(node.channel_conversion[()])
    data = data + node.offset
    data = data.T if part.history[0].get("transposed") else data
    np.testing.assert_array_equal(part.values.numpy(), data)
    times = node.starting_time + np.arange(len(data)) / node.rate if node.timestamps is None else node.timestamps[()]
    np.testing.assert_allclose(part.time.numpy(), times, rtol=0, atol=1e-9)


def same_table(found: Session, node: Any) -> None:
    part = found.get(f"intervals/{node.name}", found.get(node.name))
    assert isinstance(part, Intervals)
    order = np.argsort(node["start_time"][:], kind="stable")
    np.testing.assert_allclose(part.start.numpy(), node["start_time"][:][order], rtol=0, atol=1e-9)
    np.testing.assert_allclose(part.stop.numpy(), node["stop_time"][:][order], rtol=0, atol=1e-9)
    if "tags" in node.colnames:
        assert part.columns["tags"].tolist() == [",".join(node["tags"][int(k)]) for k in order]


def same_units(spikes: Spikes, units: Any) -> None:
    np.testing.assert_array_equal(spikes.units["id"], units.id[:])
    for k, train in enumerate(spikes.trains()):
        np.testing.assert_allclose(train.numpy(), np.sort(units.get_unit_spike_times(k)), rtol=0, atol=1e-9)
    if "location" in units.colnames:
        assert spikes.units["area"].tolist() == list(units["location"][:])


@pytest.mark.realdata
@pytest.mark.parametrize("member", REAL)
def test_real_files_equal_pynwb(member: str) -> None:
    found = same_as_pynwb(realdata.pynapple(member))
    assert found.meta["format"] == "nwb"


@pytest.mark.realdata
def test_what_is_known_of_the_real_mouse() -> None:
    found = tectum.read(realdata.pynapple(REAL[0]))
    spikes = found["spikes"]
    assert (spikes.n_units, len(spikes), spikes.span.pairs()) == (15, 98_794, [(0.0, 1200.0)])
    assert [(spikes.units["area"] == a).sum() for a in ("adn", "ca1")] == [7, 8]
    assert found["CompassDirection/ry"].units == "rad"
    assert found["CompassDirection/ry"].shape == (63_527,)
    assert len(found["intervals/sleep_ripples"]) == 594
    assert found["sleep_ripples"].shape == (594,)
    assert spikes.history[0]["support"] == "assumed from the first to the last epoch"


@pytest.mark.realdata
def test_the_sample_with_turned_axes() -> None:
    found = tectum.read(realdata.pynapple(REAL[2]))
    part = found["Fluorescence/Fluorescence"]
    folder = realdata.pynapple("suite2p/suite2p/plane0")
    assert part.sizes == {"time": 2000, "unit": 219}
    assert part.history[0]["transposed"] is True
    np.testing.assert_array_equal(part.values.numpy(), np.load(folder / "F.npy").T)
    np.testing.assert_array_equal(found["Deconvolved/Deconvolved"].values.numpy(), np.load(folder / "spks.npy").T)
    assert found["Deconvolved/Deconvolved"].units == "deconvolved"
    np.testing.assert_array_equal(part.coords["unit"]["iscell"], np.load(folder / "iscell.npy")[:, 0] == 1)
    assert found.meta["skipped"] == {"TwoPhotonSeries": "its data are empty or in another file"}


def test_a_rich_file_equals_pynwb(tmp_path: Path) -> None:
    writer.write_rich(tmp_path / "rich.nwb")
    found = same_as_pynwb(tmp_path / "rich.nwb")
    assert found.subject == "mouse é"
    assert found.session == "s1"
    lfp = found["lfp"]
    assert (lfp.units, lfp.dims, lfp.t0, lfp.rate) == ("V", ("time", "channel"), 3.5, 1250.0)
    assert lfp.coords["channel"]["location"].tolist() == ["CA2", "CA1"]
    assert found["counter"].values.tolist() == list(range(10))
    assert found["counter"].values.dtype == torch.int32
    assert found["notes"].columns["label"].tolist() == ["go", "stöp"]
    assert found["lick"].pairs() == [(0.5, 0.75), (3.0, 4.0)]
    assert found["lick"].columns["code"].tolist() == [1, 2]
    assert found["trials"].columns["choice"].tolist() == ["c0", "c1", "c2"]
    assert found["epochs"].columns["tags"].tolist() == ["all,wake"]
    assert found["Position/xy"].labels("feature").tolist() == ["x", "y"]
    assert found["DfOverF/RoiResponseSeries"].units == "dF/F"
    assert found["DfOverF/RoiResponseSeries"].coords["unit"]["area"].tolist() == ["V1"] * 3
    assert found["ImageSegmentation/PlaneSegmentation/image_mask"].sizes == {"unit": 3, "x": 6, "y": 5}
    spikes = found["spikes"]
    assert spikes.counts().tolist() == [3, 0, 5]
    assert spikes.units["quality"].tolist() == ["q0", "q1", "q2"]
    assert spikes.units["area"].tolist() == ["CA1", "CA2", "CA3"]
    assert spikes.span.pairs() == [(0.0, 20.0)]


def test_float32_is_the_default(tmp_path: Path) -> None:
    writer.write_rich(tmp_path / "rich.nwb")
    part = tectum.read(tmp_path / "rich.nwb")["lfp"]
    assert part.values.dtype == torch.float32
    assert torch.equal(part.data[7:30, 1], part.values[7:30, 1])
    assert torch.equal(part.data[:, [1]], part.values[:, [1]])
    pickle.loads(pickle.dumps(part.data))


def test_some_parts_only(tmp_path: Path) -> None:
    writer.write_plain(tmp_path / "a.nwb")
    assert set(read_nwb(tmp_path / "a.nwb", names=["Position/x"])) == {"Position/x"}
    with pytest.raises(InputError, match=r"parts of the file, got nothing"):
        read_nwb(tmp_path / "a.nwb", names=["nothing"])


def test_the_index_of_uint8_does_not_overflow(tmp_path: Path) -> None:
    writer.write_plain(tmp_path / "a.nwb")
    spikes = tectum.read(tmp_path / "a.nwb")["spikes"]
    assert spikes.counts().tolist() == [125, 125]
    assert spikes.units["id"].tolist() == [7, 9]
    assert any("assume" in str(step) for step in spikes.history)


@pytest.mark.parametrize("ends", [[125, 249], [130, 125], [125, 251], [250], [0, 100, 250]])
def test_a_wrong_index_is_refused(ends: list[int], tmp_path: Path) -> None:
    writer.write_plain(tmp_path / "a.nwb", ends=np.array(ends))
    with pytest.raises(LoadError, match=r"a\.nwb.*(cumulative ends up to 250|2 ends of spike times)"):
        tectum.read(tmp_path / "a.nwb")


@pytest.mark.parametrize(
    ("shape", "rois", "stamps", "turned"),
    [
        ((40, 3), 3, None, False),
        ((3, 40), 3, None, True),
        ((3, 40), None, 40, True),
        ((40, 3), None, 40, False),
        ((40, 3), 3, 40, False),
        ((3, 3), 3, None, None),
        ((40, 3), None, None, None),
        ((3, 3), 3, 3, None),
    ],
)
def test_which_axis_is_time(shape: Any, rois: Any, stamps: Any, turned: bool | None, tmp_path: Path) -> None:
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    extra = {} if stamps is None else {"timestamps": np.arange(stamps) * 0.1}
    writer.write_plain(tmp_path / "a.nwb", data=data, rois=rois, **extra)
    if turned is None:
        with pytest.raises(AmbiguousAxisError, match=r"a\.nwb:Fluorescence/F.*pass axis=0"):
            tectum.read(tmp_path / "a.nwb")
        turned = True
    part = tectum.read(tmp_path / "a.nwb", axis=int(turned))["Fluorescence/F"]
    np.testing.assert_array_equal(part.values.numpy(), data.T if turned else data)


def test_axes_that_fit_nothing(tmp_path: Path) -> None:
    writer.write_plain(tmp_path / "a.nwb", rois=4)
    with pytest.raises(LoadError, match=r"got shape \(40, 3\) with 4 regions and None timestamps"):
        tectum.read(tmp_path / "a.nwb")


@pytest.mark.parametrize(("bad", "says"), [(3, r"nan at 3"), (0, r"nan at 0")])
def test_bad_times_name_the_first_index(bad: int, says: str, tmp_path: Path) -> None:
    stamps = np.linspace(0, 9, 30)
    stamps[bad] = np.nan
    writer.write_plain(tmp_path / "a.nwb", stamps=stamps)
    with pytest.raises(InputError, match=says):
        tectum.read(tmp_path / "a.nwb")
    assert tectum.read(tmp_path / "a.nwb", fix="drop")["Position/x"].shape == (29,)


def test_times_that_step_back(tmp_path: Path) -> None:
    stamps = np.linspace(0, 9, 30) ** 1.01
    stamps[[4, 5]] = stamps[[5, 4]]
    writer.write_plain(tmp_path / "a.nwb", stamps=stamps)
    with pytest.raises(InputError, match=r"timestamps: expected finite, strictly increasing times, got .* at 5"):
        tectum.read(tmp_path / "a.nwb")
    ordered = tectum.read(tmp_path / "a.nwb", fix="sort")["Position/x"]
    values = np.linspace(0, 1, 30)
    values[[4, 5]] = values[[5, 4]]
    np.testing.assert_allclose(ordered.values.numpy(), values, atol=1e-7)
    assert tectum.read(tmp_path / "a.nwb", fix="drop")["Position/x"].shape == (29,)
    with pytest.raises(InputError, match="fix: expected None, 'sort' or 'drop'"):
        tectum.read(tmp_path / "a.nwb", fix="guess")


def test_timestamps_of_another_length(tmp_path: Path) -> None:
    writer.write_plain(tmp_path / "a.nwb", stamps=np.arange(29.0))
    with pytest.raises(LoadError, match=r"expected 30 timestamps, got \(29,\) timestamps for 30 samples"):
        tectum.read(tmp_path / "a.nwb")


def test_a_rate_of_zero(tmp_path: Path) -> None:
    writer.write_plain(tmp_path / "a.nwb", rate=0.0)
    with pytest.raises(LoadError, match="starting_time with a rate"):
        tectum.read(tmp_path / "a.nwb")


def test_spikes_that_step_back_or_are_nan(tmp_path: Path) -> None:
    times = np.sort(np.random.default_rng(0).uniform(0, 9, 250).reshape(2, 125)).ravel()
    times[130], times[129] = times[129], times[130]
    writer.write_plain(tmp_path / "a.nwb", times=times)
    with pytest.raises(InputError, match="negative interval before event 130"):
        tectum.read(tmp_path / "a.nwb")
    assert len(tectum.read(tmp_path / "a.nwb", fix="sort")["spikes"]) == 250
    dropped = tectum.read(tmp_path / "a.nwb", fix="drop")["spikes"]
    assert len(dropped) == 249
    assert {"step": "fix", "how": "drop", "dropped": 1, "backward": 1} in dropped.history
    times[3] = np.nan
    writer.write_plain(tmp_path / "a.nwb", times=times)
    with pytest.raises(InputError, match="1 NaN or infinite, the first at 3"):
        tectum.read(tmp_path / "a.nwb", fix="sort")
    assert len(tectum.read(tmp_path / "a.nwb", fix="drop")["spikes"]) == 248


def test_gaps_split_the_support(tmp_path: Path) -> None:
    stamps = np.arange(40) * 0.1
    stamps[20:] += 1.0
    writer.write_plain(tmp_path / "a.nwb", timestamps=stamps)
    with pytest.warns(TectumWarning, match="1 gaps above 1.5 frames"):
        part = tectum.read(tmp_path / "a.nwb")["Fluorescence/F"]
    np.testing.assert_allclose(part.intervals["support"].pairs(), [(0.0, 2.0), (3.0, 5.0)], atol=1e-9)


def test_an_unknown_unit_is_told(tmp_path: Path) -> None:
    writer.write_plain(tmp_path / "a.nwb", unit="furlong")
    with pytest.warns(TectumWarning, match="'furlong' is unknown"):
        part = tectum.read(tmp_path / "a.nwb")["Fluorescence/F"]
    assert part.units == "F"  # the container says Fluorescence
    assert part.history[0]["unit_in_file"] == "furlong"


def test_the_clock_may_be_far_from_zero(tmp_path: Path) -> None:
    near, far = tmp_path / "near.nwb", tmp_path / "far.nwb"
    times = np.sort(np.random.default_rng(0).integers(0, 9 << 10, 250).reshape(2, 125)).ravel() / 1024
    writer.write_plain(near, times=times)
    writer.write_plain(far, times=times + 1e9)
    a, b = tectum.read(near)["spikes"], tectum.read(far)["spikes"]
    assert torch.equal(b.times - 1e9, a.times)
    assert torch.equal(a.unit, b.unit)


def test_opening_two_gigabytes_reads_none_of_them(tmp_path: Path) -> None:
    path = tmp_path / "big.nwb"
    writer.write_plain(path)
    with h5py.File(path, "r+") as file:
        group = file.create_group("acquisition/lfp")
        group.attrs["neurodata_type"] = "ElectricalSeries"
        group.create_dataset("data", shape=(1 << 24, 64), dtype="i2", chunks=(1 << 14, 64))
        group["data"].attrs.update({"conversion": 1e-6, "unit": "volts"})
        group["starting_time"] = 0.0
        group["starting_time"].attrs["rate"] = 30_000.0
    tracemalloc.start()
    part = tectum.read(path)["lfp"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert part.is_lazy
    assert np.prod(part.shape) * 2 == 1 << 31
    assert peak < 200e6
    assert part.isel(time=slice(1000, 1010), channel=3).values.tolist() == [0.0] * 10


def test_a_link_to_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside.h5"
    with h5py.File(outside, "w") as file:
        file["data"] = np.zeros(30)
    path = tmp_path / "in" / "a.nwb"
    path.parent.mkdir()
    writer.write_plain(path)
    with h5py.File(path, "r+") as file:
        del file["processing/behavior/Position/x/data"]
        file["processing/behavior/Position/x/data"] = h5py.ExternalLink("../outside.h5", "data")
    with pytest.raises(
        LoadError, match=r"a\.nwb:/processing.*/data: expected data inside .*, got a link to .*outside\.h5"
    ):
        tectum.read(path)


def test_no_nwb(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.nwb", "w") as file:
        file["x"] = 1
    with pytest.raises(LoadError, match=r"a\.nwb: expected an NWB file, got an HDF5 file without nwb_version"):
        tectum.read(tmp_path / "a.nwb")
    (tmp_path / "b.nwb").write_bytes(b"not at all")
    with pytest.raises(LoadError, match=r"b\.nwb: expected an NWB file, got OSError"):
        tectum.read(tmp_path / "b.nwb")
    (tmp_path / "c.nwb").mkdir()
    with pytest.raises(LoadError, match=r"c\.nwb"):
        tectum.read(tmp_path / "c.nwb")


def test_text_where_numbers_belong(tmp_path: Path) -> None:
    writer.write_plain(tmp_path / "a.nwb")
    with h5py.File(tmp_path / "a.nwb", "r+") as file:
        del file["units/spike_times"]
        file["units/spike_times"] = ["a"] * 250
    with pytest.raises(LoadError, match="spike_times with spike_times_index"):
        tectum.read(tmp_path / "a.nwb")


def test_the_ephys_files_of_the_allen_institute(tmp_path: Path) -> None:
    made = writer.write_allen_ephys(tmp_path / "a.nwb")
    found = tectum.read(tmp_path / "a.nwb")
    spikes = found["spikes"]
    for name in ("id", "isi_violations", "amplitude_cutoff", "presence_ratio"):
        np.testing.assert_array_equal(spikes.units[name], made[name])
    assert spikes.units["area"].tolist() == ["CA1", "VISp", "CA1"]
    for k, (first, last) in enumerate([(0, 40), (40, 70), (70, 120)]):
        np.testing.assert_allclose(spikes.train(k).numpy(), made["times"][first:last], rtol=0, atol=1e-9)
    assert "waveform_mean" in spikes.history[0]["columns_left_out"] or "waveform_mean" not in spikes.units
    assert found["invalid_times"].pairs() == [(10.0, 12.0), (50.0, 55.0)]
    assert found["invalid_times"].columns["tags"].tolist() == ["probeA", "probeA,all_probes"]
    np.testing.assert_array_equal(found["gabors_presentations"].columns["orientation"], [0.0, 45.0, np.nan])
    observed = read_nwb(tmp_path / "a.nwb", exclude_invalid=True)["spikes"]
    inside = np.sort(made["times"])
    kept = ~(((inside >= 10) & (inside < 12)) | ((inside >= 50) & (inside < 55)))
    np.testing.assert_array_equal(observed.times.numpy(), inside[kept])
    assert [pair[1] for pair in observed.span.pairs()][:2] == [10.0, 50.0]
    assert observed.history[-1]["step"] == "restrict"


def test_the_old_ophys_files_of_the_allen_institute(tmp_path: Path) -> None:
    made = writer.write_allen_ophys(tmp_path / "a.nwb")
    found = tectum.read(tmp_path / "a.nwb")
    assert found.subject == "222426"
    part = found["DfOverF/imaging_plane_1"]
    np.testing.assert_array_equal(part.values.numpy(), made["dff"].T)
    assert (part.dims, part.units, part.modality) == (("time", "unit"), "dF/F", "calcium")
    np.testing.assert_allclose(part.time.numpy(), made["times"], rtol=0, atol=1e-9)
    assert part.coords["unit"]["id"].tolist() == made["ids"].tolist()
    assert part.coords["unit"]["name"].tolist() == ["0", "1", "2", "3"]
    assert found["Fluorescence/imaging_plane_1"].units == "F"
    speed = found["BehavioralTimeSeries/running_speed"]
    assert (speed.units, speed.dims) == ("cm/s", ("time",))


@pytest.mark.slow
def test_damage(tmp_path: Path) -> None:
    writer.write_plain(tmp_path / "a.nwb")
    fixed = ("Fluorescence/F.data", "Position/x.data")
    count = survive(lambda p: read_nwb(p), tmp_path / "a.nwb", tmp_path / "work", n=400, fixed=fixed)
    assert count["refused"] > 100
    assert count["loaded"] > 50
