"""Every estimator keeps the house's promises about fitting; the table says how each is called (see ``table``).

``test_outputs`` holds what is promised of results, files, figures and reports; ``test_devices`` what of devices.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import pkgutil
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tectum
from contract.compare import assert_same, differs, tensors
from contract.table import TABLE, Row
from tectum.core.errors import InputError
from tectum.core.estimator import Estimator
from tectum.core.lazy import LazyArray
from tectum.core.params import KEY

# The table is complete


def _is_base(cls: type[Any]) -> bool:
    """Tell whether a class leaves methods for subclasses to write."""
    return any(getattr(method, "__isabstractmethod__", False) for _, method in inspect.getmembers(cls))


def _public_estimators() -> list[str]:
    found = {name: getattr(tectum, name) for name in tectum.__all__}
    classes = {name: value for name, value in found.items() if isinstance(value, type)}
    return [name for name, value in classes.items() if issubclass(value, Estimator) and not _is_base(value)]


def _below(base: type[Any]) -> Iterator[type[Any]]:
    for cls in base.__subclasses__():
        yield cls
        yield from _below(cls)


def test_every_public_estimator_has_a_row() -> None:
    rows = [row.name for row in TABLE]
    missing = sorted(set(_public_estimators()) - set(rows))
    assert not missing, f"add a Row to tests/contract/table.py for each of {missing}; its docstring says how"
    assert sorted(rows) == sorted(_public_estimators()), "tests/contract/table.py: rows twice or of no public estimator"


def test_every_estimator_is_public() -> None:
    for module in pkgutil.walk_packages(tectum.models.__path__, "tectum.models."):
        import_module(module.name)
    ours = [cls for cls in _below(Estimator) if cls.__module__.startswith("tectum.")]
    hidden = [
        cls.__qualname__ for cls in ours if not cls.__name__.startswith("_") and cls.__name__ not in tectum.__all__
    ]
    assert not hidden, f"add {hidden} to the public names in src/tectum/__init__.py"


def test_row_calls_every_verb(row: Row) -> None:
    own = {n for n, f in inspect.getmembers(row.estimator, inspect.isfunction) if not n.startswith("_")}
    base = {n for n, _ in inspect.getmembers(Estimator, inspect.isfunction)}
    assert set(row.verbs) == own - base, "Row.verbs must call each public method of the class that is not Estimator's"


def test_row_spoils_every_parameter_without_rule(row: Row) -> None:
    bare = {f.name for f in dataclasses.fields(row.estimator) if KEY not in f.metadata} - {"device", "random_state"}
    tried = {name for refusal in row.refuses for name in refusal.params}
    assert not bare - tried, f"declare {sorted(bare - tried)} with param(...), or add a Refusal with a wrong value"


# Constructor and parameters


def test_constructor_only_stores_its_arguments(row: Row) -> None:
    given = {f.name: object() for f in dataclasses.fields(row.estimator)}
    made = row.estimator(**given)
    assert {name: id(value) for name, value in vars(made).items()} == {name: id(value) for name, value in given.items()}


def test_arguments_are_keyword_only_and_have_defaults(row: Row) -> None:
    row.estimator()
    with pytest.raises(TypeError, match="positional"):
        row.estimator(3)


def test_parameters_go_out_and_in(row: Row) -> None:
    model = row.make()
    wanted = {f.name: getattr(model, f.name) for f in dataclasses.fields(row.estimator)}
    assert model.get_params() == wanted
    other = row.estimator()
    assert other.set_params(**wanted) is other
    assert other.get_params(deep=False) == wanted


def test_repr_is_the_constructor_call(row: Row, fitted: Any) -> None:
    for model in (row.make(), row.estimator(), fitted):
        again = eval(repr(model), {row.name: row.estimator})  # noqa: S307  of our own text
        assert type(again) is row.estimator
        assert again.get_params() == model.get_params()


def test_every_parameter_is_documented(row: Row) -> None:
    heads = re.findall(r"^    (\w[\w, ]*?)(?: :.*)?$", inspect.getdoc(row.estimator).replace("\n", "\n    "), re.M)  # type: ignore[union-attr]
    named = {name for head in heads for name in head.split(", ")}
    assert set(row.make().get_params()) <= named


# Fit


def test_fit_returns_self(row: Row) -> None:
    model = row.make()
    assert model.fit(row.data(0, row.n), row.target(0, row.n)) is model


def test_inputs_and_parameters_stay(row: Row) -> None:
    data, target, model = row.data(0, row.n), row.target(0, row.n), row.make()
    before = copy.deepcopy((data, target, model.get_params()))
    model.fit(data, target)
    for verb in row.verbs.values():
        verb(model, data, target)
    assert_same((data, target, model.get_params()), before, where="inputs")


def test_verbs_leave_the_result_alone(row: Row, fitted: Any) -> None:
    before = copy.deepcopy(fitted.result_)
    for verb in row.verbs:
        row.call(verb, fitted)
    assert_same(fitted.result_, before, where="result_")


def test_same_seed_same_result(row: Row, fitted: Any) -> None:
    assert_same(row.fit().result_, fitted.result_, where="result_")


def test_other_seed_other_result(row: Row, fitted: Any) -> None:
    assert differs(list(row.fit(random_state=1).result_.tensors()), list(fitted.result_.tensors())) is row.draws


def test_entropy_is_recorded(row: Row) -> None:
    model = row.fit(random_state=None)
    seed = model.result_.provenance.seed
    assert type(seed) is int
    assert seed != 0
    assert model.random_state is None
    assert_same(row.fit(random_state=seed).result_, model.result_, where="result_")


def test_second_fit_does_not_depend_on_the_first(row: Row, fitted: Any) -> None:
    model = row.make().fit(row.data(1, row.n), row.target(1, row.n))
    assert differs(list(model.result_.tensors()), list(fitted.result_.tensors()))
    model.fit(row.data(0, row.n), row.target(0, row.n))
    assert_same(model.result_, fitted.result_, where="result_")


def test_checkpoint_is_accepted(row: Row, fitted: Any, tmp_path: Path) -> None:
    for _ in range(2):  # the second time the file, if the method writes one, is there
        model = row.make().fit(row.data(0, row.n), row.target(0, row.n), checkpoint=tmp_path / "run")
        assert_same(model.result_, fitted.result_, where="result_")


def test_start_from_a_result_is_accepted_or_refused(row: Row, fitted: Any) -> None:
    data, target = row.data(0, row.n), row.target(0, row.n)
    try:
        found = row.make().fit(data, target, init=fitted.result_).result_
    except InputError as refused:
        assert "init" in str(refused)  # noqa: PT017  a method may have nothing to start from
    else:
        assert type(found) is type(fitted.result_)
    with pytest.raises(InputError, match="init"):
        row.make().fit(data, target, init=3)


# Forms of the data


def test_tuple_equals_list(row: Row, fitted: Any) -> None:
    model = row.make().fit(tuple(row.data(0, row.n)), row.target(0, row.n))
    assert_same(model.result_, fitted.result_, where="result_")


def test_list_of_one_equals_single(row: Row) -> None:
    data, target = row.data(0, 1), row.target(0, 1)
    many, one = row.make().fit(data, target), row.make().fit(data[0], None if target is None else target[0])
    assert_same(one.result_, many.result_, where="result_")
    for name, verb in row.verbs.items():
        alone = verb(one, data[0], None if target is None else target[0])
        listed = verb(many, data, target)
        assert_same(alone, listed[0] if isinstance(listed, list) else listed, where=name)


def _foreign(rec: tectum.Recording) -> Any:
    return rec.to_xarray()


def _lazy(rec: tectum.Recording) -> tectum.Recording:
    return rec.with_(data=LazyArray(rec.values.numpy()))


def _turned(rec: tectum.Recording) -> tectum.Recording:
    dims = rec.dims[::-1]
    return rec.with_(data=rec.tensor(*dims), dims=dims)


def _strided(rec: tectum.Recording) -> tectum.Recording:
    wide = torch.full((*rec.shape, 2), torch.nan, dtype=rec.values.dtype)
    wide[..., 0] = rec.values
    return rec.with_(data=wide[..., 0])


def _tracked(rec: tectum.Recording) -> tectum.Recording:
    return rec.with_(data=rec.values.clone().requires_grad_())


@pytest.mark.parametrize("form", [_foreign, _lazy, _strided, _tracked, _turned])
def test_form_of_the_data_does_not_matter(row: Row, fitted: Any, form: Callable[[Any], Any]) -> None:
    plain, target = row.data(0, row.n), row.target(0, row.n)
    if not isinstance(plain[0], tectum.Recording):
        pytest.skip("only recordings have these forms")
    if form is _foreign and any(rec.intervals for rec in plain):  # xarray has no place for them
        plain = [rec.with_(intervals={}) for rec in plain]
        fitted = row.make().fit(plain, target)
    made = [form(rec) for rec in plain]
    model = row.make().fit(made, target)
    loose = {"rtol": row.rtol, "atol": row.atol} if form is _turned else {}
    assert_same(list(model.result_.tensors()), list(fitted.result_.tensors()), where="result_", **loose)
    assert_same(model.result_.coords, fitted.result_.coords, where="coords", **loose)
    for name, verb in row.verbs.items():
        assert_same(verb(model, made, target), verb(fitted, plain, target), where=name, **loose)


# The caller's world


@contextmanager
def _float64_by_default() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


CALLERS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "as usual": nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "default dtype float64": _float64_by_default,
    "bfloat16 autocast": lambda: torch.autocast("cpu", torch.bfloat16),
}


@pytest.mark.parametrize("caller", CALLERS)
def test_callers_world_is_neither_changed_nor_felt(
    row: Row, fitted: Any, caller: str, callers_state: Callable[[], dict[str, Any]]
) -> None:
    data, target = row.data(0, row.n), row.target(0, row.n)
    wanted = {name: verb(fitted, data, target) for name, verb in row.verbs.items()}
    with CALLERS[caller]():
        before = callers_state()
        model = row.make().fit(data, target)
        after_fit = callers_state()
        found = {name: verb(model, data, target) for name, verb in row.verbs.items()}
        after_verbs = callers_state()
    assert [name for name in before if after_fit[name] != before[name]] == []
    assert [name for name in before if after_verbs[name] != before[name]] == []
    assert_same(model.result_, fitted.result_, where="result_")
    assert_same(found, wanted, where="verbs")


def test_callers_draws_do_not_matter(row: Row, fitted: Any) -> None:
    state = torch.get_rng_state()
    torch.manual_seed(987)
    try:
        found = row.fit().result_
    finally:
        torch.set_rng_state(state)
    assert_same(found, fitted.result_, where="result_")


def test_number_of_threads_is_kept_and_hardly_matters(row: Row, fitted: Any) -> None:
    torch.set_num_threads(2)
    try:
        found, after = row.fit().result_, torch.get_num_threads()
    finally:
        torch.set_num_threads(1)
    assert after == 2
    assert_same(found, fitted.result_, rtol=row.rtol, atol=row.atol, where="result_")


def test_data_made_in_inference_mode_are_accepted(row: Row, fitted: Any) -> None:
    with torch.inference_mode():
        data, target = row.data(0, row.n), row.target(0, row.n)
    model = row.make().fit(data, target)
    assert_same(model.result_, fitted.result_, where="result_")
    assert not [name for name, tensor in tensors(model.result_) if tensor.is_inference()]


# Copies and scikit-learn


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])  # noqa: S301
def test_copies_are_equal(row: Row, fitted: Any, copied: Callable[[Any], Any]) -> None:
    blank = copied(row.make())
    assert blank.get_params() == row.make().get_params()
    assert not hasattr(blank, "result_")
    again = copied(fitted)
    assert again is not fitted
    assert again.get_params() == fitted.get_params()
    assert_same(again.result_, fitted.result_, where="result_")
    for verb in row.verbs:
        assert_same(row.call(verb, again), row.call(verb, fitted), where=verb)


def test_clone_of_scikit_learn(row: Row, fitted: Any) -> None:
    from sklearn.base import clone

    made = clone(fitted)
    assert type(made) is row.estimator
    assert made.get_params() == fitted.get_params()
    assert not hasattr(made, "result_")


def test_scikit_learn_sees_whether_it_is_fitted(row: Row, fitted: Any) -> None:
    from sklearn.exceptions import NotFittedError as Unfitted
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(fitted)
    with pytest.raises(Unfitted):
        check_is_fitted(row.make())


def test_grid_search_of_scikit_learn(row: Row) -> None:
    from sklearn.model_selection import GridSearchCV

    if not row.search:
        assert "score" not in row.verbs, "Row.search: an estimator with score can be searched"
        pytest.skip("no score")
    name, values = next(iter(row.search.items()))
    assert len(values) > 1
    search = GridSearchCV(row.make(), dict(row.search), cv=2, error_score="raise")
    search.fit(row.data(0, 4), row.target(0, 4))
    assert search.best_params_[name] in values
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.result_.provenance.config[name] == search.best_params_[name]
