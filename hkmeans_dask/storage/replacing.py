"""A store takes the place of another: at any moment one of them can be opened.

A local store is renamed; killed between two renames, the old one is found aside::

    name -> .name.<hex>.old    then    .name.<hex>.partial -> name

Object stores cannot rename. There one write, which is atomic, makes the root of the old
store a pointer to the new one, complete beside it; all is copied, the root last::

    name/zarr.json: {"attributes": {"replaced_by": ".name.<hex>.partial", ...}}
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs

ROOT = "zarr.json"
"""Metadata of the root of a store: without them there is none."""

REPLACED_BY = "replaced_by"
"""The attribute that points to a store beside."""

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


def remote(place: str) -> tuple[Any, str]:
    """Give file system and path of a URL; what others wrote meanwhile is seen."""
    system, path = resolve(place)
    system.invalidate_cache()
    return system, path.rstrip("/")


def taken_as_is(place: str) -> str | Path:
    """Give a place as Zarr takes it: of a text it would drop ``?`` and line ends."""
    return place if "://" in place else Path(place)


def resolve(place: str) -> tuple[Any, str]:
    """Give file system and path of a URL.

    Raises
    ------
    ValueError
        If it is none, or not enough to reach what it names.
    """
    if place.startswith("zip://") and "::" not in place:
        raise ValueError(f"{place} names no archive. Give zip://::PATH of one.")
    try:
        found: tuple[Any, str] = url_to_fs(place)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{place} is no URL that can be opened: {error}.") from error
    return found


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
        _remove(old.rename(old.with_suffix(PARTIAL)))


def _asides(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f".{glob.escape(path.name)}.{'?' * 32}.old"))


def _remove(old: Path) -> None:
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old)
    else:
        old.unlink()


def replace_remote(new: str, place: str) -> None:
    """Put a remote store where another is, and remove it where it was written.

    Raises
    ------
    FileNotFoundError
        If there is no new store.
    """
    system, target = remote(place)
    source = remote(new)[1]
    keys = sorted(system.find(source))
    if f"{source}/{ROOT}" not in keys:
        raise FileNotFoundError(f"No store was written that could replace {place}.")
    keys.remove(f"{source}/{ROOT}")
    earlier = _pointed(place)
    system.pipe_file(f"{target}/{ROOT}", _pointer(new))
    if old := sorted(set(system.find(target)) - {f"{target}/{ROOT}"}):
        system.rm(old)
    system.copy(keys, [target + key.removeprefix(source) for key in keys])
    system.cp_file(f"{source}/{ROOT}", f"{target}/{ROOT}")
    for done in filter(None, (new, earlier)):
        remove_remote(done)


def remove_remote(place: str) -> None:
    """Remove what is at a URL, if something is."""
    system, path = remote(place)
    with suppress(FileNotFoundError):
        system.rm(path, recursive=True)


def is_pointed_to(new: str, place: str) -> bool:
    """Whether a store already stands for the one that it is to replace."""
    return _pointed(place) == new


def _pointer(new: str) -> bytes:
    attributes = {"status": "being replaced", REPLACED_BY: new.rpartition("/")[2]}
    group = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
    return json.dumps(group).encode()


def _pointed(place: str) -> str | None:
    """Read what the root of a remote store points to: a store beside, or nothing."""
    folder, slash, name = place.rstrip("/").rpartition("/")
    with suppress(Exception):  # whatever is there or not, Zarr says what is wrong
        system, path = remote(place)
        root = json.loads(system.cat_file(f"{path}/{ROOT}"))
        pointed: str = root["attributes"][REPLACED_BY]
        if re.fullmatch(rf"\.{re.escape(name)}\.[0-9a-f]{{32}}\.partial", pointed):
            return f"{folder}{slash}{pointed}"
    return None
