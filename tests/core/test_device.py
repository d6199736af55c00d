"""Devices, dtypes and arrays at the border."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tectum.core.device import default_dtype, from_numpy, highest_precision, resolve_device, resolve_dtype
from tectum.core.errors import InputError
from tectum.core.graph import Graph
from tectum.core.intervals import Intervals
from tectum.core.loops import Checkpoint, em, gibbs, minibatches, train
from tectum.core.random import isolated, seed_layers
from tectum.core.recording import Recording
from tectum.core.result import hash_tensors
from tectum.core.serialize import load
from tectum.core.spikes import Spikes


def test_devices_of_this_machine():
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device(torch.device("cpu")) == torch.device("cpu")
    assert isinstance(resolve_device(), torch.device)


@pytest.mark.parametrize("device", ["gpu", "cpuu", "", None, 3.5])
def test_names_that_are_no_device(device):
    with pytest.raises(InputError, match="device: expected 'auto', 'cpu', 'cuda', 'mps'"):
        resolve_device(device)


@pytest.mark.parametrize("device", ["cuda:77", "mps:3", "xpu:9"])
def test_devices_that_are_not_here(device):
    with pytest.raises(InputError, match="a device of this machine, got .*; use device='cpu'"):
        resolve_device(device)


def test_precision():
    assert resolve_dtype("float64") == torch.float64
    assert highest_precision(torch.device("cpu")) == torch.float64
    assert highest_precision(torch.device("mps")) == torch.float32
    for dtype in ("float16", torch.float32, None):
        with pytest.raises(InputError, match="dtype: expected float32 or float64"):
            resolve_dtype(dtype)


def test_arrays_are_shared_where_possible():
    values = np.zeros((3, 2))
    from_numpy(values.T).add_(1)
    assert values.sum() == 6
    assert from_numpy(values[::-1]).tolist() == values.tolist()
    assert from_numpy(np.array(1.5)).shape == ()
    field = np.zeros(3, dtype=[("a", "i1"), ("b", "<f4")])["b"]  # strides that torch cannot use
    assert from_numpy(field).tolist() == [0, 0, 0]
    with pytest.raises(InputError, match="demo: expected an array of numbers or booleans, got <U1"):
        from_numpy(np.array(["a"]), "demo")


def test_the_default_dtype_comes_back():
    with default_dtype(torch.float64):
        assert torch.zeros(1).dtype == torch.float64
    with pytest.raises(ZeroDivisionError), default_dtype(torch.float64):
        _ = 1 / 0
    assert torch.zeros(1).dtype == torch.float32


# On the simulated accelerator, which refuses to mix with the CPU


def on(device: torch.device) -> Recording:
    return Recording(
        data=torch.arange(40.0).reshape(20, 2).to(device),
        dims=("time", "unit"),
        rate=10.0,
        mask=torch.ones(20, 1, dtype=torch.bool),
        coords={"unit": {"id": torch.tensor([5, 6], device=device)}},
        intervals={"trials": Intervals.from_pairs([(0.5, 0.7), (1.0, 1.2)])},
    )


CUTS = {
    "isel": lambda r: r.isel(time=slice(2, 9, 2), unit=[1]),
    "mask of the device": lambda r: r.isel(time=r.data[:, 0] > 4),
    "sel": lambda r: r.sel(time=(0.3, 1.1), unit=6),
    "restrict": lambda r: r.restrict(Intervals.from_pairs([(0.2, 0.5), (0.9, 1.2)])),
    "epochs": lambda r: r.epochs("trials", (-0.2, 0.4)),
    "windows": lambda r: r.windows(0.5, hop=0.2),
    "units": lambda r: r.with_(units="mV").to_units("uV"),
    "irregular": lambda r: r.isel(time=[0, 2, 5]).sel(time=(0.1, 0.6)),
}


@pytest.mark.parametrize("cut", CUTS)
def test_cuts_agree_with_the_cpu(cut, accelerator):
    here, there = CUTS[cut](on(torch.device("cpu"))), CUTS[cut](on(accelerator))
    assert there.data.device.type == accelerator.type
    assert torch.equal(there.data.cpu(), here.data)
    assert torch.equal(there.valid().cpu(), here.valid())
    assert torch.equal(there.time, here.time)
    assert there.to_xarray().equals(here.to_xarray())


def test_containers_on_the_accelerator(accelerator, tmp_path):
    rec = on(accelerator)
    assert rec.mask.device.type == accelerator.type
    rec.save(tmp_path / "rec")
    assert torch.equal(load(tmp_path / "rec").data, rec.data.cpu())
    assert load(tmp_path / "rec", device=str(accelerator)).data.device.type == accelerator.type
    assert hash_tensors([rec.data]) == hash_tensors([rec.data.cpu()])
    weights = torch.eye(3, device=accelerator)[None]
    graph = Graph(weights=weights, layers=("gap",)).select(torch.tensor([2, 0], device=accelerator))
    assert graph.weights.device.type == accelerator.type
    times = torch.tensor([0.1, 0.9], device=accelerator, dtype=torch.float64)
    spikes = Spikes(times=times, unit=torch.tensor([0, 1], device=accelerator), n_units=2)
    assert spikes.bin(0.5, start=0.0, stop=1.0).data.tolist() == [[1, 0], [0, 1]]
    assert Intervals(start=times, stop=times + 1).contains(times + 0.1).tolist() == [True, True]
    assert torch.equal(rec.tensor("unit", "time", device="cpu"), rec.data.cpu().T)


def test_loops_on_the_accelerator(accelerator, tmp_path):
    def fit(path, last=None):
        def callback(step, terms):
            if step == last:
                raise KeyboardInterrupt

        with isolated(0):
            module = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).to(accelerator)
        x = torch.linspace(-1, 1, 16).reshape(8, 2).to(accelerator)
        out = train(
            module, lambda m, b: m(b[0]).square().mean(), minibatches(x, size=4), steps=6, callback=callback,
            optimizer=torch.optim.Adam(module.parameters()), val=lambda m: m(x).square().mean(), val_every=2, clip=1.0,
            checkpoint=Checkpoint(path=path, every=2),
        )  # fmt: skip
        return torch.cat([p.detach().cpu().flatten() for p in module.parameters()]), out.history["loss"]

    whole = fit(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", last=5)
    found = fit(tmp_path / "run")
    assert all(torch.equal(a, b) for a, b in zip(found, whole, strict=True))

    def step(x):
        return torch.sin(x), x.sum(1)

    start, checkpoint = torch.ones(3, 2, device=accelerator), Checkpoint(path=tmp_path / "em", every=2)
    em(step, start, max_iter=3, tol=-1.0, checkpoint=checkpoint)
    resumed = em(step, start, max_iter=6, tol=-1.0, checkpoint=checkpoint)
    assert resumed.state.device.type == accelerator.type
    assert torch.equal(resumed.history, em(step, start, max_iter=6, tol=-1.0).history)

    def sweep(x, g):
        return x / 2 + torch.randn(x.shape, generator=g, device=accelerator)

    options = {"draws": 4, "record": lambda x: {"x": x}, "device": accelerator}
    expected = gibbs(sweep, torch.zeros(3, device=accelerator), **options)
    assert expected.draws["x"].device.type == accelerator.type
    calls = []

    def dying(x, g):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return sweep(x, g)

    checkpoint = Checkpoint(path=tmp_path / "gibbs", every=2)
    with pytest.raises(KeyboardInterrupt):
        gibbs(dying, torch.zeros(3, device=accelerator), **options, checkpoint=checkpoint)
    found = gibbs(sweep, torch.zeros(3, device=accelerator), **options, checkpoint=checkpoint)
    assert torch.equal(found.draws["x"].cpu(), expected.draws["x"].cpu())
    read_back = gibbs(sweep, torch.zeros(3, device=accelerator), **options, checkpoint=checkpoint)
    assert read_back.draws["x"].device.type == accelerator.type


def test_layers_are_seeded_on_the_accelerator_too(accelerator):
    def draw():
        return torch.rand(3, device=accelerator).cpu()

    before = draw()
    with isolated(1, accelerator):
        inside = draw()
        seed_layers(1, accelerator)
        assert torch.equal(draw(), inside)
    with isolated(1, accelerator):
        assert torch.equal(draw(), inside)
    assert not torch.equal(draw(), before)
