"""Names of the axes of arrays that commands write, as xarray knows them."""

from __future__ import annotations

from typing import Any

FEATURE, SAMPLE = "feature", "sample"
"""Names where an input, and the model, have none."""


def named(array: Any, axis: int, by: str | None, features: str) -> tuple[str, ...]:
    """Name the axes of what comes of an array.

    Parameters
    ----------
    array : zarr.Array or Decoded
    axis : int
        The one that is replaced: features, or clusters on the way back.
    by : str or None
        What takes its place; None for labels, which have this axis alone.
    features : str
        What the model calls its features.
    """
    from hkmeans_dask.storage.opening import names_of_axes

    names = names_of_axes(array) or [None, None]
    if by is None:
        return (names[axis] or features,)
    kept = names[1 - axis] or SAMPLE
    kept = f"{kept}_" if kept == by else kept  # xarray takes no name twice
    return (by, kept) if axis == 0 else (kept, by)
