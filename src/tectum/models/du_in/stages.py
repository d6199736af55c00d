"""The three stages of training, each one call of the loop of the house."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...core import loops
from ...core.errors import TectumWarning
from ...core.loops import Checkpoint
from ...core.random import generator, spawn
from ...nn.conv import PatchEncoder, shifted
from ...nn.losses import reconstruction_error, sigmoid_cross_entropy, token_cross_entropy
from ...nn.masking import random_mask
from ...nn.vq import COLLAPSED, perplexity
from .data import Bank
from .modules import VQVAE, MaskedModel

CHUNK = 256  #: windows that pass through a network at once when nothing is learnt
WARM_STEPS = 40  #: fewest optimiser steps without quantisation, unless they were over a third of the epochs


class CollapseWarning(TectumWarning, RuntimeWarning):
    """The codebook has collapsed to (almost) one code."""


class Plan(NamedTuple):
    """How a stage is trained."""

    name: str
    epochs: int
    batch: int
    lr: float
    floor: float  #: last learning rate
    weight_decay: float
    warmup: float  #: share of the epochs in which the learning rate rises
    seed: int
    schedule: str = "cosine"
    clip: float | None = None
    precision: str = "float32"
    accumulate: int = 1
    patience: int | None = None
    checkpoint: Checkpoint | None = None


class Curves(NamedTuple):
    """What a stage leaves besides its weights."""

    history: dict[str, Tensor]  #: loss terms in each step, "val" after each epoch
    best_epoch: int
    per_epoch: int
    stopped_early: bool


class Order(NamedTuple):
    """Which windows a batch takes: a function of its number."""

    rows: Callable[[int], tuple[Tensor, ...]]
    per_epoch: int  #: optimiser steps
    batch: int


def order_of(train: Tensor, plan: Plan) -> Order:
    """Plan the batches of a stage; with few windows batches are smaller and not accumulated beyond an epoch."""
    rows = loops.minibatches(train, size=min(plan.batch, len(train)), seed=spawn(plan.seed, plan.name))
    return Order(rows, max(1, rows.per_epoch // plan.accumulate), rows.size)


def idle_biases(module: nn.Module) -> set[int]:
    """Return the identities of biases that batch normalisation takes away again.

    Their gradient is zero but for rounding, which Adam would scale up to full steps.
    """
    stacks = [part.layers for part in module.modules() if isinstance(part, PatchEncoder)]
    return {id(layer.bias) for stack in stacks for layer in stack if isinstance(layer, nn.Conv1d)}


def make_optimizer(module: nn.Module, plan: Plan) -> torch.optim.AdamW:
    """AdamW that decays matrices and kernels, not biases and norms, and leaves idle biases alone."""
    idle = idle_biases(module)
    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": plan.weight_decay},
                                    {"params": [], "weight_decay": 0.0},
                                    {"params": [], "weight_decay": 0.0, "lr": 0.0}]  # fmt: skip
    for name, p in module.named_parameters():
        if p.requires_grad:
            kind = 2 if id(p) in idle else 0 if p.ndim >= 2 and not name.endswith("bias") else 1
            groups[kind]["params"].append(p)
    fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=plan.lr, fused=fused)


def rate_of(plan: Plan, per_epoch: int, first: int = 0) -> Callable[[int], float]:
    """Return the factor on the learning rate in each step, constant within an epoch.

    It rises linearly over the warm-up and falls as half a cosine to ``floor``; ``first`` is the number of steps
    before this run.
    """
    rise = round(plan.warmup * plan.epochs)
    low = plan.floor / plan.lr

    def factor(step: int) -> float:
        epoch = (step + first) // per_epoch
        if epoch < rise:
            return (epoch + 1) / rise
        if plan.schedule == "constant":
            return 1.0
        share = (epoch - rise) / max(1, plan.epochs - rise)
        return low + 0.5 * (1 - low) * (1 + math.cos(math.pi * min(1.0, share)))

    return factor


def run_train(
    module: nn.Module, loss: loops.LossFn, batches: loops.Batches, plan: Plan, *, per_epoch: int,
    val: Callable[[nn.Module], Tensor] | None, optimizer: torch.optim.Optimizer | None = None, first: int = 0,
    epochs: int | None = None, part: str = "",
) -> Curves:  # fmt: skip
    """Run the loop of the house over some epochs of a stage; validate and save once an epoch."""
    epochs = plan.epochs if epochs is None else epochs
    out = loops.train(
        module, loss, batches, steps=epochs * per_epoch, val=val, val_every=per_epoch,
        optimizer=make_optimizer(module, plan) if optimizer is None else optimizer,
        schedule=rate_of(plan, per_epoch, first), patience=plan.patience if val is not None else None, clip=plan.clip,
        precision=plan.precision, accumulate=plan.accumulate, seed=spawn(plan.seed, plan.name, part),
        checkpoint=None if plan.checkpoint is None else dataclasses.replace(plan.checkpoint, every=per_epoch),
    )  # fmt: skip
    return Curves(out.history, max(1, out.best_step // per_epoch), per_epoch, out.stopped_early)


def crops(bank: Bank, rows: Tensor, n_times: int, seed: int | None) -> tuple[Tensor, Tensor | None]:
    """Return windows of ``n_times`` samples, cut at random places of longer ones; without ``seed`` at their start."""
    x, subject = bank.of(rows)
    spare = x.shape[2] - n_times
    if spare == 0 or seed is None:
        return x[:, :, :n_times], subject
    start = torch.randint(spare + 1, (len(rows),), generator=generator(seed), device="cpu").to(x.device)
    place = start[:, None] + torch.arange(n_times, device=x.device)  # (batch, time)
    return x.gather(2, place[:, None].expand(-1, x.shape[1], -1)), subject


# Stage 1


class CodeBatch(NamedTuple):
    """One batch of the first stage."""

    x: Tensor
    subject: Tensor | None
    mask: Tensor | None
    phase: str
    picks: Tensor | None


def picks_of(n: int, n_codes: int, seed: int) -> Tensor:
    """Draw a token of a batch for every code: without replacement if there are enough tokens, on the CPU."""
    draw = generator(seed)
    if n >= n_codes:
        return torch.randperm(n, generator=draw, device="cpu")[:n_codes]
    return torch.randint(n, (n_codes,), generator=draw, device="cpu")


def code_loss(module: nn.Module, batch: CodeBatch, *, beta: float) -> Mapping[str, Tensor]:
    """Error of the reconstruction plus the distance to the codes."""
    found = module(batch.x, batch.subject, phase=batch.phase, picks=batch.picks)
    error = reconstruction_error(found.signal, batch.x, batch.mask)
    return {"loss": error + beta * found.commitment, "error": error, "commitment": found.commitment}


def train_codes(
    module: VQVAE, bank: Bank, train: Tensor, held: Tensor, plan: Plan, *, n_times: int, beta: float,
    warmup: float, revive: bool, checkpoint: Callable[[str], Checkpoint | None],
) -> Curves:  # fmt: skip
    """Train the VQ-VAE: first without quantisation, then cluster and quantise; once an epoch mend a collapse.

    ``warmup`` is the share of the epochs without quantisation; 0 clusters the very first batch. Where epochs are short
    it is longer: at least :data:`WARM_STEPS` steps, or a third of the epochs.
    """
    order = order_of(train, plan)
    least = min(math.ceil(WARM_STEPS / order.per_epoch), plan.epochs // 3)
    early = max(1, least, round(warmup * plan.epochs)) if warmup else 0
    free = min(early, plan.epochs - 1) * order.per_epoch  # steps without quantisation
    n_codes = len(module.quantiser.codebook)
    n_tokens = order.batch * (n_times // module.encoder.tokenizer.patch)
    if n_tokens < n_codes:
        warnings.warn(f"codebook of {n_codes} codes starts from the {n_tokens} tokens of one batch, some taken twice; "
                      "use fewer codes or larger batches", TectumWarning, stacklevel=2)  # fmt: skip

    def phase(step: int, micro: int) -> str:
        if step < free:
            return "pass"
        if micro or (step > free and (not revive or (step - free) % order.per_epoch)):
            return "move"
        return "start" if step == free else "revive"

    def batches(k: int) -> CodeBatch:
        step, micro = divmod(k, plan.accumulate)
        (rows,) = order.rows(k)
        x, subject = crops(bank, rows, n_times, spawn(plan.seed, plan.name, "crop", k))
        name = phase(step, micro)
        picks = picks_of(n_tokens, n_codes, spawn(plan.seed, plan.name, "codes", k)).to(x.device)
        return CodeBatch(x, subject, bank.masks(subject), name, picks if name in ("start", "revive") else None)

    def loss(model: nn.Module, batch: CodeBatch) -> Mapping[str, Tensor]:
        return code_loss(model, batch, beta=beta)

    optimizer, history = make_optimizer(module, plan), {}
    if free:
        before = run_train(module, loss, batches, plan._replace(checkpoint=checkpoint("codes-warm")), val=None,
                           per_epoch=order.per_epoch, optimizer=optimizer, epochs=free // order.per_epoch,
                           part="warm")  # fmt: skip
        history = before.history
    after = run_train(
        module, loss, lambda k: batches(k + free * plan.accumulate), plan._replace(checkpoint=checkpoint("codes")),
        val=(lambda model: code_error(model, bank, held, n_times, beta)) if len(held) else None,
        per_epoch=order.per_epoch, optimizer=optimizer, first=free, epochs=plan.epochs - free // order.per_epoch,
    )  # fmt: skip
    joined = {k: torch.cat((history[k], v)) if k in history else v for k, v in after.history.items()}
    return after._replace(history=joined, best_epoch=after.best_epoch + free // order.per_epoch)


def code_error(module: nn.Module, bank: Bank, rows: Tensor, n_times: int, beta: float = 0.0) -> Tensor:
    """Return the loss of the first stage on some windows, with ``beta`` 0 the error of the signal: Tensor ()."""
    total = []
    for part in rows.split(CHUNK):
        x, subject = crops(bank, part, n_times, None)
        found = module(x, subject)
        error = reconstruction_error(found.signal, x, bank.masks(subject)) + beta * found.commitment
        total.append(error * len(part))
    return torch.stack(total).sum() / len(rows)


@torch.no_grad()
def codes_of(module: VQVAE, bank: Bank, rows: Tensor, n_times: int) -> Tensor:
    """Return the codes of windows: Tensor (window, token) int64."""
    return torch.cat([module.codes(*crops(bank, part, n_times, None)) for part in rows.split(CHUNK)])


def check_codes(codes: Tensor, n_codes: int) -> Tensor:
    """Count the codes in use, (n_codes,), and warn if they have collapsed."""
    flat = codes.flatten()
    counts = torch.zeros(n_codes, dtype=torch.int64, device=codes.device).scatter_add(0, flat, torch.ones_like(flat))
    in_use = float(perplexity(counts.double() if codes.device.type != "mps" else counts.float()))
    if in_use < COLLAPSED:
        warnings.warn(f"codebook collapse: perplexity {in_use:.2f} on the windows held out; use quantiser_warmup > 0, "
                      "more epochs or a cleaner signal", CollapseWarning, stacklevel=2)  # fmt: skip
    return counts


# Stage 2


class MaskBatch(NamedTuple):
    """One batch of the second stage."""

    x: Tensor
    subject: Tensor | None
    hidden: Tensor
    codes: Tensor


def train_masked(
    module: MaskedModel, teacher: VQVAE, bank: Bank, train: Tensor, held: Tensor, plan: Plan, *, n_times: int,
    ratio: float,
) -> Curves:  # fmt: skip
    """Train the masked model on the codes that the frozen VQ-VAE gives the same windows."""
    order = order_of(train, plan)
    n_tokens = n_times // teacher.encoder.tokenizer.patch
    teacher.eval().requires_grad_(False)
    everything = torch.arange(len(bank.x), device=bank.x.device)
    still = codes_of(teacher, bank, everything, n_times) if bank.x.shape[2] == n_times else None

    def masks(n: int, *path: int | str) -> Tensor:
        made = random_mask(n, n_tokens, ratio, generator=generator(spawn(plan.seed, plan.name, "mask", *path)))
        return made.to(bank.x.device)

    def batches(k: int) -> MaskBatch:
        (rows,) = order.rows(k)
        x, subject = crops(bank, rows, n_times, spawn(plan.seed, plan.name, "crop", k))
        with torch.no_grad():
            codes = teacher.codes(x, subject) if still is None else still[rows]
        return MaskBatch(x, subject, masks(len(rows), k), codes)

    def loss(model: nn.Module, batch: MaskBatch) -> Mapping[str, Tensor]:
        logits = model(batch.x, batch.hidden, batch.subject)
        right = (logits.detach().argmax(-1) == batch.codes).float().mean()
        return {"loss": token_cross_entropy(logits, batch.codes), "accuracy": right}

    def validate(model: nn.Module) -> Tensor:
        return masked_scores(model, teacher, bank, held, n_times, masks(len(held), "held"))[0]

    return run_train(module, loss, batches, plan, per_epoch=order.per_epoch, val=validate if len(held) else None)


@torch.no_grad()
def masked_scores(
    module: nn.Module, teacher: VQVAE, bank: Bank, rows: Tensor, n_times: int, hidden: Tensor
) -> tuple[Tensor, Tensor]:
    """Return cross-entropy and accuracy of hidden tokens of some windows, each a Tensor ()."""
    loss, right = [], []
    for part, mask in zip(rows.split(CHUNK), hidden.split(CHUNK), strict=True):
        x, subject = crops(bank, part, n_times, None)
        codes, logits = teacher.codes(x, subject), module(x, mask, subject)
        loss.append(token_cross_entropy(logits, codes) * len(part))
        right.append((logits.argmax(-1) == codes).to(logits.dtype).mean() * len(part))
    return torch.stack(loss).sum() / len(rows), torch.stack(right).sum() / len(rows)


# Stage 3


def train_classes(
    module: nn.Module, bank: Bank, classes: Tensor, train: Tensor, held: Tensor, plan: Plan, *, shift: float,
    weight: Tensor | None = None, sigmoid: bool = False, frozen: Sequence[nn.Module] = (),
) -> Curves:  # fmt: skip
    """Train a classifier; keep the weights with fewest errors on the windows held out, then with the lowest loss.

    ``shift`` is the largest random shift of a training window, as a share of its length; ``frozen`` parts stay in
    evaluation mode.
    """
    order = order_of(train, plan)
    most = int(shift * bank.x.shape[2])

    def batches(k: int) -> tuple[Tensor, Tensor | None, Tensor]:
        (rows,) = order.rows(k)
        x, subject = bank.of(rows)
        if most:
            draw = generator(spawn(plan.seed, plan.name, "shift", k))
            x = shifted(x, torch.randint(-most, most + 1, (len(rows),), generator=draw, device="cpu").to(x.device))
        return x, subject, classes[rows]

    def entropy(logits: Tensor, wanted: Tensor) -> Tensor:
        return sigmoid_cross_entropy(logits, wanted) if sigmoid else F.cross_entropy(logits, wanted, weight=weight)

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor | None, Tensor]) -> Tensor:
        for part in (*frozen, getattr(module, "quantiser", None)):
            if part is not None:
                part.eval()  # statistics and codes do not move
        return entropy(model(batch[0], batch[1]), batch[2])

    def validate(model: nn.Module) -> Tensor:
        logits = logits_of(model, bank, held)
        errors = (logits.argmax(1) != classes[held]).sum()
        return packed(errors, entropy(logits, classes[held]))

    return run_train(module, loss, batches, plan, per_epoch=order.per_epoch, val=validate if len(held) else None)


@torch.no_grad()
def logits_of(module: nn.Module, bank: Bank, rows: Tensor) -> Tensor:
    """Return the logits of windows, (window, class)."""
    return torch.cat([module(*bank.of(part)) for part in rows.split(CHUNK)])


def packed(errors: Tensor, loss: Tensor) -> Tensor:
    """Put a number of errors and a loss into one number that orders by errors, then by loss: Tensor ()."""
    wide = loss.double() if loss.device.type != "mps" else loss
    return errors.to(wide.dtype) + wide / (1 + wide)


def unpacked(value: Tensor) -> tuple[Tensor, Tensor]:
    """Return the errors and the losses that :func:`packed` joined.

    Examples
    --------
    >>> [round(float(x), 6) for x in unpacked(packed(torch.tensor(3), torch.tensor(0.25)))]
    [3.0, 0.25]
    """
    errors = value.floor()
    part = value - errors
    return errors, part / (1 - part)


# Choice of channels


def chosen_channels(scores: Tensor, usable: Tensor, n: int) -> Tensor:
    """Return the positions of the ``n`` usable channels of largest score, in their order: Tensor (n,) int64.

    Examples
    --------
    >>> chosen_channels(torch.tensor([0.1, 1.0, 0.5]), torch.tensor([True, True, True]), 2).tolist()
    [1, 2]
    """
    ranked = torch.where(usable, scores, -torch.inf).argsort(descending=True, stable=True)
    return ranked[: min(n, int(usable.sum()))].sort().values


def averaged(curves: Curves, name: str = "loss") -> Tensor:
    """Return the mean of a loss term in each epoch: Tensor (epoch,)."""
    values: Any = curves.history[name]
    epochs = max(1, len(values) // curves.per_epoch)
    found: Tensor = values[: epochs * curves.per_epoch].reshape(epochs, -1).mean(1)
    return found
