"""Recordings of near-infrared light in the documented layouts: SNIRF by h5py, NIRx, BOXY and Hitachi as text.

Every function returns the intensities that MNE's channels have, (channel, time).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .eeg import Format

RATE = 10.0
PAIRS = ((1, 1), (1, 2), (2, 1), (2, 2))
WAVES = (760, 850)


def light(n_channels: int, n: int, seed: int = 0) -> np.ndarray:
    """Return intensities around 1 with four digits."""
    return np.round(1 + 0.05 * np.random.default_rng(seed).normal(size=(n_channels, n)), 4)


def write_snirf(path: Path, n: int = 300) -> np.ndarray:
    """Write SNIRF 1.0: two sources, two detectors, two wavelengths, one kind of stimulus."""
    import h5py

    values = light(8, n)
    with h5py.File(path, "w") as file:
        file["formatVersion"] = "1.0"
        nirs = file.create_group("nirs")
        for key, word in {
            "SubjectID": "s1", "MeasurementDate": "2024-01-02", "MeasurementTime": "03:04:05Z", "LengthUnit": "mm",
            "TimeUnit": "s", "FrequencyUnit": "Hz",
        }.items():  # fmt: skip
            nirs[f"metaDataTags/{key}"] = word
        nirs["data1/dataTimeSeries"], nirs["data1/time"] = values.T, np.arange(n) / RATE
        rows = [(pair, k) for pair in PAIRS for k in (1, 2)]
        for number, ((s, d), k) in enumerate(rows, 1):
            names = {"sourceIndex": s, "detectorIndex": d, "wavelengthIndex": k, "dataType": 1, "dataTypeIndex": 1}
            for key, value in names.items():
                nirs[f"data1/measurementList{number}/{key}"] = value
        nirs["probe/wavelengths"] = np.array(WAVES, float)
        nirs["probe/sourcePos3D"] = np.array([[0, 0, 0], [30, 0, 0]], float)
        nirs["probe/detectorPos3D"] = np.array([[0, 30, 0], [30, 30, 0]], float)
        nirs["stim1/name"], nirs["stim1/data"] = "go", np.array([[1.0, 0.5, 1.0], [4.0, 0.5, 1.0]])
    return values


def write_nirx(path: Path, n: int = 120) -> np.ndarray:
    """Write a folder of NIRStar 15.2; ``path`` is its header."""
    from scipy.io import savemat

    folder, values = path.parent, light(8, n)
    key = ",".join(f"{s}-{d}:{k}" for k, (s, d) in enumerate(PAIRS, 1)) + ","
    path.write_text(
        '[GeneralInfo]\nFileName="a"\nDate="Tue, Jan 02, 2024"\nTime="03:04:05.00"\nDevice="NIRScout"\nNIRStar="15.2"\n'
        f'\n[ImagingParameters]\nWavelengths="760\t850"\nSamplingRate={RATE}\n\n[DataStructure]\nS-D-Key="{key}"\n'
        'S-D-Mask="#\n1\t1\n1\t1\n#"\n'
    )
    (folder / "a.inf").write_text(
        '[Subject Demographics]\nName="s1"\nAge="30"\nGender="Female"\n'.replace('"30"', "30")
    )
    for k, end in enumerate(("wl1", "wl2")):
        rows = "".join(" ".join(f"{x:.4f}" for x in row) + " \r\n" for row in values[k::2].T)
        (folder / f"a.{end}").write_bytes(rows.encode())
    (folder / "a.evt").write_text("10\t1\t0\t0\t0\t0\t0\t0\t0\n50\t0\t1\t0\t0\t0\t0\t0\t0\n")
    for name in ("a.set", "a.tpl", "a_config.txt", "a.dat"):
        (folder / name).write_text("settings\n")
    place = np.array([[-50, 20, 60], [-40, -20, 70]], float) / 10
    middle = np.array([(place[s - 1] + place[d - 1]) / 2 for s, d in PAIRS])
    probes = {"index_c": np.array(PAIRS), "coords_s3": place, "coords_d3": place + 2, "coords_c3": middle}
    savemat(folder / "a_probeInfo.mat", {"probeInfo": {"probes": probes}})
    return values


def write_boxy(path: Path, n: int = 60, several: bool = False) -> np.ndarray:
    """Write BOXY 0.40 with one detector and two sources, in one line a time or in one line a source."""
    values = light(6, n)  # DC, AC, phase of source 1, then of source 2
    values[2::3] *= 100
    mark = np.zeros(n, int)
    mark[20:25] = 3
    head = (
        "BOXY.EXE: 0.40\n1 Detector Channels\n2 External MUX Channels\n4 Auxiliary Channels\n"
        f"{RATE} Updata Rate (Hz)\n#DATA BEGINS\n"
    )
    if several:
        names = ["time", "exmux", "A-AC", "A-DC", "A-Ph", "digaux"]
        parts = values.reshape(2, 3, n)
        rows = [(t / RATE, s, *parts[s, [1, 0, 2], t], mark[t]) for t in range(n) for s in range(2)]
    else:
        kinds = [f"A-{kind}{s}" for s in (1, 2) for kind in ("DC", "AC", "Ph")]
        names = ["time", *kinds, "digaux"]
        rows = [(t / RATE, *values[:, t], mark[t]) for t in range(n)]
    body = "".join("\t".join(f"{x:g}" for x in row) + "\n" for row in rows)
    path.write_text(head + "\t".join(names) + "\n\n" + body + "#DATA ENDS\n")
    found = values.copy()
    found[2::3] *= np.pi / 180
    return found


def write_hitachi(path: Path, n: int = 50) -> np.ndarray:
    """Write one probe of 3 x 5 optodes: 22 channels of two wavelengths."""
    values = light(44, n)
    names = [f"CH{k}({wave})" for k in range(1, 23) for wave in ("700.1", "829.2")]
    lines = [
        "Header", "File Version,1.08", "Patient Information", "ID,s1", "Name,A B", "Comment,", "Age,30y", "Sex,Female",
        "Analyze Information", "AnalyzeMode,Continuous", "Measure Information", "Date,2024/01/02 3:04", "Mode,3x5",
        "Wave[nm],695,830", f"Wave Length,{','.join(names)}", f"Sampling Period[s],{1 / RATE:g}", "", "", "Data",
        f"Probe1,{','.join(names)},Mark,Time,BodyMovement,RemovalMark,PreScan",
    ]  # fmt: skip
    mark = np.zeros(n, int)
    mark[[10, 30]] = 1, 2
    for t in range(n):
        when = f"03:04:{5 + t / RATE:05.2f}"
        lines.append(f"{t + 1},{','.join(f'{x:.4f}' for x in values[:, t])},{mark[t]},{when},0,0,0")
    path.write_text("".join(f"{line}\n" for line in lines))
    return values


#: The files that damage is tried on.
FORMATS = {
    "SNIRF": Format("a.snirf", write_snirf),
    "NIRx": Format("a.hdr", write_nirx, data="a.wl2"),
    "BOXY": Format("a.txt", write_boxy),
    "Hitachi": Format("a.csv", write_hitachi, sized=False),
}
