"""Decoders leave as ONNX or torch.export files that carry their card, and come back without running foreign code."""

from tectum.core.errors import MismatchError

from .card import NotExportable
from .exported import Exported, export, load, read_decoder
from .steps import export_steps

__all__ = ["Exported", "MismatchError", "NotExportable", "export", "export_steps", "load", "read_decoder"]
