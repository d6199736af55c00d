"""Connectomes of *C. elegans* as graphs on the canonical axis of neurons."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from tectum.core.errors import InputError, LoadError, MissingExtraError, TectumWarning, explain, nearest
from tectum.core.graph import Graph

from ..files import reading
from .names import Identities, axis, identify, neuron_table
from .tables import Edges, read_atlas, read_edges

Symmetrize = Literal["max", "mean", "sum"] | None
ASYMMETRY = 1e-6
_COOK = "data/SI 5 Connectome adjacency matrices, corrected July 2020.xlsx"
_STAGES = ("L1", "L1", "L1", "L1", "L2", "L3", "adult", "adult")
#: Study -> package, file in it, what was imaged, the electron micrographs counted.
STUDIES: dict[str, tuple[str, str, str, str]] = {
    "white_1986_whole": ("cect", "data/aconnectome_white_1986_whole.csv", "whole", "White"),
    "white_1986_n2u": ("cect", "data/aconnectome_white_1986_A.csv", "head", "White"),
    "white_1986_jsh": ("cect", "data/aconnectome_white_1986_L4.csv", "head", "White JSH"),
    **{
        f"witvliet_2021_{k}": ("cect", f"data/witvliet_2020_{k} {stage}.xlsx", "head", f"Witvliet {k}")
        for k, stage in enumerate(_STAGES, start=1)
    },
    "cook_2019_hermaphrodite": ("cect", _COOK, "whole", "White"),
    "varshney_2011": ("cect", "data/NeuronConnect.xls", "somatic", "White"),
    "openworm": ("cect", "data/CElegansNeuronTables.xls", "whole", "White"),
    "bentley_2016_monoamines": ("cect", "data/edgelist_MA.csv", "whole", ""),
    "bentley_2016_neuropeptides": ("cect", "data/edgelist_NP.csv", "whole", ""),
    **{
        f"ripoll_sanchez_2023_{k}": ("cect", f"data/01022024_neuropeptide_connectome_{k}_range_model.csv", "whole", "")
        for k in ("short", "mid", "long")
    },
    "wormneuroatlas_default": ("wormneuroatlas", "data/aconnectome_default.h5", "whole", "mixed"),
    "randi_2023_wt": ("wormneuroatlas", "data/funatlas.h5", "head", ""),
    "randi_2023_unc31": ("wormneuroatlas", "data/funatlas.h5", "head", ""),
}
CITATIONS = {
    "white": "White J. G. et al. (1986). Phil. Trans. R. Soc. B 314, 1-340. https://doi.org/10.1098/rstb.1986.0056",
    "witvliet": "Witvliet D. et al. (2021). Nature 596, 257-261. https://doi.org/10.1038/s41586-021-03778-8",
    "cook": "Cook S. J. et al. (2019). Nature 571, 63-71. https://doi.org/10.1038/s41586-019-1352-7",
    "varshney": "Varshney L. R. et al. (2011). PLoS Comput. Biol. 7, e1001066. https://doi.org/10.1371/journal.pcbi.1001066",
    "openworm": "OpenWorm, CElegansNeuronTables",
    "bentley": "Bentley B. et al. (2016). PLoS Comput. Biol. 12, e1005283. https://doi.org/10.1371/journal.pcbi.1005283",
    "ripoll": "Ripoll-Sanchez L. et al. (2023). Neuron 111, 3570-3589. https://doi.org/10.1016/j.neuron.2023.09.043",
    "randi": "Randi F. et al. (2023). Nature 623, 406-414. https://doi.org/10.1038/s41586-023-06683-4",
    "wormneuroatlas": "wormneuroatlas, mean of several reconstructions",
}
_QUANTITY = {"synapses": "synapses", "dF/F": "dF/F"}


def package_file(package: str, member: str) -> Path:
    """Return a file inside an installed package, which is not imported.

    Raises
    ------
    MissingExtraError
        If the package is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            explain("connectome", expected=f"the package {package}", got="none", fix="pip install tectum[worm]")
        )
    path = Path(next(iter(spec.submodule_search_locations))) / member
    if not path.is_file():
        raise LoadError(explain(str(path), expected=f"a file of {package}", got="none there", fix="check its version"))
    return path


def connectome(study: str, *, root: str | Path | None = None, **options: Any) -> Graph:
    """Return a connectome out of the packages cect and wormneuroatlas, where they are installed.

    Their files are read; their code is not imported.

    Parameters
    ----------
    study : str
        A key of :data:`STUDIES`, or "cect:" and the name of a connectome in cect's cache, as "cect:Cook2019MaleReader".
    root : path, optional
        Folder of an unpacked wheel, instead of the installed package.
    **options
        See :func:`read_connectome`.

    Returns
    -------
    Graph

    Raises
    ------
    InputError
        If there is no such study.
    MissingExtraError
        If the package is not installed.
    """
    if study.startswith("cect:"):
        package, member = "cect", f"cache/{study[5:]}.json"
    elif study in STUDIES:
        package, member = STUDIES[study][:2]
    else:
        raise InputError(explain("connectome", expected="a study", got=repr(study), fix=nearest(study, STUDIES)))
    path = package_file(package, member) if root is None else Path(root) / package / member
    if study.startswith("randi_2023"):
        return read_functional(path, strain="wt" if study.endswith("wt") else "unc31", **options)
    return read_connectome(path, study=study, **options)


def read_connectome(
    path: str | Path,
    *,
    study: str | None = None,
    covers: Literal["whole", "listed"] | None = None,
    include_can: bool = False,
    awc_on: Literal["L", "R"] | None = None,
    symmetrize: Symmetrize = None,
    strict: bool = False,
    by_transmitter: bool = False,
) -> Graph:
    """Read a connectome from a file of one of the known layouts.

    Parameters
    ----------
    path : path
        Edges as CSV or TSV (pre, post, type, synapses), Cook 2019 and Witvliet 2021 XLSX, NeuronConnect.xls,
        CElegansNeuronTables.xls, lists of transmitters and receptors, matrices with names, cached JSON of cect,
        synapses of WormWideWeb, Randi 2023 XLSX.
    study : str, optional
        Name; default that of the file.
    covers : {"whole", "listed"}, optional
        Which neurons were observed: all, or those that the file names. Default by the study, else "listed".
    include_can : bool, default False
        Whether CANL and CANR are on the axis.
    awc_on : {"L", "R"}, optional
        Side of AWCON where the file names AWCON and AWCOFF.
    symmetrize : {None, "max", "mean", "sum"}
        How to join the two directions of a gap junction whose weights differ; by default they are refused.
    strict : bool, default False
        Refuse names that are no neurons, as of muscles.
    by_transmitter : bool, default False
        A layer for each transmitter beside (or instead of) the sum over them, where the file tells.

    Returns
    -------
    Graph
        Rows send, columns receive. 0 is no edge, NaN where one of both was not observed (column "observed"). Edges of
        the same pair are added up. ``meta["weight_unit"]`` tells what a weight is.

    Raises
    ------
    LoadError
        If the file is damaged or of none of the layouts.
    InputError
        If gap junctions are not symmetric.
    """
    path = Path(path)
    if not path.exists():
        raise LoadError(explain(str(path), expected="an existing file", got="none there"))
    name = study or path.stem.removeprefix("aconnectome_")
    edges = read_edges(path)
    names = list(edges.listed) or list(
        dict.fromkeys(x for layer in edges.layers.values() for e in layer for x in e[:2])
    )
    found = identify(names, awc_on=awc_on, include_can=include_can)
    found.check(str(path), strict=strict)
    whole = (covers or ("whole" if _covers(name) == "whole" else "listed")) == "whole"
    with reading(path, "a connectome"):
        layers = {**edges.layers, **(edges.transmitters if by_transmitter else {})}
        kept = [k for k in layers if layers[k] or k in edges.missing]
        if not kept:
            raise InputError(explain(str(path), expected="edges", got="none"))
        place = _places(names, found, include_can)
        matrices = [_matrix(layers[k], k, place, edges, symmetrize, include_can) for k in kept]
        weights = np.stack(matrices)
    observed = np.ones(weights.shape[1], bool) if whole else np.isin(np.arange(weights.shape[1]), list(place.values()))
    weights[:, ~observed] = np.nan
    weights[:, :, ~observed] = np.nan
    meta = _meta(name, edges, path, [n for n in names if n not in place])
    return _graph(weights, kept, observed, name=name, meta=meta, include_can=include_can)


def _covers(study: str) -> str:
    return STUDIES[study][2] if study in STUDIES else ""


def _meta(name: str, edges: Edges, path: Path, left_out: list[str]) -> dict[str, Any]:
    citation = next((text for key, text in CITATIONS.items() if name.lower().startswith(key)), "")
    meta: dict[str, Any] = {"format": "connectome", "study": name, "file": path.name, "citation": citation}
    meta["weight_unit"] = edges.unit
    meta |= {"covers": _covers(name) or "listed", "micrographs": STUDIES[name][3] if name in STUDIES else ""}
    meta |= {"rows": {k: len(v) for k, v in edges.layers.items()}, "assumed": list(edges.notes)}
    if "MODIFIED" in path.name:
        meta["assumed"].append("an edited list: edges were added that nobody observed")
    return {**meta, "left_out": sorted(left_out)}


def _places(names: Sequence[str], found: Identities, include_can: bool) -> dict[str, int]:
    """Return the place on the axis of every cell of a file that has one."""
    order = {name: k for k, name in enumerate(axis(include_can=include_can))}
    return {cell: order[name] for cell, name in zip(names, found.names.tolist(), strict=True) if name}


def _matrix(
    rows: Sequence[tuple[str, str, float]],
    layer: str,
    place: Mapping[str, int],
    edges: Edges,
    symmetrize: Symmetrize,
    include_can: bool,
) -> np.ndarray:
    """Add up the edges of one layer; gap junctions are symmetric."""
    n = len(axis(include_can=include_can))
    made = np.zeros((n, n))
    kept = [(place[a], place[b], w) for a, b, w in rows if a in place and b in place]
    if kept:
        pre, post, weight = (np.asarray(x) for x in zip(*kept, strict=True))
        np.add.at(made, (pre.astype(int), post.astype(int)), weight)
    if layer == "gap":
        made = _symmetric(made, edges.square, symmetrize, include_can)
    gaps = [(place[a], place[b]) for a, b in edges.missing.get(layer, ()) if a in place and b in place]
    if gaps:
        made[tuple(np.asarray(gaps).T)] = np.nan
    return made


def _symmetric(made: np.ndarray, square: bool, symmetrize: Symmetrize, include_can: bool) -> np.ndarray:
    """Write every gap junction in both directions; in a list of edges one direction is enough."""
    if symmetrize not in (None, "max", "mean", "sum"):
        raise InputError(explain("symmetrize", expected="None, 'max', 'mean' or 'sum'", got=repr(symmetrize)))
    if not square:
        made = np.where((made == 0) & (made.T != 0), made.T, made)
    off = np.abs(made - made.T)
    if off.max() <= ASYMMETRY:
        return made
    if symmetrize is None:
        i, j = np.unravel_index(int(off.argmax()), off.shape)
        names = axis(include_can=include_can)
        got = f"{made[i, j]:g} from {names[i]} to {names[j]}, {made[j, i]:g} back"
        fix = "pass symmetrize='max', 'mean' or 'sum'"
        raise InputError(explain("gap junctions", expected="the same weight in both directions", got=got, fix=fix))
    joined: np.ndarray = {"max": np.maximum(made, made.T), "mean": (made + made.T) / 2, "sum": made + made.T}[
        symmetrize
    ]
    np.fill_diagonal(joined, np.diagonal(made))
    return joined


def _graph(
    weights: np.ndarray,
    layers: Sequence[str],
    observed: np.ndarray,
    *,
    name: str,
    meta: Mapping[str, Any],
    include_can: bool,
) -> Graph:
    names = axis(include_can=include_can)
    step = {"step": "read", "format": "connectome", "study": name, "file": meta["file"]}
    return Graph(
        weights=torch.from_numpy(weights.astype(np.float32)),
        layers=tuple(layers),
        units={**neuron_table(names), "observed": observed},
        directed=tuple(layer != "gap" for layer in layers),
        quantity=_QUANTITY.get(str(meta["weight_unit"]), "1"),
        subject="C. elegans",
        session=name,
        meta=meta,
        history=(step,),
    )


def read_functional(
    path: str | Path,
    *,
    strain: Literal["wt", "unc31"] = "wt",
    awc_on: Literal["L", "R"] | None = None,
    include_can: bool = False,
) -> Graph:
    """Read the signal-propagation atlas of Randi 2023 as wormneuroatlas ships it.

    Parameters
    ----------
    path : path
        ``funatlas.h5``.
    strain : {"wt", "unc31"}
        Wild type, or animals that release no dense-core vesicles.
    awc_on : {"L", "R"}, optional
        Side to write AWCON to; the atlas pools animals by AWCON and AWCOFF. Without it both are left out, with a
        warning.
    include_can : bool, default False
        Whether CANL and CANR are on the axis.

    Returns
    -------
    Graph
        Layers "functional" (mean dF/F; NaN not measured), "q" (NaN not tested) and "n" (times the pair was probed).
        Rows were stimulated, columns responded.
    """
    path = Path(path)
    if strain not in ("wt", "unc31"):
        raise InputError(explain("strain", expected="'wt' or 'unc31'", got=repr(strain)))
    layers, names = read_atlas(path, strain)
    found = identify(names, awc_on=awc_on, include_can=include_can)
    found.check(str(path))
    place = _places(names, found, include_can)
    if not place:
        raise LoadError(explain(str(path), expected="names of neurons", got=", ".join(names[:6])))
    n = len(axis(include_can=include_can))
    rows = np.asarray([k for k, name in enumerate(names) if name in place])
    to = np.asarray([place[names[k]] for k in rows])
    weights = np.full((len(layers), n, n), np.nan)
    weights[2] = 0
    for k, values in enumerate(layers.values()):
        weights[k][np.ix_(to, to)] = values[np.ix_(rows, rows)]
    probed = weights[2] > 0
    observed = probed.any(0) | probed.any(1)
    name = f"randi_2023_{strain}"
    meta = _meta(name, Edges({}, unit="dF/F"), path, [x for x in names if x not in place])
    return _graph(weights, list(layers), observed, name=name, meta=meta, include_can=include_can)


def significant(graph: Graph, *, q: float = 0.05) -> Graph:
    """Keep the functional connections with a q value below a level; the others are 0, untested pairs NaN.

    Examples
    --------
    >>> w = torch.tensor([[[0.5, 0.2], [0.1, 0.3]], [[0.01, 0.5], [float("nan"), 0.04]]])
    >>> graph = Graph(weights=w, layers=("functional", "q"), units={"name": ["AVAL", "AVAR"]})
    >>> significant(graph).n_edges().tolist()
    [2]
    """
    level, values = graph.layer("q"), graph.layer("functional")
    kept = torch.where(level < q, values, torch.zeros_like(values)).masked_fill(torch.isnan(level), torch.nan)
    return Graph(
        weights=kept[None], layers=("functional",), units=graph.units, directed=(True,), quantity=graph.quantity,
        subject=graph.subject, session=graph.session, meta=graph.meta,
        history=(*graph.history, {"step": "significant", "q": q}),
    )  # fmt: skip


def stack(graphs: Sequence[Graph]) -> Graph:
    """Put the layers of several connectomes on the same axis into one graph, each named "<study>/<layer>".

    Raises
    ------
    InputError
        If their neurons differ.
    """
    first = _same_axis(graphs, "stack")
    names = [f"{g.session}/{layer}" for g in graphs for layer in g.layers]
    units = {f"{g.session}/{layer}": g.meta.get("weight_unit", g.quantity) for g in graphs for layer in g.layers}
    return Graph(
        weights=torch.cat([g.weights for g in graphs]), layers=tuple(names),
        units={k: v for k, v in first.units.items() if k != "observed"},
        directed=tuple(d for g in graphs for d in (g.directed or ())),
        quantity=first.quantity if len({g.quantity for g in graphs}) == 1 else "1", subject=first.subject,
        meta={"format": "connectome", "weight_units": units, "citations": [g.meta.get("citation", "") for g in graphs]},
        history=({"step": "stack", "studies": [g.session for g in graphs]},),
    )  # fmt: skip


def _same_axis(graphs: Sequence[Graph], where: str) -> Graph:
    if not graphs or any(list(g.units["name"]) != list(graphs[0].units["name"]) for g in graphs):
        raise InputError(explain(where, expected="graphs on the same axis of neurons", got=f"{len(graphs)} graphs"))
    return graphs[0]


def consensus(graphs: Sequence[Graph], layer: str = "chemical", *, scale: Literal["log1p", "rank"] = "log1p") -> Graph:
    """Average one layer over studies that share a unit, each pair over the studies that could have seen it.

    Parameters
    ----------
    graphs : sequence of Graph
        On the same axis, with ``meta["weight_unit"]``.
    layer : str, default "chemical"
        Name of the layer.
    scale : {"log1p", "rank"}
        Weights enter as log(1 + w), or as their rank among the positive weights of the study, from 0 to 1.

    Returns
    -------
    Graph
        Layers "mean" (NaN where nobody could see), "seen" (number of studies that could) and "found" (that did).

    Raises
    ------
    InputError
        If units differ, as counts of synapses and EM sections do.
    """
    first = _same_axis(graphs, "consensus")
    if scale not in ("log1p", "rank"):
        raise InputError(explain("consensus(scale)", expected="'log1p' or 'rank'", got=repr(scale)))
    units = sorted({str(g.meta.get("weight_unit", g.quantity)) for g in graphs})
    if len(units) != 1:
        raise InputError(explain("consensus", expected="one unit of weights", got=", ".join(units)))
    series = [str(g.meta.get("micrographs", "")) for g in graphs]
    twice = sorted({s for s in series if s and series.count(s) > 1})
    if twice:
        text = f"consensus: several studies count the same micrographs ({', '.join(twice)}) and are not independent"
        warnings.warn(text, TectumWarning, stacklevel=2)
    values = torch.stack([g.layer(layer) for g in graphs]).double()  # (study, unit, unit)
    scaled = torch.log1p(values) if scale == "log1p" else torch.stack([_ranks(v) for v in values])
    seen = ~torch.isnan(values)
    count = seen.sum(0)
    mean = torch.where(seen, scaled, 0.0).sum(0) / torch.where(count > 0, count, torch.nan)
    found = ((values > 0) & seen).sum(0)
    return Graph(
        weights=torch.stack([mean, count.double(), found.double()]).float(), layers=("mean", "seen", "found"),
        units=first.units, directed=(layer != "gap",) * 3, subject=first.subject, session="consensus",
        meta={"format": "connectome", "weight_unit": f"{scale} of {units[0]}", "studies": [g.session for g in graphs]},
        history=({"step": "consensus", "layer": layer, "scale": scale, "studies": [g.session for g in graphs]},),
    )  # fmt: skip


def _ranks(values: torch.Tensor) -> torch.Tensor:
    """Replace positive weights by their rank from 0 to 1, ties by their mean rank."""
    positive = values > 0
    ordered = values[positive].sort().values
    low, high = (torch.searchsorted(ordered, values.nan_to_num(), right=right) for right in (False, True))
    rank = (low + high + 1).to(values) / 2 / max(len(ordered), 1)
    return torch.where(positive, rank, torch.where(torch.isnan(values), values, torch.zeros_like(values)))


def neuron_positions(path: str | Path | None = None) -> dict[str, np.ndarray]:
    """Return the columns x, y, z of the canonical axis in units of the atlas that wormneuroatlas ships, NaN if unknown.

    Parameters
    ----------
    path : path, optional
        ``anatlas_neuron_positions.txt``; default that of the installed package.
    """
    source = package_file("wormneuroatlas", "data/anatlas_neuron_positions.txt") if path is None else Path(path)
    with reading(source, "names and positions of neurons"):
        lines = source.read_text(encoding="utf-8").splitlines()
        names = lines[0].lstrip("#").split()
        values = np.asarray([[float(x) for x in line.split()] for line in lines[1:] if line.strip()])
        if values.shape != (len(names), 3):
            raise ValueError(f"{len(names)} names, positions of shape {values.shape}")
    known = identify(names, awc_on="L").names.tolist()
    place = {name: k for k, name in enumerate(known) if name}
    rows = [values[place[name]] if name in place else np.full(3, np.nan) for name in axis()]
    return dict(zip("xyz", np.asarray(rows).T, strict=True))
