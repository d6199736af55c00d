"""The estimator protocol, shown on a toy: column means plus a little noise."""

from __future__ import annotations

import copy
import pickle
import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

import tectum
from tectum.core.contract import Contract
from tectum.core.errors import ContractError, InputError, LoadError, NotFittedError
from tectum.core.estimator import Estimator, Run
from tectum.core.params import param
from tectum.core.random import generator, spawn
from tectum.core.recording import Recording
from tectum.core.result import Result, axes


@dataclass(frozen=True, kw_only=True, eq=False)
class MeansResult(Result):
    mean: Tensor = axes("unit")
    slope: Tensor = axes("unit")


@dataclass(kw_only=True, eq=False)
class Means(Estimator[MeansResult]):
    """Column means, shrunk; a gradient is taken and every global generator is used on the way."""

    shrink: float = param(0.0, low=0, high=1)
    noise: float = param(0.0, low=0)
    labels: list | None = None

    def _fit(self, data: tuple, target: object, run: Run) -> tuple[MeansResult, bool]:
        self.contract_ = Contract.of(data[0], axis="unit")
        x = torch.cat([rec.tensor("time", "unit", device=run.device, dtype=run.dtype) for rec in data])
        weight = nn.Parameter(torch.ones(x.shape[1], device=run.device, dtype=run.dtype))
        (weight * x).square().sum().backward()  # needs gradients and tensors that autograd accepts
        layer = nn.Linear(1, 1)  # draws from torch's global generator in the default dtype
        torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
        draw = torch.randn(x.shape[1], generator=generator(spawn(run.seed, "noise"))).to(x)
        mean = (1 - self.shrink) * x.mean(0) + self.noise * draw + 0 * layer.weight.flatten().to(x)
        return MeansResult(mean=mean.detach(), slope=weight.grad, coords={"unit": data[0].coords.get("unit", {})}), True

    def score(self, data: object, target: object = None) -> float:
        recs = [data] if isinstance(data, Recording) else data
        return -float(torch.cat([(rec.data - self.result_.mean).square().flatten() for rec in recs]).mean())

    def predict(self, rec: Recording) -> Tensor:
        self.contract_.check(rec, "Means.predict")
        return rec.data - self.result_.mean


def made(seed: int = 0, names=("a", "b")) -> Recording:
    data = torch.from_numpy(np.random.default_rng(seed).normal(1.0, 1.0, (20, 2)).astype(np.float32))
    return Recording(
        data=data, dims=("time", "unit"), rate=5.0, coords={"unit": {"id": list(names)}}, subject=f"s{seed}"
    )


def rng_state() -> tuple:
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002


def test_fit_returns_self_and_changes_nothing_it_was_given():
    rec, model = made(), Means(shrink=0.5, labels=[1])
    values, before, rng = rec.data.clone(), copy.deepcopy(model.get_params()), rng_state()
    assert model.fit(rec) is model
    assert torch.equal(rec.data, values)
    assert model.get_params() == before
    assert rng_state() == rng
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
    torch.testing.assert_close(model.result_.mean, values.mean(0) / 2)


def test_provenance_says_what_happened():
    model = Means(noise=0.1, random_state=3, labels=[1])
    made_by = model.fit([made(0), made(1)]).result_.provenance
    model.labels.append(2)
    assert made_by.config["labels"] == [1]
    assert (made_by.estimator, made_by.seed, made_by.device, made_by.dtype) == ("Means", 3, "cpu", "float32")
    assert made_by.ids == ("s0", "s1")
    assert made_by.converged is True
    assert made_by.seconds > 0
    assert set(made_by.versions) == {"tectum", "torch", "numpy", "python"}


def test_the_hash_depends_on_numbers_and_mask():
    rec = made()
    hashes = [
        Means().fit(r).result_.provenance.data_hash
        for r in (rec, made(), rec.with_(mask=torch.zeros(20, 1, dtype=torch.bool)), made(1), rec.with_(data=-rec.data))
    ]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 4


def test_seeds():
    fits = [Means(noise=1.0, random_state=s).fit(made()).result_ for s in (0, 0, 1)]
    assert torch.equal(fits[0].mean, fits[1].mean)
    assert not torch.equal(fits[0].mean, fits[2].mean)
    free = [Means(noise=1.0, random_state=None).fit(made()).result_ for _ in range(2)]
    assert free[0].provenance.seed != free[1].provenance.seed
    again = Means(noise=1.0, random_state=free[0].provenance.seed).fit(made()).result_
    assert torch.equal(again.mean, free[0].mean)
    assert free[0].provenance.config["random_state"] is None


def test_the_state_of_the_caller_does_not_matter():
    expected = Means(noise=1.0).fit(made()).result_.mean
    with torch.no_grad():
        assert torch.equal(Means(noise=1.0).fit(made()).result_.mean, expected)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        rec = made().with_(data=made().data * 1)  # a tensor that autograd refuses
        assert rec.data.is_inference()
        assert torch.equal(Means(noise=1.0).fit(rec).result_.mean, expected)
        pair = Means(noise=1.0).fit((rec.data.numpy(), ("time", "unit"))).result_
        assert torch.equal(pair.mean, expected)
        assert not pair.mean.is_inference()
        assert torch.is_inference_mode_enabled()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(Means(noise=1.0).fit(made()).result_.mean, expected)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(Means(noise=1.0).fit(made()).result_.mean, expected)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    torch.manual_seed(99)
    assert torch.equal(Means(noise=1.0).fit(made()).result_.mean, expected)


def test_gradients_do_not_flow_into_the_data():
    rec = made()
    tracked = rec.with_(data=rec.data.clone().requires_grad_())
    result = Means().fit(tracked).result_
    assert tracked.data.grad is None
    assert torch.equal(result.mean, Means().fit(rec).result_.mean)


def test_a_failing_fit_gives_the_callers_state_back():
    rng = rng_state()
    with pytest.raises(InputError, match="expected axes"):
        Means().fit(made().rename(time="trial"))
    assert rng_state() == rng


def test_dtype_and_one_or_many():
    assert Means(dtype="float64").fit(made()).result_.mean.dtype == torch.float64
    assert torch.equal(Means().fit([made()]).result_.mean, Means().fit(made()).result_.mean)


def test_a_second_fit_starts_anew():
    model = Means().fit(made(0))
    torch.testing.assert_close(model.fit(made(1)).result_.mean, Means().fit(made(1)).result_.mean, rtol=0, atol=0)


def test_not_fitted():
    model = Means()
    for name in ("result_", "contract_", "anything_"):
        assert not hasattr(model, name)
        with pytest.raises(NotFittedError, match=f"Means.{name}: expected a fitted estimator, .*; call fit first"):
            getattr(model, name)
    with pytest.raises(NotFittedError):
        model.save("nowhere")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = model.nonsense
    assert model.__sklearn_is_fitted__() is False


def test_pickle_and_deepcopy():
    for model in (Means(shrink=0.2), Means(shrink=0.2).fit(made())):
        for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):  # noqa: S301
            assert other.get_params() == model.get_params()
            assert hasattr(other, "result_") == hasattr(model, "result_")


def test_save_load_predict(tmp_path):
    model = Means(shrink=0.25, noise=0.1, random_state=None).fit(made())
    path = model.save(tmp_path / "model")
    loaded = tectum.load(path, device="cpu")
    assert type(loaded) is Means
    assert loaded.get_params() == {**model.get_params(), "device": "cpu"}
    assert torch.equal(loaded.predict(made()), model.predict(made()))
    assert loaded.result_.provenance == model.result_.provenance
    with pytest.raises(ContractError, match=r"missing unit \['a'\]"):
        loaded.predict(made(names=("c", "b")))
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(LoadError, match="model.safetensors"):
        tectum.load(path)


# scikit-learn


def test_clone_and_is_fitted():
    model = Means(shrink=0.3).fit(made())
    other = clone(model)
    assert other.get_params() == model.get_params()
    assert not hasattr(other, "result_")
    check_is_fitted(model)
    assert other.set_params(shrink=0.1) is other
    assert other.shrink == 0.1
    with pytest.raises(
        InputError, match="Means.set_params: expected a hyper-parameter, got 'shrnk'; did you mean 'shrink'"
    ):
        other.set_params(shrnk=0.1)


@pytest.mark.parametrize("grid", [[0.0, 0.9], np.array([0.0, 0.9])])
def test_grid_search_over_recordings(grid):
    recordings = [made(seed) for seed in range(6)]
    search = GridSearchCV(Means(), {"shrink": grid}, cv=3).fit(recordings)
    assert search.best_params_ == {"shrink": 0.0}
    assert search.best_estimator_.result_.provenance.ids == tuple(f"s{i}" for i in range(6))
    assert len(cross_val_score(Means(), recordings, cv=3)) == 3


# Bad input


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Means(shrink=2.0), r"Means.shrink: expected a number in \[0, 1\], got 2.0"),
        (Means(noise="x"), "Means.noise: expected float, got 'x'"),
        (Means(dtype="float16"), "Means.dtype: expected one of"),
        (Means(device="gpu"), "device: expected 'auto', 'cpu'"),
        (Means(device="cuda:77"), "a device of this machine"),
        (Means(random_state=-1), "random_state: expected an integer"),
        (Means(random_state=1.5), "random_state"),
    ],
)
def test_bad_parameters_are_found_in_fit(model, message):
    with pytest.raises(InputError, match=message):
        model.fit(made())
    assert not hasattr(model, "result_")


@pytest.mark.parametrize("data", [[], torch.zeros(3, 2), np.zeros((3, 2)), None, "x.nwb", made().isel(time=0)])
def test_bad_data(data):
    with pytest.raises(InputError, match="Means.fit: expected|expected axes"):
        Means().fit(data)
