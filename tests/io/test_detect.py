"""Which reader a path gets: every signature has one, and what fits none or several is named."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from writers import matlab, others, phy

import tectum
from tectum.core.errors import InputError, LoadError
from tectum.io.detect import FORMATS, detect


def test_every_format_has_a_reader_with_a_docstring() -> None:
    for _, home in FORMATS.values():
        module, _, name = home.partition(":")
        if module.startswith("tectum.io.") and module.rpartition(".")[2] in OURS:
            assert getattr(import_module(module), name).__doc__


OURS = ("cnmfe", "cellexplorer", "pynapple_files", "temporaldata_files", "neo_files", "matlab", "table", "minian")


def test_several_formats_are_listed(tmp_path: Path) -> None:
    others.write_neurosuite(tmp_path)
    phy.write_phy(tmp_path)
    assert detect(tmp_path) == ["phy", "neurosuite"]
    with pytest.raises(LoadError, match="expected one format, got phy, neurosuite; pass format='phy'"):
        tectum.read(tmp_path)
    assert tectum.read(tmp_path, format="neurosuite").session == "rat"


def test_nothing_recognised_is_listed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(
        LoadError, match=r"a folder of a known format, got notes\.txt; pass format= one of .*'cellexplorer'"
    ):
        tectum.read(tmp_path)
    with pytest.raises(InputError, match=r"format: expected one of .*matlab.*, got 'matlap'"):
        tectum.read(tmp_path, format="matlap")


def test_a_matlab_file_of_a_lab_is_not_guessed(tmp_path: Path) -> None:
    matlab.write(tmp_path / "x.mat", {"spikes": [np.zeros(2)]})
    assert detect(tmp_path / "x.mat") == []
    (tmp_path / "broken.mat").write_bytes(b"MATLAB 5.0 MAT-file")
    assert detect(tmp_path / "broken.mat") == []
