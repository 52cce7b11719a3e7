"""The folder of a workspace behind a URL: objects that appear when they are complete.

An object is written by one call, or not there: nothing is renamed. It is read by
ranges, no more of it than is needed. Each process has a file system of its own, made
from the URL by fsspec's configuration; none is pickled.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from hkmeans_dask.remote.objects import Objects
from hkmeans_dask.remote.ranges import AT_ONCE
from hkmeans_dask.workspace.plain import fullness_explained

if TYPE_CHECKING:
    from collections.abc import Iterator

ELSEWHERE = "Make space there, or let TMPDIR be a folder that has it"

_known: set[tuple[int, str, bytes | None]] = set()
"""Processes, URLs and nonces that belong together."""


class RemoteFolder:
    """A folder at a URL; what it does is what `folders.LocalFolder` does.

    Parameters
    ----------
    place : str
    """

    at_once = AT_ONCE

    def __init__(self, place: str) -> None:
        self.place = place.rstrip("/")
        self._reached: tuple[int, Objects] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Travel as a URL."""
        return {"place": self.place, "_reached": None}

    @property
    def _objects(self) -> Objects:
        """The objects as this process reaches them; what others write is seen."""
        process = os.getpid()
        if self._reached is None or self._reached[0] != process:
            self._reached = process, Objects(self.place, cached=False)
        return self._reached[1]

    @property
    def name(self) -> str:
        """Its own name."""
        return self.place.rpartition("/")[2]

    def __str__(self) -> str:
        """Give its URL."""
        return self.place

    def below(self, name: str) -> RemoteFolder:
        """Give a folder in this one."""
        return RemoteFolder(f"{self.place}/{name}")

    def make(self) -> None:
        """Make it where folders are; else it is there as soon as something is in it."""
        self._objects.make()

    def clear(self) -> None:
        """Remove all that is there."""
        self.remove(*self.names())

    def names(self) -> list[str]:
        """List what is there."""
        return self._objects.listed()

    def has(self, name: str) -> bool:
        """Whether an object is there."""
        return self._objects.size(name) is not None

    is_taken = has

    def read(self, name: str) -> bytes | None:
        """Read a small object; None if it is not there."""
        with suppress(FileNotFoundError):
            return self._objects.get(name)
        return None

    def has_nonce(self, nonce: bytes | None) -> bool:
        """Whether it is the folder of a client that has read this there.

        A URL leads a process to one place, so it is asked once, not for each file of
        rows that arrives with its own handle.
        """
        known = os.getpid(), self.place, nonce
        if known not in _known and self.read("nonce") == nonce:
            _known.add(known)
        return known in _known

    def publish(self, name: str, content: bytes) -> None:
        """Write a small object, unless it is there."""
        if not self.has(name):
            self._objects.put_new(content, name)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Give a file to write to; the object appears when it is complete.

        The file has no name, so that a process that is killed leaves none.
        """
        with tempfile.TemporaryFile() as file:
            with fullness_explained(tempfile.gettempdir(), ELSEWHERE):
                yield cast("BinaryIO", file)
                file.flush()
            self._objects.upload(cast("BinaryIO", file), name)

    @contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        """Open an object to read by ranges."""
        with self._objects.opened(name) as file:
            yield cast("BinaryIO", file)

    def remove(self, *names: str) -> None:
        """Remove objects, if they are there."""
        self._objects.remove_each(names)

    def leave_mark(self, name: str, content: bytes) -> None:
        """Write a mark anew."""
        self._objects.put(content, name)

    def touch_mark(self, name: str) -> None:
        """Let a mark be of now: write it again."""
        if (content := self.read(name)) is not None:
            self._objects.put(content, name)

    def modified(self, name: str) -> float:
        """Tell when an object was written, by the clock of the store."""
        return self._objects.modified(name)

    def remove_half_written(self) -> None:
        """Do nothing: what is not complete is not there."""
