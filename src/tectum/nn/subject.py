"""Layers with weights of their own for every subject: channels into shared sources and back."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SubjectLinear(nn.Module):
    """A linear map of the last axis whose weights depend on the subject.

    Subjects with fewer inputs or outputs than the largest are padded: mask the input with zeros, ignore the outputs.

    Parameters
    ----------
    n_subjects, n_in, n_out : int
        Sizes.
    std : float, default 0.02
        Deviation of the first weights (normal, truncated at two deviations); biases start at zero.

    Examples
    --------
    >>> layer = SubjectLinear(2, 10, 16)
    >>> layer(torch.zeros(3, 50, 10), torch.tensor([0, 1, 1])).shape
    torch.Size([3, 50, 16])
    """

    def __init__(self, n_subjects: int, n_in: int, n_out: int, *, std: float = 0.02) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_subjects, n_in, n_out))
        self.bias = nn.Parameter(torch.zeros(n_subjects, n_out))
        nn.init.trunc_normal_(self.weight, std=std, a=-2 * std, b=2 * std)

    def forward(self, x: Tensor, subject: Tensor | None = None) -> Tensor:
        """Map (batch, time, n_in) to (batch, time, n_out); without ``subject`` (batch,) int64 all are the first."""
        if subject is None:
            return x @ self.weight[0] + self.bias[0]
        return torch.baddbmm(self.bias[subject][:, None], x, self.weight[subject])

    def scores(self) -> Tensor:
        """Return how much each input weighs, the mean size of its weights over the largest: Tensor (subject, n_in)."""
        size = self.weight.detach().abs().mean(2)
        return size / size.amax(1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)


def split_subjects(flat: Tensor, n_in: int, n_out: int) -> Tensor:
    """Return weights (subject, n_in, n_out) of a matrix (n_in * n_out, subject) that acts on one-hot subjects.

    The matrix holds one column a subject; it must be turned before it is cut, or subjects mix.

    Examples
    --------
    >>> split_subjects(torch.tensor([[0, 10], [1, 11], [2, 12], [3, 13]]), 2, 2).tolist()
    [[[0, 1], [2, 3]], [[10, 11], [12, 13]]]
    """
    return flat.T.reshape(-1, n_in, n_out)
