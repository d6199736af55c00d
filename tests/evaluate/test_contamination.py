"""Leaks of a voice are found, answers to its loudness are not taken for one, and chance is kept."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tectum import Recording
from tectum.core.errors import InputError
from tectum.evaluate.contamination import acoustic_contamination, diagonals

RATE, SECONDS = 1000.0, 60
N = int(RATE * SECONDS)


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loudness(seed: int) -> Tensor:
    """Slow course of loudness, (time,)."""
    steps = torch.rand(SECONDS * 4, generator=draw(seed)) * 2
    return torch.nn.functional.interpolate(steps[None, None], N, mode="linear")[0, 0]


def voice(seed: int) -> Tensor:
    """Tones whose pitch wanders from 80 to 220 Hz, with a harmonic, and breath."""
    steps = 80 + 140 * torch.rand(SECONDS * 3, generator=draw(seed + 1))
    pitch = torch.nn.functional.interpolate(steps[None, None], N, mode="linear")[0, 0].double()
    phase = (2 * torch.pi * pitch / RATE).cumsum(0)
    tone = phase.sin() + 0.5 * (2 * phase).sin()
    return loudness(seed) * tone.float() + 0.1 * torch.randn(N, generator=draw(seed + 2))


def noise(n: int, seed: int) -> Tensor:
    """Noise of 1/f, (channel, time)."""
    made = torch.fft.rfft(torch.randn(n, N, generator=draw(seed)))
    frequency = torch.fft.rfftfreq(N).clamp(min=1 / N)
    x = torch.fft.irfft(made / frequency.sqrt(), n=N)
    return x / x.std(1, keepdim=True)


def recording(x: Tensor) -> Recording:
    return Recording(data=x, dims=("channel", "time"), rate=RATE)


def test_diagonals_by_loop() -> None:
    matrix = torch.randn(2, 5, 5, dtype=torch.float64)
    wanted = [[sum(m[(f + k) % 5, f] for f in range(5)) / 5 for k in range(5)] for m in matrix]
    torch.testing.assert_close(diagonals(matrix), torch.tensor(wanted, dtype=torch.float64))


def test_leaks_are_found_and_clean_channels_are_not() -> None:
    sound, x = voice(0), noise(40, 9)
    x[:3] += torch.tensor([0.3, 0.1, -0.1])[:, None] * sound
    found = acoustic_contamination(recording(x), recording(sound[None]))
    assert bool((found.p[:3] < 0.05).all())
    assert int((found.p[3:] < 0.05).sum()) <= 6  # binomial, 37 channels at 0.05: above 6 in 1 of 400
    assert bool((found.score[:3] > found.score[3:].max()).all())


def test_an_answer_to_loudness_is_no_leak() -> None:
    wrong = 0
    for seed in range(8):
        sound = voice(10 * seed)
        high = torch.randn(1, N, generator=draw(seed + 500))  # broad-band activity that follows loudness
        x = noise(1, seed + 700) + loudness(10 * seed) * high
        found = acoustic_contamination(recording(x), recording(sound[None]))
        assert float(found.correlation.mean()) > 0.05  # it does follow
        wrong += int(found.p[0] < 0.05)
    assert wrong <= 2


def test_sounds_that_do_not_fit() -> None:
    brain = recording(noise(1, 0))
    for bad in (recording(voice(0)[None, :-5]), recording(voice(0)[None]).with_(rate=500.0),
                recording(torch.zeros(2, N))):  # fmt: skip
        with pytest.raises(InputError, match=r"audio.*one sound of 60000 samples at 1000 Hz"):
            acoustic_contamination(brain, bad)
    with pytest.raises(InputError, match="20 frequencies and frames"):
        acoustic_contamination(brain, recording(voice(0)[None]), high=100.0)
    with pytest.raises(InputError, match=r"\(channel, time\)"):
        acoustic_contamination(brain.windows(1.0), recording(voice(0)[None]))
