"""Masks: their size, their law, and two passes that hide every token once."""

from __future__ import annotations

import pytest
import torch

from tectum.nn.masking import hide, n_hidden, of_hidden_pass, random_mask, twice


@pytest.mark.parametrize(
    ("n", "ratio", "wanted"), [(40, 0.5, 20), (10, 0.1, 1), (10, 0.3, 3), (7, 0.5, 4), (5, 0.6, 3)]
)
def test_as_many_are_hidden_as_published(n: int, ratio: float, wanted: int) -> None:
    assert n_hidden(n, ratio) == wanted
    mask = random_mask(200, n, ratio, generator=torch.Generator().manual_seed(0))
    assert bool((mask.sum(1) == wanted).all())


def test_every_token_is_hidden_equally_often() -> None:
    share = random_mask(20_000, 6, 0.5, generator=torch.Generator().manual_seed(0)).double().mean(0)
    assert float((share - 0.5).abs().max()) < 4 * 0.5 / 20_000**0.5
    pairs = random_mask(20_000, 4, 0.5, generator=torch.Generator().manual_seed(1)).double()
    together = (pairs.T @ pairs / 20_000)[~torch.eye(4, dtype=torch.bool)]
    assert float((together - 1 / 6).abs().max()) < 4 * (1 / 6 * 5 / 6 / 20_000) ** 0.5  # without replacement


def test_same_generator_same_mask() -> None:
    one, two = (random_mask(5, 9, 0.5, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)


def test_hidden_tokens_are_replaced() -> None:
    x, hidden, vector = torch.randn(2, 3, 4), torch.tensor([[True, False, False], [False, True, True]]), torch.ones(4)
    found = hide(x, hidden, vector)
    for b in range(2):
        for n in range(3):
            assert torch.equal(found[b, n], vector if hidden[b, n] else x[b, n])


def test_each_token_comes_from_the_pass_that_hid_it() -> None:
    hidden = random_mask(6, 8, 0.5, generator=torch.Generator().manual_seed(0))
    both = twice(hidden)
    assert bool((both[:6] ^ both[6:]).all())  # complementary
    assert bool(of_hidden_pass(both, hidden).all())  # where it was hidden, once
    marks = torch.stack((torch.zeros(6, 8), torch.ones(6, 8))).flatten(0, 1)[..., None].expand(-1, -1, 3)
    assert torch.equal(of_hidden_pass(marks, hidden)[..., 0] == 0, hidden)
