"""NWB files out of containers: valid for pynwb, and back again but for what the module says is lost."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from writers import containers as made
from writers import nwb as writer

import tectum
from tectum import Graph, Intervals, Recording, Session, Spikes
from tectum.core.errors import InputError, TectumWarning
from tectum.io.convert import from_nwb, to_nwb
from tectum.io.nwb import read_nwb

pynwb = pytest.importorskip("pynwb")


def errors_of(path: Path) -> list[Any]:
    """Return what the validator of pynwb finds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pynwb.NWBHDF5IO(str(path), "r") as io:
            return list(pynwb.validate(io=io))


def through(obj: Any) -> Session:
    """Write, validate and read."""
    with tempfile.TemporaryDirectory() as folder:
        path = to_nwb(obj, Path(folder) / "x.nwb")
        assert errors_of(path) == []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TectumWarning)  # of gaps between irregular frames
            found = read_nwb(path)
        parts = {k: v.load() if isinstance(v, Recording) else v for k, v in found.items()}
        return Session(items_=parts, subject=found.subject, session=found.session, meta=found.meta)


@made.few
@given(made.spikes(), made.intervals(overlap=True), made.recordings(), made.recordings(("time", "unit"), "dF/F"))
def test_sessions_come_back(spikes: Spikes, spans: Intervals, rec: Recording, calcium: Recording) -> None:
    calcium = calcium.with_(modality="calcium")
    parts = {"spikes": spikes, "trials": spans, "lfp": rec, "DfOverF/traces": calcium}
    session = Session(items_=parts, subject="m é", session="s1", meta={"species": "Mus musculus"})
    found = through(session)
    assert set(found) >= set(parts)
    assert (found.subject, found.session, found.meta["species"]) == ("m é", "s1", "Mus musculus")
    made.same_spikes(found["spikes"], spikes)
    assert found["trials"].pairs() == spans.pairs()
    if len(spans):
        made.same_columns(found["trials"].columns, spans.columns)
    for name, part in (("lfp", rec), ("DfOverF/traces", calcium)):
        order = ("time", *[d for d in part.dims if d != "time"])
        assert found[name].dims == order
        torch.testing.assert_close(found[name].values, part.tensor(*order), rtol=1e-6, atol=0)
        assert (found[name].units, found[name].modality) == (part.units, part.modality)
        np.testing.assert_allclose(found[name].time, part.time, rtol=0, atol=1e-9)
    made.same_columns(found["DfOverF/traces"].coords["unit"], calcium.coords["unit"])


def test_ids_of_text_channels_and_footprints_come_back(tmp_path: Path) -> None:
    table = {"unit": {"id": ["a", "b"], "snr": [1.0, 2.0]}}
    lfp = Recording(
        data=torch.randn(50, 2),
        dims=("time", "channel"),
        rate=100.0,
        units="uV",
        modality="ephys",
        coords={"channel": {"name": ["Fp1", "Cz"], "x": [0.1, 0.2]}},
    )
    traces = Recording(
        data=torch.randn(30, 2), dims=("time", "unit"), rate=3.0, units="F", modality="calcium", coords=table
    )
    shapes = Recording(data=torch.rand(2, 4, 5), dims=("unit", "y", "x"), coords=table)
    spikes = Spikes.from_trains([[0.5], []], support=(0, 1), units={"id": ["x", "y"]})
    found = through(Session(items_={"lfp": lfp, "F": traces, "footprints": shapes, "spikes": spikes}))
    assert found["spikes"].units["id"].tolist() == ["x", "y"]
    assert found["lfp"].labels("channel").tolist() == ["Fp1", "Cz"]
    assert found["lfp"].coords["channel"]["x"].tolist() == [0.1, 0.2]
    torch.testing.assert_close(found["lfp"].values, lfp.values)
    made.same_columns(found["F"].coords["unit"], {k: np.asarray(v) for k, v in table["unit"].items()})
    image = found["ImageSegmentation/rois/image_mask"]
    torch.testing.assert_close(image.tensor("unit", "y", "x"), shapes.values)


def test_containers_of_nwb_and_flat_names(tmp_path: Path) -> None:
    place = Recording(data=torch.rand(9, 2), dims=("time", "feature"), rate=3.0, units="m", modality="behaviour")
    parts = {
        "Position/xy": place,
        "PupilTracking/size": place.isel(feature=0),
        "a/b": place,
        "epochs/x": Intervals.from_pairs([(0, 1)]),
    }
    found = through(Session(items_=parts))
    assert {"Position/xy", "PupilTracking/size", "a_b", "epochs_x"} <= set(found)
    torch.testing.assert_close(found["Position/xy"].values, place.values)


def test_lazy_recordings_are_written_in_blocks(tmp_path: Path) -> None:
    data = np.arange(40_000, dtype=np.float32).reshape(-1, 2)
    np.save(tmp_path / "x.npy", data)
    rec = tectum.read(tmp_path / "x.npy", format="array", dims=("time", "feature"), rate=10.0)
    assert rec.is_lazy
    found = through(Session(items_={"x": rec}))
    np.testing.assert_array_equal(found["x"].values.numpy(), data)


def test_pynwb_and_we_read_the_same(tmp_path: Path) -> None:
    spikes = Spikes.from_trains([[0.5, 0.7], [0.2]], support=(0, 1), units={"id": [4, 7], "area": ["CA1", "CA3"]})
    to_nwb(spikes, tmp_path / "x.nwb")
    with pynwb.NWBHDF5IO(str(tmp_path / "x.nwb"), "r") as io:
        nwb = io.read()
        assert nwb.units.get_unit_spike_times(0).tolist() == [0.5, 0.7]
        assert nwb.units.get_unit_obs_intervals(1).tolist() == [[0.0, 1.0]]
        assert nwb.units["area"][:].tolist() == ["CA1", "CA3"]
        made.same_spikes(tectum.read(nwb)["spikes"], spikes)


def test_objects_in_memory_and_on_disk(tmp_path: Path) -> None:
    writer.write_rich(tmp_path / "rich.nwb")
    expected = read_nwb(tmp_path / "rich.nwb")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pynwb.NWBHDF5IO(str(tmp_path / "rich.nwb"), "r") as io:
            on_disk = from_nwb(io.read())
        fresh = pynwb.NWBFile("d", "i", writer.START)
        fresh.add_acquisition(pynwb.TimeSeries("counter", data=np.arange(5.0), rate=10.0, unit="n.a."))
    assert set(on_disk) == set(expected)
    assert torch.equal(on_disk["lfp"].values, expected["lfp"].values)
    in_memory = tectum.read(fresh)
    assert in_memory["counter"].values.tolist() == [0, 1, 2, 3, 4]
    assert not in_memory["counter"].is_lazy
    with pytest.raises(InputError, match=r"a pynwb\.NWBFile, got int"):
        from_nwb(3)


def test_a_session_of_nwb_comes_back_whole(tmp_path: Path) -> None:
    writer.write_rich(tmp_path / "rich.nwb")
    before = read_nwb(tmp_path / "rich.nwb")
    to_nwb(before, tmp_path / "again.nwb")
    assert errors_of(tmp_path / "again.nwb") == []
    after = read_nwb(tmp_path / "again.nwb")
    segmentation = "ImageSegmentation/{}/image_mask"
    assert set(before) - set(after) == {segmentation.format("PlaneSegmentation")}
    images = after[segmentation.format("rois")].values
    torch.testing.assert_close(images, before[segmentation.format("PlaneSegmentation")].values)
    for name, part in after.items():
        if isinstance(part, Recording) and name in before:
            torch.testing.assert_close(part.values, before[name].values, rtol=1e-6, atol=0)
            assert part.units == before[name].units
    assert after.meta["session_start_time"] == before.meta["session_start_time"]


def test_a_crash_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = to_nwb(Intervals.from_pairs([(0, 1)]), tmp_path / "x.nwb")
    before = path.read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(pynwb.NWBHDF5IO, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        to_nwb(Intervals.from_pairs([(0, 2)]), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.nwb"]


def test_what_nwb_cannot_hold(tmp_path: Path) -> None:
    graph = Graph(weights=torch.eye(2)[None], layers=("x",))
    spikes = Spikes.from_trains([[0.5]], support=(0, 1))
    with pytest.warns(TectumWarning, match="g, second not written"):
        to_nwb(Session(items_={"s": spikes, "second": spikes, "g": graph}), tmp_path / "x.nwb")
    with pytest.raises(InputError, match=r"spikes, recordings over time or intervals, got \['g'\]"):
        to_nwb(Session(items_={"g": graph}), tmp_path / "y.nwb")
    assert not (tmp_path / "y.nwb").exists()
    with pytest.raises(InputError, match="Session, Spikes, Recording or Intervals, got int"):
        to_nwb(3, tmp_path / "z.nwb")  # type: ignore[arg-type]
