"""Attention, positions and first weights against their formulas."""

from __future__ import annotations

import math

import torch
from torch import nn

from tectum.nn.attention import EncoderBlock, SelfAttention, shrink_by_depth, sinusoid, start_linear


def test_positions_are_the_formula() -> None:
    found = sinusoid(7, 10, device=torch.device("cpu"), dtype=torch.float64)
    for n in range(7):
        for i in range(5):
            angle = n * 10000.0 ** (-2 * i / 10)
            assert math.isclose(found[n, 2 * i], math.sin(angle), abs_tol=1e-12)
            assert math.isclose(found[n, 2 * i + 1], math.cos(angle), abs_tol=1e-12)


def test_attention_is_the_formula() -> None:
    torch.manual_seed(0)
    layer = SelfAttention(6, heads=2, head_width=4).double().eval()
    nn.init.normal_(layer.query_norm.weight)
    x = torch.randn(3, 5, 6, dtype=torch.float64)
    parts = layer.qkv(x).reshape(3, 5, 3, 2, 4)  # (batch, token, part, head, number)
    out = torch.zeros(3, 5, 8, dtype=torch.float64)
    for b in range(3):
        for h in range(2):
            q, k, v = (parts[b, :, p, h] for p in range(3))
            weight = (layer.query_norm(q) @ layer.key_norm(k).T / 2.0).softmax(1)
            out[b, :, 4 * h : 4 * h + 4] = weight @ v
            torch.testing.assert_close(layer.weights(x)[b, h], weight)
    torch.testing.assert_close(layer(x), layer.out(out))


def test_block_normalises_after_each_sum() -> None:
    torch.manual_seed(0)
    block = EncoderBlock(6, heads=2, head_width=4, hidden=8).eval()
    x = torch.randn(2, 5, 6)
    y = block.attention_norm(x + block.attention(x))
    torch.testing.assert_close(block(x), block.hidden_norm(y + block.second(block.first(y).relu())))


def test_mask_hides_tokens() -> None:
    torch.manual_seed(0)
    layer = SelfAttention(6, heads=2, head_width=4).eval()
    x = torch.randn(1, 5, 6)
    other = x.clone()
    other[0, 4] += 1
    see = torch.tensor([[True, True, True, True, False]])  # (query, key)
    torch.testing.assert_close(layer(x, see)[0, :4], layer(other, see)[0, :4])
    assert not torch.allclose(layer(x)[0, :4], layer(other)[0, :4])


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    layer = SelfAttention(6, heads=2, head_width=4, dropout=0.5)
    x = torch.randn(4, 5, 6)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_first_weights_are_truncated_and_shrink_with_depth() -> None:
    torch.manual_seed(0)
    stack = nn.ModuleList(EncoderBlock(64, heads=4, head_width=32, hidden=128) for _ in range(3))
    start_linear(stack)
    shrink_by_depth(stack)
    for depth, block in enumerate(stack):
        scale = 0.02 / math.sqrt(2 * (depth + 1))
        weight = block.attention.qkv.weight.detach()
        assert float(weight.abs().max()) <= 2 * scale * (1 + 1e-6)
        assert abs(float(weight.std()) / scale - 0.88) < 0.02  # deviation of a normal cut at two deviations
        assert not block.attention.qkv.bias.any()
        assert bool((block.attention_norm.weight == 1).all())
