"""A fitted model as a Zarr group: arrays and JSON, no pickles."""

from __future__ import annotations

import json
import math
import os
from importlib.metadata import version
from typing import Any

import dask.array as da
import dask.threaded
import numpy as np
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore

from hkmeans_dask.remote.patience import told
from hkmeans_dask.storage.opening import open_group
from hkmeans_dask.storage.outputs import (
    CHUNK_BYTES,
    complete,
    consolidate,
    create_group,
    describe,
    put,
    writing,
)
from hkmeans_dask.storage.replacing import ROOT
from hkmeans_dask.storage.sound import (
    check_files,
    check_labels,
    check_shapes,
    check_told,
    check_values,
    damage_told,
)
from hkmeans_dask.storage.source import as_dask, read
from hkmeans_dask.workspace.plain import SMALL_BYTES

AXES = {
    "labels": ("feature",),
    "sizes": ("cluster",),
    "cluster_centers": ("cluster", "sample"),
    "coarse_centers": ("coarse_cluster", "sample"),
    "parents": ("cluster",),
    "offset": ("sample",),
    "cluster_inertia": ("cluster",),
    "compared": ("compared_from", "compared_with"),
    "prices": ("cluster",),
    "coarse_prices": ("coarse_cluster",),
    "axes": ("sample", "axis"),
    "init": ("initial_cluster", "sample"),
}
"""Names of the axes of the arrays of a model, as xarray knows them."""


def save(
    url: str | os.PathLike[str],
    arrays: dict[str, np.ndarray[Any, Any] | da.Array],
    attributes: dict[str, Any],
    *,
    overwrite: bool,
) -> None:
    """Write a model: arrays chunk by chunk, attributes, then the status."""
    with writing(url, overwrite=overwrite) as place:
        group = create_group(place, status="writing")
        for name, values in arrays.items():
            row_bytes = max(1, values.dtype.itemsize * math.prod(values.shape[1:]))
            rows = max(1, min(len(values), CHUNK_BYTES // row_bytes))
            target = told(
                place,
                "written",
                group.create_array,
                name,
                shape=values.shape,
                dtype=values.dtype,
                dimension_names=AXES[name],
                chunks=(rows, *(max(1, n) for n in values.shape[1:])),
                compressors=(ZstdCodec(level=0), Crc32cCodec()),  # a flip is noticed
                config={"write_empty_chunks": True},
                overwrite=True,  # one that was begun
            )
            for start in range(0, len(values), rows):
                part = values[start : start + rows]
                if isinstance(part, da.Array):
                    part = part.compute(scheduler=dask.threaded.get)
                put(target, (slice(start, start + rows),), part)
        record = {"hkmeans_dask": version("hkmeans_dask"), **attributes}
        describe(group, json.loads(json.dumps(record, default=_plain)))
        complete(consolidate(group))


def load(
    url: str | os.PathLike[str], *, lazy: tuple[str, ...]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read a complete model; arrays named in `lazy` as dask arrays."""
    url = os.fspath(url)
    group, attributes = _told(url)
    attributes.pop("status")
    with damage_told(url):
        found = dict(group.arrays())
    check_shapes(url, found, attributes["fitted"])
    _check_chunks(url, *found.values())
    with damage_told(url):
        arrays = {
            name: _read(url, array, name in lazy) for name, array in found.items()
        }
    given = attributes["parameters"]
    excludes = given["metric"] == "cosine" or given.get("missing") == "exclude"
    check_values(url, arrays, excludes=excludes)
    some_excluded = arrays["sizes"].sum() < attributes["fitted"]["n_features_in"]
    arrays["labels"] = da.map_blocks(
        check_labels,
        *(arrays["labels"], url, -1 if some_excluded else 0, len(arrays["sizes"])),
        dtype=arrays["labels"].dtype,
        meta=arrays["labels"]._meta,
    )
    return arrays, attributes


def told_of(url: str | os.PathLike[str]) -> tuple[dict[str, Any], Any]:
    """Read what a complete model tells of itself, and the sizes of its clusters."""
    url = os.fspath(url)
    group, attributes = _told(url)
    with damage_told(url):
        array = group["sizes"]
    _check_chunks(url, array)
    with damage_told(url):
        return attributes, _read(url, array, False)


def _told(url: str) -> tuple[Any, dict[str, Any]]:
    """Open a model whose metadata may be read."""
    group = open_group(url)
    attributes = dict(group.attrs)
    check_told(url, attributes)
    if isinstance(group.store, LocalStore):
        check_files(url, group.store.root.rglob(ROOT), SMALL_BYTES)
    return group, attributes


def _check_chunks(url: str, *arrays: Any) -> None:
    """Refuse what is no file of a chunk: a pipe would keep us waiting."""
    for array in arrays:
        if isinstance(array.store, LocalStore):
            chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
            files = (array.store.root / array.path).rglob("*")
            check_files(url, files, 2 * chunk_bytes + SMALL_BYTES)


def _read(url: str, array: Any, lazy: bool) -> Any:
    if told(url, "listed", getattr, array, "nchunks_initialized") != array.nchunks:
        raise FileNotFoundError(
            f"{url} is damaged: chunks of {array.basename} are missing."
        )
    return as_dask(array, array.chunks) if lazy else read(array)


def _plain(value: Any) -> Any:
    """Turn a NumPy scalar into JSON."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be stored.")
