"""Damage to files of spikes and calcium in the layouts that the tests of each reader leave out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_pickles import Attack
from test_tables import KINDS
from test_tables import write as write_arrays
from writers import matlab, nwb, others, suite2p
from writers.mutate import mutations, survive

from tectum.core.errors import LoadError, TectumWarning
from tectum.io.inscopix import read_inscopix
from tectum.io.matlab import read_matlab
from tectum.io.neo_files import read_neo
from tectum.io.nwb import read_nwb
from tectum.io.pynapple_files import read_pynapple
from tectum.io.suite2p import read_suite2p
from tectum.io.table import read_events

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", KINDS)
def test_two_arrays_as_spikes(kind: str, tmp_path: Path) -> None:
    path = tmp_path / KINDS[kind]
    write_arrays(path, kind)
    unit = "a" if kind in ("csv", "parquet") else "unit"
    read = partial(read_events, time="clock", unit=unit)
    count = survive(read, path, tmp_path / "work", n=300, seed=3, fixed=())
    assert count["refused"] > 40


@pytest.mark.parametrize("new", [False, True])
def test_all_regions_of_suite2p_keep_their_shape(new: bool, tmp_path: Path) -> None:
    suite2p.write_plane(tmp_path / "good" / "plane0", new=new)
    read = partial(read_suite2p, cells_only=False)
    count = survive(read, tmp_path / "good", tmp_path / "work", n=300, seed=5)
    assert count["refused"] > 60
    assert count["loaded"] > 20


def test_events_of_inscopix(tmp_path: Path) -> None:
    others.write_inscopix(tmp_path / "good")

    def read(path: Path) -> Any:
        return read_inscopix(tmp_path / "good" / "traces.csv", events=path)

    count = survive(read, tmp_path / "good" / "events.csv", tmp_path / "work", n=300, fixed=("traces.data",))
    assert count["refused"] > 40


@pytest.mark.parametrize("write", [nwb.write_allen_ephys, nwb.write_allen_ophys, nwb.write_rich])
def test_other_layouts_of_nwb(write: Callable[[Path], Any], tmp_path: Path) -> None:
    write(tmp_path / "a.nwb")
    count = survive(lambda p: read_nwb(p), tmp_path / "a.nwb", tmp_path / "work", n=300, seed=1, fixed=())
    assert count["refused"] > 60


@pytest.mark.parametrize("kind", ["Ts", "Tsd", "TsdTensor", "folder"])
def test_further_objects_of_pynapple(kind: str, tmp_path: Path) -> None:
    from test_pynapple import objects, saved

    good = tmp_path / "good"
    good.mkdir()
    for name in ("Tsd", "TsGroup", "IntervalSet") if kind == "folder" else (kind,):
        path = saved(objects()[name], good / f"{name}.npz")
    fixed = ("data",) if kind in ("Tsd", "TsdTensor") else ()
    source = good if kind == "folder" else path
    read = partial(read_pynapple, **({"dims": ("time", "y", "x")} if kind == "TsdTensor" else {}))
    count = survive(read, source, tmp_path / "work", n=300, fixed=fixed)
    assert count["refused"] > 60


def test_signals_that_neo_reads(tmp_path: Path) -> None:
    pytest.importorskip("neo")
    pq = pytest.importorskip("quantities")
    rows = np.arange(24.0).reshape(8, 3)
    np.savetxt(tmp_path / "signal.csv", rows, delimiter=",", header="t,a,b", comments="")
    options = {"delimiter": ",", "usecols": (1, 2), "skiprows": 1, "sampling_rate": 100 * pq.Hz, "units": "mV"}

    def read(path: Path) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read_neo(path, io="AsciiSignalIO", **options)

    count = survive(read, tmp_path / "signal.csv", tmp_path / "work", n=300, fixed=())
    assert count["refused"] > 40


def test_neos_own_matlab_files_do_not_end_the_process(tmp_path: Path) -> None:
    neo = pytest.importorskip("neo")
    pq = pytest.importorskip("quantities")
    segment = neo.Segment()
    segment.spiketrains.append(neo.SpikeTrain([0.5, 1.0] * pq.s, t_stop=2 * pq.s))
    segment.analogsignals.append(neo.AnalogSignal(np.zeros((20, 2)), units="mV", sampling_rate=10 * pq.Hz))
    block = neo.Block()
    block.segments.append(segment)
    neo.io.NeoMatlabIO(str(tmp_path / "x.mat")).write_block(block)

    def read(path: Path) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read_neo(path, io="NeoMatlabIO")

    count = survive(read, tmp_path / "x.mat", tmp_path / "work", n=600, fixed=())
    assert count["refused"] > 100
    assert count["loaded"] > 20


@pytest.mark.parametrize("version", ["4", "6"])
def test_matlab_files_without_checksums(version: str, tmp_path: Path) -> None:
    content = {"t": np.arange(40.0), "u": np.arange(40.0) % 3, "x": np.zeros((3, 20))}
    matlab.write(tmp_path / "x.mat", content, version)
    schema: Any = {
        "s": {"kind": "spikes", "times": "t", "unit": "u"},
        "r": {"kind": "recording", "data": "x", "dims": ("unit", "time"), "rate": 1.0},
    }
    read = partial(read_matlab, schema=schema)
    count = survive(read, tmp_path / "x.mat", tmp_path / "work", n=300, seed=2, fixed=())
    assert count["refused"] > 60


def test_no_damage_makes_an_attack_run(tmp_path: Path) -> None:
    """A pickle that would make a folder stays harmless whatever is flipped, cut or put in front of it."""
    plane, flag = tmp_path / "plane0", tmp_path / "flag"
    suite2p.write_plane(plane)
    attack = {"fs": 10.0, "run": Attack(os.mkdir, str(flag))}
    np.save(plane / "ops.npy", np.array(attack, dtype=object), allow_pickle=True)
    np.save(plane / "stat.npy", np.array([attack] * 5, dtype=object), allow_pickle=True)
    refused = 0
    for name, path in mutations(plane, tmp_path / "work", 600, 7):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", TectumWarning)
                read_suite2p(path, cells_only=False, fs=10.0)
        except LoadError as error:
            assert str(tmp_path / "work") in str(error), name  # noqa: PT017
            refused += 1
        assert not flag.exists(), name
    assert refused > 500
