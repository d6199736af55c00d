"""What each kind of item says about itself: sections of facts, counts, assumptions and a first look."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from .core.clock import to_sample
from .core.errors import InputError, explain
from .core.estimator import Estimator
from .core.graph import Graph
from .core.intervals import Intervals
from .core.recording import Recording
from .core.result import Result, Section
from .core.session import Session
from .core.spikes import Spikes
from .core.table import Table

Row = tuple[Any, ...]

KINDS = 12  # different values up to which those of a column are counted one by one
SAMPLES = 500_000  # most numbers that are looked at for range and missing ones
BIN = 0.1  # s; width of the bins of which the empty ones are counted
REFRACTORY = 0.0015  # s; two spikes of one neuron are not closer


def sections_of(item: Any, title: str = "") -> list[Section]:
    """Describe a container, a fitted estimator, a result, a section or text.

    Parameters
    ----------
    item : Recording, Spikes, Intervals, Graph, Session, mapping or list of these, Estimator, Result, Section or str
        What to describe.
    title : str, default ""
        Heading, or what stands before the headings of an item with several.

    Returns
    -------
    list of Section

    Raises
    ------
    InputError
        For anything else.
    """
    for kinds, describer in _DESCRIBERS:
        if isinstance(item, kinds):
            return describer(item, title)
    expected = "a container, result, estimator, Section or text"
    raise InputError(explain("Report.add", expected=expected, got=type(item).__name__))


def _recording(rec: Recording, title: str) -> list[Section]:
    rows: list[Row] = [(f"{d} axis", n) for d, n in rec.sizes.items()]
    if "time" in rec.dims:
        rows += [("sampling", "irregular" if rec.rate is None else f"{rec.rate:g} Hz")]
        start = rec.t0 if rec.times is None else float(rec.times[0]) if len(rec.times) else 0.0
        rows += [("duration", f"{rec.duration:.2f} s"), ("start", f"{start:.6g} s")]
    rows += [("unit", rec.units), *_values(rec)]
    rows += [row for axis, table in rec.coords.items() for row in _columns(axis, table)]
    rows += [(f"intervals: {name}", _spans(table)) for name, table in rec.intervals.items()]
    return [_look(rec, title or f"Recording: {rec.modality or 'data'}", [*rows, *_origin(rec)])]


def _values(rec: Recording) -> list[Row]:
    """Range and missing share of the numbers; of a long recording only the first part is read."""
    if not rec.shape or 0 in rec.shape:
        return []
    longest = max(rec.dims, key=lambda d: rec.sizes[d])
    others = int(np.prod(rec.shape)) // rec.sizes[longest]
    seen = min(rec.sizes[longest], max(1, SAMPLES // others))
    part = rec.isel(**{longest: slice(0, seen)})
    data, note = part.values, "" if seen == rec.sizes[longest] else f" (first {seen} of {longest})"
    valid = torch.isfinite(data) if data.is_floating_point() else torch.ones_like(data, dtype=torch.bool)
    valid = valid if part.mask is None else valid & part.mask
    rows: list[Row] = [(f"valid samples{note}", f"{float(valid.float().mean()):.1%}")]
    if data.dtype != torch.bool and bool(valid.any()):
        kept = data[valid].double()
        low, high = kept.min(), kept.max()
        rows += [(f"range{note}", f"{float(low):.4g} to {float(high):.4g}, s.d. {float(kept.std(correction=0)):.3g}")]
    return rows


def _spikes(spikes: Spikes, title: str) -> list[Section]:
    from .plot import gaps, rates

    seconds = spikes.span.duration
    rows: list[Row] = [("units", spikes.n_units), ("spikes", len(spikes)), ("observed", f"{seconds:.1f} s")]
    figures: list[Any] = []
    if spikes.n_units and seconds > 0:
        found = spikes.rates()
        low, middle, high = (float(x) for x in (found.min(), found.median(), found.max()))
        rows += [("rate, median (range)", f"{middle:.2f} ({low:.2f} to {high:.2f}) spikes/s"), *_regularity(spikes)]
        figures = [
            ("Rates of the units.", partial(rates, spikes)),
            ("Intervals between spikes of one unit.", partial(gaps, spikes, refractory=REFRACTORY)),
        ]
    rows += [*_columns("unit", spikes.units), *_origin(spikes)]
    look = _look(spikes, title or "Recording: spikes", rows)
    return [replace(look, figures=(*look.figures, *figures))]


def _regularity(spikes: Spikes) -> list[Row]:
    """Silent units, and units whose spikes come closer than a neuron can fire."""
    counts = spikes.counts()
    gaps, unit = spikes.gaps()
    share = torch.bincount(unit[gaps < REFRACTORY], minlength=spikes.n_units) / counts.clamp(min=1)
    return [
        ("silent units", int((counts == 0).sum())),
        ("units with over 1 % of intervals below 1.5 ms", int((share > 0.01).sum())),
        (f"empty bins of {BIN * 1e3:g} ms", f"{_empty(spikes):.1%}"),
    ]


def _empty(spikes: Spikes) -> float:
    """Return the share of bins of all units that hold no spike, without making the bins."""
    inside = spikes.restrict(spikes.span, allow_empty=True)
    order = torch.argsort(inside.unit, stable=True)  # times of each unit stay in order
    place = to_sample(inside.times[order], rate=1.0 / BIN, t0=float(spikes.span.start[0]))
    cell = torch.stack([inside.unit[order].long(), place])
    filled = int((cell.diff(dim=1) != 0).any(0).sum()) + (len(place) > 0)
    bins = max(1, round(spikes.span.duration / BIN)) * spikes.n_units
    return max(0.0, 1.0 - filled / bins)


def _intervals(table: Intervals, title: str) -> list[Section]:
    most = 12
    head = ("start (s)", "stop (s)", *table.columns)
    rows = [(a, b, *(c[i] for c in table.columns.values())) for i, (a, b) in enumerate(table[:most].pairs())]
    text = f"{len(table)} intervals cover {table.duration:.2f} s." + (f" The first {most}:" * (len(table) > most))
    return [Section(title=title or "Intervals", text=text, table=(head, *rows))]


def _graph(graph: Graph, title: str) -> list[Section]:
    from .plot import quicklook

    edges, directed = graph.n_edges().tolist(), graph.directed or ()
    rows = [(name, n, "yes" if d else "no") for name, n, d in zip(graph.layers, edges, directed, strict=True)]
    layers = [_layer(graph, k) for k in range(len(graph.layers))]
    figures = tuple((f"Layer {layer.layers[0]}.", lambda layer=layer: quicklook(layer)) for layer in layers)
    notes = "".join(f"\n\nAssumed: {note}" for note in _assumed(graph))
    table = (("layer", "edges", "directed"), *rows)
    return [Section(title=title or "Connectome", text=f"{graph.n_units} units. {_about(graph)}".strip() + notes,
                    table=table, figures=figures, references=_cited(graph))]  # fmt: skip


def _layer(graph: Graph, k: int) -> Graph:
    """Return a graph of one layer."""
    return Graph(weights=graph.weights[k : k + 1], layers=graph.layers[k : k + 1], units=graph.units,
                 quantity=graph.quantity)  # fmt: skip


def _session(session: Session, title: str) -> list[Section]:
    rows = [(name, type(part).__name__, _extent(part)) for name, part in session.items()]
    first = Section(title=title or "Session", text=_about(session), table=(("part", "kind", "extent"), *rows),
                    references=_cited(session))  # fmt: skip
    drawn = [(name, part) for name, part in session.items() if not isinstance(part, Intervals)]
    parts = (s for name, part in drawn for s in sections_of(part, f"{title}: {name}" if title else name))
    return [first, *(_prefixed(s, title) for s in _quality(session)), *parts]


def _quality(session: Session) -> list[Section]:
    """Quality of a run of fMRI that comes with its confounds, before it is cleaned."""
    from .evaluate import fmri_quality

    bold, confounds = session.get("bold"), session.get("confounds")
    if not isinstance(bold, Recording) or not isinstance(confounds, Recording):
        return []
    raw = bold.modality == "fmri" and not any(isinstance(s, Mapping) and s.get("step") == "clean" for s in bold.history)
    return fmri_quality(session).sections() if raw and bold.sizes.get("time") == confounds.sizes.get("time") else []


def _several(items: Sequence[Any], title: str) -> list[Section]:
    """Describe a list, each item under its session, subject or number."""
    names = [getattr(x, "session", "") or getattr(x, "subject", "") or str(k + 1) for k, x in enumerate(items)]
    return [
        s for name, x in zip(names, items, strict=True) for s in sections_of(x, f"{title}: {name}" if title else name)
    ]


def _mapping(items: Mapping[str, Any], title: str) -> list[Section]:
    """Describe several sessions or recordings under their names."""
    return [s for name, item in items.items() for s in sections_of(item, f"{title}: {name}" if title else str(name))]


def _extent(part: Recording | Spikes | Intervals | Graph) -> str:
    if isinstance(part, Recording):
        clock = f", {part.rate:g} Hz" if part.rate is not None else ""
        return ", ".join(f"{d} {n}" for d, n in part.sizes.items()) + f"{clock}, {part.units}"
    if isinstance(part, Spikes):
        return f"{part.n_units} units, {len(part)} spikes"
    if isinstance(part, Intervals):
        return _spans(part)
    return f"{part.n_units} units, {len(part.layers)} layers"


def _spans(table: Intervals) -> str:
    """Number and length of intervals, and how many of each name."""
    names = next((c for n, c in table.columns.items() if n in ("name", "label", "trial_type", "description")), None)
    counts = "" if names is None else _counts(np.asarray(names))
    return f"{len(table)} intervals, {table.duration:.1f} s" + (f" ({counts})" if counts else "")


def _look(data: Recording | Spikes, title: str, rows: list[Row]) -> Section:
    from .plot import quicklook

    figures = (("First look at the data.", lambda: quicklook(data)),)
    return Section(title=title, text=_about(data), table=(("", ""), *rows), figures=figures, references=_cited(data))


def _about(data: Recording | Spikes | Graph | Session) -> str:
    """Return who was recorded, and the description that came with the data."""
    who = ", ".join(f"{n} {x}" for n, x in (("subject", data.subject), ("session", data.session)) if x)
    parts = (who[:1].upper() + who[1:], str(data.meta.get("description", "")).rstrip(". "))
    return " ".join(f"{part}." for part in parts if part)


def _cited(data: Recording | Spikes | Graph | Session) -> tuple[str, ...]:
    """Return the citations that came with the data, one or several."""
    return tuple(_texts(data.meta.get("citation", ())))


def _texts(value: Any) -> list[str]:
    """One text or several as a list."""
    return [str(v) for v in ((value,) if isinstance(value, str) else value or ())]


# What is known of the entries of an axis


def _columns(axis: str, table: Table) -> list[Row]:
    """One row a column: the values where they are few, else the range or the first few."""
    told = {name: _column(np.asarray(column), name in ("i", "j", "k", "vertex")) for name, column in table.items()}
    return [(f"{axis}: {name}", text) for name, text in told.items() if text]


def _column(column: np.ndarray, indices: bool = False) -> str:
    if column.ndim > 1 or not len(column):
        return ""
    if column.dtype.kind == "f":
        known = column[np.isfinite(column)]
        missing = f", {len(column) - len(known)} missing" if len(known) < len(column) else ""
        return f"{known.min():.4g} to {known.max():.4g}{missing}" if len(known) else "all missing"
    counts = "" if indices else _counts(column)
    if counts:
        return counts
    if column.dtype.kind in "iu":
        return f"{column.min()} to {column.max()}" if column.max() >= 0 or not indices else ""  # -1: has no index
    shown = ", ".join(str(v) or "none" for v in column[:4])
    return shown if len(column) <= 4 else f"{shown}, … ({len(column)})"


def _counts(column: np.ndarray) -> str:
    """How many of each value, if there are few values and some repeat."""
    values, n = np.unique(column.astype(str), return_counts=True)
    if len(values) > KINDS or (len(values) == len(column) and len(column) > 1):
        return ""
    times = " ×" if any(value.isdigit() for value in values) else " "  # "32 ×1" where "32 1" could be two values
    return ", ".join(f"{value or 'none'}{times}{count}" for value, count in zip(values, n, strict=True))


# Where the data come from


def _origin(data: Recording | Spikes) -> list[Row]:
    """One row for every step of the history with its numbers, and one for everything that was assumed."""
    rows = [_step(step) for step in data.history]
    return [*rows, *(("assumed", note) for note in _assumed(data))]


def _step(step: Any) -> Row:
    """Name of a step and its parameters; a filter states what it kept and dropped."""
    if not isinstance(step, Mapping):
        return ("step", str(step))
    shown = {k: v for k, v in step.items() if k not in ("step", "assumed", "sha256", "version") and v not in ("", None)}
    return (f"step: {step.get('step', 'unnamed')}", ", ".join(f"{k} {_short(v)}" for k, v in shown.items()))


def _short(value: Any) -> str:
    """A parameter in a few words."""
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{k} {_short(v)}" for k, v in value.items()) + ")"
    if isinstance(value, (list, tuple)):
        shown = ", ".join(_short(v) for v in value[:6])
        return f"[{shown}{', …' if len(value) > 6 else ''}]"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}…"


def _assumed(data: Recording | Spikes | Graph | Session) -> list[str]:
    """Everything that a reader or a card says was assumed."""
    steps: Iterable[Any] = getattr(data, "history", ())
    notes = [note for step in steps if isinstance(step, Mapping) for note in _texts(step.get("assumed"))]
    return list(dict.fromkeys([*notes, *_texts(data.meta.get("assumed"))]))


# Results


def _result(result: Result, title: str) -> list[Section]:
    found = result.sections()
    if found:
        return [_prefixed(section, title) for section in found]
    rows = [(n, ", ".join(d), " x ".join(map(str, t.shape))) for n, d, t in result.tensors()]
    figures = tuple((name, lambda draw=draw: draw(ax=None)) for name, draw in result.plots().items())
    return [Section(title=title or type(result).__name__, table=(("quantity", "axes", "size"), *rows), figures=figures)]


def _prefixed(section: Section, title: str) -> Section:
    return replace(section, title=f"{title}: {section.title}" if title else section.title)


_DESCRIBERS: tuple[tuple[Any, Callable[[Any, str], list[Section]]], ...] = (
    (Recording, _recording),
    (Spikes, _spikes),
    (Intervals, _intervals),
    (Graph, _graph),
    (Session, _session),
    (Estimator, lambda estimator, title: _result(estimator.result_, title)),
    (Result, _result),
    (Section, lambda section, title: [_prefixed(section, title)]),
    (str, lambda text, title: [Section(title=title or "Note", text=text)]),
    (Mapping, _mapping),
    ((list, tuple), _several),
)
