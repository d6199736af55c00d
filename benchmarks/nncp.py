"""Non-negative CP of a dense tensor: tectum against tensorly, milliseconds an outer iteration and the error reached.

Run ``python benchmarks/nncp.py``.  One start, the same for all; 150 x 150 x 600, rank 10; no early stop.  Tectum makes
three inner passes a mode, tensorly's HALS up to five (``exact=False``, its default), its multiplicative update one.
Times are the smallest of six runs, which the methods make in turn: processor time (all threads) and wall time.
Tectum's include reading and checking the input, tensorly's do not.  The error is the explicit residual in float64 of
what each returns.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

import numpy as np
import tensorly as tl
import torch
from tensorly.cp_tensor import CPTensor
from tensorly.decomposition import non_negative_parafac, non_negative_parafac_hals
from threadpoolctl import threadpool_limits

from tectum.stats.tensors import CP, cp_reconstruct, from_tensorly, nncp

SHAPE, RANK, ITERATIONS, RUNS = (150, 150, 600), 10, 20, 6


def make(seed: int = 0) -> tuple[np.ndarray, CP]:
    """Draw a tensor of sparse gamma factors with 10 % noise, and one start."""
    rng = np.random.default_rng(seed)
    factors = [rng.gamma(1.0, size=(n, RANK)) * (rng.random((n, RANK)) < 0.5) for n in SHAPE]
    clean = np.einsum("tr,wr,pr->twp", *factors, optimize=True)
    noise = rng.standard_normal(SHAPE)
    tensor = np.maximum(clean + 0.1 * np.linalg.norm(clean) / np.linalg.norm(noise) * noise, 0)
    start = [rng.random((n, RANK)) for n in SHAPE]
    scale = (np.linalg.norm(tensor) / np.linalg.norm(np.einsum("tr,wr,pr->twp", *start, optimize=True))) ** (1 / 3)
    weights = torch.ones(RANK, dtype=torch.float64)
    return tensor, CP(weights, tuple(torch.tensor(f * scale) for f in start))


def ours(tensor: np.ndarray, start: CP, dtype: torch.dtype) -> Callable[[], tuple[CP, float]]:
    """Tectum's solver with a fixed number of sweeps; also gives its own report of the error."""
    data = torch.tensor(tensor, dtype=dtype)

    def run() -> tuple[CP, float]:
        fit = nncp(data, RANK, init=start, tol=0.0, min_iter=ITERATIONS, max_iter=ITERATIONS)
        return fit.best, float(fit.error[0])

    return run


def theirs(tensor: np.ndarray, start: CP, backend: str, dtype: str, method: Callable) -> Callable[[], tuple[CP, float]]:
    """Tensorly's solver with a fixed number of iterations."""

    def convert(array: np.ndarray) -> np.ndarray | torch.Tensor:
        return array.astype(dtype) if backend == "numpy" else torch.tensor(array, dtype=getattr(torch, dtype))

    def run() -> tuple[CP, float]:
        with tl.backend_context(backend):
            data, *parts = (convert(np.array(part)) for part in (tensor, start.weights, *start.factors))
            begun = clocks()
            model, errors = method(
                data, RANK, n_iter_max=ITERATIONS, init=CPTensor((parts[0], parts[1:])), tol=-1.0, return_errors=True
            )
            run.spent = clocks() - begun
            return from_tensorly(model), float(errors[-1])

    return run


def clocks() -> np.ndarray:
    """Processor time and wall time now, in seconds."""
    return np.array([time.process_time(), time.perf_counter()])


def spend(run: Callable[[], tuple[CP, float]]) -> tuple[np.ndarray, CP, float]:
    """Time one run, without the conversion of the input where the method reports its own clocks."""
    begun = clocks()
    model, reported = run()
    whole = clocks() - begun
    return getattr(run, "spent", whole), model, reported


def main() -> None:
    warnings.simplefilter("ignore")
    tensor, start = make()
    methods = {
        "tectum HALS float32": ours(tensor, start, torch.float32),
        "tectum HALS float64": ours(tensor, start, torch.float64),
    }
    peers = {"HALS": non_negative_parafac_hals, "MU": non_negative_parafac}
    for name in (
        "numpy HALS float64",
        "numpy HALS float32",
        "numpy MU float64",
        "pytorch HALS float32",
        "pytorch MU float32",
    ):
        backend, method, dtype = name.split()
        methods[f"tensorly {name}"] = theirs(tensor, start, backend, dtype, peers[method])
    print(f"{SHAPE}, rank {RANK}, {ITERATIONS} iterations; ratios to 'tectum HALS float32'\n")
    print("| method | threads | CPU ms/iter | CPU ratio | wall ms/iter | wall ratio | error | reported error |")
    print("|---|---|---|---|---|---|---|---|")
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            runs = [{name: spend(run) for name, run in methods.items()} for _ in range(RUNS)]
        report(tensor, threads, runs)


def report(tensor: np.ndarray, threads: int, runs: list[dict[str, tuple[np.ndarray, CP, float]]]) -> None:
    """Print the rows of one number of threads."""
    spent = {name: np.min([run[name][0] for run in runs], axis=0) * 1e3 / ITERATIONS for name in runs[0]}
    for name, (_, model, reported) in runs[0].items():
        exact = CP(model.weights.double(), tuple(f.double() for f in model.factors))
        error = np.linalg.norm(tensor - cp_reconstruct(exact).numpy()) / np.linalg.norm(tensor)
        (cpu, wall), ratio = spent[name], spent[name] / spent["tectum HALS float32"]
        times = f"{cpu:.1f} | {ratio[0]:.1f} | {wall:.1f} | {ratio[1]:.1f}"
        print(f"| {name} | {threads} | {times} | {error:.5f} | {reported:.5f} |")


if __name__ == "__main__":
    main()
