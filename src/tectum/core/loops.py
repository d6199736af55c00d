"""The three loops of the toolkit: ``train`` (gradient), ``em`` (fixed point) and ``gibbs`` (Markov chain).

Progress, early stopping, checkpoint and resume, non-finite detection, precision and distribution over
processes live here and nowhere else. Randomness is a function of (seed, step), so a run that was killed and
resumed gives the result of one that was not.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import distributed, serialize
from .errors import InputError, NonFiniteError, explain
from .log import logger, progress
from .random import generator, spawn

State = Any
Batches = Callable[[int], Any]
LossFn = Callable[[nn.Module, Any], "Tensor | Mapping[str, Tensor]"]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where a long run saves its progress and what makes it the same run.

    Parameters
    ----------
    path : path
        File to write; an existing one is resumed from.
    every : int, default 100
        Steps between two writes.
    config : mapping
        Identity of the run; resuming with another one raises InputError.
    """

    path: str | Path
    every: int = 100
    config: Mapping[str, Any] | None = None

    def due(self, step: int, last: int) -> bool:
        """Whether to write after ``step`` of ``last`` steps."""
        return step % self.every == 0 or step == last

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state atomically (first process only)."""
        if distributed.world().rank == 0:
            serialize.write(self.path, {"config": dict(self.config or {}), **state})

    def load(self, device: torch.device | str = "cpu") -> dict[str, Any] | None:
        """Return the saved state, or None if there is none."""
        if not Path(self.path).exists():
            return None
        state: dict[str, Any] = serialize.read(self.path, device=device)
        if state.pop("config") != dict(self.config or {}):
            raise InputError(
                explain(
                    f"resume from {self.path}",
                    expected="a checkpoint of the same configuration and data",
                    got="one of another run",
                    fix="choose another checkpoint file or delete this one",
                )
            )
        logger.info("resumed from %s", self.path)
        return state


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
        Trained in place; with ``val`` it ends with the weights of the best evaluation.
    loss_fn : callable
        ``loss_fn(module, batch)`` returns a scalar loss or a mapping of terms that includes "loss".
    batches : callable
        ``batches(step)`` returns the batch of a step (see :func:`minibatches`).
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
        If a loss is NaN or infinite; names the step. The last checkpoint is kept.

    Examples
    --------
    >>> model = nn.Linear(1, 1)
    >>> x = torch.linspace(-1, 1, 32)[:, None]
    >>> out = train(model, lambda m, b: (m(b) - 2 * b).square().mean(), lambda step: x, steps=50,
    ...             optimizer=torch.optim.SGD(model.parameters(), lr=0.5))
    >>> out.history["loss"][-1] < 1e-3
    tensor(True)
    """
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    saved = checkpoint.load(device) if checkpoint is not None else None
    keeper = _Keeper(module, optimizer, schedule, checkpoint, steps)
    place, history = keeper.restore(saved)
    parallel, engine = distributed.wrap(module), _Engine(precision, device, optimizer, clip)
    module.train()
    for step in progress(range(place.step, steps), "training", total=steps, initial=place.step):
        _seed_step(seed, step)
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
        if patience is not None and place.stale >= patience:
            break
    stopped = place.step < steps
    keeper.finish(place, val is not None)
    return TrainResult(
        {k: torch.tensor(v, dtype=torch.float64) for k, v in history.items()},
        place.best_step if val is not None else place.step,
        place.step,
        stopped,
    )


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
                self.scaler.scale(named["loss"] / len(batches)).backward()
            for name, value in named.items():
                totals[name] = totals.get(name, torch.zeros_like(value.detach())) + value.detach() / len(batches)
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
    stacked = distributed.mean(torch.stack([v.float().reshape(()) for v in totals.values()]))
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
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[int], float] | None,
        checkpoint: Checkpoint | None,
        steps: int,
    ) -> None:
        self.module, self.optimizer, self.schedule, self.checkpoint, self.steps = (
            module,
            optimizer,
            schedule,
            checkpoint,
            steps,
        )
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.best: dict[str, Tensor] | None = None

    def restore(self, saved: Mapping[str, Any] | None) -> tuple[_Progress, dict[str, list[float]]]:
        """Load a checkpoint into module and optimiser; return where the run stands and its history."""
        if saved is None:
            return _Progress(0, math.inf, 0, 0), {}
        self.module.load_state_dict(saved["module"])
        self.optimizer.load_state_dict(saved["optimizer"])
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
        with evaluating(self.module):
            value = float(distributed.mean(torch.as_tensor(val(self.module)).detach().float()))
        history.setdefault("val", []).append(value)
        if value < place.best:
            self.best = {k: v.detach().clone() for k, v in self.module.state_dict().items()}
            return place._replace(best=value, best_step=place.step, stale=0)
        return place._replace(stale=place.stale + 1)

    def maybe_save(self, place: _Progress, history: Mapping[str, list[float]]) -> None:
        """Write a checkpoint if one is due."""
        if self.checkpoint is None or not self.checkpoint.due(place.step, self.steps):
            return
        state = {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict(), "best": self.best}
        curves = {k: torch.tensor(v, dtype=torch.float64) for k, v in history.items()}
        self.checkpoint.save({**state, "place": tuple(place), "rates": self.rates, "history": curves})
        distributed.barrier()

    def finish(self, place: _Progress, validated: bool) -> None:
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


def _seed_step(seed: int, step: int) -> None:
    torch.manual_seed(spawn(seed, "train", step, distributed.world().rank))


class Minibatches:
    """Shuffled minibatches of aligned tensors as a function of the step; see :func:`minibatches`."""

    def __init__(self, tensors: tuple[Tensor, ...], size: int, seed: int, shuffle: bool) -> None:
        self.tensors, self.size, self.seed, self.shuffle = tensors, size, seed, shuffle
        self.rank, self.world = distributed.world()
        self.per_epoch = len(tensors[0]) // (size * self.world)
        self._epoch, self._order = -1, torch.zeros(0, dtype=torch.int64)

    def __call__(self, step: int) -> tuple[Tensor, ...]:
        """Return this process's share of the global batch of a step."""
        epoch, place = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, self._permutation(epoch)
        first = (place * self.world + self.rank) * self.size
        rows = self._order[first : first + self.size]
        return tuple(t[rows] for t in self.tensors)

    def _permutation(self, epoch: int) -> Tensor:
        n = len(self.tensors[0])
        order = (
            torch.randperm(n, generator=generator(spawn(self.seed, "epoch", epoch)))
            if self.shuffle
            else torch.arange(n)
        )
        return order.to(self.tensors[0].device)


def minibatches(*tensors: Tensor, size: int, seed: int = 0, shuffle: bool = True) -> Minibatches:
    """Return ``batches(step)`` over tensors that share their first axis.

    Parameters
    ----------
    *tensors : Tensor, shape (n_samples, ...)
        Aligned tensors.
    size : int
        Samples of a batch in one process; P processes take P disjoint parts of a global batch of P times ``size``.
    seed : int, default 0
        The order of an epoch depends on (seed, epoch) only.
    shuffle : bool, default True
        Whether to permute every epoch.

    Examples
    --------
    >>> batches = minibatches(torch.arange(6), size=2, shuffle=False)
    >>> batches(1)
    (tensor([2, 3]),)
    """
    lengths = {len(t) for t in tensors}
    if len(lengths) != 1:
        raise InputError(explain("minibatches", expected="tensors of one length", got=str(sorted(lengths))))
    n, global_size = lengths.pop(), size * distributed.world().size
    if not 1 <= global_size <= n:
        raise InputError(
            explain("minibatches(size)", expected=f"1 to {n} samples over all processes", got=str(global_size))
        )
    return Minibatches(tensors, size, seed, shuffle)


def warmup_cosine(steps: int, *, warmup: int = 0, floor: float = 0.0) -> Callable[[int], float]:
    """Return a schedule: linear rise over ``warmup`` steps, then a half cosine down to ``floor``.

    Examples
    --------
    >>> schedule = warmup_cosine(100, warmup=10)
    >>> round(schedule(0), 3), round(schedule(9), 3), round(schedule(99), 3)
    (0.1, 1.0, 0.0)
    """

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        share = (step - warmup + 1) / max(1, steps - warmup)
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))

    return factor


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
        Stops when every ``|change| <= tol * max(1, |objective|)`` over an iteration.
    min_iter : int, default 1
        Smallest number of iterations.
    check_every : int, default 1
        Iterations between looks at the objective: each look waits for the device.
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
        If the objective is NaN or infinite; names the iteration.

    Examples
    --------
    >>> out = em(lambda x: ((x + 2 / x) / 2, (x - 2 / x).abs()), torch.tensor(1.0), max_iter=50, tol=1e-6)
    >>> round(out.state.item(), 4), out.converged
    (1.4142, True)
    """
    saved = checkpoint.load() if checkpoint is not None else None
    first, state = (0, state) if saved is None else (saved["step"], _like(saved["state"], state))
    history: list[Tensor] = [] if saved is None else list(saved["history"])
    converged = False if saved is None else saved["converged"]
    bar = progress(range(first, 0 if converged else max_iter), description, total=max_iter, initial=first)
    done = first
    for n in bar:
        state, objective = step(state)
        history.append(objective.detach().to(torch.float64) if objective.device.type != "mps" else objective.detach())
        done = n + 1
        if done % check_every == 0 or done == max_iter:
            converged = done >= min_iter and _settled(history, check_every, tol, done)
        if checkpoint is not None and (converged or checkpoint.due(done, max_iter)):
            checkpoint.save({"step": done, "state": state, "history": history, "converged": converged})
        if converged:
            break
    return EMResult(state, torch.stack(history).cpu() if history else torch.zeros(0), done, bool(converged))


def _settled(history: list[Tensor], span: int, tol: float, n: int) -> bool:
    """Whether the objective is finite and changed by no more than the tolerance over the last iteration."""
    last = history[-1]
    if not bool(torch.isfinite(last).all()):
        raise NonFiniteError(explain("em", expected="a finite objective", got=f"{last.tolist()} at iteration {n}"))
    if len(history) < 2:
        return False
    return bool(((last - history[-2]).abs() <= tol * last.abs().clamp(min=1.0)).all())


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
        Where the generator lives.
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
        If a recorded quantity is NaN or infinite; names it and the sweep.

    Examples
    --------
    >>> def sweep(x, g):
    ...     return 0.5 * x + torch.randn(x.shape, generator=g)
    >>> out = gibbs(sweep, torch.zeros(4), draws=10, record=lambda x: {"x": x}, burn=5)
    >>> out.draws["x"].shape
    torch.Size([4, 10])
    """
    last = burn + draws * thin
    saved = checkpoint.load() if checkpoint is not None else None
    first, state = (0, state) if saved is None else (saved["step"], _like(saved["state"], state))
    kept: dict[str, Tensor] = {} if saved is None else {k: v.to(device) for k, v in saved["draws"].items()}
    for n in progress(range(first, last), description, total=last, initial=first):
        state = step(state, generator(spawn(seed, "gibbs", n), device))
        if n >= burn and (n - burn + 1) % thin == 0:
            _store(kept, record(state), (n - burn) // thin, draws)
        if checkpoint is not None and checkpoint.due(n + 1, last):
            _refuse_nonfinite(kept, max(0, (n + 1 - burn) // thin), n + 1)
            checkpoint.save({"step": n + 1, "state": state, "draws": kept})
    _refuse_nonfinite(kept, draws, last)
    return GibbsResult(kept, state)


def _store(kept: dict[str, Tensor], values: Mapping[str, Tensor], place: int, draws: int) -> None:
    """Write one draw of every quantity into its preallocated (n_chains, n_draws, ...) tensor."""
    for name, value in values.items():
        if name not in kept:
            kept[name] = value.new_zeros((value.shape[0], draws, *value.shape[1:]))
        kept[name][:, place] = value.detach()


def _refuse_nonfinite(kept: Mapping[str, Tensor], n_draws: int, sweep: int) -> None:
    for name, value in kept.items():
        if value.is_floating_point() and not bool(torch.isfinite(value[:, :n_draws]).all()):
            raise NonFiniteError(
                explain("gibbs", expected="finite draws", got=f"NaN or infinity in {name!r} by sweep {sweep}")
            )
