"""Files of magnetometers: equality with what was written and with MNE, and clear refusals."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mne
import numpy as np
import pytest
from writers import meg, squid

import tectum
from tectum import Recording
from tectum.core.errors import LoadError, TectumWarning
from tectum.io.eeg.files import format_of

FORMATS = {**meg.FORMATS, **squid.FORMATS}
BY_MNE: dict[str, Callable[..., Any]] = {
    "FIL": mne.io.read_raw_fil, "ARTEMIS": mne.io.read_raw_artemis123, "KIT": mne.io.read_raw_kit,
    "BTi": lambda path, **options: mne.io.read_raw_bti(path / "c,rfDC", head_shape_fname=None, **options),
    "CTF": lambda path, **options: mne.io.read_raw_ctf(str(path), **options),
}  # fmt: skip


def read(path: Path) -> Any:
    """Read a recording; that no head position was measured is warned of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*HPIs active", category=TectumWarning)
        return tectum.read(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_fields_equal_those_written_and_those_of_mne(tmp_path: Path, kind: str) -> None:
    made = FORMATS[kind]
    path = tmp_path / made.name
    values = np.asarray(made.write(path))
    assert format_of(path) == kind
    found = read(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = BY_MNE[kind](path, verbose="ERROR")
    rec = found if isinstance(found, Recording) else next(iter(found.values()))
    names = rec.coords["channel"]["name"].tolist()
    np.testing.assert_allclose(rec.values.numpy(), values, rtol=3e-6)
    np.testing.assert_array_equal(rec.values.numpy(), theirs.get_data(picks=names).astype(np.float32))
    np.testing.assert_allclose(rec.time.numpy(), theirs.times, rtol=0, atol=1e-9)
    assert (rec.units, rec.modality) == ("T", "meg")
    assert rec.rate == pytest.approx(meg.RATE, rel=1e-7)  # BTi states a period in float32


def test_fil_has_places_bad_channels_and_triggers(tmp_path: Path) -> None:
    meg.write_fil(tmp_path / "x_meg.bin")
    rec = tectum.read(tmp_path / "x_meg.bin")
    table = rec.coords["channel"]
    assert table["bad"].tolist() == [False, False, True]
    np.testing.assert_allclose(table["x"], [0.0, 0.09, 0.18], atol=1e-9)
    events = rec.intervals["events"]
    assert list(zip(events.start.tolist(), events.columns["value"].tolist(), strict=True)) == [(0.1, 5)]


@pytest.mark.parametrize(
    ("kind", "name", "old", "new", "says"),
    [
        (
            "FIL",
            "x_channels.tsv",
            "A1-TAN\tMEGMAG\tfT\tgood\n",
            "",
            r"x_meg\.bin: expected samples of 3 float32 for 0\.6",
        ),
        ("FIL", "x_channels.tsv", "A1-TAN", "A1-RAD", r"x_channels\.tsv: expected channels of different names"),
        ("FIL", "x_meg.json", "1000.0", "-5", r"x_meg\.json: expected a sampling frequency, got -5 Hz"),
        ("ARTEMIS", "a.txt", "600", "601", r"a\.bin: expected 601 samples of 4 float32, 9616 bytes, got 9600"),
        ("ARTEMIS", "a.txt", "0.5\t100", "nan\t100", r"a\.txt: expected a name and a scaling"),
    ],
)
def test_contradictions(tmp_path: Path, kind: str, name: str, old: str, new: str, says: str) -> None:
    made = meg.FORMATS[kind]
    made.write(tmp_path / made.name)
    text = (tmp_path / name).read_text()
    assert old in text
    (tmp_path / name).write_text(text.replace(old, new, 1))
    with pytest.raises(LoadError, match=says):
        tectum.read(tmp_path / made.name)


def _patch(path: Path, place: int, form: str, *values: float) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, place, *values)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("place", "form", "value", "says"),
    [
        (12, "<i", 2**31 - 1, "expected the directory of a KIT file"),
        (9 * 16, "<I", 2**32 - 1, r"expected part 9 inside the file of \d+ bytes"),
        (26 * 16 + 12, "<i", 2**30, "expected the directory|part 26 inside"),
        (32 * 16 + 268, "<i", 2**30, "expected channels of 16 or 32 bits, samples and a rate, got 1073741824 channels"),
    ],
)
def test_bad_directories_of_kit(tmp_path: Path, place: int, form: str, value: int, says: str) -> None:
    squid.write_kit(tmp_path / "a.sqd")
    _patch(tmp_path / "a.sqd", place, form, value)
    if place == 26 * 16 + 12:
        _patch(tmp_path / "a.sqd", place - 8, "<i", 32)
    with pytest.raises(LoadError, match=rf"a\.sqd: {says}"):
        tectum.read(tmp_path / "a.sqd")


def test_triggers_of_kit(tmp_path: Path) -> None:
    squid.write_kit(tmp_path / "a.sqd")
    events = tectum.read(tmp_path / "a.sqd")["mag"].intervals["events"]
    assert list(zip(events.start.tolist(), events.columns["value"].tolist(), strict=True)) == [(0.1, 1)]


def test_trials_that_ctf_states_must_be_there(tmp_path: Path) -> None:
    """MNE takes as many as it finds."""
    squid.write_ctf(tmp_path / "a.ds", trials=3)
    data = (tmp_path / "a.ds" / "a.meg4").read_bytes()
    (tmp_path / "a.ds" / "a.meg4").write_bytes(data[: 8 + 4 * 4 * 600])
    with pytest.raises(LoadError, match=r"a\.meg4: expected 3 trials of 300 samples, got 2; .*truncated=True"):
        tectum.read(tmp_path / "a.ds")
    assert tectum.read(tmp_path / "a.ds", truncated=True)["mag"].shape == (3, 600)
    _patch(tmp_path / "a.ds" / "a.res4", 1292, ">h", 3)
    with pytest.raises(LoadError, match=r"a\.(res4|meg4): expected"):
        tectum.read(tmp_path / "a.ds")
