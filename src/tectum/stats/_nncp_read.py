"""Read and check the tensor of a CP factorisation once, whole or streamed: missing fibres, norm, dtype and device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..core.device import highest_precision
from ..core.errors import InputError, explain
from ._nncp import Data, Dense, PairSource
from ._nncp_solvers import Solver, em_solver, fibre_solver

BLOCK_BYTES = 2**27  # temporaries of one block


def read(
    tensor: Tensor | PairSource, shape: tuple[int, int, int], mask: Tensor | None, solver: str
) -> tuple[Data, Solver, Tensor]:
    """Validate, find the mask and the scale; return the data, the solver and the bool mask."""
    if solver == "em" and not isinstance(tensor, Tensor):
        raise InputError(explain("nncp: solver", expected="'fibre' or 'cp_opt' with a pair source", got="'em'"))
    if isinstance(tensor, Tensor):
        return _read_dense(tensor, shape, mask, solver)
    data = _survey(tensor, shape, mask)
    seen = torch.ones(shape[1:], dtype=torch.bool, device=data.device) if data.mask is None else data.mask.bool()
    return data, fibre_solver(data), seen


def _read_dense(
    tensor: Tensor, shape: tuple[int, int, int], mask: Tensor | None, solver: str
) -> tuple[Data, Solver, Tensor]:
    """`read` for a tensor in memory: missing entries are set to zero once, in a copy."""
    values = tensor.detach()
    values = values if values.dtype in (torch.float32, torch.float64) else values.to(torch.float32)
    if solver != "em":
        data = _survey(Dense(values), shape, mask)
        if data.mask is not None:
            data = _with_source(data, Dense(torch.where(data.mask.bool(), values, values.new_zeros(()))))
        seen = torch.ones(shape[1:], dtype=torch.bool, device=data.device) if data.mask is None else data.mask.bool()
        return data, fibre_solver(data), seen
    seen = ~torch.isnan(values)
    if mask is not None:
        seen = seen & _bool_mask(mask, (shape, shape[1:])).to(values.device)
    filled = torch.where(seen, values, values.new_zeros(()))
    data = _survey(Dense(filled), shape, None, count=int(seen.sum()))
    return data, em_solver(seen.reshape(-1, shape[2])), seen


def _with_source(data: Data, source: PairSource) -> Data:
    """The same data read from another source."""
    return Data(source, data.shape, data.mask, data.dtype, data.device, data.scale, data.power, data.block_bytes)


def _bool_mask(mask: Tensor, shapes: tuple[tuple[int, ...], ...]) -> Tensor:
    """The user's mask, checked."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or tuple(mask.shape) not in shapes:
        got = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        fix = "use solver='em' for a mask that differs over time" if getattr(mask, "ndim", 0) == 3 else ""
        raise InputError(
            explain("nncp: mask", expected=f"bool of shape {' or '.join(map(str, shapes))}", got=got, fix=fix)
        )
    return mask


def _survey(source: PairSource, shape: tuple[int, int, int], mask: Tensor | None, count: int | None = None) -> Data:
    """Read the tensor once: find its dtype, device, missing fibres and norm, and reject what no solver can use."""
    given = None if mask is None else _bool_mask(mask, (shape[1:],))
    seen_parts: list[Tensor] = []
    total, reached, first = 0.0, 0, None
    for where, chunk in source.chunks():
        first = chunk if first is None else first
        if tuple(chunk.shape) != (*shape[:2], where.stop - where.start) or where.start != reached:
            got = f"slice({where.start}, {where.stop}) with shape {tuple(chunk.shape)}"
            raise InputError(
                explain("nncp: chunks()", expected=f"the pairs from {reached} on, time and animal whole", got=got)
            )
        reached = where.stop
        step = max(1, BLOCK_BYTES // (shape[0] * shape[1] * 4))
        for start in range(where.start, where.stop, step):
            inner = slice(start, min(start + step, where.stop))
            block = chunk[..., inner.start - where.start : inner.stop - where.start]
            seen, power = _survey_block(block, None if given is None else given[:, inner].to(chunk.device))
            seen_parts.append(seen)
            total += power
    if first is None or reached != shape[2]:
        raise InputError(explain("nncp: chunks()", expected=f"{shape[2]} pairs", got=f"{reached}"))
    if not total > 0:
        raise InputError(explain("nncp: tensor", expected="at least one positive observed entry", got="none"))
    return _describe(source, shape, first, torch.cat(seen_parts, 1), total, count)


def _describe(
    source: PairSource, shape: tuple[int, int, int], first: Tensor, seen: Tensor, total: float, count: int | None
) -> Data:
    """Gather what `_survey` found; the unit of the computation is the root mean square of the observed entries."""
    dtype = first.dtype if first.dtype in (torch.float32, torch.float64) else torch.float32
    observed = int(seen.sum()) * shape[0] if count is None else count
    weights = None if bool(seen.all()) else seen.to(dtype)
    scale = (total / observed) ** 0.5
    return Data(source, shape, weights, dtype, first.device, scale, float(observed), BLOCK_BYTES)


def _survey_block(block: Tensor, given: Tensor | None) -> tuple[Tensor, float]:
    """Observed fibres (animal, p) of a block (time, animal, p) and the sum of squares of their entries."""
    low, power = block.amin(), _power(block)
    if given is None and bool((low >= 0) & torch.isfinite(power)):  # NaN would have shown in either
        return torch.ones(block.shape[1:], dtype=torch.bool, device=block.device), float(power)
    missing = torch.isnan(block)
    gone, some = missing.all(0), missing.any(0)
    seen = ~gone if given is None else given & ~gone
    values = torch.where(seen, block, block.new_zeros(()))
    power = _power(values)
    partial, least, power = torch.stack([(some & seen).any().to(power), values.amin().to(power), power]).tolist()
    if partial:
        fix = "use solver='em', which takes any mask, or interpolate the gaps"
        raise InputError(
            explain(
                "nncp: tensor", expected="NaN only as whole fibres over time", got="NaN in part of a fibre", fix=fix
            )
        )
    if low < 0:
        raise InputError(
            explain("nncp: tensor", expected="entries >= 0", got=f"minimum {low:g}", fix="rectify or shift the data")
        )
    if not np.isfinite(power):
        raise InputError(
            explain("nncp: tensor", expected="finite entries", got="infinity", fix="mark bad entries as NaN")
        )
    return seen, power


def _power(block: Tensor) -> Tensor:
    """Sum of squares of a block (time, animal, p) in the highest precision, in pieces that fit a cache."""
    piece = 2**16 if block.device.type == "cpu" else 2**24
    rows = block.flatten(0, 1).split(max(1, piece // block.shape[-1]))
    high = (part.to(highest_precision(block.device)).flatten() for part in rows)
    return torch.stack([torch.dot(part, part) for part in high]).sum()
