"""MATLAB files of version 5 to 7, read with every size checked: SciPy's reader can crash the process on damaged ones.

The format: elements of a type, a number of bytes and the bytes, padded to 8; an array is an element of elements (flags,
sizes, name, content); from version 7 on each variable is one element compressed by zlib.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

HEADER = 128
MOST = 1 << 32  # bytes that a variable may unpack to
SHRUNK = 1100  # zlib shrinks 1032-fold at most
DEPTH = 24
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXT = {16: "utf-8", 17: "utf-16", 18: "utf-32"}
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE = 1, 2, 3, 4, 5
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_COMPLEX, _LOGICAL = 0x08, 0x02


class Piece(NamedTuple):
    """Type and bytes of one element."""

    kind: int
    body: memoryview


def is_mat5(path: Path) -> bool:
    """Tell whether the header of a file says version 5, in either byte order."""
    with open(path, "rb") as stream:
        head = stream.read(HEADER)
    return len(head) == HEADER and head[124:128] in (b"\x00\x01IM", b"\x01\x00MI")


class Reader:
    """Variables of one file; ``budget`` limits how many values of cells and structs are made."""

    def __init__(self, path: Path, budget: Iterator[int]) -> None:
        self.data = Path(path).read_bytes()
        if len(self.data) < HEADER:
            raise ValueError(f"{len(self.data)} bytes")
        self.order = "<" if self.data[126:128] == b"IM" else ">"
        self.budget = budget

    def variables(self) -> Iterator[tuple[str, tuple[int, ...], str, Piece]]:
        """Yield name, sizes, class and content of each variable without building it."""
        for piece in self._pieces(memoryview(self.data)[HEADER:]):
            if piece.kind == _COMPRESSED:
                opened = memoryview(self._unpacked(piece.body))
                piece = next(self._pieces(opened))
            if piece.kind != _MATRIX:
                raise ValueError(f"an element of type {piece.kind} where a variable is expected")
            if len(piece.body) == 0:
                continue
            flags, shape, name, _ = self._opening(piece.body)
            if name:  # MATLAB keeps its own data under no name
                yield name, shape, _name_of(flags & 0xFF), piece

    def _unpacked(self, body: memoryview) -> bytes:
        """Unpack a variable, no more of it than zlib could have shrunk to these bytes."""
        tool = zlib.decompressobj()
        found = tool.decompress(body, min(MOST, SHRUNK * len(body) + 1024))
        if not tool.eof:
            raise ValueError("a variable that is cut off, or unpacks to too much")
        return found

    def _pieces(self, data: memoryview) -> Iterator[Piece]:
        """Yield the elements one after the other."""
        at = 0
        while len(data) - at >= 8:
            word, size = (int(x) for x in np.frombuffer(data[at : at + 8], f"{self.order}u4"))
            if word >> 16:  # small: type and size share four bytes
                kind, size, start, step = word & 0xFFFF, word >> 16, at + 4, 8
                if size > 4:
                    raise ValueError(f"a small element of {size} bytes")
            else:
                kind, start = word, at + 8
                step = 8 + size + (-size % 8 if kind != _COMPRESSED else 0)
            if start + size > len(data):
                raise ValueError(f"an element of {size} bytes where {len(data) - start} are left")
            yield Piece(kind, data[start : start + size])
            at += step
        if len(data) - at > 0 and any(data[at:]):
            raise ValueError(f"{len(data) - at} bytes behind the last element")

    def _opening(self, body: memoryview) -> tuple[int, tuple[int, ...], str, list[Piece]]:
        """Return flags, sizes, name and the other elements of an array."""
        parts = list(self._pieces(body))
        if len(parts) < 3 or parts[0].kind != 6 or len(parts[0].body) != 8:
            raise ValueError("an array without flags, sizes and name")
        flags = int(np.frombuffer(parts[0].body, f"{self.order}u4")[0])
        if flags & 0xFF in (16, 17):
            raise ValueError("an object of a class; save struct(object) from MATLAB instead")
        if parts[1].kind != 5 or len(parts[1].body) % 4 or parts[2].kind != 1:
            raise ValueError("an array whose sizes or name are no integers")
        shape = tuple(int(n) for n in np.frombuffer(parts[1].body, f"{self.order}i4"))
        if len(shape) < 2 or len(shape) > 32 or min(shape) < 0:
            raise ValueError(f"an array of sizes {shape}")
        return flags, shape, bytes(parts[2].body).rstrip(b"\0").decode("ascii"), parts[3:]

    def value(self, piece: Piece, depth: int = 0) -> Any:
        """Build the value of an array: ndarray, str, list (cell), dict (struct) or sparse matrix."""
        if depth > DEPTH or next(self.budget, None) is None:
            raise ValueError(f"cells and structs nested over {DEPTH} deep or too many of them")
        if piece.kind != _MATRIX:
            raise ValueError(f"an element of type {piece.kind} where an array is expected")
        if len(piece.body) == 0:
            return np.zeros((0, 0))
        flags, shape, _, parts = self._opening(piece.body)
        kind, count = flags & 0xFF, math.prod(shape)
        if kind == _CELL:
            return [self.value(p, depth + 1) for p in _counted(parts, count, "a cell array")]
        if kind in (_STRUCT, _OBJECT):
            return self._struct(kind, parts, count, depth)
        if kind == _CHAR:
            return self._text(parts, shape)
        if kind == _SPARSE:
            return self._sparse(flags, shape, parts)
        if kind not in _CLASSES:
            raise ValueError(f"an array of class {kind}")
        dtype = np.dtype(bool) if flags >> 8 & _LOGICAL else np.dtype(_CLASSES[kind])
        return self._values(flags, parts, count, dtype).reshape(shape, order="F")

    def _values(self, flags: int, parts: list[Piece], count: int, dtype: np.dtype) -> np.ndarray:
        """Return ``count`` numbers, the imaginary parts included."""
        wanted = 2 if flags >> 8 & _COMPLEX else 1
        found = [self._numbers(p, count) for p in _counted(parts, wanted, "numbers")]
        return found[0].astype(dtype) if wanted == 1 else found[0] + 1j * found[1]

    def _numbers(self, piece: Piece, count: int | None) -> np.ndarray:
        if piece.kind not in _NUMBERS:
            raise ValueError(f"an element of type {piece.kind} where numbers are expected")
        dtype = np.dtype(_NUMBERS[piece.kind]).newbyteorder(self.order)  # type: ignore[arg-type]
        if len(piece.body) % dtype.itemsize or count not in (None, len(piece.body) // dtype.itemsize):
            raise ValueError(f"{len(piece.body)} bytes for {count} numbers of {dtype.itemsize} bytes")
        return np.frombuffer(piece.body, dtype)

    def _struct(self, kind: int, parts: list[Piece], count: int, depth: int) -> Any:
        """Return a struct as a dict, an array of structs as a list of them."""
        if kind == _OBJECT:
            parts = parts[1:]  # the name of the class
        if len(parts) < 2:
            raise ValueError("a struct without names of fields")
        length = self._numbers(parts[0], 1)[0]
        raw = bytes(parts[1].body)
        if not 0 < length <= 256 or len(raw) % length:
            raise ValueError("a struct with damaged names of fields")
        names = [raw[k : k + length].split(b"\0", 1)[0].decode("ascii") for k in range(0, len(raw), int(length))]
        if len(set(names)) != len(names):
            raise ValueError("a struct with a field twice")
        items = _counted(parts[2:], count * len(names), "a struct")
        values = [self.value(p, depth + 1) for p in items]
        rows = [dict(zip(names, values[k * len(names) : (k + 1) * len(names)], strict=True)) for k in range(count)]
        return rows[0] if count == 1 else rows

    def _text(self, parts: list[Piece], shape: tuple[int, ...]) -> Any:
        """Return a text, or a list of one for each row."""
        count = math.prod(shape)
        if count == 0:
            return ""
        (piece,) = _counted(parts, 1, "a text")
        if piece.kind in _TEXT:
            coding = _TEXT[piece.kind] + ("" if piece.kind == 16 else "-le" if self.order == "<" else "-be")
            letters = list(bytes(piece.body).decode(coding))
        else:
            letters = [chr(int(code)) for code in self._numbers(piece, None)]
        if len(letters) != count or len(shape) != 2:
            raise ValueError(f"{len(letters)} letters for a text of sizes {shape}")
        lines = ["".join(letters[row :: shape[0]]) for row in range(shape[0])]
        return lines[0] if len(lines) == 1 else lines

    def _sparse(self, flags: int, shape: tuple[int, ...], parts: list[Piece]) -> Any:
        from scipy.sparse import csc_matrix

        if len(parts) < 3 or len(shape) != 2:
            raise ValueError("a sparse matrix without rows, columns and numbers")
        rows, ends = (self._numbers(p, None).astype(np.int64) for p in parts[:2])
        n = int(ends[-1]) if len(ends) == shape[1] + 1 else -1
        if not 0 <= n <= len(rows) or (n and not 0 <= rows[:n].min() <= rows[:n].max() < shape[0]):
            raise ValueError(f"a sparse matrix {shape} with entries outside")
        values = self._values(flags, parts[2:], len(self._numbers(parts[2], None)), np.dtype("f8"))
        if len(values) < n:
            raise ValueError(f"a sparse matrix of {n} entries with {len(values)} numbers")
        matrix = csc_matrix((values[:n], rows[:n], ends), shape=shape)
        matrix.check_format(full_check=True)
        return matrix


def _counted(parts: list[Piece], count: int, what: str) -> list[Piece]:
    """Return the elements after checking how many there are."""
    if len(parts) != count:
        raise ValueError(f"{what} of {count} with {len(parts)} elements")
    return parts


def _name_of(kind: int) -> str:
    """Return the word of MATLAB for a class."""
    words = {_CELL: "cell", _STRUCT: "struct", _OBJECT: "object", _CHAR: "char", _SPARSE: "sparse"}
    return words.get(kind, "numeric")
