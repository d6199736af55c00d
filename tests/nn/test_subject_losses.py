"""Subject layers and losses against loops."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from tectum.nn import losses
from tectum.nn.subject import SubjectLinear, split_subjects


def test_every_subject_has_weights_of_its_own() -> None:
    torch.manual_seed(0)
    layer = SubjectLinear(3, 4, 5).double()
    torch.nn.init.normal_(layer.bias)
    x, subject = torch.randn(6, 7, 4, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0, 2])
    found = layer(x, subject)
    for b in range(6):
        torch.testing.assert_close(found[b], x[b] @ layer.weight[subject[b]] + layer.bias[subject[b]])
    torch.testing.assert_close(layer(x), x @ layer.weight[0] + layer.bias[0])


def test_scores_are_mean_sizes_over_the_largest() -> None:
    layer = SubjectLinear(1, 3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[[1.0, -1.0], [2.0, 2.0], [0.0, 1.0]]]))
    assert layer.scores().tolist() == [[0.5, 1.0, 0.25]]


def test_one_hot_matrix_is_cut_by_subject() -> None:
    flat = torch.randn(3 * 4, 2)  # acts on a one-hot subject
    for subject in range(2):
        hot = F.one_hot(torch.tensor(subject), 2).float()
        torch.testing.assert_close(split_subjects(flat, 3, 4)[subject], (flat @ hot).reshape(3, 4))


def test_reconstruction_ignores_padded_channels() -> None:
    x, y = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    rows = [(x[b, c] - y[b, c]).square().mean() for b in range(2) for c in range(3) if mask[b, c]]
    torch.testing.assert_close(losses.reconstruction_error(x, y, mask), torch.stack(rows).mean())
    other = y.clone()
    other[0, 2] = 99
    assert torch.equal(losses.reconstruction_error(x, y, mask), losses.reconstruction_error(x, other, mask))


def test_token_entropy_by_loop() -> None:
    logits, codes = torch.randn(2, 3, 4), torch.randint(4, (2, 3))
    rows = [-logits[b, n].log_softmax(0)[codes[b, n]] for b in range(2) for n in range(3)]
    torch.testing.assert_close(losses.token_cross_entropy(logits, codes), torch.stack(rows).mean())
    mask = torch.tensor([[True, False, True], [False, False, True]])
    kept = torch.stack([r for r, m in zip(rows, mask.flatten(), strict=True) if m]).mean()
    torch.testing.assert_close(losses.token_cross_entropy(logits, codes, mask), kept)


def test_published_losses_have_their_bounds() -> None:
    sure = torch.full((1, 61), -1e4)
    sure[0, 5] = 1e4
    wanted = math.log(1 + 60 / math.e)
    assert math.isclose(float(losses.sigmoid_cross_entropy(sure, torch.tensor([5]))), wanted, rel_tol=1e-5)
    flat = torch.zeros(1, 61)
    assert math.isclose(float(losses.normalised_sigmoid_loss(flat, torch.tensor([3]))), math.log(61), rel_tol=1e-5)
