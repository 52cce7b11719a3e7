"""Trials of principal axes: clusters of some points, trained along them.

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
from hkmeans_dask.kmeans.axes import ALL_DIMENSIONS, means_of
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

FINER = 4
"""Clusters that are looked for instead of one big one: what is in it has to show."""

PASSES = 3
"""Passes over the points, after one that draws seeds."""

LOSS_OF_FEW, LOSS_OF_MANY, GAIN_OF_FEW = 0.03, 0.005, 0.005
"""By how much more inertia a trial may leave along axes: few that stand out, which save
much, or the many of a flat spectrum. Few of these have to gain, as noise is left out:
those that did not lost with more points."""


class Group(NamedTuple):
    """Points about their mean, on which axes are tried."""

    points: Array
    """(n_points, n_dims)."""

    weights: Array | None
    """(n_points,), how often each of them counts."""

    seeds: Array
    """(n_clusters, n_dims), some of the points, from which clusters are trained."""


def axes_by_trial(axes: Array, n_few: int, groups: list[Group]) -> Array:
    """Take these axes, or the first few, or none, as a trial tells.

    Parameters
    ----------
    axes : ndarray of shape (n_dims, n_axes)
    n_few : int
        More than these are many.
    groups : list of Group
        See `whole` and `groups_of`.

    Returns
    -------
    axes : ndarray of shape (n_dims, n_axes), or `ALL_DIMENSIONS`
    """
    everywhere = _tried(ALL_DIMENSIONS, groups)
    along = _tried(axes, groups)
    loss = LOSS_OF_FEW if axes.shape[1] <= n_few else LOSS_OF_MANY
    if along > (1 + loss) * everywhere:
        return ALL_DIMENSIONS
    gained = (1 - GAIN_OF_FEW) * everywhere
    if axes.shape[1] <= n_few or along > gained:
        return axes
    few = np.ascontiguousarray(axes[:, :n_few])
    return few if _tried(few, groups) <= gained else axes


def whole(
    points: Array, weights: Array | None, n_big: int, n_trained: int, seed: int
) -> Group:
    """Give the first points, about the origin, for `FINER` times the big clusters.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_dims)
    weights : ndarray of shape (n_points,), optional
    n_big, n_trained : int
        Big clusters, and points that will be trained on.
    seed : int

    Returns
    -------
    group : Group
    """
    some = slice(affordable(n_trained, n_big, many=True))
    theirs = None if weights is None else weights[some]
    return _seeded(points[some], theirs, FINER * n_big, seed)


def groups_of(
    points: Array,
    labels: Index,
    squared: Array,
    weights: Array | None,
    most: int,
    seed: int,
) -> list[Group]:
    """Give the first points of the groups of most inertia.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_dims)
    labels : ndarray of shape (n_points,)
        The group of each point.
    squared : ndarray of shape (n_points,)
        Its squared distance from the center of its group.
    weights : ndarray of shape (n_points,), optional
        How often each point counts.
    most : int
        Points of a group: see `affordable`.
    seed : int

    Returns
    -------
    groups : list of Group
    """
    energies = np.bincount(labels, squared if weights is None else squared * weights)
    widest = np.argsort(-energies, kind="stable")[:GROUPS]
    groups = []
    for group in widest[energies[widest] > 0]:
        some = np.flatnonzero(labels == group)[:most]
        theirs = None if weights is None else weights[some]
        mean = np.average(points[some], axis=0, weights=theirs).astype(points.dtype)
        groups.append(_seeded(points[some] - mean, theirs, len(some), seed))
    return groups


def affordable(n_trained: int, n_clusters: int, *, many: bool) -> int:
    """Tell how many points of a group are tried: a trial takes with their square.

    Parameters
    ----------
    n_trained : int
        Points that will be trained on.
    n_clusters : int
        Centers that each of them is compared with.
    many : bool
        Whether axes are many: more points tell then of smaller losses.
    """
    most = isqrt(n_trained * n_clusters)
    return min(MOST_POINTS, 2 * most if many else most)


def _seeded(points: Array, weights: Array | None, n_clusters: int, seed: int) -> Group:
    n_clusters = min(n_clusters, 1 + len(points) // SIZE)
    some, rng = slice(2 * n_clusters), np.random.default_rng([seed, 2])
    theirs = None if weights is None else weights[some]
    seeds = seed_kmeans_plusplus(points[some], n_clusters, 1, rng, theirs)
    return Group(points, weights, seeds)


def _tried(axes: Array, groups: list[Group]) -> float:
    """Inertia about clusters of groups that were found along axes."""
    total = 0.0
    for group in groups:
        points, weights, seeds = group
        centers, _ = means_of(points, _labels(axes, group), len(seeds), weights)
        labels = kernels.assign(points, centers)
        total += kernels.inertia(points, centers, labels, weights)
    return total


def _labels(axes: Array, group: Group) -> Index:
    """Label points by clusters trained along axes, or in all dimensions."""
    points, weights, seeds = group
    along, rough = bool(axes.size), weights is None
    if along:
        points, seeds = (kernels.project(seen, axes) for seen in (points, seeds))
    state = State.start(seeds)
    for _ in range(PASSES):
        state = update(state, points, weights=weights, along=along, rough=rough)
    return state.labels
