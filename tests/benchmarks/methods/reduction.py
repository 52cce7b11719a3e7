"""Use a fitted model: means of clusters, and back from them.

Written arrays are not compressed, so that what is written is as many bytes for all.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import zarr

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.benchmarks.job import Job

BLOCK_BYTES = 64 * 2**20


def transform(job: Job) -> None:
    """Average the features of each cluster with ours."""
    from hkmeans_dask import HierarchicalKMeans

    HierarchicalKMeans.from_zarr(job.model).transform(job.X).compute()


def flox(job: Job) -> None:
    """Average them with flox, whose groups run along the last axis."""
    from flox import groupby_reduce

    labels = zarr.open_array(job.model / "labels", mode="r")[:]
    groups = np.arange(job.n_clusters)
    means, *_ = groupby_reduce(
        da.from_zarr(job.X).T, labels, func="mean", expected_groups=groups
    )
    means.compute()


def inverse_transform(job: Job) -> None:
    """Write each feature's cluster center with ours."""
    from hkmeans_dask import HierarchicalKMeans

    model = HierarchicalKMeans.from_zarr(job.model)
    centers = da.from_array(model.cluster_centers_, -1)
    _write(model.inverse_transform(centers), job.output)


def plain_write(job: Job) -> None:
    """Write as many bytes: one block of noise, again and again."""
    n_features, n_samples = job.X.shape
    rows = BLOCK_BYTES // (n_samples * job.X.dtype.itemsize)
    chunks = da.core.normalize_chunks((rows, -1), (n_features, n_samples))
    noise = da.map_blocks(
        _noise, chunks=chunks, dtype=job.X.dtype, meta=np.empty((0, 0), job.X.dtype)
    )
    _write(noise, job.output)


def _write(array: da.Array, path: Path) -> None:
    target: Any = zarr.create_array(
        path,
        shape=array.shape,
        chunks=tuple(map(int, array.chunksize)),
        dtype=array.dtype,
        compressors=None,
    )
    da.store(array, target, lock=False)


def _noise(block_info: Any = None) -> NDArray[np.float32]:
    return _noise_of(*block_info[None]["chunk-shape"])


@functools.cache
def _noise_of(n_rows: int, n_columns: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).random((n_rows, n_columns), np.float32)
