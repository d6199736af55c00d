"""LightCNN: the published numbers of parameters, its maths, and its bad inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

import tectum
from tectum.core.errors import ContractError, InputError, TectumWarning
from tectum.datasets.simulate.eeg import rhythm_windows
from tectum.models.light_cnn import OneConvolution


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def recording(n: int = 16, *, n_channels: int = 4, seed: int = 0, scale: float = 10.0) -> tectum.Recording:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, n_channels, 50, generator=draw)
    x[1::2, 0] *= 3
    names = [f"E{k}" for k in range(n_channels)]
    coords = {"channel": {"name": names}, "trial": {"label": [0, 1] * (n // 2)}}
    return tectum.Recording(data=scale * x, dims=("trial", "channel", "time"), rate=50.0, units="uV", coords=coords)


def test_numbers_of_parameters_are_those_published() -> None:
    body = OneConvolution(59, 59, 2, kernel=11, dropout=0.1)
    assert count(body.conv) == 38_350
    assert count(body.head) == 120
    assert count(body) == 38_470


@pytest.mark.parametrize(("kernel", "filters"), [(11, 59), (39, 59), (11, 20), (25, 40)])
def test_numbers_of_parameters_of_the_variants(kernel: int, filters: int) -> None:
    model = tectum.LightCNN(kernel=kernel, n_filters=filters)
    body = model._build(59, 2500, 2, 500.0)
    assert count(body) == 59 * filters * kernel + filters + 2 * filters + 2
    assert body(torch.zeros(3, 59, 2500)).shape == (3, 2)


def test_the_network_is_what_the_paper_says() -> None:
    body = OneConvolution(3, 5, 2, kernel=7, dropout=0.5).eval()
    x = torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(0))
    padded = F.pad(x, (3, 3))
    features = torch.zeros(2, 5, 40)
    for t in range(40):
        features[:, :, t] = torch.einsum("bck,fck->bf", padded[:, :, t : t + 7], body.conv.weight) + body.conv.bias
    wanted = features.relu().mean(2) @ body.head.weight.T + body.head.bias
    torch.testing.assert_close(body(x), wanted)


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=12), kernel=st.sampled_from([1, 3, 7, 21]),
    n_times=st.integers(21, 45), batch=st.integers(1, 3),
)  # fmt: skip
def test_new_samples_alone_give_the_logits_of_the_whole_window(
    sizes: list[int], kernel: int, n_times: int, batch: int
) -> None:
    body = OneConvolution(3, 5, 2, kernel=kernel, dropout=0.5).eval()
    x = torch.randn(batch, 3, sum(sizes), generator=torch.Generator().manual_seed(n_times))
    state, stop = body.init_state(batch, n_times), 0
    for size in sizes:
        part, stop = x[:, :, stop : stop + size], stop + size
        with torch.no_grad():
            logits, state = body.step(part, state)
            if stop < n_times:
                assert logits.shape == (batch, 2)
                assert bool(logits.isnan().all())
            else:
                torch.testing.assert_close(logits, body(x[:, :, stop - n_times : stop]), atol=1e-5, rtol=0)


def test_windows_shorter_than_a_filter_have_no_state() -> None:
    body = OneConvolution(3, 5, 2, kernel=7, dropout=0.0)
    assert body.init_state(1, 6) is None
    assert body.init_state(1, 7) is not None


def test_time_of_a_pattern_does_not_matter_but_its_length_does() -> None:
    body = OneConvolution(2, 4, 2, kernel=5, dropout=0.0).eval()
    x = torch.zeros(1, 2, 60)
    x[:, :, 20:25] = torch.randn(1, 2, 5, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(body(x), body(x.roll(17, 2)))
    assert not torch.allclose(body(x), body(x[:, :, 10:40]))


def test_responses_of_filters_are_those_of_their_weights() -> None:
    rec = recording()
    result = tectum.LightCNN(epochs=2, device="cpu", kernel=9).fit(rec).result_
    weight = result.weights["body.conv.weight"].double().numpy()  # (filter, channel, kernel)
    freq = result.coords["freq"]["hz"]
    lag = np.arange(9) / 50.0
    wave = np.exp(-2j * np.pi * freq[:, None] * lag)  # (freq, kernel)
    gain = np.abs(np.einsum("fck,wk->fcw", weight, wave))
    np.testing.assert_allclose(result.response.double().numpy(), np.sqrt((gain**2).mean(1)), rtol=1e-4, atol=1e-6)
    assert freq[-1] == 25.0


def test_activations_are_the_means_of_the_classes() -> None:
    rec = recording()
    model = tectum.LightCNN(epochs=2, device="cpu").fit(rec)
    network = model.forward_module()
    with torch.no_grad():
        z = network.body.conv(network.standard(rec.values)).relu().mean(2)  # (trial, filter)
    for k in (0, 1):
        torch.testing.assert_close(model.result_.activation[k], z[k::2].mean(0))


def test_data_in_volts_that_are_not_scaled_warn() -> None:
    small = recording(scale=1e-5)
    with pytest.warns(TectumWarning, match=r"LightCNN.*standard deviation.*to_units.*normalise"):
        tectum.LightCNN(epochs=1, normalise="none", device="cpu").fit(small)
    tectum.LightCNN(epochs=1, device="cpu").fit(small)  # normalised: the scale does not matter


def test_scale_does_not_matter_to_a_normalised_network() -> None:
    one, other = (tectum.LightCNN(epochs=3, device="cpu").fit(recording(scale=s)) for s in (1.0, 1024.0))
    torch.testing.assert_close(
        one.predict_proba(recording(seed=1, scale=1.0)), other.predict_proba(recording(seed=1, scale=1024.0))
    )


def test_permuted_channels_are_refused_with_the_call_that_repairs_them() -> None:
    rec = recording()
    model = tectum.LightCNN(epochs=2, device="cpu").fit(rec)
    turned = rec.isel(channel=[2, 0, 3, 1])
    with pytest.raises(ContractError, match=r"channel order.*rec.sel\(channel=list\(model.contract_.names\)\)"):
        model.predict(turned)
    again = turned.sel(channel=list(model.contract_.names))
    assert torch.equal(model.predict_proba(again), model.predict_proba(rec))


def test_reference_settings_run() -> None:
    model = tectum.LightCNN(normalise="none", lr=1e-4, batch_size=2, epochs=2, patience=None, device="cpu")
    assert len(model.fit(recording()).result_.loss) == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rec: rec.with_(data=rec.values.clone().index_fill(1, torch.tensor([1]), torch.nan)), "NaN.*channel E1"),
        (
            lambda rec: rec.with_(data=rec.values.clone().index_fill(1, torch.tensor([1, 3]), 0.0)),
            "constant channel E1, E3",
        ),
        (lambda rec: rec.isel(trial=[0, 2, 4]), "at least two classes, got only 0"),
    ],
)
def test_bad_data_are_refused_by_name(change: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        tectum.LightCNN(device="cpu").fit(change(recording()))  # type: ignore[operator]


def test_simulated_rhythms_are_where_they_should_be() -> None:
    sample = rhythm_windows(6, n_windows=4, effect=1.0, random_state=3)
    x = torch.cat([rec.values.movedim(0, 1).flatten(1)[None] for rec in sample.recordings]).double()  # (s, c, time)
    power = torch.fft.rfft(x).abs().square()
    freq = np.fft.rfftfreq(x.shape[2], 0.01)
    for s in range(6):
        for r, centre in enumerate(sample.truth.frequency[s].tolist()):
            near = torch.from_numpy(np.abs(freq - centre) < 0.7)
            around = torch.from_numpy((np.abs(freq - centre) > 2) & (np.abs(freq - centre) < 3))
            best = int(sample.truth.pattern[s, :, r].abs().argmax())
            assert power[s, best, near].mean() > 5 * power[s, best, around].mean()
    assert sample.truth.label.tolist() == [[0] * 4, [1] * 4] * 3
    within = rhythm_windows(2, n_windows=3, within=True)
    assert [rec.labels("trial", "label").tolist() for rec in within.recordings] == [[0, 1, 0], [1, 0, 1]]


def test_the_simulated_effect_is_a_stronger_rhythm_of_one_class() -> None:
    none, one, two = (rhythm_windows(4, n_windows=2, effect=e, random_state=3) for e in (0.0, 1.0, 2.0))
    freq = np.fft.rfftfreq(500, 0.01)
    for s in range(4):
        base, once, twice = (sample.recordings[s].values.double() for sample in (none, one, two))
        if s % 2 == 0:
            assert torch.equal(once, base)
            continue
        torch.testing.assert_close(twice - base, 2 * (once - base), rtol=1e-3, atol=1e-3)
        power = torch.fft.rfft(once - base).abs().square().sum((0, 1))
        inside = torch.from_numpy(np.abs(freq - float(one.truth.frequency[s, 2])) < 2)
        assert power[inside].sum() > 0.98 * power.sum()


def test_saved_network_is_the_same(tmp_path: Path) -> None:
    model = tectum.LightCNN(epochs=2, device="cpu").fit(recording())
    again = tectum.load(model.save(str(tmp_path / "m")))
    assert torch.equal(again.predict_proba(recording(seed=2)), model.predict_proba(recording(seed=2)))
