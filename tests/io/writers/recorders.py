"""Files of single makers of amplifiers, written byte by byte; every function returns the values that they stand for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .eeg import NAMES, RATE, Format, volts


def write_nicolet(path: Path) -> np.ndarray:
    """Write ``.data`` of int16 and ``.head``; returns (channel, time) in V."""
    codes = np.rint(volts() * 1e6 / 0.179).astype("<i2")
    lines = ["start_ts=2024-01-02 03:04:05.000", f"num_samples={codes.shape[1]}", f"sample_freq={RATE:g}"]
    lines += ["conversion_factor=0.179000", f"num_channels={len(codes)}", f"elec_names=[{','.join(NAMES)}]"]
    lines += ["pat_id=1", "adm_id=2", "rec_id=3", "duration_in_sec=10", "sample_bytes=2"]
    path.with_suffix(".head").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path.write_bytes(codes.T.tobytes())
    return codes * 0.179e-6


def write_nedf(path: Path, n: int = 1003, *, version: bool = True, motion: int = 3, stim: bool = False) -> np.ndarray:
    """Write ``.nedf``: XML, then blocks of five samples of int24; a trigger 7 at samples 100 and 101, 9 at the last."""
    step = 2.4 / (6.0 * 8388607)
    codes = np.rint(volts(4, n) / step).astype(">i4")
    codes[0, :2] = -(1 << 23) + 1, (1 << 23) - 1
    tag = "<NEDFversion>1.3</NEDFversion>" if version else ""
    names = "".join(f"<C{k}>{name}</C{k}>" for k, name in enumerate(NAMES))
    text = f"""<nedf>{tag}<NumberOfChannelsOfAccelerometer>{motion}</NumberOfChannelsOfAccelerometer>
    <EEGSettings><TotalNumberOfChannels>4</TotalNumberOfChannels><EEGSamplingRate>500</EEGSamplingRate>
    <EEGMontage>{names}</EEGMontage><NumberOfRecordsOfEEG>{n}</NumberOfRecordsOfEEG></EEGSettings>
    <StepDetails><StartDate_firstEEGTimestamp>1704164645000</StartDate_firstEEGTimestamp></StepDetails>
    {"<STIMSettings/>" if stim else ""}</nedf>"""
    trigger = np.zeros(n, dtype=">i4" if version else "u1")
    trigger[[100, 101]], trigger[-1] = 7, 9
    three, body = codes.T.copy().view("u1").reshape(n, 4, 4)[..., 1:], b""
    for k in range(n):
        body += bytes(2 * motion) if k % 5 == 0 else b""
        body += three[k].tobytes() + bytes(24 if stim else 0) + trigger[k : k + 1].tobytes()
    path.write_bytes(text.encode().ljust(10240, b"\x00") + body)
    return codes * step


def write_eximia(path: Path) -> np.ndarray:
    """Write ``.nxe``: gate, two triggers (a pulse on the first), EOG, 60 channels of EEG; returns the last 61 in V."""
    step = np.array([25000.0, *[5000.0] * 60])[:, None] / 65535 * 1e-6
    codes = np.rint(volts(61) / step).astype("<i2")
    trigger = np.zeros((3, codes.shape[1]), dtype="<i2")
    trigger[1, 290:300] = 3277
    path.write_bytes(np.concatenate([trigger, codes]).T.tobytes())
    return codes * step


_BCI2000_STATES = "Running 1 0 0 0\r\nStimulusCode 8 0 1 0\r\nTarget 4 0 0 1\r\n"


def write_bci2000(path: Path, form: str = "int16", *, lines: tuple[str, ...] | None = None) -> np.ndarray:
    """Write ``.dat`` of BCI2000: parameters, states, then samples with two bytes of states; returns V.

    ``lines`` replaces those parameters that tell factors, offsets and names.
    """
    codes = np.rint(volts() * 1e6 / 0.25) + 100
    if lines is None:
        names = " ".join(name.replace("'", "%27") for name in NAMES)
        lines = (
            "Source:Signal floatlist SourceChGain= 4 0.25 0.25muV 250nV 0.00025mV 1 % % // factor",
            "Source:Signal floatlist SourceChOffset= { a b c d } 100 100 100 100 0 % % // offset",
            f"Source:Signal list ChannelNames= 4 {names} // names",
        )
    rate = f"Source:Signal int SamplingRate= {RATE:g}Hz 256Hz 1 % // rate"
    body = ["[ State Vector Definition ]", _BCI2000_STATES.rstrip(), "[ Parameter Definition ]"]
    body += ["Source:Signal int SourceCh= 4 16 1 % // channels", rate, *lines, "", ""]
    start = "BCI2000V= 1.1 HeaderLen= {:6d} SourceCh= 4 StatevectorLen= 2 DataFormat= " + form + "\r\n"
    text = "\r\n".join(body)
    states = np.zeros((codes.shape[1], 2), dtype="u1")
    states[:, 0], states[100:110, 1], states[500:510, 1] = 0b10101, 3, 12
    samples = codes.T.astype({"int16": "<i2", "int32": "<i4", "float32": "<f4"}[form])
    frames = np.concatenate([samples.copy().view("u1").reshape(len(states), -1), states], axis=1)
    path.write_bytes((start.format(len(start.format(0)) + len(text)) + text).encode() + frames.tobytes())
    return (codes - 100) * 0.25e-6


def write_eyelink(path: Path, eyes: str = "L", blocks: int = 1, rate: int = 100, extra: str = "") -> np.ndarray:
    """Write ``.asc`` of EyeLink: gaze in pixels and area of the pupil; after a block comes a pause of 0.5 s.

    Returns (channel, time), NaN where there is no value: in one sample, and in pauses.
    """
    n, step = 1000 // blocks, 1000 // rate if 1000 % rate == 0 else 1000 / rate
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(500.0, 50.0, size=(3 * len(eyes) + 2 * bool(extra), n * blocks)), 1)
    values[:2, 7] = np.nan
    words = "\t".join({"L": "LEFT", "R": "RIGHT"}[eye] for eye in eyes) + (f"\t{extra}" if extra else "")
    lines = ["** CONVERTED FROM a.edf using edfapi 4.2.1", "** DATE: Tue Jan  2 03:04:05 2024", "**", ""]
    made, first = [], 5000
    for b in range(blocks):
        lines += ["MSG\t4990 before", f"START\t{first} \t{words}\tSAMPLES\tEVENTS", "PRESCALER\t1", "PUPIL\tAREA"]
        lines += [f"{kind}\tGAZE\t{words}\tRATE\t {rate:.2f}\tTRACKING\tCR" for kind in ("EVENTS", "SAMPLES")]
        lines += [f"MSG\t{first + 100} go {b}", f"SBLINK {eyes[0]} {first + 20}"]
        lines += [f"EBLINK {eyes[0]} {first + 20}\t{first + 60}\t40"]
        for k in range(b * n, (b + 1) * n):
            numbers = "\t".join("   ." if np.isnan(v) else f"{v:7.1f}" for v in values[:, k])
            lines.append(f"{int(first + step * (k - b * n))}\t{numbers}\t...")
        last = int(first + step * (n - 1))
        lines.append(f"END\t{last} \tSAMPLES\tEVENTS\tRES\t  47.75\t  45.92")
        made += [values[:, b * n : (b + 1) * n], np.full((len(values), rate // 2), np.nan)]
        first = last + int(step) + 500
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return np.concatenate(made[:-1], axis=1)


#: The files that damage is tried on.
FORMATS = {
    "Nicolet": Format("a.data", write_nicolet),
    "NEDF": Format("a.nedf", write_nedf),
    "eXimia": Format("a.nxe", write_eximia, sized=False),
    "BCI2000": Format("a.dat", write_bci2000, sized=False),
    "EyeLink": Format("a.asc", write_eyelink),
    "EyeLink of two blocks": Format("a.asc", lambda p: write_eyelink(p, blocks=2), sized=False),
}
