"""CSV tables of Inscopix and nVoke: traces of cells over time, the second row telling which were accepted."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tectum.core.errors import InputError, LoadError, explain
from tectum.core.recording import Recording
from tectum.core.session import Session
from tectum.core.spikes import Spikes

from .delimited import LONGEST, read_table
from .events import Fix, frame_times, make_spikes, span, support_without_gaps
from .files import reading

_STATUS = {"accepted", "rejected", "undecided"}


def is_inscopix(path: Path) -> bool:
    """Tell whether a CSV file has the two header rows of Inscopix."""
    if not path.is_file() or path.suffix.lower() != ".csv":
        return False
    with open(path, encoding="utf-8", errors="replace") as stream:
        first, second = stream.readline(), stream.readline()
    words = {word.strip().lower() for word in second.split(",")[1:]}
    return bool(words) and words <= _STATUS and first.count(",") == second.count(",")


def read_inscopix(
    path: str | Path,
    *,
    events: str | Path | None = None,
    accepted_only: bool = True,
    fix: Fix = None,
    subject: str = "",
    session: str = "",
) -> Session:
    """Read exported traces, and the events if there is a file of them.

    Parameters
    ----------
    path : path
        Traces: cell names in the first row, their status in the second, then time in s and values.
    events : path, optional
        A table with the columns "Time (s)", "Cell Name" and "Value".
    accepted_only : bool, default True
        Keep the cells whose status is "accepted".
    fix : {None, "sort", "drop"}
        What to do with times that are repeated or step back.
    subject, session : str
        Who and when: the table does not know.

    Returns
    -------
    Session
        ``traces`` (time, unit), and ``events`` (:class:`Spikes`; ``meta["kind"]`` is "inferred").

    Raises
    ------
    LoadError
        If a file is damaged, or (also an :class:`InputError`) its times are not increasing.
    """
    path = Path(path)
    with reading(path, "traces exported by Inscopix"):
        names, status, table = _rows(path)
        keep = np.flatnonzero(status == "accepted") if accepted_only else np.arange(len(names))
        if len(keep) == 0:
            counts = ", ".join(f"{int((status == s).sum())} {s}" for s in np.unique(status))
            raise InputError(explain("status", expected="an accepted cell", got=counts, fix="pass accepted_only=False"))
        times, frames = frame_times(table[:, 0], fix=fix, where="time")
        values = table[:, 1:] if frames is None else table[frames, 1:]
        units = {"id": np.arange(len(names))[keep], "name": names[keep], "status": status[keep]}
        step = {"step": "read", "format": "inscopix", "cells": len(names), "kept": len(keep), "fix": fix}
        who: dict[str, Any] = {"subject": subject, "session": session}
        traces = Recording(
            data=torch.from_numpy(np.ascontiguousarray(values[:, keep], dtype=np.float32)),
            dims=("time", "unit"),
            times=torch.from_numpy(times.copy()),
            coords={"unit": units},
            intervals={"support": support_without_gaps(times, str(path))},
            modality="calcium",
            history=({**step, "assumed": "the unit of the traces is unknown"},),
            **who,
        )
        parts: dict[str, Recording | Spikes] = {"traces": traces}
    if events is not None:
        parts["events"] = _events(Path(events), traces, fix, who)
    return Session(items_=parts, meta={"format": "inscopix"}, **who)


def _rows(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return cell names, their status and the numbers (row, 1 + cell)."""
    if path.stat().st_size > LONGEST:
        raise LoadError(explain(str(path), expected=f"at most {LONGEST} bytes", got=str(path.stat().st_size)))
    text = path.read_text(encoding="utf-8-sig")
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if len(rows) < 3 or len({len(row) for row in rows}) != 1 or len(rows[0]) < 2:
        raise ValueError("no two header rows with rows of as many values below")
    names = np.asarray([cell.strip() for cell in rows[0][1:]], dtype=str)
    status = np.asarray([cell.strip().lower() for cell in rows[1][1:]], dtype=str)
    if not set(status.tolist()) <= _STATUS or len(np.unique(names)) != len(names):
        raise ValueError("the second row tells no status, or a name occurs twice")
    blank = [[cell.strip() or "nan" for cell in row] for row in rows[2:]]
    return names, status, np.asarray(blank, dtype=np.float64)


def _events(path: Path, traces: Recording, fix: Fix, who: dict[str, Any]) -> Spikes:
    """Read the table of events; those of cells that were not kept are left out."""
    columns = read_table(path)
    with reading(path, "events exported by Inscopix"):
        wanted = ("Time (s)", "Cell Name", "Value")
        if not set(wanted) <= set(columns):
            raise LoadError(explain(str(path), expected=f"columns {wanted}", got=", ".join(columns)))
        place = {name: k for k, name in enumerate(traces.coords["unit"]["name"])}
        unit = np.asarray([place.get(name, -1) for name in columns["Cell Name"]], dtype=np.int64)
        kept = unit >= 0
        times = columns["Time (s)"].astype(np.float64)
        step = {"step": "read", "format": "inscopix", "events": len(times), "of_kept_cells": int(kept.sum())}
        clock = traces.time
        return make_spikes(
            times[kept],
            unit[kept],
            n_units=len(place),
            fix=fix or "sort",
            where=str(path),
            support=traces.intervals.get("support") or span(float(clock[0]), float(clock[-1])),
            units=traces.coords["unit"],
            meta={"kind": "inferred"},
            history=(step,),
            **who,
        )
