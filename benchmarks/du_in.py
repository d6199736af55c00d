"""DuIN: a training step of each stage against the same networks written plainly, and longer evidence of recovery.

Run ``python benchmarks/du_in.py [--threads 1] [--batch 16] [--repeats 4]`` for times, ``--stream`` for what a live
decision costs, ``--evidence SEED [--compat reference] [--snr 0.3]`` for the validation of the spec's small
configuration (all widths as published, 640 windows to train on; about two minutes a seed on one core), and ``--labels
SEED [--per-class N]`` for what pretraining brings with few labels.

Both sides have the published sizes, the same weights and the same batch: 4 s (first two stages) or 3 s (third) of ten
channels at 1 kHz. "Plain" is the manner of the published code: scores of attention are kept and exponentiated by hand,
codes are counted by a matrix product with one-hot rows, the masked model runs both of its passes in full, and the codes
it learns are computed in every step. The losses of both sides are printed: equal work, equal result. Times are the
smallest processor times of several steps, forward, backward and AdamW, the sides in turn.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tectum import DuIN
from tectum.datasets import simulate
from tectum.models.du_in import stages
from tectum.models.du_in.modules import VQVAE, Classifier, MaskedModel, Sizes
from tectum.models.du_in.running import Prepared, Remembering
from tectum.nn.attention import SelfAttention
from tectum.nn.losses import token_cross_entropy
from tectum.nn.masking import random_mask
from tectum.nn.vq import VectorQuantiser, perplexity, unit
from tectum.stream import realtime

# The plain manner


def plain_attention(self: SelfAttention, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention whose scores are exponentiated and summed by hand."""
    width = self.heads * (self.qkv.out_features // (3 * self.heads))
    parts = [
        F.linear(x, self.qkv.weight[k * width : (k + 1) * width], self.qkv.bias[k * width : (k + 1) * width])
        for k in range(3)
    ]
    q, k, v = (p.unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in parts)
    q, k = self.query_norm(q), self.key_norm(k)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    weight = (scores - scores.amax(-1, keepdim=True)).exp()
    weight = weight / weight.sum(-1, keepdim=True)
    weight = F.dropout(weight, self.dropout, self.training)
    return self.out((weight @ v).transpose(1, 2).flatten(2))


def plain_quantiser(self: VectorQuantiser, tokens: Tensor, *, phase: str = "move", picks: Tensor | None = None) -> Any:
    """Distances to all codes, one-hot rows, and their product with the vectors."""
    direction = self.project(tokens)
    flat = direction.flatten(0, -2)
    distance = flat.square().sum(1, keepdim=True) + self.codebook.square().sum(1) - 2 * flat @ self.codebook.T
    codes = distance.argmin(1)
    hot = F.one_hot(codes, len(self.codebook)).to(flat.dtype)
    chosen = self.codebook[codes].reshape(direction.shape)
    commitment = F.mse_loss(chosen.detach(), direction)
    if self.training:
        with torch.no_grad():
            counts, totals = hot.sum(0), flat.T @ hot
            mean = unit((totals / counts.clamp(min=1)).T)
            mean = torch.where(counts[:, None] == 0, self.codebook, mean)
            self.codebook.copy_(unit(self.decay * self.codebook + (1 - self.decay) * mean))
    out = self.after(direction + (chosen - direction).detach())
    return stages_quantised(out, codes.reshape(direction.shape[:-1]), direction, commitment)


def stages_quantised(out: Tensor, codes: Tensor, direction: Tensor, commitment: Tensor) -> Any:
    from tectum.nn.vq import Quantised

    return Quantised(out, codes, direction, commitment)


def plainly(module: nn.Module) -> nn.Module:
    """Copy a network and let its parts compute in the plain manner."""
    made = copy.deepcopy(module)
    for part in made.modules():
        if isinstance(part, SelfAttention):
            part.forward = plain_attention.__get__(part)  # type: ignore[method-assign]
        if isinstance(part, VectorQuantiser):
            part.forward = plain_quantiser.__get__(part)  # type: ignore[method-assign]
    return made


def plain_masked(module: MaskedModel, x: Tensor, hidden: Tensor) -> Tensor:
    """Two full passes, one after the other."""
    logits = []
    for mask in (hidden, ~hidden):
        tokens = torch.where(mask[..., None], module.mask, module.encoder.tokens(x))
        logits.append(module.head(module.encoder.mixed(tokens)))
    return torch.where(hidden[..., None], *logits)


# Times


def step(module: nn.Module, loss: Callable[[], Tensor], *, plain: bool = False) -> Callable[[], float]:
    """One training step; returns the loss before it."""
    ours = stages.Plan("timed", 1, 1, 1e-4, 0.0, 0.01, 0.0, 0)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4) if plain else stages.make_optimizer(module, ours)

    def run() -> float:
        torch.manual_seed(0)
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        optimizer.step()
        return float(value.detach())

    return run


def pairs(batch: int) -> dict[str, tuple[Callable[[], float], Callable[[], float]]]:
    """Both sides of every stage."""
    torch.manual_seed(0)
    sizes = Sizes(dropout=0.0)
    long, short = torch.randn(batch, 10, 4000), torch.randn(batch, 10, 3000)
    hidden = random_mask(batch, 40, 0.5, generator=torch.Generator().manual_seed(0))
    codes, masked = VQVAE(sizes).train(), MaskedModel(sizes).train()
    classifier, classes = Classifier(sizes, 30, 61).train(), torch.arange(batch) % 61
    teacher = VQVAE(sizes).eval().requires_grad_(False)
    known = teacher.codes(long)
    plain = [plainly(m) for m in (codes, masked, classifier, teacher)]

    def code(module: Any) -> Tensor:
        return stages.code_loss(module, stages.CodeBatch(long, None, None, "move", None), beta=1.0)["loss"]

    return {
        "codes": (step(codes, lambda: code(codes)), step(plain[0], lambda: code(plain[0]), plain=True)),
        "masked": (
            step(masked, lambda: token_cross_entropy(masked(long, hidden), known)),
            step(
                plain[1],
                lambda: token_cross_entropy(plain_masked(plain[1], long, hidden), plain[3](long).codes),  # type: ignore[arg-type]
                plain=True,
            ),
        ),
        "classifier": (
            step(classifier, lambda: F.cross_entropy(classifier(short), classes)),
            step(plain[2], lambda: F.cross_entropy(plain[2](short), classes), plain=True),
        ),
    }


def times(batch: int, repeats: int) -> None:
    print(f"| stage, batch {batch} | tectum ms | plain ms | ratio | losses |\n|---|---|---|---|---|")
    for name, (ours, theirs) in pairs(batch).items():
        best, losses = [math.inf, math.inf], [0.0, 0.0]
        for turn in range(repeats + 1):
            for k, run in enumerate((ours, theirs)):
                began = time.thread_time()
                value = run()
                if turn:
                    best[k] = min(best[k], time.thread_time() - began)
                else:
                    losses[k] = value
        row = f"| {name} | {best[0] * 1e3:.0f} | {best[1] * 1e3:.0f} | {best[1] / best[0]:.2f} |"
        print(f"{row} {losses[0]:.5f} {losses[1]:.5f} |", flush=True)


# Streams


def stream_times(seconds: float = 30.0, hop: int = 50) -> None:
    """Time decisions of the published size, whole and with known patches kept, hop by hop in turn."""
    torch.manual_seed(0)
    body = Classifier(Sizes(), 30, 61).eval().requires_grad_(False)
    network = Prepared(body, torch.arange(10), torch.zeros(10), torch.ones(10), n_times=3000).eval()
    live = Remembering(network).eval()
    x = torch.randn(1, 10, 3000 + round(seconds * 1000))
    taken: dict[str, list[float]] = {"whole": [], "known patches kept": []}
    apart = 0.0
    with realtime(), torch.inference_mode():
        for k in range((x.shape[2] - 3000) // hop):
            window, logits = x[..., k * hop : k * hop + 3000], []
            for name, module in zip(taken, (network, live), strict=True):
                began = time.thread_time()
                logits.append(module(window))
                taken[name].append(time.thread_time() - began)
            apart = max(apart, float((logits[0] - logits[1]).abs().max()))
    print(f"a decision every {hop} ms, published size, one thread, processor time; largest difference {apart:.1e}")
    for name, values in taken.items():
        p50, p99 = np.quantile(values[20:], [0.5, 0.99]) * 1e3
        print(f"  {name:20} p50 {p50:.2f} ms   p99 {p99:.2f} ms", flush=True)


# Evidence

SPEC = {"device": "cpu", "depth": 2, "decoder_depth": 1, "n_codes": 64, "window": 1.0, "pretrain_batch": 32,
        "batch_size": 32, "pretrain_lr": 1e-3, "lr": 1e-3, "codes_epochs": 25, "masked_epochs": 25,
        "epochs": 25}  # fmt: skip
NARROW = {**SPEC, "filters": 48, "features": 8, "heads": 2, "head_width": 32, "hidden": 128, "dropout": 0.1,
          "pretrain_lr": 3e-3, "lr": 2e-3, "pretrain_batch": 16, "batch_size": 16, "codes_epochs": 14,
          "masked_epochs": 14}  # fmt: skip


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    """Mutual information over the geometric mean of the entropies."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(a.ravel(), b.ravel(), average_method="geometric"))


def evidence(seed: int, snr: float, compat: str, until: str) -> None:
    """Train on 640 windows; judge codes against true units, and hidden tokens, on 160 that are unseen."""
    began = time.process_time()
    sim = simulate.seeg_words(n_windows=800, n_trials=2, snr=snr, random_state=seed)
    early, late = (sim.data.unlabelled.isel(trial=slice(*part)) for part in ((0, 640), (640, 800)))
    model = DuIN(**SPEC, validation=0.0, compat=compat, until=until, random_state=seed).fit(early)
    found: Any = model.reconstruct(late)
    error = float((found.values - late.values).square().mean() / late.values.square().mean())
    codes: Any = model.encode(late).codes
    units = agreement(sim.truth.units[640:].numpy(), codes.numpy())
    usage = torch.bincount(codes.flatten(), minlength=64).double()
    line = f"seed {seed} snr {snr} {compat}: error {error:.3f} agreement {units:.3f} perplexity {perplexity(usage):.1f}"
    if until == "masked":
        network = model._ready("masked", 0)
        hidden = random_mask(*codes.shape, 0.5, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            told = network.body(network.standard(late.values, whole=True), hidden).argmax(-1)
        gain = float((told == codes).double().mean() - usage.max() / usage.sum())
        line += f" told above commonest {gain:+.3f}"
    print(f"{line} ({time.process_time() - began:.0f} s)", flush=True)


def labels(seed: int, per_class: int) -> None:
    """Balanced accuracy on 160 unseen trials after training on a few, with and without pretraining."""
    sim = simulate.seeg_words(n_windows=400, n_trials=per_class + 20, snr=1.0, jitter=0.05, random_state=seed)
    words, block = sim.data.words, np.asarray(sim.data.words.labels("trial", "block"))
    train, test = words.isel(trial=block < per_class // 2), words.isel(trial=block >= per_class // 2)
    y = np.asarray(test.labels("trial", "word"))
    scores = {}
    for tokens, activation in (("published tokens", None), ("gelu", "gelu")):
        settings = {**NARROW, "shift": 0.05, "activation": activation, "random_state": seed}
        units = DuIN(**settings, until="masked").fit(sim.data.unlabelled)
        scores[f"{tokens}, pretrained"] = units.adapt(train, "word").score(test, y)
        scores[f"{tokens}, scratch"] = DuIN(**settings, pretrain="none").fit(train, "word").score(test, y)
    print(f"seed {seed}, {per_class} a class:", {k: round(v, 3) for k, v in scores.items()}, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--evidence", type=int)
    parser.add_argument("--snr", type=float, default=1.0)
    parser.add_argument("--compat", choices=("ours", "reference"), default="ours")
    parser.add_argument("--labels", type=int)
    parser.add_argument("--per-class", type=int, default=10)
    parser.add_argument("--codes-only", action="store_true")
    parser.add_argument("--stream", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.evidence is not None:
        evidence(given.evidence, given.snr, given.compat, "codes" if given.codes_only else "masked")
    elif given.stream:
        stream_times()
    elif given.labels is not None:
        labels(given.labels, given.per_class)
    else:
        times(given.batch, given.repeats)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
