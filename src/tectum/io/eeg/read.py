"""EEG, sEEG, ECoG and MEG files of every format that MNE reads, with units, triggers and annotations checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tectum.core.recording import Recording
from tectum.core.session import Session

from ..files import reading
from .files import mne_warnings, open_file
from .parts import Options, recordings


def read_eeg(
    path: str | Path,
    *,
    picks: str | Sequence[str] | None = None,
    types: str | Mapping[str, str] | None = None,
    units: str | None = None,
    events: bool = True,
    truncated: bool = False,
    subject: str = "",
    session: str = "",
) -> Recording | Session:
    """Read a recording of electrophysiology with MNE.

    Parameters
    ----------
    path : path
        EDF, BDF, GDF, BrainVision, FIF (raw data, epochs, averages), EEGLAB ``.set``, FieldTrip ``.mat``, CNT, EGI,
        KIT, CTF, BTi, Nihon Kohden, Persyst, Curry, ANT, Nicolet, NEDF, BCI2000 and what else MNE reads.
    picks : str or sequence of str, optional
        Types ("eeg", "seeg", "mag", ...) or names of channels to keep, in one recording; they must share unit and rate.
    types : str or mapping of str to str, optional
        What the channels are where the file does not tell: ``"seeg"`` for all that it calls EEG, or a type by name.
    units : str, optional
        What the numbers of the file are in, whatever the file claims. To convert a unit use ``rec.to_units``.
    events : bool, default True
        Read trigger channels.
    truncated : bool, default False
        Read the whole records of a file that was cut off.
    subject, session : str
        Who and when; default what the file says.

    Returns
    -------
    Recording or Session
        One recording where all channels have one type, else a session of one recording a type (and unit, and rate):
        units are never mixed. Continuous data (channel, time) stay on disk until used; epochs (trial, channel, time)
        are in memory. Values are in V, T and T/m. ``t0`` is the time of the first sample since the measurement date.
        Channels have ``name``, ``type``, ``bad`` and, where known, ``x``, ``y``, ``z`` in m. Intervals: "annotations"
        and "bad" (those that begin with BAD) with ``label``; "events" with ``label``, ``value`` and ``channel``.

    Raises
    ------
    LoadError
        If the file is damaged, cut off, or of another format than its name says.
    AmplitudeError
        If the values cannot be in the unit that the file claims.
    """
    path = Path(path)
    with reading(path, "a recording of electrophysiology"), mne_warnings(str(path)):
        opened = open_file(path, truncated=truncated)
        options = Options(
            where=str(path),
            picks=picks,
            types=types,
            units=units,
            events=events,
            who={"subject": subject, "session": session},
            columns=opened.extra.places if opened.extra else {},
            trial=opened.extra.trial if opened.extra else {},
            meta={"format": opened.kind, **(opened.extra.meta if opened.extra else {})},
            step={"format": opened.kind, "file": path.name},
        )
        parts = recordings(opened, options)
        return one_or_session(parts)


def one_or_session(parts: Mapping[str, Recording]) -> Recording | Session:
    """Return the only part, or a session of all."""
    first = next(iter(parts.values()))
    if len(parts) == 1:
        return first
    return Session(items_=parts, subject=first.subject, session=first.session, meta=first.meta)
