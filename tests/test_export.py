"""Exports: equal to PyTorch, whole or refused, harmless to read, usable without the decoder's class."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tectum
from support.decoders import NAMES, Standin, offline, recording, standin
from tectum import Causal, Evidence, Stream
from tectum.core.errors import ContractError, InputError, LoadError, MissingExtraError
from tectum.deploy import Exported, MismatchError, NotExportable, archive, export_steps, load
from tectum.deploy.card import Card
from tectum.deploy.causality import check_causal
from tectum.deploy.convert import metadata
from tectum.nn.check import check_input
from tectum.preprocess.causal import Chain, NotCausalError

FORMATS = ("onnx", "torch")
SUFFIX = {"onnx": ".onnx", "torch": ".pt2"}
STEPS = Causal(highpass=1.0, lowpass=45.0, reference="average", decimate=2)


@pytest.fixture(scope="module")
def decoder() -> Standin:
    made = standin(recording(1500), steps=STEPS)
    made.evidence_ = Evidence(threshold=0.6, memory=0.5, reject=("rest",))  # type: ignore[attr-defined]
    return made


@pytest.fixture(scope="module")
def files(decoder: Standin, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    scores = {"balanced_accuracy": 0.71}
    return {f: tectum.export(decoder, folder / "decoder", format=f, metrics=scores) for f in FORMATS}


def other(decoder: Standin, module: nn.Module) -> Standin:
    return Standin(module, decoder.contract_, decoder.result_)


# What comes back


@pytest.mark.parametrize("format", FORMATS)
def test_any_batch_gives_the_logits_of_pytorch(decoder: Standin, files: dict[str, Path], format: str) -> None:
    made = load(files[format])
    assert files[format].suffix == SUFFIX[format]
    for n in (1, 2, 7):
        x = 30 * torch.randn(n, 8, int(decoder.contract_.n_times or 0), generator=torch.Generator().manual_seed(n))
        with torch.no_grad():
            wanted, found = decoder.forward_module()(x), made.forward_module()(x)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)
        torch.testing.assert_close(made.predict_proba(x), wanted.softmax(1), rtol=0, atol=1e-4)


@pytest.mark.parametrize("format", FORMATS)
def test_the_card_says_all_that_a_user_needs(decoder: Standin, files: dict[str, Path], format: str) -> None:
    made = load(files[format])
    assert made.contract_ == decoder.contract_
    assert made.result_.labels == ("rest", "left", "right")
    assert made.causal_ == decoder.causal_
    assert made.card.metrics == {"balanced_accuracy": 0.71}
    assert made.card.evidence["reject"] == ["rest"]  # type: ignore[index]
    content = json.loads(json.loads(made.card.to_text())["card"])
    np.testing.assert_array_equal(content["filters"]["sos"], decoder.causal_.sos)  # type: ignore[union-attr]
    assert len(content["filters"]["mix"]) == 8


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_streams_like_its_decoder(decoder: Standin, files: dict[str, Path], format: str) -> None:
    rec = recording(1500, seed=4)
    made = Stream(load(files[format]), rate=250.0, channels=NAMES)
    wanted = Stream(decoder, rate=250.0, channels=NAMES)
    found = [(d.label, d.time) for d in made.push(rec.values.T)]
    assert found == [(d.label, d.time) for d in wanted.push(rec.values.T)]
    assert {label for label, _ in found} > {None}
    _, proba = offline(decoder, rec, hop=12)
    plain = Stream(load(files[format]), rate=250.0, channels=NAMES, evidence=Evidence())
    np.testing.assert_allclose([d.proba for d in plain.push(rec.values.T)], proba, atol=1e-4)


def fitted(device: str) -> Any:
    windows = recording(2000).windows(0.4, hop=0.2)
    labels = np.asarray(["left", "right"])[np.arange(windows.shape[0]) % 2]
    windows = windows.with_(coords={**windows.coords, "trial": {"label": labels}})
    return tectum.LightCNN(epochs=2, device=device, validation=0.0).fit(windows)


def test_a_decoder_trained_on_an_accelerator_leaves_from_the_cpu(accelerator: torch.device, tmp_path: Path) -> None:
    there = fitted(str(accelerator))
    there.save(str(tmp_path / "d"))
    here = tectum.load(tmp_path / "d", device="cpu")
    x = recording(100, seed=2).values[None]
    for k, decoder in enumerate((there, here)):
        made = load(tectum.export(decoder, tmp_path / f"{k}.pt2"))
        with torch.no_grad():
            torch.testing.assert_close(made.forward_module()(x), here.forward_module()(x), rtol=0, atol=1e-4)
    origin = made.card.origin
    assert (origin["estimator"], origin["data_hash"]) == ("LightCNN", here.result_.provenance.data_hash)
    assert "ids" not in origin
    assert Stream(made, rate=250.0, channels=NAMES).push(recording(200).values.T)


def test_steps_bound_to_no_input_are_bound_to_the_contract(decoder: Standin, tmp_path: Path) -> None:
    bare = Standin(decoder.module, decoder.contract_, decoder.result_, Causal(highpass=1.0, decimate=2))
    found = load(tectum.export(bare, tmp_path / "x.pt2")).causal_
    assert found is not None
    assert (found.names, found.rate, found.units) == (NAMES, 250.0, "uV")


def test_the_test_input_is_the_same_everywhere(decoder: Standin) -> None:
    x = check_input(decoder.contract_, 3.0)
    assert x.shape == (1, 8, 50)
    assert float(x.abs().max()) <= 3.0
    assert x[0, 1, :3].tolist() == pytest.approx(
        [3 * ((7919 + t * 104729 + t * t * 31) % 1009 / 504 - 1) for t in range(3)]
    )


def test_no_path_of_the_exporting_machine_leaves(files: dict[str, Path]) -> None:
    for path in files.values():
        content = path.read_bytes()
        for word in (b"decoders.py", b"site-packages", os.fsencode(Path(__file__).parent)):
            assert word not in content


# What cannot leave


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Eigen(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.eigvals(x @ x.mT).real[:, :3]


class Crowd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)).mean(2)[:, :3]


class Merged(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(2)[:, :3].mean(0, keepdim=True)


class Undefined(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(2)[:, :3].sub(1e9).log()


def nested(part: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Identity(), nn.Sequential(nn.Identity(), part)).eval()


def test_a_branch_on_values_is_named_with_its_module(decoder: Standin, tmp_path: Path) -> None:
    body = nn.Sequential(nested(Branch()), nn.AvgPool1d(50), nn.Flatten(), nn.Linear(8, 3)).eval()
    with pytest.raises(NotExportable, match=r"got 0\.1\.1 \(Branch\): .*data-dependent.*no Python branch on values"):
        tectum.export(other(decoder, body), tmp_path / "x.pt2")
    assert list(tmp_path.iterdir()) == []


def test_an_operator_without_counterpart_is_named_with_its_module(decoder: Standin, tmp_path: Path) -> None:
    with pytest.raises(NotExportable, match=r'1\.1 \(Eigen\): no ONNX operator for aten\.linalg_eig.*format="torch"'):
        tectum.export(other(decoder, nested(Eigen())), tmp_path / "x.onnx")


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (Crowd().eval(), "expected a network of single windows"),
        (Merged().eval(), "expected a network of single windows"),
        (Undefined().eval(), "expected finite logits"),
        (nn.Sequential(nn.BatchNorm1d(8)).train(), "got 0 in training mode; call eval()"),
    ],
)
def test_networks_that_would_mislead_are_refused(decoder: Standin, part: nn.Module, words: str, tmp_path: Path) -> None:
    made = other(decoder, part)
    made.forward_module = lambda: part  # type: ignore[method-assign]
    with pytest.raises(NotExportable) as error:
        tectum.export(made, tmp_path / "x.onnx")
    assert words in str(error.value)


class InPlace(nn.Module):
    """Changes tensors of its own, as networks of other packages do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(8, 3, 5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y += 1.0
        y[:, :, :3] = 0.0
        return y.clamp_(min=0).mean(2)


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_operators_in_place_become_plain_ones(decoder: Standin, format: str, tmp_path: Path) -> None:
    made = other(decoder, InPlace().eval())
    x = torch.randn(2, 8, made.contract_.n_times, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = made.forward_module()(x).softmax(1)
    found = load(tectum.export(made, tmp_path / "x", format=format)).predict_proba(x)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


class Distances(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        distances: Tensor = torch.ops.aten._euclidean_dist(x, 2 * x).mean(2)[:, :3]
        return distances


def test_an_operator_that_would_not_be_read_is_named_with_its_module(decoder: Standin, tmp_path: Path) -> None:
    with pytest.raises(NotExportable, match=r'1\.1 \(Distances\): aten\._euclidean_dist\.default; format="onnx"'):
        tectum.export(other(decoder, nested(Distances())), tmp_path / "x.pt2")
    assert list(tmp_path.iterdir()) == []


class Memory(nn.Module):
    """Answers by what it was asked before."""

    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        now = x.mean(2)[:, :3]
        self.seen = 0.5 * self.seen + now.mean(0)
        return now - self.seen


def test_a_network_with_a_memory_is_refused(decoder: Standin, tmp_path: Path) -> None:
    with pytest.raises(NotCausalError, match="what the network saw before"):
        check_causal(Memory().eval(), decoder.contract_, decoder.causal_, scale=10.0)
    assert issubclass(NotCausalError, RuntimeError)


def test_steps_that_look_ahead_are_found_by_their_numbers(
    decoder: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from scipy.signal import sosfiltfilt

    def both_ways(self: Chain, chunk: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        return torch.from_numpy(sosfiltfilt(self.steps.sos, chunk.numpy()).copy()), state

    tectum.export(decoder, tmp_path / "fine.pt2")
    monkeypatch.setattr(Chain, "step", both_ways)
    with pytest.raises(NotCausalError, match="changes with samples after the window"):
        tectum.export(decoder, tmp_path / "x.pt2")
    assert not (tmp_path / "x.pt2").exists()


def test_bad_arguments(decoder: Standin, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected one of \['onnx', 'torch'\], got 'onxx'; did you mean 'onnx'"):
        tectum.export(decoder, tmp_path / "x", format="onxx")
    with pytest.raises(InputError, match=r"expected a file \.pt2, got x\.onnx"):
        tectum.export(decoder, tmp_path / "x.onnx", format="torch")
    endless = type(decoder.contract_)(**{**vars(decoder.contract_), "n_times": None})
    with pytest.raises(InputError, match="windows of fixed length"):
        tectum.export(Standin(decoder.module, endless, decoder.result_), tmp_path / "x")


def test_windows_of_another_shape_are_refused(files: dict[str, Path]) -> None:
    with pytest.raises(ContractError, match=r"expected windows of shape \(trial, 8, 50\), got \(1, 8, 51\)"):
        load(files["onnx"]).predict_proba(torch.zeros(1, 8, 51))
    with pytest.raises(InputError, match="expected finite values"):
        load(files["onnx"]).predict_proba(torch.full((1, 8, 50), torch.nan))


def test_missing_packages_are_named(decoder: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r'pip install "tectum\[bci\]"'):
        tectum.export(decoder, tmp_path / "x.onnx")


# What may not come back


@pytest.mark.parametrize("format", FORMATS)
def test_a_flipped_byte_is_refused(files: dict[str, Path], format: str, tmp_path: Path) -> None:
    data, draw = files[format].read_bytes(), np.random.default_rng(0)
    target = tmp_path / files[format].name
    for at in draw.integers(0, len(data), 25):
        target.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        try:
            back = load(target)
        except LoadError:
            continue
        assert back.card == load(files[format]).card  # a byte of the container that carries nothing


def rewritten(path: Path, target: Path, change: Any) -> Path:
    """Write an archive again with the digests of its changed content, as an attacker would."""
    content = archive.entries(path.read_bytes())
    content = change(dict(content)) or content
    card = Card.from_text(content[archive.CARD].decode(), "x")
    text = type(card)(**{**vars(card), "digest": archive.digest(content)}).to_text()
    target.write_bytes(archive.packed({**content, archive.CARD: text.encode()}))
    return target


def with_card(path: Path, target: Path, change: Any) -> Path:
    """Change the card of an export and keep its digest as it was."""
    if path.suffix == ".onnx":
        card = load(path).card
        text = card.to_text().replace(*change)
        target.write_bytes(path.read_bytes()[: card.size] + metadata("tectum", text))
    else:
        content = archive.entries(path.read_bytes())
        content[archive.CARD] = content[archive.CARD].decode().replace(*change).encode()
        target.write_bytes(archive.packed(content))
    return target


@pytest.mark.parametrize("format", FORMATS)
def test_a_changed_channel_list_is_refused(files: dict[str, Path], format: str, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="expected the card that was exported, got a changed one"):
        load(with_card(files[format], tmp_path / files[format].name, ('\\"C3\\"', '\\"C5\\"')))


def test_a_network_appended_to_a_file_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    card, data = load(files["onnx"]).card, files["onnx"].read_bytes()
    target = tmp_path / "x.onnx"
    target.write_bytes(data + data[: card.size])
    with pytest.raises(LoadError):
        load(target)


@pytest.mark.parametrize("format", FORMATS)
def test_other_numbers_than_the_stored_ones_are_refused(files: dict[str, Path], format: str, tmp_path: Path) -> None:
    path = files[format]
    card = load(path).card
    text = type(card)(
        **{**vars(card), "test": {**card.test, "logits": [v + 2e-3 for v in card.test["logits"]]}}
    ).to_text()
    target = tmp_path / path.name
    if format == "onnx":
        target.write_bytes(path.read_bytes()[: card.size] + metadata("tectum", text))
    else:
        target.write_bytes(archive.packed({**archive.entries(path.read_bytes()), archive.CARD: text.encode()}))
    with pytest.raises(MismatchError, match="expected the stored logits of the test input, got a difference of 0.002"):
        load(target)
    assert issubclass(MismatchError, RuntimeError)


def test_files_that_are_none_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    for name in ("none.onnx", "none.txt"):
        with pytest.raises(LoadError, match="expected an existing file"):
            load(tmp_path / name)
    for name in ("x.onnx", "x.pt2"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(LoadError, match="one that cannot be read"):
            load(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "y.pt2", "w") as file:
        file.writestr("a/x", "")
    with pytest.raises(LoadError, match="expected a network of known operators"):
        load(tmp_path / "y.pt2")
    foreign = archive.entries(files["torch"].read_bytes())
    foreign.pop(archive.CARD)
    (tmp_path / "z.pt2").write_bytes(archive.packed(foreign))
    with pytest.raises(LoadError, match="expected a decoder exported by tectum, got no card"):
        load(tmp_path / "z.pt2")
    empty = {"card": "{}", "sha256": sha256(b"{}").hexdigest()}
    (tmp_path / "v.pt2").write_bytes(archive.packed({**foreign, archive.CARD: json.dumps(empty).encode()}))
    with pytest.raises(LoadError, match="got no card"):
        load(tmp_path / "v.pt2")


def test_an_archive_that_swells_is_refused_unread(files: dict[str, Path], tmp_path: Path) -> None:
    target = tmp_path / "x.pt2"
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in archive.entries(files["torch"].read_bytes()).items():
            file.writestr(f"a/{name}", content)
        file.writestr("a/data/weights/weight_99", bytes(10**7))
    with pytest.raises(LoadError, match="one that cannot be read") as error:
        load(target)
    assert "unpack to more" in str(error.value.__cause__)


def test_a_graph_that_makes_no_sense_is_refused_by_name(files: dict[str, Path], tmp_path: Path) -> None:
    def leaves(node: Any, path: tuple[Any, ...] = ()) -> Any:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            yield from leaves(value, (*path, key))
        if not isinstance(node, (dict, list)):
            yield path

    def damaged(graph: dict[str, Any]) -> None:
        path = draw.choice(sorted(leaves(graph), key=str))
        for key in path[:-1]:
            graph = graph[key]
        old = graph[path[-1]]
        words = ["", old, "weight_0", "torch.ops.aten.sin.default", "torch.ops.aten.resize_.default"]
        graph[path[-1]] = draw.choice(words) if isinstance(old, str) else draw.choice([0, -1, 2**40, None, "x", []])

    draw, seen = random.Random(0), []
    for _ in range(60):
        try:
            load(rewritten(files["torch"], tmp_path / "x.pt2", lambda c: graph_with(c, damaged)))
        except LoadError:
            seen.append(True)
    assert len(seen) > 15


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def graph_with(content: dict[str, bytes], change: Any) -> dict[str, bytes]:
    graph = json.loads(content[archive.GRAPH])
    change(graph)
    return {**content, archive.GRAPH: json.dumps(graph).encode()}


def nodes(graph: dict[str, Any]) -> list[dict[str, Any]]:
    return graph["graph_module"]["graph"]["nodes"]


def test_nothing_that_could_run_is_read(files: dict[str, Path], tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    evil = f"__import__('os').mkdir('{mark}')"
    pickled = io.BytesIO()
    torch.save((Trap(mark),), pickled)

    def config(content: dict[str, bytes]) -> dict[str, bytes]:
        name = "data/weights/model_weights_config.json"
        made = json.loads(content[name])
        next(iter(made["config"].values()))["use_pickle"] = True
        return {**content, name: json.dumps(made).encode()}

    def retargeted(content: dict[str, bytes], target: str) -> dict[str, bytes]:
        return graph_with(content, lambda g: nodes(g)[0].update(target=target))

    def expression(graph: dict[str, Any], text: str = evil) -> None:
        values = graph["graph_module"]["graph"]["tensor_values"]
        sizes = next(v["sizes"] for v in values.values() if any("as_expr" in s for s in v["sizes"]))
        next(s for s in sizes if "as_expr" in s)["as_expr"]["expr_str"] = text

    def spec(graph: dict[str, Any]) -> None:
        graph["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = '[1, {"type": "os.system"}]'

    attacks = {
        "a pickle that runs code": lambda c: {**c, archive.SAMPLES: pickled.getvalue()},
        "the entry 'data/weights/model.pt'": lambda c: {**c, "data/weights/model.pt": pickle.dumps(Trap(mark))},
        "a pickled object": config,
        "guards, which are code": lambda c: graph_with(c, lambda g: g.update(guards_code=[evil])),
        "expr_str": lambda c: graph_with(c, expression),
        "target": lambda c: graph_with(c, lambda g: nodes(g)[0].update(target="torch.hub.load")),
        "target 'torch.ops.aten.from_file.default'": lambda c: retargeted(c, "torch.ops.aten.from_file.default"),
        "target 'torch.ops.aten.set_.default'": lambda c: retargeted(c, "torch.ops.aten.set_.default"),
        "target 'torch.ops.aten.add_.Tensor'": lambda c: retargeted(c, "torch.ops.aten.add_.Tensor"),
        "target 'torch.ops.aten.__class__.mro'": lambda c: retargeted(c, "torch.ops.aten.__class__.mro"),
        "target 'torch.ops.aten.sin'": lambda c: retargeted(c, "torch.ops.aten.sin"),
        "as_operator 'torch.hub.load'": lambda c: graph_with(
            c, lambda g: nodes(g)[0]["inputs"][0].update(arg={"as_operator": "torch.hub.load"})
        ),
        "expr_str '9**9**9**9'": lambda c: graph_with(c, lambda g: expression(g, "9**9**9**9")),
        "name": lambda c: graph_with(c, lambda g: nodes(g)[0].update(name=f"x = {evil}")),
        "metadata of the graph": lambda c: graph_with(c, lambda g: nodes(g)[0].update(metadata={"stack_trace": "x"})),
        "in_spec": lambda c: graph_with(c, spec),
    }  # fmt: skip
    for words, attack in attacks.items():
        with pytest.raises(LoadError) as error:
            load(rewritten(files["torch"], tmp_path / "x.pt2", attack))
        assert words in str(error.value)
    assert not mark.exists()
    assert isinstance(load(rewritten(files["torch"], tmp_path / "x.pt2", lambda c: c)), Exported)


def test_files_may_be_read_aloud_in_onnx(files: dict[str, Path]) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(files["onnx"].read_bytes())
    onnx.checker.check_model(model)
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", 8, 50]
    assert [p.key for p in model.metadata_props] == ["tectum"]


# The causal steps


@pytest.mark.parametrize(
    "steps",
    [
        STEPS,
        Causal(highpass=1.0, notch=(50.0,), tau=1.0, artefact=40.0),
        Causal(bipolar=(("C3", "C4"),), lowpass=30.0),
        Causal(tau=2.0, reference="average"),
    ],
)
def test_the_steps_leave_with_their_state(steps: Causal, tmp_path: Path) -> None:
    import onnxruntime

    rec = recording(500, seed=3)
    wanted = tectum.preprocess.apply_causal(rec, steps)
    path = export_steps(Causal.of(wanted), tmp_path / "steps", chunk=20)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    kept = json.loads(session.get_modelmeta().custom_metadata_map["tectum_steps"])
    assert (kept["names"], kept["rate"]) == (list(NAMES), 250.0)
    taken = {i.name: [d if isinstance(d, int) else 1 for d in i.shape] for i in session.get_inputs()}
    state, found = {n: np.zeros(taken[n]) for n in taken if n not in ("x", "fresh")}, []
    for first in range(0, 500, 20):
        x = rec.values[:, first : first + 20].double().numpy()
        feed = {"x": x, "fresh": np.array([first == 0]), **state}
        out = dict(
            zip([o.name for o in session.get_outputs()], session.run(None, {k: feed[k] for k in taken}), strict=True)
        )
        state = {n: out[f"{n}_out"] for n in state}
        found.append(out["y"])
    np.testing.assert_allclose(np.concatenate(found, 1), wanted.values, atol=1e-5 * float(wanted.values.std()))


def test_steps_that_cannot_leave(decoder: Standin, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"chunk.*expected a multiple of decimate=2, got 25"):
        export_steps(decoder, tmp_path / "x", chunk=25)
    with pytest.raises(InputError, match="expected causal steps, got none"):
        export_steps(Standin(decoder.module, decoder.contract_, decoder.result_), tmp_path / "x", chunk=2)
