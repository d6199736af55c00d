"""Non-negative CP factorisation (NTF) of a (time, animal, pair) tensor with missing fibres, whole or streamed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..core.device import highest_precision
from ..core.errors import InputError, TectumWarning, TooLargeError, explain
from ..core.random import resolve_seed, spawn
from ._nncp import Data, Factors, PairSource, begin, norms, self_gram, time_gram_of
from ._nncp_read import BLOCK_BYTES, read
from ._nncp_solvers import Limits, Trace, collapsed, cp_opt, iterate, observed_rows, random_factors

__all__ = [
    "CP",
    "NNCP",
    "PairSource",
    "cp_normalize",
    "cp_reconstruct",
    "factor_match_score",
    "from_tensorly",
    "nncp",
    "to_tensorly",
]

SOLVERS = ("fibre", "em", "cp_opt")
NO_INFORMATION = 1e-14


class CP(NamedTuple):
    """A CP model: the sum over components of weight times the outer product of one column a mode."""

    weights: Tensor  # (component,)
    factors: tuple[Tensor, ...]  # one (size, component) a mode


class NNCP(NamedTuple):
    """All restarts of a non-negative CP factorisation, in canonical form (unit columns, weights descending)."""

    weights: Tensor  # (restart, component)
    time: Tensor  # (restart, time, component)
    animal: Tensor  # (restart, animal, component)
    pair: Tensor  # (restart, pair, component)
    error: Tensor  # (restart,) relative error of the observed entries, highest precision
    history: Tensor  # (restart, sweep) error after each sweep, NaN after the restart's last
    sweeps: Tensor  # (restart,) int64
    converged: Tensor  # (restart,) bool
    mask: Tensor  # (animal, pair) bool, or (time, animal, pair) with solver "em": True = observed

    @property
    def best(self) -> CP:
        """The restart with the smallest error, without components that collapsed."""
        return self.start(int(self.error.argmin()))

    def start(self, index: int) -> CP:
        """One restart, without components that collapsed to zero weight."""
        kept = self.weights[index] > 0
        factors = (self.time, self.animal, self.pair)
        return CP(self.weights[index][kept], tuple(factor[index][:, kept] for factor in factors))


def nncp(
    tensor: Tensor | PairSource,
    rank: int,
    *,
    mask: Tensor | None = None,
    solver: str = "fibre",
    restarts: int = 10,
    tol: float = 1e-6,
    min_iter: int = 10,
    max_iter: int = 500,
    init: CP | Sequence[CP] | None = None,
    random_state: int | None = 0,
    max_bytes: int = 8 * 2**30,
) -> NNCP:
    """Factorise a non-negative tensor into ``rank`` non-negative components.

    Minimises half the sum over observed entries of (Y_twp - sum_r A_tr B_wr C_pr)^2 subject to A, B, C >= 0.

    Parameters
    ----------
    tensor : Tensor (n_time, n_animals, n_pairs), or PairSource
        Finite and >= 0 where observed; NaN marks a missing entry.  A `PairSource` (``shape`` and ``chunks()``) is read
        block by block, once a sweep, and never held whole.  float32 or float64; anything else is computed in float32.
    rank : int
        Number of components R, 1 <= R <= min(n_time, n_animals * n_pairs).
    mask : Tensor of bool (n_animals, n_pairs), optional
        True where the fibre over time is observed; with ``solver="em"`` also (n_time, n_animals, n_pairs).  Entries
        that are NaN count as missing too.
    solver : {"fibre", "em", "cp_opt"}, default "fibre"
        "fibre": exact weighted HALS for whole missing fibres, three inner passes a mode.  "em": HALS with the missing
        entries filled by the model after every mode; takes any mask, costs several times more, holds one filled tensor
        a restart and is drawn to its start in early sweeps.  "cp_opt": bounded L-BFGS on all factors (fibre masks).
    restarts : int, default 10
        Independent starts, computed together.
    tol : float, default 1e-6
        A restart stops when its relative error decreases by less than this in a sweep.
    min_iter, max_iter : int, default 10 and 500
        Fewest and most sweeps.
    init : CP or sequence of CP, optional
        Starting models instead of uniform draws; their number replaces ``restarts``.
    random_state : int or None, default 0
        Seed from which each restart's own is derived.
    max_bytes : int, default 8 GiB
        Most memory the call may need, the tensor included; restarts are processed in groups that fit.

    Returns
    -------
    NNCP
        Every restart; ``.best`` is the `CP` model of the smallest error.  Error and weights are in the tensor's units
        relative to ||Y|| over observed entries, accumulated in float64; where the sweep's own
        estimate is below 100 sqrt(eps) the reported error is the explicit residual.
        The loading of a pair on a component is zero where nothing is known of it: the pair was missing in every animal
        that has the component (likewise for animals).

    Raises
    ------
    InputError
        Wrong shape, rank, mask or option; negative or infinite entries; NaN that is not a whole fibre unless
        ``solver="em"``.
    TooLargeError
        If even one restart needs more than ``max_bytes``.

    References
    ----------
    Cichocki & Phan (2009), Fast local algorithms for large scale nonnegative matrix and tensor factorizations (HALS).
    Acar, Dunlavy & Kolda (2011), A scalable optimization approach for fitting canonical tensor decompositions (CP-OPT).
    Dyballa et al. (2024), Learning dynamic representations of the functional connectome, ICLR.

    Examples
    --------
    >>> import torch
    >>> a, b, c = (torch.rand(n, 2, generator=torch.Generator().manual_seed(n)) for n in (12, 5, 9))
    >>> model = nncp(torch.einsum("tr,wr,pr->twp", a, b, c), 2, restarts=3).best
    >>> tuple(factor.shape[0] for factor in model.factors), bool((model.weights[:-1] >= model.weights[1:]).all())
    ((12, 5, 9), True)
    """
    shape = _shape(tensor)
    _check_options(shape, rank, solver, restarts, tol, min_iter, max_iter, max_bytes)
    starts = _given(init, shape, rank)
    seeds = [spawn(resolve_seed(random_state), "start", i) for i in range(len(starts) if starts else restarts)]
    group = _group(tensor, shape, rank, solver, mask, max_bytes)
    with torch.no_grad(), _full_precision():
        data, engine, seen = read(tensor, shape, mask, solver)
        made = []
        for first in range(0, len(seeds), group):
            part = seeds[first : first + group]
            factors = _starts(data, rank, part, starts[first : first + group] if starts else None)
            limits = Limits(tol, min_iter, max_iter)
            trace = (
                cp_opt(data, factors, limits) if solver == "cp_opt" else iterate(data, factors, engine, limits, part)
            )
            made.append(_canonical(data, trace))
    result = NNCP._make([*(torch.cat(parts) for parts in zip(*made, strict=True)), seen])
    _warn_dropped(result)
    return result


@contextmanager
def _full_precision() -> Iterator[None]:
    """Forbid reduced-precision products inside the block: the stopping rule resolves 1e-6."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


# ------------------------------------------------------------ checks


def _shape(tensor: Tensor | PairSource) -> tuple[int, int, int]:
    """Sizes of the tensor, or an error that names the axes."""
    shape = tuple(getattr(tensor, "shape", ()))
    streamed = not isinstance(tensor, Tensor)
    if len(shape) != 3 or min(shape) < 1 or (streamed and not hasattr(tensor, "chunks")):
        got = f"{type(tensor).__name__} of shape {shape}"
        raise InputError(explain("nncp: tensor", expected="a tensor or pair source (time, animal, pair)", got=got))
    return shape[0], shape[1], shape[2]


def _check_options(
    shape: tuple[int, int, int], rank: int, solver: str, restarts: int, tol: float, low: int, high: int, max_bytes: int
) -> None:
    """Reject impossible ranks and options; warn of a rank that the time and animal modes cannot support."""
    n_time, n_animals, n_pairs = shape
    limit = min(n_time, n_animals * n_pairs)
    if not 1 <= rank <= limit:
        raise InputError(
            explain("nncp: rank", expected=f"1 <= rank <= min(time, animal * pair) = {limit}", got=f"rank={rank}")
        )
    if solver not in SOLVERS:
        raise InputError(explain("nncp: solver", expected=" or ".join(map(repr, SOLVERS)), got=repr(solver)))
    if restarts < 1 or not 1 <= low <= high or not tol >= 0 or max_bytes < 1:
        got = f"restarts={restarts}, tol={tol}, min_iter={low}, max_iter={high}, max_bytes={max_bytes}"
        raise InputError(
            explain("nncp", expected="restarts >= 1, tol >= 0, 1 <= min_iter <= max_iter, max_bytes >= 1", got=got)
        )
    if rank > n_animals * n_time:
        message = f"nncp: rank {rank} exceeds animal * time = {n_animals * n_time}; the components cannot be identified"
        warnings.warn(message, TectumWarning, stacklevel=3)


def _given(init: CP | Sequence[CP] | None, shape: tuple[int, int, int], rank: int) -> list[CP]:
    """The user's starting models, checked."""
    if init is None:
        return []
    models = [init] if isinstance(init, CP) else list(init)
    for model in models:
        sizes = tuple(tuple(factor.shape) for factor in model.factors)
        if sizes != tuple((size, rank) for size in shape) or any(bool((f < 0).any()) for f in model.factors):
            expected = f"non-negative factors of shapes {[(size, rank) for size in shape]}"
            raise InputError(explain("nncp: init", expected=expected, got=f"shapes {list(sizes)} or negative entries"))
    if not models:
        raise InputError(explain("nncp: init", expected="at least one CP model", got="none"))
    return models


def _group(
    tensor: Tensor | PairSource,
    shape: tuple[int, int, int],
    rank: int,
    solver: str,
    mask: Tensor | None,
    max_bytes: int,
) -> int:
    """Restarts that fit together in ``max_bytes``, from sizes alone."""
    n_time, n_animals, n_pairs = shape
    item = tensor.element_size() if isinstance(tensor, Tensor) and tensor.dtype == torch.float64 else 4
    whole = n_time * n_animals * n_pairs * item
    held = 2 * whole if isinstance(tensor, Tensor) else 0  # the tensor and its zero-filled copy
    held += n_animals * n_pairs * (item + 1) + min(BLOCK_BYTES, 4 * whole)
    moments, rows = rank * n_time * n_animals, rank * (n_time + n_animals + n_pairs)
    each = item * (4 * moments + 6 * rows) + 8 * 2 * rank * rank * n_animals
    each += {"fibre": 0, "em": 4 * whole, "cp_opt": 30 * item * rows}[solver]
    if held + each > max_bytes:
        fix = "bin the time axis, reduce the rank, or pass a pair source that yields the tensor in chunks"
        got = f"{held + each} bytes for shape {shape}, rank {rank}, one restart"
        raise TooLargeError(explain("nncp", expected=f"at most max_bytes={max_bytes}", got=got, fix=fix))
    return int((max_bytes - held) // each)


# ------------------------------------------------------------ starts and canonical form


def _starts(data: Data, rank: int, seeds: list[int], given: list[CP] | None) -> Factors:
    """Uniform draws scaled so that the model has the norm of the data, or the user's models in the data's unit."""
    if given:
        share = [(model.weights / data.scale).pow(1 / 3) for model in given]
        modes = zip(*(model.factors for model in given), strict=True)
        return Factors(
            *(
                torch.stack([(f * s).T.to(data.device, data.dtype) for f, s in zip(mode, share, strict=True)])
                for mode in modes
            )
        )
    drawn = random_factors(data.shape, rank, seeds)
    factors = observed_rows(data, Factors(*(f.to(data.device, data.dtype) for f in drawn)))
    gram = _masked_pair_gram(data, factors)
    power = (self_gram(factors.time, data.precise) * time_gram_of(gram, factors.animal)).sum((1, 2))
    ratio = (data.power / power).pow(1 / 6).to(data.dtype)[:, None, None]
    return Factors(*(f * ratio for f in factors))


def _masked_pair_gram(data: Data, factors: Factors) -> Tensor:
    """Gram of the pair factor as the solvers use it, without the data."""
    return begin(data, factors).gram


def _canonical(data: Data, trace: Trace) -> tuple[Tensor, ...]:
    """Unit columns and weights in descending order; components with a zero column get weight and columns zero."""
    factors = _known_entries(data, trace.factors)
    size = norms(factors, data.precise)  # (3, S, R)
    weights, order = (size.prod(0) * data.scale).sort(descending=True, stable=True)
    weights = torch.where(collapsed(weights, data.dtype), torch.zeros_like(weights), weights)
    alive = (weights > 0).unsqueeze(1)  # (S, 1, R)
    columns = []
    for factor, norm in zip(factors, size, strict=True):
        unit = (factor / norm.clamp(min=torch.finfo(norm.dtype).tiny).unsqueeze(-1)).to(factor.dtype).mT  # (S, n, R)
        columns.append(torch.where(alive, unit.gather(2, order.unsqueeze(1).expand_as(unit)), unit.new_zeros(())))
    return weights.to(data.dtype), *columns, trace.error, trace.history, trace.sweeps, trace.converged


def _known_entries(data: Data, factors: Factors) -> Factors:
    """Zero the loadings that no observed fibre informs.

    The loading of a pair on a component is arbitrary when the pair was missing in every animal that has the component
    (likewise for animals); it does not enter the objective.
    """
    if data.mask is None:
        return factors
    return factors._replace(
        animal=_informed(factors.animal, factors.pair, data.mask),
        pair=_informed(factors.pair, factors.animal, data.mask.mT),
    )


def _informed(factor: Tensor, other: Tensor, seen: Tensor) -> Tensor:
    """``factor`` (S, R, n) where ``other`` (S, R, m) has more than rounding of its energy in ``seen`` (n, m)."""
    energy = other.square()
    known = energy @ seen.mT > NO_INFORMATION * energy.sum(-1, keepdim=True)
    return torch.where(known, factor, factor.new_zeros(()))


def _warn_dropped(result: NNCP) -> None:
    """Say how many components of the best restart collapsed."""
    dropped = int((result.weights[result.error.argmin()] == 0).sum())
    if dropped:
        count = f"{dropped} of {result.weights.shape[1]} components"
        message = f"nncp: {count} collapsed to zero and were dropped; choose a smaller rank"
        warnings.warn(message, TectumWarning, stacklevel=3)


# ------------------------------------------------------------ working with CP


def cp_reconstruct(model: CP) -> Tensor:
    """Multiply a CP model out.

    Parameters
    ----------
    model : CP
        Weights (R,) and factors (n_m, R) of any number of modes.

    Returns
    -------
    Tensor (n_1, ..., n_M)

    Examples
    --------
    >>> import torch
    >>> cp_reconstruct(CP(torch.tensor([2.0]), (torch.ones(2, 1), torch.ones(3, 1)))).tolist()
    [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]
    """
    rows = model.weights.unsqueeze(0)  # (1, R)
    for factor in model.factors[:-1]:
        rows = (rows.unsqueeze(1) * factor).flatten(0, 1)  # (n_1 ... n_m, R)
    return (rows @ model.factors[-1].mT).reshape([factor.shape[0] for factor in model.factors])


def cp_normalize(model: CP) -> CP:
    """Give every column unit norm, put the norms in the weights and sort these in descending order.

    Parameters
    ----------
    model : CP
        Weights (R,) >= 0 and factors (n_m, R).

    Returns
    -------
    CP
        The same model; a zero column stays zero and its component has weight zero.

    Examples
    --------
    >>> import torch
    >>> cp_normalize(CP(torch.ones(2), (torch.eye(2), 3 * torch.eye(2)))).weights.tolist()
    [3.0, 3.0]
    """
    sizes = torch.stack([torch.linalg.vector_norm(factor, dim=0) for factor in model.factors])  # (M, R)
    weights, order = (model.weights * sizes.prod(0)).sort(descending=True, stable=True)
    tiny = torch.finfo(sizes.dtype).tiny
    return CP(weights, tuple((f / s.clamp(min=tiny))[:, order] for f, s in zip(model.factors, sizes, strict=True)))


def factor_match_score(first: CP, second: CP) -> float:
    """Similarity of two CP models in [0, 1]: mean over matched components of the product of cosines over modes.

    Parameters
    ----------
    first, second : CP
        Models of equal mode sizes.  If their ranks differ, the unmatched components count as zero.

    Returns
    -------
    float
        1 for equal models up to order and scale of the columns.  Weights are not compared.

    Examples
    --------
    >>> import torch
    >>> model = CP(torch.ones(2), (torch.eye(3)[:, :2], torch.eye(2)))
    >>> factor_match_score(model, CP(torch.ones(2), tuple(5 * f.flip(1) for f in model.factors)))
    1.0
    """
    from scipy.optimize import linear_sum_assignment

    sizes = [[factor.shape[0] for factor in model.factors] for model in (first, second)]
    if sizes[0] != sizes[1]:
        raise InputError(explain("factor_match_score", expected=f"modes of sizes {sizes[0]}", got=f"{sizes[1]}"))
    score = torch.ones(len(first.weights), len(second.weights), dtype=highest_precision(first.weights.device))
    score = score.to(first.weights.device)
    for one, other in zip(first.factors, second.factors, strict=True):
        left, right = (torch.nn.functional.normalize(f.to(score.dtype), dim=0) for f in (one, other))
        score = score * (left.mT @ right)
    table = np.asarray(score.tolist()).reshape(score.shape)
    rows, columns = linear_sum_assignment(-table)
    return float(table[rows, columns].sum() / max(table.shape))


def to_tensorly(model: CP) -> Any:
    """Give a model to tensorly as its ``CPTensor``, with NumPy arrays.

    Tensorly's own back end is left as it is: the arrays are made here.

    Parameters
    ----------
    model : CP

    Returns
    -------
    tensorly.cp_tensor.CPTensor
        Weights (R,) and a list of factors (n_m, R) on the CPU.

    Examples
    --------
    >>> import torch
    >>> to_tensorly(CP(torch.ones(2), (torch.ones(3, 2), torch.ones(4, 2)))).shape
    (3, 4)
    """
    from tensorly.cp_tensor import CPTensor

    arrays = [part.detach().cpu().numpy() for part in (model.weights, *model.factors)]
    holder = CPTensor.__new__(CPTensor)  # its constructor would ask the active back end, which may not be NumPy
    holder.weights, holder.factors = arrays[0], arrays[1:]
    holder.shape, holder.rank = tuple(f.shape[0] for f in arrays[1:]), arrays[0].shape[0]
    return holder


def from_tensorly(model: Any, *, device: torch.device | str = "cpu") -> CP:
    """Take a model from tensorly, whatever back end it was made with.

    Parameters
    ----------
    model : tensorly CPTensor, or pair (weights, factors)
        Weights (R,) or None, factors (n_m, R): NumPy arrays, torch tensors or anything ``numpy.asarray`` takes.
    device : device, default "cpu"

    Returns
    -------
    CP

    Examples
    --------
    >>> import numpy as np
    >>> from_tensorly((None, [np.ones((3, 2)), np.ones((4, 2))])).weights.tolist()
    [1.0, 1.0]
    """
    weights, factors = model
    made = tuple(_tensor(factor, device) for factor in factors)
    if not made or any(f.dim() != 2 or f.shape[1] != made[0].shape[1] for f in made):
        got = f"shapes {[tuple(f.shape) for f in made]}"
        raise InputError(explain("from_tensorly", expected="factors (size, component) of one rank", got=got))
    return CP(made[0].new_ones(made[0].shape[1]) if weights is None else _tensor(weights, device), made)


def _tensor(array: Any, device: torch.device | str) -> Tensor:
    """A detached tensor on ``device`` from a tensor or an array."""
    return array.detach().to(device) if isinstance(array, Tensor) else torch.tensor(np.asarray(array), device=device)
