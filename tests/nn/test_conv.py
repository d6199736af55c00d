"""Patch convolutions: lengths, locality, layout, shifts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tectum.nn.conv import PatchDecoder, PatchEncoder, shifted, transposed_padding, valid_lengths


@pytest.mark.parametrize(("patch", "stride"), [(100, 10), (20, 5), (10, 2), (12, 1), (60, 6)])
def test_lengths_go_round(patch: int, stride: int) -> None:
    encoder = PatchEncoder(3, 4, 2, patch=patch, stride=stride).eval()
    tokens = encoder(torch.randn(2, 3 * patch, 3))
    assert tokens.shape == (2, 3, patch // stride * 2)
    decoder = PatchDecoder(tokens.shape[2], 5, 3, patch=patch, stride=stride)
    assert decoder(tokens).shape == (2, 3 * patch, 3)


@given(stride=st.integers(1, 40), more=st.integers(0, 40))
@settings(max_examples=40)
def test_padding_lengthens_exactly(stride: int, more: int) -> None:
    kernel = stride + more
    padding, extra = transposed_padding(kernel, stride)
    for n in (1, 2, 7):
        assert (n - 1) * stride - 2 * padding + kernel + extra == n * stride


def test_a_token_sees_its_patch_only() -> None:
    torch.manual_seed(0)
    encoder = PatchEncoder(3, 4, 2, patch=20, stride=5).double().eval()
    x = torch.randn(1, 80, 3, dtype=torch.float64, requires_grad=True)
    for n in range(4):
        (gradient,) = torch.autograd.grad(encoder(x)[0, n].square().sum(), x)
        touched = gradient[0].abs().sum(1) > 0
        assert touched[20 * n : 20 * n + 20].all()
        assert not touched[: 20 * n].any()
        assert not touched[20 * n + 20 :].any()


def test_token_is_steps_by_features() -> None:
    torch.manual_seed(0)
    encoder = PatchEncoder(3, 4, 2, patch=20, stride=5).eval()
    x = torch.randn(2, 40, 3)
    patch = encoder.layers(x[1, 20:40].T[None])  # (1, feature, step)
    torch.testing.assert_close(encoder(x)[1, 1], patch[0].T.flatten())


@given(st.lists(st.integers(-12, 12), min_size=1, max_size=5))
@settings(max_examples=30)
def test_shift_is_padding_and_cutting(moves: list[int]) -> None:
    x = torch.randn(len(moves), 2, 10, generator=torch.Generator().manual_seed(0))
    found = shifted(x, torch.tensor(moves))
    for row, move in enumerate(moves):
        for t in range(10):
            wanted = x[row, :, t - move] if 0 <= t - move < 10 else torch.zeros(2)
            assert torch.equal(found[row, :, t], wanted)


def test_valid_lengths_surround() -> None:
    for n in range(1, 300):
        below, above = valid_lengths(n, 50)
        assert below % 50 == above % 50 == 0
        assert above - below == 50
        assert below <= max(n, 50) < above + 1
