"""Hierarchical k-means of the features of arrays larger than memory, on Dask."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hkmeans_dask.estimator import HierarchicalKMeans

__all__ = ["HierarchicalKMeans", "__version__"]

__version__ = version("hkmeans_dask")


def __getattr__(name: str) -> Any:
    """Import the estimator when it is first asked for, so ``--help`` need not wait."""
    if name == "HierarchicalKMeans":
        from hkmeans_dask.estimator import HierarchicalKMeans

        return HierarchicalKMeans
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
