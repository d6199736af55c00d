"""Every estimator refuses bad inputs with our errors, in words that say where and what to do (see ``table``)."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tectum
from contract.compare import not_refused
from contract.table import TABLE, Refusal, Row
from tectum.core.errors import AxisError, InputError, NotFittedError, TectumError
from tectum.core.params import KEY, Rule


def test_nothing_works_before_fit(row: Row, tmp_path: Path) -> None:
    model = row.make()
    calls: dict[str, Callable[[], Any]] = {verb: partial(row.call, verb, model) for verb in row.verbs}
    calls["save"] = lambda: model.save(str(tmp_path / "model"))
    calls["result_"] = lambda: model.result_
    calls["Report.add"] = lambda: tectum.Report("").add(model)
    assert not_refused(calls, NotFittedError, row.name) == []
    assert not hasattr(model, "result_")
    assert list(tmp_path.iterdir()) == []


NO_DATA: dict[str, Callable[[list[Any]], Any]] = {
    "empty list": lambda data: [],
    "None": lambda data: None,
    "number": lambda data: 3,
    "text": lambda data: "recording",
    "mapping": lambda data: {"data": data[0]},
    "object": lambda data: object(),
    "list with a stranger": lambda data: [*data, 3],
    "list of lists": lambda data: [data],
}
BARE: dict[str, Callable[[list[Any]], Any]] = {
    "tensor": lambda data: torch.zeros(96, 8),
    "array": lambda data: np.zeros((96, 8)),
    "list of tensors": lambda data: [torch.zeros(96, 8)],
}


def _calls(row: Row, fitted: Any, spoil: Callable[[list[Any]], Any]) -> dict[str, Callable[[], Any]]:
    """Return a call of fit, and of every verb that takes data, on spoilt data."""
    bad, target = spoil(row.data(0, row.n)), row.target(0, row.n)
    takers = [v for v in row.verbs if "data" in inspect.signature(getattr(row.estimator, v)).parameters]
    calls: dict[str, Callable[[], Any]] = {v: partial(row.verbs[v], fitted, bad, target) for v in takers}
    return {"fit": lambda: row.make().fit(bad, target), **calls}


@pytest.mark.parametrize("kind", NO_DATA)
def test_what_is_no_data_is_refused(row: Row, fitted: Any, kind: str) -> None:
    assert not_refused(_calls(row, fitted, NO_DATA[kind]), InputError, row.name) == []


@pytest.mark.parametrize("kind", BARE)
def test_bare_arrays_are_refused(row: Row, fitted: Any, kind: str) -> None:
    assert not_refused(_calls(row, fitted, BARE[kind]), AxisError, row.name) == []


def test_infinity_is_refused(row: Row, fitted: Any) -> None:
    def spoil(data: list[Any]) -> list[Any]:
        x = data[0].values.clone()
        x.view(-1)[5] = torch.inf
        return [data[0].with_(data=x), *data[1:]]

    if not isinstance(row.data(0, 1)[0], tectum.Recording):
        pytest.skip("only recordings can hold infinities")
    assert not_refused(_calls(row, fitted, spoil), InputError, row.name) == []


class _Stranger:
    """A value of no type that any parameter takes."""


def _wrong(rule: Rule) -> list[Any]:
    """Return values that break a rule: of another type, outside the range, or none of the options."""
    kinds = rule.kind if isinstance(rule.kind, tuple) else (rule.kind,)
    wrong: list[Any] = [_Stranger(), [1]]
    if rule.options is not None:
        wrong += [option + "_" for option in rule.options if isinstance(option, str)] + [None] * (not rule.optional)
    elif str not in kinds:
        wrong += ["3"]
    if bool not in kinds:
        wrong += [True]
    if int in kinds and float not in kinds:
        wrong += [1.5]
    if rule.low is not None or rule.high is not None:
        wrong += [torch.nan, torch.inf, -torch.inf] + [rule.low] * rule.open_low
        wrong += [limit + step for limit, step in ((rule.low, -1), (rule.high, 1)) if limit is not None]
    return [*wrong[:1], [], *((value,) for value in wrong)] if rule.each else wrong


def _fit_with(row: Row, name: str, value: Any) -> Any:
    return row.fit(**{name: value})


def test_wrong_values_of_parameters_are_refused(row: Row) -> None:
    wrong = []
    for f in dataclasses.fields(row.estimator):
        if KEY in f.metadata:
            values = _wrong(f.metadata[KEY])
            calls = {repr(v): partial(_fit_with, row, f.name, v) for v in values}
            wrong += not_refused(calls, InputError, f"{row.name}.{f.name}")
    assert wrong == []


def test_misspelt_options_give_the_nearest(row: Row) -> None:
    data, target, rules = row.data(0, row.n), row.target(0, row.n), row.estimator.__dataclass_fields__
    texts = {
        name: f.metadata[KEY].options for name, f in rules.items() if KEY in f.metadata and f.metadata[KEY].options
    }
    for name, options in texts.items():
        if all(isinstance(option, str) for option in options):
            with pytest.raises(InputError, match=f"did you mean '{options[0]}'"):
                row.make(**{name: f"{options[0]}x"}).fit(data, target)


def test_unknown_parameters_give_the_nearest(row: Row) -> None:
    with pytest.raises(InputError, match=rf"{row.name}\.set_params.*'random_stat'.*did you mean 'random_state'"):
        row.make().set_params(random_stat=3)
    with pytest.raises(TypeError, match="random_stat"):
        row.estimator(random_stat=3)


@pytest.mark.parametrize("seed", [-1, 1.5, "7", True, 2**63])
def test_wrong_seeds_are_refused(row: Row, seed: Any) -> None:
    with pytest.raises(InputError, match="random_state"):
        row.fit(random_state=seed)


@pytest.mark.parametrize("device", ["gpu", "cdua", "cuda:99", "cpu:x", "", None])
def test_unknown_devices_are_refused(row: Row, device: Any) -> None:
    with pytest.raises(InputError, match="device"):
        row.fit(device=device)


def _spoilt(row: Row, refusal: Refusal) -> Any:
    bad, target = refusal.spoil(row.data(0, row.n)), row.target(0, row.n)
    if refusal.verb == "fit":
        return row.make(**refusal.params).fit(bad, target)
    return row.verbs[refusal.verb](row.fit(**refusal.params) if refusal.params else row.tiny, bad, target)


REFUSALS = [pytest.param(r, bad, id=f"{r.name}-{bad.verb}-{bad.name}") for r in TABLE for bad in r.refuses]


@pytest.mark.parametrize(("one", "refusal"), REFUSALS)
def test_bad_inputs_of_the_method_are_refused(one: Row, refusal: Refusal) -> None:
    with pytest.raises(TectumError) as caught:
        _spoilt(one, refusal)
    assert type(caught.value) is refusal.error
    assert re.search(refusal.says, str(caught.value)), str(caught.value)


def test_callers_world_is_given_back_after_an_error(row: Row, callers_state: Callable[[], dict[str, Any]]) -> None:
    before = callers_state()
    for refusal in row.refuses:
        with suppress(Exception):  # which error it is, other tests say
            _spoilt(row, refusal)
    after = callers_state()
    assert [name for name in before if after[name] != before[name]] == []
