"""Components of tedana as confounds: the mixing matrix, and which components its metrics reject."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from tectum.core.errors import InputError, explain

from ..delimited import read_table
from ..files import ContentError
from .bids import companions, only

Which = Literal["aggressive", "non-aggressive"]
#: Name of the choice -> classes of components that it takes, as nilearn's ``load_confounds(tedana=...)``.
CLASSES: dict[str, tuple[str, ...]] = {
    "aggressive": ("rejected",),
    "non-aggressive": ("accepted", "rejected"),
}


def tedana_files(path: Path) -> tuple[Path, Path]:
    """Return ``*_desc-ICA_mixing.tsv`` and ``*_desc-tedana_metrics.tsv`` of an image, or of either of them.

    Raises
    ------
    LoadError
        If one is missing.
    InputError
        If there are several.
    """
    mixing = only(companions(path, "_mixing.tsv", desc="ICA"), f"{path}: tedana's mixing matrix", "remove one")
    metrics = only(companions(path, "_metrics.tsv", desc="tedana"), f"{path}: tedana's metrics", "remove one")
    return mixing, metrics


def tedana_names(metrics: Path, mixing: Mapping[str, np.ndarray], which: str) -> dict[str, str]:
    """Return the columns of a mixing matrix that a choice takes, by the names they get: class and component.

    Zeros in front of the number of a component do not count: some versions write them in one of the two tables only.

    Raises
    ------
    InputError
        If the choice is unknown, or a component that it takes is missing.
    """
    if which not in CLASSES:
        raise InputError(explain("tedana", expected=f"one of {tuple(CLASSES)}", got=repr(which)))
    table = read_table(metrics, delimiter="\t")
    if not {"Component", "classification"} <= set(table):
        raise ContentError(
            explain(str(metrics), expected="columns Component and classification", got=f"{list(table)[:8]}")
        )
    columns = {_plain(name): name for name in mixing}
    found = {}
    for name, kind in zip(table["Component"].tolist(), table["classification"].tolist(), strict=True):
        if kind not in CLASSES[which]:
            continue
        column = columns.get(_plain(name))
        if column is None:
            got = f"{len(columns)} others: {', '.join(list(columns)[:4])}, ..."
            raise ContentError(explain(str(metrics), expected=f"component {name} in the mixing matrix", got=got))
        found[f"{kind}_{column}"] = column
    return found


def _plain(name: str) -> str:
    """Return the name of a component without zeros in front of its number."""
    return re.sub(r"ICA_0*(\d+)$", r"ICA_\1", name)
