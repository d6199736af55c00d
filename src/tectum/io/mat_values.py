"""Values of MATLAB files, v4 to v7.3, as plain Python: numbers, text, lists for cells and dicts for structs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import InputError, LoadError, explain, nearest
from tectum.core.lazy import LazyArray

from .files import reading
from .hdf5 import attribute, inside, opened, source, whole
from .mat5 import DEPTH, Reader, is_mat5
from .signature import is_hdf5
from .sparse import by_columns

MOST = 2_000_000  # values of cells and structs
LARGE = 1 << 20  # numbers; larger arrays of v7.3 files stay on disk


def names(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return shape and MATLAB class of each variable of a file without reading it."""
    path = Path(path)
    with reading(path, "a MATLAB file"):
        if is_hdf5(path):
            with opened(path, check=True) as file:
                return {
                    name: (
                        tuple(reversed(getattr(file[name], "shape", ()))),
                        str(attribute(file[name], "MATLAB_class", "struct")),
                    )
                    for name in file
                    if not name.startswith("#")
                }
        if is_mat5(path):
            return {name: (shape, kind) for name, shape, kind in Reader(path, iter(range(MOST))).names()}
        from scipy.io import whosmat

        return {name: (tuple(shape), kind) for name, shape, kind in whosmat(path)}


def load(path: Path, wanted: Sequence[str] | None = None) -> dict[str, Any]:
    """Read variables of a MATLAB file.

    Parameters
    ----------
    path : Path
        The file.
    wanted : sequence of str, optional
        Names of variables; default all.

    Returns
    -------
    dict
        Arrays of numbers with the axes that MATLAB shows (lazy, :class:`LazyArray`, where a v7.3 file holds over a
        million numbers), ``str``, ``list`` for cells in the order of MATLAB, ``dict`` for structs, list of dict for
        arrays of structs, sparse matrices of SciPy.

    Raises
    ------
    LoadError
        If the file is damaged, or a variable is an object of a class.
    """
    path = Path(path)
    with reading(path, "a MATLAB file"):
        found = names(path)
        missing = [name for name in wanted or [] if name not in found]
        if missing:
            fix = nearest(missing[0], found)
            raise InputError(
                explain("variable", expected=f"one of {sorted(found)[:12]}", got=repr(missing[0]), fix=fix)
            )
        chosen = list(found) if wanted is None else wanted
        if is_hdf5(path):
            with opened(path) as file:
                budget = iter(range(MOST))
                return {name: _stored(path, inside(file, name), 0, budget) for name in chosen}
        if is_mat5(path):
            reader = Reader(path, iter(range(MOST)))
            made = {name: reader.value(piece) for name, _, _, piece in reader.variables(chosen)}
            return {name: made[name] for name in chosen}
        from scipy.io import loadmat

        content = loadmat(path, variable_names=chosen, chars_as_strings=True)  # version 4: matrices only
        return {name: _plain(content[name]) for name in chosen if name in content}


def _spend(budget: Iterator[int], depth: int) -> None:
    if depth > DEPTH or next(budget, None) is None:
        raise ValueError(f"cells and structs nested over {DEPTH} deep or over {MOST} of them")


def _plain(value: Any) -> Any:
    """Convert what SciPy returns of version 4."""
    from scipy.sparse import issparse

    if issparse(value):
        return value.tocsc()
    array = np.asarray(value)
    if array.dtype.kind in "US":
        lines = [str(line) for line in array.ravel()]
        return lines[0] if len(lines) == 1 else lines or ""
    return array


def _stored(path: Path, node: Any, depth: int, budget: Iterator[int]) -> Any:
    """Convert what a v7.3 file holds."""
    import h5py

    _spend(budget, depth)
    if node is None:
        raise ValueError("a reference to nothing")
    kind = str(attribute(node, "MATLAB_class", ""))
    if attribute(node, "MATLAB_object_decode") is not None and kind not in ("", "char", "cell", "struct", "logical"):
        raise ValueError(f"an object of class {kind}; save struct(object) from MATLAB instead")
    if isinstance(node, h5py.Group):
        if "MATLAB_sparse" in node.attrs:
            return _sparse(node)
        return _struct(path, node, depth, budget)
    if attribute(node, "MATLAB_empty"):
        return {"char": "", "cell": [], "struct": []}.get(kind, np.zeros((0, 0)))
    if h5py.check_ref_dtype(node.dtype) is h5py.Reference:
        return [_stored(path, node.file[ref] if ref else None, depth + 1, budget) for ref in whole(node).ravel()]
    if kind == "char":
        codes = np.atleast_2d(whole(node)).T
        lines = ["".join(map(chr, row)) for row in codes.astype(np.int64).clip(0, 0x10FFFF)]
        return lines[0] if len(lines) == 1 else lines
    if kind == "logical":
        return whole(node).T.astype(bool)
    if node.size >= LARGE and node.dtype.kind in "biuf":
        import torch

        dtype = torch.float64 if node.dtype.itemsize > 4 else torch.float32
        return LazyArray(source(path, node), order=tuple(reversed(range(len(node.shape)))), dtype=dtype)
    found = whole(node)
    return found if found.dtype.kind == "U" else found.T


def _struct(path: Path, group: Any, depth: int, budget: Iterator[int]) -> Any:
    """Return a struct, or a list of them where every field refers to one value each."""
    import h5py

    fields = {name: inside(group, name) for name in group}
    refers = [
        isinstance(node, h5py.Dataset)
        and h5py.check_ref_dtype(node.dtype) is h5py.Reference
        and "MATLAB_class" not in node.attrs
        for node in fields.values()
    ]
    made = {name: _stored(path, node, depth + 1, budget) for name, node in fields.items()}
    if not fields or not all(refers):
        return made
    lengths = {len(column) for column in made.values()}
    if len(lengths) != 1:
        raise ValueError(f"an array of structs whose fields have {sorted(lengths)} entries")
    return [dict(zip(made, row, strict=True)) for row in zip(*made.values(), strict=True)]


def _sparse(group: Any) -> Any:
    """Return a sparse matrix of a v7.3 file."""
    values = whole(group["data"]) if "data" in group else np.zeros(0)
    rows = whole(group["ir"]) if "ir" in group else np.zeros(0, np.int64)
    return by_columns(values, rows, whole(group["jc"]), int(group.attrs["MATLAB_sparse"]))


_STEP = re.compile(r"\.?([A-Za-z]\w*)|[{(](\d+|:)[)}]")


def parse(text: str) -> list[str | int | None]:
    """Split a path as MATLAB writes it: fields, 1-based positions, ``:`` for all (None).

    Examples
    --------
    >>> parse("cells{2}.units(:).time")
    ['cells', 2, 'units', None, 'time']
    """
    steps: list[str | int | None] = []
    place = 0
    while place < len(text):
        match = _STEP.match(text, place)
        if match is None or (not steps and match[1] is None):
            fix = "write it as in MATLAB: name, name.field, name{2}.field or name{:}.field"
            raise InputError(explain("schema", expected="the path of a variable", got=repr(text), fix=fix))
        steps.append(match[1] if match[1] else None if match[2] == ":" else int(match[2]))
        place = match.end()
    if not steps:
        raise InputError(explain("schema", expected="the path of a variable", got=repr(text)))
    return steps


def find(content: dict[str, Any], text: str) -> Any:
    """Return what a path leads to; a field of a list of structs, or ``{:}``, gives a list.

    Examples
    --------
    >>> find({"cells": [{"t": 1}, {"t": 2}]}, "cells.t"), find({"a": [[5, 6], [7]]}, "a{:}{:}")
    ([1, 2], [5, 6, 7])
    """
    value: Any = content
    spread = False
    for step in parse(text):
        if step is None:
            value = [item for part in value for item in _as_list(part, text)] if spread else _as_list(value, text)
            spread = True
        elif spread:
            value = [_enter(item, step, text) for item in value]
        else:
            value = _enter(value, step, text)
            spread = isinstance(step, str) and isinstance(value, _Many)
            value = list(value) if spread else value
    return value


class _Many(list[Any]):
    """One value for each struct of an array."""


def _as_list(value: Any, text: str) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, dict):
        return [value]
    if isinstance(value, np.ndarray) and value.size == 0:
        return []
    raise InputError(explain(text, expected="a cell array where {:} stands", got=type(value).__name__))


def _enter(value: Any, step: str | int, text: str) -> Any:
    """Go one step into a value."""
    if isinstance(step, int):
        items = _as_list(value, text)
        if not 1 <= step <= len(items):
            raise InputError(explain(text, expected=f"a position from 1 to {len(items)}", got=str(step)))
        return items[step - 1]
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return _Many(_enter(item, step, text) for item in value)
    if not isinstance(value, dict) or step not in value:
        known = sorted(value) if isinstance(value, dict) else []
        got = repr(step) if isinstance(value, dict) else f"a {type(value).__name__} before {step!r}"
        raise InputError(explain(text, expected=f"a field among {known[:12]}", got=got, fix=nearest(str(step), known)))
    return value[step]


def numbers(value: Any, where: str) -> np.ndarray:
    """Return an array of numbers in memory.

    Raises
    ------
    LoadError
        If it is text, a cell or a struct.
    """
    from scipy.sparse import issparse

    if isinstance(value, LazyArray):
        return value.load().numpy()
    if issparse(value):
        if np.prod(value.shape, dtype=float) > 1 << 30:
            raise LoadError(explain(where, expected="at most 2**30 numbers", got=f"a sparse matrix {value.shape}"))
        return np.asarray(value.toarray())
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "biuf":
        raise LoadError(explain(where, expected="an array of numbers", got=f"a {type(value).__name__}"))
    return value


def vector(value: Any, where: str) -> np.ndarray:
    """Return a row, a column or nothing as a vector; a list of single numbers is one too."""
    if isinstance(value, list):
        if any(np.size(item) != 1 or not isinstance(item, np.ndarray) for item in value):
            raise LoadError(explain(where, expected="one number an entry", got="cells of other contents"))
        value = np.asarray([numbers(item, where).reshape(-1)[0] for item in value])
    found = numbers(value, where)
    if found.size != max(found.shape, default=1) and found.size:
        raise LoadError(explain(where, expected="a row or a column", got=f"shape {found.shape}"))
    return found.reshape(-1)


def column(value: Any, length: int, where: str) -> np.ndarray | None:
    """Return one number or text an entry, None if the value is of another length or kind."""
    if isinstance(value, str):
        return np.asarray([value]) if length == 1 else None
    if isinstance(value, list):
        if len(value) != length:
            return None
        if all(isinstance(item, str) or np.size(item) == 0 for item in value):
            return np.asarray([item if isinstance(item, str) else "" for item in value], dtype=str)
        single = all(isinstance(item, np.ndarray) and item.size == 1 and item.dtype.kind in "biuf" for item in value)
        return np.asarray([item.reshape(-1)[0] for item in value]) if single else None
    if (
        isinstance(value, np.ndarray)
        and value.dtype.kind in "biuf"
        and value.size == length == max(value.shape, default=0)
    ):
        return value.reshape(-1)
    return None
