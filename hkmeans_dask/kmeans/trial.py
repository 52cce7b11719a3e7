"""Trials of principal axes: small clusters of some points, trained along them.

From the same seeds, some passes are made in all dimensions and along the axes, and the
inertia about the means, in all dimensions, of what was found is compared. What a trial
takes grows with the square of its points: as many are taken as leave it a small part of
training, but where they are few, noise hides small groups.
"""

from __future__ import annotations

from math import isqrt
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hkmeans_dask.kmeans import kernels
from hkmeans_dask.kmeans.axes import ALL_DIMENSIONS, few_axes, means_of
from hkmeans_dask.kmeans.minibatch import State, update
from hkmeans_dask.kmeans.seeding import seed_kmeans_plusplus

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.kernels import Array, Index

GROUPS = 3
"""Groups of points, at most: those of most inertia, of which most can be lost."""

MOST_POINTS = 2048
"""Points of each of them, at most."""

SIZE = 16
"""Points of a cluster, on average."""

PASSES = 3
"""Passes over the points, after one that draws seeds."""

LOSS_OF_FEW, LOSS_OF_MANY, GAIN_OF_FEW = 0.03, 0.005, 0.005
"""By how much more inertia a trial may leave along axes: few that stand out, which save
much, or the many of a flat spectrum. Few of these have to gain, as noise is left out:
those that did not lost with more points."""


class Group(NamedTuple):
    """Points about their mean, and how often each of them counts."""

    points: Array
    weights: Array | None


def axes_by_trial(
    axes: Array,
    points: Array,
    labels: Index,
    squared: Array,
    trained: tuple[int, int],
    seed: int,
    weights: Array | None = None,
) -> Array:
    """Take these axes, or the first few, or none, as a trial tells.

    Parameters
    ----------
    axes : ndarray of shape (n_dims, n_axes)
    points : ndarray of shape (n_points, n_dims)
    labels : ndarray of shape (n_points,)
        The group of each point.
    squared : ndarray of shape (n_points,)
        Its squared distance from the center of its group.
    trained : tuple of int
        Big clusters, and points that will be trained on: the larger, the more points
        are tried.
    seed : int
    weights : ndarray of shape (n_points,), optional
        How often each point counts.

    Returns
    -------
    axes : ndarray of shape (n_dims, n_axes), or `ALL_DIMENSIONS`
    """
    n_big, n_trained = trained
    n_few = few_axes(len(axes), n_big)
    most = min(MOST_POINTS, 2 * isqrt(n_trained * n_big))
    groups = _groups(points, labels, squared, weights, most)
    everywhere = _tried(ALL_DIMENSIONS, groups, seed)
    along = _tried(axes, groups, seed)
    loss = LOSS_OF_FEW if axes.shape[1] <= n_few else LOSS_OF_MANY
    if along > (1 + loss) * everywhere:
        return ALL_DIMENSIONS
    gained = (1 - GAIN_OF_FEW) * everywhere
    if axes.shape[1] <= n_few or along > gained:
        return axes
    few = np.ascontiguousarray(axes[:, :n_few])
    return few if _tried(few, groups, seed) <= gained else axes


def _groups(
    points: Array, labels: Index, squared: Array, weights: Array | None, most: int
) -> list[Group]:
    """Give the first points of the groups of most inertia."""
    energies = np.bincount(labels, squared if weights is None else squared * weights)
    widest = np.argsort(-energies, kind="stable")[:GROUPS]
    groups = []
    for group in widest[energies[widest] > 0]:
        some = np.flatnonzero(labels == group)[:most]
        theirs = None if weights is None else weights[some]
        mean = np.average(points[some], axis=0, weights=theirs)
        groups.append(Group(points[some] - mean.astype(points.dtype), theirs))
    return groups


def _tried(axes: Array, groups: list[Group], seed: int) -> float:
    """Inertia about small clusters of groups that were found along axes."""
    total = 0.0
    for points, weights in groups:
        seeds = _seeds(points, weights, seed)
        labels = _labels(axes, points, weights, seeds)
        centers, _ = means_of(points, labels, len(seeds), weights)
        labels = kernels.assign(points, centers)
        total += kernels.inertia(points, centers, labels, weights)
    return total


def _seeds(points: Array, weights: Array | None, seed: int) -> Array:
    n_clusters = 1 + len(points) // SIZE
    some, rng = slice(2 * n_clusters), np.random.default_rng([seed, 2])
    theirs = None if weights is None else weights[some]
    return seed_kmeans_plusplus(points[some], n_clusters, 1, rng, theirs)


def _labels(axes: Array, points: Array, weights: Array | None, seeds: Array) -> Index:
    """Label points by clusters trained along axes, or in all dimensions."""
    along = bool(axes.size)
    if along:
        points, seeds = (kernels.project(seen, axes) for seen in (points, seeds))
    state = State.start(seeds)
    rough = weights is None
    for _ in range(PASSES):
        state = update(state, points, weights=weights, along=along, rough=rough)
    return state.labels
