"""Work through an array block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np

if TYPE_CHECKING:
    from tests.benchmarks.job import Job


def plain_read(job: Job) -> None:
    """Read everything once, and do next to nothing with it."""
    X = job.X if isinstance(job.X, da.Array) else da.from_zarr(job.X)
    X.sum().compute()


def partial_fit(job: Job) -> Any:
    """Show scikit-learn one chunk after the other, then label one after the other."""
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(job.n_clusters, random_state=job.seed)
    starts = range(0, job.X.shape[0], job.X.chunks[0])
    for start in starts:
        model.partial_fit(job.X[start : start + job.X.chunks[0]])
    labels = [model.predict(job.X[at : at + job.X.chunks[0]]) for at in starts]
    return np.concatenate(labels)
