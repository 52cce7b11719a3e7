"""The nearest of all centers, each point seen from the origin of its group.

Points that are near each other and far from the common offset differ by few digits
there; seen from an origin among them they keep these. Centers are seen from the offset
all the same, so that one product serves points of all groups::

    points, group after group --tile--> (x - origin)
        --GEMM--> (x - origin) . (c - offset) - |c - origin|^2 / 2 --argmax--> label

What is left out of these scores, (x - origin) . (origin - offset), is the same for all
centers. A group costs no more than what is taken off its scores: for all groups that is
one small product in float64, and differences where a center is so near to an origin
that this has not digits enough. Along axes, a product before takes the tile to its
coordinates.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from hkmeans_dask.kmeans import kernels
from hkmeans_dask.kmeans.crew import in_parallel, tiles
from hkmeans_dask.kmeans.kernels import WORTH_SHARING, tile_height

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hkmeans_dask.kmeans.kernels import Array, Index

BIASES = 2**21
"""Pairs of origin and center whose distances are held at once, if not of one origin."""

LOST = 1e-6
"""Of two squared norms, what is left of squared distances when digits are lost."""


class Seen(NamedTuple):
    """Centers, seen from the offset."""

    offset: Array
    columns: Array
    """(n_dims or n_axes, n_columns), the last ones may be padding."""

    bias: Array
    """(n_columns,), infinite for padding, and for centers that equal another one."""

    axes: Array | None
    prices: Array | None

    @classmethod
    def of(
        cls, centers: Array, offset: Array, axes: Array | None, prices: Array | None
    ) -> Self:
        """Take centers as they are."""
        seen = (centers - offset).astype(kernels.scoring(centers), copy=False)
        axes = None if axes is None else axes.astype(seen.dtype, copy=False)
        seen = seen if axes is None else np.dot(seen, axes)
        return cls(offset, *kernels.as_columns(seen, 0, prices), axes, prices)

    def biases(self, origins: Array) -> Array:
        """Half the squared distances to origins, with their prices."""
        to = (origins - self.offset).astype(np.float64)
        to = to if self.axes is None else np.dot(to, self.axes.astype(np.float64))
        squared = _squared_distances(to, self.columns.T.astype(np.float64))
        if self.prices is not None:
            squared[:, : len(self.prices)] += self.prices
        squared[:, np.isinf(self.bias)] = np.inf
        squared /= 2
        biases: Array = squared.astype(self.bias.dtype)
        return biases


def _squared_distances(origins: Array, centers: Array) -> Array:
    """Those of all pairs; by differences where norms would lose the digits."""
    norms = np.add.outer(*(np.einsum("ij,ij->i", x, x) for x in (origins, centers)))
    squared: Array = norms - 2 * np.dot(origins, centers.T)
    near, to = np.nonzero(squared <= LOST * norms)
    squared[near, to] = kernels.squared_distances(origins, centers, to, rows=near)
    return squared


class Groups(NamedTuple):
    """Points of some groups that follow each other."""

    points: Array
    order: Index | None
    """The points of all groups among these; all of them if None."""

    bounds: Index
    """(n_groups + 1,), where each group begins in this order."""

    origins: Array
    """(n_groups, n_dims)."""

    biases: Array
    """(n_groups, n_columns), taken off the scores."""

    def within(self, tile: slice) -> Iterator[tuple[int, slice]]:
        """Give the groups of a tile, and the rows of the tile that each of them has."""
        first = int(np.searchsorted(self.bounds, tile.start, side="right")) - 1
        last = int(np.searchsorted(self.bounds, tile.stop))
        cuts = self.bounds[first : last + 1].clip(tile.start, tile.stop) - tile.start
        rows = itertools.starmap(slice, itertools.pairwise(cuts.tolist()))
        return zip(range(first, last), rows, strict=True)

    def fill(self, tile: Array, start: int, group: int) -> None:
        """Copy points of a group, less its origin."""
        here = slice(start, start + len(tile))
        wanted = here if self.order is None else self.order[here]
        kernels.fill_tile(tile, self.points, wanted, self.origins[group])


def assign(
    points: Array,
    centers: Array,
    offset: Array,
    origins: Array,
    starts: Index,
    *,
    order: Index | None = None,
    axes: Array | None = None,
    prices: Array | None = None,
) -> Index:
    """Index of the center nearest to each point, ties to the lowest.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_dims), float32 or float64
    centers : ndarray of shape (n_clusters, n_dims), the dtype of `points`
    offset : ndarray of shape (n_dims,)
        From where centers are seen.
    origins : ndarray of shape (n_groups, n_dims)
        From where the points of each group are seen.
    starts : ndarray of shape (n_groups + 1,), int64
        Where each group begins.
    order : ndarray of shape (n_points,), int64, optional
        The points, group after group; as they are by default.
    axes : ndarray of shape (n_dims, n_axes), optional
        Orthonormal columns, along which points and centers are compared.
    prices : ndarray of shape (n_clusters,), optional
        Added to the squared distances; 0 by default.

    Returns
    -------
    labels : ndarray of shape (n_points,), int64
        In the order of the points.

    Notes
    -----
    Memory: two tiles a thread beyond the inputs and labels, three with axes; two copies
    of the centers, one of them in float64; `BIASES` values of float64, four times.
    """
    seen = Seen.of(centers, offset, axes, prices)
    labels = np.zeros(len(points), np.int64)
    present = np.flatnonzero(np.diff(starts))
    for some in tiles(len(present), max(1, BIASES // len(centers))):
        numbers = present[some]
        bounds = np.append(starts[numbers], starts[numbers[-1] + 1])
        rows = slice(*bounds[[0, -1]].tolist())
        levels = (bounds - bounds[0], origins[numbers], seen.biases(origins[numbers]))
        if order is None:
            labels[rows] = _assign(Groups(points[rows], None, *levels), seen)
        else:
            labels[order[rows]] = _assign(Groups(points, order[rows], *levels), seen)
    return labels


def _assign(groups: Groups, seen: Seen) -> Index:
    """Assign the points of some groups, in their order."""
    labels = np.empty(groups.bounds[-1], np.int64)
    widest = max(groups.points.shape[1], seen.columns.shape[1])
    height = tile_height(widest * seen.columns.itemsize)

    def assign_part(part: slice) -> None:
        _assign_tiles(groups, seen, tiles(part.stop, height, part.start), labels)

    pays = len(labels) * seen.columns.size >= WORTH_SHARING
    in_parallel(assign_part, len(labels), height, pays=pays)
    return labels


def _assign_tiles(
    groups: Groups, seen: Seen, parts: list[slice], labels: Index
) -> None:
    """Assign tile after tile into `labels`, with one set of buffers."""
    dtype, (n_axes, n_columns) = seen.columns.dtype, seen.columns.shape
    tallest = kernels.padded(max((part.stop - part.start for part in parts), default=0))
    tile = np.empty((tallest, groups.points.shape[1]), dtype)
    along = tile if seen.axes is None else np.empty((tallest, n_axes), dtype)
    scores = np.empty((tallest, n_columns), dtype)
    for part in parts:
        n_used = part.stop - part.start
        height, inside = kernels.padded(n_used), list(groups.within(part))
        for group, rows in inside:
            groups.fill(tile[rows], part.start + rows.start, group)
        tile[n_used:height] = 0
        if seen.axes is not None:
            np.dot(tile[:height], seen.axes, out=along[:height])
        np.dot(along[:height], seen.columns, out=scores[:height])
        for group, rows in inside:
            scores[rows] -= groups.biases[group]
        scores[:n_used].argmax(axis=1, out=labels[part])
