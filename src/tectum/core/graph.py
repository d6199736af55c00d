"""Graph: connections between units in one or several layers, a connectome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .device import from_numpy
from .errors import InputError, explain, nearest
from .serialize import storable
from .table import Column, check_table, positions, take
from .units import check_units

if TYPE_CHECKING:
    import xarray


@storable
@dataclass(frozen=True, kw_only=True, eq=False)
class Graph:
    """Weighted edges between the same units in named layers.

    Parameters
    ----------
    weights : Tensor, shape (n_layers, n_units, n_units), float32
        ``weights[l, i, j]`` is the edge from unit ``i`` to unit ``j``; 0 is no edge, NaN is not measured.
    layers : tuple of str
        Name of each layer: "chemical", "gap", "functional".
    units : mapping of str to array, shape (n_units,)
        Table of units; a column "name" identifies them.
    directed : tuple of bool, optional
        Whether each layer is directed; default: undirected exactly where its matrix is symmetric.
    quantity : str, default "1"
        What a weight counts, in the units of :data:`tectum.core.units.UNITS`.
    subject, session : str
        Which specimen.
    meta : mapping
        Source, citation and anything else that JSON can hold.
    history : tuple
        Steps applied so far.

    Examples
    --------
    >>> graph = Graph(weights=torch.eye(2)[None], layers=("gap",), units={"name": ["AVAL", "AVAR"]})
    >>> graph.n_edges().tolist()
    [2]
    """

    weights: Tensor
    layers: tuple[str, ...]
    units: Mapping[str, Column] = field(default_factory=dict)
    directed: tuple[bool, ...] | None = None
    quantity: str = "1"
    subject: str = ""
    session: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.weights, np.ndarray):
            object.__setattr__(self, "weights", from_numpy(self.weights, "Graph.weights"))
        shape = tuple(self.weights.shape)
        if len(shape) != 3 or shape[1] != shape[2] or shape[0] != len(self.layers):
            raise InputError(
                explain("Graph.weights", expected=f"shape ({len(self.layers)}, n_units, n_units)", got=str(shape))
            )
        if len(set(self.layers)) != len(self.layers):
            raise InputError(explain("Graph.layers", expected="different names", got=str(self.layers)))
        check_units(self.quantity, "Graph.quantity")
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "meta", dict(self.meta))
        object.__setattr__(self, "history", tuple(self.history))
        object.__setattr__(self, "units", check_table(self.units, shape[1], "Graph.units"))
        if self.directed is None:
            symmetric = [bool(torch.equal(layer.nan_to_num(), layer.T.nan_to_num())) for layer in self.weights]
            object.__setattr__(self, "directed", tuple(not s for s in symmetric))

    @property
    def n_units(self) -> int:
        """Number of units."""
        return self.weights.shape[1]

    def __repr__(self) -> str:
        return f"<Graph {self.n_units} units, layers {', '.join(self.layers)}>"

    def layer(self, name: str) -> Tensor:
        """Return the weights of one layer: Tensor of shape (n_units, n_units)."""
        if name not in self.layers:
            raise InputError(
                explain(
                    "Graph.layer",
                    expected=f"a layer among {self.layers}",
                    got=repr(name),
                    fix=nearest(name, self.layers),
                )
            )
        return self.weights[self.layers.index(name)]

    def n_edges(self) -> Tensor:
        """Return the number of edges of each layer, each direction counted: Tensor (n_layers,), int64."""
        return (self.weights.nan_to_num() != 0).sum((1, 2))

    def select(self, units: Any) -> Graph:
        """Keep some units, given by mask, positions or names."""
        index = positions(self._named(units), self.n_units, "Graph.select")
        keep = torch.as_tensor(index, device=self.weights.device)
        return replace(self, weights=self.weights[:, keep][:, :, keep], units=take(self.units, index))

    def _named(self, units: Any) -> Any:
        """Replace names by positions."""
        asked = np.atleast_1d(units) if isinstance(units, (str, list, tuple, np.ndarray)) else np.zeros(1)
        if asked.dtype.kind not in "US":
            return units
        names = list(self.units.get("name", []))
        missing = [str(u) for u in asked if u not in names]
        if missing:
            fix = nearest(missing[0], names)
            raise InputError(explain("Graph.select", expected="names of units", got=str(missing), fix=fix))
        return [names.index(u) for u in asked]

    def to(self, device: str | torch.device) -> Graph:
        """Move the weights to a device."""
        return replace(self, weights=self.weights.to(device))

    def save(self, path: str) -> None:
        """Write to one ``.safetensors`` file; :func:`tectum.load` reads it."""
        from . import serialize

        serialize.write(path, self)

    def to_xarray(self) -> xarray.DataArray:
        """Return an :class:`xarray.DataArray` with axes (layer, unit, unit_2)."""
        import xarray

        from .xarrays import coordinates, numpy

        coords = {"layer": list(self.layers), **coordinates({"unit": self.units}, ("unit",))}
        return xarray.DataArray(numpy(self.weights), dims=("layer", "unit", "unit_2"), coords=coords, name="graph")
