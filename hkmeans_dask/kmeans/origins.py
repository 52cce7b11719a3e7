"""The nearest of all centers, each point seen from the origin of its group.

Points that are near each other and far from the common offset differ by few digits
there; seen from an origin among them they keep these. Centers are seen from the offset
all the same, so that one product serves points of many groups::

    points, group after group --tile--> (x - origin)
        --GEMM--> (x - origin) . (c - offset) - |c - origin|^2 / 2 --argmax--> label

What is left out of these scores, (x - origin) . (origin - offset), is the same for all
centers. Such groups cost no more than what is taken off their scores: for all of them
that is one small product in float64.

Rounding is then relative to how far an origin is from the offset. Where centers around
it are much nearer than that, as of values near 0 beside a fill value of -9999, a group
has a product of its own, in which its centers, too, are seen from its origin: each time
that takes a copy of all centers.
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

PAIRS = 2**21
"""Pairs of origin and center of which distances are held at once, at most; but
`PAD_ORIGINS` are taken with all centers."""

NEAR = 1e-3
"""A group is on its own where a second center is nearer to its origin than this part of
the way from there to the offset."""

PAD_ORIGINS = 8
"""Origins are compared with centers in multiples of this: BLAS rounds by the height of
a product."""


class Seen(NamedTuple):
    """Centers, seen from the offset."""

    offset: Array
    columns: Array
    """(n_dims, n_columns), the last ones may be padding."""

    never: Array
    """(n_columns,), whether one is padding, or equals another one."""

    exact: Array
    """(n_clusters, n_dims), float64: not rounded to the digits of the offset."""

    prices: Array | None

    @classmethod
    def of(cls, centers: Array, offset: Array, prices: Array | None = None) -> Self:
        """Take centers as they are."""
        dtype = kernels.scoring(centers)
        exact = centers.astype(np.float64)
        exact -= offset
        columns, bias = kernels.as_columns(exact.astype(dtype, copy=False), 0, prices)
        return cls(offset, columns, np.isinf(bias), exact, prices)

    def to_origins(self, origins: Array) -> tuple[Array, Array]:
        """Squared distances to origins, float64; whether a group is on its own."""
        n_origins = len(origins)
        to = np.zeros((-(-n_origins // PAD_ORIGINS) * PAD_ORIGINS, origins.shape[1]))
        to[:n_origins] = origins
        to[:n_origins] -= self.offset
        squared = np.dot(-2 * to, self.exact.T)
        squared += np.einsum("ij,ij->i", self.exact, self.exact)
        norms = np.einsum("ij,ij->i", to, to)
        squared += norms[:, None]
        second = np.partition(squared, 1, axis=1)[:, 1]
        return squared[:n_origins], (second < NEAR**2 * norms)[:n_origins]

    def biases(self, squared: Array) -> Array:
        """Half of squared distances to origins, with prices: taken off the scores."""
        if self.prices is not None:
            squared += self.prices
        biases = np.empty((len(squared), len(self.never)), self.columns.dtype)
        np.divide(squared, 2, out=biases[:, : squared.shape[1]], casting="same_kind")
        biases[:, self.never] = np.inf
        return biases


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
    prices : ndarray of shape (n_clusters,), optional
        Added to the squared distances; 0 by default.

    Returns
    -------
    labels : ndarray of shape (n_points,), int64
        In the order of the points.

    Notes
    -----
    Memory: two tiles a thread beyond the inputs and labels; three copies of the centers
    and one in float64; `PAIRS` values of float64 three times.
    """
    labels = np.zeros(len(points), np.int64)
    if len(centers) == 1 or not len(points):
        return labels
    seen = Seen.of(centers, offset, prices)
    present = np.flatnonzero(np.diff(starts))
    for some in _few(len(present), len(centers)):
        numbers = present[some]
        squared, alone = seen.to_origins(origins[numbers])
        for number in numbers[alone]:
            rows, origin = _rows_of(number[None], starts, order), origins[number]
            chosen, inside = _chosen(points, rows)
            how = {"origin": origin, "rows": inside, "prices": prices}
            labels[rows] = kernels.assign(chosen, centers - origin, **how)
        if not alone.all():
            shared, biases = numbers[~alone], seen.biases(squared[~alone])
            rows = _rows_of(shared, starts, order)
            bounds = np.append(0, np.cumsum(starts[shared + 1] - starts[shared]))
            groups = Groups(*_chosen(points, rows), bounds, origins[shared], biases)
            labels[rows] = _assign(groups, seen)
    return labels


def any_on_its_own(centers: Array, offset: Array, origins: Array) -> bool:
    """Whether the group of some origin has a product of its own."""
    if len(centers) == 1:
        return False
    seen = Seen.of(centers, offset)
    parts = _few(len(origins), len(centers))
    return any(bool(seen.to_origins(origins[some])[1].any()) for some in parts)


def _few(n_origins: int, n_clusters: int) -> list[slice]:
    """Cut origins into as many as are compared with all centers at once."""
    each = PAIRS // n_clusters // PAD_ORIGINS * PAD_ORIGINS
    return tiles(n_origins, max(PAD_ORIGINS, each))


def _rows_of(numbers: Index, starts: Index, order: Index | None) -> Index | slice:
    """Rows of some groups, group after group."""
    cuts = np.stack([starts[numbers], starts[numbers + 1]], axis=1)
    rows: Index | slice = slice(int(cuts[0, 0]), int(cuts[-1, 1]))
    if (cuts[1:, 0] > cuts[:-1, 1]).any():  # others lie between them
        rows = np.concatenate([np.arange(*cut) for cut in cuts])
    return rows if order is None else order[rows]


def _chosen(points: Array, rows: Index | slice) -> tuple[Array, Index | None]:
    """Points among which the rows are, and which of these they are, if not all."""
    return (points[rows], None) if isinstance(rows, slice) else (points, rows)


def _assign(groups: Groups, seen: Seen) -> Index:
    """Assign the points of some groups, in their order."""
    labels = np.empty(groups.bounds[-1], np.int64)
    height = tile_height(max(seen.columns.shape) * seen.columns.itemsize)

    def assign_part(part: slice) -> None:
        _assign_tiles(groups, seen, tiles(part.stop, height, part.start), labels)

    pays = len(labels) * seen.columns.size >= WORTH_SHARING
    in_parallel(assign_part, len(labels), height, pays=pays)
    return labels


def _assign_tiles(
    groups: Groups, seen: Seen, parts: list[slice], labels: Index
) -> None:
    """Assign tile after tile into `labels`, with one set of buffers."""
    dtype, (n_dims, n_columns) = seen.columns.dtype, seen.columns.shape
    tallest = kernels.padded(max((part.stop - part.start for part in parts), default=0))
    tile = np.empty((tallest, n_dims), dtype)
    scores = np.empty((tallest, n_columns), dtype)
    for part in parts:
        n_used = part.stop - part.start
        height, inside = kernels.padded(n_used), list(groups.within(part))
        for group, rows in inside:
            groups.fill(tile[rows], part.start + rows.start, group)
        tile[n_used:height] = 0
        np.dot(tile[:height], seen.columns, out=scores[:height])
        for group, rows in inside:
            scores[rows] -= groups.biases[group]
        scores[:n_used].argmax(axis=1, out=labels[part])
