"""Files of every vendor cut off, forbidden, and damaged in three hundred ways."""

from __future__ import annotations

import builtins
import warnings
from pathlib import Path
from typing import Any

import pytest
from writers import boxed, compiled, meg, nirs, recorders, squid, vendors
from writers.mutate import survive

import tectum
from tectum.core.errors import LoadError, TectumWarning
from tectum.io.eeg.read import read_eeg

ROOMS = (vendors, recorders, nirs, meg, squid, boxed, compiled)
FORMATS = {kind: made for room in ROOMS for kind, made in room.FORMATS.items()}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_cut_file_is_refused(tmp_path: Path, kind: str) -> None:
    made = FORMATS[kind]
    made.write(tmp_path / made.name)
    victim = tmp_path / (made.data or made.name)
    victim.write_bytes(victim.read_bytes()[:-1501])
    with pytest.raises(LoadError, match=rf"({made.name}|{made.data}).*: expected"):
        read_eeg(tmp_path / made.name)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_may_not_be_read(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = FORMATS[kind]
    made.write(tmp_path / made.name)
    victim = tmp_path / (made.name if (tmp_path / made.name).is_file() else made.data)
    usual = builtins.open

    def denied(file: Any, *args: Any, **kwargs: Any) -> Any:
        if Path(str(file)) == victim:
            raise PermissionError(13, "Permission denied", str(file))
        return usual(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", denied)
    monkeypatch.setattr(Path, "read_bytes", lambda self: denied(self, "rb").read())
    for read in (read_eeg, tectum.read):
        with pytest.raises(LoadError, match=rf"{victim.name}.*(PermissionError|Permission denied)|Perm.*{victim.name}"):
            read(tmp_path / made.name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_files_are_refused_or_read_right(tmp_path: Path, kind: str) -> None:
    made = FORMATS[kind]
    good = tmp_path / "good"
    good.mkdir()
    made.write(good / made.name)
    alone = [p.name for p in good.iterdir()] == [made.name] and (good / made.name).is_file()

    def read(path: Path) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", TectumWarning)
            return read_eeg(path if alone else path / made.name)

    fixed = None if made.sized else ()
    count = survive(read, good / made.name if alone else good, tmp_path / "work", n=300, seed=0, fixed=fixed)
    assert count["refused"] > 100
    assert count["loaded"] > 0
