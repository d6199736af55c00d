"""``tectum.read``: whatever a lab has on disk becomes one of our containers."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from tectum.core.convert import as_container
from tectum.core.errors import LoadError, explain

#: File suffix -> "module:function" of the reader, imported when such a file arrives.
READERS: dict[str, str] = {
    ".safetensors": "tectum.core.serialize:load",
}


def read(source: Any, **options: Any) -> Any:
    """Read a file or folder, or convert an object of another package.

    Parameters
    ----------
    source : path or object
        A path, or an xarray, mne, neo, pynapple, nibabel or pynwb object.
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
    return _reader(path)(path, **options)


def _reader(path: Path) -> Callable[..., Any]:
    """Return the reader for the longest matching suffix."""
    name = path.name.lower()
    for suffix in sorted(READERS, key=len, reverse=True):
        if name.endswith(suffix):
            module, _, function = READERS[suffix].partition(":")
            found: Callable[..., Any] = getattr(import_module(module), function)
            return found
    raise LoadError(
        explain(str(path), expected=f"a file of {', '.join(sorted(READERS))}", got=f"suffix {path.suffix!r}")
    )
