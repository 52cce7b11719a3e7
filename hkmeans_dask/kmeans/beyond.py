"""Points that look beyond their big cluster: centers between passes, and the nearest.

Points are given in the order of their big clusters, from whose centers they are seen;
or as coordinates along axes, seen from the offset. How many axes do is measured: as few
as give some points nearly the labels that all dimensions would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hkmeans_dask.kmeans import kernels, origins
from hkmeans_dask.kmeans.axes import ALL_DIMENSIONS, MOST_DIMS, PAD
from hkmeans_dask.kmeans.hierarchy import FREE
from hkmeans_dask.kmeans.pruning import SHARES_OF_DIMENSIONS

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.hierarchy import Arrays
    from hkmeans_dask.kmeans.kernels import Array, Index

COORDINATE_BYTES = 128 * 2**20
"""Bytes of coordinates that are held between passes, at most."""

ROWS_TOGETHER = 16 * 2**20
"""Bytes of rows that are labelled at once where all are, about."""

TRIED_ROWS = 2048
"""Rows on which is tried how many axes do, at most."""

EXCESS = 1e-2
"""By how much more inertia than in all dimensions axes are refused."""


class State(NamedTuple):
    """The centers between passes, in an order that does not change."""

    offset: Array
    coarse: Array
    """(n_big_clusters, n_samples): from them rows are seen."""

    groups: Index
    """(n_big_clusters,), the group of rows that each of them has in the parts."""

    fine: Array
    """(n_clusters, n_samples), means."""

    ahead: Array
    """(n_clusters, n_samples), beyond them: what the next pass compares with."""

    axes: Array
    """(n_samples, n_axes), or `ALL_DIMENSIONS`."""

    model_axes: Array
    """(n_samples, n_axes), or `NO_AXES`: those of the model."""

    unit: Array
    total: Array
    limit: Array

    prices: Array = FREE
    """(n_clusters,), added to squared distances to those ahead; or `FREE`."""

    @classmethod
    def of(cls, arrays: Arrays) -> State:
        """Take the fields from a mapping by name."""
        return cls(*(arrays[name] for name in cls._fields))


def coordinate_bytes(n_points: int, row_bytes: int, n_dims: int) -> int:
    """Bytes of coordinates of points along as many axes as are taken, at most."""
    possible = n_dims <= MOST_DIMS
    return int(possible * n_points * row_bytes * max(SHARES_OF_DIMENSIONS))


def are_held(n_points: int, row_bytes: int, n_dims: int) -> bool:
    """Whether coordinates of so many points are few enough to be held."""
    return 0 < coordinate_bytes(n_points, row_bytes, n_dims) <= COORDINATE_BYTES


def fewest_axes(points: Array, big: Index, state: State, all_axes: Array) -> Array:
    """Take as few axes as give nearly the labels that all dimensions would."""
    n_clusters, n_dims = state.fine.shape
    if origins.any_on_its_own(state.fine, state.offset, state.coarse):
        return ALL_DIMENSIONS  # coordinates would lose digits of these
    labels = nearest(points, big, state)
    most = (1 + EXCESS) * kernels.inertia(points, state.fine, labels)
    for share in SHARES_OF_DIMENSIONS:
        n_axes = max(1, int(share * n_dims) // PAD * PAD)
        if n_axes * (n_clusters + n_dims) >= n_clusters * n_dims:
            break
        axes = np.ascontiguousarray(all_axes[:, :n_axes])
        seen = np.dot(points - state.offset, axes)
        labels = nearest_along(seen, big, state._replace(axes=axes))
        if kernels.inertia(points, state.fine, labels) <= most:
            return axes
    return ALL_DIMENSIONS


def nearest(points: Array, big: Index, state: State) -> Index:
    """Nearest centers of points, which are in the order of their big clusters."""
    prices = state.prices if state.prices.size else None
    seen = (state.ahead, state.offset, state.coarse, _starts(big, state))
    return origins.assign(points, *seen, prices=prices)


def nearest_along(seen: Array, big: Index, state: State) -> Index:
    """Nearest centers along the axes, of points of which the coordinates are given."""
    centers = np.dot(state.ahead - state.offset, state.axes)
    coarse = np.dot(state.coarse - state.offset, state.axes)
    here = np.zeros(seen.shape[1], seen.dtype)
    return origins.assign(seen, centers, here, coarse, _starts(big, state))


def _starts(big: Index, state: State) -> Index:
    """Where the points of each big cluster begin."""
    return np.searchsorted(big, np.arange(len(state.coarse) + 1))
