"""The report: one valid, self-contained, static page that says what was done, and leaves no figure open."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import Tensor

import tectum
from tectum import Graph, Intervals, Recording, Report, Session, Spikes
from tectum.core.errors import InputError, NotFittedError
from tectum.core.estimator import Estimator
from tectum.core.lazy import LazyArray
from tectum.core.result import Result, Section, axes
from tectum.describe import SAMPLES
from tectum.report import describe

EVIL = "<script>alert('x')</script>&\"{title}"
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Checks that tags balance and collects what is on the page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def text(self, *tags: str) -> list[str]:
        return [text for tag, text in self.texts if tag in tags]


def page(report: Report) -> Page:
    """Parse a report and check what holds for every page."""
    text = report.html()
    made = Page(text)
    assert len(made.all("h1")) == 1
    assert {"script", "link", "iframe", "object", "embed", "base", "form"}.isdisjoint(tag for tag, _ in made.tags)
    assert all(str(img["src"]).startswith("data:image/png;base64,") and img["alt"] for img in made.all("img"))
    assert not re.search(r"url\(|@import|https?://", made_without_text(text))
    ids = [str(attrs["id"]) for _, attrs in made.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert [a["href"] for a in made.all("a")] == [f"#{i}" for i in ids]
    assert not any(name.startswith("on") for _, attrs in made.tags for name in attrs)
    assert plt.get_fignums() == []
    return made


def made_without_text(text: str) -> str:
    """Tags and style of a page, without what they enclose."""
    return re.search(r"<style>.*?</style>", text, re.S).group() + "".join(re.findall(r"<[^>]*>", text))  # type: ignore[union-attr]


def recording(**fields: Any) -> Recording:
    data = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    return Recording(data=data, dims=("time", "unit"), rate=10.0, **{"units": "dF/F", "modality": "calcium", **fields})


@dataclass(frozen=True, kw_only=True, eq=False)
class PageLevel(Result):
    level: Tensor = axes("unit")

    def plots(self) -> Any:
        return {"level": lambda ax=None: tectum.plot.curve(torch.arange(3), self.level, ax=ax)}


@dataclass(kw_only=True, eq=False)
class PageMean(Estimator[PageLevel]):
    note: str = "plain"

    def _fit(self, data: tuple[Any, ...], target: Any, run: Any) -> tuple[PageLevel, None]:
        return PageLevel(level=data[0].values.mean(0)), None


SPIKES = Spikes.from_trains([[0.1, 0.5], [0.3]], support=(0.0, 1.0), subject="m1")
GRAPH = Graph(weights=torch.rand(2, 5, 5), layers=("chemical", "gap"))
EVENTS = Intervals.from_pairs([(0, 1), (2, 3)], name=["tone", EVIL])
SESSION = Session(items_={"trace": recording(), "spikes": SPIKES, "wake": EVENTS, "wiring": GRAPH}, subject="m1")

#: What is added -> (headings, number of pictures).
ITEMS: dict[str, tuple[Any, list[str], int]] = {
    "recording": (recording(intervals={"trials": EVENTS}), ["Recording: calcium"], 1),
    "trials": (recording().windows(1.0), ["Recording: calcium"], 1),
    "no time": (Recording(data=torch.rand(4, 2), dims=("trial", "feature")), ["Recording: data"], 1),
    "irregular": (Recording(data=torch.rand(3, 2), dims=("time", "unit"), times=torch.tensor([0.0, 1, 3])),
                  ["Recording: data"], 1),
    "spikes": (SPIKES, ["Recording: spikes"], 3),
    "silent units": (Spikes.from_trains([[], []], support=(0.0, 2.0)), ["Recording: spikes"], 3),
    "no units": (Spikes.from_trains([]), ["Recording: spikes"], 1),
    "intervals": (EVENTS, ["Intervals"], 0),
    "no intervals": (Intervals.from_pairs([]), ["Intervals"], 0),
    "graph": (GRAPH, ["Connectome"], 2),
    "session": (SESSION, ["Session", "trace", "spikes", "wiring"], 6),
    "empty session": (Session(items_={}), ["Session"], 0),
    "estimator": (PageMean().fit(recording()), ["PageLevel", "How this was made: PageMean"], 1),
    "result": (PageMean().fit(recording()).result_, ["PageLevel", "How this was made: PageMean"], 1),
    "bare result": (PageLevel(level=torch.ones(3)), ["PageLevel"], 1),
    "section": (Section(title="Mine", text="a\n\nb"), ["Mine"], 0),
    "text": ("First.\n\nSecond.", ["Note"], 0),
}  # fmt: skip


@pytest.mark.parametrize("name", ITEMS)
def test_every_item_has_its_sections_and_pictures(name: str) -> None:
    item, headings, pictures = ITEMS[name]
    made = page(Report("A page").add(item))
    assert made.text("h2") == headings
    assert len(made.all("img")) == pictures
    assert made.text("a") == headings
    assert made.text("h1") == ["A page"]


@pytest.mark.parametrize("name", ITEMS)
def test_every_item_describes_itself_in_words(name: str) -> None:
    item, headings, _ = ITEMS[name]
    text = describe(item)
    assert [line for line in text.splitlines() if line in headings] == headings
    assert plt.get_fignums() == []


def test_an_empty_report_and_one_of_everything() -> None:
    assert page(Report("Nothing")).text("h2") == []
    report = Report("All")
    for item, _, _ in ITEMS.values():
        report.add(item)
    assert len(page(report).all("img")) == sum(n for _, _, n in ITEMS.values())


# Nothing that comes in is markup


def test_names_and_texts_are_escaped_everywhere() -> None:
    coords = {"unit": {"name": [EVIL, "b", "c"]}}
    evil = recording(subject=EVIL, session=EVIL, meta={"citation": EVIL, "description": EVIL}, coords=coords,
                     intervals={EVIL: EVENTS}, history=({"step": EVIL},))  # fmt: skip
    table = ((EVIL, EVIL), (EVIL, 1.0))
    section = Section(title=EVIL, text=EVIL, table=table, references=(EVIL,),
                      figures=((EVIL, lambda: tectum.plot.quicklook(evil)),))  # fmt: skip
    graph = Graph(weights=torch.ones(1, 2, 2), layers=(EVIL,))
    report = Report(EVIL, subtitle=EVIL).add(evil).add(section).add(EVENTS, title=EVIL).add(EVIL, title=EVIL)
    report.add(graph).add(Session(items_={EVIL: evil})).add(PageMean(note=EVIL).fit(evil))
    text = report.html()
    assert "<script" not in text.lower()
    made = page(report)
    assert made.text("h1") == [EVIL]
    assert sum(EVIL in shown for _, shown in made.texts) > 15


# Numbers


def test_the_facts_of_a_recording() -> None:
    mask = torch.ones(60, 1, dtype=torch.bool)
    mask[:15] = False
    rec = recording(mask=mask, subject="m1", session="s2", history=(
                        {"step": "bin", "dt": 0.1, "version": "1"},
                        {"step": "smooth", "kernel": [1, 2], "kept": "3 of 4", "assumed": "the clock starts at 0"}),
                    meta={"description": "A test."})  # fmt: skip
    cells = page(Report("A").add(rec)).text("td")
    pairs = dict(zip(cells[::2], cells[1::2], strict=True))
    kept = rec.data[15:].double()
    span = f"{kept.min():.4g} to {kept.max():.4g}, s.d. {kept.std(correction=0):.3g}"
    assert pairs == {"time axis": "60", "unit axis": "3", "sampling": "10 Hz", "duration": "6.00 s", "start": "0 s",
                     "unit": "dF/F", "valid samples": "75.0%", "range": span, "step: bin": "dt 0.1",
                     "step: smooth": "kernel [1, 2], kept 3 of 4", "assumed": "the clock starts at 0"}  # fmt: skip
    assert "Subject m1, session s2. A test." in page(Report("A").add(rec)).text("p")


def test_a_long_table_of_intervals_is_cut_and_says_so() -> None:
    table = Intervals.from_pairs([(k, k + 0.5) for k in range(100)])
    made = page(Report("A").add(table))
    assert made.text("p")[0] == "100 intervals cover 50.00 s. The first 12:"
    assert len(made.all("tr")) == 13


def test_numbers_stand_right_and_long_words_may_break() -> None:
    table = (("name", "n", "value"), ("a", 1, 0.123456), ("b", "none", np.float32(2)), ("x" * 64, 3, float("nan")))
    text = Report("A").add(Section(title="T", table=table)).html()
    assert '<th>name</th><th class="number">n</th><th class="number">value</th>' in text
    assert '<td class="number">0.1235</td>' in text
    assert f'<td class="long">{"x" * 64}</td>' in text


def test_the_pictures_of_a_page_share_one_scale() -> None:
    wide, small = (lambda: tectum.plot.curve([0, 1], [0, 1])), (lambda: tectum.plot.ranks([1, 2], ["a", "b"]))
    made = page(Report("A").add(Section(title="T", figures=(("wide", wide), ("small", small)))))
    widths = [int(re.search(r"width:(\d+)px", str(f["style"])).group(1)) for f in made.all("figure")]  # type: ignore[union-attr]
    assert widths == [pytest.approx(600, abs=25), pytest.approx(340, abs=25)]


# Where it comes from


def test_how_it_was_made_has_every_fact_and_hyper_parameter() -> None:
    model = PageMean(random_state=7, note="loud").fit(recording(subject="m1", session="a"))
    made = page(Report("A").add(model))
    cells = made.text("td")
    assert model.result_.provenance.data_hash in cells
    assert {"m1/a", "7", "not applicable"} <= set(cells)
    assert any(f"tectum {tectum.__version__}" in cell for cell in cells)
    config = model.result_.provenance.config
    assert [line.partition(" = ")[0] for line in made.text("li")] == list(config)
    assert "note = 'loud'" in made.text("li")


@pytest.mark.parametrize("citation", ["One 2020.", ["One 2020.", "Two 2021."], ("One 2020.", "Two 2021.")])
def test_citations_come_once_each(citation: Any) -> None:
    rec = recording(meta={"citation": citation})
    section = Section(title="T", references=("Two 2021.", "Three 2022."))
    made = page(Report("A").add(rec).add(rec).add(section))
    assert made.text("h2")[-1] == "References"
    assert made.text("li") == ["One 2020.", "Two 2021.", "Three 2022."]


def test_a_summary_in_text_says_what_to_cite() -> None:
    made = str(tectum.summary(recording(meta={"citation": "One 2020."})))
    assert made.endswith("Cite\n  One 2020.")
    assert "Cite" not in str(tectum.summary(recording()))


def test_numbers_that_are_labels_are_told_from_their_counts() -> None:
    trial = recording(coords={"unit": {"code": ["1", "1", "32"]}})
    assert "1 ×2, 32 ×1" in str(tectum.summary(trial))


def test_citations_of_a_session() -> None:
    made = page(Report("A").add(Session(items_={}, meta={"citation": ["One 2020."]})))
    assert made.text("li") == ["One 2020."]


def test_titles_stand_before_the_headings() -> None:
    report = Report("A").add(SESSION, title="Day 1").add(PageMean().fit(recording()), title="Model")
    assert page(report).text("h2")[:5] == ["Day 1", "Day 1: trace", "Day 1: spikes", "Day 1: wiring", "Model"]


# Files and failures


def test_the_page_is_written_whole(tmp_path: Path) -> None:
    path = Report("A").add(recording()).save(tmp_path / "new folder" / "page")
    assert path == tmp_path / "new folder" / "page.html"
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    before = path.read_bytes()

    def broken() -> Any:
        plt.figure()
        raise RuntimeError("no picture")

    with pytest.raises(RuntimeError, match="no picture"):
        Report("B").add(Section(title="T", figures=(("x", broken),))).save(path)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["page.html"]
    assert plt.get_fignums() == []


def test_figures_of_the_caller_stay_open() -> None:
    mine = plt.figure()
    Report("A").add(recording()).html()
    assert plt.get_fignums() == [mine.number]


@pytest.mark.parametrize("item", [3, None, torch.zeros(3), {"a": 1}, [3]])
def test_what_is_not_for_a_report(item: Any) -> None:
    report = Report("A")
    with pytest.raises(InputError, match=r"Report.add: expected a container, .* got (int|NoneType|Tensor|dict|list)"):
        report.add(item)
    assert report.sections == []


def test_a_model_without_a_fit() -> None:
    with pytest.raises(NotFittedError):
        Report("A").add(PageMean())


class Watched:
    """A source that tells how much was read."""

    shape, dtype = (3_000_000, 40), np.dtype("float32")

    def __init__(self) -> None:
        self.read = 0

    def __getitem__(self, index: Any) -> np.ndarray:
        made = np.zeros([len(range(*s.indices(n))) for s, n in zip(index, self.shape, strict=True)], dtype="float32")
        self.read += made.size
        return made


def test_a_lazy_recording_is_read_in_part_only() -> None:
    source = Watched()
    rec = Recording(data=LazyArray(source), dims=("time", "channel"), rate=1000.0)  # type: ignore[arg-type]
    assert "3000.00 s" in page(Report("A").add(rec)).text("td")
    assert source.read <= 20_000 * 40 + SAMPLES
    assert "3000000" in describe(rec)


def test_data_on_the_accelerator(accelerator: torch.device) -> None:
    report = Report("A").add(recording().to(accelerator)).add(GRAPH.to(accelerator))
    report.add(PageMean(device=str(accelerator)).fit(recording().to(accelerator)))
    assert len(page(report).all("img")) == 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::tectum.core.errors.TectumWarning")
def test_a_packed_session_and_a_real_model(tmp_path: Path) -> None:
    song = tectum.datasets.load("songbird_hvc")
    fast = {"derivative": 0.2, "min_run": 0.1, "smoothing": 0.3, "bin": 0.2, "restarts": 1, "max_iter": 20}
    model = tectum.DynamicConnectome(rank=1, surrogates=2, surrogate_shift=2.0, **fast).fit(song["calcium"])
    made = page(Report("A bird").add(song).add(model))
    assert {"Session", "calcium", "song", "Motifs in time", "Methods", "References"} <= set(made.text("h2"))
    assert any(line.startswith("Mackevicius") for line in made.text("li"))
    assert len(made.all("img")) >= 5


# What is in a file


def test_a_summary_of_a_file_says_how_it_was_read(tmp_path: Path) -> None:
    from tectum.core.errors import LoadError

    events = Intervals.from_pairs([(0, 1), (2, 3), (4, 5)], label=["go", "go", "stop"])
    coords = {"unit": {"area": ["V1", "V1", "M2"], "depth": [1.5, float("nan"), 3.0], "id": [7, 8, 9]}}
    step = {"step": "read", "format": "made", "cells": "3 of 5", "assumed": "10 Hz"}
    recording(coords=coords, intervals={"trials": events}, history=(step,)).save(str(tmp_path / "r.safetensors"))
    found = tectum.summary(tmp_path / "r.safetensors")
    lines = [" ".join(line.split()) for line in str(found).splitlines()]
    for wanted in (
        "How it was read", "path r.safetensors", "unit: area M2 1, V1 2", "unit: depth 1.5 to 3, 1 missing",
        "unit: id 7 to 9", "intervals: trials 3 intervals, 3.0 s (go 2, stop 1)",
        "step: read format made, cells 3 of 5", "assumed 10 Hz",
    ):  # fmt: skip
        assert wanted in lines, wanted
    assert "<iframe" in found._repr_html_()
    assert "r.safetensors" in Page(found.save(tmp_path / "r.html").read_text(encoding="utf-8")).text("h1")
    with pytest.raises(LoadError, match="none.nwb"):
        tectum.summary(tmp_path / "none.nwb")


def test_a_summary_keeps_the_warnings_of_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    from tectum.core.errors import TectumWarning

    def reader(path: Path, **options: Any) -> Recording:
        warnings.warn("the unit was guessed", TectumWarning, stacklevel=2)
        assert options == {"cells": 2}
        return recording()

    monkeypatch.setattr("tectum.io.read", reader)
    (tmp_path / "x.bin").write_bytes(b"abc")
    text = str(tectum.summary(tmp_path / "x.bin", cells=2))
    assert "the unit was guessed" in text
    assert "option cells  2" in text
    assert "3 bytes" in text


def test_a_summary_of_objects() -> None:
    assert str(tectum.summary(SPIKES)).startswith("Recording: spikes\nSubject m1.")
    several = str(tectum.summary({"one": SESSION, "two": recording()}))
    assert "one: trace" in several
    assert "\ntwo\n" in several
    assert "Recording: data" in str(tectum.summary((torch.zeros(4, 2), ("time", "unit"))))
    assert "\nm1\n" in str(tectum.summary([recording(), SPIKES]))
    with pytest.raises(InputError, match="expected"):
        tectum.summary(3.0)


def test_units_that_cannot_be_one_neuron_are_counted() -> None:
    spikes = Spikes.from_trains([[0.1, 0.1005, 0.4], [0.1, 0.2, 0.3], []], support=(0.0, 1.0))
    rows = [" ".join(line.split()) for line in str(tectum.summary(spikes)).splitlines()]
    assert "silent units 1" in rows
    assert "units with over 1 % of intervals below 1.5 ms 1" in rows
    filled = int((spikes.bin(0.1).values > 0).sum())
    assert f"empty bins of 100 ms {1 - filled / 30:.1%}" in rows
