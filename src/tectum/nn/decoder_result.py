"""DecoderResult: what a decoder learnt, with the contract that new data must keep, figures and report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from ..core.contract import Contract
from ..core.result import Result, Section, axes
from . import trials

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Kind of figure -> "module:function", imported when it is drawn: figures lie in a room that this one may not import.
FIGURES = {"training": "tectum.plot.decoding:training", "confusion": "tectum.plot.decoding:confusion"}


@dataclass(frozen=True, kw_only=True, eq=False)
class DecoderResult(Result):
    """What a decoder learnt.

    Attributes
    ----------
    labels : tuple of str or int
        The classes, in the order of every class axis.
    contract : Contract
        Channels, rate, unit and window that new data must have.
    weights : mapping of str to Tensor
        State of the network with its normaliser.
    counts : Tensor, shape (label,), int64
        Trials of each class in the data.
    loss : Tensor, shape (step,)
        Mean training loss of each epoch.
    val_loss : Tensor or None, shape (step,)
        Loss on the trials set aside, after each epoch.
    confusion : Tensor or None, shape (label, label), int64
        Decisions on the trials set aside; rows are the truth. Training stopped by these trials, so they flatter.
    history : mapping of str to Tensor
        Each loss term, one value a step, and "val".
    best_epoch : int
        Epoch whose weights were kept, from 1.
    target : str
        Trial column that held the labels, or "".
    """

    labels: tuple[str | int, ...]
    contract: Contract
    weights: Mapping[str, Tensor]
    history: Mapping[str, Tensor] = field(default_factory=dict)
    counts: Tensor = axes("label")
    loss: Tensor = axes("step", unit="nats")
    val_loss: Tensor | None = axes("step", unit="nats", default=None)
    confusion: Tensor | None = axes("label", "label", default=None)
    best_epoch: int = 0
    target: str = ""

    def to(self, device: str | torch.device) -> Self:
        """Move every tensor to a device."""
        moved = super().to(device)
        held: dict[str, Any] = {
            name: {key: value.to(device) for key, value in getattr(self, name).items()}
            for name in ("weights", "history")
        }
        return dataclasses.replace(moved, **held)

    def plots(self) -> Mapping[str, Callable[..., Axes]]:
        """Return the kinds of figure: the course of training, and decisions on the trials set aside."""

        def training(ax: Axes | None = None, **options: Any) -> Axes:
            curves = {"training": self.loss, **({} if self.val_loss is None else {"validation": self.val_loss})}
            return _figure("training")(curves, best=self.best_epoch, ax=ax, **options)

        def confusion(ax: Axes | None = None, **options: Any) -> Axes:
            return _figure("confusion")(self.confusion, self.labels, ax=ax, **options)

        return {"training": training, **({} if self.confusion is None else {"confusion": confusion})}

    def sections(self) -> list[Section]:
        """Return the parts of a report."""
        n, rows = int(self.counts.sum()), [(str(k), int(c)) for k, c in zip(self.labels, self.counts, strict=True)]
        c = self.contract
        text = f"{n} trials of {len(self.labels)} classes, {c.size} channels, {c.n_times} samples at {c.rate:g} Hz."
        text += f" The weights are those of epoch {self.best_epoch} of {len(self.loss)}."
        figures = [("Loss in each epoch.", lambda: self.plot("training"))]
        if self.confusion is not None:
            text += f" Balanced accuracy on trials set aside: {float(trials.mean_recall(self.confusion)):.3f}"
            text += f" (chance {1 / len(self.labels):.3f}); training stopped by them, so judge on other data."
            figures.append(("Decisions on the trials set aside.", lambda: self.plot("confusion")))
        return [Section(title="Decoder", text=text, table=(("class", "trials"), *rows), figures=tuple(figures))]


def _figure(kind: str) -> Callable[..., Axes]:
    """Import the function that draws a kind of figure."""
    module, _, name = FIGURES[kind].partition(":")
    found: Callable[..., Axes] = getattr(import_module(module), name)
    return found
