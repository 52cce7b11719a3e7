"""Sums of the points of each cluster, on tiles, and the centers that they make.

A tile of points is multiplied by a sparse matrix with a one where a point has a label.
Sums accumulate in float64 (*rough* ones within a tile in the dtype of the points), tile
after tile, always in the same order: threads share columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse

from hkmeans_dask.kmeans import kernels
from hkmeans_dask.kmeans.crew import in_parallel, tiles

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.kernels import Array, Index

SUM_TILE = 4096
"""Rows of one indicator product, or up to `MOST_ROWS` short ones, copied as float64."""

SUM_VALUES = 2**19
"""Values of that copy, where rows are short."""

ROUGH_TILE = 2048
"""Rows of one that are added up in their own dtype, not copied."""

FAN_IN = 8
"""Sums of blocks that one task of a refining pass merges."""

SUM_DIMS = 512
"""Columns of one indicator product, at most."""

PAD_DIMS = 16
"""Threads share columns of sums in multiples of this: a line of the cache."""


def sum_height(n_dims: int) -> int:
    """Rows of one indicator product."""
    return max(SUM_TILE, min(kernels.MOST_ROWS, SUM_VALUES // n_dims))


def sum_by_label(
    points: Array,
    labels: Index,
    n_clusters: int,
    weights: Array | None = None,
    before: Index | None = None,
    rough: bool = False,
) -> Array:
    """Sum the points of each label, or tell what sums gain where labels change.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_dims), any real dtype
    labels : ndarray of shape (n_points,), int
    n_clusters : int
    weights : ndarray of shape (n_points,), optional
        By which points are multiplied first.
    before : ndarray of shape (n_points,), int, optional
        Labels that the points had: their sums lose them.
    rough : bool, default=False
        Whether the points of one tile are added up in their own dtype. It takes a third
        of the time; means of float32 are then off by some 1e-6 of a point's length, or
        a few 1e-5 where one cluster has all points of a tile.

    Returns
    -------
    sums : ndarray of shape (n_clusters, n_dims), float64

    Notes
    -----
    Memory: a float64 tile of at most 16 MiB, of which threads share the columns, and at
    most two (n_clusters, n_dims) arrays.
    """
    n_points, n_dims = points.shape
    sums = np.zeros((n_clusters, n_dims))
    dtype = points.dtype if rough else np.dtype(np.float64)
    height = ROUGH_TILE if rough else sum_height(n_dims)

    def add(some: slice) -> None:
        for dims in tiles(some.stop, SUM_DIMS, some.start):
            what = (points[:, dims], labels, weights, before)
            _add_tiles(sums[:, dims], *what, dtype, height)

    pays = n_points * n_dims >= kernels.VALUES_WORTH_SHARING
    in_parallel(add, n_dims, PAD_DIMS, pays=pays)
    return sums


def _add_tiles(
    sums: Array,
    points: Array,
    labels: Index,
    weights: Array | None,
    before: Index | None,
    dtype: np.dtype[Any],
    most: int,
) -> None:
    """Add the points to the sums of their labels, tile after tile; see the caller."""
    cast = dtype != points.dtype
    tile = np.empty((min(most, len(points)) if cast else 0, points.shape[1]), dtype)
    for part in tiles(len(points), most):
        height = part.stop - part.start
        values = np.ones(height, dtype)
        if weights is not None:
            values = weights[part].astype(dtype)
        rows, step = labels[part], 1
        if before is not None:
            rows, step = np.column_stack([rows, before[part]]).ravel(), 2
            values = np.column_stack([values, -values]).ravel()
        indicator = scipy.sparse.csc_array(
            (values, rows, np.arange(0, len(rows) + 1, step)),
            shape=(len(sums), height),
        )
        used = points[part]
        if cast:
            used = tile[:height]
            used[:] = points[part]
        sums += indicator @ used


def centers_of(sums: Array, counts: Array, unit: bool) -> tuple[Array, Array]:
    """Centers of clusters from the sums of their points.

    Parameters
    ----------
    sums : ndarray of shape (n_clusters, n_dims), float64
    counts : ndarray of shape (n_clusters,)
    unit : bool
        Whether centers have unit length.

    Returns
    -------
    centers : ndarray of shape (n_clusters, n_dims), float64
        Means, or directions of the sums; zeros where there is none.
    weights : ndarray of shape (n_clusters,)
        How much the inertia grows with the squared distance from the center: the
        counts, or the lengths of the sums. Zero where there is no center.
    """
    weights = np.sqrt(np.einsum("ij,ij->i", sums, sums)) if unit else counts
    return sums / np.where(weights > 0, weights, 1)[:, None], weights
