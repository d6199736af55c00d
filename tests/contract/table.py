"""The table of the contract suite: one row for each public estimator.

How to add a row
----------------
1. Write ``<method>_data(seed, n)``: a list of ``n`` tiny containers in which the method finds something, without
   warnings. The same seed must give the same data. Write ``<method>_target`` likewise if the method predicts.
2. Append a :class:`Row` to :data:`TABLE`. ``params`` make a fit on ``Row.n`` containers take at most 2 s on one core.
3. ``verbs`` calls every public method of the class; the suite tells which one you forgot.
4. ``rich`` are parameters that fill every optional field of the result; ``kinds`` lists all its kinds of figure.
5. ``refuses`` lists the bad inputs of the method. Parameters declared with ``param(...)`` are tested from their rule;
   for every other parameter give a wrong value here.
6. ``search`` is a grid for GridSearchCV over a list of containers ({} if the method has no ``score``).
7. ``syncs``: how often one fit and its verbs may make the host wait for a GPU; measure, then add a tenth.
8. ``pytest tests/contract -k <Name>`` runs all checks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

import tectum
from tectum.core.errors import AxisError, ContractError, InputError, TectumError
from tectum.models.torch_decoder import allow

Verb = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A bad input and what must be said of it.

    Parameters
    ----------
    name : str
        Becomes part of the name of the test.
    says : str
        Regular expression that the message must match.
    error : type
        Exact type of the error.
    params : mapping
        Hyper-parameters to change.
    spoil : function, optional
        Makes bad data of the good list of containers.
    verb : str
        Which call must refuse.
    """

    name: str
    says: str
    error: type[TectumError] = InputError
    params: Mapping[str, Any] = field(default_factory=dict)
    spoil: Callable[[list[Any]], Any] = lambda data: data
    verb: str = "fit"


def _no_target(seed: int, n: int) -> None:
    """Methods that predict nothing."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What the suite must know of an estimator.

    Parameters
    ----------
    name : str
        Public name in ``tectum``.
    params : mapping
        Constructor arguments of a tiny fit.
    data : function (seed, n) -> list of n containers
        Tiny data.
    target : function (seed, n) -> list of n targets, or None
        What to predict.
    n : int
        Containers in a usual fit.
    verbs : mapping of str to function (model, data, target) -> output
        A call of every public method of the class.
    rich : mapping
        Parameters of a fit whose result has every optional field.
    kinds : set of str
        Every kind of figure of that result.
    search : mapping of str to sequence
        Grid of hyper-parameters; empty where there is no ``score``.
    refuses : sequence of Refusal
        Bad inputs of this method, besides those every method refuses.
    syncs : int
        Most waits of the host for the device in one fit and a call of each verb.
    rtol, atol : float
        Tolerance between devices, numbers of threads, and orders of axes.
    draws : bool
        Whether the seed matters.
    """

    name: str
    params: Mapping[str, Any]
    data: Callable[[int, int], list[Any]]
    target: Callable[[int, int], list[Any] | None] = _no_target
    n: int = 1
    verbs: Mapping[str, Verb]
    rich: Mapping[str, Any] = field(default_factory=dict)
    kinds: frozenset[str]
    search: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    refuses: tuple[Refusal, ...]
    syncs: int
    rtol: float = 1e-5
    atol: float = 1e-6
    draws: bool = True

    @cached_property
    def estimator(self) -> type[Any]:
        """The class."""
        found: type[Any] = getattr(tectum, self.name)
        return found

    def make(self, **changes: Any) -> Any:
        """Make an unfitted estimator; on the CPU unless told otherwise."""
        return self.estimator(**{"device": "cpu", **self.params, **changes})

    def fit(self, seed: int = 0, **changes: Any) -> Any:
        """Fit to the tiny data of a seed."""
        return self.make(**changes).fit(self.data(seed, self.n), self.target(seed, self.n))

    @cached_property
    def tiny(self) -> Any:
        """The fit of seed 0; nobody may change it."""
        return self.fit()

    def call(self, verb: str, model: Any, seed: int = 1) -> Any:
        """Call a verb on tiny data that the fit has not seen."""
        return self.verbs[verb](model, self.data(seed, self.n), self.target(seed, self.n))


# DynamicConnectome


def connectome_data(seed: int, n: int) -> list[Any]:
    """Animals with two groups of four units; a group shares steps in its half of the recording, and only there."""
    draw = torch.Generator().manual_seed(seed)
    names, place = [f"n{i}" for i in range(8)], torch.arange(8.0)
    made = []
    for animal in range(n):
        steps = torch.randn(96, 2, generator=draw)  # (time, group)
        steps[:48, 1], steps[48:, 0] = 0, 0
        own = 0.5 * torch.randn(96, 8, generator=draw)
        traces = (steps.repeat_interleave(4, 1) + own).cumsum(0)  # (time, unit)
        coords = {"unit": {"name": names, "x": place, "y": place.flip(0)}}
        stimuli = tectum.Intervals.from_pairs([(2.0, 6.0), (13.0, 18.0)], name=["odour", "light"])
        made.append(
            tectum.Recording(data=traces, dims=("time", "unit"), rate=4.0, units="dF/F", subject=f"animal{animal}",
                             session="day1", coords=coords, intervals={"stimuli": stimuli})
        )  # fmt: skip
    return made


def _first(change: Callable[[Any], Any]) -> Callable[[list[Any]], list[Any]]:
    """Spoil the first of the containers."""
    return lambda data: [change(data[0]), *data[1:]]


def _with_value(value: float, n_time: int) -> Callable[[Any], Any]:
    """Write a value into the first samples of unit 3."""

    def change(rec: Any) -> Any:
        x = rec.values.clone()
        x[:n_time, 3] = value
        return rec.with_(data=x)

    return change


def _named(*names: str) -> Callable[[Any], Any]:
    return lambda rec: rec.with_(coords={"unit": {"name": list(names)}})


def _no_events(rec: Any) -> Any:
    return rec.with_(intervals={})


DYNAMIC_CONNECTOME = Row(
    name="DynamicConnectome",
    params={"rank": 2, "restarts": 2, "max_iter": 20, "floor": 0.001, "weight_model": "normal",
            "assume_aligned": True},
    data=connectome_data,
    n=3,
    verbs={"transform": lambda model, x, y: model.transform(x), "score": lambda model, x, y: model.score(x)},
    rich={"rank": None, "ranks": (1, 2), "surrogates": 2, "surrogate_shift": 5.0, "leave_one_out": True},
    kinds=frozenset({"overview", "motif", "time", "matrix", "animals", "rank", "starts", "surrogates", "dendrogram",
                     "traces", "coassignment", "map"}),
    search={"rank": [1, 2]},
    refuses=(
        Refusal(name="trials", error=AxisError, says=r"DynamicConnectome.*isel\(trial=0\)",
                spoil=_first(lambda rec: rec.windows(8.0))),
        Refusal(name="no unit axis", error=AxisError, says=r"DynamicConnectome.*'feature'",
                spoil=_first(lambda rec: rec.with_(coords={}).rename(unit="feature"))),
        Refusal(name="spikes", says="DynamicConnectome.*a Recording.*got Spikes", spoil=lambda data: [
            tectum.Spikes(times=torch.arange(4.0, dtype=torch.float64), unit=torch.arange(4), n_units=4)]),
        Refusal(name="too short", says="DynamicConnectome.*at least 16 samples",
                spoil=_first(lambda rec: rec.isel(time=slice(0, 12)))),
        Refusal(name="too few units", says="DynamicConnectome.*at least 3 units",
                spoil=_first(lambda rec: rec.isel(unit=slice(0, 2)))),
        Refusal(name="jitter", says="DynamicConnectome.*jitter.*resample=True",
                spoil=_first(lambda rec: rec.with_(rate=None, times=rec.time + 0.2 * (torch.arange(96) % 2)))),
        Refusal(name="identity twice", says="DynamicConnectome.*duplicates n1", spoil=_first(
            _named("n0", "n1", "n1", "n3", "n4", "n5", "n6", "n7"))),
        Refusal(name="no shared identity", says="DynamicConnectome.*identities shared.*min_animals",
                params={"min_animals": 3}, spoil=_first(_named(*"abcdefgh"))),
        Refusal(name="half missing", says="DynamicConnectome.*n3.*on_bad", spoil=_first(_with_value(torch.nan, 60))),
        Refusal(name="not aligned", says="DynamicConnectome.*assume_aligned=True", params={"assume_aligned": False},
                spoil=lambda data: [_no_events(rec) for rec in data]),
        Refusal(name="no events", says="DynamicConnectome.*events in every animal", params={"align": "stimulus"},
                spoil=_first(_no_events)),
        Refusal(name="rank above the size", says=r"\brank\b.*= 24, got rank=1000", params={"rank": 1000}),
        Refusal(name="long lags", says="DynamicConnectome.*longest lag", params={"lags": (30.0,)}),
        Refusal(name="short lags", says="lags.*3 samples or more", params={"lags": (1e-3,)}),
        Refusal(name="NaN lags", says="lags", params={"lags": (torch.nan,)}),
        Refusal(name="lags of text", says="lags", params={"lags": ("long",)}),
        Refusal(name="no ranks", says="ranks", params={"rank": None, "ranks": ()}),
        Refusal(name="ranks of zero", says="ranks", params={"rank": None, "ranks": (0, 1)}),
        Refusal(name="ranks that fall", says="ranks.*increasing", params={"rank": None, "ranks": (2, 1)}),
        Refusal(name="ranks of fractions", says="ranks", params={"rank": None, "ranks": (1.5, 2.0)}),
        Refusal(name="ranks of text", says="ranks", params={"rank": None, "ranks": "12"}),
        Refusal(name="strangers", verb="transform", error=ContractError,
                says="DynamicConnectome.*units seen in training",
                spoil=lambda data: [_named(*"abcdefgh")(rec) for rec in data]),
        Refusal(name="trials", verb="transform", error=AxisError, says=r"DynamicConnectome.*isel\(trial=0\)",
                spoil=_first(lambda rec: rec.windows(8.0))),
        Refusal(name="strangers", verb="score", error=ContractError,
                says="DynamicConnectome.*units seen in training",
                spoil=lambda data: [_named(*"abcdefgh")(rec) for rec in data]),
    ),
    syncs=120,
)  # fmt: skip

# HMMGLM


def switching_data(seed: int, n: int) -> list[Any]:
    """Recordings of six units in two states of twelve bins each; in each state other units are busy and coupled."""
    draw = torch.Generator().manual_seed(seed)
    names, made = [f"n{i}" for i in range(6)], []
    busy = torch.arange(144) // 12 % 2  # (time,)
    rates = torch.tensor([[0.9, 0.9, 0.9, 0.05, 0.05, 0.05], [0.05, 0.05, 0.05, 0.9, 0.9, 0.9]])[busy]
    for k in range(n):
        counts = torch.poisson(rates, generator=draw)  # (time, unit) float32
        counts[1:, 1] = torch.maximum(counts[1:, 1], (busy[1:] == 0) * counts[:-1, 0])
        made.append(
            tectum.Recording(data=counts, dims=("time", "unit"), rate=50.0, units="spikes/bin", subject=f"animal{k}",
                             session="day1", coords={"unit": {"name": names}})
        )  # fmt: skip
    return made


HMM_GLM = Row(
    name="HMMGLM",
    params={"n_states": 2, "starts": 2, "one_hot_rounds": 3, "n_lags": 2},
    data=switching_data,
    n=2,
    verbs={
        "predict": lambda model, x, y: model.predict(x),
        "predict_proba": lambda model, x, y: model.predict_proba(x),
        "log_prob": lambda model, x, y: model.log_prob(x),
        "score": lambda model, x, y: model.score(x),
        "baselines": lambda model, x, y: model.baselines(x, train=x),
        "sample": lambda model, x, y: model.sample(12, n_sequences=2),
    },
    rich={"n_states": None, "candidates": (1, 2), "folds": 2, "likelihood": "nb", "basis": "learned",
          "two_strengths": True},
    kinds=frozenset({"states", "probability", "trials", "occupancy", "rates", "networks", "network", "types", "prior",
                     "filters", "transition", "dwell", "dwell_histogram", "objective", "starts", "number"}),
    search={"n_states": [1, 2]},
    refuses=(
        Refusal(name="no unit axis", error=AxisError, says=r"HMMGLM.*'feature'",
                spoil=_first(lambda rec: rec.with_(coords={}).rename(unit="feature"))),
        Refusal(name="too short", says="HMMGLM.*time > 2 lags.*fewer lags",
                spoil=_first(lambda rec: rec.isel(time=slice(0, 2)))),
        Refusal(name="other units", says=r"HMMGLM.*same units.*\(1, 144, 5\)|HMMGLM.*same units.*144, 6",
                spoil=_first(lambda rec: rec.isel(unit=slice(0, 5)))),
        Refusal(name="order of units", says="HMMGLM.*one order",
                spoil=_first(_named("n1", "n0", "n2", "n3", "n4", "n5"))),
        Refusal(name="negative", says="HMMGLM.*at least 0, got -1 at trial 0, bin 0, unit 3",
                spoil=_first(_with_value(-1.0, 1))),
        Refusal(name="fractions", says="HMMGLM.*integer counts, got 0.5 at trial 0, bin 0, unit 3",
                spoil=_first(_with_value(0.5, 1))),
        Refusal(name="NaN without mask", says="HMMGLM.*finite counts.*got nan.*mask",
                spoil=_first(_with_value(torch.nan, 1))),
        Refusal(name="nothing fires", says="HMMGLM.*all zero",
                spoil=lambda data: [rec.with_(data=0 * rec.values) for rec in data]),
        Refusal(name="not counts", says="HMMGLM.*spikes/bin.*dF/F", spoil=_first(lambda rec: rec.with_(units="dF/F"))),
        Refusal(name="other bins", says="HMMGLM.*one width of bins", spoil=_first(lambda rec: rec.with_(rate=25.0))),
        Refusal(name="irregular", says="HMMGLM.*irregular",
                spoil=_first(lambda rec: rec.with_(rate=None, times=rec.time + 0.002 * (torch.arange(144) % 2)))),
        Refusal(name="busy for a sigmoid", says="HMMGLM.link.*softplus", params={"link": "sigmoid"},
                spoil=lambda data: [rec.with_(data=rec.values + 1) for rec in data]),
        Refusal(name="many states", says="HMMGLM.n_states.*tenth", params={"n_states": 29}),
        Refusal(name="no candidates", says="candidates", params={"n_states": None, "candidates": ()}),
        Refusal(name="candidates of zero", says="candidates", params={"n_states": None, "candidates": (0, 1)}),
        Refusal(name="short kernel", says="kernel.*one for each lag", params={"kernel": (1.0,)}),
        Refusal(name="mask of another size", says="neuron_mask", params={"neuron_mask": [[True]]}),
        Refusal(name="mask of numbers", says="neuron_mask", params={"neuron_mask": torch.ones(6, 6).tolist()}),
        Refusal(name="frozen samples", says="temperatures.*positive", params={"temperatures": (1.0, 0.0)}),
        Refusal(name="text for covariates", says="covariates", params={"covariates": "speed"}),
        Refusal(name="covariates without session", says="HMMGLM.*session", params={"covariates": ("speed",)}),
        Refusal(name="strangers", verb="predict", error=ContractError, says="HMMGLM.*other units",
                spoil=lambda data: [_named(*"abcdef")(rec) for rec in data]),
        Refusal(name="fewer units", verb="score", error=ContractError, says="HMMGLM.*5 units instead of 6",
                spoil=lambda data: [rec.isel(unit=slice(0, 5)) for rec in data]),
        Refusal(name="other bins", verb="log_prob", error=ContractError, says="HMMGLM.*bins of 0.04 s instead of 0.02",
                spoil=lambda data: [rec.with_(rate=25.0) for rec in data]),
    ),
    syncs=58,
)  # fmt: skip

# BiCluster


def bicluster_data(seed: int, n: int) -> list[Any]:
    """Sessions of two groups of three units that share a slow modulation."""
    draw = torch.Generator().manual_seed(seed)
    names, made = [f"n{i}" for i in range(6)], []
    for session in range(n):
        wave = torch.randn(24, 2, generator=draw).cumsum(0) * 0.3
        rate = (0.8 + wave - wave.mean(0)).clamp(-1, 2).exp().repeat_interleave(3, 1)
        counts = torch.poisson(rate, generator=draw).to(torch.int32) + (torch.arange(24) == 3).to(torch.int32)[:, None]
        made.append(
            tectum.Recording(data=counts.double(), dims=("time", "unit"), rate=2.0, units="spikes/bin",
                             subject="animal", session=f"day{session}", coords={"unit": {"name": names}})
        )  # fmt: skip
    return made


BI_CLUSTER = Row(
    name="BiCluster",
    params={"chains": 2, "burn": 1, "draws": 3, "snapshots": 2, "max_states": 2, "max_clusters": 4, "n_factors": 1,
            "warn_unconverged": False},
    data=bicluster_data,
    n=1,
    verbs={"transform": lambda model, x, y: model.transform(x), "score": lambda model, x, y: model.score(x),
           "sample": lambda model, x, y: model.sample(2), "sample_prior": lambda model, x, y: model.sample_prior(2)},
    rich={"held_out": 0.2, "coupled": True},
    kinds=frozenset({"overview", "raster", "ribbon", "latents", "co_clustering", "state_similarity", "traces", "ranks",
                     "numbers", "check", "held_out", "influence"}),
    search={"n_factors": [1, 2]},
    refuses=(
        Refusal(name="no unit axis", error=AxisError, says=r"BiCluster.*'time', 'unit'",
                spoil=_first(lambda rec: rec.with_(coords={}).rename(unit="channel"))),
        Refusal(name="too short", says="BiCluster.*10 bins", spoil=_first(lambda rec: rec.isel(time=slice(0, 9)))),
        Refusal(name="one unit", says="BiCluster.*2 units", spoil=_first(lambda rec: rec.isel(unit=slice(0, 1)))),
        Refusal(name="fractions", says="BiCluster.*counts.*got 0.5", spoil=_first(_with_value(0.5, 2))),
        Refusal(name="negative", says="BiCluster.*counts.*got -1", spoil=_first(_with_value(-1.0, 2))),
        Refusal(name="silent", says="BiCluster.*at least one count.*n3", spoil=_first(_with_value(0.0, 24))),
        Refusal(name="many factors", says="n_factors.*fewer factors", params={"n_factors": 6}),
        Refusal(name="two rules for numbers", says="dirichlet_process.*None with coupled=True",
                params={"coupled": True, "dirichlet_process": 1.0}),
        Refusal(name="spikes", says="BiCluster.*bin", spoil=lambda data: [
            tectum.Spikes(times=torch.arange(40.0, dtype=torch.float64), unit=torch.arange(40) % 2, n_units=2)]),
        Refusal(name="strangers", verb="transform", error=ContractError, says="BiCluster.*units of the fit",
                spoil=lambda data: [_named(*"abcdef")(rec) for rec in data]),
    ),
    syncs=4000,
)  # fmt: skip

# Decoders


def trial_data(seed: int, n: int) -> list[Any]:
    """Sessions of sixteen trials of two classes: the second has a stronger rhythm on two of four channels."""
    draw, names, made = torch.Generator().manual_seed(seed), ["C3", "C4", "Cz", "Pz"], []
    time, second = torch.arange(40) / 80.0, torch.arange(16) % 2 == 1
    for k in range(n):
        x = torch.randn(16, 4, 40, generator=draw)
        phase = 2 * torch.pi * torch.rand(16, 1, 1, generator=draw)
        x += torch.where(second, 2.0, 0.0)[:, None, None] * torch.tensor([1.0, 1.0, 0.0, 0.0])[:, None] * torch.sin(
            2 * torch.pi * 12.0 * time + phase)  # fmt: skip
        coords = {"channel": {"name": names}, "trial": {"hand": ["left", "right"] * 8}}
        made.append(
            tectum.Recording(data=20 * x, dims=("trial", "channel", "time"), rate=80.0, units="uV", coords=coords,
                             subject="person", session=f"run{k}")
        )  # fmt: skip
    return made


def trial_labels(seed: int, n: int) -> list[Any]:
    """Labels of :func:`trial_data`."""
    return [np.asarray(["left", "right"] * 8) for _ in range(n)]


def _at_once(rec: Any) -> Any:
    return rec.with_(data=rec.values.index_fill(1, torch.tensor([2]), 7.0))


def _by_channel(*names: str) -> Callable[[Any], Any]:
    return lambda rec: rec.with_(coords={**rec.coords, "channel": {"name": list(names)}})


DECODER_VERBS: dict[str, Verb] = {
    "predict": lambda model, x, y: model.predict(x),
    "predict_proba": lambda model, x, y: model.predict_proba(x),
    "decision_function": lambda model, x, y: model.decision_function(x),
    "score": lambda model, x, y: model.score(x, y),
    "adapt": lambda model, x, y: model.adapt(x, y, epochs=1).result_,
    "forward_module": lambda model, x, y: {
        k: v.to(model.result_.loss) for k, v in model.forward_module().state_dict().items()
    },
}
DECODER_REFUSALS = (
    Refusal(name="no trials", error=AxisError, says=r"trial.*got \('channel', 'time'\).*rec.windows",
            spoil=_first(lambda rec: rec.isel(trial=0))),
    Refusal(name="NaN", says="finite data, got NaN or infinity in channel Cz", spoil=_first(
        lambda rec: rec.with_(data=rec.values.index_fill(1, torch.tensor([2]), torch.nan)))),
    Refusal(name="flat channel", says="channels that vary, got constant channel Cz",
            spoil=lambda data: [_at_once(rec) for rec in data]),
    Refusal(name="masked samples", says="without masked samples", spoil=_first(
        lambda rec: rec.with_(mask=(torch.arange(16) != 3)[:, None, None]))),
    Refusal(name="other channels", error=ContractError, says="missing channel.*Fz",
            spoil=lambda data: [_by_channel("C3", "C4", "Cz", "Fz")(data[0]), *data[1:]]),
    Refusal(name="other rate", error=ContractError, says="rate 160.0 Hz.*resample",
            spoil=lambda data: [*data[1:], data[0].with_(rate=160.0)]),
    Refusal(name="fewer labels", says=r"target.*\[8, 16\] labels",
            spoil=_first(lambda rec: rec.isel(trial=slice(0, 8)))),
    Refusal(name="no such group", says="'trial'.*'blok'", params={"group": "blok"}),
    Refusal(name="one group", says="validation.*two groups.*validation=0", params={"group": "subject"}),
    Refusal(name="order of channels", verb="predict", error=ContractError, says=r"order.*rec.sel\(channel=",
            spoil=lambda data: [_by_channel("C4", "C3", "Cz", "Pz")(rec) for rec in data]),
    Refusal(name="another unit", verb="predict_proba", error=ContractError, says=r"rec.to_units\('uV'\)",
            spoil=lambda data: [rec.to_units("V") for rec in data]),
    Refusal(name="shorter windows", verb="score", error=ContractError, says="30 samples instead of 40",
            spoil=lambda data: [rec.isel(time=slice(0, 30)) for rec in data]),
)  # fmt: skip

LIGHT_CNN = Row(
    name="LightCNN",
    params={"epochs": 3, "lr": 0.01, "batch_size": 8, "dropout": 0.0},
    data=trial_data,
    target=trial_labels,
    n=2,
    verbs=DECODER_VERBS,
    kinds=frozenset({"training", "confusion", "filters", "activation"}),
    search={"kernel": [3, 11]},
    refuses=(*DECODER_REFUSALS, Refusal(name="even kernel", says="LightCNN.kernel.*odd", params={"kernel": 4})),
    syncs=33,
)

DU_IN = Row(
    name="DuIN",
    params={"patch": 0.125, "steps": 5, "features": 4, "filters": 8, "sources": 4, "depth": 1, "decoder_depth": 1,
            "heads": 2, "head_width": 4, "hidden": 16, "dropout": 0.0, "n_codes": 8, "code_width": 4, "window": 0.5,
            "codes_epochs": 16, "masked_epochs": 2, "epochs": 3, "batch_size": 8, "pretrain_batch": 8,
            "pretrain_lr": 2e-3, "quantiser_warmup": 0.8, "lr": 5e-3},
    data=trial_data,
    target=trial_labels,
    n=2,
    verbs={
        **DECODER_VERBS,
        "encode": lambda model, x, y: model.encode(x),
        "reconstruct": lambda model, x, y: model.reconstruct(x),
        "attention": lambda model, x, y: model.attention(x),
        "compare": lambda model, x, y: model.compare(x, y),
        "stream_module": lambda model, x, y: {
            k: v.to(model.result_.loss) for k, v in model.stream_module().state_dict().items()
        },
    },
    rich={"baselines": ("power",), "select": 3, "select_epochs": 2},
    kinds=frozenset({"training", "confusion", "stages", "masked", "codebook", "codes", "code_by_label",
                     "reconstruction", "channels", "compared"}),
    search={"depth": [1, 2]},
    refuses=(
        *DECODER_REFUSALS,
        Refusal(name="patch that is no whole number of steps", says="DuIN.patch.*multiple of 5 samples.*9.6 samples",
                params={"patch": 0.12}),
        Refusal(name="odd length", says="whole patches, got T=36 samples with patches of W=10.*30 and 40.*crop=True",
                spoil=lambda data: [rec.isel(time=slice(0, 36)) for rec in data]),
        Refusal(name="odd length", verb="encode", says="DuIN.encode.*T=36 samples with patches of W=10",
                spoil=lambda data: [rec.isel(time=slice(0, 36)) for rec in data]),
        Refusal(name="stranger", verb="predict", says="a subject of the fit, got 'other'.*known subjects: person",
                spoil=lambda data: [rec.with_(subject="other") for rec in data]),
        Refusal(name="unknown regions", says="'region'", params={"regions": ("STG",)}),
        Refusal(name="regions of text", says="DuIN.regions.*sequence of names", params={"regions": "STG"}),
        Refusal(name="unknown baseline", says="DuIN.baselines.*power", params={"baselines": ("svm",)}),
        Refusal(name="baselines of text", says="DuIN.baselines", params={"baselines": "power"}),
        Refusal(name="nothing to train", says="DuIN.until.*pretrain='none'",
                params={"pretrain": "none", "until": "codes"}),
        Refusal(name="odd tokens", says="DuIN.features.*even", params={"features": 3}),
    ),
    syncs=400,
    rtol=1e-3,
    atol=1e-4,
)  # fmt: skip


class TinyNet(torch.nn.Module):
    """A network of a user, of braindecode's signature."""

    def __init__(self, n_chans: int, n_outputs: int, n_times: int, sfreq: float, width: int = 3) -> None:
        super().__init__()
        self.conv = torch.nn.Conv1d(n_chans, width, 5, padding=2, bias=False)
        self.norm = torch.nn.BatchNorm1d(width)
        self.final_layer = torch.nn.Linear(width, n_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (batch, channel, time) to logits."""
        found: torch.Tensor = self.final_layer(self.norm(self.conv(x)).square().mean(2))
        return found


allow(TinyNet)

TORCH_DECODER = Row(
    name="TorchDecoder",
    params={"module": "TinyNet", "epochs": 3, "lr": 0.01, "batch_size": 8},
    data=trial_data,
    target=trial_labels,
    n=2,
    verbs=DECODER_VERBS,
    kinds=frozenset({"training", "confusion"}),
    search={"options": [{"width": 2}, {"width": 4}]},
    refuses=(
        *DECODER_REFUSALS,
        Refusal(name="no module", says="TorchDecoder.module.*torch module", params={"module": None}),
        Refusal(name="a number", says="TorchDecoder.module.*torch module.*got 3", params={"module": 3}),
        Refusal(name="a name alone", says="TorchDecoder.module.*'EEGNet' alone.*allow", params={"module": "EEGNet"}),
        Refusal(name="options of none", says="TorchDecoder.options", params={"options": 3}),
        Refusal(name="options it has not", says="TorchDecoder.module.*widht", params={"options": {"widht": 3}}),
        Refusal(name="too many outputs", says=r"output of shape \(2, 2\), got \(2, 7\)",
                params={"options": {"n_outputs": 7}}),
    ),
    syncs=35,
)  # fmt: skip

TABLE = (DYNAMIC_CONNECTOME, HMM_GLM, BI_CLUSTER, LIGHT_CNN, DU_IN, TORCH_DECODER)
