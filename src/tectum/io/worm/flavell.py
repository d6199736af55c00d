"""*C. elegans* recordings of the Flavell lab: Dag2023 (HDF5 with a table of labels) and Flavell2023 (HDF5 or JSON)."""

from __future__ import annotations

import json
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import InputError, LoadError, TectumWarning, explain
from tectum.core.intervals import Intervals

from ..files import reading
from ..hdf5 import opened, whole
from .animal import Animal, Options, table, vector

LARGEST = 1 << 29  # bytes of a JSON file
_DEPTH, _NODES = 40, 500_000
_SIGNALS = {"traces_array_F_F20": "1", "trace_array": "z", "trace_array_original": "a.u."}


def uid_of(path: Path) -> str:
    """Return the animal that a file is named after: "2022-07-26-31" of "2022-07-26-31-data.h5"."""
    return path.stem.removesuffix("-data")


def read_dag(path: Path, options: Options, signal: str = "traces_array_F_F20") -> list[Animal]:
    """Read one animal of Dag2023: fluorescence over its 20th percentile, behaviour, reversals, splits, food."""
    if signal not in _SIGNALS:
        raise InputError(explain("signal", expected=f"one of {', '.join(_SIGNALS)}", got=repr(signal)))
    with opened(path, "a recording of Dag2023", check=True) as file:
        name = f"gcamp/{signal}"
        if name not in file or "timing/timestamp_confocal" not in file:
            raise InputError(explain(str(path), expected=f"{name} and timing/timestamp_confocal", got=", ".join(file)))
        values, times = table(whole(file[name]), name), vector(whole(file["timing/timestamp_confocal"]), "time")
        if len(times) > len(values):
            text = f"{path}: {len(times)} times for {len(values)} frames; the last are cut"
            warnings.warn(text, TectumWarning, stacklevel=2)
            times = times[: len(values)]
        behaviour, skipped = _behaviour(file.get("behavior", {}), len(values))
        spans, meta = _spans(file, times)
    origin = float(times[0]) if len(times) else 0.0
    where = _labels_path(path, options)
    labels, confidence, note = _named(uid_of(path), where, values.shape[1])
    return [
        Animal(
            name=uid_of(path),
            values=values,
            labels=labels,
            times=times - origin,
            units=_SIGNALS[signal],
            confidence=confidence,
            intervals={k: v.shift(-origin) for k, v in spans.items()},
            behaviour=behaviour,
            meta={"condition": path.parent.name, "field": signal, "clock_origin_s": origin, **meta, **skipped},
            notes=("time runs from the first frame", note),
            guess="nearest",
        )
    ]


def _behaviour(group: Any, n_time: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return what was measured in every frame, and the names of what was not."""
    found, left = {}, []
    for name in group:
        node = group[name]
        if name == "reversal_events":
            continue
        if getattr(node, "shape", ())[:1] == (n_time,) and len(node.shape) <= 2 and node.dtype.kind in "biuf":
            found[name] = whole(node)
        else:
            left.append(name)
    return found, {"skipped": left} if left else {}


def _spans(file: Any, times: np.ndarray) -> tuple[dict[str, Intervals], dict[str, Any]]:
    """Return reversals and continuous parts as spans of time, and when food was met."""
    spans, meta = {}, {}
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    edges = np.append(times, times[-1:] + step)
    for name, node, first in (("reversals", "behavior/reversal_events", 0), ("support", "gcamp/idx_splits", 1)):
        if node not in file:
            continue
        rows = whole(file[node])
        if rows.ndim != 2 or rows.shape[0] != 2 or rows.dtype.kind not in "iuf":
            raise InputError(explain(node, expected="first and last frames (2, n)", got=f"shape {rows.shape}"))
        start, stop = (np.clip(rows[k].astype(np.int64) - first * (k == 0), 0, len(times)) for k in (0, 1))
        kept = stop > start
        found = Intervals.from_pairs(zip(edges[start[kept]], edges[stop[kept]], strict=True))
        spans[name] = found.merged() if name == "support" else found  # some files split at every frame
    if "timing/time_food_encounter" in file:
        frame = int(np.asarray(file["timing/time_food_encounter"][()]).reshape(-1)[0])
        if not 1 <= frame <= len(times):
            raise InputError(explain("time_food_encounter", expected=f"a frame up to {len(times)}", got=str(frame)))
        meta["food_encounter_s"] = float(times[frame - 1] - times[0])
    return spans, meta


def _labels_path(path: Path, options: Options) -> Path | None:
    """Return the table of labels: the caller's, or one that lies beside the file or one folder up."""
    if options.labels is not None:
        return Path(options.labels)
    names = ("NeuroPAL_labels_dict.jld2", "NeuroPAL_labels_dict.json")
    near = [folder / name for folder in (path.parent, path.parent.parent) for name in names]
    return next((p for p in near if p.is_file()), None)


def _named(uid: str, source: Path | None, n_units: int) -> tuple[list[str | None], np.ndarray | None, str]:
    """Return the label of each column and how sure it is."""
    if source is None:
        return [None] * n_units, None, "no table of labels: pass labels="
    table_ = read_labels(source)
    if uid not in table_:
        return [None] * n_units, None, f"{source.name} has no labels of {uid}"
    labels: list[str | None] = [None] * n_units
    sure = np.full(n_units, np.nan)
    for column, entry in table_[uid].items():
        if not 1 <= column <= n_units:
            raise InputError(explain(f"{source}: {uid}", expected=f"columns 1 to {n_units}", got=str(column)))
        labels[column - 1], sure[column - 1] = entry
    return labels, sure, f"labels of {source.name}, columns counted from 1"


def read_labels(path: Path) -> dict[str, dict[int, tuple[str, float]]]:
    """Read the table of labels of Dag2023, JLD2 or JSON.

    Parameters
    ----------
    path : Path
        ``NeuroPAL_labels_dict``: for each animal a map from the column (counted from 1) to label and confidence.

    Returns
    -------
    dict
        Animal -> column -> (label, confidence).
    """
    with reading(path, "a table of labels"):
        stat = path.stat()
    return _labels_in(path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=4)
def _labels_in(path: Path, changed: int, size: int) -> dict[str, dict[int, tuple[str, float]]]:
    """Read a table of labels once while it does not change: a set of animals shares it."""
    if path.suffix.lower() == ".json":
        content = load_json(path)
    else:
        content = load_jld2(path)
        content = content.get("NeuroPAL_labels", content) if isinstance(content, dict) else {}
    with reading(path, "a table of labels"):
        content = content.get("dict_match_dict", content)
        made = {}
        for uid, pair in content.items():
            columns = next(iter(pair.values())) if isinstance(pair, dict) else pair[0]
            made[str(uid)] = {int(k): (str(v["label"]), _sure(v)) for k, v in columns.items()}
        return made


def _sure(entry: Any) -> float:
    """Return how sure a label is, NaN if that is not told."""
    found = entry.get("confidence")
    return float("nan") if found is None else float(found)


def load_json(path: Path) -> Any:
    """Read a JSON file."""
    with reading(path, "a JSON file"):
        if path.stat().st_size > LARGEST:
            raise LoadError(explain(str(path), expected=f"at most {LARGEST} bytes", got=str(path.stat().st_size)))
        return json.loads(path.read_text(encoding="utf-8"))


def load_jld2(path: Path) -> dict[str, Any]:
    """Read a Julia JLD2 file (HDF5 with references) as dicts, lists, numbers and text.

    Pairs of a Julia ``Dict`` become one dict; a tuple becomes a dict with keys "1", "2", ...
    """
    with opened(path, "a JLD2 file", check=True) as file:
        return {name: _Julia(file).value(file[name], 0) for name in file if name != "_types"}


class _Julia:
    """Follows references, each once."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.known: dict[str, Any] = {}
        self.seen = 0

    def value(self, item: Any, depth: int) -> Any:
        """Return what a dataset, a reference, a record or a plain value stands for."""
        import h5py

        self.seen += 1
        if depth > _DEPTH or self.seen > _NODES:
            raise ValueError(f"more than {_NODES} values, or nested deeper than {_DEPTH}")
        if isinstance(item, h5py.Group):
            return {name: self.value(item[name], depth + 1) for name in item}
        if isinstance(item, h5py.Reference):
            return self.target(item, depth) if item else None
        if isinstance(item, h5py.Dataset):
            if item.shape is None:  # Julia's nothing
                return None
            return self.value(item[()] if item.dtype.hasobject else whole(item), depth + 1)
        if isinstance(item, np.void) and item.dtype.names:
            return {name: self.value(item[name], depth + 1) for name in item.dtype.names}
        if isinstance(item, np.ndarray):
            return self.array(item, depth)
        if isinstance(item, bytes):
            return item.decode("utf-8", "replace")
        return item.item() if isinstance(item, np.generic) else item

    def target(self, reference: Any, depth: int) -> Any:
        """Return what a reference leads to; a loop leads to nothing."""
        node = self.file[reference]
        key = str(node.id.__hash__()) if node.name is None else node.name
        if key not in self.known:
            self.known[key] = None
            self.known[key] = self.value(node, depth + 1)
        return self.known[key]

    def array(self, values: np.ndarray, depth: int) -> Any:
        """Return numbers as they are, pairs as one dict, anything else as a list."""
        if values.dtype.kind in "biuf":
            return values if values.ndim else values.item()
        found = [self.value(entry, depth + 1) for entry in values.reshape(-1)]
        if values.ndim == 0:
            return found[0]
        if found and all(isinstance(x, dict) and set(x) == {"first", "second"} for x in found):
            return {x["first"]: x["second"] for x in found}
        return found


def read_flavell(path: Path, options: Options) -> list[Animal]:
    """Read one animal of Flavell2023: traces (neuron, time), labels by the number of the neuron counted from 1."""
    content: Any = load_json(path) if path.suffix.lower() == ".json" else _flavell_hdf5(path)
    if not isinstance(content, dict) or not {"timestamp_confocal", "trace_array", "labeled"} <= set(content):
        got = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise InputError(explain(str(path), expected="timestamp_confocal, trace_array and labeled", got=got))
    times = vector(content["timestamp_confocal"], "timestamp_confocal")
    values = table(_matrix(content["trace_array"]), "trace_array").T  # (time, unit) of (unit, time)
    labels: list[str | None] = [None] * values.shape[1]
    sure = np.full(values.shape[1], np.nan)
    for number, entry in content["labeled"].items():
        if not (str(number).isdigit() and 1 <= int(number) <= len(labels)):
            raise InputError(explain("labeled", expected=f"neurons 1 to {len(labels)}", got=repr(number)))
        labels[int(number) - 1] = str(entry["label"])
        sure[int(number) - 1] = _sure(entry)
    origin = float(times[0]) if len(times) else 0.0
    behaviour = {k: np.asarray(v, float) for k, v in content.items() if k not in _FLAVELL and _is_trace(v, len(times))}
    return [
        Animal(
            name=uid_of(path),
            values=values,
            labels=labels,
            times=times - origin,
            confidence=sure,
            behaviour=behaviour,
            meta={"condition": path.parent.name, "field": "trace_array", "clock_origin_s": origin},
            notes=("time runs from the first frame", "the unit of trace_array is not told"),
            guess="nearest",
        )
    ]


_FLAVELL = {"timestamp_confocal", "trace_array", "labeled", "trace_original", "avg_timestep"}


def _is_trace(value: Any, n_time: int) -> bool:
    """Tell whether a value is one number a frame."""
    if not isinstance(value, (list, np.ndarray)) or len(value) != n_time:
        return False
    found = np.asarray(value) if isinstance(value, np.ndarray) or not any(isinstance(v, list) for v in value) else None
    return found is not None and found.ndim == 1 and found.dtype.kind in "biuf"


def _matrix(rows: Any) -> np.ndarray:
    """Return rows of numbers of equal length as a matrix."""
    if isinstance(rows, list):
        lengths = {len(row) if isinstance(row, list) else -1 for row in rows}
        if len(lengths) != 1:
            raise InputError(explain("trace_array", expected="rows of one length", got=f"{sorted(lengths)[:4]}"))
        rows = [[np.nan if v is None else v for v in row] for row in rows]
    return np.asarray(rows)


def _flavell_hdf5(path: Path) -> dict[str, Any]:
    with opened(path, "a recording of Flavell2023", check=True) as file:
        found: dict[str, Any] = {
            n: whole(file[n]) for n in file if getattr(file[n], "dtype", np.dtype("O")).kind in "biuf"
        }
        labels = file.get("labeled")
        if labels is None or not hasattr(labels, "keys"):
            return found
        found["labeled"] = {
            n: {k: _scalar(labels[n][k]) for k in ("label", "confidence") if k in labels[n]} for n in labels
        }
        return found


def _scalar(node: Any) -> Any:
    value = whole(node)
    return value.reshape(-1)[0].item() if value.size else ""
