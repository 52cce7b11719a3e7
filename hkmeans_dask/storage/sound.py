"""Whether what is at a URL is a whole model: what it tells, and how its arrays fit.

A store may be cut off, altered, or written by another program. What is wrong is said in
one line before anything is made of it.
"""

from __future__ import annotations

from contextlib import contextmanager
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import numpy as np

from hkmeans_dask.kmeans.pruning import NO_AXES
from hkmeans_dask.workspace.plain import is_file_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from hkmeans_dask.kmeans.kernels import Array

ORTHONORMAL = 1e-4
"""How far products of axes may be from those of orthonormal ones, by rounding."""

TOLD: dict[str, Any] = {
    "hkmeans_dask": str,
    "parameters": dict,
    "fitted": dict,
    "feature_names_in": list,
    "lazy_labels": bool,
    "input": dict,
    "seed": Integral,
    "parameters.n_clusters": Integral,
    "parameters.init": (str, type(None)),
    "parameters.feature_axis": (Integral, str),
    "parameters.metric": str,
    "parameters.scaling": bool,
    "fitted.inertia": Real,
    "fitted.n_clusters": Integral,
    "fitted.n_features_in": Integral,
    "fitted.n_passes": Integral,
    "input.shape": list,
    "input.dtype": str,
    "input.fingerprint": (str, type(None)),
}
"""Attributes of a model and their kinds; those of an attribute are behind a dot."""


@contextmanager
def damage_told(url: str) -> Iterator[None]:
    """Say in one line what cannot be read, whatever altered metadata make of it."""
    try:
        yield
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        kind = type(error).__name__
        raise ValueError(f"{url} is damaged ({kind}: {error}).") from error


def check_told(url: str, attributes: dict[str, Any]) -> None:
    """Refuse a model that does not tell what it should.

    Raises
    ------
    ValueError
    """
    for name, kind in TOLD.items():
        value: Any = attributes
        for part in name.split("."):
            value = value.get(part, Ellipsis) if isinstance(value, dict) else Ellipsis
        number = kind is not bool and isinstance(value, bool)
        if number or not isinstance(value, kind):
            said = "is missing" if value is Ellipsis else f"is {value!r}"
            raise ValueError(f"{url} is damaged: {name} of the model {said}.")
    given = attributes["input"]
    if not all(map(_is_amount, given["shape"])) or not _is_dtype(given["dtype"]):
        raise ValueError(f"{url} is damaged: input of the model is {given}.")
    seconds, peak = attributes.get("seconds", {}), attributes.get("peak_memory", 0)
    if not isinstance(seconds, dict) or not all(map(_is_amount, seconds.values())):
        raise ValueError(f"{url} is damaged: seconds of the model are no numbers.")
    if not _is_amount(peak):
        raise ValueError(f"{url} is damaged: peak_memory of the model is {peak!r}.")


def _is_dtype(name: str) -> bool:
    try:
        return np.dtype(name).kind in "biuf"
    except TypeError:
        return False


def _is_amount(value: Any) -> bool:
    return isinstance(value, Real) and 0 <= float(value) < float("inf")


def check_files(url: str, paths: Iterable[Path], most: int) -> None:
    """Refuse what is no plain file, or one of more bytes than it may have.

    Raises
    ------
    ValueError
    """
    for path in paths:
        if not path.is_dir() and not is_file_of(path, most):
            raise ValueError(
                f"{url} is damaged: {path} is no file of at most {most} bytes."
            )


def check_shapes(url: str, arrays: dict[str, Any], fitted: dict[str, Any]) -> None:
    """Refuse arrays that are missing or whose shapes do not fit; reads nothing.

    Raises
    ------
    ValueError
    """
    wrong = next(_misfits(arrays, fitted), None)
    if wrong is not None:
        raise ValueError(f"{url} is damaged: {wrong}.")


def check_values(url: str, arrays: dict[str, Any], *, excludes: bool) -> None:
    """Refuse values that do not fit each other.

    Features may be left out, in no cluster, only where the model `excludes` some.

    Raises
    ------
    ValueError
    """
    wrong = next(_wrong_values(arrays, excludes), None)
    if wrong is not None:
        raise ValueError(f"{url} is damaged: {wrong}.")


def check_labels(labels: Array, url: str, least: int, stop: int) -> Array:
    """Give labels back if they are clusters, or -1 where `least` is that.

    Raises
    ------
    ValueError
    """
    for wrong in _out_of_range("labels", labels, least, stop):
        raise ValueError(f"{url} is damaged: {wrong}.")
    return labels


def _misfits(arrays: dict[str, Any], fitted: dict[str, Any]) -> Iterator[str]:
    n_clusters, n_features = fitted["n_clusters"], fitted["n_features_in"]
    centers, coarse = arrays.get("cluster_centers"), arrays.get("coarse_centers")
    if centers is None or coarse is None or centers.ndim != 2 or coarse.ndim != 2:
        yield "its centers are missing"
        return
    n_dims, n_big = centers.shape[1], coarse.shape[0]
    shapes = {
        "labels": ((n_features,), "i"),
        "sizes": ((n_clusters,), "i"),
        "cluster_centers": ((n_clusters, n_dims), "f"),
        "coarse_centers": ((n_big, n_dims), "f"),
        "parents": ((n_clusters,), "i"),
        "offset": ((n_dims,), "f"),
    }
    priced = {"prices": ((n_clusters,), "f"), "coarse_prices": ((n_big,), "f")}
    shapes |= {name: shape for name, shape in priced.items() if name in arrays}
    for name, (shape, kind) in shapes.items():
        array = arrays.get(name)
        if array is None:
            yield f"the array {name} is missing"
        elif array.shape != shape or array.dtype.kind != kind:
            yield f"the array {name} has shape {array.shape} and dtype {array.dtype}"
    compared = arrays.get("compared")
    if compared is None or compared.ndim != 2 or compared.shape[0] not in (0, 1, n_big):
        yield "the array compared is missing or has another shape"
        return
    axes = arrays.get("axes")
    if axes is None:
        return
    if axes.ndim != 2 or not axes.shape[1] <= axes.shape[0] == n_dims:
        yield f"the array axes has shape {axes.shape}"
    elif axes.size and (axes.dtype != centers.dtype or compared.shape[0] != 1):
        yield "its axes are not those of its centers"


def _wrong_values(arrays: dict[str, Any], excludes: bool) -> Iterator[str]:
    sizes, n_big = arrays["sizes"], len(arrays["coarse_centers"])
    n_excluded = len(arrays["labels"]) - int(sizes.sum())
    if np.any(sizes < 1) or n_excluded < 0 or (n_excluded and not excludes):
        yield "its sizes are not those of its features"
    yield from _out_of_range("parents", arrays["parents"], 0, n_big)
    yield from _out_of_range("compared", arrays["compared"], -1, len(sizes))
    axes = arrays.get("axes", NO_AXES)
    if not np.allclose(axes.T @ axes, np.eye(axes.shape[1]), atol=ORTHONORMAL):
        yield "its axes are not orthonormal"


def _out_of_range(name: str, values: Array, least: int, stop: int) -> Iterator[str]:
    if values.dtype.kind != "i" or np.any((values < least) | (values >= stop)):
        yield f"the array {name} has values that are no clusters"
