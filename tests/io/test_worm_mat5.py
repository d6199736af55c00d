"""Our reader of MATLAB v5 files against SciPy's, on what SciPy can write, and on lengths that are not true."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.io import loadmat, savemat

from tectum.io.worm.mat5 import load_mat5, mat5_names


def plain(value: Any) -> Any:
    """Bring what SciPy returns into our form."""
    if isinstance(value, np.ndarray) and value.dtype.names is not None:
        fields = {name: plain(value[name]) for name in value.dtype.names}
        return {k: v.reshape(-1)[0] for k, v in fields.items()} if value.size == 1 else fields
    if isinstance(value, np.ndarray) and value.dtype == object:
        made = np.empty(value.shape, dtype=object)
        for place in np.ndindex(value.shape):
            made[place] = plain(value[place])
        return made
    return "\n".join(value.tolist()) if isinstance(value, np.ndarray) and value.dtype.kind == "U" else value


def equal(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, dict):
        assert set(ours) == set(theirs)
        for name in theirs:
            equal(ours[name], theirs[name])
    elif isinstance(theirs, str):
        assert ours == theirs
    elif theirs.dtype == object:
        assert ours.shape == theirs.shape
        for a, b in zip(ours.reshape(-1), theirs.reshape(-1), strict=True):
            equal(a, b)
    else:
        assert ours.dtype == theirs.dtype or theirs.dtype == np.uint8  # SciPy leaves logical numbers as bytes
        np.testing.assert_array_equal(ours, theirs)


def content() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    cells = np.empty((2, 3), dtype=object)
    for k, value in enumerate(("AVAL", np.zeros((0, 0)), rng.random((2, 3)), "x", np.arange(3), "long text " * 20)):
        cells[k // 3, k % 3] = value
    several = np.zeros((1, 2), dtype=[("a", object), ("b_long_name", object)])
    several[0, 0], several[0, 1] = (1.0, "x"), (np.eye(2), cells)
    numbers: dict[str, Any] = {
        f"n_{kind}": np.arange(6).reshape(2, 3).astype(kind)
        for kind in ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8")
    }
    return {
        **numbers, "small": 3.0, "deep": rng.random((2, 3, 4)), "complex": np.array([[1 + 2j, 3]]),
        "empty": np.zeros((0, 4)), "flag": np.array([[True, False]]), "text": "na\u00efve", "cells": cells,
        "one": {"x": 1.0, "y": {"z": "w"}}, "several": several,
    }  # fmt: skip


@pytest.mark.parametrize("compressed", [False, True])
def test_everything_equals_scipy(compressed: bool, tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", content(), do_compression=compressed)
    theirs = {k: plain(v) for k, v in loadmat(tmp_path / "a.mat").items() if k[0] != "_"}
    ours = load_mat5(tmp_path / "a.mat")
    assert list(ours) == list(theirs) == mat5_names(tmp_path / "a.mat")
    equal(ours, theirs)
    assert ours["flag"].dtype == bool


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    values=hnp.arrays(
        st.sampled_from([np.float64, np.float32, np.int16, np.uint8]),
        hnp.array_shapes(min_dims=2, max_dims=3, max_side=5),
    ),
    compressed=st.booleans(),
)
def test_any_array_equals_scipy(values: np.ndarray, compressed: bool, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("mat") / "a.mat"
    savemat(path, {"x": values}, do_compression=compressed)
    np.testing.assert_array_equal(load_mat5(path)["x"], values)


def test_sparse_arrays_are_left_out(tmp_path: Path) -> None:
    from scipy.sparse import eye

    savemat(tmp_path / "a.mat", {"x": eye(3).tocsc(), "y": 1.0})
    assert load_mat5(tmp_path / "a.mat")["x"] is None
    assert load_mat5(tmp_path / "a.mat")["y"] == 1.0


def element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def array(shape: tuple[int, ...], body: bytes, kind: int = 6, name: bytes = b"x") -> bytes:
    head = (
        element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack(f"<{len(shape)}i", *shape)) + element(1, name)
    )
    return element(14, head + body)


HEADER = b"MATLAB".ljust(124) + b"\x00\x01IM"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (array((2, 2), element(9, bytes(24))), r"3 numbers for shape \(2, 2\)"),
        (array((-1, 2), b""), r"shape \[-1"),
        (array((2, 2), b""), "an array that ends too early"),
        (array((2**30, 2**30), element(9, bytes(8))), "1 numbers for shape"),
        (array((2, 1), array((1, 1), element(9, bytes(8))), kind=1), r"1 cells for shape \(2, 1\)"),
        (array((1, 1), element(5, struct.pack("<i", 0)) + element(1, b""), kind=2), "names of fields of width"),
        (array((1, 3), element(16, b"ab"), kind=4), "2 letters for shape"),
        (array((1, 1), element(9, bytes(7))), "7 bytes of float64"),
        (struct.pack("<II", 14, 2**31), "an element of 2147483648 bytes where 0 are left"),
        (struct.pack("<HH", 14, 9) + bytes(4), "a small element of 9 bytes"),
        (element(3, bytes(8)), "an element of type 3 where a variable should be"),
        (element(15, zlib.compress(array((1, 1), element(9, bytes(8))))[:-9]), "cut off"),
        (b"\x01\x02\x03", "3 bytes where a tag should be"),
    ],
)
def test_lengths_that_are_not_true(body: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(HEADER + body)
    with pytest.raises(ValueError, match=says):
        load_mat5(tmp_path / "a.mat")


def test_cells_without_end(tmp_path: Path) -> None:
    body = array((1, 1), element(9, bytes(8)))
    for _ in range(10):
        body = array((1, 1), body, kind=1)
    (tmp_path / "a.mat").write_bytes(HEADER + body)
    with pytest.raises(ValueError, match="nested deeper than 8"):
        load_mat5(tmp_path / "a.mat")


def test_big_endian(tmp_path: Path) -> None:
    body = struct.pack(">II", 6, 8) + struct.pack(">II", 6, 0) + struct.pack(">II", 5, 8) + struct.pack(">ii", 1, 2)
    body += struct.pack(">HH", 1, 1) + b"x\0\0\0" + struct.pack(">II", 9, 16) + struct.pack(">dd", 1.5, -2.0)
    (tmp_path / "a.mat").write_bytes(b"MATLAB".ljust(124) + b"\x01\x00MI" + struct.pack(">II", 14, len(body)) + body)
    np.testing.assert_array_equal(load_mat5(tmp_path / "a.mat")["x"], loadmat(tmp_path / "a.mat")["x"])
    assert load_mat5(tmp_path / "a.mat")["x"].tolist() == [[1.5, -2.0]]
