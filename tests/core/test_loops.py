"""The three loops: results, stopping, precision, bad numbers, and runs that are killed and resumed."""

from __future__ import annotations

import random
import runpy
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from tectum.core.errors import InputError, LoadError, NonFiniteError
from tectum.core.loops import Checkpoint, em, evaluating, gibbs, minibatches, train, warmup_cosine
from tectum.core.random import isolated
from tectum.core.serialize import read, storable, write

X = torch.linspace(-1, 1, 64, dtype=torch.float64)[:, None]
Y = 3 * X - 1


def net(*, seed: int = 0, dropout: float = 0.0, dtype: torch.dtype = torch.float64) -> nn.Module:
    with isolated(seed):
        return nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 1)).to(dtype)


def mse(module: nn.Module, batch: tuple) -> Tensor:
    return (module(batch[0]) - batch[1]).square().mean()


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def fitted(module: nn.Module | None = None, *, steps: int = 60, rate: float = 0.05, batches=None, **options):
    module = module if module is not None else net()
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    batches = minibatches(X, Y, size=16) if batches is None else batches
    return module, train(module, mse, batches, steps=steps, optimizer=optimizer, **options), optimizer


# train


def test_train_converges_and_leaves_the_caller_alone():
    rng = torch.get_rng_state()
    module, out, _ = fitted(steps=300)
    assert out.history["loss"][-10:].mean() < 1e-2
    assert out.history["loss"].shape == (300,)
    assert out.history["loss"].dtype == torch.float64
    assert (out.steps, out.best_step, out.stopped_early) == (300, 300, False)
    assert not module.training
    assert torch.equal(torch.get_rng_state(), rng)


def test_train_works_where_the_caller_switched_gradients_off():
    expected = weights(fitted()[0])
    with torch.no_grad():
        assert torch.equal(weights(fitted(net())[0]), expected)
    assert torch.is_grad_enabled()


def test_terms_callback_and_schedule():
    rates, seen = [], []
    module = net()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)

    def loss_fn(m, batch):
        rates.append(optimizer.param_groups[0]["lr"])
        loss = mse(m, batch)
        return {"loss": loss, "double": 2 * loss, "constant": 1.0}

    def callback(step, terms):
        seen.append((step, terms["double"] / terms["loss"], terms["constant"]))

    schedule = warmup_cosine(10, warmup=2)
    out = train(
        module, loss_fn, lambda step: (X, Y), steps=10, optimizer=optimizer, schedule=schedule, callback=callback
    )
    assert rates == pytest.approx([0.5 * schedule(step) for step in range(10)])
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert seen == [(step + 1, pytest.approx(2.0), 1.0) for step in range(10)]
    torch.testing.assert_close(out.history["double"], 2 * out.history["loss"])


def test_best_weights_and_patience():
    module = net()
    values, kept = iter([3.0, 1.0, 2.0, 5.0, 1.0, 0.5]), []

    def val(m):
        assert not m.training
        assert not torch.is_grad_enabled()
        kept.append(weights(m).clone())
        return next(values)

    module, out, _ = fitted(module, steps=60, val=val, val_every=10, patience=3)
    assert out.history["val"].tolist() == [3.0, 1.0, 2.0, 5.0, 1.0]
    assert (out.steps, out.best_step, out.stopped_early) == (50, 20, True)
    assert torch.equal(weights(module), kept[1])


def test_clip_bounds_the_update():
    free, clipped = net(), net()
    for module, clip in ((free, None), (clipped, 1e-3)):
        train(
            module, mse, lambda step: (X, Y), steps=1, clip=clip, optimizer=torch.optim.SGD(module.parameters(), lr=1.0)
        )
    assert (weights(clipped) - weights(net())).norm() == pytest.approx(1e-3, rel=1e-6)
    assert (weights(free) - weights(net())).norm() > 0.1


def test_accumulation_equals_the_big_batch():
    big, small = net(), net()
    batches = {m: minibatches(X, Y, size=s, seed=3) for m, s in ((big, 32), (small, 8))}
    histories = []
    for module, accumulate in ((big, 1), (small, 4)):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.3)
        out = train(module, mse, batches[module], steps=6, optimizer=optimizer, accumulate=accumulate)
        histories.append(out.history["loss"])
    torch.testing.assert_close(weights(big), weights(small), rtol=0, atol=1e-12)
    torch.testing.assert_close(histories[0], histories[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_low_precision_runs_on_the_cpu(precision, dtype):
    module, seen = net(dtype=torch.float32), []

    def loss_fn(m, batch):
        out = m(batch[0])
        seen.append(out.dtype)
        return (out.float() - batch[1]).square().mean()

    optimizer = torch.optim.Adam(module.parameters(), lr=0.05)
    out = train(module, loss_fn, lambda s: (X.float(), Y.float()), steps=100, optimizer=optimizer, precision=precision)
    assert set(seen) == {dtype}
    assert weights(module).dtype == torch.float32
    assert out.history["loss"][-1] < 0.05 * out.history["loss"][0]


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
def test_dropout_depends_on_the_seed_only(seeds):
    torch.manual_seed(time.time_ns() % 2**31)
    runs = [weights(fitted(net(dropout=0.5), seed=s, batches=lambda step: (X, Y))[0]) for s in seeds]
    assert torch.equal(*runs) == (seeds[0] == seeds[1])


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_checkpoint(tmp_path):
    checkpoint = Checkpoint(path=tmp_path / "run", every=5)

    def loss_fn(m, batch):
        return mse(m, batch) * (float("nan") if m.calls >= 13 else 1.0)

    module = net()
    module.calls = 0

    def batches(step):
        module.calls = step
        return X, Y

    with pytest.raises(
        NonFiniteError, match="train: expected a finite loss, got .*nan.* at step 13; lower the learning"
    ):
        train(
            module, loss_fn, batches, steps=50, optimizer=torch.optim.Adam(module.parameters()), checkpoint=checkpoint
        )
    assert read(checkpoint.path)["place"][0] == 10
    assert bool(torch.isfinite(weights(module)).all())


def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
    module = nn.Linear(1, 1)
    checkpoint = Checkpoint(path=tmp_path / "run", every=1)
    optimizer = torch.optim.SGD(module.parameters(), lr=float("inf"))
    with pytest.raises(NonFiniteError, match="finite parameters, got NaN or infinity in 'weight' after step 1"):
        train(module, mse, lambda s: (X.float(), Y.float()), steps=5, optimizer=optimizer, checkpoint=checkpoint)
    assert not checkpoint.path.exists()


def interrupted(after: int):
    def callback(step, terms):
        if step == after:
            raise KeyboardInterrupt

    return callback


OPTIMIZERS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "momentum": lambda p: torch.optim.SGD([{"params": list(p), "lr": 0.02, "momentum": 0.9}]),
    "lbfgs-like": lambda p: torch.optim.Rprop(p),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("after", [3, 20, 27])
def test_an_interrupted_run_resumes_to_the_same_result(kind, after, tmp_path):
    def run(path, callback=None):
        module = net(dropout=0.3)
        checkpoint = None if path is None else Checkpoint(path=path, every=4, config={"kind": kind, "n": (1, 2.5)})
        out = train(
            module, mse, minibatches(X, Y, size=16), steps=30, optimizer=OPTIMIZERS[kind](module.parameters()),
            schedule=warmup_cosine(30), val=lambda m: mse(m, (X, Y)), val_every=3, checkpoint=checkpoint,
            callback=callback,
        )  # fmt: skip
        return weights(module), out

    expected, whole = run(None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", interrupted(after))
    found, out = run(tmp_path / "run")
    assert torch.equal(found, expected)
    assert all(torch.equal(out.history[k], whole.history[k]) for k in ("loss", "val"))
    assert out[1:] == whole[1:]
    again, _ = run(tmp_path / "run")  # a finished run is read, not repeated
    assert torch.equal(again, expected)


def test_a_run_that_ran_out_of_patience_stays_stopped(tmp_path):
    checkpoint = Checkpoint(path=tmp_path / "run", every=1)
    runs = [fitted(steps=60, val=lambda m: 1.0, val_every=10, patience=2, checkpoint=checkpoint) for _ in range(2)]
    assert [out.steps for _, out, _ in runs] == [30, 30]
    assert all(out.stopped_early for _, out, _ in runs)
    assert torch.equal(weights(runs[0][0]), weights(runs[1][0]))


def test_resuming_another_run_is_refused(tmp_path):
    path = tmp_path / "run"
    fitted(steps=4, checkpoint=Checkpoint(path=path, config={"rank": 1}))
    for options in (
        {"config": {"rank": 2}},
        {"config": {"rank": 1}, "seed": 5},
        {"config": {"rank": 1}, "accumulate": 2},
    ):
        config = options.pop("config")
        with pytest.raises(InputError, match="resume from .*run.safetensors.*delete this one"):
            fitted(steps=4, checkpoint=Checkpoint(path=path, config=config), **options)
    with pytest.raises(InputError, match="one of another run"):
        em(lambda x: (x, x), torch.zeros(()), max_iter=1, tol=0.0, checkpoint=Checkpoint(path=path, config={"rank": 1}))


def test_a_damaged_or_foreign_checkpoint(tmp_path):
    checkpoint = Checkpoint(path=tmp_path / "run")
    write(checkpoint.path, torch.zeros(3))
    with pytest.raises(LoadError, match="run.safetensors: expected a checkpoint, got Tensor"):
        fitted(steps=2, checkpoint=checkpoint)
    checkpoint.path.write_bytes(b"half a file")
    for loop in (
        lambda: fitted(steps=2, checkpoint=checkpoint),
        lambda: em(lambda x: (x, x), torch.zeros(()), max_iter=1, tol=0.0, checkpoint=checkpoint),
        lambda: gibbs(lambda x, g: x, torch.zeros(1), draws=1, record=lambda x: {"x": x}, checkpoint=checkpoint),
    ):
        with pytest.raises(LoadError, match="run.safetensors"):
            loop()


def test_training_longer_continues(tmp_path):
    checkpoint = Checkpoint(path=tmp_path / "run", every=10)
    fitted(steps=20, checkpoint=checkpoint)
    module, out, _ = fitted(steps=40, checkpoint=checkpoint)
    assert out.history["loss"].shape == (40,)
    assert torch.equal(weights(module), weights(fitted(steps=40)[0]))


def test_minibatches_visit_every_sample_once_an_epoch():
    data = torch.arange(12)
    for shuffle in (True, False):
        batches = minibatches(data, 10 * data, size=4, seed=1, shuffle=shuffle)
        epochs = [[batches(3 * e + k) for k in range(3)] for e in range(3)]
        for epoch in epochs:
            assert sorted(torch.cat([a for a, _ in epoch]).tolist()) == data.tolist()
            assert all(torch.equal(b, 10 * a) for a, b in epoch)
        assert (torch.equal(epochs[0][0][0], epochs[1][0][0])) == (not shuffle)
        assert torch.equal(batches(7)[0], minibatches(data, size=4, seed=1, shuffle=shuffle)(7)[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: minibatches(torch.zeros(3), torch.zeros(4), size=1), r"tensors of one length, got \[3, 4\]"),
        (lambda: minibatches(torch.zeros(3), size=4), "1 to 3 samples over all processes, got 4"),
        (lambda: minibatches(torch.zeros(3), size=0), "1 to 3 samples"),
        (lambda: minibatches(size=1), "tensors of one length"),
        (lambda: fitted(precision="int8"), r"train\(precision\): expected one of .*got 'int8'"),
        (lambda: fitted(accumulate=0), r"train\(accumulate\): expected an integer >= 1, got 0"),
        (lambda: fitted(val_every=0), r"train\(val_every\)"),
        (lambda: Checkpoint(path="x", every=0), r"Checkpoint\(every\): expected an integer >= 1"),
        (lambda: em(lambda x: (x, x), X, max_iter=1, tol=0, check_every=0), r"em\(check_every\)"),
        (lambda: gibbs(lambda x, g: x, X, draws=1, thin=0, record=dict), r"gibbs\(thin\)"),
        (lambda: gibbs(lambda x, g: x, X, draws=-1, record=dict), r"gibbs\(draws\): expected an integer >= 0"),
        (
            lambda: gibbs(lambda x, g: x, X, draws=1, record=lambda x: {"m": x.mean()}),
            r"gibbs \(record 'm'\): expected shape \(n_chains, ...\), got a scalar",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_loss_without_the_term_loss():
    module = net()
    with pytest.raises(InputError, match=r"a term 'loss', got \['total'\]"):
        train(module, lambda m, b: {"total": mse(m, b)}, lambda s: (X, Y), steps=1,
              optimizer=torch.optim.SGD(module.parameters(), lr=0.1))  # fmt: skip


def test_evaluating_gives_the_modes_back():
    module = net(dropout=0.5).train()
    module[3].eval()
    with evaluating(module):
        assert not any(part.training for part in module.modules())
    with pytest.raises(ZeroDivisionError), evaluating(module):
        _ = 1 / 0
    assert module[2].training
    assert not module[3].training


# em


def root(x: Tensor) -> tuple[Tensor, Tensor]:
    return (x + 2 / x) / 2, (x * x - 2).abs()


def test_em_finds_fixed_points_of_many_restarts_at_once():
    start = torch.tensor([0.1, 1.0, 50.0], dtype=torch.float64)
    out = em(root, start, max_iter=100, tol=1e-12)
    torch.testing.assert_close(out.state, torch.full((3,), 2**0.5, dtype=torch.float64))
    assert out.converged
    assert out.history.shape == (out.n_iter, 3)
    alone = [em(root, x, max_iter=100, tol=1e-12).n_iter for x in start]
    assert out.n_iter == max(alone)  # the slowest restart decides


def test_em_tolerance():
    def shrinking(state):
        n, _ = state
        return (n + 1, None), 100.0 + 0.5 ** n.double()

    out = em(shrinking, (torch.tensor(0), None), max_iter=60, tol=1e-4)  # |change| = 0.5 ** n <= 1e-4 * 100
    assert (out.n_iter, out.converged) == (8, True)
    assert em(shrinking, (torch.tensor(0), None), max_iter=60, tol=1e-4, min_iter=20).n_iter == 20
    assert em(shrinking, (torch.tensor(0), None), max_iter=60, tol=1e-4, check_every=5).n_iter == 10
    short = em(shrinking, (torch.tensor(0), None), max_iter=7, tol=1e-4, check_every=5)
    assert (short.n_iter, short.converged) == (7, False)
    assert em(shrinking, (torch.tensor(0), None), max_iter=8, tol=1e-4, check_every=5).converged
    none = em(shrinking, (torch.tensor(0), None), max_iter=0, tol=1e-4)
    assert (none.n_iter, none.converged, none.history.shape) == (0, False, (0,))


@pytest.mark.parametrize("check_every", [1, 7, 100])
def test_em_names_the_first_iteration_that_is_not_finite(check_every, tmp_path):
    def step(n):
        return n + 1, torch.where(n >= 12, torch.nan, n.double())

    checkpoint = Checkpoint(path=tmp_path / "run", every=5)
    with pytest.raises(NonFiniteError, match="em: expected a finite objective, got nan at iteration 13"):
        em(step, torch.tensor(0), max_iter=50, tol=0.0, check_every=check_every, min_iter=40, checkpoint=checkpoint)
    assert read(checkpoint.path)["step"] == 10


@storable
@dataclass(frozen=True)
class LoopsState:
    x: Tensor
    names: tuple


def test_em_resumes_states_of_every_shape(tmp_path):
    def step(state):
        x, _ = root(state["box"].x)
        return {"box": LoopsState(x, ("a",)), "list": [x, (x,)], 3: None}, x

    start = {"box": LoopsState(X[-9:, 0], ("a",)), "list": [X, (X,)], 3: None}
    whole = em(step, start, max_iter=5, tol=0.0)
    checkpoint = Checkpoint(path=tmp_path / "run", every=2)
    em(step, start, max_iter=3, tol=0.0, checkpoint=checkpoint)
    found = em(step, start, max_iter=5, tol=0.0, checkpoint=checkpoint)
    assert torch.equal(found.state["box"].x, whole.state["box"].x)
    assert type(found.state["list"][1]) is tuple
    assert torch.equal(found.history, whole.history)
    assert found.n_iter == 5


def test_em_does_not_go_on_after_it_converged(tmp_path):
    checkpoint = Checkpoint(path=tmp_path / "run")
    first = em(root, torch.tensor(1.0, dtype=torch.float64), max_iter=50, tol=1e-9, checkpoint=checkpoint)
    calls = []
    again = em(lambda x: calls.append(x), first.state, max_iter=50, tol=1e-9, checkpoint=checkpoint)
    assert calls == []
    assert torch.equal(again.state, first.state)
    assert (again.n_iter, again.converged) == (first.n_iter, True)


# gibbs


def walk(x: Tensor, g: torch.Generator) -> Tensor:
    return 0.5 * x + torch.randn(x.shape, generator=g, dtype=x.dtype)


def test_gibbs_keeps_the_draws_asked_for():
    sweeps = []

    def step(x, g):
        sweeps.append(1)
        return x + 1

    out = gibbs(step, torch.zeros(3, 2), draws=4, burn=5, thin=3, record=lambda x: {"x": x, "n": x[:, 0].long()})
    assert len(sweeps) == 5 + 4 * 3
    assert out.draws["x"].shape == (3, 4, 2)
    assert out.draws["n"][1].tolist() == [8, 11, 14, 17]
    assert out.draws["n"].dtype == torch.int64
    assert gibbs(step, torch.zeros(3), draws=0, burn=2, record=dict).draws == {}


def test_gibbs_samples_the_right_law_and_follows_its_seed():
    runs = [
        gibbs(walk, torch.zeros(500), draws=40, burn=20, record=lambda x: {"x": x}, seed=s).draws["x"]
        for s in (1, 1, 2)
    ]
    assert runs[0].var().item() == pytest.approx(4 / 3, rel=0.05)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_gibbs_names_the_first_draw_that_is_not_finite(tmp_path):
    def step(n, g):
        return n + 1

    def record(n):
        return {"ok": n, "bad": torch.where(n > 20, torch.inf, n.double())}

    checkpoint = Checkpoint(path=tmp_path / "run", every=7)
    for given in (None, checkpoint):
        with pytest.raises(
            NonFiniteError, match="gibbs: expected finite draws, got NaN or infinity in 'bad' at sweep 22"
        ):
            gibbs(step, torch.zeros(2), draws=20, burn=10, thin=2, record=record, checkpoint=given)
    assert read(checkpoint.path)["step"] == 21


def test_gibbs_resumes(tmp_path):
    options = {"draws": 10, "burn": 4, "thin": 2, "record": lambda x: {"x": x}}
    whole = gibbs(walk, torch.zeros(2), **options)
    checkpoint = Checkpoint(path=tmp_path / "run", every=3)
    calls = []

    def dying(x, g):
        calls.append(1)
        if len(calls) == 14:
            raise KeyboardInterrupt
        return walk(x, g)

    with pytest.raises(KeyboardInterrupt):
        gibbs(dying, torch.zeros(2), **options, checkpoint=checkpoint)
    assert torch.equal(gibbs(walk, torch.zeros(2), **options, checkpoint=checkpoint).draws["x"], whole.draws["x"])
    with pytest.raises(InputError, match="one of another run"):
        gibbs(walk, torch.zeros(2), **{**options, "draws": 11}, checkpoint=checkpoint)


# Killed at any moment

SCRIPT = """
import sys, time
import torch
from torch import nn
from tectum.core.loops import Checkpoint, em, gibbs, minibatches, train
from tectum.core.serialize import write

torch.set_num_threads(1)


def run(folder, pause):
    def at(name):
        print(name, flush=True)
        return Checkpoint(path=f"{folder}/{name}", every=3, config={"name": name}) if folder else None

    def batches(step):
        time.sleep(pause)
        return shuffled(step)

    def fixed_point(state):
        time.sleep(pause)
        return {"x": torch.sin(state["x"])}, state["x"].sum(1)

    def sweep(x, g):
        time.sleep(pause)
        return 0.9 * x + torch.randn(x.shape, generator=g)

    torch.manual_seed(0)
    x = torch.randn(64, 4)
    shuffled = minibatches(x, size=8)
    module = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.5), nn.Linear(16, 4))
    out = train(module, lambda m, b: (m(b[0]) - b[0]).square().mean(), batches, steps=100,
                optimizer=torch.optim.Adam(module.parameters()), val=lambda m: m(x).square().mean(), val_every=7,
                checkpoint=at("train"))
    fixed = em(fixed_point, {"x": x[:3]}, max_iter=100, tol=0.0, checkpoint=at("em"))
    chain = gibbs(sweep, torch.zeros(2), draws=40, burn=20, thin=2, record=lambda x: {"x": x}, checkpoint=at("gibbs"))
    return {"module": module.state_dict(), "history": out.history, "fixed": fixed.state, "objective": fixed.history,
            "draws": chain.draws, "last": chain.state}


if __name__ == "__main__":
    write(sys.argv[1] + "/result", run(sys.argv[1], 0.004))
    print("done", flush=True)
"""


def leaves(tree) -> list[Tensor]:
    return [tree] if isinstance(tree, Tensor) else [leaf for value in tree.values() for leaf in leaves(value)]


@pytest.mark.slow
def test_killed_at_random_moments_the_result_is_the_same_to_the_last_bit(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    expected = runpy.run_path(str(script))["run"](None, 0.0)
    moments, killed = random.Random(time.time_ns()), []
    for stage in ("train", "em", "gibbs", None):
        with subprocess.Popen([sys.executable, script, tmp_path], stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout:
                if line.strip() == stage:
                    delay = moments.uniform(0.02, 0.35)
                    time.sleep(delay)
                    process.send_signal(signal.SIGKILL)
                    killed.append((stage, round(delay, 3)))
        assert process.returncode == (0 if stage is None else -signal.SIGKILL), killed
    found = read(tmp_path / "result")
    assert all(torch.equal(a, b) for a, b in zip(leaves(found), leaves(expected), strict=True)), killed
