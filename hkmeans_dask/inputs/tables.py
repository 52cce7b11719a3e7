"""Arrays and tables of this process, as arrays of real numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_array

from hkmeans_dask.inputs.checks import arithmetic_dtype
from hkmeans_dask.kmeans.finite import unmasked

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.kernels import Array

NUMBERS_ONLY: dict[str, Any] = {
    "dtype": "numeric",
    "ensure_all_finite": False,
    "ensure_min_samples": 0,
    "ensure_min_features": 0,
    "estimator": "HierarchicalKMeans",
    "input_name": "X",
}
"""What scikit-learn checks for us; sizes and finite values we check."""


def numbers(X: Any) -> Array:
    """Take an array, a table, or what converts to an array, of real numbers."""
    try:
        array: Array = check_array(unmasked(X), **NUMBERS_ONLY)
        arithmetic_dtype(array.dtype)
    except (TypeError, ValueError) as error:
        if found := _not_numbers(X):
            raise ValueError(
                f"{found}, which is no number. Leave the column out, convert it, or "
                "fill in what is missing."
            ) from error
        raise
    return array


def _not_numbers(table: Any) -> str | None:
    """Say which column of a table is not numbers, and its first value that is none."""
    columns = getattr(table, "columns", ())
    for number, name in enumerate(getattr(table, "column_names", columns)):
        by_place = hasattr(table, "iloc")  # two columns may have one name
        column = table.iloc[:, number] if by_place else table[name]
        kind = np.asarray(column).dtype.kind
        if kind in "biuf":
            continue
        if kind not in "OSUT":
            return f"Column {name!r} of X has dtype {column.dtype}"
        for row, value in enumerate(column):
            try:
                float(value if value is not None else np.nan)
            except (TypeError, ValueError):
                return f"Column {name!r} of X has {value!r} in row {row}"
    return None
