"""The folder of a workspace on a file system of this machine.

What it can do is what a workspace needs of any place; see `remote_folders`.
"""

from __future__ import annotations

import os
import time
import uuid
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

from hkmeans_dask.workspace import plain

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class LocalFolder:
    """A folder.

    Parameters
    ----------
    path : Path
    """

    at_once = 1
    """Files that are read at once with gain."""

    def __init__(self, path: Path) -> None:
        self.place = path.absolute()

    @property
    def name(self) -> str:
        """Its own name."""
        return self.place.name

    def __str__(self) -> str:
        """Give its path."""
        return str(self.place)

    def below(self, name: str) -> LocalFolder:
        """Give a folder in this one."""
        return LocalFolder(self.place / name)

    def make(self) -> None:
        """Make it, in the place of a link to another one, if need be."""
        if self.place.is_symlink():
            plain.remove(self.place)
        try:
            self.place.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise NotADirectoryError(
                f"{self} should be a folder of intermediate results, but something "
                "else is there, or above it. Remove that, or pass another work_dir."
            ) from error

    def clear(self) -> None:
        """Remove all that is there."""
        plain.remove(self.place)
        self.place.mkdir()

    def names(self) -> list[str]:
        """List what is there."""
        with suppress(FileNotFoundError):
            return sorted(os.listdir(self.place))
        return []

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        return (self.place / name).exists()

    def is_taken(self, name: str) -> bool:
        """Whether anything is there, though it may be no file."""
        return os.path.lexists(self.place / name)

    def read(self, name: str) -> bytes | None:
        """Read a small file; None if it is not there."""
        return plain.read_small(self.place / name)

    def has_nonce(self, nonce: bytes | None) -> bool:
        """Whether it is the folder of a client that has read this there."""
        return self.read("nonce") == nonce

    def publish(self, name: str, content: bytes) -> None:
        """Write a small file, unless it is there."""
        plain.publish(self.place / name, content)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Give a file to write to; it appears when it is complete.

        It is not forced to the disk, which takes longer than all else where rows are
        many: what a power cut may spoil is found by its checksum, and computed again.
        """
        path = self.place / name
        temporary = self.place / f".{name.removesuffix('.npz')}-{uuid.uuid4().hex}"
        try:
            with plain.fullness_explained(self.place):
                with temporary.open("wb") as file:
                    yield file
                if plain.is_folder(path):
                    plain.remove(path)
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        """Open a plain file to read."""
        path = self.place / name
        plain.size_of(path)
        with path.open("rb") as file:
            yield file

    def remove(self, *names: str) -> None:
        """Remove what is there of some names."""
        for name in names:
            plain.remove(self.place / name)

    def leave_mark(self, name: str, content: bytes) -> None:
        """Write a mark anew."""
        self.remove(name)
        with (self.place / name).open("xb") as file:
            file.write(content)

    def touch_mark(self, name: str) -> None:
        """Let a mark be of now."""
        os.utime(self.place / name)

    def modified(self, name: str) -> float:
        """Tell when a file was written, by the clock of the file system."""
        return (self.place / name).lstat().st_mtime

    def remove_half_written(self) -> None:
        """Remove what killed processes left."""
        now = time.time()
        for path in self.place.glob(".*"):
            with suppress(FileNotFoundError):
                if not plain.is_folder(path) and path.lstat().st_mtime < now:
                    path.unlink()
