"""LazyArray equals NumPy's (outer) indexing on arrays, memory maps and HDF5 data sets."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tectum.core.errors import InputError
from tectum.core.lazy import LazyArray
from tectum.core.recording import Recording

SHAPE = (7, 5, 4)


@pytest.fixture(scope="module", params=["numpy", "memmap", "h5py", "big-endian"])
def source(request, tmp_path_factory):
    values = np.random.default_rng(0).integers(0, 2**15, SHAPE).astype(np.int16)
    folder = tmp_path_factory.mktemp("lazy")
    if request.param == "h5py":
        with h5py.File(folder / "x.h5", "w") as file:
            file["x"] = values
        with h5py.File(folder / "x.h5") as file:
            yield file["x"]
    elif request.param == "memmap":
        values.tofile(folder / "x.bin")
        yield np.memmap(folder / "x.bin", dtype=np.int16, mode="r", shape=SHAPE)
    else:
        yield values if request.param == "numpy" else values.astype(">i2")


def part(n):
    bound = st.one_of(st.none(), st.integers(-n - 2, n + 2))
    step = st.one_of(st.none(), st.integers(-3, 3).filter(bool))
    return st.one_of(
        st.integers(-n, n - 1),
        st.builds(slice, bound, bound, step),
        st.lists(st.integers(-n, n - 1), max_size=6),
        st.lists(st.booleans(), min_size=n, max_size=n).map(np.array),
    )


@settings(deadline=None, derandomize=True, max_examples=60)
@given(data=st.data(), order=st.permutations(range(3)), n_given=st.integers(0, 3))
def test_equals_numpy(source, data, order, n_given):
    whole = np.asarray(source).astype(np.float32).transpose(order)
    index = tuple(data.draw(part(n)) for n in whole.shape[:n_given])
    found = LazyArray(source, order=tuple(order))[index]
    for axis in reversed(range(n_given)):
        key = index[axis]
        key = np.asarray(key, dtype=np.int64) if isinstance(key, list) else key
        whole = whole[(slice(None),) * axis + (key,)]
    np.testing.assert_array_equal(found.numpy(), whole)
    assert found.dtype == torch.float32


def test_scale_offset_dtype_and_ellipsis(source):
    whole = np.asarray(source).astype(np.float64)
    lazy = LazyArray(source, scale=0.5, offset=-1.0, dtype=torch.float64)
    np.testing.assert_array_equal(lazy.load().numpy(), whole * 0.5 - 1.0)
    np.testing.assert_array_equal(lazy[..., 1].numpy(), whole[..., 1] * 0.5 - 1.0)
    np.testing.assert_array_equal(lazy[2, ...].numpy(), whole[2] * 0.5 - 1.0)
    assert lazy.shape == SHAPE
    assert LazyArray(source, scale=0.5, dtype=torch.int32)[0].dtype == torch.int32


def test_reads_only_the_hull_of_what_is_asked():
    class Spy:
        shape, dtype = (100, 50), np.dtype("f4")

        def __getitem__(self, index):
            self.seen = index
            return np.zeros(tuple(len(range(*s.indices(n))) for s, n in zip(index, self.shape, strict=True)), "f4")

    spy = Spy()
    assert LazyArray(spy)[10:20, [7, 3]].shape == (10, 2)
    assert spy.seen == (slice(10, 20), slice(3, 8))
    assert LazyArray(spy)[-1, ::-10].shape == (5,)
    assert spy.seen == (slice(99, 100), slice(9, 50))


def test_parts_are_copies():
    values = np.zeros((3, 2), dtype=np.float32)
    LazyArray(values)[0:2].add_(1.0)
    assert values.sum() == 0.0


@pytest.mark.parametrize("index", [7, -8])
def test_out_of_range(index):
    with pytest.raises(IndexError, match="out of range for an axis of 7"):
        LazyArray(np.zeros(SHAPE))[index]


@pytest.mark.parametrize("index", [[7], np.ones(3, dtype=bool), (0, 0, 0, 0), [[0], [1]], "a"])
def test_bad_indices(index):
    with pytest.raises(InputError, match="LazyArray"):
        LazyArray(np.zeros(SHAPE))[index]


def test_a_lazy_recording_reads_piece_by_piece(source):
    rec = Recording(data=LazyArray(source), dims=("time", "unit", "feature"), rate=10.0)
    assert rec.is_lazy
    assert "lazy" in repr(rec)
    pieces = list(rec.blocks(3))
    assert [p.sizes["time"] for p in pieces] == [3, 3, 1]
    assert [p.t0 for p in pieces] == pytest.approx([0.0, 0.3, 0.6])
    np.testing.assert_array_equal(torch.cat([p.data for p in pieces]).numpy(), np.asarray(source).astype(np.float32))
    assert not rec.load().is_lazy
    cut = rec.sel(time=(0.2, 0.5)).isel(unit=[4, 0], feature=-1)
    np.testing.assert_array_equal(cut.data.numpy(), np.asarray(source)[2:5][:, [4, 0]][..., -1].astype(np.float32))
