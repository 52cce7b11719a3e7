"""Parameters that no X could make right are refused here, before X is looked at."""

from __future__ import annotations

import os
import re
import warnings
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np

from hkmeans_dask.kmeans.finite import unmasked
from hkmeans_dask.kmeans.kernels import to_unit
from hkmeans_dask.remote.objects import resolve

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.kernels import Array

INITS = ("k-means++", "random")
METRICS = ("euclidean", "cosine")
LEVELS = ("fine", "coarse")
CLUSTER, COARSE_CLUSTER = "cluster", "coarse_cluster"
"""The dimensions that `transform` gives, by level."""

ALLOCATIONS = ("size", "inertia")
MISSING = ("error", "exclude")
URL = re.compile(r"[a-zA-Z][\w+.:-]+:/")
"""How URLs begin, chains of them, and those that `pathlib` took a slash from."""


def arithmetic_dtype(dtype: np.dtype[Any], name: str = "X") -> np.dtype[Any]:
    """Return float32 for float32 and what it holds exactly, else float64."""
    if dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} has dtype {dtype}.")
    if dtype.kind not in "biuf":
        raise ValueError(
            f"{name} has dtype {dtype}, which is no number type. Convert it."
        )
    wide = np.result_type(dtype, np.float32)
    return np.dtype(np.float32 if wide == np.float32 else np.float64)


def at_most_features(
    n_clusters: int, n_features: int, which: str = "", *, stacklevel: int = 5
) -> int:
    """Cut `n_clusters` to the number of features (of those `which`), and warn."""
    if n_clusters > n_features:
        warnings.warn(
            f"n_clusters should be at most the number of features{which}. Taking "
            f"n_clusters = {n_features} instead.",
            stacklevel=stacklevel,
        )
    return min(int(n_clusters), n_features)


def check_size(shape: tuple[int, ...], feature_axis: int) -> None:
    """Refuse fewer than two features or no sample, in scikit-learn's words."""
    given = shape if feature_axis == 0 else shape[::-1]
    for name, found, least in (("feature", shape[0], 2), ("sample", shape[1], 1)):
        if found < least:
            raise ValueError(
                f"Found array with {found} {name}(s) (shape={given}) while a minimum "
                f"of {least} is required by HierarchicalKMeans."
            )


def check_parameters(parameters: dict[str, Any]) -> None:
    """Refuse parameter values that no X could make right."""
    _check_count("n_clusters", parameters["n_clusters"])
    for name in ("batch_size", "n_init"):
        _check_count(name, parameters[name])
    for name in ("max_no_improvement", "max_features_per_cluster"):
        if parameters[name] is not None:
            _check_count(name, parameters[name], ", or None")
    refine = parameters["refine"]
    if not _is_whole(refine) or refine < 0:
        raise ValueError(
            f"refine should be an integer of at least 0. {refine!r} was given."
        )
    if not isinstance(parameters["nested"], (bool, np.bool_)):
        raise ValueError(
            f"nested should be True or False. {parameters['nested']!r} was given."
        )
    balance = parameters["balance"]
    if not _is_real(balance) or not 0 <= balance <= 1:
        raise ValueError(f"balance should be from 0.0 to 1.0. {balance!r} was given.")
    seed = parameters["random_state"]
    if isinstance(seed, (int, np.integer)) and not 0 <= seed < 2**32:
        raise ValueError(
            f"random_state should be an integer from 0 to 2**32 - 1. {seed} was given."
        )
    if parameters["work_dir"] is not None:
        _check_place(os.fsdecode(parameters["work_dir"]))
    if isinstance(parameters["init"], str):
        _check_option("init", parameters["init"], INITS, " or an array")
    _check_option("allocation", parameters["allocation"], ALLOCATIONS)
    _check_option("metric", parameters["metric"], METRICS)
    _check_option("missing", parameters["missing"], MISSING)
    if not isinstance(parameters["feature_axis"], str):
        otherwise = " or the name of a dimension"
        _check_option("feature_axis", parameters["feature_axis"], (0, 1), otherwise)


def _check_place(place: str) -> None:
    """Refuse a URL that pathlib has spoiled, or that `resolve` does."""
    if not URL.match(place) or place.startswith("file://"):
        return
    if "://" not in place or "::" in place:
        raise ValueError(
            "work_dir should be a folder, or the plain URL of one as a str "
            f"('s3://bucket/work'). {place!r} was given."
        )
    resolve(place)


def check_container(container: str, level: str, *, lazy: bool) -> None:
    """Refuse what the container that `set_output` asks for cannot hold."""
    if level == "coarse":
        raise TypeError(
            f"transform output {container!r} has the names of small clusters. Call "
            "set_output(transform='default') for level='coarse'."
        )
    if lazy:
        raise TypeError(
            f"transform output {container!r} holds all values, but X is lazy. "
            "Call set_output(transform='default') to get a dask array."
        )


def check_level(level: Any) -> None:
    """Refuse a level that is not one of the two."""
    _check_option("level", level, LEVELS)


def _check_count(name: str, value: Any, otherwise: str = "") -> None:
    if not _is_whole(value) or value <= 0:
        raise ValueError(
            f"{name} should be an integer greater than 0{otherwise}. "
            f"{value} was provided."
        )


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(
        value, bool
    )


def _check_option(
    name: str, value: Any, options: tuple[Any, ...], otherwise: str = ""
) -> None:
    if isinstance(value, bool) or value not in options:
        allowed = " or ".join(map(repr, options))
        raise ValueError(f"{name} should be {allowed}{otherwise}. {value!r} was given.")


def check_init(init: Any, n_clusters: int, n_samples: int) -> Array | None:
    """Take `init` as an array of centers, or as None when it names a method."""
    if isinstance(init, str):
        return None
    if isinstance(init, da.Array):
        init = da.map_blocks(unmasked, init, "init", dtype=init.dtype).compute()
    from sklearn.utils.validation import check_array  # parameters need not wait for it

    unmasked(init, "init")
    if getattr(init, "dtype", np.dtype(object)).kind != "O":
        arithmetic_dtype(init.dtype, "init")
    try:
        centers: Array = check_array(init, dtype="numeric", input_name="init")
    except ValueError as error:
        raise ValueError(
            "init should be 'k-means++' or 'random' or an array of shape (n_clusters, "
            f"n_samples): {error}"
        ) from error
    if centers.shape != (n_clusters, n_samples):
        raise ValueError(
            f"init has shape {centers.shape}, but should have shape (n_clusters, "
            f"n_samples) = {(n_clusters, n_samples)}: one row per initial center."
        )
    return centers


def check_directions(init: Array | None) -> Array | None:
    """Scale given centers to unit length, as the cosine metric wants them."""
    if init is None:
        return None
    centers, lengths = to_unit(np.asarray(init, arithmetic_dtype(init.dtype)))
    if not lengths.all():
        raise ValueError(
            f"init has zeros only in row {int(lengths.argmin())}, which is no "
            "direction. Give other centers, or take metric='euclidean'."
        )
    return centers
