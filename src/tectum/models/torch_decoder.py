"""TorchDecoder: any torch module from windows to classes, trained, evaluated, exported and saved like ours."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn

from ..core.contract import Contract
from ..core.errors import InputError, explain
from ..core.estimator import Run
from ..nn.decoder import Decoder, Network, Start
from ..nn.trials import Holdout

C = TypeVar("C", bound=type[nn.Module])

#: Classes that this process lets files name. A file never causes an import.
ALLOWED: dict[str, type[nn.Module]] = {}

#: What we know of the data -> how constructors call it; braindecode's name comes first.
SPELLINGS = {
    "n_channels": ("n_chans", "n_channels", "in_chans", "in_channels", "channels"),
    "n_classes": ("n_outputs", "n_classes", "num_classes"),
    "n_times": ("n_times", "input_window_samples", "n_samples", "chunk_size"),
    "rate": ("sfreq", "sampling_rate", "fs", "rate"),
}


def allow(*classes: C) -> None:
    """Let files, and the parameter ``module``, name these classes for the rest of the process.

    Parameters
    ----------
    *classes : subclasses of nn.Module
        They are found by "module:Class" and by "Class", the last one given under a name.

    Examples
    --------
    >>> allow(nn.Flatten)
    >>> ALLOWED["Flatten"] is ALLOWED["torch.nn.modules.flatten:Flatten"] is nn.Flatten
    True
    """
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
            raise InputError(explain("allow", expected="subclasses of torch.nn.Module", got=repr(cls)))
        ALLOWED[full_name(cls)] = ALLOWED[cls.__qualname__] = cls


def full_name(module: Any) -> str:
    """Return "module:Class" of a class, with brackets behind it for one that is made already."""
    if isinstance(module, nn.Module):
        return f"{full_name(type(module))}()"
    return f"{module.__module__}:{module.__qualname__}"


@dataclass(kw_only=True, eq=False)
class TorchDecoder(Decoder):
    """Wrap a torch module (batch, channel, time) -> (batch, class) as a decoder.

    The module is trained by the loop of the house, with its normaliser, early stopping by groups and checkpoints; it is
    then evaluated, streamed, exported and saved like every decoder. The file holds weights and settings and the *name*
    of the module, never code: whoever loads it names the class with :func:`allow` before, or gives the module again
    with ``set_params(module=...)``.

    Parameters
    ----------
    module : class, function, nn.Module or str, default None
        A class or function that makes the network; it is given those of ``n_chans``, ``n_outputs``, ``n_times`` and
        ``sfreq`` (or their usual other spellings) that it takes. A module made already is copied for each fit with its
        weights, so pretrained ones stay. A name stands for a class named to :func:`allow`. The output is logits, or log
        probabilities.
    options : mapping, default {}
        More arguments of the class or function.
    epochs, batch_size, accumulate, lr, weight_decay, schedule, clip, precision, class_weight, normalise, clamp
        See :class:`~tectum.nn.decoder.Decoder`.
    validation, group, patience, device, random_state, dtype
        See :class:`~tectum.nn.decoder.Decoder`.

    Examples
    --------
    >>> def network(n_chans, n_times, n_outputs):
    ...     return nn.Sequential(nn.Flatten(), nn.Linear(n_chans * n_times, n_outputs))
    >>> draw = torch.Generator().manual_seed(0)
    >>> x = torch.randn(40, 2, 16, generator=draw)
    >>> x[20:] += 1
    >>> data, labels = (x, ("trial", "channel", "time")), [0] * 20 + [1] * 20
    >>> TorchDecoder(module=network, epochs=40, device="cpu").fit(data, labels).score(data, labels) > 0.8
    True
    """

    module: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def fit(self, data: Any, target: Any = None, *, init: Any = None, checkpoint: str | Path | None = None) -> Self:
        """Fit to one recording or a list of them; see :meth:`Decoder.fit`."""
        super().fit(data, target, init=init, checkpoint=checkpoint)
        made_by = self.result_.provenance
        if made_by is not None and not isinstance(made_by.config["module"], str):
            config = {**made_by.config, "module": full_name(self.module)}
            self.result_ = dataclasses.replace(self.result_, provenance=dataclasses.replace(made_by, config=config))
        return self

    def _check(self, data: tuple[Any, ...], target: Any) -> tuple[Any, ...]:
        where = type(self).__name__
        if not isinstance(self.options, Mapping) or not all(isinstance(name, str) for name in self.options):
            raise InputError(explain(f"{where}.options", expected="a mapping of names", got=repr(self.options)))
        self._resolved()
        return super()._check(data, target)

    def _resolved(self) -> Any:
        """Return the module, or what makes it."""
        where = f"{type(self).__name__}.module"
        if isinstance(self.module, str):
            if self.module not in ALLOWED:
                fix = "name the class with tectum.models.torch_decoder.allow(...) or give it by set_params(module=...)"
                got = f"the name {self.module!r} alone"
                raise InputError(explain(where, expected="a module, or the name of one allowed here", got=got, fix=fix))
            return ALLOWED[self.module]
        if not callable(self.module):
            raise InputError(explain(where, expected="a torch module or what makes one", got=repr(self.module)))
        return self.module

    def _build(self, n_channels: int, n_times: int, n_classes: int, rate: float) -> nn.Module:
        source, where = self._resolved(), f"{type(self).__name__}.module"
        if isinstance(source, nn.Module):
            return copy.deepcopy(source).requires_grad_(True)
        known = {"n_channels": n_channels, "n_classes": n_classes, "n_times": n_times, "rate": rate}
        given = {**_accepted(source, known), **self.options}
        try:
            made = source(**given)
        except (TypeError, ValueError, RuntimeError) as cause:
            expected = f"a maker that takes {sorted(given)}"
            raise InputError(explain(where, expected=expected, got=f"{type(cause).__name__}: {cause}")) from cause
        if not isinstance(made, nn.Module):
            raise InputError(explain(where, expected="a maker of torch modules", got=type(made).__name__))
        return made

    def _prepared(
        self,
        contract: Contract,
        names: tuple[str | int, ...],
        x: Tensor,
        held: Holdout,
        start: Start | None,
        run: Run,
    ) -> Network:
        network = super()._prepared(contract, names, x, held, start, run)
        self._check_output(network, x[:2], len(names))
        return network

    def _check_output(self, network: Network, x: Tensor, n_classes: int) -> None:
        """Refuse a network that does not return one logit for each class."""
        where, network = f"{type(self).__name__}.module", network.eval()
        try:
            with torch.no_grad():
                out = network(x)
        except RuntimeError as cause:
            shape = f"(batch, {x.shape[1]}, {x.shape[2]})"
            raise InputError(explain(where, expected=f"a network that takes {shape}", got=str(cause))) from cause
        found = str(tuple(out.shape)) if isinstance(out, Tensor) else type(out).__name__
        if found != str((len(x), n_classes)):
            raise InputError(explain(where, expected=f"an output of shape {(len(x), n_classes)}", got=found))

    # Files

    def __getstate_tectum__(self) -> dict[str, Any]:
        state = super().__getstate_tectum__()
        name = self.module if isinstance(self.module, str) or self.module is None else full_name(self.module)
        state["config"] = {**state["config"], "module": name, "options": dict(self.options)}
        return state

    @classmethod
    def __setstate_tectum__(cls, state: Mapping[str, Any]) -> Self:
        made = super().__setstate_tectum__(state)
        if isinstance(made.module, str) and ":" in made.module:
            made.module = ALLOWED.get(made.module, made.module)
        return made


def _accepted(source: Callable[..., Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a maker takes of what is known, by the first spelling it takes."""
    parameters = inspect.signature(source).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()) and "n_chans" not in parameters:
        return {SPELLINGS[name][0]: value for name, value in known.items()}
    found = {name: next((s for s in spellings if s in parameters), None) for name, spellings in SPELLINGS.items()}
    return {spelling: known[name] for name, spelling in found.items() if spelling is not None}
