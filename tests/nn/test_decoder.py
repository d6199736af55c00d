"""What every decoder inherits: trials, labels, groups, normalisers, training, adaptation, export, scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import tectum
from tectum import Recording
from tectum.core.errors import AxisError, ContractError, InputError, MismatchError, NotFittedError, TectumWarning
from tectum.nn.standardise import Standardise, learn_standard
from tectum.nn.trials import confusion_counts, encode, hold_out, mean_recall, read_labels, trial_groups

DIMS = ("trial", "channel", "time")


def recording(n: int = 24, *, seed: int = 0, effect: float = 3.0, names: str = "abc", **columns: Any) -> Recording:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, len(names), 20, generator=draw)
    x[1::2, 0] *= effect
    coords = {"channel": {"name": list(names)}, "trial": {"label": ["rest", "task"] * (n // 2), **columns}}
    return Recording(data=x, dims=DIMS, rate=20.0, units="uV", coords=coords)


def decoder(**options: Any) -> tectum.LightCNN:
    settings_ = {"epochs": 12, "lr": 0.02, "kernel": 3, "batch_size": 8, "dropout": 0.0, "device": "cpu"}
    return tectum.LightCNN(**{**settings_, **options})


# Labels


@pytest.mark.parametrize(
    "form", [list, tuple, np.asarray, lambda v: torch.tensor(v), lambda v: [np.int64(x) for x in v]]
)
def test_integer_labels_of_any_form_are_equal(form: Any) -> None:
    rec, values = recording(), [7, -2] * 12
    found = encode(read_labels([rec], form(values), "demo")[0], "demo")
    assert found.names == (-2, 7)
    assert found.codes.tolist() == [1, 0] * 12


def test_labels_come_out_as_they_went_in() -> None:
    rec = recording()
    words = decoder().fit(rec)
    assert words.result_.labels == ("rest", "task")
    assert words.result_.target == "label"
    assert set(words.predict(rec).tolist()) <= {"rest", "task"}
    numbers = decoder().fit(rec, [5, 3] * 12)
    assert numbers.result_.labels == (3, 5)
    assert numbers.predict(rec).dtype == np.int64
    assert numbers.classes_.tolist() == [3, 5]


def test_labels_by_recording_and_in_one_row_are_equal() -> None:
    data = [recording(8, seed=k) for k in range(3)]
    one = decoder().fit(data, [["x", "y"] * 4] * 3)
    other = decoder().fit(data, ["x", "y"] * 12)
    assert torch.equal(one.predict_proba(data), other.predict_proba(data))
    assert torch.equal(one.predict_proba(data), torch.cat([one.predict_proba(rec) for rec in data]))


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ([0.5, 1.5] * 12, "all text or all integers, got float"),
        (["a", 1] * 12, "all text or all integers, got int and str"),
        (["a"] * 24, "at least two classes, got only 'a'"),
        (["a", "b", "", "n/a"] * 6, r"a label for every trial, got 12 without; leave them out"),
        (["a", "b"], r"target.*24 labels, got 2"),
        (3, "target.*one for each trial, got int"),
        ("wrod", "'trial'.*'wrod'"),
    ],
)
def test_bad_labels_are_refused(target: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        decoder().fit(recording(), target)


def test_empty_entries_of_a_table_are_no_class() -> None:
    rec = recording(label=[None, "a", "b", "a"] * 6)
    with pytest.raises(InputError, match="a label for every trial, got 6 without"):
        decoder().fit(rec)


def test_without_labels_the_message_says_what_to_give() -> None:
    rec = recording().with_(coords={})
    with pytest.raises(InputError, match=r"LightCNN\(target\): expected labels.*name of a trial column.*got none"):
        decoder().fit(rec)


def test_strange_labels_are_refused_when_scored() -> None:
    rec = recording()
    with pytest.raises(InputError, match=r"score\(target\): expected classes seen in training.*got \['run'\]"):
        decoder().fit(rec).score(rec, ["rest", "run"] * 12)


# Data


def test_axes_are_named_or_refused() -> None:
    rec = recording()
    pair = decoder().fit((rec.values, DIMS), ["rest", "task"] * 12)
    assert pair.contract_.rate == 1.0
    named = decoder().fit(rec)
    assert torch.equal(pair.result_.weights["body.conv.weight"], named.result_.weights["body.conv.weight"])
    with pytest.raises(AxisError, match=r"named axes.*bare array"):
        decoder().fit(rec.values, ["rest", "task"] * 12)
    with pytest.raises(AxisError, match=r"rec.epochs\(events, window\) or rec.windows\(length\)"):
        decoder().fit(rec.isel(trial=0))
    spikes = tectum.Spikes(times=torch.zeros(1, dtype=torch.float64), unit=torch.zeros(1, dtype=torch.int32), n_units=1)
    with pytest.raises(InputError, match="a Recording"):
        decoder().fit(spikes)


def test_an_xarray_of_epochs_goes_in() -> None:
    rec = recording()
    named = decoder().fit(rec)
    assert torch.equal(decoder().fit(rec.to_xarray(), "label").predict_proba(rec.to_xarray()), named.predict_proba(rec))


def test_epochs_of_mne_go_in_and_their_events_are_the_labels() -> None:
    import mne

    x = 1e-5 * recording(40).values.double().numpy()
    events = np.stack([np.arange(40) * 100, np.zeros(40, int), np.arange(40) % 2 + 1], 1)
    info = mne.create_info(["C3", "C4", "Cz"], 20.0, "eeg")
    epochs = mne.EpochsArray(x, info, events=events, event_id={"left": 1, "right": 2}, verbose=False)
    model = decoder(epochs=30).fit(epochs)
    assert model.result_.labels == ("left", "right")
    assert (model.contract_.names, model.contract_.units) == (("C3", "C4", "Cz"), "V")
    assert model.score(epochs) > 0.8
    assert model.predict_proba(epochs[:5]).shape == (5, 2)


def test_contract_lists_every_difference() -> None:
    rec = recording()
    model = decoder().fit(rec)
    assert (model.contract_.axis, model.contract_.names, model.contract_.n_times) == ("channel", ("a", "b", "c"), 20)
    wrong = rec.isel(time=slice(0, 10)).with_(units="mV")
    with pytest.raises(ContractError) as caught:
        model.predict(wrong)
    assert "unit 'mV' instead of 'uV'" in str(caught.value)
    assert "10 samples instead of 20" in str(caught.value)


def test_nothing_is_predicted_before_fit() -> None:
    for name in ("contract_", "classes_", "result_"):
        with pytest.raises(NotFittedError, match="call fit first"):
            getattr(decoder(), name)


# Normaliser


@given(st.integers(0, 50), st.sampled_from(["channel", "global", "robust"]))
@settings(max_examples=20)
def test_normaliser_equals_numpy(seed: int, kind: str) -> None:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(9, 3, 7, generator=draw) * torch.tensor([1.0, 10.0, 0.1])[:, None] + 4
    rows = torch.randperm(9, generator=draw)[:5]
    part = x[rows].double().numpy()
    centre, scale = (v.numpy() for v in learn_standard(x, rows, kind))
    if kind == "channel":
        wanted = part.mean((0, 2)), part.std((0, 2))
    elif kind == "global":
        wanted = np.full(3, part.mean()), np.full(3, part.std())
    else:
        low, mid, high = np.quantile(part, [0.25, 0.5, 0.75], axis=(0, 2))
        wanted = mid, high - low
    np.testing.assert_allclose(centre, wanted[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scale, wanted[1], rtol=1e-5)


def test_chunks_do_not_matter_to_the_normaliser(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(50, 2, 5, generator=torch.Generator().manual_seed(0)) + 1e4
    whole = learn_standard(x, torch.arange(50), "channel")
    monkeypatch.setattr("tectum.nn.standardise.CHUNK", 7)
    for a, b in zip(learn_standard(x, torch.arange(50), "channel"), whole, strict=True):
        torch.testing.assert_close(a, b)
    assert float(whole[1][0]) == pytest.approx(1.0, abs=0.1)  # no cancellation


def test_clamp_is_applied_after_scaling() -> None:
    standard = Standardise(1, clamp=2.0)
    standard.set(torch.tensor([10.0]), torch.tensor([5.0]))
    assert standard(torch.tensor([[[10.0, 15.0, 1000.0, -1000.0]]])).flatten().tolist() == [0.0, 1.0, 2.0, -2.0]


def test_training_trials_come_out_standardised() -> None:
    rec = recording(effect=10.0)
    network = decoder(validation=0.0).fit(rec).forward_module()
    z = network.standard(rec.values)
    assert z.mean((0, 2)).abs().max() < 1e-5
    assert (z.std((0, 2), correction=0) - 1).abs().max() < 1e-5


# Trials set aside


@given(st.integers(0, 30), st.floats(0.05, 0.6), st.integers(3, 12), st.integers(1, 5))
@settings(max_examples=40)
def test_groups_are_never_parted_and_no_class_is_lost(seed: int, share: float, n_groups: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_groups), size)
    codes = np.arange(n_groups * size) % 2 if size > 1 else np.arange(n_groups) % 2
    codes = np.where(rng.random(len(codes)) < 0.2, 1 - codes, codes)
    try:
        held = hold_out(groups, codes, share=share, seed=seed, where="demo")
    except InputError as refused:
        assert "every class in training" in str(refused)  # noqa: PT017  a class may be in one group only
        return
    assert sorted([*held.train, *held.validation]) == list(range(len(groups)))
    assert not set(groups[held.train]) & set(groups[held.validation])
    assert set(codes[held.train]) == set(codes)
    assert len(held.validation) > 0


def test_share_and_classes_of_what_is_set_aside() -> None:
    held = hold_out(np.arange(100), np.arange(100) % 10 // 9, share=0.2, seed=0, where="demo")  # 90 and 10
    assert len(held.validation) == 20
    assert (held.validation % 10 == 9).sum() == 2
    nothing = hold_out(np.arange(10), np.arange(10) % 2, share=0.0, seed=0, where="demo")
    assert (len(nothing.train), len(nothing.validation)) == (10, 0)
    with pytest.raises(InputError, match=r"demo\(validation\).*two groups.*validation=0"):
        hold_out(np.zeros(4, dtype=int), np.arange(4) % 2, share=0.2, seed=0, where="demo")


def test_groups_are_chosen_from_the_top() -> None:
    def n_groups(data: list[Recording], group: str | None = None) -> int:
        return len(set(trial_groups(data, group)))

    data = [recording(4, seed=k).with_(subject=f"s{k % 6}", session=f"{k}") for k in range(12)]
    assert n_groups(data) == 6
    assert n_groups(data, "session") == 12
    assert n_groups(data, "trial") == 48
    few = [rec.with_(subject="s") for rec in data]
    assert n_groups(few) == 12
    one = recording(12, block=np.arange(12) // 3)
    assert n_groups([one]) == 4
    assert n_groups([recording(12)]) == 12
    assert n_groups([one], "label") == 2


def test_windows_that_overlap_are_one_group() -> None:
    whole = Recording(data=torch.randn(100, 2), dims=("time", "channel"), rate=10.0)
    assert len(set(trial_groups([whole.windows(2.0)], None))) == 5
    assert len(set(trial_groups([whole.windows(2.0, hop=1.9)], None))) == 1
    cut = whole.windows(2.0, hop=2.0)
    with pytest.raises(InputError, match="validation.*two groups"):
        decoder().fit(whole.windows(2.0, hop=0.5), ["a", "b"] * 8 + ["a"])
    assert len(set(trial_groups([cut, cut], None))) == 10


# Training


def test_it_learns_what_is_there_and_stops_by_trials_set_aside() -> None:
    model = decoder(epochs=60, patience=5).fit(recording(80, effect=2.0))
    assert model.score(recording(80, seed=1, effect=2.0)) > 0.9
    result = model.result_
    assert len(result.loss) == len(result.val_loss)
    assert int(result.val_loss.argmin()) + 1 == result.best_epoch
    assert result.provenance.converged == (len(result.loss) < 60)
    assert int(result.confusion.sum()) == 16
    assert result.counts.tolist() == [40, 40]
    whole = decoder(epochs=5, validation=0.0).fit(recording()).result_
    assert (whole.val_loss, whole.confusion, whole.provenance.converged, whole.best_epoch) == (None, None, None, 5)


def test_score_is_balanced_accuracy() -> None:
    model = decoder().fit(recording())
    rec = recording(20, seed=3, effect=1.5).isel(trial=[*range(0, 20, 2), 1, 3])
    y, decided = np.asarray(rec.labels("trial", "label")), model.predict(rec)
    recall = [(decided[y == name] == name).mean() for name in ("rest", "task")]
    assert model.score(rec) == pytest.approx(np.mean(recall))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
@settings(max_examples=30)
def test_confusion_and_recall_by_brute_force(pairs: list[tuple[int, int]]) -> None:
    truth, decided = (torch.tensor(v) for v in zip(*pairs, strict=True))
    counts = confusion_counts(truth, decided, 4)
    assert counts.tolist() == [[sum(p == (i, j) for p in pairs) for j in range(4)] for i in range(4)]
    recalls = [np.mean([d == c for t, d in pairs if t == c]) for c in {t for t, _ in pairs}]
    assert float(mean_recall(counts)) == pytest.approx(np.mean(recalls))


def test_class_weights_lift_the_rare_class() -> None:
    rec = recording(60, effect=1.2).isel(trial=[*range(0, 60, 2), *range(1, 13, 2)])
    plain, weighted = (decoder(class_weight=w, validation=0.0).fit(rec) for w in (None, "balanced"))
    assert weighted.predict_proba(rec)[:, 1].mean() > plain.predict_proba(rec)[:, 1].mean() + 0.1


def test_a_killed_run_resumes_to_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rec = recording()
    wanted = decoder(dropout=0.3).fit(rec).result_
    from tectum.core import loops

    real, calls = loops._Engine.step, [0]

    def dies(self: Any, *args: Any) -> Any:
        calls[0] += 1
        if calls[0] > 9:
            raise KeyboardInterrupt
        return real(self, *args)

    monkeypatch.setattr(loops._Engine, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        decoder(dropout=0.3).fit(rec, checkpoint=tmp_path / "run")
    monkeypatch.setattr(loops._Engine, "step", real)
    found = decoder(dropout=0.3).fit(rec, checkpoint=tmp_path / "run").result_
    assert all(torch.equal(found.weights[k], v) for k, v in wanted.weights.items())
    assert torch.equal(found.loss, wanted.loss)
    with pytest.raises(InputError, match="same configuration and data"):
        decoder(dropout=0.4).fit(rec, checkpoint=tmp_path / "run")


def test_schedule_clip_and_bf16_change_the_run() -> None:
    rec = recording()
    base = decoder().fit(rec).result_.loss
    for change in ({"schedule": "cosine"}, {"clip": 1e-3}, {"precision": "bf16"}, {"weight_decay": 1.0}):
        other = decoder(**change).fit(rec).result_.loss
        assert other.isfinite().all()
        assert not torch.equal(other, base)


# Adaptation


def test_adaptation_goes_on_from_the_weights() -> None:
    model = decoder(epochs=40).fit(recording(60, effect=2.0))
    other = recording(60, seed=5, effect=2.0)
    adapted = model.adapt(other, epochs=3, lr=1e-4)
    assert adapted.score(other) > 0.8
    assert (adapted.epochs, adapted.lr, model.epochs) == (3, 1e-4, 40)
    for name in ("standard.centre", "standard.scale"):
        assert torch.equal(adapted.result_.weights[name], model.result_.weights[name])
    assert not torch.equal(adapted.result_.weights["body.conv.weight"], model.result_.weights["body.conv.weight"])


def test_head_alone_may_be_trained_for_other_classes() -> None:
    model = decoder().fit(recording())
    other = recording(30, seed=4).with_(coords={"channel": {"name": list("abc")}})
    adapted = model.adapt(other, ["x", "y", "z"] * 10, part="head", epochs=2)
    assert adapted.result_.labels == ("x", "y", "z")
    assert adapted.predict_proba(other).shape == (30, 3)
    kept = [k for k in model.result_.weights if "head" not in k]
    assert kept
    assert all(torch.equal(adapted.result_.weights[k], model.result_.weights[k]) for k in kept)


def test_what_cannot_be_adapted_is_refused() -> None:
    model = decoder().fit(recording())
    with pytest.raises(InputError, match="part.*'all' or 'head'"):
        model.adapt(recording(), part="body")
    with pytest.raises(ContractError, match="missing channel"):
        model.adapt(recording(names="abd"))
    with pytest.raises(InputError, match=r"init\).*3 channels and 20 samples, got one of 4"):
        decoder().fit(recording(), init=decoder().fit(recording(names="abcd")).result_)
    with pytest.raises(InputError, match=r"init\).*same network.*body.conv.weight"):
        decoder(kernel=5).fit(recording(), init=model.result_)


# Export


def test_a_file_carries_a_test_of_its_numbers(tmp_path: Path) -> None:
    model = decoder(epochs=1).fit(recording())
    path = model.save(str(tmp_path / "m"))
    stored = model.__getstate_tectum__()["check"]
    assert len(stored["logits"]) == 2
    again = tectum.load(path)
    assert again.__getstate_tectum__()["check"] == stored

    class Shifted(tectum.LightCNN):  # a version of the class whose numbers are others
        def forward_module(self) -> nn.Module:
            module = super().forward_module()
            module.body.head.bias.add_(2e-3)
            return module

    with pytest.raises(MismatchError, match="Shifted: expected the stored logits of the test input, got a diff.*0.002"):
        Shifted.__setstate_tectum__(model.__getstate_tectum__())
    model.result_.weights["body.head.bias"].fill_(torch.nan)
    assert tectum.load(model.save(str(tmp_path / "n"))).result_.labels == again.result_.labels


def test_the_error_of_other_numbers_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = decoder(epochs=1).fit(recording()).save(str(tmp_path / "m"))
    forward = tectum.LightCNN.forward_module

    def shifted(self: tectum.LightCNN) -> nn.Module:
        return nn.Sequential(forward(self), nn.Softplus())

    monkeypatch.setattr(tectum.LightCNN, "forward_module", shifted)
    with pytest.raises(MismatchError, match="m.safetensors: LightCNN: expected the stored logits") as error:
        tectum.load(path)
    assert isinstance(error.value, RuntimeError)


def test_plain_module_gives_the_same_probabilities() -> None:
    rec = recording()
    model = decoder().fit(rec)
    network = model.forward_module()
    assert isinstance(network, nn.Module)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert torch.equal(network(rec.values).softmax(1), model.predict_proba(rec))
    logits = network(rec.values)
    assert torch.equal(model.decision_function(rec), logits[:, 1] - logits[:, 0])
    exported = torch.export.export(network, (rec.values[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(exported.module()(rec.values), logits)
    double = decoder(dtype="float64").fit(rec)
    assert double.predict_proba(rec).dtype == torch.float64
    assert double.forward_module()(rec.values).dtype == torch.float32


def test_accumulated_batches_are_one_batch_of_the_same_trials() -> None:
    rec = recording(32)
    small, big = (decoder(epochs=3, validation=0.0, lr=1e-2, batch_size=b, accumulate=a, dropout=0.0).fit(rec)
                  for b, a in ((8, 4), (32, 1)))  # fmt: skip
    assert small.result_.loss.shape == big.result_.loss.shape == (3,)
    torch.testing.assert_close(small.predict_proba(rec), big.predict_proba(rec), atol=1e-5, rtol=1e-4)
    more = decoder(epochs=3, batch_size=8, accumulate=1000).fit(rec)  # no more than an epoch has
    assert len(more.result_.loss) == len(more.result_.val_loss) <= 3


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_new_trials_in_another_unit_are_refused(factor: float) -> None:
    rec = recording()
    model = decoder(epochs=1).fit(rec)
    with pytest.raises(ContractError, match="LightCNN.predict: expected the unit of the training data.*in 'uV' as it"):
        model.predict(rec.with_(data=factor * rec.values))
    unscaled = decoder(epochs=1, normalise="none").fit(rec)
    assert len(unscaled.predict(rec.with_(data=factor * rec.values))) == len(model.predict(rec)) == rec.shape[0]


def test_a_channel_that_stands_still_in_new_trials_is_named() -> None:
    rec = recording()
    model = decoder(epochs=1).fit(rec)
    dead = rec.values.clone()
    dead[:, 1] = 0.0
    with pytest.warns(TectumWarning, match="LightCNN.predict: constant channel b, on which nothing can be decided"):
        model.predict(rec.with_(data=dead))


def test_many_trials_pass_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rec = recording(40)
    model = decoder().fit(rec)
    whole = model.predict_proba(rec)
    monkeypatch.setattr("tectum.nn.decoder.CHUNK", 7)
    torch.testing.assert_close(model.predict_proba(rec), whole)


# scikit-learn


def _wrapped(x: np.ndarray) -> Recording:
    return Recording(data=torch.from_numpy(np.asarray(x)), dims=DIMS, rate=20.0, units="uV")


def test_pipelines_and_searches_of_scikit_learn() -> None:
    from sklearn.base import clone, is_classifier
    from sklearn.model_selection import GridSearchCV, GroupKFold, StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    x, y = recording(40, effect=4.0).values.numpy(), np.asarray(["rest", "task"] * 20)
    pipeline = make_pipeline(FunctionTransformer(_wrapped), decoder(epochs=30))
    assert is_classifier(pipeline)
    scores = cross_val_score(pipeline, x, y, cv=StratifiedKFold(2))
    assert scores.mean() > 0.8
    auc = cross_val_score(pipeline, x, y, cv=GroupKFold(2), groups=np.arange(40) // 4, scoring="roc_auc")
    assert auc.mean() > 0.8
    search = GridSearchCV(pipeline, {"lightcnn__kernel": [1, 3]}, cv=2, error_score="raise").fit(x, y)
    assert search.best_params_["lightcnn__kernel"] in (1, 3)
    assert set(search.predict(x)) == {"rest", "task"}
    assert clone(search.best_estimator_).named_steps["lightcnn"].kernel == search.best_params_["lightcnn__kernel"]
