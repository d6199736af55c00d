"""Memory of opening a large NWB file: peak resident memory of a fresh process above what its imports need.

Run ``python benchmarks/nwb_memory.py [gigabytes]``. The file (two thirds LFP, one third region traces, and 200 units)
is written in chunks into a temporary folder and removed. A child process imports everything that reading needs by
opening a small file, notes its peak (``ru_maxrss``, which counts what C libraries allocate), opens the large file, and
notes the peak again; then it reads one second of everything. One thread.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np

CHUNK = 1 << 16  # samples
CHILD = """
import json, resource, sys, time
import torch
import tectum

torch.set_num_threads(1)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


small = tectum.read(sys.argv[1])
small["lfp"].isel(time=slice(0, 5)).values
before, began = peak(), time.perf_counter()
session = tectum.read(sys.argv[2])
opened, seconds = peak(), time.perf_counter() - began
lazy = [part.is_lazy for name, part in session.items() if name in ("lfp", "Fluorescence/traces")]
for name in ("lfp", "Fluorescence/traces"):
    part = session[name]
    part.sel(time=(100.0, 101.0)).values
print(json.dumps({"before": before, "opened": opened, "read": peak(), "seconds": seconds, "lazy": lazy}))
"""


def write(path: Path, size: float) -> None:
    """Write random numbers, a chunk at a time."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        file.attrs["nwb_version"] = "2.7.0"
        file["identifier"] = "benchmark"
        file["session_start_time"] = "2024-01-02T00:00:00+00:00"
        _series(file, "acquisition/lfp", "ElectricalSeries", int(size * 2 / 3 / 64 / 2), 64, "i2", 1250.0, rng)
        _series(
            file,
            "processing/ophys/Fluorescence/traces",
            "RoiResponseSeries",
            int(size / 3 / 2000 / 4),
            2000,
            "f4",
            30.0,
            rng,
        )
        file["processing/ophys/Fluorescence/traces/rois"] = np.arange(2000)
        units = file.create_group("units")
        counts = rng.poisson(5000, 200)
        units["spike_times"] = np.concatenate([np.sort(rng.uniform(0, 1000, n)) for n in counts])
        units["spike_times_index"] = np.cumsum(counts)
        units["id"] = np.arange(200)


def _series(
    file: h5py.File, name: str, kind: str, n: int, width: int, dtype: str, rate: float, rng: np.random.Generator
) -> None:
    group = file.create_group(name)
    group.attrs["neurodata_type"] = kind
    data = group.create_dataset(
        "data", shape=(n, width), dtype=dtype, chunks=(min(n, max(1, (1 << 20) // width)), width)
    )
    data.attrs.update(
        {"conversion": 1e-6 if kind == "ElectricalSeries" else 1.0, "unit": "volts" if dtype == "i2" else "F"}
    )
    block = (
        rng.integers(-99, 99, (CHUNK, width)).astype(dtype) if dtype == "i2" else rng.random((4096, width), np.float32)
    )
    for first in range(0, n, len(block)):
        data[first : first + len(block)] = block[: n - first]
    group["starting_time"] = 0.0
    group["starting_time"].attrs["rate"] = rate


def main(gigabytes: float) -> None:
    with tempfile.TemporaryDirectory(prefix="tectum-benchmark-") as folder:
        small, large = Path(folder) / "small.nwb", Path(folder) / "large.nwb"
        write(small, 4e6)
        began = time.perf_counter()
        write(large, gigabytes * 1e9)
        print(f"{large.stat().st_size / 1e9:.2f} GB written in {time.perf_counter() - began:.0f} s")
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", CHILD, str(small), str(large)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
    base = found["before"]
    print(f"peak after the imports and a small file: {base / 1e6:.0f} MB")
    print(
        f"opening: {(found['opened'] - base) / 1e6:.0f} MB more, {found['seconds']:.2f} s, lazy: {all(found['lazy'])}"
    )
    print(f"with a second of all read: {(found['read'] - base) / 1e6:.0f} MB more; the limit for opening is 200 MB")


if __name__ == "__main__":
    main(float(sys.argv[1]) if len(sys.argv) > 1 else 2.0)
