"""A decoder as a node of timeflux: ``module: tectum.timeflux``, ``class: Decode`` in a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import time_ns
from typing import Any

import numpy as np

from tectum.core.errors import MissingExtraError
from tectum.deploy import read_decoder
from tectum.stream import Decision, Stream, StreamTimeout
from tectum.stream.evidence import as_evidence

try:
    from timeflux.core.node import Node
except ImportError as cause:
    raise MissingExtraError("a node of timeflux needs timeflux: pip install timeflux") from cause


class Decode(Node):  # type: ignore[misc]
    """Decide on the samples of the default input.

    Inputs are ``i``, samples with channels as columns and times as index, and ``i_events``, events with a column
    "label", if windows are locked to them. Outputs are ``o``, the probability of every class, and ``o_events``, the
    commands: "label" holds the class, "data" its probability, latency, flags and marker. When nothing arrives the
    outputs are those of :meth:`tectum.Stream.poll`; after the timeout an event "timeout" is sent once.

    Parameters
    ----------
    model : path
        A saved or exported decoder.
    rate : float
        Nominal samples per second.
    channels : sequence of str, optional
        Names of the channels; by default the columns of the first samples.
    evidence : mapping, optional
        Fields of :class:`tectum.Evidence`.
    options
        Others of :class:`tectum.Stream`, such as ``hop``, ``offset``, ``units`` and ``log``.
    """

    def __init__(
        self,
        model: str | Path,
        rate: float,
        channels: Sequence[str] | None = None,
        evidence: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self._decoder = read_decoder(Path(model))
        self._options = {"rate": float(rate), "evidence": as_evidence(evidence) if evidence else None, **options}
        self._stream = None if channels is None else self._made(channels)
        self._late = False

    def update(self) -> None:
        """Take what has arrived, give what was decided."""
        made: list[Decision] = []
        if self.i.ready():
            if self._stream is None:
                self._stream = self._made([str(name) for name in self.i.data.columns])
            made += self._marked(self._stream)
            made += self._stream.push(self.i.data.to_numpy(), _seconds(self.i.data.index))
            self._late = False
        elif self._stream is not None:
            made += self._marked(self._stream)
            made += self._silence(self._stream)
        self._send(made)

    def terminate(self) -> None:
        """Finish the log, if one is kept."""
        if self._stream is not None:
            self._stream.close()

    def _made(self, channels: Sequence[str]) -> Stream:
        return Stream(self._decoder, channels=list(channels), **self._options)

    def _marked(self, stream: Stream) -> list[Decision]:
        """Hand on events, where windows are locked to them."""
        if self._options.get("offset") is None or not self.i_events.ready():
            return []
        found = self.i_events.data
        pairs = zip(_seconds(found.index).tolist(), found["label"].tolist(), strict=True)
        return [made for time, code in pairs for made in stream.mark(time, code)]

    def _silence(self, stream: Stream) -> list[Decision]:
        """Return neutral decisions of a silence; report its end of patience once."""
        try:
            return stream.poll()
        except StreamTimeout as error:
            if not self._late:
                self.logger.error(str(error))
                now = np.asarray([np.datetime64(time_ns(), "ns")])
                self.o_events.set([["timeout", {"error": str(error)}]], timestamps=now, names=["label", "data"])
            self._late = True
            return []

    def _send(self, made: Sequence[Decision]) -> None:
        """Put decisions on the outputs."""
        if not made or self._stream is None:
            return
        names, times = [str(label) for label in self._stream.labels], _stamps([d.time for d in made])
        flags = [list(d.flags) for d in made]
        self.o.set([list(d.proba) for d in made], timestamps=times, names=names, meta={"flags": flags})
        fired = [(time, d) for time, d in zip(times, made, strict=True) if d.label is not None]
        if fired:
            rows = [[str(d.label), _told(d)] for _, d in fired]
            self.o_events.set(rows, timestamps=np.asarray([time for time, _ in fired]), names=["label", "data"])


def _told(made: Decision) -> dict[str, Any]:
    """Return what an event says beside its label."""
    return {"proba": max(made.proba), "latency_s": made.latency_s, "flags": list(made.flags), "cue": made.cue}


def _seconds(index: Any) -> np.ndarray:
    """Return times in s of an index of dates."""
    nanoseconds: np.ndarray = index.to_numpy().astype("datetime64[ns]").astype(np.int64)
    return nanoseconds / 1e9


def _stamps(seconds: Sequence[float]) -> np.ndarray:
    """Return dates of times in s; before the first sample there is none, and 1970 stands for it."""
    made: np.ndarray = (np.nan_to_num(np.asarray(seconds)) * 1e9).round().astype(np.int64).astype("datetime64[ns]")
    return made
