"""Seeds: definite, independent, recorded, and never the caller's."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from tectum.core.errors import InputError
from tectum.core.random import generator, isolated, resolve_seed, seed_layers, spawn


def state() -> tuple:
    numpy_state = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().tolist(), numpy_state[1].tolist(), random.getstate()


@pytest.mark.parametrize("seed", [0, 7, np.int64(7), 2**63 - 1])
def test_seeds_are_kept(seed):
    assert resolve_seed(seed) == int(seed)
    assert type(resolve_seed(seed)) is int


def test_entropy():
    drawn = {resolve_seed(None) for _ in range(20)}
    assert len(drawn) == 20
    assert all(0 <= seed < 2**31 for seed in drawn)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, "1", True])
def test_bad_seeds(seed):
    with pytest.raises(InputError, match="random_state: expected an integer"):
        resolve_seed(seed)


def test_spawned_seeds_differ_and_do_not_collide():
    paths = [(), ("a",), ("b",), (1,), (2,), ("a", 1), ("a", 11), ("a1", 1)]
    seeds = {spawn(s, *p) for s in range(50) for p in paths}
    assert len(seeds) == 50 * len(paths)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generators_repeat():
    assert torch.equal(torch.rand(3, generator=generator(5)), torch.rand(3, generator=generator(5)))
    assert not torch.equal(torch.rand(3, generator=generator(5)), torch.rand(3, generator=generator(6)))


@pytest.mark.parametrize("fail", [False, True])
def test_isolated_gives_everything_back(fail):
    before = state()
    draws = []
    for _ in range(2):
        try:
            with isolated(3):
                draws.append((torch.rand(1).item(), np.random.rand(), random.random()))  # noqa: NPY002
                if fail:
                    raise RuntimeError("inside")
        except RuntimeError:
            assert fail
        assert state() == before
    assert draws[0] == draws[1]


def test_isolated_seeds_like_torch():
    with isolated(11):
        inside = torch.rand(4)
    kept = torch.get_rng_state()
    torch.manual_seed(11)
    outside = torch.rand(4)
    torch.set_rng_state(kept)
    assert torch.equal(inside, outside)
    with isolated(0):
        seed_layers(11)
        assert torch.equal(torch.rand(4), inside)
