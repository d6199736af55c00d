"""Every file that neo reads, through neo."""

from __future__ import annotations

import gc
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tectum.core.errors import InputError, LoadError, MissingExtraError, explain, nearest
from tectum.core.session import Session

from . import mat5
from .files import reading
from .neo_checks import CHECKS
from .signature import magic
from .trial import try_first

#: Readers of neo that run what a file holds.
UNSAFE = ("PickleIO",)
_START = """
import json
import warnings
warnings.simplefilter("ignore")
from neo import io
reader = getattr(io, sys.argv[3])(**{sys.argv[4]: sys.argv[1]}, **json.loads(sys.argv[5]))
"""
_HEADERS = """
for block in range(reader.block_count()):
    for segment in range(reader.segment_count(block)):
        for stream in range(reader.signal_streams_count()):
            reader.get_signal_size(block, segment, stream)
        for unit in range(reader.spike_channels_count()):
            reader.spike_count(block, segment, unit)
"""
_WHOLE = """
reader.read_block() if "Block" in {c.__name__ for c in reader.readable_objects} else reader.read_segment()
"""
#: Classes that read text, or what was checked before.
_UNTRIED = (
    "AsciiImageIO", "AsciiSignalIO", "AsciiSpikeTrainIO", "ExampleIO", "KlustaKwikIO", "NeoMatlabIO", "NestIO",
)  # fmt: skip


def read_neo(
    path: str | Path,
    *,
    io: str | None = None,
    trial: bool = True,
    subject: str = "",
    session: str = "",
    **options: Any,
) -> Session:
    """Read a file or folder with neo.

    Parameters
    ----------
    path : path
        Anything that one of neo's classes reads.
    io : str, optional
        Name of the class, e.g. ``"BlackrockIO"``; default what neo picks by the suffix.
    trial : bool, default True
        Read the headers of binary files in another process first (a third of a second), or the whole file where a
        class of neo does not tell them apart: a damaged file that makes neo crash or wait there is refused.
    subject, session : str
        Who and when.
    **options
        Passed to the class of neo.

    Returns
    -------
    Session
        As :func:`tectum.io.convert.from_neo` makes it: ``spikes``, signals, events and epochs under their names. All is
        read into memory.

    Raises
    ------
    LoadError
        If neo cannot read it, or only by running what it holds.
    InputError
        If neo has no class of that name.
    """
    try:
        from neo import io as classes
    except ImportError as cause:
        fix = "pip install tectum[ephys]"
        raise MissingExtraError(explain(str(path), expected="neo", got="none installed", fix=fix)) from cause
    from .convert.neo_blocks import from_neo

    path = Path(path)
    kind = _kind(classes, path, io)
    with reading(path, f"what neo.io.{kind.__name__} reads"):
        if kind.__name__ == "NeoMatlabIO":
            _check_matlab(path)
        if kind.__name__ in CHECKS:
            CHECKS[kind.__name__](path)
        if trial and kind.__name__ not in _UNTRIED:
            _try(kind, path, options)
        with _closing():
            found = from_neo(_content(kind(**_place(kind, path), **options)), subject=subject, session=session)
    parts = found if isinstance(found, Session) else {"part": found}
    return Session(items_=dict(parts), meta={"format": "neo", "io": kind.__name__}, subject=subject, session=session)


def _try(kind: Any, path: Path, options: dict[str, Any]) -> None:
    """Let neo read a file in another process: the headers, or all where a class of neo does not tell them apart.

    Options that are no plain values cannot be handed over: then there is no trial.
    """
    try:
        words = json.dumps(options)
    except TypeError:
        return
    (place,) = _place(kind, path)
    headers = hasattr(kind, "parse_header")
    code, name = _START + (_HEADERS if headers else _WHOLE), kind.__name__
    try_first(code, path, f"neo.io.{name}", name, place, words, whole=not headers)


@contextmanager
def _closing() -> Iterator[None]:
    """Close the files that neo's readers leave open: they go with the readers, which refer to themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            yield
        finally:
            gc.collect()


def _kind(classes: Any, path: Path, io: str | None) -> Any:
    """Return the class that reads a path."""
    known = {c.__name__: c for c in classes.iolist}
    if io is not None and io not in known:
        raise InputError(explain("io", expected="a class of neo.io", got=repr(io), fix=nearest(io, known)))
    suffix = path.suffix.lower().lstrip(".")
    names = [io] if io else [n for n, c in known.items() if suffix and suffix in {str(e).lower() for e in c.extensions}]
    names = [n for n in names if n not in UNSAFE]
    if not names:
        got = f"suffix {path.suffix!r}" if io is None else f"{io}, which runs what a file holds"
        raise LoadError(
            explain(str(path), expected="a file that neo reads", got=got, fix="pass io= with a class of neo.io")
        )
    if len(names) > 1:
        fix = f"pass io={names[0]!r}"
        raise LoadError(explain(str(path), expected="one class of neo.io", got=", ".join(names), fix=fix))
    return known[names[0]]


def _check_matlab(path: Path) -> None:
    """Refuse a damaged file: SciPy, which neo trusts it to, ends the process on some."""
    if magic(path, 6) != b"MATLAB":
        raise LoadError(explain(str(path), expected="a MATLAB file of version 5", got=f"{magic(path, 6)!r} in front"))
    mat5.check(path)


def _place(kind: Any, path: Path) -> dict[str, str]:
    """Return the argument that tells a class where to read."""
    return {"dirname" if kind.mode == "dir" else "filename": str(path)}


def _content(reader: Any) -> Any:
    """Return the block of a file, or its segment where the format has no more."""
    readable = {c.__name__ for c in reader.readable_objects}
    found = reader.read_block(lazy=False) if "Block" in readable else reader.read_segment(lazy=False)
    if found is None:
        raise ValueError("neo found neither block nor segment")
    return found
