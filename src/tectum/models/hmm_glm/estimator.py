"""HMMGLM: hidden states in which the same units drive each other in different ways."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from ...core.device import highest_precision
from ...core.errors import InputError, explain
from ...core.estimator import Estimator, Run, as_tuple, numbers, undisturbed
from ...core.loops import Checkpoint
from ...core.params import param
from ...core.random import generator, resolve_seed, spawn
from ...core.recording import Recording
from ...core.result import hash_tensors
from ...stats import hmm
from .baselines import baseline_scores
from .basis import Weights, design_tensor, join_weights
from .describe import (
    bits_per_spike,
    describe_one_hot,
    describe_parameters,
    describe_states,
    draw_counts,
    floor_bias,
    floored,
    most_probable_path,
    order_of,
    reorder,
    unit_likelihood,
)
from .emission import log_emission
from .fitting import Family, Problem, Save, Starts, best_starts, posterior_of, search, start_from
from .inputs import Sequences, Source, check_activity, check_known, gather
from .kernels import start_kernels
from .result import TYPES, HMMGLMResult, names_of
from .select import StateReport, score_numbers
from .settings import (
    PRESETS,
    check_length,
    check_settings,
    family_of,
    filters_of,
    free_weights,
    learns_kernels,
    plan_of,
)
from .sparse import best_sparse
from .stages import Last, run_last

P = ParamSpec("P")
T = TypeVar("T")

KINDS = ("smoothed", "filtered", "predicted")


class Draw(NamedTuple):
    """Simulated counts and the states behind them."""

    counts: Recording
    """(time, unit), or (trial, time, unit) of several sequences."""
    states: Recording
    """(time,), or (trial, time)."""


def _apart(verb: Callable[Concatenate[HMMGLM, P], T]) -> Callable[Concatenate[HMMGLM, P], T]:
    """Compute a verb in the precision of the result, whatever modes the caller is in."""

    @wraps(verb)
    def call(self: HMMGLM, /, *args: P.args, **options: P.kwargs) -> T:
        with undisturbed(self.result_.bias.device):
            return verb(self, *args, **options)

    return call


@dataclass(kw_only=True, eq=False)
class HMMGLM(Estimator[HMMGLMResult]):
    """State-switching generalised linear model of spike counts.

    Given the hidden state of a bin, the count of every unit depends on the recent counts of all units through a
    coupling matrix of that state; the states form a Markov chain. With ``prior="one_hot"`` every connection is
    inhibitory, absent or excitatory, with probabilities that the states share, times a strength; with ``"gaussian"``
    the matrices scatter around a shared mean; with ``"none"`` they are free.

    ``fit`` takes spikes, a recording of counts (time, unit) or (trial, time, unit), or a list of these: sequences whose
    histories never mix, of the same units. Masked bins do not count. With covariates it takes sessions.

    Parameters
    ----------
    n_states : int or None, default 3
        Number of states. None chooses it from ``candidates`` by the likelihood of held-out sequences.
    candidates : sequence of int, default 1 to 8
        Numbers of states to try when ``n_states`` is None.
    folds : int, default 5
        Folds of that choice: whole sequences, or blocks of a single one.
    prior : {"one_hot", "gaussian", "none"}, default "one_hot"
        What ties the couplings of the states. "one_hot" predicts best when data are short.
    link : {"softplus", "sigmoid", "exp"}, default "softplus"
        From drive to expected count of a bin. "sigmoid" needs bins so short that the mean is below 0.9.
    likelihood : {"poisson", "nb"}, default "poisson"
        Law of the counts; "nb" (negative binomial, a size for each unit) for bins of 50 ms and more.
    bin : float, default 0.02
        Width of the bins in which spikes are counted, s; recordings of counts keep theirs.
    n_lags : int, default 5
        Past bins that matter; 0 couples nothing: a Poisson hidden Markov model.
    basis : {"exponential", "raised_cosine", "learned"}, default "exponential"
        Filters of the past: one exponential; ``n_filters`` bumps; or a kernel for every pair of units, positive with
        sum 1, learned in the last stage and shared by the states.
    n_filters : int, default 1
        Number of raised cosines.
    kernel : sequence of float or None, default None
        Weights of the bins 1, 2, ... back, in place of the exponential.
    self_history : {"free", "zero", "shared", "own"}, default "free"
        How units drive themselves: as others do, not at all, in the same way in all states, or with a kernel of their
        own that is learned.
    neuron_mask : sequence of sequences of bool or None, default None
        (target, source) False forbids a coupling: the same electrode, known anatomy.
    covariates : sequence of str, default ()
        Names of recordings (time, feature) in every session that drive the units besides their past.
    shared_bias : bool, default False
        One bias for each unit instead of one for each unit and state.
    ridge : float, default 0.1
        Inverse prior variance of the couplings with ``prior="none"``.
    sigma_w : float or None, default 1/3
        Standard deviation around the shared mean with ``prior="gaussian"``. None learns it.
    two_strengths : bool, default False
        With the one-hot prior, strengths of inhibition and of excitation have means, widths and values of their own.
    temperatures : (float, float), default (1.0, 0.3)
        First and last temperature of the relaxed samples of the one-hot prior.
    one_hot_rounds : int, default 20
        EM rounds of the one-hot prior.
    stickiness : float, default 0.0
        Pseudo-transitions of every state to itself.
    learn_initial : bool, default False
        Learn the probabilities of the first state instead of leaving them uniform.
    starts : int, default 8
        Random starts, side by side.
    start_from : {"random", "kmeans"}, default "random"
        Starts from random couplings, or from clusters of the smoothed counts (for states that differ in rates).
    max_iter : int, default 100
        Most EM rounds of the last stage.
    tol : float, default 1e-5
        EM ends after three rounds whose relative change is below this.
    device, random_state, dtype
        See :class:`Estimator`.

    References
    ----------
    Li, Kim, Rodgers, Choi, Wu (2024), One-hot generalized linear model for switching brain state discovery, ICLR;
    arXiv 2310.15263.

    Examples
    --------
    >>> from tectum.datasets import simulate
    >>> sim = simulate.switching_glm(n_units=6, n_states=2, n_sequences=6, n_time=400)
    >>> model = HMMGLM(n_states=2, prior="none", starts=2).fit(sim.data)
    >>> model.result_.network.shape, model.predict(sim.data[0]).sizes
    (torch.Size([2, 6, 6]), {'time': 400})
    """

    n_states: int | None = param(3, (int, type(None)), low=1)
    candidates: Sequence[int] = tuple(range(1, 9))
    folds: int = param(5, int, low=2)
    prior: str = param("one_hot", options=("one_hot", "gaussian", "none"))
    link: str = param("softplus", options=("softplus", "sigmoid", "exp"))
    likelihood: str = param("poisson", options=("poisson", "nb"))
    bin: float = param(0.02, float, low=0, open_low=True)
    n_lags: int = param(5, int, low=0)
    basis: str = param("exponential", options=("exponential", "raised_cosine", "learned"))
    n_filters: int = param(1, int, low=1)
    kernel: Sequence[float] | None = None
    self_history: str = param("free", options=("free", "zero", "shared", "own"))
    neuron_mask: Sequence[Sequence[bool]] | None = None
    covariates: Sequence[str] = ()
    shared_bias: bool = param(False, bool)
    ridge: float = param(0.1, float, low=0)
    sigma_w: float | None = param(1 / 3, float, low=0, open_low=True, optional=True)
    two_strengths: bool = param(False, bool)
    temperatures: Sequence[float] = (1.0, 0.3)
    one_hot_rounds: int = param(20, int, low=1)
    stickiness: float = param(0.0, float, low=0)
    learn_initial: bool = param(False, bool)
    starts: int = param(8, int, low=1)
    start_from: str = param("random", options=("random", "kmeans"))
    max_iter: int = param(100, int, low=1)
    tol: float = param(1e-5, float, low=0)

    @classmethod
    def preset(cls, name: str, **settings: Any) -> Self:
        """Return an estimator whose model is that of a version of the public code; the way to fit it is ours.

        Parameters
        ----------
        name : {"iclr2024", "v010"}
            The code beside the paper (sigmoid, one bias a unit, temperature 0.2), or version 0.1.0 (softplus, a bias a
            unit and state, kernels of their own for units' own past, temperature 0.5).
        settings : mapping
            Further hyper-parameters; they win over the preset.

        Returns
        -------
        HMMGLM

        Raises
        ------
        InputError
            No such preset.

        Examples
        --------
        >>> HMMGLM.preset("iclr2024", n_states=5).link
        'sigmoid'
        """
        if name not in PRESETS:
            raise InputError(explain("HMMGLM.preset", expected=f"one of {list(PRESETS)}", got=repr(name)))
        return cls(**{**PRESETS[name], **settings})

    # Verbs

    @_apart
    def predict(self, data: Any) -> Recording | list[Recording]:
        """Return the most probable path of states (Viterbi).

        Parameters
        ----------
        data : as for ``fit``, of the same units and bins

        Returns
        -------
        Recording or list of Recording, dims (time,) or (trial, time)
            int64 states.
        """
        found, problem, starts = self._known(data)
        path = most_probable_path(problem, starts, self._family(found))
        return self._split(data, found, path, ())

    @_apart
    def predict_proba(self, data: Any, *, kind: str = "smoothed") -> Recording | list[Recording]:
        """Return the probability of every state in every bin.

        Parameters
        ----------
        data : as for ``fit``, of the same units and bins
        kind : {"smoothed", "filtered", "predicted"}, default "smoothed"
            Given all data, the data up to and including the bin, or the data before the bin.

        Returns
        -------
        Recording or list of Recording, dims (time, state) or (trial, time, state)
        """
        if kind not in KINDS:
            raise InputError(explain("HMMGLM.predict_proba(kind)", expected=f"one of {list(KINDS)}", got=repr(kind)))
        found, problem, starts = self._known(data)
        family = self._family(found)
        if kind == "smoothed":
            probability = posterior_of(problem, starts, family).probabilities[0]
        else:
            forward = self._forward(problem, starts, family)
            probability = (forward.log_filtered if kind == "filtered" else forward.log_predicted).exp()
        return self._split(data, found, probability.to(problem.design.dtype), ("state",))

    @_apart
    def log_prob(self, data: Any, *, by: str = "session") -> Tensor:
        """Return the log-likelihood of every sequence, the states summed out.

        It is the sum over bins of the log probability of the counts given all counts before. Compare it only between
        models of equal bins.

        Parameters
        ----------
        data : as for ``fit``, of the same units and bins
        by : {"session", "unit"}, default "session"
            "unit" scores each unit alone, given the past of all. Units are not independent given the past, so
            that these do not sum to the score of the sequence.

        Returns
        -------
        Tensor
            (session,) or (session, unit), nats.
        """
        if by not in ("session", "unit"):
            raise InputError(explain("HMMGLM.log_prob(by)", expected="'session' or 'unit'", got=repr(by)))
        found, problem, starts = self._known(data)
        family = self._family(found)
        forward = self._forward(problem, starts, family)
        if by == "session":
            return forward.log_likelihood.to(problem.design.dtype)
        return unit_likelihood(forward, problem, starts, family, found.observed()).to(problem.design.dtype)

    @_apart
    def score(self, data: Any, target: Any = None) -> float:
        """Return the predictive log-likelihood above that of the constant training rates, in bits per spike."""
        found, problem, starts = self._known(data)
        total = self._forward(problem, starts, self._family(found)).log_likelihood.sum()
        return bits_per_spike(total, found, self.result_.rate.to(total))

    @_apart
    def baselines(self, data: Any, *, train: Any, sparse: bool = False) -> dict[str, float]:
        """Compare the model with simpler ones on the same data, in nats a bin and unit.

        Parameters
        ----------
        data : as for ``fit``, of the same units and bins
            What is scored; best, sequences the model has not seen.
        train : as for ``fit``
            What the simpler models are fitted to: the data of the fit.
        sparse : bool, default False
            Also fit the same model with an L1 penalty on the couplings, of four strengths, starting from this one (the
            strength by Akaike's information criterion on ``train``): 200 rounds of EM.

        Returns
        -------
        dict of str to float
            ``"model"``; ``"constant Poisson"`` and ``"constant NB"`` (negative binomial); ``"own past NB"``: a causal
            smoother of each unit's own counts; with ``sparse``, ``"L1"``.
        """
        found, problem, starts = self._known(data)
        known, learned, _ = self._known(train)
        total = self._forward(problem, starts, self._family(found)).log_likelihood.sum()
        scores = {"model": total / found.observed().sum(), **baseline_scores(known, found)}
        if sparse:
            family = self._family(found)
            other = posterior_of(problem, best_sparse(learned, starts, family), family).log_likelihood.sum()
            scores["L1"] = other / found.observed().sum()
        return dict(zip(scores, torch.stack(list(scores.values())).tolist(), strict=True))

    @_apart
    def sample(self, n_time: int, *, n_sequences: int = 1, random_state: int | None = 0) -> Draw:
        """Simulate counts and states from the fitted model.

        Parameters
        ----------
        n_time : int
            Bins.
        n_sequences : int, default 1
            Independent sequences; several become a trial axis.
        random_state : int or None, default 0
            Seed.

        Returns
        -------
        Draw
            ``counts`` and ``states``.
        """
        result = self.result_
        if result.covariates:
            got = f"covariates {list(result.covariates)}"
            raise InputError(explain("HMMGLM.sample", expected="a model without covariates", got=got))
        for name, value in {"n_time": n_time, "n_sequences": n_sequences}.items():
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                raise InputError(explain(f"HMMGLM.sample({name})", expected="an integer >= 1", got=repr(value)))
        family = family_of(self, None, len(result.units), result.filters.shape[1])
        drawn = draw_counts(self._restored(), family, result.filters, n_sequences=n_sequences, n_time=n_time,
                            generator=generator(resolve_seed(random_state)))  # fmt: skip
        counts, states = (x.to(result.bias.device) for x in drawn)
        trial, pick = ((), 0) if n_sequences == 1 else (("trial",), slice(None))
        coords = {"unit": {"name": result.units}} if result.named else {}
        return Draw(
            Recording(data=counts[pick], dims=(*trial, "time", "unit"), rate=1 / result.dt, units="spikes/bin",
                      modality="spikes", coords=coords),
            Recording(data=states[pick], dims=(*trial, "time"), rate=1 / result.dt, modality="states"),
        )  # fmt: skip

    # Steps of a fit

    def _check(self, data: tuple[Any, ...], target: Any) -> tuple[Any, ...]:
        check_settings(self)
        return data

    def _fit(self, data: tuple[Any, ...], target: Any, run: Run) -> tuple[HMMGLMResult, bool]:
        found = self._gather(data, run.device, run.dtype)
        check_activity(found, link=self.link)
        filters = filters_of(self).to(device=run.device, dtype=run.dtype)
        problem = _problem(found, filters)
        n_units, n_filters = found.spikes.shape[2], filters.shape[1]
        free = free_weights(self, n_units, n_filters, len(found.covariate_names))
        family = _moved(family_of(self, free, n_units, n_filters), run.device)
        save, report = self._save(run, data), None
        first = self._start(run.init, found, family, filters)
        n_states = self.n_states
        if first is not None:
            n_states = first.weights.shape[1]
        elif n_states is None:
            report = self._choose(problem, family, found.n_bins, run.seed, save)
            n_states = report.chosen
        check_length(n_states, found.n_bins)
        if first is None:
            refined, converged = search(problem, family, n_states=n_states, n_starts=self.starts, tol=self.tol,
                                        seed=run.seed, save=save)  # fmt: skip
        else:
            refined, converged = first, True
        kernel, known = None, getattr(run.init, "kernel", None)
        if learns_kernels(self):
            kernel = start_kernels(filters, n_units) if known is None else known.to(filters).log()
            filters = torch.eye(len(filters)).to(filters)
            problem = _problem(found, filters)
        best, plan = best_starts(refined, 1), plan_of(self)
        last = run_last(problem, best, family, plan, kernel=kernel, explore=known is None, seed=run.seed, save=save)
        result = self._describe(found, problem, family, refined, last, report, filters, run)
        return result, converged if last.one_hot is not None else last.converged

    def _gather(self, data: Sequence[Any], device: torch.device, dtype: torch.dtype) -> Sequences:
        return gather(data, bin=self.bin, n_lags=self.n_lags, covariates=tuple(self.covariates), device=device,
                      dtype=dtype)  # fmt: skip

    def _choose(self, problem: Problem, family: Family, n_bins: int, seed: int, save: Save) -> StateReport:
        """Score the candidate numbers of states."""
        check_length(max(self.candidates), n_bins)
        return score_numbers(problem, family, grid=self.candidates, folds=self.folds, n_lags=self.n_lags,
                             n_starts=self.starts, tol=self.tol, seed=seed, save=save)  # fmt: skip

    def _describe(
        self, found: Sequences, problem: Problem, family: Family, refined: Starts, last: Last,
        report: StateReport | None, filters: Tensor, run: Run,
    ) -> HMMGLMResult:  # fmt: skip
        """Everything that is said about the fit, states sorted by occupancy."""
        order = order_of(problem, last.starts, family)
        starts, dtype, device = floor_bias(reorder(last.starts, order), found), run.dtype, run.device
        fields: dict[str, Any] = {
            **describe_parameters(starts, family, filters=filters, dtype=dtype),
            **describe_states(problem, starts, family, found, dtype=dtype),
        }
        if last.one_hot is not None:
            fields |= describe_one_hot(last.one_hot, order, n_filters=filters.shape[1], dtype=dtype)
            fields["hard_bias"] = floored(fields["hard_bias"], found)
        if last.kernel is not None:
            fields["kernel"] = last.kernel.to(dtype)
        if report is not None:
            fields |= {"state_grid": report.grid.to(device), "state_held_out": report.held_out.to(device, dtype),
                       "state_held_out_se": report.error.to(device, dtype)}  # fmt: skip
        coords: dict[str, dict[str, Any]] = {
            "unit": dict(found.units), "session": names_of(found.sources), "label": {"name": list(TYPES)},
            "stimulus": {"name": np.asarray(found.covariate_names, dtype=str)},
        }  # fmt: skip
        return HMMGLMResult(
            coords=coords, dt=found.dt, link=self.link, likelihood=self.likelihood, prior=self.prior,
            named=found.named, start_objective=refined.objective.to(device, dtype), start_number=refined.number,
            start_seed=_start_seeds(refined.number, self.starts, run.seed), history=last.history.to(device, dtype),
            sigma_w=last.width, **fields,
        )  # fmt: skip

    # Starting and saving

    def _start(self, init: Any, found: Sequences, family: Family, filters: Tensor) -> Starts | None:
        """Parameters of an earlier result on the same units."""
        if init is None:
            return None
        where = "HMMGLM.fit(init)"
        if not isinstance(init, HMMGLMResult):
            raise InputError(explain(where, expected="an HMMGLMResult", got=type(init).__name__))
        given = init.weights
        if init.kernel is not None:  # kernels sum to 1: what is left is one coupling a pair
            given = join_weights(Weights(init.bias, init.network.unsqueeze(-1), init.covariate_weight))
        n_filters = init.filters.shape[1] if init.kernel is None else 1
        n_units, n_covariates = found.spikes.shape[2], len(found.covariate_names)
        mine = (self.n_states or init.n_states, n_units, self.n_lags, filters.shape[1], n_covariates)
        theirs = (init.n_states, len(init.units), init.n_lags, n_filters, len(init.covariates))
        if mine != theirs:
            expected = "{} states, {} units, {} lags, {} filters, {} covariates".format(*mine)
            raise InputError(explain(where, expected=expected, got=str(theirs)))
        starts = start_from(given.to(found.spikes).unsqueeze(0), family)
        wide = starts.log_transition
        return starts._replace(log_transition=init.transition.to(wide).log().unsqueeze(0),
                               log_initial=init.initial.to(wide).log().unsqueeze(0),
                               number=starts.number - 1)  # fmt: skip

    def _save(self, run: Run, data: tuple[Any, ...]) -> Save:
        """One checkpoint file a stage beside the path given, with the identity of the run."""
        if run.checkpoint is None:
            return lambda stage: None
        path = run.checkpoint
        stem = path.name.removesuffix(".safetensors")
        settings = {k: repr(v) for k, v in self.get_params().items() if k not in ("device", "random_state")}
        identity = {"estimator": "HMMGLM", "data": hash_tensors(numbers(data)), "seed": run.seed, **settings}
        return lambda stage: Checkpoint(
            path=path.with_name(f"{stem}-{stage}.safetensors"), every=5, config={**identity, "stage": stage}
        )

    # New data

    def _known(self, data: Any) -> tuple[Sequences, Problem, Starts]:
        """Check new data against the fit."""
        result = self.result_
        items = as_tuple(data, "HMMGLM")
        found = gather(items, bin=result.dt, n_lags=result.n_lags, covariates=self.covariates,
                       device=result.bias.device, dtype=result.bias.dtype)  # fmt: skip
        check_known(found, names=result.units, named=result.named, dt=result.dt, columns=result.covariates)
        return found, _problem(found, result.filters), self._restored()

    def _family(self, found: Sequences) -> Family:
        return family_of(self, None, found.spikes.shape[2], self.result_.filters.shape[1])

    def _restored(self) -> Starts:
        """Parameters of the result as one start."""
        result = self.result_
        wide = highest_precision(result.bias.device)
        family = family_of(self, None, len(result.units), result.filters.shape[1])
        made = start_from(result.weights.unsqueeze(0), family)
        return made._replace(
            log_transition=result.transition.to(wide).log().unsqueeze(0),
            log_initial=result.initial.to(wide).log().unsqueeze(0),
            size=None if result.size is None else result.size.unsqueeze(0),
        )

    def _forward(self, problem: Problem, starts: Starts, family: Family) -> hmm.Filtered:
        """Filter the states of every sequence."""
        size = None if starts.size is None else starts.size[0]
        emission = log_emission(problem.design, problem.spikes, starts.weights[0], link=family.link, size=size,
                                mask=problem.mask)  # fmt: skip
        return hmm.forward(starts.log_initial[0], starts.log_transition[0], emission, lengths=problem.lengths)

    def _split(
        self, data: Any, found: Sequences, values: Tensor, extra: tuple[str, ...]
    ) -> Recording | list[Recording]:
        """Hand (B, T, ...) values back in the form of the recordings they came from."""
        made, first = [], 0
        for source in found.sources:
            part = values[first : first + source.n_sequences, : source.n_time]
            made.append(_recording(part, source, found.dt, extra))
            first += source.n_sequences
        return made if isinstance(data, list) or len(made) > 1 else made[0]


def _recording(values: Tensor, source: Source, dt: float, extra: tuple[str, ...]) -> Recording:
    """Values (trial, time, ...) of one source as a recording."""
    trial = ("trial",) if source.trials else ()
    return Recording(
        data=(values if source.trials else values[0]).clone(), dims=(*trial, "time", *extra), rate=1 / dt, t0=source.t0,
        modality="states", subject=source.subject, session=source.session,
    )  # fmt: skip


def _moved(family: Family, device: torch.device) -> Family:
    """The model with its tensors on a device."""
    free, tied = (None if t is None else t.to(device) for t in (family.free, family.tied))
    return family._replace(free=free, tied=tied)


def _start_seeds(number: Tensor, n_starts: int, seed: int) -> Tensor:
    """Seed of each random start, -1 for a given one."""
    seeds = torch.tensor([spawn(seed, "start", n) for n in range(n_starts)], device="cpu").to(number.device)
    return torch.where(number >= 0, seeds.gather(0, number.clamp(min=0)), -1)


def _problem(found: Sequences, filters: Tensor) -> Problem:
    """Design and counts."""
    if len(filters):
        design = design_tensor(found.spikes, filters, covariates=found.covariates)
    else:
        ones = torch.ones_like(found.spikes[..., :1])
        design = ones if found.covariates is None else torch.cat((ones, found.covariates), -1)
    return Problem(design, found.spikes, found.mask, found.lengths)
