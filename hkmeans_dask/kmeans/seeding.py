"""Initial centers: k-means++ and random draws, several candidates at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hkmeans_dask.kmeans.kernels import TILE_BYTES, assign, inertia

if TYPE_CHECKING:
    from collections.abc import Callable

    from hkmeans_dask.kmeans.kernels import Array, Index

MOST_AMONG = 4096
"""Points among which all distances are held at once, at most (64 MB of float32)."""

RUN = 50
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
    Memory: up to three copies of the points where they are small (`TILE_BYTES`), and
    a few (n_init, n_points) arrays.
    """
    chosen = np.empty((n_clusters, n_init), np.int64)
    n_runs = -(-len(points) // RUN)
    potential = np.full((n_init, n_runs * RUN), np.inf, points.dtype)
    distances = _distances_among(points, n_clusters * n_init, weights)
    draws = rng.random((n_clusters, 2, n_init))
    for step in range(n_clusters):
        if step:
            chosen[step] = _draw(potential, draws[step])
        elif weights is None:
            chosen[step] = (draws[step, 0] * len(points)).astype(np.int64)
        else:
            alike = np.zeros_like(potential)
            alike[:, : len(points)] = weights
            chosen[step] = _draw(alike, draws[step])
        np.minimum(potential, distances(chosen[step]), out=potential)
    best = potential.sum(axis=1, dtype=np.float64).argmin()
    return points[chosen[:, best]]


def _distances_among(
    points: Array, n_drawn: int, weights: Array | None
) -> Callable[[Index], Array]:
    """Return a function that gives squared distances of points `picked` to all.

    They are multiplied by the weights of the latter, if there are any, and zeros follow
    up to a whole `RUN`. One product gives them: norms are two more dimensions,
    ``(y, 1, |y|^2) . (-2 x, |x|^2, 1)``. Where about as many will be drawn as there are
    points, one product of all with all is faster than many small ones. Points of more
    than `TILE_BYTES` are not copied.
    """
    norms = np.einsum("ij,ij->i", points, points)
    n_points, small = len(points), points.nbytes <= TILE_BYTES
    n_columns = -(-n_points // RUN) * RUN
    columns = _columns(points, norms, n_columns) if small else None
    ones = np.ones(n_points, points.dtype)
    rows = np.column_stack([points, ones, norms]) if small else points

    def squared(picked: Index) -> Array:
        if columns is None:
            found = np.zeros((len(picked), n_columns), points.dtype)
            np.multiply(np.dot(points[picked], points.T), -2, out=found[:, :n_points])
            found[:, :n_points] += norms
            found[:, :n_points] += norms[picked, None]
        else:
            found = np.dot(rows[picked], columns)
        np.maximum(found, 0, out=found)
        found[np.arange(len(picked)), picked] = 0
        if weights is not None:
            found[:, :n_points] *= weights
        return found

    if n_drawn < n_points or n_points > MOST_AMONG or not small:
        return squared
    return squared(np.arange(n_points)).__getitem__


def _columns(points: Array, norms: Array, n_columns: int) -> Array:
    """Points as columns ``(-2 x, |x|^2, 1)``, then zeros."""
    n_points, n_dims = points.shape
    columns = np.zeros((n_dims + 2, n_columns), points.dtype)
    np.multiply(points.T, -2, out=columns[:n_dims, :n_points])
    columns[n_dims, :n_points] = norms
    columns[n_dims + 1, :n_points] = 1
    return columns


def _draw(weights: Array, draws: Array) -> Index:
    """Draw one column index per row of `weights`, proportionally to the weights.

    First a run of columns is drawn, then a column in it: to add up the values of runs
    is faster than to cumulate all. In a row of zeros that is the first column.

    Parameters
    ----------
    weights : ndarray of shape (n_rows, n_runs * RUN)
    draws : ndarray of shape (2, n_rows), float64
        Uniform in [0, 1), for the runs and for the columns in them.
    """
    runs = weights.reshape(len(weights), -1, RUN)
    sums = np.dot(weights.reshape(-1, RUN), np.ones(RUN, weights.dtype))
    chosen = _first_above(sums.reshape(runs.shape[:2]), draws[0])
    rows = np.arange(len(weights))
    return chosen * RUN + _first_above(runs[rows, chosen], draws[1])


def _first_above(weights: Array, draws: Array) -> Index:
    """First column of each row up to which more than a share `draws` of it lies."""
    cumulated = weights.cumsum(axis=1, dtype=np.float64)
    shares = draws * cumulated[:, -1]
    found: Index = (cumulated > shares[:, None]).argmax(axis=1)
    return found


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
