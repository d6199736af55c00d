"""The distributed layout of Du-IN: pickles of a project's class without the project, windows on disk, wrong files."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tectum
from tectum.core.errors import InputError, LoadError
from tectum.io.eeg.du_in import read_du_in, read_pickle
from tectum.io.eeg.units import AmplitudeError
from tectum.io.files import UnsafePickleError

NAMES = ["SM8", "SM9", "TI'3"]


class DotDict(dict[str, Any]):
    """A mapping as the project pickles it."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        return (type(self), (), None, None, iter(self.items()))


DotDict.__module__, DotDict.__qualname__ = "utils", "DotDict"


def dump(path: Path, value: Any) -> None:
    """Pickle as if the project's module were there, and take it away."""
    module = types.ModuleType("utils")
    module.DotDict = DotDict  # type: ignore[attr-defined]
    sys.modules["utils"] = module
    try:
        path.write_bytes(pickle.dumps(value))
    finally:
        del sys.modules["utils"]


@pytest.fixture
def subject(tmp_path: Path) -> Path:
    """Write two runs of three words each, and five windows."""
    rng = np.random.default_rng(0)
    root = tmp_path / "seeg.he2023xuanwu" / "001"
    for run in ("run2", "run10"):
        folder = root / "word-recitation" / run / "dataset.bipolar.default.unaligned"
        folder.mkdir(parents=True)
        records = [
            DotDict(name=f"word{k}", data_s=rng.normal(scale=2e-5, size=(3, 300)), data_n=np.zeros((3, 300)))
            for k in range(3)
        ]
        dump(folder / "data", records)
        dump(folder / "info", DotDict(ch_names=NAMES))
    folder = root / "pretrain" / "dataset.default.1000hz"
    (folder / "a" / "b").mkdir(parents=True)
    dump(folder / "info", DotDict(ch_names=NAMES))
    for k in range(5):
        pair = rng.normal(scale=2e-5, size=(2, 3, 800)).astype(np.float32)
        np.save(folder / ("a" if k % 2 else "a/b") / f"{k}.npy", pair)
    return root


def test_words_of_all_runs(subject: Path) -> None:
    assert "utils" not in sys.modules
    rec = tectum.read(subject)
    assert rec.sizes == {"trial": 6, "channel": 3, "time": 300}
    assert (rec.units, rec.rate, rec.t0, rec.subject, rec.modality) == ("V", 1000.0, -0.5, "001", "seeg")
    assert rec.coords["channel"]["name"].tolist() == NAMES
    assert rec.coords["trial"]["label"].tolist() == ["word0", "word1", "word2"] * 2
    assert rec.coords["trial"]["run"].tolist() == ["run2"] * 3 + ["run10"] * 3
    rng = np.random.default_rng(0)
    expected = [rng.normal(scale=2e-5, size=(3, 300)).astype(np.float32) for _ in range(6)]
    np.testing.assert_array_equal(rec.values.numpy(), np.stack(expected))
    assert tectum.read(subject / "word-recitation" / "run10").sizes["trial"] == 3
    assert not tectum.read(subject, part="data_n").values.any()


def test_windows_for_pretraining_stay_on_disk(subject: Path) -> None:
    folder = subject / "pretrain" / "dataset.default.1000hz"
    rec = tectum.read(folder)
    assert rec.is_lazy
    assert rec.sizes == {"trial": 5, "channel": 3, "time": 800}
    files = rec.coords["trial"]["file"].tolist()
    assert sorted(files) == ["a/1.npy", "a/3.npy", "a/b/0.npy", "a/b/2.npy", "a/b/4.npy"]
    expected = np.stack([np.load(folder / name)[0] for name in files])
    np.testing.assert_array_equal(rec.values.numpy(), expected)
    part = rec.isel(trial=[4, 1], channel=slice(1, 3), time=slice(10, 20)).values
    torch.testing.assert_close(part, torch.from_numpy(expected[[4, 1], 1:3, 10:20]), rtol=0, atol=0)
    assert rec.isel(trial=slice(0, 0)).values.shape == (0, 3, 800)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_old_and_new_protocols(tmp_path: Path, protocol: int) -> None:
    module = types.ModuleType("utils")
    kind: Any = type("DotDict", (dict,), {"__module__": "utils"})
    module.DotDict = kind  # type: ignore[attr-defined]
    sys.modules["utils"] = module
    try:
        data = pickle.dumps(kind(a=np.arange(3.0), b=kind(c="x"), device=torch.device("cpu")), protocol)
    finally:
        del sys.modules["utils"]
    (tmp_path / "data").write_bytes(data)
    found = read_pickle(tmp_path / "data")
    assert found["a"].tolist() == [0.0, 1.0, 2.0]
    assert (found["b"], found["device"]) == ({"c": "x"}, "cpu")


class Harm:
    def __reduce__(self) -> Any:
        return (print, ("harm",))


def broken(subject: Path, how: str) -> None:
    folder = subject / "word-recitation" / "run10" / "dataset.bipolar.default.unaligned"
    data = {
        "class": [Harm()],
        "shape": [{"name": "a", "data_s": np.zeros((2, 300))}],
        "length": [{"name": "a", "data_s": np.zeros((3, 299))}],
        "lost": [{"name": "a"}],
        "empty": [],
    }
    if how in data:
        dump(folder / "data", data[how])
    elif how == "names":
        dump(folder / "info", DotDict(ch_names=NAMES[::-1]))
    elif how == "info":
        dump(folder / "info", [1, 2])
    elif how == "cut":
        (folder / "data").write_bytes((folder / "data").read_bytes()[:-100])


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ("class", UnsafePickleError, "data: pickle: expected arrays, .* got builtins.print"),
        ("shape", LoadError, r"expected shape \(3, 300\) in record 0, got \(2, 300\)"),
        ("length", LoadError, r"expected shape \(3, 300\) in record 0, got \(3, 299\)"),
        ("lost", LoadError, r"expected an array data_s \(channel, time\) in record 0, got NoneType"),
        ("empty", LoadError, "expected a list of records, got list"),
        ("names", LoadError, "expected the channels of .*run2.*, got others"),
        ("info", LoadError, "expected a mapping with 'ch_names', got list"),
        ("cut", LoadError, "run10.*data: expected a pickle"),
    ],
)
def test_wrong_files_are_named(subject: Path, how: str, error: type[Exception], says: str) -> None:
    broken(subject, how)
    with pytest.raises(error, match=says) as caught:
        read_du_in(subject)
    assert str(subject) in str(caught.value)
    assert isinstance(caught.value, pickle.UnpicklingError) == (how == "class")


def test_wrong_arguments(subject: Path) -> None:
    with pytest.raises(LoadError, match=r"expected a folder dataset\.\*\.aligned with info, got dataset\.bipolar"):
        read_du_in(subject, aligned=True)
    with pytest.raises(InputError, match="part: expected 'data_s' or 'data_n', got 'data'"):
        read_du_in(subject, part="data")
    with pytest.raises(AmplitudeError, match="got .* uV; the unit that is claimed is wrong"):
        read_du_in(subject, units="uV")
    folder = subject / "pretrain" / "dataset.default.1000hz"
    np.save(folder / "a" / "9.npy", np.zeros((3, 800), np.float32))
    with pytest.raises(LoadError, match=r"9\.npy: expected 3 axes, got shape \(3, 800\)"):
        read_du_in(folder)
