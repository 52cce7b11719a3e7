"""Intermediate results of a fit, in memory or in files, behind one small interface.

What tasks save here is a *record* (named arrays) or *rows* (training rows in groups)::

    save(name, labels=...)          -> record["labels"]
    save_rows(name, Rows(...))      -> rows.take(group, limit)
    find(name), find_rows(name)     -> the same again, or None if not finished

In memory nothing is copied. In a folder, of this machine or at a URL, each name is one
``.npz`` file (a ZIP archive of plain arrays: no pickles, no mmap), with a file of bytes
beside it for rows, which appear when they are complete. A member tells dtypes and
shapes: NumPy parses those of ``.npy`` with ``ast``, which before Python 3.13 fails now
and then when two threads do (python/cpython#106905). All arrays have checksums, so an
altered or truncated file is noticed where it is read, and so is one that belongs
elsewhere, as it tells its folder and name: that raises `Damaged`, and the
fit computes the file again. Two clients at the same work write the same bytes. Names
that end in ``.raw`` are files of another layout, with checksums of their own.

A folder has a *nonce*: every process compares it before its first use, so that a worker
that sees another file system fails at once.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import socket
import uuid
import zipfile
import zlib
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from hkmeans_dask.remote.patience import Unreachable
from hkmeans_dask.remote.ranges import expect, together
from hkmeans_dask.workspace.folders import LocalFolder
from hkmeans_dask.workspace.rows import RAW, Rows, StoredRows, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from hkmeans_dask.kmeans.hierarchy import Arrays
    from hkmeans_dask.kmeans.kernels import Array
    from hkmeans_dask.workspace.remote_folders import RemoteFolder

OF = "of"
"""The array of a record that tells what it was derived from."""

LAYOUT = "layout.json"
"""The member of an archive that has dtype and shape of each array."""


KINDS = "biufSU"
"""Kinds of dtypes that are written."""

HEADER_BYTES = 2**10
"""Bytes before the values of an array, at most."""

READ_BYTES = 2**20
"""Bytes of an array that are read at once from a file."""


class Damaged(RuntimeError):
    """A workspace file is not what was written."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason


class Absent(Damaged):
    """A workspace file is not there."""


class InMemory:
    """A workspace in the memory of those who compute; the scheduler keeps results.

    Parameters
    ----------
    spread : bool, default=False
        Whether it is that of many processes: none is given the training rows of all.
    """

    on_disk = False

    def __init__(self, *, spread: bool = False) -> None:
        self.spread = spread

    def find(
        self, name: str, *, verify: bool = False, of: int | None = None
    ) -> Arrays | None:
        """Find nothing: what is not held by the scheduler is to be computed."""
        return None

    def find_rows(self, name: str, *, of: int | None = None) -> StoredRows | None:
        """Find nothing either."""
        return None

    def save(self, name: str, *, of: int = 0, **arrays: Array) -> Arrays:
        """Keep named arrays."""
        return arrays

    def save_rows(self, name: str, rows: Rows, *, of: int = 0) -> Rows:
        """Keep rows, without a copy."""
        return rows

    def each(self, call: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Call for each item."""
        return [call(item) for item in items]

    def names(self) -> list[str]:
        """List nothing."""
        return []

    def damaged(self) -> dict[str, str]:
        """Find nothing damaged."""
        return {}

    def discard(self, *names: str) -> None:
        """Leave it to the scheduler, which forgets what is no longer needed."""


class Record:
    """Named arrays in a file."""

    def __init__(self, workspace: OnDisk, name: str) -> None:
        self._workspace, self._name = workspace, name

    def __getitem__(self, key: str) -> Array:
        """Read one array."""
        with self._workspace.reading(self._name) as file:
            array: Array = file[key]
        return array

    def load(self, *names: str) -> dict[str, Array]:
        """Read all arrays, or some of them."""
        with self._workspace.reading(self._name) as file:
            return {name: file[name] for name in names or file.names()}


class _Archive:
    """A file of arrays; each is read as a whole, or its checksum would not be."""

    def __init__(
        self, file: zipfile.ZipFile, whose: bytes, content: BinaryIO, n_bytes: int
    ) -> None:
        if file.comment != whose:
            raise zipfile.BadZipFile(f"It is not {whose.decode()}")
        if sum(member.file_size for member in file.infolist()) > n_bytes:
            raise zipfile.BadZipFile("Its members are larger than it is")
        self._file, self._content = file, content

    def __getitem__(self, key: str) -> Array:
        """Read one array, straight to where it stays."""
        kind, shape = self._layout()[key]
        dtype = np.dtype(kind)
        n_bytes = math.prod(shape) * dtype.itemsize
        info = self._file.getinfo(f"{key}.npy")
        header = info.file_size - n_bytes
        if dtype.kind not in KINDS or not 0 <= header <= HEADER_BYTES:
            raise ValueError("it is not as long as its values")
        array: Array = np.empty(shape, kind)
        content = memoryview(array.reshape(-1).view(np.uint8))
        expect(self._content, info.header_offset + info.file_size + HEADER_BYTES)
        with self._file.open(f"{key}.npy") as member:
            if len(member.read(header)) < header:
                raise EOFError("it ends too early")
            for start in range(0, len(content), READ_BYTES):
                some = content[start : start + READ_BYTES]
                if member.readinto(some) < len(some):  # type: ignore[attr-defined]
                    raise EOFError("it ends too early")
            member.read(1)  # at its end it compares the checksum
        return array

    def names(self) -> list[str]:
        """List the arrays."""
        return list(self._layout())

    def _layout(self) -> Any:
        return json.loads(self._file.read(LAYOUT))

    def is_of(self, digest: int) -> bool:
        """Whether it was derived from what has this digest."""
        return f"{OF}.npy" in self._file.namelist() and int(self[OF]) == digest

    def verify(self) -> None:
        """Refuse a file with an array that is not what was written."""
        for member in self._file.namelist():
            if member != LAYOUT:
                self[member.removesuffix(".npy")]


class OnDisk:
    """A workspace in one folder that every worker sees, here or at a URL."""

    on_disk, spread = True, False

    def __init__(self, folder: Path | LocalFolder | RemoteFolder) -> None:
        self._folder = LocalFolder(folder) if isinstance(folder, Path) else folder
        self._folder.make()
        self._nonce = self._first_nonce()
        self._checked_in: int | None = None

    @property
    def folder(self) -> Any:
        """Where it is: a path, or a URL."""
        return self._folder.place

    @property
    def at_once(self) -> int:
        """Files that are read at once with gain."""
        return self._folder.at_once

    def _first_nonce(self) -> bytes | None:
        """Read the nonce; the first one to come writes it."""
        if (found := self._folder.read("nonce")) is None:
            self._folder.publish("nonce", uuid.uuid4().bytes)
            found = self._folder.read("nonce")
        if found is None:  # what is there is no file
            self._folder.remove("nonce")
            self._folder.publish("nonce", uuid.uuid4().bytes)
            found = self._folder.read("nonce")
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Travel unchecked: in containers process numbers are often equal."""
        return self.__dict__ | {"_checked_in": None}

    def is_seen(self) -> bool:
        """Whether its folder is seen here, by any process."""
        return self._folder.has_nonce(self._nonce)

    def check(self) -> None:
        """Refuse to work in a folder that is not the client's."""
        if self._checked_in == os.getpid():
            return
        if not self.is_seen():
            raise FileNotFoundError(
                f"The workspace {self.folder} as seen by process {os.getpid()} on "
                f"{socket.gethostname()} is not that of the client. Pass a work_dir "
                "that the client and all workers share."
            )
        self._checked_in = os.getpid()

    def find(
        self, name: str, *, verify: bool = False, of: int | None = None
    ) -> Arrays | None:
        """Find a finished record, and read it whole if it is to be verified.

        With `of` it is found only if it was derived from what has this `digest`.
        """
        if not verify and of is None:
            return Record(self, name) if self._folder.has(_file(name)) else None
        with suppress(Absent), self.reading(name) as file:
            if verify:
                file.verify()
            if of is None or file.is_of(of):
                return Record(self, name)
        return None

    def find_rows(self, name: str, *, of: int | None = None) -> StoredRows | None:
        """Find finished rows; `of`: see `find`."""
        with suppress(Absent), self.reading(name) as file:
            if of is None or file.is_of(of):
                wanted = ("starts", "cuts", "checksums", "like")
                layout: dict[str, Any] = {key: file[key] for key in wanted}
                layout |= {key: int(file[key]) for key in ("total", "highest")}
                return StoredRows(self, name, **layout)
        return None

    def each(self, call: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        """Call for each item, several at once where files are far away."""
        self.check()
        return together(call, items, self.at_once)

    def save(self, name: str, *, of: int = 0, **arrays: Array) -> Arrays:
        """Write named arrays; they appear when they are complete.

        With the `digest` of what they were derived from.
        """
        arrays[OF] = np.array(of, np.uint64)
        with self.writing(name) as file:
            whole = {key: np.asarray(array, order="C") for key, array in arrays.items()}
            layout = {
                key: (array.dtype.str, array.shape) for key, array in whole.items()
            }
            with zipfile.ZipFile(file, "w") as archive:
                archive.comment = self.whose(name)
                archive.writestr(LAYOUT, json.dumps(layout))
                for key, array in whole.items():
                    with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                        np.lib.format.write_array(member, array, allow_pickle=False)
        return Record(self, name)

    @contextmanager
    def writing(self, name: str) -> Iterator[BinaryIO]:
        """Give a file to write to; it appears when it is complete.

        It is not forced to the disk, which takes longer than all else where rows are
        many: what a power cut may spoil is found by its checksum, and computed again.
        """
        self.check()
        with self._folder.writing(_file(name)) as file:
            yield file

    def publish(self, name: str) -> None:
        """Leave a mark for later fits."""
        self._folder.publish(name, b"")

    def save_rows(self, name: str, rows: Rows, *, of: int = 0) -> StoredRows:
        """Write rows group after group, then the record that tells of them."""
        with self.writing(name + RAW) as file:
            cuts, checksums = write(file, rows)
        told = {"total": rows.total, "highest": rows.highest}
        numbers = {key: np.array(value, np.uint64) for key, value in told.items()}
        layout = {"starts": rows.starts, "cuts": cuts, "checksums": checksums}
        self.save(name, of=of, like=rows.like, **numbers, **layout)
        return StoredRows(self, name, rows.starts, cuts, checksums, rows.like, **told)

    @contextmanager
    def reading(self, name: str) -> Iterator[Any]:
        """Open a file of arrays."""
        with self.opened(name) as file:
            n_bytes = file.seek(0, os.SEEK_END)  # zipfile would hide what goes wrong
            with zipfile.ZipFile(file) as archive:
                yield _Archive(archive, self.whose(name), file, n_bytes)

    def whose(self, name: str) -> bytes:
        """Tell what a file belongs to: it may be moved to the place of another one."""
        return f"{self._folder.name}/{name}".encode()

    @contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        """Open a file; whatever is wrong with it, it is damaged.

        Any byte may have changed, those that tell how to read the others too, so the
        kind of error says nothing.
        """
        self.check()
        try:
            with self._folder.opened(_file(name)) as file:
                yield file
        except (MemoryError, Unreachable):
            raise
        except FileNotFoundError as error:
            raise Absent(name, f"{type(error).__name__}: {error}") from None
        except Exception as error:
            raise Damaged(name, f"{type(error).__name__}: {error}") from None

    def discard(self, *names: str) -> None:
        """Remove files, if they are there; rows go with their record."""
        records = dict.fromkeys(name.removesuffix(RAW) for name in names)
        both = [(_file(record), record + RAW) for record in records]
        self._folder.remove(*itertools.chain(*both))

    def damaged(self) -> dict[str, str]:
        """Read all that is finished, and give what is damaged, with the reason."""
        found = {}
        for name in self.names():
            try:
                self._verify(name)
            except Damaged as error:
                found[error.name] = error.reason
        return found

    def _verify(self, name: str) -> None:
        if name.endswith(RAW):
            return  # rows are read with their record; of a copy each piece is checked
        self.find(name, verify=True)
        if self._folder.has(name + RAW):
            rows = self.find_rows(name)
            if rows is not None:
                rows.load()

    def names(self) -> list[str]:
        """List what is finished."""
        names = (n for n in self._folder.names() if n.endswith((".npz", RAW)))
        return sorted(name.removesuffix(".npz") for name in names)


def _file(name: str) -> str:
    return name if name.endswith(RAW) else f"{name}.npz"


def digest(*arrays: Array) -> int:
    """Give a checksum of arrays, by which to know what was derived from them."""
    found = 0
    for array in arrays:
        found = zlib.crc32(np.ascontiguousarray(array), found)
    return found
