"""The center of the highest score of each point of a tile, ties to the lowest.

The scores of one point lie side by side (`by_point`), or those of one center. Then one
instruction looks at many points and none branches, where `argmax` has branches that are
hard to predict: of 32 centers the highest score is found in a fifth of the time. But
BLAS cuts such a product into blocks along the points, and rounds by their place in
these: which of two equally near centers a point gets depends on how many points come
with it. Training has the same points in each pass.

Both take a `tile` (height, n_dims), `columns` (n_dims, n_columns) in Fortran order, the
`bias` (n_columns,) that is taken off the scores or None, room for the ``height *
n_columns`` scores, and the `labels` (n_points,) to fill, n_points <= height.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Index = NDArray[np.int64]

FEW_SCORES = 2**9
"""Bytes of the scores of one point, at most, where center by center pays: 128 centers
in float32. Ranks of more than 255 would not be of one byte."""

SHORT_DIMS = 2**8
"""Dimensions, at most, where it pays: products of longer points lose what is saved."""


def pays_by_center(columns: Array) -> bool:
    """Whether `by_center` takes less time than `by_point`."""
    n_dims, n_columns = columns.shape
    return bool(n_columns * columns.itemsize <= FEW_SCORES and n_dims <= SHORT_DIMS)


def by_point(
    tile: Array, columns: Array, bias: Array | None, room: Array, labels: Index
) -> None:
    """Label the points of a tile."""
    shape = height, n_columns = len(tile), columns.shape[1]
    scores = np.dot(tile, columns, out=room[: height * n_columns].reshape(shape))
    if bias is not None:
        scores -= bias
    scores[: len(labels)].argmax(axis=1, out=labels)


def by_center(
    tile: Array, columns: Array, bias: Array | None, room: Array, labels: Index
) -> None:
    """Label the points of a tile.

    Centers have falling ranks: of those that reach the highest score of a point, the
    first has the highest.
    """
    shape = n_columns, height = columns.shape[1], len(tile)
    scores = np.dot(columns.T, tile.T, out=room[: height * n_columns].reshape(shape))
    if bias is not None:
        scores -= bias[:, None]
    ranks = np.equal(scores, scores.max(axis=0)).view(np.uint8)
    ranks *= np.arange(n_columns, 0, -1, dtype=np.uint8)[:, None]
    highest = ranks.max(axis=0)[: len(labels)]
    highest[highest == 0] = n_columns  # no number is equal to itself: the first center
    np.subtract(n_columns, highest, out=labels)
