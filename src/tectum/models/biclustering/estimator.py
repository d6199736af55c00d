"""BiCluster: groups of units that share latent dynamics, and states in which these dynamics differ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ...core.device import highest_precision
from ...core.errors import InputError, explain
from ...core.estimator import Estimator, Run, as_tuple
from ...core.params import param
from ...core.random import generator, spawn
from ...core.recording import Recording
from .fitting import hyper_of, prepare, sample_chains
from .model import State
from .newdata import blank_data, infer, replicates, seed_of
from .predict import snapshot_state
from .prior import sample_counts, sample_prior_state
from .result import BiClusterResult

HIDDEN = 0.1  # share of entries that `score` hides


@dataclass(kw_only=True, eq=False)
class BiCluster(Estimator[BiClusterResult]):
    """Bayesian bi-clustering of spike counts: clusters of units by time states, with latent linear dynamics.

    The log expected count of a unit is its level plus its cluster's level plus the cluster's factors times the unit's
    loadings. Paths of the clusters follow linear dynamics that switch with a hidden state. Numbers of clusters (mixture
    of finite mixtures) and of states (sticky HDP) are inferred by a Gibbs sampler whose chains run side by side.

    ``fit`` takes Spikes (with ``bin``), a count Recording (time, unit) or (trial, time, unit), or a list of these, one
    a session of the same units. A Session may add covariates (any Recording with axes (time, feature) on the same bins,
    standardised here) and a Recording "log_exposure". NaN and ``mask=False`` are missing entries.

    Parameters
    ----------
    n_factors : int, default 2
        Factors p of a cluster's path besides its level; below the number of units and 20.
    max_states : int, default 10
        Largest number of states L; 1 switches states off.
    max_clusters : int, default 20
        Largest number of clusters.
    likelihood : {"negative_binomial", "poisson"}, default "negative_binomial"
        Law of the counts.
    bin : float, optional
        Width of a bin in s, for Spikes.
    epochs : str, optional
        Name of intervals at which paths and states start anew; bins outside them are left out.
    coupled : bool, default False
        Whether the paths of the groups act on each other: one transition and noise matrix a state for the stack of all
        paths. The number of groups is inferred without coupling in the first 0.6 of the burn-in and fixed then.
    zeta : float, default 0.2
        P(K = k) is zeta (1 - zeta)^(k - 1) for K clusters; 0.415 means P(K <= 3) = 0.8.
    dirichlet_process : float, optional
        Concentration of a Dirichlet process (weak limit, ``max_clusters``) in place of the mixture of finite mixtures.
    alpha, gamma : float, default 5
        Concentrations of the sticky HDP.
    kappa : float, default 10
        Stickiness; take 100 where states last for tens of bins and short visits are a nuisance.
    r_shape, r_rate : float, default 1
        Gamma prior of the dispersion.
    chains : int, default 4
        Chains; they start from different partitions.
    burn : int, default 500
        Sweeps before the first draw; clusters are split and merged by evidence in its first part.
    draws : int, default 1000
        Draws of each chain.
    exchange_every : int, default 50
        Sweeps after burn-in between two attempts to split or merge whole clusters, exact but dear; 0 for none.
    thin : int, default 1
        Sweeps for each draw.
    snapshots : int, default 25
        Whole draws (with paths and dynamics) kept of each chain.
    held_out : float, default 0
        Share of entries hidden at random and scored.
    held_out_bins : int, default 1
        Bins that are hidden together in a unit; 20 hides contiguous blocks.
    point : {"pear", "binder", "vi"}, default "pear"
        Loss whose posterior expectation the reported partitions minimise: minus adjusted Rand index, Binder's, or
        variation of information.
    drop_silent : bool, default False
        Drop units without a count instead of refusing them.
    warn_unconverged : bool, default True
        Warn where R-hat or effective sample sizes of the chains fail; the result says so in any case.
    memory : float, default 8
        GiB that a fit may use.
    save_every : int, default 100
        Sweeps between two writes of the checkpoint.
    device, random_state, dtype
        See :class:`Estimator`. The sampler computes in float64 where the device has it; ``dtype`` is that of draws.

    References
    ----------
    Wei (2024), Bayesian bi-clustering of neural spiking activity with latent structures, ICLR; arXiv 2309.02213.

    Examples
    --------
    >>> import warnings
    >>> from tectum.datasets.simulate.biclusters import biclusters
    >>> sim = biclusters(n_clusters=2, units_per_cluster=4, n_time=100)
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")  # far too short a run
    ...     model = BiCluster(chains=2, burn=5, draws=10, max_states=2).fit(sim.data)
    >>> model.result_.label_draws.shape
    torch.Size([2, 10, 8])
    """

    n_factors: int = param(2, int, low=1, high=19)
    max_states: int = param(10, int, low=2)
    max_clusters: int = param(20, int, low=2)
    likelihood: str = param("negative_binomial", options=("negative_binomial", "poisson"))
    bin: float | None = param(None, float, low=0, open_low=True)
    epochs: str | None = param(None, str)
    coupled: bool = param(False, bool)
    zeta: float = param(0.2, float, low=0, high=1 - 1e-9, open_low=True)
    dirichlet_process: float | None = param(None, float, low=0, open_low=True)
    alpha: float = param(5.0, float, low=0, open_low=True)
    gamma: float = param(5.0, float, low=0, open_low=True)
    kappa: float = param(10.0, float, low=0)
    r_shape: float = param(1.0, float, low=0, open_low=True)
    r_rate: float = param(1.0, float, low=0, open_low=True)
    chains: int = param(4, int, low=1)
    burn: int = param(500, int, low=0)
    draws: int = param(1000, int, low=1)
    exchange_every: int = param(50, int, low=0)
    thin: int = param(1, int, low=1)
    snapshots: int = param(25, int, low=1)
    held_out: float = param(0.0, float, low=0, high=0.9)
    held_out_bins: int = param(1, int, low=1)
    point: str = param("pear", options=("pear", "binder", "vi"))
    drop_silent: bool = param(False, bool)
    warn_unconverged: bool = param(True, bool)
    memory: float = param(8.0, float, low=0, open_low=True)
    save_every: int = param(100, int, low=1)

    # Verbs

    def transform(self, data: Any) -> Recording | list[Recording]:
        """Return the expected counts of known units in new recordings, paths and states sampled anew.

        Parameters
        ----------
        data : as for ``fit``
            Units of the fit, in any order.

        Returns
        -------
        Recording or list of Recording, dims (time, unit), units "spikes/bin"
        """
        made = [infer(self, item, 0.0, k)[0] for k, item in enumerate(as_tuple(data, "BiCluster.transform"))]
        return made if isinstance(data, list) or len(made) > 1 else made[0]

    def score(self, data: Any, target: Any = None) -> float:
        """Return the mean log predictive probability of hidden entries of new recordings, nats an entry.

        A tenth of the entries is hidden at random; paths and states are sampled given the others, units and dynamics
        are those of the posterior.
        """
        found = [infer(self, item, HIDDEN, k)[1] for k, item in enumerate(as_tuple(data, "BiCluster.score"))]
        return float(torch.cat([x for x in found if x is not None]).mean())

    def sample(self, n: int = 1) -> Recording:
        """Draw replicated counts from the posterior predictive: a Recording (draw, time, unit)."""
        result = self.result_
        state = snapshot_state(result, dtype=highest_precision(result.rate.device))
        draw = generator(spawn(seed_of(result), "sample"))
        which = torch.randint(len(state.labels), (n,), generator=draw).to(result.rate.device)
        picked = State(*(x[which] for x in state))
        return replicates(sample_counts(picked, blank_data(result), hyper_of(self), draw), result)

    def sample_prior(self, n: int = 1) -> Recording:
        """Draw counts from the prior predictive, with the sizes of the fit: a Recording (draw, time, unit).

        Dynamics of the prior may expand (spectral radius up to 1.05): counts beyond 1e9 are cut there.
        """
        result = self.result_
        draw, data, hyper = generator(spawn(seed_of(result), "prior")), blank_data(result), hyper_of(self)
        state = sample_prior_state(n, data, hyper, draw)
        path = state.path.clamp(-30, 30)
        counts = sample_counts(state._replace(path=path), data, hyper, draw).clamp(max=1e9)
        return replicates(counts, result)

    # Steps of a fit

    def _check(self, data: tuple[Any, ...], target: Any) -> tuple[Any, ...]:
        if target is not None:
            raise InputError(explain("BiCluster.fit(target)", expected="None", got=type(target).__name__,
                                     fix="pass covariates in a Session"))  # fmt: skip
        if self.coupled and self.dirichlet_process is not None:
            raise InputError(explain("BiCluster.dirichlet_process", expected="None with coupled=True, which fixes the "
                                     "number of groups", got=str(self.dirichlet_process)))  # fmt: skip
        return data

    def _fit(self, data: tuple[Any, ...], target: Any, run: Run) -> tuple[BiClusterResult, bool]:
        if run.init is not None:
            raise InputError(explain("BiCluster.fit(init)", expected="None (chains start from the data)",
                                     got=type(run.init).__name__, fix="use checkpoint= to continue a run"))  # fmt: skip
        made = prepare(self, data, run)
        with torch.no_grad():
            return sample_chains(self, made, data, run)
