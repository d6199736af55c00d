"""Images as files hold them: claims of headers checked before anything is read, geometry, parts that stay on disk."""

from __future__ import annotations

import math
import struct
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from tectum.core.errors import InputError, LoadError, TectumWarning, explain

from ..files import MOST_SHRUNK, reading

LIMIT = 1 << 34  # bytes of numbers that a file may unpack to
BLOCK = 1 << 20  # bytes read at once: they are used while they lie in the cache
_XFORM_MM = 1.0  # sform and qform further apart than this are reported


@dataclass(frozen=True)
class Stored:
    """The numbers of an image, opened only while a part of them is read.

    Parameters
    ----------
    path : Path
        The file with the numbers.
    shape : tuple of int
        Size of each axis, first axis fastest in the file.
    stored : dtype
        Type in the file.
    offset : int
        Byte at which the numbers begin.
    slope, inter : float
        ``value = stored * slope + inter``.
    """

    path: Path
    shape: tuple[int, ...]
    stored: np.dtype
    offset: int
    slope: float = 1.0
    inter: float = 0.0

    @property
    def dtype(self) -> np.dtype:
        """Type of what is read."""
        return self.stored if (self.slope, self.inter) == (1.0, 0.0) else np.dtype(np.float64)

    @property
    def compressed(self) -> bool:
        """Whether only a pass through the whole file reaches its end."""
        return is_gzip(self.path)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read a part."""
        ArrayProxy = nib("arrayproxy").ArrayProxy

        with reading(self.path, "the image that was there when it was opened"):
            proxy = ArrayProxy(str(self.path), (self.shape, self.stored, self.offset, self.slope, self.inter))
            return np.asarray(proxy[index])

    def blocks(self, *, size: int = BLOCK, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        """Yield consecutive volumes as arrays (volume, voxel), voxels in the order of the file, not yet scaled."""
        volume = math.prod(self.shape[:3])
        last = math.prod(self.shape[3:]) if stop is None else stop
        count, nbytes = max(1, size // max(1, volume * self.stored.itemsize)), volume * self.stored.itemsize
        with reading(self.path, "an image as long as its header says"), open_numbers(self.path) as stream:
            stream.seek(self.offset + start * nbytes)
            for first in range(start, last, count):
                many = min(count, last - first)
                content = _exactly(stream, many * nbytes)
                yield np.frombuffer(content, self.stored).reshape(many, volume)
            if last == math.prod(self.shape[3:]) and self.compressed:
                _drain(stream)

    def scaled(self, block: np.ndarray) -> np.ndarray:
        """Apply the scaling of the header."""
        apply_read_scaling = nib("volumeutils").apply_read_scaling

        return np.asarray(apply_read_scaling(block, np.float64(self.slope), np.float64(self.inter)))


@dataclass(frozen=True)
class Masked:
    """The voxels of a mask in every volume, read when asked for: a lazy array (volume, voxel).

    Parameters
    ----------
    image : Stored
        The volumes.
    voxels : array of int, shape (n_voxels,)
        Positions in the order of the file.
    """

    image: Stored
    voxels: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Volumes and voxels."""
        return math.prod(self.image.shape[3:]), len(self.voxels)

    @property
    def dtype(self) -> np.dtype:
        """Type of what is read."""
        return np.dtype(np.float32)

    def __getitem__(self, index: Any) -> np.ndarray:
        """Read some volumes of some voxels, given as slices."""
        parts = index if isinstance(index, tuple) else (index,)
        start, stop, _ = (parts[0] if parts else slice(None)).indices(self.shape[0])
        voxels = self.voxels[parts[1]] if len(parts) > 1 else self.voxels
        found = np.empty((max(0, stop - start), len(voxels)), np.float32)
        if not found.size:
            return found
        first = 0
        for block in self.image.blocks(start=start, stop=stop):
            found[first : first + len(block)] = self.image.scaled(block.take(voxels, axis=1))
            first += len(block)
        return found


@dataclass(frozen=True)
class Header:
    """What is to be known of an image before its numbers are read.

    Parameters
    ----------
    numbers : object
        :class:`Stored`, or an array in memory.
    affine : array, shape (4, 4), float64
        From voxel indices to mm.
    kind : str
        "nifti1", "nifti2", "analyze" or "mgh".
    step : float
        Fourth zoom as stored.
    unit : str
        Its unit: "s", "ms", "us", "hz" or "unknown".
    notes : tuple of str
        What was found odd.
    """

    numbers: Any
    affine: np.ndarray
    kind: str
    step: float
    unit: str
    notes: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Size of each axis."""
        return tuple(int(n) for n in self.numbers.shape)

    @property
    def geometry(self) -> dict[str, Any]:
        """What JSON keeps of the place of the voxels."""
        return {"affine": self.affine.tolist(), "shape": list(self.shape[:3]), "kind": self.kind}


def nib(part: str = "") -> Any:
    """Return nibabel or one of its modules, imported when first used."""
    return import_module(f"nibabel.{part}" if part else "nibabel")


def is_gzip(path: Path) -> bool:
    """Tell a gzip file by its first two bytes."""
    with open(path, "rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def open_numbers(path: Path) -> BinaryIO:
    """Open a file, through gzip where its content is: by isal, which unpacks three times as fast, where it is there."""
    if not is_gzip(path):
        return open(path, "rb")
    return cast(BinaryIO, import_module("isal.igzip" if find_spec("isal") else "gzip").open(path, "rb"))


def _exactly(stream: BinaryIO, size: int) -> bytes:
    content = stream.read(size)
    if len(content) != size:
        raise ValueError(f"the file ends {size - len(content)} bytes early, after {stream.tell()} bytes")
    return content


def _drain(stream: BinaryIO) -> None:
    """Read what follows the numbers, so that gzip compares its checksum."""
    for _ in range(64):
        if not stream.read(1 << 20):
            return
    raise ValueError("more than 64 MiB after the numbers")


def check_claims(path: Path, *, limit: int = LIMIT) -> None:
    """Refuse an image whose header claims what its file cannot hold or what is above ``limit`` bytes.

    Raises
    ------
    LoadError
        Naming the bytes claimed and those there; nothing is allocated before.
    """
    with reading(path, "a NIfTI, Analyze or MGH image"):
        size = path.stat().st_size
        with open_numbers(path) as stream:
            head = stream.read(544)
        claims = _claims(head, path)
        total = sum(claims)
        packed = is_gzip(path)
        if total > limit:
            fix = "pass limit= in bytes if it is right"
            raise LoadError(explain(str(path), expected=f"at most {limit} bytes unpacked", got=f"{total}", fix=fix))
        if total > (MOST_SHRUNK * size if packed else size):
            what = f"{size} bytes{' of gzip' if packed else ''}"
            raise LoadError(explain(str(path), expected=f"{total} bytes as the header says", got=what))


def _claims(head: bytes, path: Path) -> tuple[int, int]:
    """Return where the numbers begin and how many bytes they are, by the header."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".mgh", ".mgz")):
        version, *dims, code = struct.unpack_from(">6i", head)
        width = {0: 1, 1: 4, 3: 4, 4: 2, 10: 2}.get(code)
        if version != 1 or min(dims) < 1 or width is None:
            raise ValueError(f"version {version}, shape {tuple(dims)}, type {code} in the MGH header")
        return 284, math.prod(dims) * width
    if name.endswith(".img"):
        return 0, 0  # its header is another file; nibabel checks the length
    for mark in "<>":
        (size,) = struct.unpack_from(f"{mark}i", head)
        if size in (348, 540):
            return _nifti_claims(head, mark, size == 540, name.endswith(".hdr"))
    raise ValueError(f"no NIfTI header: its first bytes are {head[:4]!r}")


def _nifti_claims(head: bytes, mark: str, second: bool, apart: bool) -> tuple[int, int]:
    if second:
        _, bits = struct.unpack_from(f"{mark}2h", head, 12)
        rank, *dims = struct.unpack_from(f"{mark}8q", head, 16)
        (offset,) = struct.unpack_from(f"{mark}q", head, 168)
    else:
        rank, *dims = struct.unpack_from(f"{mark}8h", head, 40)
        _, bits = struct.unpack_from(f"{mark}2h", head, 70)
        (offset,) = struct.unpack_from(f"{mark}f", head, 108)
    if not 1 <= rank <= 7 or min(dims[:rank]) < 1 or not 1 <= bits <= 256:
        raise ValueError(f"rank {rank}, shape {tuple(dims[: max(0, min(rank, 7))])}, {bits} bits in the header")
    if not (math.isfinite(offset) and 0 <= offset < LIMIT):
        raise ValueError(f"numbers that begin at byte {offset}")
    return (0, 0) if apart else (int(offset), math.prod(dims[:rank]) * bits // 8)


def open_image(path: Path, *, limit: int = LIMIT) -> Header:
    """Read the header of a NIfTI, Analyze or MGH image; its numbers stay on disk."""
    nibabel = nib()

    check_claims(path, limit=limit)
    with reading(path, "a NIfTI, Analyze or MGH image"):
        image: Any = nibabel.load(path)
        if type(image).__name__ == "Cifti2Image":
            fix = "read it by tectum.io.fmri.cifti.read_cifti, or give it the suffix of its kind, such as .dtseries.nii"
            raise LoadError(explain(str(path), expected="an image of voxels", got="a CIFTI-2 file", fix=fix))
        proxy: Any = getattr(image, "dataobj", None)
        stored = stored_of(proxy)
        if stored is None:
            raise ValueError(f"an image of class {type(image).__name__}")
        place = stored.path
        need = stored.offset + math.prod(stored.shape) * stored.stored.itemsize
        if not stored.compressed and place.stat().st_size < need:
            expected = f"{need} bytes as the header says"
            raise LoadError(explain(str(place), expected=expected, got=f"{place.stat().st_size} bytes"))
        return replace(describe(image, str(path)), numbers=stored)


def stored_of(proxy: Any) -> Stored | None:
    """Return where the numbers of a nibabel proxy lie, None for an array in memory or an open stream."""
    place = getattr(proxy, "file_like", None)
    if not isinstance(place, (str, Path)) or not hasattr(proxy, "offset"):
        return None
    return Stored(
        Path(place),
        tuple(proxy.shape),
        np.dtype(proxy.dtype),
        int(proxy.offset),
        float(proxy.slope),
        float(proxy.inter),
    )


def describe(image: Any, where: str) -> Header:
    """Return the header of a nibabel image after checking rank, numbers and affine.

    Raises
    ------
    InputError
        If the affine is singular or the numbers are not real.
    """
    proxy = image.dataobj
    header = image.header
    dtype = np.dtype(proxy.dtype)
    if dtype.kind not in "biuf":
        raise InputError(explain(where, expected="an image of real numbers", got=f"dtype {dtype}"))
    if not 3 <= len(proxy.shape) <= 5 or min(proxy.shape) < 1:
        raise InputError(explain(where, expected="an image of 3 or 4 axes", got=f"shape {tuple(proxy.shape)}"))
    affine, notes = _affine(image, where)
    zooms = [float(z) for z in header.get_zooms()]
    kind = _kind(image)
    unit = "ms" if kind == "mgh" else _unit(header)
    return Header(proxy, affine, kind, zooms[3] if len(zooms) > 3 else 0.0, unit, notes)


def _kind(image: Any) -> str:
    name = type(image).__name__.lower()
    if "mgh" in name:
        return "mgh"
    return next((k for k in ("nifti2", "nifti1") if k in name), "analyze")


def _unit(header: Any) -> str:
    """Return the unit of the fourth zoom by the header."""
    if not hasattr(header, "get_xyzt_units"):
        return "unknown"
    try:
        unit = header.get_xyzt_units()[1]
    except KeyError:
        return "unknown"
    return {"sec": "s", "msec": "ms", "usec": "us", "hz": "hz"}.get(unit, "unknown")


def _affine(image: Any, where: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the affine (sform before qform) in mm, and a note where both exist and disagree."""
    affine = image.affine
    if affine is None:
        raise InputError(explain(where, expected="an affine", got="none"))
    affine = np.array(affine, dtype=np.float64)
    notes = []
    header = image.header
    if hasattr(header, "get_xyzt_units"):
        try:
            factor = {"meter": 1e3, "micron": 1e-3}.get(header.get_xyzt_units()[0], 1.0)
        except KeyError:
            factor = 1.0
        if factor != 1.0:
            affine[:3] *= factor
            notes.append(f"lengths times {factor:g} to mm")
    check_affine(affine, where)
    apart = _forms_apart(header, image.shape[:3])
    if apart > _XFORM_MM:
        notes.append(f"sform and qform are {apart:.3g} mm apart; the sform is used")
        warnings.warn(f"{where}: {notes[-1]}", TectumWarning, stacklevel=2)
    return affine, tuple(notes)


def check_affine(affine: np.ndarray, where: str) -> None:
    """Raise :class:`InputError` for an affine that is not finite or cannot be inverted."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise InputError(explain(where, expected="a finite 4 x 4 affine", got=str(affine.tolist())))
    with np.errstate(all="ignore"):
        scale = np.linalg.norm(affine[:3, :3], axis=0)
        volume = abs(np.linalg.det(affine[:3, :3] / np.where(scale > 0, scale, 1.0)))
    if not (scale > 0).all() or not volume > 1e-6:
        raise InputError(explain(where, expected="an affine with an inverse", got=f"a singular one, {affine.tolist()}"))


def _forms_apart(header: Any, shape: tuple[int, ...]) -> float:
    """Return how far apart the two transforms of a NIfTI header put a corner, in mm."""
    if not hasattr(header, "get_sform"):
        return 0.0
    try:
        (first, a), (second, b) = header.get_sform(coded=True), header.get_qform(coded=True)
    except ValueError:  # a qform that is no rotation
        return 0.0
    if not a or not b or first is None or second is None:
        return 0.0
    corners = np.array([[i * (shape[0] - 1), j * (shape[1] - 1), k * (shape[2] - 1), 1.0]
                        for i in (0, 1) for j in (0, 1) for k in (0, 1)])  # fmt: skip
    return float(np.abs(corners @ (first - second).T).max())


def resolve_tr(
    header: Header | None, sidecar: Mapping[str, Any], given: float | None, where: str
) -> tuple[float, dict[str, Any]]:
    """Return the repetition time in s and where it comes from.

    The sidecar's ``RepetitionTime`` decides; without one ``given`` does, then the header. A header in seconds above
    100, and every MGH header, is taken as milliseconds with a warning; a 1 without a unit, which writers leave there,
    counts as missing.

    Raises
    ------
    InputError
        If there is none, it lies outside 0.2 to 10 s, or ``given`` contradicts the sidecar; all candidates are listed.
    """
    found = {"sidecar": _number(sidecar.get("RepetitionTime")), "argument": _number(given)}
    milliseconds = ""
    default = header is not None and header.unit == "unknown" and header.step == 1.0  # what writers leave there
    if header is not None and header.step > 0 and math.isfinite(header.step) and not default:
        factor = {"ms": 1e-3, "us": 1e-6}.get(header.unit, 1.0)
        if header.kind == "mgh":
            milliseconds = f"MGH header {header.step:g} taken as ms"
        elif header.unit in ("s", "unknown") and header.step > 100:
            factor, milliseconds = 1e-3, f"header {header.step:g} {header.unit} taken as ms"
        found["header"] = 1.0 / header.step if header.unit == "hz" else float(f"{header.step * factor:.7g}")
    seen = {k: v for k, v in found.items() if v is not None}
    listed = ", ".join(f"{k} {v:g} s" for k, v in seen.items()) or "none in sidecar, header or argument"
    source = next((k for k in ("sidecar", "argument", "header") if k in seen), None)
    if source is None or not 0.2 <= seen[source] <= 10:
        fix = "pass tr= in s" if source != "sidecar" else "correct the sidecar, or pass tr= with sidecar=False"
        raise InputError(explain(f"{where}: repetition time", expected="0.2 to 10 s", got=listed, fix=fix))
    if {"sidecar", "argument"} <= set(seen) and abs(seen["sidecar"] - seen["argument"]) > 1e-3:
        fix = "leave tr= out, or pass sidecar=False"
        raise InputError(explain(f"{where}: repetition time", expected="one value", got=listed, fix=fix))
    if source == "header" and milliseconds:
        warnings.warn(
            f"{where}: {milliseconds}: {seen['header']:g} s; pass tr= to be sure", TectumWarning, stacklevel=3
        )
    elif "header" in seen and abs(seen["header"] - seen[source]) > 1e-3 * seen[source]:
        warnings.warn(
            f"{where}: repetition times differ: {listed}; the {source}'s is used", TectumWarning, stacklevel=3
        )
    return seen[source], {"tr": seen[source], "tr_from": source, **({"tr_note": milliseconds} if milliseconds else {})}


def _number(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) and found > 0 else None
