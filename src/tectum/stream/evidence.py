"""From the probabilities of overlapping windows to commands: accumulate, compare, wait, reject."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tectum.core.errors import InputError, explain, nearest
from tectum.core.params import check_params, param
from tectum.core.serialize import storable


@storable
@dataclass(frozen=True, kw_only=True)
class Evidence:
    """How probabilities become a decision.

    Choose threshold and dwell on sequences, not on windows, as :func:`tectum.stream.calibrate` does: overlapping
    windows are correlated.

    Parameters
    ----------
    temperature : float, default 1
        Logits are divided by it before the softmax; fit it on validation data.
    memory : float, default 0
        Share of the accumulated log evidence that a hop keeps: ``e = memory * e + log p``.
    threshold : float or None, default None
        Posterior that a class must pass; None decides for the best class in every window.
    dwell : int, default 1
        Windows in a row in which the same class must pass.
    refractory : float, default 0
        Time in s after a decision in which every output is neutral.
    reject : tuple of str or int, default ()
        Classes that mean "no command", such as rest: they give a neutral output.

    Examples
    --------
    >>> made = Accumulator(Evidence(threshold=0.8, dwell=2), ("left", "right"))
    >>> [made.update([0.0, 3.0], time=t)[0] for t in (0.0, 0.1, 0.2)]
    [None, 'right', 'right']
    """

    temperature: float = param(1.0, float, low=0, open_low=True)
    memory: float = param(0.0, float, low=0, high=0.999)
    threshold: float | None = param(None, float, low=0, high=1)
    dwell: int = param(1, int, low=1)
    refractory: float = param(0.0, float, low=0)
    reject: tuple[str | int, ...] = ()

    def __post_init__(self) -> None:
        check_params(self)


def as_evidence(rule: Evidence | Mapping[str, Any] | None) -> Evidence:
    """Return a rule from itself or from its fields; the default rule from None."""
    if rule is None or isinstance(rule, Evidence):
        return rule or Evidence()
    return Evidence(**{**rule, "reject": tuple(rule.get("reject", ()))})


class Accumulator:
    """The running state of :class:`Evidence` for a list of classes."""

    def __init__(self, rule: Evidence, labels: Sequence[str | int]) -> None:
        unknown = [name for name in rule.reject if name not in labels]
        if unknown:
            fix = nearest(str(unknown[0]), map(str, labels))
            raise InputError(explain("Evidence.reject", expected="classes of the decoder", got=str(unknown), fix=fix))
        self.rule, self.labels = rule, tuple(labels)
        self.reset()

    def reset(self) -> None:
        """Forget all evidence; a refractory period goes on."""
        self._evidence = [0.0] * len(self.labels)
        self._best, self._run = -1, 0
        self._silent_until = getattr(self, "_silent_until", -math.inf)

    def restart(self) -> None:
        """Forget everything, as when the clock jumps."""
        self._silent_until = -math.inf
        self.reset()

    def update(self, logits: Sequence[float], *, time: float) -> tuple[str | int | None, tuple[float, ...], str]:
        """Take the logits of one window.

        Parameters
        ----------
        logits : sequence of float
            One for each class.
        time : float
            Time of the window in s, for the refractory period.

        Returns
        -------
        label : str, int or None
            The decision; None is neutral.
        posterior : tuple of float
        flag : str
            "refractory" while one lasts, else "".
        """
        posterior = self.add(logits)
        label, flag = self.decide(posterior, time=time)
        return label, posterior, flag

    def add(self, logits: Sequence[float]) -> tuple[float, ...]:
        """Accumulate the logits of one window and return the posterior."""
        log_p = _log_softmax([x / self.rule.temperature for x in logits])
        if self.rule.memory == 0:
            self._evidence = log_p
            return tuple(map(math.exp, log_p))
        self._evidence = [self.rule.memory * e + p for e, p in zip(self._evidence, log_p, strict=True)]
        return tuple(map(math.exp, _log_softmax(self._evidence)))

    def decide(self, posterior: Sequence[float], *, time: float) -> tuple[str | int | None, str]:
        """Compare a posterior with the rule: return the decision, None for neutral, and a flag."""
        rule = self.rule
        best = max(range(len(posterior)), key=posterior.__getitem__)
        passes = rule.threshold is None or posterior[best] > rule.threshold
        self._run = (self._run + 1 if best == self._best else 1) if passes else 0
        self._best = best
        if time < self._silent_until:
            self._run = 0
            return None, "refractory"
        if self._run < rule.dwell or self.labels[best] in rule.reject:
            return None, ""
        if rule.refractory:
            self._silent_until, self._run = time + rule.refractory, 0
        return self.labels[best], ""


def _log_softmax(values: Sequence[float]) -> list[float]:
    """Return log probabilities in float64."""
    top = max(values)
    norm = top + math.log(math.fsum([math.exp(v - top) for v in values]))
    return [v - norm for v in values]
