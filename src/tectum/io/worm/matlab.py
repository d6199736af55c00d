"""MATLAB files of *C. elegans* activity, v5 and v7.3: structures as dicts, cells as arrays of objects."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import InputError, TectumWarning, explain
from tectum.core.intervals import Intervals

from ..files import reading
from ..hdf5 import opened, whole
from ..mat5 import Piece, Reader
from ..signature import is_hdf5
from .animal import Animal, Options, table, vector

STIMULUS = 10.0  # s, Yemini et al. 2021
DEPTH = 8  # of cells in cells in structures
NODES = 200_000  # arrays of a file that are read
LARGEST = 1 << 30  # bytes of one variable
LEAD = 4  # frames of zeros before every recording of Yemini et al. 2021


def load_mat(path: Path, fields: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Read the variables of a MATLAB file of either kind.

    Parameters
    ----------
    path : Path
        v5 or v7.3 (HDF5).
    fields : tuple of str, optional
        Of v7.3 files only variables, and fields of structures, of these names are read.

    Returns
    -------
    dict
        Structures are dicts, cells (and fields of arrays of structures) object arrays of MATLAB's shape, text is
        ``str``, numbers are arrays of MATLAB's shape.

    Raises
    ------
    LoadError
        If the file is damaged.
    """
    if is_hdf5(path):
        with opened(path, "a MATLAB v7.3 file", check=True) as file:
            tree, groups = _Tree(file, fields), {name for name in file if hasattr(file[name], "keys")}
            names = [n for n in file if n[0] != "#" and (fields is None or n in fields or n in groups)]
            return {name: tree.value(file[name], 0) for name in names}
    with reading(path, "a MATLAB v5 file"):
        reader = Shaped(path, iter(range(NODES)))
        return {name: reader.value(piece) for name, _, _, piece in reader.variables()}


class Shaped(Reader):
    """Reads v5 files in the form of :func:`load_mat`; functions, objects of classes and sparse arrays are None."""

    most = LARGEST
    deepest = DEPTH

    def cells(self, values: list[Any], shape: tuple[int, ...]) -> np.ndarray:
        """Return cells as an array of objects."""
        made = np.empty(len(values), dtype=object)
        for place, value in enumerate(values):
            made[place] = value
        return made.reshape(shape, order="F")

    def structs(self, names: list[str], values: list[Any], shape: tuple[int, ...]) -> dict[str, Any]:
        """Return a structure as a dict, an array of them as a dict of object arrays."""
        columns = {name: values[k :: len(names)] for k, name in enumerate(names)}
        if math.prod(shape) == 1:
            return {name: column[0] for name, column in columns.items()}
        return {name: self.cells(column, shape) for name, column in columns.items()}

    def text(self, lines: list[str]) -> str:
        """Return text, one line a row."""
        return "\n".join(lines)

    def foreign(self, piece: Piece, depth: int) -> None:
        """Leave a function or an object out."""

    def sparse(self, flags: int, shape: tuple[int, ...], parts: list[Piece]) -> None:
        """Leave a sparse array out."""


class _Tree:
    """Follows the references of one v7.3 file, not without end."""

    def __init__(self, file: Any, fields: tuple[str, ...] | None = None) -> None:
        self.file = file
        self.fields = fields
        self.seen = 0

    def value(self, node: Any, depth: int) -> Any:
        """Return what a group or dataset stands for."""
        import h5py

        self.seen += 1
        if depth > DEPTH or self.seen > NODES:
            raise ValueError(f"more than {NODES} values, or nested deeper than {DEPTH}")
        if isinstance(node, h5py.Group):
            kept = [n for n in node if depth > 0 or self.fields is None or n in self.fields]
            return {name: self.value(node[name], depth + 1) for name in kept}
        kind = node.attrs.get("MATLAB_class", b"")
        if "MATLAB_empty" in node.attrs:
            return "" if kind == b"char" else np.empty((0, 0), object if kind == b"cell" else float)
        if h5py.check_ref_dtype(node.dtype) is h5py.Reference:
            return self.cell(node, depth)
        found = whole(node)
        if kind == b"char":
            return _letters(found.T)
        return found.T.astype(bool) if kind == b"logical" else found.T

    def cell(self, node: Any, depth: int) -> np.ndarray:
        """Return a cell array as objects in MATLAB's shape."""
        references = whole(node)
        made = np.empty(references.size, dtype=object)
        for place, reference in enumerate(references.reshape(-1)):
            made[place] = self.value(self.file[reference], depth + 1) if reference else ""
        return made.reshape(references.shape).T


def _letters(codes: np.ndarray) -> str:
    """Return text stored as numbers of letters, row after row."""
    if codes.size > 1 << 16:
        raise ValueError(f"a text of {codes.size} letters")
    return "\n".join("".join(map(chr, row)) for row in np.atleast_2d(codes).tolist()).rstrip("\x00")


def flat(value: Any) -> list[Any]:
    """Return the entries of a cell column by column, as MATLAB counts them; anything else is one entry."""
    return list(value.reshape(-1, order="F")) if isinstance(value, np.ndarray) and value.dtype == object else [value]


def name_of(entry: Any) -> str | None:
    """Return the name in a cell; of several the first that is one."""
    if isinstance(entry, str):
        return entry.strip() or None
    if isinstance(entry, np.ndarray) and entry.dtype == object:
        return next((found for item in flat(entry) if (found := name_of(item))), None)
    return None


def _field(struct: Any, names: tuple[str, ...], where: str) -> tuple[str, Any]:
    """Return the first field there is of several spellings."""
    for name in names:
        if isinstance(struct, dict) and name in struct:
            return name, struct[name]
    got = ", ".join(struct) if isinstance(struct, dict) else type(struct).__name__
    raise InputError(explain(where, expected=f"a field {' or '.join(names)}", got=got or "nothing"))


_IDS = ("IDs", "NeuronNames", "neuron_ID")
_TRACES = ("traces", "deltaFOverF_bc", "traces_bleach_corrected")
_TIMES = ("timeVectorSeconds", "tv", "time_vector")


def read_zimmer(path: Path, options: Options) -> list[Animal]:
    """Read Kato2015, Nichols2017, Skora2018, Kaplan2020 or Uzel2022: a structure of cells, one entry an animal."""
    content = load_mat(path, (*_IDS, *_TRACES, *_TIMES))
    structs = [v for v in content.values() if isinstance(v, dict) and any(k in v for k in _TRACES)]
    struct = structs[0] if len(structs) == 1 else content
    where = f"{path}: {', '.join(content)}"
    (_, ids), (field, traces), (_, clocks) = (_field(struct, names, where) for names in (_IDS, _TRACES, _TIMES))
    many = isinstance(traces, np.ndarray) and traces.dtype == object
    groups = [flat(x) if many else [x] for x in (ids, traces, clocks)]
    if len({len(g) for g in groups}) != 1:
        got = ", ".join(f"{len(g)} of {n}" for g, n in zip(groups, ("names", "traces", "times"), strict=True))
        raise InputError(explain(where, expected="as many entries of each", got=got))
    animals = []
    for k, (names, values, times) in enumerate(zip(*groups, strict=True)):
        animal = f"{path.stem}-{k}"
        animals.append(
            Animal(
                name=animal,
                values=table(values, f"{animal}: {field}"),
                labels=[name_of(entry) for entry in flat(names)],
                times=vector(times, f"{animal}: time"),
                units="dF/F" if field == "deltaFOverF_bc" else "a.u.",
                meta={"condition": path.stem, "field": field, "normalisation": "bleach-corrected"},
                notes=() if field == "deltaFOverF_bc" else (f"the unit of {field} is not told",),
            )
        )
    return animals


def read_yemini(path: Path, options: Options) -> list[Animal]:
    """Read Yemini2021: for each neuron the traces of all animals, those of the left before those of the right."""
    content = load_mat(path)
    fps, files, neurons, is_left, traces = (
        _field(content, (n,), str(path))[1] for n in ("fps", "files", "neurons", "is_L", "norm_traces")
    )
    rate, names = float(vector(fps, "fps")[0]), [name_of(x) or str(k) for k, x in enumerate(flat(files))]
    cells, sides, values = [name_of(x) for x in flat(neurons)], flat(is_left), flat(traces)
    if not len(cells) == len(sides) == len(values):
        got = f"{len(cells)} neurons, {len(sides)} of is_L, {len(values)} of norm_traces"
        raise InputError(explain(str(path), expected="one entry a neuron of each", got=got))
    columns = [_sides(*entry, n_files=len(names)) for entry in zip(cells, sides, values, strict=True)]
    found = []
    for k, name in enumerate(names):
        parts = {label: trace for column in columns for label, trace in column[k] if trace.size}
        lengths = {x.size for x in parts.values()}
        if len(lengths) != 1 or min(lengths) <= LEAD:
            raise InputError(explain(f"{name}: norm_traces", expected="traces of one length", got=f"{sorted(lengths)}"))
        found.append(
            Animal(
                name=name,
                values=np.stack(list(parts.values()), axis=1)[LEAD:],
                labels=list(parts),
                rate=rate,
                t0=LEAD / rate,
                intervals=_told(path, content, k, len(names)),
                meta={"condition": path.stem, "field": "norm_traces"},
                notes=(f"the first {LEAD} frames are zeros and dropped", "the clock starts at the first frame"),
            )
        )
    return found


def _sides(cell: str | None, sides: Any, traces: Any, *, n_files: int) -> list[list[tuple[str, np.ndarray]]]:
    """Return for each animal the label and trace of a neuron, or of the left and right one."""
    left = vector(sides, f"is_L of {cell}") if np.size(sides) else np.empty(0)
    values = [np.asarray(x, dtype=np.float64).reshape(-1) if np.size(x) else np.empty(0) for x in flat(traces)]
    if len(left) != len(values) or len(left) not in (n_files, 2 * n_files):
        expected = f"{n_files} or {2 * n_files} entries for {n_files} files"
        raise InputError(explain(f"norm_traces of {cell}", expected=expected, got=f"{len(values)}, is_L {len(left)}"))
    found: list[list[tuple[str, np.ndarray]]] = [[] for _ in range(n_files)]
    for place, (side, trace) in enumerate(zip(left, values, strict=True)):
        label = f"{cell}" if np.isnan(side) else f"{cell}{'L' if side == 1 else 'R'}"
        found[place % n_files].append((label, trace))
    return found


def _told(path: Path, content: dict[str, Any], animal: int, n_files: int) -> dict[str, Intervals]:
    """Return what was presented to one animal, nothing with a warning where the file tells it in another way."""
    try:
        return _stimuli(content, animal, n_files)
    except (InputError, ValueError) as cause:
        warnings.warn(f"{path}: stimuli left out: {cause}", TectumWarning, stacklevel=2)
        return {}


def _stimuli(content: dict[str, Any], animal: int, n_files: int) -> dict[str, Intervals]:
    """Return what was presented to one animal: names and times are common, or in one row an animal."""
    if "stim_names" not in content or "stim_times" not in content:
        return {}
    names, times = content["stim_names"], content["stim_times"]
    words = [name_of(x) for x in flat(_row(names, animal, n_files))]
    bounds = _row(times, animal, n_files)
    while isinstance(bounds, np.ndarray) and bounds.dtype == object and bounds.size == 1:
        bounds = bounds.reshape(-1)[0]
    array = np.asarray(np.stack([vector(b, "stim_times") for b in flat(bounds)]) if _is_cell(bounds) else bounds, float)
    array = array.reshape(-1, 1) if array.size == len(words) else array
    if array.ndim != 2 or len(array) != len(words) or array.shape[1] not in (1, 2):
        got = f"{len(words)} names, times of shape {array.shape}"
        raise InputError(explain("stim_times", expected="an onset, or onset and end, for each name", got=got))
    stop = array[:, 1] if array.shape[1] == 2 else array[:, 0] + STIMULUS
    pairs = zip(array[:, 0], stop, strict=True)
    return {"stimuli": Intervals.from_pairs(pairs, name=np.asarray([str(w) for w in words]))}


def _is_cell(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype == object


def _row(value: Any, animal: int, n_files: int) -> Any:
    """Return what belongs to one animal of a cell with a row or an entry for each, else what belongs to all."""
    if not _is_cell(value):
        return value
    if value.ndim == 2 and value.shape[0] == n_files and value.shape[1] > 1:
        return value[animal]
    entries = flat(value)
    several = [_is_cell(e) or (np.size(e) > 1 and not isinstance(e, str)) for e in entries]
    return entries[animal] if len(entries) == n_files and any(several) else value


def read_lin(path: Path, options: Options) -> list[Animal]:
    """Read Lin2023: one animal a file, olfactory neurons, those not proofread left out."""
    content = load_mat(path)
    names, flag, clock, traces = (
        _field(content, (n,), str(path))[1] for n in ("proofread_neurons", "use_flag", "times", "corrected_F")
    )
    labels, used = [name_of(x) for x in flat(names)], vector(flag, "use_flag") > 0
    values = table(traces, "corrected_F")
    if not len(labels) == len(used) == len(values):
        got = f"{len(labels)} names, {len(used)} flags, {len(values)} traces"
        raise InputError(explain(str(path), expected="as many names and flags as traces", got=got))
    if not used.any():
        raise InputError(explain(f"{path}: use_flag", expected="a proofread neuron", got="none"))
    times = list(clock.values())[-1] if isinstance(clock, dict) else clock
    base = content.get("F_0")
    columns = {}
    if isinstance(base, np.ndarray) and base.dtype.kind in "iuf" and len(base) == len(used) and base.ndim == 2:
        columns["f0"] = base[used, 0].astype(np.float64)
    return [
        Animal(
            name=path.stem,
            values=values[used].T,
            labels=[label for label, ok in zip(labels, used, strict=True) if ok],
            times=vector(flat(times)[-1], "times"),
            units="F",
            columns=columns,
            meta={"condition": "odour", "field": "corrected_F", "left_out": int((~used).sum())},
            notes=("units without use_flag were left out", "of the fields of times the last is the clock"),
        )
    ]
