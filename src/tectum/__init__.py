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
    "Causal": "tectum.preprocess.causal",
    "Stream": "tectum.stream.runtime",
    "Evidence": "tectum.stream.evidence",
    "export": "tectum.deploy.exported",
    "read": "tectum.io.read",
    "align_clocks": "tectum.core.sync",
    "ClockMap": "tectum.core.sync",
    "DynamicConnectome": "tectum.models.dynamic_connectome.estimator",
    "DynamicConnectomeResult": "tectum.models.dynamic_connectome.result",
    "BiCluster": "tectum.models.biclustering.estimator",
    "BiClusterResult": "tectum.models.biclustering.result",
    "DuIN": "tectum.models.du_in.estimator",
    "DuINResult": "tectum.models.du_in.result",
    "HMMGLM": "tectum.models.hmm_glm.estimator",
    "HMMGLMResult": "tectum.models.hmm_glm.result",
    "Decoder": "tectum.nn.decoder",
    "DecoderResult": "tectum.nn.decoder",
    "LightCNN": "tectum.models.light_cnn",
    "LightCNNResult": "tectum.models.light_cnn",
    "TorchDecoder": "tectum.models.torch_decoder",
    "CrossValidation": "tectum.evaluate.decoding",
    "OnlineScore": "tectum.evaluate.online",
}
_ROOMS = ("datasets", "evaluate", "preprocess", "plot", "stats", "nn", "io", "models", "stream", "deploy")

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
    from .core.sync import ClockMap as ClockMap
    from .core.sync import align_clocks as align_clocks
    from .deploy.exported import export as export
    from .evaluate.decoding import CrossValidation as CrossValidation
    from .evaluate.online import OnlineScore as OnlineScore
    from .io.read import read as read
    from .models.biclustering.estimator import BiCluster as BiCluster
    from .models.biclustering.result import BiClusterResult as BiClusterResult
    from .models.du_in.estimator import DuIN as DuIN
    from .models.du_in.result import DuINResult as DuINResult
    from .models.dynamic_connectome.estimator import DynamicConnectome as DynamicConnectome
    from .models.dynamic_connectome.result import DynamicConnectomeResult as DynamicConnectomeResult
    from .models.hmm_glm.estimator import HMMGLM as HMMGLM
    from .models.hmm_glm.result import HMMGLMResult as HMMGLMResult
    from .models.light_cnn import LightCNN as LightCNN
    from .models.light_cnn import LightCNNResult as LightCNNResult
    from .models.torch_decoder import TorchDecoder as TorchDecoder
    from .nn.decoder import Decoder as Decoder
    from .nn.decoder import DecoderResult as DecoderResult
    from .preprocess.causal import Causal as Causal
    from .report import Report as Report
    from .report import summary as summary
    from .stream.evidence import Evidence as Evidence
    from .stream.runtime import Stream as Stream
