"""Report: one self-contained HTML file that a scientist shows a colleague.

Figures are embedded, every number comes with what produced it, and the file needs no network and runs no script.
"""

from __future__ import annotations

import base64
import html
import io
import os
import struct
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from . import __version__
from .core.convert import as_container
from .core.errors import InputError, TectumWarning, explain
from .core.estimator import Estimator
from .core.log import progress
from .core.result import Provenance, Result, Section
from .core.serialize import write_text
from .describe import sections_of

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
        item : Recording, Spikes, Intervals, Graph, Session, mapping of these, Estimator, Result, Section or str
            What to show.
        title : str, default ""
            Heading, or what stands before the headings of an item with several.

        Raises
        ------
        InputError
            For anything else.
        """
        self.sections += sections_of(item, title)
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


class Summary:
    """What is in a file or an object: text when printed, a page in a notebook, a file with ``save``.

    Parameters
    ----------
    report : Report
        The sections.
    """

    def __init__(self, report: Report) -> None:
        self.report = report

    def __str__(self) -> str:
        return _text(self.report)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return the page for a notebook, in a frame of its own so that its style stays inside."""
        return f'<iframe style="width:100%;height:40rem;border:0" srcdoc="{html.escape(self.report.html())}"></iframe>'

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page as one HTML file."""
        return self.report.save(path)


def summary(source: Any, *, title: str = "", **options: Any) -> Summary:
    """Say what is in a file or an object, how it was read, what was assumed, and what filters kept and dropped.

    Parameters
    ----------
    source : path, container, session, estimator, result, or object of another package
        A path is read with :func:`tectum.read`; warnings of the reader become part of the summary.
    title : str, default ""
        Heading; the name of the file by default.
    **options
        For the reader.

    Returns
    -------
    Summary
        ``print`` it, look at it in a notebook, or ``save`` it as HTML.

    Raises
    ------
    LoadError
        If the file cannot be read.

    Examples
    --------
    >>> from tectum import Spikes
    >>> print(summary(Spikes.from_trains([[0.1, 0.5], [0.3]], support=(0, 1), subject="m1")).__str__()[:45])
    Recording: spikes
    Subject m1.
      units
    """
    if not isinstance(source, (str, os.PathLike)):
        return Summary(Report(title or "Summary").add(_item(source)))
    path = Path(source)
    item, notes = _read_with_notes(path, options)
    report = Report(title or path.name, subtitle="What is in this file, and how it was read")
    return Summary(report.add(_reading(path, options, notes)).add(item))


def _item(source: Any) -> Any:
    """Turn objects of other packages into containers; leave everything else."""
    known = (Estimator, Result, Section, Mapping, list)
    return source if isinstance(source, known) else as_container(source, "summary")


def _read_with_notes(path: Path, options: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """Read a file and keep what the reader warned of."""
    from .io import read

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TectumWarning)
        item = read(path, **options)
    ours = [str(w.message) for w in caught if issubclass(w.category, TectumWarning)]
    for other in caught:
        if not issubclass(other.category, TectumWarning):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return item, list(dict.fromkeys(ours))


def _reading(path: Path, options: Mapping[str, Any], notes: list[str]) -> Section:
    """Section on the file itself."""
    rows: list[tuple[Any, ...]] = [("", ""), ("path", path.name), ("size", _size(path))]
    rows += [(f"option {name}", repr(value)) for name, value in options.items()]
    rows += [("warning", note) for note in notes]
    return Section("How it was read", table=tuple(rows))


def _size(path: Path) -> str:
    """Bytes of a file, or of the files of a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and not p.is_symlink()]
    total = float(sum(p.stat().st_size for p in files))
    for unit in ("bytes", "kB", "MB", "GB"):
        if total < 1000 or unit == "GB":
            break
        total /= 1000
    return f"{total:.3g} {unit}" + (f" in {len(files)} files" if path.is_dir() else "")


def describe(item: Any) -> str:
    """Return what an item says about itself as plain text: headings, tables, how it was made; no figures."""
    return _text(Report("").add(item))


def _text(report: Report) -> str:
    """Headings, paragraphs and tables of a report as plain text."""
    lines = list[str]()
    made = [Section(title=f"How this was made: {p.estimator}", table=_facts(p)) for p in report.provenance]
    for section in [*report.sections, *made]:
        cells = [[_cell(cell) for cell in row] for row in section.table]
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))] if cells else []
        shown = cells if cells and any(cells[0][1:]) else cells[1:]
        rows = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in shown]
        lines += ["", section.title, *([section.text] if section.text else []), *(f"  {row}" for row in rows)]
    cited = dict.fromkeys(r for s in report.sections for r in s.references)
    lines += ["", "Cite", *(f"  {reference}" for reference in cited)] if cited else []
    return "\n".join(lines[1:])


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
