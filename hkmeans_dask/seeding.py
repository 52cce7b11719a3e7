"""Initial centers: k-means++ and random draws, several candidates at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hkmeans_dask.kernels import TILE_BYTES, assign, inertia

if TYPE_CHECKING:
    from collections.abc import Callable

    from hkmeans_dask.kernels import Array, Index

MOST_AMONG = 4096
"""Points among which all distances are held at once, at most (64 MB of float32)."""

RUN = 64
"""Columns that are added up before one is drawn."""


def seed_kmeans_plusplus(
    points: Array,
    n_clusters: int,
    n_init: int,
    rng: np.random.Generator,
    weights: Array | None = None,
) -> Array:
    """Choose the best of `n_init` k-means++ initialisations.

    All candidates grow together, one center each per step, so that their distances
    come out of one matrix product instead of `n_init` matrix-vector products. The
    potential left after the last step is the inertia of an initialisation: the lowest
    one wins, without another look at the points.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_dims)
    n_clusters : int
    n_init : int
    rng : numpy.random.Generator
    weights : ndarray of shape (n_points,), optional
        All positive: how often each point counts.

    Returns
    -------
    centers : ndarray of shape (n_clusters, n_dims), the dtype of `points`
        Rows of `points`; equal ones only where distinct points ran out.

    References
    ----------
    Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", 2007.

    Notes
    -----
    Memory: a few (n_init, n_points) arrays.
    """
    chosen = np.empty((n_clusters, n_init), np.int64)
    potential = np.full((n_init, len(points)), np.inf, points.dtype)
    distances = _distances_among(points, n_clusters * n_init, weights)
    for step in range(n_clusters):
        if step:
            chosen[step] = _draw_proportional(potential, rng)
        elif weights is None:
            chosen[step] = rng.integers(len(points), size=n_init)
        else:
            alike = np.broadcast_to(weights, potential.shape)
            chosen[step] = _draw_proportional(alike, rng)
        np.minimum(potential, distances(chosen[step]), out=potential)
    best = potential.sum(axis=1, dtype=np.float64).argmin()
    return points[chosen[:, best]]


def _distances_among(
    points: Array, n_drawn: int, weights: Array | None
) -> Callable[[Index], Array]:
    """Return a function that gives squared distances of points `picked` to all.

    They are multiplied by the weights of the latter, if there are any. Where about as
    many will be drawn as there are points, one product of all with all is faster than
    many small ones.
    """
    norms = np.einsum("ij,ij->i", points, points)
    columns = points.T
    if points.nbytes <= TILE_BYTES:
        columns = np.ascontiguousarray(columns)  # else every product copies them

    def squared(picked: Index | slice) -> Array:
        found: Array = np.dot(points[picked], columns)
        found *= -2
        found += norms
        found += norms[picked, None]
        found[np.arange(len(found)), np.arange(len(points))[picked]] = 0
        np.maximum(found, 0, out=found)
        return found if weights is None else np.multiply(found, weights, out=found)

    if n_drawn < len(points) or len(points) > MOST_AMONG:
        return squared
    return squared(slice(None)).__getitem__  # of a view: no copy of the points


def _draw_proportional(weights: Array, rng: np.random.Generator) -> Index:
    """Draw one column index per row of `weights`, proportionally to the weights.

    First a run of columns is drawn, then a column in it: sums are faster than cumulated
    sums. A row of zeros draws its last column.
    """
    n_columns = weights.shape[1]
    starts = np.arange(0, n_columns, RUN)
    runs = _draw(np.add.reduceat(weights, starts, axis=1), rng)
    columns = starts[runs][:, None] + np.arange(RUN)
    inside = columns < n_columns
    columns = np.minimum(columns, n_columns - 1)
    within = np.take_along_axis(weights, columns, axis=1) * inside
    drawn: Index = columns[np.arange(len(runs)), _draw(within, rng)]
    return drawn


def _draw(weights: Array, rng: np.random.Generator) -> Index:
    """Draw one column index per row, the last one of a row of zeros."""
    cumulated = np.cumsum(weights, axis=1, dtype=np.float64)
    draws = rng.random(len(weights)) * cumulated[:, -1]
    columns = (cumulated <= draws[:, None]).sum(axis=1)
    drawn: Index = np.minimum(columns, weights.shape[1] - 1)
    return drawn


def seed_random(
    points: Array,
    n_clusters: int,
    n_init: int,
    rng: np.random.Generator,
    weights: Array | None = None,
) -> Array:
    """Choose the best of `n_init` draws of `n_clusters` different rows.

    With weights, these are how often a row is drawn.

    Returns
    -------
    centers : ndarray of shape (n_clusters, n_dims), the dtype of `points`
    """
    best, lowest = points[:n_clusters], np.inf
    chances = None if weights is None else weights / weights.sum(dtype=np.float64)
    for _ in range(n_init):
        drawn = rng.choice(len(points), n_clusters, replace=False, p=chances)
        centers = points[drawn]
        potential = inertia(points, centers, assign(points, centers), weights)
        if potential < lowest:
            best, lowest = centers, potential
    return best
