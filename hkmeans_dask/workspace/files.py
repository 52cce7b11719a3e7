"""Intermediate results of a fit, in memory or on disk, behind one small interface.

What tasks save here is a *record* (named arrays) or *rows* (training rows in groups)::

    save(name, labels=...)          -> record["labels"]
    save_rows(name, Rows(...))      -> rows.take(group, limit)
    find(name), find_rows(name)     -> the same again, or None if not finished

In memory nothing is copied. On disk each name is one ``.npz`` file (a ZIP archive of
plain arrays: no pickles, no mmap), with a file of bytes beside it for rows, written
under a unique name and renamed when it is complete. A member tells dtypes and shapes:
NumPy parses those of ``.npy`` with ``ast``, which before Python 3.13 fails now and then
when two threads do (python/cpython#106905). All arrays have checksums, so an
altered or truncated file is noticed where it is read, and so is one that belongs
elsewhere, as it tells its folder and name: that raises `Damaged`, and the
fit computes the file again. Two clients at the same work write the same bytes. Names
that end in ``.raw`` are files of another layout, with checksums of their own.

A folder has a *nonce*: every process compares it before its first use, so that a worker
that sees another file system fails at once.
"""

from __future__ import annotations

import json
import math
import os
import socket
import uuid
import zipfile
import zlib
from contextlib import contextmanager, suppress
from errno import EDQUOT, ENOSPC
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from hkmeans_dask.workspace import plain
from hkmeans_dask.workspace.rows import RAW, Rows, StoredRows, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hkmeans_dask.kmeans.hierarchy import Arrays
    from hkmeans_dask.kmeans.kernels import Array

MAKE_SPACE = (
    "Make space, or pass a work_dir elsewhere; a fit with a work_dir goes on where it "
    "stopped"
)
"""What to do when a workspace is full."""

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


class InMemory:
    """A workspace in the memory of those who compute; the scheduler keeps results."""

    on_disk = False

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

    def load(self) -> dict[str, Array]:
        """Read all arrays."""
        with self._workspace.reading(self._name) as file:
            return {name: file[name] for name in file.names()}


class _Archive:
    """A file of arrays; each is read as a whole, or its checksum would not be."""

    def __init__(self, file: zipfile.ZipFile, whose: bytes, n_bytes: int) -> None:
        if file.comment != whose:
            raise zipfile.BadZipFile(f"It is not {whose.decode()}")
        if sum(member.file_size for member in file.infolist()) > n_bytes:
            raise zipfile.BadZipFile("Its members are larger than it is")
        self._file = file

    def __getitem__(self, key: str) -> Array:
        """Read one array, straight to where it stays."""
        kind, shape = self._layout()[key]
        dtype = np.dtype(kind)
        n_bytes = math.prod(shape) * dtype.itemsize
        header = self._file.getinfo(f"{key}.npy").file_size - n_bytes
        if dtype.kind not in KINDS or not 0 <= header <= HEADER_BYTES:
            raise ValueError("it is not as long as its values")
        array: Array = np.empty(shape, kind)
        content = memoryview(array.reshape(-1).view(np.uint8))
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

    def __contains__(self, key: str) -> bool:
        """Whether it has an array of that name."""
        return f"{key}.npy" in self._file.namelist()

    def verify(self) -> None:
        """Refuse a file with an array that is not what was written."""
        for member in self._file.namelist():
            if member != LAYOUT:
                self[member.removesuffix(".npy")]


class OnDisk:
    """A workspace in one folder that every worker sees."""

    on_disk = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._nonce = self._first_nonce()
        self._checked_in: int | None = None

    def _first_nonce(self) -> bytes:
        """Read the nonce; the first one to come writes it."""
        path = self.folder / "nonce"
        if (found := plain.read_small(path)) is None:
            plain.remove(path)
            publish(path, uuid.uuid4().bytes)
            found = path.read_bytes()
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Travel unchecked: in containers process numbers are often equal."""
        return self.__dict__ | {"_checked_in": None}

    def check(self) -> None:
        """Refuse to work in a folder that is not the client's."""
        if self._checked_in == os.getpid():
            return
        if plain.read_small(self.folder / "nonce") != self._nonce:
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
        if not self._path(name).exists():
            return None
        if not verify and of is None:
            return Record(self, name)
        with self.reading(name) as file:
            if verify:
                file.verify()
            fits = of is None or (OF in file and int(file[OF]) == of)
        return Record(self, name) if fits else None

    def find_rows(self, name: str, *, of: int | None = None) -> StoredRows | None:
        """Find finished rows; `of`: see `find`."""
        if self.find(name, of=of) is None:
            return None
        with self.reading(name) as file:
            wanted = ("starts", "cuts", "checksums", "like")
            layout: dict[str, Any] = {key: file[key] for key in wanted}
            layout |= {key: int(file[key]) for key in ("total", "highest")}
            return StoredRows(self, name, **layout)

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
        temporary = self.folder / f".{name}-{uuid.uuid4().hex}"
        try:
            with fullness_explained(self.folder):
                with temporary.open("wb") as file:
                    yield file
                if plain.is_folder(self._path(name)):
                    plain.remove(self._path(name))
                temporary.replace(self._path(name))
        finally:
            temporary.unlink(missing_ok=True)

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
        with self.opened(name) as file, zipfile.ZipFile(file) as archive:
            n_bytes = plain.size_of(self._path(name))
            yield _Archive(archive, self.whose(name), n_bytes)

    def whose(self, name: str) -> bytes:
        """Tell what a file belongs to: it may be moved to the place of another one."""
        return f"{self.folder.name}/{name}".encode()

    @contextmanager
    def opened(self, name: str) -> Iterator[BinaryIO]:
        """Open a file; whatever is wrong with it, it is damaged.

        Any byte may have changed, those that tell how to read the others too, so the
        kind of error says nothing.
        """
        self.check()
        path = self._path(name)
        try:
            plain.size_of(path)
            with path.open("rb") as file:
                yield file
        except MemoryError:
            raise
        except Exception as error:
            raise Damaged(name, f"{type(error).__name__}: {error}") from None

    def discard(self, *names: str) -> None:
        """Remove files, if they are there; rows go with their record."""
        for name in names:
            record = name.removesuffix(RAW)
            plain.remove(self._path(record))
            plain.remove(self._path(record + RAW))

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
        if self._path(name + RAW).exists():
            rows = self.find_rows(name)
            if rows is not None:
                rows.load()

    def names(self) -> list[str]:
        """List what is finished."""
        paths = (*self.folder.glob("*.npz"), *self.folder.glob(f"*{RAW}"))
        return sorted(path.name.removesuffix(".npz") for path in paths)

    def _path(self, name: str) -> Path:
        return self.folder / (name if name.endswith(RAW) else f"{name}.npz")


def digest(*arrays: Array) -> int:
    """Give a checksum of arrays, by which to know what was derived from them."""
    found = 0
    for array in arrays:
        found = zlib.crc32(np.ascontiguousarray(array), found)
    return found


def publish(path: Path, content: bytes) -> None:
    """Write a small file, unless it is there: of several that begin, one is first.

    It appears when it is complete, by a link. Where a file system has none (FAT, some
    FUSE and SMB mounts), and only there, who looks in between may see a part of it.
    """
    if path.exists():
        return
    own = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        with fullness_explained(path.parent), suppress(FileExistsError):
            own.write_bytes(content)
            try:
                os.link(own, path)
            except (AttributeError, OSError) as error:
                if isinstance(error, FileExistsError):
                    raise
                with path.open("xb", buffering=0) as file:
                    file.write(content)
    finally:
        own.unlink(missing_ok=True)


@contextmanager
def fullness_explained(place: Path | str, remedy: str = MAKE_SPACE) -> Iterator[None]:
    """Say where the disk is full, and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT):
            raise
        said = f"{place} is full ({os.strerror(error.errno)}). {remedy}"
        raise OSError(error.errno, said) from error
