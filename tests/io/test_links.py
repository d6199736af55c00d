"""Folders whose files are symbolic links to elsewhere: no reader follows one out of its folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from test_cellexplorer import write as write_cellexplorer
from test_spikeinterface import write as write_analyzer
from test_tables import write_sorting
from writers import nwb, nwb_zarr, others, phy, suite2p
from writers.mutate import touch

from tectum.core.errors import LoadError, TectumWarning
from tectum.io.alf import read_alf
from tectum.io.cellexplorer import read_cellexplorer
from tectum.io.minian import read_minian
from tectum.io.neurosuite import read_neurosuite
from tectum.io.nwb import read_nwb
from tectum.io.phy import read_phy
from tectum.io.spikeinterface import read_spikeinterface
from tectum.io.suite2p import read_suite2p


def write_store(folder: Path) -> None:
    nwb.write_plain(folder.parent / "twin.nwb")
    nwb_zarr.write(folder.parent / "twin.nwb", folder)


def made(write: Callable[..., Any]) -> Callable[[Path], Any]:
    """Return a writer that finds its folder made."""

    def call(folder: Path) -> Any:
        folder.mkdir()
        return write(folder)

    return call


#: Format -> (writer of a folder, reader).
FOLDERS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "suite2p": (suite2p.write_plane, read_suite2p),
    "phy": (phy.write_phy, partial(read_phy, groups=None)),
    "alf": (others.write_alf, read_alf),
    "neurosuite": (made(others.write_neurosuite), read_neurosuite),
    "spikeinterface": (write_sorting, read_spikeinterface),
    "analyzer": (partial(write_analyzer, kind="analyzer"), read_spikeinterface),
    "analyzer in zarr": (partial(write_analyzer, kind="analyzer.zarr"), read_spikeinterface),
    "cellexplorer": (write_cellexplorer, read_cellexplorer),
    "minian": (lambda folder: others.write_minian(folder.with_suffix(".zarr")), partial(read_minian, fs=20.0)),
    "nwb in zarr": (write_store, read_nwb),
}


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.filterwarnings("ignore::tectum.core.errors.TectumWarning")
def test_a_file_behind_a_link_is_refused_or_not_read(name: str, tmp_path: Path) -> None:
    write, read = FOLDERS[name]
    write(tmp_path / "good")
    good = next(p for p in sorted(tmp_path.iterdir()) if p.name.startswith("good"))
    expected, refused = touch(read(good)), 0
    for file in sorted(p for p in good.rglob("*") if p.is_file()):
        work, outside = tmp_path / "work", tmp_path / "outside" / file.name
        for folder in (work, outside.parent):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(good, work)
        outside.parent.mkdir()
        victim = work / file.relative_to(good)
        shutil.move(victim, outside)
        without = shapes(read, work)
        victim.symlink_to(outside)
        try:
            found = touch(read(work))
        except LoadError as error:
            assert str(work) in str(error)  # noqa: PT017
            refused += 1
        else:
            assert found == without, f"{victim.name} was read through a link"
    assert refused > 0
    assert touch(read(good)) == expected


def shapes(read: Callable[[Path], Any], path: Path) -> Any:
    """Return what is read without the file, None if nothing is."""
    try:
        return touch(read(path))
    except (LoadError, TectumWarning):
        return None
