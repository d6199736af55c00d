"""The simulated accelerator: ways in, views, generators, refusals, waits; and nothing changes for the CPU."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from support import simulated_accelerator as module
from support.simulated_accelerator import DeviceGenerator, count_syncs, simulated_accelerator

CPU = torch.device("cpu")


def _matrix(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*(shape or (4, 4)), generator=torch.Generator().manual_seed(seed))


def _positive(n: int = 4) -> Tensor:
    return _matrix(n, n) @ _matrix(n, n).T + n * torch.eye(n)


def test_every_way_of_making_a_tensor(accelerator: torch.device) -> None:
    array = np.arange(3.0)
    made = [
        torch.tensor([1, 2], device=accelerator),
        torch.tensor([1, 2], device="simgpu"),
        torch.as_tensor(array, device="simgpu"),
        torch.from_numpy(array).to(accelerator),
        torch.zeros(2, device="simgpu:0"),
        torch.ones(2).to("simgpu"),
        torch.arange(3, device=accelerator),
        torch.linspace(0, 1, 3, device=accelerator),
        torch.eye(2, device=accelerator),
        torch.full((2,), 7.0, device=accelerator),
        torch.empty(0, device=accelerator),
        torch.ones(2).to(torch.zeros(1, device="simgpu")),
        torch.ones(2, device=accelerator).new_zeros(3),
        torch.zeros_like(torch.ones(2), device=accelerator),
        torch.tril_indices(3, 3, device=accelerator),
        torch.randperm(4, device=accelerator),
        torch.zeros(2, device="simgpu", pin_memory=True),
    ]
    assert {t.device for t in made} == {accelerator}
    assert {type(t) for t in made} == {Tensor}
    assert made[0].tolist() == [1, 2]
    assert made[3].dtype == torch.float64


def test_the_device_is_known_to_torch(accelerator: torch.device) -> None:
    assert torch.device("simgpu").type == accelerator.type == "simgpu"
    assert torch.get_device_module("simgpu").device_count() == 1
    with torch.device("simgpu"):
        assert torch.ones(2).device == accelerator


def test_default_device_inside_a_with_block_makes_modules(accelerator: torch.device) -> None:
    with torch.device(accelerator):
        assert nn.Linear(2, 2).weight.device == accelerator


def test_copies_cross_between_devices_and_dtypes(accelerator: torch.device) -> None:
    x, buffer = _matrix(), torch.zeros(4, 4, dtype=torch.float64, device=accelerator)
    buffer.copy_(x)
    back = torch.empty(4, 4)
    back.copy_(buffer)
    assert torch.equal(back, x)
    moved = x.to(accelerator)
    assert moved.to(accelerator) is moved
    assert torch.equal(moved.to("cpu", torch.float64), x.double())
    moved[0].zero_()
    assert x[0].abs().sum() > 0, "moving must copy"
    moved[1] = torch.ones(4)  # as on CUDA, assigning a whole row copies across
    assert moved[1].tolist() == [1, 1, 1, 1]


def test_views_share_memory_and_offsets(accelerator: torch.device) -> None:
    x = torch.zeros(3, 4, device=accelerator)
    x[1, 1:].add_(2)
    x.t()[0].fill_(5)
    x.view(-1)[-1] = 9
    assert x.tolist() == [[5, 0, 0, 0], [5, 2, 2, 2], [5, 0, 0, 9]]
    assert x[1, 2:].storage_offset() == 6
    assert x[1].untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


def test_views_that_change_shape_in_place(accelerator: torch.device) -> None:
    x = torch.arange(6.0, device=accelerator).reshape(1, 2, 3)
    assert x.squeeze_().shape == (2, 3)
    assert x.unsqueeze_(1).shape == (2, 1, 3)
    assert x.transpose_(0, 2).shape == (3, 1, 2)
    assert x[:, 0].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_resizing_follows_or_is_refused(accelerator: torch.device) -> None:
    x = torch.arange(6.0, device=accelerator)
    assert x.resize_(2, 2).tolist() == [[0, 1], [2, 3]]
    with pytest.raises(RuntimeError, match="not resizable"):
        x.resize_(8, 8)


def test_indices_may_lie_on_the_cpu(accelerator: torch.device) -> None:
    x, index, mask = _matrix(), torch.tensor([2, 0]), _matrix() > 0
    expected, moved = x.clone(), x.to(accelerator)
    assert torch.equal(moved[index].cpu(), x[index])
    assert torch.equal(moved[mask].cpu(), x[mask])
    assert torch.equal(moved[:, index.to(accelerator)].cpu(), x[:, index])
    for target in (expected, moved):
        target[index] = 1.0
        target[mask.to(target.device)] = torch.tensor(2.0)
        target[mask] *= 2
        target[0, 1] = -3
    assert torch.equal(moved.cpu(), expected)


def test_checkpointed_blocks_redraw_the_same_dropout(accelerator: torch.device) -> None:
    def run(checkpointed: bool) -> list[Tensor]:
        torch.manual_seed(0)
        net, x = nn.Linear(4, 4).to(accelerator), _matrix(8, 4).to(accelerator).requires_grad_()

        def block(a: Tensor) -> Tensor:
            return F.dropout(net(a).tanh(), 0.5)

        out = checkpoint(block, x, use_reentrant=False) if checkpointed else block(x)
        out.square().sum().backward()
        assert x.grad is not None
        return [out.detach(), x.grad]

    for plain, rerun in zip(run(False), run(True), strict=True):
        assert torch.equal(plain, rerun)


def test_moving_a_module_keeps_parameters_and_ties(accelerator: torch.device) -> None:
    net = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    net[1].weight = net[0].weight
    before = net[0].weight
    net.to(accelerator)
    assert net[0].weight is net[1].weight is before
    assert before.device == accelerator
    assert net.cpu()[0].weight.device == CPU


def test_state_goes_to_the_cpu_and_back(accelerator: torch.device, tmp_path: Path) -> None:
    net = nn.Linear(3, 2).to(accelerator)
    save_file({name: t.cpu() for name, t in net.state_dict().items()}, tmp_path / "net.safetensors")
    other = nn.Linear(3, 2).to(accelerator)
    other.load_state_dict(load_file(tmp_path / "net.safetensors"))
    assert other.weight.device == accelerator
    assert torch.equal(other.weight, net.weight)


def test_deep_copies_stay_on_the_device_and_are_apart(accelerator: torch.device) -> None:
    net = nn.Linear(2, 2).to(accelerator)
    twin, leaf = copy.deepcopy(net), torch.ones(2, device=accelerator)
    other = copy.deepcopy(leaf)
    leaf.zero_()
    with torch.no_grad():
        net.weight.zero_()
    assert other.device == twin.weight.device == accelerator
    assert other.sum().item() == 2
    assert twin.weight.abs().sum().item() > 0
    assert copy.deepcopy(_matrix()).equal(_matrix())


def test_clone_detach_and_grad_flags(accelerator: torch.device) -> None:
    x = torch.ones(2, device=accelerator, requires_grad=True)
    assert x.is_leaf
    assert not x.detach().requires_grad
    assert x.clone().grad_fn is not None
    (x * 3).sum().backward()
    assert x.grad is not None
    assert x.grad.device == accelerator
    assert x.grad.tolist() == [3, 3]


def test_autocast_is_harmless(accelerator: torch.device) -> None:
    x = _matrix().to(accelerator)
    with torch.autocast("simgpu", dtype=torch.bfloat16):
        assert torch.equal((x @ x).cpu(), _matrix() @ _matrix())


def test_pinned_memory_is_ignored(accelerator: torch.device) -> None:
    x = _matrix()
    assert torch.equal(x.pin_memory().to(accelerator, non_blocking=True).cpu(), x)
    (batch,) = next(iter(DataLoader(TensorDataset(x), batch_size=4, pin_memory=True)))
    assert torch.equal(batch, x)


def test_the_global_generator_is_seeded_and_its_own(accelerator: torch.device) -> None:
    torch.manual_seed(3)
    cpu_state = torch.get_rng_state()
    first = torch.rand(5, device=accelerator), F.dropout(torch.ones(50, device=accelerator))
    assert torch.equal(torch.get_rng_state(), cpu_state), "the device must not draw from the CPU's generator"
    torch.manual_seed(3)
    again = torch.rand(5, device=accelerator), F.dropout(torch.ones(50, device=accelerator))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].cpu(), torch.rand(5, generator=torch.Generator().manual_seed(3)))
    assert not torch.equal(torch.rand(5, device=accelerator), first[0])


def test_fork_rng_restores_the_device(accelerator: torch.device) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2, device=accelerator)
    torch.manual_seed(3)
    with torch.random.fork_rng():
        torch.manual_seed(9)
        torch.rand(7, device=accelerator)
    assert torch.equal(torch.rand(2, device=accelerator), expected)


def _draws(device: torch.device, generator: torch.Generator) -> dict[str, Callable[[], Tensor]]:
    x = torch.full((3, 4), 0.5, device=device)
    return {
        "rand": lambda: torch.rand(3, generator=generator, device=device),
        "randn": lambda: torch.randn(3, generator=generator, device=device),
        "randint": lambda: torch.randint(9, (3,), generator=generator, device=device),
        "randperm": lambda: torch.randperm(9, generator=generator, device=device),
        "multinomial": lambda: torch.multinomial(x, 2, generator=generator),
        "normal_": lambda: x.normal_(generator=generator),
        "uniform_": lambda: x.uniform_(generator=generator),
        "bernoulli": lambda: torch.bernoulli(x, generator=generator),
        "normal": lambda: torch.normal(x, 1.0, generator=generator),
        "poisson": lambda: torch.poisson(x, generator=generator),
        "exponential_": lambda: x.exponential_(generator=generator),
        "init": lambda: nn.init.kaiming_uniform_(torch.empty(3, 4, device=device), generator=generator),
    }


@pytest.mark.parametrize("name", _draws(CPU, torch.Generator()))
def test_generators_belong_to_a_device(accelerator: torch.device, name: str) -> None:
    own = torch.Generator(device="simgpu")
    drawn = [_draws(accelerator, own.manual_seed(5))[name]().cpu() for _ in range(2)]
    assert torch.equal(*drawn)
    with pytest.raises(RuntimeError, match="Expected a 'simgpu' device type for generator but found 'cpu'"):
        _draws(accelerator, torch.Generator())[name]()
    with pytest.raises(RuntimeError, match="Expected a 'cpu' device type for generator but found 'simgpu'"):
        _draws(CPU, own)[name]()


def test_generators_report_their_device(accelerator: torch.device) -> None:
    own = torch.Generator(accelerator).manual_seed(5)
    assert isinstance(own, DeviceGenerator)
    assert isinstance(own, torch.Generator)
    assert own.device == accelerator
    assert own.initial_seed() == 5
    assert isinstance(torch.Generator(), torch.Generator)
    assert torch.Generator().device == CPU
    state = own.get_state()
    first = torch.rand(3, generator=own, device=accelerator)
    own.set_state(state)
    assert torch.equal(torch.rand(3, generator=own, device=accelerator), first)


def test_distributions_draw_on_the_device(accelerator: torch.device) -> None:
    x = torch.full((2000,), 2.0, device=accelerator)
    for family in (torch.distributions.Normal(x, x), torch.distributions.Gamma(x, x), torch.distributions.Poisson(x)):
        sample = family.sample()
        assert sample.device == accelerator
        assert abs(sample.mean().item() - family.mean[0].item()) < 0.2


REFUSED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "device plus cpu": lambda d, c: d + c,
    "cpu plus device": lambda d, c: c + d,
    "cpu plus device scalar": lambda d, c: c + d[0, 0],
    "in place": lambda d, c: c.add_(d),
    "product": lambda d, c: d @ c,
    "cat": lambda d, c: torch.cat([d, c]),
    "stack of scalars": lambda d, c: torch.stack([d[0, 0], c[0, 0]]),
    "where": lambda d, c: torch.where(c > 0, d, 0.0),
    "cpu tensor, device index": lambda d, c: c[d.argmax(1)],
    "cpu values by index": lambda d, c: d.__setitem__(d.argmax(1), c),
    "index_select": lambda d, c: d.index_select(0, c.argmax(1)),
    "gather": lambda d, c: d.gather(0, c.argsort(0)),
    "scatter_add": lambda d, c: d.scatter_add(0, c.argsort(0), d),
    "loss": lambda d, c: F.mse_loss(d, c),
    "module": lambda d, c: nn.Linear(4, 4)(d),
    "einsum": lambda d, c: torch.einsum("ij,jk->ik", d, c),
    "solve": lambda d, c: torch.linalg.solve(d, c),
    "searchsorted": lambda d, c: torch.searchsorted(d.sort(1)[0], c),
    "convolution": lambda d, c: F.conv1d(d[None], c[None]),
    "out": lambda d, c: torch.add(d, d, out=c),
}


@pytest.mark.parametrize("name", REFUSED)
def test_devices_do_not_mix(accelerator: torch.device, name: str) -> None:
    cpu = _matrix()
    REFUSED[name](cpu.clone(), cpu.clone())  # the call itself is right
    with pytest.raises(RuntimeError, match=r"same device|indices should be either on cpu|multi-device"):
        REFUSED[name](cpu.to(accelerator), cpu.clone())


def test_cpu_scalars_may_mix_in_pointwise_operators(accelerator: torch.device) -> None:
    x, scalar = torch.ones(2, device=accelerator), torch.tensor(3.0)
    results = [
        x + scalar,
        scalar * x,
        torch.where(x > 0, scalar, x),
        x.masked_fill(x > 0, scalar),
        x.clone().fill_(scalar),
    ]
    assert [r.tolist() for r in results] == [[4, 4], [3, 3], [3, 3], [3, 3], [3, 3]]
    assert {r.device for r in results} == {accelerator}


@pytest.mark.parametrize("convert", [Tensor.numpy, np.asarray, lambda t: np.array([t]), lambda t: np.add(t, 1)])
def test_numpy_is_refused(accelerator: torch.device, convert: Callable[[Tensor], Any]) -> None:
    with pytest.raises(TypeError, match="can't convert simgpu:0 device type tensor to numpy"):
        convert(torch.ones(2, device=accelerator))


def test_numpy_cannot_borrow_the_memory(accelerator: torch.device) -> None:
    with pytest.raises((RuntimeError, BufferError)):
        np.from_dlpack(torch.ones(2, device=accelerator))


WAITS: dict[str, tuple[Callable[[Tensor], Any], int]] = {
    "item": (lambda x: x[0, 0].item(), 1),
    "float": (lambda x: float(x.sum()), 1),
    "bool": (lambda x: bool((x > 0).any()), 1),
    "tolist": (lambda x: x.tolist(), 1),
    "cpu": (lambda x: x.cpu(), 1),
    "copy_ to the cpu": (lambda x: torch.empty(4, 4).copy_(x), 1),
    "equal": (lambda x: torch.equal(x, x), 1),
    "allclose": (lambda x: torch.allclose(x, x), 1),
    "nonzero": (lambda x: x.nonzero(), 1),
    "mask": (lambda x: x[x > 0], 1),
    "assign by mask": (lambda x: x.__setitem__(x > 0, x[x > 0]), 2),
    "unique": (lambda x: x.unique(), 1),
    "bincount": (lambda x: torch.bincount(x[0].long().abs()), 1),
    "one_hot without classes": (lambda x: F.one_hot(x.argmax(1)), 1),
    "repeat_interleave": (lambda x: x.repeat_interleave(x[0].abs().long(), 0), 1),
    "cholesky": (lambda x: torch.linalg.cholesky(x @ x.T + 9 * torch.eye(4, device=x.device)), 1),
    "three": (lambda x: [row.sum().item() for row in x[:3]], 3),
    "fill by mask": (lambda x: x.masked_fill_(x > 0, 1).__setitem__(x < 0, 2.0), 0),
    "one_hot": (lambda x: F.one_hot(x.argmax(1), 4), 0),
    "cholesky_ex": (lambda x: torch.linalg.cholesky_ex(x @ x.T + 9 * torch.eye(4, device=x.device)), 0),
    "arithmetic": (lambda x: (x @ x + 1).softmax(0).sort()[0][:, 1:].sum(), 0),
    "indices": (lambda x: x[x.argmax(1)], 0),
    "on the device": (lambda x: x.clone().copy_(x).to(x.device), 0),
    "to the device": (lambda x: torch.ones(3).to(x.device), 0),
    "clipping": (lambda x: nn.utils.clip_grad_norm_([x.requires_grad_()], 1.0), 0),
    "the cpu": (lambda x: (torch.ones(3).sum().item(), torch.ones(3).tolist()), 0),
}


@pytest.mark.parametrize("name", WAITS)
def test_waits_are_counted(accelerator: torch.device, name: str) -> None:
    function, expected = WAITS[name]
    x = _matrix().to(accelerator)
    with count_syncs() as syncs:
        function(x)
    assert syncs.total() == expected, syncs
    x.cpu()
    assert syncs.total() == expected, "counting ends with the block"


def test_counters_nest_and_end_with_an_error(accelerator: torch.device) -> None:
    x = torch.ones(1, device=accelerator)

    def fail() -> None:
        with count_syncs():
            x.item()
            raise ZeroDivisionError

    with count_syncs() as outer:
        with pytest.raises(ZeroDivisionError):
            fail()
        with count_syncs() as inner:
            x.item()
        x.item()
    assert (outer.total(), inner.total()) == (3, 1)
    assert not module._counters


def _cpu_work() -> list[Tensor]:
    torch.manual_seed(1)
    return [torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(2)), _positive().inverse()]


def _work_inside_that_fails(results: list[Tensor]) -> None:
    with simulated_accelerator() as device:
        torch.rand(3, device=device)
        results += _cpu_work()
        assert np.asarray(results[0]).shape == (3,)
        raise ZeroDivisionError


def test_the_cpu_is_unaffected_inside_and_outside() -> None:
    generator, clone, pin = torch.Generator, torch.UntypedStorage.clone, Tensor.pin_memory
    before, inside = _cpu_work(), list[Tensor]()
    with pytest.raises(ZeroDivisionError):
        _work_inside_that_fails(inside)
    for a, b, c in zip(before, inside, _cpu_work(), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)
        assert a.device == b.device == c.device == CPU
    assert torch.Generator is generator
    assert torch.UntypedStorage.clone is clone
    assert Tensor.pin_memory is pin
    assert not torch.__future__.get_swap_module_params_on_conversion()
    assert not torch.overrides._get_current_function_mode_stack()


ALTERING = """
import torch
def test_dtype(): torch.set_default_dtype(torch.float64)
def test_device(): torch.set_default_device("meta")
def test_grad(): torch.set_grad_enabled(False)
def test_deterministic(): torch.use_deterministic_algorithms(True, warn_only=True)
def test_threads(): torch.set_num_threads(2)
def test_clean():
    import matplotlib, matplotlib.pyplot as plt
    assert matplotlib.get_backend().lower() == "agg"
    plt.figure()
    state = torch.get_default_dtype(), torch.get_default_device().type, torch.is_grad_enabled(), torch.get_num_threads()
    assert state == (torch.float32, "cpu", True, 1)
    assert not torch.are_deterministic_algorithms_enabled()
def test_figures():
    import matplotlib.pyplot as plt
    assert not plt.get_fignums()
"""


@pytest.mark.slow
def test_tests_that_alter_torch_fail(tmp_path: Path) -> None:
    here = Path(__file__).parent
    shutil.copy(here.parent / "conftest.py", tmp_path)
    (tmp_path / "test_altering.py").write_text(ALTERING)
    options = ["-p", "no:cacheprovider", "-W", "error", "--rootdir", str(tmp_path), "-o", f"pythonpath={here.parent}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, str(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert "7 passed, 5 errors" in done.stdout, done.stdout + done.stderr
    for name in ("default dtype", "default device", "grad mode", "deterministic algorithms", "number of threads"):
        assert f"altered torch's global state: {name}: " in done.stdout
