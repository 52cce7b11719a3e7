"""The centers of both levels, and the one rule that labels a feature.

The rule looks at nothing but the centers, the offset and the table of comparisons
exactly as stored, so fitting, `predict` and a model loaded from disk label alike. A
feature belongs to a coarse center, the nearest, and there to the nearest of the small
clusters that this coarse center has its features compare::

    x --(x - offset)--> coarse --(x - coarse center)--> fine

A *nested* model compares the coarse center's own small clusters. A refined one
(`arrange`) compares those nearest to the coarse center, whichever is theirs: all of
them where they are few (`origins`). Measuring the second distance from the coarse
center keeps the digits that would be lost where a big cluster is small against its
distance from the offset.

A model whose features compare all small clusters may have axes along which most of
these are ruled out (`pruning`). Its big clusters then do not matter::

    x --(x - offset, along the axes)--> few candidates --|x - fine|--> nearest
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from hkmeans_dask.kmeans import groups, kernels, origins, pruning
from hkmeans_dask.kmeans.pruning import NO_AXES

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.kernels import Array, Index

EUCLIDEAN = np.array(False)
"""Features as they are."""

EXCLUDED = -1
"""Label of a feature that is in no cluster: the last entry of what labels index."""

NESTED = np.empty((0, 0), np.int32)
"""The table of a nested model: each coarse center's own small clusters."""

COMPARED = 2048
"""Small clusters that a feature of a refined model is compared with, at least: of fewer
all. Comparing a half of 1000 left up to 3% more inertia where noise is smooth."""

BIGS_COMPARED = 8
"""The same in multiples of the small clusters that a big one has, on average."""


FREE = np.empty(0)
"""No prices."""

SCORES = 2**24
"""Scores of small clusters held at once while the table is made."""


class Arrays(Protocol):
    """Named arrays, in memory or in a file."""

    def __getitem__(self, key: str) -> Array:
        """Give one array."""


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

    compared: Array = NESTED
    """(n_big_clusters, n_compared), int32, ascending, -1 where one was dropped: the
    small clusters compared; one row, of all of them, stands for all big clusters."""

    unit: Array = EUCLIDEAN
    """Whether features and centers are scaled to unit length."""

    prices: Array = FREE
    """(n_clusters,), added to the squared distances to small clusters; or `FREE`."""

    coarse_prices: Array = FREE
    """(n_big_clusters,), the same of the coarse centers; or `FREE`."""

    axes: Array = NO_AXES
    """(n_dims, n_axes), orthonormal; with them all small clusters are compared."""

    @classmethod
    def of(cls, arrays: Arrays) -> Hierarchy:
        """Take the fields from a mapping by name."""
        return cls(*(arrays[name] for name in cls._fields))

    @classmethod
    def arrange(
        cls,
        offset: Array,
        coarse: Array,
        fine: Array,
        *,
        exact: bool = False,
        unit: Array = EUCLIDEAN,
        prices: Array = FREE,
        axes: Array = NO_AXES,
    ) -> Hierarchy:
        """Put small clusters below the nearest coarse centers.

        Parameters
        ----------
        offset : ndarray of shape (n_dims,)
        coarse : ndarray of shape (n_big_clusters, n_dims)
        fine : ndarray of shape (n_clusters, n_dims), in any order
        exact : bool, default=False
            Whether features compare all small clusters, even if they are many.
        unit : ndarray of shape (), bool
        prices : ndarray of shape (n_clusters,)
            Or `FREE`.
        axes : ndarray of shape (n_dims, n_axes)
            Taken if features compare all small clusters.

        Returns
        -------
        hierarchy : Hierarchy

        Notes
        -----
        Memory: a few (n_clusters, n_dims) arrays, and a few of 2**24 values.
        """
        parents = label_coarse(fine, coarse, offset)
        order = np.argsort(parents, kind="stable")
        fine, parents = fine[order], parents[order]
        prices = prices[order] if prices.size else FREE
        compared = np.arange(len(fine), dtype=np.int32)[None]
        if not exact:
            compared = _compare(coarse - offset, fine - offset, parents, prices)
        levels = (offset, coarse, fine, parents)
        axes = axes if len(compared) == 1 else NO_AXES
        return cls(*levels, compared, unit, prices, axes=axes)

    def rearranged(self, *, exact: bool) -> Hierarchy:
        """Put small clusters that have moved below the nearest coarse centers."""
        levels = (self.offset, self.coarse, self.fine)
        how = {"unit": self.unit, "prices": self.prices, "axes": self.axes}
        return Hierarchy.arrange(*levels, exact=exact, **how)

    def points(self, block: Any) -> Array:
        """Features of a block as `label` takes them."""
        points: Array = np.ascontiguousarray(block, self.fine.dtype)
        return kernels.to_unit(points)[0] if self.unit else points

    def label(self, points: Array) -> Index:
        """Label each point with its small cluster.

        Parameters
        ----------
        points : ndarray of shape (n_points, n_dims), the dtype of the centers

        Returns
        -------
        labels : ndarray of shape (n_points,), int64
            `EXCLUDED` where a point has no nearest center.
        """
        labels = self._pruned(points) if self.axes.size else self._by_way_of_big(points)
        if self.unit:
            labels[~points.any(axis=1)] = EXCLUDED  # no direction, no nearest center
        return labels

    def _pruned(self, points: Array) -> Index:
        prices = self.prices if self.prices.size else None
        how = (self.axes, self.offset, prices)
        return pruning.assign(points, self.fine, *how)

    def _by_way_of_big(self, points: Array) -> Index:
        big = label_coarse(points, self.coarse, self.offset, prices=self.coarse_prices)
        order, starts = groups.group_by_label(big, len(self.coarse))
        if len(self.compared) == 1:
            seen = (self.fine, self.offset, self.coarse, starts)
            prices = self.prices if self.prices.size else None
            return origins.assign(points, *seen, order=order, prices=prices)
        labels = np.empty(len(points), np.int64)
        for index, origin in enumerate(self.coarse):
            rows = order[starts[index] : starts[index + 1]]
            if not len(rows):
                continue  # most of them, where a block is small and features in order
            among = self._among(index)
            centers = self.fine[among] - origin
            prices = self.prices[among] if self.prices.size else None
            what = (points, centers)
            nearest = kernels.assign(*what, origin=origin, rows=rows, prices=prices)
            labels[rows] = among[nearest]
        return labels

    def _among(self, big: int) -> Index:
        """Small clusters with which the features of a coarse center are compared."""
        if self.compared.size:
            found = self.compared[big]
            among: Index = found[found >= 0].astype(np.int64)
            return among
        first, last = np.searchsorted(self.parents, (big, big + 1))
        return np.arange(first, last)

    def keep(self, used: Array) -> Hierarchy:
        """Drop the small clusters where `used` is false, and big ones left empty.

        A refined model keeps its big clusters: their features may be in the small
        clusters of others.
        """
        fine, parents = _rows(self.fine, used), self.parents[used]
        prices, coarse_prices = self.prices, self.coarse_prices
        prices = prices[used] if prices.size else FREE
        if self.compared.size:
            numbers = np.where(used, np.cumsum(used) - 1, -1).astype(np.int32)
            compared = np.where(self.compared < 0, -1, numbers[self.compared])
            found = self._replace(fine=fine, parents=parents, compared=compared)
            return found._replace(prices=prices)
        kept, parents = np.unique(parents, return_inverse=True)
        coarse_prices = coarse_prices[kept] if coarse_prices.size else FREE
        levels = (self.coarse[kept], fine, parents)
        how = (NESTED, self.unit, prices, coarse_prices)
        return Hierarchy(self.offset, *levels, *how)


def _rows(values: Array, used: Array) -> Array:
    """Take rows; all of them without a copy, if they are nobody else's."""
    ours = values.flags.owndata and values.flags.writeable
    return values if ours and used.all() else values[used]


def _compare(coarse: Array, fine: Array, parents: Index, prices: Array) -> Array:
    """Table of the small clusters nearest to each coarse center, its own ones first."""
    n_big, n_clusters = len(coarse), len(fine)
    n_compared = max(COMPARED, BIGS_COMPARED * n_clusters // n_big)
    n_compared = max(n_compared, int(np.bincount(parents).max()))
    if n_compared >= n_clusters:
        return np.arange(n_clusters, dtype=np.int32)[None]
    table = np.empty((n_big, n_compared), np.int32)
    bias, height = kernels.half_squared_norms(fine), max(1, SCORES // n_clusters)
    if prices.size:
        bias = bias + prices / 2
    for start in range(0, n_big, height):
        scores = bias - coarse[start : start + height] @ fine.T
        for big, score in enumerate(scores, start):
            score[slice(*np.searchsorted(parents, (big, big + 1)))] = -np.inf
            table[big] = np.sort(np.argpartition(score, n_compared - 1)[:n_compared])
    return table


def label_coarse(
    points: Array,
    coarse: Array,
    offset: Array,
    rows: Index | None = None,
    prices: Array = FREE,
) -> Index:
    """Label points with their big cluster.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_dims)
    coarse : ndarray of shape (n_big_clusters, n_dims)
    offset : ndarray of shape (n_dims,)
    rows : ndarray of int, optional
        The points to label, in this order; all of them by default.
    prices : ndarray of shape (n_big_clusters,), optional
        Added to the squared distances.

    Returns
    -------
    labels : ndarray of shape (n_points,) or (len(rows),), int64
    """
    what, charged = (points, coarse - offset), prices if prices.size else None
    return kernels.assign(*what, origin=offset, rows=rows, prices=charged)
