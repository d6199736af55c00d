"""Which files MNE reads, and MNE's object over one of them after its format and size have been checked."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import LoadError, TectumWarning, explain

from .. import mat5
from ..detect import magic
from ..files import reading
from .whole import EdfHeader, check_brainvision, check_edf, check_fif, check_samples, content

#: Suffix of a file -> format; these suffixes belong to electrophysiology alone.
SUFFIXES: dict[str, str] = {
    ".edf": "EDF", ".bdf": "BDF", ".gdf": "GDF", ".vhdr": "BrainVision", ".ahdr": "BrainVision", ".fif": "FIF",
    ".fif.gz": "FIF", ".set": "EEGLAB", ".cnt": "CNT", ".mff": "EGI", ".nxe": "eXimia", ".sqd": "KIT", ".con": "KIT",
    ".ds": "CTF", ".cdt": "Curry", ".cdt.dpa": "Curry", ".cdt.cef": "Curry", ".dap": "Curry", ".rs3": "Curry",
    ".nedf": "NEDF", ".lay": "Persyst", ".mefd": "MEF", ".ns3": "NSx", ".snirf": "SNIRF",
}  # fmt: skip
#: What the first bytes of a format must show.
_CONTENT = {"EDF": "EDF", "BDF": "BDF", "GDF": "GDF", "BrainVision": "BrainVision", "FIF": "FIF", "EEGLAB": "MAT"}
#: Suffixes that many kinds of files have -> what must lie beside such a file, or how it must begin.
_COMPANIONS: dict[str, tuple[str, ...]] = {
    ".eeg": (".vhdr", ".pnt", ".21e", ".log"),
    ".data": (".head",),
    ".dat": (".dap", ".rs3", ".vhdr"),
}
_RAW_ENDING = "This filename"


@dataclass(frozen=True)
class Opened:
    """What was opened.

    Parameters
    ----------
    kind : str
        Format.
    objects : list
        MNE's Raw objects (one for each sampling rate of an EDF file), one Epochs object, or Evoked objects.
    units : mapping of str to str
        Unit that the file states for each channel, as written; empty where the format states none.
    scale : function of str
        Number that MNE multiplied values in a stated unit with.
    typed : bool
        Whether the format tells what its channels are.
    """

    kind: str
    objects: list[Any]
    units: Mapping[str, str] = field(default_factory=dict)
    scale: Callable[[str], float] = lambda unit: 1.0
    typed: bool = True


def format_of(path: Path) -> str:
    """Return the name of the format of a file or folder, "" if it is none of electrophysiology.

    Examples
    --------
    >>> format_of(Path("night.edf")), format_of(Path("notes.txt"))
    ('EDF', '')
    """
    name = path.name.lower()
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.endswith(suffix):
            return SUFFIXES[suffix]
    beside = _COMPANIONS.get(path.suffix.lower(), ())
    if path.is_file() and any(_beside(path, other) for other in beside):
        return (
            "BrainVision"
            if _beside(path, ".vhdr")
            else {".eeg": "Nihon Kohden", ".data": "Nicolet"}.get(path.suffix.lower(), "Curry")
        )
    if path.suffix.lower() == ".dat" and magic(path, 12).startswith((b"BCI2000V", b"HeaderLen=")):
        return "BCI2000"
    if path.is_dir() and (path / "config").is_file() and any(path.glob("c,rf*")):
        return "BTi"
    return ""


def _beside(path: Path, suffix: str) -> Path | None:
    """Return the file of the same name with another suffix, in lower or upper case."""
    return next((p for s in (suffix, suffix.upper()) if (p := path.with_suffix(s)).is_file()), None)


@contextmanager
def mne_warnings(where: str) -> Iterator[None]:
    """Turn what MNE warns of inside the block into warnings of ours that name the file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    ours = [str(w.message) for w in caught if issubclass(w.category, TectumWarning)]
    theirs = [w for w in caught if not issubclass(w.category, TectumWarning) and not _idle(w)]
    for message in dict.fromkeys([*ours, *(f"{where}: {w.message}".replace("\n", " ") for w in theirs)]):
        warnings.warn(message, TectumWarning, stacklevel=2)


def _idle(warning: warnings.WarningMessage) -> bool:
    """Tell whether a warning says nothing of the data: names of files, deprecations inside packages."""
    kinds = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning)
    return issubclass(warning.category, kinds) or str(warning.message).startswith(_RAW_ENDING)


def open_file(path: Path, *, infer_types: bool = True, truncated: bool = False) -> Opened:
    """Check a file and open it with MNE; the numbers stay on disk."""
    kind = format_of(path)
    if kind == "BrainVision" and path.suffix.lower() in (".eeg", ".dat"):
        path = _beside(path, ".vhdr") or path
    if kind == "Curry" or path.is_dir() or kind not in _CONTENT:
        return _plain(path, kind)
    found, compressed = content(path), magic(path, 2) == b"\x1f\x8b" and kind == "FIF"
    if found != _CONTENT[kind] and not compressed:
        first = f"{found} content" if found else f"first bytes {magic(path, 8)!r}"
        fix = "give the file its right suffix" if found else "copy it anew"
        raise LoadError(explain(str(path), expected=f"{kind} as its name says", got=first, fix=fix))
    if kind in ("EDF", "BDF"):
        return _open_edf(path, kind, infer_types, truncated)
    if kind == "BrainVision":
        return _open_brainvision(path, truncated)
    return {"FIF": _open_fif, "EEGLAB": _open_eeglab}.get(kind, _open_gdf)(path, truncated)


def _plain(path: Path, kind: str) -> Opened:
    """Open what MNE alone knows how to check."""
    import mne

    if kind == "BTi":
        pdf, head = next(iter(sorted(path.glob("c,rf*")))), path / "hs_file"
        raw = mne.io.read_raw_bti(pdf, head_shape_fname=head.name if head.is_file() else None, verbose="WARNING")
        return Opened(kind, [raw])
    if kind == "Nicolet":
        return Opened(kind, [mne.io.read_raw_nicolet(path, ch_type="eeg", verbose="WARNING")], typed=False)
    raw = mne.io.read_raw(path, verbose="WARNING")
    return Opened(kind or path.suffix, [raw], dict(getattr(raw, "_orig_units", {})), _volts)


def _open_gdf(path: Path, truncated: bool) -> Opened:
    import mne

    return Opened("GDF", [mne.io.read_raw_gdf(path, verbose="WARNING")], typed=False)


def _open_edf(path: Path, kind: str, infer_types: bool, truncated: bool) -> Opened:
    """Open an EDF or BDF file: signals of different rates apart, since MNE would interpolate the slower ones."""
    import mne

    head = check_edf(path, truncated=truncated)
    read = mne.io.read_raw_edf if kind == "EDF" else mne.io.read_raw_bdf

    def opened(exclude: Sequence[str] = ()) -> Any:
        return read(path, infer_types=infer_types, exclude=exclude, exclude_after_unique=True, verbose="WARNING")

    if not head.signals:
        raise LoadError(explain(str(path), expected="signals", got="annotations only"))
    raw = opened()
    names, counts = list(raw.ch_names), [head.samples[k] for k in head.signals]
    if len(names) != len(counts):
        raise LoadError(explain(str(path), expected=f"{len(counts)} signals", got=f"{len(names)}"))
    raws = [raw]
    if len(set(counts)) > 1:
        by_rate = {n: [c for c, m in zip(names, counts, strict=True) if m != n] for n in sorted(set(counts))[::-1]}
        raws = [opened(exclude) for exclude in by_rate.values()]
    _check_edf_rates(path, head, raws)
    return Opened(kind, raws, {c: head.units[k] for c, k in zip(names, head.signals, strict=True)}, _edf_scale, False)


def _check_edf_rates(path: Path, head: EdfHeader, raws: Sequence[Any]) -> None:
    """Check that every object has the length and rate of the signals in it."""
    wanted = {n * head.records: n / (head.duration or 1.0) for n in {head.samples[k] for k in head.signals}}
    for raw in raws:
        rate = wanted.get(len(raw.times))
        if rate is None or not np.isclose(rate, raw.info["sfreq"], rtol=1e-6):
            got = f"{len(raw.times)} at {raw.info['sfreq']:g} Hz"
            raise LoadError(explain(str(path), expected=f"samples and rate among {wanted}", got=got))


def _edf_scale(unit: str) -> float:
    """Return the factor that MNE applies to a physical dimension of an EDF file: it knows microvolt and millivolt."""
    return 1e-3 if unit == "mV" else 1e-6 if unit in ("uV", "\u00b5V", "\u03bcV", "\x83\xcaV") else 1.0


def _volts(unit: str) -> float:
    """Return the size of a unit of voltage in V, 1 for others."""
    plain = unit.replace("\u00b5", "u").replace("\u03bc", "u").replace("\x83\xca", "u")
    return {"V": 1.0, "mV": 1e-3, "uV": 1e-6, "nV": 1e-9}.get(plain, 1.0)


def _open_brainvision(path: Path, truncated: bool) -> Opened:
    import mne

    head = check_brainvision(path, truncated=truncated)
    raw = mne.io.read_raw_brainvision(path, verbose="WARNING")
    if len(raw.ch_names) != len(head.units) + (path.suffix.lower() == ".ahdr"):
        got = f"{len(raw.ch_names)}"
        raise LoadError(explain(str(path), expected=f"{len(head.units)} channels", got=got))
    return Opened("BrainVision", [raw], dict(zip(raw.ch_names, head.units, strict=False)), _volts, False)


def _open_fif(path: Path, truncated: bool) -> Opened:
    """Open raw data, epochs or averages, whichever the file holds."""
    import mne

    what = check_fif(path, truncated=truncated) or mne.what(path)
    if what == "epochs":
        return Opened("FIF", [mne.read_epochs(path, proj=False, verbose="WARNING")])
    if what == "evoked":
        return Opened("FIF", list(mne.read_evokeds(path, proj=False, verbose="WARNING")))
    if what not in ("raw", "unknown"):
        raise LoadError(explain(str(path), expected="raw data, epochs or averages", got=what))
    raw = mne.io.read_raw_fif(path, verbose="WARNING")
    for other in raw.filenames[1:]:  # a long recording is split
        check_fif(Path(other), truncated=truncated)
    return Opened("FIF", [raw])


def _open_eeglab(path: Path, truncated: bool) -> Opened:
    """Open a data set of EEGLAB, continuous or cut into epochs; its numbers are in microvolt by convention."""
    import mne

    mat5.check(path)
    try:
        found: Any = mne.io.read_raw_eeglab(path, verbose="WARNING")
    except TypeError as cause:
        if "trials" not in str(cause):
            raise
        found = mne.read_epochs_eeglab(path, verbose="WARNING")
    for name in getattr(found, "filenames", ()):
        if name is not None and Path(name).suffix == ".fdt" and not truncated:
            with reading(path, "an EEGLAB data set"):
                check_samples(Path(name), len(found.times), len(found.ch_names))
    return Opened("EEGLAB", [found], dict.fromkeys(found.ch_names, "uV"), _volts, False)
