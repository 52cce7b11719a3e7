"""What a method is given, and what is known about a method."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OURS = "hkmeans_dask"


@dataclass(frozen=True)
class Job:
    """One thing to do."""

    X: Any
    """ndarray, zarr.Array or dask array of shape (n_features, n_samples)."""

    n_clusters: int
    seed: int

    model: Path
    """A saved model of X, where the benchmark is about using one."""

    output: Path
    """Where a method may write one array."""


@dataclass(frozen=True)
class Method:
    """Ours, a peer, or a limit."""

    call: Callable[[Job], Any]
    """Returns labels, as an array or dask array, or None."""

    distribution: str = OURS
    """What must be installed."""

    @property
    def available(self) -> bool:
        """Whether it is installed; our own may be run from a checkout."""
        return self.distribution == OURS or installed(self.distribution) is not None


def installed(distribution: str) -> str | None:
    """Version of a distribution, None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
