"""BOXY and Hitachi, tables of light as text: every row as wide as its header says, then MNE.

Neither states how many samples there are. MNE takes the rows for whole.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from tectum.core.errors import LoadError, explain

from ...files import reading
from ..opened import Opened
from .nirs import CUT, Light, check_light, check_rate

_DETECTORS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_MOST_SOURCES = 1 << 12
_KINDS = ("DC", "AC", "Ph")


def check_boxy(path: Path) -> Light:
    """Compare the rows of a BOXY text with its columns, and those with the numbers of detectors and sources."""
    text = path.read_bytes().decode("ascii").replace("\r\n", "\n")
    head, begun, body = text.partition("#DATA BEGINS")
    lines = body.split("\n")
    last = next((k for k, line in enumerate(lines) if "#DATA ENDS" in line), 0)
    if not begun or last < 4:
        got = "no end of the data" if begun else "no data"
        raise LoadError(explain(str(path), expected="rows up to #DATA ENDS", got=got, fix=CUT))
    rate = _counted(head, r"Updat[ea] Rate \(Hz\)")
    check_rate(rate, path)
    detectors, sources = int(_counted(head, "Detector Channels")), int(_counted(head, "External MUX Channels"))
    if not (1 <= detectors <= len(_DETECTORS) and 1 <= sources <= _MOST_SOURCES):
        got = f"{detectors} and {sources}"
        raise LoadError(explain(str(path), expected="numbers of detectors and sources", got=got))
    names, rows = lines[1].split(), lines[3:last]
    mixed = "exmux" in names  # each source in a row of its own
    ends = [""] if mixed else [str(k + 1) for k in range(sources)]
    wanted = {f"{d}-{kind}{end}" for d in _DETECTORS[:detectors] for kind in _KINDS for end in ends}
    found = [name for name in names if re.fullmatch(r"[A-Z]-(DC|AC|Ph)\d*", name)]
    if len(set(names)) != len(names) or set(found) != wanted:
        got = f"{sorted(set(found) ^ wanted)[:4]} too many or missing"
        expected = f"columns of {detectors} detectors and {sources} sources"
        raise LoadError(explain(str(path), expected=expected, got=got))
    least = 1 + max(names.index(name) for name in wanted) if mixed else len(names)
    if len(lines[2].split()) >= least:  # MNE would pass over it
        expected = "a line between the names of columns and the first row"
        raise LoadError(explain(str(path), expected=expected, got="a row", fix=CUT))
    _check_rows(path, names, rows, least)
    every = sources if mixed else 1
    if len(rows) % every:
        raise LoadError(explain(str(path), expected=f"rows of {every} sources", got=f"{len(rows)} rows", fix=CUT))
    return Light(3 * detectors * sources, len(rows) // every, rate)


def _counted(head: str, label: str) -> float:
    """Return the number in front of a label of BOXY's header."""
    found = re.search(rf"(?m)^\s*(\S+) .*{label}", head)
    return float(found[1]) if found else 0.0


def _check_rows(path: Path, names: list[str], rows: list[str], least: int) -> None:
    """Refuse rows of BOXY with fewer or more numbers than there are columns, and what MNE takes for two numbers."""
    cells = [row.split() for row in rows]
    widths = np.array([len(row) for row in cells])
    odd = np.flatnonzero((widths < least) | (widths > len(names)))
    if len(odd):
        expected = f"{least} to {len(names)} numbers in a row"
        raise LoadError(explain(str(path), expected=expected, got=f"{widths[odd[0]]} in row {odd[0] + 1}", fix=CUT))
    values = np.array([cell for row in cells for cell in row], dtype=np.float64)
    if not np.isfinite(values).all():
        raise LoadError(explain(str(path), expected="finite numbers", got=f"{values[~np.isfinite(values)][0]}"))
    if "digaux" in names and any("e" in row.lower() for row in rows):
        fix = "MNE would take the exponents for columns: write the numbers out"
        raise LoadError(explain(str(path), expected="numbers without exponents", got="some with", fix=fix))


def check_hitachi(path: Path) -> Light:
    """Compare the rows of a Hitachi table with its columns; the first counts the samples."""
    text = path.read_bytes().decode("latin-1").rstrip("\r\n")
    lines = [line.rstrip("\r") for line in text.split("\n" if "\n" in text else "\r")]
    start = next((k for k, line in enumerate(lines) if line.rstrip(",") == "Data"), len(lines))
    if start > len(lines) - 3:
        raise LoadError(explain(str(path), expected="rows of data", got="none", fix=CUT))
    about = dict(line.rstrip(",").partition(",")[::2] for line in lines[:start])
    period = float(about.get("Sampling Period[s]", "nan"))
    rate = 1 / period if period else 0.0
    check_rate(rate, path)
    names, rows = lines[start + 1].rstrip(",").split(","), lines[start + 2 :]
    widths = np.array([row.count(",") + 1 for row in rows])
    odd = np.flatnonzero(widths != len(names))
    if len(odd) or len(set(names)) != len(names):
        got = f"{widths[odd[0]]} in row {odd[0] + 1}" if len(odd) else "columns of one name"
        raise LoadError(explain(str(path), expected=f"{len(names)} numbers in a row", got=got, fix=CUT))
    with reading(path, "a table of numbers"):
        cells = [row.replace(":", "") for row in rows]
        values = np.loadtxt(cells, delimiter=",", dtype=np.float64, ndmin=2, comments=None)
    if len(values) != len(rows) or not np.isfinite(values).all():
        raise LoadError(explain(str(path), expected=f"{len(rows)} rows of finite numbers", got="others"))
    if names[0].startswith("Probe") and (np.diff(values[:, 0]) != 1).any():
        at = int(np.flatnonzero(np.diff(values[:, 0]) != 1)[0])
        got = f"{values[at + 1, 0]:g} after {values[at, 0]:g}"
        raise LoadError(explain(str(path), expected="rows numbered one after the other", got=got, fix=CUT))
    channels = sum(name != "Time" and not re.match("Probe[0-9]+", name) for name in names)
    return Light(channels, len(rows), rate)


def _open_boxy(path: Path, truncated: bool) -> Opened:
    import mne

    light = check_boxy(path)
    raw = mne.io.read_raw_boxy(path, verbose="WARNING")
    check_light(raw, light, path)
    return Opened("BOXY", [raw])


def _open_hitachi(path: Path, truncated: bool) -> Opened:
    import mne

    light = check_hitachi(path)
    raw = mne.io.read_raw_hitachi(path, verbose="WARNING")
    check_light(raw, light, path)
    return Opened("Hitachi", [raw])


OPENERS = {"BOXY": _open_boxy, "Hitachi": _open_hitachi}
