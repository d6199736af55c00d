"""Which files MNE reads, and MNE's object over one of them after its format and size have been checked."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import LoadError, MissingExtraError, TectumWarning, explain

from .. import mat5
from ..files import reading
from ..signature import magic
from .fieldtrip import FieldTrip, is_fieldtrip, read_struct
from .opened import Opened, edf_scale, volts
from .vendors import OPENERS
from .vendors.clinical import is_egi
from .whole import EdfHeader, check_brainvision, check_edf, check_fif, check_samples, content

#: Suffix of a file -> format; these suffixes belong to electrophysiology alone.
SUFFIXES: dict[str, str] = {
    ".edf": "EDF", ".bdf": "BDF", ".gdf": "GDF", ".vhdr": "BrainVision", ".ahdr": "BrainVision", ".fif": "FIF",
    ".fif.gz": "FIF", ".set": "EEGLAB", ".cnt": "CNT", ".mff": "EGI", ".nxe": "eXimia", ".sqd": "KIT", ".con": "KIT",
    ".ds": "CTF", ".cdt": "Curry", ".cdt.dpa": "Curry", ".cdt.cef": "Curry", ".cef": "Curry", ".dap": "Curry",
    ".rs3": "Curry", ".nedf": "NEDF", ".lay": "Persyst", ".mefd": "MEF", ".ns3": "NSx", ".snirf": "SNIRF",
}  # fmt: skip
#: What the first bytes of a format must show.
_CONTENT = {"EDF": "EDF", "BDF": "BDF", "GDF": "GDF", "BrainVision": "BrainVision", "FIF": "FIF", "EEGLAB": "MAT"}
#: Suffixes that many kinds of files have -> what must lie beside such a file, or how it must begin.
_COMPANIONS: dict[str, tuple[str, ...]] = {
    ".eeg": (".vhdr", ".pnt", ".21e", ".log"),
    ".data": (".head",),
    ".dat": (".dap", ".rs3", ".vhdr"),
}
#: Suffixes that many kinds of files have -> first bytes that tell, and the format.
_SIGNS: dict[str, tuple[re.Pattern[bytes], str]] = {
    ".dat": (re.compile(rb"BCI2000V|HeaderLen="), "BCI2000"),
    ".asc": (re.compile(rb"\*\* CONVERTED FROM .*\.edf", re.I), "EyeLink"),
    ".txt": (re.compile(rb"(?s).*#DATA BEGINS"), "BOXY"),
    ".csv": (re.compile(rb"Header[,\s]+File Version"), "Hitachi"),
}
#: Format -> package that MNE needs for it besides its own code.
_NEEDS = {
    "ANT": ("antio",), "Curry": ("curryreader",), "EGI": ("mffpy", "defusedxml"), "MEF": ("pymef",), "NSx": ("neo",),
}  # fmt: skip
_RAW_ENDING = "This filename"


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
    if path.is_dir() and (path / "config").is_file() and any(path.glob("c,rf*")):
        return "BTi"
    if path.is_dir() and any(path.glob("*.wl1")) and any(path.glob("*.hdr")):
        return "NIRx"
    return _by_signature(path) if path.is_file() else ""


def _by_signature(path: Path) -> str:
    """Return the format of a file whose suffix tells little, by its first bytes or by what lies beside it."""
    suffix = path.suffix.lower()
    if suffix in _SIGNS:
        pattern, kind = _SIGNS[suffix]
        return kind if pattern.match(magic(path, 1 << 14)) else ""
    if suffix == ".raw":
        return "EGI simple" if is_egi(path) else ""
    if suffix == ".mat":
        return "FieldTrip" if is_fieldtrip(path) else ""
    if suffix == ".hdr" and (_beside(path, ".wl1") or _beside(path, ".nosatflags_wl1")):
        return "NIRx"
    if suffix == ".bin":
        sidecar = path.with_name(path.stem.removesuffix("_meg") + "_meg.json")
        return "FIL" if path.stem.endswith("_meg") and sidecar.is_file() else "ARTEMIS" if _beside(path, ".txt") else ""
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
    if kind == "CNT" and magic(path, 4) == b"RIFF":
        kind = "ANT"
    if not kind:
        got = f"a folder {path.name!r}" if path.is_dir() else f"{path.name!r}, first bytes {magic(path, 16)!r}"
        raise LoadError(explain(str(path), expected="a file of electrophysiology by name and content", got=got))
    _check_packages(path, kind)
    if kind in OPENERS and kind not in _CONTENT:
        return OPENERS[kind](path, truncated)
    if kind == "FieldTrip":
        return _open_fieldtrip(path)
    if path.is_dir():
        raise LoadError(explain(str(path), expected=f"a file of {kind}", got="a folder"))
    found, compressed = content(path), magic(path, 2) == b"\x1f\x8b" and kind == "FIF"
    if found != _CONTENT[kind] and not compressed:
        first = f"{found} content" if found else f"first bytes {magic(path, 8)!r}"
        fix = "give the file its right suffix" if found else "copy it anew"
        raise LoadError(explain(str(path), expected=f"{kind} as its name says", got=first, fix=fix))
    if kind in ("EDF", "BDF"):
        return _open_edf(path, kind, infer_types, truncated)
    if kind == "BrainVision":
        return _open_brainvision(path, truncated)
    if kind in OPENERS:
        return OPENERS[kind](path, truncated)
    return (_open_fif if kind == "FIF" else _open_eeglab)(path, truncated)


def _check_packages(path: Path, kind: str) -> None:
    """Name the package that MNE needs for a format and that is missing."""
    for package in _NEEDS.get(kind, ()):
        if find_spec(package) is None:
            fix = f"pip install {package}"
            raise MissingExtraError(
                explain(str(path), expected=f"the package {package}", got="it is not installed", fix=fix)
            )


def _open_fieldtrip(path: Path) -> Opened:
    """Make an object of MNE of a structure of FieldTrip: raw data if it holds one trial, else epochs."""
    import mne

    found = read_struct(path)
    info = mne.create_info(found.names, found.rate, found.types)
    if found.continuous:
        first = round(found.t0 * found.rate)
        made: Any = mne.io.RawArray(found.values[0], info, first_samp=first, copy="auto", verbose="WARNING")
    else:
        made = mne.EpochsArray(
            found.values, info, _fieldtrip_events(found), tmin=found.t0, baseline=None, proj=False, verbose="WARNING"
        )
    units = dict(zip(found.names, found.units, strict=True))
    return Opened("FieldTrip", [made], units, typed=False, extra=found)


def _fieldtrip_events(found: FieldTrip) -> np.ndarray:
    """Return the sample of time 0 and the first number of ``trialinfo`` of every trial, as MNE wants them."""
    n = len(found.values)
    start = found.first if (found.first >= 0).all() and len(set(found.first.tolist())) == n else np.arange(n)
    value = found.trial.get("value")
    code = np.asarray(value, dtype=np.float64) if value is not None and value.dtype.kind in "biuf" else np.ones(n)
    code = np.where(np.isfinite(code), code, 0).astype(np.int64)
    return np.stack([start - round(found.t0 * found.rate), np.zeros(n, np.int64), code], axis=1)


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
    return Opened(kind, raws, {c: head.units[k] for c, k in zip(names, head.signals, strict=True)}, edf_scale, False)


def _check_edf_rates(path: Path, head: EdfHeader, raws: Sequence[Any]) -> None:
    """Check that every object has the length and rate of the signals in it."""
    wanted = {n * head.records: n / (head.duration or 1.0) for n in {head.samples[k] for k in head.signals}}
    for raw in raws:
        rate = wanted.get(len(raw.times))
        if rate is None or not np.isclose(rate, raw.info["sfreq"], rtol=1e-6):
            got = f"{len(raw.times)} at {raw.info['sfreq']:g} Hz"
            raise LoadError(explain(str(path), expected=f"samples and rate among {wanted}", got=got))


def _open_brainvision(path: Path, truncated: bool) -> Opened:
    import mne

    head = check_brainvision(path, truncated=truncated)
    raw = mne.io.read_raw_brainvision(path, verbose="WARNING")
    if len(raw.ch_names) != len(head.units) + (path.suffix.lower() == ".ahdr"):
        got = f"{len(raw.ch_names)}"
        raise LoadError(explain(str(path), expected=f"{len(head.units)} channels", got=got))
    return Opened("BrainVision", [raw], dict(zip(raw.ch_names, head.units, strict=False)), volts, False)


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
    return Opened("EEGLAB", [found], dict.fromkeys(found.ch_names, "uV"), volts, False)
