"""The networks of Du-IN: a shared encoder, and what each of the three stages puts on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...nn.attention import EncoderBlock, shrink_by_depth, sinusoid, start_linear
from ...nn.conv import PatchDecoder, PatchEncoder
from ...nn.masking import hide, of_hidden_pass, twice
from ...nn.subject import SubjectLinear
from ...nn.vq import COLLAPSED, VectorQuantiser


class Sizes(NamedTuple):
    """Sizes of the networks; the defaults are the published ones."""

    n_channels: int = 10  #: of the subject with most
    n_subjects: int = 1
    patch: int = 100  #: samples of a token
    stride: int = 10  #: samples of a step inside a token
    sources: int = 16
    filters: int = 128
    features: int = 16  #: of a step inside a token
    depth: int = 8
    decoder_depth: int = 4
    heads: int = 8
    head_width: int = 64
    hidden: int = 320
    dropout: float = 0.2
    activation: str | None = None
    n_codes: int = 2048
    code_width: int = 64
    decay: float = 0.99
    head_hidden: int = 128
    own_tokenizers: bool = False  #: one for each subject, from its channels, in place of a layer of subjects

    @property
    def width(self) -> int:
        """Numbers in a token."""
        return self.patch // self.stride * self.features


class Reconstruction(NamedTuple):
    """What the first stage makes of a batch."""

    signal: Tensor  #: (batch, channel, time)
    codes: Tensor  #: (batch, token) int64
    unit: Tensor  #: (batch, token, code_width)
    commitment: Tensor  #: ()


def blocks(sizes: Sizes, depth: int) -> nn.ModuleList:
    """Make encoder blocks whose weights start as published."""
    made = nn.ModuleList(
        EncoderBlock(sizes.width, heads=sizes.heads, head_width=sizes.head_width, hidden=sizes.hidden,
                     dropout=sizes.dropout)
        for _ in range(depth)
    )  # fmt: skip
    start_linear(made)
    shrink_by_depth(made)
    return made


def positioned(tokens: Tensor) -> Tensor:
    """Add the position code to tokens (batch, token, width)."""
    return tokens + sinusoid(tokens.shape[1], tokens.shape[2], device=tokens.device, dtype=tokens.dtype)


def tokenizer(sizes: Sizes, n_in: int) -> PatchEncoder:
    """Make a tokeniser of ``n_in`` sources or channels."""
    return PatchEncoder(n_in, sizes.filters, sizes.features, patch=sizes.patch, stride=sizes.stride,
                        activation=sizes.activation)  # fmt: skip


class OwnTokenizers(nn.Module):
    """A tokeniser for each subject, straight from its channels; each sees the windows of its subject only."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.patch = sizes.patch
        self.each = nn.ModuleList(tokenizer(sizes, sizes.n_channels) for _ in range(sizes.n_subjects))

    def forward(self, x: Tensor, subject: Tensor | None = None) -> Tensor:
        """Map (batch, time, channel) to (batch, token, width); without ``subject`` (batch,) all are the first."""
        if subject is None:
            only: Tensor = self.each[0](x)
            return only
        rows = [(subject == k).nonzero()[:, 0] for k in range(len(self.each))]
        parts = [one(x[mine]) for one, mine in zip(self.each, rows, strict=True) if len(mine)]
        return torch.cat(parts)[torch.cat(rows).argsort()]

    def scores(self) -> Tensor:
        """Return how much each channel weighs in the first convolution, over the largest: Tensor (subject, channel)."""
        size = torch.stack([one.layers[0].weight.detach().abs().mean((0, 2)) for one in self.each])  # type: ignore[union-attr, index]
        return size / size.amax(1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)


class Encoder(nn.Module):
    """Channels to sources, patches to tokens, tokens among each other."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.subject = None
        self.tokenizer: PatchEncoder | OwnTokenizers
        if sizes.own_tokenizers:
            self.tokenizer = OwnTokenizers(sizes)
        else:
            self.subject = SubjectLinear(sizes.n_subjects, sizes.n_channels, sizes.sources)
            self.tokenizer = tokenizer(sizes, sizes.sources)
        self.blocks = blocks(sizes, sizes.depth)

    def tokens(self, x: Tensor, subject: Tensor | None = None) -> Tensor:
        """Return the token of every patch of (batch, channel, time), by itself: (batch, token, width)."""
        x = x.transpose(1, 2)
        found: Tensor
        found = self.tokenizer(x, subject) if self.subject is None else self.tokenizer(self.subject(x, subject))
        return found

    def scores(self) -> Tensor:
        """Return how much each channel weighs, over the largest of its subject: Tensor (subject, channel)."""
        layer: SubjectLinear | OwnTokenizers = self.tokenizer if self.subject is None else self.subject  # type: ignore[assignment]
        return layer.scores()

    def of_subject(self, k: int) -> nn.Module:
        """Return what belongs to one subject alone; of a layer of subjects, the layer."""
        return self.subject if isinstance(self.tokenizer, PatchEncoder) else self.tokenizer.each[k]  # type: ignore[return-value]

    def mixed(self, tokens: Tensor) -> Tensor:
        """Let tokens (batch, token, width) see each other."""
        tokens = positioned(tokens)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def forward(self, x: Tensor, subject: Tensor | None = None) -> Tensor:
        """Map (batch, channel, time) to (batch, token, width)."""
        return self.mixed(self.tokens(x, subject))

    def attention(self, x: Tensor, subject: Tensor | None = None) -> Tensor:
        """Return the attention of every block: (batch, block, head, token, token)."""
        tokens, found = positioned(self.tokens(x, subject)), []
        for block in self.blocks:
            found.append(block.attention.weights(tokens))  # type: ignore[union-attr, operator]
            tokens = block(tokens)
        return torch.stack(found, 1)


class VQVAE(nn.Module):
    """Stage 1: encode, quantise, and reconstruct the signal."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.encoder = Encoder(sizes)
        self.quantiser = VectorQuantiser(sizes.width, n_codes=sizes.n_codes, code_width=sizes.code_width,
                                         decay=sizes.decay, revive_below=COLLAPSED)  # fmt: skip
        self.blocks = blocks(sizes, sizes.decoder_depth)
        self.decoder = PatchDecoder(sizes.width, sizes.filters, sizes.sources, patch=sizes.patch, stride=sizes.stride)
        self.channels = SubjectLinear(sizes.n_subjects, sizes.sources, sizes.n_channels)
        start_linear(self.quantiser)
        start_linear(self.decoder.mix)

    def codes(self, x: Tensor, subject: Tensor | None = None) -> Tensor:
        """Return the code of every token: (batch, token) int64."""
        return self.quantiser.encode(self.encoder(x, subject))

    def forward(
        self, x: Tensor, subject: Tensor | None = None, *, phase: str = "move", picks: Tensor | None = None
    ) -> Reconstruction:
        """Reconstruct (batch, channel, time); ``phase`` and ``picks`` are those of the quantiser."""
        found = self.quantiser(self.encoder(x, subject), phase=phase, picks=picks)
        tokens = positioned(found.out)
        for block in self.blocks:
            tokens = block(tokens)
        signal = self.channels(self.decoder(tokens), subject).transpose(1, 2)
        return Reconstruction(signal, found.codes, found.unit, found.commitment)


class MaskedModel(nn.Module):
    """Stage 2: tell the codes of hidden tokens from the others."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.encoder = Encoder(sizes)
        self.mask = nn.Parameter(torch.empty(sizes.width))
        nn.init.trunc_normal_(self.mask, std=0.02, a=-0.04, b=0.04)
        self.head = nn.Linear(sizes.width, sizes.n_codes)
        start_linear(self.head)

    def forward(self, x: Tensor, hidden: Tensor, subject: Tensor | None = None) -> Tensor:
        """Return the logits (batch, token, code) of every token from the pass that hid it.

        The passes with the mask ``hidden`` (batch, token) and with its complement are one batch; tokens of patches do
        not depend on the mask and are computed once.
        """
        tokens = self.encoder.tokens(x, subject)
        both = hide(tokens.repeat(2, 1, 1), twice(hidden), self.mask)
        logits: Tensor = self.head(of_hidden_pass(self.encoder.mixed(both), hidden))
        return logits


class Classifier(nn.Module):
    """Stage 3: classes of whole windows."""

    def __init__(self, sizes: Sizes, n_tokens: int, n_classes: int, *, quantised: bool = False) -> None:
        super().__init__()
        self.encoder = Encoder(sizes)
        self.quantiser = None
        if quantised:
            self.quantiser = VectorQuantiser(sizes.width, n_codes=sizes.n_codes, code_width=sizes.code_width,
                                             decay=sizes.decay)  # fmt: skip
        self.head = nn.Sequential(
            nn.Linear(n_tokens * sizes.width, sizes.head_hidden), nn.ReLU(), nn.Linear(sizes.head_hidden, n_classes)
        )
        start_linear(self.head)

    def forward(self, x: Tensor, subject: Tensor | None = None) -> Tensor:
        """Map (batch, channel, time) to logits (batch, class)."""
        return self.decided(self.encoder(x, subject))

    def decided(self, tokens: Tensor) -> Tensor:
        """Map mixed tokens (batch, token, width) to logits (batch, class)."""
        if self.quantiser is not None:
            tokens = self.quantiser(tokens).out
        logits: Tensor = self.head(tokens.flatten(1))
        return logits


class TokenClassifier(nn.Module):
    """Stage 3 with one label a token (phonemes): the same head at every token."""

    def __init__(self, sizes: Sizes, n_classes: int) -> None:
        super().__init__()
        self.encoder = Encoder(sizes)
        self.head = nn.Sequential(
            nn.Linear(sizes.width, sizes.head_hidden), nn.ReLU(), nn.Linear(sizes.head_hidden, n_classes)
        )
        start_linear(self.head)

    def forward(self, x: Tensor, subject: Tensor | None = None) -> Tensor:
        """Map (batch, channel, time) to logits (batch, token, class)."""
        logits: Tensor = self.head(self.encoder(x, subject))
        return logits


_EACH = "encoder.tokenizer.each."
OF_SUBJECTS = ("encoder.subject.", _EACH)  #: what of an encoder belongs to one subject
_KERNEL = "layers.0.weight"  #: of a tokeniser, (filter, channel, sample)


def state_of_subject(state: Mapping[str, Tensor], k: int, n: int) -> dict[str, Tensor]:
    """Return the state of a network for subject ``k`` alone, with its ``n`` channels.

    Examples
    --------
    >>> state = Classifier(Sizes(n_channels=5, n_subjects=3), 2, 2).state_dict()
    >>> state_of_subject(state, 1, 4)["encoder.subject.weight"].shape
    torch.Size([1, 4, 16])
    """
    cuts = {"encoder.subject.weight": (slice(k, k + 1), slice(n)), "encoder.subject.bias": (slice(k, k + 1),),
            "channels.weight": (slice(k, k + 1), slice(None), slice(n)),
            "channels.bias": (slice(k, k + 1), slice(n))}  # fmt: skip
    made = {}
    for name, value in state.items():
        place, _, rest = name.removeprefix(_EACH).partition(".")
        if not name.startswith(_EACH):
            made[name] = value[cuts[name]] if name in cuts else value
        elif int(place) == k:
            made[f"{_EACH}0.{rest}"] = value[:, :n] if rest == _KERNEL else value
    return made


def put_subject(state: dict[str, Tensor], one: Mapping[str, Tensor], k: int) -> None:
    """Write what belongs to the subject of a state of one subject into place ``k`` of an encoder's state."""
    for name, value in one.items():
        if name in ("encoder.subject.weight", "encoder.subject.bias"):
            made = state[name].clone()
            made[k, : value.shape[1]] = value[0].to(made)
            state[name] = made
        elif name.startswith(f"{_EACH}0."):
            rest = name.removeprefix(f"{_EACH}0.")
            made = state[f"{_EACH}{k}.{rest}"].clone()
            made[(slice(None), slice(value.shape[1])) if rest == _KERNEL else ...] = value.to(made)
            state[f"{_EACH}{k}.{rest}"] = made


def count_parameters(module: nn.Module) -> int:
    """Return the number of trainable parameters.

    Examples
    --------
    >>> count_parameters(VQVAE(Sizes())), count_parameters(MaskedModel(Sizes()))
    (5801386, 3890304)
    >>> count_parameters(Classifier(Sizes(), n_tokens=30, n_classes=61))
    4182813
    """
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
