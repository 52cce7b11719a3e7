"""Stage 5, optional: passes in which features look beyond their big cluster.

Each pass is a step of Lloyd's algorithm: over the training rows, which are at hand
(`refine_on_rows`), or one read of X (`refine`)::

    X --block--> label --> sums, counts, farthest features -\
    X --block--> label --> ...                               -+--merge--> centers move
        ^                                                                   |
        +------------ the model of the next pass <--------------------------+

Every block keeps sums for the clusters present in it, neighbours merge eight at a time
in the order of the features, in float64: the result hangs on X and its chunks alone. A
center without features (of a weight above 0, if they have weights) moves to one of the
features farthest from their centers, each of them in another cluster. Passes end early
when moving the centers gains little.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hkmeans_dask.kmeans import kernels
from hkmeans_dask.kmeans.hierarchy import EXCLUDED, Hierarchy
from hkmeans_dask.kmeans.minibatch import left_to_gain
from hkmeans_dask.kmeans.sums import FAN_IN, centers_of, sum_by_label
from hkmeans_dask.runtime.blas import one_blas_thread
from hkmeans_dask.runtime.tasks import map_blocks, names, task
from hkmeans_dask.workspace.rows import ROWS_TOGETHER, row_bytes, split_weights

if TYPE_CHECKING:
    from collections.abc import Callable

    import dask.array as da
    from dask.delayed import Delayed

    from hkmeans_dask.inputs.arrays import Features
    from hkmeans_dask.kmeans.hierarchy import Arrays
    from hkmeans_dask.kmeans.kernels import Array, Index
    from hkmeans_dask.runtime.execution import Runner
    from hkmeans_dask.workspace.files import InMemory, OnDisk
    from hkmeans_dask.workspace.records import Coarse, Partitions, Parts
    from hkmeans_dask.workspace.rows import Rows, StoredRows

logger = logging.getLogger(__name__)

FARTHEST = 64
"""Features kept for centers without any, at most."""

TOLERANCE = 1e-4
"""Passes end when the last one lowered the inertia by less than this fraction."""

ROWS_TOLERANCE = 5e-3
"""Those over the training rows end when less than this fraction is left to gain."""

MOST_ON_ROWS = 20
"""Passes over the training rows, at most."""


class Far(NamedTuple):
    """Features far from their centers, the farthest first, each of another cluster."""

    squared: Array
    """(n_far,), squared distances."""

    clusters: Index
    """(n_far,)."""

    rows: Array
    """(n_far, n_samples)."""


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


def begin_with(
    init: Array,
    coarse: Coarse,
    parts: Parts,
    workspace: InMemory | OnDisk,
    runner: Runner,
) -> Any:
    """Make a model of given centers; the first pass then compares all of them.

    Parameters
    ----------
    init : ndarray of shape (n_clusters, n_samples)
    coarse : Coarse
    parts : list of training rows
        Of which the checksum is taken.
    workspace : InMemory or OnDisk
    runner : Runner

    Returns
    -------
    model : Delayed of mapping, or Record
        As from `train_fine`.
    """
    begun = task("begin", _begin, init, coarse, parts, workspace)
    return runner.hold([begun], handles=workspace.on_disk)[0]


def refine(
    features: Features,
    model: Any,
    n_passes: int,
    workspace: InMemory | OnDisk,
    runner: Runner,
    *,
    exact: bool,
) -> Any:
    """Read X up to `n_passes` times, and move the small centers to their means.

    Parameters
    ----------
    features : Features
    model : Delayed of mapping, or Record
        From `train_fine` or `begin_with`.
    n_passes : int
        At least one.
    workspace : InMemory or OnDisk
    runner : Runner
    exact : bool
        Whether features compare all centers, even if they are many.

    Returns
    -------
    model : Delayed of mapping, or Record
        The fields of `Hierarchy` by name, the ``"total"`` of the model that came, and
        ``"passes"``, the number made.

    Notes
    -----
    Memory of a task, beside the model: a block of X (and its cast), 24 bytes a feature,
    and float64 sums (n_present, n_samples) of the clusters in it; where sums are
    merged, nine of them.
    """
    model = task("widen", _widen, model, exact)
    for number in range(1, n_passes + 1):
        what = (features.blocks, model, features.weight_blocks())
        name, rounds = f"refine-{number}", n_passes - number + 1
        how = (exact, workspace, runner, rounds, features.weight_exponent)
        model, outcome = _moved(name, partial(_sums, *what), model, *how)
        if outcome.gain <= TOLERANCE * outcome.inertia and not outcome.seeded:
            break
    final = task("model", _save, model, number, workspace)
    return runner.hold([final], handles=workspace.on_disk)[0]


def refine_on_rows(
    partitions: Partitions,
    model: Any,
    workspace: InMemory | OnDisk,
    runner: Runner,
    weight_exponent: int,
    name: str,
) -> Any:
    """Move the small centers to the means of training rows, while that gains much.

    Parameters
    ----------
    partitions : Partitions
    model : Delayed of mapping, or Record
        From `train_fine`.
    workspace : InMemory or OnDisk
    runner : Runner
    weight_exponent : int
        The power of 2 by which weights were divided.
    name : str
        Under which the workspace keeps the model.

    Returns
    -------
    model : Delayed of mapping, or Record
        As from `train_fine`, but every feature is compared with all small clusters.

    Notes
    -----
    No read of X. Memory of a task: a part of the training rows, `ROWS_TOGETHER` of them
    once more, and what `refine` takes.
    """
    model, last = task("widen", _widen, model, True), np.inf
    weighted = partitions.coarse.weighted
    for number in range(1, MOST_ON_ROWS + 1):
        sums = partial(_sums_of_rows, partitions.source, model, weighted)
        how = (True, workspace, runner, MOST_ON_ROWS, weight_exponent)
        model, outcome = _moved(f"rows-{number}", sums, model, *how)
        left = left_to_gain(outcome.gain, last)
        if left <= ROWS_TOLERANCE * outcome.inertia and not outcome.seeded:
            break
        last = outcome.gain
    final = task("model", _save, model, 0, workspace, name)
    return runner.hold([final], handles=workspace.on_disk)[0]


def _sums(blocks: da.Array, model: Any, weights: da.Array | None) -> list[Delayed]:
    return [row[0] for row in map_blocks("refine", _sum, blocks, model, weights)]


def _sums_of_rows(parts: Parts, model: Any, weighted: bool) -> list[Delayed]:
    return [task("rows", _sum_rows, part, model, weighted) for part in parts]


def _moved(
    name: str,
    make_sums: Callable[[], list[Delayed]],
    model: Any,
    exact: bool,
    workspace: InMemory | OnDisk,
    runner: Runner,
    rounds: int,
    weight_exponent: int,
) -> tuple[Any, Outcome]:
    """Make one pass, unless it has been made; give the model and what it came to."""
    moved, count = workspace.find(name), []
    if moved is None:
        sums = make_sums()
        count = names(sums)
        moved = task("move", _move, _merged(sums), model, exact, workspace, name)
    on_disk = workspace.on_disk
    (model,) = runner.hold([moved], handles=on_disk, count=count, rounds=rounds)
    (outcome,) = runner.compute(task("settled", _outcome, model))
    logger.debug(
        "%s: inertia %.6g, %.3g less by moving, %d clusters without features",
        name,
        np.ldexp(outcome.inertia, weight_exponent),
        np.ldexp(outcome.gain, weight_exponent),
        outcome.empty,
    )
    return model, outcome


def _merged(partials: list[Delayed]) -> Delayed:
    """Add up the sums of all blocks, in a tree."""
    while True:
        partials = [
            task("merge", _merge, partials[first : first + FAN_IN])
            for first in range(0, len(partials), FAN_IN)
        ]
        if len(partials) == 1:
            return partials[0]


@one_blas_thread
def _begin(
    init: Array,
    coarse: Coarse,
    parts: list[Rows | StoredRows],
    workspace: InMemory | OnDisk,
) -> Arrays:
    fine = np.ascontiguousarray(init, coarse.centers.dtype)
    levels, unit = (coarse.offset, coarse.centers, fine), np.array(coarse.unit)
    found = Hierarchy.arrange(*levels, exact=True, unit=unit)
    total = np.array(sum(part.total for part in parts) % 2**64, np.uint64)
    return workspace.save("nested", total=total, **found._asdict())


@one_blas_thread
def _widen(model: Arrays, exact: bool) -> Arrays:
    """Let features look beyond their big cluster."""
    nested = Hierarchy.of(model)
    found = Hierarchy.arrange(*nested[:3], exact=exact, unit=nested.unit)
    return {"total": model["total"], **found._asdict()}


@one_blas_thread
def _sum_rows(part: Rows | StoredRows, model: Arrays, weighted: bool) -> Partial:
    """Label the training rows of a part, and say what they say about the centers."""
    hierarchy, rows = Hierarchy.of(model), part.load()
    together = max(1, ROWS_TOGETHER // max(1, row_bytes(rows.like)))
    found = []
    for start in range(0, max(1, len(rows.order)), together):
        taken = kernels.take(rows.array, rows.order[start : start + together])
        points, weights = split_weights(taken) if weighted else (taken, None)
        found.append(_say(points, hierarchy, weights))
    return _merge(found)


def _sum(block: Any, start: int, model: Arrays, weights: Array | None) -> Partial:
    """Label a block, and say what its features say about the centers."""
    hierarchy = Hierarchy.of(model)
    weights = None if weights is None else weights[:, 0]
    return _say(hierarchy.points(block), hierarchy, weights)


def _say(points: Array, hierarchy: Hierarchy, weights: Array | None) -> Partial:
    labels = hierarchy.label(points)
    squared = kernels.squared_distances(points, hierarchy.fine, labels)
    if hierarchy.unit:
        squared[labels == EXCLUDED] = 0  # no center may move there
    clusters, local = np.unique(labels, return_inverse=True)
    sums = sum_by_label(points, local, len(clusters), weights)
    inertia = kernels.weighted_sum(squared, weights)
    counts = np.bincount(local, weights)
    if weights is not None:
        squared[weights == 0] = 0  # no center may move there
    first = int(np.searchsorted(clusters, 0))  # 1 where features are left out
    found = clusters[first:], counts[first:], sums[first:]
    return Partial(*found, inertia, _far(squared, labels, points))


def _far(squared: Array, clusters: Index, rows: Array) -> Far:
    """Keep the farthest feature of each cluster, and the farthest of these."""
    order = np.argsort(-squared, kind="stable")
    _, first = np.unique(clusters[order], return_index=True)
    kept = order[np.sort(first)[:FARTHEST]]
    return Far(squared[kept], clusters[kept], rows[kept])


def _merge(partials: list[Partial]) -> Partial:
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
    far = _far(*(np.concatenate(values) for values in fars))
    return Partial(clusters, counts, sums, inertia, far)


@one_blas_thread
def _move(
    found: Partial, model: Arrays, exact: bool, workspace: InMemory | OnDisk, name: str
) -> Arrays:
    """Move centers to the means of their features, and those without to far ones."""
    hierarchy = Hierarchy.of(model)
    fine, unit = hierarchy.fine.copy(), hierarchy.unit
    means, mass = centers_of(found.sums, found.counts, bool(unit))
    filled = mass > 0
    fine[found.clusters[filled]] = means[filled]
    steps = (fine - hierarchy.fine)[found.clusters].astype(np.float64)
    gain = mass @ np.einsum("ij,ij->i", steps, steps)
    empty = np.setdiff1d(np.arange(len(fine)), found.clusters[found.counts > 0])
    seeds = found.far.rows[found.far.squared > 0][: len(empty)]
    fine[empty[: len(seeds)]] = seeds
    outcome = Outcome(found.inertia, gain, len(empty), len(seeds))
    levels = (hierarchy.offset, hierarchy.coarse, fine)
    moved = Hierarchy.arrange(*levels, exact=exact, unit=unit)
    told: dict[str, Any] = {
        field: np.array(value) for field, value in outcome._asdict().items()
    }
    return workspace.save(name, total=model["total"], **told, **moved._asdict())


def _outcome(model: Arrays) -> Outcome:
    return Outcome(*(model[field].item() for field in Outcome._fields))


def _save(
    model: Arrays, passes: int, workspace: InMemory | OnDisk, name: str = "model"
) -> Arrays:
    """Save what the label stage and a fit that goes on look for."""
    fields = Hierarchy.of(model)._asdict()
    passes_made = np.array(passes)
    return workspace.save(name, total=model["total"], passes=passes_made, **fields)
