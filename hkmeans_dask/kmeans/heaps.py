"""Heaps of equal points, which no price parts, where sizes are made even.

Where constant features are many (the background of a volume), prices would rise until
all of them are elsewhere, and take all others along. Only among all small clusters: a
big cluster gets small ones by its size, so that one with a heap had better be smaller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hkmeans_dask.kmeans import groups

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.kernels import Array, Index

LARGE = 2.0
"""Heaps are looked for in clusters that are more than so many times the mean size."""


def with_room(wanted: Array, points: Array, labels: Index, weights: Array) -> Array:
    """Let clusters be as large as their largest heap.

    What that takes more is taken from the other clusters, in proportion.

    Parameters
    ----------
    wanted : ndarray of shape (n_clusters,)
        The sizes wanted.
    points : ndarray of shape (n_points, n_dims)
    labels : ndarray of shape (n_points,), int
        Without prices.
    weights : ndarray of shape (n_points,)

    Returns
    -------
    wanted : ndarray of shape (n_clusters,)
    """
    sizes = np.bincount(labels, weights, minlength=len(wanted))
    order, starts = groups.group_by_label(labels, len(wanted))
    heaps = np.zeros(len(wanted))
    for cluster in np.flatnonzero(sizes > LARGE * sizes.mean()).tolist():
        rows = order[starts[cluster] : starts[cluster + 1]]
        heaps[cluster] = _largest(points[rows], weights[rows])
    heavy = heaps > wanted
    rest = wanted.sum() - heaps[heavy].sum()
    if not heavy.any() or rest <= 0:
        return wanted
    return np.where(heavy, heaps, wanted * (rest / wanted[~heavy].sum()))


def _largest(points: Array, weights: Array) -> float:
    """Size of the largest heap."""
    _, which = np.unique(points, axis=0, return_inverse=True)
    return float(np.bincount(which.ravel(), weights).max())
