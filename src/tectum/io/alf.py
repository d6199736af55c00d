"""IBL's ALF folders: spikes of each probe, clusters, trials and the wheel, all on the clock of the session."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tectum.core.errors import InputError, LoadError, explain
from tectum.core.intervals import Intervals
from tectum.core.recording import Recording
from tectum.core.session import Session
from tectum.core.spikes import Spikes

from .delimited import numbers, read_table
from .events import Fix, check_fix, frame_times, make_spikes
from .files import column_vector, load_npy, member, reading
from .parquet import read_columns


def read_alf(path: str | Path, *, passing_only: bool = False, fix: Fix = None) -> Session:
    """Read a session in the naming of ALF (ONE).

    Parameters
    ----------
    path : path
        The session, its folder ``alf``, or one probe.
    passing_only : bool, default False
        Keep the clusters with ``clusters.metrics.label == 1``.
    fix : {None, "sort", "drop"}
        What to do with times that step back.

    Returns
    -------
    Session
        ``spikes`` (or ``spikes_<probe>`` of several), ``trials`` (:class:`Intervals`), ``wheel`` (position in rad at
        irregular times). Timestamps stored as knots (sample, time) are interpolated.

    Raises
    ------
    LoadError
        If a file is missing or damaged.
    """
    check_fix(fix)
    root = Path(path)
    folder = root / "alf" if (root / "alf").is_dir() else root
    with reading(root, "an ALF session"):
        who = _who(root)
        probes = sorted({p.parent for p in folder.rglob("spikes.times*.npy")})
        named = {_probe(p, folder): p for p in probes}
        if len(named) != len(probes):
            got = ", ".join(str(p.relative_to(folder)) for p in probes)
            raise InputError(explain(str(root), expected="one sorting of each probe", got=got, fix="pass one of them"))
        parts: dict[str, Any] = {}
        for name, probe in named.items():
            key = "spikes" if len(named) == 1 else f"spikes_{name}"
            parts[key] = _spikes(member(folder, str(probe.relative_to(folder))), name, passing_only, fix, who)
        parts |= _trials(folder) | _wheel(folder, fix, who)
        if not parts:
            names = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "an empty folder"
            raise LoadError(explain(str(root), expected="spikes, trials or a wheel in ALF names", got=names))
    return Session(items_=parts, meta={"format": "alf"}, **who)


def _who(root: Path) -> dict[str, Any]:
    """Return subject and session from a path like lab/Subjects/subject/2020-01-02/001."""
    match = re.search(r"([^/\\]+)[/\\](\d{4}-\d\d-\d\d)[/\\](\d{3})(?:[/\\]|$)", str(root.absolute()))
    return {"subject": match[1], "session": f"{match[2]}/{match[3]}"} if match else {"subject": "", "session": ""}


def _probe(folder: Path, root: Path) -> str:
    pieces = [piece for piece in folder.relative_to(root).parts if piece.startswith("probe")]
    return pieces[0] if pieces else folder.name


def _needed(folder: Path, stem: str, provides: str) -> Path:
    """Return the file ``stem*.npy`` that a probe must have."""
    found = _file(folder, stem)
    if found is None:
        expected = f"an existing file: it provides {provides}"
        raise LoadError(explain(str(folder / f"{stem}.npy"), expected=expected, got="none there"))
    return found


def _file(folder: Path, stem: str) -> Path | None:
    """Return the single file ``stem*.npy``, whatever the namespace parts in its name (``spikes.times.<uuid>.npy``)."""
    found = sorted(
        p for p in folder.glob(f"{stem}*.npy") if re.fullmatch(rf"{re.escape(stem)}(\.[\w-]+)?\.npy", p.name)
    )
    if len(found) > 1:
        raise InputError(explain(str(folder / stem), expected="one file", got=", ".join(p.name for p in found)))
    return member(folder, found[0].name) if found else None


def _spikes(folder: Path, probe: str, passing_only: bool, fix: Fix, who: dict[str, Any]) -> Spikes:
    times_file = _needed(folder, "spikes.times", "the time of each spike")
    cluster_file = _needed(folder, "spikes.clusters", "the cluster of each spike")
    times, cluster = column_vector(times_file, kinds="f"), column_vector(cluster_file, kinds="iu").astype(np.int64)
    if len(times) != len(cluster):
        raise InputError(explain(cluster_file.name, expected=f"{len(times)} spikes", got=str(len(cluster))))
    if len(cluster) and (cluster.min() < 0 or cluster.max() >= 1 << 20):
        raise InputError(
            explain(cluster_file.name, expected="clusters below 2**20", got=f"{cluster.min()}, {cluster.max()}")
        )
    n_units, table = _clusters(folder, int(cluster.max(initial=-1)) + 1)
    table["probe"] = np.full(n_units, probe)
    step = {"step": "read", "format": "alf", "probe": probe, "clusters": n_units, "clock": "session"}
    found = make_spikes(
        times.astype(np.float64),
        cluster,
        n_units=n_units,
        fix=fix,
        where=str(times_file),
        units=table,
        meta={"format": "alf"},
        history=(step,),
        **who,
    )
    if not passing_only:
        return found
    passing = found.units.get("label", np.zeros(n_units)) == 1
    if not passing.any():
        fix_it = "pass passing_only=False"
        raise InputError(explain(str(folder), expected="a cluster with label 1", got="none", fix=fix_it))
    return found.select(passing)


def _clusters(folder: Path, least: int) -> tuple[int, dict[str, np.ndarray]]:
    """Return the number of clusters and their table; row k is cluster k."""
    columns: dict[str, np.ndarray] = {}
    for name in ("channels", "depths", "amps", "peakToTrough"):
        path = _file(folder, f"clusters.{name}")
        if path is not None:
            columns[name] = column_vector(path)
    sizes = {len(column) for column in columns.values()}
    if len(sizes) > 1 or (sizes and min(sizes) < least):
        got = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
        raise InputError(explain(f"{folder}/clusters.*", expected=f"one row for each of {least} clusters", got=got))
    n_units = sizes.pop() if sizes else least
    return n_units, {"id": np.arange(n_units), **columns, **_metrics(folder, n_units)}


def _metrics(folder: Path, n_units: int) -> dict[str, np.ndarray]:
    """Return ``clusters.metrics.csv`` by cluster id."""
    path = folder / "clusters.metrics.csv"
    if not path.is_file():
        return {}
    columns = read_table(member(folder, path.name))
    key = next((k for k in ("cluster_id", "id") if k in columns), None)
    ids = None if key is None else numbers(columns.pop(key))
    if ids is None or ids.dtype != np.int64 or len(ids) and not 0 <= ids.min() <= ids.max() < n_units:
        raise LoadError(explain(str(path), expected=f"a column cluster_id below {n_units}", got=", ".join(columns)))
    found = {}
    for name, column in columns.items():
        value = numbers(column)
        if value is not None:
            spread = np.full(n_units, np.nan)
            spread[ids] = value
            found[name] = spread
    return found


def _trials(folder: Path) -> dict[str, Intervals]:
    """Return the trials from single arrays, or from the table of Parquet, which needs pyarrow."""
    bounds = _file(folder, "_ibl_trials.intervals") or _file(folder, "trials.intervals")
    if bounds is None:
        table = next(iter(sorted(folder.glob("_ibl_trials.table*.pqt"))), None)
        return {} if table is None else {"trials": _table(member(folder, table.name))}
    spans = load_npy(bounds, kinds="f", ndim=2)
    if spans.shape[1] != 2:
        raise LoadError(explain(str(bounds), expected="start and stop", got=f"shape {spans.shape}"))
    columns = {}
    for path in sorted(folder.glob(f"{bounds.name.split('.')[0]}.*.npy")):
        name = path.name.split(".")[1]
        if name != "intervals":
            values = load_npy(member(folder, path.name))
            if values.ndim == 1 and len(values) == len(spans):
                columns[name] = values
    return {"trials": _intervals(spans, columns)}


def _intervals(spans: np.ndarray, columns: dict[str, np.ndarray]) -> Intervals:
    start, stop = (torch.from_numpy(np.ascontiguousarray(spans[:, k], dtype=np.float64)) for k in (0, 1))
    return Intervals(start=start, stop=stop, columns=columns)


def _table(path: Path) -> Intervals:
    """Return the trials of the table: its columns intervals_0 and intervals_1 are start and stop."""
    columns = read_columns(path)
    bounds = [columns.pop(name, None) for name in ("intervals_0", "intervals_1")]
    if bounds[0] is None or bounds[1] is None:
        got = ", ".join(columns)[:80] or "none"
        raise LoadError(explain(str(path), expected="the columns intervals_0 and intervals_1", got=got))
    return _intervals(np.stack([np.asarray(b, dtype=np.float64) for b in bounds], axis=1), columns)


def _wheel(folder: Path, fix: Fix, who: dict[str, Any]) -> dict[str, Recording]:
    """Return the position of the wheel at its irregular times."""
    position, stamps = _file(folder, "_ibl_wheel.position"), _file(folder, "_ibl_wheel.timestamps")
    if position is None or stamps is None:
        return {}
    values = column_vector(position, kinds="f")
    times, keep = frame_times(knots(load_npy(stamps), len(values), str(stamps)), fix=fix, where=str(stamps))
    values = values if keep is None else values[keep]
    step = {"step": "read", "format": "alf", "file": position.name, "fix": fix, "kept": len(values)}
    made = Recording(
        data=torch.from_numpy(values.astype(np.float32)),
        dims=("time",),
        times=torch.from_numpy(times.copy()),
        units="rad",
        modality="behaviour",
        history=(step,),
        **who,
    )
    return {"wheel": made}


def knots(stamps: np.ndarray, n: int, where: str = "timestamps") -> np.ndarray:
    """Return the time of each of ``n`` samples; an array (knot, 2) of sample and time is interpolated linearly.

    Examples
    --------
    >>> knots(np.array([[0.0, 1.0], [2.0, 3.0]]), 3).tolist()
    [1.0, 2.0, 3.0]
    """
    if stamps.ndim == 2 and stamps.shape[1] == 2 and len(stamps) >= 2:
        if not (np.diff(stamps[:, 0]) > 0).all():
            raise InputError(explain(where, expected="knots at growing samples", got="a repeated or smaller one"))
        sample = np.arange(n)
        found: np.ndarray = np.interp(sample, stamps[:, 0], stamps[:, 1])
        slope = np.diff(stamps[-2:, 1])[0] / np.diff(stamps[-2:, 0])[0]
        late = sample > stamps[-1, 0]
        found[late] = stamps[-1, 1] + (sample[late] - stamps[-1, 0]) * slope
        return found
    if stamps.shape not in ((n,), (n, 1)):
        raise InputError(explain(where, expected=f"{n} times, or knots (sample, time)", got=f"shape {stamps.shape}"))
    times: np.ndarray = stamps.reshape(-1).astype(np.float64)
    return times
