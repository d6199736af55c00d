"""The registry of data sets: one card each, packed samples that load at once, larger public sets that are explained."""

from __future__ import annotations

import builtins
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..core import serialize
from ..core.device import resolve_device
from ..core.errors import InputError, LoadError, explain, nearest
from ..core.graph import Graph
from ..core.log import logger
from ..core.recording import Recording
from ..core.session import Session
from .download import AccountError, RemoteFile, default_folder, retrieve, sha256_of

CARD = "card.toml"
KINDS = ("packed", "remote")

#: What every card states, and what each kind adds: key -> type.
_COMMON: dict[str, type] = {
    "key": str, "kind": str, "title": str, "description": str, "modality": str, "citation": list, "doi": list,
    "licence": str, "needs_account": bool, "reader": str, "units": str, "assumed": list,
}  # fmt: skip
_PACKED: dict[str, type] = {"licence_note": str, "file": dict, "source": dict}
_REMOTE: dict[str, type] = {"access": str, "size": str, "checksum": str}
_OPTIONAL: dict[str, type] = {
    "contents": list,
    "files": list,
    "accession": str,
    "bytes": int,
    "page": str,
    "notes": str,
}
_TABLES: dict[str, dict[str, type]] = {
    "file": {"name": str, "bytes": int, "sha256": str},
    "source": {"package": str, "version": str, "form": str, "archive": str, "sha256": str, "licence_member": str,
               "members": list},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Card:
    """What is known of one data set; the fields of its ``card.toml``.

    Parameters
    ----------
    key, title, description, modality : str
        What it is; ``key`` is the name used by :func:`load`.
    kind : str
        "packed" (the sample ships with tectum) or "remote" (the user downloads it).
    citation, doi : tuple of str
        What to cite.
    licence, licence_note : str
        SPDX name or the terms in words.
    needs_account : bool
        Whether downloading needs a registration.
    reader, access : str
        How to load it here; the call of the field's own client that downloads it.
    units : str
        Physical units of the data.
    assumed : tuple of str
        What was assumed or changed.
    size, checksum, accession, page, notes : str
        Size in words, which digests the source publishes, archive number, page and remarks of a remote set.
    bytes : int, optional
        Size of the packed file, or of the remote set where it is known.
    sha256 : str
        Digest of the packed file.
    file : str
        Name of the packed file.
    source : mapping
        Package, version, archive and members that a packed sample was read from, with digests.
    contents : tuple of mapping
        Name, type, shape and units of each packed part.
    files : tuple of RemoteFile
        Single files with known digests that :func:`fetch` can download.
    folder : Path
        Where the card lies.
    """

    key: str
    kind: str
    title: str
    description: str
    modality: str
    citation: tuple[str, ...]
    doi: tuple[str, ...]
    licence: str
    needs_account: bool
    reader: str
    units: str
    assumed: tuple[str, ...]
    licence_note: str = ""
    access: str = ""
    size: str = ""
    checksum: str = ""
    accession: str = ""
    page: str = ""
    notes: str = ""
    bytes: int | None = None
    sha256: str = ""
    file: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)
    contents: tuple[Mapping[str, Any], ...] = ()
    files: tuple[RemoteFile, ...] = ()
    folder: Path = field(default=Path(), repr=False, compare=False)

    @property
    def path(self) -> Path:
        """The packed file."""
        return self.folder / self.file

    @property
    def amount(self) -> str:
        """Size in words."""
        return self.size or (f"{self.bytes / 1e6:.2f} MB" if self.bytes is not None else "unknown")

    def __str__(self) -> str:
        rows = {
            "modality": self.modality, "kind": self.kind, "size": self.amount, "units": self.units,
            "licence": f"{self.licence}{' (needs an account)' if self.needs_account else ''}",
            "accession": self.accession, "load": self.reader, "access": self.access, "checksum": self.checksum,
            "from": _origin(self.source), "page": self.page, "notes": self.notes,
        }  # fmt: skip
        lines = [f"{self.key}: {self.title}", "", self.description.strip(), ""]
        lines += [f"{name:<10} {text}" for name, text in rows.items() if text]
        lines += [f"part       {_part(c)}" for c in self.contents]
        lines += [f"file       {f.name}: {f.url}, {f.bytes:,} bytes, sha256 {f.sha256}" for f in self.files]
        lines += [f"assumed    {text}" for text in self.assumed]
        lines += [f"cite       {text}" for text in self.citation]
        return "\n".join(lines)


def _origin(source: Mapping[str, Any]) -> str:
    return f"{source['package']}=={source['version']} ({source['form']})" if source else ""


def _part(content: Mapping[str, Any]) -> str:
    shape = " x ".join(str(n) for n in content["shape"])
    rate = f", {content['rate']:g} Hz" if "rate" in content else ""
    return f"{content['name']}: {content['type']} {shape}, {content['units']}{rate}"


class Catalogue(builtins.list[Card]):
    """Cards in the order of their keys, printed as a table."""

    def __repr__(self) -> str:
        rows = [("key", "modality", "size", "licence", "title")]
        rows += [(c.key, c.modality, c.amount, c.licence, c.title) for c in self]
        cells = [[_clip(text, limit) for text, limit in zip(row, (24, 12, 30, 24, 70), strict=True)] for row in rows]
        for card, row in zip(self, cells[1:], strict=True):
            row[2] += "" if card.kind == "packed" else " *"
        widths = [max(len(row[i]) for row in cells) for i in range(4)]
        lines = ["  ".join([*(t.ljust(w) for t, w in zip(row, widths, strict=False)), row[4]]) for row in cells]
        remote = sum(c.kind == "remote" for c in self)
        return "\n".join(lines + (["* not packed: tectum.datasets.info(key) tells how to get it"] if remote else []))

    __str__ = __repr__


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3].rstrip() + "..."


# Cards


def root() -> Path:
    """Return the folder of the cards: inside the installed package, or beside ``src`` in a source checkout."""
    package = Path(__file__).resolve().parents[1]
    places = (package / "_datasets", package.parents[1] / "datasets")
    found = next((place for place in places if any(place.glob(f"*/{CARD}"))), None)
    if found is None:
        raise LoadError(
            explain("datasets", expected=f"cards in {places[0]} or {places[1]}", got="none", fix="reinstall tectum")
        )
    return found


def parse(content: Mapping[str, Any], where: str, *, folder: Path = Path()) -> Card:
    """Check the content of a card and return it.

    Parameters
    ----------
    content : mapping
        The parsed TOML.
    where : str
        Named in errors.
    folder : Path, optional
        Folder of the card.

    Returns
    -------
    Card
        The checked card.

    Raises
    ------
    InputError
        If an entry is missing, unknown, of another type or empty.
    """
    if content.get("kind") not in KINDS:
        raise InputError(explain(f"{where}: kind", expected=f"one of {KINDS}", got=repr(content.get("kind"))))
    required = _COMMON | (_PACKED if content["kind"] == "packed" else _REMOTE)
    _check_entries(content, required, _OPTIONAL, where)
    for name in ("file", "source"):
        if name in content:
            _check_entries(content[name], _TABLES[name], {}, f"{where}: {name}")
    return Card(**_fields(content, where), folder=folder)


def _fields(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Turn checked content into the fields of a card."""
    fields = {name: tuple(value) if isinstance(value, builtins.list) else value for name, value in content.items()}
    fields["description"] = " ".join(content["description"].split())
    fields["files"] = tuple(RemoteFile.parse(entry, f"{where}: files") for entry in content.get("files", ()))
    if "file" in content:
        fields |= {"file": content["file"]["name"], **{k: content["file"][k] for k in ("bytes", "sha256")}}
    return fields


def _check_entries(
    content: Mapping[str, Any], required: Mapping[str, type], optional: Mapping[str, type], where: str
) -> None:
    """Refuse missing, unknown, mistyped and empty entries."""
    known = {**required, **optional}
    for name in content:
        if name not in known:
            raise InputError(explain(where, expected="known entries", got=repr(name), fix=nearest(name, known)))
    for name in required:
        if name not in content:
            raise InputError(explain(where, expected=f"an entry {name!r}", got="none"))
    for name, value in content.items():
        if not isinstance(value, known[name]) or isinstance(value, bool) != (known[name] is bool) or value == "":
            raise InputError(explain(f"{where}: {name}", expected=f"non-empty {known[name].__name__}", got=repr(value)))


@cache
def _cards() -> dict[str, Card]:
    """Read every card once."""
    cards = {}
    for file in sorted(root().glob(f"*/{CARD}")):
        card = parse(tomllib.loads(file.read_text(encoding="utf-8")), f"{file.parent.name}/{CARD}", folder=file.parent)
        if card.key != file.parent.name:
            raise InputError(explain(f"{file.parent.name}/{CARD}", expected="the folder's name as key", got=card.key))
        cards[card.key] = card
    return cards


def catalogue(*, modality: str | None = None, kind: str | None = None) -> Catalogue:
    """List the data sets; public as :func:`tectum.datasets.list`.

    Parameters
    ----------
    modality : str, optional
        Keep one modality: "calcium", "spikes", "ieeg", "eeg", "fmri", "connectome", ...
    kind : str, optional
        Keep "packed" or "remote" ones.

    Returns
    -------
    Catalogue
        A list of :class:`Card` that prints as a table; packed samples come first.

    Raises
    ------
    InputError
        If the modality or kind is unknown.

    Examples
    --------
    >>> from tectum import datasets
    >>> [card.key for card in datasets.list(modality="calcium", kind="packed")]
    ['songbird_hvc', 'two_photon']
    """
    cards = sorted(_cards().values(), key=lambda card: (KINDS.index(card.kind), card.key))
    for name, value, known in (
        ("modality", modality, {card.modality for card in cards}),
        ("kind", kind, set(KINDS)),
    ):
        if value is not None and value not in known:
            raise InputError(
                explain(f"datasets.list: {name}", expected="a known one", got=repr(value), fix=nearest(value, known))
            )
    return Catalogue(card for card in cards if modality in (None, card.modality) and kind in (None, card.kind))


def info(key: str) -> Card:
    """Return the card of a data set: what it is, its licence and citation, and how to get it.

    Parameters
    ----------
    key : str
        Name in :func:`tectum.datasets.list`.

    Returns
    -------
    Card
        Prints as a description; ``card.licence``, ``card.citation``, ``card.sha256`` and the rest are its fields.

    Raises
    ------
    InputError
        If there is no such data set; the message names the closest.

    Examples
    --------
    >>> from tectum import datasets
    >>> datasets.info("songbird_hvc").licence
    'MIT'
    """
    cards = _cards()
    if key not in cards:
        raise InputError(explain("datasets", expected="a key of the registry", got=repr(key), fix=nearest(key, cards)))
    return cards[key]


# Loading


def load(key: str, *, device: str = "cpu") -> Any:
    """Load a packed sample; for a public set that is not packed, say how to get it.

    Values that were packed in half precision to save space arrive as float32.

    Parameters
    ----------
    key : str
        Name in :func:`tectum.datasets.list`.
    device : str, default "cpu"
        Where the tensors go.

    Returns
    -------
    Recording, Session, or dict of str to Session or Graph
        As the card's ``contents`` and ``reader`` say.

    Raises
    ------
    InputError
        If there is no such data set.
    LoadError
        If the packed file is missing or its SHA-256 differs from the card, or if the set is not packed: the message
        then holds the download call, size, licence and the way to read a local copy. Sets that need an account raise
        :class:`tectum.datasets.AccountError`, a LoadError too.

    Examples
    --------
    >>> from tectum import datasets
    >>> datasets.load("songbird_hvc")["calcium"]
    <Recording calcium (time: 666, unit: 75) 30 Hz, deconvolved>
    """
    card, where = info(key), f"datasets.load({key!r})"
    if card.kind == "remote":
        error = AccountError if card.needs_account else LoadError
        raise error(explain(where, expected="a packed sample", got="a set that is not packed", fix=directions(card)))
    if not card.path.is_file():
        raise LoadError(explain(str(card.path), expected="the packed sample", got="no file", fix="reinstall tectum"))
    found = sha256_of(card.path)
    if found != card.sha256:
        raise LoadError(
            explain(str(card.path), expected=f"sha256 {card.sha256}", got=found, fix="restore the file: it was changed")
        )
    logger.info("%s (%s): cite %s", card.title, card.licence, "; ".join(card.citation))
    return widen(serialize.read(card.path, device=resolve_device(device)))


def directions(card: Card) -> str:
    """Compose what a user must know to get a set that is not packed."""
    parts = [
        f"download it with: {card.access}", f"size: {card.size}", f"licence: {card.licence}",
        f"checksum: {card.checksum}", "an account is needed" if card.needs_account else "",
        f"page: {card.page}" if card.page else "", f"then read the local copy: {card.reader}",
    ]  # fmt: skip
    return " | ".join(part for part in parts if part)


def widen(part: Any) -> Any:
    """Turn half-precision data of a container, or of every container in a mapping, into float32."""
    if isinstance(part, Session):
        return replace(part, items_={name: widen(item) for name, item in part.items_.items()})
    if isinstance(part, Recording) and part.data.dtype == torch.float16:
        return part.to(dtype=torch.float32)
    if isinstance(part, Graph) and part.weights.dtype == torch.float16:
        return replace(part, weights=part.weights.float())
    return {name: widen(item) for name, item in part.items()} if isinstance(part, dict) else part


def fetch(key: str, path: str | os.PathLike[str] | None = None) -> builtins.list[Path]:
    """Download the files of a data set that is one or a few files with known digests, or check local copies.

    Title, size and licence are logged before the download starts.

    Parameters
    ----------
    key : str
        Name in :func:`tectum.datasets.list`.
    path : path, optional
        Folder to keep the files in, or that already holds copies downloaded by hand. Default: a folder of the data
        set's name in the user's cache, or in the folder that the environment variable ``TECTUM_DATA`` names.

    Returns
    -------
    list of Path
        The files, checked.

    Raises
    ------
    InputError
        If there is no such data set, or it is not made of single files with known digests.
    LoadError
        If a file cannot be downloaded (with the address, file name, folder and digest for a download by hand), or
        its digest differs (the file is kept with the suffix ``.bad``).
    AccountError
        If the set needs an account.
    """
    card, where = info(key), f"datasets.fetch({key!r})"
    if card.kind == "packed":
        raise InputError(explain(where, expected="a remote set", got="a packed sample", fix=f"use {card.reader}"))
    if card.needs_account:
        raise AccountError(explain(where, expected="a public set", got="one with an account", fix=directions(card)))
    if not card.files or not all(file.sha256 for file in card.files):
        raise InputError(explain(where, expected="single files with known SHA-256", got="none", fix=directions(card)))
    folder = Path(path).expanduser() if path is not None else default_folder() / key
    logger.warning("%s: %s, licence %s", card.title, card.size, card.licence)
    return [retrieve(file, folder) for file in card.files]
