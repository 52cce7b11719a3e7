"""Objects that travel to workers, and say so there where they cannot be made again.

A worker that lacks a package of the client's fails where it takes the message with a
task apart, before there is a task that could fail: it ends, and the client waits for
ever. What travels as bytes is taken apart by the task.
"""

from __future__ import annotations

import os
import socket
from typing import Any

import cloudpickle


class Portable:
    """An object, and its bytes where it has travelled.

    Parameters
    ----------
    value : object
    name : str
        What errors call it.
    """

    def __init__(self, value: Any, name: str) -> None:
        self._value, self._name = value, name
        self._packed: bytes | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as bytes, also from where the object could not be made again."""
        packed = self._packed or cloudpickle.dumps(self._value)
        return _arrived, (packed, self._name)

    @property
    def value(self) -> Any:
        """The object.

        Raises
        ------
        ImportError
            If a package is missing here.
        """
        packed = self._packed
        if packed is not None:
            try:
                self._value = cloudpickle.loads(packed)
            except ImportError as error:
                raise ImportError(
                    f"{self._name} cannot be used by process {os.getpid()} on "
                    f"{socket.gethostname()}: {error}. Install what is missing where "
                    "all workers find it, and start them again."
                ) from None
            self._packed = None
        return self._value


def _arrived(packed: bytes, name: str) -> Portable:
    found = Portable(None, name)
    found._packed = packed
    return found
