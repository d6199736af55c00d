"""HMMGLM: an EM iteration of the Poisson hidden Markov model against dynamax and ssm, and of the switching GLM alone.

Run: ``python benchmarks/hmm_glm.py [--threads 1] [--out FILE]`` in an environment that has dynamax (and ssm); a peer
that cannot be imported is listed as not installed. No peer has the coupled emission, so the comparison is of the model
without couplings: same data, same starting parameters, flat priors on the rates, Dirichlet(2) on the transitions,
uniform first state; float64 everywhere. Both make the same number of iterations, and the log-likelihood each reaches is
printed beside its time: equal work, equal end. The script fails if a peer ends elsewhere than ours (relative difference
above 1e-6 for dynamax, whose model is the same, and 1e-3 for ssm). Times are the smallest of 32 iterations, the sides
in turn with eight running each, as EM runs; compilation excluded. ssm keeps its own (almost flat) priors and learns the
first state.

The second table is the time of one EM round of the switching GLM (published design: 20 units, 5 states; 1 start), and
of its smoother in the three forms. ``--online`` measures only `StateFilter`, one bin a push: 2,000 pushes of counts
that no push has seen (100 units, 5 states, 5 lags), checks of the counts included.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Case(NamedTuple):
    """Data and a start."""

    spikes: np.ndarray  #: (sequence, time, unit)
    rates: np.ndarray  #: (state, unit)
    transition: np.ndarray  #: (state, state)

    @property
    def name(self) -> str:
        """What the data are."""
        n_sequences, n_time, n_units = self.spikes.shape
        return f"{n_sequences} x {n_time:,} bins, {len(self.rates)} states, {n_units} units"


class Side(NamedTuple):
    """One implementation: a step that returns the log-likelihood before it, and how many times to run it."""

    name: str
    step: Callable[[], float]


ROUNDS, ITERATIONS = 4, 8
APART = {"dynamax": 1e-6, "ssm": 1e-3}  # largest relative difference of log-likelihoods after the same iterations


def make(n_sequences: int, n_time: int, n_states: int, n_units: int = 20, seed: int = 0) -> Case:
    """Draw counts of units whose rates switch, and a start."""
    rng = np.random.default_rng(seed)
    true = rng.gamma(2.0, 0.3, (n_states, n_units))
    state = np.cumsum(rng.random((n_sequences, n_time)) < 0.02, axis=1) % n_states
    spikes = rng.poisson(true[state]).astype(float)
    stay = 0.9 * np.eye(n_states) + 0.1 / n_states
    return Case(spikes, spikes.mean((0, 1)) * rng.uniform(0.7, 1.3, (n_states, n_units)), stay)


def ours(case: Case) -> Side:
    import torch

    from tectum.models.hmm_glm.emission import log_factorials
    from tectum.models.hmm_glm.glm import poisson_em_step

    spikes, rates, moves = (torch.from_numpy(v) for v in (case.spikes, case.rates, np.log(case.transition)))
    uniform = torch.full((len(rates),), 1 / len(rates), dtype=torch.float64).log()
    constant, state = log_factorials(spikes).sum(), [rates, moves]

    def step() -> float:
        rates, moves, _, posterior = poisson_em_step(*state, uniform, spikes)
        state[:] = [rates, moves]
        return float(posterior.log_likelihood.sum() - constant)

    return Side("tectum", step)


def dynamax(case: Case) -> Side:
    import jax
    import jax.numpy as jnp
    from dynamax.hidden_markov_model import PoissonHMM

    jax.config.update("jax_enable_x64", True)
    n_states, n_units = case.rates.shape
    hmm = PoissonHMM(n_states, n_units, transition_matrix_concentration=2.0, emission_prior_concentration=1.0,
                     emission_prior_rate=0.0)  # fmt: skip
    given = {"emission_rates": jnp.asarray(case.rates), "transition_matrix": jnp.asarray(case.transition)}
    uniform = jnp.full(n_states, 1 / n_states)
    params, props = hmm.initialize(jax.random.PRNGKey(0), initial_probs=uniform, **given)
    props.initial.probs.trainable = False
    spikes, state = jnp.asarray(case.spikes), [params, hmm.initialize_m_step_state(params, props)]

    @jax.jit
    def both(params: Any, m_state: Any) -> tuple[Any, Any, Any]:
        stats, likelihood = jax.vmap(lambda x: hmm.e_step(params, x))(spikes)
        params, m_state = hmm.m_step(params, props, stats, m_state)
        return params, m_state, likelihood.sum()

    jax.block_until_ready(both(*state))  # compile

    def step() -> float:
        params, m_state, likelihood = jax.block_until_ready(both(*state))
        state[:] = [params, m_state]
        return float(likelihood)

    return Side("dynamax", step)


def ssm(case: Case) -> Side:
    import ssm as package

    n_states, n_units = case.rates.shape
    hmm = package.HMM(n_states, n_units, observations="poisson")
    hmm.observations.log_lambdas = np.log(case.rates)
    hmm.transitions.log_Ps = np.log(case.transition)
    spikes = list(case.spikes.astype(int))
    hmm.fit(spikes, method="em", num_iters=0, initialize=False, verbose=0)  # compile

    def step() -> float:
        return float(hmm.fit(spikes, method="em", num_iters=1, initialize=False, verbose=0)[0])

    return Side("ssm", step)


def compare(case: Case, makers: list[Callable[[Case], Side]]) -> list[str]:
    """Run the sides in turn; one row a side."""
    rows, sides = [], []
    for maker in makers:
        try:
            sides.append(maker(case))
        except ImportError:
            rows.append(f"| {case.name} | {maker.__name__} | not installed | | |")
    times: dict[str, list[float]] = {side.name: [] for side in sides}
    reached: dict[str, float] = {}
    for _ in range(ROUNDS):
        for side in sides:
            for _ in range(ITERATIONS):
                began = time.perf_counter()
                reached[side.name] = side.step()
                times[side.name].append(time.perf_counter() - began)
    _check_same_end(reached)
    base = min(times["tectum"])
    for side in sides:
        best = min(times[side.name])
        rows.append(f"| {case.name} | {side.name} | {best * 1e3:.1f} | {best / base:.2f} | {reached[side.name]:.3f} |")
    return rows


def _check_same_end(reached: dict[str, float]) -> None:
    """Stop if a ratio would compare iterations that do not do the same."""
    mine = reached["tectum"]
    wrong = {name: value for name, value in reached.items() if abs(value - mine) > APART.get(name, 0.0) * abs(mine)}
    if wrong:
        raise SystemExit(f"log-likelihoods after {ROUNDS * ITERATIONS} iterations differ: tectum {mine:.6f}, {wrong}")


def own() -> list[str]:
    """Milliseconds of one round of the switching GLM and of its smoother in each form."""
    import torch

    from tectum.datasets.simulate.switching_glm import switching_glm
    from tectum.models.hmm_glm.basis import design_tensor, exponential_filter
    from tectum.models.hmm_glm.fitting import Family, Problem, Ridge, draw_starts, em_round, posterior_of
    from tectum.stats import hmm

    sim = switching_glm(n_sequences=30, random_state=0)
    spikes = sim.data.float()
    problem = Problem(design_tensor(spikes, exponential_filter(5).float()), spikes, None, None)
    family = Family("sigmoid", 20, None, False, False, 0.0, False)
    starts = draw_starts(problem, family, n_states=5, n_starts=1, seed=0)
    calls: dict[str, Callable[[], Any]] = {
        "EM round, 30 x 2,000 bins": lambda: em_round(problem, starts, family, Ridge(1.0), tol=0.0),
        "posterior of the states alone": lambda: posterior_of(problem, starts, family),
    }
    emission = torch.randn(30, 2000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moves, first = starts.log_transition[0], starts.log_initial[0]
    for form in ("auto", "parallel", "sequential"):
        calls[f"smoother, {form}"] = lambda form=form: hmm.smooth(first, moves, emission, form=form)
    rows = []
    for name, call in calls.items():
        spent = []
        for _ in range(4):
            began = time.perf_counter()
            call()
            spent.append(time.perf_counter() - began)
        rows.append(f"| {name} | {min(spent) * 1e3:.0f} |")
    return ["| tectum | ms |", "|---|---|", *rows]


def online() -> list[str]:
    """Microseconds of one bin through the live filter: median and 99th percentile."""
    import torch

    from tectum import HMMGLM
    from tectum.datasets import simulate
    from tectum.models.hmm_glm.online import StateFilter

    rows = ["| live filter | p50, us a bin | p99 |", "|---|---|---|"]
    for n_units in (20, 100):
        sim = simulate.switching_glm(n_units, 5, n_sequences=5, n_time=500, random_state=0)
        model = HMMGLM(n_states=5, link="softplus", prior="none", starts=1, max_iter=1, device="cpu").fit(sim.data[:1])
        live = StateFilter(model)
        spent = []
        for row in torch.cat([r.values for r in sim.data[1:]]).split(1):
            began = time.perf_counter()
            live.push(row)
            spent.append((time.perf_counter() - began) * 1e6)
        rows.append(f"| {n_units} units, 5 states | {np.median(spent):.0f} | {np.quantile(spent, 0.99):.0f} |")
    return rows


def offline(n: int) -> list[str]:
    """Both tables of EM."""
    lines = [f"{n} thread(s), float64", "", "| data | side | ms an iteration | ratio | log-likelihood |",
             "|---|---|---|---|---|"]  # fmt: skip
    for sizes in ((1, 10_000, 3), (30, 2000, 5)):
        lines += compare(make(*sizes), [ours, dynamax, ssm])
    return [*lines, "", *own()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1, help="threads of every side")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    parser.add_argument("--online", action="store_true", help="only the live filter")
    options = parser.parse_args()
    n = options.threads
    multi = "true" if n > 1 else "false"
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={multi} intra_op_parallelism_threads={n}"
    os.environ.setdefault("OMP_NUM_THREADS", str(n))
    import torch

    torch.set_num_threads(n)
    warnings.simplefilter("ignore")
    text = "\n".join(online() if options.online else offline(n))
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
