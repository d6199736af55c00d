"""DynamicConnectome: which units change together, when, and in which animals."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...core.errors import ContractError, InputError, TectumWarning, TooLargeError, explain
from ...core.estimator import Estimator, Run, as_tuple, undisturbed
from ...core.params import param
from ...core.random import generator, spawn
from ...core.recording import Recording
from ...stats.rank import RankReport, rank_report
from ...stats.tensors import CP, NNCP, nncp
from .affinity import PairSource
from .communities import describe_motifs
from .describe import describe_factors, describe_ranks, describe_starts, describe_stimuli, informed, observed_norm
from .inputs import Settings, gather, gather_affinity, is_affinity
from .kernels import KERNELS
from .prepare import (
    GivenAffinity,
    Prepared,
    Source,
    complete,
    each_animal,
    prepare,
    prepare_given,
    prepare_known,
    prepare_rolled,
    without_animal,
)
from .projection import Projection, on_known_pairs, on_known_units, project
from .result import DynamicConnectomeResult
from .scores import holm, leave_one_animal_out, surrogate_p

GIVEN = "given"  # kind of affinity of a result made from ready affinities


class Fitted(NamedTuple):
    """Factorisation, the report on ranks where one was made, and the solver used."""

    starts: NNCP
    report: RankReport | None
    solver: str


@dataclass(kw_only=True, eq=False)
class DynamicConnectome(Estimator[DynamicConnectomeResult]):
    """Dynamic functional connectome: pairwise affinity, non-negative tensor factorisation, weighted block models.

    The affinity of two units is high while their derivatives change together (in either direction). The tensor
    (time, animal, pair) of affinities is the sum of R non-negative motifs, each a time course x animal loadings x
    matrix of pairs; the matrix of each motif is partitioned into groups of units by a weighted stochastic block model.

    ``fit`` takes one recording (time, unit) or a list of them, one for each animal; the unit axis may be a channel,
    voxel or vertex axis. Animals share units by their names ("name" or "id" of the unit axis); missing units, masks
    and NaN are allowed. Affinities of your own are fitted by passing one recording with axes (time, subject, pair),
    values in [0, 1] and the columns "first" and "second" of its pair axis.

    Parameters
    ----------
    rank : int or None, default None
        Number of motifs R. None chooses it from ``ranks`` by stability over starts and prediction of held-out fibres.
    ranks : sequence of int, default 1 to 12
        Candidates when ``rank`` is None.
    rank_rule : {"stability", "spectrum"}, default "stability"
        How the rank is chosen.
    affinity : {"corrected", "differential", "differential_instant", "sliding_abs_corr"}, default "corrected"
        Kind of affinity. "corrected" subtracts the co-fluctuation at lags; "differential" is the published reading;
        "sliding_abs_corr" is the baseline every study should include.
    sign : {"abs", "same", "opposite"}, default "abs"
        Count both signs, only common changes, or only opposite ones.
    derivative : float, default 0.5
        Standard deviation of the derivative filter, s (at least one sample).
    dead_zone : float, default 1.0
        Silent below this many robust standard deviations of the derivative.
    min_run : float, default 0.5
        Shortest run of one sign, s.
    smoothing : float, default 2.0
        Standard deviation of the Gaussian of "corrected", s.
    lags : sequence of float or None, default None
        Lags of its null, s; None: 1, 1.5, 2 and 2.5 times ``smoothing``.
    window : float, default 10.0
        Window of "sliding_abs_corr", s.
    bin : float or None, default 1.0
        Affinities are averaged into bins of this width, s; None keeps every sample.
    remove_global : bool, default False
        Regress out the mean derivative of all units (motion, bleaching) first.
    align : {"absolute", "stimulus", "event"}, default "absolute"
        How several animals share time: same clock; windows around each stimulus in one order; average around events.
    assume_aligned : bool, default False
        Vouch that spontaneous recordings of several animals share time.
    events : str, default "stimuli"
        Name of the intervals (with a "name" column) that hold stimuli or events.
    before, after, around : float, default 20, 20, 12
        Seconds kept before and after a stimulus, and around an event.
    min_animals : int or None, default None
        Units seen in fewer animals are left out; None: half of the animals.
    min_confidence : float or None, default None
        Identities of lower confidence (column "confidence") count as unidentified.
    resample : bool, default False
        Interpolate irregular or different clocks to a common one.
    on_bad : {"raise", "drop"}, default "raise"
        What to do with units that hold infinities or more than half NaN.
    solver : {"auto", "fibre", "em", "cp_opt"}, default "auto"
        Factorisation. "fibre" is exact for units missing from whole animals; "em" handles gaps in time; "auto"
        takes "em" only where a gap demands it.
    restarts : int, default 10
        Random starts.
    tol, max_iter : float and int, default 1e-6 and 500
        A start stops when its relative error falls by less than ``tol`` in a sweep, or after ``max_iter`` sweeps.
    floor : float, default 0.1
        Share of a motif's largest affinity below which there is no edge.
    weight_model : {"auto", "exp", "normal", "lognormal"}, default "auto"
        Family of edge weights; "auto" keeps the one of shortest description.
    partition_limit : int, default 500
        Units above which motifs are not partitioned (about half a minute for each motif of 500 units, three minutes
        for one of 1000); 0 asks for no partition at all.
    surrogates : int, default 0
        Refits on units rolled independently in time, for the p value of each motif's norm. The smallest p of S
        refits is 1 / (S + 1): 20 for one motif, 20 ``rank`` for p < 0.05 after Holm's correction.
    surrogate_shift : float, default 20.0
        Smallest roll, s.
    leave_one_out : bool, default False
        Refit without each animal and report the similarity.
    memory : float, default 4.0
        GiB for the affinity tensor and its copies; factors and work space take up to 1 GiB more. A tensor larger than
        a third of it is streamed over pairs.
    stream : bool, default True
        Whether too large a tensor is recomputed in chunks at every sweep instead of refused.
    device, random_state, dtype
        See :class:`Estimator`.

    References
    ----------
    Dyballa, Lang, Haslund-Gourley, Yemini, Zucker (2024), Learning dynamic representations of the functional
    connectome in neurobiological networks, ICLR; arXiv 2402.14102.

    Examples
    --------
    >>> from tectum.datasets import simulate
    >>> sim = simulate.motif_world(n_animals=4, n_units=27, n_time=320, random_state=3)
    >>> model = DynamicConnectome(rank=3, restarts=2, partition_limit=0, assume_aligned=True).fit(sim.data)
    >>> model.result_.affinity_matrix(0).shape, model.transform(sim.data[0]).sizes
    (torch.Size([27, 27]), {'time': 80, 'component': 3})
    """

    rank: int | None = param(None, int, low=1)
    ranks: Sequence[int] = param(tuple(range(1, 13)), int, low=1, each=True)
    rank_rule: str = param("stability", options=("stability", "spectrum"))
    affinity: str = param("corrected", options=tuple(KERNELS))
    sign: str = param("abs", options=("abs", "same", "opposite"))
    derivative: float = param(0.5, float, low=0, open_low=True)
    dead_zone: float = param(1.0, float, low=0)
    min_run: float = param(0.5, float, low=0)
    smoothing: float = param(2.0, float, low=0, open_low=True)
    lags: Sequence[float] | None = param(None, float, low=0, open_low=True, each=True)
    window: float = param(10.0, float, low=0, open_low=True)
    bin: float | None = param(1.0, float, low=0, open_low=True, optional=True)
    remove_global: bool = param(False, bool)
    align: str = param("absolute", options=("absolute", "stimulus", "event"))
    assume_aligned: bool = param(False, bool)
    events: str = param("stimuli", str)
    before: float = param(20.0, float, low=0)
    after: float = param(20.0, float, low=0)
    around: float = param(12.0, float, low=0, open_low=True)
    min_animals: int | None = param(None, int, low=1)
    min_confidence: float | None = param(None, float)
    resample: bool = param(False, bool)
    on_bad: str = param("raise", options=("raise", "drop"))
    solver: str = param("auto", options=("auto", "fibre", "em", "cp_opt"))
    restarts: int = param(10, int, low=1)
    tol: float = param(1e-6, float, low=0)
    max_iter: int = param(500, int, low=1)
    floor: float = param(0.1, float, low=0, high=1)
    weight_model: str = param("auto", options=("auto", "exp", "normal", "lognormal"))
    partition_limit: int = param(500, int, low=0)
    surrogates: int = param(0, int, low=0)
    surrogate_shift: float = param(20.0, float, low=0, open_low=True)
    leave_one_out: bool = param(False, bool)
    memory: float = param(4.0, float, low=0, open_low=True)
    stream: bool = param(True, bool)

    # Verbs

    def transform(self, data: Any) -> Recording | list[Recording]:
        """Return the time course of every motif in new recordings, with the pair factors known.

        Parameters
        ----------
        data : Recording or list of Recording
            Axes (time, unit) with the names of units seen in training, in any order; units may be missing. A model
            of ready affinities takes ready affinities.

        Returns
        -------
        Recording or list of Recording, dims (time, component), or (time, subject, component) of ready affinities
            Non-negative, in bins of the training width; NaN where nothing was recorded.
        """
        recs = as_tuple(data, "DynamicConnectome.transform")
        with undisturbed(self.result_.weight.device):
            made = [self._courses(rec, self._project(rec)) for rec in recs]
        return made if isinstance(data, list) or len(made) > 1 else made[0]

    def score(self, data: Any, target: Any = None) -> float:
        """Return the share of the affinity of new recordings that the known motifs explain, at most 1.

        Time courses are free (non-negative), the pair factors are those of the fit; the share is of the sum of
        squares over observed pairs, all recordings together. Each recording is scaled by its own derivatives, so
        nothing passes from test to training data.
        """
        recs = as_tuple(data, "DynamicConnectome.score")
        with undisturbed(self.result_.weight.device):
            parts = [part for rec in recs for part in self._project(rec)[1]]
        left, power = (torch.stack([getattr(p, name) for p in parts]).sum() for name in ("residual", "power"))
        return float(1 - left / power) if float(power) > 0 else 0.0

    # Steps of a fit

    def _fit(self, data: tuple[Any, ...], target: Any, run: Run) -> tuple[DynamicConnectomeResult, bool]:
        how = Settings.of(self)
        if any(is_affinity(rec) for rec in data):
            made = prepare_given(gather_affinity(data, how), how, run)
        else:
            made = prepare(gather(data, how), how, run)
        self._check_wishes(made)
        fitted = self._factorise(made, run)
        converged = bool(fitted.starts.converged[int(fitted.starts.error.argmin())])
        return self._describe(made, fitted, run), converged

    def _check_wishes(self, made: Prepared) -> None:
        """Refuse, before any long computation, what these data cannot give."""
        if self.leave_one_out and len(made.animals) < 2:
            raise InputError(explain("DynamicConnectome.leave_one_out", expected="two recordings or more", got="one"))
        if not self.surrogates:
            return
        if made.traces is None:
            raise InputError(explain("DynamicConnectome.surrogates", expected="traces to roll in time",
                                     got="ready affinities", fix="set surrogates=0"))  # fmt: skip
        shortest = min(int((~torch.isnan(x)).any(1).sum()) for x in made.traces.values) * made.traces.dt
        if shortest < 2 * self.surrogate_shift:
            expected, got = f"at most half of the shortest recording ({shortest:g} s)", f"{self.surrogate_shift:g} s"
            raise InputError(explain("DynamicConnectome.surrogate_shift", expected=expected, got=got))

    # Factorisation

    def _factorise(self, made: Prepared, run: Run) -> Fitted:
        """Factorise at the given rank, or at every candidate."""
        init, rank = self._start(made, run.init), self.rank
        if init is not None and rank is None:
            rank = len(init.weights)
        tensor, mask, solver = self._tensor(made.source)
        if rank is not None:
            return Fitted(self._nncp(tensor, mask, solver, rank, spawn(run.seed, "nncp"), init), None, solver)
        if solver != "fibre":
            fix = "choose the rank" + (" (the data have gaps in time)" if self.solver == "auto" else "")
            raise InputError(
                explain("DynamicConnectome.rank", expected=f"an integer with solver {solver!r}", got="None", fix=fix)
            )
        top = min(tensor.shape[0], tensor.shape[1] * tensor.shape[2])
        report = rank_report(
            tensor, [r for r in self.ranks if r <= top], mask=mask, restarts=self.restarts, rank_rule=self.rank_rule,
            tol=self.tol, max_iter=self.max_iter, random_state=spawn(run.seed, "rank"), max_bytes=self._max_bytes,
        )  # fmt: skip
        return Fitted(report.fits[report.ranks.index(report.rank)], report, solver)

    def _start(self, made: Prepared, init: Any) -> CP | None:
        """Factors of an earlier result on the same axes."""
        if init is None:
            return None
        where = "DynamicConnectome.fit(init)"
        if not isinstance(init, DynamicConnectomeResult):
            raise InputError(explain(where, expected="a DynamicConnectomeResult", got=type(init).__name__))
        sizes = tuple(len(factor) for factor in init.cp.factors)
        if sizes != made.source.shape or init.units != made.units:
            got = f"time, animals and pairs {sizes} instead of {made.source.shape}, or other units"
            raise InputError(explain(where, expected="a result on the same bins, animals and units", got=got))
        return init.cp

    @property
    def _max_bytes(self) -> int:
        """Memory of a factorisation."""
        return int(self.memory * 2**30) + 2**30

    def _nncp(
        self, tensor: Tensor | PairSource, mask: Tensor | None, solver: str, rank: int, seed: int, init: Any = None
    ) -> NNCP:
        return nncp(
            tensor, rank, mask=mask, solver=solver, restarts=self.restarts, tol=self.tol,
            min_iter=min(10, self.max_iter), max_iter=self.max_iter, init=init, random_state=seed,
            max_bytes=self._max_bytes,
        )  # fmt: skip

    def _tensor(self, source: Source) -> tuple[Tensor | PairSource, Tensor | None, str]:
        """Hold the affinity whole if it fits; return tensor, fibre mask and solver."""
        solver = self.solver if self.solver != "auto" else ("fibre" if complete(source) else "em")
        mask = None if solver == "em" else source.mask
        if isinstance(source, GivenAffinity):
            return source.values, mask, solver
        limit, need = int(self.memory * 2**30), 3 * math.prod(source.shape) * source.dtype.itemsize
        if need <= limit:
            return source.dense(max_bytes=limit), mask, solver
        if self.stream and solver != "em":
            return source, mask, solver
        expected = f"at most {self.memory:g} GiB for the affinity tensor and its copies"
        got = f"{need / 2**30:.3g} GiB for {source.shape} (time, animal, pair), solver {solver!r}"
        why = "stream=True, " if not self.stream and solver != "em" else ""
        fix = f"use {why}a longer bin, fewer units or more memory"
        raise TooLargeError(explain("DynamicConnectome.memory", expected=expected, got=got, fix=fix))

    # Description

    def _describe(self, made: Prepared, fitted: Fitted, run: Run) -> DynamicConnectomeResult:
        """Everything that is said about the best start."""
        model = informed(fitted.starts.best, made.source.mask)
        aligned, traces = made.alignment, made.traces
        pair = model.factors[2]
        bare = {
            **describe_factors(model, made), **describe_starts(fitted.starts), **describe_ranks(fitted.report, pair),
            **describe_stimuli(model, aligned, spawn(run.seed, "association")),
            **self._null(made, model, run), **self._robustness(made, model, run),
            **describe_motifs(pair, made.source.index, len(made.units), floor=self.floor, limit=self.partition_limit,
                              weight_model=self.weight_model, seed=spawn(run.seed, "communities")),
        }  # fmt: skip
        coords: dict[str, dict[str, Any]] = {
            "unit": {"name": made.units, **(traces.table if traces else {})}, "subject": {"name": made.animals},
            "stimulus": {"name": aligned.names},
            "time": {"time": aligned.time.numpy(), "offset": aligned.offset.numpy()},
        }  # fmt: skip
        return DynamicConnectomeResult(
            coords=coords, dt=made.dt, affinity=self.affinity if traces else GIVEN, solver=fitted.solver,
            align=self.align if traces else "absolute", blocks=tuple(aligned.blocks),
            unnamed=traces.unnamed if traces else 0, **bare,
        )  # fmt: skip

    def _null(self, made: Prepared, model: CP, run: Run) -> dict[str, Tensor]:
        """Norms of motifs of refits on units rolled independently, and the p value of each motif."""
        if self.surrogates == 0:
            return {}
        how, n_motifs, rows = Settings.of(self), len(model.weights), []
        for k in range(self.surrogates):
            draw = generator(spawn(run.seed, "surrogate", k))
            source = prepare_rolled(made, how, run, shift=self.surrogate_shift, draw=draw)
            found = observed_norm(self._refit(source, n_motifs, run, "refit", k), source.mask)
            rows.append(torch.nn.functional.pad(found.sort(descending=True).values, (0, n_motifs - len(found))))
        norm, order = observed_norm(model, made.source.mask).sort(descending=True)
        p = torch.empty_like(norm).scatter_(0, order, surrogate_p(norm, torch.stack(rows)))
        return {"surrogate_norm": torch.stack(rows), "surrogate_p": p, "surrogate_p_holm": holm(p)}

    def _refit(self, source: Source, rank: int, run: Run, *name: str | int) -> CP:
        """Return the best start on another affinity."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TectumWarning)  # said once, of the data themselves
            found = self._nncp(*self._tensor(source), rank, spawn(run.seed, *name)).best
        return informed(found, source.mask)

    def _robustness(self, made: Prepared, model: CP, run: Run) -> dict[str, Tensor]:
        """Similarity of the fits that lack one animal each."""
        if not self.leave_one_out:
            return {}
        rest = [without_animal(made.source, w) for w in range(len(made.animals))]
        refits = [self._refit(source, len(model.weights), run, "without", w) for w, source in enumerate(rest)]
        return {"subject_similarity": leave_one_animal_out(model, refits)}

    # New data

    def _project(self, rec: Any) -> tuple[Prepared, list[Projection]]:
        """Time courses of the motifs in one new recording (in each of its animals)."""
        result = self.result_
        run = Run(result.weight.device, result.weight.dtype, 0)
        if is_affinity(rec) != (result.affinity == GIVEN):
            fix = "pass what the model was fitted to"
            raise ContractError(explain("DynamicConnectome", expected=f"affinity {result.affinity!r}",
                                        got="ready affinities" if is_affinity(rec) else "traces", fix=fix))  # fmt: skip
        how = dataclasses.replace(Settings.of(self), align="absolute", assume_aligned=True)
        if is_affinity(rec):
            made = prepare_given(on_known_pairs(gather_affinity((rec,), how), result), how, run)
            return made, [project(source, result.pair_factor) for source in each_animal(made.source)]
        made = prepare_known(on_known_units(gather((rec,), how), result), result.pair_units, how, run)
        return made, [project(made.source, result.pair_factor)]

    def _courses(self, rec: Recording, found: tuple[Prepared, list[Projection]]) -> Recording:
        """Time courses as a recording."""
        made, parts = found
        courses = torch.stack([part.courses for part in parts], 1).to(self.result_.weight.dtype)
        regular = len(made.alignment.blocks) == 1
        return Recording(
            data=courses if is_affinity(rec) else courses[:, 0],
            dims=("time", "subject", "component") if is_affinity(rec) else ("time", "component"),
            rate=1 / made.dt if regular else None, t0=float(made.alignment.time[0]),
            times=None if regular else made.alignment.time,
            coords={"subject": {"name": made.animals}} if is_affinity(rec) else {},
            modality="motif time course", subject=rec.subject, session=rec.session,
        )  # fmt: skip
