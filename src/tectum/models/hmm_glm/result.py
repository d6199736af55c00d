"""What a switching GLM says: states in time, how units drive each other in each state, and how sure that is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor

from ...core.errors import InputError, explain
from ...core.result import Result, Section, axes
from ...stats.alignment import assign, match_states, overlap
from .basis import Weights, join_weights

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TYPES = ("inhibitory", "absent", "excitatory")


@dataclass(frozen=True, kw_only=True, eq=False)
class HMMGLMResult(Result):
    """Parameters and posterior of a switching GLM; states are sorted by occupancy.

    In state s the drive of unit n is ``bias[s, n]`` plus, over source units j and filters m, ``coupling[s, n, j, m]``
    times the filtered past of unit j, plus covariates; the link makes it the expected count of a bin. Sequences shorter
    than the longest are padded: states with -1, probabilities with 0.
    """

    coupling: Tensor = axes("state", "unit", "unit", "feature")  #: target unit, then source unit
    bias: Tensor = axes("state", "unit")
    covariate_weight: Tensor = axes("state", "unit", "stimulus")
    shared_coupling: Tensor = axes("unit", "unit", "feature")  #: what the states share: prior mean, else their mean
    filters: Tensor = axes("lag", "feature")  #: weight of the bin one, two ... bins ago
    transition: Tensor = axes("state", "state")  #: from row to column
    initial: Tensor = axes("state")
    kernel: Tensor | None = axes("unit", "unit", "lag", default=None)  #: learned, sum 1; ``filters`` are then lags
    size: Tensor | None = axes("unit", default=None)  #: of the negative binomial: variance = mean + mean^2 / size
    # one-hot prior
    adjacency: Tensor | None = axes("state", "unit", "unit", default=None)  #: most probable type: -1, 0, 1, int64
    type_probability: Tensor | None = axes("state", "unit", "unit", "label", default=None)
    shared_types: Tensor | None = axes("unit", "unit", "label", default=None)  #: a0: the connection prior of all states
    strength: Tensor | None = axes("state", "unit", "unit", "feature", default=None)  #: of excitation, if there are two
    inhibitory_strength: Tensor | None = axes("state", "unit", "unit", "feature", default=None)  #: if there are two
    hard_coupling: Tensor | None = axes("state", "unit", "unit", "feature", default=None)  #: refitted on ``adjacency``
    hard_bias: Tensor | None = axes("state", "unit", default=None)
    # posterior of the states of the training data
    states: Tensor = axes("session", "time")  #: most probable path (Viterbi), int64, -1 = beyond the end
    probability: Tensor = axes("session", "time", "state")  #: of each state given all data
    log_likelihood: Tensor = axes("session", unit="nat")  #: of each sequence, the states summed out
    occupancy: Tensor = axes("state")  #: share of bins
    dwell: Tensor = axes("state", unit="s")  #: mean length of the visits of the most probable path
    visits: Tensor = axes("state")  #: number of them, int64
    rate: Tensor = axes("unit", unit="spikes/bin")  #: mean count of each unit
    counts: Tensor = axes("session", "time", "unit")  #: training data, int32, 0 where not observed
    # how it was found
    start_objective: Tensor = axes("start", unit="nat")  #: of the refined starts, the best first
    start_number: Tensor = axes("start")  #: which of the random starts each was, int64; -1 = a given start
    start_seed: Tensor = axes("start")  #: its seed, int64
    history: Tensor = axes("step", unit="nat")  #: objective in every round of the last stage
    state_grid: Tensor | None = axes("rank", default=None)  #: candidate numbers of states
    state_held_out: Tensor | None = axes("rank", default=None, unit="nat")  #: per bin, of sequences left out
    state_held_out_se: Tensor | None = axes("rank", default=None, unit="nat")  #: of the difference from the best
    # plain facts
    dt: float = 1.0  #: width of a bin, s
    link: str = "sigmoid"
    likelihood: str = "poisson"
    prior: str = "none"
    sigma_w: float | None = None  #: width of the Gaussian prior, given or learned
    bits_per_spike: float = 0.0  #: of the training data, above constant rates
    named: bool = True  #: whether units had names of their own

    # Names the user thinks in

    @property
    def units(self) -> list[str]:
        """Names of the units."""
        return [str(x) for x in self.coords["unit"]["name"]]

    @property
    def n_states(self) -> int:
        """Number of states."""
        return len(self.transition)

    @property
    def n_lags(self) -> int:
        """Bins of history."""
        return len(self.filters)

    @property
    def network(self) -> Tensor:
        """Coupling of each state, summed over filters of unit area: Tensor (state, target unit, source unit)."""
        return self.coupling.sum(-1)

    @property
    def covariates(self) -> tuple[str, ...]:
        """Names of the covariates."""
        return tuple(str(x) for x in self.coords["stimulus"]["name"])

    @property
    def weights(self) -> Tensor:
        """Regression weights in the order of the design: Tensor (state, unit, regressor)."""
        return join_weights(Weights(self.bias, self.coupling, self.covariate_weight))

    def time(self, session: int = 0) -> Tensor:
        """Return the start of each bin of a sequence, s, on its clock: Tensor (n_time,), float64."""
        n_bins = int((self.states[self._session(session)] >= 0).sum())
        return float(self.coords["session"]["t0"][session]) + torch.arange(n_bins, dtype=torch.float64) * self.dt

    def filter_of(self, state: int, target: int, source: int) -> Tensor:
        """Return the effect of one unit on another at every lag in a state: Tensor (lag,)."""
        return self.filters @ self.coupling[self._state(state), target, source]

    def match_states(self, reference: Self | Tensor) -> Self:
        """Rename the states to agree with another result on the same units, or with known states.

        Parameters
        ----------
        reference : HMMGLMResult or Tensor, shape (session, time), int64
            Another fit (couplings and biases are matched), or states in every bin (agreement is maximised).

        Returns
        -------
        HMMGLMResult
        """
        if isinstance(reference, Tensor):
            return self.reordered(self._agreeing(reference).argsort())
        if reference.weights.shape != self.weights.shape:
            got = f"{tuple(reference.weights.shape)} instead of {tuple(self.weights.shape)}"
            raise InputError(explain("match_states", expected="a result of the same states and units", got=got))
        name = match_states(self.weights.flatten(1), reference.weights.to(self.weights).flatten(1))
        return self.reordered(name.argsort())

    def _agreeing(self, reference: Tensor) -> Tensor:
        """New name of each state that agrees best with states (session, time)."""
        if reference.shape != self.states.shape or int(reference.max()) >= self.n_states:
            expected = f"states below {self.n_states} of shape {tuple(self.states.shape)}"
            got = f"states up to {int(reference.max())} of shape {tuple(reference.shape)}"
            raise InputError(explain("match_states", expected=expected, got=got))
        known = (self.states >= 0) & (reference.to(self.states) >= 0)
        mine, theirs = self.states[known], reference.to(self.states)[known]
        return assign(-overlap(mine, theirs, n_labels=self.n_states).double())

    def reordered(self, order: Tensor) -> Self:
        """Return the same result with state ``order[k]`` called k."""
        made: dict[str, Any] = {}
        for name, dims, value in self.tensors():
            for axis in (i for i, d in enumerate(dims) if d == "state"):
                value = value.index_select(axis, order.to(value.device))
            made[name] = value
        back = order.argsort()
        made["states"] = torch.where(self.states >= 0, back.to(self.states)[self.states.clamp(min=0)], -1)
        return dataclasses.replace(self, **made)

    def _state(self, state: int) -> int:
        if not 0 <= state < self.n_states:
            raise InputError(explain("state", expected=f"0 to {self.n_states - 1}", got=repr(state)))
        return state

    def _session(self, session: int) -> int:
        if not 0 <= session < len(self.states):
            raise InputError(explain("session", expected=f"0 to {len(self.states) - 1}", got=repr(session)))
        return session

    # Figures and report

    def plots(self) -> Mapping[str, Callable[..., Axes]]:
        """Return the kinds of figure that the result has data for; see :mod:`.figures`."""
        from . import figures

        return {name: self._bind(draw) for name, draw in figures.KINDS.items() if figures.available(self, name)}

    def _bind(self, draw: Callable[..., Axes]) -> Callable[..., Axes]:
        def styled(ax: Axes | None = None, **options: Any) -> Axes:
            from ...plot.style import style

            self._state(options.get("state") or 0)
            self._session(options.get("session", 0))
            with style():
                return draw(self, ax=ax, **options)

        return styled

    def sections(self) -> list[Section]:
        """Return the parts of a report on this result."""
        from .sections import sections

        return sections(self)


def visits_of(states: Tensor, *, n_states: int) -> tuple[Tensor, Tensor]:
    """Count the visits of paths (session, time) to each state: mean length in bins (state,), number (state,) int64.

    Examples
    --------
    >>> visits_of(torch.tensor([[0, 0, 1, 0, -1]]), n_states=2)
    (tensor([1.5000, 1.0000]), tensor([2, 1]))
    """
    hot = states.unsqueeze(-1) == torch.arange(n_states, device=states.device)  # (session, time, state)
    before = torch.nn.functional.pad(hot, (0, 0, 1, 0))[:, :-1]
    number, bins = (hot & ~before).sum((0, 1)), hot.sum((0, 1))
    return bins / number.clamp(min=1), number


def names_of(sources: Any) -> dict[str, np.ndarray]:
    """Table of the session axis: name, index of the recording, trial in it, start in s."""
    rows = [(s, k, trial) for k, s in enumerate(sources) for trial in range(s.n_sequences)]
    labels = ["/".join(x for x in (s.subject, s.session) if x) or f"recording {k}" for s, k, _ in rows]
    names = [
        f"{label}, trial {trial}" if s.trials else label for label, (s, _, trial) in zip(labels, rows, strict=True)
    ]
    return {
        "name": np.asarray(names),
        "recording": np.asarray([k for _, k, _ in rows]),
        "t0": np.asarray([s.t0 for s, _, _ in rows]),
    }
