"""Recordings of near-infrared light in the documented layouts: SNIRF with h5py, NIRx, BOXY and Hitachi as text.

Every function returns the values that the file stands for, (channel, time).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from .eeg import RATE, Format, volts

WAVES = (760, 850)
PAIRS = ((1, 1), (2, 2))  # source, detector


def light(n: int = 1000, channels: int = 4) -> np.ndarray:
    """Return intensities about 0.5, (channel, time); four are two pairs by two wavelengths."""
    return np.round(0.5 + volts(channels, n) * 1e3, 6)


def _processed(node: Any, label: str) -> None:
    """Make a concentration of a channel of light."""
    del node["dataType"], node["wavelengthIndex"]
    node["dataType"], node["dataTypeLabel"] = 99999, label


def write_snirf(
    path: Path, unit: str = "", start: float = 0.0, scale: float = 1.0, *, short: bool = False, processed: bool = False
) -> np.ndarray:
    """Write SNIRF 1.0 with h5py: two stimuli, a clock in full or by start and step, in s or ms."""
    import h5py

    values = light()
    with h5py.File(path, "w") as file:
        file["formatVersion"] = "1.0"
        about = file.create_group("nirs/metaDataTags")
        for name, text in (("SubjectID", "s1"), ("LengthUnit", "m"), ("TimeUnit", "s" if scale == 1 else "ms")):
            about[name] = text
        about["MeasurementDate"], about["MeasurementTime"] = "2024-01-02", "03:04:05Z"
        probe = file.create_group("nirs/probe")
        probe["wavelengths"] = np.array(WAVES, dtype=float)
        probe["sourcePos3D"] = np.array([[0.00, 0.01, 0.02], [0.03, 0.04, 0.05]])
        probe["detectorPos3D"] = np.array([[0.02, 0.01, 0.02], [0.05, 0.04, 0.05]])
        data = file.create_group("nirs/data1")
        data["dataTimeSeries"] = values.T
        clock = start + np.arange(values.shape[1]) / RATE
        data["time"] = (np.array([start, 1 / RATE]) if short else clock) * scale
        for k in range(4):
            node = data.create_group(f"measurementList{k + 1}")
            node["sourceIndex"], node["detectorIndex"] = PAIRS[k // 2]
            node["wavelengthIndex"], node["dataType"], node["dataTypeIndex"] = k % 2 + 1, 1, 1
            if processed:
                _processed(node, "HbR" if k % 2 else "HbO")
            if unit:
                node["dataUnit"] = unit
        for k, (name, at) in enumerate((("go", 1.0), ("stop", 4.0))):
            node = file.create_group(f"nirs/stim{k + 1}")
            node["name"], node["data"] = name, np.array([[(start + at) * scale, 0.5 * scale, 1.0]])
    return values * {"": 1.0, "mV": 1e-3, "uM": 1e-6}[unit]


def _nirx_common(path: Path, values: np.ndarray) -> None:
    """Write the intensities: both wavelengths of every pair, of which the probe wants the outer two."""
    for k, name in enumerate(("wl1", "wl2")):
        columns = [values[k], values[k] * 0 + 9.0, values[2 + k]]
        lines = [" ".join(f"{x:.6f}" for x in row) for row in np.stack(columns, axis=1)]
        path.with_suffix(f".{name}").write_text("\n".join(lines) + "\n")


def write_nirx(path: Path) -> np.ndarray:
    """Write what NIRStar 15.2 leaves in a folder: header, two wavelengths, participant, probe, two triggers."""
    from scipy.io import savemat

    values = light()
    _nirx_common(path, values)
    head = (
        '[GeneralInfo]\nFileName="a"\nDate="Tue, Jan 02, 2024"\nTime="03:04:05.000"\nDevice="NIRScout 8x8"\n'
        f'NIRStar="15.2"\n\n[ImagingParameters]\nSources=2\nDetectors=2\nWavelengths="760\t850"\n'
        f'SamplingRate={RATE:.6f}\n\n[DataStructure]\nS-D-Key="1-1:1,1-2:2,2-2:3,"\n'
    )
    path.write_text(head)
    path.with_suffix(".inf").write_text('[Subject Demographics]\nName="s1"\nAge=30\nGender="F"\n')
    path.with_suffix(".evt").write_text("100\t1\t0\t0\t0\n400\t0\t1\t0\t0\n")
    for name in (".set", ".tpl", ".dat"):
        path.with_suffix(name).write_text("0\n")
    (path.parent / "a_config.txt").write_text("source_number=2;\n")
    places = {"coords_s3": [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], "coords_d3": [[2.0, 1.0, 2.0], [5.0, 4.0, 5.0]]}
    places["coords_c3"] = [[1.0, 1.0, 2.0], [4.0, 4.0, 5.0]]
    probes = {"index_c": np.array(PAIRS, dtype=np.uint8), **{k: np.array(v) for k, v in places.items()}}
    savemat(path.parent / "a_probeInfo.mat", {"probeInfo": {"probes": probes}})
    return values


def write_aurora(path: Path) -> np.ndarray:
    """Write what Aurora 2021.9 leaves in a folder: header, two wavelengths, participant, probe, two triggers."""
    values = light()
    _nirx_common(path, values)
    path.write_text(
        f"[GeneralInfo]\nVersion=2021.9.0-6-g14ef4a71\nDate=2024-01-02 03:04:05.000\nSampling rate={RATE}\n\n"
        "[DataStructure]\nKey=\n0-0,0-1,1-1\n"
    )
    (path.parent / "a_config.json").write_text("{}")
    about = {"subject": "s1", "gender": "Female", "age": "30"}
    (path.parent / "a_description.json").write_text(json.dumps(about))
    probes = {"index_c": PAIRS, "coords_s3": [[0, 10, 20], [30, 40, 50]], "coords_d3": [[20, 10, 20], [50, 40, 50]]}
    probe = {"head_circumference": 610.0, "probes": {**probes, "coords_c3": [[10, 10, 20], [40, 40, 50]]}}
    (path.parent / "a_probeInfo.json").write_text(json.dumps({"probeInfo": probe}))
    lines = [f"2024-01-02T03:04:0{k}.000;{frame};{k}" for k, frame in ((1, 100), (2, 400))]
    path.with_suffix(".tri").write_text("\n".join(lines) + "\n")
    return values


def write_boxy(path: Path, mixed: bool = False) -> np.ndarray:
    """Write what BOXY 0.84 exports, one detector and two sources: in one row, or each source in a row of its own."""
    n = 1000
    values = light(n, 6)  # (source, DC and AC and phase)
    marks = np.zeros(n)
    marks[100:150], marks[400:450] = 1, 2
    kinds = ("DC", "AC", "Ph")
    if mixed:
        names = ["exmux", *(f"A-{kind}" for kind in kinds)]
        rows = [[k, *values[3 * k : 3 * k + 3, t]] for t in range(n) for k in range(2)]
    else:
        names = ["time", *(f"A-{kind}{k + 1}" for kind in kinds for k in range(2)), "digaux"]
        order = [0, 3, 1, 4, 2, 5]
        rows = [[t / RATE, *values[order, t], marks[t]] for t in range(n)]
    head = [
        "#ISS Inc.", "BOXY.EXE: 0.84", "1 Detector Channels", "2 External MUX Channels",
        f"{RATE} Update Rate (Hz)", "#DATA BEGINS", "\t".join(names), "",
    ]  # fmt: skip
    table = ["\t".join(f"{x:.6f}" for x in row) for row in rows]
    path.write_text("\n".join([*head, *table, "#DATA ENDS", ""]))
    return values * np.array([1.0, 1.0, np.pi / 180] * 2)[:, None]


def write_hitachi(path: Path, end: str = "\n") -> np.ndarray:
    """Write what the ETG-7000 exports: a grid of 3 by 5 optodes, 22 pairs by two wavelengths, one mark."""
    n = 300
    values = light(n, 44)
    names = [f"CH{k // 2 + 1}({700.1 if k % 2 == 0 else 829.1})" for k in range(44)]
    head = [
        "Header", "File Version,1.18", "ID,s1", "Name,s1", "Age,30y", "Sex,Female", "AnalyzeMode,Continuous",
        "Date,1/2/24 3:04", "Mode,3x5", "Wave[nm],695,830", ",".join(["Wave Length", *names]),
        f"Sampling Period[s],{1 / RATE}", "", "Data", ",".join(["Probe1", *names, "Mark", "Time", "PreScan"]),
    ]  # fmt: skip
    rows = [
        ",".join([str(t + 1), *(f"{x:.6f}" for x in values[:, t]), str(int(t == 100)), f"14:{t / RATE:05.2f}", "0"])
        for t in range(n)
    ]
    path.write_bytes((end.join([*head, *rows]) + end).encode())
    return values


#: The files that damage is tried on.
FORMATS = {
    "SNIRF": Format("a.snirf", write_snirf),
    "NIRx": Format("a.hdr", write_nirx, data="a.wl2"),
    "Aurora": Format("a.hdr", write_aurora, data="a.wl1"),
    "BOXY": Format("a.txt", write_boxy),
    "BOXY mixed": Format("a.txt", lambda p: write_boxy(p, mixed=True)),
    "Hitachi": Format("a.csv", write_hitachi, sized=False),
}
