"""One line in a terminal that shows what a stream decides."""

from __future__ import annotations

from collections.abc import Sequence

from .decision import Decision

_BLOCKS = " ▁▂▃▄▅▆▇█"


def line(decision: Decision, labels: Sequence[str | int], *, width: int = 100) -> str:
    """Return decision, probabilities as bars, latency and flags as one line of text.

    Parameters
    ----------
    decision : Decision
        What to show.
    labels : sequence
        All classes in order.
    width : int, default 100
        Columns; the line is cut to it and filled up.

    Examples
    --------
    >>> line(Decision("left", (0.75, 0.25), 2.0, 0.0012, 0.001, ("gap",)), ("left", "right"), width=60).rstrip()
    '    2.00 s  left      left▆ 0.75 right▂ 0.25    1.2 ms  gap'
    """
    name = "-" if decision.label is None else str(decision.label)
    bars = " ".join(f"{label}{_bar(p)} {p:.2f}" for label, p in zip(labels, decision.proba, strict=True))
    flags = " ".join(decision.flags)
    text = f"{decision.time:8.2f} s  {name:8}  {bars}  {1e3 * decision.latency_s:5.1f} ms  {flags}"
    return text[:width].ljust(width)


def _bar(share: float) -> str:
    return _BLOCKS[round(share * (len(_BLOCKS) - 1))]
