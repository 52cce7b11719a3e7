"""Labels in files, read as an array."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hkmeans_dask.kmeans.hierarchy import Arrays
    from hkmeans_dask.kmeans.kernels import Array, Index


class StoredLabels:
    """Labels of all features in files, read as an array (by slices, as dask does).

    The last of `numbers` is the label of features left out.
    """

    ndim, dtype = 1, np.dtype(np.int32)

    def __init__(
        self, files: Sequence[Arrays], bounds: Index, numbers: Array, owner: object
    ) -> None:
        self._files, self._bounds, self._numbers = files, bounds, numbers
        self._owner = owner  # keeps a temporary folder as long as its labels
        self.shape = (int(bounds[-1]),)

    def __getitem__(self, index: Any) -> Array:
        """Read what a NumPy index asks for, numbered as the model does."""
        (where,) = index if isinstance(index, tuple) else (index,)
        features = range(self.shape[0])
        picked = np.asarray(
            features[where]
            if isinstance(where, slice)
            else np.asarray(features)[where],
            np.int64,
        )
        if not picked.size:
            return np.empty(picked.shape, self.dtype)
        first = int(picked.min())
        labels: Array = self._read(first, int(picked.max()) + 1)[picked - first]
        return labels

    def _read(self, start: int, stop: int) -> Array:
        first = int(np.searchsorted(self._bounds, start, side="right")) - 1
        last = int(np.searchsorted(self._bounds, stop))
        found = np.concatenate([file["labels"] for file in self._files[first:last]])
        begin = self._bounds[first]
        labels: Array = self._numbers[found[start - begin : stop - begin]]
        return labels
