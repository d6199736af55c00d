"""Does the sound of a voice leak into a recording of the brain? Spectra that agree frequency by frequency tell."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tectum.core.errors import InputError, explain
from tectum.core.recording import Recording


class Contamination(NamedTuple):
    """How far each channel follows a sound."""

    frequency: Tensor  #: (freq,) Hz
    correlation: Tensor  #: (channel, freq, freq), of log power over time: of the sound (row) with the channel (column)
    score: Tensor  #: (channel,), mean of the diagonal
    p: Tensor  #: (channel,), share of all diagonals, wrapped around, whose mean is no smaller


def log_power(x: Tensor, size: int) -> Tensor:
    """Return the log power of half-overlapping Hann windows: Tensor (..., frame, size // 2 + 1)."""
    window = torch.hann_window(size, dtype=x.dtype, device=x.device)
    frames = x.unfold(-1, size, max(1, size // 2))
    power = torch.fft.rfft((frames - frames.mean(-1, keepdim=True)) * window).abs().square()
    found: Tensor = power.clamp(min=torch.finfo(x.dtype).tiny).log()
    return found


def diagonals(matrix: Tensor) -> Tensor:
    """Return the mean of every diagonal of square matrices (..., n, n), wrapped around, the main one first: (..., n).

    Examples
    --------
    >>> diagonals(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [2.5, 2.5]
    """
    n = matrix.shape[-1]
    column = torch.arange(n, device=matrix.device)
    found: Tensor = matrix[..., (column + column[:, None]) % n, column].mean(-1)
    return found


def acoustic_contamination(
    rec: Recording, audio: Recording, *, window: float = 0.2, low: float = 75.0, high: float | None = None
) -> Contamination:
    """Compare the spectra of channels with that of the voice over time.

    A microphonic channel follows the sound in each frequency by itself; an answer of the brain to speech follows its
    loudness in many frequencies alike. So the correlation of power at equal frequencies is set against that at
    frequencies apart by a fixed step, for all steps. Leave channels of small ``p`` out, or decode from them alone: if
    that works, the decoder hears the microphone.

    Parameters
    ----------
    rec : Recording, (channel, time)
        Recording of the brain, before a filter takes the frequencies of the voice away.
    audio : Recording, (time) or one channel
        The sound, at the same rate and from the same moment; resampled behind an anti-alias filter.
    window : float, default 0.2
        Length of the windows of the spectra, s.
    low, high : float
        Frequencies to compare, Hz; ``high`` is nine tenths of half the rate by default.

    Returns
    -------
    Contamination

    Raises
    ------
    InputError
        If rates, lengths or axes differ, or fewer than 20 frequencies or frames are left.

    References
    ----------
    Roussel et al. (2020), Observation and assessment of acoustic contamination of electrophysiological brain signals
    during speech production and sound perception, Journal of Neural Engineering. The comparison with shifted diagonals
    instead of shuffled ones, which keeps neighbouring frequencies together, is ours.

    Examples
    --------
    >>> draw = torch.Generator().manual_seed(0)
    >>> sound = torch.randn(1, 20_000, generator=draw)
    >>> x = torch.randn(2, 20_000, generator=draw)
    >>> x[0] += 0.5 * sound[0]
    >>> brain, voice = (Recording(data=d, dims=("channel", "time"), rate=1000.0) for d in (x, sound))
    >>> (acoustic_contamination(brain, voice).p < 0.05).tolist()
    [True, False]
    """
    where = "acoustic_contamination"
    if set(rec.dims) != {"channel", "time"} or rec.rate is None:
        raise InputError(explain(where, expected="a continuous recording (channel, time)", got=str(rec.dims)))
    sound = audio.values.reshape(-1) if audio.values.numel() == audio.sizes.get("time", 0) else None
    if sound is None or audio.rate != rec.rate or len(sound) != rec.sizes["time"]:
        got = f"{audio.dims} of {tuple(audio.values.shape)} at {audio.rate} Hz"
        expected = f"one sound of {rec.sizes['time']} samples at {rec.rate:g} Hz"
        raise InputError(explain(f"{where}(audio)", expected=expected, got=got, fix="resample and cut it"))
    size, top = round(window * rec.rate), 0.45 * rec.rate if high is None else high
    frequency = torch.fft.rfftfreq(size, 1 / rec.rate)
    kept = ((frequency >= low) & (frequency <= top)).to(rec.device)
    brain, voice = log_power(rec.tensor("channel", "time").double(), size), log_power(sound.double(), size)
    if int(kept.sum()) < 20 or len(voice) < 20:
        got = f"{int(kept.sum())} frequencies and {len(voice)} frames"
        fix = "record at a higher rate, or for longer"
        raise InputError(explain(where, expected="20 frequencies and frames at least", got=got, fix=fix))
    brain, voice = (_standard(p[..., kept]) for p in (brain, voice))
    correlation = torch.einsum("tg,ctf->cgf", voice, brain) / len(voice)
    means = diagonals(correlation)
    share = (means >= means[:, :1]).double().mean(1)
    return Contamination(frequency[kept.cpu()], correlation, means[:, 0], share)


def _standard(x: Tensor) -> Tensor:
    """Standardise every frequency over frames, the last axis but one."""
    centred = x - x.mean(-2, keepdim=True)
    return centred / centred.square().mean(-2, keepdim=True).sqrt().clamp(min=1e-12)
