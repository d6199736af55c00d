"""fMRIPrep's confounds: strategies, columns by pattern and sidecar, scrubbing to a mask of volumes that stay."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from tectum.core.errors import InputError, LoadError, explain
from tectum.core.recording import Recording

from ..delimited import read_table
from ..events import span
from ..files import ContentError, reading
from ..signature import natural
from .bids import companions, entities, only, read_json, sidecar
from .tedana import Which, tedana_files, tedana_names

Model = Literal["basic", "derivatives", "power2", "full"]
MOTION = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
_SUFFIX: dict[str, tuple[str, ...]] = {
    "basic": ("",),
    "derivatives": ("", "_derivative1"),
    "power2": ("", "_power2"),
    "full": ("", "_derivative1", "_power2", "_derivative1_power2"),
}
#: Kind of CompCor -> (prefixes, masks of the anatomical one).
_COMPCOR: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "anat_combined": (("a",), ("combined",)),
    "anat_separated": (("a", "w", "c"), ("WM", "CSF")),
    "temporal": (("t",), ()),
    "temporal_anat_combined": (("t", "a"), ("combined",)),
    "temporal_anat_separated": (("t", "a", "w", "c"), ("WM", "CSF")),
}
#: Name of a strategy -> its components and what it sets.
STRATEGIES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "none": ((), {}),
    "motion6": (("motion",), {"motion": "basic"}),
    "motion12": (("motion",), {"motion": "derivatives"}),
    "motion24": (("motion",), {"motion": "full"}),
    "simple": (("high_pass", "motion", "wm_csf"), {"motion": "full", "wm_csf": "basic"}),
    "scrubbing": (("high_pass", "motion", "wm_csf", "scrub"), {"motion": "full", "wm_csf": "full"}),
    "compcor": (("high_pass", "motion", "compcor"), {"motion": "full", "compcor": "anat_combined"}),
    "aroma": (("high_pass", "wm_csf", "ica_aroma"), {"wm_csf": "basic"}),
    "tedana": (("tedana",), {}),
}


class MissingColumnError(ContentError, KeyError):
    """A confound that was asked for is not in the table."""

    __str__ = Exception.__str__


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is taken from a table of confounds; see :func:`read_confounds`."""

    motion: Model = "full"
    wm_csf: Model = "basic"
    global_signal: Model | None = None
    compcor: str = "anat_combined"
    n_compcor: int | Literal["all"] = "all"
    ica_aroma: Literal["full", "basic"] = "full"
    tedana: Which = "aggressive"
    scrub: int = 5
    fd_threshold: float = 0.5
    std_dvars_threshold: float = 1.5


def read_confounds(
    path: str | Path,
    *,
    strategy: str | Sequence[str] = "simple",
    columns: Sequence[str] = (),
    tr: float | None = None,
    demean: bool = True,
    first_row: Literal["next", "zero", "mean"] = "next",
    minimum: int = 20,
    **choice: Any,
) -> Recording:
    """Read a table of confounds of fMRIPrep (1.2 or later).

    Parameters
    ----------
    path : path
        ``*_desc-confounds_timeseries.tsv`` (``_regressors`` before 20.2), or the image, beside which it is looked for.
    strategy : str or sequence of str, default "simple"
        "none", "motion6", "motion12", "motion24", "simple", "scrubbing", "compcor", "aroma"; or components among
        "motion", "high_pass", "wm_csf", "global_signal", "compcor", "ica_aroma", "scrub". Or "tedana", alone: the
        columns of ``*_desc-ICA_mixing.tsv`` that ``*_desc-tedana_metrics.tsv`` classifies, both beside the image.
    columns : sequence of str
        Further columns by name.
    tr : float, optional
        Repetition time in s; default what sidecars of the run say.
    demean : bool, default True
        Subtract the mean over the volumes that stay.
    first_row : {"next", "zero", "mean"}
        What stands for the missing first row of derivatives: the second row (as nilearn does), 0 after demeaning, or
        the mean.
    minimum : int, default 20
        Fewest volumes that must stay.
    **choice
        ``motion``, ``wm_csf``, ``global_signal`` ("basic", "derivatives", "power2", "full"; the global signal is left
        out unless asked for), ``compcor`` ("anat_combined", "anat_separated", "temporal", "temporal_anat_combined",
        "temporal_anat_separated"), ``n_compcor`` (a number or "all"), ``ica_aroma`` ("full": the image is denoised
        already; "basic": regress the components), ``tedana`` ("aggressive": rejected components; "non-aggressive":
        accepted ones too, for a fit that subtracts the rejected ones only, which ``clean`` does not), ``scrub``
        (shortest segment kept between removed volumes, 0 keeps all), ``fd_threshold`` (mm), ``std_dvars_threshold``.

    Returns
    -------
    Recording, dims (time, feature), float64
        Columns in the order of their names; the table of ``time`` has ``kept`` (False for volumes before the steady
        state and scrubbed ones). Give it to :func:`tectum.preprocess.clean`.

    Raises
    ------
    MissingColumnError
        If a column is missing, with the nearest names (an :class:`InputError`, a :class:`LoadError` and a KeyError).
    InputError
        If fewer than ``minimum`` volumes stay, or the strategy is unknown.
    """
    path = Path(path)
    components, options = _strategy(strategy, choice)
    of_tedana = "tedana" in components
    if of_tedana:
        path, metrics = tedana_files(path)
    elif path.suffix != ".tsv":
        path = confounds_beside(path)
    with reading(path, "a table of confounds"):
        raw = read_table(path, delimiter="\t")
        if of_tedana:
            table = {name: _number(raw[column], column, path) for name, column in
                     tedana_names(metrics, raw, options.tedana).items()}  # fmt: skip
            names = list(table)
        else:
            table = _numbers(raw, path)
            names = _names(table, components, options, _sidecar(path), path)
        names = sorted({*names, *_exact(table, columns, path)})
        kept = _kept(table, options if "scrub" in components else None, len(next(iter(raw.values()))))
        if kept.sum() < minimum:
            expected = f"at least {minimum} volumes that stay"
            fix = "raise fd_threshold or std_dvars_threshold, or leave the run out"
            raise InputError(explain(str(path), expected=expected, got=f"{kept.sum()} of {len(kept)}", fix=fix))
        step = _tr(path, tr)
        values = np.stack([table[n] for n in names], axis=1) if names else np.empty((len(kept), 0))
        values = _filled(values, kept, demean, first_row, names, path)
        own = entities(path)
        note = {"step": "read", "format": "confounds", "file": path.name, "components": list(components),
                "columns": len(names), "removed": int((~kept).sum()), "demean": demean,
                "options": _said(components, options)}  # fmt: skip
        return Recording(
            data=torch.from_numpy(values),
            dims=("time", "feature"),
            rate=1.0 / step,
            coords={"feature": {"name": np.asarray(names, dtype=str)}, "time": {"kept": kept}},
            intervals={"support": span(0.0, len(kept) * step)},
            modality="fmri",
            subject=own.get("sub", ""),
            session=own.get("ses", ""),
            meta={"format": "confounds", "file": path.name},
            history=(note,),
        )


def _strategy(strategy: str | Sequence[str], choice: Mapping[str, Any]) -> tuple[tuple[str, ...], Choice]:
    """Return components and options of a strategy, the caller's options over its own."""
    known = ("motion", "high_pass", "wm_csf", "global_signal", "compcor", "ica_aroma", "scrub", "tedana")
    if isinstance(strategy, str):
        if strategy not in STRATEGIES:
            raise InputError(explain("strategy", expected=f"one of {', '.join(STRATEGIES)}", got=repr(strategy)))
        components, preset = STRATEGIES[strategy]
    else:
        components, preset = tuple(strategy), {}
        for name in components:
            if name not in known:
                raise InputError(explain("strategy", expected=f"components among {known}", got=repr(name)))
    unknown = set(choice) - set(Choice.__dataclass_fields__)
    if unknown:
        expected = f"options among {', '.join(Choice.__dataclass_fields__)}"
        raise InputError(explain("read_confounds", expected=expected, got=", ".join(sorted(unknown))))
    options = Choice(**{**preset, **choice})
    if options.global_signal is not None and "global_signal" not in components:
        components = (*components, "global_signal")
    models = (options.motion, options.wm_csf, options.global_signal or "basic")
    if any(m not in _SUFFIX for m in models) or options.compcor not in _COMPCOR:
        got = f"motion={options.motion!r}, wm_csf={options.wm_csf!r}, global_signal={options.global_signal!r}, "
        expected = f"models among {tuple(_SUFFIX)}, CompCor among {tuple(_COMPCOR)}"
        raise InputError(explain("read_confounds", expected=expected, got=got + f"compcor={options.compcor!r}"))
    if "compcor" in components and "high_pass" not in components:
        fix = "add 'high_pass': the components were computed after it"
        raise InputError(explain("strategy", expected="high_pass with compcor", got=repr(components), fix=fix))
    if "tedana" in components and len(components) > 1:
        fix = "read the others from fMRIPrep's table and join them"
        raise InputError(explain("strategy", expected="'tedana' alone", got=repr(components), fix=fix))
    return components, options


def _said(components: Sequence[str], options: Choice) -> dict[str, Any]:
    """Return the options that the components used."""
    belongs = {"compcor": ("compcor", "n_compcor"), "scrub": ("scrub", "fd_threshold", "std_dvars_threshold")}
    return {name: getattr(options, name) for c in components for name in belongs.get(c, (c,)) if hasattr(options, name)}


def _numbers(columns: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """Return the columns as float64 with NaN for n/a."""
    if any(re.match(r"[A-Z]", name) for name in columns):
        got = f"{next(n for n in columns if re.match('[A-Z]', n))!r}, a name of version 1.1 or older"
        raise LoadError(explain(str(path), expected="confounds of fMRIPrep 1.2 or later", got=got))
    return {name: _number(column, name, path) for name, column in columns.items()}


def _number(column: np.ndarray, name: str, path: Path) -> np.ndarray:
    """Return one column as float64 with NaN for n/a."""
    try:
        return np.where(np.isin(column, ("n/a", "")), "nan", column).astype(np.float64)
    except ValueError as cause:
        raise LoadError(explain(f"{path}: {name}", expected="a column of numbers", got=str(cause))) from cause


def _sidecar(path: Path) -> dict[str, Any]:
    beside = path.with_suffix(".json")
    return read_json(beside) if beside.is_file() else {}


def _names(
    table: Mapping[str, np.ndarray], components: Sequence[str], options: Choice, masks: Mapping[str, Any], path: Path
) -> list[str]:
    """Return the columns that the components stand for."""
    pick: dict[str, Callable[[], list[str]]] = {
        "motion": lambda: _exact(table, [b + s for b in MOTION for s in _SUFFIX[options.motion]], path),
        "high_pass": lambda: [n for n in table if "cosine" in n],
        "wm_csf": lambda: _exact(
            table, [b + s for b in ("csf", "white_matter") for s in _SUFFIX[options.wm_csf]], path
        ),
        "global_signal": lambda: _exact(
            table, ["global_signal" + s for s in _SUFFIX[options.global_signal or "basic"]], path
        ),
        "compcor": lambda: _exact(table, _compcor(options, masks, path), path),
        "ica_aroma": lambda: _aroma(table, options, path),
        "scrub": lambda: _exact(table, ("framewise_displacement", "std_dvars"), path)[:0],
    }
    return [name for component in components for name in pick[component]()]


def _exact(table: Mapping[str, np.ndarray], wanted: Sequence[str], path: Path) -> list[str]:
    """Return names after checking that the table has them."""
    import difflib

    missing = [name for name in wanted if name not in table]
    if missing:
        near = difflib.get_close_matches(missing[0], list(table), n=4, cutoff=0.4) or list(table)[:8]
        fix = f"near {missing[0]!r}: {', '.join(near)}"
        expected = f"columns {', '.join(missing)}"
        raise MissingColumnError(explain(str(path), expected=expected, got=f"{len(table)} others", fix=fix))
    return list(wanted)


def _compcor(options: Choice, masks: Mapping[str, Any], path: Path) -> list[str]:
    """Return the CompCor columns that the sidecar lists for the masks asked for, the first of each."""
    prefixes, wanted = _COMPCOR[options.compcor]
    if not masks:
        got = f"no {path.with_suffix('.json').name}"
        raise LoadError(explain(str(path), expected="a sidecar that tells the CompCor masks", got=got))
    found: list[str] = []
    for prefix in prefixes:
        own = [n for n in masks if re.fullmatch(rf"{prefix}_comp_cor_\d+", n) and _retained(masks[n])]
        listed = sorted(own, key=natural)
        groups = [[n for n in listed if masks[n].get("Mask") == m] for m in wanted] if prefix == "a" else [listed]
        for group in groups:
            found += group if options.n_compcor == "all" else group[: int(options.n_compcor)]
    if not found:
        raise MissingColumnError(
            explain(str(path), expected=f"components of {options.compcor}", got=f"none in {len(masks)} entries")
        )
    return found


def _retained(entry: Any) -> bool:
    return isinstance(entry, Mapping) and entry.get("Retained", True) is not False


def _aroma(table: Mapping[str, np.ndarray], options: Choice, path: Path) -> list[str]:
    if options.ica_aroma == "full":
        return []
    found = [n for n in table if "aroma" in n]
    if not found:
        raise MissingColumnError(explain(str(path), expected="columns aroma_motion_*", got="none"))
    return found


def _kept(table: Mapping[str, np.ndarray], scrub: Choice | None, n: int) -> np.ndarray:
    """Return which of n volumes stay, bool (time,)."""
    kept = np.ones(n, dtype=bool)
    for name, column in table.items():
        if "non_steady_state" in name:
            kept &= ~(np.nan_to_num(column) > 0)
    if scrub is not None:
        moved = table["framewise_displacement"] > scrub.fd_threshold  # NaN, the first row, is not above
        moved |= table["std_dvars"] > scrub.std_dvars_threshold
        kept &= ~short_segments(moved, scrub.scrub)
    return kept


def short_segments(removed: np.ndarray, shortest: int) -> np.ndarray:
    """Remove what lies between removed volumes, or before and after them, and is shorter than ``shortest``.

    Examples
    --------
    >>> short_segments(np.array([0, 0, 0, 1, 0, 0, 1, 0, 0, 0], bool), 3).astype(int).tolist()
    [0, 0, 0, 1, 1, 1, 1, 0, 0, 0]
    """
    places = np.flatnonzero(removed)
    if shortest < 1 or not len(places):
        return removed.copy()
    made = removed.copy()
    edges = np.r_[-1, places, len(removed)]
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        if last - first - 1 < shortest:
            made[first + 1 : last] = True
    return made


def _filled(
    values: np.ndarray, kept: np.ndarray, demean: bool, first_row: str, names: Sequence[str], path: Path
) -> np.ndarray:
    """Replace the missing first row, refuse other missing cells, subtract the mean over the volumes that stay."""
    if first_row not in ("next", "zero", "mean"):
        raise InputError(explain("first_row", expected="'next', 'zero' or 'mean'", got=repr(first_row)))
    values = values.copy()
    later = ~np.isfinite(values[1:])
    if later.any():
        row, column = np.argwhere(later)[0]
        got = f"n/a in {names[column]!r}, row {row + 2}"
        raise InputError(explain(str(path), expected="numbers after the first row", got=got))
    lost = ~np.isfinite(values[0])
    rest = kept.copy()
    rest[0] = rest[0] and first_row == "next"
    if first_row == "next":
        values[0, lost] = values[1, lost]
    else:
        values[0, lost] = values[rest][:, lost].mean(0)
    if demean and values.shape[1]:
        full = values[kept].mean(0)
        partial = values[rest].mean(0) if first_row != "next" else full
        values -= np.where(lost, partial, full)
    elif first_row == "zero":
        values[0, lost] = 0.0
    return values


def _tr(path: Path, given: float | None) -> float:
    """Return the repetition time in s: the caller's, else that of a sidecar of the run's image."""
    from .images import resolve_tr

    found: dict[str, Any] = {}
    if given is None:
        own = {k: v for k, v in entities(path).items() if k not in ("desc", "suffix")}
        for other in sorted(path.parent.glob("*_bold.json")):
            theirs = entities(other)
            if all(theirs.get(k) == v for k, v in own.items()):
                found = found or read_json(other)
        bold = path.parent / ("_".join(f"{k}-{v}" for k, v in own.items()) + "_bold.nii.gz")
        found = found or sidecar(bold)[0]
    return resolve_tr(None, found, given, str(path))[0]


def confounds_beside(image: Path) -> Path:
    """Return the table of confounds of an image, found by its entities.

    Raises
    ------
    LoadError
        If there is none.
    InputError
        If there are several.
    """
    found = [
        path
        for suffix in ("_timeseries.tsv", "_regressors.tsv")
        for path in companions(image, suffix, desc="confounds")
    ]
    return only(found, f"{image}: table of confounds", "remove one, or give its path")
