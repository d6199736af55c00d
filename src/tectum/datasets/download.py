"""Download single files with known digests through pooch; nothing is downloaded unless asked for."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import InputError, LoadError, explain

CACHE_VARIABLE = "TECTUM_DATA"


class AccountError(LoadError, RuntimeError):
    """A data set must be downloaded by hand, because its terms need an account."""


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One downloadable file of a data set.

    Parameters
    ----------
    name : str
        File name in the cache.
    url : str
        Where it is.
    sha256 : str
        Its digest; without one it is not downloaded.
    bytes : int
        Its size.
    """

    name: str
    url: str
    sha256: str = ""
    bytes: int = 0

    @classmethod
    def parse(cls, entry: Mapping[str, Any], where: str) -> RemoteFile:
        """Build from an entry of a card."""
        if not isinstance(entry, Mapping) or not {"name", "url"} <= set(entry) <= set(cls.__dataclass_fields__):
            raise InputError(explain(where, expected="tables of name, url, sha256 and bytes", got=repr(sorted(entry))))
        return cls(**entry)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def default_folder() -> Path:
    """Return where downloads are kept: the environment variable TECTUM_DATA, else the user's cache."""
    import pooch

    return Path(os.environ.get(CACHE_VARIABLE) or pooch.os_cache("tectum")).expanduser()


def retrieve(file: RemoteFile, folder: Path) -> Path:
    """Return one checked file in ``folder``, downloading it if it is missing or differs.

    Parameters
    ----------
    file : RemoteFile
        What to download.
    folder : Path
        Where to keep it; made if needed.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    LoadError
        If there is no network or the digest differs; the file is then kept with the suffix ``.bad``.
    """
    import pooch

    target = folder / file.name
    where = f"datasets.fetch: {file.url}"
    found: list[str] = []
    try:
        pooch.retrieve(
            file.url,
            known_hash=f"sha256:{file.sha256}",
            fname=file.name,
            path=folder,
            downloader=_keeping(target, file.sha256, found),
        )
    except (OSError, ValueError) as cause:
        if found:
            bad = f"{found[0]}; the file was kept as {target}.bad"
            raise LoadError(explain(where, expected=f"sha256 {file.sha256}", got=bad)) from cause
        raise LoadError(
            explain(
                where,
                expected="a download",
                got=f"{type(cause).__name__}",
                fix=f"without network, put the file {file.name} (sha256 {file.sha256}) into {folder} and call again",
            )
        ) from cause
    return target


def _keeping(target: Path, sha256: str, found: list[str]) -> Callable[[str, str, Any], None]:
    """Return pooch's own downloader for the address, with a step that keeps a file whose digest differs."""
    import pooch

    def download(url: str, output_file: str, pooch_: Any) -> None:
        try:
            pooch.core.choose_downloader(url)(url, output_file, pooch_)
        except OSError as refused:  # pooch leaves the answer of a server that refuses open, and with it the socket
            if getattr(refused, "response", None) is not None:
                refused.response.close()  # type: ignore[attr-defined]
            raise
        digest = sha256_of(Path(output_file))
        if digest != sha256:
            found.append(digest)
            shutil.copyfile(output_file, f"{target}.bad")

    return download
