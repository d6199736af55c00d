"""Alignment of animals, and what the dynamic connectome refuses (E1-E5, E7)."""

import numpy as np
import pytest
import torch

from support.simulated_accelerator import simulated_accelerator
from tectum.core.errors import InputError, TectumWarning
from tectum.models.dynamic_connectome.affinity import PairSource, affinity, affinity_options, pair_animal
from tectum.models.dynamic_connectome.alignment import align, gather_bins, regrid, to_shared_units
from tectum.models.dynamic_connectome.checks import (
    check_alignment,
    check_finite,
    check_labels,
    check_times,
    check_traces,
    shared_labels,
    warn_constant,
)

NAN = float("nan")
ORDERS = [
    [("salt", 30.0, 40.0), ("light", 80.0, 90.0), ("odour", 130.0, 140.0)],
    [("light", 40.0, 50.0), ("odour", 90.0, 100.0), ("salt", 140.0, 150.0)],
    [("odour", 25.25, 35.25), ("salt", 75.0, 85.0), ("light", 125.0, 135.0)],
]
LENGTHS = [800, 840, 800]


def test_stimuli_in_other_orders_fall_on_the_same_bins():
    found = align("stimulus", lengths=LENGTHS, rate=4.0, events=ORDERS, bin_size=4)
    assert found.names == ["salt", "light", "odour"]
    assert found.blocks == [(0, 50), (50, 100), (100, 150)]
    for w, events in enumerate(ORDERS):
        signal = torch.zeros(LENGTHS[w])
        for k, name in enumerate(found.names):
            start = next(on for event, on, _ in events if event == name)
            signal[int(start * 4) : int(start * 4) + 40] = k + 1
        aligned = gather_bins(signal, bins=found.bins[w])
        expected = (found.windows * torch.arange(1, 4).unsqueeze(1)).sum(0)
        assert torch.equal(aligned, expected.float())
    assert found.offset[:2].tolist() == [-20.0, -19.0]
    assert found.offset[20] == 0
    assert torch.equal(found.time, torch.arange(150, dtype=torch.float64))
    assert found.windows.sum(1).tolist() == [10, 10, 10]


def test_order_can_be_chosen_and_windows_shrink_to_what_all_have():
    found = align(
        "stimulus", lengths=LENGTHS, rate=4.0, events=ORDERS, order=["odour", "light"], before=30.0, after=70.0
    )
    assert found.names == ["odour", "light"]
    (a, b), (c, d) = found.blocks
    assert (b - a) == 101 + 4 * 70  # 25.25 s before; the first recording ends 70 s after the onset
    assert found.offset[a] == -25.25
    assert (d - c) == 120 + 4 * 75  # 30 s before; the third animal's recording ends 75 s after the onset
    assert found.bins[2].max() == 799


def test_presentations_that_not_all_animals_had_are_left_out():
    events = [[*ORDERS[0], ("salt", 170.0, 180.0)], ORDERS[1], ORDERS[2]]
    with pytest.warns(TectumWarning, match=r"left out: salt \(presentation 2\)"):
        found = align("stimulus", lengths=LENGTHS, rate=4.0, events=events)
    assert found.names == ["salt", "light", "odour"]
    with pytest.raises(InputError, match="a stimulus that every animal had, got stimuli a, b"):
        align("stimulus", lengths=[400, 400], rate=4.0, events=[[("a", 30, 40)], [("b", 30, 40)]])
    with pytest.raises(InputError, match="stimulus 'a': expected presentations inside the recordings"):
        align("stimulus", lengths=[400, 400], rate=4.0, events=[[("a", 30, 40)], [("a", 200, 210)]])


def test_affinity_is_computed_before_the_cut():
    rng = torch.Generator().manual_seed(0)
    v = [torch.rand(n, 3, generator=rng) * 2 - 1 for n in LENGTHS]
    found = align("stimulus", lengths=LENGTHS, rate=4.0, events=ORDERS, bin_size=4)
    animals = [pair_animal(x, bins=bins) for x, bins in zip(v, found.bins, strict=True)]
    tensor = PairSource(animals=animals, options=affinity_options(dt=0.25)).dense()
    assert tensor.shape == (150, 3, 3)
    for w in range(3):
        torch.testing.assert_close(tensor[:, w], gather_bins(affinity(v[w], dt=0.25), bins=found.bins[w]))


def test_events_are_averaged():
    events = [[("reversal", t, t + 1.0) for t in (5.0, 30.0, 60.0)], [("reversal", 20.0, 21.0), ("turn", 50.0, 51.0)]]
    found = align("event", lengths=[400, 300], rate=4.0, events=events, bin_size=2, order=["reversal"])
    assert [bins.shape for bins in found.bins] == [(2, 48, 2), (1, 48, 2)]  # the event at 5 s does not fit
    assert found.offset[[0, -1]].tolist() == [-12.0, 11.5]
    ramp = torch.arange(400.0)
    expected = torch.stack([ramp[on - 48 : on + 48] for on in (120, 240)]).mean(0).view(48, 2).mean(1)
    torch.testing.assert_close(gather_bins(ramp, bins=found.bins[0]), expected)
    with pytest.raises(InputError, match="'w2': expected an event with 12 s on either side, got 1 events in 300"):
        align("event", lengths=[400, 300], rate=4.0, events=[events[0], [("turn", 2.0, 3.0)]], names=["w1", "w2"])


def test_absolute_crops_to_the_shortest():
    events = [[("salt", 10.0, 20.0)], [("salt", 10.0, 20.0)]]
    found = align("absolute", lengths=[410, 402], rate=4.0, events=events, bin_size=4)
    assert [bins.shape for bins in found.bins] == [(1, 100, 4)] * 2
    assert found.windows[0].nonzero().flatten().tolist() == list(range(10, 20))
    assert found.blocks == [(0, 100)]
    single = align("absolute", lengths=[33], rate=4.0, bin_size=4)
    assert single.bins[0].flatten().tolist() == list(range(32))
    with pytest.raises(InputError, match="at least one bin, got 3 samples in bins of 4"):
        align("absolute", lengths=[3], rate=4.0, bin_size=4)


def test_bins_leave_nan_out():
    values = torch.tensor([[1.0, NAN], [3.0, NAN], [NAN, NAN], [8.0, 1.0]])
    found = gather_bins(values, bins=torch.tensor([[[0, 1], [2, 3]]]))
    torch.testing.assert_close(found, torch.tensor([[2.0, NAN], [8.0, 1.0]]), equal_nan=True)


def test_units_are_put_in_common_order():
    x = torch.arange(8.0).view(2, 4)
    found = to_shared_units(x, labels=["c", None, "a", "7"], kept=["a", "b", "c"])
    torch.testing.assert_close(found, torch.tensor([[2.0, NAN, 0.0], [6.0, NAN, 4.0]]), equal_nan=True)


def test_regrid_equals_numpy():
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.uniform(0.5, 1.5, 50))
    x = rng.standard_normal((50, 3))
    found, grid = regrid(torch.from_numpy(x), times=torch.from_numpy(times), dt=0.7)
    assert grid[-1] <= times[-1] < grid[-1] + 0.7
    expected = np.stack([np.interp(grid.numpy(), times, x[:, i]) for i in range(3)], 1)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_alignment_lives_on_an_accelerator():
    with simulated_accelerator() as device:
        found = align("stimulus", lengths=LENGTHS, rate=4.0, events=ORDERS, bin_size=4, device=device)
        values = torch.arange(800.0).to(device)
        mean = gather_bins(values, bins=found.bins[0])
        assert mean.device.type == found.windows.device.type == device.type
        assert mean.cpu()[0] == 41.5


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(100), r"animal 'w2': expected traces \(time, unit\), got shape \(100,\)"),
        (torch.zeros(15, 5), r"animal 'w2': expected at least 16 samples \(8 sigma\), got shape \(15, 5\)"),
        (torch.zeros(100, 2), r"animal 'w2': expected at least 3 units, got shape \(100, 2\)"),
    ],
)
def test_e1_shape(x, message):
    with pytest.raises(ValueError, match=message):
        check_traces([torch.zeros(16, 3), x], dt=0.25, names=["w1", "w2"])
    with pytest.raises(InputError, match="at least one animal, got none"):
        check_traces([], dt=0.25)


def test_e2_clock():
    good = torch.arange(100, dtype=torch.float64) / 4
    assert check_times([good, good + 3], lengths=[100, 100]) == 0.25
    with pytest.raises(ValueError, match=r"animal 1: expected 100 sample times, got shape \(99,\)"):
        check_times([good, good[:99]], lengths=[100, 100])
    back = good.clone()
    back[41] = back[40]
    with pytest.raises(
        ValueError, match="animal 'b': expected strictly increasing times, got no increase at sample 41 of 100"
    ):
        check_times([good, back], lengths=[100, 100], names=["a", "b"])
    jitter = good.clone()
    jitter[50] += 0.05
    with pytest.raises(
        ValueError, match=r"animal 0: expected regular sampling \(jitter <= 10%\), got jitter 20% .*resample=True"
    ):
        check_times([jitter], lengths=[100])
    assert check_times([jitter], lengths=[100], resample=True) == pytest.approx(0.25)
    slower = good * 1.02
    with pytest.raises(ValueError, match=r"2: expected a sampling interval of 0.25 s \(within 1 %\), got 0.255 s"):
        check_times([good, good, slower], lengths=[100] * 3)
    assert check_times([good, good, slower], lengths=[100] * 3, resample=True) == 0.25
    assert check_times([good, good * 1.005], lengths=[100, 100]) > 0.249
    nan = good.clone()
    nan[3] = NAN
    with pytest.raises(ValueError, match="no increase at sample 3"):
        check_times([nan], lengths=[100])


def test_e3_duplicates():
    check_labels([["AVAL", None, None, "3", "3"]], n_units=[5])
    with pytest.raises(ValueError, match="animal 1: expected each identity once, got duplicates AVAL, RIBR"):
        check_labels([["AVAL"] * 1, ["RIBR", "AVAL", "AVAL", "RIBR"]], n_units=[1, 4])
    with pytest.raises(ValueError, match="animal 0: expected 3 labels, got 2"):
        check_labels([["a", "b"]], n_units=[3])


def test_e4_shared_labels():
    labels = [["a", "b", "c", "1"], ["b", "c", "1", None], ["c", "d", "1", None]]
    assert shared_labels(labels) == ["b", "c"]
    assert shared_labels(labels, min_animals=1) == ["a", "b", "c", "d"]
    assert shared_labels(labels, min_animals=3) == ["c"]
    with pytest.raises(
        ValueError, match="shared by at least 2 animals, got labels: 4 in 1 of 3 animals; lower min_animals"
    ):
        shared_labels([["a", "b"], ["c", None], ["d"]])
    with pytest.raises(ValueError, match="got labels: none"):
        shared_labels([["1"], [None]])


def test_e5_bad_values():
    x = torch.zeros(100, 4)
    x[:51, 0], x[:50, 1], x[:, 2], x[7, 3] = NAN, NAN, NAN, float("inf")
    message = (
        r"finite traces with at most 50% NaN, got bad units in animal 'w' \(a, d\); clean them or pass on_bad='drop'"
    )
    with pytest.raises(ValueError, match=message):
        check_finite([x], labels=[["a", "b", "c", "d"]], names=["w"])
    with pytest.warns(TectumWarning, match=r"bad units in animal 1 \(0, 3\); dropped"):
        good = check_finite([torch.zeros(9, 2), x], on_bad="drop")
    assert [ok.tolist() for ok in good] == [[True, True], [False, True, True, False]]
    with pytest.raises(InputError, match="on_bad='raise' or 'drop', got 'ignore'"):
        check_finite([x], on_bad="ignore")


def test_constant_traces_warn():
    with pytest.warns(TectumWarning, match=r"constant traces have no affinity: animal 1 \(b\)"):
        warn_constant([torch.ones(2), torch.tensor([NAN, 0.0])], labels=["a", "b"])


def test_e7_alignment():
    check_alignment("absolute", lengths=[100])
    check_alignment("absolute", lengths=[100, 90], n_events=[3, 3])
    check_alignment("absolute", lengths=[100, 100], assume_aligned=True)
    check_alignment("event", lengths=[100, 90], n_events=[3, 1])
    message = r"one time axis .*got 2 spontaneous recordings; .*align='event'.*assume_aligned=True"
    with pytest.raises(ValueError, match=message):
        check_alignment("absolute", lengths=[100, 100])
    message = r"got no events and lengths \[100, 90\]; .*fit them one by one"
    for assumed in (True, False):
        with pytest.raises(ValueError, match=message):
            check_alignment("absolute", lengths=[100, 90], assume_aligned=assumed)
    with pytest.raises(ValueError, match="events in every animal for align='stimulus', got none in animal 'b'"):
        check_alignment("stimulus", lengths=[100, 90], n_events=[2, 0], names=["a", "b"])
    with pytest.raises(ValueError, match=r"align='absolute' \| 'stimulus' \| 'event', got 'time'"):
        check_alignment("time", lengths=[100])
    with pytest.raises(InputError, match="2 spontaneous recordings"):
        align("absolute", lengths=[100, 100], rate=4.0)
