"""A step of Lloyd's algorithm in parts: what features say of centers, and the moves.

Every part keeps sums for the clusters present in it, and the features farthest from
their centers, each of another cluster; parts are merged in their order, in float64. A
center without features (of a weight above 0, if they have weights) moves to one of the
far ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hkmeans_dask.kmeans import kernels
from hkmeans_dask.kmeans.hierarchy import EXCLUDED
from hkmeans_dask.kmeans.sums import centers_of, sum_by_label

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.kernels import Array, Index

FARTHEST = 64
"""Features kept for centers without any, at most."""

MANY_CLUSTERS = 64
"""So many times as many clusters as features are not looked through one by one."""


class Far(NamedTuple):
    """Features far from their centers, the farthest first, each of another cluster."""

    squared: Array
    """(n_far,), squared distances."""

    clusters: Index
    """(n_far,)."""

    rows: Array
    """(n_far, n_samples)."""

    def none(self) -> Far:
        """Give none of them."""
        return Far(*(values[:0] for values in self))


class Partial(NamedTuple):
    """What some features say about the centers."""

    clusters: Index
    """(n_present,), ascending: the clusters that these features have."""

    counts: Array
    """(n_present,), features, or sums of their weights."""

    sums: Array
    """(n_present, n_samples), float64."""

    inertia: float
    far: Far


class Outcome(NamedTuple):
    """What a pass came to."""

    inertia: float
    """Before it."""

    gain: float
    """What moving the centers took from that."""

    empty: int
    """Clusters without features."""

    seeded: int
    """Of these, how many moved to a feature."""


def say(points: Array, labels: Index, centers: Array, weights: Array | None) -> Partial:
    """Tell what points with labels say about the centers."""
    squared = kernels.squared_distances(points, centers, labels)
    squared[labels == EXCLUDED] = 0  # no center may move there
    clusters, local = _present(labels, len(centers))
    sums = sum_by_label(points, local, len(clusters), weights)
    inertia = kernels.weighted_sum(squared, weights)
    counts = np.bincount(local, weights)
    if weights is not None:
        squared[weights == 0] = 0  # no center may move there
    first = int(np.searchsorted(clusters, 0))  # 1 where features are left out
    found = clusters[first:], counts[first:], sums[first:]
    return Partial(*found, inertia, _far(squared, clusters, local, points))


def _present(labels: Index, n_clusters: int) -> tuple[Index, Index]:
    """Give the labels that there are, ascending, and of each point where its one is."""
    if len(labels) < n_clusters // MANY_CLUSTERS:
        return np.unique(labels, return_inverse=True)
    there = np.zeros(n_clusters - EXCLUDED, bool)
    there[labels - EXCLUDED] = True
    places = np.cumsum(there) - 1
    return np.flatnonzero(there) + EXCLUDED, places[labels - EXCLUDED]


def _far(squared: Array, clusters: Index, local: Index, rows: Array) -> Far:
    """Keep the farthest feature of each cluster, and the farthest of these.

    Features know their clusters by where these are in `clusters`.
    """
    farthest = np.zeros(len(clusters), squared.dtype)
    np.maximum.at(farthest, local, squared)
    order = np.flatnonzero(squared == farthest[local])
    order = order[np.argsort(-squared[order], kind="stable")]
    _, first = np.unique(local[order], return_index=True)
    kept = order[np.sort(first)[:FARTHEST]]
    return Far(squared[kept], clusters[local[kept]], rows[kept])


def merge(partials: list[Partial]) -> Partial:
    """Add up in the order of the features."""
    clusters = np.unique(np.concatenate([part.clusters for part in partials]))
    counts = np.zeros(len(clusters))
    sums = np.zeros((len(clusters), partials[0].sums.shape[1]))
    for part in partials:
        present = np.searchsorted(clusters, part.clusters)
        counts[present] += part.counts
        sums[present] += part.sums
    inertia = sum(part.inertia for part in partials)
    fars = zip(*(part.far for part in partials), strict=True)
    squared, of, rows = (np.concatenate(values) for values in fars)
    far = _far(squared, *np.unique(of, return_inverse=True), rows)
    return Partial(clusters, counts, sums, inertia, far)


def to_means(found: Partial, centers: Array, unit: bool) -> tuple[Array, Outcome]:
    """Move centers to the means of their features, and those without to far ones."""
    moved = centers.copy()
    means, mass = centers_of(found.sums, found.counts, unit)
    filled = mass > 0
    moved[found.clusters[filled]] = means[filled]
    steps = (moved - centers)[found.clusters].astype(np.float64)
    gain = mass @ np.einsum("ij,ij->i", steps, steps)
    empty = np.setdiff1d(np.arange(len(moved)), found.clusters[found.counts > 0])
    seeds = found.far.rows[found.far.squared > 0][: len(empty)]
    moved[empty[: len(seeds)]] = seeds
    return moved, Outcome(found.inertia, gain, len(empty), len(seeds))
