"""Decoders on live streams: the same numbers as offline, a stated latency, and a flag for every fault."""

from .decision import Budget, Decision, Statistics, StreamError, StreamTimeout
from .evidence import Evidence
from .log import read_log, replay
from .outlet import Outlet
from .prepare import realtime
from .rehearse import Calibration, calibrate, rehearse
from .runtime import Stream
from .sources import Board, Buffered, Inlet, Markers, Replayed, lsl, markers
from .view import line

__all__ = [
    "Board",
    "Budget",
    "Buffered",
    "Calibration",
    "Decision",
    "Evidence",
    "Inlet",
    "Markers",
    "Outlet",
    "Replayed",
    "Statistics",
    "Stream",
    "StreamError",
    "StreamTimeout",
    "calibrate",
    "line",
    "lsl",
    "markers",
    "read_log",
    "realtime",
    "rehearse",
    "replay",
]
