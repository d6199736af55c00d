"""Checks of graphs and labels, and the starting partitions of a block-model fit (float64 on the host)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ..core.errors import InputError, explain, nearest
from ..core.random import generator, spawn
from ._sbm import Chains, Model, build_chains, build_model, compact
from .clustering import kmeans

FAMILIES = ("exp", "normal", "lognormal")


@contextmanager
def one_thread() -> Iterator[None]:
    """Run small host operations on one thread and give the caller's number back: more threads only wait here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_graph(where: str, weights: Tensor) -> None:
    """Refuse what is not a symmetric, finite, real square matrix of at least three units."""
    expected, got = "a floating (n_units, n_units) tensor, n_units >= 3", f"{weights.dtype} {tuple(weights.shape)}"
    if (
        weights.ndim != 2
        or weights.shape[0] != weights.shape[1]
        or weights.shape[0] < 3
        or not weights.is_floating_point()
    ):
        raise InputError(explain(where, expected=expected, got=got))
    if not bool(torch.isfinite(weights).all()):
        raise InputError(explain(where, expected="finite weights", got="NaN or infinity", fix="set missing pairs to 0"))
    if not torch.allclose(weights, weights.T, rtol=1e-5, atol=1e-8):
        gap = float((weights - weights.T).abs().max())
        raise InputError(explain(where, expected="a symmetric matrix", got=f"difference {gap:.3g} from its transpose",
                                 fix="average it with its transpose"))  # fmt: skip


def host_graph(where: str, weights: Tensor) -> Tensor:
    """Check a graph and give it as float64 on the host, exactly symmetric, with an empty diagonal."""
    check_graph(where, weights)
    graph = weights.detach().cpu().double()
    graph = (graph + graph.T) / 2
    return graph.fill_diagonal_(0.0)


def host_labels(where: str, labels: Tensor, n_units: int) -> Tensor:
    """Check labels (..., N) and give them as a compact (S, N) int64 batch on the host."""
    expected, got = f"integer labels (..., {n_units}) >= 0", f"{labels.dtype} {tuple(labels.shape)}"
    if labels.is_floating_point() or labels.shape[-1:] != (n_units,) or int(labels.min()) < 0:
        raise InputError(explain(where, expected=expected, got=got))
    rows = labels.detach().cpu().long().reshape(-1, n_units)
    return compact(torch.stack([torch.unique(row, return_inverse=True)[1] for row in rows]))


def families_to_try(where: str, weight_model: str, graph: Tensor) -> tuple[str, ...]:
    """Name the weight families to try; exp and lognormal need positive weights."""
    if weight_model not in ("auto", *FAMILIES):
        raise InputError(explain(where, expected="weight_model 'auto', 'exp', 'normal' or 'lognormal'",
                                 got=repr(weight_model), fix=nearest(weight_model, ("auto", *FAMILIES))))  # fmt: skip
    negative = bool((graph < 0).any())
    if negative and weight_model in ("exp", "lognormal"):
        raise InputError(explain(where, expected=f"positive weights for weight_model={weight_model!r}",
                                 got=f"minimum {float(graph.min()):.3g}", fix="use weight_model='normal'"))  # fmt: skip
    if weight_model == "auto":
        return ("normal",) if negative else FAMILIES
    return (weight_model,)


def one_family(where: str, weight_model: str, graph: Tensor) -> Model:
    """Tabulate the model of one named family."""
    if weight_model == "auto":
        raise InputError(explain(where, expected="one weight model", got="'auto'", fix="use the fit's weight_model"))
    return build_model(graph, families_to_try(where, weight_model, graph))


def chains_of(model: Model, labels: Tensor) -> Chains:
    """Chains (S, N) of a one-family model."""
    family = torch.zeros(len(labels), dtype=torch.int64, device=labels.device)
    return build_chains(model, family, labels, int(labels.max()) + 1)


def embeddings(graph: Tensor, n_features: int) -> Tensor:
    """Leading eigenvectors (2, N, D) of the degree-normalised graph with its weights, and with the weights' ranks."""
    present = graph != 0
    values = graph[present]
    ranks = torch.zeros_like(graph)
    rank = torch.searchsorted(values.sort().values, values, right=True).to(graph.dtype)
    ranks[present] = rank / max(len(values), 1)
    square = torch.stack([graph, ranks + present.to(graph.dtype)])
    root = square.abs().sum(2).clamp_min(1e-12).rsqrt()
    spectrum, vectors = torch.linalg.eigh(square * root[:, :, None] * root[:, None, :])
    order = spectrum.abs().argsort(1, descending=True)[:, :n_features]
    scaled: Tensor = vectors.gather(2, order[:, None].expand(-1, len(graph), -1)) * spectrum.gather(1, order)[:, None]
    return scaled


def starting_labels(graph: Tensor, max_blocks: int, seed: int) -> Tensor:
    """Starting labels (n_starts, N): for each number of blocks one random and two spectral partitions."""
    n_units = len(graph)
    counts = torch.arange(2, max_blocks + 1).repeat_interleave(3)  # random, weights, ranks for each number of blocks
    streams = [generator(spawn(seed, "start", start)) for start in range(len(counts))]
    draws = torch.stack([torch.rand(n_units, generator=stream, dtype=graph.dtype) for stream in streams])
    labels = (draws * counts[:, None]).long()
    used = torch.arange(max_blocks) < counts[:, None]  # (n_starts, D)
    for kind, embedding in enumerate(embeddings(graph, max_blocks), start=1):
        rows = slice(kind, None, 3)
        points = embedding * used[rows, None].to(graph.dtype)  # (S, N, D): as many eigenvectors as blocks
        labels[rows] = kmeans(points, counts[rows], uniforms=draws[rows])
    return labels


def most_blocks(graph: Tensor, max_blocks: int | None, max_sweeps: int) -> int:
    """Check the counts of a fit and give the largest number of starting blocks."""
    n_units = len(graph)
    most = min(20, int(math.sqrt(n_units) + 4)) if max_blocks is None else max_blocks
    if not most >= 2 or not max_sweeps >= 1:
        got = f"max_blocks={max_blocks}, max_sweeps={max_sweeps}"
        raise InputError(explain("fit_block_model", expected="max_blocks >= 2 and max_sweeps >= 1", got=got))
    if not bool((graph != 0).any()):
        raise InputError(
            explain("fit_block_model", expected="a graph with edges", got="no edge", fix="lower the floor")
        )
    return min(most, n_units)
