"""Report: one self-contained HTML file that a scientist shows a colleague.

Figures are embedded, every number comes with what produced it, and the file needs no network and runs no script.
"""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

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
        self._sections: list[Section] = []
        self._provenance: list[Provenance] = []

    def add(self, item: Any, *, title: str = "") -> Self:
        """Add a container, a fitted estimator, a result, a section, or a paragraph of text.

        Raises
        ------
        InputError
            For anything else.
        """
        for kinds, describe in _DESCRIBERS:
            if isinstance(item, kinds):
                self._sections += describe(item, title)
                break
        else:
            raise InputError(
                explain(
                    "Report.add", expected="a container, result, estimator, Section or text", got=type(item).__name__
                )
            )
        result = item.result_ if isinstance(item, Estimator) else item
        if isinstance(result, Result) and result.provenance is not None:
            self._provenance.append(result.provenance)
        return self

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Draw every figure and write the page atomically; the suffix ``.html`` is added if there is none."""
        path = Path(path)
        return write_text(path if path.suffix else path.with_suffix(".html"), self.html())

    def html(self) -> str:
        """Return the page as text."""
        parts = [_section(k, section) for k, section in enumerate(progress(self._sections, "drawing the report"), 1)]
        references = list(dict.fromkeys(r for s in self._sections for r in s.references))
        return _PAGE.format(
            title=html.escape(self.title),
            subtitle=html.escape(self.subtitle or f"Written on {datetime.now(UTC):%Y-%m-%d} by tectum {_version()}"),
            style=_STYLE,
            contents="".join(
                f'<li><a href="#s{k}">{html.escape(s.title)}</a></li>' for k, s in enumerate(self._sections, 1)
            ),
            body="".join(parts) + _provenance(self._provenance) + _references(references),
        )


# What each kind of item says about itself


def _describe_recording(rec: Recording, title: str) -> list[Section]:
    rows: list[tuple[Any, ...]] = [("axis", "size"), *rec.sizes.items()]
    if rec.rate is not None:
        rows.append(("sampling rate", f"{rec.rate:g} Hz"))
    if "time" in rec.dims:
        rows.append(("duration", f"{rec.duration:.2f} s"))
    rows += [("unit", rec.units), ("valid samples", f"{float(rec.valid().float().mean()):.1%}")]
    rows += [(f"intervals: {name}", len(table)) for name, table in rec.intervals.items()]
    return [_look(rec, title or f"Recording: {rec.modality or 'data'}", rows)]


def _describe_spikes(spikes: Spikes, title: str) -> list[Section]:
    rates = spikes.rates()
    rows = [
        ("", "value"),
        ("units", spikes.n_units),
        ("spikes", len(spikes)),
        ("observed time", f"{spikes.span.duration:.1f} s"),
        (
            "rate, median (range)",
            f"{float(rates.median()):.2f} ({float(rates.min()):.2f} to {float(rates.max()):.2f}) spikes/s",
        ),
    ]
    return [_look(spikes, title or "Recording: spikes", rows)]


def _describe_graph(graph: Graph, title: str) -> list[Section]:
    rows = [("layer", "edges"), *zip(graph.layers, graph.n_edges().tolist(), strict=True), ("units", graph.n_units)]
    return [_look(graph, title or "Connectome", rows)]


def _describe_session(session: Session, title: str) -> list[Section]:
    drawn = ((name, part) for name, part in session.items() if not isinstance(part, Intervals))
    return [section for name, part in drawn for section in _describe(part, f"{title or 'Recording'}: {name}")]


def _describe(item: Any, title: str) -> list[Section]:
    return next(describe for kinds, describe in _DESCRIBERS if isinstance(item, kinds))(item, title)


def _look(data: Recording | Spikes | Graph, title: str, rows: list[tuple[Any, ...]]) -> Section:
    from .plot import quicklook

    who = ", ".join(part for part in (data.subject, data.session) if part)
    cited = tuple(str(data.meta[key]) for key in ("citation",) if key in data.meta)
    text = ". ".join(part for part in (who, str(data.meta.get("description", ""))) if part)
    return Section(
        title=title,
        text=text,
        table=tuple(rows),
        figures=(("First look at the data.", lambda: quicklook(data)),),
        references=cited,
    )


def _describe_result(result: Result, title: str) -> list[Section]:
    found = result.sections()
    if found:
        return found
    table = (
        ("quantity", "axes", "size"),
        *((n, ", ".join(d), " x ".join(map(str, t.shape))) for n, d, t in result.tensors()),
    )
    figures = tuple((name, lambda draw=draw: draw(ax=None)) for name, draw in result.plots().items())
    return [Section(title=title or type(result).__name__, table=table, figures=figures)]


_DESCRIBERS: tuple[tuple[Any, Callable[[Any, str], list[Section]]], ...] = (
    (Recording, _describe_recording),
    (Spikes, _describe_spikes),
    (Graph, _describe_graph),
    (Session, _describe_session),
    (Estimator, lambda estimator, title: _describe_result(estimator.result_, title)),
    (Result, _describe_result),
    (Section, lambda section, title: [section]),
    (str, lambda text, title: [Section(title=title or "Note", text=text)]),
)


def describe(item: Any) -> str:
    """Return what an item says about itself as plain text: headings and tables, no figures."""
    lines: list[str] = []
    for section in Report("").add(item)._sections:
        lines += [section.title, *([section.text] if section.text else [])]
        width = max((len(str(row[0])) for row in section.table), default=0)
        lines += [f"  {row[0]!s:{width}}  " + "  ".join(_cell(c) for c in row[1:]) for row in section.table[1:]]
    return "\n".join(lines)


# HTML


def _section(number: int, section: Section) -> str:
    text = "".join(f"<p>{html.escape(p)}</p>" for p in section.text.split("\n\n") if p.strip())
    figures = "".join(_figure(caption, draw) for caption, draw in section.figures)
    return (
        f'<section id="s{number}"><h2>{html.escape(section.title)}</h2>{text}{_table(section.table)}{figures}</section>'
    )


def _figure(caption: str, draw: Callable[[], Axes]) -> str:
    import matplotlib.pyplot as plt

    from .plot.style import style

    with style():
        figure, picture = draw().get_figure(root=True), io.BytesIO()
        if figure is None:
            raise InputError(explain("Report", expected="axes on a figure", got="axes without one"))
        figure.savefig(picture, format="png", dpi=160, bbox_inches="tight")
        plt.close(figure)
    data, words = base64.b64encode(picture.getvalue()).decode(), html.escape(caption)
    return f'<figure><img src="data:image/png;base64,{data}" alt="{words}"><figcaption>{words}</figcaption></figure>'


def _table(rows: Iterable[tuple[Any, ...]]) -> str:
    head, *body = list(rows) or [()]
    if not body:
        return ""
    top = "".join(f"<th>{html.escape(str(cell))}</th>" for cell in head)
    lines = "".join("<tr>" + "".join(f"<td>{html.escape(_cell(cell))}</td>" for cell in row) + "</tr>" for row in body)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _provenance(records: list[Provenance]) -> str:
    return "".join(
        f"<section><h2>How this was made: {html.escape(p.estimator)}</h2>{_table(_facts(p))}</section>" for p in records
    )


def _facts(made: Provenance) -> list[tuple[str, Any]]:
    facts: Mapping[str, Any] = {
        "recordings": ", ".join(i for i in made.ids if i) or "unnamed",
        "data SHA-256": made.data_hash,
        "seed": made.seed,
        "device, precision": f"{made.device}, {made.dtype}",
        "time": f"{made.seconds:.1f} s",
        "converged": {True: "yes", False: "no", None: "not applicable"}[made.converged],
        "versions": ", ".join(f"{k} {v}" for k, v in made.versions.items()),
    }
    return [("", "value"), *facts.items(), *((name, str(value)) for name, value in made.config.items())]


def _references(references: list[str]) -> str:
    if not references:
        return ""
    return (
        "<section><h2>References</h2><ol>"
        + "".join(f"<li>{html.escape(r)}</li>" for r in references)
        + "</ol></section>"
    )


def _version() -> str:
    from . import __version__

    return __version__


_STYLE = """
:root { --ink: #1d2430; --quiet: #5b6472; --line: #dfe3e8; --paper: #ffffff; --accent: #0b5a8a; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); }
body { font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; padding-top: 1rem; border-top: 1px solid var(--line); }
.subtitle, figcaption { color: var(--quiet); }
nav ol { margin: 1.2rem 0 0; padding: 0; list-style: none; font-size: .9rem; }
nav ol { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; }
a { color: var(--accent); text-decoration: none; } a:hover { text-decoration: underline; }
p { max-width: 46rem; }
figure { margin: 1.4rem 0; } figure img { max-width: 100%; height: auto; display: block; }
figcaption { font-size: .88rem; margin-top: .4rem; max-width: 46rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem 1.2rem .3rem 0; border-bottom: 1px solid var(--line); }
th, td { vertical-align: top; overflow-wrap: anywhere; }
th { color: var(--quiet); font-weight: 600; white-space: nowrap; }
@media print { main { max-width: none; padding: 0; } section { break-inside: avoid; } nav { display: none; } }
"""

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>
<body><main><header><h1>{title}</h1><div class="subtitle">{subtitle}</div><nav><ol>{contents}</ol></nav></header>
{body}</main></body></html>
"""
