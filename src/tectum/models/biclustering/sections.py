"""The report on a bi-clustering: what was found, how sure it is, how it was computed, what to cite."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...core.result import Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .result import BiClusterResult

REFERENCES = (
    "Wei G (2024). Bayesian bi-clustering of neural spiking activity with latent structures. ICLR 2024. "
    "arXiv:2309.02213.",
    "Miller JW, Harrison MT (2018). Mixture models with a prior on the number of components. Journal of the American "
    "Statistical Association 113, 340-356.",
    "Fox EB, Sudderth EB, Jordan MI, Willsky AS (2011). A sticky HDP-HMM with application to speaker diarization. "
    "Annals of Applied Statistics 5, 1020-1056.",
    "Polson NG, Scott JG, Windle J (2013). Bayesian inference for logistic models using Polya-Gamma latent variables. "
    "Journal of the American Statistical Association 108, 1339-1349.",
    "Vehtari A, Gelman A, Simpson D, Carpenter B, Buerkner PC (2021). Rank-normalization, folding, and localization: "
    "an improved R-hat. Bayesian Analysis 16, 667-718.",
)


def sections(result: BiClusterResult) -> list[Section]:
    """Return the parts of the report, most important first."""
    return [_groups(result), _states(result), _fit(result), _chains(result), _methods(result)]


def _draw(result: BiClusterResult, kind: str, **options: Any) -> Callable[[], Axes]:
    return lambda: result.plot(kind, **options)


def _groups(result: BiClusterResult) -> Section:
    """Groups of units."""
    sure = [_certainty(result, g) for g in range(result.n_groups)]
    rows: list[tuple[object, ...]] = [("group", "units", "P(pair of its units together)", "members")]
    rows += [(g, len(names), sure[g], ", ".join(names)) for g, names in enumerate(result.groups())]
    text = f"{result.n_groups} groups of {len(result.clusters)} units share latent paths."
    return Section(title="Groups of units", text=text, table=tuple(rows), references=REFERENCES, figures=(
        ("Counts, units sorted by group, and the probability of each state.", _draw(result, "overview")),
        ("Probability that two units share a group.", _draw(result, "co_clustering")),
        ("Level and factors of each group, mean and 95 % band.", _draw(result, "latents")),
    ))  # fmt: skip


def _certainty(result: BiClusterResult, group: int) -> str:
    """Mean co-clustering probability inside a group."""
    members = (result.clusters == group).nonzero().flatten()
    n = len(members)
    if n < 2:
        return ""
    block = result.co_clustering[members][:, members]
    return f"{float((block.sum() - block.diagonal().sum()) / (n * (n - 1))):.2f}"


def _states(result: BiClusterResult) -> Section:
    """States of the dynamics."""
    share = result.occupancy().tolist()
    rows = (("state", "share of time"), *((k, f"{s:.3f}") for k, s in enumerate(share)))
    text = "States differ in the linear dynamics of the groups' paths, not in mean rates alone."
    driven = (("What each group adds to a step of the others, over its noise.", _draw(result, "influence")),)
    return Section(title="States", text=text, table=rows, figures=(
        ("Probability that two bins share a state.", _draw(result, "state_similarity")),
        ("Posterior of the number of groups, and of states with at least 2 % of the time.", _draw(result, "numbers")),
        *(driven if result.coupled else ()),
    ))  # fmt: skip


def _fit(result: BiClusterResult) -> Section:
    """How well the model describes and predicts the counts."""
    figures = [("Fano factor of each unit, data against replicated data.", _draw(result, "check"))]
    text = ""
    if result.score_held_out is not None:
        text = (
            f"Entries hidden at random are predicted with {result.score_held_out:.3f} nats an entry; a constant rate "
            f"with fitted dispersion has {result.score_constant:.3f}, the best Gaussian smoothing of the unit's own "
            f"counts {result.score_smoothing:.3f}."
        )
        figures.append(("Log score of hidden entries.", _draw(result, "held_out")))
    return Section(title="Predictive checks", text=text, figures=tuple(figures))


def _chains(result: BiClusterResult) -> Section:
    """Whether the chains may be believed."""
    rows = [("scalar", "R-hat", "bulk ESS")]
    for name, r, e in zip(result.scalars, result.rhat.tolist(), result.ess.tolist(), strict=True):
        rows.append((name.replace("_", " "), f"{r:.3f}", f"{e:.0f}"))
    n = len(result.evidence)
    text = f"The {n} chains agree." if result.agree else (
        f"The chains do not agree or are too short: point estimates are those of chain {result.best_chain}, whose "
        "partition has the most evidence. Run longer before drawing conclusions."
    )  # fmt: skip
    return Section(title="Convergence", text=text, table=tuple(rows), figures=(
        ("Log joint density of each chain.", _draw(result, "traces")),
        ("Ranks of its draws among those of all chains; flat where chains agree.", _draw(result, "ranks")),
    ))  # fmt: skip


def _methods(result: BiClusterResult) -> Section:
    """A paragraph for a paper."""
    law = "negative binomial" if result.likelihood == "negative_binomial" else "Poisson"
    chains, draws = result.n_clusters.shape
    p = result.latent.shape[-1] - 1
    text = (
        f"Counts in bins of {result.dt:g} s were modelled as {law}, with log mean equal to a unit's level plus the "
        f"level and {p} factors of its group's latent path. Paths followed linear dynamics "
        f"{'of all groups together ' if result.coupled else ''}that switch with a hidden state. The number of groups "
        "had a mixture-of-finite-mixtures prior, the states a sticky hierarchical "
        f"Dirichlet process (weak limit). {chains} chains of {draws} draws were drawn by Gibbs steps with Polya-Gamma "
        "augmentation; labels and loadings of all units moved jointly by corrected Laplace proposals. Chains started "
        "from merged spectral clusters, and clusters were split and merged by Laplace evidence during burn-in only. "
        f"{'From then on their number was fixed. ' if result.coupled else ''}"
        "The reported partitions maximise the posterior expected adjusted Rand index.\n\n"
        "Levels of paths, the basis of factors and the names of groups and states are not identified by the model: "
        "paths are shown centred, with uncorrelated factors of falling variance."
    )
    return Section(title="Methods", text=text, references=REFERENCES)
