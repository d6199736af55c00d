"""LightCNN: one convolution over all channels, the smallest useful decoder of EEG windows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.contract import Contract
from ..core.device import highest_precision
from ..core.errors import InputError, explain
from ..core.params import param
from ..core.result import Section, axes
from ..nn.decoder import CHUNK, Decoder, DecoderResult, Trained
from ..nn.ring import Ring
from ..nn.trials import Holdout, Labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

REFERENCE = (
    "Anjum MF (2024). Parkinson's disease classification via EEG: all you need is a single convolutional layer. "
    "arXiv:2408.10457."
)


class OneConvolution(nn.Module):
    """Convolution, ReLU, dropout, mean over time, linear layer.

    Parameters
    ----------
    n_channels, n_filters, n_classes : int
        Sizes.
    kernel : int
        Samples of a filter, odd.
    dropout : float
        Share of activations set to zero in training.

    Examples
    --------
    >>> network = OneConvolution(59, 59, 2, kernel=11, dropout=0.1)
    >>> sum(p.numel() for p in network.parameters())
    38470
    """

    def __init__(self, n_channels: int, n_filters: int, n_classes: int, *, kernel: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(n_channels, n_filters, kernel, padding=kernel // 2)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(n_filters, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channel, time) to logits (batch, class)."""
        logits: Tensor = self.head(self.dropout(self.activity(x)).mean(2))
        return logits

    def activity(self, x: Tensor) -> Tensor:
        """Return the rectified output of every filter: (batch, filter, time)."""
        found: Tensor = self.conv(x).relu()
        return found

    def init_state(self, batch: int, n_times: int) -> Carried | None:
        """Return what is remembered of a stream before its first sample; None for windows shorter than a filter."""
        (kernel,), device = self.conv.kernel_size, self.conv.weight.device
        if n_times < kernel:
            return None
        samples = Ring(batch * self.conv.in_channels, n_times, device)
        samples.push(torch.zeros(batch * self.conv.in_channels, kernel - 1, device=device))
        return Carried(samples, Ring(batch * self.conv.out_channels, n_times - kernel + 1, device), batch, n_times)

    def step(self, x: Tensor, state: Carried) -> tuple[Tensor, Carried]:
        """Return the logits (batch, class) of the window that ends with new samples (batch, channel, time), and state.

        Away from its ends, where filters meet zeros, a window has the activity of the windows before it: only new
        samples and both ends are convolved. The state given is used up; logits are NaN until a window is full.
        """
        samples, inner, batch, lacking = state
        past, lacking = samples.size - inner.size, max(0, lacking - x.shape[2])
        x = x[:, :, -samples.size :]
        if x.shape[2]:
            before = [samples.window(past).unflatten(0, (batch, -1))] if past else []
            inner.push(self._inside(torch.cat([*before, x], 2)).flatten(0, 1))
            samples.push(x.flatten(0, 1))
        if lacking:
            return x.new_full((batch, self.head.out_features), torch.nan), state._replace(lacking=lacking)
        total = inner.window(inner.size).sum(1).unflatten(0, (batch, -1))  # (batch, filter)
        if past:
            window, half = samples.window(samples.size).unflatten(0, (batch, -1)), past // 2
            ends = torch.cat([F.pad(window[..., :past], (half, 0)), F.pad(window[..., -past:], (0, half))])
            total += self._inside(ends).sum(2).unflatten(0, (2, batch)).sum(0)
        logits: Tensor = self.head(total / samples.size)
        return logits, state._replace(lacking=0)

    def _inside(self, x: Tensor) -> Tensor:
        """Return the rectified output where filters lie wholly inside: (batch, filter, time - kernel + 1)."""
        return F.conv1d(x, self.conv.weight, self.conv.bias).relu()


class Carried(NamedTuple):
    """What a convolution remembers of a stream."""

    samples: Ring  #: the newest window, (batch * channel, time)
    inner: Ring  #: activity where filters lie wholly inside it, (batch * filter, time)
    batch: int
    lacking: int  #: samples until the first window is full


def frequency_response(weight: Tensor, rate: float, *, n_freq: int = 65) -> tuple[Tensor, Tensor]:
    """Return how strongly filters pass each frequency, root mean square over channels.

    Parameters
    ----------
    weight : Tensor, shape (filter, channel, kernel)
        Weights of a convolution.
    rate : float
        Samples per second.
    n_freq : int, default 65
        Frequencies from 0 to half the rate.

    Returns
    -------
    freq : Tensor, shape (freq,), float64
        Hz.
    gain : Tensor, shape (filter, freq)
        In the highest precision of the device.

    Examples
    --------
    >>> freq, gain = frequency_response(torch.tensor([[[0.5, 0.5]]]), 10.0, n_freq=3)
    >>> freq.tolist(), [round(v, 3) for v in gain[0].tolist()]
    ([0.0, 2.5, 5.0], [1.0, 0.707, 0.0])
    """
    w = weight.to(highest_precision(weight.device))
    freq = torch.linspace(0, rate / 2, n_freq, dtype=w.dtype, device=w.device)
    phase = 2 * torch.pi * freq * torch.arange(w.shape[2], dtype=w.dtype, device=w.device)[:, None] / rate
    real, imaginary = w @ phase.cos(), w @ phase.sin()  # (filter, channel, freq)
    return freq, (real.square() + imaginary.square()).mean(1).sqrt()


@dataclass(frozen=True, kw_only=True, eq=False)
class LightCNNResult(DecoderResult):
    """What a LightCNN learnt, and what its filters look at.

    Attributes
    ----------
    response : Tensor, shape (component, freq)
        Gain of each filter at each frequency, root mean square over channels.
    activation : Tensor, shape (label, component)
        Mean activity of each filter in the trials of each class.

    The coordinate "hz" of the axis freq holds the frequencies. For the other attributes see :class:`DecoderResult`.
    """

    response: Tensor = axes("component", "freq")
    activation: Tensor = axes("label", "component")

    def plots(self) -> Mapping[str, Callable[..., Axes]]:
        """Return the kinds of figure."""
        from .. import plot
        from ..plot import decoding

        def filters(ax: Axes | None = None, **options: Any) -> Axes:
            return decoding.spectra(self.coords["freq"]["hz"], self.response, weight=self._contrast(), ax=ax, **options)

        def activation(ax: Axes | None = None, **options: Any) -> Axes:
            order = self._contrast().argsort()
            curves = {str(name): row[order] for name, row in zip(self.labels, self.activation, strict=True)}
            place, text = torch.arange(1, len(order) + 1), "filter, sorted by difference of the classes"
            return plot.lines(place, curves, xlabel=text, ylabel="mean activity", ax=ax, **options)

        return {**super().plots(), "filters": filters, "activation": activation}

    def _contrast(self) -> Tensor:
        """Return how much the classes differ in each filter: the last less the first, (component,)."""
        return self.activation[-1] - self.activation[0]

    def sections(self) -> list[Section]:
        """Return the parts of a report."""
        text = (
            "One convolution over all channels, ReLU, mean over time, linear layer. Filters are shown by their gain; "
        )
        text += "those that are more active in the last class than in the first are drawn in red."
        figures = (("Gain of the filters.", lambda: self.plot("filters")),
                   ("Mean activity of the filters in each class.", lambda: self.plot("activation")))  # fmt: skip
        return [*super().sections(), Section(title="Filters", text=text, figures=figures, references=(REFERENCE,))]


@dataclass(kw_only=True, eq=False)
class LightCNN(Decoder):
    """Classify windows of EEG with a single convolutional layer.

    A convolution over all channels, ReLU, dropout, the mean over time and a linear layer: 38,470 parameters for 59
    channels and two classes. Judge it by subjects it has not seen (:func:`tectum.evaluate.cross_predict`): the
    published accuracy of 98.9% comes from windows of the same subjects in training and test.

    Parameters
    ----------
    kernel : int, default 11
        Samples of each filter, odd.
    n_filters : int or None, default None
        Filters; by default as many as channels.
    dropout : float, default 0.1
        Share of activations set to zero in training.
    epochs, batch_size, accumulate, lr, weight_decay, schedule, clip, precision, class_weight, normalise, clamp
        See :class:`~tectum.nn.decoder.Decoder`.
    validation, group, patience, device, random_state, dtype
        See :class:`~tectum.nn.decoder.Decoder`.

    References
    ----------
    Anjum (2024), Parkinson's disease classification via EEG: all you need is a single convolutional layer, arXiv
    2408.10457.

    Examples
    --------
    >>> from tectum.datasets.simulate.eeg import rhythm_windows
    >>> data = rhythm_windows(6, n_channels=6, n_windows=4, length=1.0, effect=1.0).recordings
    >>> model = LightCNN(epochs=2, device="cpu").fit(data, "label")
    >>> model.predict_proba(data[0]).shape
    torch.Size([4, 2])
    """

    kernel: int = param(11, int, low=1)
    n_filters: int | None = param(None, int, low=1)
    dropout: float = param(0.1, float, low=0, high=0.99)

    def _check(self, data: tuple[Any, ...], target: Any) -> tuple[Any, ...]:
        if self.kernel % 2 == 0:
            raise InputError(explain("LightCNN.kernel", expected="an odd number of samples", got=str(self.kernel)))
        return super()._check(data, target)

    def _build(self, n_channels: int, n_times: int, n_classes: int, rate: float) -> nn.Module:
        n_filters = self.n_filters or n_channels
        return OneConvolution(n_channels, n_filters, n_classes, kernel=self.kernel, dropout=self.dropout)

    def _describe(
        self, trained: Trained, x: Tensor, y: Tensor, held: Holdout, labels: Labels, contract: Contract
    ) -> DecoderResult:
        """Add what the filters look at."""
        known = super()._describe(trained, x, y, held, labels, contract)
        network, n = trained.network, len(labels.names)
        body: Any = network.body
        freq, gain = frequency_response(body.conv.weight.detach(), float(contract.rate or 1.0))
        with torch.no_grad():
            mean = torch.cat(
                [body.activity(network.standard(part)).mean(2) for part in x.split(CHUNK)]
            )  # (trial, filter)
        total = mean.new_zeros(n, mean.shape[1]).index_add(0, y, mean)
        fields = {f.name: getattr(known, f.name) for f in dataclasses.fields(known)}
        fields["coords"] = {**fields["coords"], "freq": {"hz": freq.cpu().numpy()}}
        return LightCNNResult(**fields, response=gain.to(x.dtype), activation=total / known.counts[:, None].to(x.dtype))
