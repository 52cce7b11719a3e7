"""What is at a path or URL: Zarr arrays and groups, opened to read.

What is written appears only when it is complete, with ``status: "complete"`` set last;
a store that has another status is refused. Nothing is ever unpickled.
"""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numcodecs.errors
import zarr
import zarr.errors
from zarr.storage import ZipStore

from hkmeans_dask.remote.objects import Objects, resolve
from hkmeans_dask.remote.patience import Unreachable, told
from hkmeans_dask.storage.packed import stored
from hkmeans_dask.storage.replacing import standing
from hkmeans_dask.storage.source import VARYING
from hkmeans_dask.storage.stores import store_at
from hkmeans_dask.workspace.plain import is_file_of

COMPLETE = "complete"

ZIPPED = "zip://::"
"""How URLs of local archives begin. Zarr opens them itself: through fsspec it raises
where a key is not there, in version 3.1.4."""

METADATA = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")
"""Names of the files of metadata of both formats."""

METADATA_BYTES = 2**30
"""Bytes of one of them, at most."""

UNKNOWN_CODEC = (
    numcodecs.errors.UnknownCodecError,
    getattr(zarr.errors, "UnknownCodecError", KeyError),
)
"""What Zarr raises, by format and version, for a codec that is not installed."""

NOTHING_THERE = (FileNotFoundError, FileExistsError, NotADirectoryError)
"""What Zarr raises, by version, where no store is; also where another file is."""


def open_array(url: str, component: str | None = None) -> Any:
    """Open a Zarr array (v2 or v3) to read.

    Parameters
    ----------
    url : str, a local path or fsspec URL
    component : str, the name of the array inside a group, optional

    Raises
    ------
    FileNotFoundError, ValueError
        If nothing is there; if a group or a half-written array is there.
    """
    node = _open(url, component)
    if not isinstance(node, zarr.Array):
        _refuse_sparse(node, url)
        names = ", ".join(_arrays_in(node)) or "none"
        raise ValueError(
            f"{url} is a Zarr group, not an array. Name one of its arrays with "
            f"--component: {names}."
        )
    _refuse_incomplete(node, url)
    return node


def _refuse_sparse(group: Any, url: str) -> None:
    """Refuse a sparse matrix, which AnnData and others store as a group."""
    kind = group.attrs.get("encoding-type", "")
    if kind in ("csr_matrix", "csc_matrix") or {"data", "indices", "indptr"} <= {
        name for name, _ in group.arrays()
    }:
        name = f"{url}/{group.path}".rstrip("/")
        raise ValueError(
            f"{name} is a sparse matrix ({kind or 'data, indices, indptr'}), but dense "
            "data is required. Store it as a dense array first: with anndata, "
            "adata.X.toarray(), block by block where it is large."
        )


def _arrays_in(group: Any) -> list[str]:
    """Paths of the arrays of a group and of its groups."""
    members = group.members(max_depth=None)
    return sorted(path for path, node in members if isinstance(node, zarr.Array))


def find_axis(array: Any, axis: int | str) -> int:
    """Position of an axis that may be named, as xarray names them in what it writes.

    Raises
    ------
    ValueError
        If no axis of the array has the name.
    """
    if not isinstance(axis, str):
        return axis
    names = names_of_axes(array)
    if axis not in names:
        raise ValueError(
            f"No axis of the array is named {axis!r}; their names: "
            f"{', '.join(map(str, names)) or 'none'}. Give --feature-axis 0 or 1 to "
            "fit; a model takes set_params(feature_axis=...) before to_zarr."
        )
    return names.index(axis)


def names_of_axes(array: Any) -> list[str | None]:
    """Give the names that axes have in Zarr, all None or absent where they have none.

    They are metadata in format 3, and in format 2 an attribute that xarray writes.
    """
    array = stored(array)
    names = getattr(array.metadata, "dimension_names", None)
    return list(names or array.attrs.get("_ARRAY_DIMENSIONS", ()))


def open_group(url: str) -> Any:
    """Open a complete Zarr group to read; raises like `open_array`."""
    node = _open(url, None)
    if not isinstance(node, zarr.Group):
        raise ValueError(f"{url} is a Zarr array, not a model.")
    _refuse_incomplete(node, url)
    if "hkmeans_dask" not in node.attrs:
        raise ValueError(f"{url} is a Zarr group, but not a model of hkmeans_dask.")
    return node


def _open(url: str, component: str | None) -> Any:
    _refuse_no_files(location(url), component or "")
    try:
        return told(url, "read", _open_standing, location(url), component or "")
    except UNKNOWN_CODEC as error:
        raise ValueError(
            f"{url} has chunks in a codec that is not installed ({error}). Install the "
            "package that has it, on all workers too."
        ) from error
    except Unreachable:
        raise
    except (*NOTHING_THERE, zarr.errors.BaseZarrError) as error:
        if (bucket := _missing_bucket(location(url))) is not None:
            raise FileNotFoundError(
                f"{url} is not there: there is no bucket {bucket}, or it may not be "
                "seen. Look whether its name and the endpoint are right."
            ) from error
        name = f"{url} (component {component})" if component else url
        zipped = " A ZIP archive is zip://::PATH." if url.endswith(".zip") else ""
        raise FileNotFoundError(
            f"{name} is not there, or is no Zarr array or group.{zipped}"
        ) from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        if "rectilinear" in str(error).lower():  # off by default
            raise ValueError(f"{url} {VARYING}.") from error
        raise ValueError(f"{url} cannot be read as Zarr: {error}") from error


def _refuse_no_files(place: str, component: str) -> None:
    """Refuse what would keep us waiting: metadata that are a pipe; no such URL."""
    if "://" in place:
        resolve(place)
        return
    place = standing(place)
    for folder, name in itertools.product({"", component}, METADATA):
        path = Path(place) / folder / name
        if path.exists() and not is_file_of(path, METADATA_BYTES):
            raise ValueError(f"{path} is no file of metadata. Write the store again.")


def _missing_bucket(place: str) -> str | None:
    """Name the bucket of a URL, if that is what is not there."""
    protocol, _, path = place.partition("://")
    bucket = path.partition("/")[0]
    if not bucket or protocol in ("file", "http", "https", "memory"):
        return None
    with suppress(Exception):  # what can be told of it is a help, no more
        if not Objects(f"{protocol}://{bucket}").exists():
            return bucket
    return None


def _open_standing(place: str, component: str) -> Any:
    store: Any = store_at(standing(place))
    if place.startswith(ZIPPED) and "://" not in place.removeprefix(ZIPPED):
        store = ZipStore(place.removeprefix(ZIPPED), mode="r")
    return zarr.open(store, path=component, mode="r")


def _refuse_incomplete(node: Any, url: str) -> None:
    status = node.attrs.get("status", COMPLETE)
    if status != COMPLETE:
        raise ValueError(
            f"{url} is not complete (status {status!r}): the run that wrote it did "
            "not end. Run it again with --overwrite."
        )


def location(url: str | os.PathLike[str]) -> str:
    """Absolute path of a local store (also given as ``file://``), else the URL."""
    text = os.fspath(url)
    if text.startswith("file:"):
        text = unquote(urlsplit(text).path)
    return text if "://" in text else str(Path(text).absolute())


def is_private(url: str) -> bool:
    """Whether only this process sees the store behind a URL."""
    return location(url).startswith("memory://")
