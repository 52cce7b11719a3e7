"""Places beside a store where it is written, each with a lock that tells by whom.

::

    .name.<hex>.partial    what is written
    .name.<hex>.lock       the process that writes it, touched as long as it lives

A process that was killed leaves them; the next one that writes the same removes them.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hkmeans_dask.remote.objects import Objects
from hkmeans_dask.storage import replacing
from hkmeans_dask.storage.replacing import PARTIAL, beside
from hkmeans_dask.workspace.living import beating, is_dead, mark, read_mark

if TYPE_CHECKING:
    from collections.abc import Iterator

LOCK = ".lock"
"""How names of locks end."""


@contextmanager
def claimed(target: str) -> Iterator[str]:
    """Give a place beside a target that is ours as long as this process lives."""
    partial = beside(target)
    lock = Objects(partial.removesuffix(PARTIAL) + LOCK, target)
    lock.put(mark())
    try:
        with beating(lambda: lock.put(mark())):
            yield partial
    finally:
        lock.remove_all()


def remove_left(target: str) -> None:
    """Remove what dead processes left of a store that they were to write.

    Raises
    ------
    Unreachable
        If nothing can be written there, on an object store.
    """
    folder, slash, name = target.rstrip("/").rpartition("/")
    with claimed(target) as own:
        now = Objects(own.removesuffix(PARTIAL) + LOCK, target).modified()
        for left in _lefts(folder + slash, name):
            place = f"{folder}{slash}{left}"
            if place != own.removesuffix(PARTIAL) and _is_left(place, now):
                _remove(place, target)


def _lefts(folder: str, name: str) -> list[str]:
    """Names without their ending of what is or was written beside."""
    kind = re.compile(
        rf"(\.{re.escape(name)}\.[0-9a-f]{{32}})({re.escape(PARTIAL)}|{LOCK})"
    )
    found = map(kind.fullmatch, _names(folder))
    return sorted({match[1] for match in found if match})


def _names(folder: str) -> list[str]:
    if "://" not in folder:
        return os.listdir(folder)
    with suppress(PermissionError):  # who may write may not always list
        return Objects(folder).names()
    return []


def _is_left(place: str, now: float) -> bool:
    """Whether nobody writes there any more: a lock is there before all else."""
    lock = Objects(place + LOCK)
    try:
        return is_dead(read_mark(lock.get()), now - lock.modified())
    except FileNotFoundError:
        return True


def _remove(place: str, target: str) -> None:
    partial = place + PARTIAL
    if "://" in target:
        replacing.forget_remote(partial, target)
    else:
        with suppress(FileNotFoundError):
            replacing.remove(Path(partial))
    Objects(place + LOCK).remove_all()
