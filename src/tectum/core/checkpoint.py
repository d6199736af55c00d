"""Checkpoint: where a long run saves its progress, and what makes it the same run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import distributed, serialize
from .errors import InputError, LoadError, explain
from .log import logger
from .params import at_least


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where a long run saves its progress and what makes it the same run.

    Parameters
    ----------
    path : path
        File to write; an existing one is resumed from. The suffix ``.safetensors`` is added if there is none.
    every : int, default 100
        Steps between two writes.
    config : mapping of text, numbers and sequences of these
        Identity of the run; resuming with another one raises InputError. The loop adds its own settings.
    """

    path: str | Path
    every: int = 100
    config: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        at_least(1, "Checkpoint", every=self.every)
        object.__setattr__(self, "path", serialize.with_suffix(self.path))

    def of(self, loop: str, **settings: Any) -> Checkpoint:
        """Return this checkpoint with the settings of a loop added to its identity."""
        return dataclasses.replace(self, config={**(self.config or {}), "loop": loop, **settings})

    def due(self, step: int, last: int) -> bool:
        """Whether to write after ``step`` of ``last`` steps."""
        return step % self.every == 0 or step == last

    def save(self, state: Mapping[str, Any]) -> None:
        """Write the state atomically (first process only)."""
        if distributed.world().rank == 0:
            serialize.write(self.path, {"config": dict(self.config or {}), **state})

    def load(self) -> dict[str, Any] | None:
        """Return the saved state, on the CPU, or None if there is none."""
        if not Path(self.path).exists():
            return None
        state = serialize.read(self.path)
        if not isinstance(state, dict) or "config" not in state:
            raise LoadError(explain(str(self.path), expected="a checkpoint", got=type(state).__name__))
        if state.pop("config") != dict(self.config or {}):
            raise InputError(
                explain(
                    f"resume from {self.path}",
                    expected="a checkpoint of the same configuration and data",
                    got="one of another run",
                    fix="choose another checkpoint file or delete this one",
                )
            )
        logger.info("resumed from %s", self.path)
        return state
