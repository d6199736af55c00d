"""Rebuild ``celegans_connectomes.safetensors`` from the wheel cect==0.3.5, which is read but not installed.

Each reconstruction becomes a graph with a chemical and a gap-junction layer on the neurons it saw, named and sorted as
in the canonical list of 300 (White's 302 without CANL and CANR, which make no synapse). Muscles, glia and other cells
are dropped. Weights are whole numbers below 2048, exact in the float16 they are stored in.
"""

import csv
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from _packages import Source, main

from tectum import Graph

STUDIES = {"white_1986_whole": "White_whole", "cook_2019_hermaphrodite": "Cook2019HermReader"} | {
    f"witvliet_2021_{i}": f"WitvlietDataReader{i}" for i in range(1, 9)
}
STAGES = dict.fromkeys(range(1, 5), "L1") | {5: "L2", 6: "L3", 7: "adult", 8: "adult"}
LAYERS = {"chemical": "Generic_CS", "gap": "Generic_GJ"}
NOT_NEURONS = re.compile(r"BWM|GLR.*|PM\d.*")


def name_of(cell: str) -> str:
    """Return the plain spelling of a cell's name: upper case, no padding zeros (AS01 is AS1)."""
    return re.sub(r"^([A-Z]+)0+([1-9]\d*)([A-Z]*)$", r"\1\2\3", cell.strip().upper())


def reading(source: Source, study: str) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the names of the cells and the matrices of one reconstruction."""
    content = json.loads(source.read(f"cache/{STUDIES[study]}.json"))
    matrices = {layer: np.array(content["connections"][key]) for layer, key in LAYERS.items()}
    return [name_of(cell) for cell in content["nodes"]], matrices


def about(study: str) -> tuple[str, str, str]:
    """Return the stage, the unit of a weight and what it counts."""
    if study.startswith("cook"):
        return "adult", "1", "size of the contact in EM sections, not a number of synapses"
    number = int(study[-1]) if study.startswith("witvliet") else 7
    return STAGES[number], "synapses", "number of synapses"


def graph(source: Source, study: str, axis: list[str], types: dict[str, str]) -> Graph:
    """Return one reconstruction on the canonical neurons that it contains."""
    cells, matrices = reading(source, study)
    present = [name for name in axis if name in cells]
    rows = [cells.index(name) for name in present]
    weights = np.stack([matrices[layer][np.ix_(rows, rows)] for layer in LAYERS])
    stored = weights.astype(np.float16)
    if not np.array_equal(stored, weights) or not np.array_equal(weights[1], weights[1].T):
        raise ValueError(f"{study}: expected small whole numbers and a symmetric gap layer")
    stage, quantity, meaning = about(study)
    return Graph(
        weights=torch.from_numpy(stored),
        layers=tuple(LAYERS),
        units={"name": present, "type": [types[name] for name in present]},
        directed=(True, False),
        quantity=quantity,
        subject="C. elegans hermaphrodite",
        session=study,
        meta={**source.describe(f"/{STUDIES[study]}.json"), "study": study, "stage": stage, "weight": meaning},
        history=source.history(f"/{STUDIES[study]}.json", neurons=len(present), of_cells=len(cells), dtype="float16"),
    )


def build(source: Source) -> dict[str, Graph]:
    """Return the graphs that are packed."""
    listed = csv.DictReader(source.read("data/all_cell_info.csv").decode("utf-8-sig").splitlines())
    types = {name_of(row["Cell name"]): row["Type"] for row in listed}
    axis = sorted(name for name in reading(source, "white_1986_whole")[0] if not NOT_NEURONS.fullmatch(name))
    if len(axis) != 300:
        raise ValueError(f"expected 300 neurons, got {len(axis)}")
    return {study: graph(source, study, axis, types) for study in STUDIES}


if __name__ == "__main__":
    main(__file__, build)
