"""No center stays without points: one that has none moves to a point far from all."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from hkmeans_dask.kmeans import groups, kernels

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.kernels import Array, Index

FEW_MEMBERS = (0, 2, 8, np.inf)
"""So many members of a cluster are asked whether its center is their nearest: a few
first, then those from there on."""


def settle(points: Array, centers: Array, labels: Index) -> Array:
    """Make sure that each center is the nearest one of some point.

    Asks a few members of each cluster, and more where these went elsewhere, instead of
    all points.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_dims)
    centers : ndarray of shape (n_clusters, n_dims)
    labels : ndarray of shape (n_points,)
        Of which the centers are the means, or nearly so.

    Returns
    -------
    centers : ndarray of shape (n_clusters, n_dims)
        The same, unless `occupy` has to move some.
    """
    order, starts = groups.group_by_label(labels, len(centers))
    members = np.arange(len(order)) - np.repeat(starts[:-1], np.diff(starts))
    occupied = np.zeros(len(centers), bool)
    for first, stop in pairwise(FEW_MEMBERS):
        asked = (first <= members) & (members < stop) & ~occupied[labels[order]]
        occupied[kernels.assign(points, centers, rows=order[asked])] = True
    return centers if occupied.all() else occupy(points, centers)


def occupy(points: Array, centers: Array) -> Array:
    """Move each center without points to the point farthest from all centers.

    A center that sits on a point keeps it, so each round leaves one more center that
    can never be empty: the loop ends, on duplicates too.

    Returns
    -------
    centers : ndarray of shape (n_clusters, n_dims)
        Each the nearest of at least one point, if there are enough distinct ones.
    """
    for _ in range(len(centers)):
        moved = refill(points, centers, kernels.assign(points, centers))
        if moved is centers:
            break
        centers = moved
    return centers


def refill(points: Array, centers: Array, labels: Index) -> Array:
    """Move each center without points to a point far from the center of its label.

    The labels may be those of centers that have moved a little since: a center that is
    moved might have got points by now, one that stays might have none. The same array
    is given back where no center is without points, or no point away from its center.
    """
    empty = np.flatnonzero(np.bincount(labels, minlength=len(centers)) == 0)
    if not len(empty):
        return centers
    squared = kernels.squared_distances(points, centers, labels)
    if not squared.any():
        return centers
    centers = centers.copy()
    for center in empty:
        farthest = int(squared.argmax())
        centers[center] = points[farthest]
        to_new = kernels.squared_distances(
            points, centers[center][None], np.zeros(len(points), np.int64)
        )
        np.minimum(squared, to_new, out=squared)
    return centers
