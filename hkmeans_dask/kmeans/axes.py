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

Where the spectrum is flat, twice as many axes as clusters may leave out too much: BOLD
with smooth noise had up to 4% more inertia. With all axes above the mean it had from
0.6% less to 0.3% more, and words 1% to 1.5% less, in two thirds of the time. Whether
few do is measured on some rows (see `explain_most`). Big clusters then are trained in
all dimensions, as no small one mends what they do. Where passes over all small clusters
follow, few axes do for a beginning. What no spectrum tells: where noise is along the
axes above the mean and groups are across, 1% to 5% more inertia was left.

References
----------
Ding and He, "K-means clustering via principal component analysis", ICML 2004.
Cohen et al., "Dimensionality reduction for k-means clustering and low rank
approximation", STOC 2015.
Kaiser, "The application of electronic computers to factor analysis", 1960.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

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
"""They are about this fraction of the dimensions, at most, if these are not alike."""

FLAT = 1 / 3
"""Fraction of the dimensions above the mean from which on a spectrum is flat."""

FLATTEST = 0.45
"""The same from which on no axes are taken. Nearly half of the dimensions are above the
mean where all are alike: sparse values had up to 7% more inertia along axes then."""

TRIALS = 4
"""Groups of points, at most, on which axes are tried."""

TRIAL_POINTS = 512
"""Points of each of them, at most."""

TRIAL_SIZE = 100
"""Points of a cluster that is tried, on average."""

TRIAL_TOLERANCE = 3e-2
"""Their training ends where less than this fraction of the inertia is left to gain."""

LEFT_OUT = 1 / 5
"""Share of what clusters explain that may be across the axes they are found along. It
was .08 to .17 of fMRI and of the gradients of images, of which few axes left at most
0.4% more inertia than all, and .26 to .44 of BOLD with smooth noise."""

MOST_DIMS = 1024
"""Dimensions, at most: finding axes takes the third power of them."""

PASSES = 64
"""Passes over the training rows that finding axes may cost, at most: with its seeds
training takes about as many."""

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
    flat: Literal["no", "few", "all"] = "no",
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
    flat : {'no', 'few', 'all'}, default='no'
        Which axes are taken of a flat spectrum: as few as of another one, or all those
        above the mean.

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
    n_axes = _how_many(variances, n_clusters, flat)
    if not n_axes:
        return ALL_DIMENSIONS
    return np.ascontiguousarray(axes[:, ::-1][:, :n_axes], points.dtype)


def _how_many(variances: Array, n_clusters: int, flat: str) -> int:
    """Tell how many axes are taken: with the constant coordinate, a multiple of PAD."""
    n_dims, n_above = len(variances), int(np.sum(variances > variances.mean()))
    is_flat = n_above > FLAT * n_dims
    if not n_above or n_above > FLATTEST * n_dims or (is_flat and flat == "no"):
        return 0
    if is_flat and flat == "all":
        return _padded(1 + n_above) - 1
    return min(few_axes(n_dims, n_clusters), max(FEWEST, _padded(1 + n_above)) - 1)


def few_axes(n_dims: int, n_clusters: int) -> int:
    """Tell how many axes are taken at most, unless the spectrum is flat."""
    few = max(FEWEST, _padded(1 + 2 * n_clusters))
    return min(few, _padded(int(MOST * n_dims))) - 1


def explain_most(
    axes: Array,
    points: Array,
    labels: Index,
    schedule: Schedule,
    rng: np.random.Generator,
    weights: Array | None = None,
) -> bool:
    """Whether clusters found along axes explain little of what is across them.

    Then how points group shows along these axes. Tried on clusters inside some of the
    largest groups of points.

    Parameters
    ----------
    axes : ndarray of shape (n_dims, n_axes)
    points : ndarray of shape (n_points, n_dims)
    labels : ndarray of shape (n_points,)
        The group of each point.
    schedule : Schedule
    rng : numpy.random.Generator
    weights : ndarray of shape (n_points,), optional
        How often each point counts.
    """
    along = everywhere = 0.0
    for group in np.argsort(-np.bincount(labels), kind="stable")[:TRIALS]:
        some = np.flatnonzero(labels == group)[:TRIAL_POINTS]
        theirs = None if weights is None else weights[some]
        seen = points[some]
        seen -= np.average(seen, axis=0, weights=theirs).astype(seen.dtype)
        n_clusters = 1 + len(seen) // TRIAL_SIZE
        how = (n_clusters, schedule._replace(tolerance=TRIAL_TOLERANCE), rng)
        found = _labels_along(axes, seen, *how, weights=theirs)
        sums, counts = _sums(seen, found, n_clusters, theirs)
        explaining = sums / np.sqrt(np.where(counts > 0, counts, 1))[:, None]
        everywhere += float((explaining**2).sum())
        along += float(((explaining @ axes) ** 2).sum())
    return everywhere - along <= LEFT_OUT * everywhere


def most_coordinates(n_dims: int) -> int:
    """Coordinates of points of so many dimensions along axes, at most."""
    return _padded(1 + int(FLATTEST * n_dims))


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
    labels = _labels_along(axes, points, n_clusters, schedule, rng, **how)
    weights = how.get("weights")
    sums, counts = _sums(points, labels, n_clusters, weights)
    means, _ = centers_of(sums, counts, unit=False)
    centers = means.astype(points.dtype)
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


def _sums(
    points: Array, labels: Index, n_clusters: int, weights: Array | None
) -> tuple[Array, Array]:
    """Sum the points of each label, and count them."""
    counts = np.bincount(labels, weights, minlength=n_clusters)
    rough = weights is None
    return sum_by_label(points, labels, n_clusters, weights, rough=rough), counts
