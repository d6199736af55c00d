"""What files of connectomes hold: edges by layer, from tables of text, spreadsheets, JSON and HDF5."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import InputError, LoadError, MissingExtraError, explain

from ..delimited import LONGEST
from ..files import UnsafePickleError, reading
from ..hdf5 import opened, whole
from ..signature import HDF5, magic
from .flavell import load_json

Edge = tuple[str, str, float]
CELLS = 1 << 24  # of a spreadsheet that are read


@dataclass(frozen=True)
class Edges:
    """Edges of one connectome as stored, from the first to the second cell.

    Parameters
    ----------
    layers : mapping of str to list of (pre, post, weight)
        Rows in the order of the file.
    listed : tuple of str
        Cells that the file names whether or not they have an edge; empty: those of the edges.
    square : bool
        The file holds matrices, so that both directions of every pair stand in it.
    unit : str
        What a weight is: "synapses", "em_sections", "dF/F", "receptor pairs", "1".
    transmitters : mapping of str to list of edges
        Chemical edges by transmitter, where told.
    missing : mapping of str to list of (pre, post)
        Pairs of listed cells that were not measured.
    notes : tuple of str
        What was assumed.
    """

    layers: dict[str, list[Edge]]
    listed: tuple[str, ...] = ()
    square: bool = False
    unit: str = "1"
    transmitters: dict[str, list[Edge]] = field(default_factory=dict)
    missing: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_edges(path: Path) -> Edges:
    """Read the edges of a connectome in any of the known layouts.

    Raises
    ------
    LoadError
        If the file is damaged or of none of them; pickled formats are refused (:class:`UnsafePickleError`).
    """
    kind = path.suffix.lower()
    if kind in (".pt", ".pth", ".pickle", ".pkl"):
        fix = "export tables or arrays: a pickle runs whatever is in it"
        raise UnsafePickleError(explain(str(path), expected="a table, JSON or HDF5", got=f"a {kind} file", fix=fix))
    readers: dict[str, Callable[[Path], Edges]] = {".json": _json, ".xlsx": _xlsx, ".xls": _xls, ".h5": _hdf5}
    with reading(path, "a connectome"):
        return readers.get(kind, _text)(path)


# Text


def _text(path: Path) -> Edges:
    """Tell the layouts of text apart by the first row."""
    if path.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise LoadError(explain(str(path), expected="csv, tsv, xlsx, xls, json or h5", got=path.suffix or "no suffix"))
    if path.stat().st_size > LONGEST:
        raise LoadError(explain(str(path), expected=f"at most {LONGEST} bytes", got=str(path.stat().st_size)))
    text = path.read_text(encoding="utf-8-sig")
    if "\x00" in text or not text.strip():
        raise ValueError("no rows of text")
    rows = _rows(text)
    first = [cell.lower() for cell in rows[0]]
    if first[0] == "row":
        return _matrix_of_text(rows, path)
    if {"from_neuron", "to_neuron"} <= set(first):
        return _consensus(rows)
    if len(first) in (4, 5) and not ({"pre", "source", "neuron 1", "origin"} & set(first)):
        return _receptors(rows, path)
    return edge_table(rows)


def _rows(text: str) -> list[list[str]]:
    """Split lines at tabs or commas, whichever the first line has, else at blanks."""
    mark = next((m for m in "\t," if m in text.split("\n", 1)[0]), "")
    if not mark:
        return [line.split() for line in text.splitlines() if line.strip()]
    return [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=mark) if any(row)]


_PRE, _POST = ("pre", "source", "neuron 1", "origin"), ("post", "target", "neuron 2")
_WEIGHT, _TYPE = ("synapses", "weight", "nbr", "number of connections"), ("type",)
_KINDS = {
    "chemical": "chemical", "electrical": "gap", "s": "chemical", "sp": "chemical", "ej": "gap", "send": "chemical",
    "gapjunction": "gap", "r": "", "rp": "", "nmj": "", "receive": "",
}  # fmt: skip


def edge_table(rows: Sequence[Sequence[Any]]) -> Edges:
    """Read rows of pre, post, type and number under a header; mirrored and muscle rows (R, Rp, NMJ) are left out."""
    first = [str(cell).strip().lower() for cell in rows[0]]
    places = []
    for names in (_PRE, _POST, _TYPE, _WEIGHT):
        found = [k for k, name in enumerate(first) if name in names]
        if len(found) != 1:
            raise InputError(explain("columns", expected=f"one of {', '.join(names)}", got=", ".join(first[:8])))
        places.append(found[0])
    sent = first.index("neurotransmitter") if "neurotransmitter" in first else None
    layers: dict[str, list[Edge]] = {"chemical": [], "gap": []}
    transmitters: dict[str, list[Edge]] = {}
    for number, row in enumerate(rows[1:], start=2):
        if len(row) < len(first):
            raise InputError(explain(f"row {number}", expected=f"{len(first)} values", got=str(len(row))))
        pre, post, kind, weight = (str(row[k]).strip() for k in places)
        layer = _KINDS.get(kind.lower())
        if layer is None:
            raise InputError(explain(f"row {number}: type", expected=f"one of {', '.join(_KINDS)}", got=repr(kind)))
        if layer:
            edge = (pre, post, _weight(weight, f"row {number}"))
            layers[layer].append(edge)
            if sent is not None and layer == "chemical":
                transmitters.setdefault(str(row[sent]).strip() or "unknown", []).append(edge)
    return Edges(layers, unit="synapses", transmitters=transmitters)


def _weight(value: Any, where: str) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = np.nan
    if not (np.isfinite(found) and found >= 0):
        raise InputError(explain(where, expected="a weight of 0 or more", got=repr(value)))
    return found


def _receptors(rows: list[list[str]], path: Path) -> Edges:
    """Read rows of sender, receiver, transmitter and receptor without a header: a weight counts pairs of the last."""
    found = sorted({tuple(row[:4]) for row in rows if not row[0].startswith("#")})
    if not all(len(row) == 4 and all(row) for row in found) or not found:
        raise InputError(explain("rows", expected="sender, receiver, transmitter, receptor", got=str(rows[0][:5])))
    by_transmitter: dict[str, list[Edge]] = {}
    for pre, post, transmitter, _ in found:
        by_transmitter.setdefault(transmitter, []).append((pre, post, 1.0))
    amines = {"dopamine", "serotonin", "octopamine", "tyramine"}
    name = "monoamine" if {t.lower() for t in by_transmitter} <= amines else "neuropeptide"
    together = [edge for edges in by_transmitter.values() for edge in edges]
    return Edges({name: together}, unit="receptor pairs", transmitters=by_transmitter)


def _matrix_of_text(rows: list[list[str]], path: Path) -> Edges:
    """Read a matrix with names in the first row and column."""
    names, body = rows[0][1:], rows[1:]
    values = np.asarray([[float(cell or 0) for cell in row[1:]] for row in body])
    layer = "monoamine" if "monoamine" in path.name.lower() else "neuropeptide"
    return of_matrix({layer: values}, [row[0] for row in body], names, unit="receptor pairs")


def _consensus(rows: list[list[str]]) -> Edges:
    """Read the consensus of the homogenised connectomes: mean weights over studies of different units."""
    first = [cell.lower() for cell in rows[0]]
    pre, post = first.index("from_neuron"), first.index("to_neuron")
    wanted = {"chemical": "mean_chem_weight", "gap": "mean_gap_weight", "functional": "functional_weight"}
    layers = {
        layer: [(row[pre], row[post], _weight(row[first.index(name)] or 0, name)) for row in rows[1:]]
        for layer, name in wanted.items()
        if name in first
    }
    note = "means over studies that mix counts and EM sections, and over the set of different gap weights"
    return Edges(layers, square=True, unit="mixed", notes=(note,))


def of_matrix(
    layers: dict[str, np.ndarray], rows: Sequence[Any], columns: Sequence[Any], *, unit: str, **more: Any
) -> Edges:
    """Turn matrices with the same names into edges from row to column; NaN was not measured."""
    pre, post = ([str(x).strip() for x in names] for names in (rows, columns))
    edges, missing = {}, {}
    for layer, values in layers.items():
        if values.shape != (len(pre), len(post)):
            got = f"shape {values.shape}"
            raise InputError(explain(layer, expected=f"a matrix {len(pre)} by {len(post)}", got=got))
        place = np.argwhere(np.isfinite(values) & (values != 0))
        edges[layer] = [(pre[i], post[j], float(values[i, j])) for i, j in place]
        missing[layer] = [(pre[i], post[j]) for i, j in np.argwhere(~np.isfinite(values))]
    return Edges(edges, tuple(dict.fromkeys((*pre, *post))), square=True, unit=unit, missing=missing, **more)


# Spreadsheets


def _xlsx(path: Path) -> Edges:
    """Tell the layouts of workbooks apart by their sheets."""
    import warnings

    try:
        from openpyxl import load_workbook
    except ImportError as cause:
        raise _missing("openpyxl") from cause
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of extensions of the format that hold no cells
        book = load_workbook(path, read_only=True, data_only=True)
        try:
            return _sheets({name: _cells(book[name]) for name in _wanted(book.sheetnames)})
        finally:
            book.close()


_COOK = {"chemical": ("hermaphrodite chemical",), "gap": ("hermaphrodite gap jn symmetric", "herm gap jn symmetric")}


def _wanted(names: Sequence[str]) -> list[str]:
    """Return the sheets that are read: those of Cook, else the first two."""
    cook = [name for options in _COOK.values() for name in options if name in names]
    return cook if len(cook) == 2 else list(names)[:2]


def _cells(sheet: Any) -> list[list[Any]]:
    rows: list[list[Any]] = []
    count = 0
    for row in sheet.iter_rows(values_only=True):
        count += len(row)
        if count > CELLS:
            raise ValueError(f"a sheet of more than {CELLS} cells")
        rows.append(list(row))
    return rows


def _sheets(sheets: dict[str, list[list[Any]]]) -> Edges:
    if len(sheets) == 2 and next(iter(sheets)) == _COOK["chemical"][0]:
        return _cook(list(sheets.values()))
    first = next(iter(sheets.values()))
    if first and {"pre", "post"} <= {str(cell).strip().lower() for cell in first[0]}:
        return edge_table([row for row in first if any(cell is not None for cell in row)])
    if len(sheets) == 2:
        return _randi(list(sheets.values()))
    raise InputError(explain("workbook", expected="sheets of a known connectome", got=", ".join(sheets)))


def _cook(sheets: list[list[list[Any]]]) -> Edges:
    """Read the matrices of Cook 2019: names of receivers in row 3, of senders in column 3, numbers from 4 on."""
    parts = []
    for layer, rows in zip(_COOK, sheets, strict=True):
        if len(rows) < 4 or len(rows[2]) < 4:
            raise InputError(explain(layer, expected="names in row 3 and column 3", got=f"{len(rows)} rows"))
        post = [(k, str(name)) for k, name in enumerate(rows[2]) if k >= 3 and name not in (None, "")]
        pre = [(row, str(row[2])) for row in rows[3:] if len(row) > 2 and row[2] not in (None, "")]
        values = np.asarray([[_cell(row, k) for k, _ in post] for row, _ in pre])
        parts.append(of_matrix({layer: values}, [n for _, n in pre], [n for _, n in post], unit="em_sections"))
    layers = {layer: part.layers[layer] for layer, part in zip(_COOK, parts, strict=True)}
    listed = tuple(dict.fromkeys(name for part in parts for name in part.listed))
    return replace(parts[0], layers=layers, listed=listed, missing={})


def _cell(row: list[Any], k: int) -> float:
    value = row[k] if k < len(row) else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else 0.0


def _randi(sheets: list[list[list[Any]]]) -> Edges:
    """Read amplitudes and q values of Randi 2023, names in the first row and column."""
    layers: dict[str, np.ndarray] = {}
    names: list[tuple[list[str], list[str]]] = []
    for layer, rows in zip(("functional", "q"), sheets, strict=True):
        if len(rows) < 2 or len(rows[0]) < 2:
            raise InputError(explain(layer, expected="names in the first row and column", got=f"{len(rows)} rows"))
        columns = [str(cell) for cell in rows[0][1:] if cell is not None]
        body = [row for row in rows[1:] if row[0] is not None]
        numbers = [[_number(row[k + 1] if k + 1 < len(row) else None) for k in range(len(columns))] for row in body]
        layers[layer] = np.asarray(numbers, dtype=np.float64)
        names.append(([str(row[0]) for row in body], columns))
    if names[0] != names[1]:
        raise InputError(explain("sheets", expected="the same neurons in both", got="others in the second"))
    layers["functional"] = np.where(np.isfinite(layers["q"]), layers["functional"], np.nan)
    notes = ("a row is the neuron that was stimulated, a column the one that responded",)
    return of_matrix(layers, *names[0], unit="dF/F", notes=notes)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else float("nan")


def _xls(path: Path) -> Edges:
    """Read the sheets of NeuronConnect.xls and CElegansNeuronTables.xls."""
    try:
        import xlrd
    except ImportError as cause:
        raise _missing("xlrd") from cause
    if magic(path) != b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1":
        raise ValueError("no XLS workbook")
    with open(_nowhere(), "w") as quiet:
        book = xlrd.open_workbook(str(path), on_demand=True, logfile=quiet)
        try:
            name = next((n for n in ("Connectome", "NeuronConnect.csv") if n in book.sheet_names()), None)
            if name is None:
                got = ", ".join(book.sheet_names())
                raise InputError(explain(str(path), expected="a sheet Connectome or NeuronConnect.csv", got=got))
            sheet = book.sheet_by_name(name)
            return edge_table([sheet.row_values(k) for k in range(sheet.nrows)])
        finally:
            book.release_resources()


def _nowhere() -> str:
    import os

    return os.devnull


def _missing(package: str) -> MissingExtraError:
    return MissingExtraError(
        explain("Spreadsheets", expected=package, got="it is not installed", fix="pip install tectum[worm]")
    )


# JSON and HDF5


def _json(path: Path) -> Edges:
    """Read a cached connectome of cect, or the list of synapses of WormWideWeb."""
    content = load_json(path)
    if isinstance(content, list):
        return _synapses(content)
    if not isinstance(content, dict) or not {"nodes", "connections"} <= set(content):
        raise InputError(explain(str(path), expected="nodes and connections", got=str(type(content).__name__)))
    names = [str(x) for x in content["nodes"]]
    layers = {_plain(k): np.asarray(v, dtype=np.float64) for k, v in content["connections"].items()}
    functional = set(layers) == {"functional"}
    return of_matrix(layers, names, names, unit="dF/F" if functional else "1")


def _plain(name: str) -> str:
    """Return our name of a layer of cect."""
    known = {"Generic_CS": "chemical", "Generic_GJ": "gap", "Functional": "functional", "Peptidergic": "neuropeptide"}
    return known.get(name, name)


def _synapses(rows: Iterable[Any]) -> Edges:
    """Read one entry a pair of neurons with the sizes of its contacts; type 0 is chemical, 2 a gap junction."""
    layers: dict[str, list[Edge]] = {"chemical": [], "gap": []}
    for number, row in enumerate(rows):
        kind = {0: "chemical", 2: "gap"}.get(row["typ"])
        if kind is None:
            raise InputError(explain(f"entry {number}: typ", expected="0 or 2", got=repr(row["typ"])))
        total = sum(_weight(x, f"entry {number}: syn") for x in row["syn"])
        layers[kind].append((str(row["pre"]), str(row["post"]), total))
    return Edges(layers, unit="synapses")


def _hdf5(path: Path) -> Edges:
    """Read the functional atlas or the default connectome of wormneuroatlas, in which a column is the sender."""
    if magic(path) != HDF5:
        raise ValueError("no HDF5 file")
    with opened(path, "a connectome in HDF5", check=True) as file:
        if {"chem", "gap"} <= set(file):
            layers = {"chemical": whole(file["chem"]).T, "gap": whole(file["gap"]).T}
            names = _ids(path)
            return of_matrix(layers, names, names, unit="synapses", notes=("a mean over several studies",))
        raise InputError(explain(str(path), expected="chem and gap; for the atlas use read_atlas", got=", ".join(file)))


def _ids(path: Path) -> list[str]:
    """Return the neurons of wormneuroatlas, listed beside its files."""
    source = path.parent / "neuron_ids.txt"
    if not source.is_file():
        raise LoadError(explain(str(source), expected="an existing file: it names the neurons", got="none there"))
    lines = [line.split() for line in source.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [words[-1] for words in lines]


def read_atlas(path: Path, strain: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read the signal-propagation atlas: matrices from the stimulated (row) to the responding neuron, and names.

    Parameters
    ----------
    path : Path
        ``funatlas.h5`` of wormneuroatlas.
    strain : {"wt", "unc31"}
        Animals.

    Returns
    -------
    layers, names
        "functional" (mean dF/F), "q" (of a response; NaN not tested), "n" (times probed).
    """
    with opened(path, "the atlas of wormneuroatlas", check=True) as file:
        if strain not in file or "neuron_ids" not in file:
            raise InputError(explain(str(path), expected=f"neuron_ids and {strain}", got=", ".join(file)))
        names = [x.decode() if isinstance(x, bytes) else str(x) for x in whole(file["neuron_ids"])]
        group = file[strain]
        layers = {
            ours: whole(group[k]).T.astype(float) for ours, k in (("functional", "dFF"), ("q", "q"), ("n", "occ1"))
        }
    if any(x.shape != (len(names),) * 2 for x in layers.values()):
        got = ", ".join(f"{k} {x.shape}" for k, x in layers.items())
        raise InputError(explain(str(path), expected=f"matrices of {len(names)} neurons", got=got))
    return layers, names
