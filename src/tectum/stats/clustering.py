"""Comparing, aligning and averaging partitions, and k-means for many starts at once."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.device import highest_precision
from ..core.errors import InputError, explain


def contingency(first: Tensor, second: Tensor) -> Tensor:
    """Count how often each label of one partition meets each label of another.

    Parameters
    ----------
    first, second : Tensor, shape (n_units,), integer
        Labels; any integers.

    Returns
    -------
    Tensor, shape (n_first_labels, n_second_labels), int64
        Counts, labels in ascending order.

    Raises
    ------
    InputError
        If the labels are not two integer vectors of one length >= 1.

    Examples
    --------
    >>> contingency(torch.tensor([0, 0, 1]), torch.tensor([5, 5, 7])).tolist()
    [[2, 0], [0, 1]]
    """
    _check_pair("contingency", first, second)
    _, rows = torch.unique(first, return_inverse=True)
    _, columns = torch.unique(second.to(first.device), return_inverse=True)
    n_rows, n_columns = int(rows.max()) + 1, int(columns.max()) + 1
    return torch.bincount(rows * n_columns + columns, minlength=n_rows * n_columns).reshape(n_rows, n_columns)


def _check_pair(where: str, first: Tensor, second: Tensor) -> None:
    """Refuse anything but two integer label vectors of one length."""
    if first.ndim != 1 or first.shape != second.shape or first.numel() == 0:
        raise InputError(
            explain(
                where,
                expected="two label vectors of one length >= 1",
                got=f"shapes {tuple(first.shape)} and {tuple(second.shape)}",
            )
        )
    if any(labels.is_floating_point() or labels.is_complex() for labels in (first, second)):
        raise InputError(explain(where, expected="integer labels", got=f"{first.dtype} and {second.dtype}"))


def _entropy(counts: Tensor) -> Tensor:
    """Shannon entropy (nats) of a vector of counts."""
    share = counts / counts.sum()
    plogp: Tensor = torch.special.xlogy(share, share)
    return -plogp.sum()


def _mutual_information(table: Tensor) -> Tensor:
    """Mutual information (nats) of a contingency table."""
    joint = table / table.sum()
    expected = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    gain: Tensor = torch.special.xlogy(joint, joint) - torch.special.xlogy(joint, expected)
    return gain.sum().clamp_min(0.0)


def _expected_mutual_information(rows: Tensor, columns: Tensor) -> Tensor:
    """Mean mutual information of random partitions with the given block sizes (hypergeometric model)."""
    total = rows.sum()
    a, times_a = torch.unique(rows, return_counts=True)  # equal sizes give equal terms
    b, times_b = torch.unique(columns, return_counts=True)
    a, b = a[:, None, None], b[None, :, None]  # (n_a, 1, 1), (1, n_b, 1)
    overlap = torch.arange(1, int(min(a.max(), b.max())) + 1, device=rows.device, dtype=rows.dtype)  # (n_overlap,)
    possible = (overlap <= torch.minimum(a, b)) & (overlap >= a + b - total)
    safe = [part.clamp_min(0.0) + 1.0 for part in (overlap, a - overlap, b - overlap, total - a - b + overlap)]
    log_p = sum((torch.lgamma(part + 1.0) for part in (a, b, total - a, total - b)), -torch.lgamma(total + 1.0))
    log_p = log_p - torch.stack(torch.broadcast_tensors(*(torch.lgamma(part) for part in safe))).sum(0)
    term = overlap / total * (torch.log(total * overlap) - torch.log(a * b)) * torch.exp(log_p)
    weight: Tensor = times_a[:, None] * times_b[None, :]
    kept: Tensor = torch.where(possible, term, torch.zeros_like(term))
    return (kept.sum(-1) * weight).sum()


def adjusted_mutual_information(first: Tensor, second: Tensor) -> Tensor:
    """Agreement of two partitions corrected for chance: 0 by chance, 1 when equal.

    Mutual information minus its mean over random partitions of the same block sizes, divided by the mean of the
    two entropies minus the same chance value. Unlike plain normalised mutual information it does not reward many
    small blocks.

    Parameters
    ----------
    first, second : Tensor, shape (n_units,), integer
        Labels; their values do not matter.

    Returns
    -------
    Tensor, scalar
        At most 1; negative below chance.

    Raises
    ------
    InputError
        If the labels are not two integer vectors of one length >= 1.

    References
    ----------
    Vinh, Epps and Bailey, JMLR 11, 2010, eq. 24a (expected value) and 27 (normalised by the mean entropy).

    Examples
    --------
    >>> float(adjusted_mutual_information(torch.tensor([0, 0, 1, 1]), torch.tensor([3, 3, 2, 2])))
    1.0
    """
    table = contingency(first, second).to(highest_precision(first.device))
    rows, columns = table.sum(1), table.sum(0)
    if rows.numel() == columns.numel() == int((table > 0).sum()):  # one partition under two sets of names
        return torch.ones((), dtype=table.dtype, device=table.device)
    chance = _expected_mutual_information(rows, columns)
    room = (_entropy(rows) + _entropy(columns)) / 2 - chance
    return (_mutual_information(table) - chance) / room.clamp_min(torch.finfo(table.dtype).eps)


def adjusted_rand(first: Tensor, second: Tensor) -> Tensor:
    """Share of unit pairs on which two partitions agree, corrected for chance (0 by chance, 1 when equal).

    Parameters
    ----------
    first, second : Tensor, shape (n_units,), integer
        Labels; their values do not matter.

    Returns
    -------
    Tensor, scalar
        Between -0.5 and 1.

    Raises
    ------
    InputError
        If the labels are not two integer vectors of one length >= 1.

    References
    ----------
    Hubert and Arabie, Journal of Classification 2, 1985, eq. 5.

    Examples
    --------
    >>> float(adjusted_rand(torch.tensor([0, 0, 1, 1]), torch.tensor([1, 1, 0, 0])))
    1.0
    """
    table = contingency(first, second).to(highest_precision(first.device))
    total = table.sum()
    both = (table * (table - 1)).sum()
    in_first, in_second = (((size := table.sum(axis)) * (size - 1)).sum() for axis in (1, 0))
    chance = in_first * in_second / (total * (total - 1)).clamp_min(1.0)
    room = (in_first + in_second) / 2 - chance
    return torch.where(room == 0, torch.ones_like(room), (both - chance) / torch.where(room == 0, 1.0, room))


def align_labels(labels: Tensor, reference: Tensor) -> Tensor:
    """Rename the labels of partitions so that they overlap a reference partition as much as possible.

    Parameters
    ----------
    labels : Tensor, shape (..., n_units), integer >= 0
        Partitions to rename.
    reference : Tensor, shape (n_units,), integer >= 0
        Partition whose names are kept.

    Returns
    -------
    Tensor, shape (..., n_units), int64
        Renamed labels, on the device of ``labels``. Labels without a partner get names above the reference's.

    Raises
    ------
    InputError
        If the last axis differs from the reference's length or a label is negative.

    References
    ----------
    Kuhn, Naval Research Logistics Quarterly 2, 1955 (assignment problem).

    Examples
    --------
    >>> align_labels(torch.tensor([1, 1, 0]), torch.tensor([0, 0, 1])).tolist()
    [0, 0, 1]
    """
    if labels.shape[-1:] != reference.shape:
        got = f"{tuple(labels.shape)} and {tuple(reference.shape)}"
        raise InputError(explain("align_labels", expected="labels (..., n_units) and reference (n_units,)", got=got))
    if min(int(labels.min()), int(reference.min())) < 0:
        raise InputError(explain("align_labels", expected="labels >= 0", got="a negative label"))
    flat, target = labels.reshape(-1, labels.shape[-1]).cpu().long(), reference.cpu().long()
    size = 1 + max(int(flat.max()), int(target.max()))
    overlap = torch.nn.functional.one_hot(flat, size).mT @ torch.nn.functional.one_hot(target, size)  # (K, L, L)
    names = torch.stack([_assignment(table) for table in overlap])  # (K, L)
    return names.gather(1, flat).reshape(labels.shape).to(labels.device)


def _assignment(overlap: Tensor) -> Tensor:
    """Name of each row label in the one-to-one naming of largest total overlap (host)."""
    from scipy.optimize import linear_sum_assignment

    return torch.as_tensor(linear_sum_assignment(overlap.numpy(), maximize=True)[1], dtype=torch.int64)


def coassignment(labels: Tensor) -> Tensor:
    """Share of partitions in which each pair of units lies in one block.

    Parameters
    ----------
    labels : Tensor, shape (n_partitions, n_units), integer >= 0
        Partitions, for example draws of a sampler; label names need not agree between them.

    Returns
    -------
    Tensor, shape (n_units, n_units), float64 (float32 where the device has no float64)
        Symmetric, diagonal 1.

    Examples
    --------
    >>> coassignment(torch.tensor([[0, 0, 1], [0, 1, 1]]))[0].tolist()
    [1.0, 0.5, 0.0]
    """
    member = torch.nn.functional.one_hot(labels.long()).to(highest_precision(labels.device))  # (K, N, B)
    flat = member.transpose(0, 1).flatten(1)  # (N, K * B)
    return flat @ flat.T / labels.shape[0]


def _seed_centres(points: Tensor, n_clusters: int, uniforms: Tensor) -> Tensor:
    """Spread the first centres: each is drawn with probability proportional to its squared distance to the others."""
    n_starts, n_points, _ = points.shape
    start = torch.arange(n_starts, device=points.device)
    chosen = (uniforms[:, 0] * n_points).long().clamp_max(n_points - 1)
    centres, nearest = [points[start, chosen]], torch.full_like(points[..., 0], torch.inf)
    for k in range(1, n_clusters):
        nearest = torch.minimum(nearest, (points - centres[-1][:, None]).square().sum(-1))  # (S, N)
        mass = nearest.cumsum(1)
        chosen = torch.searchsorted(mass, uniforms[:, k : k + 1] * mass[:, -1:]).squeeze(1).clamp_max(n_points - 1)
        centres.append(points[start, chosen])
    return torch.stack(centres, 1)  # (S, K, D)


def kmeans(points: Tensor, n_clusters: Tensor, *, uniforms: Tensor, n_iterations: int = 30) -> Tensor:
    """Cluster many point sets at once by Lloyd's algorithm from k-means++ centres.

    Parameters
    ----------
    points : Tensor, shape (n_starts, n_points, n_features), floating
        One point set a start.
    n_clusters : Tensor, shape (n_starts,), integer >= 1
        Number of clusters of each start.
    uniforms : Tensor, shape (n_starts, >= max(n_clusters)), floating
        Uniform draws in [0, 1) that choose the first centres.
    n_iterations : int, default 30
        Lloyd iterations.

    Returns
    -------
    Tensor, shape (n_starts, n_points), int64
        Labels in ``0 .. n_clusters - 1``; a cluster can be empty.

    References
    ----------
    Arthur and Vassilvitskii, SODA 2007 (k-means++).

    Examples
    --------
    >>> points = torch.tensor([[[0.0], [0.1], [5.0], [5.1]]])
    >>> labels = kmeans(points, torch.tensor([2]), uniforms=torch.tensor([[0.0, 0.5]]))
    >>> labels.tolist()
    [[0, 0, 1, 1]]
    """
    most = int(n_clusters.max())
    centres = _seed_centres(points, most, uniforms)
    absent = torch.arange(most, device=points.device) >= n_clusters[:, None]  # (S, K)
    labels = _nearest_centre(points, centres, absent)
    for _ in range(n_iterations):
        member = torch.nn.functional.one_hot(labels, most).to(points.dtype)  # (S, N, K)
        count = member.sum(1)[..., None]  # (S, K, 1)
        centres = torch.where(count > 0, (member.mT @ points) / count.clamp_min(1.0), centres)
        labels = _nearest_centre(points, centres, absent)
    return labels


def _nearest_centre(points: Tensor, centres: Tensor, absent: Tensor) -> Tensor:
    """Index of the closest existing centre of every point."""
    distance = centres.square().sum(-1)[:, None] - 2 * points @ centres.mT  # (S, N, K), up to a constant of the point
    labels: Tensor = distance.masked_fill(absent[:, None], torch.inf).argmin(-1)
    return labels
