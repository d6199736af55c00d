"""Published weights: a file in the published layout gives the outputs of the published networks, written plainly."""

from __future__ import annotations

import math
import pickle
import sys
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import tectum
from tectum import DuIN, Recording
from tectum.core.errors import InputError, LoadError
from tectum.datasets import simulate
from tectum.models.du_in import checkpoints
from tectum.nn.attention import sinusoid

C, SOURCES, FILTERS, FEATURES, STRIDE, PATCH, HEADS, HEAD, HIDDEN, CODES, CODE, TOKENS = (
    3, 4, 6, 2, 5, 20, 2, 4, 8, 7, 3, 3)  # fmt: skip
WIDTH = PATCH // STRIDE * FEATURES
State = dict[str, Tensor]


class Draw:
    """Draws the tensors of a published state, by their published names."""

    def __init__(self, seed: int, n_subjects: int = 1) -> None:
        self.draw, self.state, self.n = torch.Generator().manual_seed(seed), {}, n_subjects  # type: ignore[var-annotated]

    def add(self, name: str, *shape: int, scale: float = 0.4, shift: float = 0.0) -> None:
        self.state[name] = scale * torch.randn(*shape, generator=self.draw) + shift

    def linear(self, name: str, n_in: int, n_out: int) -> None:
        self.add(f"{name}.weight", n_out, n_in)
        self.add(f"{name}.bias", n_out)

    def norm(self, name: str, width: int) -> None:
        self.add(f"{name}.weight", width, scale=0.2, shift=1.0)
        self.add(f"{name}.bias", width)

    def subject(self, name: str, n_in: int, n_out: int) -> None:
        self.add(f"{name}.subj_layer.W.weight", n_in * n_out, self.n)
        self.add(f"{name}.subj_layer.B.weight", n_out, self.n)

    def tokenizer(self) -> None:
        for k, (n_in, n_out, size) in enumerate([(SOURCES, FILTERS, 2 * STRIDE - 1), (FILTERS, FILTERS, 3),
                                                 (FILTERS, FEATURES, 3)]):  # fmt: skip
            self.add(f"tokenizer.conv_blocks.{k}.0.1.weight", n_out, n_in, size)
            self.add(f"tokenizer.conv_blocks.{k}.0.1.bias", n_out)
            self.norm(f"tokenizer.conv_blocks.{k}.1.1", n_out)
            self.add(f"tokenizer.conv_blocks.{k}.1.1.running_mean", n_out)
            self.state[f"tokenizer.conv_blocks.{k}.1.1.running_var"] = 0.5 + torch.rand(n_out, generator=self.draw)
            self.state[f"tokenizer.conv_blocks.{k}.1.1.num_batches_tracked"] = torch.tensor(9)

    def stack(self, part: str, depth: int) -> None:
        for k in range(depth):
            name = f"{part}.1.xfmr_blocks.{k}"
            for which in "qkv":
                self.linear(f"{name}.mha.W_{which}.W", WIDTH, HEADS * HEAD)
            self.norm(f"{name}.mha.norm_q", HEAD)
            self.norm(f"{name}.mha.norm_k", HEAD)
            self.state[f"{name}.mha.attention.scale"] = torch.tensor(1 / math.sqrt(HEAD))
            self.linear(f"{name}.mha.proj.0", HEADS * HEAD, WIDTH)
            self.norm(f"{name}.norm_mha", WIDTH)
            self.linear(f"{name}.ffn.fc1.0", WIDTH, HIDDEN)
            self.linear(f"{name}.ffn.fc2.0", HIDDEN, WIDTH)
            self.norm(f"{name}.norm_ffn", WIDTH)

    def encoder(self) -> None:
        self.subject("subj_block", C, SOURCES)
        self.tokenizer()
        self.state["emb_time.time_encodings"] = positions(TOKENS)
        self.stack("encoder", 2)


def positions(n: int) -> Tensor:
    """Sines and cosines by loop."""
    table = torch.zeros(n, WIDTH)
    for row in range(n):
        for k in range(0, WIDTH, 2):
            angle = row * 10000.0 ** (-k / WIDTH)
            table[row, k], table[row, k + 1] = math.sin(angle), math.cos(angle)
    return table


@cache
def vqvae(n_subjects: int = 1) -> State:
    made = Draw(0, n_subjects)
    made.encoder()
    made.linear("vq_block.pre_proj.0", WIDTH, WIDTH)
    made.linear("vq_block.pre_proj.2", WIDTH, CODE)
    made.add("vq_block.codex.embeddings", CODES, CODE)
    codes = made.state["vq_block.codex.embeddings"]
    made.state["vq_block.codex.embeddings"] = codes / codes.norm(dim=1, keepdim=True)
    made.state |= {"vq_block.codex.initted": torch.ones(1), "vq_block.counts": torch.arange(float(CODES))}
    made.norm("vq_block.layernorm", CODE)
    made.linear("vq_block.post_proj.0", CODE, WIDTH)
    made.stack("decoder", 1)
    steps = PATCH // STRIDE
    for k, shape in enumerate([(WIDTH, FILTERS, 3), (FILTERS, FILTERS, 3), (FILTERS, FILTERS, steps),
                               (FILTERS, FILTERS, 9), (FILTERS, SOURCES, 2 * STRIDE - 1)]):  # fmt: skip
        made.add(f"rgs_block.rgs_head.{k}.0.1.weight", *shape)
        made.add(f"rgs_block.rgs_head.{k}.0.1.bias", shape[1])
    made.linear("rgs_block.rgs_head.5.0", SOURCES, SOURCES)
    made.subject("desubj_block", SOURCES, C)
    return made.state


@cache
def mae() -> State:
    made = Draw(1)
    made.encoder()
    made.add("mask_emb", WIDTH)
    made.linear("cls_block.cls_head.0.0", WIDTH, CODES)
    return made.state


# The published networks, one window at a time, by the equations of the paper and the published names


def normed(x: Tensor, s: State, name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return centred / scale * s[f"{name}.weight"] + s[f"{name}.bias"]


def lin(x: Tensor, s: State, name: str) -> Tensor:
    return x @ s[f"{name}.weight"].T + s[f"{name}.bias"]


def by_subject(x: Tensor, s: State, name: str, n_in: int, n_out: int, subject: int) -> Tensor:
    """(time, n_in) -> (time, n_out): entry i n_out + o of a subject's column leads from i to o."""
    column = s[f"{name}.subj_layer.W.weight"][:, subject]
    matrix = torch.stack([column[i * n_out : (i + 1) * n_out] for i in range(n_in)])
    return x @ matrix + s[f"{name}.subj_layer.B.weight"][:, subject]


def conv(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """(channel, time) by sums; zeros on both sides."""
    size = weight.shape[2]
    padded = torch.zeros(x.shape[0], x.shape[1] + size - 1, dtype=x.dtype)
    padded[:, size // 2 : size // 2 + x.shape[1]] = x
    steps = range(0, x.shape[1], stride)
    return torch.stack([(weight * padded[:, t : t + size]).sum((1, 2)) + bias for t in steps], 1)


def tokens(x: Tensor, s: State) -> Tensor:
    """(time, source) -> (token, width): every patch by itself."""
    made = []
    for patch in x.split(PATCH):
        y = patch.T
        for k in range(3):
            name = f"tokenizer.conv_blocks.{k}"
            y = conv(y, s[f"{name}.0.1.weight"], s[f"{name}.0.1.bias"], STRIDE if k == 0 else 1)
            mean, var = s[f"{name}.1.1.running_mean"], s[f"{name}.1.1.running_var"]
            y = (y - mean[:, None]) / (var[:, None] + 1e-5).sqrt()
            y = y * s[f"{name}.1.1.weight"][:, None] + s[f"{name}.1.1.bias"][:, None]
        made.append(y.T.flatten())
    return torch.stack(made)


def mixed(e: Tensor, s: State, part: str, depth: int) -> Tensor:
    """Positions, then post-norm blocks, heads one by one."""
    e = e + positions(len(e))
    for k in range(depth):
        name = f"{part}.1.xfmr_blocks.{k}"
        q, key, v = (lin(e, s, f"{name}.mha.W_{which}.W") for which in "qkv")
        heads = []
        for h in range(HEADS):
            rows = slice(h * HEAD, (h + 1) * HEAD)
            score = normed(q[:, rows], s, f"{name}.mha.norm_q") @ normed(key[:, rows], s, f"{name}.mha.norm_k").T
            weight = (score * s[f"{name}.mha.attention.scale"]).exp()
            heads.append(weight / weight.sum(1, keepdim=True) @ v[:, rows])
        e = normed(lin(torch.cat(heads, 1), s, f"{name}.mha.proj.0") + e, s, f"{name}.norm_mha")
        e = normed(lin(lin(e, s, f"{name}.ffn.fc1.0").clamp(min=0), s, f"{name}.ffn.fc2.0") + e, s, f"{name}.norm_ffn")
    return e


def encoded(x: Tensor, s: State, subject: int = 0) -> Tensor:
    return mixed(tokens(by_subject(x.T, s, "subj_block", C, SOURCES, subject), s), s, "encoder", 2)


def chosen(e: Tensor, s: State) -> tuple[Tensor, Tensor]:
    """The code of least distance, and what the decoder sees of it."""
    u = lin(lin(e, s, "vq_block.pre_proj.0").tanh(), s, "vq_block.pre_proj.2")
    u = u / u.norm(dim=1, keepdim=True)
    book = s["vq_block.codex.embeddings"]
    codes = torch.stack([(row - book).square().sum(1).argmin() for row in u])
    return codes, lin(normed(book[codes], s, "vq_block.layernorm"), s, "vq_block.post_proj.0")


def unconv(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """(channel, time) -> (channel, stride * time): every sample leaves its kernel, the ends are cut."""
    size, n = weight.shape[2], x.shape[1] * stride
    cut = math.ceil((size - stride) / 2)
    full = torch.zeros(weight.shape[1], cut + n + size, dtype=x.dtype)
    for t in range(x.shape[1]):
        full[:, t * stride : t * stride + size] += torch.einsum("i,iok->ok", x[:, t], weight)
    return full[:, cut : cut + n] + bias[:, None]


def decoded(e: Tensor, s: State, subject: int = 0) -> Tensor:
    """(token, width) -> (channel, time)."""
    y = mixed(e, s, "decoder", 1).T
    for k, stride in enumerate((1, 1, PATCH // STRIDE, 1, STRIDE)):
        y = unconv(y, s[f"rgs_block.rgs_head.{k}.0.1.weight"], s[f"rgs_block.rgs_head.{k}.0.1.bias"], stride)
    return by_subject(lin(y.T, s, "rgs_block.rgs_head.5.0"), s, "desubj_block", SOURCES, C, subject).T


# Files


def write(root: Path, **states: State) -> Path:
    for stage, state in states.items():
        (root / stage / "model").mkdir(parents=True, exist_ok=True)
        torch.save(state, root / stage / "model" / "checkpoint-399.pth")
    return root


def recording(subject: str = "001", n_channels: int = C, seed: int = 0) -> Recording:
    x = torch.randn(4, n_channels, TOKENS * PATCH, generator=torch.Generator().manual_seed(seed))
    names = [f"A{k}" for k in range(n_channels)]
    return Recording(data=x, dims=("trial", "channel", "time"), rate=200.0, units="z", subject=subject,
                     coords={"channel": {"name": names}})  # fmt: skip


def loaded(root: Path, like: Any = None, **settings: Any) -> DuIN:
    settings = {"normalise": "none", "device": "cpu", **settings}
    return DuIN.from_published(root, recording() if like is None else like, **settings)


def test_outputs_are_those_of_the_published_networks(tmp_path: Path) -> None:
    model, rec = loaded(write(tmp_path, vqvae=vqvae(), mae=mae())), recording()
    found, signal = model.encode(rec), model.reconstruct(rec)
    for k, x in enumerate(rec.values):
        codes, seen = chosen(encoded(x, vqvae()), vqvae())
        assert torch.equal(found.codes[k], codes)  # type: ignore[index]
        torch.testing.assert_close(signal.values[k], decoded(seen, vqvae()), atol=2e-5, rtol=1e-4)  # type: ignore[union-attr]
        torch.testing.assert_close(found.tokens[k], encoded(x, mae()), atol=2e-5, rtol=1e-4)


def test_logits_of_hidden_tokens_are_those_of_the_published_network(tmp_path: Path) -> None:
    model, rec = loaded(write(tmp_path, mae=mae())), recording()
    network = model._ready("masked", 0)
    hidden = torch.tensor([[True, False, True]]).expand(4, -1)
    found = network.body(network.standard(rec.values, whole=True), hidden)
    for k, x in enumerate(rec.values):
        plain = tokens(by_subject(x.T, mae(), "subj_block", C, SOURCES, 0), mae())
        for n in range(TOKENS):
            there = torch.tensor([bool(hidden[0, m]) == bool(hidden[0, n]) for m in range(TOKENS)])
            seen = torch.where(there[:, None], mae()["mask_emb"], plain)
            logits = lin(mixed(seen, mae(), "encoder", 2), mae(), "cls_block.cls_head.0.0")[n]
            torch.testing.assert_close(found[k, n], logits, atol=2e-5, rtol=1e-4)


def test_sizes_and_settings_are_read_off(tmp_path: Path) -> None:
    model = loaded(write(tmp_path, vqvae=vqvae(), mae=mae()), normalise="channel", lr=0.5)
    assert (model.depth, model.decoder_depth, model.n_codes, model.code_width) == (2, 1, CODES, CODE)
    assert (model.patch, model.steps, model.window) == (PATCH / 200, PATCH // STRIDE, TOKENS * PATCH / 200)
    assert (model.heads, model.head_width, model.hidden, model.lr, model.until) == (HEADS, HEAD, HIDDEN, 0.5, "masked")
    rec = recording()
    torch.testing.assert_close(model.result_.centres["001"].float(), rec.values.mean((0, 2)))  # type: ignore[attr-defined]
    only = loaded(write(tmp_path / "other", vqvae=vqvae()))
    assert only.until == "codes"


def test_pickled_settings_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("utils")
    kind: Any = type("DotDict", (dict,), {"__module__": "utils"})
    module.DotDict = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "utils", module)
    root = write(tmp_path, mae=mae())
    (root / "mae" / "save").mkdir()
    model = kind(mask_ratio=0.25, device=torch.device("cpu"), precision=torch.float32, n=np.int64(3),
                 encoder=kind(attn_dropout=0.1))  # fmt: skip
    (root / "mae" / "save" / "params").write_bytes(pickle.dumps(kind(model=model, train=kind(lr=np.float64(1.0)))))
    monkeypatch.delitem(sys.modules, "utils")
    made = loaded(root)
    assert (made.mask_ratio, made.dropout) == (0.25, 0.1)
    assert loaded(root, mask_ratio=0.5).mask_ratio == 0.5


def test_several_subjects_and_padded_channels(tmp_path: Path) -> None:
    root, state = write(tmp_path, vqvae=vqvae(2)), vqvae(2)
    recs = [recording("001", 2, 1), recording("002", 2, 2)]
    model = loaded(root, recs)
    for k, rec in enumerate(recs):
        found = model.encode(rec)
        for x, row in zip(rec.values, found.tokens, strict=True):
            whole = torch.cat((x, torch.zeros(1, x.shape[1])))  # the third channel was padding
            torch.testing.assert_close(row, encoded(whole, state, k), atol=2e-5, rtol=1e-4)
    with pytest.raises(InputError, match=r"a recording for each of 2 subject\(s\), of different names, got \['001'\]"):
        loaded(root, recs[0])
    with pytest.raises(InputError, match=r"at most 3 channels, .*got \[4, 2\]"):
        loaded(root, [recording("001", 4), recs[1]])


def test_parallel_training_puts_a_prefix_before_names(tmp_path: Path) -> None:
    plain = loaded(write(tmp_path / "a", mae=mae()))
    wrapped = loaded(write(tmp_path / "b", mae={f"module.{k}": v for k, v in mae().items()}))
    for key, value in plain.result_.masked_weights.items():  # type: ignore[attr-defined]
        assert torch.equal(wrapped.result_.masked_weights[key], value)  # type: ignore[attr-defined]


@pytest.mark.filterwarnings("ignore:codebook collapse")  # of weights drawn at random
def test_a_classifier_is_trained_on_published_weights(tmp_path: Path) -> None:
    rec = simulate.seeg_words(n_words=2, n_windows=2, n_trials=6, n_tokens=3, n_channels=C, random_state=0).data.words
    rec = rec.isel(time=slice(0, TOKENS * PATCH)).with_(rate=200.0)
    model = loaded(write(tmp_path, vqvae=vqvae(), mae=mae()), rec, validation=0.0, epochs=1, lr=1e-9, weight_decay=0.0)
    found = model.adapt(rec, "word")
    assert found.predict(rec).shape == (12,)
    for key, value in model.result_.masked_weights.items():  # type: ignore[attr-defined]
        if key.startswith("encoder.blocks."):
            torch.testing.assert_close(found.result_.weights[key], value, atol=1e-5, rtol=0)
    again = model.save(str(tmp_path / "kept"))
    loaded_again: Any = tectum.load(again)
    assert torch.equal(loaded_again.encode(rec).codes, model.encode(rec).codes)  # type: ignore[arg-type]


# Wrong files


class Bomb:
    """Runs a command when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


Change = Callable[[State], Any]
WRONG: dict[str, tuple[Change, str]] = {
    "missing": (lambda s: {k: v for k, v in s.items() if k != "mask_emb"}, "a tensor 'mask_emb', got none"),
    "unknown": (lambda s: {**s, "extra.weight": torch.ones(2)}, "unknown extra.weight"),
    "shape": (lambda s: {**s, "mask_emb": torch.ones(5)}, r"mask \(5,\), not \(8,\)"),
    "positions": (lambda s: {**s, "emb_time.time_encodings": torch.ones(TOKENS, WIDTH)}, "not sines and cosines"),
    "scale": (lambda s: {**s, "encoder.1.xfmr_blocks.1.mha.attention.scale": torch.tensor(1.0)}, "root of the width"),
    "empty": (lambda s: {}, "a state, names to tensors"),
    "list": (lambda s: [torch.ones(2)], "a state, names to tensors, got list"),
    "flat": (lambda s: {**s, "subj_block.subj_layer.B.weight": torch.ones(3)}, "a stage as published"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_states_are_named(tmp_path: Path, case: str) -> None:
    change, says = WRONG[case]
    write(tmp_path, mae=change(dict(mae())))
    with pytest.raises(LoadError, match=f"checkpoint-399.pth.*{says}"):
        loaded(tmp_path)


def test_nothing_in_a_file_is_run(tmp_path: Path) -> None:
    write(tmp_path, mae={"x": Bomb(tmp_path / "ran")})  # type: ignore[dict-item]
    with pytest.raises(LoadError, match="checkpoint-399.pth.*a PyTorch file of tensors only"):
        loaded(tmp_path)
    (tmp_path / "mae" / "model" / "checkpoint-399.pth").write_bytes(b"no such file")
    with pytest.raises(LoadError, match="a PyTorch file of tensors only"):
        loaded(tmp_path)
    write(tmp_path, mae=mae())
    (tmp_path / "mae" / "save").mkdir()
    (tmp_path / "mae" / "save" / "params").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(pickle.UnpicklingError, match="params.*Path"):
        loaded(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_folders_without_or_with_unlike_stages(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"vqvae/model/checkpoint-\*.pth or mae.*got neither"):
        loaded(tmp_path)
    longer = {**mae(), "emb_time.time_encodings": sinusoid(5, WIDTH, device=torch.device("cpu"), dtype=torch.float32)}
    with pytest.raises(LoadError, match="two stages of equal sizes"):
        loaded(write(tmp_path, vqvae=vqvae(), mae=longer))


def test_the_last_of_several_checkpoints_is_taken(tmp_path: Path) -> None:
    write(tmp_path, mae=mae())
    for epoch in (40, 1000):
        torch.save(mae(), tmp_path / "mae" / "model" / f"checkpoint-{epoch}.pth")
    found = checkpoints.find_checkpoint(tmp_path, "mae")
    assert found is not None
    assert found.name == "checkpoint-1000.pth"
