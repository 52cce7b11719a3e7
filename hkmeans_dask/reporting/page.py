"""The report of a fitted model: one HTML page that needs no network and no script.

What the page says is collected here, where its marks are is worked out in `charts`, and
the templates draw it, with every value escaped. The same model gives the same page.
"""

from __future__ import annotations

import inspect
import math
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import fsspec
import jinja2
import numpy as np

from hkmeans_dask.reporting import charts
from hkmeans_dask.reporting.advice import advise

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence


CENTERS_SHOWN = 24
EXTREMES = 5
"""Largest, and smallest, clusters that are named."""

PHASES = {
    "copy": ("copies X into files of whole features", 1),
    "sample": ("keeps training rows and looks for NaN and infinities", 1),
    "coarse": ("finds the big clusters", 0),
    "partition": ("regroups the training rows by big cluster", 0),
    "fine": ("finds the small clusters in each big one", 0),
    "even": ("makes sizes even among all small clusters", 0),
    "rows": ("moves small clusters beyond their big one, on training rows", 0),
    "refine": ("lets features look beyond their big cluster", 0),
    "label": ("labels every feature", 1),
}
"""What each phase of `fit` does, and its passes; what is left refines."""


class Phase(NamedTuple):
    """One row of the table of phases."""

    name: str
    text: str
    seconds: float
    share: float
    """Of the longest phase."""
    reads: int


class Parameter(NamedTuple):
    """One row of the table of parameters."""

    name: str
    value: str
    is_default: bool


class Cluster(NamedTuple):
    """One row of the tables of clusters."""

    number: int
    n_features: int
    share: float
    parent: int
    deviation: float | None
    """Mean squared distance to the center; None in early models."""


class BigCluster(NamedTuple):
    """One row of the table of big clusters."""

    number: int
    hue: int
    n_clusters: int
    n_features: int
    share: float
    inertia_share: float | None


class Center(NamedTuple):
    """One center, drawn."""

    cluster: Cluster
    hue: int
    drawing: str
    """Points of a polyline, or the data URL of an image."""


def write(
    model: Any,
    path: str | os.PathLike[str],
    shape: tuple[int, ...] | None,
    *,
    overwrite: bool,
) -> None:
    """Write the page; see `HierarchicalKMeans.report`."""
    from hkmeans_dask.storage import outputs

    page = render(model, shape)
    with (
        outputs.writing(path, overwrite=overwrite) as place,
        fsspec.open(place, "w", encoding="utf-8") as file,
    ):
        file.write(page)


def render(model: Any, shape: tuple[int, ...] | None = None) -> str:
    """Make the page of a fitted model.

    Parameters
    ----------
    model : HierarchicalKMeans, fitted
    shape : tuple of int, optional
        Of a center as an image.

    Raises
    ------
    ValueError
        If `shape` is no shape of an image with `n_samples` values.
    """
    if shape is not None:
        charts.check_shape(shape, model.cluster_centers_.shape[1])
    sizes, parents, big = model.sizes_, model.parents_, model.coarse_sizes_
    spread = sizes.min() < sizes.max()
    coarse_inertia = model.coarse_inertia_ if _has_inertia(model) else None
    return _template("report.html").render(
        fit=summary(model),
        advice=advise(model),
        parameters=_parameters(model),
        given=model._origin["input"],
        seed=model._origin["seed"],
        read_bytes=_read_bytes(model),
        phases=_phases(model._seconds, model.n_passes_),
        peak_memory=model._origin.get("peak_memory"),
        feature_names=list(getattr(model, "feature_names_in_", ())),
        histogram=charts.histogram(sizes) if spread else None,
        extremes=_extremes(model),
        has_inertia=coarse_inertia is not None,
        shares=charts.shares(big, coarse_inertia),
        big_clusters=_big_clusters(model),
        map=charts.map_of_centers(model.cluster_centers_, sizes, parents, big),
        centers=_centers(model, shape),
        shape=shape,
        version=version("hkmeans_dask"),
    )


def fit_table(model: Any) -> str:
    """Make the small table of a fit that Jupyter shows below the diagram."""
    return _template("fit.html").render(fit=summary(model))


def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("hkmeans_dask.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": lambda value: f"{value:,}",
        "percent": _percent,
        "figure": _figure,
        "seconds": lambda value: f"{value:,.2f} s",
        "bytes": _bytes,
        "place": lambda value: f"{value:.2f}".rstrip("0").rstrip("."),
    }
    return environment.get_template(name)


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or not share else "< 0.1%"


def _figure(value: float) -> str:
    """Write four digits, or a whole number where it has more."""
    return f"{value:,.0f}" if 1e4 <= value < 1e9 else f"{value:,.4g}"


def _bytes(n_bytes: float) -> str:
    """Write bytes with the prefix that leaves one to three digits before the point.

    Examples
    --------
    >>> _bytes(408_360_960)
    '389 MiB'
    """
    power = min(5, int(math.log2(n_bytes or 1) // 10))
    unit = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")[power]
    value = n_bytes / 1024**power
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def summary(model: Any) -> dict[str, Any]:
    """Collect the figures of a fit, by name."""
    sizes = model.sizes_
    return {
        "n_clusters": model.n_clusters_,
        "n_big": len(model.coarse_centers_),
        "n_features": int(sizes.sum()),
        "n_excluded": model.n_excluded_,
        "why_excluded": _why_excluded(model),
        "n_samples": model.cluster_centers_.shape[1],
        "smallest": int(sizes.min()),
        "median": float(np.median(sizes)),
        "largest": int(sizes.max()),
        "inertia": model.inertia_,
        "imbalance": model.imbalance_,
        "reads": model.n_passes_,
        "seconds": sum(model._seconds.values()) if model._seconds else None,
    }


def _why_excluded(model: Any) -> str:
    """Say what features are like that a fit left out."""
    reasons = []
    if model.missing == "exclude":
        reasons.append("have NaN or infinities")
    if model.metric == "cosine":
        reasons.append("are zeros, which have no direction")
    return " or ".join(reasons)


def _has_inertia(model: Any) -> bool:
    return hasattr(model, "cluster_inertia_")


def _parameters(model: Any) -> list[Parameter]:
    signature = inspect.signature(type(model)).parameters
    values = model.get_params(deep=False)
    return [
        Parameter(name, _shown(values[name]), _equal(values[name], parameter.default))
        for name, parameter in signature.items()
    ]


def _equal(value: Any, default: Any) -> bool:
    return type(value) is type(default) and bool(value == default)


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"array of centers, {' x '.join(map(str, value.shape))} {value.dtype}"
    return str(value)


def _read_bytes(model: Any) -> int:
    """Bytes of X, uncompressed."""
    given = model._origin["input"]
    return int(math.prod(given["shape"]) * np.dtype(given["dtype"]).itemsize)


def _phases(seconds: dict[str, float], n_passes: int) -> list[Phase]:
    longest = max(seconds.values(), default=0) or 1
    known = {name: PHASES.get(name, ("", 0)) for name in seconds}
    left = n_passes - sum(passes for _, passes in known.values())
    return [
        Phase(name, text, seconds[name], seconds[name] / longest, passes)
        for name, (text, known_passes) in known.items()
        for passes in [left if name == "refine" else known_passes]
    ]


def _cluster(model: Any, number: int) -> Cluster:
    size = int(model.sizes_[number])
    deviation = _deviation(model, number, size) if _has_inertia(model) else None
    share = size / model.sizes_.sum()
    return Cluster(number, size, share, int(model.parents_[number]), deviation)


def _deviation(model: Any, number: int, size: int) -> float:
    """Inertia per feature; 0 where it is no more than the rounding of the center."""
    center = model.cluster_centers_[number].astype(np.float64)
    rounded = (2 * np.finfo(model.cluster_centers_.dtype).eps) ** 2 * (center @ center)
    deviation = float(model.cluster_inertia_[number]) / size
    return deviation if deviation > rounded else 0.0


def _extremes(model: Any) -> dict[str, list[Cluster]]:
    """Name the largest and the smallest clusters, none of them twice."""
    order = np.argsort(-model.sizes_, kind="stable").tolist()
    most = min(EXTREMES, len(order) // 2)
    if not most:
        return {}
    ends = {"Largest": order[:most], "Smallest": order[: -most - 1 : -1]}
    return {
        name: [_cluster(model, number) for number in numbers]
        for name, numbers in ends.items()
    }


def _big_clusters(model: Any) -> list[BigCluster]:
    """Describe big clusters, largest first, no more than the chart has."""
    sizes, children = model.coarse_sizes_, model._by_big()
    share = sizes / sizes.sum()
    inertia_share: Sequence[float | None] = [None] * len(sizes)
    if _has_inertia(model):
        inertia = model.coarse_inertia_
        inertia_share = inertia / (inertia.sum() or 1)
    hue = charts.hues(sizes)
    order = np.argsort(-sizes, kind="stable")[: charts.BIG_SHOWN].tolist()
    return [
        BigCluster(b, hue[b], children[b], sizes[b], share[b], inertia_share[b])
        for b in order
    ]


def _centers(model: Any, shape: tuple[int, ...] | None) -> list[Center]:
    chosen = charts.typical(model.sizes_, model.parents_, CENTERS_SHOWN)
    values = model.cluster_centers_[chosen]
    drawings = charts.curves(values) if shape is None else charts.images(values, shape)
    hue = charts.hues(model.coarse_sizes_)
    return [
        Center(cluster, hue[cluster.parent], drawing)
        for number, drawing in zip(chosen.tolist(), drawings, strict=True)
        for cluster in [_cluster(model, number)]
    ]
