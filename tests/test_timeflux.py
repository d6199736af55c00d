"""The node of timeflux: against the real package where it is installed, else against its documented interface.

timeflux 0.17 pins NumPy 1.26, which the other requirements here do not allow; installed without its requirements it
runs beside NumPy 2 all the same.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

import tectum
from support.decoders import NAMES, recording
from tectum import Stream
from tectum.core.errors import MissingExtraError

RATE, START = 250.0, 1_700_000_000
REC = recording(1000)
ROWS = REC.values.T.double().numpy()


class Port:
    """The documented port: ``data``, ``meta``, ``ready``, ``set``, ``clear``."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.data, self.meta = None, {}

    def ready(self) -> bool:
        return self.data is not None and len(self.data) > 0

    def set(self, rows: Any, timestamps: Any = None, names: Any = None, meta: Any = None) -> None:
        stamps = [np.datetime64("now")] * len(rows) if timestamps is None else timestamps
        self.data, self.meta = pd.DataFrame(rows, index=stamps, columns=names), meta or {}


class Node:
    """The documented node: ports appear when they are first named."""

    def __new__(cls, *args: Any, **options: Any) -> Any:
        made = super().__new__(cls)
        made.logger, made.ports = logging.getLogger("timeflux"), {}
        return made

    def __getattr__(self, name: str) -> Any:
        if name.split("_")[0] in ("i", "o"):
            self.ports[name] = Port()
            setattr(self, name, self.ports[name])
            return self.ports[name]
        raise AttributeError(name)

    def clear(self) -> None:
        for port in self.ports.values():
            port.clear()


@pytest.fixture(scope="module")
def module() -> Iterator[Any]:
    names = ["timeflux", "timeflux.core", "timeflux.core.node"]
    if importlib.util.find_spec("timeflux") is None:
        made = {name: ModuleType(name) for name in names}
        made["timeflux.core.node"].Node = Node  # type: ignore[attr-defined]
        sys.modules.update(made)
    sys.modules.pop("tectum.timeflux", None)
    yield importlib.import_module("tectum.timeflux")
    sys.modules.pop("tectum.timeflux", None)
    if isinstance(sys.modules.get("timeflux"), ModuleType) and not hasattr(sys.modules["timeflux"], "__path__"):
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    windows = REC.windows(0.4, hop=0.2)
    labels = np.asarray(["left", "right"])[np.arange(windows.shape[0]) % 2]
    windows = windows.with_(coords={**windows.coords, "trial": {"label": labels}})
    path = tmp_path_factory.mktemp("model") / "hands"
    return tectum.LightCNN(epochs=1, device="cpu", validation=0.0).fit(windows).save(str(path))


def frame(first: int, stop: int) -> pd.DataFrame:
    stamps = pd.to_datetime(START * 10**9 + np.arange(first, stop) * 4_000_000)
    return pd.DataFrame(ROWS[first:stop], index=stamps, columns=list(NAMES))


def cycle(node: Any, data: pd.DataFrame | None, events: pd.DataFrame | None = None) -> tuple[Any, Any]:
    """Run one cycle as the scheduler does: clear, fill, update."""
    node.clear()
    if data is not None:
        node.i.data = data
    if events is not None:
        node.i_events.data = events
    node.update()
    return node.o.data, node.o_events.data


def test_a_node_gives_what_a_stream_gives(module: Any, model: Path) -> None:
    node = module.Decode(str(model), rate=RATE, hop=0.1, evidence={"threshold": 0.5})
    shares, commands = [], []
    for first in range(0, 1000, 25):
        o, events = cycle(node, frame(first, first + 25))
        shares += [] if o is None else [o]
        commands += [] if events is None else [events]
    found, said = pd.concat(shares), pd.concat(commands)
    rule = tectum.Evidence(threshold=0.5)
    wanted = Stream(tectum.load(model), rate=RATE, hop=0.1, channels=NAMES, evidence=rule).push(ROWS)
    assert list(found.columns) == ["left", "right"]
    np.testing.assert_allclose(found.to_numpy(), [d.proba for d in wanted], atol=1e-6)
    np.testing.assert_allclose(module._seconds(found.index) - START, [d.time for d in wanted], atol=1e-5)
    assert said["label"].tolist() == [d.label for d in wanted if d.label is not None]
    assert set(said["data"].iloc[0]) == {"proba", "latency_s", "flags", "cue"}
    node.terminate()


def test_events_lock_windows(module: Any, model: Path) -> None:
    node = module.Decode(model, rate=RATE, offset=0.0, channels=list(NAMES))
    events = pd.DataFrame({"label": ["go"], "data": [{}]}, index=pd.to_datetime([START * 10**9 + 10**9]))
    made = [cycle(node, frame(k, k + 100), events if k == 200 else None)[1] for k in range(0, 1000, 100)]
    (said,) = [events for events in made if events is not None]
    assert said["data"].iloc[0]["cue"] == "go"
    assert module._seconds(said.index)[0] - START == pytest.approx(1.4 - 1 / RATE, abs=1e-5)


def test_silence_is_neutral_and_then_reported_once(module: Any, model: Path, caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    node = module.Decode(model, rate=RATE, clock=lambda: now[0])
    assert cycle(node, None) == (None, None)
    cycle(node, frame(0, 200))
    now[0] = 0.3
    o, events = cycle(node, None)
    assert (o.to_numpy().tolist(), events) == ([[0.5, 0.5]], None)
    assert node.o.meta == {"flags": [["stall"]]}
    for k, shown in enumerate((["timeout"], None)):
        now[0] = 6.0 + k
        _, events = cycle(node, None)
        assert (None if events is None else events["label"].tolist()) == shown
    assert "expected samples within 5 s" in caplog.text


def test_without_timeflux_the_package_is_named(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timeflux.core.node", None)
    monkeypatch.delitem(sys.modules, "tectum.timeflux")
    with pytest.raises(MissingExtraError, match="pip install timeflux"):
        importlib.import_module("tectum.timeflux")
