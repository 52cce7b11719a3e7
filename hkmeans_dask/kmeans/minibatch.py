"""Mini-batch k-means of one set of points: pure updates on growing batches.

Both levels of the hierarchy train with this, the coarse one on rows of all features,
the fine one inside each big cluster. The points come in random (rank) order, so every
prefix is a fair sample. Batches are nested: each holds the last one and as many new
points, until a batch is all the points and stays so::

    seed on two batches -> update(first batch) -> update(2 x) -> ... -> update(all) ...

`update` is a pure function ``(state, batch) -> state``, so a task that runs the chain
may be retried or run twice. An update moves centers to the means of their points, as
in nested mini-batch k-means; no older batch is forgotten, the newer one contains it.

Full passes have momentum (Nesterov): a center goes on from its mean by ``MOMENTUM`` of
the way from its mean before, but for the first pass, which comes from seeds. Where that
does not lower the inertia the next pass starts from the best means themselves
(O'Donoghue and Candes), so the chain still ends at a fixed point of plain k-means.

Gains of passes fall like a geometric series: two tell what is left to gain, after one
it is taken that they halve. Training ends when that is little: on features of many
equal directions (words, calcium imaging, noisy fMRI) passes gain little, but many do.

The first batch is never below ``FIRST_BATCH``: on image patches growing from a quarter
of a partition's 8000 points left more inertia, and saved no time.

Long points without weights are added up in their own dtype, which takes a third to two
thirds of the time, unless they are so far from the origin that the inertia would be
lost, what squared norms and sums differ by. What `train` returns is of float64 sums.

References
----------
Newling and Fleuret, "Nested mini-batch k-means", NeurIPS 2016.
Nesterov, "A method for ... convex programming ... with rate O(1/k^2)", 1983.
O'Donoghue and Candes, "Adaptive restart for accelerated gradient schemes", 2015.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hkmeans_dask.kmeans import kernels, seeding
from hkmeans_dask.kmeans.empty_clusters import occupy, refill, settle
from hkmeans_dask.kmeans.sums import centers_of, sum_by_label

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from hkmeans_dask.kmeans.kernels import Array, Index

FIRST_BATCH = 2**15
"""Points in the first batch, at least."""

MAX_PASSES = 100
"""Full passes over the points, at most (scikit-learn's ``max_iter``)."""

LEAST_BATCHES = 10
"""A full pass counts as so many batches, at least: with a patience of ten one idle pass
is enough. A second took up to 10% of a fit's time for .1 to .4% of the inertia."""

TOLERANCE = 3e-3
"""Of small clusters."""

SLOWEST = 0.9
"""The gain of a pass over that of the one before is taken to be no more than this."""

MOMENTUM = 0.8
"""Of the way from the means before, by which centers go on from their means."""

FEW_MOVED = 8
"""Sums are mended where less than one in so many points has moved."""

WIDE = 1e-2
"""Points may be added up roughly where inertia is more of their energy than this."""

ROUGH_DIMS, ROUGH_CLUSTERS = 64, 4
"""It is no faster with fewer dimensions, or more clusters than so many times these."""


class Schedule(NamedTuple):
    """How to train; the estimator's parameters of the same names."""

    init: str
    batch_size: int
    n_init: int
    max_no_improvement: int | None
    unit: bool = False
    """Whether points and centers have unit length (spherical k-means)."""
    weighted: bool = False
    """Whether points have weights: how often each counts."""
    along: bool = False
    """Whether points are coordinates along axes, from `kernels.project`."""
    tolerance: float = TOLERANCE
    """A pass is idle where less than this fraction of the inertia is left to gain."""
    balance: float = 0.0
    """How even the sizes are made when centers are trained: see `balance.balanced`."""


class State(NamedTuple):
    """What an update hands to the next one."""

    centers: Array
    """(n_clusters, n_dims), the dtype of the points."""

    counts: Array
    """(n_clusters,), the points of the last batch in each cluster, or their weights."""

    explained: float
    """Sum of squared norms of the last batch minus its inertia about the centers."""

    labels: Index
    """(n_points,), of the last batch, by the centers before the last update."""

    sums: Array
    """(n_clusters, n_dims), float64, of the points of the last batch by label."""

    rough: bool = False
    """Whether these were added up in the dtype of the points, tile after tile."""

    @classmethod
    def start(cls, centers: Array) -> State:
        """Begin with initial centers, before any batch."""
        counts, labels = np.zeros(len(centers), np.int64), np.empty(0, np.int64)
        return cls(centers, counts, 0.0, labels, np.zeros(centers.shape))


def train(
    points: Array,
    n_clusters: int,
    schedule: Schedule,
    rng: np.random.Generator,
    seeds: Array | None = None,
    **how: Any,
) -> Array:
    """Cluster `points` into exactly `n_clusters` clusters, none of them empty.

    Returns
    -------
    centers : ndarray of shape (n_clusters, n_dims), the dtype of `points`

    See Also
    --------
    descend : takes the same parameters.
    """
    state = descend(points, n_clusters, schedule, rng, seeds, **how)
    centers = _means(points, state, schedule.unit) if state.rough else state.centers
    return settle(points, centers, state.labels)


def _means(points: Array, state: State, unit: bool) -> Array:
    """Give the centers of a state, means of what passes added up roughly, anew."""
    sums = sum_by_label(points, state.labels, len(state.centers))
    return _moved(state.centers, sums, state.counts, unit)[0]


def _moved(
    centers: Array, sums: Array, counts: Array, unit: bool
) -> tuple[Array, Array, Array]:
    """Centers where the sums say, and these in float64 with their weights."""
    means, mass = centers_of(sums, counts, unit)
    moved = centers.copy()
    np.copyto(moved, means, "same_kind", where=mass[:, None] > 0)
    return moved, means, mass


def descend(
    points: Array,
    n_clusters: int,
    schedule: Schedule,
    rng: np.random.Generator,
    seeds: Array | None = None,
    spread: float = 0.0,
    weights: Array | None = None,
    watch: Callable[[float], None] | None = None,
) -> State:
    """Seed, and update until that lowers the inertia no more.

    Parameters
    ----------
    points : ndarray of shape (n_points, n_dims), float32 or float64
        In random order, with at least `n_clusters` distinct rows (with fewer, some
        centers are equal and the later ones get no point).
    n_clusters : int
    schedule : Schedule
    rng : numpy.random.Generator
    seeds : ndarray of shape (n_seeds, n_dims), optional
        Initial centers; those missing are put on the points farthest from the others,
        those beyond `n_clusters` are left out.
    spread : float, default=0
        What counts as an improvement is measured against this mean squared distance
        of a point, if it is not 0, instead of against that of these points.
    weights : ndarray of shape (n_points,), the dtype of `points`, optional
        All positive: how often each point counts.
    watch : callable, optional
        Given the mean inertia of each batch (its new means explain the rest).

    Returns
    -------
    state : State
        Of lowest inertia on all points. Its centers are the means of its labels, or
        points where there are none.
    """
    if seeds is None:
        centers = _seed(points, n_clusters, schedule, rng, weights)
    else:
        centers = np.resize(seeds[:n_clusters], (n_clusters, points.shape[1]))
        centers = occupy(points, centers)
    state = State.start(centers)
    for size in _growing_sizes(schedule.batch_size, len(points)):
        first = _first(weights, size)
        how = (first, schedule.along, schedule.along and weights is None)
        state = update(state, points[:size], schedule.unit, *how)
        if watch:
            told = _energy(points[:size], first) - state.explained
            watch(told / _total(points[:size], first))
    yardstick = spread * _total(points, weights)
    return _full_passes(state, points, schedule, yardstick, weights, watch)


def _first(weights: Array | None, size: int) -> Array | None:
    return None if weights is None else weights[:size]


def _total(points: Array, weights: Array | None) -> float:
    """Count the points, each as often as its weight says."""
    return len(points) if weights is None else float(weights.sum(dtype=np.float64))


def _seed(
    points: Array,
    n_clusters: int,
    schedule: Schedule,
    rng: np.random.Generator,
    weights: Array | None,
) -> Array:
    """Seed on a prefix of two batches, or of two points per cluster if more."""
    size = 2 * max(schedule.batch_size, n_clusters)
    seed = (
        seeding.seed_random
        if schedule.init == "random"
        else seeding.seed_kmeans_plusplus
    )
    n_init, prefix = schedule.n_init, points[:size]
    return seed(prefix, n_clusters, n_init, rng, _first(weights, size))


def _growing_sizes(batch_size: int, n_points: int) -> Iterator[int]:
    """Sizes of the batches before the first that holds all points."""
    size = max(batch_size, FIRST_BATCH)
    while size < n_points:
        yield size
        size *= 2


def most_batches(schedule: Schedule, n_points: int) -> int:
    """Tell how many batches `train` takes, at most."""
    return len(list(_growing_sizes(schedule.batch_size, n_points))) + MAX_PASSES


def _energy(points: Array, weights: Array | None) -> float:
    """Sum of squared norms, times weights."""
    return kernels.weighted_sum(np.einsum("ij,ij->i", points, points), weights)


def update(
    state: State,
    batch: Array,
    unit: bool = False,
    weights: Array | None = None,
    along: bool = False,
    rough: bool = False,
) -> State:
    """Move each center to the mean of the points of `batch` nearest to it.

    A center without points stays. What the new means explain follows from the sums,
    without a second look at the points.

    Parameters
    ----------
    state : State
    batch : ndarray of shape (n_points, n_dims), the dtype of the centers
    unit : bool, default=False
        Whether means are scaled to unit length.
    weights : ndarray of shape (n_points,), optional
        How often each point counts.
    along : bool, default=False
        See `Schedule`.
    rough : bool, default=False
        Whether points are added up in their own dtype, tile after tile.

    Returns
    -------
    state : State
        A new one; nothing is changed in place.
    """
    n_clusters = len(state.centers)
    labels = kernels.assign(batch, state.centers, homogeneous=along)
    sums = _sums(state, batch, labels, weights, rough)
    counts = np.bincount(labels, weights, minlength=n_clusters)
    centers, means, mass = _moved(state.centers, sums, counts, unit)
    explained = float(np.einsum("ij,ij->i", means, means) @ mass)
    if unit:
        explained += float(mass.sum()) - _total(batch, weights)
    return State(centers, counts, explained, labels, sums, rough)


def _sums(
    state: State, batch: Array, labels: Index, weights: Array | None, rough: bool
) -> Array:
    """Sum the batch by label; of the same batch again, only what has changed."""
    n_clusters = len(state.centers)
    if len(labels) == len(state.labels) and rough == state.rough:
        moved = np.flatnonzero(labels != state.labels)
        if len(moved) * FEW_MOVED < len(labels):
            theirs = None if weights is None else weights[moved]
            what = (batch[moved], labels[moved], n_clusters, theirs)
            before = state.labels[moved]
            return state.sums + sum_by_label(*what, before, rough)
    what = (batch, labels, n_clusters, weights)
    return sum_by_label(*what, rough=rough)


def left_to_gain(gain: float, last: float) -> float:
    """Expect what further passes gain, as their gains fall like a geometric series.

    Parameters
    ----------
    gain : float
        By how much a pass lowered the inertia.
    last : float
        The same of the pass before it; infinity where there was none: gains then are
        taken to halve.

    Examples
    --------
    >>> left_to_gain(1.0, 2.0)  # a half, a quarter, ...
    1.0
    >>> left_to_gain(1.0, np.inf)
    1.0
    >>> left_to_gain(0.0, 0.0)
    0.0
    """
    if np.isinf(last):
        return gain
    ratio = min(gain / last, SLOWEST) if last else SLOWEST
    return gain * ratio / (1 - ratio)


def _full_passes(
    state: State,
    points: Array,
    schedule: Schedule,
    yardstick: float,
    weights: Array | None,
    watch: Callable[[float], None] | None,
) -> State:
    """Update on all points until `max_no_improvement` batches' worth was idle.

    A pass over all points counts as the batches that it holds, or `LEAST_BATCHES`, and
    is idle where little is left to gain after it, unless it failed, going too far. Its
    inertia needs no smoothing: the moving average of mini-batches has weight one.

    The state of lowest inertia is given back; its centers are means of its labels, but
    for those that had no points, which were moved to one.
    """
    batches = max(LEAST_BATCHES, len(points) // schedule.batch_size)
    energy = _energy(points, weights)
    n_clusters, n_dims = state.centers.shape
    pays = n_dims >= ROUGH_DIMS and n_clusters <= ROUGH_CLUSTERS * n_dims
    narrow = WIDE * energy if pays else np.inf
    best, lowest, gain, idle, momentum = state, np.inf, np.inf, 0, 0.0
    for n_before in range(MAX_PASSES):
        wide = schedule.along or narrow < lowest < np.inf
        rough = wide and weights is None  # float32 would not hold a tiny weight
        state = update(state, points, schedule.unit, weights, schedule.along, rough)
        if not state.counts.all():
            state = state._replace(centers=refill(points, state.centers, state.labels))
        inertia = energy - state.explained
        if watch:
            watch(inertia / _total(points, weights))
        failed = n_before > 0 and inertia >= lowest
        if failed and not momentum:
            break
        if not failed:
            last, gain = gain, lowest - inertia
            before, best, lowest = best.centers, state, inertia
            left = left_to_gain(gain, last)
            least = schedule.tolerance * (yardstick or inertia)
            idle = 0 if left > least else idle + batches
        patience = schedule.max_no_improvement
        if patience is not None and idle >= patience:
            break
        momentum = MOMENTUM if n_before and not failed else 0.0
        step = best.centers.dtype.type(momentum) * (best.centers - before)
        step[best.counts == 0] = 0  # a center that was moved to a point stays there
        centers = best.centers + step
        centers = kernels.to_unit(centers)[0] if schedule.unit else centers
        state = best._replace(centers=centers)
    return best
