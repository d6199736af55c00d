"""NWB files out of containers, through pynwb, and containers out of pynwb's objects."""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tectum.core.errors import InputError, MissingExtraError, TectumWarning, explain
from tectum.core.intervals import Intervals
from tectum.core.lazy import LazyArray
from tectum.core.recording import Recording
from tectum.core.serialize import replacing
from tectum.core.session import Session
from tectum.core.spikes import Spikes

from ..nwb import read_nwb
from ..nwb_series import OURS, VOLTS

#: What a round trip through NWB loses.
LOST = (
    "graphs, second sets of spikes, and recordings without time (told by a warning)",
    "footprints (unit, y, x) of a calcium recording come back as images (unit, x, y) of its plane",
    "coordinates of axes other than the units of a calcium recording and the channels of a recording in volts",
    "the mask, and intervals of a recording; the support is derived anew from its clock",
    "meta but for the session's start, description, species, sex and age; the history",
    "the subject and session of parts where they differ from those of the session",
    "slashes in names, unless the first piece is a container that NWB knows (Fluorescence, DfOverF, Position, ...)",
    "columns of intervals called id, tags or timeseries; columns of units that hold other than numbers and text",
    "float64 values come back as float32 unless dtype='float64' is asked for",
)
_CONTAINERS = {
    "Fluorescence": "ophys", "Deconvolved": "ophys", "Neuropil": "ophys", "DfOverF": "ophys", "Position": "behavior",
    "CompassDirection": "behavior", "EyeTracking": "behavior", "PupilTracking": "behavior",
    "BehavioralTimeSeries": "behavior",
}  # fmt: skip
_SPATIAL = ("Position", "CompassDirection", "EyeTracking")
_PIXEL = [("x", "u4"), ("y", "u4"), ("weight", "f4")]
_NO_TIME = datetime(1970, 1, 1, tzinfo=UTC)
_BLOCK = 1 << 14  # samples written at once


def _pynwb() -> Any:
    try:
        with _quiet():
            import pynwb
    except ImportError as cause:
        fix = "pip install tectum[nwb]"
        raise MissingExtraError(explain("to_nwb", expected="pynwb", got="none installed", fix=fix)) from cause
    return pynwb


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the warnings of pynwb and its parts to themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def from_nwb(obj: Any, **options: Any) -> Session:
    """Convert an NWBFile of pynwb.

    Parameters
    ----------
    obj : pynwb.NWBFile
        Read from a file that is still there, which is then read lazily, or made in memory.
    **options
        Passed to :func:`tectum.io.nwb.read_nwb`.

    Returns
    -------
    Session
    """
    pynwb = _pynwb()
    if not isinstance(obj, pynwb.NWBFile):
        raise InputError(explain("from_nwb", expected="a pynwb.NWBFile", got=type(obj).__name__))
    source = obj.container_source
    if source and os.path.isfile(source) and not obj.modified:
        return read_nwb(source, **options)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder) / "made.nwb"
        with pynwb.NWBHDF5IO(path, "w") as out:
            out.write(obj)
        with warnings.catch_warnings():
            warnings.simplefilter("default", TectumWarning)
            found = read_nwb(path, **options)
        parts = {name: part.load() if isinstance(part, Recording) else part for name, part in found.items()}
    return Session(items_=parts, subject=found.subject, session=found.session, meta=found.meta)


def to_nwb(obj: Session | Spikes | Recording | Intervals, path: str | Path) -> Path:
    """Write a container to an NWB file, atomically; lazy recordings are written block by block.

    Parameters
    ----------
    obj : Session, Spikes, Recording or Intervals
        Single containers are written as ``spikes``, ``recording`` or ``trials``.
    path : path
        The file; ``.nwb`` is usual.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    InputError
        If nothing of it can be written, or names collide.
    """
    pynwb = _pynwb()
    session, path = _session(obj), Path(path)
    with replacing(path) as temporary, _quiet():
        made = _file(pynwb, session)
        left = _Writer(pynwb, made, session).write()
        with pynwb.NWBHDF5IO(str(temporary), "w") as out:
            out.write(made)
    if left:
        text = f"to_nwb: {', '.join(sorted(left))} not written: NWB has no place for them"
        warnings.warn(text, TectumWarning, stacklevel=2)
    return path


def _session(obj: Any) -> Session:
    if isinstance(obj, Session):
        return obj
    for kind, name in ((Spikes, "spikes"), (Recording, "recording"), (Intervals, "trials")):
        if isinstance(obj, kind):
            who = {} if isinstance(obj, Intervals) else {"subject": obj.subject, "session": obj.session}
            meta = {} if isinstance(obj, Intervals) else dict(obj.meta)
            return Session(items_={name: obj}, meta=meta, **who)
    raise InputError(explain("to_nwb", expected="Session, Spikes, Recording or Intervals", got=type(obj).__name__))


def _file(pynwb: Any, session: Session) -> Any:
    """Return an empty file that says who and when; an unknown time is the first of 1970."""
    from pynwb.file import Subject

    meta = session.meta
    try:
        start = datetime.fromisoformat(str(meta.get("session_start_time")))
    except ValueError:
        start = _NO_TIME
    known = {key: str(meta[key]) for key in ("species", "sex", "age", "genotype") if meta.get(key)}
    subject = Subject(subject_id=session.subject or None, **known) if session.subject or known else None
    return pynwb.NWBFile(
        session_description=str(meta.get("session_description") or "written by tectum"),
        identifier=str(meta.get("identifier") or f"{OURS}:{session.subject}:{session.session}"),
        session_start_time=start if start.tzinfo else start.replace(tzinfo=UTC),
        session_id=session.session or None,
        subject=subject,
    )


class _Writer:
    """Puts the parts of a session into a file; knows the tables that parts share."""

    def __init__(self, pynwb: Any, file: Any, session: Session) -> None:
        self.pynwb, self.file, self.session = pynwb, file, session
        self.device: Any = None
        self.planes: dict[str, Any] = {}

    def write(self) -> list[str]:
        """Write every part and return the names of those left out."""
        left = []
        for name, part in self.session.items():
            if isinstance(part, Intervals):
                self._table(name, part)
            elif isinstance(part, Spikes) and self.file.units is None:
                self._units(part)
            elif isinstance(part, Recording) and "time" in part.dims and part.ndim <= 4 and "trial" not in part.dims:
                self._series(name, part)
            elif not self._is_footprint(part):
                left.append(name)
        if len(left) == len(self.session):
            raise InputError(explain("to_nwb", expected="spikes, recordings over time or intervals", got=str(left)))
        return left

    def _is_footprint(self, part: Any) -> bool:
        shaped = isinstance(part, Recording) and part.dims in (("unit", "y", "x"), ("unit", "x", "y"))
        return shaped and any(
            isinstance(other, Recording) and other.modality == "calcium" and other.sizes.get("unit") == part.shape[0]
            for other in self.session.values()
            if isinstance(other, Recording) and "time" in other.dims
        )

    def _shapes(self, n_units: int) -> Recording | None:
        """Return the footprints of as many units."""
        for part in self.session.values():
            if isinstance(part, Recording) and self._is_footprint(part) and part.shape[0] == n_units:
                return part
        return None

    def _units(self, spikes: Spikes) -> None:
        from hdmf.common import ElementIdentifiers, VectorData, VectorIndex
        from pynwb.misc import Units

        columns = _storable(spikes.units)
        ids = columns.pop("id", np.arange(spikes.n_units))
        if ids.dtype.kind not in "iu":
            columns, ids = {"id_text": ids, **columns}, np.arange(spikes.n_units)
        made = [_vector(VectorData, name, column) for name, column in columns.items()]
        trains = [train.numpy() for train in spikes.trains()]
        spans = np.stack([spikes.span.start.numpy(), spikes.span.stop.numpy()], axis=1)
        for name, data, sizes in (
            ("spike_times", np.concatenate([np.zeros(0), *trains]), [len(t) for t in trains]),
            ("obs_intervals", np.tile(spans, (spikes.n_units, 1)), [len(spans)] * spikes.n_units),
        ):
            values = VectorData(name=name, description=name, data=data)
            made += [VectorIndex(name=f"{name}_index", data=np.cumsum(sizes, dtype=np.int64), target=values), values]
        self.file.units = Units(
            name="units",
            id=ElementIdentifiers(name="id", data=ids),
            description="units",
            columns=made,
            colnames=[*columns, "spike_times", "obs_intervals"],
        )

    def _table(self, name: str, spans: Intervals) -> None:
        from hdmf.common import VectorData
        from pynwb.epoch import TimeIntervals

        taken = {"id", "tags", "timeseries", "start_time", "stop_time"}
        columns = {"start_time": spans.start.numpy(), "stop_time": spans.stop.numpy()}
        columns |= {k: v for k, v in _storable(spans.columns).items() if k not in taken}
        made = [_vector(VectorData, key, column) for key, column in columns.items()]
        self.file.add_time_intervals(
            TimeIntervals(name=_flat(name), description=name, columns=made, colnames=list(columns))
        )

    def _series(self, name: str, rec: Recording) -> None:
        """Write a recording as the type that NWB has for it."""
        series = self._made(name, rec)
        head, _, rest = name.partition("/")
        room = _CONTAINERS.get(head) if rest and "/" not in rest else None
        if room is None:
            self._module("ophys" if rec.modality == "calcium" else "behavior" if _is_behaviour(rec) else "ecephys").add(
                series
            )
            return
        module = self._module(room)
        if head not in module.data_interfaces:
            module.add(_container(head))
        _put(module[head], series)

    def _module(self, name: str) -> Any:
        if name not in self.file.processing:
            self.file.create_processing_module(name, description=name)
        return self.file.processing[name]

    def _made(self, name: str, rec: Recording) -> Any:
        head, _, rest = name.partition("/")
        nested = rest if rest and "/" not in rest and head in _CONTAINERS else ""
        plain = nested or _flat(name)
        order = ("time", *[d for d in rec.dims if d != "time"])
        note = json.dumps({OURS: {"dims": list(order), "units": rec.units, "modality": rec.modality}})
        common: dict[str, Any] = {"name": plain, "data": _data(rec, order), "comments": note, **_clock(rec)}
        if nested and head in _SPATIAL:
            from pynwb.behavior import SpatialSeries

            return SpatialSeries(**common, unit=rec.units, reference_frame="unknown")
        if order == ("time", "unit") and rec.modality == "calcium":
            from pynwb.ophys import RoiResponseSeries

            return RoiResponseSeries(**common, unit=rec.units, rois=self._rois(rec))
        if order == ("time", "channel") and rec.units in VOLTS:
            from pynwb.ecephys import ElectricalSeries

            return ElectricalSeries(**common, conversion=VOLTS[rec.units], electrodes=self._electrodes(rec))
        return self.pynwb.TimeSeries(**common, unit=rec.units)

    def _rois(self, rec: Recording) -> Any:
        """Return all rows of a plane with the table of units; recordings with the same table share one."""
        table = dict(_storable(rec.coords.get("unit", {})))
        n_units = rec.sizes["unit"]
        key = repr([(k, v.tolist()) for k, v in table.items()] + [n_units])
        if key not in self.planes:
            self.planes[key] = self._plane(table, n_units)
        return self.planes[key].create_roi_table_region(region=list(range(n_units)), description="all regions")

    def _plane(self, table: dict[str, np.ndarray], n_units: int) -> Any:
        from hdmf.common import ElementIdentifiers, VectorData, VectorIndex
        from pynwb.ophys import ImageSegmentation, OpticalChannel, PlaneSegmentation

        module = self._module("ophys")
        if "ImageSegmentation" not in module.data_interfaces:
            module.add(ImageSegmentation())
        k = len(self.planes)
        plane = self.file.create_imaging_plane(
            name=f"plane{k}",
            optical_channel=OpticalChannel(name="channel", description="unknown", emission_lambda=float("nan")),
            description="unknown",
            device=self._device(),
            excitation_lambda=float("nan"),
            indicator="unknown",
            location="unknown",
        )
        ids = table.pop("id", np.arange(n_units))
        if ids.dtype.kind not in "iu":
            table, ids = {"id_text": ids, **table}, np.arange(n_units)
        columns = [_vector(VectorData, name, v) for name, v in table.items()]
        shapes = self._shapes(n_units)
        if shapes is not None:
            images = shapes.tensor("unit", "x", "y", device="cpu").numpy()
            columns.append(VectorData(name="image_mask", description="footprints (unit, x, y)", data=images))
        else:  # NWB wants a mask: one without a pixel says that none is known
            pixels = VectorData(name="pixel_mask", description="unknown", data=np.zeros(0, dtype=_PIXEL))
            ends = np.zeros(n_units, dtype=np.int64)
            columns += [VectorIndex(name="pixel_mask_index", data=ends, target=pixels), pixels]
        made = PlaneSegmentation(
            name=f"rois{k}" if k else "rois",
            description="regions",
            imaging_plane=plane,
            id=ElementIdentifiers(name="id", data=ids),
            columns=columns,
            colnames=[column.name for column in columns if not column.name.endswith("_index")],
        )
        module["ImageSegmentation"].add_plane_segmentation(made)
        return made

    def _electrodes(self, rec: Recording) -> Any:
        """Add a row for each channel and return them."""
        table = dict(_storable(rec.coords.get("channel", {})))
        n, first = rec.sizes["channel"], 0 if self.file.electrodes is None else len(self.file.electrodes)
        if "channels" not in self.file.electrode_groups:
            self.file.create_electrode_group("channels", "unknown", "unknown", self._device())
        group = self.file.electrode_groups["channels"]
        names = table.get("name", table.get("id", np.arange(n))).astype(str)
        if first == 0:
            self.file.add_electrode_column("label", "name of the channel")
        missing = np.full(n, np.nan)
        place = {axis: table.get(axis, missing) for axis in ("x", "y", "z")}
        for k in range(n):
            where = str(table["area"][k]) if "area" in table else "unknown"
            spot = {axis: float(values[k]) for axis, values in place.items() if values.dtype.kind in "iuf"}
            self.file.add_electrode(location=where, group=group, label=str(names[k]), **spot)
        return self.file.create_electrode_table_region(list(range(first, first + n)), "channels of one recording")

    def _device(self) -> Any:
        self.device = self.device or self.file.create_device(name="device")
        return self.device


def _flat(name: str) -> str:
    """Return a name without the characters that NWB refuses."""
    return name.replace("/", "_").replace(":", "_") or "part"


def _is_behaviour(rec: Recording) -> bool:
    return rec.modality == "behaviour" or rec.units in ("m", "cm", "mm", "rad", "deg", "m/s", "cm/s")


def _vector(kind: Any, name: str, column: np.ndarray) -> Any:
    """Return a column of a table."""
    return kind(name=name, description=name, data=column.tolist() if column.dtype.kind == "U" else column)


def _storable(table: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the columns of numbers and text; NWB knows no text in a table without rows."""
    columns = {str(k): np.asarray(v) for k, v in table.items()}
    return {k: v for k, v in columns.items() if v.dtype.kind in "biuf" or (v.dtype.kind == "U" and len(v))}


def _clock(rec: Recording) -> dict[str, Any]:
    return {"timestamps": rec.time.numpy()} if rec.rate is None else {"starting_time": rec.t0, "rate": rec.rate}


def _data(rec: Recording, order: tuple[str, ...]) -> Any:
    """Return the values, time first; lazy ones as blocks."""
    if not isinstance(rec.data, LazyArray):
        return rec.tensor(*order, device="cpu").numpy()
    from hdmf.data_utils import DataChunkIterator

    rows = (row for block in rec.blocks(_BLOCK) for row in block.tensor(*order).numpy())
    shape = tuple(rec.sizes[d] for d in order)
    dtype = np.dtype(str(rec.data.dtype).removeprefix("torch."))
    return DataChunkIterator(data=rows, maxshape=shape, dtype=dtype, buffer_size=_BLOCK)


def _container(name: str) -> Any:
    """Return an empty container of NWB."""
    from pynwb import behavior, ophys

    kinds = {"DfOverF": ophys.DfOverF, "Fluorescence": ophys.Fluorescence}
    if name in ("Deconvolved", "Neuropil"):
        return ophys.Fluorescence(name=name)
    return kinds[name]() if name in kinds else getattr(behavior, name)()


def _put(container: Any, series: Any) -> None:
    """Add a series to a container by the method that its kind has."""
    for method in ("add_roi_response_series", "add_spatial_series", "add_timeseries"):
        if hasattr(container, method):
            getattr(container, method)(series)
            return
    raise InputError(explain("to_nwb", expected="a container of series", got=type(container).__name__))
