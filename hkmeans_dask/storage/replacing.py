"""A store takes the place of another: at any moment one of them can be opened.

A local store is renamed; killed between two renames, the old one is found aside::

    name -> .name.<hex>.old    then    .name.<hex>.partial -> name

Object stores cannot rename. There the new one, complete beside, is copied, its root
last: without one there is no store. Where an old one is, one write, which is atomic,
makes its root a pointer to the new one before that::

    name/zarr.json: {"attributes": {"replaced_by": ".name.<hex>.partial", ...}}
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import time
import uuid
from pathlib import Path

from hkmeans_dask.remote.objects import Objects
from hkmeans_dask.remote.patience import Unreachable

ROOT = "zarr.json"
"""Metadata of the root of a store: without them there is none."""

ROOTS = {ROOT, ".zarray", ".zgroup"}
"""The same, of all formats."""

REPLACED_BY = "replaced_by"
"""The attribute that points to a store beside."""

ROUNDS, PAUSE = 40, 0.25
"""So often, at most, and so long after each other in seconds, copies are removed."""

PARTIAL = ".partial"
"""How names of stores that are written beside their place end."""


def beside(place: str) -> str:
    """Name a new place in the folder of another."""
    folder, slash, name = place.rstrip("/").rpartition("/")
    return f"{folder}{slash}.{name}.{uuid.uuid4().hex}{PARTIAL}"


def standing(place: str) -> str:
    """Find the store of a place where an interrupted replacement has left it."""
    if "://" in place:
        return _pointed(place) or place
    if os.path.lexists(place):
        return place
    return next((str(old) for old in _asides(Path(place))), place)


def replace(new: Path, path: Path) -> None:
    """Rename a local store to a place; what is there is moved aside, then removed."""
    if not os.path.lexists(path):
        new.rename(path)
    else:
        aside = Path(beside(str(path))).with_suffix(".old")
        path.rename(aside)
        try:
            new.rename(path)
        except BaseException:
            aside.rename(path)
            raise
    for old in _asides(path):
        remove(old.rename(old.with_suffix(PARTIAL)))


def _asides(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f".{glob.escape(path.name)}.{'?' * 32}.old"))


def remove(old: Path) -> None:
    """Remove a folder, a link or a file."""
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old)
    else:
        old.unlink()


def remove_local(partial: str) -> None:
    """Remove what threads of Zarr may still write to for a moment.

    They write the other chunks of a block of which one failed, and nobody waits for
    them.
    """
    for seconds in (0.05, 0.1, 0.2, 0.0):
        if os.path.isfile(partial):
            os.unlink(partial)
        shutil.rmtree(partial, ignore_errors=True)
        time.sleep(seconds)


def replace_remote(new: str, place: str) -> None:
    """Put a remote store where another is, or nothing; remove it where it was written.

    An object that is none (a page) is copied, in one write.

    Raises
    ------
    FileNotFoundError
        If there is no new store.
    """
    earlier = _pointed(place)
    source, target = Objects(new), Objects(place)
    old, keys = target.keys(), source.keys()  # with their sizes, or copies ask for them
    if not keys and source.exists():
        if old:
            target.remove_all()
        source.copy_to(target, {""})
        source.remove_all()
        return
    if ROOT not in keys:
        raise FileNotFoundError(f"No store was written that could replace {place}.")
    if old & ROOTS:
        target.put(_pointer(new), ROOT)
    elif not old and target.exists():
        target.remove_all()  # an object, not a store
    target.remove(old - {ROOT})
    source.copy_to(target, keys - {ROOT})
    source.copy_to(target, {ROOT})
    for done in filter(None, (new, earlier)):
        Objects(done).remove_all()


def forget_remote(new: str, place: str) -> None:
    """Remove a store that was to replace another one, and what was copied of it.

    Unless it stands for the other one already.
    """
    if _pointed(place) == new:
        return
    source, target = Objects(new), Objects(place)
    copied, quiet = source.keys(), 0
    for _ in range(ROUNDS):  # what was on its way when we were interrupted still comes
        there = target.keys()
        if there and not there & ROOTS and there <= copied:
            target.remove(there)
            quiet = 0
        elif (quiet := quiet + 1) == 2:
            break
        time.sleep(PAUSE)
    source.remove_all()


def _pointer(new: str) -> bytes:
    attributes = {"status": "being replaced", REPLACED_BY: new.rpartition("/")[2]}
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(group).encode()


def _pointed(place: str) -> str | None:
    """Read what the root of a remote store points to: a store beside, or nothing."""
    folder, slash, name = place.rstrip("/").rpartition("/")
    try:
        root = json.loads(Objects(place).get(ROOT))
        pointed: str = root["attributes"][REPLACED_BY]
    except Unreachable:
        raise
    except Exception:  # whatever is there or not, Zarr says what is wrong
        return None
    else:
        beside = rf"\.{re.escape(name)}\.[0-9a-f]{{32}}{re.escape(PARTIAL)}"
        if isinstance(pointed, str) and re.fullmatch(beside, pointed):
            return f"{folder}{slash}{pointed}"
    return None
