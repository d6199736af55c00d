"""NWB files through pynwb, and by hand where pynwb would not write them."""

from __future__ import annotations

import datetime
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np

START = datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC)


def write_rich(path: Path, seed: int = 0) -> None:
    """Write units, positions, fields, region traces, trials and epochs with pynwb, whose own warnings are not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _write_rich(path, seed)


def _write_rich(path: Path, seed: int) -> None:
    from pynwb import NWBHDF5IO, NWBFile, TimeSeries
    from pynwb.behavior import Position, SpatialSeries
    from pynwb.ecephys import ElectricalSeries
    from pynwb.file import Subject
    from pynwb.misc import AnnotationSeries, IntervalSeries

    rng = np.random.default_rng(seed)
    nwb = NWBFile(
        "a test", "id-1", START, session_id="s1", subject=Subject(subject_id="mouse é", species="Mus musculus")
    )
    device = nwb.create_device("probe")
    group = nwb.create_electrode_group("shank0", "x", "CA1", device)
    for k in range(4):
        nwb.add_electrode(x=float(k), y=0.0, z=0.0, imp=1.0, location=f"CA{k % 3 + 1}", filtering="none", group=group)
    nwb.add_unit_column("quality", "isolation")
    for k, n in enumerate((3, 0, 5)):
        spikes = np.sort(rng.uniform(0, 20, n))
        nwb.add_unit(spike_times=spikes, obs_intervals=[[0.0, 9.0], [9.0, 20.0]], electrodes=[k], quality=f"q{k}")
    times = np.cumsum(rng.uniform(0.01, 0.03, 50))
    place = SpatialSeries("xy", data=rng.random((50, 2)), timestamps=times, unit="meters", conversion=0.5, offset=0.1)
    place.fields["reference_frame"] = "corner"
    nwb.create_processing_module("behavior", "x").add(Position(spatial_series=place))
    region = nwb.create_electrode_table_region([1, 3], "two")
    nwb.add_acquisition(
        ElectricalSeries(
            "lfp",
            data=rng.integers(-99, 99, (80, 2)).astype(np.int16),
            electrodes=region,
            rate=1250.0,
            starting_time=3.5,
            conversion=1e-6,
            channel_conversion=[1.0, 2.0],
            offset=1e-3,
        )
    )
    nwb.add_acquisition(TimeSeries("counter", data=np.arange(10, dtype=np.uint16), rate=10.0, unit="n.a."))
    nwb.add_acquisition(AnnotationSeries("notes", data=["go", "stöp"], timestamps=[1.0, 2.5]))
    nwb.add_acquisition(IntervalSeries("lick", data=[1, -1, 2, -2], timestamps=[0.5, 0.75, 3.0, 4.0]))
    nwb.add_trial_column("choice", "x")
    for k in range(3):
        nwb.add_trial(start_time=float(k), stop_time=k + 0.5, choice=f"c{k}")
    nwb.add_epoch(0.0, 20.0, ["all", "wake"])
    _ophys(nwb, rng, device)
    with NWBHDF5IO(path, "w") as out:
        out.write(nwb)


def _ophys(nwb: Any, rng: np.random.Generator, device: Any) -> None:
    from pynwb.ophys import DfOverF, ImageSegmentation, OpticalChannel, RoiResponseSeries

    channel = OpticalChannel("green", "x", 520.0)
    plane = nwb.create_imaging_plane(
        name="plane",
        optical_channel=channel,
        description="x",
        device=device,
        excitation_lambda=920.0,
        indicator="GCaMP6f",
        location="V1",
        imaging_rate=30.0,
    )
    segmentation = ImageSegmentation()
    table = segmentation.create_plane_segmentation("rois", plane, "PlaneSegmentation")
    for _ in range(3):
        table.add_roi(image_mask=rng.random((6, 5)))
    region = table.create_roi_table_region("all", region=[0, 1, 2])
    module = nwb.create_processing_module("ophys", "x")
    module.add(segmentation)
    series = RoiResponseSeries("RoiResponseSeries", rng.random((40, 3)), "n.a.", region, rate=30.0)
    module.add(DfOverF(roi_response_series=series))


def write_plain(path: Path, **changes: Any) -> None:
    """Write a small file by hand: units with an index of uint8, one position and region traces.

    ``changes``: ``ends``, ``times`` (spikes), ``data``, ``rois`` (number), ``timestamps`` or ``rate`` of the traces.
    """
    with h5py.File(path, "w") as file:
        file.attrs["nwb_version"] = "2.7.0"
        file["identifier"] = "plain"
        file["session_start_time"] = "2024-01-02T00:00:00+00:00"
        units = file.create_group("units")
        units.attrs["colnames"] = np.array(["spike_times", "quality"], dtype=object)
        times = changes.get("times", np.sort(np.random.default_rng(0).uniform(0, 9, 250).reshape(2, 125)).ravel())
        units["spike_times"] = times
        units["spike_times_index"] = changes.get("ends", np.array([125, 250], np.uint8))
        units["id"] = np.array([7, 9])
        units["quality"] = ["good", "mua"]
        position = file.create_group("processing/behavior/Position/x")
        position.attrs["neurodata_type"] = "SpatialSeries"
        position["data"] = np.linspace(0, 1, 30)
        position["data"].attrs.update({"conversion": 1.0, "unit": "meters"})
        position["timestamps"] = changes.get("stamps", np.linspace(0, 9, 30) ** 1.01)
        traces = file.create_group("processing/ophys/Fluorescence/F")
        traces.attrs["neurodata_type"] = "RoiResponseSeries"
        data = changes.get("data", np.arange(120, dtype=np.float32).reshape(40, 3))
        traces["data"] = data
        traces["data"].attrs.update({"conversion": 1.0, "unit": changes.get("unit", "lumens")})
        if changes.get("rois", 3) is not None:
            traces["rois"] = np.arange(changes.get("rois", 3))
        if "timestamps" in changes:
            traces["timestamps"] = changes["timestamps"]
        else:
            traces["starting_time"] = 1.0
            traces["starting_time"].attrs["rate"] = changes.get("rate", 10.0)


def write_allen_ephys(path: Path) -> dict[str, np.ndarray]:
    """Write units with the quality columns, the peak channels and the invalid times of the Allen Institute."""
    rng = np.random.default_rng(0)
    made = {
        "isi_violations": rng.random(3),
        "amplitude_cutoff": np.array([0.01, np.nan, 0.2]),
        "presence_ratio": rng.random(3),
        "peak_channel_id": np.array([850_000_12, 850_000_10, 850_000_12]),
        "id": np.array([950_911_932, 950_911_986, 950_912_164]),
    }
    with h5py.File(path, "w") as file:
        file.attrs["nwb_version"] = "2.2.2"
        file["identifier"] = "715093703"
        file["session_start_time"] = "2019-01-19T00:54:18-08:00"
        units = file.create_group("units")
        times = [np.sort(rng.uniform(0, 100, n)) for n in (40, 30, 50)]
        made["times"] = np.concatenate(times)
        units["spike_times"], units["spike_times_index"] = made["times"], np.cumsum([40, 30, 50])
        for name in ("isi_violations", "amplitude_cutoff", "presence_ratio", "peak_channel_id", "id"):
            units[name] = made[name]
        units["waveform_mean"] = np.zeros((9, 82))
        electrodes = file.create_group("general/extracellular_ephys/electrodes")
        electrodes["id"] = np.array([850_000_10, 850_000_11, 850_000_12])
        electrodes["location"] = ["VISp", "", "CA1"]
        bad = file.create_group("intervals/invalid_times")
        bad.attrs["neurodata_type"] = "TimeIntervals"
        bad["id"], bad["start_time"], bad["stop_time"] = np.arange(2), np.array([10.0, 50.0]), np.array([12.0, 55.0])
        bad["tags"], bad["tags_index"] = ["probeA", "probeA", "all_probes"], np.array([1, 3])
        shown = file.create_group("intervals/gabors_presentations")
        shown.attrs["neurodata_type"] = "TimeIntervals"
        shown["id"], shown["start_time"], shown["stop_time"] = np.arange(3), np.arange(3.0), np.arange(3.0) + 0.25
        shown["orientation"] = np.array([0.0, 45.0, np.nan])
    return made


def write_allen_ophys(path: Path) -> dict[str, np.ndarray]:
    """Write a file of NWB 1 as the Brain Observatory gave it: (region, time), named ancestors, ids beside."""
    rng = np.random.default_rng(0)
    made = {"dff": rng.random((4, 60)).astype("f4"), "times": 8.0 + np.arange(60) / 30.0, "speed": rng.random(60)}
    made["ids"] = np.array([517_473_350, 517_473_341, 517_473_313, 517_473_255])
    room = "processing/brain_observatory_pipeline"
    with h5py.File(path, "w") as file:
        file["nwb_version"] = "NWB-1.0.5"
        file["identifier"] = "510859641"
        file["general/subject/subject_id"] = "222426"
        for kind in ("DfOverF", "Fluorescence"):
            series = file.create_group(f"{room}/{kind}/imaging_plane_1")
            series.attrs["neurodata_type"] = "TimeSeries"
            series.attrs["ancestry"] = np.array([b"TimeSeries", b"RoiResponseSeries"])
            series["data"] = made["dff"]
            series["data"].attrs.update({"conversion": 1.0, "unit": "dF/F" if kind == "DfOverF" else "Fluorescence"})
            series["timestamps"], series["num_samples"] = made["times"], 60
            series["roi_names"] = np.array([b"0", b"1", b"2", b"3"])
        file[f"{room}/ImageSegmentation/cell_specimen_ids"] = made["ids"]
        running = file.create_group(f"{room}/BehavioralTimeSeries/running_speed")
        running.attrs["neurodata_type"] = "TimeSeries"
        running.attrs["ancestry"] = np.array([b"TimeSeries"])
        running["data"], running["timestamps"] = made["speed"], made["times"]
        running["data"].attrs.update({"conversion": 1.0, "unit": "cm/s"})
    return made
