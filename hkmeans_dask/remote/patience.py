"""Stores that fail for a moment are asked again; those that go on failing are named.

What a store raises is the matter of the library behind it: an error of HTTP, a timeout,
a connection that was reset may be an OSError, or a class of that library alone, which
is not imported here for it. So an error is judged by the status of HTTP that it tells,
by its name, and by whether any other library than Zarr's raised it.
"""

from __future__ import annotations

import errno
import functools
import random
import re
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LOCAL_WAITS = (0.1, 1.0)
"""Seconds before what failed in a local file system is tried again."""

WAITS = (0.1, 0.4, 1.5, 3.0, 5.0)
"""The same for any other store; a random part more or less, so that tasks disperse."""

BUSY = {408, 425, 429}
"""Statuses of HTTP below 500 that pass."""

LASTING = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
    PermissionError,
)

LASTING_NUMBERS = {
    getattr(errno, name, None)
    for name in ("EDQUOT", "EFBIG", "ENAMETOOLONG", "ENOSPC", "ENOSYS", "EROFS")
}

LASTING_NAMES = re.compile(
    "Credential|Auth|Permission|Denied|Forbidden|NotFound|NoSuch|AlreadyExists|Invalid"
    "|Param|Config|NoRegion|NotSupported|NotImplemented|Unsupported|Precondition"
    "|NotModified|ReadOnly"
)
"""In names of classes, of whatever library."""

REFUSED = re.compile("Credential|Auth|Permission|Denied|Forbidden")
"""The same, of those that are about who asks."""

NO_STORES = sys.stdlib_module_names - {"asyncio", "http", "urllib"} | {
    "dask",
    "distributed",
    "hkmeans_dask",
    "numcodecs",
    "numpy",
    "zarr",
}
"""Packages whose own classes of errors are not about a server."""


class Unreachable(OSError):
    """What a store does not do, in one line, whatever its library raised."""

    may_pass = False
    """Whether it may do so later."""


def patiently(call: Callable[..., Any], *args: Any, waits: Sequence[float]) -> Any:
    """Call, again after an error of a file system or network which may pass."""
    for wait in waits:
        try:
            return call(*args)
        except Exception as error:
            if not may_pass(error):
                raise
        time.sleep(wait * random.uniform(0.8, 1.2))
    return call(*args)


def told(
    place: str, work: str, call: Callable[..., Any], *args: Any, **options: Any
) -> Any:
    """Call patiently, and say in one line which URL cannot be read, or written.

    Not chained: not every library's error can be unpickled. What a local file system
    says stays as it is, and so does what is not there.

    Raises
    ------
    Unreachable
    """
    try:
        work_once = functools.partial(call, *args, **options)
        return patiently(work_once, waits=waits_of(place))
    except Unreachable:
        raise
    except Exception as error:
        absent = isinstance(error, FileNotFoundError) and work != "written"
        if absent or not (is_remote(place) and is_of_store(error)):
            raise
        said = f"{place} cannot be {work}: {in_words(error)}. {advice(error)}"
        unreachable = Unreachable(said)
        unreachable.may_pass = may_pass(error)
    raise unreachable


def is_remote(place: str) -> bool:
    """Whether a place is none of the local file system."""
    return "://" in place and not place.startswith("file:")


def waits_of(place: str) -> Sequence[float]:
    """Seconds to wait before what failed there is tried again."""
    return WAITS if is_remote(place) else LOCAL_WAITS


def in_words(error: BaseException) -> str:
    """Give kind and first line of an error."""
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}".rstrip(".: ")


def advice(error: BaseException) -> str:
    """Say what to do about an error of a store."""
    names = " ".join(_names(error))
    if status_of(error) in (401, 403) or REFUSED.search(names):
        return (
            "Give credentials that may do this, to this process and to all workers, "
            "or use another URL."
        )
    if may_pass(error):
        return "It was tried several times. Look whether the server is there."
    return "Look whether the URL is right."


def may_pass(error: BaseException) -> bool:
    """Whether an error may be gone at the next try."""
    if isinstance(error, (*LASTING, Unreachable)):
        return False
    status = status_of(error)
    if status is not None:
        return status >= 500 or status in BUSY
    if any(map(LASTING_NAMES.search, _names(error))):
        return False
    if isinstance(error, OSError) and error.errno in LASTING_NUMBERS:
        return False
    return is_of_store(error)


def is_of_store(error: BaseException) -> bool:
    """Whether an error tells of a file system or server, not of what was read there."""
    package = type(error).__module__.partition(".")[0]
    known = isinstance(error, (OSError, NotImplementedError))
    return known or package not in NO_STORES


def _names(error: BaseException) -> Iterator[str]:
    """Names of the classes of an error that a library has made."""
    for kind in type(error).__mro__:
        if kind.__module__ != "builtins" or kind is PermissionError:
            yield kind.__name__


def status_of(error: BaseException) -> int | None:
    """Find the status of HTTP in what libraries raise, or what that came from."""
    for known in filter(None, (error, error.__cause__)):
        response = getattr(known, "response", None)
        if isinstance(response, dict):  # botocore
            found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:
            named = (getattr(known, name, None) for name in ("status", "code"))
            found = next(filter(None, named), getattr(known, "status_code", None))
        if str(found).isdecimal() and 400 <= int(found) < 600:
            return int(found)
        # obstore tells it in words alone
        if words := re.search(r"status(?: code)?:? ([45]\d\d)\b", str(known)):
            return int(words[1])
    return None
