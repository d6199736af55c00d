"""Decoder: the base of all networks that tell from a window of brain data what was heard, said, seen or done."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, NamedTuple, ParamSpec, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..core import loops
from ..core.contract import Contract
from ..core.device import default_dtype, highest_precision, resolve_dtype
from ..core.errors import InputError, explain
from ..core.estimator import Estimator, Run, as_tuple, numbers, undisturbed
from ..core.params import param
from ..core.random import isolated, spawn
from ..core.recording import Recording
from ..core.result import hash_tensors
from . import trials
from .check import check_steps, make_check, verify
from .decoder_result import DecoderResult as DecoderResult
from .standardise import Standardise, learn_standard

P = ParamSpec("P")
T = TypeVar("T")
CHUNK = 256  #: trials that pass through a network at once when nothing is learnt


class Network(nn.Module):
    """The normaliser and what it feeds; both are saved as one."""

    def __init__(self, standard: Standardise, body: nn.Module) -> None:
        super().__init__()
        self.standard, self.body = standard, body

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channel, time) in the units of the recording to logits (batch, class)."""
        found: Tensor = self.body(self.standard(x))
        return found

    def init_state(self, batch: int, n_times: int) -> Any:
        """Return what the body remembers of a stream before its first sample; None if it takes whole windows only."""
        begin = getattr(self.body, "init_state", None)
        return None if begin is None else begin(batch, n_times)

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Take new samples (batch, channel, time); return the logits of the window that ends with them, and a state."""
        body: Any = self.body
        found: tuple[Tensor, Any] = body.step(self.standard(x), state)
        return found


class Start(NamedTuple):
    """What an adaptation begins from."""

    result: DecoderResult
    part: str


class Trained(NamedTuple):
    """What training leaves."""

    network: Network
    outcome: loops.TrainResult
    per_epoch: int


def apart(verb: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """Compute a verb of a decoder without gradients and in its own precision, whatever modes the caller is in."""

    @wraps(verb)
    def call(self: Any, /, *args: P.args, **options: P.kwargs) -> T:
        with undisturbed(self.result_.counts.device), default_dtype(torch.float32), torch.no_grad():
            return verb(self, *args, **options)

    return call


@dataclass(kw_only=True, eq=False)
class Decoder(Estimator[DecoderResult]):
    """Base of decoders: a network from windows (trial, channel, time) to classes.

    A subclass implements ``_build``; training, early stopping, checkpoints, normalisation, files and the input contract
    are here. ``fit`` takes recordings with the axes trial, channel and time (one, or a list of equal channels), and
    labels: one for each trial, an array for each recording, or the name of a trial column; without any, the trial
    column "label".

    Parameters
    ----------
    epochs : int, default 60
        Passes over the training trials, at most.
    batch_size : int, default 32
        Trials in a batch.
    accumulate : int, default 1
        Batches in a step, at most those of an epoch; their gradients are averaged, in the memory of one.
    lr : float, default 1e-3
        Learning rate (AdamW).
    weight_decay : float, default 0.0
        Decoupled weight decay.
    schedule : {"constant", "cosine"}, default "constant"
        Course of the learning rate.
    clip : float or None, default None
        Largest norm of a gradient.
    precision : {"float32", "bf16"}, default "float32"
        Arithmetic of the forward pass in training.
    class_weight : {"balanced"} or None, default None
        Weigh classes against their frequency in training.
    normalise : {"channel", "global", "robust", "none"}, default "channel"
        Learnt from the training trials: mean and standard deviation of each channel or of all; median and
        interquartile range of each channel; or nothing.
    clamp : float or None, default None
        Largest absolute value after normalisation.
    validation : float, default 0.2
        Share of the groups set aside to stop by; 0 trains all epochs on all trials.
    group : str or None, default None
        What is never parted between training and validation: "subject", "session", "trial" or a trial column. None
        takes subjects or sessions where there are five or more, else the trial column "block", else single trials.
        Trials whose windows overlap in time are never parted.
    patience : int or None, default 20
        Epochs without improvement of the validation loss before training stops.
    device, random_state, dtype
        See :class:`Estimator`.
    """

    epochs: int = param(60, int, low=1)
    batch_size: int = param(32, int, low=1)
    accumulate: int = param(1, int, low=1)
    lr: float = param(1e-3, float, low=0, open_low=True)
    weight_decay: float = param(0.0, float, low=0)
    schedule: str = param("constant", options=("constant", "cosine"))
    clip: float | None = param(None, float, low=0, open_low=True)
    precision: str = param("float32", options=("float32", "bf16"))
    class_weight: str | None = param(None, options=("balanced",))
    normalise: str = param("channel", options=("channel", "global", "robust", "none"))
    clamp: float | None = param(None, float, low=0, open_low=True)
    validation: float = param(0.2, float, low=0, high=0.9)
    group: str | None = param(None, str)
    patience: int | None = param(20, int, low=1, optional=True)

    # What a subclass fills in

    @abstractmethod
    def _build(self, n_channels: int, n_times: int, n_classes: int, rate: float) -> nn.Module:
        """Make the network (batch, channel, time) -> logits (batch, class), on the CPU, from torch's generator."""

    def _head(self, body: nn.Module) -> nn.Module:
        """Return the part of the network that depends on the classes: ``head``, or the last linear or conv layer."""
        for name in ("head", "final_layer", "classifier"):
            head = getattr(body, name, None)
            if isinstance(head, nn.Module) and any(True for _ in head.parameters()):
                return head
        layers = [m for m in body.modules() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))]
        if not layers:
            got = type(body).__name__
            raise InputError(explain(f"{type(self).__name__}.adapt", expected="a network with a head", got=got))
        return layers[-1]

    def _augment(self, x: Tensor) -> Tensor:
        """Change a batch of training trials (batch, channel, time); draw from torch's generator of its device."""
        return x

    def _loss(
        self, network: nn.Module, batch: tuple[Tensor, ...], weight: Tensor | None
    ) -> Tensor | Mapping[str, Tensor]:
        """Return the loss of a batch ``(x, y)``, or a mapping of terms with "loss"."""
        x, y = batch
        return F.cross_entropy(network(x), y, weight=weight)

    # Steps of a fit

    def _check(self, data: tuple[Any, ...], target: Any) -> tuple[Any, ...]:
        where = f"{type(self).__name__}.fit"
        found = trials.as_trials(data, where)
        trials.check_varies(found, where)
        if self.normalise == "none":
            trials.warn_if_tiny(found, where)
        return found

    def _fit(self, data: tuple[Recording, ...], target: Any, run: Run) -> tuple[DecoderResult, bool | None]:
        where = type(self).__name__
        start = self._start(run.init)
        column = "" if start is None else start.result.target
        values, column = trials.read_labels(data, target, where, column=column)
        labels = trials.encode(values, where)._replace(column=column)
        contract = Contract.of(data[0], axis="channel", window=True)
        self._check_start(start, labels, contract)
        groups = trials.trial_groups(data, self.group)
        held = trials.hold_out(groups, labels.codes, share=self.validation, seed=run.seed, where=where)
        x = trials.stacked(data, run.device, run.dtype)
        y = torch.from_numpy(labels.codes).to(run.device)
        network = self._prepared(contract, labels.names, x, held, start, run)
        trained = self._train(network, x, y, held, start, run, hash_tensors(numbers(data)))
        result = self._describe(trained, x, y, held, labels, contract)
        return result, trained.outcome.stopped_early if len(held.validation) else None

    def _start(self, init: Any) -> Start | None:
        """Return what to begin from, if anything."""
        if init is None or isinstance(init, Start):
            return init
        if not isinstance(init, DecoderResult):
            got = type(init).__name__
            raise InputError(explain(f"{type(self).__name__}.fit(init)", expected="a result of this decoder", got=got))
        return Start(init, "all")

    def _check_start(self, start: Start | None, labels: trials.Labels, contract: Contract) -> None:
        """Refuse a result of other windows; of other classes only the head may start anew."""
        if start is not None and (start.result.contract.size, start.result.contract.n_times) != (
            contract.size, contract.n_times,
        ):  # fmt: skip
            got = f"one of {start.result.contract.size} channels and {start.result.contract.n_times} samples"
            expected = f"a result of {contract.size} channels and {contract.n_times} samples"
            raise InputError(explain(f"{type(self).__name__}.fit(init)", expected=expected, got=got))

    def _prepared(
        self,
        contract: Contract,
        names: tuple[str | int, ...],
        x: Tensor,
        held: trials.Holdout,
        start: Start | None,
        run: Run,
    ) -> Network:
        """Make the network and learn its normaliser, or take both from a result."""
        network = self._assembled(contract, len(names), run.device, run.dtype, seed=run.seed)
        if start is None:
            centre, scale = learn_standard(x, torch.from_numpy(held.train).to(x.device), self.normalise)
            network.standard.set(centre, scale)
            return network
        state, fresh = dict(start.result.weights), network.state_dict()
        if start.result.labels != names:
            head = {id(p) for p in self._head(network.body).state_dict(keep_vars=True).values()}
            heads = [k for k, v in network.state_dict(keep_vars=True).items() if id(v) in head]
            state |= {k: fresh[k] for k in heads}
        wrong = [k for k in fresh if k not in state or state[k].shape != fresh[k].shape]
        if wrong:
            where, got = f"{type(self).__name__}.fit(init)", f"another shape of {wrong[:3]}"
            raise InputError(explain(where, expected="a result of the same network", got=got))
        network.load_state_dict({k: state[k].to(device=run.device, dtype=v.dtype) for k, v in fresh.items()})
        return network

    def _assembled(
        self, contract: Contract, n_classes: int, device: torch.device, dtype: torch.dtype, *, seed: int = 0
    ) -> Network:
        """Build the network for a contract; its first weights are drawn on the CPU."""
        with isolated(spawn(seed, "network")), torch.device("cpu"):
            body = self._build(contract.size, int(contract.n_times or 0), n_classes, float(contract.rate or 0.0))
            network = Network(Standardise(contract.size, clamp=self.clamp), body)
        return network.to(device=device, dtype=dtype)

    def _train(
        self,
        network: Network,
        x: Tensor,
        y: Tensor,
        held: trials.Holdout,
        start: Start | None,
        run: Run,
        data_hash: str,
    ) -> Trained:
        """Train by the loop of the house; stop by the trials set aside."""
        train, aside = (torch.from_numpy(rows).to(x.device) for rows in held)
        size = min(self.batch_size, len(train))
        rows = loops.minibatches(train, size=size, seed=run.seed)
        weight = self._class_weight(y[train], network)
        accumulate = min(self.accumulate, rows.per_epoch)
        per_epoch = rows.per_epoch // accumulate
        steps = self.epochs * per_epoch
        frozen = self._freeze(network, start)
        optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=self.lr,
                                      weight_decay=self.weight_decay)  # fmt: skip

        def batches(step: int) -> tuple[Tensor, Tensor]:
            (chosen,) = rows(step)
            return self._augment(x[chosen]), y[chosen]

        def loss(module: nn.Module, batch: tuple[Tensor, ...]) -> Tensor | Mapping[str, Tensor]:
            for part in frozen:
                part.eval()
            return self._loss(module, batch, weight)

        def validate(module: nn.Module) -> Tensor:
            return F.cross_entropy(_logits(module, x, aside), y[aside], weight=weight)

        outcome = loops.train(
            network, loss, batches, steps=steps, optimizer=optimizer, seed=run.seed, clip=self.clip,
            schedule=loops.warmup_cosine(steps) if self.schedule == "cosine" else None,
            val=validate if len(aside) else None, val_every=per_epoch, patience=self.patience,
            precision=self.precision, accumulate=accumulate, checkpoint=self._checkpoint(run, per_epoch, data_hash),
        )  # fmt: skip
        return Trained(network, outcome, per_epoch)

    def _class_weight(self, y: Tensor, network: Network) -> Tensor | None:
        """Return weights (class,) against the frequency of the classes, or None."""
        if self.class_weight is None:
            return None
        counts = torch.bincount(y.cpu()).to(device=y.device, dtype=next(network.parameters()).dtype)
        return counts.sum() / (len(counts) * counts)

    def _freeze(self, network: Network, start: Start | None) -> list[nn.Module]:
        """Fix all but the head, if only that is to be adapted; return the parts that must not train."""
        if start is None or start.part == "all":
            return []
        head = self._head(network.body)
        network.requires_grad_(False)
        head.requires_grad_(True)
        inside = set(head.modules())
        return [m for m in network.modules() if m not in inside and not inside & set(m.modules())]

    def _checkpoint(self, run: Run, every: int, data_hash: str) -> loops.Checkpoint | None:
        """Return where training saves and what makes it the same run."""
        if run.checkpoint is None:
            return None
        settings = {k: repr(v) for k, v in self.get_params().items() if k not in ("device", "random_state")}
        identity = {"estimator": type(self).__name__, "data": data_hash, "seed": run.seed, **settings}
        return loops.Checkpoint(path=run.checkpoint, every=every, config=identity)

    def _describe(
        self, trained: Trained, x: Tensor, y: Tensor, held: trials.Holdout, labels: trials.Labels, contract: Contract
    ) -> DecoderResult:
        """Gather what was learnt."""
        n, dtype = len(labels.names), highest_precision(x.device)
        history = {k: v.to(x.device, dtype) for k, v in trained.outcome.history.items()}
        loss = history["loss"]
        epochs = max(1, len(loss) // trained.per_epoch)
        confusion = None
        if len(held.validation):
            rows = torch.from_numpy(held.validation).to(x.device)
            with torch.no_grad():
                confusion = trials.confusion_counts(y[rows], _logits(trained.network, x, rows).argmax(1), n)
        return DecoderResult(
            coords={"label": {"name": list(labels.names)}},
            labels=labels.names,
            contract=contract,
            weights={k: v.detach().clone() for k, v in trained.network.state_dict().items()},
            history=history,
            counts=torch.from_numpy(np.bincount(labels.codes, minlength=n)).to(x.device),
            loss=loss[: epochs * trained.per_epoch].reshape(epochs, -1).mean(1).to(x.dtype),
            val_loss=history["val"].to(x.dtype) if "val" in history else None,
            confusion=confusion,
            best_epoch=max(1, trained.outcome.best_step // trained.per_epoch),
            target=labels.column,
        )

    # The fitted decoder

    @property
    def contract_(self) -> Contract:
        """Channels, rate, unit and window that new data must have."""
        return self.result_.contract

    @property
    def classes_(self) -> np.ndarray:
        """Classes in order, as scikit-learn names them."""
        return np.asarray(self.result_.labels)

    def _network(self) -> Network:
        """Return the trained network where the result is, in evaluation mode."""
        result = self.result_
        kept = self.__dict__.get("_kept")
        if kept is None or kept[0] is not result:
            network = self._assembled(
                result.contract, len(result.labels), result.counts.device, resolve_dtype(self.dtype)
            )
            network.load_state_dict(dict(result.weights))
            kept = self.__dict__["_kept"] = (result, network.eval().requires_grad_(False))
        found: Network = kept[1]
        return found

    def _trials(self, data: Any, verb: str) -> tuple[Recording, ...]:
        """Check new data against the contract."""
        where = f"{type(self).__name__}.{verb}"
        found = trials.as_trials(as_tuple(data, where), where, contract=self.contract_)
        scale = None if self.normalise == "none" else self.result_.weights["standard.scale"].reshape(-1)
        trials.check_alike(found, scale, where)
        return found

    def _predicted(self, data: tuple[Recording, ...]) -> Tensor:
        """Return the logits of new trials: Tensor (trial, class)."""
        network, device = self._network(), self.result_.counts.device
        return torch.cat([_logits(network, trials.stacked([rec], device, resolve_dtype(self.dtype))) for rec in data])

    @apart
    def predict_proba(self, data: Any) -> Tensor:
        """Return the probability of every class.

        Parameters
        ----------
        data : as for ``fit``, of the same channels, rate, unit and window

        Returns
        -------
        Tensor, shape (trial, class)
            Rows sum to 1; the trials of several recordings follow each other.
        """
        return self._predicted(self._trials(data, "predict_proba")).softmax(1)

    @apart
    def predict(self, data: Any) -> np.ndarray:
        """Return the most probable label of every trial: array (trial,) of str or int."""
        found = self._predicted(self._trials(data, "predict")).argmax(1)
        decided: np.ndarray = self.classes_[found.cpu().numpy()]
        return decided

    @apart
    def decision_function(self, data: Any) -> Tensor:
        """Return logits (trial, class); of two classes the second less the first, (trial,)."""
        logits = self._predicted(self._trials(data, "decision_function"))
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    @apart
    def score(self, data: Any, target: Any = None) -> float:
        """Return the balanced accuracy: the mean over classes of the share decided rightly, in [0, 1].

        Chance is 1 / number of classes. Without ``target`` the labels are those of the trial column used in ``fit``.
        """
        where, result = type(self).__name__, self.result_
        found = self._trials(data, "score")
        values, _ = trials.read_labels(found, target, f"{where}.score", column=result.target)
        truth = torch.from_numpy(trials.encode(values, f"{where}.score", names=result.labels).codes)
        decided = self._predicted(found).argmax(1)
        return float(trials.mean_recall(trials.confusion_counts(truth.to(decided.device), decided, len(result.labels))))

    def adapt(
        self, data: Any, target: Any = None, *, part: str = "all", epochs: int | None = None, lr: float | None = None
    ) -> Self:
        """Return a copy trained on from here on other data: a new day, a new subject, other classes.

        The normaliser stays as it was learnt. If the classes differ, the head starts anew.

        Parameters
        ----------
        data, target
            As for ``fit``, of the same channels, rate, unit and window.
        part : {"all", "head"}, default "all"
            What to train.
        epochs : int, optional
            Default: as in ``fit``.
        lr : float, optional
            Default: as in ``fit``.
        """
        where = f"{type(self).__name__}.adapt"
        if part not in ("all", "head"):
            raise InputError(explain(f"{where}(part)", expected="'all' or 'head'", got=repr(part)))
        start = Start(self.result_, part)
        found = list(trials.as_trials(as_tuple(data, where), where, contract=self.contract_))
        changes = {"epochs": epochs, "lr": lr}
        fresh = type(self)(**{**self.get_params(), **{k: v for k, v in changes.items() if v is not None}})
        return fresh.fit(found, target, init=start)

    def forward_module(self) -> nn.Module:
        """Return the trained network with its normaliser as a plain module, to stream or to export.

        Returns
        -------
        nn.Module
            On the CPU, in evaluation mode, float32: (batch, channel, time) in the unit of ``contract_`` -> logits
            (batch, class).
        """
        result, cpu = self.result_, torch.device("cpu")
        with default_dtype(torch.float32), torch.inference_mode(False):
            network = self._assembled(result.contract, len(result.labels), cpu, torch.float32)
            state = {k: v.to(cpu) for k, v in result.weights.items()}
            network.load_state_dict(state)
            return network.eval().requires_grad_(False)

    # Files

    def __getstate_tectum__(self) -> dict[str, Any]:
        return {**super().__getstate_tectum__(), "check": self._check_of()}

    @classmethod
    def __setstate_tectum__(cls, state: Mapping[str, Any]) -> Self:
        made = super().__setstate_tectum__(state)
        module = None if state.get("check") is None else made._runnable()
        if module is not None:
            verify(module, made.contract_, state["check"], cls.__name__)
        return made

    def _check_of(self) -> dict[str, Any] | None:
        """Return the test that is saved with the network; None where there is no network to run."""
        module = self._runnable()
        if module is None:
            return None
        known = getattr(getattr(module, "standard", None), "scale", None)
        scale = float(known.median()) if isinstance(known, Tensor) and self.normalise != "none" else 1.0
        check_steps(module, self.contract_, scale, f"{type(self).__name__}.save")
        made = make_check(module, self.contract_, scale=scale)
        return made if np.isfinite(made["logits"]).all() else None

    def _runnable(self) -> nn.Module | None:
        """Return the trained module; None if a stage is missing, or if its class is only known by name."""
        try:
            return self.forward_module()
        except InputError:
            return None

    # The conventions scikit-learn relies on, by structure.

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags  # only scikit-learn calls this

        tags = super().__sklearn_tags__()
        tags.estimator_type, tags.classifier_tags = "classifier", ClassifierTags()
        tags.target_tags.required = True
        return tags


def _logits(network: nn.Module, x: Tensor, rows: Tensor | None = None) -> Tensor:
    """Return the logits of trials, so many at a time that memory stays bounded."""
    parts = x.split(CHUNK) if rows is None else (x[chosen] for chosen in rows.split(CHUNK))
    return torch.cat([network(part) for part in parts])
