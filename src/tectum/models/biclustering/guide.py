"""What proposes splits and merges after burn-in: a function of the counts and of which units a cluster has, no more."""

from __future__ import annotations

import torch
from torch import Tensor

from .annealed import SURE, Guide
from .initial import first_log_r
from .model import Data, Hyper
from .modes import unit_affinity
from .splits import halve


def make_guide(data: Data, hyper: Hyper) -> Guide:
    """Prepare proposals; the division of a cluster is worked out when it is first asked for, then remembered.

    Parameters
    ----------
    data, hyper
        Counts and constants.

    Returns
    -------
    Guide
    """
    affinity = unit_affinity(data)
    known: dict[tuple[int, ...], Tensor] = {}

    def logits(whole: Tensor) -> Tensor:
        names = [tuple(row) for row in whole.long().tolist()]
        new = [k for k, name in enumerate(names) if name not in known and names.index(name) == k]
        if new:
            found = _divide(whole[new].to(affinity.dtype), data, hyper, affinity)
            known.update((names[k], row) for k, row in zip(new, found, strict=True))
        return torch.stack([known[name] for name in names])

    return Guide(affinity, logits)


def _divide(member: Tensor, data: Data, hyper: Hyper, affinity: Tensor) -> Tensor:
    """Half the log odds of every unit between the two halves of its cluster, bounded: (problem, unit)."""
    none = torch.zeros(len(member), data.counts.shape[1], dtype=torch.int64, device=member.device)
    log_r = first_log_r(member, hyper)
    _, found = halve(member, log_r, none, data, hyper._replace(n_states=1), affinity, tries=2)
    left, right = found.mode.evidence.chunk(2)
    return (0.5 * (right - left)).nan_to_num(nan=0.0, posinf=SURE, neginf=-SURE).clamp(-SURE, SURE)
