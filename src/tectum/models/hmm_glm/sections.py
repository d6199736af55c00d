"""The report on a switching GLM: states, couplings, how sure, how it was computed, what to cite."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ...core.result import Section

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .result import HMMGLMResult

REFERENCES = (
    "Li C, Kim SH, Rodgers C, Choi H, Wu A (2024). One-hot generalized linear model for switching brain state "
    "discovery. ICLR 2024. arXiv:2310.15263.",
    "Escola S, Fontanini A, Katz D, Paninski L (2011). Hidden Markov models for the stimulus-response relationships of "
    "multistate neural systems. Neural Computation 23, 1071-1132.",
    "Pillow JW, Shlens J, Paninski L, et al. (2008). Spatio-temporal correlations and visual signalling in a complete "
    "neuronal population. Nature 454, 995-999.",
)

_PRIOR = {
    "one_hot": "Every connection was inhibitory, absent or excitatory, with probabilities shared by the states "
    "(categorical posterior, annealed Gumbel-Softmax samples), times a strength.",
    "gaussian": "The couplings of all states had a normal prior around a shared, learned mean.",
    "none": "The couplings of the states were free but for a small ridge.",
}
_LINK = {"sigmoid": "a sigmoid", "softplus": "a softplus", "exp": "an exponential"}


def sections(result: HMMGLMResult) -> list[Section]:
    """Return the parts of the report, most important first."""
    parts = [_states(result)]
    if result.n_lags:
        parts.append(_couplings(result))
    return [*parts, _certainty(result), _methods(result)]


def _draw(result: HMMGLMResult, kind: str, **options: Any) -> Callable[[], Axes]:
    return lambda: result.plot(kind, **options)


def _states(result: HMMGLMResult) -> Section:
    """States in time."""
    rows = [
        (k, f"{float(result.occupancy[k]):.1%}", int(result.visits[k]), f"{float(result.dwell[k]):.3g}")
        for k in range(result.n_states)
    ]
    n_units, n_sessions = result.sizes["unit"], result.sizes["session"]
    text = f"{result.n_states} states of {n_units} units in {n_sessions} sequences, sorted by occupancy."
    text += f" The model describes the data it was fitted to with {result.bits_per_spike:.3f} bits per spike above"
    text += " constant rates; use score() on sequences left out to judge it."
    figures = [
        ("Counts and most probable states of the first sequence.", _draw(result, "states")),
        ("Probability of each state in the first sequence.", _draw(result, "probability")),
        ("Transition probabilities.", _draw(result, "transition")),
        ("Lengths of visits to each state.", _draw(result, "dwell")),
    ]
    if n_sessions > 1:
        figures += [
            ("States of every sequence, colours mixed by their probabilities.", _draw(result, "trials")),
            ("Probability of each state from the start, mean and standard error over sequences.",
             _draw(result, "occupancy")),
        ]  # fmt: skip
    if not result.covariates:
        figures.append(("Expected over observed rates of the busiest units.", _draw(result, "rates")))
    table = (("state", "share of bins", "visits", "mean visit (s)"), *rows)
    return Section(title="States", text=text, table=table, figures=tuple(figures), references=REFERENCES)


def _couplings(result: HMMGLMResult) -> Section:
    """How units drive each other."""
    head: tuple[Any, ...] = ("state", "mean |coupling|", "largest")
    rows: list[tuple[Any, ...]] = [
        (k, f"{float(w.abs().mean()):.3g}", f"{float(w.abs().max()):.3g}") for k, w in enumerate(result.network)
    ]
    if result.adjacency is not None:
        head += ("inhibitory", "excitatory")
        rows = [(*row, int((a < 0).sum()), int((a > 0).sum())) for row, a in zip(rows, result.adjacency, strict=True)]
    text = "Rows are targets, columns sources. Couplings are functional: unobserved common input makes false ones."
    figures = [
        ("Couplings of every state, similar units side by side.", _draw(result, "networks", ordered=True)),
        ("What the states share.", _draw(result, "prior")),
        ("The strongest coupling at every lag.", _draw(result, "filters")),
    ]
    if result.adjacency is not None:
        figures.insert(1, ("Most probable types, in the same order.", _draw(result, "types", ordered=True)))
    return Section(title="Couplings", text=text, table=(head, *rows), figures=tuple(figures))


def _certainty(result: HMMGLMResult) -> Section:
    """How far starts agree and what the number of states rests on."""
    below = (result.start_objective[0] - result.start_objective).tolist()
    facts = zip(result.start_number.tolist(), result.start_seed.tolist(), result.start_objective.tolist(), strict=True)
    table = (("start", "seed", "log-likelihood + log prior (nat)"), *((n, s, f"{o:.1f}") for n, s, o in facts))
    same = sum(b < 1.0 for b in below)
    text = f"Of the {len(below)} best random starts, {same} end within one nat of the best."
    figures = [("Refined starts below the best.", _draw(result, "starts")),
               ("Objective in the last stage.", _draw(result, "objective"))]  # fmt: skip
    if result.state_grid is not None:
        text += f" {result.n_states} is the smallest number of states whose held-out log-likelihood is within one"
        text += " standard error of the best."
        figures.append(("Held-out log-likelihood against the number of states.", _draw(result, "number")))
    return Section(title="Certainty", text=text, table=table, figures=tuple(figures))


def _methods(result: HMMGLMResult) -> Section:
    """A paragraph for a paper."""
    law = "Poisson" if result.likelihood == "poisson" else "negative binomial (one size for each unit)"
    text = (
        f"Spikes were counted in bins of {result.dt * 1e3:g} ms. Given a hidden state that follows a Markov chain of "
    )
    text += f"{result.n_states} states, counts were {law} with {_LINK[result.link]} of a bias"
    if result.n_lags:
        n_kernels = f"{result.filters.shape[1]} " if result.kernel is None else ""
        text += f", the counts of all units in the last {result.n_lags} bins (filtered by {n_kernels}"
        text += "fixed kernels)" if result.kernel is None else "kernels, learned for each pair or each unit's own past)"
    text += f" and {len(result.covariates)} covariates." if result.covariates else "."
    text += f" {_PRIOR[result.prior]}" if result.n_lags else ""
    text += (
        " Parameters were found by expectation-maximisation with damped Fisher scoring from several random starts, "
        "first under a strong ridge."
    )
    return Section(title="Methods", text=text, references=REFERENCES)
