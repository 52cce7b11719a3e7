"""Plain files, where anything may be: folders, links to elsewhere, pipes, devices.

What is no file of bytes is never opened (a pipe would keep its reader waiting, a device
may never end), and what is removed is the link, not what it leads to.
"""

from __future__ import annotations

import os
import shutil
import stat
import uuid
from contextlib import contextmanager, suppress
from errno import EDQUOT, ENOSPC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAKE_SPACE = (
    "Make space, or pass a work_dir elsewhere; a fit with a work_dir goes on where it "
    "stopped"
)
"""What to do when a workspace is full."""

SMALL_BYTES = 64 * 2**20
"""Bytes of a small file, at most."""


def size_of(path: Path) -> int:
    """Bytes of a plain file, to which a link may lead.

    Raises
    ------
    OSError
        If nothing is there, or something else.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is no plain file")
    return status.st_size


def is_file_of(path: Path, most: int) -> bool:
    """Whether a plain file is there, of so many bytes at most."""
    with suppress(OSError):
        return size_of(path) <= most
    return False


def read_small(path: Path) -> bytes | None:
    """Read a small file; None if something else is there, or nothing."""
    with suppress(OSError):
        if is_file_of(path, SMALL_BYTES):
            return path.read_bytes()
    return None


def is_folder(path: Path) -> bool:
    """Whether a folder is there itself, no link to one."""
    return path.is_dir() and not path.is_symlink()


def remove(path: Path) -> None:
    """Remove whatever is there, if anything: of a link the link alone."""
    if is_folder(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
