"""EEG windows with and without an effect, in which a leaking evaluation finds one anyway."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...core.clock import count_samples
from ...core.errors import InputError, explain
from ...core.random import resolve_seed
from ...core.recording import Recording

FREQUENCIES = (3.0, 10.0, 18.0, 27.0)  #: centres of the rhythms, Hz
MARKED = 2  #: the rhythm whose strength tells the classes


class RhythmTruth(NamedTuple):
    """What simulated windows were made from."""

    label: Tensor
    """(subject, window) int64 class."""
    frequency: Tensor
    """(subject, rhythm) float64, Hz."""
    pattern: Tensor
    """(subject, channel, rhythm) float64 weights of the rhythms in the channels."""
    gain: Tensor
    """(subject, channel) float64."""


class RhythmSample(NamedTuple):
    """Recordings, one a subject, and their truth."""

    recordings: list[Recording]
    truth: RhythmTruth


def rhythm_windows(
    n_subjects: int = 40,
    *,
    effect: float = 0.0,
    within: bool = False,
    n_channels: int = 16,
    n_windows: int = 12,
    length: float = 5.0,
    rate: float = 100.0,
    random_state: int | None = 0,
) -> RhythmSample:
    """Simulate windows of subjects who differ from each other far more than the classes do.

    Every subject has four rhythms (3, 10, 18, 27 Hz, give or take 1 Hz, 1 Hz wide) with spatial patterns of their own,
    channel gains of their own (log-normal, 0.3) and noise of amplitude 1/sqrt(f). The class is the parity of the
    subject. In class 1 the 18 Hz rhythm, which has six channels in common, is ``1 + effect`` times as strong.

    Parameters
    ----------
    n_subjects : int, default 40
        Subjects.
    effect : float, default 0.0
        Relative difference of the classes; 0 leaves nothing to be found.
    within : bool, default False
        Let the class change from window to window in every subject, instead of from subject to subject.
    n_channels, n_windows : int
        Channels, and consecutive windows of each subject.
    length, rate : float
        Length of a window in s; samples per second.
    random_state : int or None, default 0
        Seed.

    Returns
    -------
    RhythmSample
        Recordings (trial, channel, time) in uV with the trial columns label, start and stop.

    Examples
    --------
    >>> sample = rhythm_windows(4, n_windows=3)
    >>> len(sample.recordings), sample.recordings[1].sizes, sample.recordings[1].labels("trial", "label").tolist()
    (4, {'trial': 3, 'channel': 16, 'time': 500}, [1, 1, 1])
    """
    sizes = {"n_subjects": n_subjects, "n_channels": n_channels, "n_windows": n_windows}
    _check_sizes("rhythm_windows", sizes)
    if n_channels < 6 or effect <= -1:
        got = f"{n_channels} channels, effect {effect}"
        raise InputError(explain("rhythm_windows", expected="at least 6 channels and effect > -1", got=got))
    rng = np.random.default_rng(resolve_seed(random_state))
    samples = count_samples(length, rate=rate)
    n_time = n_windows * samples
    label = (np.arange(n_subjects)[:, None] + within * np.arange(n_windows)) % 2  # (subject, window)
    gain = np.exp(0.3 * rng.standard_normal((n_subjects, n_channels)))
    centre = np.asarray(FREQUENCIES) + rng.uniform(-1, 1, (n_subjects, len(FREQUENCIES)))
    pattern = rng.standard_normal((n_subjects, n_channels, len(FREQUENCIES)))
    pattern[:, :, MARKED] = (np.arange(n_channels) < 6) + 0.3 * pattern[:, :, MARKED]
    freq = np.fft.rfftfreq(n_time, 1 / rate)
    bump = np.exp(-0.5 * ((freq - centre[..., None]) / 0.5) ** 2)  # (subject, rhythm, freq)
    slope = np.concatenate([[0.0], freq[1:] ** -0.5])
    rhythms = _shaped(rng, bump, n_time)  # (subject, rhythm, time)
    rhythms[:, MARKED] *= 1 + effect * label.repeat(samples, axis=1)
    noise = _shaped(rng, np.broadcast_to(slope, (n_subjects, n_channels, len(freq))), n_time)
    x = 10 * gain[..., None] * (pattern @ rhythms + noise)  # (subject, channel, time)
    windows = x.reshape(n_subjects, n_channels, n_windows, samples).transpose(0, 2, 1, 3)
    truth = RhythmTruth(*(torch.from_numpy(v) for v in (label, centre, pattern, gain)))
    start = np.arange(n_windows) * samples / rate
    parts = zip(windows, label, strict=True)
    return RhythmSample([_recording(w, c, start, rate, f"s{k:02d}") for k, (w, c) in enumerate(parts)], truth)


def _shaped(rng: np.random.Generator, amplitude: np.ndarray, n_time: int) -> np.ndarray:
    """Draw Gaussian noise (..., time) of a given amplitude spectrum (..., freq) and unit standard deviation."""
    white = np.fft.rfft(rng.standard_normal((*amplitude.shape[:-1], n_time)))
    x = np.fft.irfft(white * amplitude, n_time)
    unit: np.ndarray = x / x.std(-1, keepdims=True)
    return unit


def _recording(windows: np.ndarray, label: np.ndarray, start: np.ndarray, rate: float, subject: str) -> Recording:
    """Wrap the windows of a subject."""
    _, n_channels, samples = windows.shape
    trial = {"label": label, "start": start, "stop": start + samples / rate}
    return Recording(
        data=torch.from_numpy(windows.astype(np.float32)),
        dims=("trial", "channel", "time"),
        rate=rate,
        units="uV",
        modality="eeg",
        subject=subject,
        coords={"channel": {"name": [f"E{k + 1:02d}" for k in range(n_channels)]}, "trial": trial},
    )


def null_blocks(
    n_blocks: int = 24,
    *,
    block: float = 8.0,
    length: float = 2.0,
    hop: float | None = None,
    memory: float = 0.0,
    n_channels: int = 4,
    rate: float = 32.0,
    random_state: int | None = 0,
) -> Recording:
    """Simulate noise cut into windows whose labels change at random from block to block: there is nothing to decode.

    With ``hop`` below ``length`` neighbouring windows share samples; with ``memory`` the noise drifts (an
    autoregressive process of first order), so that windows near in time are alike. Either lets a split of single
    windows score above chance; a split of blocks does not.

    Parameters
    ----------
    n_blocks : int, default 24
        Blocks, half of each class, in random order.
    block, length : float
        Length of a block and of a window in s.
    hop : float, optional
        Time between starts of windows in s; by default ``length``.
    memory : float, default 0.0
        Time constant of the noise in s.
    n_channels : int, default 4
        Channels.
    rate : float, default 32
        Samples per second.
    random_state : int or None, default 0
        Seed.

    Returns
    -------
    Recording
        (trial, channel, time) with the trial columns label, block, start and stop.

    Examples
    --------
    >>> null_blocks(4, hop=1.0).sizes
    {'trial': 28, 'channel': 4, 'time': 64}
    """
    from scipy.signal import lfilter

    _check_sizes("null_blocks", {"n_blocks": n_blocks // 2, "n_channels": n_channels})
    rng = np.random.default_rng(resolve_seed(random_state))
    per_block, samples = count_samples(block, rate=rate), count_samples(length, rate=rate)
    step = samples if hop is None else count_samples(hop, rate=rate)
    if not step >= 1 or not 1 <= samples <= per_block:
        got = f"block={block}, length={length}, hop={hop}"
        raise InputError(explain("null_blocks", expected="0 < length <= block and hop > 0", got=got))
    keep = np.exp(-1 / (memory * rate)) if memory > 0 else 0.0
    x = rng.standard_normal((n_channels, n_blocks * per_block))
    x[:, 1:] *= np.sqrt(1 - keep**2)
    x = lfilter([1.0], [1.0, -keep], x)
    inside = np.arange(0, per_block - samples + 1, step)
    first = (np.arange(n_blocks)[:, None] * per_block + inside).ravel()
    windows = x[:, first[:, None] + np.arange(samples)].transpose(1, 0, 2)
    classes = rng.permutation(np.arange(n_blocks) % 2)
    member = np.repeat(np.arange(n_blocks), len(inside))
    rec = _recording(windows, classes[member], first / rate, rate, "noise")
    return rec.with_(coords={**rec.coords, "trial": {**rec.coords["trial"], "block": member}})


def _check_sizes(where: str, sizes: dict[str, int]) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise InputError(explain(f"{where}({name})", expected="at least 1", got=str(value)))
