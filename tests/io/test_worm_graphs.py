"""Connectomes of C. elegans: the counts of every package copy, other readers, units, symmetry and bad files."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from writers import worm as writer

import tectum
from tectum import Graph
from tectum.core.errors import InputError, LoadError, MissingExtraError, TectumWarning
from tectum.io.files import UnsafePickleError
from tectum.io.worm import graphs as worm_graphs
from tectum.io.worm.graphs import (
    STUDIES,
    connectome,
    consensus,
    neuron_positions,
    package_file,
    read_connectome,
    read_functional,
    significant,
    stack,
)
from tectum.io.worm.names import UnknownNeuronError, axis, plain


def member(package: str, name: str) -> Path:
    return writer.package_root(package) / package / "data" / name


def study(name: str, **options: Any) -> Graph:
    return connectome(name, root=writer.package_root(STUDIES[name][0]), **options)


def counts(graph: Graph, layer: str) -> tuple[int, float, int, int]:
    """Pairs (unordered of gap junctions), their sum, those of a neuron with itself, and neurons with an edge."""
    w = graph.layer(layer).nan_to_num().double()
    own = int((w.diagonal() != 0).sum())
    touched = int(((w != 0).any(0) | (w != 0).any(1)).sum())
    if layer == "gap":
        assert torch.equal(w, w.T)
        w = w.triu()
    return int((w != 0).sum()), float(w.sum()), own, touched


COPIES = [
    ("wormneuroatlas", "aconnectome_white_1986_whole.csv", (2266, 6509, 0), (569, 965, 6), 299),
    ("wormneuroatlas", "aconnectome_white_1986_L4.csv", (1291, 3702, 0), (286, 757, 2), 178),
    ("wormneuroatlas", "aconnectome_white_1986_A.csv", (1414, 3740, 0), (264, 331, 2), 180),
    ("wormneuroatlas", "aconnectome_witvliet_2020_7.csv", (1944, 6587, 11), (268, 371, 6), 180),
    ("wormneuroatlas", "aconnectome_witvliet_2020_8.csv", (1936, 7108, 5), (304, 424, 8), 180),
    ("cect", "aconnectome_white_1986_whole.csv", (2266, 6509, 0), (569, 965, 6), 299),
    ("cect", "white_1986_jsh.csv", (1291, 3702, 0), (286, 757, 2), 178),
    ("cect", "white_1986_n2u.csv", (1414, 3740, 0), (264, 331, 2), 180),
    ("cect", "aconnectome_white_1986_A.csv", (1414, 3740, 0), (264, 331, 2), 180),
]


@pytest.mark.parametrize(("package", "name", "chemical", "gap", "neurons"), COPIES)
def test_tables_of_edges(package: str, name: str, chemical: Any, gap: Any, neurons: int) -> None:
    graph = read_connectome(member(package, name))
    assert counts(graph, "chemical")[:3] == chemical
    assert counts(graph, "gap")[:3] == gap
    edge = (graph.weights.nan_to_num() != 0).any(0)
    assert int((edge.any(0) | edge.any(1)).sum()) == neurons
    assert graph.units["name"].tolist() == axis()
    assert graph.directed == (True, False)
    assert graph.quantity == "synapses"
    assert graph.units["observed"].sum() == (300 if "whole" in name else neurons)
    assert torch.isnan(graph.weights[:, ~graph.units["observed"]]).all()
    # element by element against a plain reader
    rows = [line.split() for line in member(package, name).read_text().splitlines()[1:]]
    for pre, post, kind, weight in rows:
        if {plain(pre), plain(post)} <= set(axis()):
            i, j = axis().index(plain(pre)), axis().index(plain(post))
            assert graph.layer("gap" if kind == "electrical" else "chemical")[i, j] == float(weight)


def test_white_is_the_packed_sample() -> None:
    packed = tectum.datasets.load("celegans_connectomes")
    assert torch.equal(study("white_1986_whole").weights, packed["white_1986_whole"].weights)
    assert torch.equal(study("cook_2019_hermaphrodite").weights, packed["cook_2019_hermaphrodite"].weights)
    ours = study("witvliet_2021_3")
    seen = torch.from_numpy(ours.units["observed"])
    assert torch.equal(ours.weights[:, seen][:, :, seen], packed["witvliet_2021_3"].weights)
    assert ours.units["name"][ours.units["observed"]].tolist() == packed["witvliet_2021_3"].units["name"].tolist()


@pytest.mark.slow
def test_cook() -> None:
    graph = study("cook_2019_hermaphrodite")
    assert counts(graph, "chemical") == (3707, 20905, 38, 300)
    assert counts(graph, "gap") == (1101, 4777, 14, 296)
    gap = graph.layer("gap")
    assert (int((gap != 0).sum()), float(gap.sum())) == (2188, 9519)
    assert graph.quantity == "1"
    assert graph.meta["weight_unit"] == "em_sections"
    # names as the release took them, with their zeros: the motor neurons of the ventral cord with one digit vanish
    from openpyxl import load_workbook

    book = load_workbook(member("cect", Path(STUDIES["cook_2019_hermaphrodite"][1]).name), read_only=True)
    lost = []
    for sheet, layer in (("hermaphrodite chemical", "chemical"), ("hermaphrodite gap jn symmetric", "gap")):
        rows = list(book[sheet].iter_rows(values_only=True))
        post = [str(x) for x in rows[2][3:]]
        kept = np.array([str(row[2]) in axis() for row in rows[3:]])
        there = np.array([x in axis() for x in post])
        values = np.array([[v if isinstance(v, (int, float)) else 0 for v in row[3:]] for row in rows[3:]])
        values = values[kept][:, there]
        pre, to = [str(row[2]) for row, ok in zip(rows[3:], kept, strict=True) if ok], np.array(post)[there]
        pairs = {frozenset((pre[i], str(to[j]))) for i, j in np.argwhere(values != 0)}
        lost.append((len(pairs) if layer == "gap" else int((values != 0).sum()), int(values.sum())))
        assert values.sum() < graph.layer(layer).sum()
    assert lost == [(3038, 17676), (846, 7639)]


def test_varshney() -> None:
    graph = study("varshney_2011")
    assert counts(graph, "chemical")[:2] == (2194, 6394)
    assert counts(graph, "gap")[0] == 517
    gap = graph.layer("gap").nan_to_num()
    assert (int((gap != 0).sum()), float(gap.sum())) == (1031, 1777)
    assert graph.meta["rows"]["chemical"] == 2575
    assert graph.units["observed"].sum() == 279  # no pharynx
    import xlrd

    sheet = xlrd.open_workbook(str(member("cect", "NeuronConnect.xls"))).sheet_by_index(0)
    rows = [sheet.row_values(k) for k in range(1, sheet.nrows)]
    polyadic = [(plain(a), plain(b), w) for a, b, kind, w in rows if kind == "Sp"]
    assert (len({r[:2] for r in polyadic}), sum(r[2] for r in polyadic)) == (1625, 3964)  # all that the release kept


def test_openworm() -> None:
    with pytest.raises(InputError, match=r"1 from I2L to M1, 2 back; pass symmetrize='max', 'mean' or 'sum'"):
        study("openworm")
    graph = study("openworm", symmetrize="max", by_transmitter=True)
    assert counts(graph, "chemical")[:2] == (2279, 6465)
    assert graph.meta["rows"] == {"chemical": 2279, "gap": 1084}
    sent = [graph.layer(name) for name in graph.layers if name not in ("chemical", "gap")]
    torch.testing.assert_close(torch.stack(sent).sum(0), graph.layer("chemical"))
    assert graph.layer("Dopamine").sum() > 0
    mean = study("openworm", symmetrize="mean").layer("gap")
    assert mean[axis().index("I2L"), axis().index("M1")] == 1.5


def test_extrasynaptic() -> None:
    graph = study("bentley_2016_monoamines", by_transmitter=True)
    assert set(graph.layers) == {"monoamine", "dopamine", "octopamine", "serotonin", "tyramine"}
    with open(member("cect", "edgelist_MA.csv")) as stream:
        rows = {tuple(x.strip() for x in row) for row in csv.reader(stream)}
    rows = {row for row in rows if {plain(row[0]), plain(row[1])} <= set(axis())}
    assert float(graph.layer("monoamine").sum()) == len(rows)
    i, j = axis().index("RIML"), axis().index("ALML")
    assert graph.layer("tyramine")[i, j] == len([r for r in rows if r[:2] == ("RIML", "ALML")])
    peptides = study("bentley_2016_neuropeptides")
    assert peptides.layers == ("neuropeptide",)
    short = study("ripoll_sanchez_2023_short")
    names = member("cect", "01022024_neuropeptide_connectome_short_range_model.csv").read_text().splitlines()
    header, line = names[0].split(",")[1:], next(x for x in names if x.startswith("AVAL,")).split(",")[1:]
    for name, value in zip(header, line, strict=True):
        if name in axis():
            assert short.layer("neuropeptide")[axis().index("AVAL"), axis().index(name)] == float(value)


def test_the_atlas() -> None:
    path = member("wormneuroatlas", "funatlas.h5")
    for strain, probed, responses in (("wt", 25345, 1310), ("unc31", 10588, 430)):
        graph = read_functional(path, strain=strain, awc_on="L")  # type: ignore[arg-type]
        assert int((graph.layer("n") > 0).sum()) == probed
        assert int((graph.layer("q") < 0.05).sum()) == responses
        kept = (graph.layer("q") < 0.05) & (graph.layer("functional").nan_to_num() != 0)
        assert int(significant(graph).n_edges()) == int(kept.sum()) >= responses - 1
        with h5py.File(path) as file:  # a row of the file is the neuron that responded
            names = [x.decode() for x in file["neuron_ids"][()]]
            values, q = file[strain]["dFF"][()], file[strain]["q"][()]
        place = {"AWCOF": "AWCR", "AWCON": "AWCL"}
        order = [axis().index(place.get(name, name)) for name in names]
        np.testing.assert_array_equal(graph.layer("functional").numpy()[np.ix_(order, order)], np.float32(values.T))
        np.testing.assert_array_equal(graph.layer("q").numpy()[np.ix_(order, order)], np.float32(q.T))
    assert int(torch.isfinite(read_functional(path, awc_on="L").layer("functional")).sum()) == 24074
    with pytest.warns(TectumWarning, match="AWCOF, AWCON left unidentified"):
        assert not read_functional(path).units["observed"][axis().index("AWCL")]


def test_the_default_of_wormneuroatlas_is_turned() -> None:
    graph = study("wormneuroatlas_default", awc_on="L")
    with h5py.File(member("wormneuroatlas", "aconnectome_default.h5")) as file:
        chemical, gap = file["chem"][()], file["gap"][()]
    assert float(graph.layer("chemical").sum()) == chemical.sum()
    names = [line.split()[-1] for line in member("wormneuroatlas", "neuron_ids.txt").read_text().splitlines()]
    i, j = names.index("AVAL"), names.index("VA8")
    assert graph.layer("chemical")[axis().index("AVAL"), axis().index("VA8")] == np.float32(chemical[j, i])
    assert int((graph.layer("gap") != 0).sum()) == int((gap != 0).sum())


@pytest.mark.parametrize(
    "name", ["Cook2019HermReader", "WitvlietDataReader5", "Bentley2016MAReader", "Wang2024HermReader"]
)
def test_the_cache_of_cect(name: str) -> None:
    root = writer.package_root("cect")
    graph = connectome(f"cect:{name}", root=root)
    content = json.loads((root / "cect" / "cache" / f"{name}.json").read_text())
    cells = [plain(x) for x in content["nodes"]]
    kept = [k for k, cell in enumerate(cells) if cell in axis()]
    to = [axis().index(cells[k]) for k in kept]
    assert int(graph.units["observed"].sum()) == len(kept)
    total = 0
    for layer, values in content["connections"].items():
        matrix = np.asarray(values)[np.ix_(kept, kept)]
        if not (matrix != 0).any():
            continue
        ours = graph.layer({"Generic_CS": "chemical", "Generic_GJ": "gap"}.get(layer, layer)).numpy()
        np.testing.assert_array_equal(ours[np.ix_(to, to)], matrix.astype(np.float32))
        total += 1
    assert total >= 1


def test_positions() -> None:
    found = neuron_positions(member("wormneuroatlas", "anatlas_neuron_positions.txt"))
    assert [len(found[k]) for k in "xyz"] == [300] * 3
    assert np.isfinite(found["x"]).all()
    lines = member("wormneuroatlas", "anatlas_neuron_positions.txt").read_text().splitlines()
    at = lines[0].lstrip("#").split().index("AVAL")
    np.testing.assert_allclose([found[k][axis().index("AVAL")] for k in "xyz"], np.fromstring(lines[1 + at], sep="\t"))


# Files by hand


def test_edges_by_hand(tmp_path: Path) -> None:
    writer.write_edges(tmp_path / "a.csv", mark=",")
    graph = tectum.read(tmp_path / "a.csv")
    assert isinstance(graph, Graph)
    at = {name: k for k, name in enumerate(axis())}
    assert graph.layer("chemical")[at["ADAL"], at["AVAL"]] == 3
    assert graph.layer("chemical")[at["AVAL"], at["ADAL"]] == 0
    assert graph.layer("chemical")[at["AVAL"], at["AS1"]] == 2
    assert graph.layer("gap")[at["AVAL"], at["ADAL"]] == graph.layer("gap")[at["ADAL"], at["AVAL"]] == 4
    assert graph.layer("gap")[at["AVAR"], at["AVAR"]] == 1
    assert torch.isnan(graph.layer("chemical")[at["ADAL"], at["RIML"]])
    assert graph.units["name"][graph.units["observed"]].tolist() == ["ADAL", "AS1", "AVAL", "AVAR", "VD10"]
    assert graph.meta["left_out"] == ["BWM-DL01"]
    everything = read_connectome(tmp_path / "a.csv", covers="whole", include_can=True)
    assert everything.n_units == 302
    assert not torch.isnan(everything.weights).any()
    with pytest.raises(UnknownNeuronError, match=r"a\.csv: expected names of neurons, got BWM-DL01"):
        read_connectome(tmp_path / "a.csv", strict=True)
    twice = [*writer.EDGES, ("ADAL", "AVAL", "chemical", 10)]
    writer.write_edges(tmp_path / "herm_full_edgelist_MODIFIED.csv", twice)
    edited = read_connectome(tmp_path / "herm_full_edgelist_MODIFIED.csv")
    assert edited.layer("chemical")[at["ADAL"], at["AVAL"]] == 13
    assert "edges were added that nobody observed" in str(edited.meta["assumed"])


@pytest.mark.parametrize(("how", "weight"), [("max", 5.0), ("mean", 4.5), ("sum", 9.0)])
def test_gap_junctions_that_differ(how: Any, weight: float, tmp_path: Path) -> None:
    writer.write_edges(tmp_path / "a.csv", [*writer.EDGES, ("AVAL", "ADAL", "electrical", 5)])
    with pytest.raises(InputError, match=r"a\.csv: gap junctions: .*got 4 from ADAL to AVAL, 5 back; pass symmetrize="):
        read_connectome(tmp_path / "a.csv")
    gap = read_connectome(tmp_path / "a.csv", symmetrize=how).layer("gap")
    assert gap[0, axis().index("AVAL")] == gap[axis().index("AVAL"), 0] == weight
    assert gap[axis().index("AVAR"), axis().index("AVAR")] == 1
    with pytest.raises(InputError, match="symmetrize: expected None, 'max', 'mean' or 'sum', got 'min'"):
        read_connectome(tmp_path / "a.csv", symmetrize="min")  # type: ignore[arg-type]


def test_workbooks_by_hand(tmp_path: Path) -> None:
    chem = writer.write_cook(tmp_path / "SI 5.xlsx")
    graph = read_connectome(tmp_path / "SI 5.xlsx", study="cook_2019_hermaphrodite")
    at = [axis().index(name) for name in ("ADAL", "AVAL", "AS1")]
    np.testing.assert_array_equal(graph.layer("chemical").numpy()[np.ix_(at, at)], chem[:3, :3])
    writer.write_cook(tmp_path / "b.xlsx", gap=np.triu(np.ones((4, 4))))
    with pytest.raises(InputError, match=r"b\.xlsx: gap junctions: .*1 from ADAL to (AS1|AVAL), 0 back"):
        read_connectome(tmp_path / "b.xlsx")
    amplitude, q = writer.write_randi(tmp_path / "c.xlsx")
    found = read_connectome(tmp_path / "c.xlsx", awc_on="R")
    at = [axis().index(name) for name in ("ADAL", "AVAL", "AWCR")]
    np.testing.assert_array_equal(found.layer("functional").numpy()[np.ix_(at, at)], np.float32(amplitude))
    np.testing.assert_array_equal(found.layer("q").numpy()[np.ix_(at, at)], np.float32(q))
    assert significant(found).n_edges().tolist() == [2]
    rows = [["Neuron 1", "Neuron 2", "Type", "Nbr"], ["ADAL", "AVAL", "S", 2], ["ADAL", "AVAL", "Sp", 1]]
    rows += [["AVAL", "ADAL", "R", 2], ["AVAL", "AS01", "EJ", 3], ["AVAL", "NMJ", "NMJ", 3]]
    writer.write_xls(tmp_path / "d.xls", rows)
    old = read_connectome(tmp_path / "d.xls")
    assert old.layer("chemical")[at[0], at[1]] == 3
    assert old.layer("gap")[axis().index("AS1"), at[1]] == 3
    assert old.n_edges().tolist() == [1, 2]


def test_json_by_hand(tmp_path: Path) -> None:
    made = writer.write_cect(tmp_path / "a.json")
    graph = read_connectome(tmp_path / "a.json")
    at = [axis().index(name) for name in ("AVAL", "VD10")]
    np.testing.assert_array_equal(graph.layer("chemical").numpy()[np.ix_(at, at)], made["Generic_CS"][:2, :2])
    assert graph.meta["left_out"] == ["MDL05"]
    entries = [
        {"pre": "ADAL", "post": "AVAL", "typ": 0, "syn": [1, 2]},
        {"pre": "AVAL", "post": "AVAR", "typ": 2, "syn": [1]},
    ]
    (tmp_path / "b.json").write_text(json.dumps(entries))
    assert read_connectome(tmp_path / "b.json").n_edges().tolist() == [1, 2]
    assert float(read_connectome(tmp_path / "b.json").layer("chemical").nansum()) == 3


def test_the_consensus_of_the_release(tmp_path: Path) -> None:
    header = "from_neuron,to_neuron,mean_gap_weight,mean_chem_weight,functional_weight"
    (tmp_path / "a.csv").write_text(f"{header}\nADAL,AVAL,1.5,2.5,0.1\nAVAL,ADAL,1.5,0,\n")
    graph = read_connectome(tmp_path / "a.csv")
    assert graph.layers == ("chemical", "gap", "functional")
    assert graph.meta["weight_unit"] == "mixed"
    assert graph.layer("gap")[0, axis().index("AVAL")] == 1.5
    assert "mix counts and EM sections" in graph.meta["assumed"][0]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "pre,post,type,synapses\nADAL,AVAL,chemical,x\n", "row 2: expected a weight of 0 or more, got 'x'"),
        ("a.csv", "pre,post,type,synapses\nADAL,AVAL,chemical,-1\n", "row 2: expected a weight of 0 or more, got '-1'"),
        ("a.csv", "pre,post,type,synapses\nADAL,AVAL,magic,1\n", "row 2: type: expected one of chemical, .*'magic'"),
        ("a.csv", "pre,post,type,synapses\nADAL,AVAL\n", "row 2: expected 4 values, got 2"),
        ("a.csv", "pre,post,type,synapses\nBWM1,BWM2,gut,1\n", "expected one of chemical"),
        ("a.csv", "pre,post,type,synapses\n", "expected edges, got none"),
        ("a.csv", "from,to,weight\n1,2,3\n", "columns: expected one of pre"),
        ("a.csv", "", "no rows of text"),
        ("a.json", "[1", "JSONDecodeError"),
        ("a.json", "{}", "expected nodes and connections, got dict"),
        ("a.json", '{"nodes": ["A"], "connections": {"x": [[1, 2]]}}', "x: expected a matrix 1 by 1, got shape"),
        ("a.xls", "text", "no XLS workbook"),
        ("a.xlsx", "text", "BadZipFile"),
        ("a.h5", "text", "no HDF5 file"),
        ("a.doc", "text", "expected csv, tsv, xlsx, xls, json or h5, got .doc"),
    ],
)
def test_bad_files(name: str, text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(LoadError, match=says) as caught:
        read_connectome(tmp_path / name)
    assert name in str(caught.value)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pickle", ".pkl"])
def test_pickles_are_refused(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"graph{suffix}").write_bytes(b"\x80\x04.")
    with pytest.raises(
        UnsafePickleError, match=rf"graph{re.escape(suffix)}: expected a table, JSON or HDF5.*export tables"
    ):
        read_connectome(tmp_path / f"graph{suffix}")


def test_missing_files_and_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoadError, match="expected an existing file, got none there"):
        read_connectome(tmp_path / "none.csv")
    with pytest.raises(InputError, match=r"connectome: expected a study, got 'varshney_201'; did you mean 'varsh"):
        connectome("varshney_201")
    monkeypatch.setattr(worm_graphs, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"the package cect, got none; pip install tectum\[worm\]"):
        connectome("white_1986_whole")
    monkeypatch.undo()
    with pytest.raises(LoadError, match="expected a file of pytest, got none there; check its version"):
        package_file("pytest", "data/none.csv")
    writer.write_atlas(tmp_path / "funatlas.h5")
    with pytest.raises(InputError, match="strain: expected 'wt' or 'unc31', got 'n2'"):
        read_functional(tmp_path / "funatlas.h5", strain="n2")  # type: ignore[arg-type]


# Together


def small(name: str, chemical: list[list[float]], unit: str = "synapses", micrographs: str = "") -> Graph:
    return Graph(
        weights=torch.tensor([chemical]),
        layers=("chemical",),
        units={"name": ["ADAL", "AVAL"]},
        session=name,
        meta={"weight_unit": unit, "micrographs": micrographs},
    )


def test_consensus_divides_by_who_could_see() -> None:
    nan = float("nan")
    found = consensus([small("a", [[0, 3], [1, nan]]), small("b", [[0, 0], [nan, nan]])])
    mean, seen, hit = found.weights
    torch.testing.assert_close(mean[0, 1], torch.tensor(np.log(4) / 2, dtype=torch.float32))
    torch.testing.assert_close(mean[1, 0], torch.tensor(np.log(2), dtype=torch.float32))
    assert torch.isnan(mean[1, 1])
    assert seen.tolist() == [[2, 2], [1, 0]]
    assert hit.tolist() == [[0, 1], [1, 0]]
    ranks = consensus([small("a", [[0, 3], [1, nan]])], scale="rank").layer("mean")
    assert ranks[0].tolist() == [0, 1]
    assert ranks[1, 0] == 0.5


def test_consensus_refuses_what_does_not_go_together() -> None:
    a, b = small("a", [[0, 3], [1, 0]]), small("b", [[0, 3], [1, 0]], unit="em_sections")
    with pytest.raises(InputError, match="consensus: expected one unit of weights, got em_sections, synapses"):
        consensus([a, b])
    with pytest.raises(InputError, match="graphs on the same axis of neurons, got 0 graphs"):
        consensus([])
    with pytest.raises(InputError, match=r"consensus\(scale\): expected 'log1p' or 'rank', got 'mean'"):
        consensus([a], scale="mean")  # type: ignore[arg-type]
    same = [small(k, [[0, 3], [1, 0]], micrographs="White") for k in "ab"]
    with pytest.warns(TectumWarning, match=r"several studies count the same micrographs \(White\)"):
        consensus(same)


def test_stack() -> None:
    both = stack([small("a", [[0, 3], [1, 0]]), small("b", [[0, 1], [1, 0]], unit="dF/F")])
    assert both.layers == ("a/chemical", "b/chemical")
    assert both.meta["weight_units"] == {"a/chemical": "synapses", "b/chemical": "dF/F"}
    assert both.directed == (True, False)
    with pytest.raises(InputError, match="stack: expected graphs on the same axis"):
        stack([small("a", [[0, 3], [1, 0]]), study("white_1986_whole")])
