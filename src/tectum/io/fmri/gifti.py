"""GIFTI files by nibabel's parser, with arrays that cannot grow beyond what they claim."""

from __future__ import annotations

import base64
import binascii
import io
import math
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import InputError, TectumWarning, explain
from tectum.core.recording import Recording

from ..files import member, reading
from .images import LIMIT, is_gzip, nib, open_numbers

_TEXT = 1 << 31  # bytes of XML


class _Counted(io.RawIOBase):
    """A stream that refuses to give more than a number of bytes."""

    def __init__(self, stream: Any, most: int, name: str) -> None:
        self.stream, self.left, self.name = stream, most, name

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        found: bytes = self.stream.read(size)
        self.left -= len(found)
        if self.left < 0:
            raise ValueError("more text than a GIFTI file may have")
        return found


def parse_gifti(path: Path, *, limit: int = LIMIT) -> Any:
    """Read a GIFTI file by nibabel's parser; no array may grow beyond what its dimensions say.

    Raises
    ------
    LoadError
        If an array has another size than its dimensions, claims more than ``limit``, lies outside the folder, or the
        XML defines entities.
    """
    parser = _parser_class()(path, limit)
    most = min(_TEXT, 1100 * path.stat().st_size) if is_gzip(path) else _TEXT
    with reading(path, "a GIFTI file"), open_numbers(path) as stream:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Actual # of data arrays")
            parser.parse(fptr=_Counted(stream, most, str(path)))
        if parser.img is None or not parser.img.darrays:
            raise ValueError("no data arrays")
        return parser.img


def _parser_class() -> Any:
    """Return nibabel's parser with bounded arrays; made here because nibabel is imported late."""
    base: Any = nib("gifti.parse_gifti_fast").GiftiImageParser

    class Bounded(base):  # type: ignore[misc]
        _char_blocks: list[str] | None

        def __init__(self, path: Path, limit: int) -> None:
            super().__init__()
            self.path, self.left = path, limit

        def _create_parser(self) -> Any:
            parser = super()._create_parser()
            parser.EntityDeclHandler = _refuse_entity
            return parser

        def flush_chardata(self) -> None:
            if self.write_to != "Data":
                super().flush_chardata()
                return
            text = "" if self._char_blocks is None else "".join(self._char_blocks)
            self._char_blocks = None
            array = _array(self.da, text, self.path, self.left)
            self.left -= array.nbytes
            self.da.data = array

    return Bounded


def _refuse_entity(*args: Any) -> None:
    raise ValueError("entities defined in the XML")


def _array(da: Any, text: str, path: Path, limit: int) -> np.ndarray:
    """Decode one data array after checking what it claims."""
    array_index_order_codes = nib("gifti.util").array_index_order_codes
    gifti_encoding_codes = nib("gifti.util").gifti_encoding_codes
    gifti_endian_codes = nib("gifti.util").gifti_endian_codes
    data_type_codes = nib("nifti1").data_type_codes

    dims = tuple(int(n) for n in da.dims)
    dtype = np.dtype(data_type_codes.dtype[da.datatype]).newbyteorder(gifti_endian_codes.byteorder[da.endian])
    need = math.prod(dims) * dtype.itemsize
    if min(dims, default=0) < 1 or dtype.kind not in "biuf" or need > limit:
        raise ValueError(f"a data array of shape {dims} and dtype {dtype}")
    encoding = gifti_encoding_codes.label[da.encoding]
    order = array_index_order_codes.npcode[da.ind_ord]
    if encoding == "ASCII":
        if need > 8 * len(text) + 8:
            raise ValueError(f"{len(text)} characters for a data array of shape {dims}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return np.loadtxt(io.StringIO(text), dtype=dtype, ndmin=1).reshape(dims, order=order)
    if encoding == "External":
        content = _external(da, path, need)
    else:
        content = _decoded(text, encoding == "B64GZ", need)
    if len(content) != need:
        raise ValueError(f"{len(content)} bytes in a data array of shape {dims} and {dtype}, which needs {need}")
    return np.frombuffer(bytearray(content), dtype).reshape(dims, order=order)


def _decoded(text: str, packed: bool, need: int) -> bytes:
    try:
        raw = base64.b64decode("".join(text.split()).encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as cause:
        raise ValueError(f"base64 that cannot be decoded: {cause}") from cause
    if not packed:
        return raw
    unpack = zlib.decompressobj()
    found = unpack.decompress(raw, need + 1)
    if len(found) <= need and not unpack.eof:
        raise ValueError("a compressed array that ends early")
    return found


def _external(da: Any, path: Path, need: int) -> bytes:
    """Read an array from a file beside, which must lie in the folder."""
    place = member(path.parent, str(da.ext_fname))
    with open(place, "rb") as stream:
        stream.seek(int(da.ext_offset))
        return stream.read(need)


def gifti_image(rec: Recording) -> Any:
    """Return the nibabel ``GiftiImage`` of a recording of vertices, one array a volume or map."""
    GiftiDataArray = nib("gifti").GiftiDataArray
    GiftiImage = nib("gifti").GiftiImage
    GiftiLabel = nib("gifti").GiftiLabel
    GiftiLabelTable = nib("gifti").GiftiLabelTable
    GiftiMetaData = nib("gifti").GiftiMetaData

    hemis = set(np.asarray(rec.coords.get("vertex", {}).get("hemi", [""])).tolist())
    if len(hemis) > 1:
        fix = "select one: rec.sel(vertex={'hemi': 'left'})"
        raise InputError(explain("to_nibabel", expected="one hemisphere", got=f"{sorted(hemis)}", fix=fix))
    others = tuple(d for d in rec.dims if d != "vertex")
    if len(others) > 1:
        raise InputError(explain("to_nibabel", expected="(vertex,) or (one axis, vertex)", got=repr(rec)))
    values = rec.tensor(*others, "vertex", device="cpu").reshape(-1, rec.sizes["vertex"]).numpy()
    labels = rec.meta.get("labels")
    intent = (
        "NIFTI_INTENT_LABEL" if labels else "NIFTI_INTENT_TIME_SERIES" if "time" in others else "NIFTI_INTENT_SHAPE"
    )
    meta = {"TimeStep": repr(1.0 / rec.rate)} if rec.rate is not None and "time" in others else {}
    if "time" in others and rec.rate is None:
        warnings.warn("to_nibabel: irregular times are lost", TectumWarning, stacklevel=3)
    names = rec.labels(others[0]) if others else None
    dtype = "NIFTI_TYPE_INT32" if values.dtype.kind in "biu" else "NIFTI_TYPE_FLOAT32"
    values = values.astype(np.int32 if values.dtype.kind in "biu" else np.float32)
    arrays = [
        GiftiDataArray(
            row, intent=intent, datatype=dtype, meta={**meta, **({} if names is None else {"Name": str(names[k])})}
        )
        for k, row in enumerate(values)
    ]
    table = GiftiLabelTable()
    for key, (name, rgba) in (labels or {}).items():
        label = GiftiLabel(int(key), *rgba)
        label.label = name
        table.labels.append(label)
    side = next(iter(hemis))
    own = {"AnatomicalStructurePrimary": f"Cortex{side.title()}"} if side else {}
    return GiftiImage(darrays=arrays, labeltable=table, meta=GiftiMetaData(own))
