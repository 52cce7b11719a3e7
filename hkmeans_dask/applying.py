"""What a fitted model makes of arrays, later: means, values of clusters, new labels.

Each is a graph, with who would compute it, found and asked for its memory beforehand.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hkmeans_dask import reduction
from hkmeans_dask.inputs import arrays
from hkmeans_dask.planning.job import check_memory
from hkmeans_dask.planning.reducing import (
    project_labels,
    project_spread,
    project_transform,
)
from hkmeans_dask.runtime.execution import Runner

if TYPE_CHECKING:
    from collections.abc import Callable

    import dask.array as da

    from hkmeans_dask.inputs.arrays import Features
    from hkmeans_dask.kmeans.hierarchy import Hierarchy
    from hkmeans_dask.planning.memory import Projection


class Later(NamedTuple):
    """What is computed later, or was asked for at once."""

    rows: da.Array
    """With features, or clusters, in rows."""

    axis: int
    """Where they are in X."""

    in_memory: bool
    """Whether X came as an array of this process, so the result goes back as one."""

    runner: Runner | None
    """Who would compute it, in as many threads as memory allows; see `found_for`."""

    @property
    def result(self) -> da.Array:
        """The axes as those of X are."""
        oriented: da.Array = self.rows.T if self.axis == 1 else self.rows
        return oriented


def found_for(
    features: Features, project: Callable[[int], Projection]
) -> Runner | None:
    """Find who would compute what is lazy, and refuse it if they cannot hold it.

    Parameters
    ----------
    features : Features
    project : callable
        Gives the projection for a number of workers; 0: this process.

    Returns
    -------
    runner : Runner or None
        None where that is an asynchronous client, which cannot be asked from here.
    """
    try:
        runner = Runner.seen(features.blocks, in_memory=features.in_memory)
    except RuntimeError:
        return None
    check_memory(runner, project(len(runner.workers())))
    return runner


def means(model: Any, features: Features, level: str) -> Later:
    """Average weighted features by the labels of a fitted `HierarchicalKMeans`."""
    labels = reduction.lazy_labels(model.labels_, features.blocks.chunks[0])
    sizes = model.sizes_
    if level == "coarse":
        labels = reduction.big_labels(labels, model.parents_)
        n_big = len(model.coarse_centers_)
        sizes = np.bincount(model.parents_, sizes, n_big).astype(np.int64)
    factors = np.sqrt(sizes) if model.scaling else np.ones(len(sizes))
    runner = found_for(features, partial(project_transform, features, len(sizes)))
    averaged = reduction.cluster_means(features, labels, factors)
    return Later(averaged, model._axis, features.in_memory, runner)


def spread(model: Any, reduced: Features) -> Later:
    """Give features the values of their clusters."""
    n_given, n_clusters = reduced.blocks.shape[0], model.n_clusters_
    if n_given != n_clusters:
        raise ValueError(
            f"X_red has {n_given} clusters, but HierarchicalKMeans is expecting "
            f"{n_clusters} clusters as input."
        )
    factors = 1 / np.sqrt(model.sizes_) if model.scaling else None
    values = reduced.blocks.astype(reduced.dtype)
    chunks = arrays.feature_chunks(model.n_features_in_, values)
    projected = project_spread(reduced, chunks, scaled=model.scaling)
    runner = found_for(reduced, lambda _: projected)
    labels = reduction.lazy_labels(model.labels_, chunks)
    given = reduction.spread(values, labels, factors)
    return Later(given, model._axis, reduced.in_memory, runner)


def new_labels(
    model: Any, features: Features, hierarchy: Hierarchy, level: str
) -> Later:
    """Label other features, those of an array in memory after a look at it."""
    expected = model.cluster_centers_.shape[1]
    if features.blocks.shape[1] != expected:
        raise ValueError(
            f"X has {features.blocks.shape[1]} samples, but HierarchicalKMeans is "
            f"expecting {expected} samples as input."
        )
    exclude = model.missing == "exclude"
    copied = model._axis == 1 or (features.in_memory and features.in_place is None)
    how = {"copied": copied, "exclude": exclude}
    runner = found_for(features, partial(project_labels, features, hierarchy, **how))
    if features.in_memory and not exclude:
        reduction.refuse_not_finite(features)
    labels = reduction.predict_labels(features, hierarchy, exclude=exclude)
    if level == "coarse":
        labels = reduction.big_labels(labels, model.parents_)
    return Later(labels, 0, features.in_memory, runner)


def give(later: Later) -> Any:
    """Give back the kind of array that came, and the axes."""
    if not later.in_memory:
        return later.result
    runner = later.runner or Runner.find(later.rows, in_memory=True)
    (result,) = runner.compute(later.rows)
    return result.T if later.axis == 1 else result
