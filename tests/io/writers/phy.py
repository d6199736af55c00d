"""Folders of Kilosort and phy with a few clusters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

PARAMS = """import os
dat_path = r'recording.dat'
n_channels_dat = 4
dtype = 'int16'
offset = 0
sample_rate = 30000.
hp_filtered = False
surprise = os.system('touch ran')
"""


def write_phy(folder: Path, seed: int = 0, **changes: Any) -> dict[str, np.ndarray]:
    """Write clusters 2, 5, 9 and 11; 11 came of a merge and is in no table of the sorter."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    times = np.sort(rng.integers(0, 20 * 30_000, 200)).astype(changes.get("dtype", np.uint64))
    cluster = rng.choice([2, 5, 9, 11], 200).astype(np.int32)
    made = {
        "spike_times": times[:, None] if changes.get("column", True) else times,
        "spike_clusters": cluster,
        "spike_templates": np.minimum(cluster, 9).astype(np.uint32)[:, None],
        "amplitudes": rng.random((200, 1)),
        "spike_positions": rng.random((200, 2)).astype(np.float32),
    }
    for name, array in made.items():
        np.save(folder / f"{name}.npy", array)
    (folder / "params.py").write_text(changes.get("params", PARAMS))
    (folder / "cluster_KSLabel.tsv").write_text("cluster_id\tKSLabel\n2\tgood\n5\tmua\n9\tgood\n")
    (folder / "cluster_group.tsv").write_text("cluster_id\tgroup\n5\tgood\n9\tnoise\n11\tgood\n")
    (folder / "cluster_info.tsv").write_text(
        "cluster_id\tch\tdepth\tgroup\tKSLabel\n2\t1\t20.5\t\tgood\n5\t3\t40\tmua\tmua\n9\t0\t0\t\tgood\n"
    )
    return made
