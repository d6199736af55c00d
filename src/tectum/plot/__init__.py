"""Figures: functions that take arrays and ``ax=None``, draw like a paper's figure, and return Axes."""

from .brain import carpet, slices
from .curves import bands, curve, histogram, lines, ranks
from .heat import blocks, image, matrix
from .posterior import density, forest
from .quicklook import quicklook, raster, traces
from .style import PALETTE, SEQUENTIAL, SIGNED, axes, style

__all__ = [
    "PALETTE",
    "SEQUENTIAL",
    "SIGNED",
    "axes",
    "bands",
    "blocks",
    "carpet",
    "curve",
    "density",
    "forest",
    "histogram",
    "image",
    "lines",
    "matrix",
    "quicklook",
    "ranks",
    "raster",
    "slices",
    "style",
    "traces",
]
