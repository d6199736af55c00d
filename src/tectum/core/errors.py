"""Every error and warning the toolkit raises, and the one sentence they share.

A message says what is wrong and where, what was expected, what was received and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TectumError(Exception):
    """Base of all errors raised on purpose by tectum."""


class InputError(TectumError, ValueError):
    """An argument or a data set is not what the call needs."""


class AxisError(InputError):
    """The axes of an array are missing, unknown, ambiguous or in the wrong order."""


class UnitsError(InputError):
    """The physical unit is unknown, missing or contradicted by the data."""


class ContractError(InputError):
    """Data at predict time differ from the data the model was trained on."""


class NotFittedError(TectumError, ValueError, AttributeError):
    """A result was asked of an estimator that has not been fitted."""


class LoadError(TectumError, OSError):
    """A file cannot be read: it is missing, damaged, foreign or unsafe."""


class MismatchError(LoadError, RuntimeError):
    """A loaded decoder does not give the stored output for the stored input."""


class MissingExtraError(TectumError, ImportError):
    """An optional package is not installed."""


class NonFiniteError(TectumError, ArithmeticError):
    """A computation produced NaN or infinity."""


class NotDefiniteError(NonFiniteError, RuntimeError):
    """A matrix that must be positive definite is not, and jitter does not help; ``members`` are the batch indices."""

    members: tuple[tuple[int, ...], ...] = ()


class TooLargeError(TectumError, MemoryError):
    """A result would need more memory than the stated limit."""


class TectumWarning(UserWarning):
    """Something was assumed, dropped or repaired, and the result may depend on it."""


class DegenerateStateWarning(TectumWarning):
    """A hidden state hardly occurs in the data, so that its parameters mean little."""


def explain(where: str, *, expected: str, got: str, fix: str = "") -> str:
    """Compose the sentence that every error of the toolkit speaks.

    Examples
    --------
    >>> explain("NTF.fit", expected="rank >= 1", got="rank=0", fix="choose a rank")
    'NTF.fit: expected rank >= 1, got rank=0; choose a rank'
    """
    return f"{where}: expected {expected}, got {got}" + (f"; {fix}" if fix else "")


def nearest(name: str, known: Iterable[str]) -> str:
    """Name the closest known spelling as a hint, or list what is known.

    Examples
    --------
    >>> nearest("chanel", ["time", "channel"])
    "did you mean 'channel'?"
    """
    known = [str(k) for k in known]
    lower = {k.lower(): k for k in known}
    close = difflib.get_close_matches(name.lower(), lower, n=1)
    return f"did you mean {lower[close[0]]!r}?" if close else f"known: {', '.join(sorted(known)) or 'none'}"
