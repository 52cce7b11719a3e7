"""Principal axes: the few directions in which points differ most, where k-means looks.

The centers of k clusters span no more than k - 1 axes, and the principal ones come
close to theirs. Where few axes hold more than their even part of the sum of squares
(Kaiser's rule: those above the mean), points are trained along them alone, which takes
a fraction of the arithmetic, and the centers are the means of the same points in all
dimensions. What is left out is mostly noise: of image windows and of simulated fMRI
(1000 clusters) the inertia was no higher than that of training in all dimensions.
Their coordinates are homogeneous: a constant one lets the matrix product that compares
points with centers add the norms of these, which would take a pass over all scores.

One set of axes serves one level of the hierarchy: those of the points for the big
clusters, and those of the points as seen from their big clusters for all small ones.
No axes are taken where they would not pay, or where training has to end at a fixed
point in all dimensions.

A spectrum does not tell what axes leave out, noise or groups: clusters of some points
are tried along them first, see `trial`. Where it is flat small clusters may take all
axes above the mean, not only few. Big ones are trained in all dimensions then, as no
small one mends what they do. Where passes over all small clusters follow, few axes do
for a beginning.

References
----------
Ding and He, "K-means clustering via principal component analysis", ICML 2004.
Cohen et al., "Dimensionality reduction for k-means clustering and low rank
approximation", STOC 2015.
Kaiser, "The application of electronic computers to factor analysis", 1960.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hkmeans_dask.kmeans import kernels
from hkmeans_dask.kmeans.empty_clusters import settle
from hkmeans_dask.kmeans.minibatch import descend, train
from hkmeans_dask.kmeans.sums import centers_of, sum_by_label

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.kernels import Array, Index
    from hkmeans_dask.kmeans.minibatch import Schedule

ALL_DIMENSIONS = np.empty((0, 0))
"""No axes: points are trained in all dimensions."""

AXES_ROWS = 4096
"""Points whose principal axes are taken; there are none for fewer."""

FEWEST = 32
"""Coordinates along axes, with the constant one, at least: fewer save no time."""

PAD = 8
"""They are a multiple of this: others take BLAS more time than the next one."""

MOST = 1 / 4
"""They are about this fraction of all dimensions, at most; not of a flat spectrum."""

FLAT = 1 / 3
"""Fraction of the dimensions above the mean from which on a spectrum is flat."""

FLATTEST = 0.45
"""The same from which on no axes are taken. Nearly half of the dimensions are above the
mean where all are alike; with more, sparse values had up to 7% more inertia."""

ALONG_BYTES = 2**25
"""Bytes of coordinates along more than `MOST` of the dimensions, at most: where there
are many points they get fewer, as they take memory as well."""

MOST_DIMS = 1024
"""Dimensions, at most: finding axes takes the third power of them."""

PASSES = 24
"""Passes over the training rows that finding axes may cost, at most. With its seeds
training takes about 70, and a trial may take as long as finding axes."""

DECOMPOSITION = 20
"""Operations of an eigenvalue decomposition, over the third power of dimensions."""


def may_help(n_trained: int, n_dims: int, n_clusters: int) -> bool:
    """Whether finding axes takes less time than they may save.

    Parameters
    ----------
    n_trained : int
        Points that are trained on.
    n_dims : int
    n_clusters : int
        Centers that each of them is compared with.
    """
    enough = n_trained >= AXES_ROWS and FEWEST <= MOST * n_dims
    cost = n_dims * (AXES_ROWS + DECOMPOSITION * n_dims)
    return bool(
        enough and n_dims <= MOST_DIMS and cost <= PASSES * n_trained * n_clusters
    )


def pays(points: Array, n_clusters: int, n_trained: int, schedule: Schedule) -> bool:
    """Whether axes of such points may be taken; see `principal_axes`."""
    everywhere = schedule.unit or schedule.max_no_improvement is None
    enough = len(points) >= AXES_ROWS
    helps = may_help(n_trained, points.shape[1], n_clusters)
    return bool(enough and helps and not everywhere)


def principal_axes(
    points: Array,
    n_clusters: int,
    n_trained: int,
    schedule: Schedule,
    weights: Array | None = None,
    *,
    flattest: float = FLAT,
    all_if_flat: bool = False,
) -> Array:
    """Find the axes along which points like these are trained.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_dims), float32 or float64
        About their mean, or their centers; the first `AXES_ROWS` count.
    n_clusters : int
        Centers that a point is compared with: twice as many axes, at most.
    n_trained : int
        Points that will be trained on.
    schedule : Schedule
    weights : ndarray of shape (n_points,), optional
        How often each point counts.
    flattest : float, default=`FLAT`
        Fraction of the dimensions above the mean from which on no axes are taken.
    all_if_flat : bool, default=False
        Whether all those above the mean are taken of a flat spectrum.

    Returns
    -------
    axes : ndarray of shape (n_dims, n_axes), the dtype of `points`
        Orthonormal, of decreasing variance; or `ALL_DIMENSIONS`.

    Notes
    -----
    Memory: five (n_dims, n_dims) arrays of float64, and with weights a copy of the
    points that count.
    """
    if not pays(points, n_clusters, n_trained, schedule):
        return ALL_DIMENSIONS
    some = points[:AXES_ROWS]
    if weights is not None:
        some = some * np.sqrt(weights[:AXES_ROWS, None])
    scatter = np.dot(some.T, some).astype(np.float64)
    if not np.isfinite(scatter).all():
        return ALL_DIMENSIONS
    variances, axes = np.linalg.eigh(scatter)
    n_axes = _how_many(variances, n_clusters, flattest, all_if_flat)
    if not n_axes:
        return ALL_DIMENSIONS
    return np.ascontiguousarray(axes[:, ::-1][:, :n_axes], points.dtype)


def _how_many(
    variances: Array, n_clusters: int, flattest: float, all_if_flat: bool
) -> int:
    """Tell how many axes are taken: with the constant coordinate, a multiple of PAD."""
    n_dims, n_above = len(variances), int(np.sum(variances > variances.mean()))
    if not 0 < n_above <= flattest * n_dims:
        return 0
    if all_if_flat and n_above > FLAT * n_dims:
        return _padded(1 + n_above) - 1
    return min(few_axes(n_dims, n_clusters), max(FEWEST, _padded(1 + n_above)) - 1)


def few_axes(n_dims: int, n_clusters: int) -> int:
    """Tell how many axes are taken at most, unless the spectrum is flat."""
    few = max(FEWEST, _padded(1 + 2 * n_clusters))
    return min(few, _padded(int(MOST * n_dims))) - 1


def most_coordinates(n_dims: int, n_points: int, itemsize: int) -> int:
    """Coordinates along axes, at most, of so many points of so many dimensions."""
    fitting = ALONG_BYTES // (max(1, n_points) * itemsize) // PAD * PAD
    every = _padded(1 + int(FLATTEST * n_dims))
    return max(_padded(int(MOST * n_dims)), min(every, fitting))


def _padded(n_coordinates: int) -> int:
    return -(-n_coordinates // PAD) * PAD


def train_along(
    axes: Array,
    points: Array,
    n_clusters: int,
    schedule: Schedule,
    rng: np.random.Generator,
    **how: Any,
) -> Array:
    """Train along axes, or in all dimensions.

    Parameters
    ----------
    axes : ndarray of shape (n_dims, n_axes), or `ALL_DIMENSIONS`
    points : ndarray of shape (n_points, n_dims)
    n_clusters, schedule, rng, **how
        As `minibatch.train` takes them; no seeds where there are axes.

    Returns
    -------
    centers : ndarray of shape (n_clusters, n_dims), the dtype of `points`
        Means, in all dimensions, of the clusters found along the axes. As from
        `train`, each is the nearest of some point, if there are enough.

    Notes
    -----
    What `watch` is given is the inertia along the axes, less than that of all. Where
    centers are left without points, as where these are equal along the axes, training
    goes on in all dimensions. Memory: the points along the axes, until these have
    labels.
    """
    if not axes.size:
        return train(points, n_clusters, schedule, rng, **how)
    most = most_coordinates(len(axes), len(points), points.itemsize) - 1
    axes = np.ascontiguousarray(axes[:, :most])
    labels = _labels_along(axes, points, n_clusters, schedule, rng, **how)
    centers, counts = means_of(points, labels, n_clusters, how.get("weights"))
    if counts.all():
        return settle(points, centers, labels)
    return train(points, n_clusters, schedule, rng, **how | {"seeds": centers})


def _labels_along(
    axes: Array,
    points: Array,
    n_clusters: int,
    schedule: Schedule,
    rng: np.random.Generator,
    **how: Any,
) -> Index:
    """Label each point with its cluster along the axes."""
    assert how.get("seeds") is None, "seeds have all dimensions"
    seen = kernels.project(points, axes)
    along = schedule._replace(along=True)
    state = descend(seen, n_clusters, along, rng, **how)
    if state.counts.all():
        return state.labels
    centers = settle(seen, state.centers, state.labels)
    return kernels.assign(seen, centers, homogeneous=True)


def means_of(
    points: Array, labels: Index, n_clusters: int, weights: Array | None
) -> tuple[Array, Array]:
    """Means of the points of each cluster, and their counts; zeros where none are."""
    counts = np.bincount(labels, weights, minlength=n_clusters)
    rough = weights is None
    sums = sum_by_label(points, labels, n_clusters, weights, rough=rough)
    means, _ = centers_of(sums, counts, unit=False)
    return means.astype(points.dtype), counts
