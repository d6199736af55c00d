"""Vector quantisation on the unit sphere: codes learnt by moving averages, revived when unused.

Codes and what they quantise have unit length, so the nearest code is the one of largest inner product.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import distributed

KMEANS_ROUNDS = 10
JITTER = 0.01  #: deviation that parts codes that start from one token
COLLAPSED = 2.0  #: perplexity below which a codebook has collapsed


class Sums(NamedTuple):
    """What a batch says of every code."""

    counts: Tensor  #: shape (n_codes,), vectors assigned
    totals: Tensor  #: shape (n_codes, width), their sum


class Quantised(NamedTuple):
    """A batch of tokens after quantisation."""

    out: Tensor  #: shape (..., width), tokens as the decoder sees them
    codes: Tensor  #: shape (...), int64
    unit: Tensor  #: shape (..., code_width), unit vectors before quantisation
    commitment: Tensor  #: (), mean squared distance from the codes chosen


def unit(x: Tensor) -> Tensor:
    """Scale vectors (..., width) to length 1.

    Examples
    --------
    >>> unit(torch.tensor([3.0, 4.0])).tolist()
    [0.6000000238418579, 0.800000011920929]
    """
    return F.normalize(x, dim=-1)


def nearest_code(x: Tensor, codebook: Tensor) -> Tensor:
    """Return the index of the nearest code of every vector, both of unit length.

    Parameters
    ----------
    x : Tensor, shape (..., width)
        Unit vectors.
    codebook : Tensor, shape (n_codes, width)
        Unit vectors.

    Returns
    -------
    Tensor, shape (...), int64

    Examples
    --------
    >>> nearest_code(torch.tensor([[0.6, 0.8]]), torch.eye(2)).tolist()
    [1]
    """
    return (x @ codebook.T).argmax(-1)


def code_sums(x: Tensor, codes: Tensor, n_codes: int) -> Sums:
    """Count and add up the vectors (n, width) of each code, over all processes.

    Examples
    --------
    >>> code_sums(torch.eye(2), torch.tensor([1, 1]), 3).counts.tolist()
    [0.0, 2.0, 0.0]
    """
    counts = x.new_zeros(n_codes).index_add_(0, codes, x.new_ones(len(x)))
    totals = x.new_zeros(n_codes, x.shape[1]).index_add_(0, codes, x)
    return Sums(distributed.mean(counts), distributed.mean(totals))  # only their ratio and sign are used


def code_means(sums: Sums, codebook: Tensor) -> Tensor:
    """Return the direction of the mean vector of each code; unused codes stay: Tensor (n_codes, width)."""
    return torch.where(sums.counts[:, None] > 0, unit(sums.totals), codebook)


def spherical_kmeans(x: Tensor, first: Tensor, *, rounds: int = KMEANS_ROUNDS) -> Tensor:
    """Cluster unit vectors by direction.

    Parameters
    ----------
    x : Tensor, shape (n, width)
        Unit vectors.
    first : Tensor, shape (n_codes, width)
        Starting centres, unit vectors.
    rounds : int, default 10
        Rounds of Lloyd's algorithm; a centre that loses all its vectors stays.

    Returns
    -------
    Tensor, shape (n_codes, width)

    Examples
    --------
    >>> x = unit(torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.1, 1.0], [-0.1, 1.0]]))
    >>> spherical_kmeans(x, x[[0, 2]]).round().tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    for _ in range(rounds):
        first = code_means(code_sums(x, nearest_code(x, first), len(first)), first)
    return first


def moved_codes(codebook: Tensor, sums: Sums, *, decay: float) -> Tensor:
    """Move every code a little to the mean of its vectors and back to the sphere: Tensor (n_codes, width).

    Examples
    --------
    >>> moved_codes(torch.eye(2), code_sums(torch.eye(2), torch.arange(2), 2), decay=0.9).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return unit(decay * codebook + (1 - decay) * code_means(sums, codebook))


def revived_codes(codebook: Tensor, usage: Tensor, x: Tensor, picks: Tensor) -> Tensor:
    """Replace every code that was not used by a vector of the batch.

    Parameters
    ----------
    codebook : Tensor, shape (n_codes, width)
        Codes.
    usage : Tensor, shape (n_codes,)
        How often each was used.
    x : Tensor, shape (n, width)
        Vectors to take from.
    picks : Tensor, shape (n_codes,), int64
        Row of ``x`` for each code, in case it is dead.

    Examples
    --------
    >>> revived_codes(torch.eye(2), torch.tensor([0.0, 3.0]), -torch.eye(2), torch.tensor([1, 0])).tolist()
    [[-0.0, -1.0], [0.0, 1.0]]
    """
    return torch.where(usage[:, None] > 0, codebook, _of_first_process(x[picks]))


def _of_first_process(values: Tensor) -> Tensor:
    """Return what the first process holds, in every process."""
    rank, size = distributed.world()
    return values if size == 1 else distributed.mean(values * float(size if rank == 0 else 0))


def perplexity(counts: Tensor) -> Tensor:
    """Return the effective number of codes in use, exp of the entropy of their shares: Tensor () in [1, n_codes].

    Examples
    --------
    >>> perplexity(torch.tensor([4.0, 4.0, 0.0])).item()
    2.0
    """
    share = counts / counts.sum().clamp(min=1)
    found: Tensor = torch.special.entr(share).sum().exp()
    return found


class VectorQuantiser(nn.Module):
    """Project tokens to unit vectors, replace each by its nearest code, and project back.

    The codebook is a buffer that moving averages change in training; gradients pass the replacement as if it were not
    there. Which step starts, moves or revives the codes is said by the caller (``phase``), never read off a tensor.

    Parameters
    ----------
    width : int
        Numbers in a token.
    n_codes, code_width : int
        Size of the codebook.
    decay : float, default 0.99
        Of the moving average.
    revive_below : float, default inf
        Perplexity of the codes' use below which "revive" replaces the unused ones; by default it always does.

    Notes
    -----
    Codebook, averages and the choice of codes are computed in float32 or better whatever autocast says.

    References
    ----------
    van den Oord et al. (2017), Neural discrete representation learning; Yu et al. (2022), Vector-quantized image
    modeling with improved VQGAN (unit vectors).

    Examples
    --------
    >>> vq = VectorQuantiser(6, n_codes=4, code_width=3).eval()
    >>> found = vq(torch.randn(2, 5, 6))
    >>> found.out.shape, found.codes.shape
    (torch.Size([2, 5, 6]), torch.Size([2, 5]))
    """

    codebook: Tensor
    usage: Tensor

    def __init__(
        self, width: int, *, n_codes: int, code_width: int, decay: float = 0.99, revive_below: float = math.inf
    ) -> None:
        super().__init__()
        self.decay, self.revive_below = decay, revive_below
        self.before = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, code_width))
        self.after = nn.Sequential(nn.LayerNorm(code_width), nn.Linear(code_width, width))
        self.register_buffer("codebook", unit(torch.randn(n_codes, code_width)))
        self.register_buffer("usage", torch.zeros(n_codes))

    def project(self, tokens: Tensor) -> Tensor:
        """Return the unit vectors (..., code_width) of tokens (..., width), in float32 or better."""
        found: Tensor = self.before(tokens)
        return unit(found.float() if found.dtype in (torch.bfloat16, torch.float16) else found)

    def encode(self, tokens: Tensor) -> Tensor:
        """Return the codes (...) int64 of tokens (..., width)."""
        with torch.autocast(tokens.device.type, enabled=False):
            return nearest_code(self.project(tokens.to(self.codebook.dtype)), self.codebook)

    def decode(self, codes: Tensor) -> Tensor:
        """Return the tokens (..., width) that codes (...) stand for."""
        found: Tensor = self.after(self.codebook[codes])
        return found

    def forward(self, tokens: Tensor, *, phase: str = "move", picks: Tensor | None = None) -> Quantised:
        """Quantise tokens (batch, token, width).

        Parameters
        ----------
        tokens : Tensor, shape (..., width)
            What to quantise.
        phase : {"move", "revive", "start", "pass"}, default "move"
            In training: move the codes; first replace the unused ones; first cluster this batch; or let the unit
            vectors pass unquantised and leave the codes alone.
        picks : Tensor, shape (n_codes,), int64, optional
            Tokens of the batch, flattened, that "revive" and "start" take.
        """
        direction = self.project(tokens)
        if phase == "pass":
            codes = torch.zeros(direction.shape[:-1], dtype=torch.int64, device=direction.device)
            return Quantised(self.after(direction), codes, direction, direction.new_zeros(()))
        with torch.autocast(tokens.device.type, enabled=False):
            if self.training and picks is not None:
                self._prepare(direction.detach().flatten(0, -2), phase, picks)
            codes = nearest_code(direction, self.codebook)
            chosen = self.codebook[codes]
            commitment = (direction - chosen).square().mean()
            straight = direction + (chosen - direction).detach()
            if self.training:
                self._move(direction.detach().flatten(0, -2), codes.flatten())
        return Quantised(self.after(straight), codes, direction, commitment)

    @torch.no_grad()
    def _prepare(self, x: Tensor, phase: str, picks: Tensor) -> None:
        """Start the codes by clustering, or revive the unused ones; then count anew."""
        if phase == "start":
            first = x[picks]
            if len(x) < len(picks):  # some are taken twice: part them
                first = unit(first + JITTER * torch.randn(first.shape, dtype=x.dtype, device="cpu").to(x.device))
            self.codebook.copy_(spherical_kmeans(x, _of_first_process(first)))
        else:
            revived = revived_codes(self.codebook, self.usage, x, picks)
            self.codebook.copy_(torch.where(perplexity(self.usage) < self.revive_below, revived, self.codebook))
        self.usage.zero_()

    @torch.no_grad()
    def _move(self, x: Tensor, codes: Tensor) -> None:
        """Update codes and their use by one batch."""
        sums = code_sums(x, codes, len(self.codebook))
        self.codebook.copy_(moved_codes(self.codebook, sums, decay=self.decay))
        self.usage += sums.counts
