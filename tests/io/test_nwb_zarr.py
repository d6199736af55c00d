"""NWB in Zarr: the same session as from HDF5, part by part from disk, and nothing outside the folder is touched."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from writers import nwb as writer
from writers import nwb_zarr, realdata
from writers.mutate import survive

import tectum
from tectum import Intervals, Recording, Session, Spikes
from tectum.core.errors import LoadError, MissingExtraError
from tectum.io.detect import detect
from tectum.io.nwb import read_nwb
from tectum.io.zarr_arrays import open_texts


def same(a: Session, b: Session, left_out: tuple[str, ...] = ()) -> None:
    """Compare every part; ``left_out`` are columns of references, which Zarr keeps as pickles."""
    assert list(a) == list(b)
    assert a.meta == b.meta
    for name, one in a.items():
        two = b[name]
        if isinstance(one, Recording):
            assert isinstance(two, Recording)
            assert two.is_lazy
            assert torch.equal(one.values, two.values)
            assert (one.dims, one.units, one.rate, one.t0) == (two.dims, two.units, two.rate, two.t0)
            assert torch.equal(one.time, two.time) if "time" in one.dims else True
            assert {k: sorted(set(v) - set(left_out)) for k, v in one.coords.items()} == {
                k: sorted(v) for k, v in two.coords.items()
            }
        elif isinstance(one, Spikes):
            assert isinstance(two, Spikes)
            assert torch.equal(one.times, two.times)
            assert torch.equal(one.unit, two.unit)
            assert one.span.pairs() == two.span.pairs()
            for column in set(one.units) - set(left_out):
                assert one.units[column].tolist() == two.units[column].tolist()
        else:
            assert isinstance(one, Intervals)
            assert isinstance(two, Intervals)
            assert one.pairs() == two.pairs()
            assert {k: list(v) for k, v in one.columns.items()} == {k: list(v) for k, v in two.columns.items()}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    writer.write_rich(tmp_path / "rich.nwb")
    return nwb_zarr.write(tmp_path / "rich.nwb", tmp_path / "rich.nwb.zarr")


def test_a_rich_store_equals_its_twin_in_hdf5(store: Path, tmp_path: Path) -> None:
    found = tectum.read(store)
    same(read_nwb(tmp_path / "rich.nwb"), found, left_out=("group",))
    assert found["spikes"].units["quality"].tolist() == ["q0", "q1", "q2"]
    assert detect(store) == ["nwb"]
    assert tectum.read(store.rename(tmp_path / "b.nwb"), names=["lfp"])["lfp"].is_lazy


@pytest.mark.realdata
@pytest.mark.parametrize("member", ["phy/pynapplenwb/A8604-211122.nwb", "matlab-cnmfe/pynapplenwb/A6512-210915.nwb"])
def test_real_recordings_equal_their_twins(member: str, tmp_path: Path) -> None:
    source = realdata.pynapple(member)
    found = tectum.read(nwb_zarr.write(source, tmp_path / "a.zarr"))
    same(read_nwb(source), found, left_out=("electrode_group", "group"))


def test_pickles_are_neither_read_nor_run(store: Path) -> None:
    groups = store / "general/extracellular_ephys/electrodes/group"
    assert json.loads((groups / ".zarray").read_text())["filters"] == [{"id": "pickle", "protocol": 5}]
    assert "group" not in tectum.read(store)["lfp"].coords["channel"]


def test_links_of_other_stores_and_out_of_the_folder(store: Path, tmp_path: Path) -> None:
    outside = tmp_path / "secret"
    outside.write_bytes(bytes(8))
    chunk = store / "acquisition/counter/data/0"
    chunk.unlink()
    chunk.symlink_to(outside)
    with pytest.raises(LoadError, match=r"data/0: expected a file inside .*, got a path that leads to .*secret"):
        tectum.read(store)
    chunk.unlink()
    (store / "acquisition/notes/data/0").unlink()
    (store / "acquisition/notes/data/0").symlink_to(outside)
    with pytest.raises(LoadError, match=r"notes/data/0: expected a file inside"):
        tectum.read(store)


def test_a_link_to_another_store_is_not_followed(store: Path) -> None:
    series = store / "processing/behavior/Position/xy"
    attributes = json.loads((series / ".zattrs").read_text())
    (series / "data").rename(store.parent / "data")
    attributes["zarr_link"] = [{"name": "data", "path": "/", "source": "../data"}]
    (series / ".zattrs").write_text(json.dumps(attributes))
    assert tectum.read(store).meta["skipped"] == {"Position/xy": "it has no data of its own"}
    attributes["zarr_link"] = [{"name": "data", "path": "/processing/behavior/Position/xy/data", "source": "."}]
    (series / ".zattrs").write_text(json.dumps(attributes))  # a link to itself
    assert tectum.read(store).meta["skipped"] == {"Position/xy": "it has no data of its own"}


def test_links_inside_the_store_are_followed(store: Path) -> None:
    before = tectum.read(store)["Position/xy"].values
    series = store / "processing/behavior/Position/xy"
    (series / "data").rename(store / "scratch")
    attributes = json.loads((series / ".zattrs").read_text())
    attributes["zarr_link"] = [{"name": "data", "path": "/scratch", "source": "."}]
    (series / ".zattrs").write_text(json.dumps(attributes))
    assert torch.equal(tectum.read(store)["Position/xy"].values, before)


def test_texts_of_any_damage_are_refused(store: Path) -> None:
    folder = store / "units/quality"
    header = json.loads((folder / ".zarray").read_text())
    (folder / ".zarray").write_text(json.dumps({**header, "compressor": None}))
    for data, says in (
        (b"\xff\xff\xff\xff" + b"\x01\x00\x00\x00a" * 3, "4294967295 texts in a chunk of 3"),
        (b"\x03\x00\x00\x00\xff\xff\xff\x7fab", "a text of 2147483647 bytes"),
        (b"\x01", "error"),
    ):
        (folder / "0").write_bytes(data)
        with pytest.raises(LoadError, match=f"quality.*{says}"):
            open_texts(folder)[()]
    (folder / "0").unlink()
    np.testing.assert_array_equal(open_texts(folder)[()], ["", "", ""])
    (folder / ".zarray").write_text(json.dumps({**header, "shape": [1 << 40]}))
    with pytest.raises(LoadError, match="1099511627776"):
        open_texts(folder)


def test_no_nwb(tmp_path: Path) -> None:
    (tmp_path / "a.nwb").mkdir()
    (tmp_path / "a.nwb" / ".zgroup").write_text('{"zarr_format": 2}')
    with pytest.raises(LoadError, match=r"a\.nwb: expected an NWB file, got a Zarr store without nwb_version"):
        tectum.read(tmp_path / "a.nwb")


def test_a_missing_package_says_what_to_install(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(MissingExtraError, match="pip install zarr"):
        tectum.read(store)


@pytest.mark.slow
def test_damage(tmp_path: Path) -> None:
    writer.write_plain(tmp_path / "a.nwb")
    nwb_zarr.write(tmp_path / "a.nwb", tmp_path / "a.zarr")
    fixed = ("Fluorescence/F.data", "Position/x.data")
    count = survive(lambda p: read_nwb(p), tmp_path / "a.zarr", tmp_path / "work", n=300, fixed=fixed)
    assert count["refused"] > 60
    assert count["loaded"] > 60
