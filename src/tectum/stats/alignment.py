"""Labels without meaning: matching them over draws, co-clustering matrices and one partition to show.

Labels of clusters and states are exchangeable, so draws of a sampler, chains, restarts and truth name them differently.
Either the names are matched (`assign`, `align_labels`, `match_states`), or only which pairs are together is used
(`co_clustering`, `point_estimate`).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..core.device import highest_precision
from ..core.errors import InputError, explain

Loss = Literal["pear", "binder", "vi"]

_CHUNK = 1 << 24  # elements of a one-hot temporary


class Alignment(NamedTuple):
    """Draws with matched labels."""

    labels: Tensor
    """(..., draw, item) int64, renamed; -1 stays -1."""
    permutation: Tensor
    """(..., draw, K) int64: new name of each old label."""
    reference: Tensor
    """(..., item) int64: the partition the draws were matched to."""


class PointEstimate(NamedTuple):
    """One partition that stands for a posterior over partitions."""

    labels: Tensor
    """(item,) int64, 0, 1, ... in order of first appearance."""
    loss: Tensor
    """() posterior expected loss of ``labels`` (for ``"pear"`` minus the PEAR index)."""
    co_clustering: Tensor
    """(item, item): p(item i and item j are together | data)."""


def assign(cost: Tensor) -> Tensor:
    """Solve many square assignment problems at once (Hungarian method by shortest augmenting paths).

    Parameters
    ----------
    cost : Tensor
        (..., K, K) finite cost of giving column j to row i.

    Returns
    -------
    Tensor
        (..., K) int64: column of every row, a permutation of least total cost.

    References
    ----------
    Jonker & Volgenant (1987), A shortest augmenting path algorithm, Computing 38.

    Examples
    --------
    >>> assign(torch.tensor([[4.0, 1.0, 3.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]])).tolist()
    [1, 0, 2]
    """
    if cost.ndim < 2 or cost.shape[-1] != cost.shape[-2]:
        raise InputError(explain("assign: cost", expected="shape (..., K, K)", got=str(tuple(cost.shape))))
    n = cost.shape[-1]
    flat = cost.to(highest_precision(cost.device)).reshape(-1, n, n)
    row_of = torch.zeros(
        len(flat), n + 1, dtype=torch.long, device=cost.device
    )  # column 0 is the root, row 0 is nobody
    row_price, column_price = (torch.zeros_like(row_of, dtype=flat.dtype) for _ in range(2))
    for row in range(1, n + 1):
        row_of[:, 0] = row
        column, way = _shortest_path(flat, row_of, row_price, column_price, row)
        for _ in range(row):  # augment along the path
            previous = way.gather(1, column)
            row_of = row_of.scatter(1, column, row_of.gather(1, previous))
            column = previous
    columns = torch.arange(n, device=cost.device).expand(len(flat), n)
    return torch.empty_like(columns).scatter_(1, row_of[:, 1:] - 1, columns).reshape(cost.shape[:-1])


def _shortest_path(
    cost: Tensor, row_of: Tensor, row_price: Tensor, column_price: Tensor, n_steps: int
) -> tuple[Tensor, Tensor]:
    """Grow alternating trees from column 0 to a free column each; the prices are updated in place."""
    column = torch.zeros_like(row_of[:, :1])
    way, used = torch.zeros_like(row_of), torch.zeros_like(row_of, dtype=torch.bool)
    nearest = torch.full_like(column_price, torch.inf)
    done = torch.zeros_like(column, dtype=torch.bool)
    for _ in range(n_steps):
        used = used.scatter(1, column, used.gather(1, column) | ~done)
        row = row_of.gather(1, column)
        index = (row - 1).clamp(min=0).unsqueeze(2).expand(-1, -1, cost.shape[2])
        reduced = cost.gather(1, index).squeeze(1) - row_price.gather(1, row) - column_price[:, 1:]
        closer = (reduced < nearest[:, 1:]) & ~used[:, 1:] & ~done
        nearest[:, 1:] = torch.where(closer, reduced, nearest[:, 1:])
        way[:, 1:] = torch.where(closer, column, way[:, 1:])
        least, found = nearest[:, 1:].masked_fill(used[:, 1:], torch.inf).min(1, keepdim=True)
        step = torch.where(done, 0.0, least) * used
        row_price.scatter_add_(1, row_of, step)
        column_price -= step
        nearest = torch.where(used | done, nearest, nearest - least)
        column = torch.where(done, column, found + 1)
        done = done | (row_of.gather(1, column) == 0)
    return column, way


def overlap(labels: Tensor, reference: Tensor, *, n_labels: int) -> Tensor:
    """Count items by their two labels; -1 in either is not counted.

    Parameters
    ----------
    labels, reference : Tensor
        (..., item) int64 in -1..K-1, broadcast against each other.
    n_labels : int
        K.

    Returns
    -------
    Tensor
        (..., K, K) counts: ``labels`` in rows, ``reference`` in columns.

    Examples
    --------
    >>> overlap(torch.tensor([0, 0, 1]), torch.tensor([1, 1, 0]), n_labels=2).tolist()
    [[0.0, 2.0], [1.0, 0.0]]
    """
    labels, reference = torch.broadcast_tensors(labels, reference)
    seen = (labels >= 0) & (reference >= 0)
    index = torch.where(seen, labels * n_labels + reference, 0)
    counts = torch.zeros(
        (*labels.shape[:-1], n_labels**2), dtype=highest_precision(labels.device), device=labels.device
    )
    counts = counts.scatter_add_(-1, index, seen.to(counts))
    return counts.reshape((*counts.shape[:-1], n_labels, n_labels))


def align_labels(labels: Tensor, reference: Tensor | None = None, *, n_labels: int, n_rounds: int = 10) -> Alignment:
    """Rename the labels of every draw so that they overlap most with a reference partition.

    With a ``reference`` (truth, pivot draw, point estimate) each draw is matched to it once. Without one, the last draw
    is the first pivot; then the reference becomes the most frequent label of every item and all are matched again.

    Parameters
    ----------
    labels : Tensor
        (..., draw, item) int64 in -1..K-1; -1 marks items without label.
    reference : Tensor, optional
        (..., item) int64.
    n_labels : int
        K, the number of labels that may occur in draws and reference.
    n_rounds : int
        Rounds without a ``reference``, at least 1.

    Returns
    -------
    Alignment

    References
    ----------
    Papastamoulis & Iliopoulos (2010), equivalence classes representatives (ECR), J. Comput. Graph. Stat. 19(2);
    Papastamoulis (2016), label.switching, J. Stat. Softw. 69, algorithm ECR-iterative-1.

    Examples
    --------
    >>> draws = torch.tensor([[0, 0, 1], [1, 1, 0], [1, 0, 0]])
    >>> align_labels(draws, torch.tensor([0, 0, 1]), n_labels=2).labels.tolist()
    [[0, 0, 1], [0, 0, 1], [0, 1, 1]]
    """
    _check_labels("align_labels", labels, 2)
    pivot = labels[..., -1, :] if reference is None else reference
    for _ in range(max(n_rounds, 1) if reference is None else 0):
        pivot = _most_frequent(_match(labels, pivot, n_labels)[0], n_labels)
    renamed, permutation = _match(labels, pivot, n_labels)
    return Alignment(renamed, permutation, pivot)


def _match(labels: Tensor, reference: Tensor, n_labels: int) -> tuple[Tensor, Tensor]:
    permutation = assign(-overlap(labels, reference.unsqueeze(-2), n_labels=n_labels))
    renamed = permutation.gather(-1, labels.clamp(min=0))
    return torch.where(labels >= 0, renamed, -1), permutation


def _most_frequent(labels: Tensor, n_labels: int) -> Tensor:
    """Most frequent label of each item over draws: (..., draw, item) -> (..., item)."""
    votes = torch.stack([(labels == k).sum(-2) for k in range(n_labels)], dim=-1)
    found: Tensor = torch.where(votes.sum(-1) > 0, votes.argmax(-1), -1)
    return found


def match_states(values: Tensor, reference: Tensor) -> Tensor:
    """Match states (or clusters, components) by their parameters: least total squared distance.

    Parameters
    ----------
    values : Tensor
        (..., K, P) parameters of each state.
    reference : Tensor
        (..., K, P) parameters of the reference states, broadcast over the batch.

    Returns
    -------
    Tensor
        (..., K) int64: name in the reference of each state of ``values``; pass it to `rename`.

    Examples
    --------
    >>> match_states(torch.tensor([[5.0], [1.0]]), torch.tensor([[1.2], [4.0]])).tolist()
    [1, 0]
    """
    return assign(((values.unsqueeze(-2) - reference.unsqueeze(-3)) ** 2).sum(-1))


def rename(values: Tensor, permutation: Tensor, *, dim: int) -> Tensor:
    """Reorder an axis of parameters the way labels were renamed.

    Parameters
    ----------
    values : Tensor
        (*batch, ...) with the K states along ``dim``.
    permutation : Tensor
        (*batch, K) int64, new name of each old label.
    dim : int
        Axis of the states, counted in ``values``.

    Returns
    -------
    Tensor
        Like ``values``; entry ``permutation[k]`` of the result is entry k of ``values``.

    Examples
    --------
    >>> rename(torch.tensor([10.0, 20.0, 30.0]), torch.tensor([2, 0, 1]), dim=0).tolist()
    [20.0, 30.0, 10.0]
    """
    dim = dim % values.ndim
    order = permutation.argsort(-1)
    batch = permutation.ndim - 1
    shape = [*order.shape[:-1], *[1] * (values.ndim - batch)]
    shape[dim] = order.shape[-1]
    return values.gather(dim, order.reshape(shape).expand_as(values))


def co_clustering(labels: Tensor, *, n_labels: int) -> Tensor:
    """Posterior similarity: the share of draws in which two items carry the same label.

    Parameters
    ----------
    labels : Tensor
        (..., draw, item) int64 in 0..K-1.
    n_labels : int
        K.

    Returns
    -------
    Tensor
        (..., item, item) float32 in [0, 1], ones on the diagonal. Memory grows with item^2: subsample long time axes.

    Examples
    --------
    >>> co_clustering(torch.tensor([[0, 0, 1], [1, 0, 0]]), n_labels=2)[0].tolist()
    [1.0, 0.5, 0.0]
    """
    _check_labels("co_clustering", labels, 2)
    *batch, n_draws, n_items = labels.shape
    names = torch.arange(n_labels, device=labels.device)
    together = torch.zeros((*batch, n_items, n_items), dtype=torch.float32, device=labels.device)
    for part in labels.split(max(1, _CHUNK // (math.prod(batch) * n_items * n_labels)), dim=-2):
        hot = (part.unsqueeze(-1) == names).float().movedim(-3, -2).flatten(-2)  # (..., item, draw * K)
        together += hot @ hot.mT
    return together / n_draws


def variation_of_information(first: Tensor, second: Tensor, *, n_labels: int) -> Tensor:
    """Distance of two partitions in nats: what each tells that the other does not.

    Parameters
    ----------
    first, second : Tensor
        (..., item) int64 in 0..K-1, broadcast against each other.
    n_labels : int
        K.

    Returns
    -------
    Tensor
        (...) between 0 (same partition) and log(item).

    References
    ----------
    Meilă (2007), Comparing clusterings, J. Multivariate Anal. 98(5), eq. 15.

    Examples
    --------
    >>> round(variation_of_information(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]), n_labels=2).item(), 4)
    1.3863
    """
    joint = overlap(first, second, n_labels=n_labels) / first.shape[-1]
    margins = _entropy(joint.sum(-1)) + _entropy(joint.sum(-2))
    return (2 * _entropy(joint.flatten(-2)) - margins).clamp(min=0.0)


def _entropy(probability: Tensor) -> Tensor:
    return -torch.xlogy(probability, probability).sum(-1)


def partition_loss(labels: Tensor, similarity: Tensor, *, n_labels: int, loss: Loss = "pear") -> Tensor:
    """Posterior expected loss of partitions, from the co-clustering matrix alone.

    Parameters
    ----------
    labels : Tensor
        (candidate, item) int64 in 0..K-1.
    similarity : Tensor
        (item, item) co-clustering probabilities.
    n_labels : int
        K.
    loss : {"pear", "binder", "vi"}
        Minus the posterior expected adjusted Rand index; Binder's loss with equal costs, per pair of items; the
        expected variation of information in nats with the logarithm taken outside of the expectation, which is a lower
        bound up to a constant that no partition changes.

    Returns
    -------
    Tensor
        (candidate,).

    References
    ----------
    Fritsch & Ickstadt (2009), Bayesian Analysis 4(2), eq. 14 (PEAR); Binder (1978), Biometrika 65;
    Wade & Ghahramani (2018), Bayesian Analysis 13(2), eq. 8 (variation of information).

    Examples
    --------
    >>> truth = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 0]])
    >>> sure = (truth[0][:, None] == truth[0]).float()
    >>> partition_loss(truth, sure, n_labels=2, loss="binder").tolist()
    [0.0, 0.6666666666666666]
    """
    if loss not in ("pear", "binder", "vi"):
        raise InputError(explain("loss", expected="'pear', 'binder' or 'vi'", got=repr(loss)))
    similarity = similarity.to(highest_precision(similarity.device))
    names = torch.arange(n_labels, device=labels.device)
    parts = labels.split(max(1, _CHUNK // (labels.shape[-1] * n_labels)))
    hot = ((part.unsqueeze(-1) == names).to(similarity) for part in parts)
    return torch.cat([_loss(h, similarity, loss) for h in hot])


def _loss(hot: Tensor, similarity: Tensor, loss: Loss) -> Tensor:
    """Expected loss of one-hot partitions (candidate, item, K)."""
    n_items = len(similarity)
    size = (hot * hot.sum(1, keepdim=True)).sum(-1)  # (candidate, item): items in the own cluster
    agree = (hot * (similarity @ hot)).sum(-1)  # (candidate, item): expected companions of the own cluster
    if loss == "vi":
        return (size.log() + similarity.sum(1).log() - 2 * agree.log()).mean(-1)
    pairs = max(n_items * (n_items - 1) / 2, 1.0)
    own, expected, both = ((v.sum(-1) - n_items) / 2 for v in (size, similarity.sum(1), agree))
    if loss == "binder":
        return (own + expected - 2 * both) / pairs
    chance, ceiling = own * expected / pairs, (own + expected) / 2
    trivial = (ceiling - chance).abs() < 1e-12 * pairs
    return -torch.where(trivial, (both == own).to(own), (both - chance) / torch.where(trivial, 1.0, ceiling - chance))


def point_estimate(
    labels: Tensor, *, n_labels: int, loss: Loss = "pear", n_clusters_max: int | None = None
) -> PointEstimate:
    """Find the partition of least posterior expected loss among visited ones and cuts of average linkage.

    Parameters
    ----------
    labels : Tensor
        (draw, item) int64 in 0..K-1; join the chains first.
    n_labels : int
        K.
    loss : {"pear", "binder", "vi"}
        See `partition_loss`.
    n_clusters_max : int, optional
        Largest number of clusters of the cuts; the default is a quarter of the items, rounded up.

    Returns
    -------
    PointEstimate

    References
    ----------
    Fritsch & Ickstadt (2009), Bayesian Analysis 4(2), section 4.

    Examples
    --------
    >>> draws = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 1]])
    >>> point_estimate(draws, n_labels=2).labels.tolist()
    [0, 0, 1, 1]
    """
    _check_labels("point_estimate", labels, 2)
    if labels.ndim != 2:
        raise InputError(explain("point_estimate: labels", expected="(draw, item)", got=str(tuple(labels.shape))))
    similarity = co_clustering(labels, n_labels=n_labels)
    most = n_clusters_max or -(-labels.shape[1] // 4)
    visited = canonical_labels(labels, n_labels=n_labels).unique(dim=0)
    candidates = torch.cat((visited, _linkage_cuts(similarity, most).to(labels)))
    scores = partition_loss(candidates, similarity, n_labels=max(n_labels, most), loss=loss)
    best = scores.argmin()
    winner = canonical_labels(candidates[best], n_labels=max(n_labels, most))
    return PointEstimate(winner, scores[best], similarity)


def canonical_labels(labels: Tensor, *, n_labels: int) -> Tensor:
    """Rename labels 0, 1, ... in order of first appearance, so that equal partitions are equal tensors.

    Parameters
    ----------
    labels : Tensor
        (..., item) int64 in 0..K-1.
    n_labels : int
        K.

    Returns
    -------
    Tensor
        Like ``labels``.

    Examples
    --------
    >>> canonical_labels(torch.tensor([5, 2, 5, 0]), n_labels=6).tolist()
    [0, 1, 0, 2]
    """
    n_items = labels.shape[-1]
    place = torch.arange(n_items, device=labels.device).expand_as(labels)
    first = torch.full((*labels.shape[:-1], n_labels), n_items, dtype=torch.long, device=labels.device)
    first = first.scatter_reduce(-1, labels, place, "amin")
    return first.argsort(dim=-1, stable=True).argsort(-1).gather(-1, labels)


def _linkage_cuts(similarity: Tensor, n_clusters_max: int) -> Tensor:
    """Partitions (cut, item) in 1..n_clusters_max clusters by average linkage on 1 - similarity, on the CPU."""
    from scipy.cluster.hierarchy import cut_tree, linkage
    from scipy.spatial.distance import squareform

    n_items = len(similarity)
    if n_items < 2:
        return torch.zeros(1, n_items, dtype=torch.long)
    distance = (1 - similarity.to("cpu", torch.float64)).clamp(min=0.0).fill_diagonal_(0.0)
    tree = linkage(squareform(distance.numpy(), checks=False), method="average")
    cuts = cut_tree(tree, n_clusters=range(1, min(n_clusters_max, n_items) + 1))
    return torch.from_numpy(cuts.T.astype("int64"))


def _check_labels(where: str, labels: Tensor, ndim: int) -> None:
    if labels.ndim < ndim or labels.is_floating_point() or labels.dtype == torch.bool or not labels.numel():
        got = f"{labels.dtype} {tuple(labels.shape)}"
        raise InputError(explain(f"{where}: labels", expected="integers of shape (..., draw, item)", got=got))
