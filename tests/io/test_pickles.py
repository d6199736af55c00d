"""The restricted unpickler: arrays and plain containers come back, everything else is refused before it runs."""

from __future__ import annotations

import datetime
import os
import pickle
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tectum.core.errors import LoadError
from tectum.io.files import UnsafePickleError
from tectum.io.pickles import load_objects, loads


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=a.dtype.kind in "fc"))
    return type(a) is type(b) and (a == b or a != a)


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=5),
    hnp.arrays(st.sampled_from(["<f4", ">f8", "i2", "u1", "?", "<U3", "S2", "c8"]), hnp.array_shapes(max_dims=3)),
    st.floats(width=32).map(np.float32),
    st.integers(-5, 5).map(np.int16),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4) | st.tuples(inner)
    ),
    max_leaves=8,
)


@settings(max_examples=150)
@given(TREES, st.integers(2, 5))
def test_what_went_in_comes_out(tree: Any, protocol: int) -> None:
    assert equal(loads(pickle.dumps(tree, protocol=protocol)), tree)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_object_arrays_and_orders(order: Any, protocol: int) -> None:
    objects = np.empty((2, 3), dtype=object, order=order)
    for k, place in enumerate(np.ndindex(2, 3)):
        objects[place] = {"k": k, "a": np.asarray(np.arange(6.0).reshape(2, 3), order=order)}
    found = loads(pickle.dumps(objects, protocol=protocol))
    assert found.shape == (2, 3)
    assert all(equal(found[place], objects[place]) for place in np.ndindex(2, 3))


def test_dates_become_none_and_paths_text() -> None:
    tree = {"when": datetime.datetime(2020, 1, 1), "where": PurePosixPath("/data/mouse"), "kinds": {1, 2}}
    assert loads(pickle.dumps(tree)) == {"when": None, "where": "/data/mouse", "kinds": {1, 2}}


class Attack:
    def __init__(self, call: Any, *arguments: Any) -> None:
        self.todo = (call, arguments)

    def __reduce__(self) -> Any:
        return self.todo


@pytest.mark.parametrize(
    ("call", "arguments", "named"),
    [
        (os.system, ("exit 1",), "system"),
        (eval, ("1/0",), "eval"),
        (exec, ("1/0",), "exec"),
        (getattr, (1, "real"), "getattr"),
        (open, ("never",), "open"),
        (bytearray, (1 << 40,), "bytearray"),
        (np.load, ("never",), "numpy.load"),
        (np.memmap, ("never",), "memmap"),
        (pickle.loads, (b"N.",), "loads"),
        (Path.unlink, (Path("never"),), "unlink|getattr"),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_anything_else_is_refused_by_name(call: Any, arguments: Any, named: str, protocol: int, tmp_path: Path) -> None:
    attack = pickle.dumps({"fs": Attack(call, *arguments)}, protocol=protocol)
    with pytest.raises(UnsafePickleError, match=named):
        loads(attack)
    header = {"descr": "|O", "fortran_order": False, "shape": ()}
    with open(tmp_path / "ops.npy", "wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(attack)
    with pytest.raises(UnsafePickleError, match=rf"ops\.npy.*({named})"):
        load_objects(tmp_path / "ops.npy", "settings")


def test_an_attack_inside_an_object_array_does_not_run(tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    np.save(tmp_path / "stat.npy", np.array([{"med": Attack(os.mkdir, str(flag))}], dtype=object), allow_pickle=True)
    with pytest.raises(UnsafePickleError, match=r"posix\.mkdir|nt\.mkdir"):
        load_objects(tmp_path / "stat.npy", "shapes")
    assert not flag.exists()


def test_a_pickle_that_would_fill_the_memory_is_refused() -> None:
    bomb = b"\x80\x02]r" + (1 << 31).to_bytes(4, "little") + b"."
    with pytest.raises(ValueError, match="damaged pickle"):
        loads(bomb)


def test_an_array_of_numbers_is_no_object(tmp_path: Path) -> None:
    np.save(tmp_path / "ops.npy", np.zeros(3))
    with pytest.raises(LoadError, match=r"ops\.npy.*objects with settings.*float64"):
        load_objects(tmp_path / "ops.npy", "settings")


@pytest.mark.parametrize("state", [(1, (2,), "no dtype", False, b"12345678"), (1, (-1,), None, False, b""), ()])
def test_malformed_arrays_are_errors_not_crashes(state: Any) -> None:
    text = pickle.dumps(np.zeros(1), protocol=2)
    assert isinstance(loads(text), np.ndarray)
    from tectum.io.pickles import _Array

    with pytest.raises(ValueError):
        _Array().__setstate__(state)
