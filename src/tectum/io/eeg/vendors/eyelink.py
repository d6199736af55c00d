"""EyeLink's text: whether every block of samples ends and steps by the clock that it states, then MNE."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import LoadError, MissingExtraError, explain

from ..opened import Opened
from .recorders import CUT, check_opened, check_rate

_TIME = re.compile(r"\d+(\.\d+)?")
_START = re.compile(r"\d|[A-Z_]+$")
_SLACK = 1000.0  # ms between a block's own times and those of its samples
_LONGEST = 50_000_000  # samples, pauses between blocks among them


@dataclass
class Block:
    """A block of samples: begin and end in ms, rate in Hz, what is measured, times and numbers of words of samples."""

    start: float
    line: int
    stop: float = math.nan
    rate: float = math.nan
    columns: set[str] = field(default_factory=set)
    times: list[float] = field(default_factory=list)
    words: set[int] = field(default_factory=set)


def _blocks(path: Path) -> list[Block]:
    """Return the blocks of samples in a text."""
    made: list[Block] = []
    open_block: Block | None = None
    line = ""
    with open(path, encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            words = line.split()
            if line.startswith("START"):
                if open_block is not None:
                    _unfinished(open_block, path)
                open_block = Block(float(words[1]), number)
            elif open_block is not None and words:
                if not _START.match(words[0]):  # a sample whose time is damaged, say, which MNE would leave out
                    got = f"{line[:40]!r} in line {number}"
                    raise LoadError(explain(str(path), expected="a sample or an event", got=got, fix=CUT))
                _take(open_block, words, path)
                if words[0] == "END":
                    made.append(open_block)
                    open_block = None
            elif words and (words[0] == "END" or (_TIME.fullmatch(words[0]) and len(words) > 3)):
                got = f"{line[:40]!r} in line {number}"
                raise LoadError(explain(str(path), expected="samples between lines START and END", got=got, fix=CUT))
    if open_block is not None:
        _unfinished(open_block, path)
    if not line.endswith("\n") and not line.startswith("END"):
        raise LoadError(explain(str(path), expected="whole lines", got=f"{line[:40]!r} at the end", fix=CUT))
    return made


def _take(block: Block, words: Sequence[str], path: Path) -> None:
    """Add a line to its block: a sample, the line that states the rate, or the end."""
    if words[0][0].isnumeric():
        block.times.append(float(words[0]))
        block.words.add(len(words))
    elif words[0] == "SAMPLES" and math.isnan(block.rate):
        block.columns = _columns(words)
        block.rate = check_rate(float(words[words.index("RATE") + 1]), path)
    elif words[0] == "END":
        block.stop = float(words[1])


def _columns(words: Sequence[str]) -> set[str]:
    """Return one word for each number of a sample, by what the line SAMPLES announces."""
    eyes = [eye for eye in ("LEFT", "RIGHT") if eye in words]
    found = {eye + kind for eye in eyes for kind in ("x", "y", "pupil", *(("vx", "vy") if "VEL" in words else ()))}
    more = {"RES": ("rx", "ry"), "INPUT": ("input",), "HTARGET": ("hx", "hy", "distance")}
    return found.union(*(names for word, names in more.items() if word in words))


def _unfinished(block: Block, path: Path) -> None:
    """Refuse a block without an end, which MNE would leave out."""
    expected, got = f"an END of the block that starts in line {block.line}", "none"
    raise LoadError(explain(str(path), expected=expected, got=got, fix=CUT))


def _check_block(block: Block, path: Path) -> None:
    """Refuse a block whose samples do not follow each other by the clock, or that are of several lengths."""
    times, step = np.array(block.times), 1000.0 / block.rate
    where = f"in the block that starts in line {block.line}"
    if math.isnan(step) or not len(times):
        raise LoadError(explain(str(path), expected=f"a rate and samples {where}", got=f"{len(times)} samples"))
    n = len(block.columns)
    if not n < min(block.words) <= max(block.words) <= n + 3:  # behind the numbers are up to two words of status
        got = f"{min(block.words)} to {max(block.words)} words"
        raise LoadError(explain(str(path), expected=f"a time and {n} numbers a sample {where}", got=got, fix=CUT))
    off = np.abs(times - times[0] - step * np.arange(len(times)))
    slack = 1e-6 + (min(step, 1.0) if step % 1 else 0.0)  # times are often written in whole ms
    if not off.max() <= slack:
        late = int(np.argmax(~(off <= slack)))
        expected, got = f"samples every {step:g} ms {where}", f"{times[late]:.15g} as the time of sample {late + 1}"
        raise LoadError(explain(str(path), expected=expected, got=got, fix=CUT))
    if not (abs(times[0] - block.start) <= _SLACK and abs(block.stop - times[-1]) <= _SLACK):
        expected = f"samples from {block.start:.15g} to {block.stop:.15g} ms {where}"
        got = f"{times[0]:.15g} to {times[-1]:.15g}"
        raise LoadError(explain(str(path), expected=expected, got=got, fix=CUT))


def check_eyelink(path: Path) -> tuple[int, int, float]:
    """Compare the blocks of an EyeLink text with their clocks; return numbers of channels and samples and the rate.

    Raises
    ------
    LoadError
        If a block does not end, samples are missing inside of one, or blocks are not one after the other at one rate.
    """
    blocks = _blocks(path)
    if not blocks:
        raise LoadError(explain(str(path), expected="blocks of samples between START and END", got="none", fix=CUT))
    for block in blocks:
        _check_block(block, path)
    rates = sorted({block.rate for block in blocks})
    if len(rates) > 1:
        raise LoadError(explain(str(path), expected="one rate", got=", ".join(f"{rate:g} Hz" for rate in rates)))
    edges = np.array([[block.times[0], block.times[-1]] for block in blocks])
    length = (edges[-1, 1] - edges[0, 0]) * rates[0] / 1000.0
    if not ((edges[1:, 0] > edges[:-1, 1]).all() and length < _LONGEST):
        expected, got = f"blocks one after the other, less than {_LONGEST} samples", f"{length:.0f} samples"
        raise LoadError(explain(str(path), expected=expected, got=got, fix=CUT))
    samples = len(blocks[0].times) if len(blocks) == 1 else math.ceil(length + 0.5)  # MNE fills the pauses
    return len(set().union(*(block.columns for block in blocks))), samples, rates[0]


def _open_eyelink(path: Path, truncated: bool) -> Opened:
    """Open an EyeLink text, in memory as MNE does; pauses between blocks are filled and marked as bad."""
    import mne

    if find_spec("pandas") is None:
        got, fix = "it is not installed", "pip install pandas"
        raise MissingExtraError(explain(str(path), expected="the package pandas", got=got, fix=fix))
    wanted = check_eyelink(path)
    raw: Any = mne.io.read_raw_eyelink(path, verbose="WARNING")
    check_opened(raw, path, *wanted)
    return Opened("EyeLink", [raw])


#: Format -> how it is opened after its blocks were compared with their clocks.
OPENERS = {"EyeLink": _open_eyelink}
