"""Decisions as a stream of their own: what other programs of the laboratory listen to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tectum.core.errors import MissingExtraError

from .decision import Decision


class Outlet:
    """Send decisions over the Lab Streaming Layer: probabilities in one stream, commands as markers in another.

    The first is called NAME and has a channel for each class; the second is called NAME-commands and gets the label of
    every decision that is not neutral. Time stamps are those of the decisions, which rest on the clock of their source.

    Parameters
    ----------
    name : str
        Name of the stream.
    labels : sequence
        Classes in order, as ``stream.labels``.
    """

    def __init__(self, name: str, labels: Sequence[str | int]) -> None:
        try:
            from mne_lsl.lsl import StreamInfo, StreamOutlet
        except ImportError as cause:
            raise MissingExtraError('sending LSL needs mne-lsl: pip install "tectum[bci]"') from cause
        shares = StreamInfo(name, "probability", len(labels), 0, "float32", f"tectum-{name}")
        shares.set_channel_names([str(label) for label in labels])
        commands = StreamInfo(f"{name}-commands", "Markers", 1, 0, "string", f"tectum-{name}-commands")
        self._shares: Any = StreamOutlet(shares)
        self._commands: Any = StreamOutlet(commands)

    def send(self, decision: Decision) -> None:
        """Send one decision."""
        self._shares.push_sample(np.asarray(decision.proba, dtype=np.float32), timestamp=decision.time)
        if decision.label is not None:
            self._commands.push_sample([str(decision.label)], timestamp=decision.time)
