"""The published weights of Du-IN: read without running anything in them, renamed, and made a result of ours.

Below the folder of a subject lie ``{vqvae,mae}/model/checkpoint-<epoch>.pth``, states of the first two stages, and
``{vqvae,mae}/save/params``, a pickle of settings. Sizes are read off the shapes of the states.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...core.contract import Contract
from ...core.errors import InputError, LoadError, explain
from ...core.recording import Recording
from ...io.eeg.du_in import read_pickle
from ...io.signature import natural
from ...nn.attention import sinusoid
from ...nn.subject import split_subjects
from . import data
from .modules import VQVAE, MaskedModel, Sizes
from .result import DuINResult

WHERE = "DuIN.from_published"
CLOSE = 1e-4  #: how near the fixed tables in a file must be to ours

#: Parts of an attention block, ours -> theirs; queries, keys and values are three matrices there and one here.
_BLOCK = {
    "attention.query_norm": "mha.norm_q", "attention.key_norm": "mha.norm_k", "attention.out": "mha.proj.0",
    "attention_norm": "norm_mha", "hidden_norm": "norm_ffn", "first": "ffn.fc1.0", "second": "ffn.fc2.0",
    "attention.qkv": "mha.W_{}.W",
}  # fmt: skip
_PARTS = {
    "quantiser.before.0": "vq_block.pre_proj.0", "quantiser.before.2": "vq_block.pre_proj.2",
    "quantiser.after.0": "vq_block.layernorm", "quantiser.after.1": "vq_block.post_proj.0",
    "decoder.mix": "rgs_block.rgs_head.5.0", "head": "cls_block.cls_head.0.0",
}  # fmt: skip
_SINGLE = {
    "mask": "mask_emb", "quantiser.codebook": "vq_block.codex.embeddings", "quantiser.usage": "vq_block.counts",
    "encoder.subject.weight": "subj_block.subj_layer.W.weight", "channels.weight": "desubj_block.subj_layer.W.weight",
    "encoder.subject.bias": "subj_block.subj_layer.B.weight", "channels.bias": "desubj_block.subj_layer.B.weight",
}  # fmt: skip
_FIXED = re.compile(r"vq_block\.codex\.initted|emb_time\.time_encodings|.*\.mha\.attention\.scale")


class Checkpoint(NamedTuple):
    """A published state under our names."""

    state: dict[str, Tensor]
    sizes: Sizes
    n_tokens: int  #: of a window


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Read a file of tensors, ``torch.save`` of a state; nothing in it is run.

    Raises
    ------
    LoadError
        If it is no such file, or names anything but tensors.
    """
    try:
        found = torch.load(Path(path), map_location="cpu", weights_only=True)
    except Exception as cause:
        what = next(iter(str(cause).strip().splitlines()), type(cause).__name__)[:200]
        raise LoadError(explain(str(path), expected="a PyTorch file of tensors only", got=what)) from cause
    plain = isinstance(found, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items())
    if not plain or not found:
        raise LoadError(explain(str(path), expected="a state, names to tensors", got=type(found).__name__))
    return {k.removeprefix("module."): v for k, v in found.items()}


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a published state of the first or the second stage and put it under our names.

    Raises
    ------
    LoadError
        If tensors are missing, unknown, or of shapes that do not fit together.
    """
    theirs = read_state(path)
    try:
        sizes, n_tokens = _sizes(theirs), len(theirs["emb_time.time_encodings"])
        _check_tables(theirs, sizes)
        kind: type[nn.Module] = VQVAE if "vq_block.codex.embeddings" in theirs else MaskedModel
        with torch.device("meta"):
            wanted = kind(sizes).state_dict()
        names = {ours: _theirs(ours, sizes) for ours in wanted}
        state = {ours: _value(ours, [theirs[name] for name in known], sizes) for ours, known in names.items()}
    except KeyError as cause:
        raise LoadError(
            explain(str(path), expected=f"a tensor {cause}", got="none, or one of another stage")
        ) from cause
    except (IndexError, ValueError, RuntimeError, ZeroDivisionError) as cause:
        raise LoadError(explain(str(path), expected="a stage as published", got=str(cause)[:200])) from cause
    wrong = [f"{k} {tuple(v.shape)}, not {tuple(wanted[k].shape)}" for k, v in state.items()
             if v.shape != wanted[k].shape]  # fmt: skip
    used = {name for known in names.values() for name in known}
    wrong += [f"unknown {name}" for name in theirs if name not in used and not _FIXED.fullmatch(name)]
    if wrong:
        got = "; ".join(wrong[:4])
        raise LoadError(explain(str(path), expected="the tensors of one stage, of fitting shapes", got=got))
    return Checkpoint(state, sizes, n_tokens)


def _sizes(state: Mapping[str, Tensor]) -> Sizes:
    """Read the sizes off the shapes."""
    kernel, width = state["tokenizer.conv_blocks.0.0.1.weight"], state["emb_time.time_encodings"].shape[1]
    sources, n_subjects = state["subj_block.subj_layer.B.weight"].shape
    features = state["tokenizer.conv_blocks.2.0.1.weight"].shape[0]
    stride = (kernel.shape[2] + 1) // 2
    block = "encoder.1.xfmr_blocks.0"
    head_width = state[f"{block}.mha.norm_q.weight"].shape[0]
    codes = state.get("vq_block.codex.embeddings")
    n_codes, code_width = (0, Sizes().code_width) if codes is None else tuple(codes.shape)
    return Sizes(
        n_channels=state["subj_block.subj_layer.W.weight"].shape[0] // sources, n_subjects=n_subjects,
        patch=width // features * stride, stride=stride, sources=sources, filters=kernel.shape[0], features=features,
        depth=_depth(state, "encoder"), decoder_depth=_depth(state, "decoder") or Sizes().decoder_depth,
        heads=state[f"{block}.mha.W_q.W.weight"].shape[0] // head_width, head_width=head_width,
        hidden=state[f"{block}.ffn.fc1.0.weight"].shape[0],
        n_codes=n_codes or state["cls_block.cls_head.0.0.weight"].shape[0], code_width=code_width,
    )  # fmt: skip


def _depth(names: Iterable[str], part: str) -> int:
    """Count the attention blocks of the encoder or the decoder."""
    found = (re.match(rf"{part}\.1\.xfmr_blocks\.(\d+)\.", name) for name in names)
    return max((int(m[1]) + 1 for m in found if m), default=0)


def _check_tables(state: Mapping[str, Tensor], sizes: Sizes) -> None:
    """Refuse position codes and scales of attention that are not the fixed ones that our networks compute."""
    table = state["emb_time.time_encodings"].float()
    ours = sinusoid(*table.shape, device=table.device, dtype=table.dtype)
    if not torch.allclose(table, ours, atol=CLOSE, rtol=0):
        raise ValueError("position codes that are not sines and cosines")
    scales = [v for k, v in state.items() if k.endswith(".mha.attention.scale")]
    if not all(math.isclose(float(v), sizes.head_width**-0.5, rel_tol=CLOSE) for v in scales):
        raise ValueError("attention that is not scaled by the root of the width of a head")


def _theirs(ours: str, sizes: Sizes) -> list[str]:
    """Return the published names of the tensors that one of ours is made of.

    Examples
    --------
    >>> _theirs("encoder.tokenizer.layers.4.running_mean", Sizes()), _theirs("blocks.3.first.bias", Sizes())
    (['tokenizer.conv_blocks.1.1.1.running_mean'], ['decoder.1.xfmr_blocks.3.ffn.fc1.0.bias'])
    """
    if ours in _SINGLE:
        return [_SINGLE[ours]]
    part, _, leaf = ours.rpartition(".")
    if part in _PARTS:
        return [f"{_PARTS[part]}.{leaf}"]
    if m := re.fullmatch(r"encoder\.tokenizer\.layers\.(\d+)", part):  # convolution, normalisation, activation
        return [f"tokenizer.conv_blocks.{int(m[1]) // 3}.{int(m[1]) % 3}.1.{leaf}"]
    if m := re.fullmatch(r"decoder\.layers\.(\d+)", part):
        return [f"rgs_block.rgs_head.{m[1]}.0.1.{leaf}"]
    if m := re.fullmatch(r"(encoder\.)?blocks\.(\d+)\.(.+)", part):
        stack = f"{'encoder' if m[1] else 'decoder'}.1.xfmr_blocks.{m[2]}.{_BLOCK[m[3]]}.{leaf}"
        return [stack.format(which) for which in "qkv"] if "{}" in stack else [stack]
    raise KeyError(ours)


def _value(ours: str, found: Sequence[Tensor], sizes: Sizes) -> Tensor:
    """Return one of our tensors from theirs; their layers of subjects have a column a subject."""
    value = torch.cat(list(found)) if len(found) > 1 else found[0]
    shape = (sizes.n_channels, sizes.sources) if ours.startswith("encoder.") else (sizes.sources, sizes.n_channels)
    if ours in ("encoder.subject.weight", "channels.weight"):
        value = split_subjects(value, *shape)
    elif ours in ("encoder.subject.bias", "channels.bias"):
        value = value.T
    return (value.float() if value.is_floating_point() else value).contiguous().clone()


# A result


def find_checkpoint(folder: str | Path, stage: str) -> Path | None:
    """Return the last checkpoint of a stage ("vqvae" or "mae") of a subject's folder, or None."""
    found = sorted(Path(folder).glob(f"{stage}/model/checkpoint-*.pth"), key=lambda p: natural(p.name))
    return found[-1] if found else None


def read_settings(folder: str | Path) -> dict[str, float]:
    """Return what of the pickled settings the shapes do not say: share of hidden tokens, dropout, decay, weight."""
    wanted = {"mask_ratio": ("mask_ratio",), "dropout": ("encoder", "attn_dropout"), "decay": ("vq", "decay"),
              "beta": ("vq", "beta")}  # fmt: skip
    made: dict[str, float] = {}
    for path in sorted(Path(folder).glob("*/save/params")):
        given = read_pickle(path)
        for name, place in wanted.items():
            value = given.get("model", given) if isinstance(given, Mapping) else None
            for key in place:
                value = value.get(key) if isinstance(value, Mapping) else None
            if isinstance(value, (int, float)) and math.isfinite(value):
                made[name] = float(value)
    return made


def load_published(folder: str | Path, like: Sequence[Recording], *, normalise: str) -> DuINResult:
    """Make a result of the published weights in a subject's folder.

    Parameters
    ----------
    folder : path
        Has ``vqvae/model/checkpoint-*.pth``, ``mae/model/checkpoint-*.pth``, or both.
    like : sequence of Recording
        One for each subject of the weights, in their order; channels, rate and unit become the contract, its samples
        the normaliser. Channels that the weights have beyond those of a recording were padding.
    normalise : str
        How the normaliser is learnt; "none" where the recording is standardised already.
    """
    states = {stage: read_checkpoint(path) for stage in ("vqvae", "mae")
              if (path := find_checkpoint(folder, stage)) is not None}  # fmt: skip
    if not states:
        expected = "vqvae/model/checkpoint-*.pth or mae/model/checkpoint-*.pth"
        raise LoadError(explain(str(folder), expected=expected, got="neither"))
    first = states.get("vqvae") or states["mae"]
    for other in states.values():
        if _common(other.sizes) != _common(first.sizes) or other.n_tokens != first.n_tokens:
            raise LoadError(explain(str(folder), expected="two stages of equal sizes", got="others"))
    names = [rec.subject for rec in like]
    if len(like) != first.sizes.n_subjects or len(set(names)) < len(names):
        expected = f"a recording for each of {first.sizes.n_subjects} subject(s), of different names"
        raise InputError(explain(f"{WHERE}(like)", expected=expected, got=str(names)))
    recs = [data.arranged(rec if "trial" in rec.dims else rec.windows(rec.duration), WHERE).load() for rec in like]
    n_channels = [rec.sizes["channel"] for rec in recs]
    if max(n_channels) > first.sizes.n_channels:
        expected = f"at most {first.sizes.n_channels} channels, in the order of training"
        raise InputError(explain(f"{WHERE}(like)", expected=expected, got=str(n_channels)))
    return _result(states, first, recs, read_settings(folder), normalise)


def _common(sizes: Sizes) -> Sizes:
    """Return the sizes that both stages know."""
    return sizes._replace(decoder_depth=0, code_width=0)


def _result(
    states: Mapping[str, Checkpoint], first: Checkpoint, recs: Sequence[Recording], settings: Mapping[str, float],
    normalise: str,
) -> DuINResult:  # fmt: skip
    """Gather weights, contracts and normalisers."""
    rate, widest = float(recs[0].rate or 0.0), max(rec.sizes["channel"] for rec in recs)
    sizes = first.sizes._replace(n_channels=widest, dropout=settings.get("dropout", first.sizes.dropout),
                                 decay=settings.get("decay", first.sizes.decay))  # fmt: skip
    weights = {stage: {k: _cut(k, v, widest) for k, v in found.state.items()} for stage, found in states.items()}
    fittings = [data.learn_fitting([rec.values], np.ones(rec.sizes["channel"], bool), normalise) for rec in recs]
    contracts = [replace(Contract.of(rec, axis="channel"), n_times=None) for rec in recs]
    names, used = tuple(rec.subject for rec in recs), [len(f.keep) for f in fittings]
    layer = (weights.get("mae") or weights["vqvae"])["encoder.subject.weight"].abs().mean(2)
    score = torch.cat([row[:n] / row.max() for row, n in zip(layer, used, strict=True)])
    table = {"name": np.concatenate([np.asarray(c.names or np.arange(c.size)).astype(str) for c in contracts]),
             "subject": np.repeat(np.asarray(names), used)}  # fmt: skip
    data.patch_samples(sizes.patch / rate, rate, sizes.patch // sizes.stride, WHERE)
    codebook = weights.get("vqvae", {}).get("quantiser.codebook")
    return DuINResult(
        coords={"channel": table}, labels=(), contract=contracts[0], weights={},
        counts=torch.zeros(0, dtype=torch.int64), loss=torch.zeros(0), channel_score=score,
        channel_used=torch.ones(sum(used), dtype=torch.bool), codebook=codebook, subjects=names,
        contracts=dict(zip(names, contracts, strict=True)),
        keeps={k: f.keep for k, f in zip(names, fittings, strict=True)},
        centres={k: f.centre for k, f in zip(names, fittings, strict=True)},
        scales={k: f.scale for k, f in zip(names, fittings, strict=True)},
        sizes_of=dict(sizes._asdict()), stage="masked" if "mae" in states else "codes", window=first.n_tokens,
        codebook_weights=weights.get("vqvae", {}), masked_weights=weights.get("mae", {}),
    )  # fmt: skip


def _cut(name: str, value: Tensor, widest: int) -> Tensor:
    """Leave out the padding of a layer of channels."""
    if name == "encoder.subject.weight":
        return value[:, :widest].contiguous()
    if name in ("channels.weight", "channels.bias"):
        return value[..., :widest].contiguous()
    return value


def settings_of(result: DuINResult, rate: float) -> dict[str, Any]:
    """Return the hyper-parameters of an estimator whose networks are those of a result."""
    s = result.sizes_of
    same = ("sources", "filters", "features", "depth", "decoder_depth", "heads", "head_width", "hidden", "dropout",
            "activation", "n_codes", "code_width", "decay")  # fmt: skip
    patch = int(s["patch"])
    return {**{k: s[k] for k in same}, "patch": patch / rate, "steps": patch // int(s["stride"]),
            "window": result.window * patch / rate, "until": result.stage}  # fmt: skip
