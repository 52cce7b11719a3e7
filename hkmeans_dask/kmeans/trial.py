"""Trials of principal axes: clusters of some points, trained along them.

Some passes are made in all dimensions and along the axes, and the inertia about the
means, in all dimensions, of what was found is compared. Where axes are few, seeds are
drawn along them as well, as training does. Many are taken only where next to nothing is
lost: there the same seeds tell more. What a trial takes grows with the square of its
points: as many are taken as leave it a part of training, but where they are few, noise
hides small groups.
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

GROUPS = 2
"""Groups of points, at most: those of most inertia, of which most can be lost."""

FEW_POINTS, MOST_POINTS = 512, 2048
"""Points of each of them, at most: the more, the more training takes."""

SIZE = 16
"""Points of a cluster, on average."""

FINER = 4
"""Clusters that are looked for instead of one big one: what is in it has to show."""

LEAST_POINTS = 2 * SIZE
"""Points of each group, at least: fewer have no clusters to tell apart."""

CANDIDATES = 3
"""Candidates for each seed, where few axes are tried."""

PASSES = 3
"""Passes over the points, after those that draw seeds."""

LOSS_OF_FEW, LOSS_OF_MANY, GAIN_OF_FEW = 0.03, 0.005, 0.005
"""By how much more inertia a trial may leave along axes: few that stand out, which save
much, or the many of a flat spectrum. Few of these have to gain, as noise is left out:
those that did not lost with more points."""


class Group(NamedTuple):
    """What axes are tried on."""

    points: Array
    """(n_points, n_dims), about their mean or near it."""

    weights: Array | None
    """(n_points,), how often each of them counts."""

    n_clusters: int
    """Clusters that are looked for."""


def axes_by_trial(axes: Array, n_few: int, groups: list[Group], seed: int) -> Array:
    """Take these axes, or the first few, or none, as a trial tells.

    Parameters
    ----------
    axes : ndarray of shape (n_dims, n_axes)
    n_few : int
        More than these are many.
    groups : list of Group
        See `whole` and `groups_of`.
    seed : int

    Returns
    -------
    axes : ndarray of shape (n_dims, n_axes), or `ALL_DIMENSIONS`
    """
    many = axes.shape[1] > n_few
    how = (groups, seed, many)
    everywhere, along = _tried(ALL_DIMENSIONS, *how), _tried(axes, *how)
    if along > (1 + (LOSS_OF_MANY if many else LOSS_OF_FEW)) * everywhere:
        return ALL_DIMENSIONS
    gained = (1 - GAIN_OF_FEW) * everywhere
    if not many or along > gained:
        return axes
    few = np.ascontiguousarray(axes[:, :n_few])
    return few if _tried(few, *how) <= gained else axes


def whole(points: Array, weights: Array | None, n_clusters: int, most: int) -> Group:
    """Give the first points, which are about the origin, as a group."""
    some = slice(most)
    theirs = None if weights is None else weights[some]
    return _group(points[some], theirs, n_clusters)


def groups_of(
    points: Array,
    labels: Index,
    squared: Array,
    weights: Array | None,
    most: int,
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

    Returns
    -------
    groups : list of Group
    """
    energies = np.bincount(labels, squared if weights is None else squared * weights)
    energies[np.bincount(labels) < LEAST_POINTS] = 0
    widest = np.argsort(-energies, kind="stable")[:GROUPS]
    groups = []
    for group in widest[energies[widest] > 0]:
        some = np.flatnonzero(labels == group)[:most]
        theirs = None if weights is None else weights[some]
        mean = np.average(points[some], axis=0, weights=theirs).astype(points.dtype)
        groups.append(_group(points[some] - mean, theirs, len(some)))
    return groups


def affordable(n_trained: int, n_clusters: int, *, thorough: bool) -> int:
    """Tell how many points of a group are tried: a trial takes with their square.

    Parameters
    ----------
    n_trained : int
        Points that will be trained on.
    n_clusters : int
        Centers that each of them is compared with.
    thorough : bool
        Whether twice as many are tried, that smaller losses and groups show.
    """
    most = isqrt(n_trained * n_clusters)
    return min(MOST_POINTS, max(FEW_POINTS, 2 * most if thorough else most))


def _group(points: Array, weights: Array | None, n_clusters: int) -> Group:
    return Group(points, weights, min(n_clusters, 1 + len(points) // SIZE))


def _tried(axes: Array, groups: list[Group], seed: int, alike: bool) -> float:
    """Inertia about clusters of groups that were found along axes."""
    total, rng = 0.0, np.random.default_rng([seed, 2])
    for group in groups:
        points, weights, n_clusters = group
        labels = _labels(axes, group, rng, alike)
        centers, _ = means_of(points, labels, n_clusters, weights)
        labels = kernels.assign(points, centers)
        total += kernels.inertia(points, centers, labels, weights)
    return total


def _labels(axes: Array, group: Group, rng: np.random.Generator, alike: bool) -> Index:
    """Label points by clusters trained along axes, or in all dimensions.

    Seeds are those of all dimensions if they are to be alike; as training draws them
    they may miss what does not show along the axes.
    """
    points, weights, n_clusters = group
    along, rough = bool(axes.size), weights is None
    seen = kernels.project(points, axes) if along else points
    if alike:
        some = slice(2 * n_clusters)
        theirs = None if weights is None else weights[some]
        seeds = seed_kmeans_plusplus(points[some], n_clusters, 1, rng, theirs)
        seeds = kernels.project(seeds, axes) if along else seeds
    else:
        how = (n_clusters, CANDIDATES, rng, weights)
        seeds = seed_kmeans_plusplus(seen, *how)
    state = State.start(seeds)
    for _ in range(PASSES):
        state = update(state, seen, weights=weights, along=along, rough=rough)
    return state.labels
