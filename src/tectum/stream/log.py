"""The log of a stream: every chunk and decision, so that a session can be run again bit by bit."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tectum.core.errors import InputError, LoadError, explain
from tectum.core.result import versions

from .decision import Decision

if TYPE_CHECKING:
    from .runtime import Stream

FORMAT = 1


class Log:
    """Write JSON lines: first the set-up, then chunks and decisions in their order.

    Samples are kept as raw bytes, in float32 if that loses nothing.
    """

    def __init__(self, path: str | Path, stream: Stream) -> None:
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115  closed by close()
        head = {"tectum_stream": FORMAT, "options": stream.options, "labels": list(stream.labels)}
        self._line({**head, "contract": asdict(stream.contract), "versions": versions()})

    def _line(self, content: dict[str, Any]) -> None:
        self._file.write(json.dumps(content) + "\n")

    def chunk(self, rows: np.ndarray, times: np.ndarray | None) -> None:
        """Keep a chunk (time, channel) with its timestamps."""
        small = rows.astype(np.float32)
        exact = np.array_equal(small, rows, equal_nan=True)
        kept = {"n": len(rows), "type": "f4" if exact else "f8", "rows": _packed(small if exact else rows)}
        self._line({**kept, "times": None if times is None else _packed(times)})

    def mark(self, time: float, code: str | int | None) -> None:
        """Keep a marker."""
        self._line({"mark": time, "code": code})

    def use(self) -> None:
        """Keep that another decoder takes over."""
        self._line({"use": True})

    def decision(self, made: Decision, *, silent: bool) -> None:
        """Keep a decision, and whether silence made it."""
        self._line({"decision": asdict(made), "silent": silent})

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


def _packed(array: np.ndarray) -> str:
    little = array.astype(array.dtype.newbyteorder("<"))
    return base64.b64encode(little.tobytes()).decode("ascii")


class Logged(NamedTuple):
    """What a log holds."""

    options: dict[str, Any]  #: of the stream
    labels: list[str | int]
    chunks: list[tuple[np.ndarray, np.ndarray | None]]  #: rows (time, channel) and their times
    decisions: list[Decision]  #: made by samples
    silences: list[Decision]  #: neutral ones, made because no samples came
    marks: list[tuple[int, float, str | int | None]]  #: chunks before it, time and code of each marker
    uses: list[tuple[int, int]]  #: chunks and markers before each change of the decoder


def read_log(path: str | Path) -> Logged:
    """Read a log.

    Raises
    ------
    LoadError
        If the file is no log of a stream. A last line that was cut off is left out.
    """
    head = None
    chunks: list[tuple[np.ndarray, np.ndarray | None]] = []
    marks: list[tuple[int, float, str | int | None]] = []
    uses: list[tuple[int, int]] = []
    made: dict[bool, list[Decision]] = {False: [], True: []}
    for content in _lines(path):
        if head is None:
            head = content
            if head.get("tectum_stream") != FORMAT:
                raise LoadError(explain(str(path), expected="a log of a stream", got="another file"))
        elif "decision" in content:
            fields = content["decision"]
            plain = {**fields, "proba": tuple(fields["proba"]), "flags": tuple(fields["flags"])}
            made[content["silent"]].append(Decision(**plain))
        elif "use" in content:
            uses.append((len(chunks), len(marks)))
        elif "mark" in content:
            marks.append((len(chunks), content["mark"], content["code"]))
        else:
            chunks.append(_chunk(content))
    if head is None:
        raise LoadError(explain(str(path), expected="a log of a stream", got="an empty file"))
    return Logged(head["options"], head["labels"], chunks, made[False], made[True], marks, uses)


def _lines(path: str | Path) -> Iterator[dict[str, Any]]:
    """Read the whole lines of a file."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as cause:
                raise LoadError(explain(str(path), expected="a log of a stream", got="another file")) from cause


def _chunk(content: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
    rows = np.frombuffer(base64.b64decode(content["rows"]), dtype="<" + content["type"]).reshape(content["n"], -1)
    packed = content["times"]
    times = None if packed is None else np.frombuffer(base64.b64decode(packed), dtype="<f8")
    return rows.astype(np.float64), None if times is None else times.astype(np.float64)


def replay(decoder: Any, path: str | Path, *, then: Sequence[Any] = ()) -> list[Decision]:
    """Run the chunks of a log through a decoder again, with the set-up of then.

    Parameters
    ----------
    decoder : estimator or Exported
        The one of the session, or another with the same contract.
    path : path
        What :class:`Stream` wrote with ``log=``.
    then : sequence of decoders
        Those given to :meth:`Stream.use`, in order.

    Returns
    -------
    list of Decision
        With the latencies of now. Decisions that silence alone caused are not among them.
    """
    from .evidence import as_evidence
    from .runtime import Stream

    logged = read_log(path)
    if len(then) != len(logged.uses):
        expected = f"the {len(logged.uses)} decoders that took over, in order"
        raise InputError(explain("replay(then)", expected=expected, got=f"{len(then)} of them"))
    options = dict(logged.options)
    stream = Stream(decoder, evidence=as_evidence(options.pop("evidence")), **options)
    made, marked, uses = list[Decision](), 0, list(zip(logged.uses, then, strict=True))
    for k, (rows, times) in enumerate([*logged.chunks, (None, None)]):
        while True:
            if uses and uses[0][0] == (k, marked):
                stream.use(uses.pop(0)[1])
            elif marked < len(logged.marks) and logged.marks[marked][0] == k:
                made += stream.mark(*logged.marks[marked][1:])
                marked += 1
            else:
                break
        made += [] if rows is None else stream.push(rows, times)
    return made
