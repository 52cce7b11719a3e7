"""Inputs that several test modules share: strategies, and arrays that watch us."""

from contextlib import contextmanager
from itertools import pairwise

import dask
import dask.array as da
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from zarr.storage import WrapperStore

quick = settings(deadline=None, derandomize=True, max_examples=60)
"""The same examples in every run, and no clock."""

FLOATS = (np.float32, np.float64)


class Watched:
    """An array-like, not an ndarray, that counts how often it is read."""

    def __init__(self, values):
        self.values, self.reads = values, 0
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim

    def __getitem__(self, index):
        """Count, and read."""
        self.reads += 1
        return np.asarray(self.values[index])

    def blocks(self, chunks=None):
        """Itself as a dask array, one block by default."""
        chunks = self.shape if chunks is None else chunks
        meta = np.empty((0,) * self.ndim, self.dtype)
        return da.from_array(self, chunks, name=False, asarray=False, meta=meta)


class Wrapped(WrapperStore):
    """A store in which something happens; Zarr before 3.1.6 asks it for this."""

    def with_read_only(self, read_only=False):
        """Give the same: nothing writes to it."""
        return self


def unread(shape, dtype=float, chunks=None):
    """Make a dask array whose values nobody may look at."""

    class Values:
        def __getitem__(self, index):
            raise AssertionError("X was read")

    values = Values()
    values.shape, values.dtype, values.ndim = shape, np.dtype(dtype), len(shape)
    return Watched(values).blocks(chunks)


@contextmanager
def nothing_computed():
    """Within it no dask graph may run."""

    def refuse(*args, **kwargs):
        raise AssertionError("a graph was computed")

    with dask.config.set(scheduler=refuse):
        yield


def cuts(total, most=6, least=1):
    """Sizes of at most `most` chunks, each at least `least`, that add up to `total`."""

    def sizes(points):
        ends = [0, *sorted(points), total]
        found = tuple(b - a for a, b in pairwise(ends))
        return tuple(size for size in found if size >= least)

    inner = st.lists(st.integers(0, total), max_size=most - 1)
    return inner.map(sizes)


@st.composite
def whole_points(draw, n_points=(1, 40), n_dims=(1, 4), span=8, dtype=None):
    """Points of small integers, often equal: float32 tells any two of them apart."""
    shape = draw(st.tuples(st.integers(*n_points), st.integers(*n_dims)))
    values = draw(npst.arrays(np.int64, shape, elements=st.integers(-span, span)))
    return values.astype(draw(st.sampled_from(FLOATS)) if dtype is None else dtype)


def blobs(n_blobs, n_points, n_dims, seed=0, spread=0.1, distance=20.0):
    """Points around far apart centers, in random order, and their true labels."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.unravel_index(np.arange(n_blobs), (8,) * n_dims), axis=1)
    truth = rng.permutation(np.arange(n_points) % n_blobs)
    noise = rng.normal(scale=spread, size=(n_points, n_dims))
    return grid[truth] * distance + noise, truth


def n_distinct(points):
    """Count the distinct rows, the plain way."""
    return len({tuple(row) for row in (points + 0.0).tolist()})


def nearest(points, centers):
    """Nearest centers in float64 by the definition, ties to the lowest."""
    points, centers = points.astype(np.float64), centers.astype(np.float64)
    differences = points[:, None, :] - centers[None, :, :]
    return (differences**2).sum(axis=2).argmin(axis=1)
