"""``tectum.read``: whatever a lab has on disk becomes one of our containers."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from tectum.core.convert import as_container
from tectum.core.errors import LoadError, explain

from .detect import reader_of

#: File suffix -> "module:function" of the reader, imported when such a file arrives.
READERS: dict[str, str] = {
    ".safetensors": "tectum.core.serialize:load",
    ".nwb": "tectum.io.nwb:read_nwb",
    ".nii": "tectum.io.fmri.volumes:read_image",
    ".nii.gz": "tectum.io.fmri.volumes:read_image",
    ".img": "tectum.io.fmri.volumes:read_image",
    ".mgh": "tectum.io.fmri.volumes:read_image",
    ".mgz": "tectum.io.fmri.volumes:read_image",
    ".dtseries.nii": "tectum.io.fmri.cifti:read_cifti",
    ".ptseries.nii": "tectum.io.fmri.cifti:read_cifti",
    ".dscalar.nii": "tectum.io.fmri.cifti:read_cifti",
    ".pscalar.nii": "tectum.io.fmri.cifti:read_cifti",
    ".dlabel.nii": "tectum.io.fmri.cifti:read_cifti",
    ".gii": "tectum.io.fmri.surfaces:read_gifti",
    ".gii.gz": "tectum.io.fmri.surfaces:read_gifti",
    ".annot": "tectum.io.fmri.surfaces:read_annot",
    "_desc-confounds_timeseries.tsv": "tectum.io.fmri.confounds:read_confounds",
    "_desc-confounds_regressors.tsv": "tectum.io.fmri.confounds:read_confounds",
    "_events.tsv": "tectum.io.fmri.events:read_bids_events",
}


def read(source: Any, *, format: str | None = None, **options: Any) -> Any:
    """Read a file or folder, or convert an object of another package.

    Parameters
    ----------
    source : path or object
        A path, or an xarray, mne, neo, pynapple, nibabel or pynwb object.
    format : str, optional
        Name of the format, one of :data:`tectum.io.detect.FORMATS`, where the contents do not tell.
    **options
        Passed to the reader of the format; each reader documents its own.

    Returns
    -------
    Recording, Spikes, Intervals, Graph or Session

    Raises
    ------
    LoadError
        If the file is missing, damaged or of a format without a reader.
    """
    if not isinstance(source, (str, os.PathLike)):
        return as_container(source)
    path = Path(source)
    if not path.exists():
        raise LoadError(explain(str(path), expected="an existing file or folder", got="none there"))
    return _reader(path, format)(path, **options)


def _reader(path: Path, format: str | None = None) -> Callable[..., Any]:
    """Return the reader for the longest matching suffix, else for the signature of the contents."""
    name = path.name.lower()
    by_suffix = [] if format else [s for s in sorted(READERS, key=len, reverse=True) if name.endswith(s)]
    try:
        home = READERS[by_suffix[0]] if by_suffix else reader_of(path, format)
    except LoadError:
        raise
    except OSError as cause:
        got = f"{type(cause).__name__}: {cause}"
        raise LoadError(explain(str(path), expected="a file that can be read", got=got)) from cause
    if home is not None:
        module, _, function = home.partition(":")
        found: Callable[..., Any] = getattr(import_module(module), function)
        return found
    raise LoadError(
        explain(str(path), expected=f"a file of {', '.join(sorted(READERS))}", got=f"suffix {path.suffix!r}")
    )
