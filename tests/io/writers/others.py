"""CaImAn, Inscopix, Neurosuite and ALF in their documented layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.sparse


def write_caiman(path: Path, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Write 4 components of 5 x 3 pixels over 50 frames; the sparse footprints are in Fortran order."""
    rng = np.random.default_rng(seed)
    made: dict[str, Any] = {name: rng.random((4, 50)) for name in ("C", "S", "YrA")}
    images = rng.random((4, 5, 3)) * (rng.random((4, 5, 3)) > 0.5)
    sparse = scipy.sparse.csc_matrix(np.stack([image.ravel(order="F") for image in images], axis=1))
    made |= {"images": images, "SNR_comp": rng.random(4)} | changes
    with h5py.File(path, "w") as file:
        group = file.create_group("estimates")
        for name in ("C", "S", "YrA", "SNR_comp"):
            group[name] = made[name]
        for name in ("F_dff", "cnn_preds", "b"):
            group[name] = np.bytes_(b"NoneType")
        group["idx_components"] = made.get("idx", np.array([0, 2, 3]))
        group["dims"] = np.array([5, 3])
        for name in ("data", "indices", "indptr", "shape"):
            group[f"A/{name}"] = np.asarray(getattr(sparse, name))
        file["params/data/fr"] = made.get("fr", 20.0)
        file["params/data/decay_time"] = 0.4
    return made


def write_inscopix(folder: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """Write three cells, the second rejected, and a table of events."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    times, values = 0.5 + np.cumsum(rng.uniform(0.09, 0.11, 30)), rng.random((30, 3))
    rows = [",".join([repr(float(t)), *map(repr, map(float, row))]) for t, row in zip(times, values, strict=True)]
    head = [" , C0, C1, C2", "Time(s)/Cell Status, accepted, rejected, accepted"]
    (folder / "traces.csv").write_text("\n".join([*head, *rows]) + "\n")
    event_times = np.sort(rng.choice(times, 8))
    cells = rng.choice(["C0", "C1", "C2"], 8)
    lines = [f"{float(t)!r}, {c}, 1.5" for t, c in zip(event_times, cells, strict=True)]
    (folder / "events.csv").write_text("\n".join(["Time (s), Cell Name, Value", *lines]))
    return {"times": times, "values": values, "event_times": event_times, "cells": cells}


def write_neurosuite(folder: Path, seed: int = 0, **changes: Any) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Write two shanks."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    made = {}
    for shank in (1, 2):
        res = np.sort(rng.integers(0, 20_000 * 20, 60))
        clu = rng.integers(0, 5, 60)
        made[shank] = (res, clu)
        (folder / f"rat.res.{shank}").write_text("\n".join(map(str, res)) + "\n")
        (folder / f"rat.clu.{shank}").write_text("\n".join(map(str, [5, *clu])) + "\n")
    rate = changes.get("rate", "20000")
    xml = f"<parameters><acquisitionSystem><samplingRate>{rate}</samplingRate></acquisitionSystem></parameters>"
    (folder / "rat.xml").write_text(f"<?xml version='1.0'?>{xml}")
    return made


def write_alf(folder: Path, seed: int = 0) -> dict[str, np.ndarray]:
    """Write one probe with four clusters, trials and a wheel whose timestamps are knots."""
    rng = np.random.default_rng(seed)
    probe = folder / "alf" / "probe00" / "pykilosort"
    probe.mkdir(parents=True)
    made = {
        "spikes.times": np.sort(rng.uniform(0, 20, 100)),
        "spikes.clusters": rng.integers(0, 4, 100).astype(np.uint16),
        "clusters.channels": np.arange(4),
        "clusters.depths": rng.random(4),
    }
    for name, array in made.items():
        np.save(probe / f"{name}.npy", array)
    (probe / "clusters.metrics.csv").write_text("cluster_id,label,group\n0,1.0,x\n2,0.33,y\n3,1.0,\n")
    start = np.arange(5.0)
    more = {
        "_ibl_trials.intervals": np.stack([start, start + 0.8], axis=1),
        "_ibl_trials.choice": np.array([1.0, -1, 0, 1, np.nan]),
        "_ibl_wheel.position": rng.random(30),
        "_ibl_wheel.timestamps": np.array([[0.0, 1.0], [10.0, 2.0], [29.0, 6.0]]),
    }
    for name, array in more.items():
        np.save(folder / "alf" / f"{name}.npy", array)
    return made | more


def write_minian(path: Path, seed: int = 0, frame: np.ndarray | None = None) -> Any:
    """Write three units over 20 frames as netCDF or Zarr through xarray; axes are in another order for each array."""
    import xarray

    rng = np.random.default_rng(seed)
    frame = np.arange(20) if frame is None else frame
    coords = {"unit_id": [3, 7, 12], "frame": frame, "height": np.arange(4), "width": np.arange(5)}
    made = xarray.Dataset(
        {
            "C": (("unit_id", "frame"), rng.random((3, 20))),
            "S": (("frame", "unit_id"), rng.random((20, 3))),
            "YrA": (("unit_id", "frame"), rng.random((3, 20))),
            "A": (("height", "unit_id", "width"), rng.random((4, 3, 5))),
        },
        coords=coords,
    )
    if path.suffix == ".nc":
        made.to_netcdf(path, engine="h5netcdf")
    elif path.suffix == ".zarr":
        made.to_zarr(path, mode="w", zarr_format=2, consolidated=False)
    else:  # a store for each array, as Minian writes it
        for name in made.data_vars:
            made[[name]].to_zarr(path / f"{name}.zarr", mode="w", zarr_format=2, consolidated=False)
    return made
