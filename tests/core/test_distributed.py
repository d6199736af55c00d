"""Two processes through torchrun and Lightning Fabric give what one process gives."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import time

import pytest
import torch

from tectum.core import distributed
from tectum.core.errors import InputError
from tectum.core.serialize import read

SCRIPT = '''
import sys
import torch
from torch import nn
from tectum.core import distributed
from tectum.core.loops import Checkpoint, minibatches, train
from tectum.core.random import isolated
from tectum.core.serialize import write

STEPS = 10


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def net(dtype):
    with isolated(0):
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)


class Stop(Exception):
    pass


def stop(step, terms):
    if step == 7:
        raise Stop


def fit(dtype, checkpoint=None, callback=None):
    """Train on batches of 16 samples, shared by the processes there are."""
    module, x = net(dtype), torch.linspace(-1, 1, 96, dtype=dtype).reshape(32, 3)
    train(module, lambda m, b: (m(b[0]) - b[0].sum(1, keepdim=True).sin()).square().mean(),
          minibatches(x, size=16 // distributed.world().size, seed=4), steps=STEPS, clip=1.0, callback=callback,
          optimizer=torch.optim.Adam(module.parameters(), lr=0.01), val=lambda m: m(x).square().mean(), val_every=STEPS,
          checkpoint=None if checkpoint is None else Checkpoint(path=checkpoint, every=5))
    return weights(module)


class Subjects(nn.Module):
    """A shared layer and one head a subject."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(2, 4)
        self.heads = nn.ModuleList(nn.Linear(4, 1) for _ in range(3))

    def forward(self, x, subject):
        return self.heads[subject](self.shared(x).tanh())


def fit_subjects():
    """Each global step holds subjects 0 and 1: one in each process, or accumulated in one; nobody holds subject 2."""
    rank, size = distributed.world()
    with isolated(1):
        module = Subjects().double()
    x = torch.linspace(0, 1, 16, dtype=torch.float64).reshape(8, 2)
    batches = (lambda step: (x + rank, rank)) if size == 2 else (lambda step: (x + step % 2, step % 2))
    train(module, lambda m, b: m(*b).square().mean(), batches, steps=STEPS, accumulate=2 // size,
          optimizer=torch.optim.SGD(module.parameters(), lr=0.1))
    return weights(module)


def fit_statistics(path, steps=4):
    """Without validation: running statistics of both processes, of a run that saves at its end."""
    with isolated(2):
        module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    x = torch.linspace(-1, 1, 96, dtype=torch.float64).reshape(32, 3)
    train(module, lambda m, b: m(b[0]).square().mean(), minibatches(x, size=16 // distributed.world().size, seed=4),
          steps=steps, optimizer=torch.optim.SGD(module.parameters(), lr=0.1),
          checkpoint=Checkpoint(path=path, every=3))
    return torch.cat([b.double().flatten() for b in module.buffers()])


def run(folder, name):
    found = {"statistics": fit_statistics(f"{folder}/statistics-{name}"),
             "again": fit_statistics(f"{folder}/statistics-{name}"),
             "double": fit(torch.float64), "single": fit(torch.float32), "subjects": fit_subjects()}
    try:
        fit(torch.float64, f"{folder}/half-{name}", stop)  # leaves the checkpoint of step 5
    except Stop:
        pass
    if name != "one":
        found["resumed"] = fit(torch.float64, f"{folder}/half-one")
    rank = distributed.world().rank
    write(f"{folder}/{name}-{rank}", found)
    return found


def fail(folder, name):
    def batches(step):
        if step == 3 and distributed.world().rank == 1:
            raise RuntimeError("rank 1 is out of memory")
        return torch.ones(4, 3)

    module = net(torch.float32)
    train(module, lambda m, b: m(b).mean(), batches, steps=1000, optimizer=torch.optim.SGD(module.parameters(), lr=0.1))


if __name__ == "__main__":
    torch.set_num_threads(1)
    _, call, folder, name = sys.argv
    if name == "fabric":
        from lightning_fabric import Fabric
        Fabric(accelerator="cpu", devices=2, strategy="ddp").launch()
    else:
        distributed.setup("cpu")
    assert distributed.world().size == 2, distributed.world()
    {"run": run, "fail": fail}[call](folder, name)
'''

pytestmark = pytest.mark.distributed
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Give a folder with the script and the results of one process."""
    place = tmp_path_factory.mktemp("distributed")
    (place / "script.py").write_text(SCRIPT)
    runpy.run_path(str(place / "script.py"))["run"](place, "one")
    return place


def start(*command: object) -> subprocess.CompletedProcess:
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    text = [sys.executable, *map(str, command)]
    return subprocess.run(text, capture_output=True, text=True, timeout=150, check=False, env={**os.environ, **quiet})


def agree(folder, name: str) -> None:
    one = read(folder / "one-0")
    for rank in (0, 1):
        many = read(folder / f"{name}-{rank}")
        for key in ("double", "subjects"):
            torch.testing.assert_close(many[key], one[key], rtol=0, atol=1e-10)
        torch.testing.assert_close(many["single"], one["single"], rtol=0, atol=1e-5)
        torch.testing.assert_close(many["resumed"], one["double"], rtol=0, atol=1e-10)
    first, second = (read(folder / f"{name}-{rank}") for rank in (0, 1))
    for found in (first["again"], second["statistics"], second["again"]):  # "again" is resumed behind its end
        assert torch.equal(found, first["statistics"])


def test_torchrun_gives_the_parameters_of_one_process_with_the_double_batch(folder):
    done = start(*TORCHRUN, folder / "script.py", "run", folder, "two")
    assert done.returncode == 0, done.stderr[-3000:]
    agree(folder, "two")
    # and what two processes saved half-way goes on in one
    fit = runpy.run_path(str(folder / "script.py"))["fit"]
    found = fit(torch.float64, checkpoint=folder / "half-two")
    torch.testing.assert_close(found, read(folder / "one-0")["double"], rtol=0, atol=1e-10)


def test_lightning_fabric_launches_as_well(folder):
    done = start(folder / "script.py", "run", folder, "fabric")
    assert done.returncode == 0, done.stderr[-3000:]
    agree(folder, "fabric")


def test_one_process_that_raises_ends_all(folder):
    began = time.monotonic()
    done = start(*TORCHRUN, folder / "script.py", "fail", folder, "two")
    assert done.returncode != 0
    assert "rank 1 is out of memory" in done.stderr
    assert time.monotonic() - began < 30 + 15  # 30 s, and the start of the processes


def test_a_world_size_without_a_rank(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match="distributed.setup: expected RANK beside WORLD_SIZE.*start with torchrun"):
        distributed.setup("cpu")


def test_one_process_is_a_world_of_its_own(monkeypatch):
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.setup("cpu") == torch.device("cpu")
    assert distributed.world() == (0, 1)
    layer = torch.nn.Linear(1, 1)
    assert distributed.wrap(layer) is layer
    value = torch.ones(2)
    assert distributed.mean(value) is value
    distributed.barrier()
