"""Rebuild ``songbird_hvc.safetensors`` from the sdist seqnmf==0.1.2, which is read but not installed.

The two arrays of the MATLAB file become two recordings on one clock: calcium (time, unit) at 30 Hz and the song's
spectrogram (time, freq) at 200 Hz. Traces go from float64 to float32, the spectrogram to float16 (see the card).
"""

import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import scipy.io
from _packages import Source, main

from tectum import Recording, Session

MEMBER = "seqnmf/data/MackeviciusData.mat"


def build(source: Source) -> Session:
    """Return the session that is packed."""
    arrays = scipy.io.loadmat(io.BytesIO(source.read(MEMBER)))
    who = {"subject": "isolate bird", "session": "MackeviciusData"}
    common = {**who, "meta": source.describe()}
    traces = np.ascontiguousarray(arrays["NEURAL"].T, dtype=np.float32)  # (time 666, unit 75)
    song = np.ascontiguousarray(arrays["SONG"].T, dtype=np.float16)  # (time 4440, freq 141)
    calcium = Recording(
        data=traces,
        dims=("time", "unit"),
        rate=float(arrays["VIDEOfs"].item()),
        units="deconvolved",
        modality="calcium",
        coords={"unit": {"id": np.arange(traces.shape[1])}},
        history=source.history(MEMBER, variable="NEURAL", transposed=True, dtype="float32"),
        **common,
    )
    spectrogram = Recording(
        data=song,
        dims=("time", "freq"),
        rate=float(arrays["SONGfs"].item()),
        units="a.u.",
        modality="stimulus",
        history=source.history(MEMBER, variable="SONG", transposed=True, dtype="float16"),
        **common,
    )
    return Session(items_={"calcium": calcium, "song": spectrogram}, meta=source.describe(), **who)


if __name__ == "__main__":
    main(__file__, build)
