"""A process that is a command's alone: it begins and ends as fast as it can.

While modules are imported, Python's collector walks through all that is there again and
again, and once more when the process ends: a fifth of what it takes to start.
"""

from __future__ import annotations

import gc
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING

from hkmeans_dask.compat import lean_imports

if TYPE_CHECKING:
    from collections.abc import Iterator

_alone = ContextVar("_alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """Import leanly inside, and leave what is there at the end to the system."""
    token = _alone.set(True)
    gc.disable()
    try:
        with lean_imports("sparse", "xarray"):
            yield
    finally:
        collect_later_garbage()
        _alone.reset(token)


def import_estimator() -> None:
    """Import what all but the last commands need; what comes now may be garbage."""
    with lean_imports("pandas") if _alone.get() else nullcontext():
        import hkmeans_dask.estimator  # noqa: F401
    if _alone.get():
        collect_later_garbage()


def collect_later_garbage() -> None:
    """Look for garbage again, but not in what is there now."""
    gc.freeze()
    gc.enable()
