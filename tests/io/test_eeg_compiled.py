"""ANT and MEF: equality with what was written and with MNE, checksums, and a trial that bears a crash."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import mne
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from writers import compiled, eeg

import tectum
from tectum import Recording
from tectum.core.errors import LoadError
from tectum.io import trial
from tectum.io.eeg.files import format_of
from tectum.io.eeg.vendors.compiled import checksums
from tectum.io.trial import try_first


@pytest.mark.parametrize("kind", compiled.FORMATS)
def test_values_equal_those_written_and_those_of_mne(tmp_path: Path, kind: str) -> None:
    path = tmp_path / compiled.FORMATS[kind].name
    values = np.asarray(compiled.FORMATS[kind].write(path))
    assert format_of(path) in ("CNT", kind)
    rec = tectum.read(path)
    assert isinstance(rec, Recording)
    theirs = (mne.io.read_raw_ant if kind == "ANT" else mne.io.read_raw_mef)(path, verbose="ERROR")
    np.testing.assert_allclose(rec.values.numpy(), values, rtol=2e-6, atol=1e-12)
    np.testing.assert_array_equal(rec.values.numpy(), theirs.get_data().astype(np.float32))
    np.testing.assert_allclose(rec.time.numpy(), theirs.times, rtol=0, atol=1e-9)
    names = rec.coords["channel"]["name"].tolist()
    assert names == (list(eeg.NAMES) if kind == "ANT" else sorted(eeg.NAMES))
    assert (rec.units, rec.rate, rec.meta["measured"][:10]) == ("V", 100.0, "2024-01-02")


def test_an_ant_file_without_a_subject(tmp_path: Path) -> None:
    """antio 0.7 crashes when such a file is asked for the day of birth, and MNE asks."""
    path = tmp_path / "a.cnt"
    values = compiled.write_ant(path)
    data = bytearray(path.read_bytes())
    data = data[: data.rindex(b"info")]
    struct.pack_into("<I", data, 4, len(data) - 8)
    path.write_bytes(data)
    rec = tectum.read(path)
    np.testing.assert_allclose(rec.values.numpy(), values, rtol=2e-6, atol=1e-12)
    assert "measured" not in rec.meta


def _slow_sum(text: bytes) -> int:
    total = 0xFFFFFFFF
    for byte in text:
        total ^= byte
        for _ in range(8):
            total = (total >> 1) ^ (0xEB31D82E if total & 1 else 0)
    return total


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=1200), min_size=1, max_size=4))
def test_checksums_are_those_of_bit_after_bit(texts: list[bytes]) -> None:
    assert checksums(texts) == [_slow_sum(text) for text in texts]


def test_a_flipped_bit_of_mef_is_named(tmp_path: Path) -> None:
    compiled.write_mef(tmp_path / "a.mefd")
    for path in sorted((tmp_path / "a.mefd" / "Cz.timd").rglob("*.*")):
        if path.is_file():
            data = bytearray(path.read_bytes())
            data[-20] ^= 4
            good = path.read_bytes()
            path.write_bytes(data)
            with pytest.raises(LoadError, match=rf"{path.name}: expected (the checksum|whole blocks)"):
                tectum.read(tmp_path / "a.mefd")
            path.write_bytes(good)
    assert tectum.read(tmp_path / "a.mefd").shape == (4, 400)


def test_a_trial_bears_errors_crashes_and_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(b"abc")
    assert try_first("print(open(sys.argv[1]).read())", path, "it").strip() == "abc"
    with pytest.raises(LoadError, match=r"x\.bin: expected a file that it reads, got ValueError: no"):
        try_first("raise ValueError('no')", path, "it")
    with pytest.raises(LoadError, match="got the end of its process"):
        try_first("import os; os.abort()", path, "it")
    monkeypatch.setattr(trial, "SECONDS", 1.0)
    began = time.perf_counter()
    with pytest.raises(LoadError, match="no answer within 1 s"):
        try_first("while True: pass", path, "it")
    assert time.perf_counter() - began < 10
