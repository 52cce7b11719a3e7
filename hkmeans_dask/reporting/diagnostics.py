"""What a fitted model tells of itself: balance, big clusters, a table and a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

if TYPE_CHECKING:
    import os

    from hkmeans_dask.kmeans.kernels import Array, Index


class Diagnostics:
    """Attributes that follow from others, `report`, and a table in Jupyter."""

    if TYPE_CHECKING:
        sizes_: Index
        parents_: Index
        coarse_centers_: Array
        cluster_inertia_: Array
        n_features_in_: int

    @property
    def n_excluded_(self) -> int:
        """Features left out, in no cluster: their label is -1.

        Those with NaN or infinities if `missing` is "exclude", and those of zeros where
        the metric is cosine.
        """
        return int(self.n_features_in_ - self.sizes_.sum())

    @property
    def coarse_sizes_(self) -> Index:
        """Features in each big cluster, (n_big_clusters,), int64.

        Passes that refine may leave a big cluster without small ones, and so with 0.
        """
        return self._by_big(self.sizes_).astype(np.int64)

    @property
    def coarse_inertia_(self) -> Array:
        """The part of `inertia_` that each big cluster has, (n_big_clusters,)."""
        return self._by_big(self.cluster_inertia_)

    def _by_big(self, values: Array | None = None) -> Array:
        """Add up a value of each small cluster, or count them, by big cluster."""
        n_big = len(self.coarse_centers_)
        return np.bincount(self.parents_, values, minlength=n_big)

    @property
    def imbalance_(self) -> float:
        """Imbalance factor of the sizes, as in faiss: 1 for clusters of one size.

        ``n_clusters_ * sum(sizes_**2) / sum(sizes_)**2``: how many times as many
        features as in balanced clusters are in the cluster of a random feature.
        """
        shares = self.sizes_ / self.sizes_.sum()
        return float(len(shares) * (shares**2).sum())

    def report(
        self,
        path: str | os.PathLike[str],
        *,
        shape: tuple[int, ...] | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write a report of the fitted model: one HTML page that needs no network.

        Parameters
        ----------
        path : str or path-like
            Local path or fsspec URL.
        shape : tuple of int, optional
            Draws centers as images: ``(height, width)``, or with 3 channels
            ``(height, width, 3)``. By default they are curves.
        overwrite : bool, default=False

        Raises
        ------
        FileExistsError
            If something is at `path` and `overwrite` is false.
        ValueError
            If `shape` is no shape of an image with `n_samples` values.
        """
        from hkmeans_dask.reporting.page import write

        check_is_fitted(self)
        write(self, path, shape, overwrite=overwrite)

    def _html_repr(self) -> str:
        """Add a table of the fit to the diagram of scikit-learn (1.7 and newer)."""
        diagram: str = super()._html_repr()  # type: ignore[misc]
        return diagram + _table(self) if hasattr(self, "sizes_") else diagram


def _table(model: Any) -> str:
    from hkmeans_dask.reporting.page import fit_table

    return fit_table(model)
