"""Masked modelling: which tokens are hidden, and two complementary passes in which each is hidden once."""

from __future__ import annotations

import torch
from torch import Tensor


def n_hidden(n_tokens: int, ratio: float) -> int:
    """Return how many of ``n_tokens`` are hidden at a ratio: all but int(n_tokens (1 - ratio)).

    Examples
    --------
    >>> n_hidden(40, 0.5), n_hidden(5, 0.5), n_hidden(10, 0.3)
    (20, 3, 3)
    """
    return n_tokens - int(n_tokens * (1 - ratio) + 1e-9)


def random_mask(n_samples: int, n_tokens: int, ratio: float, *, generator: torch.Generator) -> Tensor:
    """Draw which tokens of every sample are hidden, uniformly without replacement.

    Parameters
    ----------
    n_samples, n_tokens : int
        Shape.
    ratio : float
        Share to hide, in (0, 1).
    generator : torch.Generator
        On the CPU, so that every device gives the same mask.

    Returns
    -------
    Tensor, shape (n_samples, n_tokens), bool, on the CPU
        True where hidden; :func:`n_hidden` in each row.

    Examples
    --------
    >>> random_mask(3, 10, 0.5, generator=torch.Generator()).sum(1).tolist()
    [5, 5, 5]
    """
    place = torch.rand(n_samples, n_tokens, generator=generator, device="cpu").argsort(1).argsort(1)
    return place < n_hidden(n_tokens, ratio)


def hide(tokens: Tensor, hidden: Tensor, replacement: Tensor) -> Tensor:
    """Replace tokens (batch, token, width) by a vector (width,) where ``hidden`` (batch, token) is True."""
    return torch.where(hidden[..., None], replacement.to(tokens.dtype), tokens)


def twice(hidden: Tensor) -> Tensor:
    """Return a mask and its complement as one batch: (2 batch, token); both passes of a step run at once.

    Examples
    --------
    >>> twice(torch.tensor([[True, False]])).tolist()
    [[True, False], [False, True]]
    """
    return torch.cat((hidden, ~hidden))


def of_hidden_pass(both: Tensor, hidden: Tensor) -> Tensor:
    """Take for every token the output of the pass in which it was hidden.

    Parameters
    ----------
    both : Tensor, shape (2 * batch, token, ...)
        Outputs of the passes with the mask and with its complement.
    hidden : Tensor, shape (batch, token), bool
        The mask of the first pass.

    Returns
    -------
    Tensor, shape (batch, token, ...)

    Examples
    --------
    >>> of_hidden_pass(torch.tensor([[1, 2], [3, 4]]), torch.tensor([[True, False]])).tolist()
    [[1, 4]]
    """
    first, second = both.chunk(2)
    return torch.where(hidden.reshape(*hidden.shape, *(1 for _ in first.shape[2:])), first, second)
