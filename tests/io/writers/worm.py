"""Minimal files of the twelve activity sets of C. elegans, their homogenised table and connectomes, with the truth."""

from __future__ import annotations

import csv
import io
import itertools
import json
import struct
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from .realdata import cached

VERSIONS = {"cect": "0.3.5", "wormneuroatlas": "0.0.7.3"}


def package_root(package: str) -> Path:
    """Return the folder that holds a package, installed or in the cache of real data, or skip the test."""
    spec = find_spec(package)
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).parent
    folder = cached() / f"{package}-{VERSIONS[package]}"
    if not (folder / package).is_dir():
        pytest.skip(f"{package} is neither installed nor in the cache: run tools/fetch_realdata.py")
    return folder


def traces(n_time: int = 40, n_units: int = 6, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.standard_normal((n_time, n_units)), axis=0) / 5 + 1


# MATLAB


_NUMBERS = itertools.count()


class _Cell(list[Any]):
    """A MATLAB cell row."""


def cell(*entries: Any) -> Any:
    return _Cell(entries)


def write_mat73(path: Path, variables: dict[str, Any]) -> None:
    """Write dicts as structures, cells as references, text as letters and numbers transposed, as MATLAB v7.3 does."""
    with h5py.File(path, "w", userblock_size=512) as file:
        refs = file.create_group("#refs#")
        for name, value in variables.items():
            _put73(file, name, value, refs)
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64, Created by hand".ljust(124) + b"\x00\x02IM"
    with open(path, "r+b") as stream:
        stream.write(header)


def _put73(group: h5py.Group, name: str, value: Any, refs: h5py.Group) -> h5py.HLObject:
    if isinstance(value, dict):
        node = group.create_group(name)
        node.attrs["MATLAB_class"] = np.bytes_(b"struct")
        for key, part in value.items():
            _put73(node, key, part, refs)
        return node
    if isinstance(value, _Cell):
        made = [_put73(refs, f"r{next(_NUMBERS)}", entry, refs).ref for entry in value]
        node = group.create_dataset(
            name, data=np.asarray(made, dtype=h5py.ref_dtype).reshape(-1, 1), dtype=h5py.ref_dtype
        )
        node.attrs["MATLAB_class"] = np.bytes_(b"cell")
        return node
    if value is None or (isinstance(value, str) and not value):
        node = group.create_dataset(name, data=np.zeros(2, np.uint64))
        node.attrs["MATLAB_class"] = np.bytes_(b"double" if value is None else b"char")
        node.attrs["MATLAB_empty"] = np.uint8(1)
        return node
    if isinstance(value, str):
        node = group.create_dataset(name, data=np.asarray([ord(c) for c in value], np.uint16)[:, None])
        node.attrs["MATLAB_class"] = np.bytes_(b"char")
        return node
    node = group.create_dataset(name, data=np.atleast_2d(value).T)
    node.attrs["MATLAB_class"] = np.bytes_(b"double")
    return node


def _cells5(value: Any) -> Any:
    """Turn cells into the object arrays that SciPy writes as cells."""
    if isinstance(value, _Cell):
        made = np.empty((1, len(value)), dtype=object)
        for k, entry in enumerate(value):
            made[0, k] = _cells5(np.zeros((0, 0)) if entry is None else entry)
        return made
    return {k: _cells5(v) for k, v in value.items()} if isinstance(value, dict) else value


def write_mat5(path: Path, variables: dict[str, Any]) -> None:
    from scipy.io import savemat

    savemat(path, _cells5(variables))


LABELS = ["AVAL", "AS01", None, "RMF?", "VD10", "17"]
NAMES = ["AVAL", "AS1", "", "", "VD10", ""]
_FIELDS = {
    "Kato2015": ("IDs", "deltaFOverF_bc", "tv"),
    "Nichols2017": ("IDs", "traces", "timeVectorSeconds"),
    "Skora2018": ("IDs", "traces", "timeVectorSeconds"),
    "Kaplan2020": ("neuron_ID", "traces_bleach_corrected", "time_vector"),
    "Uzel2022": ("IDs", "traces", "tv"),
}


def write_zimmer(
    path: Path, dataset: str = "Kato2015", *, n: int = 2, old: bool = False, **change: Any
) -> dict[str, Any]:
    """Write a structure of cells with one entry an animal; ``change`` replaces names, traces or times of all."""
    names, field, clock = _FIELDS[dataset]
    values = change.get("values", [traces(seed=k) for k in range(n)])
    times = change.get("times", [0.1 * k + np.arange(len(x)) / 2.9 for k, x in enumerate(values)])
    labels = change.get("labels", [LABELS for _ in values])
    ids = [cell(*[cell(None, x) if x == "VD10" else x for x in row]) for row in labels]
    content = {names: cell(*ids), field: cell(*values), clock: cell(*[t[:, None] for t in times])}
    variable = f"{path.stem.removeprefix('Neuron2019_Data_')}_Neuron2019" if dataset == "Kaplan2020" else path.stem
    (write_mat5 if old else write_mat73)(path, {variable: content})
    return {"values": values, "times": times}


def write_yemini(path: Path, **change: Any) -> dict[str, Any]:
    """Write two animals: AVA on both sides, AVG alone, RMF of the right only in the second."""
    n_time, rate = 30, 4.0
    rng = np.random.default_rng(3)
    x = {
        name: [np.r_[np.zeros(4), rng.random(n_time - 4)] for _ in range(2)] for name in ("AVAL", "AVAR", "AVG", "RMFR")
    }
    none = np.zeros((0, 0))
    content = {
        "fps": rate,
        "files": cell("worm_a", "worm_b"),
        "neurons": cell("AVA", "AVG", "RMF"),
        "is_L": cell(np.array([[1.0], [1], [0], [0]]), np.full((2, 1), np.nan), np.array([[1.0], [1], [0], [0]])),
        "norm_traces": cell(
            cell(*[v[:, None] for v in (*x["AVAL"], *x["AVAR"])]),
            cell(*[v[:, None] for v in x["AVG"]]),
            cell(none, none, none, x["RMFR"][1][:, None]),
        ),
        "stim_names": cell(cell("butanone", "pentanedione", "NaCl"), cell("NaCl", "butanone", "pentanedione")),
        "stim_times": np.array([[1.0, 1.5], [3.0, 3.5], [5.0, 5.5]]),
        **change,
    }
    write_mat5(path, content)
    return x


def write_lin(path: Path, **change: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    values = rng.random((4, 35))
    values[:, 0] = np.nan
    times = np.arange(35) * 0.4
    content = {
        "proofread_neurons": cell("AWAL", "ASHR", "AWCON", "ADLL"),
        "use_flag": np.array([[1.0], [1], [1], [0]]),
        "times": {"frames": np.arange(35.0)[None], "times": times[None]},
        "corrected_F": values,
        "F_0": rng.random((4, 2)),
        **change,
    }
    write_mat5(path, content)
    return {"values": values, "times": times, "f0": content["F_0"]}


# HDF5, JSON


def write_dag(path: Path, *, extra_times: int = 0, **change: Any) -> dict[str, np.ndarray]:
    x = change.pop("values", traces(50, 5, seed=5) ** 2)
    times = change.pop("times", 1000.0 + np.arange(50 + extra_times) * 0.6)
    made = {
        "gcamp/traces_array_F_F20": x,
        "gcamp/trace_array": (x - x.mean(0)) / x.std(0),
        "gcamp/idx_splits": np.array([[1, 26], [20, 50]]),
        "timing/timestamp_confocal": times,
        "timing/timestamp_nir": np.arange(300.0),
        "timing/time_food_encounter": 11,
        "behavior/velocity": np.sin(np.arange(50.0)),
        "behavior/pumping": np.arange(50.0),
        "behavior/body_angle": np.arange(150.0).reshape(50, 3),
        "behavior/reversal_events": np.array([[3, 40], [5, 50]]),
        **change,
    }
    with h5py.File(path, "w") as file:
        for name, values in made.items():
            file[name] = values
    return made


DAG_LABELS = {1: ("AVAL", 4.0), 2: ("AVAL", 5.0), 4: ("SMBD?", 3.0), 5: ("AS05", 2.5)}


def write_dag_labels(path: Path, uid: str = "2022-07-26-31", labels: dict[int, tuple[str, float]] = DAG_LABELS) -> None:
    """Write the table of labels as JSON, or in the layout of Julia's JLD2."""
    entry = {k: {"label": v[0], "neuron_class": v[0][:3], "confidence": v[1]} for k, v in labels.items()}
    if path.suffix == ".json":
        path.write_text(json.dumps({uid: [{str(k): v for k, v in entry.items()}, {}]}))
        return
    with h5py.File(path, "w") as file:
        store = file.create_group("refs")

        def put(value: Any) -> Any:
            name = f"n{next(_NUMBERS)}"
            if isinstance(value, dict):
                pairs = [put(_Pair(k, v)) for k, v in value.items()]
                return store.create_dataset(name, data=np.asarray(pairs, h5py.ref_dtype), dtype=h5py.ref_dtype).ref
            if isinstance(value, _Pair):
                kind = np.dtype([("first", h5py.ref_dtype), ("second", h5py.ref_dtype)])
                parts = (put(value.first), put(value.second))
                node = store.create_dataset(f"{name}p", (), dtype=kind)
                node[()] = np.array(parts, dtype=kind)
                return node.ref
            if isinstance(value, tuple):
                kind = np.dtype([("1", h5py.ref_dtype), ("2", h5py.ref_dtype)])
                parts = (put(value[0]), put(value[1]))
                node = store.create_dataset(f"{name}t", (), dtype=kind)
                node[()] = np.array(parts, dtype=kind)
                return node.ref
            if value is None:
                return store.create_dataset(name, data=h5py.Empty("i1")).ref
            data = np.bytes_(value.encode()) if isinstance(value, str) else value
            return store.create_dataset(name, data=data).ref

        content = {"dict_match_dict": {uid: (entry, {"AVAL": None})}, "list_uid": None}
        file.create_dataset("NeuroPAL_labels", (), dtype=h5py.ref_dtype)[()] = put(content)


class _Pair:
    def __init__(self, first: Any, second: Any) -> None:
        self.first, self.second = first, second


def write_flavell(path: Path, **change: Any) -> dict[str, Any]:
    x = traces(30, 4, seed=6)
    content: dict[str, Any] = {
        "timestamp_confocal": (5.0 + np.arange(30) * 0.6).tolist(),
        "trace_array": x.T.tolist(),
        "labeled": {"1": {"label": "AVAL", "confidence": 4}, "3": {"label": "VB02", "confidence": 3}},
        "velocity": np.linspace(-1, 1, 30).tolist(),
        **change,
    }
    if path.suffix == ".json":
        path.write_text(json.dumps(content))
    else:
        with h5py.File(path, "w") as file:
            for name in ("timestamp_confocal", "trace_array", "velocity"):
                file[name] = np.asarray(content[name])
            for number, entry in content["labeled"].items():
                file[f"labeled/{number}/label"] = entry["label"]
                file[f"labeled/{number}/confidence"] = entry["confidence"]
    return {**content, "values": x}


def write_nejatbakhsh(path: Path, *, turned: bool = False, rate: float | None = None, **change: Any) -> np.ndarray:
    x: np.ndarray = change.get("values", traces(24, 3, seed=7) * 100)
    with h5py.File(path, "w") as file:
        file.attrs["nwb_version"] = "2.2.5"
        room = "processing/CalciumActivity"
        series = file.create_group(f"{room}/SignalRawFluor/SignalCalciumImResponseSeries")
        series["data"] = x.T if turned else x
        if rate is not None:
            series["starting_time"] = 0.5
            series["starting_time"].attrs["rate"] = rate
        labels = change.get("labels", ["AVAL", "", "RMER"])
        file.create_dataset(f"{room}/NeuronIDs/labels", data=np.asarray(labels, object), dtype=h5py.string_dtype())
    return x


# Text


def write_leifer(
    folder: Path, number: int = 0, *, labels: list[str] | None = None, **change: Any
) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    x = traces(30, 5, seed=8 + number)
    x[3:6, 1] = np.nan
    times = change.get("times", np.arange(30) * 0.5)
    np.savetxt(folder / f"{number}_gcamp.txt", x)
    np.savetxt(folder / f"{number}_t.txt", times)
    names = ["AVAL", "", "AVA", "merge", "RID"] if labels is None else labels
    (folder / f"{number}_labels.txt").write_text("".join(f"{name}\n" for name in names))
    np.savetxt(folder / f"{number}_stim_volume_i.txt", change.get("frames", np.array([10, 20])), fmt="%d")
    np.savetxt(folder / f"{number}_stim_neurons.txt", np.array([4, -1]), fmt="%d")
    (folder / f"{number}_ds_name.txt").write_text("pumpprobe_20210101")
    return {"values": x, "times": times}


def write_venkatachalam(path: Path, **change: Any) -> np.ndarray:
    """Write a zipped table: 9 columns about the neuron, 98 blank frames, 20 frames, and one column more."""
    x = traces(20, 3, seed=9)
    x[:, 1] = np.nan
    frames = [str(k) for k in range(-98, 20)]
    names = change.get("names", ["AVAL", "AVAR", "ASEL?"])
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(["id", "neuron", *[f"c{k}" for k in range(7)], *frames, "last"])
    for k, name in enumerate(names):
        numbers = ["" if np.isnan(v) else repr(float(v)) for v in x[:, k]]
        table.writerow([k, name, *["x"] * 7, *[""] * 98, *numbers, ""])
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(path.with_suffix(".csv").name, change.get("text", text.getvalue()))
    return x


# Parquet


def homogenised_rows() -> list[dict[str, Any]]:
    """Return rows of two sets with a worm0 each."""
    rows = []
    for source, names, n in (("Kato2015", ["AVAL", "7", "VD10"], 40), ("Uzel2022", ["RIML", "AVAL"], 30)):
        x = traces(n, len(names), seed=n)
        raw_times = np.arange(n, dtype=np.float32) * np.float32(0.345)
        resampled = traces(n + 1, len(names), seed=n + 1)
        for k, name in enumerate(names):
            rows.append(
                {
                    "source_dataset": source, "raw_data_file": f"data/{source}/WT.mat", "worm": "worm0", "neuron": name,
                    "slot": k, "is_labeled_neuron": not name.isdigit(), "smooth_method": "moving",
                    "interpolate_method": "linear", "normalization_method": "standard",
                    "original_calcium_data": x[:, k].astype(np.float32),
                    "calcium_data": resampled[:, k].astype(np.float32),
                    "original_time_in_seconds": raw_times,
                    "time_in_seconds": (0.333 * np.arange(n + 1)).astype(np.float16).astype(np.float32),
                    "original_max_timesteps": n, "max_timesteps": n + 1,
                }
            )  # fmt: skip
    return rows


def write_homogenised(path: Path, rows: list[dict[str, Any]] | None = None, drop: str = "") -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    rows = homogenised_rows() if rows is None else rows
    kept = [{k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in row.items() if k != drop} for row in rows]
    parquet.write_table(pa.Table.from_pylist(kept), path)
    return rows


# Connectomes


EDGES = [
    ("ADAL", "AVAL", "chemical", 3), ("AVAL", "AS01", "chemical", 2), ("AVAL", "AVAL", "chemical", 1),
    ("ADAL", "AVAL", "electrical", 4), ("AVAR", "AVAR", "electrical", 1), ("AVAL", "BWM-DL01", "chemical", 5),
    ("VD10", "ADAL", "chemical", 7),
]  # fmt: skip


def write_edges(path: Path, rows: list[tuple[Any, ...]] | None = None, mark: str = "\t") -> None:
    lines = [("pre", "post", "type", "synapses"), *(EDGES if rows is None else rows)]
    path.write_text("".join(mark.join(str(x) for x in line) + "\n" for line in lines))


def write_cook(path: Path, *, gap: np.ndarray | None = None) -> np.ndarray:
    from openpyxl import Workbook

    names = ["ADAL", "AVAL", "AS01", "pm1"]
    chem = np.array([[0, 3, 0, 1], [0, 1, 2, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    gap = np.array([[0, 4, 0, 0], [4, 0, 0, 0], [0, 0, 2, 0], [0, 0, 0, 0]]) if gap is None else gap
    book = Workbook()
    book.active.title = "TITLE AND LEGEND"
    for title, values in (("hermaphrodite chemical", chem), ("hermaphrodite gap jn symmetric", gap)):
        sheet = book.create_sheet(title)
        sheet.append([None, None, None, "HEAD"])
        sheet.append([None])
        sheet.append([None, None, None, *names])
        for name, row in zip(names, values, strict=True):
            sheet.append([None, None, name, *[int(v) if v else None for v in row]])
    book.save(path)
    return chem


def write_randi(path: Path) -> tuple[np.ndarray, np.ndarray]:
    from openpyxl import Workbook

    names = ["ADAL", "AVAL", "AWCON"]
    amplitude = np.array([[0.1, 0.5, 0.2], [np.nan, 0.3, 0.1], [0.2, 0.1, 0.4]])
    q = np.array([[0.5, 0.01, 0.9], [np.nan, 0.04, 0.2], [0.3, 0.2, 0.1]])
    book = Workbook()
    book.active.title = "amplitude"
    for sheet, values in ((book.active, amplitude), (book.create_sheet("q"), q)):
        sheet.append([None, *names])
        for name, row in zip(names, values, strict=True):
            sheet.append([name, *[None if np.isnan(v) else float(v) for v in row]])
    book.save(path)
    return amplitude, q


def write_cect(path: Path) -> dict[str, np.ndarray]:
    """Write what cect keeps in its cache."""
    made = {"Generic_CS": np.array([[0, 2, 0], [1, 0, 0], [0, 0, 0.0]]), "Generic_GJ": np.diag([0, 1.0, 0])}
    content = {
        "nodes": ["AVAL", "VD10", "MDL05"],
        "connections": {k: v.tolist() for k, v in made.items()},
        "summary": "",
    }
    path.write_text(json.dumps(content))
    return made


def write_atlas(path: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    made = {"dFF": rng.random((4, 4)), "q": rng.random((4, 4)), "occ1": rng.integers(0, 3, (4, 4))}
    made["q"][made["occ1"] == 0] = np.nan
    with h5py.File(path, "w") as file:
        file["neuron_ids"] = np.asarray([b"ADAL", b"AVAL", b"AWCOF", b"AWCON"], dtype="S5")
        for strain in ("wt", "unc31"):
            for name, values in made.items():
                file[f"{strain}/{name}"] = values
    return made


def write_xls(path: Path, rows: list[list[Any]], sheet: str = "NeuronConnect.csv") -> None:
    """Write text and numbers as a BIFF8 workbook in a compound file, the least that a reader of XLS accepts."""

    def record(kind: int, data: bytes) -> bytes:
        return struct.pack("<HH", kind, len(data)) + data

    body = record(0x809, struct.pack("<HHHHII", 0x600, 0x10, 0, 0, 0, 0))
    for r, row in enumerate(rows):
        for c, value in enumerate(row):
            if isinstance(value, str):
                text = value.encode("latin1")
                body += record(0x204, struct.pack("<HHHHB", r, c, 0, len(text), 0) + text)
            else:
                body += record(0x203, struct.pack("<HHHd", r, c, 0, float(value)))
    body += record(0xA, b"")
    start = record(0x809, struct.pack("<HHHHII", 0x600, 0x5, 0, 0, 0, 0))
    name = sheet.encode("latin1")
    place = len(start) + 4 + 8 + len(name) + 4
    start += record(0x85, struct.pack("<IBBBB", place, 0, 0, len(name), 0) + name) + record(0xA, b"")
    stream = (start + body).ljust(4096, b"\x00")
    stream += b"\x00" * (-len(stream) % 512)
    sectors = len(stream) // 512
    table = [0xFFFFFFFD, 0xFFFFFFFE, *range(3, 2 + sectors), 0xFFFFFFFE]
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH", 0x3E, 3, 0xFFFE, 9, 6) + bytes(6)
    header += struct.pack("<IIIIIIIII", 0, 1, 1, 0, 4096, 0xFFFFFFFE, 0, 0xFFFFFFFE, 0) + struct.pack("<I", 0)
    header += b"\xff" * (512 - len(header))
    fat = b"".join(struct.pack("<I", x) for x in table).ljust(512, b"\xff")
    folder = _entry("Root Entry", 5, 1, 0xFFFFFFFE, 0) + _entry("Workbook", 2, 0xFFFFFFFF, 2, len(stream))
    path.write_bytes(header + fat + folder.ljust(512, b"\x00") + stream)


def _entry(name: str, kind: int, child: int, first: int, size: int) -> bytes:
    text = (name + "\x00").encode("utf-16-le")
    made = text.ljust(64, b"\x00") + struct.pack("<HBBIII", len(text), kind, 1, 0xFFFFFFFF, 0xFFFFFFFF, child)
    return made.ljust(116, b"\x00") + struct.pack("<III", first, size, 0)
