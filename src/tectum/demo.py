"""``make demo``: the dynamic functional connectome of a singing bird, from the recording in the package."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from . import datasets
from .core.intervals import Intervals
from .core.recording import Recording
from .core.result import Section
from .core.serialize import write_text
from .core.xarrays import numpy
from .models.dynamic_connectome.estimator import DynamicConnectome
from .models.dynamic_connectome.result import DynamicConnectomeResult
from .report import Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: A song changes within tenths of a second, so every time constant is a tenth of the default.
SETTINGS: dict[str, Any] = {
    "ranks": tuple(range(1, 9)),
    "derivative": 0.2,
    "min_run": 0.1,
    "smoothing": 0.3,
    "bin": 0.1,
    "restarts": 6,
    "surrogates": 100,
    "surrogate_shift": 2.0,
}


def demo(folder: str | os.PathLike[str] = "demo") -> Path:
    """Fit the songbird recording and write report, model and numbers into a folder.

    Parameters
    ----------
    folder : path, default "demo"
        Gets ``songbird.html``, ``songbird.safetensors`` and ``songbird.tsv``.

    Returns
    -------
    Path
        The report.
    """
    folder = Path(folder)
    session = datasets.load("songbird_hvc")
    song, calcium = session["song"], session["calcium"]
    recording = calcium.with_(intervals={"stimuli": syllables(song)})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="rank_report: no fibre")  # one animal: the report says so
        warnings.filterwarnings("ignore", message=".*constant traces")  # one neuron is silent throughout
        model = DynamicConnectome(**SETTINGS).fit(recording)
    model.save(str(folder / "songbird.safetensors"))
    write_text(folder / "songbird.tsv", table(model.result_))
    report = Report("A singing bird's dynamic connectome", subtitle="75 neurons of area HVC of an isolated zebra finch")
    report.add(summary(song, recording, model.result_)).add(model).add(recording, title="The recording")
    return report.save(folder / "songbird.html")


def syllables(song: Recording, *, level: float = 0.2, shortest: float = 0.05) -> Intervals:
    """Find loud syllables: stretches in which the mean of the spectrogram stays above ``level``.

    Parameters
    ----------
    song : Recording, dims (time, freq)
        Spectrogram scaled to [0, 1].
    level : float, default 0.2
        Threshold on its mean over frequencies.
    shortest : float, default 0.05
        Shorter stretches are dropped, s.

    Returns
    -------
    Intervals
        With a column "name".
    """
    loud = song.tensor("time", "freq").float().mean(1) > level
    edge = torch.cat([loud.new_zeros(1), loud, loud.new_zeros(1)]).int().diff()
    time = torch.cat([song.time, song.time[-1:] + 1 / (song.rate or 1.0)])
    start, stop = time[(edge == 1).nonzero().flatten()], time[(edge == -1).nonzero().flatten()]
    kept = stop - start >= shortest
    names = np.full(int(kept.sum()), "loud syllable")
    return Intervals(start=start[kept], stop=stop[kept], columns={"name": names})


def table(result: DynamicConnectomeResult) -> str:
    """Return one line a motif: weight, p values, association with loud syllables, and its groups of neurons."""
    lines = ["motif\tweight\tweight_p_holm\tblock_contrast_p\tauroc_loud_syllables\tauroc_p\tgroups"]
    for r in range(result.n_components):
        groups = " | ".join(",".join(g) for g in result.groups(r))
        figures = (
            result.weight[r],
            _at(result.surrogate_p_holm, r),
            result.contrast_p[r],
            result.association[r, 0],
            result.association_p[r, 0],
        )
        lines.append("\t".join([str(r), *(f"{float(x):.4g}" for x in figures), groups]))
    return "\n".join(lines) + "\n"


def _at(values: Tensor | None, index: int) -> float:
    return float("nan") if values is None else float(values[index])


def summary(song: Recording, calcium: Recording, result: DynamicConnectomeResult) -> Section:
    """Return the first part of the report: what was found, and song, neurons and motifs on one time axis."""
    follow = [r for r in range(result.n_components) if float(result.association_p[r, 0]) < 0.05]
    real = [r for r in range(result.n_components) if _at(result.surrogate_p_holm, r) < 0.05]
    text = (
        f"{result.n_components} groups-in-time (motifs) describe which neurons change together while the bird sings. "
        f"Heavier than any found in neurons shifted independently in time: {_listed(real)}. "
        f"Tied to loud syllables (circular shifts, p < 0.05): {_listed(follow)}. "
        "The bird was never tutored; its song is a loose sequence of loud calls and trills, and so are the motifs."
    )
    caption = "Song, neurons (sorted by the motif they belong to most) and motifs; bands mark loud syllables."
    return Section(title="Song, neurons, motifs", text=text, figures=((caption, together(song, calcium, result)),))


def _listed(motifs: list[int]) -> str:
    return "motif " + ", ".join(map(str, motifs)) if motifs else "none"


def together(song: Recording, calcium: Recording, result: DynamicConnectomeResult) -> Callable[[], Axes]:
    """Return a function that draws spectrogram, activity and motifs above one another."""

    def draw() -> Axes:
        import matplotlib.pyplot as plt

        figure, panels = plt.subplots(3, 1, figsize=(8.4, 6.2), sharex=True, height_ratios=[1, 1.7, 1.6])
        _spectrogram(song, panels[0])
        _activity(calcium, result, panels[1])
        main = result.plot("overview", ax=panels[2])
        main.set_xlim(0, calcium.duration)
        figure.align_ylabels(panels)
        return main

    return draw


def _spectrogram(song: Recording, ax: Axes) -> None:
    picture = numpy(song.tensor("freq", "time").float())
    ax.imshow(picture, aspect="auto", origin="lower", cmap="gray_r", extent=(0, song.duration, 0, len(picture)))
    ax.set_ylabel("frequency (bin)")


def _activity(calcium: Recording, result: DynamicConnectomeResult, ax: Axes) -> None:
    """Heat map of the neurons, those of one motif side by side."""
    strength = torch.stack([result.affinity_matrix(r).sum(1) for r in range(result.n_components)])  # (R, N)
    order = (strength.argmax(0) * 1e6 - strength.amax(0)).argsort()
    column = {name: i for i, name in enumerate(str(x) for x in calcium.coords["unit"]["id"])}
    rows = [column[result.units[i]] for i in order.tolist()]
    picture = numpy(calcium.tensor("unit", "time"))[rows]
    high = float(np.percentile(picture[picture > 0], 95))
    ax.imshow(
        picture, aspect="auto", cmap="Greys", vmin=0, vmax=high, extent=(0, calcium.duration, len(rows) - 0.5, -0.5)
    )
    ax.set_ylabel("neuron (by motif)")
