import pytest
import torch

from tectum.core.errors import InputError
from tectum.datasets.simulate.graphs import planted_partition, weighted_lfr


@pytest.mark.parametrize("family", ["lognormal", "normal", "exp"])
def test_planted_partition_has_the_planted_statistics(family):
    sim = planted_partition(n_units=400, weights=family, random_state=5)
    data, same = sim.data, sim.truth.blocks[:, None] == sim.truth.blocks
    off = ~torch.eye(400, dtype=torch.bool)
    assert torch.equal(data, data.T)
    assert (data.diagonal() == 0).all()
    for part, p, centre in ((same & off, 0.5, 0), (~same, 0.35, 1)):
        values = data[part & (data != 0)]
        assert float((data[part] != 0).double().mean()) == pytest.approx(p, abs=0.01)
        values = values.log() if family == "lognormal" else values
        expected = {"lognormal": (0.6, 0.0), "normal": (2.0, 1.5), "exp": (2.0, 1.0)}[family][centre]
        spread = {"lognormal": 0.5, "normal": 0.4, "exp": expected}[family]
        assert float(values.mean()) == pytest.approx(expected, abs=0.05 * spread)
        assert float(values.std()) == pytest.approx(spread, rel=0.05)


@pytest.mark.parametrize(
    ("mixing", "weight_mixing", "beta", "k"), [(0.5, 0.5, 1.0, 25), (0.25, 0.5, 2.0, 25), (0.5, 0.25, 2.0, 10)]
)
def test_lfr_has_the_prescribed_degrees_and_mixing(mixing, weight_mixing, beta, k):
    degree, share, weight_share = [], [], []
    for seed in range(10):
        sim = weighted_lfr(
            mean_degree=k, mixing=mixing, weight_mixing=weight_mixing, strength_exponent=beta, random_state=seed
        )
        data, across = sim.data, sim.truth.blocks[:, None] != sim.truth.blocks
        edge = data > 0
        assert torch.equal(data, data.T)
        assert torch.isfinite(data).all()
        assert (data >= 0).all()
        assert int(edge.sum(1).max()) <= 100
        assert torch.bincount(sim.truth.blocks).numel() == sim.truth.n_blocks
        degree.append(float(edge.sum(1).double().mean()))
        share.append(float((edge & across).sum() / edge.sum()))
        weight_share.append(float((data * across).sum() / data.sum()))
    assert sum(degree) / 10 == pytest.approx(k, rel=0.1)
    assert sum(share) / 10 == pytest.approx(mixing, abs=0.04)
    assert sum(weight_share) / 10 == pytest.approx(weight_mixing, abs=0.06)


def test_lfr_strengths_follow_the_degrees():
    sim = weighted_lfr(strength_exponent=1.5, random_state=0)
    degree, strength = (sim.data > 0).sum(1).double(), sim.data.sum(1)
    slope = torch.cov(torch.stack([degree.log(), strength.log()]))
    assert float(slope[0, 1] / slope[0, 0]) == pytest.approx(1.5, abs=0.15)


def test_lfr_sizes_and_seeds():
    sim = weighted_lfr(min_size=20, max_size=40, random_state=3)
    sizes = torch.bincount(sim.truth.blocks)
    assert sizes.min() >= 20
    assert sizes.max() <= 40
    again, other = (weighted_lfr(min_size=20, max_size=40, random_state=s) for s in (3, 4))
    assert torch.equal(sim.data, again.data)
    assert not torch.equal(sim.data, other.data)


def test_bad_simulations_are_refused():
    for call, message in [
        (lambda: planted_partition(weights="gamma"), "weights in"),
        (lambda: planted_partition(p_inside=1.5), "probabilities in"),
        (lambda: planted_partition(n_blocks=0), "1 <= n_blocks"),
        (lambda: weighted_lfr(max_degree=200), "max_degree < n_units"),
        (lambda: weighted_lfr(mixing=1.0), "mixing and weight_mixing"),
        (lambda: weighted_lfr(min_size=50, max_size=40), "min_size <= max_size"),
        (lambda: weighted_lfr(min_size=70, max_size=100), "sizes that can add up"),
    ]:
        with pytest.raises(InputError, match=message):
            call()
