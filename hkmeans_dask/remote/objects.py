"""What is below a URL, by calls that are patient with its store."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from fsspec.core import url_to_fs

from hkmeans_dask.remote.patience import status_of, told
from hkmeans_dask.remote.ranges import AT_ONCE, RangedFile, together

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


PUT_BYTES = 8 * 2**20
"""Bytes of an object that is written from memory, at most."""

BEHIND = 416
"""Status of HTTP: a range begins behind the end."""


class Objects:
    """Objects below a URL, or files below a local path; what others wrote is seen.

    Parameters
    ----------
    place : str
    name : str, optional
        What errors call it.
    cached : bool, default=True
        Whether an object store remembers what it has listed.
    """

    def __init__(
        self, place: str, name: str | None = None, *, cached: bool = True
    ) -> None:
        self._name = name or place
        self._system, path = resolve(place)
        if not cached and self._system.async_impl:
            self._system, path = resolve(place, use_listings_cache=False)
        self._system.invalidate_cache()
        self._path = path.rstrip("/")

    def make(self) -> None:
        """Make the folder, in a file system that has folders."""
        if not self._system.async_impl:
            self._told("written", "makedirs", self._path, exist_ok=True)

    @property
    def is_read_only(self) -> bool:
        """Whether nothing can be written there."""
        return "http" in np.ravel(self._system.protocol)

    @property
    def is_bucket(self) -> bool:
        """Whether this is all of a bucket: there is nothing beside it."""
        return "/" not in self._path

    def _told(self, work: str, name: str, *args: Any, **options: Any) -> Any:
        return told(self._name, work, getattr(self._system, name), *args, **options)

    def _at(self, key: str) -> str:
        return f"{self._path}/{key}" if key else self._path

    def exists(self) -> bool:
        """Whether something is there."""
        return bool(self._told("reached", "exists", self._path))

    def is_folder(self) -> bool:
        """Whether something is below it."""
        return bool(self._told("listed", "isdir", self._path))

    def names(self) -> list[str]:
        """List names directly below it."""
        if not self.is_folder():
            return []
        found = self._told("listed", "ls", self._path, detail=False)
        return [name.rstrip("/").rsplit("/", 1)[-1] for name in found]

    def keys(self) -> set[str]:
        """List all that is below it."""
        found = self._told("listed", "find", self._path)
        return {key.removeprefix(f"{self._path}/") for key in found} - {self._path}

    def get(self, key: str = "") -> bytes:
        """Read an object, in one request if it is small."""
        with self.opened(key) as file:
            file.seek(0, os.SEEK_END)  # so that its end is known
            file.seek(0)
            return file.readall()

    def put(self, content: bytes, key: str = "") -> None:
        """Write an object."""
        self._told("written", "pipe_file", self._at(key), content)

    def put_new(self, content: bytes, key: str) -> None:
        """Write an object unless it is there, in one step where the store can."""
        try:
            self._told("written", "pipe_file", self._at(key), content, mode="create")
        except Exception:  # of two one is refused; of others the next says why
            if self.size(key) is None:
                self.put(content, key)

    def upload(self, file: BinaryIO, key: str) -> None:
        """Write an object from a file of this process; it appears when complete.

        A large one is not read into memory, but where the file system would show it
        half written.
        """
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        path = f"/dev/fd/{file.fileno()}"
        named = self._system.async_impl and os.path.exists(path)  # not on Windows
        if size <= PUT_BYTES or not named:
            self.put(file.read(), key)
            return

        def send() -> None:
            file.seek(0)
            self._system.put_file(path, self._at(key))

        told(self._name, "written", send)

    def size(self, key: str) -> int | None:
        """Tell the bytes of an object; None if it is not there."""
        with suppress(FileNotFoundError):
            found = self._told("read", "info", self._at(key))
            if found["type"] == "file":
                return int(found["size"])
        return None

    def opened(self, key: str) -> RangedFile:
        """Open an object to read by ranges; nothing is asked for yet."""
        path = self._at(key)

        def fetch(spans: Sequence[tuple[int, int]]) -> list[bytes]:
            found: list[bytes] = told(self._name, "read", self._ranges, path, spans)
            return found

        return RangedFile(fetch, lambda: self.size(key) or 0)

    def _ranges(self, path: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read ranges; of those behind the end of an object nothing."""
        starts, ends = (list(numbers) for numbers in zip(*spans, strict=True))
        paths = [path] * len(spans)
        try:
            found = self._system.cat_ranges(paths, starts, ends, on_error="raise")
            for some in found:
                if isinstance(some, Exception):  # in earlier versions
                    raise some
        except Exception as error:
            if status_of(error) != BEHIND:
                raise
            size = int(self._system.info(path)["size"])
            inside = [(start, end) for start, end in spans if start < size]
            return self._ranges(path, inside) if inside else []
        return [bytes(some) for some in found]

    def modified(self, key: str = "") -> float:
        """Tell when an object was written, by the clock of the store, in seconds."""
        seconds: float = self._told("read", "modified", self._at(key)).timestamp()
        return seconds

    def copy_to(self, other: Objects, keys: Iterable[str]) -> None:
        """Copy objects within a store."""
        keys = sorted(keys)
        if keys:
            places = [self._at(key) for key in keys], [other._at(key) for key in keys]
            other._told("written", "copy", *places)

    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects, if they are there."""
        if paths := [self._at(key) for key in sorted(keys)]:
            with suppress(FileNotFoundError):
                self._told("removed", "rm", paths)

    def remove_each(self, keys: Iterable[str]) -> None:
        """Remove objects, if they are there, without looking for them first."""

        def remove(key: str) -> None:
            with suppress(FileNotFoundError):
                self._told("removed", "rm_file", self._at(key))

        together(remove, keys, AT_ONCE)

    def listed(self) -> list[str]:
        """List names directly below it in one request, if they are few."""
        with suppress(FileNotFoundError):
            found = self._told("listed", "ls", self._path, detail=False)
            return sorted(name.rstrip("/").rsplit("/", 1)[-1] for name in found)
        return []

    def remove_all(self) -> None:
        """Remove what is there, if something is."""
        with suppress(FileNotFoundError):
            self._told("removed", "rm", self._path, recursive=True)


def resolve(place: str, **options: Any) -> tuple[Any, str]:
    """Give file system and path of a URL.

    Raises
    ------
    ValueError
        If it is none, or not enough to reach what it names.
    ImportError
        If a package is missing here.
    """
    if place.startswith("zip://") and "::" not in place:
        raise ValueError(f"{place} names no archive. Give zip://::PATH of one.")
    try:
        found: tuple[Any, str] = url_to_fs(place, **options)
    except ImportError as error:
        raise ImportError(
            f"{place} cannot be reached by process {os.getpid()} on "
            f"{socket.gethostname()}: {error}. Install what is missing there, and "
            "where all workers find it."
        ) from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place} is no URL that can be opened: {error}.") from error
    return found
