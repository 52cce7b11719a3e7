"""Stage 5, the last read of X: label every feature, block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hkmeans_dask import kernels
from hkmeans_dask.execution import Runner, map_blocks

if TYPE_CHECKING:
    from dask.delayed import Delayed

    from hkmeans_dask.hierarchy import Hierarchy
    from hkmeans_dask.inputs import Features
    from hkmeans_dask.kernels import Array, Index


class Labels(NamedTuple):
    """The labels of all features, and what they cost."""

    labels: Array
    """(n_features,), int32."""

    sizes: Index
    """(n_clusters,), int64; zero where no feature chose a cluster."""

    inertia: float
    """Sum of squared distances to the centers, added in feature order."""


def label_features(
    features: Features, hierarchy: Hierarchy, held: Delayed, runner: Runner
) -> Labels:
    """Read X once more and label it.

    Parameters
    ----------
    features : Features
    hierarchy : Hierarchy
    held : Delayed of Hierarchy
        The same, where the scheduler keeps it.
    runner : Runner

    Returns
    -------
    labels : Labels
        Here: 4 bytes a feature.
    """
    tasks = map_blocks("label", _label, features.blocks, features.dtype, held)
    parts = runner.compute(*[row[0] for row in tasks])
    labels = np.concatenate([part for part, _ in parts])
    sizes = np.bincount(labels, minlength=len(hierarchy.fine))
    return Labels(labels, sizes, float(sum(inertia for _, inertia in parts)))


def _label(
    block: Any, _start: int, dtype: np.dtype[Any], hierarchy: Hierarchy
) -> tuple[Array, float]:
    points = np.ascontiguousarray(block, dtype)
    labels = hierarchy.label(points)
    inertia = kernels.inertia(points, hierarchy.fine, labels)
    return labels.astype(np.int32), inertia
