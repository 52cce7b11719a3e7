"""What an input is, and what makes a fit the same fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from dask.base import tokenize

from hkmeans_dask.inputs.arrays import is_lazy, is_zarr

if TYPE_CHECKING:
    from hkmeans_dask.inputs.arrays import Features


def describe(X: Any, features: Features, feature_axis: int) -> dict[str, Any]:
    """Shape, dtype and fingerprint of X as given; memory has no fingerprint."""
    fingerprint = None
    if is_zarr(X):
        from hkmeans_dask.storage import source

        fingerprint = source.fingerprint(X)
    elif is_lazy(X):
        fingerprint = tokenize(X)
    blocks = features.blocks
    shape = blocks.shape if feature_axis == 0 else blocks.shape[::-1]
    return {"shape": shape, "dtype": str(blocks.dtype), "fingerprint": fingerprint}


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
