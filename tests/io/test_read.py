"""The reader's door: our own files, objects of others, and clear words for what cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray

import tectum
from tectum import Graph, Intervals, Recording, Session, Spikes
from tectum.core.errors import AxisError, InputError, LoadError
from tectum.core.serialize import write


def containers() -> dict[str, Any]:
    rec = Recording(data=torch.arange(6.0).reshape(3, 2), dims=("time", "unit"), rate=1.0)
    spikes = Spikes.from_trains([[0.5], [1.5]])
    return {
        "recording": rec,
        "spikes": spikes,
        "intervals": Intervals.from_pairs([(0, 1)]),
        "graph": Graph(weights=torch.eye(2)[None], layers=("gap",)),
        "session": Session(items_={"a": rec, "b": spikes}),
    }


@pytest.mark.parametrize("kind", containers())
def test_our_files_come_back(kind: str, tmp_path: Path) -> None:
    item = containers()[kind]
    path = tmp_path / "a file, été.safetensors"
    write(path, item)
    assert type(tectum.read(path)) is type(item)
    assert type(tectum.read(str(path))) is type(item)


def test_the_numbers_come_back(tmp_path: Path) -> None:
    rec = containers()["recording"]
    rec.save(tmp_path / "x.safetensors")
    assert torch.equal(tectum.read(tmp_path / "x.safetensors").values, rec.values)


def test_the_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    write(tmp_path / "x.safetensors", containers()["graph"])
    (tmp_path / "x.safetensors").rename(tmp_path / "X.SAFETENSORS")
    assert isinstance(tectum.read(tmp_path / "X.SAFETENSORS"), Graph)


def test_options_go_to_the_reader(tmp_path: Path, accelerator: torch.device) -> None:
    write(tmp_path / "x.safetensors", containers()["recording"])
    assert tectum.read(tmp_path / "x.safetensors", device=str(accelerator)).device == accelerator


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("none.safetensors", None, "none.safetensors: expected an existing file or folder"),
        ("notes.pkl", b"x", r"notes.pkl: expected a file of .*\.safetensors.*'.pkl'"),
        ("plain", b"x", "plain: expected a file of"),
        ("torn.safetensors", b"\x10\x00", "torn.safetensors: expected a readable tectum file"),
    ],
)
def test_what_cannot_be_read_is_named(name: str, content: bytes | None, says: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(LoadError, match=says):
        tectum.read(tmp_path / name)


def test_objects_are_converted() -> None:
    array = xarray.DataArray(np.zeros((4, 2)), dims=("trial", "feature"), attrs={"units": "1"})
    assert tectum.read(array).sizes == {"trial": 4, "feature": 2}
    rec = containers()["recording"]
    assert tectum.read(rec) is rec


def test_bare_arrays_and_strangers_are_refused() -> None:
    with pytest.raises(AxisError, match="named axes"):
        tectum.read(np.zeros((4, 2)))
    with pytest.raises(InputError, match=r"builtins\.int"):
        tectum.read(3)
