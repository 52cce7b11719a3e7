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

PAD_ROWS = 4
"""The height of a product with candidates is a multiple of this, unless there is one
alone: others are slow."""


def seed_kmeans_plusplus(
    points: Array,
    n_clusters: int,
    n_init: int,
    rng: np.random.Generator,
    weights: Array | None = None,
) -> Array:
    """Choose initial centers by greedy k-means++.

    At each step `n_init` candidates are drawn, as k-means++ draws one, and the one that
    leaves the lowest potential becomes a center. That takes what `n_init` runs of plain
    k-means++ would take, and where groups lie apart leaves less than the best of these:
    in each of them some group gets no center, or two.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_dims)
    n_clusters : int
    n_init : int
        Candidates for each center; with 1 this is plain k-means++.
    rng : numpy.random.Generator
    weights : ndarray of shape (n_points,), optional
        All positive: how often each point counts.

    Returns
    -------
    centers : ndarray of shape (n_clusters, n_dims), the dtype of `points`
        Rows of `points`; equal ones only where distinct points ran out.

    References
    ----------
    Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding", 2007: also
    the greedy one.

    Notes
    -----
    Memory: up to three copies of the points where they are small (`TILE_BYTES`), and
    a few (n_init, n_points) arrays.
    """
    n_columns = -(-len(points) // RUN) * RUN
    chances = np.zeros((1, n_columns), points.dtype)
    chances[:, : len(points)] = 1 if weights is None else weights
    sums, potential = _run_sums(chances), np.full(n_columns, np.inf, points.dtype)
    distances = _distances_among(points, n_clusters * n_init, weights)
    chosen = np.empty(n_clusters, np.int64)
    for step, draws in enumerate(rng.random((n_clusters, 2, n_init))):
        candidates = _draw(chances[0], sums[0], draws)
        chances = np.minimum(potential, distances(candidates))
        sums = _run_sums(chances)
        best = sums.sum(axis=1, dtype=np.float64).argmin(keepdims=True)
        chosen[step] = candidates[best[0]]
        chances, sums = chances[best], sums[best]
        potential = chances[0]
    return points[chosen]


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
            height = -(-len(picked) // PAD_ROWS) * PAD_ROWS if len(picked) > 1 else 1
            taken = np.zeros((height, rows.shape[1]), rows.dtype)
            taken[: len(picked)] = rows[picked]
            found = np.dot(taken, columns)[: len(picked)]
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


def _run_sums(values: Array) -> Array:
    """Add up runs of columns; much faster than to cumulate them all."""
    sums = np.dot(values.reshape(-1, RUN), np.ones(RUN, values.dtype))
    return sums.reshape(len(values), -1)


def _draw(weights: Array, sums: Array, draws: Array) -> Index:
    """Draw indices proportionally to the weights: first a run, then an index in it.

    Where all weights are zeros that is the first one.

    Parameters
    ----------
    weights : ndarray of shape (n_runs * RUN,)
    sums : ndarray of shape (n_runs,)
        Of the runs.
    draws : ndarray of shape (2, n_draws), float64
        Uniform in [0, 1), for the runs and for the indices in them.
    """
    chosen = _first_above(sums[None], draws[0])
    return chosen * RUN + _first_above(weights.reshape(-1, RUN)[chosen], draws[1])


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
