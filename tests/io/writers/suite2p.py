"""suite2p folders of a few regions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

N_ROIS, N_FRAMES = 5, 60


def arrays(seed: int, n_rois: int = N_ROIS, n_frames: int = N_FRAMES) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    names = ("F", "Fneu", "spks")
    found = {name: rng.random((n_rois, n_frames), dtype=np.float32) for name in names}
    label = np.ones(n_rois)
    label[1::3] = 0
    return {**found, "iscell": np.stack([label, rng.random(n_rois)], axis=1)}


def stat(n_rois: int = N_ROIS) -> np.ndarray:
    made = np.empty(n_rois, dtype=object)
    for k in range(n_rois):
        made[k] = {
            "ypix": np.arange(3) + k,
            "xpix": np.arange(3),
            "lam": np.ones(3, np.float32),
            "med": [float(k), 1.0],
            "radius": np.float64(2.5 + k),
            "npix": 3,
            "skew": np.float32(0.5),
        }
    return made


def ops(**changes: Any) -> dict[str, Any]:
    base = {
        "fs": 10.0,
        "tau": 1.0,
        "neucoeff": 0.7,
        "nframes": N_FRAMES,
        "Ly": 8,
        "Lx": 6,
        "nplanes": 1,
        "baseline": "maximin",
        "meanImg": np.ones((8, 6), np.float32),
        "badframes": np.arange(N_FRAMES) == 7,
    }
    return {k: v for k, v in (base | changes).items() if v is not None}


def write_plane(folder: Path, seed: int = 0, *, new: bool = False, **changes: Any) -> dict[str, np.ndarray]:
    """Write one plane; ``new`` is the layout from version 1.0 on."""
    folder.mkdir(parents=True, exist_ok=True)
    made = arrays(seed)
    for name, array in made.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "stat.npy", stat())
    options = ops(**changes)
    if new:
        moved = {
            "fs": options.pop("fs"),
            "tau": options.pop("tau"),
            "extraction": {"neuropil_coefficient": options.pop("neucoeff")},
            "dcnv_preprocess": {"baseline": options.pop("baseline")},
        }
        np.save(folder / "settings.npy", moved)
        np.save(folder / "db.npy", {"nplanes": 1, "data_path": ["somewhere"]})
    np.save(folder / "ops.npy", options)
    return made
