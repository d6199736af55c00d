"""MATLAB v5 files read in Python alone: every length is checked before it is used, so that damage cannot crash.

SciPy reads these files as well, but with compiled code that a damaged file can bring down together with the
interpreter.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..files import MOST_SHRUNK

DEPTH = 8  # of cells in cells in structures
NODES = 200_000  # arrays of a file that are read
LARGEST = 1 << 30  # bytes of one variable
_MATRIX, _COMPRESSED = 14, 15
_STORED = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8", 16: "u1", 17: "u2",
    18: "u4",
}  # fmt: skip
_NUMBERS = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_CELL, _STRUCT, _CHAR = 1, 2, 4
_CODES = {16: "utf-8", 17: "utf-16", 18: "utf-32"}


class Element(NamedTuple):
    """One tagged piece of a file."""

    kind: int
    data: memoryview


@dataclass
class _Reader:
    """Reads the elements of one file; ``mark`` is the order of bytes, "<" or ">"."""

    mark: str
    seen: int = 0

    def elements(self, data: memoryview) -> Iterator[Element]:
        """Yield the elements that fill a piece of the file."""
        place = 0
        while place < len(data):
            if len(data) - place < 8:
                if not any(data[place:]):
                    return
                raise ValueError(f"{len(data) - place} bytes where a tag should be")
            first, size = struct.unpack_from(f"{self.mark}II", data, place)
            if first >> 16:  # a small element: length and type share the first word
                kind, size, start, step = first & 0xFFFF, first >> 16, place + 4, 8
                if size > 4:
                    raise ValueError(f"a small element of {size} bytes")
            else:
                kind, start = first, place + 8
                step = 8 + (size if kind == _COMPRESSED else (size + 7) // 8 * 8)
            if start + size > len(data):
                raise ValueError(f"an element of {size} bytes where {len(data) - start} are left")
            yield Element(kind, data[start : start + size])
            place += step

    def numbers(self, element: Element) -> np.ndarray:
        """Return what an element of numbers holds."""
        if element.kind not in _STORED:
            raise ValueError(f"an element of type {element.kind} where numbers should be")
        kind = np.dtype(f"{self.mark}{_STORED[element.kind]}")
        if len(element.data) % kind.itemsize:
            raise ValueError(f"{len(element.data)} bytes of {kind}")
        return np.frombuffer(element.data, kind)

    def matrix(self, data: memoryview, depth: int = 0) -> tuple[str, Any]:
        """Return the name and the value of one array; what is neither numbers, text, cells nor structures is None."""
        self.seen += 1
        if self.seen > NODES or depth > DEPTH:
            raise ValueError(f"more than {NODES} arrays, or nested deeper than {DEPTH}")
        if len(data) == 0:
            return "", np.empty((0, 0))
        parts = self.elements(data)
        flags, shape, name = self.head(parts)
        kind = flags & 0xFF
        readers: dict[int, Callable[..., Any]] = {_CELL: self.cells, _STRUCT: self.structure, _CHAR: self.text}
        if kind in readers:
            return name, readers[kind](parts, shape, depth)
        return name, self.array(parts, shape, flags) if kind in _NUMBERS else None

    def head(self, parts: Iterator[Element]) -> tuple[int, tuple[int, ...], str]:
        """Return flags, shape and name."""
        flags, shape, name = (self.numbers(_next(parts)) for _ in range(3))
        if len(flags) != 2 or not 2 <= len(shape) <= 8 or any(int(n) < 0 for n in shape):
            raise ValueError(f"flags {flags[:4]}, shape {shape[:8]}")
        return int(flags[0]), tuple(int(n) for n in shape), name.tobytes().decode("latin1")

    def array(self, parts: Iterator[Element], shape: tuple[int, ...], flags: int) -> np.ndarray:
        """Return numbers in MATLAB's shape."""
        found = self.numbers(_next(parts))
        if len(found) != math.prod(shape):
            raise ValueError(f"{len(found)} numbers for shape {shape}")
        kind = np.dtype(bool) if flags & 0x200 else np.dtype(_NUMBERS[flags & 0xFF])
        made = found.astype(kind).reshape(shape, order="F")
        if flags & 0x800:
            return made + 1j * self.numbers(_next(parts)).astype(kind).reshape(shape, order="F")
        return made

    def text(self, parts: Iterator[Element], shape: tuple[int, ...], depth: int) -> str:
        """Return text, one line a row."""
        element = _next(parts)
        if element.kind in _CODES:
            order = "" if element.kind == 16 else {"<": "-le", ">": "-be"}[self.mark]
            letters = list(bytes(element.data).decode(_CODES[element.kind] + order))
        else:
            letters = [chr(int(code)) for code in self.numbers(element)]
        if len(letters) != math.prod(shape):
            raise ValueError(f"{len(letters)} letters for shape {shape}")
        if not letters:
            return ""
        rows = np.asarray(letters, dtype=object).reshape(shape, order="F").reshape(shape[0], -1)
        return "\n".join("".join(row) for row in rows)

    def cells(self, parts: Iterator[Element], shape: tuple[int, ...], depth: int) -> np.ndarray:
        """Return cells as an array of objects."""
        found = [self.child(part, depth) for part in parts]
        if len(found) != math.prod(shape):
            raise ValueError(f"{len(found)} cells for shape {shape}")
        return _objects(found, shape)

    def structure(self, parts: Iterator[Element], shape: tuple[int, ...], depth: int) -> dict[str, Any]:
        """Return a structure as a dict, an array of them as a dict of object arrays."""
        width, names = self.numbers(_next(parts)), self.numbers(_next(parts)).tobytes()
        if len(width) != 1 or not 0 < int(width[0]) <= 256 or len(names) % int(width[0]):
            raise ValueError(f"names of fields of width {width[:2]}")
        step = int(width[0])
        fields = [names[k : k + step].split(b"\0")[0].decode("latin1") for k in range(0, len(names), step)]
        found = [self.child(part, depth) for part in parts]
        if len(found) != math.prod(shape) * len(fields):
            raise ValueError(f"{len(found)} values of {len(fields)} fields for shape {shape}")
        columns = {name: found[k :: len(fields)] for k, name in enumerate(fields)}
        if math.prod(shape) == 1:
            return {name: values[0] for name, values in columns.items()}
        return {name: _objects(values, shape) for name, values in columns.items()}

    def child(self, part: Element, depth: int) -> Any:
        """Return the value of an array inside another."""
        if part.kind != _MATRIX:
            raise ValueError(f"an element of type {part.kind} where an array should be")
        return self.matrix(part.data, depth + 1)[1]


def _next(parts: Iterator[Element]) -> Element:
    found = next(parts, None)
    if found is None:
        raise ValueError("an array that ends too early")
    return found


def _objects(values: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    made = np.empty(len(values), dtype=object)
    for place, value in enumerate(values):
        made[place] = value
    return made.reshape(shape, order="F")


def _variables(path: Path) -> tuple[_Reader, list[Element]]:
    """Return a reader and the elements of a file after checking its header."""
    content = memoryview(path.read_bytes())
    mark = {b"IM": "<", b"MI": ">"}.get(bytes(content[126:128]), "")
    if not mark or struct.unpack_from(f"{mark}H", content, 124)[0] != 0x100:
        raise ValueError("no header of a MATLAB v5 file")
    reader = _Reader(mark)
    return reader, list(reader.elements(content[128:]))


def _unpacked(reader: _Reader, element: Element, limit: int | None = None) -> memoryview:
    """Return the array in an element, unpacked if it is compressed; with ``limit`` only its first bytes."""
    if element.kind == _MATRIX:
        return element.data
    if element.kind != _COMPRESSED:
        raise ValueError(f"an element of type {element.kind} where a variable should be")
    most = limit or min(LARGEST, MOST_SHRUNK * max(len(element.data), 1))
    machine = zlib.decompressobj()
    data = memoryview(machine.decompress(element.data, most))
    if limit is not None:
        return data[8:]
    if not machine.eof:
        raise ValueError(f"a variable of more than {most} bytes, or cut off")
    inner = list(reader.elements(data))
    if len(inner) != 1 or inner[0].kind != _MATRIX:
        raise ValueError("no variable in a compressed element")
    return inner[0].data


def load_mat5(path: Path) -> dict[str, Any]:
    """Read all variables of a MATLAB v5 file.

    Parameters
    ----------
    path : Path
        Compressed or not, of either order of bytes.

    Returns
    -------
    dict
        Numbers are arrays of MATLAB's shape, text is ``str`` (one line a row), cells are object arrays, structures
        dicts (arrays of structures dicts of object arrays); functions, objects and sparse arrays are None.

    Raises
    ------
    ValueError
        If a length in the file cannot be true.
    """
    reader, elements = _variables(path)
    found = [reader.matrix(_unpacked(reader, element)) for element in elements]
    return {name: value for name, value in found if name}


def mat5_names(path: Path) -> list[str]:
    """Return the names of the variables of a MATLAB v5 file, reading no more than their heads."""
    reader, elements = _variables(path)
    names = []
    for element in elements:
        data = _unpacked(reader, element, 256)[:248]
        parts = reader.elements(data)
        names.append(reader.head(parts)[2])
    return names
