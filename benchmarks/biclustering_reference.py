"""Watch the public reference of bi-clustering run; ``biclustering.py --reference`` starts this in a Python of yours.

Run: ``PYTHON benchmarks/biclustering_reference.py CHECKOUT OUT.npz --seconds 900 --iterations 1000``

CHECKOUT is a clone of weigcdsb/bi_clustering (version of December 2023) whose ``ar_hsmm`` has been built in place;
PYTHON can import what it needs (numpy < 1.24, scipy, statsmodels, matplotlib, IPython, tqdm, polyagamma, pyhmc, pyhsmm,
pybasicbayes). Its script ``run_simulation_NB.py`` is executed as it stands, on the data it simulates and with its
schedule of 10 000 iterations (about 4 GB are allocated for them). Only the progress bar that it imports is replaced: by
one that notes time, CPU time and partition after every iteration and ends the run at the bound.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SCRIPT = "run_simulation_NB.py"


class Enough(Exception):
    """The bound is reached."""


def watched(space: dict[str, Any], seconds: float, iterations: int, notes: dict[str, list[Any]]) -> types.ModuleType:
    """Make a module ``tqdm`` that notes every iteration."""

    def tqdm(steps: Iterable[int], **_: object) -> Iterator[int]:
        began, spent = time.perf_counter(), time.process_time()
        for n, step in enumerate(steps):
            yield step
            notes["seconds"].append(time.perf_counter() - began)
            notes["cpu"].append(time.process_time() - spent)
            notes["labels"].append(np.array(space["Z_fit"][step], copy=True))
            if n + 1 >= iterations or notes["seconds"][-1] >= seconds:
                raise Enough

    module: Any = types.ModuleType("tqdm")
    module.tqdm = tqdm
    return module  # type: ignore[no-any-return]


def main() -> None:
    """Run the script up to the bound and save what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--iterations", type=int, default=1000)
    options = parser.parse_args()
    os.environ["MPLBACKEND"] = "Agg"
    sys.path[:0] = [str(options.checkout), str(options.checkout / "ar_hsmm")]
    space: dict[str, Any] = {"__name__": "__main__"}
    notes: dict[str, list[Any]] = {"seconds": [], "cpu": [], "labels": []}
    sys.modules["tqdm"] = watched(space, options.seconds, options.iterations, notes)
    script = options.checkout / SCRIPT
    with contextlib.suppress(Enough):
        exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), space)  # noqa: S102 - the user's script
    np.savez(
        options.out, seconds=np.array(notes["seconds"]), cpu=np.array(notes["cpu"]), labels=np.array(notes["labels"]),
        counts=space["y"], truth=space["lab_neuron"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
