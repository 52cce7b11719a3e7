"""What a store tells is asked for once, while one call looks at it again and again."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Told = dict[str, tuple[Any, ...]]

_known: ContextVar[dict[Any, tuple[Any, Told]] | None] = ContextVar(
    "known", default=None
)
"""By place: the array that was asked for, which keeps what the place names, and what
was told of it."""


@contextmanager
def asked_once() -> Iterator[None]:
    """Let stores be listed once inside, as they were at first."""
    reset = _known.set({})
    try:
        yield
    finally:
        _known.reset(reset)


def once(listing: Callable[[Any], Told]) -> Callable[[Any], Told]:
    """Make what lists a store do so once for each array; see `asked_once`."""

    @functools.wraps(listing)
    def told(array: Any) -> Told:
        known = _known.get()
        if known is None:
            return listing(array)
        place = _place(array)
        if place not in known:
            known[place] = (array, listing(array))
        return known[place][1]

    return told


def _place(array: Any) -> Any:
    """Tell where an array is: of a folder that may have been opened twice, its path."""
    store = array.store
    root = getattr(store, "root", None)
    if isinstance(root, Path):
        return root.absolute(), array.path
    return id(getattr(store, "fs", store)), getattr(store, "path", ""), array.path
