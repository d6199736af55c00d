"""What a bi-clustering says: groups of units, states of time, latent paths, and how sure each is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...core.errors import InputError, explain
from ...core.result import Result, Section, axes
from .summary import SCALARS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True, kw_only=True, eq=False)
class BiClusterResult(Result):
    """Posterior draws of a bi-clustering and what they say.

    Draws keep the raw labels of the sampler. ``clusters`` and ``states`` are the partitions of largest posterior
    expected adjusted Rand index; latents are aligned to them. Axis ``component``: entry 0 is the level (m of a path, d
    of a unit), the others are the factors (x of a path, c of a unit). Axis ``step``: whole draws kept of each chain;
    axis ``block``: slots of clusters in these. ``coupling`` is the whole A of a coupled fit, driven before driving
    block, of which ``transition`` holds the diagonal blocks; ``coupling_noise`` likewise.
    """

    clusters: Tensor = axes("unit")  #: group of each unit, int64
    states: Tensor = axes("time")  #: state of each bin, int64
    co_clustering: Tensor = axes("unit", "unit")  #: posterior probability of sharing a group
    state_bins: Tensor = axes("x")  #: bins that are compared below, int64
    state_similarity: Tensor = axes("x", "x")  #: posterior probability that two bins share a state
    latent: Tensor = axes("cluster", "time", "component")  #: mean path of each group
    latent_low: Tensor = axes("cluster", "time", "component")  #: 2.5th percentile
    latent_high: Tensor = axes("cluster", "time", "component")  #: 97.5th percentile
    mean_loading: Tensor = axes("unit", "component")  #: in the basis of ``latent``
    rate: Tensor = axes("time", "unit", unit="spikes/bin")  #: expected count
    rate_low: Tensor = axes("time", "unit", unit="spikes/bin")
    rate_high: Tensor = axes("time", "unit", unit="spikes/bin")
    counts: Tensor = axes("time", "unit", unit="spikes/bin")  #: what was fitted, int32
    observed: Tensor = axes("time", "unit")  #: False where missing or held out, bool
    first_bin: Tensor = axes("time")  #: True where paths and states start anew, bool
    # draws
    label_draws: Tensor = axes("chain", "draw", "unit")
    state_draws: Tensor = axes("chain", "draw", "time")
    loading_draws: Tensor = axes("chain", "draw", "unit", "component")
    weight_draws: Tensor = axes("chain", "draw", "unit", "feature")  #: of standardised covariates
    dispersion_draws: Tensor = axes("chain", "draw", "unit")
    log_joint: Tensor = axes("chain", "draw", unit="nat")
    n_clusters: Tensor = axes("chain", "draw")
    n_states: Tensor = axes("chain", "draw")  #: states with at least 2 % of the bins
    n_switches: Tensor = axes("chain", "draw")
    mean_log_dispersion: Tensor = axes("chain", "draw")
    latent_norm: Tensor = axes("chain", "draw")
    accepted_path: Tensor = axes("chain", "draw")
    accepted_window: Tensor = axes("chain", "draw")
    accepted_label: Tensor = axes("chain", "draw")
    accepted_dispersion: Tensor = axes("chain", "draw")
    jitter: Tensor = axes("chain", "draw")
    # whole draws
    path: Tensor = axes("chain", "step", "block", "time", "component")
    transition: Tensor = axes("chain", "step", "block", "state", "component", "component")  #: A
    drift: Tensor = axes("chain", "step", "block", "state", "component")  #: b
    noise: Tensor = axes("chain", "step", "block", "state", "component", "component")  #: Q
    coupling: Tensor | None = axes("chain", "step", "state", "block", "component", "block", "component", default=None)
    coupling_noise: Tensor | None = axes(
        "chain", "step", "state", "block", "component", "block", "component", default=None
    )
    log_pi: Tensor = axes("chain", "step", "state", "state")
    step_draw: Tensor = axes("step")  #: number of the draw, int64
    # checks
    evidence: Tensor = axes("chain", unit="nat")  #: of the last partition of each chain
    rhat: Tensor = axes("rank")  #: of the scalars, in the order of ``scalars``
    ess: Tensor = axes("rank")
    fano: Tensor = axes("unit")
    zero_fraction: Tensor = axes("unit")
    fano_replicated: Tensor = axes("start", "unit")  #: one replicate a whole draw
    zero_fraction_replicated: Tensor = axes("start", "unit")
    held_out_log_prob: Tensor | None = axes("time", "unit", default=None)  #: NaN where not held out
    # plain facts
    dt: float = 1.0  #: width of a bin, s
    likelihood: str = "negative_binomial"
    best_chain: int = 0  #: of most evidence
    agree: bool = True  #: whether the point estimates rest on all chains
    score_held_out: float | None = None  #: nats an entry
    score_constant: float | None = None  #: of a constant rate with fitted dispersion
    score_smoothing: float | None = None  #: of the best Gaussian smoothing with fitted dispersion

    @property
    def scalars(self) -> tuple[str, ...]:
        """Names of the scalars that are diagnosed."""
        return SCALARS

    @property
    def units(self) -> list[str]:
        """Names of the units, or their numbers."""
        table = self.coords.get("unit", {})
        for column in ("name", "id"):
            if column in table:
                return [str(x) for x in table[column]]
        return [str(k) for k in range(len(self.clusters))]

    @property
    def time(self) -> Tensor:
        """Start of each bin on its session's clock in s: (n_time,) float64."""
        return torch.as_tensor(self.coords["time"]["time"], dtype=torch.float64)

    @property
    def n_groups(self) -> int:
        """Groups of the point partition."""
        return int(self.clusters.max()) + 1

    def groups(self) -> list[list[str]]:
        """Return the names of the units of every group."""
        labels = self.clusters.tolist()
        return [[u for u, k in zip(self.units, labels, strict=True) if k == g] for g in range(self.n_groups)]

    def occupancy(self) -> Tensor:
        """Return the share of bins of each state of the point sequence: (state,)."""
        return torch.bincount(self.states) / len(self.states)

    @property
    def coupled(self) -> bool:
        """Whether the paths of the groups act on each other."""
        return self.coupling is not None

    def influence(self) -> Tensor:
        """Return how strongly each group drives each other in every state: (state, cluster, cluster).

        Driven before driving group, in units of the driven group's noise; see :func:`.coupling.influence`.
        """
        from .coupling import influence

        if not self.coupled:
            raise InputError(explain("BiClusterResult.influence", expected="a coupled fit", got="separate groups",
                                     fix="BiCluster(coupled=True)"))  # fmt: skip
        return influence(self)

    def to_arviz(self) -> Any:
        """Return the draws in ArviZ's container: InferenceData (0.x) or an xarray DataTree (1.x)."""
        from ...stats._arviz_compat import to_container

        names = ("label_draws", "state_draws", "loading_draws", "dispersion_draws", "n_clusters", "n_states",
                 "n_switches", "mean_log_dispersion", "latent_norm")  # fmt: skip
        stats = ("log_joint", "accepted_path", "accepted_window", "accepted_label", "accepted_dispersion", "jitter")
        dims = {n: list(d[2:]) for n, d in self.declared().items() if d[:2] == ("chain", "draw")}
        return to_container(
            posterior={n: getattr(self, n) for n in names},
            sample_stats={{"log_joint": "lp"}.get(n, n): getattr(self, n) for n in stats},
            observed_data={"counts": self.counts}, dims={**dims, "counts": ["time", "unit"]},
            coords={"unit": self.units},
        )  # fmt: skip

    # Figures and report

    def plots(self) -> Mapping[str, Callable[..., Axes]]:
        """Return the kinds of figure; see :mod:`.figures`."""
        from . import figures

        return {name: self._bind(draw) for name, draw in figures.KINDS.items() if figures.available(self, name)}

    def _bind(self, draw: Callable[..., Axes]) -> Callable[..., Axes]:
        def styled(ax: Axes | None = None, **options: Any) -> Axes:
            from ...plot.style import style

            with style():
                return draw(self, ax=ax, **options)

        return styled

    def sections(self) -> list[Section]:
        """Return the parts of a report on this result."""
        from .sections import sections

        return sections(self)
