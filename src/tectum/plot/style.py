"""One look for every figure: small sans type, no box, colours that colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from matplotlib.axes import Axes
from torch import Tensor

#: Categories in the order of use (Okabe and Ito, 2008, darkest first).
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6F4E7C", "#8C8C8C")
#: Colour map of amounts, and of signed numbers around zero.
SEQUENTIAL, SIGNED = "magma_r", "RdBu_r"

_RC: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.prop_cycle": cycler(color=PALETTE),
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "svg.fonttype": "none",
    "image.interpolation": "nearest",
    "figure.constrained_layout.use": True,
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the look to every figure made inside the block, or by a function decorated with ``@style()``."""
    with mpl.rc_context(_RC):
        yield


def axes(ax: Axes | None = None, *, width: float = 6.0, height: float = 2.6) -> Axes:
    """Return ``ax``, or the axes of a new figure of the given size in inches."""
    if ax is not None:
        return ax
    with style():
        return plt.figure(figsize=(width, height)).add_subplot()


def array(values: Tensor | np.ndarray | Any) -> np.ndarray:
    """Return values of any kind and device as a NumPy array."""
    if not isinstance(values, Tensor):
        return np.asarray(values)
    plain = values.detach().resolve_conj().resolve_neg()
    return (plain.float() if plain.dtype == torch.bfloat16 else plain).cpu().numpy()


def span(ax: Axes, first: float, last: float) -> None:
    """Limit the abscissa to a range, unless it is empty."""
    if last > first:
        ax.set_xlim(first, last)


def label(ax: Axes, x: str, y: str, title: str = "") -> Axes:
    """Name both axes (with units) and, if given, the panel."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    if title:
        ax.set_title(title)
    return ax
