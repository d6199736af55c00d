"""The published folders are read without running what their pickles name."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tectum.core.errors import InputError
from tectum.models.du_in.published import read_pickle, read_published


@pytest.fixture
def dot_dict(monkeypatch: pytest.MonkeyPatch) -> type[Any]:
    """Give a mapping class of a project, known to the writer only."""
    module = types.ModuleType("utils")
    made = type("DotDict", (dict,), {"__module__": "utils"})
    module.DotDict = made  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "utils", module)
    return made


def write(folder: Path, kind: type[Any], run: str, n: int, shape: tuple[int, int] = (2, 30), protocol: int = 4) -> None:
    place = folder / "word-recitation" / run / "dataset.bipolar.default.aligned"
    place.mkdir(parents=True)
    rng = np.random.default_rng(n)
    trials = [kind(name=f"word{k % 2}", data_s=rng.standard_normal(shape), data_n=np.zeros(shape)) for k in range(n)]
    (place / "data").write_bytes(pickle.dumps(trials, protocol))
    (place / "info").write_bytes(pickle.dumps(kind(ch_names=["A1-A2", "A2-A3"]), protocol))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_runs_become_recordings(tmp_path: Path, dot_dict: type[Any], protocol: int) -> None:
    write(tmp_path / "001", dot_dict, "run2", 4, protocol=protocol)
    write(tmp_path / "001", dot_dict, "run1", 6, protocol=protocol)
    del sys.modules["utils"]
    one, two = read_published(tmp_path / "001")
    assert (one.session, one.subject, one.rate, one.sizes["trial"], two.sizes["trial"]) == ("run1", "001", 1000.0, 6, 4)
    assert one.coords["trial"]["word"].tolist() == ["word0", "word1"] * 3
    assert one.coords["channel"]["name"].tolist() == ["A1-A2", "A2-A3"]
    wanted = np.random.default_rng(6).standard_normal((2, 30)).astype(np.float32)
    np.testing.assert_array_equal(one.values[0].numpy(), wanted)


class Bomb:
    """Runs a command when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_foreign_classes_are_listed_and_do_not_run(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(pickle.dumps({"x": Bomb(tmp_path / "ran")}))
    with pytest.raises(pickle.UnpicklingError, match="data.*got (pathlib|builtins).*"):
        read_pickle(tmp_path / "data")
    assert not (tmp_path / "ran").exists()


def test_empty_folders_and_ragged_trials_are_refused(tmp_path: Path, dot_dict: type[Any]) -> None:
    with pytest.raises(InputError, match="word-recitation/<run>/dataset.bipolar.default.aligned"):
        read_published(tmp_path)
    write(tmp_path / "001", dot_dict, "run", 2)
    place = tmp_path / "001" / "word-recitation" / "run" / "dataset.bipolar.default.aligned" / "data"
    place.write_bytes(pickle.dumps([{"name": "a", "data_s": np.zeros((2, n)), "data_n": None} for n in (3, 4)]))
    with pytest.raises(InputError, match="one shape"):
        read_published(tmp_path / "001")
