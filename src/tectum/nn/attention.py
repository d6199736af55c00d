"""Self-attention over tokens: sine and cosine positions, encoder blocks, and how their weights start."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def sinusoid(n_tokens: int, width: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the fixed position code: sine in the even columns, cosine in the odd ones.

    Column 2i of row n is sin(n 10000^(-2i / width)), column 2i + 1 its cosine.

    Parameters
    ----------
    n_tokens, width : int
        Rows and columns; the width is even.
    device, dtype
        Where and how precise.

    Returns
    -------
    Tensor, shape (n_tokens, width)

    References
    ----------
    Vaswani et al. (2017), Attention is all you need, section 3.5.

    Examples
    --------
    >>> sinusoid(2, 4, device=torch.device("cpu"), dtype=torch.float32)[0].tolist()
    [0.0, 1.0, 0.0, 1.0]
    """
    place = torch.arange(n_tokens, device=device, dtype=dtype)[:, None]
    step = torch.arange(0, width, 2, device=device, dtype=dtype) / width
    angle = place * torch.exp(-math.log(10000.0) * step)  # (n_tokens, width / 2)
    return torch.stack((angle.sin(), angle.cos()), -1).flatten(1)


class SelfAttention(nn.Module):
    """Attention of tokens to each other in several heads, queries and keys normalised in every head.

    Parameters
    ----------
    width : int
        Numbers in a token.
    heads, head_width : int
        Heads and numbers in each; their product need not be ``width``.
    dropout : float, default 0.0
        Share of attention weights set to zero in training.
    qk_norm : bool, default True
        Layer normalisation of queries and keys over the numbers of a head, with parameters shared by the heads.

    Examples
    --------
    >>> SelfAttention(6, heads=2, head_width=4)(torch.zeros(3, 5, 6)).shape
    torch.Size([3, 5, 6])
    """

    def __init__(self, width: int, *, heads: int, head_width: int, dropout: float = 0.0, qk_norm: bool = True) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * heads * head_width)
        self.query_norm = nn.LayerNorm(head_width) if qk_norm else nn.Identity()
        self.key_norm = nn.LayerNorm(head_width) if qk_norm else nn.Identity()
        self.out = nn.Linear(heads * head_width, width)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each (batch, head, token, head_width)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)  # each (batch, token, head, head_width)
        q, k = self.query_norm(q), self.key_norm(k)  # before heads come first, which would copy twice
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map (batch, token, width) to the same; ``mask`` (query, key), bool, is True where one may look."""
        q, k, v = self._parts(x)
        p = self.dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
        joined: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return joined

    def weights(self, x: Tensor) -> Tensor:
        """Return the attention of every token to every token: Tensor (batch, head, token, token), rows sum to 1."""
        q, k, _ = self._parts(x)
        return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)


class EncoderBlock(nn.Module):
    """Attention and a two-layer network, each added to its input and normalised after that (post-norm).

    Parameters
    ----------
    width, heads, head_width, dropout
        See :class:`SelfAttention`.
    hidden : int
        Width between the two linear layers; ReLU and dropout lie there.

    Examples
    --------
    >>> EncoderBlock(6, heads=2, head_width=4, hidden=8)(torch.zeros(3, 5, 6)).shape
    torch.Size([3, 5, 6])
    """

    def __init__(self, width: int, *, heads: int, head_width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = SelfAttention(width, heads=heads, head_width=head_width, dropout=dropout)
        self.attention_norm, self.hidden_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.first, self.second, self.drop = nn.Linear(width, hidden), nn.Linear(hidden, width), nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map (batch, token, width) to the same."""
        x = self.attention_norm(x + self.attention(x, mask))
        found: Tensor = self.hidden_norm(x + self.second(self.drop(self.first(x).relu())))
        return found


def start_linear(module: nn.Module, *, std: float = 0.02) -> None:
    """Draw the weights of all linear layers inside from a normal truncated at two deviations; biases become zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def shrink_by_depth(blocks: Sequence[nn.Module] | nn.ModuleList) -> None:
    """Divide the linear weights of block i (from 0) by sqrt(2 (i + 1)), so that deep stacks start gently."""
    with torch.no_grad():
        for depth, block in enumerate(blocks):
            for layer in block.modules():
                if isinstance(layer, nn.Linear):
                    layer.weight /= math.sqrt(2.0 * (depth + 1))
