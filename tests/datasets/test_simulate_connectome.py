"""The connectome simulators: the facts of their specification, and that the truth describes the data."""

import itertools

import pytest
import torch

from tectum.core.errors import InputError
from tectum.datasets.simulate.connectome import motif_world, stimulus_locked


@pytest.fixture(scope="module")
def world():
    return motif_world(random_state=3)


@pytest.fixture(scope="module")
def locked():
    return stimulus_locked(random_state=3)


def spans(windows):
    return [(w.nonzero().min().item(), int(w.sum())) for w in windows]


def correlations(x):
    return torch.corrcoef(torch.nan_to_num(x).diff(dim=0).T)


def test_motif_world_shapes(world):
    assert [x.shape for x in world.traces] == [(480, 40)] * 8
    assert all(x.dtype == torch.float32 for x in world.traces)
    assert world.time.diff().allclose(torch.tensor(0.25, dtype=torch.float64))
    assert len(set(world.labels)) == 40
    assert world.events == [[] for _ in range(8)]
    assert [(w.nonzero().min().item(), int(w.sum())) for w in world.truth.windows] == [
        (26 + 96 * r, 80) for r in range(4)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_motifs_follow_the_specification(seed):
    for sim, counts, sizes, gain, least in (
        (motif_world(random_state=seed), [(2, 3)] * 4, (6, 9), (0.5, 1.5), 2),
        (stimulus_locked(random_state=seed), [(2,)] * 3 + [(3,)], (6, 8), (0.6, 1.4), 3),
    ):
        truth = sim.truth
        for r in range(4):
            found = truth.groups[r][truth.groups[r] >= 0].bincount().tolist()
            assert len(found) in counts[r]
            assert all(sizes[0] <= n <= sizes[1] for n in found)
            groups = truth.groups[r].tolist()
            expected = [a == b >= 0 for a, b in itertools.combinations(groups, 2)]
            assert truth.pairs[r].tolist() == expected
        on = truth.loadings[truth.loadings > 0]
        assert 0.6 <= on.min() <= on.max() <= 1
        assert ((truth.loadings > 0).sum(0) >= least).all()
        assert gain[0] <= truth.gains.min() <= truth.gains.max() <= gain[1]
        assert set(truth.signs.unique().tolist()) == {-1.0, 1.0}


def test_absences_and_signs_have_their_rates():
    sims = [motif_world(random_state=seed, n_time=480) for seed in range(6)]
    absent = torch.stack([torch.isnan(x).all(0) for sim in sims for x in sim.traces])
    partly = torch.stack([torch.isnan(x).any(0) for sim in sims for x in sim.traces])
    assert torch.equal(absent, partly)
    assert 0.12 < absent.double().mean() < 0.18
    signs = torch.cat([sim.truth.signs.flatten() for sim in sims])
    assert 0.15 < (signs < 0).double().mean() < 0.25


def test_groups_move_together_inside_their_window_only(world):
    truth = world.truth
    first, second = torch.triu_indices(40, 40, 1)
    inside, outside, unrelated = [], [], []
    for w, r in (truth.loadings > 0).nonzero().tolist():
        sign = truth.signs[r, first] * truth.signs[r, second]
        seen = ~torch.isnan(world.traces[w]).any(0)
        pairs = truth.pairs[r] & seen[first] & seen[second]
        others = (truth.groups[r][first] < 0) & (truth.groups[r][second] < 0) & seen[first] & seen[second]
        active = (correlations(world.traces[w][truth.windows[r]])[first, second]) * sign
        quiet = correlations(world.traces[w][~truth.windows[r]])[first, second] * sign
        inside.append(active[pairs].mean())
        outside.append(quiet[pairs].mean())
        unrelated.append(active[others].mean())
    assert torch.stack(inside).mean() > 0.15
    assert torch.stack(outside).mean().abs() < 0.03
    assert torch.stack(unrelated).mean().abs() < 0.03


def test_motif_that_is_off_leaves_no_trace(world):
    truth = world.truth
    first, second = torch.triu_indices(40, 40, 1)
    off = (truth.loadings == 0).nonzero().tolist()
    assert off
    found = []
    for w, r in off:
        seen = ~torch.isnan(world.traces[w]).any(0)
        pairs = truth.pairs[r] & seen[first] & seen[second]
        sign = (truth.signs[r, first] * truth.signs[r, second])[pairs]
        found.append((correlations(world.traces[w][truth.windows[r]])[first, second][pairs] * sign).mean())
    assert torch.stack(found).mean().abs() < 0.03


def test_stimuli_move_their_groups(locked):
    assert [x.shape for x in locked.traces] == [(960, 40)] * 10
    assert locked.events[4] == [("s1", 60.5, 70.5), ("s2", 120.5, 130.5), ("s3", 180.5, 190.5)]
    truth = locked.truth
    assert [(w.nonzero().min().item(), int(w.sum())) for w in truth.windows[:3]] == [
        (242 + 240 * k, 52) for k in range(3)
    ]
    assert truth.windows[3].nonzero().flatten().tolist() == [*range(220), *range(320, 460)]
    rise = []
    for w, k in (truth.loadings[:, :3] > 0).nonzero().tolist():
        on = round((60.5 + 60 * k) / 0.25)
        jump = locked.traces[w][on + 20 : on + 36].mean(0) - locked.traces[w][on - 16 : on].mean(0)
        size = (jump * truth.signs[k] / truth.gains[k] / truth.loadings[w, k])[truth.groups[k] >= 0]
        rise.append(size[torch.isfinite(size)])
    assert 0.2 < torch.cat(rise).mean() < 1


def test_noise_alone_has_the_stated_size():
    quiet = motif_world(random_state=0, event_prob=0.0)
    jumps = torch.cat([x[:, ~torch.isnan(x).any(0)].diff(dim=0).abs().flatten() for x in quiet.traces])
    assert jumps.median().item() == pytest.approx(0.6745 * 2**0.5 * 0.15, rel=0.1)


@pytest.mark.parametrize("simulate", [motif_world, stimulus_locked])
def test_seed_decides_everything(simulate):
    one, same, other = simulate(random_state=1), simulate(random_state=1), simulate(random_state=2)
    for a, b in zip(one.traces, same.traces, strict=True):
        assert torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
    assert not torch.equal(torch.nan_to_num(one.traces[0]), torch.nan_to_num(other.traces[0]))
    assert not torch.equal(one.truth.groups, other.truth.groups)


def test_sizes_can_be_chosen_and_impossible_ones_are_refused():
    sim = motif_world(n_animals=3, n_units=30, n_time=400, n_motifs=2, window=60, absent=0.0)
    assert [x.shape for x in sim.traces] == [(400, 30)] * 3
    assert sim.truth.windows.sum(1).tolist() == [60, 60]
    assert not any(torch.isnan(x).any() for x in sim.traces)
    with pytest.raises(InputError, match="windows inside the recording, got n_time=100, window=80"):
        motif_world(n_time=100)
    with pytest.raises(InputError, match="expected at least .* units and 2 animals, got 10 and 8"):
        motif_world(n_units=10)
    with pytest.raises(InputError, match="3 animals, got 40 and 2"):
        stimulus_locked(n_animals=2)
    with pytest.raises(InputError, match="at least 200 s, got 100 s"):
        stimulus_locked(n_time=400)
