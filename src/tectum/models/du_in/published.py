"""The published recordings of Du-IN: folders of pickles, read without running anything in them."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core.errors import InputError, LoadError, explain
from ...core.recording import Recording
from ...io import pickles

RATE = 1000.0  #: Hz, of the preprocessed files


class ForeignClassError(LoadError, pickle.UnpicklingError):
    """A pickle names classes that are not harmless."""


def _device(*parts: Any) -> str:
    return ":".join(map(str, parts))


#: Settings name devices and number types; both become text.
_TORCH: dict[str, Any] = {"device": _device, **{name: name for name in ("float16", "bfloat16", "float32", "float64")}}


class _Mapping(dict):  # type: ignore[type-arg]
    """Stand-in for the mapping class of the published code."""

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, Mapping):
            self.update(state)


class _Published(pickles._Restricted):
    """Knows arrays, plain containers, and the mapping class of the published code."""

    def find_class(self, module: str, name: str) -> Any:
        if name == "DotDict":
            return _Mapping
        if (module.replace("copy_reg", "copyreg"), name) == ("copyreg", "_reconstructor"):
            return lambda kind, base, state: kind(state or ())
        if (module.replace("__builtin__", "builtins"), name) == ("builtins", "dict"):
            return dict
        if module == "torch" and name in _TORCH:
            return _TORCH[name]
        return super().find_class(module, name)


def read_pickle(path: str | Path) -> Any:
    """Rebuild arrays and plain containers from a pickle.

    Raises
    ------
    ForeignClassError
        If it names any other class; nothing of it has run then.
    """
    content = Path(path).read_bytes()
    try:
        return pickles._finish(_Published(io.BytesIO(content), encoding="latin1").load(), {})
    except LoadError as cause:
        raise ForeignClassError(f"{path}: {cause}") from cause


def read_published(folder: str | Path, *, kind: str = "aligned") -> list[Recording]:
    """Read the word-reading trials of one subject, a recording for each run.

    Parameters
    ----------
    folder : path
        Folder of the subject; below it lie ``word-recitation/<run>/dataset.bipolar.default.<kind>/{data,info}``.
    kind : {"aligned", "unaligned"}, default "aligned"
        Which cut of the trials.

    Returns
    -------
    list of Recording, (trial, channel, time)
        At 1000 Hz, in arbitrary units, in the order of the names of the runs, with the trial column "word".

    Raises
    ------
    InputError
        If there is no such run, or trials differ in shape.
    ForeignClassError
        If a pickle names other classes than arrays and mappings.

    Notes
    -----
    The files state neither filter nor unit; pass-bands differ between subjects, so look at the spectra.
    """
    root = Path(folder)
    runs = sorted(root.glob(f"word-recitation/*/dataset.bipolar.default.{kind}"))
    if not runs:
        expected = f"word-recitation/<run>/dataset.bipolar.default.{kind}"
        raise InputError(explain("read_published", expected=expected, got=f"none below {root}"))
    return [_read_run(run, root.name) for run in runs]


def _read_run(run: Path, subject: str) -> Recording:
    """Read one run."""
    trials, info = read_pickle(run / "data"), read_pickle(run / "info")
    shapes = {np.shape(trial["data_s"]) for trial in trials}
    if len(shapes) != 1:
        raise InputError(explain(str(run), expected="trials of one shape (channel, time)", got=str(sorted(shapes))))
    data = np.stack([np.asarray(trial["data_s"], dtype=np.float32) for trial in trials])
    words = np.asarray([str(trial["name"]) for trial in trials])
    names = [str(name) for name in info["ch_names"]]
    return Recording(
        data=torch.from_numpy(data), dims=("trial", "channel", "time"), rate=RATE, modality="ieeg", subject=subject,
        session=run.parent.name, coords={"channel": {"name": names}, "trial": {"word": words}},
    )  # fmt: skip
