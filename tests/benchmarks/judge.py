"""How good a labelling is, judged from the labels alone, in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Verdict(NamedTuple):
    """What the labels are worth."""

    unexplained_variance: float
    """Sum of squares within clusters, divided by the total; 0 is perfect."""
    n_nonempty: int
    """Clusters with at least one feature."""


def judge(X: NDArray[np.float32], labels: NDArray[np.integer[Any]]) -> Verdict:
    """Recompute the clusters' means and measure what they leave unexplained.

    Parameters
    ----------
    X : ndarray of shape (n_features, n_samples), float32
    labels : ndarray of shape (n_features,), integers

    Raises
    ------
    ValueError
        If there is not exactly one label per feature.
    """
    if labels.shape != (len(X),):
        raise ValueError(f"{labels.shape=} should be ({len(X)},), one per feature.")
    order = np.argsort(labels, kind="stable")
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    means = np.empty((len(sizes), X.shape[1]))
    within = 0.0
    for cluster, members in enumerate(np.split(order, starts[1:])):
        points = X[members]
        means[cluster] = points.mean(axis=0, dtype=np.float64)
        within += float(((points - means[cluster]) ** 2).sum())
    grand_mean = sizes @ means / len(X)
    between = float(sizes @ ((means - grand_mean) ** 2).sum(axis=1))
    return Verdict(within / (within + between), len(sizes))
