"""Which format a file or folder is of, told by what it holds and never by its suffix alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tectum.core.errors import InputError, LoadError, explain

from .files import reading
from .signature import is_hdf5


def _hdf5(path: Path, test: Callable[[Any], bool]) -> bool:
    """Apply a test to an open HDF5 file; a file that cannot be opened fails it."""
    if not is_hdf5(path):
        return False
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return test(file)
    except (OSError, RuntimeError, KeyError):
        return False


def _is_nwb(path: Path) -> bool:
    from .zarr_tree import is_tree

    if path.is_dir():
        return is_tree(path, attribute="nwb_version")
    return _hdf5(path, lambda f: "nwb_version" in f.attrs or "nwb_version" in f)


def _is_caiman(path: Path) -> bool:
    return _hdf5(path, lambda f: "estimates" in f and "A" in f["estimates"] and "C" in f["estimates"])


def _is_minian(path: Path) -> bool:
    from .minian import is_store

    return is_store(path) or _hdf5(path, lambda f: {"C", "unit_id", "frame"} <= set(f))


def _is_suite2p(path: Path) -> bool:
    from .suite2p import is_suite2p

    return is_suite2p(path)


def _is_phy(path: Path) -> bool:
    labels = ("spike_clusters.npy", "spike_templates.npy")
    return (path / "spike_times.npy").is_file() and any((path / name).is_file() for name in labels)


def _is_alf(path: Path) -> bool:
    if not path.is_dir():
        return False
    return any(any(path.glob(p)) for p in ("spikes.times*.npy", "alf/**/spikes.times*.npy", "_ibl_*.npy", "alf/_ibl_*"))


def _is_neurosuite(path: Path) -> bool:
    return path.is_dir() and any(path.glob("*.clu.*")) and any(path.glob("*.res.*"))


def _is_inscopix(path: Path) -> bool:
    from .inscopix import is_inscopix

    return is_inscopix(path)


def _is_spikeinterface(path: Path) -> bool:
    from .spikeinterface import is_spikeinterface

    return is_spikeinterface(path)


def _is_fmriprep(path: Path) -> bool:
    from .fmri.volumes import is_derivative

    return is_derivative(path)


def _is_du_in(path: Path) -> bool:
    from .eeg.du_in import is_du_in

    return is_du_in(path)


def _is_bids(path: Path) -> bool:
    from .eeg.bids import is_bids

    return is_bids(path)


def _is_eeg(path: Path) -> bool:
    from .eeg.files import format_of

    return bool(format_of(path)) and not _is_bids(path)


def _is_worm(path: Path) -> bool:
    from .worm.read import is_worm

    return is_worm(path)


def _is_connectome(path: Path) -> bool:
    if not path.is_file() or path.suffix.lower() not in (".csv", ".tsv"):
        return False
    with open(path, encoding="utf-8", errors="replace") as stream:
        words = set(re.split(r"[\s,]+", stream.readline(200).strip().lower()))
    return {"pre", "post", "type", "synapses"} <= words


def _is_cnmfe(path: Path) -> bool:
    from .cnmfe import is_cnmfe

    return is_cnmfe(path)


def _is_cellexplorer(path: Path) -> bool:
    from .cellexplorer import is_cellexplorer

    return is_cellexplorer(path)


def _is_pynapple(path: Path) -> bool:
    from .pynapple_files import is_pynapple

    return is_pynapple(path)


def _is_temporaldata(path: Path) -> bool:
    from .temporaldata_files import is_temporaldata

    return _hdf5(path, is_temporaldata)


def _never(path: Path) -> bool:
    """Tell that a format must be named: only the caller knows what the numbers are."""
    return False


#: Name of a format -> (test of a path, "module:function" of its reader), in the order of search.
FORMATS: dict[str, tuple[Callable[[Path], bool], str]] = {
    "nwb": (_is_nwb, "tectum.io.nwb:read_nwb"),
    "suite2p": (_is_suite2p, "tectum.io.suite2p:read_suite2p"),
    "phy": (_is_phy, "tectum.io.phy:read_phy"),
    "alf": (_is_alf, "tectum.io.alf:read_alf"),
    "caiman": (_is_caiman, "tectum.io.caiman:read_caiman"),
    "minian": (_is_minian, "tectum.io.minian:read_minian"),
    "inscopix": (_is_inscopix, "tectum.io.inscopix:read_inscopix"),
    "neurosuite": (_is_neurosuite, "tectum.io.neurosuite:read_neurosuite"),
    "spikeinterface": (_is_spikeinterface, "tectum.io.spikeinterface:read_spikeinterface"),
    "fmriprep": (_is_fmriprep, "tectum.io.fmri.volumes:read_derivative"),
    "bids": (_is_bids, "tectum.io.eeg.bids:read_bids"),
    "du_in": (_is_du_in, "tectum.io.eeg.du_in:read_du_in"),
    "eeg": (_is_eeg, "tectum.io.eeg.read:read_eeg"),
    "worm": (_is_worm, "tectum.io.worm.read:read_animals"),
    "connectome": (_is_connectome, "tectum.io.worm.graphs:read_connectome"),
    "cnmfe": (_is_cnmfe, "tectum.io.cnmfe:read_cnmfe"),
    "cellexplorer": (_is_cellexplorer, "tectum.io.cellexplorer:read_cellexplorer"),
    "pynapple": (_is_pynapple, "tectum.io.pynapple_files:read_pynapple"),
    "temporaldata": (_is_temporaldata, "tectum.io.temporaldata_files:read_temporaldata"),
    "neo": (_never, "tectum.io.neo_files:read_neo"),
    "matlab": (_never, "tectum.io.matlab:read_matlab"),
    "array": (_never, "tectum.io.table:read_array"),
    "events": (_never, "tectum.io.table:read_events"),
}


def detect(path: Path) -> list[str]:
    """Return the names of all formats that a path shows the signature of.

    Examples
    --------
    >>> detect(Path("nothing there"))
    []
    """
    return [name for name, (test, _) in FORMATS.items() if test(path)]


def reader_of(path: Path, format: str | None = None) -> str | None:
    """Return "module:function" of the reader of a path, None if no signature fits.

    Parameters
    ----------
    path : Path
        An existing file or folder.
    format : str, optional
        Name of the format, where the caller knows it.

    Raises
    ------
    InputError
        If ``format`` is unknown.
    LoadError
        If several formats fit, or a folder fits none.
    """
    if format is not None:
        if format not in FORMATS:
            raise InputError(explain("format", expected=f"one of {', '.join(FORMATS)}", got=repr(format)))
        return FORMATS[format][1]
    with reading(path, "a file or folder that may be read"):
        found = detect(path)
    if len(found) > 1:
        raise LoadError(
            explain(str(path), expected="one format", got=", ".join(found), fix=f"pass format={found[0]!r}")
        )
    if not found and path.is_dir():
        names = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "an empty folder"
        known = ", ".join(repr(name) for name in FORMATS)
        raise LoadError(
            explain(str(path), expected="a folder of a known format", got=names, fix=f"pass format= one of {known}")
        )
    return FORMATS[found[0]][1] if found else None
