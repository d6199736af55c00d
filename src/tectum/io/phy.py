"""Folders of Kilosort 2 to 4 and phy: spikes in samples, clusters and what people said of them."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import InputError, LoadError, TectumWarning, explain
from tectum.core.intervals import Intervals
from tectum.core.spikes import Spikes

from .delimited import numbers, read_table
from .events import Fix, check_fix, make_spikes, rate_of, span
from .files import column_vector, load_npy, optional, reading, required

_LABELS = ("cluster_group", "cluster_KSLabel", "cluster_info")
UNKNOWN, UNSORTED = "unknown", "unsorted"


def read_phy(
    path: str | Path,
    *,
    groups: Sequence[str] | None = ("good",),
    rate: float | None = None,
    fix: Fix = None,
    subject: str = "",
    session: str = "",
) -> Spikes:
    """Read a folder of Kilosort or phy.

    Parameters
    ----------
    path : path
        The folder with ``spike_times.npy``.
    groups : sequence of str or None, default ("good",)
        Kept qualities; the label of a person (``cluster_group.tsv``) goes before that of the sorter
        (``cluster_KSLabel.tsv``), units without either are "unsorted". None keeps all. Clusters that no table knows
        are kept with quality "unknown" and a warning.
    rate : float, optional
        Samples per second; default ``sample_rate`` of ``params.py``, which is parsed and never run.
    fix : {None, "sort", "drop"}
        What to do with times that step back.
    subject, session : str
        Who and when: the folder does not know.

    Returns
    -------
    Spikes
        With the table ``id`` (the cluster's number), ``quality``, ``amplitude`` (mean), and the columns of
        ``cluster_info.tsv``. Kilosort 4 counts samples over all concatenated recordings.

    Raises
    ------
    LoadError
        If a file is missing or damaged.
    InputError
        If the rate is unknown, files contradict each other, or no unit passes ``groups``.
    """
    check_fix(fix)
    folder = Path(path)
    with reading(folder, "a folder of Kilosort or phy"):
        params = _params(optional(folder, "params.py"))
        hertz, clock = rate_of(params.get("sample_rate"), rate, f"{folder / 'params.py'}: sample_rate", "rate")
        samples, cluster = _events(folder)
        ids, unit = np.unique(cluster, return_inverse=True)
        table = _table(folder, ids)
        table |= _means(folder, unit, len(ids), len(samples))
        support = _support(params, folder, hertz)
        counts = {name: int((table["quality"] == name).sum()) for name in np.unique(table["quality"])}
        note = {"step": "read", "format": "phy", **clock, "groups": None if groups is None else list(groups)}
        found = make_spikes(
            samples / hertz,
            unit.astype(np.int64),
            n_units=len(ids),
            fix=fix,
            where=str(folder / "spike_times.npy"),
            support=support,
            units={"id": ids, **table},
            subject=subject,
            session=session,
            meta={"format": "phy", "params": {k: v for k, v in params.items() if isinstance(v, (str, int, float))}},
            history=({**note, "units": len(ids), "by_quality": counts},),
        )
        return found if groups is None else _filtered(found, groups, counts, folder)


def _filtered(spikes: Spikes, groups: Sequence[str], counts: dict[str, int], folder: Path) -> Spikes:
    if isinstance(groups, str):
        raise InputError(explain("groups", expected="a sequence of qualities or None", got=repr(groups)))
    keep = np.isin(spikes.units["quality"], [*groups, UNKNOWN])
    if not keep.any():
        got = ", ".join(f"{n} {name}" for name, n in counts.items()) or "no unit at all"
        raise InputError(
            explain(f"{folder}: groups", expected=f"units of {list(groups)}", got=got, fix="pass groups=None")
        )
    return spikes.select(keep)


def _params(path: Path | None) -> dict[str, Any]:
    """Return the literals that are assigned in ``params.py``; nothing of it runs."""
    if path is None:
        return {}
    with reading(path, "assignments of literals"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                continue  # a call or a formula: not a literal, not ours to run
    return found


def _events(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the sample and the cluster of each spike."""
    samples = column_vector(required(folder, "spike_times.npy", "the sample of each spike"), kinds="iu")
    path = optional(folder, "spike_clusters.npy") or optional(folder, "spike_templates.npy")
    if path is None:
        path = required(folder, "spike_clusters.npy", "the cluster of each spike")
    cluster = column_vector(path, kinds="iu")
    if len(cluster) != len(samples):
        raise InputError(explain(path.name, expected=f"{len(samples)} spikes", got=str(len(cluster))))
    if samples.dtype == np.uint64 and len(samples) and samples.max() >= 1 << 63:
        raise LoadError(
            explain(str(folder / "spike_times.npy"), expected="samples below 2**63", got=str(samples.max()))
        )
    return samples.astype(np.int64), cluster.astype(np.int64)


def _labelled(folder: Path, name: str) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
    """Return cluster numbers and the other columns of a table, None if there is none."""
    path = optional(folder, f"{name}.tsv") or optional(folder, f"{name}.csv")
    if path is None:
        return None
    columns = read_table(path)
    key = next((k for k in ("cluster_id", "id") if k in columns), None)
    ids = None if key is None else numbers(columns.pop(key))
    if ids is None or ids.dtype != np.int64:
        raise LoadError(explain(str(path), expected="a column cluster_id of integers", got=", ".join(columns)))
    if len(np.unique(ids)) != len(ids):
        raise LoadError(explain(str(path), expected="each cluster once", got="a cluster twice"))
    return ids, columns


def _table(folder: Path, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return quality and further columns of each cluster; the groups file wins over an older info file."""
    found = {name: table for name in _LABELS if (table := _labelled(folder, name))}
    info = found.get("cluster_info", (np.empty(0, np.int64), {}))
    merged: dict[str, np.ndarray] = {}
    for name, column in info[1].items():
        spread = _spread(info[0], column, ids)
        value = numbers(spread)
        merged[name] = spread if value is None else value
    by_person = _by_id(found.get("cluster_group"), "group") or _by_id(info, "group")
    by_sorter = _by_id(found.get("cluster_KSLabel"), "KSLabel") or _by_id(info, "KSLabel")
    known = set().union(*(table[0].tolist() for table in found.values())) if found else set(ids.tolist())
    strange = [int(k) for k in ids if int(k) not in known]
    if strange:
        text = f"{folder}: clusters {strange[:8]} are in no table and kept with quality {UNKNOWN!r}"
        warnings.warn(text, TectumWarning, stacklevel=2)
    label = [by_person.get(int(k)) or by_sorter.get(int(k)) or (UNSORTED if int(k) in known else UNKNOWN) for k in ids]
    merged.pop("group", None)
    merged.pop("id", None)
    return {"quality": np.asarray(label, dtype=str), **merged}


def _by_id(table: tuple[np.ndarray, dict[str, np.ndarray]] | None, name: str) -> dict[int, str]:
    if table is None or name not in table[1]:
        return {}
    return {int(k): str(v) for k, v in zip(table[0], table[1][name], strict=True) if str(v)}


def _spread(found: np.ndarray, column: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the entry of each id, empty where the table has none."""
    known = dict(zip(found.tolist(), column.tolist(), strict=True))
    return np.asarray([known.get(int(k), "") for k in ids], dtype=str)


def _means(folder: Path, unit: np.ndarray, n_units: int, n_spikes: int) -> dict[str, np.ndarray]:
    """Return the mean amplitude of each unit, and its mean position where Kilosort 4 gives one."""
    found = {}
    count = np.maximum(np.bincount(unit, minlength=n_units), 1)
    amplitudes = optional(folder, "amplitudes.npy")
    if amplitudes is not None:
        values = column_vector(amplitudes)
        _as_many(amplitudes, len(values), n_spikes)
        found["amplitude"] = np.bincount(unit, values, minlength=n_units) / count
    positions = optional(folder, "spike_positions.npy")
    if positions is not None:
        values = load_npy(positions, ndim=2)
        _as_many(positions, len(values), n_spikes)
        for axis, name in enumerate(("x", "y")[: values.shape[1]]):
            found[name] = np.bincount(unit, values[:, axis], minlength=n_units) / count
    return found


def _as_many(path: Path, found: int, n_spikes: int) -> None:
    if found != n_spikes:
        raise InputError(explain(path.name, expected=f"{n_spikes} spikes as spike_times.npy", got=str(found)))


def _support(params: dict[str, Any], folder: Path, rate: float) -> Intervals | None:
    """Return the length of the raw recording if it lies there, else None."""
    paths, channels, dtype = (params.get(key) for key in ("dat_path", "n_channels_dat", "dtype"))
    paths = [paths] if isinstance(paths, str) else paths
    if (
        not isinstance(paths, (list, tuple))
        or not isinstance(channels, int)
        or channels < 1
        or not isinstance(dtype, str)
    ):
        return None
    try:
        sizes = [(folder / str(p)).stat().st_size for p in paths]
        return span(0.0, sum(sizes) // (np.dtype(dtype).itemsize * channels) / rate)
    except (OSError, TypeError, ValueError):
        return None
