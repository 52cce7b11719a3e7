"""Points in groups: by label, and equal ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hkmeans_dask.kmeans.kernels import as_voids

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.kernels import Array, Index


def group_by_label(labels: Index, n_clusters: int) -> tuple[Index, Index]:
    """Positions sorted by label, each group in its old order.

    Returns
    -------
    order : ndarray of shape (n_points,), int64
    starts : ndarray of shape (n_clusters + 1,), int64
        Group ``i`` is ``order[starts[i]:starts[i + 1]]``.
    """
    small = np.uint16 if n_clusters <= 2**16 else np.int64  # sorted by its bytes
    order = np.argsort(labels.astype(small, copy=False), kind="stable")
    sizes = np.bincount(labels, minlength=n_clusters)
    return order, np.concatenate([[0], np.cumsum(sizes)])


def count_distinct(points: Array) -> int:
    """Count the distinct rows; -0.0 equals 0.0. Holds one copy of the points."""
    rows = as_voids(points)
    rows.sort()
    return len(rows) and 1 + int(np.count_nonzero(rows[1:] != rows[:-1]))
