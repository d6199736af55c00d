"""Our reader of MATLAB v5 files against SciPy's, on what SciPy can write, and on lengths that are not true.

Its forms are those of ``load`` (lists, lists of dicts) and of *C. elegans* (arrays of objects); ``check`` keeps none.
"""

from __future__ import annotations

import contextlib
import itertools
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
from scipy.sparse import eye
from scipy.sparse import random as random_sparse
from writers import matlab as writer

from tectum.core.errors import LoadError
from tectum.io.mat5 import check
from tectum.io.mat_values import load, names
from tectum.io.worm.matlab import Shaped, load_mat


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
    ours = load_mat(tmp_path / "a.mat")
    assert list(ours) == list(theirs) == list(names(tmp_path / "a.mat"))
    assert all(names(tmp_path / "a.mat")[k][0] == np.shape(v) for k, v in ours.items() if isinstance(v, np.ndarray))
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
    np.testing.assert_array_equal(load(path)["x"], values)


def test_sparse_arrays_are_left_out(tmp_path: Path) -> None:
    savemat(tmp_path / "a.mat", {"x": eye(3).tocsc(), "y": 1.0})
    assert load_mat(tmp_path / "a.mat")["x"] is None
    assert load_mat(tmp_path / "a.mat")["y"] == 1.0


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
        (array((2, 2), element(9, bytes(24))), "24 bytes for 4 numbers of 8 bytes"),
        (array((-1, 2), b""), r"an array of sizes \(-1, 2\)"),
        (array((2, 2), b""), "numbers of 1 with 0 elements"),
        (array((2**30, 2**30), element(9, bytes(8))), f"8 bytes for {2**60} numbers"),
        (array((2, 1), array((1, 1), element(9, bytes(8))), kind=1), "a cell array of 2 with 1 elements"),
        (array((1, 1), element(5, struct.pack("<i", 0)) + element(1, b""), kind=2), "names of fields of 0 bytes"),
        (array((1, 3), element(16, b"ab"), kind=4), r"2 letters for a text of sizes \(1, 3\)"),
        (array((1, 1), element(9, bytes(7))), "an element of type 9 with 7 bytes"),
        (struct.pack("<II", 14, 2**31), "an element of 2147483648 bytes where 0 are left"),
        (struct.pack("<HH", 14, 9) + bytes(4), "an element of 9 bytes in place of 4"),
        (element(3, bytes(8)), "an element of type 3 where a variable is expected"),
        (element(15, zlib.compress(array((1, 1), element(9, bytes(8))))[:-9]), "cut off"),
        (element(14, b"\x01\x02\x03\x04\x05\x06\x07"), "7 bytes behind the last element"),
        (array((1, 1), element(9, bytes(8)) + element(9, bytes(8))), "numbers of 1 with 2 elements"),
        (array((1, 1), element(40, bytes(8))), "an element of type 40"),
        (array((1, 1), element(5, struct.pack("<i", 2)) + element(1, b"a\0a\0"), kind=2), "a field twice"),
    ],
)
def test_lengths_that_are_not_true(body: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(HEADER + body)
    with pytest.raises(LoadError, match=rf"a\.mat.*{says}"):
        load(tmp_path / "a.mat")
    with pytest.raises(LoadError, match=rf"a\.mat.*{says}.*copy it anew"):
        check(tmp_path / "a.mat")


def test_cells_without_end(tmp_path: Path) -> None:
    body = array((1, 1), element(9, bytes(8)))
    for deepest, read in ((8, load_mat), (24, load), (64, check)):
        for _ in range(deepest):
            body = array((1, 1), body, kind=1)
        (tmp_path / "a.mat").write_bytes(HEADER + array((1, 1), body, kind=1))
        with pytest.raises(LoadError, match=f"nested over {deepest} deep"):
            read(tmp_path / "a.mat")


def test_big_endian(tmp_path: Path) -> None:
    body = struct.pack(">II", 6, 8) + struct.pack(">II", 6, 0) + struct.pack(">II", 5, 8) + struct.pack(">ii", 1, 2)
    body += struct.pack(">HH", 1, 1) + b"x\0\0\0" + struct.pack(">II", 9, 16) + struct.pack(">dd", 1.5, -2.0)
    (tmp_path / "a.mat").write_bytes(b"MATLAB".ljust(124) + b"\x01\x00MI" + struct.pack(">II", 14, len(body)) + body)
    np.testing.assert_array_equal(load_mat(tmp_path / "a.mat")["x"], loadmat(tmp_path / "a.mat")["x"])
    assert load_mat(tmp_path / "a.mat")["x"].tolist() == [[1.5, -2.0]]


def test_objects_and_functions_have_a_name_and_no_value(tmp_path: Path) -> None:
    words = element(1, b"MCOS") + element(1, b"table") + array((1, 1), element(9, bytes(8)), name=b"")
    thing = element(14, element(6, struct.pack("<II", 17, 0)) + element(1, b"t") + words)
    function = array((1, 1), array((1, 2), element(16, b"ab"), kind=4, name=b""), kind=16, name=b"f")
    number = array((1, 1), element(9, struct.pack("<d", 2.0)))
    path = tmp_path / "a.mat"
    path.write_bytes(HEADER + thing + function + number)
    assert names(path) == {"t": ((1, 1), "object"), "f": ((1, 1), "object"), "x": ((1, 1), "numeric")}
    assert load(path, ["x"])["x"] == 2.0
    with pytest.raises(LoadError, match=r"a\.mat.*an object of a class; save struct\(object\)"):
        load(path)
    found = load_mat(path)
    assert (found["t"], found["f"], found["x"].item()) == (None, None, 2.0)
    check(path)
    path.write_bytes(HEADER + thing.replace(struct.pack("<II", 9, 8), struct.pack("<II", 9, 4)) + number)
    with pytest.raises(LoadError, match="an element of type 9 with 4 bytes"):
        check(path)


@pytest.mark.parametrize("kind", [17, 4])
def test_letters_beyond_two_bytes(kind: int, tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(HEADER + array((1, 4), element(kind, "a\U0001f9e0b".encode("utf-16-le")), kind=4))
    assert load(tmp_path / "a.mat")["x"] == "a\U0001f9e0b"
    check(tmp_path / "a.mat")


def test_structs_without_fields(tmp_path: Path) -> None:
    bare = element(5, struct.pack("<i", 4)) + element(1, b"")
    (tmp_path / "a.mat").write_bytes(HEADER + array((1, 2), bare, kind=2) + array((1, 1), bare, kind=2, name=b"y"))
    assert load(tmp_path / "a.mat") == {"x": [{}, {}], "y": {}}
    (tmp_path / "a.mat").write_bytes(HEADER + array((1 << 30, 1 << 30), bare, kind=2))
    with pytest.raises(LoadError, match=f"{1 << 60} structs without fields"):
        load(tmp_path / "a.mat")
    with pytest.raises(LoadError, match=f"{1 << 60} structs without fields"):
        check(tmp_path / "a.mat")


def test_a_small_packet_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    packed = zlib.compress(array((1, 1 << 17), element(9, bytes(8 << 17))))
    (tmp_path / "a.mat").write_bytes(HEADER + struct.pack("<II", 15, len(packed)) + packed)
    assert names(tmp_path / "a.mat") == {"x": ((1, 1 << 17), "numeric")}
    reader = Shaped(tmp_path / "a.mat", itertools.count())
    reader.most = 1 << 16
    with pytest.raises(ValueError, match="unpacks to too much"):
        list(reader.variables())
    assert list(reader.variables(["y"])) == []


# Before a reader that trusts the sizes


def test_what_passes_the_check_does_not_end_the_process(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"a": {"b": [1.0, 2.0], "c": "text"}, "s": np.array(["x", 3.0], dtype=object)})
    data, refused = path.read_bytes(), 0
    for place in range(124, len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :])
        try:
            check(path)
        except LoadError as error:
            refused += 1
            message = str(error)
        else:
            message = f"{path} was read"
            with contextlib.suppress(Exception):
                loadmat(path)
        assert str(path) in message
    assert refused > 150


def test_damage_to_a_file_of_matlab_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    savemat(path, {"a": np.arange(6.0)})
    data = bytearray(path.read_bytes())
    data[132] += 8
    path.write_bytes(data)
    says = r"a\.mat: expected a MATLAB file whose elements fit into each other, got an element .*; copy it anew"
    with pytest.raises(LoadError, match=says):
        check(path)


@pytest.mark.parametrize("compressed", [False, True])
def test_files_of_matlab_with_all_kinds_of_arrays_pass(tmp_path: Path, compressed: bool) -> None:
    path = tmp_path / "a.mat"
    content = {
        "number": 3.0,
        "empty": np.zeros((0, 3)),
        "complex": np.array([[1 + 2j, 3]]),
        "text": "caf\u00e9 \u03bcV",
        "cell": np.array(["x", 3.0, np.arange(4, dtype=np.int16)], dtype=object),
        "structs": np.array([(1.0, "a"), (2.0, "bc")], dtype=[("n", object), ("t", object)]),
        "nested": {"a": {"b": {"c": np.arange(6).reshape(2, 3).astype(np.uint8)}}},
        "sparse": random_sparse(5, 4, 0.4, random_state=0),
        "true": np.array([True, False]),
    }
    savemat(path, content, do_compression=compressed)
    check(path)


def test_what_is_not_of_version_5_is_left_to_others(tmp_path: Path) -> None:
    writer.write(tmp_path / "a.mat", {"x": np.eye(2)}, "7.3")
    check(tmp_path / "a.mat")
    (tmp_path / "b.mat").write_bytes(b"no file of MATLAB" * 20)
    check(tmp_path / "b.mat")
    (tmp_path / "c.mat").write_bytes(b"MATLAB".ljust(200))
    with pytest.raises(LoadError, match="no header of a MATLAB v5 file in 200 bytes"):
        check(tmp_path / "c.mat")
