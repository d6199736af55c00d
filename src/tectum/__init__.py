"""tectum: analysis of recorded brain data on PyTorch tensors.

The names below are imported when they are first used, so that ``import tectum`` costs milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

#: Public name -> module that defines it. This table is the whole public surface at the top level.
_HOMES = {
    "Recording": "tectum.core.recording",
    "Spikes": "tectum.core.spikes",
    "Intervals": "tectum.core.intervals",
    "Graph": "tectum.core.graph",
    "Session": "tectum.core.session",
    "load": "tectum.core.serialize",
    "Report": "tectum.report",
    "summary": "tectum.report",
    "read": "tectum.io.read",
    "DynamicConnectome": "tectum.models.dynamic_connectome.estimator",
    "DynamicConnectomeResult": "tectum.models.dynamic_connectome.result",
    "BiCluster": "tectum.models.biclustering.estimator",
    "BiClusterResult": "tectum.models.biclustering.result",
    "HMMGLM": "tectum.models.hmm_glm.estimator",
    "HMMGLMResult": "tectum.models.hmm_glm.result",
}
_ROOMS = ("datasets", "evaluate", "preprocess", "plot", "stats", "nn", "io", "models")

__all__ = ["__version__", *_HOMES, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"tectum.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'tectum' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from .core.graph import Graph as Graph
    from .core.intervals import Intervals as Intervals
    from .core.recording import Recording as Recording
    from .core.serialize import load as load
    from .core.session import Session as Session
    from .core.spikes import Spikes as Spikes
    from .io.read import read as read
    from .models.biclustering.estimator import BiCluster as BiCluster
    from .models.biclustering.result import BiClusterResult as BiClusterResult
    from .models.dynamic_connectome.estimator import DynamicConnectome as DynamicConnectome
    from .models.dynamic_connectome.result import DynamicConnectomeResult as DynamicConnectomeResult
    from .models.hmm_glm.estimator import HMMGLM as HMMGLM
    from .models.hmm_glm.result import HMMGLMResult as HMMGLMResult
    from .report import Report as Report
    from .report import summary as summary
