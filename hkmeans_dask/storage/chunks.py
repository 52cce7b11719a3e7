"""Reading chunks of local Zarr arrays, each decoded where it belongs.

Zarr reads a file into fresh memory, decodes it into more of it, and copies that into
the result. Where a chunk is one local file with one usual compressor, or none, the file
is decoded straight into the result, for well under half of the processor's time. Where
files take long to come (a network, a slow disk) several are read at once. Any other
array is left to Zarr.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numcodecs import Blosc, Zstd
from zarr.codecs import BytesCodec
from zarr.storage import LocalStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hkmeans_dask.kmeans.kernels import Array


IN_FLIGHT = 16
"""Files that are read at once where one takes long, at most."""

AHEAD_BYTES = 16 * 2**20
"""Bytes of their chunks, at most."""

SLOW = 0.005
"""Seconds that reading a file takes, from which on others are read meanwhile."""


class LocalChunks(NamedTuple):
    """The chunks of one array."""

    folder: Path
    key: Callable[[tuple[int, ...]], str]
    """Path of a chunk in the folder."""

    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    fill_value: Any
    decode: Callable[[Array, Array], None]

    @classmethod
    def of(cls, array: Any) -> LocalChunks | None:
        """Take a zarr.Array; None if Zarr has to read it."""
        if not isinstance(array.store, LocalStore) or array.shards or array.filters:
            return None
        if not lenient(array):
            return None
        names = [_name(codec) for codec in array.compressors] or [None]
        if len(names) > 1 or names[0] not in DECODERS or not _is_plain(array):
            return None
        return cls(
            array.store.root / array.path,
            array.metadata.encode_chunk_key,
            array.chunks,
            array.dtype,
            array.fill_value,
            DECODERS[names[0]],
        )

    def read(self, chosen: tuple[slice, ...], shape: tuple[int, ...]) -> Array:
        """Read a selection, of step 1, of the array, which has this shape."""
        spans = [
            part.indices(size)[:2] for part, size in zip(chosen, shape, strict=True)
        ]
        found = np.empty([max(0, stop - start) for start, stop in spans], self.dtype)
        places = list(itertools.product(*map(_touched, spans, self.chunks)))
        for place, stored in zip(places, self._contents(places), strict=True):
            self._decode(stored, place, spans, found)
        return found

    def _contents(self, places: list[tuple[int, ...]]) -> Iterator[Array | None]:
        """Yield the bytes of chunks; once one takes long, several are read ahead."""
        files = [self.folder / self.key(place) for place in places]
        most = AHEAD_BYTES // max(1, math.prod(self.chunks) * self.dtype.itemsize)
        took = 0.0
        while files and (took < SLOW or most < 2):
            start = time.perf_counter()
            stored = _stored(files.pop(0))
            took = time.perf_counter() - start
            yield stored
        if files:
            yield from _read_ahead(files, min(IN_FLIGHT, most))

    def _decode(
        self,
        stored: Array | None,
        place: tuple[int, ...],
        spans: list[tuple[int, int]],
        found: Array,
    ) -> None:
        """Decode the part of a chunk that is wanted into the result."""
        where = list(map(_overlap, place, self.chunks, spans))
        target = found[tuple(inside for _, inside in where)]
        if stored is None:
            target[...] = self.fill_value
            return
        whole = target.shape == self.chunks and target.flags.c_contiguous
        chunk = target if whole else np.empty(self.chunks, self.dtype)
        self.decode(stored, chunk)
        if not whole:
            target[...] = chunk[tuple(wanted for wanted, _ in where)]


def lenient(array: Any) -> bool:
    """Whether a chunk that is not there is the fill value, and no error."""
    config = getattr(array, "config", None)  # before Zarr 3.2 there is no choice
    return getattr(config, "read_missing_chunks", True)


def _touched(span: tuple[int, int], size: int) -> range:
    """Numbers of the chunks along one axis that have something of a span."""
    start, stop = span
    return range(start // size, -(-stop // size)) if start < stop else range(0)


def _overlap(number: int, size: int, span: tuple[int, int]) -> tuple[slice, slice]:
    """Where a chunk and a span meet along one axis: within the chunk and the span."""
    first = number * size
    start, stop = max(span[0], first), min(span[1], first + size)
    return slice(start - first, stop - first), slice(start - span[0], stop - span[0])


def _read_ahead(files: list[Path], most: int) -> Iterator[Array | None]:
    """Yield the bytes of files in order, of which so many are read at once."""
    with ThreadPoolExecutor(most) as pool:
        coming = deque(pool.submit(_stored, file) for file in files[:most])
        for file in [*files[most:], *[None] * len(coming)]:
            stored = coming.popleft().result()
            if file is not None:
                coming.append(pool.submit(_stored, file))
            yield stored


def _stored(path: Path) -> Array | None:
    """Bytes of a file, None if there is none.

    A bytes object would not be put into large pages.
    """
    try:
        with path.open("rb") as file:
            stored = np.empty(os.fstat(file.fileno()).st_size, np.uint8)
            return stored[: file.readinto(stored.data)]
    except FileNotFoundError:
        return None


def _from_blosc(stored: Array, chunk: Array) -> None:
    """Decode into the chunk, if the header's sizes (of both, in bytes) are right."""
    n_bytes, _, n_stored = stored[4:16].view("<u4")
    if n_bytes != chunk.nbytes or n_stored > stored.nbytes:  # more may follow
        raise ValueError(
            f"{stored.nbytes} bytes were read that tell of {n_stored}, and of a chunk "
            f"of {n_bytes} bytes, where {chunk.nbytes} are wanted"
        )
    Blosc().decode(stored[:n_stored], chunk)


def _from_zstd(stored: Array, chunk: Array) -> None:
    _copied(Zstd().decode(stored), chunk)


def _copied(stored: Any, chunk: Array) -> None:
    chunk[...] = np.frombuffer(stored, chunk.dtype).reshape(chunk.shape)


DECODERS: dict[str | None, Callable[[Array, Array], None]] = {
    None: _copied,
    "blosc": _from_blosc,
    "zstd": _from_zstd,
}
"""By the name of the compressor in Zarr's formats."""


def _name(codec: Any) -> str | None:
    """Name a compressor of Zarr format 2 or 3."""
    name: str = getattr(codec, "codec_id", None) or codec.to_dict()["name"]
    return name


def _is_plain(array: Any) -> bool:
    """Whether decoded bytes are the values: native real numbers in C order."""
    native = array.dtype.kind in "biuf" and array.dtype.isnative
    if array.metadata.zarr_format == 2:
        return bool(native and array.order == "C" and array.fill_value is not None)
    coded = array.serializer
    endian = (None, BytesCodec().endian)
    return bool(native and isinstance(coded, BytesCodec) and coded.endian in endian)
