"""Cross-validation of decoders: who decides what, nested choice, curves, files and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

import tectum
from evaluate.toys import Nearest, trials
from tectum import evaluate
from tectum.core.errors import InputError
from tectum.plot import decoding


def subjects(n: int = 8, **options: Any) -> list[tectum.Recording]:
    return [trials(6, seed=k, subject=f"s{k}", **options) for k in range(n)]


class Spy(Nearest):
    """Notes which trials it is fitted to and asked about, by their first number."""

    seen: list[tuple[set[float], set[float]]] = []

    def fit(self, data: Any, target: Any = None) -> Any:
        self.train = {float(v) for rec in data for v in rec.values[:, 0, 0]}
        self.given = list(target)
        return super().fit(data, target)

    def predict_proba(self, data: Any) -> Any:
        Spy.seen.append((self.train, {float(v) for rec in data for v in rec.values[:, 0, 0]}))
        return super().predict_proba(data)


def test_every_trial_is_decided_once_by_others() -> None:
    Spy.seen = []
    data = subjects()
    found = evaluate.cross_predict(Spy(), data, folds=4)
    asked = [x for _, test in Spy.seen for x in test]
    assert sorted(asked) == sorted(float(v) for rec in data for v in rec.values[:, 0, 0])
    assert not any(train & test for train, test in Spy.seen)
    assert found.by == "subject"
    assert found.coords["trial"]["row"].tolist() == list(range(48))
    assert found.coords["trial"]["subject"].tolist() == [f"s{k}" for k in range(8) for _ in range(6)]


def test_scores_by_hand() -> None:
    data = subjects()
    found = evaluate.cross_predict(Nearest(), data, folds=4)
    assert found.labels == ("rest", "task")
    assert found.truth.tolist() == [0, 1] * 24
    for k in range(4):
        rows = found.fold_of == k
        assert float(found.fold_score[k]) == pytest.approx(
            evaluate.balanced_accuracy(found.truth[rows], found.decided[rows])
        )
    assert found.accuracy().estimate == pytest.approx(evaluate.balanced_accuracy(found.truth, found.decided))
    by_subject = [float((found.truth == found.decided)[6 * k : 6 * k + 6].double().mean()) for k in range(8)]
    assert found.subject_accuracy().estimate == pytest.approx(np.mean(by_subject))
    assert found.accuracy().low > found.chance == 0.5
    assert found.test().p < 0.01


def test_without_an_effect_there_is_none() -> None:
    p = [
        evaluate.cross_predict(Nearest(), subjects(effect=0.0), folds=4, random_state=s).test(draws=200).p
        for s in (0, 1)
    ]
    assert min(p) > 0.05


def test_forms_of_the_target_are_equal() -> None:
    data = subjects()
    base = evaluate.cross_predict(Nearest(), data, folds=4)
    flat = ["rest", "task"] * 24
    for target in ("label", flat, np.asarray(flat), [["rest", "task"] * 3] * 8):
        assert torch.equal(evaluate.cross_predict(Nearest(), data, target, folds=4).proba, base.proba)
    scores = evaluate.cross_validate(Nearest(), data, flat, folds=4)  # type: ignore[arg-type]
    torch.testing.assert_close(scores, base.fold_score)


def test_no_split_of_trials_is_silent() -> None:
    with pytest.raises(InputError, match=r"cross_predict: expected groups.*1 subjects for 5 folds.*by='session'"):
        evaluate.cross_predict(Nearest(), trials(subject="s"))
    with pytest.raises(InputError, match="cross_validate.*by='time'"):
        evaluate.cross_validate(Nearest(), trials(), "label")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a decoder with predict_proba, got object"):
        evaluate.cross_predict(object(), trials(), by="trial")
    with pytest.raises(InputError, match="at least two classes"):
        evaluate.cross_predict(Nearest(), trials(), ["a"] * 12, by="trial")


def test_decoders_of_the_house_are_validated() -> None:
    data = [trials(8, seed=k, subject=f"s{k}") for k in range(4)]
    model = tectum.LightCNN(epochs=30, lr=0.03, kernel=3, dropout=0.0, batch_size=8, device="cpu")
    found = evaluate.cross_predict(model, data, folds=2)
    assert found.accuracy().estimate > 0.8
    assert not hasattr(model, "result_")
    scores = evaluate.cross_validate(model, data, folds=2, by="subject")
    torch.testing.assert_close(scores, found.fold_score)


def test_a_class_missing_from_training_has_no_probability() -> None:
    data = [
        trials(4, subject=s, label=list(v)) for s, v in (("a", "xxyy"), ("b", "xyxy"), ("c", "xyxz"), ("d", "xyyx"))
    ]
    with pytest.raises(InputError, match="a class with no training trial"):
        evaluate.cross_predict(Nearest(), data, folds=4)


# Nested choice


def test_nested_choice_never_sees_the_test_fold() -> None:
    Spy.seen = []
    data = subjects()
    found = evaluate.nested_cross_validate(Spy(), {"softness": [0.1, 0.9]}, data, folds=4, inner=3)
    assert found.inner_score.shape == (4, 2)
    per_fold = 2 * 3 + 1  # two candidates on three inner folds, then the choice
    assert len(Spy.seen) == 4 * per_fold
    for k in range(4):
        *inner, (train, test) = Spy.seen[k * per_fold : (k + 1) * per_fold]
        assert not train & test
        assert all((a | b) <= train for a, b in inner)


def test_nested_choice_takes_the_better_setting() -> None:
    class Flip(Nearest):
        def predict_proba(self, data: Any) -> Any:
            found = super().predict_proba(data)
            return 1 - found if self.softness > 0.5 else found

    found = evaluate.nested_cross_validate(Flip(), {"softness": [0.9, 0.1]}, subjects(), folds=4, inner=2)
    assert found.candidates == ({"softness": 0.9}, {"softness": 0.1})
    assert found.chosen == ({"softness": 0.1},) * 4
    assert (found.inner_score[:, 1] > found.inner_score[:, 0]).all()
    assert found.outer.accuracy().estimate > 0.8


def test_nested_choice_of_a_decoder_of_the_house() -> None:
    data = [trials(8, seed=k, subject=f"s{k}") for k in range(4)]
    model = tectum.LightCNN(epochs=4, lr=0.03, dropout=0.0, batch_size=8, device="cpu")
    found = evaluate.nested_cross_validate(model, {"kernel": [1, 3]}, data, folds=2, inner=2)
    assert {c["kernel"] for c in found.chosen} <= {1, 3}
    with pytest.raises(InputError, match="grid"):
        evaluate.nested_cross_validate(model, {}, data)


# Learning curves


def test_learning_curve_grows_and_sets_are_nested() -> None:
    Spy.seen = []
    data = subjects(12, effect=1.5)
    curve = evaluate.learning_curve(Spy(), data, sizes=[1, 3, 9], folds=4)
    assert curve.sizes == (1, 3, 9)
    assert curve.score.shape == (3, 4)
    assert [len(train) for train, _ in Spy.seen] == [6] * 4 + [18] * 4 + [54] * 4
    for k in range(4):
        assert Spy.seen[k][0] < Spy.seen[4 + k][0] < Spy.seen[8 + k][0]
        assert Spy.seen[k][1] == Spy.seen[8 + k][1]
    torch.testing.assert_close(curve.score[2], evaluate.cross_predict(Nearest(), data, folds=4).fold_score)


def test_learning_curve_refuses_what_cannot_be() -> None:
    data = subjects()
    with pytest.raises(InputError, match="at most 6 groups"):
        evaluate.learning_curve(Nearest(), data, sizes=[7], folds=4)
    with pytest.raises(InputError, match="sizes"):
        evaluate.learning_curve(Nearest(), data, sizes=[0])
    single = [trials(2, subject=f"s{k}", label=[k % 2] * 2) for k in range(8)]
    with pytest.raises(InputError, match="one missing among 1"):
        evaluate.learning_curve(Nearest(), single, sizes=[1], folds=4)
    assert evaluate.learning_curve(Nearest(), single, sizes=[2], folds=4).score.shape == (1, 4)


# Files, figures, reports


def test_result_is_saved_and_drawn(tmp_path: Path) -> None:
    found = evaluate.cross_predict(Nearest(softness=0.2), subjects(), folds=4)
    found.save(str(tmp_path / "cv.safetensors"))
    again = tectum.load(tmp_path / "cv.safetensors")
    assert torch.equal(again.proba, found.proba)
    assert again.groups == found.groups
    for kind in found.plots():
        ax = found.plot(kind)
        assert isinstance(ax, Axes)
        ax.figure.canvas.draw()
        assert ax.has_data()
        assert ax.get_xlabel()
        assert ax.get_ylabel()
    assert found.to_xarray()["proba"].shape == (48, 2)
    text = tectum.Report("one").add(found).html()
    assert "no group was in training and in test" in text
    curve = evaluate.learning_curve(Nearest(), subjects(), sizes=[1, 4], folds=4)
    assert decoding.learning(curve.sizes, curve.score, chance=0.5, name=curve.by).get_xlabel() == "training subjects"
    test = found.test(draws=50)
    assert decoding.null(test.null, test.observed).has_data()


def test_roc_of_several_classes_has_a_curve_each() -> None:
    data = [trials(6, seed=k, subject=f"s{k}", label=["a", "b", "c"] * 2) for k in range(4)]
    ax = evaluate.cross_predict(Nearest(), data, folds=2).plot("roc")
    assert len(ax.get_legend().get_texts()) == 3
