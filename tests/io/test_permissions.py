"""Files that may not be read: the error names the file and the cause, for every format, also where root runs this."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cnmfe import made as write_neuron
from test_links import FOLDERS
from test_tables import write as write_arrays
from test_temporaldata import write as write_temporaldata
from writers import matlab, neo_formats, nwb, others
from writers.rights import as_nobody

import tectum
from tectum import Spikes
from tectum.core import serialize
from tectum.core.errors import LoadError
from tectum.io.caiman import read_caiman
from tectum.io.cnmfe import read_cnmfe
from tectum.io.inscopix import read_inscopix
from tectum.io.matlab import read_matlab
from tectum.io.minian import read_minian
from tectum.io.neo_files import read_neo
from tectum.io.nwb import read_nwb
from tectum.io.pynapple_files import read_pynapple
from tectum.io.table import read_array, read_events
from tectum.io.temporaldata_files import read_temporaldata

TRAIN = {"s": {"kind": "spikes", "times": "st"}}
FLAT = {"s": {"kind": "spikes", "times": "st", "unit": "u"}}


def write_group(path: Path) -> None:
    """Write two units as pynapple lays them out."""
    np.savez(
        path,
        t=np.arange(3.0),
        index=np.array([0, 1, 0]),
        keys=np.arange(2),
        type=np.array(["TsGroup"]),
        start=[0.0],
        end=[3.0],
    )


FILES: dict[str, tuple[str, Callable[[Path], Any], Callable[[Path], Any]]] = {
    "nwb": ("a.nwb", nwb.write_plain, read_nwb),
    "caiman": ("a.hdf5", others.write_caiman, read_caiman),
    "minian netcdf": ("m.nc", others.write_minian, partial(read_minian, fs=20.0)),
    "inscopix": ("traces.csv", lambda p: others.write_inscopix(p.parent), read_inscopix),
    "matlab 7": ("a.mat", lambda p: matlab.write(p, {"st": [np.ones(2)]}, "7"), partial(read_matlab, schema=TRAIN)),
    "matlab 7.3": ("b.mat", lambda p: matlab.write(p, {"st": [np.ones(2)]}, "7.3"), partial(read_matlab, schema=TRAIN)),
    "blackrock": ("a.ns3", lambda p: neo_formats.write_blackrock(p.parent), partial(read_neo, io="BlackrockIO")),
    "axon": ("a.abf", neo_formats.write_axon, partial(read_neo, io="AxonIO")),
    "npy": ("x.npy", lambda p: np.save(p, np.ones((3, 2))), partial(read_array, dims=("time", "unit"), rate=1.0)),
    "npz": ("x.npz", lambda p: np.savez(p, t=np.ones(3), u=np.zeros(3, int)), partial(read_events, time="t", unit="u")),
    "csv": ("x.csv", lambda p: p.write_text("t,u\n0.5,0\n"), partial(read_events, time="t", unit="u")),
    "matlab 4": (
        "c.mat",
        lambda p: matlab.write(p, {"st": np.ones(2), "u": np.zeros(2)}, "4"),
        partial(read_matlab, schema=FLAT),
    ),
    "cnmfe": ("n.mat", lambda p: matlab.write(p, {"neuron": write_neuron(images=None)}), read_cnmfe),
    "hdf5": ("x.h5", lambda p: write_arrays(p, "h5"), partial(read_events, time="clock", unit="unit")),
    "parquet": ("x.parquet", lambda p: write_arrays(p, "parquet"), partial(read_events, time="clock", unit="a")),
    "pynapple": ("x.npz", write_group, read_pynapple),
    "temporaldata": ("t.h5", write_temporaldata, read_temporaldata),
    "neo": ("n.txt", lambda p: p.write_text("0.5\t1.0\n"), partial(read_neo, io="AsciiSpikeTrainIO")),
    "ours": ("x.safetensors", lambda p: serialize.write(p, Spikes.from_trains([[1.0]])), tectum.read),
}


def refused(read: Callable[[Path], Any], path: Path, victim: Path) -> None:
    """Check that the path is read at first, and that the error names the file once it may not be."""
    read(path)  # whatever is imported on the way is imported now
    victim.chmod(0)
    with as_nobody(), pytest.raises(LoadError) as caught:
        read(path)
    assert str(victim) in str(caught.value)
    assert "ermission denied" in str(caught.value)
    with as_nobody(), pytest.raises(LoadError, match="ermission denied"):
        tectum.read(path, **read.keywords if isinstance(read, partial) else {})


@pytest.mark.skipif(os.name != "posix", reason="modes of files are those of POSIX")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore::tectum.core.errors.TectumWarning")
def test_a_file_without_permission_is_named(name: str, room: Path) -> None:
    file, write, read = FILES[name]
    write(room / file)
    (room / file).chmod(0o644)
    refused(read, room / file, room / file)


#: Folder format -> a file without which nothing is read.
NEEDED = {
    "suite2p": "F.npy", "phy": "spike_times.npy", "alf": "spikes.times*.npy", "neurosuite": "*.res.1",
    "spikeinterface": "spikes.npy", "cellexplorer": "*.spikes.cellinfo.mat", "nwb in zarr": ".zattrs",
}  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="modes of files are those of POSIX")
@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.filterwarnings("ignore::tectum.core.errors.TectumWarning")
def test_a_file_of_a_folder_without_permission_is_named(name: str, room: Path) -> None:
    write, read = FOLDERS[name]
    write(room / "good")
    for path in (room / "good").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    refused(read, room / "good", next((room / "good").rglob(NEEDED[name])))
