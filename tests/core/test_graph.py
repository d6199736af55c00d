"""Graph: layers, selection by name, and what it refuses."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from tectum.core.errors import InputError, UnitsError
from tectum.core.graph import Graph

NAMES = ["AVA", "AVB", "RIM"]


def made(**changes) -> Graph:
    chemical = torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 1.0], [0.0, float("nan"), 0.0]])
    gap = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 3.0], [0.0, 3.0, 0.0]])
    fields = {"weights": torch.stack([chemical, gap]), "layers": ["chemical", "gap"], "units": {"name": NAMES}}
    return Graph(**{**fields, **changes})


def test_layers_and_edges():
    graph = made()
    assert graph.layers == ("chemical", "gap")
    assert graph.directed == (True, False)
    assert graph.n_edges().tolist() == [2, 4]
    assert torch.equal(graph.layer("gap"), graph.weights[1])
    assert repr(graph) == "<Graph 3 units, layers chemical, gap>"
    assert made(weights=made().weights.numpy()).n_units == 3
    assert torch.equal(copy.deepcopy(graph).weights.nan_to_num(), graph.weights.nan_to_num())


@pytest.mark.parametrize(
    ("units", "rows"),
    [
        (["RIM", "AVA"], [2, 0]),
        ("AVB", [1]),
        ([0, 2], [0, 2]),
        ([True, False, True], [0, 2]),
        (torch.tensor([2]), [2]),
        (slice(1, None), [1, 2]),
        (-1, [2]),
        ([], []),
    ],
)
def test_select(units, rows):
    found = made().select(units)
    expected = made().weights.nan_to_num().numpy()[:, rows][:, :, rows]
    np.testing.assert_array_equal(found.weights.nan_to_num().numpy(), expected)
    assert found.units["name"].tolist() == [NAMES[i] for i in rows]


def test_to_xarray():
    array = made().to_xarray()
    assert array.dims == ("layer", "unit", "unit_2")
    assert array.sel(layer="gap", unit="RIM").values.tolist() == [0.0, 3.0, 0.0]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: made(weights=torch.zeros(2, 3, 2)), InputError, r"shape \(2, n_units, n_units\)"),
        (lambda: made(layers=("a",)), InputError, r"shape \(1, n_units, n_units\)"),
        (lambda: made(layers=("a", "a")), InputError, "different names"),
        (lambda: made(units={"name": ["x"]}), InputError, "3 entries, got 1"),
        (lambda: made(quantity="synapse"), UnitsError, "did you mean 'synapses'"),
        (lambda: made().layer("gaps"), InputError, "did you mean 'gap'"),
        (lambda: made().select(["AVX"]), InputError, r"names of units, got \['AVX'\]; did you mean 'AV[AB]'"),
        (lambda: made().select(3), InputError, "positions in"),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()
