"""Every estimator runs on every device with the same call and result; the simulated accelerator stands for a GPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import tectum
from contract.compare import assert_same, tensors
from contract.table import Row
from tectum.core.estimator import numbers


def _elsewhere(found: Any, device: torch.device) -> list[str]:
    """List the tensors that are not on a device; clocks and tables of containers stay on the host."""
    return [name for name, t in tensors(found) if t.device.type != device.type and not name.endswith(".times")]


def test_accelerator_agrees_with_the_cpu(row: Row, fitted: Any, on_accelerator: Any) -> None:
    assert_same(on_accelerator.model.result_, fitted.result_, rtol=row.rtol, atol=row.atol, where="result_")


def test_verbs_on_the_accelerator_agree_with_the_cpu(row: Row, fitted: Any, on_accelerator: Any) -> None:
    for verb in row.verbs:
        wanted = row.call(verb, fitted)
        assert_same(row.call(verb, on_accelerator.model), wanted, rtol=row.rtol, atol=row.atol, where=verb)


def test_every_optional_field_agrees_with_the_cpu(row: Row, rich: Any, accelerator: torch.device) -> None:
    found = row.fit(device=str(accelerator), **row.rich).result_
    assert _elsewhere(found, accelerator) == []
    assert_same(found, rich.result_, rtol=row.rtol, atol=row.atol, where="result_")


def test_result_is_on_the_asked_device(row: Row, on_accelerator: Any, accelerator: torch.device) -> None:
    assert _elsewhere(on_accelerator.model.result_, accelerator) == []
    assert on_accelerator.model.result_.provenance.device == str(accelerator)


def test_outputs_are_on_the_asked_device(row: Row, on_accelerator: Any, accelerator: torch.device) -> None:
    assert _elsewhere({verb: row.call(verb, on_accelerator.model) for verb in row.verbs}, accelerator) == []


def _moved(container: Any, device: torch.device) -> Any:
    if hasattr(container, "to"):
        return container.to(device)
    held = {f.name: getattr(container, f.name) for f in dataclasses.fields(container)}
    return dataclasses.replace(container, **{n: t.to(device) for n, t in held.items() if isinstance(t, torch.Tensor)})


@pytest.mark.parametrize("where", ["cpu", "accelerator"])
def test_data_may_lie_on_the_accelerator(row: Row, fitted: Any, where: str, accelerator: torch.device) -> None:
    data, target = [_moved(x, accelerator) for x in row.data(0, row.n)], row.target(0, row.n)
    assert all(t.device.type == accelerator.type for t in numbers(tuple(data))[:1])
    model = row.make(device="cpu" if where == "cpu" else str(accelerator)).fit(data, target)
    assert_same(model.result_, fitted.result_, rtol=row.rtol, atol=row.atol, where="result_")
    for name, verb in row.verbs.items():
        assert_same(verb(model, data, target), verb(fitted, row.data(0, row.n), target), rtol=row.rtol, atol=row.atol,
                    where=name)  # fmt: skip


def test_fit_on_accelerator_is_reproducible(row: Row, on_accelerator: Any) -> None:
    assert_same(row.fit(device=on_accelerator.model.device).result_, on_accelerator.model.result_, where="result_")


def test_callers_draws_on_the_accelerator_stay(on_accelerator: Any) -> None:
    assert not on_accelerator.draws


def test_host_seldom_waits(row: Row, on_accelerator: Any) -> None:
    waits = on_accelerator.waits
    assert 0 < waits.total() <= row.syncs, waits.most_common(8)


def test_model_of_the_accelerator_is_loaded_on_the_cpu(
    row: Row, fitted: Any, on_accelerator: Any, tmp_path: Path
) -> None:
    loaded = tectum.load(on_accelerator.model.save(str(tmp_path / "model")), device="cpu")
    assert loaded.device == "cpu"
    assert _elsewhere(loaded.result_, torch.device("cpu")) == []
    for verb in row.verbs:
        wanted = row.call(verb, fitted)
        assert_same(row.call(verb, loaded), wanted, rtol=row.rtol, atol=row.atol, where=verb)


def test_model_of_the_cpu_is_loaded_on_the_accelerator(
    row: Row, fitted: Any, accelerator: torch.device, tmp_path: Path
) -> None:
    loaded = tectum.load(fitted.save(str(tmp_path / "model")), device=str(accelerator))
    assert loaded.device == str(accelerator)
    outputs = {verb: row.call(verb, loaded) for verb in row.verbs}
    assert _elsewhere((loaded.result_, outputs), accelerator) == []
    for verb, output in outputs.items():
        assert_same(output, row.call(verb, fitted), rtol=row.rtol, atol=row.atol, where=verb)


def test_result_moves_and_is_drawn_from_the_accelerator(row: Row, rich: Any, accelerator: torch.device) -> None:
    moved = rich.result_.to(accelerator)
    assert _elsewhere(moved, accelerator) == []
    for kind in row.kinds:
        moved.plot(kind)
    moved.to_xarray()
    assert_same(moved.to("cpu"), rich.result_, where="result_")
