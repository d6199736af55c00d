"""Du-IN: sizes as published, each stage does what it says, killed runs resume, bad inputs are refused."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import tectum
from tectum import DuIN, DuINResult, Recording
from tectum.core import loops
from tectum.core.errors import ContractError, InputError, TectumWarning
from tectum.datasets import simulate
from tectum.models.du_in import data, stages
from tectum.models.du_in.channels import channel_curve
from tectum.models.du_in.modules import VQVAE, Classifier, MaskedModel, Sizes, TokenClassifier, count_parameters
from tectum.nn.losses import token_cross_entropy
from tectum.nn.masking import random_mask

#: Six epochs on a few windows may well leave one code.
pytestmark = pytest.mark.filterwarnings("ignore:codebook collapse")

TINY = {"device": "cpu", "depth": 1, "decoder_depth": 1, "filters": 8, "features": 4, "sources": 4, "heads": 2,
        "head_width": 8, "hidden": 16, "n_codes": 8, "code_width": 4, "codes_epochs": 6, "masked_epochs": 3,
        "epochs": 4, "pretrain_batch": 8, "batch_size": 8, "pretrain_lr": 3e-3, "lr": 3e-3, "window": 0.2,
        "quantiser_warmup": 0.5, "dropout": 0.1}  # fmt: skip
SMALL = Sizes(n_channels=3, patch=20, stride=5, sources=4, filters=6, features=2, depth=2, decoder_depth=1, heads=2,
              head_width=4, hidden=8, n_codes=6, code_width=3)  # fmt: skip


@cache
def world(seed: int = 0, **options: Any) -> Any:
    chosen = {"n_words": 2, "n_windows": 24, "n_trials": 10, "n_tokens": 2, "n_channels": 4, "random_state": seed}
    return simulate.seeg_words(**{**chosen, **options})


def words(seed: int = 0, **options: Any) -> Recording:
    found: Recording = world(seed, **options).data.words
    return found


def free(seed: int = 0, **options: Any) -> Recording:
    found: Recording = world(seed, **options).data.unlabelled
    return found


@cache
def fitted(**options: Any) -> DuIN:
    return DuIN(**{**TINY, **options}).fit(words(), "word", unlabelled=free())


# Sizes


def test_published_sizes_have_the_published_parameters() -> None:
    sizes = Sizes()
    codes, masked, classifier = VQVAE(sizes), MaskedModel(sizes), Classifier(sizes, n_tokens=30, n_classes=61)
    assert count_parameters(codes) == 5_801_386
    assert count_parameters(masked) == 3_890_304
    assert count_parameters(classifier) == 4_182_813
    parts = {"subject": 176, "tokenizer": 95_024, "blocks": 3_465_216}
    assert {name: count_parameters(getattr(codes.encoder, name)) for name in parts} == parts
    assert count_parameters(codes.encoder.blocks[0]) == 433_152
    assert count_parameters(codes.quantiser) == 46_592
    assert count_parameters(codes.blocks) == 1_732_608
    assert count_parameters(codes.decoder) == 461_600
    assert count_parameters(codes.channels) == 170
    assert count_parameters(masked.head) == 329_728
    assert count_parameters(classifier.head) == 622_397
    assert codes.quantiser.codebook.shape == (2048, 64)


def test_default_settings_are_the_published_sizes() -> None:
    made = DuIN()._build(10, 3000, 61, 1000.0)
    assert count_parameters(made) == 4_182_813
    assert (DuIN().n_codes, DuIN().code_width, DuIN().mask_ratio, DuIN().decay) == (2048, 64, 0.5, 0.99)


# Stages


def gradients(module: nn.Module, loss: torch.Tensor) -> dict[str, float]:
    loss.backward()
    idle = stages.idle_biases(module)
    named = {n: p for n, p in module.named_parameters() if id(p) not in idle}
    assert all(p.grad is not None for p in module.parameters())
    return {n: float(p.grad.abs().max()) for n, p in named.items() if p.grad is not None}


@pytest.mark.parametrize("phase", ["pass", "start", "move", "revive"])
def test_every_parameter_of_the_first_stage_learns(phase: str) -> None:
    torch.manual_seed(0)
    module = VQVAE(SMALL).double()
    x = torch.randn(4, 3, 60, dtype=torch.float64)
    picks = torch.arange(6) if phase in ("start", "revive") else None
    loss = stages.code_loss(module, stages.CodeBatch(x, None, None, phase, picks), beta=1.0)["loss"]
    found = gradients(module, loss)
    assert min(found.values()) > 0, [n for n, v in found.items() if v == 0]


def test_every_parameter_of_the_second_and_third_stage_learns() -> None:
    torch.manual_seed(0)
    x, codes = torch.randn(4, 3, 60, dtype=torch.float64), torch.randint(6, (4, 3))
    masked = MaskedModel(SMALL).double()
    hidden = random_mask(4, 3, 0.5, generator=torch.Generator().manual_seed(0))
    found = gradients(masked, token_cross_entropy(masked(x, hidden), codes))
    assert min(found.values()) > 0
    for quantised in (False, True):
        classifier = Classifier(SMALL, n_tokens=3, n_classes=4, quantised=quantised).double()
        if classifier.quantiser is not None:
            classifier.quantiser.eval()
        found = gradients(classifier, nn.functional.cross_entropy(classifier(x), torch.arange(4)))
        assert min(found.values()) > 0
    each = TokenClassifier(SMALL, 5).double()
    assert min(gradients(each, token_cross_entropy(each(x), codes % 5)).values()) > 0


def test_idle_biases_change_nothing_that_training_sees() -> None:
    torch.manual_seed(0)
    module = Classifier(SMALL, n_tokens=3, n_classes=4).double()
    x, before = torch.randn(4, 3, 60, dtype=torch.float64), None
    for k in range(2):
        for layer in module.encoder.tokenizer.layers:
            if isinstance(layer, nn.Conv1d):
                layer.bias.data += k
        for part in module.modules():
            part.training = not isinstance(part, nn.Dropout)
        module.encoder.blocks.eval()
        found = module(x)
        if before is not None:
            torch.testing.assert_close(found, before)
        before = found


def test_tokens_see_their_own_patch_only() -> None:
    torch.manual_seed(0)
    module = Classifier(SMALL, n_tokens=3, n_classes=4).double().eval()
    x = torch.randn(1, 3, 60, dtype=torch.float64, requires_grad=True)
    for n in range(3):
        (gradient,) = torch.autograd.grad(module.encoder.tokens(x)[0, n].square().sum(), x)
        touched = gradient[0].abs().sum(0) > 0
        assert touched[20 * n : 20 * n + 20].all()
        assert int(touched.sum()) == 20


def test_masked_passes_are_those_of_two_separate_runs() -> None:
    torch.manual_seed(0)
    module = MaskedModel(SMALL).double().eval()
    x = torch.randn(4, 3, 60, dtype=torch.float64)
    hidden = random_mask(4, 3, 0.5, generator=torch.Generator().manual_seed(0))
    tokens = module.encoder.tokens(x)
    passes = []
    for mask in (hidden, ~hidden):
        made = tokens.clone()
        made[mask] = module.mask
        passes.append(module.head(module.encoder.mixed(made)))
    torch.testing.assert_close(module(x, hidden), torch.where(hidden[..., None], *passes))


def test_logits_of_a_hidden_token_do_not_depend_on_it() -> None:
    torch.manual_seed(0)
    module = MaskedModel(SMALL).double().eval()
    x = torch.randn(1, 3, 60, dtype=torch.float64, requires_grad=True)
    hidden = torch.tensor([[True, False, True]])
    for n in range(3):
        (gradient,) = torch.autograd.grad(module(x, hidden)[0, n].square().sum(), x)
        seen = {k for k in range(3) if bool(gradient[0, :, 20 * k : 20 * k + 20].any())}
        assert seen == ({1} if hidden[0, n] else {0, 2})


def test_padded_channels_do_not_matter() -> None:
    torch.manual_seed(0)
    parts = [torch.randn(2, 3, 60), torch.randn(3, 2, 60)]
    bank = data.bank_of(parts, [0, 1], [3, 2])
    assert bank.subject is not None
    assert bank.subject.tolist() == [0, 0, 1, 1, 1]
    assert bank.masks(bank.subject)[2:].tolist() == [[True, True, False]] * 3  # type: ignore[index]
    module = Classifier(SMALL._replace(n_subjects=2), n_tokens=3, n_classes=4).eval()
    before = module(bank.x, bank.subject)
    with torch.no_grad():
        module.encoder.subject.weight[1, 2] = 9.0
    torch.testing.assert_close(module(bank.x, bank.subject), before)


def test_rates_rise_and_fall_by_epoch_as_published() -> None:
    plan = stages.Plan("x", epochs=400, batch=1, lr=3e-4, floor=5e-5, weight_decay=0.0, warmup=0.1, seed=0)
    factor = stages.rate_of(plan, per_epoch=7)
    for epoch in (0, 10, 39, 40, 200, 399):
        wanted = 3e-4 * (epoch + 1) / 40
        if epoch >= 40:
            wanted = 5e-5 + 0.5 * (3e-4 - 5e-5) * (1 + np.cos(np.pi * (epoch - 40) / 360))
        for step in (0, 6):
            assert plan.lr * factor(7 * epoch + step) == pytest.approx(wanted, rel=1e-12)
    assert stages.rate_of(plan, 7, first=70)(0) == factor(70)


def test_decay_spares_biases_norms_and_the_bias_of_subjects() -> None:
    module = VQVAE(SMALL)
    plan = stages.Plan("x", 1, 1, 1e-3, 0.0, 0.3, 0.0, 0)
    by_id = {id(p): n for n, p in module.named_parameters()}
    groups = stages.make_optimizer(module, plan).param_groups
    decayed = {by_id[id(p)] for g in groups if g["weight_decay"] for p in g["params"]}
    assert sum(len(g["params"]) for g in groups) == len(by_id)
    assert decayed == {n for n, p in module.named_parameters() if n.endswith("weight") and p.ndim >= 2}


def test_crops_are_pieces_of_their_windows() -> None:
    x = torch.arange(200.0).reshape(2, 1, 100)
    bank = data.Bank(x, None, None)
    rows = torch.tensor([1, 0, 1])
    found, _ = stages.crops(bank, rows, 40, 5)
    starts = found[:, 0, 0] - 100 * rows
    assert bool(((starts >= 0) & (starts <= 60)).all())
    assert bool((found.diff(dim=2) == 1).all())
    assert torch.equal(found, stages.crops(bank, rows, 40, 5)[0])
    assert torch.equal(stages.crops(bank, rows, 40, None)[0], x[rows, :, :40])


def test_errors_come_before_losses_in_the_criterion() -> None:
    pairs = [(0, 0.1), (0, 5.0), (1, 0.01), (1, 30.0), (7, 0.2)]
    values = [stages.packed(torch.tensor(e), torch.tensor(v).double()) for e, v in pairs]
    assert all(a < b for a, b in zip(values[:-1], values[1:], strict=True))
    for (errors, loss), value in zip(pairs, values, strict=True):
        assert [float(v) for v in stages.unpacked(value)] == pytest.approx([errors, loss], rel=1e-5)


# Fits


def test_stages_leave_their_histories() -> None:
    result: Any = fitted().result_
    assert {"codes.loss", "codes.error", "codes.held", "masked.loss", "masked.accuracy", "masked.held",
            "classifier.loss", "classifier.held"} <= set(result.history)  # fmt: skip
    assert len(result.loss) == len(result.val_loss) == len(result.val_errors) == 4
    assert len(result.history["masked.held"]) == 3
    assert len(result.history["codes.held"]) == 3  # after three epochs without quantisation
    assert int(result.confusion.sum()) == len(result.codes)
    assert int(result.code_usage.sum()) == result.codes.numel()
    assert int(result.code_by_label.sum()) == 40
    assert result.stage == "classifier"


def test_no_block_is_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    real = stages.train_classes

    def spy(module: Any, bank: Any, classes: Any, train: Any, held: Any, plan: Any, **options: Any) -> Any:
        seen.append((train.numpy(), held.numpy()))
        return real(module, bank, classes, train, held, plan, **options)

    monkeypatch.setattr(stages, "train_classes", spy)
    DuIN(**{**TINY, "pretrain": "none", "epochs": 1}).fit(words(), "word")
    blocks = np.asarray(words().labels("trial", "block"))
    ((train, held),) = seen
    assert len(train) + len(held) == len(blocks)
    assert not set(blocks[train]) & set(blocks[held])


def test_windows_that_overlap_held_out_trials_are_left_out() -> None:
    rec = words()
    start = np.asarray(rec.labels("trial", "start"))
    continuous = rec.values.movedim(0, 1).flatten(1)  # the trials follow each other without gaps
    whole = Recording(data=continuous, dims=("channel", "time"), rate=rec.rate, units=rec.units, subject=rec.subject,
                      session=rec.session, coords={"channel": rec.coords["channel"]})  # fmt: skip
    cut = whole.windows(0.2, hop=0.1)
    hidden = np.stack((start[4:8], start[4:8] + 0.2), 1)
    train, held = data.split_extra(cut, 0.2, hidden)
    begin = np.asarray(cut.labels("trial", "start"))
    for rows in train:
        assert begin[rows] + 0.2 <= start[4] + 1e-9 or begin[rows] >= start[8] - 1e-9
        assert begin[rows] + 0.2 <= begin[held].min() + 1e-9


def test_normaliser_is_learnt_on_training_trials_only() -> None:
    rec = words()
    blocks = np.asarray(rec.labels("trial", "block"))
    found = DuIN(**{**TINY, "pretrain": "none", "epochs": 1}).fit(rec, "word")
    learnt = found.result_.scales["sim"]  # type: ignore[attr-defined]

    def agrees(rows: np.ndarray) -> bool:
        return bool(torch.allclose(learnt, rec.values[torch.from_numpy(rows)].double().std((0, 2), correction=0)))

    assert sum(agrees(blocks != b) for b in np.unique(blocks)) == 1  # the block that was held out
    assert not agrees(blocks >= 0)


@pytest.mark.parametrize("pretrain", ["none", "vqvae", "quantised", "mae"])
def test_the_classifier_starts_from_what_is_asked(pretrain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    real = stages.train_classes

    def spy(module: Any, *args: Any, **options: Any) -> Any:
        seen["state"] = {k: v.clone() for k, v in module.state_dict().items()}
        return real(module, *args, **options)

    monkeypatch.setattr(stages, "train_classes", spy)
    result: Any = DuIN(**{**TINY, "pretrain": pretrain}).fit(words(), "word", unlabelled=free()).result_
    source = {"mae": result.masked_weights, "none": {}}.get(pretrain, result.codebook_weights)
    for key, value in seen["state"].items():
        if key.startswith("encoder.") and source:
            assert torch.equal(value, source[key])
    assert bool(result.codebook_weights) == (pretrain != "none")
    assert bool(result.masked_weights) == (pretrain == "mae")
    kept = any(k.startswith("quantiser.") for k in result.weights)
    assert kept == (pretrain == "quantised")
    if kept:
        assert torch.equal(result.weights["quantiser.codebook"], result.codebook_weights["quantiser.codebook"])


def test_codes_can_be_learnt_alone_and_used_later() -> None:
    rec = free()
    long = Recording(data=rec.values.movedim(0, 1).flatten(1), dims=("channel", "time"), rate=rec.rate, units="z",
                     subject="sim", coords={"channel": rec.coords["channel"]})  # fmt: skip
    codes = DuIN(**TINY, until="codes").fit(long)
    assert (codes.result_.stage, codes.result_.labels) == ("codes", ())  # type: ignore[attr-defined]
    assert codes.encode(rec).codes.shape == (24, 2)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="trained classifier stage, got a model trained until 'codes'"):
        codes.predict(words())
    masked = DuIN(**TINY, until="masked").fit(long, init=codes.result_)
    assert masked.result_.stage == "masked"  # type: ignore[attr-defined]
    for key, value in codes.result_.codebook_weights.items():  # type: ignore[attr-defined]
        assert torch.equal(masked.result_.codebook_weights[key], value)  # type: ignore[attr-defined]
    model = masked.adapt(words(), "word")
    assert model.result_.labels == ("w0", "w1")
    assert model.predict(words()).shape == (20,)


def test_adapting_to_a_new_subject_and_new_words() -> None:
    model = fitted()
    other = words(3, n_channels=6, n_words=3).with_(subject="second")
    with pytest.raises(InputError, match="a subject of the fit, got 'second'; known subjects: sim; adapt"):
        model.predict(other)
    found = model.adapt(other, "word", part="head")
    result: Any = found.result_
    assert (result.labels, result.subjects) == (("w0", "w1", "w2"), ("second",))
    assert result.weights["encoder.subject.weight"].shape == (1, 6, 4)
    for key in ("encoder.blocks.0.first.weight", "encoder.tokenizer.layers.0.weight"):
        assert torch.equal(result.weights[key], model.result_.weights[key])
    assert not torch.equal(
        result.weights["encoder.subject.weight"][0, :4], model.result_.weights["encoder.subject.weight"][0]
    )  # noqa: E501
    whole = model.adapt(words(), "word", epochs=1)
    assert torch.equal(whole.result_.centres["sim"], model.result_.centres["sim"])  # type: ignore[attr-defined]
    assert not torch.equal(whole.result_.weights["encoder.blocks.0.first.weight"],
                           model.result_.weights["encoder.blocks.0.first.weight"])  # fmt: skip


def test_subjects_with_other_channels_share_a_model() -> None:
    one, two = words(), words(5, n_channels=3).with_(subject="second")
    more = free(5, n_channels=3).with_(subject="second")
    third = free(6, n_channels=2).with_(subject="third")
    model = DuIN(**TINY).fit([one, two], "word", unlabelled=[free(), more, third])
    result: Any = model.result_
    assert result.subjects == ("sim", "second", "third")
    assert [c.size for c in result.contracts.values()] == [4, 3, 2]
    assert (result.channel_score.shape, result.weights["encoder.subject.weight"].shape) == ((9,), (3, 4, 4))
    both, alone = model.predict_proba([one, two]), model.predict_proba(two)
    torch.testing.assert_close(both[len(both) // 2 :], alone)
    network = model.forward_module("second")
    torch.testing.assert_close(network(two.values).softmax(1), alone)
    assert model.encode(third).tokens.shape == (24, 2, 40)
    with pytest.raises(ContractError, match="channel order or extra entries"):
        model.predict(one.with_(subject="second"))
    with pytest.raises(InputError, match="known subjects: sim, second, third"):
        model.predict(one.with_(subject="fourth"))


def test_every_subject_may_have_a_tokeniser_of_its_own(tmp_path: Path) -> None:
    one, two = words(), words(5, n_channels=3).with_(subject="second")
    more = free(5, n_channels=3).with_(subject="second")
    model = DuIN(**TINY, tokenizer="own").fit([one, two], "word", unlabelled=[free(), more])
    result: Any = model.result_
    assert "encoder.subject.weight" not in result.weights
    assert {k.split(".")[3] for k in result.weights if k.startswith("encoder.tokenizer.each.")} == {"0", "1"}
    assert result.channel_score.shape == (7,)
    both, alone = model.predict_proba([one, two]), model.predict_proba(two)
    torch.testing.assert_close(both[len(both) // 2 :], alone)
    torch.testing.assert_close(model.forward_module("second")(two.values).softmax(1), alone)
    assert [r.sizes["channel"] for r in model.reconstruct([one, two])] == [4, 3]
    assert model.encode(two).codes.shape == (20, 2)  # type: ignore[union-attr]
    again: Any = tectum.load(model.save(str(tmp_path / "model")))
    assert torch.equal(again.predict_proba([two, one]), model.predict_proba([two, one]))
    assert len(result.plot("channels", subject="second").patches) == 3
    with pytest.raises(InputError, match="sizes, got .*'own_tokenizers': True"):
        DuIN(**TINY).fit(two, "word", init=result)


@pytest.mark.parametrize("kind", ["shared", "own"])
def test_known_subjects_keep_their_weights_in_another_order_and_new_ones_begin(kind: str) -> None:
    one, two = words(), words(5, n_channels=3).with_(subject="second")
    model = DuIN(**TINY, tokenizer=kind, pretrain="none").fit([one, two], "word")
    fresh = words(6, n_channels=6).with_(subject="third")
    for recs, order in (([two], (1,)), ([fresh, two, one], (None, 1, 0))):
        found = model.adapt(recs, "word", part="head", epochs=1)
        old, new = model.result_.weights, found.result_.weights
        for key in ("encoder.blocks.0.first.weight", "encoder.blocks.0.attention.qkv.weight"):
            assert torch.equal(new[key], old[key])
        if kind == "own":
            for place, before in enumerate(order):
                name = "encoder.tokenizer.each.{}.layers.3.weight"
                last = "encoder.tokenizer.each.{}.layers.0.weight"
                n = 6 if before is None else recs[place].sizes["channel"]
                if before is not None:
                    assert torch.equal(new[name.format(place)], old[name.format(before)])
                    assert torch.equal(new[last.format(place)][:, :n], old[last.format(before)][:, :n])
        elif len(order) == 1:
            assert torch.equal(new["encoder.subject.weight"][0], old["encoder.subject.weight"][1, :3])
        assert found.predict(recs[0]).shape == (20,)


def test_own_tokenisers_see_their_subject_only() -> None:
    torch.manual_seed(0)
    sizes = SMALL._replace(own_tokenizers=True, n_subjects=3)
    module = Classifier(sizes, n_tokens=3, n_classes=4).double().train()
    module.encoder.blocks.eval()
    x, subject = torch.randn(5, 3, 60, dtype=torch.float64), torch.tensor([2, 0, 2, 0, 0])
    found = module.encoder.tokens(x, subject)
    for k in (0, 2):
        rows = subject == k
        one = copy.deepcopy(module.encoder.tokenizer.each[k])  # type: ignore[union-attr]
        torch.testing.assert_close(found[rows], one(x[rows].transpose(1, 2)))
    found.square().sum().backward()
    moved = {n.split(".")[1] for n, p in module.encoder.tokenizer.named_parameters() if p.grad is not None}
    assert moved == {"0", "2"}


def test_parameters_of_the_published_model_of_twelve_subjects() -> None:
    sizes = Sizes(n_subjects=12, own_tokenizers=True)
    classifier = Classifier(sizes, n_tokens=30, n_classes=61)
    assert count_parameters(classifier.encoder.tokenizer) == 12 * 80_432
    assert count_parameters(classifier) == 5_052_797
    # With the quantiser, codes and contrastive head that the published object carries unused: 5.25M; 5.18M is printed.
    assert count_parameters(classifier) + (4_377_639 - 4_182_813) == 5_247_623


def test_module_takes_raw_windows_and_exports() -> None:
    model, x = fitted(), words()
    network = model.forward_module()
    assert not network.training
    torch.testing.assert_close(network(x.values).softmax(1), model.predict_proba(x))
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(network, (x.values[:4],), dynamic_shapes=({0: batch},))
    torch.testing.assert_close(program.module()(x.values), network(x.values))


@pytest.mark.parametrize("hop", [50, 100, 30, 200, 70])
@pytest.mark.parametrize("compat", ["ours", "reference"])
def test_streams_compute_new_patches_only(hop: int, compat: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rec = words(n_tokens=4)
    model = DuIN(**{**TINY, "epochs": 1}, pretrain="none", compat=compat).fit(rec, "word")
    plain, live = model.forward_module(), model.stream_module()
    seen: list[int] = []
    tokenizer: Any = live.network.body.encoder.tokenizer  # type: ignore[union-attr]
    real = tokenizer.forward
    monkeypatch.setattr(tokenizer, "forward", lambda x: seen.append(x.shape[1]) or real(x))
    x = torch.randn(1, 4, 400 + 20 * hop, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for k in range(20):
            if k == 12:
                x = x.flip(2)  # a jump: nothing goes on
            if k == 16:
                continue  # a window left out
            window = x[..., k * hop : k * hop + 400]
            torch.testing.assert_close(live(window), plain(window), atol=1e-5, rtol=1e-4)
    period = 100 // math.gcd(100, hop)
    if hop * period < 400 and period < 10:
        new = hop * period
        assert seen[:12] == [400] * period + [new] * (12 - period)
        assert seen[12 : 12 + period] == [400] * min(period, len(seen[12:]))
    batch = torch.randn(3, 4, 400, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(live(batch), plain(batch))


def test_a_stream_decides_as_the_model_does_offline() -> None:
    rec = words(n_tokens=4)
    model = DuIN(**{**TINY, "epochs": 1}, pretrain="none").fit(rec, "word")
    x = np.random.default_rng(0).standard_normal((3000, 4)).astype(np.float32)
    stream = tectum.Stream(model, rate=1000.0, hop=0.05, channels=[str(n) for n in rec.labels("channel")])  # type: ignore[union-attr]
    found = [p for part in np.array_split(x, 37) for p in stream.push(part)]
    windows = torch.from_numpy(x.T.copy()).unfold(1, 400, 50).movedim(1, 0)
    wanted = model.forward_module()(windows).softmax(1)
    assert len(found) == len(windows) == 53
    torch.testing.assert_close(torch.tensor([p.proba for p in found]), wanted, atol=1e-5, rtol=1e-4)


def test_reference_reads_sigmoids_as_the_published_code() -> None:
    model = DuIN(**TINY, compat="reference", pretrain="none").fit(words(), "word")
    body: Any = model.forward_module()
    score = body.body(body.standard(words().values)).sigmoid()
    torch.testing.assert_close(model.predict_proba(words()), score / score.sum(1, keepdim=True))


def test_channels_with_signal_are_chosen() -> None:
    rec = words(1, n_channels=3, n_silent=5, snr=20.0, n_trials=20, slip=0.0)
    order = [5, 0, 6, 1, 7, 2, 3, 4]
    mixed = rec.isel(channel=order)
    settings = {**TINY, "pretrain": "none", "select": 3, "select_epochs": 40, "weight_decay": 0.5, "shift": 0.0}
    model = DuIN(**settings).fit(mixed, "word")
    result: Any = model.result_
    assert np.flatnonzero(result.channel_used.numpy()).tolist() == [1, 3, 5]
    assert result.keeps["sim"].tolist() == [1, 3, 5]
    noise = mixed.values.clone()
    noise[:, 0] = 1e3
    torch.testing.assert_close(model.predict_proba(mixed.with_(data=noise)), model.predict_proba(mixed))
    assert model.forward_module()(mixed.values).shape == (40, 2)


def test_regions_restrict_the_channels() -> None:
    rec = words()
    table = {**rec.coords["channel"], "region": ["STG", "vSMC", "STG", "V1"]}
    model = DuIN(**TINY, pretrain="none", regions=("STG",)).fit(
        rec.with_(coords={**rec.coords, "channel": table}), "word"
    )
    assert model.result_.channel_used.tolist() == [True, False, True, False]  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=r"regions.*some of \['STG', 'V1', 'vSMC'\]"):
        DuIN(**TINY, regions=("M1",)).fit(rec.with_(coords={**rec.coords, "channel": table}), "word")


def test_baselines_are_trained_in_the_same_call_and_compared_later() -> None:
    names = ("power", "riemann", "linear", "cnn_gru")
    with pytest.MonkeyPatch.context() as patch:
        from tectum.models.du_in import baselines

        patch.setattr(baselines, "BASELINES", dict.fromkeys(names, (2, 1e-2, 0.1)))
        model = DuIN(**TINY, pretrain="none", baselines=names).fit(words(), "word")
    result: Any = model.result_
    assert list(result.baselines) == ["DuIN", *names]
    found = model.compare(words(), "word")
    assert list(found) == ["DuIN", *names]
    assert found["DuIN"] == model.score(words(), "word")
    assert all(0 <= v <= 1 for v in found.values())


def test_reconstruction_is_in_the_units_of_the_recording() -> None:
    model, rec = fitted(), free()
    found = model.reconstruct(rec)
    assert isinstance(found, Recording)
    assert (found.units, found.sizes, found.coords["channel"]["name"].tolist()) == (
        rec.units, rec.sizes, rec.coords["channel"]["name"].tolist())  # fmt: skip
    assert [r.shape for r in model.reconstruct([rec, rec])] == [rec.shape] * 2


def test_attention_sums_to_one() -> None:
    found = fitted().attention(words())
    assert found.shape == (20, 1, 2, 2, 2)
    torch.testing.assert_close(found.sum(-1), torch.ones(20, 1, 2, 2))


def test_accumulated_batches_are_averaged() -> None:
    settings = {**TINY, "dropout": 0.0, "accumulate": 2, "pretrain_batch": 4, "batch_size": 4}
    result: Any = DuIN(**settings).fit(words(), "word", unlabelled=free()).result_
    assert len(result.history["classifier.loss"]) == 4 * int(result.history["classifier.per_epoch"])
    assert int(result.history["classifier.per_epoch"]) == 2  # sixteen trials, batches of four, two a step


def test_mixed_precision_trains_all_stages() -> None:
    result: Any = DuIN(**TINY, precision="bf16").fit(words(), "word", unlabelled=free()).result_
    assert bool(torch.isfinite(result.loss).all())
    norm = result.codebook.norm(dim=1)
    torch.testing.assert_close(norm, torch.ones_like(norm))


# Killed and resumed


class Killed(Exception):
    """Stands for a power cut."""


@pytest.mark.parametrize("step", [1, 5, 11, 17, 23, 29])
def test_a_killed_run_resumes_to_the_same_result(step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: Any = fitted().result_
    real, count = loops._Engine.step, iter(range(10**6))

    def dying(self: Any, *args: Any, **options: Any) -> Any:
        if next(count) == step:
            raise Killed
        return real(self, *args, **options)

    monkeypatch.setattr(loops._Engine, "step", dying)
    with pytest.raises(Killed):
        DuIN(**TINY).fit(words(), "word", unlabelled=free(), checkpoint=tmp_path / "run")
    found: Any = DuIN(**TINY).fit(words(), "word", unlabelled=free(), checkpoint=tmp_path / "run").result_
    for name in ("weights", "codebook_weights", "masked_weights", "history"):
        ours, theirs = getattr(found, name), getattr(wanted, name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[k], theirs[k]) for k in theirs), name
    assert torch.equal(found.confusion, wanted.confusion)


def test_checkpoints_of_other_labels_are_refused(tmp_path: Path) -> None:
    settings = {**TINY, "pretrain": "none", "epochs": 1}
    DuIN(**settings).fit(words(), "word", checkpoint=tmp_path / "run")
    turned = np.asarray(words().labels("trial", "word"))[::-1].copy()
    with pytest.raises(InputError, match="same configuration and data"):
        DuIN(**settings).fit(words(), turned, checkpoint=tmp_path / "run")


# Bad inputs


def test_length_of_no_whole_patches() -> None:
    rec = words().isel(time=slice(0, 150))
    with pytest.raises(ValueError, match=r"T=150 samples.*W=100.*nearest valid lengths: 100 and 200.*crop=True"):
        DuIN(**TINY).fit(rec, "word")
    model = DuIN(**TINY, crop=True, pretrain="none").fit(rec, "word")
    changed = rec.values.clone()
    changed[:, :, 100:] = 0
    assert torch.equal(model.predict_proba(rec), model.predict_proba(rec.with_(data=changed)))
    assert model.forward_module()(rec.values).shape == (20, 2)


def test_channels_that_differ_from_the_fit() -> None:
    with pytest.raises(ContractError, match="missing channel"):
        fitted().predict(words().isel(channel=slice(0, 3)))


def broken(value: float) -> Recording:
    x = words().values.clone()
    x[:, 2] = value
    return words().with_(data=x)


@pytest.mark.parametrize(("value", "says"), [(torch.nan, "NaN or infinity in channel A3-A4"),
                                             (torch.inf, "NaN or infinity in channel A3-A4"),
                                             (1.0, "constant channel A3-A4")])  # fmt: skip
def test_broken_channels_are_named_or_left_out(value: float, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        DuIN(**TINY).fit(broken(value), "word")
    with pytest.warns(TectumWarning, match="1 constant or broken channels left out.*A3-A4"):
        model = DuIN(**TINY, on_bad="mask", pretrain="none").fit(broken(value), "word")
    assert model.result_.channel_used.tolist() == [True, True, False, True]  # type: ignore[attr-defined]
    assert bool(torch.isfinite(model.predict_proba(broken(value))).all())


def test_classes_of_two_trials_and_classes_absent_in_a_split() -> None:
    y = np.asarray(words().labels("trial", "word")).astype("<U3")
    y[:2] = "new"
    with pytest.raises(ValueError, match="at least 3 trials of every class, got 'new': 2; .*fewer folds"):
        DuIN(**TINY).fit(words(), y)
    halves = np.asarray(["a"] * 10 + ["b"] * 10)
    with pytest.raises(ValueError, match="validation.*class"):
        DuIN(**TINY).fit(words().with_(coords={**words().coords, "trial": {"block": np.arange(20) // 10}}), halves)


def test_other_sampling_rate() -> None:
    with pytest.raises(ContractError, match="rate 500.0 Hz instead of 1000.0 Hz"):
        fitted().predict(words().with_(rate=500.0))
    with pytest.raises(InputError, match=r"rate 500.0 Hz instead of 1000.0 Hz"):
        DuIN(**TINY).fit(words(), "word", unlabelled=free().with_(rate=500.0))
    two = words(5).with_(subject="second", rate=500.0)
    with pytest.raises(InputError, match=r"one sampling rate, got \[500.0, 1000.0\] Hz"):
        DuIN(**TINY).fit([words(), two], "word")


def test_fewer_tokens_than_codes() -> None:
    with pytest.warns(TectumWarning, match="codebook of 64 codes starts from the 16 tokens of one batch"):
        DuIN(**{**TINY, "n_codes": 64}, until="codes").fit(free())


def test_collapse_of_the_codebook_is_said() -> None:
    with pytest.warns(RuntimeWarning, match="codebook collapse: perplexity 1.00"):
        stages.check_codes(torch.full((5, 4), 3), 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert stages.check_codes(torch.tensor([[0, 1, 2, 3]]), 8).tolist() == [1] * 4 + [0] * 4


def others() -> Iterator[Any]:
    yield pytest.param(lambda: (free(), {"window": 0.1}), id="tokens")
    yield pytest.param(lambda: (free(2, n_channels=3), {}), id="channels")
    yield pytest.param(lambda: (free().with_(subject="other"), {}), id="subject")


@pytest.mark.parametrize("case", list(others()))
def test_masked_model_refuses_codes_of_other_windows(case: Any) -> None:
    codes = DuIN(**TINY, until="codes").fit(free()).result_
    rec, changes = case()
    with pytest.raises(ValueError, match="init.*codes of the same subjects, channels and tokens"):
        DuIN(**{**TINY, **changes}, until="masked").fit(rec, init=codes)


def test_labels_of_other_kinds() -> None:
    with pytest.raises(InputError, match="labels that are all text or all integers, got float"):
        DuIN(**TINY).fit(words(), np.linspace(0, 1, 20))
    with pytest.raises(ValueError, match="at least two classes, got only 'a'"):
        DuIN(**TINY).fit(words(), np.full(20, "a"))


def test_networks_of_other_sizes_are_refused_as_a_start() -> None:
    with pytest.raises(InputError, match=r"init.*sizes, got \{'depth': 1\}"):
        DuIN(**{**TINY, "depth": 2}).fit(words(), "word", init=fitted().result_)


def test_recordings_without_names_beside_named_subjects() -> None:
    with pytest.raises(InputError, match="name their subjects"):
        DuIN(**TINY).fit([words(), words(5).with_(subject="b")], "word", unlabelled=free().with_(subject=""))


# Files, figures, report


def test_saved_and_loaded_predicts_the_same(tmp_path: Path) -> None:
    model = fitted()
    again = tectum.load(model.save(str(tmp_path / "model")))
    assert torch.equal(again.predict_proba(words()), model.predict_proba(words()))
    assert isinstance(again.result_, DuINResult)


def test_places_of_channels_are_drawn() -> None:
    rec = words()
    place = {**rec.coords["channel"], "x": np.arange(4.0), "y": np.ones(4), "z": np.zeros(4)}
    model = DuIN(**TINY, pretrain="none").fit(rec.with_(coords={**rec.coords, "channel": place}), "word")
    ax = model.result_.plot("brain")
    assert ax.collections[0].get_offsets()[:, 0].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert "brain" not in fitted().result_.plots()


def test_figures_of_one_subject_and_one_channel() -> None:
    result: Any = fitted().result_
    assert len(result.plot("channels", subject="sim").patches) == 4
    assert len(result.plot("reconstruction", channel=1).lines) == 2
    with pytest.raises(InputError, match="0 to 3, got 9"):
        result.plot("reconstruction", channel=9)


def test_confusion_is_drawn_in_an_order_asked_for() -> None:
    result: Any = fitted().result_
    n = result.confusion.double().numpy()
    share = n / n.sum(1, keepdims=True)
    drawn = result.plot("confusion", order=("w1", "w0"))
    np.testing.assert_allclose(drawn.images[0].get_array(), share[::-1, ::-1])
    assert [t.get_text() for t in drawn.get_yticklabels()] == ["w1", "w0"]
    with pytest.raises(InputError, match=r"all of \['w0', 'w1'\]"):
        result.plot("confusion", order=("w1", "w2"))


def test_channels_are_chosen_anew_in_every_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    rec = words(1, n_channels=2, n_silent=2, snr=20.0, n_trials=12, slip=0.0)
    seen: list[tuple[int | None, int]] = []
    real = DuIN.fit

    def spy(self: Any, data: Any, *args: Any, **options: Any) -> Any:
        made = real(self, data, *args, **options)
        seen.append((self.select, int(made.result_.channel_used.sum())))
        return made

    monkeypatch.setattr(DuIN, "fit", spy)
    settings = {**TINY, "pretrain": "none", "select_epochs": 2, "epochs": 2, "shift": 0.0}
    found = channel_curve(DuIN(**settings), rec, "word", counts=(1, 3), folds=2)
    assert seen == [(1, 1), (1, 1), (3, 3), (3, 3)]
    assert (found.score.shape, found.chance) == ((2, 2), 0.5)
    ax = found.plot()
    assert ax.lines[-2].get_xdata().tolist() == [1, 3]
    with pytest.raises(InputError, match="numbers of channels above 0"):
        channel_curve(DuIN(**settings), rec, "word", counts=(0,))
