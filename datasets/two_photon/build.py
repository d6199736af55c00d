"""Rebuild ``two_photon.safetensors`` from the sdist pynapple==0.11.4, which is read but not installed.

All 20 classified cells and 20 of the 199 other regions (evenly spread over the list) are packed: F, Fneu and spks,
float32, bit for bit, turned to (time, unit); the mean image becomes float16. ``stat.npy`` and ``ops.npy`` are pickles:
they go through an unpickler that knows NumPy's array constructors and nothing else.
"""

import io
import pickle
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from _packages import Source, main

from tectum import Recording, Session

PLANE = "suite2p/suite2p/plane0/"
N_OTHERS = 20
COLUMNS = ("radius", "npix", "compact", "aspect_ratio", "skew", "std")


class ArraysOnly(pickle.Unpickler):
    """Rebuild NumPy arrays and plain containers; dates become None, anything else is refused."""

    def find_class(self, module: str, name: str) -> object:
        """Look a global up in the list of harmless ones."""
        core = np._core.multiarray
        known = {
            ("numpy.core.multiarray", "_reconstruct"): core._reconstruct,
            ("numpy.core.multiarray", "scalar"): core.scalar,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            ("datetime", "datetime"): lambda *_: None,
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"refused: {module}.{name}")
        return known[module, name]


def objects(data: bytes) -> np.ndarray:
    """Read an object array in NumPy's file format."""
    stream = io.BytesIO(data)
    np.lib.format.read_magic(stream)
    np.lib.format.read_array_header_1_0(stream)
    return ArraysOnly(stream, encoding="latin1").load()


def choose(iscell: np.ndarray) -> np.ndarray:
    """Return the positions of all cells and of evenly spread other regions, in the order of the file."""
    cells, others = np.flatnonzero(iscell[:, 0]), np.flatnonzero(iscell[:, 0] == 0)
    spread = others[np.linspace(0, len(others) - 1, N_OTHERS).round().astype(int)]
    return np.sort(np.concatenate([cells, spread]))


def table(keep: np.ndarray, iscell: np.ndarray, stat: np.ndarray) -> dict[str, np.ndarray]:
    """Return the unit table: identity, classification and shape of each region."""
    rois = [stat[i] for i in keep]
    centres = np.array([roi["med"] for roi in rois], dtype=np.float64)
    shape = {name: np.array([float(roi[name]) for roi in rois]) for name in COLUMNS}
    quality = {"iscell": iscell[keep, 0].astype(bool), "probability": iscell[keep, 1]}
    return {"id": keep, **quality, "y": centres[:, 0], "x": centres[:, 1], **shape}


def build(source: Source) -> Session:
    """Return the session that is packed."""
    array = {name: np.load(io.BytesIO(source.read(f"{PLANE}{name}.npy"))) for name in ("F", "Fneu", "spks", "iscell")}
    ops = objects(source.read(f"{PLANE}ops.npy")).item()
    keep = choose(array["iscell"])
    coords = {"unit": table(keep, array["iscell"], objects(source.read(f"{PLANE}stat.npy")))}
    settings = {name: ops[name] for name in ("suite2p_version", "fs", "tau", "neucoeff", "baseline")}
    settings |= {name: ops[name] for name in ("win_baseline", "sig_baseline", "Ly", "Lx")}
    who = {"subject": "A0662", "session": "2022_08_08"}
    meta = {**source.describe("npy"), "suite2p": settings}
    parts = {}
    for name, units in {"F": "F", "Fneu": "F", "spks": "deconvolved"}.items():
        parts[name] = Recording(
            data=np.ascontiguousarray(array[name][keep].T),  # (time 2000, unit 40)
            dims=("time", "unit"),
            rate=float(ops["fs"]),
            units=units,
            modality="calcium",
            coords=coords,
            meta=meta,
            history=source.history(f"/{name}.npy", regions="20 cells and 20 of 199 others", transposed=True),
            **who,
        )
    parts["mean_image"] = Recording(
        data=ops["meanImg"].astype(np.float16),
        dims=("y", "x"),
        units="F",
        modality="image",
        meta=meta,
        history=source.history("ops.npy", variable="meanImg", dtype="float16"),
        **who,
    )
    return Session(items_=parts, meta=meta, **who)


if __name__ == "__main__":
    main(__file__, build)
