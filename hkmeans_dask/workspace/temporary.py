"""Temporary folders, and how long they live: as long as anything reads them.

A folder goes with its `Owner`, which labels hold. What was sent to a cluster holds
none: there the folder waits for the futures that clients had when the owner went, and
is removed when a next fit finds them gone, or when the process ends.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from hkmeans_dask.runtime import clients

if TYPE_CHECKING:
    from collections.abc import Callable

_left: list[_Left] = []


class Owner:
    """Has a temporary folder removed when it is gone itself, or the process ends."""

    def __init__(self, parent: str) -> None:
        remove_left()
        self.folder = tempfile.mkdtemp(prefix="hkmeans-", dir=parent)
        self._sent: list[bool] = []
        self.leave = weakref.finalize(
            self, _leave, self.folder, os.getpid(), clients.held(), self._sent
        )

    def __copy__(self) -> Self:
        """Be the owner of copies, too."""
        return self

    def __deepcopy__(self, _: Any) -> Self:
        """Be the owner of copies, too."""
        return self

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        """Stay here when labels are sent away."""
        self._sent.append(True)
        return _nobody, ()


def _nobody() -> None:
    """Own nothing, in another process."""


class _Left:
    """A folder without owner, until what may read it is gone."""

    def __init__(self, folder: str, process: int, keys: clients.Keys) -> None:
        self.keys = keys
        self.remove: Any = weakref.finalize(self, _remove, folder, process)


def _leave(folder: str, process: int, earlier: clients.Keys, sent: list[bool]) -> None:
    """Remove a folder, or wait for futures that came after it."""
    keys = clients.held() - earlier if sent else None
    if keys:
        _left.append(_Left(folder, process, keys))
    else:
        _remove(folder, process)


def remove_left() -> None:
    """Remove the folders that nothing can read any more."""
    for left in list(_left):
        if not clients.known(left.keys):
            left.remove()
            _left.remove(left)


def _remove(folder: str, process: int) -> None:
    """Remove a folder to which tasks that nobody waits for may still write.

    Under another name none of them finds it. A fork leaves it to its parent.
    """
    if os.getpid() != process:
        return
    gone = f"{folder}-gone"
    with suppress(OSError):
        os.rename(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)
