"""Quality of one fMRI run: signal to noise, movement, change from volume to volume, carpet, confounds, mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tectum.core.errors import InputError, explain
from tectum.core.recording import Recording
from tectum.core.result import Result, Section, axes
from tectum.core.session import Session
from tectum.preprocess import _fmri_quality as measures
from tectum.preprocess.fmri import dvars, framewise_displacement, tsnr

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
_SOURCES = (
    "Power et al. (2012). Spurious but systematic correlations in functional connectivity MRI networks arise from "
    "subject motion. NeuroImage 59, 2142.",
    "Nichols (2017). Notes on creating a standardized version of DVARS. arXiv:1704.01469.",
    "Power (2017). A simple but useful way to assess fMRI scan qualities. NeuroImage 154, 150.",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class FMRIQuality(Result):
    """What :func:`fmri_quality` found.

    Attributes
    ----------
    tsnr : Tensor, shape (voxel,)
        Mean over standard deviation of the volumes that stay; ``voxel`` also stands for vertices and parcels.
    dvars, std_dvars : Tensor, shape (time,)
        Root mean square change to the volume before, in the unit of the data, and over what noise gives.
    global_signal : Tensor, shape (time,)
        Mean over all series.
    kept : Tensor, shape (time,), bool
        Volumes that the confounds keep.
    carpet : Tensor, shape (unit, time)
        Series in standard deviations, those that follow the global signal most first; ``coords["unit"]["series"]``
        tells which.
    fd : Tensor, shape (time,), optional
        Framewise displacement in mm, if the confounds have the six parameters of motion.
    confounds : Tensor, shape (feature, feature), optional
        Correlation of confounds, the global signal last, over the volumes that stay.
    mean : Tensor, shape (x, y, z), optional
        Mean over volumes, where data have a grid.
    inside : Tensor, shape (x, y, z), bool, optional
        The mask of the data.
    affine : tuple of rows
        From voxel indices to mm; empty without a grid.
    units : str
        Unit of the data.
    thresholds : tuple of float
        Framewise displacement (mm) and standardised DVARS above which the table counts volumes.
    """

    tsnr: Tensor = axes("voxel")
    dvars: Tensor = axes("time")
    std_dvars: Tensor = axes("time")
    global_signal: Tensor = axes("time")
    kept: Tensor = axes("time")
    carpet: Tensor = axes("unit", "time")
    fd: Tensor | None = axes("time", unit="mm", default=None)
    confounds: Tensor | None = axes("feature", "feature", default=None)
    mean: Tensor | None = axes("x", "y", "z", default=None)
    inside: Tensor | None = axes("x", "y", "z", default=None)
    affine: tuple[tuple[float, ...], ...] = ()
    units: str = "BOLD"
    thresholds: tuple[float, float] = (0.5, 1.5)

    @property
    def tsnr_map(self) -> Tensor | None:
        """The signal-to-noise ratio on the grid, NaN outside the mask: Tensor (x, y, z), None without a grid."""
        if self.inside is None:
            return None
        return self.tsnr.new_full(self.inside.shape, torch.nan).masked_scatter(self.inside, self.tsnr)

    def facts(self) -> tuple[tuple[str, Any], ...]:
        """Return the numbers of the run as (name, value)."""
        finite = self.tsnr[torch.isfinite(self.tsnr) & (self.tsnr > 0)]
        middle = float(finite.median()) if len(finite) else float("nan")
        n, stay, (moved, changed) = len(self.kept), int(self.kept.sum()), self.thresholds
        rows: list[tuple[str, Any]] = [("volumes kept", f"{stay} of {n} ({stay / n:.0%})"), ("tSNR, median", middle)]
        if self.fd is not None:
            rows += [("framewise displacement, mean (mm)", float(self.fd[1:].mean())),
                     ("framewise displacement, largest (mm)", float(self.fd.max())),
                     (f"volumes above {moved:g} mm", int((self.fd > moved).sum()))]  # fmt: skip
        later = self.std_dvars[1:]
        rows += [(f"DVARS, median ({self.units})", float(self.dvars[1:].median())),
                 ("standardised DVARS, largest", float(later.max())),
                 (f"volumes of standardised DVARS above {changed:g}", int((later > changed).sum()))]  # fmt: skip
        if self.confounds is not None and len(self.confounds) > 1:
            names, with_all = list(self.coords["feature"]["name"]), self.confounds[-1, :-1].abs().nan_to_num()
            top = int(with_all.argmax())
            rows += [("confound nearest to the global signal", f"{names[top]}, |r| {float(with_all[top]):.2f}")]
        return tuple(rows)

    def plots(self) -> Mapping[str, Any]:
        """Return the kinds of figure."""
        from tectum.plot import brain

        time = np.asarray(self.coords["time"]["time"])
        step = float(np.median(np.diff(time))) if len(time) > 1 else 1.0
        extent = (float(time[0]), float(time[-1]) + step)
        affine = np.asarray(self.affine) if self.affine else None

        def carpet(ax: Axes | None = None) -> Axes:
            rows = f"{len(self.carpet)} of {len(self.tsnr)} series"
            return brain.carpet(self.carpet, extent=extent, removed=~self.kept, y=rows, ax=ax)

        def overview(ax: Axes | None = None) -> Axes:
            return self._overview(time, carpet) if ax is None else carpet(ax)

        made: dict[str, Any] = {"overview": overview, "carpet": carpet}
        found, inside, mean = self.tsnr_map, self.inside, self.mean
        if found is not None and mean is not None:
            made["tsnr"] = lambda ax=None: brain.slices(found, affine=affine, inside=inside, bar="tSNR", ax=ax)
            made["mask"] = lambda ax=None: brain.slices(
                mean, affine=affine, inside=inside, bar=f"mean ({self.units})", grey=True, ax=ax
            )
        if self.confounds is not None:
            made["confounds"] = self._correlations
        return made

    def _correlations(self, ax: Axes | None = None) -> Axes:
        """Draw the correlation of confounds, with their names where these can be read."""
        from tectum.plot import axes, matrix

        assert self.confounds is not None  # plots() offers this figure only then
        side = min(7.0, 2.6 + 0.1 * len(self.confounds))
        ax = axes(ax, width=side + 1.2, height=side)
        matrix(self.confounds, names=[str(n) for n in self.coords["feature"]["name"]], bar="correlation", ax=ax)
        ax.set(xlabel="confound", ylabel="")
        return ax

    def _overview(self, time: np.ndarray, carpet: Any) -> Axes:
        """Draw movement, change, global signal and carpet over one axis of time."""
        from matplotlib import pyplot as plt

        from tectum.plot import brain, style

        rows: list[tuple[str, Tensor, float | None]] = [
            ("std. DVARS", self.std_dvars, self.thresholds[1]), ("global", self.global_signal, None)
        ]  # fmt: skip
        rows = [("FD (mm)", self.fd, self.thresholds[0]), *rows] if self.fd is not None else rows
        with style():
            heights = [1.0] * len(rows) + [3.2]
            figure, panels = plt.subplots(len(rows) + 1, 1, sharex=True, figsize=(7.2, 1 + 0.9 * sum(heights)),
                                          height_ratios=heights, layout="constrained")  # fmt: skip
            for (name, values, mark), panel in zip(rows, panels, strict=False):
                brain.trace(time, values, y=name, removed=~self.kept, mark=mark, ax=panel)
                panel.set_xlabel("")
            figure.align_ylabels(panels)
            made: Axes = carpet(panels[-1])
            return made

    def sections(self) -> list[Section]:
        """Return the part of a report on this run."""
        kinds = self.plots()
        told = {
            "overview": "Movement, change and the mean of all series, over the carpet (rows: series without trend, in "
            "standard deviations, those that follow the mean most at the top). Volumes that are left out are marked.",
            "mask": "Mean over volumes, and the outline of the mask.",
            "tsnr": "Temporal signal-to-noise ratio inside the mask.",
            "confounds": "Correlation of the confounds and the global signal over the volumes that stay.",
        }
        figures = tuple((text, kinds[name]) for name, text in told.items() if name in kinds)
        return [Section("Quality of the run", table=(("", ""), *self.facts()), figures=figures, references=_SOURCES)]


def fmri_quality(
    source: Session | Recording | str | Path,
    confounds: Recording | None = None,
    *,
    strategy: Any = "motion6",
    mean: Any = None,
    rows: int = 600,
    thresholds: tuple[float, float] = (0.5, 1.5),
) -> FMRIQuality:
    """Measure the quality of a run before it is cleaned.

    Parameters
    ----------
    source : Session, Recording or path
        ``bold`` and ``confounds`` of a session; a recording (time, voxel), (time, vertex), (time, unit) or
        (time, x, y, z); or a preprocessed image of fMRIPrep with its table of confounds beside it.
    confounds : Recording (time, feature), optional
        Of :func:`tectum.io.fmri.confounds.read_confounds`: tells movement and which volumes stay.
    strategy : str or sequence of str, default "motion6"
        Which confounds are read beside a path, and shown.
    mean : path, array or Recording, shape (x, y, z), optional
        Mean image for the outline of the mask; default that of the data, which inside a mask ends at it.
    rows : int, default 600
        Most rows of the carpet.
    thresholds : (float, float)
        Framewise displacement (mm) and standardised DVARS above which volumes are counted; they remove nothing.

    Returns
    -------
    FMRIQuality
        Show it with ``tectum.Report("run").add(found)``.

    Raises
    ------
    InputError
        If data or confounds are not what they must be.

    References
    ----------
    Power et al. (2012), NeuroImage 59, 2142; Nichols (2017), arXiv:1704.01469; Power (2017), NeuroImage 154, 150.

    Examples
    --------
    >>> rec = Recording(data=100 + torch.randn(60, 40), dims=("time", "voxel"), rate=0.5, units="BOLD")
    >>> found = fmri_quality(rec)
    >>> found.plots().keys() >= {"overview", "carpet"}, found.facts()[0]
    (True, ('volumes kept', '60 of 60 (100%)'))
    """
    if isinstance(source, (str, Path)):
        return _of_path(Path(source), confounds, strategy, rows=rows, thresholds=thresholds)
    if isinstance(source, Session):
        if "bold" not in source or not isinstance(source["bold"], Recording):
            raise InputError(explain("fmri_quality", expected="a session with bold", got=f"{sorted(source)}"))
        own: Any = source.get("confounds")
        return fmri_quality(source["bold"], own if confounds is None else confounds, mean=mean, rows=rows,
                            thresholds=thresholds)  # fmt: skip
    if not isinstance(source, Recording) or "time" not in source.dims or source.sizes["time"] < 3:
        raise InputError(explain("fmri_quality", expected="a recording of three volumes or more", got=repr(source)))
    bold, inside = _flat(source)
    kept, names, columns = _confounds(confounds, bold)
    stays = bold if bool(kept.all()) else bold.isel(time=kept.nonzero().flatten().tolist())
    x = bold.values
    rows_of, places = measures.carpet(x, rows)
    whole = measures.correlations(torch.cat([columns, x.mean(1, keepdim=True).to(columns)], 1)[kept])
    known = dict(zip(names, columns.T, strict=True))
    moved = framewise_displacement(torch.stack([known[n] for n in MOTION], 1)) if set(MOTION) <= set(known) else None
    image = bold.meta.get("image") if inside is not None else None
    return FMRIQuality(
        tsnr=tsnr(stays).values,
        dvars=dvars(bold),
        std_dvars=measures.standardised_change(x),
        global_signal=x.mean(1),
        kept=kept,
        carpet=rows_of,
        fd=moved,
        confounds=whole if names else None,
        mean=None if inside is None else _mean(mean, stays, inside),
        inside=inside,
        affine=() if image is None else tuple(tuple(float(v) for v in row) for row in image["affine"]),
        units=bold.units,
        thresholds=thresholds,
        coords={
            "time": {"time": bold.time.numpy()},
            "unit": {"series": places.cpu().numpy()},
            **({"feature": {"name": np.asarray([*names, "global signal"])}} if names else {}),
        },
    )


def _of_path(path: Path, confounds: Recording | None, strategy: Any, **options: Any) -> FMRIQuality:
    """Read an image inside its mask with what lies beside it, and its mean over the whole grid."""
    from tectum.io.fmri.bids import companions
    from tectum.io.fmri.images import open_image
    from tectum.io.fmri.masks import mean_image
    from tectum.io.fmri.volumes import read_fmriprep, read_image

    beside = companions(path, "_timeseries.tsv", desc="confounds") or companions(
        path, "_regressors.tsv", desc="confounds"
    )
    found: Session | Recording = (
        read_fmriprep(path, strategy=strategy) if beside and confounds is None
        else read_image(path, mask="auto", kind="series")
    )  # fmt: skip
    return fmri_quality(found, confounds, mean=mean_image(open_image(path)), **options)


def _flat(rec: Recording) -> tuple[Recording, Tensor | None]:
    """Return a recording as (time, one axis) in memory, and the voxels on their grid (x, y, z) where it has one."""
    others = tuple(d for d in rec.dims if d != "time")
    image = rec.meta.get("image")
    if set(others) == {"x", "y", "z"}:
        values = rec.tensor("time", "x", "y", "z").float()
        inside = values.var(0, correction=0) > 0
        index = {name: column.numpy() for name, column in zip("ijk", inside.nonzero().T.cpu(), strict=True)}
        flat = rec.with_(data=values[:, inside], dims=("time", "voxel"), mask=None, coords={"voxel": index})
        return flat, inside
    if len(others) != 1:
        raise InputError(explain("fmri_quality", expected="(time, one axis) or (time, x, y, z)", got=repr(rec)))
    values = rec.tensor("time", others[0])
    values = values if values.is_floating_point() else values.float()
    if rec.mask is not None:
        alive = rec.mask.all(rec.dims.index("time"))
        values = values[:, alive]
        rec = rec.isel(**{others[0]: alive.nonzero().flatten().tolist()})
    if not bool(torch.isfinite(values.sum(0)).all()):
        got = f"NaN or infinity in {int((~torch.isfinite(values)).any(0).sum())} series"
        raise InputError(explain("fmri_quality", expected="finite values", got=got, fix="read with nan='drop_voxels'"))
    table = rec.coords.get(others[0], {})
    made = rec.with_(data=values, dims=("time", others[0]), mask=None)
    if image is None or others[0] != "voxel" or not {"i", "j", "k"} <= set(table):
        return made, None
    inside = torch.zeros(tuple(image["shape"]), dtype=torch.bool, device=values.device)
    inside[tuple(torch.from_numpy(np.asarray(table[c], dtype=np.int64)).to(values.device) for c in "ijk")] = True
    return made, inside


def _confounds(confounds: Recording | None, bold: Recording) -> tuple[Tensor, list[str], Tensor]:
    """Return the volumes that stay (time,), and names and columns (time, n) of the confounds."""
    n = bold.sizes["time"]
    device = bold.values.device
    if confounds is None:
        return torch.ones(n, dtype=torch.bool, device=device), [], torch.zeros(n, 0, device=device)
    if not isinstance(confounds, Recording) or set(confounds.dims) != {"time", "feature"}:
        raise InputError(explain("fmri_quality(confounds)", expected="axes time and feature", got=repr(confounds)))
    if confounds.sizes["time"] != n:
        got = f"{confounds.sizes['time']} rows"
        raise InputError(explain("fmri_quality(confounds)", expected=f"{n} rows, one a volume", got=got))
    kept = np.asarray(confounds.coords.get("time", {}).get("kept", np.ones(n, dtype=bool)), dtype=bool)
    if kept.sum() < 3:
        raise InputError(explain("fmri_quality", expected="three volumes that stay or more", got=f"{kept.sum()}"))
    names = confounds.labels("feature")
    columns = confounds.tensor("time", "feature").to(device)
    named = [str(k) for k in range(columns.shape[1])] if names is None else [str(name) for name in names]
    return torch.from_numpy(kept).to(device), named, columns


def _mean(given: Any, bold: Recording, inside: Tensor) -> Tensor:
    """Return the mean image (x, y, z): the one given, else that of the data, 0 outside them."""
    own = bold.values.mean(0)
    if given is None:
        return own.new_zeros(inside.shape).masked_scatter(inside, own)
    from tectum.io.fmri.masks import check_grid, volume_of

    values, affine = volume_of(given, "fmri_quality(mean)")
    image = bold.meta.get("image", {"shape": list(inside.shape), "affine": np.eye(4)})
    check_grid(values.shape, affine, image, "fmri_quality(mean)", "take it to the grid of the data")
    return torch.from_numpy(np.array(values, dtype=np.float64)).to(own)
