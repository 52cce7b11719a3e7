"""What an input is, and what makes a fit the same fit.

The name of a dask array is that of its graph: what the graph reads may have changed. So
has the content of a store that tells neither size nor time of its chunks. Of these a
later fit does not know whether they are the same, and has to read them: `is_known`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from dask.base import tokenize

from hkmeans_dask.inputs.arrays import is_lazy, is_zarr

if TYPE_CHECKING:
    from hkmeans_dask.inputs.arrays import Features


def describe(X: Any, features: Features, feature_axis: int) -> dict[str, Any]:
    """Shape, dtype and fingerprint of X as given; memory has no fingerprint."""
    fingerprint = None
    array = _plainly_zarr(X)
    if array is not None:
        from hkmeans_dask.storage import listing

        fingerprint = listing.fingerprint(array)
    elif is_lazy(X):
        fingerprint = tokenize(X)
    blocks = features.blocks
    shape = blocks.shape if feature_axis == 0 else blocks.shape[::-1]
    return {"shape": shape, "dtype": str(blocks.dtype), "fingerprint": fingerprint}


def is_known(X: Any) -> bool:
    """Whether the description of X tells it from an X of other values."""
    array = _plainly_zarr(X)
    if array is None:
        return not is_lazy(X)
    from hkmeans_dask.storage import listing

    return listing.tells_changes(array)


def _plainly_zarr(X: Any) -> Any:
    """Give the Zarr array that X is, or all that the graph of X reads; else None."""
    if is_zarr(X):
        return X
    if not isinstance(X, da.Array) or not X.name.startswith("from-zarr-"):
        return None
    graph = dict(X.__dask_graph__())
    values = (getattr(node, "value", node) for node in graph.values())
    arrays = [value for value in values if is_zarr(value)]
    alone = len(arrays) == 1 and len(graph) == X.npartitions + 1
    return arrays[0] if alone else None


def identify(
    X: Any, features: Features, parameters: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Tell what makes a fit the same fit: parameters that matter, chunks, values.

    Parameters
    ----------
    X : as given
    features : Features
    parameters : dict
        Of the estimator.
    seed : int
        Stands for a `random_state` that draws it; None stays None.
    """
    matter = {k: v for k, v in parameters.items() if k not in ("verbose", "work_dir")}
    if isinstance(matter["random_state"], np.random.RandomState):
        matter["random_state"] = seed
    values = tokenize(X) if features.in_memory else None
    found = {"parameters": matter, "chunks": features.blocks.chunks, "values": values}
    weights = features.weights
    return found if weights is None else found | {"weights": tokenize(weights)}
