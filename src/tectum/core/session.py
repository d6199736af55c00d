"""Session: what was recorded together, on one clock, in one subject."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from .errors import InputError, explain, nearest
from .graph import Graph
from .intervals import Intervals
from .recording import Recording
from .serialize import storable
from .spikes import Spikes

T = TypeVar("T")
Item = Recording | Spikes | Intervals | Graph


@storable
@dataclass(frozen=True, kw_only=True, eq=False)
class Session(Mapping[str, Item]):
    """A frozen mapping of named recordings, spikes, intervals and graphs on one clock.

    Parameters
    ----------
    items_ : mapping of str to Recording, Spikes, Intervals or Graph
        The parts by name.
    subject, session : str
        Who and when.
    meta : mapping
        Anything else that JSON can hold.

    Examples
    --------
    >>> s = Session(items_={"spikes": Spikes.from_trains([[0.5, 2.0]]), "wake": Intervals.from_pairs([(0, 1)])})
    >>> len(s.restrict(s["wake"])["spikes"])
    1
    """

    items_: Mapping[str, Item]
    subject: str = ""
    session: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "items_", dict(self.items_))
        object.__setattr__(self, "meta", dict(self.meta))
        wrong = {
            k: type(v).__name__
            for k, v in self.items_.items()
            if not isinstance(v, (Recording, Spikes, Intervals, Graph))
        }
        if wrong:
            raise InputError(explain("Session", expected="Recording, Spikes, Intervals or Graph", got=str(wrong)))

    def __getitem__(self, name: str) -> Item:
        if name not in self.items_:
            raise KeyError(
                explain(
                    "Session",
                    expected=f"a part among {sorted(self.items_)}",
                    got=repr(name),
                    fix=nearest(name, self.items_),
                )
            )
        return self.items_[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.items_)

    def __len__(self) -> int:
        return len(self.items_)

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} ({type(part).__name__})" for name, part in self.items_.items())
        return f"<Session {self.subject} {self.session}: {parts}>"

    def only(self, kind: type[T]) -> T:
        """Return the single part of a type, e.g. ``session.only(Spikes)``."""
        found = [v for v in self.items_.values() if isinstance(v, kind)]
        if len(found) != 1:
            raise InputError(
                explain(
                    "Session.only",
                    expected=f"one {kind.__name__}",
                    got=f"{len(found)} in {sorted(self.items_)}",
                    fix="name it: session['...']",
                )
            )
        return found[0]

    def restrict(self, intervals: Intervals, *, allow_empty: bool = False) -> Session:
        """Restrict every recording, spike and interval part to ``intervals``; graphs stay.

        A recording or spikes that the intervals miss raise InputError unless ``allow_empty``.
        """
        return replace(
            self, items_={name: _restrict(part, intervals, allow_empty) for name, part in self.items_.items()}
        )

    def save(self, path: str) -> None:
        """Write to one ``.safetensors`` file; :func:`tectum.load` reads it."""
        from . import serialize

        loaded = {k: v.load() if isinstance(v, Recording) else v for k, v in self.items_.items()}
        serialize.write(path, replace(self, items_=loaded))


def _restrict(part: Item, intervals: Intervals, allow_empty: bool) -> Item:
    if isinstance(part, Graph) or (isinstance(part, Recording) and "time" not in part.dims):
        return part
    if isinstance(part, Intervals):
        return part.within(intervals)
    return part.restrict(intervals, allow_empty=allow_empty)
