"""The layout in which the recordings of Du-IN are distributed: pickled epochs of words, and windows for pre-training.

Below ``<subject>/word-recitation/<run>/dataset.bipolar.default.{aligned,unaligned}/`` lie two pickles: ``data``, a list
of records with ``name`` (the word), ``data_s`` and ``data_n`` (channel, time), and ``info`` with ``ch_names``. Below
``<subject>/pretrain/dataset.default.1000hz/`` lie ``info`` and, at any depth, ``.npy`` arrays (2, channel, time) of
which only the first of each pair is the task's signal. The class of the pickles becomes a plain mapping; any other
class is refused.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tectum.core.errors import InputError, LoadError, explain
from tectum.core.lazy import LazyArray
from tectum.core.recording import Recording

from ..files import ContentError, NpySource, UnsafePickleError, open_npy, reading
from ..pickles import _check_memo, _finish, _Restricted
from ..signature import natural
from .units import check_amplitude

RATE = 1000.0  #: Hz, of the files that are distributed


class _Mapping(dict[Any, Any]):
    """Stand-in for the mapping class of the project; its state is more entries."""

    def __setstate__(self, state: Any) -> None:
        self.update(state if isinstance(state, dict) else {})


def _made(kind: Any, base: Any, state: Any) -> Any:
    """Make what old protocols make of a class derived from a plain container."""
    return kind(state or ())


def _device(*parts: Any) -> str:
    return ":".join(map(str, parts))


#: Besides the harmless names: what old protocols need for the mapping, and settings that name devices and number types.
_MORE: dict[tuple[str, str], Any] = {
    ("copy_reg", "_reconstructor"): _made, ("copyreg", "_reconstructor"): _made, ("__builtin__", "dict"): dict,
    ("builtins", "dict"): dict, ("torch", "device"): _device,
    **{("torch", name): name for name in ("float16", "bfloat16", "float32", "float64")},
}  # fmt: skip


class _Unpickler(_Restricted):
    """The restricted unpickler, which also knows the project's mapping."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        found: Callable[..., Any] | None = _Mapping if name == "DotDict" else _MORE.get((module, name))
        return super().find_class(module, name) if found is None else found


@dataclass(frozen=True)
class PairSource:
    """The first arrays of pairs (2, channel, time) in many files as one array (trial, channel, time)."""

    files: Sequence[NpySource]
    dtype: Any = np.dtype(np.float32)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of files, channels and samples."""
        _, channels, samples = self.files[0].shape
        return len(self.files), channels, samples

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read trials, channels and samples."""
        trial, channel, time = index
        picked = [file[0:1, channel, time] for file in self.files[trial]]
        size = [len(range(*part.indices(n))) for part, n in zip((channel, time), self.shape[1:], strict=True)]
        return np.concatenate(picked) if picked else np.empty((0, *size), np.float32)


def is_du_in(path: Path) -> bool:
    """Tell whether a folder is of this layout: a subject, a run, or a data set with ``info``."""
    if not path.is_dir():
        return False
    here = path.name.startswith("dataset.") and (path / "info").is_file()
    return here or any(any(path.glob(p)) for p in ("dataset.*/info", "word-recitation/*/dataset.*/info"))


def read_du_in(
    path: str | Path,
    *,
    aligned: bool = False,
    part: str = "data_s",
    rate: float = RATE,
    units: str = "V",
    t0: float | None = None,
    subject: str = "",
) -> Recording:
    """Read words or pre-training windows of one subject.

    Parameters
    ----------
    path : path
        A folder of a subject (all runs of words), of a run, or one folder ``dataset.*``.
    aligned : bool, default False
        Which of both sets of a run: epochs aligned to the voice or to the cue.
    part : {"data_s", "data_n"}
        The signal of the task, or the second condition.
    rate, units : float, str
        What the files do not say: 1000 Hz and V as distributed.
    t0 : float, optional
        Start of the epochs in s; default -0.5 for words, 0 for pre-training.
    subject : str
        Default the name of the subject's folder.

    Returns
    -------
    Recording
        (trial, channel, time); words in the columns ``label`` and ``run`` of ``trial``, in memory. Pre-training windows
        stay on disk until they are used.

    Raises
    ------
    UnsafePickleError
        If a pickle names a class that is not harmless.
    LoadError
        If records, channels or lengths contradict each other.
    """
    path = Path(path)
    with reading(path, "recordings in the layout of Du-IN"):
        folders = _folders(path, aligned)
        windows = sorted(folders[0].rglob("*.npy"), key=lambda p: natural(str(p)))
        about = {"rate": rate, "units": units, "modality": "seeg", "subject": subject or _subject(folders[0])}
        made = _windows(folders[0], windows, t0, about) if windows else _words(folders, part, t0, about)
        check_amplitude(made, str(path))
        return made


def _folders(path: Path, aligned: bool) -> list[Path]:
    """Return the folders with ``info`` that are asked for, in natural order."""
    if (path / "info").is_file():
        return [path]
    ending = "aligned" if aligned else "unaligned"
    found = [p.parent for pattern in ("dataset.*/info", "word-recitation/*/dataset.*/info") for p in path.glob(pattern)]
    kept = sorted((p for p in found if p.name.split(".")[-1] == ending), key=lambda p: natural(str(p)))
    if not kept:
        names = ", ".join(sorted({p.name for p in found})) or "none"
        raise LoadError(explain(str(path), expected=f"a folder dataset.*.{ending} with info", got=names))
    return kept


def _subject(folder: Path) -> str:
    """Return the name of the folder above the task's."""
    parts = folder.absolute().parts
    task = next((k for k, name in enumerate(parts) if name in ("word-recitation", "pretrain")), 0)
    return parts[task - 1] if task else ""


def read_pickle(path: Path) -> Any:
    """Rebuild arrays and plain containers from a pickle of the project.

    Raises
    ------
    UnsafePickleError
        If it names any other class; nothing of it has run then.
    """
    with reading(path, "a pickle of arrays and plain containers"):
        data = path.read_bytes()
        _check_memo(data)
        try:
            return _finish(_Unpickler(io.BytesIO(data), encoding="latin1").load(), {})
        except UnsafePickleError as cause:
            raise UnsafePickleError(f"{path}: {cause}") from cause


def _names(folder: Path) -> list[str]:
    """Return the names of the channels."""
    info = read_pickle(folder / "info")
    names = info.get("ch_names") if isinstance(info, dict) else None
    if not isinstance(names, (list, tuple, np.ndarray)) or not len(names) or not all(isinstance(n, str) for n in names):
        raise LoadError(explain(str(folder / "info"), expected="a mapping with 'ch_names'", got=type(info).__name__))
    return [str(n) for n in names]


def _words(folders: Sequence[Path], part: str, t0: float | None, about: dict[str, Any]) -> Recording:
    """Join the epochs of all runs."""
    if part not in ("data_s", "data_n"):
        raise InputError(explain("part", expected="'data_s' or 'data_n'", got=repr(part)))
    names = _names(folders[0])
    data: list[np.ndarray] = []
    labels: list[str] = []
    runs: list[str] = []
    for folder in folders:
        if _names(folder) != names:
            raise ContentError(explain(str(folder), expected=f"the channels of {folders[0]}", got="others"))
        for word, epoch in _epochs(folder / "data", part, len(names), data[0].shape[1] if data else None):
            data.append(epoch)
            labels.append(word)
            runs.append(folder.parent.name)
    table = {"name": names, "type": ["seeg"] * len(names), "bad": np.zeros(len(names), bool)}
    return Recording(
        data=torch.from_numpy(np.stack(data)),
        dims=("trial", "channel", "time"),
        t0=-0.5 if t0 is None else t0,
        coords={"channel": table, "trial": {"label": labels, "run": runs}},
        history=({"step": "read", "format": "du_in", "part": part, "runs": list(dict.fromkeys(runs))},),
        **about,
    )


def _epochs(path: Path, part: str, n_channels: int, n_times: int | None) -> Iterator[tuple[str, np.ndarray]]:
    """Yield word and epoch of every record; all have one shape."""
    records = read_pickle(path)
    if not isinstance(records, (list, tuple)) or not len(records):
        raise LoadError(explain(str(path), expected="a list of records", got=type(records).__name__))
    for k, record in enumerate(records):
        epoch = record.get(part) if isinstance(record, dict) else None
        if not isinstance(epoch, np.ndarray) or epoch.dtype.kind not in "fiu" or epoch.ndim != 2:
            expected = f"an array {part} (channel, time) in record {k}"
            raise LoadError(explain(str(path), expected=expected, got=type(epoch).__name__))
        n_times = epoch.shape[1] if n_times is None else n_times
        if epoch.shape != (n_channels, n_times):
            expected = f"shape {(n_channels, n_times)} in record {k}"
            raise LoadError(explain(str(path), expected=expected, got=f"{epoch.shape}"))
        yield str(record.get("name", "")), epoch.astype(np.float32)


def _windows(folder: Path, paths: Sequence[Path], t0: float | None, about: dict[str, Any]) -> Recording:
    """Return the first of each pair of windows, read when used."""
    names, files = _names(folder), [open_npy(p, kinds="f", ndim=3) for p in paths]
    for path, file in zip(paths, files, strict=True):
        if file.shape[:2] != (2, len(names)) or file.shape != files[0].shape:
            expected = f"shape {(2, len(names), files[0].shape[2])}"
            raise LoadError(explain(str(path), expected=expected, got=f"{file.shape}"))
    table = {"name": names, "type": ["seeg"] * len(names), "bad": np.zeros(len(names), bool)}
    trial = {"file": [str(p.relative_to(folder)) for p in paths]}
    return Recording(
        data=LazyArray(PairSource(files)),
        dims=("trial", "channel", "time"),
        t0=0.0 if t0 is None else t0,
        coords={"channel": table, "trial": trial},
        history=({"step": "read", "format": "du_in", "windows": len(files)},),
        **about,
    )
