"""Reading chunks of Zarr arrays, each decoded where it belongs.

Zarr decodes what it reads into fresh memory, and copies that into the result. Where a
chunk is one object (a local file, or one in any other store) with one usual compressor,
or none, it is decoded straight into the result; of local files, for well under half of
the processor's time. Any other array is left to Zarr.
"""

from __future__ import annotations

import itertools
import math
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numcodecs import Blosc, Zstd
from zarr.codecs import BytesCodec

from hkmeans_dask.storage.contents import can_be_read, contents, most_at_once

if TYPE_CHECKING:
    from collections.abc import Callable

    from hkmeans_dask.kmeans.kernels import Array


class Chunks(NamedTuple):
    """The chunks of one array, without the store, which not every process can open."""

    prefix: str
    key: Callable[[tuple[int, ...]], str]
    """Names a chunk, after the prefix, in the store."""

    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    fill_value: Any
    decode: Callable[[Array, Array], Array]
    most: int
    """Of them are asked for before they are decoded, at most."""

    @classmethod
    def of(cls, array: Any) -> Chunks | None:
        """Take a zarr.Array; None if Zarr has to read it."""
        if array.shards or array.filters or not lenient(array):
            return None
        names = [_name(codec) for codec in array.compressors] or [None]
        if len(names) > 1 or names[0] not in DECODERS or not _is_plain(array):
            return None
        if not can_be_read(array.store):
            return None
        chunk_bytes = math.prod(array.chunks) * array.dtype.itemsize
        return cls(
            f"{array.path}/" if array.path else "",
            array.metadata.encode_chunk_key,
            array.chunks,
            array.dtype,
            array.fill_value,
            DECODERS[names[0]],
            most_at_once(array.store, chunk_bytes),
        )

    def read(
        self, store: Any, chosen: tuple[slice, ...], shape: tuple[int, ...]
    ) -> Array:
        """Read a selection, of step 1, of the array, which has this shape."""
        spans = [
            part.indices(size)[:2] for part, size in zip(chosen, shape, strict=True)
        ]
        found = np.empty([max(0, stop - start) for start, stop in spans], self.dtype)
        places = list(itertools.product(*map(_touched, spans, self.chunks)))
        keys = [self.prefix + self.key(place) for place in places]
        with closing(contents(store, keys, self.most)) as coming:
            for number, stored in coming:
                self._decode(stored, places[number], spans, found)
        return found

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
        values = self.decode(stored, chunk)
        if values is not target:
            target[...] = values[tuple(wanted for wanted, _ in where)]


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


def _from_blosc(stored: Array, chunk: Array) -> Array:
    """Decode into the chunk, if the header's sizes (of both, in bytes) are right."""
    n_bytes, _, n_stored = stored[4:16].view("<u4")
    if n_bytes != chunk.nbytes or n_stored > stored.nbytes:  # more may follow
        raise ValueError(
            f"{stored.nbytes} bytes were read that tell of {n_stored}, and of a chunk "
            f"of {n_bytes} bytes, where {chunk.nbytes} are wanted"
        )
    Blosc().decode(stored[:n_stored], chunk)
    return chunk


def _from_zstd(stored: Array, chunk: Array) -> Array:
    return _as_stored(Zstd().decode(stored), chunk)


def _as_stored(stored: Any, chunk: Array) -> Array:
    return np.frombuffer(stored, chunk.dtype).reshape(chunk.shape)


DECODERS: dict[str | None, Callable[[Array, Array], Array]] = {
    None: _as_stored,
    "blosc": _from_blosc,
    "zstd": _from_zstd,
}
"""By the name of the compressor in Zarr's formats; they may use the chunk, or not."""


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
