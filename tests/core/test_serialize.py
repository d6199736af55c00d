"""The file format: what goes in comes out; a hostile or damaged file is a LoadError that names the file."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import tectum
from tectum.core import serialize
from tectum.core.errors import InputError, LoadError
from tectum.core.graph import Graph
from tectum.core.intervals import Intervals
from tectum.core.lazy import LazyArray
from tectum.core.recording import Recording
from tectum.core.result import Result, axes
from tectum.core.serialize import peek, read, storable, write
from tectum.core.spikes import Spikes


def same(a: object, b: object) -> bool:
    """Whether two trees of containers, arrays and scalars are equal, types included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(7.7), b.nan_to_num(7.7))
    if isinstance(a, np.ndarray):
        return a.dtype.kind == b.dtype.kind and a.shape == b.shape and (a.tolist() == b.tolist() or a.dtype.kind == "f")
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


META = {"π": "naïve 🐦", "nan": math.nan, "inf": [math.inf, -math.inf], "none": None, "deep": {"a": ({"b": (1, 2.5)},)}}
CONTAINERS = {
    "recording": Recording(
        data=torch.randn(5, 2), dims=("time", "unit"), rate=1 / 3, t0=1e9, units="dF/F", modality="calcium",
        subject="鳥", session="день", meta=META, history=({"step": "x", "window": [0.0, 1.0]},),
        coords={"unit": {"name": ["ä", ""], "ok": [True, False], "n": np.array([1, 2], np.uint16), "x": [np.nan, 1.0]}},
        mask=torch.tensor([[True, False]]), intervals={"bad": Intervals.from_pairs([(0, 1)], why=["dröhnen"])},
    ),
    "irregular": Recording(data=torch.zeros(2, dtype=torch.int32), dims=("time",), times=[0.0, 0.5]),
    "empty recording": Recording(data=torch.zeros(0, 3), dims=("time", "unit"), rate=1.0, coords={"time": {"id": []}}),
    "bool scalar": Recording(data=torch.tensor(True), dims=()),
    "spikes": Spikes.from_trains([[0.1, 0.2], []], support=(0, 1), units={"id": ["ü", "b"]}, meta=META),
    "no spikes": Spikes.from_trains([]),
    "intervals": Intervals.from_pairs([(0, 1), (2, 3)], word=["", "zwölf"], n=[1, 2]),
    "no intervals": Intervals.from_pairs([]),
    "graph": Graph(weights=torch.tensor([[[0.0, math.nan], [1.0, 0.0]]]), layers=("gap",), units={"name": ["a", "b"]}),
    "no graph": Graph(weights=torch.zeros(0, 0, 0), layers=()),
    "int keys": {0: torch.zeros(1), "0": torch.ones(1), 7: {"a.b": torch.ones(2), "a": {"b": torch.zeros(2)}}},
    "awkward names": {"__metadata__": torch.ones(1), "": torch.zeros(1), "value": torch.ones(2)},
    "shared memory": [torch.arange(4)] * 2,
    "scalars": {"b": np.bool_(True).item(), "i": 2**80, "t": (), "l": [], "m": {}},
}  # fmt: skip


@pytest.mark.parametrize("case", CONTAINERS)
def test_save_then_load_is_the_identity(case, tmp_path):
    obj = CONTAINERS[case]
    path = write(tmp_path / "file", obj)
    assert path.name == "file.safetensors"
    assert same(obj, read(path))
    assert same(obj, read(tmp_path / "file"))  # the suffix is optional at both ends
    assert same(obj, tectum.load(str(path)))


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int16, torch.int64, torch.float16, torch.bfloat16,
                                   torch.float64, torch.complex64, torch.uint16])  # fmt: skip
def test_every_dtype(dtype, tmp_path):
    for value in (torch.tensor([[0, 1, 1]]).to(dtype), torch.zeros(0, 2, dtype=dtype), torch.tensor(1).to(dtype)):
        assert same(value, read(write(tmp_path / "x", value.mT.contiguous().mT if value.ndim else value)))


tree = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("a.b"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(tree)
def test_any_tree(tmp_path_factory, obj):
    path = tmp_path_factory.getbasetemp() / "tree.safetensors"
    assert same(obj, read(write(path, obj)))


def test_numpy_values_become_plain(tmp_path):
    given_ = {
        "a": np.float32(0.5),
        "b": np.int64(3),
        "c": np.bool_(True),
        np.int64(4): np.str_("x"),
        "d": np.array([b"q"]),
    }
    found = read(write(tmp_path / "x", given_))
    assert found == {"a": 0.5, "b": 3, "c": True, 4: "x", "d": np.array(["q"])}
    assert type(found["c"]) is bool
    frozen = np.arange(3)
    frozen.flags.writeable = False
    assert read(write(tmp_path / "x", [frozen[::-1], frozen.astype(">i4")]))[0].tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    "value",
    [object(), {1.5: 1}, {True: 1}, {1, 2}, b"x", 1j, torch.zeros(1, dtype=torch.complex128),
     torch.zeros(2).to_sparse(), np.array([None]), np.array(["2020"], dtype="datetime64"), LazyArray(np.zeros(2)), int,
     "x" * 90_000_001],
)  # fmt: skip
def test_what_cannot_be_saved(value, tmp_path):
    with pytest.raises(InputError, match="save"):
        write(tmp_path / "x", {"part": value})
    assert list(tmp_path.iterdir()) == []


def test_a_header_can_be_read_alone(tmp_path):
    header = peek(write(tmp_path / "x", CONTAINERS["recording"]))
    assert header["format"] == 1
    assert header["tectum"] == tectum.__version__
    assert header["object"]["kind"] == "Recording"


# Hostile files


def hostile(path, tree_, **changes):
    text = json.dumps({"format": 1, "tectum": "0", "object": tree_, **changes})
    save_file({}, str(path), metadata={"tectum": text, "crc32": serialize._checksum(text, {})})


def refused(path, match):
    with pytest.raises(LoadError, match=match) as caught:
        tectum.load(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("tree_", "match"),
    [
        ({"kind": "Evil", "fields": {}}, "a kind among .*'Evil'"),
        ({"kind": "load", "fields": {}}, "a kind among"),
        ({"kind": "os.system", "fields": {"command": "true"}}, "a kind among"),
        ({"kind": "Recording", "fields": {"data": {"tensor": "absent"}}}, "KeyError"),
        ({"kind": "Intervals", "fields": {"nope": 1}}, "TypeError"),
        ({"kind": "Intervals", "fields": {"start": {"list": [2.0]}, "stop": {"list": [1.0]}}}, "start <= stop"),
        ({"unknown": 1}, "a known tag"),
        ({"text": ["a"], "shape": [10**18]}, "ValueError"),
        ({"map": [[[1], 2]]}, "TypeError"),
        ({"float": "hello"}, "ValueError"),
    ],
)
def test_hostile_trees(tree_, match, tmp_path):
    hostile(tmp_path / "x.safetensors", tree_)
    refused(tmp_path / "x.safetensors", match)


def test_deep_nesting_is_bounded(tmp_path):
    text = '{"format": 1, "object": ' + '{"list": [' * 50_000 + "]}" * 50_000 + "}"
    save_file({}, str(tmp_path / "x.safetensors"), metadata={"tectum": text, "crc32": serialize._checksum(text, {})})
    refused(tmp_path / "x.safetensors", "RecursionError")


@pytest.mark.parametrize("version", [2, 0, -1, "1", None, 1.0])
def test_other_formats(version, tmp_path):
    hostile(tmp_path / "x.safetensors", 1, format=version)
    refused(tmp_path / "x.safetensors", "file format 1 or older, got .*update tectum")


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 64, b"PK\x03\x04" + b"\0" * 100, b"\x80\x04\x95hello"])
def test_other_bytes(content, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(content)
    refused(tmp_path / "x.safetensors", "a readable tectum file")


def test_foreign_absent_and_directory(tmp_path):
    save_file({"w": torch.zeros(2)}, str(tmp_path / "w.safetensors"), metadata={"format": "pt"})
    refused(tmp_path / "w.safetensors", "a foreign safetensors file")
    save_file({"w": torch.zeros(2)}, str(tmp_path / "w.safetensors"), metadata={"tectum": "[]"})
    refused(tmp_path / "w.safetensors", "a readable tectum file")
    refused(tmp_path / "absent.safetensors", "an existing file, got none there")
    refused(tmp_path, "got a directory")


def test_every_truncation_is_refused(tmp_path):
    path = write(tmp_path / "x", CONTAINERS["spikes"])
    whole = path.read_bytes()
    for n in [*range(0, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:n])
        refused(path, "a readable tectum file")


def test_a_flipped_bit_is_noticed_or_harmless(tmp_path):
    obj = CONTAINERS["recording"]
    path = write(tmp_path / "x", obj)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    messages = []
    for place in rng.integers(0, 8 * len(whole), 500):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        try:
            assert same(obj, read(path))
        except LoadError as error:
            messages.append(str(error))
    assert len(messages) >= 495
    assert all(str(path) in message for message in messages)


# Atomic writes


def test_a_failing_writer_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = write(tmp_path / "x", [1])
    before = path.read_bytes()

    def fail(tensors, name, metadata):
        with open(name, "wb") as file:
            file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        write(path, [2])
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path / "new", [2])
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_permissions_follow_the_umask_and_folders_are_made(tmp_path):
    old = os.umask(0o027)
    try:
        path = write(tmp_path / "a" / "b" / "x", [1])
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o640
    text = serialize.write_text(tmp_path / "c" / "t.txt", "naïve")
    assert text.read_text(encoding="utf-8") == "naïve"


# Own kinds


@storable
@dataclass(frozen=True)
class SerializeToy:
    values: dict
    note: str = ""


class SerializeToyResult(Result):
    pass


def test_own_storable_classes(tmp_path):
    obj = SerializeToy({1: torch.ones(2), 2: [SerializeToy({})]}, "x")
    assert same(obj, read(write(tmp_path / "x", obj)))
    with pytest.raises(TypeError, match="two storable classes are called SerializeToy"):
        storable(type("SerializeToy", (), {"__module__": "elsewhere"}))


def test_a_path_with_dots_keeps_its_name(tmp_path):
    assert write(tmp_path / "sub-01.v2", [1]).name == "sub-01.v2"
    assert read(tmp_path / "sub-01.v2") == [1]


def test_result_axes_are_used_by_the_file(tmp_path):
    @dataclass(frozen=True, kw_only=True, eq=False)
    class SerializeModes(Result):
        weight: torch.Tensor = axes("component")

    made = SerializeModes(weight=torch.ones(3), coords={"component": {"name": ["a", "b", "c"]}})
    assert same(made, read(write(tmp_path / "x", made)))


def test_equal_objects_give_equal_bytes(tmp_path):
    tree = {"b": torch.arange(3), "a": [torch.zeros(2, 2), "é ß", {"x": 1.5}], "long": "y" * 5000}
    files = {write(tmp_path / f"{k}.safetensors", tree).read_bytes() for k in range(12)}  # safetensors shuffles
    assert len(files) == 1
    assert read(tmp_path / "0.safetensors")["a"][1] == "é ß"
