"""Ours and the peers, each with all its defaults.

To add a peer: one function `(X, n_clusters, seed) -> labels` that imports it inside,
an entry in `METHODS`, and its distribution in `DISTRIBUTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.integer[Any]]
Method = Callable[[NDArray[np.float32], int, int], Labels]


def ours(X: NDArray[np.float32], n_clusters: int, seed: int) -> Labels:
    """Fit `hkmeans_dask.HierarchicalKMeans` to the NumPy array."""
    from hkmeans_dask import HierarchicalKMeans

    model = HierarchicalKMeans(n_clusters=n_clusters, random_state=seed)
    return np.asarray(model.fit(X).labels_)


def nilearn(X: NDArray[np.float32], n_clusters: int, seed: int) -> Labels:
    """Call the function behind nilearn's estimator, which takes features as rows."""
    from nilearn.regions.hierarchical_kmeans_clustering import hierarchical_k_means

    return np.asarray(hierarchical_k_means(X, n_clusters, random_state=seed))


OURS = "hkmeans_dask"
METHODS: dict[str, Method] = {OURS: ours, "nilearn": nilearn}
DISTRIBUTIONS = ("hkmeans_dask", "nilearn", "scikit-learn", "scipy", "numpy", "dask")
"""Whose versions are printed beside the results."""
