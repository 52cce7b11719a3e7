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

from hkmeans_dask.workspace import plain
from hkmeans_dask.workspace.files import InMemory, OnDisk, publish
from hkmeans_dask.workspace.living import beating, is_dead, mark, read_mark
from hkmeans_dask.workspace.temporary import Owner

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    identity = {"hkmeans_dask": version("hkmeans_dask"), **identity}
    folder = _generation(Path(work_dir).expanduser().absolute(), identity, drawn)
    _make(folder)
    manifest = _read_manifest(folder) or _first_manifest(folder, identity, seed)
    workspace = OnDisk(folder)
    with _lock(folder):
        finished = (folder / DONE).exists()
        yield Places(
            manifest["seed"], workspace, workspace, known=known, finished=finished
        )
        with suppress(OSError):  # on a full disk a finished fit can still be read
            publish(folder / DONE, b"")
        names = workspace.names()
        done = [n for n in names if n != "model" and not n.startswith("labels-")]
        workspace.discard(*done)
        _discard_half_written(folder)


def _generation(parent: Path, identity: dict[str, Any], drawn: bool) -> Path:
    """Choose the folder of a fit: a further one where an earlier is not to be used.

    Its labels may be what a model in some process still reads, so they stay.
    """
    for number in itertools.count():
        key = identity | ({"generation": number} if number else {})
        folder = parent / tokenize(key)
        finished = drawn and (folder / DONE).exists()
        if not finished and not (folder / OUTDATED).exists():
            return folder
    raise AssertionError("unreachable")


def outdate(places: Places) -> None:
    """Let later fits begin anew, because X has changed; say so."""
    assert isinstance(places.workspace, OnDisk)
    folder = places.workspace.folder
    publish(folder / OUTDATED, b"")
    names = places.workspace.names()
    places.workspace.discard(*(n for n in names if not n.startswith("labels-")))
    warnings.warn(
        f"X has changed since an earlier fit left its results in {folder}; the fit "
        "begins anew.",
        stacklevel=4,
    )


def labels_go_to_disk(n_labels: int, n_clusters: int) -> bool:
    """Whether labels of a lazy X are files: two bytes hold up to 65,535 clusters."""
    return n_labels * (2 if n_clusters < 2**16 else 4) > LABEL_BYTES


@contextmanager
def temporary(
    seed: int, *, rows_bytes: int, label_bytes: int, copy_bytes: int = 0
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
    """
    rows_on_disk = rows_bytes > 0 or copy_bytes > 0
    labels_on_disk = label_bytes > 0
    if not rows_on_disk and not labels_on_disk:
        yield Places(seed, InMemory(), InMemory())
        return
    owner = _owner(copy_bytes + rows_bytes + label_bytes)
    workspace = OnDisk(Path(owner.folder))
    try:
        yield Places(
            seed,
            workspace if rows_on_disk else InMemory(),
            workspace if labels_on_disk else InMemory(),
            owner,
        )
    except BaseException:
        owner.leave()
        raise
    workspace.discard(*(n for n in workspace.names() if not n.startswith("labels-")))


def _owner(n_bytes: int) -> Owner:
    """Own a new folder where dask's setting or the system has temporary ones."""
    given = dask.config.get("temporary_directory", None)
    parent = given or tempfile.gettempdir()
    try:
        Path(parent).mkdir(parents=True, exist_ok=True)
        owner = Owner(parent)
    except OSError as error:
        setting = "dask's setting temporary-directory" if given else "TMPDIR"
        raise OSError(
            f"{parent} ({setting}) should be a folder that may be written to: {error}. "
            "Choose another, or pass work_dir."
        ) from error
    _warn_of_memory(parent, n_bytes)
    return owner


def _discard_half_written(folder: Path) -> None:
    """Remove what killed processes left, where no other client may be writing it."""
    now = time.time()
    if not _others(folder):
        for path in folder.glob(".*"):
            with suppress(FileNotFoundError):
                if not plain.is_folder(path) and path.lstat().st_mtime < now:
                    path.unlink()


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


def _make(folder: Path) -> None:
    """Make the folder of a fit, in the place of a link to another one, if need be."""
    if folder.is_symlink():
        plain.remove(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise NotADirectoryError(
            f"{folder} should be a folder of intermediate results, but something else "
            "is there, or above it. Remove that, or pass another work_dir."
        ) from error


def _first_manifest(
    folder: Path, identity: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Write the manifest, unless another client was first."""
    content = json.dumps({"seed": seed, **identity}, default=str, indent=1)
    text = json.dumps({"crc": _crc(folder, content), "fit": content})
    publish(folder / "manifest.json", text.encode())
    found = _read_manifest(folder)
    assert found is not None
    return found


def _crc(folder: Path, content: str) -> int:
    """Checksum of a manifest and of the folder that it belongs to."""
    return zlib.crc32(content.encode(), zlib.crc32(folder.name.encode()))


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read the manifest; without a good one, what else is there is worth nothing."""
    path = folder / "manifest.json"
    if not os.path.lexists(path):
        return None
    with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        written = json.loads(plain.read_small(path) or b"")
        if _crc(folder, written["fit"]) == written["crc"]:
            fit: dict[str, Any] = json.loads(written["fit"])
            return fit
    warnings.warn(f"{path} is damaged; the fit begins anew.", stacklevel=7)
    plain.remove(folder)
    folder.mkdir()
    return None


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Warn of another client in the same folder: no harm, but the same work twice.

    Each adds its lock before it looks, so one of two that begin together sees the
    other. Locks of dead processes go: see `living`.
    """
    own = _own_lock(folder)
    with suppress(OSError):  # on a full disk a finished fit can still be read
        plain.remove(own)
        with own.open("xb") as file:
            file.write(mark())
    others = _others(folder)
    for host, process in others.values():
        warnings.warn(
            f"Process {process} on {host} seems to be at the same fit in {folder}. "
            "Both will end well, but do the same work.",
            stacklevel=7,
        )
    try:
        with beating(functools.partial(os.utime, own)):
            yield
    finally:
        plain.remove(own)


def _own_lock(folder: Path) -> Path:
    return folder / f"lock-{_host()}-{os.getpid()}"


def _host() -> str:
    return socket.gethostname()


def _others(folder: Path) -> dict[Path, tuple[str, int]]:
    """Locks of other clients, with host and process, but for those of dead processes.

    These are removed. What has no name of a lock is none.
    """
    others = {}
    for path in sorted({*folder.glob("lock-*")} - {_own_lock(folder)}):
        name = re.fullmatch(r"lock-(.+)-([0-9]{1,10})", path.name)
        if name is None or int(name[2]) >= 2**31:
            continue
        host, process = name[1], int(name[2])
        with suppress(FileNotFoundError):  # one that has just ended
            if _is_of_dead(path, host, process):
                plain.remove(path)
            else:
                others[path] = host, process
    return others


def _is_of_dead(lock: Path, host: str, process: int) -> bool:
    """Whether the process of a lock is gone; one that tells nothing goes by its name.

    By the clock of the file system, which may be that of another machine.
    """
    own = _own_lock(lock.parent)
    now = time.time()
    with suppress(OSError):
        os.utime(own)
        now = own.stat().st_mtime
    known = read_mark(plain.read_small(lock) or b"")
    if not known and host == _host():
        return not psutil.pid_exists(process)
    return is_dead(known, now - lock.lstat().st_mtime)
