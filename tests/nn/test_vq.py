"""The quantiser against brute force: nearest codes, averages, revival, clustering, gradients."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tectum.nn import vq
from tectum.nn.vq import VectorQuantiser, unit


def points(n: int, width: int, seed: int = 0) -> torch.Tensor:
    return unit(torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def test_nearest_code_is_that_of_least_distance() -> None:
    x, codes = points(50, 4), points(7, 4, 1)
    distance = (x[:, None] - codes[None]).square().sum(-1)
    assert torch.equal(vq.nearest_code(x, codes), distance.argmin(1))


def test_sums_and_means_by_loop() -> None:
    x, index = points(20, 3), torch.arange(20) % 4
    sums = vq.code_sums(x, index, 6)
    book = points(6, 3, 2)
    means = vq.code_means(sums, book)
    for k in range(6):
        mine = x[index == k]
        assert float(sums.counts[k]) == len(mine)
        torch.testing.assert_close(sums.totals[k], mine.sum(0))
        wanted = mine.mean(0) / mine.mean(0).norm() if len(mine) else book[k]
        torch.testing.assert_close(means[k], wanted)


def test_average_moves_by_the_formula_and_keeps_unit_length() -> None:
    x, index, book = points(20, 3), torch.arange(20) % 4, points(6, 3, 2)
    sums = vq.code_sums(x, index, 6)
    moved = vq.moved_codes(book, sums, decay=0.9)
    wanted = 0.9 * book + 0.1 * vq.code_means(sums, book)
    torch.testing.assert_close(moved, wanted / wanted.norm(dim=1, keepdim=True))
    torch.testing.assert_close(moved.norm(dim=1), torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(moved[4:], book[4:])  # unused codes stay


def test_kmeans_finds_separated_directions() -> None:
    centres = torch.eye(5, dtype=torch.float64)
    x = unit(centres.repeat(40, 1) + 0.1 * torch.randn(200, 5, generator=torch.Generator().manual_seed(0)))
    found = vq.spherical_kmeans(x, x[:5])
    assert torch.equal((found @ centres.T).argmax(1).sort().values, torch.arange(5))
    assert float((found @ centres.T).amax(1).min()) > 0.99


def test_kmeans_never_worsens_the_mean_cosine() -> None:
    x, first = points(200, 6), points(8, 6, 3)
    score = [float((x @ vq.spherical_kmeans(x, first, rounds=r).T).amax(1).mean()) for r in range(8)]
    assert all(b >= a - 1e-12 for a, b in zip(score[:-1], score[1:], strict=True))


def test_revival_replaces_unused_codes_only() -> None:
    book, x = points(4, 3), points(10, 3, 1)
    usage, picks = torch.tensor([2.0, 0.0, 1.0, 0.0]), torch.tensor([5, 6, 7, 8])
    found = vq.revived_codes(book, usage, x, picks)
    for k, source in enumerate([book[0], x[6], book[2], x[8]]):
        assert torch.equal(found[k], source)


@pytest.mark.parametrize("counts", [[4, 4, 4, 4], [1, 0, 0, 0], [3, 1, 0, 0]])
def test_perplexity_is_exp_of_entropy(counts: list[int]) -> None:
    p = [c / sum(counts) for c in counts if c]
    wanted = math.exp(-sum(q * math.log(q) for q in p))
    assert math.isclose(float(vq.perplexity(torch.tensor(counts).double())), wanted, rel_tol=1e-12)


def quantiser(**options: Any) -> VectorQuantiser:
    torch.manual_seed(0)
    return VectorQuantiser(6, **{"n_codes": 5, "code_width": 3, **options}).double()


def test_quantising_a_code_gives_the_code() -> None:
    made = quantiser().eval()
    assert torch.equal(vq.nearest_code(made.codebook, made.codebook), torch.arange(5))
    torch.testing.assert_close(made.decode(torch.arange(5)), made.after(made.codebook))


def test_forward_replaces_by_the_nearest_code() -> None:
    made = quantiser().eval()
    x = torch.randn(2, 4, 6, dtype=torch.float64)
    found = made(x)
    direction = unit(made.before(x))
    codes = vq.nearest_code(direction, made.codebook)
    assert torch.equal(found.codes, codes)
    assert torch.equal(made.encode(x), codes)
    torch.testing.assert_close(found.out, made.decode(codes))
    torch.testing.assert_close(found.commitment, (direction - made.codebook[codes]).square().mean())


def test_gradient_passes_straight_through() -> None:
    made = quantiser().eval()
    x = torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    found = made(x)
    (through,) = torch.autograd.grad(found.out.sum(), x, retain_graph=True)
    direction = unit(made.before(x))
    chosen = made.codebook[found.codes].detach().requires_grad_()
    (at_code,) = torch.autograd.grad(made.after(chosen).sum(), chosen)
    (wanted,) = torch.autograd.grad(direction, x, grad_outputs=at_code)
    torch.testing.assert_close(through, wanted)


def test_training_moves_the_codebook_as_said_and_evaluation_does_not() -> None:
    made = quantiser()
    x = torch.randn(3, 4, 6, dtype=torch.float64)
    before = made.codebook.clone()
    made.eval()(x)
    assert torch.equal(made.codebook, before)
    made.train()(x, phase="pass")
    assert torch.equal(made.codebook, before)
    found = made(x)
    sums = vq.code_sums(found.unit.detach().flatten(0, 1), found.codes.flatten(), 5)
    torch.testing.assert_close(made.codebook, vq.moved_codes(before, sums, decay=0.99))
    torch.testing.assert_close(made.usage, sums.counts)


def test_start_clusters_the_batch_and_revival_counts_anew() -> None:
    made = quantiser()
    x, picks = torch.randn(3, 4, 6, dtype=torch.float64), torch.tensor([0, 3, 5, 7, 11])
    with torch.no_grad():
        direction = made.project(x).flatten(0, 1)
    wanted = vq.spherical_kmeans(direction, direction[picks])
    found = made(x, phase="start", picks=picks)
    sums = vq.code_sums(direction, found.codes.flatten(), 5)
    torch.testing.assert_close(made.codebook, vq.moved_codes(wanted, sums, decay=0.99))
    made.usage[2] = 0
    made(x, phase="revive", picks=picks)
    assert float(made.usage.sum()) == 12  # of this batch only
    torch.testing.assert_close(made.codebook.norm(dim=1), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize(("usage", "revived"), [([9, 0, 0, 0, 0], True), ([9, 1, 0, 0, 0], True),
                                                ([5, 5, 0, 0, 0], False), ([4, 4, 4, 0, 0], False)])  # fmt: skip
def test_a_codebook_in_use_is_not_revived(usage: list[int], revived: bool) -> None:
    made = quantiser(revive_below=vq.COLLAPSED)
    made.usage.copy_(torch.tensor(usage))
    x, picks, before = torch.randn(3, 4, 6, dtype=torch.float64), torch.arange(5), made.codebook.clone()
    with torch.no_grad():
        direction = made.project(x).flatten(0, 1)
        made._prepare(direction, "revive", picks)
    dead = torch.tensor(usage) == 0
    assert torch.equal(made.codebook[~dead], before[~dead])
    assert torch.equal(made.codebook[dead], direction[picks][dead] if revived else before[dead])
    assert float(made.usage.sum()) == 0


def test_codes_are_chosen_in_float32_under_autocast() -> None:
    made = quantiser().float().eval()
    x = torch.randn(2, 4, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = made(x)
        assert torch.equal(made.encode(x), quantiser().float().eval().encode(x))
    assert found.unit.dtype == found.commitment.dtype == torch.float32


def test_codes_that_start_from_one_token_are_parted() -> None:
    made = quantiser(n_codes=9)
    made(torch.randn(1, 4, 6, dtype=torch.float64), phase="start", picks=torch.arange(9) % 4)
    near = made.codebook @ made.codebook.T - 2 * torch.eye(9, dtype=torch.float64)
    assert float(near.max()) < 1 - 1e-9
    torch.testing.assert_close(made.codebook.norm(dim=1), torch.ones(9, dtype=torch.float64))
