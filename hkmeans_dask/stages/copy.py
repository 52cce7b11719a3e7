"""Stage 0, only where X is so chunked along samples: copy it into whole features.

Where chunks along samples are too large to be joined, X is read once and written to the
workspace, cut along features so that a later pass reads whole features, about 64 MB of
them at a time::

                  samples
    features  +-------+-------+-- ...
              | piece | piece |       one file per block of X: its pieces, from top to
              |-------+-------+--     bottom, each followed by its checksum
              | piece | piece |
              +-------+-------+-- ... one block of the copy: a piece of each of the
              | piece | piece |       files side by side

Where a piece begins is arithmetic, not in a table of contents as in a ZIP archive: of n
files as tall as X each has n pieces, so that n^2 times a table of n would be read.
"""

from __future__ import annotations

import warnings
import zlib
from dataclasses import replace
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from dask.utils import format_bytes

from hkmeans_dask.inputs import arrays
from hkmeans_dask.remote.ranges import expect
from hkmeans_dask.runtime.tasks import map_blocks, names
from hkmeans_dask.workspace.rows import RAW

if TYPE_CHECKING:
    from hkmeans_dask.inputs.arrays import Features
    from hkmeans_dask.kmeans.kernels import Array
    from hkmeans_dask.runtime.execution import Runner
    from hkmeans_dask.workspace.files import OnDisk

CHECKSUM_BYTES = 4


class Copy:
    """The copy of X in files, read as an array (by slices, as dask does).

    Parameters
    ----------
    blocks : dask array of shape (n_features, n_samples)
        X; its chunks tell how the copy is laid out.
    workspace : OnDisk
    """

    ndim = 2

    def __init__(self, blocks: da.Array, workspace: OnDisk) -> None:
        self.shape, self.dtype = blocks.shape, blocks.dtype
        self._workspace = workspace
        self._tops, self._columns = (np.cumsum((0, *sizes)) for sizes in blocks.chunks)
        self._cuts = feature_cuts(blocks)

    @property
    def chunks(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Those in which nothing is read that is not needed."""
        return tuple(np.diff(self._cuts).tolist()), (self.shape[1],)

    def __getitem__(self, index: tuple[slice, slice]) -> Array:
        """Read the pieces that have the features of a slice."""
        rows, columns = index
        start, stop, _ = rows.indices(self.shape[0])
        first = int(np.searchsorted(self._cuts, start, side="right")) - 1
        last = int(np.searchsorted(self._cuts, stop))
        begin = self._cuts[first]
        found = np.empty((self._cuts[last] - begin, self.shape[1]), self.dtype)

        def put(where: tuple[int, int]) -> None:
            piece, column = where
            here = slice(*(self._cuts[piece : piece + 2] - begin))
            there = slice(*self._columns[column : column + 2])
            found[here, there] = self._piece(piece, column)

        pieces = product(range(first, last), range(len(self._columns) - 1))
        self._workspace.each(put, pieces)
        return found[start - begin : stop - begin, columns]

    def _piece(self, piece: int, column: int) -> Array:
        first, last = self._cuts[piece : piece + 2]
        top = self._tops[np.searchsorted(self._tops, first, side="right") - 1]
        width = int(self._columns[column + 1] - self._columns[column])
        row_bytes = width * self.dtype.itemsize
        before = piece - int(np.searchsorted(self._cuts, top))
        with self._workspace.opened(self.name(top, column)) as file:
            n_bytes = int(last - first) * row_bytes
            start = int(first - top) * row_bytes + before * CHECKSUM_BYTES
            expect(file, start + n_bytes + CHECKSUM_BYTES)
            file.seek(start)
            data = file.read(n_bytes)
            found = np.frombuffer(data, self.dtype).reshape(last - first, width)
            if self._checksum(data, top, column) != file.read(CHECKSUM_BYTES):
                raise ValueError(f"Bad CRC-32 of features {first} to {last - 1}")
        return found

    def save(self, block: Any, top: int, column: int) -> None:
        """Write the file of one block of X.

        Parameters
        ----------
        block : array-like of shape (height, width)
        top : int
            Its first feature.
        column : int
            Its number along samples.
        """
        first, last = np.searchsorted(self._cuts, (top, top + len(block)))
        with self._workspace.writing(self.name(top, column)) as file:
            for start, stop in pairwise(self._cuts[first : last + 1] - top):
                rows = np.asarray(block[start:stop])
                piece = rows.astype(self.dtype, "C", casting="same_kind", copy=False)
                file.write(piece.data)
                file.write(self._checksum(piece.data, top, column))

    def _checksum(self, data: bytes | memoryview, top: int, column: int) -> bytes:
        """CRC-32 of a piece and of what its file belongs to."""
        whose = zlib.crc32(self._workspace.whose(self.name(top, column)))
        return zlib.crc32(data, whose).to_bytes(CHECKSUM_BYTES, "little")

    @staticmethod
    def name(top: int, column: int) -> str:
        """Name of the file of one block."""
        return f"copy-{top}-{column}{RAW}"

    def lacks(self) -> list[tuple[int, int]]:
        """Find the blocks, by their numbers, that are not there yet."""
        there = set(self._workspace.names())
        return [
            (row, column)
            for row, top in enumerate(self._tops[:-1])
            for column in range(len(self._columns) - 1)
            if self.name(top, column) not in there
        ]


def feature_cuts(blocks: da.Array) -> Array:
    """Where the blocks of the copy begin and end along features."""
    most = max(1, arrays.BLOCK_BYTES // (blocks.shape[1] * blocks.itemsize))
    tops = np.cumsum((0, *blocks.chunks[0]))
    cuts = [_even_cuts(top, end, most) for top, end in pairwise(tops)]
    return np.concatenate([[0], *cuts])


def _even_cuts(top: int, end: int, most: int) -> Array:
    """Where the pieces of a block end: about equally high, at most `most` features."""
    n_pieces = -(-(end - top) // most)
    return top + (end - top) * np.arange(1, n_pieces + 1) // n_pieces


def copied(features: Features, workspace: OnDisk) -> Features:
    """Give X as it is read from its copy; reads nothing.

    Parameters
    ----------
    features : Features
        Whose blocks do not hold whole features.
    workspace : OnDisk

    Returns
    -------
    features : Features
        In blocks of whole features, about 64 MB each.
    """
    copy = Copy(features.blocks, workspace)
    meta = np.empty((0, 0), copy.dtype)
    blocks = da.from_array(copy, copy.chunks, name=False, asarray=False, meta=meta)
    return replace(features, blocks=blocks)


def copy_features(features: Features, workspace: OnDisk, runner: Runner) -> None:
    """Write what the copy lacks; reads that part of X once, and warns.

    Parameters
    ----------
    features : Features
        Whose blocks do not hold whole features.
    workspace : OnDisk
    runner : Runner
    """
    blocks = features.blocks
    copy = Copy(blocks, workspace)
    lacking = copy.lacks()
    if not lacking:
        return
    heights, widths = blocks.chunks
    n_values = sum(heights[row] * widths[column] for row, column in lacking)
    _warn(copy, n_values * blocks.itemsize, workspace)
    numbers = da.from_array(np.arange(blocks.numblocks[1])[None], chunks=1)
    tasks = map_blocks("copy", _save, blocks, numbers, copy)
    wanted = [tasks[row][column] for row, column in lacking]
    runner.compute(*wanted, count=names(wanted))


def _save(block: Any, top: int, number: Array, copy: Copy) -> None:
    copy.save(block, top, number.item())


def _warn(copy: Copy, n_bytes: int, workspace: OnDisk) -> None:
    n_features, n_samples = copy.shape
    warnings.warn(
        f"X ({n_features} features x {n_samples} samples) is chunked along samples, "
        f"and blocks of whole features would exceed {arrays.JOINED_BYTES >> 20} MiB: "
        f"{format_bytes(n_bytes)} of it are copied to {workspace.folder} first. To "
        f"spare that, store X in chunks of about {copy.chunks[0][0]} whole features.",
        stacklevel=8,
    )
