"""Whether what is in a store is still the array that was opened.

Metadata are compared as they are written, before Zarr opens what is there: to open is
to make codecs, and some warn whenever they are made.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import zarr

from hkmeans_dask.compat import documents, run_on_zarr
from hkmeans_dask.storage.stores import reopened
from hkmeans_dask.storage.urls import url_of


def opened_in(store: Any, array: Any) -> Any:
    """Open what a store has now in the place of an array, to read."""
    if _is_written_in(store, array):
        return reopened(array, store)
    return zarr.open_array(store, path=array.path, mode="r")


def _is_written_in(store: Any, array: Any) -> bool:
    """Whether a store has the metadata of an array, but for attributes."""
    pairs = run_on_zarr(documents(array, store), [])
    with suppress(ValueError, TypeError, RecursionError):
        return bool(pairs) and all(_parsed(a) == _parsed(b) for a, b in pairs)
    return False


def _parsed(document: Any) -> Any:
    if document is None:
        return None
    return {**json.loads(document.to_bytes()), "attributes": None}


def refuse_other(array: Any, seen: Any, here: str = "") -> None:
    """Refuse what is in the store now, if the array was opened as another one."""
    if _layout(seen) == _layout(array):
        return
    raise FileNotFoundError(
        f"{url_of(array)}{here} is not the array that the client opened: its shape "
        f"was {array.shape} then and is {seen.shape}, or other metadata differ. Open "
        "it again if it was written to since (with use_consolidated=False if its "
        "consolidated metadata are older); else use a path or URL that the client and "
        "all workers share."
    )


def _layout(array: Any) -> dict[str, Any]:
    """Metadata but for attributes, where a fill value of NaN equals itself."""
    known: dict[str, Any] = array.metadata.to_dict()
    return known | {"attributes": None}
