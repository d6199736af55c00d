"""Damaged files of C. elegans: an error that names file and cause within seconds, or a load of the right shape."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from writers import worm as writer
from writers.mutate import survive

from tectum import Session
from tectum.io.worm.flavell import read_labels
from tectum.io.worm.graphs import read_connectome, read_functional
from tectum.io.worm.read import read_worm


def first(path: Path, dataset: str) -> Session:
    """Read one animal, whatever the file says it is of."""
    return read_worm(path, dataset=dataset, awc_on="L")[0]


ACTIVITY: list[tuple[str, str, Callable[[Path], Any]]] = [
    ("Kato2015", "WT_Stim.mat", lambda p: writer.write_zimmer(p)),
    ("Skora2018", "WT_fasted.mat", lambda p: writer.write_zimmer(p, "Skora2018", old=True)),
    ("Yemini2021", "Head_Activity_OH16230.mat", lambda p: writer.write_yemini(p)),
    ("Lin2023", "a.mat", lambda p: writer.write_lin(p)),
    ("Dag2023", "a-data.h5", lambda p: writer.write_dag(p)),
    ("Flavell2023", "a.json", lambda p: writer.write_flavell(p)),
    ("Flavell2023", "a.h5", lambda p: writer.write_flavell(p)),
    ("Venkatachalam2024", "a.zip", lambda p: writer.write_venkatachalam(p)),
    ("Nejatbakhsh2020", "a.nwb", lambda p: writer.write_nejatbakhsh(p, rate=4.0)),
    ("homogenised", "a.parquet", lambda p: writer.write_homogenised(p)),
    ("Leifer2023", "folder", lambda p: writer.write_leifer(p)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("dataset", "name", "write"), ACTIVITY, ids=[f"{d}-{n}" for d, n, _ in ACTIVITY])
def test_damaged_recordings(dataset: str, name: str, write: Callable[[Path], Any], tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    write(tmp_path / "good" / name)
    count = survive(lambda p: first(p, dataset), tmp_path / "good" / name, tmp_path / "work", n=300, seed=1, fixed=())
    assert count["refused"] >= 60
    assert count["refused"] + count["loaded"] == 300


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jld2", "json"])
def test_damaged_tables_of_labels(kind: str, tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    source = tmp_path / "good" / f"labels.{kind}"
    writer.write_dag_labels(source)

    def read(path: Path) -> Session:
        read_labels(path)
        return Session(items_={})

    count = survive(read, source, tmp_path / "work", n=300, seed=2)
    assert count["refused"] >= 60


CONNECTOMES: list[tuple[str, Callable[[Path], Any]]] = [
    ("edges.csv", writer.write_edges),
    ("receptors.csv", lambda p: p.write_text("RIML,ALML,tyramine,lgc-55\nRIML,AVBL,tyramine,lgc-55\n" * 5)),
    ("cook.xlsx", writer.write_cook),
    ("randi.xlsx", writer.write_randi),
    (
        "old.xls",
        lambda p: writer.write_xls(p, [["Neuron 1", "Neuron 2", "Type", "Nbr"], *[["ADAL", "AVAL", "S", 2]] * 20]),
    ),
    ("cache.json", writer.write_cect),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "write"), CONNECTOMES, ids=[n for n, _ in CONNECTOMES])
def test_damaged_connectomes(name: str, write: Callable[[Path], Any], tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    write(tmp_path / "good" / name)
    count = survive(
        lambda p: read_connectome(p, awc_on="L"), tmp_path / "good" / name, tmp_path / "work", n=300, seed=3, fixed=()
    )
    assert count["refused"] >= 60


@pytest.mark.slow
def test_a_damaged_atlas(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    writer.write_atlas(tmp_path / "good" / "funatlas.h5")
    count = survive(
        lambda p: read_functional(p, awc_on="L"),
        tmp_path / "good" / "funatlas.h5",
        tmp_path / "work",
        n=300,
        seed=4,
        fixed=(),
    )
    assert count["refused"] >= 60
