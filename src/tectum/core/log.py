"""The library's logger and its progress bar: it logs, it never prints."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

logger = logging.getLogger("tectum")
logger.addHandler(logging.NullHandler())

T = TypeVar("T")


def progress(items: Iterable[T], description: str, *, total: int | None = None, initial: int = 0) -> Iterator[T]:
    """Iterate with a progress bar that stays quiet when the error stream is not a terminal.

    Examples
    --------
    >>> list(progress([1, 2], "counting"))
    [1, 2]
    """
    yield from tqdm(items, desc=description, total=total, initial=initial, disable=None, leave=False)
