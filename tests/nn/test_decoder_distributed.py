"""A decoder of the house in two processes is the one of a single process with batches twice as large."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tectum.core.serialize import read

SCRIPT = """
import sys
import torch
from tectum import LightCNN, Recording
from tectum.core import distributed
from tectum.core.random import isolated
from tectum.core.serialize import write


def run(folder, name):
    size = distributed.world().size
    with isolated(7):
        x = torch.randn(60, 3, 40)
    x[1::2, 0] *= 2
    coords = {"channel": {"name": list("abc")}, "trial": {"label": ["left", "right"] * 30}}
    rec = Recording(data=x, dims=("trial", "channel", "time"), rate=20.0, units="uV", coords=coords)
    found = {}
    for batch, accumulate in ((8, 1), (4, 2)):
        model = LightCNN(epochs=4, batch_size=batch // size, accumulate=accumulate, kernel=5, lr=1e-2, dropout=0.0,
                         device="cpu", dtype="float64").fit(rec)
        found[f"{batch}.proba"], found[f"{batch}.validation"] = model.predict_proba(rec), model.result_.val_loss
    write(f"{folder}/{name}-{distributed.world().rank}", found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    distributed.setup("cpu")
    assert distributed.world().size == 2, distributed.world()
    run(sys.argv[1], "two")
"""


@pytest.mark.distributed
def test_two_processes_give_the_decoder_of_one(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    runpy.run_path(str(script))["run"](tmp_path, "one")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                           str(script), str(tmp_path)], capture_output=True, text=True, timeout=150, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    one, first, second = (read(tmp_path / name) for name in ("one-0", "two-0", "two-1"))
    for key, value in one.items():
        torch.testing.assert_close(first[key], value, rtol=0, atol=1e-9, msg=key)
        assert torch.equal(first[key], second[key]), key
    torch.testing.assert_close(one["8.proba"], one["4.proba"], rtol=0, atol=1e-9)
    assert float((one["8.proba"] - 0.5).abs().max()) > 0.02  # it learnt something
