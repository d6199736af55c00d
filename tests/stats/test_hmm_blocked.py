"""The smoother in plain numbers gives what the smoother in logarithms gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tectum.stats import hmm
from tectum.stats.hmm_blocked import smooth_blocked


def chain(n_states: int, *batch: int, own: bool = False, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Log probabilities of the first state and of sticky transitions, one matrix or one a sequence."""
    g = torch.Generator().manual_seed(seed)
    moves = torch.rand(*(batch if own else ()), n_states, n_states, generator=g, dtype=torch.float64)
    moves = moves + 5 * torch.eye(n_states)
    first = torch.randn(n_states, generator=g, dtype=torch.float64).log_softmax(0)
    return first, (moves / moves.sum(-1, keepdim=True)).log()


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("n_states", "n_time", "batch", "spread"), [
    (3, 8, (2,), 1.0), (2, 9, (2, 3), 1.0), (3, 500, (4,), 5.0), (5, 2000, (3,), 30.0), (4, 5000, (1,), 2.0),
    (3, 33, (2,), 800.0), (1, 20, (2,), 1.0),
])  # fmt: skip
def test_it_equals_the_loop_over_time(
    n_states: int, n_time: int, batch: tuple[int, ...], spread: float, own: bool, ragged: bool
) -> None:
    g = torch.Generator().manual_seed(1)
    emission = spread * torch.randn(*batch, n_time, n_states, generator=g, dtype=torch.float64)
    first, moves = chain(n_states, *batch, own=own)
    lengths = torch.randint(1, n_time + 1, batch, generator=g) if ragged else None
    found = hmm.smooth(first, moves, emission, lengths=lengths)
    wanted = hmm.smooth(first, moves, emission, lengths=lengths, form="sequential")
    for name in ("probabilities", "transitions", "log_increments", "log_likelihood"):
        torch.testing.assert_close(getattr(found, name), getattr(wanted, name), rtol=1e-9, atol=1e-9, msg=name)


def test_masked_bins_keep_the_chain_going() -> None:
    g = torch.Generator().manual_seed(0)
    emission = torch.randn(2, 300, 3, generator=g, dtype=torch.float64)
    mask = torch.rand(2, 300, generator=g) > 0.3
    first, moves = chain(3)
    hidden = emission.masked_fill(~mask.unsqueeze(-1), torch.nan)
    found, wanted = (hmm.smooth(first, moves, hidden, mask=mask, form=f) for f in ("auto", "sequential"))  # type: ignore[arg-type]
    torch.testing.assert_close(found.probabilities, wanted.probabilities)
    torch.testing.assert_close(found.log_likelihood, wanted.log_likelihood)


def test_transitions_that_are_rare_but_possible() -> None:
    """Switches of e^-90 in a row: products over the steps between two rescalings must not vanish."""
    log_rare = -90.0
    moves = torch.full((3, 3), log_rare, dtype=torch.float64)
    moves.fill_diagonal_(0.0)
    state = torch.arange(60) % 3
    emission = torch.full((60, 3), -700.0, dtype=torch.float64)
    emission[torch.arange(60), state] = 0.0
    first = torch.zeros(3, dtype=torch.float64).log_softmax(0)
    found, wanted = (hmm.smooth(first, moves, emission, form=f) for f in ("auto", "sequential"))  # type: ignore[arg-type]
    torch.testing.assert_close(found.probabilities, wanted.probabilities)
    torch.testing.assert_close(found.log_likelihood, wanted.log_likelihood)
    assert torch.equal(found.probabilities.argmax(-1), state)


def test_impossible_transitions_and_rows_that_do_not_sum_to_one_go_the_exact_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("the blocked form is not exact here")

    monkeypatch.setattr(hmm, "smooth_blocked", refuse)
    first, moves = chain(2)
    emission = torch.zeros(2, 50, 2, dtype=torch.float64)
    forbidden = moves.clone()
    forbidden[0, 1] = -torch.inf
    hmm.smooth(first, forbidden, emission)
    hmm.smooth(first, moves + 0.5, emission, lengths=torch.tensor([20, 50]))
    hmm.smooth(first, moves, emission, pairwise=True)
    hmm.smooth(first, moves.expand(49, 2, 2), emission, time_varying=True)
    with pytest.raises(AssertionError, match="not exact"):
        hmm.smooth(first, moves, emission)


def test_two_bins() -> None:
    first, moves = chain(2)
    emission = torch.tensor([[[0.0], [-2.0]], [[-1.0], [0.0]]], dtype=torch.float64)  # (K, T, lanes)
    found = smooth_blocked(first.unsqueeze(1), moves.unsqueeze(2), emission, None)
    joint = (first + emission[:, 0, 0]).unsqueeze(1) + moves + emission[:, 1, 0]
    wanted = (joint - joint.logsumexp((0, 1))).exp()
    torch.testing.assert_close(found.transitions[0], wanted)
    torch.testing.assert_close(found.probabilities[0], torch.stack((wanted.sum(1), wanted.sum(0))))
    torch.testing.assert_close(found.increments.sum(), joint.logsumexp((0, 1)))
