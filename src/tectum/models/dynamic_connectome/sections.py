"""The report on a dynamic connectome: what was found, how sure it is, how it was computed, what to cite."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from ...core.result import Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .result import DynamicConnectomeResult

REFERENCES = (
    "Dyballa L, Lang S, Haslund-Gourley A, Yemini E, Zucker SW (2024). Learning dynamic representations of the "
    "functional connectome in neurobiological networks. ICLR 2024. arXiv:2402.14102.",
    "Cichocki A, Phan AH (2009). Fast local algorithms for large scale nonnegative matrix and tensor factorizations. "
    "IEICE Transactions on Fundamentals E92-A, 708-721.",
    "Williams AH, Kim TH, Wang F, et al. (2018). Unsupervised discovery of demixed, low-dimensional neural dynamics "
    "across multiple timescales through tensor component analysis. Neuron 98, 1099-1115.",
    "Aicher C, Jacobs AZ, Clauset A (2015). Learning latent block structure in weighted networks. Journal of Complex "
    "Networks 3, 221-248.",
)

_AFFINITY = {
    "corrected": "the smoothed co-fluctuation of their signed, scaled derivatives beyond what is found at time lags",
    "differential": "the overlap of their scaled derivatives over intervals in which both keep their sign",
    "differential_instant": "the smaller of their scaled derivatives while both change",
    "sliding_abs_corr": "the absolute correlation of their traces in a sliding window",
}

_ALIGNMENT = {
    "absolute": " Recordings share their clock.",
    "stimulus": " Affinities were cut around each stimulus and joined in one order of stimuli for all recordings.",
    "event": " Affinities were averaged around repeated events.",
}
_SOLVER = {
    "fibre": "hierarchical alternating least squares with exact weights for missing pairs",
    "em": "hierarchical alternating least squares, missing entries being filled in by the model at every step",
    "cp_opt": "bounded quasi-Newton descent on all factors",
}


def sections(result: DynamicConnectomeResult) -> list[Section]:
    """Return the parts of the report, most important first."""
    parts = [_motifs(result), _stability(result)]
    parts += [_one(result, r) for r in range(result.n_components)]
    return [*parts, _methods(result)]


def _draw(result: DynamicConnectomeResult, kind: str, **options: Any) -> Callable[[], Axes]:
    return lambda: result.plot(kind, **options)


def _motifs(result: DynamicConnectomeResult) -> Section:
    """All motifs at a glance."""
    head = ["motif", "weight", "blocks", "block contrast", "contrast p"]
    rows: list[tuple[Any, ...]] = []
    null = result.surrogate_p is not None
    for r in range(result.n_components):
        row = [
            r,
            float(result.weight[r]),
            result.n_blocks(r) or "none",
            _number(result.contrast[r]),
            _number(result.contrast_p[r]),
        ]
        if null:
            row += [_number(result.surrogate_p[r]), _number(result.surrogate_p_holm[r])]  # type: ignore[index]
        rows.append(tuple(row))
    head += ["surrogate p", "surrogate p (Holm)"] if null else []
    wholly = [str(r) for r in range(result.n_components) if bool(result.is_global[r])]
    explained, n_units = 1 - result.error**2, result.sizes["unit"]
    text = f"{result.n_components} motifs explain {explained:.0%} of the affinity of {n_units} units"
    text += f" in {result.sizes['subject']} recordings." if result.sizes["subject"] > 1 else "."
    text += (
        f" Nearly uniform over pairs, hence more likely motion, bleaching or arousal: motif {', '.join(wholly)}."
        if wholly
        else ""
    )
    return Section(title="Motifs in time", text=text, table=(tuple(head), *rows), figures=(
        ("Time course of each motif, scaled to its own maximum; bands mark stimuli.", _draw(result, "overview")),
    ), references=REFERENCES)  # fmt: skip


def _one(result: DynamicConnectomeResult, r: int) -> Section:
    """One motif: when, who, which groups."""
    groups = result.groups(r)
    table = (("block", "units"), *((k, ", ".join(g)) for k, g in enumerate(groups)))
    figures = [("Time course, and affinity of all pairs sorted by block.", _draw(result, "motif", component=r))]
    if groups:
        strongest = result.strongest_block(r)
        caption = f"Traces behind block {strongest} (largest affinity inside), coloured while the motif is active."
        figures.append((caption, _draw(result, "traces", component=r)))
        figures.append(
            (
                "Probability that two units share a block (Markov chain over partitions).",
                _draw(result, "coassignment", component=r),
            )
        )
    why = "" if groups else "Not partitioned: too few pairs above the floor, too many units, or not asked for. "
    text = why + _associations(result, r)
    return Section(title=f"Motif {r}", text=text, table=table if groups else (), figures=tuple(figures))


def _associations(result: DynamicConnectomeResult, r: int) -> str:
    """Which stimuli the motif follows."""
    names: list[str] = list(result.coords.get("stimulus", {}).get("name", []))
    found = [
        f"{name}: AUROC {float(result.association[r, k]):.2f}, p = {float(result.association_p[r, k]):.3f}"
        for k, name in enumerate(names)
    ]
    return ("Association with stimuli (circular shifts). " + "; ".join(found) + ".") if found else ""


def _stability(result: DynamicConnectomeResult) -> Section:
    """How far restarts agree, what the rank rests on, and the null."""
    similar = result.start_similarity[result.start_error <= 1.01 * result.start_error.min()]
    text = f"Of {len(result.start_error)} random starts, {len(similar)} reach an error within 1 % of the smallest;"
    text += f" their factors match the best with a mean similarity of {float(similar.mean()):.2f} (1 is identity)."
    if result.subject_similarity is not None:
        least = float(result.subject_similarity.min())
        text += f" After leaving out any one animal the factors match with a similarity of {least:.2f} or more."
    figures = [("Error of each start and its similarity with the best.", _draw(result, "starts"))]
    if result.rank_grid is not None:
        figures.append(("Choice of the number of motifs (dashed).", _draw(result, "rank")))
    if result.surrogate_norm is not None:
        figures.append(
            (
                "Norm of each motif, and of motifs of equal rank found after rolling every unit in time by itself.",
                _draw(result, "surrogates"),
            )
        )
    return Section(title="Stability and null", text=text, figures=tuple(figures))


def _methods(result: DynamicConnectomeResult) -> Section:
    """A paragraph for a paper."""
    config = result.provenance.config if result.provenance is not None else {}
    families = ", ".join(dict.fromkeys(f for f in result.weight_models if f))
    kind = _AFFINITY.get(result.affinity)
    text = f"The affinity of two units is {kind}." if kind else "The affinities of pairs were given."
    text += _ALIGNMENT[result.align] if result.sizes["subject"] > 1 or result.align != "absolute" else ""
    text += (
        f" Affinities were averaged in bins of {result.dt:g} s and the tensor of time, recording and pair was "
        f"factorised into {result.n_components} non-negative components by {_SOLVER[result.solver]} (best of "
        f"{len(result.start_error)} random starts)."
    )
    if families:
        text += (
            f" The pair factor of each component, thresholded at {config.get('floor', 0.1):g} of its maximum, was "
            f"partitioned by a weighted stochastic block model of minimum description length (edge weights: "
            f"{families}), and the uncertainty of the partition sampled by Metropolis moves."
        )
    text += (
        "\n\nGroups describe shared change, not causes. Pairs share units, so p values come from permutations of "
        "labels and from traces rolled in time."
    )
    return Section(title="Methods", text=text, references=REFERENCES)


def _number(value: torch.Tensor) -> str:
    return "" if bool(torch.isnan(value)) else f"{float(value):.3g}"
