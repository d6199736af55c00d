"""Sources: LSL over loopback with a real outlet, the same methods by other names, boards, and the command line."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import tectum
from support.decoders import NAMES, Standin, recording, standin
from tectum import Causal, Recording, Stream
from tectum.cli import main
from tectum.core.errors import ContractError, InputError, MissingExtraError
from tectum.stream import Board, Buffered, Decision, Inlet, Outlet, Replayed, line, lsl
from tectum.stream.sources import Dejitter

RATE, N = 250.0, 1500
REC = recording(N)
ROWS = REC.values.T.double().numpy()
LOOPBACK = """[multicast]
ResolveScope = machine
[lab]
KnownPeers = {127.0.0.1}
[ports]
IPv6 = disable
[log]
level = -3
"""


def own(name: str) -> str:
    """Return a name that no other process on this machine gives to a stream."""
    return f"{name}-{os.getpid()}"


@pytest.fixture(scope="module")
def decoder() -> Standin:
    return standin(REC, steps=Causal(highpass=1.0, lowpass=45.0))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the Lab Streaming Layer on this machine; its library reads the setting when it is first loaded."""
    config = tmp_path_factory.mktemp("lsl") / "lsl_api.cfg"
    config.write_text(LOOPBACK)
    before = os.environ.get("LSLAPICFG")
    os.environ["LSLAPICFG"] = str(config)
    yield
    if before is None:
        del os.environ["LSLAPICFG"]
    else:
        os.environ["LSLAPICFG"] = before


@pytest.fixture
def outlet(network: None) -> Iterator[Callable[..., Any]]:
    """Open outlets of eight named channels."""
    from mne_lsl.lsl import StreamInfo, StreamOutlet

    opened = []

    def make(name: str, units: str | list[str] = "microvolts", rate: float = RATE) -> Any:
        info = StreamInfo(name, "eeg", 8, rate, "float32", f"test-{name}")
        info.set_channel_names([*NAMES])
        info.set_channel_units(units)
        info.set_channel_types("eeg")
        opened.append(StreamOutlet(info, chunk_size=25))
        return opened[-1]

    yield make
    opened.clear()


def proba(decisions: list[Decision]) -> list[tuple[float, ...]]:
    return [d.proba for d in decisions]


def drained(made: Stream, outlet: Any, rows: np.ndarray) -> list[Decision]:
    """Push rows through an outlet and return what the stream decides, until all have arrived."""
    found: list[Decision] = []
    outlet.wait_for_consumers(timeout=5)
    from mne_lsl.lsl import local_clock

    start = local_clock()
    for first in range(0, len(rows), 25):
        part = np.ascontiguousarray(rows[first : first + 25], dtype=np.float32)
        outlet.push_chunk(part, timestamp=start + (first + len(part) - 1) / RATE)
    deadline = time.monotonic() + 20
    while made.statistics.samples < len(rows) and time.monotonic() < deadline:
        found += made.push(*made.source.pull())
        time.sleep(0.002)
    assert made.statistics.samples == len(rows)
    return found


# The Lab Streaming Layer


def test_an_lsl_stream_gives_the_offline_decisions(decoder: Standin, outlet: Callable[..., Any]) -> None:
    out = outlet(own("plain"))
    made = Stream.of(decoder, lsl(own("plain")), stall=30.0)
    found = drained(made, out, ROWS.astype(np.float32))
    wanted = Stream(decoder, rate=RATE, channels=NAMES).push(ROWS.astype(np.float32))
    assert proba(found) == proba(wanted)
    assert not any(d.flags for d in found)
    assert np.diff([d.time for d in found]) == pytest.approx(0.1, abs=2e-3)


def test_units_of_an_lsl_stream_are_read(decoder: Standin, outlet: Callable[..., Any]) -> None:
    out = outlet(own("volts"), "volts")
    source = lsl(own("volts"))
    assert (source.names, source.rate, source.units) == (list(NAMES), RATE, "V")
    with pytest.raises(ContractError, match="unit 'V' instead of 'uV'"):
        Stream.of(decoder, source)
    made = Stream.of(decoder, source, convert=True, stall=30.0)
    found = drained(made, out, ROWS * 1e-6)
    wanted = Stream(decoder, rate=RATE, channels=NAMES).push(ROWS)
    np.testing.assert_allclose(proba(found), proba(wanted), atol=1e-5)


def test_streams_that_are_not_there_or_irregular(network: None, outlet: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="expected one LSL stream called 'none-.*', got none within 0.2 s"):
        lsl(own("none"), wait=0.2)
    keep = outlet(own("markers"), rate=0.0)
    with pytest.raises(InputError, match="expected a stream of regular rate"):
        lsl(own("markers"))
    del keep


def test_a_stream_object_of_mne_lsl_never_gives_a_sample_twice(decoder: Standin, outlet: Callable[..., Any]) -> None:
    from mne_lsl.stream import StreamLSL

    out = outlet(own("buffer"))
    live = StreamLSL(bufsize=8, name=own("buffer")).connect(acquisition_delay=0.01, processing_flags="all")
    try:
        made = Stream.of(decoder, live, stall=30.0)
        assert isinstance(made.source, Buffered)
        assert made.source.units == "uV"
        found = drained(made, out, ROWS.astype(np.float32))
    finally:
        live.disconnect()
    wanted = Stream(decoder, rate=RATE, channels=NAMES).push(ROWS.astype(np.float32))
    assert proba(found) == proba(wanted)


def test_decisions_are_sent_as_streams(network: None) -> None:
    from mne_lsl.lsl import StreamInlet, resolve_streams

    outlet, inlets = Outlet(own("out"), ("left", "rest")), []
    for name in (own("out"), f"{own('out')}-commands"):
        inlet = StreamInlet(resolve_streams(timeout=5, name=name)[0])
        inlet.open_stream(timeout=5)
        inlets.append(inlet)
    for made in (Decision("left", (0.75, 0.25), 5.0, 0.0, 0.0), Decision(None, (0.5, 0.5), 6.0, 0.0, 0.0)):
        outlet.send(made)
    for wanted in (([0.75, 0.25], 5.0), ([0.5, 0.5], 6.0)):
        sample, stamp = inlets[0].pull_sample(timeout=5)
        assert (sample.tolist(), stamp) == wanted
    assert inlets[0].get_sinfo().get_channel_names() == ["left", "rest"]
    assert list(inlets[1].pull_sample(timeout=5)[0]) == ["left"]
    assert inlets[1].pull_sample(timeout=0.1)[1] is None


def test_lsl_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mne_lsl.lsl", None)
    with pytest.raises(MissingExtraError, match=r'pip install "tectum\[bci\]"'):
        lsl("any")
    with pytest.raises(MissingExtraError, match="sending LSL needs mne-lsl"):
        Outlet("any", ("a", "b"))


# The same methods by other names


class XML:
    """A description as pylsl gives it."""

    def __init__(self, rows: list[dict[str, str]], at: int = -1) -> None:
        self.rows, self.at = rows, at

    def child(self, name: str) -> XML:
        return self if name == "channels" else XML(self.rows, 0)

    def child_value(self, name: str) -> str:
        return self.rows[self.at].get(name, "")

    def next_sibling(self) -> XML:
        return XML(self.rows, self.at + 1)


class PylslLike:
    """An inlet with the methods of pylsl: lists, and an XML description."""

    def __init__(self, names: tuple[str, ...] = NAMES, unit: str = "microvolts") -> None:
        self.first, self.names, self.unit = 0, names, unit

    def info(self) -> Any:
        rows = [{"label": n, "unit": self.unit} for n in self.names] or [{}] * 8
        return SimpleNamespace(nominal_srate=lambda: RATE, channel_count=lambda: 8, desc=lambda: XML(rows))

    def pull_chunk(self, timeout: float, max_samples: int) -> tuple[list[list[float]], list[float]]:
        part = slice(self.first, self.first + 40)
        self.first += 40
        return ROWS[part].tolist(), (np.arange(N)[part] / RATE + 1e6).tolist()


def test_an_inlet_of_pylsl_is_one_too(decoder: Standin) -> None:
    made = Stream.of(decoder, PylslLike(), stall=30.0)
    assert (made.source.units, made.source.names) == ("uV", list(NAMES))
    found = [d for _ in range(45) for d in made.push(*made.source.pull())]
    assert proba(found) == proba(Stream(decoder, rate=RATE, channels=NAMES).push(ROWS))
    unnamed = Inlet(PylslLike((), ""))
    assert (unnamed.names, unnamed.units) == (None, None)


def test_an_inlet_of_pylsl_itself_gives_the_offline_decisions(
    decoder: Standin, outlet: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mne_lsl.lsl.load_liblsl import load_liblsl

    monkeypatch.setenv("PYLSL_LIB", load_liblsl()._name)  # the library that mne-lsl brings
    pylsl = pytest.importorskip("pylsl")
    out = outlet(own("pylsl"))
    (info,) = pylsl.resolve_byprop("name", own("pylsl"), timeout=5.0)
    inlet = pylsl.StreamInlet(info, processing_flags=pylsl.proc_clocksync | pylsl.proc_dejitter)
    inlet.open_stream(timeout=5.0)
    made = Stream.of(decoder, inlet, stall=30.0)
    assert (made.source.names, made.source.units) == (list(NAMES), "uV")
    found = drained(made, out, ROWS.astype(np.float32))
    assert proba(found) == proba(Stream(decoder, rate=RATE, channels=NAMES).push(ROWS.astype(np.float32)))
    assert not any(d.flags for d in found)


def test_channels_may_differ_in_unit(decoder: Standin) -> None:
    source = PylslLike()
    source.info = lambda: SimpleNamespace(  # type: ignore[method-assign]
        sfreq=RATE, get_channel_names=lambda: [*NAMES], get_channel_units=lambda: ["uV"] * 7 + ["none"]
    )
    assert Inlet(source).units == ["uV"] * 7 + ["a.u."]
    with pytest.raises(ContractError, match="unit 'a.u.' instead of 'uV'"):
        Stream.of(decoder, source)


class FakeBoard:
    """The methods of a BrainFlow board that the adapter calls; get_board_data drains."""

    def __init__(self) -> None:
        self.first, self.draw = 0, np.random.default_rng(0)

    def get_board_id(self) -> int:
        return -1

    @classmethod
    def get_sampling_rate(cls, board_id: int) -> int:
        return 250

    @classmethod
    def get_eeg_channels(cls, board_id: int) -> list[int]:
        return [1, 2, 3, 4, 5, 6, 7, 8]

    @classmethod
    def get_eeg_names(cls, board_id: int) -> list[str]:
        return [*NAMES]

    @classmethod
    def get_timestamp_channel(cls, board_id: int) -> int:
        return 10

    def get_board_data(self) -> np.ndarray:
        n = int(self.draw.integers(0, 60))
        rows = ROWS[self.first : self.first + n]
        times = (self.first + np.arange(len(rows))) / RATE + 1.7e9
        late = times + self.draw.uniform(0, 0.02) * np.ones(len(rows))  # a packet comes at once
        self.first += len(rows)
        package = np.arange(len(rows))[None] % 256
        return np.concatenate([package, rows.T, np.zeros((1, len(rows))), late[None]])


def test_a_board_of_brainflow_is_polled(decoder: Standin) -> None:
    board = FakeBoard()
    made = Stream.of(decoder, board, stall=30.0)
    assert isinstance(made.source, Board)
    found = []
    while board.first < N:
        found += made.push(*made.source.pull())
    assert proba(found) == proba(Stream(decoder, rate=RATE, channels=NAMES).push(ROWS))
    assert not any(d.flags for d in found)


@pytest.fixture
def synthetic() -> Iterator[Any]:
    """BrainFlow's own synthetic board, streaming."""
    shim = pytest.importorskip("brainflow.board_shim")
    try:
        shim.BoardShim.disable_board_logger()
    except ModuleNotFoundError as missing:  # below Python 3.12 it asks for pkg_resources
        pytest.skip(f"brainflow cannot be loaded here: {missing}")
    board = shim.BoardShim(shim.BoardIds.SYNTHETIC_BOARD.value, shim.BrainFlowInputParams())
    board.prepare_session()
    board.start_stream()
    yield board
    board.stop_stream()
    board.release_session()


@pytest.mark.filterwarnings("ignore:pkg_resources is deprecated")
def test_the_synthetic_board_of_brainflow_itself_is_decoded(synthetic: Any) -> None:
    names = list(synthetic.get_eeg_names(synthetic.get_board_id()))
    coords = {"channel": {"name": names}}
    rec = Recording(data=torch.randn(16, 500), dims=("channel", "time"), rate=RATE, units="uV", coords=coords)
    made = Stream.of(standin(rec, steps=Causal(highpass=1.0, lowpass=45.0)), synthetic, stall=2.0)
    assert (made.source.names, made.source.rate, made.source.units) == (names, RATE, "uV")
    found = list(made.run(seconds=2.0))
    assert len(found) >= 8
    assert not any(d.flags for d in found)
    assert np.diff([d.time for d in found]) == pytest.approx(made.hop, abs=2e-3)
    assert abs(time.time() - found[-1].time) < 60


def test_bursts_of_stamps_become_a_clock_and_jumps_stay() -> None:
    smooth = Dejitter(100.0)
    first = smooth(np.array([5.0, 5.0, 5.0]))
    assert first.tolist() == pytest.approx([4.98, 4.99, 5.0])
    assert np.diff(np.concatenate([first, smooth(np.full(4, 5.06))])) == pytest.approx(0.01, abs=1e-4)
    assert smooth(np.array([9.0])).tolist() == [9.0]
    assert len(smooth(np.zeros(0))) == 0


def test_other_objects_are_refused(decoder: Standin) -> None:
    with pytest.raises(InputError, match="expected a source with pull.*got dict"):
        Stream.of(decoder, {})
    with pytest.raises(InputError, match="continuous recording of channels"):
        Replayed(REC.windows(1.0), 10)


def test_a_recording_is_replayed_with_its_clock(decoder: Standin) -> None:
    late = REC.with_(t0=100.0)
    made = Stream.of(decoder, Replayed(late, 77))
    found = list(made.run())
    assert found[0].time == pytest.approx(100 + 99 / RATE)
    assert proba(found) == proba(Stream(decoder, rate=RATE, channels=NAMES).push(ROWS.astype(np.float32)))


# What a terminal shows


def test_a_line_fits_its_width() -> None:
    made = Decision(None, (0.0, 1.0), 12.5, 0.0004, 0.0003, ("gap", "flat:C3"))
    text = line(made, ("left", "right"))
    assert len(text) == 100
    assert text.split() == ["12.50", "s", "-", "left", "0.00", "right█", "1.00", "0.4", "ms", "gap", "flat:C3"]
    assert len(line(made, ("left", "right"), width=20)) == 20
    assert json.loads(made.to_json())["flags"] == ["gap", "flat:C3"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    windows = REC.windows(0.4, hop=0.2)
    labels = np.asarray(["left", "right"])[np.arange(windows.shape[0]) % 2]
    windows = windows.with_(coords={**windows.coords, "trial": {"label": labels}})
    path = tmp_path_factory.mktemp("model") / "words"
    return tectum.LightCNN(epochs=1, device="cpu", validation=0.0).fit(windows).save(str(path))


def test_the_command_line_exports(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(model), "--format", "torch"]) == 0
    written = model.with_suffix(".pt2")
    assert capsys.readouterr().out == f"export: {written}\n"
    assert tectum.deploy.load(written).result_.labels == ("left", "right")
    REC.save(str(model.parent / "rec"))
    assert main(["export", str(model.parent / "rec.safetensors")]) == 2
    assert "expected a decoder, got Recording" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["saved", "exported"])
def test_the_command_line_streams(
    model: Path, kind: str, outlet: Callable[..., Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from threading import Event, Thread

    out, done = outlet(own(f"cli-{kind}")), Event()

    def feed() -> None:
        from mne_lsl.lsl import local_clock

        out.wait_for_consumers(timeout=10)
        start = local_clock()
        for first in range(0, N, 25):
            part = np.ascontiguousarray(ROWS[first : first + 25], dtype=np.float32)
            out.push_chunk(part, timestamp=start + (first + 24) / RATE)
            if done.wait(0.02):
                return

    thread = Thread(target=feed)
    thread.start()
    file = model if kind == "saved" else tectum.export(tectum.load(model), tmp_path / "x.pt2")
    words = ["stream", str(file), "--lsl", own(f"cli-{kind}"), "--seconds", "1", "--record", str(tmp_path / "log")]
    try:
        assert main([*words, "--json"] if kind == "saved" else [*words, "--threshold", "0.9"]) == 0
    finally:
        done.set()
        thread.join()
    shown = capsys.readouterr()
    if kind == "saved":
        assert {json.loads(text)["label"] for text in shown.out.splitlines()} <= {"left", "right", None}
        assert shown.out
    else:
        assert shown.out.count("\r") > 1
        assert " left" in shown.out
    assert "decisions, p50" in shown.err
    assert tectum.stream.read_log(tmp_path / "log").chunks


def test_the_command_line_says_what_is_missing(model: Path, network: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", str(model), "--lsl", own("nobody"), "--wait", "0.2"]) == 2
    assert f"expected one LSL stream called {own('nobody')!r}" in capsys.readouterr().err
    assert torch.get_num_threads() == 1
