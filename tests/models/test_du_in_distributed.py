"""Two processes that are killed at random moments and started again end with the model of two left alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tectum.core.serialize import read

SCRIPT = """
import sys
import time
import warnings
from pathlib import Path
import torch
from tectum import DuIN
from tectum.core import distributed
from tectum.core.serialize import write
from tectum.datasets import simulate

warnings.simplefilter("ignore")
torch.set_num_threads(1)
distributed.setup("cpu")
folder, name = Path(sys.argv[1]), sys.argv[2]
rank, size = distributed.world()
assert size == 2, size
sim = simulate.seeg_words(n_words=2, n_windows=24, n_trials=10, n_tokens=2, n_channels=4)
model = DuIN(device="cpu", depth=1, decoder_depth=1, filters=8, features=4, sources=4, heads=2, head_width=8,
             hidden=16, n_codes=8, code_width=4, codes_epochs=30, masked_epochs=20, epochs=20, pretrain_batch=4,
             batch_size=4, pretrain_lr=3e-3, lr=3e-3, window=0.2, quantiser_warmup=0.4)
distributed.barrier()
(folder / f"{name}-{rank}.started").touch()
began = time.monotonic()
model.fit(sim.data.words, "word", unlabelled=[sim.data.unlabelled], checkpoint=folder / name)
result = model.result_
found = {"codes": result.codebook_weights, "masked": result.masked_weights, "classifier": result.weights,
         "history": result.history, "confusion": result.confusion, "seconds": time.monotonic() - began}
write(folder / f"{name}-{rank}.result", found)
"""

pytestmark = pytest.mark.distributed


class Pair:
    """Two processes of one run, started as a launcher of several machines would."""

    def __init__(self, folder: Path, name: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
        self.marks = [folder / f"{name}-{rank}.started" for rank in range(2)]
        for mark in self.marks:
            mark.unlink(missing_ok=True)
        self.each = [
            subprocess.Popen([sys.executable, str(folder / "script.py"), str(folder), name],
                             stderr=subprocess.PIPE, text=True, env={**os.environ, **common, "RANK": str(rank)})
            for rank in range(2)
        ]  # fmt: skip

    def kill(self, after: float, order: tuple[int, int]) -> bool:
        """Kill both ``after`` seconds of training, one right after the other; return whether they were at work."""
        while not all(mark.exists() for mark in self.marks):
            assert all(one.poll() is None for one in self.each), "a process ended before training"
            time.sleep(0.01)
        time.sleep(after)
        at_work = all(one.poll() is None for one in self.each)
        for k in order:
            self.each[k].kill()  # SIGKILL
        for one in self.each:
            one.communicate()
        return at_work

    def finish(self) -> None:
        """Wait until both have ended well."""
        for one in self.each:
            _, said = one.communicate(timeout=120)
            assert one.returncode == 0, said[-3000:]


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return torch.equal(a, b)


def test_killed_processes_resume_to_the_same_model(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    Pair(tmp_path, "whole").finish()
    wanted, draw, kills = read(tmp_path / "whole-0.result"), np.random.default_rng(0), 0
    for start in range(3):  # each goes on where the last was cut
        moment = float(draw.uniform(0.25, 0.6)) * wanted["seconds"]
        kills += Pair(tmp_path, "cut").kill(moment, (start % 2, 1 - start % 2))
        if not start:
            assert list(tmp_path.glob("cut-*.safetensors"))  # there is something to resume from
    assert kills
    Pair(tmp_path, "cut").finish()
    for rank in range(2):
        found = read(tmp_path / f"cut-{rank}.result")
        for name in ("codes", "masked", "classifier", "history", "confusion"):
            assert equal(found[name], wanted[name]), (rank, name)
