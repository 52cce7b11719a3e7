"""What comes in: arrays of every kind, as blocks of features in rows.

Whatever X is, the stages see a dask array ``[n_features, n_samples]`` whose blocks
hold whole features, or which `stages.copy` makes so. What can be refused before data is
read is refused here.
"""

from __future__ import annotations

import math
import sys
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
import scipy.sparse
from dask.array.utils import meta_from_array
from dask.base import is_dask_collection
from dask.delayed import Delayed
from sklearn.utils import check_array

from hkmeans_dask.inputs.checks import arithmetic_dtype
from hkmeans_dask.inputs.tables import NUMBERS_ONLY, numbers
from hkmeans_dask.kmeans.finite import unmasked
from hkmeans_dask.storage.packed import (
    Decoded,
    packing_of,
    stored,
    warn_of_packed,
    warn_of_packed_in,
)

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.kernels import Array

BLOCK_BYTES = 64 * 2**20
"""Bytes of one block where we choose it (whole chunks or shards)."""

MEMORY_BLOCK_BYTES = 32 * 2**20
"""Bytes of one block of an array in memory: nothing is read, only shared out."""

JOINED_BYTES = 256 * 2**20
"""Bytes of a block of whole features joined from several chunks, at most."""

ARRAYS_OF = {
    "to_dask_array": "Call X.to_dask_array(lengths=True).",  # tables
    "data_vars": "Pass one of its variables, X['name'], or X.to_dataarray().",
    "dims": "Pass X.data, or xarray.DataArray(X).",  # xarray.Variable
}
"""How to get an array of a collection of dask, by a name that such ones have."""

DELAYED = "Make one with dask.array.from_delayed(X, shape, dtype)."
"""How to get an array of all others."""


@dataclass(frozen=True)
class Features:
    """X as the stages see it."""

    blocks: da.Array
    """(n_features, n_samples)."""

    dtype: np.dtype[Any]
    """Of the arithmetic: float32 or float64."""

    in_place: Array | None
    """X itself where it is in this process and needs neither cast nor transposition."""

    in_memory: bool
    """Whether X came as an array of this process, so results go back as one."""

    read_bytes: int = 0
    """Bytes that reading a block takes for a moment, besides the block."""

    weights: Array | None = None
    """(n_features,), float64: how often each feature counts, but for a power of two, so
    that the largest is from 0.5 to 1."""

    weight_exponent: int = 0
    """Of that power."""

    @property
    def whole(self) -> bool:
        """Whether blocks hold whole features."""
        return bool(self.blocks.numblocks[1] == 1)

    @property
    def n_trainable(self) -> int:
        """Features that may be trained on: all, or those with a weight above 0."""
        if self.weights is None:
            return int(self.blocks.shape[0])
        return int(np.count_nonzero(self.weights))

    def weight_blocks(self) -> da.Array | None:
        """Weights as a column in the blocks of X: a task gets those of its block."""
        if self.weights is None:
            return None
        chunks = (self.blocks.chunks[0], 1)
        column: da.Array = da.from_array(self.weights[:, None], chunks, name=False)
        return column

    def weighted(self, weights: Array | None) -> Features:
        """Give the features weights; training rows are then copies, with these."""
        if weights is None:
            return self
        exponent = int(np.frexp(weights.max())[1])
        scaled = np.ldexp(weights, -exponent)
        return replace(self, in_place=None, weights=scaled, weight_exponent=exponent)


def is_lazy(X: Any) -> bool:
    """Whether X is a dask or Zarr array, or another collection of dask."""
    return is_dask_collection(X) or is_zarr(X)


def is_zarr(X: Any) -> bool:
    """Whether X is an array of Zarr, without importing zarr to find out."""
    zarr = sys.modules.get("zarr")
    return zarr is not None and isinstance(X, (zarr.Array, Decoded))


def lazily(X: Any, feature_axis: int) -> Any:
    """Take an array of a file (h5py, netCDF4, ...) as one of dask; give back others.

    Such arrays read what they are indexed by, and do not add up as arrays in memory do.
    Blocks are whole features, whole chunks of the file where it tells them, read by one
    thread at a time.
    """
    of_a_file = (
        isinstance(getattr(X, "dtype", None), np.dtype)
        and getattr(X, "ndim", None) == 2
        and hasattr(X, "__getitem__")
        and not hasattr(X, "__add__")
    )
    if not of_a_file or is_lazy(X) or 0 in X.shape:
        return X
    first = X[:1, :1]  # netCDF4 decodes values to another dtype
    row_bytes = max(1, X.shape[1 - feature_axis] * first.dtype.itemsize)
    chunks = getattr(X, "chunks", None)
    step = chunks[feature_axis] if isinstance(chunks, tuple) else 1
    rows = max(1, BLOCK_BYTES // row_bytes // step) * step
    wanted = (rows, -1) if feature_axis == 0 else (-1, rows)
    meta = np.empty((0, 0), first.dtype)
    lazy = da.from_array(X, wanted, lock=True, asarray=False, meta=meta)
    return da.Array(lazy.dask, lazy.name, lazy.chunks, meta=meta)


def read_features(X: Any, feature_axis: int, *, join: bool = True) -> Features:
    """Take any array as features in rows.

    Parameters
    ----------
    X : array-like, dask array or zarr.Array, 2-D
    feature_axis : {0, 1}
    join : bool, default=True
        Whether chunks along samples are joined: into blocks of whole features where
        these stay below 256 MiB, else into blocks of about 64 MB.

    Returns
    -------
    features : Features

    Raises
    ------
    TypeError
        If X is sparse or a collection of dask that is no array.
    ValueError
        If X is not 2-D, not numbers or of unknown chunk sizes.
    """
    if dask.config.get("array.query-planning", None):
        raise ValueError(
            "dask's array.query-planning is on, but its arrays have neither .blocks "
            "nor to_delayed. Set it to False before dask.array is imported."
        )
    if not is_lazy(X):
        return _in_memory(X, feature_axis)
    if is_zarr(X):
        array = _from_zarr(X, feature_axis, join)
    else:
        array = _unmasked(plain_dask(X))
        warn_of_packed_in(X.__dask_graph__())
    array = _check_dask(array)
    if feature_axis == 1:
        array = array.T
    if join:
        array = _join_samples(array)
    dtype = arithmetic_dtype(array.dtype)
    extra = _reading(X, array)
    return Features(array, dtype, None, in_memory=False, read_bytes=extra)


def plain_dask(X: Any) -> da.Array:
    """Take an array of dask, or one with its interface (the package dask-array).

    Raises
    ------
    TypeError
        If it is another collection of dask; says which call makes an array of it.
    """
    if isinstance(X, da.Array):
        return X
    known = set() if isinstance(X, Delayed) else set(dir(X))  # it has what is asked for
    if known >= {"chunks", "dtype", "name", "blocks"}:
        return da.Array(X.__dask_graph__(), X.name, X.chunks, dtype=X.dtype)
    advice = next((ARRAYS_OF[name] for name in ARRAYS_OF if name in known), DELAYED)
    raise TypeError(f"X is a {type(X).__name__} of dask, but no array. {advice}")


def _reading(X: Any, blocks: da.Array) -> int:
    """Bytes that reading the largest block takes for a moment, besides the block."""
    block: int = math.prod(map(max, blocks.chunks)) * blocks.dtype.itemsize
    if not is_zarr(X):
        return block
    from hkmeans_dask.storage.chunks import Chunks
    from hkmeans_dask.storage.source import reading, unit

    array = stored(X)
    itemsize = array.dtype.itemsize
    chunk = math.prod(array.chunks) * itemsize
    unit_bytes = math.prod(unit(array)) * itemsize
    raw = block // blocks.dtype.itemsize * itemsize
    ours = Chunks.of(array)
    extra = reading(raw, chunk, unit_bytes, ours.most if ours else None)
    # What is stored, twice where its sign changes, and where it is a fill value.
    return extra + (2 * raw + block // blocks.dtype.itemsize if packing_of(X) else 0)


def stored_bytes(X: Any, features: Features) -> int:
    """Bytes of one read of X: as stored, of a Zarr array."""
    return int(stored(X).nbytes_stored() if is_zarr(X) else features.blocks.nbytes)


def read_whole_features(X: Any, feature_axis: int) -> Features:
    """Take any array as features in rows, as `read_features`, in whole features.

    Raises
    ------
    ValueError
        Also if X is chunked along samples so that blocks of whole features would be
        too large.
    """
    features = read_features(X, feature_axis)
    if not features.whole:
        n_features, n_samples = features.blocks.shape
        fitting = max(1, JOINED_BYTES // (n_samples * features.blocks.itemsize))
        chunks = (fitting, n_samples) if feature_axis == 0 else (n_samples, fitting)
        raise ValueError(
            f"X ({n_features} features x {n_samples} samples) is chunked along "
            "samples, and a block of whole features would exceed "
            f"{JOINED_BYTES >> 20} MiB. Store it in chunks of whole features first: "
            f"X.rechunk({chunks}).to_zarr(...)."
        )
    return features


def feature_chunks(n_features: int, values: da.Array) -> tuple[int, ...]:
    """Cut features into blocks for an output with the sample chunks of `values`."""
    width = max(1, *values.chunks[1])
    rows = max(1, BLOCK_BYTES // (width * values.dtype.itemsize))
    chunks: tuple[int, ...] = da.core.normalize_chunks(rows, (n_features,))[0]
    return chunks


def _refuse_not_2d(array: Any) -> None:
    """Refuse another number of axes, without printing the values."""
    if array.ndim != 2:
        raise ValueError(
            f"Expected 2D array, got {array.ndim}D array instead: shape={array.shape}. "
            "Reshape your data to two axes, features and samples."
        )


def _in_memory(X: Any, feature_axis: int) -> Features:
    if feature_axis == 0 and isinstance(X, np.ndarray):
        _refuse_not_2d(X)  # scikit-learn's advice is for features in columns
    array = numbers(X)
    array = array.T if feature_axis == 1 else array
    dtype = arithmetic_dtype(array.dtype)
    row_bytes = max(1, array.shape[1] * array.itemsize)
    rows = max(1, MEMORY_BLOCK_BYTES // row_bytes)
    blocks = _views(array, rows)
    flags = array.flags
    ready = array.dtype == dtype and flags.c_contiguous and flags.aligned
    return Features(blocks, dtype, array if ready else None, in_memory=True)


def _views(array: Array, rows: int) -> da.Array:
    """Cut an array into blocks of `rows`, without the copy of ``da.from_array``."""
    name = f"array-{uuid.uuid4().hex}"
    chunks = da.core.normalize_chunks((rows, -1), array.shape, dtype=array.dtype)
    starts = range(0, max(1, len(array)), rows)
    graph = {(name, i, 0): array[at : at + rows] for i, at in enumerate(starts)}
    return da.Array(graph, name, chunks, meta=array[:0])


def _unmasked(X: Any) -> da.Array:
    """Take an array of dask; refuse masked ones, when the meta or a block tells.

    Before blocks are joined with others, where they would lose their masks.
    """
    array = plain_dask(X)
    meta = unmasked(meta_from_array(array))
    checked: da.Array = da.map_blocks(unmasked, array, dtype=array.dtype, meta=meta)
    return checked


def _check_dask(array: da.Array) -> da.Array:
    """Check what the metadata of a dask array tell; drop its empty blocks."""
    _refuse_not_2d(array)
    if np.isnan(array.shape).any():
        raise ValueError(
            f"X has unknown chunk sizes: shape={array.shape}. Call "
            "X.compute_chunk_sizes() first, or to_dask_array(lengths=True) on a "
            "dask DataFrame."
        )
    if scipy.sparse.issparse(meta_from_array(array)):
        raise TypeError(
            "Sparse data was passed, but dense data is required. Use "
            "X.map_blocks(lambda block: block.toarray()) to convert it."
        )
    if array.dtype.kind == "O":
        array = array.astype(np.float64)
    if array.dtype.kind not in "USV":
        arithmetic_dtype(array.dtype)
    check_array(np.ones((1, 1), array.dtype), **NUMBERS_ONLY)
    full = tuple(tuple(n for n in sizes if n) or (0,) for sizes in array.chunks)
    return array if full == array.chunks else array.rechunk(full)


def _join_samples(array: da.Array) -> da.Array:
    """Join chunks along samples, into blocks of whole features where these fit."""
    widths = array.chunks[1]
    if len(widths) == 1:
        return array
    column_bytes = max(1, max(array.chunks[0]) * array.itemsize)
    wide: tuple[int, ...] = (array.shape[1],)
    if wide[0] * column_bytes > JOINED_BYTES:
        wide = _together(widths, BLOCK_BYTES // column_bytes)
    joined: da.Array = array.rechunk((array.chunks[0], wide))
    return joined


def _together(widths: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Add up neighbouring widths, to at most `most`."""
    sums = [widths[0]]
    for width in widths[1:]:
        if sums[-1] + width <= most:
            sums[-1] += width
        else:
            sums.append(width)
    return tuple(sums)


def _from_zarr(X: Any, feature_axis: int, join: bool) -> da.Array:
    """Read a Zarr array in blocks of whole chunks (or shards), about 64 MB each.

    Blocks that cannot hold whole features grow along samples: a fit copies each to a
    file, and every block of whole features is read from as many files as lie abreast.
    """
    from hkmeans_dask.storage.source import as_dask, unit

    _refuse_not_2d(X)
    arithmetic_dtype(X.dtype)
    if not packing_of(X):
        warn_of_packed(X)
    sizes, other = unit(stored(X)), 1 - feature_axis
    step = [max(1, min(n, extent)) for n, extent in zip(sizes, X.shape, strict=True)]
    n_samples = max(1, X.shape[other])
    grown = feature_axis
    if join and step[feature_axis] * n_samples * X.dtype.itemsize <= JOINED_BYTES:
        step[other] = n_samples
    elif join and step[other] < n_samples:
        grown = other
    step[grown] *= max(1, BLOCK_BYTES // (step[0] * step[1] * X.dtype.itemsize))
    return as_dask(X, (step[0], step[1]))
