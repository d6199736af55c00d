"""Report: one self-contained HTML file that a scientist shows a colleague.

Figures are embedded, every number comes with what produced it, and the file needs no network and runs no script.
"""

from __future__ import annotations

import base64
import html
import io
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from . import __version__
from .core.errors import InputError, explain
from .core.estimator import Estimator
from .core.graph import Graph
from .core.intervals import Intervals
from .core.log import progress
from .core.recording import Recording
from .core.result import Provenance, Result, Section
from .core.serialize import write_text
from .core.session import Session
from .core.spikes import Spikes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_DPI = 190
_PIXELS = 100  # of the page for an inch of a figure: 9 points are then read as 12.5 pixels


class Report:
    """Collects recordings and results and writes them as one HTML page.

    Parameters
    ----------
    title : str
        Heading of the page.
    subtitle : str, default ""
        One line under it.

    Examples
    --------
    >>> import tempfile, pathlib, torch
    >>> from tectum import Recording
    >>> rec = Recording(data=torch.rand(50, 3), dims=("time", "unit"), rate=10.0, units="dF/F")
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "look.html"
    >>> "dF/F" in Report("A look").add(rec).save(path).read_text()
    True
    """

    def __init__(self, title: str, *, subtitle: str = "") -> None:
        self.title, self.subtitle = title, subtitle
        self.sections: list[Section] = []
        self.provenance: list[Provenance] = []

    def add(self, item: Any, *, title: str = "") -> Self:
        """Add a container, a fitted estimator, a result, a section, or text (paragraphs apart by an empty line).

        Parameters
        ----------
        item : Recording, Spikes, Intervals, Graph, Session, Estimator, Result, Section or str
            What to show.
        title : str, default ""
            Heading, or what stands before the headings of an item with several.

        Raises
        ------
        InputError
            For anything else.
        """
        self.sections += _describe(item, title)
        result = item.result_ if isinstance(item, Estimator) else item
        if isinstance(result, Result) and result.provenance is not None:
            self.provenance.append(result.provenance)
        return self

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Draw every figure and write the page atomically; the suffix ``.html`` is added if there is none."""
        path = Path(path)
        return write_text(path if path.suffix else path.with_suffix(".html"), self.html())

    def html(self) -> str:
        """Return the page as text."""
        parts = [(s.title, _body(s)) for s in progress(self.sections, "drawing the report", total=len(self.sections))]
        parts += [(f"How this was made: {made.estimator}", _made(made)) for made in self.provenance]
        references = list(dict.fromkeys(r for s in self.sections for r in s.references))
        parts += [("References", _list("ol", "", references))] if references else []
        links = [f'<a href="#s{k}">{html.escape(title)}</a>' for k, (title, _) in enumerate(parts, 1)]
        body = [
            f'<section id="s{k}"><h2>{html.escape(title)}</h2>{content}</section>'
            for k, (title, content) in enumerate(parts, 1)
        ]
        return _PAGE.format(
            title=html.escape(self.title),
            subtitle=f"<p>{html.escape(self.subtitle)}</p>" if self.subtitle else "",
            style=_STYLE,
            contents="<nav><ul>" + "".join(f"<li>{link}</li>" for link in links) + "</ul></nav>" if links else "",
            body="\n".join(body),
            written=f"Written on {datetime.now(UTC):%Y-%m-%d} by tectum {html.escape(__version__)}.",
        )


def describe(item: Any) -> str:
    """Return what an item says about itself as plain text: headings, tables, how it was made; no figures."""
    report, lines = Report("").add(item), list[str]()
    made = [Section(title=f"How this was made: {p.estimator}", table=_facts(p)) for p in report.provenance]
    for section in [*report.sections, *made]:
        cells = [[_cell(cell) for cell in row] for row in section.table]
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))] if cells else []
        shown = cells if cells and any(cells[0][1:]) else cells[1:]
        rows = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in shown]
        lines += ["", section.title, *([section.text] if section.text else []), *(f"  {row}" for row in rows)]
    return "\n".join(lines[1:])


# What each kind of item says about itself


def _describe(item: Any, title: str) -> list[Section]:
    for kinds, describer in _DESCRIBERS:
        if isinstance(item, kinds):
            return describer(item, title)
    expected = "a container, result, estimator, Section or text"
    raise InputError(explain("Report.add", expected=expected, got=type(item).__name__))


def _recording(rec: Recording, title: str) -> list[Section]:
    valid = 1.0 if rec.mask is None else float(rec.mask.float().mean())
    rows: list[tuple[Any, ...]] = [(f"{d} axis", n) for d, n in rec.sizes.items()]
    if "time" in rec.dims:
        rows += [("sampling", "irregular" if rec.rate is None else f"{rec.rate:g} Hz")]
        rows += [("duration", f"{rec.duration:.2f} s")]
    rows += [("unit", rec.units), ("valid samples", f"{valid:.1%}")]
    rows += [(f"intervals: {name}", len(table)) for name, table in rec.intervals.items()]
    return [_look(rec, title or f"Recording: {rec.modality or 'data'}", [*rows, *_steps(rec)])]


def _spikes(spikes: Spikes, title: str) -> list[Section]:
    seconds = spikes.span.duration
    rows: list[tuple[Any, ...]] = [("units", spikes.n_units), ("spikes", len(spikes)), ("observed", f"{seconds:.1f} s")]
    if spikes.n_units and seconds > 0:
        rates = spikes.rates()
        low, middle, high = (float(x) for x in (rates.min(), rates.median(), rates.max()))
        rows.append(("rate, median (range)", f"{middle:.2f} ({low:.2f} to {high:.2f}) spikes/s"))
    return [_look(spikes, title or "Recording: spikes", [*rows, *_steps(spikes)])]


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
    text = f"{graph.n_units} units. {_about(graph)}".strip()
    table = (("layer", "edges", "directed"), *rows)
    return [Section(title=title or "Connectome", text=text, table=table, figures=figures, references=_cited(graph))]


def _layer(graph: Graph, k: int) -> Graph:
    """Return a graph of one layer."""
    return Graph(weights=graph.weights[k : k + 1], layers=graph.layers[k : k + 1], units=graph.units,
                 quantity=graph.quantity)  # fmt: skip


def _session(session: Session, title: str) -> list[Section]:
    rows = [(name, type(part).__name__, _extent(part)) for name, part in session.items()]
    first = Section(title=title or "Session", text=_about(session), table=(("part", "kind", "extent"), *rows),
                    references=_cited(session))  # fmt: skip
    drawn = [(name, part) for name, part in session.items() if not isinstance(part, Intervals)]
    return [first, *(s for name, part in drawn for s in _describe(part, f"{title}: {name}" if title else name))]


def _extent(part: Recording | Spikes | Intervals | Graph) -> str:
    if isinstance(part, Recording):
        clock = f", {part.rate:g} Hz" if part.rate is not None else ""
        return ", ".join(f"{d} {n}" for d, n in part.sizes.items()) + f"{clock}, {part.units}"
    if isinstance(part, Spikes):
        return f"{part.n_units} units, {len(part)} spikes"
    if isinstance(part, Intervals):
        return f"{len(part)} intervals, {part.duration:.1f} s"
    return f"{part.n_units} units, {len(part.layers)} layers"


def _look(data: Recording | Spikes, title: str, rows: list[tuple[Any, ...]]) -> Section:
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
    found = data.meta.get("citation", ())
    return tuple(str(c) for c in ((found,) if isinstance(found, str) else found))


def _steps(data: Recording | Spikes) -> list[tuple[str, str]]:
    """Return the history in one row."""
    names = [str(step.get("step", step)) if isinstance(step, Mapping) else str(step) for step in data.history]
    return [("steps so far", ", ".join(names))] if names else []


def _result(result: Result, title: str) -> list[Section]:
    found = result.sections()
    if found:
        return [_prefixed(section, title) for section in found]
    rows = [(n, ", ".join(d), " x ".join(map(str, t.shape))) for n, d, t in result.tensors()]
    figures = tuple((name, lambda draw=draw: draw(ax=None)) for name, draw in result.plots().items())
    return [Section(title=title or type(result).__name__, table=(("quantity", "axes", "size"), *rows), figures=figures)]


def _prefixed(section: Section, title: str) -> Section:
    whole = f"{title}: {section.title}" if title else section.title
    return Section(whole, section.text, section.figures, section.table, section.references)


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
)


def _facts(made: Provenance) -> tuple[tuple[Any, ...], ...]:
    facts = {
        "recordings": ", ".join(i for i in made.ids if i) or "unnamed",
        "data SHA-256": made.data_hash,
        "seed": made.seed,
        "device, precision": f"{made.device}, {made.dtype}",
        "time": f"{made.seconds:.1f} s",
        "converged": {True: "yes", False: "no", None: "not applicable"}[made.converged],
        "versions": ", ".join(f"{k} {v}" for k, v in made.versions.items()),
    }
    return (("", ""), *facts.items())


# HTML


def _body(section: Section) -> str:
    text = "".join(f"<p>{html.escape(p)}</p>" for p in section.text.split("\n\n") if p.strip())
    figures = "".join(_figure(caption, draw) for caption, draw in section.figures)
    table = _table(section.table)
    if section.table and not any(section.table[0]):  # a list of facts stands beside its figure
        table, figures = "", table + figures
    return text + table + (f'<div class="figures">{figures}</div>' if figures else "")


def _figure(caption: str, draw: Callable[[], Axes]) -> str:
    """Draw a figure, close it, and embed it at the scale that all figures of the page share."""
    import matplotlib.pyplot as plt

    from .plot.style import style

    before, picture = set(plt.get_fignums()), io.BytesIO()
    try:
        with style():
            figure = draw().get_figure(root=True)
            if figure is None:
                raise InputError(explain("Report", expected="axes on a figure", got="axes without one"))
            figure.savefig(picture, format="png", dpi=_DPI, bbox_inches="tight", pad_inches=0.03)
    finally:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
    png, words = picture.getvalue(), html.escape(caption)
    width = round(struct.unpack(">I", png[16:20])[0] / _DPI * _PIXELS)
    return (
        f'<figure style="width:{width}px"><div class="frame"><img style="min-width:{round(0.62 * width)}px" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}" alt="{words}"></div>'
        f"<figcaption>{words}</figcaption></figure>"
    )


def _table(rows: Sequence[tuple[Any, ...]]) -> str:
    """Return a table; columns of numbers are set to the right, one without a heading is a list of facts."""
    if len(rows) < 2:
        return ""
    head, *body = rows
    kinds = [' class="number"' if _is_numeric(column) else "" for column in zip(*body, strict=True)]
    facts = not any(head)
    kinds = [""] * len(kinds) if facts else kinds
    titles = "".join(f"<th{k}>{html.escape(str(cell))}</th>" for k, cell in zip(kinds, head, strict=True))
    top = "" if facts else f"<thead><tr>{titles}</tr></thead>"
    lines = ["".join(_td(cell, kind) for cell, kind in zip(row, kinds, strict=True)) for row in body]
    whole = "".join(f"<tr>{line}</tr>" for line in lines)
    name = ' class="facts"' if facts else ""
    return f'<div class="scroll"><table{name}>{top}<tbody>{whole}</tbody></table></div>'


def _td(value: Any, kind: str) -> str:
    text = _cell(value)
    name = ' class="long"' if max(map(len, text.split()), default=0) > 30 else kind
    return f"<td{name}>{html.escape(text)}</td>"


def _is_numeric(column: Iterable[Any]) -> bool:
    """Tell whether a column holds numbers, but for empty cells and "none"."""
    cells = [cell for cell in map(_cell, column) if cell not in ("", "none")]
    try:
        return bool([float(cell) for cell in cells])
    except ValueError:
        return False


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, (float, np.floating)) else str(value)


def _made(made: Provenance) -> str:
    """Return the facts of a fit and all its hyper-parameters."""
    config = [f"{name} = {value!r}" for name, value in made.config.items()]
    return _table(_facts(made)) + "<h3>Hyper-parameters</h3>" + _list("ul", "config", config)


def _list(tag: str, name: str, entries: Iterable[str]) -> str:
    lines = "".join(f"<li>{html.escape(entry)}</li>" for entry in entries)
    return f'<{tag} class="{name or tag}">{lines}</{tag}>'


_STYLE = """
:root { --ink: #1d2430; --quiet: #5b6472; --line: #dfe3e8; --paper: #fff; --accent: #0b5a8a; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); -webkit-text-size-adjust: 100%; }
body { font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 3rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 2.4rem 0 .6rem; padding-top: 1.2rem; }
h2 { border-top: 1px solid var(--line); overflow-wrap: anywhere; }
h3 { font-size: .95rem; margin: 1.2rem 0 .4rem; }
header p, figcaption, footer { color: var(--quiet); }
header p { margin: 0; font-size: 1.05rem; }
nav ul { margin: 1.2rem 0 0; padding: 0; list-style: none; font-size: .88rem; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
p { max-width: 46rem; margin: .6rem 0; }
.figures { display: flex; flex-wrap: wrap; gap: 1.2rem 1.6rem; margin: 1.2rem 0; align-items: flex-start; }
figure { margin: 0; max-width: 100%; }
.frame { overflow-x: auto; } .frame img { width: 100%; height: auto; display: block; }
figcaption { font-size: .85rem; line-height: 1.4; margin-top: .35rem; max-width: 44rem; }
.scroll { overflow-x: auto; margin: .8rem 0; } .figures .scroll { margin: 0; max-width: 100%; }
table { border-collapse: collapse; font-size: .88rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .3rem 1.4rem .3rem 0; border-bottom: 1px solid var(--line); }
th:last-child, td:last-child { padding-right: 0; }
th { color: var(--quiet); font-weight: 600; white-space: nowrap; vertical-align: bottom; }
.number { text-align: right; }
.long { overflow-wrap: anywhere; min-width: 12rem; }
.facts td:first-child { color: var(--quiet); white-space: nowrap; }
.config { columns: 16rem; column-gap: 2rem; margin: 0; padding: 0; list-style: none; }
.config { font: .8rem/1.6 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
.config li { overflow-wrap: anywhere; padding-left: 1em; text-indent: -1em; break-inside: avoid; }
.ol { padding-left: 1.4rem; max-width: 46rem; font-size: .9rem; } .ol li { margin: .3rem 0; overflow-wrap: anywhere; }
footer { margin-top: 3rem; font-size: .85rem; border-top: 1px solid var(--line); padding-top: .8rem; }
@media (max-width: 40rem) { main { padding: 1.4rem 1rem 2rem; } h1 { font-size: 1.5rem; } }
@media print { main { max-width: none; padding: 0; } figure, tr { break-inside: avoid; } nav { display: none; } }
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body><main><header><h1>{title}</h1>{subtitle}{contents}</header>
{body}
<footer>{written}</footer></main></body></html>
"""
