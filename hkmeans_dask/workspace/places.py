"""Where the workspaces of a fit are, and what a `work_dir` remembers of it.

A fit keeps its intermediate results in memory where they are small. Larger ones go to a
temporary folder, or all of them to a durable one::

    work_dir/<fit key>/manifest.json    the seed, parameters, input; checked by its CRC
                       nonce, lock-<host>-<process>, done, outdated
                       copy-*.raw
                       training-*.npz  coarse.npz  partition-*.npz  ...  labels-*.npz

The fit key is made of the parameters and of the input's fingerprint, so that many fits
may share one `work_dir`, and the same call goes on where an earlier one stopped. When a
fit is done only the labels and the model stay there.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import socket
import tempfile
import time
import warnings
import zlib
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import dask
import psutil
from dask.base import tokenize
from fsspec.core import url_to_fs

from hkmeans_dask.kmeans.hierarchy import Hierarchy
from hkmeans_dask.workspace.files import InMemory, OnDisk
from hkmeans_dask.workspace.folders import LocalFolder
from hkmeans_dask.workspace.living import beating, is_dead, mark, read_mark
from hkmeans_dask.workspace.temporary import Owner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hkmeans_dask.runtime.execution import Runner
    from hkmeans_dask.workspace.remote_folders import RemoteFolder

    Folder = LocalFolder | RemoteFolder

MANIFEST = "manifest.json"

DONE, OUTDATED = "done", "outdated"
"""Marks of a folder: its fit has ended; it is of an X that has changed since."""

LABEL_BYTES = 8 * 2**20
"""Bytes of labels of a lazy X, as a graph carries them, that stay in memory, at most.

distributed warns of graphs of 10 MB."""


class Places(NamedTuple):
    """The workspaces of one fit, and its seed."""

    seed: int
    workspace: InMemory | OnDisk
    """Of everything but labels."""
    label_space: InMemory | OnDisk
    owner: object = None
    """Removes a temporary folder when nobody refers to it any more."""
    known: bool = True
    """Whether what is there is known to be of an X with these values."""
    finished: bool = False
    """Whether an earlier fit has ended there."""


@contextmanager
def durable(
    work_dir: Any,
    identity: dict[str, Any],
    seed: int,
    *,
    known: bool = True,
    drawn: bool = False,
) -> Iterator[Places]:
    """Work in the folder of one fit, and leave there what a next fit can use.

    Parameters
    ----------
    work_dir : path-like
    identity : dict
        Parameters and input: those of another fit have another folder.
    seed : int
        Of a new fit; one that goes on keeps the seed it began with.
    known : bool, default=True
        Whether `identity` tells an X from an X of other values.
    drawn : bool, default=False
        Whether each fit draws a seed of its own: one that is done is not given back.
    """
    made_by = {"hkmeans_dask": version("hkmeans_dask"), "model": Hierarchy._fields}
    identity = made_by | identity
    folder = _generation(_folder(work_dir), identity, drawn)
    folder.make()
    manifest = _read_manifest(folder) or _first_manifest(folder, identity, seed)
    workspace = OnDisk(folder)
    with _lock(folder):
        finished = folder.has(DONE)
        yield Places(
            manifest["seed"], workspace, workspace, known=known, finished=finished
        )
        with suppress(OSError):  # on a full disk a finished fit can still be read
            folder.publish(DONE, b"")
        names = workspace.names()
        done = [n for n in names if n != "model" and not n.startswith("labels-")]
        workspace.discard(*done)
        if not _others(folder):  # no other client may be writing it
            folder.remove_half_written()


def _folder(work_dir: Any) -> Folder:
    """Give the folder that a path or URL names."""
    text = os.fsdecode(work_dir)
    if text.startswith("file://"):
        _, text = url_to_fs(text)
    if "://" in text:
        from hkmeans_dask.workspace.remote_folders import RemoteFolder

        return RemoteFolder(text)
    return LocalFolder(Path(text).expanduser())


def _generation(parent: Folder, identity: dict[str, Any], drawn: bool) -> Folder:
    """Choose the folder of a fit: a further one where an earlier is not to be used.

    Its labels may be what a model in some process still reads, so they stay.
    """
    for number in itertools.count():
        key = identity | ({"generation": number} if number else {})
        folder = parent.below(tokenize(key))
        finished = drawn and folder.has(DONE)
        if not finished and not folder.has(OUTDATED):
            return folder
    raise AssertionError("unreachable")


def outdate(places: Places) -> None:
    """Let later fits begin anew, because X has changed; say so."""
    assert isinstance(places.workspace, OnDisk)
    places.workspace.publish(OUTDATED)
    names = places.workspace.names()
    places.workspace.discard(*(n for n in names if not n.startswith("labels-")))
    warnings.warn(
        f"X has changed since an earlier fit left its results in "
        f"{places.workspace.folder}; the fit "
        "begins anew.",
        stacklevel=4,
    )


def labels_go_to_disk(n_labels: int, n_clusters: int) -> bool:
    """Whether labels of a lazy X are files: two bytes hold up to 65,535 clusters."""
    return n_labels * (2 if n_clusters < 2**16 else 4) > LABEL_BYTES


@contextmanager
def temporary(
    seed: int,
    *,
    rows_bytes: int,
    label_bytes: int,
    copy_bytes: int = 0,
    spread: bool = False,
) -> Iterator[Places]:
    """Work in memory, or on disk what would take too much of it.

    Parameters
    ----------
    seed : int
    rows_bytes : int
        Of the training rows that go to disk; 0 if they stay in memory.
    label_bytes : int
        Of the labels that go to disk; 0 if they stay in memory.
    copy_bytes : int, default=0
        Of an X that has to be copied to disk, where training rows then are, too.
    spread : bool, default=False
        Whether training rows in memory are in that of many processes.
    """
    in_memory = InMemory(spread=spread)
    rows_on_disk = rows_bytes > 0 or copy_bytes > 0
    labels_on_disk = label_bytes > 0
    if not rows_on_disk and not labels_on_disk:
        yield Places(seed, in_memory, in_memory)
        return
    owner = _owner(copy_bytes + rows_bytes + label_bytes)
    workspace = OnDisk(Path(owner.folder))
    try:
        yield Places(
            seed,
            workspace if rows_on_disk else in_memory,
            workspace if labels_on_disk else in_memory,
            owner,
        )
    except BaseException:
        owner.leave()
        raise
    workspace.discard(*(n for n in workspace.names() if not n.startswith("labels-")))


def is_shared(runner: Runner) -> bool:
    """Ask the workers of a cluster whether they see the temporary folders made here."""
    owner = _owned()
    try:
        return runner.all_say(OnDisk(Path(owner.folder)).is_seen)
    finally:
        owner.leave()


def _owner(n_bytes: int) -> Owner:
    """Own a new temporary folder; warn if that is memory, which it takes more of."""
    owner = _owned()
    _warn_of_memory(str(Path(owner.folder).parent), n_bytes)
    return owner


def _owned() -> Owner:
    """Own a new folder where dask's setting or the system has temporary ones."""
    given = dask.config.get("temporary_directory", None)
    parent = given or tempfile.gettempdir()
    try:
        Path(parent).mkdir(parents=True, exist_ok=True)
        return Owner(parent)
    except OSError as error:
        setting = "dask's setting temporary-directory" if given else "TMPDIR"
        raise OSError(
            f"{parent} ({setting}) should be a folder that may be written to: {error}. "
            "Choose another, or pass work_dir."
        ) from error


def _warn_of_memory(parent: str, n_bytes: int) -> None:
    """Warn where the temporary folder is memory under another name."""
    here = Path(parent).resolve()
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    above = [str(folder) for folder in (here, *here.parents)]
    kind = next((mounts[folder] for folder in above if folder in mounts), "")
    if kind in ("tmpfs", "ramfs"):
        warnings.warn(
            f"{n_bytes >> 20} MiB of intermediate results go to {parent}, which is in "
            f"memory ({kind}). Pass work_dir, or set dask's temporary_directory.",
            stacklevel=7,
        )


def _first_manifest(
    folder: Folder, identity: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Write the manifest, unless another client was first."""
    content = json.dumps({"seed": seed, **identity}, default=str, indent=1)
    text = json.dumps({"crc": _crc(folder, content), "fit": content})
    folder.publish(MANIFEST, text.encode())
    found = _read_manifest(folder)
    assert found is not None
    return found


def _crc(folder: Folder, content: str) -> int:
    """Checksum of a manifest and of the folder that it belongs to."""
    return zlib.crc32(content.encode(), zlib.crc32(folder.name.encode()))


def _read_manifest(folder: Folder) -> dict[str, Any] | None:
    """Read the manifest; without a good one, what else is there is worth nothing."""
    content = folder.read(MANIFEST)
    if content is None and not folder.is_taken(MANIFEST):
        return None
    with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        written = json.loads(content or b"")
        if _crc(folder, written["fit"]) == written["crc"]:
            fit: dict[str, Any] = json.loads(written["fit"])
            return fit
    warnings.warn(
        f"{folder.place}/{MANIFEST} is damaged; the fit begins anew.", stacklevel=7
    )
    folder.clear()
    return None


@contextmanager
def _lock(folder: Folder) -> Iterator[None]:
    """Warn of another client in the same folder: no harm, but the same work twice.

    Each adds its lock before it looks, so one of two that begin together sees the
    other. Locks of dead processes go: see `living`.
    """
    own = _own_lock()
    with suppress(OSError):  # on a full disk a finished fit can still be read
        folder.leave_mark(own, mark())
    for host, process in _others(folder):
        warnings.warn(
            f"Process {process} on {host} seems to be at the same fit in {folder}. "
            "Both will end well, but do the same work.",
            stacklevel=7,
        )
    try:
        with beating(functools.partial(folder.touch_mark, own)):
            yield
    finally:
        folder.remove(own)


def _own_lock() -> str:
    return f"lock-{_host()}-{os.getpid()}"


def _host() -> str:
    return socket.gethostname()


def _others(folder: Folder) -> list[tuple[str, int]]:
    """Host and process of the locks of other clients, but for those of dead processes.

    These are removed. What has no name of a lock is none.
    """
    others = []
    for lock in folder.names():
        name = re.fullmatch(r"lock-(.+)-([0-9]{1,10})", lock)
        if name is None or int(name[2]) >= 2**31 or lock == _own_lock():
            continue
        host, process = name[1], int(name[2])
        with suppress(FileNotFoundError):  # one that has just ended
            if _is_of_dead(folder, lock, host, process):
                folder.remove(lock)
            else:
                others.append((host, process))
    return others


def _is_of_dead(folder: Folder, lock: str, host: str, process: int) -> bool:
    """Whether the process of a lock is gone; one that tells nothing goes by its name.

    By the clock of the file system, which may be that of another machine.
    """
    now = time.time()
    with suppress(OSError):
        folder.touch_mark(_own_lock())
        now = folder.modified(_own_lock())
    known = read_mark(folder.read(lock) or b"")
    if not known and host == _host():
        return not psutil.pid_exists(process)
    return is_dead(known, now - folder.modified(lock))
