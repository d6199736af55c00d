"""Results: axes declared once, checked, exported; hashes of what went in."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tectum.core.errors import AxisError, InputError
from tectum.core.result import Provenance, Result, axes, hash_tensors, versions


@dataclass(frozen=True, kw_only=True, eq=False)
class ResultToy(Result):
    weight: Tensor = axes("component", "unit", unit="dF/F")
    similarity: Tensor = axes("unit", "unit", default=None)
    state: Tensor = axes("state", "time", default=None)
    label: str = "x"

    def plots(self):
        return {"map": lambda ax=None, **options: (ax, options)}


def made(**changes) -> ResultToy:
    fields = {"weight": torch.ones(2, 3), "coords": {"unit": {"id": ["a", "b", "c"]}}}
    return ResultToy(**{**fields, **changes})


def test_axes_and_sizes():
    assert ResultToy.declared()["similarity"] == ("unit", "unit")
    assert made().sizes == {"component": 2, "unit": 3}
    assert made(similarity=torch.eye(3)).sizes == {"component": 2, "unit": 3}
    assert [name for name, _, _ in made().tensors()] == ["weight"]
    assert made().to("cpu").weight.device.type == "cpu"
    assert made().plot(ax=1, title="t") == (1, {"title": "t"})
    assert made().sections() == []


def test_to_xarray_renames_what_clashes_with_an_axis():
    data = made(similarity=torch.eye(3), state=torch.zeros(2, 5)).to_xarray()
    assert data["weight"].attrs == {"units": "dF/F"}
    assert data["similarity"].dims == ("unit", "unit_2")
    assert data["state_"].dims == ("state", "time")
    assert data["weight"].sel(unit="b").shape == (2,)


def test_pickle_and_copy():
    for other in (pickle.loads(pickle.dumps(made())), copy.deepcopy(made())):  # noqa: S301
        assert torch.equal(other.weight, made().weight)
        assert other.coords["unit"]["id"].tolist() == ["a", "b", "c"]
    assert made() != made()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: made(weight=torch.ones(2)), AxisError, r"ResultToy.weight: expected axes \('component', 'unit'\)"),
        (lambda: made(similarity=torch.eye(4)), AxisError, "unit of size 3"),
        (lambda: made(similarity=torch.zeros(3, 4)), AxisError, "unit of size 3"),
        (lambda: made(coords={"unit": {"id": ["a"]}}), InputError, "3 entries, got 1"),
        (lambda: axes("neuron"), AxisError, "axis names of the vocabulary"),
        (lambda: made().plot("mapp"), InputError, "did you mean 'map'"),
        (lambda: Result().plot(), InputError, r"a kind among \[\], got None"),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_hashes_tell_values_shapes_and_types_apart():
    variants = [
        [torch.zeros(4)], [torch.zeros(2, 2)], [torch.zeros(4, dtype=torch.int32)], [torch.zeros(4, dtype=torch.bool)],
        [torch.tensor([False, True, False, False])], [torch.zeros(2), torch.zeros(2)], [torch.zeros(0)],
        [torch.tensor(0.0)],
        [torch.zeros(4, dtype=torch.bfloat16)], [torch.ones(2, dtype=torch.complex64).conj()], [torch.zeros(0, 3)], [],
    ]  # fmt: skip
    hashes = [hash_tensors(v) for v in variants]
    assert len(set(hashes)) == len(variants)
    grid = torch.arange(6.0).reshape(2, 3)
    assert hash_tensors([grid.T.contiguous().T]) == hash_tensors([grid])
    assert all(len(h) == 64 for h in hashes)


def test_versions_are_plain_text():
    assert set(versions()) == {"tectum", "torch", "numpy", "python"}
    assert all(type(v) is str for v in versions().values())
    fields = dict.fromkeys(("estimator", "device", "dtype", "data_hash"), "x")
    made_by = Provenance(**fields, config={}, seed=1, ids=(), seconds=0.0, converged=None, versions=versions())
    assert made(provenance=made_by).provenance.seed == 1
