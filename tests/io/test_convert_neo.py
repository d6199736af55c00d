"""Neo's objects: what goes out comes back, but for what the module says is lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from writers import containers as made

import tectum
from tectum import Graph, Intervals, Recording, Session, Spikes
from tectum.core.errors import InputError, TectumWarning
from tectum.io.convert import from_neo, to_neo

neo = pytest.importorskip("neo")
pq = pytest.importorskip("quantities")


@made.quick
@given(made.spikes(gaps=False))
def test_spikes_come_back(spikes: Spikes) -> None:
    block = to_neo(spikes)
    for train, ours in zip(block.segments[0].spiketrains, spikes.trains(), strict=True):
        np.testing.assert_allclose(train.times.rescale("s").magnitude, ours.numpy(), rtol=0, atol=1e-9)
    made.same_spikes(tectum.read(block)["spikes"], spikes)


@made.quick
@given(made.recordings())
def test_recordings_come_back(rec: Recording) -> None:
    found = tectum.read(to_neo(rec, name="lfp"))["lfp"]
    turned = (
        rec if rec.dims[0] == "time" else rec.with_(data=rec.tensor("time", rec.dims[0]), dims=("time", rec.dims[0]))
    )
    assert torch.equal(found.values, turned.values)
    assert (found.units, found.modality, found.subject, found.session) == (rec.units, rec.modality, "m é", "s1")
    np.testing.assert_allclose(found.time, rec.time, rtol=0, atol=1e-9)
    if rec.ndim == 2:
        assert found.dims == ("time", "channel")
        made.same_columns(found.coords["channel"], next(iter(rec.coords.values())))


@made.quick
@given(made.intervals(overlap=True))
def test_intervals_come_back(spans: Intervals) -> None:
    found = tectum.read(to_neo(spans, name="trials"))["trials"]
    assert found.pairs() == spans.pairs()
    made.same_columns(found.columns, spans.columns)


def test_their_objects_are_read() -> None:
    segment = neo.Segment()
    for k in range(2):
        segment.spiketrains.append(
            neo.SpikeTrain([3, 1, 2] * pq.ms, t_stop=10 * pq.ms, name=f"u{k}", quality="good", depth=k)
        )
    segment.analogsignals.append(
        neo.AnalogSignal(
            np.arange(8.0).reshape(4, 2), units="mV", sampling_rate=2 * pq.kHz, t_start=5 * pq.ms, name="lfp"
        )
    )
    segment.analogsignals.append(neo.AnalogSignal(np.zeros((4, 1)), units="pA", sampling_rate=2 * pq.kHz, name="clamp"))
    segment.irregularlysampledsignals.append(
        neo.IrregularlySampledSignal([1, 2, 5] * pq.ms, np.zeros((3, 1)), units="cm", time_units="ms")
    )
    segment.events.append(neo.Event([1, 2] * pq.s, labels=["go", "stop"], name="cues"))
    segment.epochs.append(neo.Epoch([1, 2] * pq.s, durations=[0.5, 1] * pq.s, labels=["a", "b"]))
    segment.imagesequences.append(
        neo.ImageSequence(
            np.zeros((3, 4, 5)), units="V", sampling_rate=2 * pq.Hz, spatial_scale=1 * pq.um, name="movie"
        )
    )
    with pytest.warns(TectumWarning, match="unit 'pA' of signal 'clamp' is unknown and read as 'a.u.'"):
        found = tectum.read(segment)
    assert set(found) == {"spikes", "lfp", "clamp", "signal0", "cues", "epochs0", "movie"}
    spikes = found["spikes"]
    assert [train.tolist() for train in spikes.trains()] == [pytest.approx([0.001, 0.002, 0.003])] * 2
    assert spikes.units["name"].tolist() == ["u0", "u1"]
    assert spikes.units["quality"].tolist() == ["good", "good"]
    assert spikes.units["depth"].tolist() == [0, 1]
    assert spikes.span.pairs() == [(0.0, 0.01)]
    lfp = found["lfp"]
    assert (lfp.units, lfp.rate, lfp.t0, lfp.modality) == ("mV", 2000.0, 0.005, "ephys")
    assert found["signal0"].time.tolist() == pytest.approx([0.001, 0.002, 0.005])
    assert found["cues"].columns["label"].tolist() == ["go", "stop"]
    assert found["epochs0"].pairs() == [(1.0, 1.5), (2.0, 3.0)]
    assert found["movie"].sizes == {"time": 3, "y": 4, "x": 5}
    block = neo.Block()
    block.segments = [neo.Segment(), neo.Segment()]
    for part in block.segments:
        part.spiketrains.append(neo.SpikeTrain([1.0] * pq.s, t_stop=2.0))
    assert set(tectum.read(block)) == {"segment0/spikes", "segment1/spikes"}
    assert from_neo(list(segment.spiketrains)).n_units == 2
    assert from_neo(segment.events[0]).pairs() == [(1.0, 1.0), (2.0, 2.0)]


def test_a_spike_at_the_end_of_neos_closed_range_is_inside() -> None:
    found = from_neo(neo.SpikeTrain([1.0, 2.0] * pq.s, t_stop=2.0))
    assert found.restrict(found.span).counts().tolist() == [2]


def test_a_session_goes_as_one_block() -> None:
    spikes = Spikes.from_trains([[0.5]], support=(0, 1))
    rec = Recording(data=torch.zeros(4, 2), dims=("time", "channel"), rate=4.0, units="uV")
    parts = {"a": spikes, "b": spikes.shift(1.0), "lfp": rec, "trials": Intervals.from_pairs([(0, 1)])}
    session = Session(items_={**parts, "g": Graph(weights=torch.eye(2)[None], layers=("x",))})
    found = tectum.read(to_neo(session))
    assert set(found) == set(parts)
    assert found["b"].times.tolist() == [1.5]


def test_what_neo_cannot_hold() -> None:
    with pytest.raises(InputError, match=r"a recording \(time,\) or \(time, channel\), got \('unit',\)"):
        to_neo(Recording(data=torch.zeros(3), dims=("unit",)))
    with pytest.raises(InputError, match="Spikes, Recording, Intervals or Session, got int"):
        to_neo(3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="an object of neo, got int"):
        from_neo(3)
