"""MATLAB files of version 5 to 7, read with every size checked: SciPy's reader can crash the process on damaged ones.

The format: elements of a type, a number of bytes and the bytes, padded to 8; an array is an element of elements (flags,
sizes, name, content); from version 7 on each variable is one element compressed by zlib.
"""

from __future__ import annotations

import itertools
import math
import mmap
import struct
import zlib
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tectum.core.errors import LoadError, explain

from .files import MOST_SHRUNK
from .signature import is_hdf5, magic
from .sparse import by_columns

HEADER = 128
MOST = 1 << 32  # bytes that a variable may unpack to
DEPTH = 24
_HEAD = 512  # bytes that hold flags, sizes and name of a variable
_BARE = 1 << 20  # structs of an array that has no fields
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_LETTERS = {**_NUMBERS, 17: "u2", 18: "u4"}
_UTF8 = 16
_MATRIX, _COMPRESSED = 14, 15
_SIZES = {_MATRIX: 1, _COMPRESSED: 1, _UTF8: 1, **{kind: int(code[1]) for kind, code in _LETTERS.items()}}
_NAMES = (1, 2, _UTF8)  # types of names
_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE = 1, 2, 3, 4, 5
_FOREIGN = (16, 17)  # functions, and objects of classes: strings, tables ...; their layout is not published
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_UNNAMED = (6, 8, 5, 8, 1, 0)  # types and bytes of flags, two sizes and an empty name
_COMPLEX, _LOGICAL = 0x0800, 0x0200


class Piece(NamedTuple):
    """Type and bytes of one element."""

    kind: int
    body: memoryview


def is_mat5(path: Path) -> bool:
    """Tell whether the header of a file says version 5, in either byte order."""
    with open(path, "rb") as stream:
        return _order(stream.read(HEADER)) != ""


def _order(head: Any) -> str:
    """Return the byte order that the header of a file states, "" if it is not of version 5."""
    return {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}.get(bytes(head[124:HEADER]), "")


class Reader:
    """Variables of one file; ``budget`` limits how many values of cells and structs are made.

    What becomes of cells, structs, texts, sparse matrices and objects can be changed in a subclass.
    """

    most = MOST
    deepest = DEPTH

    def __init__(self, path: Path, budget: Iterator[int]) -> None:
        self.data = self._content(Path(path))
        self.order = _order(self.data)
        if not self.order:
            raise ValueError(f"no header of a MATLAB v5 file in {len(self.data)} bytes")
        self.budget = budget
        self._tag, self._usual = struct.Struct(f"{self.order}II"), struct.Struct(f"{self.order}6I2i2I")

    def _content(self, path: Path) -> bytes | mmap.mmap:
        """Return the bytes of a file."""
        return path.read_bytes()

    def names(self) -> Iterator[tuple[str, tuple[int, ...], str]]:
        """Yield name, sizes and class of each variable from its first bytes."""
        yield from (head for head, _ in self._heads())

    def variables(self, wanted: Container[str] | None = None) -> Iterator[tuple[str, tuple[int, ...], str, Piece]]:
        """Yield name, sizes, class and content of each variable, or of those wanted, without building it."""
        for head, piece in self._heads():
            if wanted is None or head[0] in wanted:
                yield *head, self._opened(piece)

    def everything(self) -> Iterator[Piece]:
        """Yield the content of each variable, with what MATLAB keeps for itself under no name."""
        for piece in self._pieces(memoryview(self.data)[HEADER:], tail=True):
            yield self._opened(piece)

    def _heads(self) -> Iterator[tuple[tuple[str, tuple[int, ...], str], Piece]]:
        """Yield name, sizes and class of each variable with its element, as it lies in the file."""
        for piece in self._pieces(memoryview(self.data)[HEADER:], tail=True):
            body = self._first(piece)
            if len(body) == 0:
                continue
            flags, shape, name, _ = self._opening(body)
            if name:
                yield (name, shape, _name_of(flags & 0xFF)), piece

    def _first(self, piece: Piece) -> memoryview:
        """Return the content of a variable; if it is compressed, its first bytes."""
        if piece.kind == _COMPRESSED:
            head = zlib.decompressobj().decompress(piece.body, _HEAD)
            if len(head) < 8 or self._tag.unpack_from(head)[0] != _MATRIX:
                raise ValueError("no variable in a compressed element")
            return memoryview(head)[8:]
        if piece.kind != _MATRIX:
            raise ValueError(f"an element of type {piece.kind} where a variable is expected")
        return piece.body

    def _opened(self, piece: Piece) -> Piece:
        """Unpack a variable, no more of it than zlib could have shrunk to these bytes."""
        if piece.kind == _COMPRESSED:
            tool = zlib.decompressobj()
            found = tool.decompress(piece.body, min(self.most, MOST_SHRUNK * len(piece.body) + 1024))
            if not tool.eof:
                raise ValueError("a variable that is cut off, or unpacks to too much")
            inner = list(self._pieces(memoryview(found)))
            if len(inner) != 1 or inner[0].kind != _MATRIX:
                raise ValueError("no variable in a compressed element")
            return inner[0]
        if piece.kind != _MATRIX:
            raise ValueError(f"an element of type {piece.kind} where a variable is expected")
        return piece

    def _pieces(self, data: memoryview, *, tail: bool = False) -> Iterator[Piece]:
        """Yield the elements one after the other; ``tail`` allows fewer than 8 zeros behind the last."""
        at, stop, unpack = 0, len(data), self._tag.unpack_from
        while stop - at >= 8:
            kind, size = unpack(data, at)
            if kind >> 16:  # small: type and size share four bytes
                kind, size, start, step = kind & 0xFFFF, kind >> 16, at + 4, 8
                if size > 4:
                    raise ValueError(f"an element of {size} bytes in place of 4")
            else:
                start, step = at + 8, 8 + size + (-size % 8 if kind != _COMPRESSED else 0)
            if start + size > stop:
                raise ValueError(f"an element of {size} bytes where {stop - start} are left")
            if kind not in _SIZES or size % _SIZES[kind]:
                raise ValueError(f"an element of type {kind} with {size} bytes")
            yield Piece(kind, data[start : start + size])
            at += step
        if stop - at > 0 and not (tail and not any(data[at:])):
            raise ValueError(f"{stop - at} bytes behind the last element")

    def _opening(self, body: memoryview) -> tuple[int, tuple[int, ...], str, Iterator[Piece]]:
        """Return flags, sizes and name of an array, and its other elements."""
        if len(body) >= self._usual.size:  # nearly all arrays inside others: two sizes, no name
            a, b, flags, _, c, d, m, n, e, f = self._usual.unpack_from(body)
            if (a, b, c, d, e, f) == _UNNAMED and m >= 0 and n >= 0 and flags & 0xFF not in _FOREIGN:
                return flags, (m, n), "", self._pieces(body[self._usual.size :])
        pieces = self._pieces(body)
        first = next(pieces, None)
        if first is None or first.kind != 6 or len(first.body) != 8:
            raise ValueError("an array without flags")
        flags = int(self._tag.unpack(first.body)[0])
        if flags & 0xFF in _FOREIGN:
            named = next((p for p in itertools.islice(pieces, 2) if p.kind == 1), None)
            return flags, (1, 1), _word(named.body) if named else "", pieces
        sizes, name = next(pieces, None), next(pieces, None)
        if sizes is None or name is None or sizes.kind != 5 or name.kind not in _NAMES:
            raise ValueError("an array without sizes and name, or of which they are none")
        shape = struct.unpack(f"{self.order}{len(sizes.body) // 4}i", sizes.body)
        if not 2 <= len(shape) <= 32 or min(shape) < 0:
            raise ValueError(f"an array of sizes {shape[:33]}")
        return flags, shape, _word(name.body), pieces

    def value(self, piece: Piece, depth: int = 0) -> Any:
        """Build the value of an array: ndarray, str, list (cell), dict (struct) or sparse matrix."""
        if depth > self.deepest or next(self.budget, None) is None:
            raise ValueError(f"cells and structs nested over {self.deepest} deep or too many of them")
        if piece.kind != _MATRIX:
            raise ValueError(f"an element of type {piece.kind} where an array is expected")
        if len(piece.body) == 0:
            return np.zeros((0, 0))
        flags, shape, _, pieces = self._opening(piece.body)
        kind, count = flags & 0xFF, math.prod(shape)
        if kind in _FOREIGN:
            return self.foreign(piece, depth)
        parts = list(pieces)
        if kind == _CELL:
            return self.cells([self.value(p, depth + 1) for p in _counted(parts, count, "a cell array")], shape)
        if kind in (_STRUCT, _OBJECT):
            return self._struct(parts[kind == _OBJECT :], shape, depth)  # an object begins with the name of its class
        if kind == _CHAR:
            return self._text(parts, shape)
        if kind == _SPARSE:
            return self.sparse(flags, shape, parts)
        if kind not in _CLASSES:
            raise ValueError(f"an array of class {kind}")
        return self.array(flags, shape, parts)

    def array(self, flags: int, shape: tuple[int, ...], parts: list[Piece]) -> Any:
        """Return numbers in MATLAB's shape."""
        dtype = np.dtype(bool) if flags & _LOGICAL else np.dtype(_CLASSES[flags & 0xFF])
        return self._values(flags, parts, math.prod(shape), dtype).reshape(shape, order="F")

    def cells(self, values: list[Any], shape: tuple[int, ...]) -> Any:
        """Return a cell array, column by column."""
        return values

    def structs(self, names: list[str], values: list[Any], shape: tuple[int, ...]) -> Any:
        """Return a struct as a dict, an array of structs as a list of them; ``values`` go struct by struct."""
        count, step = math.prod(shape), len(names)
        _not_bare(names, count)
        rows = [dict(zip(names, values[k * step : (k + 1) * step], strict=True)) for k in range(count)]
        return rows[0] if count == 1 else rows

    def text(self, lines: list[str]) -> Any:
        """Return a text, or a list of one for each row."""
        return lines[0] if len(lines) == 1 else lines

    def foreign(self, piece: Piece, depth: int) -> Any:
        """Refuse a function, or an object of a class."""
        raise ValueError("an object of a class; save struct(object) from MATLAB instead")

    def sparse(self, flags: int, shape: tuple[int, ...], parts: list[Piece]) -> Any:
        """Return a sparse matrix."""
        if len(parts) < 3 or len(shape) != 2:
            raise ValueError("a sparse matrix without rows, columns and numbers")
        rows, ends = (self._numbers(p, None) for p in parts[:2])
        if len(ends) != shape[1] + 1:
            raise ValueError(f"a sparse matrix {shape} with {len(ends)} ends of columns")
        values = self._values(flags, parts[2:], len(self._numbers(parts[2], None)), np.dtype("f8"))
        return by_columns(values, rows, ends, shape[0])

    def _values(self, flags: int, parts: list[Piece], count: int, dtype: np.dtype) -> np.ndarray:
        """Return ``count`` numbers, the imaginary parts included."""
        wanted = 2 if flags & _COMPLEX else 1
        found = [self._numbers(p, count).astype(dtype) for p in _counted(parts, wanted, "numbers")]
        return found[0] if wanted == 1 else found[0] + 1j * found[1]

    def _numbers(self, piece: Piece, count: int | None, types: dict[int, str] = _NUMBERS) -> np.ndarray:
        """Return the numbers of an element, ``count`` of them if that is known."""
        _sized(piece, count, types)
        return np.frombuffer(piece.body, self.order + types[piece.kind])

    def _struct(self, parts: list[Piece], shape: tuple[int, ...], depth: int) -> Any:
        """Return what a struct, or an array of them, holds."""
        if len(parts) < 2 or parts[0].kind not in (5, 6) or parts[1].kind not in _NAMES:
            raise ValueError("a struct without names of fields")
        names = self.fields(bytes(parts[1].body), int(self._numbers(parts[0], 1)[0]))
        items = _counted(parts[2:], math.prod(shape) * len(names), "a struct")
        return self.structs(names, [self.value(p, depth + 1) for p in items], shape)

    def fields(self, raw: bytes, length: int) -> list[str]:
        """Return names of fields that take ``length`` bytes each."""
        if not 0 < length <= 256 or len(raw) % length:
            raise ValueError(f"names of fields of {length} bytes in {len(raw)} bytes")
        names = [_word(raw[k : k + length]) for k in range(0, len(raw), length)]
        if len(set(names)) != len(names):
            raise ValueError("a struct with a field twice")
        return names

    def _text(self, parts: list[Piece], shape: tuple[int, ...]) -> Any:
        """Return a text of one or more rows."""
        (piece,) = _counted(parts, 1, "a text")
        if piece.kind == _UTF8:
            letters = str(piece.body, "utf-8")
        else:
            letters = "".join(map(chr, self._numbers(piece, None, _LETTERS).astype(np.int64).tolist()))
        if len(letters) != math.prod(shape):
            raise ValueError(f"{len(letters)} letters for a text of sizes {shape}")
        if not letters:
            return ""
        return self.text([_paired(letters[row :: shape[0]]) for row in range(shape[0])])


def _counted(parts: list[Piece], count: int, what: str) -> list[Piece]:
    """Return the elements after checking how many there are."""
    if len(parts) != count:
        raise ValueError(f"{what} of {count} with {len(parts)} elements")
    return parts


def _not_bare(names: list[str], count: int) -> None:
    """Refuse structs without fields in a number that no bytes of the file vouch for."""
    if not names and count > _BARE:
        raise ValueError(f"{count} structs without fields")


def _sized(piece: Piece, count: int | None, types: dict[int, str]) -> None:
    """Check that an element holds numbers, and how many."""
    if piece.kind not in types:
        raise ValueError(f"an element of type {piece.kind} where numbers are expected")
    if count is not None and count != len(piece.body) // _SIZES[piece.kind]:
        raise ValueError(f"{len(piece.body)} bytes for {count} numbers of {_SIZES[piece.kind]} bytes")


def _word(raw: Any) -> str:
    """Return a name, which ends before its first zero."""
    return bytes(raw).split(b"\0", 1)[0].decode("latin-1")


def _paired(text: str) -> str:
    """Join the pairs of numbers that UTF-16 writes for letters beyond 65535."""
    if text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text):
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def _name_of(kind: int) -> str:
    """Return the word of MATLAB for a class."""
    words = {_CELL: "cell", _STRUCT: "struct", _OBJECT: "object", _CHAR: "char", _SPARSE: "sparse"}
    return words.get(kind, "object" if kind in _FOREIGN else "numeric")


class _Walk(Reader):
    """Follows every element of a file and keeps no values."""

    deepest = 64

    def _content(self, path: Path) -> mmap.mmap:
        with open(path, "rb") as stream:
            return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)

    def array(self, flags: int, shape: tuple[int, ...], parts: list[Piece]) -> None:
        for piece in _counted(parts, 2 if flags & _COMPLEX else 1, "numbers"):
            _sized(piece, math.prod(shape), _NUMBERS)

    def _text(self, parts: list[Piece], shape: tuple[int, ...]) -> None:
        (piece,) = _counted(parts, 1, "a text")
        if piece.kind == _UTF8:
            super()._text(parts, shape)
        else:
            _sized(piece, math.prod(shape), _LETTERS)

    def structs(self, names: list[str], values: list[Any], shape: tuple[int, ...]) -> None:
        _not_bare(names, math.prod(shape))
        if not all(name.isidentifier() for name in names):
            raise ValueError(f"names of fields that are none: {names[:8]}")

    def foreign(self, piece: Piece, depth: int) -> None:
        for part in self._pieces(piece.body):
            if part.kind == _MATRIX:
                self.value(part, depth + 1)


def check(path: Path) -> None:
    """Follow every element of a file of version 5 to its end, before a reader that trusts them.

    Version 7.3 is HDF5, which its library checks; what does not begin as a MATLAB file is left alone.

    Raises
    ------
    LoadError
        If elements contradict each other, or what contains them.
    """
    if path.stat().st_size < HEADER + 8 or is_hdf5(path):
        return
    if magic(path, 6) != b"MATLAB" and not is_mat5(path):  # other readers go by either
        return
    got = _damage(path)
    if got:
        expected = "a MATLAB file whose elements fit into each other"
        raise LoadError(explain(str(path), expected=expected, got=got, fix="copy it anew"))


def _damage(path: Path) -> str:
    """Return what is wrong with a file, "" for nothing."""
    try:
        reader = _Walk(path, itertools.count())
        for piece in reader.everything():
            reader.value(piece)
    except (ValueError, zlib.error) as cause:
        return str(cause)
    return ""
