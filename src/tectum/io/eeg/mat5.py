"""Is a MATLAB file (level 5) whole? SciPy's reader trusts sizes inside the file, and a damaged one can end the process.

Every element is followed to its end before anything is read, after the published description of the format.
"""

from __future__ import annotations

import math
import mmap
import struct
import zlib
from pathlib import Path

from tectum.core.errors import LoadError, explain

#: Type of stored numbers -> bytes of each.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}
_MATRIX, _COMPRESSED, _UTF8 = 14, 15, 16
_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE = 1, 2, 3, 4, 5
_FOREIGN = (16, 17)
_NUMERIC = range(6, 16)
_DEEPEST, _LIMIT = 64, 1 << 33  # nested elements; bytes that a compressed element may unpack to
_COMPLEX = 0x0800


class _Damage(ValueError):
    """An element contradicts itself or what contains it."""


def check_mat(path: Path) -> None:
    """Follow every element of a MATLAB 5 file; files of version 7.3 are HDF5 and checked by its library."""
    with open(path, "rb") as stream:
        if stream.read(6) != b"MATLAB" or path.stat().st_size < 136:
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as whole, memoryview(whole) as view:
            order = {b"IM": "<", b"MI": ">"}.get(bytes(view[126:128]), "")
            try:
                if not order:
                    raise _Damage("no mark of the byte order")
                _check_elements(view, 128, order)
            except (_Damage, struct.error, zlib.error, UnicodeDecodeError) as cause:
                expected = "a MATLAB file whose elements fit into each other"
                raise LoadError(explain(str(path), expected=expected, got=str(cause), fix="copy it anew")) from None


def _check_elements(view: memoryview, place: int, order: str) -> None:
    """Check the variables of a file one after the other."""
    while place < len(view):
        kind, start, stop, place = _tag(view, place, order, aligned=False)
        if kind == _COMPRESSED:
            unpack = zlib.decompressobj()
            content = unpack.decompress(view[start:stop], _LIMIT)
            if not unpack.eof:
                raise _Damage("a compressed variable without end")
            with memoryview(content) as inner:
                kind, first, last, end = _tag(inner, 0, order)
                if kind != _MATRIX or end < len(inner):
                    raise _Damage("a compressed element that is no variable")
                _check_matrix(inner, first, last, order, 0)
        elif kind == _MATRIX:
            _check_matrix(view, start, stop, order, 0)
        else:
            raise _Damage(f"an element of type {kind} in place of a variable")


def _tag(view: memoryview, place: int, order: str, *, aligned: bool = True) -> tuple[int, int, int, int]:
    """Return type, first and last byte of an element, and where the next begins."""
    kind, size = struct.unpack_from(order + "II", view, place)
    if kind >> 16:  # small: size and type share four bytes, the data follow in the next four
        kind, size, start = kind & 0xFFFF, kind >> 16, place + 4
        if size > 4:
            raise _Damage(f"a small element of {size} bytes at {place}")
        following = place + 8
    else:
        start = place + 8
        following = start + (-(-size // 8) * 8 if aligned or kind != _COMPRESSED else size)
    if start + size > len(view) or (kind not in _SIZES and kind not in (_MATRIX, _COMPRESSED)):
        raise _Damage(f"an element of type {kind} with {size} bytes at {place} of {len(view)}")
    if size % _SIZES.get(kind, 1):
        raise _Damage(f"{size} bytes of numbers of {_SIZES[kind]} bytes at {place}")
    return kind, start, start + size, following


def _check_matrix(view: memoryview, start: int, stop: int, order: str, depth: int) -> None:
    """Check one array: flags, dimensions, name, contents."""
    if depth > _DEEPEST:
        raise _Damage("elements nested too deeply")
    if start == stop:
        return  # an empty matrix
    kind, first, last, place = _tag(view, start, order)
    if kind != 6 or last - first != 8:
        raise _Damage(f"flags of type {kind} at {start}")
    flags = struct.unpack_from(order + "I", view, first)[0]
    group = flags & 0xFF
    if group in _FOREIGN:  # strings, tables and functions of MATLAB: the layout is not published
        _check_foreign(view, place, stop, order, depth)
        return
    kind, first, last, place = _tag(view, place, order)
    dims = struct.unpack_from(f"{order}{(last - first) // 4}i", view, first)
    if kind != 5 or len(dims) < 2 or min(dims) < 0:
        raise _Damage(f"dimensions {dims} of type {kind}")
    kind, first, last, place = _tag(view, place, order)
    if kind not in (1, 2, _UTF8):
        raise _Damage(f"a name of type {kind}")
    end = _check_content(view, place, order, group, dims, bool(flags & _COMPLEX), depth)
    if end > -(-stop // 8) * 8 or end < stop:
        raise _Damage(f"an array that ends at {end} in an element that ends at {stop}")


def _check_content(
    view: memoryview, place: int, order: str, group: int, dims: tuple[int, ...], paired: bool, depth: int
) -> int:
    """Check what an array of a class holds; return where it ends."""
    n = math.prod(dims)
    if group in _NUMERIC or group == _CHAR:
        for _ in range(2 if paired else 1):
            place = _check_numbers(view, place, order, n, text=group == _CHAR)
        return place
    if group == _CELL:
        return _check_members(view, place, order, n, depth)
    if group in (_STRUCT, _OBJECT):
        if group == _OBJECT:
            place = _tag(view, place, order)[3]
        kind, first, last, place = _tag(view, place, order)
        if kind != 5 or last - first != 4:
            raise _Damage(f"a length of field names of type {kind}")
        (length,) = struct.unpack_from(order + "i", view, first)
        kind, first, last, place = _tag(view, place, order)
        if kind not in (1, 2) or length < 1 or (last - first) % length:
            raise _Damage(f"field names of {last - first} bytes, {length} each")
        names = [bytes(view[k : k + length]).split(b"\0")[0] for k in range(first, last, length)]
        if len(set(names)) != len(names) or not all(name.decode("latin-1").isidentifier() for name in names):
            raise _Damage("field names that are none")
        return _check_members(view, place, order, n * len(names), depth)
    if group == _SPARSE:
        return _check_sparse(view, place, order, dims, paired)
    raise _Damage(f"an array of class {group}")


def _check_sparse(view: memoryview, place: int, order: str, dims: tuple[int, ...], paired: bool) -> int:
    """Check rows, ends of columns and values of a sparse matrix."""
    kind, first, last, place = _tag(view, place, order)
    n = (last - first) // 4
    ends = _tag(view, place, order)
    if kind != 5 or ends[0] != 5 or (ends[2] - ends[1]) // 4 != dims[1] + 1:
        raise _Damage("a sparse matrix without ends of its columns")
    stops = struct.unpack_from(f"{order}{dims[1] + 1}i", view, ends[1])
    rows = struct.unpack_from(f"{order}{n}i", view, first)
    if (
        list(stops) != sorted(stops)
        or stops[0] != 0
        or stops[-1] > n
        or (n and not 0 <= min(rows) <= max(rows) < dims[0])
    ):
        raise _Damage("a sparse matrix with entries outside")
    place = ends[3]
    for _ in range(2 if paired else 1):
        kind, first, last, place = _tag(view, place, order)
        if kind not in _SIZES or (last - first) // _SIZES[kind] != stops[-1]:
            raise _Damage("a sparse matrix with other numbers of rows and values")
    return place


def _check_foreign(view: memoryview, place: int, stop: int, order: str, depth: int) -> None:
    """Check that the parts of an object of MATLAB lie inside it."""
    while place < stop:
        kind, first, last, place = _tag(view, place, order)
        if last > stop:
            raise _Damage("a part of an object that leaves it")
        if kind == _MATRIX:
            _check_matrix(view, first, last, order, depth + 1)


def _check_members(view: memoryview, place: int, order: str, n: int, depth: int) -> int:
    """Check the arrays inside a cell or structure."""
    for _ in range(n):
        kind, first, last, place = _tag(view, place, order)
        if kind != _MATRIX:
            raise _Damage(f"a member of type {kind}")
        _check_matrix(view, first, last, order, depth + 1)
    return place


def _check_numbers(view: memoryview, place: int, order: str, n: int, *, text: bool) -> int:
    """Check that numbers or letters are as many as the dimensions say."""
    kind, first, last, place = _tag(view, place, order)
    if kind not in _SIZES:
        raise _Damage(f"numbers of type {kind}")
    found = (last - first) // _SIZES[kind]
    if text and kind == _UTF8:
        found = len(bytes(view[first:last]).decode("utf-8"))
    if found != n:
        raise _Damage(f"{found} values where dimensions say {n}")
    return place
