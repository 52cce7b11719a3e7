"""The nearest of many centers: along a few axes most of them are ruled out.

Seen from an origin, a point x and a center c have parts along orthonormal axes and a
rest. The rests are known by their lengths alone, so ``x . c`` is at most its part along
the axes plus ``|rest of x| |rest of c|`` (Cauchy and Schwarz), which one product with
two coordinates more gives for all centers::

    x - origin --axes--> (x along axes, 1, |rest of x|)
                              . (c along axes, -|c|^2 / 2, |rest of c|) = bound

The distance to the center of highest bound is measured, then those to all centers whose
bounds do not rule them out: nearly none where the axes hold what tells centers apart.
Distances are of differences in all dimensions, so the nearest center is that of the
point alone, whichever the axes; ties go to the lowest index. With one axis, the mean
of a vector, it is the equal-average equal-variance search (Lee, Chen: *Fast closest
codeword search algorithms for vector quantisation*, 1994).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from hkmeans_dask.kmeans import kernels
from hkmeans_dask.kmeans.crew import in_parallel, tiles
from hkmeans_dask.kmeans.kernels import (
    MOST_ROWS,
    PAD_COLUMNS,
    WORTH_SHARING,
    tile_height,
)

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.kernels import Array, Index

ROUNDING = 32
"""By so many units of rounding bounds are raised: more than products lose."""

LOOK = 28
"""Multiplications that take as long as to look for the highest score, a center."""

SCAN = 40
"""Multiplications that take as long as to look for the high bounds, a center."""

MEASURED = 32
"""How many times as long a dimension of a measured distance takes as of a product."""

PAD_AXES = 8
"""Axes, and what is beside them, are a multiple of this."""

SHARES_OF_DIMENSIONS = (1 / 8, 1 / 4, 1 / 3, 1 / 2)
"""So many axes are tried."""

WORTHWHILE = 0.9
"""Axes take less than this part of the arithmetic without them."""

EACH = 48
"""Dimensions that take as long as what else there is to a measured distance."""


NO_AXES = np.empty((0, 0))
"""Centers are not ruled out."""


class Bounds(NamedTuple):
    """What points are compared with."""

    axes: Array
    """(n_dims, n_axes + 2), orthonormal columns, then two of zeros."""

    columns: Array
    """(n_axes + 2, n_columns), centers along the axes, bias and length of the rest."""

    @classmethod
    def of(cls, centers: Array, axes: Array, prices: Array | None) -> Self:
        """Prepare centers, which are relative to the origin."""
        n_clusters, (n_dims, n_axes) = len(centers), axes.shape
        along = np.dot(centers, axes)
        squared = np.einsum("ij,ij->i", centers, centers, dtype=np.float64)
        bias = squared if prices is None else squared + prices
        n_columns = -(-n_clusters // PAD_COLUMNS) * PAD_COLUMNS
        columns = np.zeros((n_columns, n_axes + 2), centers.dtype)
        columns[:, n_axes] = np.finfo(centers.dtype).min  # padding is never highest
        columns[:n_clusters, :n_axes] = along
        columns[:n_clusters, n_axes] = -bias / 2
        columns[:n_clusters, -1] = _rests(squared, along)
        padded = np.zeros((n_dims, n_axes + 2), axes.dtype)
        padded[:, :n_axes] = axes
        return cls(padded, columns.T)

    def highest(self, seen: Array, out: Array) -> Array:
        """Bound the scores of points from above; also give their squared lengths."""
        along = np.dot(seen, self.axes)
        squared: Array = np.einsum("ij,ij->i", seen, seen)
        along[:, -1] = _rests(squared, along[:, :-2])
        along[:, -2] = 1
        np.dot(along, self.columns, out=out)
        return squared


def _rests(squared: Array, along: Array) -> Array:
    """Lengths of what is not along the axes, and somewhat more."""
    inside = np.einsum("ij,ij->i", along, along, dtype=squared.dtype)
    rounding = ROUNDING * np.finfo(along.dtype).eps
    rests: Array = np.sqrt(np.maximum(squared - inside, 0) + rounding * squared)
    return rests


def assign(
    points: Array,
    centers: Array,
    axes: Array,
    origin: Array,
    prices: Array | None = None,
) -> Index:
    """Index of the center nearest to each point, ties to the lowest.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_dims), float32 or float64
    centers : ndarray of shape (n_clusters, n_dims), the dtype of `points`
    axes : ndarray of shape (n_dims, n_axes), the dtype of `points`
        Orthonormal columns.
    origin : ndarray of shape (n_dims,)
        From where points and centers are seen along the axes.
    prices : ndarray of shape (n_clusters,), optional
        Added to the squared distances; 0 by default.

    Returns
    -------
    labels : ndarray of shape (n_points,), int64

    Notes
    -----
    Memory: three tiles a thread beyond the inputs and labels, three more where bounds
    rule out few, and a copy of the centers.
    """
    labels = np.zeros(len(points), np.int64)
    _assign(points, centers, axes, origin, prices, labels)
    return labels


def choose_axes(
    points: Array, centers: Array, all_axes: Array, origin: Array, prices: Array
) -> Array:
    """Take so many axes that to assign along them takes least arithmetic.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_dims)
    centers : ndarray of shape (n_clusters, n_dims)
    all_axes : ndarray of shape (n_dims, n_dims)
        Orthonormal columns, the most telling first.
    origin : ndarray of shape (n_dims,)
    prices : ndarray of shape (n_clusters,) or empty

    Returns
    -------
    axes : ndarray of shape (n_dims, n_axes)
        Empty where it takes hardly less than without any.
    """
    n_clusters, n_dims = centers.shape
    best, least = NO_AXES, WORTHWHILE * n_clusters * (n_dims + LOOK)
    what = (origin, prices if prices.size else None)
    shares = (int(share * n_dims) // PAD_AXES for share in SHARES_OF_DIMENSIONS)
    for n_axes in sorted({max(1, n * PAD_AXES - 2) for n in shares}, reverse=True):
        some = np.ascontiguousarray(all_axes[:, :n_axes])
        found = cost(points, centers, some, *what)
        if found < least:
            best, least = some, found
        elif found - _products(some, n_clusters) >= least:
            break  # fewer axes rule out fewer centers
    return best


def cost(
    points: Array,
    centers: Array,
    axes: Array,
    origin: Array,
    prices: Array | None = None,
) -> float:
    """How many multiplications of a product take as long as to assign a point.

    Parameters
    ----------
    points, centers, axes, origin, prices : as `assign` takes them

    Returns
    -------
    multiplications : float
        The mean over the points.
    """
    n_measured = _assign(points, centers, axes, origin, prices, None)
    each = MEASURED * (len(axes) + EACH) * n_measured / max(1, len(points))
    return float(_products(axes, len(centers)) + each)


def _products(axes: Array, n_clusters: int) -> int:
    """Multiplications that a point takes whatever is ruled out."""
    n_dims, n_axes = axes.shape
    product: int = n_dims * n_axes + n_clusters * (n_axes + SCAN)
    return product


def _assign(
    points: Array,
    centers: Array,
    axes: Array,
    origin: Array,
    prices: Array | None,
    labels: Index | None,
) -> int:
    """Assign points, into `labels` if there are; count the distances to be measured."""
    bounds = Bounds.of(centers - origin, axes, prices)
    height = tile_height(max(centers.shape) * points.itemsize)
    n_measured = []

    def assign_part(some: slice) -> None:
        tallest = min(height, some.stop - some.start)
        scores = np.empty((tallest, bounds.columns.shape[1]), points.dtype)
        for part in tiles(some.stop, height, some.start):
            here, found = points[part], scores[: part.stop - part.start]
            squared = bounds.highest(here - origin, found)
            nearest = Nearest.of_highest(here, centers, prices, found)
            pairs = nearest.not_ruled_out(squared, found)
            n_measured.append(len(here) + len(pairs))
            if labels is not None:
                nearest.compare(pairs, found.shape[1])
                labels[part] = nearest.labels

    pays = len(points) * centers.size >= WORTH_SHARING
    in_parallel(assign_part, len(points), height, pays=pays)
    return sum(n_measured)


class Nearest(NamedTuple):
    """The nearest centers of the points of a tile, among those measured so far."""

    points: Array
    centers: Array
    prices: Array | None
    labels: Index
    costs: Array
    """Squared distances to them, and their prices."""

    @classmethod
    def of_highest(
        cls, points: Array, centers: Array, prices: Array | None, bounds: Array
    ) -> Self:
        """Measure the center of highest bound, which is then taken off the bounds."""
        labels = bounds.argmax(axis=1)
        bounds[np.arange(len(points)), labels] = -np.inf
        found = cls(points, centers, prices, labels, np.empty(0))
        return found._replace(costs=found._measure(labels))

    def not_ruled_out(self, squared: Array, bounds: Array) -> Index:
        """Numbers of the bounds that are high enough for a nearer center."""
        rounding = ROUNDING / 4 * np.finfo(squared.dtype).eps
        largest = squared + np.abs(self.costs)  # of what is rounded, for those nearer
        if self.prices is not None:
            largest += np.abs(self.prices).max()
        scores = (squared - self.costs) / 2 - rounding * largest
        return np.flatnonzero(bounds >= scores[:, None])

    def compare(self, pairs: Index, n_columns: int) -> None:
        """Measure centers, a tile of pairs at a time; ties go to the lowest index."""
        for some in tiles(len(pairs), MOST_ROWS):
            rows, labels = np.divmod(pairs[some], n_columns)
            costs, before = self._measure(labels, rows), self.costs[rows]
            equal = (costs == before) & (labels < self.labels[rows])
            better = np.flatnonzero((costs < before) | equal)
            order = np.lexsort((labels[better], costs[better], rows[better]))
            best = better[order]
            best = best[np.diff(rows[best], prepend=-1) > 0]
            self.labels[rows[best]] = labels[best]
            self.costs[rows[best]] = costs[best]

    def _measure(self, labels: Index, rows: Index | None = None) -> Array:
        what = (self.points, self.centers, labels)
        costs = kernels.squared_distances(*what, rows=rows)
        return costs if self.prices is None else costs + self.prices[labels]
