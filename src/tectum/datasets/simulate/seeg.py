"""Simulated sEEG of speech: discrete units of 100 ms, words made of units, noise like the brain's, and the truth."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tectum.core.errors import InputError, explain
from tectum.core.random import resolve_seed
from tectum.core.recording import Recording

from .sim import Sim

RATE = 1000.0  #: Hz
PATCH = 100  #: samples of a unit
BAND = (10.0, 60.0)  #: of the waveforms, Hz
BURST = (70.0, 150.0)  #: of the bursts, Hz


class SpeechData(NamedTuple):
    """Unlabelled windows and labelled trials of one subject, both (trial, channel, time)."""

    unlabelled: Recording
    words: Recording  #: trial columns "word", "block" and "start"


class SpeechTruth(NamedTuple):
    """What the recordings were made from."""

    units: Tensor
    """(window, token) int64 unit in every 100 ms of the unlabelled windows."""
    word_units: Tensor
    """(trial, token) int64 unit in every 100 ms of the trials, before the shift."""
    words: Tensor
    """(word, token) int64 units of each word as it should be said."""
    shift: Tensor
    """(trial,) int64 samples by which a trial begins late."""
    transition: Tensor
    """(unit, unit) float64 from row to column."""
    waveforms: Tensor
    """(unit, source, sample) float64, unit standard deviation."""
    mixing: Tensor
    """(source, channel) float64, rows of length 1; the first ``n_channels`` carry signal."""


def seeg_words(
    *,
    n_units: int = 12,
    n_words: int = 8,
    n_windows: int = 800,
    n_trials: int = 30,
    n_tokens: int = 10,
    n_channels: int = 10,
    n_silent: int = 0,
    snr: float = 1.0,
    slip: float = 0.15,
    jitter: float = 0.0,
    subject: str = "sim",
    random_state: int | None = 0,
) -> Sim[SpeechData, SpeechTruth]:
    """Simulate a subject whose cortex runs through discrete units, and words that are sequences of them.

    Each unit is a waveform of 100 ms in three sources, band-limited to 10 to 60 Hz; sources mix into channels. Units
    follow each other by a Markov chain in which every unit has two usual successors. Noise has a spectrum of 1/f. All
    channels are standardised.

    Parameters
    ----------
    n_units, n_words : int
        Units, and words of ``n_tokens`` units each.
    n_windows, n_trials : int
        Unlabelled windows, and trials of each word.
    n_tokens : int
        Units in a window or trial; it lasts that many tenths of a second.
    n_channels, n_silent : int
        Channels with signal, and channels of noise only after them.
    snr : float
        Variance of the signal over that of the noise.
    slip : float
        Probability that a unit of a trial is another than the word's.
    jitter : float
        Largest shift of a trial's start, s; both sides of it are filled by noise.
    subject : str
        Name.
    random_state : int or None, default 0
        Seed.

    Returns
    -------
    Sim
        ``data`` is a :class:`SpeechData`, ``truth`` a :class:`SpeechTruth`. Trials are in blocks that hold every word
        twice.

    Examples
    --------
    >>> sim = seeg_words(n_windows=4, n_trials=2, n_words=3)
    >>> sim.data.unlabelled.sizes, sim.data.words.sizes
    ({'trial': 4, 'channel': 10, 'time': 1000}, {'trial': 6, 'channel': 10, 'time': 1000})
    """
    _check(n_units=n_units, n_words=n_words, n_windows=n_windows, n_trials=n_trials, n_tokens=n_tokens,
           n_channels=n_channels)  # fmt: skip
    if not snr >= 0 or not 0 <= slip <= 1:
        raise InputError(explain("seeg_words", expected="snr >= 0 and slip in [0, 1]", got=f"{snr=}, {slip=}"))
    rng = np.random.default_rng(resolve_seed(random_state))
    waveforms, mixing = _waveforms(rng, n_units), _mixing(rng, n_channels, n_silent)
    transition = _transition(rng, n_units)
    words = _chain(rng, transition, n_words, n_tokens)
    units = _chain(rng, transition, n_windows, n_tokens)
    order, block = _blocks(rng, n_words, n_trials)
    said = np.where(rng.random((len(order), n_tokens)) < slip, rng.integers(n_units, size=(len(order), n_tokens)),
                    words[order])  # fmt: skip
    shift = rng.integers(-round(jitter * RATE), round(jitter * RATE) + 1, len(order))
    free = _mixed(rng, _signal(waveforms, units, np.zeros(n_windows, dtype=int)), mixing, snr)
    trials = _mixed(rng, _signal(waveforms, said, shift), mixing, snr)
    data = SpeechData(
        _recording(free, subject, "free", {}),
        _recording(trials, subject, "words", {"word": np.asarray([f"w{k}" for k in order]), "block": block}),
    )
    kept = (units, said, words, shift, transition, waveforms, mixing)
    return Sim(data, SpeechTruth(*(torch.from_numpy(np.ascontiguousarray(v)) for v in kept)))


def seeg_bursts(
    *, n_classes: int = 4, n_trials: int = 40, n_tokens: int = 10, n_channels: int = 10, snr: float = 1.0,
    subject: str = "sim", random_state: int | None = 0,
) -> Sim[Recording, Tensor]:  # fmt: skip
    """Simulate trials whose class is told by nothing but *when* high-frequency bursts occur.

    In the tokens of its class, two of them, three sources that mix into all channels carry noise of 70 to 150 Hz, drawn
    anew in every trial.

    Parameters
    ----------
    n_classes, n_trials : int
        Classes, and trials of each.
    n_tokens, n_channels : int
        Tenths of a second in a trial; channels.
    snr : float
        Variance of a burst over that of the noise.
    subject : str
        Name.
    random_state : int or None, default 0
        Seed.

    Returns
    -------
    Sim
        ``data`` is a Recording (trial, channel, time) with trial columns "word" and "block"; ``truth`` a bool Tensor
        (class, token).

    Examples
    --------
    >>> sim = seeg_bursts(n_classes=2, n_trials=3)
    >>> sim.data.sizes["trial"], sim.truth.sum(1).tolist()
    (6, [2, 2])
    """
    _check(n_classes=n_classes, n_trials=n_trials, n_tokens=n_tokens, n_channels=n_channels)
    if n_classes * 2 > n_tokens * (n_tokens - 1):
        raise InputError(explain("seeg_bursts(n_classes)", expected="fewer classes", got=str(n_classes)))
    rng = np.random.default_rng(resolve_seed(random_state))
    pairs = rng.permutation([(i, j) for i in range(n_tokens) for j in range(i)])[:n_classes]
    when = np.zeros((n_classes, n_tokens), dtype=bool)
    np.put_along_axis(when, pairs, True, axis=1)
    order, block = _blocks(rng, n_classes, n_trials)
    n_time = n_tokens * PATCH
    gate = np.repeat(when[order], PATCH, axis=1)[:, None]  # (trial, 1, time)
    high = _band(rng.standard_normal((len(order), 3, n_time)), *BURST)
    signal = np.einsum("nst,sc->nct", high, _mixing(rng, n_channels, 0))
    signal /= signal.std((0, 2), keepdims=True)
    x = np.sqrt(snr) * signal * gate + _pink(rng, signal.shape)
    columns = {"word": np.asarray([f"c{k}" for k in order]), "block": block}
    return Sim(_recording(_standard(x), subject, "bursts", columns), torch.from_numpy(when))


def _check(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise InputError(explain(f"seeg_words({name})", expected="at least 1", got=str(value)))


def _band(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Keep the frequencies from ``low`` to ``high`` Hz of the last axis."""
    freq = np.fft.rfftfreq(x.shape[-1], 1 / RATE)
    kept: np.ndarray = np.fft.irfft(np.fft.rfft(x) * ((freq >= low) & (freq <= high)), n=x.shape[-1])
    return kept


def _pink(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Draw noise of unit deviation whose amplitude falls as 1 / sqrt(f) along the last axis."""
    freq = np.fft.rfftfreq(shape[-1], 1 / RATE)
    freq[0] = np.inf
    noise: np.ndarray = np.fft.irfft(np.fft.rfft(rng.standard_normal(shape)) / np.sqrt(freq), n=shape[-1])
    made: np.ndarray = noise / noise.std()
    return made


def _waveforms(rng: np.random.Generator, n_units: int) -> np.ndarray:
    """Draw a waveform of unit deviation in three sources for every unit, (unit, source, sample)."""
    made = _band(rng.standard_normal((n_units, 3, PATCH)), *BAND)
    spread: np.ndarray = made / made.std((1, 2), keepdims=True)
    return spread


def _mixing(rng: np.random.Generator, n_channels: int, n_silent: int) -> np.ndarray:
    """Draw unit rows from sources to channels, and zeros to the silent ones, (source, channel)."""
    rows = rng.standard_normal((3, n_channels))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return np.concatenate((rows, np.zeros((3, n_silent))), axis=1)


def _transition(rng: np.random.Generator, n_units: int) -> np.ndarray:
    """Give every unit two successors of probability 0.45; the rest is shared by all."""
    table = np.full((n_units, n_units), 0.1 / n_units)
    for k in range(n_units):
        table[k, rng.choice(n_units, size=min(2, n_units), replace=False)] += 0.9 / min(2, n_units)
    return table


def _chain(rng: np.random.Generator, transition: np.ndarray, n: int, length: int) -> np.ndarray:
    """Draw sequences (n, length) of units; the first is uniform."""
    units = np.empty((n, length), dtype=np.int64)
    units[:, 0] = rng.integers(len(transition), size=n)
    reached, chance = transition.cumsum(1)[:, :-1], rng.random((n, length, 1))
    for t in range(1, length):
        units[:, t] = (chance[:, t] > reached[units[:, t - 1]]).sum(1)
    return units


def _blocks(rng: np.random.Generator, n_classes: int, n_trials: int) -> tuple[np.ndarray, np.ndarray]:
    """Return class and block of trials in the order of recording: each block has every class twice, shuffled."""
    n_blocks = -(-n_trials // 2)
    sizes = [min(2, n_trials - 2 * b) for b in range(n_blocks)]
    order = [rng.permutation(np.tile(np.arange(n_classes), size)) for size in sizes]
    return np.concatenate(order), np.concatenate([np.full(len(part), b) for b, part in enumerate(order)])


def _signal(waveforms: np.ndarray, units: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Join the waveforms of units (n, token), begun ``shift`` samples late: (n, source, time)."""
    x = waveforms[units].transpose(0, 2, 1, 3).reshape(len(units), 3, -1)
    place = np.arange(x.shape[-1]) - shift[:, None]
    inside = (place >= 0) & (place < x.shape[-1])
    moved = np.take_along_axis(x, np.clip(place, 0, x.shape[-1] - 1)[:, None], axis=2)
    kept: np.ndarray = moved * inside[:, None]
    return kept


def _mixed(rng: np.random.Generator, sources: np.ndarray, mixing: np.ndarray, snr: float) -> np.ndarray:
    """Mix sources into channels, scale every channel to the signal-to-noise ratio, and add noise."""
    signal = np.einsum("nst,sc->nct", sources, mixing)
    spread = signal.std((0, 2), keepdims=True)
    signal = np.divide(signal, spread, out=np.zeros_like(signal), where=spread > 0)
    return _standard(np.sqrt(snr) * signal + _pink(rng, signal.shape))


def _standard(x: np.ndarray) -> np.ndarray:
    """Standardise every channel over all windows."""
    made: np.ndarray = (x - x.mean((0, 2), keepdims=True)) / x.std((0, 2), keepdims=True)
    return made


def _recording(x: np.ndarray, subject: str, session: str, columns: dict[str, np.ndarray]) -> Recording:
    """Wrap windows (trial, channel, time), one after another on the clock."""
    start = np.arange(len(x)) * x.shape[2] / RATE
    names = [f"A{c + 1}-A{c + 2}" for c in range(x.shape[1])]
    return Recording(
        data=torch.from_numpy(x.astype(np.float32)), dims=("trial", "channel", "time"), rate=RATE, units="z",
        modality="ieeg", subject=subject, session=session,
        coords={"channel": {"name": names}, "trial": {**columns, "start": start}},
    )  # fmt: skip
