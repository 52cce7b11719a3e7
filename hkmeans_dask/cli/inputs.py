"""Arrays that commands read: opened, and decoded where their values are packed."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hkmeans_dask.cli.messages import say
from hkmeans_dask.runtime.progress import said_if_slow

if TYPE_CHECKING:
    from collections.abc import Iterator


def open_values(url: str, component: str | None = None) -> Any:
    """Open an array of Zarr to read what its values mean, and say if they are packed.

    Raises
    ------
    FileNotFoundError, ValueError
        See `opening.open_array`; if it tells in no numbers what packed values mean.
    """
    from hkmeans_dask.storage import opening, packed

    with said_if_slow("reading the metadata of %s", url):
        array = packed.decoded(opening.open_array(url, component))
    if packing := packed.packing_of(array):
        say("note", f"{url} holds packed values, which are decoded: {packing}.")
    return array


@contextmanager
def fills_explained(array: Any) -> Iterator[None]:
    """Say of NaN that are refused that they are the fill values of a packed array."""
    from hkmeans_dask.storage.packed import packing_of

    packing = packing_of(array)
    try:
        yield
    except ValueError as error:
        if not packing or not packing.fills or "Input X contains NaN" not in str(error):
            raise
        raise ValueError(
            f"{error} NaN are the fill values of packed data here, stored as "
            f"{packing.missing}."
        ) from error
