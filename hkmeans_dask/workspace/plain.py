"""Plain files, where anything may be: folders, links to elsewhere, pipes, devices.

What is no file of bytes is never opened (a pipe would keep its reader waiting, a device
may never end), and what is removed is the link, not what it leads to.
"""

from __future__ import annotations

import shutil
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

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
