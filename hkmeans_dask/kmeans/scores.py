"""The center of the highest score of each point of a tile.

Scores of one point lie side by side, or where they are few those of one center. Then
one instruction looks at many points, and none branches: `argmax` takes two to three
times as long, as its branches are hard to predict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
    Index = NDArray[np.int64]

FEW_SCORES = 2**9
"""Bytes of the scores of one point, at most, that are compared center by center."""

SHORT_DIMS = 2**8
"""Dimensions of it, at most: products of long ones take longer than is saved."""


def label_highest(
    tile: Array, columns: Array, bias: Array | None, scores: Array, labels: Index
) -> None:
    """Label the points of a tile with the center of highest score, ties to the lowest.

    Parameters
    ----------
    tile : ndarray of shape (height, n_dims)
        Points, then padding.
    columns : ndarray of shape (n_dims, n_columns), in Fortran order
        Centers, then those that never win.
    bias : ndarray of shape (n_columns,), optional
        Taken off the scores.
    scores : ndarray of shape (n_scores,), n_scores >= height * n_columns
        Room for them, overwritten.
    labels : ndarray of shape (n_points,), int64, n_points <= height
        Where the labels go.
    """
    n_dims, n_columns = columns.shape
    few = n_columns * columns.itemsize <= FEW_SCORES and n_dims <= SHORT_DIMS
    label = _by_center if few else _by_point
    label(tile, columns, bias, scores[: len(tile) * n_columns], labels)


def _by_point(
    tile: Array, columns: Array, bias: Array | None, scores: Array, labels: Index
) -> None:
    found = np.dot(tile, columns, out=scores.reshape(len(tile), -1))
    if bias is not None:
        found -= bias
    found[: len(labels)].argmax(axis=1, out=labels)


def _by_center(
    tile: Array, columns: Array, bias: Array | None, scores: Array, labels: Index
) -> None:
    """Rank the highest: the lower a center's number, the higher its rank."""
    found = np.dot(columns.T, tile.T, out=scores.reshape(-1, len(tile)))
    if bias is not None:
        found -= bias[:, None]
    ranks = np.equal(found, found.max(axis=0)).view(np.uint8)
    ranks *= np.arange(len(found), 0, -1, dtype=np.uint8)[:, None]
    highest = ranks.max(axis=0)[: len(labels)]
    highest[highest == 0] = len(found)  # a score is no number: equal to none
    np.subtract(len(found), highest, out=labels)
