"""Result: a frozen record of tensors whose axes are declared once, with what produced them."""

from __future__ import annotations

import dataclasses
import hashlib
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from .dims import VOCABULARY
from .errors import AxisError, InputError, explain, nearest
from .serialize import raw, storable, write
from .table import Table, check_table

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

DIMS = "tectum.dims"


def axes(*dims: str, unit: str = "", default: Any = dataclasses.MISSING) -> Any:
    """Declare a result field as a tensor with these axes, once and for all.

    Examples
    --------
    >>> @dataclass(frozen=True, kw_only=True, eq=False)
    ... class Modes(Result):
    ...     weight: Tensor = axes("component")
    >>> Modes(weight=torch.ones(3)).sizes
    {'component': 3}
    """
    unknown = [d for d in dims if d not in VOCABULARY]
    if unknown:
        raise AxisError(explain("axes", expected="axis names of the vocabulary", got=str(unknown)))
    extra = {} if default is dataclasses.MISSING else {"default": default}
    return field(metadata={DIMS: dims, "unit": unit}, **extra)


@storable
@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What produced a result.

    Attributes
    ----------
    estimator : str
        Name of the class.
    config : mapping
        Its hyper-parameters.
    seed : int
        The resolved seed, also when entropy was asked for.
    device, dtype : str
        Where and in which precision it was computed.
    data_hash : str
        SHA-256 of the numbers that went in.
    ids : tuple of str
        Subject and session of every recording.
    seconds : float
        Wall time of the fit.
    converged : bool or None
        Whether the algorithm met its own criterion; None where it has none.
    versions : mapping
        Versions of Python, torch, NumPy and tectum.
    histories : tuple of tuple
        Steps that each recording had gone through before; equal ones stand once.
    """

    estimator: str
    config: Mapping[str, Any]
    seed: int
    device: str
    dtype: str
    data_hash: str
    ids: tuple[str, ...]
    seconds: float
    converged: bool | None
    versions: Mapping[str, str]
    histories: tuple[tuple[Any, ...], ...] = ()


@dataclass(frozen=True)
class Section:
    """One part of a report: text, a table, and figures as functions that draw on given axes.

    Parameters
    ----------
    title, text : str
        Heading and a paragraph (plain text).
    figures : tuple of (caption, function)
        Each function takes no argument and returns matplotlib Axes.
    table : tuple of rows
        The first row is the header.
    references : tuple of str
        Sources to cite.
    """

    title: str
    text: str = ""
    figures: tuple[tuple[str, Callable[[], Axes]], ...] = ()
    table: tuple[tuple[Any, ...], ...] = ()
    references: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """Base of all results: tensors with declared axes, coordinates and provenance.

    Parameters
    ----------
    coords : mapping of axis to (mapping of column to array)
        What is known of each entry of an axis.
    provenance : Provenance, optional
        Filled in by :meth:`Estimator.fit`.
    """

    coords: Mapping[str, Table] = field(default_factory=dict)
    provenance: Provenance | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        storable(cls)

    def __post_init__(self) -> None:
        sizes = self.sizes
        checked = {
            axis: check_table(table, sizes[axis], f"{type(self).__name__}.coords[{axis!r}]")
            for axis, table in self.coords.items()
            if axis in sizes
        }
        object.__setattr__(self, "coords", checked)

    @classmethod
    def declared(cls) -> dict[str, tuple[str, ...]]:
        """Return the declared axes of every tensor field."""
        return {f.name: f.metadata[DIMS] for f in dataclasses.fields(cls) if DIMS in f.metadata}

    def tensors(self) -> Iterator[tuple[str, tuple[str, ...], Tensor]]:
        """Iterate over (name, axes, tensor) of the tensor fields that are present."""
        for name, dims in self.declared().items():
            value = getattr(self, name)
            if value is not None:
                yield name, dims, value

    @property
    def sizes(self) -> dict[str, int]:
        """Size of every axis; raises AxisError if two fields disagree."""
        found: dict[str, int] = {}
        for name, dims, tensor in self.tensors():
            where = f"{type(self).__name__}.{name}"
            if tensor.ndim != len(dims):
                raise AxisError(explain(where, expected=f"axes {dims}", got=f"shape {tuple(tensor.shape)}"))
            for dim, size in zip(dims, tensor.shape, strict=True):
                if found.setdefault(dim, size) != size:
                    raise AxisError(
                        explain(where, expected=f"{dim} of size {found[dim]}", got=f"shape {tuple(tensor.shape)}")
                    )
        return found

    def to(self, device: str | torch.device) -> Self:
        """Move every tensor to a device."""
        moved: dict[str, Any] = {name: tensor.to(device) for name, _, tensor in self.tensors()}
        return dataclasses.replace(self, **moved)

    def save(self, path: str) -> None:
        """Write to one ``.safetensors`` file; :func:`tectum.load` reads it."""
        write(path, self)

    def to_xarray(self) -> xarray.Dataset:
        """Return an :class:`xarray.Dataset` with one variable for each tensor.

        A tensor called like an axis gets an underscore, because in xarray that name belongs to the coordinate.
        """
        import xarray

        from .xarrays import coordinates, distinct, numpy

        units = {f.name: {"units": f.metadata["unit"]} for f in dataclasses.fields(self) if f.metadata.get("unit")}
        variables = {
            f"{name}_" if name in self.sizes else name: (distinct(dims), numpy(tensor), units.get(name))
            for name, dims, tensor in self.tensors()
        }
        return xarray.Dataset(variables, coords=coordinates(self.coords, list(self.sizes)))

    # Figures and report: concrete results fill the dictionary and the list.

    def plots(self) -> Mapping[str, Callable[..., Axes]]:
        """Return the kinds of figure this result can draw."""
        return {}

    def plot(self, kind: str | None = None, *, ax: Axes | None = None, **options: Any) -> Axes:
        """Draw one kind of figure (the first by default) and return its Axes."""
        known = self.plots()
        name = kind if kind is not None else next(iter(known), "")
        if name not in known:
            raise InputError(
                explain(
                    f"{type(self).__name__}.plot",
                    expected=f"a kind among {sorted(known)}",
                    got=repr(kind),
                    fix=nearest(str(kind), known),
                )
            )
        return known[name](ax=ax, **options)

    def sections(self) -> list[Section]:
        """Return the parts of a report on this result."""
        return []


def hash_tensors(tensors: Iterator[Tensor] | list[Tensor]) -> str:
    """Return the SHA-256 of shapes, types and bytes of tensors on any device.

    Examples
    --------
    >>> hash_tensors([torch.zeros(2)]) == hash_tensors([torch.zeros(2)])
    True
    """
    digest = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        digest.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
        digest.update(raw(plain))
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    from .. import __version__

    return {
        "tectum": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
