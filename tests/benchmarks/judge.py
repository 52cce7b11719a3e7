"""How good a labelling is, judged from the labels alone, in float64, block by block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.sparse import csr_array

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

BLOCK_BYTES = 64 * 2**20


class Verdict(NamedTuple):
    """What the labels are worth."""

    unexplained_variance: float
    """Sum of squares within clusters, divided by the total; 0 is perfect."""
    n_nonempty: int
    """Clusters with at least one feature."""
    imbalance: float
    """k * sum(sizes**2) / n**2 of these; 1 where all sizes are alike."""


def judge(X: Any, labels: NDArray[np.integer[Any]]) -> Verdict:
    """Recompute the clusters' means and measure what they leave unexplained.

    Parameters
    ----------
    X : ndarray, zarr.Array or dask array of shape (n_features, n_samples)
    labels : ndarray of shape (n_features,), integers

    Raises
    ------
    ValueError
        If there is not exactly one label per feature.
    """
    if labels.shape != X.shape[:1]:
        raise ValueError(f"{labels.shape=} should be ({X.shape[0]},), one per feature.")
    clusters, numbers, sizes = np.unique(
        labels, return_inverse=True, return_counts=True
    )
    sums, squares, offset = np.zeros((len(clusters), X.shape[1])), 0.0, None
    for start, block in _blocks(X):
        # Near the mean, so that squares do not cancel; any point near it will do.
        offset = block.mean(axis=0) if offset is None else offset
        block -= offset
        squares += float(np.vdot(block, block))
        inside = numbers[start : start + len(block)]
        sums += _indicator(inside, len(clusters)) @ block
    explained = float(((sums**2).sum(axis=1) / sizes).sum())
    common = float((sums.sum(axis=0) ** 2).sum() / len(labels))
    unexplained = (squares - explained) / (squares - common)
    imbalance = float(len(sizes) * (sizes**2.0).sum() / sizes.sum() ** 2.0)
    return Verdict(unexplained, len(clusters), imbalance)


def _blocks(X: Any) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Cut X into float64 blocks of rows, whole chunks where it is a Zarr array."""
    rows = max(1, BLOCK_BYTES // (X.shape[1] * X.dtype.itemsize))
    chunk = getattr(X, "chunks", None)
    if chunk and isinstance(chunk[0], int):
        rows = max(1, rows // chunk[0]) * chunk[0]
    for start in range(0, X.shape[0], rows):
        yield start, np.array(X[start : start + rows], np.float64)


def _indicator(numbers: NDArray[np.integer[Any]], n_clusters: int) -> Any:
    """Sparse (n_clusters, n_points) of ones: its product sums points by cluster."""
    n_points = len(numbers)
    places = (numbers, np.arange(n_points))
    return csr_array((np.ones(n_points), places), shape=(n_clusters, n_points))
