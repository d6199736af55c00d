"""Estimator: a keyword-only dataclass whose fields are the hyper-parameters, and the one way to fit it."""

from __future__ import annotations

import copy
import dataclasses
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, NamedTuple, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from .convert import as_container
from .device import default_dtype, resolve_device, resolve_dtype
from .errors import InputError, NotFittedError, explain, nearest
from .params import check_params, param
from .random import isolated, resolve_seed
from .result import Provenance, Result, hash_tensors, versions
from .serialize import storable, write
from .session import Session

R = TypeVar("R", bound=Result)


class Run(NamedTuple):
    """What a fit is given besides data: where, how precise, which seed, what to continue from."""

    device: torch.device
    dtype: torch.dtype
    seed: int
    init: Any = None
    checkpoint: Path | None = None


@dataclass(kw_only=True, eq=False)
class Estimator(Generic[R]):
    """Base of all methods.

    A subclass declares its hyper-parameters as fields and implements ``_fit``; it may add the verbs that mean
    something for it (``transform``, ``predict``, ``score`` ...).

    Parameters
    ----------
    device : str, default "auto"
        "auto", "cpu", "cuda", "mps" or any torch device.
    random_state : int or None, default 0
        Seed; None draws entropy, and the result records the seed drawn.
    dtype : {"float32", "float64"}, default "float32"
        Precision of the data on the device.
    """

    device: str = "auto"
    random_state: int | None = 0
    dtype: str = param("float32", options=("float32", "float64"))

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        storable(cls)

    @abstractmethod
    def _fit(self, data: tuple[Any, ...], target: Any, run: Run) -> tuple[R, bool | None]:
        """Compute the result from checked containers; return it and whether the algorithm converged."""

    def _check(self, data: tuple[Any, ...], target: Any) -> tuple[Any, ...]:
        """Check (and normalise) the containers before anything is computed."""
        return data

    def fit(self, data: Any, target: Any = None, *, init: Any = None, checkpoint: str | Path | None = None) -> Self:
        """Fit to one recording or a list of them; fills ``result_`` and returns self.

        Parameters
        ----------
        data : Recording, Spikes, Graph, (tensor, dims) pair, foreign object, or a list of these
            mne, neo, pynapple, nibabel, xarray and NWB objects are converted.
        target : array, Recording or str, optional
            What to predict, where the method predicts.
        init : Result, optional
            A result to start from; by default every fit starts anew.
        checkpoint : path, optional
            File that a killed run resumes from.
        """
        started = time.perf_counter()
        check_params(self)
        seed, device = resolve_seed(self.random_state), resolve_device(self.device)
        run = Run(device, resolve_dtype(self.dtype), seed, init, None if checkpoint is None else Path(checkpoint))
        with isolated(seed, device), default_dtype(torch.float32), undisturbed(device):
            containers = self._check(as_tuple(data, f"{type(self).__name__}.fit"), target)
            result, converged = self._fit(containers, target, run)
        made_by = Provenance(
            estimator=type(self).__name__, config=copy.deepcopy(self.get_params()), seed=seed,
            device=str(device), dtype=self.dtype,
            data_hash=hash_tensors(numbers(containers)), ids=tuple(identity(c) for c in containers),
            seconds=time.perf_counter() - started, converged=converged, versions=versions(),
            histories=histories(containers),
        )  # fmt: skip
        self.result_ = dataclasses.replace(result, provenance=made_by)
        return self

    # The conventions scikit-learn relies on, by structure.

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the hyper-parameters by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def set_params(self, **params: Any) -> Self:
        """Set hyper-parameters by name."""
        known = self.get_params()
        for name, value in params.items():
            if name not in known:
                raise InputError(
                    explain(
                        f"{type(self).__name__}.set_params",
                        expected="a hyper-parameter",
                        got=repr(name),
                        fix=nearest(name, known),
                    )
                )
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags  # only scikit-learn calls this

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            input_tags=InputTags(two_d_array=False, three_d_array=True),
        )

    def __sklearn_is_fitted__(self) -> bool:
        return "result_" in self.__dict__

    def __getattr__(self, name: str) -> Any:
        if name.endswith("_") and not name.startswith("_"):
            raise NotFittedError(
                explain(
                    f"{type(self).__name__}.{name}",
                    expected="a fitted estimator",
                    got="one without result",
                    fix="call fit first",
                )
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # Files

    def save(self, path: str) -> Path:
        """Write configuration and result to one ``.safetensors`` file; :func:`tectum.load` reads it."""
        self.result_  # noqa: B018  raises NotFittedError
        return write(path, self)

    def __getstate_tectum__(self) -> dict[str, Any]:
        learnt = {k: v for k, v in self.__dict__.items() if k.endswith("_") and not k.startswith("_")}
        return {"config": self.get_params(), "learnt": learnt}

    @classmethod
    def __setstate_tectum__(cls, state: Mapping[str, Any]) -> Self:
        made = cls(**state["config"])
        for name, value in state["learnt"].items():
            setattr(made, name, value)
        return made


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Compute with gradients and in the stated precision, whatever modes the caller is in."""
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast(device.type, enabled=False),
        torch.autocast("cpu", enabled=False),
    ):
        yield


def as_tuple(data: Any, where: str = "input") -> tuple[Any, ...]:
    """Return one or many inputs as a tuple of containers, free of the caller's graph; errors name ``where``."""
    many = isinstance(data, Sequence) and not isinstance(data, (str, bytes)) and not _is_pair(data)
    if many and len(data) == 0:
        raise InputError(explain(where, expected="at least one recording", got="an empty list"))
    return tuple(grounded(as_container(item, where)) for item in (data if many else (data,)))


def _is_pair(data: Sequence[Any]) -> bool:
    """Whether ``data`` is one labelled tensor ``(tensor, dims)``."""
    return (
        isinstance(data, tuple)
        and len(data) == 2
        and isinstance(data[0], (Tensor, np.ndarray))
        and not isinstance(data[1], (Tensor, np.ndarray))
    )


def grounded(container: Any) -> Any:
    """Detach tensors from the caller's graph, and copy those made in inference mode, which autograd refuses."""
    if isinstance(container, Session):
        return dataclasses.replace(container, items_={name: grounded(part) for name, part in container.items()})
    tensors = {f.name: getattr(container, f.name) for f in dataclasses.fields(container)}
    made = {
        name: value.clone() if value.is_inference() else value.detach()
        for name, value in tensors.items()
        if isinstance(value, Tensor) and (value.is_inference() or value.requires_grad)
    }
    return dataclasses.replace(container, **made) if made else container


def numbers(containers: tuple[Any, ...]) -> list[Tensor]:
    """Return the tensors that identify the data."""
    found: list[Tensor] = []
    for container in containers:
        if isinstance(container, Session):
            found += numbers(tuple(container.values()))
        for name in ("data", "mask", "times", "unit", "weights", "start", "stop"):
            value = getattr(container, name, None)
            if value is not None:
                found.append(value if isinstance(value, Tensor) else value.load())
    return found


def histories(containers: tuple[Any, ...]) -> tuple[tuple[Any, ...], ...]:
    """Return what was done to each container before, equal histories once."""
    found: list[tuple[Any, ...]] = []
    for container in containers:
        steps = tuple(getattr(container, "history", ()))
        found += [] if steps in found else [steps]
    return tuple(found)


def identity(container: Any) -> str:
    """Return subject and session of a container as one text."""
    return "/".join(part for part in (getattr(container, "subject", ""), getattr(container, "session", "")) if part)
