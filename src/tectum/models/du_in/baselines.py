"""What simpler decoders make of the same windows: band power, covariance, time course, convolution with recurrence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .data import Bank
from .running import Prepared
from .stages import Plan, train_classes

BANDS = ((1, 4), (4, 8), (8, 13), (13, 30), (30, 70), (70, 150))  #: Hz
RATE_GRU = 120.0  #: Hz; the published baseline has 30, which keeps nothing above 15
STEP = 0.02  #: s, of the time course

#: Name -> (epochs, learning rate, weight decay).
BASELINES: dict[str, tuple[int, float, float]] = {
    "power": (100, 1e-2, 0.1),
    "riemann": (100, 1e-2, 0.1),
    "linear": (100, 1e-2, 0.1),
    "cnn_gru": (60, 1e-3, 0.05),
}


def band_power(x: Tensor, rate: float) -> Tensor:
    """Return the log power of every channel in every band below half the rate: Tensor (trial, channel * band).

    Examples
    --------
    >>> band_power(torch.randn(3, 2, 500), 500.0).shape
    torch.Size([3, 12])
    """
    power = torch.fft.rfft(x - x.mean(-1, keepdim=True)).abs().square()
    freq = torch.fft.rfftfreq(x.shape[-1], 1 / rate, device=x.device)
    found = [power[..., (freq >= low) & (freq < high)].mean(-1) for low, high in BANDS if high <= rate / 2]
    return torch.nan_to_num(torch.stack(found, -1)).clamp(min=torch.finfo(x.dtype).tiny).log().flatten(1)


def log_covariance(x: Tensor, shrinkage: float = 0.05) -> Tensor:
    """Return the matrix logarithm of the channel covariance of every trial, its upper triangle as a vector.

    Off-diagonal entries are weighted by sqrt(2), so that distances are those of the matrices: Tensor
    (trial, channel (channel + 1) / 2).

    Examples
    --------
    >>> log_covariance(torch.randn(3, 4, 100)).shape
    torch.Size([3, 10])
    """
    centred = x - x.mean(-1, keepdim=True)
    cov = centred @ centred.transpose(1, 2) / x.shape[-1]
    n = x.shape[1]
    mean = cov.diagonal(dim1=1, dim2=2).mean(-1)[:, None, None]
    eye = torch.eye(n, device=x.device, dtype=x.dtype)
    values, vectors = torch.linalg.eigh((1 - shrinkage) * cov + (shrinkage * mean + 1e-6) * eye)
    logs = vectors * values.clamp(min=1e-12).log()[:, None] @ vectors.transpose(1, 2)
    row, column = torch.triu_indices(n, n, device=x.device)
    weight = torch.where(row == column, 1.0, 2.0**0.5).to(x.dtype)
    found: Tensor = logs[:, row, column] * weight
    return found


def time_course(x: Tensor, rate: float) -> Tensor:
    """Return the mean of every channel in steps of 20 ms: Tensor (trial, channel * step)."""
    return F.adaptive_avg_pool1d(x, max(1, round(x.shape[-1] / rate / STEP))).flatten(1)


class Linear(nn.Module):
    """Standardised features and a linear layer."""

    centre: Tensor
    scale: Tensor

    def __init__(self, name: str, n_features: int, n_classes: int, rate: float) -> None:
        super().__init__()
        self.name, self.rate = name, rate
        self.register_buffer("centre", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        self.head = nn.Linear(n_features, n_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def features(self, x: Tensor) -> Tensor:
        """Return the features of windows (batch, channel, time)."""
        return log_covariance(x) if self.name == "riemann" else feature(self.name, x, self.rate)

    def forward(self, x: Tensor, subject: Tensor | None = None) -> Tensor:
        """Map (batch, channel, time) to logits (batch, class)."""
        logits: Tensor = self.head((self.features(x) - self.centre) / self.scale)
        return logits


def feature(name: str, x: Tensor, rate: float) -> Tensor:
    """Return the features of a linear baseline."""
    return {"power": band_power, "linear": time_course}[name](x, rate) if name != "riemann" else log_covariance(x)


class ConvGRU(nn.Module):
    """A convolution, a recurrent network in both directions, and two linear layers."""

    def __init__(self, n_channels: int, n_classes: int, rate: float, width: int = 128) -> None:
        super().__init__()
        self.rate = rate
        self.conv = nn.Conv1d(n_channels, width, 5, stride=3)
        self.gru = nn.GRU(width, width, num_layers=2, bidirectional=True, batch_first=True, dropout=0.2)
        self.head = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, n_classes))

    def forward(self, x: Tensor, subject: Tensor | None = None) -> Tensor:
        """Map (batch, channel, time) to logits (batch, class)."""
        size = max(5, round(x.shape[-1] / self.rate * min(self.rate, RATE_GRU)))
        y = self.conv(F.adaptive_avg_pool1d(x, size)).relu()
        found, _ = self.gru(y.transpose(1, 2))
        logits: Tensor = self.head(found.mean(1))
        return logits


def make_baseline(name: str, x: Tensor, n_classes: int, rate: float) -> nn.Module:
    """Make an untrained baseline for windows like ``x`` (trial, channel, time)."""
    if name == "cnn_gru":
        return ConvGRU(x.shape[1], n_classes, rate)
    return Linear(name, feature(name, x[:1], rate).shape[1], n_classes, rate)


def train_baseline(
    name: str, module: nn.Module, bank: Bank, classes: Tensor, train: Tensor, held: Tensor, plan: Plan
) -> nn.Module:
    """Train a baseline on the windows that the model trains on, with the same rule of stopping."""
    if isinstance(module, Linear):
        with torch.no_grad():
            found = module.features(bank.x[train])
            module.centre.copy_(found.mean(0))
            module.scale.copy_(found.std(0).clamp(min=1e-6))
    epochs, lr, decay = BASELINES[name]
    own = plan._replace(name=f"baseline-{name}", epochs=epochs, lr=lr, floor=lr / 10, weight_decay=decay, warmup=0.0)
    train_classes(module, bank, classes, train, held, own, shift=0.0)
    return module.eval()


def applied(module: nn.Module) -> Callable[[Prepared, Tensor], Tensor]:
    """Apply a baseline to what a fitted network would see of raw windows."""

    def call(network: Prepared, x: Tensor) -> Tensor:
        logits: Tensor = module(network.standard(x))
        return logits

    return call
