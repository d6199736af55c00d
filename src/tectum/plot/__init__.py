"""Figures: functions that take arrays and ``ax=None``, draw like a paper's figure, and return Axes."""

from .brain import carpet, slices
from .curves import bands, curve, histogram, lines, ranks
from .heat import blocks, image, matrix
from .posterior import density, forest
from .quicklook import quicklook, raster, traces
from .style import PALETTE, SEQUENTIAL, SIGNED, axes, style
from .units import clocks, depths, fluorescence, gaps, psth, rates, rois, tuning, with_behaviour

__all__ = [
    "PALETTE",
    "SEQUENTIAL",
    "SIGNED",
    "axes",
    "bands",
    "blocks",
    "carpet",
    "clocks",
    "curve",
    "density",
    "depths",
    "fluorescence",
    "forest",
    "gaps",
    "histogram",
    "image",
    "lines",
    "matrix",
    "psth",
    "quicklook",
    "ranks",
    "raster",
    "slices",
    "rates",
    "rois",
    "style",
    "traces",
    "tuning",
    "with_behaviour",
]
