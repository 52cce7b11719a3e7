"""Weights of features: how often each counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np

from hkmeans_dask.inputs.arrays import is_zarr
from hkmeans_dask.inputs.xarrays import is_dataarray
from hkmeans_dask.kmeans.finite import unmasked

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.kernels import Array


def read_weights(given: Any, n_features: int) -> Array | None:
    """Take `feature_weight` as an array of this process; computes a lazy one.

    Parameters
    ----------
    given : array-like, dask array, zarr.Array or DataArray of shape (n_features,), \
            or None
    n_features : int

    Returns
    -------
    weights : ndarray of shape (n_features,), float64, or None
        None also if all are 1, which is as without weights.

    Raises
    ------
    ValueError
        If it has another shape, or a value that is no weight.
    """
    if given is None:
        return None
    given = given.data if is_dataarray(given) else given
    if not (isinstance(given, da.Array) or is_zarr(given)):
        given = np.asarray(unmasked(given, "feature_weight"))
    check_weights_shape(given.shape, n_features)
    if is_zarr(given):
        from hkmeans_dask.storage import source

        given = source.read(given)
    elif isinstance(given, da.Array):
        what = (given, "feature_weight")
        given = da.map_blocks(unmasked, *what, dtype=given.dtype).compute()
    weights = check_weights(given)
    return None if (weights == 1).all() else weights


def check_weights_shape(shape: tuple[int, ...], n_features: int) -> None:
    """Refuse weights that are not one for each feature, in scikit-learn's words."""
    if len(shape) != 1:
        raise ValueError(
            f"feature_weight must be 1D array, got {len(shape)}D array. Expected a 1D "
            f"array of length {n_features}."
        )
    if shape != (n_features,):
        raise ValueError(f"feature_weight.shape == {shape}, expected {(n_features,)}!")


def check_weights(given: Array) -> Array:
    """Take `feature_weight` as float64; refuse what cannot be counted."""
    try:
        if given.dtype.kind not in "biufO":
            raise TypeError(f"its dtype is {given.dtype}")
        weights: Array = given.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"feature_weight should be numbers: {error}.") from error
    wrong = np.flatnonzero(~(np.isfinite(weights) & (weights >= 0)))
    if len(wrong):
        value = weights[wrong[0]]
        what = "Negative values in data passed to `feature_weight`"
        if not np.isfinite(value):
            what = f"Input feature_weight contains {'NaN' if value != value else 'inf'}"
        raise ValueError(
            f"{what}: {value} is the weight of feature {wrong[0]}. Weights are finite "
            "and at least 0; 0 leaves a feature out of training."
        )
    if not weights.any():
        raise ValueError(
            "feature_weight must contain at least one non-zero number: all "
            f"{len(weights)} are 0."
        )
    return weights
