"""Hyper-parameters declared as data: default, allowed range and message in one line."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from .errors import InputError, explain, nearest

KEY = "tectum.rule"


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a hyper-parameter may be."""

    kind: type | tuple[type, ...] | None
    options: tuple[Any, ...] | None
    low: float | None
    high: float | None
    open_low: bool
    optional: bool
    each: bool

    def check(self, value: Any, where: str) -> None:
        """Raise InputError unless ``value`` (or each entry of it) obeys the rule."""
        if value is None and self.optional:
            return
        if not self.each:
            self._check_one(value, where)
            return
        if isinstance(value, str) or not isinstance(value, (Sequence, np.ndarray)) or len(value) == 0:
            raise InputError(explain(where, expected="a non-empty sequence", got=repr(value)))
        for item in value:
            self._check_one(item, where)

    def _check_one(self, value: Any, where: str) -> None:
        if self.options is not None:
            if not any(_same(value, option) for option in self.options):
                hint = nearest(str(value), [str(o) for o in self.options]) if isinstance(value, str) else ""
                raise InputError(explain(where, expected=f"one of {list(self.options)}", got=repr(value), fix=hint))
            return
        if self.kind is not None and not _is_kind(value, self.kind):
            raise InputError(explain(where, expected=_name(self.kind), got=repr(value)))
        if (self.low is not None or self.high is not None) and isinstance(value, Real):
            self._check_range(value, where)

    def _check_range(self, value: Any, where: str) -> None:
        low, high = -math.inf if self.low is None else self.low, math.inf if self.high is None else self.high
        inside = (low < value if self.open_low else low <= value) and value <= high
        if not (math.isfinite(value) and inside):
            raise InputError(
                explain(where, expected=f"a number in {'(' if self.open_low else '['}{low}, {high}]", got=repr(value))
            )


def param(
    default: Any,
    kind: type | tuple[type, ...] | None = None,
    *,
    options: Sequence[Any] | None = None,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
    each: bool = False,
    optional: bool = False,
) -> Any:
    """Declare a dataclass field that is a checked hyper-parameter; ``optional`` or a default of None admits None.

    With ``each`` the value is a sequence whose entries obey the rule.

    Examples
    --------
    >>> @dataclasses.dataclass
    ... class Model:
    ...     rank: int = param(3, int, low=1)
    >>> check_params(Model(rank=0))
    Traceback (most recent call last):
    ...
    tectum.core.errors.InputError: Model.rank: expected a number in [1, inf], got 0
    """
    kind = float if kind is None and not (low is None and high is None) else kind
    allowed = None if options is None else tuple(options)
    rule = Rule(kind, allowed, low, high, open_low, optional or default is None, each)
    return dataclasses.field(default=default, metadata={KEY: rule})


def check_params(owner: Any) -> None:
    """Check every declared hyper-parameter of a dataclass instance, in order of declaration."""
    for item in dataclasses.fields(owner):
        rule = item.metadata.get(KEY)
        if rule is not None:
            rule.check(getattr(owner, item.name), f"{type(owner).__name__}.{item.name}")


def _is_kind(value: Any, kind: type | tuple[type, ...]) -> bool:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if isinstance(value, (bool, np.bool_)):
        return bool in kinds
    return (
        isinstance(value, kinds)
        or (int in kinds and isinstance(value, Integral))
        or (float in kinds and isinstance(value, Real))
    )


def _same(value: Any, option: Any) -> bool:
    """Whether a value is one of the options: of its type (NumPy's text and numbers count) and equal."""
    return isinstance(value, type(option)) and isinstance(value, bool) == isinstance(option, bool) and value == option


def _name(kind: type | tuple[type, ...]) -> str:
    return " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))


def at_least(low: int, where: str, **values: int) -> None:
    """Raise InputError for the first count that is below ``low``."""
    for name, value in values.items():
        if value < low:
            raise InputError(explain(f"{where}({name})", expected=f"an integer >= {low}", got=repr(value)))
