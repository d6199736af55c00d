"""On the simulated accelerator, operators, modules and training give the results of the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from support.simulated_accelerator import simulated_accelerator

CPU = torch.device("cpu")


def _matrix(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*(shape or (4, 4)), generator=torch.Generator().manual_seed(seed))


def _positive(n: int = 4) -> Tensor:
    return _matrix(n, n) @ _matrix(n, n).T + n * torch.eye(n)


def _same(function: Callable[..., Any], *inputs: Tensor) -> None:
    """Check that a function gives the same on both devices, and on the device only tensors of the device."""
    expected = function(*inputs)
    with simulated_accelerator() as device:
        got = function(*(x.to(device) for x in inputs))
        pairs = list(zip(_flat(got), _flat(expected), strict=True))
        assert pairs
        assert all(g.device == device for g, _ in pairs)
        got_on_cpu = [g.detach().cpu() for g, _ in pairs]
    torch.testing.assert_close(got_on_cpu, [e.detach() for _, e in pairs])


def _flat(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [t for part in value for t in _flat(part)]


UNARY: dict[str, Callable[[Tensor], Any]] = {
    "arithmetic with numbers": lambda x: (x + 1, 2 - x, x * 2.5, 1 / (x * x + 1), x // 1, x % 2, x.abs() ** 0.5, 2**x),
    "integers with numbers": lambda x: ((x * 9).long() % 4, (x * 9).long() // 2, (x * 9).long() / 2, -(x > 0).int()),
    "comparison": lambda x: (x > 0, x <= 0.5, (x > 0) & (x < 1), torch.isclose(x, x)),
    "reductions": lambda x: (x.sum(0), x.mean(), x.std(1), x.amax(1), x.max(0), x.norm(), x.median(1), x.prod(1)),
    "logsumexp": lambda x: (x.logsumexp(1), x.log_softmax(1), x.softmax(0), x.logcumsumexp(0)),
    "quantile": lambda x: (x.quantile(0.3, 1), x.nanmedian(), x.kthvalue(2, 1)),
    "special": lambda x: (x.abs().lgamma(), x.abs().digamma(), torch.special.ndtri(x.sigmoid()), torch.special.i0e(x)),
    "einsum": lambda x: (torch.einsum("ij,kj->ik", x, x), torch.bmm(x[None], x[None]), torch.tensordot(x, x, 2)),
    "linear algebra": lambda x: (
        torch.linalg.pinv(x),
        torch.linalg.slogdet(x),
        torch.linalg.matrix_exp(x),
        x.inverse(),
    ),
    "qr": torch.linalg.qr,
    "svd": torch.linalg.svd,
    "eig": torch.linalg.eig,
    "lu": torch.linalg.lu_factor,
    "fft": lambda x: (torch.fft.fft(x), torch.fft.irfft(torch.fft.rfft(x)), torch.fft.fft2(x)),
    "complex": lambda x: (
        torch.fft.fft(x).conj() * torch.fft.fft(x),
        torch.fft.fft(x).conj().imag,
        torch.polar(x.abs(), x),
    ),
    "complex views": lambda x: (torch.view_as_real(torch.fft.fft(x)).clone(), torch.fft.fft(x).conj()[1:].clone()),
    "stft": lambda x: torch.stft(x.flatten(), 8, window=torch.ones(8, device=x.device), return_complex=True),
    "scans": lambda x: (x.cumsum(0), x.cumprod(1), x.cummax(0), x.diff(dim=1)),
    "sort": lambda x: (x.sort(1), x.topk(2), x.argsort(0), torch.searchsorted(x.sort(1)[0], x), x.flatten().unique()),
    "counting": lambda x: (torch.bincount((x > 0).long().flatten()), torch.histc(x, 4), F.one_hot(x.argmax(1))),
    "where": lambda x: (torch.where(x > 0, x, 0.0), x.masked_fill(x > 0, 1.0), x.clamp(min=0), torch.nan_to_num(x)),
    "joining": lambda x: (torch.cat([x, x]), torch.stack([x, x], 1), torch.block_diag(x, x), x.repeat(2, 1), x.tile(2)),
    "shapes": lambda x: (x.T, x.reshape(2, 8), x[None].expand(3, 4, 4), x.unfold(1, 2, 1), x.flip(0), x.roll(1, 0)),
    "strides": lambda x: (
        x.as_strided((2, 2), (1, 4), 3),
        x.diagonal(),
        x[1:].as_strided((2,), (1,), 4),
        x.view(torch.int32),
    ),
    "masks": lambda x: (x[x > 0], x.masked_select(x > 0), (x > 0).nonzero(), x[x[:, 0] > 0]),
    "indices": lambda x: (
        x[x.argmax(1)],
        x[[2, 0]],
        x[:, None, 1],
        x[..., -1],
        x.gather(1, x.argsort(1)),
        x.take_along_dim(x.argsort(1), 1),
    ),
    "scatter": lambda x: (
        torch.zeros_like(x).scatter_add(0, x.argsort(0), x),
        x.scatter_reduce(0, x.argsort(0), x, "amax"),
    ),
    "index_add": lambda x: torch.zeros_like(x).index_add(0, x.argmax(1), x),
    "casts": lambda x: (x.double(), x.to(torch.float16), x.bfloat16().float(), x.long(), x.bool(), x.type_as(x)),
    "out=": lambda x: (
        torch.add(x, x, out=x.new_empty(0)),
        torch.matmul(x, x, out=torch.empty_like(x)),
        torch.cumsum(x, 0, out=x.new_empty(0)),
    ),
    "out= a view": lambda x: (lambda buffer: (torch.add(x[0], 1, out=buffer[1]), buffer))(torch.zeros_like(x)),
    "layers": lambda x: (
        F.layer_norm(x, (4,)),
        F.gelu(x),
        F.group_norm(x, 2),
        F.normalize(x),
        F.pad(x[None], (1, 1), mode="reflect"),
    ),
    "pooling": lambda x: (
        F.max_pool1d(x, 2),
        F.avg_pool1d(x, 2),
        F.interpolate(x[None], 8, mode="linear"),
        F.adaptive_avg_pool1d(x, 2),
    ),
    "losses": lambda x: (
        F.mse_loss(x, x * 2),
        F.cross_entropy(x, x.argmax(1)),
        F.poisson_nll_loss(x, x.abs()),
        F.huber_loss(x, x * 3),
    ),
    "densities": lambda x: (
        torch.distributions.Normal(x, 1.0).log_prob(x),
        torch.distributions.Categorical(logits=x).log_prob(x.argmax(1)),
    ),
    "distances": lambda x: (torch.cdist(x, x), torch.cov(x), torch.corrcoef(x)),
    "vmap": torch.vmap(lambda row: (row * row.sum()).softmax(0)),
    "vmap of linear algebra": lambda x: torch.vmap(
        lambda a: torch.linalg.cholesky(a @ a.T + 9 * torch.eye(4, device=a.device))
    )(torch.stack([x, x])),
    "func.grad": torch.vmap(torch.func.grad(lambda row: (row**3).sum())),
    "func.jacrev": lambda x: torch.func.jacrev(lambda row: row.softmax(0))(x[0]),
}

SEVERAL: dict[str, tuple[Callable[..., Any], tuple[Tensor, ...]]] = {
    "cholesky": (torch.linalg.cholesky, (_positive(),)),
    "eigh": (torch.linalg.eigh, (_positive(),)),
    "solve": (torch.linalg.solve, (_positive(), _matrix())),
    "triangular": (lambda a, b: torch.linalg.solve_triangular(a.triu(), b, upper=True), (_positive(), _matrix())),
    "cholesky_solve": (torch.cholesky_solve, (_matrix(), _positive())),
    "lstsq": (lambda a, b: torch.linalg.lstsq(a, b).solution, (_matrix(6, 3), _matrix(6, 2))),
    "conv1d": (lambda x, w: F.conv1d(x, w, padding=1, stride=2), (_matrix(2, 3, 9), _matrix(4, 3, 3))),
    "conv_transpose1d": (F.conv_transpose1d, (_matrix(2, 3, 9), _matrix(3, 4, 3))),
    "conv2d": (lambda x, w: F.conv2d(x, w, groups=2), (_matrix(1, 2, 5, 5), _matrix(4, 1, 3, 3))),
    "attention": (F.scaled_dot_product_attention, (_matrix(2, 3, 4), _matrix(2, 5, 4), _matrix(2, 5, 4))),
    "causal attention": (lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True), (_matrix(1, 2, 5, 4),)),
    "embedding": (F.embedding, (torch.tensor([[0, 2], [1, 1]]), _matrix(3, 5))),
}


@pytest.mark.parametrize("name", UNARY)
def test_one_tensor_gives_the_cpu_result(name: str) -> None:
    _same(UNARY[name], _matrix())


@pytest.mark.parametrize("name", SEVERAL)
def test_several_tensors_give_the_cpu_result(name: str) -> None:
    function, inputs = SEVERAL[name]
    _same(function, *inputs)


def test_gradients_flow_through_views_changed_in_place() -> None:
    def run(x: Tensor) -> list[Tensor]:
        x = x.clone().requires_grad_()
        y = x * 1
        y[0].add_(1)
        y[:, 1].mul_(3)
        y.t()[2] = x.sum() + 7
        y[1:, ::2].copy_(x[1:, ::2] * 5)
        y.unsqueeze_(0).squeeze_()
        y.sigmoid().sum().backward()
        assert x.grad is not None
        return [y, x.grad]

    _same(run, _matrix())


def _trained(device: torch.device, optimizer: Callable[..., torch.optim.Optimizer], **options: Any) -> Tensor:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 1))
    solver = optimizer(net.parameters(), lr=0.01, **options)  # made before moving, as CUDA allows
    net.to(device)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(solver, 5)
    x, y = _matrix(16, 4).to(device), _matrix(16, 1, seed=1).to(device)
    for _ in range(5):
        solver.zero_grad()
        F.mse_loss(net(x), y).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        solver.step()
        schedule.step()
    return nn.utils.parameters_to_vector(net.parameters()).detach().cpu()


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (torch.optim.SGD, {}),
        (torch.optim.SGD, {"momentum": 0.9, "fused": True}),
        (torch.optim.AdamW, {}),
        (torch.optim.AdamW, {"foreach": False}),
        (torch.optim.AdamW, {"foreach": True}),
        (torch.optim.AdamW, {"fused": True}),
    ],
)
def test_training_gives_the_cpu_parameters(
    accelerator: torch.device, optimizer: type[torch.optim.Optimizer], options: dict[str, Any]
) -> None:
    expected = _trained(CPU, optimizer, **options)
    torch.testing.assert_close(_trained(accelerator, optimizer, **options), expected)


def _with_gradients(make: Callable[[], nn.Module]) -> Callable[[Tensor], list[Tensor]]:
    """Make a function that lists output, gradients of input and parameters, and buffers of a new module."""

    def run(x: Tensor) -> list[Tensor]:
        torch.manual_seed(0)
        net, leaf = make().to(x.device), x.clone().requires_grad_()
        out = net(leaf)
        first = out if isinstance(out, Tensor) else _flat(out)[0]
        first.square().sum().backward()
        return [first, *(p.grad for p in [leaf, *net.parameters()] if p.grad is not None), *net.buffers()]

    return run


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "RNN": (lambda: nn.RNN(4, 5, 2, batch_first=True), (3, 6, 4)),
    "LSTM": (lambda: nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True), (3, 6, 4)),
    "LSTM without bias": (lambda: nn.LSTM(4, 5, bias=False), (3, 6, 4)),
    "GRU": (lambda: nn.GRU(4, 5, 2, batch_first=True, bidirectional=True), (3, 6, 4)),
    "GRU without bias": (lambda: nn.GRU(4, 5, bias=False), (3, 6, 4)),
    "RNNCell": (lambda: nn.RNNCell(4, 5), (3, 4)),
    "LSTMCell": (lambda: nn.LSTMCell(4, 5), (3, 4)),
    "GRUCell": (lambda: nn.GRUCell(4, 5), (3, 4)),
    "convolution": (lambda: nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), nn.ELU(), nn.AvgPool1d(2)), (4, 2, 9)),
    "transposed": (lambda: nn.ConvTranspose1d(2, 4, 3, stride=2, groups=2), (4, 2, 9)),
    "transformer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), (2, 5, 8)),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_give_the_cpu_outputs_and_gradients(name: str) -> None:
    make, shape = MODULES[name]
    _same(_with_gradients(make), _matrix(*shape))


def test_recurrent_layers_without_autograd(accelerator: torch.device) -> None:
    x = _matrix(2, 3, 4)
    for kind in (nn.LSTM, nn.GRU):
        net = kind(4, 5)
        with torch.inference_mode():
            expected = net(x)[0]
            torch.testing.assert_close(net.to(accelerator)(x.to(accelerator))[0].cpu(), expected)


def test_embedding_gradients() -> None:
    def run(index: Tensor) -> list[Tensor]:
        torch.manual_seed(0)
        table = nn.Embedding(5, 3, padding_idx=0).to(index.device)
        table(index).square().sum().backward()
        assert table.weight.grad is not None
        return [table.weight.grad]

    _same(run, torch.tensor([0, 1, 1, 4]))
