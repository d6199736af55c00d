"""Neurosuite folders: ``.res`` (samples) and ``.clu`` (clusters) of each shank, with the rates in the ``.xml``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import InputError, LoadError, explain
from tectum.core.spikes import Spikes

from .events import Fix, make_spikes, rate_of
from .files import member, reading, required
from .signature import natural

LONGEST = 1 << 30  # bytes of a text file of spikes


def read_neurosuite(
    path: str | Path,
    *,
    basename: str | None = None,
    rate: float | None = None,
    keep_noise: bool = False,
    fix: Fix = None,
    subject: str = "",
    session: str = "",
) -> Spikes:
    """Read the spikes of all shanks of a Neurosuite folder.

    Parameters
    ----------
    path : path
        The folder.
    basename : str, optional
        Name of the recording, where the folder holds several.
    rate : float, optional
        Samples per s; default ``samplingRate`` of ``basename.xml``.
    keep_noise : bool, default False
        Keep the clusters 0 (artefacts) and 1 (noise).
    fix : {None, "sort", "drop"}
        What to do with times that step back.
    subject, session : str
        Who and when; ``session`` defaults to the base name.

    Returns
    -------
    Spikes
        With the table ``id`` ("shank.cluster"), ``shank`` and ``cluster``.

    Raises
    ------
    LoadError
        If a file is missing or damaged.
    InputError
        If there are several recordings, the rate is unknown, or files contradict each other.
    """
    folder = Path(path)
    with reading(folder, "a Neurosuite folder"):
        base, shanks = _shanks(folder, basename)
        xml = member(folder, f"{base}.xml")
        hertz, clock = rate_of(_xml_rate(xml) if xml.is_file() else None, rate, str(xml), "rate")
        samples, cluster, shank = [], [], []
        for number in shanks:
            clu, res = (
                _integers(required(folder, f"{base}.clu.{number}", "the cluster of each spike")),
                _integers(required(folder, f"{base}.res.{number}", "the sample of each spike")),
            )
            if len(clu) == 0 or len(clu) - 1 != len(res):
                got = f"{max(len(clu) - 1, 0)}"
                raise InputError(explain(f"{base}.clu.{number}", expected=f"a count and {len(res)} clusters", got=got))
            if clu[0] < len(np.unique(clu[1:])):
                got = f"{len(np.unique(clu[1:]))} different ones"
                raise InputError(explain(f"{base}.clu.{number}", expected=f"{clu[0]} clusters at most", got=got))
            samples.append(res)
            cluster.append(clu[1:])
            shank.append(np.full(len(res), number))
        pairs = np.stack([np.concatenate(shank), np.concatenate(cluster)], axis=1)
        kept = np.ones(len(pairs), dtype=bool) if keep_noise else pairs[:, 1] > 1
        ids, unit = np.unique(pairs[kept], axis=0, return_inverse=True)
        table: dict[str, Any] = {"id": np.asarray([f"{a}.{b}" for a, b in ids], dtype=str)}
        table |= {"shank": ids[:, 0], "cluster": ids[:, 1]}
        dropped = {"spikes": len(pairs), "kept": int(kept.sum()), "noise": "kept" if keep_noise else "dropped"}
        return make_spikes(
            np.concatenate(samples)[kept] / hertz,
            unit.reshape(-1),
            n_units=len(ids),
            fix=fix,
            where=f"{folder / base}.res",
            units=table,
            subject=subject,
            session=session or base,
            meta={"format": "neurosuite"},
            history=({"step": "read", "format": "neurosuite", **clock, **dropped, "shanks": shanks},),
        )


def _shanks(folder: Path, basename: str | None) -> tuple[str, list[int]]:
    """Return the base name and the numbers of its shanks."""
    found: dict[str, list[int]] = {}
    for path in sorted(folder.iterdir(), key=lambda p: natural(p.name)):
        match = re.fullmatch(r"(.+)\.(clu|res)\.(\d+)", path.name)
        if match:
            numbers = found.setdefault(match[1], [])
            if int(match[3]) not in numbers:
                numbers.append(int(match[3]))
    if basename is None and len(found) > 1:
        names = ", ".join(found)
        raise InputError(explain(str(folder), expected="one recording", got=names, fix="pass basename="))
    base = basename or next(iter(found), "")
    if base not in found:
        raise LoadError(
            explain(str(folder), expected="files like name.clu.1 and name.res.1", got=", ".join(found) or "none")
        )
    return base, sorted(found[base])


def _integers(path: Path) -> np.ndarray:
    """Read one integer a line."""
    with reading(path, "one integer a line"):
        if path.stat().st_size > LONGEST:
            raise ValueError(f"{path.stat().st_size} bytes")
        words = path.read_bytes().split()
        return np.asarray([int(word) for word in words], dtype=np.int64)


def _xml_rate(path: Path) -> float | None:
    """Return the sampling rate of the recording; the text is searched, not parsed as XML with entities."""
    with reading(path, "Neurosuite's parameters"):
        if path.stat().st_size > 1 << 26:
            raise ValueError(f"{path.stat().st_size} bytes")
        text = path.read_text(encoding="utf-8", errors="strict")
    match = re.search(r"<acquisitionSystem>.*?<samplingRate>\s*([0-9.eE+]+)\s*</samplingRate>", text, re.DOTALL)
    if match is None:
        match = re.search(r"<samplingRate>\s*([0-9.eE+]+)\s*</samplingRate>", text)
    return float(match[1]) if match else None
