"""The three loops of the toolkit: ``train`` (gradient), ``em`` (fixed point) and ``gibbs`` (Markov chain).

Progress, early stopping, checkpoint and resume, non-finite detection, precision and distribution over
processes live here and nowhere else. Randomness is a function of (seed, step), so a run that was killed and
resumed gives the result of one that was not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import distributed
from .batches import minibatches as minibatches
from .batches import warmup_cosine as warmup_cosine
from .checkpoint import Checkpoint as Checkpoint
from .device import highest_precision
from .errors import InputError, NonFiniteError, explain
from .log import progress
from .params import at_least
from .random import generator, isolated, seed_layers, spawn

State = Any
Batches = Callable[[int], Any]
LossFn = Callable[[nn.Module, Any], "Tensor | Mapping[str, Tensor]"]


# Gradient


class TrainResult(NamedTuple):
    """What a training run leaves besides the trained module."""

    history: dict[str, Tensor]  #: each loss term, shape (n_steps,), float64; "val", shape (n_evaluations,)
    best_step: int  #: step of the lowest validation value (the last step without validation)
    steps: int  #: steps taken
    stopped_early: bool  #: whether patience ran out


class _Progress(NamedTuple):
    step: int
    best: float
    best_step: int
    stale: int


def train(
    module: nn.Module,
    loss_fn: LossFn,
    batches: Batches,
    *,
    steps: int,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[int], float] | None = None,
    val: Callable[[nn.Module], float | Tensor] | None = None,
    val_every: int = 100,
    patience: int | None = None,
    clip: float | None = None,
    precision: str = "float32",
    accumulate: int = 1,
    seed: int = 0,
    checkpoint: Checkpoint | None = None,
    callback: Callable[[int, Mapping[str, float]], None] | None = None,
) -> TrainResult:
    """Train a module by gradient descent, in one process or in each of many.

    Parameters
    ----------
    module : nn.Module
        Trained in place, ends in evaluation mode; with ``val`` it has the weights of the best evaluation.
    loss_fn : callable
        ``loss_fn(module, batch)`` returns a scalar loss or a mapping of terms that includes "loss".
    batches : callable
        ``batches(step)`` returns the batch of a step (see :func:`minibatches`); with ``accumulate`` A, step n takes
        the batches ``n A`` to ``n A + A - 1``.
    steps : int
        Number of optimiser steps.
    optimizer : torch.optim.Optimizer
        Over the parameters of ``module``.
    schedule : callable, optional
        ``schedule(step)`` multiplies the learning rates.
    val : callable, optional
        ``val(module)`` returns a value to minimise; called in evaluation mode without gradients.
    val_every : int, default 100
        Steps between evaluations.
    patience : int, optional
        Evaluations without improvement before training stops.
    clip : float, optional
        Largest gradient norm.
    precision : {"float32", "bf16", "fp16"}, default "float32"
        Autocast type of the forward pass.
    accumulate : int, default 1
        Batches averaged into one optimiser step.
    seed : int, default 0
        Seeds layers that draw (dropout) at every step, differently in each process.
    checkpoint : Checkpoint, optional
        Where to save and resume.
    callback : callable, optional
        ``callback(step, terms)`` after each step.

    Returns
    -------
    TrainResult

    Raises
    ------
    NonFiniteError
        If a loss, or a parameter to be saved, is NaN or infinite; names the step. The last checkpoint is kept.

    Examples
    --------
    >>> model = nn.Linear(1, 1)
    >>> x = torch.linspace(-1, 1, 32)[:, None]
    >>> out = train(model, lambda m, b: (m(b) - 2 * b).square().mean(), lambda step: x, steps=50,
    ...             optimizer=torch.optim.SGD(model.parameters(), lr=0.5))
    >>> out.history["loss"][-1] < 1e-3
    tensor(True)
    """
    at_least(1, "train", accumulate=accumulate, val_every=val_every)
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    if checkpoint is not None:
        checkpoint = checkpoint.of("train", seed=seed, accumulate=accumulate, precision=precision, clip=clip)
    engine = _Engine(precision, device, optimizer, clip)
    keeper = _Keeper(module, engine, schedule, checkpoint, steps)
    place, history = keeper.restore()
    parallel, rank = distributed.wrap(module), distributed.world().rank
    module.train()
    with isolated(seed, device), torch.inference_mode(False), torch.enable_grad():
        for step in progress(range(place.step, steps), "training", total=steps, initial=place.step):
            if patience is not None and place.stale >= patience:
                break
            seed_layers(spawn(seed, "train", step, rank), device)
            keeper.set_rate(step)
            terms = engine.step(parallel, loss_fn, [batches(step * accumulate + k) for k in range(accumulate)], step)
            for name, value in terms.items():
                history.setdefault(name, []).append(value)
            if callback is not None:
                callback(step + 1, terms)
            place = place._replace(step=step + 1)
            if val is not None and ((step + 1) % val_every == 0 or step + 1 == steps):
                place = keeper.evaluate(val, place, history)
            keeper.maybe_save(place, history)
    distributed.average_buffers(module)
    keeper.finish(val is not None)
    curves = {k: torch.tensor(v, dtype=torch.float64, device="cpu") for k, v in history.items()}
    return TrainResult(curves, place.best_step if val is not None else place.step, place.step, place.step < steps)


class _Engine:
    """One optimiser step: forward in the asked precision, backward, clip, update."""

    def __init__(
        self, precision: str, device: torch.device, optimizer: torch.optim.Optimizer, clip: float | None
    ) -> None:
        types = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
        if precision not in types:
            raise InputError(explain("train(precision)", expected=f"one of {list(types)}", got=repr(precision)))
        self.device, self.optimizer, self.clip, self.cast = device, optimizer, clip, types[precision]
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16" and device.type == "cuda")

    def step(self, module: nn.Module, loss_fn: LossFn, batches: list[Any], step: int) -> dict[str, float]:
        """Update the module once from a few batches; return the averaged loss terms."""
        self.optimizer.zero_grad(set_to_none=True)
        totals: dict[str, Tensor] = {}
        for k, batch in enumerate(batches):
            last = k == len(batches) - 1
            with _local_gradients(module, last):
                with self._autocast():
                    terms = loss_fn(module, batch)
                named = dict(terms) if isinstance(terms, Mapping) else {"loss": terms}
                if "loss" not in named:
                    raise InputError(explain("train(loss_fn)", expected="a term 'loss'", got=str(sorted(named))))
                self.scaler.scale(named["loss"] / len(batches)).backward()
            for name, value in named.items():
                share = torch.as_tensor(value, device=self.device).detach() / len(batches)
                totals[name] = totals[name] + share if name in totals else share
        numbers = _read(totals, step)
        self._update(module)
        return numbers

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self.cast is None else torch.autocast(self.device.type, dtype=self.cast)

    def _update(self, module: nn.Module) -> None:
        if self.clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(module.parameters(), self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()


def _read(totals: Mapping[str, Tensor], step: int) -> dict[str, float]:
    """Average terms over processes, bring them to the host in one transfer, and refuse non-finite losses."""
    values = list(totals.values())
    dtype = highest_precision(values[0].device)
    stacked = distributed.mean(torch.stack([v.to(dtype).reshape(()) for v in values]))
    numbers = dict(zip(totals, stacked.tolist(), strict=True))
    if not math.isfinite(numbers["loss"]):
        raise NonFiniteError(
            explain(
                "train",
                expected="a finite loss",
                got=f"{numbers} at step {step}",
                fix="lower the learning rate or clip gradients",
            )
        )
    return numbers


class _Keeper:
    """Learning rates, best weights, evaluation and checkpoints of one training run."""

    def __init__(
        self,
        module: nn.Module,
        engine: _Engine,
        schedule: Callable[[int], float] | None,
        checkpoint: Checkpoint | None,
        steps: int,
    ) -> None:
        self.module, self.engine, self.schedule, self.checkpoint, self.steps = (
            module,
            engine,
            schedule,
            checkpoint,
            steps,
        )
        self.optimizer = engine.optimizer
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.best: dict[str, Tensor] | None = None

    def restore(self) -> tuple[_Progress, dict[str, list[float]]]:
        """Load a checkpoint, if there is one; return where the run stands and its history."""
        saved = self.checkpoint.load() if self.checkpoint is not None else None
        if saved is None:
            return _Progress(0, math.inf, 0, 0), {}
        self.module.load_state_dict(saved["module"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.engine.scaler.load_state_dict(saved["scaler"])
        self.rates, self.best = saved["rates"], saved["best"]
        return _Progress(*saved["place"]), {k: v.tolist() for k, v in saved["history"].items()}

    def set_rate(self, step: int) -> None:
        """Apply the schedule."""
        if self.schedule is not None:
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * self.schedule(step)

    def evaluate(
        self, val: Callable[[nn.Module], float | Tensor], place: _Progress, history: dict[str, list[float]]
    ) -> _Progress:
        """Evaluate once; keep the weights if they are the best so far."""
        distributed.average_buffers(self.module)
        with evaluating(self.module):
            found = torch.as_tensor(val(self.module), device=self.engine.device)
            value = float(distributed.mean(found.to(highest_precision(found.device))))
        history.setdefault("val", []).append(value)
        if value < place.best:
            self.best = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
            return place._replace(best=value, best_step=place.step, stale=0)
        return place._replace(stale=place.stale + 1)

    def maybe_save(self, place: _Progress, history: Mapping[str, list[float]]) -> None:
        """Write a checkpoint if one is due."""
        if self.checkpoint is None or not self.checkpoint.due(place.step, self.steps):
            return
        for name, value in self.module.named_parameters():
            if not bool(torch.isfinite(value).all()):
                where = f"{name!r} after step {place.step}"
                raise NonFiniteError(explain("train", expected="finite parameters", got=f"NaN or infinity in {where}"))
        if place.step == self.steps:  # a run resumed behind its end has the statistics of the first process only
            distributed.average_buffers(self.module)
        curves = {k: torch.tensor(v, dtype=torch.float64, device="cpu") for k, v in history.items()}
        state = {"place": tuple(place), "rates": self.rates, "history": curves, "best": self.best}
        parts: dict[str, Any] = {"module": self.module, "optimizer": self.optimizer, "scaler": self.engine.scaler}
        self.checkpoint.save({**state, **{name: part.state_dict() for name, part in parts.items()}})
        distributed.barrier()

    def finish(self, validated: bool) -> None:
        """Leave the module in evaluation mode with its best weights and the learning rates as given."""
        if validated and self.best is not None:
            self.module.load_state_dict(self.best)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate
        self.module.eval()


def _local_gradients(module: nn.Module, last: bool) -> contextlib.AbstractContextManager[Any]:
    """Postpone the exchange of gradients between processes until the last of the accumulated batches."""
    if isinstance(module, nn.parallel.DistributedDataParallel) and not last:
        return module.no_sync()
    return contextlib.nullcontext()


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module in evaluation mode without gradients, and back again whatever happens."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


# Fixed point


class EMResult(NamedTuple):
    """End of a fixed-point iteration."""

    state: State
    history: Tensor  #: objective, shape (n_iter,) or (n_iter, n_starts), float64
    n_iter: int
    converged: bool


def em(
    step: Callable[[State], tuple[State, Tensor]],
    state: State,
    *,
    max_iter: int,
    tol: float,
    min_iter: int = 1,
    check_every: int = 1,
    finished: Callable[[State], bool] | None = None,
    checkpoint: Checkpoint | None = None,
    description: str = "fitting",
) -> EMResult:
    """Iterate ``state, objective = step(state)`` until the objective stops changing.

    Parameters
    ----------
    step : callable
        One iteration; the objective is a scalar or one value for each restart.
    state : tree of tensors
        Starting point (mapping, tuple, list, storable object).
    max_iter : int
        Largest number of iterations.
    tol : float
        Stops when every ``|change| <= tol * max(1, |objective|)`` over the last iteration.
    min_iter : int, default 1
        Smallest number of iterations.
    check_every : int, default 1
        Iterations between looks at the objective: each look waits for the device.
    finished : callable, optional
        ``finished(state)`` tells whether to stop, in place of ``tol``; asked at every look.
    checkpoint : Checkpoint, optional
        Where to save and resume.
    description : str
        Label of the progress bar.

    Returns
    -------
    EMResult

    Raises
    ------
    NonFiniteError
        If the objective is NaN or infinite; names the first such iteration. The last checkpoint is kept.

    Examples
    --------
    >>> out = em(lambda x: ((x + 2 / x) / 2, (x - 2 / x).abs()), torch.tensor(1.0), max_iter=50, tol=1e-6)
    >>> round(out.state.item(), 4), out.converged
    (1.4142, True)
    """
    at_least(1, "em", check_every=check_every)
    if checkpoint is not None:
        checkpoint = checkpoint.of("em", tol=tol, min_iter=min_iter, check_every=check_every)
    saved = checkpoint.load() if checkpoint is not None else None
    first, state = (0, state) if saved is None else (saved["step"], _like(saved["state"], state))
    history: list[Tensor] = [] if saved is None else list(saved["history"])
    converged = saved is not None and saved["converged"]
    done = first
    for n in progress(range(first, first if converged else max_iter), description, total=max_iter, initial=first):
        state, objective = step(state)
        if history and history[-1].device != objective.device:  # read from a checkpoint
            history = [value.to(objective.device) for value in history]
        history.append(objective.detach().to(highest_precision(objective.device)))
        done = n + 1
        save, check = checkpoint is not None and checkpoint.due(done, max_iter), done % check_every == 0
        if save or check or done == max_iter:
            still = _look(history, tol)
            settled = still if finished is None else finished(state)
            converged = settled and done >= min_iter and (check or done == max_iter)
        if checkpoint is not None and (converged or save):
            checkpoint.save({"step": done, "state": state, "history": torch.stack(history), "converged": converged})
        if converged:
            break
    empty = torch.zeros(0, dtype=torch.float64, device="cpu")
    return EMResult(state, torch.stack(history).cpu() if history else empty, done, converged)


def _look(history: list[Tensor], tol: float) -> bool:
    """Wait once for the device: refuse an objective that is not finite, tell whether all changed by the tolerance."""
    last = history[-1]
    change = last - history[-2] if len(history) > 1 else torch.full_like(last, math.inf)
    still = change.abs() <= tol * last.abs().clamp(min=1.0)
    finite, settled = torch.stack([torch.isfinite(last).all(), still.all()]).tolist()
    if not finite:
        n = next(n for n, value in enumerate(history) if not bool(torch.isfinite(value).all()))
        got = f"{history[n].tolist()} at iteration {n + 1}"
        raise NonFiniteError(explain("em", expected="a finite objective", got=got))
    return bool(settled)


def _like(saved: State, state: State) -> State:
    """Bring a state read from disk to the device and container types of the starting state."""
    if isinstance(state, Tensor):
        return saved.to(state.device)
    if isinstance(state, Mapping):
        return {k: _like(saved[k], v) for k, v in state.items()}
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return type(state)(*(_like(a, b) for a, b in zip(saved, state, strict=True)))
    if isinstance(state, (list, tuple)):
        return type(state)(_like(a, b) for a, b in zip(saved, state, strict=True))
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        fields = [f.name for f in dataclasses.fields(state)]
        return dataclasses.replace(saved, **{f: _like(getattr(saved, f), getattr(state, f)) for f in fields})
    return saved


# Markov chain


class GibbsResult(NamedTuple):
    """Draws of a Markov chain."""

    draws: dict[str, Tensor]  #: recorded quantities, shape (n_chains, n_draws, ...)
    state: State  #: last state


def gibbs(
    step: Callable[[State, torch.Generator], State],
    state: State,
    *,
    draws: int,
    record: Callable[[State], Mapping[str, Tensor]],
    burn: int = 0,
    thin: int = 1,
    seed: int = 0,
    device: torch.device | str = "cpu",
    checkpoint: Checkpoint | None = None,
    description: str = "sampling",
) -> GibbsResult:
    """Run Markov chains side by side as the leading axis of the state's tensors.

    Parameters
    ----------
    step : callable
        ``step(state, generator)`` makes one sweep of all chains.
    state : tree of tensors, leading axis n_chains
        Starting point.
    draws : int
        Draws kept of each chain.
    record : callable
        ``record(state)`` returns the quantities to keep, each of shape (n_chains, ...).
    burn : int, default 0
        Sweeps before the first draw.
    thin : int, default 1
        Sweeps for each draw.
    seed : int, default 0
        The generator of sweep n is seeded from (seed, n).
    device : torch.device, default "cpu"
        Where the state and the generator live.
    checkpoint : Checkpoint, optional
        Where to save and resume.
    description : str
        Label of the progress bar.

    Returns
    -------
    GibbsResult

    Raises
    ------
    NonFiniteError
        If a recorded quantity is NaN or infinite; names it and the sweep. Looked at before each checkpoint and at the
        end: a look waits for the device.

    Examples
    --------
    >>> def sweep(x, g):
    ...     return 0.5 * x + torch.randn(x.shape, generator=g)
    >>> out = gibbs(sweep, torch.zeros(4), draws=10, record=lambda x: {"x": x}, burn=5)
    >>> out.draws["x"].shape
    torch.Size([4, 10])
    """
    at_least(0, "gibbs", draws=draws, burn=burn)
    at_least(1, "gibbs", thin=thin)
    last = burn + draws * thin
    if checkpoint is not None:
        checkpoint = checkpoint.of("gibbs", draws=draws, burn=burn, thin=thin, seed=seed)
    saved = checkpoint.load() if checkpoint is not None else None
    first, state = (0, state) if saved is None else (saved["step"], _like(saved["state"], state))
    kept: dict[str, Tensor] = {} if saved is None else {k: v.to(device) for k, v in saved["draws"].items()}
    for n in progress(range(first, last), description, total=last, initial=first):
        state = step(state, generator(spawn(seed, "gibbs", n), device))
        if n >= burn and (n - burn + 1) % thin == 0:
            _store(kept, record(state), (n - burn) // thin, draws)
        if checkpoint is not None and checkpoint.due(n + 1, last):
            _refuse_nonfinite(kept, burn, thin)
            checkpoint.save({"step": n + 1, "state": state, "draws": kept})
    _refuse_nonfinite(kept, burn, thin)
    return GibbsResult(kept, state)


def _store(kept: dict[str, Tensor], values: Mapping[str, Tensor], place: int, draws: int) -> None:
    """Write one draw of every quantity into its preallocated (n_chains, n_draws, ...) tensor."""
    for name, value in values.items():
        if value.ndim == 0:
            raise InputError(explain(f"gibbs (record {name!r})", expected="shape (n_chains, ...)", got="a scalar"))
        if name not in kept:
            kept[name] = value.new_zeros((value.shape[0], draws, *value.shape[1:]))
        kept[name][:, place] = value.detach()


def _refuse_nonfinite(kept: Mapping[str, Tensor], burn: int, thin: int) -> None:
    """Raise NonFiniteError that names the first draw that is not finite (draws to come are zero)."""
    for name, value in kept.items():
        if not bool(torch.isfinite(value).all()):
            bad = ~torch.isfinite(value).movedim(1, 0).flatten(1).all(1)  # (n_draws,)
            sweep = burn + thin * (int(bad.nonzero()[0]) + 1)
            raise NonFiniteError(
                explain("gibbs", expected="finite draws", got=f"NaN or infinity in {name!r} at sweep {sweep}")
            )
