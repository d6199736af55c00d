"""Two processes: their codebook is that of one process with both batches, in every phase, and equal in both."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tectum.core.serialize import read

SCRIPT = '''
import sys
import warnings
import torch
from tectum import DuIN
from tectum.core import distributed
from tectum.core.random import isolated
from tectum.core.serialize import write
from tectum.datasets import simulate
from tectum.nn.vq import VectorQuantiser

PHASES = ["pass", "start", "move", "move", "revive", "move", "revive"]
SPREAD = [1, 1, 1, 1, 0, 0, 1]  # without spread all tokens are alike, and most codes unused


def batch(step):
    """Tokens (8, 5, 6) of a step: the first half is that of the first process."""
    draw = torch.Generator().manual_seed(step)
    noise = torch.randn(8, 5, 6, dtype=torch.float64, generator=draw)
    return SPREAD[step] * noise + torch.arange(8.0, dtype=torch.float64)[:, None, None] / 4


def quantise():
    """Codebook and use after every phase; picks lie in the half of the first process."""
    rank, size = distributed.world()
    with isolated(0):
        made = VectorQuantiser(6, n_codes=12, code_width=3, decay=0.7).double().train()
    found = {}
    for step, phase in enumerate(PHASES):
        x = batch(step).chunk(size)[rank]
        picks = torch.randperm(20, generator=torch.Generator().manual_seed(step))[:12]
        made(x, phase=phase, picks=picks if phase in ("start", "revive") else None)
        found[f"{step}.codebook"] = made.codebook.clone()
        found[f"{step}.usage"] = made.usage * size
    return found


def fit():
    """All stages of a small model, the quantiser kept in the classifier."""
    sim = simulate.seeg_words(n_words=2, n_windows=24, n_trials=10, n_tokens=2, n_channels=4)
    model = DuIN(device="cpu", depth=1, decoder_depth=1, filters=8, features=4, sources=4, heads=2, head_width=8,
                 hidden=16, n_codes=8, code_width=4, codes_epochs=6, masked_epochs=1, epochs=2, pretrain_batch=4,
                 batch_size=4, pretrain_lr=3e-3, lr=3e-3, window=0.2, quantiser_warmup=0.5, pretrain="quantised")
    result = model.fit(sim.data.words, "word", unlabelled=[sim.data.unlabelled]).result_
    kept = {f"stage.{k}": v for k, v in result.codebook_weights.items()}
    return {**kept, **{f"classifier.{k}": v for k, v in result.weights.items()}}


def run(folder, name):
    write(f"{folder}/{name}-{distributed.world().rank}", {"codes": quantise(), "fit": fit() if name == "two" else {}})


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    distributed.setup("cpu")
    assert distributed.world().size == 2, distributed.world()
    run(sys.argv[1], "two")
'''

pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    """Return what one process and each of two found."""
    folder = tmp_path_factory.mktemp("codes")
    script = folder / "script.py"
    script.write_text(SCRIPT)
    runpy.run_path(str(script))["run"](folder, "one")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
                           str(script), str(folder)], capture_output=True, text=True, timeout=150, check=False,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [read(Path(folder) / name) for name in ("one-0", "two-0", "two-1")]


def test_codebook_and_use_are_those_of_one_process(results: list[dict[str, dict[str, torch.Tensor]]]) -> None:
    one, *two = (r["codes"] for r in results)
    for rank in two:
        for key, value in one.items():
            torch.testing.assert_close(rank[key], value, rtol=0, atol=1e-12, msg=key)
    books = [one[f"{step}.codebook"] for step in range(7)]
    changed = [not torch.equal(a, b) for a, b in zip(books[:-1], books[1:], strict=True)]
    assert changed == [True] * 6  # every phase but the first moves it
    assert bool((one["5.usage"] == 0).any())  # there is something to revive


def test_both_processes_end_with_one_model(results: list[dict[str, dict[str, torch.Tensor]]]) -> None:
    _, first, second = (r["fit"] for r in results)
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key
    kept, trained = first["stage.quantiser.codebook"], first["classifier.quantiser.codebook"]
    assert torch.equal(kept, trained)  # the classifier does not move the codes
