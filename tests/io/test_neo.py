"""Files that neo reads: equality with neo, and clear words for what it cannot read or would run."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from writers import neo_formats
from writers.mutate import survive

import tectum
from tectum.core.errors import InputError, LoadError, MissingExtraError, TectumWarning
from tectum.io import neo_files
from tectum.io.neo_files import read_neo

neo = pytest.importorskip("neo")
pq = pytest.importorskip("quantities")
# a reader of neo that failed keeps its file open as long as the error is kept
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _nothing_left_open() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def write(folder: Path) -> None:
    """Write spike trains and a signal as text, which neo reads without further packages."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spikes.txt").write_text("0.5\t1.25\t3.0\n0.1\t2.0\n")
    rows = np.arange(24.0).reshape(8, 3)
    rows[:, 0] = np.arange(8) / 100
    np.savetxt(folder / "signal.csv", rows, delimiter=",", header="t,a,b", comments="")


def test_text_equals_neo(tmp_path: Path) -> None:
    write(tmp_path)
    found = tectum.read(tmp_path / "spikes.txt", format="neo", io="AsciiSpikeTrainIO", subject="m")
    theirs = neo.io.AsciiSpikeTrainIO(str(tmp_path / "spikes.txt")).read_segment().spiketrains
    assert found["spikes"].n_units == len(theirs) == 2
    for ours, train in zip(found["spikes"].trains(), theirs, strict=True):
        np.testing.assert_allclose(ours.numpy(), train.rescale("s").magnitude, rtol=0, atol=1e-9)
    assert (found.subject, found.meta["io"]) == ("m", "AsciiSpikeTrainIO")
    options = {"delimiter": ",", "usecols": (1, 2), "skiprows": 1, "sampling_rate": 100 * pq.Hz, "units": "mV"}
    found = read_neo(tmp_path / "signal.csv", io="AsciiSignalIO", **options)
    signals = [p for p in found.values() if isinstance(p, tectum.Recording)]
    values = np.concatenate([s.values.numpy().reshape(8, -1) for s in signals], axis=1)
    np.testing.assert_array_equal(values, np.arange(24.0).reshape(8, 3)[:, 1:])
    assert {(s.units, s.rate) for s in signals} == {("mV", 100.0)}


def test_neos_own_example(tmp_path: Path) -> None:
    """The example reader of neo makes signals, spikes, events and epochs through the raw interface of most formats."""
    (tmp_path / "x.fake").write_bytes(b"")
    with pytest.warns(TectumWarning, match="unit 'pA' of signal .* is unknown and read as 'a.u.'"):
        found = read_neo(tmp_path / "x.fake", io="ExampleIO")
    theirs = neo.io.ExampleIO(str(tmp_path / "x.fake")).read_block()
    segments = theirs.segments
    assert {k.split("/")[0] for k in found} == {f"segment{k}" for k in range(len(segments))}
    for k, segment in enumerate(segments):
        for ours, train in zip(found[f"segment{k}/spikes"].trains(), segment.spiketrains, strict=True):
            np.testing.assert_allclose(ours.numpy(), train.times.rescale("s").magnitude, rtol=0, atol=1e-9)
        for signal in segment.analogsignals:
            part = found[f"segment{k}/{signal.name}"]
            np.testing.assert_array_equal(part.values.numpy(), signal.magnitude.astype(np.float32))
            np.testing.assert_allclose(part.time, signal.times.rescale("s").magnitude, rtol=0, atol=1e-9)
            assert part.units == {"pA": "a.u."}.get(word := str(signal.dimensionality), word)
        for event in segment.events:
            part = found[f"segment{k}/{event.name}"]
            np.testing.assert_allclose(part.start, event.times.rescale("s").magnitude, rtol=0, atol=1e-9)
            assert part.columns["label"].tolist() == event.labels.tolist()
        for epoch in segment.epochs:
            part = found[f"segment{k}/{epoch.name}"]
            length = epoch.durations.rescale("s").magnitude
            np.testing.assert_allclose(part.stop - part.start, length, rtol=0, atol=1e-9)


def test_what_neo_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.qqq").write_bytes(b"x")
    (tmp_path / "x.pkl").write_bytes(b"x")
    (tmp_path / "x.txt").write_bytes(b"x")
    with pytest.raises(LoadError, match=r"x\.qqq: expected a file that neo reads, got suffix '.qqq'; pass io="):
        read_neo(tmp_path / "x.qqq")
    with pytest.raises(LoadError, match="PickleIO, which runs what a file holds"):
        read_neo(tmp_path / "x.pkl", io="PickleIO")
    with pytest.raises(LoadError, match=r"a file that neo reads, got suffix '.pkl'"):
        read_neo(tmp_path / "x.pkl")
    with pytest.raises(LoadError, match=r"one class of neo.io, got .*AsciiSpikeTrainIO.*; pass io="):
        read_neo(tmp_path / "x.txt")
    with pytest.raises(InputError, match="a class of neo.io, got 'BlackrokIO'; did you mean 'BlackrockIO'"):
        read_neo(tmp_path / "x.txt", io="BlackrokIO")
    with pytest.raises(LoadError, match=r"x\.txt: expected a file that neo.io.AxonIO reads"):
        read_neo(tmp_path / "x.txt", io="AxonIO")
    import sys

    monkeypatch.setitem(sys.modules, "neo", None)
    with pytest.raises(MissingExtraError, match=r"pip install tectum\[ephys\]"):
        read_neo(tmp_path / "x.txt")


@pytest.mark.slow
def test_damage(tmp_path: Path) -> None:
    write(tmp_path / "s")
    read = lambda p: read_neo(p, io="AsciiSpikeTrainIO")  # noqa: E731
    count = survive(read, tmp_path / "s" / "spikes.txt", tmp_path / "work", n=300, fixed=())
    assert count["refused"] > 40


# Binary files


def test_blackrock_equals_what_was_written(tmp_path: Path) -> None:
    values = neo_formats.write_blackrock(tmp_path / "s")
    found = read_neo(tmp_path / "s" / "a.ns3", io="BlackrockIO", subject="m")
    signals = [p for p in found.values() if isinstance(p, tectum.Recording)]
    got = np.concatenate([s.to_units("V").values.numpy().reshape(3000, -1) for s in signals], axis=1)
    np.testing.assert_allclose(got, values.T, rtol=2e-6, atol=1e-12)
    assert {s.rate for s in signals} == {2000.0}
    trains = found["spikes"].trains()
    np.testing.assert_allclose([t.tolist() for t in trains], [[0.1, 0.3], [0.2, 1.0]], rtol=0, atol=1e-9)


def test_spikeglx_equals_what_was_written(tmp_path: Path) -> None:
    values = neo_formats.write_spikeglx(tmp_path / "run_g0")
    found = read_neo(tmp_path / "run_g0", io="SpikeGLXIO")
    (signal,) = (p for p in found.values() if isinstance(p, tectum.Recording))
    np.testing.assert_allclose(signal.to_units("V").values.numpy().reshape(500, 4), values.T, rtol=2e-6)
    (tmp_path / "run_g0" / "run_g0_t0.nidq.bin").write_bytes(bytes(3992))
    with pytest.raises(LoadError, match=r"nidq\.bin: expected 4000 bytes of 4 channels, got 3992"):
        read_neo(tmp_path / "run_g0", io="SpikeGLXIO")


def test_a_file_that_makes_neo_wait_or_crash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    neo_formats.write_blackrock(tmp_path / "s")
    monkeypatch.setattr(neo_files, "_HEADERS", "import os; os.abort()")
    with pytest.raises(
        LoadError, match=r"a\.ns3: expected a file that neo.io.BlackrockIO reads, got the end of its process"
    ):
        read_neo(tmp_path / "s" / "a.ns3", io="BlackrockIO")
    with pytest.raises(LoadError, match="got the end of its process"):
        read_neo(tmp_path / "s" / "a.ns3", io="BlackrockIO", nsx_to_load=3)
    assert len(read_neo(tmp_path / "s" / "a.ns3", io="BlackrockIO", trial=False)) > 1


def test_blackrock_may_be_named_by_its_stem(tmp_path: Path) -> None:
    values = neo_formats.write_blackrock(tmp_path / "s")
    found = read_neo(tmp_path / "s" / "a", io="BlackrockIO", nsx_to_load=3)
    signals = [p for p in found.values() if isinstance(p, tectum.Recording)]
    assert sum(s.values.numel() for s in signals) == values.size


def test_a_lost_record_of_neuralynx_is_named(tmp_path: Path) -> None:
    """neo would cut the other signals to that length."""
    neo_formats.write_neuralynx(tmp_path / "s")
    path = tmp_path / "s" / "CSC1.ncs"
    path.write_bytes(path.read_bytes()[:-1044])
    with pytest.raises(LoadError, match=r"as many records .*, got \{'CSC0.ncs': 2, 'CSC1.ncs': 1\}"):
        read_neo(tmp_path / "s", io="NeuralynxIO")


FORMATS = {
    "BlackrockIO": (neo_formats.write_blackrock, "s", "a.ns3"),
    "SpikeGLXIO": (neo_formats.write_spikeglx, "run_g0", ""),
    "NeuralynxIO": (neo_formats.write_neuralynx, "s", ""),
    "OpenEphysBinaryIO": (neo_formats.write_open_ephys, "s", ""),
    "AxonIO": (neo_formats.write_axon, "a.abf", ""),
}


@pytest.mark.parametrize("io", ["NeuralynxIO", "OpenEphysBinaryIO", "AxonIO"])
def test_signals_equal_what_was_written(tmp_path: Path, io: str) -> None:
    write, place, name = FORMATS[io]
    values = write(tmp_path / place)
    found = read_neo(tmp_path / place / name, io=io)
    signals = [p for p in found.values() if isinstance(p, tectum.Recording)]
    got = np.concatenate([s.to_units("V").values.numpy().reshape(values.shape[1], -1) for s in signals], axis=1)
    np.testing.assert_allclose(got, values.T, rtol=3e-6, atol=1e-12)
    assert {s.rate for s in signals} == {2000.0 if io == "NeuralynxIO" else 1000.0}


@pytest.mark.slow
@pytest.mark.parametrize("io", FORMATS)
def test_damaged_binary_files(tmp_path: Path, io: str) -> None:
    """Without the trial, which would take half a second each; some of them with it."""
    write, place, name = FORMATS[io]
    (tmp_path / "good").mkdir()
    write(tmp_path / "good" / place)

    def read(path: Path, trial: bool = False) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read_neo(path / place / name, io=io, trial=trial)

    # Axon's one number of samples may be damaged to a smaller one, a word of Neuralynx to that of another signal
    fixed = () if io in ("AxonIO", "NeuralynxIO") else None
    count = survive(read, tmp_path / "good", tmp_path / "work", n=300, fixed=fixed)
    assert count["refused"] > 60
    assert count["loaded"] > 0
    count = survive(lambda p: read(p, trial=True), tmp_path / "good", tmp_path / "work", n=20, seed=1, fixed=fixed)
    assert sum(count.values()) == 20
