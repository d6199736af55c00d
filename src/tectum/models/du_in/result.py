"""What Du-IN learnt: weights of its stages, codes, decisions, and how much each channel weighs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from ...core.contract import Contract
from ...core.errors import InputError, explain
from ...core.result import Section, axes
from ...nn.decoder import DecoderResult
from ...nn.vq import perplexity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STATES = ("weights", "history", "codebook_weights", "masked_weights", "baseline_weights")


@dataclass(frozen=True, kw_only=True, eq=False)
class DuINResult(DecoderResult):
    """What a fit of Du-IN leaves; what belongs to a stage that was not trained is None or empty.

    The axes are those of the labels, of the epochs of the classifier (step), of all input channels of all subjects one
    after another (channel), of the codes (cluster), of the tokens of a window (lag), of the windows held out (trial),
    and of the channels and samples of one example window (unit, time).

    Attributes
    ----------
    val_errors : Tensor, shape (step,)
        Share of wrong decisions on the trials set aside, after each epoch; ``val_loss`` is their loss.
    channel_score : Tensor, shape (channel,)
        Mean size of a channel's weights in the subject layer over the largest of the subject.
    channel_used : Tensor, shape (channel,), bool
        Whether the networks see the channel.
    code_usage : Tensor, shape (cluster,), int64
        How often each code occurs in the windows held out.
    codebook : Tensor, shape (cluster, component)
        The codes, unit vectors.
    codes : Tensor, shape (trial, lag), int64
        Codes of the windows held out.
    code_by_label : Tensor, shape (label, cluster), int64
        How often each code occurs in all trials of each class.
    example, reconstruction : Tensor, shape (unit, time)
        One window held out, standardised, and what the first stage makes of it.
    reconstruction_error, masked_accuracy, masked_majority : float
        On the windows held out: mean squared error of standardised signals; share of hidden tokens whose code is told;
        share of the commonest code, which is chance for that. NaN where the stage was not trained.
    baselines : mapping of str to float
        Balanced accuracy on the trials set aside, of this model and of each baseline.
    subjects : tuple of str
        Subjects in the order of the subject layer.
    contracts : mapping of str to Contract
        What the recordings of each subject must be like.
    keeps, centres, scales : mapping of str to Tensor
        Channels used, and the normaliser, of each subject.
    sizes_of : mapping of str to int, float or str
        Sizes of the networks.
    stage : {"codes", "masked", "classifier"}
        How far it was trained.
    window : int
        Tokens of a window of the first two stages.
    codebook_weights, masked_weights, baseline_weights : mapping of str to Tensor
        States of the first two stages and of the baselines; ``weights`` is that of the classifier.
    """

    val_errors: Tensor | None = axes("step", default=None)
    channel_score: Tensor = axes("channel")
    channel_used: Tensor = axes("channel")
    code_usage: Tensor | None = axes("cluster", default=None)
    codebook: Tensor | None = axes("cluster", "component", default=None)
    codes: Tensor | None = axes("trial", "lag", default=None)
    code_by_label: Tensor | None = axes("label", "cluster", default=None)
    example: Tensor | None = axes("unit", "time", default=None)
    reconstruction: Tensor | None = axes("unit", "time", default=None)
    reconstruction_error: float = float("nan")
    masked_accuracy: float = float("nan")
    masked_majority: float = float("nan")
    baselines: Mapping[str, float] = field(default_factory=dict)
    subjects: tuple[str, ...] = ("",)
    contracts: Mapping[str, Contract] = field(default_factory=dict)
    keeps: Mapping[str, Tensor] = field(default_factory=dict)
    centres: Mapping[str, Tensor] = field(default_factory=dict)
    scales: Mapping[str, Tensor] = field(default_factory=dict)
    sizes_of: Mapping[str, Any] = field(default_factory=dict)
    stage: str = "classifier"
    window: int = 0
    codebook_weights: Mapping[str, Tensor] = field(default_factory=dict)
    masked_weights: Mapping[str, Tensor] = field(default_factory=dict)
    baseline_weights: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def code_perplexity(self) -> float:
        """Effective number of codes in use on the windows held out; NaN without codes."""
        return float("nan") if self.code_usage is None else float(perplexity(self.code_usage.float()))

    @property
    def channels(self) -> list[str]:
        """Names of the input channels of all subjects."""
        return [str(x) for x in self.coords["channel"]["name"]]

    def subject_index(self, name: str) -> int:
        """Return the place of a subject; a recording without a subject belongs to the only one."""
        if name in self.subjects:
            return self.subjects.index(name)
        if len(self.subjects) == 1 and (not name or not self.subjects[0]):
            return 0
        fix = f"known subjects: {', '.join(self.subjects)}; adapt the model to a new one"
        raise InputError(explain("DuIN", expected="a subject of the fit", got=repr(name), fix=fix))

    def to(self, device: str | torch.device) -> Self:
        """Move every tensor to a device."""
        moved = super().to(device)
        held: dict[str, Any] = {
            name: {key: value.to(device) for key, value in getattr(self, name).items()}
            for name in (*_STATES[2:], "keeps", "centres", "scales")
        }
        return dataclasses.replace(moved, **held)

    def plots(self) -> Mapping[str, Callable[..., Axes]]:
        """Return the kinds of figure that the result has data for; see :mod:`.figures`."""
        from . import figures

        inherited = super().plots() if len(self.loss) else {}
        own = {name: self._bind(draw) for name, draw in figures.KINDS.items() if figures.available(self, name)}
        return {**inherited, **own}

    def _bind(self, draw: Callable[..., Axes]) -> Callable[..., Axes]:
        def styled(ax: Axes | None = None, **options: Any) -> Axes:
            from ...plot.style import style

            with style():
                return draw(self, ax=ax, **options)

        return styled

    def sections(self) -> list[Section]:
        """Return the parts of a report on this result."""
        from .sections import sections

        return sections(self)

    def decoder_section(self) -> list[Section]:
        """Return the section that every decoder has."""
        return super().sections()
