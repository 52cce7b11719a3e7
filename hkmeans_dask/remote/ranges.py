"""Objects read as files, by ranges: those that are expected, each fetched once.

Nothing is read ahead but what the reader says it will read (`expect`), a window of a
few ranges at a time, which are fetched together. So a read of a small object is one
request, and memory does not grow with what is read.
"""

from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from _typeshed import WriteableBuffer

    Span = tuple[int, int]

RANGE_BYTES = 8 * 2**20
"""Bytes of one request, at most."""

WINDOW_BYTES = 16 * 2**20
"""Bytes that are fetched together, at most."""

END_BYTES = 2**16
"""Bytes of the end of a larger object, where archives have their directory."""

AT_ONCE = 8
"""Objects that are asked for together, at most."""


class RangedFile(io.RawIOBase):
    """An object as a file to read.

    Parameters
    ----------
    fetch : callable
        Gives the bytes of some ranges; less of one that ends behind the object.
    size : callable
        Tells how many bytes the object has.
    """

    def __init__(
        self, fetch: Callable[[list[Span]], list[bytes]], size: Callable[[], int]
    ) -> None:
        self._fetch, self._ask_size = fetch, size
        self._size: int | None = None
        self._position = 0
        self._begin, self._window = 0, b""
        self._expected = 0

    def expect(self, stop: int) -> None:
        """Fetch up to there as soon as something before is read."""
        self._expected = stop

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it has positions."""
        return True

    def tell(self) -> int:
        """Give the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a position; from the end only the size is asked for, if need be."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence)
        self._position = (self._end() if start is None else start) + offset
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill a buffer; less only at the end."""
        content, done = memoryview(buffer).cast("B"), 0
        while done < len(content):
            some = self._some(len(content) - done)
            if not some:
                break
            content[done : done + len(some)] = some
            done += len(some)
            self._position += len(some)
        return done

    def _some(self, wanted: int) -> memoryview:
        """Give bytes at the position, from the window where it is there."""
        first = self._position - self._begin
        if self._size is not None and self._position >= self._size:
            return memoryview(b"")
        if not 0 <= first < len(self._window):
            start = self._position
            self._look(start, max(start + wanted, self._expected))
            first = 0
        return memoryview(self._window)[first : first + wanted]

    def _look(self, start: int, stop: int) -> None:
        """Fetch a window."""
        stop = min(stop, start + WINDOW_BYTES, *filter(None, [self._size]))
        cuts = [*range(start, stop, RANGE_BYTES), stop]
        spans = list(pairwise(cuts))
        self._begin, self._window = start, b""  # or there would be two
        self._window = b"".join(self._fetch(spans))

    def _end(self) -> int:
        if self._size is None:
            self._look(0, RANGE_BYTES)
            self._size = len(self._window)
            if self._size == RANGE_BYTES:
                self._size = self._ask_size()
                self._look(max(0, self._size - END_BYTES), self._size)
        return self._size


def expect(file: BinaryIO, stop: int) -> None:
    """Tell up to where a file is about to be read; a local one need not know."""
    if isinstance(file, RangedFile):
        file.expect(stop)


def together(call: Callable[[Any], Any], items: Iterable[Any], most: int) -> list[Any]:
    """Call for each item, for so many at once; give the results in their order."""
    items = list(items)
    if min(most, len(items)) <= 1:
        return [call(item) for item in items]
    with ThreadPoolExecutor(min(most, len(items))) as pool:
        return list(pool.map(call, items))
