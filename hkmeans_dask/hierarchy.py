"""The centers of both levels, and the one rule that labels a feature.

The rule looks at nothing but the centers and the offset exactly as stored, so fitting,
`predict` and a model loaded from disk label alike. A feature belongs to the nearest
coarse center and, below it, to the nearest of that center's small clusters::

    x --(x - offset)--> coarse --(x - coarse center)--> fine

Measuring the second distance from the coarse center keeps the digits that would be
lost where a big cluster is small against its distance from the offset.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hkmeans_dask import kernels

if TYPE_CHECKING:
    from hkmeans_dask.kernels import Array, Index
    from hkmeans_dask.workspace import Arrays


class Hierarchy(NamedTuple):
    """Centers of both levels; all floats have one dtype."""

    offset: Array
    """(n_dims,), common to all features, removed first."""

    coarse: Array
    """(n_big_clusters, n_dims)."""

    fine: Array
    """(n_clusters, n_dims), sorted by parent."""

    parents: Index
    """(n_clusters,), the big cluster of each small one, ascending."""

    @classmethod
    def of(cls, arrays: Arrays) -> Hierarchy:
        """Take the fields from a mapping by name."""
        return cls(*(arrays[name] for name in cls._fields))

    def label(self, points: Array) -> Index:
        """Label each point with its small cluster.

        Parameters
        ----------
        points : ndarray of shape (n_points, n_dims), the dtype of the centers

        Returns
        -------
        labels : ndarray of shape (n_points,), int64
        """
        big = label_coarse(points, self.coarse, self.offset)
        order, starts = kernels.group_by_label(big, len(self.coarse))
        children = np.searchsorted(self.parents, np.arange(len(self.coarse) + 1))
        labels = np.empty(len(points), np.int64)
        for index, origin in enumerate(self.coarse):
            rows = order[starts[index] : starts[index + 1]]
            if not len(rows):
                continue  # most of them, where a block is small and features in order
            first, last = children[index], children[index + 1]
            centers = self.fine[first:last] - origin
            nearest = kernels.assign(points, centers, origin=origin, rows=rows)
            labels[rows] = first + nearest
        return labels

    def keep(self, used: Array) -> Hierarchy:
        """Drop the small clusters where `used` is false, and big ones left empty."""
        parents, renumbered = np.unique(self.parents[used], return_inverse=True)
        return Hierarchy(self.offset, self.coarse[parents], self.fine[used], renumbered)


def label_coarse(
    points: Array, coarse: Array, offset: Array, rows: Index | None = None
) -> Index:
    """Label points with their big cluster.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_dims)
    coarse : ndarray of shape (n_big_clusters, n_dims)
    offset : ndarray of shape (n_dims,)
    rows : ndarray of int, optional
        The points to label, in this order; all of them by default.

    Returns
    -------
    labels : ndarray of shape (n_points,) or (len(rows),), int64
    """
    return kernels.assign(points, coarse - offset, origin=offset, rows=rows)
