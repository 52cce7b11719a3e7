"""New features beside those of a model: label them, move its centers, or fit anew."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tests.benchmarks.job import Job


def label_new(job: Job) -> Any:
    """Keep the labels of the first features, and give the others the nearest center."""
    from hkmeans_dask import HierarchicalKMeans

    model = HierarchicalKMeans.from_zarr(job.model)
    new = model.predict(job.X[model.n_features_in_ :])
    return np.concatenate([np.asarray(model.labels_), np.asarray(new)])


def move_centers(job: Job, refine: int = 1) -> Any:
    """Fit to all features, from the centers of the first ones."""
    from hkmeans_dask import HierarchicalKMeans

    old = HierarchicalKMeans.from_zarr(job.model)
    grown = HierarchicalKMeans(
        old.n_clusters_, old.cluster_centers_, refine=refine, random_state=job.seed
    )
    return grown.fit(job.X).labels_
