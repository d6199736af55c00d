"""BIDS names without an index: entities, sidecars with inheritance, the files that belong to a run."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tectum.core.errors import InputError, LoadError, explain

from ..files import reading

#: Entities that tell apart the versions of one run, not the run.
_OF_IMAGES = ("space", "res", "den", "desc", "hemi", "part", "recon", "cohort", "label")
_LONG = {"subject": "sub", "session": "ses", "acquisition": "acq", "resolution": "res", "density": "den"}
_KEPT = (
    "RepetitionTime", "SliceTimingCorrected", "StartTime", "DelayTime", "EchoTime", "SkullStripped", "TaskName",
    "NumberOfVolumesDiscardedByScanner", "NumberOfVolumesDiscardedByUser", "VolumeTiming",
)  # fmt: skip
_LEVELS = 5  # folders above a file in which its sidecars may lie
_JSON = 1 << 26  # bytes of a sidecar


def entities(path: str | Path) -> dict[str, str]:
    """Return the ``key-value`` pairs of a BIDS name, and its suffix.

    Examples
    --------
    >>> entities("sub-01_task-rest_run-2_desc-preproc_bold.nii.gz")
    {'sub': '01', 'task': 'rest', 'run': '2', 'desc': 'preproc', 'suffix': 'bold'}
    """
    stem = Path(path).name.split(".", 1)[0]
    parts = stem.split("_")
    matches = [re.fullmatch(r"([a-zA-Z]+)-([a-zA-Z0-9+]+)", part) for part in parts]
    found: dict[str, str] = {m[1]: m[2] for m in matches if m}
    if "-" not in parts[-1]:
        found["suffix"] = parts[-1]
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file."""
    with reading(path, "a JSON object"):
        if path.stat().st_size > _JSON:
            raise LoadError(explain(str(path), expected=f"at most {_JSON} bytes", got=f"{path.stat().st_size}"))
        found = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__}")
        return found


def sidecar(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return what the sidecars of a file say, the nearest first, and their names.

    A sidecar lies beside the file or above it inside the data set, has the same suffix, and no entity that the file
    lacks (the inheritance principle).
    """
    own = entities(path)
    merged: dict[str, Any] = {}
    names: list[str] = []
    for folder in [path.parent, *_above(path.parent)]:
        fits = [p for p in folder.glob(f"*{own.get('suffix', '?')}.json") if _applies(entities(p), own)]
        for found in sorted(fits, key=lambda p: -len(entities(p))):
            merged = {**read_json(found), **merged}
            names.append(found.name)
    return merged, names


def _above(folder: Path) -> list[Path]:
    """Return the folders above one, up to the root of its data set; none outside a data set."""
    found = []
    for parent in [folder, *folder.parents][:_LEVELS]:
        found.append(parent)
        if (parent / "dataset_description.json").is_file():
            return found[1:]
    return []


def _applies(theirs: Mapping[str, str], own: Mapping[str, str]) -> bool:
    return theirs.get("suffix") == own.get("suffix") and all(own.get(k) == v for k, v in theirs.items())


def kept(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a sidecar that go into ``meta``; slice timing as its number of slices and range."""
    made = {name: found[name] for name in _KEPT if isinstance(found.get(name), (str, int, float, bool))}
    times = found.get("SliceTiming")
    if isinstance(times, list) and times and all(isinstance(t, (int, float)) for t in times):
        made["SliceTiming"] = {"slices": len(times), "first": min(times), "last": max(times)}
    return made


def companions(path: Path, suffix: str, **wanted: str) -> list[Path]:
    """Return the files beside an image that belong to its run: the same entities, or fewer, and other versions.

    Parameters
    ----------
    path : Path
        The image.
    suffix : str
        End of the names wanted, such as "_events.tsv".
    **wanted : str
        Entities that they must have, such as ``desc="confounds"``.
    """
    own = entities(path)
    found = []
    for other in path.parent.glob(f"*{suffix}"):
        theirs = {k: v for k, v in entities(other).items() if k != "suffix"}
        if any(theirs.get(k) != v for k, v in wanted.items()):
            continue
        rest = {k: v for k, v in theirs.items() if k not in wanted}
        if all(own.get(k) == v for k, v in rest.items()):
            found.append((sum(k not in _OF_IMAGES for k in rest), other))
    most = max((n for n, _ in found), default=0)
    return sorted(other for n, other in found if n == most)


def find(root: str | Path, *, suffix: str = "bold", extension: str = ".nii.gz", **filters: str) -> list[Path]:
    """Walk a BIDS data set or derivative and return the files whose names fit, in order; no index is made.

    Parameters
    ----------
    root : path
        Top of the data set.
    suffix, extension : str
        Such as "bold" and ".nii.gz".
    **filters : str
        Entities, by their short or long names: ``sub="01"``, ``task="rest"``, ``space="MNI152NLin2009cAsym"``; None
        demands that the entity is missing.

    Returns
    -------
    list of Path

    Examples
    --------
    >>> find("nowhere", sub="01")
    []
    """
    wanted = {_LONG.get(k, k): v for k, v in filters.items()}
    found = []
    for folder, inner, files in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith(".") and _leads(name, wanted))
        for name in files:
            if name.endswith(f"_{suffix}{extension}"):
                theirs = entities(name)
                if all(theirs.get(k) == (None if v is None else str(v)) for k, v in wanted.items()):
                    found.append(Path(folder) / name)
    return sorted(found)


def _leads(name: str, wanted: Mapping[str, Any]) -> bool:
    """Tell whether a folder may hold what is wanted."""
    key, mark, value = name.partition("-")
    return not (mark and key in ("sub", "ses") and wanted.get(key) is not None and value != str(wanted[key]))


def find_one(root: str | Path, *, suffix: str = "bold", extension: str = ".nii.gz", **filters: str) -> Path:
    """Return the only file that fits; see :func:`find`.

    Raises
    ------
    InputError
        If several fit, listing them.
    LoadError
        If none does.
    """
    found = find(root, suffix=suffix, extension=extension, **filters)
    return only(found, f"{root}: *_{suffix}{extension} with {filters}", "name more entities")


def only(found: list[Path], where: str, fix: str) -> Path:
    """Return the only path of a list."""
    if not found:
        raise LoadError(explain(where, expected="a file", got="none"))
    if len(found) > 1:
        names = ", ".join(p.name for p in found[:12])
        raise InputError(explain(where, expected="one file", got=f"{len(found)}: {names}", fix=fix))
    return found[0]
