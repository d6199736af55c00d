"""Decoders on live streams: the same numbers as offline, a stated latency, and a flag for every fault."""

from .decision import Budget, Decision, Statistics, StreamError, StreamTimeout
from .evidence import Evidence
from .log import read_log, replay
from .outlet import Outlet
from .prepare import realtime
from .runtime import Stream
from .sources import Board, Buffered, Inlet, Replayed, lsl
from .view import line

__all__ = [
    "Board",
    "Budget",
    "Buffered",
    "Decision",
    "Evidence",
    "Inlet",
    "Outlet",
    "Replayed",
    "Statistics",
    "Stream",
    "StreamError",
    "StreamTimeout",
    "line",
    "lsl",
    "read_log",
    "realtime",
    "replay",
]
