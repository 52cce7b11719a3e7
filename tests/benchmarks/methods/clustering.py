"""Cluster an array that is in memory, each with all the defaults of its library.

Where a library trains centers only, its own assignment of all rows to them is part.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from tests.benchmarks.job import Job


def ours(job: Job, **parameters: Any) -> Any:
    """Fit `hkmeans_dask.HierarchicalKMeans` to an array of any kind."""
    from hkmeans_dask import HierarchicalKMeans

    model = HierarchicalKMeans(job.n_clusters, random_state=job.seed, **parameters)
    return model.fit(job.X).labels_


def three_levels(job: Job) -> Any:
    """Cluster each of the cube root of k big clusters in two levels of ours."""
    from hkmeans_dask import HierarchicalKMeans
    from hkmeans_dask.kmeans.allocation import allocate

    n_big = max(1, round(job.n_clusters ** (1 / 3)))
    first = HierarchicalKMeans(n_big**2, random_state=job.seed).fit(job.X)
    big = first.parents_[first.labels_]
    sizes = np.bincount(big)
    starts = np.cumsum([0, *allocate(sizes, sizes, job.n_clusters)])
    labels = np.empty(len(big), np.int64)
    for number, (start, stop) in enumerate(itertools.pairwise(starts)):
        here = np.flatnonzero(big == number)
        within = HierarchicalKMeans(stop - start, random_state=job.seed)
        labels[here] = start + within.fit(job.X[here]).labels_
    return labels


def nilearn(job: Job, n_init: int = 10) -> Any:
    """Call the function behind nilearn's estimator, which takes features as rows."""
    from nilearn.regions.hierarchical_kmeans_clustering import hierarchical_k_means

    return hierarchical_k_means(
        job.X, job.n_clusters, n_init=n_init, random_state=job.seed
    )


def faiss_two_level(job: Job) -> Any:
    """Train faiss's two levels, then search the nearest of all centers."""
    import faiss
    from faiss.contrib.clustering import two_level_clustering

    n_big = int(np.sqrt(job.n_clusters))
    centers, _ = two_level_clustering(job.X, n_big, job.n_clusters, seed=job.seed)
    return faiss.knn(job.X, centers, 1)[1][:, 0]


def faiss_flat(job: Job) -> Any:
    """Run 20 iterations of faiss's k-means on all rows."""
    import faiss

    flat = faiss.Kmeans(
        job.X.shape[1],
        job.n_clusters,
        niter=20,
        seed=job.seed,
        max_points_per_centroid=len(job.X),
    )
    flat.train(job.X)
    return flat.assign(job.X)[1]


def faiss_superkmeans(job: Job) -> Any:
    """Run faiss's SuperKMeans, which is flat; 10 iterations."""
    import faiss

    flat = faiss.SuperKmeans(job.X.shape[1], job.n_clusters, seed=job.seed)
    flat.train(job.X)
    return faiss.knn(job.X, flat.centroids, 1)[1][:, 0]


def superkmeans(job: Job, n_refinements: int = 0, quantizer: str = "f32") -> Any:
    """Train CWI's SuperKMeans in its hierarchical mode."""
    from superkmeans import SuperKMeans

    model = SuperKMeans(
        job.n_clusters,
        job.X.shape[1],
        hierarchical=True,
        iters_refinement=n_refinements,
        quantizer=quantizer,
        seed=job.seed,
    )
    return model.assign_training_points(job.X, model.train(job.X))


def minibatch(job: Job) -> Any:
    """Fit scikit-learn's mini-batch k-means, which is flat."""
    from sklearn.cluster import MiniBatchKMeans

    return MiniBatchKMeans(job.n_clusters, random_state=job.seed).fit(job.X).labels_


def dask_ml(job: Job) -> Any:
    """Fit dask-ml's k-means, seeded with k-means||, to blocks of 16 MB."""
    import dask.array as da
    from dask_ml.cluster import KMeans

    X = da.from_array(job.X, (2**24 // job.X[0].nbytes, -1))
    return KMeans(job.n_clusters, random_state=job.seed).fit(X).labels_
