"""NumPy on tiles: assign, project and measure. Knows no dask.

Kernels speak of ``points (n_points, n_dims)`` and ``centers (n_clusters, n_dims)``.
The nearest center of a point is found by one matrix product per *tile* of rows::

    points --tile--> (x - origin) --GEMM--> scores = x . c - |c|^2 / 2 --max--> label

A tile has ``TILE`` rows (more of short ones, fewer of long ones), the last is padded to
a multiple of ``PAD``, or its rest is, where points are used as they are: BLAS rounds
by the height of a product, so few fixed heights make the label of a row (almost) a
function of the row and its place in the tile, not of how many rows came with it. (But
for training, which uses all points as they are: see `scores`.)
Tiles are tall because threads take turns to hold the interpreter between two calls:
the fewer calls, the better two threads overlap.

A common ``origin`` is subtracted in the tile, where it is free (the product then reads
from cache), because ``|x|^2 - 2 x . c + |c|^2`` loses every digit when the mean is
large. Ties go to the lowest index; rows of float32 that differ by less than about a
thousandth of their norm may tie. Inertia accumulates in float64.

Points that were projected on axes have a constant last coordinate, with which the
product itself subtracts |c|^2 / 2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hkmeans_dask.kmeans.crew import in_parallel, tiles
from hkmeans_dask.kmeans.scores import by_center, by_point, pays_by_center

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Index = NDArray[np.int64]

TILE = 1536
"""Rows of one GEMM, unless they are short or long."""

SMALL_TILE = 2**20
"""Bytes of a tile that stays in the cache of a core, nearly."""

TILE_BYTES = 16 * 2**20
"""Bytes of a tile, at most, but for rows so long that not `PAD` of them fit."""

MOST_ROWS = 4 * TILE
"""Rows of one GEMM, however short."""

PAD = 192
"""The height of every GEMM is a multiple of this."""

PAD_COLUMNS = 4
"""The width of every GEMM is a multiple of this: odd columns are slow."""

WORTH_SHARING = 2**25
"""Multiplications of one call that pay for starting threads."""

VALUES_WORTH_SHARING = 2**21
"""Values that do, where each is only copied, added or squared."""

SMALL_PART = 2**12
"""How much larger than the constant coordinate the others are, about."""

FEW_DIMS = 16
"""With so few dimensions scores are float64: arithmetic is not what takes the time."""


def tile_height(row_bytes: int) -> int:
    """Rows of one tile: more than `TILE` of short ones, fewer of long ones."""
    row_bytes = max(1, row_bytes)
    small, fitting = (n // row_bytes // PAD * PAD for n in (SMALL_TILE, TILE_BYTES))
    return max(PAD, min(max(TILE, min(small, MOST_ROWS)), fitting))


def half_squared_norms(centers: Array) -> Array:
    """Half of each center's squared norm, in the centers' dtype."""
    norms: Array = np.einsum("ij,ij->i", centers, centers, dtype=np.float64) / 2
    return norms.astype(centers.dtype)


def assign(
    points: Array,
    centers: Array,
    *,
    origin: Array | None = None,
    rows: Index | None = None,
    homogeneous: bool = False,
    prices: Array | None = None,
) -> Index:
    """Index of the center nearest to each point, ties to the lowest.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_dims), float32 or float64, C-contiguous
    centers : ndarray of shape (n_clusters, n_dims), the dtype of `points`
        Relative to `origin` when there is one.
    origin : ndarray of shape (n_dims,), optional
        Subtracted from the points.
    rows : ndarray of int, optional
        The points to assign, in this order; all of them by default.
    homogeneous : bool, default=False
        Whether the last coordinate of all points is the same, and not 0, as it comes
        from `project`: half the squared norms are then part of the product. Not with
        an origin.
    prices : ndarray of shape (n_clusters,), the dtype of `centers`, optional
        Added to the squared distances; 0 by default.

    Returns
    -------
    labels : ndarray of shape (n_points,) or (len(rows),), int64

    Notes
    -----
    Memory: two tiles, a byte for each score where they are few, and a copy of the
    centers a thread beyond the inputs and labels.
    """
    assert origin is None or not homogeneous, "the constant would not be one"
    n_points = len(points) if rows is None else len(rows)
    labels = np.zeros(n_points, np.int64)
    if len(centers) == 1 or not n_points:
        return labels
    constant = float(points[0, -1]) if homogeneous else 0.0

    def assign_part(part: slice) -> None:
        some = points[part] if rows is None else points
        wanted = None if rows is None else rows[part]
        _assign_tiles(some, centers, origin, wanted, constant, prices, labels[part])

    height = tile_height(max(centers.shape) * scoring(centers).itemsize)
    pays = n_points * centers.size >= WORTH_SHARING
    in_parallel(assign_part, n_points, height, pays=pays)
    return labels


def _assign_tiles(
    points: Array,
    centers: Array,
    origin: Array | None,
    rows: Index | None,
    constant: float,
    prices: Array | None,
    labels: Index,
) -> None:
    """Assign tile after tile into `labels`, with one buffer."""
    dtype = scoring(centers)
    columns, bias = as_columns(centers.astype(dtype, copy=False), constant, prices)
    training = rows is None and origin is None
    label = by_center if training and pays_by_center(columns) else by_point
    as_they_are = training and dtype == points.dtype
    most = tile_height(max(centers.shape) * dtype.itemsize)
    tallest = min(most, padded(len(labels)))
    tile = np.empty((tallest, points.shape[1]), dtype)
    room = np.empty(tallest * len(bias), dtype)
    charged = None if constant else bias
    for part in _cut(len(labels), most, PAD if as_they_are else most):
        n_used = part.stop - part.start
        height = padded(n_used)
        if as_they_are and height == n_used:
            filled = points[part]
        else:
            filled = tile[:height]
            wanted = part if rows is None else rows[part]
            fill_tile(filled[:n_used], points, wanted, origin)
            filled[n_used:] = 0
        label(filled, columns, charged, room, labels[part])


def _cut(n_points: int, height: int, unit: int) -> list[slice]:
    """Cut into tiles, the last one of them at a multiple of `unit`."""
    whole = n_points // unit * unit
    return tiles(whole, height) + tiles(n_points, height, whole)


def scoring(centers: Array) -> np.dtype[Any]:
    """Give the dtype of scores."""
    return np.dtype(np.float64) if centers.shape[1] <= FEW_DIMS else centers.dtype


def as_columns(
    centers: Array, constant: float, prices: Array | None
) -> tuple[Array, Array]:
    """Centers as columns, and the bias of each; padded by columns that never win.

    With a constant, the last coordinate of points, the columns have the bias in them.
    """
    n_clusters, n_dims = centers.shape
    n_columns = -(-n_clusters // PAD_COLUMNS) * PAD_COLUMNS
    wide = centers
    if n_columns > n_clusters or constant:
        wide = np.zeros((n_columns, n_dims), centers.dtype)
        wide[:n_clusters] = centers
    bias = np.full(n_columns, np.inf, centers.dtype)
    bias[:n_clusters] = half_squared_norms(centers[:, :-1] if constant else centers)
    if prices is not None:
        bias[:n_clusters] += prices / 2
    bias[:n_clusters][_repeated(centers, prices)] = np.inf
    if constant:
        lowest = np.finfo(bias.dtype).min / max(1.0, constant)
        wide[:, -1] = np.maximum(-bias / constant, lowest)
    return wide.T, bias


def fill_tile(
    tile: Array, points: Array, wanted: slice | Index, origin: Array | None
) -> None:
    """Copy the wanted points less the origin into a tile, maybe of another dtype."""
    alike = tile.dtype == points.dtype
    if isinstance(wanted, slice) and alike and origin is not None:
        np.subtract(points[wanted], origin, out=tile)
        return
    if isinstance(wanted, slice) or not alike:
        tile[:] = points[wanted]
    elif not points.flags.c_contiguous:
        tile[:] = points[wanted]  # `take` would copy all points first
    else:
        np.take(points, wanted, axis=0, out=tile, mode="clip")
    if origin is not None:
        tile -= origin


def padded(height: int) -> int:
    """Give the height of the product that has so many rows."""
    return -(-height // PAD) * PAD


def project(points: Array, axes: Array) -> Array:
    """Homogeneous coordinates of points along axes.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_dims)
    axes : ndarray of shape (n_dims, n_axes), the dtype of `points`

    Returns
    -------
    coordinates : ndarray of shape (n_points, n_axes + 1), the dtype of `points`
        The last one is the same for all: a power of 2, so that nothing is rounded by
        it, and small beside the others, so that sums of squares do not feel it.
    """
    columns = np.zeros((len(axes), axes.shape[1] + 1), axes.dtype)
    columns[:, :-1] = axes
    found = np.empty((len(points), columns.shape[1]), points.dtype)
    height = tile_height(points.shape[1] * points.itemsize)

    def fill(some: slice) -> None:
        for part in tiles(some.stop, height, some.start):
            np.dot(points[part], columns, out=found[part])

    pays = len(points) * axes.size >= WORTH_SHARING
    in_parallel(fill, len(points), height, pays=pays)
    found[:, -1] = _small_beside(found[:TILE]) or _small_beside(found) or 1
    return found


def _small_beside(values: Array) -> float:
    """Give a power of 2 that is small beside values, 0 if all are 0."""
    size = np.sqrt(np.square(values, dtype=np.float64).mean())
    return float(2.0 ** np.floor(np.log2(size / SMALL_PART))) if size else 0.0


def take(points: Array, rows: Index, out: Array | None = None) -> Array:
    """Copy the wanted rows, in this order, to new memory or to `out`."""
    found = np.empty((len(rows), points.shape[1]), points.dtype) if out is None else out

    def fill(part: slice) -> None:
        fill_tile(found[part], points, rows[part], None)

    pays = found.size >= VALUES_WORTH_SHARING
    in_parallel(fill, len(rows), TILE, pays=pays)
    return found


def squared_distances(
    points: Array, centers: Array, labels: Index, *, rows: Index | None = None
) -> Array:
    """Squared distance of each point (or of each of `rows`) to the center of its label.

    The difference is taken first, so a true 4e-8 is not lost in the rounding of two
    large norms, as it would be when the scores of `assign` were used.

    Returns
    -------
    squared : ndarray of shape (n_points,) or (len(rows),), the dtype of `points`

    Notes
    -----
    Memory: two tiles a thread beyond the inputs and the result.
    """
    squared = np.empty(len(labels), points.dtype)
    height = tile_height(points.shape[1] * points.itemsize)

    def measure(some: slice) -> None:
        tallest = min(height, some.stop - some.start)
        tile = np.empty((tallest, points.shape[1]), points.dtype)
        for part in tiles(some.stop, height, some.start):
            used = tile[: part.stop - part.start]
            np.take(centers, labels[part], axis=0, out=used, mode="clip")
            used -= points[part if rows is None else rows[part]]
            np.einsum("ij,ij->i", used, used, out=squared[part])

    pays = len(labels) * points.shape[1] >= VALUES_WORTH_SHARING
    in_parallel(measure, len(labels), height, pays=pays)
    return squared


def inertia(
    points: Array, centers: Array, labels: Index, weights: Array | None = None
) -> float:
    """Sum of squared distances to the centers of the labels, in float64."""
    return weighted_sum(squared_distances(points, centers, labels), weights)


def weighted_sum(values: Array, weights: Array | None) -> float:
    """Sum of values, times weights if there are any, in float64."""
    if weights is None:
        return float(values.sum(dtype=np.float64))
    return float(np.einsum("i,i->", values, weights, dtype=np.float64))


def to_unit(points: Array) -> tuple[Array, Array]:
    """Scale points to unit length, those of zeros left alone; also give the lengths.

    Each length hangs on its point alone, so a point is the same in any block. Points
    whose squares leave the range of their dtype are measured in a unit of their own.
    """
    with np.errstate(over="ignore", under="ignore"):
        squared = np.einsum("ij,ij->i", points, points)
    lengths = np.sqrt(squared)
    units = points / np.where(lengths > 0, lengths, 1)[:, None]
    range_of = np.finfo(points.dtype)
    exact = (squared > range_of.tiny**0.75) & (squared < range_of.max**0.9)
    far = np.flatnonzero(~exact)
    if len(far):
        _, exponents = np.frexp(np.abs(points[far]).max(axis=1, initial=0))
        near = np.ldexp(points[far], -exponents[:, None])
        measured = np.sqrt(np.einsum("ij,ij->i", near, near))
        units[far] = near / np.where(measured > 0, measured, 1)[:, None]
        with np.errstate(over="ignore", under="ignore"):
            lengths[far] = np.ldexp(measured, exponents)
    return units, lengths


def _repeated(centers: Array, prices: Array | None) -> Array:
    """Whether each center equals an earlier one, which then gets all their points.

    Or a later one of lower price. BLAS rounds by column: left to the scores, equal
    centers would share equal points.
    """
    repeated, sorted_first = np.zeros(len(centers), bool), np.sort(centers[:, 0])
    if not (sorted_first[1:] == sorted_first[:-1]).any():
        return repeated  # as nearly always, without a look at the rest
    _, same, counts = np.unique(centers[:, 0], return_inverse=True, return_counts=True)
    order = np.arange(len(centers))
    if prices is not None:
        order = np.argsort(prices, kind="stable")
    alike = order[counts[same[order]] > 1]
    repeated[alike] = True
    _, first = np.unique(as_voids(centers[alike]), return_index=True)
    repeated[alike[first]] = False
    return repeated


def as_voids(points: Array) -> Array:
    """Rows as single values that compare bytewise; -0.0 becomes 0.0."""
    rows = np.ascontiguousarray(points + points.dtype.type(0))
    row_bytes = np.dtype((np.void, rows.itemsize * rows.shape[1]))
    return rows.view(row_bytes)[:, 0]
