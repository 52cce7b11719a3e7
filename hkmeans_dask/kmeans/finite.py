"""Values that are not finite: refused, the first one named, or left out; and masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hkmeans_dask.kmeans.crew import tiles

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.kernels import Array

ROWS_AT_ONCE = 4096
"""Rows that are looked at one by one, value after value, at once."""


class Bad(NamedTuple):
    """The first feature with a value that is not finite."""

    feature: int
    value: str


def first_bad(points: Array, start: int = 0, among: Array | None = None) -> Bad | None:
    """Find the first row with NaN or an infinity; `start` is the index of row 0.

    Only rows where `among` is true count, if it is given.

    Memory: see `finite_rows`.
    """
    finite = finite_rows(points)
    if finite is None:
        return None
    bad = ~finite
    if among is not None:
        bad &= among
    if not bad.any():
        return None
    row = int(bad.argmax())
    return Bad(start + row, "NaN" if np.isnan(points[row]).any() else "inf")


def finite_rows(points: Array) -> Array | None:
    """Tell which rows have finite values only; None if all do.

    A sum is not finite when a summand is not: the rows are summed one by one only if
    the sum of all says so, and their values looked at only if their own sum does (sums
    may also overflow).

    Parameters
    ----------
    points : ndarray of shape (n_points, n_dims)

    Returns
    -------
    finite : ndarray of shape (n_points,), bool, or None
    """
    if points.dtype.kind != "f":
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(points.sum()):
            return None
        finite: Array = np.isfinite(points.sum(axis=1))
    doubtful = np.flatnonzero(~finite)
    for some in tiles(len(doubtful), ROWS_AT_ONCE):
        rows = doubtful[some]
        finite[rows] = np.isfinite(points[rows]).all(axis=1)
    return None if finite.all() else finite


def not_finite(bad: Bad, which: str = "the first") -> str:
    """Say which value was refused, where, and what to do."""
    return (
        f"Input X contains {bad.value}: {which} is in feature {bad.feature}. "
        "HierarchicalKMeans takes finite values only; drop or impute such features, or "
        "let a fit leave them out, missing='exclude'."
    )


def check_squares(points: Array) -> None:
    """Refuse points whose squared norms their dtype cannot hold, or not tell from 0.

    The least that is told from 0 has a few digits left.

    Raises
    ------
    ValueError
    """
    largest = float(max(points.max(initial=0), -points.min(initial=0)))
    known = np.finfo(points.dtype)
    least, most = np.sqrt(float(known.tiny)) / 32, np.sqrt(float(known.max)) / 2
    if largest * np.sqrt(points.shape[1]) > most:
        scaled = points / points.dtype.type(largest)
        largest *= float(np.sqrt(np.einsum("ij,ij->i", scaled, scaled).max()))
    if largest and not least <= largest <= most:
        raise ValueError(not_squared(points.dtype))


def not_squared(dtype: Any) -> str:
    """Say that values cannot be squared, and what to do."""
    return (
        f"Values of X differ by too much, or too little, for {dtype} to hold the "
        "squares of their differences. Rescale X by a power of two, or pass float64."
    )


def unmasked(values: Any, name: str = "X") -> Any:
    """Give back what is no masked array; NumPy would take masked values as they are.

    Raises
    ------
    ValueError
        If it is one, with the way to fill it.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise ValueError(
            f"{name} is a masked array, whose masked values would be taken as they "
            f"are. Fill them first: np.ma.filled({name}, np.nan), or of dask "
            f"da.ma.filled({name}, np.nan). Values that are not finite are refused, so "
            "drop or impute such features, or leave them out, missing='exclude'."
        )
    return values
