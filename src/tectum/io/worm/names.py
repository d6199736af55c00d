"""The neurons of *C. elegans*: one sorted axis of names, what is known of each, and labels of files brought onto it.

Classes and types follow the cell list of the C. elegans Connectome Toolbox, transmitters Wang et al. (2024).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

from tectum.core.errors import InputError, TectumWarning, explain, nearest

Ambiguous = Literal["unidentified", "class", "guess"]
Guess = Literal["nearest", "left_first"]

#: Type, transmitters (a dash: none known), members of each class (a dot: the class is one neuron), classes.
_CLASSES = """
inter - . PVT RID
inter - L,R AVF AVH AVK BDU PVQ PVW RMG
inter ACh . AVG RIH RIR
inter ACh DL,DR,VL,VR SAA
inter ACh L,R AIA AIN AIY AVA AVB AVD AVE PVC PVP RIF RIP RMF URB
inter ACh+Glu L,R PVN
inter GABA . ALA AVL DVB RIS
inter GABA L,R AVJ RIB
inter Glu . DVC PVR
inter Glu L,R ADA AIB AIM AIZ AUA LUA RIA RIG
inter Glu+octopamine L,R RIC
inter Glu+tyramine L,R RIM
motor ACh . PDA PDB
motor ACh 1-6 VC
motor ACh 1-7 DB
motor ACh 1-9 DA
motor ACh 1-11 AS VB
motor ACh 1-12 VA
motor ACh D,VL,VR SAB
motor ACh DL,DR,VL,VR SIA SIB SMB URA
motor ACh L,R RIV RMH
motor ACh L,R,DL,DR,VL,VR RMD
motor ACh+5-HT L,R HSN
motor ACh+GABA DL,DR,VL,VR SMD
motor GABA 1-6 DD
motor GABA 1-13 VD
motor GABA D,L,R,V RME
pharyngeal - . I6
pharyngeal 5-HT L,R NSM
pharyngeal ACh . I3 M1 M4
pharyngeal ACh L,R I1 M2 MC
pharyngeal ACh+Glu . M5
pharyngeal Glu . I4 I5 MI
pharyngeal Glu L,R I2 M3
sensory - . PVM
sensory - L,R ASI
sensory ACh L,R ALN ASJ AWA AWB PLN SDQ URX
sensory ACh L,R,DL,DR,VL,VR IL2
sensory ACh+5-HT L,R ADF
sensory ACh+Glu . DVA
sensory ACh+Glu L,R AFD
sensory DA DL,DR,VL,VR CEP
sensory DA L,R ADE
sensory DA+Glu L,R PDE
sensory Glu . AQR AVM PQR
sensory Glu DL,DR,VL,VR OLQ URY
sensory Glu L,R ADL ALM ASE ASG ASH ASK AWC BAG FLP OLL PHA PHB PHC PLM PVD
sensory Glu L,R,DL,DR,VL,VR IL1
other - L,R CAN
"""

_PADDED = re.compile(r"([A-Z]+)0+([1-9]\d*)([A-Z]*)")
_SYNONYMS = {"DB1/3": "DB1", "DB3/1": "DB3"}
_ASYMMETRIC = {"AWCON": "ON", "AWC_ON": "ON", "AWCOFF": "OFF", "AWC_OFF": "OFF", "AWCOF": "OFF"}
_NO_NAME = re.compile(r"[\d\s.+-]*|NAN|NONE|NULL|MERGE|UNKNOWN")


class UnknownNeuronError(InputError, KeyError):
    """A label is no neuron of the axis, and the caller asked for a strict reading."""

    __str__ = Exception.__str__


@dataclass(frozen=True)
class Neuron:
    """What is known of one neuron."""

    name: str
    cell_class: str
    kind: str
    transmitter: str


@cache
def neurons(*, include_can: bool = False) -> dict[str, Neuron]:
    """Return the neurons of the hermaphrodite by name, sorted as strings: 300, with CANL and CANR 302.

    Examples
    --------
    >>> found = neurons()
    >>> len(found), list(found)[0], list(found)[-1], found["VD10"].transmitter
    (300, 'ADAL', 'VD9', 'GABA')
    """
    found = []
    for line in _CLASSES.strip().splitlines():
        kind, transmitter, members, *classes = line.split()
        for cell_class in classes if include_can else [c for c in classes if c != "CAN"]:
            sent = "" if transmitter == "-" else transmitter
            found += [Neuron(cell_class + end, cell_class, kind, sent) for end in _ends(members)]
    return {n.name: n for n in sorted(found, key=lambda n: n.name)}


def _ends(members: str) -> list[str]:
    first, _, last = members.partition("-")
    if last:
        return [str(k) for k in range(int(first), int(last) + 1)]
    return [""] if members == "." else members.split(",")


def axis(*, include_can: bool = False) -> list[str]:
    """Return the canonical axis: names sorted as strings, so VA1, VA10, VA11, VA12, VA2.

    Parameters
    ----------
    include_can : bool, default False
        Add CANL and CANR, which White counts as neurons and Cook as end organs.

    Examples
    --------
    >>> len(axis()), len(axis(include_can=True))
    (300, 302)
    """
    return list(neurons(include_can=include_can))


def neuron_table(names: Sequence[str] | np.ndarray) -> dict[str, np.ndarray]:
    """Return the columns name, class, type, transmitter and sex_shared for names of neurons; "" is nobody.

    Parameters
    ----------
    names : sequence of str
        Canonical names or "".

    Examples
    --------
    >>> {k: v.tolist() for k, v in neuron_table(["AVAL", ""]).items()}["class"]
    ['AVA', '']
    """
    known = neurons(include_can=True)
    nobody = Neuron("", "", "", "")
    rows = [known.get(str(name), nobody) for name in names]
    shared = [bool(r.name) and r.cell_class not in ("HSN", "VC") for r in rows]
    columns = {"name": [r.name for r in rows], "class": [r.cell_class for r in rows], "type": [r.kind for r in rows]}
    table = {key: np.asarray(values, dtype=str) for key, values in columns.items()}
    table["transmitter"] = np.asarray([r.transmitter for r in rows], dtype=str)
    return {**table, "sex_shared": np.asarray(shared, dtype=bool)}


def plain(label: Any) -> str:
    """Return a label upper-cased, stripped, without padding zeros and with one spelling of synonyms.

    Examples
    --------
    >>> [plain(x) for x in (" as01", "VD10", "DB1/3", None)]
    ['AS1', 'VD10', 'DB1', '']
    """
    text = str(label).strip().upper() if isinstance(label, (str, np.str_)) else ""
    padded = _PADDED.fullmatch(text)
    text = "".join(padded.groups()) if padded else text
    return _SYNONYMS.get(text, text)


def class_of(label: str) -> str:
    """Return the class that an ambiguous label names ("RMF?", "SMBD", "AVFL/R"), "" if it names none.

    Examples
    --------
    >>> [class_of(x) for x in ("RMF?", "SMBD?", "AVFL/R", "XYZ")]
    ['RMF', 'SMB', 'AVF', '']
    """
    classes = {n.cell_class for n in neurons(include_can=True).values()}
    stem = re.sub(r"(?<=[A-Z0-9])(L/R|R/L|D/V|V/D)$|[?_\-\s]+", "", label)
    shorter = [stem, *(stem[:-k] for k in (1, 2) if re.fullmatch(r"[LRDV]+", stem[-k:]))]
    return next((s for s in shorter if s in classes), "")


@dataclass(frozen=True)
class Identities:
    """Labels of one animal brought onto the axis.

    Parameters
    ----------
    names : array of str, shape (n_units,)
        Canonical names; "" is unidentified. None occurs twice.
    classes : array of str, shape (n_units,)
        Class of the identified; with ``ambiguous="class"`` also of those whose member is not told.
    unmatched : tuple of str
        Labels that name no neuron.
    ambiguous : tuple of str
        Labels that name several.
    duplicates : tuple of str
        Names that occurred more than once.
    undeclared : tuple of str
        AWCON or AWCOFF where nobody said on which side AWCON is.
    """

    names: np.ndarray
    classes: np.ndarray
    unmatched: tuple[str, ...] = ()
    ambiguous: tuple[str, ...] = ()
    duplicates: tuple[str, ...] = ()
    undeclared: tuple[str, ...] = ()

    def check(self, where: str, *, strict: bool = False) -> None:
        """Warn of what was left unidentified; with ``strict`` labels that name no neuron raise.

        Raises
        ------
        UnknownNeuronError
            A KeyError and an InputError.
        """
        if strict and self.unmatched:
            fix = nearest(self.unmatched[0], axis(include_can=True))
            raise UnknownNeuronError(
                explain(where, expected="names of neurons", got=", ".join(self.unmatched[:12]), fix=fix)
            )
        if self.duplicates:
            text = f"{where}: {', '.join(self.duplicates)} named more than once; the surest (else first) keeps the name"
            warnings.warn(text, TectumWarning, stacklevel=2)
        if self.undeclared:
            text = f"{where}: {', '.join(self.undeclared)} left unidentified; pass awc_on='L' or 'R' of each animal"
            warnings.warn(text, TectumWarning, stacklevel=2)


def identify(
    labels: Sequence[Any],
    *,
    confidence: np.ndarray | None = None,
    awc_on: Literal["L", "R"] | None = None,
    ambiguous: Ambiguous = "unidentified",
    include_can: bool = False,
    guess: Guess = "nearest",
) -> Identities:
    """Bring the labels of one animal onto the canonical axis.

    Parameters
    ----------
    labels : sequence of str or None
        As in the file; numbers, blanks and "merge" are no labels.
    confidence : array, shape (n_units,), optional
        Decides which of two units keeps a name; without it (or with equal values) the first does.
    awc_on : {"L", "R"}, optional
        Side of AWCON in this animal. Which of AWCL and AWCR it is, is random in every animal, so without this AWCON
        and AWCOFF stay unidentified.
    ambiguous : {"unidentified", "class", "guess"}
        What to do with labels such as "RMF?", "SMBD" or "AVFL/R": nothing, note the class, or guess as the published
        homogenised data do.
    include_can : bool, default False
        Whether CANL and CANR are on the axis.
    guess : {"nearest", "left_first"}
        Rule for guesses: the most alike free name, or L before R.

    Returns
    -------
    Identities

    Examples
    --------
    >>> identify(["AVAL", "as01", "RMF?", "17", "XYZ"]).names.tolist()
    ['AVAL', 'AS1', '', '', '']
    """
    _check(awc_on, ambiguous, guess)
    if ambiguous == "guess":
        return _guessed(labels, guess, include_can)
    known = neurons(include_can=include_can)
    names, classes = [], []
    doubtful, unmatched, undeclared = [], [], []
    for label in labels:
        text = plain(label)
        if text in _ASYMMETRIC and awc_on is not None:
            text = "AWC" + (awc_on if _ASYMMETRIC[text] == "ON" else "LR".replace(awc_on, ""))
        names.append(text if text in known else "")
        classes.append(known[text].cell_class if text in known else "")
        if text in known or _NO_NAME.fullmatch(text):
            continue
        if text in _ASYMMETRIC:
            undeclared.append(text)
        elif class_of(text) and text not in ("CANL", "CANR"):
            doubtful.append(text)
            classes[-1] = class_of(text) if ambiguous == "class" else ""
        else:
            unmatched.append(text)
    kept, duplicates = _once(names, confidence)
    found = [known[n].cell_class if n else c for n, c in zip(kept, classes, strict=True)]
    if ambiguous != "class":
        found = [known[n].cell_class if n else "" for n in kept]
    return Identities(
        np.asarray(kept, dtype=str), np.asarray(found, dtype=str), tuple(unmatched), tuple(doubtful), tuple(duplicates),
        tuple(undeclared),
    )  # fmt: skip


def _check(awc_on: Any, ambiguous: Any, guess: Any) -> None:
    rules: Mapping[str, tuple[Any, tuple[Any, ...]]] = {
        "awc_on": (awc_on, (None, "L", "R")),
        "ambiguous": (ambiguous, ("unidentified", "class", "guess")),
        "guess": (guess, ("nearest", "left_first")),
    }
    for name, (value, allowed) in rules.items():
        if value not in allowed:
            raise InputError(explain(name, expected=f"one of {allowed}", got=repr(value)))


def _once(names: list[str], confidence: np.ndarray | None) -> tuple[list[str], list[str]]:
    """Let each name stand once, at its surest unit, and tell which occurred more often."""
    sure = np.zeros(len(names)) if confidence is None else np.nan_to_num(np.asarray(confidence, float), nan=-np.inf)
    best: dict[str, int] = {}
    repeated: dict[str, None] = {}
    for k, name in enumerate(names):
        if name and name in best:
            repeated[name] = None
        if name and (name not in best or sure[k] > sure[best[name]]):
            best[name] = k
    return [name if name and best[name] == k else "" for k, name in enumerate(names)], list(repeated)


def _guessed(labels: Sequence[Any], guess: Guess, include_can: bool) -> Identities:
    """Name units as the published homogenised data were named, right or wrong."""
    known = neurons(include_can=include_can)
    taken: list[str] = []
    for label in labels:
        text = str(label).strip() if isinstance(label, (str, np.str_)) else ""
        rule = _nearest_free if guess == "nearest" else _left_first
        taken.append(rule(text, taken, list(known)))
    classes = [known[n].cell_class if n else "" for n in taken]
    return Identities(np.asarray(taken, dtype=str), np.asarray(classes, dtype=str))


def _nearest_free(text: str, taken: list[str], names: list[str]) -> str:
    """Return the free name that agrees with a label in most places, the first of equals; numbers are no labels."""
    if not text or text.isnumeric():
        return ""
    bare = text.replace("?", "")
    free = [name for name in names if name not in taken]
    return max(free, key=lambda name: sum(a == b for a, b in zip(bare, name, strict=False)), default="")


def _left_first(text: str, taken: list[str], names: list[str]) -> str:
    """Return the label if it is a free name, else its free left or right neuron."""
    if not text.isalnum() or (text in names and text in taken):
        return ""
    return next((name for name in (text, text + "L", text + "R") if name in names and name not in taken), "")
