"""Every estimator keeps the house's promises about results, files, figures and reports (see ``table``)."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import platform
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis

import tectum
from contract.compare import assert_same, tensors
from contract.table import Row
from tectum.core.dims import VOCABULARY
from tectum.core.errors import AxisError, InputError
from tectum.core.result import Result

# Results


def test_axes_of_the_result_are_valid(rich: Any) -> None:
    result = rich.result_
    present = {name: (dims, tensor) for name, dims, tensor in result.tensors()}
    for name, (dims, tensor) in present.items():
        assert tuple(tensor.shape) == tuple(result.sizes[d] for d in dims), name
        assert set(dims) <= set(VOCABULARY), name
    for axis, table in result.coords.items():
        assert axis in result.sizes
        assert {column: len(values) for column, values in table.items()} == dict.fromkeys(table, result.sizes[axis])


def test_every_tensor_of_the_result_has_declared_axes(rich: Any) -> None:
    result = rich.result_
    loose = {f.name for f in dataclasses.fields(result) if isinstance(getattr(result, f.name), torch.Tensor)}
    assert loose == {name for name, _, _ in result.tensors()}
    empty = [name for name in result.declared() if getattr(result, name) is None]
    assert empty == [], "Row.rich must fill every optional field of the result"


def test_wrong_shapes_are_refused_by_the_result(fitted: Any) -> None:
    for name, _, tensor in fitted.result_.tensors():
        with pytest.raises(AxisError, match=name):
            dataclasses.replace(fitted.result_, **{name: tensor.unsqueeze(0)})


def test_result_is_frozen(fitted: Any) -> None:
    for f in dataclasses.fields(fitted.result_):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(fitted.result_, f.name, None)


def test_result_and_outputs_are_detached(row: Row, fitted: Any) -> None:
    outputs = {verb: row.call(verb, fitted) for verb in row.verbs}
    found = list(tensors({"result_": fitted.result_, **outputs}))
    assert [name for name, tensor in found if tensor.requires_grad or tensor.is_inference()] == []
    assert [name for name, tensor in found if tensor.device.type != "cpu"] == []


def test_result_does_not_share_memory_with_the_data(row: Row) -> None:
    data, target, model = row.data(0, row.n), row.target(0, row.n), row.make()
    model.fit(data, target)
    theirs = {t.untyped_storage().data_ptr() for _, t in tensors((data, target)) if t.numel()}
    shared = [n for n, t in tensors(model.result_) if t.numel() and t.untyped_storage().data_ptr() in theirs]
    assert shared == []


def test_float64_gives_float64(row: Row) -> None:
    model = row.fit(dtype="float64")
    outputs = {verb: row.call(verb, model) for verb in row.verbs}
    found = [(name, t) for name, t in tensors({"result_": model.result_, **outputs}) if t.is_floating_point()]
    assert [name for name, tensor in found if tensor.dtype != torch.float64] == []
    assert model.result_.provenance.dtype == "float64"


def test_to_xarray_has_the_same_numbers(rich: Any) -> None:
    result = rich.result_
    dataset = result.to_xarray()
    for name, dims, tensor in result.tensors():
        variable = dataset[f"{name}_" if name in result.sizes else name]
        assert variable.sizes == dict(zip(variable.dims, tensor.shape, strict=True))
        assert [str(d).rpartition("_")[0] or d for d in variable.dims if d not in dims] == _repeated(dims)
        np.testing.assert_array_equal(variable.values, tensor.numpy())
    for axis, table in result.coords.items():
        for column, values in table.items():
            held = [c for c in dataset.coords.values() if c.dims == (axis,) and c.attrs.get("column") == column]
            assert len(held) == 1, f"coordinate {column!r} of {axis!r}"
            np.testing.assert_array_equal(held[0].values, values)


def _repeated(dims: tuple[str, ...]) -> list[str]:
    """Return the axes after their first occurrence."""
    return [d for i, d in enumerate(dims) if d in dims[:i]]


def test_provenance_is_complete(row: Row, fitted: Any) -> None:
    made, data = fitted.result_.provenance, row.data(0, row.n)
    versions = {"tectum": tectum.__version__, "torch": str(torch.__version__), "numpy": np.__version__}
    assert dict(made.versions) == {**versions, "python": platform.python_version()}
    assert (made.estimator, made.device, made.dtype, made.seed) == (row.name, "cpu", fitted.dtype, 0)
    assert dict(made.config) == fitted.get_params()
    assert re.fullmatch("[0-9a-f]{64}", made.data_hash)
    assert made.ids == tuple("/".join(part for part in (x.subject, x.session) if part) for x in data)
    assert made.seconds > 0
    assert made.converged is None or type(made.converged) is bool


def test_provenance_does_not_follow_the_estimator(row: Row, fitted: Any) -> None:
    model = copy.copy(fitted)
    model.set_params(random_state=5, dtype="float64")
    assert (model.result_.provenance.config["random_state"], model.result_.provenance.seed) == (0, 0)
    assert model.result_.provenance.config["dtype"] == "float32"


def _nudged(container: Any) -> Any:
    """Change one number of a container by the least possible amount."""
    name = next(n for n in ("data", "weights", "times") if isinstance(getattr(container, n, None), torch.Tensor))
    values = getattr(container, name).clone()
    values.view(-1)[-1] = torch.nextafter(values.view(-1)[-1], values.new_tensor(torch.inf))
    return dataclasses.replace(container, **{name: values})


def test_hash_of_the_data_tells_data_apart(row: Row, fitted: Any) -> None:
    known, data, target = fitted.result_.provenance.data_hash, row.data(0, row.n), row.target(0, row.n)
    other = row.make().fit([_nudged(data[0]), *data[1:]], target)
    assert other.result_.provenance.data_hash != known
    assert row.fit(random_state=1).result_.provenance.data_hash == known


def test_device_auto_is_resolved_and_recorded(row: Row) -> None:
    model = row.fit(device="auto")
    assert model.device == "auto"
    assert {str(t.device) for _, _, t in model.result_.tensors()} == {model.result_.provenance.device}


# Files


@pytest.mark.parametrize("which", ["fitted", "rich"])
def test_saved_and_loaded_is_equal(row: Row, which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    model = request.getfixturevalue(which)
    path = model.save(str(tmp_path / "model"))
    assert path == tmp_path / "model.safetensors"
    loaded = tectum.load(path)
    assert type(loaded) is row.estimator
    assert loaded.get_params() == model.get_params()
    assert {n for n in vars(loaded) if n.endswith("_")} == {n for n in vars(model) if n.endswith("_")}
    assert type(loaded.result_) is type(model.result_)
    assert_same(loaded.result_, model.result_, where="result_")
    assert loaded.result_.provenance == model.result_.provenance
    for verb in row.verbs:
        assert_same(row.call(verb, loaded), row.call(verb, model), where=verb)
    assert_same(loaded.fit(row.data(0, row.n), row.target(0, row.n)).result_, model.result_, where="refit")


def test_result_is_saved_alone(rich: Any, tmp_path: Path) -> None:
    rich.result_.save(str(tmp_path / "result.safetensors"))
    assert_same(tectum.load(tmp_path / "result.safetensors"), rich.result_, where="result_")


def test_file_holds_tensors_and_json_only(row: Row, fitted: Any, tmp_path: Path) -> None:
    content = fitted.save(str(tmp_path / "model")).read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    ours = json.loads(header.pop("__metadata__")["tectum"], parse_constant=lambda word: pytest.fail(f"JSON has {word}"))
    assert ours["object"]["kind"] == row.name
    ends = {name: entry["data_offsets"][1] for name, entry in header.items()}
    assert max(ends.values()) == len(content) - 8 - length  # nothing lies behind the tensors
    assert set(dict(ours["object"]["fields"]["config"]["map"])) == set(fitted.get_params())


def test_nothing_is_executed_at_load(fitted: Any, tmp_path: Path) -> None:
    path = fitted.save(str(tmp_path / "model"))

    def refuse(*args: Any, **options: Any) -> None:
        pytest.fail("pickle was used")

    with (
        mock.patch.object(pickle, "load", refuse),
        mock.patch.object(pickle, "loads", refuse),
        mock.patch.object(pickle, "Unpickler", refuse),
        mock.patch.object(torch, "load", refuse),
    ):
        tectum.load(path)


def test_another_process_loads_it(row: Row, fitted: Any, tmp_path: Path) -> None:
    path = fitted.save(str(tmp_path / "model"))
    code = "import sys, tectum; tectum.load(sys.argv[1]).save(sys.argv[2]); sys.exit('sklearn' in sys.modules)"
    subprocess.run([sys.executable, "-c", code, str(path), str(tmp_path / "again")], check=True, timeout=120)
    again = tectum.load(tmp_path / "again")
    assert again.get_params() == fitted.get_params()
    assert_same(again.result_, fitted.result_, where="result_")


# Figures


def test_row_names_every_kind_of_figure(row: Row, rich: Any) -> None:
    assert set(rich.result_.plots()) == row.kinds


def _is_labelled(axis: Axis) -> bool:
    """Whether an axis has a label, or words at its ticks."""
    ticks = [tick.get_text().strip().replace("\N{MINUS SIGN}", "-") for tick in axis.get_ticklabels()]
    return bool(axis.get_label_text().strip()) or any(re.search("[A-Za-z]", text) for text in ticks)


def test_every_kind_of_figure_is_labelled(row: Row, rich: Any) -> None:
    for kind in row.kinds:
        known = set(plt.get_fignums())
        ax = rich.result_.plot(kind)
        assert isinstance(ax, Axes), kind
        assert len(set(plt.get_fignums()) - known) == 1, f"{kind}: one figure"
        ax.figure.canvas.draw()
        assert _is_labelled(ax.xaxis), f"{kind}: label of x"
        assert _is_labelled(ax.yaxis), f"{kind}: label of y"
        assert ax.has_data(), f"{kind}: empty"


def test_figures_are_drawn_on_given_axes(row: Row, rich: Any) -> None:
    figure, grid = plt.subplots(1, len(row.kinds), layout="constrained", figsize=(3 * len(row.kinds), 3), squeeze=False)
    for kind, ax in zip(sorted(row.kinds), grid[0], strict=True):
        assert rich.result_.plot(kind, ax=ax) is ax, kind
        assert ax.has_data(), kind
    assert plt.get_fignums() == [figure.number]


def test_figures_leave_result_and_world_alone(row: Row, rich: Any, callers_state: Callable[[], dict[str, Any]]) -> None:
    before, result = callers_state(), copy.deepcopy(rich.result_)
    for kind in row.kinds:
        rich.result_.plot(kind)
    after = callers_state()
    assert [name for name in before if after[name] != before[name]] == []
    assert_same(rich.result_, result, where="result_")


def test_first_kind_is_the_default(row: Row, fitted: Any) -> None:
    first = next(iter(fitted.result_.plots()))
    with mock.patch.object(type(fitted.result_), "plots", return_value={first: lambda ax=None: first}):
        assert fitted.result_.plot() == first


def test_unknown_kind_of_figure_gives_the_nearest(row: Row, rich: Any) -> None:
    for kind in row.kinds:
        with pytest.raises(InputError, match=rf"{type(rich.result_).__name__}\.plot.*did you mean '{kind}'"):
            rich.result_.plot(f"{kind}_")


# Reports


class _Page(HTMLParser):
    """What a page is made of; fails where tags do not match."""

    EMPTY = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.ids: list[str] = []
        self.feed(text)
        assert self.open == [], f"unclosed {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another tag"


def _figures(result: Result) -> int:
    """Return how many figures the report of a result has."""
    return sum(len(section.figures) for section in result.sections()) or len(result.plots())


def test_report_is_whole_and_needs_nothing(row: Row, rich: Any, tmp_path: Path) -> None:
    path = tectum.Report(f"Contract of {row.name}").add(rich.result_).save(tmp_path / "report")
    text = path.read_text(encoding="utf-8")
    page = _Page(text)
    pictures = [attrs for tag, attrs in page.tags if tag == "img"]
    assert len(pictures) == _figures(rich.result_) > 0
    assert all(str(p["src"]).startswith("data:image/png;base64,") and p["alt"] for p in pictures)
    assert f"How this was made: {row.name}" in text
    assert rich.result_.provenance.data_hash in text
    _assert_needs_nothing(page, text)


def _assert_needs_nothing(page: _Page, text: str) -> None:
    """Check that a page runs no script and asks nothing of the network; DOIs may stand in the text."""
    assert {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed", "link", "base", "form"} == set()
    attributes = [(name, str(value)) for _, attrs in page.tags for name, value in attrs.items()]
    assert [name for name, _ in attributes if name.startswith("on")] == []
    assert len(set(page.ids)) == len(page.ids)
    targets = [value for name, value in attributes if name in ("href", "src", "srcset", "action", "data")]
    assert [
        t for t in targets if not t.startswith("data:image/png;base64,") and t.removeprefix("#") not in page.ids
    ] == []
    assert re.findall(r"url\(|@import", text) == []
    assert re.findall(r"https?://(?!(?:dx\.)?doi\.org/)[^\s<\"]*", text) == []


def _words(item: Any) -> str:
    """Return the page of a report on one item with captions instead of figures."""
    with mock.patch("tectum.report._figure", lambda caption, draw: f"<figcaption>{caption}</figcaption>"):
        return str(tectum.Report("One", subtitle="two").add(item).html())


def test_report_of_estimator_is_that_of_its_result(rich: Any) -> None:
    assert _words(rich) == _words(rich.result_)


def test_report_tells_every_parameter(fitted: Any) -> None:
    text = _words(fitted)
    assert [name for name in fitted.get_params() if f"<li>{name} = " not in text] == []
