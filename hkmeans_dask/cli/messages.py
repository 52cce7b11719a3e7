"""What a command says on stderr: one line for each warning, note and error.

Bad input is told from faults of this program by how an error was raised. Whoever looks
at what was given and refuses it has a ``raise`` statement; what goes wrong in the
middle of an expression was not foreseen.
"""

from __future__ import annotations

import linecache
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import click

import hkmeans_dask
from hkmeans_dask.runtime.progress import write

if TYPE_CHECKING:
    from types import TracebackType

PROGRAM = "hkmeans-dask"
FAULT = 1
BAD_INPUT = 2

OURS = str(Path(hkmeans_dask.__file__).parent)


def say(kind: str, text: str) -> None:
    """Write one line to stderr."""
    write(f"{PROGRAM}: {kind}: {' '.join(printable(text).split())}")


def printable(text: str) -> str:
    """Replace what is no text in names of files."""
    return text.encode(errors="replace").decode()


def show_warning(
    message: Warning | str, category: type[Warning], *_: object, **__: object
) -> None:
    """Write a warning in one line, but none that is for programmers."""
    if not issubclass(category, (DeprecationWarning, PendingDeprecationWarning)):
        say("warning", str(message))


def say_error(error: Exception, *, debug: bool) -> int:
    """Say what is wrong in one line, after the traceback if asked to.

    Returns
    -------
    code : int
        2 for bad input, 1 for a fault of this program.
    """
    if debug:
        write("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, click.ClickException):
        say("error", error.format_message())
        return BAD_INPUT
    if _is_foreseen(error):
        say("error", str(error) or type(error).__name__)
        return BAD_INPUT
    told = "" if debug else " --debug shows where."
    kind = type(error).__name__
    say("error", f"this is a fault of {PROGRAM} itself, {kind}: {error}.{told}")
    return FAULT


def _is_foreseen(error: Exception) -> bool:
    """Whether an error is about what was given, or about this machine."""
    if isinstance(error, (OSError, ImportError, MemoryError)):
        return True
    if not isinstance(error, (ValueError, TypeError)) or error.__traceback__ is None:
        return False
    file, line = _origin(error.__traceback__)
    source = linecache.getline(file, line).lstrip()
    raised = not source or source.startswith("raise ")
    return raised and (isinstance(error, ValueError) or file.startswith(OURS))


def _origin(trace: TracebackType) -> tuple[str, int]:
    """File and line where an error was raised, on whatever worker."""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame.f_code.co_filename, trace.tb_lineno
