"""TorchDecoder: modules of others are trained, kept safe in files without code, and given again at load."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import tectum
from tectum import Recording
from tectum.core.errors import InputError, LoadError
from tectum.models.torch_decoder import ALLOWED, allow, full_name

DIMS = ("trial", "channel", "time")


class ShallowNet(nn.Module):
    """Temporal and spatial filters, log power, linear layer: braindecode's signature, written in plain torch."""

    def __init__(
        self, n_chans: int, n_outputs: int, n_times: int, sfreq: float | None = None, n_filters: int = 6, pool: int = 10
    ) -> None:
        super().__init__()
        self.temporal = nn.Conv2d(1, n_filters, (1, 5))
        self.spatial = nn.Conv2d(n_filters, n_filters, (n_chans, 1), bias=False)
        self.norm = nn.BatchNorm2d(n_filters)
        self.pool = nn.AvgPool2d((1, pool))
        self.final_layer = nn.Linear(n_filters * ((n_times - 4) // pool), n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        power = self.pool(self.norm(self.spatial(self.temporal(x[:, None]))).square())
        logits: Tensor = self.final_layer(power.clamp(min=1e-6).log().flatten(1))
        return logits


class DenseNet(nn.Module):
    """Other spellings of the arguments, and keyword arguments of any name."""

    def __init__(self, in_chans: int, n_classes: int, input_window_samples: int) -> None:
        super().__init__()
        self.head = nn.Linear(in_chans * input_window_samples, n_classes)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(x.flatten(1))
        return found


def recording(n: int = 40, *, seed: int = 0) -> Recording:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, 64, generator=draw)
    x[1::2, 0] *= 3
    names = {"channel": {"name": list("abc")}, "trial": {"label": ["rest", "task"] * (n // 2)}}
    return Recording(data=x, dims=DIMS, rate=64.0, units="uV", coords=names)


def decoder(module: Any = ShallowNet, **options: Any) -> tectum.TorchDecoder:
    return tectum.TorchDecoder(module=module, **{"epochs": 15, "batch_size": 8, "lr": 0.01, "device": "cpu", **options})


@pytest.fixture(autouse=True)
def _no_class_is_allowed() -> Iterator[None]:
    with mock.patch.dict(ALLOWED, clear=True):
        yield


@pytest.mark.parametrize("module", [ShallowNet, lambda **known: ShallowNet(**known), ShallowNet(3, 2, 64)])
def test_classes_makers_and_modules_are_trained(module: Any) -> None:
    model = decoder(module).fit(recording())
    assert model.score(recording(seed=1)) > 0.9
    assert model.result_.provenance is not None
    assert isinstance(model.result_.provenance.config["module"], str)


def test_a_module_given_is_not_changed_and_its_weights_are_the_start() -> None:
    module = ShallowNet(3, 2, 64).requires_grad_(False)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    result = decoder(module, epochs=1, lr=1e-6, validation=0.0).fit(recording()).result_
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    assert not any(p.requires_grad for p in module.parameters())
    for name in ("temporal.weight", "final_layer.weight"):
        torch.testing.assert_close(result.weights[f"body.{name}"], before[name], atol=1e-4, rtol=0)
    assert not torch.equal(result.weights["body.final_layer.weight"], before["final_layer.weight"])


def test_arguments_are_spelt_as_the_class_spells_them() -> None:
    network = decoder(DenseNet).fit(recording()).forward_module()
    assert network.body.head.weight.shape == (2, 3 * 64)
    wide = decoder(options={"n_filters": 9}).fit(recording()).forward_module()
    assert wide.body.temporal.weight.shape[0] == 9


def test_head_of_a_foreign_network_is_found() -> None:
    model = decoder().fit(recording())
    other = recording(30, seed=2).with_(coords={"channel": {"name": list("abc")}})
    adapted = model.adapt(other, ["x", "y", "z"] * 10, part="head", epochs=2)
    assert adapted.predict_proba(other).shape == (30, 3)
    changed = [k for k, v in model.result_.weights.items() if not torch.equal(adapted.result_.weights[k], v)
               if "final_layer" not in k]  # fmt: skip
    assert changed == []  # running means of the body stay too


def test_it_is_evaluated_and_exported_like_ours() -> None:
    data = [recording(16, seed=k).with_(subject=f"s{k}") for k in range(4)]
    found = tectum.evaluate.cross_predict(decoder(), data, folds=2)
    assert found.accuracy().estimate > 0.8
    network, x = decoder().fit(data).forward_module(), data[0].values
    exported = torch.export.export(network, (x[:2],), dynamic_shapes=({0: torch.export.Dim("batch")},))
    torch.testing.assert_close(exported.module()(x), network(x))


# Files


def test_a_file_names_the_class_and_loads_where_it_is_allowed(tmp_path: Path) -> None:
    model = decoder(options={"n_filters": 4}).fit(recording())
    path = model.save(str(tmp_path / "model"))
    allow(ShallowNet)
    loaded = tectum.load(path)
    assert loaded.module is ShallowNet
    assert loaded.options == {"n_filters": 4}
    assert torch.equal(loaded.predict_proba(recording(seed=1)), model.predict_proba(recording(seed=1)))


def test_a_file_alone_does_not_bring_a_class_to_life(tmp_path: Path) -> None:
    model = decoder().fit(recording())
    loaded = tectum.load(model.save(str(tmp_path / "model")))
    assert loaded.module == full_name(ShallowNet)
    assert loaded.result_.labels == ("rest", "task")
    with pytest.raises(InputError, match=r"TorchDecoder.module.*ShallowNet' alone.*allow\(...\).*set_params\(module="):
        loaded.predict(recording())
    again = tectum.load(loaded.save(str(tmp_path / "again")))  # what is not known is kept
    assert again.module == loaded.module
    loaded.set_params(module=ShallowNet)
    assert torch.equal(loaded.predict_proba(recording()), model.predict_proba(recording()))


def test_a_module_made_already_is_given_again(tmp_path: Path) -> None:
    model = decoder(ShallowNet(3, 2, 64, n_filters=4)).fit(recording())
    allow(ShallowNet)
    loaded = tectum.load(model.save(str(tmp_path / "model")))
    assert loaded.module == f"{full_name(ShallowNet)}()"
    with pytest.raises(InputError, match="alone"):
        loaded.predict(recording())
    loaded.set_params(module=ShallowNet(3, 2, 64, n_filters=4))
    assert torch.equal(loaded.predict_proba(recording()), model.predict_proba(recording()))
    loaded.set_params(module=ShallowNet(3, 2, 64, n_filters=5))
    loaded.__dict__.pop("_kept")
    with pytest.raises(RuntimeError, match="size mismatch"):
        loaded.predict(recording())


def test_loading_imports_nothing_that_the_file_names(tmp_path: Path) -> None:
    model = decoder().fit(recording())
    evil = mock.patch("tectum.models.torch_decoder.full_name", return_value="antigravity:Fly")
    with evil:
        path = model.save(str(tmp_path / "model"))
    code = (
        "import sys, tectum\n"
        "model = tectum.load(sys.argv[1])\n"
        "assert model.module == 'antigravity:Fly'\n"
        "try: model.forward_module()\n"
        "except ValueError: pass\n"
        "sys.exit('antigravity' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=120)


def test_changed_bytes_are_refused(tmp_path: Path) -> None:
    path = decoder(epochs=1).fit(recording()).save(str(tmp_path / "model"))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(LoadError, match="damaged"):
        tectum.load(path)


def test_the_last_class_of_a_name_is_taken() -> None:
    class Twin(nn.Flatten):
        pass

    first = Twin
    allow(first)

    class Other(nn.Flatten):
        pass

    Other.__qualname__ = first.__qualname__
    allow(Other)
    assert ALLOWED[first.__qualname__] is Other
    with pytest.raises(InputError, match="subclasses of torch.nn.Module, got 3"):
        allow(3)  # type: ignore[type-var]


# Bad modules


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (None, "torch module"),
        ("ShallowNet", "'ShallowNet' alone"),
        (lambda: 3, "a maker of torch modules, got int"),
        (lambda n_times: torch.zeros(n_times).view(200), "a maker that takes.*RuntimeError: shape"),
        (lambda: nn.Conv1d(3, 2, 5), r"output of shape \(2, 2\), got \(2, 2, 60\)"),
        (lambda: nn.Conv1d(4, 2, 5), r"takes \(batch, 3, 64\)"),
        (lambda size: nn.Flatten(), "a maker that takes.*size"),
    ],
)
def test_modules_that_do_not_fit_are_refused(module: Any, says: str) -> None:
    with pytest.raises(InputError, match=f"TorchDecoder.module.*{says}"):
        decoder(module).fit(recording())


@pytest.mark.filterwarnings("ignore")  # of braindecode and what it imports
def test_models_of_braindecode_are_trained() -> None:
    try:
        from braindecode.models import ShallowFBCSPNet
    except (ImportError, OSError) as missing:  # its torchaudio may not match the torch installed
        pytest.skip(f"braindecode cannot be imported here: {missing}")
    model = decoder(
        ShallowFBCSPNet, options={"final_conv_length": "auto", "pool_time_length": 10, "pool_time_stride": 5}
    )
    assert model.fit(recording()).score(recording(seed=1)) > 0.9
    network, x = model.forward_module(), recording(seed=1).values
    assert torch.equal(network(x).softmax(1), model.predict_proba(recording(seed=1)))
