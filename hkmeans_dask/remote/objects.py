"""What is below a URL, by calls that are patient with its store."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from fsspec.core import url_to_fs

from hkmeans_dask.remote.patience import told

if TYPE_CHECKING:
    from collections.abc import Iterable


class Objects:
    """Objects below a URL, or files below a local path; what others wrote is seen.

    Parameters
    ----------
    place : str
    name : str, optional
        What errors call it.
    """

    def __init__(self, place: str, name: str | None = None) -> None:
        self._name = name or place
        self._system, path = resolve(place)
        self._system.invalidate_cache()
        self._path = path.rstrip("/")

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
        """Read an object."""
        content: bytes = self._told("read", "cat_file", self._at(key))
        return content

    def put(self, content: bytes, key: str = "") -> None:
        """Write an object."""
        self._told("written", "pipe_file", self._at(key), content)

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

    def remove_all(self) -> None:
        """Remove what is there, if something is."""
        with suppress(FileNotFoundError):
            self._told("removed", "rm", self._path, recursive=True)


def resolve(place: str) -> tuple[Any, str]:
    """Give file system and path of a URL.

    Raises
    ------
    ValueError
        If it is none, or not enough to reach what it names.
    """
    if place.startswith("zip://") and "::" not in place:
        raise ValueError(f"{place} names no archive. Give zip://::PATH of one.")
    try:
        found: tuple[Any, str] = url_to_fs(place)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place} is no URL that can be opened: {error}.") from error
    return found
